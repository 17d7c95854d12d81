"""A simulated host: the real keeper with the real store, its interconnect process, and a worker (worker.py).

Only the keeper's edges are ours: what it waits for, its clock, its sockets. A crash leaves what the last commit left.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec

from mesh.detector import STANDSTILL_MS
from node.config import Config
from node.config.keys import Cluster, Node
from node.config.keys import Interconnect as InterconnectKeys
from node.interconnect.keeper_bridge import GREETING
from node.keeper.end import begins_anew
from node.keeper.keeper import HELLO, Keeper
from node.keeper.link import LOST, Link
from node.keeper.replicas import PEER
from node.sessions.outbox import EVENT
from storage.layout import store_path
from storage.store import Store, open_store
from tests.simulation.invariants import Memory, Watch
from tests.simulation.world import Wire, World

if TYPE_CHECKING:
    from tests.simulation.worker import Worker
    from tests.simulation.world import Pair

encode = msgspec.msgpack.encode
decode = msgspec.msgpack.decode
CRASH_POINTS = ("before_commit", "after_commit", "after_report")


class Crashed(Exception):
    pass


class _Socket:
    """Stands for a socket of which only the number matters."""

    _numbers = 1000

    def __init__(self) -> None:
        _Socket._numbers += 1
        self._number = _Socket._numbers

    def fileno(self) -> int:
        return self._number

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Pipe(Link):
    """The keeper's end of a link; `process` gets its frames."""

    __slots__ = ("watch", "wire")

    def __init__(self, host: Host, deliver: Callable[[tuple[int, bytes]], None]) -> None:
        super().__init__(_Socket())  # type: ignore[arg-type]
        self.wire = Wire(host.world, deliver, 0.5, host)
        self.watch: Watch

    def queue(self, kind: int, body: bytes | bytearray) -> None:
        if kind != PEER:
            self.watch.leaves(self, kind, body)
        self.wire.send((kind, bytes(body)))


class SimKeeper(Keeper):
    def __init__(self, host: Host) -> None:
        super().__init__(host.config)
        self.poll.close()
        self.poll = _Socket()  # type: ignore[assignment]
        self.host = host
        self.came: list[tuple[Link, int, bytes]] = []
        self.pipes: list[Pipe] = []
        self.crash_at: str | None = None
        self.watch = Watch(self, host)
        self.log = SimpleNamespace(  # type: ignore[assignment]
            info=lambda *_, **__: None, warning=self._note, error=self._note, critical=self._note
        )
        self.open()
        self.watch.begin()

    def _note(self, event: str, **facts: Any) -> None:
        self.host.world.say(f"{self.host} {event} {facts.get('peer', '')}")
        if event == "stores_differ":
            self.host.world.wrong.append(f"{self.host} and {facts['peer']} differ: {facts['databases']}")
        if event == "commits_undone":
            self.host.memory.undone()

    def _open_store(self) -> Store:
        with mock.patch("storage.store.new_number", self.host.new_number):
            store = open_store(store_path(self.config.node.data_dir), 1 << 26, 1 << 30)
        start = store.start_clock
        store.start_clock = lambda *_: start(*self.host.times())  # type: ignore[method-assign]
        return store

    def end_anew(self) -> None:
        """node/keeper/end.py"""
        if self.replicas.old_copy.is_found:
            with mock.patch("storage.store.new_number", self.host.new_number):
                self.store.remember(self.writer.seq)
                self.store.renumber(self.replicas.old_copy.last)
        self.store.shift_clock(self.replicas.clock.wrong_by_ms)

    def _listen(self, path: Path) -> Any:
        return _Socket()

    def now_ms(self) -> int:
        return self.host.times()[1] + self.clock_offset_ms

    def _receive(self) -> list[tuple[Link, int, bytes]]:
        stood_still_ms, self.host.stood_still_ms = self.host.stood_still_ms, 0.0
        self.replicas.tail.stood_still(stood_still_ms / 1000, self.now_ms())
        came, self.came = self.came, []
        return [each for each in came if each[0].socket.fileno() in self.links]

    def _check_disk(self, input_bytes: int) -> None:
        pass

    def _commit(self) -> None:
        self._crash("before_commit")
        super()._commit()
        self.watch.committed()

    def _report(self) -> None:
        self._crash("after_commit")
        super()._report()
        self._crash("after_report")

    def _reach_peers(self) -> None:
        held = list(self.held)
        super()._reach_peers()
        gone = held[: len(held) - len(self.held)]
        said = [number for number, *_, frames in gone if any(self._tells(link, kind) for link, kind, _ in frames)]
        self.watch.said(said[-1] if said else 0)

    def _tells(self, link: Link, kind: int) -> bool:
        """Of what was done. A host that does not serve yet tells its workers where clients are, and its operator how it is."""
        return not self.writer.is_settling or (link.role == "worker" and kind != EVENT)

    def _crash(self, point: str) -> None:
        if self.crash_at == point:
            if point == "before_commit":
                self.writer.abort()
            raise Crashed

    def attach(self, pipe: Pipe) -> None:
        pipe.watch = self.watch
        self.pipes.append(pipe)
        self.links[pipe.socket.fileno()] = pipe

    def close(self) -> None:
        for pipe in self.pipes:  # of which an Owner knows; the garbage collector does not look into that
            del pipe.wire, pipe.watch
        self.store.environment.close()
        self.crash.close()


