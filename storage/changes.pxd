cdef int add(bytearray changes, int database, bytes key, bytes value) except -1
cdef int add_key(bytearray touched, int database, bytes key) except -1
