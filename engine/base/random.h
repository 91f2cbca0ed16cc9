/* Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as
 * easy as 1, 2, 3"). A number depends on its key and its place only, never on what was drawn
 * before, so the same seed gives the same text in any batch, fork, thread count or order. */
#ifndef PL_BASE_RANDOM_H
#define PL_BASE_RANDOM_H

#include "../perilune.h"

typedef struct pl_random {
    uint64_t seed;
    uint64_t stream;  /* which sequence of numbers under this seed */
    uint64_t counter; /* place of the next number */
} pl_random;

/* The four 32-bit words at one counter of one stream. */
void pl_random_words(uint32_t out[4], uint64_t seed, uint64_t stream, uint64_t counter);

/* The next number; each advances the counter by one. */
uint32_t pl_random_u32(pl_random *random);
float pl_random_uniform(pl_random *random);      /* in [0, 1), a multiple of 2^-24 */
double pl_random_uniform_f64(pl_random *random); /* in [0, 1), a multiple of 2^-53 */
float pl_random_normal(pl_random *random);       /* mean 0, variance 1, by Box and Muller */

#endif
