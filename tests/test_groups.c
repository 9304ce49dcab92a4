/* Elementwise operations behind a product run on what it has finished. The same bits as in eager mode, without fusion and on threads; and
   the launches are as few as they should be. Tiles are small, so that small tensors
   have several. tests: tsan. tests: with -DDLTRAIN_TILE=32 -DDLTRAIN_PLANS=3 */
#include "../dltrain.h"
#include "test.h"
#include "inside.h"
#include "numbers.h"

static dl_tensor input(dl_context *c, dl_shape s, int salt) /* up to 4096 numbers */
{
    size_t n = 1;
    for (int i = 0; i < s.ndim; i++) n *= (size_t)s.dim[i];
    return dl_input(c, DL_F32, s, numbers(n, salt));
}

static dl_tensor weight(dl_context *c, const char *name, dl_shape s)
{
    return dl_parameter(c, name, &(dl_param_desc){ .shape = s, .init = DL_INIT_UNIFORM, .value = 1 });
}

/* ---- programs: a result, which the caller keeps and differentiates ---- */
static dl_tensor product(dl_context *c, dl_index m, dl_index n)
{
    return dl_affine(input(c, DL_SHAPE(m, 20), 1), weight(c, "w", DL_SHAPE(n, 20)), weight(c, "b", DL_SHAPE(n)));
}
static dl_tensor conv(dl_context *c)
{
    dl_conv2d_desc d = { .padding = 1 };
    return dl_conv2d_op(input(c, DL_SHAPE(3, 4, 9, 7), 2), weight(c, "k", DL_SHAPE(6, 4, 3, 3)), &d);
}

static dl_tensor relu_of_product(dl_context *c) { return dl_relu(product(c, 37, 33)); }
static dl_tensor relu_of_wide_product(dl_context *c) { return dl_relu(product(c, 150, 300)); }
static dl_tensor relu_of_conv(dl_context *c) { return dl_relu(conv(c)); }
static dl_tensor gelu_reads_its_head_later(dl_context *c) { return dl_gelu(product(c, 37, 33)); }
static dl_tensor gelu_between_products(dl_context *c) /* gelu and its slope in one pass */
{
    return dl_affine(dl_gelu(product(c, 32, 64)), weight(c, "w2", DL_SHAPE(9, 64)), weight(c, "b2", DL_SHAPE(9)));
}
static dl_tensor residual(dl_context *c)
{
    dl_tensor x = weight(c, "x", DL_SHAPE(31, 20));
    return dl_relu(dl_add(dl_matmul(x, weight(c, "w", DL_SHAPE(20, 20))), x));
}
static dl_tensor past_a_sum(dl_context *c) /* relu and add go up to z, past the sum */
{
    dl_tensor x = product(c, 37, 33), y = dl_tanh(dl_mul_scalar(x, 0.5f));
    dl_tensor z = dl_matmul(y, weight(c, "v", DL_SHAPE(33, 33))), s = dl_sum_dims(y, (int[]){ 1 }, 1, true);
    return dl_mul(dl_add(x, dl_relu(z)), s);
}
static dl_tensor broadcast_tail(dl_context *c)
{
    dl_tensor x = conv(c);
    x = dl_mul(x, weight(c, "channel", DL_SHAPE(1, 6, 1, 1)));
    x = dl_add(x, weight(c, "row", DL_SHAPE(7)));
    x = dl_sub(x, weight(c, "column", DL_SHAPE(9, 1)));
    x = dl_mul(x, weight(c, "image", DL_SHAPE(3, 1, 1, 1)));
    return dl_maximum(x, weight(c, "scalar", DL_SCALAR));
}
static dl_tensor head_read_twice(dl_context *c)
{
    dl_tensor x = product(c, 37, 33);
    return dl_mul(dl_sigmoid(x), dl_mul(x, x));
}
static dl_tensor head_dies_in_a_tile(dl_context *c) { return dl_add_scalar(dl_tanh(dl_mul_scalar(product(c, 37, 33), 2)), 1); }
static dl_tensor two_heads(dl_context *c)
{
    dl_tensor a = dl_matmul(input(c, DL_SHAPE(37, 20), 1), weight(c, "w", DL_SHAPE(20, 33)));
    dl_tensor b = dl_matmul(input(c, DL_SHAPE(37, 12), 3), weight(c, "v", DL_SHAPE(12, 33)));
    return dl_add(dl_mul(dl_relu(a), b), dl_exp(a));
}
static dl_tensor through_views(dl_context *c)
{
    dl_tensor x = dl_relu(dl_reshape(product(c, 36, 33), DL_SHAPE(6, 6, 33)));
    return dl_mul(x, dl_reshape(dl_slice(x, 0, 1, 2, 1), DL_SHAPE(6, 33))); /* what a slice shows is not read tile by tile */
}
static dl_tensor dropped(dl_context *c) { return dl_dropout(dl_relu(product(c, 37, 33)), 0.25f); }
static dl_tensor shared_weight(dl_context *c) /* two gradients of one weight are added */
{
    dl_tensor w = weight(c, "w", DL_SHAPE(20, 20)), x = input(c, DL_SHAPE(37, 20), 1);
    return dl_relu(dl_matmul(dl_relu(dl_matmul(x, w)), w));
}
static dl_tensor empty_product(dl_context *c) { return dl_relu(dl_add_scalar(dl_matmul(input(c, DL_SHAPE(5, 0), 1), weight(c, "w", DL_SHAPE(0, 7))), 1)); }
static dl_tensor normalised(dl_context *c)
{
    dl_tensor x = conv(c), mean = dl_parameter(c, "mean", &(dl_param_desc){ .shape = DL_SHAPE(6), .buffer = true });
    dl_tensor var = dl_parameter(c, "var", &(dl_param_desc){ .shape = DL_SHAPE(6), .buffer = true, .init = DL_INIT_CONSTANT, .value = 1 });
    dl_tensor y = dl_relu(dl_batch_norm_op(x, weight(c, "g", DL_SHAPE(6)), weight(c, "h", DL_SHAPE(6)), mean, var, 0.5f, 1e-5f));
    return dl_add(y, dl_mul(x, dl_reshape(var, DL_SHAPE(6, 1, 1)))); /* the variance as it is after the change */
}

