"""A full disk: publishers are told, nobody loses what was acknowledged, and room that comes back is used."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.broker import Broker, wait_for
from tests.disk import no_byte_left, small_disk
from tests.mqtt import PUBACK, Client

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")

QUOTA_EXCEEDED = 0x97
NO_MATCHING_SUBSCRIBERS = 0x10
BURST = 50
MOST = 100_000


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A host whose data_dir is on a disk of 64 MiB."""
    with small_disk(64) as disk:
        host = Broker(data_dir=disk / "data", workers=1)
        try:
            yield host.start()
        finally:
            host.close()


def offline_session(broker: Broker) -> None:
    with Client(broker.port) as client:
        client.connect("sub", clean=False, session_expiry=3600)
        client.subscribe(("t", 1))
        client.disconnect()


def publish_until_refused(publisher: Client, size: int) -> list[int]:
    """Numbered messages; those that were acknowledged, when one was refused."""
    accepted: list[int] = []
    for start in range(0, MOST, BURST):
        ids = {
            publisher.publish("t", b"%08d" % number + bytes(size), 1): number
            for number in range(start, start + BURST)
        }  # fmt: skip
        answers = [publisher.expect(PUBACK) for _ in ids]
        assert {answer.reason for answer in answers} <= {0, QUOTA_EXCEEDED}
        accepted += [ids[answer.id] for answer in answers if answer.reason == 0]
        if any(answer.reason for answer in answers):
            return accepted
    raise AssertionError("the disk never became full")


def drain(broker: Broker, count: int) -> list[int]:
    """The numbers of the messages that the session gets; nothing comes after them."""
    with Client(broker.port, timeout_s=30) as client:
        assert client.connect("sub", clean=False, session_expiry=3600).session_present
        found = [int(client.take().payload[:8]) for _ in range(count)]
        client.nothing()
        client.disconnect()
    return found


def has_room(broker: Broker) -> bool:
    return broker.get("/ready")[0] == 200


@pytest.mark.parametrize("size", [1500, 20_000])
def test_a_drained_queue_is_room_again(broker: Broker, size: int) -> None:
    offline_session(broker)
    keeper = broker.pid("keeper")
    with Client(broker.port, timeout_s=30) as publisher:
        publisher.connect("pub")
        for _ in range(4):  # the file grows a little each time: large messages need pages that stand together
            accepted = publish_until_refused(publisher, size)
            assert broker.metric('mqnode_messages_refused_total{reason="disk_full"}') >= 1
            status, answer = broker.get("/ready")
            assert (status, answer["reasons"]) == (
                503,
                ["the disk is full: free space in the file system of node.data_dir"],
            )
            assert drain(broker, len(accepted)) == accepted
            wait_for(lambda: has_room(broker), 5, "messages went, but the disk is still full")
    assert broker.pid("keeper") == keeper, "it died of the full disk"


def test_no_byte_left(broker: Broker) -> None:
    """Another program takes the rest of the disk: even a delivery that is done cannot be written without the ballast."""
    offline_session(broker)
    with Client(broker.port, timeout_s=30) as publisher:
        publisher.connect("pub")
        assert publisher.publish_all("kept", b"x", 1, retain=True).reason in (0, NO_MATCHING_SUBSCRIBERS)
        accepted = publish_until_refused(publisher, 2000)
        with no_byte_left(broker.data_dir):
            parts = [broker.metric(f'mqnode_disk_bytes{{part="{part}"}}') for part in ("size", "free")]
            assert parts == [64 << 20, 0]
            assert publisher.publish_all("t", b"too much").reason == QUOTA_EXCEEDED
            assert publisher.publish_all("kept", b"y", 1, retain=True).reason == QUOTA_EXCEEDED
            assert publisher.publish_all("kept", b"", 1, retain=True).reason == NO_MATCHING_SUBSCRIBERS
            assert broker.metric("mqnode_retained_messages") == 0
            assert publisher.publish_all("nobody").reason == NO_MATCHING_SUBSCRIBERS
            assert drain(broker, len(accepted)) == accepted
        wait_for(lambda: has_room(broker), 10, broker.log)
        assert publisher.publish_all("t", b"00000042").reason == 0
    assert drain(broker, 1) == [42]
