#include "random.h"

#include <math.h>

void pl_random_words(uint32_t out[4], uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

uint32_t pl_random_u32(pl_random *random) {
    uint32_t words[4];
    pl_random_words(words, random->seed, random->stream, random->counter++);
    return words[0];
}

float pl_random_uniform(pl_random *random) {
    return (float)(pl_random_u32(random) >> 8) * 0x1p-24f;
}

double pl_random_uniform_f64(pl_random *random) {
    uint32_t words[4];
    pl_random_words(words, random->seed, random->stream, random->counter++);
    uint64_t bits = (uint64_t)words[0] << 32 | words[1];
    return (double)(bits >> 11) * 0x1p-53;
}

float pl_random_normal(pl_random *random) {
    uint32_t words[4];
    pl_random_words(words, random->seed, random->stream, random->counter++);
    double radius = sqrt(-2.0 * log(((double)words[0] + 1.0) * 0x1p-32));
    return (float)(radius * cos(6.283185307179586 * (double)words[1] * 0x1p-32));
}
