/* Runs the network of an Emberfleet bundle (.ember) by OpenCL, without Python.
 *
 *   ember_error error;
 *   ember_options options = {0};
 *   options.trusted_keys = keys;
 *   options.trusted_key_count = 1;
 *   ember_model *model = ember_open_file("model.ember", &options, &error);
 *   if (!model) { puts(error.text); return 1; }
 *   const ember_info *info = ember_describe(model);
 *   if (ember_run(model, EMBER_PIXELS, pixels, pixel_bytes, scores, info->score_count, &error)) puts(error.text);
 *   ember_close(model);
 *
 * A bundle is verified whole before anything in it is used: container, signature, the SHA-256 of every part
 * (docs/formats.md, section Bundle). What verifies Ed25519 signatures is, in this order: `verify` of the
 * options; the system's libcrypto, loaded at run time; where there is neither, opening fails, unless the
 * caller states `caller_has_verified`. OpenCL is loaded at run time too.
 *
 * A model is used by one thread at a time; different models by different threads. Nothing is printed.
 */
#ifndef EMBER_H
#define EMBER_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define EMBER_API __attribute__((visibility("default")))
#else
#define EMBER_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ember_status {
    EMBER_OK = 0,
    EMBER_BAD_ARGUMENT = 1,  /* the call itself is wrong: a size, a null pointer, an unknown plan */
    EMBER_BAD_FILE = 2,      /* the file cannot be read */
    EMBER_BAD_FORMAT = 3,    /* the bytes are not a bundle that this version runs */
    EMBER_BAD_SIGNATURE = 4, /* no trusted key has signed it */
    EMBER_NO_VERIFIER = 5,   /* nothing here can check an Ed25519 signature */
    EMBER_NO_OPENCL = 6,     /* no OpenCL library, platform or device: use the .tflite */
    EMBER_BAD_DEVICE = 7,    /* OpenCL is there and failed: a build, an allocation, a launch */
    EMBER_NO_MEMORY = 8
} ember_status;

typedef struct ember_error {
    ember_status status;
    char text[512]; /* one line for people, ended by 0; build logs are cut to fit */
} ember_error;

/* Whether `signature` (64 bytes) was made over the message by the Ed25519 key (32 bytes): 1 or 0, and -1 where
 * that cannot be told. */
typedef int (*ember_verify)(void *context, const uint8_t *key, const uint8_t *signature, const uint8_t *message,
                            size_t message_bytes);

/* Everything may be zero: then opening fails with EMBER_BAD_SIGNATURE, since nobody is trusted. */
typedef struct ember_options {
    const uint8_t (*trusted_keys)[32]; /* public keys; one that has signed is enough */
    size_t trusted_key_count;
    int caller_has_verified; /* not 0: the signature is not looked at; digests are checked all the same */
    ember_verify verify;     /* the caller's own Ed25519, such as java.security's; null: libcrypto */
    void *verify_context;
    const char *opencl_library; /* tried alone; null: EMBER_OPENCL_LIBRARY if set, else the usual names */
    const char *platform;       /* part of an OpenCL platform's name; null: any */
    const char *plan;           /* name of a launch plan; null: by precision, device type and its limits */
    const char *precision;      /* "int8" or "float32"; null: int8 */
    size_t max_bytes;           /* of a bundle; 0: 256 MiB */
} ember_options;

/* What goes in: H x W x C values of one image, rows from the top, channels innermost. */
typedef enum ember_input {
    EMBER_PIXELS = 0, /* uint8 grey or RGB, 0 to 255: preprocessed here as the bundle says */
    EMBER_FLOATS = 1, /* float32, preprocessed by the caller: (pixel / 255 - mean) / std */
    EMBER_RGBA = 2    /* uint8, 4 a pixel, the fourth ignored: for networks of 3 channels */
} ember_input;

typedef struct ember_info {
    const char *model_name;
    uint64_t model_version;
    uint32_t height, width, channels; /* of the image that ember_run takes; nobody resizes here */
    uint32_t positions, classes;      /* P images within the image, K classes: scores are P x K */
    size_t score_count;               /* P x K */
    const char *const *labels;        /* K texts in UTF-8 */
    const char *plan;                 /* the launch plan in use, such as "int8-gpu" */
    const char *precision;            /* "int8" or "float32" */
    const char *platform, *device;    /* OpenCL's names of what computes */
    uint64_t device_bytes;            /* memory allocated on the device */
} ember_info;

typedef struct ember_model ember_model;

/* Verifies a bundle, builds its kernels and uploads its weights. The bytes may go when this returns.
 * Returns null with the reason in `error` (which may be null). */
EMBER_API ember_model *ember_open(const void *bytes, size_t size_bytes, const ember_options *options,
                                  ember_error *error);

/* The same for a file, read whole. */
EMBER_API ember_model *ember_open_file(const char *path, const ember_options *options, ember_error *error);

/* What was opened; lives as long as the model. */
EMBER_API const ember_info *ember_describe(const ember_model *model);

/* Runs one image and writes `score_count` logits (no softmax), P x K, in real numbers.
 * `input_bytes` and `score_count` must be exactly what the model takes and gives. */
EMBER_API ember_status ember_run(ember_model *model, ember_input kind, const void *input, size_t input_bytes,
                                 float *scores, size_t score_count, ember_error *error);

/* The last run's int8 codes, `score_count` of them; null for a float32 plan, and before the first run. */
EMBER_API const int8_t *ember_codes(const ember_model *model);

/* Frees everything; null is allowed. */
EMBER_API void ember_close(ember_model *model);

#ifdef __cplusplus
}
#endif

#endif
