"""A sandbox: one virtual machine with the containers in it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from signal import SIGKILL
from typing import Any

from kata.agent_client.agent import Agent, GuestProcess
from kata.agent_client.stdio import Stdio, StdioError, StdioSchemeError
from kata.config import Configuration
from kata.hypervisor.watch import SAME_CAUSE, last_words
from kata.sandbox import events, guest_spec, hooks
from kata.sandbox.bring_up import BringUp
from kata.sandbox.container import Container, ContainerRequest
from kata.sandbox.errors import (
    AlreadyExistsError,
    GuestGoneError,
    InvalidRequestError,
    NotFoundError,
    StateError,
    UnimplementedError,
)
from kata.sandbox.exits import Exits
from kata.sandbox.guest import Guest
from kata.sandbox.journal import Journal
from kata.sandbox.ledger import Ledger, now
from kata.sandbox.pod import Pod
from kata.sandbox.pod_volumes import PodVolumes
from kata.sandbox.process import KILLED_STATUS, UNKNOWN_STATUS, Exit, Process, State
from kata.sandbox.sizing import Sizing
from kata.sandbox.standby import Standby
from kata.storage.volumes import Volumes
from kata_api import oci
from kata_api.agent.agent_pb2 import StatsContainerResponse
from ttrpc import ConnectionClosedError, RpcError, StatusCode

_DESTROY_TIMEOUT = 5.0
"""Seconds for the guest to write its file systems back before the machine is ended anyway."""

_DRAIN_TIMEOUT = 2.0
"""Seconds for output to reach its reader before a delete gives up on it; whoever told of the exit
has waited for it before."""

_REMOVE_TIMEOUT = 3.0
"""Seconds for the guest to remove a container; CRI gives a delete 10 in all."""

_OOM_PAUSE = 0.1
"""Seconds between two events about memory, which reach everybody who listens to containerd."""

_DEATH_TIMEOUT = 15.0
"""Seconds from a SIGKILL to the exit of the sandbox's own container, with time for a slow reader
of its output; without the exit nobody could remove the pod.  One that the guest has reported is told
of then, whether its output is through or not."""

_log = logging.getLogger(__name__)


class Sandbox:
    """One virtual machine from `start` to `stop`, and its table of containers.

    `journal` records what it has on the host.  Tear-down, a failed bring-up and a lost guest all
    unwind the same exit stack.
    """

    def __init__(
        self,
        pod: Pod,
        journal: Journal,
        configuration: Configuration,
        emit: Callable[[events.Event], None],
        ledger: Ledger,
        sizing: Sizing,
        standby: Standby | None = None,
    ) -> None:
        self.id = pod.id
        self._pod = pod
        self._journal = journal
        self._reserved: set[str] = set()
        self.configuration = configuration
        self.containers: dict[str, Container] = {}
        self._emit = emit
        self._exits = Exits(emit, lambda: self.pid, self._end_with)
        self._ledger = ledger
        self._sizing = sizing
        self._standby = standby
        self._undo = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._guest: Guest | None = None
        self._volumes: PodVolumes | None = None
        self._lost = ""
        self._end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.created_at = time.time()

    def __repr__(self) -> str:
        state = f"lost ({self._lost})" if self._lost else "up" if self._guest else "down"
        return f"<Sandbox {self.id} {state}, {len(self.containers)} containers>"

    @property
    def standalone(self) -> bool:
        """Whether the sandbox lives without a container, until whoever made it ends it."""
        return self._pod.standalone

    @property
    def end(self) -> Exit | None:
        """When the guest ended, with 0 for an end that was asked for; None while it runs."""
        return self._end.result() if self._end.done() else None

    async def wait(self) -> Exit:
        """Wait for the end of the guest; any number of callers, also after it."""
        return await asyncio.shield(self._end)

    @property
    def pid(self) -> int:
        """Process id of the virtual machine monitor, which stands for every process in it."""
        return self._guest.machine.pid if self._guest else 0

    async def start(self) -> None:
        """Bring the sandbox up; raises `StartError`, and nothing is left then."""
        bring_up = BringUp(
            *(self._pod, self._journal, self.configuration, self._ledger, self._undo),
            *(self._sizing, self._standby),
        )
        try:
            self._guest = await bring_up.run()
        except BaseException:
            await self._undo.aclose()
            raise
        self._sizing.tell(self._guest.machine)
        self._volumes = PodVolumes(self._guest.machine, self._guest.agent)
        self._undo.push_async_callback(self._volumes.close)
        self._background(self._watch(self._guest))
        self._background(self._tell_of_memory(self._guest))

    async def stop(self) -> None:
        """End the guest and give everything back; may be called again."""
        try:
            await self.end_guest("the sandbox was stopped")
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for container in list(self.containers.values()):
                self._lose(container)
                for process in container.processes():
                    await process.streams.close()
        finally:
            await self._undo.aclose()

    async def end_guest(self, reason: str, spared: Container | None = None) -> None:
        """End the guest and let go of the pod's network; its containers can be deleted still.

        All of them count as killed then, but for the one that is `spared`.  May be called again.
        """
        guest = self._guest
        if guest is None or self._lost:
            return
        with suppress(RpcError):
            await guest.agent.destroy_sandbox(_DESTROY_TIMEOUT)
        self._lost = self._lost or reason
        await guest.machine.stop()
        guest.network.disconnect()
        self._ended(0)
        for container in self.containers.values():
            if container is not spared:
                self._lose(container, KILLED_STATUS)

    def _ended(self, status: int) -> None:
        if not self._end.done():
            self._end.set_result(Exit(status, time.time()))

    async def _end_with(self, container: Container) -> None:
        """End a pod's guest before the end of the pod's own container is told of.

        Whoever hears of that takes the network down, and must not find it in use.
        """
        if container.id == self.id and self._pod.ends_with_container:
            await self.end_guest("the pod's own container has ended", container)

    def _running(self) -> Guest:
        if self._lost:
            raise GuestGoneError(f"the sandbox's virtual machine has ended: {self._lost}")
        if self._guest is None:
            raise StateError("the sandbox is not running")
        return self._guest

    def debug_agent(self) -> Agent:
        """Return the agent, for processes in the guest itself.

        Raises `StateError` when the configuration does not allow them.
        """
        if not self.configuration.agent.debug_console_enabled:
            raise StateError(
                f"sandbox {self.id} has no debug console: set debug_console_enabled = true in "
                f"[agent.kata] of {self.configuration.path}, and start the sandbox anew"
            )
        return self._running().agent

    async def _watch(self, guest: Guest) -> None:
        """Wait until the guest is lost, then count every process in it as lost too."""
        reason = await guest.wait()
        if not self._lost:
            await self._abandon(guest, reason)

    async def _abandon(self, guest: Guest, reason: str) -> None:
        """End a guest that is lost or does not answer, and count its processes as lost."""
        if not self._lost:
            self._lost = reason
            _log.error("the sandbox is lost: %s", reason)
        await guest.machine.stop(at_once=True)
        guest.network.disconnect()
        self._ended(UNKNOWN_STATUS)
        for container in self.containers.values():
            self._lose(container)

    def _lose(self, container: Container, status: int = UNKNOWN_STATUS) -> None:
        for process in container.processes():
            self._exits.record(process, status)

    async def _tell_of_memory(self, guest: Guest) -> None:
        """Tell each time the guest's kernel kills for want of memory.

        A guest can name any container, as often as it likes.
        """
        with suppress(RpcError):
            while True:
                container_id, kills = await guest.agent.next_oom()
                container = self.containers.get(container_id)
                if container:
                    self._exits.count_kills(container, kills)
                await asyncio.sleep(_OOM_PAUSE)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("a task of the sandbox failed", exc_info=error)

    # Containers

    def container(self, container_id: str) -> Container:
        """Return a container; raises `NotFoundError`."""
        try:
            return self.containers[container_id]
        except KeyError:
            raise NotFoundError(
                f"sandbox {self.id} has no container {container_id}: it was never created, or it was "
                "deleted"
            ) from None

    async def create(self, request: ContainerRequest) -> None:
        """Create a container whose process waits to be started.

        Raises a `SandboxError` or `RpcError`; nothing of the container is left then.
        """
        if request.id in self.containers or request.id in self._reserved:
            raise AlreadyExistsError(f"container {request.id} exists already")
        guest, volumes = self._running(), self._volumes
        assert volumes is not None
        # The ledger is that of the sandbox's start: it must not grow with every later container.
        ledger = Ledger(self.id, now()) if self.containers else self._ledger
        async with AsyncExitStack() as undo:
            self._reserved.add(request.id)
            undo.callback(self._reserved.discard, request.id)
            undo.callback(self._sizing.forget, request.id)
            linux = request.spec.linux or oci.Linux()
            self._count_out_ended()
            await self._sizing.admit(guest.machine, guest.agent, request.id, linux.resources)
            self._running()  # still: whoever waited for another's growth may find the share gone
            undo.callback(guest.share.remove, request.id)
            with ledger.step("root filesystem"):
                filtered = not self.configuration.runtime.disable_guest_seccomp
                spec, wanted = _guest_spec(
                    guest, request, guest_seccomp=filtered, standalone=self.standalone
                )
            undo.push_async_callback(volumes.release, request.id)
            with ledger.step("volumes"):
                storages, devices = await volumes.prepare(request.id, wanted)

            undo.push_async_callback(hooks.after_stop, request)
            with ledger.step("hooks"):
                ran = await hooks.before_start(request, self.pid)
                await guest.network.update(guest.machine, guest.agent, expected=ran)

            async def launch() -> None:
                await guest.agent.start_container(request.id)

            init = _process(guest.agent, request.id, "", request.stdio, launch)
            undo.push_async_callback(init.streams.close)
            undo.push_async_callback(self._forget_in_guest, guest, request.id)
            with ledger.step("create container"):
                async with _told_why(guest):
                    await guest.agent.create_container(
                        request.id,
                        spec,
                        self.configuration.agent.create_container_timeout,
                        storages,
                        devices,
                        pod_processes=guest_spec.shares_processes(request.spec),
                    )
            undo.pop_all()
        volumes.follow(request.id)
        self._reserved.discard(request.id)
        container = self.containers[request.id] = Container(request, init)
        self._emit(
            events.ContainerCreated(
                request.id, request.bundle, request.root, request.stdio, self.pid
            )
        )
        self._background(self._exits.follow(container, init))

    async def _forget_in_guest(self, guest: Guest, container_id: str) -> None:
        """Undo a create in the guest, which may have been carried out although it failed here."""
        with suppress(RpcError):
            await guest.agent.remove_container(container_id, _REMOVE_TIMEOUT)

    async def delete(self, container_id: str) -> Exit:
        """Remove a container that does not run; raises `StateError` when it does.

        Goes on when its caller gives up.  A second caller waits for the first and then finds no
        container (`NotFoundError`).  One that failed can be repeated.
        """
        container = self.container(container_id)
        if container.deletion:
            await asyncio.shield(container.deletion)
            raise NotFoundError(f"container {container_id} has been deleted")
        if container.init.state not in (State.CREATED, State.STOPPED, State.DELETING):
            raise StateError(
                f"container {container_id} is {container.init.state}; stop it before deleting"
            )
        if container.init.state != State.DELETING:  # as an earlier one that failed left it
            container.init.move(State.DELETING)
        container.deletion = asyncio.create_task(self._delete(container))
        return await asyncio.shield(container.deletion)

    async def _delete(self, container: Container) -> Exit:
        try:
            return await self._remove(container)
        except BaseException:
            container.deletion = None
            raise

    async def _remove(self, container: Container) -> Exit:
        processes = container.processes()
        if self._guest and not self._lost:
            await asyncio.gather(*(each.streams.drained(_DRAIN_TIMEOUT) for each in processes))
            try:
                await self._guest.agent.remove_container(container.id, _REMOVE_TIMEOUT)
            except RpcError as error:
                if error.code == StatusCode.DEADLINE_EXCEEDED:
                    await self._abandon(self._guest, "it did not remove a container in time")
        for process in processes:
            self._exits.record(process, KILLED_STATUS)
            await process.streams.close()
        if self._guest and self._volumes:
            await self._volumes.release(container.id)
            self._guest.share.remove(container.id)
        container.init.move(State.DELETED)
        del self.containers[container.id]
        self._sizing.forget(container.id)
        exit_ = await container.init.wait()
        self._emit(events.ContainerDeleted(container.id, self.pid, exit_))
        await hooks.after_stop(container.request)
        return exit_

    async def pause(self, container_id: str) -> None:
        """Freeze a container; raises `StateError` when it does not run."""
        init = self.container(container_id).init
        init.require(State.RUNNING)
        await self._running().agent.pause_container(container_id)
        init.move(State.PAUSED)
        self._emit(events.ContainerPaused(container_id))

    async def resume(self, container_id: str) -> None:
        """Thaw a container; raises `StateError` when it is not paused."""
        init = self.container(container_id).init
        init.require(State.PAUSED)
        await self._running().agent.resume_container(container_id)
        init.move(State.RUNNING)
        self._emit(events.ContainerResumed(container_id))

    async def update(self, container_id: str, change: oci.LinuxResources) -> None:
        """Change the limits of a container.

        The machine grows before, if it must; one that cannot is a `StateError`, and no limit has
        changed.  Raises that too when the container has ended, `InvalidRequestError`,
        `UnimplementedError`, and `RpcError` with the guest's reason; of several limits, earlier ones
        may have changed then.
        """
        container = self.container(container_id)
        async with container.updating:
            try:
                await self._update(container, change)
            finally:
                if container_id not in {*self.containers, *self._reserved}:
                    self._sizing.forget(container_id)  # it was deleted meanwhile

    async def _update(self, container: Container, change: oci.LinuxResources) -> None:
        from kata.sandbox import limits

        if container.init.exit:
            raise StateError(f"container {container.id} has ended; its limits cannot be changed")
        told = limits.merged(container.resources, change)
        limits.warn(container.id, told)
        after = limits.remembered(container.resources, told)
        guest = self._running()
        self._count_out_ended()
        await self._sizing.change(guest.machine, guest.agent, container.id, after)
        try:
            await guest.agent.update_container(container.id, told)
        except BaseException:
            self._sizing.count(container.id, container.resources)
            raise
        container.resources = after

    def _count_out_ended(self) -> None:
        """Let what has ended and was not deleted yet, such as init containers, need no memory."""
        for container in self.containers.values():
            if container.init.exit:
                self._sizing.forget(container.id)

    async def usage(self, container_id: str) -> StatsContainerResponse:
        """Return what a container uses; raises `NotFoundError` when it has ended."""
        if self.container(container_id).init.exit:
            raise NotFoundError(f"container {container_id} has ended; it uses nothing any more")
        try:
            return await self._running().agent.stats_container(container_id)
        except RpcError as error:
            known = self.containers.get(container_id)
            if known and not known.init.exit:
                raise
            raise NotFoundError(f"container {container_id} has just ended") from error

    # Processes

    async def guest_processes(self, container_id: str) -> list[GuestProcess]:
        """Return a container's processes by the guest's numbers, at least one.

        The virtual machine monitor stands for them when the agent cannot list them, and for a
        container that has ended: containerd takes one without processes for leaked.
        """
        listed: list[GuestProcess] = []
        if not self.container(container_id).init.exit:
            try:
                listed = await self._running().agent.list_processes(container_id)
            except RpcError as error:
                if error.code != StatusCode.UNIMPLEMENTED:
                    raise
        return listed or [GuestProcess(self.pid)]

    def add_exec(self, container_id: str, exec_id: str, spec: oci.Process, stdio: Stdio) -> None:
        """Announce a further process; it runs once it is started."""
        container = self.container(container_id)
        if exec_id in container.execs or exec_id == container_id:
            raise AlreadyExistsError(f"container {container_id} has a process {exec_id} already")
        if container.init.state not in (State.RUNNING, State.PAUSED):
            raise StateError(
                f"container {container_id} is {container.init.state}; only a running container "
                "takes further processes"
            )
        agent = self._running().agent

        async def launch() -> None:
            await agent.exec_process(container_id, exec_id, spec)

        container.execs[exec_id] = _process(agent, container_id, exec_id, stdio, launch)
        self._emit(events.ExecAdded(container_id, exec_id))

    async def start_process(self, container_id: str, exec_id: str) -> None:
        """Start a container or an announced process."""
        container = self.container(container_id)
        process = container.process(exec_id)
        guest = self._running()
        if exec_id and container.init.state != State.RUNNING:
            raise StateError(f"container {container_id} is {container.init.state}, not running")
        async with process.starting:
            if container_id == self.id and not exec_id and not self._pod.ends_with_container:
                # Docker connects a container's network between its creation and its start.
                await guest.network.update(guest.machine, guest.agent)
            async with _told_why(guest):
                await process.start()
            if exec_id:
                self._emit(events.ExecStarted(container_id, exec_id, self.pid))
                self._background(self._exits.follow(container, process))
            else:
                self._emit(events.ContainerStarted(container_id, self.pid))
        if not exec_id:
            await hooks.after_start(container.request, self.pid)

    async def signal(self, container_id: str, exec_id: str, number: int, *, all_: bool) -> None:
        """Send a signal to a process, or to all of a container's.

        A guest that does not even carry out a SIGKILL in time is ended with all its processes; one
        that says it has, if what was killed is the sandbox's own container.
        """
        process = self.container(container_id).process(exec_id)
        try:
            await process.signal(number, whole_container=all_ and not exec_id)
        except RpcError as error:
            if number != SIGKILL or error.code != StatusCode.DEADLINE_EXCEEDED:
                raise
            await self._abandon(self._running(), "it did not answer a SIGKILL in time")
        else:
            if number == SIGKILL and container_id == self.id and not exec_id:
                self._background(self._see_end(process))

    async def _see_end(self, process: Process) -> None:
        """Have the exit of a process that was killed told of in time."""
        try:
            await asyncio.wait_for(process.wait(), _DEATH_TIMEOUT)
        except TimeoutError:
            if process.reported:  # its reader is what takes so long
                self._exits.record(process, KILLED_STATUS)
            elif self._guest and not self._lost:
                await self._abandon(self._guest, "it took a SIGKILL and did not tell of an exit")

    async def delete_exec(self, container_id: str, exec_id: str) -> Exit:
        """Forget a process that does not run; raises `StateError` when it does."""
        container = self.container(container_id)
        process = container.process(exec_id)
        if process.state == State.DELETING:
            raise NotFoundError(f"{process.name} is being deleted")
        if process.state not in (State.CREATED, State.STOPPED):
            raise StateError(f"{process.name} is {process.state}; kill it before deleting")
        process.move(State.DELETING)
        if not self._lost:
            await process.streams.drained(_DRAIN_TIMEOUT)
        self._exits.record(process, KILLED_STATUS)
        await process.streams.close()
        process.move(State.DELETED)
        container.execs.pop(exec_id, None)
        return await process.wait()


@asynccontextmanager
async def _told_why(guest: Guest) -> AsyncIterator[None]:
    """Turn the end of the connection to a guest into the end of the guest, with its last words."""
    try:
        yield
    except ConnectionClosedError as error:
        reason = str(error)
        with suppress(TimeoutError):
            reason = await asyncio.wait_for(guest.wait(), 2 * SAME_CAUSE)
        raise GuestGoneError(
            f"the sandbox's virtual machine has ended: {reason}{last_words(guest.machine)}"
        ) from error


def _guest_spec(
    guest: Guest, request: ContainerRequest, *, guest_seccomp: bool, standalone: bool
) -> tuple[oci.Spec, Volumes]:
    try:
        root = guest.share.add_root(request.id, request.root)
    except OSError as error:
        raise InvalidRequestError(
            f"cannot mount the root filesystem of container {request.id}: {error}"
        ) from error
    return guest_spec.build(
        request.id,
        request.spec,
        root,
        guest.share,
        guest_seccomp=guest_seccomp,
        standalone=standalone,
    )


def _process(
    agent: Agent,
    container_id: str,
    exec_id: str,
    stdio: Stdio,
    launch: Callable[[], Coroutine[Any, Any, None]],
) -> Process:
    try:
        return Process(agent, container_id, exec_id, stdio, launch)
    except StdioSchemeError as error:
        raise UnimplementedError(str(error)) from error
    except StdioError as error:
        raise InvalidRequestError(str(error)) from error
