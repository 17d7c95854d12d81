"""Packet ids in flight: the outbound window of a session, the inbound QoS 2 ids, and messages that wait for either.

Plain C structs, no Python object; the owner frees them. An outbound packet id is 1 + (qseq mod 65535), so that whoever takes
the session over can compute it (guarantees.md §2); a qseq whose id is still in use has to wait, see `window_fits`.
"""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset


cdef bint window_fits(Window* window, uint64_t qseq) noexcept nogil:
    return window.open == 0 or qseq - window.lowest < 65535


cdef Flight* window_open(Window* window, uint64_t qseq, uint8_t state) except NULL:
    """Open the flight of `qseq`, which must be at or above `next` and fit."""
    cdef uint32_t size
    cdef Flight* ring
    cdef uint64_t i
    if window.open == 0:
        window.lowest = qseq
    if window.ring == NULL or qseq - window.lowest > window.mask:
        size = 8
        while size <= qseq - window.lowest:
            size *= 2
        ring = <Flight*>PyMem_RawCalloc(size, sizeof(Flight))
        if ring == NULL:
            raise MemoryError
        if window.open:
            for i in range(window.lowest, window.next):
                ring[i & (size - 1)] = window.ring[i & window.mask]
        PyMem_RawFree(window.ring)
        window.ring = ring
        window.mask = size - 1
    # A gap (a message dropped before it was sent) may leave what the ring last held there.
    i = window.next if window.open else qseq
    while i < qseq:
        window.ring[i & window.mask].state = FREE
        window.ring[i & window.mask].message = NULL
        i += 1
    cdef Flight* flight = window.ring + (qseq & window.mask)
    flight.state = state
    flight.message = NULL
    flight.group = NULL
    window.next = qseq + 1
    window.open += 1
    return flight


cdef Flight* window_find(Window* window, uint16_t packet_id, uint64_t* qseq) noexcept nogil:
    """The open flight that uses `packet_id`, or NULL; its qseq too."""
    cdef uint64_t seq
    cdef Flight* flight
    if window.open == 0 or packet_id == 0:
        return NULL
    seq = window.lowest + (<uint64_t>(packet_id - 1) + 65535 - window.lowest % 65535) % 65535
    if seq >= window.next:
        return NULL
    flight = window.ring + (seq & window.mask)
    if flight.state == FREE:
        return NULL
    qseq[0] = seq
    return flight


cdef void window_close(Window* window, uint64_t qseq) noexcept nogil:
    """The flight of `qseq` is over; its message was taken by the caller."""
    cdef Flight* flight = window.ring + (qseq & window.mask)
    flight.state = FREE
    flight.message = NULL
    window.open -= 1
    while window.lowest < window.next and window.ring[window.lowest & window.mask].state == FREE:
        window.lowest += 1


cdef void window_free(Window* window) noexcept:
    cdef uint64_t seq
    if window.ring != NULL:
        for seq in range(window.lowest, window.next):
            if window.ring[seq & window.mask].message != NULL:
                message_release(window.ring[seq & window.mask].message)
        PyMem_RawFree(window.ring)
    memset(window, 0, sizeof(Window))


cdef bint ids_has(PacketIds* ids, uint16_t packet_id) noexcept nogil:
    cdef uint64_t* page = ids.pages[packet_id >> 10]
    return page != NULL and (page[(packet_id >> 6) & 15] >> (packet_id & 63)) & 1


cdef int ids_add(PacketIds* ids, uint16_t packet_id) except -1:
    cdef uint64_t* page = ids.pages[packet_id >> 10]
    if page == NULL:
        page = <uint64_t*>PyMem_RawCalloc(16, sizeof(uint64_t))
        if page == NULL:
            raise MemoryError
        ids.pages[packet_id >> 10] = page
    if not (page[(packet_id >> 6) & 15] >> (packet_id & 63)) & 1:
        page[(packet_id >> 6) & 15] |= <uint64_t>1 << (packet_id & 63)
        ids.count += 1
    return 0


cdef bint ids_drop(PacketIds* ids, uint16_t packet_id) noexcept nogil:
    if not ids_has(ids, packet_id):
        return False
    ids.pages[packet_id >> 10][(packet_id >> 6) & 15] &= ~(<uint64_t>1 << (packet_id & 63))
    ids.count -= 1
    return True


cdef void ids_free(PacketIds* ids) noexcept:
    cdef int i
    for i in range(64):
        PyMem_RawFree(ids.pages[i])
    memset(ids, 0, sizeof(PacketIds))


cdef Message* message_new(uint32_t topic, uint32_t properties, uint32_t payload) except NULL:
    """Room for a message of these lengths, with one reference."""
    cdef Message* message = <Message*>PyMem_RawMalloc(sizeof(Message) + topic + properties + payload)
    if message == NULL:
        raise MemoryError
    message.references = 1
    message.topic_length = topic
    message.properties_length = properties
    message.payload_length = payload
    return message


cdef void message_release(Message* message) noexcept:
    message.references -= 1
    if message.references == 0:
        PyMem_RawFree(message)