static dl_tensor pooled(dl_context *c) /* tails of both kinds of pooling, and of their gradients */
{
    dl_pool2d_desc two = { .kernel = 2 }, three = { .kernel = 3, .stride = 1, .padding = 1 };
    dl_tensor x = dl_add_scalar(dl_max_pool2d(dl_tanh(conv(c)), &two), 1);
    return dl_exp(dl_neg(dl_avg_pool2d(x, &three)));
}

typedef dl_tensor (*program)(dl_context *c);
static const struct { const char *name; program of; } programs[] = {
#define ROW(name) { #name, name },
    ROW(relu_of_product) ROW(relu_of_wide_product) ROW(relu_of_conv) ROW(gelu_reads_its_head_later) ROW(gelu_between_products)
    ROW(residual) ROW(past_a_sum)
    ROW(broadcast_tail) ROW(head_read_twice) ROW(head_dies_in_a_tile) ROW(two_heads) ROW(through_views) ROW(dropped) ROW(shared_weight)
    ROW(empty_product) ROW(normalised) ROW(pooled)
#undef ROW
};

/* ---- every program in every mode ---- */
static uint64_t mix(uint64_t h, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) h = (h ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    return h;
}
static uint64_t mix_tensor(uint64_t h, dl_tensor t) { return mix(h, dl_data(t), dl_numel(t) * sizeof(dl_real)); }

enum { KEEP = 1, READ = 2, GRAD = 4 };
/* Two steps of two micro-batches: the result, and all gradients and buffers. */
static uint64_t hash_of(program of, const dl_config *config, int how)
{
    dl_context *c = dl_create(config);
    uint64_t h = 14695981039346656037u;
    dl_param_info p;
    for (int i = 0; i < 4; i++) {
        if (i == 2) dl_zero_grad(c);
        dl_tensor y = of(c), dx;
        if (how & KEEP) dl_keep(y);
        if (how & READ) h = mix_tensor(h, y);
        dl_tensor loss = dl_mean(dl_square(y));
        if (how & GRAD && dl_grad(loss, &y, 1, &dx)) loss = dl_add(loss, dl_mean(dl_square(dl_mul(dx, y))));
        dl_backward(loss);
        if (how & KEEP) h = mix_tensor(h, y);
        h = mix_tensor(h, loss);
        for (int k = 0; dl_param_get(c, k, &p); k++) h = mix(h, p.buffer ? p.value : p.grad, p.numel * sizeof(dl_real));
        dl_clear_error(c); /* there is no parameter k */
    }
    dl_destroy(c);
    return h;
}

