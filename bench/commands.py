"""What a call of the command line takes: operators and their scripts wait for it, and on a busy host it takes from the broker."""

from __future__ import annotations

import os
import time
from statistics import median

from bench.brokers import Mqnode, Subject
from bench.scenario import Bar, Numbers, Scenario
from tests.cli.command import Command

COMMANDS = ("status", "check ready", "clients list", "config show", "--help")


def command_line(subject: Subject, seconds: float) -> Numbers:
    """Each command in turn, for about so many seconds."""
    assert isinstance(subject, Mqnode)
    call, took = Command(subject.host.config), []
    before, end = os.times(), time.monotonic() + seconds
    while time.monotonic() < end:
        for command in COMMANDS:
            start = time.monotonic()
            assert call(*command.split()).returncode == 0, command
            took.append((time.monotonic() - start) * 1e3)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {"command_p50": median(took), "command_max": max(took), "command_cpu": cpu_s / len(took) * 1e3}


SCENARIOS = (Scenario("the command line", command_line, (Bar("command_max", 200, "limit"),), ("mqnode",)),)
