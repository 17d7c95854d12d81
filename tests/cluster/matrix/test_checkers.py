"""Each checker passes a history that keeps its rule, and fails one that breaks it: a matrix that cannot fail shows nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.matrix import checkers as check
from tests.cluster.matrix.history import Event, History, Sample, Window

Rows = list[tuple[float, str, str, Any]]
CHURN = [(1.0, "churn", "subscribed", "t"), (2.0, "churn", "acked", ("t", "heard", "h1", 1.5))]
PROBED: Rows = [
    (1.0, "rules-h1", "answered", ("p1", True, 0)),
    (1.1, "rules-reader", "got", "p1"),
    (2.0, "rules-h1", "answered", ("p2", False, 0x87)),
]
PUBLISHED: Rows = [(number, "flow-p", kind, number) for number in (1, 2) for kind in ("sent", "acked")]


def arrived(*sequences: int) -> Rows:
    return [(10.0 + at, "s", "got", ("flow-p", sequence)) for at, sequence in enumerate(sequences)]


def pings(*answers: tuple[float, str, int]) -> Rows:
    """When it was asked, by whom, over which connection."""
    return [(at + 0.1, f"fight-{who}", "alive", (connection, at)) for at, who, connection in answers] + [
        (99.0, "fight", "read", True)
    ]


def history(rows: Rows, *, window: Window | None = None) -> History:
    made = History()
    made.events = [Event(at, who, kind, what, "h1") for at, who, kind, what in sorted(rows, key=lambda row: row[0])]
    made.windows = [window] if window else []
    return made


CASES: list[tuple[Callable[[History], list[str]], Rows, Rows]] = [
    (lambda h: check.c1_nothing_is_lost(h, "flow-p", "s"), PUBLISHED + arrived(1, 2), PUBLISHED + arrived(1)),
    (lambda h: check.c1_nothing_is_lost(h, "flow-p", "s"), PUBLISHED + arrived(1, 2), []),
    (lambda h: check.c2_nothing_is_invented(h, "flow-p", "s"), PUBLISHED + arrived(1, 2), PUBLISHED + arrived(1, -1)),
    (lambda h: check.c3_once(h, "flow-p", "s"), arrived(1, 2), arrived(1, 2, 1)),
    (lambda h: check.c4_in_order(h, "flow-p", "s"), arrived(1, 2, 1), arrived(2, 1)),
    (
        check.c5_one_owner,
        pings((1, "h1", 1), (2, "h2", 1), (3, "h1", 2)),
        pings((1, "h1", 1), (2, "h2", 1), (3, "h1", 1)),
    ),
    (lambda h: check.c6_sessions_are_there(h, "s"), [], [(1, "s", "failed", "gone")]),
    (
        lambda h: check.c7_registers_agree(h, "r"),
        [(1, "r", "acked", "1"), (2, "r", "sent", "2"), (3, "r", "read", "2")],
        [(1, "r", "acked", "1"), (2, "r", "acked", "2"), (3, "r", "read", "1")],
    ),
    (lambda h: check.c8_no_long_gap(h, "flow-p", 5), PUBLISHED, [*PUBLISHED, (9, "flow-p", "acked", 3)]),
    (
        check.c11_wills_once,
        [(1, "will-mortal", "tried", "m"), (2, "will-mortal", "dies", "m"), (3, "will-mourner", "got", "m")],
        [(1, "will-mortal", "tried", "m"), (2, "will-mortal", "dies", "m")],
    ),
    (
        check.c11_wills_once,
        [(1, "will-mortal", "tried", "m"), (2, "will-mortal", "leaves", "m")],
        [(1, "will-mortal", "tried", "m"), (2, "will-mortal", "leaves", "m"), (3, "will-mourner", "got", "m")],
    ),
    (check.rules_hold, PROBED, [*PROBED, (3, "rules-reader", "got", "p2")]),
    (check.rules_hold, PROBED, PROBED[:2]),
    (check.rules_hold, PROBED, PROBED[1:]),
    (check.rules_hold, PROBED, [*PROBED, (3, "rules-h1", "answered", ("p3", True, 0x87))]),
    (check.rules_hold, PROBED, [*PROBED, (3, "rules-h1", "answered", ("p3", False, 0))]),
    (check.churn_is_exact, [*CHURN, (3, "churn", "got", ("t", "heard"))], CHURN),
    (
        check.churn_is_exact,
        [(1.0, "churn", "subscribed", "t"), (2.0, "churn", "acked", ("t", "ghost", "h1", 1.5))],
        [
            (1.0, "churn", "subscribed", "t"),
            (2.0, "churn", "acked", ("t", "ghost", "h1", 1.5)),
            (3.0, "churn", "got", ("t", "ghost")),
        ],
    ),
]


@pytest.mark.parametrize(("rule", "kept", "broken"), CASES)
def test_a_rule_tells_kept_from_broken(rule: Callable[[History], list[str]], kept: Rows, broken: Rows) -> None:
    assert rule(history(kept)) == []
    assert rule(history(broken))


@pytest.mark.parametrize("degraded", [True, False])
def test_who_acknowledges_alone_has_said_so(degraded: bool) -> None:
    made = history([(5.0, "flow-p", "acked", 1)])
    made.alone = [(2.0, 9.0)]
    made.samples = [Sample(6.0, 6.1, "h1", degraded, 0), Sample(7.0, 7.1, "h1", True, 0)]
    assert bool(check.c13_degraded_is_said(made)) is not degraded


def test_twice_is_forgiven_to_who_changed_sides_in_a_split_and_three_times_is_not() -> None:
    moved: Rows = [(5.0, "flow-p", "connected", None)]
    split = Window(4.0, 6.0, True)
    assert check.c3_once(history(moved + arrived(1, 1), window=split), "flow-p", "s") == []
    assert check.c3_once(history(moved + arrived(1, 1), window=split._replace(split=False)), "flow-p", "s")
    assert check.c3_once(history(moved + arrived(1, 1, 1), window=split), "flow-p", "s")
    assert check.c3_once(history(moved + arrived(1, 1), window=split), "flow-p", "s", forgives=False)


def test_memory_has_a_bound() -> None:
    made = History()
    made.samples = [Sample(1.0, 1.1, "h1", False, check.PROCESS_BYTES)]
    assert check.c10_bounded(made) == []
    made.samples.append(Sample(2.0, 2.1, "h1", False, check.PROCESS_BYTES + 1))
    assert check.c10_bounded(made)
