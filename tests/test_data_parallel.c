/* DataParallel's form: chunks over replicas, the loss on each or on the gathered output. tests: tsan */
#include "../dltrain.h"
#include "test.h"
#include <pthread.h>
#include <time.h>

enum { SAMPLES = 10, FEATURES = 6, CLASSES = 4, MOST = 2000, WHOLE = 0, GATHERED = 1, EACH = 2, ELSEWHERE = 3 };

static float *samples(void)
{
    static float x[SAMPLES * FEATURES];
    for (int i = 0; i < SAMPLES * FEATURES; i++) x[i] = (float)((i * 7919 + i * i * 31) % 1000) / 500 - 1;
    return x;
}

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static int sizes[8], n_sizes;
static dl_tensor seen(dl_tensor x) /* notes the size of the chunk */
{
    pthread_mutex_lock(&guard);
    if (n_sizes < 8) sizes[n_sizes++] = (int)dl_dim(x, 0);
    pthread_mutex_unlock(&guard);
    return x;
}

static dl_tensor net(dl_tensor x)
{
    x = dl_tanh(dl_linear(seen(x), "fc1", 7));
    dl_scope_begin(x.ctx, "head");
    x = dl_linear(x, "fc2", CLASSES);
    dl_scope_end(x.ctx);
    dl_param_desc shift = { .shape = DL_SHAPE(CLASSES), .init = DL_INIT_NORMAL, .value = 0.1f };
    return dl_add(x, dl_parameter(x.ctx, "shift", &shift));
}
static dl_tensor norm_net(dl_tensor x) { return net(dl_batch_norm(x, "bn", NULL)); }
static dl_tensor dropped(dl_tensor x) { return dl_dropout(x, 0.5f); }
static dl_tensor bad_net(dl_tensor x) { return dl_dim(x, 0) == 2 ? dl_matmul(x, x) : net(x); }
static dl_tensor squares(dl_tensor y, dl_tensor target) { return dl_mse(y, dl_detach(dl_one_hot(target, CLASSES)), DL_MEAN); }

typedef struct result { float values[MOST], grads[MOST], outputs[SAMPLES * CLASSES]; int n; double loss; } result;

static dl_tensor targets(dl_context *ctx, int n)
{
    int32_t y[SAMPLES];
    for (int i = 0; i < n; i++) y[i] = (i * i + 3) % CLASSES;
    return dl_input(ctx, DL_I32, DL_SHAPE(n), y);
}

static int output; /* of train: which device is the context's */
static result train(const char *devices, int form, dl_tensor (*model)(dl_tensor x), dl_tensor (*loss)(dl_tensor, dl_tensor), int steps, bool scoped)
{
    static result r;
    dl_param_info p;
    memset(&r, 0, sizeof r);
    dl_context *ctx = dl_create(&(dl_config){ .seed = 3, .threads = 1 });
    dl_optimizer *opt = dl_sgd(ctx, &(dl_sgd_desc){ .lr = 0.1f, .momentum = 0.9f });
    dl_context *elsewhere = form == ELSEWHERE ? dl_create(&(dl_config){ .seed = 4, .threads = 1 }) : NULL;
    dl_data_parallel *dp = dl_data_parallel_create(
        ctx, &(dl_data_parallel_desc){ .devices = devices, .output = output, .outputs = elsewhere, .model = model, .loss = loss });
    for (int i = 0; i < steps; i++) {
        dl_tensor x = dl_input(ctx, DL_F32, DL_SHAPE(SAMPLES, FEATURES), samples()), y = targets(ctx, SAMPLES), l;
        if (form == EACH) dl_data_parallel_backward(dp, x, y, &r.loss);
        else if (form == ELSEWHERE) {
            dl_tensor out = dl_keep(dl_data_parallel_forward(dp, x));
            y = targets(elsewhere, SAMPLES);
            l = dl_keep(loss ? loss(out, y) : dl_cross_entropy(out, y));
            r.loss = dl_item(l);
            dl_read(out, r.outputs, SAMPLES * CLASSES);
            dl_data_parallel_backward_from(dp, l);
        }
        else {
            if (scoped) dl_scope_begin(ctx, "net");
            dl_tensor out = dl_keep(form == WHOLE ? model(x) : dl_data_parallel_forward(dp, x));
            if (scoped) dl_scope_end(ctx);
            l = loss ? loss(out, y) : dl_cross_entropy(out, y);
            dl_backward(l);
            r.loss = dl_item(l);
            dl_read(out, r.outputs, SAMPLES * CLASSES);
        }
        for (int k = r.n = 0; k < dl_param_count(ctx) && dl_param_get(ctx, k, &p); k++)
            for (size_t e = 0; e < p.numel; e++) r.grads[r.n++] = p.buffer ? 0 : p.grad[e];
        dl_step(opt);
    }
    for (int k = r.n = 0; k < dl_param_count(ctx) && dl_param_get(ctx, k, &p); k++)
        for (size_t e = 0; e < p.numel; e++) r.values[r.n++] = p.value[e];
    CHECK(!dl_failed(ctx), "%s: %s", devices, dl_error(ctx));
    CHECK(!elsewhere || !dl_failed(elsewhere), "%s: %s", devices, dl_error(elsewhere));
    dl_destroy(ctx);
    dl_destroy(elsewhere);
    return r;
}

