"""The clock of this host's store beside those of the others, which judge by theirs when what is stored here expires.

A store's clock goes on whatever happens to the wall clock (storage/store.py), but a boot may have begun with a wrong one. Hosts
tell theirs when they say IN_SYNC, so before a keeper that starts serves anybody. If it is apart from that of a host that
serves, or behind that of one that starts, too, the keeper ends, and the next one begins with the other's. One that serves
already only says so: what it has stored would expire at once.
"""

from __future__ import annotations

import struct
from typing import Any

from node.keeper.peer import Peer
from node.sessions.directory import Directory
from storage.layout import META_BOOT
from storage.writer import Writer

APART_MS = 10_000  # more than a message takes
_CLOCK = struct.Struct("<QB")


class SharedClock:
    def __init__(self, writer: Writer, directory: Directory, log: Any) -> None:
        self._writer, self._directory, self._log = writer, directory, log
        self._is_right = False  # as that of a host that serves
        self.is_joining = False  # then we do not serve
        self.wrong_by_ms = 0  # what the next keeper has to add

    def told(self) -> bytes:
        return _CLOCK.pack(self._directory.now_ms, not (self._writer.is_settling or self.is_joining))

    def heard(self, peer: Peer, message: bytes) -> None:
        if not message:  # an older release does not tell it
            peer.serves = True
            return
        clock_ms, serves = _CLOCK.unpack(message)
        peer.serves = bool(serves)
        ahead_ms = clock_ms - self._directory.now_ms
        if abs(ahead_ms) < APART_MS:
            self._is_right = self._is_right or bool(serves)
        elif not self._writer.is_settling:
            self._log.error(
                "clocks_apart", peer=peer.name, its_clock_ahead_s=ahead_ms // 1000,
                cause="one of both hosts started alone, with a wrong wall clock",
                effect="messages and sessions with an expiry end that much earlier, or later, at the other host",
                next="set both wall clocks by NTP (timedatectl), then restart mqnode on the host that was wrong",
            )  # fmt: skip
        elif not self._is_right and (serves or ahead_ms > 0) and self._writer.get("meta", META_BOOT) is not None:
            self.wrong_by_ms = ahead_ms
            self._log.warning(
                "clock_corrected", peer=peer.name, by_s=ahead_ms // 1000, cause="the wall clock was wrong at the start",
                effect="expiries count by the other host's clock", next="set this host's wall clock by NTP (timedatectl)",
            )  # fmt: skip
