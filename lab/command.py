"""One run of another program, with a failure that can be replayed.

A command's output is kept whole; when it fails, the error shows the shell-quoted command, how it
ended in words, and the end of what it said.
"""

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OUTPUT_TAIL_LINES = 25


class LabError(Exception):
    """Something the laboratory needs is missing or failed; the message names cause and remedy."""


class CommandError(LabError):
    """A command failed; `result` holds everything it said."""

    def __init__(self, result: "Result", remedy: str = "") -> None:
        said = (result.stderr.strip() or result.stdout.strip()).splitlines()
        lines = [f"{result.ending}: {shlex.join(result.argv)}"]
        lines += [f"  {line}" for line in said[-OUTPUT_TAIL_LINES:]]
        super().__init__("\n".join([*lines, remedy] if remedy else lines))
        self.result = result


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended, and what it wrote (bytes as text, undecodable ones replaced)."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def ending(self) -> str:
        """Say in words how the command ended."""
        return ending(self.code)


def ending(code: int) -> str:
    """Say in words what a `subprocess` return code means; negative codes are signals."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    timeout_s: float = 600,
    check: bool = True,
    remedy: str = "",
) -> Result:
    """Run a command to its end and return its output; `env` is added to this process's own.

    Raises `CommandError` for a failure when `check` is set, `LabError` when the program is not
    there or is not done after `timeout_s` seconds; the command is dead in every case, though not
    what it may have started in turn.
    """
    words = tuple(str(word) for word in argv)
    try:
        done = subprocess.run(
            words,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not on this machine; run `make setup`") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"not done after {timeout_s:g} s: {shlex.join(words)}") from error
    text = (done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    result = Result(words, done.returncode, *text)
    if check and result.code != 0:
        raise CommandError(result, remedy)
    return result


def run_in_view(argv: Sequence[str | Path]) -> None:
    """Run a command on this terminal, its progress in view, and wait for its end.

    Raises `CommandError` for a failure.
    """
    words = tuple(str(word) for word in argv)
    code = subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode
    if code != 0:
        raise CommandError(Result(words, code, "", "what it said is shown above"))
