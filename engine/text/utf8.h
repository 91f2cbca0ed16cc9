/* UTF-8, one character at a time. Strict: no surrogates, nothing overlong, nothing above
 * U+10FFFF. */
#ifndef PL_TEXT_UTF8_H
#define PL_TEXT_UTF8_H

#include "../perilune.h"

/* Length of the valid character at s (size bytes left), 0 when there is none; *cp is its code. */
size_t pl_utf8_decode(const char *s, size_t size, uint32_t *cp);

/* Writes cp (valid) and returns its length, 1 to 4. */
size_t pl_utf8_encode(uint32_t cp, char out[4]);

/* Length of the longest valid beginning of s. */
size_t pl_utf8_valid(const char *s, size_t size);

/* Whether s (size 1 to 3) could be completed to a valid character by more bytes. */
bool pl_utf8_is_beginning(const char *s, size_t size);

/* GPT-2's alphabet: the character that stands for a byte, and back (-1: for none). */
uint32_t pl_byte_to_char(uint8_t byte);
int pl_char_to_byte(uint32_t cp);

#endif
