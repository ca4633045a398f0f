// Put before every kernel file. V floats fill a vector register (-DV=16, 8 or 4).
//
// Memory: one arena of floats. A tensor is a view of it, passed as int4 (offset, image stride, row
// stride, pixel stride) in floats; channels are innermost, padded with zeros to a multiple of V, and
// every stride and offset is a multiple of V, so that vectors are aligned. Only the network's input may
// be unpadded: it is read value by value.
//
// PoCL 3.0 calls its vector builtins instead of inlining them (and passes 512-bit vectors wrongly when
// the processor's name was mended), so: vectors are dereferenced, never vload-ed, and a * b + c,
// comparisons and ?: stand for fma, fmax and select.

#if V == 16
typedef float16 vec;
typedef int16 ivec;
typedef uchar16 bvec;
typedef char16 cvec;
#elif V == 8
typedef float8 vec;
typedef int8 ivec;
typedef uchar8 bvec;
typedef char8 cvec;
#else
typedef float4 vec;
typedef int4 ivec;
typedef uchar4 bvec;
typedef char4 cvec;
#endif

#ifdef __clang__
#define TO_IVEC(x) __builtin_convertvector(x, ivec)
#define TO_BVEC(x) __builtin_convertvector(x, bvec)
#else
#define GLUE_(a, b) a##b
#define GLUE(a, b) GLUE_(a, b)
#define TO_IVEC(x) GLUE(convert_int, V)(x)
#define TO_BVEC(x) GLUE(convert_uchar, V)(x)
#endif

#define GLOBAL_IN __global const float *restrict
#define GLOBAL_OUT __global float *restrict
#define LOAD(p) (*(__global const vec *)(p))
#define STORE(p) (*(__global vec *)(p))

// A group has LANES work-items, a power of two: 1 in the cpu family, as many as the device likes in the gpu
// family. What a group does many times is dealt out to its lanes, neighbours to neighbouring channels; with
// one lane these are plain loops.
//
//   LANE                        this work-item's number in its group
//   DEAL(i, count, step)        every step-th i below count
//   DEAL2(i, rows, j, columns, step)   every i below rows with every step-th j below columns
//   DEAL_TILES(turn, turns, h, h0, h1, dh, w, w0, w1, dw)   every dh-th h in [h0, h1) with every dw-th w in
//                               [w0, w1), dealt out to lanes that take turns
//   CUT, CUTS                   of a group's work, where a second axis of groups shares it: which, of how many
//   SPAN_OF(vectors)            how many lanes lie side by side over that many vectors of channels: a power
//                               of two that divides both; LANES / span of them take turns at the pixels
//   lane_sum, lane_max          over the lanes that lie `span` apart; all lanes of a group must call them,
//                               with SHARED_LANES declared in the kernel
#ifndef LANES
#define LANES 1
#endif
#define DEAL(i, count, step) for (int i = LANE * (step); i < (count); i += LANES * (step))
#if LANES == 1
#define LANE 0
#define DEAL2(i, rows, j, columns, step)  \
    for (int i = 0; i < (rows); i++)      \
        for (int j = 0; j < (columns); j += step)
#define DEAL_TILES(turn, turns, h, h0, h1, dh, w, w0, w1, dw) \
    for (int h = h0; h < (h1); h += dh)                       \
        for (int w = w0; w < (w1); w += dw)
#define CUT 0
#define CUTS 1
#define SPAN_OF(vectors) 1
#define SHARED_LANES
#define lane_sum(x, span) (x)
#define lane_max(x, span) (x)
#else
#define LANE ((int)get_local_id(0))
#define DEAL2(i, rows, j, columns, step)                                                     \
    for (int dealt = LANE * (step), i = dealt / (columns), j = dealt % (columns); i < (rows); \
         dealt += LANES * (step), i = dealt / (columns), j = dealt % (columns))
#define DEAL_TILES(turn, turns, h, h0, h1, dh, w, w0, w1, dw)                                                    \
    for (int dealt = turn, tiles_across = ((w1) - (w0) + (dw) - 1) / (dw), h = (h0) + dealt / tiles_across * (dh), \
             w = (w0) + dealt % tiles_across * (dw);                                                              \
         h < (h1);                                                                                                \
         dealt += turns, h = (h0) + dealt / tiles_across * (dh), w = (w0) + dealt % tiles_across * (dw))
#define CUT GROUP(1)
#define CUTS ((int)get_num_groups(1))
#define SPAN_OF(vectors) MIN_OF((vectors) & -(vectors), LANES)
#define SHARED_LANES __local vec shared_lanes[LANES];
#define lane_sum(x, span) sum_of_lanes(shared_lanes, x, span)
#define lane_max(x, span) max_of_lanes(shared_lanes, x, span)
#endif

