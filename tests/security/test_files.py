"""S22, S30, B1: files that only we may read, secrets that show nowhere, and configurations that must not open a door."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from node.config import load
from tests.broker import Broker, free_port, running
from tests.mqtt import Client, connect_packet, packet
from tests.security.guarded import Guarded, attempt, guarded, line_of
from tests.unit.certificates import Authority

START_S = 10.0
MQNODE = [sys.executable, "-P", "-c", "import sys; from node.cli.main import main; sys.exit(main())"]


def mqnode(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MQNODE, *arguments], capture_output=True, text=True, timeout=START_S, check=False, **options
    )  # type: ignore[call-overload,no-any-return]


# -- S22 --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker() -> Iterator[Guarded]:
    """Started with a umask that hides nothing."""
    before = os.umask(0)
    try:
        with guarded("user alice\ntopic #\n", "alice", more='[log]\nlevel = "debug"\n') as broker:
            yield broker
    finally:
        os.umask(before)


def test_s22_files_are_ours_alone(broker: Guarded) -> None:
    """The store holds messages, the token opens everything."""
    with broker.client("alice", "durable", clean=False, session_expiry=60) as client:
        client.subscribe(("t", 1))
        client.publish_all("t", b"x", 1, retain=True)
    files = [broker.data_dir, *broker.data_dir.rglob("*"), broker.run_dir, *broker.run_dir.rglob("*")]
    names = {path.name for path in files}
    assert {"store", "admin.token", "lock", "keeper.sock", "worker-0.sock", "counters"} <= names
    open_ones = {str(path): oct(path.stat().st_mode) for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077}
    assert open_ones == {}


SECRETS = {
    "right password": b"canary-right-password",
    "wrong password": b"canary-wrong-password",
    "scram message": b"n,,n=alice,r=canary-scram-nonce",
    "payload": b"canary-payload",
    "will": b"canary-will",
    "bearer token": b"canary-bearer-token",
}


def test_s22_secrets_show_nowhere(broker: Guarded) -> None:
    broker.password_file.write_text(line_of("alice", SECRETS["right password"]))
    broker.reload()
    right = {"user": "alice", "password": SECRETS["right password"]}
    assert attempt(broker.port, will=("w", SECRETS["will"], 1, True), **right).reason == 0
    assert attempt(broker.port, user="alice", password=SECRETS["wrong password"]).reason == 0x86
    method = {"authentication_method": "SCRAM-SHA-256", "authentication_data": SECRETS["scram message"]}
    assert attempt(broker.port, **method).reason >= 0x80
    with Client(broker.port) as broken:  # a CONNECT that is malformed behind its password
        broken.send(packet(0x10, connect_packet("c", **right)[2:] + b"\0"))
        broken.expect_closed()
    with Client(broker.port) as client:
        client.connect("c", **right)
        client.publish_all("t", SECRETS["payload"], 1, retain=True)
        said = [
            broker.get(path)[1] for path in ("/v1/status", "/v1/clients", "/v1/clients/c", "/v1/retained", "/metrics")
        ]
        said.append(broker.get("/v1/sessions")[1])
        client.send(packet(0x30, b"\0"))  # malformed, too
    broker.password_file.write_text(f"alice:{SECRETS['right password'].decode()}\n")  # a clear password: refused
    said.append(broker.reload(409))
    token = broker.data_dir / "admin.token"
    secrets = [*SECRETS.values(), token.read_bytes().strip()]
    token.rename(token.with_name("kept"))
    token.write_bytes(SECRETS["bearer token"])
    assert broker.get("/v1/status")[0] == 401
    said.append(mqnode("config", "show", "--config", str(broker.config)).stdout)
    assert "password_file" in said[-1]
    said += [broker.log(), *(path.read_text() for path in broker.run_dir.glob("*.log"))]
    arguments = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in broker.children()]
    everything = "\n".join(map(str, [*said, *arguments])).encode()
    assert [secret for secret in secrets if secret in everything] == []


# -- S30 --------------------------------------------------------------------------------------------------------------------


def tls(folder: Path, port: int) -> tuple[str, Authority]:
    """A listener with a CA and a revocation list, in files of their own."""
    authority = Authority(folder)
    server = authority.issue("server", "localhost", [x509.DNSName("localhost")])
    authority.revoke(authority.issue("revoked", "revoked")[0])
    return (
        f'[[listeners]]\ntype = "tls"\nbind = "127.0.0.1:{port}"\ncertificate = "{server[0]}"\nkey = "{server[1]}"\n'
        f'client_ca = "{authority.path}"\nclient_crl = "{folder}/crl.pem"\nclient_certificate = "required"\n'
        'identity = "cn"\nallow_anonymous = false\n',
        authority,
    )


BROKEN_FILES = {"missing": None, "empty": b"", "garbage": b"-----BEGIN CERTIFICATE-----\nnonsense\n", "other PEM": b"x"}


@pytest.mark.parametrize("content", BROKEN_FILES)
@pytest.mark.parametrize("file", ["ca.pem", "crl.pem", "server.pem", "server.key"])
def test_s30_a_broken_file_is_refused_at_start(tmp_path: Path, file: str, content: str) -> None:
    listener, _ = tls(tmp_path, free_port())
    _break(tmp_path / file, BROKEN_FILES[content])
    broker = Broker(listener)
    try:
        found = mqnode("start", "--config", str(broker.config))
        assert found.returncode not in (0, None)
        assert str(tmp_path / file) in found.stderr
        assert "Traceback" not in found.stderr
    finally:
        broker.close()


def _break(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def test_s30_after_a_reload_the_old_policy_stays(tmp_path: Path) -> None:
    port = free_port()
    listener, authority = tls(tmp_path, port)
    good, revoked = authority.issue("good", "good"), (f"{tmp_path}/revoked.pem", f"{tmp_path}/revoked.key")
    stranger = Authority(tmp_path, "stranger").issue("stranger client", "good")
    trusted = shutil.copy(authority.path, tmp_path / "trusted.pem")

    def enters(certificate: tuple[str, str]) -> bool:
        command = ["mosquitto_pub", "-h", "localhost", "-p", str(port), "-t", "t", "-m", "x", "-q", "1"]
        command += ["--cafile", trusted, "--cert", certificate[0], "--key", certificate[1]]
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0

    with running(listener) as broker:
        assert (enters(good), enters(revoked), enters(stranger)) == (True, False, False)
        for file in ("crl.pem", "ca.pem", "server.pem", "server.key"):
            before = (tmp_path / file).read_bytes()
            for content in BROKEN_FILES.values():
                _break(tmp_path / file, content)
                status, answer = broker.get("/v1/reload", method="POST")
                assert status == 409
                said = f"{tmp_path / file} cannot be" if content is None else str(tmp_path / file)
                assert said in str(answer["errors"])
            assert (enters(good), enters(revoked), enters(stranger)) == (True, False, False)
            (tmp_path / file).write_bytes(before)
        authority.revoke(revoked[0], good[0])
        assert broker.get("/v1/reload", method="POST")[0] == 200
        assert enters(good) is False


# -- B1: what may be open ---------------------------------------------------------------------------------------------------


def start(configuration: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`mqnode start` with it, which must refuse."""
    (folder / "mqnode.toml").write_text(f'[node]\ndata_dir = "{folder}/data"\nworkers = 1\n{configuration}')
    return mqnode("start", "--config", f"{folder}/mqnode.toml")


