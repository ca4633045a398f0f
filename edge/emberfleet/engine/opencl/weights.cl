// Weights as the convolutions read them, from the master copy that the optimizer updates.
//
//   forward    f[t,c,o] = W[t,c,o], or its 8-bit rounding per output channel o:
//              s[o] = max |W[:,:,o]| / 127 (1 where all are 0);  f = rint(clip(W / s)) * s
//   backward   b[T-1-t,o,c] = f[t,c,o]: window flipped, channels exchanged (convolving dy with b gives dx)
//
// t: place in the window, T = KH*KW. W: (T, C, O), O padded; b: (T, O, C), C padded with zeros.
// Versions: group: one row of the job table: one window place, whose outputs the cuts share (transpose), V
// channels, whose rows are dealt out to the lanes (round).
// Exact.

// jobs[g]: offset of W, of f, T * C, padded O, first channel o, unused, unused, unused.
KERNEL(round_weights_f32)(GROUPS GLOBAL_IN params, GLOBAL_OUT packed, __global const int *restrict jobs)
{
#pragma OPENCL FP_CONTRACT OFF
    SHARED_LANES
    __global const int *job = jobs + 8 * GROUP(0);
    GLOBAL_IN source = params + job[0] + job[4];
    GLOBAL_OUT target = packed + job[1] + job[4];
    vec peak = (vec)(0.0f);
    DEAL(row, job[2], 1) {
        const vec value = LOAD(source + row * job[3]);
        peak = MAX_OF(MAX_OF(value, -value), peak);
    }
    peak = lane_max(peak, 1);
    const vec scale = peak > 0.0f ? peak / 127.0f : (vec)(1.0f);
    const vec inverse = 1.0f / scale;
    DEAL(row, job[2], 1) {
        vec q = LOAD(source + row * job[3]) * inverse;
        q = MIN_OF(MAX_OF(q, (vec)(-127.0f)), (vec)(127.0f));
        q = (q + ROUNDING) - ROUNDING;
        STORE(target + row * job[3]) = q * scale;
    }
}

// The first halves of two vectors value by value in turns, and the second halves.
#if V == 16
#define TURNS(x, y, i, j, k, l, m, n, o, p)                                                                      \
    (vec)(x.s##i, y.s##i, x.s##j, y.s##j, x.s##k, y.s##k, x.s##l, y.s##l, x.s##m, y.s##m, x.s##n, y.s##n, x.s##o, \
          y.s##o, x.s##p, y.s##p)
#define FIRST(a, b) TURNS(a, b, 0, 1, 2, 3, 4, 5, 6, 7)
#define SECOND(x, y) TURNS(x, y, 8, 9, a, b, c, d, e, f)
#define ROUNDS 4
#elif V == 8
#define FIRST(a, b) (vec)(a.s0, b.s0, a.s1, b.s1, a.s2, b.s2, a.s3, b.s3)
#define SECOND(a, b) (vec)(a.s4, b.s4, a.s5, b.s5, a.s6, b.s6, a.s7, b.s7)
#define ROUNDS 3
#else
#define FIRST(a, b) (vec)(a.s0, b.s0, a.s1, b.s1)
#define SECOND(a, b) (vec)(a.s2, b.s2, a.s3, b.s3)
#define ROUNDS 2
#endif

// jobs[g]: offset of f, of b, T, place t, C, O, padded O, padded C.   In squares of V x V, so that whole lines are
// read and written.
KERNEL(transpose_weights_f32)(GROUPS GLOBAL_IN source, GLOBAL_OUT packed, __global const int *restrict jobs)
{
    __global const int *job = jobs + 8 * GROUP(0);
    GLOBAL_IN from = source + job[0] + job[3] * job[4] * job[6];
    GLOBAL_OUT to = packed + job[1] + (job[2] - 1 - job[3]) * job[5] * job[7];
    for (int o0 = CUT * V; o0 < job[5]; o0 += CUTS * V)
        DEAL(c0, job[4], V) {
            vec square[V];
            #pragma unroll
            for (int k = 0; k < V; k++)
                square[k] = c0 + k < job[4] ? LOAD(from + (c0 + k) * job[6] + o0) : (vec)(0.0f);
            // Shuffled like cards as often as V has bits, rows and columns have changed places.
            #pragma unroll
            for (int round = 0; round < ROUNDS; round++) {
                vec mixed[V];
                #pragma unroll
                for (int k = 0; k < V / 2; k++) {
                    mixed[2 * k] = FIRST(square[k], square[k + V / 2]);
                    mixed[2 * k + 1] = SECOND(square[k], square[k + V / 2]);
                }
                #pragma unroll
                for (int k = 0; k < V; k++) square[k] = mixed[k];
            }
            #pragma unroll
            for (int k = 0; k < V; k++)
                if (o0 + k < job[5]) STORE(to + (o0 + k) * job[7] + c0) = square[k];
        }
}
