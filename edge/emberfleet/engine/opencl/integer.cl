// What an int8 network does besides convolution. Layout as in prelude.cl, in bytes. Exact: the same bits
// as the numpy reference (engine/numpy_backend/integer.py).
//
//   max pool       largest code of each window; pixels outside the image never win
//   average pool   sum over h and w divided by their number, halves away from zero
//   add            both operands raised by 20 bits, rescaled, added, rescaled again
//   relu           rescaled, cut off below the zero point
//   copy, reshape  codes as they are;   fill: one code everywhere, for the halo
//
// Versions (naive, one work-item per group; group: output row and image, or image).

#define IN __global const char *restrict
#define OUT __global char *restrict

static inline char clip(int code, int4 limits)
{
    return (char)MIN_OF(MAX_OF(code + limits.x, limits.y), limits.z);
}

// window: KH, KW, stride down, stride across.   size: W of y, C, H, W of x.   pad: top, left.
KERNEL(max_pool_s8)(GROUPS IN x, OUT y, const int4 xv, const int4 yv, const int4 window, const int4 size,
                        const int2 pad)
{
    const int h = GROUP(0), n = GROUP(1);
    const int top = h * window.z - pad.x;
    const int i0 = MAX_OF(-top, 0), i1 = MIN_OF(size.z - top, window.x);
    for (int w = 0; w < size.x; w++) {
        const int left = w * window.w - pad.y;
        const int j0 = MAX_OF(-left, 0), j1 = MIN_OF(size.w - left, window.y);
        IN corner = x + xv.x + n * xv.y + top * xv.z + left * xv.w;
        OUT out = y + yv.x + n * yv.y + h * yv.z + w * yv.w;
        for (int c = 0; c < size.y; c++) out[c] = corner[i0 * xv.z + j0 * xv.w + c];
        for (int i = i0; i < i1; i++)
            for (int j = j0; j < j1; j++)
                for (int c = 0; c < size.y; c++) out[c] = MAX_OF(corner[i * xv.z + j * xv.w + c], out[c]);
    }
}

// size: H, W, C.
KERNEL(average_pool_s8)(GROUPS IN x, OUT y, const int4 xv, const int4 yv, const int4 size)
{
    const int n = GROUP(0), count = size.x * size.y;
    for (int c = 0; c < size.z; c++) {
        int total = 0;
        for (int h = 0; h < size.x; h++)
            for (int w = 0; w < size.y; w++) total += x[xv.x + n * xv.y + h * xv.z + w * xv.w + c];
        const int mean = total < 0 ? -((count / 2 - total) / count) : (count / 2 + total) / count;
        y[yv.x + n * yv.y + c] = (char)MIN_OF(MAX_OF(mean, -128), 127);
    }
}

// size: W, C.   points: zero points of a and b.   factors, shifts: of a, of b, of the sum.
KERNEL(add_s8)(GROUPS IN a, IN b, OUT y, const int4 av, const int4 bv, const int4 yv, const int2 size,
                   const int2 points, const int4 factors, const int4 shifts, const int4 limits)
{
    const int h = GROUP(0), n = GROUP(1);
    for (int w = 0; w < size.x; w++)
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
    for (int w = 0; w < size.x; w++)
        for (int c = 0; c < size.y; c++) {
            const int value = x[xv.x + n * xv.y + h * xv.z + w * xv.w + c] - factor.x;
            y[yv.x + n * yv.y + h * yv.z + w * yv.w + c] =
                clip(fixed_product(value, factor.y, factor.z), limits);
        }
}

KERNEL(copy_s8)(GROUPS IN x, OUT y, const int4 xv, const int4 yv, const int2 size)
{
    const int h = GROUP(0), n = GROUP(1);
    for (int w = 0; w < size.x; w++)
        for (int c = 0; c < size.y; c++)
            y[yv.x + n * yv.y + h * yv.z + w * yv.w + c] = x[xv.x + n * xv.y + h * xv.z + w * xv.w + c];
}

// from, to: H, W, C of each shape.
KERNEL(reshape_s8)(GROUPS IN x, OUT y, const int4 xv, const int4 yv, const int4 from, const int4 to)
{
    const int n = GROUP(0);
    for (int e = 0; e < from.x * from.y * from.z; e++) {
        const int pixel = e / from.z, target = e / to.z;
        y[yv.x + n * yv.y + target / to.y * yv.z + target % to.y * yv.w + e % to.z] =
            x[xv.x + n * xv.y + pixel / from.y * xv.z + pixel % from.y * xv.w + e % from.z];
    }
}

KERNEL(fill_s8)(GROUPS OUT y, const int offset, const int count, const int stretch, const int code)
{
    const int first = GROUP(0) * stretch, end = MIN_OF(first + stretch, count);
    for (int i = first; i < end; i++) y[offset + i] = (char)code;
}
