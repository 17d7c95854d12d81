"""How a worker is dialled, by another one and by the interconnect: HELLO, with the memory that both share (node/core/slots.pyx)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from node.core.slots import memory_file
from node.peers import HELLO, encode, frame


@contextmanager
def greeted(dialled: socket.socket, index: int) -> Iterator[int]:
    """As its sibling `index`; the memory file is there to be mapped. OSError: it has just died, or no descriptor is left."""
    memory = memory_file()
    try:
        socket.send_fds(dialled, [frame(HELLO, encode({"role": "worker", "index": index}))], [memory])
        yield memory
    finally:
        os.close(memory)
