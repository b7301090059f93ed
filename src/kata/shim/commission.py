"""What `start` hands to the process that is to be a shim."""

from typing import NamedTuple

from kata.shim.arguments import Arguments


class Commission(NamedTuple):
    """One shim to be.

    It is for the bundle at `bundle` and listens on the socket at `path`.  `origin` is when `start` began, in
    seconds of the boot clock, and `options` are the encoded runtime options that it was given.
    `passed_over` says why somebody who stands by is not this shim.
    """

    arguments: Arguments
    bundle: str
    path: str
    origin: float
    options: bytes
    passed_over: str = ""
