/* The workloads that speed is measured on, as users would write them: an MLP, a CNN, ResNet-20, a small GPT; and of each kind three
   shapes more that nobody tuned on. Random numbers of the right shapes stand in for data. tools/bench_torch.py has the four kinds in
   PyTorch and takes the sizes from these rows. */
#ifndef WORKLOADS_H
#define WORKLOADS_H

enum { WL_BATCHES = 16 };
typedef struct workload workload;
struct workload {
    const char *name, *kind;
    dl_tensor (*model)(const workload *w, dl_tensor x);
    double (*forward)(const workload *w, double *first); /* flops of a sample's products; *first: those of the layer that needs no input gradient */
    dl_optimizer *(*optimizer)(dl_context *ctx);
    int samples;              /* a batch */
    dl_index x[3], size[4];   /* of a sample; of the model, as its kind reads them: see below */
};

/* By name: a comparison of functions would link every model into a program of one. */
static bool wl_is(const workload *w, const char *kind) { return !strcmp(w->kind, kind); }

static double wl_product(double m, double n, double k) { return 2 * m * n * k; }

/* Forward, weight gradient, input gradient: 2 a multiply-add, products alone, causal attention by half. */
static inline double wl_flops(const workload *w)
{
    double first = 0, forward = w->forward(w, &first);
    return 3 * forward - first;
}

static dl_tensor wl_conv(dl_tensor x, const char *name, dl_index channels, dl_index kernel, dl_index stride, bool bias)
{
    return dl_conv2d(x, name, &(dl_conv2d_desc){ .out_channels = channels, .kernel = kernel, .stride = stride,
                                  .padding = kernel / 2, .no_bias = !bias });
}

static dl_optimizer *wl_sgd(dl_context *ctx) { return dl_sgd(ctx, &(dl_sgd_desc){ .lr = .1f }); }
static dl_optimizer *wl_momentum(dl_context *ctx) { return dl_sgd(ctx, &(dl_sgd_desc){ .lr = .1f, .momentum = .9f }); }
static dl_optimizer *wl_adam(dl_context *ctx) { return dl_adam(ctx, &(dl_adam_desc){ .lr = 1e-3f }); }
static dl_optimizer *wl_adamw(dl_context *ctx) { return dl_adamw(ctx, &(dl_adam_desc){ .lr = 3e-4f }); }

/* ---- mlp: x features; size hidden, classes ---- */
static dl_tensor wl_mlp(const workload *w, dl_tensor x) { return dl_linear(dl_relu(dl_linear(x, "fc1", w->size[0])), "fc2", w->size[1]); }

static double wl_mlp_forward(const workload *w, double *first)
{
    *first = wl_product(1, w->size[0], w->x[0]);
    return *first + wl_product(1, w->size[1], w->size[0]);
}
#define WL_MLP "mlp", wl_mlp, wl_mlp_forward, wl_sgd

/* ---- cnn: x channels, height, width; size channels, channels, hidden, classes ---- */
static dl_tensor wl_cnn(const workload *w, dl_tensor x)
{
    dl_pool2d_desc pool = { .kernel = 2 };
    x = dl_max_pool2d(dl_relu(wl_conv(x, "conv1", w->size[0], 3, 1, true)), &pool);
    x = dl_max_pool2d(dl_relu(wl_conv(x, "conv2", w->size[1], 3, 1, true)), &pool);
    return dl_linear(dl_relu(dl_linear(dl_flatten(x, 1), "fc1", w->size[2])), "fc2", w->size[3]);
}

static double wl_cnn_forward(const workload *w, double *first)
{
    const dl_index *s = w->size, h = w->x[1] / 2, v = w->x[2] / 2;
    *first = wl_product(w->x[1] * w->x[2], s[0], 9 * w->x[0]);
    return *first + wl_product(h * v, s[1], 9 * s[0]) + wl_product(1, s[2], s[1] * (h / 2) * (v / 2)) + wl_product(1, s[3], s[2]);
}
#define WL_CNN "cnn", wl_cnn, wl_cnn_forward, wl_adam

