// Group normalization, y = act((x - mean) * rstd * weight + bias [+ residual]), and its derivative.
//
// Macros: SCALAR, the type of x; VECTOR, how many scalars one access moves; CHANNELS_LAST, 1 for (N, sites, C)
// in memory and 0 for (N, C, sites). The sites of a clip are T * H * W.
//
// VECTOR divides the rows of memory. Where it does not divide the channels, and these are last, a row is as
// many sites as it takes: 4 of 54 channels each for a VECTOR of 8. The 216 scalars of such a row are its
// `places`, each of the channel that it is modulo 54, and what is called a site below is the row. Else, the
// places are the channels.
//
// Every pass over a tensor has the same shape. The sites are cut into `chunks`, the places into `columns`, and
// one block has one chunk of one column of one sample. Its width * depth threads are `width` lanes, each with
// a few places of its own (SLOTS of them, whose parameters stay in registers), and `depth` ranks that share
// those places and take turns on the chunk's sites. So the grid fills a GPU from a single clip, and sums end
// as one pair of floats a chunk and place. The last block to finish merges these: no launch of its own is
// spent on that. Which block is the last differs from run to run; what it computes does not, as all orders of
// summation are fixed: results are the same to the bit.
#include "scalar.cuh"

constexpr int MAX_THREADS = 256;
// The blocks that a multiprocessor has room for; with more, ptxas spills.
template <typename T>
constexpr int BLOCKS = 2;
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 1000
template <>
constexpr int BLOCKS<bfloat16> = 3;
#endif
#define KERNEL extern "C" __global__ void __launch_bounds__(MAX_THREADS, BLOCKS<SCALAR>)
constexpr int SLOTS = CHANNELS_LAST ? VECTOR : 1;
constexpr int IN_FLIGHT = 4;  // accesses that a thread waits for at a time
constexpr int ROWS_AT_ONCE = 8;  // likewise, pairs to merge

struct alignas(8) Pair {
    float first, second;
};

struct Params {
    const SCALAR* x;
    const SCALAR* residual;
    SCALAR* y;
    const SCALAR* grad_y;
    SCALAR* grad_x;
    SCALAR* grad_residual;
    const void* weight;  // null: 1
    const void* bias;    // null: 0
    float* mean;         // (N, G)
    float* rstd;         // (N, G)
    Pair* partial;       // (N, chunks, places): (mean, sum of squares about it), or (sum dz, sum dz * x_hat)
    Pair* slopes;        // (N, G): what grad_x gets from x - mean, and from 1
    unsigned* counters;  // (bands,), (N, bands), (N, columns, segments): 0 before a launch and behind it
    float* grad_weight;  // (C,); null: not wanted, nor is the next
    float* grad_bias;    // (C,)
    long long sites;
    int sites_per_chunk;
    int samples;
    int channels;
    int places;
    int channels_per_group;
    int chunks;
    int columns;
    int width;
    int depth;
    int chunks_per_segment;
    int columns_per_band;
    int weight_is_float32;  // else SCALAR
    int bias_is_float32;
    float eps;
};

using Access = Vector<SCALAR, VECTOR>;

__device__ inline Access load(const SCALAR* address) { return load<SCALAR, VECTOR>(address); }

// The parameters of N channels from `channel` on.
template <int N, typename T>
__device__ void read(const T* values, int channel, float (&result)[N]) {
    constexpr int AT_ONCE = N * sizeof(T) < 16 ? N : 16 / sizeof(T);
#pragma unroll
    for (int begin = 0; begin < N; begin += AT_ONCE) {
        const auto access = load<T, AT_ONCE>(values + channel + begin);
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) result[begin + k] = access[k];
    }
}

// Those of N places from `place` on.
template <int N, typename T>
__device__ void read_places(const Params& p, const T* values, int place, float (&result)[N]) {
    if (p.places == p.channels) return read<N>(values, place, result);
    int channel = place % p.channels;
#pragma unroll
    for (int k = 0; k < N; ++k) {
        result[k] = load<T, 1>(values + channel)[0];
        if (++channel == p.channels) channel = 0;
    }
}

