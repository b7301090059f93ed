"""A trial: containers of one runtime on one containerd, driven as `ctr`'s users do."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Timer
from typing import IO, Final

from lab.command import CommandError, LabError, Result
from lab.containerd import PrivateContainerd
from lab.images import BUSYBOX
from lab.runtimes import Runtime
from lab.terminal import Terminal

# A `ctr` that waits for what never comes is ended, so that who reads from it does not wait as long.
_ATTACHED_S: Final = 600.0
_MARK: Final = "the-end-of-its-output"
# Runs the rest of the command line, marks both streams' end, and lives on until it is told to end.
_OUTLIVE: Final = f'"$@"; code=$?; echo {_MARK}; echo {_MARK} >&2; read -r _; exit $code'


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Return once a condition holds; raises `LabError` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.02)


def until_exists(path: str) -> str:
    """Return a busybox shell's command that waits for a file."""
    return f"until [ -e {path} ]; do usleep 20000; done"


@dataclass(frozen=True, slots=True)
class Trial:
    """Where containers run (`daemon`) and under what (`runtime`)."""

    daemon: PrivateContainerd
    runtime: Runtime

    def new_id(self, stem: str) -> str:
        """Return a container id of this trial's own."""
        return self.daemon.new_container_id(stem)

    def run_argv(
        self,
        container_id: str,
        *command: str,
        options: tuple[str, ...] = ("--rm",),
        image: str = BUSYBOX.name,
    ) -> list[str]:
        """Return the command line of a `ctr run`."""
        words = ["run", *self.runtime.ctr_options, *options, image, container_id, *command]
        return self.daemon.ctr_argv(*words)

    def run(
        self,
        *command: str,
        options: tuple[str, ...] = ("--rm",),
        image: str = BUSYBOX.name,
        check: bool = True,
    ) -> Result:
        """Run a container to its end; its exit code is the result's, raised unless `check`."""
        words = ["run", *self.runtime.ctr_options, *options, image, self.new_id("run"), *command]
        return self.daemon.ctr(*words, timeout_s=self.runtime.patience_s, check=check)

    def hear(
        self,
        *command: str,
        options: tuple[str, ...] = ("--rm",),
        image: str = BUSYBOX.name,
        check: bool = True,
    ) -> Result:
        """Run a container as `run` does, and have all that it writes from every containerd.

        Where output would be lost the command is a shell's child and writes 64 KiB of errors at most.
        """
        if not self.daemon.release.loses_output:
            return self.run(*command, options=options, image=image, check=check)
        words = ("sh", "-c", _OUTLIVE, "sh", *command)
        argv = self.run_argv(self.new_id("run"), *words, options=options, image=image)
        with self.attached(argv) as ctr:
            assert ctr.stdout is not None
            assert ctr.stderr is not None
            heard = [_up_to_mark(stream) for stream in (ctr.stdout, ctr.stderr)]
            rest = ctr.communicate(b"\n", self.runtime.patience_s)
        said = [
            (one + more).decode(errors="replace") for one, more in zip(heard, rest, strict=True)
        ]
        result = Result(tuple(argv), ctr.returncode, *said)
        if check and result.code != 0:
            raise CommandError(result)
        return result

    def exec_argv(
        self, container_id: str, name: str, *command: str, tty: bool = False
    ) -> list[str]:
        """Return the command line of a `ctr task exec`."""
        words = ["task", "exec", *(["--tty"] if tty else []), "--exec-id", name, container_id]
        return self.daemon.ctr_argv(*words, *command)

    def exec(self, container_id: str, name: str, *command: str, check: bool = True) -> Result:
        """Run another process in a container to its end."""
        words = ["task", "exec", "--exec-id", name, container_id, *command]
        return self.daemon.ctr(*words, timeout_s=self.runtime.patience_s, check=check)

    def kill(self, container_id: str, signal_name: str) -> None:
        """Send a signal to a container's first process; raises `CommandError` if that fails."""
        self.daemon.ctr("task", "kill", "--signal", signal_name, container_id)

    def status(self, container_id: str) -> str:
        """Return a task's state as `ctr` prints it, empty when there is no such task."""
        for line in self.daemon.ctr("task", "ls").stdout.splitlines():
            match line.split():
                case [name, _, state] if name == container_id:
                    return state
        return ""

    @contextmanager
    def attached(self, argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        """Run a `ctr` with pipes for its three streams; it is dead when the body ends, or in 600 s."""
        process = subprocess.Popen(
            argv,
            env={**os.environ, **self.daemon.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        limit = Timer(_ATTACHED_S, process.kill)
        limit.start()
        with process:
            try:
                yield process
            finally:
                limit.cancel()
                if process.poll() is None:
                    process.kill()

    def terminal(self, argv: list[str]) -> Terminal:
        """Return a terminal that runs a `ctr`, to be entered."""
        return Terminal(argv, {**os.environ, **self.daemon.environment, "TERM": "linux"})

    @contextmanager
    def background(self) -> Iterator[str]:
        """Run a container that does nothing, and yield its id; it is deleted at the end."""
        container_id = self.new_id("background")
        options = ("--detach", "--null-io")
        argv = ["run", *self.runtime.ctr_options, *options, BUSYBOX.name, container_id]
        self.daemon.ctr(*argv, "sleep", "100000", timeout_s=self.runtime.patience_s)
        try:
            yield container_id
        finally:
            self.daemon.ctr("task", "rm", "--force", container_id, check=False)
            self.daemon.ctr("container", "rm", container_id)


def _up_to_mark(stream: IO[bytes]) -> bytes:
    """Return what comes before the mark, or all if the stream ends without one."""
    said = bytearray()
    mark = f"{_MARK}\n".encode()
    while not said.endswith(mark) and (line := stream.readline()):
        said += line
    return bytes(said.removesuffix(mark))
