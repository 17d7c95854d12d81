"""What must hold at every turn of a keeper: the invariants of docs/invariants.md that can be seen there. It only looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.counters import INDEX
from node.keeper import sources
from node.keeper.keeper import COMMITTED
from storage.layout import META_EVICTED, META_INSTANCE, REPLICATED, SessionRecord, u64

if TYPE_CHECKING:
    from node.keeper.link import Link
    from node.keeper.peer import Peer
    from tests.simulation.host import Host, SimKeeper

LOOK_COMMITS = 4  # at sessions and outbox: these looks would cost a tenth of a run's time
TWICE_COMMITS = 8  # of others
Context = dict[int, int]  # number of a host -> its last commit that is in a store


class Memory:
    """Of a host, across the lives of its keeper: what it has had on its disk."""

    def __init__(self, number: int = 0) -> None:
        self.number = number  # of its store
        self.copied: Context = {}
        self.epochs: dict[int, int] = {}  # of each session that it knows
        self.were_in_sync: set[bytes] = set()

    def undone(self) -> None:
        """The host has taken back what nobody was told of."""
        self.epochs.clear()


class Watch:
    """Over one life of a keeper."""

    def __init__(self, keeper: SimKeeper, host: Host) -> None:
        self._keeper, self._host, self._world = keeper, host, host.world
        self._seq = self._commits = 0
        self._acknowledged = 0  # the last commit of which something was said
        self._in_sync = 0
        self._is_degraded = True  # as operators see it when an acknowledgement leaves

    def begin(self) -> None:
        """The keeper has opened its store."""
        self._note_ends()
        self._apply_twice()

    def _fault(self, text: str) -> None:
        self._world.fault(f"{self._host} {text}")

    # -- an acknowledgement leaves --------------------------------------------------------------------------------------

    def leaves(self, link: Link, kind: int, body: bytes) -> None:
        """A frame for a worker: I1 here; what I13 asks for is kept for `said`."""
        keeper = self._keeper
        self._is_degraded = bool(keeper.slot[INDEX["degraded"]])
        if kind != COMMITTED:
            return
        batch = int.from_bytes(body[:8], "little")
        stored = self._on_disk(META_INSTANCE + u64(link.index))
        if stored is None or stored[:8] != u64(link.instance) or int.from_bytes(stored[8:], "big") < batch:
            self._fault(f"I1: acknowledges operations {batch}, which are not on its disk")

    def _on_disk(self, key: bytes) -> bytes | None:
        store = self._keeper.store
        with store.environment.begin() as transaction:
            found: bytes | None = transaction.get(key, db=store.databases["meta"])
        return found

    def said(self, number: int) -> None:
        """What came of the commits up to this one, acknowledgements too, has left. 0: nothing, in this turn."""
        self._acknowledged = max(number, self._acknowledged)
        in_sync = self._keeper.slot[INDEX["peers_in_sync"]]
        if (number or in_sync != self._in_sync) and not self._world.loses_disks:
            self._look_at_copies(number)
        self._in_sync = in_sync

    def _look_at_copies(self, said: int) -> None:
        """I1, I2: what is acknowledged is on the disk of each host in sync, and of a strict one on that of another host."""
        keeper, number = self._keeper, self._keeper.store.number
        replication, others = keeper.replicas.replication, {each.node_id: each for each in self._host.others}
        copied = {node_id: other.memory.copied.get(number, 0) for node_id, other in others.items()}
        in_sync = {peer.node_id for peer, state in replication.peers.items() if state.in_sync}  # type: ignore[attr-defined]
        lacking = [str(others[node_id]) for node_id in in_sync if copied[node_id] < self._acknowledged]
        if lacking:
            self._fault(f"I2: acknowledged {self._acknowledged}, on disk there is {copied}; {lacking} are in sync")
        if said and replication.strict and max(copied.values()) < said:
            self._fault(f"I1: is strict and acknowledges {said}, on disk there is {copied}")
        self._host.memory.were_in_sync |= in_sync
        if said:
            self._look_at_lacking({node_id for node_id, last in copied.items() if last < said})

    def _look_at_lacking(self, lacking: set[bytes]) -> None:
        """I13, of the hosts that the keeper has been told of; and who is gone without what is acknowledged is written down (I1)."""
        lacking &= self._keeper.replicas.peers.keys()
        if lacking and not self._is_degraded:
            self._fault(f"I13: acknowledges what {self._names(lacking)} lack, and mqnode_degraded is 0")
        were = lacking & self._host.memory.were_in_sync
        unwritten = {each for each in were if self._on_disk(META_EVICTED + each) is None}
        if unwritten:
            self._fault(f"I1: acknowledges what {self._names(unwritten)} lack, and has not written that down")

    def _names(self, node_ids: set[bytes]) -> list[str]:
        return [str(each) for each in self._host.others if each.node_id in node_ids]

    # -- after a commit -------------------------------------------------------------------------------------------------

    def committed(self) -> None:
        """I5, I6, I12"""
        writer, number = self._keeper.writer, self._keeper.store.number
        if self._host.memory.number != number:  # a new store, or an old copy that has begun anew
            self._host.memory = Memory(number)
        memory = self._host.memory
        if writer.seq == self._seq and writer.known == memory.copied:
            return
        self._seq, memory.copied = writer.seq, dict(writer.known)
        self._commits += 1
        if self._commits % LOOK_COMMITS == 0:
            self._look_at_sessions(memory)
            self._look_at_outbox()

    def _look_at_sessions(self, memory: Memory) -> None:
        epochs = {sid: record.epoch for sid, record in self._keeper.directory.by_sid.items()}
        for sid, epoch in memory.epochs.items() if not self._world.loses_disks else ():
            if epochs.get(sid, epoch) < epoch:
                self._fault(f"I5: has the session {sid:x} with the epoch {epochs[sid]}, and had it with {epoch}")
        memory.epochs = epochs
        delivered = set() if self._world.was_cut else self.delivered()  # when two sides meet, both do for a moment
        for other in self._host.others if delivered else ():
            both = delivered & other.keeper.watch.delivered() if other.keeper is not None else ()
            if both and are_in_step(self._host, other):
                self._fault(f"I6: and {other} both deliver {[f'{sid:x}' for sid in both]}")

    def delivered(self) -> set[int]:
        """The sessions that this host delivers."""
        directory, writer, number = self._keeper.directory, self._keeper.writer, self._keeper.store.number
        if writer.is_settling:
            return set()
        return {sid for sid, each in directory.by_sid.items() if each.owner == number and sid not in writer.foreign}

    def _look_at_outbox(self) -> None:
        store = self._keeper.store
        with store.environment.begin() as transaction:
            length = transaction.stat(store.databases["outbox"])["entries"]
        if length > sources.KEPT_COMMITS + 2:  # the first one stays, and the last one came after the look
            self._fault(f"I12: keeps {length} commits for others")

    def _note_ends(self) -> None:
        """I5 holds for a session until it ends: another host may not know of that, and goes on with it as of before."""
        directory = self._keeper.directory
        forget = directory.forget

        def ended(record: SessionRecord, ended_here: bool) -> None:
            self._host.memory.epochs.pop(record.sid, None)
            forget(record, ended_here)

        directory.forget = ended  # type: ignore[method-assign]

    # -- a commit of another host ---------------------------------------------------------------------------------------

    def _apply_twice(self) -> None:
        """I4: each so many of what others have committed comes once more."""
        commits, writer = self._keeper.replicas._commits, self._keeper.writer
        changes_once = commits._changes

        def changes_twice(peer: Peer, number: int, context: Context, changes: bytes, is_new: bool, now_ms: int) -> None:
            is_next = number == writer.peer_seq(peer.number) + 1
            changes_once(peer, number, context, changes, is_new, now_ms)
            if is_next and number % TWICE_COMMITS == 0:
                stored = self._stored()
                changes_once(peer, number, context, changes, is_new, now_ms)
                if self._stored() != stored:
                    self._fault(f"I4: took the commit {peer.number}:{number} twice")

        commits._changes = changes_twice  # type: ignore[method-assign]

    def _stored(self) -> dict[str, list[tuple[bytes, bytes]]]:
        return {name: list(self._keeper.writer.cursor(name)) for name in (*REPLICATED, "erased")}

    # -- the end ----------------------------------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """I12: what faults have buried is forgotten when they are over."""
        store = self._keeper.store
        with store.environment.begin() as transaction:
            buried = transaction.stat(store.databases["erased"])["entries"]
        return [f"I12: {self._host} keeps {buried} burials"] if buried else []


def are_in_step(host: Host, other: Host) -> bool:
    """Each has all that the other one had acknowledged, and says nothing without it."""
    for one, two in ((host, other), (other, host)):
        if one.keeper is None:
            return False
        replication = one.keeper.replicas.replication
        peer = one.keeper.replicas.peers.get(two.node_id)
        if peer is None or not replication.is_in_sync(peer):
            return False
    return True
