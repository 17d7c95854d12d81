"""What a commit changed, in the form in which it travels and in which it waits in the outbox.

Changes: `<BHI` number of the database in layout.REPLICATED, lengths of key and value (DELETED: the key is gone), key, value.
Outbox: `<BH` database, length of the key, key; what the key holds is looked up when it is sent, so the outbox stays small.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    CHANGE_BYTES = 7
    KEY_BYTES = 3

cdef uint32_t DELETED = 0xFFFFFFFF


cdef char* more(bytearray to, size_t size) except NULL:
    """Room for so many bytes at its end."""
    cdef Py_ssize_t had = PyByteArray_GET_SIZE(to)
    PyByteArray_Resize(to, had + size)
    return PyByteArray_AS_STRING(to) + had


cdef int add(bytearray changes, int database, bytes key, bytes value) except -1:
    """A change of `key` at the end of `changes`; value None: it is gone."""
    cdef uint16_t key_size = <uint16_t>len(key)
    cdef uint32_t value_size = 0 if value is None else <uint32_t>len(value)
    cdef char* p = more(changes, CHANGE_BYTES + key_size + value_size)
    p[0] = <char>database
    memcpy(p + 1, &key_size, 2)
    memcpy(p + 3, &DELETED if value is None else &value_size, 4)
    memcpy(p + CHANGE_BYTES, <const char*>key, key_size)
    if value_size:
        memcpy(p + CHANGE_BYTES + key_size, <const char*>value, value_size)
    return 0


cdef int add_key(bytearray touched, int database, bytes key) except -1:
    cdef uint16_t size = <uint16_t>len(key)
    cdef char* p = more(touched, KEY_BYTES + size)
    p[0] = <char>database
    memcpy(p + 1, &size, 2)
    memcpy(p + KEY_BYTES, <const char*>key, size)
    return 0


def decode(bytes changes, uint64_t databases=0xFFFFFFFFFFFFFFFF) -> list:
    """[(database, key, value or None)] of the databases whose bits are set. Raises ValueError if the changes are cut off."""
    cdef const char* p = changes
    cdef const char* end = p + len(changes)
    cdef const char* key
    cdef uint16_t key_size
    cdef uint32_t value_size
    cdef uint8_t database
    cdef bint deleted
    cdef list found = []
    while p < end:
        if end - p < CHANGE_BYTES:
            raise ValueError("a change is cut off")
        database = <uint8_t>p[0]
        memcpy(&key_size, p + 1, 2)
        memcpy(&value_size, p + 3, 4)
        deleted = value_size == DELETED
        if deleted:
            value_size = 0
        key = p + CHANGE_BYTES
        p = key + key_size
        if end - p < value_size:
            raise ValueError("a change is cut off")
        if database < 64 and databases >> database & 1:
            found.append((database, key[:key_size], None if deleted else p[:value_size]))
        p += value_size
    return found


def decode_keys(bytes touched) -> list:
    """[(database, key)]."""
    cdef const char* p = touched
    cdef const char* end = p + len(touched)
    cdef uint16_t size
    cdef list found = []
    while end - p >= KEY_BYTES:
        memcpy(&size, p + 1, 2)
        if end - p - KEY_BYTES < size:
            raise ValueError("a key is cut off")
        found.append((<uint8_t>p[0], p[KEY_BYTES:KEY_BYTES + size]))
        p += KEY_BYTES + size
    return found
