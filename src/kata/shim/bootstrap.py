"""The parameters that containerd 2.3 and later write to the standard input of `start`.

The message is `containerd.runtime.bootstrap.v1.BootstrapParams`; before 2.3 the same pipe carries
runtime options, which we take from the Create request instead.  Only top-level strings matter here,
and importing protobuf for them would take longer than the rest of `start`.
"""

_INSTANCE_ID, _NAMESPACE, _SOCKET_DIR = 1, 2, 9
_LENGTH_DELIMITED = 2
_FIXED_SIZES = {1: 8, 5: 4}


def socket_directory(data: bytes, container_id: str, namespace: str) -> str | None:
    """Return the socket directory that the parameters name, or None for any other input.

    Options decode as parameters, too: only matching ids tell the two apart.
    """
    try:
        fields = dict(_strings(data))
    except (IndexError, ValueError):
        return None
    if (fields.get(_INSTANCE_ID), fields.get(_NAMESPACE)) != (
        container_id.encode(),
        namespace.encode(),
    ):
        return None
    directory = fields.get(_SOCKET_DIR, b"")
    return directory.decode() or None


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
