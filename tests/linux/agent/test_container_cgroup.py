"""The cgroups of containers: whose they are, how deep they nest, and limits that take time."""

# A look at a file of this host blocks nobody here.

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from containers import Guest, children, make_process, make_spec, open_descriptors

from kata_agent import sandbox as agent
from kata_agent.cgroup import Cgroup
from kata_agent.container import Container
from kata_agent.device_programs import DevicePrograms
from kata_agent.reaper import Reaper
from kata_api import agent_service as api
from kata_api.agent import agent_pb2 as pb
from kata_api.agent import oci_pb2 as oci
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.linux

DEEP = 1200  # more than Python's stack or a table of descriptors holds, and a path is long
NAME = "nested"


async def create_in(guest: Guest, path: str, *args: str) -> str:
    spec = make_spec(guest.new_rootfs(), make_process(*(args or ("sleep", "1000"))))
    spec.Linux.CgroupsPath = path
    return await guest.create(spec)


async def processes(guest: Guest, name: str) -> list[int]:
    request = pb.ListProcessesRequest(container_id=name, format="json")
    answer = await guest.client.call(api.LIST_PROCESSES, request)
    return list(json.loads(answer.process_list))


@pytest.mark.parametrize("path", ["/pods/one", "/pods", "/pods/one/below"])
async def test_cgroup_of_another_container_is_left_alone(guest: Guest, path: str) -> None:
    name = await create_in(guest, "/pods/one")
    await guest.start(name)
    running = await processes(guest, name)
    with pytest.raises(RpcError, match=f"cgroupsPath {path[1:]} .*'{name}'.* choose one") as caught:
        await create_in(guest, path)
    assert caught.value.code == StatusCode.ALREADY_EXISTS
    assert running == await processes(guest, name) != []
    sibling = await create_in(guest, "/pods/one-more")
    await guest.remove(sibling)
    assert running == await processes(guest, name)


async def test_cgroup_that_nobody_owns_is_not_taken_over(guest: Guest) -> None:
    stale = Path(guest.cgroup_root, "pods/stale")
    stale.mkdir(parents=True)
    with pytest.raises(RpcError, match=r"cgroup pods/stale exists.*another cgroupsPath") as caught:
        await create_in(guest, "/pods/stale")
    assert caught.value.code == StatusCode.ALREADY_EXISTS
    assert stale.is_dir()
    stale.rmdir()
    name = await create_in(guest, "/pods/stale")  # and the failure has left nothing of the name
    await guest.remove(name)
    assert not stale.parent.exists()


def nest(top: str, depth: int) -> None:
    fd = os.open(top, os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(NAME, dir_fd=fd)
        below = os.open(NAME, os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


async def test_deeply_nested_cgroups(guest: Guest) -> None:
    name = await guest.sleeper()
    other = await guest.sleeper()
    running = await processes(guest, name)
    nest(os.path.join(guest.cgroup_root, "kata", name), DEEP)
    before = open_descriptors()
    assert running == await processes(guest, name) != []
    await guest.signal(name, signal.SIGUSR1)
    await guest.remove(name)
    assert open_descriptors() < before
    assert not os.path.exists(os.path.join(guest.cgroup_root, "kata", name))
    assert len(await processes(guest, other)) == 1


async def test_processes_of_threaded_cgroups_are_found(guest: Guest) -> None:
    name = await guest.sleeper()
    running = await processes(guest, name)
    nest(os.path.join(guest.cgroup_root, "kata", name), 2)
    below = Path(guest.cgroup_root, "kata", name, NAME)
    (below / "cgroup.type").write_text("threaded")
    assert running == await processes(guest, name)


async def test_group_that_init_moved_to(guest: Guest) -> None:
    name = await guest.sleeper()
    (pid,) = await processes(guest, name)
    nest(os.path.join(guest.cgroup_root, "kata", name), 2)
    group = Cgroup(guest.cgroup_root, f"kata/{name}", DevicePrograms())
    with pytest.raises(ProcessLookupError):  # not below: in it
        group.open_of(pid)
    below = Path(group.directory, NAME, NAME)
    (below / "cgroup.procs").write_text(str(pid))
    fd = group.open_of(pid)
    try:
        assert os.path.samestat(os.fstat(fd), below.stat())
    finally:
        os.close(fd)
    with pytest.raises(ProcessLookupError):
        group.open_of(os.getpid())


async def test_destroy_goes_on_after_a_failure(
    cgroup_root: str, rootfs: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kata_agent.cgroup._REMOVE_TRIES", 3)
    sandbox = agent.Sandbox(
        cgroup_root=cgroup_root,
        resolv_conf=str(tmp_path / "resolv.conf"),
        hostname=str(tmp_path / "hostname"),
    )
    assert callable(rootfs)
    for name in ("first", "second"):
        spec = make_spec(rootfs(), make_process("sleep", "1000"))
        await sandbox.create(pb.CreateContainerRequest(container_id=name, OCI=spec))
    # A process that is not killed holds the group, as one that hangs in the kernel would.
    held = os.path.join(cgroup_root, "kata/first")
    foreign = await asyncio.create_subprocess_exec("sleep", "1000")
    try:
        group = sandbox.container("first").cgroup
        monkeypatch.setattr(group, "kill", lambda: None)
        sandbox.container("first").process("").signal(signal.SIGKILL)
        Path(held, "cgroup.procs").write_text(str(foreign.pid))
        with pytest.raises(RpcError, match=f"cannot remove cgroup kata/first.*{foreign.pid}"):
            await sandbox.destroy()
        assert not os.path.exists(os.path.join(cgroup_root, "kata/second"))
    finally:
        foreign.kill()
        await foreign.wait()
    await sandbox.destroy()
    sandbox.close()


async def test_limits_that_take_time_hold_up_nobody(tmp_path: Path) -> None:
    """A FIFO that nobody reads blocks its writer, as reclaiming does that of memory.max."""
    (tmp_path / "group").mkdir()
    fifo = tmp_path / "group/memory.max"
    os.mkfifo(fifo)
    reaper = Reaper(adopt_orphans=False)
    container = Container("c", Cgroup(str(tmp_path), "group", DevicePrograms()), reaper)
    resources = oci.LinuxResources(Memory=oci.LinuxMemory(Limit=4096))
    before = open_descriptors(), children()
    updating = asyncio.create_task(container.update(resources))
    for _ in range(20):  # the loop turns
        await asyncio.sleep(0.01)
    assert not updating.done()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    await asyncio.wait_for(updating, 20)
    assert os.read(reader, 100) == b"4096"
    os.close(reader)
    updating = asyncio.create_task(container.update(resources))
    await asyncio.sleep(0.05)
    updating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await updating
    assert (open_descriptors(), children()) == before
    reaper.close()


async def test_limit_written_aside_tells_its_failure(guest: Guest) -> None:
    name = await guest.sleeper()
    resources = oci.LinuxResources(Unified={"memory.max": "64M"})
    if os.path.exists(os.path.join(guest.cgroup_root, "kata", name, "memory.max")):
        pytest.skip("missing: a unified hierarchy without the memory controller")
    request = pb.UpdateContainerRequest(container_id=name, resources=resources)
    with pytest.raises(RpcError, match=r"^INTERNAL: cannot limit memory\.max to 64M: this kernel"):
        await guest.client.call(api.UPDATE_CONTAINER, request)