template <int N>
__device__ void read_parameters(const Params& p, const void* values, int is_float32, int place,
                                float otherwise, float (&result)[N]) {
    if (!values) {
#pragma unroll
        for (int k = 0; k < N; ++k) result[k] = otherwise;
    } else if (is_float32) {
        read_places<N>(p, static_cast<const float32*>(values), place, result);
    } else {
        read_places<N>(p, static_cast<const SCALAR*>(values), place, result);
    }
}

// The sites of `number` chunks from `chunk` on, of which the last may not be there.
__device__ inline long long sites_of_chunks(const Params& p, int chunk, int number) {
    const long long left = p.sites - static_cast<long long>(chunk) * p.sites_per_chunk;
    const long long all = static_cast<long long>(number) * p.sites_per_chunk;
    return left < all ? left : all;
}

__device__ inline int least(int one, int other) { return one < other ? one : other; }

// In which order a pass goes through a tensor. The reductions go backwards: they begin with what was written
// last and end where the pass behind them begins, in what the L2 cache still has.
enum class Order { FORWARDS, BACKWARDS };

// What one thread of a pass does: `count` accesses, from `offset` on, `step` scalars apart.
struct Thread {
    int sample, chunk, column, place, lane, rank;
    int count;
    long long offset, step;

    __device__ Thread(const Params& p, Order order) {
        const unsigned block = order == Order::FORWARDS ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
        int rest = static_cast<int>(block);
        // Neighbours in memory are next to each other in time: columns where they share rows, else chunks.
        if (CHANNELS_LAST) {
            column = rest % p.columns;
            rest /= p.columns;
            chunk = rest % p.chunks;
            sample = rest / p.chunks;
        } else {
            chunk = rest % p.chunks;
            rest /= p.chunks;
            column = rest % p.columns;
            sample = rest / p.columns;
        }
        const int thread = static_cast<int>(threadIdx.x);
        const long long first_site = static_cast<long long>(chunk) * p.sites_per_chunk;
        const int sites = static_cast<int>(sites_of_chunks(p, chunk, 1));
        if (CHANNELS_LAST) {
            lane = thread % p.width;
            rank = thread / p.width;
            place = (column * p.width + lane) * VECTOR;
            offset = (sample * p.sites + first_site + rank) * p.places + place;
            step = static_cast<long long>(p.depth) * p.places;
            count = rank < sites ? (sites - rank + p.depth - 1) / p.depth : 0;
        } else {
            lane = thread / p.depth;
            rank = thread % p.depth;
            place = column * p.width + lane;
            offset = (static_cast<long long>(sample) * p.places + place) * p.sites + first_site +
                     rank * VECTOR;
            step = p.depth * VECTOR;
            const int accesses = sites / VECTOR;
            count = rank < accesses ? (accesses - rank + p.depth - 1) / p.depth : 0;
        }
        if (place >= p.places) count = 0;
    }

    __device__ long long at(int index) const { return offset + index * step; }

    // Calls visit(slot, of_group(group)) for the places of this thread. of_group is called once a group.
    template <typename OfGroup, typename Visit>
    __device__ void for_each_slot(const Params& p, OfGroup of_group, Visit visit) const {
        if (place >= p.places) return;
        const int channel = p.places == p.channels ? place : place % p.channels;
        const int groups = p.channels / p.channels_per_group;
        int group = channel / p.channels_per_group, within = channel % p.channels_per_group;
        auto values = of_group(sample * groups + group);
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            visit(slot, values);
            if (++within == p.channels_per_group && slot + 1 < SLOTS) {
                within = 0;
                if (++group == groups) group = 0;  // the next site of the row
                values = of_group(sample * groups + group);
            }
        }
    }
};

__device__ inline int slot_of(int index) { return CHANNELS_LAST ? index : 0; }

// Which of N accesses there are: all, or the first few.
template <int N>
struct All {
    static constexpr int SIZE = N;
    __device__ static constexpr bool has(int) { return true; }
};

