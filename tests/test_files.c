/* Checkpoints, IDX, curves and the progress line; hostile files among them. Each gets an error sentence that names the file, never a crash.

       test_files               the tests
       test_files write FILE    a checkpoint for tests/safetensors_check.py check
       test_files read FILE     reads what tests/safetensors_check.py save wrote */
#if (defined(__unix__) || defined(__APPLE__)) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L /* before any header: fork, dup2 and symlink under -std=c99 */
#endif
#include "../dltrain.h"
#include "test.h"
#if defined(_POSIX_C_SOURCE)
#include <unistd.h>
#endif
#if defined(_POSIX_VERSION)
#include <sys/types.h>
#include <sys/wait.h>
#endif
#define COUNT_OF(a) (sizeof(a) / sizeof *(a))

/* ---- files ---- */
static char made[64][600]; /* removed at the end */
static int n_made;

/* The path of a file of this run in the folder for temporary files. */
static const char *temp(const char *name)
{
    const char *folder = getenv("TMPDIR");
    char path[600];
    long id = 0;
#if defined(_POSIX_VERSION)
    id = (long)getpid();
    if (!folder) folder = "/tmp";
#endif
    snprintf(path, sizeof path, "%.400s/dltrain-%ld-%.100s", folder ? folder : ".", id, name);
    for (int i = 0; i < n_made; i++)
        if (!strcmp(made[i], path)) return made[i];
    if (n_made == (int)COUNT_OF(made)) abort();
    memcpy(made[n_made], path, sizeof path);
    return made[n_made++];
}

static void clean(void)
{
    for (int i = 0; i < n_made; i++) remove(made[i]);
}

static bool exists(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

static bool left_over(const char *path) /* a temporary file beside it */
{
    char name[700];
    snprintf(name, sizeof name, "%s.tmp", path);
    return exists(name);
}

static void put_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) CHECK(false, "cannot write '%s'", path);
}

typedef struct bytes { uint8_t *p; size_t n; } bytes;

static bytes get_file(const char *path)
{
    bytes b = { calloc(1, 1 << 20), 0 };
    FILE *f = fopen(path, "rb");
    if (f && b.p) b.n = fread(b.p, 1, (1 << 20) - 1, f);
    if (f) fclose(f);
    return b;
}

static bool same_bytes(bytes a, bytes b) { return a.p && b.p && a.n && a.n == b.n && !memcmp(a.p, b.p, a.n); }

/* A safetensors file of a header text (padded as the format wants) and data. Returns its bytes. */
static size_t put_tensors(const char *path, const char *json, size_t json_bytes, const void *data, size_t data_bytes)
{
    static uint8_t out[1 << 16];
    size_t padded = (json_bytes + 7) / 8 * 8;
    memset(out, 0, 8);
    for (int i = 0; i < 8; i++) out[i] = (uint8_t)((uint64_t)padded >> 8 * i);
    memset(out + 8, ' ', padded);
    memcpy(out + 8, json, json_bytes);
    if (data_bytes) memcpy(out + 8 + padded, data, data_bytes);
    put_file(path, out, 8 + padded + data_bytes);
    return 8 + padded + data_bytes;
}

/* ---- contexts ---- */
static dl_context *context(uint64_t seed)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.seed = seed;
    c.threads = 1;
    return dl_create(&c);
}

static dl_tensor param(dl_context *c, const char *name, dl_shape shape, bool buffer)
{
    dl_param_desc d;
    memset(&d, 0, sizeof d);
    d.shape = shape;
    d.init = DL_INIT_UNIFORM;
    d.value = 1;
    d.buffer = buffer;
    return dl_parameter(c, name, &d);
}

static dl_real value_at(const char *name, size_t i) /* exact in every dtype, BF16 too; safetensors_check.py knows it */
{
    return (dl_real)((int)((7 * i + 3 * strlen(name)) % 31) - 15) / 8;
}

typedef struct row { const char *name; int ndim; dl_index dim[4]; bool buffer; } row;
static const row rows[] = {
    { "layer.weight", 2, { 3, 4 }, false }, { "layer.bias", 1, { 4 }, false }, { "layer.running_mean", 1, { 4 }, true }, { "scalar", 0,
        { 0 }, false },
    { "deep", 4, { 2, 1, 3, 2 }, false }, { "large", 2, { 61, 37 }, false }, { "count", 0, { 0 }, true }, { "empty", 2, { 0, 3 }, false },
};

static dl_shape shape_of(const row *r)
{
    dl_shape s = DL_SCALAR;
    s.ndim = r->ndim;
    for (int d = 0; d < r->ndim; d++) s.dim[d] = r->dim[d];
    return s;
}

static void model(dl_context *c)
{
    for (size_t i = 0; i < COUNT_OF(rows); i++) param(c, rows[i].name, shape_of(&rows[i]), rows[i].buffer);
    dl_end(c);
}

static void set_formula(dl_context *c)
{
    dl_real v[61 * 37];
    dl_param_info p;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (!dl_param_find(c, rows[i].name, &p)) return;
        for (size_t k = 0; k < p.numel; k++) v[k] = value_at(rows[i].name, k);
        dl_param_set(c, rows[i].name, v, p.numel);
    }
}

/* Do the values of a parameter follow the formula? */
static bool is_formula(dl_context *c, const char *name)
{
    dl_param_info p;
    if (!dl_param_find(c, name, &p)) return false;
    for (size_t k = 0; k < p.numel; k++)
        if (p.value[k] != value_at(name, k)) return false;
    return true;
}

static bool same_values(dl_context *a, dl_context *b)
{
    dl_param_info p, q;
    if (dl_param_count(a) != dl_param_count(b) || !dl_param_count(a)) return false;
    for (int i = 0; i < dl_param_count(a); i++)
        if (!dl_param_get(a, i, &p) || !dl_param_find(b, p.name, &q) || p.numel != q.numel || (p.numel && memcmp(p.value, q.value,
            p.numel * sizeof *p.value))) return false;
    return true;
}

/* The error is there, is a sentence, and names the file; then it is cleared. */
static bool names(dl_context *c, const char *path, const char *what)
{
    bool ok = dl_failed(c) && strstr(dl_error(c), path) && strstr(dl_error(c), what) && strlen(dl_error(c)) > strlen(path) + 12;
    CHECK(ok, "'%s' does not name '%s' and '%s'", dl_error(c), path, what);
    dl_clear_error(c);
    return ok;
}

/* ---- save and load ---- */
static void round_trip(void)
{
    dl_context *a = context(1), *b = context(2);
    const char *path = temp("trip");
    model(a);
    model(b);
    CHECK(!dl_failed(a), "%s", dl_error(a));
    CHECK(dl_save(a, path), "%s", dl_error(a));
    CHECK(!same_values(a, b), "two seeds gave the same parameters");
    CHECK(dl_load(b, path), "%s", dl_error(b));
    CHECK(same_values(a, b), "the values differ");
    CHECK(dl_load_pending(b) == 0, "%d wait", dl_load_pending(b));
    CHECK(!left_over(path), "the temporary file is still there");
    dl_destroy(a);
    dl_destroy(b);
}

static void odd_values(void) /* the bits of every kind of number survive */
{
    dl_context *a = context(1), *b = context(2);
    const char *path = temp("odd");
    dl_real v[7] = { (dl_real)INFINITY, (dl_real)-INFINITY, (dl_real)NAN, (dl_real)-0.0, (dl_real)1e-42, (dl_real)3.4e38,
        (dl_real)(1 / 3.0) };
    param(a, "v", DL_SHAPE(7), false);
    param(b, "v", DL_SHAPE(7), false);
    dl_param_set(a, "v", v, 7);
    CHECK(dl_save(a, path) && dl_load(b, path), "%s%s", dl_error(a), dl_error(b));
    CHECK(same_values(a, b), "the bits differ");
    dl_destroy(a);
    dl_destroy(b);
}

