# What was measured: latencies in log-linear histograms, and for each receiver and publisher what came, twice, late or never.

cdef enum:
    HISTOGRAM_BUCKETS = 32768   # 1024 for each power of two: three significant digits, up to 2^41 ns


cdef struct Histogram:
    uint64_t count
    uint64_t sum
    uint64_t least
    uint64_t most
    uint64_t* buckets


cdef inline void record(Histogram* h, uint64_t value) noexcept nogil:
    cdef uint32_t shift = 0 if value < 2048 else 53 - count_leading_zeros(value)
    cdef uint64_t bucket = shift * 1024 + (value >> shift)
    h.buckets[min(bucket, HISTOGRAM_BUCKETS - 1)] += 1
    h.count += 1
    h.sum += value
    if value > h.most:
        h.most = value
    if value < h.least:
        h.least = value


cdef uint64_t value_at(Histogram* h, double quantile) noexcept:
    """The least value that `quantile` of the recorded ones do not exceed, to three digits."""
    cdef uint64_t rank = max(1, <uint64_t>(quantile * h.count + 0.5)), seen = 0, bucket, shift
    for bucket in range(HISTOGRAM_BUCKETS):
        seen += h.buckets[bucket]
        if seen >= rank:
            shift = 0 if bucket < 2048 else bucket // 1024 - 1
            return min(h.most, ((bucket - shift * 1024 + 1) << shift) - 1)
    return h.most


cdef struct Range:
    uint64_t start
    uint64_t end


cdef struct Flow:               # from one publisher to one receiver
    uint32_t publisher          # its number + 1; 0: a free place in the table
    uint32_t gap_count
    uint32_t gap_capacity
    uint64_t next               # sequence number
    Range* gaps                 # below `next`, in order: what has not come


cdef Flow* flow_of(Connection* c, uint32_t publisher, bint* new) noexcept nogil:
    """An open-addressed table: 10,000 receivers of one publisher cost as little as one of 10,000."""
    cdef uint32_t place
    new[0] = False
    if c.flow_capacity:
        place = publisher & (c.flow_capacity - 1)
        while c.flows[place].publisher:
            if c.flows[place].publisher == publisher + 1:
                return &c.flows[place]
            place = (place + 1) & (c.flow_capacity - 1)
    if c.flow_count * 2 >= c.flow_capacity:
        grow_flows(c)
    new[0] = True
    c.flow_count += 1
    place = publisher & (c.flow_capacity - 1)
    while c.flows[place].publisher:
        place = (place + 1) & (c.flow_capacity - 1)
    c.flows[place].publisher = publisher + 1
    return &c.flows[place]


cdef void grow_flows(Connection* c) noexcept nogil:
    cdef Flow* old = c.flows
    cdef uint32_t count = c.flow_capacity, i, place
    c.flow_capacity = max(2, count * 2)
    c.flows = <Flow*>need(calloc(c.flow_capacity, sizeof(Flow)))
    for i in range(count):
        if old[i].publisher:
            place = (old[i].publisher - 1) & (c.flow_capacity - 1)
            while c.flows[place].publisher:
                place = (place + 1) & (c.flow_capacity - 1)
            c.flows[place] = old[i]
    free(old)


cdef void add_gap(Flow* flow, uint64_t start, uint64_t end) noexcept nogil:
    if flow.gap_count == flow.gap_capacity:
        flow.gap_capacity = max(4, flow.gap_capacity * 2)
        flow.gaps = <Range*>need(realloc(flow.gaps, flow.gap_capacity * sizeof(Range)))
    flow.gaps[flow.gap_count] = Range(start, end)
    flow.gap_count += 1


cdef bint fill_gap(Flow* flow, uint64_t sequence) noexcept nogil:
    """True if `sequence` was missing until now; False: a duplicate."""
    cdef uint32_t low = 0, high = flow.gap_count, middle
    cdef Range* gap
    cdef uint64_t end
    while low < high:
        middle = (low + high) // 2
        if flow.gaps[middle].end <= sequence:
            low = middle + 1
        else:
            high = middle
    if low == flow.gap_count or flow.gaps[low].start > sequence:
        return False
    gap = &flow.gaps[low]
    if gap.start == sequence:
        gap.start += 1
        if gap.start == gap.end:
            flow.gap_count -= 1
            memmove(gap, gap + 1, (flow.gap_count - low) * sizeof(Range))
        return True
    end = gap.end
    gap.end = sequence
    if end > sequence + 1:
        add_gap(flow, 0, 0)     # room; then shift the later ones behind the new range
        memmove(flow.gaps + low + 2, flow.gaps + low + 1, (flow.gap_count - low - 2) * sizeof(Range))
        flow.gaps[low + 1] = Range(sequence + 1, end)
    return True


cdef void enter(Load load, Connection* c, const char* payload, size_t length) noexcept nogil:
    """A received message into the ledger; its publisher may send another for each that came or never will."""
    cdef Header header
    cdef Flow* flow
    cdef bint new
    cdef uint64_t credit = 1
    if length < sizeof(Header):
        load.counts[FOREIGN] += 1
        return
    memcpy(&header, payload, sizeof(Header))
    if header.run != load.run:
        load.counts[FOREIGN] += 1
        return
    load.counts[RECEIVED] += 1
    if load.started_ns == 0:
        load.started_ns = load.now_ns
    flow = flow_of(c, header.publisher, &new)
    if new and load.joins:
        flow.next = header.sequence
    if header.sequence == flow.next:
        flow.next += 1
    elif header.sequence > flow.next:
        credit += header.sequence - flow.next
        load.counts[MISSING] += header.sequence - flow.next
        add_gap(flow, flow.next, header.sequence)
        flow.next = header.sequence + 1
    elif fill_gap(flow, header.sequence):
        credit = 0
        load.counts[MISSING] -= 1
        load.counts[REORDERED] += 1
    else:
        load.counts[DUPLICATES] += 1
        return
    record(&load.histograms[DELIVERY], load.now_ns - header.sent_ns if load.now_ns > header.sent_ns else 0)
    if credit and header.publisher - load.first_publisher < load.publisher_count:
        return_credit(load, load.publishers[header.publisher - load.first_publisher], credit)
