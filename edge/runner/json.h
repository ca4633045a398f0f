/* Strict JSON: UTF-8, no name twice in one object, bounded depth and size, nothing copied. */
#ifndef EMBER_JSON_H
#define EMBER_JSON_H

#include "bytes.h"

typedef enum json_kind { JSON_OBJECT, JSON_ARRAY, JSON_TEXT, JSON_INTEGER, JSON_REAL, JSON_WORD } json_kind;

/* A value. What an object or array holds follows it at once; an object's names and values alternate. */
typedef struct json_node {
    json_kind kind;
    uint32_t start, size; /* in the text; of a JSON_TEXT between its quotes */
    uint32_t count;       /* values that an object or array holds: names are not counted */
    uint32_t next;        /* the value behind this one and all that it holds */
    uint32_t escaped;     /* whether a JSON_TEXT has escapes */
} json_node;

typedef struct json {
    const char *what; /* in messages */
    span text;
    json_node *nodes; /* the first is the whole */
    uint32_t count;
    ember_error *error;
} json;

/* Takes a text apart; `json_free` is due where this succeeds. Errors of all functions here go to `error`. */
int json_parse(json *document, const char *what, span text, ember_error *error);
void json_free(json *document);

/* The values of an object's fields by name, in the order of `names`; no others may be there. The last `optional`
 * names may be missing: their value is 0, which no value within an object has. */
int json_fields(const json *document, uint32_t object, const char *const *names, uint32_t count, uint32_t optional,
                uint32_t *found);

/* The text of a value, or of a name: what stands between its quotes, escapes and all. */
span json_span(const json *document, uint32_t value);

/* The value by that name in an object, 0 where there is none. */
uint32_t json_find(const json *document, uint32_t object, span name);

/* Whether a value is an object or array that holds `low` to `high` values; their number. */
int json_holds(const json *document, uint32_t value, json_kind kind, uint32_t low, uint32_t high, const char *name,
               uint32_t *count);

/* An integer from `low` to `high`. */
int json_integer(const json *document, uint32_t value, int64_t low, int64_t high, const char *name, int64_t *number);

/* The same for numbers of 32 bits without a sign. */
int json_count(const json *document, uint32_t value, uint32_t low, uint32_t high, const char *name, uint32_t *number);

/* A text without escapes, of `low` to `high` bytes. */
int json_plain(const json *document, uint32_t value, size_t low, size_t high, const char *name, span *text);

/* A text in UTF-8, without its escapes, ended by 0: `target` has room for size + 1 bytes. Returns its length. */
size_t json_decode(const json *document, uint32_t value, char *target);

/* Puts into words that a value is not what it should be. */
int json_wrong(const json *document, const char *name, const char *expected);

#endif
