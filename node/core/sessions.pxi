# Sessions: subscriptions, the outbound window, the queue of a live session, the cursor of a durable one.

cdef class Session:
    """One client's session. Live (sid 0) it ends with its connection; durable it stays in the tree while the store has it."""

    def __cinit__(self, Loop loop, str client_id, str user, uint64_t sid=0):
        self.loop = loop
        self.client_id = client_id
        self.user = user
        self.sid = sid
        self.receive_max = 65535

    def __dealloc__(self):
        free_flows(self)
        PyMem_RawFree(self.nodes)

    @property
    def attached(self):
        return self.connection is not None

    @property
    def inflight(self):
        return in_flight(self.flows) if self.flows != NULL else 0

    @property
    def sent_until(self):
        """Durable: deliveries up to this qseq may have been sent."""
        return self.flows.read_after if self.flows != NULL else 0

    @property
    def waiting(self):
        """Live: deliveries that wait for room in the window."""
        return self.flows.pending_count if self.flows != NULL else 0

    def filters(self):
        """[(filter, options, identifier)] with shared ones as $share/NAME/FILTER."""
        cdef uint32_t i, j
        found = []
        for i in range(self.node_count):
            for j in range(self.nodes[i].count):
                if self.nodes[i].subscriptions[j].session == <void*>self:
                    found.append((filter_of(self.nodes[i]), self.nodes[i].subscriptions[j].options,
                                  self.nodes[i].subscriptions[j].identifier))
                    break
        for (share, filter), (options, identifier) in (self.shares or {}).items():
            found.append((b"$share/" + share + b"/" + filter, options, identifier))
        return found

    def names(self):
        """The filters, shared ones as $share/NAME/FILTER."""
        cdef uint32_t i
        return [filter_of(self.nodes[i]) for i in range(self.node_count)] + [
            b"$share/" + share + b"/" + filter for share, filter in self.shares or ()]

    @property
    def subscription_count(self):
        return self.node_count + (len(self.shares) if self.shares else 0)

    def has(self, bytes filter, share):
        """Is there this subscription? `share`: its (share, filter) if it is a shared one."""
        cdef Node* node = self.loop.tree.find(filter, len(filter))
        cdef uint32_t i
        if share is not None:
            return share in (self.shares or ())
        if node == NULL:
            return False
        if node.count < self.node_count:        # either list tells, take the shorter one
            for i in range(node.count):
                if node.subscriptions[i].session == <void*>self:
                    return True
            return False
        for i in range(self.node_count):
            if self.nodes[i] == node:
                return True
        return False

    def subscribe(self, bytes filter, int options, unsigned int identifier=0):
        """(new, announced): was there none before; did the siblings have to be told."""
        cdef Node* node = self.loop.tree.make(filter, len(filter))
        cdef void* grown
        cdef bint announced = False
        if not put_subscription(&node.subscriptions, &node.count, &node.capacity, <void*>self, <uint8_t>options,
                                identifier):
            self.loop.tree.touch()
            return False, False
        if self.node_count == self.node_capacity:
            self.node_capacity = 1 if self.node_capacity == 0 else self.node_capacity * 2
            grown = PyMem_RawRealloc(self.nodes, self.node_capacity * sizeof(Node*))
            if grown == NULL:
                raise MemoryError
            self.nodes = <Node**>grown
        self.nodes[self.node_count] = node
        self.node_count += 1
        if self.connection is not None:
            announced = add_local(self.loop, node, 1)
        self.loop.tree.touch()
        return True, announced

    def unsubscribe(self, bytes filter):
        """(existed, announced)"""
        cdef Node* node = self.loop.tree.find(filter, len(filter))
        cdef bint announced
        cdef uint32_t i
        if node == NULL or not drop_subscription(node.subscriptions, &node.count, <void*>self):
            return False, False
        for i in range(self.node_count):
            if self.nodes[i] == node:
                self.node_count -= 1
                self.nodes[i] = self.nodes[self.node_count]
                break
        announced = add_local(self.loop, node, -1) if self.connection is not None else False
        self.loop.tree.prune(node)
        self.loop.tree.touch()
        return True, announced

    def share(self, bytes share, bytes filter, int options, unsigned int identifier=0):
        """Join a shared subscription; True if it is new."""
        if self.shares is None:
            self.shares = {}
        new = (share, filter) not in self.shares
        self.shares[share, filter] = (options, identifier)
        join_group(self.loop, self, share, filter, options, identifier)
        if self.connection is not None:
            announce_group(self.loop, share, filter)
        return new

    def unshare(self, bytes share, bytes filter):
        if not self.shares or self.shares.pop((share, filter), None) is None:
            return False
        leave_group(self.loop, self, share, filter)
        announce_group(self.loop, share, filter)
        return True

    def remember_packet_ids(self, list ids, bint unsure):
        """Durable: inbound QoS 2 ids that await PUBREL, from the store. `unsure`: it was taken from a host that could not be asked."""
        for packet_id in ids:
            open_packet_id(self, packet_id)
        flows_of(self).inherited_ids = <uint32_t>len(ids)
        flows_of(self).unsure_ids = unsure and len(ids) > 0

    def leave_tree(self):
        """The session is over: nothing may match it any more."""
        cdef uint32_t i
        cdef Node* node
        for i in range(self.node_count):
            node = self.nodes[i]
            drop_subscription(node.subscriptions, &node.count, <void*>self)
            if self.connection is not None:
                add_local(self.loop, node, -1)
            self.loop.tree.prune(node)
        self.node_count = 0
        PyMem_RawFree(self.nodes)
        self.nodes = NULL
        self.node_capacity = 0
        for share, filter in list(self.shares or ()):
            self.unshare(share, filter)
        self.loop.tree.touch()

    def attach(self, Connection connection, unsigned int receive_max, uint64_t resent_until=0, uint64_t last_qseq=0):
        """`connection` is now this session's; a durable session's queue is read from its start up to `last_qseq`.

        What the keeper has stored behind that may not be on other hosts yet: WAKE tells when it may be sent.
        """
        cdef uint32_t i
        assert self.connection is None and connection.session is None
        self.connection = connection
        connection.session = self
        self.receive_max = receive_max
        if self.sid:
            flows_of(self).last_qseq = last_qseq
            self.flows.resent_until = resent_until
        for i in range(self.node_count):
            add_local(self.loop, self.nodes[i], 1)
        for share, filter in self.shares or ():
            announce_group(self.loop, share, filter)
        if self.sid:
            want_pump(self)

    def detach(self):
        """The connection is gone. A live session is over: it leaves the tree, and its unacknowledged shared messages go on."""
        cdef uint32_t i
        cdef list left = None
        if self.connection is None:
            return
        self.loop.replays.pop(self, None)
        if self.sid == 0:
            self.leave_tree()
            self.connection.session = None
            self.connection = None
            pass_on_shared(self)
        else:
            for i in range(self.node_count):
                add_local(self.loop, self.nodes[i], -1)
            self.connection.session = None
            self.connection = None
            for share, filter in self.shares or ():
                announce_group(self.loop, share, filter)
        if self.flows != NULL:
            self.loop.stats[S_INFLIGHT] -= in_flight(self.flows)
        free_flows(self)

    def wake(self, uint64_t last_qseq):
        """The store has entries up to `last_qseq`."""
        if self.connection is None:
            return
        if last_qseq > self.flows.last_qseq:
            self.flows.last_qseq = last_qseq
        if self.flows.read_after < last_qseq:
            want_pump(self)

    def retained(self, list records, int options, unsigned int identifier):
        """Deliver message records of the store as retained messages to a live session or by QoS 0.

        `options` as subscribed. Returns how many were taken; the caller goes on with the rest when there is room.
        """
        cdef Publication pub
        cdef bytes record
        cdef uint32_t ids = identifier
        cdef uint8_t qos
        cdef int count = 0
        for record in records:
            if self.connection is None or self.connection.congested:
                break
            count += 1
            if not read_record(<const char*>record, len(record), &pub):
                continue
            qos = min(pub.qos, options & 3)
            if qos and self.sid:
                self.loop.durable_count = 0
                add_durable(self.loop, <void*>self, qos | 4, &ids, 1 if identifier else 0, NULL)
                pub.retain = False          # the record must not set it again
                op_publish(self.loop, &pub, 0, None, 0, 0, 0, REPLAYED)
            else:
                deliver(self.loop, self, &pub, qos | 4, &ids, 1 if identifier else 0, NULL, None, False)
        return count


