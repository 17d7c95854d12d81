"""Workers are told whose clients are connected, of the members of shared subscriptions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from node.sessions.outbox import Outbox
from node.sessions.presence import Presence


def test_of_all_sessions_of_a_host_that_goes_each_worker_is_told_at_once() -> None:
    """An event for each session and worker would keep the keeper busy for seconds."""
    outbox, gone = Outbox(2), {2}
    outbox.told = ["worker-0", "worker-1"]
    records = {
        sid: SimpleNamespace(sid=sid, owner=2 + sid % 2, attached=True, client_id=f"c{sid}") for sid in range(10)
    }
    elsewhere = SimpleNamespace(number=1, is_gone=lambda number: number in gone)
    shared = SimpleNamespace(shared=dict.fromkeys(range(8), 1))
    directory: Any = SimpleNamespace(by_sid=records, elsewhere=elsewhere, subscriptions=shared, outbox=outbox)
    presence = Presence(directory)
    presence.host_changed(2)
    told = [(link, message) for link, _, message in outbox.take()]
    assert told == [(link, ["presence", {"online": [], "offline": [0, 2, 4, 6]}]) for link in outbox.told]
    gone.clear()
    presence.host_changed(2)
    assert [message[1]["online"] for _, _, message in outbox.take()] == [[0, 2, 4, 6]] * 2
    presence.host_changed(9)
    assert not outbox.take()
