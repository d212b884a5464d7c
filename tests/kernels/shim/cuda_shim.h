// Runs CUDA kernels on the CPU: blocks one after another, up, down or mixed; the threads of a block as
// fibers, in random orders, some of which let a warp run far ahead.
//
// What a GPU leaves undefined shows here. A barrier or a shuffle that not all its threads reach, a misaligned
// access, one behind the end of an array and a write behind the shared memory are errors; what a block did not
// write to its shared memory is NaN, and so is what a shuffle takes from a lane outside its mask or the block.
// races.h sees accesses that nothing orders.
#pragma once
#include <math.h>
#include <numeric>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ __attribute__((weak))  // no local variable can be weak: shared memory has to be extern

struct Index {
    unsigned x;
};
Index threadIdx, blockIdx, blockDim, gridDim;

constexpr unsigned SHARED_WORDS = 227 * 1024 / 4, GUARD_WORDS = 256;
extern __shared__ float shared[];
alignas(128) float shared[SHARED_WORDS + GUARD_WORDS];

inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }

#include "races.h"

namespace shim {

constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK_BYTES = 65 << 10;  // not a power of two: else all stacks meet in the same cache lines
constexpr uint32_t GUARD = 0x7fbadbad;    // a NaN too

struct Place {
    const char* file;
    int line;
};

enum class State { READY, AT_BARRIER, AT_SHUFFLE, EXITED };

struct Thread {
    State state;
    Place place;     // where it waits
    unsigned mask;   // of its shuffle
    unsigned given;  // to the shuffle that it waits for
    unsigned taken;  // by the lanes of the last shuffle that went through
    bool voted;      // at the barrier that it waits for
    bool started;
    void* resume[5];  // of __builtin_setjmp

    bool waits_with(const Thread& other) const {
        return state == other.state && mask == other.mask && place.line == other.place.line;
    }
};

template <typename... Values>
void fail(const char* format, Values... values);

char* const stacks = static_cast<char*>(mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
Thread threads[MAX_THREADS];
Thread* self;
unsigned ready[MAX_THREADS], number_ready, number_at_barrier, number_exited;
bool any_voted;  // at the last barrier that went through
unsigned candidates;  // how many of those made ready last the next thread is drawn from
uint64_t random_bits;
void* scheduler[5];
const void *kernel, *params;
char error[400];

void run_thread();  // calls `kernel` with `params`, whose type the kernel file has to declare first
extern const size_t params_bytes;

unsigned random(unsigned end) {
    random_bits ^= random_bits << 13;
    random_bits ^= random_bits >> 7;
    random_bits ^= random_bits << 17;
    return (random_bits >> 32) * end >> 32;
}

// Like all that jumps away, blind to ASan, which would wait for the end of a frame that is left for good.
__attribute__((noinline, no_sanitize("address"))) void to_scheduler() { __builtin_longjmp(scheduler, 1); }

template <typename... Values>
void fail(const char* format, Values... values) {
    if (!*error) snprintf(error, sizeof error, format, values...);
    for (Thread& thread : threads) thread.started = false;  // they are in the middle of the kernel
    to_scheduler();
}

// Of the threads that wait, the first that waits in vain.
void fail_stuck() {
    for (unsigned i = 0; i < blockDim.x; ++i) {
        const Thread& one = threads[i];
        if (one.state != State::AT_BARRIER && one.state != State::AT_SHUFFLE) continue;
        for (unsigned j = 0; j < blockDim.x; ++j) {
            const Thread& other = threads[j];
            if (one.waits_with(other)) continue;
            if (one.state == State::AT_SHUFFLE && (i / 32 != j / 32 || !(one.mask >> j % 32 & 1))) continue;
            const char* const what = one.state == State::AT_BARRIER ? "barrier" : "shuffle";
            if (other.state == State::EXITED)
                fail("%s:%d: thread %u of block %u waits at this %s for thread %u, which has exited",
                     one.place.file, one.place.line, i, blockIdx.x, what, j);
            fail("%s:%d: thread %u of block %u waits at this %s for thread %u, which waits at %s:%d",
                 one.place.file, one.place.line, i, blockIdx.x, what, j, other.place.file, other.place.line);
        }
    }
    fail("block %u is stuck", blockIdx.x);
}

void leave();

void fiber() {
    for (;;) {
        run_thread();
        self->state = State::EXITED;
        ++number_exited;
        leave();  // until the next block
    }
}

__attribute__((noinline, no_sanitize("address"))) void start() {
    self->started = true;
    char* const stack = stacks + threadIdx.x * STACK_BYTES;
    ASAN_UNPOISON_MEMORY_REGION(stack, STACK_BYTES);  // of what a failed launch has left there
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&context, fiber, 0);
    setcontext(&context);
}

__attribute__((noinline, no_sanitize("address"))) void run_another() {
    if (!number_ready) {
        if (number_exited < blockDim.x) fail_stuck();
        to_scheduler();
    }
    unsigned& pick = ready[number_ready - 1 - random(candidates < number_ready ? candidates : number_ready)];
    threadIdx.x = pick;
    pick = ready[--number_ready];
    self = &threads[threadIdx.x];
    if (!self->started) start();
    __builtin_longjmp(self->resume, 1);
}

// Returns when this thread is ready again and its turn has come.
__attribute__((noinline)) void leave() {
    if (!__builtin_setjmp(self->resume)) run_another();
}

void make_ready(unsigned thread) {
    threads[thread].state = State::READY;
    ready[number_ready++] = thread;
}

// They are drawn from all at once, from a few at a time, or one after another: then a warp can run far ahead.
void make_all_ready() {
    const unsigned first = random(blockDim.x), down = random(2);
    for (unsigned i = 0; i < blockDim.x; ++i) {
        const unsigned thread = (first + i) % blockDim.x;
        make_ready(down ? blockDim.x - 1 - thread : thread);
    }
    candidates = blockDim.x >> random(8) | 1;
}

void wait(State state, Place place, unsigned mask) {
    self->state = state;
    self->place = place;
    self->mask = mask;
}

// Whether any thread has come with a vote.
bool barrier(Place place, bool vote) {
    wait(State::AT_BARRIER, place, 0);
    self->voted = vote;
    if (++number_at_barrier == blockDim.x) {
        any_voted = false;
        for (unsigned i = 0; i < blockDim.x; ++i) {
            if (!threads[i].waits_with(*self)) fail_stuck();
            any_voted |= threads[i].voted;
        }
        make_all_ready();
        number_at_barrier = 0;
        races::barrier();
    }
    leave();
    return any_voted;
}

// Waits for the lanes of `mask`; what each has given can be taken then.
void exchange(unsigned mask, unsigned given, Place place) {
    const unsigned lane = threadIdx.x % 32, first = threadIdx.x - lane;
    if (blockDim.x - first < 32) mask &= (1u << (blockDim.x - first)) - 1;
    if (!(mask >> lane & 1))
        fail("%s:%d: thread %u is not in the mask of its own shuffle", place.file, place.line, threadIdx.x);
    wait(State::AT_SHUFFLE, place, mask);
    self->given = given;
    unsigned waiting = 0;
    while (waiting < 32 && (!(mask >> waiting & 1) || threads[first + waiting].waits_with(*self))) ++waiting;
    if (waiting == 32) {
        for (unsigned i = 0; i < 32; ++i) {
            if (!(mask >> i & 1)) continue;
            threads[first + i].taken = threads[first + i].given;
            make_ready(first + i);
        }
    }
    leave();
}

// Not inlined, and blind to ASan, which has the guard words poisoned.
__attribute__((noinline, no_sanitize("address"))) bool guard(unsigned begin, bool write) {
    volatile uint32_t* words = reinterpret_cast<uint32_t*>(shared);
    for (unsigned i = begin; i < begin + GUARD_WORDS; ++i) {
        if (write) words[i] = GUARD;
        if (words[i] != GUARD) return false;
    }
    return true;
}

__attribute__((noinline)) void run_block() {
    number_ready = number_at_barrier = number_exited = 0;
    make_all_ready();
    races::begin_block();
    if (!__builtin_setjmp(scheduler)) run_another();
    races::end_block();
}

}  // namespace shim

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    shim::barrier({file, line}, false);
}