static void trained(const char *path) /* a short run */
{
    dl_context *c = context(5);
    dl_sgd_desc sgd;
    dl_real x[6] = { 1, 2, 3, 4, 5, 6 };
    memset(&sgd, 0, sizeof sgd);
    sgd.lr = (dl_real)0.1;
    dl_optimizer *opt = dl_sgd(c, &sgd);
    for (int i = 0; i < 3; i++) {
        dl_tensor y = dl_batch_norm(dl_linear(dl_input(c, DL_F32, DL_SHAPE(2, 3), x), "fc", 4), "bn", NULL);
        dl_backward(dl_mean(dl_square(y)));
        dl_step(opt);
    }
    CHECK(dl_save(c, path), "%s", dl_error(c));
    dl_destroy(c);
}

static void same_run_same_bytes(void)
{
    const char *p = temp("run1"), *q = temp("run2");
    trained(p);
    trained(q);
    bytes a = get_file(p), b = get_file(q);
    CHECK(same_bytes(a, b), "the files differ");
    CHECK(a.n > 8 && a.p[0] % 8 == 0 && a.p[8] == '{', "the header is not padded to 8 bytes");
    free(a.p);
    free(b.p);
}

static void load_before_use(void)
{
    dl_context *a = context(1), *b = context(2);
    const char *path = temp("before");
    model(a);
    set_formula(a);
    CHECK(dl_save(a, path) && dl_load(b, path), "%s%s", dl_error(a), dl_error(b));
    CHECK(dl_load_pending(b) == (int)COUNT_OF(rows), "%d wait", dl_load_pending(b));
    param(b, "layer.bias", DL_SHAPE(4), false);
    CHECK(dl_load_pending(b) == (int)COUNT_OF(rows) - 1, "%d wait after the first use of one", dl_load_pending(b));
    dl_end(b);
    CHECK(is_formula(b, "layer.bias"), "the initialiser won over the file");
    model(b);
    CHECK(dl_load_pending(b) == 0 && !dl_failed(b), "%d wait. %s", dl_load_pending(b), dl_error(b));
    CHECK(same_values(a, b), "the values differ");
    dl_destroy(a);
    dl_destroy(b);
}

static void used_in_the_step(void) /* pending values are there for the first run that reads them */
{
    dl_context *a = context(1), *b = context(2);
    const char *path = temp("instep");
    param(a, "s", DL_SHAPE(3), false);
    dl_real v[3] = { 1, 2, 4 };
    dl_param_set(a, "s", v, 3);
    CHECK(dl_save(a, path) && dl_load(b, path), "%s%s", dl_error(a), dl_error(b));
    double sum = dl_item(dl_sum(param(b, "s", DL_SHAPE(3), false)));
    CHECK(sum == 7, "the sum is %g", sum);
    dl_destroy(a);
    dl_destroy(b);
}

static void later_load_wins(void) /* two files before the first use: the second overwrites, as it does after it */
{
    dl_context *a = context(1), *b = context(2);
    const char *one = temp("one"), *two = temp("two");
    dl_real v[2] = { 1, 1 }, w[2] = { 2, 2 };
    param(a, "p", DL_SHAPE(2), false);
    dl_param_set(a, "p", v, 2);
    dl_save(a, one);
    dl_param_set(a, "p", w, 2);
    dl_save(a, two);
    CHECK(dl_load(b, one) && dl_load(b, two), "%s", dl_error(b));
    CHECK(dl_load_pending(b) == 1, "%d wait, of one name", dl_load_pending(b));
    CHECK(dl_item(dl_sum(param(b, "p", DL_SHAPE(2), false))) == 4, "the file loaded first won");
    dl_destroy(a);
    dl_destroy(b);
}

static void load_after_use(void)
{
    dl_context *a = context(1), *b = context(2);
    const char *path = temp("after");
    model(a);
    set_formula(a);
    trained(temp("run1"));
    CHECK(dl_save(a, path), "%s", dl_error(a));
    model(b);
    CHECK(dl_seal(b) && dl_load(b, path), "%s", dl_error(b));
    for (size_t i = 0; i < COUNT_OF(rows); i++) CHECK(is_formula(b, rows[i].name), "%s was not overwritten", rows[i].name);
    CHECK(dl_load(b, temp("run1")), "%s", dl_error(b)); /* other names only */
    CHECK(dl_load_pending(b) > 0 && is_formula(b, "deep"), "another model's file changed this one");
    dl_destroy(a);
    dl_destroy(b);
}

static void save_matching(void)
{
    dl_context *a = context(1), *b = context(2);
    const char *path = temp("matching");
    model(a);
    set_formula(a);
    model(b);
    CHECK(dl_save_matching(a, path, "layer.*|scalar"), "%s", dl_error(a));
    CHECK(dl_load(b, path), "%s", dl_error(b));
    CHECK(is_formula(b, "layer.weight") && is_formula(b, "layer.running_mean") && is_formula(b, "scalar"), "a matching name was not saved");
    CHECK(!is_formula(b, "deep") && !is_formula(b, "large"), "a name that does not match was saved");
    CHECK(!dl_save_matching(a, path, "nothing*"), "a pattern without a match was saved");
    CHECK(strstr(dl_error(a), "nothing*"), "'%s' does not name the pattern", dl_error(a));
    dl_clear_error(a);
    CHECK(dl_load(b, path), "%s", dl_error(b)); /* the old file is still whole */
    dl_destroy(a);
    dl_destroy(b);
}

static void shapes_differ(void)
{
    dl_context *a = context(1), *b = context(2);
    const char *path = temp("shapes");
    param(a, "before.ok", DL_SHAPE(2), false); /* before the bad one in the file: nothing of it may be taken */
    param(a, "p", DL_SHAPE(2, 3), false);
    dl_end(a);
    dl_save(a, path);
    param(b, "before.ok", DL_SHAPE(2), false);
    param(b, "p", DL_SHAPE(3, 2), false);
    dl_end(b);
    dl_param_info was, is;
    dl_param_find(b, "before.ok", &was);
    dl_real old = was.value[0];
    CHECK(!dl_load(b, path), "loaded [2,3] into [3,2]");
    CHECK(strstr(dl_error(b), "'p'") && strstr(dl_error(b), "[2,3]") && strstr(dl_error(b), "[3,2]"), "'%s' lacks name or shapes",
        dl_error(b));
    names(b, path, "p");
    dl_param_find(b, "before.ok", &is);
    CHECK(is.value[0] == old, "a refused file changed a value");
    dl_destroy(b);
    b = context(2);
    CHECK(dl_load(b, path), "%s", dl_error(b));
    CHECK(!dl_ok(param(b, "p", DL_SHAPE(3, 2), false)), "[2,3] of the file became [3,2]");
    CHECK(strstr(dl_error(b), "'p'") && strstr(dl_error(b), "[2,3]") && strstr(dl_error(b), "[3,2]"), "'%s' lacks name or shapes",
        dl_error(b));
    dl_clear_error(b);
    CHECK(dl_ok(param(b, "before.ok", DL_SHAPE(2), false)), "%s", dl_error(b));
    dl_destroy(a);
    dl_destroy(b);
}

/* ---- dtypes, by hand ---- */
static size_t little(uint8_t *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) p[i] = (uint8_t)(v >> 8 * i);
    return (size_t)n;
}

