"""What a client costs that is only connected: docs/benchmarks.md has the bytes, this holds the parts that they are made of."""

from __future__ import annotations

from node.core.loop import Connection, Session
from node.sessions.owners import Owner, Owners


def test_the_core_keeps_it_small() -> None:
    # with the header for the garbage collector 256 and 112: the next byte would cost sixteen
    assert Connection.__basicsize__ <= 240
    assert Session.__basicsize__ <= 96


def test_the_keeper_forgets_nothing_of_a_plain_client() -> None:
    links = [object() for _ in range(3)]
    owners, given = Owners(), {}
    for number, link in enumerate(links):
        for at_ms in (0, 1, 1 << 44):
            cid = f"{number}/{at_ms}"
            given[cid] = owners[cid] = Owner(link, (1 << 48) - 1 - number, None, 0, at_ms)
    given["will"] = owners["will"] = Owner(links[0], 7, None, 9, 3)
    assert {cid: owners.get(cid) for cid in given} == given
    assert owners.get("nobody") is None
    assert owners.at(links[1]) == ["1/0", "1/1", f"1/{1 << 44}"]


def test_a_new_worker_takes_the_place_of_one_that_left() -> None:
    owners, stays = Owners(), object()
    owners["a"] = Owner(stays, 1, None, 0, 0)
    for number in range(1000):  # more than an entry has room for
        link = object()
        owners["b"] = Owner(link, number, None, 0, 0)
        assert owners["b"].link is link
        del owners["b"]
        owners.left(link)
    assert owners["a"].link is stays
