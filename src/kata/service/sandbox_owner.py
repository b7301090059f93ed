"""The one sandbox of this shim: brought up once, ended once, whoever asks for it."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping

from google.protobuf.any_pb2 import Any as AnyMessage

from kata.config import (
    Configuration,
    RuntimeSettings,
    apply_annotations,
    check_container,
    load,
)
from kata.sandbox import facts, guest_spec, history, identity
from kata.sandbox.container import ContainerRequest
from kata.sandbox.errors import InvalidRequestError, NotFoundError
from kata.sandbox.journal import Journal
from kata.sandbox.ledger import Ledger, now
from kata.sandbox.pod import Pod, pod_of
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.sizing import Sizing
from kata.sandbox.standby import Standby
from kata.service import from_containerd, to_containerd
from kata.service.publisher import Publisher
from kata_api import oci

_LOG_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

_log = logging.getLogger(__name__)


class SandboxOwner:
    """Holds no sandbox, or one.

    `address` is the path of the shim's socket and `origin` is when the shim was started, in seconds of
    the boot clock.  A guest that stands by, `standby`, becomes the sandbox's if it fits.  `on_started`
    is told the configuration, and how the first container is confined, once that runs.
    """

    def __init__(
        self,
        publisher: Publisher,
        address: str,
        origin: float,
        standby: Standby | None = None,
        on_started: Callable[[Configuration, oci.Spec], None] = lambda *_: None,
    ) -> None:
        self._publisher = publisher
        self._address = address
        self._origin = origin
        self._standby = standby
        self._on_started = on_started
        self._sandbox: Sandbox | None = None
        self._past = ""
        self._ledger: Ledger | None = None
        self._directory = ""
        self._ending: asyncio.Task[None] | None = None
        self._bring_up = asyncio.Lock()

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox; raises `NotFoundError` while there is none."""
        if self._sandbox is None:
            raise NotFoundError(self._past or "no container has been created in this shim")
        return self._sandbox

    @property
    def present(self) -> Sandbox | None:
        """The sandbox, or None."""
        return self._sandbox

    async def for_container(self, wanted: ContainerRequest, options: AnyMessage) -> Sandbox:
        """Return the sandbox that a container belongs to, brought up now for its first.

        Raises `NotFoundError` for a container of a pod whose sandbox is not here.
        """
        annotations = wanted.spec.annotations
        sandbox_id = _legal(wanted.id, annotations)
        async with self._bring_up:
            if self._sandbox is None and sandbox_id != wanted.id:
                raise NotFoundError(
                    f"container {wanted.id} belongs to sandbox {sandbox_id}, which does not run "
                    f"({self._past or 'its shim has ended'}); start the pod anew"
                )
            if self._sandbox is None:
                ledger = self._new_ledger(sandbox_id)
                with ledger.step("configuration"):
                    configuration = _configuration(options, annotations)
                    _check(wanted, configuration)
                    pod = pod_of(sandbox_id, wanted.spec)
                self._sandbox = await self._start(pod, configuration, annotations, ledger)
            else:
                check_container(self._sandbox.configuration, annotations)
                _check(wanted, self._sandbox.configuration)
            return self._sandbox

    async def bring_up(
        self, pod: Pod, options: AnyMessage, annotations: Mapping[str, str]
    ) -> Sandbox:
        """Return the sandbox of a pod that is given before its containers.

        Raises what its start raises; none is there then.
        """
        _legal(pod.id, {})  # the annotations are the pod's author's here, and say nothing of the id
        async with self._bring_up:
            if self._sandbox is None:
                ledger = self._new_ledger(pod.id)
                with ledger.step("configuration"):
                    configuration = _configuration(options, annotations)
                self._sandbox = await self._start(pod, configuration, annotations, ledger)
            return self._sandbox

    def _new_ledger(self, sandbox_id: str) -> Ledger:
        ledger = Ledger(sandbox_id, self._origin)
        ledger.add("shim start", self._origin, now())
        return ledger

    async def _start(
        self,
        pod: Pod,
        configuration: Configuration,
        annotations: Mapping[str, str],
        ledger: Ledger,
    ) -> Sandbox:
        if self._ending:  # its directories have the names that this one would take
            await asyncio.wait({self._ending})
        sizing = Sizing(configuration, pod.demand)
        _set_log_level(configuration.runtime)
        told = facts.describe(pod.id, self._publisher.namespace, sizing.first, annotations)
        journal, standby = await self._journal(pod, told)
        sizing.follow(lambda size: journal.tell(facts.of_size(size.vcpus, size.memory_mib)))
        sandbox = Sandbox(
            pod,
            journal,
            configuration,
            lambda event: self._publisher.publish(to_containerd.event(event)),
            ledger,
            sizing,
            standby,
        )
        try:
            await sandbox.start()
        except BaseException as error:
            history.save_ledger({**ledger.record(), "error": str(error)}, journal.kept)
            raise
        history.save_ledger(ledger.record(), journal.directory)
        self._ledger, self._directory = ledger, journal.directory
        return sandbox

    async def _journal(self, pod: Pod, told: dict[str, object]) -> tuple[Journal, Standby | None]:
        """Return the record of a sandbox, and the guest that stood by under it, if there is one."""
        name = identity.directory_name(pod.id, self._address)
        standby = self._standby
        if standby:
            try:
                standby.rename(name, self._address, told)
            except OSError as error:
                _log.warning("the guest that stood by cannot be used: %s", error)
                await self._give_back()
            else:
                self._standby = None
                return standby.journal, standby
        journal = Journal(name, self._address)
        journal.facts = told
        return journal, None

    async def _give_back(self) -> None:
        """End the guest that still stands by, if there is one."""
        standby, self._standby = self._standby, None
        if standby:
            await standby.give_back()
            standby.journal.discard()

    def started(self, container_id: str) -> None:
        """Note that a container runs: with the first one the record of the start is complete."""
        if self._ledger:
            sandbox = self.sandbox
            if container := sandbox.containers.get(container_id):
                configuration = sandbox.configuration
                guest_seccomp = not configuration.runtime.disable_guest_seccomp
                spec = guest_spec.confinement(container.request.spec, guest_seccomp=guest_seccomp)
                self._on_started(configuration, spec)
            record = self._ledger.record()
            _log.info("start ledger %s", json.dumps(record))
            history.save_ledger(record, self._directory)
            self._ledger = None

    async def end(self) -> None:
        """Stop the sandbox, once, however many ask; goes on when the asker's time is up."""
        sandbox, self._sandbox = self._sandbox, None
        if sandbox:
            self._past = f"sandbox {sandbox.id} was deleted, and its containers with it"
            self._ending = asyncio.create_task(sandbox.stop())
        if self._ending:
            await asyncio.shield(self._ending)
        await self._give_back()


def _legal(container_id: str, annotations: Mapping[str, str]) -> str:
    try:
        return identity.sandbox_id(container_id, annotations)
    except ValueError as error:
        raise InvalidRequestError(str(error)) from error


def _configuration(options: AnyMessage, annotations: Mapping[str, str]) -> Configuration:
    return apply_annotations(load(from_containerd.config_path(options)), annotations)


def _check(wanted: ContainerRequest, configuration: Configuration) -> None:
    guest_spec.check(wanted.spec, guest_seccomp=not configuration.runtime.disable_guest_seccomp)


def _set_log_level(settings: RuntimeSettings) -> None:
    """Log as the configuration says; a containerd in debug mode has asked for more already."""
    wanted = logging.DEBUG if settings.enable_debug else _LOG_LEVELS[settings.log_level]
    root = logging.getLogger()
    if root.level != logging.DEBUG:
        root.setLevel(wanted)
