/* quant/gemm_tiles.h by AMX, with AVX-512 around it.
 *
 * A span's products leave the tiles by way of memory, where its sums meet the
 * scales. Two such places take turns: the sums of a span are scaled after the
 * products of the next have been issued, which do not wait for them, so that
 * vectors work while the matrix unit does. Estimates, not measurements: scaling
 * a block is 64 vectors' store by tiles, and 64 times three loads, a fused
 * multiply-add and a store, 128 cycles of stores. Products of a span of 128
 * columns take 512 cycles with two terms and hide that; those of 32 columns
 * take 128, and just may. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/gemm_tiles.h"
#include "quant/lanes_avx512.h"
#include "quant/unroll.h"

#define TILE_SUMS (TILES_SIDE * TILES_SIDE)
#define ROW_BYTES 64 /* of every tile */

/* Not every compiler knows that tile instructions read and write memory. */
#define MEMORY_BARRIER() __asm__ volatile("" ::: "memory")

/* ---- the unit's shape: all eight tiles of 16 rows of 64 bytes ---- */

static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} shape __attribute__((aligned(64))) = {
    .palette = 1,
    .row_bytes = {ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES},
    .rows = {TILES_SIDE, TILES_SIDE, TILES_SIDE, TILES_SIDE, TILES_SIDE, TILES_SIDE, TILES_SIDE, TILES_SIDE},
};

static void begin(void)
{
    MEMORY_BARRIER();
    _tile_loadconfig(&shape);
}

static void end(void)
{
    _tile_release();
}

/* ---- sixteen vectors of sixteen, exchanged ---- */

ALWAYS_INLINE void transpose16(__m512i v[16])
{
    __m512i a[16], b[16];

    UNROLL
    for (size_t i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    /* b[4 q + j]: in each 128 bits, number j of those of vectors 4 q .. 4 q + 3. */
    UNROLL
    for (size_t q = 0; q < 16; q += 4) {
        b[q] = _mm512_unpacklo_epi64(a[q], a[q + 2]);
        b[q + 1] = _mm512_unpackhi_epi64(a[q], a[q + 2]);
        b[q + 2] = _mm512_unpacklo_epi64(a[q + 1], a[q + 3]);
        b[q + 3] = _mm512_unpackhi_epi64(a[q + 1], a[q + 3]);
    }
    UNROLL
    for (size_t j = 0; j < 4; j++) {
        __m512i low01 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88),
                low23 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
        __m512i high01 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xDD),
                high23 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xDD);
        v[j] = _mm512_shuffle_i32x4(low01, low23, 0x88);
        v[8 + j] = _mm512_shuffle_i32x4(low01, low23, 0xDD);
        v[4 + j] = _mm512_shuffle_i32x4(high01, high23, 0x88);
        v[12 + j] = _mm512_shuffle_i32x4(high01, high23, 0xDD);
    }
}

/* ---- packing ---- */

/* NaN goes through. */
ALWAYS_INLINE __m512 held(__m512 x)
{
    const __m512 most = _mm512_castsi512_ps(_mm512_set1_epi32(0x7F7F0000));
    const __m512 least = _mm512_castsi512_ps(_mm512_set1_epi32((int)0xFF7F0000u));

    return _mm512_max_ps(least, _mm512_min_ps(most, x));
}

ALWAYS_INLINE __m512 widened(__m256i codes)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(codes), 16));
}

/* The terms of 32 columns, in their order. */
ALWAYS_INLINE void split(const float *x, __m512i *hi, __m512i *lo)
{
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    __m512i h = (__m512i)_mm512_cvtne2ps_pbh(held(b), held(a));
    __m512 a_left = _mm512_sub_ps(a, widened(_mm512_castsi512_si256(h)));
    __m512 b_left = _mm512_sub_ps(b, widened(_mm512_extracti64x4_epi64(h, 1)));

    *hi = h;
    *lo = (__m512i)_mm512_cvtne2ps_pbh(b_left, a_left);
}

/* 32 columns of a tile's tokens, the first of which is `token`; what is in lo. */
ALWAYS_INLINE __m512i pack_tile(uint16_t *to, const float *x, size_t x_stride, size_t token, size_t tokens)
{
    __m512i hi[TILES_SIDE], lo[TILES_SIDE], some = _mm512_setzero_si512();

    for (size_t t = 0; t < TILES_SIDE; t++) {
        hi[t] = lo[t] = _mm512_setzero_si512();
        if (token + t < tokens)
            split(x + (token + t) * x_stride, &hi[t], &lo[t]);
        some = _mm512_or_si512(some, lo[t]);
    }
    transpose16(hi);
    transpose16(lo);
    UNROLL
    for (size_t p = 0; p < TILES_SIDE; p++) {
        _mm512_store_si512(to + p * TILES_COLS, hi[p]);
        _mm512_store_si512(to + 2 * TILES_CODES + p * TILES_COLS, lo[p]);
    }
    return some;
}

