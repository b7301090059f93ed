"""The one error of the image builder, and the running of its commands."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence


class ImageError(Exception):
    """An image that could not be built, read or verified.

    `message` names the cause and `hint` the remedy; `str()` joins both. Whoever raises it has
    left the files of an earlier image in the output directory as they were.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}" if hint else message)
        self.message = message
        self.hint = hint


def run(
    argv: Sequence[str],
    *,
    hint: str = "",
    stdin: bytes | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """Run a command to its end and return its standard output in bytes.

    Raises `ImageError` with the command line, its exit status and the end of its standard error
    if it is missing or fails; no process is left behind.
    """
    try:
        done = subprocess.run(argv, input=stdin, cwd=cwd, env=env, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise ImageError(
            f"the command {argv[0]!r} is not installed", hint or f"install {argv[0]}"
        ) from error
    if done.returncode != 0:
        raise failed(argv, done.returncode, done.stderr, hint)
    return done.stdout


def failed(argv: Sequence[str], status: int, stderr: bytes, hint: str = "") -> ImageError:
    """Describe a command that ended with a status other than 0, ready to be raised."""
    end = "exit status " + str(status) if status >= 0 else "signal " + str(-status)
    tail = stderr.decode(errors="replace").strip()[-2000:]
    return ImageError(f"{shlex.join(argv)} ended with {end}: {tail or 'no message'}", hint)
