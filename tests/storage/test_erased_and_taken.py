"""A host erases what it had put and, in the same commit or before that is told, takes what another one put there meanwhile."""

from __future__ import annotations

import pytest

from tests.storage.stores import A, B, Host, tell

DATABASE, KEY = "packet_ids", bytes(8) + b"\0\1"


def held(host: Host) -> bytes | None:
    with host[0].environment.begin() as transaction:
        value: bytes | None = transaction.get(KEY, db=host[0].databases[DATABASE])
        return value


@pytest.mark.parametrize("in_one_commit", [True, False])
@pytest.mark.parametrize("theirs", [b"aaaa", b"zzzz"])  # loses against ours, or wins
def test_the_other_host_forgets_it_too(hosts: tuple[Host, Host], in_one_commit: bool, theirs: bytes) -> None:
    (_, a), (_, b) = hosts
    a.begin()
    a.put(DATABASE, KEY, theirs)
    a.commit()
    [*_, (seq, put)] = a.missed(1, 1 << 20)
    alone = a.context()  # it does not know of ours
    b.begin()
    b.put(DATABASE, KEY, b"mmmm")
    b.commit()
    tell(b, B, a)
    b.begin()
    b.delete(DATABASE, KEY)
    if not in_one_commit:
        b.commit()
        b.begin()
    b.apply_changes(A, put, alone)
    b.learn({A: seq})
    b.commit()
    tell(b, B, a)
    tell(a, A, b)
    assert held(hosts[0]) == held(hosts[1])
    assert a.digests() == b.digests()
