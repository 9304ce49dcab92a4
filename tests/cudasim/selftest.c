/* Tests the simulator itself: right kernels give the results of plain C on every architecture; each planted bug is caught
   and named.
       selftest results ARCH | opcodes | bugs ARCH | dropped | load ARCH CODE | streams | order | nccl | faults | speed
   prints 'ok NAME' or 'not ok NAME: reason' a line */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int CUresult;
typedef void *handle;
typedef uint64_t pointer;
CUresult cuInit(unsigned), cuDevicePrimaryCtxRetain(handle *, int), cuDevicePrimaryCtxRelease_v2(int), cuCtxSetCurrent(handle),
    cuCtxSynchronize(void), cuDeviceGetName(char *, int, int);
CUresult cuMemAlloc_v2(pointer *, size_t), cuMemFree_v2(pointer), cuMemcpyHtoD_v2(pointer, const void *, size_t),
    cuMemcpyDtoH_v2(void *, pointer, size_t);
CUresult cuModuleLoadData(handle *, const void *), cuModuleUnload(handle), cuModuleGetFunction(handle *, handle, const char *),
    cuMemcpyHtoDAsync_v2(pointer, const void *, size_t, handle);
CUresult cuMemcpyDtoHAsync_v2(void *, pointer, size_t, handle), cuMemcpyDtoDAsync_v2(pointer, pointer, size_t, handle),
    cuMemcpyPeerAsync(pointer, handle, pointer, handle, size_t, handle);
CUresult cuMemHostAlloc(void **, size_t, unsigned), cuMemFreeHost(void *), cuStreamCreate(handle *, unsigned),
    cuStreamDestroy_v2(handle), cuStreamSynchronize(handle);
CUresult cuStreamWaitEvent(handle, handle, unsigned), cuEventCreate(handle *, unsigned), cuEventRecord(handle, handle),
    cuEventSynchronize(handle), cuEventDestroy_v2(handle), cuEventQuery(handle);
CUresult cuLaunchKernel(handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, handle, void **, void **),
    cuFuncSetAttribute(handle, int, int), cuFuncGetAttribute(int *, int, handle);
CUresult cuStreamBeginCapture_v2(handle, int), cuStreamEndCapture(handle, handle *),
    cuGraphInstantiateWithFlags(handle *, handle, unsigned long long), cuGraphLaunch(handle, handle);
CUresult cuGraphExecDestroy(handle), cuGraphDestroy(handle), cuMemsetD32Async(pointer, unsigned, size_t, handle),
    cuCtxEnablePeerAccess(handle, unsigned), cuMemsetD8Async(pointer, unsigned char, size_t, handle);
const char *cudasim_reports(void);
void cudasim_seed(uint64_t);
void cudasim_statistics(uint64_t [7]);

static int passed, failed;
static void result(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
#include <stdarg.h>
static void result(const char *name, const char *format, ...) /* format NULL: it passed */
{
    if (!format) { printf("ok %s\n", name); passed++; return; }
    char text[2000];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    for (char *p = text; *p; p++) if (*p == '\n') *p = ' ';
    printf("not ok %s: %s\n", name, text);
    failed++;
}
#define CHECK(call) \
    do { \
        int r_ = (call); \
        if (r_) { \
            printf("not ok %s:%d: %s returned %d\n", __FILE__, __LINE__, #call, r_); \
            exit(1); \
        } \
    } while (0)

/* ---- NVRTC through the shim ---- */

static int (*rtc_create)(handle *, const char *, const char *, int, const char *const *, const char *const *);
static int (*rtc_compile)(handle, int, const char *const *), (*rtc_destroy)(handle *), (*rtc_size)(handle, size_t *),
    (*rtc_get)(handle, char *), (*rtc_log_size)(handle, size_t *), (*rtc_log)(handle, char *);
static int (*rtc_cubin_size)(handle, size_t *), (*rtc_cubin)(handle, char *);

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) { printf("not ok selftest: cannot read %s\n", path); exit(1); }
    char *text = calloc(1, 1 << 20);
    if (fread(text, 1, (1 << 20) - 1, f) == 0) exit(1);
    fclose(f);
    return text;
}

/* PTX (arch "compute_80") or cubin ("sm_80") of a source text, or exits. */
static char *compile(const char *source, const char *arch)
{
    if (!rtc_create) {
        void *library = dlopen("libnvrtc.so.13", RTLD_NOW);
        if (!library) { printf("not ok selftest: %s\n", dlerror()); exit(1); }
#define LOOK(to, name) *(void **)&to = dlsym(library, name)
        LOOK(rtc_create, "nvrtcCreateProgram");
        LOOK(rtc_compile, "nvrtcCompileProgram");
        LOOK(rtc_destroy, "nvrtcDestroyProgram");
        LOOK(rtc_size, "nvrtcGetPTXSize");
        LOOK(rtc_get, "nvrtcGetPTX");
        LOOK(rtc_log_size, "nvrtcGetProgramLogSize");
        LOOK(rtc_log, "nvrtcGetProgramLog");
        LOOK(rtc_cubin_size, "nvrtcGetCUBINSize");
        LOOK(rtc_cubin, "nvrtcGetCUBIN");
    }
    char option[64];
    snprintf(option, sizeof option, "--gpu-architecture=%s", arch);
    const char *options[] = { option, "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true" };
    handle p;
    CHECK(rtc_create(&p, source, "kernels.cu", 0, NULL, NULL));
    int r = rtc_compile(p, 5, options);
    size_t n = 0;
    if (r) {
        rtc_log_size(p, &n);
        char *log = calloc(1, n + 1);
        rtc_log(p, log);
        printf("not ok compile for %s: %d %.600s\n", arch, r, log);
        exit(1);
    }
    bool cubin = arch[0] == 's';
    CHECK(cubin ? rtc_cubin_size(p, &n) : rtc_size(p, &n));
    char *out = malloc(n + 1);
    CHECK(cubin ? rtc_cubin(p, out) : rtc_get(p, out));
    rtc_destroy(&p);
    return out;
}

/* ---- helpers ---- */

static handle module;
static pointer upload(const void *data, size_t size)
{
    pointer p;
    CHECK(cuMemAlloc_v2(&p, size));
    if (data) CHECK(cuMemcpyHtoD_v2(p, data, size));
    return p;
}
static void download(void *to, pointer p, size_t size) { CHECK(cuMemcpyDtoH_v2(to, p, size)); CHECK(cuMemFree_v2(p)); }
static handle function(const char *name) { handle f; CHECK(cuModuleGetFunction(&f, module, name)); return f; }
#define LAUNCH(name, grid_x, grid_y, x, y, shared, ...) \
    do { \
        void *params_[] = { __VA_ARGS__ }; \
        CHECK(cuLaunchKernel(function(name), grid_x, grid_y, 1, x, y, 1, shared, NULL, params_, NULL)); \
    } while (0)
static uint32_t state = 1;
static uint32_t random_bits(void) { state = state * 1664525 + 1013904223; return state ^ state >> 15; }
static float random_float(float low, float high) { return low + (high - low) * (float)(random_bits() >> 8) / 16777216.f; }
static int differ(const void *a, const void *b, size_t n) { return memcmp(a, b, n) != 0; }
static double ulps(float a, double b)
{
    if ((double)a == b || (a != a && b != b)) return 0;
    int e;
    frexp(b, &e);
    return fabs((double)a - b) / ldexp(1, e - 24 < -149 ? -149 : e - 24);
}

/* ---- results against plain C ---- */

static void philox_c(uint32_t *o, uint32_t k0, uint32_t k1, uint32_t i)
{
    uint32_t c0 = i, c1 = 1, c2 = 2, c3 = 3;
    for (int r = 0; r < 10; r++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0; c1 = (uint32_t)p1; c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1; c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
    }
    o[0] = c0; o[1] = c1; o[2] = c2; o[3] = c3;
}

static void test_elementwise(void)
{
    enum { N = 1003 };
    static float x[N + 1], y[N + 1], z[N + 1], want[N + 1];
    for (int i = 0; i < N + 1; i++) { x[i] = random_float(0.1f, 3); y[i] = random_float(-2, 2); }
    x[5] = 1e-41f; y[6] = -1e-42f; x[7] = INFINITY;
    float a = 1.7f;
    int n = N;
    size_t quads = (N + 1) / 4;
    for (int i = 0; i < N; i++) want[i] = fmaf(a, x[i], y[i]);
    pointer px = upload(x, sizeof x), py = upload(y, sizeof y);
    LAUNCH("axpy", 8, 1, 128, 1, 0, &py, &px, &a, &n);
    download(z, py, sizeof z);
    result("axpy", differ(z, want, 4 * N) ? "%s" : NULL, "bits differ");
    for (int i = 0; i < N + 1; i++) {
        float p = a * x[i];
        want[i] = i % 4 == 0 ? y[i] + p : i % 4 == 1 ? y[i] - p : i % 4 == 2 ? y[i] / x[i] : sqrtf(x[i]);
    }
    py = upload(y, sizeof y);
    LAUNCH("axpy4", 3, 1, 32, 1, 0, &py, &px, &a, &quads);
    download(z, py, sizeof z);
    result("axpy4", differ(z, want, sizeof z) ? "%s" : NULL, "bits differ");
    CHECK(cuMemFree_v2(px));
}

static void test_sums(void)
{
    enum { N = 3000 };
    static float x[N], parts[256];
    for (int i = 0; i < N; i++) x[i] = random_float(-1, 1);
    int n = N;
    float got, want = 0, lanes[32];
    for (int t = 0; t < 256; t++) { parts[t] = 0; for (int i = t; i < N; i += 256) parts[t] += x[i]; }
    for (int v = 0; v < 8; v++)
        for (int d = 16; d; d >>= 1) {
            float old[32];
            memcpy(old, parts + 32 * v, sizeof old);
            for (int i = 0; i < 32; i++) parts[32 * v + i] = old[i] + old[i ^ d];
        }
    for (int i = 0; i < 32; i++) lanes[i] = i < 8 ? parts[32 * i] : 0;
    for (int d = 16; d; d >>= 1) for (int i = 0; i < 32; i++) lanes[i] += i + d < 32 ? lanes[i + d] : lanes[i];
    want = lanes[0];
    pointer px = upload(x, sizeof x), po = upload(NULL, 4);
    LAUNCH("sum", 1, 1, 256, 1, 0, &po, &px, &n);
    download(&got, po, 4);
    result("sum by shuffles", differ(&got, &want, 4) ? "%g, not %g" : NULL, (double)got, (double)want);
    float all[5];
    for (int b = 0; b < 5; b++) {
        float s[128];
        for (int t = 0; t < 128; t++) { s[t] = 0; for (int i = b * 128 + t; i < N; i += 5 * 128) s[t] += x[i]; }
        for (int d = 64; d; d >>= 1) for (int t = 0; t < d; t++) s[t] += s[t + d];
        all[b] = s[0];
    }
    want = 0;
    for (int b = 0; b < 5; b++) want += all[b];
    pointer pp = upload(NULL, 5 * 4);
    po = upload(NULL, 4);
    for (int k = 0; k < 3; k++) LAUNCH("sum_blocks", 5, 1, 128, 1, 0, &po, &pp, &px, &n);
    download(&got, po, 4);
    result("sum of blocks, with a fence", differ(&got, &want, 4) ? "%g, not %g" : NULL, (double)got, (double)want);
    CHECK(cuMemFree_v2(px));
    CHECK(cuMemFree_v2(pp));
}

