/* An OpenCL driver that computes nothing: it takes and gives what the runner asks for, and fails on demand.
 * It stands for devices that are not here (a GPU with small groups) and for the failures of drivers, which no real one
 * shows on demand. Every object is memory of its own, so that LeakSanitizer sees one that is not released.
 *
 *   FAKE_TYPE          cpu or gpu (gpu)            FAKE_GROUP         work-items of a group (1024)
 *   FAKE_KERNEL_GROUP  of every kernel's groups    FAKE_PROFILE       the device's profile (FULL_PROFILE)
 *   FAKE_LOCAL         bytes of local memory       FAKE_OUTPUT        each byte that is read (1)
 *   FAKE_FAIL          which call of those that may fail does, counted from 1 (none) */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FAILURE (-5) /* CL_OUT_OF_RESOURCES */
#define API __attribute__((visibility("default")))

static int calls;

static size_t number(const char *name, size_t otherwise)
{
    const char *text = getenv(name);
    return text ? (size_t)strtoul(text, NULL, 10) : otherwise;
}

static int32_t fails(void)
{
    calls++;
    return (size_t)calls == number("FAKE_FAIL", 0) ? FAILURE : 0;
}

static void *object(int32_t *code)
{
    *code = fails();
    return *code ? NULL : malloc(16);
}

static int32_t release(void *thing)
{
    free(thing);
    return 0;
}

static int32_t give(const void *value, size_t size, size_t room, void *target, size_t *wanted)
{
    if (wanted) *wanted = size;
    if (target && room < size) return -30;
    if (target) memcpy(target, value, size);
    return 0;
}

API int32_t clGetPlatformIDs(uint32_t room, void **out, uint32_t *count)
{
    if (room) out[0] = &calls;
    *count = 1;
    return 0;
}

API int32_t clGetPlatformInfo(void *platform, uint32_t what, size_t room, void *target, size_t *wanted)
{
    (void)platform, (void)what;
    return give("Nothing", 8, room, target, wanted);
}

API int32_t clGetDeviceIDs(void *platform, uint64_t type, uint32_t room, void **out, uint32_t *count)
{
    (void)platform, (void)type;
    if (room) out[0] = &calls;
    *count = 1;
    return 0;
}

API int32_t clGetDeviceInfo(void *device, uint32_t what, size_t room, void *target, size_t *wanted)
{
    const char *type = getenv("FAKE_TYPE"), *profile = getenv("FAKE_PROFILE");
    const uint64_t kind = type && strcmp(type, "cpu") == 0 ? 2 : 4, large = 1 << 30;
    const uint64_t local = number("FAKE_LOCAL", 32768);
    const size_t group = number("FAKE_GROUP", 1024), axes[3] = {group, group, group};
    (void)device;
    if (!profile) profile = "FULL_PROFILE";
    switch (what) {
    case 0x1000: return give(&kind, sizeof kind, room, target, wanted);
    case 0x1004: return give(&group, sizeof group, room, target, wanted);
    case 0x1005: return give(axes, sizeof axes, room, target, wanted);
    case 0x102b: return give("a device of nothing", 20, room, target, wanted);
    case 0x102e: return give(profile, strlen(profile) + 1, room, target, wanted);
    case 0x1030: return give("cl_khr_none", 12, room, target, wanted);
    case 0x1023: return give(&local, sizeof local, room, target, wanted);
    default: return give(&large, sizeof large, room, target, wanted);
    }
}

API void *clCreateContext(const intptr_t *properties, uint32_t count, void *const *devices, void *notify, void *data,
                          int32_t *code)
{
    (void)properties, (void)count, (void)devices, (void)notify, (void)data;
    return object(code);
}

API void *clCreateCommandQueue(void *context, void *device, uint64_t properties, int32_t *code)
{
    (void)context, (void)device, (void)properties;
    return object(code);
}

API void *clCreateBuffer(void *context, uint64_t flags, size_t size, void *host, int32_t *code)
{
    (void)context, (void)flags, (void)size, (void)host;
    return object(code);
}

API void *clCreateProgramWithSource(void *context, uint32_t count, const char **texts, const size_t *sizes,
                                    int32_t *code)
{
    (void)context, (void)count, (void)texts, (void)sizes;
    return object(code);
}

API int32_t clBuildProgram(void *program, uint32_t count, void *const *devices, const char *options, void *notify,
                           void *data)
{
    (void)program, (void)count, (void)devices, (void)options, (void)notify, (void)data;
    return fails();
}

