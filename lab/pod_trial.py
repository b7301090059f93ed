"""A trial with pods: what one test, or several that share a pod, run under one handler.

At its end its pods are stopped and removed, and a census proves that nothing came to be meanwhile
that is still there. Pods that were there before, of a trial around it, are not counted.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from lab import containerd, leftovers
from lab.cri import Cri, CriError, RunningPod
from lab.cri_config import SEVERAL_INTERFACES
from lab.leftovers import Leftover
from lab.pod import Container, Pod
from lab.runtimes import PodRuntime
from lab.trial import until_exists, wait_until

_NAME_BYTES: Final = 63


class PodTrial:
    """Pods of one handler on one daemon, as a context manager; leaving it removes them.

    Leaving raises `LeftoverError` when something is left of them, and removes that.
    """

    def __init__(self, cri: Cri, runtime: PodRuntime) -> None:
        self.cri = cri
        self.runtime = runtime
        self._pods: list[RunningPod] = []
        self._containers: list[str] = []
        self._before: frozenset[tuple[str, str, str]] = frozenset()

    def __enter__(self) -> Self:
        self._before = frozenset(item.identity for item in self.cri.daemon.census())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with ExitStack() as stack:
            stack.callback(self._prove_clean)
            for pod in self._pods:
                stack.callback(self._end, pod)
            for container in self._containers:
                stack.callback(self.cri.remove, container)  # it is ended first, if it runs

    def run_pod(self, pod: Pod | None = None, *, several_interfaces: bool = False) -> RunningPod:
        """Start a pod's sandbox; it is gone when the trial ends, whatever the test does to it."""
        handler = self.runtime.name + (SEVERAL_INTERFACES if several_interfaces else "")
        wanted = pod or Pod()
        if wanted.name == "pod":  # the CRI refuses two of one name, namespace and uid
            wanted = replace(wanted, name=f"pod-{len(self._pods) + 1}"[:_NAME_BYTES])
        running = self.cri.run_pod(wanted, handler)
        self._pods.append(running)
        return running

    def run(
        self, container: Container | None = None, pod: Pod | None = None
    ) -> tuple[RunningPod, str]:
        """Start a pod with one container, and return the pod and the container's id."""
        running = self.run_pod(pod)
        return running, self.cri.run(running, container or Container())

    def add(self, pod: RunningPod, container: Container, *, start: bool = True) -> str:
        """Make a container in a pod that may outlive the trial; the container does not."""
        container_id = self.cri.create(pod, container)
        self._containers.append(container_id)
        if start:
            self.cri.start(container_id)
        return container_id

    def linger(self, path: str) -> str:
        """Return a shell's command that goes before a container's end, for `wait_for_end`.

        It waits for a file where containerd would lose output, and does nothing elsewhere. The streams
        end before: only then is a line without its newline written to the log.
        """
        if not self.cri.daemon.release.loses_output:
            return "true"
        return f"exec >&- 2>&-; {until_exists(path)}"

    def wait_for_end(self, container: str, heard: Callable[[], bool], go: Path) -> Any:
        """Return a container's status once it has ended and what it wrote has been heard.

        `go` is the host's path of the file for which it lingers.
        """
        if self.cri.daemon.release.loses_output:
            wait_until(heard, "all output is there", self.runtime.patience_s)
            go.touch()
        status = self.cri.wait_for_end(container)
        # Elsewhere the log is written to its end a moment after the exit is told.
        wait_until(heard, "all output is there after the end", self.runtime.patience_s)
        return status

    def new(self) -> list[Leftover]:
        """Return what came to be since the trial began and is there now."""
        return [item for item in self.cri.daemon.census() if item.identity not in self._before]

    def _end(self, pod: RunningPod) -> None:
        try:
            self.cri.stop_pod(pod)
        except CriError as error:
            if error.code != "NOT_FOUND":  # a test that removed it has done so already
                raise
        self.cri.remove_pod(pod)

    def _prove_clean(self) -> None:
        owner = f"pods under {self.runtime.name} on {self.cri.daemon!r}"
        leftovers.wait_until_clean(owner, self.new, containerd.CLEAN_TIMEOUT_S)
