"""The ttrpc protocol: gRPC's calls over a bare byte stream, for processes on one machine.

Three rings, each importing only the ones before it:

- values: `status`, `errors`, `method`, `frames`, `events`, `streams`;
- `connection`: the protocol without I/O, bytes in and events out;
- `client` and `server`: asyncio around it. Import these by name; `import ttrpc` alone loads no
  asyncio, because a short-lived process often needs nothing but the codes.
"""

from ttrpc.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from ttrpc.method import Method
from ttrpc.status import ConnectionClosedError, RpcError, StatusCode

__all__ = [
    "ConnectionClosedError",
    "LocalProtocolError",
    "Method",
    "ProtocolError",
    "RemoteProtocolError",
    "RpcError",
    "StatusCode",
]
