/* Memory: none asked for after the first step, what dl_measure promised, one fixed block, and every allocation failure in turn.
   tests: valgrind */
#include "../dltrain.h"
#include "test.h"
#include "nets.h"

/* An allocator that counts, and fails at number `fail_at`. */
typedef struct counter { long calls, live, fail_at; } counter;
static void *count_alloc(size_t bytes, void *user)
{
    counter *c = (counter *)user;
    if (++c->calls == c->fail_at) return NULL;
    void *p = malloc(bytes);
    if (p) c->live++;
    return p;
}
static void count_release(void *p, void *user)
{
    if (p) ((counter *)user)->live--;
    free(p);
}

static dl_config counted(counter *c)
{
    dl_config config;
    memset(&config, 0, sizeof config);
    config.seed = 7;
    config.threads = 1;
    config.alloc = count_alloc;
    config.release = count_release;
    config.alloc_user = c;
    return config;
}

static void one_step(const net *n, dl_context *ctx, dl_optimizer *opt, int i)
{
    dl_tensor loss = n->loss(ctx, i);
    dl_backward(loss);
    dl_step(opt);
    (void)dl_item(loss);
}

static void no_malloc_after_the_first_step(void)
{
    for (int i = 0; i < 4; i++) {
        counter c = { 0, 0, 0 };
        dl_config config = counted(&c);
        dl_context *ctx = dl_create(&config);
        dl_optimizer *opt = nets[i].optimizer(ctx);
        one_step(&nets[i], ctx, opt, 0);
        long first = c.calls;
        for (int k = 1; k < 6; k++) one_step(&nets[i], ctx, opt, k);
        CHECK(!dl_failed(ctx), "%s: %s", nets[i].name, dl_error(ctx));
        CHECK(c.calls == first, "%s: %ld allocations in the first step, %ld later", nets[i].name, first, c.calls - first);
        dl_destroy(ctx);
        CHECK(c.live == 0, "%s: %ld blocks leaked", nets[i].name, c.live);
    }
}

static void every_allocation_failure(void)
{
    for (int i = 0; i < 4; i++)
        for (long at = 1;; at++) {
            counter c = { 0, 0, at };
            dl_config config = counted(&c);
            dl_context *ctx = dl_create(&config);
            bool reached;
            if (ctx) {
                dl_optimizer *opt = nets[i].optimizer(ctx);
                one_step(&nets[i], ctx, opt, 0);
                one_step(&nets[i], ctx, opt, 1);
                reached = c.calls >= at;
                CHECK(dl_failed(ctx) == reached, "%s, allocation %ld: %s", nets[i].name, at, reached ? "no error" : dl_error(ctx));
                if (reached) CHECK(strstr(dl_error(ctx), "out of memory"), "%s, allocation %ld: '%s'", nets[i].name, at, dl_error(ctx));
            } else reached = true;
            dl_destroy(ctx);
            CHECK(c.live == 0, "%s, allocation %ld: %ld blocks leaked", nets[i].name, at, c.live);
            if (!reached) break;
        }
}

/* After a failed allocation and dl_clear_error the context goes on, and with the same result. */
static void goes_on_after_a_failure(void)
{
    const net *n = &nets[0];
    dl_config plain;
    memset(&plain, 0, sizeof plain);
    plain.seed = 7;
    plain.threads = 1;
    for (long at = 2; at < 12; at++) {
        counter c = { 0, 0, at };
        dl_config config = counted(&c);
        dl_context *ctx = dl_create(&config);
        if (!ctx) continue;
        dl_clear_error(ctx);
        dl_optimizer *opt = n->optimizer(ctx);
        if (!opt) {
            dl_clear_error(ctx);
            opt = n->optimizer(ctx);
        }
        for (int k = 0; k < 3; k++) {
            dl_backward(n->loss(ctx, k));
            if (dl_failed(ctx)) { /* that step is lost; try it again */
                dl_clear_error(ctx);
                dl_zero_grad(ctx);
                dl_backward(n->loss(ctx, k));
            }
            dl_step(opt);
            if (dl_failed(ctx)) {
                dl_clear_error(ctx);
                dl_step(opt);
            }
        }
        CHECK(!dl_failed(ctx), "allocation %ld: %s", at, dl_error(ctx));
        dl_destroy(ctx);
    }
}

typedef struct measured { const net *n; dl_optimizer *opt; int step; } measured;
static void measure_step(dl_context *ctx, void *user)
{
    measured *m = (measured *)user;
    if (!m->opt) m->opt = m->n->optimizer(ctx);
    one_step(m->n, ctx, m->opt, m->step++);
}

