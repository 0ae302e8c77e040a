/* A code, its exponent and fraction moved seven bits up, is an f16 of 2^-8 the
 * value, subnormals included; the 2^8 goes into the scale, exactly, so that
 * value x scale is still one rounded product. */
#include "quant/e4m3.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "quant/lanes_avx512.h"
#include "quant/minifloat_avx512.h"

/* Sign-extended codes in words -> f16. */
static __m512i halves32(__m256i codes)
{
    __m512i words = _mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 7);
    return _mm512_and_si512(words, _mm512_set1_epi16((short)0xBF80));
}

static __mmask64 nan64(__m512i codes)
{
    return _mm512_cmpeq_epi8_mask(_mm512_or_si512(codes, _mm512_set1_epi8((char)0x80)), _mm512_set1_epi8(-1));
}

static bool decode_block(float *x, const uint8_t *codes, size_t n, float scale)
{
    const __m512 s = _mm512_set1_ps(scale * 256.0f);
    __mmask64 bad = 0;
    size_t i = 0;

    for (; i + 64 <= n; i += 64) {
        __m512i c = _mm512_loadu_si512(codes + i);
        __m512i lower = halves32(_mm512_castsi512_si256(c)), upper = halves32(_mm512_extracti64x4_epi64(c, 1));
        bad |= nan64(c);
        _mm512_storeu_ps(x + i, _mm512_mul_ps(s, _mm512_cvtph_ps(_mm512_castsi512_si256(lower))));
        _mm512_storeu_ps(x + i + 16, _mm512_mul_ps(s, _mm512_cvtph_ps(_mm512_extracti64x4_epi64(lower, 1))));
        _mm512_storeu_ps(x + i + 32, _mm512_mul_ps(s, _mm512_cvtph_ps(_mm512_castsi512_si256(upper))));
        _mm512_storeu_ps(x + i + 48, _mm512_mul_ps(s, _mm512_cvtph_ps(_mm512_extracti64x4_epi64(upper, 1))));
    }
    for (; i < n; i += 16) {
        __mmask16 lanes = lanes16(n - i);
        __m128i c = _mm_maskz_loadu_epi8(lanes, codes + i);
        __m256i words = _mm256_slli_epi16(_mm256_cvtepi8_epi16(c), 7);
        words = _mm256_and_si256(words, _mm256_set1_epi16((short)0xBF80));
        bad |= nan64(_mm512_zextsi128_si512(c));
        _mm512_mask_storeu_ps(x + i, lanes, _mm512_mul_ps(s, _mm512_cvtph_ps(words)));
    }
    return bad == 0;
}

bool e4m3_decode_avx512(float *x, const uint8_t *codes, size_t n, const float *scales, size_t block_cols)
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
static __m512i round16(__m256i halves, __m512 scale)
{
    __m512i bits = _mm512_castps_si512(_mm512_mul_ps(scale, _mm512_cvtph_ps(halves)));
    __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    __m512i sum = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF));
    return _mm512_mask_add_epi32(sum, odd, sum, _mm512_set1_epi32(1));
}

/* Thirty-two codes as sixteen words: even codes come out of the lower bytes, odd ones of the upper, and
 * both meet again in the halves of a dword, so that nothing is ever shuffled. */
static __m512i to_bf16_32(__m256i codes, __m512 scale)
{
    const __m256i mask = _mm256_set1_epi16((short)0xBF80);
    __m256i even = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(codes, 8), 1), mask);
    __m256i odd = _mm256_and_si256(_mm256_srai_epi16(codes, 1), mask);

    return _mm512_mask_blend_epi16(0xAAAAAAAAu, _mm512_srli_epi32(round16(even, scale), 16), round16(odd, scale));
}

static bool to_bf16_block(uint16_t *out, const uint8_t *codes, size_t n, float scale)
{
    const __m512 s = _mm512_set1_ps(scale * 256.0f);
    const __m256i sign = _mm256_set1_epi8((char)0x80), ones = _mm256_set1_epi8(-1);
    __mmask32 bad = 0;
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        __m256i c = _mm256_loadu_si256((const __m256i *)(codes + i));
        bad |= _mm256_cmpeq_epi8_mask(_mm256_or_si256(c, sign), ones);
        _mm512_storeu_si512(out + i, to_bf16_32(c, s));
    }
    if (i < n) {
        __mmask32 lanes = (1u << (n - i)) - 1;
        __m256i c = _mm256_maskz_loadu_epi8(lanes, codes + i);
        bad |= _mm256_cmpeq_epi8_mask(_mm256_or_si256(c, sign), ones);
        _mm512_mask_storeu_epi16(out + i, lanes, to_bf16_32(c, s));
    }
    return bad == 0;
}

bool e4m3_to_bf16_avx512(uint16_t *out, const uint8_t *codes, size_t n, const float *scales, size_t block_cols)
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

void e4m3_encode_avx512(uint8_t *codes, const float *x, size_t n, const float *scales, size_t block_cols)
{
    for (size_t begin = 0; begin < n; begin += block_cols, scales++) {
        size_t end = n - begin < block_cols ? n : begin + block_cols;
        const __m512 s = _mm512_set1_ps(*scales);
        for (size_t i = begin; i < end; i += 16) {
            __mmask16 lanes = lanes16(end - i);
            __m512 q = _mm512_div_ps(_mm512_maskz_loadu_ps(lanes, x + i), s);
            __m512i c = minifloat_sign16(minifloat_encode16(q, MINIFLOAT_E4M3), q, 0x80);
            _mm_mask_storeu_epi8(codes + i, lanes, _mm512_cvtepi32_epi8(c));
        }
    }
}
#endif
