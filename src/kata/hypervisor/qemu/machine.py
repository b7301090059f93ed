"""A running QEMU: its process, its monitor and its console."""

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress

from qemu.qmp import ConnectError, EventListener, QMPClient, QMPError

from kata.host import child
from kata.host.channel import AgentChannel
from kata.host.tail import Tail
from kata.hypervisor.port import (
    Addition,
    Disk,
    Growth,
    HypervisorError,
    NetworkInterface,
    RestoreError,
)
from kata.hypervisor.qemu import migration
from kata.hypervisor.qemu.command import MachinePlan, capabilities, command_line
from kata.hypervisor.qemu.devices import Bridge
from kata.hypervisor.qemu.hotplug import (
    Command,
    HotPlug,
    Nic,
    PluggedDisk,
    PluggedMemory,
    Removable,
)
from kata.hypervisor.qemu.room import Room

_MONITOR_TIMEOUT = 15.0
"""Seconds for QEMU to greet on its monitor; 60 ms is usual, a loaded machine is slower."""

_MEMORY_TIMEOUT = 15.0
"""Seconds for a guest to take plugged memory into use, and one more for each GiB of it."""

_UNPLUG_TIMEOUT = 10.0
"""Seconds for a guest to let go of a device."""

_QUIT_GRACE = 0.5
"""Seconds for QEMU to obey `quit`, and to end, before it is killed; nothing in it needs saving."""

_log = logging.getLogger(__name__)


def _ignore(_event: object) -> bool:
    return False


def _spawn(
    plan: MachinePlan,
    fds: Sequence[int],
    output: int,
    prepare: Callable[[], None],
    user: int | None,
) -> child.Child:
    try:
        process = child.spawn(
            command_line(plan),
            pass_fds=fds,
            output=output,
            prepare=prepare,
            capabilities=capabilities(plan),
            user=user,
        )
    except OSError as error:
        raise HypervisorError(
            f"cannot start {plan.program}: {error.strerror}; install QEMU or set `path` in "
            "[hypervisor.qemu] to where it is"
        ) from error
    _log.debug("started %s", process.command)
    return process


