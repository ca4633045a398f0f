#define _GNU_SOURCE /* secure_getenv */
#include "opencl.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of the OpenCL standard. */
#define PLATFORM_NAME 0x0902
#define DEVICE_TYPE 0x1000
#define DEVICE_MAX_WORK_GROUP_SIZE 0x1004
#define DEVICE_MAX_WORK_ITEM_SIZES 0x1005
#define DEVICE_MAX_MEM_ALLOC_SIZE 0x1010
#define DEVICE_LOCAL_MEM_SIZE 0x1023
#define DEVICE_NAME 0x102b
#define DEVICE_PROFILE 0x102e
#define DEVICE_EXTENSIONS 0x1030
#define TYPE_CPU 2u
#define TYPE_ALL 0xffffffffu

/* A program with more rights than its user loads nothing that its user names. Android's apps have but their own. */
#ifdef __ANDROID__
#define secure_getenv getenv
#endif

#define MAX_PLATFORMS 16
#define MAX_EXTENSIONS 65536

/* In the order tried. Android's linker lets an app load what its manifest names with uses-native-library. */
static const char *const LIBRARIES[] = {
    "libOpenCL.so.1",
    "libOpenCL.so",
    "libOpenCL-pixel.so",
    "libOpenCL-car.so",
    "/vendor/lib64/libOpenCL.so",
    "/vendor/lib/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib/libOpenCL.so",
    "/system/lib64/libOpenCL.so",
    "/system/lib/libOpenCL.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/vendor/lib/egl/libGLES_mali.so",
    "libGLES_mali.so",
    "/vendor/lib64/libPVROCL.so",
    "/vendor/lib/libPVROCL.so",
    "libPVROCL.so",
};

#define LOAD(function) load_function(library, "cl" #function, &call->function)

static int load_functions(void *library, opencl_functions *call)
{
    return LOAD(GetPlatformIDs) && LOAD(GetPlatformInfo) && LOAD(GetDeviceIDs) && LOAD(GetDeviceInfo) &&
           LOAD(CreateContext) && LOAD(ReleaseContext) && LOAD(CreateCommandQueue) && LOAD(ReleaseCommandQueue) &&
           LOAD(CreateBuffer) && LOAD(ReleaseMemObject) && LOAD(CreateProgramWithSource) && LOAD(BuildProgram) &&
           LOAD(GetProgramBuildInfo) && LOAD(ReleaseProgram) && LOAD(CreateKernel) && LOAD(ReleaseKernel) &&
           LOAD(GetKernelInfo) && LOAD(GetKernelArgInfo) && LOAD(GetKernelWorkGroupInfo) && LOAD(SetKernelArg) &&
           LOAD(EnqueueNDRangeKernel) && LOAD(EnqueueWriteBuffer) && LOAD(EnqueueReadBuffer) && LOAD(Finish);
}

static int holds_ignoring_case(const char *text, const char *part)
{
    for (; *text; text++) {
        size_t i = 0;
        while (part[i] && text[i] && ((text[i] ^ part[i]) & ~32) == 0) i++;
        if (!part[i]) return 1;
    }
    return !*part;
}

/* Whether a word stands in a text of words between spaces. */
static int has_word(const char *text, const char *word)
{
    const size_t size = strlen(word);
    for (const char *at = strstr(text, word); at; at = strstr(at + 1, word))
        if ((at == text || at[-1] == ' ') && (at[size] == 0 || at[size] == ' ')) return 1;
    return 0;
}

static int has_int64(const opencl_functions *call, opencl_handle id)
{
    char profile[64] = "";
    size_t size = 0;
    call->GetDeviceInfo(id, DEVICE_PROFILE, sizeof profile - 1, profile, NULL);
    if (!strstr(profile, "EMBEDDED")) return 1;
    if (call->GetDeviceInfo(id, DEVICE_EXTENSIONS, 0, NULL, &size) != 0 || size > MAX_EXTENSIONS) return 0;
    char *extensions = allocate(size + 1, 1);
    const int found = extensions && call->GetDeviceInfo(id, DEVICE_EXTENSIONS, size, extensions, NULL) == 0 &&
                      has_word(extensions, "cles_khr_int64");
    free(extensions);
    return found;
}

