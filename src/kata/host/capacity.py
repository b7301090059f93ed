"""How much of everything this host has."""

import os


def processors() -> int:
    """Return the host's processors, whichever of them this process may use."""
    return os.cpu_count() or 1


def memory_mib() -> int:
    """Return the host's memory in whole GiB, as MiB: what a kernel keeps for itself varies."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30 << 10
