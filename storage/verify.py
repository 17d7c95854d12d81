"""Is this copy of a store whole? Every page, every record of every database, and what they say of each other.

Reads only, and takes no lock: for a file that nobody writes to, such as a backup. The first thing that is wrong
raises StoreError, which names database and key. Entries, packet ids and bodies of sessions that are over are right:
they are deleted bit by bit.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb
import lmdb.verify
import msgspec

from storage.changes import BEATEN, decode_keys
from storage.layout import (
    DATABASES,
    FORMAT,
    FORMAT_SETTINGS,
    META_BOOT,
    META_CLOCK,
    META_ENDED,
    META_FORMAT,
    META_HAD,
    META_HALF_DONE,
    META_INCARNATION,
    META_INSTANCE,
    META_NEXT,
    META_NUMBER,
    META_PEER,
    META_QSEQ,
    META_SEQ,
    NUMBER_BITS,
    REFUSAL,
    REPLICATED,
    SessionRecord,
    StoreError,
    Subscription,
    WillRecord,
    client_key,
    setting_text,
    subscription_key,
    topic_key,
    unsealed,
)
from storage.writer import parse_entry

_MESSAGE = struct.Struct("<BQQHHII")  # docs/internals.md, message record

_session = msgspec.msgpack.Decoder(SessionRecord).decode
_subscription = msgspec.msgpack.Decoder(Subscription).decode
_will = msgspec.msgpack.Decoder(WillRecord).decode
_next = msgspec.msgpack.Decoder(tuple[int, int, int]).decode


@dataclass
class _Seen:
    """What later databases are compared with."""

    number: int = 0  # of the host, in the upper bits of the ids that it gave
    next_sid: int = 1
    next_body: int = 1
    next_will: int = 1
    has_peers: bool = False  # from other hosts a body may come before what refers to it, and stay a while longer
    sids: set[int] = field(default_factory=set)
    reserved: dict[int, int] = field(default_factory=dict)  # sid -> above all numbers of its queue
    references: Counter[int] = field(default_factory=Counter)  # of bodies, by queue entries

    def given(self, id: int, next: int) -> bool:
        """May the id have been given? Of those of other hosts we do not know."""
        return id >> NUMBER_BITS != self.number or id & ((1 << NUMBER_BITS) - 1) < next


class _Wrong(Exception):
    """What is wrong with the record at hand."""


def verify(file: Path) -> dict[str, int]:
    """The number of records in each database of the store in `file` (a data.mdb), and its format."""
    try:
        damage = lmdb.verify.verify(file, subdir=False)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise StoreError(f"{file}: cannot be read: {error.strerror}. Nothing was changed.") from error
    except lmdb.verify.VerifyError as error:
        damage = [str(error)]
    if damage:
        raise StoreError(f"{file}: its pages are damaged: {damage[0]}. Nothing was changed. Use another backup.")
    try:
        with lmdb.open(
            os.fspath(file), map_size=0, subdir=False, readonly=True, lock=False, max_dbs=len(DATABASES), lib_version=0
        ) as environment:
            meta = environment.open_db(b"meta", create=False)  # first: another format may have other databases
            with environment.begin() as transaction:
                version = _check_format(file, transaction.get(META_FORMAT, db=meta))
                names = set(transaction.cursor().iternext(values=False))
            known = [name for name in DATABASES if name != "settings" or b"settings" in names]
            databases = {name: environment.open_db(name.encode(), create=False) for name in known}
            with environment.begin() as transaction:
                return {"format": version, **_walk(file, transaction, databases)}
    except lmdb.Error as error:
        raise StoreError(f"{file}: is no store of mqnode: {error}. Nothing was changed. Use another file.") from error


def _walk(file: Path, transaction: Any, databases: dict[str, Any]) -> dict[str, int]:
    seen = _Seen()
    counts = dict.fromkeys(CHECKS, 0)
    for name in [name for name in CHECKS if name in databases]:
        for key, value in transaction.cursor(db=databases[name]):
            try:
                CHECKS[name](key, value, seen)
            except (_Wrong, msgspec.DecodeError, UnicodeDecodeError) as error:
                raise StoreError(
                    f"{file}: the record {key.hex()} of {name} is wrong: {error}. Nothing was changed. Use another backup."
                ) from error
            counts[name] += 1
    lost = seen.references.keys() - set(_numbers(transaction, databases["bodies"]))
    if lost:
        raise StoreError(
            f"{file}: {len(lost)} messages that queues refer to are not in bodies, the first is {min(lost)}. "
            "Nothing was changed. Use another backup."
        )
    return counts


def _check_format(file: Path, value: bytes | None) -> int:
    if value is None:
        raise StoreError(f"{file}: is no store of mqnode: it has no format. Nothing was changed. Use another file.")
    version = int.from_bytes(value, "big")
    if version not in (FORMAT, FORMAT_SETTINGS):
        raise StoreError(
            f"{file}: has format {version}, this mqnode verifies {FORMAT} and {FORMAT_SETTINGS}. Nothing was changed. "
            "Use the version of mqnode that wrote it."
        )
    return version


def _numbers(transaction: Any, database: Any) -> Iterator[int]:
    for key in transaction.cursor(db=database).iternext(values=False):
        yield int.from_bytes(key, "big")


# -- one check for each database ----------------------------------------------------------------------------------------


def _require(right: bool, what: str) -> None:
    if not right:
        raise _Wrong(what)


def _record(value: bytes) -> bytes:
    record = unsealed(value)
    if record is None:
        raise _Wrong("its checksum does not fit")
    return record


def _check_meta(key: bytes, value: bytes, seen: _Seen) -> None:
    if key == META_NEXT:
        seen.next_sid, seen.next_body, seen.next_will = _next(value)
    elif key == META_NUMBER:
        seen.number = int.from_bytes(value, "big")
    elif key in (META_CLOCK, META_INCARNATION, META_SEQ) or key.startswith(META_PEER):
        _require(len(value) == 8, "it is not of 8 bytes")
        seen.has_peers = seen.has_peers or key.startswith(META_PEER)
    elif key == META_BOOT:
        _require(len(value) == 24, "it is not of 24 bytes")
    elif key.startswith(META_QSEQ):
        _require(len(key) == len(META_QSEQ) + 8 and len(value) == 8, "it is not of 8 bytes")
        seen.reserved[int.from_bytes(key[len(META_QSEQ) :], "big")] = int.from_bytes(value, "big")
    elif key.startswith(META_HAD):
        _require(len(key) == len(META_HAD) + 8 and len(value) == 16, "it is not of 16 bytes")
    elif key.startswith(META_INSTANCE):
        refusals = divmod(len(value) - 16, REFUSAL.size)
        _require(
            len(key) == len(META_INSTANCE) + 8 and refusals[0] >= 0 == refusals[1], "it is not of 16 bytes and refusals"
        )
    elif key.startswith(META_ENDED):
        _require(len(key) == len(META_ENDED) + 8 and len(value) == 8, "it is not of 8 bytes")
    elif key.startswith(META_HALF_DONE):
        _require(len(key) == len(META_HALF_DONE) + 16, "it names no entry of a queue")


def _check_session(key: bytes, value: bytes, seen: _Seen) -> None:
    record = _session(_record(value))
    _require(key == client_key(record.client_id), f"it is of client id {record.client_id!r}, not of its key")
    _require(record.sid not in seen.sids, f"sid {record.sid} is that of another session, too")
    _require(seen.given(record.sid, seen.next_sid), f"sid {record.sid} is not below meta's next, {seen.next_sid}")
    seen.sids.add(record.sid)


def _check_subscription(key: bytes, value: bytes, seen: _Seen) -> None:
    sid, entry = int.from_bytes(key[:8], "big"), _subscription(_record(value))
    _require(key == subscription_key(sid, entry.filter), f"it is of filter {entry.filter!r}, not of its key")
    _require(sid in seen.sids, f"there is no session with sid {sid}")


def _check_entry(key: bytes, value: bytes, seen: _Seen) -> None:
    _require(len(key) == 16, "its key is not of 16 bytes")
    sid, qseq = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
    _require(qseq < seen.reserved.get(sid, 1), f"number {qseq} of the queue is not below the one in meta")
    _check_stored(value, seen)


def _check_inbox(key: bytes, value: bytes, seen: _Seen) -> None:
    _require(len(key) == 16, "its key is not of 16 bytes")
    _check_stored(value, seen)


def _check_stored(value: bytes, seen: _Seen) -> None:
    entry = parse_entry(value)
    if entry is None:
        raise _Wrong("its checksum does not fit")
    received, _, _, record, _, body = entry
    if body:
        seen.references[body] += 1
    elif not received:  # of a received one only the packet id is left
        _check_message(record)


def _check_body(key: bytes, value: bytes, seen: _Seen) -> None:
    number = int.from_bytes(key, "big")
    _require(seen.given(number, seen.next_body), f"its number is not below meta's next, {seen.next_body}")
    _require(number in seen.references or seen.has_peers, "no queue refers to it")
    _check_message(unsealed(value))


def _check_outbox(key: bytes, value: bytes, seen: _Seen) -> None:
    _require(len(key) == 8, "its key is not of 8 bytes")
    for database, _, _ in decode_keys(value):
        _require(database % BEATEN < len(REPLICATED), f"it names database {database}")


def _check_erased(key: bytes, value: bytes, seen: _Seen) -> None:
    _require(len(key) > 9 and key[0] < len(REPLICATED) and not value, "it is not database, dot and key")


def _check_packet_id(key: bytes, value: bytes, seen: _Seen) -> None:
    _require(len(key) == 10 and len(_record(value)) in (4, 12), "it is not sid and packet id")
    _require(seen.given(int.from_bytes(key[:8], "big"), seen.next_sid), "its sid was never given")


def _check_retained(key: bytes, value: bytes, seen: _Seen) -> None:
    topic = _check_message(unsealed(value))
    _require(key == topic_key(topic), f"it is of topic {topic.decode()!r}, not of its key")


def _check_will(key: bytes, value: bytes, seen: _Seen) -> None:
    _require(len(key) == 8, "its key is not of 8 bytes")
    _require(
        seen.given(int.from_bytes(key, "big"), seen.next_will), f"its id is not below meta's next, {seen.next_will}"
    )
    _check_message(_will(_record(value)).record)


def _check_setting(key: bytes, value: bytes, seen: _Seen) -> None:
    record = _record(value)
    _require(key.startswith((b"user/", b"config/")) or key == b"acl", "nobody sets that")
    _require(len(record) >= 8, "it does not say when it was put")
    setting_text(record)


def _check_message(record: bytes | None) -> bytes:
    """The topic of the message record; None stands for a checksum that does not fit."""
    if record is None:
        raise _Wrong("its checksum does not fit")
    _require(len(record) >= _MESSAGE.size, "its message is cut off")
    _, _, _, topic, author, properties, payload = _MESSAGE.unpack_from(record)
    _require(
        len(record) == _MESSAGE.size + topic + author + properties + payload, "the lengths in its message are wrong"
    )
    return record[_MESSAGE.size : _MESSAGE.size + topic]


# in the order in which they depend on each other
CHECKS: dict[str, Callable[[bytes, bytes, _Seen], None]] = {
    "meta": _check_meta,
    "sessions": _check_session,
    "subs": _check_subscription,
    "queue": _check_entry,
    "inbox": _check_inbox,
    "outbox": _check_outbox,
    "erased": _check_erased,
    "bodies": _check_body,
    "packet_ids": _check_packet_id,
    "retained": _check_retained,
    "wills": _check_will,
    "settings": _check_setting,
}
