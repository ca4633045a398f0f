/* Reads files whole, within a limit. */
#ifndef EMBER_FILE_H
#define EMBER_FILE_H

#include "bytes.h"

/* The bytes of a file of at most `most`; the caller frees them. Null with the reason in `error`. */
uint8_t *file_read(const char *path, size_t most, size_t *size, ember_error *error);

#endif
