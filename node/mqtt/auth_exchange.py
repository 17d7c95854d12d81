"""Enhanced authentication: the AUTH exchange of MQTT 5 (4.12), with SCRAM-SHA-256, and re-authentication on a live connection.

CONNECT with a method begins it; each AUTH of the client is one step; CONNACK (or AUTH 0x00 when re-authenticating) ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.auth.scram import ScramError
from node.core.loop import Connection
from node.core.wire import Connect, ProtocolError, encode_auth, parse_auth
from node.mqtt import client as codes
from node.mqtt.client import Exchange, exchange_of

if TYPE_CHECKING:
    from node.worker.worker import Worker

METHOD, DATA = 0x15, 0x16


class AuthExchange:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def begin(self, connection: Connection, packet: Connect) -> None:
        self._begin(connection, packet.properties[METHOD], packet.properties.get(DATA, b""), again=False)

    def packet(self, connection: Connection, body: bytes) -> None:
        """AUTH [MQTT-3.15]."""
        if connection.version != 5:
            raise ProtocolError(codes.PROTOCOL_ERROR, "AUTH is a packet of MQTT 5")
        reason, properties = parse_auth(body, self.worker.config.limits.max_user_properties)
        method = properties.get(METHOD)
        exchange = exchange_of(connection)
        if reason == codes.REAUTHENTICATE and connection.is_connected:
            if exchange is None or method != exchange.method:  # [MQTT-4.12.1-1]
                raise ProtocolError(codes.PROTOCOL_ERROR, "re-authentication needs the method of CONNECT")
            self._begin(connection, exchange.method, properties.get(DATA, b""), again=True)
        elif reason == codes.CONTINUE_AUTHENTICATION and exchange is not None and exchange.scram is not None:
            if method != exchange.method:  # [MQTT-4.12.0-5]
                raise ProtocolError(codes.PROTOCOL_ERROR, "the authentication method changed")
            self._step(connection, exchange, properties.get(DATA, b""))
        else:
            raise ProtocolError(codes.PROTOCOL_ERROR, "an AUTH that nobody asked for")

    def _begin(self, connection: Connection, method: str, data: bytes, again: bool) -> None:
        scram = self.worker.authenticator.scram(method)
        if scram is None:  # [MQTT-4.12.0-1]
            self._refuse(connection, codes.BAD_AUTHENTICATION_METHOD, f"unknown authentication method {method}", again)
            return
        exchange = connection.handshake.exchange = Exchange(method, scram, again)
        self._step(connection, exchange, data)

    def _step(self, connection: Connection, exchange: Exchange, data: bytes) -> None:
        assert exchange.scram is not None
        try:
            answer = exchange.scram.step(data)
        except ScramError:
            self.worker.count("auth_failures_scram")
            self.worker.failed_attempt(connection.address)
            self._refuse(connection, codes.NOT_AUTHORIZED, "not authenticated", exchange.again)
            return
        properties = {METHOD: exchange.method, DATA: answer}
        if not exchange.scram.finished:
            if not connection.send(encode_auth(codes.CONTINUE_AUTHENTICATION, properties)):
                self._refuse(connection, codes.PACKET_TOO_LARGE, "AUTH is larger than the client takes", exchange.again)
            elif not connection.is_connected:
                connection.expect_auth()
            return
        user = exchange.scram.user
        exchange.scram = None
        if not exchange.again:
            self.worker.connects.admit(connection, user, properties)
        elif user != connection.user:
            self._refuse(connection, codes.NOT_AUTHORIZED, "re-authentication as another user", again=True)
        else:
            connection.send(encode_auth(codes.SUCCESS, properties))

    def _refuse(self, connection: Connection, reason: int, text: str, again: bool) -> None:
        if again:
            self.worker.ends.drop(connection, reason, text)
        else:
            self.worker.connects.refuse(connection, reason, text)
