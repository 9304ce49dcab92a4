/* Layers against PyTorch's modules: names, shapes and order of the state_dict, outputs, gradients, running statistics, and how the
   parameters start. The modules and their inputs are those of tools/gold_layers.py. */
#include "../dltrain.h"
#include "test.h"
#include "numbers.h"
#include "gold_layers.h"
#define COUNT(array) (sizeof (array) / sizeof *(array))

static size_t size_of(const int *dim, int ndim)
{
    size_t n = 1;
    for (int i = 0; i < ndim; i++) n *= (size_t)dim[i];
    return n;
}

static dl_tensor tensor(dl_context *c, dl_shape s, int salt)
{
    size_t n = 1;
    for (int i = 0; i < s.ndim; i++) n *= (size_t)s.dim[i];
    return dl_input(c, DL_F32, s, numbers(n, salt));
}

static dl_tensor classes(dl_context *c, dl_shape s, int count, int salt)
{
    int32_t y[64];
    dl_index n = 1;
    for (int i = 0; i < s.ndim; i++) n *= s.dim[i];
    for (int i = 0; i < n; i++) y[i] = (i * 31 + salt * 17 + i * i) % count;
    return dl_input(c, DL_I32, s, y);
}

static dl_tensor mask(dl_context *c, dl_shape s)
{
    dl_index n = 1;
    for (int i = 0; i < s.ndim; i++) n *= s.dim[i];
    dl_real *m = numbers((size_t)n, GOLD_MASK);
    for (dl_index i = 0; i < n; i += 7) m[i] = -(dl_real)INFINITY;
    return dl_input(c, DL_F32, s, m);
}

/* ---- the modules: each call of the table records the layer under the name "net" ---- */
#define X(...) tensor(c, DL_SHAPE(__VA_ARGS__), GOLD_INPUT)
#define Y(...) tensor(c, DL_SHAPE(__VA_ARGS__), GOLD_INPUT + 1)
#define Z(...) tensor(c, DL_SHAPE(__VA_ARGS__), GOLD_INPUT + 2)
#define NO_BIAS(out) &(dl_linear_desc){ .out_features = out, .no_bias = true }
#define CONV(...) &(dl_conv2d_desc){ __VA_ARGS__ }
#define NORM(...) &(dl_norm_desc){ __VA_ARGS__ }
#define HEADS(...) &(dl_mha_desc){ __VA_ARGS__ }

static dl_tensor self(dl_tensor x, const dl_mha_desc *d) { return dl_multi_head_attention(x, x, x, "net", d); }
static dl_tensor cross(dl_context *c, bool memory, const dl_mha_desc *d)
{
    dl_tensor q = X(2, 3, 4), k = Y(2, 5, 4), v = memory ? k : Z(2, 5, 4);
    return dl_multi_head_attention(q, k, v, "net", d);
}

