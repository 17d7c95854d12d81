"""The messages of a PUBLISH frame between workers (links.pxi): counted, moved to another clock, split. Pure."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_GET_SIZE, PyByteArray_Resize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef enum:
    RECORD_BYTES = 19       # flags, lengths of topic, properties and payload, expiry in the sender's store clock
    REPEATED_BYTES = 5      # flags, length of the payload; topic of the record before
    EXPIRY_AT = 11
    SHARED = 8
    REPEATED = 16


cdef struct Record:
    const uint8_t* name     # a shared one's SHARE/FILTER, else the topic
    uint16_t name_length
    uint8_t flags
    uint64_t expires_ms
    size_t size


cdef int read(Record* record, const uint8_t* p, size_t left) except -1:
    """`record` has the one before, whose name a repeated one keeps; NULL: there is none."""
    cdef uint16_t topic, share
    cdef uint32_t properties, payload
    cdef size_t head = RECORD_BYTES
    if left >= REPEATED_BYTES and p[0] & REPEATED:
        return read_repeated(record, p, left)
    if left < RECORD_BYTES or (p[0] & SHARED and left < RECORD_BYTES + 2):
        raise ValueError("a message ends in its header")
    record.flags = p[0]
    memcpy(&topic, p + 1, 2)
    memcpy(&properties, p + 3, 4)
    memcpy(&payload, p + 7, 4)
    memcpy(&record.expires_ms, p + EXPIRY_AT, 8)
    record.name = p + RECORD_BYTES
    record.name_length = topic
    if record.flags & SHARED:
        memcpy(&share, p + RECORD_BYTES, 2)
        head += 2 + share
        record.name += 2
        record.name_length = share
    record.size = head + topic + properties + payload
    return check_size(record, left)


cdef int read_repeated(Record* record, const uint8_t* p, size_t left) except -1:
    cdef uint32_t payload
    if record.name == NULL or (record.flags | p[0]) & SHARED:
        raise ValueError("a message repeats the topic of none")
    memcpy(&payload, p + 1, 4)
    record.flags = p[0]
    record.expires_ms = 0
    record.size = REPEATED_BYTES + payload
    return check_size(record, left)


cdef inline int check_size(Record* record, size_t left) except -1:
    if record.size > left:
        raise ValueError(f"a message of {record.size} bytes, of which {left} are there")
    return 0


def count(const uint8_t[::1] messages) -> int:
    cdef Record record
    cdef size_t at = 0, found = 0, size = messages.shape[0]
    record.name = NULL
    while at < size:
        read(&record, &messages[at], size - at)
        at += record.size
        found += 1
    return found


def split(whole, by_topic, by_group, int64_t later_ms=0) -> dict:
    """What each place gets of a whole frame, in order; `by_topic` and `by_group` tell the places. Messages that expire do so
    `later_ms` later. If all places get the same, it is not copied."""
    cdef const uint8_t[::1] messages = whole
    cdef Record record
    cdef const uint8_t* last_topic = NULL
    cdef uint16_t last_length = 0
    cdef size_t at = 0, start = 0, size = messages.shape[0]
    cdef uint64_t expires_ms
    cdef bytearray moved = None
    cdef const uint8_t* base = &messages[0] if size else NULL
    cdef dict parts = {}
    cdef tuple places = (), found
    record.name = NULL
    while at < size:
        read(&record, base + at, size - at)
        if record.expires_ms and later_ms:
            if moved is None:
                moved = PyByteArray_FromStringAndSize(<const char*>base, size)
                base = <const uint8_t*>PyByteArray_AS_STRING(moved)
                last_topic = NULL
                read(&record, base + at, size - at)
            expires_ms = max(1, <int64_t>record.expires_ms + later_ms)
            memcpy(PyByteArray_AS_STRING(moved) + at + EXPIRY_AT, &expires_ms, 8)
        if record.flags & SHARED:
            found = by_group(record.name[:record.name_length], record.flags & 3)
            last_topic = NULL
        elif (last_topic != NULL and last_length == record.name_length
              and memcmp(last_topic, record.name, last_length) == 0):
            found = places
        else:
            found = by_topic(record.name[:record.name_length])
            last_topic, last_length = record.name, record.name_length
        if found is not places and found != places:
            add(parts, places, base + start, at - start)
            places, start = found, at
        at += record.size
    if start == 0:
        return dict.fromkeys(places, whole if moved is None else moved)
    add(parts, places, base + start, size - start)
    return parts


cdef int add(dict parts, tuple places, const uint8_t* messages, size_t length) except -1:
    cdef bytearray part
    cdef Py_ssize_t had
    if not length:
        return 0
    for place in places:
        part = parts.get(place)
        if part is None:
            parts[place] = PyByteArray_FromStringAndSize(<const char*>messages, length)
        else:
            had = PyByteArray_GET_SIZE(part)
            PyByteArray_Resize(part, had + length)
            memcpy(PyByteArray_AS_STRING(part) + had, messages, length)
    return 0
