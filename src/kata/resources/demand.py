"""What a pod, or a container, may use: the limits that decide how big its virtual machine is.

A pod's are in annotations of its sandbox, if kubelet has told the runtime of them: containerd has one
for each number, CRI-O one for all.  A container's are those of its specification.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from kata.config import ConfigError
from kata_api import oci

MILLIONTHS = 1_000_000
"""Parts of a processor that are counted."""

_PERIOD = 100_000
"""The kernel's period of CPU quotas, in microseconds."""

_SHARES = 1024
"""CPU shares that Kubernetes gives for one processor that is asked for."""

_LEAST_SHARES = 2
"""CPU shares of a pod that asks for none."""

_NO_LIMIT = 1 << 60
"""From here on a number of bytes is no limit: so "unlimited" is spelled in many ways."""

_CONTAINERD = "io.kubernetes.cri.sandbox-"
_CRI_O = ("io.kubernetes.cri-o.PodLinuxResources", "pod-linux-resources.crio.io")
_FIELDS = {
    "cpu-period": "cpu_period",
    "cpu-quota": "cpu_quota",
    "cpu-shares": "cpu_shares",
    "memory": "memory_limit_in_bytes",
}
"""containerd's annotations by their ends, and the fields of CRI's message, which CRI-O's holds."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Limits: millionths of a processor, and bytes of memory; 0 is no limit, and asks for nothing.

    `requested` are millionths of a processor that are wanted, without a limit.
    """

    processor: int = 0
    memory: int = 0
    requested: int = 0

    def __add__(self, other: "Demand") -> "Demand":
        return Demand(
            self.processor + other.processor,
            self.memory + other.memory,
            self.requested + other.requested,
        )

    @classmethod
    def of_numbers(cls, *, quota: int, period: int, shares: int, memory: int) -> "Demand":
        """Return the demand behind CRI's numbers, microseconds and bytes; 0 and below are no limit."""
        limited = quota * MILLIONTHS // (period if period > 0 else _PERIOD) if quota > 0 else 0
        wanted = 0 if limited or shares <= _LEAST_SHARES else shares * MILLIONTHS // _SHARES
        return cls(limited, memory if 0 < memory < _NO_LIMIT else 0, wanted)

    @classmethod
    def of_container(cls, resources: oci.LinuxResources | None) -> "Demand":
        """Return what a container's limits amount to; shares are weights and ask for nothing."""
        if resources is None:
            return cls()
        cpu, memory = resources.cpu or oci.CPU(), resources.memory or oci.Memory()
        pages = sum(each.limit for each in resources.hugepage_limits if each.limit < _NO_LIMIT)
        own = cls.of_numbers(
            quota=cpu.quota or 0, period=cpu.period or 0, shares=0, memory=memory.limit or 0
        )
        return own + cls(memory=pages)

    @classmethod
    def of_pod(
        cls, annotations: Mapping[str, str], resources: oci.LinuxResources | None
    ) -> "Demand":
        """Return what a sandbox is to hold, by its first container's annotations and limits.

        Those limits count for a container outside of a pod; a pod's sandbox has none.  Raises
        `ConfigError`, which names an annotation that cannot be read.
        """
        given = _of_containerd(annotations) or _of_cri_o(annotations)
        return cls.of_numbers(**given) if given else cls.of_container(resources)


NOTHING = Demand()
"""The demand of a pod of which nothing is known."""


def _of_containerd(annotations: Mapping[str, str]) -> dict[str, int]:
    numbers: dict[str, object] = {}
    for end, field in _FIELDS.items():
        if text := annotations.get(_CONTAINERD + end):
            numbers[field] = _number(_CONTAINERD + end, text)
    return _named(numbers) if numbers else {}


def _of_cri_o(annotations: Mapping[str, str]) -> dict[str, int]:
    name = next((name for name in _CRI_O if name in annotations), "")
    if not name:
        return {}
    try:
        told = json.loads(annotations[name])
    except (ValueError, RecursionError):
        told = 0
    if told is None:  # kubelet has said nothing
        return {}
    if not isinstance(told, dict):
        raise ConfigError(f"annotation {name} must be CRI's resources as JSON", "see CRI-O's log")
    return _named({field: _number(name, told.get(field, 0)) for field in _FIELDS.values()})


def _named(numbers: Mapping[str, object]) -> dict[str, int]:
    """Return CRI's numbers by the names of `Demand.of_numbers`."""
    values = {field: int(str(numbers.get(field, 0))) for field in _FIELDS.values()}
    return {
        "quota": values["cpu_quota"],
        "period": values["cpu_period"],
        "shares": values["cpu_shares"],
        "memory": values["memory_limit_in_bytes"],
    }


def _number(name: str, told: object) -> int:
    """Return a whole number of 64 bits; JSON may have it as a string."""
    text = str(told)
    digits = text.removeprefix("-")
    if isinstance(told, bool) or not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
        raise ConfigError(
            f"annotation {name} must hold whole numbers, not {text[:40]!r}",
            "containerd and CRI-O write it; remove it from the pod's own annotations",
        )
    return int(text)