#define OPTIONS .out_channels = 6, .kernel = 3, .kernel_w = 2, .stride = 2, .dilation = 1, .dilation_w = 2, .groups = 2, .padding = 1
#define LAYERS(L) \
    L(linear, dl_linear(X(3, 5), "net", 4)) \
    L(linear_no_bias, dl_linear_ex(X(3, 5), "net", NO_BIAS(4))) \
    L(linear_1d, dl_linear(X(5), "net", 4)) \
    L(linear_3d, dl_linear(X(2, 3, 5), "net", 4)) \
    L(linear_3d_no_bias, dl_linear_ex(X(2, 3, 5), "net", NO_BIAS(4))) \
    L(conv2d, dl_conv2d(X(2, 2, 5, 4), "net", CONV(.out_channels = 3, .kernel = 3))) \
    L(conv2d_padding, dl_conv2d(X(1, 2, 5, 4), "net", CONV(.out_channels = 3, .kernel = 3, .padding = 1, .no_bias = true))) \
    L(conv2d_options, dl_conv2d(X(1, 4, 6, 7), "net", CONV(OPTIONS, .stride_w = 1, .padding_w = 3))) \
    L(conv2d_depthwise, dl_conv2d(X(2, 4, 5, 4), "net", CONV(.out_channels = 4, .kernel = 2, .stride = 2, .groups = 4))) \
    L(conv_transpose2d, dl_conv_transpose2d(X(2, 3, 3, 2), "net", CONV(.out_channels = 2, .kernel = 3))) \
    L(conv_transpose2d_no_bias, dl_conv_transpose2d(X(1, 3, 3, 2), "net", \
        CONV(.out_channels = 2, .kernel = 2, .stride = 2, .no_bias = true))) \
    L(conv_transpose2d_options, dl_conv_transpose2d(X(1, 4, 3, 3), "net", \
        CONV(OPTIONS, .stride_w = 3, .padding_w = 2, .output_padding = 1, .output_padding_w = 2))) \
    L(batch_norm, dl_batch_norm(X(6, 3), "net", NULL)) \
    L(batch_norm_3d, dl_batch_norm(X(4, 3, 5), "net", NORM(.eps = 1e-3f, .momentum = 0.3f))) \
    L(batch_norm_4d, dl_batch_norm(X(3, 2, 3, 2), "net", NULL)) \
    L(batch_norm_no_affine, dl_batch_norm(X(3, 2, 3, 2), "net", NORM(.no_affine = true))) \
    L(batch_norm_eval, dl_batch_norm(X(6, 3), "net", NULL)) \
    L(batch_norm_eval_3d, dl_batch_norm(X(4, 3, 5), "net", NORM(.eps = 1e-3f, .momentum = 0.3f))) \
    L(batch_norm_eval_4d, dl_batch_norm(X(3, 2, 3, 2), "net", NULL)) \
    L(batch_norm_eval_no_affine, dl_batch_norm(X(3, 2, 3, 2), "net", NORM(.no_affine = true))) \
    L(layer_norm, dl_layer_norm(X(3, 7), "net", NULL)) \
    L(layer_norm_3d, dl_layer_norm(X(2, 3, 4), "net", NORM(.eps = 0.125f))) \
    L(layer_norm_no_affine, dl_layer_norm(X(3, 7), "net", NORM(.no_affine = true))) \
    L(group_norm, dl_group_norm(X(4, 6), "net", 3, NULL)) \
    L(group_norm_3d, dl_group_norm(X(3, 4, 5), "net", 2, NORM(.eps = 0.125f))) \
    L(group_norm_4d, dl_group_norm(X(2, 6, 2, 2), "net", 3, NULL)) \
    L(group_norm_no_affine, dl_group_norm(X(2, 4, 3), "net", 1, NORM(.no_affine = true))) \
    L(embedding, dl_embedding(classes(c, DL_SHAPE(5), 6, 1), "net", 6, 3)) \
    L(embedding_2d, dl_embedding(classes(c, DL_SHAPE(2, 4), 6, 2), "net", 6, 3)) \
    L(mha_self, self(X(2, 4, 6), HEADS(.heads = 2))) \
    L(mha_self_causal, self(X(2, 4, 6), HEADS(.heads = 3, .causal = true))) \
    L(mha_self_mask, self(X(2, 4, 4), HEADS(.heads = 2, .mask = mask(c, DL_SHAPE(4, 4))))) \
    L(mha_self_no_bias, self(X(2, 3, 6), HEADS(.heads = 1, .no_bias = true))) \
    L(mha_cross, cross(c, false, HEADS(.heads = 2))) \
    L(mha_cross_memory, cross(c, true, HEADS(.heads = 2))) \
    L(mha_cross_mask, cross(c, false, HEADS(.heads = 2, .mask = mask(c, DL_SHAPE(2, 2, 3, 5))))) \
    L(mha_cross_no_bias, cross(c, false, HEADS(.heads = 2, .no_bias = true)))

#define L(name, call) static dl_tensor layer_##name(dl_context *c) { return call; }
LAYERS(L)
#undef L
static const struct { const char *name; dl_tensor (*call)(dl_context *c); } layers[] = {
#define L(name, call) { #name, layer_##name },
    LAYERS(L)
#undef L
};

/* The first difference counts; false then. */
static bool same(const char *what, const char *mode, const dl_real *got, const double *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double g = (double)got[i], bound = 2e-5 * fmax(1, fabs(want[i]));
        if (fabs(g - want[i]) <= bound) continue; /* NaN is no match */
        CHECK(false, "%s%s[%d] is %.9g, PyTorch has %.9g", mode, what, (int)i, g, want[i]);
        return false;
    }
    return true;
}

static bool same_dims(const dl_shape *s, const int *dim, int ndim)
{
    bool ok = s->ndim == ndim;
    for (int i = 0; ok && i < ndim; i++) ok = s->dim[i] == dim[i];
    return ok;
}

