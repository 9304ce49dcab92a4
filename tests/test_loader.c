/* Datasets and the loader: order, batches, what they hold, the end of steps, and the thread that prefetches.
   tests: tsan */
#if (defined(__unix__) || defined(__APPLE__)) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L /* before any header: nanosleep and alarm under -std=c99 */
#endif
#include "../dltrain.h"
#include "test.h"
#if defined(_POSIX_C_SOURCE)
#include <time.h>
#include <unistd.h>
#endif
#define COUNT_OF(a) (sizeof(a) / sizeof *(a))
enum { N = 23, W = 3 };

static dl_context *context(uint64_t seed)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.seed = seed;
    c.threads = 1;
    return dl_create(&c);
}

static dl_real value_at(size_t sample, size_t k) { return (dl_real)(sample * 8 + k) / 4; }

/* A user's dataset. Called from the thread that prefetches, so its counters are read only when no batch is on its way. */
typedef struct source { size_t fails_at; bool slow, broken, mends; int calls; } source; /* mends: fails only once */

static void nap(void)
{
#if defined(_POSIX_VERSION)
    struct timespec t = { 0, 300000 };
    nanosleep(&t, NULL);
#endif
}

static bool get(void *user, size_t index, void *x, void *y)
{
    source *s = (source *)user;
    s->calls++;
    if (s->slow) nap();
    if (s->broken && index == s->fails_at) {
        s->broken = !s->mends;
        return false;
    }
    for (size_t k = 0; k < W; k++) ((dl_real *)x)[k] = value_at(index, k);
    if (y) *(int32_t *)y = (int32_t)index * 10;
    return true;
}

static dl_dataset *made(dl_context *c, size_t count, source *s)
{
    dl_dataset_desc d;
    memset(&d, 0, sizeof d);
    d.count = count;
    d.x_dtype = DL_F32;
    d.y_dtype = DL_I32;
    d.x_shape = DL_SHAPE(W);
    d.y_shape = DL_SCALAR;
    d.get = get;
    d.user = s;
    return dl_dataset_create(c, &d);
}

static dl_loader_desc loader(size_t batch, bool shuffle, bool prefetch)
{
    dl_loader_desc d;
    memset(&d, 0, sizeof d);
    d.batch = batch;
    d.shuffle = shuffle;
    d.prefetch = prefetch;
    return d;
}

/* Does the batch hold what its index says? */
static bool right(const dl_batch *b)
{
    dl_real x[64 * W];
    int32_t y[64];
    if (b->count > 64 || dl_ndim(b->x) != 2 || dl_dim(b->x, 0) != (dl_index)b->count || dl_dim(b->x, 1) != W
        || dl_ndim(b->y) != 1) return false;
    if (!dl_read(b->x, x, b->count * W) || !dl_read(b->y, y, b->count)) return false;
    for (size_t i = 0; i < b->count; i++) {
        if (y[i] != (int32_t)b->index[i] * 10) return false;
        for (size_t k = 0; k < W; k++)
            if (x[i * W + k] != value_at(b->index[i], k)) return false;
    }
    return true;
}

/* The order of the next epoch; how many samples came, each checked. */
static size_t epoch(dl_loader *l, size_t *order, size_t most)
{
    dl_batch b;
    size_t n = 0;
    while (dl_next(l, &b)) {
        CHECK(right(&b), "a batch does not hold what its index says");
        for (size_t i = 0; i < b.count && n < most; i++) order[n++] = b.index[i];
    }
    return n;
}

static bool once_each(const size_t *order, size_t n, size_t count)
{
    char seen[4096] = { 0 };
    for (size_t i = 0; i < n; i++)
        if (order[i] >= count || seen[order[i]]++) return false;
    return n == count;
}

/* ---- what a batch holds ---- */
static void in_memory(void)
{
    static dl_real x[N * W];
    static int32_t y[N];
    dl_context *c = context(1);
    dl_dataset_desc d;
    for (size_t i = 0; i < N; i++) {
        y[i] = (int32_t)i * 10;
        for (size_t k = 0; k < W; k++) x[i * W + k] = value_at(i, k);
    }
    memset(&d, 0, sizeof d);
    d.count = N;
    d.x_dtype = DL_F32;
    d.y_dtype = DL_I32;
    d.x_shape = DL_SHAPE(W);
    d.y_shape = DL_SCALAR;
    d.x = x;
    d.y = y;
    dl_dataset *data = dl_dataset_create(c, &d);
    CHECK(data && dl_dataset_count(data) == N && dl_dataset_x_shape(data).ndim == 1 && dl_dataset_x_shape(data).dim[0] == W, "%s",
        dl_error(c));
    for (size_t batch = 1; batch <= N + 2; batch++) {
        dl_loader_desc desc = loader(batch, batch % 2, batch % 3 == 0);
        dl_loader *l = dl_loader_create(data, &desc);
        size_t order[N];
        CHECK(once_each(order, epoch(l, order, N), N), "batches of %zu: %s", batch, dl_error(c));
    }
    dl_loader *l = dl_loader_create(data, NULL); /* one by one, in order */
    dl_batch b;
    size_t n = 0;
    while (dl_next(l, &b)) {
        CHECK(b.count == 1 && b.index[0] == n && right(&b), "sample %zu", n);
        n++;
    }
    CHECK(n == N && dl_loader_batches(l) == N && !dl_failed(c), "%zu batches. %s", n, dl_error(c));
    dl_destroy(c);
}

