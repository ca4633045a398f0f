// Convolution in int8 with int32 sums, requantized in the epilogue.
//
//   y[n,h,w,o] = clip(fixed(b[o] + sum over i,j,c of x[n, h*s+i, w*s+j, c] * W[i,j,c,o]) + z, low, high)
//
// The input's zero point is taken out in b; the halo holds it. fixed() is the fixed-point product of
// core/quantization.py. Layout as in conv2d.cl, in bytes; W is (KH, KW, C, O padded).
//
// Versions, by DOT:
//   0 plain    int8 weights, int32 products
//   1 float    float weights, float sums of integers: exact while KH*KW*C * 128 * 127 < 2**24
// Exact: the same bits as the numpy reference.

#if DOT == 1
typedef vec sum_t;
typedef float weight_t;
#define LOAD_WEIGHT(p) LOAD(p)
#define TO_SUM(x) ((vec)((float)(x)))
#define TO_INT(x) TO_IVEC(x)
#else
typedef ivec sum_t;
typedef char weight_t;
#define LOAD_WEIGHT(p) TO_IVEC(*(__global const cvec *)(p))
#define TO_SUM(x) ((ivec)((int)(x)))
#define TO_INT(x) (x)
#endif

// numbers: bias, multiplier, shift, each [O padded], from wv.z on.   limits: zero point, low, high.
KERNEL(conv2d_forward_s8)(GROUPS __global const char *restrict x, __global const weight_t *restrict weight,
                              __global const int *restrict numbers, __global char *restrict y, const int4 xv,
                              const int4 taps, const int4 yv, const int4 size, const int4 wv, const int4 limits)
{
    const int c_count = size.z, o0 = GROUP(0) * (NV * V);
    const int first = GROUP(1) * size.w, end = MIN_OF(first + size.w, size.x);
    __global const char *restrict x_image = x + xv.x + GROUP(2) * xv.y;
    __global char *restrict y_image = y + yv.x + GROUP(2) * yv.y + o0;
    __global const int *restrict bias = numbers + wv.z + o0;
    for (int h_start = first; h_start < end; h_start += MRY) {
        const int h = MIN_OF(h_start, size.x - MRY);
        for (int w_start = 0; w_start < size.y; w_start += MRX) {
            const int w = MIN_OF(w_start, size.y - MRX);
            __global const char *restrict corner = x_image + h * xv.z + w * xv.w;
            sum_t acc[MRY][MRX][NV];
            #pragma unroll
            for (int i = 0; i < MRY; i++)
                #pragma unroll
                for (int j = 0; j < MRX; j++)
                    #pragma unroll
                    for (int v = 0; v < NV; v++) acc[i][j][v] = (sum_t)(0);
            __global const weight_t *restrict b = weight + wv.x + o0;
            for (int kh = 0; kh < taps.x; kh++)
                for (int kw = 0; kw < taps.y; kw++) {
                    __global const char *restrict a = corner + kh * taps.z + kw * taps.w;
                    for (int c = 0; c < c_count; c++, b += wv.y) {
                        sum_t column[NV];
                        #pragma unroll
                        for (int v = 0; v < NV; v++) column[v] = LOAD_WEIGHT(b + v * V);
                        #pragma unroll
                        for (int i = 0; i < MRY; i++)
                            #pragma unroll
                            for (int j = 0; j < MRX; j++) {
                                const sum_t value = TO_SUM(a[i * xv.z + j * xv.w + c]);
                                #pragma unroll
                                for (int v = 0; v < NV; v++) acc[i][j][v] += value * column[v];
                            }
                    }
                }
            // Through memory, so that the long epilogue is compiled once and not for each register.
            ivec sums[MRY * MRX * NV];
            #pragma unroll
            for (int i = 0; i < MRY; i++)
                #pragma unroll
                for (int j = 0; j < MRX; j++)
                    #pragma unroll
                    for (int v = 0; v < NV; v++) sums[(i * MRX + j) * NV + v] = TO_INT(acc[i][j][v]);
            #pragma unroll 1
            for (int pixel = 0; pixel < MRY * MRX; pixel++) {
                const int i = pixel / MRX, j = pixel % MRX;
                if (h + i < h_start || w + j < w_start) continue;
                __global char *restrict out = y_image + (h + i) * yv.z + (w + j) * yv.w;
                const int *sum = (const int *)(sums + pixel * NV);
                #pragma unroll 1
                for (int o = 0; o < NV * V; o++) {
                    const int code = fixed_product(sum[o] + bias[o], bias[wv.y + o], bias[2 * wv.y + o]) + limits.x;
                    out[o] = (char)MIN_OF(MAX_OF(code, limits.y), limits.z);
                }
            }
        }
    }
}
