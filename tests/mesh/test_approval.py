"""Joining without a token: only who was approved by its fingerprint, and who knocks is bounded."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from mesh import approval, join, versions
from mesh.approval import INVITED_MS, WAITING_MAX, Approvals, Here, KnockServer, answer
from mesh.identity import create, fingerprint
from mesh.join import ATTEMPTS, ATTEMPTS_MS, Joiner, JoinError, JoinServer, Refused, request
from tests.broker import free_port
from tests.mesh.test_join import CLUSTER, Member1

HERE = Here("m" * 40, CLUSTER)


@pytest.fixture
def door() -> Member1:
    return Member1(create())


@pytest.fixture
def server(door: Member1) -> Iterator[JoinServer]:
    opened = JoinServer(door.identity, f"127.0.0.1:{free_port()}", door)
    yield opened
    opened.stop()


def test_who_is_approved_joins_and_asks_again_if_the_answer_was_lost(door: Member1, server: JoinServer) -> None:
    joiner, other = Joiner(create(), "n2", "127.0.0.2:7001"), Joiner(create(), "n3", "127.0.0.3:7001")

    def ask(who: Joiner) -> bool:
        return request(who, server.address, door.identity.public_key, CLUSTER) is not None

    assert not ask(joiner)
    door.approved.add(joiner.identity.public_key)
    assert ask(joiner)
    door.approved.clear()
    assert ask(joiner), "it is a member"
    assert not ask(other)
    assert sorted(door.table.shown_names().values()) == ["n1", "n2"]


def test_a_member_with_another_key_than_the_operator_saw_gets_no_request(door: Member1, server: JoinServer) -> None:
    with pytest.raises(JoinError, match="no answer"):
        request(Joiner(create(), "n2", "h:1"), server.address, create().public_key, CLUSTER, timeout_s=0.3)


def test_a_knock_tells_the_members_key_and_the_operator_who_knocked() -> None:
    approvals, member, joiner = Approvals(), create(), create()
    place = KnockServer(f"127.0.0.1:{free_port()}", approvals, Here(member.public_key, CLUSTER))
    try:
        found = approval.knock(joiner, place.address, "n2", "10.0.0.2:7001")
    finally:
        place.stop()
    assert found == Here(member.public_key, CLUSTER)
    [(shown, asker)] = approvals.waiting(0).items()
    assert shown == fingerprint(joiner.public_key)
    assert (asker.name, asker.address, asker.source) == ("n2", "10.0.0.2:7001", "127.0.0.1")
    assert approval.knock(joiner, place.address, "n2", "h:1", timeout_s=0.3) is None


def test_fingerprints_can_be_read_aloud_and_differ() -> None:
    shown = {fingerprint(create().public_key) for _ in range(20)}
    assert len(shown) == 20
    assert all(len(each) == 19 and each.replace("-", "").isalnum() for each in shown)


def test_an_approval_is_for_one_key_and_ten_minutes() -> None:
    approvals = Approvals()
    assert not approvals.is_open(0)
    approvals.approve(0, fingerprint("a" * 40))
    assert approvals.is_open(INVITED_MS - 1)
    assert approvals.is_approved(INVITED_MS - 1, "a" * 40)
    assert not approvals.is_approved(0, "b" * 40)
    assert not approvals.is_approved(INVITED_MS, "a" * 40)
    approvals.used("a" * 40)
    assert not approvals.is_approved(0, "a" * 40)


def test_who_knocks_is_bounded() -> None:
    approvals = Approvals()
    for number in range(ATTEMPTS):
        approvals.knock(0, f"{number:040}", "10.0.0.9", "n", "h:1")
    approvals.knock(0, f"{0:040}", "10.0.0.9", "n", "h:1")
    with pytest.raises(JoinError, match="too many"):
        approvals.knock(0, "x" * 40, "10.0.0.9", "n", "h:1")
    approvals.knock(ATTEMPTS_MS, "x" * 40, "10.0.0.9", "n", "h:1")
    for number in range(WAITING_MAX - ATTEMPTS - 1):
        approvals.knock(0, f"y{number:039}", f"10.0.1.{number}", "n", "h:1")
    with pytest.raises(JoinError, match="too many"):
        approvals.knock(0, "z" * 40, "10.0.2.1", "n", "h:1")
    assert not approvals.waiting(INVITED_MS + ATTEMPTS_MS)


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (b"", "does not understand"),
        (b"\xff" * 50, "does not understand"),
        (b"\x91" * 16_000, "does not understand"),
        (msgspec.msgpack.encode(approval.Knock(1, 9, b"n" * 16, "??", "h:1")).replace(b"??", b"\xff\xfe"), "does not understand"),
        (msgspec.msgpack.encode(join.Ask(1, 1, CLUSTER)), "does not understand"),
        (msgspec.msgpack.encode(approval.Knock(versions.HIGHEST + 1, 9, b"n" * 16, "n", "h:1")), "upgrade the older"),
    ],
)  # fmt: skip
def test_knocks_that_are_refused(question: bytes, text: str) -> None:
    approvals = Approvals()
    said = msgspec.msgpack.decode(answer(approvals, HERE, 0, "k" * 40, "10.0.0.9", question), type=Here | Refused)
    assert isinstance(said, Refused)
    assert text in said.why
    assert not approvals.waiting(0)
