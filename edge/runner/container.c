#include "container.h"

#include <string.h>

/* A fuzzer's mutants never match a checksum. */
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
#define CHECKED 0
#else
#define CHECKED 1
#endif

#define LOCAL_BYTES 30u
#define CENTRAL_BYTES 46u
#define END_BYTES 22u

static uint32_t get16(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8; }

static uint32_t get32(const uint8_t *at) { return get16(at) | get16(at + 2) << 16; }

static uint32_t crc32(span bytes)
{
    uint32_t table[256], crc = UINT32_MAX;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
    }
    for (size_t i = 0; i < bytes.size; i++) crc = crc >> 8 ^ table[(crc ^ bytes.at[i]) & 255];
    return ~crc;
}

static int refuse(ember_error *error, const char *why) { return fail(error, EMBER_BAD_FORMAT, "bundle: %s", why); }

/* Folders joined by '/', none of which is empty or begins with '.' or '-'. */
static int is_part_name(span name)
{
    if (!name.size || name.size > CONTAINER_MAX_NAME || !span_of(name, "._-/")) return 0;
    int begins = 1;
    for (size_t i = 0; i < name.size; i++) {
        const uint8_t c = name.at[i];
        if (begins && (c == '/' || c == '.' || c == '-')) return 0;
        begins = c == '/';
    }
    return !begins;
}

static int order_of(span a, span b)
{
    const size_t shared = a.size < b.size ? a.size : b.size;
    const int order = shared ? memcmp(a.at, b.at, shared) : 0;
    return order ? order : a.size < b.size ? -1 : a.size > b.size;
}

static int same_but_case(span a, span b)
{
    if (a.size != b.size) return 0;
    for (size_t i = 0; i < a.size; i++) {
        const uint8_t x = a.at[i], y = b.at[i];
        const int letter = (x | 32) >= 'a' && (x | 32) <= 'z';
        if (x != y && !(letter && (x | 32) == (y | 32))) return 0;
    }
    return 1;
}

/* The fields that local header and directory entry share, from the version on: 26 bytes. */
static int is_shared_header(const uint8_t *at, uint32_t name_size)
{
    static const uint8_t fixed[10] = {20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0};
    return memcmp(at, fixed, sizeof fixed) == 0 && get32(at + 14) == get32(at + 18) && get16(at + 22) == name_size &&
           get16(at + 24) == 0;
}

/* One directory entry and what it stands for; moves both places behind what was read. */
static int read_entry(span bytes, uint64_t directory, size_t *entry, uint64_t *body, container_file *out,
                      ember_error *error)
{
    static const uint8_t ending[10] = {0, 0, 0, 0, 0, 0, 0, 0, 0xa4, 0x81};
    const uint64_t limit = bytes.size - END_BYTES;
    if (!lies_within(*entry, CENTRAL_BYTES, limit)) return refuse(error, "the directory ends too early");
    const uint8_t *central = bytes.at + *entry;
    const uint32_t name_size = get16(central + 28);
    if (!lies_within(*entry + CENTRAL_BYTES, name_size, limit)) return refuse(error, "a name beyond the directory");
    const span name = {central + CENTRAL_BYTES, name_size};
    if (!is_part_name(name)) return refuse(error, "a file's name is not one of letters, digits, . _ - and /");
    const int fits = memcmp(central, "PK\1\2\x14\3", 6) == 0 && is_shared_header(central + 6, name_size) &&
                     memcmp(central + 32, ending, sizeof ending) == 0 && get32(central + 42) == *body;
    if (!fits)
        return fail(error, EMBER_BAD_FORMAT, "bundle: the directory entry of '%.*s' is not of the format",
                    (int)name.size, (const char *)name.at);

    const uint64_t size = get32(central + 24), start = *body + LOCAL_BYTES + name_size;
    const uint8_t *local = bytes.at + *body;
    const int same = lies_within(*body, LOCAL_BYTES + (uint64_t)name_size, directory) &&
                     lies_within(start, size, directory) && memcmp(local, "PK\3\4", 4) == 0 &&
                     memcmp(local + 4, central + 6, 26) == 0 && memcmp(local + LOCAL_BYTES, name.at, name_size) == 0;
    if (!same)
        return fail(error, EMBER_BAD_FORMAT, "bundle: the header of '%.*s' does not say what the directory says",
                    (int)name.size, (const char *)name.at);
    *out = (container_file){name, {bytes.at + start, (size_t)size}};
    if (CHECKED && crc32(out->contents) != get32(central + 16))
        return fail(error, EMBER_BAD_FORMAT, "bundle: '%.*s' does not match its checksum; fetch the file again",
                    (int)name.size, (const char *)name.at);
    *entry += CENTRAL_BYTES + name_size;
    *body = start + size;
    return 1;
}

int container_read(container *out, span bytes, ember_error *error)
{
    static const uint8_t single[4] = {0};
    memset(out, 0, sizeof *out);
    if (bytes.size < END_BYTES || bytes.size >= UINT32_MAX) return refuse(error, "truncated, or not a bundle");
    const uint8_t *end = bytes.at + bytes.size - END_BYTES;
    const uint32_t count = get16(end + 8), directory = get32(end + 16);
    if (memcmp(end, "PK\5\6", 4) != 0) return refuse(error, "no end record; the file is truncated or not a bundle");
    if (memcmp(end + 4, single, 4) != 0 || get16(end + 10) != count || get16(end + 20) != 0)
        return refuse(error, "an end record with a comment or of several disks");
    if (count < 1 || count > CONTAINER_MAX_FILES) return refuse(error, "not 1 to 1024 files");
    if ((uint64_t)directory + get32(end + 12) != bytes.size - END_BYTES)
        return refuse(error, "the directory does not end at the end record");

    size_t entry = directory;
    uint64_t body = 0;
    for (uint32_t i = 0; i < count; i++)
        if (!read_entry(bytes, directory, &entry, &body, i ? out->parts + i - 1 : &out->envelope, error)) return 0;
    if (body != directory || entry != bytes.size - END_BYTES)
        return refuse(error, "bytes that belong to no file, or fewer files than the end record says");
    out->part_count = count - 1;
    if (!span_is(out->envelope.name, "manifest.dsse.json"))
        return refuse(error, "the first file must be manifest.dsse.json");
    for (uint32_t i = 0; i < out->part_count; i++) {
        const span name = out->parts[i].name;
        if (span_is(name, "manifest.dsse.json") || (i && order_of(out->parts[i - 1].name, name) >= 0))
            return refuse(error, "the files are not in the order of their names, each once");
        for (uint32_t k = 0; k < i; k++)
            if (same_but_case(out->parts[k].name, name)) return refuse(error, "two names that differ by case only");
    }
    return 1;
}

const span *container_part(const container *held, const char *folder, span name)
{
    const size_t before = strlen(folder);
    for (uint32_t i = 0; i < held->part_count; i++) {
        const span own = held->parts[i].name;
        if (own.size >= before && memcmp(own.at, folder, before) == 0 &&
            span_same((span){own.at + before, own.size - before}, name))
            return &held->parts[i].contents;
    }
    return NULL;
}
