# What goes to the keeper, and the acknowledgements that wait until it is durable.
# Operations of one wake-up form one OPS frame; COMMITTED releases, in order, every acknowledgement up to its batch.

cdef enum:
    REPLAYED = 1            # moved qseq of what was retained
    OP_PUBLISH = 1
    OP_DONE = 2
    OP_RECEIVED = 3
    OP_RELEASED = 4
    OP_DROPPED = 5

    DROP_EXPIRED = 1
    DROP_TOO_LARGE = 2
    DROP_DENIED = 3

    UNACKED_BYTES_MAX = 67108864    # of operations not committed yet; beyond it publishers wait

    RECORD_HEADER = 29
    RECEIVED_BITS = 44      # of the time in a record; above them what tells equal messages of one ms apart
    OP_HEADER = 5


cdef char* buffer_reserve(Buffer* buffer, size_t size) except NULL:
    cdef size_t capacity
    cdef char* grown
    if buffer.length + size > buffer.capacity:
        capacity = max(buffer.capacity, 4096)
        while capacity < buffer.length + size:
            capacity *= 2
        grown = <char*>PyMem_RawRealloc(buffer.data, capacity)
        if grown == NULL:
            raise MemoryError
        buffer.data = grown
        buffer.capacity = capacity
    return buffer.data + buffer.length


cdef inline char* put_u16(char* p, uint16_t value) noexcept:
    memcpy(p, &value, 2)
    return p + 2


cdef inline char* put_u32(char* p, uint32_t value) noexcept:
    memcpy(p, &value, 4)
    return p + 4


cdef inline char* put_u64(char* p, uint64_t value) noexcept:
    memcpy(p, &value, 8)
    return p + 8


cdef char* begin_op(Loop loop, uint8_t kind, uint32_t size) except NULL:
    """Room for an operation whose rest is `size` bytes; the caller writes them at the returned place."""
    cdef char* p
    if loop.ops.length == 0:
        p = buffer_reserve(&loop.ops, 13 + OP_HEADER + size)
        loop.ops.length = 13        # frame header and batch number, written when the batch is closed
        loop.ops_count = 0
        loop.opened_us = monotonic_us()
        if not loop.inside:
            loop.schedule()
    p = buffer_reserve(&loop.ops, OP_HEADER + size)
    p[0] = <char>kind
    put_u32(p + 1, size)
    loop.ops.length += OP_HEADER + size
    loop.ops_count += 1
    return p + OP_HEADER


cdef inline uint32_t record_size(Publication* pub, uint32_t author) noexcept:
    return RECORD_HEADER + pub.topic_length + author + pub.properties_length + pub.payload_length


cdef inline uint64_t received_now(Loop loop) noexcept:
    """As a message record has it: no other message has the same, as good as certainly, whichever worker or host it came to."""
    loop.serial += <uint64_t>1 << RECEIVED_BITS
    return loop.serial | (loop.now_ms + loop.clock_offset_ms)


cdef char* write_record(char* p, Publication* pub, const char* author, uint32_t author_length) noexcept:
    """The message record of docs/internals.md."""
    p[0] = <char>(pub.qos | (4 if pub.retain else 0))
    p = put_u64(p + 1, pub.received)
    p = put_u64(p, pub.expires_ms)
    p = put_u16(p, <uint16_t>pub.topic_length)
    p = put_u16(p, <uint16_t>author_length)
    p = put_u32(p, pub.properties_length)
    p = put_u32(p, pub.payload_length)
    memcpy(p, pub.topic, pub.topic_length)
    p += pub.topic_length
    memcpy(p, author, author_length)
    p += author_length
    memcpy(p, pub.properties, pub.properties_length)
    p += pub.properties_length
    memcpy(p, pub.payload, pub.payload_length)
    return p + pub.payload_length


cdef bint read_record(const char* p, size_t size, Publication* pub) noexcept:
    """False if the record does not hold together."""
    cdef uint16_t topic, author
    cdef uint32_t properties, payload
    if size < RECORD_HEADER:
        return False
    memcpy(&pub.received, p + 1, 8)
    memcpy(&pub.expires_ms, p + 9, 8)
    memcpy(&topic, p + 17, 2)
    memcpy(&author, p + 19, 2)
    memcpy(&properties, p + 21, 4)
    memcpy(&payload, p + 25, 4)
    if <uint64_t>RECORD_HEADER + topic + author + properties + payload != size:
        return False
    pub.qos = p[0] & 3
    pub.retain = bool(p[0] & 4)
    pub.topic = p + RECORD_HEADER
    pub.topic_length = topic
    pub.properties = pub.topic + topic + author
    pub.properties_length = properties
    pub.payload = pub.properties + properties
    pub.payload_length = payload
    return True


