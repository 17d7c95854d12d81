"""The other hosts stand in DNS: SRV records of a name that begins with "_", which say host and port; else A and AAAA records.

Whoever runs the zone writes them (Kubernetes and Consul do so by themselves). With A and AAAA the port is that of
interconnect.bind. Some servers have no answer to AAAA, or for one name of several: what they do answer counts.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from mesh.discovery import FOUND_MAX, Found
from node.config import Config
from node.config.binds import split_bind
from node.discovery.board import ANSWER_S, LOOK_S, BoardError

try:
    import dns.exception
    import dns.resolver
except ImportError as error:
    raise BoardError(f'discovery.method = "dns" needs dnspython: {sys.prefix}/bin/pip install "mqnode[dns]"') from error


class Dns:
    def __init__(self, config: Config) -> None:
        self._name = config.discovery.dns_name
        self._port = split_bind(config.interconnect.bind)[1]
        self._resolver = dns.resolver.Resolver(configure=not config.discovery.dns_servers)
        if config.discovery.dns_servers:
            self._resolver.nameservers = [split_bind(each)[0] for each in config.discovery.dns_servers]
            self._resolver.nameserver_ports = dict(split_bind(each) for each in config.discovery.dns_servers)
        self._troubles: list[str] = []  # of one look

    def announce(self, own: Found) -> None:
        pass  # the zone is not ours

    def look(self) -> list[Found]:
        self._troubles = []
        found: list[str] = []
        if self._name.startswith("_"):
            until_s = time.monotonic() + LOOK_S
            for record in self._ask(self._name, "SRV"):
                if len(found) >= FOUND_MAX or time.monotonic() > until_s:
                    break
                found += self._addresses(record.target.to_text(), record.port)
        else:
            found = self._addresses(self._name, self._port)
        if self._troubles and not found:
            raise BoardError(f"DNS: {self._troubles[0]}")
        return [Found(address) for address in found[:FOUND_MAX]]

    def _addresses(self, name: str, port: int) -> list[str]:
        return [f"{each.address}:{port}" for each in self._ask(name, "A")] + [
            f"[{each.address}]:{port}" for each in self._ask(name, "AAAA")
        ]

    def _ask(self, name: str, kind: str) -> list[Any]:
        try:
            return list(self._resolver.resolve(name, kind, search=False, lifetime=ANSWER_S))
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
            return []
        except dns.exception.Timeout as error:  # its text has seconds in it: each time others
            trouble = f"{kind} of {name}: no answer from {', '.join(map(str, self._resolver.nameservers))}"
            if kind != "AAAA":
                raise BoardError(f"DNS: {trouble}") from error
            self._troubles.append(trouble)
        except dns.exception.DNSException as error:
            self._troubles.append(f"{kind} of {name}: {error}")
        return []

    def withdraw(self, own: Found) -> None:
        pass
