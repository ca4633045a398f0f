#include "fit.h"

#include <stdlib.h>
#include <string.h>

#define WEIGHT_BITS 22
#define HALF ((int32_t)1 << (WEIGHT_BITS - 1))

/* One axis: output i is the sum of weights[i * most + k] x input[first[i] + k], k below count[i]. */
typedef struct axis {
    uint32_t most, *first, *count;
    int32_t *weights;
} axis;

static void axis_free(axis *held)
{
    free(held->first);
    free(held->count);
    free(held->weights);
}

/* Of `size` pixels the stretch from `start` to `end` becomes `out_size` pixels. */
static int axis_make(axis *out, uint32_t size, float start, float end, uint32_t out_size)
{
    const double step = (double)(end - start) / out_size, reach = step < 1.0 ? 1.0 : step;
    out->most = (uint32_t)reach * 2 + 4;
    out->first = calloc(out_size, sizeof *out->first);
    out->count = calloc(out_size, sizeof *out->count);
    out->weights = calloc((size_t)out_size * out->most, sizeof *out->weights);
    double *exact = calloc(out->most, sizeof *exact);
    const int fine = out->first && out->count && out->weights && exact;
    for (uint32_t i = 0; fine && i < out_size; i++) {
        const double centre = (double)start + (i + 0.5) * step;
        const double low = centre - reach + 0.5, high = centre + reach + 0.5;
        const uint32_t from = low < 0 ? 0 : (uint32_t)low, to = high > size ? size : (uint32_t)high;
        double sum = 0;
        for (uint32_t k = 0; k < to - from; k++) {
            const double distance = ((double)k + from - centre + 0.5) * (1.0 / reach);
            const double height = 1.0 - (distance < 0 ? -distance : distance);
            exact[k] = height > 0 ? height : 0;
            sum += exact[k];
        }
        for (uint32_t k = 0; k < to - from; k++)
            out->weights[(size_t)i * out->most + k] = (int32_t)(0.5 + exact[k] / sum * (1 << WEIGHT_BITS));
        out->first[i] = from;
        out->count[i] = to - from;
    }
    free(exact);
    return fine;
}

static uint8_t rounded(int32_t sum)
{
    const int32_t value = sum >> WEIGHT_BITS;
    return (uint8_t)(value > 255 ? 255 : value);
}

/* A colour over white paper: round((colour x alpha + 255 x (255 - alpha)) / 255). */
static uint32_t over_white(uint32_t colour, uint32_t alpha)
{
    const uint32_t sum = colour * alpha + 255 * (255 - alpha) + 128;
    return (sum + (sum >> 8)) >> 8;
}

static void read_row(const uint32_t *argb, uint32_t width, uint32_t channels, uint8_t *row)
{
    for (uint32_t w = 0; w < width; w++) {
        const uint32_t alpha = argb[w] >> 24;
        uint32_t rgb[3];
        for (uint32_t c = 0; c < 3; c++) rgb[c] = over_white(argb[w] >> (16 - 8 * c) & 255, alpha);
        /* Grey as ITU-R BT.601 weighs it, in 16 bits. */
        if (channels == 1) row[w] = (uint8_t)((rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) >> 16);
        else for (uint32_t c = 0; c < 3; c++) row[(size_t)w * 3 + c] = (uint8_t)rgb[c];
    }
}

static void fit_row(const axis *across, const uint8_t *row, uint32_t out_width, uint32_t channels, uint8_t *out)
{
    for (uint32_t w = 0; w < out_width; w++)
        for (uint32_t c = 0; c < channels; c++) {
            const int32_t *weights = across->weights + (size_t)w * across->most;
            int32_t sum = HALF;
            for (uint32_t k = 0; k < across->count[w]; k++)
                sum += weights[k] * row[((size_t)across->first[w] + k) * channels + c];
            out[(size_t)w * channels + c] = rounded(sum);
        }
}

static int fit_stretch(const uint32_t *argb, uint32_t width, const axis *across, const axis *down, uint32_t out_width,
                       uint32_t out_height, uint32_t channels, uint8_t *out)
{
    const size_t line = (size_t)out_width * channels;
    const uint32_t top = down->first[0], rows = down->first[out_height - 1] + down->count[out_height - 1] - top;
    uint8_t *row = malloc((size_t)width * channels), *narrow = malloc(rows * line);
    const int fine = row && narrow;
    for (uint32_t h = 0; fine && h < rows; h++) {
        read_row(argb + (size_t)(top + h) * width, width, channels, row);
        fit_row(across, row, out_width, channels, narrow + h * line);
    }
    for (uint32_t h = 0; fine && h < out_height; h++)
        for (size_t i = 0; i < line; i++) {
            const int32_t *weights = down->weights + (size_t)h * down->most;
            int32_t sum = HALF;
            for (uint32_t k = 0; k < down->count[h]; k++)
                sum += weights[k] * narrow[(down->first[h] - top + k) * line + i];
            out[h * line + i] = rounded(sum);
        }
    free(row);
    free(narrow);
    return fine;
}

int fit_image(const uint32_t *argb, uint32_t width, uint32_t height, uint32_t out_width, uint32_t out_height,
              uint32_t channels, uint8_t *out)
{
    if (width == out_width && height == out_height) {
        for (uint32_t h = 0; h < height; h++)
            read_row(argb + (size_t)h * width, width, channels, out + (size_t)h * width * channels);
        return 1;
    }
    const double shape = (double)width / height, wanted = (double)out_width / out_height;
    const double wide = shape > wanted ? wanted * height : width, high = shape < wanted ? width / wanted : height;
    const double left = (width - wide) * 0.5, top = (height - high) * 0.5;
    axis across = {0}, down = {0};
    const int fine = axis_make(&across, width, (float)left, (float)(left + wide), out_width) &&
                     axis_make(&down, height, (float)top, (float)(top + high), out_height) &&
                     fit_stretch(argb, width, &across, &down, out_width, out_height, channels, out);
    axis_free(&across);
    axis_free(&down);
    return fine;
}
