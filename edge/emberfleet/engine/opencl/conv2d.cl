// Convolution, forward and gradients.
//
//   forward          y[n,h,w,o]  = act(b[o] + sum over i,j,c of x[n, h*s+i, w*s+j, c] * W[i,j,c,o])
//   backward input   is forward: x is dy (spread apart by the stride, in a halo of zeros), W is the
//                    transposed, flipped weight, and the ACCUMULATE flag adds to what is there
//   backward weight  partial[p][i,j,c,o] = sum over the rows of part p of x[n, h*s+i, w*s+j, c] * dy[n,h,w,o]
//
// Layout: NHWC views (prelude.cl); x has a halo of zeros as wide as the padding and its offset is that of
// the first tap of the first output pixel. Weights are (KH, KW, C, O), O padded to a multiple of V.
//
// Versions:
//   conv2d_forward_f32 (MRX, MRY, NV)         tile: MRX x MRY pixels x NV vectors of output channels
//   conv2d_backward_weight_f32 (KY, KC, NV)   tile: KY window rows x KC channels x NV vectors
// A lane computes one tile after the other; lanes side by side have the same pixels and other outputs. A tile
// that would reach beyond the image is moved back inside and its pixels that were done before are not written
// again.
//
// Tolerance: reduction length KH*KW*C forward, N*H*W weight gradient.

#define ACCUMULATE 1
#define RELU 2
#define BIAS 4
#define QUANTIZE 8

#ifdef MRX
// xv: offset, image stride, step per output row, step per output pixel.   taps: KH, KW, step per
// window row, per window column.   size: H, W, C of x, output rows per group.
// wv: offset of the weights, their padded O, offset of the bias, flags.
// q: 1 / scale, scale, lowest and highest code of the output's quantization.   ceiling: INFINITY or a clipped
// ReLU's.
KERNEL(conv2d_forward_f32)(GROUPS GLOBAL_IN x, GLOBAL_IN weight, GLOBAL_IN bias, GLOBAL_OUT y, const int4 xv,
                               const int4 taps, const int4 yv, const int4 size, const int4 wv, const float4 q,
                               const float ceiling)
{
#pragma OPENCL FP_CONTRACT ON
    const int span = SPAN_OF(wv.y / (NV * V)), turn = LANE / span, turns = LANES / span;
    const int c_count = size.z, flags = wv.w, o0 = (GROUP(0) * span + LANE % span) * (NV * V);
    const int first = GROUP(1) * size.w, end = MIN_OF(first + size.w, size.x);
    GLOBAL_IN x_image = x + xv.x + GROUP(2) * xv.y;
    GLOBAL_OUT y_image = y + yv.x + GROUP(2) * yv.y + o0;
    GLOBAL_IN w0 = weight + wv.x + o0;
    DEAL_TILES(turn, turns, h_start, first, end, MRY, w_start, 0, size.y, MRX) {
        const int h = MIN_OF(h_start, size.x - MRY), w = MIN_OF(w_start, size.y - MRX);
        GLOBAL_IN corner = x_image + h * xv.z + w * xv.w;
        GLOBAL_OUT out = y_image + h * yv.z + w * yv.w;
        vec acc[MRY][MRX][NV];
        #pragma unroll
        for (int v = 0; v < NV; v++) {
            const vec start = flags & BIAS ? LOAD(bias + wv.z + o0 + v * V) : (vec)(0.0f);
            #pragma unroll
            for (int i = 0; i < MRY; i++)
                #pragma unroll
                for (int j = 0; j < MRX; j++)
                    acc[i][j][v] = start;
        }
        if (flags & ACCUMULATE) {
            #pragma unroll
            for (int i = 0; i < MRY; i++)
                #pragma unroll
                for (int j = 0; j < MRX; j++)
                    // What is not written again may be under another lane's hands.
                    if (LANES == 1 || (h + i >= h_start && w + j >= w_start)) {
                        #pragma unroll
                        for (int v = 0; v < NV; v++) acc[i][j][v] += LOAD(out + i * yv.z + j * yv.w + v * V);
                    }
        }
        GLOBAL_IN b = w0;
        for (int kh = 0; kh < taps.x; kh++)
            for (int kw = 0; kw < taps.y; kw++) {
                GLOBAL_IN a = corner + kh * taps.z + kw * taps.w;
                for (int c = 0; c < c_count; c++, b += wv.y) {
                    vec column[NV];
                    #pragma unroll
                    for (int v = 0; v < NV; v++) column[v] = LOAD(b + v * V);
                    #pragma unroll
                    for (int i = 0; i < MRY; i++)
                        #pragma unroll
                        for (int j = 0; j < MRX; j++) {
                            const vec value = (vec)(a[i * xv.z + j * xv.w + c]);
                            #pragma unroll
                            for (int v = 0; v < NV; v++) acc[i][j][v] += value * column[v];
                        }
                }
            }
        if (!(flags & QUANTIZE)) {
            // Not a number stays what it is.
            const vec floor_ = flags & RELU ? (vec)(0.0f) : (vec)(-INFINITY);
            #pragma unroll
            for (int i = 0; i < MRY; i++)
                #pragma unroll
                for (int j = 0; j < MRX; j++)
                    if (h + i >= h_start && w + j >= w_start) {
                        #pragma unroll
                        for (int v = 0; v < NV; v++)
                            STORE(out + i * yv.z + j * yv.w + v * V) =
                                MIN_OF((vec)(ceiling), MAX_OF(floor_, acc[i][j][v]));
                    }
            continue;
        }
        // Through memory, so that the epilogue is compiled once and not for each register.
        vec results[MRY * MRX * NV];
        #pragma unroll
        for (int i = 0; i < MRY; i++)
            #pragma unroll
            for (int j = 0; j < MRX; j++)
                #pragma unroll
                for (int v = 0; v < NV; v++) results[(i * MRX + j) * NV + v] = acc[i][j][v];
        #pragma unroll 1
        for (int pixel = 0; pixel < MRY * MRX; pixel++) {
            const int i = pixel / MRX, j = pixel % MRX;
            if (h + i < h_start || w + j < w_start) continue;
            for (int v = 0; v < NV; v++) {
                vec value = results[pixel * NV + v];
                if (flags & RELU) value = MAX_OF(value, (vec)(0.0f));
                value = MIN_OF((vec)(ceiling), value);
                STORE(out + i * yv.z + j * yv.w + v * V) = fake_quantize(value, q);
            }
        }
    }
}
#endif

