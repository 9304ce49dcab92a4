/* What tests of runs that stop and go on share: samples in memory, a hash of curves, a folder for files and their removal. Include after
   dltrain.h and nets.h. */
#ifndef RUNS_H
#define RUNS_H
#include "inside.h"
#include <stdio.h>
#include <sys/stat.h>

/* n samples of `width` numbers and one of three classes, the same at each call of a program: several contexts may share them. */
enum { RUN_NUMBERS = 512, RUN_SAMPLES = 64 };
static dl_real run_x[RUN_NUMBERS];
static int32_t run_y[RUN_SAMPLES];

static void run_begin(void) /* before any thread */
{
    mkdir("build", 0777);
    mkdir("build/tests", 0777);
    memcpy(run_x, net_numbers(RUN_NUMBERS, 1), sizeof run_x);
    for (int i = 0; i < RUN_SAMPLES; i++) run_y[i] = i * 5 % 3;
}

static dl_dataset *run_data(dl_context *ctx, size_t n, dl_index width)
{
    dl_dataset_desc d;
    memset(&d, 0, sizeof d);
    d.count = n;
    d.y_dtype = DL_I32;
    d.x_shape = DL_SHAPE(width);
    d.x = run_x;
    d.y = run_y;
    return dl_dataset_create(ctx, &d);
}

static dl_context *run_context(uint64_t seed, int threads)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.seed = seed;
    c.threads = threads;
    return dl_create(&c);
}

/* The newest `keep` of the versions of a snapshot. */
static void run_clean(const char *file, int keep)
{
    char name[200];
    for (int i = 0; i < keep; i++) remove(inside_version(name, sizeof name, file, i));
}
#endif