static void dtypes(void) /* I32 and F32 come as they are, bytes as [0,1] and as classes */
{
    static const uint8_t bytes[6] = { 0, 1, 127, 128, 254, 255 };
    static const int32_t ints[6] = { INT32_MIN, -1, 0, 1, 7, INT32_MAX };
    static const dl_real reals[6] = { (dl_real)-0.5, 0, 1, (dl_real)1e30, (dl_real)1e-30, 3 };
    static const void *const of[3] = { reals, ints, bytes }; /* by dl_dtype */
    for (int xt = 0; xt < 3; xt++)
        for (int yt = 0; yt < 3; yt++)
            for (int prefetch = 0; prefetch < 2; prefetch++) {
                dl_context *c = context(1);
                dl_dataset_desc d;
                dl_batch b;
                size_t at = 0;
                memset(&d, 0, sizeof d);
                d.count = 3;
                d.x_dtype = (dl_dtype)xt;
                d.y_dtype = (dl_dtype)yt;
                d.x_shape = DL_SHAPE(2, 1);
                d.y_shape = DL_SHAPE(2);
                d.x = of[xt];
                d.y = of[yt];
                dl_loader_desc desc = loader(2, false, prefetch);
                dl_loader *l = dl_loader_create(dl_dataset_create(c, &d), &desc);
                while (dl_next(l, &b)) {
                    dl_real fx[4], fy[4];
                    int32_t ix[4], iy[4];
                    CHECK(dl_dtype_of(b.x) == (xt == DL_I32 ? DL_I32 : DL_F32) && dl_dtype_of(b.y) == (yt == DL_F32 ? DL_F32 : DL_I32),
                        "dtypes %d and %d", xt, yt);
                    CHECK(dl_ndim(b.x) == 3 && dl_ndim(b.y) == 2 && dl_numel(b.x) == 2 * b.count && dl_numel(b.y) == 2 * b.count, "shapes");
                    CHECK(dl_read(b.x, xt == DL_I32 ? (void *)ix : (void *)fx, 2 * b.count) && dl_read(b.y, yt == DL_F32 ? (void *)fy
                        : (void *)iy, 2 * b.count), "%s", dl_error(c));
                    for (size_t i = 0; i < 2 * b.count && !dl_failed(c); i++) {
                        CHECK(xt == DL_I32 ? ix[i] == ints[at + i] : fx[i] == (xt == DL_F32 ? reals[at + i]
                            : (dl_real)bytes[at + i] / 255), "x %d, element %zu", xt, at + i);
                        CHECK(yt == DL_F32 ? fy[i] == reals[at + i] : iy[i] == (yt == DL_I32 ? ints[at + i] : bytes[at + i]),
                            "y %d, element %zu", yt, at + i);
                    }
                    at += 2 * b.count;
                }
                CHECK(at == 6 && !dl_failed(c), "%zu elements. %s", at, dl_error(c));
                dl_destroy(c);
            }
}

static void no_y(void)
{
    for (int prefetch = 0; prefetch < 2; prefetch++) {
        dl_context *c = context(1);
        source s = { 0 };
        dl_dataset_desc d;
        dl_batch b;
        int n = 0;
        memset(&d, 0, sizeof d);
        d.count = 5;
        d.x_shape = DL_SHAPE(W);
        d.no_y = true;
        d.get = get;
        d.user = &s;
        dl_loader_desc desc = loader(2, false, prefetch);
        dl_loader *l = dl_loader_create(dl_dataset_create(c, &d), &desc);
        for (; dl_next(l, &b); n++) CHECK(!dl_ok(b.y) && dl_dim(b.x, 0) == (dl_index)b.count, "a y, or a wrong x");
        CHECK(n == 3 && !dl_failed(c), "%d batches. %s", n, dl_error(c));
        dl_destroy(c);
    }
}

static void partial_batches(void)
{
    for (size_t count = 1; count <= 12; count++)
        for (size_t batch = 1; batch <= 14; batch++)
            for (int drop = 0; drop < 2; drop++)
                for (int prefetch = 0; prefetch < 2; prefetch++) {
                    dl_context *c = context(1);
                    source s = { 0 };
                    dl_batch b;
                    size_t batches = 0, samples = 0, kept = drop ? count / batch * batch : count;
                    dl_loader_desc desc = loader(batch, true, prefetch);
                    desc.drop_last = drop;
                    dl_loader *l = dl_loader_create(made(c, count, &s), &desc);
                    if (!kept) { /* none at all */
                        CHECK(!l && strstr(dl_error(c), "dl_loader_create") && strstr(dl_error(c), "drop_last"), "'%s'", dl_error(c));
                        dl_destroy(c);
                        continue;
                    }
                    while (dl_next(l, &b)) {
                        CHECK(b.count <= batch && b.count > 0 && (b.count == batch || (!drop && samples + b.count == count)),
                            "%zu of %zu: a batch of %zu", batch, count, b.count);
                        CHECK(right(&b), "wrong values");
                        batches++;
                        samples += b.count;
                    }
                    CHECK(samples == kept && batches == dl_loader_batches(l) && !dl_failed(c),
                        "%zu of %zu, drop %d: %zu samples in %zu batches, dl_loader_batches says %zu. %s",
                        batch, count, drop, samples, batches, dl_loader_batches(l), dl_error(c));
                    dl_destroy(c);
                }
}

