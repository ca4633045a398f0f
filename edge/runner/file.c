#include "file.h"

#include <stdio.h>
#include <stdlib.h>

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
            const size_t wanted = room ? 2 * room : FIRST_ROOM; /* 0 beyond what 32 bits can address */
            uint8_t *larger = wanted > room ? realloc(bytes, wanted) : NULL;
            if (!larger) break;
            bytes = larger;
            room = wanted;
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
