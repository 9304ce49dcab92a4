/* The four workloads in small: an MLP, a CNN, a residual network with batch_norm, a GPT. Inputs are computed, not read. */
#ifndef NETS_H
#define NETS_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct net {
    const char *name;
    dl_tensor (*loss)(dl_context *ctx, int step);
    dl_optimizer *(*optimizer)(dl_context *ctx);
} net;

static dl_real *net_numbers(size_t n, int salt) /* in [-1, 1), without a pattern */
{
    static dl_real buffer[65536];
    uint32_t state = 12345u + (uint32_t)salt * 7919u;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        buffer[i] = (dl_real)(int32_t)(state >> 8) / 8388608 - 1;
    }
    return buffer;
}

static dl_tensor net_input(dl_context *ctx, dl_shape shape, int salt)
{
    size_t n = 1;
    for (int i = 0; i < shape.ndim; i++) n *= (size_t)shape.dim[i];
    return dl_input(ctx, DL_F32, shape, net_numbers(n, salt));
}

static dl_tensor net_classes(dl_context *ctx, dl_shape shape, int classes, int salt)
{
    int32_t y[1024];
    size_t n = 1;
    for (int i = 0; i < shape.ndim; i++) n *= (size_t)shape.dim[i];
    for (size_t i = 0; i < n; i++) y[i] = (int32_t)((i * 31 + (size_t)salt * 17 + i * i) % (size_t)classes);
    return dl_input(ctx, DL_I32, shape, y);
}

static dl_tensor mlp_loss(dl_context *ctx, int step)
{
    dl_tensor x = dl_relu(dl_linear(net_input(ctx, DL_SHAPE(64, 50), step), "fc1", 33));
    return dl_cross_entropy(dl_linear(dl_dropout(x, 0.25f), "fc2", 10), net_classes(ctx, DL_SHAPE(64), 10, step));
}

static dl_tensor net_conv(dl_tensor x, const char *name, dl_index channels, dl_index stride)
{
    dl_conv2d_desc d;
    memset(&d, 0, sizeof d);
    d.out_channels = channels;
    d.kernel = 3;
    d.padding = 1;
    d.stride = stride;
    return dl_conv2d(x, name, &d);
}

static dl_tensor cnn_loss(dl_context *ctx, int step)
{
    dl_pool2d_desc pool;
    memset(&pool, 0, sizeof pool);
    pool.kernel = 2;
    dl_tensor x = dl_max_pool2d(dl_relu(net_conv(net_input(ctx, DL_SHAPE(5, 1, 14, 14), step), "conv1", 9, 1)), &pool);
    x = dl_max_pool2d(dl_relu(net_conv(x, "conv2", 17, 1)), &pool);
    x = dl_relu(dl_linear(dl_flatten(x, 1), "fc1", 21));
    return dl_cross_entropy(dl_linear(x, "fc2", 10), net_classes(ctx, DL_SHAPE(5), 10, step));
}

static dl_tensor residual_block(dl_tensor x, const char *name, dl_index channels, dl_index stride)
{
    dl_scope_begin(x.ctx, name);
    dl_tensor y = dl_relu(dl_batch_norm(net_conv(x, "conv1", channels, stride), "bn1", NULL));
    y = dl_batch_norm(net_conv(y, "conv2", channels, 1), "bn2", NULL);
    if (stride != 1) x = dl_batch_norm(net_conv(x, "shortcut", channels, stride), "bn3", NULL);
    dl_scope_end(x.ctx);
    return dl_relu(dl_add(x, y));
}

static dl_tensor resnet_loss(dl_context *ctx, int step)
{
    dl_tensor x = dl_relu(dl_batch_norm(net_conv(net_input(ctx, DL_SHAPE(4, 3, 9, 9), step), "conv", 6, 1), "bn", NULL));
    x = residual_block(x, "layer1", 6, 1);
    x = residual_block(x, "layer2", 11, 2);
    x = dl_flatten(dl_adaptive_avg_pool2d(x, 1, 1), 1);
    return dl_cross_entropy(dl_linear(x, "fc", 10), net_classes(ctx, DL_SHAPE(4), 10, step));
}

