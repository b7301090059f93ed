"""Tap devices: network interfaces of the host whose other end is a descriptor.

Documentation/networking/tuntap.rst of the kernel; constants are those of `linux/if_tun.h`.
"""

import fcntl
import os
import struct

_DEVICE = "/dev/net/tun"

_TUNSETIFF = 0x400454CA

_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
_IFF_MULTI_QUEUE = 0x0100

_REQUEST = "=16sH22x"
"""struct ifreq: the name of the interface, then its flags."""


def open_tap(name: str, queues: int = 1) -> tuple[int, ...]:
    """Make a tap device in the caller's network namespace and return a descriptor for each queue.

    Packets carry a virtio header, so that segments and checksums can be left to whoever receives
    them.  The device is gone once the last descriptor is closed.  Raises `OSError`, EBUSY where there
    is one of that name; nothing is left then.
    """
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if queues > 1 else 0)
    opened: list[int] = []
    try:
        for number in range(queues):
            # The first must not become a queue of somebody else's device.
            request = struct.pack(_REQUEST, name.encode(), flags | (0 if number else _IFF_TUN_EXCL))
            opened.append(os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            fcntl.ioctl(opened[-1], _TUNSETIFF, request)
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return tuple(opened)
