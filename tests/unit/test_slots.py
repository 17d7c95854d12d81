"""Memory that two processes share: what is put on one side is got on the other, once, and there is room for so much only."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from node.core.slots import Slots, memory_file

SLOTS, SLOT_BYTES = 16, 130_048


@pytest.fixture
def sides() -> Iterator[tuple[Slots, Slots]]:
    memory = memory_file()
    yield Slots(memory, True), Slots(memory, False)
    os.close(memory)


def test_what_one_side_puts_the_other_gets(sides: tuple[Slots, Slots]) -> None:
    for ours, theirs in (sides, sides[::-1]):
        for size in (1, 1000, SLOT_BYTES):
            messages = os.urandom(size)
            assert theirs.get(ours.put(memoryview(messages)), size) == messages


def test_a_slot_is_taken_until_it_was_got(sides: tuple[Slots, Slots]) -> None:
    ours, theirs = sides
    taken = [ours.put(b"%d" % number) for number in range(SLOTS)]
    assert sorted(taken) == list(range(SLOTS))
    assert ours.put(b"more") == -1
    assert theirs.get(taken[3], 1) == b"3"
    assert ours.put(b"more") == taken[3]


@pytest.mark.parametrize("size", [0, SLOT_BYTES + 1])
def test_what_fits_in_no_slot(sides: tuple[Slots, Slots], size: int) -> None:
    assert sides[0].put(bytes(size)) == -1


@pytest.mark.parametrize(("slot", "size"), [(SLOTS, 1), (0, SLOT_BYTES + 1), (2**32 - 1, 1)])
def test_a_place_that_is_none_is_refused(sides: tuple[Slots, Slots], slot: int, size: int) -> None:
    with pytest.raises(ValueError, match="slot"):
        sides[0].get(slot, size)


def test_memory_of_another_size_is_refused() -> None:
    """A process that was started anew while mqnode was upgraded would else reach behind its end."""
    memory = os.memfd_create("other")
    os.ftruncate(memory, 4096)
    with pytest.raises(ValueError, match="another release"):
        Slots(memory, False)
    os.close(memory)
