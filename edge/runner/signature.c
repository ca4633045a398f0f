#include "signature.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define MAX_ENVELOPE (8u << 20)
#define MAX_TYPE 200
#define MAX_SIGNATURES 16
#define KEY_BYTES 32
#define SIGNATURE_BYTES 64
#define ED25519 1087 /* EVP_PKEY_ED25519 */

/* Tests build with a name that is nowhere. */
#ifndef EMBER_CRYPTO_LIBRARIES
#define EMBER_CRYPTO_LIBRARIES "libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so"
#endif

static int refuse(ember_error *error)
{
    return fail(error, EMBER_BAD_SIGNATURE, "the signature does not verify under any trusted key");
}

#define LOAD(library, function) load_function(library, #function, &(function))

int64_t base64_decode(span text, uint8_t *target)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    int64_t size = 0;
    if (text.size % 4) return -1;
    for (size_t i = 0; i < text.size; i += 4) {
        uint32_t bits = 0, padding = 0;
        for (size_t k = 0; k < 4; k++) {
            const uint8_t c = text.at[i + k];
            const char *digit = c ? strchr(digits, c) : NULL;
            if (c == '=' && i + 4 == text.size && k >= 2) padding++;
            else if (!digit || padding) return -1;
            bits = bits << 6 | (digit ? (uint32_t)(digit - digits) : 0);
        }
        for (uint32_t k = 0; k < 3 - padding; k++) target[size++] = (uint8_t)(bits >> (16 - 8 * k));
    }
    return size;
}

/* OpenSSL's Ed25519, version 1.1.1 or later, of the system. */
static int verify_by_libcrypto(void *context, const uint8_t *key, const uint8_t *signature, const uint8_t *message,
                               size_t message_bytes)
{
    static const char *const names[] = {EMBER_CRYPTO_LIBRARIES};
    void *(*EVP_PKEY_new_raw_public_key)(int, void *, const unsigned char *, size_t);
    void (*EVP_PKEY_free)(void *);
    void *(*EVP_MD_CTX_new)(void);
    void (*EVP_MD_CTX_free)(void *);
    int (*EVP_DigestVerifyInit)(void *, void **, const void *, void *, void *);
    int (*EVP_DigestVerify)(void *, const unsigned char *, size_t, const unsigned char *, size_t);
    (void)context;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!library) continue;
        if (!LOAD(library, EVP_PKEY_new_raw_public_key) || !LOAD(library, EVP_PKEY_free) ||
            !LOAD(library, EVP_MD_CTX_new) || !LOAD(library, EVP_MD_CTX_free) ||
            !LOAD(library, EVP_DigestVerifyInit) || !LOAD(library, EVP_DigestVerify)) {
            dlclose(library);
            continue;
        }
        void *public_key = EVP_PKEY_new_raw_public_key(ED25519, NULL, key, KEY_BYTES), *state = EVP_MD_CTX_new();
        int found = -1;
        /* OpenSSL takes any 32 bytes for a key: where this fails, the library has no Ed25519. */
        if (public_key && state && EVP_DigestVerifyInit(state, NULL, NULL, NULL, public_key) == 1)
            found = EVP_DigestVerify(state, signature, SIGNATURE_BYTES, message, message_bytes) == 1;
        EVP_MD_CTX_free(state);
        EVP_PKEY_free(public_key);
        return found; /* and the library stays: it cleans up when the process ends */
    }
    return -1;
}

/* What is signed: "DSSEv1" and both lengths in decimal, so that no two pairs read alike. */
static uint8_t *signed_message(const char *type, const uint8_t *payload, size_t payload_bytes, size_t *size)
{
    char head[MAX_TYPE + 64];
    const int length = snprintf(head, sizeof head, "DSSEv1 %zu %s %zu ", strlen(type), type, payload_bytes);
    uint8_t *message = allocate((size_t)length + payload_bytes, 1);
    if (!message) return NULL;
    memcpy(message, head, (size_t)length);
    if (payload_bytes) memcpy(message + length, payload, payload_bytes);
    *size = (size_t)length + payload_bytes;
    return message;
}

