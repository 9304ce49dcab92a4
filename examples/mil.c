/* Multiple-instance learning: a label belongs to a bag of images, and nobody says which of them earn it.

       cc -O2 examples/mil.c -o mil -lm -pthread
       ./mil --data DIR                         bags of MNIST: is there a 9 ('any'), are most of them 9s ('share')?
       ./mil --data DIR --experiment labels     ten labels a bag, each with a share of its own
       ./mil --data DIR --experiment canvas     digits on one large image, seen by a convolution; 'tiles': cut into patches
       ./mil --csv clean1.data --bag-column 1 --skip 2 --label last      cross-validation on bags from a file, such as MUSK's

   Compared: poolings of the instances' probabilities, and of their embeddings. Its results are in docs/methods.md; mil.svg shows what was learnt. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "lab.h"

enum { POOLINGS = 11, EMBEDDING_MAX = 7, EMBEDDING_MEAN, ATTENTION, GATED, MOST_LABELS = 10, MOST_IMAGES = 20, SEEDS = 16, COUNTS = 4, TARGET = 9 };
static const char *const pooling_names[POOLINGS] = { "max", "mean", "noisy-or", "isr", "gm", "lse", "noisy-and", "embedding-max", "embedding-mean",
    "attention", "gated" };

typedef struct options {
    const char *data, *out, *experiment, *rule, *poolings, *counts, *picture, *csv, *label;
    int pictured, test, seeds, first, steps, batch, threads, grid, folds, bag_column, skip;
    double lr, decay, r, a, start;
    bool chosen[POOLINGS], quick, validate;
    int count[COUNTS], n_counts;
} options;

static const char *usage =
    "usage: mil [options]\n"
    "  --data DIR        where MNIST is (default: the environment variable DLTRAIN_DATA; without: the shipped digits)\n"
    "  --experiment NAME bags, labels, canvas or tiles (bags)\n"
    "  --rule NAME       of the bags: any, share or both (both)\n"
    "  --counts LIST     bags to learn from (bags: 50,100,200, under 'share' 60; labels: 400; canvas and tiles: 1000)\n"
    "  --poolings LIST   of max,mean,noisy-or,isr,gm,lse,noisy-and,embedding-max,embedding-mean,attention,gated (all that fit)\n"
    "  --test N          bags to test on (400)\n"
    "  --seeds N         (3)\n"
    "  --first N         the first seed (1)\n"
    "  --validate        to choose settings by: the last sixth of the images to learn from makes the bags that are scored\n"
    "  --steps N         of Adam (bags: 1200; labels and CSV: 600; canvas and tiles: 2000)\n"
    "  --batch N         bags of a step (bags: 2; labels and CSV: 8; canvas and tiles: 4)\n"
    "  --lr X            (0.001; labels, canvas, tiles and the quick form: 0.002)\n"
    "  --decay X         weight decay (0.0001; CSV: 0.005)\n"
    "  --r X             of gm and lse (5)\n"
    "  --a X             of noisy-and (10)\n"
    "  --start X         the share at which the thresholds of noisy-and start (0.5)\n"
    "  --grid N          canvas: N x N digits (2)\n"
    "  --picture NAME    the pooling that is pictured (attention, else noisy-and, else the first); embedding-max and -mean only with labels:\n"
    "                    they have no weights to show\n"
    "  --csv FILE        instances as lines of numbers; a line of names at the top is passed over\n"
    "  --bag-column N    the column that names the bag, from 1 (1)\n"
    "  --skip N          columns before the features (2)\n"
    "  --label N         the column of the class: above 1/2 is positive, and so is the bag then. A number, or last (last)\n"
    "  --folds N         of the cross-validation (10)\n"
    "  --threads N       0: one a CPU (1)\n"
    "  --out PREFIX      PREFIX.csv: every run; PREFIX.svg: a picture (mil). Of test bags it shows with bags the instances of highest weight, with\n"
    "                    labels P beside the truth, with canvas and tiles where the predicted digits are seen; of CSV accuracy and AUC\n"
    "  --quick           fewer bags, steps and seeds: half a minute\n"
    "  --help\n";

/* ---- bags and their labels ---- */
typedef struct set { dl_bags bags; size_t *offset, *row; float *label; size_t labels; uint8_t *canvas, *digit, *own; dl_tiling tiling; } set;

static bool set_create(set *s, size_t bags, size_t rows, size_t labels)
{
    memset(s, 0, sizeof *s);
    s->offset = (size_t *)calloc(bags + 1, sizeof *s->offset);
    s->row = (size_t *)calloc(rows + 1, sizeof *s->row);
    s->label = (float *)calloc(bags * labels + 1, sizeof *s->label);
    s->labels = labels;
    s->bags.count = bags, s->bags.offset = s->offset, s->bags.row = s->row;
    return s->offset && s->row && s->label;
}

static void set_destroy(set *s) { free(s->offset), free(s->row), free(s->label), free(s->canvas), free(s->digit), free(s->own); }

static void set_images(set *s, const uint8_t *pixel, size_t count, dl_index side)
{
    s->bags.dtype = DL_U8, s->bags.shape = DL_SHAPE(1, side, side), s->bags.x = pixel, s->bags.instances = count;
}

