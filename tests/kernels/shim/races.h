// Data races: two accesses to the same memory by two threads, of which one at least writes, that nothing
// orders. With WATCH_RACES the compiler calls a function here at each access, as for ThreadSanitizer.
//
// A barrier orders what the threads of a block do before it and behind it. From block to block an order comes
// of a thread that makes a fence and then counts on, and of another that counts on with the same counter after
// it and then makes a fence: what the first has done or seen before its fence is before what the other does
// behind its own. The order in which the blocks were run counts for nothing, as a GPU may take any other: so a
// missing fence shows, although everything here happens one after another.
#pragma once

#ifndef WATCH_RACES
#define UNWATCHED
namespace shim::races {
inline void begin_launch(const void*, unsigned) {}
inline void begin_block() {}
inline void end_block() {}
inline void barrier() {}
inline void fence() {}
inline void atomic(const void*) {}
}  // namespace shim::races
#else

#define UNWATCHED __attribute__((no_sanitize("thread")))

extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[];  // of this library

namespace shim {

template <typename... Values>
void fail(const char* format, Values... values);
extern char* const stacks;

namespace races {

constexpr uintptr_t CELL_BYTES = 2;  // the smallest scalar
constexpr size_t ALL_STACKS = 1024 * (size_t{65} << 10);
constexpr unsigned MAX_BLOCKS = 1024, MAX_COUNTERS = 2048, MAX_FENCES = 16;
constexpr size_t CELLS = size_t{1} << 22, SHARED_CELLS = (227 * 1024) / CELL_BYTES;

struct Access {
    unsigned block, thread, interval;  // between two barriers
    uint64_t time;                     // 0: there was none
};

struct Cell {
    uintptr_t index;  // its address / CELL_BYTES
    uint64_t since;   // when the launch or, in shared memory, the block began; else it is another's
    Access write, read;  // the last
};

// What is known of a block: all that it did in earlier intervals, and what one thread did before a time.
struct Seen {
    unsigned interval, thread;
    uint64_t time;
};

struct Counter {
    const void* address;
    Seen published[MAX_BLOCKS];
};

struct Fence {
    unsigned thread, interval;
    Seen seen[MAX_BLOCKS];
};

bool watching;  // between the start and the end of a block
unsigned interval;
uint64_t now, launch_began, block_began;
uintptr_t shared_begin, shared_end;
Cell cells[CELLS], shared_cells[SHARED_CELLS];
Counter counters[MAX_COUNTERS];
Fence acquired[MAX_FENCES];  // by this block
unsigned number_of_counters, number_of_acquired;
// Of the thread of this block that counts: what it has seen at counters since its last fence, and what that
// made ready to be seen.
Seen observed[MAX_BLOCKS], released[MAX_BLOCKS];
bool has_observed, has_released;

UNWATCHED inline void join(Seen* mine, const Seen* other) {
    for (unsigned block = 0; block < gridDim.x; ++block)
        if (other[block].time > mine[block].time) mine[block] = other[block];
}

UNWATCHED inline void forget(Seen* seen) { memset(seen, 0, gridDim.x * sizeof *seen); }

UNWATCHED inline void begin_launch(const void* shared, unsigned shared_bytes) {
    shared_begin = reinterpret_cast<uintptr_t>(shared);
    shared_end = shared_begin + shared_bytes;
    launch_began = ++now;
    number_of_counters = 0;
}

UNWATCHED inline void begin_block() {
    if (gridDim.x > MAX_BLOCKS) fail("%u blocks are more than races.h can watch", gridDim.x);
    block_began = ++now;
    number_of_acquired = interval = 0;
    has_observed = has_released = false;
    watching = true;
}

UNWATCHED inline void end_block() { watching = false; }

UNWATCHED inline void barrier() { ++interval; }

UNWATCHED inline bool in_turn(const Fence& fence) {
    return fence.thread == threadIdx.x || fence.interval < interval;
}

// Whether it was before what the thread in whose turn we are does now.
UNWATCHED inline bool is_before(const Access& access) {
    if (access.block == blockIdx.x) return access.thread == threadIdx.x || access.interval < interval;
    for (unsigned i = 0; i < number_of_acquired; ++i) {
        const Seen& seen = acquired[i].seen[access.block];
        const bool by_barrier = access.interval < seen.interval;
        const bool by_itself = access.thread == seen.thread && access.time < seen.time;
        if (in_turn(acquired[i]) && (by_barrier || by_itself)) return true;
    }
    return false;
}

UNWATCHED inline void fence() {
    if (has_observed) {
        if (number_of_acquired == MAX_FENCES) fail("more fences than races.h can watch");
        Fence& fence = acquired[number_of_acquired++];
        fence.thread = threadIdx.x;
        fence.interval = interval;
        memcpy(fence.seen, observed, gridDim.x * sizeof *observed);
        has_observed = false;
    }
    forget(released);
    for (unsigned i = 0; i < number_of_acquired; ++i)
        if (in_turn(acquired[i])) join(released, acquired[i].seen);
    released[blockIdx.x] = {interval, threadIdx.x, ++now};
    has_released = true;
}

UNWATCHED inline void atomic(const void* address) {
    unsigned i = 0;
    while (i < number_of_counters && counters[i].address != address) ++i;
    if (i == MAX_COUNTERS) fail("more counters than races.h can watch");
    if (i == number_of_counters) {
        ++number_of_counters;
        counters[i].address = address;
        forget(counters[i].published);
    }
    if (!has_observed) forget(observed);
    has_observed = true;
    join(observed, counters[i].published);
    if (has_released) join(counters[i].published, released);
}

UNWATCHED inline Cell& cell_of(uintptr_t index, bool is_shared) {
    const uint64_t began = is_shared ? block_began : launch_began;
    size_t place = is_shared ? index - shared_begin / CELL_BYTES : index * 0x9e3779b97f4a7c15 >> 42;
    while (!is_shared && cells[place].since == began && cells[place].index != index)
        place = (place + 1) % CELLS;
    Cell& cell = is_shared ? shared_cells[place] : cells[place];
    if (cell.since != began) {
        cell.index = index;
        cell.since = began;
        cell.write.time = cell.read.time = 0;
    }
    return cell;
}

UNWATCHED inline void access(const void* address, size_t bytes, bool writes) {
    const auto begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
    const auto stacks_begin = reinterpret_cast<uintptr_t>(stacks);
    const bool is_shared = begin >= shared_begin && begin < shared_end;
    const bool is_stack = begin >= stacks_begin && begin < stacks_begin + ALL_STACKS;
    const bool is_ours = address >= __bss_start && address < _end && !is_shared;
    if (!watching || is_stack || is_ours) return;
    const Access access{blockIdx.x, threadIdx.x, interval, ++now};
    for (uintptr_t index = begin / CELL_BYTES; index * CELL_BYTES < end; ++index) {
        Cell& cell = cell_of(index, is_shared);
        const bool after_write = !cell.write.time || is_before(cell.write);
        const bool after_read = !writes || !cell.read.time || is_before(cell.read);
        if (!after_write || !after_read) {
            const Access& other = after_write ? cell.read : cell.write;
            watching = false;
            fail("thread %u of block %u %s what thread %u of block %u %s, in no order", threadIdx.x,
                 blockIdx.x, writes ? "writes" : "reads", other.thread, other.block,
                 after_write ? "reads" : "writes");
        }
        (writes ? cell.write : cell.read) = access;
    }
}

}  // namespace races
}  // namespace shim

#define HOOK(name, bytes, writes) \
    UNWATCHED void __tsan_##name##bytes(void* address) { shim::races::access(address, bytes, writes); }
#define ACCESSES(bytes)                  \
    HOOK(read, bytes, false)             \
    HOOK(write, bytes, true)             \
    HOOK(unaligned_read, bytes, false)   \
    HOOK(unaligned_write, bytes, true)
extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
UNWATCHED void __tsan_read_range(void* address, size_t bytes) { shim::races::access(address, bytes, false); }
UNWATCHED void __tsan_write_range(void* address, size_t bytes) { shim::races::access(address, bytes, true); }
UNWATCHED void __tsan_init() {}
UNWATCHED void __tsan_func_entry(void*) {}
UNWATCHED void __tsan_func_exit() {}
}
#undef ACCESSES
#undef HOOK
#endif
