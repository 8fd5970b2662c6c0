/* The loops of hamming.py in C: what they compute, and why it is exact, is told there. fallback.py gives the
 * same results without a compiler.
 *
 * Rows, directory and postings are mapped from a file, and nothing in it is trusted: whatever it says, and even
 * if it changes while it is read, no byte outside the given buffers is touched. Each number that decides where
 * to look next is loaded once (``once32``), compared with the length of what it points into, and only then
 * used. One that points outside ends the search with ValueError: an index that cannot be right must not answer.
 *
 * The interpreter's lock is released while rows are looked at; buffers are held meanwhile, so none can go away.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "snapshots are little-endian, and read in place; fallback.py serves other machines"
#endif

#define INLINE static inline __attribute__((always_inline))

enum {
    MAX_WORDS = 4,          /* 256 bits, the longest hash */
    WORD_BITS = 64,
    MAX_BANDS = MAX_WORDS * WORD_BITS,
    MAX_WIDTH = 32,         /* a key is a uint32_t */
    LINE_BYTES = 64,        /* one cache line of the directory: a uint32_t, then one byte a bucket */
    LINE_BUCKETS = 60,
    SATURATED = 255,
    AHEAD = 48,             /* how far to prefetch: more than a core keeps in flight */
    CANDIDATES = 1024,      /* gathered at once: their rows fit into the second-level cache */
    MAX_PROBES = 1 << 26    /* of one query; hamming.py plans fewer by far */
};

typedef struct {
    int32_t start, width, radius; /* bits; a radius of -1 leaves the band out */
} Cut;

typedef struct {
    unsigned start, width;
    int radius;
    unsigned next, hint_width; /* the band after it, the first after the last; how much of its key a hint holds */
    int together;              /* the most that both can differ: see may_lead */
    const uint8_t *lines;
    const uint32_t *postings;
} Band;

typedef struct {
    const uint64_t *rows;
    size_t count;       /* of rows: fits into a uint32_t */
    unsigned row_bits;  /* of a posting; what is above them is the hint */
    Band bands[MAX_BANDS];
    size_t band_count;
    size_t probes; /* of all bands together */
    unsigned threshold;
    uint64_t limit;
} Index;

/* A key to look up in a band's line, and then the postings of its bucket. */
typedef struct {
    union {
        const uint8_t *line;
        const uint32_t *postings;
    };
    uint32_t key, size;
} Probe;

typedef struct {
    uint32_t query, entry, distance;
} Hit;

typedef struct {
    Hit *hits;
    size_t count, capacity;
} Hits;

typedef enum { FOUND, DAMAGED, NO_MEMORY } Outcome;

/* A compiler may load a plain variable twice, and a mapped file may change in between. */
INLINE uint32_t once32(const uint32_t *place) { return *(const volatile uint32_t *)place; }
INLINE uint8_t once8(const uint8_t *place) { return *(const volatile uint8_t *)place; }

INLINE size_t lines_of(unsigned width) {
    /* width <= 32, so this is at most 2^27; one more line ends the last bucket. */
    return (((size_t)1 << width) + LINE_BUCKETS - 1) / LINE_BUCKETS + 1;
}

/* The value of a band of a row. start + width <= words * 64 (see read_cuts), so where the band spills into
 * a second word, that is still one of the row's. */
INLINE uint32_t key_of(const uint64_t *row, unsigned start, unsigned width) {
    unsigned word = start / WORD_BITS, offset = start % WORD_BITS;
    uint64_t key = row[word] >> offset;
    if (offset + width > WORD_BITS) /* then offset > 32, and the shift below is less than 64 */
        key |= row[word + 1] << (WORD_BITS - offset);
    return (uint32_t)(key & (((uint64_t)1 << width) - 1));
}

/* How many bits of a posting the index of a row takes. */
INLINE unsigned row_bits_of(size_t count) {
    unsigned bits = 1;
    while (bits < 32 && (uint64_t)(count - 1) >> bits)
        bits++;
    return bits;
}

/* How many bits above it hold the lower part of the row's key in the next band. */
INLINE unsigned hint_width_of(unsigned row_bits, unsigned next_width) {
    return 32 - row_bits < next_width ? 32 - row_bits : next_width;
}