static void other_dtypes(void)
{
    static const uint16_t half[10] = { 0x3c00, 0xc000, 0x3555, 0x7bff, 0x0001, 0x83ff, 0x0400, 0x8000, 0x7c00, 0xfc00 };
    static const double half_is[10] = { 1, -2, 0.333251953125, 65504, 5.9604644775390625e-8, -6.0975551605224609375e-5, 6.103515625e-5,
        -0.0, INFINITY, -INFINITY };
    static const uint16_t brain[5] = { 0x3f80, 0xc2f7, 0x0001, 0x7f7f, 0xff80 };
    static const double brain_is[5] = { 1, -123.5, 9.18354961579912115600575419705e-41, 3.38953138925153547590470800371487866880e38,
        -INFINITY };
    static const double wide[3] = { 0.1, -2.5, 1e300 };
    const char *path = temp("dtypes");
    const char *json = "{\"d\":{\"dtype\":\"F64\",\"shape\":[3],\"data_offsets\":[0,24]},"
        "\"h\":{\"dtype\":\"F16\",\"shape\":[10],\"data_offsets\":[24,44]},"
        "\"b\":{\"dtype\":\"BF16\",\"shape\":[5],\"data_offsets\":[44,54]},\"n\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[54,56]},"
        "\"f\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[56,60]}}";
    uint8_t data[60], *p = data;
    for (int i = 0; i < 3; i++) {
        uint64_t u;
        memcpy(&u, &wide[i], 8);
        p += little(p, u, 8);
    }
    for (int i = 0; i < 10; i++) p += little(p, half[i], 2);
    for (int i = 0; i < 5; i++) p += little(p, brain[i], 2);
    p += little(p, 0x7e01, 2); /* a half NaN */
    little(p, 0x40490fdb, 4);
    put_tensors(path, json, strlen(json), data, sizeof data);
    for (int used = 0; used < 2; used++) { /* waiting, and in place */
        dl_context *c = context(1);
        dl_param_info i;
        for (int pass = 0; pass < 2; pass++) {
            if (pass == used) CHECK(dl_load(c, path), "%s", dl_error(c));
            param(c, "d", DL_SHAPE(3), false);
            param(c, "h", DL_SHAPE(10), false);
            param(c, "b", DL_SHAPE(5), false);
            param(c, "n", DL_SCALAR, false);
            param(c, "f", DL_SHAPE(1), false);
            dl_end(c);
        }
        if (dl_param_find(c, "d", &i))
            for (int k = 0; k < 3; k++) CHECK(i.value[k] == (dl_real)wide[k], "F64 %d: %g", k, (double)i.value[k]);
        if (dl_param_find(c, "h", &i)) {
            for (int k = 0; k < 10; k++) CHECK((double)i.value[k] == half_is[k], "F16 %d: %g, not %g", k, (double)i.value[k], half_is[k]);
            CHECK(signbit(i.value[7]), "F16 -0 lost its sign");
        }
        if (dl_param_find(c, "b", &i))
            for (int k = 0; k < 5; k++) CHECK((double)i.value[k] == (double)(dl_real)brain_is[k], "BF16 %d: %g, not %g", k,
                (double)i.value[k], brain_is[k]);
        if (dl_param_find(c, "n", &i)) CHECK(i.value[0] != i.value[0], "an F16 NaN became %g", (double)i.value[0]);
        if (dl_param_find(c, "f", &i)) CHECK((float)i.value[0] == 3.14159274f, "F32: %g", (double)i.value[0]);
        CHECK(!dl_failed(c), "%s", dl_error(c));
        dl_destroy(c);
    }
}

static void integers_skipped(void)
{
    static const struct { const char *name; int size; } kinds[] = { { "I64", 8 }, { "U64", 8 }, { "I32", 4 }, { "U32", 4 }, { "I16", 2 },
        { "U16", 2 }, { "I8", 1 }, { "U8", 1 }, { "BOOL", 1 } };
    const char *path = temp("integers");
    uint8_t data[64];
    memset(data, 0xff, sizeof data);
    little(data + 24, 0x3f800000, 4);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        char json[512];
        int n = 3 * kinds[i].size;
        dl_context *c = context(1);
        dl_param_info p;
        snprintf(json, sizeof json,
            "{\"steps\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%d]},"
            "\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%d,%d]}}", kinds[i].name, n, n, n + 4);
        put_tensors(path, json, strlen(json), data + 24 - n, (size_t)n + 4);
        param(c, "steps", DL_SHAPE(2), false); /* not even its shape matters */
        dl_end(c);
        CHECK(dl_load(c, path), "%s: %s", kinds[i].name, dl_error(c));
        CHECK(dl_load_pending(c) == 1, "%s: %d wait", kinds[i].name, dl_load_pending(c));
        CHECK(dl_item(dl_sum(param(c, "v", DL_SHAPE(1), false))) == 1, "%s: what follows it is wrong", kinds[i].name);
        if (dl_param_find(c, "steps", &p)) CHECK(p.value[0] == p.value[0], "%s was read as numbers", kinds[i].name);
        dl_destroy(c);
    }
}

/* ---- writes that fail ---- */
static void no_folder(void)
{
    dl_context *c = context(1);
    char path[700], long_path[2000];
    model(c);
    snprintf(path, sizeof path, "%s/x", temp("no-such-folder"));
    CHECK(!dl_save(c, path), "saved into a folder that is not there");
    names(c, path, "dl_save");
    memset(long_path, 'p', sizeof long_path);
    long_path[sizeof long_path - 1] = 0;
    CHECK(!dl_save(c, long_path), "saved under a path of 1999 letters");
    CHECK(*dl_error(c), "no sentence");
    dl_clear_error(c);
    CHECK(!dl_load(c, path), "loaded what is not there");
    names(c, path, "dl_load");
    CHECK(!dl_save(c, NULL), "saved under NULL");
    dl_clear_error(c);
    CHECK(dl_save(c, temp("trip")), "%s", dl_error(c));
    dl_destroy(c);
}

static void onto_a_folder(void)
{
#if defined(_POSIX_VERSION)
    dl_context *c = context(1);
    const char *folder = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    model(c);
    CHECK(!dl_load(c, folder), "loaded a folder");
    names(c, folder, "dl_load");
    CHECK(!dl_open_idx(c, folder, NULL), "opened a folder");
    names(c, folder, "dl_open_idx");
    dl_destroy(c);
#else
    SKIP("no POSIX");
#endif
}

static void full_disk(void) /* PATH.tmp leads to a device that is always full */
{
#if defined(_POSIX_VERSION)
    dl_context *c = context(1);
    const char *path = temp("full");
    char link[700];
    if (!exists("/dev/full")) {
        SKIP("there is no /dev/full");
        dl_destroy(c);
        return;
    }
    snprintf(link, sizeof link, "%s.tmp", path);
    for (int large = 0; large < 2; large++) { /* fails in the flush, and in the middle */
        model(c);
        if (large) param(c, "larger", DL_SHAPE(1000, 100), false), dl_end(c);
        CHECK(dl_save(c, path), "%s", dl_error(c));
        bytes before = get_file(path);
        CHECK(!symlink("/dev/full", link), "no link");
        CHECK(!dl_save(c, path), "saved onto a full device");
        names(c, path, "dl_save");
        bytes after = get_file(path);
        CHECK(same_bytes(before, after), "the old file changed");
        CHECK(!left_over(path), "the temporary file is still there");
        CHECK(dl_load(c, path), "%s", dl_error(c));
        free(before.p);
        free(after.p);
    }
    CHECK(exists("/dev/full"), "removed /dev/full");
    dl_history *h = dl_history_create(c);
    dl_history_add(h, "a", 0, 1);
    CHECK(!symlink("/dev/full", link) && !dl_history_csv(h, path), "wrote a CSV onto a full device");
    names(c, path, "dl_history_csv");
    CHECK(!symlink("/dev/full", link) && !dl_history_svg(h, path, "t"), "wrote an SVG onto a full device");
    names(c, path, "dl_history_svg");
    dl_destroy(c);
#else
    SKIP("no POSIX");
#endif
}

