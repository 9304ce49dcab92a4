/* Run by tests/check_cuda.sh: what a context on cuda:0 computes, against the CPU, bit for bit.
       cuda_check NAME [PART...]     NAME: what the device must be called, or *; parts: reading inputs random large wide
       tensor tensor-nets cublas sums attention nccl (if named) optimizers snapshots errors nets worlds graphs ops subsets, and, if
       named, apart: ops without fusion; tensor, tensor-nets and cublas only come near the CPU's bits */
#define OPS_FLOAT
#define main ops_main
#include "test_ops.c"
#undef main
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain_cuda.h"
#include "nets.h"
#include "loopback.h"

static dl_context *cpu, *gpu;

static dl_context *open_on(const char *device)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.seed = 1;
    c.threads = 1;
    c.device = device;
    return dl_create(&c);
}

/* A file of this process: several may run at a time. */
static const char *own_file(const char *name)
{
    static char path[80];
    snprintf(path, sizeof path, "build/cuda/%s.%ld.safetensors", name, (long)getpid());
    return path;
}

/* The first of n numbers that differ, NaNs being equal; -1: none. Zeros have signs. */
static int first_difference(const double *a, const double *b, int n)
{
    for (int i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) && !(isnan(a[i]) && isnan(b[i]))) return i;
    return -1;
}

static const char *same_values(const test_case *t, case_data *d)
{
    static double want[MAX_NUMEL], got[MAX_NUMEL];
    int n = gc_forward(cpu, t, d, 0, want), m = gc_forward(gpu, t, d, 0, got);
    if (n < 0) return gc_fail("on the CPU: %s", dl_error(cpu));
    if (m < 0) return gc_fail("%s", dl_error(gpu));
    int at = n == m ? first_difference(want, got, n) : 0;
    return at < 0 ? NULL : gc_fail("value %d: %.9g, on the CPU %.9g", at, got[at], want[at]);
}

static const char *same_gradients(const test_case *t, case_data *d, unsigned variable, unsigned asked, unsigned shared)
{
    static double want[MAX_IN][MAX_NUMEL], got[MAX_IN][MAX_NUMEL];
    if (!gc_gradient(cpu, t, d, variable, asked, shared, want)) return gc_fail("on the CPU: %s", dl_error(cpu));
    if (!gc_gradient(gpu, t, d, variable, asked, shared, got)) return gc_fail("gradient: %s", dl_error(gpu));
    for (int i = 0; i < d->n; i++) {
        int at = asked >> i & 1 ? first_difference(want[i], got[i], d->in[i].numel) : -1;
        if (at >= 0) return gc_fail("gradient of input %d (wanted %x) at %d: %.9g, on the CPU %.9g", i, asked, at, got[i][at], want[i][at]);
    }
    return NULL;
}

/* The gradient of the gradient's sum of squares, with respect to all inputs. */
static bool second(dl_context *c, const test_case *t, const case_data *d, double (*out)[MAX_NUMEL])
{
    dl_tensor x[MAX_IN], dx[MAX_IN], ddx[MAX_IN], sum = none;
    gc_tensors(c, d, ~0u, 0, x);
    dl_tensor y = t->build(c, x), s = dl_sum(dl_mul(y, gc_constant(c, t, dl_shape_of(y), WEIGHTS)));
    bool ok = dl_ok(y) && dl_grad(s, x, d->n, dx);
    for (int i = 0; ok && i < d->n; i++) sum = i ? dl_add(sum, dl_sum(dl_square(dx[i]))) : dl_sum(dl_square(dx[i]));
    ok = ok && dl_grad(sum, x, d->n, ddx);
    for (int i = 0; ok && i < d->n; i++) ok = gc_read(ddx[i], out[i]) >= 0;
    dl_end(c);
    return ok;
}

static const char *same_second(const test_case *t, case_data *d)
{
    static double want[MAX_IN][MAX_NUMEL], got[MAX_IN][MAX_NUMEL];
    if (!second(cpu, t, d, want)) return gc_fail("second derivative on the CPU: %s", dl_error(cpu));
    if (!second(gpu, t, d, got)) return gc_fail("second derivative: %s", dl_error(gpu));
    for (int i = 0; i < d->n; i++) {
        int at = first_difference(want[i], got[i], d->in[i].numel);
        if (at >= 0) return gc_fail("second derivative of input %d at %d: %.9g, on the CPU %.9g", i, at, got[i][at], want[i][at]);
    }
    return NULL;
}

/* A case of the table: its values, first and second derivatives; or each subset of the first. */
static void compare_case(const test_case *t, bool subsets)
{
    static case_data d;
    gc_data(t, &d);
    unsigned all = (1u << d.n) - 1;
    const char *bad = same_values(t, &d);
    for (unsigned asked = subsets ? 1 : all; !bad && t->kind != VALUE && asked <= all && all; asked++) bad = same_gradients(t, &d, asked, asked, 0);
    if (!bad && !subsets && t->kind == FULL && d.n) bad = same_second(t, &d);
    char name[128];
    snprintf(name, sizeof name, "%s%s", t->name, subsets ? ", wanted subsets" : "");
    verdict(name, bad);
    dl_clear_error(cpu);
    dl_clear_error(gpu);
}

static void net_alike(int i)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.seed = 7;
    c.threads = 1;
    uint64_t want = net_train(&nets[i], &c, 3, false);
    c.device = "cuda:0";
    uint64_t got = net_train(&nets[i], &c, 3, false);
    CHECK(got == want, "%s: the weights hash to %016llx, on the CPU to %016llx", nets[i].name, (unsigned long long)got, (unsigned long long)want);
}
static void mlp(void) { net_alike(0); }
static void cnn(void) { net_alike(1); }
static void resnet(void) { net_alike(2); }
static void gpt(void) { net_alike(3); }

/* ---- optimizers, clipping, groups, a checkpoint in between ---- */
enum { RULES = 9 };
static dl_optimizer *rule(dl_context *c, int k)
{
    switch (k) {
    case 0: return dl_sgd(c, &(dl_sgd_desc){ .lr = 0.1f });
    case 1: return dl_sgd(c, &(dl_sgd_desc){ .lr = 0.1f, .momentum = 0.9f, .dampening = 0.5f, .weight_decay = 0.01f });
    case 2: return dl_sgd(c, &(dl_sgd_desc){ .lr = 0.1f, .momentum = 0.9f, .weight_decay = 0.01f, .nesterov = true });
    case 3: return dl_adam(c, NULL);
    case 4: return dl_adam(c, &(dl_adam_desc){ .lr = 0.01f, .weight_decay = 0.1f });
    case 5: return dl_adamw(c, &(dl_adam_desc){ .lr = 0.01f });
    case 6: return dl_rmsprop(c, NULL);
    case 7: return dl_rmsprop(c, &(dl_rmsprop_desc){ .lr = 0.01f, .momentum = 0.9f, .weight_decay = 0.1f });
    default: return dl_rmsprop(c, &(dl_rmsprop_desc){ .lr = 0.01f, .momentum = 0.9f, .centered = true });
    }
}

static void take_steps(dl_context *c, int k, dl_real *out)
{
    float x[12], y[9];
    dl_optimizer *o = rule(c, k);
    dl_optimizer_group(o, "*.bias", &(dl_group_desc){ .lr_scale = 0.5f, .no_weight_decay = true });
    for (int step = 0; step < 4; step++) {
        for (int i = 0; i < 12; i++) x[i] = (float)((i * 7 + step * 5) % 11) / 4 - 1;
        for (int i = 0; i < 9; i++) y[i] = (float)((i * 5 + step) % 7) / 4;
        dl_tensor in = dl_input(c, DL_F32, DL_SHAPE(3, 4), x), to = dl_input(c, DL_F32, DL_SHAPE(3, 3), y);
        dl_backward(dl_mse(dl_linear(in, "fc", 3), to, DL_MEAN));
        if (step == 1) dl_clip_grad_norm(c, 0.125, NULL);
        if (step == 2) dl_clip_grad_value(c, 0.0625, "*weight");
        if (step == 3) dl_scale_grad(c, 0.5);
        dl_step(o);
        if (step == 2) dl_save(c, own_file("half")), dl_load(c, own_file("half"));
    }
    remove(own_file("half"));
    dl_param_info p;
    if (dl_param_find(c, "fc.weight", &p)) memcpy(out, p.value, 12 * sizeof *out);
    if (dl_param_find(c, "fc.bias", &p)) memcpy(out + 12, p.value, 3 * sizeof *out);
}

static void optimizers(void)
{
    for (int k = 0; k < RULES; k++) {
        dl_real want[15] = { 0 }, got[15] = { 0 };
        dl_context *a = open_on(NULL), *b = open_on("cuda:0");
        take_steps(a, k, want);
        take_steps(b, k, got);
        CHECK(!dl_failed(a) && !dl_failed(b), "rule %d: %s%s", k, dl_error(a), dl_error(b));
        for (int i = 0; i < 15; i++) CHECK(!memcmp(&want[i], &got[i], sizeof *want), "rule %d, %d: %.9g, on the CPU %.9g", k, i, (double)got[i], (double)want[i]);
        dl_destroy(a);
        dl_destroy(b);
    }
}

/* A snapshot of a run on the GPU, gone on with there and on the CPU. */
static void some_steps(dl_context *c, dl_optimizer *o, int from, int to)
{
    for (int step = from; step < to; step++) {
        float x[12];
        for (int i = 0; i < 12; i++) x[i] = (float)((i * 7 + step * 5) % 11) / 4 - 1;
        dl_backward(dl_mean(dl_square(dl_dropout(dl_linear(dl_input(c, DL_F32, DL_SHAPE(3, 4), x), "fc", 3), 0.25f))));
        dl_step(o);
    }
}
static void snapshots(void)
{
    const char *path = own_file("run");
    dl_real w[2][12];
    for (int on = 0; on < 2; on++) {
        dl_context *c = open_on(on ? NULL : "cuda:0");
        dl_optimizer *o = dl_adam(c, NULL);
        dl_snapshot_desc run;
        dl_param_info p;
        memset(&run, 0, sizeof run);
        run.optimizer[0] = o;
        if (!on) some_steps(c, o, 0, 2), dl_snapshot_save(c, path, &run);
        else dl_snapshot_load(c, path, &run);
        some_steps(c, o, 2, 4);
        if (dl_param_find(c, "fc.weight", &p)) memcpy(w[on], p.value, sizeof w[on]);
        CHECK(!dl_failed(c), "%s", dl_error(c));
        dl_destroy(c);
    }
    remove(path);
    CHECK(!memcmp(w[0], w[1], sizeof w[0]), "the weights differ: %.9g, on the CPU %.9g", (double)w[0][0], (double)w[1][0]);
}

