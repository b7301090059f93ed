"""Resource usage of a container, out of the files of its cgroup and of the guest's network."""

from __future__ import annotations

import os
import re

from kata_agent.cgroup import Cgroup
from kata_agent.limits import settings
from kata_api.agent import agent_pb2 as pb
from kata_api.agent.oci_pb2 import LinuxResources
from ttrpc import RpcError, StatusCode

_NANOSECONDS_PER_MICROSECOND = 1000
_UNLIMITED = 2**64 - 1  # what a limit of "max" is on the wire

# io.stat's keys, and the list and operation that they mean in the message
_IO_SERVED = (
    ("rbytes", "io_service_bytes_recursive", "Read"),
    ("wbytes", "io_service_bytes_recursive", "Write"),
    ("dbytes", "io_service_bytes_recursive", "Discard"),
    ("rios", "io_serviced_recursive", "Read"),
    ("wios", "io_serviced_recursive", "Write"),
    ("dios", "io_serviced_recursive", "Discard"),
)
# memory.stat's parts of memory.current that the kernel takes back before it kills for memory
_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")


def collect(cgroup: Cgroup) -> pb.StatsContainerResponse:
    """Read the usage of a cgroup: bytes, nanoseconds, counts; zero where the kernel does not say.

    A limit that is none is 2**64 - 1, but 0 for processes.
    """
    response = pb.StatsContainerResponse()
    stats = response.cgroup_stats
    _cpu(cgroup, stats.cpu_stats)
    _memory(cgroup, stats.memory_stats)
    stats.pids_stats.current = _number(cgroup.read("pids.current"))
    stats.pids_stats.limit = _number(cgroup.read("pids.max"))
    _io(cgroup, stats.blkio_stats)
    _hugetlb(cgroup, stats)
    _network(response)
    return response


def check_fits(cgroup: Cgroup, resources: LinuxResources) -> None:
    """Raise ``RpcError`` FAILED_PRECONDITION if a new limit is below what is in use.

    The kernel would take the limit, and kill the container's processes until it is kept.
    """
    final = dict(settings(resources))  # what is last has the last word
    limit = _amount(final.get("memory.max", "max"))
    current = _number(cgroup.read("memory.current"))
    if limit is not None and limit < current:
        values = _table(cgroup.read("memory.stat"))
        needed = current - sum(values.get(name, 0) for name in _RECLAIMABLE)
        if limit < needed:
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                f"a memory limit of {limit} bytes is below the {needed} bytes that the container "
                "uses; free memory in it or choose a higher limit",
            )
    processes = _number(cgroup.read("pids.current"))
    limit = _amount(final.get("pids.max", "max"))
    if limit is not None and limit < processes:
        raise RpcError(
            StatusCode.FAILED_PRECONDITION,
            f"a limit of {limit} processes is below the {processes} that the "
            "container has; end some or choose a higher limit",
        )


def _amount(value: str) -> int | None:
    """Return a limit as the kernel reads it, with its suffixes; None for none, or for nonsense."""
    found = re.fullmatch(r"(0[xX][0-9a-fA-F]+|\d+)([kKmMgGtTpPeE]?)", value.strip())
    if found is None:
        return None
    number, suffix = found.groups()
    base = 16 if number[:2] in ("0x", "0X") else 8 if number.startswith("0") else 10
    try:
        return int(number, base) << 10 * " kmgtpe".index(suffix.lower() or " ")
    except ValueError:
        return None


def _cpu(cgroup: Cgroup, stats: pb.CpuStats) -> None:
    values = _table(cgroup.read("cpu.stat"))
    usage, throttling = stats.cpu_usage, stats.throttling_data
    usage.total_usage = values.get("usage_usec", 0) * _NANOSECONDS_PER_MICROSECOND
    usage.usage_in_usermode = values.get("user_usec", 0) * _NANOSECONDS_PER_MICROSECOND
    usage.usage_in_kernelmode = values.get("system_usec", 0) * _NANOSECONDS_PER_MICROSECOND
    throttling.periods = values.get("nr_periods", 0)
    throttling.throttled_periods = values.get("nr_throttled", 0)
    throttling.throttled_time = values.get("throttled_usec", 0) * _NANOSECONDS_PER_MICROSECOND


def _memory(cgroup: Cgroup, stats: pb.MemoryStats) -> None:
    values = _table(cgroup.read("memory.stat"))
    events = _table(cgroup.read("memory.events"))
    for name, value in (values | events).items():
        stats.stats[name] = value
    stats.cache = values.get("file", 0)
    stats.use_hierarchy = True  # the unified hierarchy always accounts for descendants
    usage, swap = stats.usage, stats.swap_usage
    usage.usage = _number(cgroup.read("memory.current"))
    usage.max_usage = _number(cgroup.read("memory.peak"))
    usage.limit = _limit(cgroup.read("memory.max"))
    usage.failcnt = events.get("max", 0)
    swap.usage = _number(cgroup.read("memory.swap.current"))
    swap.max_usage = _number(cgroup.read("memory.swap.peak"))
    swap.limit = _limit(cgroup.read("memory.swap.max"))
    swap.failcnt = _table(cgroup.read("memory.swap.events")).get("max", 0)
    stats.kernel_usage.usage = values.get("kernel", 0)
    stats.kernel_usage.limit = _UNLIMITED  # it is part of memory.max and has no limit of its own


def _io(cgroup: Cgroup, stats: pb.BlkioStats) -> None:
    for line in cgroup.read("io.stat").splitlines():
        device, *fields = line.split()
        major, _, minor = device.partition(":")
        values = dict(field.split("=", 1) for field in fields if "=" in field)
        for key, name, operation in _IO_SERVED:
            if key in values:
                getattr(stats, name).add(
                    major=int(major), minor=int(minor), op=operation, value=int(values[key])
                )


def _hugetlb(cgroup: Cgroup, stats: pb.CgroupStats) -> None:
    for name in os.listdir(cgroup.directory):
        if name.startswith("hugetlb.") and name.endswith(".current") and ".rsvd." not in name:
            size = name.split(".")[1]
            entry = stats.hugetlb_stats[size]
            entry.usage = _number(cgroup.read(name))
            # This hierarchy keeps no maximum; upstream's agent has the limit in its place.
            entry.max_usage = _limit(cgroup.read(f"hugetlb.{size}.max"))
            entry.failcnt = _table(cgroup.read(f"hugetlb.{size}.events")).get("max", 0)


def _network(response: pb.StatsContainerResponse) -> None:
    """Count what the guest's interfaces have carried, the loopback device excepted.

    The columns of /proc/net/dev are eight for received and eight for sent: bytes, packets, errors,
    drops, and four more.
    """
    with open("/proc/net/dev", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, colon, columns = line.strip().partition(":")
            if not colon or name == "lo":
                continue
            numbers = list(map(int, columns.split()))
            response.network_stats.add(
                name=name,
                rx_bytes=numbers[0],
                rx_packets=numbers[1],
                rx_errors=numbers[2],
                rx_dropped=numbers[3],
                tx_bytes=numbers[8],
                tx_packets=numbers[9],
                tx_errors=numbers[10],
                tx_dropped=numbers[11],
            )


def _table(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _number(text: str) -> int:
    """Read a number; "max", and a file that is not there, count as 0."""
    text = text.strip()
    return int(text) if text.isdecimal() else 0


def _limit(text: str) -> int:
    """Read a limit; a file that is not there sets none."""
    text = text.strip()
    return int(text) if text.isdecimal() else _UNLIMITED
