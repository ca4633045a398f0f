/* Makes a plan ready on a device and runs it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "opencl.h"

/* Numbers of the OpenCL standard. */
#define CONTEXT_PLATFORM 0x1084
#define MEM_READ_WRITE 1u
#define PROGRAM_BUILD_LOG 0x1183
#define KERNEL_NUM_ARGS 0x1191
#define KERNEL_ARG_TYPE_NAME 0x1198
#define KERNEL_WORK_GROUP_SIZE 0x11b0

#define ZEROS 65536
#define MAX_LOG (1u << 20)
#define MAX_TYPE 64

/* Keeps the types of the kernels' parameters; changes nothing else. */
#define KEEP_TYPES "-cl-kernel-arg-info"

static int refuse(ember_error *error, const char *doing, int32_t code)
{
    return fail(error, EMBER_BAD_DEVICE, "OpenCL: %s failed with error %d", doing, (int)code);
}

static int write_bytes(const opencl_run *run, opencl_handle buffer, uint64_t at, const void *bytes, size_t size)
{
    return run->call->EnqueueWriteBuffer(run->queue, buffer, 1, (size_t)at, size, bytes, 0, NULL, NULL);
}

static int make_buffers(opencl_run *out, const plan *wanted, ember_error *error)
{
    static uint8_t zeros[ZEROS]; /* not const: so it takes no room in the file */
    for (uint32_t i = 0; i < wanted->buffer_count; i++) {
        const plan_buffer *buffer = wanted->buffers + i;
        int32_t code = 0;
        out->buffers[i] = out->call->CreateBuffer(out->context, MEM_READ_WRITE, (size_t)buffer->bytes, NULL, &code);
        if (!out->buffers[i]) return refuse(error, "allocating a buffer", code);
        out->buffer_count = i + 1;
        if (buffer->contents.size)
            code = write_bytes(out, out->buffers[i], 0, buffer->contents.at, buffer->contents.size);
        for (uint64_t at = buffer->contents.size; code == 0 && at < buffer->bytes; at += ZEROS) {
            const uint64_t left = buffer->bytes - at;
            code = write_bytes(out, out->buffers[i], at, zeros, left < ZEROS ? (size_t)left : ZEROS);
        }
        if (code != 0) return refuse(error, "filling a buffer", code);
    }
    return 1;
}

/* The options as one text, each behind a space, behind our own. */
static void join_options(const json *document, uint32_t list, char *target)
{
    memcpy(target, KEEP_TYPES, sizeof KEEP_TYPES);
    target += sizeof KEEP_TYPES - 1;
    for (uint32_t at = list + 1; at < document->nodes[list].next; at = document->nodes[at].next) {
        const span option = json_span(document, at);
        *target++ = ' ';
        memcpy(target, option.at, option.size);
        target += option.size;
    }
    *target = 0;
}

static int refuse_build(const opencl_run *run, opencl_handle device, opencl_handle program, span source, int32_t code,
                        ember_error *error)
{
    size_t size = 0;
    char *log = NULL;
    if (run->call->GetProgramBuildInfo(program, device, PROGRAM_BUILD_LOG, 0, NULL, &size) == 0 && size < MAX_LOG)
        log = allocate(size + 1, 1);
    if (log) run->call->GetProgramBuildInfo(program, device, PROGRAM_BUILD_LOG, size, log, NULL);
    fail(error, EMBER_BAD_DEVICE, "OpenCL: building %.*s failed with error %d: %s", (int)source.size,
         (const char *)source.at, (int)code, log ? log : "");
    free(log);
    return 0;
}

static int make_programs(opencl_run *out, opencl_handle device, const plan *wanted, const plan_list *plans,
                         ember_error *error)
{
    out->programs = allocate(wanted->program_count, sizeof *out->programs);
    if (!out->programs) return fail(error, EMBER_NO_MEMORY, "no memory");
    for (uint32_t i = 0; i < wanted->program_count; i++) {
        const plan_program *program = wanted->programs + i;
        const char *texts[] = {(const char *)plans->prelude.at, "\n", (const char *)program->source.at};
        const size_t sizes[] = {plans->prelude.size, 1, program->source.size};
        char options[sizeof KEEP_TYPES + PLAN_MAX_OPTIONS * (PLAN_MAX_NAME + 1)];
        int32_t code = 0;
        join_options(&plans->document, program->options, options);
        out->programs[i] = out->call->CreateProgramWithSource(out->context, 3, texts, sizes, &code);
        if (!out->programs[i]) return refuse(error, "taking a kernel's source", code);
        out->program_count = i + 1;
        code = out->call->BuildProgram(out->programs[i], 1, &device, options, NULL, NULL);
        if (code != 0) return refuse_build(out, device, out->programs[i], program->source_name, code, error);
    }
    return 1;
}

/* Whether a kernel's parameter is of the type given. A driver takes what it gets for an object, such as a buffer or a
 * sampler, for that object's address, and follows it: numbers of a plan must not get there. */
static int check_type(const opencl_run *run, opencl_handle kernel, uint32_t index, const plan_argument *argument,
                      const char *name, ember_error *error)
{
    char type[MAX_TYPE] = "";
    const int32_t code = run->call->GetKernelArgInfo(kernel, index, KERNEL_ARG_TYPE_NAME, sizeof type - 1, type, NULL);
    if (code != 0) return refuse(error, "asking for the type of a kernel's parameter", code);
    const size_t size = strlen(type);
    if (argument->is_buffer ? size && type[size - 1] == '*' : strcmp(type, argument->type) == 0) return 1;
    return fail(error, EMBER_BAD_FORMAT, "plan: parameter %u of kernel '%s' is of type '%s', the plan gives %s",
                (unsigned)index, name, type, argument->type);
}

