"""supervisord, that notices signals at once.

Its loop sleeps up to a second while a child has died or SIGTERM has come; so each of the four steps of a stop took a
second. Here every signal also writes a byte to a pipe that its loop polls. It does not start a dead child
sooner than its loop does by itself: that second is the pause of a process that dies again and again, and
node/watchdog.py ends it early for one that had served.
"""

from __future__ import annotations

import os
import signal

from supervisor.medusa.asyncore_25 import socket_map
from supervisor.supervisord import main


class Waker:
    """What supervisord's loop wants to find in its map of descriptors."""

    def __init__(self) -> None:
        self.descriptor, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        os.read(self.descriptor, 4096)

    def handle_error(self) -> None:
        raise


if __name__ == "__main__":
    waker = Waker()
    socket_map[waker.descriptor] = waker
    main()
