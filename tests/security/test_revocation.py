"""S13, S15, S30: what a reload takes away is gone within seconds, and a reload that fails takes or gives nothing."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

import pytest

from tests.broker import wait_for
from tests.mqtt import PUBLISH, Client
from tests.security.guarded import Guarded, attempt, count, guarded, line_of, password_of

ACL = "user reader\ntopic read news/#\nuser other\ntopic read news/#\nuser writer\ntopic news/#\ntopic always/#\n"
REVOKED = ACL.replace("user reader\ntopic read news/#", "user reader\ntopic read always/#")
USERS = ("reader", "other", "writer")
WITHIN_S = 5.0
NOT_AUTHORIZED = 0x87


@pytest.fixture(scope="module")
def host() -> Iterator[Guarded]:
    with guarded(ACL, *USERS) as host:
        yield host


@pytest.fixture
def broker(host: Guarded) -> Iterator[Guarded]:
    """With the rules and users as they were at first, and no session left."""
    yield host
    host.write_users(*USERS)
    host.rules(ACL)
    for session in host.get("/v1/sessions")[1]:
        host.get(f"/v1/sessions/{session['client_id']}", method="DELETE")


def payloads(client: Client, quiet_s: float = 0.3) -> list[bytes]:
    return [each.payload for each in client.take_until_quiet(quiet_s)]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_s13_live_subscriptions_stop_receiving(broker: Guarded, qos: int) -> None:
    """On both workers, whatever the session is, whoever publishes; without a new SUBSCRIBE or CONNECT."""
    with contextlib.ExitStack() as stack:
        readers = []
        for number in range(8):
            version, durable = 4 + number % 2, number % 4 > 1
            more = {"session_expiry": 60} if version == 5 and durable else {}
            reader = broker.client("reader", f"r{number}", version=version, clean=not durable, **more)
            readers.append(stack.enter_context(reader))
            assert reader.subscribe(("news/#", qos)).reasons == [qos]
        other = stack.enter_context(broker.client("other"))
        other.subscribe(("news/#", qos))
        writer = stack.enter_context(broker.client("writer"))
        assert len({client["worker"] for client in broker.get("/v1/clients")[1]}) == 2
        _publish(writer, qos, b"before")
        for client in (other, *readers):
            assert client.take().payload == b"before"
        begin = time.monotonic()
        broker.rules(REVOKED)
        _publish(writer, qos, b"after")
        assert other.take().payload == b"after"
        assert time.monotonic() - begin < WITHIN_S
        for reader in readers:
            assert payloads(reader, 0.05) == []
        broker.rules(ACL)
        _publish(writer, qos, b"granted again")
        for reader in readers:
            assert reader.take().payload == b"granted again"


def _publish(writer: Client, qos: int, payload: bytes) -> None:
    if qos:
        writer.publish_all("news/a", payload, qos)
    else:
        writer.publish("news/a", payload)


@pytest.mark.parametrize("version", [4, 5])
def test_s13_an_offline_subscription_survives_but_gives_nothing(broker: Guarded, version: int) -> None:
    """CVE-2021-34434. What was queued before the revocation is judged again when it would be sent."""
    more = {"session_expiry": 60} if version == 5 else {}
    with broker.client("writer") as writer:
        with broker.client("reader", "away", version=version, clean=False, **more) as reader:
            reader.subscribe(("news/#", 1))
        wait_for(lambda: not broker.get("/v1/sessions/away")[1]["connected"], 5)
        writer.publish_all("news/a", b"queued before")
        assert broker.get("/v1/sessions/away")[1]["queued_messages"] == 1
        denied = count(broker, "messages_dropped_total", '{reason="denied"}')
        broker.rules(REVOKED)
        writer.publish_all("news/a", b"after")
        assert broker.get("/v1/sessions/away")[1]["queued_messages"] == 1
        with Client(broker.port, version) as reader:
            answer = reader.connect("away", user="reader", password=password_of("reader"), clean=False, **more)
            assert answer.session_present
            assert payloads(reader) == []
        wait_for(lambda: broker.get("/v1/sessions/away")[1]["queued_messages"] == 0, 5)
        assert count(broker, "messages_dropped_total", '{reason="denied"}') == denied + 1


@pytest.mark.parametrize("durable", [False, True])
def test_s13_what_waits_for_the_window_is_judged_again(broker: Guarded, durable: bool) -> None:
    more = {"session_expiry": 60} if durable else {}
    with broker.client("reader", receive_maximum=1, **more) as reader, broker.client("writer") as writer:
        reader.subscribe(("news/#", 1))
        for number in range(5):
            writer.publish_all("news/a", b"%d" % number)
        first = reader.expect(PUBLISH)
        broker.rules(REVOKED)
        reader.ack(4, first.id)
        assert payloads(reader) == []
        broker.rules(ACL)
        writer.publish_all("news/a", b"last")
        assert payloads(reader) == [b"last"]


def test_s13_retained_messages_of_a_revoked_author(broker: Guarded) -> None:
    """CVE-2018-12546: auth.check_retain_source is on by default."""
    with broker.client("writer") as writer:
        writer.publish_all("news/kept", b"kept", 1, retain=True)
        with broker.client("reader") as reader:
            reader.subscribe("news/#")
            assert reader.take().payload == b"kept"
        broker.rules(ACL.replace("user writer\ntopic news/#", "user writer\ntopic news/other"))
        with broker.client("reader") as reader:
            reader.subscribe("news/#")
            assert payloads(reader) == []
        broker.rules(ACL)
        writer.publish_all("news/kept", b"", 1, retain=True)


def test_s13_retained_messages_stay_where_the_source_does_not_matter() -> None:
    with guarded(ACL, *USERS, auth="check_retain_source = false", workers=1) as broker:
        with broker.client("writer") as writer:
            writer.publish_all("news/kept", b"kept", 1, retain=True)
        broker.rules(ACL.replace("user writer\ntopic news/#", "user writer\ntopic news/other"))
        with broker.client("reader") as reader:
            reader.subscribe("news/#")
            assert reader.take().payload == b"kept"


@pytest.mark.parametrize("way", ["API", "SIGHUP"])
@pytest.mark.parametrize("change", ["deleted", "new password"])
def test_s13_connections_of_a_revoked_user_end(broker: Guarded, way: str, change: str) -> None:
    with contextlib.ExitStack() as stack:
        revoked = [stack.enter_context(broker.client("reader", f"r{n}", version=4 + n % 2)) for n in range(6)]
        other = stack.enter_context(broker.client("other"))
        other.subscribe("news/#")
        rest = "".join(map(line_of, USERS[1:]))
        broker.password_file.write_text(rest + (line_of("reader", b"new") if change == "new password" else ""))
        if way == "API":
            assert broker.reload() == []
        else:
            assert broker.process is not None
            broker.process.send_signal(signal.SIGHUP)
        for client in revoked:
            last = client.expect_closed(WITHIN_S)
            assert last is None if client.version == 4 else last is not None and last.reason == NOT_AUTHORIZED
        assert attempt(broker.port, user="reader", password=password_of("reader")).reason == 0x86
        entered = attempt(broker.port, user="reader", password=b"new").reason
        assert entered == (0 if change == "new password" else 0x86)
        with broker.client("writer") as writer:
            writer.publish("news/a", b"for the others")
        assert other.take().payload == b"for the others"


def test_s13_the_same_password_file_ends_nobody(broker: Guarded) -> None:
    with broker.client("reader") as reader:
        assert broker.reload() == []
        reader.nothing()


BROKEN = {"empty": b"", "bad line": b"user x\ntopic frobnicate a b\n", "not UTF-8": b"\xff\xfe", "NUL": b"user a\0b\n"}


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("name", ["acl_file", "password_file"])
def test_s15_a_bad_file_changes_nothing_at_a_reload(broker: Guarded, name: str, content: str) -> None:
    file = getattr(broker, name)
    before = file.read_bytes()
    with broker.client("reader") as reader:
        reader.subscribe("news/#")
        file.write_bytes(BROKEN[content])
        if (name, content) == ("acl_file", "empty"):  # a good file: it grants nothing
            assert broker.reload() == []
            assert reader.subscribe("news/a").reasons == [NOT_AUTHORIZED]
        else:
            errors = broker.reload(409)
            assert len(errors) == 1
            assert str(file) in errors[0]
            _still_as_before(broker, reader)
        file.unlink()
        assert len(broker.reload(409)) == 1
        file.write_bytes(before)
        assert broker.reload() == []
        _still_as_before(broker, reader)


def _still_as_before(broker: Guarded, reader: Client) -> None:
    with broker.client("writer") as writer:
        writer.publish("news/a", b"as before")
    assert reader.take().payload == b"as before"
    assert attempt(broker.port, user="writer", password=b"guess").reason == 0x86
    assert attempt(broker.port).reason == NOT_AUTHORIZED
    with broker.client("reader", "second") as second:
        assert second.subscribe("always/#").reasons == [NOT_AUTHORIZED]


def test_a_kick_ends_the_connection(broker: Guarded) -> None:
    with broker.client("reader") as reader:
        assert broker.get("/v1/clients/reader", method="DELETE")[0] == 200
        last = reader.expect_closed(2)
        assert last is not None
        assert last.reason == 0x98
