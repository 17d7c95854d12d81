"""The disk has it before the client is told: no acknowledgement passes an fsync that has not ended, or has failed.

The keeper's fdatasync is ours here: it waits, is slow, or fails as the test wants. kill -9 alone would not show this,
as the kernel keeps what was written.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.broker import Broker, wait_for
from tests.mqtt import (
    CONNACK,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    UNSUBACK,
    Client,
    connect_packet,
    packet,
    properties,
    text,
)  # fmt: skip

# LD_PRELOAD. The first byte of the file says: h wait until another byte stands there, s take 100 ms, e fail, o work.
LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static char said(void) {
    char byte = 'o';
    int file = open(getenv("MQNODE_TEST_DISK"), O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, &byte, 1) != 1) byte = 'o';
        close(file);
    }
    return byte;
}

int fdatasync(int file) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    while (said() == 'h') usleep(1000);
    if (said() == 's') usleep(100000);
    if (said() == 'e') {
        errno = EIO;
        return -1;
    }
    return real(file);
}
"""
HELD_S = 0.15
DURABLE = {"session_expiry": 3600}  # a session anew that outlives its connection


class Disk:
    """A host, and the word that its fdatasync obeys."""

    def __init__(self, folder: Path) -> None:
        self.word = folder / "word"
        self.broker = Broker(workers=1)
        self.says("o")

    def says(self, word: str) -> None:
        new = self.word.with_suffix(".new")
        new.write_text(word)
        new.rename(self.word)

    @contextmanager
    def held(self) -> Iterator[None]:
        self.says("h")
        try:
            yield
        finally:
            self.says("o")

    def durable(self, name: str) -> Client:
        client = Client(self.broker.port)
        client.connect(name, **DURABLE)
        client.subscribe((f"{name}/#", 2))
        return client


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    folder = tmp_path_factory.mktemp("disk")
    (source := folder / "disk.c").write_text(LIBRARY)
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", folder / "disk.so", source, "-ldl"], check=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LD_PRELOAD", str(folder / "disk.so"))
        environment.setenv("MQNODE_TEST_DISK", str(folder / "word"))
        disk = Disk(folder)
        try:
            disk.broker.start()
            yield disk
        finally:
            disk.says("o")
            disk.broker.close()


def puback(disk: Disk, client: Client) -> int:
    client.publish("ack/t", b"m", 1)
    return PUBACK


def puback_of_a_retained_message(disk: Disk, client: Client) -> int:
    client.publish("nobody/listens", b"m", 1, retain=True)
    return PUBACK


def pubrec(disk: Disk, client: Client) -> int:
    client.publish("ack/t", b"m", 2)
    return PUBREC


def suback(disk: Disk, client: Client) -> int:
    client.send(packet(0x82, b"\0\1" + properties() + text("another/filter") + b"\1"))
    return SUBACK


def unsuback(disk: Disk, client: Client) -> int:
    client.send(packet(0xA2, b"\0\1" + properties() + text("mine/#")))
    return UNSUBACK


def connack(disk: Disk, client: Client) -> int:
    client.send(connect_packet("new", **DURABLE))
    return CONNACK


ANSWERS: list[Callable[[Disk, Client], int]] = [
    puback, puback_of_a_retained_message, pubrec, suback, unsuback, connack
]  # fmt: skip


@pytest.mark.parametrize("ask", ANSWERS)
def test_an_answer_waits_for_the_disk(disk: Disk, ask: Callable[[Disk, Client], int]) -> None:
    disk.durable("ack").close()
    with Client(disk.broker.port) as client:
        if ask is not connack:
            client.connect("asks", **DURABLE)
            client.subscribe(("mine/#", 1))
        with disk.held():
            kind = ask(disk, client)
            with pytest.raises(TimeoutError):
                client.receive(HELD_S)
        assert client.expect(kind).reason in (0, 1, 0x10)


def test_pubcomp_and_pubrel_wait_for_the_disk(disk: Disk) -> None:
    """A publisher's packet id is free, and a subscriber's PUBREC is known, for good."""
    with disk.durable("two") as subscriber, Client(disk.broker.port) as publisher:
        publisher.connect("publisher", **DURABLE)
        id = publisher.publish("two/t", b"once", 2)
        publisher.expect(PUBREC)
        received = subscriber.expect(PUBLISH).id
        with disk.held():
            publisher.ack(PUBREL, id)
            subscriber.ack(PUBREC, received)
            for client in (publisher, subscriber):
                with pytest.raises(TimeoutError):
                    client.receive(HELD_S)
        assert publisher.expect(PUBCOMP).id == id
        assert subscriber.expect(PUBREL).id == received


def test_a_durable_subscriber_gets_nothing_that_could_be_lost(disk: Disk) -> None:
    """… and who has no session that outlives its connection does not wait for a disk."""
    with disk.durable("wait") as durable, Client(disk.broker.port) as live, Client(disk.broker.port) as publisher:
        live.connect("live")
        live.subscribe(("wait/#", 1), ("for/#", 1))
        publisher.connect("publisher")
        with disk.held():
            publisher.publish("wait/t", b"m", 1)
            assert live.take().payload == b"m"
            live.publish("for/live/clients", b"n", 1)
            assert {live.receive().kind, live.receive().kind} == {PUBACK, PUBLISH}
            with pytest.raises(TimeoutError):
                durable.receive(HELD_S)
        assert durable.take().payload == b"m"
        publisher.expect(PUBACK)


def test_a_slow_disk_delays_and_changes_no_order(disk: Disk) -> None:
    with disk.durable("slow") as subscriber, Client(disk.broker.port) as publisher:
        publisher.connect("publisher")
        disk.says("s")
        try:
            sent = [publisher.publish("slow/t", b"%d" % number, 1 + number % 2) for number in range(100)]
            answered = [publisher.receive().id for _ in sent]
            assert answered == sent
            for number in range(100):
                found = subscriber.expect(PUBLISH)
                assert (found.payload, found.qos) == (b"%d" % number, 1 + number % 2)
        finally:
            disk.says("o")


def test_what_the_disk_refused_is_not_acknowledged_until_it_works(disk: Disk) -> None:
    broker = disk.broker
    disk.durable("fail").close()
    with Client(broker.port, timeout_s=20) as publisher:
        publisher.connect("publisher")
        publisher.publish_all("fail/t", b"before")
        disk.says("e")
        try:
            publisher.publish("fail/t", b"meanwhile", 1)
            wait_for(lambda: broker.get("/ready")[0] == 503, 10, broker.log)
            wait_for(lambda: '"event":"store_error"' in broker.log(), 10)
            with pytest.raises(TimeoutError):
                publisher.receive(HELD_S)
        finally:
            disk.says("o")
        publisher.expect(PUBACK)
        broker.wait_ready()
    with Client(broker.port) as subscriber:
        assert subscriber.connect("fail", clean=False, session_expiry=3600).session_present
        assert [subscriber.take().payload for _ in range(2)] == [b"before", b"meanwhile"]
        subscriber.nothing()
    assert broker.log().count("check the disk (dmesg)") >= 1
