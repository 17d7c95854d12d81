"""Rules and decisions: grants, denies, placeholders, limits, shared subscriptions, reload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.auth import authorize
from node.auth.authorize import Action, Authorizer
from node.auth.files import AuthFileError
from node.auth.language import Levels, matches
from node.config import Auth
from tests.unit.test_auth_language import FILTERS, TOPICS

Make = Callable[[str], Authorizer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_authorizer(text: str) -> Authorizer:
        path = tmp_path / "acl"
        path.write_text(text, encoding="utf-8")
        return Authorizer(Auth(acl_file=str(path)))

    return make_authorizer


def may(authorizer: Authorizer, action: Action, name: str, user: str | None = "alice", client_id: str = "c1") -> bool:
    return authorizer.authorize(action, user, client_id, name, 0, False)


EXAMPLE = """
# everybody who gives no name
topic read public/#

user alice
topic readwrite home/#
topic deny home/safe/#
topic write alarm
topic with blanks/are ok
user bob smith
topic read home/+/temperature
pattern readwrite users/%u/#
pattern write devices/%c/state
pattern read $SYS/broker/%c
""".replace("topic with blanks", "topic readwrite with blanks")


@pytest.mark.parametrize(
    ("user", "action", "name", "allowed"),
    [
        (None, "subscribe", "public/#", True),
        (None, "receive", "public/x", True),
        (None, "publish", "public/x", False),
        (None, "subscribe", "home/#", False),
        (None, "publish", "devices/c1/state", True),
        (None, "publish", "users//x", False),  # no user, so no %u
        ("alice", "subscribe", "public/x", False),  # general rules are the anonymous clients'
        ("alice", "subscribe", "home/#", True),
        ("alice", "receive", "home/kitchen", True),
        ("alice", "receive", "home/safe/code", False),  # the deny shows at delivery
        ("alice", "receive", "home/safe", False),
        ("alice", "subscribe", "home/safe/#", False),
        ("alice", "subscribe", "home/safe/code", False),
        ("alice", "publish", "home/safe/code", False),
        ("alice", "publish", "home/kitchen", True),
        ("alice", "publish", "alarm", True),
        ("alice", "subscribe", "alarm", False),
        ("alice", "subscribe", "with blanks/are ok", True),
        ("alice", "subscribe", "#", False),
        ("alice", "subscribe", "+/kitchen", False),
        ("alice", "subscribe", "users/alice/#", True),
        ("alice", "subscribe", "users/bob/#", False),
        ("alice", "subscribe", "users/+/#", False),
        ("alice", "publish", "devices/c1/state", True),
        ("alice", "publish", "devices/c2/state", False),
        ("alice", "subscribe", "$SYS/broker/c1", True),
        ("alice", "subscribe", "$SYS/#", False),
        ("alice", "subscribe", "$share/group/home/#", True),
        ("alice", "subscribe", "$share/group/other/#", False),
        ("alice", "subscribe", "$share/group", False),
        ("alice", "subscribe", "$share/home/#", False),  # group "home", filter "#"
        ("bob smith", "subscribe", "home/+/temperature", True),
        ("bob smith", "subscribe", "home/k/temperature", True),
        ("bob smith", "subscribe", "home/#", False),
        ("stranger", "publish", "users/stranger/x", True),
        ("stranger", "publish", "home/x", False),
        ("alice", "publish", "home/+", False),  # no topic
        ("alice", "publish", "home/#", False),
        ("alice", "subscribe", "home/#/x", False),  # no filter
        ("alice", "publish", "", False),
    ],
)
def test_the_example(make: Make, user: str | None, action: Action, name: str, allowed: bool) -> None:
    authorizer = make(EXAMPLE)
    assert may(authorizer, action, name, user) is allowed
    assert may(authorizer, action, name, user) is allowed  # from the cache
    assert authorizer.explain(action, user, "c1", name, 0, False).allowed is allowed


RULES = st.lists(st.tuples(st.sampled_from(["read", "write", "readwrite", "deny"]), FILTERS), max_size=5)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rules=RULES, filter=FILTERS)
def test_s10_what_a_granted_filter_delivers_is_granted(
    make: Make, rules: list[tuple[str, Levels]], filter: Levels
) -> None:
    """S10: every topic of a granted filter is granted by the same rules, but where a deny holds it back."""
    rules = [(access, levels) for access, levels in rules if levels != ("",)]
    if filter == ("",):
        return
    authorizer = make("".join(f"topic {access} {'/'.join(levels)}\n" for access, levels in rules))
    reading = [levels for access, levels in rules if access in ("read", "readwrite")]
    denied = [levels for access, levels in rules if access == "deny"]
    granted = may(authorizer, "subscribe", "/".join(filter), None)
    for topic in (each for each in TOPICS[:200] if matches(filter, each)):
        received = may(authorizer, "receive", "/".join(topic), None)
        is_denied = any(matches(levels, topic) for levels in denied)
        assert received == (any(matches(levels, topic) for levels in reading) and not is_denied)
        if granted:
            assert received or is_denied


HOSTILE = ["+", "#", "a/b", "a/#", "x+", "", "a\nb", "a\0b", "/", "$SYS/#"]
HARMLESS = ["%c", "%u", "a.*", "(a|b)", "[a-z]", "*", "$SYS", "a b", "Ä", "%%u"]


@pytest.mark.parametrize("name", HOSTILE + HARMLESS)
def test_s11_a_name_never_widens_a_pattern(make: Make, name: str) -> None:
    authorizer = make("pattern readwrite %u/#\npattern readwrite dev/%c/x\n")
    for user, client_id in ((name, "plain"), ("plain", name)):
        for topic in ("a", "other/x", "dev/other/x", "$SYS/broker/load", "a.b", "aa", "plain2/x", "dev/plain2/x"):
            for action in ("publish", "receive"):
                assert not may(authorizer, action, topic, user, client_id)
        for filter in ("#", "+/#", "dev/#", "dev/+/x", "$SYS/#"):
            assert not may(authorizer, "subscribe", filter, user, client_id)
    if name in HARMLESS:
        assert may(authorizer, "publish", f"dev/{name}/x", "plain", name)
        assert may(authorizer, "publish", f"{name}/x", name, "plain") is not name.startswith("$")
    else:
        assert not may(authorizer, "publish", f"dev/{name}/x", "plain", name)


@pytest.mark.parametrize("name", HOSTILE)
def test_s11_a_name_never_escapes_a_deny(make: Make, name: str) -> None:
    authorizer = make("user plain\ntopic readwrite #\ntopic readwrite $SYS/#\npattern deny private/%c/x\n")
    for topic in ("private/a/b/x", "private/a/x", "open", "$SYS/x"):
        assert not may(authorizer, "publish", topic, "plain", name)
    assert not may(authorizer, "subscribe", "open", "plain", name)
    assert may(authorizer, "publish", "open", "plain", "honest")
    assert not may(authorizer, "publish", "private/honest/x", "plain", "honest")


def test_limits(make: Make) -> None:
    authorizer = make("topic readwrite a/# qos<=1\ntopic write a/0 retain=no\ntopic write b qos<=0 retain=no\n")
    ask = authorizer.authorize
    assert ask("publish", None, "c", "a/x", 1, True)
    assert not ask("publish", None, "c", "a/x", 2, False)
    assert ask("publish", None, "c", "a/0", 2, False)  # the other rule grants it
    assert not ask("publish", None, "c", "a/0", 2, True)
    assert ask("publish", None, "c", "b", 0, False)
    assert not ask("publish", None, "c", "b", 1, False)
    assert not ask("publish", None, "c", "b", 0, True)
    assert ask("subscribe", None, "c", "a/#", 1, False)
    assert not ask("subscribe", None, "c", "a/#", 2, False)


def test_without_a_file_all_is_allowed_but_the_brokers_topics() -> None:
    authorizer = Authorizer(Auth())
    assert authorizer.allows_all
    assert may(authorizer, "publish", "any/topic")
    assert may(authorizer, "subscribe", "#")
    assert may(authorizer, "subscribe", "$SYS/#")
    assert may(authorizer, "receive", "$SYS/broker/uptime", None)
    assert not may(authorizer, "publish", "$SYS/broker/uptime")
    assert not may(authorizer, "publish", "$CONTROL/x")


def test_s15_an_empty_file_denies_everything(make: Make) -> None:
    for text in ("", "\n\n", "# only a comment", "user alice\n"):
        authorizer = make(text)
        assert not authorizer.allows_all
        for action in ("publish", "subscribe", "receive"):
            assert not may(authorizer, action, "a")
            assert not may(authorizer, action, "$SYS/x", None)


def test_s25_sys_needs_an_explicit_grant(make: Make) -> None:
    authorizer = make("topic readwrite #\ntopic readwrite +/broker/#\n")
    for action, name in (("subscribe", "$SYS/#"), ("receive", "$SYS/broker/uptime"), ("publish", "$SYS/broker/x")):
        assert not may(authorizer, action, name, None)  # type: ignore[arg-type]
    assert may(make("topic read $SYS/#\n"), "subscribe", "$SYS/broker/+", None)


BROKEN = [
    "topic",
    "topic read",
    "topic deny",
    "topic raed a/b",
    "topic a b",
    "topic read a/#/b",
    "topic read a#",
    "topic read +a",
    "topic read a qos<=3",
    "topic read a qos=1",
    "topic read a qos<1",
    "topic read a retain=maybe",
    "topic read a retain=no",
    "topic deny a qos<=1",
    "topic read $share/g/a",
    "topics read a",
    "pattern",
    "pattern readwrite %u/#/x",
    "pattern write a+%c",
    "user",
    "user \x07bell",
    "allow alice a/b",
    "{allow, all}.",
    "\ufeffuser alice",
    "topic read a\0b",
]


@pytest.mark.parametrize("line", BROKEN)
def test_s15_a_bad_line_refuses_the_file(make: Make, tmp_path: Path, line: str) -> None:
    with pytest.raises(AuthFileError, match=r"acl:3: .*the whole file is refused") as caught:
        make(f"topic readwrite a/b\n\n{line}\ntopic readwrite #\n")
    assert line.split(" ", 1)[-1] not in str(caught.value).replace(str(tmp_path), "") or len(line) < 10


@pytest.mark.parametrize("content", [b"\xff\xfe", b"topic read a\n\xc3\x28\n"])
def test_s15_what_is_not_utf8_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "acl").write_bytes(content)
    with pytest.raises(AuthFileError, match="not UTF-8"):
        Authorizer(Auth(acl_file=str(tmp_path / "acl")))


def test_s15_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(AuthFileError, match="cannot be read"):
            Authorizer(Auth(acl_file=str(path)))


def test_a_reload_changes_the_decisions(make: Make, tmp_path: Path) -> None:
    authorizer = make("topic readwrite a\n")
    version = authorizer.version
    assert may(authorizer, "publish", "a", None)
    (tmp_path / "acl").write_text("topic readwrite b\n")
    authorizer.reload()
    assert authorizer.version != version
    assert not may(authorizer, "publish", "a", None)
    assert may(authorizer, "publish", "b", None)


@pytest.mark.parametrize("line", BROKEN)
def test_s15_a_bad_reload_keeps_the_old_rules(make: Make, tmp_path: Path, line: str) -> None:
    authorizer = make("topic readwrite a\n")
    version = authorizer.version
    (tmp_path / "acl").write_text(f"topic readwrite #\n{line}\n")
    with pytest.raises(AuthFileError):
        authorizer.reload()
    assert authorizer.version == version
    assert may(authorizer, "publish", "a", None)
    assert not may(authorizer, "publish", "b", None)
    (tmp_path / "acl").unlink()
    with pytest.raises(AuthFileError):
        authorizer.reload()
    assert not may(authorizer, "publish", "b", None)


def test_the_author_of_a_retained_message(make: Make) -> None:
    authorizer = make(
        "user alice\ntopic write a\npattern write devices/%c/#\npattern write %u/%c/x\npattern deny devices/%c/no\n"
        "pattern write noretain retain=no\n"
    )
    assert authorizer.authorize_author("alice", "a", 1)
    assert authorizer.authorize_author("alice", "devices/any/x", 1)  # some client of hers may
    assert authorizer.authorize_author("alice", "alice/any/x", 1)
    assert not authorizer.authorize_author("alice", "bob/any/x", 1)
    assert not authorizer.authorize_author("bob", "a", 1)
    assert not authorizer.authorize_author("a/b", "a/b/any/x", 1)
    assert not authorizer.authorize_author("alice", "noretain", 1)
    assert not authorizer.authorize_author(None, "a", 1)


def test_the_reasons(make: Make) -> None:
    authorizer = make("user alice\ntopic readwrite a/#\ntopic deny a/+/secret\n")
    granted = authorizer.explain("subscribe", "alice", "c", "a/#", 1, False)
    assert granted.allowed
    assert granted.rule is not None
    assert (granted.rule.line, granted.rule.text) == (2, "topic readwrite a/#")
    assert [rule.line for rule in granted.withheld] == [3]
    denied = authorizer.explain("publish", "alice", "c", "a/b/secret", 1, False)
    assert not denied.allowed
    assert denied.rule is not None
    assert denied.rule.line == 3
    nothing = authorizer.explain("publish", "alice", "c", "b", 1, False)
    assert (nothing.allowed, nothing.rule, nothing.reason) == (False, None, "no rule grants it")


def test_the_caches_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorize, "CLIENTS_MAX", 8)
    monkeypatch.setattr(authorize, "DECISIONS_MAX", 8)
    authorizer = make("pattern readwrite %c/#\n")
    for number in range(100):
        assert may(authorizer, "publish", f"c{number}/x", None, f"c{number}")
        assert not may(authorizer, "publish", "x" * 300, None, f"c{number}")
    assert len(authorizer._clients) <= 8
    assert len(authorizer._decisions) <= 8
