// Depthwise convolution: each channel has a window of its own. Forward and gradients.
//
//   forward          y[n,h,w,c]  = act(b[c] + sum over i,j of x[n, h*s+i, w*s+j, c] * W[i,j,c])
//   backward input   dx[n,u,v,c] = sum over the i,j with u = h*s+i, v = w*s+j of dy[n,h,w,c] * W[i,j,c]
//   backward weight  partial[p][i,j,c] = sum over the rows of part p of x[n, h*s+i, w*s+j, c] * dy[n,h,w,c]
//
// Layout: NHWC views (prelude.cl); x has a halo of zeros as wide as the padding, dy one as wide as the windows
// reach beyond it. Weights are (KH, KW, C), C padded to a multiple of V.
//
// Versions:
//   depthwise_*_f32 (KH, KW, SY, SX, MRX, MRY)   window and stride known when compiled; a tile of MRX x MRY
//       pixels of one vector of channels, whose neighbours share what they read. In the gradient of the input a
//       tile is MRX x MRY places of dy, SX x SY pixels of dx for each: none of its products is with a zero
//       between pixels.
//   depthwise_*_any_f32                          any window and stride, naive
// Lanes side by side have neighbouring vectors of channels, the others take turns at the tiles of a row; one lane
// alone walks through all channels of a tile before the next, as they lie in memory. Tiles that reach beyond the
// image are moved back inside and do not write or count again what was done.
//
// Tolerance: reduction length KH*KW, N*H*W for the gradient of the weight.

#define ACCUMULATE 1
#define RELU 2
#define BIAS 4
#define QUANTIZE 8

// Vectors of channels in a panel: lanes side by side first, then the next for each.
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

static inline void finish(GLOBAL_OUT out, vec value, int flags, float ceiling, const float4 q)
{
    // Not a number stays what it is.
    if (flags & RELU) value = MAX_OF((vec)(0.0f), value);
    value = MIN_OF((vec)(ceiling), value);
    STORE(out) = flags & QUANTIZE ? fake_quantize(value, q) : value;
}

#ifdef KH
// xv: offset of the first tap of the first pixel, image stride, step per stored row, per stored pixel.
// size: H, W of y.   cut: row blocks per group, row blocks of an image, of all images, channels of a panel.
// wv: offset of the weights, padded C, offset of the bias, flags.
// q: 1 / scale, scale, lowest and highest code of the output's quantization.
KERNEL(depthwise_forward_f32)(GROUPS GLOBAL_IN x, GLOBAL_IN weight, GLOBAL_IN bias, GLOBAL_OUT y, const int4 xv,
                              const int4 yv, const int2 size, const int4 cut, const int4 wv, const float4 q,
                              const float ceiling)
{
#pragma OPENCL FP_CONTRACT ON
    const int panel = cut.w, c0 = GROUP(1) * panel, flags = wv.w;
    LANES_OF_PANEL
    FOR_EACH_BLOCK {
        const int n = block / cut.y, h_start = block % cut.y * MRY, h = MIN_OF(h_start, size.x - MRY);
        GLOBAL_IN x_row = x + xv.x + n * xv.y + h * SY * xv.z + c0;
        GLOBAL_OUT y_row = y + yv.x + n * yv.y + h * yv.z + c0;
        FOR_EACH_TILE(w_start, size.y) {
            vec taps[KH][KW];
            #pragma unroll
            for (int i = 0; i < KH; i++)
                #pragma unroll
                for (int j = 0; j < KW; j++) taps[i][j] = LOAD(weight + wv.x + (i * KW + j) * wv.y + c0 + c);
            const vec start = flags & BIAS ? LOAD(bias + wv.z + c0 + c) : (vec)(0.0f);
            const int w = MIN_OF(w_start, size.y - MRX);
            GLOBAL_IN corner = x_row + w * SX * xv.w + c;
            GLOBAL_OUT out = y_row + w * yv.w + c;
            vec acc[MRY][MRX];
            #pragma unroll
            for (int i = 0; i < MRY; i++)
                #pragma unroll
                for (int j = 0; j < MRX; j++) acc[i][j] = start;
            #pragma unroll
            for (int r = 0; r < (MRY - 1) * SY + KH; r++) {
                #pragma unroll
                for (int k = 0; k < (MRX - 1) * SX + KW; k++) {
                    const vec value = LOAD(corner + r * xv.z + k * xv.w);
                    #pragma unroll
                    for (int i = 0; i < MRY; i++)
                        #pragma unroll
                        for (int j = 0; j < MRX; j++)
                            if (r >= i * SY && r < i * SY + KH && k >= j * SX && k < j * SX + KW)
                                acc[i][j] += value * taps[r - i * SY][k - j * SX];
                }
            }
            #pragma unroll
            for (int i = 0; i < MRY; i++)
                #pragma unroll
                for (int j = 0; j < MRX; j++)
                    if (h + i >= h_start && w + j >= w_start)
                        finish(out + i * yv.z + j * yv.w, acc[i][j], flags, ceiling, q);
        }
    }
}

