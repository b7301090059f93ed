"""Files that hold a machine's memory: which pages are left out, and that the rest is the same."""

import os
from pathlib import Path

import pytest

from kata.hypervisor import memory_file

pytestmark = pytest.mark.unit

_PAGE = 4096
_POISON = b"\xcc" * _PAGE


def _memory(pages: dict[int, bytes], size: int = 1024) -> int:
    memory = os.memfd_create("memory")
    os.ftruncate(memory, size * _PAGE)
    for number, data in pages.items():
        os.pwrite(memory, data, number * _PAGE)
    return memory


def test_what_the_kernel_filled_is_left_out_where_it_has_freed_only(tmp_path: Path) -> None:
    in_use = b"\xcc" * (_PAGE - 1) + b"\xcd"
    pages = {
        3: _POISON,  # not within what was freed
        299: _POISON,
        **dict.fromkeys(range(300, 700), _POISON),
        500: in_use,
        700: _POISON,
    }
    memory = _memory(pages)
    try:
        path = tmp_path / "stored"
        freed = range(300 * _PAGE, 700 * _PAGE)
        digest, kept = memory_file.store(memory, str(path), freed)
    finally:
        os.close(memory)
    stored = path.read_bytes()
    assert len(stored) == 1024 * _PAGE
    assert kept == 4 * _PAGE
    for number in range(1024):
        held = pages[number] if number in (3, 299, 500, 700) else bytes(_PAGE)
        assert stored[number * _PAGE : (number + 1) * _PAGE] == held, number
    assert path.stat().st_blocks * 512 < 64 * _PAGE
    assert memory_file.digest(str(path)) == digest


def test_a_copy_is_the_same(tmp_path: Path) -> None:
    memory = _memory({0: b"first", 77: _POISON, 1023: b"last"})
    path = tmp_path / "stored"
    memory_file.store(memory, str(path))
    os.close(memory)
    copy = memory_file.new_memory(str(path))
    try:
        memory_file.copy(str(path), copy)
        assert os.pread(copy, 1024 * _PAGE, 0) == path.read_bytes()
    finally:
        os.close(copy)
