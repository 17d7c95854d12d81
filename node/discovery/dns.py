"""The other hosts stand in DNS: SRV records of a name that begins with "_", which say host and port; else A and AAAA records.

Whoever runs the zone writes them (Kubernetes and Consul do so by themselves). With A and AAAA the port is that of
interconnect.bind.
"""

from __future__ import annotations

from typing import Any

from mesh.discovery import FOUND_MAX, Found
from node.config import Config
from node.config.binds import split_bind
from node.discovery.board import ANSWER_S, BoardError

try:
    import dns.exception
    import dns.resolver
except ImportError as error:
    raise BoardError('discovery.method = "dns" needs dnspython: pip install "mqnode[dns]"') from error


class Dns:
    def __init__(self, config: Config) -> None:
        self._name = config.discovery.dns_name
        self._port = split_bind(config.interconnect.bind)[1]
        self._resolver = dns.resolver.Resolver(configure=not config.discovery.dns_servers)
        if config.discovery.dns_servers:
            self._resolver.nameservers = [split_bind(each)[0] for each in config.discovery.dns_servers]
            self._resolver.nameserver_ports = dict(split_bind(each) for each in config.discovery.dns_servers)

    def announce(self, own: Found) -> None:
        pass  # the zone is not ours

    def look(self) -> list[Found]:
        if not self._name.startswith("_"):
            return [Found(address) for address in self._addresses(self._name, self._port)]
        found: list[Found] = []
        for record in self._ask(self._name, "SRV")[:FOUND_MAX]:
            found += [Found(address) for address in self._addresses(record.target.to_text(), record.port)]
        return found

    def _addresses(self, name: str, port: int) -> list[str]:
        return [f"{each.address}:{port}" for each in self._ask(name, "A")] + [
            f"[{each.address}]:{port}" for each in self._ask(name, "AAAA")
        ]

    def _ask(self, name: str, kind: str) -> list[Any]:
        try:
            return list(self._resolver.resolve(name, kind, search=False, lifetime=ANSWER_S))
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
            return []
        except dns.exception.DNSException as error:
            raise BoardError(f"DNS: {kind} of {name}: {error}") from error

    def withdraw(self, own: Found) -> None:
        pass