API int32_t clGetProgramBuildInfo(void *program, void *device, uint32_t what, size_t room, void *target, size_t *wanted)
{
    (void)program, (void)device, (void)what;
    return give("it failed\nas asked", 19, room, target, wanted);
}

/* Our kernels and the types of their parameters. */
static const char *const kernels[][2] = {
    {"fill_s8", "char* int int int int"},
    {"quantize_s8", "float* char* int4 int4 float4"},
    {"conv2d_forward_s8", "char* char* int* char* int4 int2 int4 int2 int4"},
    {"max_pool_s8", "char* char* int4 int4 int4 int4 int2"},
    {"add_s8", "char* char* char* int4 int4 int4 int2 int2 int4 int4 int4"},
    {"average_pool_s8", "char* char* int4 int4 int2"},
    {"conv2d_forward_f32", "float* float* float* float* int4 int4 int4 int4 int4 float4 float"},
    {"max_pool_forward_f32", "float* float* int4 int4 int4 int4 int4"},
    {"clear_halo_f32", "float* int int4 int4"},
    {"add_f32", "float* float* float* int4 int4 int4 int4 int"},
    {"global_average_pool_forward_f32", "float* float* int4 int4 int4 float"},
};

static const char *parameters = ""; /* of the kernel made last */

API void *clCreateKernel(void *program, const char *name, int32_t *code)
{
    (void)program;
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++)
        if (strcmp(name, kernels[i][0]) == 0) parameters = kernels[i][1];
    return object(code);
}

API int32_t clGetKernelInfo(void *kernel, uint32_t what, size_t room, void *target, size_t *wanted)
{
    (void)kernel, (void)what;
    uint32_t count = 1;
    for (const char *at = parameters; *at; at++) count += *at == ' ';
    const int32_t code = fails();
    return code ? code : give(&count, sizeof count, room, target, wanted);
}

API int32_t clGetKernelArgInfo(void *kernel, uint32_t index, uint32_t what, size_t room, void *target, size_t *wanted)
{
    (void)kernel, (void)what;
    char type[16] = "";
    const char *at = parameters;
    for (uint32_t i = 0; i < index; i++) at = strchr(at, ' ') + 1;
    memcpy(type, at, strcspn(at, " "));
    const int32_t code = fails();
    return code ? code : give(type, strlen(type) + 1, room, target, wanted);
}

API int32_t clGetKernelWorkGroupInfo(void *kernel, void *device, uint32_t what, size_t room, void *target,
                                     size_t *wanted)
{
    (void)kernel, (void)device, (void)what;
    const size_t group = number("FAKE_KERNEL_GROUP", 1024);
    const int32_t code = fails();
    return code ? code : give(&group, sizeof group, room, target, wanted);
}

API int32_t clSetKernelArg(void *kernel, uint32_t index, size_t size, const void *value)
{
    (void)kernel, (void)index, (void)size, (void)value;
    return fails();
}

API int32_t clEnqueueNDRangeKernel(void *queue, void *kernel, uint32_t axes, const size_t *offset, const size_t *items,
                                   const size_t *group, uint32_t count, void *const *before, void **event)
{
    (void)queue, (void)kernel, (void)axes, (void)offset, (void)items, (void)group, (void)count, (void)before,
        (void)event;
    return fails();
}

API int32_t clEnqueueWriteBuffer(void *queue, void *buffer, uint32_t waits, size_t at, size_t size, const void *bytes,
                                 uint32_t count, void *const *before, void **event)
{
    (void)queue, (void)buffer, (void)waits, (void)at, (void)size, (void)bytes, (void)count, (void)before, (void)event;
    return fails();
}

API int32_t clEnqueueReadBuffer(void *queue, void *buffer, uint32_t waits, size_t at, size_t size, void *bytes,
                                uint32_t count, void *const *before, void **event)
{
    (void)queue, (void)buffer, (void)waits, (void)at, (void)count, (void)before, (void)event;
    memset(bytes, (int)number("FAKE_OUTPUT", 1), size);
    return fails();
}

API int32_t clFinish(void *queue)
{
    (void)queue;
    return fails();
}

API int32_t clReleaseContext(void *thing) { return release(thing); }
API int32_t clReleaseCommandQueue(void *thing) { return release(thing); }
API int32_t clReleaseMemObject(void *thing) { return release(thing); }
API int32_t clReleaseProgram(void *thing) { return release(thing); }
API int32_t clReleaseKernel(void *thing) { return release(thing); }
