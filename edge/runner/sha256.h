/* SHA-256 (FIPS 180-4). */
#ifndef EMBER_SHA256_H
#define EMBER_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES 32

/* The digest of `size` bytes. */
void sha256(const void *bytes, size_t size, uint8_t digest[SHA256_BYTES]);

/* Whether 64 lower-case hexadecimal digits are the digest of `size` bytes. */
int sha256_is(const void *bytes, size_t size, const uint8_t *hexadecimal);

#endif