static double distance(const float *a, const float *b, int n)
{
    double difference = 0, norm = 0;
    for (int i = 0; i < n; i++) difference += pow((double)a[i] - (double)b[i], 2), norm += pow((double)b[i], 2);
    return sqrt(difference / norm);
}

static const char *const devices[4] = { "cpu", "cpu,cpu", "cpu,cpu:2,cpu", "cpu,cpu,cpu,cpu" };

static void trains_as_one_context(void)
{
    for (int k = 0; k < 4; k++)
        for (int form = GATHERED; form <= ELSEWHERE; form++)
            for (int with = 0; with < 2; with++) {
                result one = train("cpu", WHOLE, net, with ? squares : NULL, 50, false), many = train(devices[k], form, net, with ? squares : NULL, 50, false);
                CHECK(many.n == one.n && distance(many.values, one.values, one.n) < 1e-6, "%s, form %d: %g", devices[k], form, distance(many.values, one.values, one.n));
                CHECK(distance(many.grads, one.grads, one.n) < 1e-5, "%s, form %d: gradients", devices[k], form);
                CHECK(fabs(many.loss - one.loss) < 1e-6, "%s, form %d: loss %g, not %g", devices[k], form, many.loss, one.loss);
            }
    result one = train("cpu", WHOLE, net, NULL, 3, true), many = train("cpu,cpu", GATHERED, net, NULL, 3, true);
    CHECK(many.n == one.n && distance(many.values, one.values, one.n) < 1e-6, "in a scope");
    CHECK(distance(many.outputs, one.outputs, SAMPLES * CLASSES) < 1e-6, "outputs in order");
}

/* The context may be any of the devices; then outputs and loss are there, and the parameters. */
static void any_output_device(void)
{
    for (int k = 1; k < 4; k++)
        for (int form = GATHERED; form <= ELSEWHERE; form++) {
            result one = train("cpu", WHOLE, net, NULL, 20, false);
            for (output = 1; output <= k; output++) {
                result many = train(devices[k], form, net, NULL, 20, false);
                CHECK(many.n == one.n && distance(many.values, one.values, one.n) < 1e-6, "%s, output %d, form %d: %g", devices[k], output, form,
                    distance(many.values, one.values, one.n));
                CHECK(form == EACH || distance(many.outputs, one.outputs, SAMPLES * CLASSES) < 1e-6, "%s, output %d: outputs in order", devices[k], output);
                CHECK(fabs(many.loss - one.loss) < 1e-6, "%s, output %d, form %d: loss %g, not %g", devices[k], output, form, many.loss, one.loss);
            }
            output = 0;
        }
}

/* Batches of 1 to 5 samples on four devices: the context, on the last, often has no chunk. With .outputs it is on the first, and often
   has all. */
