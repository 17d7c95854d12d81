"""Parts of other hosts' snapshots: between two positions this store has more commits than its context says. Pure.

A part is what a host held there when it had seen a context. That goes for the whole store when the snapshot has come to its end,
and for the part at once: what the context covers and is not here was deleted, or replaced by what is here. So whoever else still
has it, or a next source if the first one dies, brings nothing back. A position is (number of a database, key); a part begins
behind one, and ends with one. It is forgotten once this store has seen as much everywhere.

What a host sends again lacks what later commits, of others too, have changed. Until these are here, if ever, there are *holes*.
"""

from __future__ import annotations

from typing import NamedTuple

from storage.layout import NUMBER_BITS, REPLICATED

Position = tuple[int, bytes]
Context = dict[int, int]  # number of a host -> its last commit that a store has

END: Position = (len(REPLICATED), b"")


class Part(NamedTuple):
    begin: Position
    end: Position
    context: Context

    def has(self, dot: int) -> bool:
        return self.context.get(dot >> NUMBER_BITS, 0) >= dot & ((1 << NUMBER_BITS) - 1)


class Covered:
    def __init__(self) -> None:
        self.parts: dict[int, Part] = {}  # by the numbers under which they are stored
        self.holes: Context = {}  # where these commits are missing
        self._until: Position = (0, b"")

    def put(self, number: int, part: Part) -> None:
        self.parts[number] = part
        self._until = max(self._until, part.end)

    def add(self, part: Part) -> int:
        """Returns its number. One that goes on where the last one ends, and says the same, becomes one with it."""
        number, last = next(reversed(self.parts.items()), (0, None))
        if last is not None and last.end == part.begin and last.context == part.context:
            part = part._replace(begin=last.begin)
        else:
            number += 1
        self.put(number, part)
        return number

    def add_holes(self, context: Context, known: Context, own: int) -> bool:
        """What was sent again is here, of a host with this context. Returns whether there are more holes than before."""
        found = {
            host: seq
            for host, seq in context.items()
            if host != own and seq > max(known.get(host, 0), self.holes.get(host, 0))
        }
        self.holes = self.holes | found
        return bool(found)

    def is_over(self, at: Position, dot: int) -> bool:
        """Had a host whose part this is seen what `dot` put there?"""
        return at <= self._until and any(part.begin < at <= part.end and part.has(dot) for part in self.parts.values())

    def context_at(self, at: Position, context: Context) -> Context:
        """`context`, and what the parts have there."""
        for part in self.parts.values() if at <= self._until else ():
            if part.begin < at <= part.end:
                context = context | {host: max(seq, context.get(host, 0)) for host, seq in part.context.items()}
        return context

    def last(self, host: int) -> int:
        """Of this host's commits of which a part, or a hole, shows something."""
        return max([self.holes.get(host, 0), *(part.context.get(host, 0) for part in self.parts.values())])

    def seen(self, known: Context, own: int) -> list[int]:
        """Forget the parts that the store's context covers by now; returns their numbers."""
        self.holes = {host: seq for host, seq in self.holes.items() if known.get(host, 0) < seq}
        over = [
            number
            for number, part in self.parts.items()
            if all(host == own or known.get(host, 0) >= seq for host, seq in part.context.items())
        ]
        for number in over:
            del self.parts[number]
        if not self.parts:
            self._until = (0, b"")
        return over

    def without(self, host: int) -> None:
        """That host is gone for good, and what only parts have of its commits will not come any more."""
        for number, part in self.parts.items():
            self.parts[number] = part._replace(
                context={each: seq for each, seq in part.context.items() if each != host}
            )

    def behind(self, position: Position, known: Context) -> tuple[Context, Position]:
        """(what this store has behind there, up to where that is so)"""
        context, end = dict(known), END
        for part in self.parts.values():
            if part.begin <= position < part.end:
                context |= {host: max(seq, context.get(host, 0)) for host, seq in part.context.items()}
            end = min([end, *(each for each in (part.begin, part.end) if each > position)])
        return context, end