static bool pack(uint16_t *packed, const float *x, size_t x_stride, size_t tokens, size_t cols)
{
    __m512i some = _mm512_setzero_si512();

    for (size_t c = 0; c < cols; c += TILES_COLS, packed += 4 * TILES_CODES) {
        __m512i a = pack_tile(packed, x + c, x_stride, 0, tokens);
        __m512i b = pack_tile(packed + TILES_CODES, x + c, x_stride, TILES_SIDE, tokens);
        some = _mm512_or_si512(some, _mm512_or_si512(a, b));
    }
    return _mm512_test_epi32_mask(some, some) != 0;
}

/* ---- decoding 32 columns of a row ---- */

/* Exponent and fraction move to their places, the bias changes by 120; the eight codes below the normal ones are
 * looked up. */
ALWAYS_INLINE __m512i e4m3_32(const uint8_t *codes, __mmask32 *bad)
{
    const __m512i small =
        _mm512_castsi128_si512(_mm_setr_epi16(0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60)); /* m 2^-9 */
    __m256i c = _mm256_loadu_si256((const __m256i *)codes);
    __m512i words = _mm512_cvtepu8_epi16(c), size = _mm512_and_si512(words, _mm512_set1_epi16(0x7F));
    __m512i moved = _mm512_add_epi16(_mm512_slli_epi16(size, 4), _mm512_set1_epi16(120 << 7));
    __m512i value =
        _mm512_mask_permutexvar_epi16(moved, _mm512_cmplt_epu16_mask(size, _mm512_set1_epi16(8)), size, small);

    *bad |= _mm256_cmpeq_epi8_mask(_mm256_or_si256(c, _mm256_set1_epi8((char)0x80)), _mm256_set1_epi8(-1));
    /* value | (sign & words moved up) */
    return _mm512_ternarylogic_epi32(value, _mm512_slli_epi16(words, 8), _mm512_set1_epi16((short)0x8000), 0xF8);
}

ALWAYS_INLINE __m512i int4_32(const uint8_t *codes)
{
    const __m256i values = _mm256_setr_epi16((short)0xC100, (short)0xC0E0, (short)0xC0C0, (short)0xC0A0, (short)0xC080,
                                             (short)0xC040, (short)0xC000, (short)0xBF80, 0, 0x3F80, 0x4000, 0x4040,
                                             0x4080, 0x40A0, 0x40C0, 0x40E0); /* -8 .. 7 */
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
    __m512i nibbles =
        _mm512_and_si512(_mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12)), _mm512_set1_epi32(0x000F000F));

    return _mm512_permutexvar_epi16(nibbles, _mm512_castsi256_si512(values));
}

ALWAYS_INLINE __m512i bf16_32(const uint8_t *codes, __mmask32 *bad)
{
    const __m512i exponent = _mm512_set1_epi16(0x7F80);
    __m512i v = _mm512_loadu_si512(codes);

    *bad |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(v, exponent), exponent);
    return v;
}

ALWAYS_INLINE bool decode_tile(enum gemm_coding coding, uint16_t *to, const struct gemm_codes *w, size_t rows,
                               size_t cols)
{
    __mmask32 bad = 0;

    for (size_t r = 0; r < TILES_SIDE; r++, to += TILES_COLS)
        for (size_t c = 0; c < cols; c += TILES_COLS) {
            const uint8_t *row = w->codes + r * w->row_bytes;
            __m512i v = _mm512_setzero_si512();
            if (r < rows && coding == GEMM_E4M3)
                v = e4m3_32(row + c, &bad);
            else if (r < rows && coding == GEMM_INT4)
                v = int4_32(row + c / 2);
            else if (r < rows)
                v = bf16_32(row + 2 * c, &bad);
            _mm512_store_si512(to + c / TILES_COLS * 2 * TILES_CODES, v);
        }
    return bad == 0;
}

static bool decode(uint16_t *weights, const struct gemm_codes *w, size_t rows, size_t cols)
{
    switch (w->coding) {
    case GEMM_E4M3:
        return decode_tile(GEMM_E4M3, weights, w, rows, cols);
    case GEMM_INT4:
        return decode_tile(GEMM_INT4, weights, w, rows, cols);
    case GEMM_BF16:
    case GEMM_F32:
    case GEMM_CODING_COUNT:
        break;
    }
    return decode_tile(GEMM_BF16, weights, w, rows, cols);
}

/* ---- products ---- */

/* Tiles 0 and 1 are the sums of the first rows with the first and the second tokens, 2 and 3 those of the second rows;
 * 4 and 5 are weights, 6 and 7 x. */
