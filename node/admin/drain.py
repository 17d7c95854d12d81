"""The clients of this host go to the others, and on `mqnode leave` the host, too: one step after the other, in a greenlet.

serving -> waiting (nobody is accepted; clients may go by themselves) -> moving (they are sent away, so many a second) -> copying
(the others get what they lack, and the sessions) -> drained, or left (and its store is a new, empty one: a host that joins again
gets all from the others). A leave that does not get through in its time, or is cancelled, ends with the host serving again. All of
this is in the memory of this process: if it dies, the host serves again, and the command can be given again.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gevent

from node import log
from node.admin import clients
from node.admin.host import Host
from node.admin.link import LinkError

STEP_S = 0.1
RATE_LEAST = 10.0  # clients a second, where none was given
TOLD_S = 5.0  # between two lines of the log
SESSIONS_A_STEP = 2000


REMOVED = (
    "another host removed this one: what only its disk has is not on the others. Nothing was done with it. With mqnode join it "
    "comes along, and then: mqnode leave"
)


class DrainError(Exception):
    """It cannot begin; the text says why, and what to do."""


@dataclass(frozen=True)
class Order:
    leave: bool
    rate: int  # clients a second; 0: as many as half of the time takes
    grace_s: float
    timeout_s: float


class Drain:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._log = log.logger("admin")
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._is_copied = False  # when the host was told to leave
        self._order = Order(False, 0, 0, 0)
        self._phase, self._failure = "serving", ""
        self._began_s = 0.0
        self._rate = RATE_LEAST
        self._allowed = 0.0  # clients that may be sent away now, by the rate
        self._sessions: int | None = None  # that this host still owns; None: not counted
        self._behind: list[str] = []  # hosts that lack something

    @property
    def runs(self) -> bool:
        return self._greenlet is not None and not self._greenlet.dead

    def start(self, order: Order) -> None:
        """Nothing happens if it runs already, but a drained host may be told to leave."""
        if self.runs and (not order.leave or self._order.leave):
            return
        if self._host.has_left:
            if self._host.ask_interconnect("nodes")["was_removed"]:
                raise DrainError(REMOVED)
            return
        if not any(each["in_sync"] for each in self._others().values()):
            raise DrainError(
                "no other host is there and in sync: clients would have nowhere to go. Nothing was done. mqnode cluster nodes"
            )
        self._stop()
        self._order, self._failure, self._sessions, self._behind, self._is_copied = order, "", None, [], False
        self._began_s, self._rate, self._allowed = time.monotonic(), RATE_LEAST, 0.0
        self._host.draining = True
        self._say("waiting")
        self._greenlet = gevent.spawn(self._run)

    def cancel(self) -> bool:
        """The host serves again; False if it did, or has left."""
        if not self._host.draining or self._host.has_left:
            return False
        self._stop()
        self._serve("cancelled")
        return True

    def _stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()

    def describe(self) -> dict[str, Any]:
        return {
            "phase": self._phase_now(),
            "leave": self._order.leave,
            "clients": self._clients(),
            "sessions": self._sessions,
            "behind": self._behind,
            "failure": self._failure,
        }

    def _phase_now(self) -> str:
        if self.runs:
            return self._phase
        if self._host.has_left:
            return "removed" if self._phase == "removed" else "left"
        return "serving" if self._phase in ("left", "removed") else self._phase  # it has joined again

    # -- the steps ----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        order = self._order
        deadline_s = self._began_s + order.timeout_s
        told_s, grace_s = 0.0, self._began_s + order.grace_s
        while self._step(grace_s):
            now_s = time.monotonic()
            if now_s > deadline_s:
                self._too_late()
                return
            if now_s - told_s > TOLD_S:
                told_s = now_s
                self._log.info("drain_progress", **self.describe())
            gevent.sleep(STEP_S)
        if self._is_removed():
            self._host.draining, self._failure = False, REMOVED
            self._say("removed")
            return
        if order.leave:
            self._host.draining = False  # no member, it serves nobody; if it joins again, it does
        self._failure = ""  # what did not answer meanwhile did later
        self._say("left" if order.leave else "drained")

    def _step(self, grace_s: float) -> bool:
        """Do a little; is there more to do?"""
        if self._is_removed():
            return False
        try:
            if self._phase == "waiting":
                if time.monotonic() < grace_s and self._clients():
                    return True
                self._say("moving")
            if not self._host.has_left and self._move():  # while copying, too: who was about to be let in
                return True
            if self._phase == "moving":
                if not self._order.leave:
                    return False
                self._say("copying")
            if not self._host.has_left:
                self._is_copied = self._copied()  # each time until it has left
                if not self._is_copied:
                    return True
                self._host.ask_interconnect("leave")
            return bool(self._host.ask_keeper("end_store"))  # until it is a new one
        except LinkError as error:  # a process that is started anew
            self._failure = str(error)
            return True

    def _is_removed(self) -> bool:
        """By another host, before it had got through: its store is all that has what is not copied."""
        return self._host.has_left and not self._is_copied

    def _too_late(self) -> None:
        self._failure = f"it did not get through in {self._order.timeout_s:g} s, while {self._phase}"
        command = "leave" if self._order.leave else "cluster drain"
        self._log.warning(
            "drain_too_late", cause=self._failure, clients=self._clients(), sessions=self._sessions, behind=self._behind,
            effect="the host stays a member and serves again" if self._order.leave else "what is left stays here",
            next=f"mqnode cluster nodes; then again, with more time: mqnode {command} -t SECONDS",
        )  # fmt: skip
        if self._order.leave:
            self._serve(self._failure)
        else:
            self._say("drained")

    def _serve(self, why: str) -> None:
        self._failure = why
        self._host.draining = False
        with suppress(LinkError):  # a worker that is started anew looks by itself
            for index in range(self._host.workers):
                self._host.ask_worker(index, "move", count=0, references={}, reason=0)  # it listens again, at once
        self._say("serving")

    def _say(self, phase: str) -> None:
        self._phase = phase
        self._log.info("drain", **self.describe())

    # -- clients --------------------------------------------------------------------------------------------------------------

    def _clients(self) -> int:
        return sum(clients.connected(self._host))

    def _move(self) -> bool:
        """Send some away; is anybody left?"""
        order = self._order
        self._rate = order.rate or max(self._rate, 2 * self._clients() / max(1.0, order.timeout_s))
        self._allowed += self._rate * STEP_S
        allowed = int(self._allowed)
        self._allowed -= allowed
        reason = clients.SERVER_MOVED if order.leave else clients.USE_ANOTHER_SERVER
        return clients.send_away(self._host, allowed, reason) > 0

    # -- what is stored -------------------------------------------------------------------------------------------------------

    def _others(self) -> dict[str, dict[str, Any]]:
        """By name, the other members, as the keeper knows them."""
        if not self._host.config.interconnect.bind:
            return {}
        known = {each["node_id"]: each for each in self._host.ask_keeper("peers")["peers"]}
        unknown = {"number": 0, "in_sync": False, "lag_ops": 0}
        nodes = self._host.ask_interconnect("nodes")["nodes"]
        return {each["name"]: known.get(each["node_id"], unknown) for each in nodes if not each["this_host"]}

    def _copied(self) -> bool:
        """Is every session another host's, and all that was ever stored here on every other member's disk?"""
        others = self._others()
        self._behind = [name for name, each in others.items() if not each["in_sync"] or each["lag_ops"]]
        are_in_sync = bool(others) and all(each["in_sync"] for each in others.values())
        numbers = [each["number"] for each in others.values()]
        most = SESSIONS_A_STEP if are_in_sync else 0  # they are counted
        self._sessions = self._host.ask_keeper("hand_over", to=numbers, most=most)
        return are_in_sync and not self._sessions and not self._behind