class Interconnect:
    """What node/interconnect/interconnect.py does between transport and keeper."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.runs = False
        self.cluster = bytes(16)  # to which it belongs
        self._pipe: Pipe | None = None
        self._to_keeper: Wire | None = None
        self._not_greeted: set[bytes] = set()

    def keeper_came(self, keeper: SimKeeper) -> None:
        host = self._host
        self._pipe = pipe = Pipe(host, self._from_keeper)
        keeper.attach(pipe)
        self._to_keeper = Wire(host.world, lambda frame: host.take(pipe, *frame), 0.5, host)
        self._to_keeper.send((HELLO, encode({"role": "interconnect"} | self.members())))
        for node_id, pair in host.pairs.items():
            side = pair.sides[host.index]
            if side.is_up:
                self.tell_up(node_id)
            elif side.evicted:
                self.tell("peer_down", node_id=node_id, evicted=True)

    def members(self) -> dict[str, Any]:
        return {"members": list(self._host.pairs), "left": [], "cluster": self.cluster}

    def keeper_left(self) -> None:
        for wire in (self._to_keeper, self._pipe and self._pipe.wire):
            if wire is not None:
                wire.end()
        self._to_keeper = self._pipe = None

    def tell(self, method: str, **arguments: Any) -> None:
        if self._to_keeper is not None:
            self._to_keeper.send((EVENT, encode([method, arguments])))

    def tell_up(self, node_id: bytes) -> None:
        self._not_greeted.add(node_id)
        self.tell("peer_up", node_id=node_id)

    def _from_keeper(self, frame: tuple[int, bytes]) -> None:
        kind, body = frame
        if kind == PEER:
            node_id, message = body[:16], body[16:]
            if message[0] == GREETING:
                self._not_greeted.discard(node_id)
            if node_id not in self._not_greeted:
                self._host.pairs[node_id].send(self._host, message)

    def from_peer(self, other: Host, body: bytes) -> None:
        if self._to_keeper is not None:
            self._to_keeper.send((PEER, other.node_id + body))


class Host:
    def __init__(self, world: World, index: int, folder: Path, strict: bool = False) -> None:
        from tests.simulation.worker import Worker

        self.world, self.index = world, index
        self.node_id = bytes([index + 1]) * 16
        data_dir = folder / f"host-{index}"
        (data_dir / "run").mkdir(parents=True)
        self.config = Config(
            node=Node(data_dir=str(data_dir), workers=1), interconnect=InterconnectKeys(bind="127.0.0.1:7001"),
            cluster=Cluster(ack_policy="strict" if strict else "available"),
        )  # fmt: skip
        self.pairs: dict[bytes, Pair] = {}
        self.memory = Memory()
        self.interconnect = Interconnect(self)
        self.keeper: SimKeeper | None = None
        self.worker: Worker | None = None
        self._new_worker = lambda: Worker(self)
        self.stands_until = 0.0  # none of its processes runs before
        self.stood_still_ms = 0.0  # as its keeper finds in its next turn
        self._planned: float | None = None
        self._stores = 0

    def new_number(self) -> int:
        """Of a store of this host: of its first one 1, 2, 3 …"""
        self._stores += 1
        return self.index + 1 + 8 * (self._stores - 1)

    def __str__(self) -> str:
        return "ABCDE"[self.index]

    def times(self) -> tuple[int, int, bytes]:
        """Wall clock and monotonic clock, ms; the kernel's boot id."""
        now_ms = int(self.world.now)
        return now_ms + 1_000_000, now_ms, bytes(16)

    @property
    def others(self) -> list[Host]:
        return [pair.sides[self.index].other for pair in self.pairs.values()]

    def has_client(self, cid: str) -> bool:
        """Is the client connected here, and not about to be sent away, as another host has begun its session a moment later?"""
        found = self.worker.clients.get(cid) if self.worker is not None else None
        return found is not None and self.keeper is not None and found.sid in self.keeper.directory.by_sid

    # -- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The machine is switched on."""
        self.world.say(f"{self} starts")
        self.interconnect.runs = True
        for pair in self.pairs.values():
            pair.sides[self.index].evicted = False
            pair.break_channel(True)  # nobody there within 3 s: evicted
            pair.open_soon()
        self.worker = self._new_worker()
        self.start_keeper()

    def stand_still(self, for_ms: float, notices: bool) -> None:
        """`notices`: its keeper, by itself, as it did not happen to commit then; else its interconnect does."""
        self.stands_until = self.world.now + for_ms
        self.stood_still_ms = for_ms if notices else 0.0
        if for_ms > STANDSTILL_MS:
            self.world.at(for_ms, lambda: self.interconnect.tell("stood_still", for_s=for_ms / 1000))
        for pair in self.pairs.values():
            pair.stands_still(self)

    def stop(self, how: str) -> None:
        """Power loss."""
        self.world.say(f"{self} dies {how}")
        self.stop_keeper()
        if self.worker is not None:
            self.worker.die()
        self.worker = None
        self.interconnect.runs = False
        for pair in self.pairs.values():
            pair.sides[self.index].is_up = False
            pair.break_channel(False)

    def start_keeper(self) -> None:
        self.keeper = SimKeeper(self)
        self.interconnect.keeper_came(self.keeper)
        assert self.worker is not None
        self.worker.keeper_came(self.keeper)
        self.wake(0)

    def start_keeper_again(self) -> None:
        if self.keeper is None and self.worker is not None:
            self.start_keeper()

    def ended(self, is_over: bool) -> None:
        """The keeper, to begin anew; `is_over`: with an empty store (leaving.py)."""

    def stop_keeper(self) -> None:
        if self.keeper is not None:
            keeper, self.keeper = self.keeper, None
            self.interconnect.keeper_left()
            if self.worker is not None:
                self.worker.keeper_left()
            keeper.close()

    # -- turns ----------------------------------------------------------------------------------------------------------

    def take(self, link: Pipe, kind: int, body: bytes) -> None:
        if self.keeper is not None:
            self.keeper.came.append((link, kind, body))
            self.wake(self.world.random.uniform(0, 1))

    def link_lost(self, link: Pipe) -> None:
        self.take(link, LOST, b"")

    def wake(self, delay_ms: float) -> None:
        due = self.world.now + max(delay_ms, 0)
        if self._planned is None or due < self._planned:
            self._planned = due
            self.world.at(max(delay_ms, 0), lambda: self._turn(due))

    def _turn(self, due: float) -> None:
        if self._planned != due:
            return
        self._planned = None
        keeper, stands_ms = self.keeper, self.stands_until - self.world.now
        if stands_ms > 0:
            self.wake(stands_ms + self.world.random.uniform(0, 2))
            return
        if keeper is None:
            return
        try:
            keeper.turn()
        except Crashed:
            self.crashed(keeper.crash_at or "")
            return
        if begins_anew(keeper):
            keeper.end_anew()
            self.stop_keeper()
            self.ended(keeper.is_over)
            self.world.at(50, self.start_keeper_again)
            return
        if keeper.more_to_send:
            self.wake(0.2)
        due_ms = keeper.directory.next_due_ms()
        if due_ms is not None:
            self.wake(max(0.2, due_ms - keeper.now_ms()))

    crashed: Callable[[str], None]  # at `crash_at`: set by the schedule
