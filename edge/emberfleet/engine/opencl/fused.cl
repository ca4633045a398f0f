// All kernels of a program in one launch: its groups are workers that take one task after the other.
//
//   operation  a kernel with its arguments, cut into tasks: what would be groups of a launch of its own
//   worker     takes tasks of an operation while there are any, waits until the others have finished
//              theirs, goes on to the next operation
//
// A worker waits only for tasks that a running worker has taken, so it never waits for one that has not
// been started: right with any number of workers at a time, if those that run keep running (PoCL: threads).
//
// FUSED_CASES (made by launches.py) calls the function of each kernel.
// table: rows of FUSED_ROW int4: kernel and number of tasks (x, y, z), then an int4 for each argument.
// counters: 32 ints for each operation (tasks taken; 16 further: finished), then 16 (workers that ended);
// the last worker sets all back to zero.

#define P(i) ((__global void *)(memory + 64L * arguments[i].x))
#define I4(i) (arguments[i])
#define I2(i) (arguments[i].xy)
#define I(i) (arguments[i].x)
#define U(i) (as_uint(arguments[i].x))
#define F(i) (as_float(arguments[i].x))
#define F4(i) (as_float4(arguments[i]))

#ifdef __x86_64__
#define PAUSE __builtin_ia32_pause()
#else
#define PAUSE
#endif

static void run_task(const int kernel_, __global char *memory, __global const int4 *arguments, const int4 group)
{
    switch (kernel_) {
        FUSED_CASES
    }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void run_all(__global char *memory, __global const int4 *table,
                                                                     __global int *counters, const int4 range)
{
    const int first = range.x, end = range.y, workers = range.z, count = range.w;
    for (int operation = first; operation < end; operation++) {
        __global const int4 *row = table + operation * FUSED_ROW;
        const int4 head = row[0];
        const int total = head.y * head.z * head.w;
        if (workers == 1) {
            for (int task = 0; task < total; task++)
                run_task(head.x, memory, row + 1,
                         (int4)(task % head.y, task / head.y % head.z, task / (head.y * head.z), 0));
            continue;
        }
        __global int *taken = counters + operation * 32, *finished = taken + 16;
        int mine = 0;
        for (;;) {
            const int task = __sync_fetch_and_add(taken, 1);
            if (task >= total) break;
            run_task(head.x, memory, row + 1,
                     (int4)(task % head.y, task / head.y % head.z, task / (head.y * head.z), 0));
            mine++;
        }
        if (mine > 0) __sync_fetch_and_add(finished, mine);
        while (*(volatile __global int *)finished < total) PAUSE;
        __sync_synchronize();
    }
    if (workers > 1 && __sync_fetch_and_add(counters + count * 32, 1) == workers - 1) {
        for (int operation = first; operation < end; operation++)
            counters[operation * 32] = counters[operation * 32 + 16] = 0;
        counters[count * 32] = 0;
    }
}