inline int __syncthreads_or(int predicate, const char* file = __builtin_FILE(),
                            int line = __builtin_LINE()) {
    return shim::barrier({file, line}, predicate);
}

inline void __threadfence() { shim::races::fence(); }

UNWATCHED inline unsigned atomicInc(unsigned* address, unsigned last) {
    shim::races::atomic(address);
    const unsigned old = *address;
    *address = old >= last ? 0 : old + 1;
    return old;
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
    static_assert(sizeof(T) == sizeof(unsigned));
    shim::exchange(mask, __builtin_bit_cast(unsigned, value), {file, line});
    const unsigned from = threadIdx.x ^ lanes;
    return __builtin_bit_cast(T, shim::self->mask >> from % 32 & 1 ? shim::threads[from].taken : ~0u);
}

// Runs the blocks from `first` until before `end`. The error, or null. The caller has checked the geometry.
extern "C" const char* shim_launch(const void* kernel, unsigned grid, unsigned first, unsigned end,
                                   unsigned block, unsigned shared_bytes, uint64_t seed, const void* params) {
    using namespace shim;
    shim::kernel = kernel;
    shim::params = params;
    gridDim.x = grid;
    blockDim.x = block;
    random_bits = seed;
    *error = 0;
    races::begin_launch(shared, shared_bytes);
    guard(shared_bytes / 4, true);
    ASAN_POISON_MEMORY_REGION(shared + shared_bytes / 4, GUARD_WORDS * 4);
    const unsigned number = end - first;
    unsigned step = seed >> 63 ? 1 : 1 + random(number);  // without a common divisor: all blocks are met
    while (std::gcd(step, number) != 1) --step;
    unsigned next = random(number);
    for (unsigned i = 0; i < number && !*error; ++i) {
        blockIdx.x = first + (seed >> 62 & 1 ? number - 1 - next : next);
        next = (next + uint64_t{step}) % number;
        memset(shared, 0xff, shared_bytes);
        run_block();
        if (!*error && !guard(shared_bytes / 4, false))
            snprintf(error, sizeof error, "block %u wrote behind its %u bytes of shared memory", blockIdx.x,
                     shared_bytes);
    }
    ASAN_UNPOISON_MEMORY_REGION(shared + shared_bytes / 4, GUARD_WORDS * 4);
    return *error ? error : nullptr;
}

#ifndef __SANITIZE_ADDRESS__
// What code compiled with -fsanitize=alignment,bounds calls.
extern "C" void __ubsan_handle_type_mismatch_v1(const shim::Place* place, const void* address) {
    shim::fail("%s:%d: thread %u of block %u accesses %p, which is misaligned", place->file, place->line,
               threadIdx.x, blockIdx.x, address);
}
extern "C" void __ubsan_handle_out_of_bounds(const shim::Place* place, uintptr_t index) {
    shim::fail("%s:%d: thread %u of block %u goes to %lu in an array that is shorter", place->file, place->line,
               threadIdx.x, blockIdx.x, index);
}
#endif

extern "C" size_t shim_params_bytes() { return shim::params_bytes; }
