"""Who may come without a name, and whether a configuration opens a door that nobody meant to open.

The rule: anonymous clients only where `allow_anonymous = true` says so, or, while no users are configured, on listeners
that only this host reaches. A listener that others reach and at which nobody could log in is refused at start.
"""

from __future__ import annotations

import os
import stat
import sys

from node.auth import acl, passwords
from node.auth.files import read_secret
from node.config import Auth, Config, ConfigError, Listener, is_loopback
from node.config.keys import CLUSTER


def anonymous_allowed(auth: Auth, listener: Listener) -> bool:
    if listener.allow_anonymous is not None:
        return listener.allow_anonymous
    if auth.allow_anonymous is not None:
        return auth.allow_anonymous
    return is_local(listener) and not auth.password_file and not auth.has_tokens


def is_local(listener: Listener) -> bool:
    """Do only clients of this host reach it? Behind a proxy that forwards others' connections they do not."""
    if listener.proxy_protocol != "off":
        return False
    return listener.type == "unix" or is_loopback(listener.bind.rpartition(":")[0].strip("[]"))


def check_security(config: Config) -> list[str]:
    """Warnings to print at each start. Raises ConfigError where the broker must not start, bad files included."""
    auth = config.auth
    has_file = auth.password_file not in ("", CLUSTER)
    if has_file:
        passwords.load(auth.password_file)
    if auth.acl_file not in ("", CLUSTER):
        acl.load(auth.acl_file)
    if auth.jwt.on:
        try:
            from node.auth.jwt_tokens import JwtTokens
        except ImportError as error:
            text = "needs PyJWT with cryptography: no token could be verified. Run"
            raise ConfigError(f'auth.jwt {text}: {sys.prefix}/bin/pip install "mqnode[jwt]"') from error
        JwtTokens(auth.jwt)
        if auth.jwt.jwks_url:
            _check_endpoint(auth.jwt.jwks_url, auth.jwt.ca_file)
    if auth.introspection.on:
        read_secret(auth.introspection.client_secret_file)
        _check_endpoint(auth.introspection.url, auth.introspection.ca_file)
    warnings = []
    for listener in config.listeners:
        warnings += _check_listener(auth, listener)
    if has_file and stat.S_IMODE(os.stat(auth.password_file).st_mode) & 0o007:
        warnings.append(
            f"auth.password_file: every user of this host can open {auth.password_file} and guess passwords at leisure. "
            f"Run: chmod 0600 {auth.password_file}"
        )
    return warnings


def _check_endpoint(url: str, ca_file: str) -> None:
    # Not above: without endpoints no process shall load HTTP and TLS at its start
    from node.auth.endpoint import Endpoint

    Endpoint(url, ca_file, 0, 0)


def _check_listener(auth: Auth, listener: Listener) -> list[str]:
    name = f"listener {listener.name or listener.bind}"
    if anonymous_allowed(auth, listener):
        if is_local(listener):
            return []
        return [
            f"{name}: allow_anonymous = true and clients of other hosts reach it: anybody can publish and subscribe "
            f"{'what acl_file grants to anonymous clients' if auth.acl_file else 'everything'} there. "
            "If that is not meant, run: mqnode users add USER, and remove allow_anonymous."
        ]
    if auth.password_file or auth.has_tokens or _has_certificate_users(listener):
        return []
    if not is_local(listener):
        raise ConfigError(
            f"{name}: clients of other hosts reach it, but there are no users (auth.password_file), no users by "
            "certificate (client_certificate and identity) or token (auth.jwt, auth.introspection), and allow_anonymous "
            "is not true: nobody could log in, so the broker does not start. Add a user: mqnode users add USER; or "
            "listen on 127.0.0.1; or, if really "
            "everybody is welcome, write allow_anonymous = true in this listener."
        )
    return [f"{name}: allow_anonymous = false and there are no users: nobody can log in there. "
            "Run: mqnode users add USER"]  # fmt: skip


def _has_certificate_users(listener: Listener) -> bool:
    return (
        listener.type in ("tls", "wss")
        and bool(listener.client_ca)
        and listener.client_certificate != "none"
        and listener.identity != "none"
    )
