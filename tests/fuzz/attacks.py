"""Attacks on the MQTT listeners (hardening.md S01, S05, S09), each until its time is over. All choices are `rng`'s."""

from __future__ import annotations

import struct
import time
from contextlib import ExitStack, suppress
from random import Random

from tests.fuzz import packets
from tests.fuzz.target import Target
from tests.fuzz.volley import Caller, assert_sound, fire, listen
from tests.mqtt import PUBACK, Client, Closed, connect_packet, packet, properties, text

AT_ONCE = 24
CONNECT = {version: connect_packet("fuzz", version=version) for version in packets.VERSIONS}


def noise(target: Target, rng: Random, until: float) -> None:
    """Random bytes, from the start or behind a good CONNECT."""
    while time.monotonic() < until:
        streams = [
            rng.choice((b"", *CONNECT.values())) + rng.randbytes(rng.choice((1, 2, 10, 1000, 30000)))
            for _ in range(AT_ONCE)
        ]
        for heard in fire(rng, target.ports["tcp"], streams):
            assert_sound(heard)


def conversations(target: Target, rng: Random, until: float) -> None:
    """Valid, spoiled, and in turns: bits flipped, cut short, wrong lengths, twice, out of order."""
    while time.monotonic() < until:
        streams = [packets.conversation(rng) for _ in range(AT_ONCE)]
        spoiled = [stream if rng.random() < 0.1 else packets.spoil(rng, stream) for stream in streams]
        for heard in fire(rng, target.ports["tcp"], [b"".join(stream) for stream in spoiled]):
            assert_sound(heard)


def two_talkers(target: Target, rng: Random, until: float) -> None:
    """Two clients who subscribe to what the other spoils, so that faults would travel through the broker."""
    while time.monotonic() < until:
        version, topic = rng.choice(packets.VERSIONS), rng.choice(packets.NAMES[:4])
        listener = packet(0x82, b"\0\1" + (b"\0" if version == 5 else b"") + text("f/#") + b"\2")
        streams = [connect_packet(f"fuzz-listener-{number}", version=version) + listener for number in range(3)]
        for _ in range(6):
            message = packet(0x34, text(topic) + b"\0\1" + (b"\0" if version == 5 else b"") + rng.randbytes(9))
            release = packet(0x62, b"\0\1")
            hurt = [rng.choice(packets.SPOILERS)(rng, message), message, release]
            rng.shuffle(hurt)
            streams.append(connect_packet("", version=max(version, 4)) + b"".join(hurt))
        for heard in fire(rng, target.ports["tcp"], streams):
            assert_sound(heard)


