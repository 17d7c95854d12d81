"""Is our store an old copy: brought back from somewhere, while other hosts have later commits of ours?

It shows when another host says what it has of us. Then this keeper ends, and the next one goes on under a new number
(storage/renumber.py): before it serves anybody if another host was there, else when one comes.
"""

from __future__ import annotations

from typing import Any

from node.keeper.peer import Peer
from storage.layout import META_ALONE, META_FORMER, u64
from storage.writer import Writer


class OldCopy:
    def __init__(self, writer: Writer, log: Any) -> None:
        self._writer, self._log = writer, log
        self.is_found = False
        self.last = 0  # then: of the commits that other hosts know

    def serves(self, is_alone: bool) -> None:
        """Clients are served from now on. What we commit alone no other host has until one comes."""
        if is_alone and self._writer.get("meta", META_ALONE) is None:
            self._writer.put("meta", META_ALONE, u64(self._writer.seq))
        if self._writer.get("meta", META_FORMER) is not None:
            self._log.warning(
                "store_renumbered", cause="it is an old copy: a backup, or an earlier state of the disk",
                effect="its sessions go on; what other hosts know of them is merged; messages may come twice",
                next="mqnode cluster digest",
            )  # fmt: skip

    @property
    def was_alone(self) -> bool:
        """Clients were told of all that is here, and no other host has come since."""
        return self._writer.get("meta", META_ALONE) is not None

    def began(self) -> None:
        """With another host: from now on it may have all."""
        if self._writer.get("meta", META_ALONE) is not None:
            self._writer.delete("meta", META_ALONE)

    def shows(self, peer: Peer, has: int) -> bool:
        """The peer has our commits up to this one: can that be?"""
        alone = self._writer.get("meta", META_ALONE)
        last = self._writer.seq if alone is None else int.from_bytes(alone, "big")
        if has > last and not self.is_found:
            self.is_found, self.last = True, last
            unknown = self._writer.seq - last  # of ours, made while no other host was there
            (self._log.error if unknown else self._log.warning)(
                "store_is_old", peer=peer.name, next="nothing" if not unknown else "ask publishers of that time to repeat it",
                cause=f"it has our commits up to {has}, this store those up to {last}: it is a copy from an earlier time",
                effect="the keeper starts anew with another number"
                + (f"; {unknown} commits since then, made while no other host was there, may be lost" if unknown else ""),
            )  # fmt: skip
        return self.is_found

    def known(self, number: int, last: int) -> int:
        """Up to which commit of this host we claim to have all: of an old copy's new life nothing, so that a snapshot comes; but
        not if the host has fewer, `last`: it is one, too, and has to see that."""
        seq: int = self._writer.peer_seq(number)
        is_former = self._writer.get("meta", META_FORMER) is not None
        return 0 if is_former and last >= seq else seq
