#include "plan.h"

#include <stdlib.h>
#include <string.h>

#include "sha256.h"

#define FOLDER "opencl/"
#define KERNEL_FOLDER "opencl/kernels/"
#define MAX_PLAN_BYTES (4u << 20)
#define MAX_KERNELS 64
#define MAX_SOURCE_BYTES (1u << 20)
#define MAX_PROGRAMS 1024
#define MAX_LAUNCHES 16384
#define MAX_LANES 1024
#define MAX_BUFFER_BYTES (INT64_C(1) << 33)
#define MAX_STRETCH_BYTES (INT64_C(1) << 28)
#define MAX_STEP INT64_C(0x7fffffff)
#define MAX_ITEMS UINT64_C(0x7fffffff)
#define MAX_INTEGER ((INT64_C(1) << 53) - 1)

/* What the reading of one plan looks at. */
typedef struct reader {
    const json *document;
    const container *held;
    const manifest *about;
    uint32_t kernels; /* the object of sources and digests */
    span constants;
    plan *out;
} reader;

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int is_finite(float value) { return value - value == 0.0f; }

static int read_unsigned(const json *document, uint32_t value, int64_t low, int64_t high, const char *name,
                         uint64_t *out)
{
    int64_t number;
    if (!json_integer(document, value, low, high, name, &number)) return 0;
    *out = (uint64_t)number;
    return 1;
}

/* A list of `count` integers. */
static int read_list(const json *document, uint32_t list, uint32_t count, int64_t low, int64_t high, const char *name,
                     uint64_t *out)
{
    if (!json_holds(document, list, JSON_ARRAY, count, count, name, NULL)) return 0;
    uint32_t at = list + 1;
    for (uint32_t i = 0; i < count; i++, at = document->nodes[at].next)
        if (!read_unsigned(document, at, low, high, name, out + i)) return 0;
    return 1;
}

/* `count` real numbers: a channel each, so 3 at most. */
static int read_floats(const json *document, uint32_t list, uint32_t count, const char *name, float *out)
{
    uint64_t bits[3];
    if (!read_list(document, list, count, 0, UINT32_MAX, name, bits)) return 0;
    for (uint32_t i = 0; i < count; i++) {
        out[i] = float_of((uint32_t)bits[i]);
        if (!is_finite(out[i])) return json_wrong(document, name, "finite numbers");
    }
    return 1;
}

/* A text of letters, digits and `others`, copied. */
static int read_name(const json *document, uint32_t value, const char *others, const char *name, char *out)
{
    span text;
    if (!json_plain(document, value, 1, PLAN_MAX_NAME, name, &text)) return 0;
    if (!span_of(text, others)) return json_wrong(document, name, "a name of letters, digits and few others");
    memcpy(out, text.at, text.size);
    out[text.size] = 0;
    return 1;
}

/* Every source must be in the bundle and be the one that the plan names. */
static int check_sources(const reader *r)
{
    const json *document = r->document;
    for (uint32_t at = r->kernels + 1; at < document->nodes[r->kernels].next; at = document->nodes[at + 1].next) {
        span name, digest;
        if (!json_plain(document, at, 1, PLAN_MAX_NAME, "kernels", &name)) return 0;
        if (!json_plain(document, at + 1, 64, 64, "kernels", &digest)) return 0;
        const span *found = container_part(r->held, KERNEL_FOLDER, name);
        if (!found || found->size > MAX_SOURCE_BYTES)
            return json_wrong(document, "kernels", "names of sources in the bundle");
        if (!sha256_is(found->at, found->size, digest.at))
            return json_wrong(document, "kernels", "the digests of the sources in the bundle");
    }
    return 1;
}

static int find_source(const reader *r, span name, span *source)
{
    if (!json_find(r->document, r->kernels, name)) return json_wrong(r->document, "source", "among the kernels");
    *source = *container_part(r->held, KERNEL_FOLDER, name);
    return 1;
}

