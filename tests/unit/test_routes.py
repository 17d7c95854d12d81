"""Merged routes against the plainest model of them: who subscribed to what, and which filter matches."""

from __future__ import annotations

import struct
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from node.interconnect.holds import Holds
from node.interconnect.routes import GONE, MEMBERS, THERE, Routes
from tests.unit.test_core_topics import naive_match

PLACES = ["p", "q", "r"]
FILTERS = ["a", "a/b", "a/#", "+/b", "#", "$SYS/#", "+", "a/+/c"]
TOPICS = ["a", "a/b", "a/x/c", "b", "$SYS/x", "x/b"]
GROUPS = ["g/a/#", "h/a/#", "g/+"]

places = st.sampled_from(PLACES)
counts = st.integers(0, 2)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("filter"), places, st.sampled_from(FILTERS), st.booleans()),
        st.tuples(st.just("group"), places, st.sampled_from(GROUPS), st.tuples(counts, counts)),
        st.tuples(st.just("forget"), places),
    ),
    max_size=40,
)


def record(kind: int, name: str, counts: tuple[int, int] = (0, 0)) -> bytes:
    return struct.pack("<BHHH", kind, len(name), *counts) + name.encode()


class Outside:
    """What somebody knows who has only been told the changes."""

    def __init__(self) -> None:
        self.filters: set[str] = set()
        self.groups: dict[str, tuple[int, int]] = {}

    def told(self, routes: bytes) -> None:
        while routes:
            kind, length, live, durable = struct.unpack_from("<BHHH", routes)
            name, routes = routes[7 : 7 + length].decode(), routes[7 + length :]
            if kind == MEMBERS:
                assert self.groups.get(name, (0, 0)) != (live, durable), "told for nothing"
                self.groups[name] = (live, durable)
            else:
                assert (name in self.filters) == (kind == GONE), "told for nothing"
                (self.filters.add if kind == THERE else self.filters.discard)(name)
        self.groups = {name: counts for name, counts in self.groups.items() if any(counts)}


class Model:
    def __init__(self) -> None:
        self.filters: set[tuple[str, str]] = set()
        self.groups: dict[tuple[str, str], tuple[int, int]] = {}

    def apply(self, routes: Routes[str], step: tuple) -> list[bytes]:
        match step:
            case ("filter", place, name, there):
                (self.filters.add if there else self.filters.discard)((place, name))
                return routes.change(place, record(THERE if there else GONE, name))
            case ("group", place, name, members):
                self.groups[place, name] = members
                return routes.change(place, record(MEMBERS, name, members))
            case (_, gone):
                self.filters = {(place, name) for place, name in self.filters if place != gone}
                self.groups = {key: members for key, members in self.groups.items() if key[0] != gone}
                return routes.forget(gone)

    def sums(self) -> dict[str, tuple[int, int]]:
        found = {
            name: tuple(sum(counts[i] for (_, group), counts in self.groups.items() if group == name) for i in (0, 1))
            for name in GROUPS
        }
        return {name: sums for name, sums in found.items() if any(sums)}


@settings(max_examples=300, deadline=None)
@given(steps)
def test_the_outside_knows_the_union_and_each_topic_its_places(script):
    routes, model, outside = Routes(), Model(), Outside()
    for step in script:
        outside.told(b"".join(model.apply(routes, step)))
        assert outside.filters == {name for _, name in model.filters}
        assert outside.groups == model.sums()
        for topic in TOPICS:
            expected = {place for place, name in model.filters if naive_match(name, topic)}
            assert Counter(routes.places_of(topic.encode())) == Counter(expected)
    late = Outside()
    late.told(b"".join(routes.everything()))
    assert (late.filters, late.groups) == (outside.filters, outside.groups)


@settings(deadline=None)
@given(st.dictionaries(places, st.tuples(counts, counts)), st.integers(0, 2))
def test_each_member_of_a_group_has_its_turn(members, qos):
    routes = Routes()
    for place, each in members.items():
        routes.change(place, record(MEMBERS, "g/t", each))
    weights = {place: live + (durable if qos == 0 else 0) for place, (live, durable) in members.items()}
    turns = Counter(place for _ in range(3 * sum(weights.values())) for place in routes.member_of(b"g/t", qos))
    assert turns == Counter({place: 3 * weight for place, weight in weights.items() if weight})
    assert sum(weights.values()) or routes.member_of(b"g/t", qos) == ()


@given(st.lists(st.tuples(places, st.sampled_from([b"", b"a", b"b", b"c"])), max_size=30))
def test_the_outside_holds_what_any_place_holds(frames):
    holds, held, outside = Holds(), {place: set() for place in PLACES}, set()
    for place, topic in frames:
        held[place] = held[place] | {topic} if topic else set()
        for told in holds.change(place, topic):
            assert told not in outside, "told for nothing"
            outside = outside | {told} if told else set()
        assert outside == holds.topics() == set().union(*held.values())
