"""The data plane of a worker: one epoll set, all sockets, every message from receipt to flush in C.

gevent's hub watches the epoll descriptor; `wake` drains it, and waits for more while messages come: receive into one shared
buffer, parse in place, match, append to the subscribers' output, and at the end flush every touched stream once. No greenlet,
Python call or Python object per message.
What happens once per connection or subscription goes to `handler` (node/worker/worker.py):
packet(connection, kind, body), failed(connection, reason, text), broken(connection), timed_out(connection),
closed(connection), frame(link, kind, body), link_closed(link). Handlers run inside the wake-up and must not switch greenlets.
"""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset
from libc.time cimport time as epoch_s
from node.core.slots cimport SLOT_BYTES, Slots
from node.core.topics cimport (
    Group, Match, Node, NodeList, Subscription, Target, TopicTree, drop_subscription, filter_of, push_node, put_subscription,
    release_group, topic_hash,
)
from node.core.window cimport (
    AWAIT_PUBACK, AWAIT_PUBCOMP, AWAIT_PUBREC, COMMITTING, FREE, Flight, Message, PacketIds, ids_add, ids_drop,
    ids_free, ids_has, message_new, message_release, packet_id_of, window_close, window_find, window_fits, window_free,
    window_open,
)
from node.core.wire cimport (
    PublishProperties, parse_publish_properties, read_u16, read_varint, topic_problem, varint_size, write_u16,
    write_u32, write_varint,
)

import collections
import os
import struct

