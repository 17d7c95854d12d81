"""C1 to C11, C13, S13 (guarantees.md): each says what a history shows against its rule; an empty list is a pass. All are pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from tests.cluster.matrix.history import History

SETTLED_S = 0.5  # acknowledgements that were on their way when a fault began
TAKEOVER_S = 2.0
NOT_AUTHORIZED = 0x87
PROCESS_BYTES = 320 * 2**20  # what the declared limits allow a process (tests/fuzz)


def acked(history: History, publisher: str) -> set[int]:
    return {event.what for event in history.of(publisher, "acked")}


def got(history: History, sink: str, publisher: str) -> list[int]:
    return [event.what[1] for event in history.of(sink, "got") if event.what[0] == publisher]


def some(values: Iterable[object]) -> str:
    every = list(values)
    return f"{every[:8]}{' …' if len(every) > 8 else ''}"


def c1_nothing_is_lost(history: History, publisher: str, *sinks: str) -> list[str]:
    """Acknowledged is delivered: to one of them, if several share."""
    seen = {sequence for sink in sinks for sequence in got(history, sink, publisher)}
    due = acked(history, publisher)
    if not due:
        return [f"C1 {publisher}: nothing was acknowledged at all"]
    lost = sorted(due - seen)
    return [f"C1 {publisher} to {'|'.join(sinks)}: {len(lost)} of {len(due)} lost: {some(lost)}"] if lost else []


def c2_nothing_is_invented(history: History, publisher: str, sink: str) -> list[str]:
    sent = {event.what for event in history.of(publisher, "sent")}
    wrong = sorted(set(got(history, sink, publisher)) - sent)
    return [f"C2 {publisher} to {sink}: never sent, or damaged: {some(wrong)}"] if wrong else []


def c3_once(history: History, publisher: str, sink: str, forgives: bool = True) -> list[str]:
    """Twice at most for who changed sides while hosts did not see each other, where that is forgiven."""
    moved = forgives and any(
        history.in_window(e.at, e.at, split=True) for who in (publisher, sink) for e in history.of(who, "connected")
    )
    again = sorted(each for each, count in Counter(got(history, sink, publisher)).items() if count > 1 + moved)
    return [f"C3 {publisher} to {sink}: {len(again)} of QoS 2 more than once: {some(again)}"] if again else []


def c4_in_order(history: History, publisher: str, sink: str) -> list[str]:
    """The first deliveries."""
    firsts = list(dict.fromkeys(got(history, sink, publisher)))
    for before, after in pairwise(firsts):
        if after < before:
            return [f"C4 {publisher} to {sink}: {after} came after {before}"]
    return []


def c5_one_owner(history: History) -> list[str]:
    """No connection is answered before and after another one was answered; in the end one is connected.

    While a fault holds the old one may take some time to end. What an answer is to was asked after the connection was
    known to be alive, so late threads show nothing that was not.
    """
    errors = []
    alive = history.of("fight-", "alive")  # what: (connection, when it asked)
    for one, two in pairwise(alive):
        if two.who == one.who or two.what[1] < one.at:
            continue
        last = max((e.what[1] for e in alive if e.who == one.who and e.what[0] == one.what[0]), default=0.0)
        forgiven = history.in_window(one.at - TAKEOVER_S, last) and last - two.at < TAKEOVER_S
        if last > two.at and not (forgiven or history.in_window(one.at - TAKEOVER_S, last, split=True)):
            errors.append(f"C5 {one.who} is answered {last - two.at:.3f} s after {two.who} was")
    connected = [event.where for event in history.of("fight", "read") if event.what]
    if len(connected) != 1:
        errors.append(f"C5 in the end it is connected to {connected}")
    return errors[:5]


def c6_sessions_are_there(history: History, *names: str) -> list[str]:
    """What a peer of the ledger complains of, a session that is gone above all."""
    errors = [f"C6 {event.who}: {event.what}" for name in names for event in history.of(name, "failed")]
    errors += [
        f"C6 {e.who}: the session is gone" for e in history.of("fight-", "connected") if "fight" in names and not e.what
    ]
    return errors[:5]


def c7_registers_agree(history: History, register: str) -> list[str]:
    """Every host holds the last value that was acknowledged, or one that was sent after it."""
    writes = history.of(register, "sent", "acked")
    last = max((at for at, event in enumerate(writes) if event.kind == "acked"), default=-1)
    if last < 0:
        return [f"C7 {register}: nothing was acknowledged at all"]
    allowed = {writes[last].what} | {event.what for event in writes[last + 1 :]}
    read = {event.where: event.what for event in history.of(register, "read")}
    errors = [] if len(set(read.values())) == 1 else [f"C7 {register}: hosts differ: {read}"]
    stale = {where: value for where, value in read.items() if value not in allowed}
    return errors + ([f"C7 {register}: {stale}, but {allowed} is the last value"] if stale else [])


def c8_no_long_gap(history: History, publishers: str, limit_s: float) -> list[str]:
    times: dict[str, list[float]] = defaultdict(list)
    for event in history.of(publishers, "acked"):
        times[event.who].append(event.at)
    gaps = {who: max((b - a for a, b in pairwise(at)), default=0.0) for who, at in times.items()}
    return [
        f"C8 {who}: {gap:.1f} s without an acknowledgement (limit {limit_s} s)"
        for who, gap in gaps.items()
        if gap > limit_s
    ]


def c10_bounded(history: History) -> list[str]:
    most = max((sample.resident_bytes for sample in history.samples), default=0)
    return [f"C10 a process took {most >> 20} MiB"] if most > PROCESS_BYTES else []


def c11_wills_once(history: History) -> list[str]:
    heard = Counter(event.what for event in history.of("will-mourner", "got"))
    died = {event.what for event in history.of("will-mortal", "dies")}
    left = {event.what: event.at for event in history.of("will-mortal", "leaves")}
    missing = sorted(died - set(heard))
    again = sorted(each for each, count in heard.items() if count > 1)
    false = sorted(
        e for e, at in left.items() if e in heard and e not in died and not history.in_window(at - 1, at + 1)
    )
    unknown = sorted(set(heard) - {event.what for event in history.of("will-mortal", "tried")})
    return [
        f"C11 {len(each)} of {len(died)} wills {what}: {some(each)}"
        for each, what in ((missing, "missing"), (again, "twice"), (false, "of who took leave"), (unknown, "of nobody"))
        if each
    ]


def churn_is_exact(history: History) -> list[str]:
    """What is published after SUBACK arrives, what is published after UNSUBACK does not; across a split nothing is asked."""
    heard = {event.what for event in history.of("churn", "got")}
    errors = []
    owner = {event.what: event.where for event in history.of("churn", "subscribed")}
    for event in history.of("churn", "acked"):
        topic, payload, host, began = event.what
        if host != owner[topic] and history.in_window(began, event.at, split=True):
            continue
        if payload == "heard" and (topic, payload) not in heard:
            errors.append(f"C1 {topic}: subscribed at {owner[topic]}, published at {host}, and it never came")
        if payload == "ghost" and (topic, payload) in heard:
            errors.append(f"C2 {topic}: unsubscribed at {owner[topic]}, published at {host}, and it came")
    return errors[:5]


def rules_hold(history: History) -> list[str]:
    """What the rules in force deny is answered with 0x87 and never comes; what they grant is acknowledged and comes."""
    heard = {event.what for event in history.of("rules-reader", "got")}
    answers = [event.what for event in history.of("rules-", "answered")]
    errors = []
    for probe, granted, reason in answers:
        if granted and reason == NOT_AUTHORIZED:
            errors.append(f"S13 {probe}: denied, though the rules in force grant it")
        if granted and reason < 0x80 and probe not in heard:
            errors.append(f"C1 {probe}: acknowledged, and it never came")
        if not granted and (reason != NOT_AUTHORIZED or probe in heard):
            errors.append(f"S13 {probe}: the rules in force deny it, {reason=:#x}, came: {probe in heard}")
    if {granted for _, granted, _ in answers} != {True, False}:
        errors.append(f"S13 {len(answers)} answers, not both to what is granted and to what is denied")
    return errors[:5]


def c13_degraded_is_said(history: History) -> list[str]:
    """Whoever acknowledges alone has said before that it is alone."""
    for began, ended in history.alone:
        for event in history.of("flow-p", "acked"):
            if not began + SETTLED_S < event.at < ended:
                continue
            said = [sample for sample in history.samples if event.at <= sample.asked and sample.answered < ended]
            first = {sample.host: sample.degraded for sample in reversed(said)}
            if first and not any(first.values()):
                return [
                    f"C13 {event.who} was acknowledged {event.at - began:.1f} s after the peer had gone, nobody is degraded"
                ]
    return []
