// The scalar types of tensors, and vectors of them. Arithmetic is fp32: a kernel widens what it reads and
// narrows what it writes, to the nearest with ties to even. No header is needed: fp16 and bf16 are their
// bits.
#pragma once

typedef float float32;
struct float16 {
    unsigned short bits;
};
struct bfloat16 {
    unsigned short bits;
};

__device__ inline float widen(float32 x) { return x; }

__device__ inline float widen(bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

__device__ inline float widen(float16 x) {
#ifdef __CUDA_ARCH__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#else
    return static_cast<float>(__builtin_bit_cast(_Float16, x.bits));
#endif
}

template <typename T>
__device__ T narrow(float x);

template <>
__device__ inline float32 narrow<float32>(float x) {
    return x;
}

template <>
__device__ inline float16 narrow<float16>(float x) {
#ifdef __CUDA_ARCH__
    float16 result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
    return result;
#else
    return {__builtin_bit_cast(unsigned short, static_cast<_Float16>(x))};
#endif
}

template <>
__device__ inline bfloat16 narrow<bfloat16>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    bfloat16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
    return result;
#else
    const unsigned bits = __float_as_uint(x);
    if (x != x) return {static_cast<unsigned short>(bits >> 16 | 0x40)};  // NaN stays NaN
    return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}

// The largest number that narrow<T> takes to 0: half of T's smallest.
template <typename T>
constexpr float LARGEST_ZERO = 0;
template <>
constexpr float LARGEST_ZERO<float16> = 0x1p-25f;
template <>
constexpr float LARGEST_ZERO<bfloat16> = 0x1p-134f;

// N adjacent scalars, as one access to memory moves them: 2, 4, 8 or 16 bytes. They are kept in 32-bit words,
// as the compiler would split a vector of 16-bit numbers, and its access with it.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
    static constexpr int IN_WORD = 4 / sizeof(T);
    unsigned words[N / IN_WORD];

    __device__ float operator[](int index) const {
        const unsigned word = words[index / IN_WORD];
        if constexpr (IN_WORD == 1)
            return __uint_as_float(word);
        else
            return widen(T{static_cast<unsigned short>(index % 2 ? word >> 16 : word)});
    }

    __device__ void set(const float (&values)[N]) {
#pragma unroll
        for (int k = 0; k < N / IN_WORD; ++k) {
            if constexpr (IN_WORD == 1)
                words[k] = __float_as_uint(values[k]);
            else
                words[k] = narrow<T>(values[2 * k]).bits |
                           static_cast<unsigned>(narrow<T>(values[2 * k + 1]).bits) << 16;
        }
    }
};

// One scalar of 16 bits.
template <typename T>
struct Single {
    T value;
    __device__ float operator[](int) const { return widen(value); }
    __device__ void set(const float (&values)[1]) { value = narrow<T>(values[0]); }
};
template <>
struct Vector<float16, 1> : Single<float16> {};
template <>
struct Vector<bfloat16, 1> : Single<bfloat16> {};

template <typename T, int N>
__device__ inline Vector<T, N> load(const T* address) {
    return *reinterpret_cast<const Vector<T, N>*>(address);
}

template <typename T, int N>
__device__ inline void store(T* address, const float (&values)[N]) {
    Vector<T, N> vector;
    vector.set(values);
#ifdef __CUDA_ARCH__
    // Spelt out, as the compiler makes four accesses of some of these in an unrolled loop.
    if constexpr (sizeof(vector) == 16) {
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(vector.words[0]),
                     "r"(vector.words[1]), "r"(vector.words[2]), "r"(vector.words[3])
                     : "memory");
        return;
    }
#endif
    *reinterpret_cast<Vector<T, N>*>(address) = vector;
}
