"""The reason codes of MQTT 5, and what a worker knows of a client that is about to connect: the `handshake` of a Connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from node.auth.scram import ScramServer
    from node.core.loop import Connection
    from node.core.wire import Connect

# table 2-6, as far as the server uses them
SUCCESS = 0x00
NO_SUBSCRIPTION_EXISTED = 0x11
CONTINUE_AUTHENTICATION = 0x18
REAUTHENTICATE = 0x19
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
USE_ANOTHER_SERVER = 0x9C
SERVER_MOVED = 0x9D

NO_LIMIT = 0xFFFFFFFF  # a client takes packets of any size
SPLIT = "not while a host of the cluster is away"
JOINING = "this host joins a cluster, and has no copy of its sessions yet"


class Handshake(msgspec.Struct):
    """From the first byte to CONNACK. It stays longer only for who may authenticate again: an idle client costs little."""

    certificate_user: str | None = None
    packet: Connect = None
    assigned: bool = False  # the client id is of our making
    keepalive_s: int = 0
    server_keepalive: bool = False
    claim: int = 0  # number of the request to the keeper for its session
    exchange: Exchange | None = None


class Exchange:
    """One run of a method of enhanced authentication: `scram` is the server's state machine, None once it is over."""

    __slots__ = ("again", "method", "scram")

    def __init__(self, method: str, scram: ScramServer | None, again: bool) -> None:
        self.method = method
        self.scram = scram
        self.again = again


def exchange_of(connection: Connection) -> Exchange | None:
    """The last or current AUTH exchange of this connection."""
    handshake: Handshake | None = connection.handshake
    return None if handshake is None else handshake.exchange
