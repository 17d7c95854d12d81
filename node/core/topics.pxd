from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct Subscription:
    void* session           # borrowed: the session removes itself before it goes
    uint32_t identifier     # MQTT 5 subscription identifier, 0: none
    uint8_t options         # as in SUBSCRIBE: bits 0-1 QoS, 2 no local, 3 retain as published

cdef struct Group:          # a shared subscription: share name and filter
    Group* next             # other share names of the same filter
    Node* node              # NULL: no longer in the tree
    Subscription* members
    uint32_t count
    uint32_t capacity
    uint32_t cursor         # round robin
    uint32_t name_length
    uint32_t references     # deliveries that name this group for redispatch
    uint16_t* siblings      # at each of 64 siblings: members that any message reaches, then those by QoS 0 only
    char* name

cdef struct Node:
    Node* parent
    Node* plus
    Node* multi
    uint64_t hash
    uint64_t workers        # siblings that have this filter, a bit each
    Subscription* subscriptions
    Group* groups
    uint32_t count
    uint32_t capacity
    uint32_t children
    uint32_t local          # subscriptions announced to the siblings
    uint32_t level_length
    char level[1]

cdef struct Target:
    void* session
    uint32_t identifiers    # index of the first in Match.identifiers
    uint16_t identifier_count
    uint8_t options

cdef struct Match:
    uint64_t hash
    uint64_t version
    uint64_t workers
    Target* targets
    uint32_t* identifiers
    Group** groups
    uint32_t target_count
    uint32_t identifier_count
    uint32_t group_count
    uint32_t topic_length
    char* topic
    uint64_t number         # of the topic, never used again: who keeps it knows the topic when it comes again

cdef struct NodeList:
    Node** nodes
    uint32_t count
    uint32_t capacity

cdef struct Collector:
    Match* match
    uint32_t count          # of found targets
    uint32_t sources        # nodes that gave any: only several can name a session twice

cdef class TopicTree:
    cdef Node* root
    cdef Node** table       # all literal children, by hash of (parent, level)
    cdef uint64_t mask
    cdef uint64_t used      # with the tombstones
    cdef readonly uint64_t nodes
    cdef readonly uint64_t version
    cdef Match** cache
    cdef Match* last        # that was asked for, if it is still cached
    cdef uint64_t cached_targets
    cdef readonly uint64_t cached
    cdef uint64_t numbers   # given to topics
    cdef NodeList frontier
    cdef NodeList following
    cdef Target* found      # scratch of one match
    cdef uint32_t found_capacity
    cdef public object receive_permitted    # callable(session, topic) -> bool, or None: everything is

    cdef Node* child(self, Node* parent, const char* level, size_t length) noexcept
    cdef Node* make(self, const char* filter, size_t length) except NULL
    cdef Node* find(self, const char* filter, size_t length) noexcept
    cdef void prune(self, Node* node) noexcept
    cdef Node* add_child(self, Node* parent, const char* level, size_t length) except NULL
    cdef Node* literal(self, Node* parent, const char* level, size_t length) noexcept
    cdef int collect(self, Collector* out, Node* node) except -1
    cdef int settle(self, Collector* out) except -1
    cdef int grow(self) except -1
    cdef Match* match(self, const char* topic, size_t length) except NULL
    cdef Match* recall(self, const char* topic, size_t length) noexcept
    cdef void free_match(self, Match* match) noexcept
    cdef int fill(self, Match* match) except -1
    cdef int permit(self, Match* match) except -1
    cdef void touch(self) noexcept
    cdef void clear_cache(self) noexcept
    cdef Group* group(self, Node* node, const char* name, size_t length, bint make) except? NULL
    cdef void drop_group_if_empty(self, Group* group) noexcept

cdef int push_node(NodeList* nodes, Node* node) except -1
cdef uint64_t topic_hash(const char* topic, size_t length) noexcept nogil
cdef void release_group(Group* group) noexcept
cdef bytes filter_of(Node* node)
cdef int put_subscription(Subscription** array, uint32_t* count, uint32_t* capacity, void* session,
                          uint8_t options, uint32_t identifier) except -1
cdef bint drop_subscription(Subscription* array, uint32_t* count, void* session) noexcept
