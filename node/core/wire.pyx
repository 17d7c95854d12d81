"""MQTT 3.1, 3.1.1 and 5.0 on the wire: every packet but PUBLISH and its acknowledgements, which the loop reads in place.

Pure: bytes in, values out. Raises ProtocolError(reason code, text) for what the specifications forbid.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE = 1, 2, 3, 4, 5, 6, 7, 8
SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = 9, 10, 11, 12, 13, 14, 15

MALFORMED = 0x81
PROTOCOL_ERROR = 0x82

# MQTT 5 table 2-4: identifier -> kind of value
PROPERTY_KINDS = {
    0x01: "byte", 0x02: "u32", 0x03: "str", 0x08: "str", 0x09: "bin", 0x0B: "varint", 0x11: "u32", 0x12: "str",
    0x13: "u16", 0x15: "str", 0x16: "bin", 0x17: "byte", 0x18: "u32", 0x19: "byte", 0x1A: "str", 0x1C: "str",
    0x1F: "str", 0x21: "u16", 0x22: "u16", 0x23: "u16", 0x24: "byte", 0x25: "byte", 0x26: "pair", 0x27: "u32",
    0x28: "byte", 0x29: "byte", 0x2A: "byte",
}  # fmt: skip
CONNECT_PROPERTIES = frozenset({0x11, 0x21, 0x27, 0x22, 0x19, 0x17, 0x26, 0x15, 0x16})
SUBSCRIBE_PROPERTIES = frozenset({0x0B, 0x26})
UNSUBSCRIBE_PROPERTIES = frozenset({0x26})
DISCONNECT_PROPERTIES = frozenset({0x11, 0x1F, 0x26, 0x1C})
ACK_PROPERTIES = frozenset({0x1F, 0x26})
AUTH_PROPERTIES = frozenset({0x15, 0x16, 0x1F, 0x26})
BOOLEANS = frozenset({0x01, 0x17, 0x19, 0x25, 0x28, 0x29, 0x2A})


class ProtocolError(Exception):
    """A client broke the protocol: its connection ends with `reason` (an MQTT 5 reason code)."""

    def __init__(self, int reason, str text):
        super().__init__(text)
        self.reason = reason
        self.text = text


cdef int read_varint(const char* p, size_t available, uint32_t* value) noexcept nogil:
    cdef uint32_t result = 0
    cdef int i
    for i in range(4):
        if <size_t>i == available:
            return 0
        result |= <uint32_t>(<uint8_t>p[i] & 127) << (7 * i)
        if not <uint8_t>p[i] & 128:
            if i and p[i] == 0:
                return -1
            value[0] = result
            return i + 1
    return -1


cdef bint utf8_valid(const char* p, size_t length) noexcept nogil:
    """UTF-8 without U+0000, surrogates and overlong forms [MQTT-1.5.4-1] [MQTT-1.5.4-2]."""
    cdef const uint8_t* s = <const uint8_t*>p
    cdef const uint8_t* end = s + length
    cdef uint8_t c
    while s < end:
        c = s[0]
        if c < 0x80:
            if c == 0:
                return False
            s += 1
        elif c < 0xC2:
            return False
        elif c < 0xE0:
            if end - s < 2 or s[1] & 0xC0 != 0x80:
                return False
            s += 2
        elif c < 0xF0:
            if end - s < 3 or s[1] & 0xC0 != 0x80 or s[2] & 0xC0 != 0x80:
                return False
            if (c == 0xE0 and s[1] < 0xA0) or (c == 0xED and s[1] >= 0xA0):
                return False
            s += 3
        elif c < 0xF5:
            if end - s < 4 or s[1] & 0xC0 != 0x80 or s[2] & 0xC0 != 0x80 or s[3] & 0xC0 != 0x80:
                return False
            if (c == 0xF0 and s[1] < 0x90) or (c == 0xF4 and s[1] >= 0x90):
                return False
            s += 4
        else:
            return False
    return True


cdef uint32_t levels(const char* p, size_t length) noexcept nogil:
    cdef uint32_t count = 1
    cdef size_t i
    for i in range(length):
        if p[i] == c"/":
            count += 1
    return count


cdef int topic_problem(const char* p, size_t length, uint32_t levels_max) noexcept nogil:
    if length == 0 or memchr(p, c"+", length) != NULL or memchr(p, c"#", length) != NULL:
        return 0x90
    if not utf8_valid(p, length):
        return 0x81
    if levels(p, length) > levels_max:
        return 0x90
    return 0


cdef int filter_problem(const char* p, size_t length, uint32_t levels_max) noexcept nogil:
    cdef size_t i
    if length == 0:
        return 0x81
    if not utf8_valid(p, length):
        return 0x81
    for i in range(length):
        if p[i] == c"+":                                        # [MQTT-4.7.1-2]
            if (i and p[i - 1] != c"/") or (i + 1 < length and p[i + 1] != c"/"):
                return 0x8F
        elif p[i] == c"#":                                      # [MQTT-4.7.1-1]
            if (i and p[i - 1] != c"/") or i + 1 < length:
                return 0x8F
    if levels(p, length) > levels_max:
        return 0x8F
    return 0


cdef int parse_publish_properties(const char* p, size_t length, bint will, uint32_t user_properties_max,
                                  PublishProperties* out, char* scratch) noexcept nogil:
    """Checks the properties of a PUBLISH (or will) and cuts out those which do not travel on. 0 or a reason code.

    `scratch` has room for `length` bytes; it is used only if something had to be cut from the middle.
    """
    cdef const char* end = p + length
    cdef const char* start
    cdef char* to = NULL
    cdef uint64_t seen = 0
    cdef uint32_t size, user_properties = 0
    cdef uint8_t identifier
    cdef bint cut
    out.forward = p
    out.forward_length = <uint32_t>length
    out.has_expiry = out.has_alias = out.utf8_payload = False
    out.expiry_s = out.will_delay_s = out.alias = 0
    while p < end:
        start = p
        identifier = <uint8_t>p[0]
        p += 1
        cut = False
        if identifier == 0x26:
            user_properties += 1
            if user_properties > user_properties_max:
                return 0x97
        else:
            if identifier > 0x3F:
                return 0x81
            if seen >> identifier & 1:
                return 0x82
            seen |= <uint64_t>1 << identifier
        if identifier == 0x01:
            if end - p < 1:
                return 0x81
            if <uint8_t>p[0] > 1:
                return 0x82
            out.utf8_payload = p[0] == 1
            p += 1
        elif identifier == 0x02 or (identifier == 0x18 and will):
            if end - p < 4:
                return 0x81
            if identifier == 0x02:
                out.has_expiry = True
                out.expiry_s = read_u32(p)
            else:
                out.will_delay_s = read_u32(p)
            p += 4
            cut = True
        elif identifier == 0x23 and not will:
            if end - p < 2:
                return 0x81
            out.has_alias = True
            out.alias = read_u16(p)
            p += 2
            cut = True
        elif identifier == 0x03 or identifier == 0x08 or identifier == 0x09 or identifier == 0x26:
            for size in range(2 if identifier == 0x26 else 1):
                if end - p < 2 or end - p - 2 < read_u16(p):
                    return 0x81
                if identifier != 0x09 and not utf8_valid(p + 2, read_u16(p)):
                    return 0x81
                if identifier == 0x08 and topic_problem(p + 2, read_u16(p), 65536):
                    return 0x82                                 # [MQTT-3.3.2-14]
                p += 2 + read_u16(p)
        else:
            return 0x82 if identifier == 0x0B and not will else 0x81    # [MQTT-3.3.4-6]
        if cut:
            if to == NULL:
                to = scratch
                memcpy(to, out.forward, start - out.forward)
                to += start - out.forward
        elif to != NULL:
            memcpy(to, start, p - start)
            to += p - start
    if to != NULL:
        out.forward = scratch
        out.forward_length = <uint32_t>(to - scratch)
    return 0


cdef class Reader:
    """A cursor over one packet's body; running off its end is a malformed packet."""

    cdef bytes body
    cdef const char* data
    cdef Py_ssize_t at
    cdef Py_ssize_t end

    def __cinit__(self, bytes body):
        self.body = body
        self.data = <const char*>body
        self.at = 0
        self.end = len(body)

    cdef int need(self, Py_ssize_t count) except -1:
        if self.end - self.at < count:
            raise ProtocolError(0x81, "the packet ends too early")
        return 0

    cdef int byte(self) except -1:
        self.need(1)
        self.at += 1
        return <uint8_t>self.data[self.at - 1]

    cdef int u16(self) except -1:
        self.need(2)
        self.at += 2
        return read_u16(self.data + self.at - 2)

    cdef int64_t u32(self) except -1:
        self.need(4)
        self.at += 4
        return read_u32(self.data + self.at - 4)

    cdef int64_t varint(self) except -1:
        cdef uint32_t value = 0
        cdef int used = read_varint(self.data + self.at, self.end - self.at, &value)
        if used <= 0:
            raise ProtocolError(0x81, "a variable byte integer is malformed")
        self.at += used
        return value

    cdef bytes binary(self):
        cdef int length = self.u16()
        self.need(length)
        self.at += length
        return self.data[self.at - length:self.at]

    cdef bytes utf8(self):
        cdef bytes value = self.binary()
        if not utf8_valid(value, len(value)):
            raise ProtocolError(0x81, "a string is not valid UTF-8")
        return value

    cdef str string(self):
        return self.utf8().decode()

    cdef object value(self, str kind):
        if kind == "byte":
            return self.byte()
        if kind == "u16":
            return self.u16()
        if kind == "u32":
            return self.u32()
        if kind == "varint":
            return self.varint()
        if kind == "bin":
            return self.binary()
        if kind == "pair":
            return (self.string(), self.string())
        return self.string()

    cdef dict properties(self, allowed, unsigned int user_properties_max):
        """{identifier: value}; user properties and subscription identifiers as lists."""
        cdef dict found = {}
        cdef Py_ssize_t stop = self.varint()
        cdef int identifier
        self.need(stop)
        stop += self.at
        while self.at < stop:
            identifier = self.varint()
            if identifier not in PROPERTY_KINDS:
                raise ProtocolError(0x81, f"unknown property 0x{identifier:02x}")
            if identifier not in allowed:
                raise ProtocolError(0x81, f"property 0x{identifier:02x} does not belong here")
            value = self.value(PROPERTY_KINDS[identifier])
            if identifier == 0x26:
                values = found.setdefault(identifier, [])
                values.append(value)
                if len(values) > user_properties_max:
                    raise ProtocolError(0x97, "too many user properties")
                continue
            if identifier in found:
                raise ProtocolError(0x82, f"property 0x{identifier:02x} is given twice")
            if identifier in BOOLEANS and value > 1:
                raise ProtocolError(0x82, f"property 0x{identifier:02x} must be 0 or 1")
            found[identifier] = value
        if self.at != stop:
            raise ProtocolError(0x81, "the property length is wrong")
        return found


