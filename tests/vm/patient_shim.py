"""The shim for a machine that others starve: what takes a moment may take 40 seconds.

Run as `python -m patient_shim` in place of `kata.shim.main`.  The shim boots a guest that does not
answer in time once it is restored, and does without one that stands by and does not take a commission
in time; whoever tests what comes of either has to have it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lab.bundle import Bundle

_SECONDS: Final = 40.0


def use(bundle: Bundle) -> Bundle:
    """Have a bundle's shim be this one."""
    here = Path(__file__)
    bundle.module = here.stem
    bundle.environment["PYTHONPATH"] = os.pathsep.join(
        map(str, (here.parents[2] / "src", here.parent))
    )
    return bundle


def main() -> int:
    """Run the shim."""
    from kata.sandbox import guest_start
    from kata.shim import pool
    from kata.shim.main import main as shim

    guest_start._RESTORED_TIMEOUT = _SECONDS
    pool._PATIENCE = _SECONDS
    return shim()


if __name__ == "__main__":
    sys.exit(main())
