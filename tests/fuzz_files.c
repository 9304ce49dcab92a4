/* The readers of files, fed with anything. The first byte chooses: a checkpoint loaded before or after the first use of its names, images,
   labels, a snapshot for a program that has begun or not, its check sum made good or not. Allowed: success, or an error sentence that names the file (or says that memory ran out); afterwards the context works.

       clang -g -O1 -fsanitize=fuzzer,address,undefined tests/fuzz_files.c tests/library.c -o build/fuzz_files -lm -pthread
       cc -std=c99 -O1 -DFUZZ_MAIN tests/fuzz_files.c tests/library.c -o build/fuzz_files -lm -pthread

   The first is libFuzzer's. The second runs 20,000 mutations of good files or, given a folder, writes those good files there: a corpus for
   the first. */
#if (defined(__unix__) || defined(__APPLE__)) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L /* before any header: getpid under -std=c99 */
#endif
#include "../dltrain.h"
#include "inside.h"
#if defined(_POSIX_C_SOURCE)
#include <unistd.h>
#endif
#ifdef FUZZ_MAIN
#include "test.h"
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char path[256];
static const char *broken; /* what went wrong; libFuzzer gets an abort */
static int accepted;

static void *limited_alloc(size_t n, void *user) { return (void)user, n > (size_t)1 << 26 ? NULL : malloc(n); }
static void limited_release(void *p, void *user) { (void)user, free(p); }

static void name_file(void)
{
    long id = 0;
    const char *folder = ".";
#if defined(_POSIX_VERSION)
    id = (long)getpid();
    folder = !access("/dev/shm", W_OK) ? "/dev/shm" : "/tmp"; /* in memory: ten times as fast */
#endif
    snprintf(path, sizeof path, "%s/dltrain-fuzz-%ld", folder, id);
}

static void gone_file(void) { remove(path); }

static void use(dl_context *c) /* names that the seeds have */
{
    static const struct { const char *name; int n; dl_index dim[2]; } of[] = { { "a", 2, { 2, 3 } }, { "b", 0, { 0 } }, { "e", 2, { 0,
        3 } }, { "h", 1, { 4 } } };
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        dl_param_desc d;
        memset(&d, 0, sizeof d);
        d.shape.ndim = of[i].n;
        for (int k = 0; k < of[i].n; k++) d.shape.dim[k] = of[i].dim[k];
        d.init = DL_INIT_CONSTANT;
        d.value = 1;
        dl_parameter(c, of[i].name, &d);
        if (dl_failed(c)) dl_clear_error(c); /* another shape in the file */
    }
    dl_end(c);
}

static void read_all(dl_context *c, dl_dataset *d)
{
    dl_batch b;
    dl_loader_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.batch = 3;
    dl_loader *l = dl_loader_create(d, &desc);
    for (int i = 0; i < 100 && dl_next(l, &b); i++) {
        const dl_real *x = (const dl_real *)dl_data(b.x);
        size_t n = dl_numel(b.x);
        for (size_t k = 0; k < n; k++)
            if (!x || !(x[k] >= 0 && x[k] <= 1)) broken = "a byte is not in [0,1]";
    }
    if (dl_failed(c) && !strstr(dl_error(c), "memory") && !strstr(dl_error(c), "dl_loader_create")) broken = "the loader failed";
}

/* ---- snapshots ---- */
enum { CHECKPOINT, USED_CHECKPOINT, IMAGES, LABELS, SNAPSHOT, MODES, BEGUN = MODES, AS_IT_IS = 2 * MODES };

typedef struct program { dl_snapshot_desc run; double number[2]; float x[6 * 3]; int32_t y[6]; } program;

static dl_tensor program_loss(dl_tensor x, dl_tensor y) { return dl_cross_entropy(dl_linear(dl_batch_norm(x, "bn", NULL), "fc", 2), y); }

