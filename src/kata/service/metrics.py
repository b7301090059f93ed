"""A container's use of resources as containerd's metrics, in the shape of the host's cgroups.

The guest's hierarchy is the unified one, but an agent of another make may have the older: its names
are read, too.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import Message

from kata_api.agent import agent_pb2 as agent
from kata_api.containerd import cgroups_v1_pb2 as v1
from kata_api.containerd import cgroups_v2_pb2 as v2

_NONE = 2**64 - 1
"""A limit that is none."""

_NO_LIMIT_FROM = 2**62
"""Whatever is above is no limit to the kubelet either; kernels round theirs to pages."""

_MICROSECOND = 1000
"""Nanoseconds."""

_MEMORY = (
    # memory.stat of version 2, of version 1, and the field of containerd's version 1
    ("file", "cache", "cache"),
    ("anon", "rss", "rss"),
    ("anon_thp", "rss_huge", "rss_huge"),
    ("file_mapped", "mapped_file", "mapped_file"),
    ("file_dirty", "dirty", "dirty"),
    ("file_writeback", "writeback", "writeback"),
    ("pgpgin", "pgpgin", "pg_pg_in"),
    ("pgpgout", "pgpgout", "pg_pg_out"),
    ("pgfault", "pgfault", "pg_fault"),
    ("pgmajfault", "pgmajfault", "pg_maj_fault"),
    ("inactive_anon", "inactive_anon", "inactive_anon"),
    ("active_anon", "active_anon", "active_anon"),
    ("inactive_file", "inactive_file", "inactive_file"),
    ("active_file", "active_file", "active_file"),
    ("unevictable", "unevictable", "unevictable"),
)
_IO_OPERATIONS = {"read": ("rbytes", "rios"), "write": ("wbytes", "wios")}


def host_is_unified() -> bool:
    """Tell whether the host's cgroups are of version 2 alone, as containerd decides it."""
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def metrics(usage: agent.StatsContainerResponse, *, unified: bool) -> Message:
    """Return `usage` as a message of version 2 if `unified`, else of version 1.

    Values are bytes, nanoseconds (version 2: microseconds) and counts.  What the agent does not
    tell is 0, and a limit that is none 2**64 - 1, of processes in version 1: 0.
    """
    return _version_2(usage) if unified else _version_1(usage)


def _version_1(usage: agent.StatsContainerResponse) -> v1.Metrics:
    stats = usage.cgroup_stats
    cpu, pids = stats.cpu_stats, stats.pids_stats
    most_pids = _limit(pids.limit)
    return v1.Metrics(
        hugetlb=[
            # Its field `max` is the highest usage ever, which the guest's hierarchy does not keep.
            v1.HugetlbStat(usage=each.usage, failcnt=each.failcnt, pagesize=size)
            for size, each in sorted(stats.hugetlb_stats.items())
        ],
        pids=v1.PidsStat(current=pids.current, limit=0 if most_pids == _NONE else most_pids),
        cpu=v1.CPUStat(
            usage=v1.CPUUsage(
                total=cpu.cpu_usage.total_usage,
                kernel=cpu.cpu_usage.usage_in_kernelmode,
                user=cpu.cpu_usage.usage_in_usermode,
                per_cpu=cpu.cpu_usage.percpu_usage,
            ),
            throttling=v1.Throttle(
                periods=cpu.throttling_data.periods,
                throttled_periods=cpu.throttling_data.throttled_periods,
                throttled_time=cpu.throttling_data.throttled_time,
            ),
        ),
        memory=_memory_1(stats.memory_stats),
        blkio=_block_io_1(stats.blkio_stats),
        network=[v1.NetworkStat(**counts) for counts in _interfaces(usage)],
        memory_oom_control=v1.MemoryOomControl(
            oom_kill=stats.memory_stats.stats.get("oom_kill", 0)
        ),
    )


def _memory_1(memory: agent.MemoryStats) -> v1.MemoryStat:
    usage, swap, kernel = memory.usage, memory.swap_usage, memory.kernel_usage
    limit = _limit(usage.limit)
    both = min(limit + swap.limit, _NONE)  # version 1 counts memory and swap together
    result = v1.MemoryStat(
        hierarchical_memory_limit=limit,
        hierarchical_swap_limit=both,
        usage=v1.MemoryEntry(
            limit=limit, usage=usage.usage, max=usage.max_usage, failcnt=usage.failcnt
        ),
        swap=v1.MemoryEntry(
            limit=both, usage=min(usage.usage + swap.usage, _NONE), failcnt=swap.failcnt
        ),
        kernel=v1.MemoryEntry(limit=_limit(kernel.limit), usage=kernel.usage, max=kernel.max_usage),
        kernel_tcp=v1.MemoryEntry(limit=_NONE, usage=memory.stats.get("sock", 0)),
    )
    for name, older, field in _MEMORY:
        value = _counter(memory.stats, name, older)
        setattr(result, field, value)
        setattr(result, f"total_{field}", value)
    return result