INLINE unsigned distance_of(const uint64_t *row, const uint64_t *query, unsigned words) {
    unsigned distance = 0;
    for (unsigned word = 0; word < words; word++)
        distance += (unsigned)__builtin_popcountll(row[word] ^ query[word]);
    return distance;
}

static Outcome append(Hits *hits, uint32_t query, uint32_t entry, uint32_t distance) {
    if (hits->count == hits->capacity) {
        size_t capacity = hits->capacity ? hits->capacity * 2 : 256;
        if (capacity > PY_SSIZE_T_MAX / sizeof(Hit)) /* it becomes a bytes object */
            return NO_MEMORY;
        Hit *larger = realloc(hits->hits, capacity * sizeof(Hit));
        if (larger == NULL)
            return NO_MEMORY;
        hits->hits = larger;
        hits->capacity = capacity;
    }
    hits->hits[hits->count++] = (Hit){query, entry, distance};
    return FOUND;
}

INLINE Outcome scan(const Index *index, const uint64_t *query, uint32_t number, Hits *hits, unsigned words) {
    for (size_t entry = 0; entry < index->count; entry++) {
        unsigned distance = distance_of(index->rows + entry * words, query, words);
        if (distance <= index->threshold && append(hits, number, (uint32_t)entry, distance) != FOUND)
            return NO_MEMORY;
    }
    return FOUND;
}

/* All keys within a band's radius of a query's key, and the line of each. Writes no more than planned_probes
 * counted: both step through the numbers of ``width`` bits with ``weight`` of them set, of which there are
 * binomial(width, weight). */
INLINE Probe *near_keys(const Band *band, uint32_t key, Probe *probes) {
    for (int weight = 0; weight <= band->radius; weight++) {
        uint64_t mask = ((uint64_t)1 << weight) - 1;
        while (mask >> band->width == 0) {
            uint32_t near = key ^ (uint32_t)mask;
            /* near < 2^width, so there is one more line after this one. */
            *probes++ = (Probe){.line = band->lines + (size_t)(near / LINE_BUCKETS) * LINE_BYTES, .key = near};
            if (mask == 0)
                break;
            /* The next larger number with as many bits set (Gosper; HAKMEM 175). */
            uint64_t carried = mask + (mask & -mask);
            mask = carried | ((mask ^ carried) >> 2) >> __builtin_ctzll(mask);
        }
    }
    return probes;
}

/* Where the rows of a bucket stand in the postings. A line says where its first bucket begins, and how far
 * behind that each one ends, up to 255. Beyond, what is told runs to the end of the line: rows too many, never
 * too few, and the keys of the rows themselves set them apart. */
INLINE Outcome bucket_of(const Index *index, const Band *band, const Probe *probe, Probe *found) {
    const uint8_t *line = probe->line, *ends = line + sizeof(uint32_t);
    unsigned slot = probe->key % LINE_BUCKETS;
    uint64_t base = once32((const uint32_t *)line);
    uint64_t begin = base + (slot ? once8(ends + slot - 1) : 0);
    unsigned last = once8(ends + slot);
    uint64_t end = last < SATURATED ? base + last : once32((const uint32_t *)(line + LINE_BYTES));
    if (begin > end || end > index->count)
        return DAMAGED;
    *found = (Probe){.postings = band->postings + begin, .key = probe->key, .size = (uint32_t)(end - begin)};
    return FOUND;
}

/* Whether a band leads to a row: it is within the band's radius, and so is the hint of the next one.
 *
 * Let d be the differing bits of each band and t = r + 1. If the sum of d is T at most and that of t is more,
 * then on the ring of bands there is one from which on every partial sum of d - t is negative: the one after the
 * last greatest sum from the beginning (the cycle lemma). Of these partial sums the first says d <= r of that
 * band, which is what is looked up; the second, d + d' <= r + r' + 1 with the next, sets most rows aside before
 * they are fetched. A hint is part of the next key, and so differs in d' bits at most. */
INLINE int may_lead(const Band *band, uint32_t differing, uint32_t differing_hint) {
    return __builtin_popcountll(differing) + __builtin_popcountll(differing_hint) <= band->together;
}

