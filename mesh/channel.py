"""Frames to one peer and from it, complete and in order, or the link is down. Pure: messages and time in, events out.

ZeroMQ drops what waits when a connection ends, and says nothing. So each side numbers its channel: a random id for the channel,
then 1, 2, 3 … for its messages. Both channels together are the link, and it is open when each side has had its id answered:

    we send HELLO(ours, theirs or 0, not open) with each beat until it is open
    HELLO with a new id        that id is theirs; an open link breaks first
    HELLO that answers ours    open: frames may go, from number 1
    HELLO from a side that is not open, or answers another id: answer HELLO
    HELLO of who does not fit  no answer; ours says why not
    a number is missing        the link breaks
    no echo for 3 s, or gone   the link breaks: evicted (detector.py)
    the link breaks            what waits is dropped, ours is a new id, theirs unknown: our HELLO breaks the other side, too

A batch with another id than theirs is late and counts for nothing. Ids are never used again, so an answer to ours is never
an old one. After Up everything that the peer has not acknowledged must be sent again; nothing sent earlier will arrive later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from mesh import frames, versions
from mesh.detector import Dead, Detector, Effect, Gone, Heard, Opened, State, Tick
from mesh.frames import Assembler, Batch, Frame, FrameError, Hello

QUEUE_BYTES_MAX = 16 << 20  # what may wait for the connection to one peer

EVICTED = "evicted: no heartbeat came back for 3 s"
DEAD = "evicted: its host is dead. It refuses connections, and no heartbeat came back for 0.5 s"
STOPPED = "evicted: its host stops"
EVICTIONS = frozenset({EVICTED, DEAD, STOPPED})
LOST = "channel broken: messages were lost on the way. Resync from your last acknowledged sequence"
ANEW = "channel broken: the peer began a new one. Resync from your last acknowledged sequence"
REFUSED = "refused: the peer says what this host does not understand"
NO_MEMBER = "it refuses the key of this host: for it this host is no member, or not yet. If that stays: mqnode join"


class Change(Enum):
    UP = auto()
    SUSPECT = auto()


@dataclass(frozen=True, slots=True)
class Down:
    reason: str


Event = Change | Down | Frame


@dataclass(frozen=True, slots=True)
class Party:
    """Who speaks: the same in all channels of this host."""

    node_id: bytes
    cluster_id: bytes
    incarnation: int
    address: str = ""  # HOST:PORT of this host
    release: str = ""  # of its mqnode


class Channel:
    """To the peer of one id. After each call: `take()` until None is what to send."""

    def __init__(self, party: Party, peer_id: bytes, new_id: Callable[[], int], now_ms: float) -> None:
        self._party = party
        self._peer_id = peer_id
        self._new_id = new_id
        self._detector = Detector(now_ms)
        self._assembler = Assembler()
        self._queue: deque[tuple[int, tuple[bytes | memoryview, ...]]] = deque()  # frames: size, parts
        self.queue_bytes = 0
        self._ours, self._theirs = new_id(), 0
        self._sent = self._received = 0  # numbers of the last batches
        self._hello_due, self._beat_due = True, False
        self.open = False
        self.version = 0  # that both speak
        self.incarnation = 0  # the peer's
        self.address = ""  # at which the peer says that it is; it may have moved
        self.trouble = ""  # why the peer's HELLO is not answered, or ours
        self._refusal: tuple[int, str] | None = None  # the peer's incarnation, what it said that is not understood
        self._objection = ""
        self.refusals = 0  # times that there was a new one
        self.late = 0  # batches that counted for nothing

    @property
    def state(self) -> str:
        return self._detector.state.value if self.open or self._detector.state is State.EVICTED else "down"

    @property
    def rtt_ms(self) -> float | None:
        return self._detector.rtt_ms

    # -- out --------------------------------------------------------------------------------------------------------------

    def queue(self, kind: int, *body: bytes) -> bool:
        """False: the link is not open, or too much waits. A body, of parts, larger than the queue goes when nothing waits."""
        size = sum(map(len, body))
        if not self.open or (self._queue and self.queue_bytes + size > QUEUE_BYTES_MAX):
            return False
        if size > frames.BODY_BYTES_MAX:
            raise ValueError(f"a body of {size} bytes; {frames.BODY_BYTES_MAX} are the most")
        self._queue.append((frames.FRAME.size + size, (frames.FRAME.pack(size, kind), *body)))
        self.queue_bytes += frames.FRAME.size + size
        return True

    @property
    def has_more(self) -> bool:
        """There is something to `take`."""
        return self._hello_due or (self.open and (self._beat_due or bool(self._queue)))

    def take(self, now_ms: float) -> bytes | None:
        """The next message. It is on its way; if it is lost, the peer will notice."""
        if self._hello_due:
            self._hello_due = False
            return self._hello().encode()
        if not self.has_more:
            return None
        self._beat_due = False
        self._sent += 1
        head = Batch(self._ours, self._sent, *self._detector.beat(now_ms), b"").encode()
        return b"".join((head, *self._take_frames()))

    def _take_frames(self) -> list[bytes | memoryview]:
        """Whole frames as far as they fit, so that the other side need not put them together; else a piece of a large one."""
        parts: list[bytes | memoryview] = []
        room = frames.BATCH_BYTES
        while self._queue and self._queue[0][0] <= room:
            size, frame = self._queue.popleft()
            parts += frame
            room -= size
        if self._queue and not parts:
            size, frame = self._queue[0]
            whole = memoryview(b"".join(frame) if len(frame) > 1 else frame[0])
            parts.append(whole[:room])
            self._queue[0] = size - room, (whole[room:],)
            room = 0
        self.queue_bytes -= frames.BATCH_BYTES - room
        return parts

    def _hello(self) -> Hello:
        return Hello(
            versions.LOWEST,
            versions.HIGHEST,
            self._party.node_id,
            self._party.incarnation,
            self._party.cluster_id,
            self._ours,
            self._theirs,
            self.open,
            self._party.address,
            self._party.release,
            self._objection,
        )

    # -- in -----------------------------------------------------------------------------------------------------------------

    def tick(self, now_ms: float) -> list[Event]:
        events: list[Event] = []
        for effect in self._detector.step(now_ms, Tick()):
            match effect:
                case Effect.BEAT if self.open:
                    self._beat_due = True
                case Effect.BEAT:
                    self._hello_due = True
                case Effect.DOUBT if self.open:
                    events.append(Change.SUSPECT)
                case Effect.EVICT:
                    self.reset()
                    events.append(Down(EVICTED))
        return events

    def silent_ms(self, now_ms: float) -> float:
        return self._detector.silent_ms(now_ms)

    def gone(self, now_ms: float, proof: Gone) -> list[Event]:
        """The peer's host is dead or stops, as it seems."""
        if Effect.EVICT not in self._detector.step(now_ms, proof):
            return []
        self.reset()
        return [Down(DEAD if isinstance(proof, Dead) else STOPPED)]

    def received(self, now_ms: float, message: bytes | memoryview) -> list[Event]:
        try:
            heard = frames.decode(message)
            return self._hear_hello(now_ms, heard) if isinstance(heard, Hello) else self._hear_batch(now_ms, heard)
        except FrameError as error:
            self.trouble = str(error)
            return self._break(LOST)

    def _hear_hello(self, now_ms: float, hello: Hello) -> list[Event]:
        self._set_objection(self._object(hello))
        self.trouble = self._objection or (f"it refuses this host: {hello.objection}" if hello.objection else "")
        if self._objection:
            return []
        events: list[Event] = []
        if hello.channel != self._theirs:
            events = self._break(ANEW)
            self._theirs = hello.channel
        self.incarnation, self.address = hello.incarnation, hello.address
        self.version = versions.common(hello.highest_version)
        if hello.answers == self._ours and not self.open:
            self.open = True
            self._detector.step(now_ms, Opened())
            events.append(Change.UP)
        self._hello_due |= hello.answers != self._ours or not hello.open
        return events

    def _object(self, hello: Hello) -> str:
        if hello.node_id != self._peer_id:
            return f"it says that it is host {hello.node_id.hex()}, but its key is that of {self._peer_id.hex()}"
        if hello.cluster_id != self._party.cluster_id:
            return f"it is in another cluster, {hello.cluster_id.hex()}"
        if self._refusal is not None and self._refusal[0] == hello.incarnation:
            return self._refusal[1]
        return versions.incompatible(hello.lowest_version, hello.highest_version, hello.release, self._party.release)

    def _hear_batch(self, now_ms: float, batch: Batch) -> list[Event]:
        if not self.open or batch.channel != self._theirs:
            self.late += 1
            return []
        if batch.number != self._received + 1:
            return self._break(LOST)
        self._received = batch.number
        effects = self._detector.step(now_ms, Heard(batch.beat, batch.echo, batch.held_us))
        events: list[Event] = [Change.UP for effect in effects if effect is Effect.TRUST]
        if batch.stream:
            events += self._assembler.add(batch.stream)
        return events

    # -- the end ------------------------------------------------------------------------------------------------------------

    def lost(self) -> list[Event]:
        """The connection did not take what `take()` gave."""
        return self._break(LOST)

    def refuse(self, why: str) -> list[Event]:
        """What the peer says is not understood: no link with it until it has started anew."""
        self._refusal = self.incarnation, why
        self.trouble = why
        self._set_objection(why)
        return self._break(REFUSED)

    def _set_objection(self, why: str) -> None:
        self.refusals += why not in ("", self._objection)
        self._objection = why

    def _break(self, reason: str) -> list[Event]:
        was_open = self.open
        self.reset()
        return [Down(reason)] if was_open else []

    def reset(self) -> None:
        """A new channel. The id of one that was not open stays: HELLOs that cross would else never meet."""
        if self.open:
            self._ours = self._new_id()
        self.open = False
        self._theirs = self._sent = self._received = 0
        self._queue.clear()
        self.queue_bytes = 0
        self._assembler.clear()
        self._hello_due, self._beat_due = True, False
