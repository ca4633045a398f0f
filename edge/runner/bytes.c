#include "bytes.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int span_same(span a, span b) { return a.size == b.size && (!a.size || memcmp(a.at, b.at, a.size) == 0); }

int span_is(span text, const char *expected)
{
    return span_same(text, (span){(const uint8_t *)expected, strlen(expected)});
}

int span_of(span text, const char *others)
{
    for (size_t i = 0; i < text.size; i++) {
        const uint8_t c = text.at[i];
        const int usual = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!usual && (c == 0 || !strchr(others, c))) return 0;
    }
    return 1;
}

void *allocate(size_t count, size_t size)
{
    if (size && count > SIZE_MAX / size) return NULL;
    return calloc(count ? count : 1, size ? size : 1);
}

int load_function(void *library, const char *name, void *target)
{
    /* C99 has no cast from what dlsym gives to a pointer to a function. */
    void *const found = dlsym(library, name);
    memcpy(target, &found, sizeof found);
    return found != NULL;
}

int fail(ember_error *error, ember_status status, const char *format, ...)
{
    if (!error) return 0;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    error->status = status;
    for (char *c = error->text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f) *c = ' ';
    return 0;
}