// Places of dy are counted from the first whose window reaches into dx; REACH_Y, REACH_X of them behind one
// another read the same pixel.
#define REACH_Y ((KH + SY - 1) / SY)
#define REACH_X ((KW + SX - 1) / SX)

// dv: offset of the first place less REACH - 1 rows and pixels, image stride, steps.   size: H, W of dx, rows
// and pixels of dx that lie before the first place's own.   wv: offset of the weights, padded C, places down,
// across.
KERNEL(depthwise_backward_input_f32)(GROUPS GLOBAL_IN dy, GLOBAL_IN weight, GLOBAL_OUT dx, const int4 dv,
                                     const int4 xv, const int4 size, const int4 cut, const int4 wv,
                                     const int accumulate)
{
#pragma OPENCL FP_CONTRACT ON
    const int panel = cut.w, c0 = GROUP(1) * panel;
    LANES_OF_PANEL
    FOR_EACH_BLOCK {
        const int n = block / cut.y, q_start = block % cut.y * MRY, q = MIN_OF(q_start, wv.z - MRY);
        const int h = q * SY - size.z, h_first = MAX_OF(q_start * SY - size.z, 0);
        GLOBAL_IN d_row = dy + dv.x + n * dv.y + q * dv.z + c0;
        GLOBAL_OUT x_row = dx + xv.x + n * xv.y + h * xv.z + c0;
        FOR_EACH_TILE(r_start, wv.w) {
            vec taps[KH][KW];
            #pragma unroll
            for (int i = 0; i < KH; i++)
                #pragma unroll
                for (int j = 0; j < KW; j++) taps[i][j] = LOAD(weight + wv.x + (i * KW + j) * wv.y + c0 + c);
            const int place = MIN_OF(r_start, wv.w - MRX);
            const int w = place * SX - size.w, w_first = MAX_OF(r_start * SX - size.w, 0);
            GLOBAL_IN corner = d_row + place * dv.w + c;
            GLOBAL_OUT out = x_row + w * xv.w + c;
            vec acc[MRY * SY][MRX * SX];
            #pragma unroll
            for (int i = 0; i < MRY * SY; i++)
                #pragma unroll
                for (int j = 0; j < MRX * SX; j++) acc[i][j] = (vec)(0.0f);
            #pragma unroll
            for (int r = 0; r < MRY + REACH_Y - 1; r++) {
                #pragma unroll
                for (int k = 0; k < MRX + REACH_X - 1; k++) {
                    const vec value = LOAD(corner + r * dv.z + k * dv.w);
                    #pragma unroll
                    for (int i = 0; i < MRY * SY; i++)
                        #pragma unroll
                        for (int j = 0; j < MRX * SX; j++) {
                            const int kh = i - (r - REACH_Y + 1) * SY, kw = j - (k - REACH_X + 1) * SX;
                            if (kh >= 0 && kh < KH && kw >= 0 && kw < KW)
                                acc[i][j] += value * taps[kh][kw];
                        }
                }
            }
            #pragma unroll
            for (int i = 0; i < MRY * SY; i++)
                #pragma unroll
                for (int j = 0; j < MRX * SX; j++)
                    if (h + i >= h_first && h + i < size.x && w + j >= w_first && w + j < size.y) {
                        GLOBAL_OUT target = out + i * xv.z + j * xv.w;
                        STORE(target) = accumulate ? LOAD(target) + acc[i][j] : acc[i][j];
                    }
        }
    }
}

// What a tile of dy adds to the sums; what lies before row `first` or pixel `skip` of it was added before.
static inline void add_tile(vec acc[KH][KW], GLOBAL_IN x, GLOBAL_IN dy, const int4 xv, const int4 dv, int first,
                            int skip)
{
#pragma OPENCL FP_CONTRACT ON
    vec gradient[MRY][MRX];
    #pragma unroll
    for (int i = 0; i < MRY; i++)
        #pragma unroll
        for (int j = 0; j < MRX; j++)
            gradient[i][j] = i >= first && j >= skip ? LOAD(dy + i * dv.z + j * dv.w) : (vec)(0.0f);
    #pragma unroll
    for (int r = 0; r < (MRY - 1) * SY + KH; r++)
        #pragma unroll
        for (int k = 0; k < (MRX - 1) * SX + KW; k++) {
            const vec value = LOAD(x + r * xv.z + k * xv.w);
            #pragma unroll
            for (int i = 0; i < MRY; i++)
                #pragma unroll
                for (int j = 0; j < MRX; j++)
                    if (r >= i * SY && r < i * SY + KH && k >= j * SX && k < j * SX + KW)
                        acc[r - i * SY][k - j * SX] += value * gradient[i][j];
        }
}