static void metadata_name(void) /* the one name that a checkpoint cannot hold */
{
    dl_context *c = context(1), *d = context(1);
    const char *path = temp("metadata");
    param(c, "__metadata__", DL_SHAPE(2), false);
    dl_end(c);
    if (!dl_failed(c) && dl_save(c, path)) CHECK(dl_load(d, path), "dl_save wrote what dl_load refuses: %s", dl_error(d));
    dl_destroy(c);
    dl_destroy(d);
}

/* ---- hostile checkpoints ---- */
static const char good_json[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[24,28]}}";
static uint8_t good_data[28];

static void make_good(void)
{
    for (int i = 0; i < 7; i++) {
        float f = (float)value_at(i < 6 ? "a" : "b", i < 6 ? (size_t)i : 0);
        uint32_t u;
        memcpy(&u, &f, 4);
        little(good_data + 4 * i, u, 4);
    }
}

static dl_context *hostile_context(void)
{
    dl_context *c = context(1);
    param(c, "a", DL_SHAPE(2, 3), false);
    dl_end(c);
    return c;
}

/* Refused with a sentence that names it; nothing waits; and then a good file loads. */
static void refused(dl_context *c, const char *what, const char *path)
{
    const char *good = temp("good");
    dl_real zero[6] = { 0 };
    dl_param_set(c, "a", zero, 6);
    int waiting = dl_load_pending(c);
    bool loaded = dl_load(c, path);
    CHECK(!loaded, "%s: was loaded", what);
    CHECK(loaded || (dl_failed(c) && strstr(dl_error(c), path)), "%s: '%s' does not name the file", what, dl_error(c));
    dl_clear_error(c);
    CHECK(dl_load_pending(c) == waiting, "%s: left values waiting", what);
    put_tensors(good, good_json, strlen(good_json), good_data, sizeof good_data);
    CHECK(dl_load(c, good) && is_formula(c, "a"), "%s: a good file does not load afterwards: %s", what, dl_error(c));
    dl_clear_error(c);
}

static void truncations(void)
{
    const char *path = temp("truncated");
    dl_context *c = hostile_context();
    size_t n = put_tensors(path, good_json, strlen(good_json), good_data, sizeof good_data);
    bytes b = get_file(path);
    for (size_t k = 0; k < n; k++) {
        char what[64];
        snprintf(what, sizeof what, "%zu of %zu bytes", k, n);
        put_file(path, b.p, k);
        refused(c, what, path);
    }
    put_file(path, b.p, n + 1); /* get_file ends with a zero */
    refused(c, "one byte too many", path);
    free(b.p);
    dl_destroy(c);
}

static void header_lengths(void)
{
    const char *path = temp("length");
    dl_context *c = hostile_context();
    size_t n = put_tensors(path, good_json, strlen(good_json), good_data, sizeof good_data);
    bytes b = get_file(path);
    uint64_t header = n - 8 - sizeof good_data;
    const uint64_t lengths[] = { 0, 1, 2, 7, 8, header - 8, header - 30, header + 1, header + 8, n - 8, n - 7, n, 99999999, 100000000,
        100000001, 0x7fffffff, 0x80000000u, 0xffffffffu,
        (uint64_t)1 << 32, INT64_MAX, (uint64_t)1 << 63, UINT64_MAX - 8, UINT64_MAX - 7, UINT64_MAX };
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        char what[60];
        snprintf(what, sizeof what, "header length %llu", (unsigned long long)lengths[i]);
        little(b.p, lengths[i], 8);
        put_file(path, b.p, n);
        refused(c, what, path);
    }
    free(b.p);
    dl_destroy(c);
}