static void test_gemm(void)
{
    enum { M = 37, N = 53, K = 70 };
    static float a[M * K], b[K * N], c[M * N], want[M * N];
    for (int i = 0; i < M * K; i++) a[i] = random_float(-1, 1);
    for (int i = 0; i < K * N; i++) b[i] = random_float(-1, 1);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            float s = 0;
            for (int k = 0; k < K; k++) s = fmaf(a[i * K + k], b[k * N + j], s);
            want[i * N + j] = s;
        }
    int m = M, n = N, k = K;
    pointer pa = upload(a, sizeof a), pb = upload(b, sizeof b), pc = upload(NULL, sizeof c);
    LAUNCH("gemm", 4, 3, 16, 16, 0, &pc, &pa, &pb, &m, &n, &k);
    download(c, pc, sizeof c);
    CHECK(cuMemFree_v2(pa));
    CHECK(cuMemFree_v2(pb));
    result("gemm", differ(c, want, sizeof c) ? "%s" : NULL, "bits differ");
}

static void test_philox(void)
{
    enum { N = 100 };
    static uint32_t got[4 * N], want[4 * N];
    uint32_t k0 = 123, k1 = 456;
    int n = N;
    for (uint32_t i = 0; i < N; i++) philox_c(want + 4 * i, k0, k1, i);
    pointer p = upload(NULL, sizeof got);
    LAUNCH("philox", 2, 1, 64, 1, 0, &p, &k0, &k1, &n);
    download(got, p, sizeof got);
    result("philox", differ(got, want, sizeof got) ? "%s" : NULL, "bits differ");
}

static void test_softmax(void)
{
    enum { R = 6, N = 45 };
    static float x[R * N], y[R * N];
    for (int i = 0; i < R * N; i++) x[i] = random_float(-5, 5);
    int n = N;
    pointer px = upload(x, sizeof x), py = upload(NULL, sizeof y);
    LAUNCH("softmax", 3, 1, 32, 2, 0, &py, &px, &n);
    download(y, py, sizeof y);
    CHECK(cuMemFree_v2(px));
    double worst = 0;
    for (int r = 0; r < R; r++) {
        double s = 0;
        for (int i = 0; i < N; i++) s += exp((double)x[r * N + i]);
        for (int i = 0; i < N; i++) worst = fmax(worst, fabs((double)y[r * N + i] * s / exp((double)x[r * N + i]) - 1));
    }
    result("softmax", worst > 2e-6 ? "relative error %g" : NULL, worst);
}

static void test_functions(void)
{
    enum { N = 64 };
    static float x[N], o[N * 32], q[N * 8];
    static const char *names[] = { "exp", "log", "tanh", "sin", "cos", "pow", "erf", "1/sqrt", "floor", "ceil", "rint", "trunc",
        "min", "max", "int", "uint", "copysign", "fmod", "isnan", "xor", "exp2", "log2", "log1p", "expm1", "cbrt", "ldexp", "v/3",
        "add.rz", "mul.rd", "add.ru", "saturate", "double" };
    for (int i = 0; i < N; i++) x[i] = random_float(-8, 8);
    x[0] = 0; x[1] = -0.5f; x[2] = 1e-20f; x[3] = 2.5f; x[4] = 100000.f; x[5] = 3e-41f;
    int n = N;
    pointer px = upload(x, sizeof x), po = upload(NULL, sizeof o);
    LAUNCH("functions", 1, 1, 64, 1, 0, &po, &px, &n);
    download(o, po, sizeof o);
    char bad[200] = "";
    for (int i = 0; i < N; i++) {
        double v = (double)x[i], f = (double)(float)fabs(v);
        float one = (float)((float)(x[i] * x[i]) + 1.f);
        double want[32] = { exp(v), log((double)(float)(f + 1)), tanh(v), sin(v), cos(v), pow(f, (double)1.3f), erf(v),
            (double)(1 / sqrtf(one)), floor(v), ceil(v), rint(v), trunc(v), fmin(v, 1), fmax(v, -1), trunc(v),
            v < 0 ? 0 : rint(v), copysign(1, v), fmod(v, 3), 0, -v, exp2(v), log2((double)one), log1p((double)(x[i] * x[i])),
            expm1(v), cbrt(v), (double)(x[i] * 8), (double)(x[i] / 3), 0, 0, 0, fmin(fmax(v, 0), 1),
            (double)(float)(v / 3 + sqrt(f) + exp(v) + log(f + 1)) };
        double t = v + (double)1.1f, p = v * (double)1.1f;
        want[27] = fabs((double)(float)t) > fabs(t) ? (double)nextafterf((float)t, 0) : (double)(float)t;
        want[28] = (double)(float)p > p ? (double)nextafterf((float)p, -INFINITY) : (double)(float)p;
        want[29] = (double)(float)t < t || (t == (double)1.1f && v > 0 /* lost in t */) ? (double)nextafterf((float)t, INFINITY)
                                                                                        : (double)(float)t;
        for (int k = 0; k < 32; k++) {
            double limit = k < 7 || (k >= 20 && k <= 24) ? (k == 5 ? 16 : 4) : k == 31 ? 0.75 : 0;
            if (isinf((float)want[k]) && isinf(o[32 * i + k])) continue;
            if (ulps(o[32 * i + k], want[k]) > limit && !bad[0])
                snprintf(bad, sizeof bad, "%s(%g) is %.9g, not %.9g", names[k], v, (double)o[32 * i + k], want[k]);
        }
    }
    result("functions", bad[0] ? "%s" : NULL, bad);
    for (int i = 0; i < N; i++) x[i] = random_float(0.2f, 3);
    CHECK(cuMemcpyHtoD_v2(px, x, sizeof x));
    po = upload(NULL, sizeof q);
    LAUNCH("approximations", 1, 1, 64, 1, 0, &po, &px, &n);
    download(q, po, sizeof q);
    CHECK(cuMemFree_v2(px));
    double worst = 0;
    for (int i = 0; i < N; i++) {
        double v = (double)x[i], want[8] = { exp(v), log(v), sin(v), cos(v), v / 3, v * v, 1 / v, 1 / sqrt(v) };
        for (int k = 0; k < 8; k++) worst = fmax(worst, fabs((double)q[8 * i + k] - want[k]) / (1 + fabs(want[k])));
    }
    result("approximations within their bounds",
        worst > 2e-6 ? "error %g"
        : worst == 0 ? "error %g: they are not moved"
                     : NULL,
        worst);
}

static uint32_t permute_c(uint32_t a, uint32_t b, uint32_t s)
{
    uint64_t ab = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) r |= (uint32_t)(ab >> (8 * (s >> (4 * i) & 7)) & 255) << (8 * i);
    return r;
}

static void test_integers(void)
{
    enum { N = 64 };
    static int x[N + 1], o[N * 32], want[N * 32];
    static uint32_t u[N + 1];
    static long long l[N], wl[N];
    static unsigned long long ul[N], wul[N];
    for (int i = 0; i <= N; i++) { x[i] = (int)random_bits() >> (i & 15); u[i] = random_bits() >> (i & 7); }
    u[3] = 0; x[4] = INT32_MIN; x[5] = -1;
    for (int i = 0; i < N; i++) {
        l[i] = (long long)random_bits() * (int)random_bits();
        ul[i] = (unsigned long long)random_bits() << 20 ^ random_bits();
    }
    for (int i = 0; i < N; i++) {
        int v = x[i], *w = want + 32 * i;
        uint32_t y = u[i], r = 0;
        for (int k = 0; k < 32; k++) r |= (y >> k & 1) << (31 - k);
        int dot = v;
        for (int k = 0; k < 4; k++) dot += (int8_t)(v >> (8 * k)) * (int8_t)(v >> (8 * k));
        int b = x[i + 1] | 1;
        int values[24] = { v / 7, v % 7, (int)(y / 7), (int)(y % 13), __builtin_popcount(y), y ? __builtin_clz(y) : 32,
            __builtin_ffs((int)y), (int)r, (int)(v < 0 ? 0u - (unsigned)v : (unsigned)v), v < 3 ? v : 3, v > 5 ? v : 5,
            (int)((unsigned)v << 3), v >> 2, (int)(y >> 5), (int)((int64_t)v * v >> 32), (int)permute_c((uint32_t)v, y, 0x3214),
            (int)(((uint64_t)y << 32 | (uint32_t)v) << 5 >> 32), (int)(((uint64_t)y << 32 | (uint32_t)v) >> (y & 31)),
            b == -1 ? (int)(0u - (unsigned)v) : v / b, (int)(y / (u[i + 1] | 1)), b == -1 ? 0 : v % b, dot,
            (v ^ (int)y) & ~(v | 5), (int)((unsigned)v * 3 + 1) };
        memcpy(w, values, sizeof values);
        long long p = l[i];
        unsigned long long q = ul[i];
        wl[i] = (long long)((unsigned long long)(p / (v | 1) + p % 1000) +
                            (unsigned long long)p * (unsigned long long)(long long)v + (unsigned long long)(p >> (v & 31)) +
                            (unsigned long long)((__int128)p * v >> 64) + (unsigned long long)(p < 5 ? p : 5));
        wul[i] = q / (y | 1) + (q >> (y & 63)) + (unsigned long long)((unsigned __int128)q * y >> 64) +
                 (unsigned)__builtin_popcountll(q) + (q ? (unsigned)__builtin_clzll(q) : 64);
    }
    int n = N;
    pointer px = upload(x, sizeof x), pu = upload(u, sizeof u), pl = upload(l, sizeof l), pul = upload(ul, sizeof ul),
            po = upload(o, sizeof o);
    LAUNCH("integers", 1, 1, 64, 1, 0, &po, &px, &pu, &pl, &pul, &n);
    download(o, po, sizeof o); download(l, pl, sizeof l); download(ul, pul, sizeof ul);
    CHECK(cuMemFree_v2(px));
    CHECK(cuMemFree_v2(pu));
    int bad = -1;
    for (int i = 0; i < N * 32; i++) if (o[i] != want[i] && bad < 0) bad = i;
    result("integers", bad >= 0 ? "value %d of element %d is %d, not %d" : NULL, bad % 32, bad / 32, bad < 0 ? 0 : o[bad],
        bad < 0 ? 0 : want[bad]);
    result("64-bit integers",
        differ(l, wl, sizeof l)      ? "%s"
        : differ(ul, wul, sizeof ul) ? "%s (unsigned)"
                                     : NULL,
        "bits differ");
}

static void test_atomics(void)
{
    int a[6] = { 0, -5, 1000, 0, 0, 0 }, want_a[6] = { 255 * 256 / 2, 255, 0, 7, 9, 256 };
    uint32_t b[6] = { 0xff, 0, 0, 0, 0, 1000 }, want_b[6] = { 0, 0xffffffff, 0, 256 % 6, (6 - 256 % 6) % 6, 744 };
    float f = 0;
    unsigned long long l[2] = { 0, 0 };
    double d = 0;
    for (uint32_t i = 0; i < 256; i++) want_b[2] ^= i;
    pointer pa = upload(a, sizeof a), pb = upload(b, sizeof b), pf = upload(&f, 4), pl = upload(l, sizeof l), pd = upload(&d, 8);
    LAUNCH("atomics", 1, 1, 256, 1, 0, &pa, &pb, &pf, &pl, &pd);
    download(a, pa, sizeof a); download(b, pb, sizeof b); download(&f, pf, 4); download(l, pl, sizeof l); download(&d, pd, 8);
    bool bad = f != 256 || l[0] != 256 || l[1] != 255 || d != 128 || differ(a, want_a, sizeof a) || differ(b, want_b, sizeof b);
    result("atomics", bad ? "a %d %d %d %d %d %d b %x %x %x %u %u %u f %g" : NULL, a[0], a[1], a[2], a[3], a[4], a[5], b[0], b[1],
        b[2], b[3], b[4], b[5], (double)f);
}

