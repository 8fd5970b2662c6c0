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
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "snapshots are little-endian, and read in place; fallback.py serves other machines"
#endif

#define INLINE static inline __attribute__((always_inline))

enum {
    MAX_WORDS = 4,          /* 256 bits, the longest hash */
    WORD_BITS = 64,
    MAX_BANDS = MAX_WORDS * WORD_BITS,
    MAX_WIDTH = 32,         /* a key is a uint32_t */
    AHEAD = 40,             /* how far to fetch: more than a core keeps in flight */
    LINE_WORDS = 8,         /* of a line of the cache */
    GROUP_WORDS = 16,       /* of two lines side by side, which memory gives as fast as one */
    LANES = 16,             /* postings that one instruction looks at, where it can */
    ROWS_PER_CANDIDATE = 64, /* of so many rows, one may lead to a group: more are marked */
    ROWS_PER_HIT = 1024,    /* of so many rows, one may be told before they are sorted: more are marked too */
    SAMPLED = 16,           /* chunks that tell how many of all postings lead to a group */
    MAX_PROBES = 1 << 26,   /* of one query; hamming.py plans fewer by far */
    PLANNED_PROBES = 1 << 18, /* of one query with bits in doubt, at most; beyond, all rows are scanned */
    PROBE_COST = 12,          /* in rows of a scan, as the next two */
    CANDIDATE_COST = 16,      /* of a posting whose hint lets it pass: its group is marked, and looked at in order */
    POSTINGS_COST = 2,        /* so many postings that are looked at cost one row */
    FEW_VALUES = 1024       /* shuffled in some ten microseconds */
};

typedef struct {
    int32_t start, width, radius; /* bits; a radius of -1 leaves the band out */
} Cut;

/* Bits to turn over in a key, and how many they are. */
typedef struct {
    uint32_t bits;
    int32_t weight;
} Mask;

/* What is searched for: a row, and which of its bits count. */
typedef struct {
    const uint64_t *value;
    uint64_t counted[MAX_WORDS];
    uint32_t number;
} Query;

typedef struct {
    unsigned start, width;
    int radius;
    unsigned next, hint_width; /* the band after it, the first after the last; how much of its key a hint holds */
    int together;              /* the most that both can differ: see gather */
    size_t slots;              /* where its part of the directory begins */
    const uint32_t *postings;
    const Mask *masks;         /* for each key within the radius; none where each query has bits in doubt */
    size_t probes;             /* keys to be looked up */
} Band;

typedef struct {
    const uint64_t *rows;
    const uint32_t *directory;
    size_t count;      /* of rows: fits into a uint32_t */
    unsigned words;    /* of a row */
    unsigned shift;    /* 2^shift rows, which are fetched together, share a number in postings: their group */
    size_t groups;
    unsigned group_bits; /* of a posting; what is above them is the hint */
    Band bands[MAX_BANDS];
    size_t band_count;
    size_t probes; /* of all bands together, at most */
    Mask *masks;
    unsigned threshold;
    uint64_t limit; /* of postings of one query */
    size_t most;    /* hits, after which the search stops between two rows or queries */
} Index;

/* What a posting's hint is compared with, and which of its bits count. */
typedef struct {
    uint32_t value, counted;
} Hint;

/* A bucket to look up in the directory. */
typedef struct {
    const uint32_t *slot;
    int32_t spare; /* in how many bits a hint there may differ */
} Probe;

/* What one instruction takes of a bucket, LANES postings at most. */
typedef struct {
    const uint32_t *postings;
    uint32_t size;
    int32_t spare;
} Chunk;

/* Groups of which a row may be near a query. */
typedef struct {
    uint32_t *groups;
    size_t count, most; /* there is room for WORD_BITS more, since some are stored all at once */
    uint64_t *marks;    /* a bit for each group, once there were more; all are clear between two queries */
    int marked;         /* some of them, for this query */
} Candidates;

typedef struct {
    uint32_t query, entry, distance;
} Hit;

typedef struct {
    Hit *hits;
    size_t count, capacity;
} Hits;

/* FULL: there are as many hits as were asked for, and there may be more. CROWDED: a scan is cheaper. */
typedef enum { FOUND, FULL, CROWDED, DAMAGED, NO_MEMORY } Outcome;

/* What is innermost, for one kind of processor. */
typedef struct {
    /* Takes candidates from chunks until there are no more, or more than fit. */
    Outcome (*gather)(const Index *, Hint, const Chunk **next, const Chunk *end, const Chunk *last, Candidates *);
    /* Tells those candidates that are near. */
    Outcome (*count)(const Index *, const Candidates *, const Query *, Hits *);
    /* Looks at every row from ``*row`` on, which says where it stopped. */
    Outcome (*scan)(const Index *, const Query *, size_t *row, Hits *);
} Loops;

/* A compiler may load a plain variable twice, and a mapped file may change in between. */
INLINE uint32_t once32(const uint32_t *place) { return *(const volatile uint32_t *)place; }

/* Of a band's directory: where each bucket begins, and where the last one ends. At most 2^32 + 1. */
INLINE size_t slots_of(unsigned width) { return ((size_t)1 << width) + 1; }

/* The value of a band of a row. start + width <= words * 64 (see read_cuts), so where the band spills into
 * a second word, that is still one of the row's. */
INLINE uint32_t key_of(const uint64_t *row, unsigned start, unsigned width) {
    unsigned word = start / WORD_BITS, offset = start % WORD_BITS;
    uint64_t key = row[word] >> offset;
    if (offset + width > WORD_BITS) /* then offset > 32, and the shift below is less than 64 */
        key |= row[word + 1] << (WORD_BITS - offset);
    return (uint32_t)(key & (((uint64_t)1 << width) - 1));
}

/* Of rows of so many words 2^shift are a group: whoever fetches one has all of them. */
INLINE unsigned shift_of(unsigned words) {
    unsigned shift = 0;
    while (words << (shift + 1) <= GROUP_WORDS)
        shift++;
    return shift;
}

