"""Requests over a link that is lost and replaced: which are asked again, and who hears what."""

from __future__ import annotations

from typing import Any

from node.peers import REQUEST, Peer, decode, encode


class Sent:
    def __init__(self) -> None:
        self.methods: list[str] = []

    def send(self, kind: int, body: bytes) -> None:
        assert kind == REQUEST
        self.methods.append(decode(body)[1])


def test_what_was_withdrawn_is_not_asked_again_and_may_still_be_answered() -> None:
    """As a claim for a client that has gone: asked of the next keeper it would take the session from where it is now."""
    keeper, answers = Peer(repeat=True), list[Any]()
    first, second, third = Sent(), Sent(), Sent()
    keeper.connected(first)
    claim = keeper.call("claim", {}, lambda ok, result: answers.append((ok, result)))
    keeper.call("barrier", {})
    keeper.withdraw(claim)
    keeper.answered(encode((claim, True, "late")))
    assert answers == [(True, "late")]
    gone = keeper.call("detach", {}, lambda ok, result: answers.append("of a keeper that is gone"))
    keeper.withdraw(gone)
    keeper.lost()
    keeper.connected(second)
    assert (first.methods, second.methods) == (["claim", "barrier", "detach"], ["barrier"])
    keeper.answered(encode((gone, True, "")))
    keeper.answered(encode((claim + 1, True, "")))
    keeper.lost()
    keeper.connected(third)
    assert (third.methods, len(answers)) == ([], 1)


def test_a_sibling_that_is_gone_has_answered_no() -> None:
    sibling, answers = Peer(repeat=False), list[Any]()
    sibling.call("clients", {}, lambda ok, result: answers.append((ok, result)))
    link = Sent()
    sibling.connected(link)
    sibling.call("clients", {}, lambda ok, result: answers.append((ok, result)))
    sibling.lost()
    assert answers == [(False, "not connected"), (False, "connection lost")]
    sibling.connected(link)
    assert link.methods == ["clients"], "it has started anew"
