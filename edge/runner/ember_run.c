/* ember-run: a bundle's answer for one image, on the command line. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ember.h"
#include "file.h"
#include "opencl.h"
#include "signature.h"

#define MAX_KEYS 16
#define MAX_INPUT ((size_t)1 << 28)
#define TOP 5

static const char HELP[] =
    "Usage: ember-run BUNDLE --key KEY [--input FILE] [OPTIONS]\n"
    "       ember-run --list [--library FILE] [--platform NAME]\n"
    "\n"
    "Verifies an Emberfleet bundle, builds its network for an OpenCL device and classifies one image.\n"
    "Without --input it says what the bundle holds and takes.\n"
    "\n"
    "  --key KEY         Public key that has signed the bundle: 44 characters of base64, as\n"
    "                    'emberfleet convert' prints it. May be given several times: one is enough.\n"
    "  --verified        You have verified the file by other means: its signature is not looked at.\n"
    "  --input FILE      The image: a .ppm or .pgm (binary, 8 bits, of the bundle's size), or any other\n"
    "                    file as H x W x C float32 numbers, preprocessed, as numpy's tofile writes them.\n"
    "  --json            One JSON object on the standard output instead of text.\n"
    "  --precision P     int8 (default) or float32, where the bundle has plans of it.\n"
    "  --plan PLAN       cpu, gpu, or a plan's full name. Default: by the device's type and limits.\n"
    "  --platform NAME   Use the OpenCL platform with this in its name.\n"
    "  --library FILE    Load OpenCL from here. Default: EMBER_OPENCL_LIBRARY if set, else the usual names.\n"
    "  --list            Show the OpenCL devices that are found, the one used first.\n"
    "  --help            This text.\n"
    "\n"
    "Exit codes: 0 done, 1 failed (the reason is on the standard error), 2 the command is wrong.\n"
    "\n"
    "Example:\n"
    "  ember-run model.ember --key \"PUBLIC KEY\" --input cat.ppm\n";

typedef struct command {
    const char *bundle, *input;
    int json, list, help;
    uint8_t keys[MAX_KEYS][32];
    ember_options options;
} command;

static int wrong(const char *what, const char *which)
{
    fprintf(stderr, "ember-run: %s%s\nTry: ember-run --help\n", what, which);
    return 0;
}

static int add_key(command *out, const char *text)
{
    uint8_t raw[36];
    const span key = {(const uint8_t *)text, strlen(text)};
    if (out->options.trusted_key_count == MAX_KEYS) return wrong("more than 16 keys", "");
    if (key.size != 44 || base64_decode(key, raw) != 32) return wrong("a key is 44 characters of base64, not ", text);
    memcpy(out->keys[out->options.trusted_key_count++], raw, 32);
    return 1;
}

static int read_command(command *out, int count, char **words)
{
    memset(out, 0, sizeof *out);
    out->options.trusted_keys = (const uint8_t (*)[32])out->keys;
    for (int i = 1; i < count; i++) {
        const char *word = words[i], *key = NULL;
        const struct {
            const char *name;
            const char **target;
        } texts[] = {{"--input", &out->input},
                     {"--precision", &out->options.precision},
                     {"--plan", &out->options.plan},
                     {"--platform", &out->options.platform},
                     {"--library", &out->options.opencl_library},
                     {"--key", &key}};
        const struct {
            const char *name;
            int *target;
        } flags[] = {{"--json", &out->json},
                     {"--list", &out->list},
                     {"--help", &out->help},
                     {"--verified", &out->options.caller_has_verified}};
        int known = 0;
        for (size_t k = 0; k < sizeof flags / sizeof flags[0]; k++)
            if (strcmp(word, flags[k].name) == 0) known = *flags[k].target = 1;
        for (size_t k = 0; k < sizeof texts / sizeof texts[0] && !known; k++) {
            if (strcmp(word, texts[k].name) != 0) continue;
            if (i + 1 == count) return wrong("a value is missing behind ", word);
            *texts[k].target = words[++i];
            known = 1;
        }
        if (key && !add_key(out, key)) return 0;
        if (known) continue;
        if (word[0] == '-') return wrong("unknown option ", word);
        if (out->bundle) return wrong("more than one bundle: ", word);
        out->bundle = word;
    }
    if (!out->bundle && !out->list && !out->help) return wrong("no bundle given", "");
    return 1;
}

static int list_devices(const command *asked)
{
    ember_error error;
    opencl loaded;
    if (!opencl_load(&loaded, asked->options.opencl_library, asked->options.platform, &error)) {
        fprintf(stderr, "ember-run: %s\n", error.text);
        return 1;
    }
    for (uint32_t i = 0; i < loaded.count; i++) {
        const opencl_device *device = loaded.devices + i;
        printf("%s: %s, %s, groups of %zu, %llu bytes of local memory%s\n", device->platform_name, device->name,
               device->is_cpu ? "cpu" : "gpu", device->group_items, (unsigned long long)device->local_bytes,
               device->has_int64 ? "" : ", no 64-bit integers");
    }
    return 0;
}

/* A number of a netpbm header, behind spaces and comments. */
static int netpbm_number(const uint8_t *bytes, size_t size, size_t *at, uint32_t *number)
{
    while (*at < size && (strchr(" \t\r\n", bytes[*at]) || bytes[*at] == '#')) {
        if (bytes[*at] == 0) return 0;
        if (bytes[*at] == '#')
            while (*at < size && bytes[*at] != '\n') (*at)++;
        else (*at)++;
    }
    const size_t first = *at;
    for (*number = 0; *at < size && *at < first + 6 && bytes[*at] >= '0' && bytes[*at] <= '9'; (*at)++)
        *number = *number * 10 + bytes[*at] - '0';
    return *at > first;
}

