"""What a process uses of the host, as /proc tells it."""

import os
from contextlib import suppress
from dataclasses import dataclass

from kata.host.proc import stat_fields


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory in KiB, processor time and age in seconds; `pss_kib` is None for another's process.

    RSS counts pages that processes share once for each of them, PSS divides them.
    """

    rss_kib: int
    pss_kib: int | None
    cpu_seconds: float
    threads: int


def usage(pid: int) -> Usage:
    """Return what `pid` uses now; raises `ProcessLookupError` when there is no such process."""
    fields = stat_fields(pid)  # proc_pid_stat(5), from the third field on
    ticks = os.sysconf("SC_CLK_TCK")
    page_kib = os.sysconf("SC_PAGE_SIZE") // 1024
    # Both of one look where there is one: a process that grows between two has more PSS than RSS.
    sums: dict[str, int] = {}
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
        sums = {
            line.split()[0]: int(line.split()[1])
            for line in file
            if line.startswith(("Rss:", "Pss:"))
        }
    return Usage(
        rss_kib=sums.get("Rss:", int(fields[21]) * page_kib),
        pss_kib=sums.get("Pss:"),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / ticks,
        threads=int(fields[17]),
    )
