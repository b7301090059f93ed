"""Guests that stand by (`vm_cache_number`): who takes them, what they become, what is left of them."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import patient_shim
import pytest
from lab.bundle import Bundle, Configured, specification, wait_gone
from lab.paths import GUEST_KERNEL
from lab.pod_namespace import Namespace, namespace
from lab.standbys import drain, listening, shared_mounts

from kata.host import proc
from kata.resources.cgroup import OVERHEAD, hierarchies
from kata.sandbox import inventory
from kata.shim import pool
from kata_api import task
from kata_api.containerd import task_pb2 as pb
from ttrpc.client import Client

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_READY_S: Final = 60
_TELL: Final = "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | md5sum"


@pytest.fixture
def pooled(configured: Configured) -> Iterator[Configured]:
    """The installed configuration with a pool of one; afterwards nobody stands by."""
    configured.set("factory", vm_cache_number="1")
    with shared_mounts():
        yield configured
    drain()
    pool.failure()
    with contextlib.suppress(OSError):
        os.rmdir(pool.directory())
    assert not list(Path("/run/kata").glob("_standby-*"))
    assert not list(Path("/run/kata-containers/shared/sandboxes").glob("_standby-*"))


@pytest.fixture
def bundles(tmp_path: Path) -> Iterator[Callable[[], Bundle]]:
    """Make a bundle; afterwards nothing of any is there."""
    made: list[Bundle] = []

    def make() -> Bundle:
        folder = tmp_path / f"bundle{len(made)}"
        folder.mkdir()
        made.append(patient_shim.use(Bundle(folder)))
        return made[-1]

    yield make
    # But for whoever stands by, or waits to, after it was started by its `start`.
    left = [line for each in made for line in each.leftovers() if not line.endswith(" start ")]
    for each in made:
        each.close()
    assert left == []


def _standbys() -> list[inventory.Found]:
    return [each for each in inventory.sandboxes() if each.state == "standby"]


async def _ready() -> int:
    """Wait until somebody stands by; return its pid."""
    deadline = time.monotonic() + _READY_S
    while not (found := listening()):
        assert time.monotonic() < deadline, "nobody stands by"
        await asyncio.sleep(0.05)
    return found[0]


@asynccontextmanager
async def _running(
    bundle: Bundle,
    configured: Configured,
    root: Path,
    script: str = "sleep 1000",
    *,
    before_start: Callable[[], object] = lambda: None,
    **spec: Any,
) -> AsyncIterator[Client]:
    bundle.write(specification("/bin/sh", "-c", f"{_TELL}; {script}", **spec))
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root, stdout=f"file://{bundle.path}/output")
        before_start()
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        try:
            yield client
        finally:
            await client.call(task.v2.KILL, pb.KillRequest(id=bundle.id, signal=9, all=True))
        await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)


def _cgroups(bundle: Bundle) -> dict[str, Any]:
    return {"linux": {**specification()["linux"], "cgroupsPath": f"/{bundle.id}/own"}}


def _accounted_for(bundle: Bundle) -> inventory.Found:
    """Return a sandbox, all of whose processes are in the pod's control group."""
    (found,) = [each for each in inventory.sandboxes() if each.id == bundle.id]
    for name in ("shim", "qemu", "virtiofsd"):
        pid = found.pid(name)
        assert pid
        assert f"/{bundle.id}/kata_" in Path(f"/proc/{pid}/cgroup").read_text(), name
    return found


async def test_a_pool_of_several_is_filled(
    bundles: Callable[[], Bundle], pooled: Configured, root: Path
) -> None:
    pooled.set("factory", vm_cache_number="2")
    waiting = await _stand_by(bundles, pooled, root)
    deadline = time.monotonic() + _READY_S
    while len(found := listening()) < 2:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)
    first, second = bundles(), bundles()
    async with _running(first, pooled, root), _running(second, pooled, root):
        assert first.shim_pid != second.shim_pid
        assert waiting in (first.shim_pid, second.shim_pid)
        for each in (first, second):
            assert "guest answer" not in each.log()