INLINE uint32_t hint_of(const Index *index, const Band *band, const uint64_t *row) {
    return key_of(row, index->bands[band->next].start, band->hint_width);
}

/* Whether this band is the one to tell a row that is near: the row holds this very key, and no earlier band
 * leads to it. So each row is told once, without a record of those that were. */
INLINE int is_first(const Index *index, size_t number, uint32_t key, const uint64_t *row, const uint64_t *query) {
    const Band *band = &index->bands[number];
    if (key_of(row, band->start, band->width) != key)
        return 0;
    for (size_t earlier = 0; earlier < number; earlier++) {
        band = &index->bands[earlier];
        uint32_t differing = key_of(row, band->start, band->width) ^ key_of(query, band->start, band->width);
        uint32_t differing_hint = hint_of(index, band, row) ^ hint_of(index, band, query);
        if (__builtin_popcountll(differing) <= band->radius && may_lead(band, differing, differing_hint))
            return 0;
    }
    return 1;
}

typedef struct {
    uint32_t entry, key;
    unsigned band;
} Candidate;

INLINE Outcome count_candidates(const Index *index, const Candidate *candidates, size_t count,
                                const uint64_t *query, uint32_t number, Hits *hits, unsigned words) {
    for (size_t which = 0; which < count; which++) {
        if (which + AHEAD < count)
            __builtin_prefetch(index->rows + (size_t)candidates[which + AHEAD].entry * words);
        const Candidate *candidate = &candidates[which];
        const uint64_t *row = index->rows + (size_t)candidate->entry * words;
        unsigned distance = distance_of(row, query, words);
        if (distance > index->threshold || !is_first(index, candidate->band, candidate->key, row, query))
            continue;
        if (append(hits, number, candidate->entry, distance) != FOUND)
            return NO_MEMORY;
    }
    return FOUND;
}

INLINE Outcome search_one(const Index *index, const uint64_t *query, uint32_t number, Probe *probes, Hits *hits,
                          unsigned words) {
    size_t ends[MAX_BANDS]; /* of each band's part of the probes */
    size_t at = 0, kept = 0, gathered = 0;
    uint64_t total = 0;
    if (index->band_count == 0)
        return scan(index, query, number, hits, words);
    for (size_t which = 0; which < index->band_count; which++) {
        const Band *band = &index->bands[which];
        at = (size_t)(near_keys(band, key_of(query, band->start, band->width), probes + at) - probes);
        ends[which] = at;
    }
    /* The directory: each bucket that has rows takes the place of a probe that was looked up. */
    size_t count = at;
    at = 0;
    for (size_t which = 0; which < index->band_count; which++) {
        for (; at < ends[which]; at++) {
            if (at + AHEAD < count)
                __builtin_prefetch(probes[at + AHEAD].line);
            Probe found;
            if (bucket_of(index, &index->bands[which], &probes[at], &found) != FOUND)
                return DAMAGED;
            total += found.size;
            probes[kept] = found;
            kept += found.size != 0;
        }
        ends[which] = kept;
    }
    /* Crowded buckets, by bad luck or by somebody's design: a scan is cheaper than what they hold. */
    if (total > index->limit)
        return scan(index, query, number, hits, words);
    /* The postings, and then the rows that they lead to. */
    Candidate candidates[CANDIDATES];
    uint32_t row_mask = (uint32_t)(((uint64_t)1 << index->row_bits) - 1);
    at = 0;
    for (size_t which = 0; which < index->band_count; which++) {
        const Band *band = &index->bands[which];
        uint32_t key = key_of(query, band->start, band->width), hint = hint_of(index, band, query);
        for (; at < ends[which]; at++) {
            if (at + AHEAD < kept)
                __builtin_prefetch(probes[at + AHEAD].postings);
            const Probe *probe = &probes[at];
            for (uint32_t place = 0; place < probe->size; place++) {
                uint32_t posting = once32(probe->postings + place);
                uint32_t entry = posting & row_mask;
                uint32_t told = (uint32_t)((uint64_t)posting >> index->row_bits);
                if (entry >= index->count)
                    return DAMAGED;
                candidates[gathered] = (Candidate){entry, probe->key, (unsigned)which};
                /* Without a branch: which way it goes cannot be foreseen. */
                gathered += (size_t)may_lead(band, probe->key ^ key, told ^ hint);
                if (gathered == CANDIDATES) {
                    if (count_candidates(index, candidates, gathered, query, number, hits, words) != FOUND)
                        return NO_MEMORY;
                    gathered = 0;
                }
            }
        }
    }
    return count_candidates(index, candidates, gathered, query, number, hits, words);
}

