"""`python -m bench.demo`: hosts behind HAProxy lose one of them by kill -9 under load; a live view of who is connected where.

Publishers and subscribers with persistent sessions keep a ledger (tests/faults/ledger.py). Each host has a network namespace
where root runs it, else loopback addresses. Exit code 1 when an acknowledged message was lost, doubled or out of order.
"""

from __future__ import annotations

import random
import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.broker import free_port
from tests.cluster.balancer import Balancer
from tests.cluster.hosts import MESH, Host, join, running_hosts
from tests.cluster.loopback import Loopback
from tests.cluster.network import Network, unavailable
from tests.faults.ledger import Ledger

HOSTS = ("h1", "h2")
BEFORE_S, AFTER_S, REFRESH_S = 4.0, 6.0, 0.2


class Demo:
    """What happens, and the view of it."""

    def __init__(self, balancer: Balancer, ledger: Ledger) -> None:
        self.balancer, self.ledger = balancer, ledger
        self.said = [
            f"{len(balancer.hosts)} × mqnode behind HAProxy at {balancer.address}:{balancer.port}",
            f"{len(ledger.publishers)} publishers p…, QoS 1 and 2; {len(ledger.subscribers)} persistent sessions s… get all of it",
        ]
        self.dead: set[str] = set()

    def play(self, live: Live) -> list[str]:
        """The faults of the ledger."""
        self.ledger.start()
        self.watch(live, BEFORE_S)
        victim = max(self.balancer.hosts, key=lambda host: len(clients(host)))
        self.say(f"kill -9 of all processes of {victim.name}")
        for subscriber in self.ledger.subscribers:
            subscriber.gap_s = 0.0
        victim.kill_all()
        self.dead.add(victim.name)
        if len(self.balancer.hosts) > 1:
            self.watch(live, AFTER_S)
            gap_ms = 1000 * max(each.gap_s for each in self.ledger.subscribers)
            self.say(f"its clients are at the others; the longest gap that a subscriber saw was {gap_ms:.0f} ms")
        self.say(f"{victim.name} is started again; clients stay where they are")
        victim.start()
        self.dead.clear()
        self.watch(live, AFTER_S)
        errors = self.ledger.finish()
        self.say(
            "the ledger is at zero: nothing lost, nothing doubled, all in order" if not errors else "\n".join(errors)
        )
        live.update(self.view(), refresh=True)
        return errors

    def say(self, text: str) -> None:
        self.said.append(text)

    def watch(self, live: Live, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            live.update(self.view(), refresh=True)
            time.sleep(REFRESH_S)

    def view(self) -> Group:
        up = self.balancer.up()
        hosts = Table(expand=True)
        for title, ratio in (("host", 1), ("state", 1), ("in HAProxy", 1), ("clients", 3)):  # it stands still
            hosts.add_column(title, ratio=ratio)
        for host in self.balancer.hosts:
            dead = host.name in self.dead
            state = Text("killed", "bold red") if dead else Text("runs", "green")
            hosts.add_row(host.name, state, "yes" if host.name in up else "no", " ".join([] if dead else clients(host)))
        sent = [each.acked for each in self.ledger.publishers]
        subscribers = self.ledger.subscribers
        missing = sum(
            len(each.acked.difference(subscriber.seen.get(each.name, ())))
            for each in self.ledger.publishers
            for subscriber in subscribers
        )
        numbers = Table("acknowledged", "delivered", "still under way", "longest gap", expand=True)
        delivered = sum(len(seen) for subscriber in subscribers for seen in list(subscriber.seen.values()))
        gap_ms = 1000 * max(each.gap_s for each in subscribers)
        numbers.add_row(str(sum(map(len, sent))), str(delivered), str(missing), f"{gap_ms:.0f} ms")
        return Group(hosts, numbers, *self.said)


def clients(host: Host) -> list[str]:
    """Who is connected to it."""
    status, answer = host.get("/v1/clients")
    return sorted(each["client_id"] for each in answer) if status == 200 else []


def main() -> int:
    console = Console()
    console.print("starting …")
    network = Loopback(*HOSTS) if unavailable() else Network(*HOSTS)
    with network, running_hosts(network, interconnect=MESH) as hosts, Balancer(hosts, port=free_port()) as balancer:
        join(*hosts)
        demo = Demo(balancer, Ledger(balancer.client, random.randrange(1 << 32), rate=20, fickle=0))
        with Live(demo.view(), console=console, auto_refresh=False) as live:
            return bool(demo.play(live))


if __name__ == "__main__":
    sys.exit(main())
