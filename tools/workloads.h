/* The four workloads that speed is measured on, as users would write them: an MLP, a CNN, ResNet-20, a small GPT. Random numbers of the
   right shapes stand in for data. tools/bench_torch.py has the same in PyTorch. */
#ifndef WORKLOADS_H
#define WORKLOADS_H

enum { WL_BATCHES = 16, WL_TOKENS = 128, WL_WIDTH = 128, WL_VOCABULARY = 65 };
typedef struct workload {
    const char *name;
    int samples;              /* a batch */
    dl_index x[4], y[2];      /* sizes of a batch; the first 0 ends it */
    double flops;             /* of a sample's products, 2 a multiply-add: forward, weight gradient, input gradient; causal attention by half */
    dl_tensor (*model)(dl_tensor x);
    dl_optimizer *(*optimizer)(dl_context *ctx);
} workload;

static dl_tensor wl_mlp(dl_tensor x) { return dl_linear(dl_relu(dl_linear(x, "fc1", 128)), "fc2", 10); }

static dl_tensor wl_conv(dl_tensor x, const char *name, dl_index channels, dl_index kernel, dl_index stride, bool bias)
{
    return dl_conv2d(x, name, &(dl_conv2d_desc){ .out_channels = channels, .kernel = kernel, .stride = stride,
                                  .padding = kernel / 2, .no_bias = !bias });
}

static dl_tensor wl_cnn(dl_tensor x)
{
    dl_pool2d_desc pool = { .kernel = 2 };
    x = dl_max_pool2d(dl_relu(wl_conv(x, "conv1", 32, 3, 1, true)), &pool);
    x = dl_max_pool2d(dl_relu(wl_conv(x, "conv2", 64, 3, 1, true)), &pool);
    return dl_linear(dl_relu(dl_linear(dl_flatten(x, 1), "fc1", 128)), "fc2", 10);
}

static dl_tensor wl_block(dl_tensor x, const char *name, dl_index channels, dl_index stride)
{
    dl_scope_begin(x.ctx, name);
    dl_tensor y = dl_relu(dl_batch_norm(wl_conv(x, "conv1", channels, 3, stride, false), "bn1", NULL));
    y = dl_batch_norm(wl_conv(y, "conv2", channels, 3, 1, false), "bn2", NULL);
    if (stride != 1) x = dl_batch_norm(wl_conv(x, "shortcut", channels, 1, stride, false), "bn3", NULL);
    dl_scope_end(x.ctx);
    return dl_relu(dl_add(x, y));
}

static dl_tensor wl_resnet20(dl_tensor x)
{
    char name[] = "block0";
    x = dl_relu(dl_batch_norm(wl_conv(x, "conv", 16, 3, 1, false), "bn", NULL));
    for (int i = 0; i < 9; i++) {
        name[5] = (char)('0' + i);
        x = wl_block(x, name, (dl_index)16 << i / 3, i == 3 || i == 6 ? 2 : 1);
    }
    return dl_linear(dl_mean_dims(x, (int[]){ 2, 3 }, 2, false), "fc", 10);
}

static dl_tensor wl_gpt(dl_tensor x) /* [N,T] tokens -> [N*T,V]; the head's weight is the embedding's */
{
    enum { T = WL_TOKENS, D = WL_WIDTH, H = 4 };
    dl_context *ctx = x.ctx;
    char name[] = "block0";
    dl_index n = dl_dim(x, 0);
    dl_tensor table = dl_parameter(ctx, "token", &(dl_param_desc){ .shape = DL_SHAPE(WL_VOCABULARY, D), .init = DL_INIT_NORMAL, .value = .02f });
    dl_tensor place = dl_parameter(ctx, "position", &(dl_param_desc){ .shape = DL_SHAPE(T, D), .init = DL_INIT_NORMAL, .value = .02f });
    x = dl_add(dl_embedding_op(table, x), place);
    for (int i = 0; i < 4; i++) {
        name[5] = (char)('0' + i);
        dl_scope_begin(ctx, name);
        dl_tensor part[3], qkv = dl_linear(dl_layer_norm(x, "ln1", NULL), "qkv", 3 * D);
        for (int k = 0; k < 3; k++)
            part[k] = dl_transpose(dl_reshape(dl_slice(qkv, 2, k * D, (k + 1) * D, 1), DL_SHAPE(n, T, H, D / H)), 1, 2);
        dl_tensor a = dl_scaled_dot_product_attention(part[0], part[1], part[2], &(dl_attention_desc){ .causal = true });
        x = dl_add(x, dl_linear(dl_reshape(dl_transpose(a, 1, 2), DL_SHAPE(n, T, D)), "proj", D));
        x = dl_add(x, dl_linear(dl_gelu(dl_linear(dl_layer_norm(x, "ln2", NULL), "up", 4 * D)), "down", D));
        dl_scope_end(ctx);
    }
    x = dl_matmul_ex(dl_layer_norm(x, "ln", NULL), table, &(dl_matmul_desc){ .transpose_b = true });
    return dl_reshape(x, DL_SHAPE(n * T, WL_VOCABULARY));
}