static void an_output_device_without_samples(void)
{
    dl_context *ctx = dl_create(&(dl_config){ .seed = 3, .threads = 1 }), *alone = dl_create(&(dl_config){ .seed = 3, .threads = 1 });
    dl_optimizer *opt = dl_sgd(ctx, &(dl_sgd_desc){ .lr = 0.1f }), *want = dl_sgd(alone, &(dl_sgd_desc){ .lr = 0.1f });
    dl_context *other = dl_create(&(dl_config){ .seed = 4, .threads = 1 });
    dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = devices[3], .output = 3, .model = net });
    dl_data_parallel *elsewhere = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = devices[3], .outputs = other, .model = net });
    dl_real a[SAMPLES * CLASSES], b[SAMPLES * CLASSES];
    dl_param_info p, q;
    for (int i = 0; i < 20; i++) {
        int n = 1 + i % 5;
        dl_tensor x = dl_input(ctx, DL_F32, DL_SHAPE(n, FEATURES), samples()), y = targets(ctx, n);
        double loss = 0;
        if (i % 3 == 1) dl_data_parallel_backward(dp, x, y, &loss);
        else if (i % 3 == 2) {
            dl_tensor l = dl_cross_entropy(dl_data_parallel_forward(elsewhere, x), targets(other, n));
            loss = dl_item(l);
            dl_data_parallel_backward_from(elsewhere, l);
        } else {
            dl_tensor l = dl_cross_entropy(dl_data_parallel_forward(dp, x), y);
            dl_backward(l);
            loss = dl_item(l);
        }
        dl_tensor l = dl_cross_entropy(net(dl_input(alone, DL_F32, DL_SHAPE(n, FEATURES), samples())), targets(alone, n));
        dl_backward(l);
        CHECK(fabs(loss - dl_item(l)) < 1e-6, "%d samples: loss %g, not %g", n, loss, dl_item(l));
        dl_step(opt), dl_step(want);
    }
    for (int i = 0; i < dl_param_count(alone) && dl_param_get(alone, i, &p); i++)
        CHECK(dl_param_find(ctx, p.name, &q) && distance(q.value, p.value, (int)p.numel) < 1e-6, "%s", p.name);
    dl_set_grad(ctx, false), dl_set_grad(alone, false);
    dl_read(dl_data_parallel_forward(dp, dl_input(ctx, DL_F32, DL_SHAPE(3, FEATURES), samples())), a, 3 * CLASSES);
    dl_read(net(dl_input(alone, DL_F32, DL_SHAPE(3, FEATURES), samples())), b, 3 * CLASSES);
    CHECK(distance(a, b, 3 * CLASSES) < 1e-6, "evaluation");
    dl_end(ctx);
    dl_read(dl_data_parallel_forward(elsewhere, dl_input(ctx, DL_F32, DL_SHAPE(3, FEATURES), samples())), a, 3 * CLASSES);
    CHECK(distance(a, b, 3 * CLASSES) < 1e-6, "evaluation with .outputs");
    CHECK(!dl_failed(ctx) && !dl_failed(alone) && !dl_failed(other), "%s%s%s", dl_error(ctx), dl_error(alone), dl_error(other));
    dl_destroy(ctx);
    dl_destroy(other);
    dl_destroy(alone);
}

/* Bytes are counted, so they are known; seconds only grow. */
static void where_the_time_goes(void)
{
    enum { PARAMETERS = 7 * FEATURES + 7 + CLASSES * 7 + CLASSES + CLASSES };
    for (int form = GATHERED; form <= ELSEWHERE; form++) {
        dl_parallel_stats s;
        dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
        dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu,cpu", .model = net });
        for (int i = 0; i < 3; i++) {
            dl_tensor x = dl_input(ctx, DL_F32, DL_SHAPE(SAMPLES, FEATURES), samples()), y = targets(ctx, SAMPLES);
            if (form == EACH) dl_data_parallel_backward(dp, x, y, NULL);
            else dl_backward(dl_cross_entropy(dl_data_parallel_forward(dp, x), y));
            dl_zero_grad(ctx);
        }
        dl_data_parallel_stats(dp, &s); /* chunks of 4, 4, 2: six samples go elsewhere */
        CHECK(s.steps == 3 && s.replicate.bytes == 3 * 2 * PARAMETERS * 4, "form %d: %d bytes replicated", form, (int)s.replicate.bytes);
        CHECK(s.scatter.bytes == 3 * 6 * (form == EACH ? FEATURES + 1 : FEATURES) * 4, "form %d: %d bytes scattered", form, (int)s.scatter.bytes);
        CHECK(s.gather.bytes == (form == EACH ? 0 : 3 * 6 * CLASSES * 4 * 2), "form %d: %d bytes gathered", form, (int)s.gather.bytes);
        CHECK(s.reduce.bytes >= 3 * 2 * PARAMETERS * 4 && s.reduce.bytes < 3 * 2 * (PARAMETERS + 5 * 16) * 4, "form %d: %d bytes reduced", form, (int)s.reduce.bytes);
        CHECK(s.forward.seconds > 0 && s.backward.seconds > 0 && s.scatter.seconds >= 0 && s.reduce.seconds >= 0, "form %d: seconds", form);
        dl_memory first = dl_data_parallel_memory(dp, 0), other = dl_data_parallel_memory(dp, 1), none = dl_data_parallel_memory(dp, 3);
        CHECK(first.work == dl_memory_used(ctx).work && other.work > 0 && other.persistent > 0 && none.work == 0, "form %d: memory", form);
        dl_destroy(ctx);
    }
    dl_parallel_stats none;
    dl_data_parallel_stats(NULL, &none);
    CHECK(none.steps == 0, "nobody");
}