static void against(const gold_layer *gold, dl_tensor (*call)(dl_context *c), const char *mode, const dl_config *config)
{
    dl_context *c = dl_create(config);
    dl_param_info p;
    dl_real out[256];
    const double *want = gold_values + gold->at;
    bool eval = strstr(gold->name, "_eval") != NULL, learns = false;
    dl_set_grad(c, false); /* only to create the parameters: the running statistics must stay as they are */
    dl_train(c, false);
    call(c);
    dl_end(c);
    dl_train(c, !eval);
    dl_set_grad(c, true);
    CHECK(!dl_failed(c), "%s%s", mode, dl_error(c));
    CHECK(dl_param_count(c) == gold->entries, "%s%d parameters, PyTorch has %d", mode, dl_param_count(c), gold->entries);
    for (int i = 0; i < gold->entries && dl_param_get(c, i, &p); i++) {
        const gold_entry *e = &gold->entry[i];
        size_t n = size_of(e->dim, e->ndim);
        char name[64];
        snprintf(name, sizeof name, "net.%s", e->name);
        CHECK(!strcmp(p.name, name), "%sparameter %d is '%s', PyTorch has '%s'", mode, i, p.name, name);
        CHECK(same_dims(&p.shape, e->dim, e->ndim) && p.numel == n, "%s'%s' has another shape", mode, name);
        CHECK(p.buffer == !!e->buffer, "%s'%s' is %s", mode, name, p.buffer ? "a buffer" : "trained");
        dl_real *v = numbers(n, i);
        for (size_t k = 0; k < n; k++) v[k] = (strcmp(e->name, "running_var") ? 0 : 1) + v[k] / 2;
        CHECK(dl_param_set(c, name, v, n), "%s%s", mode, dl_error(c));
        learns = learns || !e->buffer;
    }
    dl_tensor y = dl_keep(call(c));
    dl_shape s = dl_shape_of(y);
    size_t n = size_of(gold->dim, gold->ndim);
    CHECK(same_dims(&s, gold->dim, gold->ndim), "%sthe output has another shape", mode);
    if (learns) CHECK(dl_backward(dl_sum(dl_mul(y, tensor(c, s, GOLD_LOSS)))), "%s%s", mode, dl_error(c));
    else dl_end(c);
    CHECK(n <= COUNT(out) && dl_read(y, out, n), "%s%s", mode, dl_error(c));
    if (dl_failed(c) || !same("y", mode, out, want, n)) {
        dl_destroy(c);
        return;
    }
    want += n;
    for (int i = 0; i < gold->entries && dl_param_get(c, i, &p); want += p.numel, i++) {
        CHECK(p.has_grad == !p.buffer && !p.grad == p.buffer && p.value, "%s'%s': gradient or none?", mode, p.name);
        if (!same(p.name, mode, p.buffer ? p.value : p.grad, want, p.numel)) break;
    }
    dl_destroy(c);
}

static void test_gold(void)
{
    static const struct { const char *name; dl_config config; } modes[] = {
        { "", { .threads = 1 } },
        { "eager: ", { .threads = 1, .eager = true } },
        { "portable, 3 threads: ", { .threads = 3, .simd = "portable" } },
    };
    for (size_t i = 0; i < COUNT(layers); i++) {
        const gold_layer *gold = i < COUNT(gold_layers) ? &gold_layers[i] : NULL;
        test__begin(layers[i].name);
        CHECK(gold && !strcmp(gold->name, layers[i].name), "no gold: run tools/gold_layers.py");
        for (size_t m = 0; gold && m < COUNT(modes); m++) against(gold, layers[i].call, modes[m].name, &modes[m].config);
        test__end();
    }
    test__begin("all modules");
    CHECK(COUNT(layers) == COUNT(gold_layers), "%d layers, %d modules", (int)COUNT(layers), (int)COUNT(gold_layers));
    test__end();
}

/* An empty batch, the rest of some queue: PyTorch leaves the running statistics as they are. */
static void batch_norm_empty(void)
{
    dl_context *c = dl_create(&(dl_config){ .threads = 1 });
    dl_param_info p;
    dl_tensor y = dl_batch_norm(dl_input(c, DL_F32, DL_SHAPE(0, 3), NULL), "bn", NULL);
    CHECK(dl_ok(y) && dl_dim(y, 0) == 0 && dl_dim(y, 1) == 3, "%s", dl_error(c));
    dl_end(c);
    for (int i = 0; i < 3; i++) {
        CHECK(dl_param_find(c, "bn.running_mean", &p) && p.value[i] == 0, "the mean is %g", (double)p.value[i]);
        CHECK(dl_param_find(c, "bn.running_var", &p) && p.value[i] == 1, "the variance is %g", (double)p.value[i]);
    }
    dl_destroy(c);
}

