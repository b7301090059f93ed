"""A guest that stands by: restored from its template, and waiting for the pod that it is for.

Its run directory, share and control group are its own until then.  Whatever follows from a pod comes when
it joins: names, control groups, interfaces, more processors and memory.
"""

import asyncio
import logging
import os
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

from kata.config import Configuration
from kata.host import proc
from kata.host.mounts import Mount
from kata.hypervisor.port import Growth
from kata.resources.cgroup import OVERHEAD, HostCgroup, hierarchies
from kata.sandbox import accounting, facts
from kata.sandbox.errors import StartError
from kata.sandbox.guest import Guest
from kata.sandbox.guest_start import SEED, GuestStart
from kata.sandbox.journal import Journal, Kind
from kata.sandbox.ledger import Ledger, now
from kata.sandbox.pod_network import PodNetwork
from kata.template import rehearsal
from kata.template.maker import Prepared
from kata_api import oci

_NO_GROWTH = Growth(0, 0)

_REHEARSAL_TIMEOUT = 60.0
"""Seconds for a rehearsal, which takes one."""

_log = logging.getLogger(__name__)


class Standby:
    """One guest without a pod, from `start` until `give_back`, which ends one that has joined, too."""

    def __init__(self, journal: Journal, configuration: Configuration) -> None:
        self.journal = journal
        self._configuration = configuration
        self.origin = hierarchies()
        """The control groups that the calling process came from: those of whatever starts shims."""
        self._is_in_pods_group = False
        self.is_taken = False
        """Whether it is a sandbox's, or was given back for one: whoever took it ends it."""
        self._guest: Guest
        self._prepared: Prepared
        self._undo = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Standby {self.journal.name}>"

    @classmethod
    async def start(
        cls, configuration: Configuration, name: str, socket: str, like: oci.Spec | None
    ) -> "Standby":
        """Restore a guest, its run directory called `name`, which is claimed at `socket`.

        It then rehearses the life of a container, `like` one that it may get if that is given.  The calling process and
        what it starts are in a control group of the guest's until it joins a pod.

        Raises `StartError` when no template can be restored, `TimeoutError` when the rehearsal does not
        end, and what else its parts raise; nothing is left then.
        """
        journal = Journal(name, socket)
        journal.facts = facts.describe(name, "", configuration, {})
        standby = cls(journal, configuration)
        journal.create()
        try:
            standby._enter_group()
            await standby._restore()
            try:
                async with asyncio.timeout(_REHEARSAL_TIMEOUT):
                    await standby._rehearse(like)
            except TimeoutError as error:
                raise TimeoutError(
                    f"its rehearsal did not end within {_REHEARSAL_TIMEOUT:g} s"
                ) from error
        except BaseException:
            await standby.end()
            raise
        return standby

    def _enter_group(self) -> None:
        """Have the host account for the guest in a group of its own, not in containerd's."""
        group = HostCgroup(f"/{OVERHEAD}", self.journal.name, self.origin)
        try:
            accounting.make(group, self.journal, self._undo)
            self._undo.callback(self._leave, group)
            group.enter()
        except OSError as error:
            _log.warning("who stands by has no control group of its own: %s", error)

    def _leave(self, group: HostCgroup) -> None:
        if not self._is_in_pods_group:
            group.leave()

    def entered_pods_group(self) -> None:
        """Note that the calling process is in the control group of the pod, and stays there."""
        self._is_in_pods_group = True

    async def _restore(self) -> None:
        configuration, journal = self._configuration, self.journal
        network = PodNetwork("", configuration)
        ledger = Ledger(journal.name, now())
        start = GuestStart(journal, configuration, ledger, self._undo, network, configuration)
        prepared = await start.template(_NO_GROWTH)
        guest = await start.restored(start.make_share(), prepared)
        if prepared is None or guest is None:
            raise StartError("only a guest that is restored from a template can stand by")
        self._guest, self._prepared = guest, prepared

    async def _rehearse(self, like: oci.Spec | None) -> None:
        share = self._guest.share
        root = share.add_root(rehearsal.NAME, [Mount("tmpfs", "tmpfs", options=("mode=0755",))])
        storage = self._guest.shared_storage(self._configuration)
        await rehearsal.rehearse(self._guest.agent, share=storage, root=root, like=like)
        share.remove(rehearsal.NAME)

    async def wait(self) -> str:
        """Wait until the guest is lost, and say in words why."""
        return await self._guest.wait()

    def rename(self, name: str, socket: str, told: dict[str, Any]) -> None:
        """Take the names of the sandbox that the guest is to be; raises `OSError`."""
        share, journal = self._guest.share, self.journal
        journal.rename(name, socket, told)
        self.is_taken = True
        old = share.base
        journal.record(Kind.SHARE, os.path.join(os.path.dirname(old), name))
        share.rename(name)
        journal.strike(Kind.SHARE, old)

    def fits(self, prepared: Prepared) -> bool:
        """Tell whether the guest is what a sandbox would be restored to, but for its size."""
        mine = self._prepared
        return (mine.name, mine.made_at, mine.base) == (
            prepared.name,
            prepared.made_at,
            prepared.base,
        )

    def move(self, machine: HostCgroup, others: HostCgroup) -> None:
        """Move the monitor to one control group, and all else of the guest's to the other.

        What the guest has in memory until then stays accounted for in the group of its own, which is
        there until `give_back`.  Raises `OSError`.
        """
        machine.take(self._guest.machine.pid)
        if self._guest.file_server:
            first = self._guest.file_server.process.pid
            for pid in (first, *proc.children(first)):
                others.take(pid)

    async def join(self, network: PodNetwork, growth: Growth) -> Guest:
        """Return the guest with the interfaces and the size of its pod, unlike any other.

        Raises `HypervisorError` and `RpcError`; the guest is of no use then.
        """
        machine, agent = self._guest.machine, self._guest.agent
        await agent.renew(os.urandom(SEED))
        if growth != _NO_GROWTH:
            await machine.grow(growth)
            if growth.vcpus:
                await agent.online_processors(growth.vcpus)
        for interface in network.interfaces:
            await machine.plug(interface)
        return replace(self._guest, network=network)

    async def give_back(self) -> None:
        """End the guest and remove all that it has but the run directory; may be called again."""
        self.is_taken = True
        await self._undo.aclose()

    async def end(self) -> None:
        """End a guest that nobody has taken, and remove all that it has; goes on when cancelled."""
        ending = asyncio.ensure_future(self._end())
        while not ending.done():
            with suppress(asyncio.CancelledError):  # whoever is cancelled here is ending already
                await asyncio.wait({ending})
        ending.result()

    async def _end(self) -> None:
        await self.give_back()
        self.journal.discard()
