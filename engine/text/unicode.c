#include "unicode.h"

#include <stdlib.h>

#include "utf8.h"

/* Hangul syllables are computed. */
enum {
    S_BASE = 0xAC00,
    L_BASE = 0x1100,
    V_BASE = 0x1161,
    T_BASE = 0x11A7,
    N_L = 19,
    N_V = 21,
    N_T = 28,
    N_S = N_L * N_V * N_T
};

/* A byte that is no UTF-8 travels as a code point beyond Unicode. */
enum { RAW_BYTE = 0x110000 };

typedef struct points {
    uint32_t *cp;
    uint8_t *class;
    size_t n, capacity;
} points;

static int compare_pair(const void *key, const void *item) {
    uint32_t a = *(const uint32_t *)key, b = ((const pl_unicode_pair *)item)->composed;
    return a < b ? -1 : a > b;
}

static int compare_class(const void *key, const void *item) {
    uint32_t a = *(const uint32_t *)key;
    const pl_unicode_class *c = item;
    return a < c->begin ? -1 : a > c->end;
}

static int compare_case(const void *key, const void *item) {
    uint32_t a = *(const uint32_t *)key;
    const pl_unicode_case *c = item;
    return a < c->begin ? -1 : a > c->end;
}

static uint8_t combining_class(uint32_t cp) {
    if (cp < 0x300) return 0;
    const pl_unicode_class *c = bsearch(&cp, pl_unicode_classes, pl_unicode_n_classes,
                                        sizeof *pl_unicode_classes, compare_class);
    return c ? c->value : 0;
}

static bool push(points *p, uint32_t cp) {
    if (p->n == p->capacity) {
        size_t capacity = p->capacity ? 2 * p->capacity : 64;
        uint32_t *cps = realloc(p->cp, capacity * sizeof *cps);
        if (cps) p->cp = cps;
        uint8_t *classes = realloc(p->class, capacity);
        if (classes) p->class = classes;
        if (!cps || !classes) return false;
        p->capacity = capacity;
    }
    p->cp[p->n] = cp;
    p->class[p->n++] = combining_class(cp);
    return true;
}

static bool push_decomposed(points *p, uint32_t cp) {
    if (cp < 0xC0) return push(p, cp);
    if (cp >= S_BASE && cp < S_BASE + N_S) {
        uint32_t s = cp - S_BASE, t = s % N_T;
        return push(p, L_BASE + s / (N_V * N_T)) && push(p, V_BASE + s % (N_V * N_T) / N_T) &&
               (t == 0 || push(p, T_BASE + t));
    }
    const pl_unicode_pair *pair =
        bsearch(&cp, pl_unicode_pairs, pl_unicode_n_pairs, sizeof *pl_unicode_pairs, compare_pair);
    if (!pair) return push(p, cp);
    return push_decomposed(p, pair->first) && (!pair->second || push(p, pair->second));
}

/* Each run of marks in the order of their classes, equal classes as they came. */
static void order_marks(points *p) {
    for (size_t i = 0; i < p->n;) {
        if (p->class[i] == 0) {
            i++;
            continue;
        }
        size_t end = i;
        while (end < p->n && p->class[end] != 0) end++;
        /* A count of each class, then of places: linear, however long the run. */
        size_t n = end - i, places[256] = {0};
        uint32_t few[32], *cps = n <= 32 ? few : malloc(n * sizeof *cps);
        uint8_t few_classes[32], *classes = n <= 32 ? few_classes : malloc(n);
        if (cps && classes && n > 1) {
            for (size_t k = 0; k < n; k++) places[p->class[i + k]]++;
            for (size_t k = 0, sum = 0; k < 256; k++) {
                size_t count = places[k];
                places[k] = sum;
                sum += count;
            }
            for (size_t k = 0; k < n; k++) {
                size_t to = places[p->class[i + k]]++;
                cps[to] = p->cp[i + k];
                classes[to] = p->class[i + k];
            }
            for (size_t k = 0; k < n; k++) {
                p->cp[i + k] = cps[k];
                p->class[i + k] = classes[k];
            }
        }
        if (cps != few) free(cps);
        if (classes != few_classes) free(classes);
        i = end;
    }
}