template <int N>
struct First {
    static constexpr int SIZE = N;
    int number;
    __device__ bool has(int index) const { return index < number; }
};

// Calls visit(batch, index) for the accesses from index on that the batch has. The last ones are together,
// too: one by one, each would wait for the memory's latency again.
template <int N, typename Visit>
__device__ void in_batches(int count, Visit visit) {
    int index = 0;
    for (; index + N <= count; index += N) visit(All<N>(), index);
    if (N > 1 && index < count) visit(First<N>{count - index}, index);
}

// -------------------------------------------------------------------------------------------- reductions

// Merges the records (arrays of floats) of all ranks of a lane into that of rank 0, in a fixed tree.
template <typename Record>
__device__ void merge_ranks(int lane, int rank, int width, int depth, Record& mine) {
    extern __shared__ float shared[];
    for (int live = depth; live > 1;) {
        const int half = (live + 1) / 2;
        const int plane = half * width;  // a component of the records of half the ranks
        if (rank >= half && rank < live) {
#pragma unroll
            for (int k = 0; k < Record::SIZE; ++k)
                shared[k * plane + (rank - half) * width + lane] = mine.at[k];
        }
        __syncthreads();
        if (rank < live - half) {
            Record other;
#pragma unroll
            for (int k = 0; k < Record::SIZE; ++k) other.at[k] = shared[k * plane + rank * width + lane];
            mine.merge(other);
        }
        __syncthreads();
        live = half;
    }
}

// Of each slot the mean and the sum of squares about it, with the number of scalars that they are of. Merged
// as in Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances".
template <int N>
struct Moments {
    static constexpr int SIZE = 2 * N + 1;
    float at[SIZE];

    __device__ float& mean(int slot) { return at[slot]; }
    __device__ float& squares(int slot) { return at[N + slot]; }
    __device__ float& number() { return at[2 * N]; }

    __device__ void merge(Moments& other) {
        const float all = number() + other.number();
        const float share = all > 0 ? other.number() / all : 0;
#pragma unroll
        for (int slot = 0; slot < N; ++slot) {
            const float delta = other.mean(slot) - mean(slot);
            squares(slot) += other.squares(slot) + delta * delta * number() * share;
            mean(slot) = fmaf(delta, share, mean(slot));
        }
        number() = all;
    }

    __device__ static Moments of(Pair pair, float number) { return {{pair.first, pair.second, number}}; }
    __device__ Pair pair() { return {mean(0), squares(0)}; }
};

template <int N>
struct Sums {
    static constexpr int SIZE = 2 * N;
    float at[SIZE];

    __device__ float& first(int slot) { return at[slot]; }
    __device__ float& second(int slot) { return at[N + slot]; }

    __device__ void merge(const Sums& other) {
#pragma unroll
        for (int k = 0; k < SIZE; ++k) at[k] += other.at[k];
    }

    __device__ static Sums of(Pair pair, float) { return {{pair.first, pair.second}}; }
    __device__ Pair pair() { return {first(0), second(0)}; }
};

// ----------------------------------------------------------------------------------------------- merging
// Every block leaves a row of `partial`: a pair for each place of its column. A *segment* is some adjacent
// chunks, a *band* some adjacent columns, as few as hold whole groups. Of the blocks of a segment and column
// the last to finish merges their rows, of those that did so in a sample and band the last merges theirs, and
// of those, one a sample, the last adds up what all samples give to the parameters' gradients. What is merged
// lies where the first of its rows was.

// Whether this block is the last of `number` that call this with the same counter. It may then read what the
// others wrote before they did. All of its threads call it.
__device__ bool last_of(int number, unsigned* counter) {
    __syncthreads();
    if (number == 1) return true;
    bool last = false;
    if (threadIdx.x == 0) {
        __threadfence();  // whoever sees this block's ticket sees what its threads wrote before the barrier
        // The last ticket makes the counter 0 again, for the next launch.
        last = atomicInc(counter, number - 1) == number - 1;
        __threadfence();  // what is read behind the barrier is read after the ticket was taken
    }
    return __syncthreads_or(last);
}

