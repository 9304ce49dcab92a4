/* What tests see of the implementation's private parts, through tests/library.c, to which they are linked. After dltrain.h. */
#ifndef INSIDE_H
#define INSIDE_H
#include <stddef.h>
#include <stdint.h>

/* hashes and random numbers */
uint64_t inside_mix(uint64_t h, uint64_t v);
uint64_t inside_mix_double(uint64_t h, double v);
uint64_t inside_mix_curves(uint64_t h, const dl_history *curves);
uint32_t inside_bits(float x);
float inside_float(uint32_t bits);
void inside_philox(uint64_t key, uint64_t low, uint64_t high, uint32_t out[4]);
uint64_t inside_key(uint64_t seed, uint64_t salt);
uint64_t inside_microseconds(void);

/* arithmetic on single numbers, and the levels of the kernels */
double inside_exp(double x);
double inside_log(double x);
double inside_pow(double x, double y);
double inside_sin(double x, int quarter);
float inside_fma(float a, float b, float c);
enum { INSIDE_LEVELS = 4 };                               /* the first is the portable one */
const char *inside_level(int level);                      /* its name; NULL: this CPU or build lacks it */
int inside_level_of(const dl_context *ctx);
float inside_sum(int level, const float *x, size_t n);    /* by its kernel */

int inside_launches(const dl_context *ctx);               /* of the latest plan */
size_t inside_nodes(const dl_context *ctx);               /* on the tape */
int inside_parts(const dl_context *ctx);                  /* shards, if they are invariant */
uint64_t inside_steps(const dl_optimizer *opt);
int inside_buckets(const dl_comm *comm);
size_t inside_bucket(const dl_comm *comm, int bucket);    /* how many numbers it has */

/* what no program can do: change these when they are in use */
void inside_set_seed(dl_context *ctx, uint64_t seed);
void inside_unseal(dl_context *ctx);
void inside_set_batch(dl_loader *loader, int batch);
void inside_set_window(dl_accumulator *acc, int steps);

#ifndef DLTRAIN_NO_FILES
uint64_t inside_check_sum(const void *bytes, size_t size); /* that of the snapshot that these are, which is not looked at: its last 8 bytes */
size_t inside_data_at(const void *bytes);                 /* where the data of a checkpoint begin, and in a snapshot the tables */
size_t inside_snapshot_tables(size_t parameters);         /* their bytes */
const char *inside_version(char *out, size_t size, const char *path, int back); /* the name of a version of a snapshot */
const char *inside_snapshot_wrong(dl_context *ctx, const char *path); /* NULL: its check sum is right */
#endif
#endif
