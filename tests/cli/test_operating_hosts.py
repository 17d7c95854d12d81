"""docs/operating.md, followed by the operator of three hosts: what test_operating.py does not run on one.

Blocks of one host (`console`), of several (`text`, with the host before each command and what it says below), and of a
configuration (`toml`) run one after the other as they stand there, after what the page takes for granted (GIVEN). A block of
another kind is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.cli.machine import ROOT, Machine, Shell
from tests.cluster.network import Network
from tests.mqtt import Client

NAMES = "n1", "n2", "n3"
PART = re.compile(r"^#+ (?P<heading>[^\n]*)$|^```(?P<kind>\w+)\n(?P<block>.*?)^```$", re.MULTILINE | re.DOTALL)
OF_ONE_HOST = "sh"  # tests/cli/test_operating.py
ELSEWHERE = {"A cluster": "n2"}  # headings; the others are of n1
PROGRESS = "waiting: ", "moving: ", "copying: "  # lines that come if it takes long enough
# what the page leaves out of a command, and where an operator finds it in what was said before
LEFT_OUT = {"mqn1-…": r"(mqn1-\S+)", "QK3A-7FZ2-M5TC-XWLB": r"This host +(\S+)"}
Hosts = dict[str, Machine]


def blocks() -> Iterator[tuple[str, str, str]]:
    """Heading with a number, kind, text."""
    heading, number = "", 0
    for part in PART.finditer((ROOT / "docs/operating.md").read_text(encoding="utf-8")):
        if part["heading"] is not None:
            heading, number = part["heading"], 0
        elif part["kind"] != OF_ONE_HOST:
            number += 1
            yield f"{heading} {number}", part["kind"], part["block"]


BLOCKS = list(blocks())
assert len(BLOCKS) > 15


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with ExitStack() as stack:
        network = stack.enter_context(Network(*NAMES))
        machines = {}
        for number, name in enumerate(NAMES, 1):
            machines[name] = Machine(network, name, f"10.9.0.{number}")
            stack.callback(machines[name].close)
        machines["n1"].knows(machines["n2"])
        yield machines


@pytest.mark.parametrize(("where", "kind", "text"), BLOCKS, ids=[where for where, _, _ in BLOCKS])
def test_it_does_what_it_says(hosts: Hosts, where: str, kind: str, text: str) -> None:
    GIVEN.get(where, lambda hosts: None)(hosts)
    host = hosts[ELSEWHERE.get(where.rpartition(" ")[0], "n1")]
    if kind == "console":
        host.run(text)
    elif kind == "toml":
        (host.root / "etc/mqnode/part.toml").write_text(text)
        host.run("mqnode config check --config /etc/mqnode/part.toml")
    else:
        assert kind == "text"
        session(hosts, text)


def test_no_host_logged_an_error(hosts: Hosts) -> None:
    """Nor did one need root's rights for what root made."""
    for host in hosts.values():
        assert host.run("find /var/lib/mqnode -not -user mqnode") == ""
        assert "Traceback" not in host.log()
        assert '"level":"error"' not in host.log()


# -- several hosts ---------------------------------------------------------------------------------------------------------------


def session(hosts: Hosts, text: str) -> None:
    said = ""
    waiting: list[Shell] = []  # for a command that comes later
    commands = re.findall(r"^(n\d)\$ (.*)\n((?:(?!n\d\$ ).*\n)*)", text, re.MULTILINE)
    assert sum(3 + len(name + command + shown) for name, command, shown in commands) == len(text), "more than commands"
    for name, command, shown in commands:
        for gap, found in LEFT_OUT.items():
            if gap in command:
                command = command.replace(gap, re.findall(found, said)[-1])
        shell = Shell(hosts[name], command)
        if command.startswith("mqnode join") and "--token" not in command:
            shell.say("waiting for approval")
            said += shell.said()
            waiting.append(shell)
        else:
            output = shell.ended()
            said += output
            assert not shown or fits(output, shown), f"{output}\ninstead of\n{shown}"
    for shell in waiting:
        shell.ended()


def fits(output: str, shown: str) -> bool:
    """Line by line, whatever the figures."""
    expected = shapes(shown)
    for line in shapes(output):
        while expected and expected[0] != line and expected[0].startswith(PROGRESS):
            del expected[0]
        if expected[:1] == ["…"]:
            return True
        if expected[:1] != [line]:
            return False
        del expected[0]
    return not expected


def shapes(text: str) -> list[str]:
    """Its lines without figures, spaces, and rows that only have other ones."""
    found: list[str] = []
    for line in text.splitlines():
        shape = re.sub(r"\d+", "#", re.sub(r"\b[0-9a-f]{8}\b", "#", line))
        shape = " ".join(re.sub("(#:# ?)+", "#:# ", shape).split())
        if shape and found[-1:] != [shape]:
            found.append(shape)
    return found


# -- what the page takes for granted ---------------------------------------------------------------------------------------------


def an_address_for_others(hosts: Hosts) -> None:
    """As the configuration of `mqnode init` says."""
    hosts["n1"].run("sed -i '/^# bind = /s/^# //' /etc/mqnode/mqnode.toml; mqnode config show | grep 10.9.0.1:7001")


def more_hosts(hosts: Hosts) -> None:
    def install(host: Machine) -> None:
        init = f"mqnode init --name {host.name} --interconnect {host.environ['ADDRESS']}:7001"
        host.run(f"deploy/install dist/mqnode-*.whl; {init}; systemctl start mqnode")

    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(install, hosts.values()))


def messages_wait(hosts: Hosts, name: str) -> None:
    def leave_session() -> None:
        with Client(1883) as client:
            client.connect("sensor-17", clean=True, session_expiry=3600)
            client.subscribe(("house/#", 1))
            client.disconnect()
        with Client(1883) as client:
            client.connect("kitchen")
            for number in range(4):
                client.publish_all("house/kitchen/temperature", b"%d" % number, 1)

    hosts[name].network.inside(name, leave_session)


def the_host_is_dead(hosts: Hosts) -> None:
    """It had joined again, and had a session with messages."""
    said = hosts["n1"].run("mqnode cluster token create")
    [line] = re.findall("mqnode join .*", said)
    hosts["n3"].run(line)
    messages_wait(hosts, "n3")
    hosts["n1"].run("until mqnode check insync; do sleep 1; done")
    hosts["n3"].run('kill -9 $(cat pid) $(pgrep -P "$(cat pid)")')
    hosts["n1"].run("until mqnode cluster nodes | grep evicted; do sleep 1; done")


GIVEN: dict[str, Callable[[Hosts], object]] = {
    "Start and stop 1": an_address_for_others,
    "More hosts 1": more_hosts,
    "Leave 1": lambda hosts: messages_wait(hosts, "n3"),
    "Leave 2": the_host_is_dead,
    "Back up and restore 1": lambda hosts: hosts["n1"].run("mqnode backup create mqnode.backup"),
    "Upgrade 1": lambda hosts: hosts["n1"].run("rm -f before-upgrade.backup"),
}
