"""Errors of the domain as status codes of the wire."""

from collections.abc import Iterator
from contextlib import contextmanager

from kata.config import ConfigError
from kata.sandbox import errors
from kata_api.any import AnyError
from kata_api.oci import SpecError
from ttrpc import RpcError, StatusCode

_CODES: tuple[tuple[type[Exception], StatusCode], ...] = (
    (errors.NotFoundError, StatusCode.NOT_FOUND),
    (errors.AlreadyExistsError, StatusCode.ALREADY_EXISTS),
    (errors.StateError, StatusCode.FAILED_PRECONDITION),
    (errors.InvalidRequestError, StatusCode.INVALID_ARGUMENT),
    (errors.UnimplementedError, StatusCode.UNIMPLEMENTED),
    (errors.GuestGoneError, StatusCode.UNAVAILABLE),
    (errors.HookError, StatusCode.UNKNOWN),
    (errors.StartError, StatusCode.UNKNOWN),
    (ConfigError, StatusCode.INVALID_ARGUMENT),
    (SpecError, StatusCode.INVALID_ARGUMENT),
    (AnyError, StatusCode.INVALID_ARGUMENT),
)


@contextmanager
def answered() -> Iterator[None]:
    """Turn what the domain raises into the `RpcError` that containerd gets."""
    try:
        yield
    except RpcError:
        raise  # the agent's own answer
    except Exception as error:
        for kind, code in _CODES:
            if isinstance(error, kind):
                raise RpcError(code, str(error)) from error
        raise