cdef class Will:
    """The will of a CONNECT: topic and payload as sent, properties already reduced to those that travel on."""

    cdef readonly bytes topic
    cdef readonly bytes payload
    cdef readonly bytes properties
    cdef readonly int qos
    cdef readonly bint retain
    cdef readonly bint utf8_payload
    cdef readonly object expiry_s
    cdef readonly unsigned int delay_s


cdef class Connect:
    """A CONNECT packet [MQTT-3.1]. `version` is 3 (MQTT 3.1), 4 (3.1.1) or 5."""

    cdef readonly int version
    cdef readonly bint clean_start
    cdef readonly int keepalive_s
    cdef readonly str client_id
    cdef readonly Will will
    cdef readonly str user
    cdef readonly bytes password
    cdef readonly dict properties


cdef int protocol_version(Reader reader) except -1:
    cdef bytes name = reader.utf8()
    cdef int level
    if name not in (b"MQTT", b"MQIsdp"):
        raise ProtocolError(0x84, "not an MQTT CONNECT")        # [MQTT-3.1.2-1]
    level = reader.byte()
    if (level & 0x7F) == (3 if name == b"MQIsdp" else 4) and not level & 0x80:
        return level
    if name == b"MQTT" and level == 5:
        return 5
    raise ProtocolError(0x84, f"protocol version {level} is not spoken here")