cdef Flows* flows_of(Session session) except NULL:
    """Its flows, from now on if it had none."""
    if session.flows == NULL:
        session.flows = <Flows*>PyMem_RawCalloc(1, sizeof(Flows))
        if session.flows == NULL:
            raise MemoryError
    return session.flows


cdef void free_flows(Session session) noexcept:
    cdef Flows* flows = session.flows
    cdef Flight* ring
    cdef uint64_t seq
    if flows == NULL:
        return
    while flows.pending_count:
        release_pending(pop_pending(session))
    PyMem_RawFree(flows.pending)
    ring = flows.window.ring
    if ring != NULL:
        for seq in range(flows.window.lowest, flows.window.next):
            if ring[seq & flows.window.mask].message != NULL:
                release_group(<Group*>ring[seq & flows.window.mask].group)
    window_free(&flows.window)
    window_free(&flows.earlier)
    if flows.packet_ids != NULL:
        ids_free(flows.packet_ids)
        PyMem_RawFree(flows.packet_ids)
    PyMem_RawFree(flows)
    session.flows = NULL


cdef int pass_on_shared(Session session) except -1:
    """QoS 1 messages that the client has not acknowledged, and unsent ones; QoS 2 in flight must not move [MQTT-4.8.2-5]."""
    cdef Flows* flows = session.flows
    cdef uint64_t seq
    cdef Flight* flight
    cdef Pending* pending
    if flows == NULL:
        return 0
    if flows.window.ring != NULL:
        for seq in range(flows.window.lowest, flows.window.next):
            flight = flows.window.ring + (seq & flows.window.mask)
            if flight.message != NULL and flight.state == AWAIT_PUBACK:
                dispatch_again(session.loop, flight.message, <Group*>flight.group)
    while flows.pending_count:
        pending = pop_pending(session)
        if pending.group != NULL:
            dispatch_again(session.loop, pending.message, pending.group)
        release_pending(pending)
    return 0


