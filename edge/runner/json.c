#include "json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 16
#define MAX_NODES (1u << 20)
#define MAX_NAMES 1024 /* of one object: names are compared with one another */
#define MAX_DIGITS 20

typedef struct parser {
    json *out;
    const uint8_t *text;
    uint32_t at, end;
} parser;

static int refuse(const parser *p, const char *why)
{
    return fail(p->out->error, EMBER_BAD_FORMAT, "%s: not the JSON expected here: %s at byte %u", p->out->what, why,
                (unsigned)p->at);
}

static void skip_spaces(parser *p)
{
    while (p->at < p->end &&
           (p->text[p->at] == ' ' || p->text[p->at] == '\n' || p->text[p->at] == '\r' || p->text[p->at] == '\t'))
        p->at++;
}

static int take(parser *p, char expected)
{
    if (p->at >= p->end || p->text[p->at] != (uint8_t)expected) return 0;
    p->at++;
    return 1;
}

static int is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

/* The value of four hexadecimal digits, -1 where they are none. */
static int32_t four_digits(const uint8_t *at)
{
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        const uint8_t c = at[i], letter = c | 0x20;
        if (is_digit(c)) value = value * 16 + c - '0';
        else if (letter >= 'a' && letter <= 'f') value = value * 16 + letter - 'a' + 10;
        else return -1;
    }
    return value;
}

/* The character that an escape of `\u` stands for, and how many bytes that is (6 or 12); 0 where it is none. */
static uint32_t escaped_character(const uint8_t *at, size_t left, uint32_t *character)
{
    const int32_t high = left >= 6 ? four_digits(at + 2) : -1;
    if (high < 0 || (high >= 0xdc00 && high < 0xe000)) return 0;
    *character = (uint32_t)high;
    if (high < 0xd800 || high >= 0xe000) return 6;
    const int32_t low = left >= 12 && at[6] == '\\' && at[7] == 'u' ? four_digits(at + 8) : -1;
    if (low < 0xdc00 || low >= 0xe000) return 0;
    *character = 0x10000 + (((uint32_t)high - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
    return 12;
}

/* How many bytes the character in UTF-8 has; 0 where it is none. */
static uint32_t utf8_character(const uint8_t *at, size_t left)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (at[0] < 0x80) return 1;
    if (at[0] < 0xc0 || at[0] >= 0xf8) return 0;
    const uint32_t size = at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
    if (left < size) return 0;
    uint32_t character = at[0] & (0x7fu >> size);
    for (uint32_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80) return 0;
        character = character << 6 | (at[i] & 0x3f);
    }
    const int surrogate = character >= 0xd800 && character < 0xe000;
    return character < least[size] || character > 0x10ffff || surrogate ? 0 : size;
}

static int parse_text(parser *p, json_node *node)
{
    if (!take(p, '"')) return refuse(p, "no text");
    node->kind = JSON_TEXT;
    node->start = p->at;
    while (p->at < p->end && p->text[p->at] != '"') {
        const uint8_t c = p->text[p->at];
        const size_t left = p->end - p->at;
        uint32_t size, character;
        if (c < 0x20) return refuse(p, "a control character");
        if (c != '\\') {
            size = utf8_character(p->text + p->at, left);
        } else {
            node->escaped = 1;
            if (left < 2) return refuse(p, "the end within an escape");
            const uint8_t kind = p->text[p->at + 1];
            if (kind == 'u') size = escaped_character(p->text + p->at, left, &character);
            else size = kind && strchr("\"\\/bfnrt", kind) ? 2 : 0;
        }
        if (!size) return refuse(p, "a damaged character");
        p->at += size;
    }
    node->size = p->at - node->start;
    return take(p, '"') ? 1 : refuse(p, "a text without an end");
}

static int parse_number(parser *p, json_node *node)
{
    node->kind = JSON_INTEGER;
    node->start = p->at;
    take(p, '-');
    if (!take(p, '0')) {
        if (p->at >= p->end || !is_digit(p->text[p->at])) return refuse(p, "no value");
        while (p->at < p->end && is_digit(p->text[p->at])) p->at++;
    }
    if (take(p, '.')) {
        node->kind = JSON_REAL;
        if (p->at >= p->end || !is_digit(p->text[p->at])) return refuse(p, "a damaged number");
        while (p->at < p->end && is_digit(p->text[p->at])) p->at++;
    }
    if (take(p, 'e') || take(p, 'E')) {
        node->kind = JSON_REAL;
        if (!take(p, '-')) take(p, '+');
        if (p->at >= p->end || !is_digit(p->text[p->at])) return refuse(p, "a damaged number");
        while (p->at < p->end && is_digit(p->text[p->at])) p->at++;
    }
    node->size = p->at - node->start;
    return node->kind == JSON_INTEGER && node->size > MAX_DIGITS ? refuse(p, "an integer too long") : 1;
}

