"""One end of a ttrpc connection without I/O: bytes in, events out.

No sockets, no clock, no logging. Feed what was read to `receive_data`, take events with
`next_event` until it returns None, and write what `send` returns. Faults come in two kinds: what
breaks one stream is a `Refusal` event, what breaks the connection is a `RemoteProtocolError`.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NoReturn

from google.protobuf.message import DecodeError

from ttrpc import frames, ttrpc_pb2
from ttrpc.errors import LocalProtocolError, RemoteProtocolError
from ttrpc.events import (
    ConnectionEnded,
    Data,
    EndOfData,
    Event,
    Opening,
    Refusal,
    Request,
    Response,
)
from ttrpc.frames import FLAG_NO_DATA, FLAG_REMOTE_CLOSED, MAX_MESSAGE_SIZE, Frame, OversizeFrame
from ttrpc.status import StatusCode
from ttrpc.streams import REQUEST_TRIGGERS, TRANSITIONS, StreamState, Trigger

_MAX_STREAM_ID: Final = 0xFFFF_FFFF  # the header's field is a u32
_MIN_MESSAGE_SIZE: Final = 1024  # bytes; our own refusals stay well below
# Bytes. A detail of two bytes becomes objects of 240, so 4 MiB of them cost half a GiB and seconds.
_MAX_STATUS_SIZE: Final = 64 << 10
_OPENING_FLAGS: Final = Opening.CLOSED.value | Opening.OPEN.value
_DATA_END: Final = FLAG_REMOTE_CLOSED | FLAG_NO_DATA
_RESPONSE_PAYLOAD: Final = b"\x12"  # protobuf's tag of the field `payload` of `Response`


class Role(Enum):
    """Which end of the connection this is."""

    CLIENT = auto()
    SERVER = auto()


class Connection:
    """The protocol state of one end: stream states, and bytes not yet understood.

    `max_message_size` (bytes) bounds the payload of a frame both ways. 4 MiB is what every known
    peer accepts; a larger value only works when both ends have it. Raises ValueError below 1 KiB,
    where the status that refuses a frame would not fit either.
    """

    def __init__(self, role: Role, max_message_size: int = MAX_MESSAGE_SIZE) -> None:
        if max_message_size < _MIN_MESSAGE_SIZE:
            raise ValueError(f"max_message_size must be at least {_MIN_MESSAGE_SIZE} bytes")
        self.role = role
        self.max_message_size = max_message_size
        self.dropped_frames = 0  # answers to streams we gave up, and frames of unknown type
        self._buffer = frames.FrameBuffer(max_message_size)
        self._streams: dict[int, StreamState] = {}
        self._last_stream_id = 0
        self._pending: Event | None = None
        self._ended = False
        self._fault: RemoteProtocolError | None = None

    def __repr__(self) -> str:
        if self._fault is not None:
            condition = f"broken: {self._fault}"
        else:
            condition = "ended" if self._ended else "open"
        return (
            f"<ttrpc {self.role.name.lower()} connection, {condition}, "
            f"{len(self._streams)} active streams, last id {self._last_stream_id}>"
        )

    # -- state ---------------------------------------------------------------------------------

    @property
    def next_stream_id(self) -> int:
        """Return the id a client must give its next request: odd, above all before it.

        Raises LocalProtocolError when all 2^31 ids are used; open a new connection then.
        """
        following = self._last_stream_id + 2 if self._last_stream_id else 1
        if following > _MAX_STREAM_ID:
            raise LocalProtocolError(
                "all stream ids of this connection are used; open a new connection",
                StatusCode.UNAVAILABLE,
            )
        return following

    def stream_state(self, stream_id: int) -> StreamState:
        """Return the state of a stream; an id below the highest used one reads as CLOSED."""
        state = self._streams.get(stream_id)
        if state is not None:
            return state
        return StreamState.CLOSED if stream_id <= self._last_stream_id else StreamState.IDLE

    def forget(self, stream_id: int) -> None:
        """Give up a stream: what still comes for it is dropped. Unknown ids are fine.

        The protocol has no cancel frame, so the peer is not told.
        """
        self._streams.pop(stream_id, None)

    # -- sending -------------------------------------------------------------------------------

    def send(self, event: Event) -> bytes:
        """Return the bytes that tell the peer `event`, and move the event's stream.

        Raises LocalProtocolError, without changing any state, when the role may not send this
        event, the stream's state forbids it, or the payload exceeds the limit (then with code
        RESOURCE_EXHAUSTED).
        """
        client = self.role is Role.CLIENT
        match event:
            case Data():
                trigger = Trigger.CLIENT_DATA if client else Trigger.SERVER_DATA
                frame = Frame(event.stream_id, frames.TYPE_DATA, 0, event.payload)
            case EndOfData():
                trigger = Trigger.CLIENT_END if client else Trigger.SERVER_END
                frame = Frame(event.stream_id, frames.TYPE_DATA, _DATA_END, b"")
            case Request() if client:
                trigger = REQUEST_TRIGGERS[event.opening]
                frame = _request_frame(event)
            case Response() if not client:
                trigger = Trigger.RESPONSE
                frame = _response_frame(event)
            case Refusal() if not client:
                # The stream may never have existed, so no state is asked.
                frame = _response_frame(Response(event.stream_id, b"", event.code, event.message))
                encoded = self._encode(frame)
                self.forget(event.stream_id)
                return encoded
            case _:
                raise LocalProtocolError(
                    f"a {self.role.name.lower()} cannot send {type(event).__name__}"
                )
        following = self._following_state(event.stream_id, trigger)
        encoded = self._encode(frame)
        self._enter(event.stream_id, following)
        return encoded

    def _encode(self, frame: Frame) -> bytes:
        if len(frame.payload) > self.max_message_size:
            raise LocalProtocolError(
                f"message of {len(frame.payload)} bytes exceeds the limit of "
                f"{self.max_message_size} bytes; split it",
                StatusCode.RESOURCE_EXHAUSTED,
            )
        return frame.encode()

    def _following_state(self, stream_id: int, trigger: Trigger) -> StreamState:
        state = self.stream_state(stream_id)
        following = TRANSITIONS[state].get(trigger)
        if following is None:
            raise LocalProtocolError(
                f"stream {stream_id} is {state.name}, which forbids {trigger.name}"
            )
        if state is StreamState.IDLE and (stream_id % 2 == 0 or stream_id > _MAX_STREAM_ID):
            raise LocalProtocolError(f"stream id {stream_id} is not an odd 32-bit number")
        return following

    def _enter(self, stream_id: int, state: StreamState) -> None:
        if state is StreamState.CLOSED:
            del self._streams[stream_id]
        else:
            self._streams[stream_id] = state
            self._last_stream_id = max(self._last_stream_id, stream_id)

    # -- receiving -----------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes that were read; empty bytes say that the peer closed its side.

        Raises LocalProtocolError for data after the end.
        """
        if not data:
            self._ended = True
            return
        if self._ended:
            raise LocalProtocolError("data received after the end of the connection")
        self._buffer.feed(data)

    def next_event(self) -> Event | None:
        """Return the next event, or None when more bytes are needed.

        After the peer closed its side, and all before it was returned, every call returns
        ConnectionEnded. Raises RemoteProtocolError, on this and every later call, when the peer
        broke a rule that holds for the connection; any other exception is a defect of this package.
        """
        if self._fault is not None:
            raise self._fault
        if self._pending is not None:
            event, self._pending = self._pending, None
            return event
        while (frame := self._buffer.next_frame()) is not None:
            received = self._receive_frame(frame)
            if received is not None:
                return received
            self.dropped_frames += 1
        if not self._ended:
            return None
        if self._buffer.mid_frame:
            self._fail("the connection ended inside a frame")
        return ConnectionEnded()

    def _fail(self, message: str) -> NoReturn:
        self._fault = RemoteProtocolError(message)
        raise self._fault

    def _refuse(self, stream_id: int, code: StatusCode, message: str) -> Refusal:
        self.forget(stream_id)
        return Refusal(stream_id, code, message)

    def _receive_frame(self, frame: Frame | OversizeFrame) -> Event | None:
        """Return the event of one frame, or None when the frame is to be dropped."""
        client = self.role is Role.CLIENT
        if frame.type == (frames.TYPE_REQUEST if client else frames.TYPE_RESPONSE):
            self._fail(
                f"a {self.role.name.lower()} was sent a message of type {frame.type}, "
                f"which only a {self.role.name.lower()} sends; are both ends the same role?"
            )
        if frame.type not in (frames.TYPE_REQUEST, frames.TYPE_RESPONSE, frames.TYPE_DATA):
            return None
        if client and frame.stream_id not in self._streams:
            if frame.stream_id > self._last_stream_id or frame.stream_id % 2 == 0:
                self._fail(f"the server answered on stream {frame.stream_id}, which nobody opened")
            return None  # the answer to a call that was given up
        if isinstance(frame, OversizeFrame):
            if not client and frame.stream_id % 2:
                self._last_stream_id = max(self._last_stream_id, frame.stream_id)
            return self._refuse(
                frame.stream_id,
                StatusCode.RESOURCE_EXHAUSTED,
                f"message of {frame.length} bytes exceeds the limit of "
                f"{self.max_message_size} bytes",
            )
        if frame.type == frames.TYPE_REQUEST:
            return self._receive_request(frame)
        if frame.type == frames.TYPE_RESPONSE:
            return self._receive_response(frame)
        return self._receive_server_data(frame) if client else self._receive_client_data(frame)

    def _receive_request(self, frame: Frame) -> Request | Refusal:
        stream_id = frame.stream_id
        invalid = StatusCode.INVALID_ARGUMENT
        if stream_id % 2 == 0:
            return self._refuse(stream_id, invalid, f"stream id {stream_id} is even; use odd ids")
        if stream_id <= self._last_stream_id:
            last = self._last_stream_id
            message = f"stream id {stream_id} is not above {last}, the highest one used"
            return self._refuse(stream_id, invalid, message)
        self._last_stream_id = stream_id
        flags = frame.flags & _OPENING_FLAGS
        if flags == _OPENING_FLAGS:
            message = "a request cannot be both remote closed and remote open"
            return self._refuse(stream_id, invalid, message)
        try:
            envelope = ttrpc_pb2.Request.FromString(frame.payload)
        except DecodeError as error:
            return self._refuse(stream_id, invalid, f"unreadable request envelope: {error}")
        opening = Opening(flags)
        self._streams[stream_id] = TRANSITIONS[StreamState.IDLE][REQUEST_TRIGGERS[opening]]
        return Request(
            stream_id,
            envelope.service,
            envelope.method,
            envelope.payload,
            envelope.timeout_nano,
            tuple([(pair.key, pair.value) for pair in envelope.metadata]),
            opening,
        )

    def _receive_client_data(self, frame: Frame) -> Data | EndOfData | Refusal | None:
        stream_id = frame.stream_id
        closing = frame.flags & FLAG_REMOTE_CLOSED
        empty = frame.flags & FLAG_NO_DATA
        trigger = Trigger.CLIENT_END if closing else Trigger.CLIENT_DATA
        state = self.stream_state(stream_id)
        following = TRANSITIONS[state].get(trigger)
        if following is None:
            message = f"stream {stream_id} is {state.name}, which forbids {trigger.name}"
            return self._refuse(stream_id, StatusCode.INVALID_ARGUMENT, message)
        if closing and frame.payload and not empty:
            message = "a data frame that closes the stream cannot carry a message"
            return self._refuse(stream_id, StatusCode.INVALID_ARGUMENT, message)
        self._enter(stream_id, following)
        if closing:
            return EndOfData(stream_id)
        return None if empty else Data(stream_id, frame.payload)

    def _receive_response(self, frame: Frame) -> Response | Refusal:
        stream_id = frame.stream_id
        try:
            envelope = ttrpc_pb2.SealedResponse.FromString(frame.payload)
            if len(envelope.status) > _MAX_STATUS_SIZE:
                size = len(envelope.status)
                message = f"status of {size} bytes exceeds the limit of {_MAX_STATUS_SIZE} bytes"
                return self._refuse(stream_id, StatusCode.RESOURCE_EXHAUSTED, message)
            status = ttrpc_pb2.Status.FromString(envelope.status)
        except DecodeError as error:
            message = f"unreadable response envelope: {error}"
            return self._refuse(stream_id, StatusCode.INTERNAL, message)
        self._enter(stream_id, StreamState.CLOSED)  # legal in every state of an active stream
        code = StatusCode.from_wire(status.code)
        return Response(stream_id, envelope.payload, code, status.message, tuple(status.details))

    def _receive_server_data(self, frame: Frame) -> Data | EndOfData | Refusal | None:
        stream_id = frame.stream_id
        closing = frame.flags & FLAG_REMOTE_CLOSED
        trigger = Trigger.SERVER_END if closing else Trigger.SERVER_DATA
        state = self.stream_state(stream_id)
        following = TRANSITIONS[state].get(trigger)
        if following is None:
            message = f"the server sent data on stream {stream_id}, which is {state.name}"
            return self._refuse(stream_id, StatusCode.INTERNAL, message)
        self._enter(stream_id, following)
        end = EndOfData(stream_id) if closing else None
        if frame.flags & FLAG_NO_DATA or (closing and not frame.payload):
            return end
        self._pending = end
        return Data(stream_id, frame.payload)