async def _said(bundle: Bundle, lines: int) -> list[str]:
    deadline = time.monotonic() + _READY_S
    while len(said := (bundle.path / "output").read_text().splitlines()) < lines:
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.05)
    return said


async def _stand_by(bundles: Callable[[], Bundle], pooled: Configured, root: Path) -> int:
    """Have somebody stand by, as the second start of a configuration does; return its pid."""
    for _ in range(1 if pool.is_open() else 2):
        async with _running(bundles(), pooled, root):
            pass
    return await _ready()


async def test_the_next_sandbox_is_whoever_stands_by(
    bundles: Callable[[], Bundle], pooled: Configured, root: Path
) -> None:
    waiting = await _stand_by(bundles, pooled, root)
    assert len(_standbys()) == 1
    told = []
    for _ in range(2):
        bundle = bundles()
        async with _running(bundle, pooled, root, **_cgroups(bundle)):
            log = bundle.log()
            assert "standby" in log
            assert "guest answer" not in log
            assert bundle.shim_pid == waiting
            found = _accounted_for(bundle)
            assert (found.state, found.containers) == ("running", (bundle.id,))
            assert found.name.startswith(bundle.id)
            told += (await _said(bundle, 2))[:2]
            # What the guest had before it was the pod's counts for nobody else.
            for tree in hierarchies():
                assert list(Path(tree.mount_point, OVERHEAD).glob(f"_standby-{waiting}-*"))
            waiting = await _ready()
    assert len(set(told)) == len(told) == 4


async def test_a_pods_network_and_size_come_with_the_pod(
    bundles: Callable[[], Bundle], pooled: Configured, root: Path, tmp_path: Path
) -> None:
    waiting = await _stand_by(bundles, pooled, root)
    (tmp_path / "page").write_text("from the node\n")
    with namespace() as pod, namespace() as node, node.web_server(tmp_path, 8000):
        _connect(pod, node)
        bundle = bundles()
        spec = specification()
        for each in spec["linux"]["namespaces"]:
            if each["type"] == "network":
                each["path"] = pod.path
        annotations = {"io.katacontainers.config.hypervisor.default_vcpus": "2"}
        async with _running(
            bundle,
            pooled,
            root,
            "ip -o -4 address show dev eth0; nproc; busybox wget -q -O - http://10.9.0.1:8000/page; sleep 1000",
            linux=spec["linux"],
            annotations=annotations,
        ):
            assert bundle.shim_pid == waiting
            said = await _said(bundle, 4)
            assert "10.9.0.2/24" in said[2]
            assert said[3] == "2"
            assert (await _said(bundle, 5))[4] == "from the node"


def _connect(pod: Namespace, node: Namespace) -> None:
    pod.add_pair("eth0", "10.9.0.2/24", "fd00:9::2/64", peer=node)
    node.ip("address add 10.9.0.1/24 dev eth0-host")


@pytest.mark.parametrize("part", ["itself", "its machine"])
async def test_one_that_is_killed_is_in_nobodys_way(
    bundles: Callable[[], Bundle], pooled: Configured, root: Path, part: str
) -> None:
    waiting = await _stand_by(bundles, pooled, root)
    (found,) = _standbys()
    machine = found.pid("qemu")
    assert machine
    os.kill(waiting if part == "itself" else machine, signal.SIGKILL)
    await wait_gone(machine)
    await wait_gone(waiting)
    bundle = bundles()
    async with _running(bundle, pooled, root):
        log = bundle.log()
        assert "guest answer" in log
        told = "nobody stands by: the guest that stood by is lost: QEMU"
        assert (told in log) == (part == "its machine")
        assert await _ready() != waiting
    assert len(_standbys()) == 1


