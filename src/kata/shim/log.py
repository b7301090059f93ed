"""The shim's log: containerd's FIFO `log` in the bundle, which containerd copies to its own log.

containerd may be away: lines that the FIFO does not take at once are dropped rather than waited
for.
"""

import logging
import os
import time
from contextlib import suppress

_LEVELS = {"WARNING": "warning", "CRITICAL": "fatal"}


class FifoHandler(logging.Handler):
    """Writes one line for each record, in the form of containerd's own log."""

    def __init__(self, path: str) -> None:
        super().__init__()
        # Read-write, so that the FIFO opens and stays open without containerd.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or drop it."""
        # A record that cannot be formatted must not end the caller either.
        with suppress(Exception):
            os.write(self._descriptor, self.format(record).encode(errors="replace"))

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of key=value pairs."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        level = _LEVELS.get(record.levelname, record.levelname.lower())
        nanoseconds = int(record.msecs * 1e6)
        return (
            f'time="{at}.{nanoseconds:09d}Z" level={level} msg={_quote(message)} '
            f"name=containerd-shim-kata-v2 pid={os.getpid()} source={record.name}\n"
        )


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def open_log(bundle: str, *, debug: bool) -> None:
    """Send the log of this process to the bundle's FIFO, or nowhere when there is none."""
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    for noisy in ("asyncio", "qemu.qmp", "qemu"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        root.addHandler(FifoHandler(os.path.join(bundle, "log")))
    except OSError:
        root.addHandler(logging.NullHandler())