static dl_optimizer *wl_sgd(dl_context *ctx) { return dl_sgd(ctx, &(dl_sgd_desc){ .lr = .1f }); }
static dl_optimizer *wl_momentum(dl_context *ctx) { return dl_sgd(ctx, &(dl_sgd_desc){ .lr = .1f, .momentum = .9f }); }
static dl_optimizer *wl_adam(dl_context *ctx) { return dl_adam(ctx, &(dl_adam_desc){ .lr = 1e-3f }); }
static dl_optimizer *wl_adamw(dl_context *ctx) { return dl_adamw(ctx, &(dl_adam_desc){ .lr = 3e-4f }); }

static const workload workloads[] = {
    { "W1", 64, { 64, 784 }, { 64 }, 409.088e3, wl_mlp, wl_sgd },
    { "W2", 64, { 64, 1, 28, 28 }, { 64 }, 24.9953e6, wl_cnn, wl_adam },
    { "W3", 64, { 64, 3, 32, 32 }, { 64 }, 243.9944e6, wl_resnet20, wl_momentum },
    { "W4", 8, { 8, WL_TOKENS }, { 8 * WL_TOKENS }, 660.7012e6, wl_gpt, wl_adamw },
};

static dl_shape wl_shape(const dl_index *size, int most)
{
    dl_shape s = { 0 };
    while (s.ndim < most && size[s.ndim]) s.dim[s.ndim] = size[s.ndim], s.ndim++;
    return s;
}

/* One step on batch i of the data that wl_data made. */
static dl_tensor wl_step(dl_context *ctx, const workload *w, dl_optimizer *opt, const void *data, int i)
{
    dl_shape x = wl_shape(w->x, 4), y = wl_shape(w->y, 2);
    size_t nx = 1, ny = (size_t)y.dim[0];
    for (int d = 0; d < x.ndim; d++) nx *= (size_t)x.dim[d];
    const int32_t *at = (const int32_t *)data + (size_t)(i % WL_BATCHES) * (nx + ny);
    dl_tensor logits = w->model(dl_borrow(ctx, w->model == wl_gpt ? DL_I32 : DL_F32, x, at));
    dl_tensor loss = dl_cross_entropy(logits, dl_borrow(ctx, DL_I32, y, at + nx));
    dl_backward(loss);
    dl_step(opt);
    return loss;
}

/* The batches, x then y, of 4 bytes a number; free() them. */
static void *wl_data(const workload *w)
{
    dl_shape x = wl_shape(w->x, 4), y = wl_shape(w->y, 2);
    size_t nx = 1, ny = (size_t)y.dim[0];
    uint32_t state = 1;
    for (int d = 0; d < x.ndim; d++) nx *= (size_t)x.dim[d];
    int32_t *data = (int32_t *)malloc(WL_BATCHES * (nx + ny) * 4), *at = data;
    for (int b = 0; data && b < WL_BATCHES; b++)
        for (size_t i = 0; i < nx + ny; i++, at++) {
            state = state * 1664525u + 1013904223u;
            float f = (float)(state >> 8) / 16777216;
            if (w->model == wl_gpt) *at = (int32_t)((state >> 8) % WL_VOCABULARY);
            else if (i < nx) memcpy(at, &f, 4);
            else *at = (int32_t)((state >> 8) % 10);
        }
    return data;
}
#endif
