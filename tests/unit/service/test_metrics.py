"""The agent's statistics as containerd's metrics, in both shapes."""

import pytest

from kata.service.metrics import metrics
from kata_api.agent import agent_pb2 as pb
from kata_api.containerd import cgroups_v1_pb2 as v1
from kata_api.containerd import cgroups_v2_pb2 as v2

pytestmark = pytest.mark.unit

_NONE = 2**64 - 1


def _usage() -> pb.StatsContainerResponse:
    """What our agent tells of a container in the unified hierarchy."""
    answer = pb.StatsContainerResponse()
    stats = answer.cgroup_stats
    cpu = stats.cpu_stats
    cpu.cpu_usage.total_usage = 9_000_000
    cpu.cpu_usage.usage_in_usermode = 7_000_000
    cpu.cpu_usage.usage_in_kernelmode = 2_000_000
    cpu.throttling_data.periods, cpu.throttling_data.throttled_periods = 5, 4
    cpu.throttling_data.throttled_time = 3_000_000
    memory = stats.memory_stats
    memory.usage.usage, memory.usage.max_usage, memory.usage.limit = 1000, 1500, 2000
    memory.usage.failcnt = 3
    memory.swap_usage.usage, memory.swap_usage.limit = 100, 400
    memory.kernel_usage.usage = 50
    values = {
        "anon": 600,
        "file": 300,
        "inactive_file": 200,
        "active_file": 90,
        "pgfault": 70,
        "pgmajfault": 7,
        "slab": 40,
        "sock": 8,
        "file_mapped": 11,
        "oom": 2,
        "oom_kill": 1,
    }
    for name, value in values.items():
        memory.stats[name] = value
    stats.pids_stats.current, stats.pids_stats.limit = 3, 10
    stats.hugetlb_stats["2MB"].usage = 4096
    stats.hugetlb_stats["2MB"].max_usage = 8192
    for operation, size in (("Read", 512), ("Write", 1024)):
        block_io = stats.blkio_stats
        block_io.io_service_bytes_recursive.add(major=254, minor=1, op=operation, value=size)
        block_io.io_serviced_recursive.add(major=254, minor=1, op=operation, value=size // 512)
    answer.network_stats.add(name="eth0", rx_bytes=1, tx_bytes=2, tx_dropped=3)
    return answer


def test_version_1() -> None:
    told = metrics(_usage(), unified=False)
    assert isinstance(told, v1.Metrics)
    usage = told.cpu.usage
    assert (usage.total, usage.user, usage.kernel) == (9_000_000, 7_000_000, 2_000_000)
    throttling = told.cpu.throttling
    assert (throttling.periods, throttling.throttled_periods) == (5, 4)
    assert throttling.throttled_time == 3_000_000
    memory = told.memory
    assert memory.usage == v1.MemoryEntry(usage=1000, max=1500, limit=2000, failcnt=3)
    assert memory.swap == v1.MemoryEntry(usage=1100, limit=2400)  # both together
    assert (memory.kernel.usage, memory.kernel_tcp.usage) == (50, 8)
    assert (memory.total_rss, memory.rss, memory.total_cache) == (600, 600, 300)
    assert (memory.total_inactive_file, memory.total_active_file) == (200, 90)
    assert (memory.total_pg_fault, memory.total_pg_maj_fault) == (70, 7)
    assert (memory.hierarchical_memory_limit, memory.hierarchical_swap_limit) == (2000, 2400)
    assert (told.pids.current, told.pids.limit) == (3, 10)
    assert told.memory_oom_control.oom_kill == 1
    assert [(e.op, e.value) for e in told.blkio.io_serviced_recursive] == [
        ("Read", 1),
        ("Write", 2),
    ]
    assert told.hugetlb[0] == v1.HugetlbStat(usage=4096, pagesize="2MB")
    assert told.network[0] == v1.NetworkStat(name="eth0", rx_bytes=1, tx_bytes=2, tx_dropped=3)


def test_version_2() -> None:
    told = metrics(_usage(), unified=True)
    assert isinstance(told, v2.Metrics)
    assert told.cpu == v2.CPUStat(
        usage_usec=9000,
        user_usec=7000,
        system_usec=2000,
        nr_periods=5,
        nr_throttled=4,
        throttled_usec=3000,
    )
    memory = told.memory
    assert (memory.usage, memory.max_usage, memory.usage_limit) == (1000, 1500, 2000)
    assert (memory.swap_usage, memory.swap_limit) == (100, 400)
    assert (memory.anon, memory.file, memory.inactive_file, memory.slab) == (600, 300, 200, 40)
    assert (memory.pgfault, memory.pgmajfault, memory.file_mapped) == (70, 7, 11)
    assert told.memory_events == v2.MemoryEvents(oom=2, oom_kill=1)
    assert (told.pids.current, told.pids.limit) == (3, 10)
    (entry,) = told.io.usage
    assert entry == v2.IOEntry(major=254, minor=1, rbytes=512, wbytes=1024, rios=1, wios=2)
    assert told.hugetlb[0] == v2.HugeTlbStat(current=4096, max=8192, pagesize="2MB")
    assert told.network[0] == v2.NetworkStat(name="eth0", rx_bytes=1, tx_bytes=2, tx_dropped=3)


@pytest.mark.parametrize("limit", [0, 2**63 - 4096, _NONE])
def test_no_limit_is_the_largest_number(limit: int) -> None:
    usage = _usage()
    usage.cgroup_stats.memory_stats.usage.limit = limit
    usage.cgroup_stats.pids_stats.limit = limit
    first, second = metrics(usage, unified=False), metrics(usage, unified=True)
    assert isinstance(first, v1.Metrics)
    assert isinstance(second, v2.Metrics)
    assert first.memory.usage.limit == first.memory.swap.limit == _NONE
    assert (second.memory.usage_limit, second.pids.limit) == (_NONE, _NONE)
    assert first.pids.limit == 0  # as runc tells it in this shape


def test_an_agent_of_the_older_hierarchy_is_understood() -> None:
    usage = pb.StatsContainerResponse()
    values = {"rss": 1, "total_rss": 600, "total_inactive_file": 200, "cache": 300, "pgpgin": 9}
    for name, value in values.items():
        usage.cgroup_stats.memory_stats.stats[name] = value
    first, second = metrics(usage, unified=False), metrics(usage, unified=True)
    assert isinstance(first, v1.Metrics)
    assert isinstance(second, v2.Metrics)
    assert (first.memory.total_rss, first.memory.total_cache, first.memory.pg_pg_in) == (
        600,
        300,
        9,
    )
    assert (second.memory.anon, second.memory.inactive_file, second.memory.file) == (600, 200, 300)
