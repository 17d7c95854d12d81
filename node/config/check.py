"""The checks between keys: what each key takes alone stands in keys.py. Yields (key, sentence); looks at no file.

A value that is our default is no fault, even where it does not fit: it says nothing that the operator might mean.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterator

from node.config.binds import check_host, is_loopback, split_bind
from node.config.check_cluster import check_cluster
from node.config.check_discovery import check_discovery
from node.config.check_tokens import check_tokens
from node.config.keys import Config, Limits, Listener
from node.config.places import Key, dotted

Fault = tuple[Key, str]

_UNIX_PATH_MAX_BYTES = 90  # 107 take a socket's path; it is made as .NAME.PID beside it
_NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")
_LIMITS, _LISTENER = Limits(), Listener(type="tcp", bind="")  # the defaults
_ONLY_FOR = {  # keys that other types of listeners have no use for
    ("tls", "wss"): ("certificate", "key", "client_ca", "client_certificate", "client_crl", "sni", "min_tls"),
    ("ws", "wss"): ("path", "origins"),
    ("unix",): ("mode",),
}


def host_name() -> str:
    """Default of node.name: the host's name up to its first dot."""
    return socket.gethostname().partition(".")[0]


def check(config: Config) -> Iterator[Fault]:
    yield from _node(config)
    if not config.listeners:
        yield ("listeners",), "there is none: no client could connect. Add one, or delete the key for the default."
    for index, listener in enumerate(config.listeners):
        for name, text in _listener(listener):
            yield ("listeners", index, name), text
    yield from _twice(config)
    yield from _limits(config.limits)
    if config.store.max_map_bytes < config.store.map_bytes:
        yield (
            ("store", "max_map_bytes"),
            (
                f"{config.store.max_map_bytes} is less than map_bytes = {config.store.map_bytes}, with which the store "
                "starts. Raise it or lower map_bytes."
            ),
        )
    yield from check_cluster(config)
    yield from check_discovery(config)
    yield from check_tokens(config)
    yield from _admin(config)
    if config.admin.health_bind:
        yield from _health(config)


def _node(config: Config) -> Iterator[Fault]:
    if not _NODE_NAME.fullmatch(config.node.name):
        yield (
            ("node", "name"),
            (
                f'"{config.node.name}" cannot name a node: 1 to 63 letters, digits, ".", "_" and "-", the first and the last '
                "a letter or a digit. Set it (default: the host's name)."
            ),
        )
    if not config.node.data_dir:
        yield ("node", "data_dir"), "it is empty: there is no place for the state. Name a directory."


def _admin(config: Config) -> Iterator[Fault]:
    try:
        host, _ = _bind(config.admin.bind)
    except ValueError as error:
        yield ("admin", "bind"), str(error)
        return
    if not is_loopback(host):
        yield (
            ("admin", "bind"),
            (
                f'"{config.admin.bind}": the admin API speaks plain HTTP and listens on loopback only. '
                "Set it to 127.0.0.1:PORT and put a TLS proxy in front of it."
            ),
        )


def _health(config: Config) -> Iterator[Fault]:
    try:
        _bind(config.admin.health_bind)
    except ValueError as error:
        yield ("admin", "health_bind"), str(error)


def _twice(config: Config) -> Iterator[Fault]:
    """Two that want the same address, or the same name in logs and metrics."""
    binds: dict[str, Key] = dict.fromkeys(_wildcards(config.admin.bind), ("admin", "bind"))
    if config.admin.health_bind:
        if config.admin.health_bind in binds:
            yield (
                ("admin", "health_bind"),
                f'"{config.admin.health_bind}" is admin.bind already. Choose another address.',
            )
        binds |= dict.fromkeys(_wildcards(config.admin.health_bind), ("admin", "health_bind"))
    names: dict[str, Key] = {}
    for index, listener in enumerate(config.listeners):
        key: Key = ("listeners", index)
        bind = os.path.normpath(listener.bind) if listener.type == "unix" else listener.bind.lower()
        if bind in binds:
            yield (*key, "bind"), f'"{listener.bind}" is {dotted(binds[bind])} already. Choose another address.'
        elif listener.name and listener.name in names:
            yield (*key, "name"), f'"{listener.name}" is {dotted(names[listener.name])} already. Choose another name.'
        binds.setdefault(bind, (*key, "bind"))
        names.setdefault(listener.name, (*key, "name"))


def _wildcards(bind: str) -> list[str]:
    """`bind`, and the listeners on all addresses that would take its port, too: the admin API does not share it."""
    host, _, port = bind.lower().rpartition(":")
    return [bind.lower(), f":{port}", f"{'[::]' if host.startswith('[') else '0.0.0.0'}:{port}"]


