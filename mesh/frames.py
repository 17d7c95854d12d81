"""What two hosts say to each other over a channel, in bytes. Pure.

A message is HELLO or BATCH, told apart by its first byte. HELLO is msgpack; fields are only ever appended. A BATCH is a
header and the next piece of a stream of frames, each `<IB` length of the body, kind, then the body: a frame may begin in one batch
and end in a later one, and a batch without any is a heartbeat.
"""

from __future__ import annotations

import struct

import msgspec

from mesh.undecodable import UNDECODABLE

HELLO, BATCH = 1, 2
BATCH_BYTES = (
    128 << 10
)  # of frames in one message: large enough to cost little, small enough to carry beats between them
BODY_BYTES_MAX = 288 << 20  # more than the largest MQTT packet

HEADER = struct.Struct("<BQQIII")  # BATCH, channel, sequence number, beat, echo, µs since the echoed beat was heard
FRAME = struct.Struct("<IB")
MESSAGE_BYTES_MAX = HEADER.size + BATCH_BYTES + 64  # CURVE adds 33

Frame = tuple[int, bytes]  # kind, body


class FrameError(ValueError):
    """Bytes that no mqnode sends."""


class Hello(msgspec.Struct, frozen=True, array_like=True):
    lowest_version: int
    highest_version: int
    node_id: bytes
    incarnation: int
    cluster_id: bytes
    channel: int  # a random number: the sender's frames from its next batch on
    answers: int  # the receiver's channel as the sender knows it; 0: none
    open: bool  # the sender has had its channel answered
    address: str = ""  # at which the sender is reached now, whatever the receiver's table says
    release: str = ""  # of the sender's mqnode
    objection: str = ""  # why the sender does not answer the receiver

    def encode(self) -> bytes:
        return bytes([HELLO]) + msgspec.msgpack.encode(self)


class Batch(msgspec.Struct, frozen=True):
    channel: int
    number: int
    beat: int
    echo: int
    held_us: int
    stream: bytes | memoryview

    def encode(self) -> bytes:
        header = HEADER.pack(BATCH, self.channel, self.number, self.beat, self.echo, self.held_us)
        return b"".join((header, self.stream))


def decode(message: bytes | memoryview) -> Hello | Batch:
    kind = message[0] if message else 0
    try:
        if kind == HELLO:
            return msgspec.msgpack.decode(message[1:], type=Hello)
        if kind == BATCH:
            _, channel, number, beat, echo, held_us = HEADER.unpack_from(message)
            return Batch(channel, number, beat, echo, held_us, memoryview(message)[HEADER.size :])
    except (*UNDECODABLE, struct.error) as error:
        raise FrameError(f"a message of {len(message)} bytes cannot be read: {error}") from error
    raise FrameError(f"a message of the unknown kind {kind}")


class Assembler:
    """Frames from the pieces of the stream."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def clear(self) -> None:
        self._rest = bytearray()

    def add(self, piece: bytes | memoryview) -> list[Frame]:
        if not self._rest:
            frames, used = _whole(memoryview(piece))
            self._rest += piece[used:]
            return frames
        self._rest += piece
        with memoryview(self._rest) as view:
            frames, used = _whole(view)
        del self._rest[:used]
        return frames


def _whole(stream: memoryview) -> tuple[list[Frame], int]:
    """The whole frames at its beginning, and how many bytes they are."""
    frames: list[Frame] = []
    at, size = 0, len(stream)
    while size - at >= FRAME.size:
        length, kind = FRAME.unpack_from(stream, at)
        if length > BODY_BYTES_MAX:
            raise FrameError(f"a frame of {length} bytes; {BODY_BYTES_MAX} are the most")
        end = at + FRAME.size + length
        if end > size:
            break
        frames.append((kind, bytes(stream[at + FRAME.size : end])))
        at = end
    return frames, at
