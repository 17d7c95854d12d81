# Buffers of a socket. Input holds only an incomplete or held-back rest; output exists only while it holds data.

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int fd, void* data, size_t length, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t length, int flags)
    enum: MSG_NOSIGNAL


cdef char* reserve(Stream stream, size_t size) except NULL:
    """Room for `size` more bytes of output; the caller adds to output_end what it has written."""
    cdef size_t capacity
    cdef char* grown
    if stream.output_end + size > stream.output_capacity:
        if stream.output_start > 65536 and stream.output_start * 2 > stream.output_end:
            memmove(stream.output, stream.output + stream.output_start, stream.output_end - stream.output_start)
            stream.output_end -= stream.output_start
            stream.output_start = 0
        capacity = max(stream.output_capacity, 512)
        while capacity < stream.output_end + size:
            capacity *= 2
        if capacity > stream.output_capacity:
            grown = <char*>PyMem_RawRealloc(stream.output, capacity)
            if grown == NULL:
                raise MemoryError
            stream.output = grown
            stream.output_capacity = capacity
    return stream.output + stream.output_end


cdef inline void wrote(Stream stream, size_t size) noexcept:
    stream.output_end += size
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
    cdef char* grown
    cdef size_t capacity
    if size == 0:
        PyMem_RawFree(stream.input)
        stream.input = NULL
        stream.input_length = stream.input_capacity = 0
        return 0
    if size > stream.input_capacity:
        capacity = max(stream.input_capacity, 256)
        while capacity < size:
            capacity *= 2
        grown = <char*>PyMem_RawRealloc(stream.input, capacity)
        if grown == NULL:
            raise MemoryError
        stream.input = grown
        stream.input_capacity = capacity
    memmove(stream.input, data, size)
    stream.input_length = size
    return 0


cdef int add_input(Stream stream, const char* data, size_t size) except -1:
    cdef size_t capacity = stream.input_capacity
    cdef char* grown
    if stream.input_length + size > capacity:
        capacity = max(capacity, 256)
        while capacity < stream.input_length + size:
            capacity *= 2
        grown = <char*>PyMem_RawRealloc(stream.input, capacity)
        if grown == NULL:
            raise MemoryError
        stream.input = grown
        stream.input_capacity = capacity
    memcpy(stream.input + stream.input_length, data, size)
    stream.input_length += size
    return 0


cdef bint send_output(Stream stream) noexcept:
    """Send what there is; False if the socket is broken."""
    cdef ssize_t sent
    while stream.output_start < stream.output_end and stream.writable:
        sent = c_send(stream.fd, stream.output + stream.output_start, stream.output_end - stream.output_start,
                      MSG_NOSIGNAL)
        if sent > 0:
            stream.output_start += sent
            stream.loop.output_bytes -= sent
            stream.loop.stats[S_BYTES_SENT] += sent
        elif errno == EAGAIN:
            stream.writable = False
        elif errno != EINTR:
            return False
    if stream.output_start == stream.output_end:
        PyMem_RawFree(stream.output)
        stream.output = NULL
        stream.output_start = stream.output_end = stream.output_capacity = 0
    return True


cdef void free_buffers(Stream stream) noexcept:
    PyMem_RawFree(stream.input)
    PyMem_RawFree(stream.output)
    stream.loop.output_bytes -= stream.output_end - stream.output_start
    stream.input = stream.output = NULL
    stream.input_length = stream.input_capacity = 0
    stream.output_start = stream.output_end = stream.output_capacity = 0
