"""Many clients and many subscriptions: what each costs in memory and CPU, and what they cost the messages of others."""

from __future__ import annotations

import time
from dataclasses import replace

from bench.brokers import Subject
from bench.measure import cpu_s, memory_bytes, publish_for, settle
from bench.messages import FAN_OUT, P2P, published
from bench.scenario import Bar, Numbers, Scenario

CONNECTIONS = 10_000
STORM = 3000  # below the kernel's own bound, net.core.somaxconn
SUBSCRIBERS, FILTERS_EACH = 100, 10_000


def idle_connections(subject: Subject, seconds: float) -> Numbers:
    """Opened 64 at a time, then left alone."""
    memory, cpu, start = memory_bytes(subject.pids()), cpu_s(subject.pids()), time.monotonic()
    load = subject.load()
    load.add(CONNECTIONS)
    settle(load)
    took, spent = time.monotonic() - start, cpu_s(subject.pids()) - cpu
    load.step(seconds * 1000)
    used = memory_bytes(subject.pids()) - memory
    load.close()
    return {
        "bytes": used / CONNECTIONS,
        "cpu_each": spent / CONNECTIONS * 1e6,
        "connects": CONNECTIONS / took,
    }


def storm(subject: Subject, seconds: float) -> Numbers:
    """All at once: where the backlog is too short, the kernel lets them wait for a second."""
    load = subject.load(burst=STORM)
    load.add(STORM)
    settle(load)
    latency = load.histogram("connection")
    load.close()
    return {"connect_p50": latency["p50"] / 1e6, "connect_max": latency["max"] / 1e6}


def subscriptions(subject: Subject, seconds: float) -> Numbers:
    """A million filters; then messages that match one of a few others, as fast as before."""
    before = P2P.measure(subject, seconds)
    memory, start = memory_bytes(subject.pids()), time.monotonic()
    load = subject.load()
    load.add(SUBSCRIBERS, prefix="many", subscribe="many/{i}/{n}", filters=FILTERS_EACH)
    settle(load)
    took, count = time.monotonic() - start, SUBSCRIBERS * FILTERS_EACH
    used = memory_bytes(subject.pids()) - memory
    after, new = P2P.measure(subject, seconds), new_topics(subject, seconds)
    load.close()
    return {
        "bytes": used / count,
        "subscribes": count / took,
        "kept": before["cpu"] / after["cpu"],
        "new_topic_cpu": new["cpu"],
        "new_topic_p99": new["p99"],
    }


def new_topics(subject: Subject, seconds: float) -> Numbers:
    """Every message to a topic that was never published to."""
    load = subject.load()
    load.add(1, prefix="s", subscribe="new/#")
    load.add(1, prefix="p", publish="new/{n}", window=100, fanout=1)
    settle(load)
    numbers = published(load, subject, seconds)
    load.close()
    return numbers


def many_filters(subject: Subject, seconds: float) -> Numbers:
    """One client with 10,000 filters; each of ten publishers sends to every one of them once."""
    load = subject.load()
    load.add(1, prefix="s", subscribe="many/{n}", filters=FILTERS_EACH)
    load.add(10, prefix="p", publish="many/{n}", window=100, fanout=1, messages=FILTERS_EACH)
    settle(load)
    numbers = published(load, subject, 60)
    load.close()
    return {"cpu": numbers["cpu"], "rate": numbers["rate"]}


def after_others_left(subject: Subject, seconds: float) -> Numbers:
    """A topic that 500 had subscribed to, used by one again."""
    alone = replace(P2P, topic=FAN_OUT.topic)
    before = alone.measure(subject, seconds)
    load = subject.load()
    subscribers = load.add(500, prefix="left", subscribe=FAN_OUT.topic)
    load.add(1, prefix="p", publish=FAN_OUT.topic, window=10, fanout=500)
    settle(load)
    publish_for(load, 0.5)
    load.disconnect(subscribers)
    load.close()
    return {"kept": before["cpu"] / alone.measure(subject, seconds)["cpu"]}


SCENARIOS = (
    Scenario(
        "10,000 idle connections",
        idle_connections,
        (
            Bar("bytes", 1),
            Bar("bytes", 2048, "limit"),
            Bar("cpu_each", 40, "limit"),
            Bar("connects", 20_000, "limit", "more"),
        ),
    ),
    Scenario("3,000 connects at once", storm, (Bar("connect_max", 1000, "limit"),)),
    Scenario(
        "1M subscriptions",
        subscriptions,
        (
            Bar("bytes", 1),
            Bar("bytes", 400, "limit"),
            Bar("subscribes", 250_000, "limit", "more"),
            Bar("kept", 0.8, "limit", "more"),
        ),
    ),
    Scenario("10,000 filters of one client", many_filters, (Bar("cpu", 1),)),
    Scenario("p2p after 500 left the topic", after_others_left, (Bar("kept", 0.9, "limit", "more"),)),
)
