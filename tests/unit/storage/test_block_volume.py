"""Which of the disks that a specification lists a container is given."""

import pytest

from kata.storage import block_volume
from kata.storage.block_volume import BlockNode, listed_nodes
from kata_api import oci

pytestmark = pytest.mark.unit

_DISK = oci.Device(path="/dev/sda", type="b", major=8, minor=0)
_NUMBER = 8 << 8


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_volume, "host_has", lambda _device: True)
    monkeypatch.setattr(block_volume, "_is_host_s", lambda _path, _number: True)


def _rule(access: str, major: int | None, minor: int | None) -> oci.DeviceCgroup:
    return oci.DeviceCgroup(allow=True, access=access, type="a", major=major, minor=minor)


@pytest.mark.parametrize("number", [None, -1])
def test_a_privileged_container_gets_none_of_the_host_s_disks(number: int | None) -> None:
    assert listed_nodes([_DISK], [_rule("rwm", number, number)]) == []


@pytest.mark.parametrize(
    ("rule", "read_only"), [(_rule("rw", 8, 0), False), (_rule("rm", 8, -1), True)]
)
def test_a_disk_that_is_meant_is_writable_as_its_rule_says(
    rule: oci.DeviceCgroup, read_only: bool
) -> None:
    assert listed_nodes([_DISK], [rule]) == [BlockNode("/dev/sda", _NUMBER, read_only)]
