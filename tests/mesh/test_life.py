"""What the life port of a peer's host proves, and what it does not."""

from __future__ import annotations

import socket

import gevent
import pytest

from mesh.channel import DEAD, STOPPED, Channel, Down, Party
from mesh.detector import EVICT_MS, SILENT_MS, Dead, Detector, Effect, Heard, Opened, State, Stopped, Tick
from mesh.life import AGAIN_MS, CHECK_MS, DOUBT_MS, LIFE_PORT, Answer, Life, ask

OPEN, REFUSED, NONE = Answer.OPEN, Answer.REFUSED, Answer.NONE


def known() -> Life:
    """Of a peer whose port was open at 0 ms."""
    life = Life()
    life.opened()
    assert life.due(0, 0)
    life.answered(OPEN)
    return life


def test_a_silent_host_that_refuses_is_dead() -> None:
    life = known()
    assert not life.due(SILENT_MS - 1, SILENT_MS - 1)
    assert life.due(SILENT_MS, SILENT_MS)
    life.answered(REFUSED)
    assert life.proof() == Dead()
    assert life.proof() is None  # once


@pytest.mark.parametrize("answer", [OPEN, NONE])
def test_one_that_answers_or_is_cut_off_is_not_and_is_asked_again(answer: Answer) -> None:
    life = known()
    assert life.due(1000, SILENT_MS)
    life.answered(answer)
    assert life.proof() is None
    assert not life.due(1000 + DOUBT_MS - 1, 2 * SILENT_MS)
    assert life.due(1000 + DOUBT_MS, 2 * SILENT_MS)
    life.answered(REFUSED)
    assert life.proof() == Dead()


def test_only_one_question_at_a_time() -> None:
    life = known()
    assert life.due(1000, SILENT_MS)
    assert not life.due(5000, 4000)


def test_a_port_that_was_never_open_proves_nothing() -> None:
    """An older mqnode, or a firewall that refuses."""
    life = Life()
    assert not life.due(0, 0)  # no channel yet
    life.opened()
    assert life.due(0, 0)
    life.answered(REFUSED)
    assert not life.due(1000, SILENT_MS)


def test_a_port_that_is_refused_while_echoes_come_proves_nothing_later() -> None:
    life = known()
    assert not life.due(CHECK_MS - 1, 0)
    assert life.due(CHECK_MS, 0)
    life.answered(REFUSED)
    assert life.due(CHECK_MS + AGAIN_MS, 0)
    life.answered(REFUSED)
    assert not life.due(CHECK_MS + AGAIN_MS + SILENT_MS, SILENT_MS)
    assert life.due(2 * CHECK_MS, 0)  # it opened again
    life.answered(OPEN)
    assert life.due(2 * CHECK_MS + SILENT_MS, SILENT_MS)


def test_a_host_that_dies_just_when_it_is_asked_is_seen_all_the_same() -> None:
    life = known()
    assert life.due(CHECK_MS, 100)
    life.answered(REFUSED)
    assert life.due(CHECK_MS + 400, SILENT_MS)
    life.answered(REFUSED)
    assert life.proof() == Dead()


def test_what_an_earlier_channel_showed_is_forgotten() -> None:
    life = known()
    assert life.due(1000, SILENT_MS)
    life.opened()
    life.answered(REFUSED)
    assert life.proof() is None


def test_a_refusal_evicts_only_while_no_echo_comes() -> None:
    detector = Detector(0)
    detector.step(0, Opened())
    detector.step(0, Tick())
    for now in range(250, 5000, 250):
        detector.beat(now)
        detector.step(now, Heard(now, now // 250, 0))
        assert detector.step(now + SILENT_MS - 1, Dead()) == []
        detector.step(now, Tick())
    assert detector.state is State.UP
    assert detector.step(4750 + SILENT_MS, Dead()) == [Effect.EVICT]
    assert detector.step(4750 + SILENT_MS, Dead()) == []
    assert detector.step(4750 + EVICT_MS, Tick()) == [Effect.BEAT]
    assert detector.step(9000, Opened()) == [Effect.TRUST]


def test_who_stops_is_evicted_at_once() -> None:
    detector = Detector(0)
    detector.step(0, Opened())
    assert detector.step(0, Stopped()) == [Effect.EVICT]


def test_the_channel_says_why() -> None:
    for proof, reason in ((Dead(), DEAD), (Stopped(), STOPPED)):
        channel = Channel(Party(b"a" * 16, b"c" * 16, 1), b"b" * 16, lambda: 7, 0)
        assert channel.gone(SILENT_MS, proof) == [Down(reason)]
        assert channel.state == "evicted"
        assert channel.gone(SILENT_MS, proof) == []


@pytest.mark.parametrize(("host", "source"), [("127.0.0.1", "127.0.0.2"), ("::1", "")])
def test_real_ports(host: str, source: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=1) as listening:
        port = listening.getsockname()[1]
        interconnect = f"[{host}]:{port - LIFE_PORT}" if ":" in host else f"{host}:{port - LIFE_PORT}"
        assert ask(interconnect, source) is OPEN
    assert ask(interconnect, source) is REFUSED
    assert ask(f"{host}:65535" if source else "[::1]:65535", source) is NONE  # no such port above
    asked = gevent.spawn(ask, "192.0.2.1:7001", "127.0.0.1")  # leads nowhere
    assert asked.get(timeout=5) is NONE
