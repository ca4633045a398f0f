// All kernels of a program in one launch: its groups are workers that take one task after the other.
//
//   operation  a kernel with its arguments, cut into tasks: what would be groups of a launch of its own
//   worker     takes tasks of an operation while there are any, waits until the others have finished
//              theirs, goes on to the next operation
//
// The calling thread is one worker: it posts a run and returns when all tasks are done. The others help: they
// follow what is posted, and leave when nothing was for `patience`. Nobody waits for a helper that sleeps: each
// word of a counter carries the number of its run and changes only by comparing and swapping, so whoever comes
// late can take nothing and touches no memory but counters. A worker waits only for tasks that a running worker has
// taken: right with any number of workers at a time, if those that run keep running (PoCL: threads).
//
// FUSED_CASES (made by launches.py) calls the function of each kernel.
// table: rows of FUSED_ROW int4: kernel and number of tasks (x, y, z), then an int4 for each argument.
// counters: 64-bit words, run << 32 | value, in stretches of 16. First what is posted (run << 32 | first << 16 | end)
// and, 8 words on, how many helpers are there (int); then for each operation tasks taken and, 8 words on, finished.
// A word of another run than the one posted counts as zero.
// range: first and end operation; role: 0 computes alone, 1 posts and computes, 2 helps; patience.

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

#define LOAD(word) __atomic_load_n(word, __ATOMIC_ACQUIRE)
#define RUN 0xffffffff00000000UL
#define ALONE 0
#define POSTS 1
#define HELPS 2

// How long a helper has looked: cycles of x86's clock; elsewhere estimated from the number of looks.
static uint waited(const uint since, const uint looks)
{
#ifdef __x86_64__
    uint low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return low - since;
#else
    return 8 * looks;
#endif
}

// The next task of an operation; `total` where none is left or the run is over. A run that was posted when the
// word had been read has not ended before: the word is of this run or of an older one.
static int take(__global ulong *taken, __global ulong *counters, const ulong posted, const int total)
{
    for (;;) {
        const ulong seen = LOAD(taken);
        const int task = (seen & RUN) == (posted & RUN) ? (int)(uint)seen : 0;
        if (task >= total || LOAD(counters) != posted) return total;
        if (__sync_bool_compare_and_swap(taken, seen, (posted & RUN) | (uint)(task + 1))) return task;
    }
}

static void add(__global ulong *finished, const ulong run, const int count)
{
    for (;;) {
        const ulong seen = LOAD(finished);
        const ulong sum = ((seen & RUN) == run ? seen : run) + count;
        if (__sync_bool_compare_and_swap(finished, seen, sum)) return;
    }
}

static void work(__global char *memory, __global const int4 *table, __global ulong *counters, const ulong posted,
                 const bool alone)
{
    const int end = (int)(posted & 0xffff);
    for (int operation = (int)(posted >> 16 & 0xffff); operation < end; operation++) {
        __global const int4 *row = table + operation * FUSED_ROW;
        const int4 head = row[0];
        const int total = head.y * head.z * head.w;
        __global ulong *taken = counters + 16 * (operation + 1), *finished = taken + 8;
        int mine = 0;
        for (int task; (task = alone ? mine : take(taken, counters, posted, total)) < total; mine++)
            run_task(head.x, memory, row + 1,
                     (int4)(task % head.y, task / head.y % head.z, task / (head.y * head.z), 0));
        if (alone || total == 0) continue;
        if (mine > 0) add(finished, posted & RUN, mine);
        while (LOAD(finished) != (posted & RUN) + total) {
            if (LOAD(counters) != posted) return;
            PAUSE;
        }
    }
}

// What is posted after a run; the same run where nothing was for so long.
static ulong next_run(__global ulong *counters, const ulong posted, const uint patience)
{
    ulong next = LOAD(counters);
    const uint since = waited(0, 0);
    for (uint looks = 0; next == posted && waited(since, looks) < patience; looks++) {
        PAUSE;
        next = LOAD(counters);
    }
    return next;
}

// `work` is called in one place: the compiler puts all kernels there.
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void run_all(__global char *memory, __global const int4 *table,
                                                                     __global ulong *counters, const int4 range)
{
    const int role = range.z;
    ulong posted = (uint)range.x << 16 | (uint)range.y, ended;
    if (role == POSTS) {
        posted |= (LOAD(counters) & RUN) + (1UL << 32);
        __atomic_store_n(counters, posted, __ATOMIC_SEQ_CST);
    } else if (role == HELPS) posted = LOAD(counters);
    do {
        work(memory, table, counters, posted, role == ALONE);
        ended = posted;
        if (role == HELPS) posted = next_run(counters, ended, (uint)range.w);
    } while (posted != ended);
    if (role == HELPS) __sync_fetch_and_sub((__global int *)(counters + 8), 1);
}
