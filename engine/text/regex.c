/* The text is cut into runs of valid UTF-8 here, and each run is matched with PCRE2's own check
 * off: its check would walk the rest of the text again at every match. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "regex.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "../base/buffer.h"
#include "../base/error.h"
#include "utf8.h"

struct pl_regex {
    pcre2_code *code;
    bool compiled; /* by the just-in-time compiler */
};

struct pl_regex_stack {
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* White space as Unicode has it. PCRE2's \s has U+180E besides, which left that set in 2013. */
#define SPACES                                                                                     \
    "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{"   \
    "3000}"

/* Spells \s and \S out; everything else stays. */
static bool translate(pl_buffer *out, const char *p, size_t len) {
    bool in_class = false;
    bool ok = true;
    for (size_t i = 0; i < len && ok; i++) {
        if (p[i] == '\\' && i + 1 < len) {
            const char *text = NULL;
            if (p[i + 1] == 's') text = in_class ? SPACES : "[" SPACES "]";
            if (p[i + 1] == 'S' && !in_class) text = "[^" SPACES "]";
            ok = text ? pl_buffer_append(out, text, strlen(text)) : pl_buffer_append(out, p + i, 2);
            i++;
            continue;
        }
        if (p[i] == '[' && !in_class) {
            in_class = true;
            ok = pl_buffer_append(out, p + i, 1);
            if (i + 1 < len && p[i + 1] == '^') ok = ok && pl_buffer_append(out, p + ++i, 1);
            if (i + 1 < len && p[i + 1] == ']') ok = ok && pl_buffer_append(out, p + ++i, 1);
            continue;
        }
        if (p[i] == ']') in_class = false;
        ok = pl_buffer_append(out, p + i, 1);
    }
    return ok;
}

pl_status pl_regex_new(pl_regex **out, const char *pattern, size_t len, bool literal,
                       pl_error *err) {
    *out = NULL;
    pl_buffer text = {0};
    pl_status status = PL_ERR_MEMORY;
    pl_regex *regex = calloc(1, sizeof *regex);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!regex || !context) goto fail;
    if (len > 65536) {
        status = pl_fail(err, PL_ERR_FORMAT, "an expression of %zu bytes, at most 65536", len);
        goto fail;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, 100);
    if (!(literal ? pl_buffer_append(&text, pattern, len) : translate(&text, pattern, len)) ||
        !pl_buffer_append(&text, "", 1))
        goto fail;
    int code = 0;
    size_t place = 0;
    uint32_t options =
        PCRE2_UTF |
        (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    regex->code = pcre2_compile(text.data, text.size - 1, options, &code, &place, context);
    if (!regex->code) {
        unsigned char reason[128];
        pcre2_get_error_message(code, reason, sizeof reason);
        status = pl_fail(err, PL_ERR_FORMAT, "the expression \"%.*s\" does not compile: %s at %zu",
                         (int)(len > 200 ? 200 : len), pattern, (char *)reason, place);
        goto fail;
    }
    regex->compiled = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
    pcre2_compile_context_free(context);
    pl_buffer_clear(&text);
    *out = regex;
    return PL_OK;
fail:
    pcre2_compile_context_free(context);
    pl_buffer_clear(&text);
    pl_regex_free(regex);
    return status == PL_ERR_MEMORY ? pl_fail(err, status, "no memory for an expression") : status;
}

void pl_regex_free(pl_regex *regex) {
    if (!regex) return;
    pcre2_code_free(regex->code);
    free(regex);
}

pl_regex_stack *pl_regex_stack_new(void) {
    pl_regex_stack *stack = calloc(1, sizeof *stack);
    if (!stack) return NULL;
    stack->context = pcre2_match_context_create(NULL);
    stack->stack = pcre2_jit_stack_create(32 << 10, 8 << 20, NULL); /* grows on demand */
    if (!stack->context || !stack->stack) {
        pl_regex_stack_free(stack);
        return NULL;
    }
    pcre2_jit_stack_assign(stack->context, NULL, stack->stack);
    pcre2_set_heap_limit(stack->context, 64 << 10); /* KiB, for the interpreter */
    return stack;
}

void pl_regex_stack_free(pl_regex_stack *stack) {
    if (!stack) return;
    pcre2_match_context_free(stack->context);
    pcre2_jit_stack_free(stack->stack);
    free(stack);
}

pl_status pl_regex_scan_init(pl_regex_scan *scan, const pl_regex *regex, pl_regex_stack *stack,
                             size_t size, pl_error *err) {
    *scan = (pl_regex_scan){.regex = regex, .stack = stack, .size = size};
    scan->match = pcre2_match_data_create(1, NULL);
    return scan->match ? PL_OK : pl_fail(err, PL_ERR_MEMORY, "no memory for a match");
}

void pl_regex_scan_clear(pl_regex_scan *scan) {
    pcre2_match_data_free(scan->match);
    scan->match = NULL;
}

/* Moves to the next valid run; false at the end of the text. */
static bool next_run(pl_regex_scan *scan, const char *text) {
    size_t i = scan->run_end;
    while (i < scan->size) {
        size_t n = pl_utf8_valid(text + i, scan->size - i);
        if (n > 0) {
            scan->run_begin = scan->at = i;
            scan->run_end = i + n;
            return true;
        }
        i++;
    }
    return false;
}

static pl_status match_failed(int code, pl_error *err) {
    unsigned char reason[128];
    pcre2_get_error_message(code, reason, sizeof reason);
    return pl_fail(err, PL_ERR_FORMAT, "a pre-tokenizer expression failed on this text: %s",
                   (char *)reason);
}

pl_status pl_regex_scan_next(pl_regex_scan *scan, const char *text, size_t *begin, size_t *end,
                             pl_error *err) {
    for (;;) {
        if (scan->at >= scan->run_end && !next_run(scan, text)) break;
        PCRE2_SPTR subject = (PCRE2_SPTR)text + scan->run_begin;
        size_t size = scan->run_end - scan->run_begin, from = scan->at - scan->run_begin;
        uint32_t options = PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK;
        int code = scan->regex->compiled
                       ? pcre2_jit_match(scan->regex->code, subject, size, from, PCRE2_NOTEMPTY,
                                         scan->match, scan->stack->context)
                       : pcre2_match(scan->regex->code, subject, size, from, options, scan->match,
                                     scan->stack->context);
        if (code == PCRE2_ERROR_JIT_STACKLIMIT) /* deep nesting: the interpreter uses the heap */
            code = pcre2_match(scan->regex->code, subject, size, from, options | PCRE2_NO_JIT,
                               scan->match, scan->stack->context);
        if (code == PCRE2_ERROR_NOMATCH) {
            scan->at = scan->run_end;
            continue;
        }
        if (code < 0) return match_failed(code, err);
        const size_t *pair = pcre2_get_ovector_pointer(scan->match);
        /* \K may put the beginning anywhere; a match is only what lies ahead. */
        size_t b = scan->run_begin + pair[0], e = scan->run_begin + pair[1];
        if (b < scan->at || e <= b) {
            scan->at += 1;
            while (scan->at < scan->run_end && (text[scan->at] & 0xC0) == 0x80) scan->at++;
            continue;
        }
        scan->at = e;
        *begin = b;
        *end = e;
        return PL_OK;
    }
    *begin = *end = scan->size;
    return PL_OK;
}