static int by_entry(const void *one, const void *other) {
    uint32_t left = ((const Hit *)one)->entry, right = ((const Hit *)other)->entry;
    return (left > right) - (left < right);
}

/* Puts the hits of one query in order; those of a scan are. */
static void sort_hits(Hit *hits, size_t count) {
    for (size_t which = 1; which < count; which++)
        if (hits[which - 1].entry > hits[which].entry) {
            qsort(hits, count, sizeof(Hit), by_entry);
            return;
        }
}

INLINE Outcome search_words(const Index *index, const uint64_t *queries, uint32_t count, Probe *probes,
                            Hits *hits, unsigned words) {
    Outcome outcome = FOUND;
    for (uint32_t number = 0; number < count && outcome == FOUND; number++) {
        size_t first = hits->count;
        outcome = search_one(index, queries + (size_t)number * words, number, probes, hits, words);
        if (hits->count - first > 1)
            sort_hits(hits->hits + first, hits->count - first);
    }
    return outcome;
}

/* The number of words as a constant lets the compiler unroll what is innermost. */
INLINE Outcome search_any(const Index *index, const uint64_t *queries, uint32_t count, Probe *probes, Hits *hits,
                          unsigned words) {
    switch (words) {
    case 1: return search_words(index, queries, count, probes, hits, 1);
    case 4: return search_words(index, queries, count, probes, hits, 4);
    default: return search_words(index, queries, count, probes, hits, words);
    }
}

typedef Outcome (*Search)(const Index *, const uint64_t *, uint32_t, Probe *, Hits *, unsigned);

static Outcome search_portable(const Index *index, const uint64_t *queries, uint32_t count, Probe *probes,
                               Hits *hits, unsigned words) {
    return search_any(index, queries, count, probes, hits, words);
}

#if defined(__x86_64__)
/* The first x86-64 processors lack the instruction; it is asked for when the module is loaded. */
__attribute__((target("popcnt"))) static Outcome search_popcnt(const Index *index, const uint64_t *queries,
                                                               uint32_t count, Probe *probes, Hits *hits,
                                                               unsigned words) {
    return search_any(index, queries, count, probes, hits, words);
}
#endif

static Search chosen_search = search_portable;

/* How many keys near_keys writes for one query; more than MAX_PROBES if they are more. */
static size_t planned_probes(unsigned width, int radius) {
    size_t total = 0, binomial = 1;
    for (int weight = 0; weight <= radius; weight++) {
        total += binomial;
        if (total > MAX_PROBES)
            break;
        /* binomial <= 2^26 here, and width <= 32: no overflow. */
        binomial = binomial * (width - (unsigned)weight) / ((unsigned)weight + 1);
    }
    return total;
}

