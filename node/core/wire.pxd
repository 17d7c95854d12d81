from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef struct PublishProperties:
    const char* forward     # those that travel on, in wire form; in the packet itself or in the scratch buffer
    uint32_t forward_length
    uint32_t expiry_s
    uint32_t will_delay_s
    uint16_t alias
    bint has_expiry
    bint has_alias
    bint utf8_payload

cdef inline uint16_t read_u16(const char* p) noexcept nogil:
    return (<uint16_t><uint8_t>p[0] << 8) | <uint8_t>p[1]

cdef inline uint32_t read_u32(const char* p) noexcept nogil:
    return (<uint32_t>read_u16(p) << 16) | read_u16(p + 2)

cdef inline void write_u16(char* p, uint16_t value) noexcept nogil:
    p[0] = <char>(value >> 8)
    p[1] = <char>(value & 255)

cdef inline void write_u32(char* p, uint32_t value) noexcept nogil:
    write_u16(p, <uint16_t>(value >> 16))
    write_u16(p + 2, <uint16_t>(value & 0xFFFF))

cdef inline uint32_t varint_size(uint32_t value) noexcept nogil:
    return 1 if value < 128 else 2 if value < 16384 else 3 if value < 2097152 else 4

cdef inline char* write_varint(char* p, uint32_t value) noexcept nogil:
    while value >= 128:
        p[0] = <char>(value & 127 | 128)
        p += 1
        value >>= 7
    p[0] = <char>value
    return p + 1

# bytes used, 0 if more are needed, -1 if malformed (over four bytes, or longer than needed [MQTT-1.5.5-1])
cdef int read_varint(const char* p, size_t available, uint32_t* value) noexcept nogil
cdef bint utf8_valid(const char* p, size_t length) noexcept nogil
# 0, or the reason code that names what is wrong
cdef int topic_problem(const char* p, size_t length, uint32_t levels_max) noexcept nogil
cdef int filter_problem(const char* p, size_t length, uint32_t levels_max) noexcept nogil
cdef int parse_publish_properties(const char* p, size_t length, bint will, uint32_t user_properties_max,
                                  PublishProperties* out, char* scratch) noexcept nogil