static dl_tensor wider(dl_tensor x) { return dl_linear(x, "fc", dl_dim(x, 0) == 2 ? 5 : 4); }
static dl_tensor flat(dl_tensor x) { return dl_sum(net(x)); }
static void launched(dl_context *ctx, dl_comm *comm, void *user)
{
    (void)comm;
    (void)user;
    dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .model = net });
}
static void misuse_is_refused(void)
{
    char error[512];
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    CHECK(!dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .output = 2, .model = net }) && strstr(dl_error(ctx), "output is device 2 of 'cpu,cpu', where 0 to 1 are"),
        "%s", dl_error(ctx));
    dl_clear_error(ctx);
    dl_data_parallel *odd = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .model = flat });
    CHECK(!dl_ok(dl_data_parallel_forward(odd, dl_input(ctx, DL_F32, DL_SHAPE(4, FEATURES), samples()))) && strstr(dl_error(ctx), "replica 1 (cpu): dl_data_parallel: the model must give DL_F32 [N,...]"),
        "%s", dl_error(ctx));
    dl_destroy(ctx);
    ctx = dl_create(&(dl_config){ .threads = 1 });
    odd = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .model = wider });
    CHECK(!dl_ok(dl_data_parallel_forward(odd, dl_input(ctx, DL_F32, DL_SHAPE(5, FEATURES), samples()))) && strstr(dl_error(ctx), "fc.weight"), "%s", dl_error(ctx));
    dl_destroy(ctx);
    ctx = dl_create(&(dl_config){ .threads = 1 });
    dl_context *other = dl_create(&(dl_config){ .threads = 1 });
    CHECK(!dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .outputs = ctx, .model = net }) && strstr(dl_error(ctx), "another context than ctx"), "%s", dl_error(ctx));
    dl_clear_error(ctx);
    dl_data_parallel *plain = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .model = net });
    CHECK(!dl_data_parallel_backward_from(plain, dl_full(ctx, DL_SCALAR, 1)) && strstr(dl_error(ctx), "where dl_backward does it"), "%s", dl_error(ctx));
    dl_clear_error(ctx);
    dl_data_parallel *there = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .outputs = other, .model = net });
    CHECK(!dl_data_parallel_backward_from(there, dl_full(other, DL_SCALAR, 1)) && strstr(dl_error(ctx), "dl_data_parallel_forward comes first"), "%s", dl_error(ctx));
    dl_clear_error(ctx);
    dl_tensor y = dl_data_parallel_forward(there, dl_input(ctx, DL_F32, DL_SHAPE(5, FEATURES), samples()));
    CHECK(!dl_data_parallel_backward_from(there, y) && strstr(dl_error(ctx), "takes a tensor of one element"), "%s", dl_error(ctx));
    dl_clear_error(ctx);
    dl_clear_error(other);
    dl_data_parallel_forward(there, dl_input(ctx, DL_F32, DL_SHAPE(5, FEATURES), samples()));
    CHECK(!dl_data_parallel_backward_from(there, dl_sum(dl_input(ctx, DL_F32, DL_SHAPE(2), samples()))) && strstr(dl_error(ctx), "another context than .outputs"), "%s", dl_error(ctx));
    dl_destroy(ctx);
    dl_destroy(other);
    CHECK(!dl_launch(&(dl_launch_desc){ .replicas = 2, .error = error, .error_size = sizeof error }, launched, NULL) && strstr(error, "this is a replica of dl_launch"), "%s", error);
}