// Merges `rows` records of each of `lanes` lanes: load(lane, row) gives one, finish(lane, record) takes what
// they make, in one thread. All threads of the block call it.
template <typename Record, typename Load, typename Finish>
__device__ void merge(int lanes, int rows, Load load, Finish finish) {
    const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
    const int width = least(lanes, threads), depth = least(threads / width, rows);
    const int rank = thread / width;
    for (int first = 0; first < lanes; first += width) {
        const int lane = first + thread % width;
        const bool has_rows = lane < lanes && rank < depth;
        Record mine = {};
        for (unsigned row = rank; has_rows && row < rows; row += ROWS_AT_ONCE * depth) {
            Record records[ROWS_AT_ONCE] = {};
#pragma unroll
            for (int u = 0; u < ROWS_AT_ONCE; ++u)
                if (row + u * depth < rows) records[u] = load(lane, static_cast<int>(row + u * depth));
#pragma unroll
            for (int half = ROWS_AT_ONCE / 2; half; half /= 2) {
#pragma unroll
                for (int u = 0; u < half; ++u) records[u].merge(records[u + half]);
            }
            mine.merge(records[0]);
        }
        merge_ranks(thread % width, rank, width, depth, mine);
        if (has_rows && rank == 0) finish(lane, mine);
    }
}

// A sample's columns that are merged together.
struct Band {
    int index, columns, first_place, places;

    __device__ Band(const Params& p, const Thread& thread) {
        index = thread.column / p.columns_per_band;
        const int first_column = index * p.columns_per_band;
        columns = least(p.columns_per_band, p.columns - first_column);
        first_place = first_column * p.width * SLOTS;
        places = least(columns * p.width * SLOTS, p.places - first_place);
    }

    // Behind merge_places, which is for a single band, the first places are the channels.
    __device__ int first_channel() const { return first_place; }
    __device__ int channels(const Params& p) const { return least(places, p.channels - first_place); }
};

__device__ inline int number_of_bands(const Params& p) {
    return (p.columns + p.columns_per_band - 1) / p.columns_per_band;
}

__device__ inline Pair* row_of(const Params& p, int sample, int chunk) {
    return p.partial + (static_cast<long long>(sample) * p.chunks + chunk) * p.places;
}

// Merges `number` rows of some places of a sample, each of `chunks` chunks, the first at `first`.
template <typename Record>
__device__ void merge_rows(const Params& p, int sample, int first_place, int places, int first, int chunks,
                           int number) {
    merge<Record>(
        places, number,
        [&](int place, int row) {
            const int chunk = first + row * chunks;
            const float sites = static_cast<float>(sites_of_chunks(p, chunk, chunks));
            return Record::of(row_of(p, sample, chunk)[first_place + place], sites);
        },
        [&](int place, Record& all) { row_of(p, sample, first)[first_place + place] = all.pair(); });
}

// Merges the places of a channel into its first.
template <typename Record>
__device__ void merge_places(const Params& p, Pair* row) {
    const float sites = static_cast<float>(p.sites);
    merge<Record>(
        p.channels, p.places / p.channels,
        [&](int channel, int site) { return Record::of(row[site * p.channels + channel], sites); },
        [&](int channel, Record& all) { row[channel] = all.pair(); });
    __syncthreads();
}

