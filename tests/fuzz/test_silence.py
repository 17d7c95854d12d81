"""S05: who connects and says nothing, or next to nothing, costs little and is gone in time."""

from __future__ import annotations

import struct
import time
from contextlib import ExitStack

from tests.broker import busy, wait_for
from tests.fuzz.target import CONNECT_TIMEOUT_S, WORKERS, Target
from tests.fuzz.volley import Caller, listen
from tests.mqtt import Client, connect_packet, packet, properties

CONNECTIONS = 500
BYTES_EACH_MAX = 32 * 1024
CPU_SHARE_MAX = 0.2
BEGINNINGS = (
    b"",  # nothing
    b"\x10",  # one byte
    b"\x10\xff\xff\xff\x7f",  # 256 MB are announced
    packet(0x10, bytes(30_000))[:40],  # a packet of the largest size that is taken, hardly begun
    connect_packet("s05", user_property=[("k", "v" * 60)] * 64)[:-20],  # all but the end
    struct.pack(">BB", 0x10, 0x80),
    packet(0x10, b"\0\4MQTT\5\2\0\0" + properties(user_property=[("", "")] * 60))[:-1],
)


def test_a_flood_of_connections_without_connect(target: Target) -> None:
    before = sum(map(target.resident, WORKERS))
    with ExitStack() as stack:
        callers = [Caller(target.ports["tcp"]) for _ in range(CONNECTIONS)]
        begin = time.monotonic()
        cpu_s = sum(map(target.cpu_s, WORKERS))
        for number, caller in enumerate(callers):
            stack.callback(caller.socket.close)
            caller.say(BEGINNINGS[number % len(BEGINNINGS)])
        assert (sum(map(target.resident, WORKERS)) - before) / CONNECTIONS <= BYTES_EACH_MAX
        _a_good_client_gets_in(target)

        def all_gone() -> bool:
            listen(callers, 0.05)
            return all(caller.ended for caller in callers)

        wait_for(all_gone, CONNECT_TIMEOUT_S + 2, "not everybody was sent away in time")
        elapsed_s = time.monotonic() - begin
        share = (sum(map(target.cpu_s, WORKERS)) - cpu_s) / elapsed_s
        assert share <= CPU_SHARE_MAX * len(WORKERS)
    _a_good_client_gets_in(target)


def _a_good_client_gets_in(target: Target) -> None:
    begin = time.monotonic()
    with Client(target.broker.port) as client:
        client.connect("good")
        client.disconnect()
    assert time.monotonic() - begin < 1 * busy()
