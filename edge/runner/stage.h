/* Puts an image where a plan wants its input. */
#ifndef EMBER_STAGE_H
#define EMBER_STAGE_H

#include "plan.h"

/* The bytes of an image of this kind; 0 where the network takes no such image. */
size_t stage_bytes(const manifest *about, const pixel_factors *factors, ember_input kind);

/* Writes the values of an image of that many bytes into the input's stretch. */
void stage_image(const plan *ready, const manifest *about, const pixel_factors *factors, ember_input kind,
                 const void *image, float *stretch);

#endif
