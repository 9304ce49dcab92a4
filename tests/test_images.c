/* Images on their way into a batch: distortions against a plain reference, two views, CIFAR's files, image files of every kind of bad; and the
   losses of distillation against tests/gold_distillation.h. JPEG is switched on, for whole files and for damage that stb_image 2.27 meets
   safely; without it a JPEG is refused, see tests/check_examples.sh. tests: with -DDLTRAIN_NO_SIMD */
#if (defined(__unix__) || defined(__APPLE__)) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L /* before any header: getpid, mkdir under -std=c99 */
#endif
#if defined(__has_include)
#if __has_include(<stb/stb_image.h>) && __has_include(<stb/stb_image_write.h>)
#define HAVE_STB
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define DLTRAIN_JPEG
#include <stb/stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#endif
#endif
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "test.h"
#include "numbers.h"
#include "gold_distillation.h"
#include "gold_images.h"
#include <sys/stat.h>
#include <unistd.h>
#define COUNT_OF(a) (sizeof(a) / sizeof *(a))
enum { N = 13, C = 3, H = 9, W = 11, PIXELS = C * H * W, SEED = 7 };

static uint8_t image[N][PIXELS], label[N];

static void make_images(void)
{
    uint32_t state = 99;
    for (size_t i = 0; i < N; i++) {
        label[i] = (uint8_t)(i % 4);
        for (size_t k = 0; k < PIXELS; k++) {
            state = state * 1664525u + 1013904223u;
            image[i][k] = (uint8_t)(state >> 24);
        }
    }
}

static dl_context *context(void)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.seed = SEED;
    c.threads = 1;
    return dl_create(&c);
}

static bool get(void *user, size_t index, void *x, void *y)
{
    (void)user;
    memcpy(x, image[index], PIXELS);
    *(uint8_t *)y = label[index];
    return true;
}

static dl_dataset *images(dl_context *c, bool by_get)
{
    dl_dataset_desc d;
    memset(&d, 0, sizeof d);
    d.count = N;
    d.x_dtype = d.y_dtype = DL_U8;
    d.x_shape = DL_SHAPE(C, H, W);
    d.x = image;
    d.y = label;
    if (by_get) d.get = get;
    return dl_dataset_create(c, &d);
}

/* The epoch `rewind` of a loader: [view][sample][pixel], by sample. How many came. */
static dl_real seen[2][N][PIXELS];
static size_t see(dl_loader *l, uint64_t epoch)
{
    dl_batch b;
    size_t n = 0;
    memset(seen, 0, sizeof seen);
    dl_loader_rewind(l, epoch);
    while (dl_next(l, &b))
        for (size_t i = 0; i < b.count; i++, n++)
            for (int view = 0; view < 2; view++) {
                dl_tensor t = view ? b.x2 : b.x;
                const dl_real *x = dl_ok(t) ? (const dl_real *)dl_data(t) : NULL;
                if (x) memcpy(seen[view][b.index[i]], x + i * PIXELS, sizeof seen[0][0]);
            }
    return n;
}

static dl_loader *loader(dl_context *c, dl_loader_desc d, const dl_augment_desc *a, bool by_get)
{
    if (a) d.augment = dl_augment_create(c, a);
    return dl_loader_create(images(c, by_get), &d);
}

/* ---- the reference: from the definitions, in double, with the C library's functions ---- */
static double ref[PIXELS];

static double drawn(uint32_t u, double low, double high) { return low + (high - low) * u / 4294967296.0; }
static void draw(size_t sample, uint64_t epoch, int view, uint64_t number, uint32_t u[4])
{
    dl__philox(dl__mix(dl__key(SEED, 0x61756772), epoch), sample, (uint64_t)view << 40 | number, u);
}

static double pixel(const uint8_t *p, long y, long x) { return x < 0 || y < 0 || x >= W || y >= H ? 0 : p[y * W + x]; }

static void reference_place(const dl_augment_desc *d, const uint8_t *in, const uint32_t u[4], const uint32_t form[4])
{
    double pi = acos(-1.0), r = drawn(form[0], -d->rotation, d->rotation) * pi / 180, k = tan(drawn(form[1], -d->shear, d->shear) * pi / 180),
           f = drawn(form[2], 1 - (double)d->scale, 1 + (double)d->scale);
    /* forward: rotate, then shear, then scale; inverted by Cramer's rule */
    double a = f * (cos(r) + k * sin(r)), b = f * (-sin(r) + k * cos(r)), c = f * sin(r), e = f * cos(r), det = a * e - b * c;
    double dx = floor(drawn(u[0], 0, 2.0 * (double)d->crop + 1)) - (double)d->crop, dy = floor(drawn(u[1], 0, 2.0 * (double)d->crop + 1)) - (double)d->crop;
    bool mirrored = drawn(u[2], 0, 1) < d->flip;
    for (int ch = 0; ch < C; ch++)
        for (int y = 0; y < H; y++)
            for (int x = 0; x < W; x++) {
                double px = x + dx - (W - 1) / 2.0, py = y + dy - (H - 1) / 2.0;
                double sx = (e * px - b * py) / det + (W - 1) / 2.0, sy = (-c * px + a * py) / det + (H - 1) / 2.0;
                if (mirrored) sx = W - 1 - sx;
                long x0 = (long)floor(sx), y0 = (long)floor(sy);
                double fx = sx - (double)x0, fy = sy - (double)y0;
                const uint8_t *p = in + ch * H * W;
                ref[(ch * H + y) * W + x] = ((pixel(p, y0, x0) * (1 - fx) + pixel(p, y0, x0 + 1) * fx) * (1 - fy)
                    + (pixel(p, y0 + 1, x0) * (1 - fx) + pixel(p, y0 + 1, x0 + 1) * fx) * fy) / 255;
            }
}

static double clamp01(double v) { return v < 0 ? 0 : v > 1 ? 1 : v; }
static double grey(int i) { return 0.299 * ref[i] + 0.587 * ref[H * W + i] + 0.114 * ref[2 * H * W + i]; }

