// What touches each value once.
//
//   copy       y = x                       (concat that could not be in place, add's gradient, halos)
//   add        y = a + b
//   relu       y = min(max(x, 0), ceiling);   backward: dx = 0 < y < ceiling ? dy : 0, alone or with the sums of it
//   dropout    y = keep(e) ? x * s : 0     forward and backward alike (engine/dropout.py)
//   quantize   y = 8-bit rounding of x, with the minima and maxima of x per channel
//   sum        sums of x per channel and part of the rows (the gradient of a bias)
//   reshape    the same values in NHWC order under another shape
//   fill       zeros, a stretch of the arena;  clear: zeros, one tensor;  clear_halo: zeros around images
//
// Versions (naive; group: part of the rows, its pixels and channels dealt out to the lanes). Exact but for
// sum: reduction N*H*W.

// size: H, W, rows (n and h together) per part, rows in all.
#define FOR_EACH_ROW                                                                  \
    const int first = GROUP(0) * size.z, end = MIN_OF(first + size.z, size.w); \
    for (int row = first; row < end; row++)
#define ROW_OF(pointer, view) (pointer + view.x + (row / size.x) * view.y + (row % size.x) * view.z)
#define FOR_EACH_VECTOR DEAL2(w, size.y, c, channels, V)
#define FOR_EACH_VALUE DEAL2(w, size.y, c, channels, 1)

static inline void put(GLOBAL_OUT target, vec value, int accumulate)
{
    STORE(target) = accumulate ? LOAD(target) + value : value;
}

KERNEL(copy_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, const int4 xv, const int4 yv, const int4 size, const int channels,
                     const int accumulate)
{
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(x, xv);
        GLOBAL_OUT out = ROW_OF(y, yv);
        FOR_EACH_VECTOR put(out + w * yv.w + c, LOAD(a + w * xv.w + c), accumulate);
    }
}

// Channel by channel, for views whose channels are not aligned.
KERNEL(copy_channels_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, const int4 xv, const int4 yv, const int4 size,
                              const int channels, const int accumulate)
{
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(x, xv);
        GLOBAL_OUT out = ROW_OF(y, yv);
        FOR_EACH_VALUE {
            const float value = a[w * xv.w + c];
            out[w * yv.w + c] = accumulate ? out[w * yv.w + c] + value : value;
        }
    }
}

KERNEL(clear_f32)(GROUPS GLOBAL_OUT y, const int4 yv, const int4 size, const int channels)
{
    FOR_EACH_ROW {
        GLOBAL_OUT out = ROW_OF(y, yv);
        FOR_EACH_VECTOR STORE(out + w * yv.w + c) = (vec)(0.0f);
    }
}

KERNEL(add_f32)(GROUPS GLOBAL_IN a, GLOBAL_IN b, GLOBAL_OUT y, const int4 av, const int4 bv, const int4 yv,
                    const int4 size, const int channels)
{
    FOR_EACH_ROW {
        GLOBAL_IN left = ROW_OF(a, av);
        GLOBAL_IN right = ROW_OF(b, bv);
        GLOBAL_OUT out = ROW_OF(y, yv);
        FOR_EACH_VECTOR STORE(out + w * yv.w + c) = LOAD(left + w * av.w + c) + LOAD(right + w * bv.w + c);
    }
}

KERNEL(relu_forward_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, const int4 xv, const int4 yv, const int4 size,
                             const int channels, const float ceiling)
{
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(x, xv);
        GLOBAL_OUT out = ROW_OF(y, yv);
        FOR_EACH_VECTOR
        STORE(out + w * yv.w + c) = MIN_OF((vec)(ceiling), MAX_OF(LOAD(a + w * xv.w + c), (vec)(0.0f)));
    }
}

#define WHERE_OPEN(y, dy) (((y) > 0.0f && (y) < ceiling) ? (dy) : (vec)(0.0f))

KERNEL(relu_backward_f32)(GROUPS GLOBAL_IN y, GLOBAL_IN dy, GLOBAL_OUT dx, const int4 yv, const int4 dv,
                              const int4 xv, const int4 size, const int channels, const int accumulate,
                              const float ceiling)
{
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(y, yv);
        GLOBAL_IN d = ROW_OF(dy, dv);
        GLOBAL_OUT out = ROW_OF(dx, xv);
        FOR_EACH_VECTOR put(out + w * xv.w + c, WHERE_OPEN(LOAD(a + w * yv.w + c), LOAD(d + w * dv.w + c)), accumulate);
    }
}

