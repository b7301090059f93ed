"""What containerd writes to the standard input of `start`.

Since 2.3 that is a `containerd.runtime.bootstrap.v1.BootstrapParams`, with the runtime options in its
first extension; before, it is those options, a `google.protobuf.Any`.  Only top-level strings matter
here, and importing protobuf for them would take longer than the rest of `start`.
"""

_INSTANCE_ID, _NAMESPACE, _EXTENSIONS, _SOCKET_DIR = 1, 2, 8, 9
_VALUE = 1
_LENGTH_DELIMITED = 2
_FIXED_SIZES = {1: 8, 5: 4}


def socket_directory(data: bytes, container_id: str, namespace: str) -> str | None:
    """Return the socket directory that the parameters name, or None for any other input."""
    fields = dict(_parameters(data, container_id, namespace) or ())
    return fields.get(_SOCKET_DIR, b"").decode() or None


def runtime_options(data: bytes, container_id: str, namespace: str) -> bytes:
    """Return the runtime options, an encoded `google.protobuf.Any`, or b"" where there are none."""
    parameters = _parameters(data, container_id, namespace)
    if parameters is None:
        return data
    extension = next((value for number, value in parameters if number == _EXTENSIONS), b"")
    try:
        return dict(_strings(extension)).get(_VALUE, b"")
    except (IndexError, ValueError):
        return b""


def _parameters(data: bytes, container_id: str, namespace: str) -> "list[tuple[int, bytes]] | None":
    """Return the fields of parameters, or None for any other input.

    Options decode as parameters, too: only matching ids tell the two apart.
    """
    try:
        fields = _strings(data)
    except (IndexError, ValueError):
        return None
    found = dict(fields)
    if (found.get(_INSTANCE_ID), found.get(_NAMESPACE)) != (
        container_id.encode(),
        namespace.encode(),
    ):
        return None
    return fields


def _strings(data: bytes) -> "list[tuple[int, bytes]]":
    """Return number and bytes of every length-delimited field; raises on a malformed message."""
    found = []
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == _LENGTH_DELIMITED:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field longer than the message")
            found.append((number, data[at : at + size]))
            at += size
        else:
            at += _FIXED_SIZES[kind] if kind in _FIXED_SIZES else len(data) + 1
    if at != len(data):
        raise ValueError("the message ends within a field")
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
