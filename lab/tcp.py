"""Peers of a pod on the host: a server that answers, and clients that ask."""

import hashlib
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

TIMEOUT_S: Final = 30.0
_CHUNK_BYTES: Final = 65536


class _Greeter(socketserver.BaseRequestHandler):
    """Answers what it got: how many bytes, and their SHA-256, then as many bytes as asked for."""

    def handle(self) -> None:
        self.request.settimeout(TIMEOUT_S)
        state, count = hashlib.sha256(), 0
        while data := self.request.recv(_CHUNK_BYTES):
            state.update(data)
            count += len(data)
        self.request.sendall(f"{count} {state.hexdigest()} {self.client_address[0]}\n".encode())


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


@contextmanager
def digest_server(address: str) -> Iterator[int]:
    """Serve on an address of the host, and yield the port.

    Each connection gets, after its end of what it sends: the number of bytes, their SHA-256, and
    the address that they came from.
    """
    kind = _Server6 if ":" in address else _Server
    with kind((address, 0), _Greeter) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def ask(address: str, port: int, data: bytes, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """Send data to a port, end that direction, and return everything that comes back.

    Raises `OSError` when the peer is not there or says nothing for `timeout_s` seconds.
    """
    answer = bytearray()
    with socket.create_connection((address, port), timeout_s) as peer:

        def send() -> None:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)

        # An echo's buffers are smaller than its data: it has to be read while it is written.
        sender = threading.Thread(target=send)
        sender.start()
        while part := peer.recv(_CHUNK_BYTES):
            answer += part
        sender.join()
    return bytes(answer)


def free_port() -> int:
    """Return a TCP port of the host that nobody listens on at the moment."""
    with socket.create_server(("0.0.0.0", 0)) as probe:
        return int(probe.getsockname()[1])


def noise(count: int) -> bytes:
    """Return bytes that nothing compresses and no other test has."""
    return os.urandom(count)
