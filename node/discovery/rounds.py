"""Rounds of discovery in the interconnect process: announce this host, look for others, ask who they are, join if that is the rule.

The boards (node/discovery/*.py) only give addresses, from a thread of their own, for they block. mesh/meeting.py asks;
mesh/discovery.py decides. Without the cluster secret nobody is asked: members are tried where they were found, and other hosts
are shown as candidates.
"""

from __future__ import annotations

import itertools
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.threadpool import ThreadPool

from mesh import greenlets
from mesh.discovery import Found, Sight, decide, moved, strangers
from mesh.hlc import StampError
from mesh.join import Joiner, JoinError, join
from mesh.meeting import MeetingError, MeetingPlace, meet
from mesh.membership import Membership, MembershipError, is_address
from mesh.secret import load as load_secret
from mesh.token import SECRET_BYTES, Token, TokenError
from mesh.zap import TransportError
from node import counters, log
from node.config import Config, run_dir
from node.discovery.board import LOOK_S, Board, BoardError, make, ttl_s
from node.interconnect.cluster import Cluster
from node.interconnect.door import JOIN_PORT, Door, now_ms, port_above

EAGER_S, EAGER_FOR_S = 1.0, 10.0  # while this host is alone and has just started, it looks more often
JITTER = 0.2
MEETING_PORT = 2  # above that of the interconnect
ASKED_AT_ONCE = 16
VISITORS_MAX, VISIT_S = 128, 10.0  # the time that asking the others may take it
WITHDRAW_S = 2.0


class Place(Protocol):
    """What the interconnect does for it."""

    cluster: Cluster
    door: Door

    def joined(self, table: Membership) -> None: ...
    def try_addresses(self, addresses: dict[bytes, str]) -> None: ...


