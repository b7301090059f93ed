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
