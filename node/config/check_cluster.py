"""The checks of [cluster] and [interconnect]: what other hosts are told has to lead to this one. Yields (key, sentence); looks at
no file."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import suppress

from mesh.membership import is_address, is_name
from node.config.binds import check_host, split_bind
from node.config.keys import Config
from node.config.places import Key, dotted

PORTS_ABOVE = 4  # of the interconnect's that the host uses, too: docs/operating.md has the table
_EXAMPLE = 'Write for example "10.9.0.1:7001"'


def check_cluster(config: Config) -> Iterator[tuple[Key, str]]:
    cluster, bind, advertise = config.cluster, config.interconnect.bind, config.interconnect.advertise
    if not is_name(cluster.name):
        yield (
            ("cluster", "name"),
            (
                f'"{cluster.name}" cannot name a cluster: 1 to 63 letters, digits, ".", "_" and "-", the first and the last a '
                "letter or a digit."
            ),
        )
    if cluster.ack_policy == "strict" and not bind:
        yield (
            ("cluster", "ack_policy"),
            (
                '"strict" waits for a copy on another host, but this one is alone: nothing would be acknowledged. '
                "Set interconnect.bind, or delete the key."
            ),
        )
    if advertise and not bind:
        yield ("interconnect", "advertise"), "no other host reaches this one without interconnect.bind. Set it, too."
    for name, address in (("bind", bind), ("advertise", advertise)):
        if address and (trouble := _trouble(address, is_told=name == "advertise" or not advertise)):
            yield ("interconnect", name), trouble
            return
    if bind:
        yield from _taken(config)


def _trouble(address: str, *, is_told: bool) -> str:
    """`is_told`: others are to find this host there."""
    try:
        host, port = split_bind(address)
        check_host(host)
    except ValueError:
        return f'"{address}" is not ADDRESS:PORT or [IPV6]:PORT. {_EXAMPLE}.'
    if not 0 < port <= 65535 - PORTS_ABOVE:
        return f'"{address}": the {PORTS_ABOVE} ports above it are used, too, so it is 1 to {65535 - PORTS_ABOVE}. {_EXAMPLE}.'
    if is_told and (_is_any(host) or not is_address(address)):
        return (
            f'"{address}" leads other hosts nowhere. Write the address of this host on the network of the cluster, or set '
            "interconnect.advertise to the address by which the others reach this one."
        )
    return ""


def _is_any(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return not host


def _taken(config: Config) -> Iterator[tuple[Key, str]]:
    """Others that want one of its ports."""
    own, first = split_bind(config.interconnect.bind)
    binds: list[tuple[Key, str]] = [
        (("admin", "bind"), config.admin.bind),
        (("admin", "health_bind"), config.admin.health_bind),
    ]
    binds += [(("listeners", n, "bind"), each.bind) for n, each in enumerate(config.listeners) if each.type != "unix"]
    for key, bind in binds:
        with suppress(ValueError):  # told elsewhere
            host, port = split_bind(bind)
            if first <= port <= first + PORTS_ABOVE and (host == own or _is_any(host) or _is_any(own)):
                yield (
                    ("interconnect", "bind"),
                    (
                        f'"{config.interconnect.bind}": ports {first} to {first + PORTS_ABOVE} are for other hosts, and '
                        f'{dotted(key)} is "{bind}". Choose another one.'
                    ),
                )
