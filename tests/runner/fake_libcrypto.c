/* A libcrypto that gives the verdict asked for, or lacks Ed25519 as one of another maker does.
 *
 *   FAKE_VERDICT  what EVP_DigestVerify gives (1)
 *   FAKE_NO_KEY, FAKE_NO_START  if set, no key is made of 32 bytes, or none can be used */
#include <stddef.h>
#include <stdlib.h>

static int thing;

void *EVP_PKEY_new_raw_public_key(int type, void *engine, const unsigned char *key, size_t size)
{
    (void)engine, (void)key;
    return type == 1087 && size == 32 && !getenv("FAKE_NO_KEY") ? &thing : NULL;
}

void EVP_PKEY_free(void *key) { (void)key; }

void *EVP_MD_CTX_new(void) { return &thing; }

void EVP_MD_CTX_free(void *state) { (void)state; }

int EVP_DigestVerifyInit(void *state, void **key_state, const void *digest, void *engine, void *key)
{
    (void)state, (void)key_state, (void)digest, (void)engine, (void)key;
    return getenv("FAKE_NO_START") == NULL;
}

int EVP_DigestVerify(void *state, const unsigned char *signature, size_t signature_bytes, const unsigned char *message,
                     size_t message_bytes)
{
    (void)state, (void)signature, (void)signature_bytes, (void)message, (void)message_bytes;
    const char *verdict = getenv("FAKE_VERDICT");
    return verdict ? atoi(verdict) : 1;
}
