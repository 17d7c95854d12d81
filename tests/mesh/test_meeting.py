"""Hosts with the same secret meet over real sockets: who is let in, who is not, and what others learn."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import msgspec
import pytest

from mesh import addresses, identity
from mesh.discovery import Sight
from mesh.hlc import Stamp
from mesh.meeting import Challenge, Knock, Meet, MeetingError, MeetingPlace, meet, proof
from mesh.membership import Member, Membership
from mesh.questions import Questions
from mesh.secret import ClusterSecret

SECRET, OTHER = ClusterSecret(b"s" * 32), ClusterSecret(b"o" * 32)
GUEST = identity.create()


def sight(number: int, *, members: int = 1) -> Sight:
    node_id = bytes([number]) * 16
    rest = [bytes([number, each]) * 8 for each in range(1, members)]
    return Sight(node_id, f"h{number}", f"127.0.0.{number}:7001", node_id, "mqnode", [node_id, *rest], False)


class Answering:
    def __init__(self) -> None:
        self.table = Membership(b"\1" * 16, "mqnode")
        self.met_: list[Sight] = []
        self.log: list[str] = []

    def sight(self) -> Sight:
        return sight(1)

    def membership(self) -> Membership:
        return self.table

    def met(self, guest: Sight) -> None:
        self.met_.append(guest)

    def token(self, guest_id: bytes, ttl_s: int) -> str:
        return f"for {guest_id.hex()}"

    def refused(self, address: str, why: str) -> None:
        self.log.append(f"{address} {why}")


@pytest.fixture
def host() -> Answering:
    return Answering()


@pytest.fixture
def address(host: Answering) -> Iterator[str]:
    place = MeetingPlace(SECRET, "127.0.0.1:0", host)
    yield place.address
    place.stop()


def test_who_has_the_secret_meets_and_gets_a_token(host: Answering, address: str) -> None:
    met = meet(GUEST, SECRET, address, sight(2))
    assert (met.host, met.token) == (sight(1), "")
    assert meet(GUEST, SECRET, address, sight(2), join=True).token == f"for {(b'%c' % 2).hex() * 16}"
    assert host.met_ == [sight(2)] * 2
    assert not host.log


def test_who_has_another_secret_learns_nothing(host: Answering, address: str) -> None:
    with pytest.raises(MeetingError, match=r"no answer.*another cluster secret"):
        meet(GUEST, OTHER, address, sight(2), timeout_s=0.5)
    assert not host.met_


def test_a_wrong_proof_is_refused_and_then_not_listened_to(host: Answering, address: str) -> None:
    """From one that knows the key of the place, and not the secret."""
    for attempt in range(6):
        with Questions(address, SECRET.meeting_public_key, GUEST, timeout_s=3, answer_bytes_max=9999) as ask:
            answer = ask(msgspec.msgpack.encode(Knock(1, 1)))
            assert answer is not None
            if attempt == 5:
                assert b"too many wrong proofs" in answer
                break
            nonce = msgspec.msgpack.decode(answer, type=Challenge).nonce
            said = Meet(proof(OTHER, GUEST.public_key, nonce), sight(2), True)
            assert b"another cluster secret" in (ask(msgspec.msgpack.encode(said)) or b"")
    assert not host.met_
    assert "127.0.0.1 another cluster secret than this host's" in host.log


def test_the_proof_of_another_host_is_none(host: Answering, address: str) -> None:
    with Questions(address, SECRET.meeting_public_key, GUEST, timeout_s=3, answer_bytes_max=9999) as ask:
        nonce = msgspec.msgpack.decode(ask(msgspec.msgpack.encode(Knock(1, 1))) or b"", type=Challenge).nonce
        said = Meet(proof(SECRET, identity.create().public_key, nonce), sight(2), True)
        assert b"another cluster secret" in (ask(msgspec.msgpack.encode(said)) or b"")
        assert b"not expected" in (ask(msgspec.msgpack.encode(said)) or b""), "a nonce is good for one proof"


def test_who_was_removed_needs_an_operator(host: Answering, address: str) -> None:
    member = Member(b"\2" * 16, "h2", "127.0.0.2:7001", GUEST.public_key, "left", Stamp(1, b"\1" * 16))
    host.table = Membership(b"\1" * 16, "mqnode", {member.node_id: member})
    with pytest.raises(MeetingError, match=r"h2 has left.*mqnode cluster token create"):
        meet(GUEST, SECRET, address, sight(2), join=True)


def test_a_cluster_gets_no_token_to_go_into_another(address: str) -> None:
    with pytest.raises(MeetingError, match="h1 would have to join h2"):
        meet(GUEST, SECRET, address, sight(2, members=2), join=True)


@pytest.mark.parametrize(
    "said", [b"", b"\x00", b"\xff" * 100, b"\x91" * 16_000, b"\x91\xa2\xff\xfe", msgspec.msgpack.encode(["Meet", b"", None, True])]
)  # fmt: skip
def test_garbage_is_refused(address: str, said: bytes) -> None:
    with Questions(address, SECRET.meeting_public_key, GUEST, timeout_s=3, answer_bytes_max=9999) as ask:
        assert b"Refused" in (ask(said) or b"")
    assert meet(GUEST, SECRET, address, sight(2))


def test_a_name_server_that_is_silent_holds_nothing_up(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Who is asked by an address is asked meanwhile: a lookup has a time like everything else, and a thread like nothing else."""
    monkeypatch.setattr(addresses, "getaddrinfo", lambda *_: gevent.sleep(60))
    waits = gevent.spawn(lambda: meet(GUEST, SECRET, "h9.example:7003", sight(2), timeout_s=1.0))
    assert meet(GUEST, SECRET, address, sight(2)).host == sight(1)
    with pytest.raises(MeetingError, match=r"^h9\.example:7003 leads to no address: no name server answers$"):
        waits.get(timeout=10)


def test_a_name_that_leads_nowhere_is_said(address: str) -> None:
    with pytest.raises(MeetingError, match=r"^no\.\.where:7003 leads to no address: "):
        meet(GUEST, SECRET, "no..where:7003", sight(2))