/* Values in mid-step, of leaves and parameters, written through dl_param_get. */
static void reading(void)
{
    static const float x[3] = { 1, 2, 3 };
    dl_context *c = open_on("cuda:0");
    dl_tensor t = dl_input(c, DL_F32, DL_SHAPE(3), x), y = dl_mul_scalar(t, 2), w;
    float got[3] = { 0 };
    CHECK(dl_read(t, got, 3) && got[2] == 3, "the input reads %g: %s", (double)got[2], dl_error(c));
    CHECK(dl_read(y, got, 3) && got[2] == 6, "the value reads %g: %s", (double)got[2], dl_error(c));
    CHECK(dl_item(dl_sum(dl_add(y, t))) == 18, "the sum is wrong: %s", dl_error(c));
    dl_end(c);
    w = dl_parameter(c, "w", &(dl_param_desc){ .shape = DL_SHAPE(3), .init = DL_INIT_CONSTANT, .value = 5 });
    CHECK(dl_item(dl_sum(w)) == 15, "the parameter sums to something else: %s", dl_error(c));
    dl_param_info p;
    bool found = dl_param_find(c, "w", &p);
    CHECK(found, "%s", dl_error(c));
    if (found) p.value[1] = 7;
    dl_end(c);
    w = dl_parameter(c, "w", &(dl_param_desc){ .shape = DL_SHAPE(3), .init = DL_INIT_CONSTANT, .value = 5 });
    CHECK(dl_item(dl_sum(w)) == 17, "what was written is not seen: %s", dl_error(c));
    dl_destroy(c);
}

/* What is larger than a slice and, there and back, than the pinned memory that slices take in turn */
static void slices(void)
{
    enum { N = 2500000 };
    static float x[N], got[N];
    for (int i = 0; i < N; i++) x[i] = (float)i, got[i] = 0;
    dl_context *c = open_on("cuda:0");
    dl_tensor y = dl_neg(dl_borrow(c, DL_F32, DL_SHAPE(N), x));
    CHECK(dl_read(y, got, N), "%s", dl_error(c));
    for (int i = 0; i < N; i++) CHECK(got[i] == -(float)i, "number %d is %g", i, (double)got[i]);
    dl_destroy(c);
}

/* Batches that come while steps run, and results that are read while the update does: see the trace in check_cuda.sh. */
static void inputs(void)
{
    dl_real want[15], got[15];
    double loss[2][2] = { { 0 } };
    for (int on = 0; on < 2; on++) {
        dl_context *c = open_on(on ? "cuda:0" : NULL);
        dl_optimizer *o = dl_adam(c, NULL);
        for (int step = 0; step < 12; step++) {
            float x[8 * 4];
            for (int i = 0; i < 8 * 4; i++) x[i] = (float)((i * 7 + step * 5) % 11) / 4 - 1;
            dl_index n = step < 10 ? 8 : 2 + step % 2;
            dl_tensor y = dl_mean(dl_square(dl_relu(dl_linear(dl_input(c, DL_F32, DL_SHAPE(n, 4), x), "fc", 3))));
            dl_backward(y);
            dl_step(o);
            if (step > 9) loss[on][step - 10] = dl_item(y);
        }
        dl_param_info p[2];
        CHECK(dl_param_find(c, "fc.weight", &p[0]) && dl_param_find(c, "fc.bias", &p[1]), "%s", dl_error(c));
        if (dl_failed(c)) return;
        memcpy(on ? got : want, p[0].value, 12 * sizeof *want);
        memcpy((on ? got : want) + 12, p[1].value, 3 * sizeof *want);
        dl_destroy(c);
    }
    CHECK(!memcmp(want, got, sizeof want), "other parameters than on the CPU");
    CHECK(!memcmp(loss[0], loss[1], sizeof *loss), "losses %.9g %.9g, on the CPU %.9g %.9g", loss[1][0], loss[1][1], loss[0][0], loss[0][1]);
}

/* dropout, dl_rand and dl_randn */
static void random_numbers(void)
{
    static float want[1001], got[1001];
    for (int k = 0; k < 3; k++) {
        for (int on = 0; on < 2; on++) {
            dl_context *c = open_on(on ? "cuda:0" : NULL);
            dl_tensor y = k == 0 ? dl_rand(c, DL_SHAPE(1001)) : k == 1 ? dl_randn(c, DL_SHAPE(1001)) : dl_dropout(dl_full(c, DL_SHAPE(1001), 3), 0.3f);
            CHECK(dl_read(y, on ? got : want, 1001), "%s", dl_error(c));
            dl_destroy(c);
        }
        CHECK(!memcmp(want, got, sizeof want), "stream %d differs", k);
    }
}

/* Sums that are long enough for two levels of chunks, and products of more than one block and tile. */
static void large(void)
{
    enum { N = 4096 * 5 + 77, K = 1300 };
    static float x[N], want[3], got[3];
    for (int i = 0; i < N; i++) x[i] = (float)((i * 2654435761u) >> 20) / 1024 - 2;
    for (int on = 0; on < 2; on++) {
        dl_context *c = open_on(on ? "cuda:0" : NULL);
        float *out = on ? got : want;
        dl_tensor v = dl_input(c, DL_F32, DL_SHAPE(N), x), a = dl_input(c, DL_F32, DL_SHAPE(7, K), x), b = dl_input(c, DL_F32, DL_SHAPE(K, 5), x);
        dl_tensor p = dl_input(c, DL_F32, DL_SHAPE(70, 130), x), q = dl_input(c, DL_F32, DL_SHAPE(130, 67), x);
        out[0] = (float)dl_item(dl_sum(v));
        out[1] = (float)dl_item(dl_sum(dl_square(dl_matmul(a, b))));
        out[2] = (float)dl_item(dl_sum(dl_square(dl_matmul(p, q))));
        CHECK(!dl_failed(c), "%s", dl_error(c));
        dl_destroy(c);
    }
    for (int i = 0; i < 3; i++) CHECK(!memcmp(&want[i], &got[i], sizeof *want), "%d: %.9g, on the CPU %.9g", i, (double)got[i], (double)want[i]);
}

/* Products that are large enough for tiles of 128: aligned and not, each way that operands can lie, one block of k and more, with a bias
   and added to a gradient. */
static uint64_t hash_of(dl_context *c, dl_tensor t)
{
    uint64_t h = 14695981039346656037u;
    const unsigned char *p = (const unsigned char *)dl_data(t);
    for (size_t i = 0; p && i < dl_numel(t) * sizeof(float); i++) h = (h ^ p[i]) * 1099511628211u;
    return dl_failed(c) ? 0 : h;
}
static void wide(void)
{
    static const int sizes[][4] = { { 16, 132, 260, 12 }, { 18, 130, 131, 9 }, { 16, 129, 256, 268 } };
    static float x[16 * 260 * 270];
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = (float)((i * 2654435761u) >> 20 & 4095) / 1024 - 2;
    for (int s = 0; s < 3; s++)
        for (int way = 0; way < 4; way++) {
            uint64_t h[2];
            for (int on = 0; on < 2; on++) {
                dl_context *c = open_on(on ? "cuda:0" : NULL);
                dl_index b = sizes[s][0], m = sizes[s][1], n = sizes[s][2], k = sizes[s][3];
                dl_tensor p = dl_borrow(c, DL_F32, way & 2 ? DL_SHAPE(b, k, m) : DL_SHAPE(b, m, k), x);
                dl_tensor q = dl_borrow(c, DL_F32, way & 1 ? DL_SHAPE(b, n, k) : DL_SHAPE(b, k, n), x + 4);
                h[on] = hash_of(c, dl_matmul_ex(p, q, &(dl_matmul_desc){ .transpose_a = way & 2, .transpose_b = way & 1 }));
                CHECK(!dl_failed(c), "%s", dl_error(c));
                dl_destroy(c);
            }
            CHECK(h[0] == h[1], "sizes %d, way %d", s, way);
        }
}
static void wide_layer(void)
{
    enum { M = 1030, IN = 20, OUT = 1026 };
    static float x[M * IN];
    uint64_t h[2][3];
    double norm[2];
    for (int i = 0; i < M * IN; i++) x[i] = (float)(i * 37 % 101) / 50 - 1;
    for (int on = 0; on < 2; on++) {
        dl_context *c = open_on(on ? "cuda:0" : NULL);
        dl_tensor y = none;
        for (int i = 0; i < 2; i++) { /* the second gradient is added to the first */
            y = dl_keep(dl_relu(dl_linear(dl_borrow(c, DL_F32, DL_SHAPE(M, IN), x), "fc", OUT)));
            dl_backward(dl_mean(dl_square(y)));
        }
        dl_param_info p;
        h[on][0] = hash_of(c, y);
        dl_clip_grad_norm(c, 1e-4, NULL); /* of several chunks */
        norm[on] = dl_grad_norm(c);
        h[on][1] = h[on][2] = 14695981039346656037u;
        for (int k = 0; k < 2; k++)
            if (dl_param_get(c, k, &p))
                for (size_t i = 0; i < p.numel * sizeof(float); i++) h[on][1 + k] = (h[on][1 + k] ^ ((const unsigned char *)p.grad)[i]) * 1099511628211u;
        CHECK(!dl_failed(c), "%s", dl_error(c));
        dl_destroy(c);
    }
    for (int k = 0; k < 3; k++) CHECK(h[0][k] == h[1][k], "%d differs", k);
    CHECK(norm[0] == norm[1] && norm[0] > 1e-4, "the norm of the gradients is %.17g, on the CPU %.17g", norm[1], norm[0]);
}

