"""The ACL file: mosquitto's syntax into rules, and the rules of one client.

    topic   [read|write|readwrite|deny] FILTER [qos<=N] [retain=no]     of anonymous clients, or of the `user` above it
    pattern [read|write|readwrite|deny] FILTER [qos<=N] [retain=no]     of everybody; %u user name, %c client id
    user NAME

One line that is not understood refuses the file; a file without rules grants nothing. Must not know clients.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from node.auth.files import AuthFileError, read_lines
from node.auth.language import split_filter

READ, WRITE, DENY = 1, 2, 0
_ACCESS = {"read": READ, "write": WRITE, "readwrite": READ | WRITE, "deny": DENY}
_LIMIT = re.compile(r"[ \t]+(qos\W|retain=)([^ \t/]*)$")
_WORD = re.compile(r"([^ \t]*)[ \t]*(.*)")
_REMEDY = "Correct the line, then: mqnode config check"


@dataclass(frozen=True, slots=True)
class Rule:
    line: int
    text: str  # as it stands in the file
    access: int  # READ, WRITE, both; DENY
    filter: str  # with placeholders, if it is a pattern's
    qos_max: int = 2
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole file."""

    anonymous: tuple[Rule, ...]
    users: dict[str, tuple[Rule, ...]]
    patterns: tuple[Rule, ...]


NO_RULES = Rules((), {}, ())  # they grant nothing


def load(path: str | Path) -> Rules:
    """The rules of the file. Raises AuthFileError."""
    remedy = "The user of the service must be able to read it; without rules (acl_file unset) everything is allowed."
    return parse(read_lines(path, remedy), path)


def parse(lines: list[str], path: str | Path, remedy: str = _REMEDY) -> Rules:
    """The rules in these lines, which came from `path`. Raises AuthFileError."""
    anonymous: list[Rule] = []
    users: dict[str, list[Rule]] = {}
    patterns: list[Rule] = []
    current = anonymous
    for number, line in enumerate(lines, 1):
        text = line.strip(" \t")
        if not text or text.startswith("#"):
            continue
        keyword, rest = _split_word(text)
        try:
            if keyword == "user" and rest and rest.isprintable():
                current = users.setdefault(rest, [])
            elif keyword == "topic":
                current.append(_parse_rule(number, text, rest))
            elif keyword == "pattern":
                patterns.append(_parse_rule(number, text, rest))
            else:
                raise ValueError("the line is none of `user NAME`, `topic …`, `pattern …`")
        except ValueError as error:
            raise AuthFileError(path, number, str(error), remedy) from None
    return Rules(tuple(anonymous), {user: tuple(rules) for user, rules in users.items()}, tuple(patterns))


def _split_word(text: str) -> tuple[str, str]:
    found = _WORD.fullmatch(text)
    return (found[1], found[2]) if found else (text, "")


def _parse_rule(number: int, text: str, rest: str) -> Rule:
    filter, qos_max, retain = _strip_limits(rest)
    word, after = _split_word(filter)
    access = READ | WRITE
    if after:  # only then is the first word an access: a filter that holds a blank must be preceded by one
        if word not in _ACCESS:
            raise ValueError("the access is none of read, write, readwrite, deny")
        access, filter = _ACCESS[word], after
    elif word in _ACCESS:
        raise ValueError("the filter is missing")
    if filter.startswith("$share/"):
        raise ValueError("a shared subscription is judged by its filter: leave $share/GROUP/ away")
    split_filter(filter)
    if access == DENY and (qos_max, retain) != (2, True):
        raise ValueError("qos<= and retain= limit what is granted, deny has no use for them")
    if access == READ and not retain:
        raise ValueError("retain=no limits publishing, which this rule does not grant")
    return Rule(number, text, access, filter, qos_max, retain)


def _strip_limits(rest: str) -> tuple[str, int, bool]:
    qos_max, retain = 2, True
    while found := _LIMIT.search(rest):
        limit = found[1] + found[2]
        if limit in ("qos<=0", "qos<=1", "qos<=2"):
            qos_max = min(qos_max, int(limit[-1]))
        elif limit == "retain=no":
            retain = False
        else:
            raise ValueError("a limit is qos<=0, qos<=1, qos<=2 or retain=no")
        rest = rest[: found.start()]
    return rest, qos_max, retain