static int read_buffers(const reader *r, uint32_t list)
{
    static const char *const names[] = {"name", "bytes", "contents"};
    const json *document = r->document;
    plan *out = r->out;
    if (!json_holds(document, list, JSON_ARRAY, 1, PLAN_MAX_BUFFERS, "buffers", &out->buffer_count)) return 0;
    uint32_t at = list + 1;
    for (uint32_t i = 0; i < out->buffer_count; i++, at = document->nodes[at].next) {
        uint32_t fields[3], count;
        uint64_t place[2] = {0, 0};
        char name[PLAN_MAX_NAME + 1];
        plan_buffer *buffer = out->buffers + i;
        if (!json_fields(document, at, names, 3, 0, fields)) return 0;
        if (!read_name(document, fields[0], "._-", "name", name)) return 0;
        if (!read_unsigned(document, fields[1], 1, MAX_BUFFER_BYTES, "bytes", &buffer->bytes)) return 0;
        if (!json_holds(document, fields[2], JSON_ARRAY, 0, 2, "contents", &count)) return 0;
        if (count && !read_list(document, fields[2], 2, 0, MAX_INTEGER, "contents", place)) return 0;
        if (!lies_within(place[0], place[1], r->constants.size) || place[1] > buffer->bytes)
            return json_wrong(document, "contents", "a stretch of the constants that fits the buffer");
        if (buffer->bytes > SIZE_MAX) return json_wrong(document, "bytes", "what this processor can address");
        buffer->contents = (span){r->constants.at + place[0], (size_t)place[1]};
    }
    return 1;
}

static int read_programs(const reader *r, uint32_t list)
{
    static const char *const names[] = {"source", "options"};
    const json *document = r->document;
    plan *out = r->out;
    if (!json_holds(document, list, JSON_ARRAY, 1, MAX_PROGRAMS, "programs", &out->program_count)) return 0;
    out->programs = allocate(out->program_count, sizeof *out->programs);
    if (!out->programs) return fail(document->error, EMBER_NO_MEMORY, "plan: no memory");
    uint32_t at = list + 1;
    for (uint32_t i = 0; i < out->program_count; i++, at = document->nodes[at].next) {
        uint32_t fields[2], count;
        plan_program *program = out->programs + i;
        if (!json_fields(document, at, names, 2, 0, fields)) return 0;
        if (!json_plain(document, fields[0], 1, PLAN_MAX_NAME, "source", &program->source_name)) return 0;
        if (!find_source(r, program->source_name, &program->source)) return 0;
        if (!json_holds(document, fields[1], JSON_ARRAY, 0, PLAN_MAX_OPTIONS, "options", &count)) return 0;
        program->options = fields[1];
        uint32_t option = fields[1] + 1;
        for (uint32_t k = 0; k < count; k++, option = document->nodes[option].next) {
            span text;
            if (!json_plain(document, option, 3, PLAN_MAX_NAME, "options", &text)) return 0;
            const uint8_t initial = text.at[2] | 0x20;
            if (memcmp(text.at, "-D", 2) != 0 || !span_of(text, "_=-") || initial < 'a' || initial > 'z')
                return json_wrong(document, "options", "definitions such as -DNAME=1");
        }
    }
    return 1;
}

static int read_argument(const reader *r, uint32_t list, plan_argument *out)
{
    static const struct {
        const char *word, *types[5]; /* OpenCL's name for so many numbers */
        int64_t low, high;
    } kinds[] = {
        {"buffer", {NULL, "a buffer", NULL, NULL, NULL}, 0, PLAN_MAX_BUFFERS - 1},
        {"i32", {NULL, "int", "int2", NULL, "int4"}, INT32_MIN, INT32_MAX},
        {"u32", {NULL, "uint", "uint2", NULL, "uint4"}, 0, UINT32_MAX},
        {"f32", {NULL, "float", "float2", NULL, "float4"}, 0, UINT32_MAX},
    };
    const json *document = r->document;
    uint32_t count, kind = 0, at = list + 2;
    span word;
    if (!json_holds(document, list, JSON_ARRAY, 2, 5, "arguments", &count)) return 0;
    if (!json_plain(document, list + 1, 1, 8, "arguments", &word)) return 0;
    while (kind < 4 && !span_is(word, kinds[kind].word)) kind++;
    out->count = count - 1;
    if (kind == 4 || !kinds[kind].types[out->count])
        return json_wrong(document, "arguments", "a word and numbers: one buffer, or 1, 2 or 4 of i32, u32 or f32");
    out->type = kinds[kind].types[out->count];
    out->is_buffer = kind == 0;
    for (uint32_t i = 0; i < out->count; i++, at = document->nodes[at].next) {
        int64_t number;
        if (!json_integer(document, at, kinds[kind].low, kinds[kind].high, "arguments", &number)) return 0;
        out->words[i] = (uint32_t)number;
    }
    if (out->is_buffer && out->words[0] >= r->out->buffer_count)
        return json_wrong(document, "arguments", "numbers of the plan's buffers");
    return 1;
}

