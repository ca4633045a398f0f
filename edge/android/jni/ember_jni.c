/* The native half of dev.emberfleet.EmberModel: what Java passes on to the runner (edge/runner/ember.h).
 *
 * Signatures are checked by Java, called back from within ember_open: what is verified is what C has parsed, and no
 * second parser of bundles decides. Everything here runs on the caller's thread. */
#include <jni.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ember.h"
#include "fit.h"
#include "opencl.h"

#define KEY_BYTES 32
#define SIGNATURE_BYTES 64
#define REPLACEMENT 0xfffd
#define NO_VERIFIER \
    "nothing on this device verifies Ed25519 signatures: add com.google.crypto.tink:tink-android to the app"

/* How many bytes follow the first of a character in UTF-8; -1 where none begins so. */
static int following_bytes(uint8_t first)
{
    if (first < 0x80) return 0;
    if ((first & 0xe0) == 0xc0) return 1;
    if ((first & 0xf0) == 0xe0) return 2;
    return (first & 0xf8) == 0xf0 ? 3 : -1;
}

/* JNI's own UTF-8 is not the standard's, so texts go over in UTF-16; what is no UTF-8 reads as U+FFFD. */
static jstring java_text(JNIEnv *env, const char *text)
{
    const uint8_t *at = (const uint8_t *)text, *end = at + strlen(text);
    jchar *units = malloc((size_t)(end - at + 1) * sizeof *units);
    jsize count = 0;
    if (!units) return NULL;
    while (at < end) {
        const int more = following_bytes(*at);
        uint32_t character = more < 0 ? REPLACEMENT : more ? *at & (0x3fu >> more) : *at;
        at++;
        for (int i = 0; i < more && character != REPLACEMENT; i++) {
            if (at < end && (*at & 0xc0) == 0x80) character = character << 6 | (*at++ & 0x3f);
            else character = REPLACEMENT;
        }
        if (character > 0x10ffff) character = REPLACEMENT;
        if (character > 0xffff) {
            units[count++] = (jchar)(0xd7c0 + (character >> 10));
            character = 0xdc00 + (character & 0x3ff);
        }
        units[count++] = (jchar)character;
    }
    const jstring made = (*env)->NewString(env, units, count);
    free(units);
    return made;
}

static void throw_error(JNIEnv *env, ember_status status, const char *text)
{
    const char *name = status == EMBER_NO_OPENCL ? "dev/emberfleet/NoOpenClException"
                       : status == EMBER_BAD_SIGNATURE || status == EMBER_NO_VERIFIER
                           ? "dev/emberfleet/UntrustedModelException"
                           : "dev/emberfleet/EmberException";
    if ((*env)->ExceptionCheck(env)) return;
    const jclass kind = (*env)->FindClass(env, name);
    const jmethodID make = kind ? (*env)->GetMethodID(env, kind, "<init>", "(Ljava/lang/String;)V") : NULL;
    const jstring message = make ? java_text(env, text) : NULL;
    const jobject error = message ? (*env)->NewObject(env, kind, make, message) : NULL;
    if (error) (*env)->Throw(env, error);
}

static jbyteArray java_bytes(JNIEnv *env, const uint8_t *bytes, size_t size)
{
    const jbyteArray made = (*env)->NewByteArray(env, (jsize)size);
    if (made) (*env)->SetByteArrayRegion(env, made, 0, (jsize)size, (const jbyte *)bytes);
    return made;
}

/* Ed25519.verify in Java: 1, 0, and -1 where nothing in this process can tell. */
static int verify_in_java(void *context, const uint8_t *key, const uint8_t *signature, const uint8_t *message,
                          size_t message_bytes)
{
    JNIEnv *env = context;
    int found = -1;
    if ((*env)->PushLocalFrame(env, 8) != 0) return -1;
    const jclass kind = (*env)->FindClass(env, "dev/emberfleet/Ed25519");
    const jmethodID verify = kind ? (*env)->GetStaticMethodID(env, kind, "verify", "([B[B[B)I") : NULL;
    const jbyteArray a = verify ? java_bytes(env, key, KEY_BYTES) : NULL;
    const jbyteArray b = a ? java_bytes(env, signature, SIGNATURE_BYTES) : NULL;
    const jbyteArray c = b ? java_bytes(env, message, message_bytes) : NULL;
    if (c) found = (*env)->CallStaticIntMethod(env, kind, verify, a, b, c);
    if ((*env)->ExceptionCheck(env)) {
        (*env)->ExceptionClear(env);
        found = -1;
    }
    (*env)->PopLocalFrame(env, NULL);
    return found;
}

static ember_model *model_of(jlong handle)
{
    return (ember_model *)(intptr_t)handle;
}

JNIEXPORT jboolean JNICALL Java_dev_emberfleet_EmberModel_hasOpenCl(JNIEnv *env, jclass kind)
{
    (void)env;
    (void)kind;
    opencl loaded = {0};
    ember_error error = {0};
    return opencl_load(&loaded, NULL, NULL, &error) && loaded.count > 0;
}

