"""The other hosts as the keeper knows them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from node.keeper.members import Members

A, B = b"a" * 16, b"b" * 16


@pytest.fixture
def elsewhere() -> Any:
    return SimpleNamespace(number=9, members=set(), removed=set(), evicted=set(), are_all_known=True)


@pytest.fixture
def evicted() -> set[bytes]:
    return set()


@pytest.fixture
def members(elsewhere: Any, evicted: set[bytes]) -> Members:
    meta: dict[bytes, bytes] = {}
    writer: Any = SimpleNamespace(
        get=lambda _, key: meta.get(key), put=lambda _, key, value: meta.__setitem__(key, value)
    )
    return Members(writer, elsewhere, evicted)


def test_who_is_expected_is_so_until_it_is_heard_however_often_it_is_told(members: Members) -> None:
    """Before that nobody is served: what the other host has acknowledged may be missing here."""
    assert not members.are_told
    members.are_unknown = True  # nobody said it in time
    members.are([A])
    assert (members.are_told, members.are_unknown, members.expected) == (True, False, {A})
    members.are([A, B])
    members.are([A, B])
    assert members.expected == {A, B}
    members.expected.discard(A)
    members.are([A, B])
    assert members.expected == {B}, "who was heard is not waited for again"


def test_who_has_left_is_reckoned_with_no_longer(members: Members, elsewhere: Any) -> None:
    members.are([A, B])
    assert not elsewhere.are_all_known
    members.numbered(A, 1)
    assert (elsewhere.members, elsewhere.are_all_known) == ({1}, False)
    members.left(B)
    assert (elsewhere.members, elsewhere.are_all_known) == ({1}, True)
    members.left(A)
    assert elsewhere.removed == {1}
    assert elsewhere.members == set()


def test_a_number_that_nobody_has_said_is_of_one_who_may_come_unless_all_such_are_evicted(
    members: Members, elsewhere: Any, evicted: set[bytes]
) -> None:
    """A host that joins never hears the number of a member that died before; what others have of it would be awaited for ever."""
    members.are([A, B])
    members.numbered(A, 1)
    evicted.add(B)
    members.look()
    assert elsewhere.are_all_known
    evicted.discard(B)
    members.look()
    assert not elsewhere.are_all_known


def test_who_was_evicted_before_it_had_said_its_number_is_not_gone_once_it_is_there(
    members: Members, elsewhere: Any, evicted: set[bytes]
) -> None:
    """It is evicted as number 0; the number with which it comes is another one."""
    members.are([A, B])
    evicted |= {A, B}
    elsewhere.evicted.add(0)
    evicted.discard(A)
    members.numbered(A, 1)
    assert elsewhere.evicted == {0}, "that of B"
    evicted.discard(B)
    members.look()
    assert not elsewhere.evicted
