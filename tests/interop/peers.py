"""Client libraries as peers: each runs in a process of its own, driven over its stdin, heard on its stdout.

A driver (drive_NAME) takes the connection's options as JSON in its first argument, then one command a line:
subscribe {filter, qos, properties}, publish {topic, payload, qos, retain, properties}, disconnect {}; it prints one event a line:
connected {session_present, reason}, subscribed {reasons}, published {} (all acknowledgements are there), message {…}, closed {}.
Payloads are latin-1 text in JSON. Properties carry the specification's names as paho spells them.
mosquitto's clients need no driver: they are started with the same options.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.broker import wait_for

ROOT = Path(__file__).parents[2]
DRIVERS = {
    "paho": [sys.executable, "-m", "tests.interop.drive_paho"],
    "gmqtt": [sys.executable, "-m", "tests.interop.drive_gmqtt"],
    "aiomqtt": [sys.executable, "-m", "tests.interop.drive_aiomqtt"],
    "mqttjs": ["node", "tests/interop/drive_mqttjs.js"],
}
ANSWER_S = 20.0
_MOSQUITTO_VERSIONS = {3: "mqttv31", 4: "mqttv311", 5: "mqttv5"}


@dataclass(frozen=True)
class Kind:
    """A library, a version of the protocol (3 is MQTT 3.1, 4 is 3.1.1), and how the bytes travel: tcp, ws or tls."""

    library: str
    version: int
    transport: str = "tcp"

    def __str__(self) -> str:
        return f"{self.library}-{self.version}" + ("" if self.transport == "tcp" else f"-{self.transport}")


@dataclass
class Message:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass
class Session:
    """How a peer connects."""

    port: int
    client_id: str
    clean: bool = True
    will: dict[str, Any] | None = None
    ca: str = ""
    aliases: int = 0  # topic alias maximum of CONNECT


class _Process:
    """A child, its lines as they come."""

    def __init__(self, command: list[str], lines: Callable[[bytes], None]) -> None:
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        self._complaints: deque[bytes] = deque(maxlen=50)
        for stream, take in ((self.child.stdout, lines), (self.child.stderr, self._complaints.append)):
            assert stream is not None
            threading.Thread(target=_each_line, args=(stream, take), daemon=True).start()

    def complaints(self) -> str:
        return b"".join(self._complaints).decode(errors="replace")

    def write(self, data: bytes) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(data)
        self.child.stdin.flush()

    def end(self) -> None:
        """No more commands; it goes by itself, or is made to."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.close()
            self.child.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self.kill()

    def kill(self) -> None:
        self.child.kill()
        self.child.wait(5)


def _each_line(stream: Any, take: Callable[[bytes], None]) -> None:
    """Every line, and b"" when it is over."""
    for line in stream:
        take(line)
    take(b"")


class Driven:
    """A peer behind one of DRIVERS."""

    def __init__(self, kind: Kind, session: Session) -> None:
        self.kind = kind
        options = {"version": kind.version, "transport": kind.transport, **vars(session)}
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._messages: queue.Queue[Message] = queue.Queue()
        self._process = _Process([*DRIVERS[kind.library], json.dumps(options)], self._line)
        self.session_present: bool | None = self._event("connected")["session_present"]

    def _line(self, line: bytes) -> None:
        event = json.loads(line or b'{"event": "gone"}')
        if event["event"] == "message":
            del event["event"]
            event["payload"] = event["payload"].encode("latin-1")
            self._messages.put(Message(**event))
        else:
            self._events.put(event)

    def _event(self, name: str) -> dict[str, Any]:
        try:
            event = self._events.get(timeout=ANSWER_S)
        except queue.Empty:
            raise AssertionError(f"{self.kind}: no {name} in {ANSWER_S} s\n{self._process.complaints()}") from None
        assert event["event"] == name, f"{self.kind}: {event} instead of {name}\n{self._process.complaints()}"
        return event

    def _order(self, **command: Any) -> None:
        self._process.write(json.dumps(command).encode() + b"\n")

    def subscribe(self, filter: str, qos: int, **properties: Any) -> None:
        self._order(do="subscribe", filter=filter, qos=qos, properties=properties)
        assert self._event("subscribed")["reasons"] == [qos]

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False, **properties: Any) -> None:
        """Returns when it is acknowledged in full."""
        text = payload.decode("latin-1")
        self._order(do="publish", topic=topic, payload=text, qos=qos, retain=retain, properties=properties)
        self._event("published")

    def message(self, timeout_s: float = ANSWER_S) -> Message:
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"{self.kind}: no message in {timeout_s} s\n{self._process.complaints()}") from None

    def disconnect(self) -> None:
        self._order(do="disconnect")
        self._event("closed")
        self._process.end()

    def die(self) -> None:
        """The process ends without a DISCONNECT."""
        self._process.kill()

    def close(self) -> None:
        if self._process.child.poll() is None:
            self._process.kill()