/* ---- how parameters start ---- */
static void create_all(dl_context *c)
{
    dl_tensor x = tensor(c, DL_SHAPE(1, 4, 48), 1);
    dl_linear(tensor(c, DL_SHAPE(2, 37), 1), "linear", 200);
    dl_conv2d(tensor(c, DL_SHAPE(1, 6, 4, 6), 1), "conv2d", CONV(.out_channels = 64, .kernel = 3, .kernel_w = 5, .groups = 2));
    dl_conv_transpose2d(tensor(c, DL_SHAPE(1, 32, 2, 2), 1), "conv_transpose2d",
        CONV(.out_channels = 12, .kernel = 3, .kernel_w = 2, .groups = 2));
    dl_multi_head_attention(x, x, x, "mha", HEADS(.heads = 4));
    dl_embedding(classes(c, DL_SHAPE(2), 100, 1), "embedding", 100, 64);
    dl_batch_norm(tensor(c, DL_SHAPE(2, 9), 1), "bn", NULL);
    dl_layer_norm(tensor(c, DL_SHAPE(2, 9), 1), "ln", NULL);
    dl_group_norm(tensor(c, DL_SHAPE(2, 9), 1), "gn", 3, NULL);
    dl_train(c, false); /* or the running statistics would have moved */
    dl_end(c);
    dl_train(c, true);
    CHECK(!dl_failed(c), "%s", dl_error(c));
}

/* Values are bound (2 k / 2^24 - 1) for whole k: of small ones the rounding leaves k, and with it the bound, to be seen. */
static void uniform(const dl_param_info *p, double bound)
{
    double n = (double)p->numel, sum = 0, squares = 0, top = 0;
    for (size_t i = 0; i < p->numel; i++) {
        double v = (double)p->value[i], k = (v / bound + 1) * 8388608;
        CHECK(v >= -bound * (1 + 1e-7) && v < bound * (1 + 1e-7), "%s[%d] is %.9g, beyond %.9g", p->name, (int)i, v, bound);
        bool whole = fabs(v) >= bound / 16 || fabs(k - floor(k + 0.5)) < 0.15;
        CHECK(whole, "%s[%d] is %.9g: another bound than %.9g", p->name, (int)i, v, bound);
        sum += v;
        squares += v * v;
        top = fmax(top, fabs(v));
    }
    double sigma = bound / sqrt(3 * n), spread = bound * bound * sqrt(4 / (45 * n)); /* of the mean and of the mean square */
    CHECK(fabs(sum / n) < 5 * sigma, "%s: mean %g, sigma %g", p->name, sum / n, sigma);
    CHECK(fabs(squares / n - bound * bound / 3) < 5 * spread, "%s: variance %g, uniform has %g", p->name, squares / n, bound * bound / 3);
    CHECK(top > bound * (1 - 12 / n), "%s: the largest is %g, the bound %g", p->name, top, bound);
}

static void init_bounds(void)
{
    dl_context *c = dl_create(&(dl_config){ .seed = 11, .threads = 1 });
    dl_param_info p;
    create_all(c);
    for (size_t i = 0; i < COUNT(gold_bounds); i++) {
        if (!dl_param_find(c, gold_bounds[i].name, &p)) {
            CHECK(false, "%s", dl_error(c));
            break;
        }
        if (gold_bounds[i].bound > 0) uniform(&p, gold_bounds[i].bound);
        else
            for (size_t k = 0; k < p.numel; k++) CHECK(p.value[k] == 0, "%s[%d] is %g, not 0", p.name, (int)k, (double)p.value[k]);
    }
    dl_destroy(c);
}

static void init_embedding(void)
{
    dl_context *c = dl_create(&(dl_config){ .seed = 11, .threads = 1 });
    dl_param_info p;
    create_all(c);
    if (dl_param_find(c, "embedding.weight", &p)) {
        double n = (double)p.numel, sum[5] = { 0 }, top = 0;
        for (size_t i = 0; i < p.numel; i++) {
            double v = (double)p.value[i];
            for (int k = 1; k < 5; k++) sum[k] += pow(v, k) / n;
            top = fmax(top, fabs(v));
        }
        CHECK(fabs(sum[1]) < 5 / sqrt(n), "mean %g", sum[1]); /* N(0,1): the powers have the variances 1, 2, 15 and 96 */
        CHECK(fabs(sum[2] - 1) < 5 * sqrt(2 / n), "variance %g", sum[2]);
        CHECK(fabs(sum[3]) < 5 * sqrt(15 / n), "third moment %g", sum[3]);
        CHECK(fabs(sum[4] - 3) < 5 * sqrt(96 / n), "fourth moment %g", sum[4]);
        CHECK(top > 2.5 && top < 6.5, "the largest of %d is %g", (int)n, top);
    }
    CHECK(!dl_failed(c), "%s", dl_error(c));
    dl_destroy(c);
}