static void turn_hue(int i, double turn) /* to HSV and back: Foley and van Dam */
{
    double *p[3] = { ref + i, ref + H * W + i, ref + 2 * H * W + i }, v = fmax(fmax(*p[0], *p[1]), *p[2]), c = v - fmin(fmin(*p[0], *p[1]), *p[2]);
    if (c == 0) return;
    double s = c / v, h = v == *p[0] ? (*p[1] - *p[2]) / c : v == *p[1] ? 2 + (*p[2] - *p[0]) / c : 4 + (*p[0] - *p[1]) / c;
    h = fmod(h / 6 + turn + 2, 1) * 6;
    double f = h - floor(h), a = v * (1 - s), down = v * (1 - s * f), up = v * (1 - s * (1 - f));
    const double rgb[6][3] = { { v, up, a }, { down, v, a }, { a, v, up }, { a, down, v }, { up, a, v }, { v, a, down } };
    for (int k = 0; k < 3; k++) *p[k] = rgb[(int)h % 6][k];
}

static void reference(const dl_augment_desc *d, size_t sample, uint64_t epoch, int view)
{
    uint32_t u[4], form[4];
    draw(sample, epoch, view, DL__DRAW_PLACE, u);
    draw(sample, epoch, view, DL__DRAW_SHAPE, form);
    reference_place(d, image[sample], u, form);
    draw(sample, epoch, view, DL__DRAW_COLOUR, u);
    const float wide[3] = { d->brightness, d->contrast, d->saturation };
    for (int kind = 0; kind < 3; kind++) {
        if (wide[kind] == 0) continue;
        double f = drawn(u[kind], wide[kind] > 1 ? 0 : 1 - (double)wide[kind], 1 + (double)wide[kind]), mean = 0;
        for (int i = 0; i < H * W; i++) mean += grey(i) / (H * W);
        for (int i = 0; i < H * W; i++) {
            double g = kind == 0 ? 0 : kind == 1 ? mean : grey(i);
            for (int c = 0; c < C; c++) ref[c * H * W + i] = clamp01(f * ref[c * H * W + i] + (1 - f) * g);
        }
    }
    for (int i = 0; d->hue > 0 && i < H * W; i++) turn_hue(i, drawn(u[3], -d->hue, d->hue));
    for (int i = 0; d->noise > 0 && i < PIXELS; i++) {
        draw(sample, epoch, view, DL__DRAW_NOISE + (uint64_t)i / 4, u);
        double radius = sqrt(-2 * log((u[i & 2] + 1.0) / 4294967296.0)), angle = 2 * acos(-1.0) * u[(i & 2) + 1] / 4294967296.0;
        ref[i] = clamp01(ref[i] + (double)d->noise * radius * (i & 1 ? cos(angle) : sin(angle)));
    }
    draw(sample, epoch, view, DL__DRAW_CUTOUT, u);
    long cy = (long)drawn(u[0], 0, H), cx = (long)drawn(u[1], 0, W), half = (long)d->cutout / 2;
    for (int i = 0; d->cutout && i < PIXELS; i++) {
        long y = i / W % H - (cy - half), x = i % W - (cx - half);
        if (x >= 0 && y >= 0 && x < d->cutout && y < d->cutout) ref[i] = 0;
    }
}

static dl_augment_desc some(int which) /* each distortion alone, then all */
{
    dl_augment_desc d;
    memset(&d, 0, sizeof d);
    bool all = which == 11;
    if (all || which == 0) d.flip = 0.5f;
    if (all || which == 1) d.rotation = which == 1 ? 180 : 20;
    if (all || which == 2) d.shear = 30;
    if (all || which == 3) d.scale = 0.4f;
    if (all || which == 4) d.crop = 3;
    if (all || which == 5) d.brightness = 0.6f;
    if (all || which == 6) d.contrast = 1.5f;
    if (all || which == 7) d.saturation = 0.8f;
    if (all || which == 8) d.hue = which == 8 ? 0.5f : 0.2f;
    if (all || which == 9) d.noise = 0.1f;
    if (all || which == 10) d.cutout = 4;
    return d;
}

static void against_reference(void)
{
    static const char *const names[] = { "flip", "rotation", "shear", "scale", "crop", "brightness", "contrast", "saturation", "hue", "noise", "cutout", "all" };
    for (int which = 0; which <= 11; which++) {
        dl_context *c = context();
        dl_loader_desc d;
        dl_augment_desc a = some(which);
        memset(&d, 0, sizeof d);
        d.batch = 4;
        d.views = 2;
        dl_loader *l = loader(c, d, &a, false);
        int changed = 0;
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            CHECK(see(l, epoch) == N, "%s", dl_error(c));
            for (size_t i = 0; i < N; i++)
                for (int view = 0; view < 2; view++) {
                    reference(&a, i, epoch, view);
                    bool moved = false;
                    for (int k = 0; k < PIXELS; k++) {
                        CHECK(fabs((double)seen[view][i][k] - ref[k]) < 1e-5, "%s: sample %zu, epoch %d, view %d, value %d is %g, not %g", names[which], i,
                            (int)epoch, view, k, (double)seen[view][i][k], ref[k]);
                        moved = moved || fabs(ref[k] - image[i][k] / 255.0) > 1e-3;
                    }
                    changed += moved;
                }
        }
        int total = 3 * 2 * N;
        if (which == 0) CHECK(changed > total / 4 && changed < total * 3 / 4, "%d of %d are mirrored", changed, total);
        else CHECK(changed > total * 3 / 4, "%s changed %d of %d", names[which], changed, total);
        dl_destroy(c);
    }
}

