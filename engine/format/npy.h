/* NumPy's .npy files.
 *
 *     pl_tensor t;
 *     if (pl_npy_load(&t, "x.npy", err) != PL_OK) return ...;
 *     pl_tensor_release(&t);
 *
 * Read: versions 1 to 3; little-endian f4, f2, i4, i8 as they are; f8 becomes F32, u1, i1, u2, i2
 * and b1 become I32; C and Fortran order. Written: version 1, C order. */
#ifndef PL_FORMAT_NPY_H
#define PL_FORMAT_NPY_H

#include "../tensor/tensor.h"

/* A new tensor that the caller owns, row-major. source: the name for messages.
 * Errors: PL_ERR_IO, PL_ERR_FORMAT (with the field), PL_ERR_UNSUPPORTED (a dtype), PL_ERR_MEMORY.
 */
pl_status pl_npy_load(pl_tensor *t, const char *path, pl_error *err);
pl_status pl_npy_parse(pl_tensor *t, const void *bytes, size_t size, const char *source,
                       pl_error *err);

/* F32, F16, I32 and I64 as they are, with any strides; BF16 as F32. Complete or not at all.
 * Errors: PL_ERR_UNSUPPORTED (a quantised tensor), PL_ERR_IO. */
pl_status pl_npy_save(const pl_tensor *t, const char *path, pl_error *err);

#endif
