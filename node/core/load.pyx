"""The load engine: thousands of MQTT clients in one epoll loop, no Python object per message. It works with any broker.

A Load holds groups of connections that subscribe, publish, or both. `step` runs the loop for a while; between steps the caller
looks at `stats`, `histogram` and `ready`. Every payload starts with a Header; receivers keep the ledger from it: received,
missing, duplicate and reordered messages for each pair of receiver and publisher.
A publisher is held back by its window: of unacknowledged messages at QoS 1 and 2, and, where `fanout` tells how many receivers
of this Load each message has, of undelivered ones at any QoS; or by its group's rate. What a peer does wrong is counted, never fatal.
"""

from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport abort, calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset, strlen
from node.core.wire cimport read_u16, read_varint, write_u16, write_u32, write_varint

import os
import socket

cdef extern from *:
    """
    #include <time.h>
    #include <poll.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/prctl.h>
    #include <unistd.h>

    #ifndef IP_BIND_ADDRESS_NO_PORT
    #define IP_BIND_ADDRESS_NO_PORT 24
    #endif

    static inline uint64_t load_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    /* A socket on its way to `to`; -1 with errno. */
    static int load_connect(const void *to, uint32_t to_size, const void *from, uint32_t from_size) {
        int one = 1, fd = socket(((const struct sockaddr *)to)->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) return -1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if ((from_size && bind(fd, from, from_size) < 0) || (connect(fd, to, to_size) < 0 && errno != EINPROGRESS)) {
            int error = errno;
            close(fd);
            errno = error;
            return -1;
        }
        return fd;
    }
    static int load_watch(int epoll, int operation, int fd, int writing, void *connection) {
        struct epoll_event e;
        e.events = EPOLLIN | (writing ? EPOLLOUT : 0);
        e.data.ptr = connection;
        return epoll_ctl(epoll, operation, fd, &e);
    }
    /* Events; waits to the nanosecond, as a rate needs it, only where there are none yet. */
    static int load_wait(int epoll, struct epoll_event *events, int count, uint64_t wait_ns) {
        int ready = epoll_wait(epoll, events, count, 0);
        if (ready || !wait_ns) return ready;
        struct pollfd p = {epoll, POLLIN, 0};
        struct timespec t = {wait_ns / 1000000000u, wait_ns % 1000000000u};
        return ppoll(&p, 1, &t, NULL) > 0 ? epoll_wait(epoll, events, count, 0) : 0;
    }
    static void load_exact_timers(void) { prctl(PR_SET_TIMERSLACK, 1); }
    """
    uint64_t clock_ns "load_now_ns"() noexcept nogil
    int connect_to "load_connect"(const void* to, uint32_t to_size, const void* source, uint32_t size) noexcept nogil
    int watch "load_watch"(int epoll, int operation, int fd, bint writing, void* connection) noexcept nogil
    int wait_for "load_wait"(int epoll, epoll_event* events, int count, uint64_t wait_ns) noexcept nogil
    void exact_timers "load_exact_timers"() noexcept nogil
    int count_leading_zeros "__builtin_clzll"(uint64_t value) noexcept nogil
    ctypedef union EpollData "epoll_data_t":
        void* ptr
    struct epoll_event:
        uint32_t events
        EpollData data
    int epoll_create1(int flags) noexcept nogil
    enum: EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD
    ssize_t c_recv "recv"(int fd, void* data, size_t length, int flags) noexcept nogil
    ssize_t c_send "send"(int fd, const void* data, size_t length, int flags) noexcept nogil
    enum: MSG_NOSIGNAL
    int c_close "close"(int fd) noexcept nogil

cdef enum:
    READ_BYTES = 262144
    FILL_BYTES = 65536          # output of a connection above which nothing is added
    EVENTS = 512
    MAX_TEMPLATE = 512          # of an expanded topic, filter or client id
    SCRATCH_BYTES = 131072      # a SUBSCRIBE of FILTERS_A_PACKET filters
    MAGIC = 0x6D716C64
    LATE_NS = 1000000           # a rate that lags more is stamped with the time at which the message was due

cdef enum:                      # states of a connection
    NEW, CONNECTING, CONNECTED, ENDED