static dl_tensor gpt_loss(dl_context *ctx, int step)
{
    dl_mha_desc heads;
    char name[8] = "block0";
    int32_t position[12];
    memset(&heads, 0, sizeof heads);
    heads.heads = 3;
    heads.causal = true;
    for (int i = 0; i < 12; i++) position[i] = i;
    dl_tensor x = dl_embedding(net_classes(ctx, DL_SHAPE(3, 12), 20, step), "token", 20, 24); /* a statement each: C does not order arguments */
    dl_tensor at = dl_embedding(dl_input(ctx, DL_I32, DL_SHAPE(12), position), "position", 12, 24);
    x = dl_add(x, at);
    for (int i = 0; i < 2; i++) {
        name[5] = (char)('0' + i);
        dl_scope_begin(ctx, name);
        dl_tensor h = dl_layer_norm(x, "ln1", NULL);
        x = dl_add(x, dl_multi_head_attention(h, h, h, "attention", &heads));
        h = dl_gelu_tanh(dl_linear(dl_layer_norm(x, "ln2", NULL), "up", 40));
        x = dl_add(x, dl_linear(h, "down", 24));
        dl_scope_end(ctx);
    }
    x = dl_linear(dl_layer_norm(x, "ln", NULL), "head", 20);
    return dl_cross_entropy(dl_reshape(x, DL_SHAPE(36, 20)), net_classes(ctx, DL_SHAPE(36), 20, step + 1));
}

static dl_optimizer *net_sgd(dl_context *ctx)
{
    dl_sgd_desc d;
    memset(&d, 0, sizeof d);
    d.lr = 0.1f;
    return dl_sgd(ctx, &d);
}

static dl_optimizer *net_momentum(dl_context *ctx)
{
    dl_sgd_desc d;
    memset(&d, 0, sizeof d);
    d.lr = 0.05f;
    d.momentum = 0.9f;
    d.weight_decay = 1e-4f;
    return dl_sgd(ctx, &d);
}

static dl_optimizer *net_adam(dl_context *ctx) { return dl_adam(ctx, NULL); }
static dl_optimizer *net_adamw(dl_context *ctx) { return dl_adamw(ctx, NULL); }

static const net nets[4] = {
    { "mlp", mlp_loss, net_sgd },
    { "cnn", cnn_loss, net_adam },
    { "resnet", resnet_loss, net_momentum },
    { "gpt", gpt_loss, net_adamw },
};

/* FNV-1a over the bits of all parameters and buffers, low byte first on every machine. */
static uint64_t net_hash(dl_context *ctx)
{
    uint64_t h = 14695981039346656037u;
    dl_param_info p;
    for (int i = 0; i < dl_param_count(ctx); i++) {
        if (!dl_param_get(ctx, i, &p)) return 0;
        for (size_t k = 0; k < p.numel; k++) {
            uint32_t u;
            float v = (float)p.value[k];
            memcpy(&u, &v, sizeof u);
            for (int b = 0; b < 32; b += 8) h = (h ^ (u >> b & 255)) * 1099511628211u;
        }
    }
    return h;
}

/* Hash of the weights after some steps; 0 after an error, which is printed. */
static uint64_t net_train(const net *n, const dl_config *config, int steps, bool read)
{
    dl_context *ctx = dl_create(config);
    dl_optimizer *opt = n->optimizer(ctx);
    for (int i = 0; i < steps; i++) {
        dl_tensor loss = n->loss(ctx, i);
        if (read) (void)dl_item(loss);
        dl_backward(loss);
        dl_step(opt);
    }
    uint64_t h = dl_failed(ctx) ? 0 : net_hash(ctx);
    if (dl_failed(ctx)) fprintf(stderr, "%s: %s\n", n->name, dl_error(ctx));
    dl_destroy(ctx);
    return h;
}
#endif
