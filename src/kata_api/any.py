"""Values in `google.protobuf.Any`, in the form that containerd and its clients agree on.

containerd writes the bare full name of a message as the type URL, where protobuf's own `Any.Pack`
puts a host name before it; some clients compare the URL exactly. OCI structures travel as JSON under
URLs of their own, which are not message names.
"""

from typing import Final, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

_OCI: Final = "types.containerd.io/opencontainers/runtime-spec/1/"

SPEC_URL: Final = _OCI + "Spec"
PROCESS_URL: Final = _OCI + "Process"
LINUX_RESOURCES_URL: Final = _OCI + "LinuxResources"
FEATURES_URL: Final = _OCI + "features/Features"

_M = TypeVar("_M", bound=Message)


class AnyError(ValueError):
    """A value in an Any that is not what the call needs; it carries the `type_url` of the value."""

    def __init__(self, message: str, type_url: str) -> None:
        super().__init__(message)
        self.type_url = type_url


class UnexpectedTypeError(AnyError):
    """The type URL names another type, or is empty."""


class MalformedValueError(AnyError):
    """The type is right, and the bytes are not an encoding of it."""


def pack(message: Message) -> Any:
    """Return the message in an Any whose type URL is its bare full name."""
    return Any(
        type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString(deterministic=True)
    )


def holds(packed: Any, kind: type[Message]) -> bool:
    """Tell whether the Any holds a message of this type, with or without a host in the URL."""
    name: str = kind.DESCRIPTOR.full_name
    return _last_element(packed.type_url) == name


def unpack(packed: Any, kind: type[_M]) -> _M:
    """Return the message that the Any holds.

    Raises `UnexpectedTypeError` when it holds another type and `MalformedValueError` when its bytes
    do not decode.
    """
    name = kind.DESCRIPTOR.full_name
    if not holds(packed, kind):
        raise _unexpected(packed, name)
    try:
        return kind.FromString(packed.value)
    except DecodeError as error:
        message = f"{len(packed.value)} bytes do not decode as {name}: {error}"
        raise MalformedValueError(message, packed.type_url) from error


def pack_json(type_url: str, value: bytes) -> Any:
    """Return JSON text in an Any; `type_url` is one of the `_URL` constants."""
    return Any(type_url=type_url, value=value)


def unpack_json(packed: Any, type_url: str) -> bytes:
    """Return the JSON text that the Any holds, still encoded.

    Only the last element of the URL is compared: the ones before it hold the major version of the
    specification, and a later one stays readable. Raises `UnexpectedTypeError`.
    """
    if _last_element(packed.type_url) != _last_element(type_url):
        raise _unexpected(packed, type_url)
    return packed.value


def _last_element(type_url: str) -> str:
    return type_url.rpartition("/")[2]


def _unexpected(packed: Any, wanted: str) -> UnexpectedTypeError:
    found = f"a value of type {packed.type_url!r}" if packed.type_url else "no type URL"
    return UnexpectedTypeError(f"expected {wanted} in an Any, found {found}", packed.type_url)
