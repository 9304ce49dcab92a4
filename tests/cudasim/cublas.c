/* The stand-in cuBLAS: the handful of functions that dltrain_cuda.h calls, over the simulated driver's streams. A product runs
   when its stream comes to it, graphs too, in plain loops: operands rounded as the compute type says, fp32 sums. Strict about
   arguments; a capture needs a workspace of the caller's, which cublasSetStream takes away. Faults: CUDASIM_FAIL=cublas:N (the
   N-th call fails). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, INTERNAL = 14 };
enum { PEDANTIC = 69, FAST_16BF = 75, FAST_TF32 = 77, R_32F = 0, GEMM_DEFAULT = -1, MAGIC = 0x626c6173 };

typedef struct product {
    bool ta, tb;
    int m, n, k, lda, ldb, ldc, batches, compute;
    int64_t stride_a, stride_b, stride_c;
    uint64_t a, b, c;
    float alpha, beta;
    struct product *next;
} product;
typedef struct handle {
    int magic;
    void *stream;
    uint64_t workspace;
    product *products; /* that graphs may run again: freed with the handle */
} handle;

static int (*driver_call)(void *, int (*)(void *), void *), (*driver_fault)(const char *);
static void *(*driver_memory)(uint64_t, uint64_t, int);
static int (*stream_capturing)(void *, int *);

static int refuse(const char *function, const char *why)
{
    fprintf(stderr, "cudasim: %s: %s\n", function, why);
    return INVALID_VALUE;
}
static int fault(void) { return driver_fault("cublas"); }
static handle *valid(void *h) { return h && ((handle *)h)->magic == MAGIC ? (handle *)h : NULL; }

EXPORT const char *cublasGetStatusString(int code)
{
    switch (code) {
    case SUCCESS: return "success";
    case NOT_INITIALIZED: return "the library was not initialized";
    case INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
    case EXECUTION_FAILED: return "the GPU program failed to execute";
    default: return "an internal operation failed";
    }
}