/* A size: int(N(10, 2)), one at least (Ilse and others). */
static size_t bag_size(uint64_t *state)
{
    double u = (lab_random(state) + 1.0) / 4294967297.0, v = lab_random(state) / 4294967296.0;
    int n = (int)(10 + 2 * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
    return n < 1 ? 1 : n > MOST_IMAGES ? MOST_IMAGES : (size_t)n;
}

static size_t draw(const lab_images *im, int digit, bool that, uint64_t *state) /* an image that is the digit, or is not */
{
    for (;;) {
        size_t i = lab_below(state, im->count);
        if ((im->label[i] == digit) == that) return i;
    }
}

/* Every other bag is positive. any: at least one 9, as they fall; share: 50 to 80 % 9s, or 5 to 30 %. */
static bool bags_by_rule(set *s, const lab_images *im, bool share, size_t count, uint64_t seed)
{
    uint64_t state = seed * 2654435761u + 12345;
    if (!set_create(s, count, MOST_IMAGES * count, 1)) return false;
    set_images(s, im->pixel, im->count, im->side);
    for (size_t b = 0; b < count; b++) {
        size_t n = bag_size(&state), targets = 0;
        s->label[b] = b % 2 == 0;
        if (share) {
            double low = b % 2 ? 0.05 : 0.5, high = b % 2 ? 0.3 : 0.8, part = low + (high - low) * lab_random(&state) / 4294967296.0;
            targets = (size_t)(part * (double)n + 0.5);
            if (b % 2 && targets > n * 3 / 10) targets = n * 3 / 10;
            if (b % 2 == 0 && 2 * targets < n) targets++;
        } else
            while (b % 2 == 0 && !targets)
                for (size_t k = 0; k < n; k++) targets += lab_below(&state, 10) == 0;
        for (size_t k = 0; k < n; k++) s->row[s->offset[b] + k] = draw(im, TARGET, k < targets, &state);
        for (size_t k = n; k > 1; k--) { /* where they lie says nothing */
            size_t other = lab_below(&state, k), *r = s->row + s->offset[b], t = r[k - 1];
            r[k - 1] = r[other], r[other] = t;
        }
        s->offset[b + 1] = s->offset[b] + n;
    }
    return true;
}

/* The share of a digit above which its label is set. */
static double share_of(int digit) { return digit % 2 ? 0.35 : 0.1; }

/* Bags of 20 of four kinds of digits, in shares at random; a label for each digit. */
static bool bags_of_labels(set *s, const lab_images *im, size_t count, uint64_t seed)
{
    enum { SIZE = MOST_IMAGES, KINDS = 4 };
    uint64_t state = seed * 2654435761u + 54321;
    if (!set_create(s, count, SIZE * count, 10)) return false;
    set_images(s, im->pixel, im->count, im->side);
    for (size_t b = 0; b < count; b++) {
        int kind[KINDS], have[10] = { 0 };
        uint32_t cut = 1 + (uint32_t)lab_below(&state, 8);
        for (int k = 0; k < KINDS; k++) kind[k] = (int)lab_below(&state, 10);
        for (size_t k = 0; k < SIZE; k++) {
            int digit = kind[lab_below(&state, 10) < cut ? 0 : 1 + lab_below(&state, KINDS - 1)];
            s->row[b * SIZE + k] = draw(im, digit, true, &state);
            have[digit]++;
        }
        for (int d = 0; d < 10; d++) s->label[b * 10 + (size_t)d] = have[d] > share_of(d) * SIZE;
        s->offset[b + 1] = (b + 1) * SIZE;
    }
    return true;
}

/* grid x grid digits of two or three kinds on one image; labels: which are there. As bags of one image, or of patches, half a digit apart. */
static bool canvases(set *s, const lab_images *im, dl_index grid, bool tiles, size_t count, uint64_t seed)
{
    dl_index side = im->side, wide = grid * side, size = tiles ? side : wide;
    dl_tiling tiling = { .image = DL_SHAPE(1, wide, wide), .size = size, .stride = side / 2 };
    size_t pieces = dl_tile_count(&tiling), piece = (size_t)(size * size), all = (size_t)(wide * wide);
    uint64_t state = seed * 2654435761u + 777;
    bool ok = set_create(s, count, count * pieces, 10) && (s->canvas = (uint8_t *)malloc(count * all)) &&
        (s->digit = (uint8_t *)malloc(count * (size_t)(grid * grid))) && (s->own = (uint8_t *)malloc(count * pieces * piece));
    for (size_t b = 0; ok && b < count; b++) {
        uint8_t *canvas = s->canvas + b * all;
        int kind[3];
        for (int k = 0; k < 3; k++) kind[k] = (int)lab_below(&state, 10);
        for (dl_index cell = 0; cell < grid * grid; cell++) {
            size_t i = draw(im, kind[lab_below(&state, 3)], true, &state);
            s->label[b * 10 + im->label[i]] = 1;
            s->digit[(dl_index)b * grid * grid + cell] = im->label[i];
            for (dl_index y = 0; y < side; y++)
                memcpy(canvas + (cell / grid * side + y) * wide + cell % grid * side, im->pixel + (dl_index)i * side * side + y * side, (size_t)side);
        }
        for (size_t k = 0; k < pieces; k++) {
            dl_tile_copy(&tiling, k, canvas, s->own + (b * pieces + k) * piece);
            s->row[b * pieces + k] = b * pieces + k;
        }
        s->offset[b + 1] = (b + 1) * pieces;
    }
    s->tiling = tiling;
    if (ok) set_images(s, s->own, count * pieces, size);
    return ok;
}

/* ---- networks: instances to embeddings [R,D]. A convolution all through: an image of one digit gives one embedding, a larger one a map
   of them, and each place of the map is an instance of its own ---- */
typedef struct view { dl_index along, start, step, size; } view;

/* The receptive field of a place, which is what it sees of the image: `size` pixels a side from start + k step on, k its row or column of `along`; what lies
   outside is padding. A layer widens it by kernel - 1 steps of its input, starts it `padding` such steps earlier, and multiplies the step by its stride. */
static void widen(view *v, dl_index kernel, dl_index stride, dl_index padding)
{
    v->start -= padding * v->step, v->size += (kernel - 1) * v->step, v->step *= stride;
}

static dl_tensor convolve(dl_tensor x, const char *name, const dl_conv2d_desc *d, view *v)
{
    widen(v, d->kernel, d->stride, d->padding);
    return dl_relu(dl_conv2d(x, name, d));
}

static dl_tensor halve(dl_tensor x, view *v)
{
    dl_pool2d_desc d = { .kernel = 2, .stride = 2 };
    widen(v, d.kernel, d.stride, d.padding);
    return dl_max_pool2d(x, &d);
}

static dl_tensor embed(dl_tensor x, view *v)
{
    static const int last[] = { 0, 2, 3, 1 };
    *v = (view){ .along = 1, .step = 1, .size = 1 };
    if (dl_ndim(x) == 2) return dl_relu(dl_linear(dl_relu(dl_linear(x, "fc1", 64)), "fc2", 32));
    bool small = dl_dim(x, 2) % 28 != 0; /* digits of 8 x 8 */
    dl_conv2d_desc c1 = { .out_channels = 12, .kernel = small ? 3 : 5, .stride = 1, .padding = small ? 1 : 0 }, c2 = c1;
    dl_conv2d_desc fc = { .out_channels = 96, .kernel = small ? 2 : 4, .stride = 1 };
    c2.out_channels = 24;
    x = halve(convolve(x, "conv1", &c1, v), v);
    x = halve(convolve(x, "conv2", &c2, v), v);
    x = convolve(x, "fc1", &fc, v);
    v->along = dl_dim(x, 2);
    return dl_reshape(dl_permute(x, last), DL_SHAPE(-1, 96));
}

/* dl_mil_threshold with another start than 1/2: thresholds are any tensor with values between 0 and 1. */
static dl_tensor threshold_from(dl_context *ctx, dl_index labels, double start)
{
    dl_param_desc d = { .shape = DL_SHAPE(labels), .init = DL_INIT_CONSTANT, .value = (dl_real)log(start / (1 - start)) };
    return dl_sigmoid(dl_parameter(ctx, "and.threshold", &d));
}

/* Logits of the bags [S,labels]; *weights [R,...]: how much each instance counts, none for poolings of embeddings but attention. */
static dl_tensor bag_logits(const options *o, dl_tensor h, dl_tensor offsets, int pooling, dl_index labels, dl_tensor *weights)
{
    *weights = (dl_tensor){ 0 };
    if (pooling < EMBEDDING_MAX) {
        dl_tensor z = dl_linear(h, "instance", labels);
        dl_mil_desc d = { .pooling = (dl_mil_pooling)pooling, .r = (float)o->r, .a = (float)o->a };
        if (d.pooling == DL_MIL_NOISY_AND) d.threshold = threshold_from(h.ctx, labels, o->start);
        *weights = dl_sigmoid(z);
        return dl_mil_pool(z, offsets, &d);
    }
    dl_tensor bag = pooling == EMBEDDING_MAX ? dl_segment_max(h, offsets) : pooling == EMBEDDING_MEAN ? dl_segment_mean(h, offsets) :
        dl_mil_attention(h, offsets, "attention", &(dl_mil_attention_desc){ .hidden = 64, .gated = pooling == GATED }, weights);
    return dl_linear(bag, "bag", labels);
}

static bool weighs(int pooling) { return pooling != EMBEDDING_MAX && pooling != EMBEDDING_MEAN; }

static dl_tensor forward(const options *o, dl_context *ctx, const set *s, const size_t *index, size_t n, int pooling, dl_tensor *weights, view *v)
{
    dl_tensor x, offsets;
    if (!dl_bags_input(ctx, &s->bags, index, n, &x, &offsets)) return x;
    dl_tensor h = embed(x, v);
    if (v->along > 1) { /* each image is as many instances */
        int32_t *at = (int32_t *)calloc(n + 1, sizeof *at);
        for (size_t k = 0; at && k < n; k++) at[k + 1] = at[k] + (int32_t)((s->offset[index[k] + 1] - s->offset[index[k]]) * (size_t)(v->along * v->along));
        offsets = dl_input(ctx, DL_I32, DL_SHAPE((dl_index)n + 1), at);
        free(at);
    }
    return bag_logits(o, h, offsets, pooling, (dl_index)s->labels, weights);
}

/* Bags as large as these come so many at once. */
static bool predict(const options *o, dl_context *ctx, const set *s, const size_t *index, size_t n, int pooling, float *score)
{
    bool recording = dl_set_grad(ctx, false), ok = true;
    dl_tensor weights;
    view v;
    for (size_t at = 0; ok && at < n; at += 20) {
        size_t count = n - at < 20 ? n - at : 20;
        ok = dl_read(forward(o, ctx, s, index + at, count, pooling, &weights, &v), score + at * s->labels, count * s->labels);
        dl_end(ctx);
    }
    dl_set_grad(ctx, recording);
    return ok;
}

/* Trains on bags `index[0..n)`. */
static bool learn(const options *o, dl_context *ctx, const set *s, const size_t *index, size_t n, int pooling)
{
    float *label = (float *)malloc((n * s->labels + 1) * sizeof *label);
    size_t *now = (size_t *)malloc((size_t)o->batch * sizeof *now);
    for (size_t i = 0; label && i < n; i++) memcpy(label + i * s->labels, s->label + index[i] * s->labels, s->labels * sizeof *label);
    dl_dataset *data = dl_dataset_create(ctx,
        &(dl_dataset_desc){ .count = n, .x_dtype = DL_F32, .x_shape = DL_SHAPE((dl_index)s->labels), .no_y = true, .x = label });
    dl_loader *loader = dl_loader_create(data, &(dl_loader_desc){ .batch = (size_t)o->batch, .shuffle = true });
    dl_optimizer *opt = dl_adam(ctx, &(dl_adam_desc){ .lr = (dl_real)o->lr, .weight_decay = (dl_real)o->decay });
    if (pooling == DL_MIL_NOISY_AND && s->labels > 1) /* thresholds have a long way to go */
        dl_optimizer_group(opt, "*.threshold", &(dl_group_desc){ .lr_scale = 10, .no_weight_decay = true });
    for (int step = 0; now && step < o->steps && !dl_failed(ctx); step++) {
        dl_batch b;
        dl_tensor weights;
        view v;
        if (!dl_next(loader, &b) && !dl_next(loader, &b)) break;
        for (size_t i = 0; i < b.count; i++) now[i] = index[b.index[i]];
        dl_tensor z = forward(o, ctx, s, now, b.count, pooling, &weights, &v);
        dl_backward(dl_bce_with_logits(z, b.x, DL_MEAN));
        dl_step(opt);
    }
    dl_end(ctx);
    free(label), free(now);
    return !dl_failed(ctx) && now;
}

static double mean_auc(const float *score, const float *label, size_t n, size_t labels)
{
    double sum = 0, counted = 0;
    for (size_t c = 0; c < labels; c++) {
        double auc = lab_auc(score + c, label + c, n, labels);
        if (auc == auc) sum += auc, counted++;
    }
    return counted > 0 ? sum / counted : NAN;
}

/* ---- pictures: test bags, what is predicted of them, and by which instances ---- */
/* An image as runs of equal ink, four shades. */
static void draw_image(FILE *f, const uint8_t *pixel, dl_index side, double x, double y, double scale)
{
    static const char *const shade[] = { "#bbb", "#888", "#444", "#000" };
    for (int level = 0; level < 4; level++) {
        bool open = false;
        for (dl_index r = 0; r < side; r++)
            for (dl_index c = 0; c < side;) {
                dl_index from = c;
                while (c < side && pixel[r * side + c] >= 32 && (pixel[r * side + c] - 32) / 56 == level) c++;
                if (c == from) { c++; continue; }
                if (!open) fprintf(f, "<path fill=\"%s\" d=\"", shade[level]), open = true;
                fprintf(f, "M%.4g %.4gh%.3gv%.3gh-%.3gz", x + (double)from * scale, y + (double)r * scale, (double)(c - from) * scale, scale, (double)(c - from) * scale);
            }
        if (open) fprintf(f, "\"/>\n");
    }
}

#define FRAME "fill=\"none\" stroke-width=\"2\" stroke"
#define THIN "fill=\"none\" stroke"
#define NOTE " text-anchor=\"middle\" font-size=\"11\" fill=\"#57606a\""
#define KIND " text-anchor=\"end\" font-size=\"11\" fill=\"#1f6feb\""
static const char *const red = "#d1242f", *const blue = "#1f6feb", *const grey = "#9aa4af", *const pale = "#ddd";

typedef struct shown {
    const set *s;
    const lab_images *im;
    size_t bag, n, weights;    /* instances, and weights of each: one a label, or one for all */
    const dl_real *weight;     /* [n,weights] */
    double p[MOST_LABELS], x, y; /* where the bag is drawn */
    view v;
} shown;
enum { LEFT = 16, ROW = 10, CELL = 64, IMAGE = 56, BAG = 150, SMALL = 30, BARS = LEFT + ROW * SMALL + 20, BAR = 46, HIGH = 56, DIGIT = 84, WORDS = 176 };

static size_t instance(const shown *e, size_t i) { return e->s->row[e->s->offset[e->bag] + i]; }
static double truth(const shown *e, size_t label) { return e->s->label[e->bag * e->s->labels + label]; }

static void draw_instance(FILE *f, const shown *e, size_t i, double x, double y, double side)
{
    draw_image(f, e->im->pixel + instance(e, i) * (size_t)(e->im->side * e->im->side), e->im->side, x, y, side / (double)e->im->side);
}

static void falling(const dl_real *key, size_t n, size_t *order)
{
    for (size_t i = 0, k; i < n; order[k] = i++)
        for (k = i; k && key[order[k - 1]] < key[i]; k--) order[k] = order[k - 1];
}

/* The instances with the highest weights; true targets have a red frame. */
static void draw_bag(FILE *f, const shown *e)
{
    size_t order[MOST_IMAGES];
    falling(e->weight, e->n, order);
    lab_text(f, LEFT, e->y + 24, "", "bag of %zu, label %g", e->n, truth(e, 0));
    lab_text(f, LEFT, e->y + 42, "", "P = %.3f", e->p[0]);
    for (size_t i = 0; i < e->n && i < ROW; i++) {
        double x = BAG + (double)i * CELL;
        draw_instance(f, e, order[i], x, e->y, IMAGE);
        lab_box(f, x - 0.5, e->y - 0.5, IMAGE + 1, IMAGE + 1, THIN, e->im->label[instance(e, order[i])] == TARGET ? red : pale);
        lab_text(f, x + IMAGE / 2, e->y + 70, " text-anchor=\"middle\"", "%.2f", (double)e->weight[order[i]]);
    }
}

/* Of label c: what is true as a grey bar, and what was learnt as one in colour; below it, and a share. */
static void draw_pair(FILE *f, size_t c, double y, double most, double is, double learnt, const char *colour, double share)
{
    double x = BARS + (double)c * BAR, a = HIGH * is / most, b = HIGH * learnt / most;
    lab_box(f, x, y + HIGH, 34, 1, "fill", grey);
    lab_box(f, x + 2, y + HIGH - a, 14, a, "fill", grey);
    lab_box(f, x + 18, y + HIGH - b, 14, b, "fill", colour);
    lab_text(f, x + 17, y + HIGH + 14, " text-anchor=\"middle\"", "%.2f", learnt);
    if (share > 0) lab_text(f, x + 17, y + HIGH + 27, NOTE, "%.0f %%", 100 * share);
}

/* All instances, by kind, and P beside the truth. */
static void draw_labels(FILE *f, const shown *e)
{
    size_t order[MOST_IMAGES];
    dl_real kind[MOST_IMAGES];
    double share[MOST_LABELS] = { 0 };
    for (size_t i = 0; i < e->n; i++) {
        int digit = e->im->label[instance(e, i)];
        kind[i] = (dl_real)-digit, share[digit] += 1 / (double)e->n;
    }
    falling(kind, e->n, order);
    for (size_t i = 0; i < e->n; i++) draw_instance(f, e, order[i], LEFT + (double)(i % ROW * SMALL), e->y + (double)(i / ROW * SMALL), SMALL - 4);
    for (size_t c = 0; c < MOST_LABELS; c++) draw_pair(f, c, e->y, 1, truth(e, c), e->p[c], (e->p[c] > 0.5) == (truth(e, c) > 0.5) ? blue : red, share[c]);
}

/* What instance k sees of the canvas: of its patch what its place of the map sees, without the padding. top, left, bottom, right */
static void seen(const shown *e, size_t k, dl_index box[4])
{
    size_t places = (size_t)(e->v.along * e->v.along), place = k % places;
    dl_index at[2] = { (dl_index)place / e->v.along, (dl_index)place % e->v.along }, size = e->s->tiling.size, patch[2] = { 0, 0 };
    dl_tile_at(&e->s->tiling, k / places, &patch[0], &patch[1]);
    for (int i = 0; i < 2; i++) {
        dl_index low = e->v.start + at[i] * e->v.step, high = low + e->v.size;
        box[i] = patch[i] + (low > 0 ? low : 0), box[2 + i] = patch[i] + (high < size ? high : size);
    }
}

/* A canvas, in the corner of each digit which it is; of each label that is predicted, what the instance with the highest weight sees is framed. */
static void draw_canvas(FILE *f, const shown *e)
{
    static const char *const colour[] = { "#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#bc4c00", "#8c564b", "#bf3989", "#57606a", "#7a7000", "#0b7285" };
    dl_index wide = e->s->tiling.image.dim[1], grid = wide / e->im->side, box[4];
    struct { double x, y; size_t label; } tag[MOST_LABELS];
    size_t tags = 0;
    double scale = DIGIT / (double)e->im->side, line = e->y + 10, edge = (double)wide * scale;
    draw_image(f, e->s->canvas + e->bag * (size_t)(wide * wide), wide, e->x, e->y, scale);
    lab_box(f, e->x - 0.5, e->y - 0.5, edge + 1, edge + 1, THIN, pale);
    for (dl_index k = 0; k < grid * grid; k++)
        lab_text(f, e->x + (double)((k % grid + 1) * DIGIT - 3), e->y + (double)((k / grid + 1) * DIGIT - 4), KIND, "%d",
            e->s->digit[(dl_index)e->bag * grid * grid + k]);
    for (size_t c = 0; c < MOST_LABELS; c++) {
        bool there = truth(e, c) > 0.5, predicted = e->p[c] > 0.5, hit = true;
        if (!there && !predicted) continue;
        lab_box(f, e->x + edge + 8, line - 9, 10, 10, "fill", colour[c]);
        lab_text(f, e->x + edge + 23, line, there == predicted ? "" : " font-weight=\"bold\"", "%zu: P = %.2f, %s", c, e->p[c],
            there && predicted ? "right" : there ? "missed" : "not there");
        line += 16;
        if (!predicted) continue;
        size_t best = 0, own = c % e->weights;
        for (size_t k = 1; k < e->n; k++)
            if (e->weight[k * e->weights + own] > e->weight[best * e->weights + own]) best = k;
        seen(e, best, box);
        double x = e->x + (double)box[1] * scale, y = e->y + (double)box[0] * scale, high = (double)(box[2] - box[0]) * scale;
        lab_box(f, x, y, (double)(box[3] - box[1]) * scale, high, FRAME, colour[c]);
        tag[tags].label = c;
        for (int slot = 0, rows = (int)(high / 14); hit; slot++) { /* down the left side of the frame, where no other tag is */
            tag[tags].x = x + slot / rows * 44, tag[tags].y = y + slot % rows * 14, hit = false;
            for (size_t k = 0; k < tags; k++) hit = hit || (fabs(tag[k].x - tag[tags].x) < 44 && fabs(tag[k].y - tag[tags].y) < 14);
        }
        tags++;
    }
    for (size_t k = 0; k < tags; k++) {
        lab_box(f, tag[k].x, tag[k].y, 42, 13, "fill", colour[tag[k].label]);
        lab_text(f, tag[k].x + 3, tag[k].y + 10.5, " font-size=\"11\" fill=\"white\"", "%zu: %.2f", tag[k].label, e->p[tag[k].label]);
    }
}

/* What noisy-AND has learnt; other poolings have none. */
static size_t thresholds(dl_context *ctx, int pooling, double *learnt)
{
    dl_param_info p;
    if (pooling != DL_MIL_NOISY_AND || !dl_param_find(ctx, "and.threshold", &p) || !p.value) return 0;
    for (size_t c = 0; c < p.numel; c++) learnt[c] = 1 / (1 + exp(-(double)p.value[c]));
    return p.numel;
}

static bool picture(const options *o, dl_context *ctx, const set *s, const lab_images *im, const char *path)
{
    bool canvas = s->canvas, labels = !canvas && s->labels > 1;
    double learnt[MOST_LABELS], most = 0.5;
    const char *what = canvas ? "predicted digits, P above 1/2; framed: where the weight for each is highest; blue: the truth" :
        labels ? "labels of bags of digits. Grey: the truth; blue: P; red: P, wrong" :
        "the instances with the highest weights, and the weights; red: the digit sought";
    char title[160];
    size_t learns = labels ? thresholds(ctx, o->pictured, learnt) : 0, columns = !canvas ? 1 : o->grid < 3 ? 6 / (size_t)o->grid : 2;
    size_t shows = canvas ? 2 * columns : labels ? 6 : 8;
    int top = labels ? 78 : 44, wide = canvas ? DIGIT * o->grid + WORDS : labels ? BARS + MOST_LABELS * BAR - 16 : BAG + ROW * CELL - 8;
    int high = canvas ? DIGIT * o->grid + 16 : labels ? 100 : CELL + 16;
    if (shows > s->bags.count) shows = s->bags.count;
    snprintf(title, sizeof title, "%s: %s", pooling_names[o->pictured], what);
    FILE *f = lab_open_svg(path, LEFT + (int)columns * wide, top + ((int)((shows + columns - 1) / columns) + (learns > 0)) * high, title);
    if (!f) return false;
    bool recording = dl_set_grad(ctx, false);
    for (size_t b = 0; b < shows; b++) {
        shown e = { .s = s, .im = im, .bag = b, .x = LEFT + (double)(b % columns) * wide, .y = top + (double)(b / columns) * high };
        float z[MOST_LABELS];
        dl_tensor weights, out = forward(o, ctx, s, &b, 1, o->pictured, &weights, &e.v);
        if (dl_failed(ctx)) break;
        if (weighs(o->pictured)) dl_keep(weights), e.weights = (size_t)dl_dim(weights, 1);
        if (!dl_read(dl_keep(out), z, s->labels) || (e.weights && !(e.weight = (const dl_real *)dl_data(weights)))) break;
        e.n = (s->offset[b + 1] - s->offset[b]) * (size_t)(e.v.along * e.v.along);
        for (size_t c = 0; c < s->labels; c++) e.p[c] = 1 / (1 + exp(-(double)z[c]));
        (canvas ? draw_canvas : labels ? draw_labels : draw_bag)(f, &e);
        dl_end(ctx);
    }
    dl_set_grad(ctx, recording);
    double y = top + (double)shows * high;
    for (size_t c = 0; c < MOST_LABELS && labels; c++) {
        lab_text(f, BARS + (double)c * BAR + 17, 52, NOTE, "label %zu", c);
        lab_text(f, BARS + (double)c * BAR + 17, 66, NOTE, "&gt; %.0f %%", 100 * share_of((int)c));
    }
    if (labels) lab_text(f, LEFT, 66, "", "Below: P, and the digit's share of the bag");
    for (size_t c = 0; c < learns; c++) most = fmax(most, learnt[c]);
    for (size_t c = 0; c < learns; c++) draw_pair(f, c, y, most, share_of((int)c), learnt[c], blue, share_of((int)c));
    if (learns) lab_text(f, LEFT, y + 24, "", "Grey: the share above which a label is set");
    if (learns) lab_text(f, LEFT, y + 42, "", "Blue: the threshold that noisy-AND has learnt");
    return lab_close_svg(f) && !dl_failed(ctx);
}

/* ---- experiments on images ---- */
typedef struct column { const char *title; int count; bool share; double auc[POOLINGS][SEEDS]; } column;

static bool make_set(const options *o, set *s, const lab_images *im, const column *c, size_t count, uint64_t seed)
{
    if (!strcmp(o->experiment, "labels")) return bags_of_labels(s, im, count, seed);
    if (!strcmp(o->experiment, "bags")) return bags_by_rule(s, im, c->share, count, seed);
    return canvases(s, im, o->grid, !strcmp(o->experiment, "tiles"), count, seed);
}

/* Beside the shares by which the labels were made, where they are known. */
static void print_thresholds(dl_context *ctx, bool known)
{
    double learnt[MOST_LABELS];
    size_t n = thresholds(ctx, DL_MIL_NOISY_AND, learnt);
    printf("  thresholds learnt by noisy-and:");
    for (size_t c = 0; c < n; c++) {
        printf(" %.2f", learnt[c]);
        if (known) printf(" (%.2f)", share_of((int)c));
    }
    printf("\n");
}

static bool run_one(const options *o, const lab_images *im, const lab_images *held_out, column *c, int pooling, int seed, bool draw_it)
{
    set train = { 0 }, test = { 0 };
    char path[1024];
    dl_context *ctx = dl_create(&(dl_config){ .seed = (uint64_t)seed, .threads = o->threads });
    bool ok = make_set(o, &train, im, c, (size_t)c->count, (uint64_t)seed) && make_set(o, &test, held_out, c, (size_t)o->test, o->validate ? 2000 : 1000);
    size_t most = ok ? (train.bags.count > test.bags.count ? train.bags.count : test.bags.count) : 0, *index = (size_t *)malloc((most + 1) * sizeof *index);
    float *score = (float *)malloc((most * MOST_LABELS + 1) * sizeof *score);
    if (!ok || !index || !score) ok = dl_fail(ctx, "no memory for the bags");
    for (size_t i = 0; ok && i < most; i++) index[i] = i;
    ok = ok && learn(o, ctx, &train, index, train.bags.count, pooling) && predict(o, ctx, &test, index, test.bags.count, pooling, score);
    if (ok) c->auc[pooling][seed - o->first] = mean_auc(score, test.label, test.bags.count, test.labels);
    if (ok && seed == o->first && pooling == DL_MIL_NOISY_AND && test.labels > 1) print_thresholds(ctx, !strcmp(o->experiment, "labels"));
    snprintf(path, sizeof path, "%s.svg", o->out);
    if (ok && draw_it) ok = picture(o, ctx, &test, held_out, path);
    if (dl_failed(ctx)) fprintf(stderr, "mil: %s\n", dl_error(ctx));
    set_destroy(&train), set_destroy(&test);
    free(index), free(score);
    dl_destroy(ctx);
    return ok;
}

static bool write_csv(const options *o, const column *c, int columns)
{
    char path[1024];
    snprintf(path, sizeof path, "%s.csv", o->out);
    FILE *f = lab_create("mil", path);
    if (!f) return false;
    fprintf(f, "experiment,column,bags,pooling,seed,auc\n");
    for (int k = 0; k < columns; k++)
        for (int p = 0; p < POOLINGS; p++)
            for (int s = 0; s < o->seeds && o->chosen[p]; s++)
                fprintf(f, "%s,%s,%d,%s,%d,%.5f\n", o->experiment, c[k].title, c[k].count, pooling_names[p], o->first + s, c[k].auc[p][s]);
    if (o->pictured < POOLINGS) printf("wrote %s and %s.svg\n", path, o->out);
    else printf("wrote %s; no picture: embeddings pooled by max or mean have no weights\n", path);
    return fclose(f) == 0;
}

static void print_table(const options *o, const column *c, int columns)
{
    printf("\n| pooling |");
    for (int k = 0; k < columns; k++) printf(" %s, %d |", c[k].title, c[k].count);
    printf("\n|---|");
    for (int k = 0; k < columns; k++) printf("---|");
    printf("\n");
    for (int p = 0; p < POOLINGS; p++) {
        if (!o->chosen[p]) continue;
        printf("| %s |", pooling_names[p]);
        for (int k = 0; k < columns; k++) {
            int failed = 0;
            for (int s = 0; s < o->seeds; s++) failed += c[k].auc[p][s] < 0.8;
            printf(" %.3f", lab_median(c[k].auc[p], o->seeds));
            if (failed) printf(" (%d/%d)", failed, o->seeds);
            printf(" |");
        }
        printf("\n");
    }
    printf("\nMedian AUC on %d %s bags over %d seeds; in brackets how many seeds stayed under 0.8.\n", o->test, o->validate ? "validation" : "test", o->seeds);
}

static bool image_experiments(options *o)
{
    static column c[COUNTS + 1];
    bool bags = !strcmp(o->experiment, "bags"), ok;
    int columns = 0;
    lab_images all = { 0 }, held_out = { 0 }, im, scored;
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    ok = lab_mnist(ctx, "mil", o->data, &all, &held_out);
    im = all, scored = held_out;
    if (o->validate) {
        scored = all;
        scored.count = all.count / 6;
        im.count -= scored.count;
        scored.pixel += im.count * (size_t)(im.side * im.side), scored.label += im.count;
    }
    if (!ok) fprintf(stderr, "mil: %s\n", dl_error(ctx));
    dl_destroy(ctx);
    for (int k = 0; k < o->n_counts && (!bags || strcmp(o->rule, "share")); k++)
        c[columns++] = (column){ .title = bags ? "any" : o->experiment, .count = o->count[k] };
    if (bags && strcmp(o->rule, "any")) c[columns++] = (column){ .title = "share", .count = o->quick ? 30 : 60, .share = true };
    int pictured = columns > 1 && c[columns - 1].share ? columns - 2 : columns - 1;
    for (int p = 0; p < POOLINGS && ok; p++) {
        double began = lab_seconds();
        if (!o->chosen[p]) continue;
        for (int k = 0; k < columns && ok; k++)
            for (int s = 0; s < o->seeds && ok; s++)
                ok = run_one(o, &im, &scored, &c[k], p, o->first + s, p == o->pictured && !s && k == pictured);
        printf("%-16s %7.1f s\n", pooling_names[p], lab_seconds() - began);
        fflush(stdout);
    }
    if (ok) print_table(o, c, columns);
    ok = ok && write_csv(o, c, columns);
    lab_free(&all), lab_free(&held_out);
    return ok;
}

/* ---- bags from a file ---- */
typedef struct table { float *x, *raw; size_t rows, columns; set s; } table;

static const char *field(const char *line, int column) /* from 1; NULL: there are fewer */
{
    for (int k = 1; line && k < column; k++) line = (line = strchr(line, ',')) ? line + 1 : NULL;
    return line;
}

static int fields_of(const char *line)
{
    int n = 1;
    for (; *line; line++) n += *line == ',';
    return n;
}

static bool is_end(const char *end) { return *end == ',' || *end == 0 || *end == '\n' || *end == '\r'; }

static bool a_number(const char *text, double *out)
{
    char *end;
    *out = text ? strtod(text, &end) : 0;
    return text && end != text && is_end(end) && fabs(*out) <= 1e30;
}

/* Reads a line of features and its class; 0, or the number of the first field that is no number. */
static int read_line(const options *o, const char *line, int fields, int label, float *x, double *class)
{
    int n = 0;
    double v;
    if (!a_number(field(line, label), class)) return label;
    for (int k = o->skip + 1; k <= fields; k++) {
        if (k == label || k == o->bag_column) continue;
        if (!a_number(field(line, k), &v)) return k;
        x[n++] = (float)v;
    }
    return 0;
}

static bool read_table(const options *o, table *t)
{
    static char line[1 << 16];
    static char (*name)[64];
    size_t room = 0, bags = 0, at = 0;
    int fields = 0, label = 0;
    size_t *bag_of = NULL;
    float *x = NULL, *positive = NULL;
    FILE *f = fopen(o->csv, "r");
    if (!f) return fprintf(stderr, "mil: cannot open '%s'\n", o->csv), false;
    memset(t, 0, sizeof *t);
    bool ok = true;
    while (ok && fgets(line, sizeof line, f)) {
        at++;
        if (!strchr(line, '\n') && !feof(f)) ok = (fprintf(stderr, "mil: '%s', line %zu: longer than %zu bytes\n", o->csv, at, sizeof line - 2), false);
        if (!ok || line[strspn(line, " \t\r\n")] == 0) continue;
        if (!fields) {
            fields = fields_of(line);
            label = strcmp(o->label, "last") ? atoi(o->label) : fields;
            t->columns = (size_t)(fields - o->skip - (label > o->skip) - (o->bag_column > o->skip));
            if (label < 1 || label > fields || o->bag_column > fields || fields - o->skip < 2 || (int)t->columns < 1) {
                fprintf(stderr, "mil: '%s' has %d columns: no room for bag column %d, %d skipped, label %s, and features\n", o->csv, fields, o->bag_column, o->skip, o->label);
                ok = false;
                break;
            }
        }
        if (t->rows == room) {
            room = room ? 2 * room : 256;
            x = (float *)realloc(x, room * t->columns * sizeof *x);
            bag_of = (size_t *)realloc(bag_of, room * sizeof *bag_of);
            positive = (float *)realloc(positive, room * sizeof *positive);
            name = (char (*)[64])realloc(name, room * sizeof *name);
            if (!x || !bag_of || !positive || !name) { ok = false; break; }
        }
        double class;
        int wrong = fields_of(line) != fields ? -1 : read_line(o, line, fields, label, x + t->rows * t->columns, &class);
        if (wrong && !t->rows && at == 1) continue; /* names of columns */
        if (wrong < 0) fprintf(stderr, "mil: '%s', line %zu: %d columns, not %d\n", o->csv, at, fields_of(line), fields);
        else if (wrong) fprintf(stderr, "mil: '%s', line %zu: column %d is not a number\n", o->csv, at, wrong);
        if (wrong) { ok = false; break; }
        const char *key = field(line, o->bag_column);
        int length = (int)strcspn(key, ",\r\n");
        char own[64];
        snprintf(own, sizeof own, "%.*s", length, key);
        size_t b = bags;
        while (b > 0 && strcmp(name[b - 1], own)) b--;
        if (!b) memcpy(name[bags], own, sizeof own), positive[bags] = 0, b = ++bags;
        bag_of[t->rows++] = b - 1;
        if (class > 0.5) positive[b - 1] = 1;
    }
    fclose(f);
    if (ok && !bags) ok = (fprintf(stderr, "mil: '%s' has no instances\n", o->csv), false);
    ok = ok && set_create(&t->s, bags, t->rows, 1) && (t->x = (float *)malloc(t->rows * t->columns * sizeof *t->x)) != NULL;
    for (size_t b = 0, k = 0; ok && b < bags; b++) { /* the rows of a bag together */
        for (size_t i = 0; i < t->rows; i++)
            if (bag_of[i] == b) t->s.row[k++] = i;
        t->s.offset[b + 1] = k;
        t->s.label[b] = positive[b];
    }
    t->raw = x;
    t->s.bags.dtype = DL_F32, t->s.bags.shape = DL_SHAPE((dl_index)t->columns), t->s.bags.x = t->x, t->s.bags.instances = t->rows;
    free(bag_of), free(positive), free(name);
    return ok;
}

/* Mean 0 and variance 1 over the instances of the bags index[0..n). */
static void standardise(table *t, const size_t *index, size_t n)
{
    for (size_t c = 0; c < t->columns; c++) {
        double sum = 0, squares = 0, count = 0;
        for (int pass = 0; pass < 2; pass++)
            for (size_t i = 0; i < n; i++)
                for (size_t r = t->s.offset[index[i]]; r < t->s.offset[index[i] + 1]; r++) {
                    double v = t->raw[t->s.row[r] * t->columns + c];
                    if (!pass) sum += v, count++;
                    else squares += (v - sum / count) * (v - sum / count);
                }
        double mean = sum / count, scale = sqrt(squares / count);
        for (size_t r = 0; r < t->rows; r++) t->x[r * t->columns + c] = (float)((t->raw[r * t->columns + c] - mean) / (scale > 1e-9 ? scale : 1));
    }
}

/* Every bag is scored by a network that has not seen it. Accuracy in percent, and the AUC of all scores together. */
static bool cross_validate(const options *o, table *t, int pooling, int seed, double *accuracy, double *auc)
{
    size_t bags = t->s.bags.count, *order = (size_t *)malloc(3 * bags * sizeof *order), *in = order + bags, *out = in + bags, dealt = 0;
    int *fold = (int *)malloc(bags * sizeof *fold);
    float *score = (float *)malloc(bags * sizeof *score), *one = (float *)malloc(bags * sizeof *one);
    bool ok = order && fold && score && one;
    if (ok) dl_randperm((uint32_t)seed, order, bags);
    for (int class = 0; ok && class < 2; class++) /* as many of each class in each fold as can be */
        for (size_t i = 0; i < bags; i++)
            if ((t->s.label[order[i]] > 0.5f) == (class == 1)) fold[order[i]] = (int)(dealt++ % (size_t)o->folds);
    for (int k = 0; ok && k < o->folds; k++) {
        size_t n_in = 0, n_out = 0;
        for (size_t b = 0; b < bags; b++) *(fold[b] == k ? &out[n_out++] : &in[n_in++]) = b;
        if (!n_out || !n_in) continue;
        standardise(t, in, n_in);
        dl_context *ctx = dl_create(&(dl_config){ .seed = (uint64_t)(100 * seed + k), .threads = o->threads });
        ok = learn(o, ctx, &t->s, in, n_in, pooling) && predict(o, ctx, &t->s, out, n_out, pooling, one);
        if (!ok) fprintf(stderr, "mil: %s\n", dl_error(ctx));
        dl_destroy(ctx);
        for (size_t i = 0; i < n_out; i++) score[out[i]] = one[i];
    }
    double right = 0;
    for (size_t b = 0; ok && b < bags; b++) right += (score[b] > 0) == (t->s.label[b] > 0.5f);
    *accuracy = 100 * right / (double)bags;
    *auc = ok ? lab_auc(score, t->s.label, bags, 1) : NAN;
    free(order), free(fold), free(score), free(one);
    return ok;
}

static bool csv_chart(const options *o, double (*accuracy)[SEEDS], double (*auc)[SEEDS])
{
    static lab_table t;
    char path[1024], title[80];
    snprintf(path, sizeof path, "%s.svg", o->out);
    snprintf(title, sizeof title, "%d-fold cross-validation, %%", o->folds);
    t.seeds = o->seeds, t.low = 50; /* what guessing gives */
    for (int what = 0; what < 2; what++)
        for (int p = 0, base = t.rows; p < POOLINGS; p++) {
            if (!o->chosen[p]) continue;
            t.row[t.rows].base = base;
            strcpy(t.row[t.rows].group, what ? "AUC" : "accuracy"), strcpy(t.row[t.rows].method, pooling_names[p]);
            for (int s = 0; s < o->seeds; s++) {
                double v = t.row[t.rows].error[s] = what ? 100 * auc[p][s] : accuracy[p][s];
                while (v < t.low) t.low -= 10;
            }
            t.rows++;
        }
    return lab_write_svg(&t, path, title);
}

static bool csv_experiment(options *o)
{
    static double accuracy[POOLINGS][SEEDS], auc[POOLINGS][SEEDS];
    table t;
    char path[1024];
    size_t positive = 0;
    if (!read_table(o, &t)) return false;
    for (size_t b = 0; b < t.s.bags.count; b++) positive += t.s.label[b] > 0.5f;
    printf("%zu bags, %zu of them positive; %zu instances of %zu features\n", t.s.bags.count, positive, t.rows, t.columns);
    bool ok = t.s.bags.count >= (size_t)o->folds;
    if (!ok) fprintf(stderr, "mil: %zu bags cannot be %d folds\n", t.s.bags.count, o->folds);
    for (int p = 0; p < POOLINGS && ok; p++) {
        double began = lab_seconds();
        for (int s = 0; s < o->seeds && ok && o->chosen[p]; s++) ok = cross_validate(o, &t, p, o->first + s, &accuracy[p][s], &auc[p][s]);
        if (o->chosen[p]) printf("%-16s %7.1f s\n", pooling_names[p], lab_seconds() - began), fflush(stdout);
    }
    snprintf(path, sizeof path, "%s.csv", o->out);
    FILE *f = ok ? lab_create("mil", path) : NULL;
    if (f) {
        printf("\n| pooling | accuracy %% | AUC |\n|---|---|---|\n");
        fprintf(f, "experiment,pooling,seed,accuracy_percent,auc\n");
        for (int p = 0; p < POOLINGS; p++) {
            if (!o->chosen[p]) continue;
            printf("| %s | %.1f +- %.1f | %.3f +- %.3f |\n", pooling_names[p], lab_mean(accuracy[p], o->seeds), lab_deviation(accuracy[p], o->seeds),
                lab_mean(auc[p], o->seeds), lab_deviation(auc[p], o->seeds));
            for (int s = 0; s < o->seeds; s++) fprintf(f, "csv,%s,%d,%.3f,%.5f\n", pooling_names[p], o->first + s, accuracy[p][s], auc[p][s]);
        }
        printf("\n%d-fold cross-validation, each bag scored by a network that has not seen it; mean and deviation over %d seeds.\n", o->folds, o->seeds);
        ok = fclose(f) == 0 && csv_chart(o, accuracy, auc);
        if (ok) printf("wrote %s.csv and %s.svg\n", o->out, o->out);
    }
    set_destroy(&t.s);
    free(t.x), free(t.raw);
    return ok && f;
}

/* ---- options ---- */
static bool drawn(const options *o, int k) /* can it be pictured? The labels are without weights */
{
    return o->chosen[k] && (weighs(k) || !strcmp(o->experiment, "labels")) && (!o->picture || !strcmp(o->picture, pooling_names[k]));
}

static bool choose(options *o)
{
    bool any = false;
    for (const char *p = o->poolings; p && *p; p += strcspn(p, ","), p += *p == ',') {
        int n = (int)strcspn(p, ","), k = 0;
        while (k < POOLINGS && (strlen(pooling_names[k]) != (size_t)n || strncmp(p, pooling_names[k], (size_t)n))) k++;
        if (k == POOLINGS) return fprintf(stderr, "mil: there is no pooling '%.*s'\n%s", n, p, usage), false;
        o->chosen[k] = any = true;
    }
    for (int k = 0; k < POOLINGS && !any; k++) o->chosen[k] = true;
    o->pictured = drawn(o, ATTENTION) ? ATTENTION : drawn(o, DL_MIL_NOISY_AND) ? DL_MIL_NOISY_AND : 0;
    while (o->pictured < POOLINGS && !drawn(o, o->pictured)) o->pictured++;
    if (o->picture && o->pictured == POOLINGS)
        return fprintf(stderr, "mil: --picture takes one of --poolings, embedding-max and -mean with labels alone, not '%s'\n", o->picture), false;
    for (const char *p = o->counts; p && *p; p += strcspn(p, ","), p += *p == ',') {
        int n = atoi(p);
        if (n < 2 || n > 100000 || o->n_counts == COUNTS) return fprintf(stderr, "mil: --counts takes at most %d numbers from 2 to 100000\n", COUNTS), false;
        o->count[o->n_counts++] = n;
    }
    return true;
}

static bool one_of(const char *name, const char *value, const char *list)
{
    size_t n = strlen(value);
    for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == n && !strncmp(p, value, n)) return true;
    return fprintf(stderr, "mil: %s is one of %s, not '%s'\n", name, list, value), false;
}

