"""The shim as a process: what containerd sees of `start`, `delete`, `-info` and a shim without containers."""

import asyncio
import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.bundle import Bundle, wait_gone

from kata_api import task
from kata_api.containerd import task_pb2 as pb
from kata_api.containerd.types_pb2 import RuntimeInfo
from ttrpc import RpcError, StatusCode
from ttrpc.client import Client

pytestmark = pytest.mark.linux

# linux/prctl.h
_PR_SCHED_CORE, _SCHED_CORE_GET = 62, 0

_SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    made = Bundle(tmp_path)
    yield made
    address = tmp_path / "address"
    if address.exists():
        path = address.read_text().removeprefix("unix://")
        if os.path.exists(path):
            asyncio.run(_shut_down(path))
            os.path.exists(path) and pytest.fail(f"{path} is left")
    made.close()


async def _shut_down(path: str) -> None:
    async with await Client.connect_unix(path) as client:
        pid = (await client.call(task.v2.CONNECT, pb.ConnectRequest(id="x"))).shim_pid
        await client.call(task.v2.SHUTDOWN, pb.ShutdownRequest(id="x"))
        await asyncio.wait_for(client.wait_closed(), 30)
    await wait_gone(pid)


def test_start_prints_one_address_and_the_shim_serves_it(bundle: Bundle) -> None:
    result = bundle.run("start")
    assert result.returncode == 0, result.stdout
    assert result.stdout.startswith(b"unix:///run/containerd/s/"), result.stdout
    path = result.stdout.decode().removeprefix("unix://")
    assert (bundle.path / "address").read_bytes() == result.stdout
    assert os.stat(path).st_mode & 0o777 == 0o600
    pid = int((bundle.path / "shim.pid").read_text())
    asyncio.run(_check_empty_shim(path, pid))
    _check_descriptors(pid, bundle)


async def _check_empty_shim(path: str, pid: int) -> None:
    async with await Client.connect_unix(path) as client:
        for version in (task.v2, task.v3):
            answer = await client.call(version.CONNECT, pb.ConnectRequest(id="x"))
            assert answer.shim_pid == pid
            for method, request in (
                (version.STATE, pb.StateRequest(id="x")),
                (version.WAIT, pb.WaitRequest(id="x")),
                (version.KILL, pb.KillRequest(id="x", signal=9)),
                (version.DELETE, pb.DeleteRequest(id="x")),
                (version.START, pb.StartRequest(id="x")),
                (version.CHECKPOINT, pb.CheckpointTaskRequest(id="x")),
            ):
                with pytest.raises(RpcError) as error:
                    await client.call(method, request)  # type: ignore[arg-type]
                assert error.value.code == StatusCode.NOT_FOUND


def _check_descriptors(pid: int, bundle: Bundle) -> None:
    targets = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            targets[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    assert {targets[n] for n in (0, 1, 2)} == {"/dev/null"}
    others = [t for n, t in targets.items() if n > 2]
    allowed = ("socket:", "anon_inode:", str(bundle.path / "log"))
    assert all(t.startswith(allowed) for t in others), others
    assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")


def test_a_pod_that_shall_have_cores_of_its_own_has_or_says_not(bundle: Bundle) -> None:
    bundle.environment["SCHED_CORE"] = "1"
    assert bundle.run("start").returncode == 0
    cookie = ctypes.c_ulong()
    pid = int((bundle.path / "shim.pid").read_text())
    arguments = (_SCHED_CORE_GET, pid, 0, ctypes.byref(cookie))
    deadline, said = time.monotonic() + 30, ""
    # Not at once: the shim lets go of `start` first. And not every kernel has core scheduling.
    while not cookie.value and "may share processor cores" not in said:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        ctypes.CDLL(None).prctl(_PR_SCHED_CORE, *arguments)
        said += bundle.log()


def test_a_second_start_finds_the_first(bundle: Bundle) -> None:
    first = bundle.run("start")
    bundle.write({"annotations": {"io.kubernetes.cri.sandbox-id": bundle.id}})
    second = bundle.run("start", container_id="other")
    assert second.stdout == first.stdout


def test_a_killed_shim_is_cleaned_up_and_started_anew(bundle: Bundle) -> None:
    first = bundle.run("start")
    path = first.stdout.decode().removeprefix("unix://")
    os.kill(int((bundle.path / "shim.pid").read_text()), 9)
    deleted = bundle.run("-bundle", str(bundle.path), "delete")
    assert deleted.returncode == 0
    answer = pb.DeleteResponse.FromString(deleted.stdout)
    assert answer.exit_status == 137
    assert abs(answer.exited_at.seconds - time.time()) < 60
    assert not os.path.exists(path)
    again = bundle.run("-bundle", str(bundle.path), "delete")
    assert pb.DeleteResponse.FromString(again.stdout).exit_status == 137
    assert bundle.run("start").stdout == first.stdout


def test_create_with_a_bad_bundle_says_why_and_leaves_no_sandbox(bundle: Bundle) -> None:
    path = bundle.run("start").stdout.decode().removeprefix("unix://")

    async def create() -> RpcError:
        async with await Client.connect_unix(path) as client:
            with pytest.raises(RpcError) as error:
                await client.call(
                    task.v2.CREATE, pb.CreateTaskRequest(id=bundle.id, bundle=str(bundle.path))
                )
            return error.value

    error = asyncio.run(create())
    assert error.code == StatusCode.INVALID_ARGUMENT
    assert str(bundle.path / "config.json") in error.message
    assert [left for left in bundle.leftovers() if left.startswith("/run/kata")] == []


def test_info_and_version(bundle: Bundle) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "kata.shim.main", "-info"],
        env={"PYTHONPATH": _SOURCE},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert RuntimeInfo.FromString(result.stdout).name == "io.containerd.kata.v2"
    assert bundle.run("-v").stdout.startswith(b"containerd-shim-kata-v2 ")


def test_errors_are_one_sentence(bundle: Bundle) -> None:
    (bundle.path / "config.json").write_text("{")
    result = bundle.run("start")
    assert result.returncode == 1
    assert result.stdout.startswith(b"containerd-shim-kata-v2: start: ")
    assert result.stdout.count(b"\n") == 1
    assert bundle.run("-nonsense").returncode == 2
