"""The step that a process being prepared is at, so that a failure can name it."""

from __future__ import annotations

import os


class StepError(Exception):
    """A complete message about a step that failed; it is sent to the caller as it is."""


class Progress:
    """Where a new process is on its way to its program: the step and what the step works on."""

    __slots__ = ("step", "target")

    def __init__(self) -> None:
        self.step = "begin"
        self.target = ""

    def at(self, step: str, target: str = "") -> None:
        """Record the step that begins now."""
        self.step = step
        self.target = target

    def explain(self, error: BaseException) -> str:
        """Describe a failure of the current step: step, path or object, reason."""
        if isinstance(error, StepError):
            return str(error)
        if isinstance(error, OSError) and error.errno:
            reason = os.strerror(error.errno).lower()  # as Go spells them, and so runc
        else:
            reason = f"{type(error).__name__}: {error}"
        return f"{self.step} {self.target}: {reason}" if self.target else f"{self.step}: {reason}"
