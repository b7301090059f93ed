"""The set-up behind `make setup`: everything a run or a test needs, each part only when stale.

`lab/bootstrap` has installed the Debian packages and the development venv before this runs.
"""

import argparse
import sys
import time

from lab import cri_api
from lab.command import LabError
from lab.images import BUSYBOX, DEBIAN, PAUSE
from lab.prefix import parts
from lab.progress import CONSOLE
from lab.release import LINES, find_release


def set_up(*, everything: bool) -> None:
    """Bring the install tree, a containerd and an image up to date; `everything` serves the tests.

    Raises `LabError` when a part cannot be made; the parts before it stay.
    """
    for part in parts():
        if absent := part.missing_sources:
            names = ", ".join(str(path) for path in absent)
            CONSOLE.print(f"- {part.title}: not in this checkout ({names})", markup=False)
        else:
            part.bring_up_to_date()
    for line in LINES if everything else list(LINES)[:1]:
        find_release(line)
    for image in (BUSYBOX, DEBIAN, PAUSE) if everything else (BUSYBOX,):
        image.archive()
    if everything:
        cri_api.descriptors()


def main() -> int:
    """Run the set-up and report how long it took; returns the exit code."""
    parser = argparse.ArgumentParser(prog="lab.setup", description="Make what runs and tests need.")
    parser.add_argument("--all", action="store_true", help="also what only the tests need")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        set_up(everything=options.all)
    except LabError as error:
        CONSOLE.print(f"set-up failed: {error}", style="red", markup=False)
        return 1
    CONSOLE.print(f"set-up is complete ({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
