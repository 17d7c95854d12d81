"""The rules of one client, ready to be asked: placeholders filled in, filters split and indexed by their first level.

What is put for %u and %c is literal text, in one pass. A value that could be more (empty, or with + # / NUL or newline)
makes a granting rule not hold for that client, and a denying rule deny it everything: no name opens a door.
A deny that fits wins over every grant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from node.auth.acl import DENY, Rule, Rules
from node.auth.language import Levels, includes, intersects, matches, split_filter

_PLACEHOLDER = re.compile("%[uc]")
_Filled = tuple[Levels, Rule]


class ClientRules:
    """Of the client `client_id` of `user` (None: anonymous).

    With `client_id` None it is unknown: what is granted to a client id counts as granted, what is denied to one does not.
    """

    def __init__(self, rules: Rules, user: str | None, client_id: str | None) -> None:
        self.barred: Rule | None = None  # the rule that denies this client everything
        self._denied: dict[str, list[_Filled]] = {}
        self._granted: dict[str, list[_Filled]] = {}
        own = rules.anonymous if user is None else rules.users.get(user, ())
        for rule in own:
            self._add(split_filter(rule.filter), rule)
        for rule in rules.patterns:
            self._add_pattern(rule, user, client_id)

    def _add(self, levels: Levels, rule: Rule) -> None:
        index = self._denied if rule.access == DENY else self._granted
        index.setdefault("+" if levels[0] == "#" else levels[0], []).append((levels, rule))

    def _add_pattern(self, rule: Rule, user: str | None, client_id: str | None) -> None:
        wanted = set(_PLACEHOLDER.findall(rule.filter))
        if "%u" in wanted and user is None:
            return
        any_client = "%c" in wanted and client_id is None
        if any_client and rule.access == DENY:
            return
        values = {"%u": user or "", "%c": client_id or ""}
        if not all(_is_literal(values[name]) for name in wanted if not (any_client and name == "%c")):
            if rule.access == DENY:
                self.barred = self.barred or rule
            return
        levels = tuple(
            "+" if any_client and "%c" in level else _PLACEHOLDER.sub(lambda found: values[found[0]], level)
            for level in split_filter(rule.filter)
        )
        if rule.access != DENY and levels[0].startswith("$") and not rule.filter.startswith("$"):
            return  # nobody gets $SYS by calling himself so
        self._add(levels, rule)

    def judge_topic(self, topic: Levels, access: int, qos: int, retain: bool) -> tuple[bool, Rule | None]:
        """Is it granted, and which rule decided (None: no rule fits, so it is not)?"""
        if self.barred is not None:
            return False, self.barred
        for levels, rule in _candidates(self._denied, topic[0]):
            if matches(levels, topic):
                return False, rule
        for levels, rule in _candidates(self._granted, topic[0]):
            if rule.access & access and qos <= rule.qos_max and (rule.retain or not retain) and matches(levels, topic):
                return True, rule
        return False, None

    def judge_filter(self, filter: Levels, access: int, qos: int) -> tuple[bool, Rule | None]:
        """The same for every topic of `filter`: one grant must include it. A deny that it only meets shows at delivery."""
        if self.barred is not None:
            return False, self.barred
        for levels, rule in _candidates(self._denied, filter[0]):
            if includes(levels, filter):
                return False, rule
        for levels, rule in _candidates(self._granted, filter[0]):
            if rule.access & access and qos <= rule.qos_max and includes(levels, filter):
                return True, rule
        return False, None

    def withheld(self, filter: Levels) -> list[Rule]:
        """The denies that hold for some topics of `filter`."""
        return [rule for denied in self._denied.values() for levels, rule in denied if intersects(levels, filter)]


def _candidates(index: dict[str, list[_Filled]], first: str) -> Iterator[_Filled]:
    if first != "+":
        yield from index.get(first, ())
    yield from index.get("+", ())


def _is_literal(value: str) -> bool:
    return bool(value) and not any(c in value for c in "+#/\0\n")