static void hues(void) /* of single pixels, greys and pure colours among them, against colorsys; and none where there are not three channels */
{
    for (size_t k = 0; k < COUNT_OF(gold_hue); k++) {
        const double *g = gold_hue[k];
        dl_real x[3] = { (dl_real)g[0], (dl_real)g[1], (dl_real)g[2] };
        dl__distort_hue((dl_real)g[3], 1, x);
        for (int c = 0; c < 3; c++) CHECK(fabs((double)x[c] - g[4 + c]) < 2e-4, "%g %g %g by %g: channel %d is %g, not %g", g[0], g[1], g[2], g[3], c, (double)x[c], g[4 + c]);
    }
    dl_context *c = context();
    dl_dataset_desc two;
    dl_loader_desc d;
    dl_augment_desc a = some(8);
    dl_batch b;
    memset(&two, 0, sizeof two);
    memset(&d, 0, sizeof d);
    two.count = 1, two.x_dtype = DL_U8, two.x_shape = DL_SHAPE(2, H, W), two.x = image, two.no_y = true;
    d.augment = dl_augment_create(c, &a);
    CHECK(dl_next(dl_loader_create(dl_dataset_create(c, &two), &d), &b), "%s", dl_error(c));
    const dl_real *x = dl_failed(c) ? NULL : (const dl_real *)dl_data(b.x);
    for (int k = 0; x && k < 2 * H * W; k++) CHECK(x[k] == (dl_real)image[0][k] / 255, "two channels, value %d", k);
    dl_destroy(c);
}

static void nothing_asked(void) /* all zeros: the bits of a loader without, in both views, and a mirror of a mirror */
{
    static dl_real plain[N][PIXELS];
    dl_context *c = context();
    dl_loader_desc d;
    dl_augment_desc a;
    memset(&d, 0, sizeof d);
    memset(&a, 0, sizeof a);
    d.batch = 5;
    CHECK(see(loader(c, d, NULL, false), 0) == N, "%s", dl_error(c));
    memcpy(plain, seen[0], sizeof plain);
    for (int k = 0; k < PIXELS; k++) CHECK(plain[2][k] == (dl_real)image[2][k] / 255, "value %d", k);
    d.views = 2;
    for (int by_get = 0; by_get < 2; by_get++) {
        CHECK(see(loader(c, d, &a, by_get), 1) == N, "%s", dl_error(c));
        CHECK(!memcmp(plain, seen[0], sizeof plain) && !memcmp(plain, seen[1], sizeof plain), "zeros distort");
    }
    a.flip = 1;
    CHECK(see(loader(c, d, &a, false), 0) == N, "%s", dl_error(c));
    for (size_t i = 0; i < N; i++)
        for (int k = 0; k < PIXELS; k++) CHECK(seen[1][i][k] == plain[i][k - k % W + W - 1 - k % W], "sample %zu, value %d", i, k);
    dl_destroy(c);
}

static void same_bits(void) /* whatever the threads, the batches, the ranks, the order and the source; and on every machine */
{
    static dl_real want[2][N][PIXELS];
    dl_augment_desc a = some(11);
    for (int k = 0; k < 16; k++) {
        dl_context *c = context();
        dl_loader_desc d;
        memset(&d, 0, sizeof d);
        d.batch = (size_t)(k % 5 + 1);
        d.shuffle = k & 1;
        d.prefetch = k & 2;
        d.threads = k % 4;
        d.views = 2;
        dl_loader *l = loader(c, d, &a, k & 4);
        CHECK(see(l, 2) == N, "%s", dl_error(c));
        if (!k) memcpy(want, seen, sizeof want);
        CHECK(!memcmp(want, seen, sizeof want), "way %d gives other bits", k);
        CHECK(memcmp(want[0], want[1], sizeof want[0]), "two views are one");
        see(l, 3);
        CHECK(memcmp(want, seen, sizeof want), "two epochs are one");
        d.views = 0;
        CHECK(see(loader(c, d, &a, k & 4), 2) == N && !memcmp(want[0], seen[0], sizeof want[0]), "one view is not the first of two. %s", dl_error(c));
        dl_destroy(c);
    }
    for (int rank = 0; rank < 3; rank++) {
        dl_context *c = context();
        dl_loader_desc d;
        memset(&d, 0, sizeof d);
        d.batch = 3;
        d.rank = rank;
        d.world = 3;
        d.shuffle = true;
        d.split = DL_SPLIT_ONCE;
        d.views = 2;
        size_t n = see(loader(c, d, &a, false), 2), own = 0;
        for (size_t i = 0; i < N; i++) own += !memcmp(want[0][i], seen[0][i], sizeof want[0][i]) && !memcmp(want[1][i], seen[1][i], sizeof want[1][i]);
        CHECK(n && own == n, "rank %d: %zu of %zu samples have the bits of a rank alone. %s", rank, own, n, dl_error(c));
        dl_destroy(c);
    }
    uint64_t hash = 14695981039346656037u;
    for (int view = 0; view < 2; view++)
        for (size_t i = 0; i < N; i++)
            for (size_t k = 0; k < PIXELS; k++) hash = (hash ^ dl__bits((float)want[view][i][k])) * 1099511628211u;
    CHECK(hash == 0x533da7a27af579cd, "the bits of all distortions are %llx", (unsigned long long)hash);
}

