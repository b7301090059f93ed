"""The directory of templates: when a template is trusted, and which ones go."""

import asyncio
import json
import logging
import os
from pathlib import Path

import pytest

from kata.hypervisor import memory_file
from kata.hypervisor.port import Snapshot
from kata.template.key import Key, identity
from kata.template.store import Store, TemplateError

pytestmark = pytest.mark.unit

_PAGES = 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    root = tmp_path / "templates"
    root.mkdir(mode=0o700)
    return Store(str(root))


def _key(name: str, *files: Path) -> Key:
    return Key(name, {"files": {str(path): identity(str(path)) for path in files}})


def _make(store: Store, key: Key) -> Snapshot:
    """Publish a template of a few pages, some of them zeros."""
    draft = store.draft(key)
    memory = os.memfd_create("memory")
    os.ftruncate(memory, _PAGES * 4096)
    os.pwrite(memory, b"kernel" * 2000, 8 * 4096)
    digest, size = memory_file.store(memory, f"{draft}/memory")
    os.close(memory)
    Path(draft, "state").write_bytes(b"devices" * 100)
    return store.publish(key, draft, digest, size, 1.0)


def _damage(path: str, kind: str) -> None:
    if kind == "gone":
        os.unlink(path)
        return
    with open(path, "r+b") as file:
        if kind == "truncated":
            file.truncate(Path(path).stat().st_size // 8)
        else:
            file.seek(8 * 4096 + 10 if path.endswith("memory") else 10)
            file.write(b"!")


def test_one_that_was_made_in_this_boot_is_used_without_a_check(store: Store) -> None:
    key = _key("a" * 16)
    made = _make(store, key)
    assert store.ready(key) == made
    assert store.ready(_key("b" * 16)) is None


def test_after_a_boot_the_hashes_are_checked_once(store: Store) -> None:
    key = _key("a" * 16)
    made = _make(store, key)
    record = Path(made.memory).with_name("template.json")
    template = json.loads(record.read_text())
    template["trusted"][0] = "another boot"
    record.write_text(json.dumps(template))
    assert store.ready(key) is None
    assert store.checked(key) == made
    assert store.ready(key) == made


@pytest.mark.parametrize("file", ["memory", "state"])
@pytest.mark.parametrize("kind", ["truncated", "flipped", "gone"])
def test_a_damaged_one_goes_with_one_line_that_says_why(
    store: Store, caplog: pytest.LogCaptureFixture, file: str, kind: str
) -> None:
    key = _key("a" * 16)
    _damage(getattr(_make(store, key), file), kind)
    assert store.ready(key) is None
    with caplog.at_level(logging.WARNING):
        assert store.checked(key) is None
    (record,) = caplog.records
    assert record.message.startswith(f"the template {key.name} is made again: ")
    assert os.listdir(store.root) == []


def test_those_of_other_programs_and_the_longest_unused_go(store: Store, tmp_path: Path) -> None:
    qemu = tmp_path / "qemu"
    qemu.touch()
    _make(store, _key("f" * 16, qemu))
    names = [f"{number:016d}" for number in range(9)]
    for age, name in enumerate(names):
        _make(store, _key(name))
        os.utime(Path(store.root, name), (1000 + age, 1000 + age))
    qemu.write_text("upgraded")
    gone = dict(store.remove_stale())
    assert gone["f" * 16] == "its QEMU, kernel or initrd has changed"
    assert set(gone) == {"f" * 16, *names[:2]}
    assert [template.name for template in store.templates()] == names[2:]


async def test_who_waits_for_another_maker_gives_up_in_the_end(store: Store) -> None:
    key = _key("a" * 16)
    async with store.turn(key, 0.0):
        with pytest.raises(TemplateError, match="somebody else has been making the template"):
            async with store.turn(key, 0.05):
                pass
        waiting = asyncio.create_task(_wait_for(store, key))
        await asyncio.sleep(0.05)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 5)


async def _wait_for(store: Store, key: Key) -> None:
    async with store.turn(key, 5.0):
        pass
