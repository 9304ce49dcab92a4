/* Ten steps of training against PyTorch in float64: an MLP, a CNN with batch_norm, a transformer. The nets are those of
   tools/gold_training.py. */
#include "../dltrain.h"
#include "test.h"
#include "numbers.h"
#include "gold_training.h"

static dl_tensor classes(dl_context *ctx, dl_shape shape, int count, int salt, int ignored)
{
    int32_t y[64];
    dl_index n = 1;
    for (int i = 0; i < shape.ndim; i++) n *= shape.dim[i];
    for (int i = 0; i < n; i++) y[i] = ignored && i % ignored == 0 ? -100 : (i * 31 + salt * 17 + i * i) % count;
    return dl_input(ctx, DL_I32, shape, y);
}

static dl_tensor mlp_loss(dl_context *ctx, int step)
{
    dl_tensor x = dl_input(ctx, DL_F32, DL_SHAPE(16, 20), numbers(320, 1000 + step));
    return dl_cross_entropy(dl_linear(dl_relu(dl_linear(x, "fc1", 17)), "fc2", 10), classes(ctx, DL_SHAPE(16), 10, step, 0));
}

static dl_tensor conv(dl_tensor x, const char *name, dl_index channels, dl_index stride)
{
    dl_conv2d_desc d;
    memset(&d, 0, sizeof d);
    d.out_channels = channels;
    d.kernel = 3;
    d.padding = 1;
    d.stride = stride;
    d.no_bias = true; /* batch_norm would take it away again, and Adam would make steps of the rounding errors */
    return dl_conv2d(x, name, &d);
}

static dl_tensor cnn_loss(dl_context *ctx, int step)
{
    dl_pool2d_desc pool;
    memset(&pool, 0, sizeof pool);
    pool.kernel = 2;
    dl_tensor x = dl_input(ctx, DL_F32, DL_SHAPE(6, 2, 11, 11), numbers(1452, 1000 + step));
    x = dl_max_pool2d(dl_relu(dl_batch_norm(conv(x, "conv1", 6, 1), "bn1", NULL)), &pool);
    x = dl_relu(dl_batch_norm(conv(x, "conv2", 9, 2), "bn2", NULL));
    x = dl_flatten(dl_adaptive_avg_pool2d(x, 1, 1), 1);
    return dl_cross_entropy(dl_linear(x, "fc", 5), classes(ctx, DL_SHAPE(6), 5, step, 0));
}

static dl_tensor lm_loss(dl_context *ctx, int step)
{
    dl_mha_desc heads;
    int32_t position[7];
    memset(&heads, 0, sizeof heads);
    heads.heads = 3;
    heads.causal = true;
    for (int i = 0; i < 7; i++) position[i] = i;
    dl_tensor x = dl_add(dl_embedding(classes(ctx, DL_SHAPE(3, 7), 13, step, 0), "token", 13, 12),
        dl_embedding(dl_input(ctx, DL_I32, DL_SHAPE(7), position), "position", 7, 12));
    dl_scope_begin(ctx, "block");
    dl_tensor h = dl_layer_norm(x, "ln1", NULL);
    x = dl_add(x, dl_multi_head_attention(h, h, h, "attention", &heads));
    x = dl_add(x, dl_linear(dl_gelu(dl_linear(dl_layer_norm(x, "ln2", NULL), "up", 24)), "down", 12));
    dl_scope_end(ctx);
    x = dl_linear(dl_layer_norm(x, "ln", NULL), "head", 13);
    return dl_cross_entropy(dl_reshape(x, DL_SHAPE(21, 13)), classes(ctx, DL_SHAPE(21), 13, step + 1, 8));
}

static void set_params(dl_context *ctx, const gold_param *p, dl_tensor (*loss)(dl_context *, int))
{
    int set = 0, trained = 0;
    dl_param_info info;
    dl_set_grad(ctx, false); /* only to create the parameters: the running statistics must stay as they are */
    dl_train(ctx, false);
    loss(ctx, 0);
    dl_end(ctx);
    dl_train(ctx, true);
    dl_set_grad(ctx, true);
    for (; p->name; p++, set++) {
        dl_real *v = numbers((size_t)p->n, set);
        for (int i = 0; i < p->n; i++) v[i] = (dl_real)p->offset + (dl_real)p->scale * v[i];
        CHECK(dl_param_set(ctx, p->name, v, (size_t)p->n), "%s", dl_error(ctx));
    }
    for (int i = 0; i < dl_param_count(ctx); i++) trained += dl_param_get(ctx, i, &info) && !info.buffer;
    CHECK(trained == set, "%d parameters, PyTorch has %d", trained, set);
}

