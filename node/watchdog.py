"""`python -m node.watchdog`: kills processes of this host that hang, and tells systemd how the host is.

Theory: supervisord starts anew what dies, but does not see what hangs; and a hung worker goes on trapping its share of
new connections. So every 500 ms the heartbeats in the counters are read; when one is late or a process has ended, and now and
then anyway, each child of supervisord is judged by its own. When one is missing, supervisord is spoken to: that wakes
it at once, and shows that it lives. systemd's watchdog is fed unless something is missing *and* supervisord
does not answer, which is all that a restart of the whole host would heal.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from node import counters, log
from node.config import load_copy, run_dir, worker_count
from node.process import die_with_parent, notify

INTERVAL_S = 0.5
CLOSE_NS = 2_000_000_000  # between two close looks while all is well
LATE_NS = 1_000_000_000  # a heartbeat older than this is looked at closely
SILENT_NS = 2_000_000_000  # older than this, and the process hangs
FRESH_NS = 5_000_000_000  # a process so young is not judged by its heartbeats …
FIRST_BEAT_NS = 15_000_000_000  # … and one without any may still be loading its modules on a slow machine
PAUSED_NS = 1_000_000_000  # since our last look: we were stopped ourselves, and perhaps all were
PROBE_INTERVAL_NS = 1_000_000_000
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    pid: int
    started_ns: int  # on CLOCK_MONOTONIC
    in_disk_wait: bool = False  # state D: SIGKILL would have to wait, too


@dataclass(frozen=True)
class Slot:
    name: str
    number: int


def is_hung(process: Process, beat_ns: int | None, now_ns: int) -> bool:
    """`beat_ns`: the heartbeat in the slot that has the process's pid, None without such a slot."""
    if beat_ns is None or beat_ns < process.started_ns:  # the stamp of an earlier process that had this pid
        return now_ns - process.started_ns > FIRST_BEAT_NS
    return now_ns - beat_ns > SILENT_NS and now_ns - process.started_ns > FRESH_NS


def expected_slots(workers: int, interconnect: bool = False) -> list[Slot]:
    return [
        Slot("keeper", counters.KEEPER),
        Slot("admin", counters.ADMIN),
        *([Slot("interconnect", counters.INTERCONNECT)] if interconnect else []),
        *(Slot(f"worker-{index}", counters.WORKER_0 + index) for index in range(workers)),
    ]


def children(parent: int, known: set[int]) -> list[Process]:
    """The living child processes of `parent`; of `known` only, where the kernel does not list children."""
    found = []
    boot_to_monotonic_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    with suppress(FileNotFoundError):
        known |= {int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}
    for pid in known:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:  # gone since
            continue
        state, ppid, *fields = stat.rpartition(")")[2].split()  # the name before the bracket may hold anything
        if state not in "ZX" and int(ppid) == parent:
            started_ns = int(fields[17]) * _TICK_NS - boot_to_monotonic_ns  # field 22, starttime
            found.append(Process(pid, started_ns, state == "D"))
    return found