cdef enum:                      # counts
    CONNECTS, CONNECTED_NOW, CONNECT_FAILED, CONNECT_REFUSED, CLOSED_BY_SERVER, SESSIONS_PRESENT, MALFORMED
    SUBSCRIBED, SUBSCRIBE_REFUSED, SENT, ACKNOWLEDGED, PUBLISH_REFUSED, UNEXPECTED_ACKS
    RECEIVED, MISSING, DUPLICATES, REORDERED, REDELIVERED, FOREIGN, BYTES_SENT, BYTES_RECEIVED
    COUNTS

COUNT_NAMES = (
    "connects", "connected", "connect_failed", "connect_refused", "closed_by_server", "sessions_present", "malformed",
    "subscribed", "subscribe_refused", "sent", "acknowledged", "publish_refused", "unexpected_acks",
    "received", "missing", "duplicates", "reordered", "redelivered", "foreign", "bytes_sent", "bytes_received",
)
assert len(COUNT_NAMES) == COUNTS

cdef enum:
    DELIVERY, ACKNOWLEDGEMENT, CONNECTION
    HISTOGRAMS

HISTOGRAM_NAMES = ("delivery", "acknowledgement", "connection")
assert len(HISTOGRAM_NAMES) == HISTOGRAMS


cdef struct Header:             # of every payload
    uint32_t run                # with MAGIC
    uint32_t publisher
    uint64_t sequence
    uint64_t sent_ns            # CLOCK_MONOTONIC

HEADER_BYTES = sizeof(Header)


cdef struct Slot:               # of a packet id of a publisher
    uint64_t sent_ns
    uint8_t awaits


cdef struct Group:
    char* client_id             # templates
    char* subscribe
    char* publish
    bint topic_varies           # from one message to the next
    bint clean
    bint retain
    uint8_t version
    uint8_t qos
    uint32_t first              # place of its first connection
    uint32_t count
    uint32_t filters            # for each connection
    uint32_t size
    uint32_t window
    uint64_t fanout
    uint64_t messages           # from each connection; 0: no end
    double rate                 # messages a second of all connections together; 0: as fast as the windows allow
    uint64_t started_ns
    uint64_t issued
    uint32_t turn               # who publishes next under a rate
    char* address               # NULL: that of the Load


cdef struct Connection:
    Group* group
    int fd
    uint8_t state
    bint settled                # subscribed to all, or ended
    bint blocked                # the socket takes no more
    bint touched
    Connection* next_touched
    uint32_t index              # in its group
    uint64_t opened_ns
    char* rest                  # of input: an incomplete packet
    size_t rest_length
    size_t rest_capacity
    char* output
    size_t output_start
    size_t output_end
    size_t output_capacity
    uint32_t filters_sent
    uint32_t filters_answered
    uint32_t publisher
    uint32_t allowed            # unacknowledged messages, by the server
    uint32_t unacknowledged
    uint64_t sent
    uint64_t returned           # deliveries that came, or were seen to be lost
    char* frame
    uint32_t frame_length
    uint32_t frame_id
    uint32_t frame_payload
    Slot* slots                 # by packet id - 1
    uint16_t* free_ids          # a ring of `window`, which starts at free_start
    uint32_t free_start
    uint8_t* received_ids       # QoS 2: a bit for each packet id between PUBLISH and PUBREL
    Flow* flows
    uint32_t flow_count
    uint32_t flow_capacity


include "load_ledger.pxi"
include "load_packets.pxi"


cdef inline void* need(void* memory) noexcept nogil:
    if memory == NULL:
        abort()
    return memory


cdef inline char* reserve(Connection* c, size_t size) noexcept nogil:
    """Room for `size` more bytes of output; the caller moves output_end."""
    if c.output_end + size > c.output_capacity:
        if c.output_start:
            memmove(c.output, c.output + c.output_start, c.output_end - c.output_start)
            c.output_end -= c.output_start
            c.output_start = 0
        if c.output_end + size > c.output_capacity:
            c.output_capacity = max(256, c.output_capacity * 2, c.output_end + size)
            c.output = <char*>need(realloc(c.output, c.output_capacity))
    return c.output + c.output_end


cdef inline void touch(Load load, Connection* c) noexcept nogil:
    """Have it served at the end of this turn."""
    if not c.touched:
        c.touched = True
        c.next_touched = load.touched
        load.touched = c


cdef void settle(Load load, Connection* c) noexcept nogil:
    if not c.settled:
        c.settled = True
        load.settled += 1


