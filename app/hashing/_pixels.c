/* The loops of hashing in C: what they compute is told in pdq.py and perceptual.py. fallback.py gives the same
 * results without a compiler.
 *
 * Pixels are untrusted, but each of their values is as good as any other: none is ever an index or a length.
 * What says where to look comes from this package alone; it is compared with the buffers all the same, before
 * anything is read, and what does not fit is a ValueError. Sizes are multiplied as size_t: of no buffer that
 * exists can the product of its sides overflow it.
 *
 * The loops are plain, so that the compiler turns them into vector instructions, twice: for any processor, and
 * for those that have AVX2, which is asked for when the module is loaded.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__)
#define IN_TWO_WAYS 1
#define WITH_AVX2 __attribute__((target("avx2,fma")))
#else
#define IN_TWO_WAYS 0
#endif

static int has_avx2;

enum {
    SUMS = 64, /* a side of PDQ's downsample */
    COLUMNS = 32,       /* a side of what pHash transforms */
    LOBES = 3,          /* of Lanczos' kernel, on each side */
    PRECISION = 22,     /* bits of a coefficient behind the point: Pillow's PRECISION_BITS */
    TAPS = 16,          /* coefficients that are taken at once */
    MAX_LENGTH = 65535, /* of a row that is shrunk */
};

/* Pixels of a Pillow image, looked at in place. */

/* The Arrow C data interface (arrow.apache.org/docs/format/CDataInterface.html), which Pillow offers. */
typedef struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
} ArrowArray;

typedef struct {
    PyObject_HEAD
    PyObject *capsule; /* keeps the pixels; its end releases them */
    const void *bytes;
    Py_ssize_t size;
} Pixels;

static PyObject *pixels_new(PyTypeObject *type, PyObject *arguments, PyObject *Py_UNUSED(named)) {
    PyObject *capsule;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "On", &capsule, &size))
        return NULL;
    const ArrowArray *array = PyCapsule_GetPointer(capsule, "arrow_array");
    if (array == NULL)
        return NULL;
    if (array->release != NULL && array->n_children == 1 && array->offset == 0)
        array = array->children[0];
    if (array->release == NULL || array->n_children != 0 || array->offset != 0 || array->null_count != 0 ||
        array->n_buffers != 2 || array->buffers[1] == NULL || size < 0 || array->length != size) {
        PyErr_SetString(PyExc_ValueError, "the array does not hold so many bytes in one piece");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Pixels *pixels = (Pixels *)allocate(type, 0);
    if (pixels != NULL) {
        pixels->capsule = Py_NewRef(capsule);
        pixels->bytes = array->buffers[1];
        pixels->size = size;
    }
    return (PyObject *)pixels;
}

static int pixels_buffer(PyObject *self, Py_buffer *view, int flags) {
    Pixels *pixels = (Pixels *)self;
    return PyBuffer_FillInfo(view, self, (void *)(uintptr_t)pixels->bytes, pixels->size, 1, flags);
}

