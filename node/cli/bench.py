"""`mqnode bench`: load any MQTT broker with many clients from this host, and keep the ledger of what it lost.

The work is done by the load engine (node/core/load.pyx); here are options, the progress bar and the report.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from node.cli.options import Unusable, json_option
from node.cli.output import printable, show_fields, show_json

if TYPE_CHECKING:
    from node.core.load import Load

CONNECT_S = 60.0
QUIET_S = 5.0  # so long nothing came: what is still missing is lost
STEP_MS = 100
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Target:
    """What all kinds have in common: where to, and as whom."""

    host: str
    port: int
    connections: int
    protocol: str
    user: str
    password: str
    prefix: str
    persistent: bool
    sources: tuple[str, ...]
    as_json: bool

    def load(self, **more: Any) -> Load:
        from node.core.load import Load

        try:
            return Load(self.host, self.port, user=self.user, password=self.password, sources=self.sources, **more)
        except ValueError as error:
            raise Unusable(f"{error}. Nothing was done.") from error
        except OSError as error:
            raise Unusable(
                f"{printable(self.host)} is not found: {error}. Nothing was done. Check --host, --port and --source."
            ) from error

    def add(self, load: Load, role: str, **more: Any) -> None:
        prefix = self.prefix or f"bench-{role}-{os.getpid()}"
        if {"+", "#"} & set(topic := more.get("publish", "")):
            raise Unusable(f"'{printable(topic)}' is no topic: it holds a wildcard (+, #). Nothing was done.")
        version = 5 if self.protocol == "5" else 4
        try:
            load.add(self.connections, prefix=prefix, version=version, clean=not self.persistent, **more)
        except ValueError as error:
            raise Unusable(f"{error}. Nothing was done.") from error


def target_options(command: Command) -> Command:
    options = (
        click.option("--host", default="127.0.0.1", show_default=True),
        click.option("--port", type=click.IntRange(1, 65535), default=1883, show_default=True),
        click.option("--connections", "-c", type=click.IntRange(min=1), default=1, show_default=True, metavar="N"),
        click.option("--protocol", type=click.Choice(["3.1.1", "5"]), default="3.1.1", show_default=True),
        click.option("--user", default="", help="User name of all connections."),
        click.option("--password", default="", envvar="MQNODE_BENCH_PASSWORD", show_envvar=True),
        click.option("--prefix", default="", metavar="PREFIX",
                     help="Client ids are PREFIX-0, PREFIX-1, …; those of latency's publishers PREFIX-pub-0, …"),
        click.option("--persistent", is_flag=True, help="Sessions that outlive their connections."),
        click.option("--source", "sources", multiple=True, metavar="ADDRESS",
                     help="Connect from this address; repeat it to have more than 28,000 connections."),
        json_option,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def traffic_options(command: Command) -> Command:
    options = (
        click.option("--topic", default="bench/{i}", show_default=True, help="{i}: number of the connection."),
        click.option("--qos", type=click.IntRange(0, 2), default=0, show_default=True),
        click.option("--duration", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Stop after so long."),
        click.option("--messages", type=click.IntRange(min=1), metavar="N", help="Stop after N messages in all."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def publish_options(command: Command) -> Command:
    options = (
        click.option("--size", type=click.IntRange(24, 268_000_000), default=64, show_default=True, metavar="BYTES"),
        click.option("--window", type=click.IntRange(1, 65535), default=100, show_default=True, metavar="N",
                     help="Messages under way from each publisher."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def command() -> None:
    """Load an MQTT broker, this or another.

    \b
    Examples:
      mqnode bench conn -c 10000 --duration 60     how many connections, how fast
      mqnode bench latency -c 16 --qos 1           publish, receive, and what was lost
      mqnode bench sub & mqnode bench pub          the two ends in two processes

    Exit codes: 0 all well, 1 something was refused or, at QoS 1 and 2, lost, 2 not understood.
    """


@command.command()
@target_options
@click.option("--duration", type=click.FloatRange(min=0), default=0, metavar="SECONDS", help="Hold them so long.")
def conn(duration: float, **options: Any) -> None:
    """Open connections and hold them.

    \b
    Examples:
      mqnode bench conn -c 10000
      mqnode bench conn -c 50000 --source 127.0.0.1 --source 127.0.0.2 --duration 60
    """
    target = Target(**options)
    load = target.load()
    target.add(load, "conn")
    start = time.monotonic()
    with interruptible():
        connect(load, target)
        seconds = time.monotonic() - start
        run(load, "held", duration, lambda: nobody_is_left(load))
    stats = load.stats()
    rate = stats["connects"] / seconds
    lines = [("connections", f"{stats['connects']:,} of {stats['connections']:,} ({rate:,.0f} a second)")]
    finish(load, target, lines, "connection", {"seconds": seconds}, well=not stats["closed_by_server"])


@command.command()
@target_options
@traffic_options
@publish_options
@click.option("--rate", type=click.FloatRange(min=0), default=0, metavar="N", help="Messages a second of all together.")
@click.option("--retain", is_flag=True)
def pub(
    topic: str, qos: int, duration: float | None, messages: int | None, size: int, window: int, rate: float, retain: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Publish. {n} in --topic is the number of the message.

    \b
    Examples:
      mqnode bench pub -c 100 --qos 1 --rate 5000 --duration 60
      mqnode bench pub --topic 'sensor/{i}/{n}' --retain --qos 1 --messages 100000
    """
    target = Target(**options)
    load = target.load(first_publisher=random.getrandbits(31))  # others may publish to the same subscribers
    target.add(
        load, "pub", publish=topic, qos=qos, size=size, window=window, rate=rate, retain=retain,
        messages=each_of(messages, target),
    )  # fmt: skip
    with interruptible():
        connect(load, target)
        publish(load, duration or (None if messages else 10.0), messages)
    stats = load.stats()
    unanswered = stats["sent"] - stats["acknowledged"] if qos else 0
    lines = [("sent", f"{stats['sent']:,}{per_second(stats, 'sent')}")]
    if qos:
        lines.append(("not acknowledged", f"{unanswered:,}, of them refused {stats['publish_refused']:,}"))
    finish(load, target, lines, "acknowledgement" if qos else "", {"unacknowledged": unanswered},
           well=not unanswered and not stats["closed_by_server"])  # fmt: skip