static void init_norms(void)
{
    static const struct { const char *name; double value; bool buffer; } rows[] = {
        { "bn.weight", 1, false }, { "bn.bias", 0, false }, { "bn.running_mean", 0, true }, { "bn.running_var", 1, true },
        { "ln.weight", 1, false }, { "ln.bias", 0, false }, { "gn.weight", 1, false }, { "gn.bias", 0, false },
    };
    dl_context *c = dl_create(&(dl_config){ .seed = 11, .threads = 1 });
    dl_param_info p;
    dl_train(c, false);
    dl_batch_norm(tensor(c, DL_SHAPE(2, 9), 1), "bn", NULL);
    dl_layer_norm(tensor(c, DL_SHAPE(2, 9), 1), "ln", NULL);
    dl_group_norm(tensor(c, DL_SHAPE(2, 9), 1), "gn", 3, NULL);
    dl_end(c);
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (!dl_param_find(c, rows[i].name, &p)) continue;
        CHECK(p.buffer == rows[i].buffer, "%s: buffer %d", p.name, p.buffer);
        for (size_t k = 0; k < p.numel; k++) CHECK((double)p.value[k] == rows[i].value, "%s[%d] is %g", p.name, (int)k, (double)p.value[k]);
    }
    CHECK(!dl_failed(c), "%s", dl_error(c));
    dl_destroy(c);
}

/* ---- a parameter starts by seed and full name alone ---- */
static dl_context *three(uint64_t seed, const char *const *order)
{
    dl_context *c = dl_create(&(dl_config){ .seed = seed, .threads = 1 });
    for (int i = 0; i < 3; i++) {
        if (order[i][0] == 'e') dl_embedding(classes(c, DL_SHAPE(2), 5, 1), order[i], 5, 7);
        else dl_linear(tensor(c, DL_SHAPE(2, 5), 1), order[i], 7);
        if (i == 1) dl_end(c); /* the last one comes a step, and a layout, later */
    }
    dl_scope_begin(c, "in");
    dl_linear(tensor(c, DL_SHAPE(2, 5), 1), "a", 7);
    dl_scope_end(c);
    dl_end(c);
    CHECK(!dl_failed(c), "%s", dl_error(c));
    return c;
}

/* How many of the 35 weights are the same bits. */
static int common(dl_context *x, const char *a, dl_context *y, const char *b)
{
    dl_param_info p, q;
    int n = 0;
    if (!dl_param_find(x, a, &p) || !dl_param_find(y, b, &q) || p.numel != 35 || q.numel != 35) return -1;
    for (int i = 0; i < 35; i++) n += p.value[i] == q.value[i];
    return n;
}

static void init_names_and_seeds(void)
{
    static const char *const orders[4][3] = { { "a", "b", "e" }, { "e", "b", "a" }, { "b", "e", "a" }, { "a", "b", "e" } };
    static const char *const names[] = { "a.weight", "b.weight", "e.weight", "in.a.weight" };
    dl_context *c[4];
    for (int i = 0; i < 4; i++) c[i] = three(i == 3 ? 6 : 5, orders[i]);
    for (int k = 0; k < 4; k++) {
        int n = common(c[0], names[k], c[3], names[k]);
        CHECK(n >= 0 && n <= 1, "%s: seeds 5 and 6 have %d values in common", names[k], n);
        for (int i = 1; i < 3; i++) {
            n = common(c[0], names[k], c[i], names[k]);
            CHECK(n == 35, "%s depends on the order: %d of 35 are the same", names[k], n);
        }
        for (int j = 0; j < k; j++)
            CHECK(common(c[0], names[k], c[0], names[j]) <= 1, "%s and %s have values in common", names[k], names[j]);
    }
    for (int i = 0; i < 4; i++) dl_destroy(c[i]);
}

int main(void)
{
    test_gold();
    RUN(batch_norm_empty);
    RUN(init_bounds);
    RUN(init_embedding);
    RUN(init_norms);
    RUN(init_names_and_seeds);
    return REPORT();
}
