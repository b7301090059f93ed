"""Runtimes that a container can be run under: ours, and the yardstick."""

import os
from dataclasses import dataclass
from typing import Final

from lab.paths import CONFIGURATION, GUEST_KERNEL, SHIM


@dataclass(frozen=True, slots=True)
class Runtime:
    """One runtime by the name containerd knows, and how long its containers may take."""

    name: str
    shim: str
    ctr_options: tuple[str, ...]
    # Seconds for one container from nothing to its end; a VM without KVM boots in about ten.
    patience_s: float
    needs: tuple[str, ...] = ()

    def unavailable(self) -> str:
        """Return why no container can run under it on this machine now, empty if one can."""
        missing = [path for path in self.needs if not os.path.exists(path)]
        return f"not built: {', '.join(missing)}; run `make setup`" if missing else ""


@dataclass(frozen=True, slots=True)
class PodRuntime:
    """One way to run pods by its handler's name, and how long a pod's steps may take."""

    name: str
    # Seconds for one step of a pod's life, such as its start.
    patience_s: float
    # Whether a pod has a kernel of its own; what the host's can do decides otherwise.
    is_machine: bool
    # Whether a stopped pod has a shim until it is removed: containerd asks it for the status till then.
    shim_until_removal: bool = False
    needs: tuple[str, ...] = ()
    lines: tuple[
        str, ...
    ] = ()  # the releases of containerd that have it; all unless some are named

    def unavailable(self, line: str) -> str:
        """Return why no pod can run under it on a release line, empty if one can."""
        if self.lines and line not in self.lines:
            return f"containerd {line} has no handler {self.name}"
        missing = [path for path in self.needs if not os.path.exists(path)]
        return f"not built: {', '.join(missing)}; run `make setup`" if missing else ""


_KATA_NAME: Final = "io.containerd.kata.v2"
_RUNC_NAME: Final = "io.containerd.runc.v2"

RUNC: Final = Runtime("runc", _RUNC_NAME, ("--runtime", _RUNC_NAME), patience_s=60)
KATA: Final = Runtime(
    "kata",
    _KATA_NAME,
    ("--runtime", _KATA_NAME, "--runtime-config-path", str(CONFIGURATION)),
    patience_s=180,
    needs=(str(SHIM), str(GUEST_KERNEL), str(CONFIGURATION)),
)
RUNTIMES: Final = (RUNC, KATA)

_KATA_NEEDS: Final = KATA.needs
RUNC_PODS: Final = PodRuntime("runc", patience_s=60, is_machine=False)
KATA_PODS: Final = PodRuntime("kata-qemu", patience_s=180, is_machine=True, needs=_KATA_NEEDS)
KATA_SANDBOXER_PODS: Final = PodRuntime(
    "kata-qemu-sandboxer",
    patience_s=180,
    is_machine=True,
    shim_until_removal=True,
    needs=_KATA_NEEDS,
    lines=("2.x",),
)
# The handlers that the tests of pods run under; containerd has the others, too.
POD_RUNTIMES: Final = (RUNC_PODS, KATA_PODS, KATA_SANDBOXER_PODS)
