# Unix sockets to the keeper, to sibling workers and from the admin process: frames of docs/internals.md.
# A worker whose subscribers do not keep up tells the sibling to HOLD: who publishes there waits, as if he were here.
#
# PUBLISH frame: records `<BHIIQ` flags (bits 0-1 QoS, 2 retain, 3 shared), lengths of topic, properties, payload,
# expiry (store clock ms, 0 never); if shared `<H` length and SHARE/FILTER; then topic, properties, payload. One of the
# topic of the record before, which is not shared, without properties and expiry: `<BI` flags (bit 4), length; payload.
# ROUTES frame: records `<BHHH` kind (0 gone, 1 there, 2 members of a shared group), length of the filter, and for
# kind 2 how many members any message reaches there, and how many only QoS 0; then the filter (kind 2: SHARE/FILTER).
# SLOT frame: a PUBLISH frame lies in shared memory, see slots.pyx.
# HOLD frame: the topic whose publishers have to wait; empty: nobody has to any more.

cdef enum:
    FRAME_OPS = 1
    FRAME_COMMITTED = 2
    FRAME_WAKE = 3
    FRAME_PUBLISH = 7
    FRAME_ROUTES = 8
    FRAME_HOLD = 9
    FRAME_SLOT = 10

    SHARED = 8
    REPEATED = 16           # a message of the topic of the one before

    HELD_TOPICS_MAX = 64    # with more, all publishers for that sibling wait

    LINK_HIGH_WATER = 16777216
    FRAME_ENOUGH = 32768    # bytes of messages in a frame: the sibling handles it when it is whole
    CROSSING = 63           # the interconnect among the siblings (node/peers.py): its frames end when a slot is full
    FRAME_MAX = 1073741824


cdef inline char* write_link_header(char* p, uint8_t kind, uint32_t length) noexcept:
    put_u32(p, length)
    p[4] = <char>kind
    return p + 5


cdef int forward(Link link, Publication* pub, uint64_t topic, Group* group) except -1:
    """Add the message to the frame that leaves for a sibling at the end of this wake-up. `topic`: see Link, 0 if shared."""
    cdef uint64_t size = <uint64_t>19 + pub.topic_length + pub.properties_length + pub.payload_length
    cdef uint8_t flags = pub.qos | (4 if pub.retain else 0)
    cdef char* p
    if group != NULL:
        size += 2 + group.name_length + 1 + filter_length(group.node)
    if (link.publishes > FRAME_ENOUGH and link.index != CROSSING) or link.publishes + size > SLOT_BYTES:
        close_publishes(link)
    if link.publishes == 0:
        open_publishes(link, size)
    elif topic and topic == link.topic and pub.properties_length == 0 and pub.expires_ms == 0:
        size = 5 + pub.payload_length
        p = frame_room(link, size)
        p[0] = <char>(flags | REPEATED)
        p = put_u32(p + 1, pub.payload_length)
        memcpy(p, pub.payload, pub.payload_length)
        return added(link, size)
    write_in_full(frame_room(link, size), pub, flags, group)
    link.topic = topic
    return added(link, size)


cdef int open_publishes(Link link, uint64_t size) except -1:
    """For a message of `size` bytes and what comes behind it. Its header is last in the output, and filled in at the end."""
    if link.output == NULL:
        link.output = with_room(NULL, 5 + size, 2 * FRAME_ENOUGH)
    touch(link)
    link.open_slot = link.slots.take() if link.slots is not None and size <= SLOT_BYTES else -1
    if link.open_slot >= 0:
        reserve(link, 13)
        wrote(link, 13)
    else:
        reserve(link, 5 + size)
        wrote(link, 5)
    return 0


cdef inline char* frame_room(Link link, uint64_t size) except NULL:
    if link.open_slot >= 0:
        return link.slots.place(link.open_slot) + link.publishes
    return reserve(link, size)


cdef inline int added(Link link, uint64_t size) except -1:
    link.publishes += <uint32_t>size
    link.loop.stats[S_SIBLING_SENT] += 1
    if link.open_slot < 0:
        wrote(link, size)
        if output_size(link) > LINK_HIGH_WATER:
            link.congested = True
    return 0


cdef void write_in_full(char* p, Publication* pub, uint8_t flags, Group* group) noexcept:
    p[0] = <char>(flags if group == NULL else flags | SHARED)
    p = put_u16(p + 1, <uint16_t>pub.topic_length)
    p = put_u32(p, pub.properties_length)
    p = put_u32(p, pub.payload_length)
    p = put_u64(p, pub.expires_ms)
    if group != NULL:
        p = write_share(p, group)
    memcpy(p, pub.topic, pub.topic_length)
    p += pub.topic_length
    memcpy(p, pub.properties, pub.properties_length)
    memcpy(p + pub.properties_length, pub.payload, pub.payload_length)