/* T: a tensor of a header. */
#define T(name, dtype, shape, begin, end) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
static const struct { const char *what, *json; int data; } hostile[] = {
    { "overlap", "{" T("a", "F32", "[2,3]", "0", "24") "," T("b", "F32", "[]", "20", "24") "}", 24 },
    { "overlap of two equal ones", "{" T("a", "F32", "[2,3]", "0", "24") "," T("b", "F32", "[6]", "0", "24") "}", 24 },
    { "overlap inside", "{" T("a", "F32", "[2,3]", "0", "24") "," T("b", "F32", "[]", "8", "12") "}", 24 },
    { "zero-size inside another", "{" T("a", "F32", "[2,3]", "0", "24") "," T("b", "F32", "[0]", "8", "8") "}", 24 },
    { "zero-size behind the end", "{" T("a", "F32", "[2,3]", "0", "24") "," T("b", "F32", "[0]", "28", "28") "}", 24 },
    { "gap", "{" T("a", "F32", "[2,3]", "0", "24") "," T("b", "F32", "[]", "28", "32") "}", 32 },
    { "gap at the start", "{" T("a", "F32", "[2,3]", "4", "28") "}", 28 },
    { "data behind the last", "{" T("a", "F32", "[2,3]", "0", "24") "}", 28 },
    { "data of an empty header", "{}", 4 },
    { "offsets backwards", "{" T("a", "F32", "[2,3]", "24", "0") "}", 24 },
    { "offsets behind the end", "{" T("a", "F32", "[2,3]", "0", "24") "," T("b", "F32", "[]", "24", "28") "}", 24 },
    { "offset 2^64 - 1", "{" T("a", "F32", "[2,3]", "18446744073709551615", "23") "}", 24 },
    { "offset that wraps", "{" T("a", "F32", "[2,3]", "0", "24") "," T("b", "F32", "[]", "18446744073709551612", "0") "}", 24 },
    { "offset above 2^64", "{" T("a", "F32", "[2,3]", "0", "18446744073709551640") "}", 24 },
    { "offset of 40 digits", "{" T("a", "F32", "[2,3]", "0", "1000000000000000000000000000000000000024") "}", 24 },
    { "negative offset", "{" T("a", "F32", "[2,3]", "-4", "20") "}", 24 },
    { "fraction", "{" T("a", "F32", "[2,3]", "0", "24.0") "}", 24 },
    { "exponent", "{" T("a", "F32", "[2,3]", "0", "24e0") "}", 24 },
    { "one offset", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[24]}}", 24 },
    { "three offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24,24]}}", 24 },
    { "offsets as text", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[\"0\",\"24\"]}}", 24 },
    { "wrong product", "{" T("a", "F32", "[2,4]", "0", "24") "}", 24 },
    { "wrong dtype size", "{" T("a", "F64", "[2,3]", "0", "24") "}", 24 },
    { "scalar of 24 bytes", "{" T("a", "F32", "[]", "0", "24") "}", 24 },
    { "product that wraps to 6", "{" T("a", "F32", "[9223372036854775809,6]", "0", "24") "}", 24 },
    { "product that wraps to 0", "{" T("a", "F32", "[4294967296,4294967296]", "0", "0") "," T("b", "F32", "[]", "0", "4") "}", 4 },
    { "bytes that wrap", "{" T("a", "F32", "[4611686018427387910]", "0", "24") "}", 24 },
    { "size above 2^64", "{" T("a", "F32", "[18446744073709551618,3]", "0", "24") "}", 24 },
    { "negative size", "{" T("a", "F32", "[-2,-3]", "0", "24") "}", 24 },
    { "nine dimensions", "{" T("a", "F32", "[1,1,1,1,1,1,1,2,3]", "0", "24") "}", 24 },
    { "shape without commas", "{" T("a", "F32", "[2 3]", "0", "24") "}", 24 },
    { "shape with a comma at its end", "{" T("a", "F32", "[2,3,]", "0", "24") "}", 24 },
    { "shape as an object", "{" T("a", "F32", "{}", "0", "24") "}", 24 },
    { "shape null", "{" T("a", "F32", "null", "0", "24") "}", 24 },
    { "shape of shapes", "{" T("a", "F32", "[[2,3]]", "0", "24") "}", 24 },
    { "name twice", "{" T("a", "F32", "[3]", "0", "12") "," T("a", "F32", "[3]", "12", "24") "}", 24 },
    { "name twice, once escaped", "{" T("a/", "F32", "[3]", "0", "12") "," T("a\\/", "F32", "[3]", "12", "24") "}", 24 },
    { "field twice", "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24 },
    { "__metadata__ twice", "{\"__metadata__\":{},\"__metadata__\":{}," T("a", "F32", "[2,3]", "0", "24") "}", 24 },
    { "no dtype", "{\"a\":{\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24 },
    { "no shape", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,24]}}", 24 },
    { "no data_offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3]}}", 24 },
    { "no field", "{\"a\":{}}", 24 },
    { "unknown field", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24],\"more\":1}}", 24 },
    { "unknown dtype", "{" T("a", "C64", "[3]", "0", "24") "}", 24 },
    { "empty dtype", "{" T("a", "", "[2,3]", "0", "24") "}", 24 },
    { "dtype as a number", "{\"a\":{\"dtype\":32,\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24 },
    { "tensor as a number", "{\"a\":1}", 0 },
    { "tensor as a list", "{\"a\":[]}", 0 },
    { "metadata as a list", "{\"__metadata__\":[]," T("a", "F32", "[2,3]", "0", "24") "}", 24 },
    { "metadata with a number", "{\"__metadata__\":{\"n\":1}," T("a", "F32", "[2,3]", "0", "24") "}", 24 },
    { "metadata with an object", "{\"__metadata__\":{\"n\":{}}," T("a", "F32", "[2,3]", "0", "24") "}", 24 },
    { "metadata with a comma at its end", "{\"__metadata__\":{\"n\":\"m\",}," T("a", "F32", "[2,3]", "0", "24") "}", 24 },
    { "no object", "[]", 0 },
    { "a string", "\"a\"", 0 },
    { "spaces only", "        ", 0 },
    { "comma at the end", "{" T("a", "F32", "[2,3]", "0", "24") ",}", 24 },
    { "comma at the start", "{," T("a", "F32", "[2,3]", "0", "24") "}", 24 },
    { "no comma", "{" T("a", "F32", "[3]", "0", "12") T("b", "F32", "[3]", "12", "24") "}", 24 },
    { "no end", "{" T("a", "F32", "[2,3]", "0", "24"), 24 },
    { "text behind the end", "{" T("a", "F32", "[2,3]", "0", "24") "} x", 24 },
    { "second object", "{" T("a", "F32", "[2,3]", "0", "24") "}{}", 24 },
    { "name without quotes", "{a:{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24 },
    { "name that does not end", "{\"a", 0 },
    { "name that ends in a backslash", "{\"a\\", 0 },
    { "control character in a name", "{" T("a\x01", "F32", "[2,3]", "0", "24") "}", 24 },
    { "new line in a name", "{" T("a\n", "F32", "[2,3]", "0", "24") "}", 24 },
    { "control character between", "{\x01" T("a", "F32", "[2,3]", "0", "24") "}", 24 },
    { "unknown escape", "{" T("a\\q", "F32", "[2,3]", "0", "24") "}", 24 },
    { "escape of a zero", "{" T("a\\0", "F32", "[2,3]", "0", "24") "}", 24 },
    { "half an escape", "{" T("a\\u12", "F32", "[2,3]", "0", "24") "}", 24 },
    { "escaped zero byte", "{" T("a\\u0000", "F32", "[2,3]", "0", "24") "}", 24 },
    { "name of 300 letters", "{" T("nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
        "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
        "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn", "F32", "[2,3]", "0",
            "24") "}", 24 },
    { "other shape than the program's", "{" T("a", "F32", "[3,2]", "0", "24") "}", 24 },
};

static void hostile_headers(void)
{
    const char *path = temp("hostile");
    dl_context *c = hostile_context();
    for (size_t i = 0; i < COUNT_OF(hostile); i++) {
        put_tensors(path, hostile[i].json, strlen(hostile[i].json), good_data, 0);
        FILE *f = fopen(path, "ab"); /* some claim more than there is in good_data */
        for (int k = 0; f && k < hostile[i].data; k++) fputc(k, f);
        if (f) fclose(f);
        refused(c, hostile[i].what, path);
    }
    dl_destroy(c);
}

static void deep_nesting(void)
{
    static const char *const of[] = { "{", "[", "{\"a\":", "{\"__metadata__\":", "{\"__metadata__\":{\"a\":[", "\"", "\\",
        "{\"a\":{\"shape\":[" };
    static char text[1 << 15];
    const char *path = temp("deep");
    dl_context *c = hostile_context();
    for (size_t i = 0; i < COUNT_OF(of); i++) {
        size_t n = 0, k = strlen(of[i]);
        while (n + k < sizeof text - 1) memcpy(text + n, of[i], k), n += k;
        put_tensors(path, text, n, good_data, sizeof good_data);
        refused(c, of[i], path);
    }
    dl_destroy(c);
}

static void zero_bytes(void) /* at every place of the header */
{
    const char *path = temp("zero");
    dl_context *c = hostile_context();
    char json[sizeof good_json];
    for (size_t k = 0; k < sizeof good_json - 1; k++) {
        char what[40];
        snprintf(what, sizeof what, "zero byte at %zu", k);
        memcpy(json, good_json, sizeof json);
        json[k] = 0;
        put_tensors(path, json, sizeof good_json - 1, good_data, sizeof good_data);
        refused(c, what, path);
    }
    memcpy(json, good_json, sizeof json);
    put_tensors(path, json, sizeof json, good_data, sizeof good_data); /* the padding begins with a zero */
    refused(c, "zero byte behind the end", path);
    dl_destroy(c);
}

/* The largest piece of memory asked for while a header is read. */
static size_t asked_most;
static void *counting_alloc(size_t n, void *user)
{
    (void)user;
    if (n > asked_most) asked_most = n;
    return n > (size_t)1 << 28 ? NULL : malloc(n);
}
static void counting_release(void *p, void *user) { (void)user, free(p); }

static void small_file_small_memory(void) /* a header full of braces must not ask for a hundred times its size */
{
    enum { N = 1 << 18 };
    const char *path = temp("braces");
    uint8_t *b = malloc(8 + N);
    dl_config config;
    memset(&config, 0, sizeof config);
    config.threads = 1;
    config.alloc = counting_alloc;
    config.release = counting_release;
    dl_context *c = dl_create(&config);
    if (b) {
        memset(b, '{', 8 + N);
        little(b, N, 8);
        put_file(path, b, 8 + N);
        asked_most = 0;
        CHECK(!dl_load(c, path), "loaded braces");
        names(c, path, "dl_load");
        CHECK(asked_most <= 16 * (size_t)N, "a file of %d bytes asks for %zu", 8 + N, asked_most);
    }
    free(b);
    dl_destroy(c);
}

static void many_loads_one_block(void) /* reading a checkpoint again and again needs no more memory each time */
{
    static double block[1 << 14];
    const char *path = temp("good");
    dl_config config;
    dl_real v[6] = { 0 };
    int n = 0;
    memset(&config, 0, sizeof config);
    config.threads = 1;
    config.memory = block;
    config.memory_size = sizeof block;
    dl_context *c = dl_create(&config);
    param(c, "a", DL_SHAPE(2, 3), false);
    param(c, "b", DL_SCALAR, false);
    dl_end(c);
    CHECK(!dl_failed(c), "%s", dl_error(c));
    put_tensors(path, good_json, strlen(good_json), good_data, sizeof good_data);
    while (n < 5000 && dl_param_set(c, "a", v, 6) && dl_load(c, path)) n++;
    CHECK(n == 5000, "load %d: %s", n + 1, dl_error(c));
    CHECK(is_formula(c, "a"), "wrong values");
    dl_destroy(c);
}

/* ---- legal oddities ---- */
static void legal(void)
{
    static const struct { const char *what, *json; int data, waiting; } table[] = {
        { "nothing", "{}", 0, 0 },
        { "only metadata", "{\"__metadata__\":{}}", 0, 0 },
        { "metadata", "{\"__metadata__\":{\"format\":\"pt\",\"a\":\"quote \\\" slash \\\\ \\/ line \\n tab \\t\",\"\":\"\"}," T("a", "F32",
            "[2,3]", "0", "24") "}", 24, 0 },
        { "metadata last", "{" T("a", "F32", "[2,3]", "0", "24") ",\"__metadata__\":{\"k\":\"{[\"}}", 24, 0 },
        { "keys in another order than the data", "{" T("b", "F32", "[]", "24", "28") "," T("a", "F32", "[2,3]", "0", "24") "}", 28, 1 },
        { "fields in another order", "{\"a\":{\"data_offsets\":[0,24],\"shape\":[2,3],\"dtype\":\"F32\"}}", 24, 0 },
        { "space everywhere", " { \"a\" : { \"dtype\" : \"F32\" ,\n\t\"shape\" : [ 2 , 3 ] ,\r\n \"data_offsets\" : [ 0 , 24 ] } } \n", 24,
            0 },
        { "zero-size at the start", "{" T("e", "F32", "[0,3]", "0", "0") "," T("a", "F32", "[2,3]", "0", "24") "}", 24, 1 },
        { "zero-size between", "{" T("a", "F32", "[2,3]", "0", "24") "," T("e", "F32", "[0]", "24", "24") "," T("b", "F32", "[]", "24",
            "28") "}", 28, 2 },
        { "zero-size at the end, twice", "{" T("a", "F32", "[2,3]", "0", "24") "," T("e", "F16", "[4,0]", "24", "24") "," T("f", "F64",
            "[0]", "24", "24") "}", 24, 2 },
        { "eight dimensions", "{" T("a", "F32", "[2,3]", "0", "24") "," T("e", "F32", "[1,1,1,1,1,1,1,1]", "24", "28") "}", 28, 1 },
        { "names in UTF-8", "{" T("a", "F32", "[2,3]", "0", "24") "," T("\xc3\xa4", "F32", "[]", "24", "28") "}", 28, 1 },
        { "empty name", "{" T("a", "F32", "[2,3]", "0", "24") "," T("", "F32", "[]", "24", "28") "}", 28, 1 },
        { "bytes between that nobody aligned", "{" T("u", "U8", "[3]", "0", "3") "," T("b", "F32", "[]", "3", "7") "}", 7, 1 },
    };
    const char *path = temp("legal");
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        dl_context *c = hostile_context();
        put_tensors(path, table[i].json, strlen(table[i].json), good_data, (size_t)table[i].data);
        CHECK(dl_load(c, path), "%s: %s", table[i].what, dl_error(c));
        CHECK(dl_load_pending(c) == table[i].waiting, "%s: %d wait", table[i].what, dl_load_pending(c));
        if (strstr(table[i].json, "\"a\":{")) CHECK(is_formula(c, "a"), "%s: wrong values", table[i].what);
        dl_destroy(c);
    }
}