/* `keys` holds the trusted public keys one behind the other. */
JNIEXPORT jlong JNICALL Java_dev_emberfleet_EmberModel_nativeOpen(JNIEnv *env, jclass kind, jbyteArray bundle,
                                                                   jbyteArray keys)
{
    (void)kind;
    ember_error error = {0};
    ember_options options = {0};
    ember_model *model = NULL;
    const jsize size = (*env)->GetArrayLength(env, bundle), key_bytes = (*env)->GetArrayLength(env, keys);
    jbyte *bytes = (*env)->GetByteArrayElements(env, bundle, NULL);
    jbyte *trusted = bytes ? (*env)->GetByteArrayElements(env, keys, NULL) : NULL;
    if (trusted) {
        options.trusted_keys = (const uint8_t(*)[KEY_BYTES])trusted;
        options.trusted_key_count = (size_t)key_bytes / KEY_BYTES;
        options.verify = verify_in_java;
        options.verify_context = env;
        model = ember_open(bytes, (size_t)size, &options, &error);
        (*env)->ReleaseByteArrayElements(env, keys, trusted, JNI_ABORT);
    }
    if (bytes) (*env)->ReleaseByteArrayElements(env, bundle, bytes, JNI_ABORT);
    if (!model && !trusted) throw_error(env, EMBER_NO_MEMORY, "no memory");
    else if (!model && error.status == EMBER_NO_VERIFIER) throw_error(env, error.status, NO_VERIFIER);
    else if (!model) throw_error(env, error.status, error.text);
    return (jlong)(intptr_t)model;
}

JNIEXPORT void JNICALL Java_dev_emberfleet_EmberModel_nativeClose(JNIEnv *env, jclass kind, jlong handle)
{
    (void)env;
    (void)kind;
    ember_close(model_of(handle));
}

JNIEXPORT jobjectArray JNICALL Java_dev_emberfleet_EmberModel_nativeLabels(JNIEnv *env, jclass kind, jlong handle)
{
    (void)kind;
    const ember_info *info = ember_describe(model_of(handle));
    const jclass text = (*env)->FindClass(env, "java/lang/String");
    const jobjectArray made = text ? (*env)->NewObjectArray(env, (jsize)info->classes, text, NULL) : NULL;
    for (uint32_t i = 0; made && i < info->classes; i++) {
        const jstring label = java_text(env, info->labels[i]);
        if (!label) return NULL;
        (*env)->SetObjectArrayElement(env, made, (jsize)i, label);
        (*env)->DeleteLocalRef(env, label);
    }
    return made;
}

/* Name, version, launch plan and device of what runs: "model", "3", "int8-gpu", "Adreno (TM) 740". */
JNIEXPORT jobjectArray JNICALL Java_dev_emberfleet_EmberModel_nativeAbout(JNIEnv *env, jclass kind, jlong handle)
{
    (void)kind;
    const ember_info *info = ember_describe(model_of(handle));
    char version[24];
    snprintf(version, sizeof version, "%llu", (unsigned long long)info->model_version);
    const char *texts[] = {info->model_name, version, info->plan, info->device};
    const jsize count = sizeof texts / sizeof texts[0];
    const jclass text = (*env)->FindClass(env, "java/lang/String");
    const jobjectArray made = text ? (*env)->NewObjectArray(env, count, text, NULL) : NULL;
    for (jsize i = 0; made && i < count; i++) {
        const jstring each = java_text(env, texts[i]);
        if (!each) return NULL;
        (*env)->SetObjectArrayElement(env, made, i, each);
    }
    return made;
}

/* Turns the logits of each position into probabilities. */
static void softmax(float *scores, uint32_t positions, uint32_t classes)
{
    for (uint32_t p = 0; p < positions; p++) {
        float *row = scores + (size_t)p * classes, most = row[0];
        double sum = 0;
        for (uint32_t k = 1; k < classes; k++)
            if (row[k] > most) most = row[k];
        for (uint32_t k = 0; k < classes; k++) sum += exp((double)row[k] - most);
        for (uint32_t k = 0; k < classes; k++) row[k] = (float)(exp((double)row[k] - most) / sum);
    }
}

static ember_status classify(ember_model *model, const jint *argb, uint32_t width, uint32_t height, float *scores,
                             ember_error *error)
{
    const ember_info *info = ember_describe(model);
    const size_t bytes = (size_t)info->height * info->width * info->channels;
    uint8_t *pixels = malloc(bytes);
    ember_status status = EMBER_NO_MEMORY;
    strcpy(error->text, "no memory");
    if (pixels && fit_image((const uint32_t *)argb, width, height, info->width, info->height, info->channels, pixels))
        status = ember_run(model, EMBER_PIXELS, pixels, bytes, scores, info->score_count, error);
    free(pixels);
    if (status == EMBER_OK) softmax(scores, info->positions, info->classes);
    return status;
}

/* An image of any size as Bitmap.getPixels gives it; P x K probabilities come back. */
JNIEXPORT jfloatArray JNICALL Java_dev_emberfleet_EmberModel_nativeClassify(JNIEnv *env, jclass kind, jlong handle,
                                                                            jintArray image, jint width, jint height)
{
    (void)kind;
    ember_model *model = model_of(handle);
    const ember_info *info = ember_describe(model);
    ember_error error = {EMBER_NO_MEMORY, "no memory"};
    const jsize held = (*env)->GetArrayLength(env, image);
    if (width < 1 || height < 1 || (int64_t)width * height > FIT_MAX_PIXELS || (int64_t)width * height != held) {
        throw_error(env, EMBER_BAD_ARGUMENT, "the image must have width x height pixels, 1 to 64 million");
        return NULL;
    }
    const jfloatArray made = (*env)->NewFloatArray(env, (jsize)info->score_count);
    float *scores = made ? malloc(info->score_count * sizeof *scores) : NULL;
    jint *argb = scores ? (*env)->GetIntArrayElements(env, image, NULL) : NULL;
    ember_status status = EMBER_NO_MEMORY;
    if (argb) {
        status = classify(model, argb, (uint32_t)width, (uint32_t)height, scores, &error);
        (*env)->ReleaseIntArrayElements(env, image, argb, JNI_ABORT);
    }
    if (status == EMBER_OK) (*env)->SetFloatArrayRegion(env, made, 0, (jsize)info->score_count, scores);
    else throw_error(env, status, error.text);
    free(scores);
    return status == EMBER_OK ? made : NULL;
}