static void test_votes(void)
{
    static int x[64];
    static uint32_t o[64 * 16];
    uint32_t ballot[2] = { 0, 0 }, count = 0;
    for (int i = 0; i < 64; i++) {
        x[i] = (int)(random_bits() % 100) - 50;
        if (x[i] > 0) {
            ballot[i / 32] |= 1u << (i % 32);
            count++;
        }
    }
    pointer px = upload(x, sizeof x), po = upload(o, sizeof o);
    LAUNCH("votes", 1, 1, 64, 1, 0, &po, &px);
    download(o, po, sizeof o);
    CHECK(cuMemFree_v2(px));
    int bad = -1;
    for (uint32_t i = 0; i < 64; i++) {
        uint32_t lane = i % 32, base = i - lane;
        uint32_t want[12] = { ballot[i / 32], 1, 0, base + 3, lane % 8 ? i - 1 : i, lane % 16 + 2 < 16 ? i + 2 : i,
            base + (lane ^ 5), count, 0, 1, base + (i & 1 ? 5 : 4), ~0u };
        for (int k = 0; k < 12; k++) if (o[16 * i + (uint32_t)k] != want[k] && bad < 0) bad = (int)(16 * i) + k;
    }
    result("votes and shuffles", bad >= 0 ? "value %d of thread %d is %x" : NULL, bad % 16, bad / 16, bad < 0 ? 0 : o[bad]);
}

static void test_bytes(void)
{
    enum { N = 50 };
    uint8_t x[N], o[N], wo[N];
    int8_t s[N];
    int16_t h[N];
    uint16_t b[N], wb[N];
    float f[N], wf[N];
    int n = N;
    for (int i = 0; i < N; i++) {
        x[i] = (uint8_t)random_bits(); s[i] = (int8_t)random_bits(); h[i] = (int16_t)random_bits();
        wo[i] = (uint8_t)(x[i] + s[i]);
        wf[i] = (float)x[i] / 255.f + (float)h[i];
        uint32_t u, back;
        memcpy(&u, &wf[i], 4);
        wb[i] = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
        back = (uint32_t)wb[i] << 16;
        float g;
        memcpy(&g, &back, 4);
        wf[i] += g;
    }
    pointer px = upload(x, sizeof x), ps = upload(s, sizeof s), ph = upload(h, sizeof h), po = upload(NULL, sizeof o),
            pb = upload(NULL, sizeof b), pf = upload(NULL, sizeof f);
    LAUNCH("bytes", 1, 1, 64, 1, 0, &po, &px, &ps, &ph, &pb, &pf, &n);
    download(o, po, sizeof o); download(b, pb, sizeof b); download(f, pf, sizeof f);
    CHECK(cuMemFree_v2(px)); CHECK(cuMemFree_v2(ps)); CHECK(cuMemFree_v2(ph));
    result("bytes and bf16", differ(o, wo, sizeof o) || differ(b, wb, sizeof b) || differ(f, wf, sizeof f) ? "%s" : NULL,
        "bits differ");
}

static void test_variables(void)
{
    float o[64], want[64], x[64];
    for (int i = 0; i < 64; i++) x[i] = random_float(-1, 1);
    for (int i = 0; i < 64; i++) want[i] = x[63 - i] + x[(i + (i & 7)) % 64];
    int n = 64;
    pointer po = upload(x, sizeof x);
    LAUNCH("reverse", 1, 1, 64, 1, 256, &po, &n);
    download(o, po, sizeof o);
    result("dynamic shared and local memory", differ(o, want, sizeof o) ? "%s" : NULL, "bits differ");
    struct { pointer a, b; int n[4]; float s; } p = { 0, 0, { 64, 10, 0, 40 }, 3 };
    float a[64] = { 0 }, wa[64] = { 0 };
    po = upload(NULL, sizeof o);
    p.a = upload(a, sizeof a);
    p.b = upload(x, sizeof x);
    for (int k = 0; k < 2; k++) LAUNCH("variables", 1, 1, 64, 1, 0, &po, &p);
    for (int i = 0; i < 64; i++) {
        want[i] = (float)(i < 3 ? i + 1 : 0) + (float)i;
        want[i] += i > 3 ? x[i] * (float)i + 1 : x[i];
        if (i < p.n[i & 3]) wa[i] = x[i] * 3;
    }
    download(o, po, sizeof o);
    download(a, p.a, sizeof a);
    CHECK(cuMemFree_v2(p.b));
    result("constants, variables, structures, calls", differ(o, want, sizeof o) || differ(a, wa, sizeof a) ? "%s" : NULL,
        "bits differ");
    int c[64];
    for (int i = 0; i < 64; i++) {
        c[i] = i % 7;
        x[i] = (float)i;
        want[i] = c[i] == 0   ? 1
                  : c[i] == 1 ? 5 + x[i]
                  : c[i] == 2 ? sqrtf(x[i])
                  : c[i] == 3 ? 7
                  : c[i] == 4 ? x[i] * 3
                  : c[i] == 5 ? x[i] + (float)(i * (i - 1) / 2)
                              : 0;
    }
    po = upload(x, sizeof x);
    pointer pc = upload(c, sizeof c);
    LAUNCH("choose", 1, 1, 64, 1, 0, &po, &pc);
    download(o, po, sizeof o);
    CHECK(cuMemFree_v2(pc));
    result("divergent branches", differ(o, want, sizeof o) ? "%s" : NULL, "bits differ");
}

static void test_mma(void)
{
    float a[16 * 8], b[8 * 8], c[16 * 8];
    for (int i = 0; i < 16 * 8; i++) a[i] = (float)((int)(random_bits() % 64) - 32) / 8;
    for (int i = 0; i < 8 * 8; i++) b[i] = (float)((int)(random_bits() % 64) - 32) / 8;
    pointer pa = upload(a, sizeof a), pb = upload(b, sizeof b), pc = upload(NULL, sizeof c);
    LAUNCH("mma_tf32", 1, 1, 32, 1, 0, &pc, &pa, &pb);
    download(c, pc, sizeof c);
    CHECK(cuMemFree_v2(pa)); CHECK(cuMemFree_v2(pb));
    int bad = 0;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float s = 0;
            for (int k = 0; k < 8; k++) s += a[i * 8 + k] * b[k * 8 + j];
            bad += s != c[i * 8 + j];
        }
    result("mma tf32", bad ? "%d wrong" : NULL, bad);
    uint16_t ha[16 * 16], hb[16 * 8];
    float fa[16 * 16], fb[16 * 8];
    for (int i = 0; i < 16 * 16; i++) {
        fa[i] = (float)((int)(random_bits() % 64) - 32) / 8;
        uint32_t u;
        memcpy(&u, &fa[i], 4);
        ha[i] = (uint16_t)(u >> 16);
    }
    for (int i = 0; i < 16 * 8; i++) {
        fb[i] = (float)((int)(random_bits() % 64) - 32) / 8;
        uint32_t u;
        memcpy(&u, &fb[i], 4);
        hb[i] = (uint16_t)(u >> 16);
    }
    pa = upload(ha, sizeof ha); pb = upload(hb, sizeof hb); pc = upload(NULL, sizeof c);
    LAUNCH("mma_bf16", 1, 1, 32, 1, 0, &pc, &pa, &pb);
    download(c, pc, sizeof c);
    CHECK(cuMemFree_v2(pa)); CHECK(cuMemFree_v2(pb));
    bad = 0;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float s = 0;
            for (int k = 0; k < 16; k++) s += fa[i * 16 + k] * fb[k * 8 + j];
            bad += s != c[i * 8 + j];
        }
    result("mma bf16, ldmatrix, cp.async", bad ? "%d wrong" : NULL, bad);
    float x[128], y[160];
    for (int i = 0; i < 128; i++) x[i] = (float)(i + 1);
    pointer px = upload(x, sizeof x), py = upload(NULL, sizeof y);
    LAUNCH("copy_groups", 1, 1, 32, 1, 0, &py, &px);
    download(y, py, sizeof y);
    CHECK(cuMemFree_v2(px));
    bad = 0;
    for (int i = 0; i < 160; i++) {
        int at = i < 128 ? (i + 37) % 128 : (i + 1) % 32;
        bad += y[i] != (i < 128 && at % 4 == 3 ? 0 : x[at]);
    }
    result("cp.async in groups, and of a part", bad ? "%d wrong" : NULL, bad);
}

static void results(const char *arch)
{
    char *text = read_file("tests/cudasim/kernels.cu"), *image = compile(text, arch);
    CHECK(cuModuleLoadData(&module, image));
    test_elementwise();
    test_sums();
    test_gemm();
    test_philox();
    test_softmax();
    test_functions();
    test_integers();
    test_atomics();
    test_votes();
    test_bytes();
    test_variables();
    if (atoi(strchr(arch, '_') + 1) >= 80) test_mma();
    CHECK(cuModuleUnload(module));
    free(text);
    free(image);
}

/* ---- single opcodes, on random operands, against expressions of their own ---- */

/* Holds sums, products and quotients of floats with room to spare: the directed roundings are made from it. */
#ifdef __aarch64__
typedef long double quad;
#else
typedef __float128 quad;
#endif
static float F(uint64_t x) { uint32_t u = (uint32_t)x; float f; memcpy(&f, &u, 4); return f; }
static uint64_t B(float f) { uint32_t u; memcpy(&u, &f, 4); return f != f ? 0x7fffffff : u; }
static double D(uint64_t x) { double f; memcpy(&f, &x, 8); return f; }
static uint64_t L(double f) { uint64_t u; memcpy(&u, &f, 8); return u; }
static uint64_t rounded(quad x, char mode) /* n, z, m, p */
{
    float f = (float)x;
    if (mode == 'z') mode = x < 0 ? 'p' : 'm';
    if (mode == 'm' && (quad)f > x) f = nextafterf(f, -INFINITY);
    if (mode == 'p' && (quad)f < x) f = nextafterf(f, INFINITY);
    return B(f);
}
static uint64_t flushed(float f) { return fabsf(f) < 0x1p-126f ? B(f) & 0x80000000 : B(f); }
static uint64_t clamp(double x, double low, double high)
{
    return (uint64_t)(int64_t)(x != x ? 0 : x < low ? low : x > high ? high : x);
}
static uint64_t field(uint64_t a, uint32_t at, uint32_t length, int bits, bool sign)
{
    uint64_t r = 0;
    for (uint32_t i = 0; i < (uint32_t)bits; i++) {
        uint32_t from = at + i;
        uint64_t bit = i < length ? (from < (uint32_t)bits ? a >> from & 1 : sign ? a >> (bits - 1) & 1 : 0) : 0;
        if (i >= length && sign && length)
            bit = a >> (at + length - 1 < (uint32_t)bits ? at + length - 1 : (uint32_t)bits - 1) & 1;
        r |= bit << i;
    }
    return r;
}
static uint64_t high(uint64_t a, uint64_t b) { return (uint64_t)((unsigned __int128)a * b >> 64); }
#define S32(x) ((int32_t)(x))
#define S16(x) ((int16_t)(x))
#define S64(x) ((int64_t)(x))
#define U32(x) ((uint32_t)(x))
/* name, kind of operands (i integers, f floats, d doubles, h counts below 64 in b and c), bytes of result (0 predicate) and
   operands, value */
