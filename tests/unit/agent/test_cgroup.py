"""Limits translated to files of the unified hierarchy, and paths that stay inside of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_agent.cgroup import Cgroup, relative_path
from kata_agent.device_programs import DevicePrograms
from kata_agent.limits import io_weight, settings, weight
from kata_agent.statistics import check_fits
from kata_api.agent import oci_pb2 as oci
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("given_path", "path"),
    [
        ("", "kata/c1"),
        ("/pods/a", "pods/a"),
        ("pods/a/", "pods/a"),
        ("system.slice:kata:c1", "system.slice/kata-c1"),
    ],
)
def test_path(given_path: str, path: str) -> None:
    assert relative_path(given_path, "c1") == path


@pytest.mark.parametrize("path", ["/", "..", "/a/../b", "a//b", "a/./b", "../../x:y:z"])
def test_path_outside(path: str) -> None:
    with pytest.raises(RpcError) as caught:
        relative_path(path, "c1")
    assert caught.value.code == StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(("shares", "expected"), [(2, 1), (1024, 39), (262144, 10000), (0, 1)])
def test_weight(shares: int, expected: int) -> None:
    assert weight(shares) == expected


@given(st.integers(0, 2**64 - 1))
def test_weight_is_in_the_kernel_s_range(shares: int) -> None:
    assert 1 <= weight(shares) <= 10000


def test_settings() -> None:
    resources = oci.LinuxResources(
        Memory=oci.LinuxMemory(Limit=100, Swap=150, Reservation=50),
        CPU=oci.LinuxCPU(Shares=1024, Quota=50000, Period=200000, Cpus="0-1", Mems="0"),
        Pids=oci.LinuxPids(Limit=64),
        HugepageLimits=[oci.LinuxHugepageLimit(Pagesize="2MB", Limit=0)],
    )
    assert settings(resources) == [
        ("memory.max", "100"),
        ("memory.swap.max", "50"),
        ("memory.low", "50"),
        ("cpu.weight", "39"),
        ("cpu.max", "50000 200000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "64"),
        ("hugetlb.2MB.max", "0"),
    ]


def test_unlimited() -> None:
    resources = oci.LinuxResources(
        Memory=oci.LinuxMemory(Limit=-1, Swap=-1),
        CPU=oci.LinuxCPU(Quota=-1),
        Pids=oci.LinuxPids(Limit=-1),
    )
    assert settings(resources) == [
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
        ("cpu.max", "max 100000"),
        ("pids.max", "max"),
    ]


def test_swap_equal_to_memory_means_none() -> None:
    resources = oci.LinuxResources(Memory=oci.LinuxMemory(Limit=100, Swap=100))
    assert ("memory.swap.max", "0") in settings(resources)


def test_what_else_version_2_has() -> None:
    def device(rate: int) -> list[oci.LinuxThrottleDevice]:
        return [oci.LinuxThrottleDevice(Major=8, Minor=1, Rate=rate)]

    resources = oci.LinuxResources(
        CPU=oci.LinuxCPU(Shares=2, Quota=1000, Burst=500, Idle=1),
        BlockIO=oci.LinuxBlockIO(
            Weight=500,
            WeightDevice=[oci.LinuxWeightDevice(Major=8, Minor=0, Weight=10)],
            ThrottleReadBpsDevice=device(1),
            ThrottleWriteBpsDevice=device(2),
            ThrottleReadIOPSDevice=device(3),
            ThrottleWriteIOPSDevice=device(4),
        ),
        Rdma={"mlx5_0": oci.LinuxRdma(HcaHandles=2, HcaObjects=0)},
        Unified={"memory.high": "1000"},
    )
    assert settings(resources) == [
        ("cpu.weight", "1"),
        ("cpu.idle", "1"),
        ("cpu.max.burst", "0"),
        ("cpu.max", "1000 100000"),
        ("cpu.max.burst", "500"),
        ("io.bfq.weight", "500"),
        ("io.bfq.weight", "8:0 10"),
        ("io.max", "8:1 rbps=1"),
        ("io.max", "8:1 wbps=2"),
        ("io.max", "8:1 riops=3"),
        ("io.max", "8:1 wiops=4"),
        ("rdma.max", "mlx5_0 hca_handle=2 hca_object=0"),
        ("memory.high", "1000"),
    ]


@pytest.mark.parametrize(("blkio", "expected"), [(10, 1), (500, 4950), (1000, 10000)])
def test_io_weight(blkio: int, expected: int) -> None:
    assert io_weight(blkio) == expected


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (oci.LinuxResources(Unified={"memory": "1"}), "must be in the form CONTROLLER.PARAMETER"),
        (oci.LinuxResources(Unified={"../memory.max": "1"}), "no slashes"),
        (oci.LinuxResources(HugepageLimits=[oci.LinuxHugepageLimit(Pagesize="/x")]), "no slashes"),
        (oci.LinuxResources(BlockIO=oci.LinuxBlockIO(Weight=5)), "not in 10 to 1000"),
        (oci.LinuxResources(BlockIO=oci.LinuxBlockIO(LeafWeight=50)), "leaf weights"),
    ],
)
def test_what_has_no_meaning_is_named(resources: oci.LinuxResources, message: str) -> None:
    with pytest.raises(RpcError, match=message) as caught:
        settings(resources)
    assert caught.value.code == StatusCode.INVALID_ARGUMENT


def test_nothing_asked_nothing_written() -> None:
    assert settings(oci.LinuxResources()) == []


@pytest.mark.parametrize(
    ("resources", "refused"),
    [
        (oci.LinuxResources(Memory=oci.LinuxMemory(Limit=30 << 20)), "31457280 bytes"),
        (oci.LinuxResources(Memory=oci.LinuxMemory(Limit=50 << 20)), ""),  # the cache can go
        (oci.LinuxResources(Memory=oci.LinuxMemory(Limit=-1)), ""),
        (oci.LinuxResources(Unified={"memory.max": "31457280"}), "31457280 bytes"),
        (oci.LinuxResources(Unified={"memory.max": "30M"}), "31457280 bytes"),
        (oci.LinuxResources(Unified={"memory.max": "0x100000"}), "1048576 bytes"),
        (oci.LinuxResources(Unified={"memory.max": "0"}), "0 bytes"),
        (oci.LinuxResources(Unified={"memory.max": "max"}), ""),
        (oci.LinuxResources(Unified={"memory.max": "banana"}), ""),  # the kernel will refuse it
        (
            oci.LinuxResources(Memory=oci.LinuxMemory(Limit=1), Unified={"memory.max": "50M"}),
            "",
        ),
        (oci.LinuxResources(Pids=oci.LinuxPids(Limit=4)), "limit of 4 processes"),
        (oci.LinuxResources(Unified={"pids.max": "4"}), "limit of 4 processes"),
        (oci.LinuxResources(Pids=oci.LinuxPids(Limit=4), Unified={"pids.max": "5"}), ""),
    ],
)
def test_what_is_in_use_bounds_the_final_limits(
    tmp_path: Path, resources: oci.LinuxResources, refused: str
) -> None:
    (tmp_path / "memory.current").write_text(f"{60 << 20}\n")
    (tmp_path / "memory.stat").write_text(f"anon {40 << 20}\ninactive_file {20 << 20}\n")
    (tmp_path / "pids.current").write_text("5\n")
    group = Cgroup(str(tmp_path), "", DevicePrograms())
    if not refused:
        check_fits(group, resources)
        return
    with pytest.raises(RpcError, match=refused) as caught:
        check_fits(group, resources)
    assert caught.value.code == StatusCode.FAILED_PRECONDITION


def test_failed_creation_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")  # which nothing here enables
    needs = oci.LinuxResources(Memory=oci.LinuxMemory(Limit=1 << 20))
    group = Cgroup(str(tmp_path), "made/parents/group", DevicePrograms())
    with pytest.raises(RpcError, match="cannot enable controller memory"):
        group.create(needs)
    assert [each.name for each in tmp_path.iterdir()] == ["cgroup.controllers"]
    (tmp_path / "cgroup.controllers").write_text("")
    with pytest.raises(FileNotFoundError):  # of the group "made", which is a mere folder
        group.create(needs)
    with pytest.raises(OSError, match="File name too long"):
        Cgroup(str(tmp_path), f"made/{'x' * 300}/group", DevicePrograms()).create(needs)
    assert [each.name for each in tmp_path.iterdir()] == ["cgroup.controllers"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("a", "a", True), ("a", "a/b", True), ("a/b", "a", True), ("a/b", "a/bc", False)],
)
def test_overlap(one: str, other: str, expected: bool) -> None:
    assert (
        Cgroup("/", one, DevicePrograms()).overlaps(Cgroup("/", other, DevicePrograms()))
        is expected
    )
