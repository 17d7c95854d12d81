from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from node.core.slots cimport Slots
from node.core.topics cimport Group, Match, Node, Target, TopicTree
from node.core.window cimport Message, PacketIds, Window

cdef extern from "<netinet/in.h>":
    cdef struct in6_addr:
        uint8_t s6_addr[16]

cdef struct Publication:    # a publish on its way, wherever its bytes lie
    const char* topic
    const char* properties
    const char* payload
    uint32_t topic_length
    uint32_t properties_length
    uint32_t payload_length
    uint64_t received       # see received_now
    uint64_t expires_ms     # store clock, 0: never
    uint8_t qos
    bint retain

cdef struct Peer:
    in6_addr host
    uint16_t port           # 0: on a unix socket

cdef struct Frame:          # an encoded PUBLISH that several targets get
    char* data
    uint32_t length
    uint32_t capacity
    uint32_t packet_id_at   # 0: QoS 0
    bint built

cdef struct Ack:            # an acknowledgement that waits for a commit
    void* connection        # a counted reference
    uint64_t batch
    uint64_t qseq
    uint32_t op
    uint16_t packet_id
    uint8_t kind
    uint8_t reason

cdef struct Pending:        # a delivery that waits for room in the window of a live session
    Message* message
    uint32_t* identifiers
    Group* group
    uint64_t permit_version # of the rules by which it was judged
    uint16_t identifier_count
    uint8_t options         # bits 0-1 QoS, 2 retain

cdef struct Block:          # what waits in a stream's input or output: there is one only while there are such bytes
    size_t start
    size_t end
    size_t capacity
    char data[1]

cdef struct Flows:          # of a session that has or had QoS 1 or 2 under way, or is durable and attached
    Window window
    Window earlier          # durable: what is open still of numbers far below, from before another host took the session over
    PacketIds* packet_ids
    Pending* pending
    uint32_t pending_first
    uint32_t pending_count
    uint32_t pending_capacity
    bint unsure_ids         # durable: the client may have ended some of these flows at a host that we cannot ask
    uint32_t inherited_ids  # packet ids that there were when it was attached: the client's quota begins anew [MQTT-4.9.0-1]
    uint64_t pending_bytes
    uint64_t next_qseq      # live
    uint64_t read_after     # durable: read from the queue up to here
    uint64_t last_qseq      # durable: the queue goes up to here, as far as known
    uint64_t resent_until   # durable: up to here a delivery may be a repetition

cdef struct Buffer:
    char* data
    size_t length
    size_t capacity

cdef struct DurableTarget:
    void* session
    uint32_t* identifiers
    Group* group            # the shared subscription that chose it, or NULL
    uint8_t identifier_count
    uint8_t options

cdef struct Permits:        # what this client may publish
    uint64_t version        # of the rules by which it was judged
    uint64_t keys[32]       # of topic, QoS and retain

cdef struct Alias:
    char* topic
    uint32_t length

# An idle client has one Connection and one live Session: each byte of these counts. What only busy ones need is behind a pointer.

ctypedef uint8_t flag       # a bint of one byte

cdef class Stream:
    cdef Loop loop
    cdef readonly int fd
    cdef uint32_t slot
    cdef Block* input
    cdef Block* output
    cdef flag readable
    cdef flag writable
    cdef flag ended         # the peer has shut its side down
    cdef flag touched
    cdef flag again
    cdef flag congested
    cdef uint8_t unanswered     # SUBSCRIBE and UNSUBSCRIBE packets of a client; in Connection it would cost 8 bytes

cdef class Connection(Stream):
    cdef readonly uint64_t number
    cdef readonly Session session
    cdef readonly object listener
    cdef public object filter
    cdef bytearray raw          # what the filter has to write
    cdef public object handshake    # the handlers' own, until CONNACK
    cdef public str client_id   # "" until CONNECT
    cdef public str user
    cdef public str end_reason  # None: nobody has said why
    cdef str name               # in place of the address, if it is not that of the socket
    cdef in6_addr host          # the peer's; an IPv4 address in the mapped form
    cdef uint16_t port
    cdef readonly uint16_t keepalive_s
    cdef uint16_t alias_in_max
    cdef uint16_t alias_out_max
    cdef public uint32_t max_packet_out     # what the client takes [MQTT-3.1.2-24]
    cdef public uint32_t expiry_s   # of its session
    cdef readonly uint32_t connected_at     # seconds since the epoch
    cdef uint32_t waiting_acks
    cdef uint32_t waiting_pubacks
    cdef uint32_t last_received_ms  # these two by the lower 32 bits of the clock: compare differences
    cdef uint32_t deadline_ms
    cdef uint8_t state
    cdef public uint8_t version
    cdef flag closing           # once the output is flushed
    cdef flag paused
    cdef flag unread            # paused, because it does not read its acknowledgements
    cdef flag yielded           # has had its time, packets wait in the input for its next turn
    cdef flag stalled
    cdef public flag claimed    # the keeper knows this connection as the owner of the client id
    cdef public flag certified  # its user is that of a certificate, whatever becomes of passwords
    cdef public flag has_will
    cdef public flag normal_end     # DISCONNECT with reason 0: no will
    cdef public flag problem_information    # the client wants reason strings
    cdef Permits* permits
    cdef Alias* aliases
    cdef dict aliases_out
    cdef void* wheel_next
    cdef void** wheel_place     # what points to this connection in the wheel, NULL: it is not there

cdef class Session:
    cdef Loop loop
    cdef readonly uint64_t sid
    cdef readonly str client_id
    cdef public str user
    cdef Connection connection
    cdef Node** nodes
    cdef uint32_t node_count
    cdef uint32_t node_capacity
    cdef public dict shares         # {(share, filter): options}, None while there is none
    cdef Flows* flows
    cdef uint32_t receive_max
    cdef flag pump_wanted
    cdef public flag online         # durable: connected to some worker

