"""The way from nothing to a guest that takes containers: a list of steps, each undoable."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from kata.agent_client.agent import Agent, GuestStorage
from kata.agent_client.dial import dial
from kata.config import Configuration
from kata.hypervisor.isolation import isolate
from kata.hypervisor.port import (
    HypervisorError,
    RestoreError,
    SharedDirectory,
    VirtualMachine,
)
from kata.hypervisor.qemu.launch import Launcher
from kata.hypervisor.watch import SAME_CAUSE, LostError, last_words, unless_lost
from kata.network.errors import NetworkError
from kata.resources.cgroup import OVERHEAD, HostCgroup, hierarchies, parent_of
from kata.sandbox.errors import StartError
from kata.sandbox.journal import Journal, Kind
from kata.sandbox.ledger import Ledger
from kata.sandbox.pod import Pod
from kata.sandbox.pod_network import PodNetwork
from kata.sandbox.sizing import Sizing
from kata.storage.share import GUEST_ROOT, TAG, Share
from kata.storage.virtiofsd import Virtiofsd, VirtiofsdError
from kata.template import maker
from kata.template.store import TemplateError
from ttrpc import RpcError

_WRITABLE = "; the shim, which runs as root, has to be able to write there"

_REMEDIES = {
    errno.ENOSPC: "; free space or inodes there, or let `kata-ctl cleanup` remove what is dead",
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
}
"""What to do about errors of the host's file systems."""

_SEED = 64
"""Bytes of randomness for a restored guest: twice what its kernel's generator holds."""

_RESTORED_TIMEOUT = 10.0
"""Seconds for a restored agent to answer, which takes 0.15 s; after that the machine boots instead."""

_CGROUP_PATIENCE = 3.0
"""Seconds for the last processes to leave their control group; they were killed before."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that takes containers, and all on the host that it depends on."""

    machine: VirtualMachine
    agent: Agent
    share: Share
    file_server: Virtiofsd | None
    network: PodNetwork

    async def wait(self) -> str:
        """Wait until the guest is lost, through whichever part of it, and say in words why."""
        processes = asyncio.ensure_future(_first_end(self.machine, self.file_server))
        connection = asyncio.ensure_future(self.agent.wait_closed())
        try:
            await asyncio.wait({processes, connection}, return_when=asyncio.FIRST_COMPLETED)
            # A process that ends closes the connection, too, and says more.
            await asyncio.wait({processes}, timeout=SAME_CAUSE)
            if processes.done():
                return processes.result()
            return f"its agent cannot be talked to any more: {connection.result()}"
        finally:
            processes.cancel()
            connection.cancel()