#define OPCODES(X) \
    X("add.s16", 'i', 2, 2, 2, 0, (uint16_t)(a + b)) X("sub.s32", 'i', 4, 4, 4, 0, U32(a - b)) \
    X("add.s64", 'i', 8, 8, 8, 0, a + b) X("mul.lo.s16", 'i', 2, 2, 2, 0, (uint16_t)(U32(a) * U32(b))) \
    X("mul.hi.s32", 'i', 4, 4, 4, 0, U32((int64_t)S32(a) * S32(b) >> 32)) \
    X("mul.hi.u32", 'i', 4, 4, 4, 0, U32((uint64_t)U32(a) * U32(b) >> 32)) X("mul.hi.u64", 'i', 8, 8, 8, 0, high(a, b)) \
    X("mul.hi.s64", 'i', 8, 8, 8, 0, high(a, b) - (S64(a) < 0 ? b : 0) - (S64(b) < 0 ? a : 0)) \
    X("mul.wide.s16", 'i', 4, 2, 2, 0, U32(S16(a) * S16(b))) X("mul.wide.u32", 'i', 8, 4, 4, 0, (uint64_t)U32(a) * U32(b)) \
    X("mul.wide.s32", 'i', 8, 4, 4, 0, (uint64_t)((int64_t)S32(a) * S32(b))) \
    X("mad.lo.s32", 'i', 4, 4, 4, 4, U32(a) * U32(b) + U32(c)) \
    X("mad.hi.s32", 'i', 4, 4, 4, 4, U32(((int64_t)S32(a) * S32(b) >> 32) + S32(c))) \
    X("mad.hi.u32", 'i', 4, 4, 4, 4, U32(((uint64_t)U32(a) * U32(b) >> 32) + U32(c))) \
    X("mad.wide.u32", 'i', 8, 4, 4, 8, (uint64_t)U32(a) * U32(b) + c) \
    X("mad.wide.s32", 'i', 8, 4, 4, 8, (uint64_t)((int64_t)S32(a) * S32(b)) + c) \
    X("div.s32", 'i', 4, 4, 4, 0, S32(b) == 0 ? ~0u : S32(b) == -1 ? 0 - U32(a) : U32(S32(a) / S32(b))) \
    X("rem.u32", 'i', 4, 4, 4, 0, U32(b) ? U32(a) % U32(b) : U32(a)) \
    X("div.u64", 'i', 8, 8, 8, 0, b ? a / b : ~0ull) \
    X("rem.s64", 'i', 8, 8, 8, 0, S64(b) == 0 ? a : S64(b) == -1 ? 0 : (uint64_t)(S64(a) % S64(b))) \
    X("abs.s32", 'i', 4, 4, 0, 0, S32(a) < 0 ? 0 - U32(a) : U32(a)) \
    X("neg.s64", 'i', 8, 8, 0, 0, 0 - a) X("min.s32", 'i', 4, 4, 4, 0, S32(a) < S32(b) ? U32(a) : U32(b)) \
    X("max.u32", 'i', 4, 4, 4, 0, U32(a) > U32(b) ? U32(a) : U32(b)) \
    X("min.s16", 'i', 2, 2, 2, 0, (uint16_t)(S16(a) < S16(b) ? a : b)) \
    X("not.b32", 'i', 4, 4, 0, 0, U32(~a)) X("shl.b32", 'h', 4, 4, 4, 0, b > 31 ? 0 : U32(a) << b) \
    X("shr.s32", 'h', 4, 4, 4, 0, U32(S32(a) >> (b > 31 ? 31 : b))) X("shr.u64", 'h', 8, 8, 4, 0, b > 63 ? 0 : a >> b) \
    X("shr.s16", 'h', 2, 2, 4, 0, (uint16_t)(S16(a) >> (b > 15 ? 15 : b))) X("shf.l.wrap.b32", 'h', 4, 4, 8, 4, 0) \
    X("shf.l.clamp.b32", 'h', 4, 4, 4, 4, c >= 32 ? U32(a) : U32((b << 32 | U32(a)) >> (32 - c))) \
    X("shf.r.clamp.b32", 'h', 4, 4, 4, 4, c >= 32 ? U32(b) : U32((b << 32 | U32(a)) >> c)) \
    X("bfe.u32", 'h', 4, 4, 4, 4, field(U32(a), U32(b), U32(c), 32, false)) \
    X("bfe.s32", 'h', 4, 4, 4, 4, field(U32(a), U32(b), U32(c), 32, true)) \
    X("bfe.s64", 'h', 8, 8, 4, 4, field(a, U32(b), U32(c), 64, true)) \
    X("popc.b64", 'i', 4, 8, 0, 0, (uint64_t)__builtin_popcountll(a)) \
    X("clz.b32", 'i', 4, 4, 0, 0, U32(a) ? (uint64_t)__builtin_clz(U32(a)) : 32) \
    X("setp.lt.s32", 'i', 0, 4, 4, 0, S32(a) < S32(b)) X("setp.lo.u64", 'i', 0, 8, 8, 0, a < b) \
    X("setp.ge.u16", 'i', 0, 2, 2, 0, (uint16_t)a >= (uint16_t)b) X("setp.ne.b32", 'i', 0, 4, 4, 0, U32(a) != U32(b)) \
    X("setp.lt.f32", 'f', 0, 4, 4, 0, F(a) < F(b)) X("setp.ltu.f32", 'f', 0, 4, 4, 0, !(F(a) >= F(b))) \
    X("setp.ne.f32", 'f', 0, 4, 4, 0, F(a) < F(b) || F(a) > F(b)) \
    X("setp.equ.f32", 'f', 0, 4, 4, 0, !(F(a) < F(b) || F(a) > F(b))) \
    X("setp.num.f32", 'f', 0, 4, 4, 0, !isnan(F(a)) && !isnan(F(b))) \
    X("setp.gt.ftz.f32", 'f', 0, 4, 4, 0, F(flushed(F(a))) > F(flushed(F(b)))) \
    X("setp.leu.f64", 'd', 0, 8, 8, 0, !(D(a) > D(b))) \
    X("add.rn.f32", 'f', 4, 4, 4, 0, B(F(a) + F(b))) X("mul.rn.f32", 'f', 4, 4, 4, 0, B(F(a) * F(b))) \
    X("div.rn.f32", 'f', 4, 4, 4, 0, B(F(a) / F(b))) X("sqrt.rn.f32", 'f', 4, 4, 0, 0, B(sqrtf(F(a)))) \
    X("rcp.rn.f32", 'f', 4, 4, 0, 0, B(1 / F(a))) \
    X("fma.rn.f32", 'f', 4, 4, 4, 4, B(fmaf(F(a), F(b), F(c)))) \
    X("mul.rn.ftz.f32", 'f', 4, 4, 4, 0, flushed(F(flushed(F(a))) * F(flushed(F(b))))) \
    X("add.rn.sat.f32", 'f', 4, 4, 4, 0, B(F(a) + F(b) > 0 ? fminf(F(a) + F(b), 1) : 0)) \
    X("max.f32", 'f', 4, 4, 4, 0, B(fmaxf(F(a), F(b)))) X("min.f32", 'f', 4, 4, 4, 0, B(fminf(F(a), F(b)))) \
    X("max.NaN.f32", 'f', 4, 4, 4, 0, isnan(F(a)) || isnan(F(b)) ? 0x7fffffff : B(fmaxf(F(a), F(b)))) \
    X("add.rz.f32", 'm', 4, 4, 4, 0, rounded((quad)F(a) + F(b), 'z')) \
    X("add.rm.f32", 'm', 4, 4, 4, 0, rounded((quad)F(a) + F(b), 'm')) \
    X("mul.rp.f32", 'm', 4, 4, 4, 0, rounded((quad)F(a) * F(b), 'p')) \
    X("fma.rz.f32", 'm', 4, 4, 4, 4, rounded((quad)F(a) * F(b) + F(c), 'z')) \
    X("div.rp.f32", 'm', 4, 4, 4, 0, rounded((quad)F(a) / F(b), 'p')) \
    X("rcp.rm.f32", 'm', 4, 4, 0, 0, rounded((quad)1 / F(a), 'm')) \
    X("copysign.f32", 'f', 4, 4, 4, 0, (b & 0x7fffffff) | (a & 0x80000000)) \
    X("fma.rn.f64", 'd', 8, 8, 8, 8, L(fma(D(a), D(b), D(c)))) X("neg.f32", 'm', 4, 4, 0, 0, B(-F(a))) \
    X("abs.ftz.f32", 'm', 4, 4, 0, 0, B(fabsf(F(a)))) \
    X("cvt.rzi.s32.f32", 'f', 4, 4, 0, 0, U32(clamp(trunc((double)F(a)), -2147483648.0, 2147483647))) \
    X("cvt.rni.u32.f32", 'f', 4, 4, 0, 0, U32(clamp(rint((double)F(a)), 0, 4294967295.0))) \
    X("cvt.rmi.s64.f32", 'm', 8, 4, 0, 0, (uint64_t)(int64_t)floorf(F(a))) \
    X("cvt.rpi.f32.f32", 'm', 4, 4, 0, 0, B(ceilf(F(a)))) X("cvt.rn.f32.u32", 'i', 4, 4, 0, 0, B((float)U32(a))) \
    X("cvt.rn.f32.s64", 'i', 4, 8, 0, 0, B((float)S64(a))) \
    X("cvt.rz.f32.s32", 'i', 4, 4, 0, 0, rounded((quad)S32(a), 'z')) \
    X("cvt.rp.f32.u64", 'i', 4, 8, 0, 0, rounded((quad)a, 'p')) X("cvt.rm.f32.f64", 'd', 4, 8, 0, 0, rounded((quad)D(a), 'm')) \
    X("cvt.f64.f32", 'm', 8, 4, 0, 0, L((double)F(a))) \
    X("cvt.s32.s8", 'i', 4, 4, 0, 0, U32((int32_t)(int8_t)a)) X("cvt.u16.u32", 'i', 2, 4, 0, 0, (uint16_t)a) \
    X("cvt.s64.s16", 'i', 8, 2, 0, 0, (uint64_t)(int64_t)S16(a)) \
    X("cvt.sat.u8.s32", 'i', 4, 4, 0, 0, S32(a) < 0 ? 0 : S32(a) > 255 ? 255 : U32(a)) \
    X("cvt.sat.f32.f32", 'f', 4, 4, 0, 0, B(F(a) > 0 ? fminf(F(a), 1) : 0)) \
    X("cvt.rna.tf32.f32", 'm', 4, 4, 0, 0, (U32(a) + 0x1000) & ~0x1fffu) \
    X("cvt.rn.bf16x2.f32", 'm', 4, 4, 4, 0, ((a + 0x7fff + (a >> 16 & 1)) & 0xffff0000) | (b + 0x7fff + (b >> 16 & 1)) >> 16)
