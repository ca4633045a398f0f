// Convolution in int8 with int32 sums, requantized in the epilogue.
//
//   y[n,h,w,o] = clip(fixed(b[o] + sum over i,j,c of x[n, h*s+i, w*s+j, c] * W[i,j,c,o]) + z, low, high)
//
// The input's zero point is taken out in b; the halo holds it. fixed() is the fixed-point product of
// core/quantization.py. Layout as in conv2d.cl, in bytes: codes, or codes + 128 where UNSIGNED.
// One launch computes several convolutions that read the same x: each panel of NV vectors of output
// channels has a record of its own (below) and its weights one after the other: (KH, KW, C / GRAIN, NV * V,
// GRAIN), as bytes, or as floats for the float form.
//
// Versions, by DOT:
//   0 plain      int32 products, channel by channel
//   1 float      float weights, float sums of integers: exact while KH*KW*C * 128 * 127 < 2**24
//   2 packed     four channels at a time, in plain C: the twin of those below
//   3 vpdpbusd   x86 VNNI: unsigned codes by signed weights; the 128 is taken out in b
//   4 sdot       Arm
//   5 khr        cl_khr_integer_dot_product; KHR_DOT stands for its builtin in the tests
// In the gpu family the lanes of a group share the tiles of a row.
// Exact: the same bits as the numpy reference. Sums wrap at 2**32 on the way, which the end does not see.

#ifdef UNSIGNED
#define code_t uchar
#define CODES bvec
#define HIGHEST 255
#define SATURATED(x) TO_BVEC(MIN_OF(AS_UVEC(x), (uvec)(HIGHEST)))
#else
#define code_t char
#define CODES cvec
#define HIGHEST 127
#ifdef __clang__
#define SATURATED(x) __builtin_convertvector(MIN_OF(x, (ivec)(HIGHEST)), cvec)
#else
#define SATURATED(x) GLUE(convert_char, V)(MIN_OF(x, (ivec)(HIGHEST)))
#endif
#endif

// Behind a ReLU the rounding of negative ties does not matter.
#ifdef RELU
#define TIES 0
#else
#define TIES 1
#endif

#if DOT == 1
#define sum_t vec
#define WEIGHT_BYTES 4
#define LOAD_WEIGHT(p) LOAD((__global const float *)(p))
#define BROADCAST(p) ((vec)((float)*(p)))
#define START(bias) ((vec)(0.0f))
#define FINISH(sum, bias) (TO_IVEC(sum) + (bias))
#define MULTIPLY_ADD(sum, value, weights) ((sum) + (value) * (weights))
#else
#define sum_t ivec
#define START(bias) (bias)
#define FINISH(sum, bias) (sum)
#endif

#if DOT == 0
#define WEIGHT_BYTES 1
#define LOAD_WEIGHT(p) TO_IVEC(*(__global const cvec *)(p))
#define BROADCAST(p) ((ivec)((int)*(p)))
#define MULTIPLY_ADD(sum, value, weights) ((sum) + (value) * (weights))
#endif

#if DOT >= 2
#define GRAIN 4
#define WEIGHT_BYTES 4
#define LOAD_WEIGHT(p) (*(__global const ivec *)(p))
#define BROADCAST(p) ((ivec)(*(__global const int *)(p)))
#else
#define GRAIN 1
#endif

