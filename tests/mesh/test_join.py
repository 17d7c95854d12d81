"""Joining: one token lets one host in, and everybody else learns why not."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import msgspec
import pytest

from mesh import join, versions
from mesh.hlc import Clock, Stamp
from mesh.identity import FILE_NAME, Identity, create, load_or_create
from mesh.join import (
    ATTEMPTS,
    ATTEMPTS_MS,
    Ask,
    Attempts,
    Challenge,
    Desk,
    JoinError,
    JoinServer,
    Refused,
    Said,
    Welcome,
)
from mesh.membership import Member, Membership, MembershipError
from mesh.token import Token, Tokens, proof
from tests.broker import free_port
from tests.mesh.host import Host, green_wait

CLUSTER = b"c" * 16
TTL_S = 3600


class Member1:
    """The door of n1, whose disk is a variable."""

    def __init__(self, identity: Identity, address: str = "127.0.0.1:7001") -> None:
        self.identity = identity
        self.tokens = Tokens()
        self.table = Membership(CLUSTER, "home")
        self.clock = Clock(identity.node_id)
        self.log: list[str] = []
        self.disk = (b"", b"")
        self.approved: set[str] = set()
        self.told: Callable[[Membership], None] = lambda _: None
        self.admit(Member(identity.node_id, "n1", address, identity.public_key, "active", self.stamp()))

    def membership(self) -> Membership:
        return self.table

    def stamp(self) -> Stamp:
        return self.clock.now(time.time_ns() // 1_000_000)

    def admit(self, member: Member) -> Membership:
        self.table = self.table.with_member(member)
        self.disk = (self.table.to_json(), self.tokens.to_bytes())
        self.told(self.table)
        return self.table

    def is_approved(self, now_ms: int, joiner_key: str) -> bool:
        return joiner_key in self.approved

    def refused(self, address: str, why: str) -> None:
        self.log.append(f"{address} {why}")

    def token(self, address: str, ttl_s: int = TTL_S, secret: bytes = b"") -> Token:
        token = Token(CLUSTER, address, self.identity.public_key, secret or create().node_id)
        self.tokens.issue(token, ttl_s, time.time_ns() // 1_000_000)
        return token


def joined(identity: Identity, token: Token, name: str, address: str, timeout_s: float = 10) -> Membership:
    return join.join(join.Joiner(identity, name, address), token, timeout_s=timeout_s)


@pytest.fixture
def door() -> Member1:
    return Member1(create())


@pytest.fixture
def server(door: Member1) -> Iterator[JoinServer]:
    opened = JoinServer(door.identity, f"127.0.0.1:{free_port()}", door)
    yield opened
    opened.stop()


def test_a_host_joins_and_both_have_the_same_table_on_disk_before_it_hears_of_it(
    door: Member1, server: JoinServer
) -> None:
    joiner, token = create(), door.token(server.address)
    table = joined(joiner, Token.parse(token.text()), "n2", "127.0.0.2:7001")
    assert table == door.table == Membership.from_json(door.disk[0])
    assert (table.find("n2").node_id, table.find("n2").public_key) == (joiner.node_id, joiner.public_key)
    assert not door.log
    door.tokens = Tokens.from_bytes(door.disk[1])
    with pytest.raises(JoinError, match="used by another host"):
        joined(create(), token, "n3", "127.0.0.3:7001")


def test_a_lost_answer_is_asked_for_again(door: Member1, server: JoinServer) -> None:
    joiner, token = create(), door.token(server.address)
    joined(joiner, token, "n2", "127.0.0.2:7001")
    assert joined(joiner, token, "n2", "127.0.0.2:7001").find("n2").node_id == joiner.node_id


def test_a_removed_host_does_not_come_back_by_its_old_token(door: Member1, server: JoinServer) -> None:
    joiner, token = create(), door.token(server.address)
    joined(joiner, token, "n2", "127.0.0.2:7001")
    door.table = door.table.without(joiner.node_id, door.stamp())
    with pytest.raises(JoinError, match="removed since"):
        joined(joiner, token, "n2", "127.0.0.2:7001")
    assert joined(joiner, door.token(server.address), "n2", "127.0.0.2:7001").find("n2")


def used(door: Member1, address: str) -> Token:
    token = door.token(address)
    joined(create(), token, "other", "127.0.0.8:7001")
    return token


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (lambda door, address: Token(CLUSTER, address, door.identity.public_key, b"s" * 16), "wrong token"),
        (used, "used by another host"),
        (lambda door, address: door.token(address, ttl_s=0), "expired"),
        (lambda door, address: msgspec.structs.replace(door.token(address), cluster_id=b"d" * 16), "another cluster"),
    ],
)
def test_a_token_that_is_no_good(
    door: Member1, server: JoinServer, token: Callable[[Member1, str], Token], text: str
) -> None:
    with pytest.raises(JoinError, match=f"{text}.*mqnode cluster token create"):
        joined(create(), token(door, server.address), "n2", "127.0.0.2:7001")
    assert "n2" not in door.table.shown_names().values()
    assert any(text in line and line.startswith("127.0.0.1 ") for line in door.log)


@pytest.mark.parametrize(
    ("name", "address", "text"),
    [
        ("n1", "127.0.0.2:7001", "member already"),
        ("n 2", "127.0.0.2:7001", "node.name"),
        ("n2", "127.0.0.2", "HOST:PORT"),
    ],
)
def test_a_host_that_does_not_fit_does_not_use_the_token_up(
    door: Member1, server: JoinServer, name: str, address: str, text: str
) -> None:
    token = door.token(server.address)
    with pytest.raises(JoinError, match=text):
        joined(create(), token, name, address)
    assert joined(create(), token, "n2", "127.0.0.2:7001").find("n2")


def test_a_copied_identity_is_refused(door: Member1, server: JoinServer) -> None:
    thief = msgspec.structs.replace(create(), node_id=door.identity.node_id)
    with pytest.raises(JoinError, match="copied"):
        joined(thief, door.token(server.address), "n2", "127.0.0.2:7001")
    assert door.table.find("n1").public_key == door.identity.public_key


def test_nobody_answers(door: Member1) -> None:
    token = door.token(f"127.0.0.1:{free_port()}")
    with pytest.raises(JoinError, match=r"no answer from 127\.0\.0\.1.*firewall.*mqnode status"):
        joined(create(), token, "n2", "127.0.0.2:7001", timeout_s=0.3)


def test_somebody_between_is_not_the_member(door: Member1, server: JoinServer) -> None:
    token = door.token(server.address)
    other = JoinServer(create(), f"127.0.0.1:{free_port()}", door)
    try:
        with pytest.raises(JoinError, match="no answer"):
            joined(create(), msgspec.structs.replace(token, address=other.address), "n2", "h:1", timeout_s=0.5)
    finally:
        other.stop()


def test_two_hosts_with_one_token_and_two_with_one_name(door: Member1, server: JoinServer) -> None:
    def attempt(token: Token, name: str) -> str:
        try:
            joined(create(), token, name, "127.0.0.2:7001")
        except JoinError as error:
            return str(error)
        return ""

    token = door.token(server.address)
    results = [gevent.spawn(attempt, token, name) for name in ("a", "b")]
    results += [gevent.spawn(attempt, door.token(server.address), "same") for _ in range(2)]
    gevent.joinall(results, raise_error=True)
    assert sorted(each.value[:20] for each in results[:2]) == ["", "this token was used "]
    assert sorted(each.value[:10] for each in results[2:]) == ["", "a host nam"]


JOINER = """
import sys
from pathlib import Path
import gevent
from mesh import join
from mesh.identity import load_or_create
from mesh.token import Token
from tests.mesh.host import Host
identity = load_or_create(Path(sys.argv[1]))
token, name, address = Token.parse(sys.argv[2]), sys.argv[3], sys.argv[4]
table = join.join(join.Joiner(identity, name, address), token)
host = Host(identity, table, address, echo=True)
gevent.sleep(90)
"""


def test_who_has_joined_is_connected(tmp_path: Path) -> None:
    """n2 and n3 are processes that join at once; n1 tells its transport of each."""
    identity = load_or_create(tmp_path / FILE_NAME)
    door = Member1(identity, f"127.0.0.1:{free_port()}")
    host = Host(identity, door.table, door.table.find("n1").address)
    door.told = host.transport.update_members
    server = JoinServer(identity, f"127.0.0.1:{free_port()}", door)
    joiners = []
    for number in (2, 3):
        token, address = door.token(server.address).text(), f"127.0.0.{number}:{free_port()}"
        command = [sys.executable, "-c", JOINER, tmp_path / f"{number}.json", token, f"n{number}", address]
        joiners.append(subprocess.Popen(command))
    try:
        green_wait(lambda: sorted(event[0] for event in host.events) == ["up", "up"], 60)
        assert {event[1] for event in host.events} == {door.table.find(name).node_id.hex() for name in ("n2", "n3")}
    finally:
        for process in joiners:
            process.kill()
            process.wait()
        server.stop()
        host.transport.stop()


# -- the pure parts ------------------------------------------------------------------------------------------------------------


def ask(desk: Desk, message: bytes, now_ms: int = 0, connection: bytes = b"1") -> Said:
    answer: Said = msgspec.msgpack.decode(desk.answer(now_ms, connection, "j" * 40, "10.0.0.9", message), type=Said)
    return answer


def asking(versions: tuple[int, int] = (1, 1)) -> bytes:
    return msgspec.msgpack.encode(Ask(*versions, CLUSTER))


def joining(door: Member1, token: Token, nonce: bytes) -> bytes:
    given = proof(token.key, door.identity.public_key, "j" * 40, nonce)
    return msgspec.msgpack.encode(join.Join(token.number, given, b"n" * 16, "n2", "10.0.0.9:7001"))


def test_releases_that_do_not_fit(door: Member1) -> None:
    desk = Desk(door.identity, door, lambda: b"n" * 16)
    newer = versions.HIGHEST + 1
    answer = ask(desk, asking((newer, newer + 1)))
    assert isinstance(answer, Refused)
    assert "upgrade the older one" in answer.why
    assert isinstance(ask(desk, asking((1, newer))), Challenge)


def joining_as(door: Member1, token: Token, **fields: object) -> Said:
    desk = Desk(door.identity, door, lambda: b"n" * 16)
    ask(desk, asking())
    given = proof(token.key, door.identity.public_key, "j" * 40, b"n" * 16)
    said = join.Join(token.number, given, b"n" * 16, "n2", "10.0.0.9:7001")
    return ask(desk, msgspec.msgpack.encode(msgspec.structs.replace(said, **fields)))


def test_a_host_of_another_clusters_name_and_one_with_another_clock(door: Member1) -> None:
    token = door.token("h:1")
    for fields, text in (
        ({"cluster": "away"}, 'configured for the cluster "away", the member is in "home"'),
        ({"wall_ms": 61_000}, "61 s ahead of the member's"),
        ({"wall_ms": -61_000}, "61 s behind the member's"),
    ):
        answer = joining_as(door, token, **fields)
        assert isinstance(answer, Refused)
        assert text in answer.why
    assert isinstance(joining_as(door, token, cluster="home", wall_ms=59_000), Welcome)


def test_an_older_host_does_not_join_where_something_newer_may_be_in_use(door: Member1) -> None:
    token = door.token("h:1")
    [own] = door.table.active()
    door.table = door.table.with_member(msgspec.structs.replace(own, level=versions.LEVEL + 1, stamp=door.stamp()))
    answer = joining_as(door, token, level=versions.LEVEL)
    assert isinstance(answer, Refused)
    assert "Install the release of its members" in answer.why
    assert isinstance(joining_as(door, token, level=versions.LEVEL + 1), Welcome)
    assert door.table.level == versions.LEVEL + 1


def test_a_nonce_is_for_one_connection_and_one_attempt(door: Member1) -> None:
    nonces = iter([b"%016d" % number for number in range(1000)])
    desk = Desk(door.identity, door, lambda: next(nonces))
    token = door.token("h:1")
    challenge = ask(desk, asking())
    assert isinstance(challenge, Challenge)
    assert isinstance(ask(desk, joining(door, token, challenge.nonce), connection=b"2"), Refused)
    wrong = door.token("h:1")
    assert isinstance(ask(desk, joining(door, wrong, b"x" * 16)), Refused)
    assert isinstance(ask(desk, joining(door, token, challenge.nonce)), Refused), "used up by the wrong attempt"
    challenge = ask(desk, asking())
    assert isinstance(challenge, Challenge)
    assert isinstance(ask(desk, joining(door, token, challenge.nonce)), Welcome)


def test_five_wrong_tokens_a_minute(door: Member1) -> None:
    desk = Desk(door.identity, door, lambda: b"n" * 16)
    good = door.token("h:1")
    stranger = Token(CLUSTER, "h:1", door.identity.public_key, b"s" * 16)
    whys = []
    for now_ms in range(ATTEMPTS + 1):
        ask(desk, asking(), now_ms)
        answer = ask(desk, joining(door, stranger, b"n" * 16), now_ms)
        assert isinstance(answer, Refused)
        whys.append(answer.why[:11])
    assert whys == ["wrong token"] * ATTEMPTS + ["too many wr"]
    assert isinstance(ask(desk, asking(), ATTEMPTS_MS - 1), Refused)
    assert isinstance(ask(desk, asking(), ATTEMPTS_MS), Challenge)
    assert isinstance(ask(desk, joining(door, good, b"n" * 16), ATTEMPTS_MS), Welcome)


def test_a_clock_that_steps_back_closes_no_door() -> None:
    attempts = Attempts()
    for _ in range(ATTEMPTS):
        attempts.wrong("a", 10 * ATTEMPTS_MS)
    assert attempts.wait_s("a", 10 * ATTEMPTS_MS) == 60
    assert attempts.wait_s("a", 0) == 0


def test_wrong_attempts_are_kept_for_a_bounded_number_of_addresses() -> None:
    attempts = Attempts()
    for number in range(join.ADDRESSES_MAX):
        attempts.wrong(str(number), 0)
    assert attempts.wait_s("new", 0) == 60
    assert attempts.wait_s("0", 0) == 0
    assert attempts.wait_s("new", ATTEMPTS_MS) == 0


@pytest.mark.parametrize(
    "message", [b"", b"\xff" * 100, msgspec.msgpack.encode(["Open", 1]), msgspec.msgpack.encode(["Ask"])]
)
def test_bytes_that_are_no_message(door: Member1, message: bytes) -> None:
    assert isinstance(ask(Desk(door.identity, door, lambda: b""), message), Refused)


def test_a_host_with_others_leaves_first() -> None:
    join.check_free(None, CLUSTER)
    alone = Member1(create()).table
    join.check_free(Membership(b"d" * 16, "mine", alone.members), CLUSTER)
    other = create()
    member = Member(other.node_id, "n9", "h:1", other.public_key, "active", Stamp(1, other.node_id))
    join.check_free(alone.with_member(member), CLUSTER)
    with pytest.raises(JoinError, match=r"with 1 more.*mqnode leave"):
        join.check_free(Membership(b"d" * 16, "mine", alone.with_member(member).members), CLUSTER)


def test_a_change_between_is_the_doors_to_refuse(door: Member1) -> None:
    desk = Desk(door.identity, door, lambda: b"n" * 16)
    token = door.token("h:1")

    def admit(_: Member) -> Membership:
        raise MembershipError("a name that has just been taken")

    door.admit = admit  # type: ignore[method-assign]
    ask(desk, asking())
    answer = ask(desk, joining(door, token, b"n" * 16))
    assert answer == Refused("a name that has just been taken")
