from libc.stdint cimport uint64_t

cdef int add_put(bytearray changes, int database, bytes key, bytes value) except -1
cdef int add_erased(bytearray changes, int database, bytes key, uint64_t dot) except -1
cdef int add_key(bytearray touched, int database, bytes key, uint64_t erased) except -1
