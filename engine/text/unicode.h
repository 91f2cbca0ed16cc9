/* The little of Unicode that normalisers need: canonical forms and lower case. The data is
 * Unicode 14's; code points that it does not know stay as they are. */
#ifndef PL_TEXT_UNICODE_H
#define PL_TEXT_UNICODE_H

#include "../perilune.h"
#include "../base/buffer.h"

/* Append the text in normal form D, normal form C, or in lower case (character by character).
 * Bytes that are no UTF-8 stay. False when memory is short. */
bool pl_unicode_nfd(const char *text, size_t size, pl_buffer *out);
bool pl_unicode_nfc(const char *text, size_t size, pl_buffer *out);
bool pl_unicode_lowercase(const char *text, size_t size, pl_buffer *out);

/* ---- Data ---- */

typedef struct pl_unicode_pair { /* composed = first + second; second 0: a mere synonym */
    uint32_t composed, first, second;
    bool excluded; /* not composed again */
} pl_unicode_pair;

typedef struct pl_unicode_class { /* canonical combining class of [begin, end] */
    uint32_t begin, end;
    uint8_t value;
} pl_unicode_class;

typedef struct pl_unicode_case { /* begin, begin + step, ... end become lower by adding delta */
    uint32_t begin, end;
    uint8_t step;
    int32_t delta;
} pl_unicode_case;

/* Each sorted by its first field. */
extern const pl_unicode_pair pl_unicode_pairs[];
extern const size_t pl_unicode_n_pairs;
extern const pl_unicode_class pl_unicode_classes[];
extern const size_t pl_unicode_n_classes;
extern const pl_unicode_case pl_unicode_cases[];
extern const size_t pl_unicode_n_cases;

/* Indices into the pairs that compose again, sorted by (first, second). */
extern const uint16_t pl_unicode_compositions[];
extern const size_t pl_unicode_n_compositions;

#endif
