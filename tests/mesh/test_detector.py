"""The failure detector: two of them over a pretend wire that is cut one way, both ways, or slow."""

from __future__ import annotations

import heapq
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.detector import BEAT_MS, EVICT_MS, SUSPECT_MS, Detector, Effect, Heard, Opened, State, Tick

STEP_MS = 10


class Wire:
    """Two detectors, A and B. `cut` holds the directions that lose everything; `delay_ms` is one way."""

    def __init__(self, delay_ms: int = 1) -> None:
        self.now = 0
        self.sides = [Detector(0), Detector(0)]
        self.cut: set[int] = set()  # of 0: A to B, 1: B to A
        self.delay_ms = delay_ms
        self.log: list[tuple[int, int, Effect]] = []  # when, side, effect
        self._flying: list[tuple[int, int, int, Heard]] = []
        self._order = count()

    def open(self) -> None:
        """A new channel: what flies on the old one counts no more."""
        self._flying.clear()
        for side in (0, 1):
            self._effects(side, self.sides[side].step(self.now, Opened()))

    def run(self, ms: int) -> None:
        for now in range(self.now + STEP_MS, self.now + ms + 1, STEP_MS):
            self.now = now
            while self._flying and self._flying[0][0] <= self.now:
                _, _, to, heard = heapq.heappop(self._flying)
                self._effects(to, self.sides[to].step(self.now, heard))
            for side in (0, 1):
                self._effects(side, self.sides[side].step(self.now, Tick()))

    def _effects(self, side: int, effects: list[Effect]) -> None:
        for effect in effects:
            if effect is not Effect.BEAT:
                self.log.append((self.now, side, effect))
            elif side not in self.cut:
                heard = Heard(*self.sides[side].beat(self.now))
                heapq.heappush(self._flying, (self.now + self.delay_ms, next(self._order), 1 - side, heard))

    def since(self, start: int, effect: Effect) -> list[int]:
        """After how many ms each side had the effect."""
        return [
            min(at for at, by, what in self.log if (by, what) == (side, effect) and at >= start) - start
            for side in (0, 1)
        ]


def test_a_healthy_link_stays_up() -> None:
    wire = Wire()
    wire.open()
    wire.run(60_000)
    assert [what for _, _, what in wire.log] == [Effect.TRUST, Effect.TRUST]
    for side in wire.sides:
        assert side.rtt_ms is not None
        assert side.rtt_ms <= 2 * STEP_MS


@settings(max_examples=50)
@given(st.sets(st.sampled_from([0, 1]), min_size=1), st.integers(0, 300), st.sampled_from([1, 20, 100]))
def test_a_cut_of_one_direction_is_a_cut_for_both(cut: set[int], phase: int, delay_ms: int) -> None:
    wire = Wire(delay_ms)
    wire.open()
    wire.run(2_000 + phase // STEP_MS * STEP_MS)
    start, wire.cut = wire.now, cut
    wire.run(4_000)
    beat_and_way = BEAT_MS + 2 * delay_ms + 2 * STEP_MS
    assert all(
        SUSPECT_MS - BEAT_MS - STEP_MS <= ms <= SUSPECT_MS + beat_and_way for ms in wire.since(start, Effect.DOUBT)
    )
    assert all(EVICT_MS - BEAT_MS - STEP_MS <= ms <= EVICT_MS + beat_and_way for ms in wire.since(start, Effect.EVICT))


def test_a_short_cut_is_doubted_and_forgiven() -> None:
    wire = Wire()
    wire.open()
    wire.run(1_000)
    start, wire.cut = wire.now, {0}
    wire.run(1_500)
    assert [side.state for side in wire.sides] == [State.SUSPECT, State.SUSPECT]
    wire.cut = set()
    wire.run(2_000)
    assert max(wire.since(start + 1_500, Effect.TRUST)) <= 2 * BEAT_MS + 2 * STEP_MS
    assert Effect.EVICT not in [what for _, _, what in wire.log]


def test_the_evicted_comes_back_by_a_new_channel_only() -> None:
    wire = Wire()
    wire.open()
    wire.run(1_000)
    wire.cut = {1}
    wire.run(5_000)
    wire.cut = set()
    wire.run(5_000)
    assert [side.state for side in wire.sides] == [State.EVICTED, State.EVICTED]
    wire.open()
    wire.run(10_000)
    assert [side.state for side in wire.sides] == [State.UP, State.UP]


def test_a_peer_that_never_answers_is_evicted_without_being_doubted() -> None:
    detector = Detector(0)
    log = [
        effect for now in range(0, 5_000, STEP_MS) for effect in detector.step(now, Tick()) if effect is not Effect.BEAT
    ]
    assert log == [Effect.EVICT]


def test_a_peer_that_began_anew_counts_from_the_start() -> None:
    wire = Wire()
    wire.open()
    wire.run(10_000)
    wire.sides[1] = Detector(wire.now)
    wire.open()
    start = wire.now
    wire.run(10_000)
    assert [(by, what) for at, by, what in wire.log if at > start] == []


def test_a_link_that_becomes_slow_stays_up_while_its_echoes_advance() -> None:
    wire = Wire()
    wire.open()
    while wire.delay_ms < 4_000:  # a queue fills
        wire.run(BEAT_MS)
        wire.delay_ms += 50
    wire.run(20_000)
    assert [what for _, _, what in wire.log] == [Effect.TRUST, Effect.TRUST]


def test_after_a_pause_of_the_process_beats_come_at_their_pace() -> None:
    detector = Detector(0)
    detector.step(0, Tick())
    beats = [now for now in range(10_000, 11_001, STEP_MS) if Effect.BEAT in detector.step(now, Tick())]
    assert len(beats) <= 6, "not the forty that were missed"


@pytest.mark.parametrize("asleep_ms", [1_000, 3_500, 60_000])
def test_who_stood_still_waits_for_the_peer_as_if_it_had_not(asleep_ms: int) -> None:
    detector = Detector(0)
    for now in range(0, 900, STEP_MS):
        detector.step(now, Opened() if now == 0 else Tick())
    woke = now + asleep_ms
    found = {
        effect: at
        for at in range(woke, woke + EVICT_MS, STEP_MS)
        for effect in detector.step(at, Tick())
        if effect is not Effect.BEAT
    }
    silent_before = now  # since it was opened
    assert found[Effect.DOUBT] - woke == pytest.approx(SUSPECT_MS - silent_before, abs=STEP_MS)
    assert found[Effect.EVICT] - woke == pytest.approx(EVICT_MS - silent_before, abs=STEP_MS)


def test_who_stood_still_and_hears_the_peer_first_goes_on() -> None:
    detector = Detector(0)
    detector.step(0, Opened())
    detector.beat(0)
    detector.step(BEAT_MS, Tick())
    detector.step(5_000, Heard(1, 1, 0))
    assert Effect.DOUBT not in detector.step(5_001, Tick())
    assert detector.silent_ms(5_001) <= 1


def test_what_repeats_a_beat_is_not_heard_anew() -> None:
    """All messages between two beats carry the same counter; the round trip is measured from the first."""
    detector = Detector(0)
    for now in (0, 100):
        detector.step(now, Heard(1, 0, 0))
    assert detector.beat(150) == (0, 1, 150_000)


def test_an_echo_of_what_was_never_sent_is_no_echo() -> None:
    detector = Detector(0)
    assert detector.step(0, Opened()) == [Effect.TRUST]
    effects = [
        effect
        for now in range(0, 2_000, STEP_MS)
        for event in (Heard(now, 1 << 31, 0), Tick())
        for effect in detector.step(now, event)
    ]
    assert Effect.DOUBT in effects
