"""S15, S16: every broken configuration gives one clear error, whose line names place, key, cause and way out."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.config import Config, ConfigError, Listener, load, read
from node.config.places import key_lines
from node.config.show import changed_keys, to_toml, values
from node.preflight import preflight
from tests.unit.certificates import Authority

ROOT = Path(__file__).resolve().parents[2]

TCP = '[[listeners]]\ntype = "tcp"\nbind = "127.0.0.1:1883"\n'
UNIX = '[[listeners]]\ntype = "unix"\n'
WS = '[[listeners]]\ntype = "ws"\nbind = "127.0.0.1:8080"\n'
TLS = '[[listeners]]\ntype = "tls"\nbind = "127.0.0.1:8883"\n'
PAIR = 'certificate = "{pki}/server.pem"\nkey = "{pki}/server.key"\n'
PROXY = TCP + 'proxy_protocol = "required"\n'

# (configuration, line that is named (where a key is missing, its table's) or None, what the error says)
# {pki}: a folder of certificates
BROKEN: dict[str, tuple[str, int | None, str]] = {
    # not TOML
    "not TOML": ("[node\n", 1, "not TOML"),
    "no value": ("[node]\nworkers =\n", 2, "not TOML"),
    "text without quotes": ("[node]\nname = broker\n", 2, "not TOML"),
    "YAML": ("node:\n  workers: 2\n", 1, "not TOML"),
    "mosquitto.conf": ("listener 1883\nallow_anonymous true\n", 1, "not TOML"),
    "open text": ('[node]\nname = "x\n', 2, "not TOML"),
    "key twice": ("[node]\nworkers = 1\nworkers = 2\n", 3, "stands there twice"),
    "table twice": ("[node]\n[log]\n[node]\n", 3, "stands there twice"),
    "list and table": (TCP + "[listeners]\n", 4, "stands there twice"),
    "brackets without end": ("a = " + "[" * 20_000, None, "brackets within brackets"),
    "number without end": ("[node]\nworkers = " + "9" * 5000, None, "not TOML"),
    "not UTF-8": ('[node]\nname = "\udcff"\n', 2, "not UTF-8"),
    # unknown keys (S16)
    "misspelt key": ("[limits]\n\nmax_packt_bytes = 1\n", 3, "Did you mean max_packet_bytes?"),
    "misspelt section": ("[limit]\nmax_packet_bytes = 1000\n", 1, "Did you mean limits?"),
    "half a key": ("[auth]\nacl = 'x'\n", 2, "Did you mean acl_file?"),
    "key and more": (TCP + "key_file = 'x'\n", 4, "Did you mean key?"),
    "key of another section": ("[node]\nmax_packet_bytes = 1000\n", 2, "It belongs into [limits]."),
    "key above all sections": ("workers = 2\n", 1, "It belongs into [node]."),
    "key of a listener": ("[auth]\nclient_ca = 'x'\n", 2, "It belongs into [[listeners]]."),
    "key with a line break": ('"a\\nb" = 1\n', 1, "'a\\nb': unknown key"),
    "key of nothing": ("[auth]\nblub = 'hunter2'\n", 2, "Known are: allow_anonymous"),
    "misspelt key of a listener": (TCP + WS + 'alow_anonymous = true\n', 7, "Did you mean allow_anonymous?"),
    "key of an older broker": ("persistence = true\n", 1, "unknown key"),
    # types and ranges
    "too many workers": ("[node]\nworkers = 49\n", 2, "node.workers: 49 is not possible. It takes: integer, 0 to 48"),
    "number as text": ('[node]\nworkers = "4"\n', 2, '"4" is not possible'),
    "truth as number": ("[node]\nworkers = true\n", 2, "true is not possible"),
    "number with a point": ("[limits]\nmax_packet_bytes = 1e6\n", 2, "integer, 256 to 268435455"),
    "negative": ("[store]\nballast_bytes = -1\n", 2, "integer, 0 to"),
    "beyond 64 bits": ("[limits]\nmax_output_bytes = 99999999999999999999\n", 2, "is not possible"),
    "not a number": ("[limits]\nslow_subscriber_s = nan\n", 2, "nan is not possible"),
    "infinity": ("[limits]\nconnect_timeout_s = inf\n", 2, "inf is not possible"),
    "no time for CONNECT": ("[limits]\nconnect_timeout_s = 0\n", 2, "number, above 0 to 3600"),
    "keep-alive 0": ("[limits]\nmax_keepalive_s = 0\n", 2, "integer, 1 to 65535"),
    "packet too large for MQTT": ("[limits]\nmax_packet_bytes = 268435456\n", 2, "256 to 268435455"),
    "none of the choices": ("[limits]\nqueue_policy = 'drop'\n", 2, 'one of "drop_new", "drop_oldest", "refuse"'),
    "truth as text": ("[auth]\nallow_anonymous = 'yes'\n", 2, '"yes" is not possible. It takes: true or false'),
    "text as number": ("[node]\nname = 5\n", 2, "It takes: text"),
    "a date": ("[node]\nname = 2026-11-21\n", 2, "It takes: text"),
    "one for many": (WS + 'origins = "https://a"\n', 4, "list, each text"),
    "unknown version": (TCP + "protocol_versions = [4, 6]\n", 4, "list, each one of 3, 4, 5"),
    "control character": ('[node]\nname = "a\\nb"\n', 2, "is not possible"),
    "NUL in a path": ('[node]\ndata_dir = "/var\\u0000"\n', 2, "is not possible"),
    "section as value": ("node = 5\n", 1, "Write [node] above its keys."),
    "listeners as value": ("listeners = 5\n", 1, "Write [[listeners]]"),
    "one bracket too few": ("[listeners]\ntype = 'tcp'\n", 1, "Write [[listeners]]"),
    "certificate pair cut": (TLS + PAIR + 'sni = { "a.b" = ["x"] }\n', 6, "table of NAME = [text, text]"),
    # [node]
    "node with a blank": ("[node]\nname = 'a b'\n", 2, "cannot name a node"),
    "node with a slash": ("[node]\nname = '../x'\n", 2, "cannot name a node"),
    "node name too long": (f"[node]\nname = '{'n' * 64}'\n", 2, "1 to 63 letters"),
    "no data_dir": ("[node]\ndata_dir = ''\n", 2, "no place for the state"),
    # listeners
    "no listener": ("listeners = []\n", 1, "no client could connect"),
    "no type": ('[[listeners]]\nbind = "127.0.0.1:1883"\n', 1, "listeners[0].type: the key is missing"),
    "no bind": (TCP + '[[listeners]]\ntype = "tcp"\n', 4, "listeners[1].bind: the key is missing"),
    "unknown type": (TCP.replace("tcp", "mqtts"), 2, 'one of "tcp", "tls"'),
    "two on one bind": (TCP + TCP, 6, "is listeners[0].bind already"),
    "two on one path": (UNIX + 'bind = "/run/x"\n' + UNIX + 'bind = "/run//x"\n', 6, "is listeners[0].bind already"),
    "two of one name": (TCP + 'name = "a"\n' + WS + 'name = "a"\n', 8, "is listeners[0].name already"),
    "on the admin API's bind": (TCP.replace("1883", "8081"), 3, "is admin.bind already"),
    "around the admin API's bind": (TCP.replace("127.0.0.1:1883", "0.0.0.0:8081"), 3, "is admin.bind already"),
    "no port": (TCP.replace(":1883", ""), 3, "is not ADDRESS:PORT"),
    "port beyond 65535": (TCP.replace("1883", "70000"), 3, "no port 70000"),
    "port 0": (TCP.replace("1883", "0"), 3, "port of its own"),
    "port as a name": (TCP.replace("1883", "mqtt"), 3, "is not ADDRESS:PORT"),
    "IPv6 without brackets": (TCP.replace("127.0.0.1", "::1"), 3, "is not ADDRESS:PORT"),
    "impossible address": (TCP.replace("127.0.0.1", "127.0.0.256"), 3, '"127.0.0.256" is no IP address'),
    "impossible IPv6": (TCP.replace("127.0.0.1", "[::g]"), 3, '"::g" is no IP address'),
    "every address as a star": (TCP.replace("127.0.0.1", "*"), 3, "neither an IP address nor a host's name"),
    "address as a URL": (TCP.replace("127.0.0.1", "mqtt//x"), 3, "neither an IP address nor a host's name"),
    "name with an empty part": (TCP.replace("127.0.0.1", "two..dots"), 3, "neither an IP address nor a host's name"),
    "path on tcp": (TCP + 'path = "/ws"\n', 4, 'type "tcp" has no use for it'),
    "origins on tcp": (TCP + 'origins = ["https://a"]\n', 4, 'type "tcp" has no use for it'),
    "certificate on tcp": (TCP + 'certificate = "{pki}/server.pem"\n', 4, 'type = "tls"'),
    "certificates of clients on ws": (WS + 'client_certificate = "required"\n', 4, 'type "ws" has no use for it'),
    "mode on ws": (WS + 'mode = "0600"\n', 4, 'type = "unix"'),
    "mode that is none": (UNIX + 'bind = "/run/x"\nmode = "rw-rw----"\n', 4, "is not possible"),
    "socket without a path": (UNIX + 'bind = "127.0.0.1:1883"\n', 3, "not the path of a socket"),
    "socket path too long": (UNIX + f'bind = "/{"x" * 90}"\n', 3, "90 bytes or less"),
    "path without a slash": (WS + 'path = "mqtt"\n', 4, "no path of a URL"),
    "origin with a path": (WS + 'origins = ["https://a/b"]\n', 4, "no origin"),
    "no version of MQTT": (TCP + "protocol_versions = []\n", 4, "no client could connect"),
    # TLS
    "no certificate": (TLS + 'key = "{pki}/server.key"\n', 1, "listeners[0].certificate"),
    "no key": (TLS + 'certificate = "{pki}/server.pem"\n', 1, "listeners[0].key"),
    "required without CA": (TLS + PAIR + 'client_certificate = "required"\n', 1, "listeners[0].client_ca"),
    "CA that nobody uses": (TLS + PAIR + 'client_ca = "{pki}/ca.pem"\n', 1, "no client is asked for a certificate"),
    "identity without CA": (TLS + PAIR + 'identity = "cn"\n', 6, "no client is asked for a certificate"),
    "CRL without CA": (TLS + PAIR + 'client_crl = "{pki}/ca.pem"\n', 6, "no client is asked for a certificate"),
    "identity on tcp": (TCP + 'identity = "san_dns"\n', 4, "needs a certificate"),
    "server name with a port": (TLS + PAIR + 'sni = { "a:1" = ["x", "y"] }\n', 6, "not a server's name"),
    # PROXY protocol
    "networks without PROXY": (TCP + 'proxy_networks = ["10.0.0.0/8"]\n', 4, 'proxy_protocol is "off"'),
    "PROXY without networks": (PROXY, 1, "anybody could claim any address"),
    "network of no kind": (PROXY + 'proxy_networks = ["balancer"]\n', 5, "10.0.0.0/8"),
    "network with host bits": (PROXY + 'proxy_networks = ["10.0.0.1/8"]\n', 5, "has host bits set"),
    # between limits
    "strict and alone": ('[cluster]\nack_policy = "strict"\n', 2, "Set interconnect.bind"),
    "map that cannot grow": ("[store]\nmap_bytes = 2097152\nmax_map_bytes = 1048576\n", 3, "less than map_bytes"),
    "retained beyond packets": ("[limits]\nmax_retained_bytes = 9000000\n", 2, "would never be reached"),
    "CONNECT beyond packets": ("[limits]\nmax_packet_bytes = 300\nmax_connect_bytes = 301\n", 3, "never be reached"),
    "one beyond all": ("[limits]\nmax_worker_output_bytes = 1048576\nmax_output_bytes = 2097152\n", 3, "never be reached"),
    "admin for everybody": ('[admin]\nbind = "0.0.0.0:9999"\n', 2, "listens on loopback only"),
    "admin without port": ('[admin]\nbind = "127.0.0.1"\n', 2, "is not ADDRESS:PORT"),
    # files; only start and check look at them
    "no password file": ("[auth]\npassword_file = '/nowhere/users'\n", 2, "mqnode users add USER"),
    "password file is a folder": ("[auth]\npassword_file = '/etc'\n", 2, "Is a directory"),
    "no users in it": ("[auth]\npassword_file = '{pki}/empty'\n", None, "nobody could log in"),
    "no hash": ("[auth]\npassword_file = '{pki}/users'\n", None, "{pki}/users:2:"),
    "no acl file": ("[auth]\nacl_file = '/nowhere/acl'\n", 2, "cannot be read"),
    "bad rule": ("[auth]\nacl_file = '{pki}/acl'\n", None, "{pki}/acl:1:"),
    "no such certificate": (TLS + PAIR.replace("server.pem", "none.pem"), 4, "none.pem cannot be read: No such file"),
    "no such CA": (TLS + PAIR + 'client_ca = "{pki}/none"\nclient_certificate = "required"\n', 6, "No such file"),
    "key of another certificate": (TLS + PAIR.replace("server.key", "other.key"), 1, "key values mismatch"),
    "not a certificate": (TLS + PAIR.replace("server.pem", "users"), 1, "openssl x509"),
    "CA that has expired": (TLS + PAIR + 'client_ca = "{pki}/old.pem"\nclient_certificate = "required"\n', 1, "has expired"),
    "CRL that is none": (
        TLS + PAIR + 'client_ca = "{pki}/ca.pem"\nclient_certificate = "required"\nclient_crl = "{pki}/ca.pem"\n',
        1, "holds no revocation list",
    ),
    "certificate of a name missing": (TLS + PAIR + 'sni = { "a.b" = ["{pki}/none", "{pki}/server.key"] }\n', 6, "none"),
    "a door for everybody": ('[[listeners]]\ntype = "tcp"\nbind = "0.0.0.0:1883"\n', None, "nobody could log in"),
}  # fmt: skip

# (variable, value, what the error says)
BROKEN_VARIABLES = {
    "MQNODE_NODE__WORKRS": ("2", "Did you mean MQNODE_NODE__WORKERS?"),
    "MQNODE_NOD__WORKERS": ("2", "no such key"),
    "MQNODE_NODE__WORKERS": ("many", '"many" is not possible. It takes: integer, 0 to 48'),
    "MQNODE_NODE__WORKERS__X": ("1", "no such key"),
    "MQNODE_LISTENERS__FIRST__BIND": ("127.0.0.1:1", "not the number of a listener"),
    "MQNODE_LISTENERS__7__BIND": ("127.0.0.1:1", "the next is MQNODE_LISTENERS__2__"),
    "MQNODE_LISTENERS__0": ("{}", "names a table"),
    "MQNODE__WORKERS": ("1", "no such key"),
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    authority = Authority(folder)
    authority.issue("server", "localhost")
    authority.issue("other", "other")
    authority.issue("soon", "localhost", days=3)
    Authority(folder, "old", days=-1)
    (folder / "empty").write_text("# nobody\n")
    (folder / "users").write_text("# users\nuser:hunter2\n")
    (folder / "acl").write_text("topic read-write a/#\n")
    return folder


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MQNODE_")]:
        monkeypatch.delenv(name)


def written(pki: Path, folder: Path, name: str) -> tuple[Path, int | None, str]:
    text, line, says = BROKEN[name]
    path = folder / "mqnode.toml"
    path.write_bytes(text.replace("{pki}", str(pki)).encode("utf-8", "surrogateescape"))
    return path, line, says.replace("{pki}", str(pki))


@pytest.mark.parametrize("name", BROKEN)
def test_s15_broken(pki: Path, tmp_path: Path, name: str) -> None:
    path, line, says = written(pki, tmp_path, name)
    with pytest.raises(ConfigError) as caught:
        preflight(path)
    text = str(caught.value)
    assert says in text
    assert "\n" not in text, "one fault, one error"
    assert line is None or text.startswith(f"{path}:{line}: "), text
    assert text.endswith((".", "?", f"--config {path}", "config check", "USER"))  # a way out, not a bare cause
    assert "hunter2" not in text  # nothing of a line that might hold a secret


@pytest.mark.parametrize("name", BROKEN_VARIABLES)
def test_s15_broken_variable(name: str) -> None:
    value, says = BROKEN_VARIABLES[name]
    with pytest.raises(ConfigError) as caught:
        load(None, {name: value})
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def mqnode(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("mqnode")), *arguments]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "name", ["not TOML", "not UTF-8", "misspelt key", "two on one bind", "no hash", "no such certificate",
             "key of another certificate", "a door for everybody"],
)  # fmt: skip
def test_s15_the_command_says_no(pki: Path, tmp_path: Path, name: str) -> None:
    path, _, says = written(pki, tmp_path, name)
    for command in (("config", "check"), ("start",)):
        result = mqnode(*command, "--config", str(path))
        assert result.returncode == 1
        assert says in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1


def test_no_file_at_all() -> None:
    result = mqnode("config", "check", "--config", "/nowhere/mqnode.toml")
    assert result.returncode == 1
    assert "/nowhere/mqnode.toml: the configuration cannot be read: No such file" in result.stderr
    assert mqnode("config", "show", "--config", "/nowhere/mqnode.toml").returncode == 2


def test_s15_without_descriptors(pki: Path, tmp_path: Path) -> None:
    path = tmp_path / "mqnode.toml"
    path.write_text(f'[auth]\nacl_file = "{pki}/acl"\n')
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        with pytest.raises(ConfigError, match="Too many open files"):
            preflight(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_all_faults_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mqnode.toml"
    path.write_text("[node]\nworkers = 99\nfoo = 1\n[log]\nlevel = 'loud'\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {"MQNODE_SYS__X": "1"})
    assert len(str(caught.value).splitlines()) == 4


# -- what works -----------------------------------------------------------------------------------------------------------


def test_defaults_are_usable() -> None:
    config = load(None, {})
    assert config.node.name
    assert config == Config(node=config.node)


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mqnode.toml"
    path.write_text("[node]\nworkers = 2\nname = 'file'\n" + TCP)
    config = load(path, {
        "MQNODE_NODE__WORKERS": "4",
        "MQNODE_NODE__NAME": "007",  # a text, whatever else it looks like
        "MQNODE_LIMITS__SLOW_SUBSCRIBER_S": "2.5",
        "MQNODE_AUTH__ALLOW_ANONYMOUS": "false",
        "MQNODE_LISTENERS__0__BIND": "[::1]:1884",
        "MQNODE_LISTENERS__1__TYPE": '"ws"',
        "MQNODE_LISTENERS__1__BIND": "127.0.0.1:8080",
        "MQNODE_LISTENERS__1__ORIGINS": '["https://a.example"]',
        "MQNODE_SUPERVISOR_PID": "1",  # without `__` it is none of ours
    })  # fmt: skip
    assert (config.node.workers, config.node.name) == (4, "007")
    assert config.limits.slow_subscriber_s == 2.5
    assert config.auth.allow_anonymous is False
    assert config.listeners == (
        Listener(type="tcp", bind="[::1]:1884"),
        Listener(type="ws", bind="127.0.0.1:8080", origins=("https://a.example",)),
    )


def test_variables_change_the_default_listeners() -> None:
    config = load(None, {"MQNODE_LISTENERS__0__BIND": "127.0.0.1:1884"})
    assert [each.bind for each in config.listeners] == ["127.0.0.1:1884", "[::1]:1883"]


def test_each_value_has_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "mqnode.toml"
    path.write_text(
        '\ufeff# a comment\r\n[node]\r\nworkers = 2\r\n\r\n[[listeners]]\r\ntype = "ws"\r\nbind = "127.0.0.1:1"\r\n'
        'origins = [ # [[listeners]]\r\n  "https://a",\r\n]\r\nname = """\\\r\n  n"""\r\n[[listeners]]\r\n'
        'type = "tls"\r\nbind = "127.0.0.1:2"\r\ncertificate = "c"\r\nkey="k"\r\n[listeners.sni]\r\n"a.b" = ["c", "k"]\r\n'
        "[log]\r\nformat = 'text'\r\n",
        newline="",
    )
    origin = read(path, {"MQNODE_NODE__WORKERS": "3"}).places.origin
    assert origin(("node", "workers")) == "MQNODE_NODE__WORKERS"
    assert origin(("node", "name")) is None
    assert origin(("listeners", 0, "origins")) == f"{path}:8"
    assert origin(("listeners", 0, "name")) == f"{path}:11"
    assert origin(("listeners", 1, "bind")) == f"{path}:15"
    assert origin(("listeners", 1, "sni")) == f"{path}:18"
    assert origin(("log", "format")) == f"{path}:21"


def test_lines_of_dotted_keys() -> None:
    lines = key_lines("node.workers = 2\n[a.b]\nc.'d e' = { f = 1 }\n[[a.x]]\n[[a.x]]\ny = [\n\n[1]\n]\nz = 1\n")
    assert lines[("node", "workers")] == 1
    assert lines[("a", "b", "c", "d e", "f")] == 3
    assert lines[("a", "x", 1)] == 5
    assert lines[("a", "x", 1, "y", 0)] == 6
    assert lines[("a", "x", 1, "z")] == 10


def odd() -> Iterator[Config]:
    yield load(None, {})
    yield Config(
        node=load(None, {"MQNODE_NODE__NAME": "n"}).node,
        listeners=(
            Listener(
                type="wss", bind="[::1]:1", certificate='c"\\ü', key="k", sni={"a.b": ("c", "k")}, origins=("a://b",)
            ),
            Listener(type="unix", bind="/run/x", allow_anonymous=False, protocol_versions=(5,)),
        ),
    )


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    """mqnode start writes its copy so, too."""
    path = tmp_path / "mqnode.toml"
    for config in odd():
        path.write_text(to_toml(config))
        assert load(path, {}) == config


def test_changed_keys() -> None:
    before, after = odd()
    assert changed_keys(before, before) == []
    found = changed_keys(before, after)
    assert "listeners[0].type" in found
    assert "node.name" in found
    assert changed_keys(before, load(None, {"MQNODE_NODE__NAME": before.node.name, "MQNODE_SYS__INTERVAL_S": "1"})) == [
        "sys.interval_s"
    ]
    fewer = Config(node=before.node, listeners=before.listeners[:1])
    assert changed_keys(before, fewer) == ["listeners"]


def test_show(tmp_path: Path) -> None:
    path = tmp_path / "mqnode.toml"
    (tmp_path / "users").write_text("u:canary-4711\n")
    path.write_text(f"[auth]\npassword_file = '{tmp_path}/users'\n")
    shown = mqnode("config", "show", "--origin", "--config", str(path), MQNODE_NODE__WORKERS="3").stdout
    assert f"# {path}:2" in shown
    assert "# MQNODE_NODE__WORKERS" in shown
    assert "# allow_anonymous is not set" in shown
    assert "canary" not in shown
    as_json = mqnode("config", "show", "--origin", "--json", "--config", str(path)).stdout
    assert '"auth.password_file"' in as_json
    assert mqnode("config", "show", "--json", "--config", str(path)).stdout.startswith('{\n  "node"')


def test_secrets_have_no_key() -> None:
    """What is shown needs no hiding, as long as a key names the file of a secret and not the secret."""
    for *_, name in values(load(None, {})):
        assert not any(word in str(name) for word in ("password", "secret", "token")) or str(name).endswith("_file")


def test_check_warns_and_says_yes(pki: Path, tmp_path: Path) -> None:
    path = tmp_path / "mqnode.toml"
    path.write_text(
        '[[listeners]]\ntype = "tcp"\nbind = "0.0.0.0:1883"\nallow_anonymous = true\n' + TLS + PAIR.format(pki=pki)
    )
    path.write_text(path.read_text().replace("server.", "soon."))
    result = mqnode("config", "check", "--config", str(path))
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{path}: usable\n"
    assert "allow_anonymous = true" in result.stderr
    assert "a certificate expires in 3 days" in result.stderr
    assert '"usable": true' in mqnode("config", "check", "--json", "--config", str(path)).stdout
