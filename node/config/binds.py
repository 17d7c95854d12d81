"""Addresses as the configuration writes them: ADDRESS:PORT and [IPV6]:PORT."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache


def _examples(port: str = "1883") -> str:
    return f'Write for example "0.0.0.0:{port}" or "[::]:{port}"'


def split_bind(bind: str) -> tuple[str, int]:
    """Host and port of `bind`; the host is empty for all addresses. Raises ValueError, whose text is a sentence."""
    host, colon, port = bind.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or (":" in host and not bracketed):
        alone = port if not host and port.isascii() and port.isdigit() else "1883"
        raise ValueError(f'"{bind}" is not ADDRESS:PORT or [IPV6]:PORT. {_examples(alone)}.')
    if int(port) > 65535:
        raise ValueError(f'"{bind}": there is no port {int(port)}, the highest is 65535. Choose another one.')
    return (host[1:-1] if bracketed else host), int(port)


def check_host(host: str) -> None:
    """Raise ValueError for what can be no address and no name of this host. A name is looked up only at the start."""
    if re.fullmatch(r"[\d.]+", host) or ":" in host:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f'"{host}" is no IP address. {_examples()}.') from None
    elif host and not re.fullmatch(r"(?=[A-Za-z0-9])[\w-]{1,63}(\.[\w-]{1,63})*(?<=[A-Za-z0-9])", host, re.ASCII):
        raise ValueError(f'"{host}" is neither an IP address nor a host\'s name. {_examples()}.')


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Do only clients of this host reach that address?"""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False  # a name may lead anywhere
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
