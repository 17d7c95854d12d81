"""The keeper's hand on the store: workers' operations in, one LMDB transaction out.

`begin`, then any number of `apply` and changes, then `commit` (which fsyncs) or `abort`. Deterministic: the time is an argument.
In memory per durable session: the next qseq and the queue's count and bytes; per shared body: its references. Both are rebuilt
from the store by `load`, which is also what the caller does after an error.

ENTRY of the queue, little-endian: `<BBB` flags (1 body inline, 2 PUBREC received, 4 shared, 8 perhaps), options, number of subscription
identifiers; that many `<I`; if shared `<H` length and SHARE/FILTER; then the message record, or `<QI` its number in `bodies` and its size.

What another host did to a key is judged by its dot (storage/layout.py) and by its *context*: {number of a host: its last commit
that the other one had seen}. Who had seen what we have wins; of two that had not seen each other both sides choose the same.

Hosts with equal contexts hold the same keys and dots. To see that they do there is a digest of each replicated database, kept up
with each change: how many keys it has, and the XOR of what `mix` makes of each key and its dot. Of `bodies` there is none.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from storage.changes cimport add_erased, add_key, add_put

import zlib
from hashlib import blake2b
from heapq import heappop, heappush

import msgspec

from storage.changes import BEATEN, decode, decode_keys
from storage.covered import Covered, Part
from storage.layout import FORMAT_SETTINGS, META_COVERED, META_ENDED, META_FORMAT, META_HAD, META_HALF_DONE, META_HALF_SENT, META_HOLES, META_INSTANCE, META_NEXT, META_PEER, META_QSEQ, META_SEQ, REFUSAL, REPLICATED, sealed, topic_key, u64, unsealed

cdef enum:              # of entries
    HELD_RANK
    MESSAGE_RANK
    RECEIVED_RANK

cdef enum:
    INLINE = 1
    RECEIVED = 2
    SHARED = 4
    HELD = 8                # with RECEIVED: its client may have had the message from a host that does not know (`hold`)

    RETAIN = 4              # of the options

    OP_PUBLISH = 1
    OP_DONE = 2
    OP_RECEIVED = 3
    OP_RELEASED = 4
    OP_DROPPED = 5

    HEADER = 12             # CRC32 and dot of a value, see storage/layout.py
    FLAGS = 12              # positions in the value of an entry
    OPTIONS = 13
    IDENTIFIERS = 14
    ENTRY_HEADER = 15

    PUBLISH_HEADER = 36
    RECORD_HEADER = 29

    QUOTA_EXCEEDED = 0x97

    BEQUEATHED_MAX = 20_000 # messages in a turn: 0.3 s
    MOVED_MAX = 50_000      # entries that other hosts may have copies of: some MB
    HALF_DONE_MAX = 50_000  # entries of sessions that have ended, whose packet ids clients may hold: some MB
    ENDED_MAX = 50_000      # sessions that are known to have ended: some MB
    QSEQ_RESERVED = 256     # numbers of a queue that are made durable at once
    BRANCH_BITS = 40        # of a qseq: above them the branch, one for each takeover from a host that could not be asked
    PACKET_ID_COUNT = 65535 # a packet id is 1 + qseq % 65535
    OVERFLOW = 1024         # a value of that size may have pages of its own, in LMDB
    PART = 2048             # packet ids, and all of them in such parts: on a branch each host gives those of its own parts
    PARTS = 32
    NUMBER_BITS = 40        # of sids, body numbers …: above them the number of the host that gave them

    SESSIONS = 0            # positions in layout.REPLICATED
    SUBS = 1
    QUEUE = 2
    INBOX = 3
    BODIES = 4
    PACKET_IDS = 5
    RETAINED = 6
    WILLS = 7
    SETTINGS = 8

    NOTHING = 0             # what a change by another host means here, see `judge`
    TAKE = 1
    BOTH = 2

cdef uint64_t ODD = 0x9E3779B97F4A7C15      # of the golden ratio: its multiples are spread well
cdef uint64_t ALL = <uint64_t>-1
cdef uint64_t RECEIVED_MS = (<uint64_t>1 << 44) - 1   # of when a message came in; above, what tells equal ones of one ms apart
cdef uint64_t COMMIT_MASK = (<uint64_t>1 << NUMBER_BITS) - 1
cdef bytes RECEIVED_ENTRY = sealed(bytes((INLINE | RECEIVED, 2, 0)), 0)
cdef bytes HELD_ENTRY = sealed(bytes((INLINE | RECEIVED | HELD, 2, 0)), 0)
DROP_REASONS = {1: "dropped_expired", 2: "dropped_too_large", 3: "dropped_denied"}


cdef class Queue:
    """What the keeper remembers of one durable session's queue."""

    cdef readonly uint64_t sid
    cdef readonly uint64_t next_qseq
    cdef uint64_t reserved      # numbers below it will not be given again after a restart
    cdef readonly uint64_t count
    cdef readonly uint64_t size
    cdef uint64_t waiting, waiting_size     # in its inbox
    cdef bint woken
    cdef uint64_t fresh         # behind the last number that we gave to a new entry, on a branch; 0: not since our start

    def __cinit__(self, uint64_t sid):
        self.sid = sid
        self.next_qseq = 1
        self.reserved = 1


cdef inline uint64_t like(uint64_t qseq, uint64_t least) noexcept:
    """The first number from `least` on that has the packet id of `qseq`."""
    return least + (qseq % PACKET_ID_COUNT + PACKET_ID_COUNT - least % PACKET_ID_COUNT) % PACKET_ID_COUNT


cdef inline uint64_t get_u64(const char* p) noexcept:
    cdef uint64_t value
    memcpy(&value, p, 8)
    return value


cdef inline uint32_t get_u32(const char* p) noexcept:
    cdef uint32_t value
    memcpy(&value, p, 4)
    return value


cdef inline uint16_t get_u16(const char* p) noexcept:
    cdef uint16_t value
    memcpy(&value, p, 2)
    return value


cdef inline uint64_t received_at(const char* record) noexcept:
    """When the message of this record came in, ms of the store clock."""
    return get_u64(record + 1) & RECEIVED_MS


cdef inline void put_big(char* p, uint64_t value) noexcept:
    cdef int i
    for i in range(8):
        p[i] = <char>(value >> (56 - 8 * i) & 255)


cdef inline uint64_t get_big(const char* p) noexcept:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value = value << 8 | <uint8_t>p[i]
    return value


cdef bytes queue_key(uint64_t sid, uint64_t qseq):
    cdef bytes key = PyBytes_FromStringAndSize(NULL, 16)
    put_big(PyBytes_AS_STRING(key), sid)
    put_big(PyBytes_AS_STRING(key) + 8, qseq)
    return key