static void empty_dataset(void)
{
    for (int k = 0; k < 8; k++) {
        dl_context *c = context(1);
        source s = { 0 };
        dl_batch b;
        dl_loader_desc desc = loader(4, k & 1, k & 2);
        desc.torch_order = k & 4;
        dl_loader *l = dl_loader_create(made(c, 0, &s), &desc);
        CHECK(l && !dl_loader_batches(l), "%s", dl_error(c));
        for (int i = 0; i < 3; i++) CHECK(!dl_next(l, &b), "a batch of nothing");
        CHECK(dl_loader_rewind(l, 7) && !dl_next(l, &b), "a batch after the rewind");
        CHECK(!dl_failed(c) && !s.calls, "%s", dl_error(c));
        dl_destroy(c);
    }
}

/* ---- order ---- */
static void shuffling(void)
{
    size_t first[N], order[N], again[N], other[N];
    dl_context *c = context(1), *d = context(1), *e = context(2);
    source s = { 0 };
    dl_loader_desc desc = loader(4, true, false), two = loader(7, true, true);
    dl_loader *l = dl_loader_create(made(c, N, &s), &desc), *m = dl_loader_create(made(d, N, &s), &two), *o = dl_loader_create(made(e, N,
        &s), &desc);
    bool sorted = true;
    for (int k = 0; k < 20; k++) {
        CHECK(once_each(order, epoch(l, order, N), N), "epoch %d: not every sample once", k);
        if (!k) memcpy(first, order, sizeof first);
        else CHECK(memcmp(first, order, sizeof first), "epoch %d is epoch 0", k);
        CHECK(epoch(m, again, N) == N && !memcmp(order, again, sizeof order), "epoch %d: one seed, two orders", k);
        CHECK(epoch(o, other, N) == N && memcmp(order, other, sizeof order), "epoch %d: two seeds, one order", k);
    }
    for (size_t i = 0; i < N; i++) sorted = sorted && first[i] == i;
    CHECK(!sorted, "nothing was shuffled");
    CHECK(!dl_failed(c) && !dl_failed(d) && !dl_failed(e), "%s%s%s", dl_error(c), dl_error(d), dl_error(e));
    dl_destroy(c);
    dl_destroy(d);
    dl_destroy(e);
}

static void evenly(void) /* over many epochs every sample comes first about equally often */
{
    dl_context *c = context(9);
    source s = { 0 };
    int count[6] = { 0 };
    dl_batch b;
    dl_loader_desc desc = loader(6, true, false);
    dl_loader *l = dl_loader_create(made(c, 6, &s), &desc);
    for (int k = 0; k < 6000; k++)
        for (; dl_next(l, &b);) count[b.index[0]]++;
    for (int i = 0; i < 6; i++) CHECK(count[i] > 850 && count[i] < 1150, "sample %d came first %d times of 6000", i,
        count[i]); /* 5 sigma: 144 */
    dl_destroy(c);
}

/* torch.randperm(10, generator=torch.Generator().manual_seed(seed)), PyTorch 2.13 */
static const struct { uint32_t seed; size_t order[10]; } torch10[] = {
    { 0, { 4, 1, 7, 5, 3, 9, 0, 8, 6, 2 } },
    { 1, { 5, 6, 1, 2, 0, 8, 9, 3, 7, 4 } },
    { 42, { 2, 6, 1, 8, 4, 5, 0, 9, 3, 7 } },
};
/* h = 0xcbf29ce484222325; for v in torch.randperm(1000, ...): h = (h ^ v) * 0x100000001b3 mod 2^64 */
static const struct { uint32_t seed; uint64_t hash; } torch1000[] = { { 0, 0x7ed880462a855ad9u }, { 1, 0xc273107c19736b81u }, { 42,
    0x7593c28448000885u } };