static void measure_equals_use(void)
{
    for (int i = 0; i < 4; i++)
        for (int threads = 1; threads < 3; threads++) {
            measured m = { &nets[i], NULL, 0 };
            dl_config c;
            dl_memory said, used;
            memset(&c, 0, sizeof c);
            c.seed = 7;
            c.threads = threads;
            CHECK(dl_measure(&c, 0, measure_step, &m, &said), "dl_measure failed");
            dl_context *ctx = dl_create(&c);
            dl_optimizer *opt = nets[i].optimizer(ctx);
            for (int k = 0; k < 3; k++) one_step(&nets[i], ctx, opt, k);
            used = dl_memory_used(ctx);
            dl_destroy(ctx);
            CHECK(used.persistent == said.persistent && used.tape == said.tape && used.work == said.work, "%s: measured %zu %zu %zu, used %zu %zu %zu", nets[i].name,
                said.persistent, said.tape, said.work, used.persistent, used.tape, used.work);
        }
}

static void a_block_of_the_measured_size_is_enough(void)
{
    for (int i = 0; i < 4; i++) {
        measured m = { &nets[i], NULL, 0 };
        dl_config c;
        dl_memory said;
        memset(&c, 0, sizeof c);
        c.seed = 7;
        c.threads = 1;
        CHECK(dl_measure(&c, 0, measure_step, &m, &said), "dl_measure failed");
        uint64_t want = net_train(&nets[i], &c, 3, false);
        c.memory_size = said.persistent + said.tape + said.work;
        c.memory = malloc(c.memory_size + 8);
        char *odd = (char *)c.memory + 8; /* not aligned as the arena would have it */
        void *whole = c.memory;
        c.memory = odd;
        CHECK(net_train(&nets[i], &c, 3, false) == want, "%s: %zu bytes were not enough, or changed the result", nets[i].name, c.memory_size);
        c.memory_size -= c.memory_size / 4;
        dl_context *ctx = dl_create(&c);
        dl_optimizer *opt = nets[i].optimizer(ctx);
        for (int k = 0; k < 3; k++) one_step(&nets[i], ctx, opt, k);
        CHECK(dl_failed(ctx) && strstr(dl_error(ctx), "too small"), "%s: three quarters of the memory: '%s'", nets[i].name, dl_error(ctx));
        dl_destroy(ctx);
        free(whole);
    }
}

enum { LAYERS = 9 };
/* Convolutions of [4,8,16,16], each followed by batch_norm and an activation. The weights' hash after a step; *work:
   the most bytes of values. `keep`: the activations stay readable. */
static uint64_t blocks(dl_tensor (*activation)(dl_tensor x), bool retain, bool keep, size_t *work)
{
    dl_config c;
    dl_backward_desc how;
    dl_tensor kept[LAYERS];
    memset(&c, 0, sizeof c);
    memset(&how, 0, sizeof how);
    c.seed = 7;
    c.threads = 1;
    how.retain = retain;
    dl_context *ctx = dl_create(&c);
    dl_optimizer *opt = net_momentum(ctx);
    dl_tensor x = net_input(ctx, DL_SHAPE(4, 8, 16, 16), 1);
    for (int i = 0; i < LAYERS; i++) {
        char conv[] = "conv0", norm[] = "norm0";
        conv[4] = norm[4] = (char)('0' + i);
        x = kept[i] = activation(dl_batch_norm(net_conv(x, conv, 8, 1), norm, NULL));
        if (keep) dl_keep(x);
    }
    dl_tensor loss = dl_mean(dl_square(x));
    dl_backward_ex(loss, &how);
    for (int i = 0; keep && i < LAYERS; i++) CHECK(dl_data(kept[i]), "a kept value: %s", dl_error(ctx));
    *work = dl_memory_used(ctx).work;
    dl_end(ctx);
    dl_step(opt);
    CHECK(!dl_failed(ctx), "%s", dl_error(ctx));
    uint64_t hash = net_hash(ctx);
    dl_destroy(ctx);
    return hash;
}

/* Of a convolution, batch_norm and an activation only the convolution's output lies in memory until the backward pass. */
static void activations_of_batch_norm_are_made_again(void)
{
    static const struct { const char *name; dl_tensor (*f)(dl_tensor x); } activation[] = { { "relu", dl_relu }, { "silu", dl_silu } };
    const size_t value = 4 * 8 * 16 * 16 * sizeof(dl_real);
    for (size_t i = 0; i < sizeof activation / sizeof *activation; i++) {
        size_t work, all, kept;
        uint64_t hash = blocks(activation[i].f, false, false, &work);
        CHECK(work < (LAYERS + 6) * value, "%s: %zu bytes, %zu a value", activation[i].name, work, value);
        CHECK(blocks(activation[i].f, true, false, &all) == hash, "%s: another result when nothing is made again", activation[i].name);
        CHECK(blocks(activation[i].f, false, true, &kept) == hash, "%s: another result with kept values", activation[i].name);
    }
}

int main(void)
{
    RUN(no_malloc_after_the_first_step);
    RUN(every_allocation_failure);
    RUN(goes_on_after_a_failure);
    RUN(measure_equals_use);
    RUN(a_block_of_the_measured_size_is_enough);
    RUN(activations_of_batch_norm_are_made_again);
    return REPORT();
}
