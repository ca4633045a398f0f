// The smallest and largest value of each rounded tensor, from the partial ones its kernel left.
//
//   found[point] = min, max over parts and channels of extremes[part][2][C]
//
// Version (naive): group: one row of the job table, its values dealt out to the lanes. Exact.

// jobs[g]: offset of the extremes, parts, padded C, C.
KERNEL(find_ranges_f32)(GROUPS GLOBAL_IN arena, GLOBAL_OUT found, __global const int *restrict jobs)
{
    SHARED_LANES
    __global const int *job = jobs + 4 * GROUP(0);
    float low = INFINITY, high = -INFINITY;
    DEAL2(part, job[1], c, job[3], 1) {
        GLOBAL_IN extremes = arena + job[0] + part * 2 * job[2];
        low = MIN_OF(extremes[c], low);
        high = MAX_OF(extremes[job[2] + c], high);
    }
    low = -lane_max((vec)(-low), 1).s0;
    high = lane_max((vec)(high), 1).s0;
    if (LANE == 0) {
        found[2 * GROUP(0)] = low;
        found[2 * GROUP(0) + 1] = high;
    }
}
