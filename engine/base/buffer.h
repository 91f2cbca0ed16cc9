/* A growing run of bytes, for text and for files being written.
 *
 *     pl_buffer b = {0};
 *     if (!pl_buffer_append(&b, bytes, n)) goto out_of_memory;
 *     pl_buffer_clear(&b);
 */
#ifndef PL_BASE_BUFFER_H
#define PL_BASE_BUFFER_H

#include "../perilune.h"

typedef struct pl_buffer {
    uint8_t *data; /* [size], then spare room up to capacity */
    size_t size, capacity;
} pl_buffer;

/* Room for n more bytes at the end; false when memory is short. */
bool pl_buffer_reserve(pl_buffer *buffer, size_t n);
bool pl_buffer_append(pl_buffer *buffer, const void *bytes, size_t n);
void pl_buffer_clear(pl_buffer *buffer);

#endif
