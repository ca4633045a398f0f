/* ember_open, ember_run, ember_close: from bytes to answers. */
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "model.h"
#include "opencl.h"
#include "signature.h"

#define MANIFEST_TYPE "application/vnd.emberfleet.manifest+json"
#define MAX_BUNDLE_BYTES ((size_t)256 << 20)

struct ember_model {
    manifest about;
    opencl loaded;
    opencl_device device;
    opencl_run run;
    plan ready; /* its two ends: what points into the bundle goes with it */
    pixel_factors factors;
    float *staged; /* the input's stretch, zeros where no value belongs */
    void *output;  /* int8 codes or float32 values */
    int has_run;
    ember_info info;
};

static size_t limit_of(const ember_options *options)
{
    return options && options->max_bytes ? options->max_bytes : MAX_BUNDLE_BYTES;
}

int bundle_read(bundle *out, span bytes, const ember_options *options, ember_error *error)
{
    uint8_t *payload;
    size_t payload_bytes;
    memset(out, 0, sizeof *out);
    const size_t most = limit_of(options);
    if (bytes.size > most)
        return fail(error, EMBER_BAD_FORMAT, "bundle: %zu bytes, expected at most %zu", bytes.size, most);
    if (!container_read(&out->held, bytes, error)) return 0;
    if (!envelope_open(out->held.envelope.contents, MANIFEST_TYPE, options, &payload, &payload_bytes, error)) return 0;
    const int fine = manifest_read(&out->about, (span){payload, payload_bytes}, &out->held, error);
    free(payload);
    return fine && plans_read(&out->plans, &out->held, &out->about, error);
}

void bundle_free(bundle *held)
{
    plans_free(&held->plans);
    manifest_free(&held->about);
}

/* The plan asked for by name or family; null where the rule of the format is to choose. */
static int plan_asked_for(const plan_list *plans, const ember_options *options, int floating, const plan **found,
                          ember_error *error)
{
    const char *name = options->plan;
    *found = NULL;
    if (!name) return 1;
    if (strcmp(name, "cpu") == 0 || strcmp(name, "gpu") == 0) *found = plans_find(plans, floating, name[0] == 'g');
    for (uint32_t i = 0; i < plans->count; i++)
        if (strcmp(plans->plans[i].name, name) == 0) *found = plans->plans + i;
    return *found ? 1 : fail(error, EMBER_BAD_ARGUMENT, "the bundle has no launch plan '%.64s'", name);
}

/* Starts the plan asked for; else that of the device's family, and that of the family cpu where it does not start. */
static int start_plan(ember_model *model, const bundle *opened, const ember_options *options, ember_error *error)
{
    const plan_list *plans = &opened->plans;
    const plan *asked;
    int floating = 0;
    if (options->precision && strcmp(options->precision, "float32") == 0) floating = 1;
    else if (options->precision && strcmp(options->precision, "int8") != 0)
        return fail(error, EMBER_BAD_ARGUMENT, "precision is '%.32s', expected int8 or float32", options->precision);
    if (!plan_asked_for(plans, options, floating, &asked, error)) return 0;
    model->device = model->loaded.devices[0];
    const plan *wanted = asked ? asked : plans_find(plans, floating, !model->device.is_cpu);
    const plan *other = asked ? NULL : plans_find(plans, floating, 0);
    if (!wanted) wanted = other;
    if (!wanted)
        return fail(error, EMBER_BAD_FORMAT, "bundle: no launch plan of precision %s; convert the model with one",
                    floating ? "float32" : "int8");
    for (;;) {
        model->ready = *wanted;
        if (opencl_suits(&model->device, wanted, error) &&
            opencl_start(&model->run, &model->loaded, &model->device, wanted, plans, error))
            return 1;
        opencl_stop(&model->run);
        if (!other || other == wanted || wanted->lanes == 1) return 0;
        wanted = other;
    }
}