static void program_start(program *p, dl_context *c)
{
    dl_dataset_desc d;
    dl_loader_desc l;
    dl_accumulator_desc a;
    dl_sgd_desc o;
    memset(p, 0, sizeof *p);
    memset(&d, 0, sizeof d);
    memset(&l, 0, sizeof l);
    memset(&a, 0, sizeof a);
    memset(&o, 0, sizeof o);
    for (int i = 0; i < 18; i++) p->x[i] = (float)(i * 7 % 5);
    d.count = 6;
    d.x_shape = DL_SHAPE(3);
    d.y_dtype = DL_I32;
    d.x = p->x;
    d.y = p->y;
    l.batch = 2;
    l.shuffle = true;
    a.steps = 2;
    o.lr = 0.1f;
    o.momentum = 0.9f;
    p->run.loader[0] = dl_loader_create(dl_dataset_create(c, &d), &l);
    p->run.optimizer[0] = dl_sgd(c, &o);
    p->run.accumulator[0] = dl_accumulator_create(p->run.optimizer[0], &a);
    p->run.history = dl_history_create(c);
    p->run.number = p->number;
    p->run.numbers = 2;
}

static void program_steps(program *p, int n)
{
    dl_batch b;
    for (int i = 0; i < n; i++)
        if (dl_next(p->run.loader[0], &b)) dl_accumulate(p->run.accumulator[0], program_loss(b.x, b.y), b.count);
    dl_history_add(p->run.history, "loss", n, 0.5);
}

/* FNV-1a over all but the length in front and the sum itself, which are 8 bytes each; so that what is behind the check is reached. */
static void make_sum_good(uint8_t *data, size_t size)
{
    if (size < 16) return;
    uint64_t sum = inside_check_sum(data, size);
    for (int i = 0; i < 8; i++) data[size - 8 + (size_t)i] = (uint8_t)(sum >> 8 * i);
}

static bool load_snapshot(dl_context *c, bool begun)
{
    program p;
    program_start(&p, c);
    if (begun) program_steps(&p, 3);
    bool ok = dl_snapshot_load(c, path, &p.run);
    if (!ok) return false;
    program_steps(&p, 3); /* may fail, with a sentence: the file may have parameters of other shapes */
    if (dl_failed(c)) dl_clear_error(c);
    return true;
}

static int feed(const uint8_t *data, size_t size)
{
    dl_config config;
    bool ok;
    FILE *f;
    if (!*path) {
        name_file();
        atexit(gone_file);
    }
    if (!size || !(f = fopen(path, "wb"))) return 0;
    int mode = data[0] % MODES, how = data[0] / MODES * MODES;
    uint8_t *copy = size > 1 ? (uint8_t *)malloc(size - 1) : NULL;
    if (copy) {
        memcpy(copy, data + 1, size - 1);
        if (mode == SNAPSHOT && how < AS_IT_IS) make_sum_good(copy, size - 1);
        fwrite(copy, 1, size - 1, f);
        free(copy);
    }
    fclose(f);
    memset(&config, 0, sizeof config);
    config.threads = 1;
    config.alloc = limited_alloc;
    config.release = limited_release;
    dl_context *c = dl_create(&config);
    dl_dataset *d = NULL;
    if (mode == USED_CHECKPOINT) use(c);
    if (mode == SNAPSHOT) ok = load_snapshot(c, how == BEGUN);
    else if (mode < IMAGES) ok = dl_load(c, path);
    else ok = (d = dl_open_idx(c, path, mode == LABELS ? path : NULL)) != NULL;
    accepted += ok;
    if (ok == dl_failed(c)) broken = "the result and dl_failed disagree";
    if (!ok && !strstr(dl_error(c), path) && !strstr(dl_error(c), "memory")) broken = "the error does not name the file";
    if (!ok && mode < IMAGES && dl_load_pending(c) && !strstr(dl_error(c), "memory")) broken = "a refused file left values waiting";
    dl_clear_error(c);
    if (ok && mode == CHECKPOINT) use(c);
    if (d) read_all(c, d);
    dl_clear_error(c);
    dl_real two[1] = { 2 };
    if (dl_item(dl_square(dl_input(c, DL_F32, DL_SHAPE(1), two))) != 4 || dl_failed(c)) broken = "the context does not work any more";
    dl_destroy(c);
    return 0;
}

