#include "buffer.h"

#include <stdlib.h>
#include <string.h>

#include "size.h"

bool pl_buffer_reserve(pl_buffer *buffer, size_t n) {
    size_t needed;
    if (!pl_size_add(&needed, buffer->size, n)) return false;
    if (needed <= buffer->capacity) return true;
    size_t capacity = buffer->capacity < 64 ? 64 : buffer->capacity;
    while (capacity < needed) {
        if (!pl_size_mul(&capacity, capacity, 2)) return false;
    }
    uint8_t *data = realloc(buffer->data, capacity);
    if (!data) return false;
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

bool pl_buffer_append(pl_buffer *buffer, const void *bytes, size_t n) {
    if (!pl_buffer_reserve(buffer, n)) return false;
    if (n) memcpy(buffer->data + buffer->size, bytes, n);
    buffer->size += n;
    return true;
}

void pl_buffer_clear(pl_buffer *buffer) {
    free(buffer->data);
    *buffer = (pl_buffer){0};
}
