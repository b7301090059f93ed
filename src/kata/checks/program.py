"""Programs of the host: whether they run, and what version they are."""

import os
import subprocess

_TIMEOUT = 10.0
"""Seconds for a program to tell its version; QEMU takes 0.05 s."""


class ProgramError(Exception):
    """A program that cannot be run; the text says why."""


def first_line(path: str, option: str = "--version") -> str:
    """Return the first line that a program prints when it is asked for its version.

    Raises `ProgramError`; no process is left then.
    """
    return output(path, option).partition("\n")[0].strip()


def output(path: str, option: str) -> str:
    """Return all that a program prints for one option. Raises `ProgramError`."""
    if not os.path.exists(path):
        raise ProgramError(f"{path} is missing")
    try:
        done = subprocess.run(
            [path, option],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise ProgramError(f"{path} cannot be executed: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"{path} {option} does not end within {_TIMEOUT:g} s") from error
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        raise ProgramError(f"{path} {option} ends with status {done.returncode}: {said[-200:]}")
    return said


def virtiofsd_version(path: str) -> tuple[str, str]:
    """Return a virtiofsd's first line and its flavour, "C" or "Rust". Raises `ProgramError`.

    The C one came with QEMU up to 7.2 and names the FUSE interface it was built with.
    """
    said = output(path, "--version")
    flavour = "C" if "FUSE kernel interface" in said else "Rust"
    return said.partition("\n")[0].strip(), flavour
