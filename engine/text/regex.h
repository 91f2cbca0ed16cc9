/* Pre-tokenizer expressions, in the dialect of Hugging Face's files (Oniguruma), by PCRE2 with
 * its just-in-time compiler. Text may hold invalid UTF-8: it never matches, and no match crosses
 * it. */
#ifndef PL_TEXT_REGEX_H
#define PL_TEXT_REGEX_H

#include "../perilune.h"

typedef struct pl_regex pl_regex;

/* literal: the pattern is a plain string. Errors: PL_ERR_FORMAT with the pattern, the place in it
 * and PCRE2's reason. */
pl_status pl_regex_new(pl_regex **out, const char *pattern, size_t len, bool literal,
                       pl_error *err);
void pl_regex_free(pl_regex *regex);

/* What one thread needs to run expressions: the machine stack of compiled ones. */
typedef struct pl_regex_stack pl_regex_stack;
pl_regex_stack *pl_regex_stack_new(void);
void pl_regex_stack_free(pl_regex_stack *stack);

/* A walk over the matches of one text. The text may move between calls, but not change. */
typedef struct pl_regex_scan {
    const pl_regex *regex;
    pl_regex_stack *stack;
    void *match;               /* pcre2_match_data */
    size_t size;               /* of the text */
    size_t at;                 /* where the next search begins */
    size_t run_begin, run_end; /* the valid UTF-8 around it */
} pl_regex_scan;

pl_status pl_regex_scan_init(pl_regex_scan *scan, const pl_regex *regex, pl_regex_stack *stack,
                             size_t size, pl_error *err);

/* The next match that is not empty, as [*begin, *end); *begin == size when there is none. */
pl_status pl_regex_scan_next(pl_regex_scan *scan, const char *text, size_t *begin, size_t *end,
                             pl_error *err);
void pl_regex_scan_clear(pl_regex_scan *scan);

#endif
