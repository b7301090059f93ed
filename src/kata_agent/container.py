"""One container: its first process, further processes, its cgroup, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn

from kata_agent import syscalls as sc
from kata_agent.cgroup import Cgroup
from kata_agent.init import Join, Streams, run_exec, run_init
from kata_agent.launcher import Body, Child, Gate, spawn
from kata_agent.process import Pipes, Process
from kata_agent.progress import Progress, StepError
from kata_agent.reaper import Reaper
from kata_agent.seccomp import Filter, compile_profile
from kata_agent.spec_check import check, check_process
from kata_api.agent.oci_pb2 import Linux, LinuxResources, Spec
from kata_api.agent.oci_pb2 import Process as ProcessSpec
from ttrpc import RpcError, StatusCode

_JOINABLE = {
    "ipc": sc.CLONE_NEWIPC,
    "uts": sc.CLONE_NEWUTS,
    "network": sc.CLONE_NEWNET,
    "pid": sc.CLONE_NEWPID,
}
# What the kernel makes room for before the write returns, however long that takes.
_RECLAIMING = ("memory.high", "memory.max", "memory.reclaim")
_MEMBERSHIP = (
    sc.CLONE_NEWNS | sc.CLONE_NEWCGROUP | sc.CLONE_NEWIPC | sc.CLONE_NEWUTS | sc.CLONE_NEWNET
)


class Container:
    """A container from its creation to its removal.

    Its init process has the name ""; the host may also call it by the container's id.
    """

    def __init__(self, container_id: str, cgroup: Cgroup, reaper: Reaper) -> None:
        self.id = container_id
        self.cgroup = cgroup
        self._reaper = reaper
        self._processes: dict[str, Process] = {}
        self._confinement: Filter | None = None
        self._linux = Linux()  # what holds for every process
        self._membership = _MEMBERSHIP

    def __repr__(self) -> str:
        return f"<container {self.id}, {', '.join(map(repr, self._processes.values())) or 'empty'}>"

    async def create(self, spec: Spec, pid_namespace: Join | None = None) -> None:
        """Make the container up to its first program, which waits for `start`.

        It is made in ``pid_namespace``, if given; else in a new one if the specification wants
        one, and otherwise in the guest's own.
        Raises ``RpcError``; no process, mount or cgroup is left then.
        """
        check(spec)
        if spec.Linux.HasField("Seccomp"):
            self._confinement = compile_profile(spec.Linux.Seccomp)
        for name in ("Personality", "MemoryPolicy"):
            if spec.Linux.HasField(name):
                getattr(self._linux, name).CopyFrom(getattr(spec.Linux, name))
        if any(namespace.Type == "time" for namespace in spec.Linux.Namespaces):
            self._membership |= sc.CLONE_NEWTIME
        self.cgroup.create(spec.Linux.Resources)
        joins: list[Join] = []
        try:
            pid_namespace = _open_joins(spec, joins) or pid_namespace
            own = pid_namespace is None and _wants_pid_namespace(spec)
            body = functools.partial(run_init, self.id, spec, joins, self._confinement)
            flags = sc.CLONE_NEWNS | (sc.CLONE_NEWPID if own else 0)
            keep = [join.fd for join in joins]
            await self._launch("", spec.Process, body, flags, pid_namespace, keep)
        except BaseException:
            await self.remove()
            raise
        finally:
            for join in joins:
                os.close(join.fd)

    async def start(self) -> None:
        """Let the first program run.

        Raises ``RpcError``: FAILED_PRECONDITION if it runs already or has ended, INTERNAL if the
        kernel refuses to execute it.
        """
        init = self.process("")
        if init.started or init.ended:
            cause = "was started before" if init.started else "was killed before it was started"
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                f"container {self.id} {cause}; remove and create it to run it again",
            )
        init.started = True
        await init.child.start()

    async def execute(self, name: str, spec: ProcessSpec) -> None:
        """Run a further process called ``name``.

        Raises ``RpcError``: ALREADY_EXISTS, FAILED_PRECONDITION when the container does not run,
        INTERNAL with the step that failed; no process is left then.
        """
        check_process(spec)
        init = self.process("")
        if init.ended:
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                f"container {self.id} has ended; processes need a running container",
            )
        if "frozen 1" in self.cgroup.read("cgroup.events").splitlines():
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                f"container {self.id} is paused; resume it before running further processes",
            )
        target = Join(init.child.pidfd, self._membership)
        # Born with the container's mounts: for a moment it would else be a process in there whose
        # /proc/<pid>/root is the guest's, open to whoever may trace.
        born = Join(init.child.pidfd, sc.CLONE_NEWPID | sc.CLONE_NEWNS)
        await self._run(name, spec, target, born)

    async def update(self, resources: LinuxResources) -> None:
        """Change limits while the container runs.

        Raises ``RpcError``: FAILED_PRECONDITION, with nothing written, when a limit is below what
        is in use; INTERNAL naming the file, with earlier ones written.
        """
        from kata_agent.limits import settings
        from kata_agent.statistics import check_fits

        check_fits(self.cgroup, resources)
        for name, value in settings(resources):
            if name in _RECLAIMING:
                await self._limit_aside(name, value)
            else:
                self.cgroup.limit(name, value)

    def process(self, name: str) -> Process:
        """Return the process ``name``; "" and the container's id mean the first one.

        Raises ``RpcError`` NOT_FOUND.
        """
        name = "" if name == self.id else name
        process = self._processes.get(name)
        if process is None:
            raise RpcError(
                StatusCode.NOT_FOUND, f"container {self.id} has no process with exec id {name!r}"
            )
        return process

    def execs(self) -> dict[str, int]:
        """Return the process id of each exec that has not ended."""
        return {
            name: process.child.pid
            for name, process in self._processes.items()
            if name and not process.ended
        }

    def signal(self, name: str, number: int) -> None:
        """Send a signal: "" means every process of the container.

        SIGTERM to a first process that does nothing about it becomes SIGKILL, as the kernel would
        drop it: the first process of a pid namespace has no default actions.
        """
        process = self.process(name)
        if not name and number == signal.SIGKILL:
            self.cgroup.kill()
            return
        is_init = process is self._processes.get("")
        if is_init and number == signal.SIGTERM and not process.ended:
            try:
                number = number if process.handles(number) else signal.SIGKILL
            except (FileNotFoundError, ProcessLookupError):
                return
        process.signal(number)
        if not name:
            for pid in set(self.cgroup.pids()) - {process.child.pid}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    async def wait(self, name: str) -> int:
        """Wait for the exit code of a process."""
        process = self.process(name)
        code = await process.wait()
        process.waited = True
        self._forget_spent(process)
        return code

    async def read(self, name: str, stream: str, limit: int) -> bytes:
        """Read up to ``limit`` bytes of ``stream``, "stdout" or "stderr".

        Raises ``RpcError`` OUT_OF_RANGE "EOF" after the last byte.
        """
        process = self.process(name)
        output = process.stdout if stream == "stdout" else process.stderr
        if output is None:  # a terminal has one stream
            raise RpcError(StatusCode.OUT_OF_RANGE, "EOF")
        try:
            return await output.read(limit)
        finally:
            self._forget_spent(process)

    async def remove(self, timeout: float = 10.0) -> None:
        """Kill every process, close every stream, and remove the cgroup.

        ``timeout`` is in seconds. Raises ``RpcError`` DEADLINE_EXCEEDED while a process does not
        die; the container then stays as it is and can be removed again.
        """
        self.cgroup.kill()
        exits = [p.exited for p in self._processes.values() if not p.ended]
        if exits:
            _, pending = await asyncio.wait(exits, timeout=timeout)
            if pending:
                raise RpcError(
                    StatusCode.DEADLINE_EXCEEDED,
                    f"container {self.id}: processes {self.cgroup.pids()} did not die within "
                    f"{timeout:g} s of SIGKILL; they hang in the kernel",
                )
        for process in self._processes.values():
            process.close()
        self._processes.clear()
        await self.cgroup.remove()

    # -- inside --------------------------------------------------------------------------------

    async def _limit_aside(self, name: str, value: str) -> None:
        """Write a limit from a process of its own, so that the agent serves others meanwhile."""

        def body(gate: Gate, _: Progress) -> NoReturn:
            try:
                self.cgroup.limit(name, value)
            except RpcError as error:
                raise StepError(error.message) from error
            gate.ready(None)
            os._exit(0)

        child = spawn(body, flags=0, cgroup_fd=-1, keep=())
        exited = self._reaper.watch(child.pid, child.pidfd)
        try:
            await child.wait_ready()
        finally:
            if not exited.done():
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            child.close()
            await asyncio.wait([exited])

    async def _run(
        self, name: str, spec: ProcessSpec, target: Join | None, born: Join | None
    ) -> None:
        """Run a process that is no container's first; raises as `execute` does."""
        known = self._processes.get(name)
        if name in ("", self.id) or (known is not None and not (known.ended and known.waited)):
            raise RpcError(
                StatusCode.ALREADY_EXISTS, f"exec id {name!r} is in use; choose another one"
            )
        if known is not None:
            known.close()  # what nobody has read of it goes
        body = functools.partial(run_exec, self.id, spec, self._linux, target, self._confinement)
        keep = [] if target is None else [target.fd]
        process = await self._launch(name, spec, body, 0, born, keep)
        process.started = True
        try:
            await process.child.wait_running()
        except BaseException:
            await self._discard(process)
            raise

    async def _launch(
        self,
        name: str,
        spec: ProcessSpec,
        body: Callable[[Streams | None, Gate, Progress], NoReturn],
        flags: int,
        pid_namespace: Join | None,
        keep: list[int],
    ) -> Process:
        pipes = None if spec.Terminal else Pipes()
        streams = None if pipes is None else pipes.child
        whole: Body = functools.partial(body, streams)
        try:
            child = self._spawn(whole, flags, pid_namespace, [*keep, *(streams or ())])
        except BaseException:
            if pipes is not None:
                for fd in pipes.agent:
                    os.close(fd)
            raise
        finally:
            if pipes is not None:
                pipes.close_child()
        process = self._processes[name] = Process(name, child, self._reaper)
        if pipes is not None:
            process.attach(pipes)
        try:
            if pid_namespace is not None and spec.OOMScoreAdj:
                _set_oom_score(child.pid, spec.OOMScoreAdj)
            master = await child.wait_ready()
        except BaseException:
            await self._discard(process)
            raise
        if master is not None:
            process.attach_terminal(master)
        return process

    def _spawn(self, body: Body, flags: int, pid_namespace: Join | None, keep: list[int]) -> Child:
        group = self.cgroup.open()
        try:
            try:
                return _spawn_in(group, body, flags, pid_namespace, keep)
            except OSError as error:
                nested = self._open_init_s_group() if error.errno == errno.EBUSY else None
                if nested is None:
                    raise
                os.close(group)
                group = nested
                return _spawn_in(group, body, flags, pid_namespace, keep)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            if error.errno == errno.EBUSY:
                reason += " (the container has made cgroups of its own below the one it was given)"
            raise RpcError(
                StatusCode.INTERNAL, f"cannot create a process in container {self.id}: {reason}"
            ) from error
        finally:
            os.close(group)

    def _open_init_s_group(self) -> int | None:
        """Open the group below the container's that its first process moved to, if it did.

        A group whose own groups have controllers takes no processes: docker and systemd make such
        in a container, and go to one of them. There runc puts further processes, too.
        """
        init = self._processes.get("")
        with contextlib.suppress(OSError):
            return None if init is None or init.ended else self.cgroup.open_of(init.child.pid)
        return None

    async def _discard(self, process: Process) -> None:
        process.signal(signal.SIGKILL)
        await process.wait()
        process.close()
        self._processes.pop(process.name, None)

    def _forget_spent(self, process: Process) -> None:
        if process.name and process.spent and self._processes.get(process.name) is process:
            del self._processes[process.name]
            process.close()


