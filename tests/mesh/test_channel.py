"""Channels: two of them over a wire that loses, delays, duplicates connections and cuts; what arrives is complete and in order."""

from __future__ import annotations

import random
from itertools import count

import msgspec
import pytest

from mesh import channel, frames, versions
from mesh.channel import Change, Channel, Down, Event, Party
from mesh.frames import Assembler, Batch, FrameError, Hello

CLUSTER = b"c" * 16
IDS = [b"a" * 16, b"b" * 16]
STEP_MS = 10


class Pair:
    """Two hosts' channels. A wire is a list of connections; each keeps order; a new one may overtake the older."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.ids = count(1)
        self.sides = [self.channel(side) for side in (0, 1)]
        self.wires: list[list[list[bytes]]] = [[[]], [[]]]  # from side: connections, each with its messages
        self.cut: set[int] = set()
        self.events: list[list[Event]] = [[], []]  # all that each side was told

    def channel(self, side: int) -> Channel:
        party = Party(IDS[side], CLUSTER, 1)
        return Channel(party, IDS[1 - side], lambda: next(self.ids), self.now)

    def reconnect(self, side: int, lose: bool = True) -> None:
        """The side's connection ends; what waits is lost, or arrives at some later time."""
        last = self.wires[side][-1]
        if lose:
            del last[self.random.randint(0, len(last)) :]
        self.wires[side].append([])

    def double(self, side: int) -> None:
        """What waits on the side's connection comes twice."""
        self.wires[side][-1] *= 2

    def step(self) -> None:
        self.now += STEP_MS
        for side in (0, 1):
            self.events[side] += self.sides[side].tick(self.now)
            while (message := self.sides[side].take(self.now)) is not None:
                if side not in self.cut:
                    self.wires[side][-1].append(message)
            connections = [each for each in self.wires[side] if each]
            while connections:
                chosen = self.random.choice(connections)
                message = chosen.pop(0)
                self.events[1 - side] += self.sides[1 - side].received(self.now, message)
                connections = [each for each in connections if each]
                if self.random.random() < 0.2:
                    break
            self.wires[side] = [each for each in self.wires[side][:-1] if each] + self.wires[side][-1:]

    def run(self, ms: int) -> None:
        for _ in range(ms // STEP_MS):
            self.step()

    def up(self) -> bool:
        return all(side.open for side in self.sides)


def changes(events: list[Event]) -> list[str]:
    names = {Change.UP: "up", Change.SUSPECT: "suspect"}
    return [
        event.reason.split(":")[0] if isinstance(event, Down) else names[event]
        for event in events
        if not isinstance(event, tuple)
    ]


def test_a_link_opens_and_frames_of_any_size_arrive() -> None:
    pair = Pair()
    assert not pair.sides[0].queue(1, b"too early")
    pair.run(500)
    assert pair.up()
    bodies = [b"", b"x", b"y" * frames.BATCH_BYTES, b"z" * (3 * frames.BATCH_BYTES + 1), b"end"]
    for kind, body in enumerate(bodies):
        assert pair.sides[0].queue(kind, body)
    pair.run(500)
    assert [each for each in pair.events[1] if isinstance(each, tuple)] == list(enumerate(bodies))
    pair.run(20_000)
    assert changes(pair.events[0]) == changes(pair.events[1]) == ["up"]


def test_what_waits_is_bounded() -> None:
    pair = Pair()
    pair.run(500)
    sender = pair.sides[0]
    assert sender.queue(1, b"x" * (channel.QUEUE_BYTES_MAX + 1)), "larger than the queue, but alone"
    assert not sender.queue(1, b"x")
    pair.run(5_000)
    accepted = 0
    while sender.queue(1, b"x" * 1000):
        accepted += 1
    assert sender.queue_bytes <= channel.QUEUE_BYTES_MAX + 1000
    pair.run(5_000)
    assert sum(isinstance(each, tuple) for each in pair.events[1]) == accepted + 1
    with pytest.raises(ValueError, match="the most"):
        sender.queue(1, bytes(frames.BODY_BYTES_MAX + 1))


def test_lost_messages_are_noticed_even_if_nothing_follows() -> None:
    pair = Pair()
    pair.run(500)
    assert pair.sides[0].queue(1, b"lost")
    assert pair.sides[0].take(pair.now)
    assert not [each for each in pair.events[1] if isinstance(each, tuple)]
    pair.run(1_000)
    for events in pair.events:
        assert changes(events) == ["up", "channel broken", "up"]


def test_a_message_that_comes_twice_counts_once() -> None:
    """Row 61 of docs/acceptance.md. The link breaks, and the sides compare what they have."""
    pair = Pair()
    pair.run(500)
    assert pair.sides[0].queue(1, b"once")
    message = pair.sides[0].take(pair.now)
    assert message is not None
    for _ in range(2):
        pair.events[1] += pair.sides[1].received(pair.now, message)
    pair.run(1_000)
    assert [each for each in pair.events[1] if isinstance(each, tuple)] == [(1, b"once")]
    assert changes(pair.events[1]) == ["up", "channel broken", "up"]


def test_a_lost_hello_costs_a_beat_and_no_eviction() -> None:
    pair = Pair()
    for side, other in ((0, 1), (1, 0)):
        message = pair.sides[side].take(pair.now)
        assert message is not None
        pair.events[other] += pair.sides[other].received(pair.now, message)
    assert pair.sides[0].open
    assert pair.sides[0].take(pair.now), "the answer that opens the other side; lost"
    pair.run(600)
    assert pair.up()
    assert "evicted" not in changes(pair.events[0]) + changes(pair.events[1])


def test_a_batch_of_an_earlier_channel_counts_for_nothing() -> None:
    pair = Pair()
    pair.run(500)
    for side in pair.sides:
        assert side.queue(1, b"late")
    late = [side.take(pair.now) for side in pair.sides]
    for side in pair.sides:
        assert side.lost()
    pair.run(100)
    assert pair.up()
    for side, message in zip(pair.sides, reversed(late), strict=True):
        assert message is not None
        message = message[:9] + (side._received + 1).to_bytes(8, "little") + message[17:]  # just the next number
        assert side.received(pair.now, message) == []
        assert side.late == 1


def test_a_peer_that_began_anew_is_noticed_at_once() -> None:
    pair = Pair()
    pair.run(500)
    pair.sides[1] = pair.channel(1)
    pair.events[1].clear()
    pair.run(100)
    assert changes(pair.events[0]) == ["up", "channel broken", "up"]
    assert changes(pair.events[1]) == ["up"]


@pytest.mark.parametrize("cut", [{0}, {1}, {0, 1}])
def test_a_cut_of_one_direction_is_down_for_both_until_it_heals(cut: set[int]) -> None:
    pair = Pair()
    pair.run(1_000)
    pair.cut = cut
    pair.run(1_600)
    assert [changes(events) for events in pair.events] == [["up", "suspect"]] * 2
    pair.run(2_500)
    assert not any(side.queue(1, b"x") for side in pair.sides)
    pair.run(5_000)
    assert all("evicted" in changes(events) for events in pair.events)
    assert not pair.up()
    pair.cut = set()
    pair.run(600)
    assert pair.up()
    pair.run(10_000)
    assert all(changes(events)[-1] == "up" for events in pair.events)


def test_a_peer_that_never_comes_is_evicted_once() -> None:
    pair = Pair()
    pair.cut = {0, 1}
    pair.run(20_000)
    assert [changes(events) for events in pair.events] == [["evicted"], ["evicted"]]


def episodes(events: list[Event]) -> list[list[tuple[int, int]]]:
    """What arrived, (episode of the sender, number), from one Up to the next."""
    found: list[list[tuple[int, int]]] = [[]]
    open_ = False
    for event in events:
        if isinstance(event, tuple):
            assert open_, "a frame while the link is down"
            episode, number, _ = event[1].split(b" ")
            found[-1].append((int(episode), int(number)))
        elif event is Change.UP and not open_:
            open_ = True
            found.append([])
        elif isinstance(event, Down):
            open_ = False
    return found


@pytest.mark.parametrize("seed", range(60))
def test_under_faults_each_episode_is_a_prefix_of_what_was_sent(seed: int) -> None:
    pair = Pair(seed)
    dice = pair.random
    ups, sent = [0, 0], [0, 0]
    for _ in range(1_500):
        pair.step()
        for side in (0, 1):
            now_up = sum(isinstance(event, Down) for event in pair.events[side])
            if now_up != ups[side]:
                ups[side], sent[side] = now_up, 0
            for _ in range(dice.randint(0, 3)):
                length = dice.choice([0, 0, 0, 200_000])  # some take two batches
                if pair.sides[side].queue(1, b"%d %d " % (ups[side], sent[side]) + bytes(length)):
                    sent[side] += 1
        fault = dice.random()
        if fault < 0.01:
            pair.reconnect(dice.randint(0, 1), lose=dice.random() < 0.7)
        elif fault < 0.015:
            pair.cut = dice.choice([set(), {0}, {1}, {0, 1}])
        elif fault < 0.02:
            pair.double(dice.randint(0, 1))
    for events in pair.events:
        for episode in episodes(events):
            assert len({sender for sender, _ in episode}) <= 1
            assert [number for _, number in episode] == list(range(len(episode)))
    pair.cut = set()
    pair.run(6_000)
    assert pair.up(), "healed, and not up"
    quiet = [len(changes(events)) for events in pair.events]
    pair.run(10_000)
    assert [len(changes(events)) for events in pair.events] == quiet, "no faults, and no rest"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"node_id": b"x" * 16}, "but its key is"),
        ({"cluster_id": b"x" * 16}, "another cluster"),
        ({"lowest_version": 2, "highest_version": 3}, "upgrade the older"),
        ({"lowest_version": 0, "highest_version": 0}, "upgrade the older"),
    ],
)
def test_who_does_not_fit_is_not_answered(change: dict[str, object], text: str) -> None:
    me = Channel(Party(IDS[0], CLUSTER, 1), IDS[1], lambda: 7, 0)
    fields: dict[str, object] = {
        "lowest_version": 1, "highest_version": 1, "node_id": IDS[1], "incarnation": 1, "cluster_id": CLUSTER,
        "channel": 9, "answers": 7, "open": False, **change,
    }  # fmt: skip
    assert me.received(0, Hello(**fields).encode()) == []  # type: ignore[arg-type]
    assert text in me.trouble
    assert not me.open