static void describe_device(const opencl_functions *call, opencl_device *out)
{
    uint64_t type = 0;
    size_t group = 0, axes[8] = {0};
    call->GetDeviceInfo(out->id, DEVICE_NAME, sizeof out->name - 1, out->name, NULL);
    call->GetDeviceInfo(out->id, DEVICE_TYPE, sizeof type, &type, NULL);
    call->GetDeviceInfo(out->id, DEVICE_MAX_WORK_GROUP_SIZE, sizeof group, &group, NULL);
    call->GetDeviceInfo(out->id, DEVICE_MAX_WORK_ITEM_SIZES, sizeof axes, axes, NULL);
    call->GetDeviceInfo(out->id, DEVICE_LOCAL_MEM_SIZE, sizeof out->local_bytes, &out->local_bytes, NULL);
    call->GetDeviceInfo(out->id, DEVICE_MAX_MEM_ALLOC_SIZE, sizeof out->buffer_bytes, &out->buffer_bytes, NULL);
    out->is_cpu = (type & TYPE_CPU) != 0;
    out->has_int64 = has_int64(call, out->id);
    out->group_items = group < axes[0] ? group : axes[0];
}

/* Adds the devices of all platforms of one loaded library: processors, or all others. */
static void list_devices(opencl *out, const char *platform, int processors)
{
    opencl_handle platforms[MAX_PLATFORMS], ids[OPENCL_MAX_DEVICES];
    uint32_t count = 0, found;
    if (out->call.GetPlatformIDs(MAX_PLATFORMS, platforms, &count) != 0) return;
    for (uint32_t i = 0; i < count && i < MAX_PLATFORMS; i++) {
        opencl_device device = {0};
        device.platform = platforms[i];
        out->call.GetPlatformInfo(platforms[i], PLATFORM_NAME, sizeof device.platform_name - 1, device.platform_name,
                                  NULL);
        if (platform && !holds_ignoring_case(device.platform_name, platform)) continue;
        found = 0;
        if (out->call.GetDeviceIDs(platforms[i], TYPE_ALL, OPENCL_MAX_DEVICES, ids, &found) != 0) continue;
        for (uint32_t k = 0; k < found && k < OPENCL_MAX_DEVICES && out->count < OPENCL_MAX_DEVICES; k++) {
            device.id = ids[k];
            device.local_bytes = device.buffer_bytes = 0;
            memset(device.name, 0, sizeof device.name);
            describe_device(&out->call, &device);
            if (device.is_cpu == processors) out->devices[out->count++] = device;
        }
    }
}

static int try_library(opencl *out, const char *name, const char *platform, int *loaded)
{
    /* Never closed where it works: drivers keep threads and clean up when the process ends. */
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) return 0;
    if (load_functions(library, &out->call)) {
        *loaded = 1;
        list_devices(out, platform, 0);
        list_devices(out, platform, 1);
        return out->count > 0;
    }
    dlclose(library);
    return 0;
}

int opencl_load(opencl *out, const char *library, const char *platform, ember_error *error)
{
    int loaded = 0;
    memset(out, 0, sizeof *out);
    if (!library) library = secure_getenv("EMBER_OPENCL_LIBRARY");
    if (library && *library) {
        if (try_library(out, library, platform, &loaded)) return 1;
    } else {
        for (size_t i = 0; i < sizeof LIBRARIES / sizeof LIBRARIES[0]; i++)
            if (try_library(out, LIBRARIES[i], platform, &loaded)) return 1;
    }
    if (!loaded)
        return fail(error, EMBER_NO_OPENCL,
                    "no OpenCL library here: install a driver with its loader, or run the .tflite");
    return fail(error, EMBER_NO_OPENCL, "OpenCL is here but has no device%s%s: install a driver, or run the .tflite",
                platform ? " of a platform named " : "", platform ? platform : "");
}

int opencl_suits(const opencl_device *device, const plan *wanted, ember_error *error)
{
    if (wanted->int64 && !device->has_int64)
        return fail(error, EMBER_BAD_DEVICE, "'%s' has no 64-bit integers, which this network needs: run the .tflite",
                    device->name);
    if (wanted->local_bytes > device->local_bytes)
        return fail(error, EMBER_BAD_DEVICE, "'%s' has %llu bytes of local memory for a group, the plan needs %llu",
                    device->name, (unsigned long long)device->local_bytes, (unsigned long long)wanted->local_bytes);
    if (wanted->lanes > device->group_items)
        return fail(error, EMBER_BAD_DEVICE, "'%s' has groups of at most %zu work-items, the plan needs %u",
                    device->name, device->group_items, (unsigned)wanted->lanes);
    for (uint32_t i = 0; i < wanted->buffer_count; i++)
        if (wanted->buffers[i].bytes > device->buffer_bytes)
            return fail(error, EMBER_BAD_DEVICE, "'%s' has buffers of at most %llu bytes, the plan needs %llu",
                        device->name, (unsigned long long)device->buffer_bytes,
                        (unsigned long long)wanted->buffers[i].bytes);
    return 1;
}
