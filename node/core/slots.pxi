# Memory that two sibling workers share: PUBLISH frames are written where the sibling reads them, and the socket carries only
# their places, in order with all other frames. The kernel need not copy them twice, nor find memory for them.
#
# One memory file holds SLOTS slots for each direction, that of the worker who dialled first: `B` busy of each slot on a page
# of its own, then the slots. The sender makes a slot busy, the receiver frees it once it has handled the frame. With no slot
# free, and for messages that fit in none, frames go over the socket as ever. SLOT frame: `<II` slot, length.

cdef extern from *:
    """
    #include <sys/mman.h>

    /* recv, and the descriptor that came along; -1: none. */
    static ssize_t mq_receive(int fd, void *data, size_t size, int *passed) {
        union { struct cmsghdr header; char room[CMSG_SPACE(sizeof(int))]; } control;
        struct iovec part = {data, size};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
        struct cmsghdr *came = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
        *passed = -1;
        if (came && came->cmsg_level == SOL_SOCKET && came->cmsg_type == SCM_RIGHTS) memcpy(passed, CMSG_DATA(came), sizeof(int));
        return got;
    }
    static inline uint8_t mq_load(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void mq_store(uint8_t *p, uint8_t value) { __atomic_store_n(p, value, __ATOMIC_RELEASE); }
    """
    ssize_t receive_with_descriptor "mq_receive"(int fd, void* data, size_t size, int* passed) noexcept nogil
    uint8_t load_byte "mq_load"(const uint8_t* p) noexcept nogil
    void store_byte "mq_store"(uint8_t* p, uint8_t value) noexcept nogil
    void* mmap(void* address, size_t length, int protection, int flags, int fd, ssize_t offset) noexcept nogil
    int munmap(void* address, size_t length) noexcept nogil
    enum: PROT_READ, PROT_WRITE, MAP_SHARED
    void* MAP_FAILED

cdef enum:
    SLOTS = 16
    SLOT_BYTES = 65536
    SLOTS_AT = 4096                                 # behind the page of `busy`
    DIRECTION_BYTES = 1052672                       # SLOTS_AT + SLOTS * SLOT_BYTES

SHARED_BYTES = 2 * DIRECTION_BYTES


cdef int share_memory(Link link, int fd, bint dialled) except -1:
    """Use the memory file `fd` of SHARED_BYTES from now on; it may be closed then."""
    cdef char* memory = <char*>mmap(NULL, 2 * DIRECTION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if memory == <char*>MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    link.shared = memory
    link.slots_out = memory + (0 if dialled else DIRECTION_BYTES)
    link.slots_in = memory + (DIRECTION_BYTES if dialled else 0)
    return 0


cdef int take_slot(Link link) noexcept:
    """The first that is free, which is the likeliest to be in the cache of a core; -1: none is."""
    cdef int slot
    if link.shared != NULL:
        for slot in range(SLOTS):
            if not load_byte(<uint8_t*>link.slots_out + slot):
                store_byte(<uint8_t*>link.slots_out + slot, 1)
                return slot
    return -1


cdef int read_slot(Link link, const char* p, uint32_t length) except -1:
    """A SLOT frame: handle the PUBLISH frame that it tells the place of."""
    cdef uint32_t slot = SLOTS, size = 0
    if length == 8:
        memcpy(&slot, p, 4)
        memcpy(&size, p + 4, 4)
    if link.shared == NULL or slot >= SLOTS or size > SLOT_BYTES:
        raise ValueError(f"slot {slot} of {size} bytes on the {link.role} link")
    read_publishes(link, link.slots_in + SLOTS_AT + slot * SLOT_BYTES, size)
    store_byte(<uint8_t*>link.slots_in + slot, 0)
    return 0
