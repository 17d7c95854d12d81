"""What an operator asks of a host that does not serve yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.admin.link import LinkError
from tests.simulation.members import Admin
from tests.simulation.three import Three


def test_nothing_is_deleted_by_a_host_that_may_have_to_undo_it(tmp_path: Path) -> None:
    three = Three(tmp_path)
    host = three.hosts[0]
    admin = Admin(host)  # type: ignore[arg-type]
    three.subscriber(host, "it", 100)
    for name, arguments in (
        ("session_delete", {"cid": "it"}),
        ("retained_delete", {"topic": "it"}),
        ("settings_put", {"settings": {}}),
    ):
        host.stop_keeper()
        host.start_keeper_again()
        with pytest.raises(LinkError, match="does not serve yet"):
            admin.ask_keeper(name, **arguments)
    three.world.run(5000)
    assert admin.ask_keeper("session_delete", cid="it")
    for each in three.hosts:
        each.stop("at the end")