@pytest.mark.parametrize("message", [b"", b"\x00", b"\x01", b"\x01\xc0", b"\x02short", b"\x03" * 40, b"\x01\x91\x01"])
def test_bytes_that_are_no_message_break_the_link(message: bytes) -> None:
    pair = Pair()
    pair.run(500)
    assert [type(each) for each in pair.sides[0].received(pair.now, message)] == [Down]
    assert "message" in pair.sides[0].trouble
    pair.run(1_000)
    assert pair.up()
    assert not pair.sides[0].trouble


def test_a_frame_beyond_the_bound_is_refused_before_it_is_read() -> None:
    with pytest.raises(FrameError, match="the most"):
        Assembler().add(frames.FRAME.pack(frames.BODY_BYTES_MAX + 1, 1))


def test_a_message_is_what_internals_md_says() -> None:
    batch = Batch(2, 3, 4, 5, 6, b"\x01\x00\x00\x00\x09x")
    parts = ["02", "0200000000000000", "0300000000000000", "04000000", "05000000", "06000000", "0100000009", "78"]
    assert batch.encode() == bytes.fromhex("".join(parts))
    assert frames.decode(batch.encode()) == batch
    assert Assembler().add(batch.stream) == [(9, b"x")]


def test_who_says_what_is_not_understood_is_refused_until_it_has_started_anew() -> None:
    """guarantees.md, mixed versions: its stream stops, and both sides know why."""
    pair = Pair()
    pair.run(500)
    pair.events[0] += pair.sides[0].refuse("it says frame 99")
    assert changes(pair.events[0]) == ["up", "refused"]
    pair.run(5_000)
    assert changes(pair.events[1]) == ["up", "channel broken", "evicted"]
    assert (pair.sides[0].trouble, pair.sides[0].refusals) == ("it says frame 99", 1)
    assert pair.sides[1].trouble == "it refuses this host: it says frame 99"
    pair.sides[1] = Channel(Party(IDS[1], CLUSTER, 2), IDS[0], lambda: next(pair.ids), pair.now)
    pair.run(1_000)
    assert pair.up()
    assert not any(side.trouble for side in pair.sides)


