"""The store on disk: one table of databases, their keys and records, and how an environment is opened.

All integers in keys are big-endian, so that cursors walk them in order. Client ids and filters enter keys only as
BLAKE2b hashes of fixed length: no name can be a prefix of, or collide with, another's key (S21).

database    key                          record
meta        name                         see META_* below
sessions    H(client id), 16 bytes       msgpack SessionRecord
subs        sid u64, H(filter), 16       msgpack [filter, options, identifier]
queue       sid u64, qseq u64            entry, storage/writer.pyx ENTRY
inbox       sid u64, origin u64          entry as in queue: for a session that another host delivers, until that one queues it
bodies      number u64                   message record; of entries with several targets
packet_ids  sid u64, packet id u16       u32 CRC32 of the inbound QoS 2 message that awaits PUBREL, u64 when it came
retained    topic (see topic_key)        message record
wills       will id u64                  msgpack WillRecord
settings    name (see setting_key)       `<Q` ms of the store clock when it was put, then text: what is set once for all hosts
outbox      seq u64                      databases and keys changed by one commit, until the peers have it (storage/changes.py)
erased      database u8, dot u64, key    empty: another host's put that we know to be over before we have seen it

A value of a REPLICATED database is `<IQ` CRC32 of the rest and *dot*, then the record. The dot says which commit put it: the
number of the host above NUMBER_BITS, that of the commit below. With the commits of each host that are in a store (META_PEER) it
tells a key that was erased from one that has not come yet: a dotted version vector set (Preguiça et al. 2010, arXiv:1011.5808).
"""

from __future__ import annotations

import os
import struct
import zlib
from hashlib import blake2b
from pathlib import Path

import lmdb
import msgspec

FORMAT = 2
FORMAT_SETTINGS = 3  # once there are any: an earlier release would not tell its peers of them
# What peers hold, too
REPLICATED = ("sessions", "subs", "queue", "inbox", "bodies", "packet_ids", "retained", "wills", "settings")
DATABASES = ("meta", "outbox", "erased", *REPLICATED)
HEADER_BYTES = 12  # of a value in them
MAX_READERS = 1024  # LMDB's default of 126 is a classic outage
KEY_TOPIC_BYTES = 400  # of LMDB's 511

NUMBER_BITS = 40  # of a sid, a body's number, a will's id: above them the number of the host that gave it

META_FORMAT = b"format"
META_CLOCK = b"clock_ms"  # store clock at the last start
META_BOOT = (
    b"boot"  # 16 bytes, the kernel's boot id at that start; i64, the offset of the store clock to CLOCK_MONOTONIC
)
META_INCARNATION = b"incarnation"
META_NEXT = b"next"  # msgpack [next sid, next body number, next will id]
META_NUMBER = b"number"  # u64: this host's, in the upper bits of every id that it gives
META_FORMER = b"former"  # n * u64: numbers that this store had, an old copy, until that is over: storage/renumber.py
META_ALONE = b"alone"  # u64 of the last commit before we began to serve while no other host was there, until one is
META_SEQ = b"seq"  # u64 of the last commit that changed what is replicated
META_PEER = b"peer/"  # + u64 number of a peer: u64 of its last commit that is in this store
META_COVERED = b"covered/"  # + u64 count: msgpack [begin, end, context] of a part of a snapshot: storage/covered.py
META_HOLES = b"holes"  # msgpack context: up to there commits are missing of which something is here: storage/covered.py
META_HAD = b"had/"  # + u64 count: u64 sid, 8 bytes BLAKE2b of a QoS 2 entry that its client had from here while hosts were apart
META_EVICTED = b"evicted/"  # + 16 bytes id of a peer: "1" if it had all; since then we have acknowledged without it
META_HEALS = b"heals"  # msgpack: node/keeper/heals.py
META_CLUSTER = b"cluster"  # 16 bytes, the id of that of which all is here, or was; empty: of none
META_NODE = b"node/"  # + 16 bytes id of a peer: u64 its number
META_QSEQ = b"qseq/"  # + u64 sid: u64, every number of this queue below it may have been used
META_HALF_DONE = b"half-done/"  # + key of a QoS 2 entry that a client may hold, of a session that ended in a cut
META_HALF_SENT = b"half-sent/"  # + key of a packet id, of a session that ended in a cut: its record
META_ENDED = b"ended/"  # + u64 sid of a session that ended in a cut: u64 of our commit since
# + u64 worker index: u64 of its process, u64 number of that one's last committed batch, each REFUSAL that it may not have heard
META_INSTANCE = b"instance/"
REFUSAL = struct.Struct("<QIB")  # number of a batch, index of the operation in it, reason code


