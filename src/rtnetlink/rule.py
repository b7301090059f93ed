"""Rules: which table of routes a packet is looked up in."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from rtnetlink import internet, message
from rtnetlink.errors import MessageError
from rtnetlink.route import RT_TABLE_MAIN

RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_GETRULE: Final = 34

FR_ACT_TO_TBL: Final = 1
FR_ACT_GOTO: Final = 2
FR_ACT_NOP: Final = 3
FR_ACT_BLACKHOLE: Final = 6
FR_ACT_UNREACHABLE: Final = 7
FR_ACT_PROHIBIT: Final = 8
FIB_RULE_INVERT: Final = 0x02

# struct fib_rule_hdr: family, destination and source lengths, tos, table, action, flags
_LAYOUT: Final = Struct("=BBBBBxxBI")
_DESTINATION: Final = 1
_SOURCE: Final = 2
_IIF: Final = 3
_GOTO: Final = 4
_PRIORITY: Final = 6
_MARK: Final = 10
_SUPPRESS_PREFIX: Final = 14
_TABLE: Final = 15
_MASK: Final = 16
_OIF: Final = 17
_L3MDEV: Final = 19
_UIDS: Final = 20
_PROTOCOL: Final = 21
_IP_PROTOCOL: Final = 22
_SOURCE_PORTS: Final = 23
_DESTINATION_PORTS: Final = 24

_UID_RANGE: Final = Struct("=II")
_PORT_RANGE: Final = Struct("=HH")
_NOTHING: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """Packets that fit all of what it says do `action`, an FR_ACT_ value; lower priorities come first.

    `source` and `destination` are `address/length`, `iif` and `oif` names of links; `mark` counts
    under `mask`; `uids` and ports are from and to. "", 0 and None say nothing. `flags` may hold
    FIB_RULE_INVERT; `suppress_prefix` drops answers of a prefix no longer than that. `protocol` is
    who made it, an RTPROT_ value.
    """

    family: int
    priority: int = 0
    table: int = RT_TABLE_MAIN
    action: int = FR_ACT_TO_TBL
    source: str = ""
    destination: str = ""
    mark: int = 0
    mask: int = 0
    iif: str = ""
    oif: str = ""
    tos: int = 0
    flags: int = 0
    goto: int = 0
    suppress_prefix: int | None = None
    uids: tuple[int, int] | None = None
    ip_protocol: int = 0
    source_ports: tuple[int, int] | None = None
    destination_ports: tuple[int, int] | None = None
    l3mdev: bool = False
    protocol: int = 0

    def __str__(self) -> str:
        words = [f"{self.priority}: from {self.source or 'all'}"]
        words += [f"to {self.destination}"] if self.destination else []
        words += [f"fwmark {self.mark:#x}/{self.mask:#x}"] if self.mark or self.mask else []
        words += [f"iif {self.iif}"] if self.iif else []
        words += [f"oif {self.oif}"] if self.oif else []
        lookup = self.action == FR_ACT_TO_TBL
        words += [f"lookup {self.table}" if lookup else f"action {self.action}"]
        return ("not " if self.flags & FIB_RULE_INVERT else "") + " ".join(words)


def decode(payload: bytes) -> Rule:
    """Read what follows the header of an RTM_NEWRULE or RTM_DELRULE. Raises `MessageError`."""
    fixed, found = message.unpack(_LAYOUT, payload)
    family, to_length, from_length, tos, table, action, flags = fixed
    suppress = message.integer(found.get(_SUPPRESS_PREFIX, b"\xff" * 4))
    return Rule(
        family=family,
        priority=message.integer(found.get(_PRIORITY)),
        table=message.integer(found[_TABLE]) if _TABLE in found else table,
        action=action,
        source=internet.network(family, found.get(_SOURCE), from_length),
        destination=internet.network(family, found.get(_DESTINATION), to_length),
        mark=message.integer(found.get(_MARK)),
        mask=message.integer(found.get(_MASK)),
        iif=message.string(found.get(_IIF)),
        oif=message.string(found.get(_OIF)),
        tos=tos,
        flags=flags,
        goto=message.integer(found.get(_GOTO)),
        suppress_prefix=None if suppress == _NOTHING else suppress,
        uids=_range(_UID_RANGE, found.get(_UIDS)),
        ip_protocol=message.integer(found.get(_IP_PROTOCOL)),
        source_ports=_range(_PORT_RANGE, found.get(_SOURCE_PORTS)),
        destination_ports=_range(_PORT_RANGE, found.get(_DESTINATION_PORTS)),
        l3mdev=bool(message.integer(found.get(_L3MDEV))),
        protocol=message.integer(found.get(_PROTOCOL)),
    )


def encode(rule: Rule) -> bytes:
    """Return what follows the header of a message about a rule. Raises `ValueError`."""
    source, from_length = internet.packed_network(rule.family, rule.source)
    destination, to_length = internet.packed_network(rule.family, rule.destination)
    table = rule.table if rule.table < 256 else 0  # RT_TABLE_UNSPEC: look at the attribute
    numbers = (
        (_PRIORITY, rule.priority, 4),
        (_TABLE, 0 if table else rule.table, 4),
        (_MARK, rule.mark, 4),
        (_MASK, rule.mask, 4),
        (_GOTO, rule.goto, 4),
        (_IP_PROTOCOL, rule.ip_protocol, 1),
        (_L3MDEV, int(rule.l3mdev), 1),
        (_PROTOCOL, rule.protocol, 1),
    )
    ranges = (
        (_UIDS, _UID_RANGE, rule.uids),
        (_SOURCE_PORTS, _PORT_RANGE, rule.source_ports),
        (_DESTINATION_PORTS, _PORT_RANGE, rule.destination_ports),
    )
    return b"".join(
        (
            message.pack(
                *(_LAYOUT, rule.family, to_length, from_length, rule.tos, table),
                *(rule.action, rule.flags),
            ),
            message.attribute(_SOURCE, source) if source else b"",
            message.attribute(_DESTINATION, destination) if destination else b"",
            message.text(_IIF, rule.iif) if rule.iif else b"",
            message.text(_OIF, rule.oif) if rule.oif else b"",
            *(message.number(kind, value, size) for kind, value, size in numbers if value),
            b""
            if rule.suppress_prefix is None
            else message.number(_SUPPRESS_PREFIX, rule.suppress_prefix),
            *(
                message.attribute(kind, message.pack(layout, *limits))
                for kind, layout, limits in ranges
                if limits is not None
            ),
        )
    )


def all_of_them() -> bytes:
    """Return the request for every rule."""
    return message.pack(_LAYOUT, 0, 0, 0, 0, 0, 0, 0)


def _range(layout: Struct, value: bytes | None) -> tuple[int, int] | None:
    if value is None:
        return None
    if len(value) != layout.size:
        raise MessageError(f"{len(value)} bytes are no range")
    first, last = layout.unpack(value)
    return first, last