// A kernel is written KERNEL(name)(GROUPS arguments) and asks for its group by GROUP(i): it can be a kernel
// by itself, or a function that the one kernel of a fused program calls group after group (fused.cl).
#if V == 16 && defined(__x86_64__)
#define WIDE __attribute__((min_vector_width(512))) // else LLVM halves the vectors of plain functions
#else
#define WIDE
#endif
#ifdef FUSED
#define KERNEL(name) static __attribute__((noinline)) WIDE void name
#define GROUPS const int4 group_,
#define GROUP(i) (group_.s##i)
#else
#define KERNEL(name) __kernel __attribute__((reqd_work_group_size(LANES, 1, 1))) void name
#define GROUPS
#define GROUP(i) ((int)get_group_id(i))
#endif

// A vector of comparison results picks lanes; both sides are evaluated.
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))
#define MIN_OF(a, b) ((a) < (b) ? (a) : (b))

#if LANES > 1
static inline vec sum_of_lanes(__local vec *shared, vec x, int span)
{
    barrier(CLK_LOCAL_MEM_FENCE);
    shared[LANE] = x;
    barrier(CLK_LOCAL_MEM_FENCE);
    vec total = (vec)(0.0f);
    for (int other = LANE % span; other < LANES; other += span) total += shared[other];
    return total;
}

static inline vec max_of_lanes(__local vec *shared, vec x, int span)
{
    barrier(CLK_LOCAL_MEM_FENCE);
    shared[LANE] = x;
    barrier(CLK_LOCAL_MEM_FENCE);
    vec highest = x;
    for (int other = LANE % span; other < LANES; other += span) highest = MAX_OF(highest, shared[other]);
    return highest;
}
#endif

#ifdef BUILTIN_SQRT
#define SQRT(x) __builtin_sqrtf(x)
#else
#define SQRT(x) sqrt(x)
#endif

// Rounded to 8 bits and back, as core/quantization.py does; p: 1 / scale, scale, lowest and highest code
// minus the zero point. Adding and taking away 1.5 * 2**23 rounds ties to even, as rint does.
#define ROUNDING 12582912.0f
static inline vec fake_quantize(vec x, const float4 p)
{
#pragma OPENCL FP_CONTRACT OFF
    vec q = x * p.x;
    q = MIN_OF(MAX_OF(q, (vec)(p.z)), (vec)(p.w));
    q = (q + ROUNDING) - ROUNDING;
    return q * p.y;
}

#ifndef NO_INT64
// x * multiplier * 2**(shift - 31) in integers: multiply_by_quantized_multiplier of core/quantization.py.
static inline int fixed_product(int x, int multiplier, int shift)
{
    const int left = MAX_OF(shift, 0), right = MAX_OF(-shift, 0);
    const long product = ((long)x << left) * multiplier;
    const long nudged = product + (product >= 0 ? 1L << 30 : 1 - (1L << 30));
    const long high = nudged / (1L << 31);
    const long mask = (1L << right) - 1;
    const long remainder = high & mask, threshold = (mask >> 1) + (high < 0);
    return (int)((high >> right) + (remainder > threshold));
}

#if V == 16
#define lvec long8
#define uvec uint16
#define AS_UVEC(x) as_uint16(x)
#define AS_LVEC(x) as_long8(x)
#define AS_IVEC(x) as_int16(x)
#elif V == 8
#define lvec long4
#define uvec uint8
#define AS_UVEC(x) as_uint8(x)
#define AS_LVEC(x) as_long4(x)
#define AS_IVEC(x) as_int8(x)
#else
#define lvec long2
#define uvec uint4
#define AS_UVEC(x) as_uint4(x)
#define AS_LVEC(x) as_long2(x)
#define AS_IVEC(x) as_int4(x)
#endif

// fixed_product(x) + zero point for negative shifts: even and odd lanes multiplied to 64 bits, rounded at bit 31,
// then at bit `right`, ties away from zero. nudge: half of 2**right, and the zero point from bit `right` on.
// ties: 0 rounds negative ties up instead, which does not matter where they end at the zero point either way.
static inline ivec scale_down(ivec x, ivec multiplier, ivec nudge, ivec right, int ties)
{
    const lvec a = AS_LVEC(x), m = AS_LVEC(multiplier);
    const lvec even = ((a << 32) >> 32) * ((m << 32) >> 32) + (1L << 30);
    const lvec odd = (a >> 32) * (m >> 32) + (1L << 30);
    const ivec high = AS_IVEC(((even >> 31) & 0xffffffffL) | ((odd << 1) & ~0xffffffffL));
    return ((ties ? high + (high >> 31) : high) + nudge) >> right;
}
#endif
