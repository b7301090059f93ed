"""The way from nothing to a guest that takes containers: a list of steps, each undoable."""

import errno
import logging
import socket
from contextlib import AsyncExitStack
from functools import partial

from kata.agent_client.agent import Agent
from kata.config import Configuration
from kata.hypervisor.port import HypervisorError
from kata.hypervisor.watch import LostError, last_words, unless_lost
from kata.network.errors import NetworkError
from kata.resources.cgroup import OVERHEAD, HostCgroup, hierarchies, parent_of
from kata.sandbox import accounting
from kata.sandbox.errors import StartError
from kata.sandbox.guest import Guest, first_end, lost
from kata.sandbox.guest_start import GuestStart
from kata.sandbox.journal import Journal, Kind
from kata.sandbox.ledger import Ledger
from kata.sandbox.pod import Pod
from kata.sandbox.pod_network import PodNetwork
from kata.sandbox.sizing import Sizing
from kata.sandbox.standby import Standby
from kata.storage.virtiofsd import VirtiofsdError
from kata.template import maker
from ttrpc import RpcError

_WRITABLE = "; the shim, which runs as root, has to be able to write there"

_REMEDIES = {
    errno.ENOSPC: "; free space or inodes there, or let `kata-ctl cleanup` remove what is dead",
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
}
"""What to do about errors of the host's file systems."""

_log = logging.getLogger(__name__)


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
        standby: Standby | None = None,
    ) -> None:
        self._pod = pod
        self._journal = journal
        self._configuration = configuration
        self._ledger = ledger
        self._undo = undo
        self._sizing = sizing
        self._standby = standby
        self._machine_cgroup: HostCgroup | None = None
        self._own_cgroup: HostCgroup | None = None
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
            start = GuestStart(
                *(self._journal, self._configuration, self._ledger, self._undo, self._network),
                self._sizing.first,
            )
            start.machine_cgroup = self._machine_cgroup
            with step("template"):
                prepared = await start.template(self._sizing.beyond)
            guest = await self._from_standby(prepared) or await self._started(start, prepared)
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

    async def _started(self, start: GuestStart, prepared: maker.Prepared | None) -> Guest:
        with self._ledger.step("shared directory"):
            share = start.make_share()
        return await start.restored(share, prepared) or await start.booted(share)

    async def _from_standby(self, prepared: maker.Prepared | None) -> Guest | None:
        """Return the guest that stood by, or None, nothing of it being left, if it is of no use."""
        standby = self._standby
        if standby is None:
            return None
        try:
            with self._ledger.step("standby"):
                if prepared is None or not standby.fits(prepared):
                    raise StartError("it is of another template or configuration")
                if self._own_cgroup:
                    standby.move(self._machine_cgroup or self._own_cgroup, self._own_cgroup)
                guest = await standby.join(self._network, prepared.growth)
        except (OSError, HypervisorError, RpcError, StartError) as error:
            _log.info("the machine that stood by is not used: %s", error)
            await standby.give_back()
            self._network.renew()
            return None
        # It ends before what was made for the pod until now is undone.
        self._undo.push_async_callback(standby.give_back)
        return guest

    def _make_run_directory(self) -> None:
        if self._standby is None:
            self._journal.create()  # that of a guest which stood by is there
        # `delete` needs the record for as long as something could not be given back.
        self._undo.push(lambda failed, *_: None if failed else self._journal.discard())
        if self._standby:
            self._undo.push_async_callback(self._standby.give_back)

    def _enter_cgroup(self, cgroups_path: str) -> None:
        """Have the host account for the sandbox below the pod's group; without, warn and go on."""
        try:
            parent = parent_of(cgroups_path)
            trees = self._standby.origin if self._standby else hierarchies()
            group = HostCgroup(parent, f"kata_{self._journal.name}", trees)
            accounting.make(group, self._journal, self._undo)
            if not self._configuration.runtime.sandbox_cgroup_only:
                self._machine_cgroup = group
                above = f"/{OVERHEAD}" if parent.startswith("/") else OVERHEAD
                group = HostCgroup(above, self._journal.name, trees)
                accounting.make(group, self._journal, self._undo)
            self._undo.callback(group.leave)
            group.enter()
            self._own_cgroup = group
            if self._standby:
                self._standby.entered_pods_group()
        except (OSError, ValueError) as error:
            self._machine_cgroup = None
            _log.warning(
                "the sandbox stays in containerd's control group, for it can have none of its own: %s",
                error,
            )

    def _connect_network(self) -> None:
        if self._pod.netns:
            self._journal.record(Kind.NETWORK, self._pod.netns)
            strike = partial(self._journal.strike, Kind.NETWORK, self._pod.netns)
            self._undo.push(lambda failed, *_: None if failed else strike())
            self._undo.callback(self._network.disconnect)
            self._network.connect()

    async def _forward_ports(self, agent: Agent) -> None:
        if stop := await self._network.forward_ports(agent):
            self._undo.push_async_callback(stop)

    async def _create_guest_sandbox(self, guest: Guest) -> None:
        async def create() -> None:
            # The network first: sysctls may be those of its interfaces.
            await self._network.configure(guest.agent)
            await guest.agent.create_sandbox(
                self._pod.id,
                self._pod.hostname or socket.gethostname(),
                [guest.shared_storage(self._configuration)],
                self._configuration.agent.kernel_modules,
                self._pod.dns,
                self._pod.sysctls,
            )

        try:
            await unless_lost(create(), first_end(guest.machine, guest.file_server))
        except LostError as error:
            raise lost(guest.machine, error) from error
        except RpcError as error:
            raise StartError(
                f"the guest refused the sandbox: {error}{last_words(guest.machine)}"
            ) from error
