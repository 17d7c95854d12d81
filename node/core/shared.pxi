# Shared subscriptions: which member of a group gets a message, and who gets it when that member leaves.

cdef enum:
    ROUND_ROBIN = 0
    RANDOM = 1
    STICKY = 2
    HASH_CLIENT = 3
    HASH_TOPIC = 4

cdef enum:                  # who may get the message, in the order of preference
    REACHED_HERE = 0        # of a message that a sibling forwarded: those for whom it did that, see announce_group
    ONLINE = 1
    AWAY = 2                # the queue of a durable member

SHARE_STRATEGIES = {"round_robin": ROUND_ROBIN, "random": RANDOM, "sticky": STICKY, "hash_client": HASH_CLIENT,
                    "hash_topic": HASH_TOPIC}


cdef uint32_t choose(Loop loop, Group* group, Publication* pub, Session author, uint32_t candidates) noexcept:
    cdef uint64_t number
    if loop.share_strategy == STICKY:
        return 0
    if loop.share_strategy == HASH_CLIENT and author is not None:
        number = <uint64_t>hash(author.client_id)
    elif loop.share_strategy == HASH_TOPIC:
        number = topic_hash(pub.topic, pub.topic_length)
    elif loop.share_strategy == RANDOM:
        loop.random = loop.random * 6364136223846793005ull + 1442695040888963407ull
        number = loop.random >> 33
    else:
        group.cursor += 1
        number = group.cursor
    return <uint32_t>(number % candidates)


cdef bint may_take(Loop loop, Group* group, Subscription* member, Publication* pub, int who) except -1:
    """Can this member be given the message by this worker: live here, or durable through the store?"""
    cdef Session session = <Session>member.session
    cdef bint here = session.connection is not None and session.connection.state == CONNECTED
    cdef bint stored = session.sid != 0 and pub.qos and member.options & 3
    if who == REACHED_HERE:
        here = here and not stored
    elif stored and (who == AWAY or session.online):
        here = True
    if not here:
        return False
    if loop.tree.receive_permitted is None:
        return True
    return loop.tree.receive_permitted(session, pub.topic[:pub.topic_length])


cdef bint has_room(Subscription* member) noexcept:
    """Would it be sent the message at once, as far as this worker knows?"""
    cdef Session session = <Session>member.session
    return (session.connection is None or session.flows == NULL
            or (session.flows.pending_count == 0 and session.flows.window.open < session.receive_max))


cdef bint is_candidate(Loop loop, Group* group, Subscription* member, Publication* pub, int who, bint with_room) except -1:
    return (not with_room or has_room(member)) and may_take(loop, group, member, pub, who)


cdef int to_member(Loop loop, Group* group, Subscription* member, Publication* pub, Connection publisher) except -1:
    cdef Session session = <Session>member.session
    cdef uint8_t options = delivered_options(pub, member.options)
    if session.sid and options & 3:
        add_durable(loop, member.session, options, &member.identifier, 1 if member.identifier else 0, group)
        return STORED
    deliver(loop, session, pub, options, &member.identifier, 1 if member.identifier else 0, group, publisher, False)
    return REACHED


cdef uint32_t sibling_members(Loop loop, Group* group, Publication* pub, int index) noexcept:
    if group.siblings == NULL or loop.siblings[index] is None:
        return 0
    return group.siblings[index] + (0 if pub.qos else group.siblings[64 + index])


cdef int route_group(Loop loop, Group* group, Publication* pub, Connection publisher, Session author,
                     int first) except -1:
    """Give the message to one member, of the `first` preference if there is any; of these to one that does not leave others
    unacknowledged while somebody else does not, unless publisher or topic tell the member."""
    cdef uint32_t i, candidates = 0, chosen
    cdef int index, who, turn
    cdef bint with_room = False
    for turn in range(2 * first, 2 * AWAY + 2):
        who = turn // 2
        with_room = turn % 2 == 0
        if with_room and loop.share_strategy not in (ROUND_ROBIN, RANDOM):
            continue
        candidates = 0
        for i in range(group.count):
            candidates += is_candidate(loop, group, group.members + i, pub, who, with_room)
        if who != REACHED_HERE:
            for index in range(len(loop.siblings)):
                candidates += sibling_members(loop, group, pub, index)
        if candidates:
            break
    if candidates == 0:
        loop.stats[S_DROPPED_SESSION_ENDED] += 1 if pub.qos else 0
        return NOTHING
    chosen = choose(loop, group, pub, author, candidates)
    for i in range(group.count):
        if is_candidate(loop, group, group.members + i, pub, who, with_room):
            if chosen == 0:
                return to_member(loop, group, group.members + i, pub, publisher)
            chosen -= 1
    for index in range(len(loop.siblings)):
        candidates = sibling_members(loop, group, pub, index)
        if chosen < candidates:
            forward(<Link>loop.siblings[index], pub, 0, group)
            wait_for_sibling(<Link>loop.siblings[index], pub, publisher)
            return REACHED
        chosen -= candidates
    return NOTHING


