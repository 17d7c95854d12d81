"""The writer against a naive model: dicts of what should be in the store, through commits, aborts and starts.

Every step is an operation as a worker sends it (docs/internals.md) or a change as the keeper makes it. After a commit the
store is read record by record; before a start the closed file is verified as a backup would be.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections import Counter
from copy import deepcopy
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from node.config import Limits
from storage.layout import SessionRecord, WillRecord, client_key, topic_key, u64, unsealed
from storage.store import open_store
from storage.verify import verify
from storage.writer import Writer, parse_entry
from tests.storage.writer_state import RECEIVED, Entry, State, message, payload, topic

REASONS = {1: "dropped_expired", 2: "dropped_too_large", 3: "dropped_denied"}
LIMITS = st.builds(
    Limits,
    max_queued_messages=st.sampled_from([2, 4, 1000]),
    max_queued_bytes=st.sampled_from([300, 100_000]),
    queue_policy=st.sampled_from(["drop_new", "drop_oldest", "refuse"]),
    max_retained_messages=st.sampled_from([1, 1000]),
    max_retained_bytes=st.sampled_from([80, 100_000]),
)
SIZES = st.sampled_from([0, 10, 150, 5000])
Targets = list[tuple[int, int, list[int], str | None]]
WHICH = st.integers(0, 4)  # of the sessions, also one that is over or never was
TARGETS = st.lists(
    st.tuples(
        WHICH,
        st.sampled_from([1, 2, 5, 6]),  # QoS, retain as published
        st.lists(st.integers(1, 268_435_455), max_size=2),
        st.sampled_from([None, "group/t/#"]),
    ),
    max_size=4,
)


class WriterModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mqnode-model-"))
        self.sids: list[int] = [999]  # that nobody has
        self.batch = 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.environment.close()
        shutil.rmtree(self.folder)

    # -- transactions -------------------------------------------------------------------------------------------------

    @initialize(limits=LIMITS)
    def start(self, limits: Limits) -> None:
        self.limits = limits
        self.committed = State()
        self.open()
        for _ in range(3):
            self.open_session()

    def open(self) -> None:
        self.store = open_store(self.folder / "store", 1 << 20, 1 << 30)
        self.writer = Writer(self.store.environment, self.store.databases, self.limits)
        self.begin()

    def begin(self) -> None:
        """After a start or an abort, too: what was committed is there, and no number is given twice."""
        self.state = deepcopy(self.committed)
        for sid in self.state.queues:
            following = self.writer.queue_of(sid).next_qseq
            assert following >= self.state.next_qseq[sid]
            self.state.next_qseq[sid] = following
        self.tally: Counter[str] = Counter()
        self.refused: list[tuple[int, int, int]] = []
        self.grown: dict[int, int] = {}
        self.fired: list[int] = []
        self.store.make_room(100_000)
        self.writer.begin()

    @rule()
    def commit(self) -> None:
        self.writer.commit()
        self.committed = self.state
        assert self.writer.tally == self.tally
        assert self.writer.refused == self.refused
        assert dict(self.writer.wakes()) == self.grown
        assert self.writer.fired_wills == self.fired
        self.compare()
        self.begin()

    @rule()
    def abort(self) -> None:
        self.writer.abort()
        self.writer.load()
        self.compare()
        self.begin()

    @rule()
    def start_again(self) -> None:
        """As after a kill: what is not committed is gone."""
        self.writer.abort()
        self.store.environment.close()
        verify(self.folder / "store" / "data.mdb")
        full = self.writer.full
        self.open()
        self.writer.full = full

    def compare(self) -> None:
        state, bodies = self.committed, set()
        assert self.writer.digests() == Writer(self.store.environment, self.store.databases, self.limits).digests()
        with self.store.environment.begin() as transaction:
            records = {
                name: dict(transaction.cursor(db=database)) for name, database in self.store.databases.items()
            }  # fmt: skip
        found: dict[int, dict[int, Entry]] = {sid: {} for sid in state.queues}
        for key, value in records["queue"].items():
            received, options, identifiers, record, share, body = parse_entry(value)
            size = len(value)
            if body:
                bodies.add(u64(body))
                record = unsealed(records["bodies"][u64(body)])
                size += len(record)
            entry = Entry(options, identifiers, share, RECEIVED if received else record, size)
            found[int.from_bytes(key[:8], "big")][int.from_bytes(key[8:], "big")] = entry
        assert found == state.queues
        assert bodies == records["bodies"].keys()
        assert set(records["packet_ids"]) == {u64(sid) + struct.pack(">H", each) for sid, each in state.packet_ids}
        assert {topic: unsealed(value) for topic, value in records["retained"].items()} == state.retained
        assert records["wills"].keys() == {u64(each) for each in state.wills}

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "writer"):
            return
        for sid, queue in self.state.queues.items():
            counted = self.writer.queue_of(sid)
            assert (counted.count, counted.size) == (len(queue), sum(each.size for each in queue.values()))
        every = [each for queue in self.state.queues.values() for each in queue.values()]
        assert self.writer.queued_messages == len(every)
        assert self.writer.queued_bytes == sum(each.size for each in every)
        assert self.writer.retained_messages == len(self.state.retained)

    # -- what the keeper changes --------------------------------------------------------------------------------------

    @rule()
    def meet_peers(self) -> None:
        """From then on digests are kept."""
        self.writer.begin_recording()

    @rule()
    def open_session(self) -> None:
        sid = self.writer.new_sid()
        assert sid not in self.state.queues
        session = SessionRecord(**{**dict.fromkeys(SessionRecord.__struct_fields__, 0), "sid": sid, "is_new": False, "inherits": [],
                                   "client_id": f"c{sid}", "user": None, "attached": True})  # fmt: skip
        self.writer.put("sessions", client_key(session.client_id), msgspec.msgpack.encode(session))
        self.writer.queue_of(sid)
        self.sids.append(sid)
        self.state.queues[sid] = {}
        self.state.next_qseq[sid] = 1

    @rule(which=WHICH, most=st.integers(1, 3), sent=st.integers(0, 5))
    def end_session(self, which: int, most: int, sent: int) -> None:
        """Shared messages that another member may get are handed out; here nobody takes them, so they are dropped."""
        sid = self.sid(which)
        if sid not in self.state.queues:
            return
        self.writer.delete("sessions", client_key(f"c{sid}"))
        queue = self.state.queues.pop(sid)
        more = True
        while more:
            more, shared = self.writer.purge(sid, most, sent)
            for qseq, share, record, _ in shared:
                entry = queue.pop(qseq)
                assert (entry.share, entry.record) == (share, record)
                assert entry.options & 3 == 1 or qseq > sent
                self.apply(struct.pack("<BIQQB", 5, 17, sid, qseq, 1))
                self.tally["dropped_expired"] += 1
            more = more or bool(shared)
        self.tally["dropped_session_ended"] += len(queue)
        self.tally += Counter()  # without zeros
        self.state.packet_ids = {each for each in self.state.packet_ids if each[0] != sid}

    @rule()
    def add_will(self) -> None:
        will_id = self.writer.new_will_id()
        record = message(b"will", b"gone", False)
        self.writer.put("wills", u64(will_id), msgspec.msgpack.encode(WillRecord("c", 0, record)))
        self.state.wills.add(will_id)

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.writer.full = full

    # -- what the workers send ------------------------------------------------------------------------------------------

    def sid(self, which: int) -> int:
        return self.sids[which % len(self.sids)]

    def qseq(self, sid: int, which: int) -> int:
        """Of an entry, or just beside one."""
        near = [*self.state.queues.get(sid, {}), self.state.next_qseq.get(sid, 7)]
        return near[which % len(near)]

    def apply(self, operation: bytes) -> None:
        self.batch += 1
        self.writer.apply(struct.pack("<Q", self.batch) + operation, 0, 1, 1)

    @rule(which=WHICH, entry=st.integers(0, 2))
    def done(self, which: int, entry: int) -> None:
        sid = self.sid(which)
        qseq = self.qseq(sid, entry)
        self.apply(struct.pack("<BIQQ", 2, 16, sid, qseq))
        self.state.queues.get(sid, {}).pop(qseq, None)

    @rule(which=WHICH, entry=st.integers(0, 2), reason=st.sampled_from(list(REASONS)))
    def dropped(self, which: int, entry: int, reason: int) -> None:
        sid = self.sid(which)
        qseq = self.qseq(sid, entry)
        self.apply(struct.pack("<BIQQB", 5, 17, sid, qseq, reason))
        if self.state.queues.get(sid, {}).pop(qseq, None):
            self.tally[REASONS[reason]] += 1

    @rule(which=WHICH, entry=st.integers(0, 2))
    def received(self, which: int, entry: int) -> None:
        sid = self.sid(which)
        qseq = self.qseq(sid, entry)
        self.apply(struct.pack("<BIQQ", 3, 16, sid, qseq))
        if qseq in self.state.queues.get(sid, {}):
            self.state.queues[sid][qseq] = Entry(2, (), None, RECEIVED, 15)

    @rule(which=WHICH, packet_id=st.integers(1, 3))
    def released(self, which: int, packet_id: int) -> None:
        self.apply(struct.pack("<BIQH", 4, 10, self.sid(which), packet_id))
        self.state.packet_ids.discard((self.sid(which), packet_id))

    @rule(to=TARGETS, size=SIZES)
    def publish(self, to: Targets, size: int) -> None:
        self.send(to, message(b"t", b"x" * size, False))

    @rule(to=TARGETS, size=SIZES, topic=st.sampled_from([b"a", b"b" * 450]))
    def publish_retained(self, to: Targets, size: int, topic: bytes) -> None:
        self.send(to, message(topic, b"y" * size, True))

    @rule(to=TARGETS, publisher=WHICH, packet_id=st.integers(1, 2), times=st.integers(1, 2))
    def publish_qos2(self, to: Targets, publisher: int, packet_id: int, times: int) -> None:
        """Perhaps again, as a client does that had no PUBREC."""
        for _ in range(times if self.sid(publisher) in self.state.queues else 0):
            self.send(to, message(b"t", b"z", False), flow=(self.sid(publisher), packet_id))

    @rule(to=TARGETS)
    def publish_will(self, to: Targets) -> None:
        self.send(to, message(b"t", b"w", False), will=max(self.state.wills, default=999))

    @rule(to=TARGETS, which=WHICH, entry=st.integers(0, 2))
    def publish_moved(self, to: Targets, which: int, entry: int) -> None:
        sid = self.sid(which)
        self.send(to, message(b"t", b"m", False), moved=(sid, self.qseq(sid, entry)))

    def send(
        self, to: Targets, record: bytes, flow: tuple[int, int] = (0, 0), will: int = 0, moved: tuple[int, int] = (0, 0)
    ) -> None:
        targets = [(self.sid(which), *rest) for which, *rest in to]
        body = struct.pack("<QHQQQH", *flow, will, *moved, len(targets))
        for sid, options, identifiers, share in targets:
            body += struct.pack("<QBB", sid, options | (8 if share else 0), len(identifiers))
            body += struct.pack(f"<{len(identifiers)}I", *identifiers)
            body += struct.pack("<H", len(share)) + share.encode() if share else b""
        self.apply(struct.pack("<BI", 1, len(body) + len(record)) + body + record)
        self.late: list[tuple[int, str, bytes]] = []
        self.expect(targets, record, flow, will, moved)
        self.move_late()

    def move_late(self) -> None:
        """Shared messages for sessions that are over are handed out, too."""
        for sid in sorted(self.writer.late):
            for number, share, record, is_late in self.writer.purge(sid, 1, 0)[1]:
                assert is_late
                self.late.remove((sid, share, record))
                self.apply(struct.pack("<BIQQB", 5, 17, sid, number, 1))
                self.tally["dropped_expired"] += 1
            assert self.writer.purge(sid, 1, 0) == (False, [])
        self.writer.late.clear()
        assert not self.late

    # -- what a publish should do -----------------------------------------------------------------------------------------

    def expect(self, targets, record, flow, will, moved) -> None:
        state = self.state
        if will:
            if will not in state.wills:
                return
            state.wills.remove(will)
            self.fired.append(will)
        if moved[0] and state.queues.get(moved[0], {}).pop(moved[1], None) is None:
            return
        if flow[1] and flow in state.packet_ids:
            return
        refused = self.refusal(targets, record, bool(will), bool(moved[0]))
        if refused:
            self.refused.append((self.batch, 0, 0x97))
            self.tally[refused] += 1
            return
        if flow[1]:
            state.packet_ids.add(flow)
        if record[0] & 4:
            self.retain(record)
        for sid, options, identifiers, share in targets:
            head = 15 + 4 * len(identifiers) + (2 + len(share) if share else 0)
            size = head + len(record) + (0 if len(targets) == 1 else 12)
            self.enqueue(sid, Entry(options, tuple(identifiers), share, record, size))

    def refusal(self, targets, record, will, moved) -> str:
        limits, state = self.limits, self.state
        if self.writer.full and not will and not moved and (targets or not record[0] & 4 or payload(record)):
            return "refused_disk_full"
        if limits.queue_policy == "refuse" and not moved:
            for sid, *_ in targets:
                queue = state.queues.get(sid, {})
                size = sum(each.size for each in queue.values())
                if sid in state.queues and (
                    len(queue) >= limits.max_queued_messages or size + len(record) > limits.max_queued_bytes
                ):
                    return "refused_quota"
        if record[0] & 4 and payload(record):
            new = topic_key(topic(record)) not in state.retained
            if len(record) > limits.max_retained_bytes or (new and len(state.retained) >= limits.max_retained_messages):
                return "refused_quota"
        return ""

    def retain(self, record: bytes) -> None:
        if payload(record):
            self.state.retained[topic_key(topic(record))] = record
        elif self.state.retained.pop(topic_key(topic(record)), None):
            self.tally["retained_deleted"] += 1

    def enqueue(self, sid: int, entry: Entry) -> None:
        limits, queue = self.limits, self.state.queues.get(sid)
        if queue is None and entry.share is not None:
            self.late.append((sid, entry.share, entry.record))
            return
        if queue is None:
            self.tally["dropped_session_ended"] += 1
            return
        while queue and limits.queue_policy != "refuse":
            if len(queue) >= limits.max_queued_messages:
                self.tally["dropped_queue_full"] += 1
            elif sum(each.size for each in queue.values()) + entry.size > limits.max_queued_bytes:
                self.tally["dropped_queue_bytes"] += 1
            else:
                break
            if limits.queue_policy == "drop_new":
                return
            del queue[min(queue)]
        qseq = self.state.next_qseq[sid]
        queue[qseq] = entry
        self.grown[sid] = qseq
        self.state.next_qseq[sid] = qseq + 1


WriterModel.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestWriterModel = pytest.mark.timeout(400)(WriterModel.TestCase)  # a failure is made small first, which takes its time


def test_a_shorter_value_in_the_same_commit_is_no_damage() -> None:
    model = WriterModel()
    model.start(limits=Limits(max_retained_bytes=100_000))
    model.publish_retained(size=5000, to=[], topic=b"a")
    model.publish_retained(size=10, to=[], topic=b"a")
    model.commit()
    model.start_again()
    model.teardown()
