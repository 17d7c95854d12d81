# A client's connection: packets in, and the flows of QoS 1 and 2. CONNECT, SUBSCRIBE and the like go to the Python handlers.
#
# States: NEW -CONNECT-> CONNECTING -accepted()-> CONNECTED; any -close()-> CLOSING (flushed, then shut) -> CLOSED.
# CONNECTING -expect_auth()-> EXCHANGING -AUTH-> as before. While CONNECTING or paused, input is held back, not parsed.

cdef enum:
    NEW = 0
    EXCHANGING = 1
    CONNECTING = 2
    CONNECTED = 3
    CLOSING = 4
    CLOSED = 5


cdef class Stream:
    """A non-blocking socket in the loop's epoll set, edge-triggered."""

    def __dealloc__(self):
        PyMem_RawFree(self.input)
        PyMem_RawFree(self.output)

    @property
    def output_size(self):
        return output_size(self)


cdef class Connection(Stream):
    """A client. `filter` decodes TLS, WebSocket or PROXY, None on plain sockets."""

    def __dealloc__(self):
        cdef int i
        PyMem_RawFree(self.permits)
        if self.aliases != NULL:
            for i in range(self.alias_in_max + 1):
                PyMem_RawFree(self.aliases[i].topic)
            PyMem_RawFree(self.aliases)

    def silent_ms(self):
        """How long ago the kernel received the last from the client, read or not; 0 where it does not say: unix sockets."""
        cdef tcp_info info
        cdef socklen_t size = sizeof(info)
        if getsockopt(self.fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0:
            return 0
        return info.tcpi_last_data_recv

    def send(self, bytes packet):
        """Queue a whole packet; False if it is larger than the client takes, or the end is near."""
        if self.state >= CLOSING or <size_t>len(packet) > self.max_packet_out:
            return False
        append(self, packet, len(packet))
        self.loop.stats[S_PACKETS_SENT + (<uint8_t>packet[0] >> 4)] += 1
        return True

    def asked(self):
        """A SUBSCRIBE or UNSUBSCRIBE waits for its acknowledgement. With UNANSWERED_MAX of them no packet is read."""
        self.unanswered += 1

    def answer(self, bytes packet):
        """Send what acknowledges it."""
        self.unanswered -= 1
        if self.paused:
            self.loop.resume_wanted = True
        self.send(packet)

    def accepted(self, int version, uint16_t keepalive_s, int alias_out_max):
        """CONNACK was sent: packets flow. `keepalive_s` 0: no limit."""
        self.state = CONNECTED
        self.version = version
        self.keepalive_s = keepalive_s
        self.connected_at = <uint32_t>epoch_s(NULL)
        self.alias_out_max = alias_out_max
        self.alias_in_max = self.loop.alias_max if version == 5 else 0
        self.last_received_ms = <uint32_t>self.loop.now_ms
        self.loop.stats[S_CONNECTS_ACCEPTED] += 1
        wheel_remove(self)
        if keepalive_s:
            wheel_put(self, silence_ms(self))
        if not self.again:
            self.again = True
            self.loop.again.append(self)
        if not self.loop.inside:
            self.loop.schedule()

    def hold(self):
        """Stop parsing until `accepted`."""
        self.state = CONNECTING

    def expect_auth(self):
        """Parse again, for the AUTH that the client has to send next."""
        self.state = EXCHANGING
        if not self.again:
            self.again = True
            self.loop.again.append(self)
        if not self.loop.inside:
            self.loop.schedule()

    def close(self):
        """End it once what is queued has been sent."""
        if self.state < CLOSING:
            self.state = CLOSING
            self.closing = True
            touch(self)

    def abort(self):
        """End it now, whatever is queued."""
        if self.state < CLOSED:
            free_buffers(self)
            self.raw = None
            self.close()

    @property
    def address(self):
        """HOST:PORT, [IPV6]:PORT, or unix; what is set replaces what the socket said."""
        cdef char text[64]
        if self.name is not None:
            return self.name
        if not self.port:
            return "unix"
        write_address(&self.host, self.port, text, sizeof(text))
        return text.decode()

    @address.setter
    def address(self, str name):
        self.name = name

    @property
    def is_connected(self):
        return self.state == CONNECTED

    @property
    def is_closing(self):
        return self.state >= CLOSING

    @property
    def is_paused(self):
        return bool(self.paused)


cdef Py_ssize_t read_packets(Connection connection, const char* p, size_t size) except -1:
    """Handle the whole packets of `size` bytes; returns how many bytes they were."""
    cdef Loop loop = connection.loop
    cdef size_t used = 0, total
    cdef uint32_t length = 0, count = 0
    cdef uint64_t until_us = min(monotonic_us() + TURN_US, loop.wake_until_us)
    cdef int digits
    cdef uint8_t header
    while (not connection.paused and not connection.yielded and size - used >= 2
            and (connection.state == CONNECTED or connection.state < CONNECTING)):
        if unsent(connection) > loop.output_max:
            connection.unread = True
            pause(connection)
            break
        if connection.unanswered >= UNANSWERED_MAX:
            pause(connection)
            break
        digits = read_varint(p + used + 1, size - used - 1, &length)
        if digits == 0:
            break
        total = 1 + digits + length
        if digits < 0:
            fail(connection, 0x81, "the remaining length is malformed")
        elif connection.state < CONNECTING and <uint8_t>p[used] >> 4 != (1 if connection.state == NEW else 15):
            fail(connection, 0x82, f"{PACKET_NAMES[<uint8_t>p[used] >> 4]} before CONNECT")   # [MQTT-3.1.0-1]
        elif total > (loop.max_packet if connection.state == CONNECTED else loop.max_connect):
            fail(connection, 0x95, "the packet is too large")
        elif size - used < total:
            break
        else:
            header = <uint8_t>p[used]       # an abort frees the input, and with it `p`
            loop.stats[S_PACKETS_RECEIVED + (header >> 4)] += 1
            read_packet(connection, header, p + used + 1 + digits, length)
            used += total
            if loop.blocked:
                loop.blocked = False
                pause(connection)
            count += 1
            # Handlers in Python take tens of microseconds, and a SUBSCRIBE as many as it has filters.
            if (count & 7 == 0 or header >> 4 >= 8) and monotonic_us() > until_us:
                yield_turn(connection)
    if connection.state >= CLOSING:
        return size
    return used


cdef inline size_t unsent(Connection connection) noexcept:
    """Bytes that the client has not taken, its own acknowledgements for example."""
    return output_size(connection) + (<size_t>len(connection.raw) if connection.raw is not None else 0)


cdef int yield_turn(Connection connection) except -1:
    """Go on with its packets when all others had their turn."""
    connection.yielded = True
    if not connection.again:
        connection.again = True
        connection.loop.again.append(connection)
    return 0


cdef int pause(Connection connection) except -1:
    """Its messages have nowhere to go: do not read on until they have."""
    connection.paused = True
    connection.loop.paused.append(connection)
    connection.loop.stats[S_PUBLISHERS_PAUSED] += 1
    return 0


cdef int fail(Connection connection, int reason, str text) except -1:
    connection.loop.stats[S_MALFORMED if reason == 0x81 else S_PROTOCOL_ERRORS] += 1
    connection.loop.handler.failed(connection, reason, text)
    return 0


cdef int read_packet(Connection connection, uint8_t header, const char* body, uint32_t length) except -1:
    cdef uint8_t kind = header >> 4
    cdef int problem
    try:
        if connection.state < CONNECTING:
            problem = call_handler(connection, header, body, length)
        elif kind == 3:
            problem = read_publish(connection, header, body, length)
        elif 4 <= kind <= 7:
            problem = read_ack(connection, header, body, length)
        elif kind == 12:
            problem = read_pingreq(connection, header, length)
        else:
            problem = call_handler(connection, header, body, length)
        if problem:
            fail(connection, problem, PACKET_NAMES[kind] + " breaks the protocol")
    except ProtocolError as error:
        fail(connection, error.reason, error.text)
    except Exception:
        # One connection's trouble stays its own (S03).
        connection.loop.stats[S_HANDLER_ERRORS] += 1
        connection.loop.handler.broken(connection)
        connection.abort()
    return 0


cdef int call_handler(Connection connection, uint8_t header, const char* body, uint32_t length) except -1:
    cdef uint8_t kind = header >> 4, flags = header & 15
    if flags != (2 if kind == 8 or kind == 10 else 0):                      # [MQTT-2.2.2-2]
        return 0x81
    connection.loop.handler.packet(connection, kind, body[:length])
    return 0


cdef int read_pingreq(Connection connection, uint8_t header, uint32_t length) except -1:
    if header != 0xC0 or length:
        return 0x81
    append(connection, b"\xd0\x00", 2)
    connection.loop.stats[S_PACKETS_SENT + 13] += 1
    return 0


# -- PUBLISH -----------------------------------------------------------------------------------------------------------

cdef int read_publish(Connection connection, uint8_t header, const char* body, uint32_t length) except -1:
    """0, or the reason code with which the connection ends."""
    cdef Loop loop = connection.loop
    cdef Session session = connection.session
    cdef PublishProperties properties
    cdef Publication pub
    cdef uint64_t now_ms = loop.now_ms + loop.clock_offset_ms
    cdef uint16_t packet_id = 0
    cdef uint32_t at, size = 0
    cdef int digits, problem
    pub.qos = header >> 1 & 3
    pub.retain = bool(header & 1)
    if pub.qos == 3 or (pub.qos == 0 and header & 8):                       # [MQTT-3.3.1-4] [MQTT-3.3.1-2]
        return 0x81
    if length < 2:
        return 0x81
    pub.topic = body + 2
    pub.topic_length = read_u16(body)
    at = 2 + pub.topic_length
    if at + (2 if pub.qos else 0) > length:
        return 0x81
    if pub.qos:
        packet_id = read_u16(body + at)
        at += 2
        if packet_id == 0:                                                  # [MQTT-2.2.1-3]
            return 0x82
    pub.properties = NULL
    pub.properties_length = 0
    pub.received = received_now(loop)
    pub.expires_ms = 0
    if connection.version == 5:
        digits = read_varint(body + at, length - at, &size)
        if digits <= 0 or size > length - at - digits:
            return 0x81
        at += digits
        if size:
            need_scratch(loop, size)
            problem = parse_publish_properties(body + at, size, False, loop.user_properties_max, &properties,
                                               loop.scratch)
            if problem:
                return problem
            at += size
            pub.properties = properties.forward
            pub.properties_length = properties.forward_length
            if properties.has_expiry:
                pub.expires_ms = now_ms + <uint64_t>properties.expiry_s * 1000
            if properties.has_alias:
                problem = use_alias(connection, &pub, properties.alias)
                if problem:
                    return problem
        if pub.topic_length == 0:
            return 0x82                                                     # [MQTT-3.3.2-8]
    pub.payload = body + at
    pub.payload_length = length - at
    if loop.message_expiry_ms and (pub.expires_ms == 0 or pub.expires_ms > now_ms + loop.message_expiry_ms):
        pub.expires_ms = now_ms + loop.message_expiry_ms
    loop.stats[S_PUBLISH_RECEIVED + pub.qos] += 1
    loop.stats[S_PUBLISH_BYTES_RECEIVED] += pub.payload_length
    if pub.qos == 2 and not header & 8 and session.flows != NULL and session.flows.unsure_ids:
        end_old_flow(loop, session, packet_id)
    return accept_publish(connection, session, &pub, packet_id)


cdef int end_old_flow(Loop loop, Session session, uint16_t packet_id) except -1:
    """Not a repetition [MQTT-3.3.1-1]: a flow of this packet id ended at another host, which could not tell us."""
    if session.flows.packet_ids != NULL and ids_drop(session.flows.packet_ids, packet_id):
        op_released(loop, session.sid, packet_id)
    return 0


cdef int need_scratch(Loop loop, size_t size) except -1:
    cdef char* grown
    if size > loop.scratch_capacity:
        grown = <char*>PyMem_RawRealloc(loop.scratch, size)
        if grown == NULL:
            raise MemoryError
        loop.scratch = grown
        loop.scratch_capacity = size
    return 0


cdef int use_alias(Connection connection, Publication* pub, uint16_t number) except -1:
    """Set or look up a topic alias of the client [MQTT-3.3.2-8]."""
    cdef Alias* alias
    if number == 0 or number > connection.alias_in_max:
        return 0x94
    if connection.aliases == NULL:
        connection.aliases = <Alias*>PyMem_RawCalloc(connection.alias_in_max + 1, sizeof(Alias))
        if connection.aliases == NULL:
            raise MemoryError
    alias = connection.aliases + number
    if pub.topic_length == 0:
        if alias.topic == NULL:
            return 0x82
        pub.topic = alias.topic
        pub.topic_length = alias.length
        return 0
    PyMem_RawFree(alias.topic)
    alias.topic = <char*>PyMem_RawMalloc(pub.topic_length)
    if alias.topic == NULL:
        raise MemoryError
    memcpy(alias.topic, pub.topic, pub.topic_length)
    alias.length = pub.topic_length
    return 0


cdef int accept_publish(Connection connection, Session session, Publication* pub, uint16_t packet_id) except -1:
    cdef Loop loop = connection.loop
    cdef Match* match = loop.tree.recall(pub.topic, pub.topic_length)
    cdef int problem, result
    cdef PacketIds* ids = session.flows.packet_ids if session.flows != NULL else NULL
    cdef uint32_t opened = connection.waiting_pubacks
    if match == NULL:                   # a topic that was matched before has been judged before
        problem = 0x90 if pub.topic_length > loop.topic_max else topic_problem(
            pub.topic, pub.topic_length, loop.levels_max)
        if problem:
            return problem
    if pub.qos == 2 and ids != NULL and ids_has(ids, packet_id):            # [MQTT-4.3.3-10]
        loop.stats[S_DUPLICATES_RECEIVED] += 1
        acknowledge(connection, 5, packet_id, 0, False)
        return 0
    if loop.refuses_publish:
        loop.stats[S_REFUSED_SPLIT] += 1
        if pub.qos and connection.version == 5:
            acknowledge(connection, 4 if pub.qos == 1 else 5, packet_id, 0x83, False)
        elif pub.qos:       # MQTT 3 has no negative acknowledgement
            loop.end(connection, 0x83)
        return 0
    if ids != NULL and ids.count > session.flows.inherited_ids:
        opened += ids.count - session.flows.inherited_ids
    if pub.qos and connection.version == 5 and opened >= loop.receive_max:  # [MQTT-3.3.4-7]
        return 0x93
    if (not loop.allows_all or pub.topic[0] == c"$") and not permitted(connection, pub):
        loop.stats[S_AUTHZ_DENIED] += 1
        if pub.qos:
            acknowledge(connection, 4 if pub.qos == 1 else 5, packet_id, 0x87, False)
        return 0
    if pub.expires_ms and pub.expires_ms <= loop.now_ms + loop.clock_offset_ms:
        loop.stats[S_DROPPED_EXPIRED] += 1
        if pub.qos:
            acknowledge(connection, 4 if pub.qos == 1 else 5, packet_id, 0, False)
        return 0
    if match == NULL or match.version != loop.tree.version:
        match = loop.tree.match(pub.topic, pub.topic_length)
    if pub.qos == 2:
        open_packet_id(session, packet_id)
    result = publish(loop, pub, match, connection, session, session.user,
                     packet_id if pub.qos == 2 and session.sid else 0, 0)
    if pub.qos:
        acknowledge(connection, 4 if pub.qos == 1 else 5, packet_id, 0 if result & (REACHED | STORED) else 0x10,
                    (result & (STORED | KEPT)) != 0)
    return 0


cdef bint permitted(Connection connection, Publication* pub) except -1:
    """May this client publish this? Decisions are kept per connection until the rules change."""
    cdef Loop loop = connection.loop
    cdef uint64_t hash = topic_hash(pub.topic, pub.topic_length)
    cdef uint64_t key = hash ^ (<uint64_t>(pub.qos << 1 | pub.retain) << 60)
    cdef uint64_t* slot
    if connection.permits == NULL:
        connection.permits = <Permits*>PyMem_RawCalloc(1, sizeof(Permits))
        if connection.permits == NULL:
            raise MemoryError
    if connection.permits.version != loop.permit_version:
        memset(connection.permits, 0, sizeof(Permits))
        connection.permits.version = loop.permit_version
    slot = connection.permits.keys + (hash & 31)
    if slot[0] == key:
        return True
    if not loop.authorize(connection, pub.topic[:pub.topic_length], pub.qos, bool(pub.retain)):
        return False
    slot[0] = key
    return True


# -- acknowledgements ---------------------------------------------------------------------------------------------------

cdef int read_ack(Connection connection, uint8_t header, const char* body, uint32_t length) except -1:
    """PUBACK, PUBREC, PUBREL, PUBCOMP."""
    cdef uint8_t kind = header >> 4, reason = 0
    cdef uint16_t packet_id
    cdef uint32_t size = 0
    cdef int digits
    if header & 15 != (2 if kind == 6 else 0) or length < 2:                # [MQTT-3.6.1-1]
        return 0x81
    packet_id = read_u16(body)
    if packet_id == 0:
        return 0x82
    if length > 2:
        if connection.version != 5:
            return 0x81
        reason = <uint8_t>body[2]
        if length > 3:
            digits = read_varint(body + 3, length - 3, &size)
            if digits <= 0 or 3 + digits + size != length:
                return 0x81
            if size:
                check_ack_properties(body[3:length], connection.loop.user_properties_max)
    if kind == 4:
        return read_puback(connection, packet_id)
    if kind == 5:
        return read_pubrec(connection, packet_id, reason)
    if kind == 6:
        return read_pubrel(connection, packet_id)
    return read_pubcomp(connection, packet_id)


cdef int finish_flight(Session session, Flight* flight, uint64_t qseq) except -1:
    if flight.message != NULL:
        message_release(flight.message)
        flight.message = NULL
        release_group(<Group*>flight.group)
    window_close(window_of(session.flows, qseq), qseq)
    session.loop.stats[S_INFLIGHT] -= 1
    if session.sid:
        op_flight(session.loop, OP_DONE, session.sid, qseq)
    return refill(session)


cdef inline Flight* find_flight(Session session, uint16_t packet_id, uint64_t* qseq) noexcept:
    cdef Flight* flight
    if session.flows == NULL:
        return NULL
    flight = window_find(&session.flows.window, packet_id, qseq)
    return flight if flight != NULL else window_find(&session.flows.earlier, packet_id, qseq)


cdef inline Window* window_of(Flows* flows, uint64_t qseq) noexcept nogil:
    return &flows.earlier if flows.earlier.open and qseq < flows.earlier.next else &flows.window


cdef int read_puback(Connection connection, uint16_t packet_id) except -1:
    cdef uint64_t qseq = 0
    cdef Flight* flight = find_flight(connection.session, packet_id, &qseq)
    if flight == NULL:
        return 0
    if flight.state != AWAIT_PUBACK:
        return 0x82
    return finish_flight(connection.session, flight, qseq)


cdef int read_pubrec(Connection connection, uint16_t packet_id, uint8_t reason) except -1:
    cdef Session session = connection.session
    cdef uint64_t qseq = 0
    cdef Flight* flight = find_flight(session, packet_id, &qseq)
    if flight == NULL:
        # Of an earlier connection, perhaps: let the client finish its flow.
        return 0 if reason >= 0x80 else write_ack(connection, 6, packet_id, 0x92)
    if flight.state == AWAIT_PUBACK:
        return 0x82
    if flight.state == COMMITTING:
        return 0
    if reason >= 0x80:
        return finish_flight(session, flight, qseq)
    if flight.state == AWAIT_PUBREC:
        if flight.message != NULL:
            message_release(flight.message)
            flight.message = NULL
            release_group(<Group*>flight.group)
        if session.sid:
            flight.state = COMMITTING
            op_flight(session.loop, OP_RECEIVED, session.sid, qseq)
            return push_ack(session.loop, connection, 6, packet_id, 0, qseq, False)
        flight.state = AWAIT_PUBCOMP
    return write_ack(connection, 6, packet_id, 0)


cdef int read_pubrel(Connection connection, uint16_t packet_id) except -1:
    cdef Session session = connection.session
    cdef PacketIds* ids = session.flows.packet_ids if session.flows != NULL else NULL
    if ids != NULL and ids_drop(ids, packet_id):
        if session.sid:
            op_released(session.loop, session.sid, packet_id)
        return acknowledge(connection, 7, packet_id, 0, session.sid != 0)
    return acknowledge(connection, 7, packet_id, 0x92, False)


cdef int read_pubcomp(Connection connection, uint16_t packet_id) except -1:
    cdef uint64_t qseq = 0
    cdef Flight* flight = find_flight(connection.session, packet_id, &qseq)
    if flight == NULL:
        return 0
    if flight.state != AWAIT_PUBCOMP:
        return 0x82
    return finish_flight(connection.session, flight, qseq)


# -- keep-alive: a wheel of seconds ----------------------------------------------------------------------------------

cdef inline uint32_t silence_ms(Connection connection) noexcept:
    """What its keep-alive allows [MQTT-3.1.2-22]."""
    return <uint32_t>connection.keepalive_s * 1500


cdef inline int32_t left_ms(Connection connection) noexcept:
    return <int32_t>(connection.deadline_ms - <uint32_t>connection.loop.now_ms)


cdef void wheel_put(Connection connection, uint32_t left) noexcept:
    """Look at it in `left` ms, and not before."""
    cdef Loop loop = connection.loop
    cdef uint64_t second = min((loop.now_ms + left) // 1000 + 1, loop.wheel_second + 255)
    cdef void** place = &loop.wheel[max(second, loop.wheel_second + 1) & 255]
    wheel_remove(connection)
    connection.deadline_ms = <uint32_t>loop.now_ms + left
    connection.wheel_place = place
    connection.wheel_next = place[0]
    if place[0] != NULL:
        (<Connection>place[0]).wheel_place = &connection.wheel_next
    place[0] = <void*>connection


cdef void wheel_remove(Connection connection) noexcept:
    if connection.wheel_place == NULL:
        return
    connection.wheel_place[0] = connection.wheel_next
    if connection.wheel_next != NULL:
        (<Connection>connection.wheel_next).wheel_place = connection.wheel_place
    connection.wheel_next = NULL
    connection.wheel_place = NULL


cdef int wheel_turn(Loop loop) except -1:
    """Check the connections whose time may be over."""
    cdef Connection connection
    cdef void* next
    cdef uint64_t second = loop.now_ms // 1000
    while loop.wheel_second < second:
        loop.wheel_second += 1
        next = loop.wheel[loop.wheel_second & 255]
        while next != NULL:
            connection = <Connection>next
            next = connection.wheel_next
            wheel_remove(connection)
            if connection.state == CONNECTED:
                if connection.paused:       # we do not read it: the silence is ours
                    connection.last_received_ms = <uint32_t>loop.now_ms
                connection.deadline_ms = connection.last_received_ms + silence_ms(connection)
            if left_ms(connection) > 0:
                wheel_put(connection, left_ms(connection))
            else:
                try:
                    loop.handler.timed_out(connection)
                except Exception:
                    loop.stats[S_HANDLER_ERRORS] += 1
                    loop.handler.broken(connection)
                    connection.abort()
    return 0
