"""The example Pod of the docs, run as kubelet would: what `make demo-pod` shows.

It makes kubelet's calls to a private containerd, prints the pod's log, its address, what it answers to
a request from the host, and both kernels, and leaves nothing behind.
"""

import argparse
import http.client
import platform
import sys
import time
from pathlib import Path
from typing import Final

from lab import manifest
from lab.command import LabError
from lab.containerd import PrivateContainerd
from lab.cri import Cri
from lab.images import BUSYBOX, PAUSE
from lab.manifest import Manifest
from lab.paths import CHECKOUT
from lab.progress import CONSOLE, step
from lab.release import LINES, find_release
from lab.runtimes import KATA

_EXAMPLE: Final = CHECKOUT / "docs/examples/pod.yaml"
_ANSWER_TIMEOUT_S: Final = 60.0


def run_pod(cri: Cri, wanted: Manifest) -> None:
    """Run a pod to a request's answer, show all of it, and remove the pod.

    Raises `LabError` when it cannot run or does not answer; the pod is gone then, too.
    """
    try:
        with step(f"pod {wanted.pod.name} (runtimeClassName: {wanted.handler})"):
            pod = cri.run_pod(wanted.pod, wanted.handler)
            ids = [cri.run(pod, container) for container in wanted.containers]
        (address, *_) = cri.pod_ips(pod)
        CONSOLE.print(f"address:      {address}", markup=False)
        for port in wanted.ports:
            answer = _ask(address, port)
            CONSOLE.print(f"http://{address}:{port}/ answers: {answer}", markup=False)
        for container in wanted.containers:
            log = cri.log_path(pod, container.name).read_text()
            CONSOLE.print(f"log of {container.name}:", markup=False)
            CONSOLE.print("".join(f"  {line}\n" for line in log.splitlines()), markup=False, end="")
        kernel = cri.sh(ids[0], "uname -r").strip()
        CONSOLE.print(f"host kernel:  {platform.release()}", markup=False)
        CONSOLE.print(f"guest kernel: {kernel}", markup=False)
    finally:
        with step("remove the pod"):
            cri.remove_all_pods()


def _ask(address: str, port: int) -> str:
    """Return what the pod answers to GET /, once its server listens."""
    deadline = time.monotonic() + _ANSWER_TIMEOUT_S
    while True:
        connection = http.client.HTTPConnection(address, port, timeout=10)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode().strip()
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                raise LabError(f"http://{address}:{port}/ does not answer: {error}") from error
            time.sleep(0.05)
        finally:
            connection.close()


def main() -> int:
    """Run the pod of a manifest; returns the exit code."""
    parser = argparse.ArgumentParser(prog="lab.demo_pod", description="Run a Pod in a VM.")
    parser.add_argument("manifest", nargs="?", type=Path, default=_EXAMPLE)
    parser.add_argument("--containerd", choices=list(LINES), default="1.6", metavar="LINE")
    options = parser.parse_args()
    try:
        if reason := KATA.unavailable():
            raise LabError(reason)
        wanted = manifest.load(options.manifest)
        release = find_release(options.containerd)
        with PrivateContainerd(release, cri=True) as daemon, Cri(daemon) as cri:
            with step(f"private containerd {release.version} with its CRI plugin"):
                for image in (PAUSE, BUSYBOX):
                    cri.load_image(image)
            run_pod(cri, wanted)
    except (LabError, OSError) as error:
        CONSOLE.print(str(error), style="red", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