cdef void close_publishes(Link link) noexcept:
    """Nothing else may be written to the link, or sent on it, before."""
    cdef char* p
    if not link.publishes:
        return
    if link.open_slot >= 0:
        p = write_link_header(link.output.data + link.output.end - 13, FRAME_SLOT, 8)
        put_u32(put_u32(p, link.open_slot), link.publishes)
    else:
        write_link_header(link.output.data + link.output.end - link.publishes - 5, FRAME_PUBLISH, link.publishes)
    link.publishes = 0


cdef int send_route(Link link, uint8_t kind, bytes filter, uint32_t live, uint32_t durable) except -1:
    cdef bytes body = struct.pack("<BHHH", kind, len(filter), min(live, 65535), min(durable, 65535)) + filter
    return send_frame(link, FRAME_ROUTES, body)


cdef int send_frame(Link link, uint8_t kind, bytes body) except -1:
    cdef char header[5]
    close_publishes(link)
    write_link_header(header, kind, <uint32_t>len(body))
    append(link, header, 5)
    return append(link, body, len(body))


cdef size_t read_frames(Link link, const char* p, size_t size) except? 0:
    """Handle the whole frames of `size` bytes; returns how many bytes they were."""
    cdef size_t used = 0
    cdef uint32_t length
    while size - used >= 5 and link.fd >= 0:
        memcpy(&length, p + used, 4)
        if length > FRAME_MAX:
            raise ValueError(f"a frame of {length} bytes on the {link.role} link")
        if size - used - 5 < length:
            break
        read_frame(link, <uint8_t>p[used + 4], p + used + 5, length)
        used += 5 + length
    return used


cdef int read_frame(Link link, uint8_t kind, const char* body, uint32_t length) except -1:
    cdef Loop loop = link.loop
    if kind == FRAME_PUBLISH:
        return read_publishes(link, body, length)
    if kind == FRAME_SLOT:
        return read_slot(link, body, length)
    if kind == FRAME_WAKE:
        return read_wake(loop, body, length)
    if kind == FRAME_COMMITTED:
        return read_committed(loop, body, length)
    if kind == FRAME_ROUTES:
        return read_routes(link, body, length)
    if kind == FRAME_HOLD:
        return read_hold(link, body[:length])
    try:
        loop.handler.frame(link, kind, body[:length])
    except Exception:
        loop.stats[S_HANDLER_ERRORS] += 1
        loop.handler.link_broken(link)
    return 0


cdef int read_wake(Loop loop, const char* p, uint32_t length) except -1:
    cdef uint64_t sid, qseq
    cdef uint32_t at = 0
    while at + 16 <= length:
        memcpy(&sid, p + at, 8)
        memcpy(&qseq, p + at + 8, 8)
        session = loop.sessions.get(sid)
        if session is not None:
            (<Session>session).wake(qseq)
        at += 16
    return 0


cdef int read_committed(Loop loop, const char* p, uint32_t length) except -1:
    cdef uint64_t batch, number
    cdef uint32_t count, i, op
    cdef dict refused = None
    memcpy(&batch, p, 8)
    memcpy(&count, p + 8, 4)
    if count:
        refused = {}
        for i in range(count):
            memcpy(&number, p + 12 + 13 * i, 8)
            memcpy(&op, p + 12 + 13 * i + 8, 4)
            refused[number, op] = <uint8_t>p[12 + 13 * i + 12]
    return committed(loop, batch, refused)


cdef int read_routes(Link link, const char* p, uint32_t length) except -1:
    cdef TopicTree tree = link.loop.tree
    cdef Node* node
    cdef uint16_t size, live, durable
    cdef uint32_t at = 0
    cdef uint64_t bit = <uint64_t>1 << link.index
    while at + 7 <= length:
        memcpy(&size, p + at + 1, 2)
        memcpy(&live, p + at + 3, 2)
        memcpy(&durable, p + at + 5, 2)
        if p[at] == 2:
            set_group_members(link.loop, p[at + 7:at + 7 + size], link.index, live, durable)
        elif p[at] == 1:
            node = tree.make(p + at + 7, size)
            node.workers |= bit
        else:
            node = tree.find(p + at + 7, size)
            if node != NULL:
                node.workers &= ~bit
                tree.prune(node)
        at += 7 + size
    tree.touch()
    return 0


