"""What the keeper has to tell the workers when the turn is committed, and its questions that they have not answered yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

REQUEST, REPLY, EVENT = 4, 5, 6  # kinds of frames, docs/internals.md

NUMBERS_BITS = 20  # of the requests within a millisecond

Link = Any  # whatever the process around calls a worker's link; only compared
Answer = Callable[[bool, Any], None]


class Outbox:
    """`links`: the workers that said HELLO. `frames`: (link, kind, message), to be sent after the commit, when the peers have it,
    too; `urgent` ones before: the peers of a host wait for its workers' answers to them."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.links: list[Link] = []
        self.frames: list[tuple[Link, int, Any]] = []
        self.urgent: list[tuple[Link, int, Any]] = []
        self.told: list[Link] = []  # workers, those too that wait for their welcome: they are told what changes
        self._unasked: list[tuple[str, dict[str, Any], Callable[[], None]]] | None = []  # until all workers are told
        self._asked: dict[int, tuple[Link, Answer | None]] = {}
        self._number = 0

    def began(self, now_ms: int) -> None:
        """What a keeper before us asked other hosts may be answered now: no request of ours has a number of those."""
        self._number = now_ms << NUMBERS_BITS

    def take(self) -> list[tuple[Link, int, Any]]:
        taken, self.frames = self.frames, []
        return taken

    def take_urgent(self) -> list[tuple[Link, int, Any]]:
        taken, self.urgent = self.urgent, []
        return taken

    def event(self, link: Link, method: str, arguments: dict[str, Any], urgent: bool = False) -> None:
        (self.urgent if urgent else self.frames).append((link, EVENT, [method, arguments]))

    def broadcast(self, method: str, arguments: dict[str, Any], urgent: bool = False) -> None:
        for link in self.told:
            self.event(link, method, arguments, urgent)

    def reply(self, link: Link, number: int, ok: bool, result: Any) -> None:
        self.frames.append((link, REPLY, [number, ok, result]))

    def hurry(self) -> None:
        """The frame that was added last says nothing that peers would have to know."""
        self.urgent.append(self.frames.pop())

    def ask(
        self, link: Link, method: str, arguments: dict[str, Any], answer: Answer | None = None, urgent: bool = False
    ) -> None:
        (self.urgent if urgent else self.frames).append(
            (link, REQUEST, [self._expect(link, answer), method, arguments])
        )

    def _expect(self, link: Link, answer: Answer | None) -> int:
        self._number += 1
        self._asked[self._number] = (link, answer)
        return self._number

    def ask_all(self, method: str, arguments: dict[str, Any], answered: Callable[[], None]) -> None:
        """`answered` once every worker has, also those that are not back since our start. Urgent."""
        if self._unasked is not None:
            self._unasked.append((method, arguments, answered))
            return
        open_answers = len(self.told)

        def one(ok: bool, result: Any) -> None:
            nonlocal open_answers
            open_answers -= 1
            if open_answers == 0:
                answered()

        for link in self.told:
            self.ask(link, method, arguments, one, urgent=True)
        if not self.told:
            answered()

    def tell(self, link: Link) -> None:
        self.told.append(link)
        if len(self.told) >= self.workers:
            self.all_told()

    def all_told(self) -> None:
        """All workers are there, or late."""
        unasked, self._unasked = self._unasked or [], None
        for each in unasked:
            self.ask_all(*each)

    def answered(self, number: int, ok: bool, result: Any) -> None:
        _, answer = self._asked.pop(number, (None, None))
        if answer is not None:
            answer(ok, result)

    def left(self, link: Link) -> None:
        """It will not answer any more: what it was asked counts as done."""
        for links in (self.links, self.told):
            if link in links:
                links.remove(link)
        for number in [number for number, (to, _) in self._asked.items() if to is link]:
            self.answered(number, True, None)