class StoreError(Exception):
    """The store cannot be used; the text says why, what it means, and what to do. Nothing was deleted."""


class SessionRecord(msgspec.Struct, array_like=True):
    """A durable session. Times are of the store clock, ms. Fields are only ever appended."""

    sid: int
    client_id: str
    user: str | None
    created_ms: int
    expiry_s: int
    attached: bool
    detached_ms: int
    sent_qseq: int  # deliveries up to here may have been sent
    epoch: int  # of two records of a session the higher one counts: each connection has a higher one, by the clock if that is ahead
    owner: int = 0  # number of the host that delivers its queue
    worker: int = 0  # of that host, which had its client last
    is_new: bool = False  # its client asked for a new one, or had another user before: nothing older belongs to it
    inherits: list[int] = []  # sids of sessions that its client had begun elsewhere, each without knowing of the other


class WillRecord(msgspec.Struct, array_like=True):
    client_id: str
    delay_s: int
    record: bytes


class Subscription(msgspec.Struct, array_like=True):
    filter: str
    options: int
    identifier: int


def open_environment(path: str | os.PathLike[str], map_bytes: int, readonly: bool = False) -> lmdb.Environment:
    """The LMDB environment at `path`. Raises StoreError for damage and for files of another version."""
    try:
        return lmdb.open(
            os.fspath(path), map_size=map_bytes, max_dbs=16, max_readers=MAX_READERS, readonly=readonly,
            lib_version=0, mode=0o600, create=not readonly, readahead=False,
        )  # fmt: skip
    except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError, lmdb.PanicError) as error:
        raise StoreError(
            f"{path}: is damaged or not an LMDB 0.9 file: {error}. mqnode does not start on it and has deleted nothing. "
            "Move the folder aside and run `mqnode backup restore FILE`."
        ) from error
    except lmdb.Error as error:
        raise StoreError(
            f"{path}: cannot be opened: {error}. mqnode does not start. Check the owner and the rights of the folder."
        ) from error


def open_databases(environment: lmdb.Environment, create: bool) -> dict[str, lmdb._Database]:
    return {name: environment.open_db(name.encode(), create=create) for name in DATABASES}


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def client_key(client_id: str) -> bytes:
    return blake2b(client_id.encode(), digest_size=16).digest()


def subscription_key(sid: int, filter: str) -> bytes:
    return u64(sid) + blake2b(filter.encode(), digest_size=16).digest()


def topic_key(topic: bytes) -> bytes:
    """Keys of a subtree stand together; a long topic is cut and told apart by its hash."""
    if len(topic) <= KEY_TOPIC_BYTES:
        return topic
    return topic[:KEY_TOPIC_BYTES] + blake2b(topic, digest_size=16).digest()


def setting_key(name: str) -> bytes:
    """Of "acl", "user/NAME", "config/KEY". What a cut name was stands in the text."""
    return topic_key(name.encode())


def setting(text: str, now_ms: int) -> bytes:
    """The record of what is put now."""
    return struct.pack("<Q", now_ms) + text.encode()


def setting_text(record: bytes) -> str:
    return record[8:].decode()


def sealed(record: bytes, dot: int) -> bytes:
    rest = struct.pack("<Q", dot) + record
    return zlib.crc32(rest).to_bytes(4, "little") + rest


def unsealed(value: bytes) -> bytes | None:
    """The record, or None if the disk has changed it (R3: a hole, not the end of the store)."""
    whole = len(value) >= HEADER_BYTES and zlib.crc32(memoryview(value)[4:]) == int.from_bytes(value[:4], "little")
    return value[HEADER_BYTES:] if whole else None


def store_path(data_dir: str | os.PathLike[str]) -> Path:
    return Path(data_dir) / "store"