static int prepare(ember_model *model, bundle *opened, const ember_options *options, ember_error *error)
{
    if (!opencl_load(&model->loaded, options->opencl_library, options->platform, error)) return 0;
    if (!start_plan(model, opened, options, error)) return 0;
    plan *ready = &model->ready;
    model->staged = allocate((size_t)ready->input_bytes, 1);
    model->output = allocate(ready->output_count, ready->floating ? 4 : 1);
    if (!model->staged || !model->output) return fail(error, EMBER_NO_MEMORY, "no memory");
    model->factors = opened->plans.factors;
    model->about = opened->about;
    memset(&opened->about, 0, sizeof opened->about);

    const manifest *about = &model->about;
    model->info = (ember_info){
        .model_name = about->model_name,
        .model_version = about->model_version,
        .height = about->height,
        .width = about->width,
        .channels = about->channels,
        .positions = about->positions,
        .classes = about->classes,
        .score_count = ready->output_count,
        .labels = about->labels,
        .plan = ready->name,
        .precision = ready->floating ? "float32" : "int8",
        .platform = model->device.platform_name,
        .device = model->device.name,
    };
    for (uint32_t i = 0; i < ready->buffer_count; i++) model->info.device_bytes += ready->buffers[i].bytes;
    return 1;
}

ember_model *ember_open(const void *bytes, size_t size_bytes, const ember_options *options, ember_error *error)
{
    static const ember_options nothing;
    if (!options) options = &nothing;
    if (error) memset(error, 0, sizeof *error);
    if (!bytes || (options->trusted_key_count && !options->trusted_keys)) {
        fail(error, EMBER_BAD_ARGUMENT, "the bundle or the trusted keys are missing");
        return NULL;
    }
    ember_model *model = allocate(1, sizeof *model);
    bundle *opened = allocate(1, sizeof *opened);
    int fine = 0;
    if (!model || !opened) fail(error, EMBER_NO_MEMORY, "no memory");
    else
        fine = bundle_read(opened, (span){bytes, size_bytes}, options, error) && prepare(model, opened, options, error);
    if (opened) bundle_free(opened);
    free(opened);
    if (fine && error) memset(error, 0, sizeof *error); /* of a plan that did not start, where another one did */
    if (fine) return model;
    ember_close(model);
    return NULL;
}

ember_model *ember_open_file(const char *path, const ember_options *options, ember_error *error)
{
    size_t size;
    if (error) memset(error, 0, sizeof *error);
    if (!path) {
        fail(error, EMBER_BAD_ARGUMENT, "the path is missing");
        return NULL;
    }
    uint8_t *bytes = file_read(path, limit_of(options), &size, error);
    ember_model *model = bytes ? ember_open(bytes, size, options, error) : NULL;
    free(bytes);
    return model;
}

const ember_info *ember_describe(const ember_model *model) { return &model->info; }

ember_status ember_run(ember_model *model, ember_input kind, const void *input, size_t input_bytes, float *scores,
                       size_t score_count, ember_error *error)
{
    ember_error own;
    if (!error) error = &own;
    memset(error, 0, sizeof *error);
    if (!model || !input || !scores || score_count != model->info.score_count) {
        fail(error, EMBER_BAD_ARGUMENT, "ember_run: a null pointer, or room for %zu scores, expected %zu", score_count,
             model ? model->info.score_count : 0);
        return error->status;
    }
    const size_t expected = stage_bytes(&model->about, &model->factors, kind);
    if (!expected || input_bytes != expected) {
        fail(error, EMBER_BAD_ARGUMENT,
             "ember_run: %zu bytes of input, expected %zu (0: the network takes no such input)", input_bytes, expected);
        return error->status;
    }
    const plan *ready = &model->ready;
    const int8_t *codes = model->output;
    stage_image(ready, &model->about, &model->factors, kind, input, model->staged);
    if (!opencl_compute(&model->run, ready, model->staged, model->output, error)) return error->status;
    model->has_run = 1;
    if (ready->floating) memcpy(scores, model->output, score_count * sizeof *scores);
    for (size_t i = 0; !ready->floating && i < score_count; i++)
        scores[i] = (float)(codes[i] - ready->output_zero_point) * ready->output_scale;
    return EMBER_OK;
}

const int8_t *ember_codes(const ember_model *model)
{
    return model->has_run && !model->ready.floating ? model->output : NULL;
}

void ember_close(ember_model *model)
{
    if (!model) return;
    opencl_stop(&model->run);
    manifest_free(&model->about);
    free(model->staged);
    free(model->output);
    free(model);
}
