from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import Any as _Any, ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Piece(_message.Message):
    __slots__ = ("port", "data", "granted", "end")
    PORT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    port: int
    data: bytes
    granted: int
    end: bool
    def __init__(self, port: _Optional[int] = ..., data: _Optional[bytes] = ..., granted: _Optional[int] = ..., end: bool = ...) -> None: ...
