"""Changes to the limits of a container that runs."""

import logging
from typing import TypeVar

import msgspec

from kata.sandbox import guest_spec
from kata.sandbox.errors import InvalidRequestError, UnimplementedError
from kata_api import oci

_T = TypeVar("_T", oci.Memory, oci.CPU)

_log = logging.getLogger(__name__)


def merged(current: oci.LinuxResources, change: oci.LinuxResources) -> oci.LinuxResources:
    """Return what the guest is told: `change`, completed from `current`.

    Some of the kernel's files hold two values, of which a change may give one.
    Raises `InvalidRequestError`, and `UnimplementedError` for what cannot change.
    """
    if change.devices and change.devices != current.devices:
        raise UnimplementedError(
            "the device rules of a running container cannot be changed; create it again"
        )
    memory = _over(current.memory or oci.Memory(), change.memory)
    if memory and memory.limit is not None and memory.limit < -1:
        raise InvalidRequestError(
            f"a memory limit of {memory.limit} bytes is none; -1 removes the limit"
        )
    if memory and change.memory and memory.limit == -1 and not change.memory.swap:
        memory = msgspec.structs.replace(memory, swap=-1)  # there is no sum with no limit
    pids = change.pids
    if pids and pids.limit == 0:  # which the agent's message cannot tell from a field left out
        pids = oci.Pids(limit=-1)
    return msgspec.structs.replace(
        change,
        devices=(),
        memory=memory,
        cpu=_over(current.cpu or oci.CPU(), change.cpu),
        pids=pids,
    )


def remembered(current: oci.LinuxResources, told: oci.LinuxResources) -> oci.LinuxResources:
    """Return the limits that hold once the guest has carried out what it was `told`."""
    return msgspec.structs.replace(
        current,
        memory=told.memory or current.memory,
        cpu=told.cpu or current.cpu,
        pids=told.pids or current.pids,
    )


def warn(container_id: str, resources: oci.LinuxResources) -> None:
    """Log what of the limits has no effect in the guest."""
    if found := guest_spec.unenforced(resources):
        _log.warning(
            "the guest does not enforce %s of container %s", ", ".join(found), container_id
        )


def _over(current: _T, change: _T | None) -> _T | None:
    """Return `current` with what `change` sets; 0 sets nothing, as under runc."""
    if change is None:
        return None
    fields = msgspec.structs.asdict(change)
    return msgspec.structs.replace(current, **{key: each for key, each in fields.items() if each})
