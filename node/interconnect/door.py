"""Who may become a member, at this host: the door of mesh/join.py and mesh/approval.py, and the sockets for both.

Nothing listens but while somebody is expected: there are tokens, or an operator waits for hosts that ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent

from mesh.approval import Approvals, Here, KnockServer
from mesh.hlc import Stamp
from mesh.join import JoinError, JoinServer
from mesh.membership import Member, Membership, MembershipError
from mesh.zap import TransportError
from node import log
from node.interconnect.cluster import Cluster
from node.listeners.sockets import split_bind

JOIN_PORT, KNOCK_PORT = 1, 3  # above that of the interconnect; mesh/meeting.py is between them


TOLD_MAX = 1000
QUIET_MS = 60_000  # what is refused again for the same reason is not logged again


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def port_above(bind: str, count: int) -> str:
    host, port = split_bind(bind)
    return f"[{host}]:{port + count}" if ":" in host else f"{host}:{port + count}"


class Door:
    """`changed`: the table has one more member. `is_member`: of the cluster, still, so that it may let others in."""

    def __init__(self, cluster: Cluster, bind: str, changed: Callable[[], None], is_member: Callable[[], bool]) -> None:
        self._cluster, self._bind, self._changed, self._is_member = cluster, bind, changed, is_member
        self._log = log.logger("interconnect")
        self.tokens = cluster.tokens
        self.approvals = Approvals()
        self._join_server: JoinServer | None = None
        self._knock_server: KnockServer | None = None
        self._trouble = ""  # what keeps it from being opened
        self._told: dict[tuple[str, str], int] = {}  # address and cause: when it was logged

    def keep(self) -> None:
        """`look`, now and then: the hosts of the cluster do not depend on it."""
        before, self._trouble = self._trouble, ""
        try:
            self.look()
        except TransportError as error:
            self._trouble = str(error)
            if before != self._trouble:
                self._log.error(
                    "door_closed", cause=self._trouble, effect="no host can join here",
                    next="join another member, or free the port",
                )  # fmt: skip

    def look(self) -> None:
        """Open or close it, as is wanted now. TransportError: it cannot be opened."""
        identity = self._cluster.identity
        invited = self.approvals.is_open(now_ms())
        expected = invited or self.tokens.expected(now_ms())
        if expected and self._join_server is None:
            self._join_server = JoinServer(identity, port_above(self._bind, JOIN_PORT), self)
        elif not expected and self._join_server is not None:
            self._join_server.stop()
            self._join_server = None
        if invited and self._knock_server is None:
            here = Here(identity.public_key, self._cluster.table.cluster_id)
            self._knock_server = KnockServer(port_above(self._bind, KNOCK_PORT), self.approvals, here)
        elif not invited and self._knock_server is not None:
            self._knock_server.stop()
            self._knock_server = None

    def use_key(self) -> None:
        """The host has another key: who comes from now on finds that."""
        for server in (self._join_server, self._knock_server):
            if server is not None:
                server.stop()
        self._join_server = self._knock_server = None
        self.keep()

    # -- for mesh/join.py -----------------------------------------------------------------------------------------------------

    def membership(self) -> Membership:
        if not self._is_member():
            raise MembershipError(
                "the member that was asked is no member of its cluster any more: join another one. Nothing was changed"
            )
        return self._cluster.settled()

    def stamp(self) -> Stamp:
        return self._cluster.stamp()

    def is_approved(self, now_ms: int, joiner_key: str) -> bool:
        self.approvals.seen(now_ms, joiner_key)
        return self.approvals.is_approved(now_ms, joiner_key)

    def admit(self, member: Member) -> Membership:
        table = self._cluster.table.with_member(member)
        self._cluster.keep_tokens()
        self._cluster.keep(table)
        self.approvals.used(member.public_key)
        gevent.spawn(self._changed)
        self._log.info("host_joined", name=member.name, address=member.address)
        return table

    def refused(self, address: str, why: str) -> None:
        now = now_ms()
        self._told = {told: at for told, at in self._told.items() if 0 <= now - at < QUIET_MS}
        if (address, why) in self._told or len(self._told) >= TOLD_MAX:
            return
        self._told[address, why] = now
        self._log.warning(
            "join_refused", address=address, cause=why, effect="that host is no member",
            next="mqnode cluster token create, if it should be one",
        )  # fmt: skip

    # -- for the operator -----------------------------------------------------------------------------------------------------

    def pending(self) -> dict[str, Any]:
        """Who waits to be approved; from now on hosts may ask for ten minutes."""
        self.approvals.invite(now_ms())
        self.look()
        return self._describe()

    def approve(self, shown: str) -> dict[str, Any]:
        """JoinError: that is this very host."""
        if shown == self._cluster.fingerprint:
            raise JoinError(
                "this is the fingerprint of this very host: nothing was done. Approve that of the host that is to join, which "
                "`mqnode join --peer` shows there"
            )
        self.approvals.approve(now_ms(), shown)
        self.look()
        return self._describe()

    def _describe(self) -> dict[str, Any]:
        return {
            "fingerprint": self._cluster.fingerprint,
            "pending": [
                {"fingerprint": shown, "name": each.name, "address": each.address, "from": each.source}
                for shown, each in self.approvals.waiting(now_ms()).items()
            ],
        }
