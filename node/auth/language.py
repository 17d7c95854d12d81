"""Topic filters as sets of topics: is a topic in one, is one inside another, do two meet.

Pure and iterative, on levels: the filter `a/+/#` is ("a", "+", "#"). A topic has at least one level; wildcards at the
first level do not reach topics that begin with `$` [MQTT-4.7.2-1]. Whoever calls has valid filters and topics.
"""

from __future__ import annotations

Levels = tuple[str, ...]
_WILDCARDS = ("+", "#")


def split_filter(filter: str) -> Levels:
    """The levels of the filter. Raises ValueError, with the reason, if it is none."""
    if not filter or len(filter.encode()) > 65_535:
        raise ValueError("a filter has 1 to 65535 bytes")
    if "\0" in filter:
        raise ValueError("a filter holds no NUL")
    levels = tuple(filter.split("/"))
    if "#" in filter and (filter.count("#") > 1 or levels[-1] != "#"):
        raise ValueError("# stands alone at the last level")  # [MQTT-4.7.1-1]
    if "+" in filter and any("+" in level and level != "+" for level in levels):
        raise ValueError("+ stands alone at its level")  # [MQTT-4.7.1-2]
    return levels


def matches(filter: Levels, topic: Levels) -> bool:
    """Is `topic` one of the filter's?"""
    if filter[0] in _WILDCARDS and topic[0].startswith("$"):
        return False
    if filter[-1] == "#":
        filter = filter[:-1]
        if len(topic) < len(filter):
            return False
    elif len(topic) != len(filter):
        return False
    for ours, theirs in zip(filter, topic, strict=False):  # noqa: SIM110  # twice as fast as all()
        if ours != theirs and ours != "+":
            return False
    return True


def includes(outer: Levels, inner: Levels) -> bool:
    """Is every topic of `inner` one of `outer`?"""
    if outer[0] in _WILDCARDS and inner[0].startswith("$"):
        return False
    if inner == ("#",):
        return outer in (("#",), ("+", "#"))  # the same set: no topic has less than one level
    if inner == ("", "#"):
        inner = ("", "+", "#")  # the same set: no topic is empty
    open_ended = outer[-1] == "#"
    if open_ended:
        outer = outer[:-1]
    if inner[-1] == "#":
        inner = inner[:-1]
        if not open_ended or len(inner) < len(outer):
            return False
    elif len(inner) < len(outer) or (len(inner) > len(outer) and not open_ended):
        return False
    for ours, theirs in zip(outer, inner, strict=False):  # noqa: SIM110
        if ours != theirs and ours != "+":
            return False
    return True


def intersects(one: Levels, other: Levels) -> bool:
    """Is there a topic that both have?"""
    for a, b in ((one, other), (other, one)):
        if a[0] in _WILDCARDS and b[0].startswith("$"):
            return False
    if {one, other} == {("", "#"), ("+",)}:  # only the empty topic, which is none
        return False
    heads = [filter[:-1] if filter[-1] == "#" else filter for filter in (one, other)]
    if len(heads[0]) < len(heads[1]) and one[-1] != "#":
        return False
    if len(heads[1]) < len(heads[0]) and other[-1] != "#":
        return False
    return all(a == b or a == "+" or b == "+" for a, b in zip(*heads, strict=False))
