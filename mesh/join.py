"""One more host: what it says to a member, and what the member answers. On a port of its own, where all may knock.

    joiner                                                  member
    Ask       versions, cluster, by a connection     ->
              that is pinned to the member's key
                                                     <-     Challenge   nonce
    Join      proof of the token, id, name, address  ->     checks, makes it a member and the token used, durably
                                                     <-     Welcome     the table of members; or, at any time,
                                                            Refused     cause and next step

The joiner's public key is that of its connection: the handshake has proved it. Nobody learns anything of the cluster who has
not proved a token first, and five wrong ones from an address close the door to it for a minute. `Desk` is pure.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

import msgspec

from mesh import frames
from mesh.hlc import Stamp
from mesh.identity import Identity
from mesh.membership import Member, Membership, MembershipError
from mesh.questions import Answers, Questions
from mesh.token import NONCE_BYTES, Token, TokenError, Tokens, proof

ANSWER_S = 10.0
ATTEMPTS, ATTEMPTS_MS = 5, 60_000
ADDRESSES_MAX = 1000  # with wrong attempts in the last minute
KNOCKING_MAX = 100  # that have a nonce
TABLE_BYTES_MAX = 16 << 20  # from the member that the token names


class JoinError(Exception):
    """The host is no member; the text says why and what to do."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Fields are only ever appended."""


class Ask(Message, frozen=True):
    lowest_version: int
    highest_version: int
    cluster_id: bytes


class Challenge(Message, frozen=True):
    nonce: bytes


class Join(Message, frozen=True):
    token: bytes  # its number
    proof: bytes
    node_id: bytes
    name: str
    address: str


class Welcome(Message, frozen=True):
    membership: bytes


class Refused(Message, frozen=True):
    why: str


Said = Ask | Challenge | Join | Welcome | Refused
_encode = msgspec.msgpack.encode


class Door(Protocol):
    """The member's part that is not of the conversation."""

    tokens: Tokens

    def membership(self) -> Membership: ...
    def stamp(self) -> Stamp: ...
    def admit(self, member: Member) -> Membership:
        """Add it, and store the table and the tokens durably; the new table. MembershipError: it cannot be added."""
        ...

    def refused(self, address: str, why: str) -> None:
        """For the log."""
        ...


