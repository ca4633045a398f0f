// Batch norm over n, h, w per channel, with a following ReLU and rounding to 8 bits taken in.
//
//   forward   y = q(act(gamma * (x - mean) * r + beta)),   r = 1 / sqrt(variance + epsilon)
//   backward  g = dy where act let it through;   dbeta = sum g;   dgamma = sum g * (x - mean) * r
//             dx = gamma * r * (g - dbeta / M - (x - mean) * r * dgamma / M),  M = N*H*W
//             with the running statistics instead of the batch's: dx = gamma * r * g
//
// What act let through is computed again from x, so backward does not read y.
//
// Versions (group: B vectors of channels for each lane beside another, part of the rows):
//   batch_norm_statistics_f32, batch_norm_forward_f32      partial sums, then normalise
//   batch_norm_reduce_f32, batch_norm_backward_f32         partial sums, then dx
//
// Sums are taken of x minus the first pixel's x, so that a large mean does not swallow the variance.
// Tolerance: reduction length N*H*W.

#define RELU 1
#define BATCH 2
#define QUANTIZE 4
#define ACCUMULATE 8
#define WRITE_DX 16
#define REPEAT 32
#define EACH for (int b = 0; b < B; b++)

// Lanes side by side have vectors of channels, c0 the first; those behind one another take turns at the pixels.
#define LANES_OF_CHANNELS                                                                 \
    const int span = SPAN_OF(pv.y / (B * V)), turn = LANE / span, turns = LANES / span;   \
    const int c0 = (GROUP(0) * span + LANE % span) * (B * V);

// size: H, W, rows (n and h together) per part, rows in all.
#define FOR_EACH_ROW                                                                  \
    const int first = GROUP(1) * size.z, end = MIN_OF(first + size.z, size.w); \
    for (int row = first; row < end; row++)
#define ROW_OF(pointer, view)                                                     \
    (pointer + view.x + (row / size.x) * view.y + (row % size.x) * view.z \
     + turn * view.w + c0)

static inline vec inverse_root(vec variance, float epsilon)
{
    vec r;
    for (int lane = 0; lane < V; lane++)
        ((float *)&r)[lane] = 1.0f / SQRT(((const float *)&variance)[lane] + epsilon);
    return r;
}

// partial[part][2][C] at pv.x, C = pv.y padded channels.
KERNEL(batch_norm_statistics_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT partial, const int4 xv, const int4 size,
                                      const int4 pv)
{
    SHARED_LANES
    LANES_OF_CHANNELS
    vec shift[B], sum[B], square[B];
    #pragma unroll
    EACH { shift[b] = LOAD(x + xv.x + c0 + b * V); sum[b] = (vec)(0.0f); square[b] = (vec)(0.0f); }
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(x, xv);
        for (int w = turn; w < size.y; w += turns, a += turns * xv.w) {
            #pragma unroll
            EACH { const vec d = LOAD(a + b * V) - shift[b]; sum[b] += d; square[b] += d * d; }
        }
    }
    GLOBAL_OUT out = partial + pv.x + GROUP(1) * 2 * pv.y + c0;
    #pragma unroll
    EACH {
        const vec total = lane_sum(sum[b], span), squares = lane_sum(square[b], span);
        if (turn == 0) { STORE(out + b * V) = total; STORE(out + pv.y + b * V) = squares; }
    }
}

