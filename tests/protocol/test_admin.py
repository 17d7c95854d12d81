"""The admin API and its health address, as load balancers and Prometheus use them."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

import pytest

from tests.broker import free_port, running, wait_for
from tests.mqtt import CONNACK, Client, connect_packet


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_health_address_answers_without_a_token_and_only_what_is_open() -> None:
    port = free_port()
    with running(f'health_bind = "127.0.0.1:{port}"\n', workers=1) as broker:
        for path in ("/live", "/ready", "/balancer", "/metrics"):
            assert status(f"http://127.0.0.1:{port}{path}") == 200
        assert status(f"http://127.0.0.1:{port}/v1/status") == 404
        assert status(f"http://127.0.0.1:{broker.admin_port}/v1/status") == 401


def test_what_is_no_http_is_one_event_of_the_log_and_who_says_nothing_is_let_go() -> None:
    port = free_port()
    with running(f'health_bind = "127.0.0.1:{port}"\n', workers=1) as broker:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
            for other in (port, broker.admin_port):
                with socket.create_connection(("127.0.0.1", other), timeout=10) as garbage:
                    garbage.sendall(b"\x16\x03\x01%s\x85\x1b[2J forged\r\n\r\n")
                    assert garbage.recv(100).startswith(b"HTTP/1.1 400 ")
            assert silent.recv(100) == b""
        events = [json.loads(line) for line in broker.log().splitlines()]
        assert [each["level"] for each in events if each["event"] == "bad_request"] == ["warning"] * 2


@pytest.mark.parametrize(("section", "stage"), [("[[listeners]]", "listener_full"), ("[limits]", "worker_full")])
def test_one_connection_too_many_is_told_so_and_leaves_room_when_another_ends(section: str, stage: str) -> None:
    port = free_port()
    bound = "max_connections = 2\n"
    listener = f'[[listeners]]\ntype = "tcp"\nbind = "127.0.0.1:{port}"\n'
    more = listener + bound if section == "[[listeners]]" else listener + section + "\n" + bound
    with running(more, workers=1) as broker, Client(port) as first, Client(port) as second:
        first.connect("first")
        second.connect("second")
        with Client(port) as third:
            third.send(connect_packet("third"))
            refusal = third.expect_closed()
            assert refusal is not None
            assert refusal.reason == 0x89
        assert broker.metric('mqnode_connect_total{result="refused"}') == 1
        assert broker.metric(f'mqnode_overload_shed_total{{stage="{stage}"}}') == 1
        first.disconnect()
        wait_for(lambda: accepted(port), what="an ended connection still counts")


def accepted(port: int) -> bool:
    with Client(port) as client:
        client.send(connect_packet("another"))
        return client.expect(CONNACK).reason == 0