static void torch_order(void)
{
    size_t order[1000];
    for (size_t i = 0; i < COUNT_OF(torch10); i++) {
        dl_randperm(torch10[i].seed, order, 10);
        CHECK(!memcmp(order, torch10[i].order, sizeof torch10[i].order), "dl_randperm of seed %u is not PyTorch's",
            (unsigned)torch10[i].seed);
        dl_context *c = context(torch10[i].seed);
        source s = { 0 };
        dl_loader_desc desc = loader(3, true, i & 1);
        desc.torch_order = true;
        dl_loader *l = dl_loader_create(made(c, 10, &s), &desc);
        CHECK(epoch(l, order, 10) == 10 && !memcmp(order, torch10[i].order, sizeof torch10[i].order),
            "the loader's order of seed %u is not PyTorch's", (unsigned)torch10[i].seed);
        if (torch10[i].seed == 0) CHECK(epoch(l, order, 10) == 10 && !memcmp(order, torch10[1].order, sizeof torch10[1].order),
            "epoch 1 of seed 0 is not epoch 0 of seed 1");
        dl_destroy(c);
    }
    for (size_t i = 0; i < COUNT_OF(torch1000); i++) {
        uint64_t h = 0xcbf29ce484222325u;
        dl_randperm(torch1000[i].seed, order, 1000);
        for (int k = 0; k < 1000; k++) h = (h ^ order[k]) * 0x100000001b3u;
        CHECK(h == torch1000[i].hash && once_each(order, 1000, 1000), "1000 of seed %u: %016llx", (unsigned)torch1000[i].seed,
            (unsigned long long)h);
    }
    order[0] = 5;
    dl_randperm(3, order, 0);
    CHECK(order[0] == 5, "a permutation of nothing wrote something");
    dl_randperm(3, order, 1);
    CHECK(order[0] == 0, "a permutation of one");
}

static void rewinding(void)
{
    for (int prefetch = 0; prefetch < 2; prefetch++) {
        size_t of[4][N], order[N];
        dl_context *c = context(1);
        source s = { 0 };
        dl_batch b;
        dl_loader_desc desc = loader(4, true, prefetch);
        dl_loader *l = dl_loader_create(made(c, N, &s), &desc);
        for (int k = 0; k < 4; k++) epoch(l, of[k], N);
        for (int k = 3; k >= 0; k--) {
            CHECK(dl_loader_rewind(l, (uint64_t)k), "%s", dl_error(c));
            CHECK(epoch(l, order, N) == N && !memcmp(order, of[k], sizeof order), "epoch %d again differs", k);
        }
        CHECK(epoch(l, order, N) == N && !memcmp(order, of[1], sizeof order), "after epoch 0 comes 1");
        for (size_t stop = 0; stop <= dl_loader_batches(l); stop++) { /* in mid-epoch, after every batch of it; twice in a row */
            for (size_t i = 0; i < stop; i++) CHECK(dl_next(l, &b) && right(&b), "batch %zu: %s", i, dl_error(c));
            CHECK(dl_loader_rewind(l, 1) && dl_loader_rewind(l, 2), "%s", dl_error(c));
            CHECK(epoch(l, order, N) == N && !memcmp(order, of[2], sizeof order), "epoch 2 after %zu batches of another differs", stop);
        }
        CHECK(!dl_failed(c), "%s", dl_error(c));
        dl_destroy(c);
    }
}

/* ---- ranks of a world ---- */
/* What rank gets in the next epoch, of a dataset of n samples. */
static size_t part(size_t n, const dl_loader_desc *desc, uint64_t seed, size_t *order, size_t most)
{
    dl_context *c = context(seed);
    source s = { 0 };
    dl_loader *l = dl_loader_create(made(c, n, &s), desc);
    size_t got = epoch(l, order, most);
    CHECK(l && !dl_failed(c), "%s", dl_error(c));
    CHECK(desc->drop_last && desc->split != DL_SPLIT_BATCH ? got == dl_loader_samples(l) / desc->batch * desc->batch : got == dl_loader_samples(l),
        "%zu samples, dl_loader_samples says %zu", got, dl_loader_samples(l));
    dl_destroy(c);
    return got;
}

static void as_distributed_sampler(void) /* torch.utils.data.DistributedSampler(range(n), world, rank, shuffle=False, drop_last=...) */
{
    static const struct { size_t n; int world; bool drop; size_t each; size_t of[8][3]; } cases[] = {
        { 10, 4, false, 3, { { 0, 4, 8 }, { 1, 5, 9 }, { 2, 6, 0 }, { 3, 7, 1 } } },
        { 10, 4, true, 2, { { 0, 4 }, { 1, 5 }, { 2, 6 }, { 3, 7 } } },
        { 3, 8, false, 1, { { 0 }, { 1 }, { 2 }, { 0 }, { 1 }, { 2 }, { 0 }, { 1 } } },
        { 8, 4, false, 2, { { 0, 4 }, { 1, 5 }, { 2, 6 }, { 3, 7 } } },
    };
    for (size_t k = 0; k < COUNT_OF(cases); k++)
        for (int rank = 0; rank < cases[k].world; rank++) {
            size_t order[16];
            dl_loader_desc d = loader(1, false, rank & 1);
            d.rank = rank;
            d.world = cases[k].world;
            d.drop_last = cases[k].drop;
            size_t got = part(cases[k].n, &d, 1, order, 16);
            CHECK(got == cases[k].each && !memcmp(order, cases[k].of[rank], got * sizeof *order), "%zu samples, rank %d of %d: %zu, first %zu",
                cases[k].n, rank, d.world, got, order[0]);
            d.torch_order = true; /* the same places of torch.randperm(10), seed 42 */
            if (cases[k].n != 10) continue;
            got = part(10, &d, 42, order, 16);
            for (size_t i = 0; i < got; i++)
                CHECK(order[i] == torch10[2].order[cases[k].of[rank][i]], "shuffled, rank %d: sample %zu", rank, i);
        }
}

