/* A verified bundle: what ember_open works from, and all that can be done with hostile bytes without OpenCL. */
#ifndef EMBER_MODEL_H
#define EMBER_MODEL_H

#include "stage.h"

typedef struct bundle {
    container held;
    manifest about;
    plan_list plans;
} bundle;

/* Verifies and reads a bundle in the order of docs/formats.md. Points into the bytes. `bundle_free` is due in any
 * case. A bundle is large for a stack. */
int bundle_read(bundle *out, span bytes, const ember_options *options, ember_error *error);
void bundle_free(bundle *held);

#endif