EXPORT int cublasCreate_v2(void **out)
{
    void *d = dlopen("libcuda.so.1", RTLD_NOW);
    if (!d || !(*(void **)&driver_call = dlsym(d, "cudasim_call")))
        return refuse("cublasCreate", "works with the simulated driver only"), NOT_INITIALIZED;
    *(void **)&driver_fault = dlsym(d, "cudasim_fault");
    *(void **)&driver_memory = dlsym(d, "cudasim_memory");
    *(void **)&stream_capturing = dlsym(d, "cuStreamIsCapturing");
    if (fault()) return NOT_INITIALIZED;
    handle *h = calloc(1, sizeof *h);
    h->magic = MAGIC;
    return *out = h, SUCCESS;
}
EXPORT int cublasDestroy_v2(void *at)
{
    handle *h = valid(at);
    if (!h) return NOT_INITIALIZED;
    for (product *p = h->products, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    h->magic = 0;
    free(h);
    return SUCCESS;
}
EXPORT int cublasSetStream_v2(void *at, void *stream)
{
    handle *h = valid(at);
    if (!h) return NOT_INITIALIZED;
    h->stream = stream;
    h->workspace = 0;
    return fault() ? INTERNAL : SUCCESS;
}
EXPORT int cublasSetWorkspace_v2(void *at, void *workspace, size_t size)
{
    handle *h = valid(at);
    if (!h) return NOT_INITIALIZED;
    if ((uint64_t)workspace % 256) return refuse("cublasSetWorkspace", "a workspace is aligned to 256 bytes");
    if (!workspace || !size) return refuse("cublasSetWorkspace", "no workspace");
    h->workspace = (uint64_t)workspace;
    return fault() ? INTERNAL : SUCCESS;
}

static float rounded(int compute, float v)
{
    uint32_t u;
    if (compute == PEDANTIC || v != v || isinf(v)) return v;
    memcpy(&u, &v, sizeof u);
    u = compute == FAST_TF32 ? (u + 0x1000) & ~0x1fffu : (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
    memcpy(&v, &u, sizeof v);
    return v;
}
/* Floats from the first to the last that a batch of matrices of `rows` x `columns` has */
static uint64_t span(int rows, int columns, int ld, int64_t stride, int batches)
{
    return (uint64_t)(batches - 1) * (uint64_t)stride + (uint64_t)(columns - 1) * (uint64_t)ld + (uint64_t)rows;
}
static int run(void *user) /* by the stream's turn, under the driver's lock */
{
    product *p = user;
    uint64_t na = p->ta ? span(p->k, p->m, p->lda, p->stride_a, p->batches) : span(p->m, p->k, p->lda, p->stride_a, p->batches);
    uint64_t nb = p->tb ? span(p->n, p->k, p->ldb, p->stride_b, p->batches) : span(p->k, p->n, p->ldb, p->stride_b, p->batches);
    const float *a = driver_memory(p->a, na * 4, 0), *b = driver_memory(p->b, nb * 4, 0);
    bool adds = p->beta != 0;
    uint64_t nc = span(p->m, p->n, p->ldc, p->stride_c, p->batches) * 4;
    float *c = adds && !driver_memory(p->c, nc, 0) ? NULL : driver_memory(p->c, nc, 1);
    if (!a || !b || !c) {
        fprintf(stderr, "cudasim: cublasGemmStridedBatchedEx: %s is not inside a live allocation\n", !a ? "A" : !b ? "B" : "C");
        return 0;
    }
    for (int z = 0; z < p->batches; z++, a += p->stride_a, b += p->stride_b, c += p->stride_c)
        for (int j = 0; j < p->n; j++)
            for (int i = 0; i < p->m; i++) {
                float sum = 0, *y = c + (int64_t)j * p->ldc + i;
                for (int k = 0; k < p->k; k++)
                    sum = fmaf(rounded(p->compute, a[p->ta ? (int64_t)i * p->lda + k : (int64_t)k * p->lda + i]),
                        rounded(p->compute, b[p->tb ? (int64_t)k * p->ldb + j : (int64_t)j * p->ldb + k]), sum);
                *y = adds ? fmaf(p->alpha, sum, p->beta * *y) : p->alpha * sum;
            }
    return 0;
}

EXPORT int cublasGemmStridedBatchedEx(void *at, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type_a,
    int lda, long long stride_a, const void *b, int type_b, int ldb, long long stride_b, const void *beta, void *c, int type_c,
    int ldc, long long stride_c, int batches, int compute, int algo)
{
    static const char me[] = "cublasGemmStridedBatchedEx";
    handle *h = valid(at);
    int capturing = 0;
    if (!h) return NOT_INITIALIZED;
    if (ta < 0 || ta > 1 || tb < 0 || tb > 1) return refuse(me, "an operation is N (0) or T (1) here");
    if (m < 1 || n < 1 || k < 1 || batches < 1) return refuse(me, "sizes are 1 or more here");
    if (lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return refuse(me, "a leading dimension is less than its rows");
    if (type_a != R_32F || type_b != R_32F || type_c != R_32F) return refuse(me, "all types are CUDA_R_32F here");
    if (compute != PEDANTIC && compute != FAST_TF32 && compute != FAST_16BF) return refuse(me, "no such compute type");
    if (algo != GEMM_DEFAULT) return refuse(me, "no such algorithm");
    if (!alpha || !beta || !a || !b || !c || ((uint64_t)a | (uint64_t)b | (uint64_t)c) % 4)
        return refuse(me, "a pointer is null or not aligned");
    if (stride_a < 0 || stride_b < 0 || (batches > 1 && stride_c < (long long)ldc * n))
        return refuse(me, "results overlap, or strides go back");
    if (!stream_capturing || stream_capturing(h->stream, &capturing)) return refuse(me, "no such stream");
    if (capturing && !h->workspace) return refuse(me, "a capture needs a workspace: cublasSetWorkspace, after cublasSetStream");
    if (fault()) return EXECUTION_FAILED;
    product *p = malloc(sizeof *p);
    *p = (product){ ta, tb, m, n, k, lda, ldb, ldc, batches, compute, stride_a, stride_b, stride_c, (uint64_t)a, (uint64_t)b,
        (uint64_t)c, *(const float *)alpha, *(const float *)beta, h->products };
    h->products = p;
    return driver_call(h->stream, run, p) ? EXECUTION_FAILED : SUCCESS;
}
