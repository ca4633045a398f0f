/* Everything that reads hostile bytes, for libFuzzer: the first byte says which reader gets the rest.
 *
 *   B  a bundle        M  the manifest in one       E  a signed envelope
 *   P  plan.json       J  any JSON
 *
 * Checksums, digests and the signature count as right here (FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION), so that what
 * lies behind them is reached. What passes as a plan stages an image, so that the sanitizers see every write. */
#include <stdlib.h>
#include <string.h>

#include "../json.h"
#include "../model.h"
#include "../signature.h"

#define CONSTANT_BYTES 65536
#define MOST_STAGED (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static span text_of(const char *text) { return (span){(const uint8_t *)text, strlen(text)}; }

/* What a plan is read beside: sources by the names that ours have, and constants. */
static void fill_container(container *held)
{
    static const uint8_t constants[CONSTANT_BYTES];
    static const char *const names[] = {
        "opencl/constants.bin",        "opencl/kernels/conv2d.cl",      "opencl/kernels/conv2d_s8.cl",
        "opencl/kernels/depthwise.cl", "opencl/kernels/elementwise.cl", "opencl/kernels/integer.cl",
        "opencl/kernels/pool.cl",      "opencl/kernels/prelude.cl",
    };
    held->part_count = sizeof names / sizeof names[0];
    for (uint32_t i = 0; i < held->part_count; i++) {
        held->parts[i].name = text_of(names[i]);
        held->parts[i].contents = text_of("source");
    }
    held->parts[0].contents = (span){constants, CONSTANT_BYTES};
}

static void stage_all(const plan_list *plans, const manifest *about)
{
    static const ember_input kinds[] = {EMBER_PIXELS, EMBER_FLOATS, EMBER_RGBA};
    for (uint32_t i = 0; i < plans->count; i++) {
        const plan *ready = plans->plans + i;
        for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
            const size_t image_bytes = stage_bytes(about, &plans->factors, kinds[k]);
            if (!image_bytes || image_bytes > MOST_STAGED || ready->input_bytes > MOST_STAGED) continue;
            void *image = calloc(image_bytes, 1);
            float *stretch = calloc((size_t)ready->input_bytes, 1);
            if (image && stretch) stage_image(ready, about, &plans->factors, kinds[k], image, stretch);
            free(image);
            free(stretch);
        }
    }
}

static void read_plan(span text, ember_error *error)
{
    static const manifest about = {.height = 9, .width = 9, .channels = 1, .positions = 1, .classes = 5};
    static container held;
    static plan_list plans;
    fill_container(&held);
    held.parts[held.part_count++] = (container_file){text_of("opencl/plan.json"), text};
    if (plans_read(&plans, &held, &about, error)) stage_all(&plans, &about);
    plans_free(&plans);
}

static void read_bundle(span bytes, ember_error *error)
{
    const ember_options options = {.caller_has_verified = 1};
    static bundle opened;
    if (bundle_read(&opened, bytes, &options, error)) stage_all(&opened.plans, &opened.about);
    bundle_free(&opened);
}

static void read_manifest(span text, ember_error *error)
{
    static container held;
    manifest about;
    held.part_count = 1;
    held.parts[0] = (container_file){text_of("a"), text_of("contents")};
    manifest_read(&about, text, &held, error);
    manifest_free(&about);
}

/* Says of a signature what its own first byte says. */
static int verify_by_itself(void *context, const uint8_t *key, const uint8_t *signature, const uint8_t *message,
                            size_t message_bytes)
{
    (void)context;
    return message_bytes && message[0] == 'D' && key[31] == 0 && signature[63] != 1 ? signature[0] % 3 - 1 : 0;
}

static void read_envelope(span text, ember_error *error)
{
    static const uint8_t keys[2][32];
    const ember_options options = {.trusted_keys = keys, .trusted_key_count = 2, .verify = verify_by_itself};
    uint8_t *payload;
    size_t payload_bytes;
    if (envelope_open(text, "application/vnd.emberfleet.manifest+json", &options, &payload, &payload_bytes, error))
        free(payload);
}

static void read_json(span text, ember_error *error)
{
    json document;
    if (!json_parse(&document, "json", text, error)) return;
    char *decoded = malloc(text.size + 1);
    for (uint32_t i = 0; decoded && i < document.count; i++)
        if (document.nodes[i].kind == JSON_TEXT && json_decode(&document, i, decoded) > document.nodes[i].size) abort();
    free(decoded);
    json_free(&document);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    ember_error error;
    if (size < 1) return 0;
    /* A copy of exactly that size, so that a read beyond it is seen. */
    uint8_t *copy = malloc(size);
    if (!copy) return 0;
    memcpy(copy, bytes, size);
    const span rest = {copy + 1, size - 1};
    switch (copy[0]) {
    case 'B': read_bundle(rest, &error); break;
    case 'M': read_manifest(rest, &error); break;
    case 'E': read_envelope(rest, &error); break;
    case 'P': read_plan(rest, &error); break;
    case 'J': read_json(rest, &error); break;
    default: break;
    }
    free(copy);
    return 0;
}
