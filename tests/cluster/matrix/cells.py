"""The cells of the matrix (docs/faults.md): which are shown by each `make test`."""

from __future__ import annotations

from tests.cluster.matrix.faults import Fault

# Of a fault the workloads that `make test` judges; `make faults` and `make soak` judge all that a run carries.
_ALWAYS = {
    "F1": ("W1", "W2", "W3", "W7"),
    "F2": ("W1", "W2", "W4", "W6"),
    "F3": ("W1", "W2", "W3", "W4", "W6", "W7", "W8", "W9"),
    "F4": ("W1", "W5", "W7"),
    "F5": ("W1", "W2", "W4", "W6"),
    "F6": ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W10"),
    "F7": ("W1", "W5", "W7", "W11"),
    "F8": ("W1", "W3", "W11"),
    "F9": ("W1", "W4", "W6", "W7"),
    "F10": ("W1", "W4", "W11"),
    "F11": ("W1", "W11"),
    "F12": ("W1",),
    "F13": ("W1", "W2", "W4", "W6", "W10"),
    "F14": ("W1", "W4", "W6", "W8"),
    "F15": ("W1", "W4", "W11"),
}


def always(fault: Fault, hosts: int = 2) -> tuple[str, ...]:
    """What `make test` shows of it, on so many hosts."""
    return _ALWAYS[fault.id] if fault.in_make_test and hosts == 2 else ()
