"""A fault after every step of a sandbox's life: the client is told, and nothing is left.

The rows go to docs/faults.md (`lab.fault_matrix`).
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from fastest import fastest
from lab import fault_matrix, faulty_shim
from lab.bundle import Bundle, Configured, wait_gone
from lab.fault_matrix import Row
from lab.paths import CHECKOUT, GUEST_KERNEL

from kata_api import any as packed
from kata_api import task
from kata_api.containerd import task_pb2 as pb
from ttrpc import ConnectionClosedError, RpcError
from ttrpc.client import Client

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

BRING_UP = (
    "configuration",
    "run directory",
    "control group",
    "network",
    "template",
    "shared directory",
    "file server",
    "virtual machine",
    "guest answer",
    "guest sandbox",
    "port-forward",
    "root filesystem",
    "volumes",
    "hooks",
    "create container",
)
TEAR_DOWN = (
    "connection to the agent",
    "virtual machine",
    "file server",
    "shared directory",
    "record struck off",
    "control group left",
    "control group",
    "run directory",
)
RUNNING = ("QEMU killed", "virtiofsd killed", "guest panic", "QEMU hangs")
ANSWER = 5.0
"""Seconds from a fault to the client's answer: what the issue asks for."""


def _build_in(bundle: Bundle, step: str, action: str) -> Path:
    """Have the bundle's shim fail after a step; return the file that it tells of its steps."""
    trace = bundle.path / "trace"
    trace.unlink(missing_ok=True)
    bundle.module = "lab.faulty_shim"
    bundle.environment = {
        "PYTHONPATH": f"{CHECKOUT / 'src'}:{CHECKOUT}",
        faulty_shim.TRACE: str(trace),
        faulty_shim.STEP: step,
        faulty_shim.ACTION: action,
    }
    return trace


async def _record(attempt: Callable[[], Awaitable[Row]]) -> None:
    """Have a fault answered in time, and compare or write its row."""
    row = await fastest(attempt, ANSWER, lambda row: row.seconds)
    assert row.seconds < ANSWER
    fault_matrix.record(row)


def _since_fault(trace: Path, step: str) -> float:
    # The first of that name: what comes later on the stack is undone all the same.
    at = next(passed.at for passed in faulty_shim.read_trace(trace) if passed.step == step)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - at


def _delete(bundle: Bundle) -> None:
    """Do what containerd does once the connection to a shim is lost."""
    bundle.module = "kata.shim.main"
    deleted = bundle.run("-bundle", str(bundle.path), "delete")
    assert deleted.returncode == 0, deleted.stdout
    assert pb.DeleteResponse.FromString(deleted.stdout).exit_status == 137


def _clean_up(bundle: Bundle) -> None:
    """Do what an administrator does when containerd knows nothing of the sandbox any more."""
    subprocess.run(
        [sys.executable, "-m", "kata.cli.ctl", "cleanup", bundle.id],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT / "src")},
        check=True,
        timeout=60,
    )


def _of_sandbox(bundle: Bundle) -> list[str]:
    """Return what is left, but for the shim itself and its socket."""
    return [one for one in bundle.leftovers() if "shim" not in one and one != bundle.socket]


async def _end(bundle: Bundle, client: Client) -> None:
    """Ask a shim to end that may have trouble doing so, as containerd does."""
    pid = bundle.shim_pid
    with contextlib.suppress(RpcError):
        await client.call(task.v2.SHUTDOWN, pb.ShutdownRequest(id=bundle.id), timeout=ANSWER)
    await wait_gone(pid)


@pytest.mark.parametrize("action", ["raise", "kill"])
@pytest.mark.parametrize("step", BRING_UP)
async def test_bring_up(
    bundle: Bundle, configured: Configured, root: Path, step: str, action: str
) -> None:
    await _record(lambda: _bring_up(bundle, configured, root, step, action))


async def _bring_up(
    bundle: Bundle, configured: Configured, root: Path, step: str, action: str
) -> Row:
    trace = _build_in(bundle, f"bring-up: {step}", action)
    async with await bundle.connect() as client:
        with pytest.raises(RpcError) as error:
            await bundle.create(client, configured.path, root)
        seconds = _since_fault(trace, f"bring-up: {step}")
        if action == "raise":
            assert faulty_shim.INJECTED in error.value.message
            assert not _of_sandbox(bundle)
            outcome = f"Create: {error.value.code.name} with the cause; nothing left"
            await _end(bundle, client)
        else:
            assert isinstance(error.value, ConnectionClosedError)
            outcome = "connection closed; nothing left after delete"
    _delete(bundle)
    assert not bundle.leftovers()
    fault = "error" if action == "raise" else "shim killed"
    return Row("bring-up", step, fault, outcome, seconds)


