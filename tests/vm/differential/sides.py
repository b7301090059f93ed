"""The two runtimes that a specification is run under: runc on this machine, and ours in its guest."""

import ast
import json
import os
import re
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lab.bundle import Bundle
from lab.debian import Suite
from lab.release import version_of

from kata_api import any as packed
from kata_api import task
from kata_api.containerd import task_pb2 as pb
from kata_api.containerd.runtime_options_pb2 import Options
from kata_api.containerd.types_pb2 import Mount
from ttrpc import RpcError
from ttrpc.client import Client

CGROUP: Final = "kata-differential"
"""The cgroup above those of all containers."""

_TIMEOUT_S: Final = 60
_REPORT: Final = re.compile(r"<<(.*)>>", re.DOTALL)
# The newest runc first: the older ones ignore what they do not know.
_RUNC_SUITES: Final = ("testing", "bookworm")
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"


_PARSING: Final = threading.Lock()
"""CPython 3.11 counts the depth of what it parses for all threads in one (`SystemError`)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended: with the probe's report, or with an error."""

    report: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def ended(self) -> str:
        """Tell in a word whether the probe has run."""
        return "runs" if self.report else "refused"


def outcome(output: str, said: str) -> Outcome:
    """Read a report out of a container's output; `said` is what the runtime or program wrote."""
    found = _REPORT.search(output)
    if found is None:
        return Outcome(error=said + output)
    with _PARSING:
        return Outcome(ast.literal_eval(found[1]))


class Layers:
    """The layers of one case's root: the common one, the case's own, and one to write to a side."""

    def __init__(self, folder: Path, base: Path, own: Path) -> None:
        self._lower = f"{own}:{base}"
        self._folder = folder

    def options(self) -> list[str]:
        """Return the options of the overlay, with its two folders made."""
        for name in ("upper", "work"):
            (self._folder / name).mkdir(parents=True)
        return [
            f"lowerdir={self._lower}",
            f"upperdir={self._folder}/upper",
            f"workdir={self._folder}/work",
        ]


