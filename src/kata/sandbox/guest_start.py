"""From a configuration to a guest that answers: restored from a template, or booted.

Nothing here is a pod's but its network's interfaces, which the machine has from its first
instruction on.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

from kata.agent_client.agent import Agent
from kata.agent_client.dial import dial
from kata.config import Configuration
from kata.hypervisor.isolation import isolate
from kata.hypervisor.port import (
    Growth,
    HypervisorError,
    RestoreError,
    SharedDirectory,
    VirtualMachine,
)
from kata.hypervisor.qemu.launch import Launcher
from kata.hypervisor.watch import LostError, last_words, unless_lost
from kata.resources.cgroup import HostCgroup
from kata.sandbox.errors import StartError
from kata.sandbox.guest import Guest, first_end, lost
from kata.sandbox.journal import Journal, Kind
from kata.sandbox.ledger import Ledger
from kata.sandbox.pod_network import PodNetwork
from kata.storage.share import TAG, Share
from kata.storage.virtiofsd import Virtiofsd
from kata.template import maker
from kata.template.store import TemplateError
from ttrpc import RpcError

SEED = 64
"""Bytes of randomness for a restored guest: twice what its kernel's generator holds."""

_RESTORED_TIMEOUT = 10.0
"""Seconds for a restored agent to answer, which takes 0.15 s; after that the machine boots instead."""

_log = logging.getLogger(__name__)


