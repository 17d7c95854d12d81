"""The topic tree against a naive matcher, and its bookkeeping: nothing stays when everything has left."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.topics import TopicTree

LEVELS = st.sampled_from(["a", "b", "c", "", "$SYS", "long-level-name"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=5).map("/".join).filter(bool)


@st.composite
def filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.one_of(LEVELS, st.just("+")), max_size=5))
    if not levels or draw(st.booleans()):
        levels = [*levels, "#"]
    return "/".join(levels) or "#"


def naive_match(filter: str, topic: str) -> bool:
    """MQTT 5, 4.7, literally."""
    wanted, levels = filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(levels) or level not in ("+", levels[position]):
            return False
    return len(wanted) == len(levels)


class Subscriber:
    pass


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(filters(), st.integers(0, 3)), max_size=25), st.lists(TOPICS, max_size=8), st.randoms())
def test_matches_as_the_specification_says(subscriptions, topics, random):
    tree = TopicTree()
    subscribers = [Subscriber() for _ in range(4)]
    present: dict[tuple[int, str], None] = {}
    for filter, number in subscriptions:
        new = tree.subscribe(subscribers[number], filter.encode(), number % 3)
        assert new == ((number, filter) not in present)
        present[number, filter] = None
    for _ in range(2):
        for topic in topics:
            expected = {number for number, filter in present if naive_match(filter, topic)}
            found = [subscribers.index(session) for session, _, _ in tree.matches(topic.encode())]
            assert sorted(found) == sorted(expected), topic
        for key in random.sample(sorted(present), len(present) // 2):
            number, filter = key
            assert tree.unsubscribe(subscribers[number], filter.encode())
            del present[key]
    for number, filter in present:
        assert tree.unsubscribe(subscribers[number], filter.encode())
    assert tree.nodes == 0
    assert not any(tree.matches(topic.encode()) for topic in topics)


def test_overlapping_subscriptions_are_one_delivery_with_the_highest_qos():
    tree = TopicTree()
    subscriber = Subscriber()
    tree.subscribe(subscriber, b"a/#", 0, 7)
    tree.subscribe(subscriber, b"a/+", 2, 9)
    tree.subscribe(subscriber, b"a/b", 1)
    ((found, options, identifiers),) = tree.matches(b"a/b")
    assert found is subscriber
    assert options & 3 == 2
    assert sorted(identifiers) == [7, 9]


def test_a_change_is_seen_by_the_next_match():
    tree = TopicTree()
    first, second = Subscriber(), Subscriber()
    tree.subscribe(first, b"a", 1)
    assert len(tree.matches(b"a")) == 1
    tree.subscribe(second, b"+", 1)
    assert len(tree.matches(b"a")) == 2
    tree.unsubscribe(first, b"a")
    assert [session for session, _, _ in tree.matches(b"a")] == [second]


def test_receivers_that_may_not_read_a_topic_are_left_out_until_the_rules_change():
    tree = TopicTree()
    first, second = Subscriber(), Subscriber()
    tree.subscribe(first, b"#", 1)
    tree.subscribe(second, b"#", 1)
    tree.receive_permitted = lambda session, topic: session is first
    assert [session for session, _, _ in tree.matches(b"a")] == [first]
    tree.receive_permitted = None
    tree.invalidate()
    assert len(tree.matches(b"a")) == 2


def test_the_deepest_topic_needs_no_stack():
    tree = TopicTree()
    subscriber = Subscriber()
    deep = b"/" * 65534
    tree.subscribe(subscriber, b"+/" * 30000 + b"#", 0)
    tree.subscribe(subscriber, deep, 0)
    assert len(tree.matches(deep)) == 1
    assert len(tree.matches(b"/" * 29999 + b"x")) == 1


def test_many_filters_and_their_removal():
    tree = TopicTree()
    subscriber = Subscriber()
    names = [b"site/%d/device/%d" % (number % 100, number) for number in range(20_000)]
    for name in names:
        tree.subscribe(subscriber, name, 1)
    assert len(tree.matches(names[777])) == 1
    for name in names:
        assert tree.unsubscribe(subscriber, name)
    assert tree.nodes == 0