def _limits(limits: Limits) -> Iterator[Fault]:
    for smaller, larger in (
        ("max_connect_bytes", "max_packet_bytes"),
        ("max_retained_bytes", "max_packet_bytes"),
        ("max_output_bytes", "max_worker_output_bytes"),
    ):
        if getattr(limits, larger) < getattr(limits, smaller) != getattr(_LIMITS, smaller):
            yield (
                ("limits", smaller),
                (
                    f"{getattr(limits, smaller)} is more than {larger} = {getattr(limits, larger)} and would never be reached. "
                    f"Lower it or raise {larger}."
                ),
            )


def _bind(bind: str) -> tuple[str, int]:
    host, port = split_bind(bind)
    check_host(host)
    if port == 0:
        raise ValueError(f'"{bind}": port 0 would give each worker a port of its own. Choose 1 to 65535.')
    return host, port


# -- one listener; (name of the key, sentence) ----------------------------------------------------------------------------

_Named = Iterator[tuple[str, str]]


def _listener(listener: Listener) -> _Named:
    for types, names in _ONLY_FOR.items():
        if listener.type not in types:
            for name in names:
                if getattr(listener, name) != getattr(_LISTENER, name):
                    yield (
                        name,
                        f'a listener of type "{listener.type}" has no use for it. Delete it, or type = "{types[0]}".',
                    )
    yield from _unix(listener) if listener.type == "unix" else _tcp(listener)
    if listener.type in ("tls", "wss"):
        yield from _tls(listener)
    elif listener.identity != "none" and (listener.identity, listener.proxy_protocol) != ("cn", "required"):
        yield (
            "identity",
            (
                f'"{listener.identity}" needs a certificate: type = "tls" or "wss", or "cn" and proxy_protocol = "required" '
                "behind a proxy that checked it. Change type or delete identity."
            ),
        )
    yield from _proxy(listener)
    if not listener.path.startswith("/") or re.search(r"[\s?#]", listener.path):
        yield "path", f'"{listener.path}" is no path of a URL. Write for example "/mqtt".'
    for origin in listener.origins:
        if origin != "null" and not _ORIGIN.fullmatch(origin):
            yield "origins", f'"{origin}" is no origin: no browser sends that. Write for example "https://example.org".'
    if not listener.protocol_versions:
        yield "protocol_versions", "it is empty: no client could connect. Delete the key for all versions."


def _unix(listener: Listener) -> _Named:
    if not listener.bind.startswith("/") or listener.bind.endswith("/"):
        yield "bind", f'"{listener.bind}" is not the path of a socket. Write for example "/run/mqnode/mqtt.sock".'
    elif len(os.fsencode(listener.bind)) > _UNIX_PATH_MAX_BYTES:
        yield "bind", f"longer than a unix socket's path may be. Choose a path of {_UNIX_PATH_MAX_BYTES} bytes or less."


def _tcp(listener: Listener) -> _Named:
    try:
        _bind(listener.bind)
    except ValueError as error:
        yield "bind", str(error)


def _tls(listener: Listener) -> _Named:
    if not listener.certificate:
        yield (
            "certificate",
            f'type = "{listener.type}" needs it. Name a PEM file; docs/security.md shows how to make one.',
        )
    if not listener.key:
        yield "key", "the private key of the certificate is missing. Name its PEM file."
    asks = listener.client_certificate != "none"
    if asks and not listener.client_ca:
        yield (
            "client_ca",
            (
                f'client_certificate = "{listener.client_certificate}" needs it: no client could be checked. '
                "Name the PEM file of the authority that signs clients."
            ),
        )
    if listener.client_ca and not asks:
        yield (
            "client_certificate",
            (
                'client_ca is set, but no client is asked for a certificate. Write "optional" or "required", or delete client_ca.'
            ),
        )
    for name in ("identity", "client_crl"):
        if getattr(listener, name) not in ("none", "") and not asks and not listener.client_ca:
            yield name, 'no client is asked for a certificate. Set client_ca and client_certificate = "required".'
    for server in listener.sni:
        if server.lower() != server or not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", server):
            yield "sni", f'"{server}" is not a server\'s name in lower case. Write for example "mqtt.example.org".'


def _proxy(listener: Listener) -> _Named:
    proxied = listener.proxy_protocol == "required"
    if listener.proxy_networks and not proxied:
        yield "proxy_networks", 'proxy_protocol is "off", so nothing looks at it. Set proxy_protocol = "required".'
    if proxied and not listener.proxy_networks and listener.type != "unix":
        yield (
            "proxy_networks",
            (
                'proxy_protocol = "required" needs it: else anybody could claim any address. Name the load balancers\' networks.'
            ),
        )
    for network in listener.proxy_networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            yield "proxy_networks", f"{error}. Write for example 10.0.0.0/8 or 10.1.2.3."