static uint64_t expected(int k, uint64_t a, uint64_t b, uint64_t c)
{
    int n = 0;
    (void)b; (void)c;
#define X(name, kind, d, s1, s2, s3, value) if (k == n++) return (uint64_t)(value);
    OPCODES(X)
#undef X
    return 0;
}
static void test_opcodes(void)
{
#define X(name, kind, d, s1, s2, s3, value) { name, kind, { d, s1, s2, s3 } },
    static const struct { const char *name; char kind; int bytes[4]; } ops[] = { OPCODES(X) };
#undef X
    enum { N = 256, COUNT = sizeof ops / sizeof *ops };
    static uint64_t in[3][N], out[N];
    static const float specials[] = { 0, -0.f, 1, -1, INFINITY, -INFINITY, NAN, 1e-40f, -3e-42f, 3.4e38f, 0.5f, 2.5f, -3.5f,
        2147483648.f, 4294967296.f, 1e30f };
    char *text = calloc(COUNT, 2000), *t = text + sprintf(text, ".version 9.0\n.target sm_80\n.address_size 64\n");
    for (int k = 0; k < COUNT; k++) {
        t += sprintf(t,
            ".visible .entry k%d(.param .u64 o, .param .u64 a, .param .u64 b, .param .u64 c)\n{ .reg .pred %%p<2>; .reg .b16 "
            "%%h<4>; .reg .b32 %%r<5>; .reg .b64 %%d<4>; .reg .b64 %%x<9>;\n"
            "mov.u32 %%r4, %%tid.x; mul.wide.u32 %%x8, %%r4, 8;\n",
            k);
        for (int i = 0; i < 4; i++)
            t += sprintf(t, "ld.param.u64 %%x%d, [%c]; add.s64 %%x%d, %%x%d, %%x8;\n", i, "oabc"[i], i, i);
        for (int i = 1; i < 4; i++)
            t += sprintf(
                t, "ld.global.u64 %%d%d, [%%x%d]; cvt.u32.u64 %%r%d, %%d%d; cvt.u16.u64 %%h%d, %%d%d;\n", i, i, i, i, i, i);
        t += sprintf(t, "%s %s0", ops[k].name,
            ops[k].bytes[0] == 0   ? "%p"
            : ops[k].bytes[0] == 2 ? "%h"
            : ops[k].bytes[0] == 4 ? "%r"
                                   : "%d");
        for (int i = 1; i < 4 && ops[k].bytes[i]; i++)
            t += sprintf(t, ", %s%d",
                ops[k].bytes[i] == 2                                          ? "%h"
                : ops[k].bytes[i] == 4 || strncmp(ops[k].name, "shf", 3) == 0 ? "%r"
                                                                              : "%d",
                i);
        t += sprintf(t, ";\n%s\nst.global.u64 [%%x0], %%d0;\nret; }\n",
            ops[k].bytes[0] == 0   ? "selp.u64 %d0, 1, 0, %p0;"
            : ops[k].bytes[0] == 2 ? "cvt.u64.u16 %d0, %h0;"
            : ops[k].bytes[0] == 4 ? "cvt.u64.u32 %d0, %r0;"
                                   : "");
    }
    CHECK(cuModuleLoadData(&module, text));
    int wrong = 0;
    for (int k = 0; k < COUNT; k++) {
        for (int j = 0; j < 3; j++) for (int i = 0; i < N; i++) {
            uint64_t r = (uint64_t)random_bits() << 32 | random_bits();
            float f = random_float(-100, 100);
            if (ops[k].kind == 'i') r = i % 4 == 0 ? (uint64_t)(int64_t)(int8_t)r : i % 4 == 1 ? r >> 40 : r;
            else if (ops[k].kind == 'h') { if (j) r = r >> 58; }
            else if (ops[k].kind == 'd') r = L((double)f * (1 + ldexp((double)(random_bits() >> 4), -50)));
            else r = ops[k].kind == 'f' && (i + j) % 3 == 0 ? B(specials[random_bits() % 16]) : B(f);
            in[j][i] = r;
        }
        pointer pa = upload(in[0], sizeof in[0]), pb = upload(in[1], sizeof in[1]), pc = upload(in[2], sizeof in[2]),
                po = upload(NULL, sizeof out);
        char name[16];
        snprintf(name, sizeof name, "k%d", k);
        LAUNCH(name, 1, 1, N, 1, 0, &po, &pa, &pb, &pc);
        download(out, po, sizeof out);
        CHECK(cuMemFree_v2(pa)); CHECK(cuMemFree_v2(pb)); CHECK(cuMemFree_v2(pc));
        bool wrap = strcmp(ops[k].name, "shf.l.wrap.b32") == 0;
        for (int i = 0; i < N; i++) {
            uint64_t a = in[0][i], b = in[1][i], c = in[2][i],
                     want = wrap ? U32((b << 32 | U32(a)) << (c & 31) >> 32) : expected(k, a, b, c);
            bool nan = ops[k].kind == 'f' && ops[k].bytes[0] == 4 && (want & 0x7fffffff) > 0x7f800000 &&
                       (out[i] & 0x7fffffff) > 0x7f800000; /* which NaN is not promised */
            if (out[i] == want || nan) continue;
            result(ops[k].name, "(%llx, %llx, %llx) is %llx, not %llx", (unsigned long long)a, (unsigned long long)b,
                (unsigned long long)c, (unsigned long long)out[i], (unsigned long long)want);
            wrong++;
            break;
        }
    }
    result("opcodes alone", wrong ? "%d of %d" : NULL, wrong, COUNT);
    CHECK(cuModuleUnload(module));
    free(text);
}

/* half precision: there and back is exact, and the halfway cases go to even */
static void test_halves(void)
{
    char *ptx = compile("extern \"C\" __global__ void half(unsigned short *h, float *back, const float *x) { unsigned short v;"
        " asm(\"cvt.rn.f16.f32 %0, %1;\" : \"=h\"(v) : \"f\"(x[threadIdx.x])); h[threadIdx.x] = v; float f;"
        " asm(\"cvt.f32.f16 %0, %1;\" : \"=f\"(f) : \"h\"(v)); back[threadIdx.x] = f; }", "compute_80");
    static const struct { float x; uint16_t half; float back; } cases[] = { { 1, 0x3c00, 1 }, { -2.5f, 0xc100, -2.5f },
        { 65504, 0x7bff, 65504 }, { 65519, 0x7bff, 65504 }, { 65520, 0x7c00, INFINITY }, { 1 + 0x1p-11f, 0x3c00, 1 },
        { 1 + 3 * 0x1p-11f, 0x3c02, 1 + 0x1p-9f }, { 0x1p-24f, 1, 0x1p-24f }, { 0x1p-25f, 0, 0 }, { 0x1.8p-25f, 1, 0x1p-24f },
        { -0.f, 0x8000, -0.f }, { 0x1.ff8p-15f, 0x3ff, 0x1.ff8p-15f }, { 0x1.ffep-15f, 0x400, 0x1p-14f },
        { -INFINITY, 0xfc00, -INFINITY }, { 0.1f, 0x2e66, 0.0999755859375f }, { 3.14159f, 0x4248, 3.140625f } };
    enum { COUNT = sizeof cases / sizeof *cases };
    float x[COUNT], back[COUNT];
    uint16_t half[COUNT];
    for (int i = 0; i < COUNT; i++) x[i] = cases[i].x;
    CHECK(cuModuleLoadData(&module, ptx));
    pointer ph = upload(NULL, sizeof half), pb = upload(NULL, sizeof back), px = upload(x, sizeof x);
    LAUNCH("half", 1, 1, COUNT, 1, 0, &ph, &pb, &px);
    download(half, ph, sizeof half);
    download(back, pb, sizeof back);
    CHECK(cuMemFree_v2(px));
    int bad = -1;
    for (int i = 0; i < COUNT; i++) if (half[i] != cases[i].half || differ(&back[i], &cases[i].back, 4)) bad = i;
    int k = bad < 0 ? 0 : bad;
    result("half precision", bad < 0 ? NULL : "%a is %04x and back %a", (double)cases[k].x, half[k], (double)back[k]);
    CHECK(cuModuleUnload(module));
    free(ptx);
}

/* ---- what a request costs ---- */

static void test_counts(void)
{
    char *ptx = compile("extern \"C\" __global__ void count(float *y, int stride) { __shared__ float s[1024]; for (int i = 0; i "
                        "< 32; i++) s[i * 32 + threadIdx.x] = 1; __syncwarp();"
                        " y[threadIdx.x] = ((volatile float *)s)[threadIdx.x * stride]; }",
        "compute_80");
    CHECK(cuModuleLoadData(&module, ptx));
    uint64_t counts[7];
    static int strides[4] = { 1, 2, 32, 0 };
    static const int extra[4] = { 0, 1, 31, 0 };
    for (int k = 0; k < 4; k++) {
        char label[64];
        pointer y = upload(NULL, 128);
        cudasim_statistics(counts);
        LAUNCH("count", 1, 1, 32, 1, 0, &y, &strides[k]);
        CHECK(cuCtxSynchronize());
        cudasim_statistics(counts);
        CHECK(cuMemFree_v2(y));
        snprintf(label, sizeof label, "bank conflicts of stride %d", strides[k]);
        result(label,
            counts[4] == (uint64_t)extra[k] && counts[3] == 33 && counts[5] == 1 && counts[6] == 4
                ? NULL
                : "requests %d, extra passes %d, global %d, sectors %d",
            (int)counts[3], (int)counts[4], (int)counts[5], (int)counts[6]);
    }
    CHECK(cuModuleUnload(module));
    free(ptx);
}

/* ---- planted bugs ---- */

static const struct { const char *kernel; unsigned grid, threads; int code; const char *opcode, *says, *where; } bugs[] = {
    { "gemm_no_first_barrier", 2, 0, 719, "shared", "", "shared" },
    { "gemm_no_second_barrier", 2, 0, 719, "shared", "without a barrier between", NULL },
    { "read_beyond", 1, 64, 700, "ld.global", "out of bounds: reads 4 bytes", "block (0,0,0), thread (32,0,0)" },
    { "write_beyond", 1, 64, 700, "st.global", "out of bounds: writes 4 bytes", "block (0,0,0), thread (32,0,0)" },
    { "shared_beyond", 1, 32, 700, "st.shared", "out of bounds: writes 4 bytes at shared address",
        "block (0,0,0), thread (31,0,0)" },
    { "misaligned", 1, 32, 716, "ld.global", "misaligned", "thread (2,0,0)" },
    { "shared_uninitialised", 1, 32, 719, "ld.shared", "uninitialised", "thread (31,0,0)" },
    { "global_uninitialised", 1, 32, 719, "ld.global", "uninitialised: reads 4 bytes", "thread (0,0,0)" },
    { "local_uninitialised", 1, 32, 719, "ld.local", "uninitialised", "thread (" },
    { "blocks_write", 3, 32, 719, "st.global", "race in global memory", "thread (0,0,0)" },
    { "blocks_no_fence", 4, 1, 719, "ld.", "in the same launch", "thread (0,0,0)" },
    { "divergent_barrier", 1, 32, 719, "bar.sync", "divergent barrier", "block (0,0,0)" },
    { "barrier_count", 1, 64, 719, "bar.sync", "never completes", "block (0,0,0)" },
    { "shuffle_exited", 1, 32, 719, "shfl.sync", "lane 20, which has exited", "block (0,0,0)" },
    { "shuffle_from_outside", 1, 32, 719, "shfl.sync", "reads lane 20, which takes no part", "thread (0,0,0)" },
    { "shuffle_not_named", 1, 32, 719, "shfl.sync", "executed by lane 8, which its mask 000000ff does not name",
        "thread (8,0,0)" },
    { "no_syncwarp", 1, 32, 719, "shared", "without a barrier between", "block (0,0,0)" },
    { "hang", 1, 32, 702, "", "hangs", "block (0,0,0)" },
    { "traps", 1, 32, 719, "trap", "trap", "thread (9,0,0)" },
    { "constant_written", 1, 32, 719, "ld.global.nc", "as constant (.nc), which this launch has written", "block (0,0,0)" },
    { "atomic_and_plain", 1, 64, 719, "global", "race in global memory", "block (0,0,0)" },
    { "null_pointer", 1, 32, 700, "st.", "where nothing was ever allocated", "thread (3,0,0)" },
    { "use_after_free", 1, 32, 700, "ld.global", "use after free", "block (0,0,0)" },
    { "copy_no_wait", 1, 64, 719, "ld.shared", "", "block (0,0,0)" },
    { "copy_no_barrier", 1, 64, 719, "", "shared", "block (0,0,0)" },
    { "copy_wait_short", 1, 64, 719, "ld.shared", "uninitialised", "block (0,0,0)" },
    { "copy_misaligned", 1, 32, 716, "cp.async", "misaligned", "block (0,0,0)" },
};

static handle context;
static void fresh_context(void)
{
    cuDevicePrimaryCtxRelease_v2(0);
    CHECK(cuDevicePrimaryCtxRetain(&context, 0));
    CHECK(cuCtxSetCurrent(context));
    cudasim_reports();
}

