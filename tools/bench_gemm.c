/* `make bench-gemm`: matrix products beside OpenBLAS and oneDNN, which are loaded when they are installed (tools/setup.sh bench). Rounds in
   turn, medians; docs/speed.md says how to read it. dltrain's side is what a program pays: recording, finding the plan, running. */
#define _GNU_SOURCE
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#ifdef __linux__ /* --device cuda:0 */
#include "../dltrain_cuda.h"
#endif
#include "measure.h"
#include <dlfcn.h>
#if defined(__has_include)
#if __has_include(<dnnl.h>)
#include <dnnl.h>
#endif
#endif

typedef struct product {
    dl_index m, n, k;
    bool ta, tb;      /* a is stored [K,M]; b is stored [N,K] */
    dl_index batch;   /* 0: no batch dimension */
} product;

#define NN .tb = false
#define NT .tb = true
#define TN .ta = true
static const product products[] = {
    /* squares */
    { 64, 64, 64, NN }, { 96, 96, 96, NN }, { 128, 128, 128, NN }, { 192, 192, 192, NN }, { 256, 256, 256, NN }, { 384, 384, 384, NN },
    { 512, 512, 512, NN }, { 768, 768, 768, NN }, { 1024, 1024, 1024, NN }, { 128, 128, 128, NT }, { 256, 256, 256, NT },
    { 512, 512, 512, NT }, { 1024, 1024, 1024, NT }, { 128, 128, 128, TN }, { 256, 256, 256, TN }, { 512, 512, 512, TN },
    { 1024, 1024, 1024, TN }, { 200, 300, 500, NN }, { 500, 130, 700, NT }, { 333, 333, 333, TN },
    /* W1: forward, weight and input gradients */
    { 64, 128, 784, NT }, { 128, 784, 64, TN }, { 64, 10, 128, NT }, { 10, 128, 64, TN }, { 64, 128, 10, NN },
    /* W2: the convolutions as products, the linear layers */
    { 32, 784, 9, NN }, { 64, 196, 288, NN }, { 64, 288, 12544, NT }, { 288, 196, 64, TN }, { 64, 128, 3136, NT }, { 128, 3136, 64, TN },
    { 64, 3136, 128, NN },
    /* W3 */
    { 16, 1024, 27, NN }, { 16, 1024, 144, NN }, { 32, 256, 288, NN }, { 64, 64, 576, NN }, { 16, 144, 65536, NT }, { 576, 64, 64, TN },
    /* W4 */
    { 1024, 384, 128, NT }, { 1024, 128, 128, NT }, { 1024, 512, 128, NT }, { 1024, 128, 512, NT }, { 1024, 65, 128, NT },
    { 384, 128, 1024, TN }, { 512, 128, 1024, TN }, { 65, 128, 1024, TN }, { 1024, 128, 384, NN }, { 1024, 128, 65, NN },
    { 128, 128, 32, NT, .batch = 32 }, { 128, 32, 128, NN, .batch = 32 }, { 128, 32, 128, TN, .batch = 32 }, { 100, 100, 24, NT, .batch = 12 },
    /* small and skinny */
    { 7, 5, 3, NN }, { 8, 8, 8, NN }, { 16, 16, 16, NN }, { 24, 31, 17, NT }, { 32, 32, 32, NN }, { 48, 48, 48, TN }, { 1, 128, 784, NT },
    { 1, 784, 128, NN }, { 1, 1000, 1000, NN }, { 1000, 1, 1000, NN }, { 1000, 10, 100, NN }, { 10, 1000, 100, NT }, { 1000, 1000, 10, NN },
    { 4, 512, 512, NT }, { 512, 4, 512, NN }, { 16, 16, 4096, TN }, { 2048, 16, 16, NN },
};

static const char help[] =
    "usage: build/bench_gemm [OPTIONS]\n"
    "    --threads N               this number alone; otherwise 1, then 2\n"
    "    --rounds N                of each side (9); medians are printed\n"
    "    --seconds S               of a round (0.01)\n"
    "    --shape M,N,K,NT[,BATCH]  this product alone; NN, NT, TN or TT: is a, is b stored transposed?\n"
    "    --no-libs                 dltrain alone\n"
    "    --device cuda:0           on a GPU: dltrain alone, operands in its memory\n"
    "    --precision tf32          dl_config.matmul_precision, or bf16\n";
