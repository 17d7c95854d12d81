"""What the model in test_writer_model.py says that a store holds."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

RECEIVED = b"received"


@dataclass(frozen=True)
class Entry:
    options: int
    identifiers: tuple[int, ...]
    share: str | None
    record: bytes  # RECEIVED: of an entry whose PUBREC came
    size: int


@dataclass
class State:
    queues: dict[int, dict[int, Entry]] = field(default_factory=dict)  # of the sessions
    next_qseq: dict[int, int] = field(default_factory=dict)
    packet_ids: set[tuple[int, int]] = field(default_factory=set)
    retained: dict[bytes, bytes] = field(default_factory=dict)
    wills: set[int] = field(default_factory=set)


def message(topic: bytes, payload: bytes, retain: bool) -> bytes:
    return struct.pack("<BQQHHII", 1 | retain << 2, 5, 0, len(topic), 0, 0, len(payload)) + topic + payload


def topic(record: bytes) -> bytes:
    return record[29:].rstrip(b"xyzwm")


def payload(record: bytes) -> bytes:
    return record[29 + len(topic(record)) :]
