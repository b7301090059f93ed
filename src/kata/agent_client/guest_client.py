"""A ttrpc client whose peer is a guest: nothing that it sends is believed to be short or legible."""

from typing import Final

from kata_api import agent_service
from ttrpc import ConnectionClosedError, Method, RpcError
from ttrpc.client import Client, Metadata
from ttrpc.frames import MAX_MESSAGE_SIZE
from ttrpc.method import Req, Resp

_LONGEST_TEXT: Final = 4096
"""Characters of a guest's words that go into an error or a log: some thirty lines."""

_LARGEST_ANSWER: Final = 512 << 10
"""Bytes of an encoded answer: far more than the numbers of any container take, and no more than
30 MiB once decoded, were it all empty submessages."""

_BULK: Final = {agent_service.READ_STDOUT.path, agent_service.READ_STDERR.path}
"""Answers that are one string of bytes, whose size is what was asked for."""


class GuestClient(Client):
    """The client of an agent."""

    async def call(
        self,
        method: Method[Req, Resp],
        request: Req,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        max_answer: int | None = None,
    ) -> Resp:
        """Call a unary method as `Client.call` does, with bounds on what comes back.

        A status has legible text of at most 4096 characters and no details.
        """
        if max_answer is None:
            max_answer = MAX_MESSAGE_SIZE if method.path in _BULK else _LARGEST_ANSWER
        try:
            return await super().call(
                method, request, timeout=timeout, metadata=metadata, max_answer=max_answer
            )
        except ConnectionClosedError:
            raise  # our own words
        except RpcError as error:
            raise RpcError(error.code, legible(error.message)) from None


def legible(text: str) -> str:
    """Return a guest's words fit for a terminal and a log: one line, no control characters."""
    if len(text) > _LONGEST_TEXT:
        text = text[:_LONGEST_TEXT] + " …"
    return "".join(c if c.isprintable() else " " for c in text)
