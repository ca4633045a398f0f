// What an int8 network does besides convolution. Layout as in prelude.cl, in bytes: codes, or codes + 128
// where UNSIGNED (zero points and limits come in the same way). Exact: the same bits as the numpy reference
// (engine/numpy_backend/integer.py).
//
//   quantize       clip(rint(x * (1 / scale)) + zero point) of the network's input
//   max pool       largest code of each window; pixels outside the image never win
//   average pool   sum over h and w, or over a window's pixels, divided by their number, halves away from zero
//   add            both operands raised by 20 bits, rescaled, added, rescaled again
//   relu           rescaled, cut off below the zero point
//   copy, reshape  codes as they are;   fill: one code everywhere, for the halo
//
// Versions (group: output row and image, or image; its pixels dealt out to the lanes). quantize, max pool and
// average pool take vectors of channels, the others are naive.

#ifdef UNSIGNED
#define code_t uchar
#define codes_t bvec
#define CODE_OFFSET 128
#define TO_CODES(x) TO_BVEC(x)
#else
#define code_t char
#define codes_t cvec
#define CODE_OFFSET 0
#ifdef __clang__
#define TO_CODES(x) __builtin_convertvector(x, cvec)
#else
#define TO_CODES(x) GLUE(convert_char, V)(x)
#endif
#endif

#define IN __global const code_t *restrict
#define OUT __global code_t *restrict

#ifdef __clang__
#if V == 16
#define FOUR_OF_THREE(x) __builtin_shufflevector(x, x, 0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11)
#elif V == 8
#define FOUR_OF_THREE(x) __builtin_shufflevector(x, x, 0, 1, 2, 2, 3, 4, 5, 5)
#else
#define FOUR_OF_THREE(x) (x)
#endif
#endif

static inline code_t clip(int code, int4 limits)
{
    return (code_t)MIN_OF(MAX_OF(code + limits.x, limits.y), limits.z);
}

// q: 1 / scale, lowest and highest code without the zero point, zero point.
static inline ivec to_codes(vec x, const float4 q)
{
#pragma OPENCL FP_CONTRACT OFF
    vec scaled = x * q.x;
    scaled = MIN_OF(MAX_OF(scaled, (vec)(q.y)), (vec)(q.z));
    return TO_IVEC((scaled + ROUNDING) - ROUNDING + q.w);
}

// x: (N, H, W, C), with V floats behind the last that may be read.   size: H, W, C, channels stored of y.
KERNEL(quantize_s8)(GROUPS __global const float *restrict x, OUT y, const int4 yv, const int4 size, const float4 q)
{
    const int h = GROUP(0), n = GROUP(1);
    __global const float *restrict row = x + (n * size.x + h) * size.y * size.z;
    OUT out = y + yv.x + n * yv.y + h * yv.z;
#ifdef __clang__
    typedef vec loose __attribute__((aligned(4)));
    typedef codes_t loose_codes __attribute__((aligned(4)));
    typedef ivec loose_ints __attribute__((aligned(4)));
    if (size.w == 4 && size.z == 3 && size.y >= V / 4) {
        DEAL(start, size.y, V / 4) {
            const int w = MIN_OF(start, size.y - V / 4);
            const vec pixels = FOUR_OF_THREE(*(__global const loose *)(row + 3 * w));
            *(__global loose_codes *)(out + 4 * w) = TO_CODES(to_codes(pixels, q));
        }
        return;
    }
    if (size.w == 4 && size.z == 1 && size.y >= V) {
        DEAL(start, size.y, V) {
            const int w = MIN_OF(start, size.y - V);
            *(__global loose_ints *)(out + 4 * w) = to_codes(*(__global const loose *)(row + w), q);
        }
        return;
    }
#endif
    DEAL(w, size.y, 1)
        for (int c = 0; c < size.z; c++)
            out[w * size.w + c] = (code_t)to_codes((vec)(row[w * size.z + c]), q).s0;
}

#define LARGEST_OF_WINDOW(type)                                                                               \
    {                                                                                                         \
        type largest = (type)(CODE_OFFSET - 128);                                                             \
        for (int i = i0; i < i1; i++)                                                                         \
            for (int j = j0; j < j1; j++) {                                                                   \
                const type value = *(__global const type *)(corner + i * xv.z + j * xv.w + c);                \
                largest = MAX_OF(value, largest);                                                             \
            }                                                                                                 \
        *(__global type *)(out + c) = largest;                                                                \
    }

// window: KH, KW, stride down, stride across.   size: W of y, C in whole vectors, H, W of x.   pad: top, left.
KERNEL(max_pool_s8)(GROUPS IN x, OUT y, const int4 xv, const int4 yv, const int4 window, const int4 size,
                    const int2 pad)
{
    const int h = GROUP(0), n = GROUP(1);
#ifdef __clang__
    typedef code_t wide __attribute__((ext_vector_type(64), aligned(4)));
#endif
    const int top = h * window.z - pad.x;
    const int i0 = MAX_OF(-top, 0), i1 = MIN_OF(size.z - top, window.x);
    DEAL(w, size.x, 1) {
        const int left = w * window.w - pad.y;
        const int j0 = MAX_OF(-left, 0), j1 = MIN_OF(size.w - left, window.y);
        IN corner = x + xv.x + n * xv.y + top * xv.z + left * xv.w;
        OUT out = y + yv.x + n * yv.y + h * yv.z + w * yv.w;
        int c = 0;
#ifdef __clang__
        for (; c + 64 <= size.y; c += 64) LARGEST_OF_WINDOW(wide)
#endif
        for (; c < size.y; c += V) LARGEST_OF_WINDOW(codes_t)
    }
}