/* Whether any signature verifies under any trusted key; what they are is checked before one is looked at. */
static int check_signatures(const json *document, uint32_t list, const uint8_t *message, size_t message_bytes,
                            const ember_options *options)
{
    static const char *const names[] = {"sig", "keyid"};
    uint8_t signatures[MAX_SIGNATURES][SIGNATURE_BYTES + 2];
    uint32_t count, fields[2], at = list + 1;
    if (!json_holds(document, list, JSON_ARRAY, 0, MAX_SIGNATURES, "signatures", &count)) return 0;
    for (uint32_t i = 0; i < count; i++, at = document->nodes[at].next) {
        span text, hint;
        if (!json_fields(document, at, names, 2, 1, fields)) return 0;
        if (fields[1] && !json_plain(document, fields[1], 0, MAX_TYPE, "keyid", &hint)) return 0;
        if (!json_plain(document, fields[0], 88, 88, "sig", &text)) return 0;
        if (base64_decode(text, signatures[i]) != SIGNATURE_BYTES)
            return json_wrong(document, "sig", "base64 of 64 bytes");
    }
    const ember_verify verify = options->verify ? options->verify : verify_by_libcrypto;
    for (uint32_t i = 0; i < count; i++)
        for (size_t k = 0; k < options->trusted_key_count; k++) {
            const int found =
                verify(options->verify_context, options->trusted_keys[k], signatures[i], message, message_bytes);
            if (found == 1) return 1;
            if (found < 0)
                return fail(document->error, EMBER_NO_VERIFIER,
                            "nothing here verifies Ed25519 signatures: install OpenSSL's libcrypto 1.1.1 or later, "
                            "give a verifier of your own, or verify the file before and say so");
        }
    return refuse(document->error);
}

static int open_document(const json *document, const char *type, const ember_options *options, uint8_t **payload,
                         size_t *payload_bytes)
{
    static const char *const names[] = {"payload", "payloadType", "signatures"};
    uint32_t fields[3];
    span text, kind;
    if (!json_fields(document, 0, names, 3, 0, fields)) return 0;
    if (!json_plain(document, fields[0], 0, MAX_ENVELOPE, "payload", &text)) return 0;
    if (!json_plain(document, fields[1], 1, MAX_TYPE, "payloadType", &kind)) return 0;
    *payload = allocate(text.size, 1);
    if (!*payload) return fail(document->error, EMBER_NO_MEMORY, "envelope: no memory");
    const int64_t size = base64_decode(text, *payload);
    if (size < 0) return json_wrong(document, "payload", "base64");
    *payload_bytes = (size_t)size;

    if (!span_is(kind, type)) return refuse(document->error);
    if (options->caller_has_verified) return 1;
    size_t message_bytes = 0;
    uint8_t *message = signed_message(type, *payload, *payload_bytes, &message_bytes);
    if (!message) return fail(document->error, EMBER_NO_MEMORY, "envelope: no memory");
    const int fine = check_signatures(document, fields[2], message, message_bytes, options);
    free(message);
    return fine;
}

int envelope_open(span envelope, const char *type, const ember_options *options, uint8_t **payload,
                  size_t *payload_bytes, ember_error *error)
{
    json document;
    *payload = NULL;
    if (envelope.size > MAX_ENVELOPE)
        return fail(error, EMBER_BAD_FORMAT, "envelope: %zu bytes, expected at most %u", envelope.size, MAX_ENVELOPE);
    if (!json_parse(&document, "envelope", envelope, error)) return 0;
    const int fine = open_document(&document, type, options, payload, payload_bytes);
    json_free(&document);
    if (!fine) {
        free(*payload);
        *payload = NULL;
    }
    return fine;
}
