"""Where the initrd was, from the parameters that a kernel was booted with."""

import struct

import pytest

from kata.template.initrd import place

pytestmark = pytest.mark.unit


def _parameters(**fields: int) -> bytes:
    data = bytearray(4096)
    for offset, value in fields.items():
        struct.pack_into("<I", data, int(offset.removeprefix("at_"), 16), value)
    return bytes(data)


def test_place() -> None:
    told = _parameters(at_218=0x7E78_E000, at_21c=0x0185_1000)
    assert place(told) == range(0x7E78_E000, 0x7FFD_F000)
    high = _parameters(at_218=0x1000, at_0c0=1, at_21c=0x2000, at_0c4=0)
    assert place(high) == range(0x1_0000_1000, 0x1_0000_3000)


@pytest.mark.parametrize("said", [b"", b"cat: no such file", bytes(4095), bytes(4096)])
def test_none(said: bytes) -> None:
    assert len(place(said)) == 0