/* Where the pixels of a binary .ppm or .pgm begin, 0 where it is none; refuses one of another size. */
static size_t netpbm_pixels(const uint8_t *bytes, size_t size, const ember_info *info, char *why, size_t room)
{
    uint32_t width, height, most;
    size_t at = 2;
    *why = 0;
    if (size < 2 || bytes[0] != 'P' || (bytes[1] != '5' && bytes[1] != '6')) return 0;
    const uint32_t channels = bytes[1] == '5' ? 1 : 3;
    if (!netpbm_number(bytes, size, &at, &width) || !netpbm_number(bytes, size, &at, &height) ||
        !netpbm_number(bytes, size, &at, &most) || most != 255 || at >= size) {
        snprintf(why, room, "not a binary .ppm or .pgm of 8 bits");
        return 0;
    }
    if (width != info->width || height != info->height || channels != info->channels) {
        snprintf(why, room, "the image is %u x %u with %u channels, the network takes %u x %u with %u", (unsigned)width,
                 (unsigned)height, (unsigned)channels, (unsigned)info->width, (unsigned)info->height,
                 (unsigned)info->channels);
        return 0;
    }
    return at + 1;
}

static ember_status run_file(ember_model *model, const char *path, float *scores, ember_error *error)
{
    const ember_info *info = ember_describe(model);
    char why[160];
    size_t size;
    uint8_t *bytes = file_read(path, MAX_INPUT, &size, error);
    if (!bytes) return error->status;
    const size_t begin = netpbm_pixels(bytes, size, info, why, sizeof why);
    ember_status status = EMBER_BAD_ARGUMENT;
    if (*why) fail(error, status, "%s: %s", path, why);
    else
        status = ember_run(model, begin ? EMBER_PIXELS : EMBER_FLOATS, bytes + begin, size - begin, scores,
                           info->score_count, error);
    free(bytes);
    return status;
}

/* A text as JSON: what must be escaped is, the rest is UTF-8. */
static void print_text(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if ((unsigned char)*text < 0x20) printf("\\u%04x", (unsigned)*text);
        else putchar(*text);
    }
    putchar('"');
}

static uint32_t best_of(const float *scores, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t k = 1; k < count; k++)
        if (scores[k] > scores[best]) best = k;
    return best;
}