static void each_once(void) /* neither left out nor twice, whatever divides what */
{
    for (size_t n = 1; n <= 14; n++)
        for (int world = 1; world <= 5; world++)
            for (size_t batch = 1; batch <= 7; batch++)
                for (int split = DL_SPLIT_ONCE; split <= DL_SPLIT_BATCH; split++) {
                    size_t all[64], got = 0;
                    for (int rank = 0; rank < world; rank++) {
                        dl_loader_desc d = loader(batch, true, false);
                        d.rank = rank;
                        d.world = world;
                        d.split = (dl_split)split;
                        if (split == DL_SPLIT_BATCH && batch < (size_t)world) d.batch = (size_t)world;
                        got += part(n, &d, 5, all + got, 64 - got);
                    }
                    CHECK(once_each(all, got, n), "split %d, %zu samples, %d ranks, batches of %zu: %zu came", split, n, world, batch, got);
                }
}

static void batches_in_parts(void) /* the ranks' parts, side by side, are the batches of one rank */
{
    for (size_t n = 1; n <= 30; n++)
        for (int world = 1; world <= 4; world++)
            for (int k = 0; k < 8; k++) {
                dl_context *c = context(5);
                source s[4] = { { 0 } };
                dl_batch b;
                size_t one[64], done[4], all, at = 0;
                int per = k % 4 + 1, shards = per * world;
                dl_loader *l[4];
                dl_loader_desc d = loader((size_t)shards + 3, true, k == 3);
                d.drop_last = k >= 4;
                if (d.drop_last && n < d.batch) d.batch = (size_t)shards;
                if (d.drop_last && n < d.batch) d.drop_last = false;
                all = part(n, &d, 5, one, 64);
                d.world = world;
                d.split = DL_SPLIT_BATCH;
                d.shards = per > 1 ? shards : 0;
                for (d.rank = 0; d.rank < world; d.rank++) l[d.rank] = dl_loader_create(made(c, n, &s[d.rank]), &d), done[d.rank] = 0;
                for (size_t batches = 0; at < all; batches++)
                    for (int shard = 0; shard < shards; shard++) {
                        size_t first, count, size = n - batches * d.batch < d.batch ? n - batches * d.batch : d.batch;
                        dl_shard(size, shard, shards, &first, &count);
                        if (!count) continue;
                        bool ok = dl_next(l[shard / per], &b) && ++done[shard / per] && right(&b) && b.count == count && !memcmp(b.index, one + at, count * sizeof *one);
                        CHECK(ok, "%zu samples, %d ranks, %d shards, batch %zu, shard %d. %s", n, world, shards, batches, shard, dl_error(c));
                        at += count;
                        dl_end(c);
                    }
                for (int r = 0; r < world; r++) {
                    CHECK(l[r] && done[r] == dl_loader_batches(l[r]), "%zu samples, rank %d of %d, %d shards: %zu batches, dl_loader_batches says %zu. %s", n, r,
                        world, shards, done[r], dl_loader_batches(l[r]), dl_error(c));
                    CHECK(!dl_next(l[r], &b), "%zu samples, %d ranks: rank %d has more", n, world, r);
                }
                dl_destroy(c);
            }
}

static void wrong_ranks(void)
{
    static const struct { int rank, world; dl_split split; const char *says; } cases[] = {
        { 4, 4, DL_SPLIT_PAD, "rank 4 of a world of 4" }, { -1, 2, DL_SPLIT_PAD, "rank -1" }, { 1, 0, DL_SPLIT_PAD, "rank 1 of a world of 0" },
        { 0, -2, DL_SPLIT_PAD, "world of -2" }, { 0, 2, (dl_split)7, "no way 7 to split" }, { 0, 3, DL_SPLIT_BATCH, "batches of 2 samples in 3 shards for 3 ranks" },
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        dl_context *c = context(1);
        source s = { 0 };
        dl_loader_desc d = loader(2, false, false);
        d.rank = cases[i].rank;
        d.world = cases[i].world;
        d.split = cases[i].split;
        CHECK(!dl_loader_create(made(c, 9, &s), &d) && strstr(dl_error(c), cases[i].says), "'%s'", dl_error(c));
        dl_destroy(c);
    }
}

