"""Messages from publishers to connected subscribers, as fast as both ends take them, and at a low rate."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.brokers import Subject
from bench.measure import cpu_s, publish_for, settle
from bench.scenario import Bar, Numbers, Scenario
from node.core.load import Load


@dataclass(frozen=True)
class Work:
    """A closed loop: each publisher has `window` messages under way, each message goes to `fanout` subscribers."""

    subscribers: int = 1
    publishers: int = 1
    topic: str = "bench/{i}"
    qos: int = 0
    size: int = 64
    window: int = 1000
    fanout: int = 1
    rate: float = 0  # messages a second; 0: as fast as the windows allow

    def measure(self, subject: Subject, seconds: float, to: tuple[str, int] | None = None) -> Numbers:
        """`to`: where the subscribers are, if that is another host."""
        load = subject.load()
        load.add(self.subscribers, prefix="s", subscribe=self.topic, qos=self.qos, at=to)
        load.add(
            self.publishers, prefix="p", publish=self.topic, qos=self.qos, size=self.size, window=self.window,
            fanout=self.fanout, rate=self.rate,
        )  # fmt: skip
        settle(load)
        numbers = published(load, subject, seconds)
        load.close()
        if self.window > 1 and not self.rate:  # full queues: their latency says how long they are, not how fast we are
            del numbers["p50"], numbers["p99"]
        return numbers


def published(load: Load, subject: Subject, seconds: float) -> Numbers:
    """CPU-seconds of the broker for a million messages delivered, the rate, latencies in microseconds."""
    before, received = cpu_s(subject.pids()), load.stats()["received"]
    publish_for(load, seconds)
    spent, stats, delivery = cpu_s(subject.pids()) - before, load.stats(), load.histogram("delivery")
    received = stats["received"] - received
    return {
        "cpu": spent / max(received, 1) * 1e6,
        "rate": received / max(stats["seconds"], 1e-9),
        "p50": delivery["p50"] / 1000,
        "p99": delivery["p99"] / 1000,
        "missing": stats["missing"],
        "duplicates": stats["duplicates"],
        "reordered": stats["reordered"],
    }


P2P = Work()
PAIRS = Work(16, 16, window=250)
FAN_OUT = Work(500, 1, topic="bench/all", window=50, fanout=500)
FAN_IN = Work(1, 500, topic="bench/all", window=100)

SCENARIOS = (
    Scenario("p2p, QoS 0", P2P.measure, (Bar("cpu", 10),), ("mqnode", "mosquitto", "amqtt", "aedes")),
    Scenario("16→16, QoS 0", PAIRS.measure, (Bar("cpu", 10),)),
    Scenario("p2p, QoS 0, 1 KiB", replace(P2P, size=1024).measure, (Bar("cpu", 8),)),
    Scenario("p2p, QoS 1", replace(P2P, qos=1).measure, (Bar("cpu", 8),), ("mqnode", "mosquitto", "amqtt", "aedes")),
    Scenario("16→16, QoS 1", replace(PAIRS, qos=1).measure, (Bar("cpu", 8),)),
    Scenario("p2p, QoS 2", replace(P2P, qos=2).measure, (Bar("cpu", 8),)),
    Scenario("fan-out 1→500", FAN_OUT.measure, (Bar("cpu", 6),)),
    Scenario("fan-in 500→1", FAN_IN.measure, (Bar("cpu", 6),)),
    Scenario("ping-pong", replace(P2P, window=1).measure, (Bar("cpu", 1.2), Bar("p99", 1)), times=3),
    Scenario("2,000 msg/s", replace(P2P, rate=2000).measure, (Bar("cpu", 1.2), Bar("p99", 1)), times=3),
)
