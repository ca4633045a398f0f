// Softmax over the last axis, and its cross-entropy with the labels.
//
//   p = exp(z - max z) / sum exp(z - max z);   t = (1 - s) * [k == label] + s / K
//   loss[n,p] = -sum over k of t * log p;      dz = (p - t) / (N * P)
//
// Logits lie flat, position after position, (N, P * K). Labels were checked on the host.
// Versions (naive): group: image; the classes of each position dealt out to the lanes. Tolerance: reduction length K.

// size: P, K, padded P * K, unused.   share: s / K, 1 - s, 1 / (N * P), unused.   loss: (N * P,).
KERNEL(softmax_cross_entropy_f32)(GROUPS GLOBAL_IN z, GLOBAL_OUT dz, __global const int *restrict labels,
                                      GLOBAL_OUT loss, const int4 zv, const int4 dv, const int4 size,
                                      const float4 share)
{
    SHARED_LANES
    const int n = GROUP(0), used = size.x * size.y;
    for (int p = 0; p < size.x; p++) {
        GLOBAL_IN row = z + zv.x + n * zv.y + p * size.y;
        GLOBAL_OUT out = dz + dv.x + n * dv.y + p * size.y;
        const int label = labels[n * size.x + p];
        float peak = row[0], total = 0.0f, sum = 0.0f;
        DEAL(k, size.y, 1) peak = MAX_OF(row[k], peak);
        peak = lane_max((vec)(peak), 1).s0;
        DEAL(k, size.y, 1) {
            const float e = exp(row[k] - peak);
            out[k] = e;
            total += e;
            sum += row[k] - peak;
        }
        total = lane_sum((vec)(total), 1).s0;
        sum = lane_sum((vec)(sum), 1).s0;
        const float scale = share.z / total;
        DEAL(k, size.y, 1) out[k] = out[k] * scale - share.x * share.z;
        if (LANE != label % LANES) continue;
        out[label] -= share.y * share.z;
        loss[n * size.x + p] = log(total) - share.y * (row[label] - peak) - share.x * sum;
    }
    DEAL(k, size.z - used, 1) dz[dv.x + n * dv.y + used + k] = 0.0f;
}

KERNEL(softmax_forward_f32)(GROUPS GLOBAL_IN z, GLOBAL_OUT y, const int4 zv, const int4 yv, const int4 size)
{
    SHARED_LANES
    const int n = GROUP(0);
    for (int p = 0; p < size.x; p++) {
        GLOBAL_IN row = z + zv.x + n * zv.y + p * size.y;
        GLOBAL_OUT out = y + yv.x + n * yv.y + p * size.y;
        float peak = row[0], total = 0.0f;
        DEAL(k, size.y, 1) peak = MAX_OF(row[k], peak);
        peak = lane_max((vec)(peak), 1).s0;
        DEAL(k, size.y, 1) {
            out[k] = exp(row[k] - peak);
            total += out[k];
        }
        total = lane_sum((vec)(total), 1).s0;
        DEAL(k, size.y, 1) out[k] /= total;
    }
}
