"""From the configuration to a running QEMU: booted, or restored from a snapshot."""

import asyncio
import logging
import os
import socket
import threading
import zlib
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from kata.config import Configuration
from kata.host.channel import AgentChannel, SerialChannel, VsockAddress, reserve_vsock
from kata.hypervisor import accelerator, guest_image
from kata.hypervisor.memory_file import copy, new_memory
from kata.hypervisor.port import (
    Growth,
    HypervisorError,
    NetworkInterface,
    SharedDirectory,
    Snapshot,
)
from kata.hypervisor.qemu.command import Memory
from kata.hypervisor.qemu.devices import (
    AgentPort,
    Bridge,
    Console,
    Device,
    Entropy,
    Generation,
    Monitor,
    Plan9Share,
    Slot,
    VirtioFsShare,
    Vsock,
)
from kata.hypervisor.qemu.hotplug import HotPlug, Nic, PluggedVirtioFsShare
from kata.hypervisor.qemu.machine import Machine
from kata.hypervisor.qemu.plan import guest_memory, machine_plan

SHARE_SLOT = Slot(1)
"""Where a restored machine gets its virtio-fs share."""

_FIRST_USER, _USERS = 0x60000000, 0x10000000
"""User ids for machines, far above those that systems and containers' user namespaces are given."""

