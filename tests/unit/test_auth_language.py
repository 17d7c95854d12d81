"""Topic filters as sets: against a naive matcher, over every topic that could make a difference."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.auth.language import Levels, includes, intersects, matches, split_filter

WORDS = ("a", "b", "$x", "")
FRESH = "z"  # stands for every level that no filter names
_LEVELS = st.lists(st.sampled_from((*WORDS, "+", "+")), min_size=1, max_size=4)
FILTERS = st.builds(
    lambda levels, tail: (*levels, "#") if tail else tuple(levels), _LEVELS, st.booleans()
) | st.just(("#",))  # fmt: skip
# One level more than the longest filter: a longer topic behaves as one of these.
TOPICS: list[Levels] = [
    topic for length in range(1, 6) for topic in itertools.product((*WORDS, FRESH), repeat=length) if topic != ("",)
]


def naive(filter: Levels, topic: Levels) -> bool:
    """The specification word for word, by recursion."""
    if topic[0].startswith("$") and filter[0] in ("+", "#"):
        return False
    return _naive_rest(filter, topic)


def _naive_rest(filter: Levels, topic: Levels) -> bool:
    if not filter:
        return not topic
    if filter[0] == "#":
        return True
    if not topic:
        return False
    return filter[0] in ("+", topic[0]) and _naive_rest(filter[1:], topic[1:])


def language(filter: Levels) -> frozenset[Levels]:
    return frozenset(topic for topic in TOPICS if naive(filter, topic))


@given(FILTERS, st.sampled_from(TOPICS))
def test_matches_as_the_specification_says(filter: Levels, topic: Levels) -> None:
    assert matches(filter, topic) == naive(filter, topic)


@settings(max_examples=300, deadline=None)
@given(FILTERS, FILTERS)
@example(("", "+", "#"), ("", "#"))  # the empty topic is none
def test_includes_is_inclusion_of_the_topics(outer: Levels, inner: Levels) -> None:
    if not language(inner):  # only ("",): the empty filter, which is none
        return
    assert includes(outer, inner) == (language(inner) <= language(outer))


@settings(max_examples=300, deadline=None)
@given(FILTERS, FILTERS)
@example(("", "#"), ("+",))  # the empty topic is none
def test_intersects_is_a_common_topic(one: Levels, other: Levels) -> None:
    if not (language(one) and language(other)):
        return
    assert intersects(one, other) == bool(language(one) & language(other))


@pytest.mark.parametrize(
    ("outer", "inner", "included"),
    [
        ("#", "+/#", True),
        ("+/#", "#", True),
        ("a/#", "a", True),
        ("a/+/#", "a/#", False),  # the topic a
        ("a/+", "a/#", False),
        ("a/#", "a/+/b", True),
        ("#", "$SYS/#", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/broker/+", True),
        ("a/b", "a/+", False),
        ("+", "#", False),
    ],
)
def test_inclusion_by_example(outer: str, inner: str, included: bool) -> None:
    assert includes(split_filter(outer), split_filter(inner)) is included


@pytest.mark.parametrize("filter", ["", "a#", "a/#/b", "#/a", "+a", "a/b+", "a\0b", "##", "a" * 65_536])
def test_what_is_no_filter(filter: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        split_filter(filter)
