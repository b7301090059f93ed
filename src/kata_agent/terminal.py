"""Pseudo terminals: a pair out of a container's devpts, and its size."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Callable

_TIOCGPTN = 0x80045430  # number of the slave (asm-generic/ioctls.h)
_TIOCSPTLCK = 0x40045431  # unlock the slave
_TIOCGPTPEER = 0x5441  # open the slave without a path


def open_pair(opener: Callable[[str, int], int]) -> tuple[int, int, int]:
    """Open a new terminal by opening /dev/ptmx with ``opener`` (path, flags).

    The slave is opened through the master, so that no path a container could replace is trusted.
    Returns (master, slave, number of the slave below /dev/pts). Raises ``OSError``.
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    master = opener("/dev/ptmx", flags)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    (number,) = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, struct.pack("i", 0)))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, flags)
    return master, slave, number


def resize(fd: int, rows: int, columns: int) -> None:
    """Set the size in characters of the terminal open at ``fd``; its foreground gets SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def control(slave: int) -> None:
    """Make ``slave`` the controlling terminal of this session leader."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