static void close_to(dl_context *ctx, const char *buffer, const double *want, size_t n)
{
    dl_param_info p;
    if (!dl_param_find(ctx, buffer, &p)) {
        CHECK(false, "%s", dl_error(ctx));
        return;
    }
    CHECK(p.buffer && p.numel == n, "%s: a buffer of %d", buffer, (int)p.numel);
    for (size_t i = 0; i < n && i < p.numel; i++)
        CHECK(fabs((double)p.value[i] - want[i]) <= 1e-5, "%s[%d] is %.9g, PyTorch has %.9g", buffer, (int)i, (double)p.value[i], want[i]);
}

static dl_optimizer *sgd(dl_context *ctx)
{
    dl_sgd_desc d;
    memset(&d, 0, sizeof d);
    d.lr = 0.125f;
    d.momentum = 0.875f;
    return dl_sgd(ctx, &d);
}

static dl_optimizer *adam(dl_context *ctx)
{
    dl_adam_desc d;
    memset(&d, 0, sizeof d);
    d.lr = 1.0f / 128;
    return dl_adam(ctx, &d);
}

static dl_optimizer *adamw(dl_context *ctx)
{
    dl_adam_desc d;
    dl_group_desc none;
    memset(&d, 0, sizeof d);
    memset(&none, 0, sizeof none);
    d.lr = 1.0f / 128;
    d.weight_decay = 0.125f;
    none.no_weight_decay = true;
    dl_optimizer *o = dl_adamw(ctx, &d);
    dl_optimizer_group(o, "*bias|*ln*.weight", &none);
    return o;
}

typedef struct run { dl_tensor (*loss)(dl_context *ctx, int step); dl_optimizer *(*optimizer)(dl_context *ctx); } run;

static dl_context *train(const run *r, const gold_param *params, const double *want, bool eager)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.threads = 1;
    c.eager = eager;
    dl_context *ctx = dl_create(&c);
    set_params(ctx, params, r->loss);
    dl_optimizer *o = r->optimizer(ctx);
    for (int i = 0; i < GOLD_STEPS; i++) {
        dl_tensor loss = r->loss(ctx, i);
        dl_backward(loss);
        double got = dl_item(loss);
        dl_step(o);
        CHECK(!dl_failed(ctx), "step %d: %s", i, dl_error(ctx));
        CHECK(fabs(got - want[i]) <= 1e-5 * fmax(1, fabs(want[i])), "loss %d is %.9g, PyTorch has %.9g", i, got, want[i]);
    }
    return ctx;
}

static void mlp(void)
{
    const run r = { mlp_loss, sgd };
    for (int eager = 0; eager < 2; eager++) dl_destroy(train(&r, gold_mlp, gold_mlp_loss, eager));
}

static void cnn(void)
{
    const run r = { cnn_loss, adam };
    for (int eager = 0; eager < 2; eager++) {
        dl_context *ctx = train(&r, gold_cnn, gold_cnn_loss, eager);
        close_to(ctx, "bn1.running_mean", gold_cnn_bn1_running_mean, 6);
        close_to(ctx, "bn1.running_var", gold_cnn_bn1_running_var, 6);
        close_to(ctx, "bn2.running_mean", gold_cnn_bn2_running_mean, 9);
        close_to(ctx, "bn2.running_var", gold_cnn_bn2_running_var, 9);
        dl_destroy(ctx);
    }
}

static void transformer(void)
{
    const run r = { lm_loss, adamw };
    for (int eager = 0; eager < 2; eager++) dl_destroy(train(&r, gold_lm, gold_lm_loss, eager));
}

int main(void)
{
    RUN(mlp);
    RUN(cnn);
    RUN(transformer);
    return REPORT();
}
