// Pooling, forward and backward.
//
//   max      y[n,h,w,c] = max over the window of x;  where[n,h,w,c] = kh * KW + kw of the first maximum
//            dx: each dy goes to that place
//   average  y[n,h,w,c] = sum over the window's pixels of x / their number;
//            dx: the sum of dy / that number over the windows that hold the pixel
//   global   y[n,c] = sum over h,w of x / (H*W);  dx[n,h,w,c] = dy[n,c] / (H*W)
//
// Pixels outside the image never win and do not count, whatever lies in the halo.
//
// Versions (naive): max_pool_*_f32, average_pool_*_f32 (group: row of what is written, image; its pixels and
// channels dealt out to the lanes), global_average_pool_*_f32 (group: image, vectors of channels, one for each
// lane beside another; the pixels dealt out).
// Tolerance: exact for max; reduction length KH*KW, H*W for the averages.

// window: KH, KW, stride down, stride across.   size: H, W of y, H, W of x.
// pad: at the top, at the left, offset of where (in the arena, in floats; -1: not wanted), padded C.
KERNEL(max_pool_forward_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, const int4 xv, const int4 yv, const int4 window,
                                 const int4 size, const int4 pad)
{
    const int h = GROUP(0), n = GROUP(1);
    const int top = h * window.z - pad.x;
    const int i0 = MAX_OF(-top, 0), i1 = MIN_OF(size.z - top, window.x);
    DEAL2(w, size.y, c, pad.w, V) {
        const int left = w * window.w - pad.y;
        const int j0 = MAX_OF(-left, 0), j1 = MIN_OF(size.w - left, window.y);
        GLOBAL_IN corner = x + xv.x + n * xv.y + top * xv.z + left * xv.w;
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

// Each pixel of dx gathers from the windows that hold it.   accumulate: add to what is in dx.
KERNEL(max_pool_backward_f32)(GROUPS GLOBAL_IN dy, GLOBAL_OUT dx, const int4 dv, const int4 xv, const int4 window,
                                  const int4 size, const int4 pad, const int accumulate)
{
    const int h = GROUP(0), n = GROUP(1), below = h + pad.x;
    const int h0 = below < window.x ? 0 : (below - window.x) / window.z + 1;
    const int h1 = MIN_OF(below / window.z + 1, size.x);
    __global const uchar *where = (__global const uchar *)(dy + pad.z) + n * size.x * size.y * pad.w;
    DEAL2(w, size.w, c, pad.w, V) {
        const int behind = w + pad.y;
        const int w0 = behind < window.y ? 0 : (behind - window.y) / window.w + 1;
        const int w1 = MIN_OF(behind / window.w + 1, size.y);
        GLOBAL_OUT target = dx + xv.x + n * xv.y + h * xv.z + w * xv.w + c;
        vec total = accumulate ? LOAD(target) : (vec)(0.0f);
        for (int i = h0; i < h1; i++)
            for (int j = w0; j < w1; j++) {
                const ivec place = TO_IVEC(*(__global const bvec *)(where + (i * size.y + j) * pad.w + c));
                const vec g = LOAD(dy + dv.x + n * dv.y + i * dv.z + j * dv.w + c);
                const int here = (below - i * window.z) * window.y + behind - j * window.w;
                total += place == (ivec)(here) ? g : (vec)(0.0f);
            }
        STORE(target) = total;
    }
}

// Arguments as those of max pooling.
KERNEL(average_pool_forward_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, const int4 xv, const int4 yv, const int4 window,
                                     const int4 size, const int4 pad)
{
    const int h = GROUP(0), n = GROUP(1);
    const int top = h * window.z - pad.x;
    const int i0 = MAX_OF(-top, 0), i1 = MIN_OF(size.z - top, window.x);
    DEAL2(w, size.y, c, pad.w, V) {
        const int left = w * window.w - pad.y;
        const int j0 = MAX_OF(-left, 0), j1 = MIN_OF(size.w - left, window.y);
        GLOBAL_IN corner = x + xv.x + n * xv.y + top * xv.z + left * xv.w + c;
        vec total = (vec)(0.0f);
        for (int i = i0; i < i1; i++)
            for (int j = j0; j < j1; j++) total += LOAD(corner + i * xv.z + j * xv.w);
        STORE(y + yv.x + n * yv.y + h * yv.z + w * yv.w + c) = total * (1.0f / (float)((i1 - i0) * (j1 - j0)));
    }
}

KERNEL(average_pool_backward_f32)(GROUPS GLOBAL_IN dy, GLOBAL_OUT dx, const int4 dv, const int4 xv,
                                      const int4 window, const int4 size, const int4 pad, const int accumulate)
{
    const int h = GROUP(0), n = GROUP(1), below = h + pad.x;
    const int h0 = below < window.x ? 0 : (below - window.x) / window.z + 1;
    const int h1 = MIN_OF(below / window.z + 1, size.x);
    DEAL2(w, size.w, c, pad.w, V) {
        const int behind = w + pad.y;
        const int w0 = behind < window.y ? 0 : (behind - window.y) / window.w + 1;
        const int w1 = MIN_OF(behind / window.w + 1, size.y);
        GLOBAL_OUT target = dx + xv.x + n * xv.y + h * xv.z + w * xv.w + c;
        vec total = accumulate ? LOAD(target) : (vec)(0.0f);
        for (int i = h0; i < h1; i++) {
            const int top = i * window.z - pad.x;
            const int rows = MIN_OF(size.z - top, window.x) - MAX_OF(-top, 0);
            for (int j = w0; j < w1; j++) {
                const int left = j * window.w - pad.y;
                const int pixels = MIN_OF(size.w - left, window.y) - MAX_OF(-left, 0);
                total += LOAD(dy + dv.x + n * dv.y + i * dv.z + j * dv.w + c) * (1.0f / (float)(rows * pixels));
            }
        }
        STORE(target) = total;
    }
}

// size: H, W, padded C, unused.   scale: 1 / (H * W).
KERNEL(global_average_pool_forward_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, const int4 xv, const int4 yv,
                                            const int4 size, const float scale)
{
    SHARED_LANES
    const int span = SPAN_OF(size.z / V), turn = LANE / span, n = GROUP(1);
    const int c = (GROUP(0) * span + LANE % span) * V;
    vec total = (vec)(0.0f);
    for (int h = 0; h < size.x; h++) {
        vec row = (vec)(0.0f);
        for (int w = turn; w < size.y; w += LANES / span)
            row += LOAD(x + xv.x + n * xv.y + h * xv.z + w * xv.w + c);
        total += row;
    }
    total = lane_sum(total, span);
    if (turn == 0) STORE(y + yv.x + n * yv.y + c) = total * scale;
}

KERNEL(global_average_pool_backward_f32)(GROUPS GLOBAL_IN dy, GLOBAL_OUT dx, const int4 dv, const int4 xv,
                                             const int4 size, const float scale, const int accumulate)
{
    const int span = SPAN_OF(size.z / V), n = GROUP(1);
    const int c = (GROUP(0) * span + LANE % span) * V;
    const vec g = LOAD(dy + dv.x + n * dv.y + c) * scale;
    for (int h = 0; h < size.x; h++)
        for (int w = LANE / span; w < size.y; w += LANES / span) {
            GLOBAL_OUT target = dx + xv.x + n * xv.y + h * xv.z + w * xv.w + c;
            STORE(target) = accumulate ? LOAD(target) + g : g;
        }
}