class Mosquitto:
    """mosquitto_sub listens for as long as the peer lives; each publish is a mosquitto_pub."""

    def __init__(self, kind: Kind, session: Session) -> None:
        self.kind, self._session = kind, session
        self.session_present: bool | None = None  # the clients do not tell
        self._messages: queue.Queue[Message] = queue.Queue()
        self._subscribed = threading.Event()
        self._filters: list[str] = []
        self._process: _Process | None = None
        if session.will is not None or not session.clean:
            self._listen("$SYS/none", 1)  # these clients connect with a filter only

    def _options(self) -> list[str]:
        options = ["-h", "localhost", "-p", str(self._session.port), "-V", _MOSQUITTO_VERSIONS[self.kind.version]]
        return options + (["--cafile", self._session.ca] if self.kind.transport == "tls" else [])

    def _listen(self, filter: str, qos: int) -> None:
        """Start mosquitto_sub with this filter and those before: its subscriptions are its arguments."""
        if self._process is not None:
            self._process.child.terminate()
            self._process.child.wait(5)
        self._filters.append(filter)
        self._subscribed.clear()
        command = [
            "stdbuf",
            "-oL",
            "mosquitto_sub",
            *self._options(),
            "-i",
            self._session.client_id,
            "-d",
            "-q",
            str(qos),
        ]
        command += ["-F", "message %q %r %x %t"] + ([] if self._session.clean else ["-c"])
        if will := self._session.will:
            command += [
                "--will-topic",
                will["topic"],
                "--will-payload",
                will["payload"],
                "--will-qos",
                str(will["qos"]),
            ]
            command += ["--will-retain"] if will["retain"] else []
        for each in self._filters:
            command += ["-t", each]
        self._process = _Process(command, self._line)
        wait_for(self._subscribed.is_set, ANSWER_S, self._process.complaints)

    def _line(self, line: bytes) -> None:
        words = line.decode().rstrip("\n").split(" ", 4)
        if words[0] == "message":
            self._messages.put(Message(words[4], bytes.fromhex(words[3]), int(words[1]), words[2] == "1"))
        elif words[0] == "Subscribed":
            self._subscribed.set()

    def subscribe(self, filter: str, qos: int) -> None:
        self._listen(filter, qos)

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False) -> None:
        command = ["mosquitto_pub", *self._options(), "-t", topic, "-q", str(qos)]
        command += (["-s"] if payload else ["-n"]) + (["-r"] if retain else [])
        subprocess.run(command, input=payload, check=True, timeout=ANSWER_S)

    def message(self, timeout_s: float = ANSWER_S) -> Message:
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"{self.kind}: no message in {timeout_s} s") from None

    def disconnect(self) -> None:
        """mosquitto_sub disconnects on SIGTERM."""
        assert self._process is not None
        self._process.child.terminate()
        self._process.child.wait(5)

    def die(self) -> None:
        assert self._process is not None
        self._process.kill()

    def close(self) -> None:
        if self._process is not None and self._process.child.poll() is None:
            self._process.kill()


Peer = Driven | Mosquitto


def connect(kind: Kind, session: Session) -> Peer:
    return Mosquitto(kind, session) if kind.library == "mosquitto" else Driven(kind, session)