/* How many bits of a posting the number of a group of rows takes. */
INLINE unsigned group_bits_of(size_t count, unsigned words) {
    unsigned bits = 1, shift = shift_of(words);
    while (bits < 32 && (uint64_t)(count - 1) >> shift >> bits)
        bits++;
    return bits;
}

/* How many bits above it hold the lower part of the row's key in the next band. */
INLINE unsigned hint_width_of(unsigned group_bits, unsigned next_width) {
    return 32 - group_bits < next_width ? 32 - group_bits : next_width;
}

INLINE unsigned distance_of(const uint64_t *row, const Query *query, unsigned words) {
    unsigned distance = 0;
    for (unsigned word = 0; word < words; word++)
        distance += (unsigned)__builtin_popcountll((row[word] ^ query->value[word]) & query->counted[word]);
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

/* Into the second-level cache: the first has too few places for what is on its way. */
INLINE void fetch(const void *place) { __builtin_prefetch(place, 0, 1); }

/* The postings of a chunk further on, if there is one; they may lie on two lines. */
INLINE void fetch_chunk(const Chunk *chunk, const Chunk *last, ptrdiff_t further) {
    if (last - chunk > further) {
        fetch(chunk[further].postings);
        fetch(chunk[further].postings + chunk[further].size - 1);
    }
}

/* The rows of a candidate, if there are so many. */
INLINE void fetch_rows(const Index *index, const Candidates *found, size_t which) {
    if (which < found->count) {
        const uint64_t *rows = index->rows + ((size_t)found->groups[which] << index->shift) * index->words;
        fetch(rows);
        fetch(rows + LINE_WORDS);
    }
}

INLINE void fetch_first_rows(const Index *index, const Candidates *found) {
    for (size_t which = 0; which < AHEAD; which++)
        fetch_rows(index, found, which);
}

/* The groups of the rows that a band may lead to: the key is within its radius, and so is the hint of the next.
 *
 * Let d be the differing bits of each band and t = r + 1. If the sum of d is T at most and that of t is more,
 * then on the ring of bands there is one from which on every partial sum of d - t is negative: the one after the
 * last greatest sum from the beginning (the cycle lemma). Of these partial sums the first says d <= r of that
 * band, which is what is looked up; the second, d + d' <= r + r' + 1 with the next, sets most rows aside before
 * they are fetched. A hint is part of the next key, and so differs in d' bits at most. */
INLINE Outcome gather(const Index *index, Hint hint, const Chunk **next, const Chunk *end, const Chunk *last,
                      Candidates *found) {
    uint32_t group_mask = (uint32_t)(((uint64_t)1 << index->group_bits) - 1), furthest = 0;
    const Chunk *chunk = *next;
    uint32_t *candidates = found->groups;
    size_t count = found->count, most = found->most;
    for (; chunk < end && count <= most; chunk++) {
        fetch_chunk(chunk, last, AHEAD);
        for (uint32_t place = 0; place < chunk->size; place++) {
            uint32_t posting = once32(chunk->postings + place);
            uint32_t group = posting & group_mask;
            uint32_t differing = ((uint32_t)((uint64_t)posting >> index->group_bits) ^ hint.value) & hint.counted;
            furthest = group > furthest ? group : furthest;
            candidates[count] = group;
            /* Without a branch: which way it goes cannot be foreseen. */
            count += __builtin_popcountll(differing) <= chunk->spare;
        }
    }
    *next = chunk;
    found->count = count;
    return furthest < index->groups ? FOUND : DAMAGED;
}

/* Tells those rows of a group that are near; the last group may be cut short. */
INLINE Outcome count_group(const Index *index, size_t entry, const Query *query, Hits *hits, unsigned words) {
    size_t end = entry + ((size_t)1 << shift_of(words));
    for (end = end < index->count ? end : index->count; entry < end; entry++) {
        unsigned distance = distance_of(index->rows + entry * words, query, words);
        if (distance <= index->threshold && append(hits, query->number, (uint32_t)entry, distance) != FOUND)
            return NO_MEMORY;
    }
    return FOUND;
}

INLINE Outcome count_words(const Index *index, const Candidates *found, const Query *query, Hits *hits,
                           unsigned words) {
    unsigned shift = shift_of(words);
    fetch_first_rows(index, found);
    for (size_t which = 0; which < found->count; which++) {
        fetch_rows(index, found, which + AHEAD);
        size_t entry = (size_t)found->groups[which] << shift;
        if (count_group(index, entry, query, hits, words) != FOUND)
            return NO_MEMORY;
    }
    return FOUND;
}

INLINE Outcome scan_words(const Index *index, const Query *query, size_t *row, size_t end, Hits *hits,
                          unsigned words) {
    for (size_t entry = *row; entry < end; entry++) {
        unsigned distance = distance_of(index->rows + entry * words, query, words);
        if (distance > index->threshold)
            continue;
        if (append(hits, query->number, (uint32_t)entry, distance) != FOUND)
            return NO_MEMORY;
        if (hits->count >= index->most) {
            *row = entry + 1;
            return FULL;
        }
    }
    return FOUND;
}

/* The number of words as a constant lets the compiler unroll what is innermost. */
INLINE Outcome count(const Index *index, const Candidates *found, const Query *query, Hits *hits) {
    switch (index->words) {
    case 1: return count_words(index, found, query, hits, 1);
    case 4: return count_words(index, found, query, hits, 4);
    default: return count_words(index, found, query, hits, index->words);
    }
}

INLINE Outcome scan(const Index *index, const Query *query, size_t *row, Hits *hits) {
    switch (index->words) {
    case 1: return scan_words(index, query, row, index->count, hits, 1);
    case 4: return scan_words(index, query, row, index->count, hits, 4);
    default: return scan_words(index, query, row, index->count, hits, index->words);
    }
}

/* The loops above, compiled for one kind of processor. */
#define LOOPS_FOR(name, attributes)                                                                              \
    attributes static Outcome gather_##name(const Index *index, Hint hint, const Chunk **next, const Chunk *end, \
                                            const Chunk *last, Candidates *found) {                              \
        return gather(index, hint, next, end, last, found);                                                      \
    }                                                                                                            \
    attributes static Outcome count_##name(const Index *index, const Candidates *found, const Query *query,      \
                                           Hits *hits) {                                                         \
        return count(index, found, query, hits);                                                                 \
    }                                                                                                            \
    attributes static Outcome scan_##name(const Index *index, const Query *query, size_t *row, Hits *hits) {     \
        return scan(index, query, row, hits);                                                                    \
    }

