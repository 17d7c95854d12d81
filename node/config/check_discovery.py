"""The checks of [discovery]: each method has what it needs. Yields (key, sentence); looks at no file."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from node.config.binds import check_host, split_bind
from node.config.keys import Config, Discovery
from node.config.places import Key

_NEEDS = {  # method: (key, what to write there)
    "static": ("hosts", 'hosts = ["10.9.0.1:7001", "10.9.0.2:7001"], the interconnect.bind of each host'),
    "beacon": ("secret_file", "secret_file: beacons are signed with it. Make one: mqnode cluster secret create FILE"),
    "dns": ("dns_name", 'dns_name = "mqnode.example.org", or "_mqnode._tcp.example.org" for SRV records'),
    "etcd": ("etcd", 'etcd = ["http://10.9.0.5:2379"], the URLs of its endpoints'),
    "folder": ("folder", 'folder = "/srv/mqnode", which all hosts mount'),
    "s3": ("s3_url", 's3_url = "https://s3.example.org/BUCKET/PREFIX"'),
}


def check_discovery(config: Config) -> Iterator[tuple[Key, str]]:
    for name, text in _faults(config):
        yield ("discovery", name), text


def _faults(config: Config) -> Iterator[tuple[str, str]]:
    discovery = config.discovery
    if discovery.method == "none":
        if discovery.secret_file:
            yield "secret_file", 'method is "none": nobody is looked for, so it has no use. Set method, or delete it.'
        return
    if not config.interconnect.bind:
        yield "method", "this host has no interconnect, so it cannot be found nor join. Set interconnect.bind."
    if discovery.method == "beacon" and config.interconnect.bind.startswith("["):
        yield (
            "method",
            'beacons are IPv4, and interconnect.bind is not. Choose another one: "static" needs nothing of the network.',
        )
    key, example = _NEEDS[discovery.method]
    if not getattr(discovery, key):
        yield key, f'method = "{discovery.method}" needs it. Write {example}.'
    if discovery.method == "s3" and not discovery.s3_credentials_file:
        yield "s3_credentials_file", 'method = "s3" needs it. Name a file as ~/.aws/credentials.'
    yield from _addresses(discovery)
    yield from _urls(discovery)


def _addresses(discovery: Discovery) -> Iterator[tuple[str, str]]:
    for key, addresses in (("hosts", discovery.hosts), ("dns_servers", discovery.dns_servers)):
        for each in addresses:
            try:
                host, port = split_bind(each)
                check_host(host)
            except ValueError as error:
                yield key, str(error)
                continue
            if not host or not port:
                yield key, f'"{each}" is not where a host can be reached. Write HOST:PORT.'
    try:
        group = ipaddress.IPv4Address(split_bind(discovery.multicast)[0])
    except ValueError:
        group = None
    if group is None or not group.is_multicast:
        yield (
            "multicast",
            f'"{discovery.multicast}" is no IPv4 multicast group. Write for example "239.192.77.81:7000".',
        )


def _urls(discovery: Discovery) -> Iterator[tuple[str, str]]:
    for key, urls in (("etcd", discovery.etcd), ("s3_url", (discovery.s3_url,) if discovery.s3_url else ())):
        for each in urls:
            url = urlsplit(each)
            if url.scheme not in ("http", "https") or not url.netloc or url.username or url.query:
                yield key, f'"{each}" is no URL as http://HOST:PORT or https://HOST:PORT, without a password in it.'
            elif key == "s3_url" and not url.path.strip("/"):
                yield key, f'"{each}" names no bucket. Write https://ENDPOINT/BUCKET/PREFIX.'
    if not discovery.etcd_prefix.strip("/"):
        yield "etcd_prefix", "it is empty: all keys of etcd would be looked at. Write for example /mqnode."