static int parse_word(parser *p, json_node *node)
{
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++) {
        const uint32_t size = (uint32_t)strlen(words[i]);
        if (p->end - p->at >= size && memcmp(p->text + p->at, words[i], size) == 0) {
            *node = (json_node){JSON_WORD, p->at, size, 0, 0, 0};
            p->at += size;
            return 1;
        }
    }
    return parse_number(p, node);
}

static int name_is_new(const parser *p, uint32_t object, uint32_t name)
{
    const span own = json_span(p->out, name);
    for (uint32_t i = object + 1; i < name; i = p->out->nodes[i + 1].next)
        if (span_same(json_span(p->out, i), own)) return refuse(p, "a name twice");
    return 1;
}

static int parse_value(parser *p, int depth);

static int parse_items(parser *p, uint32_t self, char closing, int depth)
{
    json_node *nodes = p->out->nodes;
    skip_spaces(p);
    if (take(p, closing)) return 1;
    do {
        if (closing == '}') {
            const uint32_t name = p->out->count++;
            skip_spaces(p);
            if (nodes[self].count >= MAX_NAMES) return refuse(p, "an object of too many names");
            if (!parse_text(p, nodes + name) || !name_is_new(p, self, name)) return 0;
            nodes[name].next = name + 1;
            skip_spaces(p);
            if (!take(p, ':')) return refuse(p, "no colon");
        }
        if (!parse_value(p, depth + 1)) return 0;
        nodes[self].count++;
        skip_spaces(p);
    } while (take(p, ','));
    return take(p, closing) ? 1 : refuse(p, "a list without an end");
}

static int parse_value(parser *p, int depth)
{
    const uint32_t self = p->out->count++;
    json_node *node = p->out->nodes + self;
    if (depth > MAX_DEPTH) return refuse(p, "too many levels");
    skip_spaces(p);
    const uint8_t c = p->at < p->end ? p->text[p->at] : 0;
    int fine;
    if (c == '{' || c == '[') {
        *node = (json_node){c == '{' ? JSON_OBJECT : JSON_ARRAY, p->at++, 0, 0, 0, 0};
        fine = parse_items(p, self, c == '{' ? '}' : ']', depth);
    } else {
        fine = c == '"' ? parse_text(p, node) : parse_word(p, node);
    }
    node->next = p->out->count;
    return fine;
}

int json_parse(json *document, const char *what, span text, ember_error *error)
{
    *document = (json){what, text, NULL, 0, error};
    /* Every value and name stands at the beginning or behind one of these. */
    size_t most = 1;
    for (size_t i = 0; i < text.size; i++) most += text.at[i] && strchr("{[,:", text.at[i]) != NULL;
    if (text.size > UINT32_MAX || most > MAX_NODES)
        return fail(error, EMBER_BAD_FORMAT, "%s: more than %u values", what, MAX_NODES);
    document->nodes = allocate(most, sizeof(json_node));
    if (!document->nodes) return fail(error, EMBER_NO_MEMORY, "%s: no memory", what);
    parser p = {document, text.at, 0, (uint32_t)text.size};
    int fine = parse_value(&p, 0);
    if (fine) {
        skip_spaces(&p);
        if (p.at != p.end) fine = refuse(&p, "something behind its end");
    }
    if (!fine) json_free(document);
    return fine;
}

void json_free(json *document)
{
    free(document->nodes);
    document->nodes = NULL;
    document->count = 0;
}

int json_wrong(const json *document, const char *name, const char *expected)
{
    return fail(document->error, EMBER_BAD_FORMAT, "%s: '%s' must be %s", document->what, name, expected);
}

span json_span(const json *document, uint32_t value)
{
    return (span){document->text.at + document->nodes[value].start, document->nodes[value].size};
}

