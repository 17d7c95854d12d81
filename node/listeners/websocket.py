"""MQTT over WebSocket (MQTT 5 section 6): the filter around websockets' sans-io protocol.

States: handshake, open, ended. Binary frames carry a stream of bytes, cut anywhere [MQTT-6.0.0-2]; text closes
with 1003 [MQTT-6.0.0-1]. Bounds: an unfinished handshake, a message, and the control and empty frames in one
`receive`, of which only the last ping is answered (RFC 6455 section 5.5.3), so that a flood of pings is not echoed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NoReturn

from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import CONNECTING, OPEN
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol

from node.listeners.filters import FilterError

HANDSHAKE_MAX_BYTES = 8192
IDLE_FRAMES_MAX = 64  # control and empty frames in one receive(); a client in order has one or two
MESSAGE_SLACK_BYTES = 65536  # a message may hold the largest packet and the end or beginning of others
_SUBPROTOCOLS = [Subprotocol("mqtt"), Subprotocol("mqttv3.1")]  # [MQTT-6.0.0-3], and what MQTT 3.1 clients say
_READ_HEADERS = (
    "Connection", "Upgrade", "Origin", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
)  # fmt: skip
_LOGGER = logging.getLogger("websockets.server")
_BAD_REQUEST = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class WebSocketFilter:
    finished = False

    def __init__(self, path: str, origins: tuple[str, ...], max_packet_bytes: int) -> None:
        self._path = path
        # a client without an Origin is no browser: the check, against foreign web pages, does not concern it
        self._protocol = ServerProtocol(
            origins=[*map(Origin, origins), None] if origins else None,
            subprotocols=_SUBPROTOCOLS,
            max_size=max_packet_bytes + MESSAGE_SLACK_BYTES,
            logger=_LOGGER,
        )
        self._out: list[bytes] = []
        self._handshake_bytes = 0
        self._ended = False

    def receive(self, data: bytes) -> bytes:
        if self._ended:
            raise FilterError("WebSocket: closed by the client")
        self._protocol.receive_data(data)
        events = self._protocol.events_received()
        if self._protocol.state is CONNECTING:
            self._handshake(events, len(data))
            return b""
        frames = [event for event in events if isinstance(event, Frame)]
        self._answer(frames)
        return self._payload(frames)

    def _handshake(self, events: Sequence[object], size: int) -> None:
        self._handshake_bytes += size
        if self._protocol.handshake_exc is not None:
            self._refuse(b"400 Bad Request", "no HTTP request of a WebSocket client")
        if not events:
            if self._handshake_bytes > HANDSHAKE_MAX_BYTES:
                self._refuse(b"431 Request Header Fields Too Large", "handshake too large")
            return
        request = events[0]
        if len(events) > 1 or self._protocol.eof_sent or not isinstance(request, Request):
            self._refuse(b"400 Bad Request", "frames before the handshake was answered")
        # the library takes what is not ASCII in these for an error of the server, or cannot quote it in its refusal
        if not all(value.isascii() for name in _READ_HEADERS for value in request.headers.get_all(name)):
            self._refuse(b"400 Bad Request", "malformed header")
        if request.path.partition("?")[0] == self._path:
            response = self._protocol.accept(request)
        else:
            response = self._protocol.reject(404, f"MQTT is at {self._path}\n")
        self._protocol.send_response(response)
        self._out += self._protocol.data_to_send()
        if response.status_code != 101:
            self._ended = True
            raise FilterError(f"WebSocket: handshake refused: {response.status_code} {response.reason_phrase}")

    def _refuse(self, status: bytes, reason: str) -> NoReturn:
        self._out = [_BAD_REQUEST % status]
        self._ended = True
        raise FilterError(f"WebSocket: {reason}")

    def _answer(self, frames: list[Frame]) -> None:
        """Queue what the protocol answered by itself: pongs, one for each ping, then perhaps a close frame."""
        pings = sum(frame.opcode is Opcode.PING for frame in frames)
        self._out += self._protocol.data_to_send()[max(0, pings - 1) :]
        idle = sum(frame.opcode in (Opcode.PING, Opcode.PONG) or not frame.data for frame in frames)
        if idle > IDLE_FRAMES_MAX:
            self._fail(CloseCode.POLICY_VIOLATION, "too many control frames")

    def _payload(self, frames: list[Frame]) -> bytes:
        plain = []
        for frame in frames:
            if frame.opcode is Opcode.TEXT:
                self._fail(CloseCode.UNSUPPORTED_DATA, "text frame")
            elif frame.opcode in (Opcode.BINARY, Opcode.CONT):
                plain.append(bytes(frame.data))
            elif frame.opcode is Opcode.CLOSE:
                self._ended = True
        error = self._protocol.parser_exc
        if error is not None:
            self._ended = True
            reason = "message too large" if isinstance(error, PayloadTooBig) else f"protocol error: {error}"
            raise FilterError(f"WebSocket: {reason}")
        if self._ended and not any(plain):
            raise FilterError("WebSocket: closed by the client")
        return b"".join(plain)

    def _fail(self, code: CloseCode, reason: str) -> NoReturn:
        self._ended = True
        self._protocol.fail(code, reason)
        raise FilterError(f"WebSocket: {reason}")

    def send(self, data: bytes) -> None:
        if self._protocol.state is OPEN:  # else the client has left: nobody reads it
            self._protocol.send_binary(data)

    def take(self) -> bytes:
        data = b"".join(self._out + self._protocol.data_to_send())
        self._out = []
        return data

    def close(self) -> None:
        if self._protocol.state is OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)

    def facts(self) -> dict[str, object]:
        return {"subprotocol": self._protocol.subprotocol}
