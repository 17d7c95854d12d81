"""The store clock, on which messages and sessions expire, does not follow a wall clock that is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.process import BOOT_ID, boot_id
from storage.store import open_store
from storage.verify import verify

MIB = 1 << 20
HOUR_MS = 3_600_000
WALL_MS = 1_795_000_000_000
BOOT, NEXT_BOOT, UNKNOWN = b"b" * 16, b"n" * 16, b""


def now_ms(folder: Path, wall_ms: int, monotonic_ms: int, boot: bytes) -> int:
    """What the clock of a keeper says that starts then."""
    store = open_store(folder, MIB, MIB)
    try:
        return store.start_clock(wall_ms, monotonic_ms, boot) + monotonic_ms
    finally:
        store.environment.close()


@pytest.mark.parametrize("step_ms", [-HOUR_MS, 0, HOUR_MS])
def test_within_a_boot_the_wall_clock_does_not_matter(tmp_path: Path, step_ms: int) -> None:
    assert now_ms(tmp_path, WALL_MS, 5000, BOOT) == WALL_MS
    assert now_ms(tmp_path, WALL_MS + step_ms, 8000, BOOT) == WALL_MS + 3000
    assert now_ms(tmp_path, WALL_MS - step_ms, 9000, BOOT) == WALL_MS + 4000
    verify(tmp_path / "data.mdb")


@pytest.mark.parametrize("boots", [(BOOT, NEXT_BOOT), (UNKNOWN, UNKNOWN)])
def test_after_a_reboot_time_goes_on_and_never_back(tmp_path: Path, boots: tuple[bytes, bytes]) -> None:
    first, then = boots
    assert now_ms(tmp_path, WALL_MS, 9000, first) == WALL_MS
    assert now_ms(tmp_path, WALL_MS + HOUR_MS, 100, then) == WALL_MS + HOUR_MS
    assert now_ms(tmp_path, WALL_MS, 50, first) == WALL_MS + HOUR_MS


@pytest.mark.parametrize("by_ms", [-HOUR_MS, HOUR_MS])
def test_a_clock_that_is_corrected_stays_so_within_a_boot(tmp_path: Path, by_ms: int) -> None:
    assert now_ms(tmp_path, WALL_MS, 5000, BOOT) == WALL_MS
    store = open_store(tmp_path, MIB, MIB)
    store.shift_clock(by_ms)
    store.environment.close()
    assert now_ms(tmp_path, WALL_MS, 6000, BOOT) == WALL_MS + 1000 + by_ms
    verify(tmp_path / "data.mdb")


@pytest.mark.parametrize(
    ("told", "expected"), [("0123456789abcdef" * 2, "0123456789abcdef" * 2), ("", None), ("?", "")]
)
def test_the_boot_is_known(monkeypatch: pytest.MonkeyPatch, told: str, expected: str | None) -> None:
    monkeypatch.setenv(BOOT_ID, told)
    kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    assert boot_id().hex() == (kernel if expected is None else expected)
    assert f"Environment={BOOT_ID}=%b\n" in (Path(__file__).parents[2] / "systemd/mqnode.service").read_text()