class Machine:
    """A QEMU process from start to end; implements `kata.hypervisor.port.VirtualMachine`."""

    def __init__(
        self,
        process: child.Child,
        qmp: QMPClient,
        console: Tail,
        output: Tail,
        channel: AgentChannel,
        room: Room,
    ) -> None:
        self._process = process
        self._qmp = qmp
        self._console = console
        self._output = output
        self._channel = channel
        self._plugged: dict[Addition, Removable] = {}
        self._disks = 0
        self._room = room
        self._growing = asyncio.Lock()
        self._handing_over = asyncio.Lock()
        self._taken = asyncio.Event()
        # A guest can say as much as it likes of devices: what is not awaited is kept nowhere.
        qmp.register_listener(EventListener("ACPI_DEVICE_OST", self._hear))

    def __repr__(self) -> str:
        return f"<Machine {self._process!r}>"

    @classmethod
    async def start(
        cls,
        plan: MachinePlan,
        *,
        monitor: tuple[socket.socket, socket.socket],
        console: tuple[socket.socket, socket.socket],
        channel: AgentChannel,
        inherited: Sequence[int],
        console_log: str,
        prepare: Callable[[], None],
        user: int | None,
    ) -> "Machine":
        """Start QEMU, as `user` unless that is None, and wait for its monitor.

        `monitor` and `console` are pairs of ours and QEMU's end; QEMU's ends are closed here, the
        descriptors `inherited` by the caller.  Raises `HypervisorError` with QEMU's own words when it
        does not come up, `OSError` when its console or its output cannot be taken; no process and no
        descriptor of ours is left then.
        """
        qmp = QMPClient(f"sandbox-{plan.name[:12]}")
        # Nobody reads the client's own queue of events, and a guest can fill it.
        qmp.events.event_filter = _ignore
        with ExitStack() as theirs, ExitStack() as undo:
            for ours, its in (monitor, console):
                undo.enter_context(ours)
                theirs.enter_context(its)
            output_read, output_write = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, output_write)
            output = Tail(output_read)
            undo.callback(output.close)
            fds = (monitor[1].fileno(), console[1].fileno(), *inherited)
            console_tail = Tail(console[0].detach(), console_log)
            undo.callback(console_tail.close)
            process = _spawn(plan, fds, output_write, prepare, user)
            undo.pop_all()
        machine = cls(process, qmp, console_tail, output, channel, Room.of(plan))
        try:
            await asyncio.wait_for(qmp.connect(monitor[0]), _MONITOR_TIMEOUT)
        except BaseException as error:
            await machine.stop()
            if not isinstance(error, (ConnectError, TimeoutError, OSError)):
                raise
            said = "; ".join(output.lines(5)) or "nothing"
            raise HypervisorError(
                f"QEMU did not come up: it {child.describe_exit(process.exit_code or 0)} and "
                f"said: {said}"
            ) from error
        return machine

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self._process.pid

    @property
    def channel(self) -> AgentChannel:
        """How to reach the agent in the guest."""
        return self._channel

    def console(self, lines: int) -> Sequence[str]:
        """Return the last lines of the guest's console."""
        return self._console.lines(lines)

    async def save(self, descriptor: int) -> None:
        """Stop the machine and write its devices' state to a file open at `descriptor`.

        Raises `HypervisorError`.  The machine stays stopped.
        """
        try:
            await migration.save(self._qmp, descriptor)
        except QMPError as error:
            raise HypervisorError(f"cannot save the machine: {self._explain(error)}") from error

    async def restore(self, descriptor: int, growth: Growth, plugged: Sequence[HotPlug]) -> None:
        """Load the state from the file that QEMU inherited as `descriptor`, and run.

        `growth` and the devices `plugged` are there from the first instruction on; the guest takes
        the memory while it runs (`settle`).  Raises `RestoreError` when QEMU refuses the state,
        `HypervisorError` for all else; the machine is of no use then.
        """
        additions = self._room.additions(growth)
        try:
            await asyncio.wait_for(migration.load(self._qmp, descriptor), _MONITOR_TIMEOUT)
        except (QMPError, OSError, TimeoutError) as error:
            with suppress(TimeoutError):  # QEMU says why just before it ends
                await asyncio.wait_for(self._process.wait(), _QUIT_GRACE)
            # A QEMU that was killed, for want of memory for one, has said nothing of the state.
            refused = (self._process.exit_code or 0) > 0
            kind = RestoreError if refused else HypervisorError
            raise kind(f"QEMU cannot restore the machine: {self._explain(error)}") from error
        try:
            async with asyncio.timeout(_MONITOR_TIMEOUT):
                for addition in additions:
                    self._room.take(addition)
                    await self._execute(addition.commands())
                for device in plugged:
                    await self._execute(device.commands())
                await self._qmp.execute("cont")
        except TimeoutError as error:
            raise HypervisorError(
                f"QEMU did not plug the machine's devices in within {_MONITOR_TIMEOUT:g} s; see "
                "`virtio_fs_daemon` in [hypervisor.qemu]: it may not answer"
            ) from error
        except (QMPError, OSError) as error:
            raise HypervisorError(
                f"QEMU cannot run the restored machine: {self._explain(error)}"
            ) from error

    @property
    def vcpus(self) -> int:
        """How many processors the machine has; those plugged in are of use once the agent is told."""
        return self._room.vcpus

    @property
    def memory_mib(self) -> int:
        """How much memory the machine has."""
        return self._room.memory_mib

    async def grow(self, growth: Growth) -> None:
        """Plug processors and memory in; returns when the guest has taken the memory.

        Goes on when its caller gives up.  Raises `HypervisorError`: without room the machine is what
        it was, and what was plugged in before another failure stays.
        """
        await asyncio.shield(asyncio.ensure_future(self._grow(growth)))

    async def _grow(self, growth: Growth) -> None:
        async with self._growing:
            for addition in self._room.additions(growth):
                self._room.take(addition)
                try:
                    async with asyncio.timeout(_MONITOR_TIMEOUT):
                        await self._execute(addition.commands())
                except (QMPError, OSError, TimeoutError) as error:
                    self._room.give_back(addition)
                    if isinstance(addition, PluggedMemory):
                        await self._undo(addition.backend_removal())
                    raise HypervisorError(
                        f"QEMU cannot make the machine bigger: {self._explain(error)}"
                    ) from error
            await self.settle()

    async def settle(self) -> None:
        """Wait until the guest has taken all memory that was plugged in.

        Raises `HypervisorError` when it refuses, does not answer in time, or ends; one that has not
        answered may take it later.
        """
        mib, refused = sum(self._room.waiting.values()), self._room.refused
        timeout = _MEMORY_TIMEOUT + mib / 1024
        end = asyncio.ensure_future(self._process.wait())
        end.add_done_callback(lambda _: self._taken.set())
        try:
            async with asyncio.timeout(timeout):
                while self._room.waiting and self._process.exit_code is None:
                    self._taken.clear()
                    await self._taken.wait()
        except TimeoutError as error:
            raise HypervisorError(
                f"the guest did not take {mib} MiB of memory within {timeout:g} s; does its kernel "
                "have memory hotplug by ACPI (CONFIG_ACPI_HOTPLUG_MEMORY)?"
            ) from error
        finally:
            end.cancel()
        if self._room.waiting:
            raise HypervisorError(
                f"the guest did not take {mib} MiB of memory: {await self.wait()}"
            )
        if self._room.refused > refused:
            raise HypervisorError(
                f"the guest's kernel refused {self._room.refused - refused} MiB of memory; it needs a "
                "64th of that from what it has: raise default_memory in [hypervisor.qemu]"
            )

    def _hear(self, event: Mapping[str, object]) -> bool:
        if self._room.hear(event):
            self._taken.set()
        return False

    async def plug(self, addition: Addition) -> None:
        """Add a device; raises `HypervisorError`, and the machine does not have it then."""
        device = self._removable(addition)
        try:
            async with asyncio.timeout(_MONITOR_TIMEOUT):
                await self._execute(device.commands())
        except (QMPError, OSError, TimeoutError) as error:
            await self._undo(device.backend_removal())
            raise HypervisorError(
                f"QEMU cannot plug {addition.name} in: {self._explain(error)}"
            ) from error
        self._plugged[addition] = device

    def _removable(self, addition: Addition) -> Removable:
        match addition:
            case NetworkInterface():
                return Nic(addition, Bridge().bus)
            case Disk():
                self._disks += 1
                mode = os.fstat(addition.descriptor).st_mode
                return PluggedDisk(addition, self._disks, stat.S_ISBLK(mode))

    async def unplug(self, addition: Addition) -> None:
        """Take a device away; returns when the guest has let go of it.

        Raises `HypervisorError`; the device may be there still.
        """
        device = self._plugged[addition]

        def is_ours(event: Mapping[str, object]) -> bool:
            data = event.get("data")
            return isinstance(data, dict) and data.get("device") == device.device_id

        try:
            async with asyncio.timeout(_UNPLUG_TIMEOUT):
                with self._qmp.listener("DEVICE_DELETED", is_ours) as gone:
                    await self._qmp.execute("device_del", {"id": device.device_id})
                    await gone.get()
                await self._execute(device.backend_removal())
        except TimeoutError as error:
            raise HypervisorError(
                f"the guest did not let go of {addition.name} within {_UNPLUG_TIMEOUT:g} s"
            ) from error
        except (QMPError, OSError) as error:
            raise HypervisorError(
                f"QEMU cannot unplug {addition.name}: {self._explain(error)}"
            ) from error
        del self._plugged[addition]

    async def _execute(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if command.descriptor < 0:
                await self._qmp.execute(command.name, command.arguments)
                continue
            # A command takes the descriptor that came last: no other may come before it is answered.
            async with self._handing_over:
                self._qmp.send_fd_scm(command.descriptor)
                await self._qmp.execute(command.name, command.arguments)

    async def _undo(self, commands: Sequence[Command]) -> None:
        """Carry out each of `commands` by itself: of what they remove, not all may be there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_MONITOR_TIMEOUT):
                for command in commands:
                    with suppress(QMPError, OSError):
                        await self._execute([command])

    def _explain(self, error: Exception) -> str:
        return "; ".join(self._output.lines(3)) or str(error) or "it did not answer in time"

    async def wait(self) -> str:
        """Wait until QEMU has ended and say in words how."""
        code = await self._process.wait()
        text = f"QEMU {child.describe_exit(code)}"
        if code == 0:
            text = "the guest's kernel reset or powered itself off"
        said = self._output.lines(3)
        return f"{text} and said: {'; '.join(said)}" if said else text

    async def stop(self, *, at_once: bool = False) -> None:
        """End QEMU, politely first unless `at_once`; returns when the process is gone."""
        if self._process.exit_code is None and not at_once:
            with suppress(Exception):
                async with asyncio.timeout(_QUIT_GRACE):
                    await self._qmp.execute("quit")
                    await self._process.wait()
        self._process.kill()
        await self._process.wait()
        # Whatever the session died of is raised again here, and a QEMU that has been taken over
        # can make it die of anything.
        with suppress(Exception):
            await self._qmp.disconnect()
        self._console.close()
        self._output.close()
