"""A host sent a QoS 2 message and started anew; it settles when it hears that another one had done with that meanwhile."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from node.config import Limits
from storage.writer import Writer
from tests.simulation.worker import DONE, operation
from tests.storage.stores import A, B, Host, host, tell
from tests.storage.test_copied import SID, publish, waiting


def numbers(host: Host) -> list[int]:
    store, _ = host
    with store.environment.begin() as transaction:
        keys = transaction.cursor(db=store.databases["queue"]).iternext(values=False)
        return [int.from_bytes(key[8:], "big") for key in keys]


@pytest.mark.parametrize(("is_sent", "dies_again"), [(True, False), (True, True), (False, False)])
def test_its_client_gets_pubrel_from_who_delivers(tmp_path: Path, is_sent: bool, dies_again: bool) -> None:
    """That may be the host itself: a client that is connected is sent what is behind what it had.

    `dies_again`: before it has settled.
    """
    a_host = (_, a) = host(tmp_path / "a", A)
    store, b = host(tmp_path / "b", B)
    a.queue_of(SID)
    b.foreign.add(SID)
    publish(a)
    tell(a, A, b)
    [number] = numbers(a_host)
    b.begin()
    last = b.own(SID, False, 0)
    b.commit()
    a.begin()
    a.apply(struct.pack("<Q", 2) + operation(DONE, struct.pack("<QQ", SID, number)), 0, 0, 0)
    a.commit()
    b = Writer(store.environment, store.databases, Limits(), B)
    b.is_settling, b.may_have_sent = True, lambda sid, qseq: is_sent
    tell(a, A, b)
    assert waiting((store, b)) == [True] * is_sent
    if dies_again:
        b = Writer(store.environment, store.databases, Limits(), B)
    b.begin()
    b.settle()
    b.commit()
    assert waiting((store, b)) == [True] * is_sent
    assert all(each > last and each % 65535 == number % 65535 for each in numbers((store, b)))
    for environment in (store.environment, a_host[0].environment):
        environment.close()