static void escaped_names(void) /* JSON may write any character as \uXXXX */
{
    static const char json[] = "{" T("\\u0061\\u00e9\\u20AC\\ud83d\\ude00", "F32", "[2]", "0", "8") "}";
    static const float two[2] = { 3, 4 };
    const char *path = temp("escaped");
    dl_context *c = context(1);
    put_tensors(path, json, sizeof json - 1, two, sizeof two);
    CHECK(dl_load(c, path), "%s", dl_error(c));
    const float *v = (const float *)dl_data(param(c, "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", DL_SHAPE(2), false));
    CHECK(v && v[0] == 3 && v[1] == 4 && !dl_load_pending(c), "the name was not understood: %s", dl_error(c));
    dl_destroy(c);
}

/* ---- IDX ---- */
static size_t put_idx(const char *path, int type, int dims, const uint32_t *size, size_t data)
{
    static uint8_t out[4096];
    size_t n = 0;
    out[n++] = 0;
    out[n++] = 0;
    out[n++] = (uint8_t)type;
    out[n++] = (uint8_t)dims;
    for (int d = 0; d < dims; d++)
        for (int k = 3; k >= 0; k--) out[n++] = (uint8_t)(size[d] >> 8 * k);
    for (size_t i = 0; i < data; i++) out[n++] = (uint8_t)(i * 37);
    put_file(path, out, n);
    return n;
}

static void idx_good(void)
{
    const char *images = temp("images"), *labels = temp("labels");
    const uint32_t three[3] = { 5, 2, 3 }, four[4] = { 2, 3, 4, 5 }, one[1] = { 5 }, none[3] = { 0, 2, 3 };
    dl_context *c = context(1);
    dl_batch b;
    put_idx(images, 8, 3, three, 30);
    put_idx(labels, 8, 1, one, 5);
    dl_dataset *d = dl_open_idx(c, images, labels);
    CHECK(d && dl_dataset_count(d) == 5, "%s", dl_error(c));
    dl_shape s = dl_dataset_x_shape(d);
    CHECK(s.ndim == 3 && s.dim[0] == 1 && s.dim[1] == 2 && s.dim[2] == 3, "a sample has %d dimensions", s.ndim);
    dl_loader_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.batch = 2;
    dl_loader *l = dl_loader_create(d, &desc);
    size_t at = 0;
    while (dl_next(l, &b)) {
        dl_real x[12];
        int32_t y[2];
        CHECK(dl_ndim(b.x) == 4 && dl_dim(b.x, 0) == (dl_index)b.count && dl_ndim(b.y) == 1 && dl_dtype_of(b.x) == DL_F32
            && dl_dtype_of(b.y) == DL_I32, "wrong shapes or dtypes");
        CHECK(dl_read(b.x, x, 6 * b.count) && dl_read(b.y, y, b.count), "%s", dl_error(c));
        for (size_t i = 0; i < 6 * b.count && !dl_failed(c); i++) {
            dl_real want = (dl_real)(uint8_t)((at * 6 + i) * 37) / 255;
            CHECK(x[i] == want, "byte %zu is %g, not %g", at * 6 + i, (double)x[i], (double)want);
        }
        for (size_t i = 0; i < b.count && !dl_failed(c); i++) CHECK(y[i] == (int32_t)((at + i) * 37), "label %zu is %d", at + i, (int)y[i]);
        at += b.count;
    }
    CHECK(at == 5, "%zu samples. %s", at, dl_error(c));
    put_idx(images, 8, 4, four, 120);
    d = dl_open_idx(c, images, NULL);
    s = dl_dataset_x_shape(d);
    CHECK(d && dl_dataset_count(d) == 2 && s.ndim == 3 && s.dim[0] == 3 && s.dim[1] == 4 && s.dim[2] == 5, "four dimensions: %s",
        dl_error(c));
    l = dl_loader_create(d, NULL);
    CHECK(dl_next(l, &b) && !dl_ok(b.y) && dl_ndim(b.x) == 4 && dl_numel(b.x) == 60, "%s", dl_error(c));
    put_idx(images, 8, 1, one, 5);
    d = dl_open_idx(c, images, NULL);
    CHECK(d && dl_dataset_x_shape(d).ndim == 0 && dl_dataset_count(d) == 5, "one dimension: %s", dl_error(c));
    put_idx(images, 8, 3, none, 0);
    d = dl_open_idx(c, images, NULL);
    l = dl_loader_create(d, NULL);
    CHECK(d && dl_dataset_count(d) == 0 && !dl_next(l, &b) && !dl_failed(c), "no images: %s", dl_error(c));
    dl_destroy(c);
}

static void idx_refused(dl_context *c, const char *what, const char *images, const char *labels, const char *named)
{
    bool opened = dl_open_idx(c, images, labels) != NULL;
    CHECK(!opened, "%s: was opened", what);
    CHECK(opened || (dl_failed(c) && strstr(dl_error(c), named)), "%s: '%s' does not name the file", what, dl_error(c));
    dl_clear_error(c);
}

