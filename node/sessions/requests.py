"""What workers, and the keepers of other hosts, ask the keeper: which part of the directory answers, and what operators ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from node.sessions.outbox import Answer, Link
from node.sessions.release import release
from storage.layout import SessionRecord, setting, setting_key

if TYPE_CHECKING:
    from node.sessions.directory import Directory

KICKED = 0x98
OPERATORS = ("session_delete", "retained_delete", "settings_put")
NOT_YET = "this host does not serve yet, and may have to undo what it does: nothing was done. Try again soon: mqnode check ready"


class Requests:
    def __init__(self, directory: Directory) -> None:
        self._directory, self._reply = directory, directory.outbox.reply
        self._handlers: dict[str, Callable[..., None]] = {
            "claim": directory.claim,
            "unclaim": directory.unclaim,
            "detach": directory.detach,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "barrier": lambda link, answer, now_ms: answer(True, True),
            "release": partial(release, directory),
            "hand_over": self._hand_over,
            "take_over": self._take_over,
            "session_delete": self._session_delete,
            "kick": self._kick,
            "retained_delete": self._retained_delete,
            "settings_put": self._settings_put,
        }

    def take(self, link: Link, number: int, method: str, arguments: dict[str, Any] | list[Any], now_ms: int) -> None:
        """`arguments` by name, or in their order, which costs less: names that were just decoded are compared letter by letter."""
        answer = partial(self._reply, link, number)
        handler = self._handlers.get(method)
        if handler is None:
            answer(False, f"unknown request {method}")
        elif method in OPERATORS and self._directory.writer.is_settling:
            answer(False, NOT_YET)
        elif isinstance(arguments, list):
            handler(link, answer, now_ms, *arguments)
        else:
            handler(link, answer, now_ms, **arguments)

    # -- subscriptions ------------------------------------------------------------------------------------------------------

    def _subscribe(self, link: Link, answer: Answer, now_ms: int, sid: int, subs: list[list[Any]]) -> None:
        record = self._directory.by_sid.get(sid)
        if record is None:
            answer(False, "the session is over")
        elif not self._is_connected(link, record):
            self._too_late(link, answer, record, [filter for filter, _, _ in subs])
        else:
            self._directory.subscriptions.subscribe(record, subs, answer)
            self._directory.presence.tell(record)

    def _unsubscribe(self, link: Link, answer: Answer, now_ms: int, sid: int, filters: list[str]) -> None:
        record = self._directory.by_sid.get(sid)
        if record is None:
            answer(True, True)
        elif not self._is_connected(link, record):
            self._too_late(link, answer, record, filters)
        else:
            self._directory.subscriptions.unsubscribe(record, filters, answer)

    def _is_connected(self, link: Link, record: SessionRecord) -> bool:
        owner = self._directory.owners.get(record.client_id)
        if owner is None or owner.session is None:
            return False
        return owner.link is link and owner.session.sid == record.sid

    def _too_late(self, link: Link, answer: Answer, record: SessionRecord, filters: list[str]) -> None:
        """Asked over an earlier connection, while we were away perhaps: its client was not told that it holds, and may have asked
        otherwise since. The worker hears how it is."""
        changes = self._directory.subscriptions.stored(record, filters)
        self._directory.outbox.ask(link, "subs_changed", {"changes": changes}, urgent=True)
        answer(False, "its client is connected elsewhere")

    # -- this host leaves, or another one has -------------------------------------------------------------------------------

    def _hand_over(self, link: Link, answer: Answer, now_ms: int, to: list[int], most: int) -> None:
        answer(True, self._directory.elsewhere.handover.give(to, most))

    def _take_over(self, link: Link, answer: Answer, now_ms: int, number: int, most: int) -> None:
        answer(True, self._directory.elsewhere.handover.take(number, most))

    # -- operators ----------------------------------------------------------------------------------------------------------

    def _session_delete(self, link: Link, answer: Answer, now_ms: int, cid: str) -> None:
        directory = self._directory
        owner, known = directory.owners.get(cid), directory.sessions.get(cid)
        if known is not None and not directory.elsewhere.owns(known):  # its host would bring it back
            again = partial(self._session_delete, link, answer, now_ms, cid)
            directory.elsewhere.fetch(cid, now_ms, again, lambda: True)
            return

        def delete(ok: bool, result: Any) -> None:
            record = directory.sessions.get(cid)
            if record is not None:
                directory.end_session(record, directory.now_ms)
            answer(True, record is not None)

        if owner is None:
            delete(True, None)
        else:
            ended = {"cid": cid, "conn": owner.connection, "reason": KICKED}
            directory.outbox.ask(owner.link, "takeover", ended, delete)

    def _kick(self, link: Link, answer: Answer, now_ms: int, cid: str, reason: int = KICKED) -> None:
        directory = self._directory
        owner = directory.owners.get(cid)
        if owner is None:
            directory.elsewhere.kick(link, answer, cid)
            return
        ended = {"cid": cid, "conn": owner.connection, "reason": reason}
        directory.outbox.ask(owner.link, "takeover", ended, lambda ok, result: answer(True, True))

    def _retained_delete(self, link: Link, answer: Answer, now_ms: int, topic: str) -> None:
        answer(True, bool(topic) and self._directory.writer.delete_retained(topic.encode()))

    def _settings_put(
        self, link: Link, answer: Answer, now_ms: int, settings: dict[str, str | None], is_new: bool | None = None
    ) -> None:
        """All of them or none; None: it is deleted. `is_new`: none may be there (True), or all must be. Answers with the others."""
        writer = self._directory.writer
        keys = {name: setting_key(name) for name in settings}
        wrong = [
            name for name, key in keys.items() if is_new is not None and is_new == bool(writer.get("settings", key))
        ]
        for name, text in settings.items() if not wrong else ():
            if text is None:
                writer.delete("settings", keys[name])
            else:
                writer.put("settings", keys[name], setting(text, now_ms))
        answer(True, wrong)
