"""`python -m bench.storage [--folder DIR]`: how fast the store takes, gives and forgets, without processes and sockets.

Each line is one measurement on a new store in DIR (default: the current folder; /tmp may be memory): what a keeper's turn does
with a batch of operations, commit with fsync included, and what a worker's read of a queue does.
"""

from __future__ import annotations

import argparse
import os
import random
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from node.config import Limits
from storage.layout import SessionRecord, client_key
from storage.reader import Reader
from storage.store import Store, open_store
from storage.writer import Writer

SESSIONS = 20
PAYLOADS = (64, 1024)
FAN_OUTS = (1, 10)
BATCHES = (1, 16, 256, 4096)
TOTAL = 40_000  # messages of a measurement, at most …
COMMITS = 100  # … and commits
LIMITS = Limits(max_queued_messages=1 << 40, max_queued_bytes=1 << 50)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "store"
        self.number = 0
        self.open()
        self.writer.begin()
        self.sids = [self.open_session(f"client-{index}") for index in range(SESSIONS)]
        self.writer.commit()

    def open(self) -> None:
        self.store: Store = open_store(self.path, 1 << 30, 1 << 40)
        self.writer = Writer(self.store.environment, self.store.databases, LIMITS)

    def close(self) -> None:
        self.store.environment.close()

    def open_session(self, client_id: str) -> int:
        sid = int(self.writer.new_sid())
        record = dict.fromkeys(SessionRecord.__struct_fields__, 0)
        values = record | {"sid": sid, "client_id": client_id, "user": None, "attached": True}
        self.writer.put("sessions", client_key(client_id), msgspec.msgpack.encode(SessionRecord(**values)))
        self.writer.queue_of(sid)
        return sid

    def apply(self, operations: list[bytes]) -> None:
        """One turn of the keeper."""
        self.number += 1
        frame = struct.pack("<Q", self.number) + b"".join(operations)
        self.store.make_room(len(frame))
        self.writer.begin()
        self.writer.apply(frame, 0, 1, 1)
        self.writer.commit()


def publish(sids: list[int], payload: bytes) -> bytes:
    """OP_PUBLISH at QoS 1, docs/internals.md."""
    topic = b"bench/topic"
    record = struct.pack("<BQQHHII", 1, 1, 0, len(topic), 0, 0, len(payload)) + topic + payload
    targets = b"".join(struct.pack("<QBB", sid, 1, 0) for sid in sids)
    body = struct.pack("<QHQQQH", 0, 0, 0, 0, 0, len(sids)) + targets + record
    return struct.pack("<BI", 1, len(body)) + body


def done(sid: int, qseq: int) -> bytes:
    return struct.pack("<BIQQ", 2, 16, sid, qseq)


@contextmanager
def new_store(folder: Path) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="bench-storage-", dir=folder) as name:
        bench = Bench(Path(name))
        yield bench
        bench.close()


def say(what: str, count: int, seconds: float, more: str = "") -> None:
    print(f"{what:<44} {count / seconds:>11,.0f} /s  {more}".rstrip(), flush=True)


def appends(folder: Path, fan_out: int, size: int, batch: int) -> None:
    payload = random.Random(1).randbytes(size)
    with new_store(folder) as bench:
        turns = [
            [publish([bench.sids[(index + k) % SESSIONS] for k in range(fan_out)], payload) for index in range(batch)]
            for _ in range(min(COMMITS, max(1, TOTAL // batch)))
        ]
        empty = bench.store.used_bytes()
        started = time.perf_counter()
        for operations in turns:
            bench.apply(operations)
        seconds = time.perf_counter() - started
        count = batch * len(turns)
        stored = (bench.store.used_bytes() - empty) / count / fan_out
        say(
            f"append, fan-out {fan_out}, {size} B, {batch} a commit", count, seconds,
            f"{seconds / len(turns) * 1000:6.2f} ms a commit, {stored:5.0f} B an entry" if batch > 1 else "",
        )  # fmt: skip


def acknowledgements(folder: Path, fan_out: int, size: int, batch: int) -> None:
    """Replay by the worker, then DONE of each: what a client does that comes back to a long queue."""
    payload = random.Random(1).randbytes(size)
    with new_store(folder) as bench:
        sids = bench.sids[:fan_out]
        for _ in range(TOTAL // fan_out // 500):
            bench.apply([publish(sids, payload)] * 500)
        bench.close()  # LMDB wants one environment a process
        reader = Reader(os.fspath(bench.path))
        acks = []
        started = time.perf_counter()
        for sid in sids:
            after = 0
            while entries := reader.read_queue(sid, after, (1 << 64) - 1, 256, 1 << 20):
                after = entries[-1][0]
                acks += [done(sid, entry[0]) for entry in entries]
        say(f"replay, fan-out {fan_out}, {size} B", len(acks), time.perf_counter() - started)
        reader.close()
        bench.open()
        started = time.perf_counter()
        for at in range(0, len(acks), batch):
            bench.apply(acks[at : at + batch])
        say(f"ack, fan-out {fan_out}, {size} B, {batch} a commit", len(acks), time.perf_counter() - started)
        assert bench.writer.queued_messages == 0


def sessions(folder: Path, batch: int) -> None:
    with new_store(folder) as bench:
        count = min(TOTAL, batch * COMMITS)
        started = time.perf_counter()
        for at in range(0, count, batch):
            bench.writer.begin()
            for index in range(at, at + batch):
                bench.open_session(f"device-{index}")
            bench.writer.commit()
        say(f"session open, {batch} a commit", count, time.perf_counter() - started)


def load(folder: Path) -> None:
    """What a start of the keeper takes for each message that is queued."""
    with new_store(folder) as bench:
        for _ in range(TOTAL // 500):
            bench.apply([publish(bench.sids[:2], b"x" * 64)] * 500)
        started = time.perf_counter()
        bench.writer.load()
        say("load at start, entries", bench.writer.queued_messages, time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.storage", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    folder = parser.parse_args().folder
    for fan_out in FAN_OUTS:
        for size in PAYLOADS:
            for batch in BATCHES:
                appends(folder, fan_out, size, batch)
            acknowledgements(folder, fan_out, size, 1000)
    for batch in (1, 100):
        sessions(folder, batch)
    load(folder)


if __name__ == "__main__":
    main()