/* ---- resnet: x channels, height, width; size channels of the first stage, stages, blocks of a stage, classes ---- */
static dl_tensor wl_block(dl_tensor x, const char *name, dl_index channels, dl_index stride)
{
    dl_scope_begin(x.ctx, name);
    dl_tensor y = dl_relu(dl_batch_norm(wl_conv(x, "conv1", channels, 3, stride, false), "bn1", NULL));
    y = dl_batch_norm(wl_conv(y, "conv2", channels, 3, 1, false), "bn2", NULL);
    if (stride != 1) x = dl_batch_norm(wl_conv(x, "shortcut", channels, 1, stride, false), "bn3", NULL);
    dl_scope_end(x.ctx);
    return dl_relu(dl_add(x, y));
}

static dl_tensor wl_resnet(const workload *w, dl_tensor x)
{
    char name[] = "block0";
    x = dl_relu(dl_batch_norm(wl_conv(x, "conv", w->size[0], 3, 1, false), "bn", NULL));
    for (int i = 0; i < w->size[1] * w->size[2]; i++) {
        name[5] = (char)('0' + i);
        x = wl_block(x, name, w->size[0] << i / w->size[2], i && i % w->size[2] == 0 ? 2 : 1);
    }
    return dl_linear(dl_mean_dims(x, (int[]){ 2, 3 }, 2, false), "fc", w->size[3]);
}

static double wl_resnet_forward(const workload *w, double *first)
{
    dl_index c = w->size[0], h = w->x[1], v = w->x[2];
    double sum = *first = wl_product(h * v, c, 9 * w->x[0]);
    for (dl_index stage = 0; stage < w->size[1]; stage++) {
        sum += (double)w->size[2] * 2 * wl_product(h * v, c, 9 * c);
        if (stage + 1 == w->size[1]) break;
        h = (h + 1) / 2, v = (v + 1) / 2, c *= 2;
        sum += wl_product(h * v, c, c / 2) - wl_product(h * v, c, 9 * c / 2); /* a shortcut; the next stage's first convolution has half the inputs */
    }
    return sum + wl_product(1, w->size[3], c);
}
#define WL_RESNET "resnet", wl_resnet, wl_resnet_forward, wl_momentum

/* ---- gpt: x tokens; size vocabulary, width, heads, layers. [N,T] -> [N*T,V]; the head's weight is the embedding's ---- */
static dl_tensor wl_gpt(const workload *w, dl_tensor x)
{
    dl_index t = w->x[0], v = w->size[0], d = w->size[1], h = w->size[2], n = dl_dim(x, 0);
    dl_context *ctx = x.ctx;
    char name[] = "block0";
    dl_tensor table = dl_parameter(ctx, "token", &(dl_param_desc){ .shape = DL_SHAPE(v, d), .init = DL_INIT_NORMAL, .value = .02f });
    dl_tensor place = dl_parameter(ctx, "position", &(dl_param_desc){ .shape = DL_SHAPE(t, d), .init = DL_INIT_NORMAL, .value = .02f });
    x = dl_add(dl_embedding_op(table, x), place);
    for (int i = 0; i < w->size[3]; i++) {
        name[5] = (char)('0' + i);
        dl_scope_begin(ctx, name);
        dl_tensor part[3], qkv = dl_linear(dl_layer_norm(x, "ln1", NULL), "qkv", 3 * d);
        for (int k = 0; k < 3; k++)
            part[k] = dl_transpose(dl_reshape(dl_slice(qkv, 2, k * d, (k + 1) * d, 1), DL_SHAPE(n, t, h, d / h)), 1, 2);
        dl_tensor a = dl_scaled_dot_product_attention(part[0], part[1], part[2], &(dl_attention_desc){ .causal = true });
        x = dl_add(x, dl_linear(dl_reshape(dl_transpose(a, 1, 2), DL_SHAPE(n, t, d)), "proj", d));
        x = dl_add(x, dl_linear(dl_gelu(dl_linear(dl_layer_norm(x, "ln2", NULL), "up", 4 * d)), "down", d));
        dl_scope_end(ctx);
    }
    x = dl_matmul_ex(dl_layer_norm(x, "ln", NULL), table, &(dl_matmul_desc){ .transpose_b = true });
    return dl_reshape(x, DL_SHAPE(n * t, v));
}

static double wl_gpt_forward(const workload *w, double *first)
{
    double t = (double)w->x[0], v = (double)w->size[0], d = (double)w->size[1];
    *first = 0;
    return (double)w->size[3] * (wl_product(t, 12 * d, d) + wl_product(t, t, d)) + wl_product(t, v, d);
}
#define WL_GPT "gpt", wl_gpt, wl_gpt_forward, wl_adamw

