/* A photo of any size as the pixels that a network reads. */
#ifndef EMBER_FIT_H
#define EMBER_FIT_H

#include <stdint.h>

#define FIT_MAX_PIXELS 64000000u

/* Scales the image until it covers `out_width` x `out_height`, cuts it around its centre, and writes rows of 1
 * (grey) or 3 (colour) bytes a pixel. What is transparent becomes white.
 *
 * `argb` holds `width` x `height` pixels as Android's Bitmap.getPixels gives them: alpha in the highest byte, not
 * premultiplied. The bytes are those that `emberfleet run` makes of the same pixels (Pillow's ImageOps.fit with its
 * bilinear filter): a triangle as wide as one pixel of the result, weights of 22 bits, rows first. Pillow 13 takes
 * columns first where that is less work, which moves some bytes by 1.
 * 0 where there is no memory. */
int fit_image(const uint32_t *argb, uint32_t width, uint32_t height, uint32_t out_width, uint32_t out_height,
              uint32_t channels, uint8_t *out);

#endif
