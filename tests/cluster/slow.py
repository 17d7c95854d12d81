"""A slow cable between two interfaces: `python -m tests.cluster.slow ONE OTHER DELAY_MS JITTER_MS DUPLICATE_PERCENT`.

Each frame waits DELAY_MS and up to JITTER_MS more, so that jitter reorders. Says "ready" when it carries, ends with its stdin.
For kernels without netem.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import sys
import time
from contextlib import suppress
from typing import Any

_ETH_P_ALL, _SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 3, 263, 15, 23
_FRAME_BYTES = 10 + (1 << 16) + 64
_FRAMES = 20_000  # under way at once; more are lost, as at a full queue


def end(interface: str) -> socket.socket:
    """Frames come and go with their offloads: a checksum still to be made, segments still to be cut."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    made.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    made.bind((interface, _ETH_P_ALL))
    made.setblocking(False)
    return made


def carry(one: socket.socket, other: socket.socket, delay_s: float, jitter_s: float, duplicate: float) -> None:
    under_way: list[tuple[float, int, socket.socket, bytes]] = []
    ends: dict[Any, socket.socket] = {one: other, other: one}
    count = 0
    print("ready", flush=True)
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        readable, _, _ = select.select([0, *ends], [], [], wait)
        if 0 in readable:
            return
        now = time.monotonic()
        for source in readable:
            with suppress(BlockingIOError):
                while len(under_way) < _FRAMES:
                    frame = source.recv(_FRAME_BYTES)
                    for _ in range(1 + (random.random() < duplicate)):
                        count += 1
                        heapq.heappush(
                            under_way, (now + delay_s + random.uniform(0, jitter_s), count, ends[source], frame)
                        )
        while under_way and under_way[0][0] <= now:
            _, _, target, frame = heapq.heappop(under_way)
            with suppress(BlockingIOError):
                target.send(frame)


if __name__ == "__main__":
    first, second, *numbers = sys.argv[1:]
    delay_ms, jitter_ms, percent = map(float, numbers)
    carry(end(first), end(second), delay_ms / 1000, jitter_ms / 1000, percent / 100)