def _block_io_1(stats: agent.BlkioStats) -> v1.BlkIOStat:
    result = v1.BlkIOStat()
    for field in stats.DESCRIPTOR.fields:
        for entry in getattr(stats, field.name):
            getattr(result, field.name).add(
                op=entry.op, major=entry.major, minor=entry.minor, value=entry.value
            )
    return result


def _version_2(usage: agent.StatsContainerResponse) -> v2.Metrics:
    stats = usage.cgroup_stats
    cpu, pids = stats.cpu_stats, stats.pids_stats
    events = stats.memory_stats.stats
    return v2.Metrics(
        pids=v2.PidsStat(current=pids.current, limit=_limit(pids.limit)),
        cpu=v2.CPUStat(
            usage_usec=cpu.cpu_usage.total_usage // _MICROSECOND,
            user_usec=cpu.cpu_usage.usage_in_usermode // _MICROSECOND,
            system_usec=cpu.cpu_usage.usage_in_kernelmode // _MICROSECOND,
            nr_periods=cpu.throttling_data.periods,
            nr_throttled=cpu.throttling_data.throttled_periods,
            throttled_usec=cpu.throttling_data.throttled_time // _MICROSECOND,
        ),
        memory=_memory_2(stats.memory_stats),
        io=_block_io_2(stats.blkio_stats),
        hugetlb=[
            v2.HugeTlbStat(
                current=each.usage, max=each.max_usage, pagesize=size, failcnt=each.failcnt
            )
            for size, each in sorted(stats.hugetlb_stats.items())
        ],
        memory_events=v2.MemoryEvents(
            **{field.name: events.get(field.name, 0) for field in v2.MemoryEvents.DESCRIPTOR.fields}
        ),
        network=[v2.NetworkStat(**counts) for counts in _interfaces(usage)],
    )


def _memory_2(memory: agent.MemoryStats) -> v2.MemoryStat:
    result = v2.MemoryStat()
    for field in result.DESCRIPTOR.fields:  # they have the kernel's names
        if field.name in memory.stats and not field.message_type:
            setattr(result, field.name, memory.stats[field.name])
    for name, older, _ in _MEMORY:
        if hasattr(result, name):
            setattr(result, name, _counter(memory.stats, name, older))
    result.usage = memory.usage.usage
    result.usage_limit = _limit(memory.usage.limit)
    result.max_usage = memory.usage.max_usage
    result.swap_usage = memory.swap_usage.usage
    result.swap_limit = memory.swap_usage.limit
    result.swap_max_usage = memory.swap_usage.max_usage
    return result


def _block_io_2(stats: agent.BlkioStats) -> v2.IOStat:
    devices: dict[tuple[int, int], v2.IOEntry] = {}
    lists = (stats.io_service_bytes_recursive, stats.io_serviced_recursive)
    for number, entries in enumerate(lists):
        for each in entries:
            if fields := _IO_OPERATIONS.get(each.op.lower()):
                device = (each.major, each.minor)
                entry = devices.setdefault(device, v2.IOEntry(major=device[0], minor=device[1]))
                setattr(entry, fields[number], each.value)
    return v2.IOStat(usage=devices.values())


def _interfaces(usage: agent.StatsContainerResponse) -> Iterator[dict[str, Any]]:
    """Yield the name and counters of each interface, whose names are the same everywhere."""
    for each in usage.network_stats:
        yield {field.name: getattr(each, field.name) for field in each.DESCRIPTOR.fields}


def _counter(stats: Mapping[str, int], name: str, older: str) -> int:
    """Return a counter of memory.stat; version 1 has those that include descendants as `total_`."""
    for each in (name, f"total_{older}", older):
        if each in stats:
            return stats[each]
    return 0


def _limit(value: int) -> int:
    """Return a limit; agents say 0 or something vast for none."""
    return value if 0 < value < _NO_LIMIT_FROM else _NONE
