"""Tables of what was measured: for people, and as docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median

from bench.scenario import Bar, Numbers, Scenario, Verdict, judge

FAILURE_LENGTH = 100  # all of it is in the JSON
HEAD = ("scenario", "metric", "mqnode", "mosquitto", "factor", "bar", "")
UNITS = {
    "cpu": "CPU-s per million",
    "rate": "a second",
    "p50": "p50 µs",
    "p99": "p99 µs",
    "bytes": "bytes of memory each",
    "cpu_each": "CPU µs each",
    "connections": "connections",
    "connects": "connects a second",
    "connect_p50": "CONNACK p50 ms",
    "connect_max": "CONNACK max ms",
    "subscribes": "subscribes a second",
    "kept": "× of the rate before, per CPU",
    "new_topic_cpu": "new topics: CPU-s per million",
    "new_topic_p99": "new topics: p99 µs",
    "ack_p50": "PUBACK p50 µs",
    "ack_p99": "PUBACK p99 µs",
    "ack_fsyncs": "PUBACK p99 in fdatasync p99",
    "fdatasync_p50": "fdatasync p50 µs",
    "fdatasync_p99": "fdatasync p99 µs",
    "queue_rate": "queued a second",
    "drain_rate": "drained a second",
    "alive": "messages alive",
    "set_rate": "set a second",
    "replay_rate": "replayed a second",
    "replayed": "messages replayed",
    "scale": "× of one worker, per CPU",
    "kept_first": "× of the rate before, per CPU of the first host",
    "kept_rate": "× of the rate before, on the same CPUs",
    "cpu_first": "CPU-s of the first host per million",
    "join_2": "second host in sync after s",
    "wire_2": "bytes to the second host for a session",
    "join_3": "third host in sync after s",
    "wire_3": "bytes to the third host for a session",
    "join_4": "fourth host in sync after s",
    "wire_4": "bytes to the fourth host for a session",
    "join_5": "fifth host in sync after s",
    "wire_5": "bytes to the fifth host for a session",
    "join_6": "sixth host in sync after s",
    "wire_6": "bytes to the sixth host for a session",
    "join_7": "seventh host in sync after s",
    "wire_7": "bytes to the seventh host for a session",
    "failover_p50": "first delivery p50 ms",
    "failover_max": "first delivery max ms",
    "connack_p50": "CONNACK p50 ms",
    "connack_max": "CONNACK max ms",
    "storm": "all CONNACKs ms after kill -9",
    "connect_p99": "CONNACK p99 ms",
    "command_p50": "a call p50 ms",
    "command_max": "a call max ms",
    "command_cpu": "CPU ms of a call",
    "session_memory": "bytes of its keeper for a session",
}
OPENING = """# Benchmarks

Written by `make bench ARGS=--write`. Each scenario runs with mqnode (one worker unless it says otherwise) and with
mosquitto in turn, {rounds} rounds (ping-pong, 2,000 msg/s and two workers, which differ most from run to run, three times in
each), the load in a process beside them on the same machine; the numbers are medians.
Factor: how many times better than mosquitto, or than the bar where that is a number.
CPU is that of all processes of the broker, for a million messages delivered; memory is without the pages of files, which
the kernel can take back. On a busy machine the factors are steadier than the rates. Where there are several hosts, they share
this machine: a rate with two of them is what half of it gives.

Machine: {machine}. Date: {date}.
"""


@dataclass
class Outcome:
    scenario: Scenario
    rounds: dict[str, list[Numbers]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def verdicts(self) -> Iterator[Verdict | None]:
        return (judge(bar, self.rounds) for bar in self.scenario.bars)

    def medians(self) -> dict[str, Numbers]:
        return {
            name: {key: median(numbers[key] for numbers in each) for key in each[0]}
            for name, each in self.rounds.items()
            if each
        }


def rows(outcome: Outcome) -> Iterator[tuple[str, ...]]:
    name = outcome.scenario.name
    for bar, verdict in zip(outcome.scenario.bars, outcome.verdicts(), strict=True):
        if verdict is None:
            yield name, UNITS.get(bar.metric, bar.metric), "", "", "", _bar(bar), "not measured"
            continue
        theirs = "" if verdict.theirs is None else number(verdict.theirs)
        met = "" if verdict.met else "MISSED"
        yield (
            name,
            UNITS.get(bar.metric, bar.metric),
            number(verdict.ours),
            theirs,
            number(verdict.factor),
            _bar(bar),
            met,
        )
    medians = outcome.medians()
    barred = {bar.metric for bar in outcome.scenario.bars}
    for metric in medians.get("mqnode", {}):
        values = {each: numbers[metric] for each, numbers in medians.items() if metric in numbers}
        if metric not in barred and any(values.values()):
            theirs = number(values["mosquitto"]) if "mosquitto" in values else ""
            yield name, UNITS.get(metric, metric), number(values["mqnode"]), theirs, "", "", ""
    for other in set(medians) - {"mqnode", "mosquitto"}:
        values = medians[other]
        text = ", ".join(
            f"{number(value)} {UNITS.get(key, key)}" for key, value in values.items() if key in barred | {"rate"}
        )
        yield name, f"{other}: {text}", "", "", "", "", ""
    for failure in outcome.failures:
        yield name, " ".join(failure.split())[:FAILURE_LENGTH], "", "", "", "", "FAILED"


def _bar(bar: Bar) -> str:
    if bar.against == "mosquitto":
        return f"≥ {number(bar.value)} ×"
    return f"{'≤' if bar.better == 'less' else '≥'} {number(bar.value)}"


def number(value: float) -> str:
    """Three digits that matter."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(outcomes: list[Outcome]) -> str:
    lines = [HEAD, tuple("---" for _ in HEAD), *(row for outcome in outcomes for row in rows(outcome))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return f"{os.cpu_count()} × {model}, Linux {'.'.join(platform.release().split('.')[:2])}, Python {platform.python_version()}"


def document(outcomes: list[Outcome], rounds: int) -> str:
    head = OPENING.format(rounds=rounds, machine=machine(), date=date.today().isoformat())
    return f"{head}\n{table(outcomes)}\n"