static struct {
    int threads, rounds;
    double seconds;
    bool no_libs, one;
    const char *device, *precision;
    product shape;
} option = { .rounds = 9, .seconds = 0.01 };

/* What a side is given: c = a b, `times` times, over `outputs` different c. */
typedef struct job {
    product p;
    int threads, outputs;
    const float *a, *b;
    float *c;
    dl_context *ctx;
    void *state;      /* a side's own, made at its first run of the job */
} job;

static dl_index batch_of(const product *p) { return p->batch ? p->batch : 1; }
static size_t c_numel(const product *p) { return (size_t)(batch_of(p) * p->m * p->n); }

/* ---- dltrain ---- */
static dl_tensor operand(const job *j, dl_index rows, dl_index columns, bool transposed, const float *data)
{
    dl_index r = transposed ? columns : rows, c = transposed ? rows : columns;
    dl_shape s = j->p.batch ? DL_SHAPE(j->p.batch, r, c) : DL_SHAPE(r, c);
    if (option.device) return dl_parameter(j->ctx, data == j->a ? "a" : "b", &(dl_param_desc){ .shape = s });
    return dl_borrow(j->ctx, DL_F32, s, data);
}

/* On a GPU operands are parameters: there they stay, while borrowed memory is copied each time. */
static void place_operands(job *j)
{
    const float *data[] = { j->a, j->b };
    operand(j, j->p.m, j->p.k, j->p.ta, j->a);
    operand(j, j->p.k, j->p.n, j->p.tb, j->b);
    dl_end(j->ctx);
    for (int i = 0; i < 2; i++) dl_param_set(j->ctx, i ? "b" : "a", data[i], (size_t)(batch_of(&j->p) * (i ? j->p.k * j->p.n : j->p.m * j->p.k)));
}

static bool run_dltrain(job *j, long times)
{
    dl_matmul_desc desc = { .transpose_a = j->p.ta, .transpose_b = j->p.tb };
    dl_tensor y[16];
    for (long i = 0; i < times;) {
        dl_tensor a = operand(j, j->p.m, j->p.k, j->p.ta, j->a), b = operand(j, j->p.k, j->p.n, j->p.tb, j->b);
        for (int k = 0; k < j->outputs && i < times; k++, i++) y[k] = dl_matmul_ex(a, b, &desc);
        dl_end(j->ctx);
    }
    if (times == 1) dl_read(y[0], j->c, c_numel(&j->p)); /* to be checked */
    else if (option.device) dl_item(dl_full(j->ctx, DL_SHAPE(1), 0)); /* waits for all that was launched */
    return !dl_failed(j->ctx);
}

