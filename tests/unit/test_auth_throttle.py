"""The limiter of failed CONNECTs: buckets, time, memory."""

from __future__ import annotations

import pytest

from node.auth import throttle
from node.auth.throttle import Throttle


def test_an_address_is_refused_after_its_failures_and_let_in_later() -> None:
    limiter = Throttle(6)
    for _ in range(6):
        assert limiter.allowed("192.0.2.1", 100.0)
        limiter.failed("192.0.2.1", 100.0)
    assert not limiter.allowed("192.0.2.1", 100.0)
    assert not limiter.allowed("192.0.2.1", 109.9)
    assert limiter.allowed("192.0.2.2", 100.0)
    assert limiter.allowed("192.0.2.1", 110.1)  # 6 a minute: one each 10 s
    limiter.failed("192.0.2.1", 110.1)
    assert not limiter.allowed("192.0.2.1", 110.1)
    for second in range(200, 206):  # a bucket never holds more than its rate
        assert limiter.allowed("192.0.2.1", float(second * 100))
    for _ in range(6):
        limiter.failed("192.0.2.1", 30_000.0)
    assert not limiter.allowed("192.0.2.1", 30_000.0)


def test_time_that_steps_back_gives_nothing() -> None:
    limiter = Throttle(1)
    limiter.failed("a", 100.0)
    assert not limiter.allowed("a", 0.0)


def test_zero_is_no_limit() -> None:
    limiter = Throttle(0)
    for _ in range(1000):
        limiter.failed("192.0.2.1", 0.0)
    assert limiter.allowed("192.0.2.1", 0.0)
    assert not len(limiter)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("[2001:db8::1]", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("not:an:address", "not:an:address", True),
        ("", "", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    limiter = Throttle(1)
    limiter.failed(one, 0.0)
    assert limiter.allowed(other, 0.0) is not same


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "ADDRESSES_MAX", 10)
    limiter = Throttle(1)
    for number in range(100):
        limiter.failed(f"address {number}", float(number) / 100)
        assert len(limiter) <= 10
    assert not limiter.allowed("address 99", 1.0)
    for number in range(100, 200):
        assert limiter.allowed(f"address {number}", 1.0)  # asking makes no bucket
    assert len(limiter) == 10