/* A report must name the kernel, and a PTX line that holds the opcode it names. */
static bool names_place(const char *text, const char *ptx, const char *kernel, const char *opcode)
{
    char want[100], op[100] = "";
    int line = 0;
    snprintf(want, sizeof want, "kernel %s, PTX line ", kernel);
    const char *p = strstr(text, want);
    if (!p || sscanf(p + strlen(want), "%d (%99[^)])", &line, op) != 2 || !strstr(text, "block (") || !strstr(text, "thread ("))
        return false;
    for (int i = 1; i < line && ptx; i++) { ptx = strchr(ptx, '\n'); ptx = ptx ? ptx + 1 : NULL; }
    if (!ptx) return false;
    const char *end = strchr(ptx, '\n'), *at = strstr(ptx, op);
    return at && at < end && strstr(op, opcode);
}

static void test_bugs(const char *arch)
{
    char *text = read_file("tests/cudasim/bugs.cu"), *ptx = compile(text, arch);
    for (size_t k = 0; k < sizeof bugs / sizeof *bugs; k++) for (uint64_t seed = 1; seed <= 3; seed++) {
        const char *name = bugs[k].kernel;
        bool freed = strcmp(name, "use_after_free") == 0, product = bugs[k].threads == 0;
        if (atoi(strchr(arch, '_') + 1) < 80 && strncmp(name, "copy", 4) == 0) continue;
        fresh_context();
        cudasim_seed(seed);
        CHECK(cuModuleLoadData(&module, ptx));
        float x[64 * 64] = { 1 };
        for (int i = 0; i < 64 * 64; i++) x[i] = (float)i;
        int n = 32;
        pointer py, px, pz = upload(x, sizeof x);
        if (product) { px = upload(x, sizeof x); py = upload(NULL, sizeof x);
        } else {
            px = upload(x, strcmp(name, "read_beyond") == 0 ? 128 : 512);
            py = upload(x, 128);
            if (strcmp(name, "write_beyond") && strcmp(name, "read_beyond")) {
                CHECK(cuMemFree_v2(py));
                py = upload(NULL, 512);
                CHECK(cuMemcpyHtoD_v2(py, x, 128));
            }
        }
        if (freed) { CHECK(cuMemFree_v2(px)); name = "good"; }
        void *params[] = { &py, &px, product ? (void *)&pz : (void *)&n, &n };
        CHECK(cuLaunchKernel(function(name), bugs[k].grid, product ? 2 : 1, 1, product ? 16 : bugs[k].threads, product ? 16 : 1,
            1, 0, NULL, params, NULL));
        int code = cuCtxSynchronize(), again = cuCtxSynchronize();
        const char *said = cudasim_reports();
        char label[100];
        snprintf(label, sizeof label, "planted bug %s, schedule %d", bugs[k].kernel, (int)seed);
        if (code != bugs[k].code) result(label, "returned %d, not %d: %s", code, bugs[k].code, said);
        else if (again != code) result(label, "%s", "the error does not stick");
        else if (!strstr(said, bugs[k].says) || (bugs[k].where && !strstr(said, bugs[k].where)))
            result(label, "reported as: %s", said);
        else if (!names_place(said, ptx, name, bugs[k].opcode)) result(label, "does not name its place: %s", said);
        else result(label, NULL);
    }
    fresh_context();
    pointer p;
    CHECK(cuMemAlloc_v2(&p, 1000));
    CHECK(cuDevicePrimaryCtxRelease_v2(0));
    const char *said = cudasim_reports();
    result("planted leak", strstr(said, "leak: 1000 bytes") ? NULL : "reported as '%s'", said);
    CHECK(cuDevicePrimaryCtxRetain(&context, 0));
    CHECK(cuCtxSetCurrent(context));
    /* what the decoder does not know it refuses, with the line */
    static const struct { const char *from, *to, *says; } changes[] = {
        { "trap;", "trop;", "unknown opcode 'trop'" },
        { "ld.global.f32", "ld.global.xx.f32", "unknown opcode 'ld.global.xx.f32'" },
        { ".maxntid", ".maxntid", NULL },
        { "add.rn.f32", "add.rn.mad.f32", "unknown opcode 'add.rn.mad.f32'" },
        { "\tret;", "\tret 3;", "" },
        { "%ctaid.x", "%ctaid.w", "not declared" },
        { ".version 9.0", ".version 19.0", "newer than the driver" },
    };
    for (size_t k = 0; k < sizeof changes / sizeof *changes; k++) {
        char *at = strstr(ptx, changes[k].from), label[100];
        if (!changes[k].says || !at) continue;
        char *changed = malloc(strlen(ptx) + 100);
        sprintf(changed, "%.*s%s%s", (int)(at - ptx), ptx, changes[k].to, at + strlen(changes[k].from));
        int code = cuModuleLoadData(&module, changed);
        said = cudasim_reports();
        snprintf(label, sizeof label, "decoder refuses '%s'", changes[k].to);
        if (code == 0) result(label, "%s", "accepted");
        else if (!strstr(said, "PTX line ") || !strstr(said, changes[k].says)) result(label, "reported as: %s", said);
        else result(label, NULL);
        free(changed);
    }
    /* what the driver refuses */
    CHECK(cuModuleLoadData(&module, ptx));
    handle f = function("good"), stream, event;
    int n = 1;
    pointer q = upload(NULL, 256);
    void *params[] = { &q, &q, &n };
#define REFUSED(label, call, code) \
    do { \
        int r_ = (call); \
        const char *s_ = cudasim_reports(); \
        result(label, r_ == (code) && *s_ ? NULL : "returned %d: %s", r_, s_); \
    } while (0)
    REFUSED("refuses 1025 threads", cuLaunchKernel(f, 1, 1, 1, 1025, 1, 1, 0, NULL, params, NULL), 1);
    REFUSED("refuses an empty grid", cuLaunchKernel(f, 0, 1, 1, 32, 1, 1, 0, NULL, params, NULL), 1);
    REFUSED("refuses 65536 blocks in y", cuLaunchKernel(f, 1, 65536, 1, 32, 1, 1, 0, NULL, params, NULL), 1);
    REFUSED("refuses 50000 bytes of shared memory without the attribute",
        cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 50000, NULL, params, NULL), 1);
    REFUSED("refuses 300000 bytes of shared memory", cuFuncSetAttribute(f, 8, 300000), 1);
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuEventCreate(&event, 2));
    CHECK(cuStreamDestroy_v2(stream));
    CHECK(cuEventDestroy_v2(event));
    REFUSED("refuses a destroyed stream", cuStreamSynchronize(stream), 400);
    REFUSED("refuses a destroyed event", cuEventSynchronize(event), 400);
    REFUSED("refuses to free twice", (cuMemFree_v2(q), cuMemFree_v2(q)), 1);
    REFUSED("refuses a copy beyond the end", (q = upload(NULL, 256), cuMemcpyHtoD_v2(q + 200, ptx, 100)), 1);
    CHECK(cuMemFree_v2(q));
    CHECK(cuModuleUnload(module));
    REFUSED("refuses a function of an unloaded module", cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL), 400);
    cuDevicePrimaryCtxRelease_v2(0);
    CHECK(cuDevicePrimaryCtxRetain(&context, 0));
    free(text);
    free(ptx);
}

/* ---- streams, events, graphs, devices ---- */

static const char *stream_ptx = NULL;

static void add_one(handle f, pointer y, pointer x, handle stream) /* y = x + 1, 64 elements */
{
    int n = 1;
    void *params[] = { &y, &x, &n };
    CHECK(cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, stream, params, NULL));
}

/* Two streams, the second needs the first's result. Right with the event; without it, wrong under some schedule. */
static int wrong_schedules(bool wait)
{
    int wrong = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        cudasim_seed(seed);
        handle a, b, e, f = function("add");
        float *host, zero[64] = { 0 };
        CHECK(cuMemHostAlloc((void **)&host, 256, 0));
        CHECK(cuStreamCreate(&a, 1)); CHECK(cuStreamCreate(&b, 1)); CHECK(cuEventCreate(&e, 2));
        pointer x = upload(zero, 256), y = upload(zero, 256), z = upload(zero, 256);
        for (int i = 0; i < 64; i++) host[i] = 10;
        CHECK(cuMemcpyHtoDAsync_v2(x, host, 256, a));
        add_one(f, y, x, a);
        CHECK(cuEventRecord(e, a));
        if (wait) CHECK(cuStreamWaitEvent(b, e, 0));
        add_one(f, z, y, b);
        CHECK(cuMemcpyDtoHAsync_v2(host, z, 256, b));
        CHECK(cuStreamSynchronize(b));
        wrong += host[5] != 12;
        CHECK(cuStreamSynchronize(a));
        CHECK(cuStreamDestroy_v2(a)); CHECK(cuStreamDestroy_v2(b)); CHECK(cuEventDestroy_v2(e));
        CHECK(cuMemFree_v2(x)); CHECK(cuMemFree_v2(y)); CHECK(cuMemFree_v2(z)); CHECK(cuMemFreeHost(host));
    }
    return wrong;
}

static void test_graph(void)
{
    int bad = 0;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        cudasim_seed(seed);
        handle a, b, fork, joined, graph, exec, f = function("add");
        float host[64] = { 0 };
        CHECK(cuStreamCreate(&a, 1));
        CHECK(cuStreamCreate(&b, 1));
        CHECK(cuEventCreate(&fork, 2));
        CHECK(cuEventCreate(&joined, 2));
        pointer x = upload(host, 256), y = upload(host, 256), z = upload(host, 256);
        CHECK(cuStreamBeginCapture_v2(a, 0));
        add_one(f, y, x, a);
        CHECK(cuEventRecord(fork, a));
        CHECK(cuStreamWaitEvent(b, fork, 0));
        add_one(f, z, y, b);
        CHECK(cuEventRecord(joined, b));
        add_one(f, x, x, a);
        CHECK(cuStreamWaitEvent(a, joined, 0));
        add_one(f, y, z, a);
        CHECK(cuStreamEndCapture(a, &graph));
        CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
        CHECK(cuGraphDestroy(graph));
        CHECK(cuMemcpyDtoH_v2(host, x, 256));
        bad += host[0] != 0; /* capturing ran nothing */
        for (int k = 0; k < 3; k++) CHECK(cuGraphLaunch(exec, a));
        CHECK(cuStreamSynchronize(a));
        CHECK(cuMemcpyDtoH_v2(host, x, 256));
        bad += host[63] != 3;
        CHECK(cuMemcpyDtoH_v2(host, y, 256));
        bad += host[63] != 5;
        CHECK(cuGraphExecDestroy(exec));
        CHECK(cuStreamDestroy_v2(a));
        CHECK(cuStreamDestroy_v2(b));
        CHECK(cuEventDestroy_v2(fork));
        CHECK(cuEventDestroy_v2(joined));
        CHECK(cuMemFree_v2(x)); CHECK(cuMemFree_v2(y)); CHECK(cuMemFree_v2(z));
    }
    result("a captured graph, launched three times, 10 schedules", bad ? "%d wrong values" : NULL, bad);
    handle a, b, e, graph, f = function("add");
    CHECK(cuStreamCreate(&a, 1)); CHECK(cuStreamCreate(&b, 1)); CHECK(cuEventCreate(&e, 2));
    pointer x = upload(NULL, 256);
    CHECK(cuMemsetD32Async(x, 0, 64, a));
    CHECK(cuStreamSynchronize(a));
    CHECK(cuStreamBeginCapture_v2(a, 0));
    CHECK(cuEventRecord(e, a));
    CHECK(cuStreamWaitEvent(b, e, 0));
    add_one(f, x, x, b);
    int r = cuStreamEndCapture(a, &graph);
    result("a capture that is not joined is refused", r == 904 ? NULL : "returned %d", r);
    CHECK(cuStreamBeginCapture_v2(a, 0));
    r = cuStreamSynchronize(a);
    int s = cuStreamEndCapture(a, &graph);
    result("synchronising inside a capture breaks it", r == 900 && s == 901 ? NULL : "returned %d and %d", r, s);
    CHECK(cuStreamDestroy_v2(a)); CHECK(cuStreamDestroy_v2(b)); CHECK(cuEventDestroy_v2(e)); CHECK(cuMemFree_v2(x));
    cudasim_reports();
}

