/* What all parts of the runner share: stretches of bytes, checked sizes, errors. */
#ifndef EMBER_BYTES_H
#define EMBER_BYTES_H

#include "ember.h"

/* Bytes that somebody else owns; in JSON and names they are ASCII or UTF-8 and not ended by 0. */
typedef struct span {
    const uint8_t *at;
    size_t size;
} span;

/* Whether `size` bytes from `at` on lie within `total`, whatever the numbers. */
static inline int lies_within(uint64_t at, uint64_t size, uint64_t total) { return at <= total && size <= total - at; }

/* Whether two spans hold the same bytes; whether one holds exactly this text. */
int span_same(span a, span b);
int span_is(span text, const char *expected);

/* Whether all bytes are letters, digits or among `others`. */
int span_of(span text, const char *others);

/* Zeroed memory for `count` things of `size` bytes; null where there is none or the product is too large. */
void *allocate(size_t count, size_t size);

/* Puts the address of a library's function into the function pointer at `target`; 0 where there is none. */
int load_function(void *library, const char *name, void *target);

/* Puts an error in words; gives 0, so that callers return it. Control characters become spaces. */
int fail(ember_error *error, ember_status status, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

#endif
