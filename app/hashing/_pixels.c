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
#define WITH_AVX2 __attribute__((target("avx2")))
#else
#define IN_TWO_WAYS 0
#endif

static int has_avx2;

enum {
    SUMS = 64, /* a side of PDQ's downsample */
    SIDE = 16, /* of the coefficients that make its bits */
    BITS = SIDE * SIDE,
    MIDDLE = BITS / 2,
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

/* The reference's box mean over vectors, in its very float32 operations and their order. */

INLINE void slide_all(float *means, const float *vectors, size_t count, size_t length, float *restrict total) {
    size_t window = (count + 2 * SUMS - 1) / (2 * SUMS), reach = (window + 2) / 2;
    for (size_t step = 0; step + 1 < count + reach; step++) {
        const float *newest = vectors + (step < count ? step : 0) * length;
        const float *oldest = vectors + (step >= window ? step - window : 0) * length;
        for (size_t place = 0; step < count && place < length; place++)
            total[place] += newest[place];
        for (size_t place = 0; step >= window && place < length; place++)
            total[place] -= oldest[place];
        if (step + 1 < reach)
            continue;
        size_t last = step + 1 < count ? step + 1 : count, first = step + 1 > window ? step + 1 - window : 0;
        float size = (float)(last - first), *mean = means + (step + 1 - reach) * length;
        for (size_t place = 0; place < length; place++)
            mean[place] = total[place] / size;
    }
}

static void slide_all_portable(float *means, const float *vectors, size_t count, size_t length, float *total) {
    slide_all(means, vectors, count, length, total);
}

#if IN_TWO_WAYS
WITH_AVX2 static void slide_all_avx2(float *means, const float *vectors, size_t count, size_t length, float *total) {
    slide_all(means, vectors, count, length, total);
}
#else
#define slide_all_avx2 slide_all_portable
#endif

PyDoc_STRVAR(box_means_doc, "box_means(vectors, count, means) -> None");

static PyObject *box_means(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer vectors = {0}, means = {0};
    Py_ssize_t asked;
    float *total = NULL;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*nw*", &vectors, &asked, &means))
        return NULL;
    size_t count = asked > 0 ? (size_t)asked : 0, length = count ? (size_t)vectors.len / count / sizeof(float) : 0;
    if (count == 0 || vectors.len != means.len || (size_t)vectors.len % (count * sizeof(float)) != 0) {
        PyErr_SetString(PyExc_ValueError, "the vectors do not fit their means");
        goto done;
    }
    total = calloc(length + 1, sizeof(float));
    if (total == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    (has_avx2 ? slide_all_avx2 : slide_all_portable)(means.buf, vectors.buf, count, length, total);
    result = Py_NewRef(Py_None);
done:
    free(total);
    PyBuffer_Release(&vectors);
    PyBuffer_Release(&means);
    return result;
}

/* PDQ's quality and bits. */

PyDoc_STRVAR(step_sums_doc, "step_sums(reduced, noise) -> (least, exact, most)");

static PyObject *step_sums(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer reduced = {0};
    double noise;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*d", &reduced, &noise))
        return NULL;
    if ((size_t)reduced.len == SUMS * SUMS * sizeof(double) && noise >= 0 && noise <= 1) {
        const double *values = reduced.buf;
        int64_t least = 0, exact = 0, most = 0;
        for (size_t place = 0; place < SUMS * SUMS; place++)
            for (size_t next = 1; next <= SUMS; next *= SUMS) { /* to the right, and below */
                if (next == 1 ? place % SUMS == SUMS - 1 : place + SUMS >= SUMS * SUMS)
                    continue;
                double step = fabs(values[place + next] - values[place]) * (100.0 / 255.0);
                if (!(step >= 0 && step <= 255)) /* of levels from 0 to 255, none is above 100 */
                    continue;
                least += step > noise ? (int32_t)(step - noise) : 0;
                exact += (int32_t)step;
                most += (int32_t)(step + noise);
            }
        result = Py_BuildValue("(LLL)", (long long)least, (long long)exact, (long long)most);
    } else
        PyErr_SetString(PyExc_ValueError, "that is no downsample");
    PyBuffer_Release(&reduced);
    return result;
}

/* The two medians of an even count, by Hoare's selection, which reorders the values. No number may be none: but
 * were one, it would stop each search for a place, and none would leave the values. */
static void medians(double *values, double *lower, double *upper) {
    size_t left = 0, right = BITS - 1;
    while (left < right) {
        double pivot = values[left + (right - left) / 2];
        size_t from = left, to = right;
        for (;; from++, to--) {
            while (values[from] < pivot)
                from++;
            while (values[to] > pivot)
                to--;
            if (from >= to)
                break;
            double kept = values[from];
            values[from] = values[to];
            values[to] = kept;
        }
        /* Up to to none is above the pivot, and behind it none is below; to < right, as the pivot is not last. */
        if (to >= MIDDLE - 1)
            right = to;
        else
            left = to + 1;
    }
    *lower = values[MIDDLE - 1];
    *upper = values[MIDDLE];
    for (size_t place = MIDDLE + 1; place < BITS; place++)
        *upper = values[place] < *upper ? values[place] : *upper;
}

/* The eight symmetries: whether the coefficients are transposed, and which change sign, those of odd frequency
 * from left to right or from top to bottom, as they lie before they are transposed. */
static const struct {
    uint8_t transposed, across, down;
} SYMMETRIES[] = {{0, 0, 0}, {1, 1, 0}, {0, 1, 1}, {1, 0, 1}, {0, 0, 1}, {0, 1, 0}, {1, 0, 0}, {1, 1, 1}};

PyDoc_STRVAR(forms_of_doc, "forms_of(coefficients, doubt) -> (hashes, near)");

static PyObject *forms_of(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer coefficients = {0};
    double doubt;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*d", &coefficients, &doubt))
        return NULL;
    if ((size_t)coefficients.len != BITS * sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "those are no coefficients");
        goto done;
    }
    const double *given = coefficients.buf;
    double signs[2][2][BITS], lower[2][2], upper[2][2];
    for (size_t across = 0; across < 2; across++)
        for (size_t down = 0; down < 2; down++) {
            double *values = signs[across][down], ranked[BITS];
            for (size_t place = 0; place < BITS; place++) {
                size_t turns = (across && place % SIDE % 2 == 0) + (down && place / SIDE % 2 == 0);
                values[place] = turns == 1 ? -given[place] : given[place];
            }
            memcpy(ranked, values, sizeof(ranked));
            medians(ranked, &lower[across][down], &upper[across][down]);
        }
    enum { FORMS = sizeof(SYMMETRIES) / sizeof(SYMMETRIES[0]) };
    uint8_t hashes[2 * FORMS][BITS / 8] = {{0}}, near[FORMS][BITS / 8] = {{0}};
    for (size_t form = 0; form < FORMS; form++) {
        size_t across = SYMMETRIES[form].across, down = SYMMETRIES[form].down;
        const double *values = signs[across][down];
        double least = lower[across][down] - doubt, most = upper[across][down] + doubt;
        for (size_t bit = 0; bit < BITS; bit++) { /* the last coefficient is the first bit */
            size_t place = SYMMETRIES[form].transposed ? bit % SIDE * SIDE + bit / SIDE : bit;
            uint8_t mask = (uint8_t)(1 << bit % 8);
            if (values[place] > lower[across][down])
                hashes[form][(BITS - 1 - bit) / 8] |= mask;
            if (values[place] < upper[across][down])
                hashes[FORMS + form][(BITS - 1 - bit) / 8] |= mask;
            /* Between the medians there is nothing. */
            if (values[place] >= least && values[place] <= most)
                near[form][(BITS - 1 - bit) / 8] |= mask;
        }
    }
    result = Py_BuildValue("(y#y#)", (const char *)hashes, (Py_ssize_t)sizeof(hashes), (const char *)near,
                           (Py_ssize_t)sizeof(near));
done:
    PyBuffer_Release(&coefficients);
    return result;
}

/* pHash's reduction: Pillow's grey, and its Lanczos filter, in the very integers that Pillow computes in. */

INLINE void grey_all(uint8_t *restrict grey, const uint8_t *restrict pixels, size_t count, size_t channels) {
    for (size_t place = 0; place < count; place++) {
        uint32_t red, green, blue;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        if (channels == 4) { /* in one load, which makes faster loops */
            uint32_t pixel;
            memcpy(&pixel, pixels + 4 * place, sizeof(pixel));
            red = pixel & 255, green = pixel >> 8 & 255, blue = pixel >> 16 & 255;
        } else
#endif
        {
            const uint8_t *pixel = pixels + channels * place;
            red = pixel[0], green = pixel[1], blue = pixel[2];
        }
        grey[place] = (uint8_t)((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16);
    }
}

static void grey_all_portable(uint8_t *grey, const uint8_t *pixels, size_t count) {
    grey_all(grey, pixels, count, 4);
}

#if IN_TWO_WAYS
WITH_AVX2 static void grey_all_avx2(uint8_t *grey, const uint8_t *pixels, size_t count) {
    grey_all(grey, pixels, count, 4);
}
#else
#define grey_all_avx2 grey_all_portable
#endif

PyDoc_STRVAR(grey_of_doc, "grey_of(pixels, grey) -> None");

static PyObject *grey_of(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer pixels = {0}, grey = {0};
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*w*", &pixels, &grey))
        return NULL;
    size_t count = (size_t)grey.len;
    if (count == (size_t)pixels.len / 4 && pixels.len % 4 == 0)
        (has_avx2 ? grey_all_avx2 : grey_all_portable)(grey.buf, pixels.buf, count);
    else if (count == (size_t)pixels.len / 3 && pixels.len % 3 == 0)
        grey_all(grey.buf, pixels.buf, count, 3);
    else {
        PyErr_SetString(PyExc_ValueError, "the pixels do not fit their grey");
        goto done;
    }
    result = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&pixels);
    PyBuffer_Release(&grey);
    return result;
}

/* How a row of a length is shrunk to 32 pixels. The coefficients follow: for each of the 32, those that its
 * pixels from starts[i] on are multiplied by, as many as fill whole blocks, the last ones zeros.
 *
 * They are 22 bits and their sign. Where 16 hold them, as in long rows, there is one part of them. Else there
 * are two: lower bits, and after those of all 32, upper ones: c = upper * 2^shift + lower. */
typedef struct {
    uint32_t length, blocks, shift;
    int32_t starts[COLUMNS];
} Filter;

static size_t filter_size(size_t blocks, unsigned shift) {
    return sizeof(Filter) + (shift > 0 ? 2 : 1) * COLUMNS * blocks * TAPS * sizeof(int16_t);
}

static double sinc(double place) {
    if (place == 0.0)
        return 1.0;
    place = place * M_PI;
    return sin(place) / place;
}

static double lanczos(double place) {
    return -LOBES <= place && place < LOBES ? sinc(place) * sinc(place / LOBES) : 0.0;
}

/* The coefficients of one of the 32, in Pillow's order of operations, so that they are rounded as its are.
 * There is room for most of them, which is what Pillow makes room for. */
static size_t fill(int32_t *coefficients, double *weights, size_t most, size_t length, size_t column,
                   int32_t *start) {
    double scale = (double)length / COLUMNS, wide = scale < 1.0 ? 1.0 : scale, support = LOBES * wide;
    double narrow = 1.0 / wide, centre = ((double)column + 0.5) * scale, total = 0.0;
    double first = centre - support + 0.5, last = centre + support + 0.5;
    size_t begin = first < 0 ? 0 : (size_t)first, end = (size_t)last > length ? length : (size_t)last;
    size_t count = end - begin < most ? end - begin : most;
    for (size_t tap = 0; tap < count; tap++) {
        weights[tap] = lanczos(((double)(tap + begin) - centre + 0.5) * narrow);
        total += weights[tap];
    }
    for (size_t tap = 0; tap < count; tap++) {
        double weight = total != 0.0 ? weights[tap] / total : weights[tap];
        coefficients[tap] = (int32_t)((weight < 0 ? -0.5 : 0.5) + weight * (1 << PRECISION));
    }
    *start = (int32_t)begin;
    return count;
}

/* Whether sums of pixels times these can be formed in 32 bits, as two sums and as one. */
static int sums_fit(const int32_t *coefficients, size_t count, unsigned shift) {
    int64_t upper = 0, lower = 0, all = 0;
    for (size_t tap = 0; tap < count; tap++) {
        int64_t high = coefficients[tap] >> shift, low = coefficients[tap] - high * (1 << shift);
        upper += high < 0 ? -high : high;
        lower += low < 0 ? -low : low;
        all += coefficients[tap] < 0 ? -(int64_t)coefficients[tap] : coefficients[tap];
    }
    return 255 * (upper + 1) * (1 << shift) < INT32_MAX && 255 * lower < INT32_MAX &&
           255 * all + (1 << PRECISION) < INT32_MAX;
}

PyDoc_STRVAR(filter_for_doc, "filter_for(length) -> bytes");

static PyObject *filter_for(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_ssize_t asked;
    if (!PyArg_ParseTuple(arguments, "n", &asked))
        return NULL;
    if (asked < 1 || asked > MAX_LENGTH) {
        PyErr_SetString(PyExc_ValueError, "no row is of that length");
        return NULL;
    }
    size_t length = (size_t)asked, longer = length < COLUMNS ? COLUMNS : length;
    size_t most = 2 * ((LOBES * longer + COLUMNS - 1) / COLUMNS) + 1, counts[COLUMNS];
    int32_t *coefficients = calloc(COLUMNS * most, sizeof(int32_t));
    double *weights = calloc(most, sizeof(double));
    PyObject *result = NULL;
    if (coefficients == NULL || weights == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    Filter filter = {.length = (uint32_t)length, .blocks = (uint32_t)((most + TAPS - 1) / TAPS)};
    for (size_t column = 0; column < COLUMNS; column++)
        counts[column] =
            fill(coefficients + column * most, weights, most, length, column, &filter.starts[column]);
    for (size_t place = 0; place < COLUMNS * most; place++)
        while (filter.shift < TAPS - 1 && (coefficients[place] >> filter.shift > INT16_MAX ||
                                           coefficients[place] >> filter.shift < INT16_MIN))
            filter.shift++;
    for (size_t column = 0; column < COLUMNS; column++)
        if (!sums_fit(coefficients + column * most, counts[column], filter.shift)) {
            PyErr_SetString(PyExc_OverflowError, "the coefficients of that length need more than 32 bits");
            goto done;
        }
    size_t size = filter_size(filter.blocks, filter.shift);
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (result == NULL)
        goto done;
    char *bytes = PyBytes_AsString(result);
    memset(bytes, 0, size);
    memcpy(bytes, &filter, sizeof(filter));
    int16_t *lower = (int16_t *)(bytes + sizeof(filter)), *upper = lower + COLUMNS * filter.blocks * TAPS;
    for (size_t column = 0; column < COLUMNS; column++)
        for (size_t tap = 0; tap < counts[column]; tap++) {
            int32_t coefficient = coefficients[column * most + tap], high = coefficient >> filter.shift;
            size_t place = column * filter.blocks * TAPS + tap;
            if (filter.shift > 0)
                upper[place] = (int16_t)high;
            lower[place] = (int16_t)(filter.shift > 0 ? coefficient - high * (1 << filter.shift) : coefficient);
        }
done:
    free(coefficients);
    free(weights);
    return result;
}

/* Two rows at once, as a coefficient takes as long to load as to multiply. Without an upper part, parts is 1. */
INLINE void sum_up(int32_t sums[2], const int16_t *restrict first, const int16_t *restrict second,
                   const int16_t *restrict lower, const int16_t *restrict upper, size_t taps, unsigned parts,
                   unsigned shift) {
    int32_t lower_first = 0, lower_second = 0, upper_first = 0, upper_second = 0;
    for (size_t tap = 0; tap < taps; tap++) {
        lower_first += (int32_t)first[tap] * (int32_t)lower[tap];
        lower_second += (int32_t)second[tap] * (int32_t)lower[tap];
        if (parts == 2) {
            upper_first += (int32_t)first[tap] * (int32_t)upper[tap];
            upper_second += (int32_t)second[tap] * (int32_t)upper[tap];
        }
    }
    sums[0] = upper_first * (1 << shift) + lower_first;
    sums[1] = upper_second * (1 << shift) + lower_second;
}

INLINE uint8_t level_of(int32_t sum) {
    int32_t level = (sum + (1 << (PRECISION - 1))) >> PRECISION;
    return (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
}

/* What shrink checked: each start is at most the length, and there is room in both halves of room for that and
 * all taps beyond it. */
INLINE void shrink_all(uint8_t *shrunk, const uint8_t *rows, size_t count, const Filter *filter, int16_t *room) {
    const size_t length = filter->length, taps = (size_t)filter->blocks * TAPS;
    const int16_t *lower = (const int16_t *)(filter + 1), *upper = lower + COLUMNS * taps;
    int16_t *first = room, *second = room + length + taps;
    for (size_t line = 0; line < count; line += 2, rows += 2 * length) {
        int both = line + 1 < count;
        for (size_t place = 0; place < length; place++)
            first[place] = rows[place];
        for (size_t place = 0; both && place < length; place++)
            second[place] = rows[length + place];
        for (size_t column = 0; column < COLUMNS; column++) {
            size_t start = (size_t)filter->starts[column], part = column * taps;
            int32_t sums[2];
            if (filter->shift > 0)
                sum_up(sums, first + start, second + start, lower + part, upper + part, taps, 2, filter->shift);
            else
                sum_up(sums, first + start, second + start, lower + part, lower + part, taps, 1, 0);
            shrunk[column * count + line] = level_of(sums[0]);
            if (both)
                shrunk[column * count + line + 1] = level_of(sums[1]);
        }
    }
}

static void shrink_all_portable(uint8_t *shrunk, const uint8_t *rows, size_t count,
                                const Filter *filter, int16_t *room) {
    shrink_all(shrunk, rows, count, filter, room);
}

#if IN_TWO_WAYS
WITH_AVX2 static void shrink_all_avx2(uint8_t *shrunk, const uint8_t *rows, size_t count,
                                      const Filter *filter, int16_t *room) {
    shrink_all(shrunk, rows, count, filter, room);
}
#else
#define shrink_all_avx2 shrink_all_portable
#endif

PyDoc_STRVAR(shrink_doc, "shrink(rows, filter, shrunk) -> None");

static PyObject *shrink(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer rows = {0}, held = {0}, shrunk = {0};
    int16_t *room = NULL;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*y*w*", &rows, &held, &shrunk))
        return NULL;
    const Filter *filter = held.buf;
    int fits = (size_t)held.len >= sizeof(Filter) && (uintptr_t)held.buf % sizeof(uint32_t) == 0 &&
               filter->length >= 1 && filter->length <= MAX_LENGTH && filter->shift < TAPS &&
               filter->blocks <= MAX_LENGTH && (size_t)held.len == filter_size(filter->blocks, filter->shift);
    for (size_t column = 0; fits && column < COLUMNS; column++)
        fits = filter->starts[column] >= 0 && (uint32_t)filter->starts[column] <= filter->length;
    size_t count = (size_t)shrunk.len / COLUMNS;
    if (!fits || (size_t)shrunk.len % COLUMNS != 0 || (size_t)rows.len % filter->length != 0 ||
        (size_t)rows.len / filter->length != count) {
        PyErr_SetString(PyExc_ValueError, "the rows do not fit their filter or what they become");
        goto done;
    }
    room = calloc(2 * (filter->length + (size_t)filter->blocks * TAPS), sizeof(int16_t));
    if (room == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    (has_avx2 ? shrink_all_avx2 : shrink_all_portable)(shrunk.buf, rows.buf, count, filter, room);
    result = Py_NewRef(Py_None);
done:
    free(room);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&held);
    PyBuffer_Release(&shrunk);
    return result;
}

/* The evidence of lines: edges.py tells what it means. */

enum {
    BLOCK = 4, /* rows that are looked at together */
    REACH = 4, /* columns on each side of a line that are looked at together */
    BESIDE = 2 * REACH
};

typedef struct {
    int flat, smooth, step, lasting;
} Thresholds;

/* One block of rows. sums and flat have REACH columns more on either side, which repeat the outermost ones. */
INLINE void look_at_block(const uint8_t *rows, size_t width, const Thresholds *thresholds, int16_t *restrict sums,
                          int16_t *restrict flat) {
    const uint8_t *second = rows + width, *third = second + width, *fourth = third + width;
    const int16_t most = (int16_t)thresholds->flat;
    for (size_t column = 0; column < width; column++) {
        uint8_t a = rows[column], b = second[column], c = third[column], d = fourth[column];
        uint8_t high = a > b ? a : b, low = a < b ? a : b;
        uint8_t higher = c > d ? c : d, lower = c < d ? c : d;
        high = high > higher ? high : higher;
        low = low < lower ? low : lower;
        sums[REACH + column] = (int16_t)(a + b + c + d);
        flat[REACH + column] = (int16_t)(high - low) <= most;
    }
    for (size_t column = 0; column < REACH; column++) {
        sums[column] = sums[REACH];
        flat[column] = flat[REACH];
        sums[REACH + width + column] = sums[REACH + width - 1];
        flat[REACH + width + column] = flat[REACH + width - 1];
    }
}

INLINE int16_t apart(int16_t one, int16_t other) { return (int16_t)(one > other ? one - other : other - one); }

/* Counts the edges of one block: upon[i] says how many lie above it at line i + 1, below is for those and it. */
INLINE void count_edges(int16_t *restrict below, const int16_t *restrict upon, size_t width,
                        const Thresholds *thresholds, const int16_t *restrict sums, const int16_t *restrict flat) {
    const int16_t step = (int16_t)thresholds->step, lasting = (int16_t)thresholds->lasting;
    for (size_t line = 0; line + 1 < width; line++) {
        /* The REACH columns before the line begin at index 1 of its first one, those after it at 1 + REACH. */
        const int16_t *before = sums + line + 1, *after = before + REACH;
        const int16_t *flat_before = flat + line + 1, *flat_after = flat_before + REACH;
        int16_t sum_before = (int16_t)(before[0] + before[1] + before[2] + before[3]);
        int16_t sum_after = (int16_t)(after[0] + after[1] + after[2] + after[3]);
        int16_t all_before = flat_before[0] & flat_before[1] & flat_before[2] & flat_before[3];
        int16_t all_after = flat_after[0] & flat_after[1] & flat_after[2] & flat_after[3];
        int16_t lasts = (apart(sum_before, sum_after) > lasting) | all_before | all_after;
        int16_t found = lasts & (apart(before[REACH - 1], after[0]) > step);
        found |= all_before & (flat_after[0] ^ 1);
        found |= all_after & (flat_before[REACH - 1] ^ 1);
        below[line] = (int16_t)(upon[line] + found);
    }
}

/* Counts the blocks in which a column is smooth, in the same way. last: the sums of the block above. */
INLINE void count_smooth(int16_t *restrict below, const int16_t *restrict upon, size_t width,
                         const Thresholds *thresholds, const int16_t *restrict sums, const int16_t *restrict last,
                         const int16_t *restrict flat) {
    const int16_t smooth = (int16_t)thresholds->smooth;
    for (size_t column = 0; column < width; column++)
        below[column] = (int16_t)(upon[column] + (flat[column] & (apart(sums[column], last[column]) <= smooth)));
}

/* room: for three rows with BESIDE columns more. The others: see find_edges. */
INLINE void find_all(const uint8_t *luma, size_t blocks, size_t width, const Thresholds *thresholds, int16_t *sums,
                     uint8_t *flat, int16_t *edges, int16_t *smooth, int16_t *room) {
    int16_t *now = room, *last = now + width + BESIDE, *flat_now = last + width + BESIDE;
    memset(edges, 0, (width + 1) * sizeof(int16_t));
    memset(smooth, 0, width * sizeof(int16_t));
    for (size_t block = 0; block < blocks; block++) {
        look_at_block(luma + block * BLOCK * width, width, thresholds, now, flat_now);
        const int16_t *above = block ? last : now; /* the first one is smooth where it is flat */
        count_smooth(smooth + width, smooth, width, thresholds, now + REACH, above + REACH, flat_now + REACH);
        count_edges(edges + width + 2, edges + 1, width, thresholds, now, flat_now);
        edges[width + 1] = edges[2 * width + 1] = (int16_t)(block + 1); /* the picture's own sides */
        memcpy(sums, now + REACH, width * sizeof(int16_t));
        for (size_t column = 0; column < width; column++)
            flat[column] = (uint8_t)flat_now[REACH + column];
        edges += width + 1;
        smooth += width;
        sums += width;
        flat += width;
        int16_t *free_now = last;
        last = now;
        now = free_now;
    }
}

static void find_all_portable(const uint8_t *luma, size_t blocks, size_t width, const Thresholds *thresholds,
                              int16_t *sums, uint8_t *flat, int16_t *edges, int16_t *smooth, int16_t *room) {
    find_all(luma, blocks, width, thresholds, sums, flat, edges, smooth, room);
}

#if IN_TWO_WAYS
WITH_AVX2 static void find_all_avx2(const uint8_t *luma, size_t blocks, size_t width, const Thresholds *thresholds,
                                    int16_t *sums, uint8_t *flat, int16_t *edges, int16_t *smooth, int16_t *room) {
    find_all(luma, blocks, width, thresholds, sums, flat, edges, smooth, room);
}
#else
#define find_all_avx2 find_all_portable
#endif

PyDoc_STRVAR(find_edges_doc, "find_edges(luma, width, flat, smooth, step, lasting, sums, flats, edges, smooths)");

static PyObject *find_edges(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer luma = {0}, sums = {0}, flat = {0}, edges = {0}, smooth = {0};
    Thresholds thresholds;
    Py_ssize_t asked;
    int16_t *room = NULL;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*niiiiw*w*w*w*", &luma, &asked, &thresholds.flat, &thresholds.smooth,
                          &thresholds.step, &thresholds.lasting, &sums, &flat, &edges, &smooth))
        return NULL;
    size_t width = asked > 0 ? (size_t)asked : 0;
    size_t blocks = width ? (size_t)luma.len / width / BLOCK : 0, item = sizeof(int16_t);
    int fits = width > 0 && width <= MAX_LENGTH && blocks > 0 && blocks < INT16_MAX &&
               (size_t)luma.len % width == 0;
    fits = fits && (size_t)flat.len == blocks * width && (size_t)sums.len == blocks * width * item &&
           (size_t)edges.len == (blocks + 1) * (width + 1) * item &&
           (size_t)smooth.len == (blocks + 1) * width * item;
    const int *threshold = &thresholds.flat;
    for (size_t place = 0; place < sizeof(Thresholds) / sizeof(int); place++)
        fits = fits && threshold[place] >= 0 && threshold[place] <= INT16_MAX;
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the picture does not fit what is to be found in it");
        goto done;
    }
    room = malloc(3 * (width + BESIDE) * sizeof(int16_t));
    if (room == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    (has_avx2 ? find_all_avx2 : find_all_portable)(luma.buf, blocks, width, &thresholds, sums.buf, flat.buf,
                                                   edges.buf, smooth.buf, room);
    result = Py_NewRef(Py_None);
done:
    free(room);
    PyBuffer_Release(&luma);
    PyBuffer_Release(&sums);
    PyBuffer_Release(&flat);
    PyBuffer_Release(&edges);
    PyBuffer_Release(&smooth);
    return result;
}

/* Columns of one colour, and the edges along lines, in a span of blocks: edges.py tells what they mean. */

enum { SAMPLES = 9 }; /* blocks that are looked at first: the network below sorts so many */

INLINE int16_t lesser(int16_t one, int16_t other) { return one < other ? one : other; }

INLINE int16_t greater(int16_t one, int16_t other) { return one > other ? one : other; }

/* The lesser of two places comes first. */
INLINE void order(int16_t *values, size_t one, size_t other) {
    int16_t least = lesser(values[one], values[other]), most = greater(values[one], values[other]);
    values[one] = least;
    values[other] = most;
}

/* By 19 comparisons (J. Smith, 'Implementing median filters in XC4000E FPGAs', 1996). */
INLINE int16_t median_of_9(int16_t *values) {
    static const uint8_t pairs[19][2] = {{1, 2}, {4, 5}, {7, 8}, {0, 1}, {3, 4}, {6, 7}, {1, 2},
                                         {4, 5}, {7, 8}, {0, 3}, {5, 8}, {4, 7}, {3, 6}, {1, 4},
                                         {2, 5}, {4, 7}, {4, 2}, {6, 4}, {4, 2}};
    for (size_t pair = 0; pair < 19; pair++)
        order(values, pairs[pair][0], pairs[pair][1]);
    return values[4];
}

typedef struct {
    size_t first, last, left, right; /* blocks and columns of a span */
} Span;

static int fits_in(const Span *span, size_t blocks, size_t columns) {
    return span->first < span->last && span->last <= blocks && span->left <= span->right && span->right <= columns;
}

static void find_uniform_columns(const int16_t *sums, const uint8_t *flat, size_t width, const Span *span,
                                 int near, int outliers, double share, uint8_t *uniform) {
    size_t blocks = span->last - span->first, samples[SAMPLES];
    for (size_t which = 0; which < SAMPLES; which++)
        samples[which] = (span->first + which * (blocks - 1) / (SAMPLES - 1)) * width;
    for (size_t column = span->left; column < span->right; column++) {
        int16_t sampled[SAMPLES];
        for (size_t which = 0; which < SAMPLES; which++)
            sampled[which] = sums[samples[which] + column];
        int level = median_of_9(sampled), held = 0;
        for (size_t which = 0; which < SAMPLES; which++)
            held += (abs(sums[samples[which] + column] - level) <= near) & (flat[samples[which] + column] != 0);
        uint8_t *found = uniform + (column - span->left);
        *found = held >= SAMPLES - outliers;
        if (!*found)
            continue;
        size_t count = 0;
        for (size_t block = span->first; block < span->last; block++) {
            size_t place = block * width + column;
            count += (abs(sums[place] - level) <= near) & (flat[place] != 0);
        }
        *found = (double)count >= share * (double)blocks;
    }
}

PyDoc_STRVAR(find_uniform_doc,
             "find_uniform(sums, flat, width, first, last, left, right, near, outliers, share, uniform) -> None");

static PyObject *find_uniform(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer sums = {0}, flat = {0}, uniform = {0};
    Py_ssize_t asked, first, last, left, right;
    int near, outliers;
    double share;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*y*nnnnniidw*", &sums, &flat, &asked, &first, &last, &left, &right, &near,
                          &outliers, &share, &uniform))
        return NULL;
    /* What is negative becomes too large. */
    Span span = {(size_t)first, (size_t)last, (size_t)left, (size_t)right};
    size_t width = asked > 0 ? (size_t)asked : 0, blocks = width ? (size_t)flat.len / width : 0;
    if (width == 0 || width > MAX_LENGTH || (size_t)flat.len != blocks * width ||
        (size_t)sums.len != blocks * width * sizeof(int16_t) || !fits_in(&span, blocks, width) ||
        (size_t)uniform.len != span.right - span.left)
        PyErr_SetString(PyExc_ValueError, "the span does not fit the columns");
    else {
        find_uniform_columns(sums.buf, flat.buf, width, &span, near, outliers, share, uniform.buf);
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&sums);
    PyBuffer_Release(&flat);
    PyBuffer_Release(&uniform);
    return result;
}

