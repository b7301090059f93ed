"""Handlers bound to methods: which function answers which path, and what it is told.

A handler is any object with a function for each method: `CreateContainer` is answered by

- `async def create_container(self, request, context) -> Response` for a unary method;
- `async def create_container(self, requests, context) -> Response` with an async iterator of
  requests when the client streams;
- the same two as async generators that yield responses when the server streams.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from ttrpc.method import Method

_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """Return `CreateContainer` as `create_container`, and `GetOOMEvent` as `get_oom_event`.

    A word starts at a capital after a small letter or digit, and at the last capital of a run when
    a small letter follows it.
    """
    return _WORD_START.sub("_", name).lower()


class Context:
    """What a handler knows of a call beside its request."""

    __slots__ = ("deadline", "metadata", "method", "service", "timeout")

    def __init__(
        self,
        service: str,
        method: str,
        metadata: dict[str, tuple[str, ...]],
        timeout: float | None,
        deadline: float | None,
    ) -> None:
        self.service = service  # full name, for example "containerd.task.v2.Task"
        self.method = method  # bare name, for example "State"
        self.metadata = metadata  # every value of each key, in the order sent
        self.timeout = timeout  # seconds the client gave the call when it was sent; None: unbounded
        self.deadline = deadline  # the event loop's time at which the call is cut off


# A handler's shape depends on the method's streaming directions, which the type system cannot
# follow through a name; the server checks each answer's type at run time instead.
Handler = Callable[[Any, Context], Any]


class BoundMethod(NamedTuple):
    """A method and the function that answers it; without one it answers UNIMPLEMENTED."""

    method: Method[Any, Any]
    handler: Handler | None
    ends_with_caller: bool = False  # even where calls outlive the connection they came on


def bind(methods: Iterable[Method[Any, Any]], handler: object) -> dict[str, BoundMethod]:
    """Return the methods by path, each with the function of `handler` that answers it.

    A handler need not have them all. Raises ValueError when two methods share a path.
    """
    bound: dict[str, BoundMethod] = {}
    for method in methods:
        if method.path in bound:
            raise ValueError(f"method {method.path} is listed twice; keep one row")
        function = getattr(handler, snake_case(method.name), None)
        bound[method.path] = BoundMethod(method, function)
    return bound
