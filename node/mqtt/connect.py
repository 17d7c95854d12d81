"""CONNECT to CONNACK: what the packet may ask for, who the client is, and the claim of its session at the keeper.

Steps, each of which may refuse: the packet's own rules, authentication (at once, in a thread, by AUTH exchange or token),
the will's authorization, the claim. CONNACK leaves when the claim is durable (guarantees.md, ack table).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from node.core.loop import Connection, Session
from node.core.wire import Connect, ProtocolError, connect_version, encode_connack, parse_connect
from node.mqtt import client as codes
from node.mqtt.client import JOINING, NO_LIMIT, SPLIT, Handshake
from node.sessions.claim import Claim

if TYPE_CHECKING:
    from node.worker.worker import Worker

# MQTT 3.1.1 table 3.1: the return code for each of our reasons
_RETURN_CODES = {
    codes.UNSUPPORTED_VERSION: 1,
    codes.CLIENT_ID_NOT_VALID: 2,
    codes.BAD_USER_OR_PASSWORD: 4,
    codes.NOT_AUTHORIZED: 5,
}


class Connects:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._limits = limits = worker.config.limits
        self._told = {0x21: limits.receive_maximum, 0x22: limits.topic_alias_maximum, 0x27: limits.max_packet_bytes}
        self._connacks: dict[int, tuple[bytes, bytes]] = {  # by version: without a session, with one
            3: (encode_connack(False, 0), encode_connack(False, 0)),
            4: (encode_connack(False, 0), encode_connack(True, 0)),
            5: (encode_connack(False, 0, self._told), encode_connack(True, 0, self._told)),
        }
        self._has_peers = bool(worker.config.interconnect.bind)  # other hosts
        self._throttles = worker.config.auth.connect_rate_per_address > 0
        self._open = {id(each) for each in worker.config.listeners if worker.authenticator.anonymous_allowed(each)}

    def packet(self, connection: Connection, body: bytes) -> None:
        if connection.is_connected:
            raise ProtocolError(codes.PROTOCOL_ERROR, "a second CONNECT")  # [MQTT-3.1.0-2]
        handshake = connection.handshake = connection.handshake or Handshake()
        connection.version = connect_version(body)
        packet = handshake.packet = parse_connect(body, self._limits.max_user_properties, self._limits.max_topic_levels)
        if packet.properties:
            connection.problem_information = packet.properties.get(0x17, 1) == 1
            connection.max_packet_out = packet.properties.get(0x27, NO_LIMIT)
        connection.hold()
        reason, text = self._judge(connection, packet)
        if reason:
            self.refuse(connection, reason, text)
            return
        self._name(connection, packet)
        if 0x15 in packet.properties:
            self.worker.auth_exchange.begin(connection, packet)
        else:
            self._authenticate(connection, packet)

    def _judge(self, connection: Connection, packet: Connect) -> tuple[int, str]:
        worker, limits, listener, client_id = self.worker, self._limits, connection.listener, packet.client_id
        if packet.version not in listener.protocol_versions:
            return codes.UNSUPPORTED_VERSION, "this listener does not speak that version of MQTT"
        if len(client_id.encode()) > limits.max_client_id_bytes:
            return codes.CLIENT_ID_NOT_VALID, "the client id is too long"
        if not client_id and (packet.version == 3 or (packet.version == 4 and not packet.clean_start)):
            return codes.CLIENT_ID_NOT_VALID, "a client id is needed"  # [MQTT-3.1.3-8]
        if packet.will is not None and len(packet.will.topic) > limits.max_topic_bytes:
            return codes.TOPIC_INVALID, "the will's topic is too long"
        if worker.stopping:
            return codes.SERVER_SHUTTING_DOWN, "the server is shutting down"
        if worker.moves.closed:
            return codes.USE_ANOTHER_SERVER, "this host is about to go"
        if self._has_peers and worker.is_joining:
            return codes.SERVER_UNAVAILABLE, JOINING
        if self._has_peers and worker.refuses("connect"):
            return codes.SERVER_UNAVAILABLE, SPLIT
        if self._throttles and worker.throttled(connection.address):
            return self._shed("failed_logins", "too many failed attempts from this address")
        if listener.max_connections and worker.loop.connections_at(listener) > listener.max_connections:
            return self._shed("listener_full", "too many connections")
        if limits.max_connections and worker.loop.connection_count > limits.max_connections:
            return self._shed("worker_full", "too many connections")
        return 0, ""

    def _shed(self, stage: str, text: str) -> tuple[int, str]:
        self.worker.count(f"shed_{stage}")
        return codes.SERVER_BUSY, text

    def _name(self, connection: Connection, packet: Connect) -> None:
        limits, handshake = self._limits, connection.handshake
        handshake.assigned = not packet.client_id
        connection.client_id = packet.client_id or "auto-" + secrets.token_hex(10)
        if packet.version == 5:
            connection.expiry_s = min(packet.properties.get(0x11, 0), limits.max_session_expiry_s)
        else:
            connection.expiry_s = 0 if packet.clean_start else limits.max_session_expiry_s
        handshake.keepalive_s, cap = packet.keepalive_s, limits.max_keepalive_s
        if cap < 65535 and not 0 < handshake.keepalive_s <= cap:  # S07
            handshake.keepalive_s = cap
            handshake.server_keepalive = packet.version == 5

    # -- who is it ----------------------------------------------------------------------------------------------------

    def _authenticate(self, connection: Connection, packet: Connect) -> None:
        worker = self.worker
        certificate_user = connection.handshake.certificate_user
        if connection.filter is not None:
            certificate_user = connection.filter.facts().get("user") or certificate_user
        connection.certified = certificate_user is not None
        method = worker.tokens.method(packet) if certificate_user is None else None
        if method is not None:
            worker.tokens.judge(connection, packet, method)
            return
        is_open = id(connection.listener) in self._open
        decision = worker.authenticator.check(packet.user, packet.password, certificate_user, is_open)
        if decision is None:
            worker.in_thread(
                worker.authenticator.verify,
                (packet.user, packet.password),
                lambda verified: self._authenticated(connection, packet, verified, packet.user),
            )
            return
        self._authenticated(connection, packet, decision, certificate_user or packet.user)

    def _authenticated(self, connection: Connection, packet: Connect, verified: bool, user: str | None) -> None:
        if connection.is_closing:
            return
        if verified:
            self.admit(connection, user)
        else:
            reason = codes.BAD_USER_OR_PASSWORD if packet.user is not None else codes.NOT_AUTHORIZED
            self.deny(
                connection, reason, "anonymous" if packet.user is None and packet.password is None else "password"
            )

    def deny(self, connection: Connection, reason: int, method: str, cause: str = "") -> None:
        """What it showed is not good enough. Only the operator is told the cause."""
        self.worker.count(f"auth_failures_{method}")
        self.worker.failed_attempt(connection.address)
        self.refuse(connection, reason, "not authenticated", cause)

    def admit(self, connection: Connection, user: str | None, properties: dict[int, Any] | None = None) -> None:
        """The client is `user`: authorize its will and claim its session. `properties` go into CONNACK."""
        worker = self.worker
        packet: Connect = connection.handshake.packet
        connection.user = user
        most = connection.max_packet_out
        if most != NO_LIMIT and len(self._connack(connection, True, properties)) > most:
            self.refuse(connection, codes.PACKET_TOO_LARGE, "CONNACK is larger than the client takes")
            return
        will = None
        if packet.will is not None:
            if not worker.may_publish(connection, packet.will.topic, packet.will.qos, packet.will.retain):
                self.refuse(connection, codes.NOT_AUTHORIZED, "not authorized to publish the will's topic")
                return
            will = {
                "delay_s": min(packet.will.delay_s, connection.expiry_s),
                "record": worker.loop.record(
                    packet.will.topic, packet.will.payload, packet.will.properties, user, packet.will.qos,
                    packet.will.retain, packet.will.expiry_s,
                ),
            }  # fmt: skip
            connection.has_will = True
        connection.handshake.claim = worker.keeper.call(
            "claim",
            Claim(
                connection.client_id,
                connection.number,
                packet.clean_start,
                connection.expiry_s,
                user,
                will,
                worker.loop.clock_ms() - (connection.silent_ms() if self._has_peers else 0),
            ),
            lambda ok, result: self._claimed(connection, ok, result, properties),
        )

    # -- its session ----------------------------------------------------------------------------------------------------

    def _claimed(self, connection: Connection, ok: bool, result: Any, properties: dict[int, Any] | None) -> None:
        worker = self.worker
        if not ok and connection.is_closing:
            return
        if not ok:
            worker.log.warning(
                "claim_refused", client_id=connection.client_id, cause=result, effect="the client is refused (0x88)",
                next="mqnode status",
            )  # fmt: skip
            self.refuse(connection, codes.SERVER_UNAVAILABLE, str(result))
            return
        connection.claimed = True
        if connection.is_closing:
            worker.release(connection)
            return
        previous = worker.clients.get(connection.client_id)
        if previous is not None and previous is not connection:
            worker.ends.drop(previous, codes.SESSION_TAKEN_OVER, "session taken over")
            worker.ends.closed(previous)
        session = self._session(connection, result)
        handshake: Handshake = connection.handshake
        packet = handshake.packet
        worker.clients[connection.client_id] = connection
        worker.show_clients()
        connection.send(self._connack(connection, result["present"], properties))
        if handshake.exchange is None:
            connection.handshake = None
        else:
            handshake.packet = None  # with its password
        window = self._limits.max_inflight
        if 0x21 in packet.properties:
            window = min(window, packet.properties[0x21])
        session.attach(connection, window, result.get("sent", 0), result.get("last_qseq", 0))
        connection.accepted(packet.version, handshake.keepalive_s, packet.properties.get(0x22, 0))
        if worker.config.log.access:  # asked here, too: to gather the fields takes longer
            worker.access("connect", connection, session_present=result["present"], version=packet.version)

    def _session(self, connection: Connection, result: dict[str, Any]) -> Session:
        worker = self.worker
        client_id, user = connection.client_id, connection.user
        if not result["sid"]:
            return Session(worker.loop, client_id, user)
        session = worker.loop.session(result["sid"], client_id, user)
        session.user = user
        session.online = True
        if result["present"]:
            session.remember_packet_ids(list(worker.reader.packet_ids(session.sid)), result["taken"])
        return session

    def _connack(self, connection: Connection, present: bool, properties: dict[int, Any] | None) -> bytes:
        answer: dict[int, Any] = {**properties} if properties else {}
        if connection.version == 5:
            handshake: Handshake = connection.handshake
            if connection.expiry_s != handshake.packet.properties.get(0x11, 0):
                answer[0x11] = connection.expiry_s
            if handshake.assigned:
                answer[0x12] = connection.client_id
            if handshake.server_keepalive:
                answer[0x13] = handshake.keepalive_s
        if not answer:
            return self._connacks[connection.version][present]
        return bytes(encode_connack(present, 0, answer | self._told))

    def refuse(self, connection: Connection, reason: int, text: str, cause: str = "") -> None:
        """CONNACK with a reason, and the end. `cause`, if the operator is told another one than the client."""
        if connection.is_closing:
            return
        self.worker.count("connects_refused")
        self.worker.access("connect_refused", connection, reason=f"0x{reason:02x}", cause=cause or text)
        if connection.version == 5:  # the reason string only if it fits [MQTT-3.2.2-19]
            if not (connection.problem_information and connection.send(encode_connack(False, reason, {0x1F: text}))):
                connection.send(encode_connack(False, reason, {}))
        else:
            connection.send(encode_connack(False, _RETURN_CODES.get(reason, 3)))
        connection.close()
