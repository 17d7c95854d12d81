from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/mman.h>
    static inline uint8_t mq_load(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void mq_store(uint8_t *p, uint8_t value) { __atomic_store_n(p, value, __ATOMIC_RELEASE); }
    """
    uint8_t load_byte "mq_load"(const uint8_t* p) noexcept nogil
    void store_byte "mq_store"(uint8_t* p, uint8_t value) noexcept nogil

cdef enum:
    SLOTS = 16
    SLOT_BYTES = 130048         # with its headers it fits in a message between hosts (mesh/frames.py)
    SLOTS_AT = 4096             # behind the page of `busy`
    DIRECTION_BYTES = 2084864   # SLOTS_AT + SLOTS * SLOT_BYTES


cdef class Slots:
    cdef char* memory
    cdef char* ours             # that we write
    cdef char* theirs

    cdef inline int take(self) noexcept:
        """The first that is free, which is the likeliest to be in the cache of a core; -1: none is."""
        cdef int slot
        for slot in range(SLOTS):
            if not load_byte(<uint8_t*>self.ours + slot):
                store_byte(<uint8_t*>self.ours + slot, 1)
                return slot
        return -1

    cdef inline char* place(self, int slot) noexcept:
        """Of what we write to a slot that we took."""
        return self.ours + SLOTS_AT + slot * SLOT_BYTES

    cdef inline const char* arrived(self, uint32_t slot, uint32_t size) except NULL:
        """What a SLOT frame tells of, until `free`."""
        if slot >= SLOTS or size > SLOT_BYTES:
            raise ValueError(f"slot {slot} of {size} bytes")
        return self.theirs + SLOTS_AT + slot * SLOT_BYTES

    cdef inline void free(self, uint32_t slot) noexcept:
        store_byte(<uint8_t*>self.theirs + slot, 0)