def connect_version(bytes body):
    """The protocol version of this CONNECT, in which it is answered. ProtocolError 0x84: an unknown one."""
    return protocol_version(Reader(body))


def parse_connect(bytes body, unsigned int user_properties_max, unsigned int levels_max):
    """The CONNECT of this body. ProtocolError 0x84: an unknown protocol version."""
    cdef Reader reader = Reader(body)
    cdef Connect packet = Connect.__new__(Connect)
    cdef int flags
    packet.version = protocol_version(reader)
    flags = reader.byte()
    if flags & 1:
        raise ProtocolError(0x81, "the reserved connect flag is set")       # [MQTT-3.1.2-3]
    packet.clean_start = bool(flags & 2)
    packet.keepalive_s = reader.u16()
    packet.properties = {}
    if packet.version == 5:
        packet.properties = reader.properties(CONNECT_PROPERTIES, user_properties_max)
        if packet.properties.get(0x21, 1) == 0 or packet.properties.get(0x27, 1) == 0:
            raise ProtocolError(0x82, "receive maximum and maximum packet size must not be 0")
        if 0x16 in packet.properties and 0x15 not in packet.properties:
            raise ProtocolError(0x82, "authentication data without a method")
    packet.client_id = reader.string()
    if flags & 4:
        packet.will = parse_will(reader, flags, packet.version, user_properties_max, levels_max)
    elif flags & 0x38:
        raise ProtocolError(0x81, "will flags without a will")              # [MQTT-3.1.2-11]
    if flags & 0x80:
        packet.user = reader.string()
    if flags & 0x40:
        if not flags & 0x80 and packet.version != 5:
            raise ProtocolError(0x81, "a password without a user name")     # [MQTT-3.1.2-22]
        packet.password = reader.binary()
    if reader.at != reader.end:
        raise ProtocolError(0x81, "bytes behind the payload")
    return packet