/* best: room for one row. */
INLINE void score_all(const int16_t *edges, size_t lines, const Span *span, size_t window, int16_t *restrict best,
                      double *restrict scores) {
    size_t count = span->right - span->left;
    const int16_t *above = edges + span->first * lines + span->left;
    const int16_t *top = above, *bottom = edges + span->last * lines + span->left;
    memset(best, 0, count * sizeof(int16_t)); /* no count is less than one above it */
    for (; above + window * lines <= bottom; above += lines) {
        const int16_t *below = above + window * lines;
        for (size_t line = 0; line < count; line++)
            best[line] = greater(best[line], (int16_t)(below[line] - above[line]));
    }
    for (size_t line = 0; line < count; line++)
        scores[line] = (double)best[line] / (double)window / 2 +
                       (double)(bottom[line] - top[line]) / (double)(span->last - span->first);
}

static void score_all_portable(const int16_t *edges, size_t lines, const Span *span, size_t window, int16_t *best,
                               double *scores) {
    score_all(edges, lines, span, window, best, scores);
}

#if IN_TWO_WAYS
WITH_AVX2 static void score_all_avx2(const int16_t *edges, size_t lines, const Span *span, size_t window,
                                     int16_t *best, double *scores) {
    score_all(edges, lines, span, window, best, scores);
}
#else
#define score_all_avx2 score_all_portable
#endif

