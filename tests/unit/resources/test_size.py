"""How much a pod asks for, and how big its machine is to be for that."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.config import ConfigError, HypervisorSettings
from kata.resources.demand import MILLIONTHS, Demand
from kata.resources.size import Size, largest, smallest, wanted
from kata_api import oci

pytestmark = pytest.mark.unit

_CRI = "io.kubernetes.cri.sandbox-"
_CRI_O = "io.kubernetes.cri-o.PodLinuxResources"
_HOST = Size(8, 16384)
_MIB, _GIB = 1 << 20, 1 << 30

# quota, period, shares, memory in bytes: then the vCPUs and MiB of a guest with 1 and 2048 by default.
SIZES = [
    (0, 0, 0, 0, 1, 2048),
    (0, 100_000, 2, 0, 1, 2048),  # a pod without any limit or request
    (-1, 100_000, 2, -1, 1, 2048),
    (100_000, 100_000, 1024, _GIB, 2, 3072),
    (50_000, 100_000, 512, 0, 2, 2048),  # one limit only: the other is the default, not 0
    (0, 100_000, 2, 512 * _MIB, 1, 2560),
    (85_000, 100_000, 870, _GIB, 2, 3072),
    (150_000, 100_000, 0, 1, 3, 2049),
    (200_000, 0, 0, 0, 3, 2048),  # no period is the kernel's
    (0, 100_000, 102, 0, 1, 2048),  # a small request is met by the default already
    (0, 100_000, 4096, 0, 4, 2048),  # a bigger one is not added, but met
    (-1, 100_000, 4097, 0, 5, 2048),
    (100_000, 100_000, 4096, 0, 2, 2048),  # a limit says more than a request
    (10_000_000, 100_000, 0, 64 * _GIB, 101, 67584),  # what is possible is decided elsewhere
    (0, 0, 0, 9223372036854771712, 1, 2048),  # "unlimited", as cgroup v1 has it
    (0, 0, 0, 2**63 - 1, 1, 2048),
]


@pytest.mark.parametrize(("quota", "period", "shares", "memory", "vcpus", "mib"), SIZES)
def test_a_pods_size(
    quota: int, period: int, shares: int, memory: int, vcpus: int, mib: int
) -> None:
    numbers = {
        "cpu_quota": quota,
        "cpu_period": period,
        "cpu_shares": shares,
        "memory_limit_in_bytes": memory,
    }
    ends = ("cpu-quota", "cpu-period", "cpu-shares", "memory")
    containerd = {_CRI + end: str(n) for end, n in zip(ends, numbers.values(), strict=True)}
    spelled = {_CRI_O: json.dumps({key: number for key, number in numbers.items() if number})}
    for annotations in (containerd, spelled):
        demand = Demand.of_pod(annotations, None)
        assert wanted(HypervisorSettings(), demand, _HOST) == Size(vcpus, mib)


# default_vcpus, and the quotas of containers in hundredths of a processor: then the vCPUs.
SUMS = [
    (1.0, (50, 50), 2),
    (1.0, (50, 51), 3),
    (1.0, (25, 60), 2),
    (0.5, (50,), 1),
    (0.5, (25, 25, 25), 2),
    (0.1, (20, 70), 1),
    (1.5, (50,), 2),
    (1.5, (), 2),
    (0.0, (100,), 2),
    (-1.0, (), 8),
    (-1.0, (100,), 9),
    (9.0, (100,), 9),  # more than the host has: 8, and one
]


@pytest.mark.parametrize(("default", "hundredths", "vcpus"), SUMS)
def test_fractions_are_rounded_up_after_they_were_summed(
    default: float, hundredths: tuple[int, ...], vcpus: int
) -> None:
    containers = (
        Demand.of_container(oci.LinuxResources(cpu=oci.CPU(quota=each * 1000, period=100_000)))
        for each in hundredths
    )
    settings = HypervisorSettings(default_vcpus=default)
    assert wanted(settings, sum(containers, Demand()), _HOST).vcpus == vcpus


def test_a_container_outside_of_a_pod_is_sized_by_its_limits() -> None:
    resources = oci.LinuxResources(
        memory=oci.Memory(limit=700 * _MIB),
        cpu=oci.CPU(quota=100_000, shares=8192, cpus="0-5"),  # shares are a weight
        hugepage_limits=(
            oci.HugepageLimit(page_size="2MB", limit=4 * _MIB),
            oci.HugepageLimit(page_size="1GB", limit=2**64 - 1),
        ),
    )
    demand = Demand.of_pod({"io.kubernetes.cri.container-type": "sandbox"}, resources)
    assert demand == Demand(MILLIONTHS, 704 * _MIB)
    assert Demand.of_pod({f"{_CRI}memory": "1"}, resources) == Demand(memory=1)
    assert Demand.of_pod({_CRI_O: "null"}, resources) == demand  # kubelet has said nothing
    assert Demand.of_container(None) == Demand()


UNREADABLE = [
    {f"{_CRI}memory": "1Gi"},
    {f"{_CRI}memory": "1.5"},
    {f"{_CRI}cpu-quota": "9" * 20},
    {f"{_CRI}cpu-quota": "--1"},
    {f"{_CRI}cpu-quota": "\u0661"},
    {_CRI_O: "{"},
    {_CRI_O: "[" * 100_000},
    {_CRI_O: "[]"},
    {_CRI_O: '{"cpu_quota": "many"}'},
    {_CRI_O: '{"cpu_quota": true}'},
    {_CRI_O: '{"cpu_quota": 1.5}'},
    {_CRI_O: '{"cpu_quota": [1]}'},
    {"pod-linux-resources.crio.io": '{"cpu_period": 1e99}'},
]


@pytest.mark.parametrize("annotations", UNREADABLE)
def test_what_cannot_be_read_is_named(annotations: dict[str, str]) -> None:
    (name,) = annotations
    with pytest.raises(ConfigError, match=f"annotation {name} must"):
        Demand.of_pod(annotations, None)


@given(st.dictionaries(st.sampled_from([_CRI_O, f"{_CRI}memory", f"{_CRI}cpu-quota"]), st.text()))
def test_no_text_does_worse_than_be_refused(annotations: dict[str, str]) -> None:
    try:
        demand = Demand.of_pod(annotations, None)
    except ConfigError:
        return
    assert min(demand.processor, demand.memory, demand.requested) >= 0


_numbers = st.fixed_dictionaries(
    {
        "quota": st.integers(-1, 10**7),
        "period": st.integers(0, 10**6),
        "shares": st.integers(0, 262144),
        "memory": st.integers(-1, 2**63 - 1),
    }
)


@given(
    st.lists(_numbers, max_size=6),
    _numbers,
    st.floats(-1, 12),
    st.integers(64, 8192),
)
def test_more_is_never_less_and_nothing_is_ever_zero(
    containers: list[dict[str, Any]], another: dict[str, Any], vcpus: float, mib: int
) -> None:
    settings = HypervisorSettings(default_vcpus=vcpus, default_memory=mib)
    demands = [Demand.of_numbers(**each) for each in containers]
    before = wanted(settings, sum(demands, Demand()), _HOST)
    after = wanted(settings, sum([*demands, Demand.of_numbers(**another)], Demand()), _HOST)
    least = smallest(settings, _HOST)
    assert after.vcpus >= before.vcpus >= least.vcpus >= 1
    assert after.memory_mib >= before.memory_mib >= least.memory_mib == mib
    limit = sum(each.memory for each in demands)
    assert (before.memory_mib - mib) * _MIB >= limit > (before.memory_mib - mib - 1) * _MIB


BOUNDS = [
    ({}, Size(8, 16384)),
    ({"default_maxvcpus": 3, "default_maxmemory": 4096}, Size(3, 4096)),
    ({"default_maxvcpus": 30}, Size(8, 16384)),
    ({"default_maxmemory": 99999}, Size(8, 99999)),  # an operator may promise what is not there
    ({"default_memory": 4096, "default_maxmemory": 1024}, Size(8, 4096)),
]


@pytest.mark.parametrize(("changes", "most"), BOUNDS)
def test_the_maxima(changes: dict[str, Any], most: Size) -> None:
    assert largest(HypervisorSettings(**changes), _HOST) == most
    assert Size(9, 100_000).bounded(most) == Size(min(9, most.vcpus), min(100_000, most.memory_mib))
