"""A trial: containers of one runtime on one containerd, driven as `ctr`'s users do."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lab.command import LabError, Result
from lab.containerd import PrivateContainerd
from lab.images import BUSYBOX
from lab.runtimes import Runtime
from lab.terminal import Terminal


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Return once a condition holds; raises `LabError` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.02)


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
        """Run a `ctr` with pipes for its three streams; it is dead when the body ends."""
        process = subprocess.Popen(
            argv,
            env={**os.environ, **self.daemon.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with process:
            try:
                yield process
            finally:
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
