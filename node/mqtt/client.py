"""What a worker knows of one client connection beyond the compiled core: the `context` of a Connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# MQTT 5 reason codes (table 2-6) that the server uses
SUCCESS = 0x00
DISCONNECT_WITH_WILL = 0x04
NO_SUBSCRIPTION_EXISTED = 0x11
CONTINUE_AUTHENTICATION = 0x18
REAUTHENTICATE = 0x19
UNSPECIFIED = 0x80
MALFORMED = 0x81
PROTOCOL_ERROR = 0x82
IMPLEMENTATION_ERROR = 0x83
UNSUPPORTED_VERSION = 0x84
CLIENT_ID_NOT_VALID = 0x85
BAD_USER_OR_PASSWORD = 0x86
NOT_AUTHORIZED = 0x87
SERVER_UNAVAILABLE = 0x88
SERVER_BUSY = 0x89
SERVER_SHUTTING_DOWN = 0x8B
BAD_AUTHENTICATION_METHOD = 0x8C
KEEP_ALIVE_TIMEOUT = 0x8D
SESSION_TAKEN_OVER = 0x8E
FILTER_INVALID = 0x8F
TOPIC_INVALID = 0x90
PACKET_TOO_LARGE = 0x95
QUOTA_EXCEEDED = 0x97
ADMINISTRATIVE_ACTION = 0x98

NEVER = 0xFFFFFFFF  # session expiry


class Client:
    __slots__ = (
        "assigned", "auth", "certificate_user", "claimed", "connected_at", "end_reason", "expiry_s", "id", "keepalive_s",
        "normal_end", "number", "on_closed", "packet", "problem_information", "server_keepalive", "user", "version",
        "will",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = ""
        self.user: str | None = None
        self.certificate_user: str | None = None
        self.version = 4
        self.keepalive_s = 0
        self.server_keepalive = False
        self.expiry_s = 0
        self.will = False
        self.claimed = False  # the keeper knows this connection as the owner of the client id
        self.normal_end = False  # DISCONNECT with reason 0: no will
        self.end_reason = "connection closed"
        self.assigned = False
        self.problem_information = True
        self.connected_at = 0.0
        self.packet: Any = None  # the CONNECT, until it is answered
        self.auth: Any = None  # the exchange of enhanced authentication
        self.on_closed: Callable[[], None] | None = None

    @property
    def in_exchange(self) -> bool:
        """Is an AUTH exchange under way?"""
        return self.auth is not None and self.auth.scram is not None
