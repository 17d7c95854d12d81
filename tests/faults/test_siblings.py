"""Messages between the workers of a host: through memory that they share, and by the socket where that is full or too small."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from node.interconnect.crossing import ROUTES
from node.interconnect.routes import THERE
from node.peers import CROSSING, frame
from node.siblings import greeted
from tests.broker import Broker, running, wait_for
from tests.mqtt import PINGREQ, PINGRESP, SUBACK, UNSUBACK, Client, packet, properties, text
from tests.placement import on_worker

SIZES = (1, 50, 1000, 40_000, 70_000, 200_000)  # the larger ones fit in no slot
COUNT = 100


def shares_memory(broker: Broker, worker: int) -> bool:
    return "mqnode-slots" in Path(f"/proc/{broker.pid(f'worker-{worker}')}/maps").read_text()


def reached(broker: Broker, worker: int) -> Client | None:
    """A client of a worker that may not listen yet."""
    with suppress(AssertionError):
        return on_worker(broker, worker, "to")
    return None


@contextmanager
def standing_still(broker: Broker, worker: int) -> Iterator[None]:
    """Shorter than the watchdog bears."""
    pid = broker.signal(f"worker-{worker}", signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def host() -> Iterator[Broker]:
    with running() as broker:
        yield broker


@pytest.mark.parametrize("session", [{}, {"clean": False, "session_expiry": 100}], ids=["live", "durable"])
@pytest.mark.parametrize("filter", ["suback/t", "$share/group/suback/t"])
def test_suback_and_unsuback_wait_for_a_sibling_that_stands_still(
    host: Broker, filter: str, session: dict[str, int]
) -> None:
    """Every worker knows of it then."""
    with on_worker(host, 0, f"suback-{len(session)}", **session) as subscriber:
        first, tail = struct.pack(">H", 1) + properties(), text(filter)
        for sent, answer in ((packet(0x82, first + tail + b"\1"), SUBACK), (packet(0xA2, first + tail), UNSUBACK)):
            with standing_still(host, 1):
                subscriber.send(sent)
                subscriber.nothing()
            subscriber.expect(answer)


def test_order_holds_whatever_the_size_and_though_the_sibling_stands_still(host: Broker) -> None:
    chance = random.Random(1)
    with on_worker(host, 0, "from") as publisher, on_worker(host, 1, "to") as subscriber:
        assert shares_memory(host, 1)
        subscriber.subscribe("siblings/t")
        for _ in range(3):
            sent = [str(number).encode().ljust(chance.choice(SIZES)) for number in range(COUNT)]
            with standing_still(host, 1):
                for payload in sent:
                    publisher.publish("siblings/t", payload)
                publisher.send(packet(PINGREQ << 4))
                publisher.expect(PINGRESP)  # all of it waits for the sibling now
            for payload in sent:
                assert subscriber.take().payload == payload


def sent_at_once(topic: str, messages: list[tuple[bytes, dict[str, int]]]) -> bytes:
    """MQTT 5 packets of QoS 0: (payload, properties)."""
    return b"".join(packet(0x30, text(topic) + properties(**values) + payload) for payload, values in messages)


def test_messages_of_one_topic_in_a_row_are_judged_one_by_one() -> None:
    dropped = 'mqnode_messages_dropped_total{reason="too_large"}'
    messages = [(b"%d" % number, {"message_expiry": 100} if number % 7 == 0 else {}) for number in range(COUNT)]
    messages[50] = (bytes(200), {})
    with (
        running() as broker,
        on_worker(broker, 0, "from") as publisher,
        on_worker(broker, 1, "all") as everything,
        on_worker(broker, 1, "small", maximum_packet_size=100) as small,
        on_worker(broker, 1, "old", version=4) as old,
    ):
        own = {"row/all": everything, "row/small": small, "row/old": old}
        for topic, client in own.items():
            client.subscribe(topic, "row/three")
        for topic in (*own, "row/three"):
            publisher.send(sent_at_once(topic, messages))
        for client in own.values():
            expected = [(payload, values) for payload, values in messages if client is not small or len(payload) < 100]
            for payload, values in expected * 2:
                message = client.take()
                assert message.payload == payload
                assert message.properties.keys() == (values.keys() if client is not old else set())
        assert broker.metric(dropped) == 2


def test_a_worker_that_is_back_shares_memory_again() -> None:
    with running() as broker:
        for killed, other in ((1, 0), (0, 1)):
            with on_worker(broker, other, "from") as publisher:
                broker.replace(f"worker-{killed}")
                with wait_for(lambda killed=killed: reached(broker, killed), 30) as subscriber:
                    subscriber.subscribe("siblings/again")
                    for number in range(COUNT):
                        publisher.publish("siblings/again", b"%d" % number)
                    for number in range(COUNT):
                        assert subscriber.take().payload == b"%d" % number
            assert shares_memory(broker, killed)


@pytest.mark.parametrize("clean", [True, False], ids=["live", "durable"])
def test_thousands_of_subscribes_at_once_are_all_answered(clean: bool) -> None:
    """More than are told the sibling and the keeper at a time: the rest wait in the client's input."""
    count = 5000
    with running() as broker, on_worker(broker, 0, "many", clean=clean, session_expiry=60) as client:
        subscribe, unsubscribe = (
            b"".join(
                packet(first, struct.pack(">H", number) + b"\0" + text("many/t") + more) for number in range(1, count)
            )
            for first, more in ((0x82, b"\1"), (0xA2, b""))
        )
        sending = threading.Thread(target=client.send, args=(subscribe + unsubscribe,))
        sending.start()
        answers = [client.receive() for _ in range(2 * (count - 1))]
        sending.join()
        for kind in (SUBACK, UNSUBACK):
            assert sorted(answer.id for answer in answers if answer.kind == kind) == list(range(1, count))
        client.publish("many/t", b"not for me")
        client.subscribe("many/t")
        client.publish("many/t", b"for me")
        assert client.take().payload == b"for me"


def test_what_comes_right_behind_hello_is_read() -> None:
    """As from the interconnect: it dials a worker that has just begun and has nothing to say that would wake it again."""
    with running(workers=1) as broker, socket.socket(socket.AF_UNIX) as link:
        with standing_still(broker, 0):
            link.connect(str(broker.run_dir / "worker-0.sock"))
            with greeted(link, CROSSING):
                link.sendall(frame(ROUTES, struct.pack("<BHHH", THERE, 7, 0, 0) + b"there/t"))
        link.settimeout(0.1)
        with on_worker(broker, 0, "from") as publisher:
            wait_for(lambda: publisher.publish("there/t", b"x") or received(link))


def received(link: socket.socket) -> bytes:
    with suppress(TimeoutError):
        return link.recv(1000)
    return b""


def hangs_up(listening: socket.socket) -> None:
    """On everybody, at once, as a worker that dies."""
    with suppress(OSError):  # it is closed
        while True:
            listening.accept()[0].close()


def test_a_sibling_that_hangs_up_at_once_is_dialled_again() -> None:
    with running() as broker, socket.socket(socket.AF_UNIX) as listening:
        path, aside = broker.run_dir / "worker-0.sock", broker.run_dir / "aside.sock"
        path.rename(aside)
        listening.bind(str(path))
        listening.listen(100)
        threading.Thread(target=hangs_up, args=(listening,), daemon=True).start()
        broker.signal("worker-1", signal.SIGKILL)
        wait_for(lambda: broker.log().count('"process":"worker-1","event":"ready"') == 2)
        listening.shutdown(socket.SHUT_RDWR)
        aside.rename(path)
        broker.wait_ready()
        wait_for(lambda: shares_memory(broker, 1))
