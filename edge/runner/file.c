#include "file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_LIMIT ((size_t)256 << 20)
#define FIRST_ROOM 65536

uint8_t *file_read(const char *path, size_t most, size_t *size, ember_error *error)
{
    uint8_t *bytes = NULL;
    size_t room = 0, got = 1;
    FILE *file = fopen(path, "rb");
    *size = 0;
    if (!file) {
        fail(error, EMBER_BAD_FILE, "%s cannot be opened", path);
        return NULL;
    }
    /* Grows as bytes really come, so that pipes are read and no size is believed. */
    while (got > 0 && *size <= most) {
        if (*size == room) {
            room = room ? 2 * room : FIRST_ROOM;
            uint8_t *larger = realloc(bytes, room);
            if (!larger) break;
            bytes = larger;
        }
        got = fread(bytes + *size, 1, room - *size, file);
        *size += got;
    }
    const int fine = got == 0 && !ferror(file);
    fclose(file);
    if (fine && *size <= most) return bytes;
    free(bytes);
    if (*size > most) fail(error, EMBER_BAD_FORMAT, "%s: more than %zu bytes", path, most);
    else fail(error, EMBER_BAD_FILE, "%s cannot be read", path);
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
    uint8_t *bytes = file_read(path, options && options->max_bytes ? options->max_bytes : DEFAULT_LIMIT, &size, error);
    if (!bytes) return NULL;
    ember_model *model = ember_open(bytes, size, options, error);
    free(bytes);
    return model;
}
