"""Traffic control, as far as a packet's way from one link to another needs it: tc(8)'s ingress."""

from __future__ import annotations

import sys
from struct import Struct
from typing import Final

from rtnetlink import message

RTM_NEWQDISC: Final = 36
RTM_DELQDISC: Final = 37
RTM_GETQDISC: Final = 38
RTM_NEWTFILTER: Final = 44

_LAYOUT: Final = Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_INGRESS: Final = 0xFFFF0000  # the handle ffff:
_INGRESS_PARENT: Final = 0xFFFFFFF1
_PRIORITY: Final = 1 << 16
_EVERY_PROTOCOL: Final = int.from_bytes(b"\0\3", sys.byteorder)  # ETH_P_ALL

_KIND: Final = 1
_OPTIONS: Final = 2
_U32_SELECTOR: Final = 5
_U32_ACTION: Final = 7
_ACTION_KIND: Final = 1
_ACTION_OPTIONS: Final = 2
_MIRRED_PARAMETERS: Final = 2

# struct tc_u32_sel and one tc_u32_key: nothing has to be equal to nothing, so everything fits
_SELECT_ALL: Final = Struct("=BBBxHHhhIIIii").pack(1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
# struct tc_mirred: index, capabilities, verdict, two counters, what to do, link
_MIRRED: Final = Struct("=IIiiiiI")
_STOLEN: Final = 4
_REDIRECT_TO_EGRESS: Final = 1


def ingress(index: int) -> bytes:
    """Return what names the ingress queue of a link."""
    return message.pack(_LAYOUT, 0, index, _INGRESS, _INGRESS_PARENT, 0) + message.text(
        _KIND, "ingress"
    )


def all_of_them() -> bytes:
    """Return what asks for the queues of every link."""
    return message.pack(_LAYOUT, 0, 0, 0, 0, 0)


def ingress_of(payload: bytes) -> int:
    """Return the index of the link whose ingress queue this is, 0 for a queue of another kind.

    Raises `MessageError`.
    """
    (_, index, _, parent, _), _ = message.unpack(_LAYOUT, payload)
    return index if parent == _INGRESS_PARENT else 0


def redirection(index: int, to_index: int) -> bytes:
    """Return the filter by which all that comes in by one link leaves by another."""
    mirred = message.pack(_MIRRED, 0, 0, _STOLEN, 0, 0, _REDIRECT_TO_EGRESS, to_index)
    action = message.nested(
        1,  # the first action of the filter
        message.text(_ACTION_KIND, "mirred"),
        message.nested(_ACTION_OPTIONS, message.attribute(_MIRRED_PARAMETERS, mirred)),
    )
    return b"".join(
        (
            message.pack(_LAYOUT, 0, index, 0, _INGRESS, _PRIORITY | _EVERY_PROTOCOL),
            message.text(_KIND, "u32"),
            message.nested(
                _OPTIONS,
                message.attribute(_U32_SELECTOR, _SELECT_ALL),
                message.nested(_U32_ACTION, action),
            ),
        )
    )