cdef int op_publish(Loop loop, Publication* pub, uint64_t publisher_sid, str user, uint16_t packet_id,
                    uint64_t will_id, uint64_t moved_sid, uint64_t moved_qseq) except -1:
    """OP_PUBLISH for loop.durable[:durable_count]."""
    cdef bytes author = user.encode() if user is not None and pub.retain else b""
    cdef uint32_t size = 36 + record_size(pub, len(author)), i, j
    cdef DurableTarget* target
    cdef char* p
    for i in range(loop.durable_count):
        target = loop.durable + i
        size += 10 + 4 * target.identifier_count
        if target.group != NULL:
            size += 2 + target.group.name_length + 1 + filter_length(target.group.node)
    p = begin_op(loop, OP_PUBLISH, size)
    p = put_u64(p, publisher_sid)
    p = put_u16(p, packet_id)
    p = put_u64(p, will_id)
    p = put_u64(p, moved_sid)
    p = put_u64(p, moved_qseq)
    p = put_u16(p, <uint16_t>loop.durable_count)
    for i in range(loop.durable_count):
        target = loop.durable + i
        p = put_u64(p, (<Session>target.session).sid)
        p[0] = <char>(target.options | (8 if target.group != NULL else 0))
        p[1] = <char>target.identifier_count
        p += 2
        for j in range(target.identifier_count):
            p = put_u32(p, target.identifiers[j])
        if target.group != NULL:
            p = write_share(p, target.group)
    write_record(p, pub, <const char*>author, <uint32_t>len(author))
    if pub.retain:
        loop.stats[S_RETAINED_SET] += 1
    return 0


cdef uint32_t filter_length(Node* node) noexcept:
    cdef uint32_t length = 0
    while node.parent != NULL:
        length += node.level_length + 1
        node = node.parent
    return length - 1


cdef char* write_share(char* p, Group* group) noexcept:
    """`<H` length and SHARE/FILTER."""
    cdef uint32_t filter = filter_length(group.node)
    cdef Node* node = group.node
    cdef char* end
    p = put_u16(p, <uint16_t>(group.name_length + 1 + filter))
    memcpy(p, group.name, group.name_length)
    p += group.name_length
    p[0] = c"/"
    end = p + 1 + filter
    p = end
    while node.parent != NULL:
        p -= node.level_length
        memcpy(p, node.level, node.level_length)
        p -= 1
        p[0] = c"/"
        node = node.parent
    return end


cdef int op_flight(Loop loop, uint8_t kind, uint64_t sid, uint64_t qseq) except -1:
    put_u64(put_u64(begin_op(loop, kind, 16), sid), qseq)
    return 0


cdef int op_released(Loop loop, uint64_t sid, uint16_t packet_id) except -1:
    put_u16(put_u64(begin_op(loop, OP_RELEASED, 10), sid), packet_id)
    return 0


cdef int op_dropped(Loop loop, uint64_t sid, uint64_t qseq, uint8_t reason) except -1:
    cdef char* p = put_u64(put_u64(begin_op(loop, OP_DROPPED, 17), sid), qseq)
    p[0] = <char>reason
    return 0


cdef int close_batch(Loop loop) except -1:
    """Send the operations gathered so far as one OPS frame, and keep them until COMMITTED."""
    cdef bytes frame
    if loop.ops.length == 0:
        return 0
    put_u64(write_link_header(loop.ops.data, 1, <uint32_t>(loop.ops.length - 5)), loop.batch)
    frame = loop.ops.data[:loop.ops.length]
    loop.batches.append((loop.batch, frame, loop.opened_us))
    loop.unacked_bytes += loop.ops.length
    loop.batch += 1
    loop.ops.length = 0
    if loop.ops.capacity > 1048576:
        PyMem_RawFree(loop.ops.data)
        loop.ops.data = NULL
        loop.ops.capacity = 0
    if loop.keeper is not None:
        append(loop.keeper, frame, len(frame))
    return 0