#define WL_W2 { "W2", WL_CNN, 64, { 1, 28, 28 }, { 32, 64, 128, 10 } }
static const workload workloads[] = {
    { "W1", WL_MLP, 64, { 784 }, { 128, 10 } },
    WL_W2,
    { "W3", WL_RESNET, 64, { 3, 32, 32 }, { 16, 3, 3, 10 } },
    { "W4", WL_GPT, 8, { 128 }, { 65, 128, 4, 4 } },
};
static const workload workload_variants[] = {
    { "W1a", WL_MLP, 50, { 300 }, { 500, 7 } },
    { "W1b", WL_MLP, 128, { 1000 }, { 256, 100 } },
    { "W1c", WL_MLP, 16, { 64 }, { 32, 10 } },
    { "W2a", WL_CNN, 32, { 3, 40, 36 }, { 20, 40, 100, 12 } },
    { "W2b", WL_CNN, 100, { 1, 28, 28 }, { 8, 16, 64, 10 } },
    { "W2c", WL_CNN, 48, { 3, 32, 32 }, { 48, 96, 200, 100 } },
    { "W3a", WL_RESNET, 32, { 3, 32, 32 }, { 24, 2, 2, 10 } },
    { "W3b", WL_RESNET, 40, { 3, 48, 40 }, { 12, 3, 1, 20 } },
    { "W3c", WL_RESNET, 16, { 1, 28, 28 }, { 32, 3, 2, 10 } },
    { "W4a", WL_GPT, 6, { 100 }, { 80, 96, 3, 2 } },
    { "W4b", WL_GPT, 16, { 64 }, { 50, 64, 4, 3 } },
    { "W4c", WL_GPT, 4, { 200 }, { 256, 160, 5, 2 } },
};

static dl_shape wl_batch_shape(const workload *w)
{
    dl_shape s = DL_SHAPE(w->samples);
    while (s.ndim < 4 && (s.ndim == 1 || wl_is(w, "cnn") || wl_is(w, "resnet"))) s.dim[s.ndim] = w->x[s.ndim - 1], s.ndim++;
    return s;
}

static size_t wl_inputs(const workload *w) /* numbers of a batch's x */
{
    dl_shape s = wl_batch_shape(w);
    size_t n = 1;
    for (int d = 0; d < s.ndim; d++) n *= (size_t)s.dim[d];
    return n;
}

static size_t wl_targets(const workload *w) { return wl_is(w, "gpt") ? wl_inputs(w) : (size_t)w->samples; }

/* One step on batch i of the data that wl_data made. */
static dl_tensor wl_step(dl_context *ctx, const workload *w, dl_optimizer *opt, const void *data, int i)
{
    size_t nx = wl_inputs(w), ny = wl_targets(w);
    const int32_t *at = (const int32_t *)data + (size_t)(i % WL_BATCHES) * (nx + ny);
    dl_tensor logits = w->model(w, dl_borrow(ctx, wl_is(w, "gpt") ? DL_I32 : DL_F32, wl_batch_shape(w), at));
    dl_tensor loss = dl_cross_entropy(logits, dl_borrow(ctx, DL_I32, DL_SHAPE((dl_index)ny), at + nx));
    dl_backward(loss);
    dl_step(opt);
    return loss;
}

/* The first n of the batches, x then y, of 4 bytes a number; free() them. */
static void *wl_data_of(const workload *w, int n)
{
    size_t nx = wl_inputs(w), ny = wl_targets(w);
    dl_index classes = w->size[wl_is(w, "gpt") ? 0 : wl_is(w, "mlp") ? 1 : 3];
    uint32_t state = 1;
    int32_t *data = (int32_t *)malloc((size_t)n * (nx + ny) * 4), *at = data;
    for (int b = 0; data && b < n; b++)
        for (size_t i = 0; i < nx + ny; i++, at++) {
            state = state * 1664525u + 1013904223u;
            float f = (float)(state >> 8) / 16777216;
            if (i < nx && !wl_is(w, "gpt")) memcpy(at, &f, 4);
            else *at = (int32_t)((state >> 8) % (uint32_t)classes);
        }
    return data;
}

static void *wl_data(const workload *w) { return wl_data_of(w, WL_BATCHES); }
#endif
