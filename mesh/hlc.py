"""The hybrid logical clock: stamps that follow the wall clock, never go back, and order every change in the cluster.

Pure: wall time is an argument, in ms since 1970. A stamp is 48 bits of ms, a 16-bit counter for changes within one ms, and
the id of the host that made it, so that no two are equal. Stamps of other hosts are observed before own ones are made:
what follows is stamped later. A stamp from more than 60 s ahead is refused: one wrong clock must not win for ever.
"""

from __future__ import annotations

from typing import NamedTuple

COUNTER_BITS = 16
AHEAD_MS_MAX = 60_000
NODE_ID_BYTES = 16


class StampError(ValueError):
    """Text that is no stamp, or a stamp from a clock that is too far ahead."""


class Stamp(NamedTuple):
    """Ordered by time, then by host."""

    time: int  # ms << 16 | counter
    node_id: bytes

    @property
    def ms(self) -> int:
        return self.time >> COUNTER_BITS

    def __str__(self) -> str:
        return f"{self.time:016x}-{self.node_id.hex()}"

    @classmethod
    def parse(cls, text: str) -> Stamp:
        time, _, node_id = text.partition("-")
        try:
            stamp = cls(int(time, 16), bytes.fromhex(node_id))
        except ValueError:
            stamp = None
        if stamp is None or str(stamp) != text or len(stamp.node_id) != NODE_ID_BYTES:
            raise StampError(f"{text!r} is no stamp: 16 hex digits of time, a hyphen, 32 of the host's id")
        return stamp


class Clock:
    """One host's. `last` is what a restart must not fall behind: give it the largest stamp on the disk."""

    def __init__(self, node_id: bytes, last: int = 0) -> None:
        assert len(node_id) == NODE_ID_BYTES
        self.node_id = node_id
        self.last = last

    def now(self, wall_ms: int) -> Stamp:
        """A stamp larger than all made or observed before; beyond the counter's end it runs ahead of the wall clock."""
        self.last = max(self.last + 1, wall_ms << COUNTER_BITS)
        return Stamp(self.last, self.node_id)

    def observe(self, stamp: Stamp, wall_ms: int) -> None:
        if stamp.ms > wall_ms + AHEAD_MS_MAX:
            raise StampError(
                f"the clock of host {stamp.node_id.hex()} is {(stamp.ms - wall_ms) / 1000:.0f} s ahead of this host's: "
                "its changes are refused until both agree. Check the time of both hosts, for example with chronyc tracking."
            )
        self.last = max(self.last, stamp.time)
