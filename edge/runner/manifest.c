#include "manifest.h"

#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "sha256.h"

#define MAX_MANIFEST (4u << 20)
#define MAX_INTEGER ((INT64_C(1) << 53) - 1)
#define MAX_LABELS 32768
#define MAX_LABEL_CHARACTERS 100
#define MAX_POSITIONS 1024
#define MAX_SIDE 4096
#define MAX_PARTS 1000

enum { FORMAT, NAME, VERSION, CREATED, LABELS, POSITIONS, PREPROCESSING, INPUT, OUTPUT, PLANS, METRICS, PARTS, PARENT };

static const char *const FIELD_NAMES[PARENT + 1] = {
    "format", "model_name", "model_version", "created", "labels", "positions", "preprocessing",
    "input",  "output",     "plans",         "metrics", "parts",  "parent",
};

/* 1 to 100 characters without control characters; the whole list is decoded into one stretch of memory. */
static int read_labels(manifest *out, const json *document, uint32_t list)
{
    if (!json_holds(document, list, JSON_ARRAY, 1, MAX_LABELS, "labels", &out->classes)) return 0;
    const uint32_t count = out->classes, behind = document->nodes[list].next;
    size_t room = 0;
    for (uint32_t at = list + 1; at < behind; at = document->nodes[at].next) room += document->nodes[at].size + 1;
    out->label_text = allocate(room, 1);
    out->labels = allocate(count, sizeof *out->labels);
    if (!out->label_text || !out->labels) return fail(document->error, EMBER_NO_MEMORY, "manifest: no memory");
    char *next = out->label_text;
    uint32_t at = list + 1;
    for (uint32_t i = 0; i < count; i++, at = document->nodes[at].next) {
        if (document->nodes[at].kind != JSON_TEXT) return json_wrong(document, "labels", "a list of texts");
        const size_t size = json_decode(document, at, next);
        size_t characters = 0;
        for (size_t k = 0; k < size; k++) {
            const unsigned char c = (unsigned char)next[k];
            /* C2 80 to C2 9F in UTF-8 are control characters that terminals obey too. */
            if (c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)next[k + 1] < 0xa0))
                return json_wrong(document, "labels", "printable texts");
            characters += (c & 0xc0) != 0x80;
        }
        if (characters < 1 || characters > MAX_LABEL_CHARACTERS)
            return json_wrong(document, "labels", "texts of 1 to 100 characters");
        out->labels[i] = next;
        next += size + 1;
    }
    return 1;
}

static int read_preprocessing(manifest *out, const json *document, uint32_t object)
{
    static const char *const names[] = {"height", "width", "channels", "mean", "std"};
    uint32_t fields[5];
    if (!json_fields(document, object, names, 5, 0, fields)) return 0;
    if (!json_count(document, fields[0], 1, MAX_SIDE, names[0], &out->height)) return 0;
    if (!json_count(document, fields[1], 1, MAX_SIDE, names[1], &out->width)) return 0;
    if (!json_count(document, fields[2], 1, 3, names[2], &out->channels)) return 0;
    if (out->channels == 2) return json_wrong(document, "channels", "1 or 3");
    for (int i = 3; i < 5; i++)
        if (!json_holds(document, fields[i], JSON_ARRAY, out->channels, out->channels, names[i], NULL)) return 0;
    return 1;
}

/* A type and a shape, which must be the one expected. */
static int check_end(const json *document, uint32_t object, const char *what, const uint32_t *shape, uint32_t axes)
{
    static const char *const names[] = {"dtype", "shape"};
    uint32_t fields[2], found, extent;
    span type;
    if (!json_fields(document, object, names, 2, 0, fields)) return 0;
    if (!json_plain(document, fields[0], 4, 7, "dtype", &type)) return 0;
    if (!span_is(type, "float32") && !span_is(type, "int8") && !span_is(type, "uint8"))
        return json_wrong(document, "dtype", "float32, int8 or uint8");
    /* (P, K), or (K) where P is 1 */
    if (!json_holds(document, fields[1], JSON_ARRAY, 1, 4, "shape", &found)) return 0;
    if (axes == 2 && found == 1 && shape[0] == 1) shape++, axes--;
    if (found != axes) return json_wrong(document, what, "of the shape that the other fields say");
    uint32_t at = fields[1] + 1;
    for (uint32_t i = 0; i < axes; i++, at = document->nodes[at].next)
        if (!json_count(document, at, shape[i], shape[i], what, &extent)) return 0;
    return 1;
}

