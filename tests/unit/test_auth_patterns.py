"""S11: whatever a client calls itself, a pattern grants it what the pattern says of a literal name, and nothing else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from node.auth.acl import READ, WRITE, Rule, Rules
from node.auth.client_rules import ClientRules

# Names as an attacker would choose them: pieces of filters, of patterns, of regular expressions
PIECES = st.sampled_from(
    ["a", "b", "+", "#", "/", "$", "$SYS", "%", "%u", "%c", ".", "*", "(", ")", "\n", "\0", "é", " "]
)
USERS = st.lists(PIECES, max_size=3).map("".join)
LEVELS = st.sampled_from(["a", "b", "%u", "%c", "x%u", "%c%u", "+", "$SYS"])
PATTERNS = st.builds(
    lambda levels, tail: "/".join([*levels, "#"] if tail else levels),
    st.lists(LEVELS, min_size=1, max_size=3), st.booleans(),
)  # fmt: skip


def granted(pattern: str, user: str, client_id: str, topic: str) -> bool:
    rules = Rules((), {}, (Rule(1, "", READ | WRITE, pattern),))
    return ClientRules(rules, user, client_id).judge_topic(tuple(topic.split("/")), WRITE, 0, False)[0]


def expected(pattern: str, user: str, client_id: str, topic: str) -> bool:
    """Level by level, with the names as texts that can only equal a whole level or a part of one."""
    wanted, levels = pattern.split("/"), topic.split("/")
    for name, value in (("%u", user), ("%c", client_id)):
        if name in pattern and (not value or set(value) & set("+#/\0\n")):
            return False
    if topic.startswith("$") and not pattern.startswith("$"):
        return False
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(levels):
            return False
        literal = level.replace("%u", "\1").replace("%c", "\2").replace("\1", user).replace("\2", client_id)
        if level != "+" and literal != levels[position]:
            return False
    return len(wanted) == len(levels)


@settings(max_examples=400, deadline=None)
@given(PATTERNS, USERS, USERS, st.data())
def test_names_are_literal(pattern: str, user: str, client_id: str, data: st.DataObject) -> None:
    names = ["a", "b", "$SYS", "", "x" + user, client_id + user, user, client_id, "other"]
    levels = st.lists(st.sampled_from(names), min_size=1, max_size=4)
    topic = data.draw(levels.map("/".join).filter(lambda found: found != "" and not set(found) & set("+#\0")))
    assert granted(pattern, user, client_id, topic) == expected(pattern, user, client_id, topic)


@settings(max_examples=300, deadline=None)
@given(USERS, USERS, st.sampled_from(["u/%u", "u/%u/#", "%u/#", "u/x%u/#", "+/%u/+"]))
def test_no_name_reaches_into_anothers_tree(victim: str, attacker: str, pattern: str) -> None:
    topic = pattern.replace("#", "secret").replace("+", "a").replace("%u", victim)
    if victim != attacker and victim and not set(victim) & set("+#/\0\n"):
        assert not granted(pattern, attacker, attacker, topic)
