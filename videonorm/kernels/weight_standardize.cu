// Weight standardization of the filters of many layers in one launch, and its derivative. The formulas are
// those of ops/weight_standardize.py.
//
// Macros: WEIGHT, the type of the weights and of their gradients; OUTPUT, that of the standardized weights
// and of their gradients.
//
// One block has one filter. A filter is one dense run of `n` scalars in both memory formats, since the output
// channel is the outermost axis of both. The first pass comes from memory, those after it from the caches.
// All orders of summation are fixed: results are the same to the bit from run to run, and whichever layers
// share a launch.
#include "scalar.cuh"

constexpr int THREADS = 128;
constexpr int BLOCKS = 8;  // on a multiprocessor, at least; not being told, the compiler spills to have more
constexpr int BATCH = 4;   // accesses of a thread in flight
constexpr int MAX_LAYERS = 70;
constexpr int WIDEST = sizeof(WEIGHT) > sizeof(OUTPUT) ? sizeof(WEIGHT) : sizeof(OUTPUT);
constexpr int VECTOR = 16 / WIDEST;  // scalars of an access, of which the wider one moves 16 bytes

enum EpsPlacement { UNDER_ROOT, ON_STD, FLOOR };

struct Layer {
    const WEIGHT* weight;
    const float* gain;  // null: 1
    OUTPUT* w_hat;      // in the derivative the gradient of it, which is only read
    WEIGHT* grad_weight;
    int first_filter;  // in the launch
    int n;
    int vectorized;  // VECTOR divides n, and all pointers are aligned
    float eps;
    float multiplier;
};

struct Params {
    float* mean;       // of all filters of the launch, as are the next two
    float* var;        // biased, or unbiased
    float* grad_gain;  // null where there is no gain
    int layers;
    int center;
    int scale;
    int unbiased;
    int eps_placement;
    Layer layer[MAX_LAYERS];
};
static_assert(sizeof(Params) <= 4000, "kernel parameters are limited to 4 KB");

// The layer that the block's filter is of: the last one that does not start behind it.
__device__ inline int layer_of_block(const Params& p) {
    int low = 0, high = p.layers;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (p.layer[middle].first_filter <= static_cast<int>(blockIdx.x))
            low = middle;
        else
            high = middle;
    }
    return low;
}

template <int N>
struct Sums {
    float of[N];
};

constexpr int WARPS = THREADS / 32;

// The sums over the block, for each of its threads, by way of N * WARPS floats of shared memory that serve
// nothing else: so there is no barrier against who comes next.
template <int N>
__device__ Sums<N> block_sums(Sums<N> sums, float* shared) {
    const int warp = threadIdx.x / 32;
#pragma unroll
    for (int k = 0; k < N; ++k) {
#pragma unroll
        for (int lanes = 16; lanes; lanes /= 2) sums.of[k] += __shfl_xor_sync(0xffffffff, sums.of[k], lanes);
        if (threadIdx.x % 32 == 0) shared[k * WARPS + warp] = sums.of[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < N; ++k) {
        sums.of[k] = 0;
#pragma unroll
        for (int other = 0; other < WARPS; ++other) sums.of[k] += shared[k * WARPS + other];
    }
    return sums;
}

// Calls visit(offset, load(offset)) for the accesses of V scalars that are this thread's.
template <int V, typename Load, typename Visit>
__device__ void for_each_access(int n, Load load, Visit visit) {
    constexpr int STEP = THREADS * V;
    for (int first = threadIdx.x * V; first < n; first += BATCH * STEP) {
        decltype(load(0)) values[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; ++k)
            if (first + k * STEP < n) values[k] = load(first + k * STEP);
#pragma unroll
        for (int k = 0; k < BATCH; ++k)
            if (first + k * STEP < n) visit(first + k * STEP, values[k]);
    }
}

__device__ inline float inverse_std(float var, float eps, int placement) {
    if (placement == UNDER_ROOT) return 1 / sqrtf(var + eps);
    if (placement == ON_STD) return 1 / (sqrtf(var) + eps);
    return 1 / sqrtf(var < eps ? eps : var);  // NaN stays NaN
}

// d inverse_std / d var. It multiplies w - mean, so any finite value will do for a filter of variance 0.
__device__ inline float inverse_std_slope(float var, float r, float eps, int placement) {
    if (placement == ON_STD) return var > 0 ? -0.5f * r * r / sqrtf(var) : 0;
    if (placement == FLOOR && !(var > eps)) return 0;
    return -0.5f * r * r * r;
}

template <int V>
__device__ void standardize(const Params& p, const Layer& layer) {
    extern __shared__ float shared[];
    const int filter = static_cast<int>(blockIdx.x) - layer.first_filter;
    const long long start = static_cast<long long>(filter) * layer.n;
    const WEIGHT* w = layer.weight + start;
    OUTPUT* w_hat = layer.w_hat + start;
    using Values = Vector<WEIGHT, V>;
    const auto load_w = [&](int offset) { return load<WEIGHT, V>(w + offset); };

    Sums<1> sum{};
    for_each_access<V>(layer.n, load_w, [&](int, const Values& values) {
#pragma unroll
        for (int i = 0; i < V; ++i) sum.of[0] += values[i];
    });
    const float mean = block_sums(sum, shared).of[0] / layer.n;

    Sums<2> moments{};
    for_each_access<V>(layer.n, load_w, [&](int, const Values& values) {
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float centered = values[i] - mean;
            moments.of[0] += centered;
            moments.of[1] = fmaf(centered, centered, moments.of[1]);
        }
    });
    moments = block_sums(moments, shared + WARPS);
    // What rounding has left in the mean. Where that is not finite, w - mean tells alone.
    float rest = moments.of[0] / layer.n;
    if (rest - rest != 0) rest = moments.of[0] = 0;
    const float squares = moments.of[1] - moments.of[0] * rest;
    const float var = (squares < 0 ? 0 : squares) / (layer.n - p.unbiased);

    const float center = p.center ? mean : 0;
    if (!p.center) rest = 0;
    float factor = layer.multiplier;
    if (p.scale) factor *= inverse_std(var, layer.eps, p.eps_placement);
    if (layer.gain) factor *= layer.gain[filter];
    for_each_access<V>(layer.n, load_w, [&](int offset, const Values& values) {
        float result[V];
#pragma unroll
        for (int i = 0; i < V; ++i) result[i] = (values[i] - center - rest) * factor;
        store<OUTPUT, V>(w_hat + offset, result);
    });
    if (threadIdx.x == 0) {
        p.mean[blockIdx.x] = mean;
        p.var[blockIdx.x] = var;
    }
}

