"""docs/faults.md: the matrix with the results of one run, written by it."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

from tests.cluster.matrix.cells import always
from tests.cluster.matrix.faults import FAULTS
from tests.cluster.matrix.run import WORKLOADS, Verdict

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "faults.md"
HEAD = """# Faults

What clients see when something fails, on real hosts: each in a network namespace of its own, HAProxy with deploy/haproxy.cfg in
front, all workloads at once, one fault, then everything is healed, drained and read back, and the stores of all hosts are compared
key by key. What differs counts against W8 (sessions, subscriptions), W6 (retained), W7 (wills) or W1 (the rest).

`make faults` wrote this page; `make test` runs the cells marked ●, `make soak` any by a printed seed.

| workload | what it does | what must hold |
|---|---|---|
| W1 | QoS 1 to a durable subscriber that stays | what was acknowledged arrives, no long gap, `mqnode_degraded` is seen |
| W2 | the same with QoS 2 | … once |
| W3 | all of them | first deliveries in the order of each publisher |
| W4 | durable subscribers that are away half of the time | all arrives, no session is gone |
| W5 | two connections with one client id, at different hosts | one at a time, and one in the end |
| W6 | retained messages, overwritten and deleted at changing hosts | all hosts hold the last one |
| W7 | clients that break off, clients that say goodbye | one will each; none |
| W8 | subscribe, publish, unsubscribe, publish, at changing hosts | the first arrives, the second does not |
| W9 | a shared group of durable sessions | all arrives at one of them at least |
| W10 | at each host a publisher whose rule is changed and reloaded | what is denied is refused and never comes, the rest arrives |
| W11 | payloads of 60 kB to a slow subscriber | all arrives intact, memory stays bounded |

No acknowledgement before the fsync (C12) is shown by tests/storage/test_fsync.py. A loss of power (F5) takes with it what was
written and not synced, by sectors (tests/faults/power.py). Bits that change on the disk are those of tests/storage/test_damage.py.
Not run: F13 with two versions (here the hosts are restarted in turn); tests/cluster/test_versions.py has them.
"""


def write(verdicts: dict[int, dict[str, Verdict]], seed: int) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT).returncode
    day = time.strftime("%Y-%m-%d", time.gmtime())
    where = f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    text = HEAD + f"\n{day}, commit {commit}{' and changes on top' if changed else ''}, seed {seed}; {where}.\n"
    for hosts, rows in verdicts.items():
        text += f"\n## {hosts} hosts\n\n{_table(rows, hosts)}\n{_failures(rows)}"
    if 3 not in verdicts:
        text += '\n## 3 hosts\n\nNot run: `make faults ARGS="--hosts 2 3"`, `make soak`.\n'
    PAGE.write_text(text, encoding="utf-8")


def _table(rows: dict[str, Verdict], hosts: int) -> str:
    lines = [f"| fault | {' | '.join(WORKLOADS)} |", f"|---|{'---|' * len(WORKLOADS)}"]
    for name, verdict in rows.items():
        cells = []
        for workload in WORKLOADS:
            result = "not run" if workload not in verdict else "**failed**" if verdict[workload] else "passed"
            cells.append(("● " if workload in always(FAULTS[name], hosts) else "") + result)
        lines.append(f"| {FAULTS[name].id} {FAULTS[name].name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _failures(rows: dict[str, Verdict]) -> str:
    lines = []
    for name, verdict in rows.items():
        for workload, errors in verdict.items():
            lines += [f"- {FAULTS[name].id} {FAULTS[name].name}, {workload}: `{error[:160]}`." for error in errors[:2]]
    return "\n" + "\n".join(lines) + "\n" if lines else ""