// saved[4][C]: mean, r, factor, offset of y = x * factor + offset, written here. With the batch's
// statistics, the running ones are moved here too. With REPEAT the pass is a second one over the same
// x: factor and offset are read from saved, and nothing but y is written.
// pv: offset of the partial sums, padded C, how many parts, offset of saved.
// av: offset of gamma, of beta, of the running mean, of the running variance.
// moments: epsilon, momentum, 1 / M, M / (M - 1) (1 where M is 1).   range: offset of the partial
// minima and maxima [part][2][C], place of the quantization in qp, flags.   ceiling: INFINITY or a clipped ReLU's.
KERNEL(batch_norm_forward_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, GLOBAL_IN partial, GLOBAL_OUT saved,
                                   GLOBAL_IN params, GLOBAL_OUT running, GLOBAL_IN qp, const int4 xv,
                                   const int4 yv, const int4 size, const int4 pv, const int4 av,
                                   const float4 moments, const int4 range, const float ceiling)
{
    SHARED_LANES
    LANES_OF_CHANNELS
    const int flags = range.z;
    const float4 q = *(__global const float4 *)(qp + 4 * range.y);
    vec factor[B], offset[B], low[B], high[B];
    for (int b = 0; b < B; b++) {
        const int c = c0 + b * V;
        low[b] = (vec)(INFINITY);
        high[b] = (vec)(-INFINITY);
        if (flags & REPEAT) {
            factor[b] = LOAD(saved + pv.w + 2 * pv.y + c);
            offset[b] = LOAD(saved + pv.w + 3 * pv.y + c);
            continue;
        }
        vec mean, variance;
        if (flags & BATCH) {
            vec sum = (vec)(0.0f), square = (vec)(0.0f);
            for (int part = 0; part < pv.z; part++) {
                sum += LOAD(partial + pv.x + part * 2 * pv.y + c);
                square += LOAD(partial + pv.x + (part * 2 + 1) * pv.y + c);
            }
            sum *= moments.z;
            variance = square * moments.z - sum * sum;
            variance = MAX_OF(variance, (vec)(0.0f));
            mean = sum + LOAD(x + xv.x + c);
            if (GROUP(1) == 0 && turn == 0) {
                const float keep = moments.y;
                STORE(running + av.z + c) = LOAD(running + av.z + c) * keep + mean * (1.0f - keep);
                STORE(running + av.w + c) =
                    LOAD(running + av.w + c) * keep + variance * (moments.w * (1.0f - keep));
            }
        } else {
            mean = LOAD(running + av.z + c);
            variance = LOAD(running + av.w + c);
        }
        const vec r = inverse_root(variance, moments.x);
        factor[b] = r * LOAD(params + av.x + c);
        offset[b] = LOAD(params + av.y + c) - mean * factor[b];
        if (GROUP(1) == 0 && turn == 0) {
            STORE(saved + pv.w + c) = mean;
            STORE(saved + pv.w + pv.y + c) = r;
            STORE(saved + pv.w + 2 * pv.y + c) = factor[b];
            STORE(saved + pv.w + 3 * pv.y + c) = offset[b];
        }
    }
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(x, xv);
        GLOBAL_OUT out = ROW_OF(y, yv);
        for (int w = turn; w < size.y; w += turns, a += turns * xv.w, out += turns * yv.w) {
            #pragma unroll
            EACH {
                vec value = LOAD(a + b * V) * factor[b] + offset[b];
                if (flags & RELU) value = MIN_OF((vec)(ceiling), MAX_OF(value, (vec)(0.0f)));
                if (flags & QUANTIZE) {
                    low[b] = MIN_OF(low[b], value);
                    high[b] = MAX_OF(high[b], value);
                    value = fake_quantize(value, q);
                }
                STORE(out + b * V) = value;
            }
        }
    }
    if ((flags & (QUANTIZE | REPEAT)) == QUANTIZE) {
        GLOBAL_OUT extremes = saved + range.x + GROUP(1) * 2 * pv.y + c0;
        #pragma unroll
        EACH {
            const vec lowest = -lane_max(-low[b], span), highest = lane_max(high[b], span);
            if (turn == 0) { STORE(extremes + b * V) = lowest; STORE(extremes + pv.y + b * V) = highest; }
        }
    }
}

// The gradient passes where ReLU was open and rounding did not cut the value off.
static inline vec let_through(vec dy, vec pre, float4 q, int flags, float ceiling)
{
    if (flags & RELU) dy = (pre > 0.0f && pre < ceiling) ? dy : (vec)(0.0f);
    if (flags & QUANTIZE) {
        const vec post = flags & RELU ? MIN_OF((vec)(ceiling), MAX_OF(pre, (vec)(0.0f))) : pre;
        dy = (post >= q.z * q.y && post <= q.w * q.y) ? dy : (vec)(0.0f);
    }
    return dy;
}

