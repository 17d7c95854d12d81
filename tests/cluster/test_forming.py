"""Forming a cluster: hosts join at once, through any member, by token or approval; who is refused learns why; a host may move."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import paho.mqtt.client as paho
import pytest

from mesh.token import Token
from tests.broker import wait_for
from tests.cli.command import MQNODE, Command
from tests.cluster.hosts import MESH, Host, in_sync
from tests.cluster.network import CLI, INTERCONNECT, Network
from tests.unit.certificates import Authority

SEEN_S = 10.0  # generous: a busy machine
JOIN_S = 60.0


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network("h1", "h2", "h3", "h4") as network:
        yield network


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def hosts(network: Network, authority: Authority) -> Iterator[list[Host]]:
    """h1 begins the cluster "plant"; h2 and h3 join it at the same time, h2 with a session that it had before; h4 stays alone."""
    certificate, key = authority.issue("server", "localhost")
    wss = f'type = "wss"\ncertificate = "{certificate}"\nkey = "{key}"'
    with ExitStack() as stack:
        hosts = [Host(network, name, interconnect=MESH, more=MORE.get(name, "")) for name in network.hosts]
        for host in hosts:
            stack.callback(host.close)
        differs = hosts[3].config
        differs.write_text(differs.read_text().replace('type = "tcp"', wss).replace("workers = 1", "workers = 3"))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Host.start, hosts))
        first, *joiners, _ = hosts
        for host in hosts:
            wait_for((host.run_dir / "interconnect.sock").exists, 15, host.log)
        leave_session(joiners[0], "before")
        for host in (first, joiners[0]):
            leave_session(host, "twice")
            leave_session(host, "anew", clean=host is not first)
        lines = [["join", "--peer", address(first), "--token", token(first), "--json"] for _ in joiners]
        processes = [start(host, *line) for host, line in zip(joiners, lines, strict=True)]
        answers = [ended(process) for process in processes]
        assert all(code == 0 for code, _, _ in answers), answers
        for _, said, _ in answers:
            assert {node["name"]: node["state"] for node in json.loads(said)["nodes"]}["h1"] == "up"
        stack.callback(print, *answers)
        yield hosts


MORE = {"h1": '[cluster]\nname = "plant"\n', "h4": '[cluster]\nname = "other"\n'}


def address(host: Host) -> str:
    return host.network.address(host.name, INTERCONNECT)


def token(member: Host, ttl: str = "1h") -> str:
    made = member.mqnode("cluster", "token", "create", "--ttl", ttl, "--json")
    assert made.returncode == 0, made.stderr
    return str(json.loads(made.stdout)["token"])


def start(host: Host, *arguments: str) -> subprocess.Popen[bytes]:
    """The command line on that host, not waited for."""
    return host.network.run(
        host.name, [MQNODE, *arguments, "--config", host.config],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    said, errors = process.communicate(timeout=JOIN_S)
    return process.returncode, said.decode(), errors.decode()


def asked(host: Host, *arguments: str) -> Any:
    done = host.mqnode(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refusal(host: Host, *arguments: str) -> str:
    done = host.mqnode(*arguments)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def leave_session(host: Host, name: str, *, clean: bool = False) -> None:
    with host.client() as client:
        client.connect(name, clean=clean, session_expiry=3600)
        client.subscribe((f"{name}/#", 1))
        client.disconnect()
    with host.client() as publisher:
        publisher.connect("publisher")
        publisher.publish_all(f"{name}/1", host.name.encode(), 1)
        publisher.disconnect()


def reconfigure(host: Host, *changes: tuple[str, str]) -> None:
    """A changed configuration and a restart."""
    text = host.config.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    assert host.stop() == 0
    host.config.write_text(text)
    host.start()
    wait_for((host.run_dir / "interconnect.sock").exists, 15, host.log)


def names(host: Host) -> set[str]:
    return {node["name"] for node in asked(host, "cluster", "show")["nodes"]}


def test_two_hosts_that_joined_at_once_are_in_sync_with_all(hosts: list[Host]) -> None:
    wait_for(lambda: all(names(host) == {"h1", "h2", "h3"} for host in hosts[:3]), SEEN_S)
    in_sync(*hosts[:3])
    assert asked(hosts[2], "cluster", "status")["cluster"] == "plant"


def test_a_session_from_before_the_join_is_everywhere(hosts: list[Host]) -> None:
    in_sync(*hosts[:3])
    with hosts[2].client() as client:
        assert client.connect("before", clean=False, session_expiry=3600).session_present
        assert client.take().payload == b"h2"
        client.disconnect()


def test_two_sessions_of_a_client_from_before_the_join_are_one(hosts: list[Host]) -> None:
    """But the client had asked at h2 for a new one: that has nothing older."""
    in_sync(*hosts[:3])
    with hosts[2].client() as client:
        assert client.connect("twice", clean=False, session_expiry=3600).session_present
        assert sorted(client.take().payload for _ in range(2)) == [b"h1", b"h2"]
        client.nothing()
    with hosts[2].client() as client:
        assert client.connect("anew", clean=False, session_expiry=3600).session_present
        assert client.take().payload == b"h2"
        client.nothing()


def agreed(status: dict[str, Any]) -> Any:
    """Of a status what must be the same on all hosts."""
    nodes = [
        {
            key: node[key]
            for key in ("name", "address", "ready", "clients", "sessions", "queued_messages", "in_sync_with", "workers")
        }
        for node in status["nodes"]
    ]
    return nodes, [(each["from"], each["to"], each["state"], each["in_sync"]) for each in status["links"]]


def test_every_host_shows_the_same_cluster(hosts: list[Host]) -> None:
    members = hosts[:3]
    with members[0].client() as client:
        client.connect("shown")

        def same() -> bool:
            seen = [asked(host, "cluster", "status") for host in members]
            return all(agreed(each) == agreed(seen[0]) and each["in_sync"] for each in seen) and any(
                node["clients"] == 1 and node["name"] == "h1" for node in seen[0]["nodes"]
            )

        wait_for(same, SEEN_S, lambda: str([agreed(asked(host, "cluster", "status")) for host in members]))
    screen = members[0].mqnode("cluster", "status").stdout
    assert screen.startswith("Cluster plant as h1 knows it: in sync")
    assert "h2 → h3" in screen
    links = asked(members[1], "cluster", "links")["links"]
    assert [(each["to"], each["state"], each["in_sync"]) for each in links] == [("h1", "up", True), ("h3", "up", True)]
    assert all(each["bytes_in"] and each["frames_out"] and each["rtt_ms"] is not None for each in links)
    assert "h2 → h1" in members[1].mqnode("cluster", "links").stdout


def test_tokens_that_are_no_good(hosts: list[Host]) -> None:
    first, second, third, alone = hosts
    stranger = Token.parse(token(first))
    forged = Token(stranger.cluster_id, stranger.address, stranger.public_key, b"s" * 16).text()
    said = refusal(alone, "join", "--token", forged)
    assert "wrong token" in said
    assert "mqnode cluster token create" in said
    assert "made on this very host" in refusal(first, "join", "--token", token(first))
    said = refusal(alone, "join", "--peer", address(first), "--token", token(second))
    assert f"the token is of {address(second)}:7002, not of {address(first)}" in said
    short = token(third, "1s")
    wait_for(lambda: "has expired" in refusal(alone, "join", "--token", short), SEEN_S)
    assert "no join token" in refusal(alone, "join", "--token", short[:-3])
    assert names(alone) == {"h4"}
    assert "is alone" in alone.mqnode("cluster", "digest").stdout


def test_a_configuration_that_does_not_fit_and_then_does_by_approval_of_any_member(hosts: list[Host]) -> None:
    """Another cluster's name, then a name that is taken; at last the member that lets it in is not the first one."""
    first, _, third, alone = hosts
    line = token(first)
    said = refusal(alone, "join", "--token", line)
    assert 'configured for the cluster "other", the member is in "plant"' in said
    reconfigure(alone, (MORE["h4"], ""), ('name = "h4"', 'name = "h2"'))
    said = refusal(alone, "join", "--token", line)
    assert 'named "h2" is a member already' in said
    assert "Choose another node.name" in said
    at = f"{address(alone)}:7001"  # its port is not that of the others: theirs is found without being named
    reconfigure(alone, ('name = "h2"', 'name = "h4"'), (at, at.replace("7001", "7101")))
    assert "nowhere.invalid: the name has no address" in refusal(alone, "join", "--peer", "nowhere.invalid")
    assert "two..dots: the name has no address" in refusal(alone, "join", "--peer", "two..dots")
    pending = asked(third, "cluster", "pending")
    assert f"mqnode join --peer {address(third)}:7001\n" in third.mqnode("cluster", "pending").stdout
    said = refusal(alone, "join", "--peer", f"{address(third)}:7001")
    assert pending["fingerprint"] in said, "nobody was asked whether it is the right one"
    assert "--fingerprint" in said
    assert "somebody stands between" in refusal(
        alone, "join", "--peer", address(third), "--fingerprint", "AAAA-BBBB-CCCC-DDDD"
    )
    code, seen = alone.network.inside(
        alone.name,
        lambda: Command(alone.config).on_terminal(
            "join", "--peer", address(third), columns=200, typed=(("They are the same", "n"),)
        ),
    )
    assert code == 1
    assert seen.index(asked(third, "cluster", "pending")["pending"][0]["fingerprint"]) < seen.index(
        pending["fingerprint"]
    )
    assert "Nothing was done" in seen
    joining = start(alone, "join", "--peer", address(third), "--fingerprint", pending["fingerprint"], "--json")
    try:
        [asking] = wait_for(lambda: asked(third, "cluster", "pending")["pending"], SEEN_S)
        assert (asking["name"], asking["address"]) == ("h4", f"{address(alone)}:7101")
        assert joining.poll() is None
        assert "this very host" in refusal(third, "cluster", "approve", pending["fingerprint"])
        approved = third.mqnode("cluster", "approve", asking["fingerprint"].lower())
        assert "h4" in approved.stdout, approved.stderr
        code, said, errors = ended(joining)
    finally:
        joining.kill()
    assert code == 0, errors
    assert {node["name"] for node in json.loads(said)["nodes"]} == {"h1", "h2", "h3", "h4"}
    assert not asked(third, "cluster", "pending")["pending"]
    wait_for(lambda: names(first) == {"h1", "h2", "h3", "h4"}, SEEN_S)
    in_sync(*hosts)


