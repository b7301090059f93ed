"""What device rules come to for the disks of the host, and for those that a guest is given."""

import os
from collections.abc import Sequence

import pytest

from kata.storage.disk_rules import access, for_guest
from kata_agent.device_rules import DeviceRules
from kata_api import oci

pytestmark = pytest.mark.unit

_DISK = os.makedev(8, 0)
_OTHER = os.makedev(8, 16)


def _rule(words: str) -> oci.DeviceCgroup:
    """Return a rule: allow or deny, type, numbers or *, access."""
    verdict, kind, place, letters = words.split()
    major, minor = (None if each == "*" else int(each) for each in place.split(":"))
    return oci.DeviceCgroup(verdict == "allow", kind, major, minor, letters)  # type: ignore[arg-type]


_CONTAINERD = ("deny a *:* rwm", "allow c *:* m", "allow b *:* m", "allow c 1:3 rwm")

_LISTS = [
    ((), ""),
    (("deny a *:* rwm",), ""),
    (_CONTAINERD, "m"),
    ((*_CONTAINERD, "allow b 8:0 rwm"), "mrw"),
    ((*_CONTAINERD, "allow b 8:0 r"), "mr"),
    ((*_CONTAINERD, "allow b 8:16 rwm"), "m"),
    ((*_CONTAINERD, "allow b 8:* rw"), "mrw"),
    ((*_CONTAINERD, "allow b *:0 w"), "mw"),
    ((*_CONTAINERD, "allow c 8:0 rwm"), "m"),
    ((*_CONTAINERD, "allow b 8:0 rw", "deny b 8:0 w"), "mr"),
    (("allow b 8:0 rw", "deny a *:* rwm"), ""),
    (("allow a *:* rwm",), "mrw"),
    (("allow a *:* rwm", "deny b 8:0 rw"), "m"),
    (("allow a *:* rwm", "deny b 8:0 rw", "allow b 8:0 r"), "mr"),
    (("allow a *:* rwm", "deny b 8:16 rwm"), "mrw"),
]


@pytest.mark.parametrize(("rules", "letters"), _LISTS)
def test_what_rules_let_a_container_do_with_a_disk(rules: Sequence[str], letters: str) -> None:
    assert "".join(sorted(access(_DISK, [_rule(each) for each in rules]))) == letters


@pytest.mark.parametrize(("rules", "letters"), _LISTS)
def test_the_guest_s_rules_say_the_same_of_the_disk(rules: Sequence[str], letters: str) -> None:
    """By the agent's own reading, once it has put in the number that the disk has there."""
    told = for_guest([_rule(each) for each in rules], {_DISK}, nodes_of_none=False)
    assert "".join(sorted(_in_guest(told, {(8, 0): (254, 32)}, 254, 32))) == letters


@pytest.mark.parametrize("rules", [each for each, _ in _LISTS])
def test_rules_for_disks_that_the_guest_has_not_open_none_that_it_has(rules: Sequence[str]) -> None:
    listed = [_rule(each) for each in (*rules, "allow b 254:0 rwm", "allow b 254:* rwm")]
    open_to_all = "rwm" if access(os.makedev(99, 9), listed) >= {"r"} else "m"
    told = for_guest(listed, {_DISK, _OTHER}, nodes_of_none=False)
    numbers = {(8, 0): (254, 32), (8, 16): (254, 48)}
    assert _in_guest(told, numbers, 254, 0) <= set(open_to_all)


@pytest.mark.parametrize("rules", [each for each, _ in _LISTS])
def test_the_node_of_no_disk_opens_for_nobody(rules: Sequence[str]) -> None:
    told = for_guest([_rule(each) for each in rules], (), nodes_of_none=True)
    assert _in_guest(told, {}, 0, 0) <= {"m"}


def test_rules_that_are_not_about_disks_stay_as_they_are() -> None:
    listed = [_rule(each) for each in (*_CONTAINERD, "allow c 10:200 rwm", "deny b *:* m")]
    assert for_guest(listed, (), nodes_of_none=True) == tuple(listed)


def _in_guest(
    rules: Sequence[oci.DeviceCgroup],
    numbers: dict[tuple[int, int], tuple[int, int]],
    major: int,
    minor: int,
) -> set[str]:
    """Return what the agent's rules let a container do with a block device of the guest."""
    result = DeviceRules()
    for rule in rules:
        here = (-1 if rule.major is None else rule.major, -1 if rule.minor is None else rule.minor)
        here = numbers.get(here, here) if rule.type == "b" else here
        result.apply(rule.type, *here, rule.access, allow=rule.allow)
    found = {
        letter
        for devices, bits in result.exceptions.items()
        for letter, bit in (("m", 1), ("r", 2), ("w", 4))
        if devices.kind == "b"
        and devices.major in (-1, major)
        and devices.minor in (-1, minor)
        and bits & bit
    }
    return {"r", "w", "m"} - found if result.allowed else found
