"""The socket of netlink(7): how it is opened, and what it receives."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from rtnetlink import message
from rtnetlink.errors import NetlinkError
from rtnetlink.message import Message

RTMGRP_LINK: Final = 1

_SOL_NETLINK: Final = 270
# Less of our own request in an answer, the kernel's own words in it, and checks of what we ask:
# without the last, a kernel ignores what it does not know.
_OPTIONS: Final = {"NETLINK_CAP_ACK": 10, "NETLINK_EXT_ACK": 11, "NETLINK_GET_STRICT_CHK": 12}
_LARGEST_DATAGRAM: Final = 1 << 16  # bytes; the kernel fills at most half of that
_KERNEL: Final = 0  # the kernel's port: anybody may send to ours


def open_endpoint(groups: int = 0) -> socket.socket:
    """Return a bound socket that hears of the groups (RTMGRP_) in the caller's namespace.

    Raises `OSError`; nothing is open then.
    """
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        for option in _OPTIONS.values():
            opened.setsockopt(_SOL_NETLINK, option, 1)
        opened.bind((0, groups))
    except BaseException:
        opened.close()
        raise
    return opened


def send(endpoint: socket.socket, request: Message) -> None:
    """Send a request to the kernel, which carries it out before this returns."""
    endpoint.sendto(message.encode(request), (_KERNEL, 0))


def receive(endpoint: socket.socket) -> list[Message]:
    """Return the messages of the kernel's next datagram.

    Raises `OSError`: ENOBUFS when the kernel dropped some, EMSGSIZE for one too long; `MessageError`.
    """
    while True:
        data, _, flags, sender = endpoint.recvmsg(_LARGEST_DATAGRAM)
        if sender[0] != _KERNEL:
            continue
        if flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        return list(message.decode(data))


def refusal(asked: str, verdict: message.Acknowledgement) -> NetlinkError:
    """Return the error that says what was asked and what the kernel says to it."""
    reason = os.strerror(verdict.errno)
    words = f" ({verdict.text})" if verdict.text else ""
    return NetlinkError(verdict.errno, f"{asked}: {reason}{words}")
