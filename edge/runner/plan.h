/* Launch plans (docs/formats.md, section Launch plans), read and checked: nothing in one can make the host read
 * or write outside of the buffers that it makes. */
#ifndef EMBER_PLAN_H
#define EMBER_PLAN_H

#include "json.h"
#include "manifest.h"

#define PLAN_MAX_BUFFERS 16
#define PLAN_MAX_OPTIONS 32
#define PLAN_MAX_ARGUMENTS 32
#define PLAN_MAX_NAME 64

typedef struct plan_buffer {
    uint64_t bytes;
    span contents; /* at its beginning; the rest is zero */
} plan_buffer;

typedef struct plan_program {
    span source;      /* its text */
    span source_name; /* its file */
    uint32_t options; /* the JSON list: each checked */
} plan_program;

typedef struct plan_argument {
    const char *type; /* OpenCL's name of it: "int", "int2", "float4"; "a buffer" */
    int is_buffer;
    uint32_t count;    /* of the numbers: 1, 2 or 4 */
    uint32_t words[4]; /* the buffer's number, or the numbers' bits */
} plan_argument;

typedef struct plan_launch {
    uint32_t program;
    char kernel[PLAN_MAX_NAME + 1];
    uint64_t items[3];
    uint32_t first_argument, argument_count;
} plan_launch;

typedef struct plan {
    const char *name; /* PRECISION-FAMILY: no two plans of a bundle have the same */
    int floating; /* precision float32, else int8 */
    int gpu;      /* family gpu, else cpu */
    int int64;
    uint32_t lanes;
    uint64_t local_bytes;
    plan_buffer buffers[PLAN_MAX_BUFFERS];
    uint32_t buffer_count, program_count, launch_count, first;
    plan_program *programs;
    plan_launch *launches;
    plan_argument *arguments;
    uint32_t input, output;                                              /* buffers */
    uint64_t input_at, input_bytes, input_first, input_row, input_pixel; /* bytes, then counted in floats */
    uint64_t output_at;
    uint32_t output_count;
    float output_scale;
    int32_t output_zero_point;
} plan;

/* From bytes to what the network reads, per channel: byte x scale + shift. */
typedef struct pixel_factors {
    int known; /* whether the bundle says them: else only EMBER_FLOATS can be taken */
    float scale[3], shift[3];
} pixel_factors;

#define PLAN_MAX_PLANS 16

/* plan.json of a bundle and the plans in it. Points into the bundle's bytes. */
typedef struct plan_list {
    json document;
    span prelude;
    pixel_factors factors;
    plan plans[PLAN_MAX_PLANS];
    uint32_t count;
} plan_list;

/* Reads and checks all plans of a bundle, whose manifest says their two ends. `plans_free` is due in any case. */
int plans_read(plan_list *out, const container *held, const manifest *about, ember_error *error);
void plans_free(plan_list *held);

/* The plan of a precision and a family; null where there is none. */
const plan *plans_find(const plan_list *held, int floating, int gpu);

#endif
