"""The two ways a byte stream reaches the guest's agent."""

import errno
import fcntl
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

_VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60
"""ioctl number from `linux/vhost.h`; the argument is a 64-bit context id."""

_FIRST_CID, _LAST_CID = 3, 0xFFFFFFFE
"""Context ids for guests; 0 to 2 are the hypervisor's, local's and the host's."""

_ATTEMPTS = 64


@dataclass(frozen=True, slots=True)
class VsockAddress:
    """Where the agent listens when the host has vhost-vsock: context id and port."""

    cid: int
    port: int = 1024


@dataclass(frozen=True, slots=True)
class SerialChannel:
    """Our end of the virtio-serial port that carries the agent's byte stream."""

    socket: socket.socket


AgentChannel = VsockAddress | SerialChannel


def reserve_vsock(device: str = "/dev/vhost-vsock") -> tuple[int, int] | None:
    """Return an open vhost-vsock descriptor and the context id it holds, or None without vsock.

    The reservation lasts as long as the descriptor.  Raises `OSError` when the device is there
    but gives no id.
    """
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    for _ in range(_ATTEMPTS):
        cid = _FIRST_CID + int.from_bytes(os.urandom(8)) % (_LAST_CID - _FIRST_CID + 1)
        with suppress(OSError):
            fcntl.ioctl(descriptor, _VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", cid))
            return descriptor, cid
    os.close(descriptor)
    raise OSError(errno.EADDRINUSE, f"no free context id after {_ATTEMPTS} attempts", device)