static void defaults(options *o)
{
    bool bags = !strcmp(o->experiment, "bags"), labels = !strcmp(o->experiment, "labels");
    if (!o->seeds) o->seeds = o->quick ? 1 : 3;
    if (!o->steps) o->steps = o->quick ? 1000 : o->csv || labels ? 600 : bags ? 1200 : 2000;
    if (!o->batch) o->batch = o->csv || labels ? 8 : bags ? 2 : 4;
    if (o->lr == 0) o->lr = o->csv || (bags && !o->quick) ? 1e-3 : 2e-3;
    if (o->decay < 0) o->decay = o->csv ? 5e-3 : 1e-4;
    if (!o->test) o->test = o->quick ? 100 : 400;
    if (!o->counts) o->counts = o->quick ? "200" : bags ? "50,100,200" : labels ? "400" : "1000";
    if (!o->poolings && !bags && !o->csv) o->poolings = "max,mean,noisy-or,lse,noisy-and"; /* one attention a bag serves one label */
    if (!o->poolings && o->quick) o->poolings = "max,mean,noisy-or,noisy-and,attention";
}

int main(int argc, char **argv)
{
    options o = { .data = getenv("DLTRAIN_DATA"), .out = "mil", .experiment = "bags", .rule = "both", .label = "last", .threads = 1,
        .first = 1, .grid = 2, .folds = 10, .bag_column = 1, .skip = 2, .decay = -1, .r = 5, .a = 10, .start = 0.5 };
    const lab_option option[] = { { "--data", 's', &o.data, 0, 0 }, { "--out", 's', &o.out, 0, 0 }, { "--experiment", 's', &o.experiment, 0, 0 },
        { "--rule", 's', &o.rule, 0, 0 }, { "--counts", 's', &o.counts, 0, 0 }, { "--poolings", 's', &o.poolings, 0, 0 }, { "--picture", 's', &o.picture, 0, 0 },
        { "--csv", 's', &o.csv, 0, 0 }, { "--label", 's', &o.label, 0, 0 }, { "--test", 'i', &o.test, 2, 100000 }, { "--seeds", 'i', &o.seeds, 1, SEEDS },
        { "--first", 'i', &o.first, 0, 1e6 }, { "--steps", 'i', &o.steps, 1, 1e6 }, { "--batch", 'i', &o.batch, 1, 1000 }, { "--threads", 'i', &o.threads, 0, 1000 }, { "--grid", 'i', &o.grid, 1, 20 },
        { "--folds", 'i', &o.folds, 2, 1000 }, { "--bag-column", 'i', &o.bag_column, 1, 100000 }, { "--skip", 'i', &o.skip, 0, 100000 },
        { "--lr", 'd', &o.lr, 1e-9, 10 }, { "--decay", 'd', &o.decay, 0, 1 }, { "--r", 'd', &o.r, 1e-3, 1e3 }, { "--a", 'd', &o.a, 1e-3, 1e3 }, { "--start", 'd', &o.start, 1e-4, 0.9999 },
        { "--quick", 'f', &o.quick, 0, 0 }, { "--validate", 'f', &o.validate, 0, 0 } };
    if (!lab_parse("mil", usage, argc, argv, option, (int)(sizeof option / sizeof *option))) return 2;
    if (!one_of("--experiment", o.experiment, "bags,labels,canvas,tiles") || !one_of("--rule", o.rule, "any,share,both")) return 2;
    defaults(&o);
    if (!choose(&o)) return 2;
    return (o.csv ? csv_experiment(&o) : image_experiments(&o)) ? 0 : 1;
}
