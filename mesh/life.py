"""Is the host of a silent peer dead? Its life port tells: LIFE_PORT above that of its interconnect (node/life_port.py).

The process whose end ends all others of a host holds the port, and the kernel answers there, whatever those do. Connected: it may
live. Dead: it is dead. No answer: the line may be cut, nothing is known. So a refusal proves something only where the port
was open before, and while no echo comes back: a firewall that refuses connections to the port alone evicts nobody.

    when                                       asked         open     refused                    no answer
    the channel opens, and every 10 s          does it?      listens  the second time: does not  –
    it listens, no echo for SILENT_MS          is it dead?   –        dead                       –

Pure but for `ask`.
"""

from __future__ import annotations

import math
import struct
from enum import Enum, auto

from gevent import socket

from mesh.detector import SILENT_MS, Dead, Gone, Stopped

LIFE_PORT = 4  # above that of the interconnect
CHECK_MS, AGAIN_MS, DOUBT_MS = 10_000, 1_000, 100
ANSWER_S = 0.4
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, which leaves no TIME_WAIT


class Answer(Enum):
    OPEN = auto()
    REFUSED = auto()
    NONE = auto()


class Life:
    """Of one peer."""

    def __init__(self) -> None:
        self.listens = False  # as far as is known
        self._refusals = 0  # one after the other, while echoes came
        self._asked_ms = math.inf  # nobody is asked before the channel was open
        self._waits = self._is_doubt = False
        self._proof: Gone | None = None

    def opened(self) -> None:
        """A new channel: what was known of the old one's host says nothing of this one's."""
        self.listens, self._refusals, self._asked_ms, self._proof = False, 0, -math.inf, None

    def due(self, now_ms: float, silent_ms: float) -> bool:
        """Is it to be asked now? Then `answered` must follow."""
        is_doubt = silent_ms >= SILENT_MS
        pause_ms = DOUBT_MS if is_doubt else AGAIN_MS if self._refusals else CHECK_MS
        if self._waits or (is_doubt and not self.listens) or now_ms - self._asked_ms < pause_ms:
            return False
        self._asked_ms, self._waits, self._is_doubt = now_ms, True, is_doubt
        return True

    def answered(self, answer: Answer) -> None:
        self._waits = False
        if self._is_doubt:
            self._proof = Dead() if answer is Answer.REFUSED and self.listens else self._proof
        elif answer is Answer.OPEN:
            self.listens, self._refusals = True, 0
        elif answer is Answer.REFUSED:  # it may have died just now: then the next one is asked in doubt
            self._refusals += 1
            self.listens = self.listens and self._refusals < 2

    def stopped(self) -> None:
        """It said so."""
        self._proof = Stopped()

    def proof(self) -> Gone | None:
        """That it is gone, told once."""
        proof, self._proof = self._proof, None
        return proof


def ask(address: str, source: str) -> Answer:
    """At the life port of the host whose interconnect is at `address`, both as IP addresses; waits, in its greenlet."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        try:
            if source:
                connection.bind((source, 0))
            connection.connect((host, int(port) + LIFE_PORT))
        except ConnectionRefusedError:
            return Answer.REFUSED
        except (OSError, OverflowError):  # the last: no such port
            return Answer.NONE
    return Answer.OPEN