cdef int open_packet_id(Session session, uint16_t packet_id) except -1:
    cdef Flows* flows = flows_of(session)
    if flows.packet_ids == NULL:
        flows.packet_ids = <PacketIds*>PyMem_RawCalloc(1, sizeof(PacketIds))
        if flows.packet_ids == NULL:
            raise MemoryError
    return ids_add(flows.packet_ids, packet_id)


cdef bint add_local(Loop loop, Node* node, int change) except -1:
    """Count a local subscription at `node`; True if the siblings were told that it is the first or was the last."""
    cdef uint32_t before = node.local
    node.local = <uint32_t>(<int>before + change)
    if not loop.sibling_count or (before and node.local):
        return False
    filter = filter_of(node)
    for link in loop.siblings:
        if link is not None:
            send_route(<Link>link, 1 if node.local else 0, filter, 0, 0)
    return True


# -- live: deliveries that wait for the window ----------------------------------------------------------------------

cdef int pend(Session session, Publication* pub, uint8_t options, uint32_t* identifiers, uint32_t count,
              Group* group) except -1:
    cdef Loop loop = session.loop
    cdef Flows* flows = session.flows
    cdef Pending* grown
    cdef Pending* pending
    cdef uint32_t i, capacity
    if flows.pending_count == flows.pending_capacity:
        capacity = max(8, flows.pending_capacity * 2)
        grown = <Pending*>PyMem_RawMalloc(capacity * sizeof(Pending))
        if grown == NULL:
            raise MemoryError
        for i in range(flows.pending_count):
            grown[i] = flows.pending[(flows.pending_first + i) & (flows.pending_capacity - 1)]
        PyMem_RawFree(flows.pending)
        flows.pending = grown
        flows.pending_first = 0
        flows.pending_capacity = capacity
    pending = flows.pending + ((flows.pending_first + flows.pending_count) & (flows.pending_capacity - 1))
    pending.message = message_of(pub)
    pending.identifiers = NULL
    if count:
        pending.identifiers = <uint32_t*>PyMem_RawMalloc(count * sizeof(uint32_t))
        if pending.identifiers == NULL:
            raise MemoryError
        memcpy(pending.identifiers, identifiers, count * sizeof(uint32_t))
    pending.identifier_count = <uint16_t>count
    pending.options = options
    pending.permit_version = loop.permit_version
    pending.group = group
    if group != NULL:
        group.references += 1
    flows.pending_count += 1
    flows.pending_bytes += pending_size(pending)
    loop.output_bytes += pending_size(pending)
    if backlog(session.connection) > loop.output_max:
        congest(session.connection)
    return 0


