"""The vsock transport: connections from the host, many at a time."""

from __future__ import annotations

import socket

from ttrpc.server import Server

PORT = 1024  # upstream's agents listen there


async def serve(server: Server) -> None:
    """Serve connections to any context id of this guest; return at once without vsock.

    A guest that wakes in another VM gets another context id; the listener is not bound to one.
    """
    try:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError:  # no transport's driver was loaded
        return
    try:
        listener.bind((socket.VMADDR_CID_ANY, PORT))
        listener.listen()
    except OSError:
        listener.close()
        return
    await server.serve_unix(listener)