@command.command()
@target_options
@traffic_options
def sub(topic: str, qos: int, duration: float | None, messages: int | None, **options: Any) -> None:
    """Subscribe and count what `mqnode bench pub` sends; latencies are true if it runs on this host.

    \b
    Examples:
      mqnode bench sub -c 100 --topic 'bench/#' --qos 1 --duration 60
    """
    target = Target(**options)
    load = target.load(joins=True)
    target.add(load, "sub", subscribe=topic, qos=qos)
    with interruptible():
        connect(load, target)
        wanted = messages or float("inf")
        run(load, "received", duration, lambda: load.stats()["received"] >= wanted or nobody_is_left(load), messages)
    stats = load.stats()
    lines = [("received", f"{stats['received']:,}{per_second(stats, 'received')}"), ledger(stats, stats["missing"])]
    well = not (qos and stats["missing"]) and not stats["closed_by_server"]
    finish(load, target, lines, "delivery", {"lost": stats["missing"]}, well=well)


@command.command()
@target_options
@traffic_options
@publish_options
@click.option("--rate", type=click.FloatRange(min=0), default=1000, show_default=True, metavar="N",
              help="Messages a second of all together; 0: as many as the windows allow.")  # fmt: skip
def latency(
    topic: str,
    qos: int,
    duration: float | None,
    messages: int | None,
    size: int,
    window: int,
    rate: float,
    **options: Any,
) -> None:
    """Publish and receive; each publisher has a subscriber of its own.

    \b
    Examples:
      mqnode bench latency
      mqnode bench latency -c 16 --qos 1 --rate 0 --window 1000 --duration 30
      mqnode bench latency --qos 2 --messages 100000 --json
    """
    target = Target(**options)
    load = target.load(run=random.getrandbits(32))
    target.add(load, "sub", subscribe=topic, qos=qos)
    publishers = replace(target, prefix=target.prefix and f"{target.prefix}-pub")
    publishers.add(
        load, "pub", publish=topic, qos=qos, size=size, window=window, rate=rate, fanout=1,
        messages=each_of(messages, target),
    )  # fmt: skip
    with interruptible():
        connect(load, target)
        publish(load, duration or (None if messages else 10.0), messages)
    stats = load.stats()
    came = stats["received"] - stats["duplicates"]
    lost = max(0, stats["acknowledged" if qos else "sent"] - came)  # what was not acknowledged was not promised
    lines = [("received", f"{stats['received']:,}{per_second(stats, 'received')}"), ledger(stats, lost)]
    well = not stats["closed_by_server"] and not (qos and (lost or stats["publish_refused"]))
    finish(load, target, lines, "delivery", {"lost": lost}, well=well)


