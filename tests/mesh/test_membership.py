"""The table of members: merging needs no order, a change needs a later stamp, a name belongs to one host."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import membership
from mesh.hlc import AHEAD_MS_MAX, Clock, Stamp, StampError
from mesh.membership import Member, Membership, MembershipError

KEYS = ["".join(letter * 40) for letter in "abcd"]
IDS = [bytes([number]) * 16 for number in range(1, 5)]
CLUSTER = b"c" * 16

stamps = st.builds(Stamp, st.integers(0, 3), st.sampled_from(IDS))  # few: equal ones are likely
members = st.builds(
    Member,
    st.sampled_from(IDS),
    st.sampled_from(["n1", "n2"]),
    st.sampled_from(["10.0.0.1:7001", "[::1]:7001"]),
    st.sampled_from(KEYS),
    st.sampled_from(["active", "left"]),
    stamps,
    st.integers(0, 2),
)
tables = st.builds(
    lambda listed: Membership(CLUSTER, "home", {each.node_id: each for each in listed}), st.lists(members, max_size=4)
)


def member(number: int, name: str, time: int = 1, **more: str) -> Member:
    return Member(IDS[number], name, more.get("address", "10.0.0.1:7001"), KEYS[number], "active", Stamp(time, IDS[0]))


def table(*listed: Member) -> Membership:
    made = Membership(CLUSTER, "home")
    for each in listed:
        made = made.with_member(each)
    return made


@given(tables, tables, tables)
def test_merging_is_commutative_associative_and_idempotent(a: Membership, b: Membership, c: Membership) -> None:
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(a) == a
    assert a.merge(b).merge(b) == a.merge(b)


@given(tables)
def test_bytes_bring_back_the_same_table(made: Membership) -> None:
    assert Membership.from_json(made.to_json()) == made


@given(tables)
def test_shown_names_are_distinct(made: Membership) -> None:
    shown = made.shown_names()
    assert len(set(shown.values())) == len(shown) == len(made.active())
    assert all(made.find(name).node_id == node_id for node_id, name in shown.items())


def test_the_host_that_had_a_name_first_shows_it() -> None:
    for first, second in ((0, 1), (1, 0)):
        both = table(member(first, "n1", 1)).merge(table(member(second, "n1", 2)))
        assert both.find("n1").node_id == IDS[first]


def test_a_later_stamp_wins_whichever_table_is_merged_into_which() -> None:
    old = table(member(0, "n1"), member(1, "n2"))
    renamed = old.renamed(IDS[1], Stamp(2, IDS[1]), name="edge")
    moved = renamed.renamed(IDS[1], Stamp(3, IDS[0]), address="10.0.0.9:7001")
    assert old.merge(moved) == moved.merge(old) == moved
    assert (moved.member(IDS[1]).name, moved.member(IDS[1]).address) == ("edge", "10.0.0.9:7001")


def test_a_removed_host_is_not_brought_back_by_an_older_table_but_may_join_again() -> None:
    before = table(member(0, "n1"), member(1, "n2"))
    after = before.without(IDS[1], Stamp(5, IDS[0])).merge(before)
    assert [each.name for each in after.active()] == ["n1"]
    assert [each.name for each in after.with_member(member(1, "n2", 6)).active()] == ["n1", "n2"]


def test_a_name_belongs_to_one_host() -> None:
    with pytest.raises(MembershipError, match="Choose another"):
        table(member(0, "n1"), member(1, "n1"))
    with pytest.raises(MembershipError, match="Choose another"):
        table(member(0, "n1"), member(1, "n2")).renamed(IDS[1], Stamp(2, IDS[1]), name="n1")
    gone = table(member(0, "n1"), member(1, "n2")).without(IDS[0], Stamp(2, IDS[1]))
    assert gone.renamed(IDS[1], Stamp(3, IDS[1]), name="n1").find("n1").node_id == IDS[1]


def test_two_hosts_that_got_one_name_on_both_sides_of_a_cut_may_go_on_with_it() -> None:
    both = table(member(0, "n1")).merge(Membership(CLUSTER, "home").with_member(member(1, "n1")))
    moved = both.renamed(IDS[1], Stamp(2, IDS[1]), address="10.0.0.9:7001")
    assert [each.address for each in moved.active()] == ["10.0.0.1:7001", "10.0.0.9:7001"]
    left = both.without(IDS[1], Stamp(2, IDS[1]))
    with pytest.raises(MembershipError, match="Choose another"):
        left.with_member(member(1, "n1", 3))


def test_a_copied_data_directory_is_refused() -> None:
    copy = msgspec.structs.replace(member(1, "n2"), public_key=KEYS[0])
    with pytest.raises(MembershipError, match="copied"):
        table(member(0, "n1"), copy)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": "-n"}, "cannot name a host"),
        ({"name": "a" * 64}, "cannot name a host"),
        ({"address": "10.0.0.1"}, "HOST:PORT"),
        ({"address": "10.0.0.1:0"}, "HOST:PORT"),
        ({"address": "10.0.0.1:65536"}, "HOST:PORT"),
        ({"address": "tcp://h:1"}, "HOST:PORT"),
        ({"public_key": "k" * 39}, "Z85"),
        ({"node_id": b"short"}, "16 bytes"),
    ],
)
def test_what_cannot_be_a_member_is_refused(change: dict[str, str], text: str) -> None:
    with pytest.raises(MembershipError, match=text):
        table(msgspec.structs.replace(member(0, "n1"), **change))


def test_active_members_are_bounded_those_that_left_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MEMBERS_MAX", 2)
    full = table(member(0, "n1"), member(1, "n2"))
    with pytest.raises(MembershipError, match="the most there can be"):
        full.with_member(member(2, "n3"))
    assert full.renamed(IDS[1], Stamp(2, IDS[1]), name="edge").find("edge")
    smaller = full.without(IDS[1], Stamp(2, IDS[1])).with_member(member(2, "n3"))
    assert len(smaller.members) == 3
    with pytest.raises(MembershipError, match="the most there can be"):
        smaller.with_member(member(1, "n2", 3))


def test_an_old_change_is_refused() -> None:
    with pytest.raises(MembershipError, match="older"):
        table(member(0, "n1", 5)).renamed(IDS[0], Stamp(4, IDS[3]), name="late")
    with pytest.raises(MembershipError, match="older"):
        table(member(0, "n1", 5)).renamed(IDS[0], Stamp(5, IDS[0]), name="same")


def test_clusters_do_not_merge() -> None:
    with pytest.raises(MembershipError, match="mqnode leave"):
        table(member(0, "n1")).merge(Membership(b"d" * 16, "other"))


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"cluster_id":"00","name":"home","members":[]}'])
def test_a_broken_table_is_refused(content: bytes) -> None:
    with pytest.raises(MembershipError, match="cannot be read"):
        Membership.from_json(content)


def test_a_host_that_is_listed_twice_is_refused() -> None:
    file = msgspec.json.decode(table(member(0, "n1")).to_json())
    file["members"] *= 2
    with pytest.raises(MembershipError, match="listed twice"):
        Membership.from_json(msgspec.json.encode(file))


# -- the clock -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 1 << 41), min_size=1))
def test_stamps_grow_whatever_the_wall_clock_does(walls: list[int]) -> None:
    clock = Clock(IDS[0])
    made = [clock.now(wall) for wall in walls]
    assert made == sorted(set(made))
    assert [Stamp.parse(str(each)) for each in made] == made


@given(st.integers(0, 1 << 41), st.integers(0, 1 << 41), st.integers(0, 0xFFFF))
def test_what_follows_an_observed_stamp_is_later(wall: int, remote_ms: int, counter: int) -> None:
    clock, remote = Clock(IDS[0]), Stamp(remote_ms << 16 | counter, IDS[1])
    if remote_ms > wall + AHEAD_MS_MAX:
        with pytest.raises(StampError, match="chronyc"):
            clock.observe(remote, wall)
        assert clock.now(wall).ms == wall
    else:
        clock.observe(remote, wall)
        assert clock.now(wall) > remote


def test_a_full_counter_runs_ahead_of_the_wall_clock() -> None:
    clock = Clock(IDS[0], last=(1000 << 16) | 0xFFFF)
    assert clock.now(1000) == Stamp(1001 << 16, IDS[0])


@pytest.mark.parametrize(
    "text", ["", "1-2", "x" * 16 + "-" + "0" * 32, "0" * 16 + "-" + "0" * 30, "0" * 16 + "-" + "A" * 32]
)
def test_text_that_is_no_stamp(text: str) -> None:
    with pytest.raises(StampError):
        Stamp.parse(text)


def test_the_cluster_understands_what_its_oldest_host_does() -> None:
    made = table(member(0, "n1"), member(1, "n2"))
    assert made.level == 0, "a table of a release that does not say"
    newer = [msgspec.structs.replace(each, level=2, stamp=Stamp(2, each.node_id)) for each in made.active()]
    assert made.with_member(newer[0]).level == 0
    assert made.with_member(newer[0]).with_member(newer[1]).level == 2
    assert made.with_member(newer[0]).without(IDS[1], Stamp(3, IDS[0])).level == 2
