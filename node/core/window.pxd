from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum FlightState:
    FREE = 0
    AWAIT_PUBACK = 1        # QoS 1 sent
    AWAIT_PUBREC = 2        # QoS 2 sent
    COMMITTING = 3          # PUBREC came, PUBREL waits until that is durable
    AWAIT_PUBCOMP = 4       # PUBREL sent

cdef struct Message:        # a publish that waits in memory for live sessions, shared by all who wait for it
    uint32_t references
    uint32_t topic_length
    uint32_t properties_length
    uint32_t payload_length
    uint64_t received
    uint64_t expires_ms
    uint8_t flags           # bits 0-1 QoS published, 2 retain
    char data[1]            # topic, properties, payload

cdef struct Flight:
    Message* message        # kept only for messages of a shared subscription, for redispatch
    void* group
    uint8_t state

cdef struct Window:         # QoS 1/2 deliveries open towards one client, by qseq
    Flight* ring
    uint32_t mask           # capacity - 1, 0 while ring is NULL
    uint64_t lowest         # no flight below
    uint64_t next           # no flight at or above
    uint32_t open

cdef struct PacketIds:      # inbound QoS 2 packet ids that await PUBREL: 64 pages of 1024 bits
    uint64_t* pages[64]
    uint32_t count

cdef inline uint16_t packet_id_of(uint64_t qseq) noexcept nogil:
    return <uint16_t>(1 + qseq % 65535)

cdef bint window_fits(Window* window, uint64_t qseq) noexcept nogil
cdef Flight* window_open(Window* window, uint64_t qseq, uint8_t state) except NULL
cdef Flight* window_find(Window* window, uint16_t packet_id, uint64_t* qseq) noexcept nogil
cdef void window_close(Window* window, uint64_t qseq) noexcept nogil
cdef void window_free(Window* window) noexcept

cdef bint ids_has(PacketIds* ids, uint16_t packet_id) noexcept nogil
cdef int ids_add(PacketIds* ids, uint16_t packet_id) except -1
cdef bint ids_drop(PacketIds* ids, uint16_t packet_id) noexcept nogil
cdef void ids_free(PacketIds* ids) noexcept

cdef Message* message_new(uint32_t topic, uint32_t properties, uint32_t payload) except NULL
cdef void message_release(Message* message) noexcept