/* Sums down many rows, and normalisation by groups of several chunks and in long columns, with all gradients */
static dl_tensor summed(int which, const dl_tensor *in)
{
    if (which < 2) return dl_sum_dims(in[0], &(int){ which }, 1, false);
    return which < 4 ? dl_batch_norm_op(in[0], in[1], in[2], none, none, 0, 1e-5f) : dl_layer_norm_op(in[0], in[1], in[2], 1e-5f);
}
static void sums(void)
{
    static const dl_index sizes[][4] = { { 2100, 11 }, { 3, 1500, 7 }, { 7, 3, 30, 23 }, { 4200, 2 }, { 1100, 9 }, { 2, 5000 } }, wide[] = { 1, 1, 3, 2, 9, 5000 };
    static float x[3 * 1500 * 7];
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = (float)((i * 2654435761u) >> 20 & 4095) / 1024 - 2;
    for (int which = 0; which < 6; which++) {
        uint64_t h[2][4] = { { 0 } };
        int n = which < 2 ? 1 : 3;
        for (int on = 0; on < 2; on++) {
            dl_context *c = open_on(on ? "cuda:0" : NULL);
            dl_shape shape = { .ndim = 0 };
            while (shape.ndim < 4 && sizes[which][shape.ndim]) shape.dim[shape.ndim] = sizes[which][shape.ndim], shape.ndim++;
            dl_tensor in[3] = { dl_variable(c, shape, x), dl_variable(c, DL_SHAPE(wide[which]), x + 5), dl_variable(c, DL_SHAPE(wide[which]), x + 9) }, d[3];
            dl_tensor y = dl_keep(summed(which, in));
            dl_grad(dl_sum(dl_mul(dl_square(y), y)), in, n, d);
            h[on][3] = hash_of(c, y);
            for (int k = 0; k < n; k++) h[on][k] = hash_of(c, d[k]);
            CHECK(!dl_failed(c), "%s", dl_error(c));
            dl_destroy(c);
        }
        for (int k = 0; k < 4; k++) CHECK(h[0][k] == h[1][k], "case %d: number %d differs", which, k);
    }
}

/* Gradients of looks by index: of more than one ballot of 32 and strip of 128, and of more looks than scatter_add takes number by number */
static void indices(void)
{
    enum { ROWS = 6, PICKS = 75, INNER = 133 };
    static float x[PICKS * INNER];
    static int32_t index[PICKS * INNER];
    for (int i = 0; i < PICKS * INNER; i++) x[i] = (float)(i * 37 % 101) / 50 - 1, index[i] = i * 7 % 11 % ROWS;
    for (int which = 0; which < 2; which++) {
        uint64_t h[2];
        for (int on = 0; on < 2; on++) {
            dl_context *c = open_on(on ? "cuda:0" : NULL);
            dl_tensor in = dl_variable(c, DL_SHAPE(ROWS, INNER), x), dx;
            dl_tensor y = which ? dl_gather(in, 0, dl_borrow(c, DL_I32, DL_SHAPE(PICKS, INNER), index)) : dl_index_select(in, 0, dl_borrow(c, DL_I32, DL_SHAPE(PICKS), index));
            dl_grad(dl_sum(dl_mul(y, dl_borrow(c, DL_F32, DL_SHAPE(PICKS, INNER), x))), &in, 1, &dx);
            h[on] = hash_of(c, dx);
            CHECK(!dl_failed(c), "%s", dl_error(c));
            dl_destroy(c);
        }
        CHECK(h[0] == h[1], "the gradient of %s differs", which ? "gather" : "index_select");
    }
}

/* Attention of several tiles of queries, of keys and of columns, of more than one block of 256 and one chunk of 4096: values and gradients */
static void attention(void)
{
    static const struct { dl_index batch, l, s, e, f; bool causal; } sizes[] = { { 2, 70, 75, 5, 67, true }, { 1, 270, 200, 17, 3, false },
        { 1, 140, 300, 66, 2, true }, { 1, 300, 300, 3, 2, true }, { 1, 3, 4200, 3, 2, false } };
    static float x[3][4200 * 3 + 140 * 66 + 300 * 66];
    for (int k = 0; k < 3; k++)
        for (size_t i = 0; i < sizeof x[k] / sizeof **x; i++) x[k][i] = (float)((i * 2654435761u + (size_t)k) >> 20 & 4095) / 1024 - 2;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t h[2][4];
        dl_index b = sizes[i].batch, l = sizes[i].l, s = sizes[i].s, e = sizes[i].e, f = sizes[i].f;
        for (int on = 0; on < 2; on++) {
            dl_context *c = open_on(on ? "cuda:0" : NULL);
            dl_tensor in[3] = { dl_variable(c, DL_SHAPE(b, l, e), x[0]), dl_variable(c, DL_SHAPE(b, s, e), x[1]), dl_variable(c, DL_SHAPE(b, s, f), x[2]) }, d[3];
            dl_tensor y = dl_keep(dl_scaled_dot_product_attention(in[0], in[1], in[2], &(dl_attention_desc){ .causal = sizes[i].causal }));
            dl_grad(dl_sum(dl_square(y)), in, 3, d);
            h[on][0] = hash_of(c, y);
            for (int k = 0; k < 3; k++) h[on][1 + k] = hash_of(c, d[k]);
            CHECK(!dl_failed(c), "%s", dl_error(c));
            dl_destroy(c);
        }
        for (int k = 0; k < 4; k++) CHECK(h[0][k] == h[1][k], "sizes %d: the %s", (int)i, k ? k == 1 ? "gradient of q" : k == 2 ? "gradient of k" : "gradient of v" : "values");
    }
}

/* Its inputs are parts and transpositions of one tensor, which are read where they lie, unless they are wanted, and so is the mask */
static dl_tensor heads(dl_tensor x, dl_index part, dl_index step)
{
    dl_tensor t = dl_slice(x, 2, part * 20, part * 20 + 20 * step, step);
    return dl_permute(dl_reshape(t, DL_SHAPE(2, 70, 4, 5)), (int[]){ 0, 2, 1, 3 });
}
static void views(void)
{
    static float x[2 * 70 * 100], mask[80 * 80];
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = (float)((i * 2654435761u) >> 20 & 4095) / 1024 - 2;
    for (int i = 0; i < 80 * 80; i++) mask[i] = i % 7 ? (float)(i % 5) / 4 : -3;
    for (int which = 0; which < 6; which++) {
        uint64_t h[2][3];
        for (int on = 0; on < 2; on++) {
            dl_context *c = dl_create(&(dl_config){ .seed = 1, .threads = 1, .device = on ? "cuda:0" : NULL, .eager = which == 5 });
            dl_parameter(c, "x", &(dl_param_desc){ .shape = DL_SHAPE(2, 70, 100) });
            dl_param_set(c, "x", x, sizeof x / sizeof *x);
            dl_tensor in = dl_parameter(c, "x", &(dl_param_desc){ .shape = DL_SHAPE(2, 70, 100) }), m = dl_borrow(c, DL_F32, DL_SHAPE(80, 80), mask);
            dl_tensor q = heads(in, 0, 1), k = heads(in, 1, 1), v = heads(in, 2, which == 1 ? 2 : 1);
            if (which == 2) dl_keep(q), v = dl_keep(dl_mul_scalar(v, 2));
            if (which == 4) q = dl_permute(q, (int[]){ 0, 1, 3, 2 }), q = dl_permute(q, (int[]){ 0, 1, 3, 2 });
            dl_attention_desc a = { .causal = which == 0, .mask = dl_slice(dl_permute(dl_slice(m, 0, 3, 73, 1), (int[]){ 1, 0 }), 0, 5, 75, 1) };
            if (!which) a.mask = none;
            dl_tensor y = dl_permute(dl_scaled_dot_product_attention(q, k, v, &a), (int[]){ 0, 2, 1, 3 });
            if (which != 3) dl_keep(y);
            dl_backward(dl_sum(dl_mul(dl_square(y), dl_square(which == 3 ? y : dl_permute(k, (int[]){ 0, 2, 1, 3 })))));
            dl_param_info p;
            h[on][0] = dl_param_find(c, "x", &p) ? 14695981039346656037u : 0;
            for (size_t i = 0; h[on][0] && i < sizeof x; i++) h[on][0] = (h[on][0] ^ ((const unsigned char *)p.grad)[i]) * 1099511628211u;
            h[on][1] = which == 3 ? 0 : hash_of(c, y);
            h[on][2] = which == 2 ? hash_of(c, q) : 0;
            CHECK(!dl_failed(c), "case %d: %s", which, dl_error(c));
            dl_destroy(c);
        }
        for (int k = 0; k < 3; k++) CHECK(h[0][k] == h[1][k], "case %d: %s", which, !k ? "the gradient" : k == 1 ? "values" : "what was kept of q");
    }
}

/* ---- dl_config.matmul_precision: products and their gradients on tensor cores. What is wanted is exact but for the order of sums: the CPU's
   result of operands that were rounded beforehand, within 1e-5 of the same sums of absolute values ---- */
static bool tensors; /* has this GPU tensor cores for it? */
typedef enum operand_kind { AS_IS, ROUNDED, ABSOLUTE } operand_kind;
static float round_to(const char *precision, float v) /* "highest": as it is */
{
    uint32_t u;
    if (*precision == 'h') return v;
    memcpy(&u, &v, sizeof u);
    if (*precision == 't') u = (u + 0x1000) & ~0x1fffu;       /* 10 bits of mantissa, ties away from zero */
    else u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;      /* 7 bits, ties to even */
    memcpy(&v, &u, sizeof v);
    return v;
}