LOOPS_FOR(portable, )
static const Loops portable = {gather_portable, count_portable, scan_portable};

#if defined(__x86_64__)
/* The first x86-64 processors lack the instruction. */
LOOPS_FOR(popcnt, __attribute__((target("popcnt"))))
static const Loops popcnt = {gather_popcnt, count_popcnt, scan_popcnt};

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vpopcntdq,popcnt")))

/* As gather, a chunk at a time. */
AVX512 static Outcome gather_avx512(const Index *index, Hint hint, const Chunk **next, const Chunk *end,
                                    const Chunk *last, Candidates *found) {
    const __m512i group_mask = _mm512_set1_epi32((int)(uint32_t)(((uint64_t)1 << index->group_bits) - 1));
    const __m512i furthest = _mm512_set1_epi32((int)(uint32_t)(index->groups - 1));
    const __m512i hints = _mm512_set1_epi32((int)hint.value), counted = _mm512_set1_epi32((int)hint.counted);
    const __m128i group_bits = _mm_cvtsi32_si128((int)index->group_bits);
    const Chunk *chunk = *next;
    uint32_t *candidates = found->groups;
    size_t count = found->count, most = found->most;
    __mmask16 astray = 0;
    for (; chunk < end && count <= most; chunk++) {
        fetch_chunk(chunk, last, AHEAD);
        __mmask16 there = (__mmask16)((1u << chunk->size) - 1);
        __m512i postings = _mm512_maskz_loadu_epi32(there, chunk->postings);
        __asm__("" : "+v"(postings)); /* loaded once: see once32 */
        __m512i groups = _mm512_and_si512(postings, group_mask);
        __m512i differing =
            _mm512_and_si512(_mm512_xor_si512(_mm512_srl_epi32(postings, group_bits), hints), counted);
        __mmask16 near = _mm512_mask_cmple_epi32_mask(there, _mm512_popcnt_epi32(differing),
                                                      _mm512_set1_epi32(chunk->spare));
        astray |= _mm512_mask_cmpgt_epu32_mask(there, groups, furthest);
        /* All lanes are stored: to store some of them is slow on some processors. */
        _mm512_storeu_si512(candidates + count, _mm512_maskz_compress_epi32(near, groups));
        count += (size_t)__builtin_popcountll(near);
    }
    *next = chunk;
    found->count = count;
    return astray ? DAMAGED : FOUND;
}

/* Of four rows, the sums of their first two words and of their last two. */
AVX512 static inline __m512i halves_of(__m512i one, __m512i other) {
    return _mm512_add_epi64(_mm512_unpacklo_epi64(one, other), _mm512_unpackhi_epi64(one, other));
}

/* As count; rows of four words, the four of a group at a time. */
AVX512 static Outcome count_avx512(const Index *index, const Candidates *found, const Query *query, Hits *hits) {
    if (index->words != MAX_WORDS)
        return count(index, found, query, hits);
    const __m512i wanted = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)query->value));
    const __m512i counted = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)query->counted));
    const __m512i threshold = _mm512_set1_epi64((long long)index->threshold);
    fetch_first_rows(index, found);
    for (size_t which = 0; which < found->count; which++) {
        fetch_rows(index, found, which + AHEAD);
        size_t entry = (size_t)found->groups[which] << index->shift, end = entry + 4;
        if (end <= index->count) {
            const uint64_t *rows = index->rows + entry * MAX_WORDS;
            __m512i first = _mm512_and_si512(_mm512_xor_si512(_mm512_loadu_si512(rows), wanted), counted);
            __m512i last = _mm512_and_si512(_mm512_xor_si512(_mm512_loadu_si512(rows + 8), wanted), counted);
            __m512i halves = halves_of(_mm512_popcnt_epi64(first), _mm512_popcnt_epi64(last));
            __m512i distances = _mm512_add_epi64(halves, _mm512_shuffle_i64x2(halves, halves, 0xB1));
            if (_mm512_cmple_epu64_mask(distances, threshold) == 0)
                continue;
        }
        if (count_group(index, entry, query, hits, MAX_WORDS) != FOUND)
            return NO_MEMORY;
    }
    return FOUND;
}

/* As scan; rows of four words, eight at a time. */
AVX512 static Outcome scan_avx512(const Index *index, const Query *query, size_t *row, Hits *hits) {
    if (index->words != MAX_WORDS)
        return scan(index, query, row, hits);
    const __m512i wanted = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)query->value));
    const __m512i counted = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)query->counted));
    const __m512i threshold = _mm512_set1_epi64((long long)index->threshold);
    for (; index->count - *row >= 8; *row += 8) {
        const uint64_t *rows = index->rows + *row * MAX_WORDS;
        __m512i bits[4]; /* of two rows each */
        for (int pair = 0; pair < 4; pair++)
            bits[pair] = _mm512_popcnt_epi64(
                _mm512_and_si512(_mm512_xor_si512(_mm512_loadu_si512(rows + 8 * pair), wanted), counted));
        __m512i low = halves_of(bits[0], bits[1]), high = halves_of(bits[2], bits[3]);
        __m512i distances = /* of the eight rows, in some order */
            _mm512_add_epi64(_mm512_shuffle_i64x2(low, high, 0x88), _mm512_shuffle_i64x2(low, high, 0xDD));
        if (_mm512_cmple_epu64_mask(distances, threshold) == 0)
            continue;
        size_t end = *row + 8, at = *row;
        Outcome outcome = scan_words(index, query, &at, end, hits, MAX_WORDS);
        if (outcome != FOUND) {
            *row = at;
            return outcome;
        }
    }
    return scan(index, query, row, hits);
}

