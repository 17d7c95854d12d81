"""Joining without a token: a host knocks, and an operator who has compared two fingerprints lets it in.

    joiner                                                  member, for ten minutes after an operator looked who knocks
    Knock     versions, id, name, address            ->     keeps it in mind, for the operator
                                                     <-     Here        the member's key, its cluster; or Refused
    Request   (mesh/join.py) by a connection that    ->
              is pinned to that key
                                                     <-     Waiting, until its fingerprint is approved; then Welcome

The knock is made to a key that everybody knows, so whoever stands between can answer it with a key of his own. That is found out by
the operator, who sees both fingerprints on both hosts: what differs there was changed on the way. The key of the joiner is that
of its connection. `Approvals` and `answer` are pure.
"""

from __future__ import annotations

import hashlib

import msgspec
import zmq
from zmq.utils import z85

from mesh import versions
from mesh.identity import Identity, fingerprint
from mesh.join import Attempts, JoinError, Message, Refused
from mesh.questions import Answers, NoAddressError, Questions
from mesh.undecodable import UNDECODABLE

INVITED_MS = 600_000  # so long knocking and approvals count
WAITING_MAX = 100
ANSWER_S = 5.0
ANSWER_BYTES_MAX = 16 << 10

_SECRET_KEY = z85.encode(hashlib.sha256(b"mqnode knock").digest()).decode()  # no secret: anybody may answer a knock
PUBLIC_KEY = zmq.curve_public(_SECRET_KEY.encode()).decode()
_encode = msgspec.msgpack.encode


class Knock(Message, frozen=True):
    lowest_version: int
    highest_version: int
    node_id: bytes
    name: str
    address: str


class Here(Message, frozen=True):
    public_key: str
    cluster_id: bytes


class Asker(msgspec.Struct):
    """A host that would like to join."""

    public_key: str
    source: str  # the address from which it knocked
    name: str
    address: str
    seen_ms: int


class Approvals:
    """Who knocks at this member, and whom the operator lets in."""

    def __init__(self) -> None:
        self._invited_until_ms = 0
        self._askers: dict[str, Asker] = {}  # by fingerprint
        self._approved: dict[str, int] = {}  # fingerprint: until when
        self._attempts = Attempts()

    def invite(self, now_ms: int) -> None:
        self._invited_until_ms = now_ms + INVITED_MS

    def is_open(self, now_ms: int) -> bool:
        return now_ms < self._invited_until_ms

    def knock(self, now_ms: int, public_key: str, source: str, name: str, address: str) -> None:
        """JoinError: too many knock."""
        shown = fingerprint(public_key)
        if shown not in self._askers:
            wait_s = self._attempts.wait_s(source, now_ms)
            if wait_s or len(self.waiting(now_ms)) >= WAITING_MAX:
                raise JoinError(f"too many hosts ask to join. Try again in {wait_s or 60} s, or use a token")
            self._attempts.wrong(source, now_ms)
        self._askers[shown] = Asker(public_key, source, name, address, now_ms)

    def seen(self, now_ms: int, public_key: str) -> None:
        """It still asks."""
        if asker := self._askers.get(fingerprint(public_key)):
            asker.seen_ms = now_ms

    def waiting(self, now_ms: int) -> dict[str, Asker]:
        """By fingerprint; who has stopped asking is forgotten."""
        self._askers = {key: each for key, each in self._askers.items() if now_ms - each.seen_ms < INVITED_MS}
        return self._askers

    def approve(self, now_ms: int, shown: str) -> None:
        self.invite(now_ms)
        self._approved[shown] = now_ms + INVITED_MS

    def is_approved(self, now_ms: int, public_key: str) -> bool:
        return now_ms < self._approved.get(fingerprint(public_key), 0)

    def used(self, public_key: str) -> None:
        """That host is a member now."""
        self._approved.pop(fingerprint(public_key), None)
        self._askers.pop(fingerprint(public_key), None)


def answer(approvals: Approvals, here: Here, now_ms: int, asker_key: str, source: str, question: bytes) -> bytes:
    """The member's answer to a knock."""
    try:
        knock = msgspec.msgpack.decode(question, type=Knock)
        if trouble := versions.incompatible(knock.lowest_version, knock.highest_version):
            raise JoinError(f"the releases do not fit. As the member says of the host that joins: {trouble}")
        approvals.knock(now_ms, asker_key, source, knock.name, knock.address)
    except UNDECODABLE:
        return _encode(Refused("the member does not understand this host: are both of the same release?"))
    except JoinError as error:
        return _encode(Refused(str(error)))
    return _encode(here)


class KnockServer(Answers):
    """The member's socket, open while an operator waits for somebody."""

    def __init__(self, bind: str, approvals: Approvals, here: Here) -> None:
        super().__init__(
            "knock", bind, _SECRET_KEY,
            lambda now_ms, connection, key, source, question: answer(approvals, here, now_ms, key, source, question),
        )  # fmt: skip


def knock(identity: Identity, peer: str, name: str, address: str, *, timeout_s: float = ANSWER_S) -> Here | None:
    """Ask the member whose knocking place is `peer` who it is: anybody may have answered. None: nobody did."""
    said = _encode(Knock(versions.LOWEST, versions.HIGHEST, identity.node_id, name, address))
    try:
        asking = Questions(peer, PUBLIC_KEY, identity, timeout_s=timeout_s, answer_bytes_max=ANSWER_BYTES_MAX)
    except NoAddressError as error:
        raise JoinError(f"{error}: nobody was asked") from error
    with asking as ask:
        answered = ask(said)
    if answered is None:
        return None
    try:
        found = msgspec.msgpack.decode(answered, type=Here | Refused)
    except UNDECODABLE:
        raise JoinError(f"{peer} does not answer as a member does: are both of the same release?") from None
    if isinstance(found, Refused):
        raise JoinError(found.why)
    return found