static int check_part(const json *document, uint32_t object, const container_file *part)
{
    static const char *const names[] = {"size_bytes", "sha256"};
    uint32_t fields[2];
    int64_t size;
    span digest;
    if (!json_fields(document, object, names, 2, 0, fields)) return 0;
    if (!json_integer(document, fields[0], 0, MAX_INTEGER, names[0], &size)) return 0;
    if (!json_plain(document, fields[1], 64, 64, names[1], &digest)) return 0;
    if ((uint64_t)size != part->contents.size || !sha256_is(part->contents.at, part->contents.size, digest.at))
        return fail(document->error, EMBER_BAD_FORMAT,
                    "bundle: part '%.*s' is not the one that was signed; fetch the file again", (int)part->name.size,
                    (const char *)part->name.at);
    return 1;
}

/* Every part in the manifest is in the file, every file is in it, sizes and digests agree. */
static int check_parts(const json *document, uint32_t object, const container *held)
{
    uint32_t listed;
    if (!json_holds(document, object, JSON_OBJECT, 0, MAX_PARTS, "parts", &listed)) return 0;
    if (listed != held->part_count)
        return fail(document->error, EMBER_BAD_FORMAT, "bundle: %u parts, but the manifest lists %u",
                    (unsigned)held->part_count, (unsigned)listed);
    for (uint32_t i = 0; i < held->part_count; i++) {
        const container_file *part = held->parts + i;
        const uint32_t found = json_find(document, object, part->name);
        if (!found)
            return fail(document->error, EMBER_BAD_FORMAT,
                        "bundle: part '%.*s' is in the file but not in the manifest", (int)part->name.size,
                        (const char *)part->name.at);
        if (!check_part(document, found, part)) return 0;
    }
    return 1;
}

static int read_document(manifest *out, const json *document, const container *held)
{
    uint32_t fields[PARENT + 1];
    int64_t number;
    span text;
    if (!json_fields(document, 0, FIELD_NAMES, PARENT + 1, 1, fields)) return 0;
    if (!json_integer(document, fields[FORMAT], 1, 1, "format", &number)) return 0;
    if (!json_plain(document, fields[NAME], 1, 80, "model_name", &text)) return 0;
    if (!span_of(text, "._-") || strchr("._-", text.at[0]))
        return json_wrong(document, "model_name", "up to 80 letters, digits, . _ -");
    memcpy(out->model_name, text.at, text.size);
    if (!json_integer(document, fields[VERSION], 1, MAX_INTEGER, "model_version", &number)) return 0;
    out->model_version = (uint64_t)number;
    if (!json_plain(document, fields[CREATED], 20, 40, "created", &text)) return 0;
    if (!read_labels(out, document, fields[LABELS])) return 0;
    if (!json_count(document, fields[POSITIONS], 1, MAX_POSITIONS, "positions", &out->positions)) return 0;
    if (!read_preprocessing(out, document, fields[PREPROCESSING])) return 0;
    const uint32_t input[] = {out->height, out->width, out->channels}, output[] = {out->positions, out->classes};
    if (!check_end(document, fields[INPUT], "input", input, 3)) return 0;
    if (!check_end(document, fields[OUTPUT], "output", output, 2)) return 0;
    if (!json_holds(document, fields[PLANS], JSON_OBJECT, 0, 64, "plans", NULL)) return 0;
    if (!json_holds(document, fields[METRICS], JSON_OBJECT, 0, 64, "metrics", NULL)) return 0;
    if (fields[PARENT] && !json_plain(document, fields[PARENT], 64, 64, "parent", &text)) return 0;
    return check_parts(document, fields[PARTS], held);
}

int manifest_read(manifest *out, span payload, const container *held, ember_error *error)
{
    json document;
    memset(out, 0, sizeof *out);
    if (payload.size > MAX_MANIFEST)
        return fail(error, EMBER_BAD_FORMAT, "manifest: %zu bytes, expected at most %u", payload.size, MAX_MANIFEST);
    if (!json_parse(&document, "manifest", payload, error)) return 0;
    const int fine = read_document(out, &document, held);
    json_free(&document);
    return fine;
}

void manifest_free(manifest *held)
{
    free(held->label_text);
    free(held->labels);
    memset(held, 0, sizeof *held);
}
