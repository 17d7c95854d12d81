"""Addresses of the interconnect, as ZeroMQ takes them."""

from __future__ import annotations

import ipaddress

from gevent.socket import AF_INET, AF_INET6, AF_UNSPEC, SOCK_STREAM, getaddrinfo


def source(bind: str) -> str:
    """Connections leave from the interconnect's address, too, so that its network carries all of them."""
    host = bind.rpartition(":")[0]
    return f"{host}:0;" if _is_ip(host) and not ipaddress.ip_address(host.strip("[]")).is_unspecified else ""


def resolve(address: str, source: str) -> str:
    """As an IP address that the source can reach: ZeroMQ would look a name up in the thread that serves all peers. Raises OSError,
    UnicodeError."""
    host, _, port = address.rpartition(":")
    if _is_ip(host) and (not source or ("[" in host) == ("[" in source)):
        return address  # that waits for no lookup
    family = AF_UNSPEC if not source else AF_INET6 if "[" in source else AF_INET
    found = getaddrinfo(host.strip("[]"), int(port), family, SOCK_STREAM)[0][4][0]
    return f"[{found}]:{port}" if ":" in str(found) else f"{found}:{port}"


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