cdef Will parse_will(Reader reader, int flags, int version, unsigned int user_properties_max, unsigned int levels_max):
    cdef Will will = Will.__new__(Will)
    cdef PublishProperties found
    cdef bytearray scratch
    cdef Py_ssize_t length
    cdef int problem
    will.qos = flags >> 3 & 3
    will.retain = bool(flags & 0x20)
    will.properties = b""
    if will.qos == 3:
        raise ProtocolError(0x81, "will QoS 3")                             # [MQTT-3.1.2-12]
    if version == 5:
        length = reader.varint()
        reader.need(length)
        scratch = bytearray(length + 1)
        problem = parse_publish_properties(reader.data + reader.at, length, True, user_properties_max, &found, scratch)
        if problem:
            raise ProtocolError(problem, "the will's properties are wrong")
        reader.at += length
        will.properties = found.forward[:found.forward_length]
        will.delay_s = found.will_delay_s
        will.expiry_s = found.expiry_s if found.has_expiry else None
        will.utf8_payload = found.utf8_payload
    will.topic = reader.utf8()
    problem = topic_problem(will.topic, len(will.topic), levels_max)
    if problem:
        raise ProtocolError(problem, "the will's topic is not a topic name")
    will.payload = reader.binary()
    if will.utf8_payload and not utf8_valid_payload(will.payload):
        raise ProtocolError(0x99, "the will's payload is not UTF-8")
    return will


cdef bint utf8_valid_payload(bytes payload):
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def parse_subscribe(bytes body, int version, unsigned int user_properties_max):
    """(packet id, [(filter bytes, options byte)], subscription identifier or 0). Filters are not judged here."""
    cdef Reader reader = Reader(body)
    cdef int packet_id = reader.u16()
    cdef int options
    identifier = 0
    if packet_id == 0:
        raise ProtocolError(0x82, "packet id 0")
    if version == 5:
        identifier = reader.properties(SUBSCRIBE_PROPERTIES, user_properties_max).get(0x0B, None)
        if identifier == 0:
            raise ProtocolError(0x82, "subscription identifier 0")          # [MQTT-3.8.2.1.2]
        identifier = identifier or 0
    subscriptions = []
    while reader.at < reader.end:
        filter = reader.utf8()
        options = reader.byte()
        if options & 3 == 3 or options & (0xC0 if version == 5 else 0xFC) or (options >> 4 & 3) == 3:
            raise ProtocolError(0x81 if version == 5 and options & 0xC0 else 0x82, "the subscription options are wrong")
        if options & 4 and filter.startswith(b"$share/"):                   # [MQTT-3.8.3-4]
            raise ProtocolError(0x82, "no local on a shared subscription")
        subscriptions.append((filter, options))
    if not subscriptions:
        raise ProtocolError(0x82, "a SUBSCRIBE without a filter")           # [MQTT-3.8.3-2]
    return packet_id, subscriptions, identifier


def parse_unsubscribe(bytes body, int version, unsigned int user_properties_max):
    """(packet id, [filter bytes])"""
    cdef Reader reader = Reader(body)
    cdef int packet_id = reader.u16()
    if packet_id == 0:
        raise ProtocolError(0x82, "packet id 0")
    if version == 5:
        reader.properties(UNSUBSCRIBE_PROPERTIES, user_properties_max)
    filters = []
    while reader.at < reader.end:
        filters.append(reader.utf8())
    if not filters:
        raise ProtocolError(0x82, "an UNSUBSCRIBE without a filter")        # [MQTT-3.10.3-2]
    return packet_id, filters


def parse_disconnect(bytes body, unsigned int user_properties_max):
    """(reason code, properties) of an MQTT 5 DISCONNECT."""
    return parse_reason(body, DISCONNECT_PROPERTIES, user_properties_max)


