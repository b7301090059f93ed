"""Changes to limits, completed from those that hold."""

import pytest

from kata.sandbox import limits
from kata.sandbox.errors import InvalidRequestError, UnimplementedError
from kata_api import oci

pytestmark = pytest.mark.unit

_CURRENT = oci.LinuxResources(
    memory=oci.Memory(limit=1000, swap=1500),
    cpu=oci.CPU(quota=50_000, period=200_000, shares=512),
    pids=oci.Pids(limit=10),
    devices=(oci.DeviceCgroup(allow=False, access="rwm"),),
)


def test_what_a_change_leaves_out_stays() -> None:
    change = oci.LinuxResources(memory=oci.Memory(limit=1200), cpu=oci.CPU(quota=0, period=100_000))
    told = limits.merged(_CURRENT, change)
    assert told.memory == oci.Memory(limit=1200, swap=1500)
    assert told.cpu == oci.CPU(quota=50_000, period=100_000, shares=512)
    assert told.pids is None
    after = limits.remembered(_CURRENT, told)
    assert (after.memory, after.cpu) == (told.memory, told.cpu)
    assert (after.pids, after.devices) == (_CURRENT.pids, _CURRENT.devices)


def test_no_limit() -> None:
    change = oci.LinuxResources(memory=oci.Memory(limit=-1), pids=oci.Pids(limit=0))
    told = limits.merged(_CURRENT, change)
    assert told.memory == oci.Memory(limit=-1, swap=-1)
    assert told.pids == oci.Pids(limit=-1)


def test_device_rules_stay_as_they_are() -> None:
    same = oci.LinuxResources(devices=_CURRENT.devices)  # containerd repeats them with each change
    assert limits.merged(_CURRENT, same).devices == ()
    other = oci.LinuxResources(devices=(oci.DeviceCgroup(allow=True),))
    with pytest.raises(UnimplementedError, match="device rules"):
        limits.merged(_CURRENT, other)


def test_an_impossible_limit() -> None:
    with pytest.raises(InvalidRequestError, match="-5 bytes is none; -1 removes"):
        limits.merged(_CURRENT, oci.LinuxResources(memory=oci.Memory(limit=-5)))
