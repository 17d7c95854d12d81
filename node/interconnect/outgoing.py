"""Bytes that wait for a socket. What is being written stays where it is, however much is added meanwhile."""

from __future__ import annotations

from typing import Any


class Outgoing:
    def __init__(self) -> None:
        self._leaving = memoryview(b"")
        self._waiting = bytearray()

    def __len__(self) -> int:
        return len(self._leaving) + len(self._waiting)

    def add(self, *parts: bytes | bytearray | memoryview) -> None:
        for part in parts:
            self._waiting += part

    def clear(self) -> None:
        self._leaving, self._waiting = memoryview(b""), bytearray()

    def write(self, link: Any) -> None:
        """As much as the socket takes at once. A `clear` meanwhile stands: what came after it is for another socket."""
        if not self._leaving:
            self._leaving, self._waiting = memoryview(self._waiting), bytearray()
        leaving = self._leaving
        sent = link.send(leaving)
        if leaving is self._leaving:
            self._leaving = leaving[sent:]