async def test_why_nobody_stands_by_is_told(
    bundles: Callable[[], Bundle], pooled: Configured, root: Path
) -> None:
    await _stand_by(bundles, pooled, root)

    def spoil() -> None:
        (pooled.path.parent / "config.d" / "60-test.toml").write_text("[agent.kata]\nno = 1\n")

    # The next one reads the configuration once this one has started.
    async with _running(bundles(), pooled, root, before_start=spoil):
        deadline = time.monotonic() + _READY_S
        while not (words := pool.failure()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    assert "60-test.toml" in words
    pool.note_failure(f"{pool.directory()}/somebody", words)
    (pooled.path.parent / "config.d" / "60-test.toml").unlink()
    for told in (1, 0):  # once
        bundle = bundles()
        async with _running(bundle, pooled, root):
            assert bundle.log().count(f"nobody stands by: {words}") == told
            drain()


async def test_a_profile_that_no_rehearsal_survives_is_in_nobodys_way(
    bundles: Callable[[], Bundle], pooled: Configured, root: Path
) -> None:
    await _stand_by(bundles, pooled, root)
    bundle = bundles()
    profile = {  # busybox's cat copies with it
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["sendfile"], "action": "SCMP_ACT_KILL_PROCESS"}],
    }
    linux = {**specification()["linux"], "seccomp": profile}
    async with _running(bundle, pooled, root, linux=linux):
        assert await _ready() != bundle.shim_pid
        assert len(_standbys()) == 1


async def test_one_that_is_ended_while_it_starts_leaves_nothing(
    bundles: Callable[[], Bundle], pooled: Configured, root: Path
) -> None:
    waiting = await _stand_by(bundles, pooled, root)
    bundle = bundles()
    async with _running(bundle, pooled, root):
        assert bundle.shim_pid == waiting
        deadline = time.monotonic() + _READY_S
        while not (started := _standbys()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        pid = started[0].pid("shim") or int(started[0].name.split("-")[1])
        os.kill(pid, signal.SIGTERM)
        await wait_gone(pid)
        assert _standbys() == []


async def test_one_that_does_not_fit_is_not_used(
    bundles: Callable[[], Bundle], pooled: Configured, root: Path
) -> None:
    waiting = await _stand_by(bundles, pooled, root)
    pooled.set("factory", vm_cache_number="0")
    (pooled.path.parent / "config.d" / "60-test.toml").write_text(
        "[agent.kata]\ndial_timeout = 47\n"
    )
    bundle = bundles()
    async with _running(bundle, pooled, root, **_cgroups(bundle)):
        assert bundle.shim_pid == waiting  # its imports are of use all the same
        _accounted_for(bundle)
        log = bundle.log()
        assert "the machine that stood by is not used" in log
        assert "guest answer" in log
    assert not listening()


async def test_a_shim_of_the_pool_that_is_killed_is_cleaned_up_after(
    bundles: Callable[[], Bundle], pooled: Configured, root: Path
) -> None:
    waiting = await _stand_by(bundles, pooled, root)
    bundle = bundles()
    bundle.write(specification("/bin/sh", "-c", "sleep 1000"))
    async with await bundle.connect() as client:
        await bundle.create(client, pooled.path, root)
        os.kill(waiting, signal.SIGKILL)
    await wait_gone(waiting)
    assert not proc.children(waiting)
    assert bundle.run("-bundle", str(bundle.path), "delete").returncode == 0


async def test_one_that_cannot_see_a_mount_is_passed_over(
    bundles: Callable[[], Bundle], pooled: Configured, root: Path, tmp_path: Path
) -> None:
    private, later = tmp_path / "private", tmp_path / "private" / "later"
    private.mkdir()
    with contextlib.ExitStack() as undo:
        _mount(private, undo)
        waiting = await _stand_by(bundles, pooled, root)
        later.mkdir()
        _mount(later, undo)
        bundle = bundles()
        async with _running(bundle, pooled, root):
            assert bundle.shim_pid != waiting
            log = bundle.log()
            assert f"does not see what the host has mounted at {later} since" in log
            assert "--make-rshared" in log
            assert "guest answer" in log
        await wait_gone(waiting)


def _mount(point: Path, undo: contextlib.ExitStack) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "--make-private", "tmpfs", point], check=True)
    undo.callback(subprocess.run, ["umount", "-l", point], check=True)