cdef int read_publishes(Link link, const char* p, uint32_t length) except -1:
    """Messages that came in at a sibling: for our live subscribers, and by QoS 0 for attached durable ones."""
    cdef Loop loop = link.loop
    cdef Publication pub
    cdef Match* match = NULL        # of the message before; delivery does not change the tree
    cdef const char* end = p + length
    pub.received = received_now(loop)   # none of these is stored but shared ones, which get their own
    while p < end:
        if <uint8_t>p[0] == REPEATED and match != NULL and is_one_plain(match):
            p = deliver_run(link, &pub, match, p, end)
            if p == end:
                break
        loop.stats[S_SIBLING_RECEIVED] += 1
        loop.overfull = loop.output_bytes > loop.worker_output_max
        pub.qos = p[0] & 3
        pub.retain = bool(p[0] & 4)
        if p[0] & REPEATED:
            if match == NULL:
                raise ValueError("a message without a topic")
            memcpy(&pub.payload_length, p + 1, 4)
            pub.properties_length = 0
            pub.expires_ms = 0
            pub.payload = p + 5
            route_here(loop, &pub, match)
        elif p[0] & SHARED:
            match = NULL
            read_shared(loop, &pub, p)
        else:
            read_body(&pub, p, p + 19)
            match = loop.tree.match(pub.topic, pub.topic_length)
            route_here(loop, &pub, match)
        p = pub.payload + pub.payload_length
        if loop.overfull:
            hold(link, pub.topic[:pub.topic_length])
    return 0


cdef int read_slot(Link link, const char* p, uint32_t length) except -1:
    """A SLOT frame: handle the PUBLISH frame that it tells the place of."""
    cdef uint32_t slot = 0, size = 0
    if length != 8 or link.slots is None:
        raise ValueError(f"a SLOT frame of {length} bytes on the {link.role} link")
    memcpy(&slot, p, 4)
    memcpy(&size, p + 4, 4)
    read_publishes(link, link.slots.arrived(slot, size), size)
    link.slots.free(slot)
    return 0


cdef inline bint is_one_plain(Match* match) noexcept:
    """Does a QoS 0 message of this topic go to one subscriber here, whose packet holds nothing but topic and payload?"""
    cdef Connection connection
    if match.target_count != 1 or match.targets[0].identifier_count:
        return False
    connection = (<Session>match.targets[0].session).connection
    return connection is not None and connection.state == CONNECTED and not connection.alias_out_max


cdef const char* deliver_run(Link link, Publication* pub, Match* match, const char* p, const char* end) except NULL:
    """As route_here would, the messages from `p` on that only repeat the topic; returns where another kind begins.

    Half of what a message costs here is to find out anew that nothing has changed since the one before.
    """
    cdef Loop loop = link.loop
    cdef Connection connection = (<Session>match.targets[0].session).connection
    cdef uint32_t body, size
    cdef uint64_t count = 0, payloads = 0
    pub.properties_length = 0
    pub.expires_ms = 0
    while p < end and <uint8_t>p[0] == REPEATED and not connection.congested and loop.output_bytes <= loop.worker_output_max:
        memcpy(&pub.payload_length, p + 1, 4)
        pub.payload = p + 5
        body = frame_body(pub, connection.version, 0, 0, pub.topic_length)
        size = 1 + varint_size(body) + body
        if size > connection.max_packet_out:
            break
        write_frame(reserve(connection, size), loop, pub, connection.version, body, 0, 0, NULL, 0, 0, pub.topic_length)
        wrote(connection, size)
        p = pub.payload + pub.payload_length
        payloads += pub.payload_length
        count += 1
        if output_size(connection) > loop.output_max:
            congest(connection)
    if count:
        touch(connection)
        loop.stats[S_SIBLING_RECEIVED] += count
        loop.stats[S_PACKETS_SENT + 3] += count
        loop.stats[S_PUBLISH_SENT] += count
        loop.stats[S_PUBLISH_BYTES_SENT] += payloads
    return p


cdef inline void read_body(Publication* pub, const char* head, const char* topic) noexcept:
    cdef uint16_t topic_length
    memcpy(&topic_length, head + 1, 2)
    memcpy(&pub.properties_length, head + 3, 4)
    memcpy(&pub.payload_length, head + 7, 4)
    memcpy(&pub.expires_ms, head + 11, 8)
    pub.topic = topic
    pub.topic_length = topic_length
    pub.properties = topic + topic_length
    pub.payload = pub.properties + pub.properties_length


