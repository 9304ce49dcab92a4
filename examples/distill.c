/* Distillation in general: a small network learns the shipped digits alone, from a larger network's logits, features or attention maps, or together
   with another small one. Few labels, so that there is something to gain.

       student        CE(z, y)
       logits         0.1 CE + 0.9 T^2 KL(teacher || student), T = 4    (Hinton, Vinyals and Dean 2015)
       features       CE + mean (fit(f) - f_teacher)^2, fit: a 1x1 convolution    (Romero et al. 2015)
       attention      CE + 10 mean (q(f) - q(f_teacher))^2            (Zagoruyko and Komodakis 2017)
       mutual         two students, each CE + KL(other || itself)       (Zhang et al. 2018)

       cc -O2 examples/distill.c -o distill -lm -pthread && ./distill

   Its results are in docs/methods.md. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "lab.h"

static const char *usage =
    "usage: distill [options]\n"
    "  --set NAME      digits (shipped; the default), mnist, fashion-mnist\n"
    "  --data DIR      where DIR/mnist and the like are (default: the environment variable DLTRAIN_DATA); packed files are fine\n"
    "  --size N        images the students see, chosen by the seed (200)\n"
    "  --teacher N     images the teacher sees; 0: all, for MNIST 10000\n"
    "  --epochs N      of the students (200)\n"
    "  --seeds N       (5)\n"
    "  --test N        images to test on; 0: all (0)\n"
    "  --threads N     0: one a CPU (0)\n"
    "  --out PREFIX    PREFIX.csv, PREFIX.svg and the teacher and the students of the first seed as safetensors (distill)\n";

enum { STUDENT, LOGITS, FEATURES, ATTENTION, MUTUAL, METHODS };
static const char *const method_names[METHODS] = { "student alone", "from logits", "from features", "from attention", "mutual, first of two" };
static const char *const method_words[METHODS] = { "student", "logits", "features", "attention", "mutual" };

typedef struct settings { const lab_set *set; const char *data, *out; int size, teacher, epochs, seeds, test, threads; } settings;
typedef struct network { const char *scope; int channels, classes; } network;

/* Images [N,C,H,W] to a map [N,2 channels,H/4,W/4]. */
static dl_tensor map_of(dl_tensor x, const network *net)
{
    static const char *const names[2][2] = { { "conv1", "bn1" }, { "conv2", "bn2" } };
    for (int i = 0; i < 2; i++) {
        x = dl_conv2d(x, names[i][0], &(dl_conv2d_desc){ .out_channels = net->channels << i, .kernel = 3, .padding = 1, .no_bias = true });
        x = dl_max_pool2d(dl_relu(dl_batch_norm(x, names[i][1], NULL)), &(dl_pool2d_desc){ .kernel = 2 });
    }
    return x;
}

/* Its map, and its logits [N,classes]. */
static dl_tensor answer(dl_tensor x, const network *net, dl_tensor *map)
{
    dl_scope_begin(x.ctx, net->scope);
    *map = map_of(x, net);
    dl_tensor z = dl_linear(dl_flatten(*map, 1), "fc", net->classes);
    dl_scope_end(x.ctx);
    return z;
}

static dl_tensor logits(dl_tensor x, const void *user)
{
    dl_tensor map;
    return answer(x, (const network *)user, &map);
}

/* The teacher answers as it does when tested, and learns nothing. */
static dl_tensor ask_teacher(dl_tensor x, const network *net, dl_tensor *map)
{
    bool training = dl_train(x.ctx, false);
    dl_tensor z = answer(x, net, map);
    dl_train(x.ctx, training);
    return z;
}

static dl_tensor loss_of(int method, const dl_batch *b, const network *net, const network *teacher)
{
    dl_tensor map, teacher_map, z = answer(b->x, net, &map);
    if (method == STUDENT) return dl_cross_entropy(z, b->y);
    if (method == MUTUAL) {
        dl_tensor other = answer(b->x, teacher, &teacher_map); /* a student, too: both learn in one step */
        dl_tensor first = dl_mutual_learning(z, other, b->y, 1);
        return dl_add(first, dl_mutual_learning(other, z, b->y, 1));
    }
    dl_tensor target = ask_teacher(b->x, teacher, &teacher_map);
    if (method == LOGITS) return dl_distill_logits(z, target, b->y, &(dl_distillation_desc){ .temperature = 4, .hard = 0.1f });
    dl_tensor hard = dl_cross_entropy(z, b->y);
    if (method == ATTENTION) return dl_add(hard, dl_mul_scalar(dl_distill_attention(map, teacher_map), 10));
    dl_tensor fit = dl_conv2d(map, "fit", &(dl_conv2d_desc){ .out_channels = dl_dim(teacher_map, 1), .kernel = 1 });
    return dl_add(hard, dl_distill_features(fit, teacher_map));
}

static void stop_on_error(dl_context *ctx)
{
    if (!dl_failed(ctx)) return;
    fprintf(stderr, "distill: %s\n", dl_error(ctx));
    exit(1);
}