_NO_GROWTH = Growth(0, 0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Launcher:
    """The start of one machine, called `name`.

    The guest's console is written to `console_log` as well; `prepare` runs in QEMU's process before
    exec.
    """

    configuration: Configuration
    name: str
    console_log: str
    prepare: Callable[[], None]

    async def boot(
        self, share: SharedDirectory, interfaces: Sequence[NetworkInterface] = ()
    ) -> Machine:
        """Start the machine from its first instruction, with `interfaces` to the network.

        Raises `HypervisorError`; nothing is left then.
        """
        self._check_guest()
        device: Device = Plan9Share(share.path, share.tag)
        if share.socket_path:
            device = self._virtio_fs(share)
        memory = guest_memory(self.configuration, shared=bool(share.socket_path))
        return await self._start(
            memory,
            [device, Bridge(), *(Nic(interface) for interface in interfaces)],
            inherited=[fd for each in interfaces for fd in (*each.taps, *each.vhosts)],
            warn=True,
        )

    async def boot_template(self, share: SharedDirectory | None, memory: int) -> Machine:
        """Start a machine that is to be saved; its memory is the file open at `memory`.

        `share` is a directory that the machine itself serves, or none for one that is plugged in
        later.  Raises `HypervisorError`; nothing is left then.
        """
        self._check_guest()
        return await self._start(
            guest_memory(self.configuration, shared=True, path=f"/proc/self/fd/{memory}"),
            template_devices(share),
            inherited=(memory,),
        )

    async def restore(
        self,
        share: SharedDirectory,
        snapshot: Snapshot,
        growth: Growth = _NO_GROWTH,
        interfaces: Sequence[NetworkInterface] = (),
    ) -> Machine:
        """Start the machine where a template of the same shape was saved.

        It has `growth` and `interfaces` plugged in from the first instruction on; the guest takes
        the memory while it runs, and the processors come into use when the agent is told.

        Raises `HypervisorError`, and nothing is left then; a `RestoreError` when QEMU refuses the
        snapshot.
        """
        state = memory = -1
        copied = bool(share.socket_path)  # what another process writes to cannot be private
        try:
            try:
                state = os.open(snapshot.state, os.O_RDONLY | os.O_CLOEXEC)
                if copied:
                    memory = new_memory(snapshot.memory)
                else:
                    memory = os.open(snapshot.memory, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:  # somebody has just removed the template
                raise HypervisorError(f"{error.filename}: {error.strerror}") from error
            starting = self._start(
                # By descriptor: QEMU opens it for writing, which it may nowhere by path.
                guest_memory(self.configuration, shared=copied, path=f"/proc/self/fd/{memory}"),
                template_devices(None if copied else share),
                inherited=(state, memory),
                incoming=True,
                warn=True,
            )
            machine = await _with_copy(starting, snapshot.memory, memory if copied else -1)
            plugged: list[HotPlug] = []
            if copied:
                plugged.append(PluggedVirtioFsShare(self._virtio_fs(share), SHARE_SLOT))
            plugged += [Nic(interface, Bridge().bus) for interface in interfaces]
            try:
                await machine.restore(state, growth, plugged)
            except BaseException:
                await machine.stop()
                raise
            return machine
        finally:
            for descriptor in (state, memory):
                if descriptor >= 0:
                    os.close(descriptor)

    @property
    def _user(self) -> int | None:
        """The user that QEMU runs as: one for each machine, so that none can touch another's."""
        if not self.configuration.hypervisor.rootless:
            return None
        return _FIRST_USER + zlib.crc32(self.name.encode()) % _USERS

    def _virtio_fs(self, share: SharedDirectory) -> VirtioFsShare:
        if self._user is not None:
            os.chown(share.socket_path, self._user, self._user)
        queue_size = self.configuration.hypervisor.virtio_fs_queue_size
        return VirtioFsShare(share.socket_path, share.tag, queue_size)

    def _check_guest(self) -> None:
        settings = self.configuration.hypervisor
        for what, path in (("kernel", settings.kernel), ("initrd", settings.initrd)):
            if not os.access(path, os.R_OK):
                raise HypervisorError(
                    f"the guest {what} {path} is missing or not readable; build the guest with "
                    f"`kata-ctl image build`, or set `{what}` in [hypervisor.qemu] of "
                    f"{self.configuration.path}"
                )
        if fault := guest_image.fault(settings.kernel, settings.initrd):
            raise HypervisorError(
                f"{fault}; build the guest with `kata-ctl image build`, or set `kernel` and "
                f"`initrd` in [hypervisor.qemu] of {self.configuration.path} to one image's"
            )

    async def _start(
        self,
        memory: Memory,
        devices: Sequence[Device],
        *,
        inherited: Sequence[int] = (),
        incoming: bool = False,
        warn: bool = False,
    ) -> Machine:
        settings = self.configuration.hypervisor
        chosen = accelerator.choose()
        if chosen.is_emulation and warn:
            _log.warning("the guest runs under emulation, which is slow: %s", chosen.reason)
        monitor, console = socket.socketpair(), socket.socketpair()
        channel, port, descriptor = _agent_channel()
        own = (Monitor(monitor[1].fileno()), Console(console[1].fileno()), port)
        plan = machine_plan(
            self.configuration,
            self.name,
            chosen,
            (*own, Entropy(settings.entropy_source), Generation(), *devices),
            memory,
            incoming=incoming,
        )
        try:
            return await Machine.start(
                plan,
                monitor=monitor,
                console=console,
                channel=channel,
                inherited=(descriptor, *inherited),
                console_log=self.console_log,
                prepare=self.prepare,
                user=self._user,
            )
        except BaseException:
            if isinstance(channel, SerialChannel):
                channel.socket.close()
            raise
        finally:
            os.close(descriptor)


async def _with_copy(starting: Coroutine[Any, Any, Machine], path: str, memory: int) -> Machine:
    """Await a machine that starts, and meanwhile fill its memory, if that is a file of its own.

    QEMU needs what is in it for the state only, some 40 ms later.  Raises what `starting` does, and
    `RestoreError`; no machine is left then.
    """
    machine = asyncio.ensure_future(starting)
    try:
        await asyncio.sleep(0)  # QEMU is forked in there, before there is a thread
        if memory >= 0:
            await _in_thread(partial(copy, path, memory))
        return await machine
    except BaseException as error:
        machine.cancel()
        with suppress(asyncio.CancelledError, HypervisorError):
            await (await machine).stop()
        if isinstance(error, OSError):
            raise HypervisorError(f"cannot copy {path}: {error}") from error
        raise


async def _in_thread(work: Callable[[], None]) -> None:
    """Await work that the kernel does; no thread is left, for a process that has one must not fork."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        try:
            work()
        except OSError as error:
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        await asyncio.shield(done)
    finally:
        thread.join()


def template_devices(share: SharedDirectory | None) -> tuple[Device, ...]:
    """Return the devices that a template and its clones have beside those of every machine."""
    if share is None:
        return (SHARE_SLOT, Bridge())
    return (Plan9Share(share.path, share.tag), Bridge())


def _agent_channel() -> tuple[AgentChannel, Device, int]:
    """Return our side of the agent's channel, QEMU's device for it, and QEMU's descriptor."""
    reserved = reserve_vsock()
    if reserved:
        descriptor, cid = reserved
        return VsockAddress(cid), Vsock(descriptor, cid), descriptor
    ours, theirs = socket.socketpair()
    descriptor = theirs.detach()
    return SerialChannel(ours), AgentPort(descriptor), descriptor
