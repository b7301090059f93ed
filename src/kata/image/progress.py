"""The steps of a build, as whoever watches one is told of them."""

import enum
from collections.abc import Callable
from typing import TypeAlias


class Step(enum.Enum):
    """A step of a build; the value is what people read."""

    INDEX = "read the package index"
    DOWNLOAD = "download packages"
    UNPACK = "unpack"
    COMPILE = "compile the guest's Python"
    PACK = "pack kernel and initrd"


# Called with a step and how much of it is done, from 0 to 1; a step that is done ends with 1.
Progress: TypeAlias = Callable[[Step, float], None]


def silent(_step: Step, _fraction: float) -> None:
    """Tell nobody."""
