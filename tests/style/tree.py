"""The checkout as the style tests see it: the files that are, or are about to be, under version control."""

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"


@cache
def files() -> tuple[Path, ...]:
    """Return every file that git tracks or would add, absolute and sorted."""
    command = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = (ROOT / name for name in listing.split("\0") if name)
    return tuple(sorted(path for path in found if path.is_file()))


def with_suffix(*suffixes: str) -> list[Path]:
    """Return the files with one of these suffixes."""
    return [path for path in files() if path.suffix in suffixes]


def is_generated(path: Path) -> bool:
    """Tell whether protoc wrote the file."""
    return path.stem.endswith("_pb2")


def written_python() -> list[Path]:
    """Return the Python files that people write."""
    return [path for path in with_suffix(".py") if not is_generated(path)]


def relative(path: Path) -> str:
    """Return the path as reports show it."""
    return path.relative_to(ROOT).as_posix()
