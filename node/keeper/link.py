"""The keeper's end of unix sockets to other processes: bytes in and out, and how far their operations are committed.

Frames are those of docs/internals.md. Never blocks; knows nothing of what the frames say.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from node.peers import HEADER, take_frames
from storage.layout import StoreError

PATH_BYTES_MAX = 107
RECEIVE_BYTES = 1 << 20
SEND_BUFFER_BYTES = 1 << 20
# Of whichever link is read: a new one each time is new pages each time
_received = memoryview(bytearray(RECEIVE_BYTES))
_header = HEADER.pack
LOST = -1  # the kind of the frame that stands for the end of the connection


def listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise StoreError(f"{path}: longer than a unix socket's path may be. Set node.run_dir to a shorter one.")
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(os.fspath(path))
    listening.listen(128)
    listening.setblocking(False)
    return listening


class Link:
    __slots__ = (
        "applied", "buffer", "committed", "index", "instance", "output", "refused", "role", "said", "socket", "welcome_ms",
    )  # fmt: skip

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.socket = connected
        self.buffer = bytearray()
        self.output = bytearray()
        self.role = ""
        self.index = -1
        self.instance = 0
        self.welcome_ms = 0
        self.applied = 0  # last batch in the open transaction or before
        self.committed = 0  # last batch reported
        self.said = 0  # last batch whose report is in `output`, or was
        # Operations (batch, index, reason) whose report may not have reached the other process
        self.refused: list[tuple[int, int, int]] = []

    def receive(self) -> tuple[int, list[tuple[int, bytes]]]:
        """How many bytes came, and the frames that they complete: (kind, body)."""
        try:
            count = self.socket.recv_into(_received)
        except BlockingIOError:
            return 0, []
        except OSError:
            count = 0
        if not count:
            return 0, [(LOST, b"")]
        self.buffer += _received[:count]
        return count, take_frames(self.buffer)

    def queue(self, kind: int, body: bytes | bytearray) -> None:
        output = self.output
        output += _header(len(body), kind)
        output += body

    def flush(self) -> bool:
        """Send what the socket takes; True if nothing is left."""
        try:
            while self.output:
                sent = self.socket.send(self.output)
                del self.output[:sent]
        except BlockingIOError:
            return False
        except OSError:
            self.output.clear()  # its end is read in a later turn
        return True