from node.core.wire import ProtocolError, check_ack_properties, record_names
from node.counters import ACK_LATENCY_US, INDEX

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/socket.h>
    #include <sys/timerfd.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <arpa/inet.h>
    #include <malloc.h>
    #include <unistd.h>
    #include <stdio.h>
    #include <string.h>

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
    static inline uint64_t mq_monotonic_us(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
    }
    static int mq_epoll_add(int epoll, int fd, uint64_t data, int edge) {
        struct epoll_event e;
        e.events = EPOLLIN | (edge ? EPOLLOUT | EPOLLRDHUP | EPOLLET : 0);
        e.data.u64 = data;
        return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
    }
    /* Readable after so long; whatever it was set to before is forgotten. */
    static int mq_timer_set(int timer, int ms) {
        struct itimerspec at = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}};
        return timerfd_settime(timer, 0, &at, NULL);
    }
    static inline int mq_lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }
    static int mq_epoll_remove(int epoll, int fd) {
        return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
    }
    /* Accepts one connection, and says of whom; an IPv4 address in the form ::ffff:a.b.c.d, port 0 on a unix socket. */
    static int mq_accept(int listener, struct in6_addr *host, uint16_t *port) {
        union { struct sockaddr any; struct sockaddr_in in; struct sockaddr_in6 in6; struct sockaddr_storage room; } peer;
        socklen_t length = sizeof peer;
        int fd = accept4(listener, &peer.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        memset(host, 0, sizeof *host);
        *port = 0;
        if (fd < 0) return fd;
        if (peer.any.sa_family == AF_INET) {
            host->s6_addr[10] = host->s6_addr[11] = 0xff;
            memcpy(host->s6_addr + 12, &peer.in.sin_addr, 4);
            *port = ntohs(peer.in.sin_port);
        } else if (peer.any.sa_family == AF_INET6) {
            *host = peer.in6.sin6_addr;
            *port = ntohs(peer.in6.sin6_port);
        }
        return fd;
    }
    /* Writes ADDRESS:PORT or [IPV6]:PORT. */
    static void mq_address(const struct in6_addr *host, uint16_t port, char *text, size_t size) {
        char name[INET6_ADDRSTRLEN] = "";
        int mapped = IN6_IS_ADDR_V4MAPPED(host);
        if (mapped) inet_ntop(AF_INET, host->s6_addr + 12, name, sizeof name);
        else inet_ntop(AF_INET6, host, name, sizeof name);
        snprintf(text, size, mapped ? "%s:%d" : "[%s]:%d", name, port);
    }
    """
    uint64_t monotonic_us "mq_monotonic_us"() noexcept nogil
    ssize_t receive_with_descriptor "mq_receive"(int fd, void* data, size_t size, int* passed) noexcept nogil
    int timer_set "mq_timer_set"(int timer, int ms) noexcept nogil
    int timerfd_create(int clock, int flags) noexcept nogil
    enum: CLOCK_MONOTONIC, TFD_CLOEXEC
    int lowest_bit "mq_lowest_bit"(uint64_t bits) noexcept nogil
    int epoll_remove "mq_epoll_remove"(int epoll, int fd) noexcept nogil
    int epoll_add "mq_epoll_add"(int epoll, int fd, uint64_t data, int edge) noexcept nogil
    int accept_one "mq_accept"(int listener, in6_addr* host, uint16_t* port) noexcept nogil
    void write_address "mq_address"(const in6_addr* host, uint16_t port, char* text, size_t size) noexcept nogil
    ctypedef union EpollData "epoll_data_t":
        uint64_t u64
    struct epoll_event:
        uint32_t events
        EpollData data
    int eventfd(unsigned int value, int flags) noexcept nogil
    enum: EFD_CLOEXEC
    int epoll_create1(int flags) noexcept nogil
    int epoll_wait(int epoll, epoll_event* events, int count, int timeout) noexcept nogil
    enum: EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR, EPOLL_CLOEXEC
    int c_close "close"(int fd) noexcept nogil
    int c_shutdown "shutdown"(int fd, int how) noexcept nogil
    enum: SHUT_WR
    enum: IPPROTO_TCP, TCP_INFO
    ctypedef uint32_t socklen_t
    struct tcp_info:
        uint32_t tcpi_last_data_recv    # ms since
    int getsockopt(int fd, int level, int name, void* value, socklen_t* size) noexcept nogil
    int mallopt(int parameter, int value) noexcept nogil
    enum: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD

cdef enum:
    BUFFER_SIZE = 262144
    EVENTS = 512
    ACCEPTS = 64            # of one listener in one wake-up
    ACK_BUCKETS = 14
    PUMP_BYTES = 262144     # read from a queue at a time, and unsent at most before more is read
    TURN_US = 1000          # that one connection keeps the others waiting, at most and but for its last packet
    WAKE_US = 10000         # that the connections of one wake-up do so together
    STAY_MS = 60            # that what gevent does beside messages waits for us while they come …
    AWAITED_MS = 5          # … and while a client waits for it
    UNANSWERED_MAX = 64     # SUBSCRIBE and UNSUBSCRIBE packets of one client that siblings and the keeper are told of
    LINGER_MS = 2000
    UNSENT_MS = 5000        # a closing connection has so long to take what is queued
    SPARE_MEMORY = 16777216 # of freed buffers that is not given back: each wake-up would fault it in again
    LARGE_BUFFER = 4194304  # given back at once

cdef uint64_t ack_bounds[ACK_BUCKETS]
for _i, _us in enumerate(ACK_LATENCY_US):
    ack_bounds[_i] = _us
assert len(ACK_LATENCY_US) == ACK_BUCKETS

PACKET_NAMES = ("packet type 0", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE",
                "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH")

cdef int S_BYTES_RECEIVED = INDEX["bytes_received"]
cdef int S_BYTES_SENT = INDEX["bytes_sent"]
cdef int S_PACKETS_RECEIVED = INDEX["packets_received_reserved"]    # and on, by packet type
cdef int S_PACKETS_SENT = INDEX["packets_sent_reserved"]
cdef int S_PUBLISH_RECEIVED = INDEX["publish_received_qos0"]
cdef int S_PUBLISH_SENT = INDEX["publish_sent_qos0"]
cdef int S_PUBLISH_BYTES_RECEIVED = INDEX["publish_bytes_received"]
cdef int S_PUBLISH_BYTES_SENT = INDEX["publish_bytes_sent"]
cdef int S_DUPLICATES_RECEIVED = INDEX["duplicates_received"]
cdef int S_DUPLICATES_SENT = INDEX["duplicates_sent"]
cdef int S_CONNECTS_ACCEPTED = INDEX["connects_accepted"]
cdef int S_SOCKETS_OPENED = INDEX["sockets_opened"]
cdef int S_AUTHZ_DENIED = INDEX["authz_denied"]
cdef int S_REFUSED_SPLIT = INDEX["refused_split"]
cdef int S_DROPPED_EXPIRED = INDEX["dropped_expired"]
cdef int S_DROPPED_SLOW = INDEX["dropped_slow_subscriber"]
cdef int S_DROPPED_TOO_LARGE = INDEX["dropped_too_large"]
cdef int S_DROPPED_DENIED = INDEX["dropped_denied"]
cdef int S_DROPPED_SESSION_ENDED = INDEX["dropped_session_ended"]
cdef int S_PUBLISHERS_PAUSED = INDEX["publishers_paused"]
cdef int S_MALFORMED = INDEX["malformed_packets"]
cdef int S_PROTOCOL_ERRORS = INDEX["protocol_errors"]
cdef int S_SIBLING_SENT = INDEX["sibling_messages_sent"]
cdef int S_SIBLING_RECEIVED = INDEX["sibling_messages_received"]
cdef int S_REDISPATCHED = INDEX["redispatched"]
cdef int S_RETAINED_SET = INDEX["retained_set"]
cdef int S_HANDLER_ERRORS = INDEX["handler_errors"]
cdef int S_ACK_LATENCY = INDEX[f"ack_latency_{ACK_LATENCY_US[0]}"]
cdef int S_ACK_LATENCY_SUM = INDEX["ack_latency_sum_us"]
cdef int S_CONNECTIONS = INDEX["connections"]
cdef int S_OUTPUT_BYTES = INDEX["output_bytes"]
cdef int S_INFLIGHT = INDEX["inflight"]
cdef int S_PAUSED = INDEX["paused_publishers"]
cdef int S_MATCHES = INDEX["match_cache_entries"]
cdef int S_NODES = INDEX["topic_nodes"]


cdef class Listener:
    """A listening socket and how its connections are decoded."""

    def __init__(self, socket, config, make_filter):
        self.socket = socket
        self.fd = socket.fileno()
        self.config = config
        self.make_filter = make_filter


include "connections.pxi"
include "streams.pxi"
include "acks.pxi"
include "publish.pxi"
include "shared.pxi"
include "links.pxi"
include "sessions.pxi"


cdef class Link(Stream):
    """A unix socket to the keeper or a sibling worker, or from the admin process."""

    def __cinit__(self):
        self.held = set()
        self.holding = set()
        self.open_slot = self.passed = -1

    def __dealloc__(self):
        if self.passed >= 0:
            c_close(self.passed)

    def send(self, int kind, bytes body):
        """Queue a frame, behind everything that was published or stored before it."""
        if self.fd < 0:
            return
        if self is self.loop.keeper:
            close_batch(self.loop)
        send_frame(self, kind, body)

    def identify(self, str role, int index):
        """Who the other side says it is."""
        self.role = role
        self.index = index

    def share_memory(self, int fd):
        """For PUBLISH frames to and from the sibling that we dialled, who is sent this memory file."""
        self.slots = Slots(fd, True)

    def use_passed_memory(self):
        """The same for who was dialled, if a memory file came over the socket."""
        if self.passed >= 0:
            self.slots = Slots(self.passed, False)
            c_close(self.passed)
            self.passed = -1

    def close(self):
        self.loop.end_link(self)


cdef class Loop:
    def __cinit__(self, handler, stats, limits, share_strategy, slow_s=10):
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.turn_event = eventfd(1, EFD_CLOEXEC)
        self.stay_timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)
        if self.epoll < 0 or self.turn_event < 0 or epoll_add(self.epoll, self.stay_timer, 0, True) < 0:
            raise OSError(errno, os.strerror(errno))
        self.handler = handler
        self.stats_view = stats
        cdef uint64_t[::1] words = stats
        self.stats = &words[0]
        self.tree = TopicTree()
        self.sessions = {}
        self.slots = []
        self.free_slots = []
        self.touched = []
        self.again = []
        self.paused = []
        self.congested = {}
        self.replays = {}
        self.pumps = []
        self.resting = []
        self.connections_of = {}
        self.siblings = []
        self.batches = collections.deque()
        self.batch = 1
        mallopt(M_TRIM_THRESHOLD, SPARE_MEMORY)
        mallopt(M_MMAP_THRESHOLD, LARGE_BUFFER)
        self.buffer = <char*>PyMem_RawMalloc(BUFFER_SIZE)
        self.acks = <Ack*>PyMem_RawMalloc(1024 * sizeof(Ack))
        self.ack_mask = 1023
        self.allows_all = True
        self.permit_version = 1
        self.now_ms = monotonic_us() // 1000
        self.wheel_second = self.now_ms // 1000
        self.random = int.from_bytes(os.urandom(8), "little") | 1
        self.serial = self.random << RECEIVED_BITS
        self.share_strategy = SHARE_STRATEGIES[share_strategy]
        self.set_limits(limits)

    def set_limits(self, limits):
        """`limits` is config.Limits."""
        self.max_packet = limits.max_packet_bytes
        self.max_connect = min(limits.max_connect_bytes, limits.max_packet_bytes)
        self.levels_max = limits.max_topic_levels
        self.topic_max = limits.max_topic_bytes
        self.user_properties_max = limits.max_user_properties
        self.receive_max = limits.receive_maximum
        self.alias_max = limits.topic_alias_maximum
        self.output_max = limits.max_output_bytes
        self.worker_output_max = limits.max_worker_output_bytes
        self.slow_ms = int(limits.slow_subscriber_s * 1000)
        self.message_expiry_ms = limits.message_expiry_s * 1000
        self.connect_timeout_ms = int(limits.connect_timeout_s * 1000)

    def start(self, schedule, callbacks):
        """`schedule(callback)` runs the callback soon, from gevent's hub; `callbacks` is true while some are to be run."""
        self.schedule_callback = schedule
        self.callbacks = callbacks

    def fileno(self):
        return self.epoll

    def awaits(self, greenlet):
        """Clients wait for this greenlet: until it ends, gevent has its turn more often."""
        self.awaited += 1
        greenlet.link(self.awaits_no_more)

    def awaits_no_more(self, greenlet):
        self.awaited -= 1

    # -- sockets ------------------------------------------------------------------------------------------------------

    cdef uint64_t take_slot(self, object stream) except 0:
        """A slot number with its generation, for epoll's data: an event of a closed predecessor is recognised."""
        cdef uint32_t slot
        cdef uint32_t* grown
        if self.free_slots:
            slot = self.free_slots.pop()
            self.slots[slot] = stream
        else:
            slot = <uint32_t>len(self.slots)
            self.slots.append(stream)
            if slot >= self.generation_capacity:
                self.generation_capacity = max(1024, self.generation_capacity * 2)
                grown = <uint32_t*>PyMem_RawRealloc(self.generations, self.generation_capacity * sizeof(uint32_t))
                if grown == NULL:
                    raise MemoryError
                self.generations = grown
            self.generations[slot] = 1
        return <uint64_t>self.generations[slot] << 32 | slot

    cdef void drop_slot(self, uint32_t slot):
        self.slots[slot] = None
        self.generations[slot] += 1
        if self.generations[slot] == 0:
            self.generations[slot] = 1
        self.free_slots.append(slot)

    cdef int add_stream(self, Stream stream, int fd) except -1:
        cdef uint64_t data
        stream.loop = self
        stream.fd = fd
        stream.writable = True
        data = self.take_slot(stream)
        stream.slot = <uint32_t>(data & 0xFFFFFFFF)
        if epoll_add(self.epoll, fd, data, True) < 0:
            self.drop_slot(stream.slot)
            raise OSError(errno, os.strerror(errno))
        return 0

    def listen(self, socket, config, make_filter):
        """Accept clients on this listening socket; `make_filter(address)` gives each its filter or None."""
        cdef Listener listener = Listener(socket, config, make_filter)
        listener.data = self.take_slot(listener)
        if epoll_add(self.epoll, listener.fd, listener.data, False) < 0:
            raise OSError(errno, os.strerror(errno))

    def unlisten(self):
        """Accept nobody any more."""
        self.resting = []
        for slot, entry in enumerate(self.slots):
            if isinstance(entry, Listener):
                (<Listener>entry).socket.close()
                self.drop_slot(slot)

    def accept_links(self, socket):
        """Accept the admin process and sibling workers on this unix socket."""
        self.listen(socket, None, None)

    def link(self, int fd, str role, int index=-1):
        """A Link over this connected unix socket, which the loop owns from now on."""
        cdef Link link = Link.__new__(Link)
        link.role = role
        link.index = index
        self.add_stream(link, fd)
        return link

    def use_keeper(self, Link link, uint64_t committed_until):
        """Operations go to this link; what the last keeper had not committed is sent again."""
        committed(self, max(committed_until, self.committed), None)
        self.keeper = link
        for number, frame, opened in self.batches:
            append(link, frame, len(frame))
        self.resume_wanted = True
        self.schedule()

    def use_sibling(self, Link link, int index):
        """Messages for the worker `index` go to this link; it is told our routes."""
        cdef Session session
        cdef uint32_t i
        while len(self.siblings) <= index:
            self.siblings.append(None)
        self.siblings[index] = link
        self.sibling_count += 1
        shares = set()
        for entry in self.slots:
            if isinstance(entry, Connection) and (<Connection>entry).session is not None:
                session = (<Connection>entry).session
                for i in range(session.node_count):
                    send_route(link, 1, filter_of(session.nodes[i]), 0, 0)
                shares.update(session.shares or ())
        for share, filter in shares:
            announce_group(self, share, filter)

    cdef int accept(self, Listener listener) except -1:
        cdef Peer peer
        cdef int i, fd
        for i in range(ACCEPTS):
            fd = accept_one(listener.fd, &peer.host, &peer.port)
            if fd < 0:
                if errno != EAGAIN and errno != EINTR and errno != ECONNABORTED:
                    # Out of descriptors, most likely: the tick tries again, lest this spins.
                    self.handler.accept_failed(errno)
                    epoll_remove(self.epoll, listener.fd)
                    self.resting.append(listener)
                return 0
            if listener.config is None:
                self.link(fd, "new")
            else:
                self.add_connection(listener, fd, &peer)
        return 0

    cdef int add_connection(self, Listener listener, int fd, Peer* peer) except -1:
        cdef Connection connection = Connection.__new__(Connection)
        connection.listener = listener.config
        connection.host = peer.host
        connection.port = peer.port
        self.numbers += 1
        connection.number = self.numbers
        connection.client_id = ""
        connection.problem_information = True
        connection.max_packet_out = 0xFFFFFFFF
        try:
            if listener.make_filter is not None:
                connection.filter = listener.make_filter(connection.address)
                if connection.filter is not None:
                    connection.raw = bytearray()
            self.add_stream(connection, fd)
        except Exception as error:
            c_close(fd)
            self.handler.filter_failed(connection, error)
            return 0
        self.connection_count += 1
        self.connections_of[id(listener.config)] = self.connections_at(listener.config) + 1
        self.stats[S_SOCKETS_OPENED] += 1
        wheel_put(connection, <uint32_t>self.connect_timeout_ms)
        return 0

    # -- a wake-up ------------------------------------------------------------------------------------------------------

    def wake(self):
        """Handle what epoll has, then flush; called when the epoll descriptor is readable.

        Then the next message is waited for here: by way of gevent's loop it would cost half as much again.
        """
        cdef epoll_event events[EVENTS]
        cdef int count, stay_ms
        cdef uint64_t leave_ms = 0
        self.begin_wake()
        try:
            if self.turn_wanted:
                epoll_remove(self.epoll, self.turn_event)
                self.turn_wanted = False
            self.run_again()        # who waits for a turn comes before those who only now have something to say
            count = epoll_wait(self.epoll, events, EVENTS, 0)
            while handle_events(self, events, count) and not self.callbacks:
                if leave_ms == 0:
                    stay_ms = AWAITED_MS if self.awaited else STAY_MS
                    leave_ms = self.now_ms + stay_ms
                    timer_set(self.stay_timer, stay_ms)     # a timeout would be programmed anew for each message
                elif self.now_ms >= leave_ms:
                    break
                with nogil:
                    count = epoll_wait(self.epoll, events, EVENTS, -1)
                self.begin_wake()
        finally:
            self.inside = False

    cdef int begin_wake(self) except -1:
        cdef uint64_t now_us = monotonic_us()
        self.now_ms = now_us // 1000
        self.wake_until_us = now_us + WAKE_US
        self.inside = True
        return 0

    cdef int handle_event(self, object entry, uint32_t events) except -1:
        cdef Stream stream
        if isinstance(entry, Listener):
            return self.accept(<Listener>entry)
        stream = <Stream>entry
        if events & EPOLLOUT:
            stream.writable = True
            if stream.output != NULL or (isinstance(stream, Connection) and (<Connection>stream).raw):
                touch(stream)
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            stream.ended = True
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            stream.readable = True
            self.read(stream)
        return 0

    cdef int run_again(self) except -1:
        """Streams that have more to read or to parse; once each."""
        cdef list again = self.again
        cdef Stream stream
        if not again:
            return 0
        self.again = []
        for stream in again:
            stream.again = False
            if stream.fd < 0:
                continue
            if isinstance(stream, Connection):
                (<Connection>stream).yielded = False
            if stream.input != NULL:
                self.parse(stream, stream.input.data, stream.input.end)
            if stream.readable:
                self.read(stream)
        return 0

    cdef int read(self, Stream stream) except -1:
        cdef ssize_t size
        cdef Connection connection = <Connection>stream if isinstance(stream, Connection) else None
        if connection is not None and (connection.paused or connection.yielded or connection.state == CONNECTING):
            if stream.ended and connection.state == CONNECTING:
                connection.abort()
            return 0
        if connection is not None and monotonic_us() > self.wake_until_us:     # better in the kernel than in our memory
            return yield_turn(connection)
        size = c_recv(stream.fd, self.buffer, BUFFER_SIZE, 0) if connection is not None else self.receive(<Link>stream)
        if size <= 0:
            stream.readable = False
            if size == 0 or (errno != EAGAIN and errno != EINTR):
                self.peer_ended(stream)
            return 0
        if size < BUFFER_SIZE and not stream.ended and (connection is not None or (<Link>stream).passed < 0):
            stream.readable = False     # the kernel ends a read behind a descriptor, whatever else there is
        elif not stream.again:
            stream.again = True
            self.again.append(stream)
        self.stats[S_BYTES_RECEIVED] += size
        if connection is None:
            return self.parse(stream, self.buffer, size)
        connection.last_received_ms = <uint32_t>self.now_ms
        if connection.state >= CLOSING:
            return 0
        if connection.filter is not None:
            return self.decode(connection, self.buffer[:size])
        return self.parse(stream, self.buffer, size)

    cdef ssize_t receive(self, Link link) noexcept:
        cdef int passed
        cdef ssize_t size = receive_with_descriptor(link.fd, self.buffer, BUFFER_SIZE, &passed)
        if passed >= 0:
            if link.passed >= 0:
                c_close(link.passed)
            link.passed = passed
        return size

    cdef int decode(self, Connection connection, bytes data) except -1:
        """Through TLS, WebSocket or PROXY."""
        cdef bytes plain
        try:
            plain = connection.filter.receive(data)
        except Exception as error:
            self.handler.filter_failed(connection, error)
            self.take_raw(connection)
            connection.close()
            return 0
        self.take_raw(connection)
        if connection.filter.finished:
            self.handler.filter_finished(connection)
            connection.filter = None
        if plain:
            self.parse(connection, plain, len(plain))
        return 0

    cdef int take_raw(self, Connection connection) except -1:
        cdef bytes raw = connection.filter.take()
        if raw:
            connection.raw += raw
            touch(connection)
        return 0

    cdef int parse(self, Stream stream, const char* data, size_t size) except -1:
        """Handle whole packets or frames; keep the rest."""
        cdef size_t used
        if stream.input != NULL and data != stream.input.data:
            add_input(stream, data, size)
            data = stream.input.data
            size = stream.input.end
        if isinstance(stream, Connection):
            used = read_packets(<Connection>stream, data, size)
        else:
            try:
                used = read_frames(<Link>stream, data, size)
            except Exception:
                self.handler.link_broken(stream)
                self.end_link(<Link>stream)
                return 0
            if stream.fd < 0:
                return 0
        if stream.input != NULL or used < size:
            keep_input(stream, data + used, size - used)
        return 0

    cdef int peer_ended(self, Stream stream) except -1:
        cdef Connection connection
        if isinstance(stream, Connection):
            connection = <Connection>stream
            if connection.state == CLOSING and not connection.closing:
                self.shut(connection)       # it was lingering
            else:
                connection.abort()
        else:
            self.end_link(<Link>stream)
        return 0

    # -- the end of a wake-up -------------------------------------------------------------------------------------------

    cdef int schedule(self) except -1:
        """Something was queued outside of a wake-up: finish soon."""
        if not self.scheduled:
            self.scheduled = True
            self.schedule_callback(self.finish_soon)
        return 0

    def finish_soon(self):
        self.scheduled = False
        if self.inside:
            return
        self.begin_wake()
        try:
            self.run_again()
            self.finish()
        finally:
            self.inside = False

    cdef int finish(self) except -1:
        """Pump queues, hand over batches, flush all touched streams once."""
        cdef list streams
        cdef list sessions
        cdef Stream stream
        cdef Session session
        cdef Link link
        while self.pumps or self.touched or self.ops.length:
            if self.pumps:
                sessions = self.pumps
                self.pumps = []
                for session in sessions:
                    self.pump_one(session)
            close_batch(self)
            streams = self.touched
            self.touched = []
            for stream in streams:
                stream.touched = False
                if stream.fd < 0:
                    continue
                if isinstance(stream, Connection):
                    self.flush(<Connection>stream)
                else:
                    link = <Link>stream
                    close_publishes(link)
                    if not send_output(link):
                        self.end_link(link)
                    elif link.congested and output_size(link) < LINK_HIGH_WATER // 2:
                        link.congested = False
                        self.resume_wanted = True
        if self.resume_wanted:
            self.resume_publishers()
        if self.again and not self.turn_wanted:     # by way of epoll, so that other sockets have their turn before
            self.turn_wanted = True
            epoll_add(self.epoll, self.turn_event, 0, False)
        return 0

    cdef int pump_one(self, Session session) except -1:
        try:
            pump(session)
        except Exception:
            self.stats[S_HANDLER_ERRORS] += 1
            if session.connection is not None:
                self.handler.broken(session.connection)
                session.connection.abort()
        return 0

    cdef int flush(self, Connection connection) except -1:
        cdef bint sound
        cdef Session session
        if connection.closing:
            connection.closing = False
            self.leave(connection)
        if connection.raw is not None:
            sound = self.flush_filtered(connection)
        else:
            sound = send_output(connection)
        if not sound:
            if connection.state < CLOSING:
                connection.abort()
                connection.closing = False
                self.leave(connection)
            return self.shut(connection)
        if connection.state == CLOSING:
            if connection.output == NULL and not connection.raw:
                self.linger(connection)
            return 0
        if connection.congested and backlog(connection) < self.output_max // 2:
            connection.congested = connection.stalled = False
            del self.congested[connection]
            self.resume_wanted = True
        if connection.unread and unsent(connection) < self.output_max // 2:
            connection.unread = False
            self.resume_wanted = True
        session = connection.session
        if session is not None and session.flows != NULL and connection.output == NULL:
            if session.sid == 0:
                if session.flows.pending_count:
                    send_pending(session)
            elif session.flows.read_after < session.flows.last_qseq and in_flight(session.flows) < session.receive_max:
                refill(session)
        return 0

    cdef bint flush_filtered(self, Connection connection) except -1:
        cdef ssize_t sent
        cdef const char* raw
        if connection.output != NULL and connection.filter is not None:
            try:
                connection.filter.send(connection.output.data[connection.output.start:connection.output.end])
                connection.raw += connection.filter.take()
            except Exception as error:
                self.handler.filter_failed(connection, error)
                return False
        elif connection.output != NULL:
            connection.raw += connection.output.data[connection.output.start:connection.output.end]
        free_output(connection)
        while connection.raw and connection.writable:
            raw = connection.raw
            sent = c_send(connection.fd, raw, len(connection.raw), MSG_NOSIGNAL)
            if sent > 0:
                del connection.raw[:sent]
                self.stats[S_BYTES_SENT] += sent
            elif errno == EAGAIN:
                connection.writable = False
            elif errno != EINTR:
                return False
        if not connection.raw and connection.filter is None:
            connection.raw = None
        return True

    cdef int leave(self, Connection connection) except -1:
        """The connection is over for everybody but its socket."""
        if connection.congested:
            connection.congested = False
            del self.congested[connection]
            self.resume_wanted = True
        if connection.filter is not None:
            try:
                if connection.output != NULL:
                    connection.filter.send(connection.output.data[connection.output.start:connection.output.end])
                    free_buffers(connection)
                connection.filter.close()
                if connection.raw is not None:
                    connection.raw += connection.filter.take()
            except Exception as error:
                self.handler.filter_failed(connection, error)
        wheel_put(connection, UNSENT_MS)
        try:
            self.handler.closed(connection)
        except Exception:
            self.stats[S_HANDLER_ERRORS] += 1
            self.handler.broken(connection)
        return 0

    cdef int linger(self, Connection connection) except -1:
        """Everything is sent. Wait for the peer's end, lest unread input turns our last packet into a reset."""
        if connection.ended:
            return self.shut(connection)
        c_shutdown(connection.fd, SHUT_WR)
        wheel_put(connection, LINGER_MS)
        connection.paused = False
        return self.read(connection) if connection.readable else 0

    cdef int shut(self, Connection connection) except -1:
        """Close the socket; the connection holds nothing any more."""
        if connection.fd < 0:
            return 0
        wheel_remove(connection)
        c_close(connection.fd)
        connection.fd = -1
        connection.state = CLOSED
        free_buffers(connection)
        connection.raw = None
        connection.filter = None
        self.drop_slot(connection.slot)
        self.connection_count -= 1
        self.connections_of[id(connection.listener)] -= 1
        return 0

    def force(self, Connection connection):
        """Close the socket of a connection that is out of time."""
        if connection.state < CLOSING:
            connection.abort()
        elif not connection.closing:
            self.shut(connection)

    cdef int end(self, Connection connection, int reason) except -1:
        self.handler.ended(connection, reason)
        return 0

    cdef int end_link(self, Link link) except -1:
        if link.fd < 0:
            return 0
        c_close(link.fd)
        link.fd = -1
        link.publishes = 0
        free_buffers(link)
        self.drop_slot(link.slot)
        if self.keeper is link:
            self.keeper = None
        if link.index >= 0 and link.index < len(self.siblings) and self.siblings[link.index] is link:
            self.siblings[link.index] = None
            self.sibling_count -= 1
            forget_routes(self, link.index)
            self.resume_wanted = True
        self.handler.link_closed(link)
        return 0

    cdef int resume_publishers(self) except -1:
        """Something has room again: everybody who waits may try."""
        cdef list paused = self.paused
        cdef Connection connection
        self.resume_wanted = False
        for link in self.siblings:
            if link is not None:
                release_held(<Link>link)
        self.paused = []
        for connection in paused:
            if connection.fd >= 0 and connection.paused:
                connection.paused = False
                if not connection.again:
                    connection.again = True
                    self.again.append(connection)
        return 0

    def tick(self):
        """Every half second: keep-alive, stalled subscribers, gauges."""
        cdef Connection connection
        self.begin_wake()
        try:
            wheel_turn(self)
            for listener in self.resting:
                epoll_add(self.epoll, (<Listener>listener).fd, (<Listener>listener).data, False)
            self.resting = []
            for connection, since_ms in self.congested.items():
                if self.now_ms - <uint64_t>since_ms > self.slow_ms and not connection.stalled:
                    connection.stalled = True
                    self.handler.stalled(connection)
                    self.resume_wanted = True
            if self.output_bytes < self.worker_output_max // 2 and not self.congested:
                self.resume_wanted = True
            self.run_again()
            self.finish()
        finally:
            self.inside = False
        self.stats[S_CONNECTIONS] = self.connection_count
        self.stats[S_OUTPUT_BYTES] = self.output_bytes
        self.stats[S_PAUSED] = len(self.paused)
        self.stats[S_MATCHES] = self.tree.cached
        self.stats[S_NODES] = self.tree.nodes

    # -- from Python ----------------------------------------------------------------------------------------------------

    def clock_ms(self):
        """The store clock, now."""
        return monotonic_us() // 1000 + self.clock_offset_ms

    def session(self, uint64_t sid, str client_id, str user):
        """The durable session `sid`, made if this worker does not know it yet."""
        session = self.sessions.get(sid)
        if session is None:
            session = self.sessions[sid] = Session(self, client_id, user, sid)
        return session

    def publish_will(self, bytes record, uint64_t will_id, str client_id, bint allowed):
        """Publish the will of this client, whose deletion is part of the same commit; not `allowed`: only delete it."""
        cdef Publication pub
        cdef Match* match
        if not read_record(<const char*>record, len(record), &pub):
            raise ValueError("not a message record")
        if not allowed:
            self.durable_count = 0
            pub.retain = False
            op_publish(self, &pub, 0, None, 0, will_id, 0, 0)
            return False
        match = self.tree.match(pub.topic, pub.topic_length)
        publish(self, &pub, match, None, Session(self, client_id, None), record_names(record)[1], 0, will_id)
        return True

    def redispatch(self, bytes name, bytes record, uint64_t sid, uint64_t qseq):
        """Give a durable session's shared message to another member of SHARE/FILTER."""
        share, filter = name.split(b"/", 1)
        cdef Node* node = self.tree.find(filter, len(filter))
        cdef Group* group = self.tree.group(node, share, len(share), False) if node != NULL else NULL
        cdef Publication pub
        if group == NULL or not read_record(<const char*>record, len(record), &pub):
            op_dropped(self, sid, qseq, DROP_DENIED)
            return False
        self.durable_count = 0
        pub.retain = False
        route_group(self, group, &pub, None, None, ONLINE)
        op_publish(self, &pub, 0, None, 0, 0, sid, qseq)
        self.stats[S_REDISPATCHED] += 1
        return True

    def publish_here(self, bytes topic, bytes payload):
        """QoS 0 to this worker's subscribers only: $SYS."""
        cdef Publication pub
        pub.topic = topic
        pub.topic_length = <uint32_t>len(topic)
        pub.payload = payload
        pub.payload_length = <uint32_t>len(payload)
        pub.properties = NULL
        pub.properties_length = 0
        pub.received = received_now(self)
        pub.expires_ms = 0
        pub.qos = 0
        pub.retain = False
        route_here(self, &pub, self.tree.match(topic, len(topic)))

    def group_members(self, bytes share, bytes filter):
        """[session] of the members that this worker knows."""
        cdef Node* node = self.tree.find(filter, len(filter))
        cdef Group* group = self.tree.group(node, share, len(share), False) if node != NULL else NULL
        cdef uint32_t i
        if group == NULL:
            return []
        return [<object>group.members[i].session for i in range(group.count)]

    cpdef int connections_at(self, listener):
        """Open connections of this listener's sockets."""
        return self.connections_of.get(id(listener), 0)

    def connections(self):
        return [entry for entry in self.slots if isinstance(entry, Connection)]

    def drop_session(self, Session session):
        """The store has ended it."""
        self.sessions.pop(session.sid, None)
        session.leave_tree()

    def record(self, bytes topic, bytes payload, bytes properties, str author, int qos, bint retain, expiry_s=None):
        """The message record of docs/internals.md, received now."""
        cdef Publication pub
        cdef bytes name = (author or "").encode()
        cdef bytearray out
        pub.topic = topic
        pub.topic_length = <uint32_t>len(topic)
        pub.payload = payload
        pub.payload_length = <uint32_t>len(payload)
        pub.properties = properties
        pub.properties_length = <uint32_t>len(properties)
        pub.received = received_now(self)
        pub.expires_ms = 0 if expiry_s is None else self.now_ms + self.clock_offset_ms + <uint64_t>expiry_s * 1000
        pub.qos = qos
        pub.retain = retain
        out = bytearray(record_size(&pub, <uint32_t>len(name)))
        write_record(out, &pub, name, <uint32_t>len(name))
        return bytes(out)

    @property
    def output_total(self):
        return self.output_bytes

    @property
    def uncommitted(self):
        """Operations sent or gathered whose commit was not yet reported: batches."""
        return len(self.batches) + (1 if self.ops.length else 0)


cdef bint handle_events(Loop loop, epoll_event* events, int count) except -1:
    """And flush. True if a socket had something, and nobody has yielded its turn."""
    cdef int i
    cdef uint32_t slot
    cdef bint came = False
    for i in range(count):
        slot = <uint32_t>(events[i].data.u64 & 0xFFFFFFFF)
        if slot < <uint32_t>len(loop.slots) and loop.generations[slot] == <uint32_t>(events[i].data.u64 >> 32):
            loop.handle_event(loop.slots[slot], events[i].events)
            came = True
    loop.run_again()
    loop.finish()
    return came and not loop.turn_wanted
