// Depthwise convolution in int8, requantized in the epilogue.
//
//   y[n,h,w,c] = clip(fixed(b[c] + sum over i,j of x[n, h*s+i, w*s+j, c] * W[i,j,c]) + z, low, high)
//
// The input's zero point is taken out in b; the halo holds it. fixed() is the fixed-point product of
// core/quantization.py. Layout as in depthwise.cl, in bytes: codes, or codes + 128 where UNSIGNED. Sums are made
// in float of integers, exact while KH*KW * 255 * 127 < 2**24, or of integers (INTEGERS).
//
// Versions (group: row blocks, panel of channels; lanes as in depthwise.cl):
//   depthwise_s8 (KH, KW, SY, SX, MRX, MRY)   window and stride known when compiled
//   depthwise_any_s8                          any window and stride, naive
// Exact: the same bits as the numpy reference. Sums wrap at 2**32 on the way, which the end does not see.

#ifdef UNSIGNED
#define code_t uchar
#define CODES bvec
#define HIGHEST 255
#define SATURATED(x) TO_CODES(MIN_OF(AS_UVEC(x), (uvec)(HIGHEST)))
#else
#define code_t char
#define CODES cvec
#define HIGHEST 127
#define SATURATED(x) TO_CODES(MIN_OF(x, (ivec)(HIGHEST)))
#endif

// Behind a ReLU the rounding of negative ties does not matter.
#ifdef RELU
#define TIES 0
#else
#define TIES 1
#endif

#ifdef INTEGERS
#define sum_t ivec
#define number_t int
#define TO_SUM(x) TO_IVEC(x)
#define TO_WHOLE(x) (x)
#else
#define sum_t vec
#define number_t float
#define TO_SUM(x) TO_VEC(TO_IVEC(x))
#define TO_WHOLE(x) TO_IVEC(x)
#endif
#ifdef __clang__
#define TO_VEC(x) __builtin_convertvector(x, vec)
#define TO_CODES(x) __builtin_convertvector(x, CODES)
#else
#define TO_VEC(x) GLUE(convert_float, V)(x)
#ifdef UNSIGNED
#define TO_CODES(x) TO_BVEC(x)
#else
#define TO_CODES(x) GLUE(convert_char, V)(x)
#endif
#endif
#define LOAD_CODES(p) TO_SUM(*(__global const CODES *)(p))
#define LOAD_TAP(p) (*(__global const sum_t *)(p))
#define LOAD_NUMBERS(p) (*(__global const ivec *)(p))

#define LANES_OF_PANEL const int span = SPAN_OF(panel / V), turn = LANE / span, turns = LANES / span;
#define FOR_EACH_CHANNEL for (int c = LANE % span * V; c < panel; c += span * V)
#define FOR_EACH_PLACE(start, end) for (int start = turn * MRX; start < end; start += turns * MRX)
#if LANES == 1
#define FOR_EACH_TILE(start, end) FOR_EACH_PLACE(start, end) FOR_EACH_CHANNEL
#else
#define FOR_EACH_TILE(start, end) FOR_EACH_CHANNEL FOR_EACH_PLACE(start, end)
#endif
#define FOR_EACH_BLOCK                                                          \
    const int first = GROUP(0) * cut.x, end = MIN_OF(first + cut.x, cut.z);     \
    for (int block = first; block < end; block++)

// What sums of V channels are finished with: bias, multiplier, nudge, right, each C padded channels in memory; bias,
// multiplier, shift where PLAIN.
#define LOAD_ENDING(numbers, channels)                                                             \
    const ivec bias = LOAD_NUMBERS(numbers), multiplier = LOAD_NUMBERS((numbers) + (channels)),      \
               nudge = LOAD_NUMBERS((numbers) + 2 * (channels)), right = LOAD_NUMBERS((numbers) + 3 * (channels));

static inline void finish(__global code_t *out, ivec sum, ivec multiplier, ivec nudge, ivec right, const int4 limits)
{
#ifdef PLAIN
    for (int lane = 0; lane < V; lane++) {
        const int factor = ((const int *)&multiplier)[lane], shift = ((const int *)&nudge)[lane];
        const int code = fixed_product(((const int *)&sum)[lane], factor, shift) + limits.x;
        out[lane] = (code_t)MIN_OF(MAX_OF(code, limits.y), HIGHEST);
    }
#else
    const ivec code = scale_down(sum, multiplier, nudge, right, TIES);
    *(__global CODES *)out = SATURATED(MAX_OF(code, (ivec)(limits.y)));
#endif
}

