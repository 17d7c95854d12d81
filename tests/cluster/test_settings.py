"""Users and rules that are the cluster's: changed at one host, they hold on all, whichever was away or cut off meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import busy, wait_for
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import Network
from tests.mqtt import CONNACK, Client, connect_packet

RULES = "user alice\ntopic readwrite #\ntopic read $SYS/#\npattern readwrite own/%u\n"
KEY = "limits.receive_maximum"
WITHIN_S = 1.0


@pytest.fixture(scope="module")
def pair(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    auth = 'password_file = "cluster"\nacl_file = "cluster"'
    with running_hosts(network, interconnect=MESH, auth=auth) as hosts:
        join(*hosts)
        put(hosts[0], "add", "alice")
        load(hosts[0], tmp_path_factory.mktemp("rules") / "acl", RULES)
        yield hosts


def put(host: Host, what: str, user: str, password: str = "secret") -> None:
    done = host.mqnode("users", what, user, "--password-stdin", typed=f"{password}\n")
    assert done.returncode == 0, done.stderr
    assert "holds on all hosts" in done.stdout


def load(host: Host, file: Path, rules: str) -> None:
    file.write_text(rules)
    done = host.mqnode("acl", "load", str(file))
    assert done.returncode == 0, done.stderr


def lets_in(host: Host, user: str, password: str = "secret") -> bool:
    with host.client() as client:
        client.send(connect_packet(f"of {user}", user=user, password=password.encode()))
        return client.expect(CONNACK).reason == 0


def connected(host: Host, user: str) -> Client:
    client = host.client()
    client.connect(f"stays {user}", user=user, password=b"secret")
    return client


def names(host: Host) -> set[str]:
    return {each["user"] for each in json.loads(host.mqnode("users", "list", "--json").stdout)}


def test_nobody_is_let_in_without_a_name(pair: list[Host]) -> None:
    with pair[0].client() as client:
        client.send(connect_packet("nobody"))
        assert client.expect(CONNACK).reason != 0


def test_a_change_holds_on_all_hosts_within_a_second(pair: list[Host], tmp_path: Path) -> None:
    """Rows 105, 20: no reload, no copy. Connections made with what holds no longer end."""
    first, second = pair
    put(first, "add", "bob")
    began = time.monotonic()
    wait_for(lambda: lets_in(second, "bob"), 5)
    assert time.monotonic() - began < WITHIN_S * busy()
    with connected(second, "bob") as bob, connected(second, "alice") as alice:
        assert bob.subscribe(("own/bob", 1), ("news", 1)).reasons == [1, 0x87]
        load(first, tmp_path / "acl", f"{RULES}user bob\ntopic read news\n")
        wait_for(lambda: bob.subscribe(("news", 1)).reasons == [1], 5)
        put(first, "passwd", "bob", "another")
        assert bob.expect_closed(WITHIN_S * busy())
        assert not lets_in(second, "bob")
        assert lets_in(second, "bob", "another")
        assert first.mqnode("users", "delete", "bob", "--yes").returncode == 0
        wait_for(lambda: not lets_in(second, "bob", "another"), 5)
        alice.nothing(0)
    assert names(first) == names(second) == {"alice"}


def test_rules_with_an_error_change_nothing(pair: list[Host], tmp_path: Path) -> None:
    first, _ = pair
    before = first.mqnode("acl", "show").stdout
    (tmp_path / "bad").write_text("user alice\ntopic readwrite #\ntopc read x\n")
    done = first.mqnode("acl", "load", str(tmp_path / "bad"))
    assert done.returncode == 1
    assert "bad:3: " in done.stderr
    assert "Nothing was changed" in done.stderr
    assert first.mqnode("acl", "show").stdout == before
    assert first.mqnode("acl", "test", "alice", "any/topic").returncode == 0
    assert first.mqnode("acl", "test", "carol", "any/topic").returncode == 1


def test_no_hash_leaves_by_what_clients_and_operators_see(pair: list[Host]) -> None:
    first, second = pair
    with connected(second, "alice") as alice:
        alice.subscribe(("#", 1), ("$SYS/#", 1), ("settings/#", 1), ("user/#", 1), ("+/+", 1))
        put(first, "add", "carol", "hush-hush")
        wait_for(lambda: lets_in(second, "carol", "hush-hush"), 5)
        seen = [repr(each) for each in alice.take_until_quiet(0.5)]
    assert seen, "what $SYS says"
    for host in pair:
        paths = ("/metrics", "/v1/retained", "/v1/status", "/v1/users", "/v1/sessions", "/v1/clients")
        seen += [str(host.get(path)[1]) for path in paths]
        seen += [host.log(), host.mqnode("cluster", "digest").stdout, host.mqnode("retained", "list").stdout]
    assert not [each for each in seen if "$argon2id" in each or "SCRAM-SHA-256$" in each or "hush" in each]
    assert first.mqnode("users", "delete", "carol", "--yes").returncode == 0


def set_for_all(host: Host, value: int) -> None:
    done = host.mqnode("config", "set", KEY, str(value), "--all")
    assert done.returncode == 0, done.stderr
    assert f"Without effect before a restart of each host: {KEY}" in done.stdout


def told(host: Host) -> list[tuple[object, object, str]]:
    lines = [json.loads(line) for line in host.log().splitlines() if '"cluster_value_set"' in line]
    return [(each["before"], each["after"], each["by"].rpartition("@")[2]) for each in lines if each["key"] == KEY]


def test_a_host_that_was_away_catches_up(pair: list[Host]) -> None:
    """With keys of the configuration, too, of which it has those in force that it knew when it started."""
    first, second = pair
    put(first, "add", "dave")
    set_for_all(first, 8)
    wait_for(lambda: told(second) == [(None, 8, "h1")], 5)
    wait_for(lambda: lets_in(second, "dave"), 5)
    second.stop()
    set_for_all(first, 9)
    assert first.mqnode("users", "delete", "dave", "--yes").returncode == 0
    put(first, "add", "erin")
    second.start()
    assert lets_in(second, "erin")
    assert not lets_in(second, "dave")
    with second.client() as client:
        assert client.connect("c", user="erin", password=b"secret").properties["receive_maximum"] == 8
    assert told(first) == told(second) == [(None, 8, "h1"), (8, 9, "h1")]
    shown = json.loads(second.mqnode("config", "show", "--origin", "--json").stdout)[KEY]
    assert shown == {"value": 9, "origin": "cluster"}
    assert first.mqnode("users", "delete", "erin", "--yes").returncode == 0


def test_what_both_sides_of_a_cut_add_stays(pair: list[Host], network: Network) -> None:
    """Of two passwords that a user got, the later one does."""
    first, second = pair
    in_sync(first, second)
    put(first, "add", "same", "0")
    network.cut("h1", "h2")
    try:
        wait_for(lambda: all(each.metric("mqnode_degraded") == 1 for each in pair), 15)
        put(first, "add", "left")
        put(second, "add", "right")
        put(second, "passwd", "same", "earlier")
        put(first, "passwd", "same", "later")
        assert not lets_in(second, "left")
    finally:
        network.heal()
    in_sync(first, second)
    for host in pair:
        wait_for(lambda host=host: names(host) == {"alice", "left", "right", "same"}, 5, lambda: str(names(first)))
        assert lets_in(host, "left")
        assert lets_in(host, "right")
        wait_for(lambda host=host: lets_in(host, "same", "later"), 5)
        assert not lets_in(host, "same", "earlier")
        assert not host.errors()