cdef inline void return_credit(Load load, Connection* publisher, uint64_t deliveries) noexcept nogil:
    publisher.returned += deliveries
    touch(load, publisher)


cdef void end(Load load, Connection* c) noexcept nogil:
    if c.state == ENDED:
        return
    if c.state == CONNECTED:
        load.counts[CONNECTED_NOW] -= 1
    elif c.state == CONNECTING:
        load.pending -= 1
    c.state = ENDED
    if c.fd >= 0:
        c_close(c.fd)
        c.fd = -1
    c.output_start = c.output_end = c.rest_length = 0
    settle(load, c)


cdef void lost(Load load, Connection* c) noexcept nogil:
    """The server, or the network, ended it."""
    load.counts[CLOSED_BY_SERVER if c.state == CONNECTED else CONNECT_FAILED] += 1
    end(load, c)


cdef void open_connection(Load load, Connection* c) noexcept nogil:
    cdef size_t source = c.index % load.source_count if load.source_count else 0
    c.opened_ns = load.now_ns
    c.fd = connect_to(c.group.address or load.address, load.address_size, load.sources + source * load.address_size,
                      load.address_size if load.source_count else 0)
    c.state = CONNECTING
    load.pending += 1
    if c.fd < 0 or watch(load.epoll, EPOLL_CTL_ADD, c.fd, True, c) < 0:
        load.last_errno = errno
        lost(load, c)
        return
    c.blocked = True
    put_connect(load, c)


cdef void receive(Load load, Connection* c) noexcept nogil:
    cdef ssize_t got
    cdef int64_t used
    cdef size_t length = c.rest_length
    if length + READ_BYTES > load.capacity:
        load.capacity = length * 2 + READ_BYTES
        load.buffer = <char*>need(realloc(load.buffer, load.capacity))
    if length:
        memcpy(load.buffer, c.rest, length)
    got = c_recv(c.fd, load.buffer + length, READ_BYTES, 0)
    if got <= 0:
        if got == 0 or (errno != EAGAIN and errno != EINTR):
            load.last_errno = errno if got < 0 else 0
            lost(load, c)
        return
    load.now_ns = load.last_ns = clock_ns()
    load.counts[BYTES_RECEIVED] += got
    length += got
    used = parse(load, c, load.buffer, length)
    if used < 0:
        load.counts[MALFORMED] += 1
        end(load, c)
    if c.state == ENDED:
        return
    c.rest_length = length - used
    if c.rest_length > c.rest_capacity:
        c.rest_capacity = c.rest_length * 2
        c.rest = <char*>need(realloc(c.rest, c.rest_capacity))
    if c.rest_length:
        memcpy(c.rest, load.buffer + used, c.rest_length)


cdef void flush(Load load, Connection* c) noexcept nogil:
    cdef ssize_t sent
    while c.output_start < c.output_end and not c.blocked:
        sent = c_send(c.fd, c.output + c.output_start, c.output_end - c.output_start, MSG_NOSIGNAL)
        if sent > 0:
            c.output_start += sent
            load.counts[BYTES_SENT] += sent
        elif errno == EAGAIN:
            c.blocked = True
            watch(load.epoll, EPOLL_CTL_MOD, c.fd, True, c)
        elif errno != EINTR:
            load.last_errno = errno
            lost(load, c)
            return
    if c.output_start == c.output_end:
        c.output_start = c.output_end = 0


cdef inline bint may_publish(Load load, Connection* c) noexcept nogil:
    cdef Group* g = c.group
    if c.state != CONNECTED or not load.publishing or g.publish == NULL or (g.messages and c.sent >= g.messages):
        return False
    if g.qos and c.unacknowledged >= min(g.window, c.allowed):
        return False
    if g.fanout and c.sent * g.fanout >= c.returned + g.window * g.fanout:
        return False
    return c.output_end - c.output_start < FILL_BYTES


cdef void serve(Load load, Connection* c) noexcept nogil:
    """Write what a touched connection has to say."""
    cdef uint64_t now
    if c.state == ENDED:
        return
    if c.state == CONNECTED:
        if c.filters_sent < c.group.filters:
            put_subscribes(load, c)
        if c.group.rate == 0 and may_publish(load, c):
            now = clock_ns()
            while may_publish(load, c):
                put_publish(load, c, now)
    flush(load, c)
    if not c.blocked and c.state == CONNECTED and (
        c.filters_sent < c.group.filters or (c.group.rate == 0 and may_publish(load, c))
    ):
        touch(load, c)


