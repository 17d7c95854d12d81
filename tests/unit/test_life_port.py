"""The port that shows that a host lives: it is there before its address is, takes everybody, and its lack stops nothing."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from mesh.life import LIFE_PORT, Answer, ask
from node.life_port import LifePort, open_life_port
from tests.broker import free_port, running


@pytest.mark.parametrize("address", ["192.0.2.1", "[2001:db8::1]", "0.0.0.0", "[::]", "localhost"])
def test_it_opens_wherever_the_interconnect_may(address: str) -> None:
    port = free_port() - LIFE_PORT
    with open_life_port(f"{address}:{port}") as listening:
        assert listening.getsockname()[1] == port + LIFE_PORT
        assert not listening.get_inheritable()


def test_it_answers_however_many_have_asked() -> None:
    bind = f"127.0.0.1:{free_port() - LIFE_PORT}"
    with open_life_port(bind) as listening:
        port = LifePort(listening)
        for _ in range(5):
            for _ in range(50):  # more in all than may wait
                assert ask(bind, "") is Answer.OPEN
            port.handle_read_event()
    assert ask(bind, "") is Answer.REFUSED


def test_who_stays_connected_takes_nobodys_place() -> None:
    bind = f"127.0.0.1:{free_port() - LIFE_PORT}"
    with open_life_port(bind) as listening, ExitStack() as stack:
        port = LifePort(listening)
        for _ in range(200):
            guest = stack.enter_context(socket.create_connection(listening.getsockname(), 5))
            guest.send(b"GET / HTTP/1.1\r\n\r\n")
            port.handle_read_event()
        assert ask(bind, "") is Answer.OPEN


def test_a_host_without_it_serves_and_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1] - LIFE_PORT}"
        with running(f'[interconnect]\nbind = "{bind}"\n', workers=1) as broker:
            assert '"event":"life_port_closed"' in broker.log()
            assert "Address already in use" in broker.log()