/* ---- OpenBLAS ---- */
static void (*cblas_sgemm)(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
static void (*openblas_set_num_threads)(int n);

static bool load_openblas(void)
{
    void *lib = dlopen("libopenblas.so.0", RTLD_NOW);
    if (!lib) lib = dlopen("libopenblas.so", RTLD_NOW);
    if (!lib) return false;
    char *(*core)(void), *(*config)(void);
    *(void **)&cblas_sgemm = dlsym(lib, "cblas_sgemm");
    *(void **)&openblas_set_num_threads = dlsym(lib, "openblas_set_num_threads");
    *(void **)&core = dlsym(lib, "openblas_get_corename");
    *(void **)&config = dlsym(lib, "openblas_get_config");
    if (!cblas_sgemm || !openblas_set_num_threads) return false;
    printf("OpenBLAS: kernels %s; %s\n", core ? core() : "unknown", config ? config() : "");
    return true;
}

static bool run_openblas(job *j, long times)
{
    enum { ROW_MAJOR = 101, AS_IS = 111, TRANSPOSED = 112 };
    const product *p = &j->p;
    int m = (int)p->m, n = (int)p->n, k = (int)p->k;
    openblas_set_num_threads(j->threads);
    for (long i = 0; i < times; i++)
        for (dl_index b = 0; b < batch_of(p); b++)
            cblas_sgemm(ROW_MAJOR, p->ta ? TRANSPOSED : AS_IS, p->tb ? TRANSPOSED : AS_IS, m, n, k, 1, j->a + b * m * k, p->ta ? m : k, j->b + b * k * n,
                        p->tb ? k : n, 0, j->c + (size_t)(i % j->outputs) * c_numel(p) + b * m * n, n);
    return true;
}

/* ---- oneDNN: its sgemm, and where its header is that of version 2 its matmul too; the faster of the two counts ---- */
typedef struct onednn_version { int major, minor, patch; const char *hash; unsigned runtime; } onednn_version;
static int (*onednn_sgemm)(char ta, char tb, dl_index m, dl_index n, dl_index k, float alpha, const float *a, dl_index lda, const float *b, dl_index ldb, float beta, float *c, dl_index ldc);
static void (*omp_threads)(int n);
static bool onednn_has_matmul;

#if defined(DNNL_VERSION_MAJOR) && DNNL_VERSION_MAJOR == 2
#define ONEDNN_CALLS(F)                                                                                                            \
    F(dnnl_engine_create) F(dnnl_stream_create) F(dnnl_memory_desc_init_by_strides) F(dnnl_memory_create) F(dnnl_matmul_desc_init)  \
    F(dnnl_primitive_desc_create) F(dnnl_primitive_create) F(dnnl_primitive_execute) F(dnnl_stream_wait)                           \
    F(dnnl_memory_set_data_handle) F(dnnl_memory_destroy) F(dnnl_primitive_destroy) F(dnnl_primitive_desc_destroy)
#define ONEDNN_POINTER(f) static __typeof__(f) *p_##f;
#define ONEDNN_LOAD(f) *(void **)&p_##f = dlsym(lib, #f), all = all && p_##f;
ONEDNN_CALLS(ONEDNN_POINTER)
static dnnl_engine_t engine;
static dnnl_stream_t stream;
typedef struct onednn_state { dnnl_primitive_t call; dnnl_primitive_desc_t desc; dnnl_memory_t mem[3]; } onednn_state;

static bool load_matmul(void *lib)
{
    bool all = true;
    ONEDNN_CALLS(ONEDNN_LOAD)
    return all && !p_dnnl_engine_create(&engine, dnnl_cpu, 0) && !p_dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
}

static onednn_state *make_matmul(const job *j)
{
    const product *p = &j->p;
    dnnl_memory_desc_t md[3];
    dnnl_matmul_desc_t desc;
    const dl_index size[3][2] = { { p->m, p->k }, { p->k, p->n }, { p->m, p->n } };
    const bool t[3] = { p->ta, p->tb, false };
    void *data[3] = { (void *)j->a, (void *)j->b, j->c };
    onednn_state *s = (onednn_state *)calloc(1, sizeof *s);
    bool good = true;
    for (int i = 0; i < 3; i++) {
        dnnl_dims_t dims = { p->batch, size[i][0], size[i][1] }, strides = { size[i][0] * size[i][1], t[i] ? 1 : size[i][1], t[i] ? size[i][0] : 1 };
        int skip = p->batch ? 0 : 1;
        good = good && !p_dnnl_memory_desc_init_by_strides(&md[i], 3 - skip, dims + skip, dnnl_f32, strides + skip)
            && !p_dnnl_memory_create(&s->mem[i], &md[i], engine, data[i]);
    }
    good = good && !p_dnnl_matmul_desc_init(&desc, &md[0], &md[1], NULL, &md[2]) && !p_dnnl_primitive_desc_create(&s->desc, &desc, NULL, engine, NULL)
        && !p_dnnl_primitive_create(&s->call, s->desc);
    return good ? s : NULL;
}

static bool run_matmul(job *j, long times)
{
    omp_threads(j->threads);
    onednn_state *s = (onednn_state *)(j->state ? j->state : (j->state = make_matmul(j)));
    if (!s) return false;
    const dnnl_exec_arg_t args[] = { { DNNL_ARG_SRC, s->mem[0] }, { DNNL_ARG_WEIGHTS, s->mem[1] }, { DNNL_ARG_DST, s->mem[2] } };
    for (long i = 0; i < times; i++) {
        if (j->outputs > 1) p_dnnl_memory_set_data_handle(s->mem[2], j->c + (size_t)(i % j->outputs) * c_numel(&j->p));
        if (p_dnnl_primitive_execute(s->call, stream, 3, args)) return false;
    }
    return !p_dnnl_stream_wait(stream);
}

static void free_matmul(job *j)
{
    onednn_state *s = (onednn_state *)j->state;
    for (int i = 0; s && i < 3; i++) p_dnnl_memory_destroy(s->mem[i]);
    if (s) p_dnnl_primitive_destroy(s->call), p_dnnl_primitive_desc_destroy(s->desc);
    free(s);
}
#else
static bool load_matmul(void *lib) { return (void)lib, false; }
static bool run_matmul(job *j, long times) { return (void)j, (void)times, false; }
static void free_matmul(job *j) { (void)j; }
#endif

static bool load_onednn(void)
{
    void *lib = dlopen("libdnnl.so.2", RTLD_NOW);
    if (!lib) lib = dlopen("libdnnl.so.3", RTLD_NOW);
    if (!lib) return false;
    const onednn_version *(*version)(void);
    *(void **)&onednn_sgemm = dlsym(lib, "dnnl_sgemm");
    *(void **)&version = dlsym(lib, "dnnl_version");
    *(void **)&omp_threads = dlsym(lib, "omp_set_num_threads"); /* Debian's oneDNN runs on OpenMP */
    if (!onednn_sgemm || !version || !omp_threads) return false;
    onednn_has_matmul = version()->major == 2 && load_matmul(lib);
    printf("oneDNN: version %d.%d.%d, %s\n", version()->major, version()->minor, version()->patch, onednn_has_matmul ? "sgemm or matmul, whichever is faster" : "sgemm");
    return true;
}

static bool run_onednn(job *j, long times)
{
    const product *p = &j->p;
    omp_threads(j->threads);
    for (long i = 0; i < times; i++)
        for (dl_index b = 0; b < batch_of(p); b++)
            if (onednn_sgemm(p->ta ? 'T' : 'N', p->tb ? 'T' : 'N', p->m, p->n, p->k, 1, j->a + b * p->m * p->k, p->ta ? p->m : p->k, j->b + b * p->k * p->n,
                             p->tb ? p->k : p->n, 0, j->c + (size_t)(i % j->outputs) * c_numel(p) + b * p->m * p->n, p->n)) return false;
    return true;
}

/* ---- measuring ---- */
typedef struct side {
    const char *name;
    bool (*run)(job *j, long times);
    bool present;
    long times;          /* of a round of the job at hand */
    double rate[MOST_ROUNDS];
} side;
enum { DLTRAIN, OPENBLAS, ONEDNN, MATMUL, SIDES };

static float *numbers(size_t n)
{
    uint32_t state = 1;
    float *x = (float *)malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) state = state * 1664525u + 1013904223u, x[i] = (float)(state >> 8) / 8388608 - 1;
    return x;
}

