"""A private containerd: own root, state, sockets, namespace and log; never the system's.

It owns the daemon's whole life, and the proof at the end of it that nothing of it is left.
"""

import contextlib
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from lab import cri_config, leftovers, standbys
from lab.command import LabError, Result, ending, run
from lab.leftovers import Leftover, Trace
from lab.paths import BUILD, PREFIX, RUN
from lab.pod_network import PodNetwork
from lab.release import Release

READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
# How long shims and the kernel may take to let go after a container ended, on a busy machine.
CLEAN_TIMEOUT_S: Final = 60.0
LOG_TAIL_LINES: Final = 20
_SYSTEM_PATH: Final = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
)
# How long containerd waits for a shim's answers and for its `delete`: 2 to 5 s unless told, which a
# busy machine exceeds; it then calls a task's state unknown, or kills what cleans up.
_SHIM_TIMEOUT: Final = "60s"
_SHIM_TIMEOUTS: Final = ("shim.cleanup", "shim.load", "shim.shutdown", "task.state")
# The CRI plugin's pods are in this namespace, whatever the daemon.
_CRI_NAMESPACE: Final = "k8s.io"
_CRI_PLUGINS: Final = (
    "io.containerd.grpc.v1.cri",  # both; it serves the interface
    "io.containerd.cri.v1.images",  # 2.x
    "io.containerd.cri.v1.runtime",  # 2.x
)