class Watchdog:
    """`look`, then `wait`, for ever; all that it remembers between two looks stands in __init__."""

    def __init__(self, words: counters.Counters, slots: list[Slot], supervisor: int, supervisor_socket: Path) -> None:
        self.log = log.logger("watchdog")
        self.counters = words
        self.slots = slots
        self.supervisor = supervisor
        self.supervisor_socket = supervisor_socket
        self.ready = False
        self.missing: frozenset[str] = frozenset()
        self.status = ""
        self.looked_ns = self.looked_closely_ns = 0
        self.ends = select.poll()
        self.watched: dict[int, int] = {}  # pid -> descriptor that becomes readable at its end
        self.one_has_ended = False
        self.patient_until_ns = 0
        self.disk_wait_ns: dict[int, int] = {}  # pid -> when it was last seen in a disk wait
        self.probed_ns = 0
        self.supervisor_answers = True

    def wait(self) -> None:
        """For INTERVAL_S, less when a process ends."""
        for descriptor, _ in self.ends.poll(INTERVAL_S * 1000):
            self.one_has_ended = True
            self.ends.unregister(descriptor)
            self.watched = {pid: each for pid, each in self.watched.items() if each != descriptor}
            os.close(descriptor)

    def look(self, now_ns: int) -> None:
        if now_ns - self.looked_ns > PAUSED_NS:
            self.patient_until_ns = now_ns + SILENT_NS
        self.looked_ns = now_ns
        stamps = self._stamps()
        if not self._all_is_well(stamps, now_ns):
            self.looked_closely_ns = now_ns
            self._look_closely(stamps, now_ns)

    def _all_is_well(self, stamps: dict[int, int], now_ns: int) -> bool:
        """As far as can be told without asking the kernel about each process."""
        ended, self.one_has_ended = self.one_has_ended, False
        return (
            self.ready
            and not (self.missing or ended)
            and all(pid in self.watched and now_ns - beat_ns < LATE_NS for pid, beat_ns in stamps.items())
            and now_ns - self.looked_closely_ns < CLOSE_NS
        )

    def _look_closely(self, stamps: dict[int, int], now_ns: int) -> None:
        living = children(self.supervisor, set(stamps))
        self._watch(living)
        for process in self._hung(living, stamps, now_ns):
            self.log.error(
                "process_killed",
                pid=process.pid,
                cause="no heartbeat",
                effect="it is started anew",
                next="mqnode status",
            )
            os.kill(process.pid, signal.SIGKILL)
        missing = frozenset(slot.name for slot in self.slots if not self._beats(slot, living, now_ns))
        if missing and (missing - self.missing or now_ns - self.probed_ns > PROBE_INTERVAL_NS):
            self.supervisor_answers = answers(self.supervisor_socket)
            self.probed_ns = now_ns
        if self.ready:
            for name in sorted(missing - self.missing):
                self.log.warning(
                    "process_missing", name=name, cause="it has died, or is not up yet", effect="it is started anew",
                    next="mqnode status",
                )  # fmt: skip
            for name in sorted(self.missing - missing):
                self.log.info("process_back", name=name)
        self.missing = missing
        self._tell_systemd()

    def _watch(self, living: list[Process]) -> None:
        for process in living:
            if process.pid not in self.watched:
                with suppress(OSError):  # gone since
                    self.watched[process.pid] = descriptor = os.pidfd_open(process.pid)
                    self.ends.register(descriptor, select.POLLIN)

    def _hung(self, living: list[Process], stamps: dict[int, int], now_ns: int) -> list[Process]:
        """A disk that stalls is not the fault of who waits for it: each such moment counts as a beat."""
        waits = {each.pid: now_ns if each.in_disk_wait else self.disk_wait_ns.get(each.pid, 0) for each in living}
        self.disk_wait_ns = waits
        if now_ns < self.patient_until_ns:
            return []
        beats = {pid: max(beat_ns, waits.get(pid, 0)) for pid, beat_ns in stamps.items()}
        return [each for each in living if each.pid != os.getpid() and is_hung(each, beats.get(each.pid), now_ns)]

    def _stamps(self) -> dict[int, int]:
        slots = [self.counters.slot(slot.number) for slot in self.slots]
        return {slot[counters.PID]: slot[counters.HEARTBEAT_NS] for slot in slots}

    def _beats(self, slot: Slot, living: list[Process], now_ns: int) -> bool:
        words = self.counters.slot(slot.number)
        is_beating = now_ns < self.patient_until_ns or now_ns - words[counters.HEARTBEAT_NS] < SILENT_NS
        return is_beating and any(each.pid == words[counters.PID] for each in living)

    def _tell_systemd(self) -> None:
        workers = [self.counters.slot(slot.number) for slot in self.slots if slot.number >= counters.WORKER_0]
        serving = sum(1 for slot in workers if slot[counters.INDEX["ready"]])
        if not self.ready and not self.missing and serving == len(workers) and notify("READY=1"):
            self.ready = True
            self.log.info("host_ready", workers=serving, effect="clients are served", next="mqnode status")
        if not self.missing or self.supervisor_answers:
            notify("WATCHDOG=1")
        clients = sum(slot[counters.INDEX["clients_connected"]] for slot in workers)
        status = f"{serving} of {len(workers)} workers serve {clients} clients"
        if self.missing:
            status += f"; missing: {', '.join(sorted(self.missing))}"
        if status != self.status and notify(f"STATUS={status}"):
            self.status = status


def answers(path: Path) -> bool:
    """Whether supervisord answers on its socket. To be asked wakes it: it starts what died at once, not in a second."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(1)
            channel.connect(os.fspath(path))
            channel.sendall(b"GET /none HTTP/1.0\r\n\r\n")
            answered = False
            while channel.recv(4096):  # all of it, or supervisord would complain of a broken pipe
                answered = True
            return answered
    except OSError:
        return False


def main(arguments: list[str]) -> None:
    if len(arguments) != 2 or arguments[0] != "--config":
        sys.exit("usage: python -m node.watchdog --config FILE")
    die_with_parent()
    config = load_copy(arguments[1])
    log.setup(config.log, "watchdog")
    run = run_dir(config)
    words = counters.Counters(run / "counters")
    own = words.claim(counters.WATCHDOG)
    watchdog = Watchdog(
        words,
        expected_slots(worker_count(config), bool(config.interconnect.bind)),
        os.getppid(),
        run / "supervisor.sock",
    )
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    signal.signal(signal.SIGINT, lambda number, frame: stopping.append(number))
    while not stopping:
        counters.beat(own)
        watchdog.look(time.monotonic_ns())
        watchdog.wait()
    notify("STOPPING=1")


if __name__ == "__main__":
    main(sys.argv[1:])