static const Loops avx512 = {gather_avx512, count_avx512, scan_avx512};
#endif

/* All keys within each band's radius of the query's. Writes no more than read_cuts counted. */
static void find_slots(const Index *index, const uint64_t *query, Probe *probes) {
    for (size_t which = 0; which < index->band_count; which++) {
        const Band *band = &index->bands[which];
        const uint32_t *slots = index->directory + band->slots;
        uint32_t key = key_of(query, band->start, band->width);
        for (size_t mask = 0; mask < band->probes; mask++)
            /* The key stays below 2^width, so there is one more slot after this one. */
            *probes++ = (Probe){.slot = slots + (key ^ band->masks[mask].bits),
                                .spare = band->together - band->masks[mask].weight};
    }
}

/* Bits in doubt never differ: of a band, only the others do, and each value of those in doubt is looked up. The
 * fewest look-ups that find all rows within the threshold are made of the cheapest steps, each of which raises
 * one band's radius by one: up to the middle of a band, each step costs more than the one before. False if a scan
 * is cheaper. */
static int plan(Index *index, const uint64_t *doubts) {
    uint64_t costs[MAX_BANDS], total = 0; /* of each band's next step */
    unsigned sure[MAX_BANDS];
    for (size_t which = 0; which < index->band_count; which++) {
        Band *band = &index->bands[which];
        unsigned doubted = (unsigned)__builtin_popcountll(key_of(doubts, band->start, band->width));
        sure[which] = band->width - doubted;
        costs[which] = (uint64_t)1 << doubted;
        band->radius = -1;
        band->probes = 0;
    }
    for (unsigned step = 0; step <= index->threshold; step++) {
        size_t cheapest = 0;
        for (size_t which = 1; which < index->band_count; which++)
            cheapest = costs[which] < costs[cheapest] ? which : cheapest;
        Band *band = &index->bands[cheapest];
        if (costs[cheapest] > index->probes - total)
            return 0;
        total += costs[cheapest];
        band->probes += costs[cheapest];
        band->radius++;
        /* Below 2^32 times 2^6. At last there are none, and no scan is dearer. */
        costs[cheapest] = costs[cheapest] * (sure[cheapest] - (unsigned)band->radius) / ((unsigned)band->radius + 1);
        if (costs[cheapest] == 0)
            costs[cheapest] = UINT64_MAX;
    }
    for (size_t which = 0; which < index->band_count; which++)
        index->bands[which].together = index->bands[which].radius + index->bands[index->bands[which].next].radius + 1;
    return 1;
}

/* The keys with up to so many of these bits turned over, each of them once. */
static Probe *turn_over(Probe *probes, const uint32_t *slots, uint32_t key, const uint32_t *bits, unsigned count,
                        int radius, int spare) {
    *probes++ = (Probe){slots + key, spare};
    if (radius == 1) /* nearly all of them */
        for (unsigned bit = 0; bit < count; bit++)
            *probes++ = (Probe){slots + (key ^ bits[bit]), spare - 1};
    else if (radius > 1)
        for (unsigned bit = 0; bit < count; bit++)
            probes = turn_over(probes, slots, key ^ bits[bit], bits + bit + 1, count - bit - 1, radius - 1, spare - 1);
    return probes;
}

/* Keys to be looked up of all bands together, as they are planned. */
INLINE size_t probes_of(const Index *index) {
    size_t all = 0;
    for (size_t which = 0; which < index->band_count; which++)
        all += index->bands[which].probes;
    return all;
}

/* As find_slots, with each value of the bits in doubt; no more than were planned. */
static void find_doubted_slots(const Index *index, const uint64_t *query, const uint64_t *doubts, Probe *probes) {
    for (size_t which = 0; which < index->band_count; which++) {
        const Band *band = &index->bands[which];
        if (band->radius < 0)
            continue;
        uint32_t doubted = key_of(doubts, band->start, band->width), bits[MAX_WIDTH], some = 0;
        unsigned sure = 0;
        for (unsigned bit = 0; bit < band->width; bit++) {
            bits[sure] = (uint32_t)1 << bit;
            sure += !(doubted >> bit & 1);
        }
        uint32_t key = key_of(query, band->start, band->width) & ~doubted;
        do
            probes = turn_over(probes, index->directory + band->slots, key | some, bits, sure, band->radius,
                               band->together);
        while ((some = (some - doubted) & doubted) != 0); /* all that is a part of it */
    }
}

static int by_entry(const void *one, const void *other) {
    uint32_t left = ((const Hit *)one)->entry, right = ((const Hit *)other)->entry;
    return (left > right) - (left < right);
}

/* Puts the hits of one query in order, and tells each once: several bands may have led to it. */
static void settle(Hits *hits, size_t first) {
    if (hits->count - first < 2)
        return;
    qsort(hits->hits + first, hits->count - first, sizeof(Hit), by_entry);
    size_t last = first;
    for (size_t which = first + 1; which < hits->count; which++)
        if (hits->hits[which].entry != hits->hits[last].entry)
            hits->hits[++last] = hits->hits[which];
    hits->count = last + 1;
}

/* Cuts a bucket into chunks, and returns where the next ones go. Most buckets make one or two. */
INLINE Chunk *cut(Chunk *chunks, const uint32_t *postings, uint32_t size, int32_t spare) {
    uint32_t rest = size > LANES ? size - LANES : 0;
    /* Without a branch, as in gather. */
    chunks[0] = (Chunk){postings, size < LANES ? size : LANES, spare};
    chunks += size != 0;
    chunks[0] = (Chunk){postings + LANES, rest < LANES ? rest : LANES, spare};
    chunks += rest != 0;
    for (uint32_t done = 2 * LANES; done < size; done += LANES)
        *chunks++ = (Chunk){postings + done, size - done < LANES ? size - done : LANES, spare};
    return chunks;
}