/* Another thread allocates, and ends the capture of a stream. */
typedef struct { handle stream, graph, context; int allocated, ended; } bystander;
static void *stand_by(void *argument)
{
    bystander *b = argument;
    pointer p;
    CHECK(cuCtxSetCurrent(b->context));
    b->allocated = cuMemAlloc_v2(&p, 256);
    if (!b->allocated) CHECK(cuMemFree_v2(p));
    b->ended = cuStreamEndCapture(b->stream, &b->graph);
    return NULL;
}
static void test_capture_modes(void)
{
    /* codes of allocating, here and there, and of ending, there and here */
    static const struct { int mode, own, other, end, last; } want[] = { { 0, 900, 900, 908, 901 }, { 1, 900, 0, 908, 901 }, { 2, 0, 0, 0, 1 } };
    char *image = compile("extern \"C\" __global__ void none(void) {}", "compute_80");
    for (int k = 0; k < 3; k++) {
        bystander b = { .context = context };
        pthread_t thread;
        pointer p;
        handle m = NULL;
        CHECK(cuStreamCreate(&b.stream, 1));
        CHECK(cuStreamBeginCapture_v2(b.stream, want[k].mode));
        int own = cuMemAlloc_v2(&p, 256), loaded = cuModuleLoadData(&m, image);
        if (!own) CHECK(cuMemFree_v2(p));
        if (!loaded) CHECK(cuModuleUnload(m));
        pthread_create(&thread, NULL, stand_by, &b);
        pthread_join(thread, NULL);
        handle graph = NULL;
        int last = cuStreamEndCapture(b.stream, &graph);
        if (b.graph) CHECK(cuGraphDestroy(b.graph));
        CHECK(cuStreamDestroy_v2(b.stream));
        bool here = own == want[k].own && loaded == own && last == want[k].last, there = b.allocated == want[k].other && b.ended == want[k].end;
        result("what a capture forbids, by its mode", here && there ? NULL : "mode %d: %d %d here, %d there, ending %d and %d", want[k].mode,
            own, loaded, b.allocated, b.ended, last);
    }
    free(image);
    handle a, graph, f = function("add");
    CHECK(cuStreamCreate(&a, 1));
    pointer x = upload(NULL, 256);
    CHECK(cuStreamBeginCapture_v2(a, 2));
    int n = 1, waited = cuCtxSynchronize(), launched = cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, a, (void *[]){ &x, &x, &n }, NULL),
        ended = cuStreamEndCapture(a, &graph);
    result("waiting for a device breaks captures",
        waited == 900 && launched == 901 && ended == 901 ? NULL : "returned %d, %d and %d", waited, launched, ended);
    CHECK(cuStreamDestroy_v2(a));
    CHECK(cuStreamCreate(&a, 0));
    CHECK(cuStreamBeginCapture_v2(a, 1));
    waited = cuMemsetD32Async(x, 0, 64, NULL);
    ended = cuStreamEndCapture(a, &graph);
    result("the legacy stream breaks the capture of a blocking one", waited == 906 && ended == 901 ? NULL : "returned %d and %d", waited, ended);
    CHECK(cuStreamDestroy_v2(a));
    CHECK(cuMemFree_v2(x));
    cudasim_reports();
}

static void test_streams(void)
{
    char *text = compile(
        "extern \"C\" __global__ void add(float *y, const float *x, int n) { y[threadIdx.x] = x[threadIdx.x] + n; }",
        "compute_80");
    stream_ptx = text;
    CHECK(cuModuleLoadData(&module, text));
    int with = wrong_schedules(true), without = wrong_schedules(false);
    result("work of two streams with an event is right in 20 schedules", with ? "%d are wrong" : NULL, with);
    result("without the event it is wrong in some", without == 0 ? "%s" : NULL, "20 schedules right");
    /* a pinned buffer is read when the copy runs, a pageable one at the call */
    int late = 0, early = 0;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        cudasim_seed(seed);
        handle a;
        float *host, page[64] = { 1 }, got[64];
        CHECK(cuStreamCreate(&a, 1));
        CHECK(cuMemHostAlloc((void **)&host, 256, 0));
        memset(host, 0, 256);
        pointer x = upload(NULL, 256), y = upload(NULL, 256);
        CHECK(cuMemcpyHtoDAsync_v2(x, host, 256, a));
        CHECK(cuMemcpyHtoDAsync_v2(y, page, 256, a));
        host[0] = 5;
        page[0] = 5;
        CHECK(cuStreamSynchronize(a));
        CHECK(cuMemcpyDtoH_v2(got, x, 256));
        late += got[0] == 5;
        CHECK(cuMemcpyDtoH_v2(got, y, 256));
        early += got[0] == 1;
        CHECK(cuMemFree_v2(x)); CHECK(cuMemFree_v2(y)); CHECK(cuMemFreeHost(host)); CHECK(cuStreamDestroy_v2(a));
    }
    result(
        "pinned buffers are read late, pageable ones at the call", late && early == 10 ? NULL : "late %d, early %d", late, early);
    handle e;
    CHECK(cuEventCreate(&e, 2));
    CHECK(cuEventRecord(e, NULL));
    int polls = 0;
    while (cuEventQuery(e) == 600 && polls < 1000) polls++;
    result("polling an event makes progress", polls >= 1000 ? "%d polls" : NULL, polls);
    CHECK(cuEventDestroy_v2(e));
    test_graph();
    test_capture_modes();
    /* a second device */
    handle other, here = module;
    CHECK(cuDevicePrimaryCtxRetain(&other, 1));
    CHECK(cuCtxSetCurrent(other));
    float data[64] = { 3 }, got[64] = { 0 };
    CHECK(cuModuleLoadData(&module, text));
    pointer far = upload(data, 256);
    int n = 1;
    CHECK(cuCtxSetCurrent(context));
    pointer near = upload(NULL, 256);
    void *params[] = { &near, &far, &n };
    handle f;
    CHECK(cuModuleGetFunction(&f, module, "add"));
    int r = cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, NULL, params, NULL);
    result("a function of another device is refused", r == 400 ? NULL : "returned %d", r);
    CHECK(cuMemcpyPeerAsync(near, context, far, other, 256, NULL));
    CHECK(cuCtxSynchronize());
    CHECK(cuMemcpyDtoH_v2(got, near, 256));
    result("a copy between devices", differ(got, data, 256) ? "%s" : NULL, "bits differ");
    CHECK(cuModuleGetFunction(&f, here, "add"));
    r = cuCtxEnablePeerAccess(other, 0);
    int s = cuCtxEnablePeerAccess(other, 0);
    result("peer access, twice", r == 0 && s == 704 ? NULL : "returned %d and %d", r, s);
    CHECK(cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, NULL, params, NULL));
    CHECK(cuMemcpyDtoH_v2(got, near, 256));
    result("a kernel reads the peer's memory", got[0] == 4 ? NULL : "%g", (double)got[0]);
    cudasim_reports();
    CHECK(cuMemFree_v2(near)); CHECK(cuModuleUnload(here));
    CHECK(cuCtxSetCurrent(other));
    params[0] = &far; params[1] = &near;
    near = upload(NULL, 256); /* of device 1 */
    CHECK(cuModuleGetFunction(&f, module, "add"));
    CHECK(cuCtxSetCurrent(context));
    pointer mine = upload(data, 256);
    CHECK(cuCtxSetCurrent(other));
    params[1] = &mine;
    CHECK(cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, NULL, params, NULL));
    r = cuCtxSynchronize();
    const char *said = cudasim_reports();
    result("a kernel that reads another device's memory without peer access",
        r == 700 && strstr(said, "without peer access") ? NULL : "returned %d: %s", r, said);
    cuDevicePrimaryCtxRelease_v2(1);
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemFree_v2(mine));
    free(text);
    cudasim_reports();
}

/* ---- what CUDASIM_DROP takes away is missed ---- */

static void test_dropped(void)
{
    char *text = read_file("tests/cudasim/kernels.cu"), *ptx = compile(text, "compute_80");
    for (int k = 0; k < 3; k++) {
        static const char *plans[] = { "", "gemm:bar.sync:1", "other:bar:0,gemm:bar.sync:2" };
        enum { N = 32 };
        static float a[N * N];
        int n = N;
        char label[100];
        fresh_context();
        setenv("CUDASIM_DROP", plans[k], 1);
        CHECK(cuModuleLoadData(&module, ptx));
        pointer pa = upload(a, sizeof a), pc = upload(NULL, sizeof a);
        LAUNCH("gemm", 2, 2, 16, 16, 0, &pc, &pa, &pa, &n, &n, &n);
        int code = cuCtxSynchronize();
        const char *said = cudasim_reports();
        snprintf(label, sizeof label, "gemm without '%s'", plans[k]);
        result(label, code == (k ? 719 : 0) ? NULL : "returned %d: %s", code, said);
    }
    fresh_context();
    free(ptx);
    ptx = compile("extern \"C\" __global__ void add(float *y, const float *x, int n) { y[threadIdx.x] = x[threadIdx.x] + n; }",
        "compute_80");
    CHECK(cuModuleLoadData(&module, ptx));
    setenv("CUDASIM_DROP", "stream:wait:0", 1);
    int wrong = wrong_schedules(true);
    result("dropped waits show as wrong data", wrong ? NULL : "%d", wrong);
    unsetenv("CUDASIM_DROP");
    CHECK(cuModuleUnload(module));
    free(text);
    free(ptx);
    fresh_context();
}

/* ---- what a device of this kind and a driver of this age load ---- */

static void test_load(const char *arch, int code)
{
    char *image = compile(
        "__shared__ float s[32]; extern \"C\" __global__ void put(float *y, int n) { s[threadIdx.x] = n; __syncwarp();"
        " y[threadIdx.x] = s[31 - threadIdx.x]; } extern \"C\" __global__ void other(float *y, int n) { s[0] = n; y[0] = s[0]; }",
        arch);
    char label[100];
    int got = cuModuleLoadData(&module, image), registers = 0;
    const char *said = cudasim_reports();
    snprintf(label, sizeof label, "loading %s returns %d", arch, code);
    result(label, got == code && !*said == !code ? NULL : "%d: %s", got, said);
    if (got == 0 && arch[0] == 's') {
        CHECK(cuFuncGetAttribute(&registers, 4, function("put")));
        result("the registers of a cubin's kernel are known", registers >= 4 && registers < 24 ? NULL : "%d", registers);
    }
    if (got == 0) CHECK(cuModuleUnload(module));
    free(image);
}

/* ---- order across streams: CUDASIM_ORDER=1 ---- */

/* A copy and a kernel in stream a, a kernel in stream b that needs them. how: 0 nothing orders them, 1 an event, 2 the host
   waits, 3 as 1, but the first stream then writes again what the second reads. Returns what synchronising does. */
static int ordered_by(int how, uint64_t seed)
{
    fresh_context();
    cudasim_seed(seed);
    handle a, b, e, f;
    float *host;
    CHECK(cuModuleLoadData(&module, stream_ptx));
    f = function("add");
    CHECK(cuMemHostAlloc((void **)&host, 256, 0));
    memset(host, 0, 256);
    CHECK(cuStreamCreate(&a, 1)); CHECK(cuStreamCreate(&b, 1)); CHECK(cuEventCreate(&e, 2));
    pointer x = upload(host, 256), z = upload(host, 256);
    CHECK(cuMemcpyHtoDAsync_v2(x, host, 256, a));
    CHECK(cuEventRecord(e, a));
    if (how == 1 || how == 3) CHECK(cuStreamWaitEvent(b, e, 0));
    if (how == 2) CHECK(cuStreamSynchronize(a));
    add_one(f, z, x, b);
    if (how == 3) CHECK(cuMemcpyHtoDAsync_v2(x, host, 256, a));
    int r = cuCtxSynchronize();
    cuMemFreeHost(host);
    return r;
}

