"""The making of a template: boot a machine, wait for its agent, save it."""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial

from kata.agent_client.agent import Agent
from kata.agent_client.dial import dial
from kata.config import Configuration
from kata.hypervisor import memory_file
from kata.hypervisor.port import Growth, HypervisorError, SharedDirectory, Snapshot, VirtualMachine
from kata.hypervisor.qemu.launch import Launcher
from kata.hypervisor.watch import LostError, last_words, unless_lost
from kata.template import initrd
from kata.template.base import base_of
from kata.template.key import Key
from kata.template.rehearsal import rehearse
from kata.template.store import Store, TemplateError
from ttrpc import RpcError

_MODULES = ("overlay", "virtiofs", "virtio_net", "9p")
"""Modules of the guest's kernel that a clone needs for what a template has not got or not mounted."""

_MARGIN = 30.0
"""Seconds, beyond those of a boot, that another maker is given before we boot without a template."""

_QUIET_STEP = 0.1
"""Seconds of one look at a machine."""

_QUIET_NS = 2_000_000
"""Processor time below which a machine was idle in one look."""

_QUIET_IN_A_ROW = 5
"""Idle looks after which a machine is quiet."""

_QUIET_LOOKS = 30
"""Looks at most, whatever the machine does."""

_AS_CONFIGURED = Growth(0, 0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a sandbox is restored from: a template, its configuration, and what to plug in.

    `made_at` tells the template from another that took its name later.
    """

    name: str
    made_at: float
    snapshot: Snapshot
    base: Configuration
    growth: Growth


async def ready(
    configuration: Configuration,
    tag: str,
    prepare: Callable[[str], None],
    progress: Callable[[str], None] = _log.info,
    beyond: Growth = _AS_CONFIGURED,
) -> Prepared:
    """Return what a configuration is restored from; its template is made now when there is none.

    `beyond` is what the pod's limits ask for on top of the configuration's size.
    Whoever comes while it is being made waits for it.  `tag` is that of the shared directory and
    `prepare` runs in QEMU's process, with the directory that it serves or "".  What was not
    completed is gone when this raises: `HypervisorError` when the machine does not boot, else
    `TemplateError`.
    """
    store = Store(configuration.factory.template_path)
    try:
        base, growth = base_of(configuration, beyond)
        key = Key.of(base)
        snapshot = store.ready(key)
        if snapshot is None:
            boot = configuration.agent.reconnect_timeout_ms / 1000
            async with store.turn(key, boot + _MARGIN):
                snapshot = store.checked(key)
                if snapshot is None:
                    store.sweep()
                    for name, reason in store.remove_stale():
                        progress(f"removed the template {name}: {reason}")
                    snapshot = await _make(base, store, key, tag, prepare, progress)
        template = store.load(key.name)
        return Prepared(key.name, template.made_at if template else 0, snapshot, base, growth)
    except OSError as error:
        raise TemplateError(
            f"{error}; see `template_path` and `enable_template` in [factory]"
        ) from error


def failed(prepared: Prepared, *, surely: bool) -> None:
    """Note that a sandbox could not be restored; a template that is `surely` to blame is removed."""
    store = Store(prepared.base.factory.template_path)
    with suppress(OSError):  # it is gone already, or the disk is full: the next start will see
        if store.blame(prepared.name, prepared.made_at, surely=surely):
            _log.warning("the template %s is removed: it cannot be restored", prepared.name)


def answered(prepared: Prepared) -> None:
    """Note that a restored sandbox has answered."""
    Store(prepared.base.factory.template_path).absolve(prepared.name)


async def _make(
    configuration: Configuration,
    store: Store,
    key: Key,
    tag: str,
    prepare: Callable[[str], None],
    progress: Callable[[str], None],
) -> Snapshot:
    begin = time.monotonic()
    size = configuration.hypervisor.default_memory << 20
    draft = store.draft(key)
    memory = os.memfd_create("template-memory", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory, size)
        progress(f"making the template {key.name}: booting")
        booted_with = await _boot_and_save(
            configuration, key, draft, memory, tag, prepare, progress
        )
        progress(f"making the template {key.name}: writing its memory")
        freed = initrd.place(booted_with)
        digest, kept = memory_file.store(memory, os.path.join(draft, "memory"), freed)
        seconds = time.monotonic() - begin
        snapshot = store.publish(key, draft, digest, kept, seconds)
        progress(f"made the template {key.name}: {kept >> 20} MiB in {seconds:.1f} s")
        return snapshot
    finally:
        os.close(memory)
        shutil.rmtree(draft, ignore_errors=True)


async def _boot_and_save(
    configuration: Configuration,
    key: Key,
    draft: str,
    memory: int,
    tag: str,
    prepare: Callable[[str], None],
    progress: Callable[[str], None],
) -> bytes:
    """Save a booted machine in `draft` and `memory`; return the parameters its kernel was given."""
    # 9p is part of the machine and shows its clones other directories; this one stays empty.
    empty = os.path.join(draft, "share")
    served = configuration.hypervisor.shared_fs == "virtio-9p"
    launcher = Launcher(
        configuration,
        f"template-{key.name}",
        os.path.join(draft, "console.log"),
        partial(prepare, empty if served else ""),
    )
    async with AsyncExitStack() as undo:
        if served:
            os.mkdir(empty, 0o700)
            undo.callback(shutil.rmtree, empty, ignore_errors=True)
        shared = SharedDirectory(empty, tag) if served else None
        machine = await launcher.boot_template(shared, memory)
        undo.push_async_callback(machine.stop)
        agent = await _first_answer(machine, configuration, undo)
        progress(f"making the template {key.name}: playing a container's life")
        try:
            booted_with = await rehearse(agent, _MODULES)
        except RpcError as error:
            raise TemplateError(f"its agent cannot run a container: {error}") from error
        await _quiet(machine.pid)
        # The connection stays open while the machine is saved: the guest then sees no host leave,
        # and takes a clone's first request at once.
        state = os.open(
            os.path.join(draft, "state"), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        undo.callback(os.close, state)
        try:
            await machine.save(state)
        except HypervisorError as error:
            raise TemplateError(str(error)) from error
    return booted_with


async def _quiet(pid: int) -> None:
    """Wait until a machine has nothing left to do of what was asked of it, a few seconds at most.

    A kernel gives back groups, programs and memory some grace periods after they were removed.  Each
    clone of a machine that is saved before would do so, while its first request waits.
    """
    idle = 0
    for _ in range(_QUIET_LOOKS):
        before = _processor_ns(pid)
        await asyncio.sleep(_QUIET_STEP)
        idle = idle + 1 if _processor_ns(pid) - before < _QUIET_NS else 0
        if idle == _QUIET_IN_A_ROW:
            return


def _processor_ns(pid: int) -> int:
    """Return the processor time of all threads of a process, in nanoseconds; 0 for one that is gone."""
    total = 0
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
    return total


async def _first_answer(
    machine: VirtualMachine, configuration: Configuration, undo: AsyncExitStack
) -> Agent:
    timeout = configuration.agent.reconnect_timeout_ms / 1000

    async def answer() -> Agent:
        agent = Agent(await dial(machine.channel, configuration.agent.dial_timeout))
        undo.push_async_callback(agent.close)
        await agent.check()
        return agent

    try:
        return await unless_lost(asyncio.wait_for(answer(), timeout), machine.wait())
    except LostError as error:
        reason = f"the guest ended while it started: {error}"
    except TimeoutError:
        reason = (
            f"the guest's agent did not answer within {timeout:g} s (reconnect_timeout_ms in "
            "[agent.kata])"
        )
    except RpcError as error:
        reason = f"the guest's agent failed: {error}"
    raise HypervisorError(reason + last_words(machine))
