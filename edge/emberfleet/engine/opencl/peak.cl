// What the device's arithmetic can do at most: multiply-adds on sums that never leave their registers.
//
//   y[g] = sum over i of s_i, after `count` times s_i = s_i * factor + term
//
// Version (naive): group: SUMS vectors, enough that each is ready when its turn comes again.

#define SUMS 16

KERNEL(peak_f32)(GROUPS GLOBAL_OUT y, const int4 size, const float4 numbers)
{
#pragma OPENCL FP_CONTRACT ON
    const vec factor = (vec)(numbers.x), term = (vec)(numbers.y);
    vec sums[SUMS];
    #pragma unroll
    for (int i = 0; i < SUMS; i++) sums[i] = (vec)((float)i);
    for (int turn = 0; turn < size.y; turn++)
        #pragma unroll
        for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * factor + term;
    vec total = (vec)(0.0f);
    #pragma unroll
    for (int i = 0; i < SUMS; i++) total += sums[i];
    if (LANE == 0) STORE(y + size.x + GROUP(0) * V) = total;
}
