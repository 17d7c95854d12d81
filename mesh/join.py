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

from mesh import versions
from mesh.hlc import AHEAD_MS_MAX, Stamp
from mesh.identity import Identity
from mesh.membership import Member, Membership, MembershipError
from mesh.questions import Answers, NoAddressError, Questions
from mesh.token import NONCE_BYTES, Token, TokenError, Tokens, proof
from mesh.undecodable import UNDECODABLE

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

    cluster: str = ""  # the name in the joiner's configuration, if it has one there
    wall_ms: int = 0  # the joiner's clock; 0: an older release, which does not say
    level: int = 0  # mesh/versions.py


class Request(Message, frozen=True):
    """Join without a token, by approval (mesh/approval.py)."""

    node_id: bytes
    name: str
    address: str
    cluster: str
    wall_ms: int
    level: int = 0


class Waiting(Message, frozen=True):
    """Nobody has approved this host yet."""


class Welcome(Message, frozen=True):
    membership: bytes


class Refused(Message, frozen=True):
    why: str


Said = Ask | Challenge | Join | Request | Waiting | Welcome | Refused
_encode = msgspec.msgpack.encode


class Door(Protocol):
    """The member's part that is not of the conversation."""

    tokens: Tokens

    def membership(self) -> Membership:
        """MembershipError: nobody can be added at this moment."""
        ...

    def stamp(self) -> Stamp: ...
    def admit(self, member: Member) -> Membership:
        """Add it, and store the table and the tokens durably; the new table. MembershipError: it cannot be added."""
        ...

    def is_approved(self, now_ms: int, joiner_key: str) -> bool:
        """Has an operator let in the host of this key, which asks just now?"""
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
        except UNDECODABLE:
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
            case Request() if connection in self._nonces:
                del self._nonces[connection]
                return self._request(now_ms, joiner_key, said)
        raise JoinError("the member did not expect this now. Run the command again")

    def _check_ask(self, ask: Ask) -> None:
        trouble = versions.incompatible(ask.lowest_version, ask.highest_version)
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
        member, known = self._member(now_ms, joiner_key, join)
        if not first and (known is None or known.state != "active"):
            raise TokenError(
                "this token was used, and its host removed since. On a member: mqnode cluster token create"
            )
        door.membership().with_member(member)  # a token is used up by who is admitted only
        door.tokens.use(join.token, joiner_key)
        return Welcome(door.admit(member).to_json())

    def _request(self, now_ms: int, joiner_key: str, request: Request) -> Welcome | Waiting:
        known = self._door.membership().members.get(request.node_id)
        if known is not None and known.state == "active" and known.public_key == joiner_key:
            return Welcome(self._door.membership().to_json())  # the first answer was lost
        if not self._door.is_approved(now_ms, joiner_key):
            return Waiting()
        member, _ = self._member(now_ms, joiner_key, request)
        return Welcome(self._door.admit(member).to_json())

    def _member(self, now_ms: int, joiner_key: str, who: Join | Request) -> tuple[Member, Member | None]:
        """What it will be, and what it was. JoinError, MembershipError: it does not fit to the cluster."""
        table = self._door.membership()
        known = table.members.get(who.node_id)
        if known is not None and known.public_key != joiner_key:
            raise MembershipError(
                f"the member {known.name} has the same id as this host, and another key: the data directory was copied. Remove "
                "identity.json of the copy and join it anew."
            )
        if who.cluster and who.cluster != table.name:
            raise JoinError(
                f'this host is configured for the cluster "{who.cluster}", the member is in "{table.name}": nothing was changed. '
                f'Join a member of "{who.cluster}", or set cluster.name = "{table.name}" on this host and restart it'
            )
        apart_ms = who.wall_ms - now_ms
        if who.wall_ms and abs(apart_ms) > AHEAD_MS_MAX:
            raise JoinError(
                f"the clock of this host is {abs(apart_ms) // 1000} s {'ahead of' if apart_ms > 0 else 'behind'} the member's, and "
                f"{AHEAD_MS_MAX // 1000} s are the most: the later of two changes would be the wrong one. Set both by NTP "
                "(timedatectl), then join again"
            )
        if who.level < table.level:
            raise JoinError(
                f"this host is at feature level {who.level}, and {table.name} at {table.level}, which may be in use: nothing was "
                "changed. Install the release of its members on this host, then join again"
            )
        return Member(who.node_id, who.name, who.address, joiner_key, "active", self._door.stamp(), who.level), known


