/* What the benchmarks measure with: the clock, medians, and the peak of the arithmetic units. */
#ifndef MEASURE_H
#define MEASURE_H
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { MOST_ROUNDS = 99 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of work before a round is timed: who was measured before stops spinning, threads wake, and the system spreads them over the CPUs,
   which takes it milliseconds. */
static const double settling = 0.05;

static inline void pause_ms(int ms) { nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000L }, NULL); }

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double median(const double *values, int n)
{
    double v[MOST_ROUNDS];
    memcpy(v, values, (size_t)n * sizeof *v);
    qsort(v, (size_t)n, sizeof *v, ascending);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* ---- the peak, in GFLOP/s: independent fused multiply-adds with the widest SIMD that the CPU has, on several threads at once; enough
   accumulators that none waits for its own last result ---- */
static volatile float peak_sink; /* what is read from it and written to it, the compiler must not drop */

#define PEAK_12(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
#define PEAK_16(F) PEAK_12(F) F(12) F(13) F(14) F(15)
#define PEAK_LET(i) vec a##i = x * (1.0f + i);
#define PEAK_ADD(i) x += a##i;
/* The flops of a call are returned; the accumulators settle near y / (1 - x): no subnormals, no overflow. */
#define PEAK_KERNEL(name, attributes, vector, accumulators, count, splat, fma)         \
    attributes static double name(long times)                                           \
    {                                                                                   \
        typedef vector vec;                                                             \
        vec x = splat(0.999f + peak_sink * 0), y = splat(0.001f);                       \
        accumulators(PEAK_LET)                                                          \
        for (long k = 0; k < times; k++) { accumulators(fma) }                          \
        accumulators(PEAK_ADD)                                                          \
        peak_sink = *(float *)&x;                                                       \
        return 2.0 * count * (double)(sizeof(vec) / 4) * (double)times;                 \
    }

#if defined(__x86_64__) || defined(__i386__)
#define PEAK_512(i) a##i = _mm512_fmadd_ps(a##i, x, y);
#define PEAK_256(i) a##i = _mm256_fmadd_ps(a##i, x, y);
PEAK_KERNEL(peak_avx512, __attribute__((target("avx512f"))), __m512, PEAK_16, 16, _mm512_set1_ps, PEAK_512)
PEAK_KERNEL(peak_avx2, __attribute__((target("avx2,fma"))), __m256, PEAK_12, 12, _mm256_set1_ps, PEAK_256)
#elif defined(__aarch64__)
#define PEAK_NEON(i) a##i = vfmaq_f32(y, a##i, x);
PEAK_KERNEL(peak_neon, , float32x4_t, PEAK_16, 16, vdupq_n_f32, PEAK_NEON)
#endif
#define PEAK_PLAIN(i) a##i = a##i * x + y;
PEAK_KERNEL(peak_plain, , float, PEAK_12, 12, , PEAK_PLAIN)

typedef double peak_kernel(long times);
static peak_kernel *peak_widest(const char **name)
{
#if defined(__x86_64__) || defined(__i386__)
    if (__builtin_cpu_supports("avx512f")) return *name = "AVX-512", peak_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return *name = "AVX2", peak_avx2;
#elif defined(__aarch64__)
    return *name = "NEON", peak_neon;
#endif
    return *name = "portable C", peak_plain;
}

typedef struct peak_thread {
    pthread_t thread;
    pthread_barrier_t *start;
    peak_kernel *kernel;
    double seconds, flops, from, to;
} peak_thread;

static void *peak_run(void *arg)
{
    peak_thread *p = (peak_thread *)arg;
    pthread_barrier_wait(p->start);
    p->from = now();
    do p->flops += p->kernel(20000), p->to = now();
    while (p->to < p->from + p->seconds);
    return NULL;
}

static inline double peak_measure(int threads, double seconds)
{
    enum { MOST = 64 };
    peak_thread p[MOST] = { 0 };
    pthread_barrier_t start;
    const char *name;
    double flops = 0, from = 1e300, to = 0;
    if (threads > MOST) threads = MOST;
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        p[i] = (peak_thread){ .start = &start, .kernel = peak_widest(&name), .seconds = seconds };
        if (pthread_create(&p[i].thread, NULL, peak_run, &p[i]) != 0) return 0;
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(p[i].thread, NULL);
        flops += p[i].flops;
        if (p[i].from < from) from = p[i].from;
        if (p[i].to > to) to = p[i].to;
    }
    pthread_barrier_destroy(&start);
    return flops / (to - from) * 1e-9;
}
#endif