def test_hosts_that_differ_are_one_cluster(hosts: list[Host], authority: Authority) -> None:
    """Row 111: one has three workers, and listens for WSS only."""
    first, second, _, differs = hosts
    expected = {"h1": 1, "h2": 1, "h3": 1, "h4": 3}
    for host in (first, differs):
        wait_for(lambda host=host: workers(host) == expected, SEEN_S, lambda host=host: str(workers(host)))
    assert " WORKERS " in first.mqnode("cluster", "status").stdout
    with first.client(4) as plain:
        plain.connect("plain")
        plain.subscribe(("differ/plain", 1))
        with over_wss(differs, "differs", authority) as secure:
            secure.subscribe("differ/wss", 1)
            secure.publish("differ/plain", b"from it", 1)
            assert plain.take().payload == b"from it"
        with second.client(4) as publisher:
            publisher.connect("publisher")
            publisher.publish_all("differ/wss", b"to it", 1)
    with first.client(4) as client:
        assert client.connect("differs", clean=False).session_present
        assert client.take().payload == b"to it"


@contextmanager
def over_wss(host: Host, client_id: str, authority: Authority) -> Iterator[paho.Client]:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, clean_session=False, transport="websockets")
    client.tls_set(str(authority.path))
    client.tls_insecure_set(True)  # certificates of tests have no addresses
    host.network.inside(CLI, lambda: client.connect(host.address, host.port))
    client.loop_start()
    try:
        wait_for(client.is_connected, what=host.log)
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def workers(host: Host) -> dict[str, int]:
    return {node["name"]: node["workers"] for node in asked(host, "cluster", "status")["nodes"]}


