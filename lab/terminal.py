"""A terminal as a person has one: a pty, its size, its keys, and what appeared on it."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from lab.command import LabError

CTRL_C: Final = b"\x03"
CTRL_D: Final = b"\x04"
_READ_BYTES: Final = 65536


class Terminal:
    """A program on a terminal of its own, as a context manager; leaving it ends the program."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], *, rows: int = 24, columns: int = 80
    ) -> None:
        self._argv = list(argv)
        self._env = dict(env)
        self._size = (rows, columns)
        self._pid = 0
        self._master = -1
        self._code: int | None = None
        self.screen = ""

    def __enter__(self) -> Self:
        self._pid, self._master = pty.fork()
        if self._pid == 0:
            with contextlib.suppress(OSError):
                self._set_size(0, *self._size)
                os.execve(self._argv[0], self._argv, self._env)
            os._exit(127)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._master)
        if error is not None:
            error.add_note(f"the terminal showed:\n{self.screen}")

    def send(self, keys: bytes) -> None:
        """Type keys."""
        os.write(self._master, keys)

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size; the kernel tells the program with SIGWINCH."""
        self._set_size(self._master, rows, columns)

    def wait_for(self, text: str, timeout_s: float) -> None:
        """Return once the text is on the screen, which then starts anew behind it.

        Raises `LabError` when the program ends or `timeout_s` seconds pass before.
        """
        deadline = time.monotonic() + timeout_s
        while text not in self.screen:
            if not self._read(deadline):
                raise LabError(f"{text!r} did not appear on the terminal")
        self.screen = self.screen.partition(text)[2]

    def wait_for_end(self, timeout_s: float) -> int:
        """Return the program's exit code once it has ended; a signal's number comes negative.

        Raises `LabError` when it still runs after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while self._read(deadline):
            continue
        if time.monotonic() > deadline:
            raise LabError(f"still running after {timeout_s:g} s: {self._argv}")
        _, status = os.waitpid(self._pid, 0)
        self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def _read(self, deadline: float) -> bool:
        """Take what is there into the screen; False at the program's end or the deadline."""
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, _READ_BYTES)
        except OSError:  # EIO: nothing holds the other side any more (pty(7))
            return False
        self.screen += data.decode(errors="replace")
        return bool(data)

    @staticmethod
    def _set_size(terminal: int, rows: int, columns: int) -> None:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
