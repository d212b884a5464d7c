// Group normalization, y = act((x - mean) * rstd * weight + bias [+ residual]), and its derivative.
//
// Macros: SCALAR, the type of x; VECTOR, how many scalars one access moves (it divides the rows of memory);
// CHANNELS_LAST, 1 for (N, sites, C) in memory and 0 for (N, C, sites). The sites of a clip are T * H * W.
//
// Every pass over a tensor has the same shape. The sites are cut into `chunks`, the channels into `columns`,
// and one block has one chunk of one column of one sample. Its width * depth threads are `width` lanes, each
// with a few channels of its own (SLOTS of them, whose parameters stay in registers), and `depth` ranks that
// share those channels and take turns on the chunk's sites. So the grid fills a GPU from a single clip, and
// sums end as one pair of floats a chunk and channel; groups matter only to the two kernels that merge these.
// All orders of summation are fixed: results are the same to the bit from run to run.
#include "scalar.cuh"

constexpr int MAX_THREADS = 256;
#define KERNEL \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS, 2)  // 2: else ptxas spills now and then
constexpr int SLOTS = CHANNELS_LAST ? VECTOR : 1;
constexpr int IN_FLIGHT = 4;  // accesses that a thread waits for at a time

struct Pair {
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
    Pair* partial;       // (N, chunks, C): (mean, sum of squares about it), or (sum dz, sum dz * x_hat)
    Pair* sums;          // (N, C): (sum dz, sum dz * x_hat)
    Pair* slopes;        // (N, G): what grad_x gets from x - mean, and from 1
    float* grad_weight;  // (C,)
    float* grad_bias;    // (C,)
    long long sites;
    int sites_per_chunk;
    int samples;
    int channels;
    int channels_per_group;
    int chunks;
    int columns;
    int width;
    int depth;
    int merge_width;  // of merge_sums
    int merge_depth;
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

template <int N>
__device__ void read_parameters(const void* values, int is_float32, int channel, float otherwise,
                                float (&result)[N]) {
    if (!values) {
#pragma unroll
        for (int k = 0; k < N; ++k) result[k] = otherwise;
    } else if (is_float32) {
        read<N>(static_cast<const float32*>(values), channel, result);
    } else {
        read<N>(static_cast<const SCALAR*>(values), channel, result);
    }
}

__device__ inline int sites_of_chunk(const Params& p, int chunk) {
    const long long left = p.sites - static_cast<long long>(chunk) * p.sites_per_chunk;
    return static_cast<int>(left < p.sites_per_chunk ? left : p.sites_per_chunk);
}

// What one thread of a pass does: `count` accesses, from `offset` on, `step` scalars apart.
struct Thread {
    int sample, chunk, channel, lane, rank;
    int count;
    long long offset, step;

    __device__ explicit Thread(const Params& p) {
        chunk = static_cast<int>(blockIdx.x) % p.chunks;
        const int rest = static_cast<int>(blockIdx.x) / p.chunks;
        const int column = rest % p.columns;
        sample = rest / p.columns;
        const int thread = static_cast<int>(threadIdx.x);
        const long long first_site = static_cast<long long>(chunk) * p.sites_per_chunk;
        const int sites = sites_of_chunk(p, chunk);
        if (CHANNELS_LAST) {
            lane = thread % p.width;
            rank = thread / p.width;
            channel = (column * p.width + lane) * VECTOR;
            offset = (sample * p.sites + first_site + rank) * p.channels + channel;
            step = static_cast<long long>(p.depth) * p.channels;
            count = rank < sites ? (sites - rank + p.depth - 1) / p.depth : 0;
        } else {
            lane = thread / p.depth;
            rank = thread % p.depth;
            channel = column * p.width + lane;
            offset = (static_cast<long long>(sample) * p.channels + channel) * p.sites + first_site +
                     rank * VECTOR;
            step = p.depth * VECTOR;
            const int accesses = sites / VECTOR;
            count = rank < accesses ? (accesses - rank + p.depth - 1) / p.depth : 0;
        }
        if (channel >= p.channels) count = 0;
    }

    __device__ long long at(int index) const { return offset + index * step; }

    // Calls visit(slot, of_group(group)) for the channels of this thread. of_group is called once a group.
    template <typename OfGroup, typename Visit>
    __device__ void for_each_slot(const Params& p, OfGroup of_group, Visit visit) const {
        if (channel >= p.channels) return;
        int group = sample * (p.channels / p.channels_per_group) + channel / p.channels_per_group;
        int within = channel % p.channels_per_group;
        auto values = of_group(group);
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            visit(slot, values);
            if (++within == p.channels_per_group && slot + 1 < SLOTS) {
                within = 0;
                values = of_group(++group);
            }
        }
    }
};

