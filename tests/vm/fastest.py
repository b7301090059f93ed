"""Promises of seconds, which are those of a machine that has processors to spare."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

_T = TypeVar("_T")
_MOST: Final = 3


async def fastest(
    attempt: Callable[[], Awaitable[_T]], limit: float, seconds: Callable[[_T], float]
) -> _T:
    """Return the first attempt that took less than `limit` seconds, or the best of three.

    Others may starve a process, which makes it slow. What is slow only now and then by itself passes, too:
    each slow attempt is printed.
    """
    best = await attempt()
    for _ in range(1, _MOST):
        if seconds(best) < limit:
            break
        print(f"slow: {seconds(best):.2f} s, where {limit:g} are promised")
        best = min(best, await attempt(), key=seconds)
    return best
