"""When a session whose client is gone ends by itself (MQTT's session expiry interval)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.layout import SessionRecord

if TYPE_CHECKING:
    from node.sessions.directory import Directory

NEVER = 0xFFFFFFFF


def is_expired(record: SessionRecord, now_ms: int) -> bool:
    if record.attached or record.expiry_s == NEVER:
        return False
    return now_ms >= _due_ms(record)


class Expiry:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._due_ms: dict[int, int] = {}  # sid -> when its session is looked at

    def later(self, record: SessionRecord) -> None:
        """One timer a session: whoever comes and goes all day long must not leave one each time."""
        if record.expiry_s == NEVER:
            return
        due_ms = _due_ms(record)
        if self._due_ms.get(record.sid, due_ms + 1) > due_ms:
            self._due_ms[record.sid] = due_ms
            self._directory.timers.at(due_ms, lambda now_ms: self._look(record.sid, due_ms, now_ms))

    def _look(self, sid: int, due_ms: int, now_ms: int) -> None:
        if self._due_ms.get(sid) != due_ms:
            return  # an earlier timer was set since
        del self._due_ms[sid]
        record = self._directory.by_sid.get(sid)  # perhaps over and back since
        if record is None or record.attached:
            return
        if not self._directory.elsewhere.owns(record):  # its client may be back at its host already
            return
        if is_expired(record, now_ms):
            self._directory.count("sessions_expired")
            self._directory.end_session(record, now_ms)
        else:
            self.later(record)


def _due_ms(record: SessionRecord) -> int:
    return record.detached_ms + record.expiry_s * 1000
