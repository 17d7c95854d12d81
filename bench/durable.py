"""What is on disk before it is acknowledged: messages of persistent sessions, queues of those who are away, retained messages."""

from __future__ import annotations

import time

from bench.brokers import ROOT, Mqnode, Subject
from bench.measure import Failed, cpu_s, fdatasync_s, memory_bytes, publish_for, settle
from bench.messages import PAIRS, published
from bench.scenario import Bar, Numbers, Scenario

SESSIONS, QUEUED_EACH = 100, 1000
RETAINERS, RETAINED_EACH = 1000, 100
RATE = 2000


def persistent_sessions(subject: Subject, seconds: float) -> Numbers:
    """Connected all the time; as fast as it goes, then at a low rate for the latency of an acknowledgement.

    The disk's fdatasync drifts tenfold within minutes, so it is measured before and after, and p99 compared with p99.
    """
    numbers = persistent_pairs(subject, seconds, 0)
    before = fdatasync_s(ROOT / "bench")
    slow = persistent_pairs(subject, seconds, RATE)
    after = fdatasync_s(ROOT / "bench")
    p50, p99 = ((first + second) / 2 for first, second in zip(before, after, strict=True))
    return {
        "rate": numbers["rate"],
        "cpu": numbers["cpu"],
        "ack_p50": slow["ack_p50"],
        "ack_p99": slow["ack_p99"],
        "fdatasync_p50": p50 * 1e6,
        "fdatasync_p99": p99 * 1e6,
        "ack_fsyncs": slow["ack_p99"] / 1e6 / p99,
    }


def persistent_pairs(subject: Subject, seconds: float, rate: float) -> Numbers:
    load = subject.load()
    load.add(16, prefix="durable", clean=False, subscribe="durable/{i}", qos=1)
    load.add(16, prefix="p", publish="durable/{i}", qos=1, window=250, fanout=1, rate=rate)
    settle(load)
    numbers = published(load, subject, seconds)
    load.close()
    if numbers["missing"] or numbers["duplicates"]:
        raise Failed(f"a persistent session lost messages or got them twice: {numbers}")
    latency = load.histogram("acknowledgement")
    return numbers | {"ack_p50": latency["p50"] / 1000, "ack_p99": latency["p99"] / 1000}


def queue_up(subject: Subject) -> Numbers:
    """Messages for sessions that are away."""
    away = subject.load()
    away.add(SESSIONS, prefix="away", clean=False, subscribe="away/{i}", qos=1)
    settle(away)
    away.close()
    load = subject.load()
    load.add(SESSIONS, prefix="p", publish="away/{i}", qos=1, window=100, messages=QUEUED_EACH)
    settle(load)
    before = cpu_s(subject.pids())
    publish_for(load, 60)
    stats = load.stats()
    load.close()
    if stats["acknowledged"] != SESSIONS * QUEUED_EACH:
        raise Failed(f"not all was acknowledged: {stats}")
    return {"queue_rate": stats["acknowledged"] / stats["seconds"], "cpu": (cpu_s(subject.pids()) - before) * 10}


def come_back(subject: Subject) -> Numbers:
    """All sessions at once, until nothing comes any more."""
    load = subject.load()
    load.add(SESSIONS, prefix="away", clean=False)
    settle(load)
    stats = load.stats()
    quiet = time.monotonic() + 3
    while stats["received"] < SESSIONS * QUEUED_EACH and time.monotonic() < quiet:
        load.step(10)
        if stats["received"] != (stats := load.stats())["received"]:
            quiet = time.monotonic() + 3
    load.close()
    alive = stats["received"] - stats["duplicates"]
    return {"drain_rate": stats["received"] / max(stats["seconds"], 1e-9), "alive": alive}


def queues(subject: Subject, seconds: float) -> Numbers:
    numbers = queue_up(subject) | come_back(subject)
    if numbers["alive"] != SESSIONS * QUEUED_EACH:
        raise Failed(f"not all that was acknowledged came: {numbers}")
    return numbers


def queues_killed(subject: Subject, seconds: float) -> Numbers:
    """kill -9 of all its processes right after the last PUBACK."""
    queue_up(subject)
    subject.crash()
    return {"alive": come_back(subject)["alive"]}


def retained(subject: Subject, seconds: float) -> Numbers:
    load = subject.load()
    load.add(RETAINERS, prefix="p", publish="retained/{i}/{n}", qos=1, retain=True, window=10, messages=RETAINED_EACH)
    settle(load)
    memory = memory_bytes(subject.pids())
    publish_for(load, 60)
    used, stats = memory_bytes(subject.pids()) - memory, load.stats()
    load.close()
    count = RETAINERS * RETAINED_EACH
    reader = subject.load()
    reader.add(1, prefix="s", subscribe="retained/#", qos=0)
    deadline = time.monotonic() + 30
    while (came := reader.stats())["received"] < count and time.monotonic() < deadline:
        reader.step(10)
    reader.close()
    return {
        "set_rate": stats["acknowledged"] / stats["seconds"],
        "replay_rate": came["received"] / max(came["seconds"], 1e-9),
        "replayed": came["received"] - came["duplicates"],
        "bytes": used / count,
    }


def two_workers(subject: Subject, seconds: float) -> Numbers:
    """What two workers could do at 100 % against what one could: twice the CPU of a message with one worker by that with two.

    The clients, their number and windows are the same; the kernel spreads them, so that about half of the messages cross.
    Not by rates: the load takes one of two cores, so two workers never have one each.
    """
    assert isinstance(subject, Mqnode)
    one = Mqnode(subject.data.parent)
    try:
        one.start()
        single = PAIRS.measure(one, seconds)
    finally:
        one.close()
    double = PAIRS.measure(subject, seconds)
    return {"scale": 2 * single["cpu"] / double["cpu"], "cpu": double["cpu"], "rate": double["rate"]}


SCENARIOS = (
    Scenario(
        "persistent sessions, QoS 1",
        persistent_sessions,
        (Bar("rate", 50_000, "limit", "more"), Bar("ack_fsyncs", 4, "limit")),
    ),
    Scenario(
        "100,000 messages for 100 who are away",
        queues,
        (Bar("queue_rate", 50_000, "limit", "more"), Bar("drain_rate", 500_000, "limit", "more")),
    ),
    Scenario("the same, kill -9, start", queues_killed, (Bar("alive", SESSIONS * QUEUED_EACH, "limit", "more"),)),
    Scenario(
        "100,000 retained messages",
        retained,
        (
            Bar("set_rate", 50_000, "limit", "more"),
            Bar("replay_rate", 800_000, "limit", "more"),
            Bar("replayed", RETAINERS * RETAINED_EACH, "limit", "more"),
            Bar("bytes", 1),
        ),
    ),
    # Three times: how many of the 16 pairs the kernel gives to one worker is chance.
    Scenario("two workers", two_workers, (Bar("scale", 1.7, "limit", "more"),), ("mqnode",), workers=2, times=3),
)
