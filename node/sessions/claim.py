"""What a worker asks the keeper for when a client connects."""

from __future__ import annotations

from typing import Any

import msgspec


class Claim(msgspec.Struct, array_like=True, frozen=True, gc=False):
    cid: str
    connection: int
    clean: bool
    expiry_s: int  # of the session; 0: it ends with the connection
    user: str | None
    will: dict[str, Any] | None  # "delay_s", and the "record" of the message
    at_ms: int  # store clock, when the CONNECT came, which may have lain unread
