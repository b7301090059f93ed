"""Unix sockets as files: whether anybody is behind one."""

import socket


def is_served(path: str) -> bool:
    """Tell whether somebody accepts connections on `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