// size: H, W of dy.   pv: offset of the partial sums, floats from one part to the next, padded C.
KERNEL(depthwise_backward_weight_f32)(GROUPS GLOBAL_IN x, GLOBAL_IN dy, GLOBAL_OUT partial, const int4 xv,
                                      const int4 dv, const int2 size, const int4 cut, const int4 pv)
{
    SHARED_LANES
    const int panel = cut.w, c0 = GROUP(1) * panel;
    LANES_OF_PANEL
    GLOBAL_OUT target = partial + pv.x + GROUP(0) * pv.y + c0;
#if LANES == 1
    FOR_EACH_BLOCK {
        const int n = block / cut.y, h_start = block % cut.y * MRY, h = MIN_OF(h_start, size.x - MRY);
        FOR_EACH_TILE(w_start, size.y) {
            const int w = MIN_OF(w_start, size.y - MRX);
            GLOBAL_IN a = x + xv.x + n * xv.y + h * SY * xv.z + w * SX * xv.w + c0 + c;
            GLOBAL_IN d = dy + dv.x + n * dv.y + h * dv.z + w * dv.w + c0 + c;
            vec acc[KH][KW];
            #pragma unroll
            for (int i = 0; i < KH; i++)
                #pragma unroll
                for (int j = 0; j < KW; j++)
                    acc[i][j] = block == first && w_start == 0 ? (vec)(0.0f) : LOAD(target + (i * KW + j) * pv.z + c);
            add_tile(acc, a, d, xv, dv, h_start - h, w_start - w);
            #pragma unroll
            for (int i = 0; i < KH; i++)
                #pragma unroll
                for (int j = 0; j < KW; j++) STORE(target + (i * KW + j) * pv.z + c) = acc[i][j];
        }
    }
#else
    FOR_EACH_CHANNEL {
        vec acc[KH][KW];
        #pragma unroll
        for (int i = 0; i < KH; i++)
            #pragma unroll
            for (int j = 0; j < KW; j++) acc[i][j] = (vec)(0.0f);
        FOR_EACH_BLOCK {
            const int n = block / cut.y, h_start = block % cut.y * MRY, h = MIN_OF(h_start, size.x - MRY);
            FOR_EACH_PLACE(w_start, size.y) {
                const int w = MIN_OF(w_start, size.y - MRX);
                GLOBAL_IN a = x + xv.x + n * xv.y + h * SY * xv.z + w * SX * xv.w + c0 + c;
                GLOBAL_IN d = dy + dv.x + n * dv.y + h * dv.z + w * dv.w + c0 + c;
                add_tile(acc, a, d, xv, dv, h_start - h, w_start - w);
            }
        }
        #pragma unroll
        for (int i = 0; i < KH; i++)
            #pragma unroll
            for (int j = 0; j < KW; j++) {
                const vec total = lane_sum(acc[i][j], span);
                if (turn == 0) STORE(target + (i * KW + j) * pv.z + c) = total;
            }
    }
#endif
}

#else
// window: KH, KW, stride down, stride across; the rest as above, a block being a row.
KERNEL(depthwise_forward_any_f32)(GROUPS GLOBAL_IN x, GLOBAL_IN weight, GLOBAL_IN bias, GLOBAL_OUT y, const int4 xv,
                                  const int4 yv, const int2 size, const int4 cut, const int4 wv, const float4 q,
                                  const float ceiling, const int4 window)
{
#pragma OPENCL FP_CONTRACT ON
    const int panel = cut.w, c0 = GROUP(1) * panel, flags = wv.w;
    FOR_EACH_BLOCK {
        const int n = block / cut.y, h = block % cut.y;
        DEAL2(w, size.y, c, panel, V) {
            GLOBAL_IN corner = x + xv.x + n * xv.y + h * window.z * xv.z + w * window.w * xv.w + c0 + c;
            vec total = flags & BIAS ? LOAD(bias + wv.z + c0 + c) : (vec)(0.0f);
            GLOBAL_IN tap = weight + wv.x + c0 + c;
            for (int i = 0; i < window.x; i++)
                for (int j = 0; j < window.y; j++, tap += wv.y)
                    total += LOAD(corner + i * xv.z + j * xv.w) * LOAD(tap);
            finish(y + yv.x + n * yv.y + h * yv.z + w * yv.w + c0 + c, total, flags, ceiling, q);
        }
    }
}