static void test_order(void)
{
    char *text = compile(
        "extern \"C\" __global__ void add(float *y, const float *x, int n) { y[threadIdx.x] = x[threadIdx.x] + n; }",
        "compute_80");
    stream_ptx = text;
    static const char *names[] = { "nothing between streams", "an event", "the host's waiting", "an event, but a later write" };
    for (int how = 0; how < 4; how++) {
        int good = 0, caught = 0;
        for (uint64_t seed = 1; seed <= 10; seed++) {
            int r = ordered_by(how, seed);
            const char *said = cudasim_reports();
            good += r == 0 && !*said;
            caught += r == 719 && strstr(said, "race between streams") && strstr(said, "nothing orders them");
        }
        result(names[how], (how == 1 || how == 2 ? good : caught) == 10 ? NULL : "%d right, %d caught of 10", good, caught);
    }
    fresh_context();
    CHECK(cuModuleLoadData(&module, text));
    test_graph();
    fresh_context();
    free(text);
}

/* ---- NCCL ---- */

#include <unistd.h>
typedef struct { char bytes[128]; } nccl_id;
static int (*nccl_unique)(nccl_id *), (*nccl_init)(handle *, int, nccl_id, int),
    (*nccl_reduce)(const void *, void *, size_t, int, int, handle, handle), (*nccl_error)(handle, int *), (*nccl_abort)(handle),
    (*nccl_destroy)(handle);
static struct { nccl_id id; int ranks, count[4], error[4]; float got[4]; bool hang; } meeting;

static void *rank_main(void *argument)
{
    int rank = (int)(intptr_t)argument;
    handle ctx, stream, comm;
    CHECK(cuDevicePrimaryCtxRetain(&ctx, rank));
    CHECK(cuCtxSetCurrent(ctx));
    CHECK(cuStreamCreate(&stream, 1));
    float data[64];
    for (int i = 0; i < 64; i++) data[i] = (float)(rank + 1);
    pointer x = upload(data, 256);
    CHECK(nccl_init(&comm, meeting.ranks, meeting.id, rank));
    CHECK(nccl_reduce((void *)x, (void *)x, (size_t)meeting.count[rank], 7, 0, comm, stream));
    if (meeting.hang) { usleep(50000); nccl_abort(comm); }
    CHECK(cuStreamSynchronize(stream));
    CHECK(nccl_error(comm, &meeting.error[rank]));
    CHECK(cuMemcpyDtoH_v2(data, x, 256));
    meeting.got[rank] = data[3];
    nccl_destroy(comm);
    CHECK(cuMemFree_v2(x)); CHECK(cuStreamDestroy_v2(stream));
    CHECK(cuDevicePrimaryCtxRelease_v2(rank));
    return NULL;
}
static void meet(int ranks)
{
    pthread_t threads[4];
    meeting.ranks = ranks;
    CHECK(nccl_unique(&meeting.id));
    for (int r = 0; r < ranks; r++) pthread_create(&threads[r], NULL, rank_main, (void *)(intptr_t)r);
    for (int r = 0; r < ranks; r++) pthread_join(threads[r], NULL);
}
static void test_nccl(void)
{
    void *library = dlopen("libnccl.so.2", RTLD_NOW);
    if (!library) { result("nccl", "%s", dlerror()); return; }
    LOOK(nccl_unique, "ncclGetUniqueId");
    LOOK(nccl_init, "ncclCommInitRank");
    LOOK(nccl_reduce, "ncclAllReduce");
    LOOK(nccl_error, "ncclCommGetAsyncError");
    LOOK(nccl_abort, "ncclCommAbort");
    LOOK(nccl_destroy, "ncclCommDestroy");
    for (int r = 0; r < 4; r++) meeting.count[r] = 64;
    meet(4);
    bool good = true;
    for (int r = 0; r < 4; r++) good = good && meeting.got[r] == 10 && meeting.error[r] == 0;
    result("nccl: all-reduce of 4 ranks", good ? NULL : "%g %g %g %g", (double)meeting.got[0], (double)meeting.got[1],
        (double)meeting.got[2], (double)meeting.got[3]);
    meeting.count[2] = 32;
    meet(4);
    result("nccl: ranks that disagree", meeting.error[0] == 5 && meeting.error[3] == 5 ? NULL : "errors %d %d", meeting.error[0],
        meeting.error[3]);
    meeting.count[2] = 64;
    setenv("CUDASIM_FAIL", "hang:9", 1); /* the first of the third meeting */
    meeting.hang = true;
    meet(4);
    result("nccl: a hang ends by abort", NULL);
    unsetenv("CUDASIM_FAIL");
}

/* ---- faults: each in a process of its own ---- */

#include <sys/wait.h>
/* A small program; the first call that fails ends it with 1 to 250: step * 10 + kind, written to `out`. */
static int fault_program(int *step)
{
    handle ctx, f, stream, graph, exec, event;
    pointer x = 0;
    float data[64] = { 1 }, *pinned = NULL;
    int r;
#define STEP(n, call) *step = n; r = (call); if (r) return r
    STEP(1, cuInit(0));
    STEP(2, cuDevicePrimaryCtxRetain(&ctx, 0));
    STEP(3, cuCtxSetCurrent(ctx));
    STEP(4, cuMemAlloc_v2(&x, 256));
    STEP(5, cuMemHostAlloc((void **)&pinned, 256, 0));
    STEP(6, cuModuleLoadData(&module, stream_ptx));
    STEP(7, cuModuleGetFunction(&f, module, "add"));
    STEP(8, cuStreamCreate(&stream, 1));
    STEP(9, cuEventCreate(&event, 2));
    STEP(10, cuMemcpyHtoDAsync_v2(x, data, 256, stream));
    for (int i = 0; i < 5; i++) {
        int n = 1;
        void *params[] = { &x, &x, &n };
        STEP(11 + i, cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, stream, params, NULL));
    }
    STEP(16, cuStreamBeginCapture_v2(stream, 0));
    STEP(17, cuStreamEndCapture(stream, &graph));
    STEP(18, cuGraphInstantiateWithFlags(&exec, graph, 0));
    STEP(19, cuGraphLaunch(exec, stream));
    STEP(20, cuStreamSynchronize(stream));
    STEP(21, cuMemcpyDtoH_v2(data, x, 256));
    STEP(22, cuMemFree_v2(x));
    *step = 23;
    return data[0] == 6 ? 0 : 1;
}
static void test_faults(void)
{
    static const struct { const char *plan; int step, code; } cases[] = {
        { "", 23, 0 }, { "nodevice:1", 1, 100 }, { "stub:1", 1, 34 }, { "mismatch:1", 1, 803 }, { "init:1", 1, 999 },
        { "context:1", 2, 2 }, { "alloc:1", 4, 2 }, { "alloc:2", 23, 0 }, { "hostalloc:1:700", 5, 700 }, { "module:1", 6, 200 },
        { "module:1:209", 6, 209 }, { "stream:1", 8, 2 }, { "event:1", 9, 2 }, { "copy:1", 10, 700 }, { "launch:3", 13, 719 },
        { "launch:3:701,alloc:2", 13, 701 }, { "graph:2", 18, 1 }, { "graph:3", 19, 1 }, { "sync:1", 20, 719 },
        { "copy:2", 21, 700 }, { "lost:4", 14, 46 }, { "lost:6", 19, 46 }, { "lost@1:4", 23, 0 }, { "launch*:2", 12, 719 },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        int ends[2], got[2] = { -1, -1 };
        if (pipe(ends)) exit(1);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            setenv("CUDASIM_FAIL", cases[k].plan, 1);
            got[1] = fault_program(&got[0]);
            _exit(write(ends[1], got, sizeof got) != sizeof got);
        }
        close(ends[1]);
        if (read(ends[0], got, sizeof got) != sizeof got) got[0] = -1;
        close(ends[0]);
        waitpid(child, NULL, 0);
        char label[100];
        snprintf(label, sizeof label, "fault '%s'", cases[k].plan);
        result(label, got[0] == cases[k].step && got[1] == cases[k].code ? NULL : "step %d returned %d, not step %d with %d",
            got[0], got[1], cases[k].step, cases[k].code);
    }
}

/* ---- speed: a statement, not a test ---- */

static void speed(void)
{
    char *text = read_file("tests/cudasim/kernels.cu"), *image = compile(text, "compute_80");
    CHECK(cuModuleLoadData(&module, image));
    enum { N = 192 };
    static float a[N * N];
    for (int i = 0; i < N * N; i++) a[i] = random_float(-1, 1);
    int n = N, m = N * N;
    float alpha = 2;
    pointer pa = upload(a, sizeof a), pc = upload(a, sizeof a);
    uint64_t counts[7];
    for (int k = 0; k < 2; k++) {
        struct timespec t0, t1;
        cudasim_statistics(counts);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t0);
        if (k == 0) { LAUNCH("gemm", N / 16, N / 16, 16, 16, 0, &pc, &pa, &pa, &n, &n, &n); }
        else for (int i = 0; i < 50; i++) LAUNCH("axpy", N * N / 256, 1, 256, 1, 0, &pc, &pa, &alpha, &m);
        CHECK(cuCtxSynchronize());
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t1);
        cudasim_statistics(counts);
        double seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
        fprintf(stderr, "%s: %.0f million thread instructions a second of CPU time (%llu)\n", k ? "axpy" : "gemm",
            (double)counts[1] / seconds * 1e-6, (unsigned long long)counts[1]);
    }
    CHECK(cuMemFree_v2(pa)); CHECK(cuMemFree_v2(pc)); CHECK(cuModuleUnload(module));
    free(text);
    free(image);
}

int main(int count, char **arguments)
{
    char name[64] = "";
    const char *what = count > 1 ? arguments[1] : "results";
    if (strcmp(what, "faults") == 0) {
        stream_ptx = compile(
            "extern \"C\" __global__ void add(float *y, const float *x, int n) { y[threadIdx.x] = x[threadIdx.x] + n; }",
            "compute_80");
        test_faults();
        return failed != 0;
    }
    CHECK(cuInit(0));
    CHECK(cuDevicePrimaryCtxRetain(&context, 0));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuDeviceGetName(name, sizeof name, 0));
    if (strncmp(name, "cudasim", 7) != 0) {
        printf("not ok selftest: the device is '%s', not a simulated one\n", name);
        return 1;
    }
    const char *arch = count > 2 ? arguments[2] : "compute_80";
    if (strcmp(what, "results") == 0) results(arch);
    if (strcmp(what, "opcodes") == 0) { test_opcodes(); test_halves(); test_counts(); }
    if (strcmp(what, "bugs") == 0) test_bugs(arch);
    if (strcmp(what, "load") == 0) test_load(arch, count > 3 ? atoi(arguments[3]) : 0);
    if (strcmp(what, "dropped") == 0) test_dropped();
    if (strcmp(what, "order") == 0) test_order();
    if (strcmp(what, "streams") == 0) test_streams();
    if (strcmp(what, "nccl") == 0) test_nccl();
    if (strcmp(what, "speed") == 0) speed();
    CHECK(cuDevicePrimaryCtxRelease_v2(0));
    const char *left = cudasim_reports();
    if (*left) result("nothing reported at the end", "%s", left);
    return failed != 0;
}
