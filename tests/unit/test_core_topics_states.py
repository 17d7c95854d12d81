"""The topic tree over a life: sessions subscribe, share, leave and come back, and it always answers as a list would."""

from __future__ import annotations

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from node.config import Limits
from node.core.loop import Loop, Session
from tests.unit.test_core_topics import filters, naive_match

SESSIONS = st.integers(0, 3)
GROUPS = st.sampled_from(["g", "h"])
NAMES = st.sampled_from(
    ["a", "b", "a/b", "a//", "/", "$SYS", "$SYS/a", "$SYS/a/b", "b/$SYS", "$share/g/a", "a/b/c/a/b"]
)
FILTERS = filters() | NAMES | st.sampled_from(["#", "+", "+/+", "$SYS/#", "$SYS/+", "+/a", "a/#", "a/+/#"])


class Subscriptions(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.loop = Loop(object(), memoryview(array("Q", [0] * 1024)), Limits(), "round_robin")
        self.sessions = [Session(self.loop, str(number), "") for number in range(4)]
        self.plain: dict[tuple[int, str], int] = {}
        self.shared: set[tuple[int, str, str]] = set()

    @rule(number=SESSIONS, filter=FILTERS, qos=st.integers(0, 2))
    def subscribe(self, number: int, filter: str, qos: int) -> None:
        new, _ = self.sessions[number].subscribe(filter.encode(), qos)
        assert new == ((number, filter) not in self.plain)
        self.plain[number, filter] = qos

    @rule(number=SESSIONS, filter=FILTERS)
    def unsubscribe(self, number: int, filter: str) -> None:
        existed, _ = self.sessions[number].unsubscribe(filter.encode())
        assert existed == (self.plain.pop((number, filter), None) is not None)

    @rule(number=SESSIONS, group=GROUPS, filter=FILTERS)
    def share(self, number: int, group: str, filter: str) -> None:
        new = self.sessions[number].share(group.encode(), filter.encode(), 1)
        assert new == ((number, group, filter) not in self.shared)
        self.shared.add((number, group, filter))

    @rule(number=SESSIONS, group=GROUPS, filter=FILTERS)
    def unshare(self, number: int, group: str, filter: str) -> None:
        existed = self.sessions[number].unshare(group.encode(), filter.encode())
        assert existed == ((number, group, filter) in self.shared)
        self.shared.discard((number, group, filter))

    @rule(number=SESSIONS)
    def leave(self, number: int) -> None:
        self.sessions[number].leave_tree()
        self.plain = {key: qos for key, qos in self.plain.items() if key[0] != number}
        self.shared = {key for key in self.shared if key[0] != number}

    @rule(topic=NAMES)
    def match(self, topic: str) -> None:
        expected: dict[int, int] = {}
        for (number, filter), qos in self.plain.items():
            if naive_match(filter, topic):
                expected[number] = max(qos, expected.get(number, 0))
        found = self.loop.tree.matches(topic.encode())
        assert {self.sessions.index(session): options & 3 for session, options, _ in found} == expected
        assert len(found) == len(expected)

    @rule(group=GROUPS, filter=FILTERS)
    def members(self, group: str, filter: str) -> None:
        found = self.loop.group_members(group.encode(), filter.encode())
        expected = {number for number, name, of in self.shared if (name, of) == (group, filter)}
        assert sorted(self.sessions.index(session) for session in found) == sorted(expected)

    @invariant()
    def nothing_is_left_behind(self) -> None:
        if not self.plain and not self.shared:
            assert self.loop.tree.nodes == 0

    @invariant()
    def each_session_knows_its_own(self) -> None:
        for number, session in enumerate(self.sessions):
            own = sum(key[0] == number for key in [*self.plain, *self.shared])
            assert session.subscription_count == own


TestSubscriptions = Subscriptions.TestCase
TestSubscriptions.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
