"""The topic tree: which subscriptions, sibling workers and shared groups a topic reaches.

Owns nodes, subscriptions, shared groups and a cache of matches that every change of the tree invalidates through `version`.
Must not know connections or sessions but as opaque pointers. Matching is iterative: a topic of any depth costs heap, not stack.
Literal children of all nodes live in one open-addressing table keyed by (parent, level); `+` and `#` are fields of a node.
The hash is seeded per process, so that a client cannot choose levels that collide.
"""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport qsort
from libc.string cimport memchr, memcmp, memcpy, memset

import os

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint64_t mq_mix(uint64_t a, uint64_t b) {
        __uint128_t r = (__uint128_t)a * b;
        return (uint64_t)r ^ (uint64_t)(r >> 64);
    }
    static inline uint64_t mq_hash(const char *p, size_t n, uint64_t seed) {
        uint64_t h = seed ^ mq_mix(n + 0x9E3779B97F4A7C15ull, seed | 1), w;
        while (n > 8) { memcpy(&w, p, 8); h = mq_mix(h ^ w, 0xA0761D6478BD642Full ^ seed); p += 8; n -= 8; }
        w = 0; memcpy(&w, p, n);
        h = mq_mix(h ^ w, 0xE7037ED1A0B428DBull ^ seed);
        return h ? h : 1;
    }
    """
    uint64_t mq_hash(const char* data, size_t length, uint64_t seed) noexcept nogil

cdef uint64_t SEED = int.from_bytes(os.urandom(8), "little")
cdef Node* TOMBSTONE = <Node*>1
cdef enum:
    CACHE_SETS = 8192       # two ways each
    CACHED_TARGETS_MAX = 4194304


cdef uint64_t topic_hash(const char* topic, size_t length) noexcept nogil:
    return mq_hash(topic, length, SEED)


cdef inline void* allocate(size_t size) except NULL:
    cdef void* memory = PyMem_RawMalloc(size)
    if memory == NULL:
        raise MemoryError
    return memory


cdef int put_subscription(Subscription** array, uint32_t* count, uint32_t* capacity, void* session,
                          uint8_t options, uint32_t identifier) except -1:
    """Add or replace the subscription of `session`: 1 if it is new, 0 if it replaced one."""
    cdef uint32_t i
    cdef void* grown
    for i in range(count[0]):
        if array[0][i].session == session:
            array[0][i].options = options
            array[0][i].identifier = identifier
            return 0
    if count[0] == capacity[0]:
        i = 1 if capacity[0] == 0 else capacity[0] * 2
        grown = PyMem_RawRealloc(array[0], i * sizeof(Subscription))
        if grown == NULL:
            raise MemoryError
        array[0] = <Subscription*>grown
        capacity[0] = i
    array[0][count[0]].session = session
    array[0][count[0]].options = options
    array[0][count[0]].identifier = identifier
    count[0] += 1
    return 1


cdef bint drop_subscription(Subscription* array, uint32_t* count, void* session) noexcept:
    cdef uint32_t i
    for i in range(count[0]):
        if array[i].session == session:
            count[0] -= 1
            array[i] = array[count[0]]
            return True
    return False


cdef bytes filter_of(Node* node):
    """The filter that ends at `node`, rebuilt from its levels."""
    cdef list levels = []
    while node.parent != NULL:
        levels.append(node.level[:node.level_length])
        node = node.parent
    levels.reverse()
    return b"/".join(levels)


cdef int by_session(const void* a, const void* b) noexcept nogil:
    cdef uintptr_t x = <uintptr_t>(<const Target*>a).session, y = <uintptr_t>(<const Target*>b).session
    return (x > y) - (x < y)


cdef int push_node(NodeList* nodes, Node* node) except -1:
    cdef void* grown
    if nodes.count == nodes.capacity:
        nodes.capacity = 16 if nodes.capacity == 0 else nodes.capacity * 2
        grown = PyMem_RawRealloc(nodes.nodes, nodes.capacity * sizeof(Node*))
        if grown == NULL:
            raise MemoryError
        nodes.nodes = <Node**>grown
    nodes.nodes[nodes.count] = node
    nodes.count += 1
    return 0


cdef class TopicTree:
    def __cinit__(self):
        self.mask = 1023
        self.table = <Node**>PyMem_RawCalloc(self.mask + 1, sizeof(Node*))
        self.root = <Node*>PyMem_RawCalloc(1, sizeof(Node) + 1)
        self.cache = <Match**>PyMem_RawCalloc(CACHE_SETS * 2, sizeof(Match*))
        if self.table == NULL or self.root == NULL or self.cache == NULL:
            raise MemoryError
        self.version = 1
        self.receive_permitted = None

    def __dealloc__(self):
        cdef uint64_t i
        self.clear_cache()
        if self.table != NULL:
            for i in range(self.mask + 1):
                if self.table[i] > TOMBSTONE:
                    free_wild(self.table[i])
                    free_node(self.table[i])
        if self.root != NULL:
            free_wild(self.root)
            free_node(self.root)
        PyMem_RawFree(self.table)
        PyMem_RawFree(self.cache)
        PyMem_RawFree(self.frontier.nodes)
        PyMem_RawFree(self.following.nodes)
        PyMem_RawFree(self.found)

    # -- nodes ----------------------------------------------------------------------------------------------------

    cdef Node* child(self, Node* parent, const char* level, size_t length) noexcept:
        if length == 1:
            if level[0] == b"+":
                return parent.plus
            if level[0] == b"#":
                return parent.multi
        cdef uint64_t hash = mq_hash(level, length, SEED ^ <uint64_t><uintptr_t>parent)
        cdef uint64_t slot = hash & self.mask
        cdef Node* node
        while True:
            node = self.table[slot]
            if node == NULL:
                return NULL
            if (node != TOMBSTONE and node.hash == hash and node.parent == parent and node.level_length == length
                    and memcmp(node.level, level, length) == 0):
                return node
            slot = (slot + 1) & self.mask

    cdef int grow(self) except -1:
        cdef uint64_t size = (self.mask + 1) * 2 if self.nodes * 2 > self.mask else self.mask + 1
        cdef Node** table = <Node**>PyMem_RawCalloc(size, sizeof(Node*))
        cdef uint64_t i, slot
        if table == NULL:
            raise MemoryError
        for i in range(self.mask + 1):
            if self.table[i] > TOMBSTONE:
                slot = self.table[i].hash & (size - 1)
                while table[slot] != NULL:
                    slot = (slot + 1) & (size - 1)
                table[slot] = self.table[i]
        PyMem_RawFree(self.table)
        self.table = table
        self.mask = size - 1
        self.used = self.nodes
        return 0

    cdef Node* make(self, const char* filter, size_t length) except NULL:
        """The node of `filter`, made if it is missing."""
        cdef Node* node = self.root
        cdef Node* found
        cdef const char* end = filter + length
        cdef const char* stop
        cdef size_t size
        while True:
            stop = <const char*>memchr(filter, c"/", end - filter)
            size = (stop if stop != NULL else end) - filter
            found = self.child(node, filter, size)
            if found == NULL:
                found = self.add_child(node, filter, size)
            node = found
            if stop == NULL:
                return node
            filter = stop + 1

    cdef Node* add_child(self, Node* parent, const char* level, size_t length) except NULL:
        cdef Node* node = <Node*>PyMem_RawCalloc(1, sizeof(Node) + length)
        cdef uint64_t slot
        if node == NULL:
            raise MemoryError
        node.parent = parent
        node.level_length = <uint32_t>length
        memcpy(node.level, level, length)
        if length == 1 and level[0] == b"+":
            parent.plus = node
        elif length == 1 and level[0] == b"#":
            parent.multi = node
        else:
            if (self.used + 1) * 4 > (self.mask + 1) * 3:
                self.grow()
            node.hash = mq_hash(level, length, SEED ^ <uint64_t><uintptr_t>parent)
            slot = node.hash & self.mask
            while self.table[slot] > TOMBSTONE:
                slot = (slot + 1) & self.mask
            if self.table[slot] == NULL:
                self.used += 1
            self.table[slot] = node
            self.nodes += 1
        parent.children += 1
        return node

    cdef Node* find(self, const char* filter, size_t length) noexcept:
        cdef Node* node = self.root
        cdef const char* end = filter + length
        cdef const char* stop
        while True:
            stop = <const char*>memchr(filter, c"/", end - filter)
            node = self.child(node, filter, (stop if stop != NULL else end) - filter)
            if node == NULL or stop == NULL:
                return node
            filter = stop + 1

    cdef void prune(self, Node* node) noexcept:
        """Free `node` and its ancestors as far as nothing needs them."""
        cdef Node* parent
        cdef uint64_t slot
        while (node.parent != NULL and node.count == 0 and node.children == 0 and node.groups == NULL
                and node.workers == 0):
            parent = node.parent
            if parent.plus == node:
                parent.plus = NULL
            elif parent.multi == node:
                parent.multi = NULL
            else:
                slot = node.hash & self.mask
                while self.table[slot] != node:
                    slot = (slot + 1) & self.mask
                if self.table[(slot + 1) & self.mask] == NULL:
                    self.table[slot] = NULL
                    self.used -= 1
                else:
                    self.table[slot] = TOMBSTONE
                self.nodes -= 1
            free_node(node)
            parent.children -= 1
            node = parent

    cdef void touch(self) noexcept:
        self.version += 1

    # -- shared groups --------------------------------------------------------------------------------------------

    cdef Group* group(self, Node* node, const char* name, size_t length, bint make) except? NULL:
        cdef Group* group = node.groups
        while group != NULL:
            if group.name_length == length and memcmp(group.name, name, length) == 0:
                return group
            group = group.next
        if not make:
            return NULL
        group = <Group*>PyMem_RawCalloc(1, sizeof(Group))
        if group == NULL:
            raise MemoryError
        group.name = <char*>allocate(length + 1)
        memcpy(group.name, name, length)
        group.name_length = <uint32_t>length
        group.node = node
        group.next = node.groups
        node.groups = group
        return group

    cdef void drop_group_if_empty(self, Group* group) noexcept:
        """Frees the group when it has no member here nor at a sibling; the caller prunes the node."""
        cdef Group** link = &group.node.groups
        cdef int i
        if group.count:
            return
        if group.siblings != NULL:
            for i in range(128):
                if group.siblings[i]:
                    return
        while link[0] != group:
            link = &link[0].next
        link[0] = group.next
        group.node = NULL
        if group.references == 0:
            free_group(group)

    # -- matching -------------------------------------------------------------------------------------------------

    cdef Match* recall(self, const char* topic, size_t length) noexcept:
        """A cached match of this very topic, of any version, or NULL. One that comes again at once is not hashed."""
        cdef Match* match = self.last
        cdef Match** way
        cdef uint64_t hash
        cdef int i
        if match != NULL and match.topic_length == length and memcmp(match.topic, topic, length) == 0:
            return match
        hash = topic_hash(topic, length)
        way = self.cache + (hash & (CACHE_SETS - 1)) * 2
        for i in range(2):
            match = way[i]
            if (match != NULL and match.hash == hash and match.topic_length == length
                    and memcmp(match.topic, topic, length) == 0):
                if i == 1:
                    way[1] = way[0]
                    way[0] = match
                self.last = match
                return match
        return NULL

    cdef Match* match(self, const char* topic, size_t length) except NULL:
        """What `topic` reaches now. Valid until the tree changes; the caller has validated the topic."""
        cdef Match* match = self.recall(topic, length)
        cdef Match** way
        if match != NULL and match.version == self.version:
            return match
        if match == NULL:
            if self.cached_targets > CACHED_TARGETS_MAX:
                self.clear_cache()
            match = <Match*>PyMem_RawCalloc(1, sizeof(Match))
            if match == NULL:
                raise MemoryError
            match.topic = <char*>allocate(length + 1)
            memcpy(match.topic, topic, length)
            match.topic_length = <uint32_t>length
            match.hash = topic_hash(topic, length)
            self.numbers += 1
            match.number = self.numbers
            way = self.cache + (match.hash & (CACHE_SETS - 1)) * 2
            if way[1] != NULL:
                self.cached_targets -= way[1].target_count
                self.cached -= 1
                self.free_match(way[1])
            way[1] = way[0]
            way[0] = match
            self.cached += 1
        match.version = 0
        self.fill(match)
        if self.receive_permitted is not None:
            self.permit(match)
        match.version = self.version
        return match

    cdef int fill(self, Match* match) except -1:
        cdef const char* level = match.topic
        cdef const char* end = match.topic + match.topic_length
        cdef const char* stop
        cdef NodeList swap
        cdef Node* node
        cdef Node* below
        cdef uint32_t i
        cdef bint dollar = level[0] == b"$"
        cdef Collector out
        out.match = match
        out.count = out.sources = 0
        self.cached_targets -= match.target_count
        reset_match(match)
        self.frontier.count = 0
        push_node(&self.frontier, self.root)
        while True:
            stop = <const char*>memchr(level, c"/", end - level)
            self.following.count = 0
            for i in range(self.frontier.count):
                node = self.frontier.nodes[i]
                if not (dollar and node == self.root):   # [MQTT-4.7.2-1]
                    if node.multi != NULL:
                        self.collect(&out, node.multi)
                    if node.plus != NULL:
                        push_node(&self.following, node.plus)
                below = NULL
                if node.children:
                    below = self.literal(node, level, (stop if stop != NULL else end) - level)
                if below != NULL:
                    push_node(&self.following, below)
            swap = self.frontier
            self.frontier = self.following
            self.following = swap
            if stop == NULL or self.frontier.count == 0:
                break
            level = stop + 1
        if stop == NULL:
            for i in range(self.frontier.count):
                self.collect(&out, self.frontier.nodes[i])
                if self.frontier.nodes[i].multi != NULL:     # "a/#" matches "a" too
                    self.collect(&out, self.frontier.nodes[i].multi)
        self.settle(&out)
        self.cached_targets += match.target_count
        return 0

    cdef Node* literal(self, Node* parent, const char* level, size_t length) noexcept:
        if length == 1 and (level[0] == b"+" or level[0] == b"#"):
            return NULL
        return self.child(parent, level, length)

    cdef int collect(self, Collector* out, Node* node) except -1:
        cdef uint32_t i, needed = out.count + node.count
        cdef void* grown
        cdef Target* target
        cdef Group* group = node.groups
        out.match.workers |= node.workers
        if node.count:
            out.sources += 1
            if needed > self.found_capacity:
                self.found_capacity = max(64, needed * 2)
                grown = PyMem_RawRealloc(self.found, self.found_capacity * sizeof(Target))
                if grown == NULL:
                    raise MemoryError
                self.found = <Target*>grown
            for i in range(node.count):
                target = self.found + out.count + i
                target.session = node.subscriptions[i].session
                target.options = node.subscriptions[i].options
                target.identifiers = node.subscriptions[i].identifier
            out.count = needed
        while group != NULL:
            grown = PyMem_RawRealloc(out.match.groups, (out.match.group_count + 1) * sizeof(Group*))
            if grown == NULL:
                raise MemoryError
            out.match.groups = <Group**>grown
            out.match.groups[out.match.group_count] = group
            out.match.group_count += 1
            group = group.next
        return 0

    cdef int settle(self, Collector* out) except -1:
        """One target a session: highest QoS of its overlapping subscriptions, all their identifiers."""
        cdef Match* match = out.match
        cdef Target* target = NULL
        cdef uint32_t i, identifier
        cdef uint8_t options
        if out.count == 0:
            return 0
        if out.sources > 1:
            qsort(self.found, out.count, sizeof(Target), by_session)
        match.targets = <Target*>allocate(out.count * sizeof(Target))
        for i in range(out.count):
            identifier = self.found[i].identifiers
            options = self.found[i].options
            if target != NULL and target.session == self.found[i].session:
                target.options = ((target.options | options) & 8) | (target.options & options & 4) | max(
                    target.options & 3, options & 3)
            else:
                target = match.targets + match.target_count
                match.target_count += 1
                target.session = self.found[i].session
                target.options = options
                target.identifiers = match.identifier_count
                target.identifier_count = 0
            if identifier:
                if match.identifiers == NULL:
                    match.identifiers = <uint32_t*>allocate(out.count * sizeof(uint32_t))
                match.identifiers[match.identifier_count] = identifier
                match.identifier_count += 1
                target.identifier_count += 1
        return 0

    cdef int permit(self, Match* match) except -1:
        """Leave out the sessions that may not receive this topic now (S13: also subscriptions made before a revocation)."""
        cdef bytes topic = match.topic[:match.topic_length]
        cdef uint32_t i, kept = 0
        for i in range(match.target_count):
            if self.receive_permitted(<object>match.targets[i].session, topic):
                match.targets[kept] = match.targets[i]
                kept += 1
        self.cached_targets -= match.target_count - kept
        match.target_count = kept
        return 0

    cdef void free_match(self, Match* match) noexcept:
        if self.last == match:
            self.last = NULL
        reset_match(match)
        PyMem_RawFree(match.topic)
        PyMem_RawFree(match)

    cdef void clear_cache(self) noexcept:
        cdef int i
        if self.cache == NULL:
            return
        for i in range(CACHE_SETS * 2):
            if self.cache[i] != NULL:
                self.free_match(self.cache[i])
                self.cache[i] = NULL
        self.cached_targets = 0
        self.cached = 0

    # -- for tests and the admin API -------------------------------------------------------------------------------

    def invalidate(self):
        """Forget what was matched or permitted, after a change of the access rules."""
        self.touch()

    def subscribe(self, session, bytes filter, int options, unsigned int identifier=0):
        """True if the subscription is new. The caller keeps `session` alive until it is removed."""
        cdef Node* node = self.make(filter, len(filter))
        cdef bint new = put_subscription(&node.subscriptions, &node.count, &node.capacity, <void*>session,
                                         <uint8_t>options, identifier)
        self.touch()
        return bool(new)

    def unsubscribe(self, session, bytes filter):
        cdef Node* node = self.find(filter, len(filter))
        if node == NULL or not drop_subscription(node.subscriptions, &node.count, <void*>session):
            return False
        self.prune(node)
        self.touch()
        return True

    def matches(self, bytes topic):
        """[(session, options, identifiers)], for people and tests; does not cover shared groups."""
        cdef Match* match = self.match(topic, len(topic))
        cdef Target* target
        cdef uint32_t i, j
        out = []
        for i in range(match.target_count):
            target = match.targets + i
            out.append((<object>target.session, target.options,
                        [match.identifiers[target.identifiers + j] for j in range(target.identifier_count)]))
        return out

    def members(self, bytes topic):
        """[(share name, session, options)] of the shared groups whose filters match, for people."""
        cdef Match* match = self.match(topic, len(topic))
        cdef Group* group
        cdef uint32_t i, j
        out = []
        for i in range(match.group_count):
            group = match.groups[i]
            for j in range(group.count):
                out.append((group.name[:group.name_length], <object>group.members[j].session, group.members[j].options))
        return out

    def workers_of(self, bytes topic):
        """Bit set of the siblings that `topic` reaches."""
        return self.match(topic, len(topic)).workers


cdef void reset_match(Match* match) noexcept:
    PyMem_RawFree(match.targets)
    PyMem_RawFree(match.identifiers)
    PyMem_RawFree(match.groups)
    match.targets = NULL
    match.identifiers = NULL
    match.groups = NULL
    match.target_count = match.identifier_count = match.group_count = 0
    match.workers = 0


cdef void release_group(Group* group) noexcept:
    """One delivery less that names this group."""
    if group != NULL:
        group.references -= 1
        if group.references == 0 and group.node == NULL:
            free_group(group)


cdef void free_group(Group* group) noexcept:
    PyMem_RawFree(group.members)
    PyMem_RawFree(group.siblings)
    PyMem_RawFree(group.name)
    PyMem_RawFree(group)


cdef void free_node(Node* node) noexcept:
    cdef Group* group
    while node.groups != NULL:
        group = node.groups
        node.groups = group.next
        free_group(group)
    PyMem_RawFree(node.subscriptions)
    PyMem_RawFree(node)


cdef void free_wild(Node* node) noexcept:
    """Frees the chain of wildcard children, which are not in the table. Depth is bounded by the topic level limit."""
    if node.plus != NULL:
        free_wild(node.plus)
        free_node(node.plus)
    if node.multi != NULL:
        free_node(node.multi)