ALWAYS_INLINE void add_term(const uint16_t *x, const size_t token_tiles)
{
    _tile_loadd(6, x, ROW_BYTES);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    if (token_tiles > 1) {
        _tile_loadd(7, x + TILES_CODES, ROW_BYTES);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
}

ALWAYS_INLINE void add_step(const uint16_t *weights, const uint16_t *x, const size_t token_tiles, const bool terms2)
{
    _tile_loadd(4, weights, ROW_BYTES);
    _tile_loadd(5, weights + TILES_CODES, ROW_BYTES);
    add_term(x, token_tiles);
    if (terms2)
        add_term(x + 2 * TILES_CODES, token_tiles);
}

ALWAYS_INLINE void clear(const size_t token_tiles)
{
    _tile_zero(0);
    _tile_zero(2);
    if (token_tiles > 1) {
        _tile_zero(1);
        _tile_zero(3);
    }
}

ALWAYS_INLINE void leave(float *c, const size_t token_tiles)
{
    _tile_stored(0, c, ROW_BYTES);
    _tile_stored(2, c + 2 * TILE_SUMS, ROW_BYTES);
    if (token_tiles > 1) {
        _tile_stored(1, c + TILE_SUMS, ROW_BYTES);
        _tile_stored(3, c + 3 * TILE_SUMS, ROW_BYTES);
    }
    MEMORY_BARRIER();
}

ALWAYS_INLINE void scale(float *sums, const float *c, const float *scales, bool first, const size_t token_tiles)
{
    for (size_t rows = 0; rows < 2; rows++)
        for (size_t tokens = 0; tokens < token_tiles; tokens++) {
            const float *from = c + (rows * 2 + tokens) * TILE_SUMS, *s = scales + rows * TILES_SIDE;
            float *to = sums + (rows * 2 + tokens) * TILE_SUMS;
            UNROLL
            for (size_t r = 0; r < TILES_SIDE; r++) {
                __m512 acc = first ? _mm512_setzero_ps() : _mm512_load_ps(to + r * TILES_SIDE);
                acc = _mm512_fmadd_ps(_mm512_set1_ps(s[r]), _mm512_load_ps(from + r * TILES_SIDE), acc);
                _mm512_store_ps(to + r * TILES_SIDE, acc);
            }
        }
}

ALWAYS_INLINE void block(float *sums, const struct tiles_product *p, const size_t token_tiles, const bool terms2)
{
    float left[2][TILES_SUMS] __attribute__((aligned(64)));
    size_t span = 0;

    MEMORY_BARRIER();
    for (size_t step = 0; step < p->steps; span++) {
        size_t end = step + p->span_steps < p->steps ? step + p->span_steps : p->steps;
        clear(token_tiles);
        for (; step < end; step++)
            add_step(p->weights + step * 2 * TILES_CODES, p->x + step * 4 * TILES_CODES, token_tiles, terms2);
        if (span > 0)
            scale(sums, left[(span - 1) % 2], p->scales + (span - 1) * TILES_BLOCK, p->first && span == 1, token_tiles);
        leave(left[span % 2], token_tiles);
    }
    scale(sums, left[(span - 1) % 2], p->scales + (span - 1) * TILES_BLOCK, p->first && span == 1, token_tiles);
}

static void multiply(float *sums, const struct tiles_product *p)
{
    if (p->token_tiles > 1 && p->terms2)
        block(sums, p, 2, true);
    else if (p->token_tiles > 1)
        block(sums, p, 2, false);
    else if (p->terms2)
        block(sums, p, 1, true);
    else
        block(sums, p, 1, false);
}

/* ---- what comes out ---- */

static void store(float *y, size_t y_stride, const float *sums, size_t rows, size_t tokens, bool add)
{
    for (size_t i = 0; i < 4; i++, sums += TILE_SUMS) {
        size_t row = i / 2 * TILES_SIDE, token = i % 2 * TILES_SIDE;
        __m512i v[TILES_SIDE];
        if (row >= rows || token >= tokens)
            continue;
        __mmask16 lanes = lanes16(rows - row);
        UNROLL
        for (size_t r = 0; r < TILES_SIDE; r++)
            v[r] = _mm512_load_si512(sums + r * TILES_SIDE);
        transpose16(v);
        for (size_t t = 0; t < TILES_SIDE && token + t < tokens; t++) {
            float *to = y + (token + t) * y_stride + row;
            __m512 sum = _mm512_add_ps(_mm512_castsi512_ps(v[t]), _mm512_setzero_ps());
            if (add)
                sum = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, to), sum);
            _mm512_mask_storeu_ps(to, lanes, sum);
        }
    }
}

const struct gemm_tiles gemm_tiles_amx = {
    .begin = begin, .end = end, .pack = pack, .decode = decode, .multiply = multiply, .store = store};
const struct gemm_kernel gemm_amx = {.tiles = &gemm_tiles_amx, .others = &gemm_avx512};
#endif