static void pixels_end(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(((Pixels *)self)->capsule);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(pixels_doc, "Pixels(capsule, size): the bytes of an Arrow array, read-only, in place.");

static PyType_Slot pixels_slots[] = {
    {Py_tp_doc, (void *)pixels_doc},
    {Py_tp_new, pixels_new},
    {Py_tp_dealloc, pixels_end},
    {Py_bf_getbuffer, pixels_buffer},
    {0, NULL},
};

static PyType_Spec pixels_spec = {
    .name = "app.hashing._pixels.Pixels",
    .basicsize = sizeof(Pixels),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = pixels_slots,
};

/* PDQ's downsample. */

/* The weights of each sum, and which rows or columns of the picture they are for. */
typedef struct {
    Py_buffer weights, starts, ends;
    size_t most; /* weights a sum, the last ones unused where it has fewer */
} Reducer;

static void release_reducer(Reducer *reducer) {
    PyBuffer_Release(&reducer->weights);
    PyBuffer_Release(&reducer->starts);
    PyBuffer_Release(&reducer->ends);
}

/* Whether the reducer's parts fit together: then, 0 <= starts[i] <= ends[i] <= starts[i] + most. */
static int reducer_fits(Reducer *reducer) {
    const size_t row = SUMS * sizeof(float);
    const int64_t *starts = reducer->starts.buf, *ends = reducer->ends.buf;
    reducer->most = (size_t)reducer->weights.len / row;
    if ((size_t)reducer->weights.len % row != 0 || reducer->starts.len != SUMS * sizeof(int64_t) ||
        reducer->ends.len != SUMS * sizeof(int64_t))
        return 0;
    for (size_t sum = 0; sum < SUMS; sum++)
        if (starts[sum] < 0 || ends[sum] < starts[sum] ||
            (uint64_t)(ends[sum] - starts[sum]) > reducer->most)
            return 0;
    return 1;
}

/* Four rows at a time, as each read and write of the sums takes as long as a read of a row. */
INLINE void add_four(float *restrict sums, const uint8_t *rows, size_t samples, const float *weights) {
    const uint8_t *second = rows + samples, *third = second + samples, *fourth = third + samples;
    float of_first = weights[0], of_second = weights[1], of_third = weights[2], of_fourth = weights[3];
    for (size_t place = 0; place < samples; place++)
        sums[place] += (of_first * (float)rows[place] + of_second * (float)second[place]) +
                       (of_third * (float)third[place] + of_fourth * (float)fourth[place]);
}

INLINE void add_one(float *restrict sums, const uint8_t *row, size_t samples, float weight) {
    for (size_t place = 0; place < samples; place++)
        sums[place] += weight * (float)row[place];
}

INLINE void add_all(float *sums, const uint8_t *rows, size_t samples, size_t top, size_t count,
                    const Reducer *reducer) {
    const int64_t *starts = reducer->starts.buf, *ends = reducer->ends.buf;
    const float *weights = reducer->weights.buf;
    for (size_t sum = 0; sum < SUMS; sum++, sums += samples, weights += reducer->most) {
        size_t start = (size_t)starts[sum], end = (size_t)ends[sum];
        size_t row = start > top ? start : top, last = end < top + count ? end : top + count;
        for (; row + 4 <= last; row += 4)
            add_four(sums, rows + (row - top) * samples, samples, weights + (row - start));
        for (; row < last; row++)
            add_one(sums, rows + (row - top) * samples, samples, weights[row - start]);
    }
}

static void add_all_portable(float *sums, const uint8_t *rows, size_t samples, size_t top, size_t count,
                             const Reducer *reducer) {
    add_all(sums, rows, samples, top, count, reducer);
}

#if IN_TWO_WAYS
WITH_AVX2 static void add_all_avx2(float *sums, const uint8_t *rows, size_t samples, size_t top, size_t count,
                                   const Reducer *reducer) {
    add_all(sums, rows, samples, top, count, reducer);
}
#else
#define add_all_avx2 add_all_portable
#endif

PyDoc_STRVAR(add_rows_doc, "add_rows(sums, rows, top, weights, starts, ends) -> None");

static PyObject *add_rows(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer sums = {0}, rows = {0};
    Reducer reducer = {0};
    Py_ssize_t top;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "w*y*ny*y*y*", &sums, &rows, &top, &reducer.weights, &reducer.starts,
                          &reducer.ends))
        return NULL;
    size_t samples = (size_t)sums.len / (SUMS * sizeof(float));
    size_t count = samples == 0 ? 0 : (size_t)rows.len / samples;
    if (samples == 0 || (size_t)sums.len % (SUMS * sizeof(float)) != 0 || (size_t)rows.len % samples != 0 ||
        !reducer_fits(&reducer) || top < 0) {
        PyErr_SetString(PyExc_ValueError, "the rows do not fit the sums or the weights");
        goto done;
    }
    (has_avx2 ? add_all_avx2 : add_all_portable)(sums.buf, rows.buf, samples, (size_t)top, count, &reducer);
    result = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&sums);
    PyBuffer_Release(&rows);
    release_reducer(&reducer);
    return result;
}

/* One row of sums, its channels weighed into one. */
INLINE void weigh(float *restrict row, const float *sums, size_t width, const float *channels, size_t count) {
    for (size_t column = 0; column < width; column++) {
        float total = 0;
        for (size_t channel = 0; channel < count; channel++)
            total += channels[channel] * sums[column * count + channel];
        row[column] = total;
    }
}