/* ---- steps ---- */
static void ends_the_step(void)
{
    for (int prefetch = 0; prefetch < 2; prefetch++) {
        dl_context *c = context(1);
        source s = { 0 };
        dl_batch a, b;
        dl_loader_desc desc = loader(4, false, prefetch);
        dl_loader *l = dl_loader_create(made(c, 8, &s), &desc);
        CHECK(dl_next(l, &a), "%s", dl_error(c));
        dl_tensor sum = dl_keep(dl_sum(a.x));
        CHECK(dl_next(l, &b), "%s", dl_error(c));
        CHECK(right(&b), "the second batch");
        CHECK(a.x.step != b.x.step, "two batches of one step");
        CHECK(!dl_ok(dl_neg(sum)), "a tensor of the step before still works");
        CHECK(dl_failed(c) && *dl_error(c), "without an error");
        dl_clear_error(c);
        CHECK(!dl_next(l, &b) && !dl_failed(c), "a third batch of two. %s", dl_error(c));
        CHECK(dl_next(l, &b) && b.index[0] == 0 && right(&b), "the next epoch: %s", dl_error(c));
        dl_destroy(c);
    }
}

static void runs_what_is_recorded(void) /* the batch may be overwritten by the next: what was recorded from it has run before */
{
    double want = 0, got = 0;
    for (int prefetch = 0; prefetch < 2; prefetch++) {
        dl_context *c = context(3);
        source s = { 0 };
        dl_batch b;
        dl_sgd_desc sgd;
        dl_param_info p;
        memset(&sgd, 0, sizeof sgd);
        sgd.lr = (dl_real)1e-3;
        dl_optimizer *opt = dl_sgd(c, &sgd);
        dl_loader_desc desc = loader(5, true, prefetch);
        dl_loader *l = dl_loader_create(made(c, N, &s), &desc);
        for (int k = 0; k < 5; k++)
            while (dl_next(l, &b)) {
                dl_backward(dl_mean(dl_square(dl_sub(dl_linear(b.x, "fc", 1), dl_reshape(dl_to_float(b.y), DL_SHAPE(-1, 1))))));
                dl_step(opt);
            }
        CHECK(dl_param_find(c, "fc.weight", &p), "%s", dl_error(c));
        got = dl_failed(c) ? NAN : (double)p.value[0] + (double)p.value[1] * 3 + (double)p.value[2] * 7;
        if (!prefetch) want = got;
        dl_destroy(c);
    }
    CHECK(got == want, "training gave %.17g with prefetch, %.17g without", got, want);
}

static void two_loaders(void) /* a second loader in mid-epoch of the first, as validation does */
{
    dl_context *c = context(1);
    source s = { 0 }, t = { 0 };
    dl_batch a, b;
    dl_loader_desc desc = loader(5, true, true);
    dl_loader *l = dl_loader_create(made(c, N, &s), &desc), *m = dl_loader_create(made(c, 11, &t), &desc);
    size_t samples = 0, order[11];
    while (dl_next(l, &a)) {
        CHECK(right(&a), "the first loader");
        samples += a.count;
        dl_end(c);
        CHECK(once_each(order, epoch(m, order, 11), 11), "the second loader");
        if (dl_next(m, &b)) CHECK(right(&b), "the second loader, begun"), dl_end(c);
        CHECK(dl_loader_rewind(m, 3), "%s", dl_error(c));
    }
    CHECK(samples == N && !dl_failed(c), "%zu samples. %s", samples, dl_error(c));
    dl_destroy(c);
}

/* ---- prefetch ---- */
static void prefetch_same(void) /* many epochs, fast and slow; the order is that without */
{
    for (int slow = 0; slow < 2; slow++) {
        dl_context *c = context(4), *d = context(4);
        source s = { 0 }, t = { 0 };
        size_t one[N], two[N];
        dl_loader_desc plain = loader(3, true, false), desc = loader(3, true, true);
        dl_loader *l = dl_loader_create(made(c, N, &s), &plain), *m = dl_loader_create(made(d, N, &t), &desc);
        t.slow = slow;
        for (int k = 0; k < (slow ? 5 : 200); k++) {
            CHECK(epoch(l, one, N) == N && epoch(m, two, N) == N && !memcmp(one, two, sizeof one), "epoch %d differs. %s", k, dl_error(d));
        }
        CHECK(s.calls == t.calls, "%d and %d calls of get", s.calls, t.calls); /* the epoch is over: nothing is on its way */
        dl_destroy(c);
        dl_destroy(d);
    }
}