cdef int push_ack(Loop loop, Connection connection, uint8_t kind, uint16_t packet_id, uint8_t reason, uint64_t qseq,
                  bint operation) except -1:
    """Acknowledge when the open batch is committed. `operation`: the op just added can be refused on its own."""
    cdef Ack* acks
    cdef Ack* ack
    cdef uint64_t i
    if loop.ack_end - loop.ack_first > loop.ack_mask:
        acks = <Ack*>PyMem_RawMalloc((loop.ack_mask + 1) * 2 * sizeof(Ack))
        if acks == NULL:
            raise MemoryError
        for i in range(loop.ack_first, loop.ack_end):
            acks[i & (loop.ack_mask * 2 + 1)] = loop.acks[i & loop.ack_mask]
        PyMem_RawFree(loop.acks)
        loop.acks = acks
        loop.ack_mask = loop.ack_mask * 2 + 1
    ack = loop.acks + (loop.ack_end & loop.ack_mask)
    loop.ack_end += 1
    ack.connection = <void*>connection
    Py_INCREF(connection)
    # Without an open batch it only has to stay behind what this connection waits for already.
    ack.batch = loop.batch if loop.ops.length else loop.batch - 1
    ack.op = loop.ops_count - 1 if operation else 0xFFFFFFFF
    ack.kind = kind
    ack.packet_id = packet_id
    ack.reason = reason
    ack.qseq = qseq
    connection.waiting_acks += 1
    if kind == 4:
        connection.waiting_pubacks += 1
    return 0


cdef int acknowledge(Connection connection, uint8_t kind, uint16_t packet_id, uint8_t reason, bint stored) except -1:
    """Send PUBACK, PUBREC or PUBCOMP: now, or in turn behind those that wait for a commit [MQTT-4.6.0-2]."""
    if stored or connection.waiting_acks:
        return push_ack(connection.loop, connection, kind, packet_id, reason, 0, stored)
    return write_ack(connection, kind, packet_id, reason)


cdef int write_ack(Connection connection, uint8_t kind, uint16_t packet_id, uint8_t reason) except -1:
    cdef char* p
    if connection.state != CONNECTED:
        return 0
    p = reserve(connection, 5)
    p[0] = <char>(kind << 4 | (2 if kind == 6 else 0))
    write_u16(p + 2, packet_id)
    if reason and connection.version == 5:
        p[1] = 3
        p[4] = <char>reason
        wrote(connection, 5)
    else:
        p[1] = 2
        wrote(connection, 4)
    connection.loop.stats[S_PACKETS_SENT + kind] += 1
    return touch(connection)


cdef int committed(Loop loop, uint64_t batch, dict refused) except -1:
    """Everything up to `batch` is durable, but the {(batch, op): reason} refused."""
    cdef Ack* ack
    cdef Connection connection
    cdef uint8_t reason
    cdef uint64_t took, now = monotonic_us(), number, opened, released = 0
    cdef bytes frame
    loop.committed = batch
    while loop.ack_first < loop.ack_end:
        ack = loop.acks + (loop.ack_first & loop.ack_mask)
        if ack.batch > batch:
            break
        loop.ack_first += 1
        connection = <Connection>ack.connection
        Py_DECREF(connection)
        connection.waiting_acks -= 1
        if ack.kind == 4:
            connection.waiting_pubacks -= 1
        reason = ack.reason
        if refused is not None and ack.op != 0xFFFFFFFF:
            reason = refused.get((ack.batch, ack.op), reason)
        release_ack(connection, ack.kind, ack.packet_id, reason, ack.qseq)
        released += 1
    while loop.batches:
        number, frame, opened = loop.batches[0]
        if number > batch:
            break
        loop.batches.popleft()
        loop.unacked_bytes -= len(frame)
        if number == batch and released:
            took = now - opened
            loop.stats[S_ACK_LATENCY + latency_bucket(took)] += released
            loop.stats[S_ACK_LATENCY_SUM] += took * released
    if loop.unacked_bytes < UNACKED_BYTES_MAX // 2 and loop.paused:
        loop.resume_wanted = True
    return 0


cdef int release_ack(Connection connection, uint8_t kind, uint16_t packet_id, uint8_t reason, uint64_t qseq) except -1:
    cdef Session session = connection.session
    cdef Flight* flight
    if connection.state != CONNECTED or session is None:
        return 0
    if kind == 6:                               # our PUBREL: the subscriber's PUBREC is durable now
        flight = find_flight(session, packet_id, &qseq)
        if flight != NULL and flight.state == COMMITTING:
            flight.state = AWAIT_PUBCOMP
            return write_ack(connection, 6, packet_id, 0)
        return 0
    if kind == 5 and reason >= 0x80 and session.flows != NULL and session.flows.packet_ids != NULL:
        ids_drop(session.flows.packet_ids, packet_id)
    if reason >= 0x80 and connection.version != 5:
        # MQTT 3 has no negative acknowledgement: without one the client sends it again elsewhere or later.
        connection.loop.end(connection, reason)
        return 0
    return write_ack(connection, kind, packet_id, reason)


cdef inline int latency_bucket(uint64_t us) noexcept:
    cdef int i
    for i in range(ACK_BUCKETS - 1):
        if us <= ack_bounds[i]:
            return i
    return ACK_BUCKETS - 1
