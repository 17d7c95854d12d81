"""Another host asks for a session, whose client is there (node/sessions/fetch.py): who has it hands it over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.sessions.fetch import RETRY_MS
from node.sessions.outbox import Answer, Link
from node.sessions.owners import TAKEN_OVER
from storage.layout import SessionRecord

if TYPE_CHECKING:
    from node.sessions.directory import Directory


def release(
    directory: Directory, peer: Link, answer: Answer, now_ms: int, cid: str, sid: int, end: bool = False
) -> None:
    """`end`: a connection that the client has here, too. But not when that took time: the client may have come here since."""
    elsewhere, record = directory.elsewhere, directory.by_sid.get(sid)
    if record is not None and is_left_to_us(directory, record):
        elsewhere.own(record, True)
    if peer.number < elsewhere.number:
        elsewhere.taking.discard(cid)  # it takes the session, and we ask it
    if record is None or not (elsewhere.owns(record) or cid in elsewhere.taking):
        elsewhere.tell_context(peer)  # it may take the session from a host that is gone, which has told us more
        answer(True, False)
    elif not _may_end(directory, cid, sid):
        directory.timers.at(now_ms + RETRY_MS, lambda later_ms: release(directory, peer, answer, later_ms, cid, sid))
    elif cid in directory.owners and not end:
        answer(False, "the client is connected here")
    elif cid in directory.owners:
        owner = directory.owners[cid]
        directory.end(cid, owner, TAKEN_OVER, lambda: release(directory, peer, answer, directory.now_ms, cid, sid))
    else:
        _hand_over(directory, peer, answer, record)


def is_left_to_us(directory: Directory, record: SessionRecord) -> bool:
    """Was it handed over to us for a client that has gone?"""
    was_given = record.owner == directory.elsewhere.number and not directory.elsewhere.owns(record)
    return was_given and not directory.is_claimed(record.client_id)


def _may_end(directory: Directory, cid: str, sid: int) -> bool:
    """Here, for another host: nothing that happens to it now would be lost."""
    is_moving = cid in directory.elsewhere.taking or directory.is_claimed(cid)
    return not (is_moving or directory.is_unsure(sid) or directory.writer.is_settling)


def _hand_over(directory: Directory, peer: Link, answer: Answer, record: SessionRecord) -> None:
    # It may have ended, or another host have it.
    if directory.by_sid.get(record.sid) is not record or not directory.elsewhere.owns(record):
        answer(True, False)
        return
    directory.elsewhere.give(record, peer.number)
    answer(True, directory.writer.context())