// With g = grad_w_hat * multiplier * gain, u = w - mean, k = n or n - 1, and r = inverse_std(var):
//
//     grad_w = r (g - mean(g)) + 2 / k * dr/dvar * sum(g u) * (w - mean)
//
// Without centering u = w and mean(g) is left out; without scaling r = 1 and dr/dvar = 0. The mean of
// w - mean, which only rounding keeps from 0, is taken out of all terms.
template <int V>
__device__ void differentiate(const Params& p, const Layer& layer) {
    extern __shared__ float shared[];
    const int filter = static_cast<int>(blockIdx.x) - layer.first_filter;
    const long long start = static_cast<long long>(filter) * layer.n;
    const WEIGHT* w = layer.weight + start;
    const OUTPUT* grad = layer.w_hat + start;
    WEIGHT* grad_w = layer.grad_weight + start;
    const float mean = p.mean[blockIdx.x], var = p.var[blockIdx.x];
    struct Values {
        Vector<OUTPUT, V> grad;
        Vector<WEIGHT, V> w;
    };
    const auto load_both = [&](int offset) {
        return Values{load<OUTPUT, V>(grad + offset), load<WEIGHT, V>(w + offset)};
    };

    Sums<3> sums{};  // of grad, w - mean, and grad * u
    for_each_access<V>(layer.n, load_both, [&](int, const Values& values) {
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float g = values.grad[i], centered = values.w[i] - mean;
            sums.of[0] += g;
            sums.of[1] += centered;
            sums.of[2] = fmaf(g, p.center ? centered : values.w[i], sums.of[2]);
        }
    });
    sums = block_sums(sums, shared);
    const float rest = sums.of[1] / layer.n;
    const float excess = p.center ? sums.of[0] * rest : 0;
    const float projection = excess - excess == 0 ? sums.of[2] - excess : sums.of[2];

    const float r = p.scale ? inverse_std(var, layer.eps, p.eps_placement) : 1;
    const float unscaled = layer.gain ? layer.multiplier * layer.gain[filter] : layer.multiplier;
    float slope = 0;
    if (p.scale) {
        slope = inverse_std_slope(var, r, layer.eps, p.eps_placement) * projection * unscaled;
        slope *= 2.0f / (layer.n - p.unbiased);
    }
    const float factor = unscaled * r;
    const float mean_grad = p.center ? sums.of[0] / layer.n : 0;
    for_each_access<V>(layer.n, load_both, [&](int offset, const Values& values) {
        float result[V];
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float centered = values.w[i] - mean - rest;
            result[i] = fmaf(slope, centered, factor * (values.grad[i] - mean_grad));
        }
        store<WEIGHT, V>(grad_w + offset, result);
    });
    if (p.grad_gain && threadIdx.x == 0) p.grad_gain[blockIdx.x] = projection * r * layer.multiplier;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) weight_standardize(const Params p) {
    const Layer& layer = p.layer[layer_of_block(p)];
    if (layer.vectorized)
        standardize<VECTOR>(p, layer);
    else
        standardize<1>(p, layer);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) weight_standardize_backward(const Params p) {
    const Layer& layer = p.layer[layer_of_block(p)];
    if (layer.vectorized)
        differentiate<VECTOR>(p, layer);
    else
        differentiate<1>(p, layer);
}
