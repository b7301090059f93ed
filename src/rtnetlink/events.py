"""What happens to links, told by the kernel as it happens."""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Self

from rtnetlink import link
from rtnetlink.endpoint import RTMGRP_LINK, open_endpoint, receive
from rtnetlink.link import Link


class LinkEvents:
    """A subscription to the links of the caller's namespace, from now on.

    Ask for the links that there are after subscribing, so that none is missed. Raises `OSError`.
    """

    def __init__(self) -> None:
        self._socket = open_endpoint(RTMGRP_LINK)
        self._socket.settimeout(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription; a second time does nothing."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is news."""
        return self._socket.fileno()

    def take(self) -> list[Link] | None:
        """Return the links that have come or changed since the last time, without waiting.

        None says that the kernel could not keep all of the news: ask for every link. Raises
        `OSError` and `MessageError`.
        """
        found: list[Link] = []
        while True:
            try:
                news = receive(self._socket)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno in (errno.ENOBUFS, errno.EMSGSIZE):
                    return None
                raise
            found += [link.decode(one.payload) for one in news if one.type == link.RTM_NEWLINK]