static int read_launch(const reader *r, uint32_t object, plan_launch *launch, uint32_t *next_argument)
{
    static const char *const names[] = {"program", "kernel", "global", "local", "arguments"};
    const json *document = r->document;
    const plan *out = r->out;
    uint32_t fields[5];
    uint64_t local[3];
    if (!json_fields(document, object, names, 5, 0, fields)) return 0;
    if (!json_count(document, fields[0], 0, out->program_count - 1, "program", &launch->program)) return 0;
    if (!read_name(document, fields[1], "_", "kernel", launch->kernel)) return 0;
    if (!read_list(document, fields[2], 3, 1, MAX_ITEMS, "global", launch->items)) return 0;
    if (!read_list(document, fields[3], 3, 1, MAX_LANES, "local", local)) return 0;
    if (local[0] != out->lanes || local[1] != 1 || local[2] != 1 || launch->items[0] % out->lanes != 0)
        return json_wrong(document, "local", "[lanes, 1, 1], and divide the work-items");
    /* Drivers multiply them, those of 32 bits in 32 bits. */
    if (launch->items[1] > MAX_ITEMS / launch->items[0] ||
        launch->items[2] > MAX_ITEMS / (launch->items[0] * launch->items[1]))
        return json_wrong(document, "global", "fewer than 2^31 work-items in all");
    if (!json_holds(document, fields[4], JSON_ARRAY, 0, PLAN_MAX_ARGUMENTS, "arguments", &launch->argument_count))
        return 0;
    launch->first_argument = *next_argument;
    uint32_t at = fields[4] + 1;
    for (uint32_t i = 0; i < launch->argument_count; i++, at = document->nodes[at].next)
        if (!read_argument(r, at, out->arguments + (*next_argument)++)) return 0;
    return 1;
}

static int read_launches(const reader *r, uint32_t list, uint32_t first)
{
    const json *document = r->document;
    plan *out = r->out;
    if (!json_holds(document, list, JSON_ARRAY, 1, MAX_LAUNCHES, "launches", &out->launch_count)) return 0;
    if (!json_count(document, first, 0, out->launch_count, "first", &out->first)) return 0;
    /* An argument is a list of a word and a number at least: three values. */
    const uint32_t most = (document->nodes[list].next - list) / 3 + 1;
    out->launches = allocate(out->launch_count, sizeof *out->launches);
    out->arguments = allocate(most, sizeof *out->arguments);
    if (!out->launches || !out->arguments) return fail(document->error, EMBER_NO_MEMORY, "plan: no memory");
    uint32_t at = list + 1, next_argument = 0;
    for (uint32_t i = 0; i < out->launch_count; i++, at = document->nodes[at].next)
        if (!read_launch(r, at, out->launches + i, &next_argument)) return 0;
    return 1;
}

