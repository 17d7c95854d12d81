"""What a scenario is: a name, a measurement of one broker, and the bars of design/performance.md that its numbers are held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal

from bench.brokers import Subject

Numbers = dict[str, float]


@dataclass(frozen=True)
class Bar:
    """`against` "mosquitto": how many times better we must be; "limit": the number itself must not be worse than `value`."""

    metric: str
    value: float
    against: Literal["mosquitto", "limit"] = "mosquitto"
    better: Literal["less", "more"] = "less"


@dataclass(frozen=True)
class Scenario:
    name: str
    measure: Callable[[Subject, float], Numbers]  # of a broker that was just started, for about so many seconds
    bars: tuple[Bar, ...] = ()
    subjects: tuple[str, ...] = ("mqnode", "mosquitto")
    workers: int = 1
    hosts: int = 1
    times: int = 1  # in each round: more where single measurements differ by more than what the bar leaves


@dataclass(frozen=True)
class Verdict:
    bar: Bar
    ours: float
    theirs: float | None
    factor: float  # how many times better than what the bar compares with
    met: bool


def judge(bar: Bar, rounds: dict[str, list[Numbers]]) -> Verdict | None:
    """None if the numbers for it are missing. Medians of all rounds."""
    values = {
        name: median(numbers[bar.metric] for numbers in each)
        for name, each in rounds.items()
        if each and all(bar.metric in numbers for numbers in each)
    }
    ours, theirs = values.get("mqnode"), values.get("mosquitto")
    other = bar.value if bar.against == "limit" else theirs
    if ours is None or other is None:
        return None
    better, worse = (ours, other) if bar.better == "less" else (other, ours)
    factor = worse / better if better else float("inf")
    return Verdict(bar, ours, theirs, factor, factor >= (1 if bar.against == "limit" else bar.value))