/* The most chunks that buckets of ``limit`` postings together make, and the one that cut writes in vain. */
INLINE uint64_t most_chunks(const Index *index) { return index->probes + index->limit / LANES + 2; }

/* Where the postings of a bucket begin, and how many they are; DAMAGED if they are not in the band. */
INLINE Outcome read_bucket(const Index *index, const Band *band, const Probe *probe, Chunk *bucket) {
    uint32_t first = once32(probe->slot), behind = once32(probe->slot + 1);
    if (first > behind || behind > index->count)
        return DAMAGED;
    *bucket = (Chunk){band->postings + first, behind - first, probe->spare};
    return FOUND;
}

/* How many postings all buckets near a query hold; up to so many, their chunks, and where those of each band end.
 * DAMAGED, or CROWDED if they are more than the limit of the index. */
static Outcome look_up(const Index *index, const Probe *probes, uint64_t most, Chunk *chunks, const Chunk **ends,
                       uint64_t *postings) {
    uint64_t total = 0;
    size_t at = 0, all = probes_of(index);
    for (; at < AHEAD && at < all; at++)
        fetch(probes[at].slot);
    at = 0;
    for (size_t which = 0; which < index->band_count; which++) {
        const Band *band = &index->bands[which];
        for (size_t end = at + band->probes; at < end; at++) {
            if (at + AHEAD < all)
                fetch(probes[at + AHEAD].slot);
            Chunk bucket;
            if (read_bucket(index, band, &probes[at], &bucket) != FOUND)
                return DAMAGED;
            total += bucket.size;
            if (total > index->limit)
                return CROWDED;
            if (total <= most)
                chunks = cut(chunks, bucket.postings, bucket.size, bucket.spare);
        }
        ends[which] = chunks;
    }
    *postings = total;
    return FOUND;
}

/* What the postings of a band are compared with. */
INLINE Hint hint_of(const Index *index, const Query *query, const Band *band) {
    unsigned next = index->bands[band->next].start;
    return (Hint){key_of(query->value, next, band->hint_width), key_of(query->counted, next, band->hint_width)};
}

/* So many postings are looked at sooner than all rows, whatever they lead to. */
static uint64_t sure_limit(const Index *index) {
    uint64_t probing = (uint64_t)probes_of(index) * PROBE_COST;
    uint64_t sure = probing < index->count ? (index->count - probing) / (CANDIDATE_COST + 1) : 0;
    return sure < index->limit ? sure : index->limit;
}

/* CROWDED if a scan is cheaper than to look at all postings of a query, which are more than surely are not.
 *
 * Some of them tell how many lead to groups. Which are asked depends on where the memory is: nobody who makes up
 * entries knows it, and so nobody can hide a crowd behind those. */
static Outcome weigh(const Index *index, const Loops *loops, const Query *query, const Probe *probes, uint64_t total,
                     Candidates *found) {
    uint64_t asked = 0, passing = 0;
    const Probe *probe = probes;
    Chunk bucket;
    uint64_t step = total / SAMPLED + 1;
    uint64_t next = ((uint64_t)(uintptr_t)found->groups * 0x9E3779B97F4A7C15 >> 32) % step;
    for (size_t which = 0; which < index->band_count; which++) {
        Hint hint = hint_of(index, query, &index->bands[which]);
        for (const Probe *end = probe + index->bands[which].probes; probe < end; probe++) {
            if (read_bucket(index, &index->bands[which], probe, &bucket) != FOUND)
                return DAMAGED;
            for (; next < bucket.size; next += step) {
                uint32_t rest = bucket.size - (uint32_t)next;
                Chunk some = {bucket.postings + next, rest < LANES ? rest : LANES, bucket.spare};
                const Chunk *chunk = &some;
                found->count = 0;
                if (loops->gather(index, hint, &chunk, chunk + 1, chunk + 1, found) != FOUND)
                    return DAMAGED;
                asked += some.size;
                passing += found->count;
            }
            next -= bucket.size;
        }
    }
    /* Some hundred pass, of fewer than 2^32. */
    uint64_t candidates = asked != 0 ? passing * total / asked : 0;
    uint64_t cost = (uint64_t)(probe - probes) * PROBE_COST + total / POSTINGS_COST + candidates * CANDIDATE_COST;
    return cost <= index->count ? FOUND : CROWDED;
}

/* Marks the groups that were gathered, so that there is room for more. */
static Outcome mark(const Index *index, Candidates *found) {
    if (found->marks == NULL)
        found->marks = calloc(index->groups / WORD_BITS + 1, sizeof(uint64_t));
    if (found->marks == NULL)
        return NO_MEMORY;
    for (size_t which = 0; which < found->count; which++)
        found->marks[found->groups[which] / WORD_BITS] |= (uint64_t)1 << found->groups[which] % WORD_BITS;
    found->marked = 1;
    found->count = 0;
    return FOUND;
}

/* The candidates of a query: gathered if they are few, marked if they are many. */
static Outcome gather_all(const Index *index, const Loops *loops, const Query *query, const Chunk *chunk,
                          const Chunk *const *ends, Candidates *found) {
    const Chunk *last = ends[index->band_count - 1];
    found->count = 0;
    found->marked = 0;
    for (ptrdiff_t further = 0; further < AHEAD; further++)
        fetch_chunk(chunk, last, further);
    for (size_t which = 0; which < index->band_count; which++) {
        Hint hint = hint_of(index, query, &index->bands[which]);
        while (chunk < ends[which]) {
            if (loops->gather(index, hint, &chunk, ends[which], last, found) != FOUND)
                return DAMAGED;
            if (found->count > found->most && mark(index, found) != FOUND)
                return NO_MEMORY;
        }
    }
    return found->marked ? mark(index, found) : FOUND;
}