cdef inline uint64_t pending_size(Pending* pending) noexcept:
    return (sizeof(Message) + sizeof(Pending) + pending.message.topic_length + pending.message.properties_length
            + pending.message.payload_length)


cdef Pending* pop_pending(Session session) noexcept:
    """The oldest, which stays valid until the next `pend`; the caller releases it."""
    cdef Flows* flows = session.flows
    cdef Pending* pending = flows.pending + flows.pending_first
    flows.pending_first = (flows.pending_first + 1) & (flows.pending_capacity - 1)
    flows.pending_count -= 1
    flows.pending_bytes -= pending_size(pending)
    session.loop.output_bytes -= pending_size(pending)
    return pending


cdef void release_pending(Pending* pending) noexcept:
    message_release(pending.message)
    PyMem_RawFree(pending.identifiers)
    release_group(pending.group)


cdef bint may_receive(Session session, Publication* pub) except -1:
    cdef TopicTree tree = session.loop.tree
    return tree.receive_permitted is None or bool(tree.receive_permitted(session, pub.topic[:pub.topic_length]))


cdef int send_pending(Session session) except -1:
    cdef Loop loop = session.loop
    cdef Connection connection = session.connection
    cdef Flows* flows = session.flows
    cdef Pending* pending
    cdef Publication pub
    cdef uint8_t qos
    while (flows.pending_count and flows.window.open < session.receive_max
            and window_fits(&flows.window, flows.next_qseq)
            and output_size(connection) < loop.output_max):
        pending = pop_pending(session)
        publication_of(pending.message, &pub)
        qos = pending.options & 3
        if pub.expires_ms and pub.expires_ms <= loop.now_ms + loop.clock_offset_ms:     # [MQTT-3.3.2-5]
            loop.stats[S_DROPPED_EXPIRED] += 1
        elif pending.permit_version != loop.permit_version and not may_receive(session, &pub):
            loop.stats[S_DROPPED_DENIED] += 1
        elif write_publish(connection, &pub, qos, (pending.options >> 2) & 1, packet_id_of(flows.next_qseq),
                           pending.identifiers, pending.identifier_count, False):
            open_live(session, &pub, qos, pending.group)
        else:
            loop.stats[S_DROPPED_TOO_LARGE] += 1
        release_pending(pending)
    return 0


# -- durable: the queue in the store ---------------------------------------------------------------------------------

cdef int want_pump(Session session) except -1:
    if not session.pump_wanted:
        session.pump_wanted = True
        session.loop.pumps.append(session)
        if not session.loop.inside:
            session.loop.schedule()
    return 0