cdef int route_shared(Loop loop, Publication* pub, Match* match, Connection publisher, Session author) except -1:
    cdef uint32_t i
    cdef int result = NOTHING
    for i in range(match.group_count):
        result |= route_group(loop, match.groups[i], pub, publisher, author, ONLINE)
    return result


cdef int dispatch_again(Loop loop, Message* message, Group* group) except -1:
    """A member left before it had acknowledged this message: another one gets it [MQTT 5, 4.8.2]."""
    cdef Publication pub
    cdef int result
    if group.node == NULL:
        loop.stats[S_DROPPED_SESSION_ENDED] += 1
        return 0
    publication_of(message, &pub)
    loop.durable_count = 0
    result = route_group(loop, group, &pub, None, None, ONLINE)
    if result & STORED:
        op_publish(loop, &pub, 0, None, 0, 0, 0, 0)
    loop.stats[S_REDISPATCHED] += 1
    return 0


cdef int join_group(Loop loop, Session session, bytes share, bytes filter, int options, uint32_t identifier) except -1:
    cdef Node* node = loop.tree.make(filter, len(filter))
    cdef Group* group = loop.tree.group(node, share, len(share), True)
    put_subscription(&group.members, &group.count, &group.capacity, <void*>session, <uint8_t>options, identifier)
    loop.tree.touch()
    return 0


cdef bint leave_group(Loop loop, Session session, bytes share, bytes filter) except -1:
    cdef Node* node = loop.tree.find(filter, len(filter))
    cdef Group* group = loop.tree.group(node, share, len(share), False) if node != NULL else NULL
    if group == NULL or not drop_subscription(group.members, &group.count, <void*>session):
        return False
    loop.tree.drop_group_if_empty(group)
    loop.tree.prune(node)
    loop.tree.touch()
    return True


cdef int announce_group(Loop loop, bytes share, bytes filter) except -1:
    """Tell the siblings how many members they reach through us: by any message, and by QoS 0 only (the others are stored)."""
    cdef Node* node = loop.tree.find(filter, len(filter))
    cdef Group* group = loop.tree.group(node, share, len(share), False) if node != NULL else NULL
    cdef uint32_t i, live = 0, durable = 0
    cdef bint reached
    cdef Session session
    if group != NULL:
        for i in range(group.count):
            session = <Session>group.members[i].session
            if session.connection is not None:
                reached = session.sid == 0 or group.members[i].options & 3 == 0
                live += reached
                durable += not reached
    for link in loop.siblings:
        if link is not None:
            send_route(<Link>link, 2, share + b"/" + filter, live, durable)
    return 0


cdef int set_group_members(Loop loop, bytes name, int index, int live, int durable) except -1:
    """A sibling has that many members; `name` is SHARE/FILTER."""
    share, filter = name.split(b"/", 1)
    cdef Node* node = loop.tree.make(filter, len(filter))
    cdef Group* group = loop.tree.group(node, share, len(share), True)
    if group.siblings == NULL:
        group.siblings = <uint16_t*>PyMem_RawCalloc(128, sizeof(uint16_t))
        if group.siblings == NULL:
            raise MemoryError
    group.siblings[index] = <uint16_t>min(live, 65535)
    group.siblings[64 + index] = <uint16_t>min(durable, 65535)
    loop.tree.drop_group_if_empty(group)
    loop.tree.prune(node)
    loop.tree.touch()
    return 0
