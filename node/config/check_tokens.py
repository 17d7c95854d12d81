"""The checks of [auth.jwt] and [auth.introspection]: what each needs. Yields (key, sentence); looks at no file."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from node.config.binds import is_loopback
from node.config.keys import Config, Introspection, Jwt
from node.config.places import Key

_Named = Iterator[tuple[str, str]]
_SOURCES = ("keys_file", "jwks_url", "secret_file")
_EXAMPLES = {
    "issuer": "the `iss` of the tokens, as their issuer writes it",
    "audience": "what their `aud` names: this broker, as their issuer knows it",
    "user_claim": 'for example "sub"',
    "url": 'for example "https://id.example.org/introspect"',
    "client_id": "what the broker is called there",
    "client_secret_file": "the file with the broker's secret there, mode 0600",
}


def check_tokens(config: Config) -> Iterator[tuple[Key, str]]:
    auth = config.auth
    for section, faults in (("jwt", _jwt(auth.jwt)), ("introspection", _introspection(auth.introspection))):
        if getattr(auth, section).on:
            for name, text in faults:
                yield ("auth", section, name), text


def _jwt(jwt: Jwt) -> _Named:
    yield from _needed(jwt, "issuer", "audience", "user_claim")
    named = [name for name in _SOURCES if getattr(jwt, name)]
    if len(named) != 1:
        found = f"{' and '.join(named)} are set" if named else "no key could be found"
        yield named[-1] if named else "jwks_url", f"{found}. Set exactly one of {', '.join(_SOURCES)}."
    by_secret = [name for name in jwt.algorithms if name.startswith("HS")]
    if not jwt.algorithms:
        yield "algorithms", "it is empty: no token could be verified. Delete the key for the default."
    elif by_secret and len(by_secret) < len(jwt.algorithms):
        yield (
            "algorithms",
            "HS* and others together: a public key could be taken for the secret. Write one kind only.",
        )
    elif by_secret and not jwt.secret_file:
        yield "algorithms", f"{by_secret[0]} needs secret_file: public keys are no secret. Set it, or write others."
    elif jwt.secret_file and not by_secret:
        yield "algorithms", 'secret_file is for HS* only. Write algorithms = ["HS256"], or name public keys instead.'
    if jwt.jwks_url:
        yield from _url(jwt.jwks_url, "jwks_url")
    if jwt.ca_file and not jwt.jwks_url.startswith("https:"):
        yield "ca_file", "it is for a jwks_url that begins with https: only. Delete it."


def _introspection(introspection: Introspection) -> _Named:
    yield from _needed(introspection, "url", "client_id", "client_secret_file", "audience", "user_claim")
    if introspection.url:
        yield from _url(introspection.url, "url")
    if introspection.ca_file and not introspection.url.startswith("https:"):
        yield "ca_file", "it is for a url that begins with https: only. Delete it."


def _needed(section: Jwt | Introspection, *names: str) -> _Named:
    for name in names:
        if not getattr(section, name):
            yield name, f"the section needs it. Write {_EXAMPLES[name]}."


def _url(url: str, name: str) -> _Named:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https") or not url.isascii() or " " in url:
        yield name, f'"{url}" is no URL of a server. Write for example "https://id.example.org/keys".'
    elif parts.username is not None or parts.fragment:
        yield name, "user, password and # have no place in this URL. Delete them."
    elif parts.scheme == "http" and not is_loopback(host):
        yield name, f'"{url}": whoever is on the way could forge what it answers. Use https.'
