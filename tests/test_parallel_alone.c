/* Built without threads: one replica, shards in turn, and the replicas of dl_data_parallel one after the other. There are no devices
   then, and yet a wrong name in dl_config is one.
   tests: with -DDLTRAIN_NO_THREADS -DDLTRAIN_NO_SIMD */
#include "../dltrain.h"
#include "test.h"
#include "inside.h"

static dl_tensor net(dl_tensor x) { return dl_linear(dl_tanh(dl_linear(x, "fc1", 5)), "fc2", 3); }

static dl_tensor part(dl_context *ctx, size_t first, size_t n, dl_tensor *y)
{
    static float x[12 * 4];
    static int32_t t[12];
    for (int i = 0; i < 48; i++) x[i] = (float)(i * i % 17) / 8 - 1;
    for (int i = 0; i < 12; i++) t[i] = i % 3;
    *y = dl_input(ctx, DL_I32, DL_SHAPE((dl_index)n), t + first);
    return dl_input(ctx, DL_F32, DL_SHAPE((dl_index)n, 4), x + 4 * first);
}

static void train(dl_context *ctx, dl_comm *comm, void *user)
{
    double *loss = (double *)user;
    int shards = inside_parts(ctx) ? inside_parts(ctx) : 1;
    size_t first, n;
    dl_optimizer *opt = dl_sgd(ctx, &(dl_sgd_desc){ .lr = 0.5f });
    dl_accumulator *acc = dl_accumulator_create(opt, &(dl_accumulator_desc){ .steps = 1 });
    dl_tensor y;
    for (int step = 0; step < 30; step++)
        for (int s = 0; s < shards; s++) {
            dl_shard(12, s, shards, &first, &n);
            dl_tensor x = part(ctx, first, n, &y);
            dl_accumulate(acc, dl_cross_entropy(net(x), y), n);
        }
    dl_tensor x = part(ctx, 0, 12, &y);
    *loss = dl_item(dl_cross_entropy(net(x), y));
    dl_barrier(comm);
}

static void one_replica(void)
{
    double loss[2] = { 0, 0 };
    char error[256];
    dl_launch_desc d = { .error = error, .error_size = sizeof error };
    CHECK(dl_launch(&d, train, &loss[0]), "%s", error);
    d.invariant_shards = 4;
    CHECK(dl_launch(&d, train, &loss[1]), "%s", error);
    CHECK(loss[0] > 0 && fabs(loss[0] - loss[1]) < 1e-5, "%g %g", loss[0], loss[1]);
    d.replicas = 4;
    CHECK(!dl_launch(&d, train, &loss[1]) && strstr(error, "DLTRAIN_NO_THREADS"), "%s", error);
}

static void data_parallel(void)
{
    double loss[2];
    dl_tensor y;
    for (int k = 0; k < 2; k++) {
        dl_context *ctx = dl_create(NULL);
        dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = k ? "cpu,cpu,cpu" : "cpu", .model = net });
        dl_optimizer *opt = dl_sgd(ctx, &(dl_sgd_desc){ .lr = 0.5f });
        for (int step = 0; step < 10; step++) {
            dl_tensor x = part(ctx, 0, 12, &y);
            if (step % 2) dl_data_parallel_backward(dp, x, y, &loss[k]);
            else dl_backward(dl_cross_entropy(dl_data_parallel_forward(dp, x), y));
            dl_step(opt);
        }
        CHECK(!dl_failed(ctx), "%s", dl_error(ctx));
        dl_destroy(ctx);
    }
    CHECK(fabs(loss[0] - loss[1]) < 1e-6, "%g %g", loss[0], loss[1]);
}

static void wrong_names(void)
{
    static const struct { dl_config config; const char *says; } rows[] = {
        { { .matmul_precision = "bf-16" }, "no matmul_precision 'bf-16'; it can be 'highest' (fp32), 'tf32' (PyTorch's high) or 'bf16'" },
        { { .blas = "mkl" }, "no blas 'mkl'; it can be 'own' or 'cublas'" },
        { { .device = "cuda:0" }, "no device 'cuda:0'; it can be 'cpu'" },
        { { .simd = "mmx" }, "no simd 'mmx'; it can be portable" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        dl_context *ctx = dl_create(&rows[i].config);
        CHECK(dl_failed(ctx) && strstr(dl_error(ctx), rows[i].says), "row %d: '%s'", (int)i, dl_error(ctx));
        dl_destroy(ctx);
    }
    dl_context *ctx = dl_create(&(dl_config){ .device = "cpu", .matmul_precision = "bf16", .blas = "cublas", .simd = "portable" });
    CHECK(!dl_failed(ctx), "%s", dl_error(ctx));
    dl_destroy(ctx);
}

int main(void)
{
    RUN(wrong_names);
    RUN(one_replica);
    RUN(data_parallel);
    return REPORT();
}
