"""Hosts that have the same cluster secret meet: each says what cluster it is in, and lets the other one join without a token.

    guest                                                       host
    Knock     versions, by a connection to the secret's key  ->
                                                             <-  Challenge   nonce
    Meet      proof of the secret, what it is, join?         ->
                                                             <-  Met         what it is, and if asked for a token to join with;
                                                                 or, at any time, Refused: cause and next step

The key of the place comes from the secret: who has it not can neither answer here nor understand. The guest's key is that of its
identity, by which it then joins (mesh/join.py). Who was removed, or has left, is not let in again without a token from an operator.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Protocol

import msgspec

from mesh import versions
from mesh.discovery import Sight, decide
from mesh.identity import Identity
from mesh.join import Attempts, Message, Refused
from mesh.membership import Membership
from mesh.questions import Answers, NoAddressError, Questions
from mesh.secret import ClusterSecret
from mesh.token import NONCE_BYTES, TokenError
from mesh.undecodable import UNDECODABLE

ANSWER_S = 3.0
TOKEN_TTL_S = 30
GUESTS_MAX = 100  # that have a nonce
ANSWER_BYTES_MAX = 16 << 10
_encode = msgspec.msgpack.encode


class MeetingError(Exception):
    """There was no meeting; the text says why."""


class Knock(Message, frozen=True):
    lowest_version: int
    highest_version: int


class Challenge(Message, frozen=True):
    nonce: bytes


class Meet(Message, frozen=True):
    proof: bytes
    guest: Sight
    join: bool


class Met(Message, frozen=True):
    host: Sight
    token: str  # empty: not asked for


Said = Knock | Challenge | Meet | Met | Refused


class Host(Protocol):
    """The answering host's part that is not of the conversation."""

    def sight(self) -> Sight: ...
    def membership(self) -> Membership: ...
    def met(self, guest: Sight) -> None:
        """It has proved the secret."""
        ...

    def token(self, guest_id: bytes, ttl_s: int) -> str:
        """For that host. TokenError: there is none at present."""
        ...

    def refused(self, address: str, why: str) -> None:
        """For the log."""
        ...


def proof(secret: ClusterSecret, guest_key: str, nonce: bytes) -> bytes:
    """The guest has the secret, means this place, and is the host of this public key, now."""
    said = b"guest" + secret.meeting_public_key.encode() + guest_key.encode() + nonce
    return hmac.digest(secret.proof_key, said, "sha256")


class Desk:
    """The host's side of all meetings. Pure."""

    def __init__(self, secret: ClusterSecret, host: Host, new_nonce: Callable[[], bytes]) -> None:
        self._secret = secret
        self._host = host
        self._new_nonce = new_nonce
        self._nonces: dict[bytes, bytes] = {}  # by connection
        self._attempts = Attempts()

    def answer(self, now_ms: int, connection: bytes, guest_key: str, address: str, question: bytes) -> bytes:
        try:
            wait_s = self._attempts.wait_s(address, now_ms)
            if wait_s:
                raise MeetingError(f"too many wrong proofs from {address}. Try again in {wait_s} s")
            return _encode(self._answer(now_ms, connection, guest_key, address, question))
        except (MeetingError, TokenError) as error:
            self._host.refused(address, str(error))
            return _encode(Refused(str(error)))

    def _answer(self, now_ms: int, connection: bytes, guest_key: str, address: str, question: bytes) -> Said:
        try:
            said: Said = msgspec.msgpack.decode(question, type=Said)
        except UNDECODABLE:
            raise MeetingError("not understood: are both hosts of the same release?") from None
        match said:
            case Knock():
                if trouble := versions.incompatible(said.lowest_version, said.highest_version):
                    raise MeetingError(f"the releases do not fit: {trouble}")
                while len(self._nonces) >= GUESTS_MAX:
                    del self._nonces[next(iter(self._nonces))]
                nonce = self._nonces[connection] = self._new_nonce()
                return Challenge(nonce)
            case Meet() if connection in self._nonces:
                nonce = self._nonces.pop(connection)
                if not hmac.compare_digest(said.proof, proof(self._secret, guest_key, nonce)):
                    self._attempts.wrong(address, now_ms)
                    raise MeetingError("another cluster secret than this host's")
                return self._meet(said)
        raise MeetingError("not expected now")

    def _meet(self, meet: Meet) -> Met:
        known = self._host.membership().members.get(meet.guest.node_id)
        if known is not None and known.state == "left":
            raise MeetingError(
                f"{known.name} has left this cluster or was removed. To take it back, on a member: mqnode cluster token create"
            )
        own = self._host.sight()
        self._host.met(meet.guest)
        if not meet.join:
            return Met(own, "")
        if decide(meet.guest, [own]).join is None:
            raise MeetingError(f"{own.name} would have to join {meet.guest.name}, not the other way round")
        return Met(own, self._host.token(meet.guest.node_id, TOKEN_TTL_S))


class MeetingPlace(Answers):
    """The host's socket, open as long as it looks for others."""

    def __init__(self, secret: ClusterSecret, bind: str, host: Host) -> None:
        desk = Desk(secret, host, lambda: secrets.token_bytes(NONCE_BYTES))
        super().__init__("meeting", bind, secret.meeting_secret_key, desk.answer)


def meet(
    identity: Identity,
    secret: ClusterSecret,
    address: str,
    own: Sight,
    *,
    join: bool = False,
    timeout_s: float = ANSWER_S,
) -> Met:
    """Ask the host whose meeting place is at `address`. MeetingError: no such host, or it refuses."""
    place = secret.meeting_public_key
    try:
        with Questions(address, place, identity, timeout_s=timeout_s, answer_bytes_max=ANSWER_BYTES_MAX) as ask:
            challenge = _said(ask(_encode(Knock(versions.LOWEST, versions.HIGHEST))))
            if isinstance(challenge, Challenge):
                given = proof(secret, identity.public_key, challenge.nonce)
                met = _said(ask(_encode(Meet(given, own, join))))
                if isinstance(met, Met):
                    return met
    except NoAddressError as error:
        raise MeetingError(str(error)) from error
    raise MeetingError(f"{address} does not answer as mqnode does: are both of the same release?")


def _said(answer: bytes | None) -> Said:
    if answer is None:
        raise MeetingError("no answer: mqnode does not run there, has another cluster secret, or a firewall is between")
    try:
        said: Said = msgspec.msgpack.decode(answer, type=Said)
    except UNDECODABLE:
        raise MeetingError("its answer is not understood: are both hosts of the same release?") from None
    if isinstance(said, Refused):
        raise MeetingError(said.why)
    return said