static void get_fails(void) /* in mid-epoch, at every sample: an error that names it, no hang, and after it the same sample again */
{
    for (int prefetch = 0; prefetch < 2; prefetch++)
        for (size_t bad = 0; bad < 11; bad++) {
            dl_context *c = context(1);
            source s = { 0 };
            dl_batch b;
            char says[40];
            size_t at = 0, order[11];
            s.broken = true;
            s.slow = bad % 3 == 0;
            s.fails_at = bad;
            dl_loader_desc desc = loader(4, false, prefetch);
            dl_loader *l = dl_loader_create(made(c, 11, &s), &desc);
            while (dl_next(l, &b)) {
                CHECK(right(&b), "wrong values before sample %zu", bad);
                at += b.count;
            }
            snprintf(says, sizeof says, "sample %zu", bad);
            CHECK(dl_failed(c) && strstr(dl_error(c), "dl_next") && strstr(dl_error(c), says), "'%s' does not name %s", dl_error(c), says);
            CHECK(at == bad / 4 * 4, "%zu samples before sample %zu", at, bad);
            CHECK(!dl_next(l, &b), "a batch after an error");
            dl_clear_error(c);
            for (int again = 0; again < 2; again++) { /* still broken: the same error, not the next batch */
                CHECK(!dl_next(l, &b) && strstr(dl_error(c), says), "prefetch %d, sample %zu failed, asked again: '%s'", prefetch, bad,
                    dl_error(c));
                dl_clear_error(c);
            }
            CHECK(dl_loader_rewind(l, 5), "%s", dl_error(c));
            s.broken = false; /* after a rewind the thread is at rest */
            CHECK(once_each(order, epoch(l, order, 11), 11), "prefetch %d, sample %zu: the epoch after the error is not whole. %s",
                prefetch, bad, dl_error(c));
            dl_destroy(c);
        }
}

static void fails_then_goes_on(void) /* a sample that could not be read once: the epoch goes on with its batch, nothing twice or left out */
{
    for (int prefetch = 0; prefetch < 2; prefetch++) {
        dl_context *c = context(1);
        source s = { 0 };
        dl_batch b;
        size_t n = 0, order[16];
        s.broken = s.mends = true;
        s.fails_at = 5;
        dl_loader_desc desc = loader(4, false, prefetch);
        dl_loader *l = dl_loader_create(made(c, 12, &s), &desc);
        CHECK(dl_next(l, &b) && right(&b), "%s", dl_error(c));
        n += b.count;
        memcpy(order, b.index, sizeof *order * b.count);
        CHECK(!dl_next(l, &b) && dl_failed(c), "no error");
        dl_clear_error(c);
        while (n < 16 && dl_next(l, &b)) {
            CHECK(right(&b), "prefetch %d: the batch after the error is not that of its index", prefetch);
            for (size_t i = 0; i < b.count && n < 16; i++) order[n++] = b.index[i];
        }
        CHECK(once_each(order, n, 12), "prefetch %d: %zu samples. %s", prefetch, n, dl_error(c));
        dl_destroy(c);
    }
}

static bool get_alone(void *user, size_t index, void *x, void *y) /* as get, without counters: from several threads at once */
{
    const size_t *bad = (const size_t *)user;
    for (size_t k = 0; k < W; k++) ((dl_real *)x)[k] = value_at(index, k);
    *(int32_t *)y = (int32_t)index * 10;
    if (index % 3 == 0) nap();
    return index < *bad;
}

static const char *why_not(void *user, size_t index) { return (void)user, index == 17 ? "seventeen is not to be had" : NULL; }

static void several_threads(void) /* the order and the values of one; of several samples that fail in a batch the first is named, with its reason */
{
    for (int threads = 0; threads <= 70; threads += threads < 5 ? 1 : 65)
        for (int prefetch = 0; prefetch < 2; prefetch++) {
            dl_context *c = context(4);
            dl_dataset_desc d;
            dl_batch b;
            size_t bad = 1000, order[2][N], at = 0;
            memset(&d, 0, sizeof d);
            d.count = N;
            d.y_dtype = DL_I32;
            d.x_shape = DL_SHAPE(W);
            d.get = get_alone;
            d.why = why_not;
            d.user = &bad;
            dl_dataset *data = dl_dataset_create(c, &d);
            dl_loader_desc one = loader(5, true, false), desc = loader(5, true, prefetch);
            desc.threads = threads;
            dl_loader *l = dl_loader_create(data, &one), *m = dl_loader_create(data, &desc);
            for (int k = 0; k < 3; k++)
                CHECK(epoch(l, order[0], N) == N && epoch(m, order[1], N) == N && !memcmp(order[0], order[1], sizeof order[0]), "%d threads: epoch %d. %s",
                    threads, k, dl_error(c));
            bad = 17; /* no batch is on its way: the epoch is over */
            desc.shuffle = false;
            m = dl_loader_create(data, &desc);
            while (dl_next(m, &b)) at += b.count;
            CHECK(at == 15 && strstr(dl_error(c), "sample 17: seventeen is not to be had"), "%d threads: %zu samples, then '%s'", threads, at, dl_error(c));
            dl_destroy(c);
        }
}

