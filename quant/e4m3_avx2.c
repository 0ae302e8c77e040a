/* As e4m3_avx512.c, half as wide: a code moved seven bits up is an f16 of 2^-8
 * the value, and the 2^8 goes into the scale. */
#include "quant/e4m3.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "quant/minifloat_avx2.h"

static __m256 value8(__m128i halves, __m256 scale)
{
    return _mm256_mul_ps(scale, _mm256_cvtph_ps(halves));
}

static __m128i nan16(__m128i codes)
{
    return _mm_cmpeq_epi8(_mm_or_si128(codes, _mm_set1_epi8((char)0x80)), _mm_set1_epi8(-1));
}

static bool decode_block(float *x, const uint8_t *codes, size_t n, float scale)
{
    const __m256 s = _mm256_set1_ps(scale * 256.0f);
    __m128i bad = _mm_setzero_si128();
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        __m128i c = _mm_loadu_si128((const __m128i *)(codes + i));
        __m256i words = _mm256_slli_epi16(_mm256_cvtepi8_epi16(c), 7);
        words = _mm256_and_si256(words, _mm256_set1_epi16((short)0xBF80));
        bad = _mm_or_si128(bad, nan16(c));
        _mm256_storeu_ps(x + i, value8(_mm256_castsi256_si128(words), s));
        _mm256_storeu_ps(x + i + 8, value8(_mm256_extracti128_si256(words, 1), s));
    }
    bool tail = e4m3_decode_ref(x + i, codes + i, n - i, &scale, n);
    return tail && _mm_testz_si128(bad, bad);
}

bool e4m3_decode_avx2(float *x, const uint8_t *codes, size_t n, const float *scales, size_t block_cols)
{
    bool finite = true;

    for (size_t i = 0; i < n; i += block_cols, scales++) {
        size_t count = n - i < block_cols ? n - i : block_cols;
        if (fabsf(*scales) <= E4M3_SAFE_SCALE)
            finite &= decode_block(x + i, codes + i, count, *scales);
        else
            finite &= e4m3_decode_ref(x + i, codes + i, count, scales, count);
    }
    return finite;
}

/* Rounded bits; the BF16 is the upper half. */
static __m256i round8(__m128i halves, __m256 scale)
{
    __m256i bits = _mm256_castps_si256(value8(halves, scale));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
}

static bool to_bf16_block(uint16_t *out, const uint8_t *codes, size_t n, float scale)
{
    const __m256 s = _mm256_set1_ps(scale * 256.0f);
    const __m128i mask = _mm_set1_epi16((short)0xBF80);
    __m128i bad = _mm_setzero_si128();
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        __m128i c = _mm_loadu_si128((const __m128i *)(codes + i));
        __m128i even = _mm_and_si128(_mm_srai_epi16(_mm_slli_epi16(c, 8), 1), mask);
        __m128i odd = _mm_and_si128(_mm_srai_epi16(c, 1), mask);
        bad = _mm_or_si128(bad, nan16(c));
        __m256i pairs = _mm256_blend_epi16(_mm256_srli_epi32(round8(even, s), 16), round8(odd, s), 0xAA);
        _mm256_storeu_si256((__m256i *)(out + i), pairs);
    }
    bool tail = e4m3_to_bf16_ref(out + i, codes + i, n - i, &scale, n);
    return tail && _mm_testz_si128(bad, bad);
}

bool e4m3_to_bf16_avx2(uint16_t *out, const uint8_t *codes, size_t n, const float *scales, size_t block_cols)
{
    bool finite = true;

    for (size_t i = 0; i < n; i += block_cols, scales++) {
        size_t count = n - i < block_cols ? n - i : block_cols;
        if (fabsf(*scales) <= E4M3_SAFE_SCALE)
            finite &= to_bf16_block(out + i, codes + i, count, *scales);
        else
            finite &= e4m3_to_bf16_ref(out + i, codes + i, count, scales, count);
    }
    return finite;
}

static __m256i encode8(const float *x, __m256 scale)
{
    __m256 q = _mm256_div_ps(_mm256_loadu_ps(x), scale);
    return minifloat_sign8(minifloat_encode8(q, MINIFLOAT_E4M3), q, 0x80);
}

void e4m3_encode_avx2(uint8_t *codes, const float *x, size_t n, const float *scales, size_t block_cols)
{
    for (size_t begin = 0; begin < n; begin += block_cols, scales++) {
        size_t end = n - begin < block_cols ? n : begin + block_cols, i = begin;
        const __m256 s = _mm256_set1_ps(*scales);
        for (; i + 32 <= end; i += 32) {
            __m256i c =
                pack_bytes32(encode8(x + i, s), encode8(x + i + 8, s), encode8(x + i + 16, s), encode8(x + i + 24, s));
            _mm256_storeu_si256((__m256i *)(codes + i), c);
        }
        e4m3_encode_ref(codes + i, x + i, end - i, scales, block_cols);
    }
}
#endif
