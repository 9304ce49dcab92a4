/* What each opcode computes, for the lanes of a mask, and the table of accepted opcode strings. */
#include "cells.h"
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline uint8_t *at(const warp *w, uint32_t o) { return w->base[o & 1] + (o & ~1u); }
#define REG(T, k) ((T *)at(w, in->o[k]))
#ifdef __clang__
#define NO_OVERLAP
#else
#define NO_OVERLAP _Pragma("GCC ivdep") /* a target is a source of the same lane, or none */
#endif
#define EACH(statement) \
    do { \
        if (mask == ALL) { NO_OVERLAP for (int i = 0; i < LANES; i++) { statement; } } \
        else for (int i = 0; i < LANES; i++) if (mask >> i & 1) { statement; } \
    } while (0)
#define FUNCTION(name) static void name(warp *w, const inst *in, uint32_t mask)

static inline uint32_t bits_of(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline float float_of(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

/* ---- integers ---- */

#define UNARY(name, D, A, expression) \
    FUNCTION(name) \
    { \
        D *d = REG(D, 0); \
        const A *pa = REG(A, 1); \
        EACH(A a = pa[i]; d[i] = (D)(expression)); \
    }
#define BINARY(name, D, A, B, expression) \
    FUNCTION(name) \
    { \
        D *d = REG(D, 0); \
        const A *pa = REG(A, 1); \
        const B *pb = REG(B, 2); \
        EACH(A a = pa[i]; B b = pb[i]; d[i] = (D)(expression)); \
    }
#define TERNARY(name, D, A, B, C, expression) \
    FUNCTION(name) { D *d = REG(D, 0); const A *pa = REG(A, 1); const B *pb = REG(B, 2); const C *pc = REG(C, 3); \
                     EACH(A a = pa[i]; B b = pb[i]; C c = pc[i]; d[i] = (D)(expression)); }
typedef unsigned __int128 u128;
typedef __int128 s128;

#define WIDTH(n, U, S, U2, S2) \
    BINARY(add_##n, U, U, U, a + b) BINARY(sub_##n, U, U, U, a - b) BINARY(mul_lo_##n, U, U, U, (U2)a * b) \
    BINARY(mul_hi_u##n, U, U, U, (U2)((U2)a * (U2)b) >> n) BINARY(mul_hi_s##n, U, S, S, (U2)((S2)a * (S2)b) >> n) \
    TERNARY(mad_lo_##n, U, U, U, U, (U2)a * b + c) TERNARY(mad_hi_u##n, U, U, U, U, ((U2)((U2)a * (U2)b) >> n) + c) \
    TERNARY(mad_hi_s##n, U, S, S, U, ((U2)((S2)a * (S2)b) >> n) + c) \
    BINARY(div_u##n, U, U, U, b ? a / b : (U)~(U)0) BINARY(rem_u##n, U, U, U, b ? a % b : a) \
    BINARY(div_s##n, S, S, S, b == 0 ? -1 : b == -1 ? (S)(0 - (U)a) : a / b) \
    BINARY(rem_s##n, S, S, S, b == 0 ? a : b == -1 ? 0 : a % b) \
    BINARY(min_u##n, U, U, U, a < b ? a : b) BINARY(max_u##n, U, U, U, a > b ? a : b) \
    BINARY(min_s##n, S, S, S, a < b ? a : b) BINARY(max_s##n, S, S, S, a > b ? a : b) \
    UNARY(abs_s##n, U, S, a < 0 ? 0 - (U)a : (U)a) UNARY(neg_s##n, U, U, 0 - a) UNARY(not_##n, U, U, ~a) \
    BINARY(and_##n, U, U, U, a & b) BINARY(or_##n, U, U, U, a | b) BINARY(xor_##n, U, U, U, a ^ b) \
    BINARY(shl_##n, U, U, uint32_t, b >= n ? 0 : a << b) BINARY(shr_u##n, U, U, uint32_t, b >= n ? 0 : a >> b) \
    BINARY(shr_s##n, S, S, uint32_t, a >> (b >= n ? n - 1 : b)) UNARY(mov_##n, U, U, a) \
    FUNCTION(selp_##n) { U *d = REG(U, 0); const U *pa = REG(U, 1), *pb = REG(U, 2); uint32_t p = *REG(uint32_t, 3); \
                         if (in->negated >> 3 & 1) { p = ~p; } EACH(d[i] = p >> i & 1 ? pa[i] : pb[i]); }
WIDTH(16, uint16_t, int16_t, uint32_t, int32_t)
WIDTH(32, uint32_t, int32_t, uint64_t, int64_t)
WIDTH(64, uint64_t, int64_t, u128, s128)
#define WIDE(n, U, S, U2, S2) \
    BINARY(mul_wide_u##n, U2, U, U, (U2)a * b) BINARY(mul_wide_s##n, S2, S, S, (S2)a * b) \
    TERNARY(mad_wide_u##n, U2, U, U, U2, (U2)a * b + c) TERNARY(mad_wide_s##n, U2, S, S, U2, (U2)((S2)a * b) + c)
WIDE(16, uint16_t, int16_t, uint32_t, int32_t)
WIDE(32, uint32_t, int32_t, uint64_t, int64_t)

UNARY(popc_32, uint32_t, uint32_t, __builtin_popcount(a))
UNARY(popc_64, uint32_t, uint64_t, __builtin_popcountll(a))
UNARY(clz_32, uint32_t, uint32_t, a ? __builtin_clz(a) : 32)
UNARY(clz_64, uint32_t, uint64_t, a ? __builtin_clzll(a) : 64)
static uint64_t reverse_bits(uint64_t a, int n)
{
    uint64_t r = 0;
    for (int i = 0; i < n; i++) r |= (a >> i & 1) << (n - 1 - i);
    return r;
}
UNARY(brev_32, uint32_t, uint32_t, reverse_bits(a, 32))
UNARY(brev_64, uint64_t, uint64_t, reverse_bits(a, 64))
static uint32_t find_bit(uint64_t a, bool shift_amount, int n) /* the highest one bit */
{
    if (a == 0) return ~0u;
    uint32_t at = 63u - (uint32_t)__builtin_clzll(a);
    return shift_amount ? (uint32_t)n - 1 - at : at;
}
UNARY(bfind_u32, uint32_t, uint32_t, find_bit(a, in->op->detail, 32))
UNARY(bfind_s32, uint32_t, int32_t, find_bit((uint32_t)(a < 0 ? ~a : a), in->op->detail, 32))
UNARY(bfind_u64, uint32_t, uint64_t, find_bit(a, in->op->detail, 64))
UNARY(bfind_s64, uint32_t, int64_t, find_bit((uint64_t)(a < 0 ? ~a : a), in->op->detail, 64))

static uint64_t extract(uint64_t a, uint32_t position, uint32_t length, int n, bool sign)
{
    position &= 255;
    length &= 255;
    uint64_t top = position + length > (uint32_t)n ? a >> (n - 1) & 1 : length ? a >> (position + length - 1) & 1 : 0;
    uint64_t r = position >= (uint32_t)n ? 0 : a >> position;
    uint32_t have = position >= (uint32_t)n ? 0 : (uint32_t)n - position;
    if (length < have) have = length;
    if (have < 64) r &= ((uint64_t)1 << have) - 1;
    if (sign && top && have < 64) r |= ~(uint64_t)0 << have;
    return r;
}
TERNARY(bfe_u32, uint32_t, uint32_t, uint32_t, uint32_t, extract(a, b, c, 32, false))
TERNARY(bfe_s32, uint32_t, uint32_t, uint32_t, uint32_t, extract(a, b, c, 32, true))
TERNARY(bfe_u64, uint64_t, uint64_t, uint32_t, uint32_t, extract(a, b, c, 64, false))
TERNARY(bfe_s64, uint64_t, uint64_t, uint32_t, uint32_t, extract(a, b, c, 64, true))
static uint64_t insert(uint64_t a, uint64_t b, uint32_t position, uint32_t length, int n)
{
    position &= 255;
    length &= 255;
    if (position >= (uint32_t)n || length == 0) return b;
    uint64_t field = length >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << length) - 1;
    return (b & ~(field << position)) | ((a & field) << position);
}
#define INSERT(n, U) \
    FUNCTION(bfi_##n) \
    { \
        U *d = REG(U, 0); \
        const U *a = REG(U, 1), *b = REG(U, 2); \
        const uint32_t *c = REG(uint32_t, 3), *l = REG(uint32_t, 4); \
        EACH(d[i] = (U)insert(a[i], b[i], c[i], l[i], n)); \
    }
INSERT(32, uint32_t)
INSERT(64, uint64_t)
static uint32_t permute(uint32_t a, uint32_t b, uint32_t c)
{
    uint64_t ab = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t s = c >> (4 * i) & 15, byte = ab >> (8 * (s & 7)) & 255;
        r |= (s & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
    }
    return r;
}
TERNARY(prmt_32, uint32_t, uint32_t, uint32_t, uint32_t, permute(a, b, c))
TERNARY(shf_l_wrap, uint32_t, uint32_t, uint32_t, uint32_t, ((uint64_t)b << 32 | a) << (c & 31) >> 32)
TERNARY(shf_r_wrap, uint32_t, uint32_t, uint32_t, uint32_t, ((uint64_t)b << 32 | a) >> (c & 31))
TERNARY(shf_l_clamp, uint32_t, uint32_t, uint32_t, uint32_t, c >= 32 ? a : ((uint64_t)b << 32 | a) << c >> 32)
TERNARY(shf_r_clamp, uint32_t, uint32_t, uint32_t, uint32_t, ((uint64_t)b << 32 | a) >> (c > 32 ? 32 : c))
FUNCTION(lop3_32)
{
    uint32_t *d = REG(uint32_t, 0);
    const uint32_t *a = REG(uint32_t, 1), *b = REG(uint32_t, 2), *c = REG(uint32_t, 3);
    EACH(uint32_t r = 0; for (int k = 0; k < 8; k++) if (in->offset >> k & 1)
                             r |= (k & 4 ? a[i] : ~a[i]) & (k & 2 ? b[i] : ~b[i]) & (k & 1 ? c[i] : ~c[i]);
         d[i] = r);
}
static uint32_t dot4(uint32_t a, uint32_t b, uint32_t c, bool sa, bool sb)
{
    for (int i = 0; i < 4; i++) {
        int x = sa ? (int8_t)(a >> (8 * i)) : (uint8_t)(a >> (8 * i)), y = sb ? (int8_t)(b >> (8 * i)) : (uint8_t)(b >> (8 * i));
        c += (uint32_t)(x * y);
    }
    return c;
}
TERNARY(dp4a, uint32_t, uint32_t, uint32_t, uint32_t, dot4(a, b, c, in->op->detail & 1, in->op->detail & 2))

/* add.cc, addc, sub.cc, subc: w->carry is the lanes' carry flag. detail: 1 reads it, 2 writes it, 4 subtracts */
#define CARRY(n, U, U2) \
    FUNCTION(carry_##n) { \
        U *d = REG(U, 0); const U *a = REG(U, 1), *b = REG(U, 2); uint32_t detail = in->op->detail; \
        for (int i = 0; i < LANES; i++) if (mask >> i & 1) { \
            U2 c = detail & 1 ? w->carry >> i & 1 : 0; \
            U2 r = detail & 4 ? (U2)a[i] - b[i] - c : (U2)a[i] + b[i] + c; \
            d[i] = (U)r; \
            if (detail & 2) w->carry = (w->carry & ~(1u << i)) | (uint32_t)(r >> n & 1) << i; \
        } \
    }
CARRY(32, uint32_t, uint64_t)
CARRY(64, uint64_t, u128)

/* ---- predicates ---- */

static uint32_t predicate(const warp *w, const inst *in, int k)
{
    uint32_t p = *REG(uint32_t, k);
    return in->negated >> k & 1 ? ~p : p;
}
static void set_predicate(const warp *w, const inst *in, int k, uint32_t value, uint32_t mask)
{
    if (in->o[k] == ~0u) return;
    uint32_t *d = REG(uint32_t, k);
    *d = (*d & ~mask) | (value & mask);
}
FUNCTION(and_pred) { set_predicate(w, in, 0, predicate(w, in, 1) & predicate(w, in, 2), mask); }
FUNCTION(or_pred) { set_predicate(w, in, 0, predicate(w, in, 1) | predicate(w, in, 2), mask); }
FUNCTION(xor_pred) { set_predicate(w, in, 0, predicate(w, in, 1) ^ predicate(w, in, 2), mask); }
FUNCTION(not_pred) { set_predicate(w, in, 0, ~predicate(w, in, 1), mask); }
FUNCTION(mov_pred) { set_predicate(w, in, 0, predicate(w, in, 1), mask); }

/* setp: detail bits 0-1 combine (0 none, 1 and, 2 or, 3 xor) with operand 4, bit 2 flushes subnormals */
static inline float flush(float x) { uint32_t u = bits_of(x); return (u & 0x7f800000) == 0 ? float_of(u & 0x80000000) : x; }
static void setp_finish(warp *w, const inst *in, uint32_t mask, uint32_t r)
{
    uint32_t n = ~r;
    if (in->op->detail & 3) {
        uint32_t c = predicate(w, in, 4);
        switch (in->op->detail & 3) {
        case 1: r &= c; n &= c; break;
        case 2: r |= c; n |= c; break;
        case 3: r ^= c; n ^= c; break;
        }
    }
    set_predicate(w, in, 0, r, mask);
    set_predicate(w, in, 1, n, mask);
}
#define COMPARE(name, T, prepare, expression) \
    FUNCTION(setp_##name) \
    { \
        const T *pa = REG(T, 2), *pb = REG(T, 3); \
        uint32_t r = 0; \
        for (int i = 0; i < LANES; i++) { \
            T a = pa[i], b = pb[i]; \
            prepare; \
            r |= (uint32_t)(expression) << i; \
        } \
        setp_finish(w, in, mask, r); \
    }
#define COMPARES(n, T) COMPARE(eq_##n, T, , a == b) COMPARE(ne_##n, T, , a != b) COMPARE(lt_##n, T, , a < b) \
                       COMPARE(le_##n, T, , a <= b) COMPARE(gt_##n, T, , a > b) COMPARE(ge_##n, T, , a >= b)
COMPARES(u16, uint16_t) COMPARES(s16, int16_t) COMPARES(u32, uint32_t) COMPARES(s32, int32_t) COMPARES(u64, uint64_t)
COMPARES(s64, int64_t)
#define FLUSH2 if (in->op->detail & 4) { a = flush(a); b = flush(b); }
#define NO_FLUSH
#define FLOAT_COMPARES(n, T, p) COMPARE(eq_##n, T, p, a == b) COMPARE(ne_##n, T, p, a < b || a > b) \
    COMPARE(lt_##n, T, p, a < b) COMPARE(le_##n, T, p, a <= b) \
    COMPARE(gt_##n, T, p, a > b) COMPARE(ge_##n, T, p, a >= b) COMPARE(equ_##n, T, p, !(a < b || a > b)) \
    COMPARE(neu_##n, T, p, a != b) \
    COMPARE(ltu_##n, T, p, !(a >= b)) COMPARE(leu_##n, T, p, !(a > b)) COMPARE(gtu_##n, T, p, !(a <= b)) \
    COMPARE(geu_##n, T, p, !(a < b)) \
    COMPARE(num_##n, T, p, a == a && b == b) COMPARE(nan_##n, T, p, a != a || b != b)
FLOAT_COMPARES(f32, float, FLUSH2)
FLOAT_COMPARES(f64, double, NO_FLUSH)

/* ---- floating point. detail: bits 0-1 rounding (0 nearest, 1 to zero, 2 down, 3 up), 4 flush, 8 saturate, 16 NaN wins ---- */

static const int rounding_modes[4] = { FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD };
static inline float saturate(float x) { return x != x ? 0 : x < 0 ? 0 : x > 1 ? 1 : x == 0 ? 0 : x; }
static inline float finish32(uint32_t detail, float x) { if (detail & 4) x = flush(x); return detail & 8 ? saturate(x) : x; }
#define IN32(x) (detail & 4 ? flush(x) : (x))

/* The plain form has a loop of its own; every other one goes lane by lane under its rounding mode. volatile keeps the operation
   between the calls. */
#define FLOAT2(name, T, expression, prepare, finish) \
    BINARY(name##_plain, T, T, T, expression) \
    FUNCTION(name##_other) \
    { \
        T *d = REG(T, 0); \
        const T *pa = REG(T, 1), *pb = REG(T, 2); \
        uint32_t detail = in->op->detail; \
        fesetround(rounding_modes[detail & 3]); \
        for (int i = 0; i < LANES; i++) \
            if (mask >> i & 1) { \
                volatile T a = prepare(pa[i]), b = prepare(pb[i]); \
                volatile T r = expression; \
                d[i] = finish(detail, r); \
            } \
        fesetround(FE_TONEAREST); \
    }
#define SAME(x) (x)
#define SAME64(detail, x) ((void)(detail), (x))
FLOAT2(add_f32, float, a + b, IN32, finish32) FLOAT2(sub_f32, float, a - b, IN32, finish32)
FLOAT2(mul_f32, float, a * b, IN32, finish32) FLOAT2(div_f32, float, a / b, IN32, finish32)
FLOAT2(add_f64, double, a + b, SAME, SAME64) FLOAT2(sub_f64, double, a - b, SAME, SAME64)
FLOAT2(mul_f64, double, a * b, SAME, SAME64) FLOAT2(div_f64, double, a / b, SAME, SAME64)
#define FLOAT3(name, T, function, prepare, finish) \
    TERNARY(name##_plain, T, T, T, T, function(a, b, c)) \
    FUNCTION(name##_other) \
    { \
        T *d = REG(T, 0); \
        const T *pa = REG(T, 1), *pb = REG(T, 2), *pc = REG(T, 3); \
        uint32_t detail = in->op->detail; \
        fesetround(rounding_modes[detail & 3]); \
        for (int i = 0; i < LANES; i++) \
            if (mask >> i & 1) { \
                volatile T a = prepare(pa[i]), b = prepare(pb[i]), c = prepare(pc[i]); \
                volatile T r = function(a, b, c); \
                d[i] = finish(detail, r); \
            } \
        fesetround(FE_TONEAREST); \
    }
FLOAT3(fma_f32, float, fmaf, IN32, finish32)
FLOAT3(fma_f64, double, fma, SAME, SAME64)
#define FLOAT1(name, T, expression, prepare, finish) \
    UNARY(name##_plain, T, T, expression) \
    FUNCTION(name##_other) \
    { \
        T *d = REG(T, 0); \
        const T *pa = REG(T, 1); \
        uint32_t detail = in->op->detail; \
        fesetround(rounding_modes[detail & 3]); \
        for (int i = 0; i < LANES; i++) \
            if (mask >> i & 1) { \
                volatile T a = prepare(pa[i]); \
                volatile T r = expression; \
                d[i] = finish(detail, r); \
            } \
        fesetround(FE_TONEAREST); \
    }
FLOAT1(rcp_f32, float, 1 / a, IN32, finish32) FLOAT1(sqrt_f32, float, sqrtf(a), IN32, finish32)
FLOAT1(rcp_f64, double, 1 / a, SAME, SAME64) FLOAT1(sqrt_f64, double, sqrt(a), SAME, SAME64)
FLOAT1(abs_f32, float, fabsf(a), IN32, finish32) FLOAT1(neg_f32, float, -a, IN32, finish32)
UNARY(abs_f64, uint64_t, uint64_t, a & ~(1ull << 63))
UNARY(neg_f64, uint64_t, uint64_t, a ^ 1ull << 63)

static float min32(float a, float b, uint32_t detail)
{
    if (detail & 4) { a = flush(a); b = flush(b); }
    if (a != a || b != b) return detail & 16 || (a != a && b != b) ? float_of(0x7fffffff) : a != a ? b : a;
    if (a == b) return float_of(bits_of(a) | bits_of(b)); /* -0 is below +0 */
    return a < b ? a : b;
}
static float max32(float a, float b, uint32_t detail)
{
    if (detail & 4) { a = flush(a); b = flush(b); }
    if (a != a || b != b) return detail & 16 || (a != a && b != b) ? float_of(0x7fffffff) : a != a ? b : a;
    if (a == b) return float_of(bits_of(a) & bits_of(b));
    return a > b ? a : b;
}
#define EXTREME(name, pick) /* two operands, on sm_100 and later also three */ \
    FUNCTION(name) \
    { \
        float *d = REG(float, 0); \
        const float *a = REG(float, 1), *b = REG(float, 2), *c = in->o[3] == ~0u ? b : REG(float, 3); \
        EACH(d[i] = pick(pick(a[i], b[i], in->op->detail), c[i], in->op->detail)); \
    }
EXTREME(min_f32, min32)
EXTREME(max_f32, max32)
BINARY(min_f64, double, double, double, a != a ? b : b != b ? a : a == b ? (signbit(a) ? a : b) : a < b ? a : b)
BINARY(max_f64, double, double, double, a != a ? b : b != b ? a : a == b ? (signbit(a) ? b : a) : a > b ? a : b)
BINARY(copysign_f32, uint32_t, uint32_t, uint32_t, (b & 0x7fffffff) | (a & 0x80000000))
BINARY(copysign_f64, uint64_t, uint64_t, uint64_t, (b & ~(1ull << 63)) | (a & 1ull << 63))

/* Approximate functions: the true value, moved by up to the documented error in units of the last place; how far depends on the
   argument and the seed, so that code which relies on particular bits of them shows itself. Where the documentation bounds the
   absolute error, so do we. */
static uint32_t jitter(uint32_t bits)
{
    uint64_t h = (bits + 1) * 0x9e3779b97f4a7c15ull ^ sim.seed * 0xd6e8feb86659fd93ull;
    h ^= h >> 32; h *= 0xd6e8feb86659fd93ull; h ^= h >> 29;
    return (uint32_t)h;
}
static float approximate(float argument, double exact, int ulps)
{
    float r = (float)exact;
    if (r != r || isinf(r) || r == 0 || r == 1) return r;
    int move = (int)(jitter(bits_of(argument)) % (uint32_t)(2 * ulps + 1)) - ulps;
    float moved = float_of(bits_of(r) + (uint32_t)move);
    return isinf(moved) ? r : moved;
}
static float approximate_absolute(float argument, double exact, double error) /* half of it: the other half is the rounding */
{
    return (float)(exact + error * 0.5 * ((double)jitter(bits_of(argument)) / 2147483648.0 - 1));
}
#define APPROXIMATE(name, expression) UNARY(name, float, float, finish32(in->op->detail, expression))
#define X ((in->op->detail & 4 ? (double)flush(a) : (double)a))
APPROXIMATE(ex2_approx, X == rint(X)
                            ? (float)exp2(X)
                            : approximate(a, exp2(X), 2)) /* powers of whole numbers are exact: CUDA's expm1f relies on it */
APPROXIMATE(lg2_approx, fabs(X) > 0.5 && X < 2 ? approximate_absolute(a, log2(X), 2.2e-7) : approximate(a, log2(X), 1))
APPROXIMATE(sin_approx, approximate_absolute(a, sin(X), fabs(X) < 3.2 ? 4.8e-7 : 4.8e-7 + fabs(X) * 1.2e-7))
APPROXIMATE(cos_approx, approximate_absolute(a, cos(X), fabs(X) < 3.2 ? 4.8e-7 : 4.8e-7 + fabs(X) * 1.2e-7))
APPROXIMATE(tanh_approx, (float)(tanh(X) * (1 + 4.8e-4 * ((double)jitter(bits_of(a)) / 2147483648.0 - 1))))
APPROXIMATE(rcp_approx, approximate(a, 1 / X, 1))
APPROXIMATE(sqrt_approx, approximate(a, sqrt(X), 1))
APPROXIMATE(rsqrt_approx, approximate(a, 1 / sqrt(X), 2))
BINARY(div_approx, float, float, float,
    finish32(in->op->detail,
        in->op->detail & 4 ? approximate(b, (double)flush(a) / (double)flush(b), 2) : approximate(b, (double)a / (double)b, 2)))
UNARY(rcp_approx_f64, uint64_t, double, ({ double r = 1 / a; uint64_t u; memcpy(&u, &r, 8); u & 0xffffffff00000000ull; }))
UNARY(rsqrt_approx_f64, uint64_t, double, ({ double r = 1 / sqrt(a); uint64_t u; memcpy(&u, &r, 8); u & 0xffffffff00000000ull; }))
UNARY(rsqrt_f64, double, double, 1 / sqrt(a))
#undef X

/* detail: 0 finite, 1 infinite, 2 number, 3 notanumber, 4 normal, 5 subnormal */
static bool test_property(double x, uint32_t what, bool single)
{
    switch (what) {
    case 0: return isfinite(x);
    case 1: return isinf(x);
    case 2: return !isnan(x);
    case 3: return isnan(x);
    case 4: return single ? isnormal((float)x) : isnormal(x);
    default: return x != 0 && isfinite(x) && !(single ? isnormal((float)x) : isnormal(x));
    }
}
FUNCTION(testp_f32)
{
    const float *a = REG(float, 1);
    uint32_t r = 0;
    for (int i = 0; i < LANES; i++) r |= (uint32_t)test_property((double)a[i], in->op->detail, true) << i;
    set_predicate(w, in, 0, r, mask);
}
FUNCTION(testp_f64)
{
    const double *a = REG(double, 1);
    uint32_t r = 0;
    for (int i = 0; i < LANES; i++) r |= (uint32_t)test_property(a[i], in->op->detail, false) << i;
    set_predicate(w, in, 0, r, mask);
}

/* pairs of floats in 64 bits (sm_100 and later) */
static uint64_t pair(float lo, float hi) { return bits_of(lo) | (uint64_t)bits_of(hi) << 32; }
#define LO(x) float_of((uint32_t)(x))
#define HI(x) float_of((uint32_t)((x) >> 32))
BINARY(add_f32x2, uint64_t, uint64_t, uint64_t, pair(LO(a) + LO(b), HI(a) + HI(b)))
BINARY(sub_f32x2, uint64_t, uint64_t, uint64_t, pair(LO(a) - LO(b), HI(a) - HI(b)))
BINARY(mul_f32x2, uint64_t, uint64_t, uint64_t, pair(LO(a) * LO(b), HI(a) * HI(b)))
TERNARY(fma_f32x2, uint64_t, uint64_t, uint64_t, uint64_t, pair(fmaf(LO(a), LO(b), LO(c)), fmaf(HI(a), HI(b), HI(c))))

/* ---- conversions. detail: bits 0-1 rounding, 4 flush, 8 saturate, 16 to an integral value; bits 8-15 target type, 16-23 source
   type ---- */

enum { T_U8, T_S8, T_U16, T_S16, T_U32, T_S32, T_U64, T_S64, T_F16, T_BF16, T_F32, T_F64 };
static const struct { const char *name; int bytes; bool is_signed, is_float; } types[] = {
    { "u8", 1, false, false }, { "s8", 1, true, false }, { "u16", 2, false, false }, { "s16", 2, true, false },
    { "u32", 4, false, false }, { "s32", 4, true, false }, { "u64", 8, false, false }, { "s64", 8, true, false },
    { "f16", 2, true, true }, { "bf16", 2, true, true }, { "f32", 4, true, true }, { "f64", 8, true, true },
};
static uint64_t read_register(const warp *w, const inst *in, int k, int lane)
{
    switch (in->bytes[k]) {
    case 2: return REG(uint16_t, k)[lane];
    case 4: return REG(uint32_t, k)[lane];
    default: return REG(uint64_t, k)[lane];
    }
}
static void write_register(const warp *w, const inst *in, int k, int lane, uint64_t value)
{
    switch (in->bytes[k]) {
    case 2: REG(uint16_t, k)[lane] = (uint16_t)value; break;
    case 4: REG(uint32_t, k)[lane] = (uint32_t)value; break;
    default: REG(uint64_t, k)[lane] = value; break;
    }
}
static int64_t sign_extend(uint64_t x, int bytes)
{
    return bytes == 8 ? (int64_t)x : (int64_t)(x << (64 - 8 * bytes)) >> (64 - 8 * bytes);
}
static uint64_t zero_extend(uint64_t x, int bytes) { return bytes == 8 ? x : x & (((uint64_t)1 << (8 * bytes)) - 1); }

static uint16_t to_bf16(float x, int rounding)
{
    uint32_t u = bits_of(x);
    if (x != x) return 0x7fff;
    return rounding == 1 ? (uint16_t)(u >> 16) : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
static uint16_t to_f16(float x)
{
    uint16_t sign = (uint16_t)(bits_of(x) >> 16 & 0x8000);
    int e;
    if (x != x) return 0x7fff;
    frexp((double)x, &e);
    double unit = ldexp(1, e - 11 < -24 ? -24 : e - 11), r = rint(fabs((double)x) / unit) * unit;
    if (r >= 65520) return sign | 0x7c00;
    if (r < 0x1p-14) return sign | (uint16_t)(r * 0x1p24);
    uint32_t u = bits_of((float)r);
    return sign | (uint16_t)((u >> 23) - 112) << 10 | (u >> 13 & 0x3ff);
}
static float from_f16(uint16_t h)
{
    uint32_t sign = (h & 0x8000u) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 31) return float_of(sign | 0x7f800000 | m << 13);
    if (e == 0) return sign ? -(float)m * 0x1p-24f : (float)m * 0x1p-24f;
    return float_of(sign | (e + 112) << 23 | m << 13);
}

static double round_integral(double x, int rounding)
{
    switch (rounding) {
    case 0: return rint(x);
    case 1: return trunc(x);
    case 2: return floor(x);
    default: return ceil(x);
    }
}

static uint64_t float_to_integer(double x, int type, int rounding)
{
    int bits = types[type].bytes * 8;
    if (x != x) return bits == 64 ? (uint64_t)1 << 63 : 0;
    x = round_integral(x, rounding);
    if (types[type].is_signed) {
        double limit = ldexp(1, bits - 1);
        if (x >= limit) return ((uint64_t)1 << (bits - 1)) - 1;
        if (x < -limit) return (uint64_t)1 << (bits - 1);
        return (uint64_t)(int64_t)x;
    }
    if (x >= ldexp(1, bits)) return bits == 64 ? ~(uint64_t)0 : ((uint64_t)1 << bits) - 1;
    return x <= 0 ? 0 : (uint64_t)x;
}

static uint64_t saturate_integer(uint64_t x, int from, int to)
{
    int bits = types[to].bytes * 8;
    if (types[to].is_signed) {
        int64_t top = bits == 64 ? INT64_MAX : ((int64_t)1 << (bits - 1)) - 1;
        if (types[from].is_signed) return (int64_t)x > top ? (uint64_t)top : (int64_t)x < -top - 1 ? (uint64_t)(-top - 1) : x;
        return x > (uint64_t)top ? (uint64_t)top : x;
    }
    uint64_t top = bits == 64 ? ~(uint64_t)0 : ((uint64_t)1 << bits) - 1;
    if (types[from].is_signed && (int64_t)x < 0) return 0;
    return x > top ? top : x;
}

FUNCTION(cvt)
{
    uint32_t detail = in->op->detail;
    int to = detail >> 8 & 255, from = detail >> 16 & 255, rounding = detail & 3;
    if (!(detail & 16)) fesetround(rounding_modes[rounding]);
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) {
        uint64_t raw = read_register(w, in, 1, i), result;
        if (!types[from].is_float) {
            raw = types[from].is_signed ? (uint64_t)sign_extend(raw, types[from].bytes) : zero_extend(raw, types[from].bytes);
            if (to == T_F32) {
                volatile float f = types[from].is_signed ? (float)(int64_t)raw : (float)raw;
                result = bits_of(finish32(detail & 8, f));
            } else if (to == T_F64) {
                volatile double f = types[from].is_signed ? (double)(int64_t)raw : (double)raw;
                double g = f;
                memcpy(&result, &g, 8);
            } else {
                if (detail & 8) raw = saturate_integer(raw, from, to);
                result = types[to].is_signed ? (uint64_t)sign_extend(raw, types[to].bytes) : zero_extend(raw, types[to].bytes);
            }
        } else {
            double x;
            if (from == T_F32) x = (double)(detail & 4 ? flush(float_of((uint32_t)raw)) : float_of((uint32_t)raw));
            else if (from == T_F64) memcpy(&x, &raw, 8);
            else if (from == T_F16) x = (double)from_f16((uint16_t)raw);
            else x = (double)float_of((uint32_t)raw << 16);
            if (!types[to].is_float) {
                result = float_to_integer(x, to, rounding);
                if (types[to].is_signed) result = (uint64_t)sign_extend(result, types[to].bytes);
            } else {
                if (detail & 16) x = round_integral(x, rounding);
                if (to == T_F64) memcpy(&result, &x, 8);
                else {
                    volatile double v = x;
                    volatile float f = (float)v;
                    float g = finish32(detail, f);
                    if (x != x && to == T_F32 && !(detail & 8))
                        g = float_of(from == T_F32 ? (uint32_t)raw | 0x00400000 : 0x7fffffff);
                    result = to == T_F32 ? bits_of(g) : to == T_F16 ? to_f16(g) : to_bf16(g, rounding);
                }
            }
        }
        write_register(w, in, 0, i, result);
    }
    fesetround(FE_TONEAREST);
}
UNARY(cvt_u32_u64, uint32_t, uint64_t, a)
UNARY(cvt_u64_u32, uint64_t, uint32_t, a)
UNARY(cvt_s64_s32, int64_t, int32_t, a)
UNARY(cvt_rn_f32_s32, float, int32_t, a)
BINARY(cvt_bf16x2, uint32_t, float, float, (uint32_t)to_bf16(a, 0) << 16 | to_bf16(b, 0))
BINARY(cvt_f16x2, uint32_t, float, float, (uint32_t)to_f16(a) << 16 | to_f16(b))
/* to tf32: 10 bits of fraction, the rest zero. rna: nearest, ties away; rn: ties to even */
UNARY(
    cvt_rna_tf32, uint32_t, uint32_t, (a & 0x7f800000) == 0x7f800000 ? (a & 0x7fffff ? 0x7fffffffu : a) : (a + 0x1000) & ~0x1fffu)
UNARY(cvt_rn_tf32, uint32_t, uint32_t,
    (a & 0x7f800000) == 0x7f800000 ? (a & 0x7fffff ? 0x7fffffffu : a) : (a + 0xfff + (a >> 13 & 1)) & ~0x1fffu)

/* ---- moves between registers of different sizes ---- */

FUNCTION(pack) /* operand 0 from the others, low part first */
{
    int n = in->operands - 1, bits = in->bytes[1] * 8;
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) {
        uint64_t r = 0;
        for (int k = 0; k < n; k++) r |= read_register(w, in, 1 + k, i) << (k * bits);
        write_register(w, in, 0, i, r);
    }
}
FUNCTION(unpack)
{
    int n = in->operands - 1, bits = in->bytes[0] * 8;
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) {
        uint64_t r = read_register(w, in, n, i);
        for (int k = 0; k < n; k++) write_register(w, in, k, i, r >> (k * bits));
    }
}
FUNCTION(cvta_shared) { uint64_t *d = REG(uint64_t, 0); const uint64_t *a = REG(uint64_t, 1); EACH(d[i] = a[i] + SHARED_WINDOW); }
FUNCTION(cvta_local) { uint64_t *d = REG(uint64_t, 0); const uint64_t *a = REG(uint64_t, 1); EACH(d[i] = a[i] + LOCAL_WINDOW); }
FUNCTION(cvta_to_shared)
{
    uint64_t *d = REG(uint64_t, 0);
    const uint64_t *a = REG(uint64_t, 1);
    EACH(d[i] = a[i] - SHARED_WINDOW);
}
FUNCTION(cvta_to_local)
{
    uint64_t *d = REG(uint64_t, 0);
    const uint64_t *a = REG(uint64_t, 1);
    EACH(d[i] = a[i] - LOCAL_WINDOW);
}
FUNCTION(isspacep)
{
    const uint64_t *a = REG(uint64_t, 1);
    uint32_t r = 0;
    for (int i = 0; i < LANES; i++) {
        int space = a[i] >> 52 == SHARED_WINDOW >> 52  ? SPACE_SHARED
                    : a[i] >> 52 == LOCAL_WINDOW >> 52 ? SPACE_LOCAL
                                                       : SPACE_GLOBAL;
        r |= (uint32_t)(space == in->op->space) << i;
    }
    set_predicate(w, in, 0, r, mask);
}
FUNCTION(activemask) { uint32_t *d = REG(uint32_t, 0); EACH(d[i] = mask); }
FUNCTION(nothing) { (void)w; (void)in; (void)mask; }

/* ---- memory ---- */

static inline uint64_t address_at(const warp *w, const inst *in, int k, int lane)
{
    return (in->bytes[k] == 8 ? REG(uint64_t, k)[lane] : REG(uint32_t, k)[lane]) + (uint64_t)in->offset;
}

static void addresses(const warp *w, const inst *in, int k, uint64_t out[LANES])
{
    if (in->bytes[k] == 8) {
        const uint64_t *a = REG(uint64_t, k);
        for (int i = 0; i < LANES; i++) out[i] = a[i] + (uint64_t)in->offset;
    } else {
        const uint32_t *a = REG(uint32_t, k);
        for (int i = 0; i < LANES; i++) out[i] = a[i] + (uint64_t)in->offset;
    }
}

/* What a request costs on hardware, counted when CUDASIM_COUNT=1: extra passes over the 32 banks, or sectors of 32 bytes. */
static void count_request(const inst *in, uint32_t mask, const uint64_t address[LANES], unsigned size)
{
    uint64_t seen[LANES * 4];
    int n = 0;
    bool shared = in->op->space == SPACE_SHARED;
    if (in->op->space != SPACE_GLOBAL && !shared) return;
    int most = 0, lanes = shared && size > 4 ? LANES * 4 / (int)size : LANES,
        passes = 0; /* wide shared requests go by halves and quarters of the warp */
    for (int first = 0; first < LANES; first += lanes) {
        int banks[32] = { 0 };
        n = most = 0;
        for (int i = first; i < first + lanes; i++) if (mask >> i & 1) for (unsigned k = 0; k < size; k += shared ? 4 : 32) {
            uint64_t unit = shared ? (address[i] + k) >> 2 : (address[i] + k) >> 5;
            bool known = false;
            for (int j = 0; j < n && !known; j++) known = seen[j] == unit;
            if (known || n == LANES * 4) continue;
            seen[n++] = unit;
            if (shared && ++banks[unit & 31] > most) most = banks[unit & 31];
        }
        passes += most > 1 ? most - 1 : 0;
    }
    if (shared) { stats.shared_requests++; stats.shared_conflicts += (uint64_t)passes; }
    else { stats.global_requests++; stats.global_sectors += (uint64_t)n; }
}

FUNCTION(ld)
{
    const opcode *op = in->op;
    int n = op->count, size = op->size;
    unsigned bytes = (unsigned)(n * size);
    uint64_t address[LANES];
    uint8_t *p[LANES];
    addresses(w, in, n, address);
    if (sim.count) count_request(in, mask, address, bytes);
    uint32_t done = 0, relaxed = op->detail & 2;
    if (op->space == SPACE_SHARED)
        done = bytes == 4    ? shared_read_quick(w, mask, address, 4, p)
               : bytes == 16 ? shared_read_quick(w, mask, address, 16, p)
               : bytes == 8  ? shared_read_quick(w, mask, address, 8, p)
                             : 0;
    else if (op->space == SPACE_GLOBAL)
        done = bytes == 4    ? global_read_quick(w, mask, address, 4, relaxed, p)
               : bytes == 16 ? global_read_quick(w, mask, address, 16, relaxed, p)
               : bytes == 8  ? global_read_quick(w, mask, address, 8, relaxed, p)
                             : 0;
    for (uint32_t left = mask & ~done; left; left &= left - 1) {
        int i = __builtin_ctz(left);
        p[i] = memory_access(w, in, op->space, i, address[i], bytes, ACCESS_READ, NULL);
    }
    if (size == 4 && in->bytes[0] == 4) {
        for (int k = 0; k < n; k++) {
            uint32_t *d = REG(uint32_t, k);
            for (int i = 0; i < LANES; i++) if (mask >> i & 1) memcpy(&d[i], p[i] + 4 * k, 4);
        }
        return;
    }
    for (int i = 0; i < LANES; i++) if (mask >> i & 1)
        for (int k = 0; k < n; k++) {
            uint64_t value = 0;
            memcpy(&value, p[i] + size * k, (size_t)size);
            if (op->is_signed) value = (uint64_t)sign_extend(value, size);
            write_register(w, in, k, i, value);
        }
}
FUNCTION(st)
{
    const opcode *op = in->op;
    int n = op->count, size = op->size;
    unsigned bytes = (unsigned)(n * size);
    bool quick = bytes >= 4 && bytes <= 16, shared = op->space == SPACE_SHARED,
         global = op->space == SPACE_GLOBAL && !(op->detail & 2);
    uint64_t address[LANES];
    addresses(w, in, 0, address);
    if (sim.count) count_request(in, mask, address, bytes);
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) {
        uint8_t value[32], *p = NULL;
        if (size == 4 && in->bytes[1] == 4) for (int k = 0; k < n; k++) memcpy(value + 4 * k, &REG(uint32_t, 1 + k)[i], 4);
        else
            for (int k = 0; k < n; k++) {
                uint64_t v = read_register(w, in, 1 + k, i);
                memcpy(value + size * k, &v, (size_t)size);
            }
        if (quick && shared) p = shared_write_quick(w, (uint32_t)i, address[i], bytes);
        else if (quick && global) p = global_write_quick(w, (uint32_t)i, address[i], bytes);
        if (!p) p = memory_access(w, in, op->space, i, address[i], bytes, ACCESS_WRITE, value);
        if (bytes == 4) memcpy(p, value, 4);
        else if (bytes == 16) memcpy(p, value, 16);
        else memcpy(p, value, bytes);
    }
}
FUNCTION(ld_param)
{
    const opcode *op = in->op;
    int n = op->count, size = op->size;
    uint32_t room = w->block->launch->k->params_bytes;
    bool uniform = in->o[n] & 1; /* at a fixed offset: the first lane reads for all */
    const uint32_t given = mask;
    if (uniform) mask &= -mask;
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) {
        uint64_t a = address_at(w, in, n, i);
        if (a > room || room - a < (unsigned)(n * size))
            kernel_fault(
                w, in, i, 700, "reads %d bytes at offset %llu of %u bytes of parameters", n * size, (unsigned long long)a, room);
        if (a % (unsigned)(n * size))
            kernel_fault(w, in, i, 716, "offset %llu of the parameters is not a multiple of %d", (unsigned long long)a, n * size);
        for (int k = 0; k < n; k++) {
            uint64_t value = 0;
            memcpy(&value, w->block->launch->params + a + size * k, (size_t)size);
            if (op->is_signed) value = (uint64_t)sign_extend(value, size);
            for (uint32_t to = uniform ? given : 1u << i; to; to &= to - 1) write_register(w, in, k, __builtin_ctz(to), value);
        }
    }
}

enum { A_ADD, A_FADD, A_MIN, A_MAX, A_INC, A_DEC, A_EXCH, A_CAS, A_AND, A_OR, A_XOR };
/* atom (detail bit 8: red, without a result): the lanes' order is not fixed, as on hardware */
FUNCTION(atomic)
{
    const opcode *op = in->op;
    int size = op->size, kind = op->detail & 255, first = op->detail >> 8 & 1 ? 0 : 1;
    uint32_t turn = random_below(LANES);
    if (w->fence_pending || w->block->launch->published) fence_atomic(w);
    for (int n = 0; n < LANES; n++) {
        int i = (int)((unsigned)n + turn) % LANES;
        if (!(mask >> i & 1)) continue;
        uint8_t *p = memory_access(w, in, op->space, i, address_at(w, in, first, i), (unsigned)size, ACCESS_ATOMIC, NULL);
        uint64_t old = 0, b = read_register(w, in, first + 1, i), r = 0;
        memcpy(&old, p, (size_t)size);
        int64_t so = sign_extend(old, size), sb = sign_extend(b, size);
        b = zero_extend(b, size);
        switch (kind) {
        case A_ADD: r = old + b; break;
        case A_FADD:
            if (size == 4) r = bits_of(float_of((uint32_t)old) + float_of((uint32_t)b));
            else { double x, y; memcpy(&x, &old, 8); memcpy(&y, &b, 8); x += y; memcpy(&r, &x, 8); }
            break;
        case A_MIN: r = op->is_signed ? (so < sb ? old : b) : old < b ? old : b; break;
        case A_MAX: r = op->is_signed ? (so > sb ? old : b) : old > b ? old : b; break;
        case A_INC: r = old >= b ? 0 : old + 1; break;
        case A_DEC: r = old == 0 || old > b ? b : old - 1; break;
        case A_EXCH: r = b; break;
        case A_CAS: r = old == b ? read_register(w, in, first + 2, i) : old; break;
        case A_AND: r = old & b; break;
        case A_OR: r = old | b; break;
        case A_XOR: r = old ^ b; break;
        }
        memcpy(p, &r, (size_t)size);
        if (first) write_register(w, in, 0, i, old);
    }
}
FUNCTION(fence) { (void)in; (void)mask; fence_publish(w); }

/* cp.async: done as late as legal, at the wait. size 4, 8 or 16; the rest of a shorter source is zero. */
FUNCTION(cp_async)
{
    int size = (int)read_register(w, in, 2, 0);
    if (size != 16 && (in->op->detail || (size != 4 && size != 8)))
        kernel_fault(w, in, __builtin_ctz(mask), 719, "copies %d bytes: 16 (.ca: also 4 and 8) are allowed", size);
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) {
        if (w->copy_count[i] == w->copy_room[i]) {
            w->copy_room[i] = w->copy_room[i] ? w->copy_room[i] * 2 : 16;
            w->copies[i] = realloc(w->copies[i], w->copy_room[i] * sizeof(async_copy));
        }
        async_copy *c = &w->copies[i][w->copy_count[i]++];
        uint32_t source = in->o[3] == ~0u ? (uint32_t)size : (uint32_t)read_register(w, in, 3, i);
        if (source > (uint32_t)size) kernel_fault(w, in, i, 719, "source size %u is above the copy's %d", source, size);
        uint64_t shared = in->bytes[0] == 8 ? REG(uint64_t, 0)[i] : REG(uint32_t, 0)[i];
        uint64_t global = in->bytes[1] == 8 ? REG(uint64_t, 1)[i] : REG(uint32_t, 1)[i];
        *c = (async_copy){ .shared = (uint32_t)(shared + (uint64_t)in->offset),
            .global = global + (uint64_t)(int64_t)in->target,
            .size = (uint32_t)size,
            .source_size = source,
            .group = w->copy_group[i],
            .in = in };
        shared_access(w, in, i, c->shared, c->size, ACCESS_WRITE, NULL); /* from here on nobody else may touch it */
        shared_undefine(w, c->shared, c->size);
    }
}
FUNCTION(cp_async_commit) { (void)in; for (int i = 0; i < LANES; i++) if (mask >> i & 1) w->copy_group[i]++; }
static void cp_async_finish(warp *w, int lane, uint32_t groups) /* all copies of the first `groups` groups */
{
    uint32_t kept = 0;
    for (uint32_t k = 0; k < w->copy_count[lane]; k++) {
        async_copy *c = &w->copies[lane][k];
        if (c->group >= groups) { w->copies[lane][kept++] = *c; continue; }
        uint8_t value[16] = { 0 };
        if (c->source_size && c->global % c->size)
            kernel_fault(w, c->in, lane, 716, "misaligned: address 0x%llx is not a multiple of %u", (unsigned long long)c->global, c->size);
        for (uint32_t at = 0, n = c->size; n; n /= 2) /* a part of the size is no power of two */
            if (c->source_size - at >= n) {
                memcpy(value + at, global_access(w, c->in, lane, c->global + at, n, ACCESS_READ, NULL), n);
                at += n;
            }
        memcpy(shared_access(w, c->in, lane, c->shared, c->size, ACCESS_WRITE, value), value, c->size);
    }
    w->copy_count[lane] = kept;
}
FUNCTION(cp_async_wait)
{
    uint32_t leave = (uint32_t)in->offset;
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) {
        if (in->op->detail) cp_async_finish(w, i, ~0u);
        else if (w->copy_group[i] > leave) cp_async_finish(w, i, w->copy_group[i] - leave);
    }
}

/* ---- between lanes. The warp's loop calls these with all lanes that take part. ---- */

/* detail: 0 up, 1 down, 2 bfly, 3 idx */
FUNCTION(shfl)
{
    uint32_t *d = REG(uint32_t, 0), a[LANES], p = 0, r[LANES];
    const uint32_t *b = REG(uint32_t, 3), *c = REG(uint32_t, 4);
    memcpy(a, REG(uint32_t, 2), sizeof a);
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) {
            int lane = (int)(b[i] & 31), clamp = (int)(c[i] & 31), segment = (int)(c[i] >> 8 & 31),
                top = (i & segment) | (clamp & ~segment), from = i;
            bool good = false;
            switch (in->op->detail) {
            case 0: from = i - lane; good = from >= top; break;
        case 1: from = i + lane; good = from <= top; break;
        case 2: from = i ^ lane; good = from <= top; break;
        case 3: from = (i & segment) | (lane & ~segment); good = from <= top; break;
        }
        if (!good) from = i;
        if (!(mask >> from & 1)) kernel_fault(w, in, i, 719, "reads lane %d, which takes no part (mask %08x)", from, mask);
        p |= (uint32_t)good << i;
        r[i] = a[from];
    }
    EACH(d[i] = r[i]);
    set_predicate(w, in, 1, p, mask);
}
FUNCTION(vote_all) { uint32_t p = predicate(w, in, 1); set_predicate(w, in, 0, (p & mask) == mask ? ALL : 0, mask); }
FUNCTION(vote_any) { uint32_t p = predicate(w, in, 1); set_predicate(w, in, 0, p & mask ? ALL : 0, mask); }
FUNCTION(vote_uni) { uint32_t p = predicate(w, in, 1) & mask; set_predicate(w, in, 0, p == mask || p == 0 ? ALL : 0, mask); }
FUNCTION(vote_ballot) { uint32_t *d = REG(uint32_t, 0), p = predicate(w, in, 1) & mask; EACH(d[i] = p); }
FUNCTION(match_any)
{
    uint64_t a[LANES];
    for (int i = 0; i < LANES; i++) a[i] = read_register(w, in, 1, i);
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) {
        uint32_t r = 0;
        for (int j = 0; j < LANES; j++) r |= (uint32_t)((mask >> j & 1) && a[j] == a[i]) << j;
        REG(uint32_t, 0)[i] = r;
    }
}
FUNCTION(match_all)
{
    uint64_t first = read_register(w, in, 2, __builtin_ctz(mask));
    bool same = true;
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) same = same && read_register(w, in, 2, i) == first;
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) REG(uint32_t, 0)[i] = same ? mask : 0;
    set_predicate(w, in, 1, same ? ALL : 0, mask);
}
FUNCTION(redux)
{
    const uint32_t *a = REG(uint32_t, 1);
    uint32_t r = 0;
    bool first = true;
    for (int i = 0; i < LANES; i++) if (mask >> i & 1) {
        uint32_t b = a[i];
        if (first) { r = b; first = false; continue; }
        switch (in->op->detail) {
        case A_ADD: r += b; break;
        case A_MIN: r = in->op->is_signed ? ((int32_t)b < (int32_t)r ? b : r) : b < r ? b : r; break;
        case A_MAX: r = in->op->is_signed ? ((int32_t)b > (int32_t)r ? b : r) : b > r ? b : r; break;
        case A_AND: r &= b; break;
        case A_OR: r |= b; break;
        case A_XOR: r ^= b; break;
        }
    }
    uint32_t *d = REG(uint32_t, 0);
    EACH(d[i] = r);
}
FUNCTION(bar_warp) { (void)in; (void)mask; w->block->clock[w->index][w->index]++; clock_changed(w); }

/* ldmatrix. detail: 1 transposed. Lanes 8m to 8m + 7 hold the addresses of matrix m's rows of 16 bytes. */
FUNCTION(ldmatrix)
{
    int n = in->op->count;
    uint16_t m[4][8][8];
    for (int i = 0; i < 8 * n; i++)
        memcpy(m[i / 8][i % 8], shared_access(w, in, i, address_at(w, in, n, i), 16, ACCESS_READ, NULL), 16);
    for (int k = 0; k < n; k++) for (int i = 0; i < LANES; i++) {
        int r = i / 4, c = 2 * (i % 4);
        REG(uint32_t, k)
        [i] = in->op->detail ? m[k][c][r] | (uint32_t)m[k][c + 1][r] << 16 : m[k][r][c] | (uint32_t)m[k][r][c + 1] << 16;
    }
    (void)mask;
}
FUNCTION(stmatrix)
{
    int n = in->op->count;
    uint16_t m[4][8][8];
    for (int k = 0; k < n; k++) for (int i = 0; i < LANES; i++) {
        uint32_t v = REG(uint32_t, 1 + k)[i];
        int r = i / 4, c = 2 * (i % 4);
        if (in->op->detail) { m[k][c][r] = (uint16_t)v; m[k][c + 1][r] = (uint16_t)(v >> 16); }
        else { m[k][r][c] = (uint16_t)v; m[k][r][c + 1] = (uint16_t)(v >> 16); }
    }
    for (int i = 0; i < 8 * n; i++)
        memcpy(shared_access(w, in, i, address_at(w, in, 0, i), 16, ACCESS_WRITE, m[i / 8][i % 8]), m[i / 8][i % 8], 16);
    (void)mask;
}

/* mma.m16n8kK with float accumulators. detail: bits 0-7 K, 8-15 type. The exact sum of products, rounded once: hardware's order
   and rounding are its own. */
enum { M_TF32, M_BF16, M_F16 };
FUNCTION(mma)
{
    static __thread double a[16][16], b[16][8];
    int depth = in->op->detail & 255, type = in->op->detail >> 8, per = type == M_TF32 ? 1 : 2, na = 16 * depth / LANES / per,
        nb = 8 * depth / LANES / per;
    for (int i = 0; i < LANES; i++) for (int k = 0; k < na + nb; k++) {
        uint32_t v = REG(uint32_t, 4 + k)[i];
        bool is_a = k < na;
        int j = is_a ? k : k - na, group = i >> 2, row = is_a && j & 1 ? group + 8 : group, part = is_a ? j >> 1 : j;
        for (int e = 0; e < per; e++) {
            int at = (i & 3) * per + e + part * 4 * per;
            float x = type == M_TF32   ? float_of(v & ~0x1fffu)
                      : type == M_BF16 ? float_of(v >> (16 * e) << 16)
                                       : from_f16((uint16_t)(v >> (16 * e)));
            if (is_a) a[row][at] = (double)x; else b[at][row] = (double)x;
        }
    }
    float r[4][LANES];
    for (int i = 0; i < LANES; i++) for (int k = 0; k < 4; k++) {
        int row = (i >> 2) + (k & 2 ? 8 : 0), column = (i & 3) * 2 + (k & 1);
        double sum = (double)REG(float, 4 + na + nb + k)[i];
        for (int j = 0; j < depth; j++) sum += a[row][j] * b[j][column];
        r[k][i] = (float)sum;
    }
    for (int k = 0; k < 4; k++) memcpy(REG(float, k), r[k], sizeof r[k]);
    (void)mask;
}

/* ---- the table of accepted opcodes ---- */

static opcode *table;
static size_t table_count, table_room;
static int32_t *table_hash;
static uint32_t table_mask;

static opcode *add(const char *name, op_fn run, const char *operands)
{
    if (table_count == table_room) {
        table_room = table_room ? table_room * 2 : 4096;
        table = realloc(table, table_room * sizeof *table);
    }
    opcode *op = &table[table_count++];
    memset(op, 0, sizeof *op);
    op->name = strdup(name);
    op->run = run;
    op->operands = operands;
    return op;
}
static char name_buffer[160];
#define NAME(...) (snprintf(name_buffer, sizeof name_buffer, __VA_ARGS__), name_buffer)

static void add_integers(void)
{
#define ROWS(n, B) \
    add("add.s" #n, add_##n, "R" B " r" B " r" B); \
    add("add.u" #n, add_##n, "R" B " r" B " r" B); \
    add("sub.s" #n, sub_##n, "R" B " r" B " r" B); \
    add("sub.u" #n, sub_##n, "R" B " r" B " r" B); \
    add("mul.lo.s" #n, mul_lo_##n, "R" B " r" B " r" B); \
    add("mul.lo.u" #n, mul_lo_##n, "R" B " r" B " r" B); \
    add("mul.hi.s" #n, mul_hi_s##n, "R" B " r" B " r" B); \
    add("mul.hi.u" #n, mul_hi_u##n, "R" B " r" B " r" B); \
    add("mad.lo.s" #n, mad_lo_##n, "R" B " r" B " r" B " r" B); \
    add("mad.lo.u" #n, mad_lo_##n, "R" B " r" B " r" B " r" B); \
    add("mad.hi.s" #n, mad_hi_s##n, "R" B " r" B " r" B " r" B); \
    add("mad.hi.u" #n, mad_hi_u##n, "R" B " r" B " r" B " r" B); \
    add("div.s" #n, div_s##n, "R" B " r" B " r" B); \
    add("div.u" #n, div_u##n, "R" B " r" B " r" B); \
    add("rem.s" #n, rem_s##n, "R" B " r" B " r" B); \
    add("rem.u" #n, rem_u##n, "R" B " r" B " r" B); \
    add("min.s" #n, min_s##n, "R" B " r" B " r" B); \
    add("min.u" #n, min_u##n, "R" B " r" B " r" B); \
    add("max.s" #n, max_s##n, "R" B " r" B " r" B); \
    add("max.u" #n, max_u##n, "R" B " r" B " r" B); \
    add("abs.s" #n, abs_s##n, "R" B " r" B); \
    add("neg.s" #n, neg_s##n, "R" B " r" B); \
    add("not.b" #n, not_##n, "R" B " r" B); \
    add("and.b" #n, and_##n, "R" B " r" B " r" B); \
    add("or.b" #n, or_##n, "R" B " r" B " r" B); \
    add("xor.b" #n, xor_##n, "R" B " r" B " r" B); \
    add("shl.b" #n, shl_##n, "R" B " r" B " r4"); \
    add("shr.b" #n, shr_u##n, "R" B " r" B " r4"); \
    add("shr.u" #n, shr_u##n, "R" B " r" B " r4"); \
    add("shr.s" #n, shr_s##n, "R" B " r" B " r4"); \
    for (int i = 0; i < 3; i++) { \
        add(NAME("mov.%c" #n, "bus"[i]), mov_##n, "R" B " r" B); \
        add(NAME("selp.%c" #n, "bus"[i]), selp_##n, "R" B " r" B " r" B " p"); \
    }
    ROWS(16, "2") ROWS(32, "4") ROWS(64, "8")
    add("mov.f32", mov_32, "R4 r4"); add("mov.f64", mov_64, "R8 r8"); add("selp.f32", selp_32, "R4 r4 r4 p");
    add("selp.f64", selp_64, "R8 r8 r8 p");
    add("mul.wide.s16", mul_wide_s16, "R4 r2 r2"); add("mul.wide.u16", mul_wide_u16, "R4 r2 r2");
    add("mul.wide.s32", mul_wide_s32, "R8 r4 r4"); add("mul.wide.u32", mul_wide_u32, "R8 r4 r4");
    add("mad.wide.s16", mad_wide_s16, "R4 r2 r2 r4"); add("mad.wide.u16", mad_wide_u16, "R4 r2 r2 r4");
    add("mad.wide.s32", mad_wide_s32, "R8 r4 r4 r8"); add("mad.wide.u32", mad_wide_u32, "R8 r4 r4 r8");
    add("popc.b32", popc_32, "R4 r4"); add("popc.b64", popc_64, "R4 r8"); add("clz.b32", clz_32, "R4 r4");
    add("clz.b64", clz_64, "R4 r8");
    add("brev.b32", brev_32, "R4 r4"); add("brev.b64", brev_64, "R8 r8");
    for (uint32_t s = 0; s < 2; s++) {
        add(NAME("bfind%s.u32", s ? ".shiftamt" : ""), bfind_u32, "R4 r4")->detail = s;
        add(NAME("bfind%s.s32", s ? ".shiftamt" : ""), bfind_s32, "R4 r4")->detail = s;
        add(NAME("bfind%s.u64", s ? ".shiftamt" : ""), bfind_u64, "R4 r8")->detail = s;
        add(NAME("bfind%s.s64", s ? ".shiftamt" : ""), bfind_s64, "R4 r8")->detail = s;
    }
    add("bfe.u32", bfe_u32, "R4 r4 r4 r4"); add("bfe.s32", bfe_s32, "R4 r4 r4 r4"); add("bfe.u64", bfe_u64, "R8 r8 r4 r4");
    add("bfe.s64", bfe_s64, "R8 r8 r4 r4");
    add("bfi.b32", bfi_32, "R4 r4 r4 r4 r4"); add("bfi.b64", bfi_64, "R8 r8 r8 r4 r4"); add("prmt.b32", prmt_32, "R4 r4 r4 r4");
    add("shf.l.wrap.b32", shf_l_wrap, "R4 r4 r4 r4"); add("shf.r.wrap.b32", shf_r_wrap, "R4 r4 r4 r4");
    add("shf.l.clamp.b32", shf_l_clamp, "R4 r4 r4 r4"); add("shf.r.clamp.b32", shf_r_clamp, "R4 r4 r4 r4");
    add("lop3.b32", lop3_32, "R4 r4 r4 r4 I");
    add("dp4a.u32.u32", dp4a, "R4 r4 r4 r4"); add("dp4a.s32.s32", dp4a, "R4 r4 r4 r4")->detail = 3;
    add("dp4a.s32.u32", dp4a, "R4 r4 r4 r4")->detail = 1; add("dp4a.u32.s32", dp4a, "R4 r4 r4 r4")->detail = 2;
    static const struct {
        const char *name;
        uint32_t detail;
    } carries[] = { { "add.cc", 2 }, { "addc", 1 }, { "addc.cc", 3 }, { "sub.cc", 6 }, { "subc", 5 }, { "subc.cc", 7 } };
    for (int i = 0; i < 6; i++) for (int s = 0; s < 2; s++) {
        add(NAME("%s.%c32", carries[i].name, "us"[s]), carry_32, "R4 r4 r4")->detail = carries[i].detail;
        add(NAME("%s.%c64", carries[i].name, "us"[s]), carry_64, "R8 r8 r8")->detail = carries[i].detail;
    }
    add("and.pred", and_pred, "P p p"); add("or.pred", or_pred, "P p p"); add("xor.pred", xor_pred, "P p p");
    add("not.pred", not_pred, "P p"); add("mov.pred", mov_pred, "P p");
}

static void add_compare(const char *how, const char *type, op_fn run)
{
    static const char *combine[] = { "", ".and", ".or", ".xor" };
    bool single = strcmp(type, "f32") == 0;
    const char *plain = strstr(type, "16") ? "Q r2 r2" : strstr(type, "32") ? "Q r4 r4" : "Q r8 r8";
    const char *combined = strstr(type, "16") ? "Q r2 r2 p" : strstr(type, "32") ? "Q r4 r4 p" : "Q r8 r8 p";
    for (uint32_t c = 0; c < 4; c++)
        for (uint32_t f = 0; f <= single; f++)
            add(NAME("setp.%s%s%s.%s", how, combine[c], f ? ".ftz" : "", type), run, c ? combined : plain)->detail = c | f << 2;
}

static void add_compares(void)
{
#define EQUALITY(T, run) add_compare("eq", T, setp_eq_##run), add_compare("ne", T, setp_ne_##run)
#define ORDER(T, run) \
    add_compare("lt", T, setp_lt_##run), add_compare("le", T, setp_le_##run), add_compare("gt", T, setp_gt_##run), \
        add_compare("ge", T, setp_ge_##run)
#define UNSIGNED(T, run) \
    add_compare("lo", T, setp_lt_##run), add_compare("ls", T, setp_le_##run), add_compare("hi", T, setp_gt_##run), \
        add_compare("hs", T, setp_ge_##run)
#define UNORDERED(T, run) \
    add_compare("equ", T, setp_equ_##run), add_compare("neu", T, setp_neu_##run), add_compare("ltu", T, setp_ltu_##run), \
        add_compare("leu", T, setp_leu_##run), add_compare("gtu", T, setp_gtu_##run), add_compare("geu", T, setp_geu_##run), \
        add_compare("num", T, setp_num_##run), add_compare("nan", T, setp_nan_##run)
    EQUALITY("b16", u16); EQUALITY("b32", u32); EQUALITY("b64", u64);
    EQUALITY("u16", u16); EQUALITY("u32", u32); EQUALITY("u64", u64);
    EQUALITY("s16", s16); EQUALITY("s32", s32); EQUALITY("s64", s64);
    ORDER("u16", u16); ORDER("u32", u32); ORDER("u64", u64);
    ORDER("s16", s16); ORDER("s32", s32); ORDER("s64", s64);
    UNSIGNED("u16", u16); UNSIGNED("u32", u32); UNSIGNED("u64", u64);
    EQUALITY("f32", f32); ORDER("f32", f32); UNORDERED("f32", f32);
    EQUALITY("f64", f64); ORDER("f64", f64); UNORDERED("f64", f64);
}

static void add_floats(void)
{
    static const char *rounding[] = { ".rn", ".rz", ".rm", ".rp", "" };
    static const struct {
        const char *name;
        op_fn plain32, other32, plain64, other64;
        bool bare, sat;
        const char *o32, *o64;
    } rows[] = {
        { "add", add_f32_plain, add_f32_other, add_f64_plain, add_f64_other, true, true, "R4 r4 r4", "R8 r8 r8" },
        { "sub", sub_f32_plain, sub_f32_other, sub_f64_plain, sub_f64_other, true, true, "R4 r4 r4", "R8 r8 r8" },
        { "mul", mul_f32_plain, mul_f32_other, mul_f64_plain, mul_f64_other, true, true, "R4 r4 r4", "R8 r8 r8" },
        { "div", div_f32_plain, div_f32_other, div_f64_plain, div_f64_other, false, false, "R4 r4 r4", "R8 r8 r8" },
        { "fma", fma_f32_plain, fma_f32_other, fma_f64_plain, fma_f64_other, false, true, "R4 r4 r4 r4", "R8 r8 r8 r8" },
        { "rcp", rcp_f32_plain, rcp_f32_other, rcp_f64_plain, rcp_f64_other, false, false, "R4 r4", "R8 r8" },
        { "sqrt", sqrt_f32_plain, sqrt_f32_other, sqrt_f64_plain, sqrt_f64_other, false, false, "R4 r4", "R8 r8" },
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) for (uint32_t r = 0; r < (rows[k].bare ? 5u : 4u); r++) {
        for (uint32_t f = 0; f < 2; f++) for (uint32_t s = 0; s < (rows[k].sat ? 2u : 1u); s++) {
            uint32_t detail = (r & 3) | f << 2 | s << 3;
            add(NAME("%s%s%s%s.f32", rows[k].name, rounding[r], f ? ".ftz" : "", s ? ".sat" : ""),
                detail ? rows[k].other32 : rows[k].plain32, rows[k].o32)
                ->detail = detail;
            table[table_count - 1].contracts = r == 4;
        }
        add(NAME("%s%s.f64", rows[k].name, rounding[r]), (r & 3) ? rows[k].other64 : rows[k].plain64, rows[k].o64)->detail = r &
                                                                                                                             3;
    }
    for (uint32_t f = 0; f < 2; f++) {
        const char *z = f ? ".ftz" : "";
        add(NAME("abs%s.f32", z), f ? abs_f32_other : abs_f32_plain, "R4 r4")->detail = f << 2;
        add(NAME("neg%s.f32", z), f ? neg_f32_other : neg_f32_plain, "R4 r4")->detail = f << 2;
        for (uint32_t n = 0; n < 2; n++) {
            add(NAME("min%s%s.f32", z, n ? ".NaN" : ""), min_f32, "R4 r4 r4 ?r4")->detail = f << 2 | n << 4;
            add(NAME("max%s%s.f32", z, n ? ".NaN" : ""), max_f32, "R4 r4 r4 ?r4")->detail = f << 2 | n << 4;
        }
        static const struct { const char *name; op_fn run; } approximate[] = {
            { "ex2", ex2_approx }, { "lg2", lg2_approx }, { "sin", sin_approx }, { "cos", cos_approx }, { "rcp", rcp_approx },
            { "sqrt", sqrt_approx }, { "rsqrt", rsqrt_approx },
        };
        for (size_t k = 0; k < sizeof approximate / sizeof *approximate; k++)
            add(NAME("%s.approx%s.f32", approximate[k].name, z), approximate[k].run, "R4 r4")->detail = f << 2;
        add(NAME("div.approx%s.f32", z), div_approx, "R4 r4 r4")->detail = f << 2;
        add(NAME("div.full%s.f32", z), div_approx, "R4 r4 r4")->detail = f << 2;
        for (int r = 0; r < 2; r++) {
            add(NAME("add%s%s.f32x2", r ? ".rn" : "", z), add_f32x2, "R8 r8 r8");
            add(NAME("sub%s%s.f32x2", r ? ".rn" : "", z), sub_f32x2, "R8 r8 r8");
            add(NAME("mul%s%s.f32x2", r ? ".rn" : "", z), mul_f32x2, "R8 r8 r8"); if (r)
            { add(NAME("fma.rn%s.f32x2", z), fma_f32x2, "R8 r8 r8 r8"); }
            if (!f) continue;
            table_count -= r ? 4 : 3; /* flushing pairs: not implemented, so not accepted */
        }
    }
    add("tanh.approx.f32", tanh_approx, "R4 r4");
    add("rcp.approx.ftz.f64", rcp_approx_f64, "R8 r8"); add("rsqrt.approx.ftz.f64", rsqrt_approx_f64, "R8 r8");
    add("rsqrt.approx.f64", rsqrt_f64, "R8 r8");
    add("abs.f64", abs_f64, "R8 r8"); add("neg.f64", neg_f64, "R8 r8"); add("min.f64", min_f64, "R8 r8 r8");
    add("max.f64", max_f64, "R8 r8 r8");
    add("copysign.f32", copysign_f32, "R4 r4 r4"); add("copysign.f64", copysign_f64, "R8 r8 r8");
    static const char *properties[] = { "finite", "infinite", "number", "notanumber", "normal", "subnormal" };
    for (uint32_t k = 0; k < 6; k++) {
        add(NAME("testp.%s.f32", properties[k]), testp_f32, "P r4")->detail = k;
        add(NAME("testp.%s.f64", properties[k]), testp_f64, "P r8")->detail = k;
    }
}

static void add_conversions(void)
{
    static const char *rounding[] = { ".rn", ".rz", ".rm", ".rp" }, *integral[] = { ".rni", ".rzi", ".rmi", ".rpi" };
    for (uint32_t to = T_U8; to <= T_F64; to++) for (uint32_t from = T_U8; from <= T_F64; from++) {
        uint32_t detail = to << 8 | from << 16;
        const char *t = types[to].name, *s = types[from].name;
        bool to_float = types[to].is_float, from_float = types[from].is_float;
        if (!to_float && !from_float)
            for (uint32_t sat = 0; sat < 2; sat++)
                add(NAME("cvt%s.%s.%s", sat ? ".sat" : "", t, s), cvt, "R* r*")->detail = detail | sat << 3;
        else if (to_float && !from_float) {
            if (to == T_F32 || to == T_F64)
                for (uint32_t r = 0; r < 4; r++) add(NAME("cvt%s.%s.%s", rounding[r], t, s), cvt, "R* r*")->detail = detail | r;
        }
        else if (!to_float) for (uint32_t r = 0; r < 4; r++) for (uint32_t f = 0; f <= (from == T_F32); f++)
            add(NAME("cvt%s%s.%s.%s", integral[r], f ? ".ftz" : "", t, s), cvt, "R* r*")->detail = detail | r | f << 2 | 16;
        else if (from == to) {
            if (from == T_F16 || from == T_BF16) continue;
            for (uint32_t f = 0; f <= (from == T_F32); f++) for (uint32_t sat = 0; sat <= (from == T_F32); sat++) {
                    add(NAME("cvt%s%s.%s.%s", f ? ".ftz" : "", sat ? ".sat" : "", t, s), cvt, "R* r*")->detail = detail | f << 2 |
                                                                                                                 sat << 3;
                    for (uint32_t r = 0; r < 4; r++)
                        add(NAME("cvt%s%s%s.%s.%s", integral[r], f ? ".ftz" : "", sat ? ".sat" : "", t, s), cvt, "R* r*")
                            ->detail = detail | r | f << 2 | sat << 3 | 16;
            }
        } else if (to == T_F64 && from == T_F32) {
            add("cvt.f64.f32", cvt, "R8 r8")->operands = "R* r*";
            table[table_count - 1].detail = detail;
            add("cvt.ftz.f64.f32", cvt, "R* r*")->detail = detail | 4;
        } else if (to == T_F32 && from == T_F64)
            for (uint32_t r = 0; r < 4; r++)
                for (uint32_t f = 0; f < 2; f++)
                    add(NAME("cvt%s%s.f32.f64", rounding[r], f ? ".ftz" : ""), cvt, "R* r*")->detail = detail | r | f << 2;
        else if (to == T_F32) add(NAME("cvt.f32.%s", s), cvt, "R* r*")->detail = detail;
        else if (from == T_F32) {
            add(NAME("cvt.rn.%s.f32", t), cvt, "R* r*")->detail = detail;
            if (to == T_BF16) add("cvt.rz.bf16.f32", cvt, "R* r*")->detail = detail | 1;
        }
    }
    add("cvt.rn.bf16x2.f32", cvt_bf16x2, "R4 r4 r4"); add("cvt.rn.f16x2.f32", cvt_f16x2, "R4 r4 r4");
    add("cvt.rna.tf32.f32", cvt_rna_tf32, "R4 r4"); add("cvt.rn.tf32.f32", cvt_rn_tf32, "R4 r4");
    add("mov.b64:pack2", pack, "R8 2r4"); add("mov.b64:unpack2", unpack, "2R4 r8"); add("mov.b64:pack4", pack, "R8 4r2");
    add("mov.b64:unpack4", unpack, "4R2 r8");
    add("mov.b32:pack2", pack, "R4 2r2"); add("mov.b32:unpack2", unpack, "2R2 r4");
    static const struct { const char *name; op_fn to, from; int space; } spaces[] = {
        { "global", mov_64, mov_64, SPACE_GLOBAL },
        { "const", mov_64, mov_64, SPACE_CONST },
        { "shared", cvta_shared, cvta_to_shared, SPACE_SHARED },
        { "local", cvta_local, cvta_to_local, SPACE_LOCAL },
    };
    for (int k = 0; k < 4; k++) {
        add(NAME("cvta.%s.u64", spaces[k].name), spaces[k].to, "R8 r8");
        add(NAME("cvta.to.%s.u64", spaces[k].name), spaces[k].from, "R8 r8");
        if (k != 1) add(NAME("isspacep.%s", spaces[k].name), isspacep, "P r8")->space = (uint8_t)spaces[k].space;
    }
}

static void add_memory(void)
{
    static const struct {
        const char *name;
        uint8_t space;
    } spaces[] = { { "", SPACE_GENERIC }, { ".global", SPACE_GLOBAL }, { ".shared", SPACE_SHARED },
        { ".shared::cta", SPACE_SHARED }, { ".local", SPACE_LOCAL }, { ".const", SPACE_CONST }, { ".param", SPACE_PARAM } };
    static const struct {
        const char *name;
        uint8_t size;
        bool is_signed;
    } kinds[] = { { "b8", 1, 0 }, { "u8", 1, 0 }, { "s8", 1, 1 }, { "b16", 2, 0 }, { "u16", 2, 0 }, { "s16", 2, 1 },
        { "b32", 4, 0 }, { "u32", 4, 0 }, { "s32", 4, 1 }, { "f32", 4, 0 }, { "b64", 8, 0 }, { "u64", 8, 0 }, { "s64", 8, 1 },
        { "f64", 8, 0 } };
    static const char *order[] = { "", ".volatile", ".relaxed.cta", ".relaxed.gpu", ".relaxed.sys", ".acquire.gpu",
        ".acquire.cta", ".acquire.sys", ".release.gpu", ".release.cta", ".release.sys", ".weak" };
    static const char *cache[] = { "", ".ca", ".cg", ".cs", ".nc", ".L1::no_allocate", ".L1::evict_last", ".L1::evict_first",
        ".nc.L1::no_allocate", ".nc.L1::evict_last", ".nc.L2::128B", ".wb", ".wt" };
    static const char *loads[] = { [1] = "R* A", [2] = "2R* A", [4] = "4R* A", [8] = "8R* A" },
                      *stores[] = { [1] = "A r*", [2] = "A 2r*", [4] = "A 4r*", [8] = "A 8r*" };
    for (size_t s = 0; s < 7; s++) for (size_t t = 0; t < sizeof kinds / sizeof *kinds; t++) for (int n = 1; n <= 8; n *= 2)
        for (size_t o = 0; o < 12; o++) for (size_t c = 0; c < 13; c++) {
            if (n * kinds[t].size > (spaces[s].space == SPACE_GLOBAL ? 32 : 16) || (n == 8 && kinds[t].size != 4)) continue;
            bool global = spaces[s].space == SPACE_GLOBAL, plain = o == 0 && c == 0;
            if (!plain && !global && !(c == 0 && o > 0 && (spaces[s].space == SPACE_SHARED || spaces[s].space == SPACE_GENERIC)))
                continue;
            if (o && c) continue;
            const char *v = n == 8 ? ".v8" : n == 4 ? ".v4" : n == 2 ? ".v2" : "";
            if (!strstr(order[o], "release") && c < 11) {
                opcode *op = add(NAME("ld%s%s%s%s.%s", order[o], spaces[s].name, cache[c], v, kinds[t].name),
                    spaces[s].space == SPACE_PARAM ? ld_param : ld, loads[n]);
                op->space = spaces[s].space; op->size = kinds[t].size; op->count = (uint8_t)n; op->is_signed = kinds[t].is_signed;
                op->detail = strncmp(cache[c], ".nc", 3) == 0 ? 1 : o > 0 && o < 11 ? 2 : 0;
            }
            if (!strstr(order[o], "acquire") && strncmp(cache[c], ".nc", 3) != 0 && c != 1 && spaces[s].space != SPACE_CONST &&
                spaces[s].space != SPACE_PARAM) {
                opcode *op = add(NAME("st%s%s%s%s.%s", order[o], spaces[s].name, cache[c], v, kinds[t].name), st, stores[n]);
                op->space = spaces[s].space; op->size = kinds[t].size; op->count = (uint8_t)n;
                op->detail = o > 0 && o < 11 ? 2 : 0;
            }
        }
    static const struct {
        const char *name, *types;
        int kind;
    } atomics[] = { { "add", "u32 s32 u64", A_ADD }, { "add", "f32 f64", A_FADD }, { "min", "u32 s32 u64 s64", A_MIN },
        { "max", "u32 s32 u64 s64", A_MAX }, { "inc", "u32", A_INC }, { "dec", "u32", A_DEC }, { "exch", "b32 b64", A_EXCH },
        { "cas", "b32 b64", A_CAS }, { "and", "b32 b64", A_AND }, { "or", "b32 b64", A_OR }, { "xor", "b32 b64", A_XOR } };
    static const char *semantics[] = { "", ".relaxed", ".acq_rel", ".acquire", ".release" },
                      *scopes[] = { "", ".cta", ".gpu", ".sys" };
    for (size_t k = 0; k < 11; k++)
        for (int s = 0; s < 4; s++)
            for (int m = 0; m < 5; m++)
                for (int c = 0; c < 4; c++)
                    for (size_t t = 0; t < 14; t++)
                        for (int red = 0; red < 2; red++) {
                            if (!strstr(atomics[k].types, kinds[t].name) ||
                                (red && (atomics[k].kind == A_EXCH || atomics[k].kind == A_CAS)))
                                continue;
                            bool cas = atomics[k].kind == A_CAS, wide = kinds[t].size == 8;
                            opcode *op = add(NAME("%s%s%s%s.%s.%s", red ? "red" : "atom", semantics[m], scopes[c], spaces[s].name,
                                                 atomics[k].name, kinds[t].name),
                                atomic,
                                red    ? (wide ? "A r8" : "A r4")
                                : cas  ? (wide ? "R8 A r8 r8" : "R4 A r4 r4")
                                : wide ? "R8 A r8"
                                       : "R4 A r4");
                            op->space = spaces[s].space;
                            op->size = kinds[t].size;
                            op->count = 1;
                            op->is_signed = kinds[t].is_signed;
                            op->detail = (uint32_t)atomics[k].kind | (uint32_t)red << 8;
                        }
    static const char *fences[] = { "membar.gl", "membar.sys", "fence.sc.gpu", "fence.sc.sys", "fence.acq_rel.gpu",
        "fence.acq_rel.sys" };
    for (int k = 0; k < 6; k++) add(fences[k], fence, "");
    add("membar.cta", nothing, ""); add("fence.sc.cta", nothing, ""); add("fence.acq_rel.cta", nothing, "");
    static const char *prefetches[] = { "prefetch.global.L1", "prefetch.global.L2", "prefetch.L1", "prefetch.L2" };
    for (int k = 0; k < 4; k++) add(prefetches[k], nothing, "A");
    for (int k = 0; k < 3; k++) for (int p = 0; p < 4; p++) {
        static const char *prefetch[] = { "", ".L2::64B", ".L2::128B", ".L2::256B" };
        add(NAME("cp.async.%s.shared%s.global%s", k == 1 ? "cg" : "ca", k == 2 ? "::cta" : "", prefetch[p]), cp_async,
            "A A r4 ?r4")
            ->space = SPACE_SHARED;
        if (k == 1) {
            table[table_count - 1].detail = 1;
            opcode *op = add(NAME("cp.async.cg.shared::cta.global%s", prefetch[p]), cp_async, "A A r4 ?r4");
            op->space = SPACE_SHARED; op->detail = 1;
        }
    }
    add("cp.async.commit_group", cp_async_commit, ""); add("cp.async.wait_group", cp_async_wait, "I");
    add("cp.async.wait_all", cp_async_wait, "")->detail = 1;
}

static opcode *add_kind(const char *name, op_fn run, const char *operands, uint8_t kind, uint8_t mask_at)
{
    opcode *op = add(name, run, operands);
    op->kind = kind;
    op->mask_at = mask_at;
    return op;
}

static void add_control(void)
{
    static const char *ways[] = { "up", "down", "bfly", "idx" };
    for (uint32_t k = 0; k < 4; k++)
        add_kind(NAME("shfl.sync.%s.b32", ways[k]), shfl, "S4 r4 r4 r4 r4", KIND_MASKED, 5)->detail = k;
    add_kind("vote.sync.all.pred", vote_all, "P p r4", KIND_MASKED, 2);
    add_kind("vote.sync.any.pred", vote_any, "P p r4", KIND_MASKED, 2);
    add_kind("vote.sync.uni.pred", vote_uni, "P p r4", KIND_MASKED, 2);
    add_kind("vote.sync.ballot.b32", vote_ballot, "R4 p r4", KIND_MASKED, 2);
    add_kind("match.any.sync.b32", match_any, "R4 r4 r4", KIND_MASKED, 2);
    add_kind("match.any.sync.b64", match_any, "R4 r8 r4", KIND_MASKED, 2);
    add_kind("match.all.sync.b32", match_all, "S4 r4 r4", KIND_MASKED, 3);
    add_kind("match.all.sync.b64", match_all, "S4 r8 r4", KIND_MASKED, 3);
    static const struct {
        const char *name;
        uint32_t kind;
        bool is_signed;
    } reductions[] = { { "add.u32", A_ADD, 0 }, { "add.s32", A_ADD, 1 }, { "min.u32", A_MIN, 0 }, { "min.s32", A_MIN, 1 },
        { "max.u32", A_MAX, 0 }, { "max.s32", A_MAX, 1 }, { "and.b32", A_AND, 0 }, { "or.b32", A_OR, 0 },
        { "xor.b32", A_XOR, 0 } };
    for (int k = 0; k < 9; k++) {
        opcode *op = add_kind(NAME("redux.sync.%s", reductions[k].name), redux, "R4 r4 r4", KIND_MASKED, 2);
        op->detail = reductions[k].kind;
        op->is_signed = reductions[k].is_signed;
    }
    add_kind("bar.warp.sync", bar_warp, "r4", KIND_MASKED, 0);
    add("activemask.b32", activemask, "R4");
    static const char *loads[] = { [1] = "1R4 A", [2] = "2R4 A", [4] = "4R4 A" },
                      *stores[] = { [1] = "A 1r4", [2] = "A 2r4", [4] = "A 4r4" };
    for (int n = 1; n <= 4; n *= 2) for (uint32_t t = 0; t < 2; t++) for (int c = 0; c < 2; c++) {
                opcode *op = add_kind(
                    NAME("ldmatrix.sync.aligned.m8n8.x%d%s.shared%s.b16", n, t ? ".trans" : "", c ? "::cta" : ""), ldmatrix,
                    loads[n], KIND_WARP, 0);
                op->space = SPACE_SHARED;
                op->size = 4;
                op->count = (uint8_t)n;
                op->detail = t;
                op = add_kind(NAME("stmatrix.sync.aligned.m8n8.x%d%s.shared%s.b16", n, t ? ".trans" : "", c ? "::cta" : ""),
                    stmatrix, stores[n], KIND_WARP, 0);
                op->space = SPACE_SHARED;
                op->size = 4;
                op->count = (uint8_t)n;
                op->detail = t;
    }
    static const struct {
        const char *name, *operands;
        uint32_t depth, type;
    } products[] = { { "m16n8k4.row.col.f32.tf32.tf32.f32", "4R4 2r4 1r4 4r4", 4, M_TF32 },
        { "m16n8k8.row.col.f32.tf32.tf32.f32", "4R4 4r4 2r4 4r4", 8, M_TF32 },
        { "m16n8k8.row.col.f32.bf16.bf16.f32", "4R4 2r4 1r4 4r4", 8, M_BF16 },
        { "m16n8k16.row.col.f32.bf16.bf16.f32", "4R4 4r4 2r4 4r4", 16, M_BF16 },
        { "m16n8k8.row.col.f32.f16.f16.f32", "4R4 2r4 1r4 4r4", 8, M_F16 },
        { "m16n8k16.row.col.f32.f16.f16.f32", "4R4 4r4 2r4 4r4", 16, M_F16 } };
    for (int k = 0; k < 6; k++)
        add_kind(NAME("mma.sync.aligned.%s", products[k].name), mma, products[k].operands, KIND_WARP, 0)->detail =
            products[k].depth | products[k].type << 8;
    add_kind("bra", NULL, "L", KIND_BRANCH, 0); add_kind("bra.uni", NULL, "L", KIND_BRANCH, 0);
    add_kind("brx.idx", NULL, "r4 L", KIND_BRANCH_INDEXED, 0); add_kind("brx.idx.uni", NULL, "r4 L", KIND_BRANCH_INDEXED, 0);
    add_kind("ret", NULL, "", KIND_EXIT, 0); add_kind("exit", NULL, "", KIND_EXIT, 0); add_kind("trap", NULL, "", KIND_TRAP, 0);
    /* barriers. detail: 0 wait, 2 popc, 3 and, 4 or; count: where the barrier's number stands */
    static const char *words[] = { "bar", "bar.cta", "barrier", "barrier.cta" };
    for (int k = 0; k < 4; k++) {
        const char *aligned = k < 2 ? "" : ".aligned";
        add_kind(NAME("%s.sync%s", words[k], aligned), NULL, "r4 ?r4", KIND_BARRIER, 0);
    }
    opcode *op = add_kind("bar.red.popc.u32", NULL, "R4 r4 p", KIND_BARRIER, 0); op->detail = 2; op->count = 1;
    op = add_kind("bar.red.and.pred", NULL, "P r4 p", KIND_BARRIER, 0); op->detail = 3; op->count = 1;
    op = add_kind("bar.red.or.pred", NULL, "P r4 p", KIND_BARRIER, 0); op->detail = 4; op->count = 1;
    add("nanosleep.u32", nothing, "r4");
}

static uint32_t hash(const char *s)
{
    uint32_t h = 2166136261u;
    while (*s) h = (h ^ (uint8_t)*s++) * 16777619u;
    return h ^ h >> 15;
}

const opcode *opcode_find(const char *name)
{
    if (!table_hash) {
        add_integers(); add_compares(); add_floats(); add_conversions(); add_memory(); add_control();
        static const struct {
            const char *name;
            op_fn run;
        } quick[] = { { "cvt.u32.u64", cvt_u32_u64 }, { "cvt.u64.u32", cvt_u64_u32 }, { "cvt.s64.s32", cvt_s64_s32 },
            { "cvt.rn.f32.s32", cvt_rn_f32_s32 } };
        for (table_mask = 1; table_mask < 2 * table_count; table_mask = table_mask * 2 + 1) { }
        table_hash = malloc(((size_t)table_mask + 1) * sizeof *table_hash);
        memset(table_hash, 0xff, ((size_t)table_mask + 1) * sizeof *table_hash);
        for (size_t i = 0; i < table_count; i++) {
            uint32_t h = hash(table[i].name) & table_mask;
            while (table_hash[h] >= 0 && strcmp(table[table_hash[h]].name, table[i].name) != 0) h = (h + 1) & table_mask;
            table_hash[h] = (int32_t)i;
        }
        for (int k = 0; k < 4; k++) {
            opcode *op = (opcode *)opcode_find(quick[k].name);
            op->run = quick[k].run;
            op->operands = k == 0 ? "R4 r8" : k == 3 ? "R4 r4" : "R8 r4";
        }
    }
    for (uint32_t h = hash(name) & table_mask; table_hash[h] >= 0; h = (h + 1) & table_mask)
        if (strcmp(table[table_hash[h]].name, name) == 0) return &table[table_hash[h]];
    return NULL;
}
