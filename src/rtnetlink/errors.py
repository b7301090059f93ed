"""What can go wrong between us and the kernel.

OSError
└── NetlinkError    the kernel refused what was asked
ValueError          what was asked cannot be said: no address, a number too large
└── MessageError    the bytes received are no netlink message
"""

from __future__ import annotations


class NetlinkError(OSError):
    """The kernel's refusal: `errno`, and in words what was asked and why not.

    For instance `add route 10.0.0.0/8 via 10.1.0.1: Network is unreachable`; where the kernel gives
    its own words they follow in brackets.
    """

    def __str__(self) -> str:
        return str(self.strerror)


class MessageError(ValueError):
    """Bytes that are not what rtnetlink(7) promises."""