/* Tells those rows of the marked groups that are near, in their order and each once, and clears the marks. Stops
 * as a scan does, and a scan can go on from there. */
static Outcome count_marked(const Index *index, const Loops *loops, Candidates *found, const Query *query,
                            size_t *row, Hits *hits) {
    size_t words = index->groups / WORD_BITS + 1, word = 0;
    Outcome outcome = FOUND;
    while (word < words && outcome == FOUND) {
        for (found->count = 0; word < words && found->count <= found->most; word++) {
            for (uint64_t marks = found->marks[word]; marks != 0; marks &= marks - 1)
                found->groups[found->count++] = (uint32_t)(word * WORD_BITS + (unsigned)__builtin_ctzll(marks));
            found->marks[word] = 0;
        }
        outcome = loops->count(index, found, query, hits);
        *row = (word * WORD_BITS) << index->shift;
        if (outcome == FOUND && hits->count >= index->most && *row < index->count)
            outcome = FULL;
    }
    memset(found->marks + word, 0, (words - word) * sizeof(uint64_t));
    return outcome;
}

static Outcome search_one(Index *index, const Loops *loops, const Query *query, const uint64_t *doubts,
                          Probe *probes, Chunk *chunks, Candidates *found, size_t *row, Hits *hits) {
    const Chunk *ends[MAX_BANDS];
    size_t first = hits->count;
    if (index->band_count == 0 || *row != 0 || (doubts != NULL && !plan(index, doubts)))
        return loops->scan(index, query, row, hits);
    if (doubts != NULL)
        find_doubted_slots(index, query->value, doubts, probes);
    else
        find_slots(index, query->value, probes);
    uint64_t postings = 0, sure = sure_limit(index);
    Outcome outcome = look_up(index, probes, sure, chunks, ends, &postings);
    if (outcome == FOUND && postings > sure) {
        outcome = weigh(index, loops, query, probes, postings, found);
        if (outcome == FOUND)
            outcome = look_up(index, probes, index->limit, chunks, ends, &postings);
    }
    /* Crowded buckets, by bad luck or by somebody's design. */
    if (outcome == CROWDED)
        return loops->scan(index, query, row, hits);
    if (outcome == FOUND)
        outcome = gather_all(index, loops, query, chunks, ends, found);
    if (outcome != FOUND)
        return outcome;
    if (!found->marked) {
        if (loops->count(index, found, query, hits) != FOUND)
            return NO_MEMORY;
        if (hits->count - first <= index->count / ROWS_PER_HIT) {
            settle(hits, first);
            return FOUND;
        }
        /* To sort them, most of them told several times, would take longer than to find them anew in order. */
        hits->count = first;
        if (mark(index, found) != FOUND)
            return NO_MEMORY;
    }
    return count_marked(index, loops, found, query, row, hits);
}

/* Goes on from a row of a query, and says where it stopped. */
static Outcome search_all(Index *index, const Loops *loops, const uint64_t *queries, const uint64_t *doubts,
                          size_t count, Probe *probes, Chunk *chunks, Candidates *found, size_t *number, size_t *row,
                          Hits *hits) {
    for (; *number < count; (*number)++, *row = 0) {
        if (hits->count >= index->most)
            return FULL;
        size_t place = *number * index->words;
        Query query = {.value = queries + place, .number = (uint32_t)*number};
        for (unsigned word = 0; word < index->words; word++)
            query.counted[word] = doubts != NULL ? ~doubts[place + word] : UINT64_MAX;
        Outcome outcome = search_one(index, loops, &query, doubts != NULL ? doubts + place : NULL, probes, chunks,
                                     found, row, hits);
        if (outcome != FOUND)
            return outcome;
    }
    return FOUND;
}

/* How many keys are within a radius of one; more than MAX_PROBES if they are more. */
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

/* Writes as many masks as planned_probes counted: both step through the numbers of ``width`` bits with
 * ``weight`` of them set, of which there are binomial(width, weight). */
static void fill_masks(Mask *masks, unsigned width, int radius) {
    for (int weight = 0; weight <= radius; weight++) {
        uint64_t mask = ((uint64_t)1 << weight) - 1;
        while (mask >> width == 0) {
            *masks++ = (Mask){(uint32_t)mask, weight};
            if (mask == 0)
                break;
            /* The next larger number with as many bits set (Gosper; HAKMEM 175). */
            uint64_t carried = mask + (mask & -mask);
            mask = carried | ((mask ^ carried) >> 2) >> __builtin_ctzll(mask);
        }
    }
}

/* Gives each band its masks, bands that are alike the same ones. */
static int make_masks(Index *index) {
    size_t made = 0;
    index->masks = malloc((index->probes + 1) * sizeof(Mask));
    if (index->masks == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t which = 0; which < index->band_count; which++) {
        Band *band = &index->bands[which];
        for (size_t earlier = 0; earlier < which && band->masks == NULL; earlier++)
            if (index->bands[earlier].width == band->width && index->bands[earlier].radius == band->radius)
                band->masks = index->bands[earlier].masks;
        if (band->masks == NULL) {
            band->masks = index->masks + made;
            fill_masks(index->masks + made, band->width, band->radius);
            made += band->probes;
        }
    }
    return 0;
}