cdef class Writer:
    cdef object environment
    cdef dict databases
    cdef object transaction
    cdef object queue           # cursors of the open transaction
    cdef object bodies
    cdef object queue_db
    cdef object packet_ids
    cdef object retained
    cdef object wills
    cdef list handles           # of layout.REPLICATED
    cdef uint64_t number        # this host's, shifted: the lowest id that it gives
    cdef public unsigned int place, hosts   # of the cluster's hosts by their numbers: how many are before this one, and all
    cdef public set foreign     # sids of the sessions that another host delivers
    cdef public object is_orphan    # sid -> has that host been evicted? None: no host has
    cdef public object may_have_sent    # (sid, qseq) -> may a client have had this entry from here?
    cdef dict lost              # sid of a queue that was ours, without another host's knowing -> last number that its client may have had
    cdef set held               # keys of entries whose packet ids clients may hold, though other hosts have done with them
    cdef readonly dict half_done    # sid of a session that was purged while hosts were apart -> keys of entries whose packet ids its client may hold
    cdef uint64_t half_done_count   # of these keys
    cdef readonly dict half_sent    # sid, likewise -> keys of the packet ids of its client's messages that only we know
    cdef set resumed            # of these keys, those of sessions that go on elsewhere
    cdef readonly dict ended    # sid of a session that has ended, though another host may say that it goes on -> our commit since; oldest first
    cdef list ended_lately      # of these sids, those that are not in META_ENDED and that not all hosts have heard of
    cdef bint are_ended_kept    # is something in META_ENDED?
    cdef public bint drops_orphans  # cluster.on_owner_down
    cdef public bint is_settling    # other hosts may deliver what we believe to be ours
    cdef set unsettled          # keys of the entries of such queues that came meanwhile
    cdef uint64_t dot           # of what is put in the open transaction
    cdef readonly dict known    # number of another host -> its last commit that is in this store
    cdef dict erased            # {(database, key, number): commit}: up to there, this host's puts are over that have not come yet
    cdef dict buried            # number -> the same as a heap: (commit, database, key), and what is no more
    cdef readonly object covered    # parts of other hosts' snapshots: storage/covered.py
    cdef public bint covering   # what is applied is such a part
    cdef dict theirs            # context of the host whose changes are applied
    cdef list ahead             # dots: up to them other hosts are known to the one whose changes are applied, and not to us
    cdef readonly set over      # sids of sessions that have left something to `purge`: nobody delivers that
    cdef readonly list answered # [(sid, number)] of what workers were asked to give to other members: they have
    cdef readonly dict heirs    # sid of a session that is over -> sid of the one of its client that has what it had
    cdef public set late        # sids of sessions that were over when a shared message came for them
    cdef dict moved             # (sid, hash of an entry) -> its number, of those of which other hosts may have copies, oldest first
    cdef set copied             # keys as in `moved`, of those of which a host that was removed may have copies, and bring them back
    cdef dict had               # (sid, `digest` of an entry) -> its number in META_HAD, oldest first: clients had these while hosts were apart
    cdef public bint is_apart   # another host may have copies of what is here without our knowing, or we of what is there
    cdef uint64_t told          # our last commit that any such host has
    cdef readonly set strays    # sids with entries from other hosts, of sessions that we do not know
    cdef public bint recording  # are changes kept for peers?
    cdef readonly bytearray changes     # since `begin`, see storage/changes.py
    cdef bytearray touched
    cdef readonly bint settings_changed     # since `begin`, by whomever
    cdef bint mixed             # changes of ours came before some of another host
    cdef bint applying          # changes of another host
    cdef public bint repairing  # what they bring of another host's is missing here, whatever we have seen
    cdef uint64_t[9] kept       # of each of layout.REPLICATED, while recording: how many keys …
    cdef uint64_t[9] digest     # … and the XOR of what `mix` makes of them
    cdef set loose              # bodies that nothing refers to, not yet or no more: since the last `sweep` …
    cdef set looser             # … and before it
    cdef readonly uint64_t seq  # of the last commit that peers have to have
    cdef readonly dict queues   # sid -> Queue
    cdef dict references        # number of a shared body -> entries that name it
    cdef readonly list woken    # [(sid, last qseq)] since `begin`
    cdef readonly list refused  # [(batch, op index, reason)] since `begin`
    cdef readonly list fired_wills      # ids whose publish is in this transaction
    cdef readonly dict tally    # counter name -> increase since `begin`
    cdef readonly uint64_t operations
    cdef readonly uint64_t queued_messages
    cdef readonly uint64_t queued_bytes
    cdef readonly uint64_t retained_messages
    cdef uint64_t next_sid
    cdef uint64_t next_body
    cdef uint64_t next_will
    cdef bint next_changed
    cdef uint64_t bequeathed    # messages since `begin`
    cdef readonly uint64_t renewed_bytes    # since `begin`
    cdef public uint64_t welcome_ms     # when the worker whose operations these are was: what it had received before comes late, or again
    cdef public bint full       # the disk: nothing new is taken, deleting goes on
    cdef uint64_t messages_max
    cdef uint64_t bytes_max
    cdef uint64_t retained_max
    cdef uint64_t retained_bytes_max
    cdef str policy

    def __init__(self, environment, databases, limits, number=0):
        """`limits`: max_queued_messages, max_queued_bytes, queue_policy, max_retained_messages, max_retained_bytes.

        `number`: this host's, below 2 ** 23.
        """
        self.environment = environment
        self.databases = databases
        self.handles = [databases[name] for name in REPLICATED]
        self.number = <uint64_t>number << NUMBER_BITS
        self.place, self.hosts = 0, 1
        self.may_have_sent = lambda sid, qseq: True
        self.foreign = set()
        self.heirs = {}
        self.queue_db = databases["queue"]
        self.messages_max = limits.max_queued_messages
        self.bytes_max = limits.max_queued_bytes
        self.retained_max = limits.max_retained_messages
        self.retained_bytes_max = limits.max_retained_bytes
        self.policy = limits.queue_policy
        self.load()

    # -- transactions -----------------------------------------------------------------------------------------------------

    def load(self):
        """Rebuild what is kept in memory from the store."""
        cdef bytes key
        cdef bint is_ours
        cdef Queue queue
        cdef uint64_t body
        cdef list last = []
        self.queues = {}
        self.references = {}
        self.queued_messages = self.queued_bytes = 0
        self.strays = set()
        self.loose, self.looser = set(), set()
        self.unsettled = set()
        self.lost, self.held = {}, set()
        self.half_done, self.half_done_count = {}, 0
        self.half_sent, self.resumed = {}, set()
        self.ended_lately = []
        self.is_apart, self.told = True, 0      # until `set_apart` says otherwise
        self.copied = set()
        self.clear()
        with self.environment.begin() as transaction:
            found = transaction.get(META_NEXT, db=self.databases["meta"])
            self.next_sid, self.next_body, self.next_will = msgspec.msgpack.decode(found) if found else (1, 1, 1)
            self.seq = int.from_bytes(transaction.get(META_SEQ, b"", db=self.databases["meta"]), "big")
            self.recording = self.seq > 0       # whoever has had peers may have them again
            self.load_known(transaction)
            for key, entry in transaction.cursor(db=self.queue_db):
                self.count_entry(self.queue_of(int.from_bytes(key[:8], "big")), entry)
                is_ours = dot_of(entry) >> NUMBER_BITS == self.number >> NUMBER_BITS
                if len(entry) >= ENTRY_HEADER and entry[FLAGS] & RECEIVED and (entry[FLAGS] & HELD or not is_ours):
                    self.unsettled.add(key)     # came, or was held, perhaps while an earlier keeper settled
                self.may_have_moved(last, key, entry)
            self.moved = {(get_big(<const char*>key), of): get_big(<const char*>key + 8) for _, key, of in sorted(last)}
            for key, entry in transaction.cursor(db=self.databases["inbox"]):
                self.refer(entry)
                self.queue_of(int.from_bytes(key[:8], "big"))
                self.count_waiting(key, None, entry)
            self.load_numbers(transaction)
            ended = [(get_big(<const char*><bytes>value), get_big(<const char*><bytes>name)) for name, value in self.meta(transaction, META_ENDED)]
            self.ended, self.are_ended_kept = {sid: seq for seq, sid in sorted(ended)}, bool(ended)
            for key, _ in self.meta(transaction, META_HALF_DONE):
                self.half_done.setdefault(get_big(<const char*><bytes>key), []).append(key)
                self.half_done_count += 1
            for key, _ in self.meta(transaction, META_HALF_SENT):
                self.half_sent.setdefault(get_big(<const char*><bytes>key), []).append(key)
            for key in transaction.cursor(db=self.databases["bodies"]).iternext(values=False):
                if int.from_bytes(key, "big") not in self.references:
                    self.loose.add(int.from_bytes(key, "big"))
            for key in transaction.cursor(db=self.databases["packet_ids"]).iternext(values=False):
                self.queue_of(int.from_bytes(key[:8], "big"))   # of a session that is over: so that it is purged
            self.retained_messages = transaction.stat(self.databases["retained"])["entries"]
            if self.recording:
                self.sum_up(transaction)

    cdef int may_have_moved(self, list last, bytes key, bytes entry) except -1:
        """Before our start: of what waits here of QoS 2 and was put by us the `last` entries are taken for such (`remember_moved`)."""
        cdef uint64_t dot = dot_of(entry)
        cdef bint is_many = len(last) == MOVED_MAX
        if not self.recording or dot >> NUMBER_BITS != self.number >> NUMBER_BITS or not is_once(entry):
            return 0
        if is_many and dot <= <uint64_t>last[0][0]:
            return 0
        heappush(last, (dot, key, hash(entry[HEADER:])))
        if is_many:
            heappop(last)
        return 0

    cdef load_known(self, transaction):
        self.known = {int.from_bytes(name, "big"): int.from_bytes(value, "big") for name, value in self.meta(transaction, META_PEER)}
        self.covered = Covered()
        for name, value in self.meta(transaction, META_COVERED):
            self.covered.put(int.from_bytes(name, "big"), msgspec.msgpack.decode(value, type=Part))
        holes = msgspec.msgpack.decode(transaction.get(META_HOLES, b"\x80", db=self.databases["meta"]))
        self.covered.holes = {host: seq for host, seq in holes.items() if self.known.get(host, 0) < seq}
        self.had = {
            (int.from_bytes(value[:8], "big"), value[8:]): int.from_bytes(name, "big") for name, value in self.meta(transaction, META_HAD)
        }
        self.erased, self.buried = {}, {}
        self.over, self.late, self.answered = set(), set(), []
        for key in transaction.cursor(db=self.databases["erased"]).iternext(values=False):
            self.keep_burial(key[0], key[9:], int.from_bytes(key[1:9], "big"))

    cdef list meta(self, transaction, bytes prefix):
        """[(rest of the key, value)]"""
        cdef list found = []
        cursor = transaction.cursor(db=self.databases["meta"])
        more = cursor.set_range(prefix)
        while more and cursor.key().startswith(prefix):
            found.append((cursor.key()[len(prefix):], cursor.value()))
            more = cursor.next()
        return found

    cdef int keep_burial(self, int database, bytes key, uint64_t dot) except -1:
        self.erased[database, key, dot >> NUMBER_BITS] = dot & COMMIT_MASK
        heappush(self.buried.setdefault(dot >> NUMBER_BITS, []), (dot & COMMIT_MASK, database, key))
        return 0

    cdef sum_up(self, transaction):
        """The digests, from all that is there."""
        cdef bytes key, value
        cdef int database
        for database in range(len(REPLICATED)):
            self.kept[database] = self.digest[database] = 0
            if database != BODIES:
                for key, value in transaction.cursor(db=self.handles[database]):
                    self.change_digest(database, key, None, value)

    cdef int change_digest(self, int database, bytes key, bytes ours, bytes value) except -1:
        """`key` held `ours` and holds `value` now; None: nothing."""
        if ours is not None:
            self.kept[database] -= 1
            self.digest[database] ^= mix(key, dot_of(ours))
        if value is not None:
            self.kept[database] += 1
            self.digest[database] ^= mix(key, dot_of(value))
        return 0

    def digests(self):
        """{database: (keys, digest)} of the store with this context, None while a commit changes it. Settings only if there are any: earlier
        releases do not know them."""
        if self.transaction is not None and self.touched or not self.recording:
            return None
        return {name: (self.kept[i], self.digest[i]) for i, name in enumerate(REPLICATED) if i != BODIES and (i != SETTINGS or self.kept[i])}

    cdef int count_entry(self, Queue queue, bytes entry) except -1:
        queue.count += 1
        queue.size += charge(entry)
        self.queued_messages += 1
        self.queued_bytes += charge(entry)
        return self.refer(entry)

    cdef int refer(self, bytes entry) except -1:
        """An entry that is there now may name a body."""
        cdef uint64_t body = body_of(entry)
        if body:
            self.references[body] = self.references.get(body, 0) + 1
            if body >> NUMBER_BITS == self.number >> NUMBER_BITS:
                self.next_body = max(self.next_body, (body & ((<uint64_t>1 << NUMBER_BITS) - 1)) + 1)
        return 0

    cdef int forget(self, bytes entry) except -1:
        """An entry is gone; so is its body with the last reference."""
        cdef uint64_t body = body_of(entry)
        if body:
            count = self.references.get(body, 1) - 1
            if count:
                self.references[body] = count
            elif self.applying or self.covered.parts:   # other entries of a snapshot may refer to it
                self.references.pop(body, None)
                self.loose.add(body)
            else:
                self.references.pop(body, None)
                self.transaction.delete(u64(body), db=self.handles[BODIES])     # each host finds out by itself
        return 0

    cdef load_numbers(self, transaction):
        """A number once used is never given again: a client may still hold its packet id, a worker may have read past it."""
        cdef Queue queue
        for name, value in self.meta(transaction, META_QSEQ):
            queue = self.queue_of(int.from_bytes(name, "big"))
            queue.next_qseq = queue.reserved = int.from_bytes(value, "big")

    cdef reserve(self, Queue queue):
        queue.reserved = queue.next_qseq + QSEQ_RESERVED
        self.transaction.put(META_QSEQ + u64(queue.sid), u64(queue.reserved), db=self.databases["meta"])

    cdef void clear(self):
        self.woken = []
        self.refused = []
        self.fired_wills = []
        self.tally = {}
        self.operations = 0
        self.next_changed = False
        self.changes = bytearray()
        self.touched = bytearray()
        self.mixed = self.settings_changed = False
        self.bequeathed = self.renewed_bytes = 0

    def begin(self):
        self.clear()
        self.dot = self.number | (self.seq + 1)
        self.transaction = self.environment.begin(write=True)
        self.queue = self.transaction.cursor(db=self.queue_db)
        self.bodies = self.transaction.cursor(db=self.databases["bodies"])
        self.packet_ids = self.databases["packet_ids"]
        self.retained = self.databases["retained"]
        self.wills = self.databases["wills"]

    def commit(self):
        """Make everything since `begin` durable. On lmdb.Error nothing of it is, and `load` has to follow."""
        if self.next_changed:
            self.put("meta", META_NEXT, msgspec.msgpack.encode((self.next_sid, self.next_body, self.next_will)))
        if self.touched:
            self.seq += 1
            if self.mixed:
                self.changes = self.encoded(self.transaction, self.touched, self.dot)
            self.put("outbox", u64(self.seq), bytes(self.touched))
            self.put("meta", META_SEQ, u64(self.seq))
        self.close_cursors()
        self.transaction.commit()
        self.transaction = None

    def abort(self):
        """Forget everything since `begin`; `load` has to follow if there was anything."""
        self.close_cursors()
        self.transaction.abort()
        self.transaction = None

    cdef close_cursors(self):
        self.queue.close()
        self.bodies.close()
        self.queue = self.bodies = None

    def put(self, str database, bytes key, bytes value):
        self.operations += 1
        if database in REPLICATED:
            ours = self.transaction.get(key, db=self.databases[database]) if self.recording else None
            self.store(REPLICATED.index(database), key, ours, sealed(value, self.dot))
        else:
            self.transaction.put(key, value, db=self.databases[database])

    def delete(self, str database, bytes key):
        """True if it was there."""
        self.operations += 1
        if database in REPLICATED:
            return self.erase(REPLICATED.index(database), key)
        return self.transaction.delete(key, db=self.databases[database])

    def keep_here(self, str database, bytes key, value):
        """Put the value as it came or, with None, delete it: another host has done so, it is no change of ours."""
        self.put_plain(REPLICATED.index(database), key, self.transaction.get(key, db=self.databases[database]), value)

    def keys(self, str database, bytes prefix):
        """All keys of a replicated database that begin with `prefix`."""
        return [key for key, _ in self.entries(REPLICATED.index(database), prefix)]

    cdef int store(self, int database, bytes key, bytes ours, bytes value) except -1:
        """`ours`: what is there, if anything."""
        self.make_room(database, key, ours, value)
        if database == QUEUE:
            self.queue.put(key, value)
        elif database == BODIES:
            if not self.bodies.put(key, value, append=True):    # another host's are above ours
                self.bodies.put(key, value)
        else:
            self.transaction.put(key, value, db=self.handles[database])
            if database == SETTINGS:
                self.note_setting()
            if database == INBOX:
                self.count_waiting(key, ours, value)
        if self.recording:
            if ours is not None and is_plain(database):
                self.outdo(database, key, dot_of(ours))
            self.record(database, key, value)
            if database != BODIES:
                self.change_digest(database, key, ours, value)
        return 0

    cdef bint erase(self, int database, bytes key) except -1:
        """True if it was there."""
        cdef bytes value = self.transaction.pop(key, db=self.handles[database])
        if value is None:
            return False
        if database == SETTINGS:
            self.note_setting()
        if database == INBOX:
            self.count_waiting(key, value, None)
        self.record_erased(database, key, value)
        return True

    cdef int note_setting(self) except -1:
        self.settings_changed = True
        self.transaction.put(META_FORMAT, FORMAT_SETTINGS.to_bytes(4, "big"), db=self.databases["meta"])
        return 0

    cdef int record(self, int database, bytes key, bytes value) except -1:
        add_put(self.changes, database, key, value)
        return add_key(self.touched, database, key, 0)

    cdef int record_erased(self, int database, bytes key, bytes value) except -1:
        """`value` is not there any more."""
        self.mixed = self.mixed or dot_of(value) == self.dot    # then what this commit puts there next has that dot, too
        if self.recording:
            self.change_digest(database, key, value, None)
        return self.record_over(database, key, dot_of(value))

    cdef int record_over(self, int database, bytes key, uint64_t dot, dict context=None) except -1:
        """What `dot` put is gone, or shall be. `context`: of the host that has told us of it."""
        if self.recording:
            add_erased(self.changes, database, key, dot)
            add_key(self.touched, database, key, dot)
        return self.outdo(database, key, dot, context if self.covering else None)

    cdef int outdo(self, int database, bytes key, uint64_t dot, dict part=None) except -1:
        """What `dot` put is over by a change of ours. If it came with a part of a snapshot our context does not say that we knew it:
        others would take what we put there for concurrent. Nor does it say that we knew what that had replaced: who has not heard of
        `dot` yet would keep it. `part`: the context of the one that is applied."""
        cdef uint64_t number, seq, replaced
        if self.saw(dot):
            return 0
        if is_plain(database):
            self.beat(database, key, dot)
        if (is_plain(database) or database == QUEUE) and (part or self.covered.parts):
            for number, seq in self.covered.context_at((database, key), part or {}).items():
                replaced = number << NUMBER_BITS | seq      # or before, see `bury`
                if replaced != dot and not self.saw(replaced):
                    self.beat(database, key, replaced)
                    self.bury(database, key, replaced)
        return self.bury(database, key, dot)

    def get(self, str database, bytes key):
        """The record, None if there is none or if the disk has changed it."""
        value = self.transaction.get(key, db=self.databases[database])
        return unsealed(value) if value is not None and database in REPLICATED else value

    def dot_at(self, str database, bytes key):
        """Of what is there."""
        return dot_of(self.transaction.get(key, db=self.databases[database]))

    def dot_in(self, bytes value):
        return dot_of(value)

    def delete_retained(self, bytes topic):
        if not self.delete("retained", topic_key(topic)):
            return False
        self.retained_messages -= 1
        return True

    def cursor(self, str database):
        return self.transaction.cursor(db=self.databases[database])

    def new_sid(self):
        self.next_changed = True
        self.next_sid += 1
        return self.number | (self.next_sid - 1)

    def new_will_id(self):
        self.next_changed = True
        self.next_will += 1
        return self.number | (self.next_will - 1)

    cpdef Queue queue_of(self, uint64_t sid):
        queue = self.queues.get(sid)
        if queue is None:
            queue = self.queues[sid] = Queue.__new__(Queue, sid)
        return <Queue>queue

    # -- operations of the workers ----------------------------------------------------------------------------------------

    def apply(self, bytes batch, uint64_t worker, uint64_t instance, uint64_t now_ms, list untold=[]):
        """Apply the body of an OPS frame that the process `instance` of this worker has not had committed yet. `untold`: what was
        refused before, of which it may not have heard."""
        cdef const char* p = batch
        cdef const char* end = p + len(batch)
        cdef uint64_t number = get_u64(p)
        cdef uint32_t size, index = 0
        cdef uint8_t kind
        cdef Py_ssize_t before = len(self.refused)
        p += 8
        while end - p >= 5:
            kind = <uint8_t>p[0]
            size = get_u32(p + 1)
            p += 5
            if end - p < size:
                raise ValueError("an operation is cut off")
            if kind == OP_PUBLISH:
                self.publish(p, size, number, index, now_ms)
            elif kind == OP_DONE:
                self.done(get_u64(p), get_u64(p + 8))
            elif kind == OP_RECEIVED:
                self.received(get_u64(p), get_u64(p + 8))
            elif kind == OP_RELEASED:
                self.released(get_u64(p), p + 8)
            elif kind == OP_DROPPED:
                if self.done(get_u64(p), get_u64(p + 8)) or self.done_late(get_u64(p), get_u64(p + 8)):
                    self.count(DROP_REASONS.get(<uint8_t>p[16], "dropped_denied"))
            else:
                raise ValueError(f"unknown operation {kind}")
            p += size
            index += 1
        self.operations += index
        untold = untold + self.refused[before:]
        refusals = b"".join([REFUSAL.pack(*each) for each in untold]) if untold else b""
        self.put("meta", META_INSTANCE + u64(worker), u64(instance) + u64(number) + refusals)
        self.operations -= 1

    cdef count(self, str name):
        self.tally[name] = self.tally.get(name, 0) + 1

    cdef refuse(self, uint64_t batch, uint32_t index, str name):
        self.refused.append((batch, index, QUOTA_EXCEEDED))
        self.count(name)

    cdef publish(self, const char* p, uint32_t size, uint64_t batch, uint32_t index, uint64_t now_ms):
        cdef uint64_t publisher = get_u64(p), will = get_u64(p + 10), moved = get_u64(p + 18)
        cdef uint16_t packet_id = get_u16(p + 8), count = get_u16(p + 34), i
        cdef const char* targets = p + PUBLISH_HEADER
        cdef const char* record = targets
        cdef const char* end = p + size
        cdef bytes key
        if size < PUBLISH_HEADER:
            raise ValueError("a PUBLISH operation is cut off")
        for i in range(count):
            record += 10 + 4 * <uint8_t>record[9] + (2 + get_u16(record + 10 + 4 * <uint8_t>record[9]) if record[8] & 8 else 0)
            if record > end:
                raise ValueError("a PUBLISH operation is cut off")
        if publisher and received_at(record) < self.welcome_ms and publisher in self.foreign:
            return     # it waited in its worker; its client went on at another host meanwhile, and sends it there
        if will:
            if not self.erase(WILLS, u64(will)):
                return
            self.fired_wills.append(will)
        if moved:
            self.answered.append((moved, get_u64(p + 26)))
        if moved and not self.done(moved, get_u64(p + 26)) and not self.done_late(moved, get_u64(p + 26)):
            return
        if not moved and get_u64(p + 26) and not self.is_retained(record, end - record):
            return
        if packet_id:
            key = u64(publisher) + packet_id.to_bytes(2, "big")
            content = zlib.crc32(record[17:end - record]).to_bytes(4, "little")    # without the times
            flow = self.transaction.get(key, db=self.packet_ids)
            if self.is_repeated(flow, content):
                return
            self.store(PACKET_IDS, key, flow, sealed(content + record[1:9], self.dot))
        if self.full and not will and not moved and (count or not record[0] & 4 or get_u32(record + 25)):  # deletion makes room
            if packet_id:
                self.erase(PACKET_IDS, key)
            self.refuse(batch, index, "refused_disk_full")
            return
        if self.policy == "refuse" and not moved and not self.room(targets, count, end - record):
            if packet_id:
                self.erase(PACKET_IDS, key)
            self.refuse(batch, index, "refused_quota")
            return
        if record[0] & 4 and not self.retain(record, end - record, will > 0):
            if packet_id:
                self.erase(PACKET_IDS, key)
            self.refuse(batch, index, "refused_quota")
            return
        if count:
            self.enqueue(targets, count, record, <uint32_t>(end - record))

    cdef bint is_repeated(self, bytes flow, bytes content) except -1:
        """Has this QoS 2 message come before? `flow`: of the packet id, None if none is open.

        With other hosts the flow may have ended at one of them without our knowing, during a cut for example: then another message has its packet id.
        """
        if flow is None:
            return False
        return not self.known or flow[HEADER:HEADER + 4] == content

    cpdef bint is_taken(self, uint64_t sid):
        """Was the session ever taken from a host that could not be asked?"""
        return self.queue_of(sid).next_qseq >> BRANCH_BITS > 0

    cdef bint room(self, const char* target, uint16_t count, uint64_t size) except -1:
        cdef uint16_t i
        cdef Queue queue
        for i in range(count):
            queue = self.queues.get(self.living(get_u64(target)))
            if queue is not None and self.is_full(queue, size, self.is_orphaned(queue)):
                return False
            target += 10 + 4 * <uint8_t>target[9] + (2 + get_u16(target + 10 + 4 * <uint8_t>target[9]) if target[8] & 8 else 0)
        return True

    cdef uint64_t living(self, uint64_t sid) except? 0:
        """Whose queue takes what a worker has for this session: it may not have heard yet that another one has what this one had."""
        return self.heirs.get(sid, sid) if self.heirs else sid

    cdef bint is_retained(self, const char* record, uint64_t size) except -1:
        """Is that what its topic retains? It was read for a new subscriber, who has been sent what came since then."""
        cdef uint16_t topic = get_u16(record + 17)
        cdef bytes key = topic_key(record[RECORD_HEADER:RECORD_HEADER + topic])
        cdef bytes ours = self.transaction.get(key, db=self.retained)
        cdef uint64_t rest = <uint64_t>get_u32(record + 21) + get_u32(record + 25)
        return ours is not None and ours[HEADER + 1:HEADER + 17] == record[1:17] and ours.endswith(record[size - rest:size])

    cdef bint retain(self, const char* record, uint64_t size, bint is_will) except -1:
        """Set or delete the retained message of the record's topic; False if a limit forbids it.

        A will's record says when its client connected, not when it was due.
        """
        cdef uint16_t topic = get_u16(record + 17)
        cdef bytes key = topic_key(record[RECORD_HEADER:RECORD_HEADER + topic])
        cdef bytes value, ours = self.transaction.get(key, db=self.retained)
        if not is_will and self.known and ours is not None and received_at(record) < min(self.welcome_ms, received_at(<const char*>ours + HEADER)):
            return True     # it waited in its worker, and another host has had a later one meanwhile
        if get_u32(record + 25) == 0:
            if self.erase(RETAINED, key):
                self.retained_messages -= 1
                self.count("retained_deleted")
            return True
        if size > self.retained_bytes_max:
            return False
        value = self.enclosed(record, size)
        if ours is None:
            if self.retained_messages >= self.retained_max:
                return False
            self.retained_messages += 1
        self.store(RETAINED, key, ours, value)
        return True

    cdef enqueue(self, const char* target, uint16_t count, const char* record, uint32_t size):
        cdef bint inline = count == 1
        cdef uint16_t i
        cdef uint32_t head
        cdef uint64_t body = self.number | self.next_body
        cdef char[12] reference
        cdef bytes value
        memcpy(reference, &body, 8)
        memcpy(reference + 8, &size, 4)
        for i in range(count):
            head = 2 + 4 * <uint8_t>target[9] + (2 + get_u16(target + 10 + 4 * <uint8_t>target[9]) if target[8] & 8 else 0)
            self.enqueue_one(self.living(get_u64(target)), target + 8, head, record if inline else reference,
                             size if inline else 12, inline)
            target += 8 + head
        if not inline and body in self.references:
            self.next_body += 1
            self.next_changed = True
            self.store(BODIES, u64(body), None, self.enclosed(record, size))

    cdef bytes enclosed(self, const char* record, uint64_t size):
        cdef bytes value = PyBytes_FromStringAndSize(NULL, HEADER + size)
        memcpy(PyBytes_AS_STRING(value) + HEADER, record, size)
        seal(value, self.dot)
        return value

    cdef bint enqueue_one(self, uint64_t sid, const char* head, uint32_t head_size, const char* rest,
                          uint32_t rest_size, bint inline) except -1:
        """Did the session's queue take the entry? `head`: options, identifiers and share as in the operation."""
        cdef Queue queue = None if sid in self.over else self.queues.get(sid)
        cdef uint32_t size = OPTIONS + head_size + rest_size
        cdef uint64_t charged = size + (0 if inline else get_u32(rest + 8))
        cdef bytes value
        cdef char* p
        if queue is None and not head[0] & 8:
            self.count("dropped_session_ended")
            return False
        if queue is not None and not self.takes(queue, charged):
            return False
        value = PyBytes_FromStringAndSize(NULL, size)
        p = PyBytes_AS_STRING(value)
        p[FLAGS] = <char>((INLINE if inline else 0) | (SHARED if head[0] & 8 else 0))
        memcpy(p + OPTIONS, head, head_size)
        p[OPTIONS] = head[0] & 7
        memcpy(p + OPTIONS + head_size, rest, rest_size)
        if queue is None or (self.foreign and sid in self.foreign):
            seal(value, self.dot)
            self.store(INBOX, u64(sid) + u64(self.number | self.next_body), None, value)
            self.refer(value)
            self.next_body += 1
            self.next_changed = True
            if queue is None:
                self.late.add(sid)
        else:
            self.append(queue, value)
        return True

    cdef bint takes(self, Queue queue, uint64_t charged) except -1:
        """Is there room for an entry, or made for it?"""
        cdef bint is_orphaned = self.is_orphaned(queue)
        if is_orphaned:
            if self.drops_orphans:
                self.count("dropped_owner_down")
                return False
            self.count("owner_down_queued")
        while (queue.count or is_orphaned and queue.waiting) and self.is_full(queue, charged, is_orphaned):
            if self.policy == "refuse":
                break       # there was room before this message, or it is one that moves: it is not lost now
            is_many = queue.count + (queue.waiting if is_orphaned else 0) >= self.messages_max
            self.count("dropped_queue_full" if is_many else "dropped_queue_bytes")
            if self.policy != "drop_oldest" or not self.drop_oldest(queue.sid):
                return False
        return True

    cdef bint is_orphaned(self, Queue queue) except -1:
        return self.is_orphan is not None and queue.sid in self.foreign and self.is_orphan(queue.sid)

    cdef bint is_full(self, Queue queue, uint64_t charged, bint is_orphaned) noexcept:
        """Nobody moves the inbox of an orphaned queue: what waits there counts, too."""
        cdef uint64_t count = queue.count, size = queue.size
        if is_orphaned:
            count += queue.waiting
            size += queue.waiting_size
        return count >= self.messages_max or size + charged > self.bytes_max

    cdef int count_waiting(self, bytes key, bytes ours, bytes value) except -1:
        """An inbox holds `value` now, in the place of `ours`."""
        cdef Queue queue = self.queues.get(get_big(<const char*>key))
        if queue is None:   # it is over
            return 0
        if ours is not None and queue.waiting:
            queue.waiting -= 1
            queue.waiting_size -= min(queue.waiting_size, charge(ours))
        if value is not None:
            queue.waiting += 1
            queue.waiting_size += charge(value)
        return 0

    cdef int append(self, Queue queue, bytes entry) except -1:
        """An entry that nobody else has seen yet gets the queue's next number; who delivers it is woken."""
        cdef uint64_t qseq = queue.next_qseq
        if qseq >> BRANCH_BITS:
            if queue.fresh and qseq != queue.fresh:
                qseq = like(queue.fresh, qseq + PACKET_ID_COUNT)
            if not queue.fresh or not self.gives(qseq):
                qseq = self.apart(qseq, qseq + PACKET_ID_COUNT)
            queue.fresh = qseq + 1
        return self.append_as(queue, qseq, entry)

    cdef int append_as(self, Queue queue, uint64_t qseq, bytes entry) except -1:
        """`qseq` is the queue's next number, or one above it."""
        seal(entry, self.dot)
        queue.next_qseq = qseq + 1
        if queue.next_qseq > queue.reserved:
            self.reserve(queue)
        self.store(QUEUE, queue_key(queue.sid, qseq), None, entry)
        self.count_entry(queue, entry)
        self.wake(queue)
        return 0

    cpdef wake(self, Queue queue):
        """Whoever delivers this queue is to be told of it, see `wakes`."""
        if not queue.woken:
            queue.woken = True
            self.woken.append(queue)

    def wakes(self):
        """[(sid, last qseq)] of the queues that grew since `begin`, or for which `wake` was called."""
        cdef Queue queue
        cdef list grown = []
        for queue in self.woken:
            queue.woken = False
            grown.append((queue.sid, queue.next_qseq - 1))
        return grown

    cdef bint drop_oldest(self, uint64_t sid) except -1:
        cdef bytes key
        if self.queue.set_range(u64(sid)):
            key = self.queue.key()
            if get_big(<const char*>key) == sid:
                return self.done(sid, get_big(<const char*>key + 8))
        for key, _ in self.entries(INBOX, u64(sid), 1):
            return self.done_late(sid, get_big(<const char*>key + 8))
        return False

    cdef bint done(self, uint64_t sid, uint64_t qseq) except -1:
        """Delete an entry, and its body with the last reference; False if it was not there."""
        cdef bytes key = queue_key(sid, qseq), value = self.queue.pop(key)
        if value is None:
            return False
        self.record_erased(QUEUE, key, value)
        self.discount_entry(sid, value)
        return True

    cdef bint done_late(self, uint64_t sid, uint64_t number) except -1:
        """The same for what came when its session was over, see `purge`."""
        cdef bytes key = u64(sid) + u64(number), value = self.transaction.get(key, db=self.handles[INBOX])
        if value is None or not self.erase(INBOX, key):
            return False
        self.forget(value)
        return True

    cdef int discount_entry(self, uint64_t sid, bytes entry) except -1:
        queue = self.queues.get(sid)
        if queue is not None:
            (<Queue>queue).count -= 1
            (<Queue>queue).size -= charge(entry)
        self.queued_messages -= 1
        self.queued_bytes -= charge(entry)
        return self.forget(entry)

    cdef received(self, uint64_t sid, uint64_t qseq):
        """The client has the message: what is left of it is its packet id."""
        cdef bytes key = queue_key(sid, qseq), value = self.transaction.get(key, db=self.queue_db)
        cdef bytes left
        if value is None or value[FLAGS] & RECEIVED:
            return
        if is_once(value) and (self.is_apart or (self.copied and (sid, hash(value[HEADER:])) in self.copied)):
            self.keep_had(sid, value)
        left = sealed(RECEIVED_ENTRY[HEADER:], self.dot)
        self.store(QUEUE, key, value, left)
        self.discount_entry(sid, value)
        self.count_entry(self.queue_of(sid), left)

    cdef int keep_had(self, uint64_t sid, bytes entry) except -1:
        """If another host has a copy its client is not sent that, though this keeper starts anew before it comes (`has_moved`)."""
        cdef bytes what = digest(entry)
        cdef object number = next(reversed(self.had.values()), 0) + 1
        if (sid, what) not in self.had:
            self.had[sid, what] = number
            self.transaction.put(META_HAD + u64(number), u64(sid) + what, db=self.databases["meta"])
            self.forget_had(len(self.had) - MOVED_MAX)
        return 0

    def set_apart(self, bint is_apart, bint may_return, uint64_t told, int most):
        """Once hosts are together, what was kept for when they meet is forgotten: so much at a time, the oldest first. A host that
        settles has not heard yet whether they are. `may_return`: one that was removed, with its disk: it has nothing that came since."""
        cdef bint was_apart = self.is_apart
        self.is_apart, self.told = is_apart or self.is_settling, told
        self.keep_ended(most)
        if self.is_apart:
            return
        if not may_return:
            self.copied.clear()
        elif was_apart:
            self.copied.update(self.moved)
        while self.half_done and most > 0:
            most -= self.forget_half_done(next(iter(self.half_done)))
        while self.half_sent and most > 0:
            most -= self.forget_half_sent(next(iter(self.half_sent)))
        if not may_return:
            self.forget_had(most)

    cdef int keep_ended(self, int most) except -1:
        """While hosts are apart, for a keeper that starts anew before they meet."""
        meta = self.databases["meta"]
        if self.is_apart:
            for sid in self.ended_lately:
                self.transaction.put(META_ENDED + u64(sid), u64(self.ended.get(sid, 0)), db=meta)
                self.are_ended_kept = True
        elif self.are_ended_kept:
            with self.transaction.cursor(db=meta) as cursor:
                self.are_ended_kept = cursor.set_range(META_ENDED) and cursor.key().startswith(META_ENDED)
                while most and cursor.key().startswith(META_ENDED) and cursor.delete():
                    most -= 1
        self.ended_lately = [] if self.is_apart else [sid for sid in self.ended_lately if self.ended.get(sid, 0) > self.told]
        while len(self.ended) > ENDED_MAX:
            sid = next(iter(self.ended))
            del self.ended[sid]
            self.transaction.delete(META_ENDED + u64(sid), db=meta)
        return 0

    cdef forget_had(self, int most):
        """The oldest ones."""
        while self.had and most > 0:
            self.transaction.delete(META_HAD + u64(self.had.pop(next(iter(self.had)))), db=self.databases["meta"])
            most -= 1

    cdef released(self, uint64_t sid, const char* packet_id):
        self.erase(PACKET_IDS, u64(sid) + int.to_bytes(get_u16(packet_id), 2, "big"))

    # -- the end of a session ---------------------------------------------------------------------------------------------

    def purge(self, uint64_t sid, int most, uint64_t sent_qseq):
        """Delete up to `most` entries of a session that is over; what it owned else goes too.

        Returns (whether more are left, [(number, share, record, is_late)] of shared messages that another member should get and which
        stay until that happens). `is_late`: did it come here, from a publisher, when the session was over? None: it was in the queue.
        """
        cdef list again = [], found = self.entries(QUEUE, u64(sid), most)
        cdef uint64_t number
        self.over.add(sid)
        for key, value in found:
            number = get_big(<const char*><bytes>key + 8)
            if not self.may_move(number, value, sent_qseq, None, again):
                self.forget_moved(sid, value)
                self.note_half_done(sid, key, value, number <= sent_qseq)
                self.done(sid, number)
                self.count("dropped_session_ended")
        self.operations += len(found)
        if len(found) >= most:
            return True, again
        for key, value in self.entries(INBOX, u64(sid)):
            number = get_big(<const char*><bytes>key + 8)
            if not self.may_move(number, value, 0, number >> NUMBER_BITS == self.number >> NUMBER_BITS, again):
                self.erase(INBOX, key)
                self.forget(value)
                self.operations += 1
        if not again:
            self.purge_rest(sid)
        return False, again

    cdef int note_half_done(self, uint64_t sid, bytes key, bytes value, bint is_sent) except -1:
        """Should the session go on at a host that has never had this entry its client may wait for PUBREL (`goes_on`). Who has it goes on
        with that: its client may not have had the message at all."""
        if not self.is_only_here(value) or len(value) < ENTRY_HEADER or value[OPTIONS] & 3 != 2 or not (is_sent or value[FLAGS] & RECEIVED):
            return 0
        self.half_done.setdefault(sid, []).append(key)
        self.half_done_count += 1
        self.transaction.put(META_HALF_DONE + key, b"", db=self.databases["meta"])
        while self.half_done_count > HALF_DONE_MAX:
            self.forget_half_done(next(iter(self.half_done)))
        return 0

    cdef bint is_only_here(self, bytes value) except -1:
        """Is it ours, and may a host that we do not hear be without it?"""
        cdef uint64_t dot = dot_of(value)
        return self.is_apart and dot >> NUMBER_BITS == self.number >> NUMBER_BITS and dot & COMMIT_MASK > self.told

    cdef int note_half_sent(self, uint64_t sid, bytes key, bytes value) except -1:
        """Should the session go on at a host that does not know of this message of its client, which may send it again (`goes_on`)."""
        if not self.is_only_here(value):
            return 0
        self.half_sent.setdefault(sid, []).append(key)
        self.transaction.put(META_HALF_SENT + key, value[HEADER:], db=self.databases["meta"])
        if len(self.half_sent) > HALF_DONE_MAX:
            self.forget_half_sent(next(iter(self.half_sent)))
        return 0

    cdef int forget_half_sent(self, uint64_t sid) except -1:
        """Returns how many packet ids that were."""
        cdef list keys = self.half_sent.pop(sid, [])
        for key in keys:
            self.transaction.delete(META_HALF_SENT + key, db=self.databases["meta"])
        return len(keys)

    cdef int resume(self, bytes key) except -1:
        """The client's message of this packet id is known again."""
        record = self.transaction.get(META_HALF_SENT + key, db=self.databases["meta"])
        if record is not None and get_big(<const char*>key) in self.queues and self.transaction.get(key, db=self.packet_ids) is None:
            self.store(PACKET_IDS, key, None, sealed(record, self.dot))
        return 0

    cdef int forget_half_done(self, uint64_t sid) except -1:
        """Returns how many entries that were."""
        cdef list keys = self.half_done.pop(sid, [])
        self.half_done_count -= len(keys)
        for key in keys:
            self.transaction.delete(META_HALF_DONE + key, db=self.databases["meta"])
        return len(keys)

    cdef bint may_move(self, uint64_t number, bytes value, uint64_t sent_qseq, object is_late, list again) except -1:
        """Is it a shared message that may go to another member? QoS 2 only if it was never sent [MQTT-4.8.2-5]. Then it is in `again`."""
        entry = parse_entry(value)
        if entry is None or entry[4] is None or entry[0] or (entry[1] & 3 != 1 and number <= sent_qseq):
            return False
        record = entry[3] if entry[3] is not None else self.body(entry[5])
        if record is None:
            return False
        again.append((number, entry[4], record, is_late))
        return True

    def bequeath(self, uint64_t sid, uint64_t heir, bint delivered):
        """The messages of a session that is over become those of another one of its client: all of them if it was `delivered` here, else
        what came from publishers here, which the host that delivered it may not have had. So many in a turn, for the keeper must
        not be silent for long; what is left then ends with the session."""
        cdef bytes key, value
        cdef uint64_t least = 0
        cdef Queue queue = self.queue_of(heir)
        cdef bytes whose = b"" if delivered else u64(self.number)[:8 - NUMBER_BITS // 8]
        for database in [QUEUE, INBOX] if delivered else [INBOX]:
            for key, value in self.entries(database, u64(sid) + whose, BEQUEATHED_MAX - self.bequeathed):
                self.bequeathed += 1
                if database == QUEUE:
                    least = self.bequeath_numbered(queue, get_big(<const char*>key + 8), value, least)
                    self.done(sid, get_big(<const char*>key + 8))
                else:
                    self.bequeath_new(queue, value)
                    self.erase(INBOX, key)
                    self.forget(value)
        self.mixed = True       # bodies go along: other hosts may have deleted theirs with what they had of the session

    cdef uint64_t bequeath_numbered(self, Queue heir, uint64_t qseq, bytes value, uint64_t least) except? 0:
        """It keeps its packet id. If another host delivers the heir's queue that appends it, as what comes late, in the order of the numbers:
        it has `least` or one above it. Returns the same of the next one."""
        cdef bytes entry
        if heir.sid not in self.foreign:
            self.append_late(QUEUE, heir.sid, value, qseq)
            return least
        qseq = like(qseq, max(self.branch_above(qseq), least))  # the host that delivers it may have given this number itself
        if self.transaction.get(queue_key(heir.sid, qseq), db=self.queue_db) is None:
            entry = sealed(value[HEADER:], self.dot)
            self.store(QUEUE, queue_key(heir.sid, qseq), None, entry)
            self.count_entry(heir, entry)
            self.number_behind(heir, qseq)
        elif not value[FLAGS] & RECEIVED:
            self.bequeath_new(heir, value)
        return qseq + 1

    cdef int bequeath_new(self, Queue heir, bytes value) except -1:
        if heir.sid not in self.foreign:
            return self.append(heir, bytes(bytearray(value)))
        self.store(INBOX, u64(heir.sid) + u64(self.number | self.next_body), None, sealed(value[HEADER:], self.dot))
        self.refer(value)
        self.next_body += 1
        self.next_changed = True
        return 0

    cdef purge_rest(self, uint64_t sid):
        self.queues.pop(sid, None)
        self.over.discard(sid)
        self.foreign.discard(sid)
        self.strays.discard(sid)
        self.lost.pop(sid, None)
        self.transaction.delete(META_QSEQ + u64(sid), db=self.databases["meta"])
        for key, value in self.entries(PACKET_IDS, u64(sid)):
            self.note_half_sent(sid, key, value)
            self.erase(PACKET_IDS, key)
            self.operations += 1

    cdef list entries(self, int database, bytes prefix, uint64_t most=0x7FFFFFFF):
        """[(key, value)] of `most` keys that begin with `prefix`."""
        cdef list found = []
        with self.transaction.cursor(db=self.handles[database]) as cursor:
            if cursor.set_range(prefix):
                for key, value in cursor.iternext():
                    if not key.startswith(prefix) or len(found) >= most:
                        break
                    found.append((key, value))
        return found

    # -- other hosts ------------------------------------------------------------------------------------------------------

    cdef bint saw(self, uint64_t dot) except -1:
        return dot >> NUMBER_BITS == self.number >> NUMBER_BITS or covers(self.known, dot)

    def context(self):
        """What of each host is in the store, as of the last commit: {number: last commit}."""
        return {**self.known, self.number >> NUMBER_BITS: self.seq}

    def has_seen(self, dict context):
        return all(number == self.number >> NUMBER_BITS or self.known.get(number, 0) >= seq for number, seq in context.items())

    cdef int bury(self, int database, bytes key, uint64_t dot) except -1:
        """That put, and those that this host made before, are over, should they ever come."""
        cdef object seq = self.erased.get((database, key, dot >> NUMBER_BITS), 0)
        if seq < dot & COMMIT_MASK:
            self.unbury(database, key, dot >> NUMBER_BITS)
            self.keep_burial(database, key, dot)
            self.transaction.put(bytes((database,)) + u64(dot) + key, b"", db=self.databases["erased"])
        return 0

    cdef int unbury(self, int database, bytes key, uint64_t number) except -1:
        cdef object seq = self.erased.pop((database, key, number), None)
        if seq is not None:
            self.transaction.delete(bytes((database,)) + u64(number << NUMBER_BITS | <uint64_t>seq) + key, db=self.databases["erased"])
        return 0

    def burials(self):
        """[(database, key, dot, is the key gone?)]: what a host that learns from us has to know before it knows whom we know."""
        transaction = self.view()
        return [
            (database, key, number << NUMBER_BITS | seq, transaction.get(key, db=self.handles[database]) is None)
            for (database, key, number), seq in self.erased.items()
            if not self.saw(number << NUMBER_BITS | seq)
        ]

    def overtaken(self, list burials):
        """As changes: what we have and another host knows to be over."""
        cdef bytearray found = bytearray()
        for database, key, dot, gone in burials:
            ours = self.transaction.get(key, db=self.handles[database])
            if gone and ours is not None and dot_of(ours) >> NUMBER_BITS == dot >> NUMBER_BITS and dot_of(ours) <= dot:
                add_erased(found, database, key, dot_of(ours))
            if not self.is_over(database, key, dot):
                self.bury(database, key, dot)
        return bytes(found)

    cdef bint is_over(self, int database, bytes key, uint64_t dot) except -1:
        if self.saw(dot) or self.is_buried(database, key, dot):
            return True
        return self.covered.parts and self.covered.is_over((database, key), dot)

    cdef bint is_buried(self, int database, bytes key, uint64_t dot) except -1:
        return <uint64_t>self.erased.get((database, key, dot >> NUMBER_BITS), 0) >= dot & COMMIT_MASK

    cdef look_ahead(self, uint64_t peer, dict context):
        """What another host changed may replace what a third one put, and that may come later."""
        cdef uint64_t number, seq
        self.theirs = context
        self.ahead = [] if self.covering else [
            number << NUMBER_BITS | seq
            for number, seq in context.items()
            if number != peer and number != self.number >> NUMBER_BITS and seq > self.known.get(number, 0)
        ]

    def peer_seq(self, uint64_t number):
        """Up to where the host's commits are in this store."""
        return self.known.get(number, 0)

    def learn(self, dict context):
        """What the other host had seen is now in this store, too."""
        cdef uint64_t number, seq
        for number, seq in context.items():
            if number != self.number >> NUMBER_BITS and seq > self.known.get(number, 0):
                self.known[number] = seq
                self.transaction.put(META_PEER + u64(number), u64(seq), db=self.databases["meta"])
        self.held = {key for key in sorted(self.held) if not self.hold(key)}
        for key in sorted(self.resumed):
            self.resume(key)
        for sid in {get_big(<const char*><bytes>key) for key in self.resumed}:
            self.forget_half_sent(sid)
        self.resumed = set()
        if self.covered.parts or self.covered.holes:
            for seq in self.covered.seen(self.known, self.number >> NUMBER_BITS):
                self.transaction.delete(META_COVERED + u64(seq), db=self.databases["meta"])

    def cover(self, begin, end, dict context):
        """Between these positions there is now what a host had with this context."""
        part = Part(begin, end, context)
        number = self.covered.add(part)
        self.transaction.put(META_COVERED + u64(number), msgspec.msgpack.encode(self.covered.parts[number]), db=self.databases["meta"])

    def may_lack(self, dict context):
        """What is here of the host with this context is not all: it was sent again, without what has changed since."""
        if self.covered.add_holes(context, self.known, self.number >> NUMBER_BITS):
            self.transaction.put(META_HOLES, msgspec.msgpack.encode(self.covered.holes), db=self.databases["meta"])

    def forget_host(self, uint64_t number):
        """It is gone for good: nobody waits for what only parts have of its commits."""
        self.covered.without(number)
        for each, part in self.covered.parts.items():
            self.transaction.put(META_COVERED + u64(each), msgspec.msgpack.encode(part), db=self.databases["meta"])
        self.learn({})

    def forget_burials(self, int most):
        """All of a host's puts up to one of its commits have come: so many burials of that time go."""
        cdef list heap
        for number, heap in self.buried.items():
            until = self.known.get(number, 0)
            while most and heap and heap[0][0] <= until:
                commit, database, key = heappop(heap)
                if self.erased.get((database, key, number)) == commit:
                    self.unbury(database, key, number)
                most -= 1

    cdef int judge(self, int database, bytes key, bytes ours, bytes theirs, uint64_t dot, dict context) except -1:
        """What does it mean here that another host with this context has put `theirs` or, with None, erased what `dot` put? What comes
        late and has long been over is said to be so."""
        cdef bint is_over = self.is_over(database, key, dot)
        if self.ahead and (theirs is None or not is_first(database, theirs)):
            for each in self.ahead:
                self.bury(database, key, each)
        if theirs is None and not is_over:
            self.bury(database, key, dot)
        if ours is None:
            if theirs is None:
                return NOTHING
            if is_over and not self.saw(dot) and not self.repairing and self.is_buried(database, key, dot):
                self.record_over(database, key, dot, context)   # who has replaced it may have undone that, and so tell nobody
            return NOTHING if is_over and not self.repairing else TAKE
        if dot_of(ours) == dot:
            return TAKE if ours != theirs else NOTHING      # differs within one commit only
        if dot_of(ours) >> NUMBER_BITS == dot >> NUMBER_BITS and not self.repairing:    # two commits of one host: the later one counts
            if dot_of(ours) < dot and (theirs is None or not is_over):
                return TAKE
            if dot_of(ours) > dot and (theirs is not None or not covers(context, dot_of(ours))):    # it has seen ours, or what came of it
                return NOTHING
        if self.repairing and is_over:
            return BOTH if covers(context, dot_of(ours)) else NOTHING
        if covers(context, dot_of(ours)):
            return TAKE
        return NOTHING if theirs is None or is_over else BOTH

    def own(self, uint64_t sid, bint asked, uint64_t sent_qseq):
        """From now on this host delivers the session's queue. `asked`: the host that did so until now has handed it over.

        Returns the number before the first one that this host gives.
        """
        cdef Queue queue = self.queue_of(sid)
        cdef uint64_t last
        self.foreign.discard(sid)
        self.lost.pop(sid, None)
        if not asked:   # it may have used numbers that we have not seen
            queue.next_qseq = queue.fresh = self.first_of_branch(queue.next_qseq)
            self.reserve(queue)
        elif queue.next_qseq <= sent_qseq:
            queue.next_qseq = sent_qseq + 1
            self.reserve(queue)
        last = queue.next_qseq - 1
        waiting = self.entries(INBOX, u64(sid))
        self.move_in(queue, waiting)
        if not asked:
            self.copied.update((sid, hash(entry[HEADER:])) for _, entry in waiting)
        return last

    def begin_queue(self, uint64_t sid, bint apart):
        """`apart`: a host that we cannot hear may begin a session for the same client. Returns the number before its first one."""
        cdef Queue queue = self.queue_of(sid)
        if apart:
            queue.next_qseq = queue.fresh = self.first_of_branch(queue.next_qseq)
            self.reserve(queue)
        return queue.next_qseq - 1

    cdef int move_in(self, Queue queue, list entries) except -1:
        """What came while another host delivered."""
        for key, value in sorted(entries, key=self.received_ms):
            self.erase(INBOX, key)
            self.append_moved(queue, value)
            self.forget(value)
        return 0

    cdef int append_moved(self, Queue queue, bytes value) except -1:
        """From another host's inbox: who believes that it delivers, too, may do the same (`has_moved`)."""
        if self.is_apart and body_of(value):
            self.mixed = True       # its body goes along: who put it may have delivered it, too, and deleted it before all had it
        self.append(queue, bytes(bytearray(value)))
        return self.remember_moved(queue.sid, value, queue.next_qseq - 1)

    cdef int remember_moved(self, uint64_t sid, bytes entry, uint64_t qseq) except -1:
        if is_once(entry):
            self.moved[sid, hash(entry[HEADER:])] = qseq
            if len(self.moved) > MOVED_MAX:
                del self.moved[next(iter(self.moved))]
        return 0

    def settle(self):
        """What is ours is ours."""
        self.is_settling = False
        sids = {key[:8] for key in self.transaction.cursor(db=self.handles[INBOX]).iternext(values=False)}
        for sid in sids:
            if self.delivers(get_big(<const char*><bytes>sid)):
                self.move_in(self.queue_of(get_big(<const char*><bytes>sid)), self.entries(INBOX, sid))
        for key in sorted(self.unsettled):
            self.append_unsettled(get_big(<const char*><bytes>key), get_big(<const char*><bytes>key + 8))
        self.unsettled = set()

    cdef int append_unsettled(self, uint64_t sid, uint64_t qseq) except -1:
        """Numbered by the host that we took the session from, or held by one that had it before: a connected client is sent what is behind."""
        cdef bytes value = self.transaction.get(queue_key(sid, qseq), db=self.queue_db)
        if value is None or not self.delivers(sid):
            return 0
        if value[FLAGS] & RECEIVED or qseq >> BRANCH_BITS < self.queue_of(sid).next_qseq >> BRANCH_BITS:
            self.append_late(QUEUE, sid, value, qseq)
            self.done(sid, qseq)
        return 0

    def received_ms(self, tuple item):
        """Of an entry's message: a publisher that went from one host to another has its messages in order by it."""
        entry = parse_entry(item[1])
        record = None if entry is None else entry[3] if entry[3] is not None else self.body(entry[5])
        return 0 if not record else received_at(<const char*>record)

    cdef uint64_t first_of_branch(self, uint64_t qseq) noexcept:
        return self.apart(qseq, self.branch_above(qseq))

    cdef uint64_t branch_above(self, uint64_t qseq) noexcept:
        """Above the branch of `qseq`, and not what another host would choose: a count and 12 bits of our number."""
        return (((qseq >> BRANCH_BITS >> 12) + 1) << 12 | (self.number >> NUMBER_BITS & 0xFFF)) << BRANCH_BITS

    cdef uint64_t apart(self, uint64_t qseq, uint64_t least) noexcept:
        """The first number from `least` on at the begin of one of our parts of the packet ids, the farthest ahead of that of `qseq`: the
        client may hold those that come next, from the host that we have not heard."""
        cdef uint64_t part = qseq % PACKET_ID_COUNT // PART, ahead = PARTS - 1
        while ahead and not self.gives((part + ahead) % PARTS * PART):
            ahead -= 1
        return like((part + ahead) % PARTS * PART, least)

    cdef bint gives(self, uint64_t qseq) noexcept:
        """Is its packet id in one of our parts? Messages that a client gets from hosts which do not hear each other have other ids, then."""
        return qseq % PACKET_ID_COUNT // PART % min(self.hosts, PARTS) == self.place % PARTS

    def apply_changes(self, uint64_t peer, bytes changes, dict context):
        """What another host did, but for the `records_of` it.

        Of our own changes only those are recorded that come of ours being the one who delivers a queue.
        """
        cdef bytes key, value
        cdef uint64_t dot
        self.mixed = self.mixed or len(self.touched) > 0
        self.applying = True
        self.look_ahead(peer, context)
        found = decode(changes, ALL, True)
        if self.is_apart:
            self.keep_copied(found)
        for database, key, value, dot in found:
            if database % BEATEN == QUEUE or database % BEATEN == INBOX:
                self.apply_entry(database % BEATEN, key, value, dot, context, database >= BEATEN)
            elif database == BODIES:
                self.put_plain(BODIES, key, None, value)
                if get_big(<const char*>key) not in self.references:
                    self.loose.add(get_big(<const char*>key))
            elif database % BEATEN == PACKET_IDS or database % BEATEN == RETAINED or database % BEATEN == SETTINGS:
                self.apply_plain(database % BEATEN, key, value, dot, context, database >= BEATEN)
        self.applying = False

    def sweep(self):
        """Delete the bodies that nothing has referred to for as long as it is between two calls.

        What refers to the body of another host's message may come later than that, from a third one.
        """
        for body in self.looser:
            if body not in self.references:
                self.transaction.delete(u64(body), db=self.handles[BODIES])
        self.loose, self.looser = set(), self.loose

    def records_of(self, uint64_t peer, bytes changes, dict context):
        """Yields what of the changes is the directory's: (database name, key, value or None, is it a session that counts as much as ours?).

        A session that another host has ended, without knowing what ours has done since, goes on: `renew`.
        Each is judged when the one before has been done. It says whose queues the others are.
        """
        self.look_ahead(peer, context)
        for database, key, value, dot in decode(changes, 1 << SESSIONS | 1 << SUBS | 1 << WILLS, True):
            ours = self.transaction.get(key, db=self.handles[database % BEATEN])
            if database == BEATEN + SESSIONS:
                yield "over", key, None, False
            elif database >= BEATEN:
                if self.unbeaten(database - BEATEN, key, ours, dot) is not ours:
                    yield REPLICATED[database - BEATEN], key, None, False
            elif database == SESSIONS:
                verdict = self.judge(database, key, ours, value, dot, context)
                if verdict == NOTHING and value is None and ours is not None and not covers(context, dot_of(ours)):
                    if dot or self.has_ended(msgspec.msgpack.decode(ours[HEADER:])[0]):
                        yield REPLICATED[database], key, None, True
                elif verdict != NOTHING:
                    yield REPLICATED[database], key, value, verdict == BOTH
            else:
                best = self.chosen(database, key, ours, value, dot, context)
                if best is not ours:
                    yield REPLICATED[database], key, best, False

    def renew(self, uint64_t sid):
        """What other hosts have ended with the session goes on, too: it is put anew."""
        cdef bytes key, value
        self.mixed = True       # bodies go along: those hosts have deleted them
        for database in (SUBS, QUEUE, PACKET_IDS):
            for key, value in self.entries(database, u64(sid)):
                self.store(database, key, value, sealed(value[HEADER:], self.dot))
                self.renewed_bytes += len(value)

    def goes_on(self, uint64_t sid, bint is_ours):
        """At another host, though it was over here: that one knows nothing of the flows that only we had begun. `learn` ends this.

        `is_ours`: we delivered it, and with it we have forgotten which numbers its queue has used.
        """
        cdef Queue queue
        self.held.update(self.half_done.get(sid, ()))
        self.resumed.update(self.half_sent.get(sid, ()))
        if is_ours:
            queue = self.queue_of(sid)
            queue.next_qseq = queue.fresh = self.first_of_branch(queue.next_qseq)
            self.reserve(queue)

    def say_over(self, uint64_t sid):
        """The session has ended here: the outbox keeps that, though it says nothing more of the record if the session is back since."""
        if self.recording:
            add_erased(self.changes, SESSIONS + BEATEN, u64(sid), 0)
            add_key(self.touched, SESSIONS + BEATEN, u64(sid), 0)

    def note_over(self, uint64_t sid):
        """The session has ended, here or elsewhere. If it goes on nevertheless a snapshot says so (`snapshot`), as the outbox does."""
        self.ended.pop(sid, None)
        self.ended[sid] = self.seq + 1
        if self.recording:
            self.ended_lately.append(sid)

    cdef int add_over(self, bytearray part, uint64_t had) except -1:
        """Of the sessions that there are, those that have ended here since the commit that the other host `had`: what went with them is
        gone here, and their host puts it anew before it learns that."""
        for sid, seq in reversed(self.ended.items()):
            if seq <= had:
                break
            if sid in self.queues and sid not in self.over:
                add_erased(part, SESSIONS + BEATEN, u64(sid), 0)
        return 0

    cdef bint has_ended(self, uint64_t sid) except -1:
        """Does the other host, which has no such session, know something of it?"""
        return any([covers(self.theirs, dot_of(value)) for database in (SUBS, QUEUE, PACKET_IDS) for _, value in self.entries(database, u64(sid))])

    def is_known_there(self, str database, bytes key):
        """Has the host whose changes are applied seen what `key` holds?"""
        return covers(self.theirs, self.dot_at(database, key))

    def records_in(self, bytes changes):
        """The same, whatever we have: ours is undone."""
        self.theirs = {}
        for database, key, value, _ in decode(changes, 1 << SESSIONS | 1 << SUBS | 1 << WILLS):
            yield REPLICATED[database], key, value, False

    cdef int apply_plain(self, int database, bytes key, bytes value, uint64_t dot, dict context, bint beaten) except -1:
        cdef bytes ours = self.transaction.get(key, db=self.handles[database])
        cdef bytes best
        if beaten:
            best = self.unbeaten(database, key, ours, dot)
        else:
            best = self.chosen(database, key, ours, value, dot, context)
        if best is not ours:
            self.put_plain(database, key, ours, best)
            if database == RETAINED:
                self.retained_messages += (best is not None) - (ours is not None)
        return 0

    cdef bytes chosen(self, int database, bytes key, bytes ours, bytes value, uint64_t dot, dict context):
        """What `key` is to hold after that change by another host."""
        cdef int verdict = self.judge(database, key, ours, value, dot, context)
        if verdict == TAKE and value is not None and ours is not None and dot_of(ours) != dot and not self.repairing:
            if self.is_over(database, key, dot):
                return None     # it has lost to ours, which that host has erased without having heard so: neither is left
        if verdict != BOTH:
            return ours if verdict == NOTHING else value
        if dot_of(ours) == self.dot and not (self.covering or self.repairing):
            return ours     # put in this very commit: whoever gets that learns that we knew theirs, and takes ours
        best, beaten = (value, ours) if rank(database, value) > rank(database, ours) else (ours, value)
        self.beat(database, key, dot_of(beaten))
        return best

    cdef int beat(self, int database, bytes key, uint64_t beaten) except -1:
        """All hosts prefer what else the key holds."""
        if self.recording and not self.repairing:
            add_erased(self.changes, database + BEATEN, key, beaten)
            add_key(self.touched, database + BEATEN, key, beaten)
        return 0

    cdef bytes unbeaten(self, int database, bytes key, bytes ours, uint64_t dot):
        """What `key` is to hold after another host has seen what `dot` put together with what all hosts prefer. Else who never sees
        the two together, as the one that is preferred is deleted soon, would keep the other one for ever. What that host put
        before is over, too (`bury`)."""
        if not self.saw(dot):
            self.bury(database, key, dot)
        if ours is not None and dot_of(ours) >> NUMBER_BITS == dot >> NUMBER_BITS and dot_of(ours) <= dot:
            return None
        return ours

    cdef int make_room(self, int database, bytes key, bytes ours, bytes value) except -1:
        """LMDB leaves a shorter value in the pages of a longer one which the same transaction has put; lmdb.verify calls that damage."""
        if ours is not None and OVERFLOW < len(ours) > len(value):
            self.transaction.delete(key, db=self.handles[database])
        return 0

    cdef int put_plain(self, int database, bytes key, bytes ours, bytes value) except -1:
        """What another host put, or with None erased, where we have `ours`."""
        if self.recording and database != BODIES:
            self.change_digest(database, key, ours, value)
        if database == SETTINGS:
            self.note_setting()
        if value is None:
            self.transaction.delete(key, db=self.handles[database])
        else:
            self.make_room(database, key, ours, value)
            self.transaction.put(key, value, db=self.handles[database])
        return 0

    cdef int apply_entry(self, int database, bytes key, bytes value, uint64_t dot, dict context, bint beaten) except -1:
        """Of a queue or an inbox."""
        cdef uint64_t sid = int.from_bytes(key[:8], "big")
        cdef bytes ours = self.transaction.get(key, db=self.handles[database])
        cdef int verdict
        cdef Queue queue
        if beaten:
            verdict = NOTHING if self.unbeaten(database, key, ours, dot) is ours else TAKE
        else:
            verdict = self.judge(database, key, ours, value, dot, context)
        if verdict == NOTHING:
            return 0
        if value is None:
            return self.apply_erased(database, sid, key, ours)
        if sid not in self.queues:
            self.foreign.add(sid)
            self.strays.add(sid)
        queue = self.queue_of(sid)
        if ours is not None:
            if database == QUEUE and value[FLAGS] & RECEIVED and (verdict == TAKE or not value[FLAGS] & HELD):
                self.done_there(sid, key, ours)
            self.replace_entry(database, sid, key, ours, value, verdict)
        elif not self.delivers(sid):
            self.put_entry(database, sid, key, None, value)
            if self.is_settling and database == QUEUE and sid not in self.foreign:
                self.unsettled.add(key)
            if database == QUEUE:
                self.number_behind(queue, get_big(<const char*>key + 8))
        else:
            self.append_late(database, sid, value, get_big(<const char*>key + 8))
            if self.transaction.get(key, db=self.handles[database]) is None:    # else it has been given that very number here
                self.record_over(database, key, dot, context)
        return 0

    cdef int apply_erased(self, int database, uint64_t sid, bytes key, bytes ours) except -1:
        if ours is not None and database == QUEUE:
            self.done_there(sid, key, ours)
        return self.put_entry(database, sid, key, ours, None)

    cdef int done_there(self, uint64_t sid, bytes key, bytes ours) except -1:
        """Another host has done with an entry of ours, or had the PUBREC; perhaps because it has a copy of its own: that counts, then."""
        self.forget_moved(sid, ours)
        if self.may_be_held(sid, get_big(<const char*>key + 8), ours):
            self.held.add(key)
        return 0

    cdef int keep_copied(self, list changes) except -1:
        """QoS 2 messages that another host has appended in the place of ours, as it took their queue for its own: our client may have had
        them from here. So ours stay, and those are known (`has_moved`)."""
        cdef bytes key, value, ours
        copies = {
            (key[:8], value[HEADER:]) for database, key, value, dot in changes
            if database == QUEUE and value is not None and self.delivers(get_big(<const char*><bytes>key)) and is_once(value)
            and not self.is_over(database, key, dot)
        }
        for database, key, value, dot in changes if copies else ():
            if database != QUEUE or value is not None:
                continue
            ours = self.transaction.get(key, db=self.queue_db)
            if ours is not None and dot_of(ours) == dot and not ours[FLAGS] & RECEIVED and (key[:8], ours[HEADER:]) in copies:
                self.remember_moved(get_big(<const char*>key), ours, get_big(<const char*>key + 8))
                self.store(QUEUE, key, ours, sealed(ours[HEADER:], self.dot))
        return 0

    cdef int forget_moved(self, uint64_t sid, bytes entry) except -1:
        """It is not here any more, and perhaps its client has not had it: what another host has of it counts."""
        if self.moved:
            self.moved.pop((sid, hash(entry[HEADER:])), None)
        return 0

    def lose(self, uint64_t sid, uint64_t sent_qseq):
        """Another host delivers the queue, and did so before it knew that we did."""
        self.lost[sid] = sent_qseq

    cdef bint may_be_held(self, uint64_t sid, uint64_t qseq, bytes entry) except -1:
        """Another host has ended the flow, or had the PUBREC, of what we may have sent meanwhile. The client has the message, but may have
        had it from us, too, perhaps before our start: then it waits for our PUBREL."""
        if entry[OPTIONS] & 3 != 2 or entry[FLAGS] & RECEIVED:
            return False
        return qseq <= <uint64_t>self.lost.get(sid, 0) if sid in self.foreign else self.may_have_sent(sid, qseq)

    cdef bint hold(self, bytes key) except -1:
        """What is left of the entry: its packet id. Whatever other hosts have done with that, we have seen; False: not yet, as it came
        with a part of a snapshot, and they would take ours for concurrent."""
        cdef uint64_t sid = get_big(<const char*>key)
        cdef bytes ours = self.transaction.get(key, db=self.queue_db)
        cdef bytes entry = sealed((HELD_ENTRY if ours is None else ours)[HEADER:], self.dot)
        if ours is not None and not self.saw(dot_of(ours)):
            return False
        self.forget_half_done(sid)
        if sid not in self.queues or (ours is not None and not ours[FLAGS] & RECEIVED):
            return True
        if self.delivers(sid):      # its client may have been sent what is behind that number
            self.done(sid, get_big(<const char*>key + 8))
            self.append_late(QUEUE, sid, entry, get_big(<const char*>key + 8))
            return True
        self.store(QUEUE, key, ours, entry)
        if sid not in self.foreign:     # we settle
            self.unsettled.add(key)
        if ours is None:
            self.count_entry(self.queue_of(sid), entry)
            self.number_behind(self.queue_of(sid), get_big(<const char*>key + 8))
        return True

    cdef int number_behind(self, Queue queue, uint64_t qseq) except -1:
        """This number has been given."""
        if qseq >= queue.next_qseq:
            queue.next_qseq = qseq + 1
            if queue.next_qseq > queue.reserved:
                self.reserve(queue)
        return 0

    cdef int append_late(self, int database, uint64_t sid, bytes value, uint64_t qseq) except -1:
        """Another host put it before it knew that we deliver now. If that has numbered it (`qseq`) it keeps its packet id: its client
        may hold that, until PUBREL."""
        cdef Queue queue = self.queue_of(sid)
        cdef uint64_t ours
        if database == QUEUE or self.covering:
            self.mixed = True       # its body goes along: whoever put the entry may have deleted both by now
        if database != QUEUE:
            return self.append_moved(queue, value)
        if self.has_moved(database, sid, value):
            if value[OPTIONS] & 3 == 1:
                return 0
            value = RECEIVED_ENTRY
        if not queue.next_qseq >> BRANCH_BITS:
            queue.next_qseq = queue.fresh = self.first_of_branch(queue.next_qseq)
        ours = queue.next_qseq
        return self.append_as(queue, like(qseq, ours if like(qseq, ours) - ours < PART else ours + PACKET_ID_COUNT), bytes(bytearray(value)))

    cdef int replace_entry(self, int database, uint64_t sid, bytes key, bytes ours, bytes value, int verdict) except -1:
        """An entry in which a PUBREC came, at whichever host, stays so: its client does not know the message any more. Where it only may
        have come, who puts the message without knowing of that is right: under that packet id a client has it once."""
        cdef int theirs_rank = entry_rank(value), our_rank = entry_rank(ours)
        cdef bint is_theirs
        if verdict == TAKE:
            is_theirs = our_rank < RECEIVED_RANK or theirs_rank == RECEIVED_RANK
        else:
            is_theirs = (theirs_rank, dot_of(value)) > (our_rank, dot_of(ours))
        if verdict == BOTH:
            self.beat(database, key, dot_of(ours) if is_theirs else dot_of(value))
        if is_theirs:
            self.put_entry(database, sid, key, ours, value)
        elif verdict == TAKE:   # who undid what we have: it is put anew, so that all hosts have it
            self.store(database, key, ours, sealed(ours[HEADER:], self.dot))
        return 0

    cdef bint has_moved(self, int database, uint64_t sid, bytes value) except -1:
        """Has this message come into the session's queue here, as it has at the other host, or has its client had it?

        That host may say the same of ours: what we hold is put anew, and so outlives that.
        """
        cdef bytes key, ours
        if database != QUEUE or self.repairing:
            return False
        if (sid, hash(value[HEADER:])) not in self.moved:
            return self.had and (sid, digest(value)) in self.had
        key = queue_key(sid, self.moved[sid, hash(value[HEADER:])])
        ours = self.transaction.get(key, db=self.queue_db)
        if ours is not None and not ours[FLAGS] & RECEIVED:
            self.store(QUEUE, key, ours, sealed(ours[HEADER:], self.dot))
        return True

    cdef int put_entry(self, int database, uint64_t sid, bytes key, bytes ours, bytes value) except -1:
        self.put_plain(database, key, ours, value)
        if value is not None:
            if database == QUEUE:
                self.count_entry(self.queue_of(sid), value)
            else:
                self.refer(value)
        if ours is not None:
            if database == QUEUE:
                self.discount_entry(sid, ours)
            else:
                self.forget(ours)
        if database == INBOX:
            self.count_waiting(key, ours, value)
        return 0

    cdef view(self):
        """The open transaction, or one that reads the last commit."""
        return self.environment.begin() if self.transaction is None else self.transaction

    cdef bytearray encoded(self, transaction, touched, uint64_t commit=0):
        """What these keys hold now, as changes; of a `commit`: what is still as it left them. The rest comes with what changed it, but
        for records of sessions that are ours."""
        cdef bytearray found = bytearray()
        cdef set bodies = set()     # a message for many sessions crosses once
        for database, key, erased in decode_keys(bytes(touched)):
            value = transaction.get(key, db=self.handles[database % BEATEN])
            if database >= BEATEN:
                if database != BEATEN + QUEUE or value is None or dot_of(value) != erased:  # else it was put anew (`hold`)
                    add_erased(found, database, key, erased)
                continue
            if value is not None and commit and dot_of(value) != commit:
                if erased and self.is_theirs(database, value, erased):
                    add_erased(found, database + BEATEN, key, erased)
                elif database == SESSIONS and not erased and self.is_ours(value):
                    add_put(found, database, key, value)
                continue
            if value is not None:
                add_put(found, database, key, value)
                body = body_of(value) if database == QUEUE or database == INBOX else 0
                if body and body not in bodies:
                    bodies.add(body)
                    self.add_body(found, transaction, body)
            elif erased:
                add_erased(found, database, key, erased)
        return found

    cdef bint is_ours(self, bytes record) except -1:
        """Have we put this, and deliver the session? Who delivered it before, and heard that behind what we have numbered, would take that
        for what came late: number it anew, and delete ours."""
        is_put_here = dot_of(record) >> NUMBER_BITS == self.number >> NUMBER_BITS
        return is_put_here and msgspec.msgpack.decode(record[HEADER:])[0] not in self.foreign

    cdef bint is_theirs(self, int database, bytes value, uint64_t erased) except -1:
        """Did another host put this, where we have erased something? It may not have known of that: then its put says nothing of it."""
        return database != SESSIONS and dot_of(value) != erased and dot_of(value) >> NUMBER_BITS != self.number >> NUMBER_BITS

    def missed(self, uint64_t after, uint64_t bytes_max):
        """[(seq, changes)] of our commits after `after`, as much as fits; None if the outbox does not go back so far."""
        cdef list found = []
        cdef uint64_t size = 0
        if after >= self.seq:
            return found
        transaction = self.view()
        cursor = transaction.cursor(db=self.databases["outbox"])
        if not cursor.set_range(u64(after + 1)) or cursor.key() != u64(after + 1):
            return None
        for key, touched in cursor.iternext():
            seq = get_big(<const char*><bytes>key)
            changes = bytes(self.encoded(transaction, touched, self.number | seq))
            found.append((seq, changes))
            size += len(changes)
            if size >= bytes_max:
                break
        return found

    def keeps(self, uint64_t seq):
        """Does the outbox go back to this commit?"""
        return seq > 1 and self.view().get(u64(seq), db=self.databases["outbox"]) is not None

    def snapshot(self, int database, bytes after, uint64_t bytes_max, int last=len(REPLICATED), bytes until=b"", set bodies=None, uint64_t had=ALL,
                 dict began=None):
        """(changes, database, key): what is behind the position, up to the new one, which is `last` and `until` at the end.

        A body comes with the first entry that refers to it: who delivers that may do so at once. `bodies`: those that were sent. Behind the
        inboxes come others that no later commit brings: an entry that moved to a queue meanwhile was in no part, and comes alone.
        `had`: our last commit that the other host had. `began`: our context when the snapshot began.
        """
        cdef bytearray part = bytearray()
        cdef uint64_t body
        transaction = self.view()
        bodies = set() if bodies is None else bodies
        if database == SESSIONS:
            self.add_over(part, had)
        while database < len(REPLICATED):
            for body in sorted(self.references.keys() - bodies) if began and database == BODIES else ():
                bodies.add(body)
                self.add_body(part, transaction, body, began)
                after = max(after, u64(body))
                if len(part) >= bytes_max:
                    return bytes(part), database, after
            cursor = transaction.cursor(db=self.handles[database])
            more = database != BODIES and (cursor.set_range(after + b"\0") if after else cursor.first())
            while more:
                key, value = cursor.item()
                if database == last and key > until:
                    break
                after = key
                body = body_of(value) if database == QUEUE or database == INBOX else 0
                if body and body not in bodies:
                    bodies.add(body)
                    self.add_body(part, transaction, body)
                add_put(part, database, after, value)
                if len(part) >= bytes_max:
                    return bytes(part), database, after
                more = cursor.next()
            if database == last:
                return bytes(part), last, until
            database, after = database + 1, b""
        return bytes(part), database, after

    cdef int add_body(self, bytearray changes, transaction, uint64_t body, dict context=None) except -1:
        """If it is here: it may have come with another entry, which is gone. `context`: only if that covers it."""
        value = transaction.get(u64(body), db=self.handles[BODIES])
        if value is not None and (context is None or covers(context, dot_of(value))):
            add_put(changes, BODIES, u64(body), value)
        return 0

    def absent(self, int database, bytes after, int last, bytes until, bytes part, dict context):
        """As changes: what we have between these positions, and the host of this part of a snapshot has seen and has no more."""
        cdef bytearray found = bytearray()
        there = {(each[0], each[1]) for each in decode(part)}
        while database <= min(last, len(REPLICATED) - 1):
            cursor = self.transaction.cursor(db=self.handles[database])
            more = database != BODIES and (cursor.set_range(after + b"\0") if after else cursor.first())
            while more:
                key, value = cursor.item()
                if database == last and key > until:
                    break
                if (database, key) not in there and covers(context, dot_of(value)):
                    add_erased(found, database, key, dot_of(value))
                elif (database, key) not in there and database == SESSIONS:     # it may have ended that
                    add_erased(found, database, key, 0)
                more = cursor.next()
            database, after = database + 1, b""
        return bytes(found)

    def missing(self, bytes part, dict context):
        """(changes, number of entries): what of the part of another host's store ours should have and has not.

        Nothing if that host has not seen the same as we, but for our own last commits: what they changed is left out.
        """
        cdef bytearray found = bytearray()
        cdef int count = 0
        own = self.number >> NUMBER_BITS
        if {**context, own: 0} != {**self.known, own: 0}:
            return b"", 0
        touched = self.tail(context.get(own, 0), self.seq) + bytes(self.touched)
        lately = {(database, key) for database, key, _ in decode_keys(touched)}
        for database, key, value, dot in decode(part):
            ours = self.transaction.get(key, db=self.handles[database])
            if (database, key) not in lately and (ours is None or database != BODIES and dot_of(ours) != dot):
                add_put(found, database, key, value)
                count += 1
        return bytes(found), count

    def begin_recording(self):
        """From now on commits have numbers and are kept for peers. The first number stands for all that was here before."""
        if not self.recording:
            self.recording = True
            self.sum_up(self.transaction)
        if self.seq == 0:
            self.seq = 1
            self.dot = self.number | 2
            self.put("meta", META_SEQ, u64(1))
            if not any(self.kept):
                self.put("outbox", u64(1), b"")     # nothing was here: who has nothing of ours needs no snapshot

    def tail(self, uint64_t after, uint64_t until):
        """The keys that our commits after `after` and up to `until` have changed, as in the outbox."""
        cdef list found = []
        for number in range(after + 1, until + 1):
            found.append(self.transaction.get(u64(number), b"", db=self.databases["outbox"]))
        return b"".join(found)

    def values_of(self, bytes touched):
        """What these keys hold here, as changes."""
        cdef bytearray once = bytearray()
        for database, key in dict.fromkeys([(database, key) for database, key, _ in decode_keys(touched) if database < BEATEN]):
            add_key(once, database, key, 1)
        return bytes(self.encoded(self.transaction, once))

    def reset(self, uint64_t after, uint64_t until, bytes changes, bint is_seen):
        """Undo our commits after `after` and up to `until`, which nobody was told of: `changes` is what their keys hold at a peer that went on.

        If a third host may have seen them it is a change of ours. What is the directory's is done already.
        Workers that outlived the keeper do again what they have not been told of.
        """
        cdef bytes ours
        self.applying = True
        with self.transaction.cursor(db=self.databases["meta"]) as cursor:
            more = cursor.set_range(META_INSTANCE)
            while more and cursor.key().startswith(META_INSTANCE):
                more = cursor.delete()
        for number in range(after + 1, until + 1):
            self.put("outbox", u64(number), b"")
        for database, key, value, dot in decode(changes):
            ours = self.transaction.get(key, db=self.handles[database])
            if ours is not None and database == QUEUE:
                self.forget_moved(get_big(<const char*>key), ours)
            if value is not None and database == INBOX and self.delivers(get_big(<const char*>key)):
                self.append(self.queue_of(get_big(<const char*>key)), bytes(bytearray(value)))
                self.record_over(database, key, dot)
                value = None
            if is_seen and value is not None and database != BODIES:
                value = sealed(value[HEADER:], self.dot)
            if database == QUEUE or database == INBOX:
                self.put_entry(database, int.from_bytes(key[:8], "big"), key, ours, value)
                if database == QUEUE and value is not None:     # of a session that we had ended, perhaps
                    self.number_behind(self.queue_of(get_big(<const char*>key)), get_big(<const char*>key + 8))
            elif database != BODIES or value is not None:
                self.put_plain(database, key, ours, value)
            if database == RETAINED:
                self.retained_messages += (value is not None) - (ours is not None)
            if database == BODIES and value is not None:
                self.loose.add(get_big(<const char*>key))
            elif is_seen and database != BODIES:
                self.record_reset(database, key, value)
        self.applying = False

    cdef bint delivers(self, uint64_t sid) except -1:
        return sid in self.queues and sid not in self.foreign and sid not in self.over and not self.is_settling

    cdef int record_reset(self, int database, bytes key, bytes value) except -1:
        if value is not None:
            return self.record(database, key, value)
        return self.record_over(database, key, self.dot - 1)

    def trim(self, uint64_t until, int most):
        """Forget what every peer has."""
        with self.transaction.cursor(db=self.databases["outbox"]) as cursor:
            more = cursor.set_range(u64(2))     # the first one says that nothing was here before it
            while more and most and int.from_bytes(cursor.key(), "big") <= until:
                more = cursor.delete()
                most -= 1

    cdef body(self, uint64_t number):
        value = self.transaction.get(u64(number), db=self.databases["bodies"])
        return None if value is None else unsealed(value)


cdef seal(bytes value, uint64_t dot):
    """Write dot and CRC32 into a value that nobody else has seen yet."""
    cdef uint32_t crc
    memcpy(PyBytes_AS_STRING(value) + 4, &dot, 8)
    crc = zlib.crc32(memoryview(value)[4:])
    memcpy(PyBytes_AS_STRING(value), &crc, 4)


cdef inline bint is_once(bytes entry) noexcept:
    """Is it a QoS 2 message that no session is due twice? A retained one is, with each new subscription."""
    return len(entry) >= ENTRY_HEADER and entry[OPTIONS] & (3 | RETAIN) == 2


cdef bytes digest(bytes entry):
    """Of what the entry says, whoever put it."""
    return blake2b(entry[HEADER:], digest_size=8).digest()


cdef inline uint64_t dot_of(bytes value) noexcept:
    return get_u64(<const char*>value + 4)


cdef uint64_t mix(bytes key, uint64_t dot) noexcept:
    """A number for both that no other such pair has, but by chance."""
    cdef const char* p = key
    cdef Py_ssize_t size = len(key)
    cdef uint64_t mixed = dot * ODD, word
    while size > 0:
        word = 0
        memcpy(&word, p, min(size, 8))
        mixed = (mixed ^ word) * ODD
        mixed ^= mixed >> 32
        p += 8
        size -= 8
    return mixed * ODD


cdef bint is_first(int database, bytes value) noexcept:
    """Can it have replaced nothing? Numbers of queues, inboxes, bodies and wills are given once."""
    return (database == QUEUE or database == INBOX) and not (<const char*>value)[FLAGS] & RECEIVED or database == BODIES or database == WILLS


cdef inline int entry_rank(bytes entry) noexcept:
    """Of two in one place, put by hosts that did not know of each other's, the higher one counts."""
    cdef uint8_t flags = <uint8_t>(<const char*>entry)[FLAGS]
    return HELD_RANK if flags & HELD else RECEIVED_RANK if flags & RECEIVED else MESSAGE_RANK


cdef inline bint is_plain(int database) noexcept:
    """Is one put there as good as another one? Sessions and entries of queues have rules of their own; the rest replaces nothing."""
    return database == SUBS or database == PACKET_IDS or database == RETAINED or database == SETTINGS


cdef rank(int database, bytes value):
    """Of two values that were put without knowing of each other the one with the higher rank stays, at every host."""
    if database == RETAINED:    # what was received later
        return received_at(<const char*>value + HEADER), value[HEADER:], dot_of(value)
    if database == SETTINGS and len(value) >= HEADER + 8:    # what was put later
        return get_u64(<const char*>value + HEADER), value[HEADER:], dot_of(value)
    if database == PACKET_IDS and len(value) >= HEADER + 12:    # too: who gives an id again has done with what had it before
        return get_u64(<const char*>value + HEADER + 4) & RECEIVED_MS, value[HEADER:], dot_of(value)
    return 0, value[HEADER:], dot_of(value)


cdef bint covers(dict context, uint64_t dot) except -1:
    """Had whoever has this context seen the commit?"""
    return <uint64_t>context.get(dot >> NUMBER_BITS, 0) >= dot & COMMIT_MASK


cdef uint64_t body_of(bytes value) except? 0:
    """The number of the body that an entry refers to; 0 if it holds its own, or is damaged and could name any."""
    cdef const char* p = value
    cdef Py_ssize_t size = len(value)
    if size < ENTRY_HEADER + 12 or p[FLAGS] & INLINE or zlib.crc32(value[4:]) != get_u32(p):
        return 0
    return get_u64(p + size - 12)


cdef uint64_t charge(bytes value) except? 0:
    """What an entry counts against limits.max_queued_bytes: its message as a whole, wherever that is stored."""
    cdef const char* p = value
    cdef Py_ssize_t size = len(value)
    return size + (get_u32(p + size - 4) if size >= ENTRY_HEADER + 12 and not p[FLAGS] & INLINE else 0)


def parse_entry(bytes value):
    """(received, options, identifiers, record or None, share or None, body number or 0), None if it is damaged."""
    cdef const char* p = value
    cdef size_t size = len(value)
    cdef uint32_t at = ENTRY_HEADER, i
    cdef uint16_t length
    cdef uint8_t flags
    if size < ENTRY_HEADER or zlib.crc32(value[4:]) != get_u32(p):
        return None
    flags = <uint8_t>p[FLAGS]
    identifiers = ()
    if p[IDENTIFIERS]:
        identifiers = tuple([get_u32(p + at + 4 * i) for i in range(<uint8_t>p[IDENTIFIERS])])
        at += 4 * <uint8_t>p[IDENTIFIERS]
    share = None
    if flags & SHARED:
        length = get_u16(p + at)
        share = p[at + 2:at + 2 + length].decode()
        at += 2 + length
    if flags & INLINE:
        return bool(flags & RECEIVED), <uint8_t>p[OPTIONS], identifiers, p[at:size], share, 0
    return bool(flags & RECEIVED), <uint8_t>p[OPTIONS], identifiers, None, share, get_u64(p + at)
