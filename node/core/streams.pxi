# Buffers of a socket. Input holds only an incomplete or held-back rest; output exists only while it holds data.

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int fd, void* data, size_t length, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t length, int flags)
    enum: MSG_NOSIGNAL


cdef Block* with_room(Block* block, size_t size, size_t least) except NULL:
    """`block`, or a new one of `least` bytes, with room for `size` more."""
    cdef Block* grown
    cdef size_t end = 0, capacity = least
    if block != NULL:
        if block.start > 65536 and block.start * 2 > block.end:
            memmove(block.data, block.data + block.start, block.end - block.start)
            block.end -= block.start
            block.start = 0
        if block.end + size <= block.capacity:
            return block
        end = block.end
        capacity = block.capacity
    while capacity < end + size:
        capacity *= 2
    grown = <Block*>PyMem_RawRealloc(block, sizeof(Block) + capacity)
    if grown == NULL:
        raise MemoryError
    if block == NULL:
        grown.start = grown.end = 0
    grown.capacity = capacity
    return grown


cdef inline char* reserve(Stream stream, size_t size) except NULL:
    """Room for `size` more bytes of output; the caller says how many it `wrote`."""
    if stream.output == NULL or stream.output.end + size > stream.output.capacity:
        stream.output = with_room(stream.output, size, 512)
    return stream.output.data + stream.output.end


cdef inline size_t output_size(Stream stream) noexcept:
    return 0 if stream.output == NULL else stream.output.end - stream.output.start


cdef inline void wrote(Stream stream, size_t size) noexcept:
    stream.output.end += size
    stream.loop.output_bytes += size


cdef int append(Stream stream, const char* data, size_t size) except -1:
    memcpy(reserve(stream, size), data, size)
    wrote(stream, size)
    touch(stream)
    return 0


cdef inline int touch(Stream stream) except -1:
    """Have it flushed at the end of this wake-up."""
    if not stream.touched:
        stream.touched = True
        stream.loop.touched.append(stream)
        if not stream.loop.inside:
            stream.loop.schedule()
    return 0


cdef int keep_input(Stream stream, const char* data, size_t size) except -1:
    """Make `data` (which may lie inside the input) the whole input."""
    if size == 0:
        free_input(stream)
        return 0
    if stream.input == NULL:
        stream.input = with_room(NULL, size, 256)
    memmove(stream.input.data, data, size)
    stream.input.end = size
    return 0


cdef int add_input(Stream stream, const char* data, size_t size) except -1:
    stream.input = with_room(stream.input, size, 256)
    memcpy(stream.input.data + stream.input.end, data, size)
    stream.input.end += size
    return 0


cdef bint send_output(Stream stream) noexcept:
    """Send what there is; False if the socket is broken."""
    cdef Block* output = stream.output
    cdef ssize_t sent
    if output == NULL:
        return True
    while output.start < output.end and stream.writable:
        sent = c_send(stream.fd, output.data + output.start, output.end - output.start, MSG_NOSIGNAL)
        if sent > 0:
            output.start += sent
            stream.loop.output_bytes -= sent
            stream.loop.stats[S_BYTES_SENT] += sent
        elif errno == EAGAIN:
            stream.writable = False
        elif errno != EINTR:
            return False
    if output.start == output.end:
        free_output(stream)
    return True


cdef inline void free_input(Stream stream) noexcept:
    PyMem_RawFree(stream.input)
    stream.input = NULL


cdef inline void free_output(Stream stream) noexcept:
    stream.loop.output_bytes -= output_size(stream)
    PyMem_RawFree(stream.output)
    stream.output = NULL


cdef void free_buffers(Stream stream) noexcept:
    free_input(stream)
    free_output(stream)