static inline uint mix(uint x)
{
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

// channels: unpadded.   mask: key, threshold.   scale: 1 / (1 - rate).
KERNEL(dropout_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, const int4 xv, const int4 yv, const int4 size,
                        const int channels, const uint threshold, const float scale, const int accumulate,
                        const uint key)
{
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(x, xv);
        GLOBAL_OUT out = ROW_OF(y, yv);
        FOR_EACH_VALUE {
            const uint e = (uint)((row * size.y + w) * channels + c);
            const float value = mix(mix(e) + key) >= threshold ? a[w * xv.w + c] * scale : 0.0f;
            out[w * yv.w + c] = accumulate ? out[w * yv.w + c] + value : value;
        }
    }
}

// range: offset of the partial minima and maxima [part][2][channels] (-1: not wanted), place in qp. Lanes that
// take turns at the pixels have parts of their own.
KERNEL(quantize_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, GLOBAL_IN qp, const int4 xv, const int4 yv, const int4 size,
                         const int channels, const int2 range)
{
    const float4 q = *(__global const float4 *)(qp + 4 * range.y);
    const int span = SPAN_OF(channels / V), turn = LANE / span, turns = LANES / span, c0 = LANE % span * V;
    GLOBAL_OUT extremes = y + range.x + (GROUP(0) * turns + turn) * 2 * channels;
    if (range.x >= 0)
        for (int c = c0; c < channels; c += span * V) {
            STORE(extremes + c) = (vec)(INFINITY);
            STORE(extremes + channels + c) = (vec)(-INFINITY);
        }
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(x, xv);
        GLOBAL_OUT out = ROW_OF(y, yv);
        for (int w = turn; w < size.y; w += turns)
            for (int c = c0; c < channels; c += span * V) {
                const vec value = LOAD(a + w * xv.w + c);
                if (range.x >= 0) {
                    GLOBAL_OUT low = extremes + c;
                    STORE(low) = MIN_OF(LOAD(low), value);
                    STORE(low + channels) = MAX_OF(LOAD(low + channels), value);
                }
                STORE(out + w * yv.w + c) = fake_quantize(value, q);
            }
    }
}

// The gradient passes where rounding did not cut the value off.
KERNEL(quantize_backward_f32)(GROUPS GLOBAL_IN x, GLOBAL_IN dy, GLOBAL_OUT dx, GLOBAL_IN qp, const int4 xv,
                                  const int4 dv, const int4 ov, const int4 size, const int channels,
                                  const int accumulate, const int place)
{
    const float4 q = *(__global const float4 *)(qp + 4 * place);
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(x, xv);
        GLOBAL_IN d = ROW_OF(dy, dv);
        GLOBAL_OUT out = ROW_OF(dx, ov);
        FOR_EACH_VECTOR {
            const vec value = LOAD(a + w * xv.w + c);
            const vec g = (value >= q.z * q.y && value <= q.w * q.y) ? LOAD(d + w * dv.w + c) : (vec)(0.0f);
            put(out + w * ov.w + c, g, accumulate);
        }
    }
}

// The network's input, whose channels are not padded: value by value.
KERNEL(quantize_channels_f32)(GROUPS GLOBAL_OUT x, GLOBAL_IN qp, const int4 xv, const int4 size, const int channels,
                                  const int place)
{
    const float4 q = *(__global const float4 *)(qp + 4 * place);
    FOR_EACH_ROW {
        GLOBAL_OUT a = ROW_OF(x, xv);
        FOR_EACH_VALUE {
            const vec value = fake_quantize((vec)(a[w * xv.w + c]), q);
            a[w * xv.w + c] = ((const float *)&value)[0];
        }
    }
}

#ifdef B
#define EACH for (int b = 0; b < B; b++)
#define LANES_OF_CHANNELS                                                               \
    const int span = SPAN_OF(pv.y / (B * V)), turn = LANE / span, turns = LANES / span; \
    const int c0 = (GROUP(1) * span + LANE % span) * (B * V);

