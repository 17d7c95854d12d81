# A publish from its receipt to every buffer that it has to reach.

cdef enum:
    NOTHING = 0             # nobody has asked for it
    REACHED = 1             # somebody got it at once
    STORED = 2              # the keeper has to commit it first, for a subscriber
    KEPT = 4                # the keeper has to commit it first, whoever has asked for it
    TARGETS_MAX = 65535     # of one operation


cdef inline uint32_t remaining_s(Loop loop, Publication* pub) noexcept:
    """Seconds that the message has left [MQTT-3.3.2-6]; at least 1: what has expired is not sent at all."""
    cdef uint64_t now = loop.now_ms + loop.clock_offset_ms
    if pub.expires_ms <= now + 1000:
        return 1
    return <uint32_t>((pub.expires_ms - now + 999) // 1000)


cdef inline uint32_t properties_size(Publication* pub, uint32_t* identifiers, uint32_t count, uint16_t alias) noexcept:
    cdef uint32_t size = pub.properties_length, i
    if pub.expires_ms:
        size += 5
    if alias:
        size += 3
    for i in range(count):
        size += 1 + varint_size(identifiers[i])
    return size


cdef char* write_properties(char* p, Loop loop, Publication* pub, uint32_t size, uint32_t* identifiers,
                            uint32_t count, uint16_t alias) noexcept:
    cdef uint32_t i
    p = write_varint(p, size)
    if pub.expires_ms:
        p[0] = 0x02
        write_u32(p + 1, remaining_s(loop, pub))
        p += 5
    if alias:
        p[0] = 0x23
        write_u16(p + 1, alias)
        p += 3
    for i in range(count):
        p[0] = 0x0B
        p = write_varint(p + 1, identifiers[i])
    memcpy(p, pub.properties, pub.properties_length)
    return p + pub.properties_length


cdef char* write_frame(char* p, Loop loop, Publication* pub, uint8_t version, uint32_t remaining, uint8_t qos,
                       uint32_t properties, uint32_t* identifiers, uint32_t count, uint16_t alias,
                       uint32_t topic_length) noexcept:
    """A PUBLISH without retain, DUP and packet id: the caller sets these."""
    p[0] = <char>(0x30 | qos << 1)
    p = write_varint(p + 1, remaining)
    write_u16(p, <uint16_t>topic_length)
    memcpy(p + 2, pub.topic, topic_length)
    p += 2 + topic_length
    if qos:
        p += 2
    if version == 5:
        p = write_properties(p, loop, pub, properties, identifiers, count, alias)
    memcpy(p, pub.payload, pub.payload_length)
    return p + pub.payload_length


cdef inline uint32_t frame_body(Publication* pub, uint8_t version, uint8_t qos, uint32_t properties,
                                uint32_t topic_length) noexcept:
    cdef uint32_t size = 2 + topic_length + pub.payload_length + (2 if qos else 0)
    return size + varint_size(properties) + properties if version == 5 else size


cdef Frame* shared_frame(Loop loop, Publication* pub, uint8_t version, uint8_t qos) except NULL:
    """The encoding that all targets of this version and kind of QoS share, made once a publish."""
    cdef Frame* frame = loop.frames + (2 if version == 5 else 0) + (1 if qos else 0)
    cdef uint32_t properties, body
    cdef char* grown
    if not frame.built:
        properties = properties_size(pub, NULL, 0, 0)
        body = frame_body(pub, version, qos, properties, pub.topic_length)
        frame.length = 1 + varint_size(body) + body
        if frame.length > frame.capacity:
            grown = <char*>PyMem_RawRealloc(frame.data, frame.length)
            if grown == NULL:
                raise MemoryError
            frame.data = grown
            frame.capacity = frame.length
        write_frame(frame.data, loop, pub, version, body, qos, properties, NULL, 0, 0, pub.topic_length)
        frame.packet_id_at = 1 + varint_size(body) + 2 + pub.topic_length if qos else 0
        frame.built = True
    return frame


cdef uint16_t outbound_alias(Connection connection, Publication* pub, bint* known) except? 0:
    """An alias for topics worth it (MQTT 5, 3.3.2.3.4), 0 for none; `known` if the client has it already."""
    cdef bytes topic
    known[0] = False
    if pub.topic_length < 8:
        return 0
    topic = pub.topic[:pub.topic_length]
    if connection.aliases_out is None:
        connection.aliases_out = {}
    alias = connection.aliases_out.get(topic)
    if alias is not None:
        known[0] = True
        return alias
    if len(connection.aliases_out) >= connection.alias_out_max:
        return 0
    connection.aliases_out[topic] = len(connection.aliases_out) + 1
    return len(connection.aliases_out)


cdef bint write_publish(Connection connection, Publication* pub, uint8_t qos, uint8_t flags, uint16_t packet_id,
                        uint32_t* identifiers, uint32_t count, bint shared) except -1:
    """Append the PUBLISH for this client; False if it is larger than the client takes [MQTT-3.1.2-24].

    `flags`: retain (1) and DUP (8) as in the first byte. `shared`: others get the same bytes, so encode once.
    """
    cdef Loop loop = connection.loop
    cdef Frame* frame
    cdef char* p
    cdef uint32_t properties = 0, body, size, topic_length = pub.topic_length
    cdef uint16_t alias = 0
    cdef bint known = False
    if shared and count == 0 and not connection.alias_out_max:
        frame = shared_frame(loop, pub, connection.version, qos)
        if frame.length > connection.max_packet_out:
            return False
        p = reserve(connection, frame.length)
        memcpy(p, frame.data, frame.length)
        size = frame.length
        if qos:
            write_u16(p + frame.packet_id_at, packet_id)
    else:
        if connection.version == 5:
            if connection.alias_out_max:
                alias = outbound_alias(connection, pub, &known)
                if known:
                    topic_length = 0
            properties = properties_size(pub, identifiers, count, alias)
        body = frame_body(pub, connection.version, qos, properties, topic_length)
        size = 1 + varint_size(body) + body
        if size > connection.max_packet_out:
            if alias and not known:
                del connection.aliases_out[pub.topic[:pub.topic_length]]
            return False
        p = reserve(connection, size)
        write_frame(p, loop, pub, connection.version, body, qos, properties, identifiers, count, alias, topic_length)
        if qos:
            write_u16(p + 1 + varint_size(body) + 2 + topic_length, packet_id)
    p[0] = <char>(0x30 | qos << 1 | flags)
    wrote(connection, size)
    touch(connection)
    loop.stats[S_PACKETS_SENT + 3] += 1
    loop.stats[S_PUBLISH_SENT + qos] += 1
    loop.stats[S_PUBLISH_BYTES_SENT] += pub.payload_length
    if flags & 8:
        loop.stats[S_DUPLICATES_SENT] += 1
    if output_size(connection) > loop.output_max:
        congest(connection)
    return True


cdef int congest(Connection connection) except -1:
    if not connection.congested:
        connection.congested = True
        connection.loop.congested[connection] = connection.loop.now_ms
    return 0


cdef inline uint64_t backlog(Connection connection) noexcept:
    cdef uint64_t size = unsent(connection)
    if connection.session is not None and connection.session.flows != NULL:
        size += connection.session.flows.pending_bytes
    return size


cdef int deliver(Loop loop, Session session, Publication* pub, uint8_t options, uint32_t* identifiers, uint32_t count,
                 Group* group, Connection publisher, bint shared) except -1:
    """Give the message to an attached session by the live way. `options`: bits 0-1 effective QoS, 2 retain.

    Returns 0 if it was dropped, which is counted.
    """
    cdef Connection connection = session.connection
    cdef Flows* flows
    cdef uint8_t qos = options & 3
    if connection.congested:
        if connection.stalled or connection is publisher:
            loop.stats[S_DROPPED_SLOW] += 1
            return 0
        if publisher is not None:
            loop.blocked = True
        loop.overfull = True
    if qos == 0:
        if not write_publish(connection, pub, 0, (options >> 2) & 1, 0, identifiers, count, shared):
            loop.stats[S_DROPPED_TOO_LARGE] += 1
            return 0
    else:
        flows = flows_of(session)
        if (flows.pending_count or flows.window.open >= session.receive_max
                or not window_fits(&flows.window, flows.next_qseq)):
            pend(session, pub, options, identifiers, count, group)
        elif write_publish(connection, pub, qos, (options >> 2) & 1, packet_id_of(flows.next_qseq), identifiers, count,
                           shared):
            open_live(session, pub, qos, group)
        else:
            loop.stats[S_DROPPED_TOO_LARGE] += 1
            return 0
    if connection.congested and publisher is not None and connection is not publisher and not connection.stalled:
        loop.blocked = True
    return 1


cdef int open_live(Session session, Publication* pub, uint8_t qos, Group* group) except -1:
    cdef Flight* flight = open_flight(session, session.flows.next_qseq, AWAIT_PUBACK if qos == 1 else AWAIT_PUBREC)
    session.flows.next_qseq += 1
    if group != NULL:       # only these are ever sent again, to another member
        flight.message = message_of(pub)
        flight.group = group
        group.references += 1
    return 0


cdef Message* message_of(Publication* pub) except NULL:
    cdef Message* message = message_new(pub.topic_length, pub.properties_length, pub.payload_length)
    memcpy(message.data, pub.topic, pub.topic_length)
    memcpy(message.data + pub.topic_length, pub.properties, pub.properties_length)
    memcpy(message.data + pub.topic_length + pub.properties_length, pub.payload, pub.payload_length)
    message.received = pub.received
    message.expires_ms = pub.expires_ms
    message.flags = pub.qos | (4 if pub.retain else 0)
    return message


cdef void publication_of(Message* message, Publication* pub) noexcept:
    pub.topic = message.data
    pub.topic_length = message.topic_length
    pub.properties = message.data + message.topic_length
    pub.properties_length = message.properties_length
    pub.payload = pub.properties + message.properties_length
    pub.payload_length = message.payload_length
    pub.received = message.received
    pub.expires_ms = message.expires_ms
    pub.qos = message.flags & 3
    pub.retain = bool(message.flags & 4)


cdef inline uint8_t delivered_options(Publication* pub, uint8_t options) noexcept:
    """Effective QoS, and the retain flag as far as the subscription keeps it [MQTT-3.3.1-12] [MQTT-3.3.1-13]."""
    cdef uint8_t qos = options & 3
    if pub.qos < qos:
        qos = pub.qos
    return qos | (4 if options & 8 and pub.retain else 0)


cdef int route(Loop loop, Publication* pub, Match* match, Connection publisher, Session author) except -1:
    """Deliver to everybody here, collect the durable targets, and pass it on to interested siblings.

    Returns NOTHING, REACHED, or STORED when loop.durable[:n] must be committed, with n in loop.durable_count.
    """
    cdef Target* target
    cdef Session session
    cdef uint32_t i
    cdef uint8_t options
    cdef int result = NOTHING
    for i in range(4):
        loop.frames[i].built = False
    loop.durable_count = 0
    for i in range(match.target_count):
        target = match.targets + i
        session = <Session>target.session
        if target.options & 4 and author is not None and session.client_id == author.client_id:     # [MQTT-3.8.3-3]
            continue
        options = delivered_options(pub, target.options)
        if session.sid and options & 3:
            add_durable(loop, target.session, options, match.identifiers + target.identifiers,
                        target.identifier_count, NULL)
            result |= STORED
            if pub.retain:
                replaced(session, pub)
        elif session.connection is not None and session.connection.state == CONNECTED:
            result |= REACHED
            if deliver(loop, session, pub, options, match.identifiers + target.identifiers, target.identifier_count,
                       NULL, publisher, match.target_count > 1) and pub.retain:
                replaced(session, pub)
        elif not session.sid or session.connection is None:
            result |= REACHED
    return result


cdef int replaced(Session session, Publication* pub) except -1:
    """The client gets it: replays that run must not send what the topic had before (node/mqtt/replay.py)."""
    cdef dict running = session.loop.replays.get(session)
    if running is None:
        return 0
    for topics in running.values():
        topics.add(pub.topic[:pub.topic_length])
    return 0


cdef int add_durable(Loop loop, void* session, uint8_t options, uint32_t* identifiers, uint32_t count,
                     Group* group) except -1:
    cdef DurableTarget* grown
    cdef DurableTarget* target
    if loop.durable_count == loop.durable_capacity:
        loop.durable_capacity = max(64, loop.durable_capacity * 2)
        grown = <DurableTarget*>PyMem_RawRealloc(loop.durable, loop.durable_capacity * sizeof(DurableTarget))
        if grown == NULL:
            raise MemoryError
        loop.durable = grown
    target = loop.durable + loop.durable_count
    loop.durable_count += 1
    target.session = session
    target.options = options
    target.identifiers = identifiers
    target.identifier_count = <uint8_t>min(count, 255)
    target.group = group
    return 0


cdef int route_onwards(Loop loop, Publication* pub, Match* match, uint64_t workers, Connection publisher) except -1:
    """To sibling workers with a matching subscription; one record each, in the frame of this wake-up."""
    cdef Link link
    while workers:
        link = <Link>loop.siblings[lowest_bit(workers)]
        workers &= workers - 1
        if link is not None:
            forward(link, pub, match.number, NULL)
            wait_for_sibling(link, pub, publisher)
    return 0


cdef int publish(Loop loop, Publication* pub, Match* match, Connection publisher, Session author, str user,
                 uint16_t packet_id, uint64_t will_id) except -1:
    """The whole way of a message of `user` that enters the host here. Returns as `route`, and KEPT."""
    cdef int result = route(loop, pub, match, publisher, author)
    if match.group_count:
        result |= route_shared(loop, pub, match, publisher, author)
    if match.workers:
        route_onwards(loop, pub, match, match.workers, publisher)
        result |= REACHED
    if pub.retain or packet_id or will_id:
        result |= KEPT
    if result & (STORED | KEPT):
        store(loop, pub, author.sid if author is not None else 0, user, packet_id, will_id)
        if loop.unacked_bytes + loop.ops.length > UNACKED_BYTES_MAX and publisher is not None:
            loop.blocked = True
    if loop.output_bytes > loop.worker_output_max and publisher is not None:
        loop.blocked = True
    return result


cdef int store(Loop loop, Publication* pub, uint64_t publisher_sid, str user, uint16_t packet_id,
               uint64_t will_id) except -1:
    """One OP_PUBLISH, or several where there are more durable targets than one can name."""
    cdef DurableTarget* targets = loop.durable
    cdef uint32_t count = loop.durable_count, some
    cdef bint retain = pub.retain
    while True:
        some = min(count, TARGETS_MAX)
        loop.durable_count = some
        op_publish(loop, pub, publisher_sid, user, packet_id, will_id, 0, 0)
        count -= some
        if count == 0:
            break
        # What happens once, the first has done.
        loop.durable += some
        packet_id = 0
        will_id = 0
        pub.retain = False
    loop.durable = targets
    pub.retain = retain
    return 0