__device__ inline int slot_of(int index) { return CHANNELS_LAST ? index : 0; }

template <int N>
struct Number {
    static constexpr int VALUE = N;
};

// Calls visit(Number<N>, index) for the accesses index ... index + N - 1, and the last ones one by one.
template <int N, typename Visit>
__device__ void in_batches(int count, Visit visit) {
    int index = 0;
    for (; index + N <= count; index += N) visit(Number<N>(), index);
    for (; index < count; ++index) visit(Number<1>(), index);
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

// The sum over a block of whole warps, for each of its threads.
__device__ float block_sum(float value) {
    extern __shared__ float shared[];
#pragma unroll
    for (int lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(0xffffffff, value, lanes);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += shared[warp];
    __syncthreads();
    return sum;
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
};

// ----------------------------------------------------------------------------------------------- forward

// x -> partial: the moments of every chunk and channel.
KERNEL moments(const Params p) {
    const Thread thread(p);
    // Sums of x minus the thread's first scalar: nothing cancels where the mean is large.
    float shift[SLOTS] = {}, sum[SLOTS] = {}, square[SLOTS] = {};
    if (thread.count) {
        const Access access = load(p.x + thread.offset);
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) shift[slot] = access[slot];
    }
    in_batches<IN_FLIGHT>(thread.count, [&](auto batch, int index) {
        constexpr int BATCH = decltype(batch)::VALUE;
        Access x[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; ++u) x[u] = load(p.x + thread.at(index + u));
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
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
    if (thread.rank) return;
    Pair* partial =
        p.partial + (static_cast<long long>(thread.sample) * p.chunks + thread.chunk) * p.channels;
    if (thread.channel >= p.channels) return;
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot)
        partial[thread.channel + slot] = {mine.mean(slot), mine.squares(slot)};
}

// partial -> mean, rstd. One block a sample and group.
KERNEL merge_moments(const Params p) {
    const int groups = p.channels / p.channels_per_group;
    const int sample = static_cast<int>(blockIdx.x) / groups, group = static_cast<int>(blockIdx.x) % groups;
    const Pair* partial =
        p.partial + static_cast<long long>(sample) * p.chunks * p.channels + group * p.channels_per_group;
    const int parts = p.chunks * p.channels_per_group;
    const float number = static_cast<float>(p.sites) * p.channels_per_group;

    const float shift = partial[0].first;
    float sum = 0;
    for (int part = threadIdx.x; part < parts; part += blockDim.x) {
        const int chunk = part / p.channels_per_group, channel = part % p.channels_per_group;
        const float mean = partial[static_cast<long long>(chunk) * p.channels + channel].first;
        sum = fmaf(static_cast<float>(sites_of_chunk(p, chunk)), mean - shift, sum);
    }
    const float mean = shift + block_sum(sum) / number;

    float squares = 0;
    for (int part = threadIdx.x; part < parts; part += blockDim.x) {
        const int chunk = part / p.channels_per_group, channel = part % p.channels_per_group;
        const Pair moments = partial[static_cast<long long>(chunk) * p.channels + channel];
        const float delta = moments.first - mean;
        squares += fmaf(delta * delta, static_cast<float>(sites_of_chunk(p, chunk)), moments.second);
    }
    const float var = block_sum(squares) / number;
    if (threadIdx.x) return;
    p.mean[blockIdx.x] = mean;
    p.rstd[blockIdx.x] = 1 / sqrtf(var + p.eps);
}

// The affine map of a thread's channels.
struct Affine {
    float mean[SLOTS], scale[SLOTS], bias[SLOTS];

    __device__ Affine(const Params& p, const Thread& thread) {
        if (thread.channel >= p.channels) return;
        read_parameters(p.weight, p.weight_is_float32, thread.channel, 1, scale);
        read_parameters(p.bias, p.bias_is_float32, thread.channel, 0, bias);
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
    const Thread thread(p);
    const Affine affine(p, thread);
    in_batches<IN_FLIGHT / (RESIDUAL ? 2 : 1)>(thread.count, [&](auto batch, int index) {
        constexpr int BATCH = decltype(batch)::VALUE;
        Access x[BATCH], residual[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            x[u] = load(p.x + thread.at(index + u));
            if (RESIDUAL) residual[u] = load(p.residual + thread.at(index + u));
        }
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
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

template <Mask MASK>
__device__ void sums_pass(const Params& p) {
    const Thread thread(p);
    const Affine affine(p, thread);
    Sums<SLOTS> mine = {};
    in_batches<IN_FLIGHT / 2>(thread.count, [&](auto batch, int index) {
        constexpr int BATCH = decltype(batch)::VALUE;
        Access x[BATCH], grad[BATCH], y[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            x[u] = load(p.x + thread.at(index + u));
            grad[u] = load(p.grad_y + thread.at(index + u));
            if (MASK == Mask::FROM_Y) y[u] = load(p.y + thread.at(index + u));
        }
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
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
    if (thread.rank) return;
    Pair* partial =
        p.partial + (static_cast<long long>(thread.sample) * p.chunks + thread.chunk) * p.channels;
    const auto rstd_of = [&](int group) { return p.rstd[group]; };
    thread.for_each_slot(p, rstd_of, [&](int slot, float rstd) {
        partial[thread.channel + slot] = {mine.first(slot), mine.second(slot) * rstd};
    });
}

// x, grad_y -> partial: sum dz and sum dz * x_hat of every chunk and channel.
KERNEL sums(const Params p) { sums_pass<Mask::NONE>(p); }
KERNEL sums_relu(const Params p) { sums_pass<Mask::FROM_X>(p); }
KERNEL sums_add_relu(const Params p) { sums_pass<Mask::FROM_Y>(p); }

// partial -> sums, slopes. One block a sample and group.
KERNEL merge_sums(const Params p) {
    const int groups = p.channels / p.channels_per_group;
    const int sample = static_cast<int>(blockIdx.x) / groups, group = static_cast<int>(blockIdx.x) % groups;
    const int lane = static_cast<int>(threadIdx.x) % p.merge_width,
              rank = static_cast<int>(threadIdx.x) / p.merge_width;
    const int first_channel = group * p.channels_per_group;
    float gradient = 0, projection = 0;
    for (int begin = 0; begin < p.channels_per_group; begin += p.merge_width) {
        const int channel = first_channel + begin + lane;
        const bool mine_to_merge = begin + lane < p.channels_per_group && rank < p.merge_depth;
        Sums<1> mine = {};
        if (mine_to_merge) {
            for (int chunk = rank; chunk < p.chunks; chunk += p.merge_depth) {
                const Pair part =
                    p.partial[(static_cast<long long>(sample) * p.chunks + chunk) * p.channels + channel];
                mine.merge({{part.first, part.second}});
            }
        }
        merge_ranks(lane, rank, p.merge_width, p.merge_depth, mine);
        if (mine_to_merge && rank == 0) {
            p.sums[static_cast<long long>(sample) * p.channels + channel] = {mine.first(0), mine.second(0)};
            float weight[1];
            read_parameters(p.weight, p.weight_is_float32, channel, 1, weight);
            gradient = fmaf(weight[0], mine.first(0), gradient);
            projection = fmaf(weight[0], mine.second(0), projection);
        }
    }
    gradient = block_sum(gradient);
    projection = block_sum(projection);
    if (threadIdx.x) return;
    const float number = static_cast<float>(p.sites) * p.channels_per_group;
    const float rstd = p.rstd[blockIdx.x];
    p.slopes[blockIdx.x] = {-rstd * rstd * projection / number, -rstd * gradient / number};
}

// sums -> grad_weight, grad_bias. One thread a channel.
KERNEL add_samples(const Params p) {
    const int channel = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (channel >= p.channels) return;
    Sums<1> all = {};
    for (int sample = 0; sample < p.samples; ++sample) {
        const Pair sums = p.sums[static_cast<long long>(sample) * p.channels + channel];
        all.merge({{sums.first, sums.second}});
    }
    p.grad_bias[channel] = all.first(0);
    p.grad_weight[channel] = all.second(0);
}

template <Mask MASK>
__device__ void grad_x_pass(const Params& p) {
    const Thread thread(p);
    const Affine affine(p, thread);
    float slope[SLOTS], constant[SLOTS];
    const auto slopes_of = [&](int group) { return p.slopes[group]; };
    thread.for_each_slot(p, slopes_of, [&](int slot, Pair slopes) {
        slope[slot] = slopes.first;
        constant[slot] = slopes.second;
    });
    in_batches<IN_FLIGHT / 2>(thread.count, [&](auto batch, int index) {
        constexpr int BATCH = decltype(batch)::VALUE;
        Access x[BATCH], grad[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            x[u] = load(p.x + thread.at(index + u));
            grad[u] = load(p.grad_y + thread.at(index + u));
        }
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
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