def names(target: Target, rng: Random, until: float) -> None:
    """Very long and very deep topics and filters, in every place that a packet has for one (S09)."""
    while time.monotonic() < until:
        level = rng.choice(("", "a", "+", "/", "é"))
        name = ((level + "/") * rng.choice((127, 128, 1000, 1023, 1024, 30000)))[
            : rng.choice((4096, 32000, 65535))
        ] or "/"
        long = rng.choice((name, "x" * 65535, "$share/g/" + name[:65000], "$share/" + "g" * 60000 + "/a"))
        streams = [
            CONNECT[5] + packet(0x82, b"\0\1\0" + text(long[: 65535 // 2]) + b"\1"),
            CONNECT[5] + packet(0x82, b"\0\1\0" + text((name.rstrip("/") + "/#")[-30000:]) + b"\1"),
            CONNECT[5] + packet(0xA2, b"\0\1\0" + text(long[: 65535 // 2])),
            CONNECT[4] + packet(0x32, text(name[: 65535 // 2]) + b"\0\1"),
            CONNECT[5] + packet(0x33, text(name[: 65535 // 2]) + b"\0\2" + properties(topic_alias=1)),
            CONNECT[5] + packet(0x32, text("f") + b"\0\3" + properties(response_topic=name[: 65535 // 2])),
            connect_packet("w", will=(name[: 65535 // 2], b"", 1, False)),
            connect_packet("w", will=(name[:10000], b"", 1, True)),
        ]
        for heard in fire(rng, target.ports["tcp"], streams):
            assert_sound(heard)


def properties_without_end(target: Target, rng: Random, until: float) -> None:
    """Many user properties, in every packet that has some."""
    while time.monotonic() < until:
        count = rng.choice((64, 65, 1000, 20000))
        some = properties(user_property=[("k" * rng.randrange(5), "v")] * count)
        streams = [
            connect_packet("p", user_property=[("", "")] * min(count, 6000)),
            connect_packet(
                "p", will=("f", b"", 0, False), will_properties={"user_property": [("", "")] * min(count, 6000)}
            ),
            CONNECT[5] + packet(0x32, text("f") + b"\0\1" + some),
            CONNECT[5] + packet(0x82, b"\0\1" + some + text("f") + b"\1"),
            CONNECT[5] + packet(0xA2, b"\0\1" + some + text("f")),
            CONNECT[5] + packet(0x62, b"\0\1\0" + some),
            CONNECT[5] + packet(0xE0, b"\0" + some),
            CONNECT[5] + packet(0xF0, b"\x19" + some),
        ]
        for heard in fire(rng, target.ports["tcp"], streams):
            assert_sound(heard)


def slow_loris(target: Target, rng: Random, until: float) -> None:
    """CONNECTs byte by byte, and announcements of giants of which little comes."""
    with ExitStack() as stack:
        callers = []
        for _ in range(60):
            caller = Caller(target.ports["tcp"])
            stack.callback(caller.socket.close)
            giant = struct.pack("B", rng.choice((0x10, 0x30))) + b"\xff\xff\xff\x7f"
            callers.append((caller, bytearray(rng.choice((giant, packets.connect(rng, 5)[:-1])) + bytes(100))))
        while time.monotonic() < until:
            for caller, rest in callers:
                if rest:
                    caller.say(bytes(rest[:1]))
                    del rest[:1]
            listen([caller for caller, _ in callers], 0.05)


def half_open(target: Target, rng: Random, until: float) -> None:
    """Subscribers who never read, publishers who never take an acknowledgement, silent sockets, sudden resets."""
    with ExitStack() as stack:
        callers = []
        while time.monotonic() < until:
            caller = Caller(target.ports["tcp"])
            stack.callback(caller.socket.close)
            callers.append(caller)
            what = rng.randrange(3)
            if what == 0:
                caller.say(CONNECT[4][:2] + CONNECT[4][2:])
                caller.say(packet(0x82, b"\0\1" + text("deaf/#") + b"\0"))
            elif what == 1:
                caller.say(connect_packet("") + b"".join(
                    packet(0x32, text("deaf/a") + struct.pack(">H", number) + b"\0" + bytes(20000)) for number in range(1, 40)
                ))  # fmt: skip
            if len(callers) > 100 or rng.random() < 0.1:
                callers.pop(rng.randrange(len(callers))).leave(rng)


def takeovers(target: Target, rng: Random, until: float) -> None:
    """A few client ids for many connections, with persistent sessions, subscriptions and wills."""
    while time.monotonic() < until:
        streams = []
        for _ in range(AT_ONCE):
            version = rng.choice((4, 5))
            values = {"session_expiry": rng.choice((0, 1, 60))} if version == 5 else {}
            start = connect_packet(
                f"fight-{rng.randrange(3)}",
                version=version,
                clean=rng.random() < 0.4,
                will=("f/w", b"w", 1, False),
                **values,
            )
            streams.append(start + b"".join(
                rng.choice((packets.subscribe, packets.publish, packets.unsubscribe))(rng, version) for _ in range(4)
            ))  # fmt: skip
        for heard in fire(rng, target.ports["tcp"], streams):
            assert_sound(heard)


def bulk(target: Target, rng: Random, until: float) -> None:
    """SUBSCRIBE and UNSUBSCRIBE with as many filters as a packet holds, and many with as many as are taken."""
    count, size = rng.choice(((400_000, 2), (80_000, 20), (10_000, 5), (10_000, 5)))
    while time.monotonic() < until:
        with suppress(Closed), Client(target.ports["tcp"], timeout_s=8) as client:
            client.connect(rng.choice(("", "fuzz-bulk")), clean=rng.random() < 0.5, session_expiry=rng.choice((0, 5)))
            for kind, more in ((0x82, b"\0"), (0x82, b"\1"), (0xA2, b"")):
                filters = b"".join(text(f"{rng.randrange(10**size):0{size}}") + more for _ in range(count))
                client.send(packet(kind, b"\0\1\0" + filters))
                client.receive()


def floods(target: Target, rng: Random, until: float) -> None:
    """The smallest packets as fast as they go, by clients that read the answers and by some that never do."""
    small = [
        packet(0xC0), packet(0x62, b"\0\1"), packet(0x30, text("f") + b"\0"), packet(0x32, text("f") + b"\0\1\0"),
        packet(0x34, text("f") + b"\0\1\0"), packet(0x82, b"\0\1\0" + text("f") + b"\0"), packet(0xA2, b"\0\1\0" + text("g")),
    ]  # fmt: skip
    with ExitStack() as stack:
        callers = [Caller(target.ports["tcp"]) for _ in range(8)]
        rests = [b"" for _ in callers]
        turns = [rng.choice(small) * 10000 for _ in callers]
        for caller in callers:
            stack.callback(caller.socket.close)
            caller.say(connect_packet(""))
        while time.monotonic() < until:
            for number, caller in enumerate(callers):
                rests[number] = rests[number] or turns[number]
                rests[number] = rests[number][caller.say(rests[number]) :]
            listen(callers[:4], 0.01)


def retained_searches(target: Target, rng: Random, until: float) -> None:
    """Filters that look at every retained message and match none."""
    with Client(target.ports["tcp"], timeout_s=8) as client:
        client.connect(receive_maximum=65535)
        for number in range(4000):
            client.publish(f"kept/{number}/x", b"x", 1, retain=True)
            if number % 1000 == 999:
                for _ in range(1000):
                    client.expect(PUBACK)
    while time.monotonic() < until:
        with Client(target.ports["tcp"], timeout_s=8) as client:
            client.connect()
            reason = 0
            while reason == 0 and time.monotonic() < until:
                filters = [text(f"+/+/{rng.randrange(10**6)}") + b"\0" for _ in range(1000)]
                client.send(packet(0x82, b"\0\1\0" + b"".join(filters)))
                reason = client.receive().reason
            assert reason in (0, 0x97)  # that many filters may wait, no more


ATTACKS = (
    noise,
    conversations,
    two_talkers,
    names,
    properties_without_end,
    slow_loris,
    half_open,
    takeovers,
    bulk,
    floods,
    retained_searches,
)