typedef struct product {
    const char *name;
    dl_index a[4], b[4];                 /* sizes, as far as they are not 0 */
    dl_tensor (*build)(dl_tensor a, dl_tensor b);
} product;
#define PRODUCT(name, expression) static dl_tensor name(dl_tensor a, dl_tensor b) { return expression; }
PRODUCT(product_nn, dl_matmul(a, b))
PRODUCT(product_nt, dl_matmul_ex(a, b, MATMUL(.transpose_b = true)))
PRODUCT(product_tn, dl_matmul_ex(a, b, MATMUL(.transpose_a = true)))
PRODUCT(product_tt, dl_matmul_ex(a, b, MATMUL(.transpose_a = true, .transpose_b = true)))
PRODUCT(conv_plain, dl_conv2d_op(a, b, NULL))
PRODUCT(conv_padded, dl_conv2d_op(a, b, CONV(.padding = 1)))
PRODUCT(conv_strided, dl_conv2d_op(a, b, CONV(.stride = 2, .padding = 1)))
PRODUCT(conv_uneven, dl_conv2d_op(a, b, CONV(.stride = 3, .stride_w = 2, .padding = 2, .padding_w = 1, .dilation_w = 2, .groups = 2)))
PRODUCT(conv_transposed, dl_conv_transpose2d_op(a, b, CONV(.stride = 2, .padding = 1)))
static const product tensor_products[] = {
    { "1 x 1 x 1", { 1, 1 }, { 1, 1 }, product_nn },
    { "3 x 7 x 5", { 3, 5 }, { 5, 7 }, product_nn },
    { "65 x 67 x 33", { 65, 33 }, { 33, 67 }, product_nn },
    { "70 x 66 x 36, aligned", { 70, 36 }, { 66, 36 }, product_nt },
    { "66 x 9 x 140, a transposed", { 140, 66 }, { 140, 9 }, product_tn },
    { "5 x 68 x 20, both transposed", { 20, 5 }, { 68, 20 }, product_tt },
    { "9 x 10 x 1037, cut by k", { 9, 1037 }, { 1037, 10 }, product_nn },
    { "of batches, broadcast", { 3, 1, 6, 20 }, { 2, 20, 5 }, product_nn },
    { "large", { 16, 132, 20 }, { 16, 20, 130 }, product_nn },
    { "large, transposed", { 64, 18, 65 }, { 64, 66, 18 }, product_tt },
    { "conv", { 2, 3, 9, 10 }, { 5, 3, 3, 2 }, conv_plain },
    { "conv, padded", { 3, 17, 7, 5 }, { 66, 17, 3, 3 }, conv_padded },
    { "conv, of stride 2", { 2, 19, 9, 8 }, { 7, 19, 3, 3 }, conv_strided },
    { "conv, uneven", { 2, 6, 11, 9 }, { 4, 3, 3, 2 }, conv_uneven },
    { "conv, transposed", { 2, 5, 6, 7 }, { 5, 18, 3, 3 }, conv_transposed },
};

enum { MOST = 300000 }; /* numbers of a tensor */
typedef struct results { float *value[3]; size_t n[3]; bool ok; } results; /* y and the gradients of sum(y w) */

static dl_context *open_with(const char *device, const char *precision, const char *blas)
{
    dl_config c = { .seed = 1, .threads = 1, .device = device, .matmul_precision = precision, .blas = blas };
    return dl_create(&c);
}
static const float *operand_numbers(size_t n, uint32_t seed, operand_kind kind, const char *precision)
{
    static float x[MOST];
    if (n > MOST) abort();
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)(seed >> 8) / 8388608 - 1;
        if (kind == ROUNDED) x[i] = round_to(precision, x[i]);
        if (kind == ABSOLUTE) x[i] = fabsf(x[i]);
    }
    return x;
}
static dl_shape shape_of(const dl_index *size)
{
    dl_shape s = DL_SCALAR;
    while (s.ndim < 4 && size[s.ndim]) s.dim[s.ndim] = size[s.ndim], s.ndim++;
    return s;
}
static size_t shape_numel(dl_shape s)
{
    size_t n = 1;
    for (int i = 0; i < s.ndim; i++) n *= (size_t)s.dim[i];
    return n;
}

static results product_run(const product *p, const char *device, const char *precision, const char *blas, operand_kind kind)
{
    results r = { .ok = false };
    dl_context *c = open_with(device, device ? precision : NULL, blas);
    dl_shape sa = shape_of(p->a), sb = shape_of(p->b);
    dl_tensor x[2], t[3];
    x[0] = dl_variable(c, sa, operand_numbers(shape_numel(sa), 1, kind, precision));
    x[1] = dl_variable(c, sb, operand_numbers(shape_numel(sb), 2, kind, precision));
    t[0] = p->build(x[0], x[1]);
    dl_shape sy = dl_shape_of(t[0]);
    dl_tensor w = dl_input(c, DL_F32, sy, operand_numbers(shape_numel(sy), 3, kind, precision));
    bool ok = dl_grad(dl_sum(dl_mul(t[0], w)), x, 2, t + 1);
    for (int i = 0; i < 3 && ok; i++) {
        r.n[i] = dl_numel(t[i]);
        r.value[i] = (float *)malloc(r.n[i] * sizeof(float));
        ok = dl_read(t[i], r.value[i], r.n[i]);
    }
    CHECK(ok, "%s, %s: %s", p->name, precision, dl_error(c));
    r.ok = ok;
    dl_destroy(c);
    return r;
}
static void results_free(results *r)
{
    for (int i = 0; i < 3; i++) free(r->value[i]);
}

/* The largest |got - want| / scale of result i; HUGE_VAL for one that is no number */
static double farthest(const results *got, const results *want, const results *scale, int i)
{
    double most = 0;
    for (size_t k = 0; k < got->n[i]; k++) {
        double d = fabs((double)got->value[i][k] - (double)want->value[i][k]);
        d = d == 0 ? 0 : d / (double)scale->value[i][k];
        most = d <= most ? most : d == d ? d : HUGE_VAL;
    }
    return most;
}
static void product_check(const product *p, const char *precision, const char *blas)
{
    static const char *const what[] = { "y", "the gradient of a", "the gradient of b" };
    double bound = *precision == 't' ? 2.01 * 0x1p-11 : *precision == 'b' ? 2.01 * 0x1p-8 : 1e-5; /* of two operands, relative */
    results got = product_run(p, "cuda:0", precision, blas, AS_IS), again = product_run(p, "cuda:0", precision, blas, AS_IS);
    results want = product_run(p, NULL, precision, NULL, ROUNDED), scale = product_run(p, NULL, precision, NULL, ABSOLUTE);
    results exact = product_run(p, NULL, precision, NULL, AS_IS);
    for (int i = 0; i < 3 && got.ok && again.ok && want.ok && scale.ok && exact.ok; i++) {
        double off = farthest(&got, &want, &scale, i), from_fp32 = farthest(&got, &exact, &scale, i);
        CHECK(off <= 1e-5, "%s, %s: %s is off by %.3g of what its products sum to", p->name, precision, what[i], off);
        CHECK(from_fp32 <= bound, "%s, %s: %s is %.3g from fp32; the bound is %.3g", p->name, precision, what[i], from_fp32, bound);
        CHECK(*precision == 'h' || from_fp32 > 2e-5, "%s, %s: %s is fp32", p->name, precision, what[i]);
        CHECK(!memcmp(got.value[i], again.value[i], got.n[i] * sizeof(float)), "%s, %s: %s has other bits the second time", p->name, precision, what[i]);
    }
    results_free(&got), results_free(&again), results_free(&want), results_free(&scale), results_free(&exact);
}
enum { PRODUCTS = sizeof tensor_products / sizeof *tensor_products };
static void tensor_tf32(void)
{
    for (int i = 0; i < PRODUCTS; i++) product_check(&tensor_products[i], "tf32", NULL);
}
static void tensor_bf16(void)
{
    for (int i = 0; i < PRODUCTS; i++) product_check(&tensor_products[i], "bf16", NULL);
}

/* Layers: with a bias, which is not rounded; gradients of two passes are added in fp32. The losses of training stay near those of fp32. */
static void layer_run(bool conv, const char *device, const char *precision, const char *blas, operand_kind kind, float *grad,
    float *y)
{
    dl_context *c = open_with(device, device ? precision : NULL, blas);
    const char *name = conv ? "conv.weight" : "fc.weight";
    for (int pass = -1; pass < 2; pass++) {
        dl_tensor x = dl_input(c, DL_F32, conv ? DL_SHAPE(2, 3, 5, 4) : DL_SHAPE(40, 3), operand_numbers(120, 1, kind, precision));
        dl_tensor t = conv ? dl_conv2d(x, "conv", CONV(.out_channels = 7, .kernel = 3, .padding = 1)) : dl_linear(x, "fc", 7);
        dl_tensor w = dl_input(c, DL_F32, dl_shape_of(t), operand_numbers(280, 3, kind, precision));
        dl_end(c);
        if (pass < 0) { /* parameters are there now */
            dl_param_set(c, name, operand_numbers(conv ? 189 : 21, 2, kind, precision), conv ? 189 : 21);
            dl_param_set(c, conv ? "conv.bias" : "fc.bias", operand_numbers(7, 4, kind == ABSOLUTE ? ABSOLUTE : AS_IS, precision), 7);
            continue;
        }
        x = dl_input(c, DL_F32, conv ? DL_SHAPE(2, 3, 5, 4) : DL_SHAPE(40, 3), operand_numbers(120, 1, kind, precision));
        t = dl_keep(conv ? dl_conv2d(x, "conv", CONV(.out_channels = 7, .kernel = 3, .padding = 1)) : dl_linear(x, "fc", 7));
        w = dl_input(c, DL_F32, dl_shape_of(t), operand_numbers(280, 3, kind, precision));
        dl_backward(dl_sum(dl_mul(t, w)));
        dl_read(t, y, 280);
    }
    dl_param_info p;
    if (dl_param_find(c, name, &p)) memcpy(grad, p.grad, p.numel * sizeof *grad);
    CHECK(!dl_failed(c), "%s: %s", precision, dl_error(c));
    dl_destroy(c);
}
static void layer_check(bool conv, const char *precision, const char *blas)
{
    static float got[2][280], want[2][280], scale[2][280];
    layer_run(conv, "cuda:0", precision, blas, AS_IS, got[0], got[1]);
    layer_run(conv, NULL, precision, NULL, ROUNDED, want[0], want[1]);
    layer_run(conv, NULL, precision, NULL, ABSOLUTE, scale[0], scale[1]);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < (i ? 280 : conv ? 189 : 21); j++)
            CHECK(fabs((double)got[i][j] - (double)want[i][j]) <= 1e-5 * (double)scale[i][j],
                "%s, %s, %s %d: %.9g instead of %.9g", precision, conv ? "conv" : "linear", i ? "y" : "gradient", j, (double)got[i][j], (double)want[i][j]);
}
static void tensor_layers(void)
{
    for (int k = 0; k < 4; k++) layer_check(k % 2, k / 2 ? "bf16" : "tf32", NULL);
}