class Attempts:
    """Wrong ones by address. Pure."""

    def __init__(self) -> None:
        self._at: dict[str, list[int]] = {}

    def wait_s(self, address: str, now_ms: int) -> int:
        """For how long nobody listens to this address; 0: at once."""
        self._at = {
            each: recent
            for each, times in self._at.items()
            if (recent := [at for at in times if 0 <= now_ms - at < ATTEMPTS_MS])
        }
        times = self._at.get(address, [])
        if len(times) < ATTEMPTS and (times or len(self._at) < ADDRESSES_MAX):
            return 0
        oldest = times[-ATTEMPTS] if times else now_ms
        return -(-(oldest + ATTEMPTS_MS - now_ms) // 1000)

    def wrong(self, address: str, now_ms: int) -> None:
        self._at.setdefault(address, []).append(now_ms)


class Desk:
    """The member's side of all conversations."""

    def __init__(self, identity: Identity, door: Door, new_nonce: Callable[[], bytes]) -> None:
        self._identity = identity
        self._door = door
        self._new_nonce = new_nonce
        self._nonces: dict[bytes, bytes] = {}  # by connection
        self._attempts = Attempts()

    def answer(self, now_ms: int, connection: bytes, joiner_key: str, address: str, message: bytes) -> bytes:
        try:
            return _encode(self._answer(now_ms, connection, joiner_key, address, message))
        except (TokenError, MembershipError, JoinError) as error:
            if isinstance(error, TokenError):
                self._attempts.wrong(address, now_ms)
            self._door.refused(address, str(error))
            return _encode(Refused(str(error)))

    def _answer(self, now_ms: int, connection: bytes, joiner_key: str, address: str, message: bytes) -> Said:
        wait_s = self._attempts.wait_s(address, now_ms)
        if wait_s:
            raise JoinError(f"too many wrong tokens from {address}. Try again in {wait_s} s, with a new one")
        try:
            said: Said = msgspec.msgpack.decode(message, type=Said)
        except msgspec.DecodeError:
            raise JoinError("the member does not understand this host: are both of the same release?") from None
        match said:
            case Ask():
                self._check_ask(said)
                while len(self._nonces) >= KNOCKING_MAX:
                    del self._nonces[next(iter(self._nonces))]
                nonce = self._nonces[connection] = self._new_nonce()
                return Challenge(nonce)
            case Join() if connection in self._nonces:
                return self._join(now_ms, self._nonces.pop(connection), joiner_key, said)
        raise JoinError("the member did not expect this now. Run the command again")

    def _check_ask(self, ask: Ask) -> None:
        trouble = frames.incompatible(ask.lowest_version, ask.highest_version)
        if trouble:
            raise JoinError(f"the releases do not fit. As the member says of the host that joins: {trouble}")
        if ask.cluster_id != self._door.membership().cluster_id:
            raise JoinError(
                "this token is of another cluster than the member's, which may have been set up anew. On the member: "
                "mqnode cluster token create"
            )

    def _join(self, now_ms: int, nonce: bytes, joiner_key: str, join: Join) -> Welcome:
        door = self._door
        first = door.tokens.check(join.token, join.proof, self._identity.public_key, joiner_key, nonce, now_ms)
        table = door.membership()
        known = table.members.get(join.node_id)
        if known is not None and known.public_key != joiner_key:
            raise MembershipError(
                f"the member {known.name} has the same id as this host, and another key: the data directory was copied. Remove "
                "identity.json of the copy and join it anew."
            )
        if not first and (known is None or known.state != "active"):
            raise TokenError(
                "this token was used, and its host removed since. On a member: mqnode cluster token create"
            )
        member = Member(join.node_id, join.name, join.address, joiner_key, "active", door.stamp())
        table.with_member(member)  # a token is used up by who is admitted only
        door.tokens.use(join.token, joiner_key)
        return Welcome(door.admit(member).to_json())


class JoinServer(Answers):
    """The member's socket: open it while tokens are outstanding."""

    def __init__(self, identity: Identity, bind: str, door: Door) -> None:
        desk = Desk(identity, door, lambda: secrets.token_bytes(NONCE_BYTES))
        super().__init__("join", bind, identity.secret_key, desk.answer)


# -- the joiner ----------------------------------------------------------------------------------------------------------------


def check_free(membership: Membership | None, token: Token) -> None:
    """A host that is alone in its cluster may join another one, and takes its sessions along; a host with others may not."""
    if membership is None or membership.cluster_id == token.cluster_id:
        return
    if len(membership.active()) > 1:
        raise JoinError(
            f"this host is in the cluster {membership.name} with {len(membership.active()) - 1} more, and the token is of another "
            "one. First: mqnode leave"
        )


def join(identity: Identity, token: Token, name: str, address: str, *, timeout_s: float = ANSWER_S) -> Membership:
    """Make this host a member; the table, to be stored before anything else. Of another cluster: `check_free` first."""
    asking = Questions(token.address, token.public_key, identity, timeout_s=timeout_s, answer_bytes_max=TABLE_BYTES_MAX)
    with asking as ask:
        strange = f"{token.address} does not answer as a member does: are both of the same release?"

        def exchange(message: Message) -> Said:
            answer = ask(_encode(message))
            if answer is None:
                raise JoinError(_silence(token, timeout_s))
            try:
                said: Said = msgspec.msgpack.decode(answer, type=Said)
            except msgspec.DecodeError:
                raise JoinError(strange) from None
            if isinstance(said, Refused):
                raise JoinError(said.why)
            return said

        said = exchange(Ask(frames.LOWEST_VERSION, frames.HIGHEST_VERSION, token.cluster_id))
        if isinstance(said, Challenge):
            given = proof(token.key, token.public_key, identity.public_key, said.nonce)
            said = exchange(Join(token.number, given, identity.node_id, name, address))
        if not isinstance(said, Welcome):
            raise JoinError(strange)
        return Membership.from_json(said.membership)


def _silence(token: Token, timeout_s: float) -> str:
    port = token.address.rpartition(":")[2]
    return (
        f"no answer from {token.address} in {timeout_s:.0f} s: this host is no member. mqnode may not run there, may have a new "
        f"identity since the token was made, or a firewall keeps TCP port {port} from this host. On the member: mqnode status, "
        "then mqnode cluster token create"
    )
