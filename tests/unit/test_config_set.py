"""Keys that the cluster has set: over the file, below the environment, left out where they cannot be used; and which may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import ConfigError, load_copy, read
from node.config.cluster import file_in, save
from node.config.settable import parse
from node.preflight import preflight

LEVEL = ("log", "level")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "mqnode.toml").write_text(f'[node]\ndata_dir = "{tmp_path}"\n[log]\nlevel = "error"\n')
    return tmp_path / "mqnode.toml"


def test_the_environment_beats_the_cluster_and_that_the_file(path: Path) -> None:
    for cluster, variable, level, origin in (
        (None, None, "error", f"{path}:4"),
        ("debug", None, "debug", "cluster"),
        ("debug", "warning", "warning", "MQNODE_LOG__LEVEL"),
    ):
        save(path.parent, {"log.level": cluster} if cluster else {})
        loaded = read(path, {"MQNODE_LOG__LEVEL": variable} if variable else {})
        assert (loaded.config.log.level, loaded.places.origin(LEVEL)) == (level, origin)
        assert not loaded.unusable


def test_it_is_found_where_the_environment_says(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save(other, {"log.level": "debug"})
    assert read(path, {}).config.log.level == "error"
    assert read(path, {"MQNODE_NODE__DATA_DIR": str(other)}).config.log.level == "debug"


def test_the_copy_of_a_running_host_does_not_change(path: Path) -> None:
    save(path.parent, {"log.level": "debug"})
    assert load_copy(path).log.level == "error"


def test_what_cannot_be_used_here_is_left_out_and_told(path: Path) -> None:
    wrong = {"cluster.ack_policy": "strict", "limits.from_a_later_release": 1, "limits.max_inflight": "many"}
    save(path.parent, wrong | {"limits.receive_maximum": 7})
    loaded, warnings = preflight(path)
    assert loaded.config.limits.receive_maximum == 7
    assert [key for key, _ in loaded.unusable] == sorted(wrong)
    for key in wrong:
        assert any(key in each and "goes without it" in each for each in warnings), warnings


def test_what_keeps_a_host_from_starting_is_left_out_too(path: Path) -> None:
    """A key may be right by itself and leave nobody who could log in."""
    path.write_text(f'{path.read_text()}[[listeners]]\ntype = "tcp"\nbind = "0.0.0.0:1"\nallow_anonymous = true\n')
    text = path.read_text().replace("allow_anonymous = true", "")
    path.write_text(f"{text}[auth]\nallow_anonymous = true\n")
    save(path.parent, {"auth.allow_anonymous": False, "log.level": "debug"})
    loaded, warnings = preflight(path)
    assert loaded.config.auth.allow_anonymous is True
    assert any("nobody could log in" in each and "goes without all of that" in each for each in warnings)


def test_a_fault_of_the_file_is_told_as_ever(path: Path) -> None:
    save(path.parent, {"limits.receive_maximum": 7})
    path.write_text(f"{path.read_text()}[limits]\nmax_inflight = 0\n")
    with pytest.raises(ConfigError, match=r"mqnode.toml:6: limits.max_inflight"):
        read(path, {})


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'{"node.name": "taken", "auth.password_file": "/x"}'])
def test_a_file_that_says_nothing_good_changes_nothing(path: Path, content: bytes) -> None:
    file_in(path.parent).write_bytes(content)
    loaded = read(path, {})
    assert (loaded.cluster, loaded.unusable) == (frozenset(), ())
    assert loaded.config.node.name != "taken"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("limits.max_queued_messages", "5000", 5000),
        ("log.level", "debug", "debug"),
        ("auth.allow_anonymous", "false", False),
        ("auth.jwt.issuer", "https://issuer.example", "https://issuer.example"),
        ("cluster.allow_during_split", '["connect"]', ["connect"]),
        ("auth.password_file", "cluster", "cluster"),
    ],
)
def test_a_text_is_read_as_in_a_variable(key: str, text: str, value: object) -> None:
    assert parse(key, text) == value


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("limits.max_queud_messages", "Did you mean max_queued_messages?"),
        ("nothing", "Known are: node"),
        ("limits", "a table of keys"),
        ("auth.jwt", "a table of keys"),
        ("limits.max_inflight.more", "there is no table"),
        *(
            (key, "each host has its own")
            for key in (
                "node.name", "node.data_dir", "listeners", "listeners[0].bind", "interconnect.bind", "discovery.method",
                "admin.bind", "admin.token_file", "cluster.name", "auth.password_file", "auth.acl_file", "auth.jwt.keys_file",
                "auth.jwt.ca_file", "auth.introspection.client_secret_file",
            )
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_set_for_all(key: str, why: str) -> None:
    with pytest.raises(ConfigError, match="nothing was changed") as error:
        parse(key, "x")
    assert why in str(error.value)