cdef void serve_touched(Load load) noexcept nogil:
    cdef Connection* c = load.touched
    cdef Connection* following
    load.touched = NULL
    while c != NULL:
        following = c.next_touched
        c.touched = False
        serve(load, c)
        c = following


cdef uint64_t pace(Load load, Group* g) noexcept nogil:
    """What is due by the group's rate; when the next one is."""
    cdef uint64_t due
    cdef uint32_t skipped = 0
    cdef Connection* c
    while skipped < g.count:
        due = g.started_ns + <uint64_t>(g.issued * 1e9 / g.rate)
        if due > load.now_ns:
            return due
        c = load.connections[g.first + g.turn]
        g.turn = 0 if g.turn + 1 == g.count else g.turn + 1
        if may_publish(load, c):
            skipped = 0
            g.issued += 1
            put_publish(load, c, due if load.now_ns - due > LATE_NS else load.now_ns)
            touch(load, c)
        else:
            skipped += 1
    return load.now_ns + LATE_NS  # all windows are full: the next acknowledgement wakes us, if not this


cdef void turn(Load load, uint64_t until_ns) noexcept nogil:
    """Wait, at most until then, and handle what there is."""
    cdef epoll_event events[EVENTS]
    cdef Connection* c
    cdef int count, i
    count = wait_for(load.epoll, events, EVENTS, 0 if load.touched != NULL or until_ns <= load.now_ns
                     else until_ns - load.now_ns)
    load.now_ns = clock_ns()
    for i in range(count):
        c = <Connection*>events[i].data.ptr
        if c.state != ENDED and events[i].events & EPOLLOUT and c.blocked:
            c.blocked = False
            watch(load.epoll, EPOLL_CTL_MOD, c.fd, False, c)
            touch(load, c)
        if c.state != ENDED and events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR):
            receive(load, c)
    serve_touched(load)