cdef class Link(Stream):
    cdef readonly str role          # "keeper", "worker" or "admin"
    cdef readonly int index         # of the sibling worker
    cdef public object context
    cdef uint32_t publishes         # bytes of the open PUBLISH frame, 0: none is open
    cdef int open_slot              # in which it is; -1: at the end of the output
    cdef Slots slots                # memory with a sibling; None: none
    cdef int passed                 # descriptor that came over the socket; -1: none
    cdef uint64_t topic             # of the last message in it (Match.number); 0: it cannot be repeated
    cdef set held                   # topics whose publishers the sibling wants to wait
    cdef uint32_t held_count
    cdef set holding                # those that we told it

cdef class Loop:
    cdef readonly TopicTree tree
    cdef readonly dict sessions     # sid -> durable Session, attached or not
    cdef int epoll
    cdef readonly object handler
    cdef list slots
    cdef uint32_t* generations
    cdef uint32_t generation_capacity
    cdef list free_slots
    cdef list touched
    cdef list again
    cdef list paused
    cdef dict congested         # connection -> since when, ms
    cdef list pumps
    cdef list resting           # listeners that could not accept
    cdef list siblings              # Link or None, by index
    cdef Link keeper
    cdef char* buffer               # one receive at a time, shared by all
    cdef char* scratch
    cdef size_t scratch_capacity
    cdef Frame frames[4]
    cdef DurableTarget* durable     # targets in the store of the publish at work
    cdef uint32_t durable_count
    cdef uint32_t durable_capacity
    cdef uint64_t* stats
    cdef object stats_view
    cdef readonly uint64_t now_ms
    cdef public uint64_t clock_offset_ms
    cdef uint64_t numbers
    cdef readonly uint64_t connection_count
    cdef dict connections_of    # id of a listener's configuration -> its connections
    cdef uint64_t output_bytes
    cdef bint blocked               # the publisher at work has to wait
    cdef bint overfull              # the message at work reached a subscriber that does not keep up
    cdef bint resume_wanted
    cdef bint inside                # a wake-up is running: who asks for a flush need not
    cdef bint scheduled
    cdef object schedule_callback
    cdef object callbacks
    cdef unsigned int awaited        # greenlets for which clients wait
    cdef int stay_timer             # in the epoll set; set by `wake`, edge-triggered and never read
    cdef int turn_event             # an eventfd that is always readable: in the epoll set while somebody has yielded
    cdef bint turn_wanted
    cdef uint64_t wake_until_us     # from then on, each connection has one packet handled and yields
    # operations for the keeper
    cdef Buffer ops
    cdef uint32_t ops_count
    cdef uint64_t batch             # number of the open batch
    cdef uint64_t committed
    cdef object batches             # deque of (number, frame bytes, opened us), sent but not committed
    cdef uint64_t unacked_bytes
    cdef uint64_t opened_us
    cdef Ack* acks
    cdef uint64_t ack_first
    cdef uint64_t ack_end
    cdef uint64_t ack_mask
    # limits and policies
    cdef public bint allows_all
    cdef public bint refuses_publish        # cluster.allow_during_split
    cdef readonly dict replays      # {session: {replay that runs: topics}}, see replaced()
    cdef public uint64_t permit_version
    cdef public object authorize    # callable(connection, topic, qos, retain) -> bool
    cdef public object reader       # storage reader
    cdef uint32_t max_packet
    cdef uint32_t max_connect
    cdef uint32_t levels_max
    cdef uint32_t topic_max
    cdef uint32_t user_properties_max
    cdef uint32_t receive_max
    cdef uint16_t alias_max
    cdef uint64_t output_max
    cdef uint64_t worker_output_max
    cdef uint64_t slow_ms
    cdef uint64_t message_expiry_ms
    cdef uint64_t connect_timeout_ms
    cdef uint8_t share_strategy
    cdef void* wheel[256]
    cdef uint64_t wheel_second
    cdef uint64_t random
    cdef uint64_t serial            # of the last message that came in, above RECEIVED_BITS
    cdef int sibling_count

    cdef uint64_t take_slot(self, object stream) except 0
    cdef void drop_slot(self, uint32_t slot)
    cdef int add_stream(self, Stream stream, int fd) except -1
    cdef int accept(self, Listener listener) except -1
    cpdef int connections_at(self, listener)
    cdef int add_connection(self, Listener listener, int fd, Peer* peer) except -1
    cdef int handle_event(self, object entry, uint32_t events) except -1
    cdef int begin_wake(self) except -1
    cdef int run_again(self) except -1
    cdef int read(self, Stream stream) except -1
    cdef ssize_t receive(self, Link link) noexcept
    cdef int decode(self, Connection connection, bytes data) except -1
    cdef int take_raw(self, Connection connection) except -1
    cdef int parse(self, Stream stream, const char* data, size_t size) except -1
    cdef int peer_ended(self, Stream stream) except -1
    cdef int schedule(self) except -1
    cdef int finish(self) except -1
    cdef int pump_one(self, Session session) except -1
    cdef int flush(self, Connection connection) except -1
    cdef bint flush_filtered(self, Connection connection) except -1
    cdef int leave(self, Connection connection) except -1
    cdef int linger(self, Connection connection) except -1
    cdef int shut(self, Connection connection) except -1
    cdef int end(self, Connection connection, int reason) except -1
    cdef int end_link(self, Link link) except -1
    cdef int resume_publishers(self) except -1

cdef class Listener:
    cdef readonly object socket
    cdef int fd
    cdef readonly object config
    cdef object make_filter
    cdef uint64_t data