#ifndef FUZZ_MAIN
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    feed(data, size);
    if (broken) {
        fprintf(stderr, "%s\n", broken);
        abort();
    }
    return 0;
}
#else
enum { MOST = 4096, SEEDS = 12 };
typedef struct input { uint8_t b[MOST]; size_t n; } input;
static input seed[SEEDS];
static uint64_t state = 20260101;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static void checkpoint(input *s, int mode, const char *json, size_t data)
{
    size_t n = (strlen(json) + 7) / 8 * 8;
    memset(s->b, 0, sizeof s->b);
    s->b[0] = (uint8_t)mode;
    for (int i = 0; i < 8; i++) s->b[1 + i] = (uint8_t)((uint64_t)n >> 8 * i);
    memset(s->b + 9, ' ', n);
    memcpy(s->b + 9, json, strlen(json));
    for (size_t i = 0; i < data; i++) s->b[9 + n + i] = (uint8_t)(i * 41);
    s->n = 9 + n + data;
}

static void idx(input *s, int mode, int dims, const uint8_t *sizes, size_t data)
{
    memset(s->b, 0, sizeof s->b);
    s->b[0] = (uint8_t)mode;
    s->b[3] = 8;
    s->b[4] = (uint8_t)dims;
    for (int i = 0; i < dims; i++) s->b[8 + 4 * i] = sizes[i];
    for (size_t i = 0; i < data; i++) s->b[5 + 4 * (size_t)dims + i] = (uint8_t)(i * 41);
    s->n = 5 + 4 * (size_t)dims + data;
}

/* What the program above saves after so many steps. */
static void snapshot(input *s, int mode, int steps)
{
    program p;
    dl_config config;
    memset(&config, 0, sizeof config);
    config.threads = 1;
    dl_context *c = dl_create(&config);
    if (!*path) {
        name_file();
        atexit(gone_file);
    }
    program_start(&p, c);
    program_steps(&p, steps);
    FILE *f = dl_snapshot_save(c, path, &p.run) ? fopen(path, "rb") : NULL;
    s->b[0] = (uint8_t)mode;
    s->n = 1 + (f ? fread(s->b + 1, 1, MOST - 1, f) : 0);
    if (f) fclose(f);
    dl_destroy(c);
}

static void make_seeds(void)
{
    static const char small[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[24,28]}}";
    static const char rich[] = "{\"__metadata__\":{\"format\":\"pt\",\"k\\n\":\"v\\\"\"},"
        "\"h\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[24,32]},"
        "\"a\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[12,24]},"
        "\"e\":{\"shape\":[0,3],\"data_offsets\":[0,0],\"dtype\":\"F64\"},"
        "\"i\":{\"dtype\":\"I32\",\"shape\":[3],\"data_offsets\":[0,12]}}";
    static const uint8_t three[3] = { 5, 2, 3 }, four[4] = { 2, 3, 4, 5 }, one[1] = { 9 }, none[3] = { 0, 2, 3 };
    checkpoint(&seed[0], 0, small, 28);
    checkpoint(&seed[1], 1, small, 28);
    checkpoint(&seed[2], 0, rich, 32);
    checkpoint(&seed[3], 1, rich, 32);
    idx(&seed[4], 2, 3, three, 30);
    idx(&seed[5], 2, 4, four, 120);
    idx(&seed[6], 3, 1, one, 9);
    idx(&seed[7], 2, 3, none, 0);
    snapshot(&seed[8], SNAPSHOT, 3); /* in mid-window and in mid-epoch */
    snapshot(&seed[9], SNAPSHOT + BEGUN, 4);
    snapshot(&seed[10], SNAPSHOT, 0);
    snapshot(&seed[11], SNAPSHOT + AS_IT_IS, 2);
}