cdef class Load:
    cdef int epoll
    cdef int last_errno
    cdef uint8_t last_reason    # of CONNACK or DISCONNECT
    cdef bint joins             # a receiver takes the first message that it sees as the beginning
    cdef bint publishing
    cdef uint32_t run
    cdef uint32_t burst         # handshakes at a time
    cdef uint32_t pending       # handshakes
    cdef uint32_t opened
    cdef uint32_t connection_count
    cdef uint32_t settled
    cdef uint32_t first_publisher
    cdef uint32_t publisher_count
    cdef uint32_t group_count
    cdef uint32_t source_count
    cdef uint32_t address_size
    cdef char address[128]
    cdef char* sources
    cdef char* user
    cdef char* password
    cdef char* buffer
    cdef size_t capacity
    cdef char* scratch
    cdef uint64_t now_ns
    cdef uint64_t started_ns
    cdef uint64_t last_ns       # when something came
    cdef Group** groups
    cdef Connection** connections
    cdef Connection** publishers
    cdef Connection* touched
    cdef uint64_t[COUNTS] counts
    cdef Histogram[HISTOGRAMS] histograms
    cdef object family
    cdef list texts             # keeps what the char pointers point to

    def __cinit__(self, host: str, port: int, *, run: int = 0, user: str = "", password: str = "", burst: int = 64,
                  sources: tuple = (), first_publisher: int = 0, joins: bool = False):
        cdef size_t i
        if max(len(user.encode()), len(password.encode())) > 32768:
            raise ValueError("user name and password have at most 32,768 bytes")
        self.family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        raw = _sockaddr(self.family, target)
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, os.strerror(errno))
        self.texts = []
        self.address_size = len(raw)
        memcpy(self.address, <const char*>raw, len(raw))
        self.sources = self.text(b"".join(_sockaddr(self.family, (source, 0)) for source in sources))
        self.source_count = len(sources)
        self.user = self.text(user.encode()) if user else NULL
        self.password = self.text(password.encode()) if password else NULL
        self.run, self.burst, self.joins, self.first_publisher = MAGIC ^ run, burst, joins, first_publisher
        self.capacity = READ_BYTES
        self.buffer = <char*>need(malloc(self.capacity))
        self.scratch = <char*>need(malloc(SCRATCH_BYTES))
        for i in range(HISTOGRAMS):
            self.histograms[i].least = 0xFFFFFFFFFFFFFFFF
            self.histograms[i].buckets = <uint64_t*>need(calloc(HISTOGRAM_BUCKETS, sizeof(uint64_t)))
        exact_timers()

    cdef char* text(self, bytes value):
        self.texts.append(value)
        return value

    def add(self, count: int, *, prefix: str = "bench", version: int = 4, clean: bool = True, subscribe: str = "",
            filters: int = 1, publish: str = "", qos: int = 0, size: int = 64, window: int = 100, fanout: int = 0,
            messages: int = 0, rate: float = 0.0, retain: bool = False, at: tuple | None = None) -> int:
        """`count` more connections; the number of their group. In templates, {i} is the connection's index and {n} the
        number of the filter or of the message. `qos` is that of the subscriptions and of the messages. The client id is prefix-{i}.
        `at`: address and port of another server than the Load's, of the same family."""
        if size < <int>sizeof(Header):
            raise ValueError(f"payloads need at least {sizeof(Header)} bytes")
        if not 1 <= window <= 65535:
            raise ValueError("a window is 1 to 65535 messages")
        cdef Group* g = <Group*>need(calloc(1, sizeof(Group)))
        g.client_id = self.template(prefix + "-{i}")
        g.subscribe = self.template(subscribe) if subscribe else NULL
        g.publish = self.template(publish) if publish else NULL
        g.topic_varies = "{n}" in publish
        g.address = self.text(_sockaddr(self.family, at)) if at else NULL
        g.version, g.clean, g.retain, g.qos, g.size, g.window = version, clean, retain, qos, size, window
        g.filters = filters if subscribe else 0
        g.fanout, g.messages, g.rate = fanout, messages, rate
        g.first, g.count = self.connection_count, count
        self.groups = <Group**>need(realloc(self.groups, (self.group_count + 1) * sizeof(void*)))
        self.groups[self.group_count] = g
        self.group_count += 1
        self.connections = <Connection**>need(realloc(self.connections, (g.first + count) * sizeof(void*)))
        if publish:
            self.publishers = <Connection**>need(realloc(self.publishers, (self.publisher_count + count) * sizeof(void*)))
        for index in range(count):
            self.add_connection(g, index)
        return self.group_count - 1

    cdef char* template(self, str value):
        raw = value.encode().replace(b"{i}", b"\x01").replace(b"{n}", b"\x02")
        numbers = raw.count(b"\x01") + raw.count(b"\x02")
        if len(raw) + 20 * numbers > MAX_TEMPLATE or b"\0" in raw:
            raise ValueError(f"{value[:40]!r}: a template has at most {MAX_TEMPLATE} bytes, none of them zero")
        return self.text(raw)

    cdef void add_connection(self, Group* g, uint32_t index):
        cdef Connection* c = <Connection*>need(calloc(1, sizeof(Connection)))
        cdef uint32_t i
        c.group, c.index, c.fd, c.allowed = g, index, -1, 65535
        self.connections[self.connection_count] = c
        self.connection_count += 1
        if g.publish == NULL:
            return
        c.publisher = self.first_publisher + self.publisher_count
        self.publishers[self.publisher_count] = c
        self.publisher_count += 1
        if g.qos:
            c.slots = <Slot*>need(calloc(g.window, sizeof(Slot)))
            c.free_ids = <uint16_t*>need(malloc(g.window * sizeof(uint16_t)))
            for i in range(g.window):
                c.free_ids[i] = <uint16_t>(i + 1)

    def step(self, milliseconds: float) -> None:
        """Run for so long, or until `ready` or `done` becomes true."""
        cdef uint64_t deadline, wait_ns = <uint64_t>(milliseconds * 1000000)
        cdef bint ready = self.ready, done = self.done
        with nogil:
            self.now_ns = clock_ns()
            deadline = self.now_ns + wait_ns
            while self.now_ns < deadline:
                self.one_turn(deadline)
                if (not ready and self.settled == self.connection_count) or (not done and self.all_done()):
                    break

    cdef void one_turn(self, uint64_t deadline) noexcept nogil:
        cdef uint32_t i
        cdef uint64_t until = deadline
        while self.opened < self.connection_count and self.pending < self.burst:
            open_connection(self, self.connections[self.opened])
            self.opened += 1
        if self.publishing:
            for i in range(self.group_count):
                if self.groups[i].rate:
                    until = min(until, pace(self, self.groups[i]))
            serve_touched(self)
        turn(self, until)

    cdef bint all_done(self) noexcept nogil:
        cdef uint32_t i
        cdef Connection* c
        if self.publishing and self.counts[SENT] < self.goal():
            return False
        for i in range(self.publisher_count):
            c = self.publishers[i]
            if c.state == CONNECTED and (c.unacknowledged or c.returned < c.sent * c.group.fanout):
                return False
        return True

    cdef uint64_t goal(self) noexcept nogil:
        cdef uint64_t messages = 0
        cdef uint32_t i
        for i in range(self.group_count):
            if self.groups[i].publish != NULL:
                if self.groups[i].messages == 0:
                    return 0xFFFFFFFFFFFFFFFF
                messages += self.groups[i].messages * self.groups[i].count
        return messages

    @property
    def ready(self) -> bool:
        """Every connection is established and subscribed, or has ended."""
        return self.settled == self.connection_count

    @property
    def done(self) -> bool:
        """Nothing is left to publish, to acknowledge or, where fanout is known, to deliver."""
        return bool(self.all_done())

    def publish(self, on: bool = True) -> None:
        """Publishers start, or stop; they stand still at first."""
        cdef uint32_t i
        cdef uint64_t now = clock_ns()
        self.publishing = on
        if on and not self.started_ns:
            self.started_ns = now
        for i in range(self.group_count):
            self.groups[i].started_ns = now
            self.groups[i].issued = 0
        for i in range(self.publisher_count):
            touch(self, self.publishers[i])

    def disconnect(self, group: int) -> None:
        """End the connections of a group, politely."""
        cdef Group* g = self.groups[group]
        cdef uint32_t i
        for i in range(g.first, g.first + g.count):
            if self.connections[i].state == CONNECTED:
                c_send(self.connections[i].fd, b"\xe0\x00", 2, MSG_NOSIGNAL)
            end(self, self.connections[i])

    def close(self) -> None:
        for group in range(self.group_count):
            self.disconnect(group)

    def stats(self) -> dict:
        """Totals; `seconds` from the start of publishing, or the first message, to the last byte received."""
        result = {name: self.counts[i] for i, name in enumerate(COUNT_NAMES)}
        result["seconds"] = (self.last_ns - self.started_ns) / 1e9 if 0 < self.started_ns < self.last_ns else 0.0
        result["connections"] = self.connection_count
        result["last_error"] = os.strerror(self.last_errno) if self.last_errno else ""
        result["last_reason"] = self.last_reason
        return result

    def histogram(self, name: str) -> dict:
        """Nanoseconds: of "delivery" (publish to receive), "acknowledgement" (publish to PUBACK or PUBCOMP), "connection"."""
        cdef Histogram* h = &self.histograms[HISTOGRAM_NAMES.index(name)]
        quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
        return {
            "count": h.count,
            "min": h.least if h.count else 0,
            "mean": h.sum / h.count if h.count else 0.0,
            **{key: value_at(h, quantile) for key, quantile in quantiles.items()},
            "max": h.most,
        }

    def __dealloc__(self):
        cdef uint32_t i, k
        cdef Connection* c
        for i in range(self.connection_count):
            c = self.connections[i]
            if c.fd >= 0:
                c_close(c.fd)
            for k in range(c.flow_capacity):
                free(c.flows[k].gaps)
            for memory in (<size_t>c.rest, <size_t>c.output, <size_t>c.frame, <size_t>c.slots, <size_t>c.free_ids,
                           <size_t>c.received_ids, <size_t>c.flows, <size_t>c):
                free(<void*><size_t>memory)
        for i in range(self.group_count):
            free(self.groups[i])
        for i in range(HISTOGRAMS):
            free(self.histograms[i].buckets)
        free(self.groups)
        free(self.connections)
        free(self.publishers)
        free(self.buffer)
        free(self.scratch)
        if self.epoll >= 0:
            c_close(self.epoll)


def _sockaddr(family: int, address: tuple) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    host, port = address[:2]
    head = int(family).to_bytes(2, "little") + int(port).to_bytes(2, "big")
    if family == socket.AF_INET6:
        return head + bytes(4) + socket.inet_pton(family, host) + bytes(4)
    return head + socket.inet_pton(family, host) + bytes(8)