/* Is c the product? Some of its elements, in double. */
static bool right(const job *j)
{
    const product *p = &j->p;
    size_t n = c_numel(p);
    char first = option.precision ? *option.precision : 'h';
    double rounding = first == 't' ? 0x1p-10 : first == 'b' ? 0x1p-7 : 1e-6; /* a product's */
    for (size_t at = 0; at < n; at += 1 + n / 97) {
        dl_index batch = (dl_index)at / (p->m * p->n), row = (dl_index)at / p->n % p->m, column = (dl_index)at % p->n;
        const float *a = j->a + batch * p->m * p->k, *b = j->b + batch * p->k * p->n;
        double sum = 0;
        for (dl_index k = 0; k < p->k; k++)
            sum += (double)a[p->ta ? k * p->m + row : row * p->k + k] * (double)b[p->tb ? column * p->k + k : k * p->n + column];
        if (!(fabs(sum - (double)j->c[at]) <= rounding * ((double)p->k + 8))) return false;
    }
    return true;
}

static double run_seconds(side *s, job *j, long times)
{
    double start = now();
    return s->run(j, times) ? now() - start : -1;
}

/* Warms it, checks its result and finds how many calls make a round. */
static bool prepare(side *s, job *j)
{
    memset(j->c, 0xff, c_numel(&j->p) * sizeof(float));
    if (run_seconds(s, j, 1) < 0 || !right(j)) return false;
    for (s->times = j->outputs;; s->times *= 2) {
        double took = run_seconds(s, j, s->times);
        if (took < 0) return false;
        if (took * 4 < option.seconds) continue;
        s->times = (long)((double)s->times * option.seconds / took);
        if (s->times <= 1) s->times = j->outputs > 1 ? j->outputs : 2; /* one run alone is that of the check */
        return true;
    }
}

