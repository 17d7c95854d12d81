"""Another host as this one's keeper knows it, and what keepers say to each other.

A PEER frame is `16s` node id and a message: one byte of Say, then its body. A link that opens begins with HELLO, answered by
OPEN, which says which of the other's commits are here. Then CHANGES in the order of the commits, or first SNAPSHOT where the
outbox does not go back so far; HAVE answers them when they are on disk and the workers know. Requests travel in the same
order as commits: who is handed a session has its queue by then.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from collections.abc import Iterable

import msgspec

from node.sessions.outbox import EVENT, REPLY, REQUEST
from storage.layout import NUMBER_BITS
from storage.writer import Writer

HELLO = struct.Struct("<QBQ")
OPEN = struct.Struct("<QQB")
SEQ = struct.Struct("<Q")

Context = dict[int, int]  # number of a host -> its last commit that a store has, see storage/writer.pyx

Changes = tuple[int, Context, bytes, bool]  # as in Say.CHANGES

decode_context = msgspec.msgpack.Decoder(Context).decode
decode_changes = msgspec.msgpack.Decoder(Changes).decode
decode_part = msgspec.msgpack.Decoder(
    tuple[int, bytes, int, bytes, Context, bytes, list[tuple[int, bytes, int, bool]]]
).decode


class Say(enum.IntEnum):
    HELLO = 0  # `<QBQ` number of the sender's host, wants one back, its last commit
    OPEN = 1  # `<QQB` the receiver's last commit that the sender has, that it has seen, has acknowledged without the receiver
    CHANGES = 2  # [number of the commit, the sender's context, changes, is the context that of the commit?]
    HAVE = 3  # `<Q` number
    SNAPSHOT = 4  # a part: [database and key from which on it is, those up to which, context there, changes, burials]
    SNAPSHOT_END = 5  # the sender's context when it began
    TAIL = 6  # keys of commits that nobody was told of, as in the outbox
    RESET = 7  # what they hold at the peer that went on, as changes
    CONTEXT = 8  # the sender's
    SYNC = 9  # wants a snapshot
    DIGEST = 12  # the sender's context, digests of its store
    REPAIR = 13  # the sender's context, part of its store; empty: wants all of the receiver's
    IN_SYNC = 11  # nothing is acknowledged without the receiver any more, and it has all that was; node/keeper/shared_clock.py
    REQUEST = REQUEST + 10
    REPLY = REPLY + 10
    EVENT = EVENT + 10


class Peer:
    """Another host, as the directory's outbox knows it."""

    def __init__(self, node_id: bytes, number: int) -> None:
        self.node_id = node_id
        self.name = node_id.hex()[:8]
        self.number = number  # 0: never heard of it
        self.last = 0  # its last commit when its link came up
        self.evictions = 0
        self.open_said = False  # since its link came up
        self.is_heard = False  # it has said what it has, and we have not begun yet
        self.went_on = False  # without us
        self.held: list[bytes] = []  # frames that it sent after that, until we begin
        self.refused = False  # since then: it said what is not understood
        self.saw = 0  # our last commit of which it had something then: a part of a snapshot
        self.has = 0  # our last commit that it had then, or when it was evicted
        self.snapshot: tuple[int, bytes, Context] | None = None  # database, key to go on behind, context when it began
        self.bodies: set[int] = set()  # numbers of those that its snapshot has brought it
        self.applying: deque[list[int]] = deque()  # [number, open answers of workers] in the order in which they came
        self.waiting: deque[tuple[int, bytes | Changes]] = deque()  # its commits, and what comes in their order
        self.to_say: deque[tuple[int, Say, bytes]] = deque()  # (behind which commit of ours, …)
        self.context: Context = {}
        self.ahead: Context = {}  # our store is none that has ever been before it has this: what the peer sent again is not all
        self.sends_again = False  # its last commit that came: what is in it has not changed since
        self.rests_until_ms = 0  # it is not asked for a snapshot again before
        self.rests = False  # and then shall be
        self.is_complete = False  # since it was evicted last it has said that we have all it has
        self.serves = False  # and that it serves: one that has just joined may have nothing

    def renumber(self, number: int) -> None:
        """Its store is another one, and its commits are counted anew."""
        self.number = number
        self.applying.clear()
        self.waiting.clear()

    def break_off(self) -> None:
        """What it has said and is not done yet it says again, or those do who have it; what it was to be told it is no more."""
        self.held.clear()
        self.waiting.clear()
        self.to_say.clear()


def is_whole(writer: Writer, peers: Iterable[Peer]) -> bool:
    """Is the store one that has ever been? While peers send commits again it is `ahead` of some and lacks others."""
    return all(writer.has_seen(peer.ahead) for peer in peers)


def is_past(dot: int, peers: Iterable[Peer]) -> bool:
    """Does a store that is `ahead` have what came of the commit that put this, but not the commit itself?"""
    number, seq = dot >> NUMBER_BITS, dot & (1 << NUMBER_BITS) - 1
    return any(peer.ahead.get(number, 0) >= seq for peer in peers if not (peer.number == number and peer.sends_again))