PyDoc_STRVAR(score_lines_doc, "score_lines(edges, lines, first, last, left, right, window, scores) -> None");

static PyObject *score_lines(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer edges = {0}, scores = {0};
    Py_ssize_t asked, first, last, left, right, window;
    int16_t *best = NULL;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*nnnnnnw*", &edges, &asked, &first, &last, &left, &right, &window, &scores))
        return NULL;
    Span span = {(size_t)first, (size_t)last, (size_t)left, (size_t)right};
    size_t lines = asked > 0 ? (size_t)asked : 0, rows = lines ? (size_t)edges.len / sizeof(int16_t) / lines : 0;
    if (lines == 0 || lines > MAX_LENGTH + 1 || rows == 0 ||
        (size_t)edges.len != rows * lines * sizeof(int16_t) || !fits_in(&span, rows - 1, lines) || window < 1 ||
        (size_t)window > span.last - span.first ||
        (size_t)scores.len != (span.right - span.left) * sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "the span does not fit the lines");
        goto done;
    }
    best = malloc((span.right - span.left + 1) * sizeof(int16_t));
    if (best == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    (has_avx2 ? score_all_avx2 : score_all_portable)(edges.buf, lines, &span, (size_t)window, best, scores.buf);
    result = Py_NewRef(Py_None);
done:
    free(best);
    PyBuffer_Release(&edges);
    PyBuffer_Release(&scores);
    return result;
}

