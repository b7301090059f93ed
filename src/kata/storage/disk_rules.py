"""The device rules of a container (linux.resources.devices), as far as they are about disks.

They name disks by the host's numbers, and the guest has others: what is no disk of the container there may
be the guest's own, or another container's.  So a rule goes to the guest only for the disks that the
container is given, each of which the agent finds by the number that it has on the host.
"""

import os
from collections.abc import Collection, Iterator, Sequence

import msgspec

from kata_api import oci

NOWHERE = os.makedev(0, 0)
"""The number of no disk, for the node of one that a container may not open anyway."""

_ALL = frozenset("rwm")


def access(number: int, rules: Sequence[oci.DeviceCgroup]) -> frozenset[str]:
    """Return what the rules let a container do with the host's disk `number`, out of r, w and m.

    As the guest's rules do: one of type "a" holds for all and undoes those before it, any other makes
    or takes back an exception.
    """
    allowed = False
    excepted: dict[tuple[int | None, int | None], frozenset[str]] = {}
    for rule in rules:
        if _is_of_all(rule):
            allowed = rule.allow
            excepted.clear()
        elif _is_about(rule, number):
            key = _named(rule.major), _named(rule.minor)
            before = excepted.get(key, frozenset())
            letters = frozenset(rule.access)
            excepted[key] = before | letters if rule.allow != allowed else before - letters
    found = frozenset().union(*excepted.values())
    return _ALL - found if allowed else found & _ALL


def for_guest(
    rules: Sequence[oci.DeviceCgroup], numbers: Collection[int], *, nodes_of_none: bool
) -> tuple[oci.DeviceCgroup, ...]:
    """Return the rules for a container that is given the host's disks `numbers` and no other.

    With `nodes_of_none` it has nodes of `NOWHERE`, which it must not open whatever else it may.
    """
    told = [each for rule in rules for each in _told(rule, sorted(set(numbers)))]
    if nodes_of_none and any(_is_of_all(rule) and rule.allow for rule in rules):
        told.append(oci.DeviceCgroup(allow=False, type="b", major=0, minor=0, access="rw"))
    return tuple(told)


def _told(rule: oci.DeviceCgroup, numbers: Sequence[int]) -> Iterator[oci.DeviceCgroup]:
    if rule.type != "b" or (_named(rule.major), _named(rule.minor)) == (None, None):
        yield rule
        return
    for number in numbers:
        if _is_about(rule, number):
            place = {"major": os.major(number), "minor": os.minor(number)}
            yield msgspec.structs.replace(rule, **place)


def _is_of_all(rule: oci.DeviceCgroup) -> bool:
    return rule.type in ("a", "")


def _is_about(rule: oci.DeviceCgroup, number: int) -> bool:
    return (
        rule.type == "b"
        and _named(rule.major) in (None, os.major(number))
        and _named(rule.minor) in (None, os.minor(number))
    )


def _named(number: int | None) -> int | None:
    """Return the number that a rule is about, or None for one that is about any."""
    return None if number is None or number < 0 else number
