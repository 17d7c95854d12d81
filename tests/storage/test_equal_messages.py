"""Messages that say the same, of one publisher in one millisecond: what recognizes a copy of one must not take it for another."""

from __future__ import annotations

import lmdb

from storage.layout import DATABASES
from storage.writer import parse_entry
from tests.broker import running
from tests.mqtt import PUBACK
from tests.placement import on_worker

COUNT = 200


def test_the_store_tells_equal_messages_apart() -> None:
    with running() as broker:
        with on_worker(broker, 0, "away", clean=False, session_expiry=60) as subscriber:
            subscriber.subscribe(("equal/t", 1))
        with on_worker(broker, 0, "one") as one, on_worker(broker, 1, "other") as other:
            for publisher in (one, other):
                for _ in range(COUNT):
                    publisher.publish("equal/t", b"same", 1)
                for _ in range(COUNT):
                    publisher.expect(PUBACK)
        path = str(broker.data_dir / "store")
        with lmdb.open(path, lock=False, readonly=True, max_dbs=len(DATABASES), lib_version=0) as environment:
            opened = environment.open_db(b"queue", create=False)
            with environment.begin(db=opened) as transaction:
                entries = [parse_entry(value) for _, value in transaction.cursor()]
        assert len({entry[3] for entry in entries if entry is not None}) == len(entries) == 2 * COUNT