// Merges a band of a sample into the row of chunk 0. True in the block that did it, the last of them.
template <typename Record>
__device__ bool merge_chunks(const Params& p, const Thread& thread, const Band& band) {
    const int segments = (p.chunks + p.chunks_per_segment - 1) / p.chunks_per_segment;
    const int bands = number_of_bands(p);
    unsigned* const of_bands = p.counters + bands;
    if (p.chunks_per_segment > 1) {
        unsigned* const of_segments = of_bands + static_cast<long long>(p.samples) * bands;
        const int segment = thread.chunk / p.chunks_per_segment, first = segment * p.chunks_per_segment;
        const int number = least(p.chunks_per_segment, p.chunks - first);
        const long long column = static_cast<long long>(thread.sample) * p.columns + thread.column;
        if (!last_of(number, of_segments + column * segments + segment)) return false;
        const int first_place = thread.column * p.width * SLOTS;
        const int places = least(p.width * SLOTS, p.places - first_place);
        merge_rows<Record>(p, thread.sample, first_place, places, first, 1, number);
    }
    const long long index = static_cast<long long>(thread.sample) * bands + band.index;
    if (!last_of(segments * band.columns, of_bands + index)) return false;
    const int chunks = p.chunks_per_segment;
    merge_rows<Record>(p, thread.sample, band.first_place, band.places, 0, chunks, segments);
    __syncthreads();
    if (p.places > p.channels) merge_places<Record>(p, row_of(p, thread.sample, 0));
    return true;
}

// ----------------------------------------------------------------------------------------------- forward

// x -> mean, rstd.
KERNEL moments(const Params p) {
    const Thread thread(p, Order::BACKWARDS);
    // Sums of x minus the thread's first scalar: nothing cancels where the mean is large.
    float shift[SLOTS] = {}, sum[SLOTS] = {}, square[SLOTS] = {};
    if (thread.count) {
        const Access access = load(p.x + thread.offset);
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) shift[slot] = access[slot];
    }
    in_batches<IN_FLIGHT>(thread.count, [&](auto batch, int index) {
        constexpr int BATCH = decltype(batch)::SIZE;
        Access x[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; ++u)
            if (batch.has(u)) x[u] = load(p.x + thread.at(index + u));
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            if (!batch.has(u)) break;
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) {
                const int slot = slot_of(j);
                const float delta = x[u][j] - shift[slot];
                sum[slot] += delta;
                square[slot] = fmaf(delta, delta, square[slot]);
            }
        }
    });
    Moments<SLOTS> mine;
    mine.number() = static_cast<float>(thread.count) * (VECTOR / SLOTS);
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const float delta = thread.count ? sum[slot] / mine.number() : 0;
        const float squares = fmaf(-delta, sum[slot], square[slot]);
        mine.mean(slot) = shift[slot] + delta;
        mine.squares(slot) = squares < 0 ? 0 : squares;  // by rounding; NaN stays NaN
    }
    merge_ranks(thread.lane, thread.rank, p.width, p.depth, mine);
    if (thread.rank == 0 && thread.place < p.places) {
        Pair* const row = row_of(p, thread.sample, thread.chunk);
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot)
            row[thread.place + slot] = {mine.mean(slot), mine.squares(slot)};
    }
    const Band band(p, thread);
    if (!merge_chunks<Moments<1>>(p, thread, band)) return;
    const int per_group = p.channels_per_group;
    const int first_group = thread.sample * (p.channels / per_group) + band.first_channel() / per_group;
    const Pair* const row = row_of(p, thread.sample, 0) + band.first_channel();
    const float sites = static_cast<float>(p.sites) * (p.places / p.channels);
    merge<Moments<1>>(
        band.channels(p) / per_group, per_group,
        [&](int group, int channel) { return Moments<1>::of(row[group * per_group + channel], sites); },
        [&](int group, Moments<1>& all) {
            p.mean[first_group + group] = all.mean(0);
            p.rstd[first_group + group] = 1 / sqrtf(all.squares(0) / (sites * per_group) + p.eps);
        });
}

// The affine map of a thread's channels.
struct Affine {
    float mean[SLOTS], scale[SLOTS], bias[SLOTS];

    __device__ Affine(const Params& p, const Thread& thread) {
        if (thread.place >= p.places) return;
        read_parameters(p, p.weight, p.weight_is_float32, thread.place, 1, scale);
        read_parameters(p, p.bias, p.bias_is_float32, thread.place, 0, bias);
        const auto statistics = [&](int group) { return Pair{p.mean[group], p.rstd[group]}; };
        thread.for_each_slot(p, statistics, [&](int slot, Pair mean_and_rstd) {
            mean[slot] = mean_and_rstd.first;
            scale[slot] *= mean_and_rstd.second;
        });
    }

