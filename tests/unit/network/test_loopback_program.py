"""The program that steers connections, run by an interpreter of the few instructions that it has."""

import ipaddress
import socket
import struct
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kata.network import loopback_program
from kata.network.loopback_program import INDEX

pytestmark = pytest.mark.unit

MAP = 7
CONTEXT, STACK, SOCKET = 1 << 20, 2 << 20, 3 << 20
WORD = (1 << 32) - 1


class Instruction(NamedTuple):
    code: int
    target: int
    source: int
    offset: int
    value: int


def decode(program: bytes) -> list[Instruction]:
    return [
        Instruction(code, registers & 15, registers >> 4, offset, value)
        for code, registers, offset, value in struct.iter_unpack("=BBhi", program)
    ]


def context(address: str, protocol: int = socket.IPPROTO_TCP) -> bytes:
    """Return a struct bpf_sk_lookup: what comes from afar is nonsense that must not matter."""
    parsed = ipaddress.ip_address(address)
    is_four = parsed.version == 4
    family = socket.AF_INET if is_four else socket.AF_INET6
    nothing = bytes(16)
    return b"".join(
        (
            struct.pack("=QII", 0, family, protocol),
            b"\x7f\0\0\x01" + b"\xfe\x80" + bytes(13) + b"\x09",  # remote addresses
            struct.pack(">HH", 40000, 0),
            parsed.packed if is_four else b"\x7f\0\0\x01",
            nothing if is_four else parsed.packed,
            struct.pack("=II", 80, 1),
        )
    )


def run(program: bytes, memory: bytes, sockets: dict[int, int]) -> tuple[int, int | None]:
    """Return the verdict, and the socket that was assigned; a reference must not be left open."""
    instructions = decode(program)
    registers = [0] * 11
    registers[1], registers[10] = CONTEXT, STACK
    stack: dict[int, int] = {}
    references: set[int] = set()
    assigned, place = None, 0
    for _ in range(len(instructions)):  # it has no loops
        code, target, source, offset, value = instructions[place]
        place += 1
        match code:
            case 0x61:  # load a word
                start = registers[source] + offset - CONTEXT
                registers[target] = struct.unpack_from("=I", memory, start)[0]
            case 0x63:
                stack[registers[target] + offset] = registers[source] & WORD
            case 0x18:
                assert source == 1  # a map by its descriptor
                registers[target] = value
                assert instructions[place] == (0, 0, 0, 0, 0)
                place += 1
            case 0x54:
                registers[target] = registers[target] & value & WORD
            case 0xB4:
                registers[target] = value & WORD
            case 0xBF:
                registers[target] = registers[source]
            case 0x07:
                registers[target] += value
            case 0x05:
                place += offset
            case 0x15:
                place += offset if registers[target] == value else 0
            case 0x16:
                place += offset if registers[target] & WORD == value & WORD else 0
            case 0x56:
                place += offset if registers[target] & WORD != value & WORD else 0
            case 0x85:
                registers[0] = 0
                match value:
                    case 1:
                        assert registers[1] == MAP
                        registers[0] = sockets.get(stack[registers[2]], 0)
                        references |= {registers[0]} - {0}
                    case 124:
                        assert (registers[1], registers[3]) == (CONTEXT, 0)
                        assert registers[2] in references
                        assigned = registers[2]
                    case 86:
                        references.remove(registers[1])
                    case _:
                        pytest.fail(f"helper {value} is not to be called")
                registers[1:6] = [-1] * 5  # lost in a call
            case 0x95:
                assert not references
                return registers[0], assigned
            case _:
                pytest.fail(f"instruction {code:#x} is not known")
    pytest.fail("the program does not end")


PROGRAM = loopback_program.assemble(MAP)
BOTH = {INDEX[socket.AF_INET]: SOCKET, INDEX[socket.AF_INET6]: SOCKET + 1}


ADDRESSES: dict[str, int | None] = {
    **dict.fromkeys(("127.0.0.1", "127.0.0.0", "127.255.255.255"), SOCKET),
    **dict.fromkeys(("126.255.255.255", "128.0.0.0", "0.0.0.127", "1.0.0.127", "0.0.0.0")),
    "10.88.0.5": None,
    "::1": SOCKET + 1,
    **dict.fromkeys(("::", "::2", "::1:1", "1::1", "0:1::1", "0:0:1::1", "100::", "fe80::1")),
    "::ffff:127.0.0.1": None,
}


@pytest.mark.parametrize(("address", "expected"), list(ADDRESSES.items()))
def test_loopback_is_steered_to_the_socket_of_its_family(
    address: str, expected: int | None
) -> None:
    assert run(PROGRAM, context(address), BOTH) == (1, expected)


@given(st.ip_addresses())
@example(ipaddress.ip_address("127.1.2.3"))
def test_only_loopback_is_steered(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    # Python calls some mapped addresses loopback, which never are the address of a connection here.
    is_ours = address.is_loopback and getattr(address, "ipv4_mapped", None) is None
    _, assigned = run(PROGRAM, context(str(address)), BOTH)
    assert (assigned is not None) is is_ours


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_other_protocols_are_passed(address: str) -> None:
    assert run(PROGRAM, context(address, socket.IPPROTO_UDP), BOTH) == (1, None)


def test_family_without_a_socket_is_passed() -> None:
    assert run(PROGRAM, context("::1"), {0: SOCKET}) == (1, None)


def test_map_is_the_only_thing_that_differs() -> None:
    other = decode(loopback_program.assemble(MAP + 1))
    changed = [(one, two) for one, two in zip(decode(PROGRAM), other, strict=True) if one != two]
    ((one, two),) = changed
    assert (one.value, two.value) == (MAP, MAP + 1)