uint32_t json_find(const json *document, uint32_t object, span name)
{
    const json_node *nodes = document->nodes;
    for (uint32_t at = object + 1; at < nodes[object].next; at = nodes[at + 1].next)
        if (span_same(json_span(document, at), name)) return at + 1;
    return 0;
}

int json_fields(const json *document, uint32_t object, const char *const *names, uint32_t count, uint32_t optional,
                uint32_t *found)
{
    const json_node *nodes = document->nodes;
    uint32_t known = 0;
    if (nodes[object].kind != JSON_OBJECT)
        return fail(document->error, EMBER_BAD_FORMAT, "%s: expected an object with '%s'", document->what, names[0]);
    for (uint32_t i = 0; i < count; i++) {
        found[i] = json_find(document, object, (span){(const uint8_t *)names[i], strlen(names[i])});
        known += found[i] != 0;
        if (!found[i] && i + optional < count)
            return fail(document->error, EMBER_BAD_FORMAT, "%s: '%s' is missing", document->what, names[i]);
    }
    if (known != nodes[object].count)
        return fail(document->error, EMBER_BAD_FORMAT, "%s: beside '%s' stands a field that the format does not have",
                    document->what, names[0]);
    return 1;
}

int json_holds(const json *document, uint32_t value, json_kind kind, uint32_t low, uint32_t high, const char *name,
               uint32_t *count)
{
    const json_node *node = document->nodes + value;
    if (node->kind != kind || node->count < low || node->count > high)
        return fail(document->error, EMBER_BAD_FORMAT, "%s: '%s' must be %s of %u to %u", document->what, name,
                    kind == JSON_OBJECT ? "an object" : "a list", (unsigned)low, (unsigned)high);
    if (count) *count = node->count;
    return 1;
}

int json_integer(const json *document, uint32_t value, int64_t low, int64_t high, const char *name, int64_t *number)
{
    const span text = json_span(document, value);
    const int negative = text.size > 0 && text.at[0] == '-';
    uint64_t size = 0;
    /* Twenty digits may be more than 64 bits hold; nobody asks for more than 2^53. */
    for (size_t i = (size_t)negative; i < text.size && size < UINT64_C(1) << 58; i++)
        size = size * 10 + text.at[i] - '0';
    const int64_t found = negative ? -(int64_t)size : (int64_t)size;
    if (document->nodes[value].kind != JSON_INTEGER || size >= UINT64_C(1) << 58 || found < low || found > high)
        return fail(document->error, EMBER_BAD_FORMAT, "%s: '%s' must be an integer from %lld to %lld", document->what,
                    name, (long long)low, (long long)high);
    *number = found;
    return 1;
}

int json_count(const json *document, uint32_t value, uint32_t low, uint32_t high, const char *name, uint32_t *number)
{
    int64_t found = 0;
    if (!json_integer(document, value, low, high, name, &found)) return 0;
    *number = (uint32_t)found;
    return 1;
}

int json_plain(const json *document, uint32_t value, size_t low, size_t high, const char *name, span *text)
{
    *text = json_span(document, value);
    if (document->nodes[value].kind != JSON_TEXT || document->nodes[value].escaped || text->size < low ||
        text->size > high)
        return fail(document->error, EMBER_BAD_FORMAT, "%s: '%s' must be a text of %zu to %zu plain characters",
                    document->what, name, low, high);
    return 1;
}

size_t json_decode(const json *document, uint32_t value, char *target)
{
    static const char kinds[] = "bfnrt", meanings[] = "\b\f\n\r\t";
    const span text = json_span(document, value);
    size_t size = 0;
    for (size_t i = 0; i < text.size;) {
        uint32_t character;
        if (text.at[i] != '\\') {
            target[size++] = (char)text.at[i++];
            continue;
        }
        if (text.at[i + 1] != 'u') {
            const char *known = strchr(kinds, text.at[i + 1]);
            target[size++] = known ? meanings[known - kinds] : (char)text.at[i + 1];
            i += 2;
            continue;
        }
        i += escaped_character(text.at + i, text.size - i, &character);
        if (character < 0x80) {
            target[size++] = (char)character;
            continue;
        }
        const int more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
        target[size++] = (char)((0xf80 >> more & 0xff) | character >> (6 * more));
        for (int k = more - 1; k >= 0; k--) target[size++] = (char)(0x80 | (character >> (6 * k) & 0x3f));
    }
    target[size] = 0;
    return size;
}