/* GFLOP/s of each present side, in s[].rate[0] as a median. */
static bool measure(side *s, const product *p, int threads, int rounds)
{
    double flops = 2 * (double)batch_of(p) * (double)p->m * (double)p->n * (double)p->k;
    job j = { .p = *p, .threads = threads, .outputs = flops < 1e6 ? 8 : 1, .a = numbers((size_t)(batch_of(p) * p->m * p->k)),
              .b = numbers((size_t)(batch_of(p) * p->k * p->n)), .ctx = dl_create(&(dl_config){ .seed = 1, .threads = threads, .device = option.device,
              .matmul_precision = option.precision }) };
    bool good = true;
    j.c = (float *)malloc((size_t)j.outputs * c_numel(p) * sizeof(float));
    dl_set_grad(j.ctx, false);
    if (option.device) place_operands(&j);
    for (int i = 0; i < SIDES; i++)
        if (s[i].present && !prepare(&s[i], &j)) {
            printf("%s: wrong or failed: %s\n", s[i].name, i == DLTRAIN ? dl_error(j.ctx) : "");
            good = false;
        }
    for (int r = 0; good && r < rounds; r++)
        for (int i = 0; i < SIDES; i++) {
            if (!s[i].present) continue;
            for (double until = now() + settling; threads > 1 && good && now() < until;) good = run_seconds(&s[i], &j, s[i].times) >= 0;
            double took = run_seconds(&s[i], &j, s[i].times);
            s[i].rate[r] = flops * (double)s[i].times / took * 1e-9;
            if (took < 0) good = false;
        }
    for (int i = 0; i < SIDES; i++) s[i].rate[0] = good && s[i].present ? median(s[i].rate, rounds) : 0;
    if (j.state) free_matmul(&j);
    free((void *)j.a), free((void *)j.b), free(j.c);
    dl_destroy(j.ctx);
    return good;
}

/* ---- the table ---- */
typedef struct summary { double log_sum, worst; int n; char where[64]; } summary;

static void add(summary *s, double ratio, const char *where)
{
    if (!s->n || ratio < s->worst) s->worst = ratio, strcpy(s->where, where);
    s->log_sum += log(ratio), s->n++;
}

static void tell(int threads, const char *shapes, const char *than, const summary *s)
{
    if (s->n) printf("%dT %s: %d shapes, ratio to %s: geometric mean %.2f, worst %.2f (%s)\n", threads, shapes, s->n, than, exp(s->log_sum / s->n), s->worst, s->where);
}

static bool table(side *s, int threads, const product *list, int n)
{
    summary large = { 0 }, small = { 0 }, onednn = { 0 };
    bool good = true;
    if (option.device) printf("%s, each product in a step of its own or one of eight\n", option.device);
    printf("%dT %5s %5s %5s    batch GFLOP/s: dltrain%s%s\n", threads, "M", "N", "K", s[OPENBLAS].present ? "  OpenBLAS" : "", s[ONEDNN].present ? "    oneDNN  ratio to the best" : "");
    for (int i = 0; i < n; i++) {
        const product *p = &list[i];
        char where[64];
        good = measure(s, p, threads, option.rounds) && good;
        double ours = s[DLTRAIN].rate[0], blas = s[OPENBLAS].rate[0], dnn = fmax(s[ONEDNN].rate[0], s[MATMUL].rate[0]), best = fmax(blas, dnn);
        snprintf(where, sizeof where, "%5td %5td %5td %c%c %5td", p->m, p->n, p->k, p->ta ? 'T' : 'N', p->tb ? 'T' : 'N', batch_of(p));
        printf("%dT %s %17.2f", threads, where, ours);
        if (s[OPENBLAS].present) printf(" %9.2f", blas);
        if (s[ONEDNN].present) printf(" %9.2f", dnn);
        if (best > 0) printf("  %.2f", ours / best);
        printf("\n");
        if (!(best > 0 && ours > 0)) continue;
        bool is_large = p->m >= 128 && p->n >= 128 && p->k >= 128;
        add(is_large ? &large : &small, ours / best, where);
        if (is_large && dnn > 0) add(&onednn, ours / dnn, where);
    }
    tell(threads, "of 128 and more", "the best library", &large);
    tell(threads, "of 128 and more", "oneDNN", &onednn);
    tell(threads, "small and skinny", "the best library", &small);
    return good;
}

/* What dltrain's side of the small shapes pays beside arithmetic. */
static bool overhead(void)
{
    float one = 1, out;
    double ns[2];
    for (int i = 0; i < 2; i++) {
        job j = { .p = { .m = 1, .n = 1, .k = 1 }, .outputs = i ? 8 : 1, .a = &one, .b = &one, .c = &out, .ctx = dl_create(&(dl_config){ .threads = 1 }) };
        dl_set_grad(j.ctx, false);
        bool good = run_dltrain(&j, 1000);
        double start = now();
        good = run_dltrain(&j, 20000) && good;
        ns[i] = (now() - start) / 20000 * 1e9;
        dl_destroy(j.ctx);
        if (!good) return false;
    }
    printf("dltrain: a product of 1 x 1 x 1 takes %.0f ns in a step of its own, %.0f ns as one of eight, as below for products under 1 MFLOP\n", ns[0], ns[1]);
    return true;
}