#if DOT == 3 && V == 16 && defined(__AVX512VNNI__)
#define MULTIPLY_ADD(sum, value, weights) __builtin_ia32_vpdpbusd512(sum, value, weights)
#elif DOT == 3 && V == 8 && (defined(__AVX512VNNI__) && defined(__AVX512VL__) || defined(__AVXVNNI__))
#define MULTIPLY_ADD(sum, value, weights) __builtin_ia32_vpdpbusd256(sum, value, weights)
#elif DOT == 4 && V == 4 && defined(__aarch64__) && defined(__clang__)
// Drivers build for the least of Arm's 64-bit processors; the host knows that this one has the instruction.
static inline ivec dot_add(ivec sum, ivec value, ivec weights)
{
    __asm__(".arch_extension dotprod\n sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(value), "w"(weights));
    return sum;
}
#define MULTIPLY_ADD(sum, value, weights) dot_add(sum, value, weights)
#elif DOT == 5 && (defined(__opencl_c_integer_dot_product_input_4x8bit_packed) || defined(KHR_DOT))
static inline ivec dot_add(ivec sum, ivec value, ivec weights)
{
    ivec result;
    #pragma unroll
    for (int lane = 0; lane < V; lane++)
#ifdef KHR_DOT
        result[lane] = sum[lane] + KHR_DOT((uint)value[lane], (uint)weights[lane]);
#else
        result[lane] = sum[lane] + dot_4x8packed_ss_int((uint)value[lane], (uint)weights[lane]);
#endif
    return result;
}
#define MULTIPLY_ADD(sum, value, weights) dot_add(sum, value, weights)
#elif DOT >= 2
#ifdef UNSIGNED
#define BYTE_OF(x, shift) (((x) >> (shift)) & 255)
#else
#define BYTE_OF(x, shift) ((x) << (24 - (shift)) >> 24)
#endif
#define WEIGHT_OF(x, shift) ((x) << (24 - (shift)) >> 24)
#define MULTIPLY_ADD(sum, value, weights)                                                                    \
    ((sum) + BYTE_OF(value, 0) * WEIGHT_OF(weights, 0) + BYTE_OF(value, 8) * WEIGHT_OF(weights, 8) +         \
     BYTE_OF(value, 16) * WEIGHT_OF(weights, 16) + BYTE_OF(value, 24) * WEIGHT_OF(weights, 24))
#endif

// A panel's record: 16 ints, then bias, multiplier, nudge, right for each output channel
// (bias, multiplier, shift where PLAIN_SCALING says that scale_down does not suit them).
#define RECORD 16
#define X_OFFSET 0
#define ROWS 1
#define COLUMNS 2
#define GRAINS 3
#define WEIGHTS 4
#define Y_CHANNEL 5
#define LOW 6
#define PLAIN_SCALING 7
#define ZERO_POINT 8

// xv: offset, image stride, step per output row, step per output pixel.   taps: step per window row, column.
// size: H, W of y.   cut: offset of the first record, rows and columns per part, parts across.
KERNEL(conv2d_forward_s8)(GROUPS __global const code_t *restrict x, __global const char *restrict weight,
                          __global const int *restrict numbers, __global code_t *restrict y, const int4 xv,
                          const int2 taps, const int4 yv, const int2 size, const int4 cut)
{
    const int panel = GROUP(0), part = GROUP(1), n = GROUP(2);
    __global const int *restrict record = numbers + cut.x + panel * (RECORD + 4 * NV * V);
    const int h_first = part / cut.w * cut.y, h_end = MIN_OF(h_first + cut.y, size.x);
    const int w_first = part % cut.w * cut.z, w_end = MIN_OF(w_first + cut.z, size.y);
    const int grains = record[GRAINS], rows = record[ROWS], columns = record[COLUMNS];
    __global const code_t *restrict x_image = x + xv.x + record[X_OFFSET] + n * xv.y;
    __global code_t *restrict y_image = y + yv.x + n * yv.y + record[Y_CHANNEL];
    __global const ivec *restrict bias = (__global const ivec *)(record + RECORD);
    __global const ivec *restrict multiplier = bias + NV, *restrict nudge = bias + 2 * NV, *restrict right = bias + 3 * NV;
    for (int h_start = h_first; h_start < h_end; h_start += MRY) {
        const int h = MIN_OF(h_start, size.x - MRY);
        for (int w_start = w_first + LANE * MRX; w_start < w_end; w_start += LANES * MRX) {
            const int w = MIN_OF(w_start, size.y - MRX);
            __global const code_t *restrict corner = x_image + h * xv.z + w * xv.w;
            __global code_t *restrict out = y_image + h * yv.z + w * yv.w;
            sum_t acc[MRY][MRX][NV];
            #pragma unroll
            for (int v = 0; v < NV; v++)
                #pragma unroll
                for (int i = 0; i < MRY; i++)
                    #pragma unroll
                    for (int j = 0; j < MRX; j++) acc[i][j][v] = START(bias[v]);
            __global const char *restrict b = weight + record[WEIGHTS];
            for (int kh = 0; kh < rows; kh++)
                for (int kw = 0; kw < columns; kw++) {
                    __global const code_t *restrict a = corner + kh * taps.x + kw * taps.y;
                    for (int c = 0; c < grains; c += STEP, a += STEP * GRAIN) {
                        #pragma unroll
                        for (int s = 0; s < STEP; s++, b += NV * V * WEIGHT_BYTES) {
                            sum_t column[NV];
                            #pragma unroll
                            for (int v = 0; v < NV; v++) column[v] = LOAD_WEIGHT(b + v * V * WEIGHT_BYTES);
                            #pragma unroll
                            for (int i = 0; i < MRY; i++)
                                #pragma unroll
                                for (int j = 0; j < MRX; j++) {
                                    const sum_t value = BROADCAST(a + i * xv.z + j * xv.w + s * GRAIN);
                                    #pragma unroll
                                    for (int v = 0; v < NV; v++)
                                        acc[i][j][v] = MULTIPLY_ADD(acc[i][j][v], value, column[v]);
                                }
                        }
                    }
                }
            if (!record[PLAIN_SCALING]) {
                const ivec low = (ivec)(record[LOW]);
                #pragma unroll
                for (int v = 0; v < NV; v++)
                    #pragma unroll
                    for (int i = 0; i < MRY; i++)
                        #pragma unroll
                        for (int j = 0; j < MRX; j++) {
                            ivec code = scale_down(FINISH(acc[i][j][v], bias[v]), multiplier[v], nudge[v], right[v], TIES);
                            code = MAX_OF(code, low);
                            *(__global CODES *)(out + i * yv.z + j * yv.w + v * V) = SATURATED(code);
                        }
                continue;
            }
            ivec sums[MRY * MRX * NV];
            #pragma unroll
            for (int i = 0; i < MRY; i++)
                #pragma unroll
                for (int j = 0; j < MRX; j++)
                    #pragma unroll
                    for (int v = 0; v < NV; v++) sums[(i * MRX + j) * NV + v] = FINISH(acc[i][j][v], bias[v]);
            #pragma unroll 1
            for (int pixel = 0; pixel < MRY * MRX; pixel++) {
                __global code_t *restrict codes = out + pixel / MRX * yv.z + pixel % MRX * yv.w;
                const int *sum = (const int *)(sums + pixel * NV);
                __global const int *factor = (__global const int *)multiplier, *shift = (__global const int *)nudge;
                #pragma clang loop vectorize(disable) unroll(disable)
                for (int o = 0; o < NV * V; o++) {
                    const int code = fixed_product(sum[o], factor[o], shift[o]) + record[ZERO_POINT];
                    codes[o] = (code_t)MIN_OF(MAX_OF(code, record[LOW]), HIGHEST);
                }
            }
        }
    }
}
