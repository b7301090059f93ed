"""The errors of the configuration: what an operator or a pod's author has to correct."""

from __future__ import annotations


class ConfigError(Exception):
    """A configuration that cannot be used: `message` is the cause, `hint` the remedy.

    The message starts with `file:line:` when a file is to blame, and with the annotation's name
    when a pod is.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class RefusalError(ValueError):
    """A value that its setting does not take: `reason` completes a sentence about the key.

    It never leaves this package; whoever knows where the value stood makes a `ConfigError` of it.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
