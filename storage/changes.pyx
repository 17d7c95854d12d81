"""What a commit changed, in the form in which it travels and in which it waits in the outbox.

Changes: `<BHI` number of the database in layout.REPLICATED, lengths of key and value, key, value; or with ERASED for the
length of the value, key and `<Q` the dot of what was erased (storage/layout.py). Database + BEATEN: what that dot, or its host before, put is over, and what
else the key holds stays. Who does not know that passes over it.
Outbox: `<BHQ` database, length of the key, dot of what was erased (0: put), key; what was put is looked up when it is
sent again, so the outbox stays small. With database + BEATEN as above.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    CHANGE_BYTES = 7
    KEY_BYTES = 11
    DOT_BYTES = 8
    VALUE_MIN = 12      # CRC32 and dot

cdef uint32_t ERASED = 0xFFFFFFFF
BEATEN = 64


cdef char* more(bytearray to, size_t size) except NULL:
    """Room for so many bytes at its end."""
    cdef Py_ssize_t had = PyByteArray_GET_SIZE(to)
    PyByteArray_Resize(to, had + size)
    return PyByteArray_AS_STRING(to) + had


cdef int add_put(bytearray changes, int database, bytes key, bytes value) except -1:
    """At the end of `changes`: this is what `key` holds."""
    cdef uint32_t size = <uint32_t>len(value)
    memcpy(add_head(changes, database, key, size, size), <const char*>value, size)
    return 0


cdef int add_erased(bytearray changes, int database, bytes key, uint64_t dot) except -1:
    """At the end of `changes`: what `dot` put there is gone."""
    memcpy(add_head(changes, database, key, ERASED, DOT_BYTES), &dot, DOT_BYTES)
    return 0


cdef char* add_head(bytearray changes, int database, bytes key, uint32_t value_size, uint32_t room) except NULL:
    cdef uint16_t key_size = <uint16_t>len(key)
    cdef char* p = more(changes, CHANGE_BYTES + key_size + room)
    p[0] = <char>database
    memcpy(p + 1, &key_size, 2)
    memcpy(p + 3, &value_size, 4)
    memcpy(p + CHANGE_BYTES, <const char*>key, key_size)
    return p + CHANGE_BYTES + key_size


cdef int add_key(bytearray touched, int database, bytes key, uint64_t erased) except -1:
    cdef uint16_t size = <uint16_t>len(key)
    cdef char* p = more(touched, KEY_BYTES + size)
    p[0] = <char>database
    memcpy(p + 1, &size, 2)
    memcpy(p + 3, &erased, 8)
    memcpy(p + KEY_BYTES, <const char*>key, size)
    return 0


def decode(bytes changes, uint64_t databases=0xFFFFFFFFFFFFFFFF, bint beaten=False) -> list:
    """[(database, key, value or None, dot of what was put or erased)] of the databases whose bits are set; `beaten`: also + BEATEN.

    Raises ValueError if the changes are cut off.
    """
    cdef const char* p = changes
    cdef const char* end = p + len(changes)
    cdef const char* key
    cdef uint16_t key_size
    cdef uint32_t size
    cdef uint64_t dot
    cdef uint8_t database
    cdef bint erased
    cdef list found = []
    while p < end:
        if end - p < CHANGE_BYTES:
            raise ValueError("a change is cut off")
        database = <uint8_t>p[0]
        memcpy(&key_size, p + 1, 2)
        memcpy(&size, p + 3, 4)
        erased = size == ERASED
        if erased:
            size = DOT_BYTES
        key = p + CHANGE_BYTES
        p = key + key_size
        if end - p < size or not erased and size < VALUE_MIN:
            raise ValueError("a change is cut off")
        if (database < 64 or beaten and database < 128) and databases >> (database & 63) & 1:
            memcpy(&dot, p if erased else p + 4, 8)
            found.append((database, key[:key_size], None if erased else p[:size], dot))
        p += size
    return found


def decode_keys(bytes touched) -> list:
    """[(database, key, dot of what was erased or 0)]."""
    cdef const char* p = touched
    cdef const char* end = p + len(touched)
    cdef uint16_t size
    cdef uint64_t erased
    cdef list found = []
    while end - p >= KEY_BYTES:
        memcpy(&size, p + 1, 2)
        memcpy(&erased, p + 3, 8)
        if end - p - KEY_BYTES < size:
            raise ValueError("a key is cut off")
        found.append((<uint8_t>p[0], p[KEY_BYTES:KEY_BYTES + size], erased))
        p += KEY_BYTES + size
    return found
