"""One container in a VM, from a checkout: what `make run` and `make shell` show.

It starts a private containerd, runs a container, prints the container's own output and the two
kernels, which differ because the container has one of its own, and leaves nothing running. Where
both are the same release, they still have booted apart.
"""

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path

from lab.command import LabError
from lab.containerd import PrivateContainerd
from lab.images import BUSYBOX
from lab.progress import CONSOLE, step
from lab.release import LINES, find_release
from lab.runtimes import KATA, RUNTIMES, Runtime
from lab.trial import Trial

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SCRIPT = f"uname -a; echo hello from a container; echo $(uname -r), boot $(cat {_BOOT_ID}) >&2"


def run_container(daemon: PrivateContainerd, runtime: Runtime) -> None:
    """Run one container to its end and show its output and both kernels.

    Raises `LabError` when it cannot run.
    """
    with step(f"container under {runtime.shim}"):
        said = Trial(daemon, runtime).hear("sh", "-c", _SCRIPT)
    CONSOLE.print(said.stdout.rstrip(), markup=False)
    host = f"{os.uname().release}, boot {_BOOT_ID.read_text().strip()}"
    CONSOLE.print(f"host kernel:  {host}", markup=False)
    CONSOLE.print(f"guest kernel: {said.stderr.strip()}", markup=False)


def hold_open(daemon: PrivateContainerd, runtime: Runtime) -> None:
    """Keep the daemon for whoever uses it from another terminal, until Ctrl-C or SIGTERM."""
    words = ["run", "--rm", "-t", *runtime.ctr_options, BUSYBOX.name, "my-container", "sh"]
    CONSOLE.print("From another terminal (Ctrl-C here ends it all):", markup=False)
    CONSOLE.print(f"  {shlex.join(daemon.ctr_argv(*words))}", markup=False)
    awaited = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        signal.sigwait(awaited)
        daemon.delete_containers()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)


def main() -> int:
    """Run the container, or hold the daemon open, as the command line says; the exit code."""
    by_shim = {runtime.shim: runtime for runtime in RUNTIMES}
    parser = argparse.ArgumentParser(prog="lab.run", description="Run a container in a VM.")
    parser.add_argument("--runtime", choices=list(by_shim), default=KATA.shim)
    parser.add_argument("--containerd", choices=list(LINES), default="1.6", metavar="LINE")
    parser.add_argument("--hold", action="store_true", help="keep containerd open until Ctrl-C")
    options = parser.parse_args()
    runtime = by_shim[options.runtime]
    try:
        if reason := runtime.unavailable():
            raise LabError(reason)
        release = find_release(options.containerd)
        with PrivateContainerd(release) as daemon:
            with step(f"private containerd {release.version} with image {BUSYBOX.name}"):
                daemon.ctr("image", "import", BUSYBOX.archive())
            (hold_open if options.hold else run_container)(daemon, runtime)
        if not options.hold:
            CONSOLE.print("To try it yourself: make shell", markup=False)
    except LabError as error:
        CONSOLE.print(str(error), style="red", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