    __device__ float operator()(float x, int slot) const {
        return fmaf(x - mean[slot], scale[slot], bias[slot]);
    }
};

template <bool RELU, bool RESIDUAL>
__device__ void apply_pass(const Params& p) {
    const Thread thread(p, Order::FORWARDS);
    const Affine affine(p, thread);
    in_batches<IN_FLIGHT / (RESIDUAL ? 2 : 1)>(thread.count, [&](auto batch, int index) {
        constexpr int BATCH = decltype(batch)::SIZE;
        Access x[BATCH], residual[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            if (!batch.has(u)) break;
            x[u] = load(p.x + thread.at(index + u));
            if (RESIDUAL) residual[u] = load(p.residual + thread.at(index + u));
        }
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            if (!batch.has(u)) break;
            float y[VECTOR];
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) {
                float z = affine(x[u][j], slot_of(j));
                if (RESIDUAL) z += residual[u][j];
                if (RELU && z <= 0) z = 0;  // NaN stays NaN
                y[j] = z;
            }
            store(p.y + thread.at(index + u), y);
        }
    });
}

// x, mean, rstd, residual -> y.
KERNEL apply(const Params p) { apply_pass<false, false>(p); }
KERNEL apply_relu(const Params p) { apply_pass<true, false>(p); }
KERNEL apply_add(const Params p) { apply_pass<false, true>(p); }
KERNEL apply_add_relu(const Params p) { apply_pass<true, true>(p); }

// ---------------------------------------------------------------------------------------------- backward
// With dz the gradient behind the ReLU, sums over the sites and means over the group:
//
//     grad_bias = sum dz      grad_weight = sum dz * x_hat
//     grad_x = rstd * (weight * dz - mean(weight * dz) - x_hat * mean(weight * dz * x_hat))

enum class Mask {
    NONE,    // dz = grad_y
    FROM_X,  // dz = grad_y where y, computed once more, is not 0: no memory is spent on a mask
    FROM_Y,  // the same with y at hand, as there was a residual; dz is kept: it is the residual's gradient
};

// NaN passes, as in torch.
template <Mask MASK>
__device__ bool passes(const Affine& affine, float x, float y, int slot) {
    if (MASK == Mask::FROM_X) return !(affine(x, slot) <= LARGEST_ZERO<SCALAR>);
    return MASK == Mask::NONE || !(y <= 0);
}

// The merged sums of a band of a sample -> slopes; of the band in all samples -> grad_weight, grad_bias.
__device__ void finish_sums(const Params& p, int sample, const Band& band) {
    const int per_group = p.channels_per_group;
    const int first_channel = band.first_channel(), channels = band.channels(p);
    const int first_group = sample * (p.channels / per_group) + first_channel / per_group;
    const Pair* const row = row_of(p, sample, 0);
    const float number = static_cast<float>(p.sites) * (p.places / p.channels) * per_group;
    merge<Sums<1>>(
        channels / per_group, per_group,
        [&](int group, int index) {
            const int channel = first_channel + group * per_group + index;
            float weight[1];
            read_parameters(p, p.weight, p.weight_is_float32, channel, 1, weight);
            return Sums<1>{{weight[0] * row[channel].first, weight[0] * row[channel].second}};
        },
        [&](int group, Sums<1>& all) {
            const float rstd = p.rstd[first_group + group];
            p.slopes[first_group + group] = {-rstd * rstd * all.second(0) / number,
                                             -rstd * all.first(0) / number};
        });
    if (!p.grad_weight || !last_of(p.samples, p.counters + band.index)) return;
    merge<Sums<1>>(
        channels, p.samples,
        [&](int channel, int of_sample) {
            return Sums<1>::of(row_of(p, of_sample, 0)[first_channel + channel], 1);
        },
        [&](int channel, Sums<1>& all) {
            p.grad_bias[first_channel + channel] = all.first(0);
            p.grad_weight[first_channel + channel] = all.second(0);
        });
}