static void chunks_are_pytorchs(void)
{
    static const struct { int n, devices, sizes[6]; } cases[] = { { 5, 4, { 2, 2, 1 } }, { 10, 4, { 3, 3, 3, 1 } }, { 9, 8, { 2, 2, 2, 2, 1 } }, { 1, 3, { 1 } } };
    for (int k = 0; k < 4; k++) {
        char list[64] = "cpu";
        for (int i = 1; i < cases[k].devices; i++) strcat(list, ",cpu");
        dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
        dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = list, .model = net });
        n_sizes = 0;
        dl_data_parallel_backward(dp, dl_input(ctx, DL_F32, DL_SHAPE(cases[k].n, FEATURES), samples()), targets(ctx, cases[k].n), NULL);
        int total = 0, most = 0, chunks = 0;
        while (chunks < 6 && cases[k].sizes[chunks]) chunks++;
        for (int i = 0; i < n_sizes; i++) total += sizes[i], most = sizes[i] > most ? sizes[i] : most;
        CHECK(n_sizes == chunks && total == cases[k].n && most == cases[k].sizes[0], "%d over %d: %d chunks", cases[k].n, cases[k].devices, n_sizes);
        CHECK(!dl_failed(ctx), "%s", dl_error(ctx));
        dl_destroy(ctx);
    }
}

/* Running statistics come from the first chunk, as those of replica 0 of PyTorch do. */
static void statistics_of_the_first_chunk(void)
{
    dl_param_info p;
    for (int form = GATHERED; form <= ELSEWHERE; form++) {
        dl_context *ctx = dl_create(&(dl_config){ .threads = 1 }), *alone = dl_create(&(dl_config){ .threads = 1 });
        dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .model = norm_net });
        dl_tensor x = dl_input(ctx, DL_F32, DL_SHAPE(SAMPLES, FEATURES), samples()), y = targets(ctx, SAMPLES);
        if (form == EACH) dl_data_parallel_backward(dp, x, y, NULL);
        else dl_backward(dl_cross_entropy(dl_data_parallel_forward(dp, x), y));
        dl_end((norm_net(dl_input(alone, DL_F32, DL_SHAPE(SAMPLES / 2, FEATURES), samples())), alone));
        dl_real want[FEATURES];
        dl_param_find(alone, "bn.running_mean", &p);
        memcpy(want, p.value, sizeof want);
        CHECK(dl_param_find(ctx, "bn.running_mean", &p) && !memcmp(want, p.value, sizeof want), "form %d", form);
        CHECK(!dl_failed(ctx), "%s", dl_error(ctx));
        /* in evaluation they are used everywhere */
        dl_train(ctx, false), dl_train(alone, false);
        dl_set_grad(ctx, false), dl_set_grad(alone, false);
        dl_real a[SAMPLES * CLASSES], b[SAMPLES * CLASSES];
        dl_param_info from;
        for (int i = 0; i < dl_param_count(ctx) && dl_param_get(ctx, i, &from); i++) dl_param_set(alone, from.name, from.value, from.numel);
        dl_read(dl_data_parallel_forward(dp, dl_input(ctx, DL_F32, DL_SHAPE(SAMPLES, FEATURES), samples())), a, SAMPLES * CLASSES);
        dl_read(norm_net(dl_input(alone, DL_F32, DL_SHAPE(SAMPLES, FEATURES), samples())), b, SAMPLES * CLASSES);
        CHECK(!memcmp(a, b, sizeof a), "evaluation, form %d", form);
        CHECK(!dl_failed(ctx) && !dl_failed(alone), "%s%s", dl_error(ctx), dl_error(alone));
        dl_destroy(ctx);
        dl_destroy(alone);
    }
}

static void chunks_have_random_numbers_of_their_own(void)
{
    dl_real ones[64], y[64];
    for (int i = 0; i < 64; i++) ones[i] = 1;
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .model = dropped });
    dl_set_grad(ctx, false);
    dl_read(dl_data_parallel_forward(dp, dl_input(ctx, DL_F32, DL_SHAPE(2, 32), ones)), y, 64);
    CHECK(memcmp(y, y + 32, 32 * sizeof *y), "both chunks have one mask");
    CHECK(!dl_failed(ctx), "%s", dl_error(ctx));
    dl_destroy(ctx);
}

