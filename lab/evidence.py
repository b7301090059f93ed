"""What a failed run leaves to read: the daemon's log, and the consoles of guests."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CONSOLES: Final = (("/run", "kata*/**/console.log"), ("/run/vc", "**/console.log"))


def keep(folder: Path, logs: Iterable[Path]) -> list[Path]:
    """Copy logs and every guest's console log into a folder, made anew; returns the copies."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    consoles = [path for root, glob in _CONSOLES for path in Path(root).glob(glob)]
    kept = []
    for path in [*logs, *consoles]:
        if path.is_file():
            name = "-".join(path.parts[1:]) if path in consoles else path.name
            kept.append(Path(shutil.copy(path, folder / name)))
    return kept