static void idx_hostile(void)
{
    static const struct { const char *what; int type, dims; uint32_t size[5]; size_t data; } table[] = {
        { "more claimed", 8, 3, { 5, 2, 4 }, 30 }, { "less claimed", 8, 3, { 5, 2, 2 }, 30 }, { "product that wraps to 0", 8, 3,
            { 0x80000000u, 0x80000000u, 4 }, 0 },
        { "product that wraps to 30", 8, 4, { 0x40000000u, 0x40000000u, 16, 30 }, 30 }, { "largest sizes", 8, 4, { 0xffffffffu,
            0xffffffffu, 0xffffffffu, 0xffffffffu }, 30 },
        { "no image of the largest size", 8, 4, { 0, 0xffffffffu, 0xffffffffu, 0xffffffffu }, 0 },
        { "no dimension", 8, 0, { 0 }, 0 }, { "five dimensions", 8, 5, { 1, 1, 1, 1, 30 }, 30 }, { "255 dimensions", 8, 255, { 1 }, 30 },
        { "floats", 13, 3, { 5, 2, 3 }, 120 }, { "signed bytes", 9, 3, { 5, 2, 3 }, 30 }, { "type 0", 0, 3, { 5, 2, 3 }, 30 },
    };
    const char *path = temp("hostile-idx"), *labels = temp("labels");
    const uint32_t three[3] = { 5, 2, 3 }, one[1] = { 5 }, other[1] = { 4 }, two[2] = { 5, 1 };
    uint32_t size[255];
    dl_context *c = context(1);
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        for (int d = 0; d < 255; d++) size[d] = d < 5 ? table[i].size[d] : 1;
        put_idx(path, table[i].type, table[i].dims, size, table[i].data);
        idx_refused(c, table[i].what, path, NULL, path);
    }
    size_t n = put_idx(path, 8, 3, three, 30);
    bytes b = get_file(path);
    for (size_t k = 0; k <= n + 1; k++) {
        char what[64];
        if (k == n) continue;
        snprintf(what, sizeof what, "%zu of %zu bytes", k, n);
        put_file(path, b.p, k);
        idx_refused(c, what, path, NULL, path);
    }
    put_file(path, b.p, n);
    free(b.p);
    put_idx(labels, 8, 1, other, 4);
    idx_refused(c, "one label too few", path, labels, labels);
    put_idx(labels, 8, 2, two, 5);
    idx_refused(c, "labels of two dimensions", path, labels, labels);
    idx_refused(c, "labels that are not there", path, temp("no-such-file"), temp("no-such-file"));
    idx_refused(c, "images that are not there", temp("no-such-file"), labels, temp("no-such-file"));
    CHECK(!dl_open_idx(c, NULL, NULL) && dl_failed(c), "opened NULL");
    dl_clear_error(c);
    put_idx(labels, 8, 1, one, 5);
    CHECK(dl_open_idx(c, path, labels), "a good file does not open afterwards: %s", dl_error(c));
    dl_destroy(c);
}

static void idx_gzip(void)
{
    static const uint8_t packed[20] = { 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3 };
    const char *path = temp("packed"), *gz = temp("packed.gz");
    dl_context *c = context(1);
    put_file(gz, packed, sizeof packed);
    CHECK(!dl_open_idx(c, gz, NULL), "opened a packed file");
    names(c, gz, "gunzip");
    remove(path);
    CHECK(!dl_open_idx(c, path, NULL), "opened what is not there");
    names(c, gz, "gunzip");
    CHECK(!dl_open_idx(c, temp("no-such-file"), NULL), "opened what is not there");
    CHECK(!strstr(dl_error(c), "gunzip"), "'%s' although there is no .gz", dl_error(c));
    dl_destroy(c);
}

/* ---- curves ---- */
static int occurrences(const char *text, const char *what)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)) != NULL; p++) n++;
    return n;
}

static void curves(void)
{
    const char *csv = temp("curves.csv"), *svg = temp("curves.svg");
    dl_context *c = context(1);
    dl_history *h = dl_history_create(c);
    for (int i = 0; i < 100; i++) CHECK(dl_history_add(h, "loss", i, 10 - 0.125 * i), "%s", dl_error(c));
    for (int i = 0; i < 9; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        dl_history_add(h, name, 1, i);
    }
    dl_history_add(h, "a<b>&\"c\"", 3, -1.5);
    dl_history_add(h, "a<b>&\"c\"", 4, NAN);
    CHECK(dl_history_csv(h, csv) && dl_history_svg(h, svg, "<title> & more"), "%s", dl_error(c));
    CHECK(!left_over(csv) && !left_over(svg), "a temporary file is still there");
    bytes a = get_file(csv), b = get_file(svg);
    const char *text = (const char *)a.p, *draw = (const char *)b.p;
    CHECK(!strncmp(text, "series,x,y\n", 11), "the CSV has no head");
    CHECK(strstr(text, "\"loss\",0,10\n") && strstr(text, "\"loss\",99,-2.375\n") && strstr(text, "\"s8\",1,8\n"), "the CSV lacks points");
    CHECK(occurrences(text, "\n") == 1 + 100 + 9 + 2, "the CSV has %d lines", occurrences(text, "\n"));
    CHECK(strstr(text, "\"a<b>&\"\"c\"\"\",3,-1.5\n"), "a quote in a name is not doubled in the CSV");
    CHECK(!strncmp(draw, "<svg ", 5) && strstr(draw, "</svg>"), "the SVG is not one");
    CHECK(occurrences(draw, "<polyline") == 11, "the SVG has %d lines", occurrences(draw, "<polyline"));
    CHECK(strstr(draw, "&lt;title&gt; &amp; more") && strstr(draw, "a&lt;b&gt;&amp;") && !strstr(draw, "a<b"),
        "the SVG does not escape names");
    CHECK(!strstr(draw, "nan") && !strstr(draw, "inf"), "the SVG contains nan or inf");
    const char *line = strstr(draw, "points=\"");
    int points = 0;
    for (line = line ? line + 8 : ""; *line && *line != '"'; line++) points += *line == ',';
    CHECK(points == 100, "the first curve has %d points", points);
    free(a.p);
    free(b.p);
    char long_name[100];
    memset(long_name, 'n', sizeof long_name);
    long_name[99] = 0;
    CHECK(!dl_history_add(h, long_name, 0, 0) && strstr(dl_error(c), "dl_history_add"), "'%s'", dl_error(c));
    dl_clear_error(c);
    CHECK(!dl_history_add(h, NULL, 0, 0) && dl_failed(c), "added to NULL");
    dl_clear_error(c);
    char path[700];
    snprintf(path, sizeof path, "%s/x.csv", temp("no-such-folder"));
    CHECK(!dl_history_csv(h, path), "wrote into a folder that is not there");
    names(c, path, "dl_history_csv");
    CHECK(!dl_history_svg(h, path, NULL), "wrote into a folder that is not there");
    names(c, path, "dl_history_svg");
    CHECK(dl_history_svg(h, svg, NULL), "without a title: %s", dl_error(c));
    h = dl_history_create(c);
    CHECK(dl_history_csv(h, csv) && dl_history_svg(h, svg, "empty"), "%s", dl_error(c));
    dl_destroy(c);
}

