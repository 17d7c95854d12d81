# The client's side of MQTT 3.1.1 and 5: packets out, packets in.

cdef enum:
    CONNACK = 0x20, PUBLISH = 0x30, PUBACK = 0x40, PUBREC = 0x50, PUBREL = 0x62, PUBCOMP = 0x70, SUBSCRIBE = 0x82
    SUBACK = 0x90, DISCONNECT = 0xE0
    FILTERS_A_PACKET = 100


cdef size_t expand(const char* template, char* out, uint64_t index, uint64_t number) noexcept nogil:
    """`template` with \x01 replaced by `index` and \x02 by `number`; the length."""
    cdef char* p = out
    while template[0]:
        if template[0] == 1 or template[0] == 2:
            p += write_decimal(p, index if template[0] == 1 else number)
        else:
            p[0] = template[0]
            p += 1
        template += 1
    return p - out


cdef size_t write_decimal(char* out, uint64_t value) noexcept nogil:
    cdef char digits[20]
    cdef size_t count = 0, i
    while True:
        digits[count] = <char>(48 + value % 10)
        count += 1
        value //= 10
        if value == 0:
            break
    for i in range(count):
        out[i] = digits[count - 1 - i]
    return count


cdef inline char* put_text(char* p, const char* text, size_t length) noexcept nogil:
    write_u16(p, <uint16_t>length)
    memcpy(p + 2, text, length)
    return p + 2 + length


cdef void put_packet(Connection* c, uint8_t first, const char* body, size_t length) noexcept nogil:
    cdef char* p = reserve(c, 5 + length)
    p[0] = <char>first
    p = write_varint(p + 1, <uint32_t>length)
    memcpy(p, body, length)
    c.output_end = p + length - c.output


cdef void put_connect(Load load, Connection* c) noexcept nogil:
    cdef Group* g = c.group
    cdef char* p = put_text(load.scratch, b"MQTT", 4)
    cdef char client_id[MAX_TEMPLATE]
    p[0] = <char>g.version
    p[1] = <char>((2 if g.clean else 0) | (0x80 if load.user != NULL else 0) | (0x40 if load.password != NULL else 0))
    write_u16(p + 2, 0)  # no keep-alive: an idle load costs nobody anything
    p += 4
    if g.version == 5:
        p[0] = 0 if g.clean else 5
        if not g.clean:
            p[1] = 0x11  # session expiry: an hour
            write_u32(p + 2, 3600)
        p += 1 if g.clean else 6
    p = put_text(p, client_id, expand(g.client_id, client_id, c.index, 0))
    if load.user != NULL:
        p = put_text(p, load.user, strlen(load.user))
    if load.password != NULL:
        p = put_text(p, load.password, strlen(load.password))
    put_packet(c, 0x10, load.scratch, p - load.scratch)