def _spawn_in(
    group: int, body: Body, flags: int, pid_namespace: Join | None, keep: list[int]
) -> Child:
    with _born_in(pid_namespace):
        return spawn(body, flags=flags, cgroup_fd=group, keep=keep)


@contextlib.contextmanager
def _born_in(join: Join | None) -> Iterator[None]:
    """Have children born in other namespaces than the agent's own, where it is back afterwards.

    Nothing may be opened by path in between.  The way back is through descriptors of the
    namespaces: one of the agent's process would name those that it has just joined.
    """
    if join is None:
        yield
        return
    kinds = [
        (n, f) for n, f in (("pid", sc.CLONE_NEWPID), ("mnt", sc.CLONE_NEWNS)) if join.flags & f
    ]
    own = [(os.open(f"/proc/self/ns/{name}", os.O_RDONLY), flag) for name, flag in kinds]
    directory = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        try:
            sc.setns(join.fd, join.flags)
            yield
        finally:
            for fd, flag in own:
                sc.setns(fd, flag)
            os.fchdir(directory)
    finally:
        for fd, _ in own:
            os.close(fd)
        os.close(directory)


def _set_oom_score(pid: int, score: int) -> None:
    with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(score))


def _wants_pid_namespace(spec: Spec) -> bool:
    return any(namespace.Type == "pid" for namespace in spec.Linux.Namespaces)


def _open_joins(spec: Spec, joins: list[Join]) -> Join | None:
    """Open the namespaces to join into ``joins``; return the pid namespace among them, if any.

    A path that does not exist here names a namespace of the host, for which the sandbox stands in.
    """
    pid_namespace: Join | None = None
    for namespace in spec.Linux.Namespaces:
        kind = _JOINABLE.get(namespace.Type)
        if kind is None or not namespace.Path or not os.path.exists(namespace.Path):
            continue
        join = Join(os.open(namespace.Path, os.O_RDONLY), kind)
        joins.append(join)
        if kind == sc.CLONE_NEWPID:
            pid_namespace = join
    return pid_namespace