class GuestStart:
    """The start of one guest; what it makes is undone by the exit stack it is given.

    `first` is the configuration with the size that a machine boots with.  The monitor goes to
    `machine_cgroup`, if that is set.
    """

    def __init__(
        self,
        journal: Journal,
        configuration: Configuration,
        ledger: Ledger,
        undo: AsyncExitStack,
        network: PodNetwork,
        first: Configuration,
    ) -> None:
        self._journal = journal
        self._configuration = configuration
        self._ledger = ledger
        self._undo = undo
        self._network = network
        self._first = first
        self.machine_cgroup: HostCgroup | None = None

    async def template(self, beyond: Growth) -> maker.Prepared | None:
        """Return what to restore the machine from, or None for one that has to boot.

        Raises `HypervisorError` when the template's machine does not boot: no other would.
        """
        if not self._configuration.factory.enable_template:
            return None
        try:
            return await maker.ready(self._configuration, TAG, self._become_machine, beyond=beyond)
        except TemplateError as error:
            _log.warning("the machine boots, for there is no template to restore: %s", error)
            return None

    def make_share(self) -> Share:
        """Make the directory that is shared with the guest; raises `OSError`."""
        share = Share(self._journal.name)
        self._journal.record(Kind.SHARE, share.base)
        self._struck_off(lambda: self._journal.strike(Kind.SHARE, share.base))
        self._undo.callback(share.destroy)
        share.create()
        return share

    async def restored(self, share: Share, prepared: maker.Prepared | None) -> Guest | None:
        """Return a guest restored from a template, or None, nothing being left, if that fails."""
        if prepared is None:
            return None
        undo, self._undo = self._undo, AsyncExitStack()
        try:
            guest = await self._start(share, prepared)
        except (HypervisorError, RpcError, StartError) as error:
            await self._undo.aclose()
            self._undo = undo
            _log.warning("the machine boots, for it could not be restored: %s", error)
            maker.failed(prepared, surely=isinstance(error, RestoreError))
            self._network.renew()
            return None
        except BaseException:
            await self._undo.aclose()
            raise
        undo.push_async_exit(self._undo)
        self._undo = undo
        maker.answered(prepared)
        return guest

    async def booted(self, share: Share) -> Guest:
        """Return a guest that was booted; raises `StartError` and what its parts raise."""
        return await self._start(share, None)

    async def _start(self, share: Share, prepared: maker.Prepared | None) -> Guest:
        """Start a machine and wait for its agent; what was made before a failure is for `undo`."""
        step = self._ledger.step
        with step("file server"):
            file_server = self._start_file_server(share)
        with step("virtual machine"):
            machine = await self._start_machine(share, file_server, prepared)
        with step("guest answer" if prepared else "guest boot"):
            agent = await self._connect(machine, file_server, prepared)
        if prepared and prepared.growth.memory_mib:
            with step("guest memory"):
                await machine.settle()
        return Guest(machine, agent, share, file_server, self._network)

    def _start_file_server(self, share: Share) -> Virtiofsd | None:
        settings = self._configuration.hypervisor
        if settings.shared_fs == "virtio-9p":
            return None  # QEMU serves it
        daemon = Virtiofsd.start(
            settings.virtio_fs_daemon,
            share.served,
            os.path.join(self._journal.directory, "fs.sock"),
            cache=settings.virtio_fs_cache,
            extra=settings.virtio_fs_extra_args,
            prepare=lambda: self._journal.add_process("virtiofsd", os.getpid()),
        )
        self._own_process("virtiofsd", daemon.process.pid)
        self._undo.push_async_callback(daemon.stop)
        return daemon

    async def _start_machine(
        self, share: Share, file_server: Virtiofsd | None, prepared: maker.Prepared | None
    ) -> VirtualMachine:
        shared = SharedDirectory(share.served, TAG, file_server.socket_path if file_server else "")
        interfaces = self._network.interfaces
        launcher = Launcher(
            prepared.base if prepared else self._first,
            self._journal.name,
            os.path.join(self._journal.directory, "console.log"),
            partial(self._become_machine, shared.socket_path or shared.path, self._network.netns),
        )
        try:
            machine = await (
                launcher.restore(shared, prepared.snapshot, prepared.growth, interfaces)
                if prepared
                else launcher.boot(shared, interfaces)
            )
        except HypervisorError as error:
            # It ends with code 0 when QEMU does: a consequence, not a cause.
            if file_server and file_server.process.exit_code:
                raise StartError(
                    f"cannot start the sandbox: {await file_server.wait()}; see "
                    "`virtio_fs_daemon` in [hypervisor.qemu]"
                ) from error
            raise
        self._own_process("qemu", machine.pid)
        self._undo.push_async_callback(machine.stop)
        if file_server:
            file_server.disconnect_path()
        return machine

    def _become_machine(self, shared: str, network: str = "") -> None:
        """Record and prepare the monitor's process, in that process."""
        self._journal.add_process("qemu", os.getpid())
        if self.machine_cgroup:
            self.machine_cgroup.enter()
        isolate(self._configuration.hypervisor, shared, network)

    def _own_process(self, name: str, pid: int) -> None:
        """Take over a process that has recorded itself."""
        self._journal.add_process(name, pid)
        self._struck_off(lambda: self._journal.strike_process(pid))

    def _struck_off(self, strike: Callable[[], None]) -> None:
        """Have something struck off the journal once what comes later on the stack is undone."""
        self._undo.push(lambda failed, *_: None if failed else strike())

    async def _connect(
        self,
        machine: VirtualMachine,
        file_server: Virtiofsd | None,
        prepared: maker.Prepared | None,
    ) -> Agent:
        """Wait for the agent's first answer."""
        settings = self._configuration.agent
        timeout = settings.reconnect_timeout_ms / 1000
        if prepared:
            timeout = min(timeout, _RESTORED_TIMEOUT)

        async def first_answer() -> Agent:
            agent = Agent(await dial(machine.channel, settings.dial_timeout))
            self._undo.push_async_callback(agent.close)
            if prepared:
                await agent.renew(os.urandom(SEED))
                if prepared.growth.vcpus:
                    await agent.online_processors(prepared.growth.vcpus)
            else:
                await agent.check()
            return agent

        try:
            return await unless_lost(
                asyncio.wait_for(first_answer(), timeout), first_end(machine, file_server)
            )
        except LostError as error:
            raise lost(machine, error) from error
        except TimeoutError as error:
            raise StartError(
                f"the guest's agent did not answer within {timeout:g} s (reconnect_timeout_ms in "
                f"[agent.kata]){last_words(machine)}"
            ) from error
        except RpcError as error:
            raise StartError(f"the guest's agent failed: {error}{last_words(machine)}") from error