cdef int pump(Session session) except -1:
    """Read the queue from the store as far as the client's window and buffer have room."""
    cdef Loop loop = session.loop
    cdef Connection connection = session.connection
    cdef Flows* flows = session.flows
    cdef uint64_t known
    session.pump_wanted = False
    if connection is None or connection.state != CONNECTED or loop.reader is None:
        return 0
    while flows.read_after < flows.last_qseq:
        if in_flight(flows) >= session.receive_max or output_size(connection) > PUMP_BYTES:
            return 0
        known = flows.last_qseq
        entries = loop.reader.read_queue(session.sid, flows.read_after, known,
                                         min(session.receive_max - in_flight(flows), 512), PUMP_BYTES)
        if not entries:
            flows.read_after = known
            continue
        for entry in entries:
            if not send_stored(session, connection, entry):
                return 0
    return 0


cdef inline uint32_t in_flight(Flows* flows) noexcept nogil:
    return flows.window.open + flows.earlier.open


cdef inline Flight* open_flight(Session session, uint64_t qseq, uint8_t state) except NULL:
    session.loop.stats[S_INFLIGHT] += 1
    return window_open(&session.flows.window, qseq, state)


cdef bint make_fit(Flows* flows, uint64_t qseq) noexcept:
    """Can `qseq` be sent, or is its packet id in use? Who took the session over numbers far above what is open still."""
    cdef uint64_t other
    if not window_fits(&flows.window, qseq):
        if flows.earlier.open:
            return False
        window_free(&flows.earlier)
        flows.earlier = flows.window
        memset(&flows.window, 0, sizeof(Window))
    return window_find(&flows.earlier, packet_id_of(qseq), &other) == NULL


cdef bint send_stored(Session session, Connection connection, entry) except -1:
    """Send one entry of the queue; False if its packet id is still in use."""
    cdef Loop loop = session.loop
    cdef Flows* flows = session.flows
    cdef uint64_t qseq = entry[0]
    cdef bint received = entry[1]
    cdef uint8_t options = entry[2]
    cdef bytes record = entry[4]
    cdef uint32_t identifiers[32]
    cdef uint32_t count = 0
    cdef Publication pub
    cdef uint8_t qos = options & 3, flags
    if not make_fit(flows, qseq):
        return False
    flows.read_after = qseq
    if received:                                    # never PUBLISH again after PUBREC
        open_flight(session, qseq, AWAIT_PUBCOMP)
        write_ack(connection, 6, packet_id_of(qseq), 0)
        return True
    if not read_record(<const char*>record, len(record), &pub):
        op_dropped(loop, session.sid, qseq, DROP_TOO_LARGE)
        return True
    if pub.expires_ms and pub.expires_ms <= loop.now_ms + loop.clock_offset_ms:
        op_dropped(loop, session.sid, qseq, DROP_EXPIRED)
        return True
    if not may_receive(session, &pub):
        op_dropped(loop, session.sid, qseq, DROP_DENIED)
        return True
    for identifier in entry[3]:
        if count < 32:
            identifiers[count] = identifier
            count += 1
    flags = (options >> 2 & 1) | (8 if qseq <= flows.resent_until else 0)
    if write_publish(connection, &pub, qos, flags, packet_id_of(qseq), identifiers, count, False):
        open_flight(session, qseq, AWAIT_PUBACK if qos == 1 else AWAIT_PUBREC)
    else:
        op_dropped(loop, session.sid, qseq, DROP_TOO_LARGE)
    return True


cdef int refill(Session session) except -1:
    """The client acknowledged something: there may be room in its window."""
    cdef Flows* flows = session.flows
    if session.sid == 0:
        if flows.pending_count:
            send_pending(session)
    elif flows.read_after < flows.last_qseq and (
            in_flight(flows) == 0 or session.receive_max - in_flight(flows) >= min(session.receive_max // 2, 64)):
        want_pump(session)
    return 0