/* Copies the bands out of what Python gave, and checks that they fit the buffers they point into. */
static int read_cuts(Index *index, const Py_buffer *cuts, const Py_buffer *directory, const Py_buffer *postings) {
    const char *wrong = "the bands do not fit the directory and the postings";
    size_t count = (size_t)cuts->len / sizeof(Cut);
    if (count > MAX_BANDS || (size_t)cuts->len % sizeof(Cut) != 0)
        goto refuse;
    size_t slots = 0;
    for (size_t which = 0; which < count; which++) {
        Cut cut;
        memcpy(&cut, (const char *)cuts->buf + which * sizeof(Cut), sizeof(Cut));
        if (cut.width < 1 || cut.width > MAX_WIDTH || cut.radius < -1 || cut.radius > cut.width)
            goto refuse;
        if (cut.start < 0 || cut.start > (int)(index->words * WORD_BITS) - cut.width)
            goto refuse;
        Band band = {
            .start = (unsigned)cut.start,
            .width = (unsigned)cut.width,
            .radius = cut.radius,
            .slots = slots,
            .postings = (const uint32_t *)postings->buf + which * index->count,
            .probes = planned_probes((unsigned)cut.width, cut.radius),
        };
        slots += slots_of(band.width); /* at most 256 times 2^32 + 1 */
        if (slots > (size_t)directory->len / sizeof(uint32_t))
            goto refuse;
        index->bands[which] = band;
        index->probes += band.probes;
        if (index->probes > MAX_PROBES) {
            wrong = "the radii ask for too many look-ups";
            goto refuse;
        }
    }
    index->band_count = count;
    for (size_t which = 0; which < count; which++) {
        Band *band = &index->bands[which];
        band->next = (unsigned)((which + 1) % count);
        band->hint_width = hint_width_of(index->group_bits, index->bands[band->next].width);
        band->together = band->radius + index->bands[band->next].radius + 1;
    }
    /* count <= 256 and the number of rows < 2^32: no overflow. */
    if ((size_t)directory->len != slots * sizeof(uint32_t) ||
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

PyDoc_STRVAR(search_doc, "search(rows, words, directory, postings, cuts, queries, doubts, threshold, limit, most, number, "
                         "row) "
                         "-> (bytes, number, row)");

static PyObject *search_with(const Loops *loops, PyObject *arguments) {
    Py_buffer rows = {0}, directory = {0}, postings = {0}, cuts = {0}, queries = {0}, doubts = {0};
    int words;
    unsigned int threshold;
    unsigned long long limit, most, first_number, first_row;
    PyObject *result = NULL;
    Index *index = NULL;
    Probe *probes = NULL;
    Chunk *chunks = NULL;
    Candidates found = {0};
    Hits hits = {0};
    if (!PyArg_ParseTuple(arguments, "y*iy*y*y*y*y*IKKKK", &rows, &words, &directory, &postings, &cuts, &queries,
                          &doubts, &threshold, &limit, &most, &first_number, &first_row))
        return NULL;
    if (words_are_wrong(words))
        goto done;
    int64_t row_count = items(&rows, (size_t)words * sizeof(uint64_t), sizeof(uint64_t));
    int64_t query_count = items(&queries, (size_t)words * sizeof(uint64_t), sizeof(uint64_t));
    if (row_count < 0 || query_count < 0)
        goto done;
    if (doubts.len != 0 && (doubts.len != queries.len || (uintptr_t)doubts.buf % sizeof(uint64_t) != 0)) {
        PyErr_SetString(PyExc_ValueError, "each query has bits in doubt, or none has");
        goto done;
    }
    if ((uintptr_t)directory.buf % sizeof(uint32_t) != 0 || (uintptr_t)postings.buf % sizeof(uint32_t) != 0) {
        PyErr_SetString(PyExc_ValueError, "the directory and the postings must be aligned");
        goto done;
    }
    if (most < 1 || first_number > (uint64_t)query_count || first_row > (uint64_t)row_count) {
        PyErr_SetString(PyExc_ValueError, "the search goes on from a row of a query, and tells one hit at least");
        goto done;
    }
    index = calloc(1, sizeof(Index));
    if (index == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    index->rows = rows.buf;
    index->directory = directory.buf;
    index->count = (size_t)row_count;
    index->words = (unsigned)words;
    index->shift = shift_of(index->words);
    index->groups = (index->count + ((size_t)1 << index->shift) - 1) >> index->shift;
    index->group_bits = group_bits_of(index->count, index->words);
    index->threshold = threshold;
    index->limit = limit < (uint64_t)row_count ? limit : (uint64_t)row_count;
    index->most = most < SIZE_MAX ? (size_t)most : SIZE_MAX;
    if (read_cuts(index, &cuts, &directory, &postings) != 0)
        goto done;
    if (doubts.len != 0) /* planned for each query */
        index->probes = index->count / PROBE_COST < PLANNED_PROBES ? index->count / PROBE_COST : PLANNED_PROBES;
    else if (make_masks(index) != 0)
        goto done;
    probes = malloc((index->probes + 1) * sizeof(Probe));
    chunks = malloc((size_t)most_chunks(index) * sizeof(Chunk));
    found.most = index->count / ROWS_PER_CANDIDATE;
    found.groups = malloc((found.most + WORD_BITS + 1) * sizeof(uint32_t));
    if (probes == NULL || chunks == NULL || found.groups == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    size_t number = (size_t)first_number, row = (size_t)first_row;
    Outcome outcome;
    Py_BEGIN_ALLOW_THREADS
    outcome = search_all(index, loops, queries.buf, doubts.len != 0 ? doubts.buf : NULL, (size_t)query_count, probes,
                         chunks, &found, &number, &row, &hits);
    Py_END_ALLOW_THREADS
    if (outcome == DAMAGED)
        PyErr_SetString(PyExc_ValueError, "the index is damaged: it points outside itself");
    else if (outcome == NO_MEMORY)
        PyErr_NoMemory();
    else
        result = Py_BuildValue("(y#KK)", hits.count ? (const char *)hits.hits : "",
                               (Py_ssize_t)(hits.count * sizeof(Hit)), (unsigned long long)number,
                               (unsigned long long)row);
done:
    free(hits.hits);
    free(found.marks);
    free(found.groups);
    free(chunks);
    free(probes);
    if (index != NULL)
        free(index->masks);
    free(index);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&directory);
    PyBuffer_Release(&postings);
    PyBuffer_Release(&cuts);
    PyBuffer_Release(&queries);
    PyBuffer_Release(&doubts);
    return result;
}

/* The search by each of the loops: a name, what compiles it, and whether this processor can do it. */
#define SEARCH_WITH(name)                                                                                        \
    static PyObject *search_##name(PyObject *Py_UNUSED(module), PyObject *arguments) {                           \
        return search_with(&name, arguments);                                                                    \
    }

SEARCH_WITH(portable)
#if defined(__x86_64__)
SEARCH_WITH(popcnt)
SEARCH_WITH(avx512)
#endif

/* Sorts all rows by their key in one band: first into parts by the key's upper half, so that then each part,
 * sorted by counting, stays in the cache.
 *
 * directory: 2^width + 1; keys: one uint64_t a row; begins: 2^upper + 1; cursors: the larger of 2^upper and
 * 2^lower.
 */
static Outcome build(const uint64_t *rows, size_t count, unsigned words, unsigned start, unsigned width,
                     unsigned next_start, unsigned hint_width, uint32_t *directory, uint32_t *postings,
                     uint64_t *keys, uint32_t *begins, uint32_t *cursors) {
    unsigned upper = width / 2, lower = width - upper;
    unsigned group_bits = group_bits_of(count, words), shift = shift_of(words);
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
        uint64_t hint = key_of(rows + row * words, next_start, hint_width);
        uint64_t posting = hint << group_bits | row >> shift;
        keys[cursors[part]++] = (uint64_t)(key & (buckets - 1)) << 32 | posting;
    }
    /* From here on, all is read from memory of our own. */
    for (size_t part = 0; part < parts; part++) {
        uint32_t begin = begins[part];
        memset(cursors, 0, buckets * sizeof(uint32_t));
        for (size_t place = begins[part]; place < begins[part + 1]; place++)
            cursors[keys[place] >> 32]++;
        for (size_t bucket = 0; bucket < buckets; bucket++) {
            uint32_t size = cursors[bucket];
            *directory++ = cursors[bucket] = begin;
            begin += size;
        }
        for (size_t place = begins[part]; place < begins[part + 1]; place++)
            postings[cursors[keys[place] >> 32]++] = (uint32_t)keys[place];
    }
    *directory = (uint32_t)count;
    return FOUND;
}

PyDoc_STRVAR(build_band_doc,
             "build_band(rows, words, start, width, next_start, next_width, directory, postings) -> None");

static PyObject *build_band(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer rows = {0}, directory = {0}, postings = {0};
    int words, start, width, next_start, next_width;
    uint64_t *keys = NULL;
    uint32_t *begins = NULL, *cursors = NULL;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*iiiiiw*w*", &rows, &words, &start, &width, &next_start, &next_width,
                          &directory, &postings))
        return NULL;
    if (words_are_wrong(words))
        goto done;
    int64_t count = items(&rows, (size_t)words * sizeof(uint64_t), sizeof(uint64_t));
    if (count < 0)
        goto done;
    if (width < 1 || width > MAX_WIDTH || start < 0 || start > words * WORD_BITS - width || next_width < 1 ||
        next_width > MAX_WIDTH || next_start < 0 || next_start > words * WORD_BITS - next_width ||
        (size_t)directory.len != slots_of((unsigned)width) * sizeof(uint32_t) ||
        (uintptr_t)directory.buf % sizeof(uint32_t) != 0 ||
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
    unsigned hint_width = hint_width_of(group_bits_of((size_t)count, (unsigned)words), (unsigned)next_width);
    Outcome outcome;
    Py_BEGIN_ALLOW_THREADS
    outcome = build(rows.buf, (size_t)count, (unsigned)words, (unsigned)start, (unsigned)width,
                    (unsigned)next_start, hint_width, directory.buf, postings.buf, keys, begins, cursors);
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
    PyBuffer_Release(&directory);
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
    /* For the values of a medium it is not worth it: who lets go of the lock waits until it is free again. */
    PyThreadState *thread = count > FEW_VALUES ? PyEval_SaveThread() : NULL;
    for (int64_t number = 0; number < count; number++, value += size, row += words) {
        uint64_t shuffled[MAX_WORDS] = {0};
        for (size_t place = 0; place < size; place++) {
            const uint64_t *becomes = entries + (place * 256 + value[place]) * (size_t)words;
            for (int word = 0; word < words; word++)
                shuffled[word] |= becomes[word];
        }
        memcpy(row, shuffled, size);
    }
    if (thread != NULL)
        PyEval_RestoreThread(thread);
    result = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&values);
    PyBuffer_Release(&table);
    PyBuffer_Release(&rows);
    return result;
}