// dv: place of dy.   size: H, W of dx, H, W of dy.   wv: offset of the weights, padded C, padding at the top, at
// the left.
KERNEL(depthwise_backward_input_any_f32)(GROUPS GLOBAL_IN dy, GLOBAL_IN weight, GLOBAL_OUT dx, const int4 dv,
                                         const int4 xv, const int4 size, const int4 cut, const int4 wv,
                                         const int accumulate, const int4 window)
{
#pragma OPENCL FP_CONTRACT ON
    const int panel = cut.w, c0 = GROUP(1) * panel;
    FOR_EACH_BLOCK {
        const int n = block / cut.y, u = block % cut.y + wv.z;
        const int h0 = u < window.x ? 0 : (u - window.x) / window.z + 1, h1 = MIN_OF(u / window.z + 1, size.z);
        DEAL2(column, size.y, c, panel, V) {
            const int v = column + wv.w;
            const int w0 = v < window.y ? 0 : (v - window.y) / window.w + 1, w1 = MIN_OF(v / window.w + 1, size.w);
            GLOBAL_OUT target = dx + xv.x + n * xv.y + block % cut.y * xv.z + column * xv.w + c0 + c;
            vec total = accumulate ? LOAD(target) : (vec)(0.0f);
            for (int h = h0; h < h1; h++)
                for (int w = w0; w < w1; w++) {
                    const int tap = (u - h * window.z) * window.y + v - w * window.w;
                    total += LOAD(dy + dv.x + n * dv.y + h * dv.z + w * dv.w + c0 + c) *
                             LOAD(weight + wv.x + tap * wv.y + c0 + c);
                }
            STORE(target) = total;
        }
    }
}

// Group: part of the rows, panel of channels, place in the window.
KERNEL(depthwise_backward_weight_any_f32)(GROUPS GLOBAL_IN x, GLOBAL_IN dy, GLOBAL_OUT partial, const int4 xv,
                                          const int4 dv, const int2 size, const int4 cut, const int4 pv,
                                          const int4 window)
{
#pragma OPENCL FP_CONTRACT ON
    SHARED_LANES
    const int panel = cut.w, c0 = GROUP(1) * panel, tap = GROUP(2);
    LANES_OF_PANEL
    FOR_EACH_CHANNEL {
        vec total = (vec)(0.0f);
        FOR_EACH_BLOCK {
            const int n = block / cut.y, h = block % cut.y, row = h * window.z + tap / window.y;
            GLOBAL_IN a = x + xv.x + n * xv.y + row * xv.z + tap % window.y * xv.w + c0 + c;
            GLOBAL_IN d = dy + dv.x + n * dv.y + h * dv.z + c0 + c;
            for (int w = turn; w < size.y; w += turns) total += LOAD(a + w * window.w * xv.w) * LOAD(d + w * dv.w);
        }
        total = lane_sum(total, span);
        if (turn == 0) STORE(partial + pv.x + GROUP(0) * pv.y + tap * pv.z + c0 + c) = total;
    }
}
#endif

// Each channel `times` times, side by side; only what y has channels for.   size: H, W, rows per part, rows.
// channels: of y, unpadded.
KERNEL(repeat_channels_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, const int4 xv, const int4 yv, const int4 size,
                            const int channels, const int times)
{
    const int first = GROUP(0) * size.z, end = MIN_OF(first + size.z, size.w);
    for (int row = first; row < end; row++) {
        GLOBAL_IN a = x + xv.x + row / size.x * xv.y + row % size.x * xv.z;
        GLOBAL_OUT out = y + yv.x + row / size.x * yv.y + row % size.x * yv.z;
        DEAL2(w, size.y, c, channels, 1) out[w * yv.w + c] = a[w * xv.w + c / times];
    }
}

// Its gradient: dx[c] = sum of the `times` channels of dy that lie side by side.   channels: of dx, unpadded.
KERNEL(sum_channels_f32)(GROUPS GLOBAL_IN dy, GLOBAL_OUT dx, const int4 dv, const int4 xv, const int4 size,
                         const int channels, const int times, const int accumulate)
{
    const int first = GROUP(0) * size.z, end = MIN_OF(first + size.z, size.w);
    for (int row = first; row < end; row++) {
        GLOBAL_IN d = dy + dv.x + row / size.x * dv.y + row % size.x * dv.z;
        GLOBAL_OUT out = dx + xv.x + row / size.x * xv.y + row % size.x * xv.z;
        DEAL2(w, size.y, c, channels, 1) {
            float total = accumulate ? out[w * xv.w + c] : 0.0f;
            for (int k = 0; k < times; k++) total += d[w * dv.w + c * times + k];
            out[w * xv.w + c] = total;
        }
    }
}
