"""What is set once for all hosts, in the store like all that is replicated: who needs it is told of each change."""

from __future__ import annotations

from node.sessions.outbox import Outbox
from storage.writer import Writer


class Settings:
    def __init__(self, writer: Writer, outbox: Outbox) -> None:
        self._writer, self._outbox = writer, outbox

    def committed(self) -> None:
        """It is on this host's disk, whoever put it. Workers read it there: what it says is in no frame."""
        if self._writer.settings_changed:
            self._outbox.broadcast("settings", {}, urgent=True)