@pytest.mark.parametrize("action", ["raise", "kill"])
@pytest.mark.parametrize("step", TEAR_DOWN)
async def test_tear_down(
    bundle: Bundle, configured: Configured, root: Path, step: str, action: str
) -> None:
    await _record(lambda: _tear_down(bundle, configured, root, step, action))


async def _tear_down(
    bundle: Bundle, configured: Configured, root: Path, step: str, action: str
) -> Row:
    trace = _build_in(bundle, f"tear-down: {step}", action)
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=9, all=True))
        ended = await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        assert ended.exit_status == 137
        with pytest.raises(RpcError) as error:
            await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id), timeout=30)
        seconds = _since_fault(trace, f"tear-down: {step}")
        if action == "raise":
            assert faulty_shim.INJECTED in error.value.message
            outcome = f"Delete: {error.value.code.name} with the cause; nothing left after delete"
            await _end(bundle, client)
        else:
            assert isinstance(error.value, ConnectionClosedError)
            outcome = "connection closed; nothing left after kata-ctl cleanup"
    if action == "kill":
        _clean_up(bundle)
        assert not _of_sandbox(bundle)
    _delete(bundle)
    assert not bundle.leftovers()
    fault = "error" if action == "raise" else "shim killed"
    return Row("tear-down", step, fault, outcome, seconds)


@pytest.mark.parametrize("fault", RUNNING)
async def test_running(bundle: Bundle, configured: Configured, root: Path, fault: str) -> None:
    await _record(lambda: _running(bundle, configured, root, fault))


async def _running(bundle: Bundle, configured: Configured, root: Path, fault: str) -> Row:
    async with await bundle.connect() as client:
        pid = await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        waiting = asyncio.create_task(client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id)))
        began = time.monotonic()
        if fault == "guest panic":
            panic = b'{"cwd":"/","args":["/bin/sh","-c","%s"],"user":{"uid":0,"gid":0}}'
            spec = packed.pack_json(packed.PROCESS_URL, panic % b"echo c > /proc/sysrq-trigger")
            request = pb.ExecProcessRequest(id=bundle.id, exec_id="panic", spec=spec)
            await client.call(task.v2.EXEC, request)
            began = time.monotonic()
            with contextlib.suppress(RpcError):
                await client.call(task.v2.START, pb.StartRequest(id=bundle.id, exec_id="panic"))
        elif fault == "QEMU hangs":
            os.kill(pid, signal.SIGSTOP)
            # Nobody notices until something is asked of the guest.
            await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=9), timeout=30)
        else:
            victim = pid if fault == "QEMU killed" else _child(bundle.shim_pid, "virtiofsd")
            os.kill(victim, signal.SIGKILL)
        ended = await asyncio.wait_for(waiting, 60)
        seconds = time.monotonic() - began
        assert ended.exit_status == 255
        deleted = await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        assert deleted.exit_status == 255
        await bundle.shut_down(client)
    assert not bundle.leftovers()
    asked = "Kill answered, then " if fault == "QEMU hangs" else ""
    outcome = f"{asked}Wait: exit status 255; nothing left"
    return Row("running", "start", fault, outcome, seconds)


def _child(parent: int, name: str) -> int:
    """Return the child of `parent` whose program is called `name`."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if name in Path(f"/proc/{pid}/cmdline").read_bytes().decode():
            return int(pid)
    raise LookupError(f"process {parent} has no child {name}")


async def test_these_are_all_steps(bundle: Bundle, configured: Configured, root: Path) -> None:
    """A life without faults takes the steps that have a row, and no other."""
    trace = _build_in(bundle, "", "")
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=9, all=True))
        await asyncio.wait_for(client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id)), 60)
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
    passed = dict.fromkeys(each.step for each in faulty_shim.read_trace(trace))
    assert [s.partition(": ")[2] for s in passed if s.startswith("bring-up")] == list(BRING_UP)
    assert {s.partition(": ")[2] for s in passed if s.startswith("tear-down")} == set(TEAR_DOWN)


def test_the_page_has_these_rows_and_no_other() -> None:
    stages = {"bring-up": BRING_UP, "tear-down": TEAR_DOWN}
    wanted = {
        (stage, step, fault)
        for stage, steps in stages.items()
        for step in steps
        for fault in ("error", "shim killed")
    }
    wanted |= {("running", "start", fault) for fault in RUNNING}
    assert {row.key for row in fault_matrix.read()} == wanted