static void one_hash(int how)
{
    static const struct { const char *name; dl_config c; } modes[] = {
        { "planned", { .seed = 3, .threads = 1 } },          { "2 threads", { .seed = 3, .threads = 2 } },
        { "4 threads", { .seed = 3, .threads = 4 } },        { "portable", { .seed = 3, .threads = 1, .simd = "portable" } },
        { "no fusion", { .seed = 3, .threads = 1, .no_fusion = true } }, { "no reuse", { .seed = 3, .threads = 1, .no_reuse = true } },
    };
    dl_config eager = { .seed = 3, .threads = 1, .eager = true };
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        uint64_t want = hash_of(programs[i].of, &eager, how);
        for (size_t k = 0; k < sizeof modes / sizeof *modes; k++)
            CHECK(hash_of(programs[i].of, &modes[k].c, how) == want, "%s, %s: other bits than in eager mode", programs[i].name, modes[k].name);
    }
}
static void same_bits(void) { one_hash(0); }
static void same_bits_kept(void) { one_hash(KEEP); }
static void same_bits_read_in_mid_step(void) { one_hash(READ); }
static void same_bits_of_second_gradients(void) { one_hash(GRAD | KEEP); }

/* ---- what is launched, and what can be read ---- */
static void few_launches(void)
{
    static const struct { program of; int launches; } rows[] = {
        { relu_of_product, 1 }, { relu_of_conv, 1 }, { residual, 1 }, { head_read_twice, 1 }, { broadcast_tail, 1 }, { two_heads, 2 },
        { head_dies_in_a_tile, 1 }, { dropped, 1 }, { through_views, 2 }, { past_a_sum, 4 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        dl_context *c = dl_create(&(dl_config){ .threads = 1 });
        rows[i].of(c);
        dl_end(c);
        CHECK(inside_launches(c) == rows[i].launches, "row %d: %d launches, not %d", (int)i, inside_launches(c), rows[i].launches);
        dl_destroy(c);
    }
}

static void gradient_joins_its_product(void) /* relu_back goes behind dx, though dw and db are recorded between */
{
    dl_context *c = dl_create(&(dl_config){ .threads = 1 });
    dl_tensor y = dl_affine(relu_of_product(c), weight(c, "v", DL_SHAPE(9, 33)), weight(c, "d", DL_SHAPE(9)));
    dl_backward(dl_sum(dl_mul(y, y)));
    CHECK(!dl_failed(c), "%s", dl_error(c));
    /* y; its sum; the gradient of y; dv; dd; dx and relu_back; dw; db: no launch for what is folded */
    CHECK(inside_launches(c) <= 10, "%d launches", inside_launches(c));
    dl_destroy(c);
}

static void head_that_is_kept(void)
{
    dl_context *c = dl_create(&(dl_config){ .threads = 2 });
    dl_tensor x = dl_keep(product(c, 37, 33)), y = dl_relu(x);
    dl_end(c);
    const dl_real *a = (const dl_real *)dl_data(x), *b = (const dl_real *)dl_data(y);
    for (size_t i = 0; a && b && i < dl_numel(x); i++) CHECK(b[i] == (a[i] < 0 ? 0 : a[i]), "element %d", (int)i);
    CHECK(!dl_failed(c) && a != b, "%s", dl_error(c));
    dl_destroy(c);
}

static void head_that_is_gone(void)
{
    dl_context *c = dl_create(&(dl_config){ .threads = 1 });
    dl_tensor x = product(c, 37, 33);
    dl_relu(x);
    dl_end(c);
    CHECK(!dl_data(x) && strstr(dl_error(c), "was planned away"), "'%s'", dl_error(c));
    dl_destroy(c);
}

static void eager_names_the_operation(void)
{
    dl_context *c = dl_create(&(dl_config){ .threads = 1, .eager = true });
    dl_relu(dl_log(dl_add_scalar(dl_abs(product(c, 37, 33)), -100)));
    CHECK(strstr(dl_error(c), "dl_log (node"), "'%s'", dl_error(c));
    dl_destroy(c);
}

static void less_memory(void) /* the head shares its memory with what the tail makes of it */
{
    size_t used[2];
    for (int k = 0; k < 2; k++) {
        dl_context *c = dl_create(&(dl_config){ .threads = 1 });
        dl_tensor x = product(c, 150, 300);
        if (k) dl_mul_scalar(dl_sigmoid(dl_add_scalar(dl_relu(x), 1)), 2);
        dl_end(c);
        used[k] = dl_memory_used(c).work;
        dl_destroy(c);
    }
    CHECK(used[1] - used[0] <= 2 * 64 * sizeof(dl_real), "%zu and %zu bytes", used[0], used[1]); /* tiles */
}

int main(void)
{
    RUN(same_bits);
    RUN(same_bits_kept);
    RUN(same_bits_read_in_mid_step);
    RUN(same_bits_of_second_gradients);
    RUN(few_launches);
    RUN(gradient_joins_its_product);
    RUN(head_that_is_kept);
    RUN(head_that_is_gone);
    RUN(eager_names_the_operation);
    RUN(less_memory);
    return REPORT();
}