class PrivateContainerd:
    """One daemon of one release, as a context manager; entering starts it and waits for it.

    Leaving stops it and raises `LeftoverError` if a process, mount, cgroup, socket, file or tap
    device of its own is still there; that is removed first, so that one failure stays one.
    """

    def __init__(self, release: Release, *, prefix: Path = PREFIX, cri: bool = False) -> None:
        self.release = release
        self.namespace = f"lab-{secrets.token_hex(3)}"
        self._prefix = prefix
        self._home = RUN / self.namespace
        self._root = BUILD / "containerd" / self.namespace
        self.address = self._home / "c.sock"
        self.log_path = self._root / "containerd.log"
        self._trace = Trace(
            token=self.namespace,
            state=self._home / "state",
            temporary=self._home / "tmp",
            address=self.address,
            taps_before=leftovers.taps(),
            namespace=_CRI_NAMESPACE if cri else self.namespace,
        )
        self.network = PodNetwork(self.namespace, self._home) if cri else None
        self._container_ids: list[str] = []
        self._daemon: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = "stopped" if self._daemon is None else f"running as {self._daemon.pid}"
        return f"<containerd {self.release.version} in {self._home}, {state}>"

    def __enter__(self) -> Self:
        for folder in (self._home / "tmp", self._home / "opt", self._root):
            folder.mkdir(parents=True)
        self.configuration_path.write_text(self._configuration())
        try:
            if self.network is not None:
                self.network.create()
            self.start()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except LabError as leak:
            if error is None:
                raise
            error.add_note(str(leak))

    @property
    def configuration_path(self) -> Path:
        """The daemon's generated config.toml."""
        return self._home / "config.toml"

    @property
    def logs(self) -> Path:
        """Where pods' log folders are."""
        return self._root / "pods"

    @property
    def pid(self) -> int:
        """The daemon's process id; raises `LabError` when it does not run."""
        if self._daemon is None:
            raise LabError(f"{self!r} does not run")
        return self._daemon.pid

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon, and through it every shim, finds in its environment."""
        folders = [self._prefix / "bin", *self.release.search_path, *_SYSTEM_PATH]
        return {
            "PATH": os.pathsep.join(dict.fromkeys(map(str, folders))),
            "TMPDIR": str(self._trace.temporary),
            "HOME": str(self._home),
            "LANG": "C.UTF-8",
            leftovers.TOKEN_VARIABLE: self.namespace,
        }

    def start(self) -> None:
        """Start the daemon and return once it accepts connections.

        Raises `LabError` with the end of its log when it ends or is not ready after 60 s; it is
        not running then.
        """
        with self.log_path.open("ab") as log:
            self._daemon = subprocess.Popen(
                [self.release.containerd, "--config", self.configuration_path],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(self._daemon)
        except LabError:
            self.kill()
            raise

    def restart(self) -> None:
        """Stop the daemon with SIGTERM and start it again; containers keep running."""
        self._end(signal.SIGTERM)
        self.start()

    def kill(self) -> None:
        """End the daemon with SIGKILL, as a crash would; containers keep running."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the daemon and prove that nothing of its own is left; its log is removed too.

        Raises `LeftoverError`, after everything that was found has been removed.
        """
        try:
            self._end(signal.SIGTERM)
            if standbys.WANTED:
                standbys.drain()
            leftovers.wait_until_clean(repr(self), self.census, CLEAN_TIMEOUT_S)
        finally:
            self._discard()

    def ctr_argv(self, *words: str | Path) -> list[str]:
        """Return the command line that runs this release's `ctr` against this daemon."""
        head = [self.release.ctr, "--address", self.address, "--namespace", self._trace.namespace]
        return [str(word) for word in (*head, *words)]

    def ctr(
        self,
        *words: str | Path,
        stdin: bytes = b"",
        timeout_s: float = 120,
        check: bool = True,
    ) -> Result:
        """Run `ctr` to its end; raises `CommandError` when it fails and `check` is set."""
        return run(
            self.ctr_argv(*words),
            env=self.environment,
            stdin=stdin,
            timeout_s=timeout_s,
            check=check,
        )

    def new_container_id(self, stem: str) -> str:
        """Return a container id that nothing else on the machine has; the census knows it."""
        container_id = f"{self.namespace}-{stem}-{len(self._container_ids) + 1}"
        self._container_ids.append(container_id)
        return container_id

    def watch(self, container_id: str) -> None:
        """Have the census look for a container whose id the daemon gave, too."""
        self._container_ids.append(container_id)

    def watch_logged(self) -> None:
        """Have the census look for every id in the daemon's log: a failed start told no one its."""
        found = re.findall(r"\b[0-9a-f]{64}\b", self.log_path.read_text(errors="replace"))
        self._container_ids += sorted(set(found) - set(self._container_ids))

    def shim_socket(self, container_id: str) -> Path:
        """Return the path at which containerd's convention puts a shim's socket."""
        return self._trace.shim_socket(container_id)

    def shim_pid(self, container_id: str) -> int:
        """Return the process id of a container's shim.

        Raises `LabError` when there is not exactly one.
        """
        # Ours says so; one that has stood by has another container in its command line.
        place = f"*/{self._trace.namespace}/{container_id}/shim.pid"
        pids = [int(path.read_text()) for path in self._trace.state.glob(place)]
        pids = pids or [
            int(item.what.split()[0])
            for item in self.census()
            if item.kind == "process" and f"-id {container_id}" in item.what and "shim" in item.what
        ]
        if len(pids) != 1:
            raise LabError(f"container {container_id} has {len(pids)} shims, not one")
        return pids[0]

    def census(self) -> list[Leftover]:
        """Return everything of this daemon's that is there now, the daemon itself excepted."""
        pid = self._daemon.pid if self._daemon else 0
        network = self.network.census() if self.network is not None else []
        return [*leftovers.census(self._trace, frozenset(self._container_ids), pid), *network]

    def prove_idle(self) -> None:
        """Return once no container, task, process, mount, cgroup or file of a container is there.

        Raises `LeftoverError` with the list otherwise; the daemon then has no container left.
        """
        names = [name for kind in ("task", "container") for name in self._listed(kind)]
        self.delete_containers()
        records = [Leftover("record in containerd", name, lambda: None) for name in names]
        try:
            leftovers.wait_until_clean(repr(self), self.census, CLEAN_TIMEOUT_S)
        except leftovers.LeftoverError as error:
            raise leftovers.LeftoverError(repr(self), [*records, *error.found]) from error
        if records:
            raise leftovers.LeftoverError(repr(self), records)

    def delete_containers(self) -> None:
        """Kill and delete every container of this daemon, whoever made it."""
        for name in self._listed("task"):
            self.ctr("task", "rm", "--force", name, check=False)
        for name in self._listed("container"):
            self.ctr("container", "rm", name, check=False)

    def log_tail(self) -> str:
        """Return the end of the daemon's log."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _listed(self, kind: str) -> list[str]:
        return self.ctr(kind, "ls", "-q").stdout.split()

    def _wait_until_ready(self, daemon: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        ended = select.poll()
        pidfd = os.pidfd_open(daemon.pid)
        ended.register(pidfd, select.POLLIN)
        try:
            while not self._accepts():
                if ended.poll(20):
                    cause = f"containerd ended with {ending(daemon.wait())}"
                    raise LabError(f"{cause}:\n{self.log_tail()}")
                if time.monotonic() > deadline:
                    raise LabError(f"not ready after {READY_TIMEOUT_S:g} s:\n{self.log_tail()}")
        finally:
            os.close(pidfd)

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.address))
            except OSError:
                return False
        return True

    def _end(self, how: signal.Signals) -> None:
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        daemon.send_signal(how)
        try:
            daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            daemon.kill()
            daemon.wait()
            message = f"containerd did not end {STOP_TIMEOUT_S:g} s after {how.name}"
            raise LabError(f"{message}:\n{self.log_tail()}") from error

    def _discard(self) -> None:
        leftovers.remove_namespace_cgroups(self.namespace)
        if self.network is not None:
            self.network.remove()
        for folder in (self._home, self._root, Path("/run/containerd/runc", self.namespace)):
            shutil.rmtree(folder, ignore_errors=True)
        for shared in (RUN, BUILD / "containerd"):
            with contextlib.suppress(OSError):
                shared.rmdir()  # only once the last daemon has left it

    def _configuration(self) -> str:
        disabled = list(_CRI_PLUGINS) if self.network is None else []
        lines = [
            "version = 2",
            f'root = "{self._root}"',
            f'state = "{self._trace.state}"',
            f"disabled_plugins = {disabled!r}",
            "[grpc]",
            f'address = "{self.address}"',
            "[ttrpc]",
            f'address = "{self.address}.ttrpc"',
            "[timeouts]",
            *(f'"io.containerd.timeout.{name}" = "{_SHIM_TIMEOUT}"' for name in _SHIM_TIMEOUTS),
            '[plugins."io.containerd.internal.v1.opt"]',
            f'path = "{self._home}/opt"',
            # Its socket has one fixed path on the machine; the system's daemon may own it.
            '[plugins."io.containerd.nri.v1.nri"]',
            "disable = true",
        ]
        if self.network is not None:
            lines += cri_config.configuration(self.release, self._home, self.network)
        return "\n".join([*lines, ""])