REFUSED = {
    "no users, all addresses": '[[listeners]]\ntype = "tcp"\nbind = "0.0.0.0:{port}"\n',
    "no users, a wildcard of IPv6": '[[listeners]]\ntype = "tcp"\nbind = "[::]:{port}"\n',
    "behind a proxy loopback is not local": (
        '[[listeners]]\ntype = "tcp"\nbind = "127.0.0.1:{port}"\nproxy_protocol = "required"\n'
        'proxy_networks = ["127.0.0.1"]\n'
    ),
    "missing password file": '[auth]\npassword_file = "{folder}/nothing"\n',
    "empty password file": '[auth]\npassword_file = "{folder}/empty"\n',
    "missing acl file": '[auth]\nallow_anonymous = true\nacl_file = "{folder}/nothing"\n',
    "unknown key": "[auth]\nallow_anonymus = false\n",
    "admin for everybody": '[admin]\nbind = "0.0.0.0:{port}"\n',
}


@pytest.mark.parametrize("what", REFUSED)
def test_b1_a_door_that_nobody_meant_to_open_stays_shut(folder: Path, what: str) -> None:
    (folder / "empty").write_text("")
    found = start(REFUSED[what].format(port=free_port(), folder=folder), folder)
    assert found.returncode not in (0, None)
    assert found.stderr.strip()
    assert "Traceback" not in found.stderr


def test_b1_by_default_only_this_host_is_served(tmp_path: Path) -> None:
    (tmp_path / "mqnode.toml").write_text("")
    assert {each.bind.rpartition(":")[0] for each in load(tmp_path / "mqnode.toml").listeners} == {"127.0.0.1", "[::1]"}


def test_b1_anonymous_clients_and_the_api() -> None:
    """Without users, whoever is on this host may connect; the API wants its token all the same."""
    with running(auth="", workers=1) as broker:
        assert attempt(broker.port).reason == 0
        assert attempt(broker.port, user="anybody", password=b"any").reason == 0
        (broker.data_dir / "admin.token").rename(broker.data_dir / "kept")  # the harness sends none then
        for path in ("/v1/status", "/v1/clients", "/v1/retained", "/openapi.json", "/v1/nothing"):
            assert broker.get(path)[0] == 401, path
        assert broker.get("/v1/reload", method="POST")[0] == 401
        assert broker.get("/v1/clients/a", method="DELETE")[0] == 401
        assert broker.get("/live")[0] == 200
