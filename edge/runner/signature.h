/* The signed envelope (DSSE version 1, docs/formats.md, section Envelope) and who verifies Ed25519. */
#ifndef EMBER_SIGNATURE_H
#define EMBER_SIGNATURE_H

#include "bytes.h"

/* The payload of an envelope of this type, once a trusted key has signed it or the caller has said so. It is
 * the caller's to free. */
int envelope_open(span envelope, const char *type, const ember_options *options, uint8_t **payload,
                  size_t *payload_bytes, ember_error *error);

/* Bytes of standard base64 with padding: `target` has room for 3/4 of the text. -1 where it is not base64. */
int64_t base64_decode(span text, uint8_t *target);

#endif