static double last_loss(const net *n, const char *device, const char *precision, const char *blas)
{
    dl_context *c = open_with(device, precision, blas);
    dl_optimizer *o = n->optimizer(c);
    double loss = 0;
    for (int step = 0; step < 8; step++) {
        dl_tensor t = n->loss(c, step % 2);
        dl_backward(t);
        loss = dl_item(t);
        dl_step(o);
    }
    CHECK(!dl_failed(c), "%s, %s: %s", n->name, precision, dl_error(c));
    dl_destroy(c);
    return loss;
}
static void tensor_nets(void)
{
    for (int i = 2; i < 4; i++) { /* the residual network and the GPT */
        double want = last_loss(&nets[i], NULL, "highest", NULL);
        double first = last_loss(&nets[i], "cuda:0", "tf32", NULL), second = last_loss(&nets[i], "cuda:0", "bf16", NULL);
        CHECK(fabs(first - want) < 0.01 * want, "%s: the loss of tf32 is %.6g, that of fp32 %.6g", nets[i].name, first, want);
        CHECK(fabs(second - want) < 0.05 * want, "%s: the loss of bf16 is %.6g, that of fp32 %.6g", nets[i].name, second, want);
        CHECK(first != want && second != want && first != second, "%s: %.9g, %.9g and %.9g are not of three precisions", nets[i].name, want, first, second);
    }
}

/* dl_config.blas: matrix products by cuBLAS */
static void cublas(void)
{
    static const char *const precision[] = { "highest", "tf32", "bf16" };
    for (int k = 0; k < (tensors ? 3 : 1); k++) {
        for (int i = 0; i < PRODUCTS; i++)
            if (tensor_products[i].name[0] != 'c' && (k == 0 || tensor_products[i].name[0] != 'l')) /* no convolutions; large ones once */
                product_check(&tensor_products[i], precision[k], "cublas");
        layer_check(false, precision[k], "cublas");
    }
    /* and in graphs */
    double want = last_loss(&nets[3], NULL, "highest", NULL), got = last_loss(&nets[3], "cuda:0", "highest", "cublas");
    CHECK(fabs(got - want) < 1e-4 * want, "the loss is %.9g, without cuBLAS %.9g", got, want);
}

/* ---- several GPUs: a world of replicas, and dl_data_parallel, against the same on CPUs ---- */
enum { WORLD_STEPS = 12 }; /* each kind of step comes four times: the first two are launched, the others are graphs */
typedef enum world_kind { EVEN, UNEVEN, UNEQUAL, NO_SYNC, ABSENT, JOINS, SHARDS, WINDOWS, SYNC_NORM, EAGER, WORLDS } world_kind;
typedef struct world { world_kind kind; uint64_t hash[4]; size_t early[4]; char error[512]; } world; /* early: see worlds */

static dl_tensor world_net(dl_tensor x)
{
    x = dl_relu(dl_batch_norm(dl_conv2d(x, "conv", &(dl_conv2d_desc){ .out_channels = 3, .kernel = 3, .padding = 1 }), "bn", NULL));
    return dl_linear(dl_dropout(dl_flatten(x, 1), 0.25f), "fc", 5);
}
static dl_tensor world_input(dl_context *c, int step, int part, dl_index n, dl_tensor *target)
{
    float x[8 * 2 * 16];
    int32_t y[8];
    for (int i = 0; i < (int)n * 32; i++) x[i] = (float)((i * 37 + step * 11 + part * 53) % 101) / 50 - 1;
    for (int i = 0; i < (int)n; i++) y[i] = (i * 3 + step + part) % 5;
    *target = dl_input(c, DL_I32, DL_SHAPE(n), y);
    return dl_input(c, DL_F32, DL_SHAPE(n, 2, 4, 4), x);
}
static dl_tensor world_loss(dl_context *c, const world *w, int step, int part, dl_index n)
{
    dl_tensor y, x = world_input(c, step, part, n, &y);
    if (w->kind == SYNC_NORM) x = dl_batch_norm(x, "bn0", &(dl_norm_desc){ .sync = true });
    dl_tensor z = world_net(x), more = w->kind == ABSENT ? dl_linear(dl_flatten(x, 1), "more", 5) : z;
    return dl_cross_entropy(w->kind == ABSENT && step % 3 == part ? dl_add(z, more) : z, y);
}

static uint64_t hash_of_parameters(dl_context *c)
{
    uint64_t h = 14695981039346656037u;
    dl_param_info p;
    for (int i = 0; i < dl_param_count(c) && dl_param_get(c, i, &p); i++)
        for (size_t k = 0; k < p.numel * sizeof *p.value; k++) h = (h ^ ((const unsigned char *)p.value)[k]) * 1099511628211u;
    return h;
}

/* Running statistics, which batch_norm's kernels change: read afterwards, one buffer for both, read before */
static void statistics(void)
{
    static float x[3 * 4 * 10];
    for (int i = 0; i < 3 * 4 * 10; i++) x[i] = (float)(i * 37 % 101) / 50 - 1;
    for (int which = 0; which < 4; which++) {
        uint64_t h[2];
        for (int on = 0; on < 2; on++) {
            dl_context *c = open_on(on ? "cuda:0" : NULL);
            dl_optimizer *o = dl_sgd(c, &(dl_sgd_desc){ .lr = 0.1f });
            for (int step = 0; step < 4; step++) {
                dl_tensor in = dl_input(c, DL_F32, DL_SHAPE(3, 4, 10), x + step % 2), b[2];
                for (int k = 0; k < 2; k++)
                    b[k] = dl_parameter(c, k ? "var" : "mean", &(dl_param_desc){ .shape = DL_SHAPE(4), .init = DL_INIT_CONSTANT, .value = (float)(k + 1), .buffer = true });
                dl_tensor w = dl_parameter(c, "w", &(dl_param_desc){ .shape = DL_SHAPE(4) }), shown = dl_reshape(b[0], DL_SHAPE(4, 1));
                if (which == 3) in = dl_mul(in, shown);
                dl_tensor y = dl_batch_norm_op(in, w, none, b[0], which == 2 ? b[0] : b[1], 0.1f, 1e-5f);
                dl_backward(dl_sum(dl_square(which == 1 ? dl_add(y, shown) : y)));
                dl_step(o);
            }
            h[on] = hash_of_parameters(c);
            CHECK(!dl_failed(c), "case %d: %s", which, dl_error(c));
            dl_destroy(c);
        }
        CHECK(h[0] == h[1], "case %d: other statistics than on the CPU", which);
    }
}

static void world_steps(dl_context *c, dl_comm *comm, void *user)
{
    world *w = (world *)user;
    int rank = dl_comm_rank(comm), size = dl_comm_size(comm), micro = w->kind == NO_SYNC ? 3 : w->kind == SHARDS || w->kind == WINDOWS ? 4 / size : 1;
    dl_optimizer *o = dl_adam(c, &(dl_adam_desc){ .lr = 0.01f });
    dl_accumulator *acc = dl_accumulator_create(o, &(dl_accumulator_desc){ .steps = w->kind == UNEQUAL ? 2 : w->kind == WINDOWS ? 3 : 1, .clip_norm = 0.5f });
    bool more = true;
    for (int step = 0; step < WORLD_STEPS && !dl_failed(c); step++) {
        if (w->kind == UNEVEN || w->kind == UNEQUAL) {
            int n = (step + rank) % 3 ? 2 + 2 * rank : 0; /* and now and then none */
            dl_accumulate(acc, n ? world_loss(c, w, step, rank, n) : none, (size_t)n);
            continue;
        }
        if (w->kind == WINDOWS) { /* of three batches of four shards; now and then one is empty */
            for (int m = rank * micro; m < (rank + 1) * micro; m++) {
                int n = (step + m) % 5 ? 1 + (step * 3 + m) % 4 : 0;
                dl_accumulate(acc, n ? world_loss(c, w, step, m, n) : none, (size_t)n);
            }
            continue;
        }
        if (w->kind == JOINS && !(more = more && step < WORLD_STEPS - 4 * rank)) {
            if (!dl_join(c)) break;
        }
        for (int m = 0; more && m < micro; m++) {
            dl_no_sync(c, w->kind == NO_SYNC && m + 1 < micro);
            dl_backward(world_loss(c, w, step, rank * micro + m, 3));
        }
        dl_step(o);
    }
    if (w->kind == UNEQUAL || w->kind == WINDOWS) dl_accumulator_flush(acc);
    dl_parallel_stats stats;
    dl_comm_stats(comm, &stats);
    w->early[rank] = stats.reduce.bytes - stats.wait.bytes;
    w->hash[rank] = hash_of_parameters(c);
}

static bool launch_world(world *w, world_kind kind, const char *devices, const dl_transport *transport)
{
    memset(w, 0, sizeof *w);
    w->kind = kind;
    dl_launch_desc d = { .devices = devices, .config = &(dl_config){ .seed = 3, .threads = 1, .eager = kind == EAGER }, .deadline_seconds = 60,
        .first_bucket = 64, .bucket = 256, .invariant_shards = kind == SHARDS || kind == WINDOWS ? 4 : 0, .transport = transport, .error = w->error, .error_size = sizeof w->error };
    return dl_launch(&d, world_steps, w);
}
static world run_world(world_kind kind, const char *devices)
{
    world w;
    CHECK(launch_world(&w, kind, devices, NULL), "kind %d on %s: %s", kind, devices, w.error);
    return w;
}

/* Two processes of two replicas each */
typedef struct process { loop_end *end; int rank; world_kind kind; const char *devices; world w; bool ok; } process;
static void *process_main(void *argument)
{
    process *p = (process *)argument;
    p->ok = launch_world(&p->w, p->kind, p->devices, loop_transport(p->end, p->rank));
    return NULL;
}
static uint64_t run_processes(world_kind kind, const char *first, const char *second)
{
    loop l;
    loop_end end[2];
    process p[2] = { { .end = end, .rank = 0, .kind = kind, .devices = first }, { .end = end, .rank = 1, .kind = kind, .devices = second } };
    pthread_t thread;
    loop_open(&l, end, 2);
    pthread_create(&thread, NULL, process_main, &p[1]);
    process_main(&p[0]);
    pthread_join(thread, NULL);
    loop_close(&l);
    for (int k = 0; k < 2; k++) CHECK(p[k].ok, "process %d on %s: %s", k, p[k].devices, p[k].w.error);
    for (int r = 1; r < 4; r++) CHECK(p[r / 2].w.hash[r] == p[0].w.hash[0], "rank %d has other parameters than rank 0", r);
    return p[0].w.hash[0];
}