class BringUp:
    """One bring-up; what it makes is undone by the exit stack it is given."""

    def __init__(
        self,
        pod: Pod,
        journal: Journal,
        configuration: Configuration,
        ledger: Ledger,
        undo: AsyncExitStack,
        sizing: Sizing,
    ) -> None:
        self._pod = pod
        self._journal = journal
        self._configuration = configuration
        self._ledger = ledger
        self._undo = undo
        self._sizing = sizing
        self._machine_cgroup: HostCgroup | None = None
        self._network = PodNetwork(pod.netns, configuration)

    async def run(self) -> Guest:
        """Take all steps.

        Raises `StartError`, with the last lines of the guest's console where there was one; the
        caller unwinds the exit stack, after which nothing is left.
        """
        step = self._ledger.step
        try:
            with step("run directory"):
                self._make_run_directory()
            with step("control group"):
                self._enter_cgroup(self._pod.cgroups_path)
            with step("network"):
                self._connect_network()
            with step("shared directory"):
                share = self._make_share()
            with step("template"):
                prepared = await self._template()
            guest = await self._restored(share, prepared) or await self._start_guest(share, None)
            self._network.handed_over()
            with step("guest sandbox"):
                await self._create_guest_sandbox(guest)
            with step("port-forward"):
                await self._forward_ports(guest.agent)
        except (OSError, HypervisorError, NetworkError, VirtiofsdError, RpcError) as error:
            raise StartError(f"cannot start the sandbox: {error}{self._remedy(error)}") from error
        except StartError as error:
            raise StartError(f"{error}{self._remedy(error)}") from error
        return guest

    def _remedy(self, error: Exception) -> str:
        """Return what to do about an error, where its text does not say so."""
        text = str(error)
        mib = self._sizing.first.hypervisor.default_memory
        if isinstance(error, OSError):
            return _REMEDIES.get(error.errno or 0, "")
        if "Cannot allocate memory" in text:
            return f"; free memory, or lower default_memory in [hypervisor.qemu] from {mib} MiB"
        if "reset" in text and "guest console" not in text:
            return (
                "; a guest that says nothing before may have too little memory: default_memory in "
                f"[hypervisor.qemu] is {mib} MiB"
            )
        return ""

    async def _template(self) -> maker.Prepared | None:
        """Return what to restore the machine from, or None for one that has to boot.

        Raises `HypervisorError` when the template's machine does not boot: no other would.
        """
        if not self._configuration.factory.enable_template:
            return None
        try:
            return await maker.ready(
                self._configuration, TAG, self._become_machine, beyond=self._sizing.beyond
            )
        except TemplateError as error:
            _log.warning("the machine boots, for there is no template to restore: %s", error)
            return None

    async def _restored(self, share: Share, prepared: maker.Prepared | None) -> Guest | None:
        """Return a guest restored from a template, or None, nothing being left, if that fails."""
        if prepared is None:
            return None
        undo, self._undo = self._undo, AsyncExitStack()
        try:
            guest = await self._start_guest(share, prepared)
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

    async def _start_guest(self, share: Share, prepared: maker.Prepared | None) -> Guest:
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

    def _make_run_directory(self) -> None:
        self._journal.create()
        # `delete` needs the record for as long as something could not be given back.
        self._undo.push(lambda failed, *_: None if failed else self._journal.discard())

    def _enter_cgroup(self, cgroups_path: str) -> None:
        """Have the host account for the sandbox below the pod's group; without, warn and go on."""
        try:
            parent, trees = parent_of(cgroups_path), hierarchies()
            group = HostCgroup(parent, f"kata_{self._journal.name}", trees)
            self._make_cgroup(group)
            if not self._configuration.runtime.sandbox_cgroup_only:
                self._machine_cgroup = group
                above = f"/{OVERHEAD}" if parent.startswith("/") else OVERHEAD
                group = HostCgroup(above, self._journal.name, trees)
                self._make_cgroup(group)
            self._undo.callback(group.leave)
            group.enter()
        except (OSError, ValueError) as error:
            self._machine_cgroup = None
            _log.warning(
                "the sandbox stays in containerd's control group, for it can have none of its own: %s",
                error,
            )

    def _make_cgroup(self, group: HostCgroup) -> None:
        def kind(path: str) -> Kind:
            return Kind.CGROUP if path in group.paths else Kind.CGROUP_ABOVE

        self._undo.push_async_callback(
            group.remove_in_time,
            lambda path: self._journal.strike(kind(path), path),
            _CGROUP_PATIENCE,
        )
        group.create(lambda path: self._journal.record(kind(path), path))

    def _connect_network(self) -> None:
        if self._pod.netns:
            self._journal.record(Kind.NETWORK, self._pod.netns)
            self._struck_off(lambda: self._journal.strike(Kind.NETWORK, self._pod.netns))
            self._undo.callback(self._network.disconnect)
            self._network.connect()

    async def _forward_ports(self, agent: Agent) -> None:
        if stop := await self._network.forward_ports(agent):
            self._undo.push_async_callback(stop)

    def _make_share(self) -> Share:
        share = Share(self._journal.name)
        self._journal.record(Kind.SHARE, share.base)
        self._struck_off(lambda: self._journal.strike(Kind.SHARE, share.base))
        self._undo.callback(share.destroy)
        share.create()
        return share

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
            prepared.base if prepared else self._sizing.first,
            self._journal.name,
            os.path.join(self._journal.directory, "console.log"),
            partial(self._become_machine, shared.socket_path or shared.path, self._pod.netns),
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
        if self._machine_cgroup:
            self._machine_cgroup.enter()
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
                await agent.renew(os.urandom(_SEED))
                if prepared.growth.vcpus:
                    await agent.online_processors(prepared.growth.vcpus)
            else:
                await agent.check()
            return agent

        try:
            return await unless_lost(
                asyncio.wait_for(first_answer(), timeout), _first_end(machine, file_server)
            )
        except LostError as error:
            raise _lost(machine, error) from error
        except TimeoutError as error:
            raise StartError(
                f"the guest's agent did not answer within {timeout:g} s (reconnect_timeout_ms in "
                f"[agent.kata]){last_words(machine)}"
            ) from error
        except RpcError as error:
            raise StartError(f"the guest's agent failed: {error}{last_words(machine)}") from error

    async def _create_guest_sandbox(self, guest: Guest) -> None:
        settings = self._configuration.hypervisor
        if guest.file_server:
            storage = GuestStorage("virtio-fs", TAG, "virtiofs", GUEST_ROOT, ("nodev",))
        else:
            options = f"trans=virtio,version=9p2000.L,cache=mmap,msize={settings.msize_9p}"
            storage = GuestStorage("9p", TAG, "9p", GUEST_ROOT, tuple(options.split(",")))

        async def create() -> None:
            # The network first: sysctls may be those of its interfaces.
            await self._network.configure(guest.agent)
            await guest.agent.create_sandbox(
                self._pod.id,
                self._pod.hostname or socket.gethostname(),
                [storage],
                self._configuration.agent.kernel_modules,
                self._pod.dns,
                self._pod.sysctls,
            )

        try:
            await unless_lost(create(), _first_end(guest.machine, guest.file_server))
        except LostError as error:
            raise _lost(guest.machine, error) from error
        except RpcError as error:
            raise StartError(
                f"the guest refused the sandbox: {error}{last_words(guest.machine)}"
            ) from error


def _lost(machine: VirtualMachine, error: LostError) -> StartError:
    return StartError(f"the guest ended while it started: {error}{last_words(machine)}")


async def _first_end(machine: VirtualMachine, file_server: Virtiofsd | None) -> str:
    waits = [asyncio.ensure_future(machine.wait())]
    if file_server:
        waits.append(asyncio.ensure_future(file_server.wait()))
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if waits[0] not in done:
            await asyncio.wait(waits[:1], timeout=SAME_CAUSE)
        return next(each.result() for each in waits if each.done())
    finally:
        for each in waits:
            each.cancel()
