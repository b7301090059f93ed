"""Templates: made once, restored ever after, never used when anything is wrong with them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import patient_shim
import pytest
from lab.bundle import Bundle, Configured, specification
from lab.paths import CHECKOUT, GUEST, GUEST_KERNEL

from kata.host import libc, mounts
from kata.hypervisor import memory_file
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
    """Many bundles; afterwards nothing of their sandboxes is there."""
    made = []
    for number in range(20):
        folder = tmp_path / f"bundle{number}"
        folder.mkdir()
        made.append(patient_shim.use(Bundle(folder)))
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


def _freed(memory: Path) -> int:
    """Return how many bytes of a template are pages that its kernel has filled and freed."""
    found = 0
    descriptor = os.open(memory, os.O_RDONLY)
    for _, data in memory_file.runs(descriptor):
        found += sum(
            data[at : at + 4096] == b"\xcc" * 4096
            for at in range(0, len(data), 4096)
        )  # fmt: skip
    os.close(descriptor)
    return found * 4096


def _name(store: Path) -> str:
    (one,) = (path.parent.name for path in store.glob("*/template.json"))
    return one


def _ctl(*words: str) -> str:
    """Run kata-ctl; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "kata.cli.ctl", *words],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(("shared_fs", "count"), [("virtio-fs", 20), ("virtio-9p", 4)])
async def test_those_that_come_at_once_make_one_and_share_nothing_that_must_differ(
    store: Path,
    configured: Configured,
    bundles: list[Bundle],
    root: Path,
    shared_fs: str,
    count: int,
) -> None:
    bundles = bundles[:count]
    drop_in = configured.path.parent / "config.d" / "60-share.toml"
    drop_in.write_text(f'[hypervisor.qemu]\nshared_fs = "{shared_fs}"\n')

    async def identity(bundle: Bundle) -> list[str]:
        began = time.time()
        facts = (await _run(bundle, configured, root, _IDENTITY)).split("\n")
        # The clock is today's, not the template's.
        assert began - 2 < int(facts[3]) < time.time() + 2
        return facts

    facts = await asyncio.gather(*(identity(bundle) for bundle in bundles))
    logs = "".join(bundle.log() for bundle in bundles)
    assert logs.count("made the template") == 1
    assert "boots, for" not in logs
    assert len(_name(store)) == 16
    assert (
        _freed(store / _name(store) / "memory")
        < (GUEST / "kata-containers-initrd.img").stat().st_size / 2
    )
    for column in zip(*(lines[:3] for lines in facts), strict=True):
        assert len(set(column)) == len(bundles), column


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
    first, second, third, fourth, fifth = bundles[:5]
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
    os.truncate(store / name / "memory", 64 << 20)
    await _run(fifth, configured, root)
    assert f"the template {name} is made again: its memory is not what" in fifth.log()
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


@pytest.fixture
def qemu(configured: Configured, tmp_path: Path) -> Path:
    """A QEMU that can be upgraded: a program that becomes it; returns its path."""
    path = tmp_path / "qemu"
    (line,) = (one for one in configured.path.read_text().splitlines() if one.startswith("path ="))
    path.write_text(f'#!/bin/sh\nexec {line.split(chr(34))[1]} "$@" $(cat {path}.more)\n')
    path.chmod(0o755)
    Path(f"{path}.more").touch()
    configured.path.write_text(configured.path.read_text().replace(line, f'path = "{path}"'))
    return path


async def test_a_template_of_another_qemu_is_not_used_and_one_that_does_not_fit_goes(
    store: Path, configured: Configured, bundles: list[Bundle], root: Path, qemu: Path
) -> None:
    await _run(bundles[0], configured, root)
    former = _name(store)
    upgraded = qemu.with_suffix(".new")
    upgraded.write_text(qemu.read_text() + "# another release\n")
    upgraded.chmod(0o755)
    upgraded.rename(qemu)
    await _run(bundles[1], configured, root)
    log = bundles[1].log()
    assert f"removed the template {former}: its QEMU, kernel or initrd has changed" in log
    assert log.count("made the template") == 1
    assert (name := _name(store)) != former
    # Nothing that the key counts has changed, and yet the state does not fit.
    Path(f"{qemu}.more").write_text("-global virtio-rng-pci.disable-modern=on")
    await _run(bundles[2], configured, root)
    log = bundles[2].log()
    assert log.count("the machine boots, for it could not be restored: ") == 1
    assert f"the template {name} is removed: it cannot be restored" in log
    assert not list(store.glob("*/template.json"))


async def test_a_template_that_is_removed_while_in_use_takes_nobody_along(
    store: Path, configured: Configured, bundles: list[Bundle], root: Path
) -> None:
    drop_in = configured.path.parent / "config.d" / "60-share.toml"
    # Its machines map the template's own file.
    drop_in.write_text('[hypervisor.qemu]\nshared_fs = "virtio-9p"\n')
    first, second = bundles[:2]
    first.write(specification("/bin/sh", "-c", "busybox sha256sum /bin/busybox"))
    async with await first.connect() as client:
        await first.create(client, configured.path, root)
        name = _name(store)
        words = ("--config", str(configured.path))
        assert name in _ctl("template", "list", *words)
        assert json.loads(_ctl("template", "show", name, *words))["memory_bytes"] > 10 << 20
        assert _ctl("template", "remove", name, *words) == f"removed {name}\n"
        assert not list(store.glob("*/template.json"))
        await client.call(task.v2.START, pb.StartRequest(id=first.id))
        status = (await client.call(task.v2.WAIT, pb.WaitRequest(id=first.id))).exit_status
        assert status == 0
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=first.id))
        await first.shut_down(client)
    await _run(second, configured, root)
    assert second.log().count("made the template") == 1


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