static int read_input(const reader *r, uint32_t object)
{
    static const char *const names[] = {"buffer", "stretch", "shape", "steps"};
    const json *document = r->document;
    const manifest *about = r->about;
    plan *out = r->out;
    uint32_t fields[4];
    uint64_t stretch[2], shape[3], steps[3];
    if (!json_fields(document, object, names, 4, 0, fields)) return 0;
    if (!json_count(document, fields[0], 0, out->buffer_count - 1, "buffer", &out->input)) return 0;
    if (!read_list(document, fields[1], 2, 0, MAX_BUFFER_BYTES, "stretch", stretch)) return 0;
    if (!read_list(document, fields[2], 3, 1, MAX_STEP, "shape", shape)) return 0;
    if (!read_list(document, fields[3], 3, 0, MAX_STEP, "steps", steps)) return 0;
    if (shape[0] != about->height || shape[1] != about->width || shape[2] != about->channels)
        return json_wrong(document, "shape", "that of the manifest's input");
    if (stretch[0] % 4 || stretch[1] % 4 || stretch[1] > (uint64_t)MAX_STRETCH_BYTES ||
        !lies_within(stretch[0], stretch[1], out->buffers[out->input].bytes))
        return json_wrong(document, "stretch", "whole floats within the buffer, at most 256 MiB");
    /* None of these overflows: sides are at most 4096, steps below 2^31. */
    const uint64_t last = steps[0] + (shape[0] - 1) * steps[1] + (shape[1] - 1) * steps[2] + shape[2] - 1;
    const uint64_t begin = stretch[0] / 4, end = begin + stretch[1] / 4;
    if (steps[0] < begin || last >= end) return json_wrong(document, "steps", "within the stretch");
    out->input_at = stretch[0];
    out->input_bytes = stretch[1];
    out->input_first = steps[0] - begin;
    out->input_row = steps[1];
    out->input_pixel = steps[2];
    return 1;
}

static int read_output(const reader *r, uint32_t object)
{
    static const char *const names[] = {"buffer", "type", "at", "count", "scale", "zero_point"};
    const json *document = r->document;
    plan *out = r->out;
    uint32_t fields[6], scale;
    int64_t zero_point;
    span type;
    if (!json_fields(document, object, names, 6, 0, fields)) return 0;
    if (!json_count(document, fields[0], 0, out->buffer_count - 1, "buffer", &out->output)) return 0;
    if (!json_plain(document, fields[1], 2, 3, "type", &type)) return 0;
    if (!span_is(type, out->floating ? "f32" : "s8"))
        return json_wrong(document, "type", "s8 for int8, f32 for float32");
    if (!read_unsigned(document, fields[2], 0, MAX_BUFFER_BYTES, "at", &out->output_at)) return 0;
    if (!json_count(document, fields[3], 1, UINT32_MAX, "count", &out->output_count)) return 0;
    if (!json_count(document, fields[4], 0, UINT32_MAX, "scale", &scale)) return 0;
    if (!json_integer(document, fields[5], -128, 127, "zero_point", &zero_point)) return 0;
    const uint64_t item = out->floating ? 4 : 1;
    if (out->output_count != (uint64_t)r->about->positions * r->about->classes || out->output_at % item ||
        !lies_within(out->output_at, item * out->output_count, out->buffers[out->output].bytes))
        return json_wrong(document, "output", "as many values as the manifest's output, within the buffer");
    out->output_scale = float_of(scale);
    if (!is_finite(out->output_scale) || out->output_scale <= 0.0f) return json_wrong(document, "scale", "positive");
    out->output_zero_point = (int32_t)zero_point;
    return 1;
}

static int read_plan(const reader *r, uint32_t object)
{
    static const char *const names[] = {"name",    "precision", "family", "lanes",    "local_bytes", "int64",
                                        "buffers", "programs",  "first",  "launches", "input",       "output"};
    static const char *const plan_names[2][2] = {{"int8-cpu", "int8-gpu"}, {"float32-cpu", "float32-gpu"}};
    const json *document = r->document;
    plan *out = r->out;
    uint32_t fields[12], int64;
    span name, precision, family;
    if (!json_fields(document, object, names, 12, 0, fields)) return 0;
    if (!json_plain(document, fields[0], 1, PLAN_MAX_NAME, "name", &name)) return 0;
    if (!json_plain(document, fields[1], 1, 8, "precision", &precision)) return 0;
    if (!json_plain(document, fields[2], 1, 8, "family", &family)) return 0;
    out->floating = span_is(precision, "float32");
    out->gpu = span_is(family, "gpu");
    out->name = plan_names[out->floating][out->gpu];
    if (!out->floating && !span_is(precision, "int8")) return json_wrong(document, "precision", "int8 or float32");
    if (!out->gpu && !span_is(family, "cpu")) return json_wrong(document, "family", "cpu or gpu");
    if (!span_is(name, out->name)) return json_wrong(document, "name", "its precision, a dash and its family");
    if (!json_count(document, fields[3], 1, out->gpu ? MAX_LANES : 1, "lanes", &out->lanes)) return 0;
    if (!read_unsigned(document, fields[4], 0, 1 << 20, "local_bytes", &out->local_bytes)) return 0;
    if (!json_count(document, fields[5], 0, 1, "int64", &int64)) return 0;
    out->int64 = (int)int64;
    return read_buffers(r, fields[6]) && read_programs(r, fields[7]) && read_launches(r, fields[9], fields[8]) &&
           read_input(r, fields[10]) && read_output(r, fields[11]);
}