/* Copies the bands out of what Python gave, and checks that they fit the buffers they point into. */
static int read_cuts(Index *index, const Py_buffer *cuts, const Py_buffer *directory, const Py_buffer *postings,
                     unsigned words) {
    const char *wrong = "the bands do not fit the directory and the postings";
    size_t count = (size_t)cuts->len / sizeof(Cut);
    if (count > MAX_BANDS || (size_t)cuts->len % sizeof(Cut) != 0)
        goto refuse;
    size_t lines = 0;
    for (size_t which = 0; which < count; which++) {
        Cut cut;
        memcpy(&cut, (const char *)cuts->buf + which * sizeof(Cut), sizeof(Cut));
        if (cut.width < 1 || cut.width > MAX_WIDTH || cut.radius < -1 || cut.radius > cut.width)
            goto refuse;
        if (cut.start < 0 || cut.start > (int)(words * WORD_BITS) - cut.width)
            goto refuse;
        Band band = {
            .start = (unsigned)cut.start,
            .width = (unsigned)cut.width,
            .radius = cut.radius,
            .lines = (const uint8_t *)directory->buf + lines * LINE_BYTES,
            .postings = (const uint32_t *)postings->buf + which * index->count,
        };
        lines += lines_of(band.width); /* at most 256 times 2^27 */
        if (lines > (size_t)directory->len / LINE_BYTES)
            goto refuse;
        index->bands[which] = band;
        index->probes += planned_probes(band.width, band.radius);
        if (index->probes > MAX_PROBES) {
            wrong = "the radii ask for too many look-ups";
            goto refuse;
        }
    }
    index->band_count = count;
    for (size_t which = 0; which < count; which++) {
        Band *band = &index->bands[which];
        band->next = (unsigned)((which + 1) % count);
        band->hint_width = hint_width_of(index->row_bits, index->bands[band->next].width);
        band->together = band->radius + index->bands[band->next].radius + 1;
    }
    /* count <= 256 and the number of rows < 2^32: no overflow. */
    if ((size_t)directory->len != lines * LINE_BYTES ||
        (size_t)postings->len != count * index->count * sizeof(uint32_t))
        goto refuse;
    return 0;
refuse:
    PyErr_SetString(PyExc_ValueError, wrong);
    return -1;
}

/* The number of items in a buffer, which holds a whole number of them and is aligned for its type; -1 if not. */
static int64_t items(const Py_buffer *buffer, size_t size, size_t alignment) {
    if ((size_t)buffer->len % size != 0 || (uintptr_t)buffer->buf % alignment != 0 ||
        (uint64_t)buffer->len / size > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a buffer does not hold a whole number of aligned rows, or too many");
        return -1;
    }
    return (int64_t)((size_t)buffer->len / size);
}

static int words_are_wrong(int words) {
    if (words >= 1 && words <= MAX_WORDS)
        return 0;
    PyErr_SetString(PyExc_ValueError, "rows have 1 to 4 words");
    return 1;
}

PyDoc_STRVAR(search_doc, "search(rows, words, directory, postings, cuts, queries, threshold, limit) -> bytes");

