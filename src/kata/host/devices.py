"""Device nodes of the host by their numbers, as the kernel names them in /sys/dev."""

import os
import stat


def name(number: int, *, block: bool) -> str:
    """Return the path below /dev of the device with the number `number` (st_rdev).

    Raises `FileNotFoundError` when the kernel has no such device, or no name for it.
    """
    kind = "block" if block else "char"
    path = f"/sys/dev/{kind}/{os.major(number)}:{os.minor(number)}/uevent"
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("DEVNAME="):
                return line.removeprefix("DEVNAME=").strip()
    raise FileNotFoundError(f"{path} does not name the device")


def open_block(number: int, *, read_only: bool, exclusive: bool = False) -> int:
    """Open the block device with a number and return the descriptor, close-on-exec.

    An exclusive one is nobody else's file system.  Raises `OSError`.
    """
    path = f"/dev/{name(number, block=True)}"
    flags = os.O_RDONLY if read_only else os.O_RDWR
    descriptor = os.open(path, flags | os.O_CLOEXEC | (os.O_EXCL if exclusive else 0))
    found = os.fstat(descriptor)
    if not stat.S_ISBLK(found.st_mode) or found.st_rdev != number:
        os.close(descriptor)
        raise FileNotFoundError(f"{path} is not the device {os.major(number)}:{os.minor(number)}")
    return descriptor
