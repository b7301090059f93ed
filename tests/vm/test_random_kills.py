"""Kills at random moments of a container's life, each from a seed that its test's name tells.

KATA_FAULT_RUNS is how many runs there are, KATA_FAULT_SEED where their seeds begin.
"""

import asyncio
import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastest import fastest
from lab.bundle import Bundle, Configured, wait_gone
from lab.paths import GUEST_KERNEL

from kata.sandbox.journal import RUN_ROOT, Journal
from kata_api import any as packed
from kata_api import task
from kata_api.containerd import task_pb2 as pb
from ttrpc import ConnectionClosedError, RpcError
from ttrpc.client import Client

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

RUNS = int(os.environ.get("KATA_FAULT_RUNS", "8"))
SEED = int(os.environ.get("KATA_FAULT_SEED", "0"))
VICTIMS = ("qemu", "virtiofsd", "shim", "guest")
ANSWER = 5.0
"""Seconds from a kill to the answer of whatever is asked or asked next."""

LIFE = 1.5
"""Seconds within which the kill comes; a start takes half of them."""

END = 0.15
"""Seconds that the end of a container and its sandbox takes: a later kill finds nobody."""

_PANIC = (
    b'{"cwd":"/","args":["/bin/sh","-c","echo c > /proc/sysrq-trigger"],"user":{"uid":0,"gid":0}}'
)

_SIGKILL_STATUS, _LOST_STATUS = 137, 255


@dataclass(slots=True)
class Life:
    """What a client saw: the calls that were answered, and the first that failed."""

    bundle: Bundle
    client: Client
    killed_at: float = 0.0
    done: list[str] = field(default_factory=list)
    status: int | None = None
    slowest: float = 0.0

    async def call(self, method: Any, request: Any) -> Any:
        """Make a call and note how long after the kill it was answered."""
        began = time.monotonic()
        try:
            answer = await self.client.call(method, request, timeout=60)
        finally:
            if self.killed_at:
                since = max(began, self.killed_at)
                self.slowest = max(self.slowest, time.monotonic() - since)
        self.done.append(method.name)
        return answer

    async def live(self, configured: Configured, root: Path, *, ending: bool) -> None:
        """Run a container and a process in it, and end both: after the kill, or for it to come."""
        bundle_id = self.bundle.id
        try:
            await self.bundle.create(self.client, configured.path, root)
        except RpcError:
            # Not when it succeeds: a machine that is lost while it is restored is booted.
            self.slowest = time.monotonic() - self.killed_at
            raise
        self.done.append("Create")
        waiting = asyncio.create_task(self.call(task.v2.WAIT, pb.WaitRequest(id=bundle_id)))
        try:
            await self.call(task.v2.START, pb.StartRequest(id=bundle_id))
            process = b'{"cwd":"/","args":["/bin/busybox","true"],"user":{"uid":0,"gid":0}}'
            spec = packed.pack_json(packed.PROCESS_URL, process)
            await self.call(
                task.v2.EXEC, pb.ExecProcessRequest(id=bundle_id, exec_id="e", spec=spec)
            )
            await self.call(task.v2.START, pb.StartRequest(id=bundle_id, exec_id="e"))
            while not self.killed_at and not ending:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)
            await self.call(task.v2.KILL, pb.KillRequest(id=bundle_id, signal=9, all=True))
            self.status = (await waiting).exit_status
            await self.call(task.v2.DELETE, pb.DeleteRequest(id=bundle_id))
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def kill(self, victim: str, moment: float, *, ending: bool) -> None:
        """Kill a process of the sandbox at a moment, or as soon after it as there is one.

        The guest, and its agent with it, dies of a panic that a process in it causes.
        """
        while ending and "Kill" not in self.done:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(moment)
        if victim == "guest":
            while "Start" not in self.done:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)
            spec = packed.pack_json(packed.PROCESS_URL, _PANIC)
            request = pb.ExecProcessRequest(id=self.bundle.id, exec_id="panic", spec=spec)
            await self.client.call(task.v2.EXEC, request)
            self.killed_at = time.monotonic()
            start = pb.StartRequest(id=self.bundle.id, exec_id="panic")
            await self.client.call(task.v2.START, start)
            return
        pid = self.bundle.shim_pid if victim == "shim" else 0
        while not pid:
            pid = _process(self.bundle, victim)
            await asyncio.sleep(0.005)
        self.killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)


def _process(bundle: Bundle, name: str) -> int:
    for directory in Path(RUN_ROOT).glob(f"{bundle.id}-*"):
        journal = Journal.load(directory.name)
        if journal:
            for each in journal.processes:
                if each.name == name and each.is_running():
                    return each.pid
    return 0


@pytest.mark.parametrize("seed", range(SEED, SEED + RUNS))
async def test_a_kill_at_a_random_moment(
    bundle: Bundle, configured: Configured, root: Path, seed: int
) -> None:
    choice = random.Random(seed)
    victim = VICTIMS[seed % len(VICTIMS)]
    # One kill in four comes while the container is ended and deleted.
    ending = victim != "guest" and choice.random() < 1 / 4
    moment = choice.uniform(0, END if ending else LIFE)

    async def attempt() -> Life:
        return await _live_and_die(bundle, configured, root, victim, moment, ending=ending)

    assert (await fastest(attempt, ANSWER, lambda life: life.slowest)).slowest < ANSWER


async def _live_and_die(
    bundle: Bundle,
    configured: Configured,
    root: Path,
    victim: str,
    moment: float,
    *,
    ending: bool,
) -> Life:
    """Have a sandbox killed at a moment; nothing of it is left."""
    async with await bundle.connect() as client:
        life = Life(bundle, client)
        error: RpcError | None = None
        pid = bundle.shim_pid
        killing = asyncio.create_task(life.kill(victim, moment, ending=ending))
        try:
            await life.live(configured, root, ending=ending)
        except RpcError as failed:
            error = failed
        finally:
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
        assert life.killed_at or ending
        print(f"{victim} at {moment:.2f}: {life.done} {life.status} {error} {life.slowest:.2f}")
        if victim == "shim" and life.killed_at:
            assert error is None or isinstance(error, ConnectionClosedError)
        else:
            await _check_the_rest(life, error)
            await client.call(task.v2.SHUTDOWN, pb.ShutdownRequest(id=bundle.id))
        await wait_gone(pid)
    assert bundle.run("-bundle", str(bundle.path), "delete").returncode == 0
    assert not bundle.leftovers()
    return life


async def _check_the_rest(life: Life, error: RpcError | None) -> None:
    """Ask a shim that has lost its guest for what containerd asks, and judge its answers."""
    bundle_id = life.bundle.id
    if "Create" not in life.done:
        assert error is not None
        # The connection's end, where a starved shim has not seen its cause in time.
        assert any(word in error.message for word in ("SIGKILL", "reset", "ttrpc: closed"))
        return
    if "Delete" in life.done:
        assert life.status in (_SIGKILL_STATUS, _LOST_STATUS)
        return
    ended = await life.call(task.v2.WAIT, pb.WaitRequest(id=bundle_id))
    assert ended.exit_status in (_SIGKILL_STATUS, _LOST_STATUS)
    deleted = await life.call(task.v2.DELETE, pb.DeleteRequest(id=bundle_id))
    assert deleted.exit_status == ended.exit_status
