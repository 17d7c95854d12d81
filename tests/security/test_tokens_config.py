"""What is wrong in [auth.jwt] and [auth.introspection] is told before a process starts: place, cause and way out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from node.config import ConfigError, load
from node.preflight import preflight
from tests.security.issuer import PRIVATE, jwks, pem

JWT = '[auth.jwt]\nissuer = "i"\naudience = "a"\n'
URL = 'jwks_url = "https://id.example.org/keys"\n'
ASK = '[auth.introspection]\nclient_id = "b"\nclient_secret_file = "{secret}"\naudience = "a"\n'
ANSWERS = 'url = "https://id.example.org/introspect"\n'

BAD = {
    "no key": (JWT, "auth.jwt.jwks_url: no key could be found. Set exactly one of keys_file, jwks_url, secret_file."),
    "two places of keys": (JWT + URL + 'keys_file = "{pem}"\n', "auth.jwt.jwks_url: keys_file and jwks_url are set."),
    "no issuer": ('[auth.jwt]\naudience = "a"\n' + URL, "auth.jwt.issuer: the section needs it."),
    "no audience": ('[auth.jwt]\nissuer = "i"\n' + URL, "auth.jwt.audience: the section needs it."),
    "no claim": (JWT + URL + 'user_claim = ""\n', "auth.jwt.user_claim: the section needs it."),
    "none": (JWT + URL + 'algorithms = ["none"]\n', '["none"] is not possible.'),
    "no algorithm": (JWT + URL + "algorithms = []\n", "auth.jwt.algorithms: it is empty"),
    "a mix": (JWT + 'keys_file = "{pem}"\nalgorithms = ["HS256", "RS256"]\n', "HS* and others together"),
    "HS256 by public keys": (JWT + 'keys_file = "{pem}"\nalgorithms = ["HS256"]\n', "HS256 needs secret_file"),
    "RS256 by a secret": (JWT + 'secret_file = "{secret}"\n', "secret_file is for HS* only"),
    "http": (JWT + 'jwks_url = "http://id.example.org/keys"\n', "whoever is on the way could forge"),
    "no URL": (JWT + 'jwks_url = "id.example.org/keys"\n', "is no URL of a server"),
    "ftp": (JWT + 'jwks_url = "ftp://127.0.0.1/keys"\n', "is no URL of a server"),
    "password in the URL": (JWT + 'jwks_url = "https://a:b@id.example.org/"\n', "have no place in this URL"),
    "authorities of nothing": (JWT + 'keys_file = "{pem}"\nca_file = "{pem}"\n', "auth.jwt.ca_file: it is for"),
    "no file": (JWT + 'keys_file = "/nowhere"\n', "auth.jwt.keys_file: /nowhere cannot be read"),
    "a private key": (JWT + 'keys_file = "{private}"\n', "holds a private key"),
    "no keys in it": (JWT + 'keys_file = "{empty}"\n', "none of its 0 keys"),
    "of another type": (JWT + 'keys_file = "{pem}"\nalgorithms = ["EdDSA"]\n', "verifies none of EdDSA"),
    "a short secret": (JWT + 'secret_file = "{secret}"\nalgorithms = ["HS512"]\n', "has 40 bytes and could be guessed"),
    "an open secret": (JWT + 'secret_file = "{open}"\nalgorithms = ["HS256"]\n', "chmod 0600"),
    "no url": (ASK, "auth.introspection.url: the section needs it."),
    "no client": ("[auth.introspection]\n" + ANSWERS, "auth.introspection.client_id: the section needs it."),
    "plain url": (ASK + 'url = "http://10.0.0.1/"\n', "whoever is on the way could forge"),
    "open client secret": (ASK.replace("{secret}", "{open}") + ANSWERS, "chmod 0600"),
    "no authorities": (ASK + ANSWERS + 'ca_file = "{pem}"\n', "it holds no certificates"),
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    private = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    contents = {
        "pem": pem(PRIVATE["RS256"]),
        "secret": b"x" * 40 + b"\n",
        "open": b"x" * 40,
        "private": private,
        "empty": jwks(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644 if name == "open" else 0o600)
    return {name: tmp_path / name for name in contents}


def written(files: dict[str, Path], text: str) -> Path:
    path = files["pem"].parent / "mqnode.toml"
    for name, file in files.items():
        text = text.replace(f"{{{name}}}", str(file))
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused(files: dict[str, Path], name: str) -> None:
    text, cause = BAD[name]
    with pytest.raises(ConfigError) as told:
        preflight(written(files, text))
    assert cause in str(told.value)
    assert "x" * 40 not in str(told.value)


def test_it_is_taken(files: dict[str, Path]) -> None:
    """And then the section is one way to log in, also for a listener that others reach."""
    listener = '[[listeners]]\ntype = "tcp"\nbind = "0.0.0.0:1883"\n'
    good = [
        JWT + URL, JWT + 'jwks_url = "http://127.0.0.1:8080/keys"\n', JWT + 'keys_file = "{pem}"\n', ASK + ANSWERS,
        JWT + 'secret_file = "{secret}"\nalgorithms = ["HS256"]\n', JWT + URL + ASK + ANSWERS,
    ]  # fmt: skip
    for text in good:
        assert preflight(written(files, listener + text))[1] == []


def test_the_environment_reaches_it(files: dict[str, Path]) -> None:
    path = written(files, JWT)
    config = load(path, {"MQNODE_AUTH__JWT__JWKS_URL": "https://id.example.org/", "MQNODE_AUTH__JWT__REFRESH_S": "60"})
    assert (config.auth.jwt.jwks_url, config.auth.jwt.refresh_s) == ("https://id.example.org/", 60)


def test_without_the_library_it_says_what_to_install(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("node.auth.keys", "node.auth.jwt_tokens"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ConfigError, match=r'pip install "mqnode\[jwt\]"'):
        preflight(written(files, JWT + URL))
