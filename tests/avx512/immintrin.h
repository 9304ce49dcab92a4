/* <immintrin.h> for tests/check_levels.sh: AVX-512 on a CPU without it. SIMDe computes the intrinsics in C under their own names; those
   that its Debian version lacks are added from their description in Intel's manual. Build with -mavx2 -mfma. */
#ifndef EMULATED_IMMINTRIN_H
#define EMULATED_IMMINTRIN_H
#include_next <immintrin.h>
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <string.h>

/* No function may be compiled for a CPU that is not there, and every CPU has everything. */
#define DL__TARGET(features)
#define DL__CPU_HAS(feature) 1

static inline __m512 emulated_load(__mmask16 mask, const float *p)
{
    float v[16];
    for (int i = 0; i < 16; i++) v[i] = mask >> i & 1 ? p[i] : 0;
    return _mm512_loadu_ps(v);
}

static inline void emulated_store(float *p, __mmask16 mask, __m512 x)
{
    float v[16];
    _mm512_storeu_ps(v, x);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) p[i] = v[i];
}

static inline __m512 emulated_from_int(__mmask16 mask, __m512i x)
{
    int32_t i32[16];
    float v[16];
    memcpy(i32, &x, sizeof i32);
    for (int i = 0; i < 16; i++) v[i] = mask >> i & 1 ? (float)i32[i] : 0;
    return _mm512_loadu_ps(v);
}

/* Number i is that of place from[i] of x. */
static inline __m512 emulated_places(__mmask16 mask, __m512 x, const int *from)
{
    float v[16], y[16];
    _mm512_storeu_ps(v, x);
    for (int i = 0; i < 16; i++) y[i] = mask >> i & 1 ? v[from[i]] : 0;
    return _mm512_loadu_ps(y);
}

static inline __m512 emulated_permute(__mmask16 mask, __m512 x, int how) /* within groups of four */
{
    int from[16];
    for (int i = 0; i < 16; i++) from[i] = i / 4 * 4 + (how >> i % 4 * 2 & 3);
    return emulated_places(mask, x, from);
}

static inline __m512 emulated_shuffle(__mmask16 mask, __m512 x, int how) /* whole groups of four, both operands the same */
{
    int from[16];
    for (int i = 0; i < 16; i++) from[i] = (how >> i / 4 * 2 & 3) * 4 + i % 4;
    return emulated_places(mask, x, from);
}

static inline __m512i emulated_shift_right(__mmask16 mask, __m512i x, int n)
{
    int32_t v[16];
    memcpy(v, &x, sizeof v);
    for (int i = 0; i < 16; i++) v[i] = mask >> i & 1 ? v[i] >> n : 0;
    memcpy(&x, v, sizeof v);
    return x;
}

#undef _mm512_cvtss_f32
#undef _mm512_maskz_permute_ps
#undef _mm512_maskz_shuffle_f32x4
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_maskz_sqrt_ps
#undef _mm512_maskz_slli_epi32
#undef _mm512_maskz_srai_epi32
#undef _mm512_maskz_cvtepi32_ps
#define _mm512_cvtss_f32(x) ((x)[0])
#define _mm512_maskz_permute_ps(mask, x, how) emulated_permute(mask, x, how)
#define _mm512_maskz_shuffle_f32x4(mask, x, same, how) emulated_shuffle(mask, x, how)
#define _mm512_maskz_loadu_ps(mask, p) emulated_load(mask, p)
#define _mm512_mask_storeu_ps(p, mask, x) emulated_store(p, mask, x)
#define _mm512_maskz_sqrt_ps(mask, x) _mm512_maskz_mov_ps(mask, _mm512_sqrt_ps(x))
#define _mm512_maskz_slli_epi32(mask, x, n) _mm512_maskz_mov_epi32(mask, _mm512_slli_epi32(x, n))
#define _mm512_maskz_srai_epi32(mask, x, n) emulated_shift_right(mask, x, n)
#define _mm512_maskz_cvtepi32_ps(mask, x) emulated_from_int(mask, x)
#endif