static PyObject *search(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer rows = {0}, directory = {0}, postings = {0}, cuts = {0}, queries = {0};
    int words;
    unsigned int threshold;
    unsigned long long limit;
    PyObject *result = NULL;
    Index *index = NULL;
    Probe *probes = NULL;
    Hits hits = {0};
    if (!PyArg_ParseTuple(arguments, "y*iy*y*y*y*IK", &rows, &words, &directory, &postings, &cuts, &queries,
                          &threshold, &limit))
        return NULL;
    if (words_are_wrong(words))
        goto done;
    int64_t row_count = items(&rows, (size_t)words * sizeof(uint64_t), sizeof(uint64_t));
    int64_t query_count = items(&queries, (size_t)words * sizeof(uint64_t), sizeof(uint64_t));
    if (row_count < 0 || query_count < 0)
        goto done;
    if ((uintptr_t)directory.buf % sizeof(uint32_t) != 0 || (uintptr_t)postings.buf % sizeof(uint32_t) != 0) {
        PyErr_SetString(PyExc_ValueError, "the directory and the postings must be aligned");
        goto done;
    }
    index = calloc(1, sizeof(Index));
    if (index == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    index->rows = rows.buf;
    index->count = (size_t)row_count;
    index->row_bits = row_bits_of(index->count);
    index->threshold = threshold;
    index->limit = limit;
    if (read_cuts(index, &cuts, &directory, &postings, (unsigned)words) != 0)
        goto done;
    probes = malloc((index->probes + 1) * sizeof(Probe));
    if (probes == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    Outcome outcome;
    Py_BEGIN_ALLOW_THREADS
    outcome = chosen_search(index, queries.buf, (uint32_t)query_count, probes, &hits, (unsigned)words);
    Py_END_ALLOW_THREADS
    if (outcome == DAMAGED)
        PyErr_SetString(PyExc_ValueError, "the index is damaged: it points outside itself");
    else if (outcome == NO_MEMORY)
        PyErr_NoMemory();
    else
        result = PyBytes_FromStringAndSize((const char *)hits.hits, (Py_ssize_t)(hits.count * sizeof(Hit)));
done:
    free(hits.hits);
    free(probes);
    free(index);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&directory);
    PyBuffer_Release(&postings);
    PyBuffer_Release(&cuts);
    PyBuffer_Release(&queries);
    return result;
}

/* One band's directory, written bucket by bucket. */
typedef struct {
    uint8_t *line;
    unsigned slot;
    uint32_t base;
} Writer;

INLINE void write_bucket(Writer *writer, uint32_t begin, uint32_t end) {
    if (writer->slot == 0) {
        writer->base = begin;
        memcpy(writer->line, &begin, sizeof(begin));
    }
    uint32_t behind = end - writer->base;
    writer->line[sizeof(uint32_t) + writer->slot] = (uint8_t)(behind < SATURATED ? behind : SATURATED);
    if (++writer->slot == LINE_BUCKETS) {
        writer->slot = 0;
        writer->line += LINE_BYTES;
    }
}

/* Sorts all rows by their key in one band: first into parts by the key's upper half, so that then each part,
 * sorted by counting, stays in the cache.
 *
 * keys: one uint64_t a row; begins: 2^upper + 1; cursors: the larger of 2^upper and 2^lower.
 */
static Outcome build(const uint64_t *rows, size_t count, unsigned words, unsigned start, unsigned width,
                     unsigned next_start, unsigned hint_width, uint8_t *lines, uint32_t *postings,
                     uint64_t *keys, uint32_t *begins, uint32_t *cursors) {
    unsigned upper = width / 2, lower = width - upper;
    unsigned row_bits = row_bits_of(count);
    size_t parts = (size_t)1 << upper, buckets = (size_t)1 << lower;
    memset(begins, 0, (parts + 1) * sizeof(uint32_t));
    for (size_t row = 0; row < count; row++)
        begins[(key_of(rows + row * words, start, width) >> lower) + 1]++;
    for (size_t part = 0; part < parts; part++) {
        begins[part + 1] += begins[part];
        cursors[part] = begins[part];
    }
    for (size_t row = 0; row < count; row++) {
        uint32_t key = key_of(rows + row * words, start, width);
        uint32_t part = key >> lower;
        /* The rows are mapped from a file: had one changed since it was counted, its part would overflow. */
        if (cursors[part] == begins[part + 1])
            return DAMAGED;
        uint64_t posting = (uint64_t)key_of(rows + row * words, next_start, hint_width) << row_bits | row;
        keys[cursors[part]++] = (uint64_t)(key & (buckets - 1)) << 32 | posting;
    }
    /* From here on, all is read from memory of our own. */
    Writer writer = {.line = lines};
    for (size_t part = 0; part < parts; part++) {
        uint32_t begin = begins[part];
        memset(cursors, 0, buckets * sizeof(uint32_t));
        for (size_t place = begins[part]; place < begins[part + 1]; place++)
            cursors[keys[place] >> 32]++;
        for (size_t bucket = 0; bucket < buckets; bucket++) {
            uint32_t end = begin + cursors[bucket];
            write_bucket(&writer, begin, end);
            cursors[bucket] = begin;
            begin = end;
        }
        for (size_t place = begins[part]; place < begins[part + 1]; place++)
            postings[cursors[keys[place] >> 32]++] = (uint32_t)keys[place];
    }
    while (writer.slot != 0)
        write_bucket(&writer, (uint32_t)count, (uint32_t)count);
    for (unsigned slot = 0; slot < LINE_BUCKETS; slot++)
        write_bucket(&writer, (uint32_t)count, (uint32_t)count);
    return FOUND;
}

PyDoc_STRVAR(build_band_doc,
             "build_band(rows, words, start, width, next_start, next_width, directory, postings) -> None");

static PyObject *build_band(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer rows = {0}, lines = {0}, postings = {0};
    int words, start, width, next_start, next_width;
    uint64_t *keys = NULL;
    uint32_t *begins = NULL, *cursors = NULL;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*iiiiiw*w*", &rows, &words, &start, &width, &next_start, &next_width,
                          &lines, &postings))
        return NULL;
    if (words_are_wrong(words))
        goto done;
    int64_t count = items(&rows, (size_t)words * sizeof(uint64_t), sizeof(uint64_t));
    if (count < 0)
        goto done;
    if (width < 1 || width > MAX_WIDTH || start < 0 || start > words * WORD_BITS - width || next_width < 1 ||
        next_width > MAX_WIDTH || next_start < 0 || next_start > words * WORD_BITS - next_width ||
        (size_t)lines.len != lines_of((unsigned)width) * LINE_BYTES ||
        (size_t)postings.len != (size_t)count * sizeof(uint32_t) ||
        (uintptr_t)postings.buf % sizeof(uint32_t) != 0) {
        PyErr_SetString(PyExc_ValueError, "the band does not fit its directory and its postings");
        goto done;
    }
    unsigned upper = (unsigned)width / 2, lower = (unsigned)width - upper; /* upper <= lower <= 16 */
    keys = malloc((size_t)(count + 1) * sizeof(uint64_t));
    begins = malloc((((size_t)1 << upper) + 1) * sizeof(uint32_t));
    cursors = malloc(((size_t)1 << lower) * sizeof(uint32_t));
    if (keys == NULL || begins == NULL || cursors == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    Outcome outcome;
    Py_BEGIN_ALLOW_THREADS
    outcome = build(rows.buf, (size_t)count, (unsigned)words, (unsigned)start, (unsigned)width,
                    (unsigned)next_start, hint_width_of(row_bits_of((size_t)count), (unsigned)next_width),
                    lines.buf, postings.buf, keys, begins, cursors);
    Py_END_ALLOW_THREADS
    if (outcome == FOUND)
        result = Py_NewRef(Py_None);
    else
        PyErr_SetString(PyExc_ValueError, "the rows changed while they were indexed");
done:
    free(cursors);
    free(begins);
    free(keys);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&lines);
    PyBuffer_Release(&postings);
    return result;
}