static int read_pixels(plan_list *out, const json *document, uint32_t object, uint32_t channels)
{
    static const char *const names[] = {"scale", "shift"};
    uint32_t fields[2];
    if (!json_fields(document, object, names, 2, 0, fields)) return 0;
    out->factors.known = 1;
    return read_floats(document, fields[0], channels, names[0], out->factors.scale) &&
           read_floats(document, fields[1], channels, names[1], out->factors.shift);
}

static int read_document(plan_list *out, const container *held, const manifest *about)
{
    static const char *const names[] = {"format", "network", "weights", "constants", "kernels", "plans", "pixels"};
    static const span prelude = {(const uint8_t *)"prelude.cl", 10};
    const json *document = &out->document;
    uint32_t fields[7], list;
    int64_t format;
    span file;
    if (!json_fields(document, 0, names, 7, 1, fields)) return 0;
    if (!json_integer(document, fields[0], 2, 2, "format", &format)) return 0;
    for (int i = 1; i < 4; i++)
        if (!json_plain(document, fields[i], 1, PLAN_MAX_NAME, names[i], &file)) return 0;
    const span *constants = container_part(held, FOLDER, file);
    if (!constants) return json_wrong(document, "constants", "a file of the OpenCL part");
    if (!json_holds(document, fields[4], JSON_OBJECT, 1, MAX_KERNELS, "kernels", NULL)) return 0;
    if (fields[6] && !read_pixels(out, document, fields[6], about->channels)) return 0;
    if (!json_holds(document, fields[5], JSON_ARRAY, 1, PLAN_MAX_PLANS, "plans", &list)) return 0;
    reader r = {document, held, about, fields[4], *constants, NULL};
    if (!check_sources(&r) || !find_source(&r, prelude, &out->prelude)) return 0;
    uint32_t at = fields[5] + 1;
    for (uint32_t i = 0; i < list; i++, at = document->nodes[at].next) {
        r.out = out->plans + i;
        out->count++;
        if (!read_plan(&r, at)) return 0;
        if (plans_find(out, r.out->floating, r.out->gpu) != r.out) return json_wrong(document, "name", "of one plan");
    }
    return 1;
}

int plans_read(plan_list *out, const container *held, const manifest *about, ember_error *error)
{
    static const span name = {(const uint8_t *)"plan.json", 9};
    memset(out, 0, sizeof *out);
    const span *text = container_part(held, FOLDER, name);
    if (!text) return fail(error, EMBER_BAD_FORMAT, "bundle: no opencl/plan.json: it has no OpenCL part");
    if (text->size > MAX_PLAN_BYTES)
        return fail(error, EMBER_BAD_FORMAT, "plan: %zu bytes, expected at most %u", text->size, MAX_PLAN_BYTES);
    if (!json_parse(&out->document, "plan", *text, error)) return 0;
    return read_document(out, held, about);
}

void plans_free(plan_list *held)
{
    for (uint32_t i = 0; i < held->count; i++) {
        free(held->plans[i].programs);
        free(held->plans[i].launches);
        free(held->plans[i].arguments);
    }
    json_free(&held->document);
    memset(held, 0, sizeof *held);
}

const plan *plans_find(const plan_list *held, int floating, int gpu)
{
    for (uint32_t i = 0; i < held->count; i++)
        if (held->plans[i].floating == floating && held->plans[i].gpu == gpu) return held->plans + i;
    return NULL;
}
