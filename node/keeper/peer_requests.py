"""What the keeper of another host asks and tells ours between its commits: requests, events, answers, digests."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from node.keeper.digests import Digests
from node.keeper.peer import Peer, Say
from node.keeper.sources import Sources
from node.sessions.directory import Directory

REQUESTS, EVENTS = {"release", "kick"}, {"connected", "given"}

_decode = msgspec.msgpack.decode


class PeerRequests:
    """`refuse(peer, what)`: only a newer release says it, and without it what follows is not the same."""

    def __init__(
        self, directory: Directory, sources: Sources, digests: Digests, refuse: Callable[[Peer, str], None]
    ) -> None:
        self._directory, self._sources, self._digests, self._refuse = directory, sources, digests, refuse

    def take(self, peer: Peer, say: int, message: bytes, now_ms: int) -> None:
        if say == Say.REPLY:
            self._directory.outbox.answered(*_decode(message))
        elif say in (Say.DIGEST, Say.REPAIR):
            if say == Say.DIGEST:  # also of who commits nothing itself
                self._sources.look_at(peer, _decode(message)[0])
            self._digests.take(peer, say, message, now_ms)
        else:
            self._asked(peer, say, message, now_ms)

    def _asked(self, peer: Peer, say: int, message: bytes, now_ms: int) -> None:
        content = _decode(message) if say in (Say.REQUEST, Say.EVENT) else ("", {})
        method, arguments = content[-2:]
        if say == Say.REQUEST and method in REQUESTS:
            self._directory.requests.take(peer, content[0], method, arguments, now_ms)
        elif say == Say.EVENT and method in EVENTS:
            getattr(self._directory.elsewhere, method)(**arguments)
        else:
            self._refuse(peer, f"message {say} {method}".rstrip())