class Discovery:
    """Nothing at all with `method = "none"`. Also the host's side of meetings (mesh.meeting.Host)."""

    def __init__(self, config: Config, place: Place) -> None:
        self._config = config
        self._place = place
        self._cluster = place.cluster
        self._log = log.logger("interconnect")
        path = config.discovery.secret_file
        self._secret = load_secret(Path(path)) if path else None
        self._keeper = counters.Counters(run_dir(config) / "counters").slot(counters.KEEPER)
        self._board: Board | None = None
        self._threads = ThreadPool(1)
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._meeting: MeetingPlace | None = None
        self._wake = Event()
        self._visitors: dict[
            bytes, tuple[Found, float]
        ] = {}  # who asked us lately, and when: it may find us and we not it
        self._visit_s = ttl_s(config) + VISIT_S
        self._given: dict[bytes, bytes] = {}  # host -> number of the token that it was given
        self._told: dict[str, str] = {}  # what was logged last about whom
        self._candidates: dict[str, dict[str, Any]] = {}
        self._turns = itertools.count()
        self._before: frozenset[bytes] = frozenset()
        self._soon = False

    def start(self) -> None:
        if self._config.discovery.method == "none" or self._greenlet is not None:
            return
        self._open_place()
        self._greenlet = greenlets.spawn(self._run)

    def stop(self) -> None:
        if self._greenlet is None:
            return
        self._greenlet.kill()
        self._greenlet = None
        self._close_place()
        with gevent.Timeout(WITHDRAW_S, False):
            self._threads.apply(self._withdraw)

    def _open_place(self) -> None:
        if self._secret is not None and self._meeting is None:
            bind = port_above(self._config.interconnect.bind, MEETING_PORT)
            try:
                self._meeting = MeetingPlace(self._secret, bind, self)
                self._told.pop("closed", None)
            except TransportError as error:
                self._tell("closed", str(error), effect="no other host can ask this one who it is")

    def _close_place(self) -> None:
        if self._meeting is not None:
            self._meeting.stop()
            self._meeting = None

    def candidates(self) -> list[dict[str, Any]]:
        """Hosts that were found and are no members: name, address, node_id, and why they are none."""
        return [self._candidates[address] for address in sorted(self._candidates)]

    # -- a round ------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        began_s = time.monotonic()
        while True:
            if self._cluster.has_left:  # until an operator has it join again
                self._close_place()
                self._threads.apply(self._withdraw)
            else:
                self._open_place()
                self._round()
            age_s = time.monotonic() - began_s
            alone = len(self._cluster.table.active()) == 1
            if alone and age_s > EAGER_FOR_S and not self._candidates and "board" not in self._told:
                self._tell(
                    "silent", "nobody was found", effect="this host is a cluster of its own until it finds another one"
                )
            eager = self._soon or (alone and age_s < EAGER_FOR_S)
            pause_s = min(EAGER_S, self._config.discovery.interval_s) if eager else self._config.discovery.interval_s
            self._wake.wait(pause_s * random.uniform(1 - JITTER, 1 + JITTER))
            self._wake.clear()

    def _round(self) -> None:
        found = self._look()
        now_s = time.monotonic()
        self._visitors = {guest: each for guest, each in self._visitors.items() if now_s - each[1] < self._visit_s}
        found += [each for each, _ in self._visitors.values()]
        table = self._cluster.table
        self._place.try_addresses(moved(table, found, self._cluster.identity.node_id, next(self._turns)))
        addresses = strangers(self._cluster.address, table, found)
        written = {each.address: each for each in found}
        self._candidates = {
            address: {
                "name": written[address].name,
                "address": address,
                "node_id": written[address].node_id,
                "cause": "",
            }
            for address in addresses
        }
        if self._secret is None:
            for address in addresses:
                self._candidate(
                    address, "this host has no cluster secret to ask it with", "mqnode join, or discovery.secret_file"
                )
            return
        seen = [each for each in Pool(ASKED_AT_ONCE).imap_unordered(self._ask, addresses) if each is not None]
        decision = decide(self.sight(), seen, self._before)
        self._before, self._soon = decision.hosts, decision.soon
        for each in decision.apart:
            which = "another" if each.cluster == table.name else "the"  # they began apart
            self._candidate(
                each.address,
                f"it is in {which} cluster {each.cluster}, with {len(each.members)} hosts, and this one in {table.name} "
                f"with {len(table.active())}",
                "on the hosts that should change: mqnode leave, and mqnode join",
                self._log.warning,
            )
        if decision.join is not None:
            self._join(decision.join)

    def _look(self) -> list[Found]:
        cluster = self._cluster
        own = Found(cluster.address, cluster.name, cluster.identity.node_id.hex())
        found: list[Found] | Exception = BoardError(f"it has not answered for {LOOK_S:.0f} s")
        with gevent.Timeout(LOOK_S, False):  # a folder of a dead NFS server holds its thread for ever
            found = self._threads.apply(self._use_board, (own,))
        if isinstance(found, Exception):  # whatever a board answers: the hosts of the cluster do not depend on it
            self._tell(
                "board",
                str(found) if isinstance(found, BoardError) else repr(found),
                effect="hosts are found by others that find this one at most",
            )
            return []
        self._told.pop("board", None)
        return found

    def _use_board(self, own: Found) -> list[Found] | Exception:
        """In the thread; what it raised would be printed each time."""
        try:
            if self._board is None:
                self._board = make(self._config, self._secret)
            self._board.announce(own)
            return self._board.look()
        except Exception as error:
            return error

    def _withdraw(self) -> None:
        cluster = self._cluster
        if self._board is not None:
            with suppress(BoardError, OSError):  # it is forgotten there, only later
                self._board.withdraw(Found(cluster.address, cluster.name, cluster.identity.node_id.hex()))
            self._board = None

    def _ask(self, address: str) -> Sight | None:
        assert self._secret is not None
        try:
            met = meet(self._cluster.identity, self._secret, port_above(address, MEETING_PORT), self.sight())
        except MeetingError as error:
            self._candidate(address, str(error), "mqnode status, there")
            return None
        if met.host.cluster_id == self._cluster.table.cluster_id:
            self._candidates.pop(address, None)  # this host itself, or a member under another address
        return met.host

    def _join(self, host: Sight) -> None:
        assert self._secret is not None
        try:
            met = meet(
                self._cluster.identity, self._secret, port_above(host.address, MEETING_PORT), self.sight(), join=True
            )
            if decide(self.sight(), [met.host]).join is None:
                return  # somebody has joined this host meanwhile
            token = Token.parse(met.token)
            with self._cluster.joining(token.cluster_id):
                cluster = self._cluster
                joiner = Joiner(cluster.identity, cluster.name, cluster.address, cluster.wanted_name, now_ms())
                self._place.joined(join(joiner, token))
        except (MeetingError, TokenError) as error:
            self._candidate(host.address, str(error), "nothing: it is tried again")
            return
        except (JoinError, MembershipError, StampError) as error:
            self._candidate(host.address, str(error), "what the cause says: it is tried again", self._log.warning)
            return
        self._candidates.clear()
        self._log.info("joined", cluster=host.cluster, by=host.name, address=host.address)

    # -- what is said of it -------------------------------------------------------------------------------------------------

    def _candidate(self, address: str, cause: str, what_next: str, tell: Callable[..., None] | None = None) -> None:
        if address in self._candidates:
            self._candidates[address]["cause"] = cause
        if self._told.get(address) != cause:
            self._told[address] = cause
            (tell or self._log.info)(
                "host_found", address=address, cause=cause, effect="it is no member", next=what_next
            )

    def _tell(self, about: str, cause: str, effect: str) -> None:
        if self._told.get(about) != cause:
            self._told[about] = cause
            self._log.warning(
                f"discovery_{about}", method=self._config.discovery.method, cause=cause, effect=effect,
                next='the same [discovery] on all hosts, or another method ("static" needs nothing of the network), or mqnode join',
            )  # fmt: skip

    # -- the host's side of meetings ----------------------------------------------------------------------------------------

    def sight(self) -> Sight:
        table, identity = self._cluster.table, self._cluster.identity
        return Sight(
            identity.node_id, self._cluster.name, self._cluster.address, table.cluster_id, table.name,
            [each.node_id for each in table.active()], self._keeper[counters.INDEX["sessions"]] > 0,
        )  # fmt: skip

    def membership(self) -> Membership:
        return self._cluster.table

    def met(self, guest: Sight) -> None:
        new = guest.node_id not in self._visitors
        other = guest.cluster_id != self._cluster.table.cluster_id and is_address(guest.address)
        if other and (not new or len(self._visitors) < VISITORS_MAX):
            self._visitors[guest.node_id] = Found(guest.address, guest.name, guest.node_id.hex()), time.monotonic()
            if new and decide(self.sight(), [guest]).join is not None:
                self._wake.set()

    def token(self, guest_id: bytes, ttl_s: int) -> str:
        try:
            table = self._cluster.settled()
        except MembershipError as error:
            raise TokenError(str(error)) from error
        tokens, address = self._cluster.tokens, port_above(self._cluster.address, JOIN_PORT)
        token = Token(table.cluster_id, address, self._cluster.identity.public_key, secrets.token_bytes(SECRET_BYTES))
        tokens.withdraw(self._given.get(guest_id, b""))
        tokens.issue(token, ttl_s, now_ms())
        try:
            self._place.door.look()
        except TransportError as error:
            tokens.withdraw(token.number)
            raise TokenError(str(error)) from error
        self._given[guest_id] = token.number
        self._cluster.keep_tokens()
        return token.text()

    def refused(self, address: str, why: str) -> None:
        self._place.door.refused(address, why)
