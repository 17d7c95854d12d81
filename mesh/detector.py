"""Is a peer there? Pure: one for each peer, `step(now_ms, event) -> [effects]`.

Every 250 ms a beat with our counter goes to the peer, together with the last counter that we heard of it. Only a beat of ours
that comes back so shows that the link works both ways: a one-way cut is a cut, and both sides see it.

    state    event                                    next
    SUSPECT  Opened, or an echo that advances         UP        effect Trust
    UP       no advancing echo for 1 s                SUSPECT   effect Doubt
    SUSPECT  none for 3 s                             EVICTED   effect Evict
    both     Dead, no advancing echo for 0.5 s        EVICTED   effect Evict
    both     Stopped                                  EVICTED   effect Evict
    EVICTED  Opened (a new channel, by both sides)    UP        effect Trust

It starts as SUSPECT: a peer that is not there at the start is evicted 3 s later. Counters go on over channels and cuts;
those of a peer that began anew are told by Opened. Time is the monotonic clock's: no step of the wall clock evicts anybody.
Nor does a pause of ours: Tick comes each 50 ms, and what we slept through is no silence of the peer's. Who wakes up and finds
that it was evicted meanwhile has gone on alone for no moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

BEAT_MS = 250
SUSPECT_MS = 1000
EVICT_MS = 3000
SILENT_MS = 500  # without an echo, before it counts that its host refuses connections
ASLEEP_MS = 500  # between two ticks: this process, or its host, stood still
STANDSTILL_MS = 2500  # after less of it no peer can have evicted us
RTT_WEIGHT = 0.2  # of a new measurement in the average
BEATS_KEPT = 64


class State(Enum):
    SUSPECT = "suspect"
    UP = "up"
    EVICTED = "evicted"


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A channel was opened by a question and its answer: a round trip."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The peer's counter, our counter that it heard last, and for how long it has held that before it answered."""

    beat: int
    echo: int
    held_us: int


@dataclass(frozen=True, slots=True)
class Dead:
    """The peer's host refuses connections that it took before (life.py)."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The peer said that its host stops."""


class Effect(Enum):
    BEAT = "beat"  # send one: `beat()` is what it says
    TRUST = "trust"
    DOUBT = "doubt"
    EVICT = "evict"


Gone = Dead | Stopped
Event = Tick | Opened | Heard | Gone


class Detector:
    def __init__(self, now_ms: float) -> None:
        self.state = State.SUSPECT
        self.rtt_ms: float | None = None
        self._echoed_at = now_ms
        self._ticked_at = now_ms
        self._next_beat_at = now_ms
        self._beat = 0
        self._sent_at: dict[int, float] = {}  # of beats not yet echoed
        self._echoed = 0
        self._heard = 0
        self._heard_at = now_ms

    def beat(self, now_ms: float) -> tuple[int, int, int]:
        """What each message to the peer begins with: our counter, the last one heard, and µs since then."""
        self._sent_at.setdefault(self._beat, now_ms)
        return self._beat, self._heard, min(int((now_ms - self._heard_at) * 1000), 0xFFFFFFFF)

    def silent_ms(self, now_ms: float) -> float:
        """For how long no echo has advanced."""
        return now_ms - self._echoed_at

    def step(self, now_ms: float, event: Event) -> list[Effect]:
        match event:
            case Opened():
                self._heard = 0
                return self._alive(now_ms)
            case Heard():
                return self._hear(now_ms, event)
            case Tick():
                self._wake_up(now_ms)
                return [*self._judge(now_ms), *self._tick(now_ms)]
            case Dead():
                return self._evict() if self.silent_ms(now_ms) >= SILENT_MS else []
            case Stopped():
                return self._evict()

    def _hear(self, now_ms: float, event: Heard) -> list[Effect]:
        if event.beat > self._heard:
            self._heard, self._heard_at = event.beat, now_ms
        if not self._echoed < event.echo <= self._beat:
            return []
        self._echoed = event.echo
        sent_at = self._sent_at.get(event.echo)
        if sent_at is not None:
            measured = max(now_ms - sent_at - event.held_us / 1000, 0.0)
            self.rtt_ms = measured if self.rtt_ms is None else self.rtt_ms + RTT_WEIGHT * (measured - self.rtt_ms)
        self._sent_at = {beat: at for beat, at in self._sent_at.items() if beat > event.echo}
        return [] if self.state is State.EVICTED else self._alive(now_ms)

    def _alive(self, now_ms: float) -> list[Effect]:
        self._echoed_at = now_ms
        if self.state is State.UP:
            return []
        self.state = State.UP
        return [Effect.TRUST]

    def _wake_up(self, now_ms: float) -> None:
        asleep_ms, self._ticked_at = now_ms - self._ticked_at, now_ms
        if asleep_ms >= ASLEEP_MS:
            self._echoed_at = min(self._echoed_at + asleep_ms, now_ms)

    def _judge(self, now_ms: float) -> list[Effect]:
        silent_ms = self.silent_ms(now_ms)
        effects = []
        if self.state is State.UP and silent_ms >= SUSPECT_MS:
            self.state = State.SUSPECT
            effects.append(Effect.DOUBT)
        if self.state is State.SUSPECT and silent_ms >= EVICT_MS:
            effects += self._evict()
        return effects

    def _evict(self) -> list[Effect]:
        if self.state is State.EVICTED:
            return []
        self.state = State.EVICTED
        return [Effect.EVICT]

    def _tick(self, now_ms: float) -> list[Effect]:
        if now_ms < self._next_beat_at:
            return []
        self._next_beat_at = max(self._next_beat_at + BEAT_MS, now_ms)
        self._beat += 1
        if len(self._sent_at) > BEATS_KEPT:
            del self._sent_at[min(self._sent_at)]
        return [Effect.BEAT]
