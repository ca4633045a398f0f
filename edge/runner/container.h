/* The container of a bundle: a zip of stored files in the one form of docs/formats.md, section Bundle. */
#ifndef EMBER_CONTAINER_H
#define EMBER_CONTAINER_H

#include "bytes.h"

#define CONTAINER_MAX_FILES 1024
#define CONTAINER_MAX_NAME 200

typedef struct container_file {
    span name; /* letters, digits and . _ - / only */
    span contents;
} container_file;

typedef struct container {
    container_file envelope;                   /* manifest.dsse.json */
    container_file parts[CONTAINER_MAX_FILES]; /* in the order of their names */
    uint32_t part_count;
} container;

/* Takes the bytes apart, without a copy; refuses all that the writer would have written otherwise. */
int container_read(container *out, span bytes, ember_error *error);

/* A part's contents by its name; null where there is none. */
const span *container_part(const container *held, const char *folder, span name);

#endif
