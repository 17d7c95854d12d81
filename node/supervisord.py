"""supervisord as a host needs it: it notices signals at once, and SIGHUP makes the workers read their files anew.

Its loop sleeps up to a second while a child has died or SIGTERM has come; so each of the four steps of a stop took a
second. Here every signal also writes a byte to a pipe that the loop polls. It does not start a dead child
sooner than it would by itself: that second is the pause of a process that dies again and again, and
node/watchdog.py ends it early for one that had served. SIGHUP would restart the host, clients and all.

On SIGTERM a host that has others sends its clients to them first (node/stop.py); a second SIGTERM stops it at once.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from supervisor.medusa.asyncore_25 import ExitNow, socket_map
from supervisor.options import ServerOptions, SignalReceiver
from supervisor.supervisord import Supervisor

from node.life_port import LIFE_FD, LISTENS, LifePort


class Waker:
    """What supervisord's loop wants to find in its map of descriptors."""

    def __init__(self) -> None:
        self.descriptor, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        socket_map[self.descriptor] = self
        os.write(write_end, b"\0")  # the loop sleeps before its first turn, too

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        os.read(self.descriptor, 4096)

    def handle_error(self) -> None:
        raise


class Signals(SignalReceiver):  # type: ignore[misc]  # supervisor has no types
    """Hands over what the loop must act upon. Not SIGCHLD: it reaps at each turn, but takes one signal a turn."""

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__()
        self.supervisor = supervisor
        self.draining = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            for worker in self.supervisor.process_groups["worker"].processes.values():
                if worker.pid:
                    os.kill(worker.pid, signal.SIGHUP)
        elif number == signal.SIGTERM and not self.draining and self._has_others():
            self.draining = True
            config = Path(self.supervisor.options.configfile).with_name("mqnode.toml")
            command = [sys.executable, "-P", "-m", "node.stop", "--config", os.fspath(config)]
            subprocess.Popen(["/bin/sh", "-c", '"$@"; kill -TERM $PPID', "sh", *command], stdin=subprocess.DEVNULL)
        elif number != signal.SIGCHLD:
            super().receive(number, frame)

    def _has_others(self) -> bool:
        interconnect = self.supervisor.process_groups["interconnect"].processes["interconnect"]
        return bool(interconnect.pid)


def main() -> None:
    options = ServerOptions()
    options.realize(doc=__doc__)
    options.first, options.test = True, False
    supervisor = Supervisor(options)
    options.signal_receiver = Signals(supervisor)
    Waker()
    if LISTENS in os.environ:
        socket_map[LIFE_FD] = LifePort(socket.socket(fileno=LIFE_FD))
    with suppress(ExitNow):
        supervisor.main()
    options.close_httpservers()
    options.close_logger()


if __name__ == "__main__":
    main()