static bool several; /* GPUs; on a machine with one, all replicas share it */
static void worlds(void)
{
    static const char *const lists[2][3] = { { "cuda:0,cuda:0", "cpu,cuda:0", "cuda:0,cuda:0,cuda:0,cuda:0" },
        { "cuda:0,cuda:1", "cpu,cuda:1", "cuda:0,cuda:1,cuda:2,cuda:3" } };
    for (int kind = 0; kind < WORLDS && !test__.bad; kind++) {
        world want = run_world((world_kind)kind, "cpu,cpu");
        for (int k = 0; k < 2 && (k == 0 || kind == EVEN || kind == WINDOWS || kind == SYNC_NORM); k++) {
            world got = run_world((world_kind)kind, lists[several][k]);
            for (int r = 0; r < 2; r++) CHECK(got.hash[r] == want.hash[0], "kind %d on %s, rank %d: other parameters than on the CPU", kind, lists[several][k], r);
        }
        if (kind == SHARDS || kind == WINDOWS || kind == EVEN) {
            if (kind == EVEN) want = run_world(EVEN, "cpu,cpu,cpu,cpu");
            world got = run_world((world_kind)kind, lists[several][2]);
            for (int r = 0; r < 4; r++) CHECK(got.hash[r] == want.hash[0], "kind %d on %s, rank %d: other parameters than on the CPU", kind, lists[several][2], r);
            /* Whoever completes a bucket last begins with it at once, in mid-pass */
            CHECK(kind != EVEN || got.early[0] + got.early[1] + got.early[2] + got.early[3], "no sums begin before the backward pass has ended");
        }
    }
}

/* By NCCL: near the sums of CPUs, and all replicas have the same. */
typedef struct nccl_sums { float grad[4][400]; size_t n; } nccl_sums;
static void sum_once(dl_context *c, dl_comm *comm, void *user)
{
    nccl_sums *s = (nccl_sums *)user;
    float *to = s->grad[dl_comm_rank(comm)];
    const world w = { .kind = EVEN };
    dl_param_info p;
    dl_backward(world_loss(c, &w, 0, dl_comm_rank(comm), 3));
    for (int i = 0; i < dl_param_count(c) && dl_param_get(c, i, &p); i++)
        for (size_t k = 0; p.grad && k < p.numel; k++) *to++ = p.grad[k];
    s->n = (size_t)(to - s->grad[dl_comm_rank(comm)]);
}
static void by_nccl(void)
{
    static nccl_sums want, got;
    static char error[2][512];
    for (int k = 0; k < 2; k++) {
        dl_launch_desc d = { .devices = k ? "cuda:0,cuda:1,cuda:2,cuda:3" : "cpu,cpu,cpu,cpu", .config = &(dl_config){ .seed = 3, .threads = 1 }, .nccl = k,
            .first_bucket = 64, .bucket = 256, .deadline_seconds = 2, .error = error[k], .error_size = sizeof error[k] };
        CHECK(dl_launch(&d, sum_once, k ? &got : &want), "%s", error[k]);
    }
    CHECK(error[1][0] || (got.n > 100 && got.n == want.n), "%zu gradients, on the CPU %zu", got.n, want.n);
    for (size_t i = 0; i < got.n && !error[1][0]; i++)
        for (int r = 0; r < 4; r++)
            CHECK(got.grad[r][i] == got.grad[0][i] && fabsf(got.grad[r][i] - want.grad[0][i]) <= 1e-6f * fmaxf(1, fabsf(want.grad[0][i])),
                "gradient %zu of rank %d: %.9g, on the CPU %.9g", i, r, (double)got.grad[r][i], (double)want.grad[0][i]);
    dl_launch_desc d = { .devices = "cpu,cpu", .nccl = true, .error = error[0], .error_size = sizeof error[0] };
    CHECK(!dl_launch(&d, sum_once, &got) && strstr(error[0], "nccl is for replicas that are all on GPUs of one process"), "%s", error[0]);
}

static void processes(void)
{
    static const world_kind kinds[] = { UNEVEN, SHARDS, WINDOWS, SYNC_NORM };
    for (int k = 0; k < 4; k++) {
        uint64_t want = run_processes(kinds[k], "cpu,cpu", "cpu,cpu"), got = run_processes(kinds[k], several ? "cuda:0,cuda:1" : "cuda:0,cuda:0", several ? "cuda:2,cuda:3" : "cuda:0,cpu");
        CHECK(want == got, "kind %d: other parameters than on the CPU", kinds[k]);
    }
}

/* Loss on each device, on the output's, or on one that has the outputs alone; batches that leave devices without a chunk. */
typedef enum loss_place { EACH, OUTPUT, ELSEWHERE } loss_place;
static uint64_t train_parallel(const char *device, const char *devices, int output, loss_place place, const char *outputs, double *loss)
{
    dl_context *c = open_on(device), *there = place == ELSEWHERE ? open_on(outputs) : NULL;
    dl_optimizer *o = dl_adam(c, NULL);
    dl_data_parallel *dp = dl_data_parallel_create(c, &(dl_data_parallel_desc){ .devices = devices, .output = output, .outputs = there, .model = world_net });
    for (int step = 0; step < 10; step++) {
        dl_tensor y, x = world_input(c, step, 0, 8 - step % 4 * 2, &y);
        if (place == EACH) dl_data_parallel_backward(dp, x, y, loss);
        else if (place == ELSEWHERE) {
            dl_tensor z = dl_data_parallel_forward(dp, x), target;
            world_input(there, step, 0, 8 - step % 4 * 2, &target);
            dl_tensor mean = dl_keep(dl_cross_entropy(dl_linear(z, "more", 5), target));
            *loss = dl_item(mean);
            dl_data_parallel_backward_from(dp, mean);
        } else {
            dl_tensor mean = dl_cross_entropy(dl_data_parallel_forward(dp, x), y);
            dl_backward(mean);
            *loss = dl_item(mean);
        }
        dl_step(o);
    }
    uint64_t h = hash_of_parameters(c);
    CHECK(!dl_failed(c), "%s: %s", devices, dl_error(c));
    CHECK(!there || !dl_failed(there), "%s, outputs on %s: %s", devices, outputs, dl_error(there));
    dl_destroy(c);
    dl_destroy(there);
    return h;
}
static void parallel(void)
{
    static const char *const lists[2] = { "cuda:0,cuda:0,cpu", "cuda:0,cuda:1,cpu" };
    const char *const outputs[3] = { "cuda:0", several ? "cuda:2" : "cuda:0", "cpu" };
    for (int output = 0; output < 3; output++)
        for (int place = EACH; place <= ELSEWHERE; place++) {
            double want, got;
            uint64_t h = train_parallel("cpu", "cpu,cpu,cpu", output, (loss_place)place, "cpu", &want);
            for (int k = 0; k < (place == ELSEWHERE ? 3 : 1); k++) {
                uint64_t there = train_parallel(output == 2 ? "cpu" : several && output ? "cuda:1" : "cuda:0", lists[several], output, (loss_place)place, outputs[k], &got);
                CHECK(h == there && want == got, "output %d, place %d, outputs on %s: loss %.9g, on the CPU %.9g", output, place, outputs[k], got, want);
            }
        }
    dl_context *c = open_on("cuda:0");
    CHECK(!dl_data_parallel_create(c, &(dl_data_parallel_desc){ .devices = "cpu,cuda:0", .model = world_net }) &&
        strstr(dl_error(c), "output device 0 of 'cpu,cuda:0' is 'cpu', but this context is on 'cuda:0'"), "%s", dl_error(c));
    dl_destroy(c);
}

/* ---- graphs: what comes again is captured, with the bits of the CPU whatever changes from step to step ---- */
static struct { int kernels, graphs, made, ended, uploads; } calls; /* of the driver */
static dl__cuda_driver real;
static int count_kernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream, void **args, void **extra)
{
    calls.kernels++;
    return real.cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, stream, args, extra);
}
static int count_graph(void *exec, void *stream) { return calls.graphs++, real.cuGraphLaunch(exec, stream); }
static int count_made(void **exec, void *graph, unsigned long long flags) { return calls.made++, real.cuGraphInstantiateWithFlags(exec, graph, flags); }
static int count_ended(void *exec) { return calls.ended++, real.cuGraphExecDestroy(exec); }
static int count_upload(dl__cuda_address to, const void *from, size_t bytes, void *stream) { return calls.uploads++, real.cuMemcpyHtoDAsync_v2(to, from, bytes, stream); }
static dl_context *open_counted(bool graphs)
{
    if (!graphs) setenv("DLTRAIN_CUDA_GRAPHS", "0", 1);
    dl_context *c = open_on("cuda:0");
    unsetenv("DLTRAIN_CUDA_GRAPHS");
    dl__cuda *d = (dl__cuda *)dl_device_of(c, dl_cuda_backend());
    memset(&calls, 0, sizeof calls);
    if (!d) return c;
    real = d->driver;
    d->driver.cuLaunchKernel = count_kernel;
    d->driver.cuGraphLaunch = count_graph;
    d->driver.cuGraphInstantiateWithFlags = count_made;
    d->driver.cuGraphExecDestroy = count_ended;
    d->driver.cuMemcpyHtoDAsync_v2 = count_upload;
    return c;
}

static dl_tensor graph_loss(dl_context *c, int step, dl_index n)
{
    float x[6 * 5];
    int32_t y[6], word[6];
    for (int i = 0; i < (int)n * 5; i++) x[i] = (float)((i * 37 + step * 11) % 101) / 50 - 1;
    for (int i = 0; i < (int)n; i++) y[i] = (i * 3 + step) % 4, word[i] = (i + step) % 7;
    dl_tensor in = dl_input(c, DL_F32, DL_SHAPE(n, 5), x), words = dl_input(c, DL_I32, DL_SHAPE(n), word), to = dl_input(c, DL_I32, DL_SHAPE(n), y);
    dl_tensor h = dl_add(dl_linear(in, "in", 8), dl_embedding(words, "word", 7, 8));
    h = dl_dropout(dl_relu(dl_batch_norm(h, "bn", NULL)), 0.25f);
    return dl_mul_scalar(dl_cross_entropy(dl_linear(h, "out", 4), to), 1 + (float)step / 8);
}

/* Schedules and set_lr, groups, clipping, batches of two sizes, evaluation in between, reading in mid-step, windows of micro-batches, memory that
   moves as it grows. */