/* The first digits at or behind `at`, replaced by another number. */
static void change_number(input *s, size_t at)
{
    static const char *const into[] = { "0", "1", "-1", "4", "24", "4294967296", "9223372036854775807", "18446744073709551615",
        "18446744073709551616", "1e9", "" };
    const char *v = into[draw(sizeof into / sizeof *into)];
    size_t from = at, to, n = strlen(v);
    while (from < s->n && (s->b[from] < '0' || s->b[from] > '9')) from++;
    for (to = from; to < s->n && s->b[to] >= '0' && s->b[to] <= '9';) to++;
    if (from == s->n || s->n + n > MOST) return;
    memmove(s->b + from + n, s->b + to, s->n - to);
    memcpy(s->b + from, v, n);
    s->n = s->n - (to - from) + n;
    if (draw(2)) { /* and let the header's length follow */
        uint64_t length = s->b[1] + 256u * s->b[2] + n - (to - from);
        s->b[1] = (uint8_t)length;
        s->b[2] = (uint8_t)(length >> 8);
    }
}

static void mutate(input *s)
{
    for (uint32_t times = 1 + draw(3); times-- > 0 && s->n > 1;) {
        size_t at = 1 + draw((uint32_t)s->n - 1), n;
        const input *other = &seed[draw(SEEDS)];
        switch (draw(9)) {
        case 0: s->b[at] ^= (uint8_t)(1u << draw(8)); break;
        case 1: s->b[at] = (uint8_t)draw(256); break;
        case 2: s->n = at; break;
        case 3: s->b[at] = (uint8_t) "{}[]\":,\\0-u \n"[draw(13)]; break;
        case 4: change_number(s, at); break;
        case 5: /* the rest of another */
            n = 1 + draw((uint32_t)other->n - 1);
            if (at + other->n - n > MOST) break;
            memcpy(s->b + at, other->b + n, other->n - n);
            s->n = at + other->n - n;
            break;
        case 6: /* a piece twice */
            n = draw(40);
            if (at + n > s->n || s->n + n > MOST) break;
            memmove(s->b + at + n, s->b + at, s->n - at);
            s->n += n;
            break;
        case 7: /* a piece less */
            n = draw(40);
            if (at + n > s->n) break;
            memmove(s->b + at, s->b + at + n, s->n - at - n);
            s->n -= n;
            break;
        default: s->b[1 + draw(s->n < 20 ? (uint32_t)s->n - 1 : 16)] = (uint8_t)(draw(2) ? 255 : draw(256)); break; /* lengths and sizes */
        }
    }
}

static void seeds_are_good(void)
{
    for (int i = 0; i < SEEDS; i++) {
        int before = accepted;
        feed(seed[i].b, seed[i].n);
        CHECK(accepted == before + 1 && !broken, "seed %d: %s", i, broken ? broken : "not accepted");
    }
}

static void mutations(void)
{
    input s;
    accepted = 0;
    for (int i = 0; i < 20000 && !broken; i++) {
        s = seed[i % SEEDS];
        mutate(&s);
        feed(s.b, s.n);
        CHECK(!broken, "mutation %d, mode %d, %zu bytes: %s", i, s.b[0], s.n, broken);
    }
    CHECK(accepted > 200 && accepted < 15000, "%d of 20000 were accepted: the mutations are too wild or too tame", accepted);
}

int main(int argc, char **argv)
{
    make_seeds();
    for (int i = 0; argc > 1 && i < SEEDS; i++) {
        char name[600];
        snprintf(name, sizeof name, "%.500s/seed%d", argv[1], i);
        FILE *f = fopen(name, "wb");
        if (!f || fwrite(seed[i].b, 1, seed[i].n, f) != seed[i].n || fclose(f)) return 1;
    }
    if (argc > 1) return 0;
    RUN(seeds_are_good);
    RUN(mutations);
    return REPORT();
}
#endif