cdef int read_shared(Loop loop, Publication* pub, const char* p) except -1:
    cdef uint16_t length
    memcpy(&length, p + 19, 2)
    read_body(pub, p, p + 21 + length)
    pub.received = received_now(loop)
    return take_shared(loop, pub, p[21:21 + length])


cdef int hold(Link link, bytes topic) except -1:
    """Have the publishers of this topic at the sibling wait until `release_held`."""
    if topic not in link.holding and len(link.holding) <= HELD_TOPICS_MAX:
        link.holding.add(topic)
        send_frame(link, FRAME_HOLD, topic)
    return 0


cdef int release_held(Link link) except -1:
    if link.holding:
        link.holding.clear()
        send_frame(link, FRAME_HOLD, b"")
    return 0


cdef int read_hold(Link link, bytes topic) except -1:
    if topic:
        link.held.add(topic)
    else:
        link.held.clear()
        link.loop.resume_wanted = True
    link.held_count = <uint32_t>len(link.held)
    return 0


cdef inline int wait_for_sibling(Link link, Publication* pub, Connection publisher) except -1:
    """Does this publisher have to wait, after what was forwarded?"""
    if not (link.congested or link.held_count) or publisher is None:
        return 0
    if link.congested or link.held_count > HELD_TOPICS_MAX or pub.topic[:pub.topic_length] in link.held:
        link.loop.blocked = True
    return 0


cdef int route_here(Loop loop, Publication* pub, Match* match) except -1:
    cdef Target* target
    cdef Session session
    cdef uint32_t i
    cdef uint8_t options
    if match.target_count > 1:
        for i in range(4):
            loop.frames[i].built = False
    for i in range(match.target_count):
        target = match.targets + i
        session = <Session>target.session
        options = delivered_options(pub, target.options)
        if session.connection is None or session.connection.state != CONNECTED:
            continue
        if (session.sid and options & 3) or deliver(loop, session, pub, options, match.identifiers + target.identifiers,
                                                    target.identifier_count, NULL, None, match.target_count > 1):
            if pub.retain:
                replaced(session, pub)
    return 0


cdef int take_shared(Loop loop, Publication* pub, bytes name) except -1:
    """A sibling chose this worker's members of a shared group; if they have left meanwhile, whoever is there."""
    share, filter = name.split(b"/", 1)
    cdef Node* node = loop.tree.find(filter, len(filter))
    cdef Group* group = loop.tree.group(node, share, len(share), False) if node != NULL else NULL
    cdef int result
    if group == NULL:
        loop.stats[S_DROPPED_SESSION_ENDED] += 1
        return 0
    loop.durable_count = 0
    result = route_group(loop, group, pub, None, None, REACHED_HERE)
    if result & STORED:
        op_publish(loop, pub, 0, None, 0, 0, 0, 0)
    return 0


cdef int forget_routes(Loop loop, int index) except -1:
    """A sibling is gone: nothing leads to it any more."""
    cdef NodeList empty
    cdef uint64_t i
    empty.nodes = NULL
    empty.count = empty.capacity = 0
    for i in range(loop.tree.mask + 1):
        if <size_t>loop.tree.table[i] > 1:
            forget_below(loop.tree, loop.tree.table[i], index, &empty)
    forget_below(loop.tree, loop.tree.root, index, &empty)
    # Only now, since pruning a leaf frees its ancestors too.
    for i in range(empty.count):
        loop.tree.prune(empty.nodes[i])
    PyMem_RawFree(empty.nodes)
    loop.tree.touch()
    return 0


cdef int forget_below(TopicTree tree, Node* node, int index, NodeList* empty) except -1:
    """Forget at a literal node and at its wildcard descendants; its literal ones are in the table themselves."""
    forget_at(tree, node, index, empty)
    while node != NULL:
        if node.multi != NULL:
            forget_at(tree, node.multi, index, empty)
        node = node.plus
        if node != NULL:
            forget_at(tree, node, index, empty)
    return 0


cdef int forget_at(TopicTree tree, Node* node, int index, NodeList* empty) except -1:
    cdef Group* group = node.groups
    cdef Group* following
    node.workers &= ~(<uint64_t>1 << index)
    while group != NULL:
        following = group.next
        if group.siblings != NULL:
            group.siblings[index] = group.siblings[64 + index] = 0
            tree.drop_group_if_empty(group)
        group = following
    if node.parent != NULL and node.count == 0 and node.children == 0 and node.workers == 0 and node.groups == NULL:
        push_node(empty, node)
    return 0