static void charts(void) /* series that share a chart: one scale, their names in one row or, when they are long, below each other */
{
    const char *svg = temp("charts.svg");
    dl_context *c = context(1);
    dl_history *h = dl_history_create(c);
    static const char *const names[] = { "loss/training", "accuracy", "loss/test & more", "los", "losses/a long name of a line, so that it fills half of a row",
        "losses/a long name of a line, so that it needs a row alone" };
    for (int i = 0; i < 6; i++) dl_history_add(h, names[i], 0, 1 + i), dl_history_add(h, names[i], 10, 0);
    CHECK(dl_history_svg(h, svg, "t"), "%s", dl_error(c));
    bytes b = get_file(svg);
    const char *text = (const char *)b.p;
    CHECK(occurrences(text, "<polyline") == 6 && occurrences(text, "<tspan") == 6, "%d lines, %d names", occurrences(text, "<polyline"), occurrences(text, "<tspan"));
    CHECK(strstr(text, "height=\"880\""), "four charts, one with two rows more"); /* 40 + 4 * 200 + 2 * 16 + 8 */
    CHECK(strstr(text, ">loss<tspan dx=\"12\" fill=\"#1f6feb\">training</tspan><tspan dx=\"12\" fill=\"#d1242f\">test &amp; more</tspan></text>"), "names side by side");
    CHECK(strstr(text, ">losses<tspan x=\"64\" dy=\"16\" fill=\"#1f6feb\">a long") && strstr(text, "<tspan dx=\"0\" fill=\"#1f6feb\">accuracy"), "names below each other");
    CHECK(strstr(text, "points=\"64.0,160.0 624.0,210.0 \"") && strstr(text, "points=\"64.0,60.0 624.0,210.0 \""), "the loss of training has not the scale of both");
    free(b.p);
    dl_destroy(c);
}

/* Points that a drawing could stumble over; each alone in a child process, since what goes wrong may not end. */
static const struct { const char *what; int n; double xy[6]; } drawn[] = {
    { "one point", 1, { 1, 1 } }, { "one point at 0", 1, { 0, 0 } }, { "x far away", 1, { 1.7e18, 1 } }, { "x at 4e15", 1, { 4e15, 1 } },
    { "steps from 1e9 on", 2, { 1e9, 1, 1e9 + 10, 2 } }, { "negative x", 2, { -1e9, 1, -1e9 + 10, 2 } }, { "infinite x", 2, { 0, 1,
        INFINITY, 2 } }, { "x NaN", 2, { NAN, 1, 1, 2 } },
    { "x from end to end", 2, { -1.7e308, 1, 1.7e308, 2 } }, { "y from end to end", 2, { 0, -1.7e308, 1, 1.7e308 } }, { "infinite y", 2,
        { 0, INFINITY, 1, -INFINITY } },
    { "y NaN", 1, { 0, NAN } }, { "tiny y", 2, { 0, 1e-310, 1, 2e-310 } }, { "tiny x", 2, { 0, 1, 5e-324, 2 } }, { "large y", 2, { 0,
        1e300, 1, 3 } }, { "x close together", 2, { 1, 1, 1.0000000000000002, 2 } },
};

static void odd_points(void)
{
#if defined(_POSIX_VERSION)
    const char *svg = temp("odd.svg");
    char bad[512] = "";
    for (size_t i = 0; i < COUNT_OF(drawn); i++) {
        int status = 0;
        fflush(NULL);
        pid_t child = fork();
        if (!child) {
            alarm(1);
            dl_context *c = context(1);
            dl_history *h = dl_history_create(c);
            for (int k = 0; k < drawn[i].n; k++) dl_history_add(h, "y", drawn[i].xy[2 * k], drawn[i].xy[2 * k + 1]);
            if (!dl_history_svg(h, svg, "")) _exit(1);
            bytes b = get_file(svg);
            _exit(occurrences((char *)b.p, "<text") > 40 ? 2 : strstr((char *)b.p, "nan") || strstr((char *)b.p, "inf") ? 3 : 0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child) {
            SKIP("no child process");
            return;
        }
        if (status) {
            size_t at = strlen(bad);
            snprintf(bad + at, sizeof bad - at, "%s (%s); ", drawn[i].what,
                WIFSIGNALED(status) ? "does not end" : WEXITSTATUS(status) == 1 ? "fails" : WEXITSTATUS(status) == 2 ? "too many ticks"
                    : WEXITSTATUS(status) == 3 ? "nan or inf" : "a sanitizer");
        }
    }
    char tmp[700];
    snprintf(tmp, sizeof tmp, "%s.tmp", svg);
    remove(tmp);
    CHECK(!*bad, "%s", bad);
#else
    SKIP("no POSIX");
#endif
}

/* ---- the progress line, on what is not a terminal ---- */
static void progress(void)
{
#if defined(_POSIX_VERSION)
    int ends[2], out;
    char text[512];
    dl_progress p;
    memset(&p, 0, sizeof p);
    fflush(stdout);
    if (pipe(ends) || (out = dup(1)) < 0 || dup2(ends[1], 1) < 0) {
        SKIP("no pipe");
        return;
    }
    for (int i = 0; i < 10; i++) dl_progress_show(&p, "step %d, loss %.3f", i, 0.5);
    dl_progress_done(&p, "epoch %d: %s", 3, "done");
    for (int i = 0; i < 10; i++) dl_progress_show(&p, "again %d", i);
    dl_progress_done(&p, "100%%");
    fflush(stdout);
    dup2(out, 1);
    close(out);
    close(ends[1]);
    ssize_t n = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    text[n > 0 ? n : 0] = 0;
    CHECK(!strcmp(text, "epoch 3: done\n100%\n"), "a pipe got '%s'", text);
#else
    SKIP("no POSIX");
#endif
}

/* ---- with Python's safetensors ---- */
static int write_for_python(const char *path)
{
    dl_context *c = context(3);
    model(c);
    set_formula(c);
    bool ok = dl_save(c, path);
    if (ok) printf("ok wrote %s\n", path);
    else printf("not ok: %s\n", dl_error(c));
    dl_destroy(c);
    return !ok;
}

static int read_from_python(const char *path)
{
    static const row of[] = { { "f32", 2, { 2, 3 }, false }, { "half", 1, { 5 }, false }, { "brain16", 1, { 4 }, true }, { "double.wide",
        3, { 3, 1, 2 }, false },
        { "scalar", 0, { 0 }, false }, { "empty", 2, { 0, 3 }, false }, { "large", 2, { 61, 37 }, false } };
    dl_context *c = context(3);
    bool ok = dl_load(c, path);
    if (ok && dl_load_pending(c) != (int)COUNT_OF(of)) ok = dl_fail(c, "%d tensors wait, not %d", dl_load_pending(c), (int)COUNT_OF(of));
    for (size_t i = 0; ok && i < COUNT_OF(of); i++) {
        param(c, of[i].name, shape_of(&of[i]), of[i].buffer);
        dl_end(c);
        if (!is_formula(c, of[i].name)) ok = dl_fail(c, "%s has other values", of[i].name);
    }
    if (ok && dl_load_pending(c)) ok = dl_fail(c, "%d tensors still wait", dl_load_pending(c));
    if (ok) printf("ok read %s\n", path);
    else printf("not ok: %s\n", dl_error(c));
    dl_destroy(c);
    return !ok;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "write")) return write_for_python(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "read")) return read_from_python(argv[2]);
    make_good();
    RUN(round_trip);
    RUN(odd_values);
    RUN(same_run_same_bytes);
    RUN(load_before_use);
    RUN(used_in_the_step);
    RUN(later_load_wins);
    RUN(load_after_use);
    RUN(save_matching);
    RUN(shapes_differ);
    RUN(other_dtypes);
    RUN(integers_skipped);
    RUN(no_folder);
    RUN(onto_a_folder);
    RUN(full_disk);
    RUN(metadata_name);
    RUN(truncations);
    RUN(header_lengths);
    RUN(hostile_headers);
    RUN(deep_nesting);
    RUN(zero_bytes);
    RUN(small_file_small_memory);
    RUN(many_loads_one_block);
    RUN(legal);
    RUN(escaped_names);
    RUN(idx_good);
    RUN(idx_hostile);
    RUN(idx_gzip);
    RUN(curves);
    RUN(charts);
    RUN(odd_points);
    RUN(progress);
    clean();
    return REPORT();
}