/* Several sums at once, since each addition waits for the one before it. */
INLINE double weighted(const float *weights, const float *row, size_t count) {
    double parts[4] = {0};
    size_t place = 0;
    for (; place + 4 <= count; place += 4)
        for (size_t part = 0; part < 4; part++)
            parts[part] += (double)weights[place + part] * (double)row[place + part];
    for (; place < count; place++)
        parts[0] += (double)weights[place] * (double)row[place];
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

/* row has room for width, and no sum ends beyond it: see gather. */
INLINE void gather_all(float *row, const float *sums, size_t width, const float *channels, size_t count,
                       const Reducer *reducer, double *reduced) {
    const int64_t *starts = reducer->starts.buf, *ends = reducer->ends.buf;
    for (size_t line = 0; line < SUMS; line++, sums += width * count) {
        if (count == 1) /* a count that is known makes faster loops */
            weigh(row, sums, width, channels, 1);
        else if (count == 3)
            weigh(row, sums, width, channels, 3);
        else
            weigh(row, sums, width, channels, 4);
        const float *weights = reducer->weights.buf;
        for (size_t sum = 0; sum < SUMS; sum++, weights += reducer->most)
            *reduced++ = weighted(weights, row + starts[sum], (size_t)(ends[sum] - starts[sum]));
    }
}

static void gather_all_portable(float *row, const float *sums, size_t width, const float *channels, size_t count,
                                const Reducer *reducer, double *reduced) {
    gather_all(row, sums, width, channels, count, reducer, reduced);
}

#if IN_TWO_WAYS
WITH_AVX2 static void gather_all_avx2(float *row, const float *sums, size_t width, const float *channels,
                                      size_t count, const Reducer *reducer, double *reduced) {
    gather_all(row, sums, width, channels, count, reducer, reduced);
}
#else
#define gather_all_avx2 gather_all_portable
#endif

PyDoc_STRVAR(gather_doc, "gather(sums, channels, weights, starts, ends, reduced) -> None");

/* What add_rows is to the rows, to the columns, after their channels were weighed into one. */
static PyObject *gather(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer sums = {0}, channels = {0}, reduced = {0};
    Reducer reducer = {0};
    float *row = NULL;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*y*w*", &sums, &channels, &reducer.weights, &reducer.starts,
                          &reducer.ends, &reduced))
        return NULL;
    size_t count = (size_t)channels.len / sizeof(float);
    if ((count != 1 && count != 3 && count != 4) || (size_t)channels.len % sizeof(float) != 0 ||
        (size_t)sums.len % (SUMS * sizeof(float) * count) != 0 || !reducer_fits(&reducer) ||
        (size_t)reduced.len != SUMS * SUMS * sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "the sums do not fit the channels");
        goto done;
    }
    const int64_t *ends = reducer.ends.buf;
    size_t width = (size_t)sums.len / (SUMS * sizeof(float) * count);
    for (size_t sum = 0; sum < SUMS; sum++)
        if ((uint64_t)ends[sum] > width) {
            PyErr_SetString(PyExc_ValueError, "the weights reach beyond the sums");
            goto done;
        }
    row = malloc((width + 1) * sizeof(float));
    if (row == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    (has_avx2 ? gather_all_avx2 : gather_all_portable)(row, sums.buf, width, channels.buf, count, &reducer,
                                                       reduced.buf);
    result = Py_NewRef(Py_None);
done:
    free(row);
    PyBuffer_Release(&sums);
    PyBuffer_Release(&channels);
    PyBuffer_Release(&reduced);
    release_reducer(&reducer);
    return result;
}

static PyMethodDef methods[] = {
    {"add_rows", add_rows, METH_VARARGS, add_rows_doc},
    {"gather", gather, METH_VARARGS, gather_doc},
    {0},
};

static int start_module(PyObject *module) {
#if IN_TWO_WAYS
    __builtin_cpu_init();
    has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    PyObject *type = PyType_FromModuleAndSpec(module, &pixels_spec, NULL);
    if (type == NULL)
        return -1;
    int added = PyModule_AddObjectRef(module, "Pixels", type);
    Py_DECREF(type);
    return added;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, start_module}, {0}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "app.hashing._pixels",
    .m_doc = "The loops of hashing in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__pixels(void) { return PyModuleDef_Init(&definition); }
