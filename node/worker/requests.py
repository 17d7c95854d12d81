"""What the keeper, siblings and the admin process ask of a worker (docs/internals.md, "Requests to a worker")."""

from __future__ import annotations

import fnmatch
import heapq
from typing import TYPE_CHECKING, Any

import gevent

from node.core.loop import Connection, Link
from node.core.wire import split_share, topic_reason
from node.mqtt import client as codes
from node.peers import reply

if TYPE_CHECKING:
    from node.worker.worker import Worker


class Requests:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._present: set[int] = set()  # sids: durable members of shared groups that are online at any host
        self._early: list[tuple[str, bytes, int, int]] | None = []  # to be passed on when this worker is ready

    def handle(self, link: Link, number: int, method: str, arguments: dict[str, Any]) -> None:
        handler = getattr(self, f"_on_{method}", None)
        if handler is None:
            reply(link, number, False, f"unknown request {method}")
            return
        handler(lambda result: reply(link, number, True, result), **arguments)

    def event(self, method: str, arguments: dict[str, Any]) -> None:
        handler = getattr(self, f"_event_{method}", None)
        if handler is not None:
            handler(**arguments)

    # -- of the keeper ----------------------------------------------------------------------------------------------------

    def _on_takeover(self, answer: Any, cid: str, conn: int, reason: int = codes.SESSION_TAKEN_OVER) -> None:
        self.worker.ends.end_client(cid, conn, reason, lambda: answer(True))

    def _on_subs_changed(self, answer: Any, changes: list[list[Any]]) -> None:
        for sid, cid, user, filter, options, identifier in changes:
            self.set_subscription(sid, cid, user, filter, options, identifier)
        answer(True)

    def set_subscription(
        self, sid: int, cid: str, user: str | None, filter: str, options: int | None, identifier: int | None
    ) -> None:
        """A durable session's subscription as the store has it; options None: it is gone."""
        loop = self.worker.loop
        if options is None and sid not in loop.sessions:
            return
        session = loop.session(sid, cid, user)
        session.online = session.attached or sid in self._present
        name = filter.encode()
        share = split_share(name)
        if options is None:
            if share is None:
                session.unsubscribe(name)
            else:
                session.unshare(*share)
        elif share is None:
            session.subscribe(name, options & 0x0F, identifier or 0)
        else:
            session.share(share[0], share[1], options & 0x0F, identifier or 0)

    def _event_subscriptions_missed(self) -> None:
        """Forget those that are not in the store any more: they went while no keeper could tell us."""
        loop = self.worker.loop
        gone = {(session.sid, name.decode()) for session in loop.sessions.values() for name in session.names()}
        gone.difference_update((sid, filter) for sid, _, _, filter, _, _ in self.worker.reader.subscriptions())
        for sid, filter in gone:
            self.set_subscription(sid, "", None, filter, None, None)

    def _event_session_ended(self, sid: int) -> None:
        self._present.discard(sid)
        session = self.worker.loop.sessions.get(sid)
        if session is not None:
            self.worker.loop.drop_session(session)

    def _event_presence(self, online: list[int], offline: list[int]) -> None:
        self._present.update(online)
        self._present.difference_update(offline)
        for sid in (*online, *offline):
            session = self.worker.loop.sessions.get(sid)
            if session is not None:
                session.online = sid in self._present

    def _event_present(self, sids: list[int]) -> None:
        """All of them, of a keeper that has just begun."""
        self._present = set(sids)
        for session in self.worker.loop.sessions.values():
            session.online = session.attached or session.sid in self._present

    def _event_settings(self) -> None:
        gevent.spawn(self.worker.settings.take_over)

    def _on_publish_will(self, answer: Any, will_id: int, cid: str, record: bytes) -> None:
        """The will's topic is judged again: rules may have changed since CONNECT (S12)."""
        worker = self.worker
        if worker.loop.publish_will(record, will_id, cid, worker.will_permitted(cid, record)):
            worker.count("wills_published")
        answer(True)

    def _event_redispatch(self, sid: int, qseq: int, share: str, record: bytes) -> None:
        if self._early is None:
            self.worker.loop.redispatch(share.encode(), record, sid, qseq)
        else:  # who is in the group is not known yet
            self._early.append((share, record, sid, qseq))

    def ready(self) -> None:
        early, self._early = self._early or [], None
        for share, record, sid, qseq in early:
            self.worker.loop.redispatch(share.encode(), record, sid, qseq)

    # -- of a sibling -----------------------------------------------------------------------------------------------------

    def _on_sync(self, answer: Any) -> None:
        """Routes came before this frame: they are in the tree now."""
        answer(True)

    def _on_barrier(self, answer: Any) -> None:
        """What was published here before is in the store, as much as an acknowledgement would say."""
        if self.worker.loop.uncommitted:
            self.worker.keeper.call("barrier", {}, lambda ok, result: answer(True))
        else:
            answer(True)

    # -- of the admin process ---------------------------------------------------------------------------------------------

    def _on_clients(self, answer: Any, limit: int = 100, after: str = "", match: str = "*") -> None:
        behind = (
            name for name in self.worker.clients if name > after and (match == "*" or fnmatch.fnmatchcase(name, match))
        )
        answer([self._describe(self.worker.clients[name]) for name in heapq.nsmallest(limit, behind)])

    def _on_connected(self, answer: Any, cids: list[str]) -> None:
        answer({cid: self.worker.index for cid in cids if cid in self.worker.clients})

    def _on_client(self, answer: Any, cid: str) -> None:
        connection = self.worker.clients.get(cid)
        if connection is None:
            answer(None)
            return
        description = self._describe(connection)
        session = connection.session
        if session is not None:
            description["filters"] = [[name.decode(), options] for name, options, _ in session.filters()]
        answer(description)

    def _describe(self, connection: Connection) -> dict[str, Any]:
        session = connection.session
        return {
            "client_id": connection.client_id,
            "user": connection.user,
            "address": connection.address,
            "listener": connection.listener.name or connection.listener.bind,
            "version": connection.version,
            "keepalive_s": connection.keepalive_s,
            "connected_at": connection.connected_at,
            "worker": self.worker.index,
            "durable": bool(session and session.sid),
            "expiry_s": connection.expiry_s,
            "subscriptions": session.subscription_count if session else 0,
            "inflight": session.inflight if session else 0,
            "waiting": session.waiting if session else 0,
            "output_bytes": connection.output_size,
            "paused": connection.is_paused,
        }

    def _on_kick(self, answer: Any, cid: str) -> None:
        connection = self.worker.clients.get(cid)
        if connection is None:
            answer(False)
            return
        self.worker.ends.end_client(cid, connection.number, codes.ADMINISTRATIVE_ACTION, lambda: answer(True))

    def _on_move(self, answer: Any, count: int, references: dict[str, list[str]], reason: int) -> None:
        answer(self.worker.moves.move(count, references, reason))

    def _on_match(self, answer: Any, topic: str) -> None:
        loop = self.worker.loop
        if topic_reason(topic.encode(), self.worker.config.limits.max_topic_levels):
            answer([])  # nothing is published there; and what the tree has matched once counts as judged
            return
        matches = [(None, session, options) for session, options, _ in loop.tree.matches(topic.encode())]
        matches += [(share.decode(), session, options) for share, session, options in loop.tree.members(topic.encode())]
        found = [
            {
                "client_id": session.client_id,
                "qos": options & 3,
                "durable": session.sid != 0,
                "share": share,
                "connected_here": session.attached,
                "worker": self.worker.index,
            }
            for share, session, options in matches
        ]
        answer(found)

    def _on_reload(self, answer: Any) -> None:
        answer(self.worker.reload())

    def _on_settings(self, answer: Any) -> None:
        self.worker.settings.take_over()
        answer(True)

    def _on_status(self, answer: Any) -> None:
        loop = self.worker.loop
        answer(
            {
                "worker": self.worker.index,
                "clients": len(self.worker.clients),
                "connections": loop.connection_count,
                "durable_sessions": len(loop.sessions),
                "topic_nodes": loop.tree.nodes,
                "uncommitted_batches": loop.uncommitted,
                "output_bytes": loop.output_total,
            }
        )