PyDoc_STRVAR(shuffle_doc, "shuffle(values, words, table, rows) -> None");

/* Each byte of a value has a row of the table for each of its 256 values: what it becomes, shuffled. */
static PyObject *shuffle(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer values = {0}, table = {0}, rows = {0};
    int words;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*iy*w*", &values, &words, &table, &rows))
        return NULL;
    if (words_are_wrong(words))
        goto done;
    size_t size = (size_t)words * sizeof(uint64_t);
    int64_t count = items(&values, size, 1);
    if (count < 0)
        goto done;
    if (rows.len != values.len || (size_t)table.len != size * 256 * size ||
        (uintptr_t)rows.buf % sizeof(uint64_t) != 0 || (uintptr_t)table.buf % sizeof(uint64_t) != 0) {
        PyErr_SetString(PyExc_ValueError, "the rows or the table do not fit the values");
        goto done;
    }
    const uint8_t *value = values.buf;
    const uint64_t *entries = table.buf;
    uint64_t *row = rows.buf;
    Py_BEGIN_ALLOW_THREADS
    for (int64_t number = 0; number < count; number++, value += size, row += words) {
        uint64_t shuffled[MAX_WORDS] = {0};
        for (size_t place = 0; place < size; place++) {
            const uint64_t *becomes = entries + (place * 256 + value[place]) * (size_t)words;
            for (int word = 0; word < words; word++)
                shuffled[word] |= becomes[word];
        }
        memcpy(row, shuffled, size);
    }
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&values);
    PyBuffer_Release(&table);
    PyBuffer_Release(&rows);
    return result;
}

static PyMethodDef methods[] = {
    {"search", search, METH_VARARGS, search_doc},
    {"build_band", build_band, METH_VARARGS, build_band_doc},
    {"shuffle", shuffle, METH_VARARGS, shuffle_doc},
    {0},
};

static int start_module(PyObject *Py_UNUSED(module)) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("popcnt"))
        chosen_search = search_popcnt;
#endif
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, start_module}, {0}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "app.matching._hamming",
    .m_doc = "The loops of hamming.py in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__hamming(void) { return PyModuleDef_Init(&definition); }
