"""`python -m bench`: every bar of a single host, mqnode and mosquitto in turn on this machine; a table of the factors.

`make bench` runs it. Exit code 1 when a bar is missed, 2 when a scenario could not be measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from bench import across, clients, commands, durable, messages
from bench.brokers import ROOT, Mqnode, Subject, installed
from bench.hosts import Hosts
from bench.measure import Failed, fdatasync_s
from bench.report import Outcome, document, machine, table
from bench.scenario import Numbers, Scenario

SCENARIOS: tuple[Scenario, ...] = (
    *messages.SCENARIOS, *clients.SCENARIOS, *durable.SCENARIOS, *across.SCENARIOS, *commands.SCENARIOS,
)  # fmt: skip
RESULTS = ROOT / "bench/results"
DOCUMENT = ROOT / "docs/benchmarks.md"


def measured(scenario: Scenario, kind: Callable[[Path], Subject], folder: Path, seconds: float) -> Numbers:
    subject = kind(folder)
    if kind is Mqnode:
        subject = Mqnode(folder, scenario.workers) if scenario.hosts == 1 else Hosts(folder, scenario.hosts)
    try:
        subject.start()
        try:
            numbers = subject.beside(lambda: scenario.measure(subject, seconds))
        finally:
            if trouble := subject.trouble():
                raise Failed(f"it logged {trouble[0]}")
        return numbers
    finally:
        subject.close()


def run(scenarios: list[Scenario], rounds: int, seconds: float, only: set[str]) -> list[Outcome]:
    kinds = {name: kind for name, kind in installed().items() if not only or name in only}
    outcomes = [Outcome(scenario) for scenario in scenarios]
    folder = Path(tempfile.mkdtemp(prefix=".bench-", dir=ROOT))
    try:
        for number in range(rounds):
            for outcome in outcomes:
                for name in outcome.scenario.subjects * outcome.scenario.times:
                    if name in kinds and (number == 0 or name in ("mqnode", "mosquitto")):
                        measure_once(outcome, name, kinds[name], folder, seconds)
            print(f"round {number + 1} of {rounds} done", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def measure_once(outcome: Outcome, name: str, kind: Callable[[Path], Subject], folder: Path, seconds: float) -> None:
    try:
        numbers = measured(outcome.scenario, kind, folder, seconds)
    except (Failed, AssertionError, OSError) as error:
        outcome.failures.append(f"{name}: {error}")
        return
    outcome.rounds.setdefault(name, []).append(numbers)
    shown = "  ".join(f"{key} {value:.4g}" for key, value in numbers.items() if value)
    print(f"{outcome.scenario.name:28} {name:10} {shown}", flush=True)


def save(outcomes: list[Outcome], rounds: int) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / time.strftime("%Y-%m-%dT%H%M%S.json")
    record = {
        "machine": machine(),
        "fdatasync_p50_p99_s": fdatasync_s(RESULTS),
        "rounds": rounds,
        "scenarios": {
            each.scenario.name: {
                "numbers": each.rounds,
                "verdicts": [verdict and asdict(verdict) for verdict in each.verdicts()],
                "failures": each.failures,
            }
            for each in outcomes
        },
    }
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenario", nargs="*", help="parts of the names of those to run; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of publishing in each measurement")
    parser.add_argument("--broker", action="append", default=[], help="only this one; more than once allowed")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.relative_to(ROOT)}")
    options = parser.parse_args()
    chosen = [each for each in SCENARIOS if not options.scenario or any(part in each.name for part in options.scenario)]
    if options.list:
        print("\n".join(each.name for each in chosen))
        return 0
    outcomes = run(chosen, options.rounds, options.seconds, set(options.broker))
    print(f"\n{table(outcomes)}\n{save(outcomes, options.rounds).relative_to(ROOT)}")
    if options.write:
        DOCUMENT.write_text(document(outcomes, options.rounds), encoding="utf-8")
    verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts()]
    if any(outcome.failures for outcome in outcomes):
        return 2
    return int(any(verdict is not None and not verdict.met for verdict in verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