def test_a_used_token_and_a_host_with_others(hosts: list[Host]) -> None:
    first, second, _, fourth = hosts
    line = token(first)
    assert fourth.mqnode("join", "--token", line, "--json").returncode == 0, "again, as a member: nothing changes"
    assert names(first) == {"h1", "h2", "h3", "h4"}
    assert "used by another host" in refusal(second, "join", "--token", line)
    elsewhere = Token.parse(line)
    elsewhere = Token(b"x" * 16, elsewhere.address, elsewhere.public_key, elsewhere.secret)
    said = refusal(second, "join", "--token", elsewhere.text())
    assert "in the cluster plant with 3 more" in said
    assert "mqnode leave" in said


def test_a_host_keeps_its_place_under_another_name_and_address(network: Network, hosts: list[Host]) -> None:
    moved = hosts[1]
    before = {node["name"]: node["node_id"] for node in asked(hosts[0], "cluster", "show")["nodes"]}
    at = f"{address(moved)}:7001"
    reconfigure(moved, ('name = "h2"', 'name = "renamed"'), (at, at.replace("7001", "7101")))

    def seen(host: Host) -> bool:
        nodes = {node["name"]: node for node in asked(host, "cluster", "show")["nodes"]}
        node = nodes.get("renamed", {"address": ""})
        return bool(node["address"] == f"{address(moved)}:7101" and node["state"] == "up" and "h2" not in nodes)

    wait_for(lambda: all(seen(host) for host in hosts), SEEN_S, lambda: hosts[0].mqnode("cluster", "status").stdout)
    nodes = asked(hosts[0], "cluster", "show")["nodes"]
    assert {node["node_id"] for node in nodes} == set(before.values())
    in_sync(*hosts)


def test_the_name_of_another_host_is_not_taken(hosts: list[Host]) -> None:
    """The host goes on under the name that it has, and says so."""
    renamed = hosts[1]
    reconfigure(renamed, ('name = "renamed"', f'name = "{hosts[0].name}"'))
    in_sync(*hosts)
    assert names(hosts[0]) == {"h1", "renamed", "h3", "h4"}
    shown = hosts[0].mqnode("cluster", "status").stdout
    assert 'renamed: another host has its node.name "h1": choose another one and restart this host' in shown
    [error] = map(json.loads, renamed.errors())
    assert (error["event"], error["cause"]) == ("name_taken", 'another host of the cluster is named "h1"')