def each_of(messages: int | None, target: Target) -> int:
    """Of each connection; rounded up."""
    return -(-messages // target.connections) if messages else 0


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends the run, not the report."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted; this was measured until now:", err=True)


def connect(load: Load, target: Target) -> None:
    run(load, "connects", CONNECT_S, lambda: load.ready, load.stats()["connections"])
    stats = load.stats()
    if stats["connected"] == 0:
        raise click.ClickException(
            f"No connection to {printable(target.host)}:{target.port} was accepted: {refusal(stats)}. Nothing was measured. "
            "Check that the broker listens there (mqnode status) and admits the user."
        )


def refusal(stats: dict[str, Any]) -> str:
    if stats["last_reason"]:
        return f"reason code {stats['last_reason']:#04x}"
    return str(stats["last_error"]) or "no reason given"


def publish(load: Load, duration: float | None, messages: int | None) -> None:
    load.publish()
    quiet = Quiet(load)

    def is_over() -> bool:
        """Also when the broker has closed connections and the others have sent all that is theirs."""
        is_quiet = quiet.lasts()
        return load.done or nobody_is_left(load) or (is_quiet and load.stats()["closed_by_server"] > 0)

    run(load, "sent", duration, is_over, messages)
    load.publish(False)
    quiet = Quiet(load)
    while not load.done and not quiet.lasts():
        load.step(STEP_MS)


class Quiet:
    """Has nothing gone to and fro for QUIET_S? Ask it often."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._since, self._seen = time.monotonic(), -1

    def lasts(self) -> bool:
        stats = self._load.stats()
        moved = stats["bytes_received"] + stats["bytes_sent"]
        if moved != self._seen:
            self._since, self._seen = time.monotonic(), moved
        return time.monotonic() > self._since + QUIET_S


def nobody_is_left(load: Load) -> bool:
    """Has the broker closed the connections, all of them?"""
    return bool(load.stats()["connected"] == 0)


def run(load: Load, count: str, duration: float | None, until: Callable[[], bool], total: int | None = None) -> None:
    """Step until the time is over or `until` says so; a progress bar for people shows the named count."""
    start = time.monotonic()
    end = start + duration if duration is not None else float("inf")
    with progress(count, total or duration) as show:
        while not until() and (now := time.monotonic()) < end:
            load.step(min(STEP_MS, (end - now) * 1000))
            if show is not None:
                value = load.stats().get(count, 0)
                show(value if total else time.monotonic() - start, value)


@contextmanager
def progress(count: str, total: float | None) -> Iterator[Callable[[float, int], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(count, total=total, text="")
        yield lambda done, value: bar.update(task, completed=done, text=f"{value:,}")


def per_second(stats: dict[str, Any], name: str) -> str:
    return f" ({stats[name] / stats['seconds']:,.0f} a second)" if stats["seconds"] else ""


def ledger(stats: dict[str, Any], lost: int) -> tuple[str, str]:
    return "ledger", f"lost {lost:,}, duplicate {stats['duplicates']:,}, reordered {stats['reordered']:,}"


def finish(
    load: Load, target: Target, lines: list[tuple[str, str]], timed: str, more: dict[str, Any], *, well: bool
) -> None:
    """Report, disconnect, and exit with 1 unless all was well."""
    stats = load.stats()
    load.close()
    refused = stats["connections"] - stats["connects"]
    trouble = {
        f"connections not accepted ({refusal(stats)})": refused,
        "subscriptions refused": stats["subscribe_refused"],
        f"connections closed by the broker ({refusal(stats)})": stats["closed_by_server"],
        "malformed packets from the broker": stats["malformed"],
        "unexpected acknowledgements": stats["unexpected_acks"],
        "messages that this run did not send": stats["foreign"],
    }
    latencies = {key: value / 1000 for key, value in load.histogram(timed).items() if key != "count"} if timed else {}
    if target.as_json:
        show_json({**stats, **more, "latency_us": latencies})
    else:
        show_fields([*lines, *((f"{timed} {key}", microseconds(value)) for key, value in latencies.items())])
        for what, count in trouble.items():
            if count:
                click.echo(f"{what}: {count:,}", err=True)
    if not well or refused or stats["subscribe_refused"] or stats["malformed"]:
        raise SystemExit(1)


def microseconds(value: float) -> str:
    return f"{value / 1000:,.2f} ms" if value >= 1000 else f"{value:.1f} µs"