static void subsets(void) /* in memory, by get, bytes, and of each other */
{
    static const uint8_t bytes[6] = { 9, 8, 7, 6, 5, 4 }, labels[6] = { 1, 2, 3, 4, 5, 6 };
    static const size_t index[4] = { 5, 0, 5, 3 }, again[2] = { 3, 0 };
    dl_context *c = context(1);
    source s = { 0 };
    dl_batch b;
    dl_dataset_desc d;
    size_t order[4] = { 0 };
    dl_loader *l = dl_loader_create(dl_subset(made(c, 6, &s), index, 4), NULL);
    for (size_t i = 0; i < 4 && dl_next(l, &b); i++) { /* right() knows the source's numbers */
        order[i] = b.index[0];
        CHECK(dl_item(b.y) == (double)index[i] * 10, "sample %zu is %g", i, dl_item(b.y));
    }
    CHECK(order[3] == 3 && !dl_next(l, &b), "%s", dl_error(c));
    memset(&d, 0, sizeof d);
    d.count = 6;
    d.x_dtype = d.y_dtype = DL_U8;
    d.x_shape = DL_SHAPE(1);
    d.x = bytes;
    d.y = labels;
    dl_dataset *data = dl_dataset_create(c, &d), *part = dl_subset(dl_subset(data, index, 4), again, 2);
    l = dl_loader_create(part, NULL);
    CHECK(dl_dataset_count(part) == 2 && dl_next(l, &b) && dl_item(b.y) == 4 && dl_item(b.x) == (double)((dl_real)6 / 255), "%s", dl_error(c));
    CHECK(dl_next(l, &b) && dl_item(b.y) == 6 && !dl_next(l, &b), "%s", dl_error(c));
    CHECK(dl_dataset_count(dl_subset(data, NULL, 0)) == 0 && !dl_failed(c), "%s", dl_error(c));
    CHECK(!dl_subset(part, index, 4) && strstr(dl_error(c), "dl_subset: index 0 is sample 5 of a dataset of 2"), "'%s'", dl_error(c));
    dl_destroy(c);
}

static void destroyed_in_flight(void)
{
    for (int slow = 0; slow < 2; slow++)
        for (size_t stop = 0; stop <= 8; stop++) {
            dl_context *c = context(1);
            source s = { 0 };
            dl_batch b;
            s.slow = slow;
            dl_loader_desc desc = loader(3, true, true);
            dl_loader *l = dl_loader_create(made(c, N, &s), &desc);
            for (size_t i = 0; i < stop; i++) CHECK(dl_next(l, &b) && right(&b), "batch %zu: %s", i, dl_error(c));
            dl_destroy(c); /* waits for the batch on its way; the sanitizers watch */
            int calls = s.calls;
            nap();
            CHECK(s.calls == calls, "get was called after dl_destroy");
        }
}

static void wrong_arguments(void)
{
    dl_context *c = context(1);
    source s = { 0 };
    dl_dataset_desc d;
    dl_loader_desc desc = loader((size_t)-1, false, false);
    dl_dataset *data = made(c, 5, &s);
    dl_batch b;
    size_t order[5];
    dl_loader *l = dl_loader_create(data, &desc); /* a batch larger than the dataset is the dataset */
    CHECK(l && dl_loader_batches(l) == 1 && once_each(order, epoch(l, order, 5), 5), "%s", dl_error(c));
    desc.prefetch = true;
    l = dl_loader_create(data, &desc);
    CHECK(l && once_each(order, epoch(l, order, 5), 5), "%s", dl_error(c));
    CHECK(!dl_next(l, NULL) && strstr(dl_error(c), "dl_next"), "'%s'", dl_error(c));
    dl_clear_error(c);
    CHECK(dl_next(l, &b) && right(&b), "%s", dl_error(c));
    memset(&d, 0, sizeof d);
    d.count = 3;
    d.x_shape = DL_SHAPE(2);
    CHECK(!dl_dataset_create(c, &d) && strstr(dl_error(c), "neither x nor get"), "'%s'", dl_error(c));
    dl_clear_error(c);
    d.x = order;
    CHECK(!dl_dataset_create(c, &d) && strstr(dl_error(c), "no_y"), "'%s'", dl_error(c));
    dl_clear_error(c);
    d.no_y = true;
    d.x_shape = DL_SHAPE(1, 1, 1, 1, 1, 1, 1, 1);
    CHECK(!dl_dataset_create(c, &d) && strstr(dl_error(c), "DLTRAIN_MAX_DIMS"), "'%s'", dl_error(c));
    dl_clear_error(c);
    d.x_shape = DL_SHAPE(PTRDIFF_MAX / 4);
    data = dl_dataset_create(c, &d);
    dl_clear_error(c);
    CHECK(!dl_loader_create(data, &desc), "a batch larger than memory");
    dl_destroy(c);
}

int main(void)
{
#if defined(_POSIX_VERSION)
    alarm(300); /* a thread that waits for ever is a failure, not a pause */
#endif
    RUN(in_memory);
    RUN(dtypes);
    RUN(no_y);
    RUN(partial_batches);
    RUN(empty_dataset);
    RUN(shuffling);
    RUN(evenly);
    RUN(torch_order);
    RUN(rewinding);
    RUN(as_distributed_sampler);
    RUN(each_once);
    RUN(batches_in_parts);
    RUN(wrong_ranks);
    RUN(ends_the_step);
    RUN(runs_what_is_recorded);
    RUN(two_loaders);
    RUN(prefetch_same);
    RUN(get_fails);
    RUN(fails_then_goes_on);
    RUN(several_threads);
    RUN(subsets);
    RUN(destroyed_in_flight);
    RUN(wrong_arguments);
    return REPORT();
}