template <Mask MASK>
__device__ void sums_pass(const Params& p) {
    const Thread thread(p, Order::BACKWARDS);
    const Affine affine(p, thread);
    Sums<SLOTS> mine = {};
    in_batches<IN_FLIGHT / 2>(thread.count, [&](auto batch, int index) {
        constexpr int BATCH = decltype(batch)::SIZE;
        Access x[BATCH], grad[BATCH], y[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            if (!batch.has(u)) break;
            x[u] = load(p.x + thread.at(index + u));
            grad[u] = load(p.grad_y + thread.at(index + u));
            if (MASK == Mask::FROM_Y) y[u] = load(p.y + thread.at(index + u));
        }
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            if (!batch.has(u)) break;
            float dz[VECTOR];
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) {
                const int slot = slot_of(j);
                const float y_j = MASK == Mask::FROM_Y ? y[u][j] : 0;
                dz[j] = passes<MASK>(affine, x[u][j], y_j, slot) ? grad[u][j] : 0;
                mine.first(slot) += dz[j];
                mine.second(slot) = fmaf(dz[j], x[u][j] - affine.mean[slot], mine.second(slot));
            }
            if (MASK == Mask::FROM_Y) store(p.grad_residual + thread.at(index + u), dz);
        }
    });
    merge_ranks(thread.lane, thread.rank, p.width, p.depth, mine);
    if (thread.rank == 0) {
        Pair* const row = row_of(p, thread.sample, thread.chunk);
        const auto rstd_of = [&](int group) { return p.rstd[group]; };
        thread.for_each_slot(p, rstd_of, [&](int slot, float rstd) {
            row[thread.place + slot] = {mine.first(slot), mine.second(slot) * rstd};
        });
    }
    const Band band(p, thread);
    if (merge_chunks<Sums<1>>(p, thread, band)) finish_sums(p, thread.sample, band);
}

// x, grad_y -> slopes, grad_weight, grad_bias; behind a residual dz, too.
KERNEL sums(const Params p) { sums_pass<Mask::NONE>(p); }
KERNEL sums_relu(const Params p) { sums_pass<Mask::FROM_X>(p); }
KERNEL sums_add_relu(const Params p) { sums_pass<Mask::FROM_Y>(p); }

template <Mask MASK>
__device__ void grad_x_pass(const Params& p) {
    const Thread thread(p, Order::FORWARDS);
    const Affine affine(p, thread);
    float slope[SLOTS], constant[SLOTS];
    const auto slopes_of = [&](int group) { return p.slopes[group]; };
    thread.for_each_slot(p, slopes_of, [&](int slot, Pair slopes) {
        slope[slot] = slopes.first;
        constant[slot] = slopes.second;
    });
    in_batches<IN_FLIGHT / 2>(thread.count, [&](auto batch, int index) {
        constexpr int BATCH = decltype(batch)::SIZE;
        Access x[BATCH], grad[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            if (!batch.has(u)) break;
            x[u] = load(p.x + thread.at(index + u));
            grad[u] = load(p.grad_y + thread.at(index + u));
        }
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            if (!batch.has(u)) break;
            float grad_x[VECTOR];
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) {
                const int slot = slot_of(j);
                const float dz = passes<MASK>(affine, x[u][j], 0, slot) ? grad[u][j] : 0;
                const float through_statistics =
                    fmaf(slope[slot], x[u][j] - affine.mean[slot], constant[slot]);
                grad_x[j] = fmaf(affine.scale[slot], dz, through_statistics);
            }
            store(p.grad_x + thread.at(index + u), grad_x);
        }
    });
}

// x, grad_y (behind a residual: dz), slopes -> grad_x.
KERNEL grad_x(const Params p) { grad_x_pass<Mask::NONE>(p); }
KERNEL grad_x_relu(const Params p) { grad_x_pass<Mask::FROM_X>(p); }
