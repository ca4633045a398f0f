/* OpenCL 1.2 and later, loaded at run time: no header and no library is needed to build. */
#ifndef EMBER_OPENCL_H
#define EMBER_OPENCL_H

#include "plan.h"

typedef struct opencl_object *opencl_handle; /* any of OpenCL's handles */

/* The functions used, by the names that the standard gives them. */
typedef struct opencl_functions {
    int32_t (*GetPlatformIDs)(uint32_t, opencl_handle *, uint32_t *);
    int32_t (*GetPlatformInfo)(opencl_handle, uint32_t, size_t, void *, size_t *);
    int32_t (*GetDeviceIDs)(opencl_handle, uint64_t, uint32_t, opencl_handle *, uint32_t *);
    int32_t (*GetDeviceInfo)(opencl_handle, uint32_t, size_t, void *, size_t *);
    opencl_handle (*CreateContext)(const intptr_t *, uint32_t, const opencl_handle *,
                                   void (*)(const char *, const void *, size_t, void *), void *, int32_t *);
    int32_t (*ReleaseContext)(opencl_handle);
    opencl_handle (*CreateCommandQueue)(opencl_handle, opencl_handle, uint64_t, int32_t *);
    int32_t (*ReleaseCommandQueue)(opencl_handle);
    opencl_handle (*CreateBuffer)(opencl_handle, uint64_t, size_t, void *, int32_t *);
    int32_t (*ReleaseMemObject)(opencl_handle);
    opencl_handle (*CreateProgramWithSource)(opencl_handle, uint32_t, const char **, const size_t *, int32_t *);
    int32_t (*BuildProgram)(opencl_handle, uint32_t, const opencl_handle *, const char *,
                            void (*)(opencl_handle, void *), void *);
    int32_t (*GetProgramBuildInfo)(opencl_handle, opencl_handle, uint32_t, size_t, void *, size_t *);
    int32_t (*ReleaseProgram)(opencl_handle);
    opencl_handle (*CreateKernel)(opencl_handle, const char *, int32_t *);
    int32_t (*ReleaseKernel)(opencl_handle);
    int32_t (*GetKernelInfo)(opencl_handle, uint32_t, size_t, void *, size_t *);
    int32_t (*GetKernelArgInfo)(opencl_handle, uint32_t, uint32_t, size_t, void *, size_t *);
    int32_t (*GetKernelWorkGroupInfo)(opencl_handle, opencl_handle, uint32_t, size_t, void *, size_t *);
    int32_t (*SetKernelArg)(opencl_handle, uint32_t, size_t, const void *);
    int32_t (*EnqueueNDRangeKernel)(opencl_handle, opencl_handle, uint32_t, const size_t *, const size_t *,
                                    const size_t *, uint32_t, const opencl_handle *, opencl_handle *);
    int32_t (*EnqueueWriteBuffer)(opencl_handle, opencl_handle, uint32_t, size_t, size_t, const void *, uint32_t,
                                  const opencl_handle *, opencl_handle *);
    int32_t (*EnqueueReadBuffer)(opencl_handle, opencl_handle, uint32_t, size_t, size_t, void *, uint32_t,
                                 const opencl_handle *, opencl_handle *);
    int32_t (*Finish)(opencl_handle);
} opencl_functions;

#define OPENCL_MAX_TEXT 256

/* A device and what decides which plan it runs. */
typedef struct opencl_device {
    opencl_handle platform, id;
    char platform_name[OPENCL_MAX_TEXT], name[OPENCL_MAX_TEXT];
    int is_cpu, has_int64;
    size_t group_items;                 /* of a group at most, on the first axis */
    uint64_t local_bytes, buffer_bytes; /* of a group's local memory, of one buffer */
} opencl_device;

#define OPENCL_MAX_DEVICES 32

typedef struct opencl {
    opencl_functions call;
    opencl_device devices[OPENCL_MAX_DEVICES];
    uint32_t count;
} opencl;

/* Loads OpenCL and lists its devices, processors last; `library` as in ember_options, `platform` too. */
int opencl_load(opencl *out, const char *library, const char *platform, ember_error *error);

/* Whether a device can run a plan as far as one knows before building it; the reason in `error` where not. */
int opencl_suits(const opencl_device *device, const plan *wanted, ember_error *error);

/* A plan made ready on a device. */
typedef struct opencl_run {
    const opencl_functions *call;
    opencl_handle context, queue;
    opencl_handle buffers[PLAN_MAX_BUFFERS];
    opencl_handle *programs, *kernels;
    size_t (*items)[3];
    uint32_t buffer_count, program_count, kernel_count;
    size_t group[3];
} opencl_run;

/* Makes buffers, programs and kernels and runs what runs once. `opencl_stop` is due in any case. */
int opencl_start(opencl_run *out, const opencl *loaded, const opencl_device *device, const plan *wanted,
                 const plan_list *plans, ember_error *error);

/* Writes the input's stretch, runs, reads the output. */
int opencl_compute(const opencl_run *run, const plan *ready, const void *input, void *output, ember_error *error);

void opencl_stop(opencl_run *run);

#endif