static int refuse(const char *why, const char *what)
{
    fprintf(stderr, "bench_gemm: %s '%s'\n%s", why, what, help);
    return 2;
}

static bool parse_shape(const char *text, product *p)
{
    char a, b;
    int used = 0;
    *p = (product){ 0 };
    if (sscanf(text, "%td,%td,%td,%c%c%n,%td%n", &p->m, &p->n, &p->k, &a, &b, &used, &p->batch, &used) < 5 || text[used]) return false;
    p->ta = a == 'T', p->tb = b == 'T';
    return p->m > 0 && p->n > 0 && p->k > 0 && p->batch >= 0 && (a == 'N' || a == 'T') && (b == 'N' || b == 'T');
}

static int parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = argv[i + 1];
        if (!strcmp(argv[i], "--help")) return printf("%s", help), -1;
        if (!strcmp(argv[i], "--no-libs")) { option.no_libs = true; continue; }
        bool device = !strcmp(argv[i], "--device"), shape = !strcmp(argv[i], "--shape"), threads = !strcmp(argv[i], "--threads"), rounds = !strcmp(argv[i], "--rounds");
        if (!strcmp(argv[i], "--precision") && value) {
            option.precision = argv[++i];
            continue;
        }
        if (!device && !shape && !threads && !rounds && strcmp(argv[i], "--seconds")) return refuse("there is no option", argv[i]);
        if (!value) return refuse("a value is missing after", argv[i]);
        i++;
        if (device) {
            option.device = value;
            option.threads = 1;
            continue;
        }
        if (shape) {
            if (!parse_shape(value, &option.shape)) return refuse("--shape wants M,N,K,NT or M,N,K,NT,BATCH, not", value);
            option.one = true;
            continue;
        }
        char *end;
        double number = strtod(value, &end);
        if (threads) option.threads = (int)number;
        else if (rounds) option.rounds = (int)number;
        else option.seconds = number;
        if (*end || !(number >= (threads || rounds ? 1 : 1e-6)) || number > (threads ? 64 : rounds ? MOST_ROUNDS : 10))
            return refuse(threads ? "--threads wants 1 to 64, not" : rounds ? "--rounds wants 1 to 99, not" : "--seconds wants 0.000001 to 10, not", value);
    }
    return 0;
}

int main(int argc, char **argv)
{
    static side s[SIDES] = { { .name = "dltrain", .run = run_dltrain, .present = true },
                             { .name = "OpenBLAS", .run = run_openblas },
                             { .name = "oneDNN sgemm", .run = run_onednn },
                             { .name = "oneDNN matmul", .run = run_matmul } };
    const char *simd;
    int status = parse(argc, argv);
    if (status) return status < 0 ? 0 : status;
    setvbuf(stdout, NULL, _IOLBF, 0);
    unsetenv("OPENBLAS_CORETYPE"); /* both can halve its speed */
    unsetenv("OPENBLAS_L2_SIZE");
    setenv("OPENBLAS_THREAD_TIMEOUT", "24", 0); /* its threads spin for 2^28 ticks after a call, 0.1 s; so for less than `settling` */
    peak_widest(&simd);
    if (!option.device) printf("peak: %s, %.1f GFLOP/s on one thread, %.1f on two\n", simd, peak_measure(1, 0.2), peak_measure(2, 0.2));
    if (!option.no_libs && !option.device) {
        s[OPENBLAS].present = load_openblas();
        s[ONEDNN].present = load_onednn();
        s[MATMUL].present = onednn_has_matmul;
        if (!s[OPENBLAS].present || !s[ONEDNN].present) printf("not installed:%s%s (tools/setup.sh bench)\n", s[OPENBLAS].present ? "" : " OpenBLAS", s[ONEDNN].present ? "" : " oneDNN");
    }
    bool good = option.device || overhead();
    for (int t = option.threads ? option.threads : 1; t <= (option.threads ? option.threads : 2); t++)
        good = table(s, t, option.one ? &option.shape : products, option.one ? 1 : (int)(sizeof products / sizeof *products)) && good;
    return !good;
}
