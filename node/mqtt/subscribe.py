"""SUBSCRIBE and UNSUBSCRIBE, and the retained messages that a new subscription brings.

The tree here is changed at once; SUBACK leaves when siblings and other hosts have the routes and, for a durable session, when the
change is committed and every worker has applied it (guarantees.md, ack table). Retained messages follow (replay.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from functools import partial
from typing import TYPE_CHECKING, Any

from node.core.loop import Connection, Session
from node.core.wire import (
    ProtocolError,
    encode_suback,
    encode_unsuback,
    filter_reason,
    parse_subscribe,
    parse_unsubscribe,
    split_share,
)
from node.mqtt import client as codes
from node.mqtt.replay import Replay, Replays
from node.peers import Countdown

if TYPE_CHECKING:
    from node.worker.worker import Worker

_FILTERS_MAX = 10_000  # of one packet: they are handled in one go, while all other clients of the worker wait


class Subscriptions:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._replays = Replays(worker)

    # -- SUBSCRIBE ------------------------------------------------------------------------------------------------------

    def packet(self, connection: Connection, body: bytes) -> None:
        version = connection.version
        session = connection.session
        packet_id, asked, identifier = parse_subscribe(body, version, self.worker.config.limits.max_user_properties)
        _check_count(asked)
        reasons = bytearray()
        granted: list[tuple[str, int, int]] = []
        replay: list[tuple[bytes, int]] = []
        announced = False
        before = how_many(session)
        subscribe = self._refuse if self.worker.refuses("subscribe") else self._subscribe
        for filter, options in asked:
            reason, new, told = subscribe(connection, session, filter, options, identifier)
            reasons.append(reason if reason < 0x80 or version == 5 else 0x80)
            announced |= told
            if reason >= 0x80:
                continue
            granted.append((filter.decode(), options, identifier))
            handling = options >> 4 & 3
            if not filter.startswith(b"$share/") and (handling == 0 or (handling == 1 and new)):
                replay.append((filter, options))
        self.count(session, before, how_many(session))
        self.worker.count("subscribes", len(granted))
        self.worker.access("subscribe", connection, filters=[name for name, _, _ in granted])
        suback = encode_suback(packet_id, bytes(reasons), {} if version == 5 else None)
        acknowledged = None
        if replay:
            what = (connection, session, replay, identifier)
            acknowledged = partial(self._replay_now, *what) if session.sid else self._replay_later(*what)
        self._when_known(
            connection, "subscribe", {"sid": session.sid, "subs": granted}, bool(granted), announced or bool(replay),
            lambda: self._subscribed(connection, suback, acknowledged),
        )  # fmt: skip

    def _refuse(self, *_: object) -> tuple[int, bool, bool]:
        return codes.IMPLEMENTATION_ERROR, False, False

    def _subscribe(
        self, connection: Connection, session: Session, filter: bytes, options: int, identifier: int
    ) -> tuple[int, bool, bool]:
        """(reason code, is new, siblings were told)"""
        worker = self.worker
        try:
            share = split_share(filter)
        except ProtocolError:
            return codes.FILTER_INVALID, False, False
        plain = share[1] if share else filter
        limits = worker.config.limits
        if len(filter) > limits.max_topic_bytes or filter_reason(plain, limits.max_topic_levels):
            return codes.FILTER_INVALID, False, False
        if not worker.may_subscribe(connection, plain, options & 3):
            worker.count("authz_denied")
            return codes.NOT_AUTHORIZED, False, False
        if session.subscription_count >= limits.max_subscriptions_per_client and not session.has(filter, share):
            return codes.QUOTA_EXCEEDED, False, False
        if share is not None:
            new = session.share(share[0], share[1], options & 0x0F, identifier)
            return options & 3, new, True
        new, told = session.subscribe(filter, options & 0x0F, identifier)
        return options & 3, new, told

    def count(self, session: Session, before: tuple[int, int], after: tuple[int, int] = (0, 0)) -> None:
        """`before` and `after`: as of `how_many`. Those of durable sessions are counted by the keeper."""
        if session.sid == 0:
            self.worker.count("subscriptions", after[0] - before[0])
            self.worker.count("subscriptions_shared", after[1] - before[1])

    def _when_known(self, connection: Connection, method: str, arguments: dict[str, Any], changed: bool, announced: bool,
                    then: Any) -> None:  # fmt: skip
        """Run `then`, which answers the client, when the store (durable) and the siblings (announced) have the change."""
        connection.asked()
        waiting = Countdown(then)
        if changed and connection.session.sid:
            self.worker.keeper.call(method, arguments, waiting.one_more())
        if announced:
            for sibling in self.worker.links.siblings.values():
                if sibling.link is not None:
                    sibling.share("sync", waiting.one_more())
        waiting.start()

    def _subscribed(self, connection: Connection, suback: bytes, acknowledged: Callable[[], None] | None) -> None:
        if connection.is_closing:
            return
        connection.answer(suback)
        if acknowledged is not None:
            acknowledged()

    def _replay_later(
        self, connection: Connection, session: Session, filters: list[tuple[bytes, int]], identifier: int
    ) -> Callable[[], None]:
        """Call what is returned when SUBACK has left. They begin when the store has, too, all that any worker was told to retain
        before it knew of the subscription: what came to it later is sent."""
        worker = self.worker
        replay = Replay(worker, connection, session, filters, identifier)

        def begin() -> None:
            worker.system.replay(session, [filter for filter, _ in filters], identifier)
            self._replays.begin(replay)

        waiting = Countdown(begin)
        if worker.loop.uncommitted:
            worker.keeper.share("barrier", waiting.one_more())
        for sibling in worker.links.siblings.values():
            if sibling.link is not None:
                sibling.share("barrier", waiting.one_more())
        return waiting.start

    def _replay_now(
        self, connection: Connection, session: Session, filters: list[tuple[bytes, int]], identifier: int
    ) -> None:
        """SUBACK has left: of a durable subscription all workers know only then."""
        self._replay_later(connection, session, filters, identifier)()

    # -- UNSUBSCRIBE ------------------------------------------------------------------------------------------------------

    def unsubscribe_packet(self, connection: Connection, body: bytes) -> None:
        version = connection.version
        session = connection.session
        packet_id, filters = parse_unsubscribe(body, version, self.worker.config.limits.max_user_properties)
        _check_count(filters)
        if self.worker.refuses("unsubscribe"):
            self._refuse_unsubscribe(connection, packet_id, len(filters))
            return
        reasons = bytearray()
        gone: list[str] = []
        announced = False
        before = how_many(session)
        for filter in filters:
            existed, told = self._unsubscribe(session, filter)
            announced |= told
            reasons.append(codes.SUCCESS if existed else codes.NO_SUBSCRIPTION_EXISTED)
            if existed:
                gone.append(filter.decode())
        self.count(session, before, how_many(session))
        self.worker.count("unsubscribes", len(gone))
        self.worker.access("unsubscribe", connection, filters=gone)
        unsuback = encode_unsuback(packet_id, bytes(reasons), {} if version == 5 else None)
        self._when_known(
            connection, "unsubscribe", {"sid": session.sid, "filters": gone}, bool(gone), announced,
            lambda: connection.answer(unsuback),
        )  # fmt: skip

    def _refuse_unsubscribe(self, connection: Connection, packet_id: int, count: int) -> None:
        if connection.version == 5:
            connection.send(encode_unsuback(packet_id, bytes([codes.IMPLEMENTATION_ERROR]) * count, {}))
        else:  # its UNSUBACK cannot say no
            self.worker.ends.drop(connection, codes.IMPLEMENTATION_ERROR, codes.SPLIT)

    def _unsubscribe(self, session: Session, filter: bytes) -> tuple[bool, bool]:
        try:
            share = split_share(filter)
        except ProtocolError:
            return False, False
        if share is not None:
            return session.unshare(*share), True
        existed, told = session.unsubscribe(filter)
        return existed, told


def _check_count(filters: Sized) -> None:
    if len(filters) > _FILTERS_MAX:
        raise ProtocolError(codes.QUOTA_EXCEEDED, f"more than {_FILTERS_MAX} filters in one packet")


def how_many(session: Session) -> tuple[int, int]:
    """Its subscriptions, and the shared ones among them."""
    return session.subscription_count, len(session.shares or ())