static uint64_t train_varied(dl_context *c)
{
    dl_optimizer *o = dl_adamw(c, &(dl_adam_desc){ .lr = 0.01f });
    dl_optimizer_group(o, "*.bias", &(dl_group_desc){ .lr_scale = 0.5f, .no_weight_decay = true });
    dl_set_schedule(o, &(dl_schedule){ .kind = DL_SCHEDULE_COSINE, .lr = 0.02f, .warmup = 3, .total = 20 });
    dl_accumulator *acc = dl_accumulator_create(o, &(dl_accumulator_desc){ .steps = 2 });
    double sum = 0;
    for (int step = 0; step < 24; step++) {
        dl_index n = step % 4 == 3 ? 4 : 6;
        dl_tensor loss = graph_loss(c, step, n);
        if (step == 10) sum += dl_item(loss);
        if (step < 14) {
            dl_backward(loss);
            dl_clip_grad_norm(c, step % 2 ? 0.25 : 0.5, step % 3 ? "*weight" : NULL);
            dl_step(o);
        }
        else dl_accumulate(acc, loss, (size_t)n);
        if (step % 2) sum += dl_item(loss);
        if (step == 12) dl_set_lr(o, 0.005);
        if (step == 8) sum += dl_item(dl_sum(dl_keep(dl_tanh(dl_full(c, DL_SHAPE(300000), 1)))));
        if (step % 3 == 0) {
            bool training = dl_train(c, false), recording = dl_set_grad(c, false);
            sum += dl_item(graph_loss(c, 100 + step, 5));
            dl_end(c);
            dl_train(c, training);
            dl_set_grad(c, recording);
        }
    }
    uint64_t h, bits;
    h = hash_of_parameters(c);
    memcpy(&bits, &sum, sizeof bits);
    return dl_failed(c) ? 0 : h ^ bits;
}
static void graphs_alike(void)
{
    dl_context *c = open_on(NULL);
    uint64_t want = train_varied(c);
    CHECK(!dl_failed(c), "%s", dl_error(c));
    dl_destroy(c);
    for (int graphs = 0; graphs < 2; graphs++) {
        c = open_counted(graphs);
        uint64_t got = train_varied(c);
        CHECK(got == want, "graphs %d: other parameters or losses than on the CPU: %s", graphs, dl_error(c));
        CHECK(graphs ? calls.graphs > 12 && calls.made > 3 : !calls.graphs && !calls.made, "graphs %d: %d made, %d launched", graphs, calls.made, calls.graphs);
        dl_destroy(c);
        CHECK(calls.made == calls.ended, "%d graphs were made, %d ended", calls.made, calls.ended);
    }
}

/* From the fifth step on: a graph of the passes and one of the update; of clipping, too. A list of parameters is sent when it is another. */
static void graphs_replace_kernels(void)
{
    for (int which = 0; which < 3; which++) {
        dl_context *c = open_counted(true);
        dl_optimizer *o = which ? dl_sgd(c, &(dl_sgd_desc){ .lr = 0.1f }) : dl_adam(c, NULL);
        if (!which) dl_set_schedule(o, &(dl_schedule){ .kind = DL_SCHEDULE_COSINE, .lr = 0.02f, .total = 10 });
        for (int step = 0; step < 8; step++) {
            int kernels = calls.kernels, graphs = calls.graphs, uploads = calls.uploads;
            dl_backward(graph_loss(c, step, 6));
            if (which == 2) dl_clip_grad_norm(c, 0.5, NULL);
            dl_step(o);
            kernels = calls.kernels - kernels, graphs = calls.graphs - graphs, uploads = calls.uploads - uploads;
            CHECK(step == 0 ? kernels > 20 && !graphs : step < 4 || (!kernels && graphs == 2 + (which == 2)), "case %d, step %d: %d kernels and %d graphs launched: %s",
                which, step, kernels, graphs, dl_error(c));
            CHECK(step < 4 || uploads == (which ? 2 : 3), "case %d, step %d: %d copies to the GPU", which, step, uploads); /* input, numbers, list */
        }
        dl_destroy(c);
    }
}

/* Many kinds of steps keep few graphs; so many kinds of looks by index that slots are dealt anew; an index that is wrong in a replay;
   offsets, which the host checks in mid-step. */
static void look(dl_context *c, dl_index rows, int32_t index)
{
    static const float x[80];
    dl_tensor t = dl_index_select(dl_input(c, DL_F32, DL_SHAPE(rows), x), 0, dl_input(c, DL_I32, DL_SHAPE(2), (int32_t[]){ 1, index }));
    dl_keep(dl_mul_scalar(dl_tanh(dl_sum(t)), 2));
    dl_end(c);
}
static void graphs_are_bounded(void)
{
    static const float x[3] = { 1, 2, 3 };
    dl_context *c = open_counted(true);
    for (int k = 0; k < 3 * 70; k++) {
        look(c, 5 + k / 3, k % 5);
        look(c, 3, k % 3);
        CHECK(calls.made - calls.ended <= DL__CUDA_GRAPHS, "%d graphs are kept", calls.made - calls.ended);
    }
    CHECK(calls.made > 70 && calls.graphs > 270, "only %d graphs made, %d launched", calls.made, calls.graphs);
    for (int k = 0; k < 2; k++) { /* reading finds what was wrong since the last time */
        CHECK(!dl_failed(c) && dl_item(dl_full(c, DL_SHAPE(1), 4)) == 4, "%s", dl_error(c));
        dl_end(c);
        look(c, 3, k ? 7 : 0);
    }
    dl_item(dl_full(c, DL_SHAPE(1), 4));
    CHECK(strstr(dl_error(c), "dl_index_select: index 7 at position 1 is out of range for 3 rows"), "%s", dl_error(c));
    dl_clear_error(c);
    int made = calls.made;
    for (int k = 0; k < 5; k++) {
        dl_tensor t = dl_segment_sum(dl_input(c, DL_F32, DL_SHAPE(3), x), dl_input(c, DL_I32, DL_SHAPE(3), (int32_t[]){ 0, 1, 3 }));
        CHECK(dl_item(dl_sum(dl_mul_scalar(t, (float)k))) == 6 * k, "step %d: %s", k, dl_error(c));
        dl_end(c);
    }
    CHECK(made == calls.made, "a step during which the host waits was captured");
    dl_destroy(c);
}

/* A number that a kernel is given by value has a graph of its own, and so has scratch memory that moved. */
static void graphs_know_arguments(void)
{
    static const float x[2] = { 1, 2 };
    dl_context *c = open_counted(true);
    for (int k = 0; k < 8; k++) {
        dl_tensor t = dl_pad(dl_input(c, DL_F32, DL_SHAPE(2), x), (dl_index[]){ 1, 1 }, 2, (float)(k % 2));
        CHECK(dl_item(dl_sum(dl_mul_scalar(t, (float)k))) == k * (3 + k % 2 * 2), "step %d: %s", k, dl_error(c));
        dl_end(c);
    }
    CHECK(calls.made == 2 && calls.graphs == 5, "%d graphs made, %d launched", calls.made, calls.graphs);
    for (int k = 0; k < 10; k++) {
        int n = k == 5 ? 100000 : 5000;
        CHECK(dl_item(dl_sum(dl_full(c, DL_SHAPE(n), 1))) == n, "step %d: %s", k, dl_error(c));
        dl_end(c);
    }
    CHECK(calls.made == 4, "%d graphs made", calls.made);
    dl_destroy(c);
}

/* ---- memory: a step's is one piece of what it takes; from the third step on nothing is allocated, moved or given back ---- */
static int allocations;
static int count_alloc(dl__cuda_address *p, size_t bytes) { return allocations++, real.cuMemAlloc_v2(p, bytes); }
static int count_free(dl__cuda_address p) { return allocations++, real.cuMemFree_v2(p); }
static int count_pinned(void **p, size_t bytes, unsigned flags) { return allocations++, real.cuMemHostAlloc(p, bytes, flags); }
static void memory(void)
{
    enum { N = 400000 };
    static float x[N];
    dl_context *c = open_counted(true);
    dl_optimizer *o = dl_adam(c, NULL);
    dl__cuda *d = (dl__cuda *)dl_device_of(c, dl_cuda_backend());
    CHECK(d, "%s", dl_error(c));
    if (!d) return;
    d->driver.cuMemAlloc_v2 = count_alloc;
    d->driver.cuMemFree_v2 = count_free;
    d->driver.cuMemHostAlloc = count_pinned;
    for (int step = 0; step < 14; step++) {
        if (step == 4) allocations = 0; /* batches of two sizes, twice */
        dl_index n = step % 2 ? N : N / 2;
        dl_tensor t = dl_borrow(c, DL_F32, DL_SHAPE(n), x), loss = graph_loss(c, step, 4 + step % 2 * 2);
        dl_backward(dl_add(loss, dl_sum(dl_mul(dl_keep(dl_exp(t)), t))));
        dl_clip_grad_norm(c, 0.5, NULL);
        dl_step(o);
        size_t held = 0, used = d->step_peak > d->step_used ? d->step_peak : d->step_used;
        for (int k = 0; k < d->chunks; k++) held += d->chunk[k].size;
        CHECK(held > N * 4 && held <= used + (step < 4 ? 2 << 20 : 0), "step %d: steps took %zu bytes at most, %zu are held", step, used, held);
        CHECK(step < 4 || d->chunks == 1, "step %d: its memory is in %d pieces", step, d->chunks);
    }
    CHECK(!dl_failed(c) && !allocations, "%d allocations: %s", allocations, dl_error(c));
    dl_destroy(c);
}

/* What the driver will not capture is launched as it comes, and not asked for again. */
static int refused_captures;
static int refuse_capture(void *stream, void **graph)
{
    refused_captures++;
    if (!real.cuStreamEndCapture(stream, graph)) real.cuGraphDestroy(*graph);
    *graph = NULL;
    return 901;
}
static void graphs_refused(void)
{
    dl_context *c = open_counted(true);
    dl__cuda *d = (dl__cuda *)dl_device_of(c, dl_cuda_backend());
    refused_captures = 0;
    if (d) d->driver.cuStreamEndCapture = refuse_capture;
    for (int step = 0; step < 6; step++) {
        dl_tensor y = dl_sum(dl_mul_scalar(dl_square(dl_sum(dl_full(c, DL_SHAPE(3, 4), 2))), (float)step));
        CHECK(dl_item(y) == 576 * step, "step %d: %s", step, dl_error(c));
        dl_end(c);
    }
    CHECK(refused_captures == 1 && !calls.graphs, "%d captures, %d graphs launched", refused_captures, calls.graphs);
    dl_destroy(c);
}

