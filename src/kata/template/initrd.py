"""Where a guest's memory holds what is left of the initrd that its kernel booted from.

The kernel fills that memory with one byte when it frees it, and hands it out last of all: a template
would keep it, and each clone under virtio-fs copy it.
"""

_IMAGE, _SIZE, _HIGH_IMAGE, _HIGH_SIZE = 0x218, 0x21C, 0x0C0, 0x0C4
"""Offsets in `struct boot_params` (Documentation/arch/x86/zero-page.rst), each of 32 bits."""

_LENGTH = 4096
"""Bytes of that structure."""


def place(boot_parameters: bytes) -> range:
    """Return the guest's addresses of the initrd, from the parameters that an x86 kernel was given.

    The range is empty when these are not parameters, as on other processors, or name no initrd.
    """
    if len(boot_parameters) != _LENGTH:
        return range(0)

    def number(low: int, high: int) -> int:
        return int.from_bytes(boot_parameters[low : low + 4], "little") | (
            int.from_bytes(boot_parameters[high : high + 4], "little") << 32
        )

    begin = number(_IMAGE, _HIGH_IMAGE)
    return range(begin, begin + number(_SIZE, _HIGH_SIZE))