/* A grey picture at half the size: means of two by two pixels, and of fewer at odd ends, as Pillow rounds them. */

INLINE void halve_rows(uint8_t *restrict halved, const uint8_t *first, const uint8_t *second, size_t width) {
    size_t pairs = width / 2;
    for (size_t place = 0; place < pairs; place++)
        halved[place] = (uint8_t)((first[2 * place] + first[2 * place + 1] + second[2 * place] +
                                   second[2 * place + 1] + 2) >>
                                  2);
    if (width % 2)
        halved[pairs] = (uint8_t)((first[width - 1] + second[width - 1] + 1) >> 1);
}

/* A last row without another is its own second: (a + b + a + b + 2) >> 2 is (a + b + 1) >> 1. */
INLINE void halve_all(uint8_t *halved, const uint8_t *grey, size_t height, size_t width) {
    for (size_t row = 0; row < height; row += 2, halved += (width + 1) / 2) {
        const uint8_t *first = grey + row * width;
        halve_rows(halved, first, row + 1 < height ? first + width : first, width);
    }
}

static void halve_all_portable(uint8_t *halved, const uint8_t *grey, size_t height, size_t width) {
    halve_all(halved, grey, height, width);
}

#if IN_TWO_WAYS
WITH_AVX2 static void halve_all_avx2(uint8_t *halved, const uint8_t *grey, size_t height, size_t width) {
    halve_all(halved, grey, height, width);
}
#else
#define halve_all_avx2 halve_all_portable
#endif