@pytest.mark.parametrize(("theirs", "spoken"), [((1, 1), 1), ((1, 2), 2), ((2, 3), 2)])
def test_the_highest_version_that_both_speak(
    monkeypatch: pytest.MonkeyPatch, theirs: tuple[int, int], spoken: int
) -> None:
    monkeypatch.setattr(versions, "HIGHEST", 2)
    me = Channel(Party(IDS[0], CLUSTER, 1), IDS[1], lambda: 7, 0)
    assert me.received(0, Hello(*theirs, IDS[1], 1, CLUSTER, 9, 7, False).encode()) == [Change.UP]
    assert me.version == spoken


def test_two_releases_without_a_common_version_are_both_named() -> None:
    me = Channel(Party(IDS[0], CLUSTER, 1, release="0.1.0"), IDS[1], lambda: 7, 0)
    for _ in range(3):
        me.received(0, Hello(2, 3, IDS[1], 1, CLUSTER, 9, 0, False, release="0.3.0").encode())
    assert "mqnode 0.3.0 and speaks versions 2 to 3" in me.trouble
    assert "mqnode 0.1.0 and speaks 1 to 1: upgrade" in me.trouble
    assert me.refusals == 1
    assert Hello(*msgspec.msgpack.decode((me.take(0) or b"")[1:])).objection == me.trouble