static void accumulates(void)
{
    result want = train("cpu,cpu", EACH, net, NULL, 1, false);
    dl_param_info p;
    dl_context *ctx = dl_create(&(dl_config){ .seed = 3, .threads = 1 });
    dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .model = net });
    for (int i = 0; i < 3; i++) {
        dl_tensor x = dl_input(ctx, DL_F32, DL_SHAPE(SAMPLES, FEATURES), samples()), y = targets(ctx, SAMPLES);
        if (i == 1) dl_backward(dl_cross_entropy(dl_data_parallel_forward(dp, x), y));
        else dl_data_parallel_backward(dp, x, y, NULL);
    }
    float sum[MOST];
    int n = 0;
    for (int k = 0; k < dl_param_count(ctx) && dl_param_get(ctx, k, &p); k++)
        for (size_t e = 0; e < p.numel; e++) sum[n++] = p.grad[e] / 3;
    CHECK(n == want.n && distance(sum, want.grads, n) < 1e-6, "%g", distance(sum, want.grads, n));
    dl_destroy(ctx);
}

static void errors_name_the_replica(void)
{
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu,cpu:2", .model = bad_net });
    CHECK(!dl_data_parallel_backward(dp, dl_input(ctx, DL_F32, DL_SHAPE(8, FEATURES), samples()), targets(ctx, 8), NULL), "it went well");
    CHECK(strstr(dl_error(ctx), "replica 2 (cpu): dl_matmul: inner dimensions differ"), "%s", dl_error(ctx));
    dl_clear_error(ctx); /* and it goes on */
    dl_backward(dl_cross_entropy(dl_data_parallel_forward(dp, dl_input(ctx, DL_F32, DL_SHAPE(9, FEATURES), samples())), targets(ctx, 9)));
    CHECK(!dl_failed(ctx), "%s", dl_error(ctx));
    dl_tensor x = dl_variable(ctx, DL_SHAPE(4, FEATURES), samples());
    CHECK(!dl_ok(dl_data_parallel_forward(dp, x)) && strstr(dl_error(ctx), "dl_detach"), "%s", dl_error(ctx));
    dl_clear_error(ctx);
    CHECK(!dl_data_parallel_backward(dp, dl_input(ctx, DL_F32, DL_SHAPE(4, FEATURES), samples()), targets(ctx, 3), NULL) && strstr(dl_error(ctx), "4 samples and 3 targets"), "%s",
        dl_error(ctx));
    dl_clear_error(ctx);
    CHECK(!dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,tpu", .model = net }) && strstr(dl_error(ctx), "replica 1 (tpu)"), "%s", dl_error(ctx));
    dl_destroy(ctx);
}

/* An operation that notes who runs it, and on a replica takes its time: does it still read the batch when the step is `over`? */
static int runs, over, late;
static dl_context *owner;
static void watch(const dl_run_args *r)
{
    struct timespec tenth_of_a_millisecond = { 0, 100000 };
    memcpy(r->out, r->in[0], r->node->numel * sizeof(float));
    __atomic_add_fetch(&runs, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; r->ctx != owner && i < 500; i++) {
        if (__atomic_load_n(&over, __ATOMIC_SEQ_CST)) {
            __atomic_add_fetch(&late, 1, __ATOMIC_SEQ_CST);
            break;
        }
        nanosleep(&tenth_of_a_millisecond, NULL);
    }
}
static void watch_grad(const dl_grad_args *g) { g->dx[0] = g->dy; }
static dl_tensor watched(dl_tensor x)
{
    static const dl_op op = { "watch", 0, NULL, watch, watch_grad, NULL, NULL };
    return bad_net(dl_apply(&op, 1, &x, NULL));
}

/* A step whose outputs are never asked for, as an error or dl_clear_error ends it first: by then no replica reads its batch. */
static void given_up(void)
{
    for (int how = 0; how < 3; how++) {
        dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
        dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .model = watched });
        float *x = (float *)malloc(sizeof(float) * SAMPLES * FEATURES);
        memcpy(x, samples(), sizeof(float) * SAMPLES * FEATURES);
        over = late = 0;
        owner = ctx;
        dl_tensor y = dl_data_parallel_forward(dp, dl_borrow(ctx, DL_F32, DL_SHAPE(SAMPLES, FEATURES), x));
        CHECK(dl_ok(y), "%s", dl_error(ctx));
        if (how < 2) CHECK(!dl_ok(dl_matmul(y, y)), "no error");
        if (how > 0) dl_clear_error(ctx);
        __atomic_store_n(&over, 1, __ATOMIC_SEQ_CST);
        free(x);
        dl_destroy(ctx);
        CHECK(!late, "%d replicas read the batch of a step that was over", late);
    }
}

