/* One seed, one result: planned, eager, without reuse, without fusion, read in mid-step, on 1 to 4 threads, portable or SIMD; alone or
   in a batch.
   tests: tsan */
#include "../dltrain.h"
#include "test.h"
#include "nets.h"

typedef struct mode { const char *name; bool eager, no_reuse, no_fusion, read; int threads; } mode;

static uint64_t trained(const net *n, const mode *m)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.seed = 7;
    c.threads = m->threads;
    c.eager = m->eager;
    c.no_reuse = m->no_reuse;
    c.no_fusion = m->no_fusion;
    return net_train(n, &c, 5, m->read);
}

static void one_hash(const net *n)
{
    static const mode modes[] = {
        { "eager", true, false, false, false, 1 },       { "no reuse", false, true, false, false, 1 },
        { "no fusion", false, false, true, false, 1 },   { "neither", false, true, true, false, 2 },
        { "read in mid-step", false, false, false, true, 1 }, { "2 threads", false, false, false, false, 2 },
        { "3 threads", false, false, false, false, 3 },  { "4 threads", false, false, false, false, 4 },
        { "eager, 3 threads", true, false, false, true, 3 },
    };
    static const mode plain = { "planned", false, false, false, false, 1 };
    uint64_t want = trained(n, &plain);
    CHECK(want != 0, "training failed");
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        uint64_t got = trained(n, &modes[i]);
        CHECK(got == want, "%s, %s: %016llx, planned %016llx", n->name, modes[i].name, (unsigned long long)got, (unsigned long long)want);
    }
}

static void mlp(void) { one_hash(&nets[0]); }
static void cnn(void) { one_hash(&nets[1]); }
static void resnet(void) { one_hash(&nets[2]); }
static void gpt(void) { one_hash(&nets[3]); }

/* Rule 2 depends on K alone: a sample gives the bits of its row in a batch, and a column those of its place among others. */
static void row_of_a_batch(void)
{
    static const int shapes[][2] = { { 1, 1 }, { 7, 8 }, { 8, 7 }, { 16, 16 }, { 17, 300 }, { 31, 255 }, { 40, 256 }, { 63, 257 }, { 65, 520 }, { 130, 100 } };
    enum { ROWS = 7, MOST = 130 * 520 };
    static float a[ROWS * 520], b[MOST], bias[130], batch[ROWS * 130], alone[130], column[ROWS];
    for (int i = 0; i < ROWS * 520; i++) a[i] = (float)((i * 7919 % 1013) - 500) / 317;
    for (int i = 0; i < MOST; i++) b[i] = (float)(i % 2003 * 811 % 2003 - 1000) / 613;
    for (int i = 0; i < 130; i++) bias[i] = (float)i / 7;
    for (int simd = 0; simd < 2; simd++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int turned = 0; turned < 2; turned++) {
                dl_index n = shapes[s][0], k = shapes[s][1];
                dl_matmul_desc desc = { .transpose_b = turned };
                dl_context *c = dl_create(&(dl_config){ .threads = 1, .simd = simd ? NULL : "portable" });
                dl_shape of_b = turned ? DL_SHAPE(n, k) : DL_SHAPE(k, n);
                dl_read(dl_add(dl_matmul_ex(dl_input(c, DL_F32, DL_SHAPE(ROWS, k), a), dl_input(c, DL_F32, of_b, b), &desc), dl_input(c, DL_F32, DL_SHAPE(n), bias)),
                    batch, (size_t)(ROWS * n));
                for (int r = 0; r < ROWS; r++) {
                    dl_read(dl_add(dl_matmul_ex(dl_input(c, DL_F32, DL_SHAPE(1, k), a + r * k), dl_input(c, DL_F32, of_b, b), &desc), dl_input(c, DL_F32, DL_SHAPE(n), bias)),
                        alone, (size_t)n);
                    CHECK(!memcmp(alone, batch + r * n, (size_t)n * sizeof *alone), "[1,%d] x [%d,%d], b %s, %s: not its row of a batch", (int)k, (int)k, (int)n,
                        turned ? "transposed" : "as it is", simd ? "SIMD" : "portable");
                }
                if (turned) { /* the first column: a matrix times a vector */
                    dl_read(dl_matmul_ex(dl_input(c, DL_F32, DL_SHAPE(ROWS, k), a), dl_input(c, DL_F32, DL_SHAPE(1, k), b), &desc), column, ROWS);
                    for (int r = 0; r < ROWS; r++) CHECK(column[r] + bias[0] == batch[r * n], "[%d,%d] x [%d,1]: not its column", ROWS, (int)k, (int)k);
                    dl_read(dl_matmul_ex(dl_input(c, DL_F32, DL_SHAPE(n, k), b), dl_input(c, DL_F32, DL_SHAPE(1, k), a), &desc), alone, (size_t)n);
                    for (int j = 0; j < n; j++) CHECK(alone[j] + bias[j] == batch[j], "[%d,%d] x [%d,1]: row %d is not its column", (int)n, (int)k, (int)k, j);
                }
                CHECK(!dl_failed(c), "%s", dl_error(c));
                dl_destroy(c);
            }
}

int main(void)
{
    RUN(mlp);
    RUN(cnn);
    RUN(resnet);
    RUN(gpt);
    RUN(row_of_a_batch);
    return REPORT();
}
