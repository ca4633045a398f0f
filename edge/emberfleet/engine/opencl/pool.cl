// Pooling, forward and backward.
//
//   max      y[n,h,w,c] = max over the window of x;  where[n,h,w,c] = kh * KW + kw of the first maximum
//            dx: each dy goes to that place
//   average  y[n,c] = sum over h,w of x / (H*W);  dx[n,h,w,c] = dy[n,c] / (H*W)
//
// Pixels outside the image never win, whatever lies in the halo.
//
// Versions (naive, one work-item per group): max_pool_forward_f32 (group: output row, image),
// max_pool_backward_f32 and global_average_pool_*_f32 (group: vector of channels, image).
// Tolerance: exact for max; reduction length H*W for the average.

// window: KH, KW, stride down, stride across.   size: H, W of y, H, W of x.
// pad: at the top, at the left, offset of where (in the arena, in floats; -1: not wanted), padded C.
KERNEL(max_pool_forward_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, const int4 xv, const int4 yv, const int4 window,
                                 const int4 size, const int4 pad)
{
    const int h = GROUP(0), n = GROUP(1);
    const int top = h * window.z - pad.x;
    const int i0 = MAX_OF(-top, 0), i1 = MIN_OF(size.z - top, window.x);
    for (int w = 0; w < size.y; w++) {
        const int left = w * window.w - pad.y;
        const int j0 = MAX_OF(-left, 0), j1 = MIN_OF(size.w - left, window.y);
        GLOBAL_IN corner = x + xv.x + n * xv.y + top * xv.z + left * xv.w;
        for (int c = 0; c < pad.w; c += V) {
            vec best = LOAD(corner + i0 * xv.z + j0 * xv.w + c);
            ivec place = (ivec)(i0 * window.y + j0);
            for (int i = i0; i < i1; i++)
                for (int j = j0; j < j1; j++) {
                    const vec value = LOAD(corner + i * xv.z + j * xv.w + c);
                    const ivec better = value > best;
                    best = better ? value : best;
                    place = better ? (ivec)(i * window.y + j) : place;
                }
            STORE(y + yv.x + n * yv.y + h * yv.z + w * yv.w + c) = best;
            if (pad.z >= 0)
                *(__global bvec *)((__global uchar *)(y + pad.z) + ((n * size.x + h) * size.y + w) * pad.w + c) =
                    TO_BVEC(place);
        }
    }
}

// accumulate: add to what is in dx; otherwise dx is cleared first.
KERNEL(max_pool_backward_f32)(GROUPS GLOBAL_IN dy, GLOBAL_OUT dx, const int4 dv, const int4 xv, const int4 window,
                                  const int4 size, const int4 pad, const int accumulate)
{
    const int c = GROUP(0) * V, n = GROUP(1);
    GLOBAL_OUT image = dx + xv.x + n * xv.y + c;
    __global const uchar *where = (__global const uchar *)(dy + pad.z) + n * size.x * size.y * pad.w + c;
    if (!accumulate)
        for (int h = 0; h < size.z; h++)
            for (int w = 0; w < size.w; w++) STORE(image + h * xv.z + w * xv.w) = (vec)(0.0f);
    for (int h = 0; h < size.x; h++)
        for (int w = 0; w < size.y; w++, where += pad.w) {
            const ivec place = TO_IVEC(*(__global const bvec *)where);
            const vec g = LOAD(dy + dv.x + n * dv.y + h * dv.z + w * dv.w + c);
            const int top = h * window.z - pad.x, left = w * window.w - pad.y;
            const int i0 = MAX_OF(-top, 0), i1 = MIN_OF(size.z - top, window.x);
            const int j0 = MAX_OF(-left, 0), j1 = MIN_OF(size.w - left, window.y);
            for (int i = i0; i < i1; i++)
                for (int j = j0; j < j1; j++) {
                    GLOBAL_OUT target = image + (top + i) * xv.z + (left + j) * xv.w;
                    STORE(target) = LOAD(target) + (place == (ivec)(i * window.y + j) ? g : (vec)(0.0f));
                }
        }
}

// size: H, W, unused, unused.   scale: 1 / (H * W).
KERNEL(global_average_pool_forward_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, const int4 xv, const int4 yv,
                                            const int4 size, const float scale)
{
    const int c = GROUP(0) * V, n = GROUP(1);
    vec total = (vec)(0.0f);
    for (int h = 0; h < size.x; h++) {
        vec row = (vec)(0.0f);
        for (int w = 0; w < size.y; w++) row += LOAD(x + xv.x + n * xv.y + h * xv.z + w * xv.w + c);
        total += row;
    }
    STORE(y + yv.x + n * yv.y + c) = total * scale;
}

KERNEL(global_average_pool_backward_f32)(GROUPS GLOBAL_IN dy, GLOBAL_OUT dx, const int4 dv, const int4 xv,
                                             const int4 size, const float scale, const int accumulate)
{
    const int c = GROUP(0) * V, n = GROUP(1);
    const vec g = LOAD(dy + dv.x + n * dv.y + c) * scale;
    for (int h = 0; h < size.x; h++)
        for (int w = 0; w < size.y; w++) {
            GLOBAL_OUT target = dx + xv.x + n * xv.y + h * xv.z + w * xv.w + c;
            STORE(target) = accumulate ? LOAD(target) + g : g;
        }
}