class JoinServer(Answers):
    """The member's socket: open it while somebody is expected."""

    def __init__(self, identity: Identity, bind: str, door: Door) -> None:
        desk = Desk(identity, door, lambda: secrets.token_bytes(NONCE_BYTES))
        super().__init__("join", bind, identity.secret_key, desk.answer)


# -- the joiner ----------------------------------------------------------------------------------------------------------------


def check_free(membership: Membership | None, cluster_id: bytes) -> None:
    """A host that is alone in its cluster may join another one, and takes its sessions along; a host with others may not."""
    if membership is None or membership.cluster_id == cluster_id:
        return
    if len(membership.active()) > 1:
        raise JoinError(
            f"this host is in the cluster {membership.name} with {len(membership.active()) - 1} more, and the member is in another "
            "one. First: mqnode leave"
        )


class Joiner(msgspec.Struct, frozen=True):
    """What this host says of itself."""

    identity: Identity
    name: str
    address: str  # of its interconnect
    cluster: str = ""  # to which it must belong; empty: to any
    wall_ms: int = 0

    def who(self) -> tuple[bytes, str, str, str, int, int]:
        return self.identity.node_id, self.name, self.address, self.cluster, self.wall_ms, versions.LEVEL


def join(joiner: Joiner, token: Token, *, timeout_s: float = ANSWER_S) -> Membership:
    """Make this host a member; the table, to be stored before anything else. Of another cluster: `check_free` first."""

    def with_token(nonce: bytes) -> Join:
        given = proof(token.key, token.public_key, joiner.identity.public_key, nonce)
        return Join(token.number, given, *joiner.who())

    said = _converse(joiner.identity, token.address, token.public_key, token.cluster_id, with_token, timeout_s)
    if not isinstance(said, Welcome):
        raise JoinError(_strange(token.address))
    return Membership.from_json(said.membership)


def request(
    joiner: Joiner, address: str, public_key: str, cluster_id: bytes, *, timeout_s: float = ANSWER_S
) -> Membership | None:
    """The same by approval, at the member of that key; None: nobody has approved it yet."""
    said = _converse(joiner.identity, address, public_key, cluster_id, lambda _: Request(*joiner.who()), timeout_s)
    if isinstance(said, Waiting):
        return None
    if not isinstance(said, Welcome):
        raise JoinError(_strange(address))
    return Membership.from_json(said.membership)


def _converse(
    identity: Identity, address: str, public_key: str, cluster_id: bytes, ask_for: Callable[[bytes], Message], timeout_s: float
) -> Said:  # fmt: skip
    """The member's last word."""
    try:
        asking = Questions(address, public_key, identity, timeout_s=timeout_s, answer_bytes_max=TABLE_BYTES_MAX)
    except NoAddressError as error:
        raise JoinError(f"{error}: this host is no member") from error
    with asking as ask:

        def exchange(message: Message) -> Said:
            answer = ask(_encode(message))
            if answer is None:
                raise JoinError(_silence(address, timeout_s))
            try:
                said: Said = msgspec.msgpack.decode(answer, type=Said)
            except UNDECODABLE:
                raise JoinError(_strange(address)) from None
            if isinstance(said, Refused):
                raise JoinError(said.why)
            return said

        said = exchange(Ask(versions.LOWEST, versions.HIGHEST, cluster_id))
        return exchange(ask_for(said.nonce)) if isinstance(said, Challenge) else said


def _strange(address: str) -> str:
    return f"{address} does not answer as a member does: are both of the same release?"


def _silence(address: str, timeout_s: float) -> str:
    port = address.rpartition(":")[2]
    return (
        f"no answer from {address} in {timeout_s:.0f} s: this host is no member. mqnode may not run there, may let nobody "
        f"in at present, may have a new identity, or a firewall keeps TCP port {port} from this host. On the member: "
        "mqnode status, then mqnode cluster token create"
    )
