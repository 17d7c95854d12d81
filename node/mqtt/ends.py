"""How a connection ends: DISCONNECT of the client, protocol errors, keep-alive, takeover, kick, and what it leaves behind.

The core calls `closed` exactly once for each connection, in the wake-up in which it was closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from node.core.loop import Connection
from node.core.wire import ProtocolError, encode_connack, encode_disconnect, parse_disconnect
from node.mqtt import client as codes
from node.mqtt.client import exchange_of

if TYPE_CHECKING:
    from node.worker.worker import Worker


class Ends:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._waiting: dict[int, list[Callable[[], None]]] = {}  # number of a connection -> who wait until it is closed

    def packet(self, connection: Connection, body: bytes) -> None:
        """DISCONNECT [MQTT-3.14]."""
        if connection.version != 5:
            if body:
                raise ProtocolError(codes.MALFORMED, "a DISCONNECT with a body")
            reason = 0
        else:
            reason, properties = parse_disconnect(body, self.worker.config.limits.max_user_properties)
            expiry_s = properties.get(0x11)
            if expiry_s is not None:
                if expiry_s and not connection.expiry_s:  # [MQTT-3.14.2-2]
                    raise ProtocolError(codes.PROTOCOL_ERROR, "session expiry was 0 at CONNECT")
                connection.expiry_s = min(expiry_s, self.worker.config.limits.max_session_expiry_s)
        connection.normal_end = reason == codes.SUCCESS  # [MQTT-3.14.4-3]
        connection.end_reason = f"client disconnected (0x{reason:02x})"
        connection.close()

    def failed(self, connection: Connection, reason: int, text: str) -> None:
        """The client broke the protocol."""
        if connection.is_closing:
            return
        if connection.is_connected:
            self.drop(connection, reason, text)
            return
        connection.end_reason = text
        if connection.version == 5:  # it began with a CONNECT of MQTT 5
            self.worker.connects.refuse(connection, reason, text)
            return
        self.worker.count("connects_refused")
        self.worker.access("connect_refused", connection, reason=f"0x{reason:02x}", cause=text)
        if reason == codes.UNSUPPORTED_VERSION:  # [MQTT-3.1.2-2]
            connection.send(encode_connack(False, 1))
        connection.close()

    def drop(self, connection: Connection, reason: int, text: str, reference: str = "") -> None:
        """End a connection from our side; MQTT 5 clients are told why [MQTT-4.13.1-1], and the server to go to, if any."""
        if connection.is_closing:
            return
        connection.end_reason = text
        where = {0x1C: reference} if reference else {}
        told = connection.version != 5 or not connection.is_connected
        if not told and connection.problem_information:
            told = connection.send(encode_disconnect(reason, where | {0x1F: text}))
        if not told and reference:
            told = connection.send(encode_disconnect(reason, where))
        if not told:  # the reason string did not fit [MQTT-3.14.2-3]
            connection.send(encode_disconnect(reason))
        connection.close()

    def timed_out(self, connection: Connection) -> None:
        if connection.is_connected:
            self.drop(connection, codes.KEEP_ALIVE_TIMEOUT, "keep alive timeout")  # [MQTT-3.1.2-24]
        else:
            if not connection.is_closing:
                connection.end_reason = "no CONNECT in time"
            self.worker.loop.force(connection)

    def end_client(self, client_id: str, number: int, reason: int, done: Callable[[], None]) -> None:
        """Takeover or kick: `done` runs when the connection is over and its last operations are on their way."""
        connection = self.worker.clients.get(client_id)
        if connection is None or connection.number != number:
            done()
            return
        self._waiting.setdefault(number, []).append(done)  # two hosts may ask at the same time
        if reason == codes.SESSION_TAKEN_OVER:
            self.worker.count("takeovers")
        self.drop(connection, reason, "session taken over" if reason == codes.SESSION_TAKEN_OVER else "kicked")

    def end_users(self, users: frozenset[str]) -> None:
        """These users got in with a password that holds no longer (S13)."""
        for connection in self.worker.loop.connections() if users else ():
            if connection.certified:
                continue
            exchange = exchange_of(connection)
            in_exchange = exchange is not None and exchange.scram is not None  # whose proof began with the old password
            if connection.user in users or in_exchange:
                self.drop(connection, codes.NOT_AUTHORIZED, "the user was deleted or has a new password")

    def closed(self, connection: Connection) -> None:
        worker = self.worker
        worker.left(connection)
        client_id = connection.client_id
        if worker.clients.get(client_id) is connection:
            del worker.clients[client_id]
            worker.show_clients()
        if connection.claimed:
            worker.release(connection)
            worker.access("disconnect", connection, cause=connection.end_reason or "connection closed")
        elif connection.handshake is not None and connection.handshake.claim:
            worker.keeper.withdraw(connection.handshake.claim)  # a later keeper would end the client's next connection
            worker.keeper.call("unclaim", {"cid": client_id, "conn": connection.number})
        for done in self._waiting.pop(connection.number, ()):
            done()