/* Adam over `size` images; the test error of `net` in percent. The teacher is read from its file and stays as it is. */
static double run(const settings *s, int method, const network *net, const network *teacher, int size, int seed, int epochs, const char *load, const char *save)
{
    dl_context *ctx = dl_create(&(dl_config){ .seed = (uint64_t)seed, .threads = s->threads });
    dl_dataset *data = lab_chosen(lab_open_set(ctx, s->set, s->data, true), (size_t)size, (uint32_t)seed);
    dl_loader *train = dl_loader_create(data, &(dl_loader_desc){ .batch = 32, .shuffle = true });
    dl_loader *test = dl_loader_create(lab_chosen(lab_open_set(ctx, s->set, s->data, false), (size_t)s->test, 0), &(dl_loader_desc){ .batch = 250 });
    dl_optimizer *opt = dl_adam(ctx, &(dl_adam_desc){ .lr = 2e-3f });
    dl_set_schedule(opt, &(dl_schedule){ .kind = DL_SCHEDULE_COSINE, .lr = 2e-3f, .total = epochs * (int64_t)dl_loader_batches(train) });
    if (load) {
        dl_batch b;
        dl_tensor map;
        dl_load(ctx, load);
        if (dl_next(train, &b)) { /* creates the parameters; this batch is not learnt from */
            ask_teacher(b.x, teacher, &map);
            answer(b.x, net, &map);
            dl_end(ctx);
        }
        dl_freeze(ctx, "teacher.*", true);
        dl_loader_rewind(train, 0);
    }
    for (int epoch = 0; epoch < epochs && !dl_failed(ctx); epoch++)
        for (dl_batch b; dl_next(train, &b);) {
            dl_backward(loss_of(method, &b, net, teacher));
            dl_step(opt);
        }
    double error = lab_test_error(ctx, test, logits, net);
    char pattern[64];
    snprintf(pattern, sizeof pattern, "%s.*", net->scope);
    if (save) dl_save_matching(ctx, save, pattern);
    stop_on_error(ctx);
    dl_destroy(ctx);
    return error;
}

int main(int argc, char **argv)
{
    static lab_table t;
    const char *set = "digits";
    settings s = { .data = getenv("DLTRAIN_DATA"), .size = 200, .teacher = -1, .epochs = 200, .seeds = 5, .out = "distill" };
    const lab_option option[] = { { "--data", 's', &s.data, 0, 0 }, { "--set", 's', &set, 0, 0 }, { "--size", 'i', &s.size, 32, 1e9 }, { "--teacher", 'i', &s.teacher, 0, 1e9 },
        { "--epochs", 'i', &s.epochs, 1, 1e5 }, { "--seeds", 'i', &s.seeds, 1, LAB_SEEDS }, { "--test", 'i', &s.test, 0, 1e9 }, { "--threads", 'i', &s.threads, 0, 64 },
        { "--out", 's', &s.out, 0, 0 } };
    if (!lab_parse("distill", usage, argc, argv, option, (int)(sizeof option / sizeof *option))) return 2;
    if (s.teacher < 0) s.teacher = strcmp(set, "digits") ? 10000 : 0;
    s.set = lab_find_set("distill", set, s.data);
    if (!s.set) return 2;

    char file[1024], save[1024];
    network teacher = { "teacher", 32, s.set->classes }, student = { "student", 4, s.set->classes }, other = { "other", 4, s.set->classes };
    snprintf(file, sizeof file, "%s-teacher.safetensors", s.out);
    int teacher_epochs = s.set->get ? 8 : 20;
    double error = run(&s, STUDENT, &teacher, NULL, s.teacher, 1000, teacher_epochs, NULL, file);
    char seen[32] = "all";
    if (s.teacher) snprintf(seen, sizeof seen, "%d", s.teacher);
    printf("%s: the teacher, 32 channels, %d epochs on %s images: error %.2f %%. Students: 4 channels, %d images, %d epochs\n", s.set->name, teacher_epochs,
        seen, error, s.size, s.epochs);
    t.seeds = s.seeds;
    t.rows = METHODS;
    for (int m = 0; m < METHODS; m++) {
        double start = lab_seconds();
        snprintf(t.row[m].group, sizeof t.row[m].group, "%s-%d", s.set->name, s.size);
        snprintf(t.row[m].method, sizeof t.row[m].method, "%s", method_names[m]);
        snprintf(save, sizeof save, "%s-%s.safetensors", s.out, method_words[m]);
        bool taught = m == LOGITS || m == FEATURES || m == ATTENTION;
        for (int i = 0; i < s.seeds; i++)
            t.row[m].error[i] = run(&s, m, &student, taught ? &teacher : &other, s.size, 1 + i, s.epochs, taught ? file : NULL, i ? NULL : save);
        t.row[m].seconds = lab_seconds() - start;
    }
    return lab_finish_table(&t, s.out, "Distillation") ? 0 : 1;
}
