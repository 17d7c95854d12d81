"""Many clients and many subscriptions: what each costs in memory and CPU, and what they cost the messages of others."""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import replace
from multiprocessing.synchronize import Barrier

from bench.brokers import Subject
from bench.measure import SETTLE_S, Failed, cpu_s, memory_bytes, publish_for, settle
from bench.messages import FAN_OUT, P2P, published
from bench.scenario import Bar, Numbers, Scenario

CONNECTIONS, MANY = 10_000, 48_000
SOURCES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
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


def many_connections(subject: Subject, seconds: float) -> Numbers:
    """As many as 20,000 descriptors a process allow, and 28,000 ports an address: a third each from a process and an address."""
    memory, cpu, start = memory_bytes(subject.pids()), cpu_s(subject.pids()), time.monotonic()
    processes = multiprocessing.get_context("fork")
    barrier = processes.Barrier(len(SOURCES) + 1)
    parts = [processes.Process(target=hold, args=(subject, source, barrier), daemon=True) for source in SOURCES]
    for part in parts:
        part.start()
    try:
        barrier.wait(SETTLE_S)
        took, spent = time.monotonic() - start, cpu_s(subject.pids()) - cpu
        time.sleep(seconds)
        used = memory_bytes(subject.pids()) - memory
        barrier.wait(SETTLE_S)
    except threading.BrokenBarrierError:
        raise Failed(f"not all {MANY} connected within {SETTLE_S:.0f} s") from None
    finally:
        for part in parts:
            part.join(10)
            part.kill()
    return {"connections": MANY, "bytes": used / MANY, "cpu_each": spent / MANY * 1e6, "connects": MANY / took}


def hold(subject: Subject, source: str, barrier: Barrier) -> None:
    """Its part of the connections, from the first meeting to the second."""
    load = subject.load(sources=(source,))
    try:
        load.add(MANY // len(SOURCES), prefix=source)
        settle(load)
    except Failed:
        barrier.abort()
        raise
    barrier.wait()
    barrier.wait()
    load.close()


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
    Scenario("48,000 idle connections", many_connections, (Bar("bytes", 2048, "limit"),), ("mqnode",), workers=3),
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
