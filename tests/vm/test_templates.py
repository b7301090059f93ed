"""Templates: made once, restored ever after, never used when anything is wrong with them."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.bundle import Bundle, Configured, specification
from lab.paths import CHECKOUT, GUEST_KERNEL

from kata.host import libc, mounts
from kata_api import task
from kata_api.containerd import task_pb2 as pb

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_IDENTITY = (
    "cat /proc/sys/kernel/random/boot_id; busybox od -An -tx1 -N16 /dev/urandom;"
    "cat /proc/sys/kernel/random/uuid; busybox date +%s"
)


@pytest.fixture
def store(configured: Configured, tmp_path: Path) -> Path:
    """An empty directory of templates."""
    directory = tmp_path / "templates"
    configured.set("factory", template_path=f'"{directory}"')
    return directory


@pytest.fixture
def bundles(tmp_path: Path) -> Iterator[list[Bundle]]:
    """A few bundles; afterwards nothing of their sandboxes is there."""
    made = []
    for number in range(4):
        folder = tmp_path / f"bundle{number}"
        folder.mkdir()
        made.append(Bundle(folder))
    yield made
    left = [one for bundle in made for one in bundle.leftovers()]
    for bundle in made:
        bundle.close()
    assert not left


async def _run(
    bundle: Bundle, configured: Configured, root: Path, script: str = "true", **changes: Any
) -> str:
    """Run a container to its end; return what it wrote. `changes` are its specification's."""
    bundle.write(specification("/bin/sh", "-c", script, **changes))
    log = bundle.path / f"output-{time.monotonic_ns()}"
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root, stdout=f"file://{log}")
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        status = (await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))).exit_status
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
    assert status == 0
    return log.read_text() if log.exists() else ""


def _name(store: Path) -> str:
    (one,) = (path.parent.name for path in store.glob("*/template.json"))
    return one


@pytest.mark.parametrize("shared_fs", ["virtio-fs", "virtio-9p"])
async def test_four_that_come_at_once_make_one_and_share_nothing_that_must_differ(
    store: Path, configured: Configured, bundles: list[Bundle], root: Path, shared_fs: str
) -> None:
    drop_in = configured.path.parent / "config.d" / "60-share.toml"
    drop_in.write_text(f'[hypervisor.qemu]\nshared_fs = "{shared_fs}"\n')
    said = await asyncio.gather(*(_run(b, configured, root, _IDENTITY) for b in bundles))
    logs = "".join(bundle.log() for bundle in bundles)
    assert logs.count("made the template") == 1
    assert "boots, for" not in logs
    assert len(_name(store)) == 16
    facts = [text.split("\n") for text in said]
    for column in zip(*(lines[:3] for lines in facts), strict=True):
        assert len(set(column)) == len(bundles), column
    for lines in facts:
        assert abs(int(lines[3]) - time.time()) < 30  # the clock is today's, not the template's


@pytest.mark.parametrize("shared_fs", ["virtio-fs", "virtio-9p"])
async def test_a_pod_that_wants_more_than_the_template_gets_it_plugged_in(
    configured: Configured, bundles: list[Bundle], root: Path, shared_fs: str
) -> None:
    configured.set(
        "hypervisor.qemu",
        shared_fs=f'"{shared_fs}"',
        enable_annotations='["default_memory", "default_vcpus"]',
    )
    wishes = {"default_memory": "3000", "default_vcpus": "2"}
    prefix = "io.katacontainers.config.hypervisor."
    said = await _run(
        bundles[0],
        configured,
        root,
        "busybox nproc; busybox grep MemTotal /proc/meminfo",
        annotations={prefix + name: value for name, value in wishes.items()},
    )
    assert "boots, for" not in bundles[0].log()
    lines = said.splitlines()
    assert lines[0] == "2"
    assert int(lines[1].split()[1]) > 2900 << 10


async def test_a_damaged_template_is_made_again_and_said_so(
    store: Path, configured: Configured, bundles: list[Bundle], root: Path
) -> None:
    first, second, third, fourth = bundles
    await _run(first, configured, root)
    name = _name(store)
    with (store / name / "memory").open("r+b") as memory:
        start = os.lseek(memory.fileno(), 16 << 20, os.SEEK_DATA)
        memory.seek(start)
        byte = memory.read(1)[0]
        memory.seek(start)
        memory.write(bytes([byte ^ 1]))
    await _run(second, configured, root)
    assert f"the template {name} is made again: its memory is not what" in second.log()
    status = os.stat(store / name / "memory")
    with (store / name / "memory").open("r+b") as memory:
        memory.seek(start)
        memory.write(bytes([byte ^ 2]))
    os.utime(store / name / "memory", ns=(status.st_atime_ns, status.st_mtime_ns))
    await _run(fourth, configured, root)
    assert f"the template {name} is made again: its memory is not what" in fourth.log()
    os.truncate(store / name / "state", 100_000)
    await _run(third, configured, root)
    assert f"the template {name} is made again: the state of its devices" in third.log()
    (store / name / "memory").unlink()
    (store / f"{name}.draft").mkdir()  # of a maker that was killed
    (store / "0123456789abcdef.draft").mkdir()  # and of one that nobody will call again
    (store / "0123456789abcdef.removed.1").mkdir()
    await _run(first, configured, root)
    assert f"the template {name} is made again:" in first.log()
    assert sorted(os.listdir(store)) == [name, f"{name}.lock"]


async def test_a_template_goes_when_its_kernel_or_qemu_changes(
    store: Path, configured: Configured, bundles: list[Bundle], root: Path, tmp_path: Path
) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(configured.asset("initrd").read_bytes())
    text = configured.path.read_text()
    configured.path.write_text(text.replace(str(configured.asset("initrd")), str(initrd)))
    await _run(bundles[0], configured, root)
    former = _name(store)
    os.utime(initrd)
    await _run(bundles[1], configured, root)
    assert f"removed the template {former}" in bundles[1].log()
    assert _name(store) != former


async def test_a_directory_that_cannot_hold_a_template_costs_no_start(
    configured: Configured, bundles: list[Bundle], root: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    libc.mount("none", str(small), "tmpfs", 0, "size=8m,mode=700")
    try:
        configured.set("factory", template_path=f'"{small}"')
        await _run(bundles[0], configured, root)
        log = bundles[0].log()
        assert "no template to restore: " in log
        assert "No space left on device" in log
        assert [name for name in os.listdir(small) if not name.endswith(".lock")] == []
    finally:
        mounts.unmount(str(small))
    small.chmod(0o777)
    await _run(bundles[1], configured, root)
    assert "is not ours alone" in bundles[1].log()


async def test_a_maker_that_is_killed_leaves_nothing_in_the_way(
    store: Path, configured: Configured, bundles: list[Bundle], root: Path
) -> None:
    words = ["-m", "kata.cli.ctl", "template", "create", "--config", str(configured.path)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src")}
    maker = await asyncio.create_subprocess_exec(sys.executable, *words, env=environment)
    deadline = time.monotonic() + 30
    while not list(store.glob("*.draft/console.log")):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    maker.send_signal(signal.SIGKILL)
    await maker.wait()
    await _run(bundles[0], configured, root)
    assert bundles[0].log().count("made the template") == 1
    assert not list(store.glob("*.draft"))
