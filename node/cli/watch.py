"""`--watch`: a screen is shown again and again, until Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click


def watch_options(command: Any) -> Any:
    interval = click.option(
        "-i", "--interval", type=click.FloatRange(0, min_open=True), default=1, show_default=True, metavar="SECONDS",
        help="With --watch: between two screens.",
    )  # fmt: skip
    return click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")(interval(command))


def show_once_or_watch(ask: Callable[[], Any], show: Callable[[Any], None], watch: bool, interval_s: float) -> None:
    """Shows what `ask` answers. Who does not answer at first ends it; who does no more is waited for."""
    answer = ask()
    if not watch:
        show(answer)
        return
    try:
        while True:
            click.clear()  # only a terminal
            show(answer)
            click.echo()
            time.sleep(interval_s)
            answer = _ask_until_answered(ask, interval_s)
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            click.echo()  # behind the ^C


def _ask_until_answered(ask: Callable[[], Any], interval_s: float) -> Any:
    told = False
    while True:
        try:
            return ask()
        except click.ClickException as error:
            if not told:
                click.echo(f"{error.message}\nAsked again until it answers, or Ctrl-C.", err=True)
            told = True
            time.sleep(interval_s)