static uint32_t compose(uint32_t a, uint32_t b) {
    if (a >= L_BASE && a < L_BASE + N_L && b >= V_BASE && b < V_BASE + N_V)
        return S_BASE + ((a - L_BASE) * N_V + (b - V_BASE)) * N_T;
    if (a >= S_BASE && a < S_BASE + N_S && (a - S_BASE) % N_T == 0 && b > T_BASE &&
        b < T_BASE + N_T)
        return a + (b - T_BASE);
    size_t low = 0, high = pl_unicode_n_compositions;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const pl_unicode_pair *p = &pl_unicode_pairs[pl_unicode_compositions[middle]];
        if (p->first == a && p->second == b) return p->composed;
        if (p->first < a || (p->first == a && p->second < b))
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

static void compose_all(points *p) {
    size_t starter = SIZE_MAX, n = 0;
    uint8_t last = 0; /* class of what was kept last after the starter */
    for (size_t i = 0; i < p->n; i++) {
        uint32_t cp = p->cp[i];
        uint8_t class = p->class[i];
        bool adjacent = starter != SIZE_MAX && n == starter + 1;
        if (starter != SIZE_MAX && (adjacent || (last < class && last != 0))) {
            uint32_t made = compose(p->cp[starter], cp);
            if (made) {
                p->cp[starter] = made;
                continue;
            }
        }
        if (class == 0) starter = n;
        last = class;
        p->cp[n] = cp;
        p->class[n++] = class;
    }
    p->n = n;
}

static bool write_points(const points *p, pl_buffer *out) {
    for (size_t i = 0; i < p->n; i++) {
        char s[4];
        size_t n = 1;
        if (p->cp[i] >= RAW_BYTE)
            s[0] = (char)(p->cp[i] - RAW_BYTE);
        else
            n = pl_utf8_encode(p->cp[i], s);
        if (!pl_buffer_append(out, s, n)) return false;
    }
    return true;
}

static bool normal_form(const char *text, size_t size, bool composed, pl_buffer *out) {
    points p = {0};
    bool ok = true;
    for (size_t i = 0, n; i < size && ok; i += n) {
        uint32_t cp;
        n = pl_utf8_decode(text + i, size - i, &cp);
        if (n == 0) {
            n = 1;
            cp = RAW_BYTE + (uint8_t)text[i];
        }
        ok = push_decomposed(&p, cp);
    }
    if (ok) {
        order_marks(&p);
        if (composed) compose_all(&p);
        ok = write_points(&p, out);
    }
    free(p.cp);
    free(p.class);
    return ok;
}

static bool is_ascii(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if ((uint8_t)text[i] >= 0x80) return false;
    return true;
}

bool pl_unicode_nfd(const char *text, size_t size, pl_buffer *out) {
    if (is_ascii(text, size)) return pl_buffer_append(out, text, size);
    return normal_form(text, size, false, out);
}

bool pl_unicode_nfc(const char *text, size_t size, pl_buffer *out) {
    if (is_ascii(text, size)) return pl_buffer_append(out, text, size);
    return normal_form(text, size, true, out);
}

static uint32_t lower(uint32_t cp) {
    if (cp < 0x80) return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    const pl_unicode_case *c =
        bsearch(&cp, pl_unicode_cases, pl_unicode_n_cases, sizeof *pl_unicode_cases, compare_case);
    if (!c || (cp - c->begin) % c->step != 0) return cp;
    return (uint32_t)((int32_t)cp + c->delta);
}

bool pl_unicode_lowercase(const char *text, size_t size, pl_buffer *out) {
    for (size_t i = 0, n; i < size; i += n) {
        uint32_t cp;
        char s[8];
        n = pl_utf8_decode(text + i, size - i, &cp);
        size_t m = 1;
        s[0] = text[i];
        if (n > 0) m = pl_utf8_encode(cp == 0x130 ? 'i' : lower(cp), s);
        if (n > 0 && cp == 0x130) m += pl_utf8_encode(0x307, s + m); /* the one that becomes two */
        if (n == 0) n = 1;
        if (!pl_buffer_append(out, s, m)) return false;
    }
    return true;
}
