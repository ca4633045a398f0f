#include "stage.h"

#include <string.h>

size_t stage_bytes(const manifest *about, const pixel_factors *factors, ember_input kind)
{
    const size_t pixels = (size_t)about->height * about->width;
    if (kind == EMBER_FLOATS) return pixels * about->channels * sizeof(float);
    if (kind == EMBER_PIXELS && factors->known) return pixels * about->channels;
    return kind == EMBER_RGBA && factors->known && about->channels == 3 ? pixels * 4 : 0;
}

/* Each operation is rounded by itself, as numpy does, never fused. */
static float preprocess(uint8_t byte, float scale, float shift)
{
    const volatile float scaled = (float)byte * scale;
    return scaled + shift;
}

void stage_image(const plan *ready, const manifest *about, const pixel_factors *factors, ember_input kind,
                 const void *image, float *stretch)
{
    const uint32_t step = kind == EMBER_RGBA ? 4 : about->channels;
    for (uint32_t h = 0; h < about->height; h++)
        for (uint32_t w = 0; w < about->width; w++) {
            const size_t from = ((size_t)h * about->width + w) * step;
            float *to = stretch + ready->input_first + h * ready->input_row + w * ready->input_pixel;
            if (kind == EMBER_FLOATS) {
                memcpy(to, (const uint8_t *)image + from * sizeof *to, about->channels * sizeof *to);
                continue;
            }
            for (uint32_t c = 0; c < about->channels; c++)
                to[c] = preprocess(((const uint8_t *)image)[from + c], factors->scale[c], factors->shift[c]);
        }
}