/* ---- generated kernels: four numbers a thread, where memory and what is broadcast lie for it, with the bits of one a thread ---- */
static size_t launched_threads;
static int count_threads(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream, void **args, void **extra)
{
    launched_threads = (size_t)gx * bx;
    return real.cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, stream, args, extra);
}
static dl_tensor lanes(dl_context *c, int which, dl_index rows, dl_index n, bool grads)
{
    static float x[64 * 1024 + 1];
    static int32_t index[64 * 1024];
    static uint8_t byte[64 * 1024];
    for (int i = 0; i < 64 * 1024; i++) x[i] = (float)(i * 37 % 101) / 50 - 1, index[i] = i * 7 % 13 - 5, byte[i] = (uint8_t)(i * 11);
    dl_tensor a = grads ? dl_variable(c, DL_SHAPE(rows, n), x) : dl_borrow(c, DL_F32, DL_SHAPE(rows, n), x), b = dl_borrow(c, DL_F32, DL_SHAPE(n), x + 7), d;
    dl_tensor y = which == 0 ? dl_add(a, dl_borrow(c, DL_F32, DL_SHAPE(rows, n), x + 1))
        : which == 1         ? dl_mul(dl_add(a, b), dl_borrow(c, DL_F32, DL_SHAPE(rows, 1), x + 3))
        : which == 2         ? dl_where(dl_gt(a, dl_full(c, DL_SHAPE(1), 0.25f)), dl_to_float(dl_borrow(c, DL_I32, DL_SHAPE(rows, n), index)), dl_to_float(dl_borrow(c, DL_U8, DL_SHAPE(n), byte)))
        : which == 3         ? dl_add(dl_dropout(a, 0.25f), dl_mul(dl_rand(c, DL_SHAPE(rows, n)), dl_randn(c, DL_SHAPE(rows, n))))
        : which == 4         ? dl_minimum(a, dl_expand(b, DL_SHAPE(rows, n)))
        : which == 5         ? dl_square(dl_slice(dl_reshape(a, DL_SHAPE(rows * n)), 0, 1, rows * n - 3, 1)) /* lies one number on */
                             : dl_gelu(a);
    if (!grads) return y;
    dl_grad(dl_add(dl_sum(dl_square(y)), dl_sum(dl_mul(a, dl_square(a)))), &a, 1, &d);
    return d;
}
static void four_at_once(void)
{
    for (int which = 0; which < 7; which++)
        for (int shape = 0; shape < 4; shape++)
            for (int grads = 0; grads < 2; grads++) {
                static const dl_index sizes[4][2] = { { 64, 1024 }, { 5, 12 }, { 3, 7 }, { 8, 6 } };
                dl_index rows = sizes[shape][0], n = sizes[shape][1];
                uint64_t h[2];
                for (int on = 0; on < 2; on++) {
                    dl_context *c = on ? open_counted(true) : open_on(NULL);
                    dl__cuda *d = (dl__cuda *)dl_device_of(c, dl_cuda_backend());
                    if (d) d->driver.cuLaunchKernel = count_threads;
                    h[on] = hash_of(c, lanes(c, which, rows, n, grads));
                    CHECK(!dl_failed(c), "case %d: %s", which, dl_error(c));
                    dl_destroy(c);
                }
                CHECK(h[0] == h[1], "case %d of %d x %d, gradients %d", which, (int)rows, (int)n, grads);
                bool four = shape == 0 && which != 5;
                CHECK(grads || shape || launched_threads == (size_t)(rows * n) / (four ? 4 : 1), "case %d: %zu threads for %d numbers", which, launched_threads, (int)(rows * n));
            }
}

static void says(dl_context *c, const char *part)
{
    CHECK(strstr(dl_error(c), part), "'%s' does not say '%s'", dl_error(c), part);
    dl_destroy(c);
}
static void tensor_refused(void)
{
    says(open_with("cuda:0", "tf32", NULL), "dl_create: the matmul_precision 'tf32' needs a GPU of compute capability 8.0 or later; 'cuda:0' is ");
}
static void own_run(const dl_run_args *r) { (void)r; }
static const dl_op own_op = { "of_my_own", DL_OP_ELEMENTWISE, NULL, own_run, NULL, NULL, NULL };
static const dl_op own_block = { "block_of_my_own", 0, NULL, own_run, NULL, NULL, NULL };
static void errors(void)
{
    static const float x[3] = { 1, 2, 3 };
    says(open_on("cuda:99"), "there is no device 'cuda:99': the GPUs here are cuda:0 to cuda:");
    says(open_on("cuda:x"), "GPUs are called 'cuda:0'");
    says(open_with("cuda:0", "high", NULL), "dl_create: there is no matmul_precision 'high'; it can be 'highest' (fp32), 'tf32'");
    says(open_with(NULL, "fp16", NULL), "dl_create: there is no matmul_precision 'fp16'");
    says(open_with(NULL, NULL, "mkl"), "dl_create: there is no blas 'mkl'; it can be 'own' or 'cublas'");
    for (int k = 0; k < 2; k++) {
        dl_context *c = open_on("cuda:0");
        dl_tensor t = dl_input(c, DL_F32, DL_SHAPE(3), x);
        dl_item(dl_sum(dl_apply(k ? &own_block : &own_op, 1, &t, NULL)));
        says(c, k ? "dl_block_of_my_own has no CUDA kernel yet" : "dl_of_my_own has no CUDA kernel yet");
    }
    dl_context *c = open_on("cuda:0");
    dl_item(dl_cross_entropy(dl_input(c, DL_F32, DL_SHAPE(1, 3), x), dl_input(c, DL_I32, DL_SHAPE(1), (int32_t[]){ 5 })));
    says(c, "dl_cross_entropy: target 5 at position 0 is out of range for 3 classes");
    c = open_on("cuda:0");
    dl_item(dl_sum(dl_index_select(dl_input(c, DL_F32, DL_SHAPE(3), x), 0, dl_input(c, DL_I32, DL_SHAPE(2), (int32_t[]){ 1, -4 }))));
    says(c, "dl_index_select: index -4 at position 1 is out of range for 3 rows");
    c = open_on("cuda:0");
    dl_item(dl_sum(dl_segment_sum(dl_input(c, DL_F32, DL_SHAPE(3), x), dl_input(c, DL_I32, DL_SHAPE(3), (int32_t[]){ 0, 4, 3 }))));
    says(c, "dl_segment_sum: offsets must rise from 0 to the 3 rows of x; offsets[2] is 3");
}

static int wanted_parts;
static char **wanted_part;
static bool wants(const char *part)
{
    for (int i = 0; i < wanted_parts; i++)
        if (!strcmp(wanted_part[i], part)) return true;
    return !wanted_parts;
}

int main(int argc, char **argv)
{
    const char *expect = argc > 1 ? argv[1] : "*";
    wanted_parts = argc > 2 ? argc - 2 : 0;
    wanted_part = argv + 2;
    cpu = open_on(NULL);
    gpu = open_on("cuda:0");
    test__begin("device");
    CHECK(!dl_failed(gpu) && dl_glob(expect, dl_cuda_device_name(gpu)), "it is '%s', not '%s': %s", dl_cuda_device_name(gpu), expect, dl_error(gpu));
    test__end();
    if (dl_failed(gpu)) return REPORT();
    if (wants("reading")) {
        RUN(reading);
        RUN(slices);
    }
    if (wants("inputs")) RUN(inputs);
    if (wants("random")) RUN(random_numbers);
    if (wants("large")) RUN(large);
    if (wants("wide")) {
        RUN(wide);
        RUN(wide_layer);
    }
    if (wants("sums")) {
        RUN(sums);
        RUN(indices);
        RUN(statistics);
    }
    if (wants("attention")) {
        RUN(attention);
        RUN(views);
    }
    dl_context *with_tf32 = open_with("cuda:0", "tf32", NULL), *with_cublas = open_with("cuda:0", NULL, "cublas");
    tensors = !dl_failed(with_tf32);
    if (wants("cublas")) {
        if (strstr(dl_error(with_cublas), "is not there")) printf("skip cublas: %s\n", dl_error(with_cublas));
        else RUN(cublas);
    }
    dl_destroy(with_tf32);
    dl_destroy(with_cublas);
    if (!tensors && wants("tensor")) RUN(tensor_refused);
    if (tensors && wants("tensor")) {
        RUN(tensor_tf32);
        RUN(tensor_bf16);
        RUN(tensor_layers);
    }
    if (tensors && wants("tensor-nets")) RUN(tensor_nets);
    if (wants("optimizers")) RUN(optimizers);
    if (wants("snapshots")) RUN(snapshots);
    if (wants("errors")) RUN(errors);
    if (wants("worlds")) {
        dl_context *last = open_on("cuda:3");
        several = !dl_failed(last);
        dl_destroy(last);
        RUN(worlds);
        RUN(processes);
        RUN(parallel);
    }
    if (wants("memory")) RUN(memory);
    if (wants("lanes")) RUN(four_at_once);
    if (wants("graphs")) {
        RUN(graphs_replace_kernels);
        RUN(graphs_alike);
        RUN(graphs_are_bounded);
        RUN(graphs_know_arguments);
        RUN(graphs_refused);
    }
    if (wanted_parts && wants("nccl")) RUN(by_nccl);
    if (wants("nets")) {
        RUN(mlp);
        RUN(cnn);
        RUN(resnet);
        RUN(gpt);
    }
    bool apart = wanted_parts && wants("apart");
    if (apart) {
        dl_config c = { .seed = 1, .threads = 1, .device = "cuda:0", .no_fusion = true };
        dl_destroy(gpu);
        gpu = dl_create(&c);
    }
    for (int i = 0; i < N_CASES; i++) {
        if (wants("ops") || apart || wants(cases[i].name)) compare_case(&cases[i], false);
        if (wants("subsets")) compare_case(&cases[i], true);
    }
    dl_destroy(cpu);
    dl_destroy(gpu);
    return REPORT();
}
