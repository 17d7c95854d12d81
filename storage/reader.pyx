"""Read-only views of the store for workers and the admin process. Each call sees the last commit; none holds a transaction open."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

import fnmatch
import os
import zlib

import lmdb
import msgspec

from storage.layout import (
    HEADER_BYTES,
    SessionRecord,
    Subscription,
    client_key,
    open_databases,
    open_environment,
    topic_key,
    u64,
    unsealed,
)
from storage.settings import settings
from storage.writer import parse_entry

CHUNK = 256     # retained messages read in one transaction

_decode_session = msgspec.msgpack.Decoder(SessionRecord).decode
_decode_subscription = msgspec.msgpack.Decoder(Subscription).decode


cdef _session(bytes value):
    return _decode_session(value[HEADER_BYTES:])


cdef _subscription(bytes value):
    return _decode_subscription(value[HEADER_BYTES:])


cdef class Reader:
    """`path` is the store's folder. Damaged records are passed over and counted in `damaged`."""

    cdef object environment
    cdef dict databases
    cdef object queue
    cdef object path
    cdef object inode
    cdef readonly int damaged

    def __init__(self, path):
        self.path = path
        self.inode = os.stat(os.path.join(path, "data.mdb")).st_ino
        self.environment = open_environment(path, 0, readonly=True)
        self.databases = open_databases(self.environment, create=False)
        self.queue = self.databases["queue"]

    def is_replaced(self):
        """Has the keeper made a new store in the place of this one?"""
        try:
            return os.stat(os.path.join(self.path, "data.mdb")).st_ino != self.inode
        except OSError:
            return True

    def close(self):
        self.environment.close()

    cdef begin(self):
        try:
            return self.environment.begin()
        except lmdb.MapResizedError:        # the keeper has grown it
            self.environment.set_mapsize(0)
            return self.environment.begin()

    # -- queues -----------------------------------------------------------------------------------------------------------

    def read_queue(self, unsigned long long sid, unsigned long long after_qseq, unsigned long long until_qseq,
                   int max_messages, int max_bytes):
        """[(qseq, received, options, identifiers, record, share)] behind `after_qseq`, none behind `until_qseq`.

        A damaged one has record b"".
        """
        cdef list found = []
        cdef bytes key, value, prefix = u64(sid)
        cdef Py_ssize_t size = 0
        with self.begin() as transaction:
            cursor = transaction.cursor(db=self.queue)
            more = cursor.set_range(prefix + u64(after_qseq + 1))
            while more and len(found) < max_messages and size < max_bytes:
                key, value = cursor.item()
                if not key.startswith(prefix) or qseq_of(key) > until_qseq:
                    break
                received, options, identifiers, record, share = self.entry(transaction, value)
                found.append((qseq_of(key), received, options, identifiers, record, share))
                size += len(record)
                more = cursor.next()
        return found

    cdef entry(self, transaction, bytes value):
        parsed = parse_entry(value)
        if parsed is None:
            self.damaged += 1
            return False, 0, (), b"", None
        received, options, identifiers, record, share, body = parsed
        if record is None:
            stored = transaction.get(u64(body), db=self.databases["bodies"])
            record = None if stored is None else unsealed(stored)
            if record is None:
                self.damaged += 1
                record = b""
        return received, options, identifiers, record, share

    def queue_depth(self, unsigned long long sid):
        """(messages, bytes)"""
        cdef int count = 0
        cdef long long size = 0
        with self.begin() as transaction:
            cursor = transaction.cursor(db=self.queue)
            if cursor.set_range(u64(sid)):
                for key, value in cursor.iternext():
                    if key[:8] != u64(sid):
                        break
                    count += 1
                    size += len(value)
        return count, size

    def packet_ids(self, unsigned long long sid):
        """Inbound QoS 2 packet ids that await PUBREL."""
        found = []
        with self.begin() as transaction:
            cursor = transaction.cursor(db=self.databases["packet_ids"])
            if cursor.set_range(u64(sid)):
                for key in cursor.iternext(values=False):
                    if key[:8] != u64(sid):
                        break
                    found.append(int.from_bytes(key[8:], "big"))
        return found

    # -- sessions ---------------------------------------------------------------------------------------------------------

    def session(self, str client_id):
        with self.begin() as transaction:
            value = transaction.get(client_key(client_id), db=self.databases["sessions"])
        return None if value is None else _session(value)

    def sessions(self, str after="", int limit=100, str match="*"):
        """Records behind that of the client id `after`, in the order of the store, which stays the same: that of its hashes."""
        found = []
        with self.begin() as transaction:
            cursor = transaction.cursor(db=self.databases["sessions"])
            if not cursor.set_range(client_key(after) + b"\0" if after else b""):
                return found
            for value in cursor.iternext(keys=False):
                record = _session(value)
                if match == "*" or fnmatch.fnmatchcase(record.client_id, match):
                    found.append(record)
                    if len(found) >= limit:
                        break
        return found

    def subscriptions(self):
        """Yields (sid, client id, user, filter, options, identifier) of every durable session."""
        with self.begin() as transaction:
            owners = {}
            for value in transaction.cursor(db=self.databases["sessions"]).iternext(keys=False):
                record = _session(value)
                owners[record.sid] = record
            for key, value in transaction.cursor(db=self.databases["subs"]):
                owner = owners.get(int.from_bytes(key[:8], "big"))
                if owner is not None:
                    entry = _subscription(value)
                    yield owner.sid, owner.client_id, owner.user, entry.filter, entry.options, entry.identifier

    def subscriptions_of(self, unsigned long long sid):
        """[Subscription]"""
        found = []
        with self.begin() as transaction:
            cursor = transaction.cursor(db=self.databases["subs"])
            if cursor.set_range(u64(sid)):
                for key, value in cursor.iternext():
                    if key[:8] != u64(sid):
                        break
                    found.append(_subscription(value))
        return found

    # -- retained ---------------------------------------------------------------------------------------------------------

    def retained_of(self, list filters, clock):
        """Yields (records, options) of these (filter, options), in lists as `retained_chunks`; `clock()` is the store clock.

        Where filters are plain topics many share a transaction, which costs more than to look one up.
        """
        cdef list topics
        cdef Py_ssize_t i = 0
        while i < len(filters):
            filter, options = filters[i]
            topics = []
            while is_topic(filter) and len(topics) < CHUNK:
                topics.append(filter)
                i += 1
                if i == len(filters) or filters[i][1] != options:
                    break
                filter = filters[i][0]
            if topics:
                yield self.retained_topics(topics, clock()), options
            else:
                i += 1
                for records in self.retained_chunks(filter.decode(), clock()):
                    yield records, options

    cdef list retained_topics(self, list topics, uint64_t now_ms):
        cdef list records = []
        with self.begin() as transaction:
            retained = self.databases["retained"]
            for topic in topics:
                value = transaction.get(topic_key(topic), db=retained)
                record = None if value is None else unsealed(value)
                if record is not None and not expired(record, now_ms):
                    records.append(record)
        return records

    def retained_get(self, str topic):
        with self.begin() as transaction:
            value = transaction.get(topic_key(topic.encode()), db=self.databases["retained"])
        return None if value is None else unsealed(value)

    def retained(self, str filter, unsigned long long now_ms, str after=""):
        """Yields the message records that have not expired, of the topics behind `after` that `filter` matches."""
        for records in self.retained_chunks(filter, now_ms, after):
            yield from records

    def retained_chunks(self, str filter, unsigned long long now_ms, str after=""):
        """The same in lists, empty ones too, each the work of a moment: whoever has others to serve can do so between them."""
        cdef bytes wanted = filter.encode()
        if is_topic(wanted):
            record = None if after else self.retained_get(filter)
            yield [] if record is None or expired(record, now_ms) else [record]
            return
        levels = wanted.split(b"/")
        prefix = literal_prefix(levels)
        under = wanted[:-1] if wanted.endswith(b"/#") and b"+" not in wanted else None
        start = max(prefix, topic_key(after.encode()) + b"\0") if after else prefix
        while start is not None:
            records, start = self.retained_chunk(levels, prefix, under, start, now_ms)
            yield records

    cdef retained_chunk(self, list levels, bytes prefix, bytes under, bytes start, uint64_t now_ms):
        """The matching ones of CHUNK records from the key `start` on, and the key to go on from, None at the end.

        Topics that begin with `under` match without a look at their levels.
        """
        cdef list records = []
        cdef bytes key, value, record, topic
        cdef int seen = 0
        with self.begin() as transaction:
            cursor = transaction.cursor(db=self.databases["retained"])
            more = cursor.set_range(start)
            while more:
                key = cursor.key()
                if prefix and not key.startswith(prefix):
                    return records, None
                if seen >= CHUNK:
                    return records, key
                seen += 1
                record = record_of(cursor.value())
                more = cursor.next()
                if record is None:
                    self.damaged += 1
                elif (under is not None and key.startswith(under) or matches(levels, topic_of(record))) and not expired(record, now_ms):
                    records.append(record)
        return records, None

    # -- settings ---------------------------------------------------------------------------------------------------------

    def settings(self, str prefix):
        """[(name, text)] of those whose names begin so; a long name is cut (storage.layout.setting_key)."""
        with self.begin() as transaction:
            found = list(settings(transaction, self.databases["settings"], prefix))
        self.damaged += sum([text is None for _, text in found])
        return [(name, text) for name, text in found if text is not None]


