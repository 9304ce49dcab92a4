/* The library that tests are linked to: tests/run compiles it for each way of running them. And what they see of its private parts. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "inside.h"

uint64_t inside_mix(uint64_t h, uint64_t v) { return dl__mix(h, v); }
uint64_t inside_mix_double(uint64_t h, double v) { return dl__mix(h, (uint64_t)dl__double_bits(v)); }
uint64_t inside_mix_curves(uint64_t h, const dl_history *curves)
{
    for (int i = 0; i < curves->n; i++) {
        h = dl__mix_text(h, curves->series[i].name);
        for (size_t k = 0; k < 2 * curves->series[i].n; k++) h = inside_mix_double(h, curves->series[i].xy[k]);
    }
    return h;
}
uint32_t inside_bits(float x) { return dl__bits(x); }
float inside_float(uint32_t bits) { return dl__from_bits(bits); }
void inside_philox(uint64_t key, uint64_t low, uint64_t high, uint32_t out[4]) { dl__philox(key, low, high, out); }
uint64_t inside_key(uint64_t seed, uint64_t salt) { return dl__key(seed, salt); }

double inside_exp(double x) { return dl__exp_d(x); }
double inside_log(double x) { return dl__log_d(x); }
double inside_pow(double x, double y) { return dl__pow_d(x, y); }
double inside_sin(double x, int quarter) { return dl__sin_d(x, quarter); }
const char *inside_level(int level) { return dl__have_level(level) ? dl__level_name[level] : NULL; }
int inside_level_of(const dl_context *ctx) { return ctx->level; }
#if DL__REAL_IS_FLOAT
float inside_fma(float a, float b, float c) { return dl__fma(a, b, c); }
float inside_sum(int level, const float *x, size_t n) { return DL__CALL(level, sum, (x, n)); }
#endif
typedef char inside_levels[(int)INSIDE_LEVELS == (int)DL__LEVELS && DL__PORTABLE == 0 ? 1 : -1];

int inside_launches(const dl_context *ctx)
{
    const dl__plan *p = &ctx->plan[0];
    for (int i = 1; i < DLTRAIN_PLANS; i++)
        if (ctx->plan[i].used_at > p->used_at) p = &ctx->plan[i];
    return (int)p->launches;
}

size_t inside_nodes(const dl_context *ctx) { return (size_t)ctx->nodes; }
int inside_parts(const dl_context *ctx) { return ctx->parts; }
uint64_t inside_steps(const dl_optimizer *opt) { return (uint64_t)opt->steps; }
int inside_buckets(const dl_comm *comm) { return comm->buckets; }
size_t inside_bucket(const dl_comm *comm, int bucket) { return comm->bucket[bucket].n; }
void inside_set_seed(dl_context *ctx, uint64_t seed) { ctx->config.seed = seed; }
void inside_unseal(dl_context *ctx) { ctx->sealed = false; }
void inside_set_batch(dl_loader *loader, int batch) { loader->desc.batch = batch; }
void inside_set_window(dl_accumulator *acc, int steps) { acc->steps = steps; }
uint64_t inside_microseconds(void) { return dl__microseconds(); }

#ifndef DLTRAIN_NO_FILES
uint64_t inside_check_sum(const void *bytes, size_t size)
{
    return dl__hash_bytes(dl__hash_text(""), (const char *)bytes + 8, size - 16);
}
size_t inside_data_at(const void *bytes) { return 8 + (size_t)dl__get_little((const uint8_t *)bytes, 8); }
size_t inside_snapshot_tables(size_t parameters)
{
    return (DL__RUN_FIELDS + DL__OPT_FIELDS + DL__ACC_FIELDS + DL__RANK_FIELDS) * 8 + parameters * DL__ROW_FIELDS * 4;
}
const char *inside_version(char *out, size_t size, const char *path, int back) { return dl__version(out, size, path, back); }
const char *inside_snapshot_wrong(dl_context *ctx, const char *path)
{
    dl__io io;
    memset(&io, 0, sizeof io);
    io.ctx = ctx;
    io.file = fopen(path, "rb");
    if (!io.file) return "it cannot be opened";
    const char *wrong = dl__snapshot_wrong(&io);
    fclose(io.file);
    return wrong;
}
#endif