static void print_json(const ember_model *model, const float *scores)
{
    const ember_info *info = ember_describe(model);
    const int8_t *codes = ember_codes(model);
    printf("{\"model\":");
    print_text(info->model_name);
    printf(",\"version\":%llu,\"plan\":\"%s\",\"precision\":\"%s\",\"device\":",
           (unsigned long long)info->model_version, info->plan, info->precision);
    print_text(info->device);
    printf(",\"platform\":");
    print_text(info->platform);
    printf(",\"device_bytes\":%llu,\"input\":[%u,%u,%u],\"positions\":%u,\"classes\":%u",
           (unsigned long long)info->device_bytes, (unsigned)info->height, (unsigned)info->width,
           (unsigned)info->channels, (unsigned)info->positions, (unsigned)info->classes);
    if (scores) {
        printf(",\"labels\":[");
        for (uint32_t p = 0; p < info->positions; p++) {
            if (p) putchar(',');
            print_text(info->labels[best_of(scores + (size_t)p * info->classes, info->classes)]);
        }
        printf("],\"scores\":[");
        for (size_t i = 0; i < info->score_count; i++)
            if (isfinite(scores[i])) printf("%s%.9g", i ? "," : "", (double)scores[i]);
            else printf("%snull", i ? "," : ""); /* JSON has no other numbers */
        printf("]");
        for (size_t i = 0; codes && i < info->score_count; i++) printf("%s%d", i ? "," : ",\"codes\":[", codes[i]);
        if (codes) printf("]");
    }
    printf("}\n");
}

static void print_answer(const ember_info *info, const float *scores)
{
    for (uint32_t p = 0; p < info->positions; p++) {
        const float *own = scores + (size_t)p * info->classes;
        uint32_t shown[TOP], best = best_of(own, info->classes);
        double total = 0.0;
        for (uint32_t k = 0; k < info->classes; k++) total += exp((double)own[k] - own[best]);
        if (info->positions > 1) printf("position %u\n", (unsigned)p + 1);
        for (uint32_t i = 0; i < TOP && i < info->classes; i++) {
            int found = -1;
            for (uint32_t k = 0; k < info->classes; k++) {
                int taken = 0;
                for (uint32_t j = 0; j < i; j++) taken |= shown[j] == k;
                if (!taken && (found < 0 || own[k] > own[found])) found = (int)k;
            }
            shown[i] = (uint32_t)found;
            printf("%6.2f %%  %s\n", 100.0 * exp((double)own[found] - own[best]) / total, info->labels[found]);
        }
    }
}

static int run(const command *asked)
{
    ember_error error;
    ember_model *model = ember_open_file(asked->bundle, &asked->options, &error);
    if (!model) {
        fprintf(stderr, "ember-run: %s\n", error.text);
        return 1;
    }
    const ember_info *info = ember_describe(model);
    float *scores = NULL;
    int code = 0;
    if (asked->input) {
        scores = allocate(info->score_count, sizeof *scores);
        if (!scores) fail(&error, EMBER_NO_MEMORY, "no memory");
        code = !scores || run_file(model, asked->input, scores, &error) != EMBER_OK;
    }
    if (code) fprintf(stderr, "ember-run: %s\n", error.text);
    else if (asked->json) print_json(model, scores);
    else if (scores) print_answer(info, scores);
    else
        printf("%s, version %llu: images of %u x %u with %u channel%s, %u classes; plan %s on %s\n", info->model_name,
               (unsigned long long)info->model_version, (unsigned)info->width, (unsigned)info->height,
               (unsigned)info->channels, info->channels == 1 ? "" : "s", (unsigned)info->classes, info->plan,
               info->device);
    free(scores);
    ember_close(model);
    return code;
}

int main(int count, char **words)
{
    command asked;
    if (!read_command(&asked, count, words)) return 2;
    if (asked.help) {
        fputs(HELP, stdout);
        return 0;
    }
    return asked.list ? list_devices(&asked) : run(&asked);
}