cdef bint is_topic(bytes filter):
    return b"+" not in filter and b"#" not in filter


cdef bint matches(list levels, bytes topic):
    """Does the filter of these levels match this topic [MQTT-4.7]?"""
    cdef list names = topic.split(b"/")
    cdef Py_ssize_t i, count = len(names)
    if topic[:1] == b"$" and (levels[0] == b"+" or levels[0] == b"#"):
        return False
    for i in range(len(levels)):
        level = levels[i]
        if level == b"#":
            return True
        if i >= count or (level != b"+" and level != names[i]):
            return False
    return len(levels) == count


cdef bytes literal_prefix(list levels):
    """What every key of a match begins with."""
    cdef list fixed = []
    for level in levels:
        if level == b"#":
            # "a/#" matches "a" too, so the separator is not part of it
            return b"/".join(fixed)[:400]
        if level == b"+":
            break
        fixed.append(level)
    return (b"/".join(fixed) + (b"/" if fixed else b""))[:400]


cdef uint64_t qseq_of(bytes key):
    cdef const unsigned char* p = key
    cdef uint64_t qseq = 0
    cdef int i
    for i in range(8, 16):
        qseq = qseq << 8 | p[i]
    return qseq


cdef bytes record_of(bytes value):
    """What storage.layout.unsealed says, in C where every retained message goes through."""
    cdef uint32_t crc
    memcpy(&crc, <const char*>value, 4)
    return value[12:] if len(value) > 41 and <uint32_t>zlib.crc32(memoryview(value)[4:]) == crc else None


cdef bytes topic_of(bytes record):
    cdef const char* p = record
    cdef uint16_t length
    memcpy(&length, p + 17, 2)
    return record[29:29 + length]


cdef bint expired(bytes record, uint64_t now_ms):
    cdef uint64_t until
    memcpy(&until, <const char*>record + 9, 8)
    return until != 0 and until <= now_ms