def _request_frame(event: Request) -> Frame:
    envelope = ttrpc_pb2.Request(
        service=event.service,
        method=event.method,
        payload=event.payload,
        timeout_nano=event.timeout_nano,
    )
    for key, value in event.metadata:
        envelope.metadata.add(key=key, value=value)
    payload = envelope.SerializeToString()
    return Frame(event.stream_id, frames.TYPE_REQUEST, event.opening.value, payload)


def _response_frame(event: Response) -> Frame:
    if event.code is StatusCode.OK and event.payload:
        # Not by protobuf, which would copy it three times: payloads are the bulk of what flows.
        payload = _RESPONSE_PAYLOAD + _varint(len(event.payload)) + event.payload
        return Frame(event.stream_id, frames.TYPE_RESPONSE, 0, payload)
    envelope = ttrpc_pb2.Response(payload=event.payload)
    if event.code is not StatusCode.OK:
        # File names in messages can hold lone surrogates, which protobuf refuses.
        message = event.message.encode("utf-8", "replace").decode()
        envelope.status.code = event.code
        envelope.status.message = message
        envelope.status.details.extend(event.details)
    payload = envelope.SerializeToString()
    return Frame(event.stream_id, frames.TYPE_RESPONSE, 0, payload)


def _varint(number: int) -> bytes:
    """Return protobuf's encoding of a length: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
