"""The boards of node/discovery: what they write and find, what they forget, and what they say when there is nobody."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh import secret
from mesh.discovery import FOUND_MAX, Found
from node.config import ConfigError, load
from node.discovery.board import Board, BoardError, make
from tests.broker import free_port, wait_for
from tests.cluster.boards import Bucket, Etcd, Zone

H1, H2, H3 = (Found(f"127.0.0.{each}:7001", f"h{each}", f"{each}" * 32) for each in (1, 2, 3))
Make = Callable[[str], Board]


@pytest.fixture
def board(tmp_path: Path) -> Make:
    """Of a host with this [discovery]."""

    def made(discovery: str, bind: str = "127.0.0.1:7001") -> Board:
        path, secret_file = tmp_path / "mqnode.toml", tmp_path / "secret"
        if not secret_file.exists():
            secret.create(secret_file)
        path.write_text(
            f'[interconnect]\nbind = "{bind}"\n[discovery]\nsecret_file = "{secret_file}"\ninterval_s = 1\n{discovery}\n'
        )
        return make(load(path, {}), secret.load(secret_file))

    return made


def test_static(board: Make) -> None:
    assert board('method = "static"\nhosts = ["127.0.0.1:7001", "h2:7001"]').look() == [
        Found("127.0.0.1:7001"),
        Found("h2:7001"),
    ]


def announced(first: Board, second: Board) -> None:
    first.announce(H1)
    second.announce(H2)
    assert set(first.look()) == set(second.look()) == {H1, H2}


def test_a_folder(board: Make, tmp_path: Path) -> None:
    folder = tmp_path / "hosts"
    folder.mkdir()
    (folder / f"{'b' * 32}.json").write_bytes(b'{"address": "h:1", "name": "\xff", "node_id": ""}')
    os.mkfifo(folder / f"{'0' * 32}.json")  # never to be waited for
    notes = folder / "notes.json"
    notes.write_text("of somebody else")
    os.utime(notes, (0, 0))
    first, second = (board(f'method = "folder"\nfolder = "{folder}"') for _ in range(2))
    umask = os.umask(0o077)  # as the service has it
    try:
        announced(first, second)
    finally:
        os.umask(umask)
    one, other = (folder / f"{each.node_id}.json" for each in (H1, H2))
    assert {each.stat().st_mode & 0o777 for each in (one, other)} == {0o644}, "users of the service may differ"
    old = time.time() - 3600
    for path in (one, other):
        os.utime(path, (old, old))
    assert set(first.look()) == {H1, H2}, "by the clock of what keeps them"
    os.utime(other, (old - 10, old - 10))
    assert first.look() == [H1]
    assert notes.exists()
    assert not (folder / f"{H2.node_id}.json").exists(), "nobody else would remove it"
    first.withdraw(H1)
    assert not list(folder.glob(f"{H1.node_id}*"))
    folder.rename(tmp_path / "away")
    with pytest.raises(BoardError, match=r"cannot be written: No such file"):
        first.announce(H1)


def test_a_bucket(board: Make, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    with Bucket("127.0.0.1") as bucket:
        text = f'method = "s3"\ns3_url = "{bucket.url}/hosts/mqnode"\ns3_credentials_file = "{tmp_path}/credentials"'
        first, second = board(text), board(text)
        announced(first, second)
        key = f"mqnode/{H2.node_id}.json"
        assert bucket.objects[key][0] == H2.to_json()
        bucket.objects[key] = bucket.objects["mqnode/notes.json"] = H2.to_json(), time.time() - 10
        assert first.look() == [H1]
        assert key not in bucket.objects
        first.withdraw(H1)
        assert [*bucket.objects] == ["mqnode/notes.json"], "of somebody else"
        elsewhere = board(text.replace("/hosts/", "/other/"))
        with pytest.raises(BoardError, match=r"bucket other: cannot be written: NoSuchBucket: [^:]*$"):
            elsewhere.announce(H1)
        (tmp_path / "credentials").write_text("aws_secret_access_key = secret\n")
        with pytest.raises(BoardError, match=r"cannot be written: discovery\.s3_credentials_file is not") as caught:
            board(text).announce(H1)
        assert "= secret" not in str(caught.value), "it is logged"
    with pytest.raises(BoardError, match="bucket hosts"):
        first.announce(H1)


def test_etcd(board: Make) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with Etcd("127.0.0.1") as broken, Etcd("127.0.0.1") as etcd:
        broken.handle = lambda method, path, body: (broken.asked.append(path), (503, "text/plain", b"", {}))[1]
        endpoints = ", ".join(f'"{each}"' for each in (dead, broken.url, etcd.url))
        first, second = (board(f'method = "etcd"\netcd = [{endpoints}]\netcd_prefix = "/c/hosts"') for _ in range(2))
        announced(first, second)
        assert len(broken.asked) == 2, "who has answered is asked first from then on"
        assert etcd.entries() == {f"/c/hosts/{each.node_id}": each.to_json() for each in (H1, H2)}
        etcd.stored["/c/hostsother"] = b'{"address":"h:1"}', 0
        for _ in range(2):
            second.announce(H2)
        assert etcd.asked.count("/v3/lease/grant") == 2, "renewed, not granted anew"
        assert len(etcd.leases) == 2
        wait_for(lambda: f"/c/hosts/{H1.node_id}" not in etcd.entries(), 6)  # who says nothing is forgotten
        first.announce(H1)
        assert set(first.look()) in ({H1}, {H1, H2}), "nothing beside the prefix"
        first.withdraw(H1)
        assert f"/c/hosts/{H1.node_id}" not in etcd.entries()
        broken.handle = lambda method, path, body: (200, "application/json", b"{}", {})
        with pytest.raises(BoardError, match="not the answer of etcd"):
            board(f'method = "etcd"\netcd = ["{broken.url}"]').announce(H1)
    with pytest.raises(
        BoardError, match=r"etcd: no endpoint answers: http://.*refused.*; http://.*refused.*; http://.*refused"
    ):
        second.look()


@pytest.fixture
def zone() -> Iterator[Zone]:
    records = {
        ("mqnode.test", "A"): ["10.9.0.1", "10.9.0.2"],
        ("mqnode.test", "AAAA"): ["fd00::3"],
        ("n1.mqnode.test", "A"): ["10.9.0.1"],
        ("_mqnode._tcp.mqnode.test", "SRV"): ["0 0 7101 n1.mqnode.test.", "0 0 7102 gone.mqnode.test."],
    }
    with Zone("127.0.0.1", records) as zone:
        yield zone


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("mqnode.test", ["10.9.0.1:7001", "10.9.0.2:7001", "[fd00::3]:7001"]),
        ("_mqnode._tcp.mqnode.test", ["10.9.0.1:7101"]),
        ("other.test", []),
    ],
)
def test_dns(board: Make, zone: Zone, name: str, found: list[str]) -> None:
    looks = board(f'method = "dns"\ndns_name = "{name}"\ndns_servers = ["{zone.address}"]')
    assert sorted(each.address for each in looks.look()) == found


def test_no_dns(board: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.discovery.dns.ANSWER_S", 0.3)
    looks = board(f'method = "dns"\ndns_name = "mqnode.test"\ndns_servers = ["127.0.0.1:{free_port()}"]')
    for _ in range(2):  # the same words each time: what is told anew is logged anew
        with pytest.raises(BoardError, match=r"DNS: A of mqnode\.test: no answer from 127\.0\.0\.1$"):
            looks.look()


def test_what_dns_does_answer_counts(board: Make, zone: Zone) -> None:
    zone.broken |= {("mqnode.test", "AAAA"), ("gone.mqnode.test", "A")}
    for name, found in (("mqnode.test", 2), ("_mqnode._tcp.mqnode.test", 1)):
        looks = board(f'method = "dns"\ndns_name = "{name}"\ndns_servers = ["{zone.address}"]')
        assert len(looks.look()) == found
    zone.records["mqnode.test", "A"] = [f"10.9.{number // 250}.{number % 250}" for number in range(1200)]
    looks = board(f'method = "dns"\ndns_name = "mqnode.test"\ndns_servers = ["{zone.address}"]')
    assert len(looks.look()) == FOUND_MAX
    zone.broken.add(("mqnode.test", "A"))
    with pytest.raises(BoardError, match=r"A of mqnode\.test: .*SERVFAIL"):
        looks.look()


def beacon(port: int) -> str:
    return f'method = "beacon"\nmulticast = "239.192.77.82:{port}"'


def test_a_beacon(board: Make) -> None:
    port = free_port()
    first, second = board(beacon(port)), board(beacon(port), "127.0.0.2:7001")
    first.look()
    second.look()
    first.announce(H1)
    assert wait_for(second.look) == [H1]
    wait_for(lambda: not second.look(), 6)  # who says nothing is forgotten


def test_a_beacon_of_another_secret_is_not_heard(board: Make, tmp_path: Path) -> None:
    port = free_port()
    listens, beside = board(beacon(port)), board(beacon(port))
    listens.look()
    (tmp_path / "secret").unlink()
    board(beacon(port)).announce(H2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forged:
        forged.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for datagram in (b"", b"mqnode1", b"mqnode1" + bytes(32) + H2.to_json(), b"x" * 2000):
            forged.sendto(datagram, ("239.192.77.82", port))
    listens.announce(H1)
    for _ in range(2):
        with pytest.raises(
            BoardError, match=r"only hosts with another cluster secret .* from 127\.0\.0\.1\..*copy the file"
        ):
            wait_for(listens.look)
    beside.announce(H3)
    assert set(wait_for(listens.look)) == {H1, H3}, "beside one of ours it is other people's"


def faults(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mqnode.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('method = "static"', 'discovery.hosts: method = "static" needs it.'),
        ('method = "static"\nhosts = ["10.9.0.1"]', '"10.9.0.1" is not ADDRESS:PORT'),
        ('method = "beacon"', "discovery.secret_file: .*mqnode cluster secret create FILE"),
        ('method = "beacon"\nsecret_file = "s"\nmulticast = "10.0.0.1:7000"', '"10.0.0.1:7000" is no IPv4 multicast group'),
        ('method = "dns"', "discovery.dns_name"),
        ('method = "etcd"', "discovery.etcd"),
        ('method = "etcd"\netcd = ["10.9.0.5:2379"]', '"10.9.0.5:2379" is no URL'),
        ('method = "etcd"\netcd = ["http://h:2379"]\netcd_prefix = "/"', "discovery.etcd_prefix"),
        ('method = "folder"', "discovery.folder"),
        ('method = "s3"', "discovery.s3_url"),
        ('method = "s3"\ns3_url = "https://s3.example.org"\ns3_credentials_file = "c"', "names no bucket"),
        ('secret_file = "s"', 'method is "none"'),
        ('metod = "dns"', "Did you mean method?"),
    ],
)  # fmt: skip
def test_each_method_has_what_it_needs(tmp_path: Path, text: str, told: str) -> None:
    assert re.search(told, faults(tmp_path, f'[interconnect]\nbind = "127.0.0.1:7001"\n[discovery]\n{text}\n'))


def test_a_host_without_interconnect_is_not_found(tmp_path: Path) -> None:
    assert "discovery.method: this host has no interconnect" in faults(
        tmp_path, '[discovery]\nmethod = "static"\nhosts = ["h:7001"]\n'
    )


def test_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(secret.SecretError, match="mqnode cluster secret create"):
        secret.load(path)
    secret.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        secret.create(path)
    same, again = secret.load(path), secret.load(path)
    assert (same.meeting_secret_key, same.beacon_key) == (again.meeting_secret_key, again.beacon_key)
    path.chmod(0o640)
    with pytest.raises(secret.SecretError, match="chmod 600"):
        secret.load(path)
    path.chmod(0o600)
    path.write_text(path.read_text()[:20])
    with pytest.raises(secret.SecretError, match="no cluster secret"):
        secret.load(path)