// Halves away from zero, stored.
static inline codes_t mean_code(ivec total, int count)
{
    const ivec away = MAX_OF(total, -total) + count / 2;
    ivec mean = away / count;
    mean = (total < 0 ? -mean : mean) + CODE_OFFSET;
    return TO_CODES(MIN_OF(MAX_OF(mean, (ivec)(CODE_OFFSET - 128)), (ivec)(CODE_OFFSET + 127)));
}

// size: H, W.   One group: a vector of channels of an image.
KERNEL(average_pool_s8)(GROUPS IN x, OUT y, const int4 xv, const int4 yv, const int2 size)
{
    const int c = GROUP(0) * V, n = GROUP(1), count = size.x * size.y;
    if (LANE > 0) return;
    ivec total = (ivec)(-CODE_OFFSET * count);
    for (int h = 0; h < size.x; h++)
        for (int w = 0; w < size.y; w++)
            total += TO_IVEC(*(__global const codes_t *)(x + xv.x + n * xv.y + h * xv.z + w * xv.w + c));
    *(__global codes_t *)(y + yv.x + n * yv.y + c) = mean_code(total, count);
}

// Arguments as those of max_pool_s8: the mean of the pixels inside the image.
KERNEL(window_average_pool_s8)(GROUPS IN x, OUT y, const int4 xv, const int4 yv, const int4 window,
                               const int4 size, const int2 pad)
{
    const int h = GROUP(0), n = GROUP(1), top = h * window.z - pad.x;
    const int i0 = MAX_OF(-top, 0), i1 = MIN_OF(size.z - top, window.x);
    DEAL2(w, size.x, c, size.y, V) {
        const int left = w * window.w - pad.y;
        const int j0 = MAX_OF(-left, 0), j1 = MIN_OF(size.w - left, window.y), count = (i1 - i0) * (j1 - j0);
        IN corner = x + xv.x + n * xv.y + top * xv.z + left * xv.w + c;
        ivec total = (ivec)(-CODE_OFFSET * count);
        for (int i = i0; i < i1; i++)
            for (int j = j0; j < j1; j++) total += TO_IVEC(*(__global const codes_t *)(corner + i * xv.z + j * xv.w));
        *(__global codes_t *)(y + yv.x + n * yv.y + h * yv.z + w * yv.w + c) = mean_code(total, count);
    }
}

// Each channel `times` times, side by side.   size: W, C of y.
KERNEL(repeat_channels_s8)(GROUPS IN x, OUT y, const int4 xv, const int4 yv, const int2 size, const int times)
{
    const int h = GROUP(0), n = GROUP(1);
    DEAL2(w, size.x, c, size.y, 1)
        y[yv.x + n * yv.y + h * yv.z + w * yv.w + c] = x[xv.x + n * xv.y + h * xv.z + w * xv.w + c / times];
}

// size: W, C.   points: zero points of a and b.   factors, shifts: of a, of b, of the sum.
KERNEL(add_s8)(GROUPS IN a, IN b, OUT y, const int4 av, const int4 bv, const int4 yv, const int2 size,
               const int2 points, const int4 factors, const int4 shifts, const int4 limits)
{
    const int h = GROUP(0), n = GROUP(1);
    DEAL(w, size.x, 1)
        for (int c = 0; c < size.y; c++) {
            const int left = (a[av.x + n * av.y + h * av.z + w * av.w + c] - points.x) * (1 << 20);
            const int right = (b[bv.x + n * bv.y + h * bv.z + w * bv.w + c] - points.y) * (1 << 20);
            const int sum =
                fixed_product(left, factors.x, shifts.x) + fixed_product(right, factors.y, shifts.y);
            y[yv.x + n * yv.y + h * yv.z + w * yv.w + c] =
                clip(fixed_product(sum, factors.z, shifts.z), limits);
        }
}

// size: W, C.   factor: zero point of x, multiplier, shift.
KERNEL(relu_s8)(GROUPS IN x, OUT y, const int4 xv, const int4 yv, const int2 size, const int4 factor,
                const int4 limits)
{
    const int h = GROUP(0), n = GROUP(1);
    DEAL(w, size.x, 1)
        for (int c = 0; c < size.y; c++) {
            const int value = x[xv.x + n * xv.y + h * xv.z + w * xv.w + c] - factor.x;
            y[yv.x + n * yv.y + h * yv.z + w * yv.w + c] =
                clip(fixed_product(value, factor.y, factor.z), limits);
        }
}

KERNEL(copy_s8)(GROUPS IN x, OUT y, const int4 xv, const int4 yv, const int2 size)
{
    const int h = GROUP(0), n = GROUP(1);
    DEAL(w, size.x, 1)
        for (int c = 0; c < size.y; c++)
            y[yv.x + n * yv.y + h * yv.z + w * yv.w + c] = x[xv.x + n * xv.y + h * xv.z + w * xv.w + c];
}

// from, to: H, W, C of each shape.
KERNEL(reshape_s8)(GROUPS IN x, OUT y, const int4 xv, const int4 yv, const int4 from, const int4 to)
{
    const int n = GROUP(0);
    DEAL(e, from.x * from.y * from.z, 1) {
        const int pixel = e / from.z, target = e / to.z;
        y[yv.x + n * yv.y + target / to.y * yv.z + target % to.y * yv.w + e % to.z] =
            x[xv.x + n * xv.y + pixel / from.y * xv.z + pixel % from.y * xv.w + e % from.z];
    }
}

KERNEL(fill_s8)(GROUPS OUT y, const int offset, const int count, const int stretch, const int code)
{
    const int first = GROUP(0) * stretch, end = MIN_OF(first + stretch, count);
    for (int i = first + LANE; i < end; i += LANES) y[offset + i] = (code_t)code;
}