static PyMethodDef methods[] = {
    {"build_band", build_band, METH_VARARGS, build_band_doc},
    {"shuffle", shuffle, METH_VARARGS, shuffle_doc},
    {0},
};

/* Adds the search by some loops under a name of its own, and as the search that is used. */
static int offer(PyObject *module, PyMethodDef *definition) {
    if (PyModule_AddFunctions(module, definition) != 0)
        return -1;
    PyObject *function = PyObject_GetAttrString(module, definition->ml_name);
    int failed = function == NULL || PyObject_SetAttrString(module, "search", function) != 0;
    Py_XDECREF(function);
    return failed ? -1 : 0;
}

/* The slowest first, so that the fastest that this processor can do is the one that is used. */
static int start_module(PyObject *module) {
    static PyMethodDef by_portable[] = {{"search_portable", search_portable, METH_VARARGS, search_doc}, {0}};
    if (offer(module, by_portable) != 0)
        return -1;
#if defined(__x86_64__)
    static PyMethodDef by_popcnt[] = {{"search_popcnt", search_popcnt, METH_VARARGS, search_doc}, {0}};
    static PyMethodDef by_avx512[] = {{"search_avx512", search_avx512, METH_VARARGS, search_doc}, {0}};
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("popcnt"))
        return 0;
    if (offer(module, by_popcnt) != 0)
        return -1;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vpopcntdq"))
        return offer(module, by_avx512);
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
