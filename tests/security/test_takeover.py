"""S19: many connections fight for few client ids: at most one lives, nothing breaks, and nobody gets another's session."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator

import pytest

from tests.broker import Broker, wait_for
from tests.mqtt import CONNACK, PUBLISH, TAKEN_OVER, Client, Closed, connect_packet
from tests.placement import on_worker
from tests.security.guarded import Guarded, guarded, password_of

SECONDS, IDS, THREADS, SEED = 10.0, 20, 8, 19
TAKEOVERS_MIN = 200


@pytest.fixture(scope="module")
def broker() -> Iterator[Guarded]:
    with guarded("user alice\ntopic #\nuser mallory\ntopic #\n", "alice", "mallory") as broker:
        yield broker
        assert broker.errors() == []
        assert broker.metric("mqnode_handler_errors_total") == 0


class Fighter(threading.Thread):
    """Connects with one of the ids, again and again, subscribes and unsubscribes, and holds some connections open."""

    def __init__(self, broker: Guarded, number: int, until_s: float) -> None:
        super().__init__(daemon=True)
        self.broker, self.random, self.until_s = broker, random.Random(SEED + number), until_s
        self.problems: list[str] = []

    def run(self) -> None:
        held: list[Client] = []
        while time.monotonic() < self.until_s:
            try:
                held.append(self._fight())
            except (Closed, OSError):
                pass  # somebody else was quicker
            except AssertionError as error:
                self.problems.append(str(error))
            while len(held) > 6:
                held.pop(self.random.randrange(len(held))).close()
        for client in held:
            client.close()

    def _fight(self) -> Client:
        client = Client(self.broker.port, self.random.choice((4, 5)))
        durable = self.random.random() < 0.5
        more = {"session_expiry": 60} if client.version == 5 and durable else {}
        name = f"id{self.random.randrange(IDS)}"
        client.connect(name, clean=not durable, user="alice", password=password_of("alice"), **more)
        for _ in range(self.random.randrange(4)):
            with contextlib.suppress(AssertionError):  # a message or the DISCONNECT of a takeover came in between
                if self.random.random() < 0.7:
                    client.subscribe((f"fight/{self.random.randrange(3)}/#", self.random.randrange(3)))
                else:
                    client.unsubscribe(f"fight/{self.random.randrange(3)}/#")
            client.publish(f"fight/{self.random.randrange(3)}/{name}", b"x", self.random.randrange(2))
        return client


def test_s19_one_live_connection_an_id(broker: Guarded) -> None:
    pids = [broker.pid(name) for name in ("keeper", "worker-0", "worker-1")]
    before = broker.metric('mqnode_takeovers_total{kind="clean"}')
    until = time.monotonic() + SECONDS
    fighters = [Fighter(broker, number, until) for number in range(THREADS)]
    for fighter in fighters:
        fighter.start()
    while time.monotonic() < until:
        _at_most_one_each(broker)
        time.sleep(0.2)
    for fighter in fighters:
        fighter.join(20)
        assert not fighter.is_alive()
        assert fighter.problems == []
    assert broker.metric('mqnode_takeovers_total{kind="clean"}') - before >= TAKEOVERS_MIN
    wait_for(lambda: broker.get("/v1/status")[1]["clients_connected"] == 0, 10)
    assert [broker.pid(name) for name in ("keeper", "worker-0", "worker-1")] == pids
    for number in range(IDS):  # each session still works, on whichever worker
        with broker.client("alice", f"id{number}", clean=True) as client:
            client.subscribe(("after", 1))
            client.publish("after", b"x")
            assert client.take().payload == b"x"


def _at_most_one_each(broker: Broker) -> None:
    names = [client["client_id"] for client in broker.get("/v1/clients?limit=1000")[1]]
    doubles = {name for name in names if names.count(name) > 1}
    if doubles:  # the workers were asked one after the other: a client may have moved meanwhile
        again = [client["client_id"] for client in broker.get("/v1/clients?limit=1000")[1]]
        third = [client["client_id"] for client in broker.get("/v1/clients?limit=1000")[1]]
        assert not {name for name in doubles if again.count(name) > 1 and third.count(name) > 1}


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (0, 0)])
def test_s19_the_earlier_connection_is_over_before_the_later_begins(broker: Guarded, first: int, second: int) -> None:
    login = {"user": "alice", "password": password_of("alice")}
    with on_worker(broker, first, "moving", session_expiry=60, clean=False, **login) as earlier:
        earlier.subscribe(("moving", 1))
        with on_worker(broker, second, "moving", session_expiry=60, clean=False, **login) as later:
            last = earlier.expect_closed()
            assert last is not None
            assert last.reason == TAKEN_OVER
            with broker.client("alice", "p") as publisher:
                publisher.publish_all("moving", b"x")
            assert later.take().payload == b"x"
    broker.get("/v1/sessions/moving", method="DELETE")


def test_s19_nobody_resumes_the_session_of_another_user(broker: Guarded) -> None:
    """Same client id, another identity: a new session, nothing of the old one's subscriptions and messages."""
    with broker.client("alice", "phone", clean=False, session_expiry=60) as phone:
        phone.subscribe(("secret", 1))
    wait_for(lambda: not broker.get("/v1/sessions/phone")[1]["connected"], 5)
    with broker.client("alice", "p") as publisher:
        publisher.publish_all("secret", b"for alice")
        with Client(broker.port) as thief:
            options = {"user": "mallory", "password": password_of("mallory"), "clean": False, "session_expiry": 60}
            thief.send(connect_packet("phone", **options))
            answer = thief.expect(CONNACK)
            assert (answer.reason, answer.session_present) == (0, False)
            publisher.publish_all("secret", b"for alice, too")
            thief.nothing()
            assert broker.get("/v1/sessions/phone")[1]["subscriptions"] == []


def test_s19_packet_of_the_loser_is_not_the_winners(broker: Guarded) -> None:
    """What was in flight to the earlier connection of a live session dies with it."""
    with broker.client("alice", "phone", receive_maximum=2) as earlier:
        earlier.subscribe(("t", 1))
        with broker.client("alice", "p") as publisher:
            for _ in range(5):
                publisher.publish_all("t", b"x")
            assert earlier.expect(PUBLISH).payload == b"x"
            with broker.client("alice", "phone") as later:
                later.nothing()
