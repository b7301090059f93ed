"""What a pod's streaming URLs are good for: a process's streams, and connections to ports.

The services are those of Kubernetes' remote command (protocol v4) and port-forward, over SPDY.
"""

import json
from types import TracebackType
from typing import Self

from lab.command import LabError
from lab.spdy import DEFAULT_TIMEOUT_S, Session, Stream


class Process:
    """A process's streams, for exec and attach, as a context manager.

    `stdin` and `tty` are those that the URL was asked for with. `stdin` is there only with the one,
    `stderr` only without the other: a terminal is one stream.
    """

    def __init__(self, url: str, *, stdin: bool = False, tty: bool = False) -> None:
        self._session = Session(url, "v4.channel.k8s.io")
        self._with_stdin = stdin
        self._tty = tty

    def __enter__(self) -> Self:
        session = self._session.__enter__()
        self._error = session.open({"streamType": "error"})
        if self._with_stdin:
            self.stdin = session.open({"streamType": "stdin"})
        self.stdout = session.open({"streamType": "stdout"})
        if self._tty:
            self._resize = session.open({"streamType": "resize"})
        else:
            self.stderr = session.open({"streamType": "stderr"})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.__exit__(kind, error, trace)

    def resize(self, rows: int, columns: int) -> None:
        """Change the terminal's size."""
        self._resize.write(json.dumps({"Width": columns, "Height": rows}).encode() + b"\n")

    def wait(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> int:
        """Return the process's exit code once it has ended.

        Raises `LabError` when the server reports another failure, or after `timeout_s` seconds.
        """
        said = self._error.read_to_end(timeout_s)
        status = json.loads(said or b'{"status": "closed"}')
        if status["status"] == "Success":
            return 0
        if status.get("reason") == "NonZeroExitCode":
            return int(status["details"]["causes"][0]["message"])
        raise LabError(f"the server reports: {said.decode(errors='replace')}")


class Tunnel:
    """Connections to ports in a pod's network, in one session; a context manager."""

    def __init__(self, url: str) -> None:
        self._session = Session(url, "portforward.k8s.io")
        self._requests = 0

    def __enter__(self) -> Self:
        self._session.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.__exit__(kind, error, trace)

    def connect(self, port: int) -> tuple[Stream, Stream]:
        """Return the streams of one connection to a port: its bytes, and what went wrong with it."""
        headers = {"port": str(port), "requestID": str(self._requests)}
        self._requests += 1
        error = self._session.open(headers | {"streamType": "error"})
        error.end()
        return self._session.open(headers | {"streamType": "data"}), error