// partial: offset, floats from one part to the next: the padded channels.   Group: part of the rows, B vectors
// of channels for each lane that lies beside another.
KERNEL(sum_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT partial, const int4 xv, const int4 size, const int2 pv)
{
    SHARED_LANES
    LANES_OF_CHANNELS
    vec total[B];
    #pragma unroll
    EACH total[b] = (vec)(0.0f);
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(x, xv) + c0;
        vec line[B];
        #pragma unroll
        EACH line[b] = (vec)(0.0f);
        for (int w = turn; w < size.y; w += turns) {
            #pragma unroll
            EACH line[b] += LOAD(a + w * xv.w + b * V);
        }
        #pragma unroll
        EACH total[b] += line[b];
    }
    #pragma unroll
    EACH {
        const vec sum = lane_sum(total[b], span);
        if (turn == 0) STORE(partial + pv.x + GROUP(0) * pv.y + c0 + b * V) = sum;
    }
}

// In place, with the sums that the bias wants: one pass over dy where two would be.
KERNEL(relu_backward_sum_f32)(GROUPS GLOBAL_IN y, GLOBAL_OUT dy, GLOBAL_OUT partial, const int4 yv, const int4 dv,
                              const int4 size, const int2 pv, const float ceiling)
{
    SHARED_LANES
    LANES_OF_CHANNELS
    vec total[B];
    #pragma unroll
    EACH total[b] = (vec)(0.0f);
    FOR_EACH_ROW {
        GLOBAL_IN a = ROW_OF(y, yv) + c0;
        GLOBAL_OUT d = ROW_OF(dy, dv) + c0;
        vec line[B];
        #pragma unroll
        EACH line[b] = (vec)(0.0f);
        for (int w = turn; w < size.y; w += turns) {
            #pragma unroll
            EACH {
                const vec open = WHERE_OPEN(LOAD(a + w * yv.w + b * V), LOAD(d + w * dv.w + b * V));
                STORE(d + w * dv.w + b * V) = open;
                line[b] += open;
            }
        }
        #pragma unroll
        EACH total[b] += line[b];
    }
    #pragma unroll
    EACH {
        const vec sum = lane_sum(total[b], span);
        if (turn == 0) STORE(partial + pv.x + GROUP(0) * pv.y + c0 + b * V) = sum;
    }
}
#endif

// from, to: H, W, C, unused of each shape.   Group: image.
KERNEL(reshape_f32)(GROUPS GLOBAL_IN x, GLOBAL_OUT y, const int4 xv, const int4 yv, const int4 from, const int4 to,
                        const int accumulate)
{
    const int n = GROUP(0);
    DEAL(e, from.x * from.y * from.z, 1) {
        const int pixel = e / from.z, target = e / to.z;
        const float value = x[xv.x + n * xv.y + pixel / from.y * xv.z + pixel % from.y * xv.w + e % from.z];
        GLOBAL_OUT out = y + yv.x + n * yv.y + target / to.y * yv.z + target % to.y * yv.w + e % to.z;
        *out = accumulate ? *out + value : value;
    }
}

// count floats from offset on, each group its stretch.
KERNEL(fill_zero_f32)(GROUPS GLOBAL_OUT y, const int offset, const int count, const int stretch)
{
    const int first = GROUP(0) * stretch, end = MIN_OF(first + stretch, count);
    DEAL(i, end - first, V) STORE(y + offset + first + i) = (vec)(0.0f);
}

// The border of every image, channels included. border: rows above, pixels at the left, rows below, pixels
// at the right.   stored: rows, pixels per row, channels, all as stored.   Group: image.
KERNEL(clear_halo_f32)(GROUPS GLOBAL_OUT y, const int offset, const int4 border, const int4 stored)
{
    const int row_floats = stored.y * stored.z;
    GLOBAL_OUT image = y + offset + GROUP(0) * stored.x * row_floats;
    for (int row = 0; row < stored.x; row++) {
        GLOBAL_OUT line = image + row * row_floats;
        const int whole = row < border.x || row >= stored.x - border.z;
        const int left = whole ? row_floats : border.y * stored.z;
        DEAL(i, left, V) STORE(line + i) = (vec)(0.0f);
        if (!whole) {
            const int right = border.w * stored.z;
            DEAL(i, right, V) STORE(line + row_floats - right + i) = (vec)(0.0f);
        }
    }
}