class Runc:
    """runc in a mount namespace of its own for each container, which takes the root with it."""

    def __init__(self, folder: Path) -> None:
        self._state = folder / "state"
        self._program, self._libraries = _find_runc()

    def run(self, name: str, spec: dict[str, Any], layers: Layers, folder: Path) -> Outcome:
        """Run a container to its end."""
        (folder / "rootfs").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(spec))
        overlay = f"mount -t overlay -o {','.join(layers.options())} overlay {folder}/rootfs &&"
        if spec.get("process", {}).get("terminal"):
            return self._run_on_terminal(name, overlay, folder)
        # A pipe as its input too: what else it is shows in the container.
        done = subprocess.run(
            [*self._argv(overlay), "run", "--bundle", str(folder), name],
            input=b"",
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        errors = "backslashreplace"
        return outcome(done.stdout.decode(errors=errors), done.stderr.decode(errors=errors))

    def _run_on_terminal(self, name: str, overlay: str, folder: Path) -> Outcome:
        path = f"/run/{CGROUP}.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            Path(path).unlink(missing_ok=True)
            listener.bind(path)
            listener.listen()
            listener.settimeout(_TIMEOUT_S)
            # Not captured: the container keeps these descriptors.
            done = subprocess.run(
                [
                    *self._argv(overlay),
                    *("run", "--detach", "--console-socket", path, "--bundle", str(folder), name),
                ],
                stdin=subprocess.DEVNULL,
                timeout=_TIMEOUT_S,
                check=False,
            )
            Path(path).unlink()
            if done.returncode:
                return Outcome(error="refused")
            with listener.accept()[0] as connection:
                _, (master, *_), _, _ = socket.recv_fds(connection, 4096, 1)
        output = b""
        try:
            while part := os.read(master, 65536):
                output += part
        except OSError:  # EIO: nobody has the other side any more (pty(7))
            pass
        finally:
            os.close(master)
            subprocess.run([*self._argv(""), "delete", "--force", name], check=True)
        return outcome(output.decode(), "")

    def _argv(self, before: str) -> list[str]:
        """Return runc's command line, run after the words of a shell `before`."""
        libraries = f"mount --bind {self._libraries} /{_LIBRARIES} &&" if self._libraries else ""
        # Shared with itself as under systemd, but not with the namespace it comes from.
        script = f'mount --make-rshared / && {before} {libraries} exec {self._program} "$@"'
        namespace = ["unshare", "--mount", "--propagation", "slave"]
        return [*namespace, "sh", "-c", script, "runc", "--root", str(self._state)]

    def close(self) -> None:
        """Remove the cgroup above those of the containers, which runc leaves."""
        for folder, names, _ in os.walk("/sys/fs/cgroup"):  # which passes over those that vanish
            if CGROUP in names:
                Path(folder, CGROUP).rmdir()


def _find_runc() -> tuple[Path, Path | None]:
    """Return the newest runc, and the libraries it needs when the machine's are too old."""
    for suite in map(Suite, _RUNC_SUITES):
        program = suite.unpack(["runc"]) / "usr/sbin/runc"
        if version_of(program):
            return program, None
        libraries = suite.unpack(["libc6", "libseccomp2"]) / _LIBRARIES
        if libraries.is_dir():
            return program, libraries
    raise AssertionError(f"none of {_RUNC_SUITES} has a runc")


class Ours:
    """Our runtime: one shim, and one guest with all containers in it, as in a pod."""

    def __init__(self, sandbox: Bundle, configuration: Path) -> None:
        self._sandbox = sandbox
        self._configuration = configuration
        self._client: Client | None = None

    async def start(self, spec: dict[str, Any], root: Path) -> None:
        """Start the shim, and the guest with the pod's first container."""
        self._sandbox.write(spec)
        self._client = await self._sandbox.connect()
        await self._sandbox.create(self._client, self._configuration, root)
        await self._client.call(task.v2.START, pb.StartRequest(id=self._sandbox.id))

    async def run(self, name: str, spec: dict[str, Any], layers: Layers, folder: Path) -> Outcome:
        """Run a container to its end."""
        assert self._client
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(spec))
        output, errors = folder / "output", folder / "errors"
        terminal = bool(spec.get("process", {}).get("terminal"))
        request = pb.CreateTaskRequest(
            id=name,
            bundle=str(folder),
            rootfs=[Mount(type="overlay", source="overlay", options=layers.options())],
            terminal=terminal,
            stdout=f"file://{output}",
            stderr="" if terminal else f"file://{errors}",
            options=packed.pack(Options(config_path=str(self._configuration))),
        )
        try:
            await self._client.call(task.v2.CREATE, request, timeout=_TIMEOUT_S)
        except RpcError as error:
            return Outcome(error=str(error))
        try:
            await self._client.call(task.v2.START, pb.StartRequest(id=name), timeout=_TIMEOUT_S)
            await self._client.call(task.v2.WAIT, pb.WaitRequest(id=name), timeout=_TIMEOUT_S)
        except RpcError as error:
            return Outcome(error=str(error))
        finally:
            await self._client.call(task.v2.KILL, pb.KillRequest(id=name, signal=9, all=True))
            await self._client.call(task.v2.WAIT, pb.WaitRequest(id=name), timeout=_TIMEOUT_S)
            await self._client.call(task.v2.DELETE, pb.DeleteRequest(id=name), timeout=_TIMEOUT_S)
        said = errors.read_text() if errors.exists() else ""
        return outcome(output.read_text(errors="backslashreplace"), said)

    async def stop(self) -> None:
        """End the guest and the shim."""
        if self._client is None:
            return
        name = self._sandbox.id
        await self._client.call(task.v2.KILL, pb.KillRequest(id=name, signal=9, all=True))
        await self._client.call(task.v2.WAIT, pb.WaitRequest(id=name), timeout=_TIMEOUT_S)
        await self._client.call(task.v2.DELETE, pb.DeleteRequest(id=name), timeout=_TIMEOUT_S)
        await self._sandbox.shut_down(self._client)
        await self._client.close()