cdef void put_subscribes(Load load, Connection* c) noexcept nogil:
    """As many SUBSCRIBE packets as the output takes."""
    cdef Group* g = c.group
    cdef uint32_t last
    cdef char* p
    while c.filters_sent < g.filters and c.output_end - c.output_start < FILL_BYTES:
        last = min(g.filters, c.filters_sent + FILTERS_A_PACKET)
        write_u16(load.scratch, <uint16_t>(1 + c.filters_sent // FILTERS_A_PACKET % 65535))
        p = load.scratch + 2
        if g.version == 5:
            p[0] = 0
            p += 1
        while c.filters_sent < last:
            write_u16(p, <uint16_t>expand(g.subscribe, p + 2, c.index, c.filters_sent))
            p += 2 + read_u16(p)
            p[0] = <char>g.qos
            p += 1
            c.filters_sent += 1
        put_packet(c, SUBSCRIBE, load.scratch, p - load.scratch)


cdef void build_frame(Load load, Connection* c) noexcept nogil:
    """The PUBLISH of this connection, where only packet id and header of the payload change from one to the next."""
    cdef Group* g = c.group
    cdef size_t topic_length = expand(g.publish, load.scratch, c.index, c.sent)
    cdef uint32_t length = <uint32_t>(2 + topic_length + (2 if g.qos else 0) + (1 if g.version == 5 else 0) + g.size)
    cdef char* p
    if c.frame == NULL:
        c.frame = <char*>need(malloc(10 + MAX_TEMPLATE + g.size))
    p = c.frame
    p[0] = <char>(PUBLISH | g.qos << 1 | g.retain)
    p = put_text(write_varint(p + 1, length), load.scratch, topic_length)
    c.frame_id = <uint32_t>(p - c.frame)
    if g.qos:
        p += 2
    if g.version == 5:
        p[0] = 0
        p += 1
    memset(p, 120, g.size)
    c.frame_payload = <uint32_t>(p - c.frame)
    c.frame_length = c.frame_payload + g.size


cdef void put_publish(Load load, Connection* c, uint64_t stamp_ns) noexcept nogil:
    """The caller has made sure that the window has room."""
    cdef Header header
    cdef char* p
    cdef uint16_t packet_id
    if c.frame == NULL or c.group.topic_varies:
        build_frame(load, c)
    p = reserve(c, c.frame_length)
    memcpy(p, c.frame, c.frame_length)
    header.run, header.publisher, header.sequence, header.sent_ns = load.run, c.publisher, c.sent, stamp_ns
    memcpy(p + c.frame_payload, &header, sizeof(Header))
    if c.group.qos:
        packet_id = c.free_ids[c.free_start]
        c.free_start = 0 if c.free_start + 1 == c.group.window else c.free_start + 1
        c.unacknowledged += 1
        c.slots[packet_id - 1].sent_ns = stamp_ns
        c.slots[packet_id - 1].awaits = PUBACK if c.group.qos == 1 else PUBREC
        write_u16(p + c.frame_id, packet_id)
    c.output_end += c.frame_length
    c.sent += 1
    load.counts[SENT] += 1


cdef inline void put_ack(Load load, Connection* c, uint8_t kind, uint16_t packet_id) noexcept nogil:
    cdef char* p = reserve(c, 4)
    p[0] = <char>kind
    p[1] = 2
    write_u16(p + 2, packet_id)
    c.output_end += 4
    touch(load, c)


cdef int64_t parse(Load load, Connection* c, const char* p, size_t length) noexcept nogil:
    """Every whole packet; the bytes used, or -1 if they are no MQTT."""
    cdef size_t at = 0
    cdef uint32_t remaining
    cdef int used
    while length - at >= 2 and c.state != ENDED:
        if <uint8_t>p[at + 1] < 128:
            remaining = <uint8_t>p[at + 1]
            used = 1
        else:
            used = read_varint(p + at + 1, length - at - 1, &remaining)
            if used < 0:
                return -1
        if used == 0 or length - at - 1 - used < remaining:
            break
        at += 1 + used
        if <uint8_t>p[at - 1 - used] >> 4 == 3:
            if not on_publish(load, c, <uint8_t>p[at - 1 - used], p + at, remaining):
                return -1
        elif not on_other(load, c, <uint8_t>p[at - 1 - used], p + at, remaining):
            return -1
        at += remaining
    return at


cdef inline bint on_publish(Load load, Connection* c, uint8_t first, const char* p, uint32_t length) noexcept nogil:
    cdef uint32_t at, properties
    cdef uint16_t packet_id = 0
    cdef uint8_t qos = first >> 1 & 3
    cdef int used
    if length < 2:
        return False
    at = 2 + read_u16(p)
    if at + (2 if qos else 0) > length:
        return False
    if qos:
        packet_id = read_u16(p + at)
        at += 2
    if c.group.version == 5:
        used = read_varint(p + at, length - at, &properties)
        if used <= 0 or at + used + properties > length:
            return False
        at += used + properties
    if first & 8:
        load.counts[REDELIVERED] += 1
    if qos == 1:
        put_ack(load, c, PUBACK, packet_id)
    elif qos == 2:
        put_ack(load, c, PUBREC, packet_id)
        if c.received_ids == NULL:
            c.received_ids = <uint8_t*>need(calloc(1, 8192))
        if c.received_ids[packet_id >> 3] >> (packet_id & 7) & 1:
            return True  # sent again before PUBREL: the same message [MQTT-4.3.3-10]
        c.received_ids[packet_id >> 3] |= 1 << (packet_id & 7)
    enter(load, c, p + at, length - at)
    return True


cdef bint on_other(Load load, Connection* c, uint8_t first, const char* p, uint32_t length) noexcept nogil:
    cdef uint16_t packet_id
    if first == CONNACK:
        return on_connack(load, c, p, length)
    if first == DISCONNECT:
        load.last_reason = <uint8_t>p[0] if length else 0
        return True
    if length < 2:
        return False
    packet_id = read_u16(p)
    if first == SUBACK:
        return on_suback(load, c, p, length)
    if first == PUBACK or first == PUBCOMP:
        on_ack(load, c, first, packet_id, length > 2 and p[2] & 0x80)
    elif first == PUBREC:
        on_pubrec(load, c, packet_id, length > 2 and p[2] & 0x80)
    elif first == PUBREL:
        if c.received_ids != NULL:
            c.received_ids[packet_id >> 3] &= ~(1 << (packet_id & 7))
        put_ack(load, c, PUBCOMP, packet_id)
    else:
        return False
    return True


cdef inline bint awaited(Load load, Connection* c, uint8_t kind, uint16_t packet_id) noexcept nogil:
    if packet_id == 0 or c.slots == NULL or packet_id > c.group.window or c.slots[packet_id - 1].awaits != kind:
        load.counts[UNEXPECTED_ACKS] += 1
        return False
    return True


cdef void on_ack(Load load, Connection* c, uint8_t kind, uint16_t packet_id, bint refused) noexcept nogil:
    cdef uint32_t place
    if not awaited(load, c, kind, packet_id):
        return
    record(&load.histograms[ACKNOWLEDGEMENT], load.now_ns - c.slots[packet_id - 1].sent_ns)
    place = c.free_start + c.group.window - c.unacknowledged
    c.free_ids[place - c.group.window if place >= c.group.window else place] = packet_id
    c.unacknowledged -= 1
    c.slots[packet_id - 1].awaits = 0
    if refused:
        load.counts[PUBLISH_REFUSED] += 1
        return_credit(load, c, c.group.fanout)
    else:
        load.counts[ACKNOWLEDGED] += 1
    touch(load, c)


cdef void on_pubrec(Load load, Connection* c, uint16_t packet_id, bint refused) noexcept nogil:
    if refused:
        on_ack(load, c, PUBREC, packet_id, True)
    elif awaited(load, c, PUBREC, packet_id):
        c.slots[packet_id - 1].awaits = PUBCOMP
        put_ack(load, c, PUBREL, packet_id)


cdef bint on_connack(Load load, Connection* c, const char* p, uint32_t length) noexcept nogil:
    if length < 2 or c.state != CONNECTING:
        return False
    if p[1]:
        load.counts[CONNECT_REFUSED] += 1
        load.last_reason = <uint8_t>p[1]
        end(load, c)
        return True
    if p[0] & 1:
        load.counts[SESSIONS_PRESENT] += 1
    if c.group.version == 5 and length > 2:
        c.allowed = receive_maximum(p + 2, length - 2)
    c.state = CONNECTED
    load.pending -= 1
    load.counts[CONNECTED_NOW] += 1
    load.counts[CONNECTS] += 1
    record(&load.histograms[CONNECTION], load.now_ns - c.opened_ns)
    if c.group.filters == 0:
        settle(load, c)
    touch(load, c)
    return True


cdef uint32_t receive_maximum(const char* p, uint32_t length) noexcept nogil:
    """Of the properties of CONNACK, whose length stands first; 65535 if they do not tell."""
    cdef uint32_t end, at
    cdef uint8_t name
    cdef int used = read_varint(p, length, &end)
    if used <= 0 or used + end > length:
        return 65535
    at, end = used, used + end
    while at + 3 <= end:
        name = <uint8_t>p[at]
        if name == 0x21:
            return read_u16(p + at + 1)
        if name == 0x24 or name == 0x25 or name == 0x28 or name == 0x29 or name == 0x2A:
            at += 2
        elif name == 0x11 or name == 0x27:
            at += 5
        elif name == 0x13 or name == 0x22:
            at += 3
        elif name == 0x26:
            at += 3 + read_u16(p + at + 1)
            if at + 2 <= end:
                at += 2 + read_u16(p + at)
        else:
            at += 3 + read_u16(p + at + 1)
    return 65535


cdef bint on_suback(Load load, Connection* c, const char* p, uint32_t length) noexcept nogil:
    cdef uint32_t at = 2, properties
    cdef int used
    if c.group.version == 5:
        used = read_varint(p + 2, length - 2, &properties)
        if used <= 0 or 2 + used + properties > length:
            return False
        at += used + properties
    while at < length:
        load.counts[SUBSCRIBE_REFUSED if p[at] & 0x80 else SUBSCRIBED] += 1
        c.filters_answered += 1
        at += 1
    if c.filters_answered == c.group.filters:
        settle(load, c)
    return True