def check_ack_properties(bytes data, unsigned int user_properties_max):
    """Judge the properties (with their length) of PUBACK, PUBREC, PUBREL or PUBCOMP."""
    Reader(data).properties(ACK_PROPERTIES, user_properties_max)


def parse_auth(bytes body, unsigned int user_properties_max):
    """(reason code, properties) of an AUTH."""
    return parse_reason(body, AUTH_PROPERTIES, user_properties_max)


cdef tuple parse_reason(bytes body, allowed, unsigned int user_properties_max):
    cdef Reader reader = Reader(body)
    cdef int reason
    if reader.end == 0:
        return 0, {}
    reason = reader.byte()
    if reader.at == reader.end:
        return reason, {}
    properties = reader.properties(allowed, user_properties_max)
    if reader.at != reader.end:
        raise ProtocolError(0x81, "bytes behind the properties")
    return reason, properties


cpdef bytes encode_properties(dict properties):
    """The MQTT 5 wire form of {identifier: value}, with its length in front; lists are repeated, None is left out."""
    cdef list parts = []
    for identifier, value in properties.items():
        for item in value if isinstance(value, list) else (value,):
            if item is not None:
                parts.append(bytes((identifier,)) + encode_value(PROPERTY_KINDS[identifier], item))
    body = b"".join(parts)
    return varint(len(body)) + body


cdef bytes encode_value(str kind, value):
    if kind == "byte":
        return bytes((value,))
    if kind == "u16":
        return (<int>value).to_bytes(2, "big")
    if kind == "u32":
        return (<object>value).to_bytes(4, "big")
    if kind == "varint":
        return varint(value)
    if kind == "pair":
        return encode_value("str", value[0]) + encode_value("str", value[1])
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(2, "big") + data


def varint(unsigned int value):
    """`value` as a variable byte integer [MQTT-1.5.5]."""
    cdef char buffer[5]
    cdef char* end = write_varint(buffer, value)
    return buffer[:end - buffer]


cpdef bytes packet(int header, bytes body):
    """A whole packet with this first byte."""
    cdef char start[6]
    start[0] = <char>header
    return start[:write_varint(start + 1, <uint32_t>len(body)) - start] + body


def encode_connack(bint session_present, int reason, properties=None):
    """CONNACK; `properties` None for MQTT 3."""
    cdef char start[2]
    start[0] = session_present
    start[1] = <char>reason
    return packet(0x20, start[:2] if properties is None else start[:2] + encode_properties(properties))


def encode_suback(int packet_id, bytes reasons, properties=None):
    return packet(0x90, packet_id.to_bytes(2, "big") + (b"" if properties is None else encode_properties(properties)) + reasons)


def encode_unsuback(int packet_id, bytes reasons, properties=None):
    """UNSUBACK; the reasons are there only in MQTT 5."""
    body = packet_id.to_bytes(2, "big")
    return packet(0xB0, body if properties is None else body + encode_properties(properties) + reasons)


def encode_disconnect(int reason, properties=None):
    """DISCONNECT of the server; exists in MQTT 5 only."""
    return packet(0xE0, bytes((reason,)) + encode_properties(properties or {}))


def encode_auth(int reason, dict properties):
    return packet(0xF0, bytes((reason,)) + encode_properties(properties))


def topic_reason(bytes topic, unsigned int levels_max):
    """0 if `topic` is a topic name, else the MQTT 5 reason code (0x90, 0x81)."""
    return topic_problem(topic, len(topic), levels_max)


def filter_reason(bytes filter, unsigned int levels_max):
    """0 if `filter` is a topic filter, else the MQTT 5 reason code (0x8F, 0x81)."""
    return filter_problem(filter, len(filter), levels_max)


def split_share(bytes filter):
    """(share name, filter) of a shared subscription, None if it is not one. ProtocolError 0x8F for a bad one (S04)."""
    if not filter.startswith(b"$share/") and filter != b"$share":
        return None
    parts = filter.split(b"/", 2)
    if len(parts) < 3 or not parts[1] or not parts[2] or b"+" in parts[1] or b"#" in parts[1]:
        raise ProtocolError(0x8F, "a shared subscription is $share/NAME/FILTER")    # [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    return parts[1], parts[2]


def record_names(bytes record):
    """(topic bytes, author str) of a message record (docs/internals.md)."""
    topic = int.from_bytes(record[17:19], "little")
    author = int.from_bytes(record[19:21], "little")
    return record[29:29 + topic], record[29 + topic:29 + topic + author].decode()