PyDoc_STRVAR(halve_doc, "halve(grey, width, halved) -> None");

static PyObject *halve(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer grey = {0}, halved = {0};
    Py_ssize_t asked;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*nw*", &grey, &asked, &halved))
        return NULL;
    size_t width = asked > 0 ? (size_t)asked : 0, height = width ? (size_t)grey.len / width : 0;
    if (width == 0 || width > MAX_LENGTH || (size_t)grey.len % width != 0 ||
        (size_t)halved.len != (height + 1) / 2 * ((width + 1) / 2))
        PyErr_SetString(PyExc_ValueError, "the picture does not fit its half");
    else {
        (has_avx2 ? halve_all_avx2 : halve_all_portable)(halved.buf, grey.buf, height, width);
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&grey);
    PyBuffer_Release(&halved);
    return result;
}

static PyMethodDef methods[] = {
    {"add_rows", add_rows, METH_VARARGS, add_rows_doc},
    {"gather", gather, METH_VARARGS, gather_doc},
    {"box_means", box_means, METH_VARARGS, box_means_doc},
    {"step_sums", step_sums, METH_VARARGS, step_sums_doc},
    {"forms_of", forms_of, METH_VARARGS, forms_of_doc},
    {"grey_of", grey_of, METH_VARARGS, grey_of_doc},
    {"filter_for", filter_for, METH_VARARGS, filter_for_doc},
    {"shrink", shrink, METH_VARARGS, shrink_doc},
    {"halve", halve, METH_VARARGS, halve_doc},
    {"find_edges", find_edges, METH_VARARGS, find_edges_doc},
    {"find_uniform", find_uniform, METH_VARARGS, find_uniform_doc},
    {"score_lines", score_lines, METH_VARARGS, score_lines_doc},
    {0},
};

static int start_module(PyObject *module) {
#if IN_TWO_WAYS
    __builtin_cpu_init();
    has_avx2 = __builtin_cpu_supports("avx2");
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
