/* x[i] = 2 * x[i] + 1 for i in [0, n): shows that a device builds and runs kernels.
 *
 * x: (n,) float32, read and written. One version, naive; exact for the small integers it is given.
 */
__kernel void scale_and_add_f32(__global float *x, const int n)
{
    const int i = (int)get_global_id(0);
    if (i >= n)
        return;
    x[i] = 2.0f * x[i] + 1.0f;
}
