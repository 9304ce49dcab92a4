/* A microcontroller learns the digits: an MLP 64-32-10 with Adam in one static block, without files, threads, stdio or malloc.
   tests/check_firmware.sh makes samples.h (train_x, train_y, test_x, test_y) and runs this on a simulated Cortex-M4F. Status: 0 learnt.
   PRINT_HASH: on the computer, the hash of the weights; EXPECT: what it must be. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "samples.h"

static char memory[MEMORY];

static dl_tensor net(dl_tensor x) /* [N,64] -> [N,10] */
{
    return dl_linear(dl_relu(dl_linear(x, "fc1", 32)), "fc2", 10);
}

#ifdef PRINT_HASH
#include <stdio.h>
#endif

static inline uint32_t hash(dl_context *ctx) /* FNV-1a over the bits of the weights */
{
    uint32_t h = 2166136261u, u;
    dl_param_info p;
    for (int i = 0; i < dl_param_count(ctx) && dl_param_get(ctx, i, &p); i++)
        for (size_t k = 0; k < p.numel; k++) {
            memcpy(&u, &p.value[k], 4);
            for (int b = 0; b < 32; b += 8) h = (h ^ (u >> b & 255)) * 16777619u;
        }
    return h;
}

#ifdef HOSTED /* on the computer: how much memory does it take there? */
#include <stdio.h>
static void step(dl_context *ctx, void *user)
{
    static float x[8 * 64];
    static int32_t y[8];
    static dl_optimizer *opt;
    (void)user;
    if (!opt) opt = dl_adam(ctx, NULL);
    dl_backward(dl_cross_entropy(net(dl_borrow(ctx, DL_F32, DL_SHAPE(8, 64), x)), dl_borrow(ctx, DL_I32, DL_SHAPE(8), y)));
    dl_step(opt);
}
#endif

int main(void)
{
    static float x[8 * 64];
    static int32_t y[8];
    dl_config config = { 0 };
    config.seed = 1;
#ifdef HOSTED
    dl_memory m;
    dl_config one = { 0 };
    one.threads = 1;
    if (!dl_measure(&one, 4, step, NULL, &m)) return 4;
    printf("%u %u %u\n", (unsigned)m.persistent, (unsigned)m.tape, (unsigned)m.work);
    return 0;
#endif
    config.memory = memory;
    config.memory_size = sizeof memory;
    dl_context *ctx = dl_create(&config);
    dl_optimizer *opt = dl_adam(ctx, NULL);
    for (int epoch = 0; epoch < EPOCHS; epoch++)
        for (int at = 0; at + 8 <= TRAIN; at += 8) {
            for (int i = 0; i < 8; i++) {
                for (int k = 0; k < 64; k++) x[i * 64 + k] = (float)train_x[(at + i) * 64 + k] / 255.0f;
                y[i] = train_y[at + i];
            }
            dl_backward(dl_cross_entropy(net(dl_borrow(ctx, DL_F32, DL_SHAPE(8, 64), x)), dl_borrow(ctx, DL_I32, DL_SHAPE(8), y)));
            dl_step(opt);
            if (dl_failed(ctx)) return 2;
        }
#ifdef PRINT_HASH
    printf("%uu\n", (unsigned)hash(ctx));
    return 0;
#endif
#ifdef EXPECT
    if (hash(ctx) != EXPECT) return 5;
#endif
    int right = 0;
    dl_set_grad(ctx, false);
    for (int i = 0; i < TEST; i++) {
        for (int k = 0; k < 64; k++) x[k] = (float)test_x[i * 64 + k] / 255.0f;
        right += (int)dl_item(dl_argmax(net(dl_borrow(ctx, DL_F32, DL_SHAPE(1, 64), x)), 1, false)) == test_y[i];
        dl_end(ctx);
    }
    if (dl_failed(ctx)) return 3;
    return right * 100 >= TEST * 90 ? 0 : 100 - right * 100 / TEST; /* the error in percent, when it is above 10 */
}
