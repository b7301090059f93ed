"""Addresses of the internet and of links: their text and their bytes."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

from rtnetlink.errors import MessageError

FAMILIES: Final = (int(AF_INET), int(AF_INET6))
WIDTH: Final = {int(AF_INET): 32, int(AF_INET6): 128}  # bits of an address
_NAME: Final = {int(AF_INET): "IPv4", int(AF_INET6): "IPv6"}


def packed(family: int, address: str) -> bytes:
    """Return the bytes of an address. Raises `ValueError`."""
    if family not in FAMILIES:
        raise ValueError(f"family {family} is neither IPv4 nor IPv6")
    try:
        return inet_pton(family, address)
    except (OSError, ValueError) as reason:  # ValueError: a zero byte inside
        raise ValueError(f"{address!r} is no {_NAME[family]} address") from reason


def address(family: int, value: bytes | None) -> str:
    """Return the text of an address, "" for none. Raises `MessageError`."""
    if not value:
        return ""
    if family not in FAMILIES or len(value) * 8 != WIDTH[family]:
        raise MessageError(f"{len(value)} bytes are no address of family {family}")
    return inet_ntop(family, value)


def packed_network(family: int, network: str) -> tuple[bytes, int]:
    """Return the bytes and the prefix length of `address/length`; "" is b"" and 0.

    An address alone is a host's. Raises `ValueError`.
    """
    if not network:
        return b"", 0
    host, slash, length = network.partition("/")
    value = packed(family, host)
    if not slash:
        return value, WIDTH[family]
    if not (length.isascii() and length.isdecimal() and int(length) <= WIDTH[family]):
        raise ValueError(f"{network!r} is no {_NAME[family]} network")
    return value, int(length)


def network(family: int, value: bytes | None, length: int) -> str:
    """Return `address/length`, "" for all addresses. Raises `MessageError`."""
    if family in FAMILIES and length > WIDTH[family]:
        raise MessageError(f"a prefix of {length} bits in family {family}")
    if not length:
        return ""
    if not value:
        raise MessageError(f"a prefix of {length} bits without an address")
    return f"{address(family, value)}/{length}"


def packed_mac(mac: str) -> bytes:
    """Return the bytes of a link's address, "" is b"". Raises `ValueError`."""
    try:
        if any(len(pair) != 2 for pair in mac.split(":") if mac):
            raise ValueError(mac)
        return bytes.fromhex(mac.replace(":", ""))
    except ValueError as reason:
        raise ValueError(f"{mac!r} is no address of a link") from reason


def mac(value: bytes | None) -> str:
    """Return a link's address as pairs of digits between colons, "" for none."""
    return value.hex(":") if value else ""