KERNEL(batch_norm_reduce_f32)(GROUPS GLOBAL_IN x, GLOBAL_IN dy, GLOBAL_IN saved, GLOBAL_IN qp, GLOBAL_OUT partial,
                                  const int4 xv, const int4 dv, const int4 size, const int4 pv, const int place,
                                  const int flags, const float ceiling)
{
    const float4 q = *(__global const float4 *)(qp + 4 * place);
    SHARED_LANES
    LANES_OF_CHANNELS
    vec mean[B], factor[B], offset[B], sum[B], product[B];
    #pragma unroll
    EACH {
        GLOBAL_IN s = saved + pv.w + c0 + b * V;
        mean[b] = LOAD(s);
        factor[b] = LOAD(s + 2 * pv.y);
        offset[b] = LOAD(s + 3 * pv.y);
        sum[b] = (vec)(0.0f);
        product[b] = (vec)(0.0f);
    }
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(x, xv);
        GLOBAL_IN d = ROW_OF(dy, dv);
        for (int w = turn; w < size.y; w += turns, a += turns * xv.w, d += turns * dv.w) {
            #pragma unroll
            EACH {
                const vec value = LOAD(a + b * V);
                const vec g = let_through(LOAD(d + b * V), value * factor[b] + offset[b], q, flags, ceiling);
                sum[b] += g;
                product[b] += g * (value - mean[b]);
            }
        }
    }
    GLOBAL_OUT out = partial + pv.x + GROUP(1) * 2 * pv.y + c0;
    #pragma unroll
    EACH {
        const vec total = lane_sum(sum[b], span), products = lane_sum(product[b], span);
        if (turn > 0) continue;
        STORE(out + b * V) = total;
        STORE(out + pv.y + b * V) = products * LOAD(saved + pv.w + pv.y + c0 + b * V);
    }
}

// gv: offset of dgamma, of dbeta in gradients (-1: not wanted), flags, place of the quantization in qp.
KERNEL(batch_norm_backward_f32)(GROUPS GLOBAL_IN x, GLOBAL_IN dy, GLOBAL_OUT dx, GLOBAL_IN saved, GLOBAL_IN partial,
                                    GLOBAL_IN qp, GLOBAL_OUT gradients, const int4 xv, const int4 dv, const int4 ov,
                                    const int4 size, const int4 pv, const int4 gv, const float4 moments,
                                    const float ceiling)
{
    LANES_OF_CHANNELS
    const int flags = gv.z;
    const float4 q = *(__global const float4 *)(qp + 4 * gv.w);
    vec factor[B], offset[B], slope[B], level[B];
    for (int b = 0; b < B; b++) {
        const int c = c0 + b * V;
        vec sum = (vec)(0.0f), product = (vec)(0.0f);
        for (int part = 0; part < pv.z; part++) {
            sum += LOAD(partial + pv.x + part * 2 * pv.y + c);
            product += LOAD(partial + pv.x + (part * 2 + 1) * pv.y + c);
        }
        if (GROUP(1) == 0 && turn == 0) {
            if (gv.x >= 0) STORE(gradients + gv.x + c) = product;
            if (gv.y >= 0) STORE(gradients + gv.y + c) = sum;
        }
        GLOBAL_IN s = saved + pv.w + c;
        factor[b] = LOAD(s + 2 * pv.y);
        offset[b] = LOAD(s + 3 * pv.y);
        slope[b] = (vec)(0.0f);
        level[b] = (vec)(0.0f);
        if (flags & BATCH) {
            slope[b] = -factor[b] * product * LOAD(s + pv.y) * moments.z;
            level[b] = -factor[b] * sum * moments.z - slope[b] * LOAD(s);
        }
    }
    if (!(flags & WRITE_DX)) return;
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(x, xv);
        GLOBAL_IN d = ROW_OF(dy, dv);
        GLOBAL_OUT out = ROW_OF(dx, ov);
        for (int w = turn; w < size.y; w += turns, a += turns * xv.w, d += turns * dv.w, out += turns * ov.w) {
            #pragma unroll
            EACH {
                const vec value = LOAD(a + b * V);
                const vec g = let_through(LOAD(d + b * V), value * factor[b] + offset[b], q, flags, ceiling);
                vec result = g * factor[b] + value * slope[b] + level[b];
                if (flags & ACCUMULATE) result += LOAD(out + b * V);
                STORE(out + b * V) = result;
            }
        }
    }
}