#ifdef KH
// xv: offset of the first tap of the first pixel, image stride, step per stored row, per stored pixel.
// size: H, W of y.   cut: row blocks per group, row blocks of an image, of all images, channels of a panel.
// wv: offset of the weights in bytes, of the numbers, padded C, unused.   limits: zero point, lowest code.
KERNEL(depthwise_s8)(GROUPS __global const code_t *restrict x, __global const char *restrict weight,
                     __global const int *restrict numbers, __global code_t *restrict y, const int4 xv,
                     const int4 yv, const int2 size, const int4 cut, const int4 wv, const int4 limits)
{
#pragma OPENCL FP_CONTRACT ON
    const int panel = cut.w, c0 = GROUP(1) * panel;
    LANES_OF_PANEL
    __global const number_t *restrict window = (__global const number_t *)(weight + wv.x) + c0;
    FOR_EACH_BLOCK {
        const int n = block / cut.y, h_start = block % cut.y * MRY, h = MIN_OF(h_start, size.x - MRY);
        __global const code_t *restrict x_row = x + xv.x + n * xv.y + h * SY * xv.z + c0;
        __global code_t *restrict y_row = y + yv.x + n * yv.y + h * yv.z + c0;
        FOR_EACH_TILE(w_start, size.y) {
            const int w = MIN_OF(w_start, size.y - MRX);
            __global const code_t *restrict corner = x_row + w * SX * xv.w + c;
            __global code_t *restrict out = y_row + w * yv.w + c;
            LOAD_ENDING(numbers + wv.y + c0 + c, wv.z)
            sum_t taps[KH][KW], acc[MRY][MRX];
            #pragma unroll
            for (int i = 0; i < KH; i++)
                #pragma unroll
                for (int j = 0; j < KW; j++) taps[i][j] = LOAD_TAP(window + (i * KW + j) * wv.z + c);
            #pragma unroll
            for (int i = 0; i < MRY; i++)
                #pragma unroll
                for (int j = 0; j < MRX; j++) acc[i][j] = (sum_t)(0);
            #pragma unroll
            for (int r = 0; r < (MRY - 1) * SY + KH; r++)
                #pragma unroll
                for (int k = 0; k < (MRX - 1) * SX + KW; k++) {
                    const sum_t value = LOAD_CODES(corner + r * xv.z + k * xv.w);
                    #pragma unroll
                    for (int i = 0; i < MRY; i++)
                        #pragma unroll
                        for (int j = 0; j < MRX; j++)
                            if (r >= i * SY && r < i * SY + KH && k >= j * SX && k < j * SX + KW)
                                acc[i][j] += value * taps[r - i * SY][k - j * SX];
                }
            #pragma unroll
            for (int i = 0; i < MRY; i++)
                #pragma unroll
                for (int j = 0; j < MRX; j++)
                    if (h + i >= h_start && w + j >= w_start)
                        finish(out + i * yv.z + j * yv.w, TO_WHOLE(acc[i][j]) + bias, multiplier, nudge, right,
                               limits);
        }
    }
}

#else
// window: KH, KW, stride down, stride across; the rest as above, a block being a row.
KERNEL(depthwise_any_s8)(GROUPS __global const code_t *restrict x, __global const char *restrict weight,
                         __global const int *restrict numbers, __global code_t *restrict y, const int4 xv,
                         const int4 yv, const int2 size, const int4 cut, const int4 wv, const int4 limits,
                         const int4 window)
{
#pragma OPENCL FP_CONTRACT ON
    const int panel = cut.w, c0 = GROUP(1) * panel;
    FOR_EACH_BLOCK {
        const int n = block / cut.y, h = block % cut.y;
        DEAL2(w, size.y, c, panel, V) {
            __global const code_t *restrict corner =
                x + xv.x + n * xv.y + h * window.z * xv.z + w * window.w * xv.w + c0 + c;
            __global const number_t *restrict tap = (__global const number_t *)(weight + wv.x) + c0 + c;
            sum_t total = (sum_t)(0);
            for (int i = 0; i < window.x; i++)
                for (int j = 0; j < window.y; j++, tap += wv.z)
                    total += LOAD_CODES(corner + i * xv.z + j * xv.w) * LOAD_TAP(tap);
            LOAD_ENDING(numbers + wv.y + c0 + c, wv.z)
            finish(y + yv.x + n * yv.y + h * yv.z + w * yv.w + c0 + c, TO_WHOLE(total) + bias, multiplier, nudge,
                   right, limits);
        }
    }
}
#endif