/* A replica whose step was recorded when another's failed: it is not run afterwards, on a batch that is gone. */
static void recorded_and_never_run(void)
{
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu,cpu", .model = watched });
    float *x = (float *)malloc(sizeof(float) * 8 * FEATURES);
    memcpy(x, samples(), sizeof(float) * 8 * FEATURES);
    runs = 0;
    over = 1; /* nobody is to wait */
    dl_data_parallel_forward(dp, dl_borrow(ctx, DL_F32, DL_SHAPE(8, FEATURES), x)); /* 3, 3, 2 */
    CHECK(strstr(dl_error(ctx), "replica 2 (cpu): dl_matmul: inner dimensions differ"), "%s", dl_error(ctx));
    free(x);
    dl_clear_error(ctx);
    dl_backward(dl_cross_entropy(dl_data_parallel_forward(dp, dl_input(ctx, DL_F32, DL_SHAPE(9, FEATURES), samples())), targets(ctx, 9)));
    CHECK(!dl_failed(ctx) && runs == 3, "%d runs of three chunks: %s", runs, dl_error(ctx));
    dl_destroy(ctx);
}

/* Layers of the program's own behind the outputs: their parameters may move the others while replicas copy these. */
static void parameters_behind_the_outputs(void)
{
    for (int k = 0; k < 2; k++) {
        static float grads[2][MOST];
        dl_param_info p;
        int n = 0;
        dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
        dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = k ? "cpu,cpu,cpu" : "cpu", .model = net });
        dl_tensor y = dl_data_parallel_forward(dp, dl_input(ctx, DL_F32, DL_SHAPE(SAMPLES, FEATURES), samples()));
        struct timespec ten_milliseconds = { 0, 10000000 };
        nanosleep(&ten_milliseconds, NULL); /* for TSan, that replicas copy before, and without having met us */
        char name[] = "head0";
        for (; name[4] < '9'; name[4]++) y = dl_linear(y, name, CLASSES);
        dl_backward(dl_cross_entropy(y, targets(ctx, SAMPLES)));
        for (int i = 0; i < dl_param_count(ctx) && dl_param_get(ctx, i, &p); i++)
            for (size_t e = 0; e < p.numel; e++) grads[k][n++] = p.grad[e];
        CHECK(!dl_failed(ctx) && n > 200 && (!k || distance(grads[1], grads[0], n) < 1e-5), "%d gradients: %s", n, dl_error(ctx));
        dl_destroy(ctx);
    }
}

static dl_tensor scoped(dl_tensor x)
{
    dl_scope_begin(x.ctx, "model");
    x = net(x);
    dl_scope_end(x.ctx);
    return x;
}

/* Each call's outputs are those of its own batch; gradients flow to the last one alone. */
static void two_calls_in_a_step(void)
{
    enum { N = 4 };
    float out[2][N * CLASSES], want[2][N * CLASSES];
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .model = scoped });
    for (int with = 0; with < 2; with++) {
        dl_set_grad(ctx, with);
        dl_tensor x[2], y[2];
        for (int i = 0; i < 2; i++) x[i] = dl_input(ctx, DL_F32, DL_SHAPE(N, FEATURES), samples() + i * N * FEATURES);
        for (int i = 0; i < 2; i++) y[i] = dl_keep(dl_data_parallel_forward(dp, x[i]));
        for (int i = 0; i < 2; i++) dl_read(y[i], out[i], N * CLASSES);
        for (int i = 0; i < 2; i++) dl_read(scoped(x[i]), want[i], N * CLASSES);
        CHECK(!dl_failed(ctx) && !memcmp(out, want, sizeof out), "outputs of another batch: %s", dl_error(ctx));
        if (with) CHECK(!dl_backward(dl_sum(dl_add(y[0], y[1]))) && strstr(dl_error(ctx), "an earlier call"), "%s", dl_error(ctx));
        else dl_end(ctx);
    }
    dl_destroy(ctx);
}

int main(void)
{
    RUN(given_up);
    RUN(recorded_and_never_run);
    RUN(parameters_behind_the_outputs);
    RUN(two_calls_in_a_step);
    RUN(trains_as_one_context);
    RUN(any_output_device);
    RUN(an_output_device_without_samples);
    RUN(where_the_time_goes);
    RUN(misuse_is_refused);
    RUN(chunks_are_pytorchs);
    RUN(statistics_of_the_first_chunk);
    RUN(chunks_have_random_numbers_of_their_own);
    RUN(accumulates);
    RUN(errors_name_the_replica);
    return REPORT();
}