static void wrong_augment(void)
{
    static const struct { dl_augment_desc a; const char *says; } cases[] = {
        { { 1.5f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, "flip 1.5 is not between 0 and 1" }, { { 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, "rotation -1" },
        { { 0, 0, 90, 0, 0, 0, 0, 0, 0, 0, 0 }, "shear 90" }, { { 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0 }, "scale 1" },
        { { 0, 0, 0, 0, -2, 0, 0, 0, 0, 0, 0 }, "crop -2" }, { { 0, 0, 0, 0, 0, 0, 0, 0, 0.6f, 0, 0 }, "hue 0.6 is not between 0 and 0.5" },
        { { 0, 0, 0, 0, 0, 0, 0, 0, 0, NAN, 0 }, "noise nan" }, { { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1 }, "cutout -1" },
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        dl_context *c = context();
        CHECK(!dl_augment_create(c, &cases[i].a) && strstr(dl_error(c), cases[i].says), "'%s', not '%s'", dl_error(c), cases[i].says);
        dl_destroy(c);
    }
    for (int k = 0; k < 4; k++) {
        static const char *const says[] = { "views 3: there are 1 or 2", "without augment", "-1 threads", "augment takes images of DL_U8 [C,H,W], not DL_F32 [11]" };
        dl_context *c = context();
        dl_loader_desc d;
        dl_augment_desc a = some(0);
        dl_dataset_desc flat;
        memset(&d, 0, sizeof d);
        memset(&flat, 0, sizeof flat);
        flat.count = 2;
        flat.x_shape = DL_SHAPE(W);
        flat.x = ref;
        flat.no_y = true;
        if (k != 1) d.augment = dl_augment_create(c, &a);
        d.views = k == 0 ? 3 : k == 1 ? 2 : 1;
        d.threads = k == 2 ? -1 : 0;
        CHECK(!dl_loader_create(k == 3 ? dl_dataset_create(c, &flat) : images(c, false), &d) && strstr(dl_error(c), says[k]), "'%s', not '%s'", dl_error(c),
            says[k]);
        dl_destroy(c);
    }
}

/* ---- files ---- */
static char folder[200];
static const char *in_folder(const char *name)
{
    static char path[4][400];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static const char *put(const char *name, const void *bytes, size_t n)
{
    const char *path = in_folder(name);
    FILE *f = fopen(path, "wb");
    if (f) {
        fwrite(bytes, 1, n, f);
        fclose(f);
    }
    return path;
}

static void cifar(void)
{
    static uint8_t records[3 * 3074];
    for (int classes = 10; classes <= 100; classes += classes == 10 ? 10 : 80) {
        size_t size = classes == 10 ? 3073 : 3074, at = 0;
        for (size_t i = 0; i < 3 * size; i++) records[i] = (uint8_t)(i * 7 + i / 251);
        for (size_t i = 0; i < 3; i++) records[i * size] = (uint8_t)(9 - i), records[i * size + 1] = (uint8_t)(classes == 10 ? records[i * size + 1] : 90 + i);
        dl_context *c = context();
        dl_batch b;
        const char *paths[2] = { put("a.bin", records, 2 * size), put("b.bin", records + 2 * size, size) };
        dl_dataset *data = dl_open_cifar(c, paths, 2, classes);
        dl_loader *l = dl_loader_create(data, NULL);
        CHECK(dl_dataset_count(data) == 3, "%zu records. %s", dl_dataset_count(data), dl_error(c));
        for (; dl_next(l, &b); at++) {
            const uint8_t *r = records + at * size;
            const dl_real *x = (const dl_real *)dl_data(b.x);
            CHECK(dl_ndim(b.x) == 4 && dl_dim(b.x, 1) == 3 && dl_dim(b.x, 3) == 32, "shape");
            CHECK((int)dl_item(b.y) == r[classes == 100], "%d classes: label %g", classes, dl_item(b.y));
            for (size_t k = 0; x && k < 3072; k++) CHECK(x[k] == (dl_real)r[size - 3072 + k] / 255, "%d classes: byte %zu", classes, k);
        }
        CHECK(at == 3 && !dl_failed(c), "%s", dl_error(c));
        dl_destroy(c);
    }
    static const struct { size_t bytes; int classes, first; const char *says; } bad[] = {
        { 3072, 10, 1, "its size is not that of records of 3073 bytes" }, { 0, 10, 1, "records of 3073" }, { 3073, 100, 1, "records of 3074 bytes, as CIFAR-100" },
        { 3073, 10, 10, "record 0 has class 10, there are 10" }, { 3074, 20, 20, "class 20" }, { 3074, 7, 0, "7 classes" }, { 500, 10, 0x1f, "packed" },
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        dl_context *c = context();
        records[0] = (uint8_t)bad[i].first, records[1] = 0x8b;
        const char *path = put("bad.bin", records, bad[i].bytes);
        CHECK(!dl_open_cifar(c, &path, 1, bad[i].classes) && strstr(dl_error(c), bad[i].says), "'%s', not '%s'", dl_error(c), bad[i].says);
        dl_clear_error(c);
        path = "/nowhere/at all";
        CHECK(!dl_open_cifar(c, &path, 1, 10) && strstr(dl_error(c), path) && (dl_clear_error(c), !dl_open_cifar(c, NULL, 1, 10)), "%s", dl_error(c));
        dl_destroy(c);
    }
}

#ifdef HAVE_STB
static char said[2000];
static void listen(const char *sentence, void *user) { (void)user, snprintf(said + strlen(said), sizeof said - strlen(said), "%s\n", sentence); }

static uint8_t *png(size_t sample, int w, int h, int channels, int *n) /* rows of [h,w,channels] from the sample's bytes */
{
    static uint8_t rows[PIXELS];
    for (int i = 0; i < w * h; i++)
        for (int c = 0; c < channels; c++) rows[i * channels + c] = image[sample][c * H * W + i];
    return stbi_write_png_to_mem(rows, w * channels, w, h, channels, n);
}

/* Classes anna (two images), berta (three), named so that order of names is not that of the folder. */
static void make_folder(void)
{
    static const char *const names[] = { "berta/z.png", "anna/2.png", "berta/k.png", "anna/1.png", "berta/a.png" };
    mkdir(in_folder("set"), 0700);
    mkdir(in_folder("set/berta"), 0700);
    mkdir(in_folder("set/anna"), 0700);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char name[64];
        int n;
        uint8_t *bytes = png(i, W, H, 3, &n);
        snprintf(name, sizeof name, "set/%s", names[i]);
        put(name, bytes, (size_t)n);
        free(bytes);
    }
    put("set/anna/.hidden", "no image", 8);
    put("set/readme", "not a folder", 12);
}

static dl_images_desc from(const char *path)
{
    dl_images_desc d;
    memset(&d, 0, sizeof d);
    d.path = path;
    return d;
}

static size_t count_right(dl_context *c, dl_dataset *data, const size_t *want, const int *classes, int threads) /* how many came right */
{
    dl_loader_desc d;
    dl_batch b;
    size_t right = 0;
    memset(&d, 0, sizeof d);
    d.batch = 2;
    d.threads = threads;
    d.prefetch = threads == 2;
    dl_loader *l = dl_loader_create(data, &d);
    while (dl_next(l, &b)) {
        const dl_real *x = (const dl_real *)dl_data(b.x);
        const int32_t *y = (const int32_t *)dl_data(b.y);
        for (size_t i = 0; i < b.count; i++) {
            bool same = y[i] == classes[b.index[i]];
            for (size_t k = 0; k < PIXELS; k++) same = same && x[i * PIXELS + k] == (dl_real)image[want[b.index[i]]][k] / 255;
            right += same;
        }
    }
    CHECK(!dl_failed(c), "%s", dl_error(c));
    return right;
}

static void image_folder(void)
{
    static const size_t want[] = { 3, 1, 4, 2, 0 };
    static const int classes[] = { 0, 0, 1, 1, 1 };
    for (int k = 0; k < 6; k++) {
        dl_context *c = context();
        dl_images_desc d = from(in_folder("set"));
        size_t skipped = 9;
        d.skip_bad = k & 1;
        d.skipped = &skipped;
        dl_dataset *data = dl_open_images(c, &d);
        CHECK(dl_dataset_count(data) == 5 && !skipped && count_right(c, data, want, classes, k / 2) == 5, "%s", dl_error(c));
        CHECK(dl_images_classes(data) == 2 && !strcmp(dl_images_class(data, 0), "anna") && !strcmp(dl_images_class(data, 1), "berta") &&
            !dl_images_class(data, 2) && !dl_images_class(data, -1) && !dl_images_class(images(c, false), 0), "classes");
        dl_destroy(c);
    }
}

static void image_list(void)
{
    static const size_t want[] = { 0, 3, 1 };
    static const int classes[] = { 5, 0, 2 };
    char text[1000];
    snprintf(text, sizeof text, "set/berta/z.png 5\r\n\n%s,0\nset/anna/2.png\t 2", in_folder("set/anna/1.png"));
    put("list.txt", text, strlen(text));
    dl_context *c = context();
    dl_images_desc d = from(in_folder("list.txt"));
    dl_dataset *data = dl_open_images(c, &d);
    CHECK(dl_dataset_count(data) == 3 && dl_images_classes(data) == 6 && !dl_images_class(data, 0) && count_right(c, data, want, classes, 0) == 3, "%s",
        dl_error(c));
    dl_destroy(c);
    static char huge[9000];
    memset(huge, 'a', sizeof huge);
    static const struct { const char *text; size_t n; const char *says; } bad[] = {
        { "set/a.png", 9, "line 1: it does not end in the number of a class" }, { "\n7\n", 3, "line 2: it does not end" }, { " 7\n", 3, "line 1: it has no path" },
        { "a.png 1000000\n", 14, "not below 1000000" }, { "a.png 99999999999999999999\n", 27, "not below" }, { "a.png -1", 8, "does not end" }, { "", 0, "names no files" },
        { "a\0b 1\nc 2\n", 10, "zero byte" }, { NULL, 9000, "too long" }, { "gone.png 1\n", 11, "gone.png': it cannot be opened" }, { "set 1\n", 6, "cannot be opened" },
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        c = context();
        put("bad.txt", bad[i].text ? bad[i].text : huge, bad[i].n);
        d = from(in_folder("bad.txt"));
        CHECK(!dl_open_images(c, &d) && strstr(dl_error(c), bad[i].says), "'%s', not '%s'", dl_error(c), bad[i].says);
        dl_destroy(c);
    }
}

static void bad_images(void) /* each is a sentence: an error, or left out */
{
    static const char *const says[] = { "it is cut off or damaged", "30000 x 30000, a side of more than max_side, 8192", "its header is damaged", "it is not a PNG or JPEG file", "it is not a PNG",
        "bytes are more than 11 x 9 pixels need", "header is damaged", "it is 5 x 4, the first image 11 x 9", "pixels take more than max_bytes", "are more than max_bytes, 1000" };
    mkdir(in_folder("mixed"), 0700);
    mkdir(in_folder("mixed/0"), 0700);
    for (int k = 0; k < 10; k++) {
        int n, at = 0;
        uint8_t *bytes = png(1, W, H, 3, &n), *big = (uint8_t *)calloc(1, 100000);
        put("mixed/0/1.png", bytes, (size_t)n);
        memcpy(big, bytes, (size_t)n);
        if (k == 1 || k == 8) big[16] = big[20] = 0, big[17] = big[21] = 0, big[18] = big[22] = k == 1 ? 30000 >> 8 : 20, big[19] = big[23] = 30000 & 255;
        if (k == 2) memcpy(big, "\xff\xd8\xff\xe0", 4);
        if (k == 3) memcpy(big, "Hello, this is text", 19);
        if (k == 9) n = 2000;
        at = k == 0 ? n * 2 / 3 : k == 4 ? 3 : k == 5 ? 100000 : k == 6 ? 20 : n;
        if (k == 7) free(bytes), bytes = png(1, 5, 4, 3, &n), memcpy(big, bytes, (size_t)n), at = n;
        put("mixed/0/2.png", big, (size_t)at);
        free(bytes);
        free(big);
        for (int skip = 0; skip < 2; skip++) {
            dl_config config;
            dl_batch b;
            memset(&config, 0, sizeof config);
            config.log = listen;
            *said = 0;
            dl_context *c = dl_create(&config);
            dl_images_desc d = from(in_folder("mixed"));
            size_t skipped = 0, came = 0;
            d.skip_bad = skip;
            d.skipped = &skipped;
            if (k == 8) d.max_bytes = 100000;
            if (k == 9) d.max_bytes = 1000;
            const char *part = k == 0 ? "it is damaged or cut off" : says[k];
            dl_dataset *data = dl_open_images(c, &d);
            dl_loader_desc ld;
            memset(&ld, 0, sizeof ld);
            ld.threads = 2;
            dl_loader *l = data ? dl_loader_create(data, &ld) : NULL;
            while (dl_next(l, &b)) came++;
            if (skip) CHECK(came == 1 && skipped == 1 && strstr(said, "2.png") && strstr(said, part), "case %d: %zu came, %s%s, not '%s'", k, came, said, dl_error(c), part);
            else CHECK(dl_failed(c) && strstr(dl_error(c), "2.png") && strstr(dl_error(c), part), "case %d: '%s', not '%s'", k, dl_error(c), part);
            dl_destroy(c);
        }
    }
}

static void wrong_images(void)
{
    mkdir(in_folder("empty"), 0700);
    mkdir(in_folder("empty2"), 0700);
    mkdir(in_folder("empty2/class"), 0700);
    mkdir(in_folder("all bad"), 0700);
    mkdir(in_folder("all bad/class"), 0700);
    put("all bad/class/x", "x", 1);
    for (int k = 0; k < 9; k++) {
        static const char *const says[] = { "path is NULL", "cannot open '", "has 0 folders", "names no files", "none of its 1 files", "channels 2: 1 or 3", "height 4 and width 0",
            "max_side -1", "it is not a PNG" };
        dl_context *c = context();
        dl_images_desc d = from(k == 0 ? NULL : in_folder(k == 1 ? "nothing" : k == 2 ? "empty" : k == 3 ? "empty2" : k == 4 || k == 8 ? "all bad" : "set"));
        d.skip_bad = k == 4;
        if (k == 5) d.channels = 2;
        if (k == 6) d.height = 4;
        if (k == 7) d.max_side = -1;
        CHECK(!dl_open_images(c, &d) && strstr(dl_error(c), says[k]), "'%s', not '%s'", dl_error(c), says[k]);
        dl_destroy(c);
    }
}

static void resized(void) /* to another size: where the centres fall; twice as large and back is a blur, the same size the same bytes; one channel is grey */
{
    dl_context *c = context();
    dl_images_desc d = from(in_folder("set"));
    dl_batch b;
    d.height = 2 * H;
    d.width = 3 * W;
    dl_dataset *data = dl_open_images(c, &d);
    CHECK(dl_next(dl_loader_create(data, NULL), &b), "%s", dl_error(c));
    const dl_real *x = dl_failed(c) ? NULL : (const dl_real *)dl_data(b.x);
    for (int ch = 0; x && ch < C; ch++)
        for (int i = 0; i < 2 * H; i++)
            for (int j = 0; j < 3 * W; j++) {
                double v = fmin(fmax((i + 0.5) / 2 - 0.5, 0), H - 1), u = fmin(fmax((j + 0.5) / 3 - 0.5, 0), W - 1);
                int y0 = (int)v, x0 = (int)u;
                const uint8_t *p = image[3] + ch * H * W;
                double fy = v - y0, fx = u - x0, want = (pixel(p, y0, x0) * (1 - fx) + pixel(p, y0, x0 + 1) * fx) * (1 - fy)
                    + (fy > 0 ? (pixel(p, y0 + 1, x0) * (1 - fx) + pixel(p, y0 + 1, x0 + 1) * fx) * fy : 0);
                CHECK(fabs((double)x[(ch * 2 * H + i) * 3 * W + j] * 255 - want) < 0.51, "channel %d, %d, %d: %g, not %g", ch, i, j,
                    (double)x[(ch * 2 * H + i) * 3 * W + j] * 255, want);
            }
    dl_clear_error(c);
    d = from(in_folder("set"));
    d.channels = 1;
    data = dl_open_images(c, &d);
    CHECK(dl_next(dl_loader_create(data, NULL), &b) && dl_dim(b.x, 1) == 1, "%s", dl_error(c));
    x = dl_failed(c) ? NULL : (const dl_real *)dl_data(b.x);
    for (int i = 0; x && i < H * W; i++) {
        double want = 0.299 * image[3][i] + 0.587 * image[3][H * W + i] + 0.114 * image[3][2 * H * W + i];
        CHECK(fabs((double)x[i] * 255 - want) < 2, "grey %d: %g, not %g", i, (double)x[i] * 255, want);
    }
    dl_destroy(c);
}

/* One of libjpeg's, the first n bytes, with others at `at` if there are any. */
static void put_jpeg(const char *name, bool colour, size_t n, size_t at, const char *other)
{
    uint8_t bytes[sizeof gold_jpeg_colour];
    memcpy(bytes, colour ? gold_jpeg_colour : gold_jpeg_grey, n);
    if (other) memcpy(bytes + at, other, strlen(other));
    put(name, bytes, n);
}

static void jpegs(void) /* grey and colour, as three channels and as one */
{
    mkdir(in_folder("jpeg"), 0700);
    mkdir(in_folder("jpeg/0"), 0700);
    put_jpeg("jpeg/0/1.jpg", false, sizeof gold_jpeg_grey, 0, NULL);
    put_jpeg("jpeg/0/2.jpg", true, sizeof gold_jpeg_colour, 0, NULL);
    for (int channels = 1; channels <= 3; channels += 2) {
        dl_context *c = context();
        dl_images_desc d = from(in_folder("jpeg"));
        dl_loader_desc both;
        dl_batch b;
        memset(&both, 0, sizeof both);
        both.batch = 2;
        d.channels = channels;
        dl_dataset *data = dl_open_images(c, &d);
        CHECK(dl_next(dl_loader_create(data, &both), &b) && b.count == 2 && dl_dim(b.x, 2) == H && dl_dim(b.x, 3) == W, "%s", dl_error(c));
        const dl_real *got = dl_failed(c) ? NULL : (const dl_real *)dl_data(b.x);
        for (int k = 0; got && k < 2 * channels * H * W; k++) {
            int y = k / W % H, x = k % W, channel = k / (H * W) % channels;
            double rgb[3] = { 20.0 + 20 * x, 30.0 + 20 * y, 220.0 - 10 * x - 9 * y }, grey = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
            double want = k < channels * H * W ? 20 + 14 * x + 7 * y : channels == 1 ? grey : rgb[channel];
            CHECK(fabs((double)got[k] * 255 - want) < 8, "%d channels, value %d: %g, not %g", channels, k, (double)got[k] * 255, want);
        }
        dl_destroy(c);
    }
}

static size_t find(const uint8_t *bytes, size_t n, int marker) /* where the segment begins */
{
    size_t i = 2;
    while (i + 4 < n && bytes[i + 1] != marker) i += 2 + (size_t)(bytes[i + 2] << 8 | bytes[i + 3]);
    return i;
}

static void bad_jpegs(void) /* cut off anywhere, a size beyond the limit, a damaged header: a sentence; never half a picture */
{
    size_t sof = find(gold_jpeg_grey, sizeof gold_jpeg_grey, 0xc0), scan = find(gold_jpeg_grey, sizeof gold_jpeg_grey, 0xda);
    const struct { bool colour; size_t n, at; const char *other, *says; } bad[] = {
        { false, sizeof gold_jpeg_grey, sof + 5, "\x75\x30\x75\x30", "it is 30000 x 30000, a side of more than max_side, 8192" },
        { false, sizeof gold_jpeg_grey, scan + 4, "\x07", "it is damaged" }, { false, sizeof gold_jpeg_grey, sof, "\xff\xc9", "its header is damaged" },
        { false, 3, 0, NULL, "its header is damaged or cut off" }, { false, sof, 0, NULL, "its header is damaged or cut off" },
        { true, sizeof gold_jpeg_colour - 1, 0, NULL, "it is damaged or cut off" }, { true, sizeof gold_jpeg_colour / 2, 0, NULL, "it is damaged or cut off" },
    };
    for (size_t k = 0; k < COUNT_OF(bad) + sizeof gold_jpeg_grey; k++) {
        dl_context *c = context();
        dl_images_desc d = from(in_folder("jpeg"));
        dl_batch b;
        size_t came = 0, cut = k - COUNT_OF(bad);
        const char *says = k < COUNT_OF(bad) ? bad[k].says : "";
        if (k < COUNT_OF(bad)) put_jpeg("jpeg/0/2.jpg", bad[k].colour, bad[k].n, bad[k].at, bad[k].other);
        else put_jpeg("jpeg/0/2.jpg", false, cut, 0, NULL);
        dl_loader *l = dl_loader_create(dl_open_images(c, &d), NULL);
        while (l && dl_next(l, &b)) came++;
        CHECK(dl_failed(c) && came < 2 && strstr(dl_error(c), "2.jpg': ") && strstr(dl_error(c), says), "case %zu: '%s', not '%s'", k, dl_error(c), says);
        dl_destroy(c);
    }
}

static void mutated_images(void) /* any bytes: an image or a sentence */
{
    int n, taken = 0;
    uint8_t *bytes = png(5, W, H, 3, &n), *copy = (uint8_t *)malloc((size_t)n);
    uint32_t state = 4;
    for (int k = 0; k < 400; k++) {
        memcpy(copy, bytes, (size_t)n);
        for (int m = k % 4; m >= 0; m--) {
            state = state * 1664525u + 1013904223u;
            copy[8 + (state >> 8) % (uint32_t)(n - 8)] = (uint8_t)(state >> 24);
        }
        put("mixed/0/1.png", bytes, (size_t)n);
        put("mixed/0/2.png", copy, (size_t)n - (k % 3 == 0 ? (state >> 10) % (uint32_t)(n - 20) : 0));
        dl_context *c = context();
        dl_images_desc d = from(in_folder("mixed"));
        d.skip_bad = true;
        d.max_bytes = 1 << 20;
        dl_dataset *data = dl_open_images(c, &d);
        CHECK(data && dl_dataset_count(data) <= 2, "%s", dl_error(c));
        taken += dl_dataset_count(data) == 2;
        dl_destroy(c);
    }
    CHECK(taken > 20 && taken < 380, "%d of 400 were taken", taken);
    free(bytes);
    free(copy);
}
#else
static void image_files(void) { SKIP("stb_image.h is not installed (libstb-dev)"); }
#endif

/* ---- the losses of distillation ---- */
static dl_tensor given(dl_context *c, int i, dl_shape s, double factor)
{
    size_t n = 1;
    for (int k = 0; k < s.ndim; k++) n *= (size_t)s.dim[k];
    dl_real *x = numbers(n, 10 + i);
    for (size_t k = 0; k < n; k++) x[k] *= (dl_real)factor;
    return dl_variable(c, s, x);
}

static dl_tensor gold_loss(size_t k, const dl_tensor *x, dl_tensor y)
{
    static const dl_self_distillation_desc two = { 0, 0, 0 }, five = { 1, 0.5f, 0 }, five2 = { 0.25f, 2, 2 };
    static const dl_distillation_desc soft = { 4, 0 }, hard = { 2, 0.25f };
    dl_tensor none;
    memset(&none, 0, sizeof none);
    switch (k) {
    case 0: return dl_symmetric_kl(x[0], x[1], 0);
    case 1: return dl_symmetric_kl(x[0], x[1], 4);
    case 2: case 3: return dl_linear_mmd(x[0], x[1]);
    case 4: return dl_self_distillation(x[0], x[1], none, none, y, &two);
    case 5: return dl_self_distillation(x[0], x[1], x[2], x[3], y, &five);
    case 6: return dl_self_distillation(x[0], x[1], x[2], x[3], y, &five2);
    case 7: return dl_distill_logits(x[0], x[1], none, &soft);
    case 8: return dl_distill_logits(x[0], x[1], y, &hard);
    case 9: return dl_distill_features(x[0], x[1]);
    case 10: return dl_distill_attention(x[0], x[1]);
    case 11: return dl_mutual_learning(x[0], x[1], y, 0);
    default: return dl_mutual_learning(x[0], x[1], y, 2);
    }
}

static void gold_distillation(void)
{
    for (size_t k = 0; k < COUNT_OF(gold_cases); k++) {
        dl_context *c = context();
        dl_tensor x[4], dx[4];
        bool logits = k < 2 || (k >= 4 && k <= 8) || k >= 11;
        dl_shape z = DL_SHAPE(5, 7), other[2] = { DL_SHAPE(5, 6), DL_SHAPE(4, 6) };
        if (k == 3) other[0] = DL_SHAPE(2, 3, 2), other[1] = DL_SHAPE(3, 3, 2);
        if (k == 9) other[0] = other[1] = DL_SHAPE(3, 4, 2);
        if (k == 10) other[0] = DL_SHAPE(2, 3, 4, 5), other[1] = DL_SHAPE(2, 4, 4, 5);
        int32_t classes[5];
        for (int i = 0; i < 5; i++) classes[i] = (i * 31 + 3 * 17 + i * i) % 7;
        for (int i = 0; i < 2; i++) x[i] = given(c, i, logits ? z : other[i], logits ? 3 : 1);
        for (int i = 2; i < 4; i++) x[i] = given(c, i, DL_SHAPE(5, 6), 1);
        dl_tensor loss = gold_loss(k, x, dl_input(c, DL_I32, DL_SHAPE(5), classes));
        int n = k >= 4 && k <= 6 ? 4 : 2;
        CHECK(dl_grad(loss, x, n, dx), "%s: %s", gold_cases[k].name, dl_error(c));
        const double *want = gold_values + gold_cases[k].first;
        double got = dl_item(loss);
        CHECK(fabs(got - *want) < 2e-6 * (1 + fabs(*want)), "%s: %.9g, not %.9g", gold_cases[k].name, got, *want);
        want++;
        for (int i = 0; i < n; i++) {
            dl_real g[400];
            size_t count = dl_numel(x[i]);
            CHECK(dl_read(dx[i], g, count), "%s: %s", gold_cases[k].name, dl_error(c));
            for (size_t j = 0; j < count && !dl_failed(c); j++)
                CHECK(fabs((double)g[j] - want[j]) < 2e-6 * (1 + fabs(want[j])), "%s: gradient %zu of input %d is %.9g, not %.9g", gold_cases[k].name, j, i, (double)g[j],
                    want[j]);
            want += count;
        }
        CHECK(k + 1 == COUNT_OF(gold_cases) || want == gold_values + gold_cases[k + 1].first, "%s: sizes", gold_cases[k].name);
        dl_destroy(c);
    }
}

static void distillation_limits(void) /* zero where both agree; finite where probabilities are 0; the default temperature is 1 */
{
    dl_context *c = context();
    static const dl_real far[4] = { 500, -500, 0, 3 }, off[4] = { -500, 500, 0, 3 };
    dl_tensor a = dl_variable(c, DL_SHAPE(1, 4), far), b = dl_variable(c, DL_SHAPE(1, 4), off), dx[2], x[2];
    CHECK(fabs(dl_item(dl_symmetric_kl(a, a, 3))) == 0 && dl_item(dl_linear_mmd(a, a)) == 0, "%s", dl_error(c));
    CHECK(fabs(dl_item(dl_symmetric_kl(a, b, 1)) - 2000) < 1e-3, "%g", dl_item(dl_symmetric_kl(a, b, 1)));
    x[0] = a, x[1] = b;
    CHECK(dl_grad(dl_symmetric_kl(a, b, 1), x, 2, dx), "%s", dl_error(c));
    dl_real g[4];
    CHECK(dl_read(dx[0], g, 4) && isfinite((double)g[0]) && isfinite((double)g[1]), "%s", dl_error(c));
    dl_tensor zeros = dl_full(c, DL_SHAPE(1, 2, 2, 2), 0); /* an attention map of zeros has no direction */
    CHECK(dl_item(dl_distill_attention(zeros, zeros)) == 0, "%s", dl_error(c));
    dl_destroy(c);
}

static void distillation_errors(void)
{
    for (int k = 0; k < 8; k++) {
        static const char *const says[] = { "dl_symmetric_kl: takes two tensors of one shape with 2 dimensions or more, not [2,3] and [2,4]", "dl_symmetric_kl: the temperature must be positive, not -1",
            "dl_linear_mmd: takes rows of one shape, [N,...] and [M,...], not [2,3] and [2,4]", "dl_distill_logits: hard 2 is not between 0 and 1", "dl_self_distillation: weights kl -1 and mmd 0",
            "dl_distill_attention: takes [N,C,H,W] whose N, H and W agree, not [2,3] and [2,4]", "dl_distill_features: takes two tensors of one shape", "dl_mutual_learning: takes two tensors" };
        static const dl_distillation_desc two = { 1, 2 };
        static const dl_self_distillation_desc minus = { -1, 0, 0 };
        static const int32_t classes[2] = { 0, 1 };
        dl_context *c = context();
        dl_tensor a = dl_full(c, DL_SHAPE(2, 3), 1), b = dl_full(c, DL_SHAPE(2, 4), 1), y = dl_input(c, DL_I32, DL_SHAPE(2), classes), bad[8];
        memset(bad, 0, sizeof bad);
        if (k == 0) bad[k] = dl_symmetric_kl(a, b, 1);
        if (k == 1) bad[k] = dl_symmetric_kl(a, a, -1);
        if (k == 2) bad[k] = dl_linear_mmd(a, b);
        if (k == 3) bad[k] = dl_distill_logits(a, a, y, &two);
        if (k == 4) bad[k] = dl_self_distillation(a, a, a, a, y, &minus);
        if (k == 5) bad[k] = dl_distill_attention(a, b);
        if (k == 6) bad[k] = dl_distill_features(a, b);
        if (k == 7) bad[k] = dl_mutual_learning(a, b, y, 0);
        CHECK(!dl_ok(bad[k]) && strstr(dl_error(c), says[k]), "'%s', not '%s'", dl_error(c), says[k]);
        dl_destroy(c);
    }
}

int main(void)
{
    snprintf(folder, sizeof folder, "/tmp/dltrain-images-%ld", (long)getpid());
    mkdir(folder, 0700);
    make_images();
    RUN(against_reference);
    RUN(hues);
    RUN(nothing_asked);
    RUN(same_bits);
    RUN(wrong_augment);
    RUN(cifar);
#ifdef HAVE_STB
    make_folder();
    RUN(image_folder);
    RUN(image_list);
    RUN(bad_images);
    RUN(wrong_images);
    RUN(resized);
    RUN(jpegs);
    RUN(bad_jpegs);
    RUN(mutated_images);
#else
    RUN(image_files);
#endif
    RUN(gold_distillation);
    RUN(distillation_limits);
    RUN(distillation_errors);
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command)) return 1;
    return REPORT();
}