static int set_arguments(const opencl_run *run, opencl_handle kernel, const plan *wanted, const plan_launch *launch,
                         ember_error *error)
{
    uint32_t count = 0;
    const int32_t asked = run->call->GetKernelInfo(kernel, KERNEL_NUM_ARGS, sizeof count, &count, NULL);
    if (asked != 0 || count != launch->argument_count)
        return fail(error, EMBER_BAD_FORMAT, "plan: kernel '%s' takes %u arguments, the plan gives %u", launch->kernel,
                    (unsigned)count, (unsigned)launch->argument_count);
    for (uint32_t i = 0; i < count; i++) {
        const plan_argument *argument = wanted->arguments + launch->first_argument + i;
        if (!check_type(run, kernel, i, argument, launch->kernel, error)) return 0;
        const int32_t code =
            argument->is_buffer
                ? run->call->SetKernelArg(kernel, i, sizeof run->buffers[0], run->buffers + argument->words[0])
                : run->call->SetKernelArg(kernel, i, 4 * (size_t)argument->count, argument->words);
        if (code != 0) return refuse(error, "giving a kernel its arguments", code);
    }
    return 1;
}

static int make_kernels(opencl_run *out, opencl_handle device, const plan *wanted, ember_error *error)
{
    out->kernels = allocate(wanted->launch_count, sizeof *out->kernels);
    out->items = allocate(wanted->launch_count, sizeof *out->items);
    if (!out->kernels || !out->items) return fail(error, EMBER_NO_MEMORY, "no memory");
    for (uint32_t i = 0; i < wanted->launch_count; i++) {
        const plan_launch *launch = wanted->launches + i;
        int32_t code = 0;
        size_t allowed = 0;
        out->kernels[i] = out->call->CreateKernel(out->programs[launch->program], launch->kernel, &code);
        if (!out->kernels[i]) return refuse(error, "making a kernel", code);
        out->kernel_count = i + 1;
        code = out->call->GetKernelWorkGroupInfo(out->kernels[i], device, KERNEL_WORK_GROUP_SIZE, sizeof allowed,
                                                 &allowed, NULL);
        if (code != 0) return refuse(error, "asking for a kernel's groups", code);
        if (allowed < wanted->lanes)
            return fail(error, EMBER_BAD_DEVICE, "the device runs '%s' in groups of at most %zu, the plan needs %u",
                        launch->kernel, allowed, (unsigned)wanted->lanes);
        if (!set_arguments(out, out->kernels[i], wanted, launch, error)) return 0;
        for (int axis = 0; axis < 3; axis++) out->items[i][axis] = (size_t)launch->items[axis];
    }
    return 1;
}

static int enqueue(const opencl_run *run, uint32_t first, uint32_t end, ember_error *error)
{
    for (uint32_t i = first; i < end; i++) {
        const int32_t code = run->call->EnqueueNDRangeKernel(run->queue, run->kernels[i], 3, NULL, run->items[i],
                                                             run->group, 0, NULL, NULL);
        if (code != 0) return refuse(error, "launching a kernel", code);
    }
    return 1;
}

int opencl_start(opencl_run *out, const opencl *loaded, const opencl_device *device, const plan *wanted,
                 const plan_list *plans, ember_error *error)
{
    const intptr_t properties[] = {CONTEXT_PLATFORM, (intptr_t)device->platform, 0};
    int32_t code = 0;
    memset(out, 0, sizeof *out);
    out->call = &loaded->call;
    out->group[0] = wanted->lanes;
    out->group[1] = out->group[2] = 1;
    out->context = out->call->CreateContext(properties, 1, &device->id, NULL, NULL, &code);
    if (!out->context) return refuse(error, "making a context", code);
    out->queue = out->call->CreateCommandQueue(out->context, device->id, 0, &code);
    if (!out->queue) return refuse(error, "making a queue", code);
    if (!make_programs(out, device->id, wanted, plans, error)) return 0;
    if (!make_buffers(out, wanted, error)) return 0;
    if (!make_kernels(out, device->id, wanted, error)) return 0;
    if (!enqueue(out, 0, wanted->first, error)) return 0;
    code = out->call->Finish(out->queue);
    return code == 0 ? 1 : refuse(error, "running a kernel", code);
}

int opencl_compute(const opencl_run *run, const plan *ready, const void *input, void *output, ember_error *error)
{
    const size_t size = (size_t)ready->output_count * (ready->floating ? 4 : 1);
    int32_t code = write_bytes(run, run->buffers[ready->input], ready->input_at, input, (size_t)ready->input_bytes);
    if (code != 0) return refuse(error, "writing the input", code);
    if (!enqueue(run, ready->first, ready->launch_count, error)) return 0;
    code = run->call->EnqueueReadBuffer(run->queue, run->buffers[ready->output], 1, (size_t)ready->output_at, size,
                                        output, 0, NULL, NULL);
    return code == 0 ? 1 : refuse(error, "reading the output", code);
}

void opencl_stop(opencl_run *run)
{
    if (run->queue) run->call->Finish(run->queue);
    for (uint32_t i = 0; i < run->kernel_count; i++) run->call->ReleaseKernel(run->kernels[i]);
    for (uint32_t i = 0; i < run->program_count; i++) run->call->ReleaseProgram(run->programs[i]);
    for (uint32_t i = 0; i < run->buffer_count; i++) run->call->ReleaseMemObject(run->buffers[i]);
    if (run->queue) run->call->ReleaseCommandQueue(run->queue);
    if (run->context) run->call->ReleaseContext(run->context);
    free(run->programs);
    free(run->kernels);
    free(run->items);
    memset(run, 0, sizeof *run);
}
