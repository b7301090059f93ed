"""Processes as /proc tells of them."""

import os


def start_time(pid: int) -> int:
    """Return when `pid` started, in clock ticks since boot: with the pid, a process's identity.

    Field 22 of proc_pid_stat(5).  Raises `ProcessLookupError` when there is no such process.
    """
    return int(stat_fields(pid)[19])


def is_running(pid: int, started: int) -> bool:
    """Tell whether `pid` is the process that started at `started`, and more than its zombie."""
    try:
        fields = stat_fields(pid)
    except ProcessLookupError:
        return False
    return int(fields[19]) == started and fields[0] not in (b"Z", b"X")


def stat_fields(pid: int) -> list[bytes]:
    """Return the fields of proc_pid_stat(5) from the third, the state, on.

    Raises `ProcessLookupError` when there is no such process.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field, the name, may hold spaces and parentheses.
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"no process {pid}") from None


def started_at(pid: int) -> float:
    """Return when `pid` started, in seconds of the boot clock; exact to one clock tick."""
    return start_time(pid) / os.sysconf("SC_CLK_TCK")


def mounted(pid: int) -> set[tuple[bytes, ...]]:
    """Return device, root and point of every mount that a process sees, as proc_pid_mountinfo(5) has them.

    Raises `OSError` when there is no such process.
    """
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        return {tuple(line.split(b" ", 5)[2:5]) for line in file}


def children(pid: int) -> list[int]:
    """Return the processes that the first thread of a process has started; none of one that has ended."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
