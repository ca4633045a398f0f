/* The signed manifest of a bundle (docs/formats.md, section Manifest): what a runner needs of it. */
#ifndef EMBER_MANIFEST_H
#define EMBER_MANIFEST_H

#include "container.h"

typedef struct manifest {
    char model_name[81];
    uint64_t model_version;
    uint32_t height, width, channels, positions, classes;
    char *label_text; /* all labels, each ended by 0 */
    const char **labels;
} manifest;

/* Reads the signed bytes and compares every part with its size and SHA-256. `manifest_free` is due in any case. */
int manifest_read(manifest *out, span payload, const container *held, ember_error *error);
void manifest_free(manifest *held);

#endif