#ifdef KC
// Every window place with every channel of the tile's first; groups of the third axis share them.
#if LANES == 1
#define DEAL_TAPS                             \
    for (int kh = 0; kh < taps.x; kh += KY)   \
        for (int kw = 0; kw < taps.y; kw++)   \
            for (int c = 0; c < c_step; c++)
#else
#define DEAL_TAPS                                                                                         \
    for (int dealt = GROUP(2) * (LANES / span) + LANE / span, kh = dealt / (taps.y * c_step) * KY,         \
             kw = dealt / c_step % taps.y, c = dealt % c_step;                                            \
         kh < taps.x; dealt += (int)get_num_groups(2) * (LANES / span),                                   \
             kh = dealt / (taps.y * c_step) * KY, kw = dealt / c_step % taps.y, c = dealt % c_step)
#endif

// xv, yv, taps as above.   size: H, W of dy, C of x, rows (n and h together) per part.
// pv: offset of the partial sums, floats from one part to the next, padded O, rows in all.
// block: rows whose x and dy stay in the fast cache while all window places and channels pass over them.
KERNEL(conv2d_backward_weight_f32)(GROUPS GLOBAL_IN x, GLOBAL_IN dy, GLOBAL_OUT partial, const int4 xv,
                                   const int4 taps, const int4 yv, const int4 size, const int4 pv, const int block)
{
#pragma OPENCL FP_CONTRACT ON
    const int span = SPAN_OF(pv.z / (NV * V));
    const int o0 = (GROUP(0) * span + LANE % span) * (NV * V), part = GROUP(1);
    const int c_step = size.z / KC;
    const int first = part * size.w, end = MIN_OF(first + size.w, pv.w);
    GLOBAL_OUT out = partial + pv.x + part * pv.y + o0;
    for (int start = first; start < end; start += block) {
        const int stop = MIN_OF(start + block, end);
        DEAL_TAPS {
            GLOBAL_OUT target = out + ((kh * taps.y + kw) * size.z + c) * pv.z;
            const int down = taps.y * size.z * pv.z, across = c_step * pv.z;
            vec acc[KY][KC][NV];
            #pragma unroll
            for (int i = 0; i < KY; i++)
                #pragma unroll
                for (int k = 0; k < KC; k++)
                    #pragma unroll
                    for (int v = 0; v < NV; v++)
                        acc[i][k][v] =
                            start == first ? (vec)(0.0f) : LOAD(target + i * down + k * across + v * V);
            for (int row = start; row < stop; row++) {
                const int n = row / size.x, h = row % size.x;
                GLOBAL_IN a = x + xv.x + n * xv.y + h * xv.z + kh * taps.z + kw * taps.w + c;
                GLOBAL_IN g = dy + yv.x + n * yv.y + h * yv.z + o0;
                for (int w = 0; w < size.y; w++, a += xv.w, g += yv.w) {
                    vec gradient[NV];
                    #pragma unroll
                    for (int v = 0; v < NV; v++) gradient[v] = LOAD(g + v * V);
                    // The channels of a tile lie c_step apart: adjacent ones would be loaded as one
                    // vector and shuffled, which is slower than broadcasting from memory.
                    #pragma unroll
                    for (int i = 0; i < KY; i++)
                        #pragma unroll
                        for (int k = 0; k < KC; k++) {
                            const vec value = (vec)(a[i * taps.z + k * c_step]);
                            #pragma unroll
                            for (int v = 0; v < NV; v++) acc[i][k][v] += value * gradient[v];
                        }
                }
            }
            #pragma unroll
            for (int i = 0; i < KY; i++)
                #pragma unroll
                for (int k = 0; k < KC; k++)
                    #pragma unroll
                    for (int v = 0; v < NV; v++) STORE(target + i * down + k * across + v * V) = acc[i][k][v];
        }
    }
}
#endif
