"""[cluster] and [interconnect]: what would lead other hosts nowhere is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import ConfigError, load

LISTENER = '[[listeners]]\ntype = "tcp"\nbind = "0.0.0.0:1884"\nallow_anonymous = true\n'
BROKEN = [
    ('[cluster]\nname = "my plant"\n', "cluster.name: ", "cannot name a cluster"),
    ('[interconnect]\nadvertise = "10.9.0.1:7001"\n', "interconnect.advertise: ", "without interconnect.bind"),
    ('[interconnect]\nbind = "10.9.0.1"\n', "interconnect.bind: ", "is not ADDRESS:PORT"),
    ('[interconnect]\nbind = "10.9.0.1:0"\n', "interconnect.bind: ", "it is 1 to 65531"),
    ('[interconnect]\nbind = "10.9.0.1:65532"\n', "interconnect.bind: ", "it is 1 to 65531"),
    ('[interconnect]\nbind = "0.0.0.0:7001"\n', "interconnect.bind: ", "leads other hosts nowhere"),
    ('[interconnect]\nbind = ":7001"\n', "interconnect.bind: ", "leads other hosts nowhere"),
    (
        '[interconnect]\nbind = "[::]:7001"\nadvertise = "[::]:7001"\n',
        "interconnect.advertise: ",
        "leads other hosts nowhere",
    ),
    (
        '[interconnect]\nbind = "10.9.0.1:7001"\nadvertise = "n1"\n',
        "interconnect.advertise: ",
        "is not ADDRESS:PORT",
    ),
    (
        f'[interconnect]\nbind = "10.9.0.1:1880"\n{LISTENER}',
        "interconnect.bind: ",
        'listeners[0].bind is "0.0.0.0:1884"',
    ),
    (
        '[interconnect]\nbind = "[fd00::1]:7001"\n[discovery]\nmethod = "beacon"\nsecret_file = "s"\n',
        "discovery.method: ",
        "beacons are IPv4",
    ),
]


@pytest.mark.parametrize(("text", "key", "says"), BROKEN)
def test_what_no_other_host_could_reach_is_refused(tmp_path: Path, text: str, key: str, says: str) -> None:
    path = tmp_path / "mqnode.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    said = str(caught.value)
    assert key in said
    assert says in said
    assert "\n" not in said, "one fault, one error"


@pytest.mark.parametrize(
    "text",
    [
        'bind = "10.9.0.1:65531"',
        'bind = "0.0.0.0:7001"\nadvertise = "10.9.0.1:7001"',
        'bind = "[fd00::1]:7001"',
        'bind = "n1:7001"',
        f'bind = "10.9.0.1:1885"\n{LISTENER}',
    ],
)
def test_what_others_reach_is_taken(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mqnode.toml"
    path.write_text(f"[interconnect]\n{text}\n")
    load(path, {})
