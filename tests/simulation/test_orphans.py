"""Messages for a session whose host is dead: they wait at the others, within the limits of a queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config.keys import Limits
from tests.simulation.three import Three

MOST, SENT = 10, 30


@pytest.mark.parametrize("policy", ["drop_new", "drop_oldest"])
def test_what_waits_for_the_session_of_a_dead_host_is_bounded(tmp_path: Path, policy: str) -> None:
    three = Three(tmp_path, Limits(max_queued_messages=MOST, queue_policy=policy))  # type: ignore[arg-type]
    a, b, c = three.hosts
    three.mortal(c, "it", 0)
    three.world.run(500)
    three.kill(c)
    three.world.run(500)
    for _ in range(SENT):
        three.publish(a, "it")
        three.world.run(10)
    assert [three.inbox(a), three.inbox(b)] == [MOST, MOST]
    assert a.keeper is not None
    three.mortal(b, "it", 0)
    three.world.run(4_000)
    assert three.queued() == [MOST, MOST]
    three.publish(a, "it")  # its host is here again, and bounds it
    three.world.run(500)
    assert three.queued() == [MOST, MOST]
    for host in three.hosts:
        host.stop("at the end")
