"""The clients of this host, and how they are sent to others."""

from __future__ import annotations

from node import counters
from node.admin.host import Host

USE_ANOTHER_SERVER, SERVER_MOVED = 0x9C, 0x9D


def connected(host: Host) -> list[int]:
    """To each worker."""
    return [host.counters.slot(counters.WORKER_0 + i)[counters.INDEX["clients_connected"]] for i in range(host.workers)]


def send_away(host: Host, count: int, reason: int) -> int:
    """So many, the same part of each worker's; how many there were. Raises LinkError if a process does not answer."""
    here = connected(host)
    everybody, there = sum(here), 0
    references = host.ask_interconnect("references") if host.config.interconnect.bind else {}
    for index, clients in enumerate(here):
        some = -(-count * clients // everybody) if everybody else count
        count, everybody = count - some, everybody - clients
        there += host.ask_worker(index, "move", count=some, references=references, reason=reason)
    return there
