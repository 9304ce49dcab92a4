/* dltrain.h: train neural networks anywhere C runs. One header, no dependencies. MIT licence, see the end of the file.

   In ONE file of your project:

       #define DLTRAIN_IMPLEMENTATION
       #include "dltrain.h"

   and everywhere else only the #include. Build with `cc -O2 file.c -lm -pthread`.

   THE IDEA
       A model is a C function from tensors to tensors. Calling an operation checks its shapes and records it on
       the tape of the context; dl_backward (or reading a value) plans what was recorded as a whole and runs it.
       What reads like PyTorch's eager code runs with its memory planned and its elementwise operations fused,
       and with the same bits on any number of threads.

       static dl_tensor net(dl_tensor x)                       // [N,784] -> [N,10]
       {
           return dl_linear(dl_relu(dl_linear(x, "fc1", 128)), "fc2", 10);
       }
       ...
       dl_tensor loss = dl_cross_entropy(net(x), y);
       dl_backward(loss);
       dl_step(opt);

   RULES WORTH KNOWING
       Handles     dl_tensor is a small value, passed by value and good until its step ends. A failed tensor is all
                   zeros; passed on, it fails quietly, so a program checks once: dl_failed(ctx), dl_error(ctx).
       Step        from the first recorded operation to dl_backward or dl_end; a later dl_next on a loader ends one too.
       Reading     mid-step reading (dl_item, dl_read, dl_data) runs what is recorded. After dl_backward, until the
                   next operation is recorded, one may read: values of at most 64 bytes, values nobody consumed,
                   and what dl_keep marked before. In a no-grad region reading recycles too what was used up before:
                   keep what is read later.
       Gradients   dl_step makes them fresh: the next dl_backward overwrites, later ones add. Parameters without one are
                   skipped.
       Names       a parameter is called scope.layer.role, in PyTorch's spelling: "net.conv1.weight". It is created at
                   its first use. From the first dl_step on (dl_seal does so earlier) an unknown name is an error.
       Errors      the first error sticks in the context with a sentence. Nothing aborts, exits or prints.
       Threads     one thread drives one context at a time; there is no global state.
       Same bits   one seed, one result: for any number of threads, SIMD width or machine, planned or eager.
                   The arithmetic that promises it is written down at >>cpu kernels. It holds for finite results and
                   IEEE 754 floats, hence the #errors.

   THE MAP
       >>api                     Declarations and their documentation, by topic
       >>platform                The compiler, the CPU, threads and exact arithmetic on single numbers
       >>arena                   The context: memory, sticky errors and random numbers
       >>tape                    Shapes, recording, lifetimes of steps, names and parameters
       >>cpu kernels             Plain pointers and sizes; read once for each SIMD level: the file includes itself
       >>elementwise operations  The kernels' rows read as recording code: derivatives are made of the same operations
       >>moving operations       Views, strided copies, indices
       >>reductions              Sums by the canonical rules, winners by index, and what is made of them
       >>products                matmul, convolution, pooling
       >>normalisation           softmax, normalisation, attention, segments
       >>losses                  Made of operations, but for the look at class indices
       >>distillation            Losses by which a network learns from another one, or from itself
       >>autodiff                Gradients are nodes, too: a walk back over the tape, by each operation's rule
       >>planner                 From a segment of the tape to memory offsets and a list of launches
       >>executor                Runs a plan on the threads; contexts, measuring and your own operations
       >>layers                  Parameters by name with PyTorch's initialisation, handed to operations
       >>optimizers              Updates, clipping, schedules and the accumulator, each a pass over the flat buffers
       >>parallel                Replicas as one world: collectives of threads and processes, reduction during backward
       >>data                    Datasets and the loader
       >>learning methods        Tasks weighted by their uncertainty, bags of instances
       >>files                   IDX, safetensors, curves. Every reader takes its file for hostile
       >>images                  Image files through stb_image, where the program has included it. Optional
       >>snapshots               All that a run needs to go on as if it had never stopped
       >>progress                A line on a terminal
       >>trainer                 Epochs, evaluation and snapshots in one call

   CONFIGURATION, by #define before the #include
       DLTRAIN_IMPLEMENTATION   compile the implementation here
       DLTRAIN_STATIC           make every function static: for a library that embeds its own copy
       DLTRAIN_NO_THREADS       no pthreads: one thread does all
       DLTRAIN_NO_FILES         no files: no IDX, no safetensors, no curves
       DLTRAIN_NO_STDIO         no <stdio.h> at all: implies DLTRAIN_NO_FILES, and no progress line
       DLTRAIN_NO_MALLOC        no malloc: a context must be given its memory
       DLTRAIN_NO_SIMD          portable kernels only
       DLTRAIN_CUDA             dltrain_cuda.h is linked: needed where the linker cannot tell (DLTRAIN_STATIC, no ELF)
       DLTRAIN_NO_EXACT_FMA     where the CPU has no fused multiply-add, round twice: faster, other bits than elsewhere
       DLTRAIN_JPEG             the stb_image.h included before is 2.30 or newer: dl_open_images reads JPEG, too
       DLTRAIN_REAL             float (default) or double; double takes libm's functions and is for checking gradients
       DLTRAIN_MAX_DIMS         dimensions of a tensor (8)
       DLTRAIN_NAME_MAX         bytes of a full parameter name, its 0 included (128)
       DLTRAIN_ERROR_MAX        bytes of an error sentence (512)
       DLTRAIN_PLANS            plans kept in the cache (8)
       DLTRAIN_TILE             elements of a tile of a fused group (1024)
       DLTRAIN_ALIGN            alignment of arena blocks in bytes (64)
       DLTRAIN_MAX_INPUTS       inputs of one operation: tensors of one dl_concat (128, at most 255, at least 8)

   ENVIRONMENT, read by dl_create, unless built with DLTRAIN_NO_STDIO
       DLTRAIN_SIMD             as dl_config.simd: portable, avx2, avx512 or neon, less than this CPU can. Same bits */

/* ==== >>api ====
   Declarations and their documentation, by topic.
   may use: nothing */
#ifndef DLTRAIN_H
#define DLTRAIN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef DLTRAIN_REAL
#define DLTRAIN_REAL float
#endif
#ifndef DLTRAIN_MAX_DIMS
#define DLTRAIN_MAX_DIMS 8
#endif
#ifndef DLTRAIN_NAME_MAX
#define DLTRAIN_NAME_MAX 128
#endif
#if defined(DLTRAIN_NO_STDIO) && !defined(DLTRAIN_NO_FILES)
#define DLTRAIN_NO_FILES
#endif
#ifdef DLTRAIN_STATIC
#if defined(__GNUC__)
#define DL_API __attribute__((unused)) static
#else
#define DL_API static
#endif
#else
#define DL_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- types ---- */
typedef DLTRAIN_REAL dl_real;   /* what DL_F32 tensors hold: float, unless DLTRAIN_REAL says double */
typedef ptrdiff_t dl_index;     /* sizes and positions of tensors */
typedef struct dl_context dl_context;
typedef struct dl_optimizer dl_optimizer;
typedef struct dl_accumulator dl_accumulator;
typedef struct dl_dataset dl_dataset;
typedef struct dl_loader dl_loader;
typedef struct dl_history dl_history;

typedef enum dl_dtype { DL_F32, DL_I32, DL_U8 } dl_dtype;
typedef enum dl_reduction { DL_MEAN, DL_SUM, DL_NONE, DL_BATCHMEAN } dl_reduction;

/* Sizes of a tensor, outermost first, row-major: the last is contiguous. ndim 0 is a scalar. */
typedef struct dl_shape {
    int ndim;
    dl_index dim[DLTRAIN_MAX_DIMS];
} dl_shape;

/* A handle: the number of a node on the tape of a context, and the step it belongs to. All zeros: failed. */
typedef struct dl_tensor {
    dl_context *ctx;
    uint32_t node, step;
} dl_tensor;

/* DL_SHAPE(64, 784): up to eight sizes. DL_SCALAR: none. Both work in C and in C++. */
static inline dl_shape dl__make_shape(
    int n, dl_index a, dl_index b, dl_index c, dl_index d, dl_index e, dl_index f, dl_index g, dl_index h)
{
    const dl_index all[8] = { a, b, c, d, e, f, g, h };
    dl_shape s;
    s.ndim = n;
    for (int i = 0; i < DLTRAIN_MAX_DIMS; i++) s.dim[i] = i < n && i < 8 ? all[i] : 0;
    return s;
}
#define DL__COUNT_(a, b, c, d, e, f, g, h, n, ...) n
#define DL__COUNT(...) DL__COUNT_(__VA_ARGS__, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define DL__SHAPE_(n, a, b, c, d, e, f, g, h, ...) dl__make_shape(n, a, b, c, d, e, f, g, h)
#define DL__SHAPE(n, ...) DL__SHAPE_(n, __VA_ARGS__, 0, 0, 0, 0, 0, 0, 0, 0)
#define DL_SHAPE(...) DL__SHAPE(DL__COUNT(__VA_ARGS__), __VA_ARGS__)
#define DL_SCALAR dl__make_shape(0, 0, 0, 0, 0, 0, 0, 0, 0)

/* ---- context ---- */

/* Bytes of the three arenas. */
typedef struct dl_memory {
    size_t persistent; /* context, parameters, gradients, optimizer state, buffers, plans, loaders: the most so far */
    size_t tape;       /* the nodes of a step and copied inputs: the largest so far */
    size_t work;       /* the values of a step: the largest so far */
} dl_memory;

typedef struct dl_config {
    uint64_t seed;                                       /* of initial parameters, dropout, dl_rand and shuffling */
    int threads;                                         /* 0: one a CPU */
    const char *device;                                  /* NULL or "cpu"; "cuda:0" with dltrain_cuda.h */
    void *memory;                                        /* one fixed block that the context lives in; NULL: growable */
    size_t memory_size;                                  /* its bytes: the caller's, until dl_destroy. See dl_measure */
    void *(*alloc)(size_t bytes, void *user);            /* instead of malloc; NULL: malloc */
    void (*release)(void *block, void *user);            /* instead of free */
    void *alloc_user;
    /* told of errors and, at the seal, of every parameter; NULL: nobody */
    void (*log)(const char *sentence, void *user);
    void *log_user;
    /* the debugger's mode: run each operation at once, stop at the first NaN */
    bool eager;
    bool no_reuse;                                       /* give every value memory of its own */
    bool no_fusion;                                      /* run elementwise operations one by one */
    const char *simd;                                    /* "portable", "avx2", "avx512", "neon"; NULL: as the
                                                            environment variable DLTRAIN_SIMD says, or else the fastest
                                                            that the CPU runs */
    /* Matrix products and convolutions on a GPU, gradients too, as torch.set_float32_matmul_precision: NULL or
       "highest": fp32, with the CPU's bits; "tf32", "bf16": operands rounded to that, sums in fp32, on tensor cores
       (docs/cuda.md). On the CPU all is fp32 */
    const char *matmul_precision;
    const char *blas;                                    /* matrix products on a GPU: NULL or "own", or "cublas" */
} dl_config;

/* config NULL: all defaults. NULL only when there is no memory even for the context (then dl_failed and
   dl_error of NULL say so); any other trouble, such as an unknown device, is in dl_error of the context.
   Destroy NULL is allowed. */
DL_API dl_context *dl_create(const dl_config *config);
DL_API void dl_destroy(dl_context *ctx);

DL_API bool dl_failed(const dl_context *ctx);            /* has anything failed? true for NULL */
DL_API const char *dl_error(const dl_context *ctx);      /* the first error; "" when there is none */
DL_API void dl_clear_error(dl_context *ctx);             /* forgets it and ends the step */
/* Records an error unless there is one; false. %s %d %zu %td %g %c %u, %S a const dl_node *, %H a const dl_shape *. */
DL_API bool dl_fail(dl_context *ctx, const char *format, ...);
DL_API dl_memory dl_memory_used(const dl_context *ctx);

/* Runs `step` twice through the planner, without data, and says what each arena needs; a fixed block needs the sum.
   `pointer_size`: 4 or 8 bytes, of the machine that will run it (a bound from above, a few hundred bytes high); 0:
   this one, exactly. What the step reads are zeros. */
DL_API bool dl_measure(
    const dl_config *config, int pointer_size, void (*step)(dl_context *ctx, void *user), void *user, dl_memory *out);

/* for dropout and batch_norm; true at first. Returns what it was */
DL_API bool dl_train(dl_context *ctx, bool training);
DL_API bool dl_set_grad(dl_context *ctx, bool recording); /* false: a no-grad region. Returns what it was */
DL_API void dl_end(dl_context *ctx);                     /* runs what is recorded and ends the step */

/* ---- tensors ---- */
DL_API dl_tensor dl_input(dl_context *ctx, dl_dtype dtype, dl_shape shape, const void *data);  /* copies */
/* data stays put until the step has ended */
DL_API dl_tensor dl_borrow(dl_context *ctx, dl_dtype dtype, dl_shape shape, const void *data);
/* copies; dl_grad may ask for its gradient */
DL_API dl_tensor dl_variable(dl_context *ctx, dl_shape shape, const dl_real *data);
DL_API dl_tensor dl_full(dl_context *ctx, dl_shape shape, float value);
DL_API dl_tensor dl_rand(dl_context *ctx, dl_shape shape);                                     /* uniform in [0, 1) */
DL_API dl_tensor dl_randn(dl_context *ctx, dl_shape shape);                                    /* standard normal */

DL_API bool dl_ok(dl_tensor t);
DL_API dl_shape dl_shape_of(dl_tensor t);                /* of a failed tensor: ndim 0 */
DL_API int dl_ndim(dl_tensor t);
DL_API dl_index dl_dim(dl_tensor t, int dim);            /* dim may be negative: -1 is the last */
DL_API size_t dl_numel(dl_tensor t);                     /* of a failed tensor: 0 */
DL_API dl_dtype dl_dtype_of(dl_tensor t);

DL_API dl_tensor dl_keep(dl_tensor t);                   /* readable after the run; returns t */
DL_API double dl_item(dl_tensor t);                      /* of a tensor with one element; NaN after an error */
DL_API bool dl_read(dl_tensor t, void *out, size_t count); /* copies all `count` elements, in their dtype */
/* in the arena, until the next operation is recorded; NULL after an error */
DL_API const void *dl_data(dl_tensor t);

/* ---- elementwise: y has the shape of x; binary ones broadcast as NumPy and PyTorch do ---- */
DL_API dl_tensor dl_neg(dl_tensor x);
DL_API dl_tensor dl_abs(dl_tensor x);                    /* gradient 0 at 0 */
DL_API dl_tensor dl_exp(dl_tensor x);
DL_API dl_tensor dl_log(dl_tensor x);
DL_API dl_tensor dl_log1p(dl_tensor x);
DL_API dl_tensor dl_expm1(dl_tensor x);
DL_API dl_tensor dl_sqrt(dl_tensor x);
DL_API dl_tensor dl_rsqrt(dl_tensor x);                  /* 1 / sqrt(x) */
DL_API dl_tensor dl_square(dl_tensor x);
DL_API dl_tensor dl_reciprocal(dl_tensor x);
DL_API dl_tensor dl_sigmoid(dl_tensor x);                /* 1 / (1 + exp(-x)) */
DL_API dl_tensor dl_tanh(dl_tensor x);
DL_API dl_tensor dl_sin(dl_tensor x);
DL_API dl_tensor dl_cos(dl_tensor x);
DL_API dl_tensor dl_erf(dl_tensor x);
DL_API dl_tensor dl_relu(dl_tensor x);                   /* x < 0 ? 0 : x; gradient 0 at 0 */
DL_API dl_tensor dl_leaky_relu(dl_tensor x, float slope); /* x > 0 ? x : slope * x */
DL_API dl_tensor dl_elu(dl_tensor x, float alpha);       /* x > 0 ? x : alpha * expm1(x) */
DL_API dl_tensor dl_gelu(dl_tensor x);                   /* x/2 (1 + erf(x / sqrt 2)) */
DL_API dl_tensor dl_gelu_tanh(dl_tensor x);              /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
DL_API dl_tensor dl_silu(dl_tensor x);                   /* x sigmoid(x) */
DL_API dl_tensor dl_softplus(dl_tensor x);               /* log(1 + exp(x)), stable */
DL_API dl_tensor dl_clamp(dl_tensor x, float low, float high);
DL_API dl_tensor dl_add_scalar(dl_tensor x, float a);
DL_API dl_tensor dl_mul_scalar(dl_tensor x, float a);
DL_API dl_tensor dl_pow_scalar(dl_tensor x, float a);    /* x^a */
/* training: 0 with probability p, else x / (1 - p); otherwise x */
DL_API dl_tensor dl_dropout(dl_tensor x, float p);
DL_API dl_tensor dl_to_float(dl_tensor x);               /* any dtype to DL_F32 */

DL_API dl_tensor dl_add(dl_tensor a, dl_tensor b);
DL_API dl_tensor dl_sub(dl_tensor a, dl_tensor b);
DL_API dl_tensor dl_mul(dl_tensor a, dl_tensor b);
DL_API dl_tensor dl_div(dl_tensor a, dl_tensor b);
DL_API dl_tensor dl_pow(dl_tensor a, dl_tensor b);       /* a^b */
DL_API dl_tensor dl_maximum(dl_tensor a, dl_tensor b);   /* NaN wins; at a tie half the gradient each */
DL_API dl_tensor dl_minimum(dl_tensor a, dl_tensor b);
/* comparisons give DL_F32: 1 where true, 0 elsewhere; no gradient */
DL_API dl_tensor dl_eq(dl_tensor a, dl_tensor b);
DL_API dl_tensor dl_ne(dl_tensor a, dl_tensor b);
DL_API dl_tensor dl_lt(dl_tensor a, dl_tensor b);
DL_API dl_tensor dl_le(dl_tensor a, dl_tensor b);
DL_API dl_tensor dl_gt(dl_tensor a, dl_tensor b);
DL_API dl_tensor dl_ge(dl_tensor a, dl_tensor b);
DL_API dl_tensor dl_where(dl_tensor condition, dl_tensor a, dl_tensor b); /* condition != 0 ? a : b */

/* ---- reductions: over dims[0..n), negative ones counted from the end; n 0 with dims NULL: over all. keepdim
   leaves sizes of 1 ---- */
DL_API dl_tensor dl_sum(dl_tensor x);                    /* over all: a scalar */
DL_API dl_tensor dl_mean(dl_tensor x);
DL_API dl_tensor dl_sum_dims(dl_tensor x, const int *dims, int n, bool keepdim);
DL_API dl_tensor dl_mean_dims(dl_tensor x, const int *dims, int n, bool keepdim);
/* the gradient goes to the first winner */
DL_API dl_tensor dl_max_dims(dl_tensor x, const int *dims, int n, bool keepdim);
DL_API dl_tensor dl_min_dims(dl_tensor x, const int *dims, int n, bool keepdim);
/* sum (x - mean)^2 / (count - correction) */
DL_API dl_tensor dl_var_dims(dl_tensor x, const int *dims, int n, bool keepdim, float correction);
DL_API dl_tensor dl_logsumexp_dims(dl_tensor x, const int *dims, int n, bool keepdim);
/* sqrt(sum x^2); gradient 0 where it is 0 */
DL_API dl_tensor dl_norm_dims(dl_tensor x, const int *dims, int n, bool keepdim);
DL_API dl_tensor dl_argmax(dl_tensor x, int dim, bool keepdim); /* DL_I32; the first winner, NaN wins */
DL_API dl_tensor dl_argmin(dl_tensor x, int dim, bool keepdim);

/* ---- moving ---- */
DL_API dl_tensor dl_reshape(dl_tensor x, dl_shape shape); /* one size may be -1; a view */
DL_API dl_tensor dl_flatten(dl_tensor x, int start);     /* [a,b,c,d], 1 -> [a,bcd] */
DL_API dl_tensor dl_permute(dl_tensor x, const int *dims); /* y's dimension i is x's dims[i] */
DL_API dl_tensor dl_transpose(dl_tensor x, int a, int b);
/* Python's x[start:stop:step], step > 0 */
DL_API dl_tensor dl_slice(dl_tensor x, int dim, dl_index start, dl_index stop, dl_index step);
DL_API dl_tensor dl_concat(const dl_tensor *x, int n, int dim);
DL_API dl_tensor dl_stack(const dl_tensor *x, int n, int dim); /* along a new dimension */
DL_API dl_tensor dl_expand(dl_tensor x, dl_shape shape); /* broadcast to shape; -1 keeps a size */
/* before, after of the last dimension, then of the one before it... */
DL_API dl_tensor dl_pad(dl_tensor x, const dl_index *pads, int n, float value);
DL_API dl_tensor dl_index_select(dl_tensor x, int dim, dl_tensor index); /* index DL_I32 [K] */
/* y[i][j] = x[index[i][j]][j] for dim 0; index DL_I32, no larger than x elsewhere */
DL_API dl_tensor dl_gather(dl_tensor x, int dim, dl_tensor index);
DL_API dl_tensor dl_one_hot(dl_tensor x, dl_index classes); /* DL_I32 [...] -> DL_F32 [...,classes] */
DL_API dl_tensor dl_detach(dl_tensor x);                 /* the same values, no gradient */

/* ---- products and convolution ---- */
typedef struct dl_matmul_desc { bool transpose_a, transpose_b; } dl_matmul_desc;
typedef struct dl_conv2d_desc { /* the sizes of height and width; *_w overrides for the width when not 0 */
    dl_index out_channels;               /* for layers: required */
    dl_index kernel, kernel_w;           /* for layers: required */
    dl_index stride, stride_w;           /* 0: 1 */
    dl_index padding, padding_w;         /* zeros on either side */
    dl_index dilation, dilation_w;       /* 0: 1 */
    dl_index groups;                     /* 0: 1 */
    dl_index output_padding, output_padding_w; /* conv_transpose2d only */
    bool no_bias;                        /* for layers */
} dl_conv2d_desc;
typedef struct dl_pool2d_desc {
    dl_index kernel, kernel_w;           /* required */
    dl_index stride, stride_w;           /* 0: the kernel */
    dl_index padding, padding_w;         /* at most half the kernel; avg counts the zeros, max does not see them */
} dl_pool2d_desc;
typedef struct dl_attention_desc {
    dl_tensor mask;                      /* added to the scores; zero: none. Broadcasts to [...,L,S] */
    bool causal;                         /* position i sees positions 0..i */
    float scale;                         /* 0: 1 / sqrt(width) */
} dl_attention_desc;

/* [...,M,K] x [...,K,N] -> [...,M,N]; 1-D as in PyTorch */
DL_API dl_tensor dl_matmul(dl_tensor a, dl_tensor b);
/* transposed operands without a copy */
DL_API dl_tensor dl_matmul_ex(dl_tensor a, dl_tensor b, const dl_matmul_desc *desc);
DL_API dl_tensor dl_affine(dl_tensor x, dl_tensor w, dl_tensor b); /* x [...,K], w [N,K], b [N] or zero: x w' + b */
/* x [N,C,H,W], w [O,C/groups,KH,KW]; transposed [C,O/groups,KH,KW] */
DL_API dl_tensor dl_conv2d_op(dl_tensor x, dl_tensor w, const dl_conv2d_desc *desc);
DL_API dl_tensor dl_conv_transpose2d_op(dl_tensor x, dl_tensor w, const dl_conv2d_desc *desc);
DL_API dl_tensor dl_max_pool2d(dl_tensor x, const dl_pool2d_desc *desc); /* x [N,C,H,W] */
DL_API dl_tensor dl_avg_pool2d(dl_tensor x, const dl_pool2d_desc *desc);
DL_API dl_tensor dl_adaptive_avg_pool2d(dl_tensor x, dl_index height, dl_index width);
/* softmax(q k' scale + mask) v; [...,L,E] [...,S,E] [...,S,V] */
DL_API dl_tensor dl_scaled_dot_product_attention(dl_tensor q, dl_tensor k, dl_tensor v, const dl_attention_desc *desc);

/* ---- normalisation, softmax, embedding ---- */
DL_API dl_tensor dl_softmax(dl_tensor x, int dim);
DL_API dl_tensor dl_log_softmax(dl_tensor x, int dim);
/* x [N,C,...]; w, b zero or [C]; mean, var zero or buffers [C] that training updates:
   running = (1 - momentum) running + momentum batch */
DL_API dl_tensor dl_batch_norm_op(
    dl_tensor x, dl_tensor w, dl_tensor b, dl_tensor mean, dl_tensor var, float momentum, float eps);
/* over the last dimensions, as many as w has (zero: one) */
DL_API dl_tensor dl_layer_norm_op(dl_tensor x, dl_tensor w, dl_tensor b, float eps);
/* x [N,C,...]; w, b [C] */
DL_API dl_tensor dl_group_norm_op(dl_tensor x, dl_index groups, dl_tensor w, dl_tensor b, float eps);
/* weight [rows,width], index DL_I32 [...] -> [...,width] */
DL_API dl_tensor dl_embedding_op(dl_tensor weight, dl_tensor index);

/* ---- segments: variable-sized groups of rows. x [R,...], offsets DL_I32 [S+1]:
   0 = offsets[0] <= ... <= offsets[S] = R ---- */
DL_API dl_tensor dl_segment_sum(dl_tensor x, dl_tensor offsets);     /* [S,...]; an empty segment gives 0 */
DL_API dl_tensor dl_segment_mean(dl_tensor x, dl_tensor offsets);    /* an empty segment gives 0 */
DL_API dl_tensor dl_segment_max(dl_tensor x, dl_tensor offsets);     /* an empty segment gives 0 */
DL_API dl_tensor dl_segment_logsumexp(dl_tensor x, dl_tensor offsets); /* an empty segment gives -inf */
DL_API dl_tensor dl_segment_softmax(dl_tensor x, dl_tensor offsets); /* [R,...]: softmax down each segment's rows */

/* ---- losses. The formulas are PyTorch's. DL_BATCHMEAN divides the sum by the first dimension ---- */
typedef struct dl_cross_entropy_desc {
    /* a mean is over the targets that are not ignored, weighted; 0 when all are ignored */
    dl_reduction reduction;
    dl_tensor weight;                    /* of the classes, [C]; zero: 1 each. No gradient with class indices */
    float label_smoothing;               /* 0 to 1 */
    bool set_ignore_index;               /* take the next field; otherwise -100 is ignored */
    int32_t ignore_index;
} dl_cross_entropy_desc;
DL_API dl_tensor dl_mse(dl_tensor y, dl_tensor target, dl_reduction reduction);
DL_API dl_tensor dl_l1(dl_tensor y, dl_tensor target, dl_reduction reduction);
DL_API dl_tensor dl_huber(dl_tensor y, dl_tensor target, float delta, dl_reduction reduction);
DL_API dl_tensor dl_bce(dl_tensor p, dl_tensor target, dl_reduction reduction); /* logarithms clamped at -100 */
DL_API dl_tensor dl_bce_with_logits(dl_tensor z, dl_tensor target, dl_reduction reduction);
/* 1/2 (log v + (y-t)^2/v), v = max(var, eps); eps 0: 1e-6 */
DL_API dl_tensor dl_gaussian_nll(dl_tensor mean, dl_tensor target, dl_tensor var, float eps, dl_reduction reduction);
/* target (log target - log_p); DL_BATCHMEAN is the mathematical one */
DL_API dl_tensor dl_kl_div(dl_tensor log_p, dl_tensor target, dl_reduction reduction);
/* log_p [N,C,...], target DL_I32 [N,...] */
DL_API dl_tensor dl_nll(dl_tensor log_p, dl_tensor target, const dl_cross_entropy_desc *desc);
/* logits [N,C,...] or [C]; target DL_I32 classes or DL_F32 probabilities */
DL_API dl_tensor dl_cross_entropy(dl_tensor logits, dl_tensor target);
DL_API dl_tensor dl_cross_entropy_ex(dl_tensor logits, dl_tensor target, const dl_cross_entropy_desc *desc);

/* ---- distillation: a network learns from another one, or from itself. Logits z [N,C]; p = softmax(z / T) with the
   temperature T, 0: 1. KL(p || q) = sum p log(p / q), its mean over the N samples. A teacher, and in dl_mutual_learning
   the other network, gets no gradient: detach nothing yourself ---- */
typedef struct dl_self_distillation_desc {
    /* the weights of the divergence in both directions and of the discrepancy; 0: left out */
    float kl, mmd;
    float temperature;                   /* of the divergence */
} dl_self_distillation_desc;
typedef struct dl_distillation_desc {
    float temperature;
    float hard;                          /* the weight of the labels, 0 to 1; that of the teacher is 1 - hard */
} dl_distillation_desc;
/* T^2 (KL(pa || pb) + KL(pb || pa)); gradient to both. T^2 keeps it at one size for any T (Hinton et al. 2015) */
DL_API dl_tensor dl_symmetric_kl(dl_tensor za, dl_tensor zb, float temperature);
/* ||mean_i a_i - mean_i b_i||^2 over rows a [N,...], b [M,...]: the maximum mean discrepancy of a linear kernel */
DL_API dl_tensor dl_linear_mmd(dl_tensor a, dl_tensor b);
/* Two distorted views a, b of the same images, through one network (Xu and Liu 2019):
   CE(za, y) + CE(zb, y) + kl (KL(pa || pb) + KL(pb || pa)) T^2 + mmd dl_linear_mmd(fa, fb).
   f: the features before the classifier, [N,D]; zeros when mmd is 0 */
DL_API dl_tensor dl_self_distillation(
    dl_tensor za, dl_tensor zb, dl_tensor fa, dl_tensor fb, dl_tensor y, const dl_self_distillation_desc *desc);
/* hard CE(z, y) + (1 - hard) T^2 KL(p_teacher || p); with hard 0 y may be zero */
DL_API dl_tensor dl_distill_logits(dl_tensor z, dl_tensor teacher, dl_tensor y, const dl_distillation_desc *desc);
/* mean (x - teacher)^2, of one shape: a layer of the caller's fits them together (Romero et al. 2015) */
DL_API dl_tensor dl_distill_features(dl_tensor x, dl_tensor teacher);
/* mean over N and places of (q(x) - q(teacher))^2; q: the mean of x^2 over the channels of [N,C,H,W], divided by its
   norm over H W. The numbers of channels may differ (Zagoruyko and Komodakis 2017) */
DL_API dl_tensor dl_distill_attention(dl_tensor x, dl_tensor teacher);
/* CE(z, y) + T^2 KL(p_other || p): the loss of one of two networks that learn together (Zhang et al. 2018) */
DL_API dl_tensor dl_mutual_learning(dl_tensor z, dl_tensor other, dl_tensor y, float temperature);

/* ---- parameters and scopes ---- */
typedef enum dl_init { DL_INIT_UNIFORM, DL_INIT_NORMAL, DL_INIT_CONSTANT } dl_init;
typedef struct dl_param_desc {
    dl_shape shape;
    dl_init init;
    float value;                         /* UNIFORM: in [-value, value); NORMAL: standard deviation; CONSTANT: itself */
    bool buffer;                         /* saved and loaded, not trained */
} dl_param_desc;
typedef struct dl_param_info {
    const char *name;                    /* the context's */
    dl_shape shape;
    size_t numel;
    /* in the flat buffer; both NULL before the first run, and moved when the layout grows. On a device: a copy on the
       host, good until the next operation, where what is written counts, too */
    dl_real *value;
    dl_real *grad;                       /* NULL for a buffer */
    bool buffer, frozen, has_grad;
} dl_param_info;
DL_API bool dl_scope_begin(dl_context *ctx, const char *name);
DL_API bool dl_scope_end(dl_context *ctx);
DL_API dl_tensor dl_parameter(dl_context *ctx, const char *name, const dl_param_desc *desc);
DL_API int dl_param_count(const dl_context *ctx);
DL_API bool dl_param_get(dl_context *ctx, int index, dl_param_info *out);
DL_API bool dl_param_find(dl_context *ctx, const char *name, dl_param_info *out);
DL_API bool dl_param_set(dl_context *ctx, const char *name, const dl_real *values, size_t count);
DL_API bool dl_freeze(dl_context *ctx, const char *pattern, bool frozen);
/* from here on an unknown name is an error; the first dl_step does it */
DL_API bool dl_seal(dl_context *ctx);
/* '*' any run, '?' any character, '|' between alternatives */
DL_API bool dl_glob(const char *pattern, const char *name);

/* ---- layers: create their parameters at the first call, initialised as in PyTorch ---- */
typedef struct dl_linear_desc { dl_index out_features; bool no_bias; } dl_linear_desc;
typedef struct dl_norm_desc {
    float eps;                           /* 0: 1e-5 */
    float momentum;                      /* batch_norm; 0: 0.1 */
    bool no_affine;                      /* no weight and bias */
    bool sync;                           /* batch_norm: statistics over the samples of all ranks, see dl_launch;
                                            not of shards */
} dl_norm_desc;
typedef struct dl_mha_desc {
    dl_index heads;                      /* required; divides the width of q */
    bool causal, no_bias;
    dl_tensor mask;                      /* added to the scores [N,heads,L,S]; zero: none */
} dl_mha_desc;
DL_API dl_tensor dl_linear(dl_tensor x, const char *name, dl_index out_features); /* .weight [out,in], .bias [out] */
DL_API dl_tensor dl_linear_ex(dl_tensor x, const char *name, const dl_linear_desc *desc);
/* .weight [O,C/groups,KH,KW], .bias [O] */
DL_API dl_tensor dl_conv2d(dl_tensor x, const char *name, const dl_conv2d_desc *desc);
/* .weight [C,O/groups,KH,KW], .bias [O] */
DL_API dl_tensor dl_conv_transpose2d(dl_tensor x, const char *name, const dl_conv2d_desc *desc);
/* .weight .bias .running_mean .running_var [C] */
DL_API dl_tensor dl_batch_norm(dl_tensor x, const char *name, const dl_norm_desc *desc);
/* over the last dimension; .weight .bias */
DL_API dl_tensor dl_layer_norm(dl_tensor x, const char *name, const dl_norm_desc *desc);
/* .weight .bias [C] */
DL_API dl_tensor dl_group_norm(dl_tensor x, const char *name, dl_index groups, const dl_norm_desc *desc);
/* .weight [rows,width] */
DL_API dl_tensor dl_embedding(dl_tensor index, const char *name, dl_index rows, dl_index width);
/* q [N,L,E], k v [N,S,E]; .in_proj_weight [3E,E], .in_proj_bias, .out_proj.weight, .out_proj.bias */
DL_API dl_tensor dl_multi_head_attention(
    dl_tensor q, dl_tensor k, dl_tensor v, const char *name, const dl_mha_desc *desc);

/* ---- gradients ---- */
typedef struct dl_backward_desc {
    const char *pattern;                 /* only parameters whose names match; NULL: all */
    bool retain;                         /* the step goes on */
    float scale;                         /* of the gradient; 0: 1 */
    /* in a world: the loss is a mean over so many samples, and counts so much among the ranks; 0: all count alike. See
       dl_launch */
    size_t count;
} dl_backward_desc;
/* loss: one element. Runs the step, adds to the gradients, ends the step */
DL_API bool dl_backward(dl_tensor loss);
DL_API bool dl_backward_ex(dl_tensor loss, const dl_backward_desc *desc);
/* dx[i] = dy/dx[i], recorded: may be differentiated again. y: one element */
DL_API bool dl_grad(dl_tensor y, const dl_tensor *x, int n, dl_tensor *dx);

/* ---- optimizers. The formulas are PyTorch's; zero means PyTorch's default but for SGD's lr, which is required ---- */
typedef struct dl_sgd_desc { dl_real lr, momentum, dampening, weight_decay; bool nesterov; } dl_sgd_desc;
/* 1e-3, 0.9, 0.999, 1e-8, 0 (adamw: 1e-2; negative: none) */
typedef struct dl_adam_desc { dl_real lr, beta1, beta2, eps, weight_decay; } dl_adam_desc;
/* 1e-2, 0.99, 1e-8, 0, 0 */
typedef struct dl_rmsprop_desc { dl_real lr, alpha, eps, weight_decay, momentum; bool centered; } dl_rmsprop_desc;
typedef struct dl_group_desc {
    dl_real lr_scale;                    /* times the optimizer's learning rate; 0: 1 */
    bool no_weight_decay;
    bool set_weight_decay;               /* take the next field */
    dl_real weight_decay;
} dl_group_desc;
DL_API dl_optimizer *dl_sgd(dl_context *ctx, const dl_sgd_desc *desc);
DL_API dl_optimizer *dl_adam(dl_context *ctx, const dl_adam_desc *desc);
DL_API dl_optimizer *dl_adamw(dl_context *ctx, const dl_adam_desc *desc);
DL_API dl_optimizer *dl_rmsprop(dl_context *ctx, const dl_rmsprop_desc *desc);
/* Parameters whose names match get these settings; of several groups the first. Example: "*.bias|*norm*", no decay. */
DL_API bool dl_optimizer_group(dl_optimizer *opt, const char *pattern, const dl_group_desc *desc);
DL_API bool dl_optimizer_select(dl_optimizer *opt, const char *pattern); /* this optimizer trains only these */
/* updates every parameter that has a gradient; the gradients are fresh afterwards */
DL_API bool dl_step(dl_optimizer *opt);
DL_API bool dl_zero_grad(dl_context *ctx);               /* forgets all gradients */
/* Gradients times max_norm / (norm + 1e-6) where that is less than 1: of those whose names match (NULL: of all)
   and their norm */
DL_API bool dl_clip_grad_norm(dl_context *ctx, double max_norm, const char *pattern);
/* what the last dl_clip_grad_norm found; NaN before one and after an error */
DL_API double dl_grad_norm(dl_context *ctx);
DL_API bool dl_clip_grad_value(dl_context *ctx, double max_value, const char *pattern);
DL_API bool dl_scale_grad(dl_context *ctx, double factor);

typedef enum dl_schedule_kind {
    DL_SCHEDULE_CONSTANT,
    DL_SCHEDULE_STEP,                    /* lr gamma^(t / period) */
    DL_SCHEDULE_MULTI_STEP,              /* lr gamma^(milestones reached) */
    DL_SCHEDULE_COSINE,                  /* min + (lr - min) (1 + cos(pi t / total)) / 2 */
    DL_SCHEDULE_ONE_CYCLE                /* up from lr/div to lr over `up` of total, down to lr/div/final_div; cosine */
} dl_schedule_kind;
typedef struct dl_schedule {
    dl_schedule_kind kind;
    dl_real lr, min_lr;
    dl_real gamma;                       /* 0: 0.1 */
    /* first rise linearly from lr/warmup to lr over that many steps; then the schedule, from t = 0 */
    int64_t warmup;
    int64_t total;                       /* steps, warm-up not counted */
    int64_t period;
    const int64_t *milestones;           /* rising; the caller's, for as long as the schedule is used */
    int n_milestones;
    dl_real up, div, final_div;          /* one-cycle: 0: 0.3, 25, 1e4 */
} dl_schedule;
DL_API double dl_schedule_lr(const dl_schedule *schedule, int64_t step); /* of step 0, 1, ... */
/* dl_step follows it, from its next step on as step 0 */
DL_API bool dl_set_schedule(dl_optimizer *opt, const dl_schedule *schedule);
DL_API void dl_set_lr(dl_optimizer *opt, double lr);     /* and forgets a schedule */
DL_API double dl_get_lr(const dl_optimizer *opt);        /* of the next step */

/* ---- gradient accumulation: exact by default. g = sum over the window of count_m grad(loss_m) / sum of count_m, for
   losses that are means over count_m samples: the gradient of one batch of all of them, whatever their sizes. BatchNorm
   still sees each micro-batch alone: its statistics, and so its gradients, are those of the micro-batches ---- */
/* DL_DIVIDE: the sum of loss / steps, as in most training loops */
typedef enum dl_accumulation { DL_EXACT, DL_DIVIDE } dl_accumulation;
typedef struct dl_accumulator_desc {
    int steps;                           /* micro-batches of a window; 0: 1 */
    dl_accumulation mode;
    float clip_norm;                     /* clip_grad_norm before each step; 0: none */
} dl_accumulator_desc;
DL_API dl_accumulator *dl_accumulator_create(dl_optimizer *opt, const dl_accumulator_desc *desc);
/* dl_backward, and dl_step when the window is full. count 0: nothing of this loss is counted, and it may be no tensor
   at all. In a world (dl_launch) it is exact over all ranks, whatever the count of each */
DL_API bool dl_accumulate(dl_accumulator *acc, dl_tensor loss, size_t count);
DL_API bool dl_accumulator_stepped(const dl_accumulator *acc); /* did the last call step? */
/* steps a partial window with its true count (DL_DIVIDE: as is). In a world: this rank's data has ended; see dl_join */
DL_API bool dl_accumulator_flush(dl_accumulator *acc);

/* ---- replicas: data-parallel training. A replica is a context on a device, driven by a thread of its own.
   Those of a program, in one process or in several, are one world, and each has a rank in it. A program is written as
   for one device, with its own part of the data: dl_backward leaves the gradient of all ranks in each. Parameters and
   buffers are those of rank 0, from the first run on ---- */
typedef struct dl_comm dl_comm;
typedef enum dl_comm_op { DL_COMM_SUM, DL_COMM_MAX } dl_comm_op;
/* From one process to the others: what dltrain_mpi.h fills in. Each call waits for the other processes, `seconds` at
   most (0: for ever), and returns NULL, or a sentence that is good until the next call. There are two channels: calls
   on one are made one after the other, in the same order in all processes; those on the other come from another thread,
   at the same time, and must not wait for the first's. */
typedef struct dl_transport {
    int rank, size;                      /* of this process */
    void *user;
    /* all[p * bytes]: mine of process p. At the deadline, missing[p] is set of those that nothing came from */
    const char *(*all_gather)(
        void *user, int channel, const void *mine, void *all, size_t bytes, double seconds, bool *missing);
    /* the sums or maxima, each then times `factor` */
    const char *(*all_reduce)(
        void *user, int channel, dl_real *data, size_t n, dl_comm_op op, dl_real factor, double seconds);
    const char *(*broadcast)(void *user, int channel, void *data, size_t bytes, int root, double seconds);
    /* sends to and receives from one other process; only for invariant_shards, NULL: there are none */
    const char *(*exchange)(
        void *user, int channel, int peer, const void *send, void *receive, size_t bytes, double seconds);
    /* a replica here has failed: ends the calls that wait, here and elsewhere, soon. From any thread; NULL: cannot */
    void (*abort)(void *user, const char *sentence);
} dl_transport;
typedef struct dl_launch_desc {
    const char *devices;                 /* one replica on each: "cuda:0,cuda:1", or "cpu,cpu:2", the second with two
                                            threads; NULL: config's, or "cpu" */
    int replicas;                        /* so many on the one device; 0: as the devices say */
    const dl_config *config;             /* of every replica, its memory shared out; alloc: from several threads */
    const dl_transport *transport;       /* to other processes; NULL: there are none */
    double deadline_seconds;             /* how long a collective waits for a rank; 0: 600; negative: for ever */
    size_t first_bucket, bucket;         /* bytes of gradient, or more, that are reduced together; 0: 1 MiB and 25 MB */
    bool nccl;                           /* gradients of the GPUs of this process are summed by NCCL, in its order:
                                            no longer the bits of CPUs; an error where it is missing */
    bool own_buffers;                    /* buffers are not replaced by rank 0's after each reduction */
    /* A power of two. The same bits for any number of replicas that divides it: every batch is so many shards,
       as dl_shard cuts it, and rank r of W calls dl_backward (dl_accumulate) for shard r S/W, r S/W + 1, ...
       in turn before each dl_step. Gradients are added in one binary tree over the shards; random numbers go by shard;
       batch_norm sees one shard, its buffers become the mean over shards. With dl_no_sync, or an accumulator of several
       batches, the sums of each batch are added to those of the ones before it */
    int invariant_shards;
    char *error;                         /* of error_size bytes: what failed, naming rank, step and collective;
                                            NULL: nowhere */
    size_t error_size;
} dl_launch_desc;
/* Runs fn once for each replica, on a thread each, and waits for all of them. False when one failed: the others' calls
   fail then, too, with the same sentence. It ends when each has returned. desc NULL: one replica. */
DL_API bool dl_launch(const dl_launch_desc *desc, void (*fn)(dl_context *ctx, dl_comm *comm, void *user), void *user);
/* NULL: a context alone, which is a world of one for all that follows */
DL_API dl_comm *dl_comm_of(const dl_context *ctx);
DL_API int dl_comm_rank(const dl_comm *comm);
DL_API int dl_comm_size(const dl_comm *comm);
/* Collectives: every rank calls the same ones, in the same order, with the same sizes; who does not is named
   in the error of all. False after an error. Sums are made in an order that depends on nothing but the ranks:
   two runs give the same bits. */
DL_API bool dl_all_reduce(dl_comm *comm, dl_real *data, size_t n, dl_comm_op op);
DL_API bool dl_broadcast(dl_comm *comm, void *data, size_t bytes, int root);
DL_API bool dl_all_gather(dl_comm *comm, const void *mine, void *all, size_t bytes); /* all: size * bytes, by rank */
DL_API bool dl_barrier(dl_comm *comm);
DL_API void dl_comm_abort(dl_comm *comm, const char *sentence); /* ends all ranks with it */
/* Where the time goes, and what crosses from one device to another: sums over all steps so far. The phases of
   a program's own thread follow each other; what runs beside them says so. Divide by the steps, or subtract
   an earlier reading */
typedef struct dl_phase { double seconds; uint64_t bytes; } dl_phase;
typedef struct dl_parallel_stats {
    uint64_t steps;                      /* reductions of a rank; batches of a dl_data_parallel */
    dl_phase scatter;                    /* chunks of x and target to the other devices. In a world: 0, as every
                                            rank has its own data */
    dl_phase replicate;                  /* parameters and buffers to the other devices, beside forward: the slowest
                                            one's seconds. In a world: those of rank 0, before the first run,
                                            and buffers after each reduction */
    dl_phase forward, backward;          /* until the slowest device is done; in a world: of this rank */
    dl_phase gather;                     /* outputs to the context's device, and their gradients back. In a world: 0 */
    dl_phase reduce;                     /* gradients summed: bytes of them on this rank, or of all other devices.
                                            In a world by buckets, beside backward, and waiting for the other ranks */
    dl_phase wait;                       /* in a world: from the end of this rank's backward pass until the sums are
                                            there; bytes of gradients that were summed meanwhile */
} dl_parallel_stats;
/* of this rank, between its steps; NULL: zeros */
DL_API void dl_comm_stats(const dl_comm *comm, dl_parallel_stats *out);
/* true: dl_backward adds to this rank's gradients and reduces nothing; the first one after dl_no_sync(ctx, false)
   reduces all since the last dl_step. The accumulator does so by itself. Returns what it was */
DL_API bool dl_no_sync(dl_context *ctx, bool off);
/* For a rank that has no more data while others do: takes part in their dl_backward with nothing. True:
   gradients are there, go on to dl_step as they do; false: all ranks have joined, or an error. dl_accumulator_flush
   does so by itself:
       for (bool more = true; !dl_failed(ctx); dl_step(opt))
           if ((more = more && dl_next(loader, &b))) dl_backward(loss(&b));
           else if (!dl_join(ctx)) break; */
DL_API bool dl_join(dl_context *ctx);
/* parameters and buffers of rank 0 for all, again: after a dl_load by hand */
DL_API bool dl_sync(dl_context *ctx);
/* Part `shard` of `shards` of n samples: *count of them (perhaps none) from *first. */
DL_API void dl_shard(size_t n, int shard, int shards, size_t *first, size_t *count);

/* ---- DataParallel's form: one program on one context, whose batches are cut in chunks of ceil(N / devices).
   The context, on the output device (the first, if nothing else is asked for), runs the chunk of that device;
   each other device has a replica, which gets the parameters at each call. batch_norm keeps the statistics of the
   context's chunk ---- */
typedef struct dl_data_parallel dl_data_parallel;
typedef struct dl_data_parallel_desc {
    const char *devices;                 /* "cuda:0,cuda:1", "cpu,cpu,cpu:2": for chunks in this order; NULL: ctx's */
    int output;                          /* which of them, from 0, is the context's: it has the parameters,
                                            and gets the outputs */
    dl_context *outputs;                 /* unless this one does, on any device, for losses there: the caller's,
                                            until ctx's last step */
    dl_tensor (*model)(dl_tensor x);     /* [N,...] -> [N,...]; called on several threads at once. Or, with `user`: */
    dl_tensor (*model_with)(dl_tensor x, void *user);
    void *user;
    dl_tensor (*loss)(dl_tensor y, dl_tensor target); /* a mean over the samples; NULL: dl_cross_entropy */
} dl_data_parallel_desc;
/* lives as long as ctx */
DL_API dl_data_parallel *dl_data_parallel_create(dl_context *ctx, const dl_data_parallel_desc *desc);
/* Loss and gradient on each device, then one sum, weighted by samples: adds to the gradients and ends the step, as
   dl_backward does. *loss: of the batch; NULL: not wanted */
DL_API bool dl_data_parallel_backward(dl_data_parallel *parallel, dl_tensor x, dl_tensor target, double *loss);
/* y = model(x), gathered on the context: any loss of it, and dl_backward, as ever. Of several calls in a step the last
   one alone can have gradients */
DL_API dl_tensor dl_data_parallel_forward(dl_data_parallel *parallel, dl_tensor x);
/* With .outputs instead of dl_backward: loss, of that context, is made from what the last forward call gave.
   Adds to the gradients of ctx and ends the step of both contexts; parameters of .outputs get none */
DL_API bool dl_data_parallel_backward_from(dl_data_parallel *parallel, dl_tensor loss);
/* between steps; NULL: zeros */
DL_API void dl_data_parallel_stats(const dl_data_parallel *parallel, dl_parallel_stats *out);
/* of number `device`, as dl_memory_used */
DL_API dl_memory dl_data_parallel_memory(const dl_data_parallel *parallel, int device);

/* ---- data ---- */
typedef struct dl_dataset_desc {
    size_t count;                        /* samples */
    dl_dtype x_dtype, y_dtype;
    dl_shape x_shape, y_shape;           /* of one sample */
    bool no_y;
    const void *x, *y;                   /* in memory, the caller's until dl_destroy; or */
    /* writes one sample; false: failed. With prefetch, from another thread; with .threads, from several at once */
    bool (*get)(void *user, size_t index, void *x, void *y);
    void *user;
    /* get has just failed there: the reason, asked for on the program's thread; may be NULL */
    const char *(*why)(void *user, size_t index);
} dl_dataset_desc;
/* Random distortions of images, DL_U8 [C,H,W], on their way into a batch; zero: not this one. Each is drawn anew for
   each sample, epoch and view, from the context's seed and the sample's place in the dataset alone: any number of
   threads and ranks gives the same bits. Applied in the order in which they stand; what comes from outside the image is
   black. A mirrored or shifted pixel is exact, others are bilinear. */
typedef struct dl_augment_desc {
    float flip;                          /* the probability of a mirror image, left to right */
    float rotation;                      /* by an angle in [-rotation, rotation] degrees about the centre */
    float shear;                         /* x += y tan(angle), angle in [-shear, shear] degrees */
    float scale;                         /* by a factor in [1 - scale, 1 + scale]; below 1 */
    dl_index crop;                       /* shifts by -crop..crop pixels each way: crops H x W of the image so padded */
    /* torchvision's ColorJitter, on [0,1]: factors f in [max(0, 1 - b), 1 + b]. v f; v f + (1 - f) mean grey of
       the image; v f + (1 - f) grey of the pixel, for 3 channels. Grey is .299 R + .587 G + .114 B, or the mean
       of other channels */
    float brightness, contrast, saturation;
    /* the last of ColorJitter, for 3 channels: the hue of HSV turns by a part of the circle in [-hue, hue],
       at most 1/2. The largest and the smallest of R, G and B stay as they are; a grey pixel has no hue */
    float hue;
    float noise;                         /* standard deviation of a normal, added to each value in [0,1], and clamped */
    dl_index cutout;                     /* side of a black square centred at any pixel (DeVries and Taylor 2017) */
} dl_augment_desc;
typedef struct dl_augment dl_augment;
DL_API const dl_augment *dl_augment_create(dl_context *ctx, const dl_augment_desc *desc); /* lives as long as ctx */
/* How the ranks of a world share an epoch */
typedef enum dl_split {
    /* order[rank], order[rank + world], ...: as PyTorch's DistributedSampler. The order is wrapped until all ranks have
       as many, so some samples come twice; with drop_last it is cut instead */
    DL_SPLIT_PAD,
    DL_SPLIT_ONCE,                       /* the same without wrapping: each sample once, ranks may differ by one.
                                            For evaluation */
    /* Batches of `batch` samples for all ranks together, cut as dl_shard does: a part a rank, or with shards several
       in turn. Together the ranks see the batches of one rank, each sample once. Of the last batch some parts may be
       empty: these do not come */
    DL_SPLIT_BATCH
} dl_split;
typedef struct dl_loader_desc {
    size_t batch;                        /* of each rank, DL_SPLIT_BATCH: of all; 0: 1 */
    bool shuffle;                        /* by the context's seed and the epoch */
    bool torch_order;                    /* the order of PyTorch's randperm seeded with seed + epoch */
    bool drop_last;                      /* no partial last batch */
    bool prefetch;                       /* a thread prepares the next batch */
    int rank, world;                     /* whose part of each epoch this is; world 0: the context's communicator
                                            says; 1: all of it */
    dl_split split;
    int shards;                          /* DL_SPLIT_BATCH: parts of a batch; 0: the communicator's invariant_shards,
                                            or one a rank */
    int threads;                         /* that prepare samples side by side, at most one a CPU; 0: one */
    const dl_augment *augment;           /* distorts the images; NULL: as they are */
    int views;                           /* 2: each image comes distorted twice, as x and x2; 0: 1 */
} dl_loader_desc;
typedef struct dl_batch {
    dl_tensor x, y;                      /* [count,...]; y is zero for a dataset without */
    size_t count;
    const size_t *index;                 /* of the samples; the loader's, until the next dl_next */
    dl_tensor x2;                        /* views 2: the second one, [count,...]; otherwise zero */
} dl_batch;
DL_API dl_dataset *dl_dataset_create(dl_context *ctx, const dl_dataset_desc *desc);
/* Samples index[0..n) of data, as a dataset: PyTorch's Subset. The indices are copied */
DL_API dl_dataset *dl_subset(dl_dataset *data, const size_t *index, size_t n);
DL_API size_t dl_dataset_count(const dl_dataset *data);
DL_API dl_shape dl_dataset_x_shape(const dl_dataset *data);
DL_API dl_loader *dl_loader_create(dl_dataset *data, const dl_loader_desc *desc); /* desc NULL: one by one, in order */
/* The next batch of the epoch, and the end of the step before it; false at the end of the epoch (the next call
   begins another) and after an error. Bytes come as numbers: those of x as DL_F32 scaled to [0,1], those of y
   as DL_I32 classes. */
DL_API bool dl_next(dl_loader *loader, dl_batch *batch);
DL_API size_t dl_loader_batches(const dl_loader *loader); /* in an epoch, of this rank */
DL_API size_t dl_loader_samples(const dl_loader *loader); /* in an epoch, of this rank, drop_last not counted */
DL_API bool dl_loader_rewind(dl_loader *loader, uint64_t epoch); /* the next dl_next begins that epoch */
DL_API void dl_randperm(uint32_t seed, size_t *out, size_t n); /* PyTorch's randperm of a CPU generator seeded so */

/* ---- multi-task learning: several losses through one network, each with a learnt variance of its own (Kendall, Gal
   and Cipolla, CVPR 2018). With t = log variance a task adds a exp(-t) loss + b t, and is weighted by a exp(-t) ---- */
typedef enum dl_task_kind {              /* the negative log-likelihood that the loss is, up to its variance */
    DL_TASK_SQUARED,                     /* a mean of squared errors (Gaussian): a = 1/2, b = 1/2 */
    DL_TASK_CLASSES,                     /* cross-entropy, logits over the variance: a = 1, b = 1/2, approximately */
    DL_TASK_ABSOLUTE                     /* a mean of absolute errors (Laplace, exp(t) its scale): a = 1, b = 1 */
} dl_task_kind;
typedef struct dl_task {
    const char *name;                    /* t is the parameter name.log_variance [] */
    dl_tensor loss;                      /* one element */
    dl_task_kind kind;
    float start;                         /* t starts at the optimum for a loss of this size, log(a start / b): its
                                            own before the first step, say. The same at every call. 0: t starts at 0 */
} dl_task;
/* The sum over the tasks, []; it may be negative. Were t always at its optimum, the units of the losses would not
   matter; where they differ much, state `start`, for t moves only as fast as the optimizer lets it. */
DL_API dl_tensor dl_uncertainty_loss(const dl_task *tasks, int n);

/* ---- multiple-instance learning: labels belong to bags of instances. x [R,...]: the instances of S bags, bag after
   bag; offsets [S+1] as for segments. A bag without instances is an error ---- */
typedef enum dl_mil_pooling {            /* P of a bag, from the p = sigmoid(z) of its n instances */
    DL_MIL_MAX,                          /* max p */
    DL_MIL_MEAN,                         /* sum p / n */
    DL_MIL_NOISY_OR,                     /* 1 - product (1 - p) */
    DL_MIL_ISR,                          /* v / (1 + v), v = sum p / (1 - p) (Keeler, Rumelhart and Leow 1991) */
    DL_MIL_GENERALISED_MEAN,             /* (sum p^r / n)^(1/r) */
    DL_MIL_LSE,                          /* log(sum exp(r p) / n) / r */
    DL_MIL_NOISY_AND                     /* (s(a (m - b)) - s(-a b)) / (s(a (1 - b)) - s(-a b)), s = sigmoid,
                                            m = sum p / n: are more than the share b of them positive?
                                            (Kraus, Ba and Frey 2016) */
} dl_mil_pooling;
typedef struct dl_mil_desc {
    dl_mil_pooling pooling;
    float r;                             /* 0: 5 */
    float a;                             /* 0: 10 */
    dl_tensor threshold;                 /* b, [C] or []; DL_MIL_NOISY_AND needs it, see dl_mil_threshold */
} dl_mil_desc;
/* Logits of instances z [R,C] -> of bags, log(P / (1 - P)), [S,C]: for dl_bce_with_logits. Exact to rounding however
   large |z|. Embeddings of instances are pooled by dl_segment_max, dl_segment_mean, or dl_mil_attention. */
DL_API dl_tensor dl_mil_pool(dl_tensor z, dl_tensor offsets, const dl_mil_desc *desc);
/* A learnt threshold for each class, in (0,1), at first 1/2: the sigmoid of the parameter name.threshold [classes] */
DL_API dl_tensor dl_mil_threshold(dl_context *ctx, const char *name, dl_index classes);
typedef struct dl_mil_attention_desc {
    dl_index hidden;                     /* required */
    bool gated;
} dl_mil_attention_desc;
/* h [R,D] -> sum a h [S,D], a = softmax over the bag of w tanh(V h); gated: of w (tanh(V h) * sigmoid(U h)) (Ilse,
   Tomczak and Welling 2018). .V.weight .U.weight [hidden,D], .V.bias .U.bias [hidden], .w.weight [1,hidden].
   *weights: a [R,1], unless NULL */
DL_API dl_tensor dl_mil_attention(
    dl_tensor h, dl_tensor offsets, const char *name, const dl_mil_attention_desc *desc, dl_tensor *weights);
typedef struct dl_bags {                 /* bags of any size over an array of instances; pointers are the caller's */
    dl_dtype dtype;
    dl_shape shape;                      /* of an instance */
    const void *x;                       /* the instances */
    size_t instances, count;             /* so many of them, and so many bags */
    const size_t *offset;                /* [count+1]: bag b has rows offset[b] ... offset[b+1] - 1 */
    const size_t *row;                   /* [offset[count]]: row k is instance row[k]; NULL: it is instance k */
} dl_bags;
/* The bags index[0..n), those of a dl_batch from a loader of their labels, say: *x [R,...], bytes as numbers in [0,1],
   and *offsets [n+1]. Copies */
DL_API bool dl_bags_input(
    dl_context *ctx, const dl_bags *bags, const size_t *index, size_t n, dl_tensor *x, dl_tensor *offsets);
/* A large image as a bag of patches [C,size,size], one every `stride` pixels, row by row; the last ones in a row and in
   a column are moved inwards, so that no pixel is left out */
typedef struct dl_tiling {
    dl_shape image;                      /* [C,H,W], of bytes */
    dl_index size, stride;
} dl_tiling;
/* 0: the image is smaller than a patch, or a size is not positive */
DL_API size_t dl_tile_count(const dl_tiling *tiling);
/* of patch k; false: there is none */
DL_API bool dl_tile_at(const dl_tiling *tiling, size_t k, dl_index *top, dl_index *left);
DL_API bool dl_tile_copy(const dl_tiling *tiling, size_t k, const uint8_t *image, uint8_t *patch);

#ifndef DLTRAIN_NO_FILES
/* as MNIST has them; x [1,H,W] from [N,H,W], y a class. labels NULL: none */
DL_API dl_dataset *dl_open_idx(dl_context *ctx, const char *images, const char *labels);
/* CIFAR's binary files, one after the other: x [3,32,32], y a class. classes 10: CIFAR-10, records of a label and 3072
   bytes; 100 or 20: the fine or the coarse label of CIFAR-100, records of both labels and 3072 bytes. */
DL_API dl_dataset *dl_open_cifar(dl_context *ctx, const char *const *paths, int n, int classes);
#if defined(STBI_INCLUDE_STB_IMAGE_H) && !defined(STBI_NO_STDIO)
#define DL__IMAGES
/* Image files, decoded as they are needed by the loader's threads: only for a program that includes stb_image.h before
   dltrain.h. PNG alone, since version 2.27, which Debian ships, writes out of bounds for some JPEG, PNM and GIF files;
   see DLTRAIN_JPEG. A file is looked at before it is decoded: what it begins with, its bytes and its pixels;
   a JPEG also for its end. A JPEG whose EXIF asks to be turned is not */
typedef struct dl_images_desc {
    /* A folder of folders, each a class, in the order of their names, all their files images. Or a text file, a line
       an image: its path, from the folder of the list if it does not begin with '/', then blanks, a tab or a comma,
       and the number of its class */
    const char *path;
    dl_index channels;                   /* 1 or 3, 0: 3 */
    dl_index height, width;              /* resized to it, bilinear; 0: all images must be as large as the first */
    dl_index max_side;                   /* pixels; 0: 8192 */
    /* of a file and, at four bytes a pixel, of its image; 0: 64 MiB. A thread takes some three times as much;
       a file made to swell, up to a thousand times its own bytes */
    size_t max_bytes;
    /* decode all files once on opening, and leave out those that cannot be: each goes to the log callback. Otherwise
       the first such file is an error, on opening or when it is needed */
    bool skip_bad;
    size_t *skipped;                     /* gets how many were left out; NULL: not wanted */
} dl_images_desc;
DL_API dl_dataset *dl_open_images(dl_context *ctx, const dl_images_desc *desc); /* x DL_U8 [C,H,W], y a class */
DL_API int dl_images_classes(const dl_dataset *images);  /* how many; 0: not of dl_open_images */
/* the name of its folder; NULL: there is none */
DL_API const char *dl_images_class(const dl_dataset *images, int index);
#endif
/* Checkpoints are safetensors: PyTorch opens them. Written to a temporary name, synced, renamed; the same values
   give the same bytes. */
DL_API bool dl_save(dl_context *ctx, const char *path);
DL_API bool dl_save_matching(dl_context *ctx, const char *path, const char *pattern);
DL_API bool dl_load(dl_context *ctx, const char *path);  /* names not known yet wait for their first use */
DL_API int dl_load_pending(const dl_context *ctx);       /* how many still wait */

/* Snapshots: a checkpoint that dl_load and PyTorch open too, and all else that a run needs to go on as if it had
   never stopped, bit for bit, in mid-epoch too and with another number of threads: optimizers, accumulators, loaders,
   counters of random numbers. */
typedef struct dl_snapshot_desc {
    dl_optimizer *optimizer[4];          /* the program's; the same, in the same order, for saving and loading */
    dl_accumulator *accumulator[4];
    dl_loader *loader[4];
    dl_history *history;
    double *number;                      /* what else the program counts: saved, and overwritten by dl_snapshot_load */
    size_t numbers;
    int keep;                            /* files: the newest is `path`, those before are path.1, path.2, ...; 0: 1 */
    bool any_world;                      /* load that of a world of another size, too: the run then has other batches.
                                            With the same invariant_shards it is exact, and needs no asking */
} dl_snapshot_desc;
/* Between steps, by all ranks; rank 0 alone writes. Written as checkpoints are: after a crash or on a full disk the
   last snapshot is there still. */
DL_API bool dl_snapshot_save(dl_context *ctx, const char *path, const dl_snapshot_desc *run);
/* Of the files kept the newest that is whole. All ranks call it, rank 0 alone reads. Parameters need not exist yet:
   they are created as they were. The program's optimizers and loaders must be made as those of the snapshot were. */
DL_API bool dl_snapshot_load(dl_context *ctx, const char *path, const dl_snapshot_desc *run);
/* is there a file, for rank 0? */
DL_API bool dl_snapshot_exists(dl_context *ctx, const char *path, const dl_snapshot_desc *run);

/* Curves: named series of points, written as CSV or drawn as SVG. A chart a series; those whose names agree up to a
   '/', as "loss/training" and "loss/test", share one. */
DL_API dl_history *dl_history_create(dl_context *ctx);
DL_API bool dl_history_add(dl_history *history, const char *series, double x, double y);
DL_API bool dl_history_csv(const dl_history *history, const char *path);
DL_API bool dl_history_svg(const dl_history *history, const char *path, const char *title);
#endif
#ifndef DLTRAIN_NO_FILES
/* ---- a whole training run ---- */
typedef struct dl_trainer_state {        /* what the callbacks are told */
    int epoch, epochs;                   /* done, of */
    int64_t steps;                       /* of the optimizer */
    double loss;                         /* the mean over the samples of the epoch, of all ranks */
    double metric;                       /* the mean over `test`; NaN without */
} dl_trainer_state;
typedef struct dl_trainer_desc {
    dl_loader *train;                    /* required, as are optimizer, epochs and loss */
    dl_optimizer *optimizer;
    int epochs;
    dl_tensor (*loss)(const dl_batch *batch, void *user); /* a mean over the batch */
    dl_loader *test;                     /* NULL: none. In a world: one of DL_SPLIT_ONCE */
    dl_tensor (*metric)(const dl_batch *batch, void *user); /* a mean over the batch, see dl_evaluate */
    void (*resumed)(const dl_trainer_state *state, void *user); /* if a snapshot was there; may be NULL, as the next */
    void (*epoch_done)(const dl_trainer_state *state, void *user); /* instead of the line that rank 0 prints */
    void *user;
    dl_accumulator_desc accumulate;
    dl_history *history;                 /* gets "loss" and "metric" of each epoch; in a world all ranks
                                            have one; NULL: none */
    const char *snapshot;                /* a file: written as the run goes on, and where it resumes when it
                                            is there; NULL: none */
    int64_t save_steps;                  /* so often, */
    int save_epochs;                     /* or so often; both 0: after each epoch. And always at the end */
    int keep;                            /* see dl_snapshot_desc, as the next */
    bool any_world;
    bool quiet;                          /* no progress line */
} dl_trainer_desc;
/* Trains to the end of desc->epochs, those of the snapshot counted. In a world every rank calls it. */
DL_API bool dl_trainer_run(dl_context *ctx, const dl_trainer_desc *desc);
#endif
/* The mean of metric (itself a mean over the batch) over the samples of one epoch, of all ranks, with dl_train and
   dl_set_grad off. NaN after an error */
DL_API double dl_evaluate(dl_loader *loader, dl_tensor (*metric)(const dl_batch *batch, void *user), void *user);
#ifndef DLTRAIN_NO_STDIO
typedef struct dl_progress { int terminal, width; double next; } dl_progress; /* start with zeros */
/* rewrites the line of a terminal; elsewhere shows nothing */
DL_API void dl_progress_show(dl_progress *line, const char *format, ...);
DL_API void dl_progress_done(dl_progress *line, const char *format, ...); /* the final text and a new line, anywhere */
#endif

/* ---- your own operations ---- */
typedef struct dl_op dl_op;
typedef struct dl_node { /* one recorded operation; read it, never change it */
    const dl_op *op;
    struct dl_node *const *in;           /* its inputs */
    const dl_index *i;                   /* its integer attributes */
    size_t numel;
    dl_index dim[DLTRAIN_MAX_DIMS];
    dl_real f[4];                        /* its float attributes */
    uint64_t counter;                    /* of a random operation */
    uint32_t id;
    uint8_t ndim, dtype, n_in, n_i;
    /* the planner's */
    uint8_t space, flags;
    uint32_t again;                      /* what readers in the backward pass are given instead; 0: itself */
    size_t offset;
} dl_node;
typedef struct dl_attrs {
    int n;                               /* integers, at most 255: part of the plan's key */
    const dl_index *i;
    dl_real f[4];                        /* data: may change from step to step without a new plan */
} dl_attrs;
typedef struct dl_run_args {
    dl_context *ctx;
    const dl_node *node;
    const void *const *in;               /* contiguous; of an elementwise operation the tile's part */
    void *out;                           /* may be one of in, when the operation is elementwise */
    size_t n, first;                     /* elementwise: elements of this tile, and the first one's position */
    void *scratch;
    const void *user;                    /* for fn of dl_parallel */
    bool accumulate;                     /* DL_OP_ACCUMULATES: add to out */
    int level;                           /* of the kernels: the library's own business */
    size_t lead;                         /* so, too: elements that far behind those finished are the next,
                                            or come soon; 0: unknown */
    /* DL_OP_FINISHES: when not NULL, to be called with the args at hand */
    void (*finished)(const struct dl_run_args *args, size_t first, size_t n);
    const void *group;                   /* the executor's */
} dl_run_args;
typedef struct dl_grad_args {
    const dl_node *node;
    dl_tensor y, dy;
    const dl_tensor *x;
    const bool *want;
    dl_tensor *dx;                       /* fill dx[i] where want[i]; a larger broadcast shape is summed to x[i]'s */
    const struct dl_grad_args *more;     /* the library's: node and dy of another slice of the same x, for dx[0] too */
} dl_grad_args;
enum {
    /* y[i] depends on element i of each input (after broadcasting) alone: can be fused */
    DL_OP_ELEMENTWISE = 1,
    DL_OP_ACCUMULATES = 2,               /* run obeys `accumulate` */
    /* run calls `finished` once elements first .. first + n of out are complete, each exactly once, from any thread:
       the elementwise operations that follow are then run on them, and may write over them */
    DL_OP_FINISHES = 4
};
struct dl_op {
    const char *name;                    /* unique: plans are keyed by it */
    unsigned flags;
    /* NULL: as the first input (elementwise: broadcast); false after dl_fail */
    bool (*shape)(dl_context *ctx, dl_node *const *in, int n, const dl_attrs *attrs, dl_dtype *dtype, dl_shape *out);
    void (*run)(const dl_run_args *args);
    void (*grad)(const dl_grad_args *args); /* made of the functions above; NULL: not differentiable */
    size_t (*scratch)(const dl_node *node); /* bytes for each thread; NULL: none, a must for an elementwise operation */
    const char *cuda;                    /* its CUDA kernel; NULL: none */
};
DL_API dl_tensor dl_apply(const dl_op *op, int n, const dl_tensor *in, const dl_attrs *attrs); /* op: static storage */
/* for run: fn(args, 0..parts-1), on the context's threads; not from fn itself */
DL_API void dl_parallel(const dl_run_args *args, size_t parts, void (*fn)(const dl_run_args *args, size_t part));

/* ---- devices: what a backend such as dltrain_cuda.h gives to the executor, which owns it. A program names a device
   in dl_config and needs none of this. Memory is the device's; sizes are bytes. Where one returns bool or a pointer,
   false or NULL come after dl_fail. Calls come from the thread that drives the context, and take effect in
   their order ---- */
/* see dl__device_update */
typedef struct dl_device_update { dl_real *p, *g, *s[3]; size_t n; dl_real h[10]; } dl_device_update;
#if !defined(DLTRAIN_NO_MALLOC) && !defined(DLTRAIN_NO_STDIO) && !defined(DLTRAIN_NO_THREADS)
#define DL__DEVICES 1
typedef struct dl_device_launch {        /* an operation, and elementwise ones on what it has made */
    uint64_t key;                        /* of plan and place: the same key means the same structure and sizes,
                                            but other addresses, floats and random counters */
    const dl_node *const *node;          /* in the order of execution; addresses are told by dl_device_address */
    int count;
    bool accumulate;                     /* the first node adds to its output */
} dl_device_launch;
typedef struct dl_device_part { void *device; dl_real *x; } dl_device_part; /* of a sum: memory of that device */
typedef struct dl_backend {
    const char *name;                    /* "cuda" serves "cuda:0", "cuda:1", ... */
    void *(*open)(dl_context *ctx, const char *device);
    void (*close)(void *device);
    void *(*alloc)(void *device, size_t bytes);
    void (*release)(void *device, void *memory);
    void *(*step_alloc)(void *device, size_t bytes); /* until step_reset */
    void (*step_reset)(void *device);
    bool (*upload)(void *device, void *to, const void *from, size_t bytes); /* from may change as soon as it returns */
    /* the same, beside what runs; to: of step_alloc */
    bool (*input)(void *device, void *to, const void *from, size_t bytes);
    /* waits for what was begun, for a value of step_alloc only for launches; errors of that show here, too */
    bool (*download)(void *device, void *to, const void *from, size_t bytes);
    /* n launches, in this order. The same again, of the same keys and at the same addresses, may be cheaper */
    bool (*run)(void *device, const dl_device_launch *launch, size_t n);
    /* rule: "sgd", "adam", "rmsprop", "scale" or "clamp", of n parameters */
    bool (*update)(void *device, const char *rule, const dl_device_update *update, size_t n);
    /* dl_clip_grad_norm of the gradients g of n parameters, rising addresses; writes norm, in the device's memory */
    bool (*clip)(void *device, double max_norm, double *norm, const dl_device_update *update, size_t n);
    /* Sums over contexts of one process, each called on its own thread. They run beside launches, in an order of their
       own. ready: bucket number `bucket` of the sums may be read and written once what was begun here is done. reduce:
       begins this context's share of the sum of a bucket's n numbers x of all parts, added in the order of dl__tree,
       into all of them; all have said `ready`. summed: notes what reduce has begun here; join: what is begun here next
       waits for what `other` noted. */
    /* by NCCL; for all, called by the first. A sum that takes longer is an error; 0: for ever */
    bool (*connect)(void *device, const dl_device_part *part, int parts, double seconds);
    bool (*ready)(void *device, int bucket);
    bool (*reduce)(void *device, const dl_device_part *part, int parts, int own, int bucket, size_t n);
    bool (*summed)(void *device);
    bool (*join)(void *device, const void *other);
} dl_backend;
/* what its open gave; NULL: the context is elsewhere */
DL_API void *dl_device_of(const dl_context *ctx, const dl_backend *backend);
/* Where the value of a placed node is on the context's device; NULL: nowhere, it lives in its launch alone. */
DL_API void *dl_device_address(const dl_context *ctx, const dl_node *node);
/* The same for inputs of dl_permute, dl_slice and attention, perhaps views with strides, of elements: fills stride. */
DL_API void *dl_device_strided(const dl_context *ctx, const dl_node *node, dl_index *stride);
/* false, and an error: another replica has failed, what is waited for may not come */
DL_API bool dl_device_may_wait(dl_context *ctx);
DL_API uint64_t dl_device_random_key(const dl_context *ctx); /* the Philox key of dropout, dl_rand and dl_randn */
/* "highest", "tf32" or "bf16": dl_config.matmul_precision; "own" or "cublas": dl_config.blas */
DL_API const char *dl_device_matmul_precision(const dl_context *ctx);
DL_API const char *dl_device_blas(const dl_context *ctx);
/* The error of an operation that looks by numbers, of one that is out of range; attributes: the node's. False. */
DL_API bool dl_device_out_of_range(
    dl_context *ctx, const dl_op *op, const dl_index *attributes, size_t place, int value);
/* Segments whose attribute 3 is at least this may not be empty. The place of one that is: 2^31 and its number */
enum { DL_DEVICE_BAGS = 5 };
#else
#define DL__DEVICES 0
#endif

#ifdef __cplusplus
}
#endif
#endif /* DLTRAIN_H */

#if defined(DLTRAIN_IMPLEMENTATION) && !defined(DL__LEVEL) && !defined(DLTRAIN_IMPLEMENTED)
#define DLTRAIN_IMPLEMENTED

/* ==== >>platform ====
   The compiler, the CPU, threads and exact arithmetic on single numbers.
   may use: the C library's memcpy, memset, strlen, strcmp and sqrt; pthreads */
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#if !defined(DLTRAIN_NO_MALLOC) || !defined(DLTRAIN_NO_STDIO)
#include <stdlib.h>
#endif
#ifndef DLTRAIN_NO_STDIO
#include <stdio.h>
#include <time.h>
#endif
#ifndef DLTRAIN_NO_THREADS
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/time.h>
#include <unistd.h>
#endif
/* Is dl_real float? The preprocessor can compare the pasted word. */
#define DL__IS_float 1
#define DL__IS_double 0
#define DL__PASTE_(a, b) a##b
#define DL__PASTE(a, b) DL__PASTE_(a, b)
#define DL__REAL_IS_FLOAT DL__PASTE(DL__IS_, DLTRAIN_REAL)
#if (defined(__x86_64__) || defined(__i386__)) && !defined(DLTRAIN_NO_SIMD) && DL__REAL_IS_FLOAT
#define DL__X86 1
#include <immintrin.h>
#else
#define DL__X86 0
#if defined(__SSE__)
#include <xmmintrin.h>
#endif
#endif
#if defined(__aarch64__) && !defined(DLTRAIN_NO_SIMD) && DL__REAL_IS_FLOAT
#define DL__ARM64 1
#include <arm_neon.h>
#else
#define DL__ARM64 0
#endif

#define DL__VECTORS (DL__X86 || DL__ARM64) /* a build without vector kernels is for size */

#ifdef __FAST_MATH__
#error "dltrain: -ffast-math reorders sums and drops NaN: results would differ from machine to machine. \
Leave it out; the kernels are fast without"
#endif
/* 16: where _Float16 has arithmetic of its own */
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16 && DL__REAL_IS_FLOAT
#error "dltrain: this compiler computes float in a wider type (x87?), so results would differ. \
On i386 build with -msse2 -mfpmath=sse, on s390x with -fexcess-precision=fast"
#endif

#ifndef DLTRAIN_ERROR_MAX
#define DLTRAIN_ERROR_MAX 512
#endif
#ifndef DLTRAIN_PLANS
#define DLTRAIN_PLANS 8
#endif
#ifndef DLTRAIN_TILE
#define DLTRAIN_TILE 1024
#endif
#ifndef DLTRAIN_ALIGN
#define DLTRAIN_ALIGN 64
#endif
#ifndef DLTRAIN_MAX_INPUTS
#define DLTRAIN_MAX_INPUTS 128
#endif

/* gcc fuses a * b + c unless told not to, and so does clang: no contraction, in this implementation only. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wunused-function"
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off", "no-math-errno")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#endif

/* Loops over data. Of what -O3 adds only vectors count, at a third of its time; loops to be unrolled say DL__UNROLL. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__OPTIMIZE_SIZE__)
#define DL__FAST \
    __attribute__((optimize( \
        "O2", "tree-vectorize", "vect-cost-model=dynamic", "fp-contract=off", "no-tree-loop-distribute-patterns")))
#else
#define DL__FAST
#endif
#define DL__HOT DL__FAST
#if defined(__GNUC__)
#define DL__INLINE static inline __attribute__((always_inline))
#define DL__NOINLINE __attribute__((noinline))
#define DL__RESTRICT __restrict
#else
#define DL__INLINE static inline
#define DL__NOINLINE
#define DL__RESTRICT
#endif
#if defined(__GNUC__)
#define DL__PREFETCH(p) __builtin_prefetch(p, 1)
#else
#define DL__PREFETCH(p) ((void)0)
#endif
#if defined(__clang__)
#define DL__UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__) && !defined(__OPTIMIZE_SIZE__)
#define DL__UNROLL _Pragma("GCC unroll 16")
#else
#define DL__UNROLL
#endif
#if defined(__GNUC__)
#define DL__OPAQUE(pointer) __asm__("" : "+r"(pointer)) /* a register of its own, not another one's plus a difference */
#else
#define DL__OPAQUE(pointer) ((void)0)
#endif
#define DL__COUNT_OF(array) (sizeof(array) / sizeof *(array))
#define DL__MIN(a, b) ((a) < (b) ? (a) : (b))
#define DL__MAX(a, b) ((a) > (b) ? (a) : (b))

/* Is the context on a device? */
#if DL__DEVICES
#define DL__ON(ctx) ((ctx)->backend != NULL)
#else
#define DL__ON(ctx) ((void)(ctx), false)
#endif

/* A bug in dltrain itself; not reachable from input. */
#ifndef DL_ASSERT
#define DL_ASSERT(condition) ((void)0)
#endif

static uint32_t dl__bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float dl__from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static int64_t dl__double_bits(double v)
{
    int64_t u;
    memcpy(&u, &v, sizeof u);
    return u;
}

static double dl__double_from(int64_t u)
{
    double v;
    memcpy(&v, &u, sizeof v);
    return v;
}

/* a * b + c, rounded once. Where the CPU cannot: the product of two floats is exact in double; the sum is rounded
   to odd there, which makes the second rounding, to float, the only one that shows (Boldo and Melquiond 2008).
   libm's fmaf is wrong on some targets. */
#if !DL__REAL_IS_FLOAT
DL__INLINE dl_real dl__fma(dl_real a, dl_real b, dl_real c) { return a * b + c; }
#elif defined(__FMA__) || defined(__aarch64__) || defined(__ARM_FEATURE_FMA) || defined(__powerpc64__) || \
    defined(__s390x__) || (defined(__riscv) && defined(__riscv_flen))
DL__INLINE float dl__fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#elif defined(DLTRAIN_NO_EXACT_FMA)
DL__INLINE float dl__fma(float a, float b, float c) { return a * b + c; }
#else
static DL__NOINLINE float dl__fma(float a, float b, float c)
{
    double p = (double)a * b, s = p + c, t = s - p, e = (p - (s - t)) + (c - t);
    uint64_t u;
    memcpy(&u, &s, sizeof u);
    if (e != 0 && !(u & 1) && (u >> 52 & 2047) != 2047) {
        u = (e > 0) == (s > 0) ? u + 1 : u - 1;
        memcpy(&s, &u, sizeof s);
    }
    return (float)s;
}
#endif

/* ---- device code, too: tools/embed_kernels.py puts it into dltrain_cuda.h, as far as the next such line ---- */
/* Elementary functions in double, for host scalars (schedules, bias corrections) and for pow, sin and cos: a few ulp of
   double, the same bits wherever double is IEEE, which libm does not promise. */
static double dl__ldexp_d(double x, int e) /* x 2^e, |e| < 2000 */
{
    uint64_t u;
    double f;
    for (; e > 1000; e -= 1000) x *= 1.0715086071862673e301; /* 2^1000 */
    for (; e < -1000; e += 1000) x *= 9.332636185032189e-302;
    u = (uint64_t)(e + 1023) << 52;
    memcpy(&f, &u, sizeof f);
    return x * f;
}

static double dl__exp_d(double x)
{
    if (x != x) return x;
    if (x > 710) return HUGE_VAL;
    if (x < -750) return 0;
    int n = (int)(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5));
    double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10, sum = 1, term = 1;
    for (int i = 1; i < 14; i++) sum += term *= r / i;
    return dl__ldexp_d(sum, n);
}

static double dl__log_d(double x)
{
    uint64_t u;
    int e = 0;
    if (!(x > 0)) return x == 0 ? -HUGE_VAL : x - x;
    if (x > DBL_MAX) return x;
    if (x < DBL_MIN) {
        x *= 18014398509481984.0;
        e = -54;
    }
    memcpy(&u, &x, sizeof u);
    e += (int)(u >> 52) - 1023;
    u = (u & 0xfffffffffffffu) | (uint64_t)1023 << 52;
    memcpy(&x, &u, sizeof x);
    if (x > 1.4142135623730951) {
        x /= 2;
        e++;
    }
    double s = (x - 1) / (x + 1), z = s * s, sum = 0; /* log x = 2 atanh s, |s| < 0.172 */
    for (int k = 21; k >= 3; k -= 2) sum = (sum + 1.0 / k) * z;
    return e * 6.93147180369123816490e-01 + (2 * (s + s * sum) + e * 1.90821492927058770002e-10);
}

/* sine (quarter 0) or cosine (quarter 1) of x; |x| up to 2^30 with full accuracy. */
static double dl__sin_d(double x, int quarter)
{
    if (!(x < 1073741824.0 && x > -1073741824.0)) return x - x;
    double n = x * 0.63661977236758134308;
    int64_t k = (int64_t)(n < 0 ? n - 0.5 : n + 0.5);
    double m = (double)k; /* times pi/2 in four parts of 23 bits: the products are exact */
    double r = (((x - m * 1.570796251296997) - m * 7.549789415861596e-08) - m * 5.39030083589187e-15) -
        m * 2.0222659584103533e-21;
    double z = r * r, sum = 0;
    int q = (int)((uint64_t)(k + quarter) & 3);
    for (int i = 17 - (q & 1); i > 1; i -= 2) sum = (sum + 1) * -z / (i * (i - 1));
    sum = q & 1 ? 1 + sum : r + r * sum;
    return q & 2 ? -sum : sum;
}

static double dl__pow_d(double x, double y)
{
    bool whole = y < 9e15 && y > -9e15 ? y == (double)(int64_t)y : true,
         odd = whole && y < 9e15 && y > -9e15 && ((int64_t)y & 1);
    if (y == 0 || x == 1) return 1;
    if (x != x || y != y) return x + y;
    if (x == 0) return y > 0 ? (odd ? x : 0) : (odd ? 1 / x : HUGE_VAL);
    if (x < 0 && !whole) return (x - x) / (x - x);
    double a = x < 0 ? -x : x;
    if (y == 2) return a * a;
    if (y == 0.5) return sqrt(a);
    double r = dl__exp_d(a == 1 ? 0 : y * dl__log_d(a));
    return x < 0 && odd ? -r : r;
}

#if DL__REAL_IS_FLOAT
static float dl__sin(float x) { return (float)dl__sin_d(x, 0); }
static float dl__cos(float x) { return (float)dl__sin_d(x, 1); }
static float dl__pow(float x, float y) { return (float)dl__pow_d(x, y); }
#else
static dl_real dl__sin(dl_real x) { return sin(x); }
static dl_real dl__cos(dl_real x) { return cos(x); }
static dl_real dl__pow(dl_real x, dl_real y) { return pow(x, y); }
#endif
/* ---- no device code ---- */

static dl_real dl__sqrt(dl_real x)
{
    return sizeof(dl_real) == sizeof(float) ? (dl_real)sqrtf((float)x) : (dl_real)sqrt((double)x);
}
static dl_real dl__nan(void) { return (dl_real)(HUGE_VAL - HUGE_VAL); }

/* Rounding to nearest with subnormals, whatever the program around us has set. Returns what was set. */
static unsigned dl__fp_enter(void)
{
#if defined(__SSE__)
    unsigned old = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return old;
#elif defined(__aarch64__)
    uint64_t old, plain = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"(plain));
    return (unsigned)old;
#else
    return 0;
#endif
}

static void dl__fp_leave(unsigned old)
{
#if defined(__SSE__)
    _mm_setcsr(old);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)old));
#else
    (void)old;
#endif
}

/* The SIMD levels, each faster than those before; numbers for the preprocessor, too. >>cpu kernels is read for each. */
#define DL__PORTABLE 0
#define DL__AVX2 1
#define DL__AVX512 2
#define DL__NEON 3
enum { DL__LEVELS = 4, DL__TOP_LEVEL = DL__X86 ? DL__AVX512 : DL__ARM64 ? DL__NEON : DL__PORTABLE };
static const char *const dl__level_name[DL__LEVELS + 1] = { "portable", "avx2", "avx512", "neon", NULL };
/* For tests that emulate a CPU, and must not let the compiler use what it has not: define both before the #include. */
#ifndef DL__TARGET
#define DL__TARGET(features) __attribute__((target(features)))
#endif
#ifndef DL__CPU_HAS
#define DL__CPU_HAS(feature) __builtin_cpu_supports(feature)
#endif

/* Does this build have the level's kernels, and this CPU their instructions? */
static bool dl__have_level(int level)
{
#if DL__X86
    __builtin_cpu_init();
    bool avx2 = DL__CPU_HAS("avx2") && DL__CPU_HAS("fma");
    if (level == DL__AVX2) return avx2;
    if (level == DL__AVX512)
        return avx2 && DL__CPU_HAS("avx512f") && DL__CPU_HAS("avx512bw") && DL__CPU_HAS("avx512dq") &&
               DL__CPU_HAS("avx512vl");
#elif DL__ARM64
    if (level == DL__NEON) return true;
#endif
    return level == DL__PORTABLE;
}

/* CPUs that this process may run on. */
#if defined(__linux__) && !defined(DLTRAIN_NO_THREADS)
/* sched_getaffinity under a name of our own: <sched.h> declares it only after _GNU_SOURCE, the program's to choose. */
#ifdef __cplusplus
extern "C"
#else
extern
#endif
int dl__affinity(int process, size_t bytes, unsigned long *mask) __asm__("sched_getaffinity");
#endif
static int dl__cpu_count(void)
{
    int n = 0;
#if defined(__linux__) && !defined(DLTRAIN_NO_THREADS)
    unsigned long mask[1024 / (8 * sizeof(long))];
    memset(mask, 0, sizeof mask);
    if (!dl__affinity(0, sizeof mask, mask))
        for (size_t i = 0; i < DL__COUNT_OF(mask); i++)
            for (; mask[i]; mask[i] &= mask[i] - 1) n++;
#endif
#if defined(_SC_NPROCESSORS_ONLN) && !defined(DLTRAIN_NO_THREADS)
    if (!n) n = (int)sysconf(_SC_NPROCESSORS_ONLN);
#endif
    return n < 1 ? 1 : n;
}

/* Of some clock that goes on while we wait; whole seconds, or none at all, where there is no better one. */
static uint64_t dl__microseconds(void)
{
#if defined(_POSIX_VERSION)
    struct timeval t;
    gettimeofday(&t, NULL);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_usec;
#elif !defined(DLTRAIN_NO_STDIO)
    return (uint64_t)time(NULL) * 1000000;
#else
    return 0;
#endif
}

/* ---- a pool of threads: parts 0..n-1 of one job at a time, each run exactly once, by whoever is free ----
   Who waits spins at first, which answers in well under a microsecond, and then sleeps, so that a thread that lost
   its CPU to another process gets ours. How long to spin is learnt: less after a sleep that spinning would not have
   saved, all after one that it would have. There are never more threads than CPUs: they would only wait for
   each other. */
enum { DL__MAX_THREADS = 64, DL__MAX_UNITS = 65535, DL__SPIN_MIN = 4, DL__SPIN_MAX = 256 /* microseconds */ };
/* microseconds to spin; when the wait began, 0 when it was short */
typedef struct dl__patience { uint64_t most, since; } dl__patience;
typedef void (*dl__job)(void *user, size_t part, int thread);
#ifndef DLTRAIN_NO_THREADS
/* `word` is job number << 32 | units << 16 | next unit. A unit, some parts in a row, is claimed by a compare-and-swap
   of the whole word, so that a worker that slept through the end of a job cannot take one of the next by mistake,
   and nobody waits for it. */
typedef struct dl__pool {
    uint64_t word;
    uint32_t left;                /* units not yet done */
    int threads, workers;         /* that may be told apart, the caller as 0; started besides the caller */
    int started, sleeping;
    bool quit, waiting;           /* waiting: the caller sleeps until `left` is 0 */
    dl__job job;
    void *user;
    size_t parts, grain;          /* grain: parts of a unit */
    dl__patience spin;            /* of the caller */
    pthread_mutex_t mutex;
    pthread_cond_t wake, finished;
    pthread_t thread[DL__MAX_THREADS];
} dl__pool;

static void dl__pause(void)
{
#if defined(__SSE__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* some 10 ns; `yield` is nothing on most */
#endif
}

/* Everybody claims and runs units until none is left. */
static void dl__pool_work(dl__pool *p, int thread)
{
    uint64_t word = __atomic_load_n(&p->word, __ATOMIC_ACQUIRE);
    for (;;) {
        size_t next = word & 65535, units = word >> 16 & 65535;
        if (next >= units) return;
        if (!__atomic_compare_exchange_n(&p->word, &word, word + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            continue;
        for (size_t i = next * p->grain; i < DL__MIN((next + 1) * p->grain, p->parts); i++) p->job(p->user, i, thread);
        if (!__atomic_sub_fetch(&p->left, 1, __ATOMIC_SEQ_CST) && __atomic_load_n(&p->waiting, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&p->mutex);
            pthread_cond_signal(&p->finished);
            pthread_mutex_unlock(&p->mutex);
        }
        word = __atomic_load_n(&p->word, __ATOMIC_ACQUIRE);
    }
}

/* What a worker waits for (another job than `seen`), and what the caller does (the end of the job). */
static bool dl__pool_called(void *pool, uint64_t seen)
{
    dl__pool *p = (dl__pool *)pool;
    return __atomic_load_n(&p->word, __ATOMIC_SEQ_CST) >> 32 != seen || __atomic_load_n(&p->quit, __ATOMIC_SEQ_CST);
}
static bool dl__pool_done(void *pool, uint64_t seen)
{
    (void)seen;
    return !__atomic_load_n(&((dl__pool *)pool)->left, __ATOMIC_SEQ_CST);
}

/* Waits for a while: did it come? A thread that lost its CPU meanwhile has spun long enough. */
static bool dl__spin(bool (*come)(void *what, uint64_t seen), void *what, uint64_t seen, dl__patience *p)
{
    p->since = 0;
    for (int round = 0; round < 1 << 14; round++) { /* some milliseconds, should the clock stand still */
        for (int i = 0; i < 16; i++) {
            if (come(what, seen)) {
                p->since = 0;
                return true;
            }
            dl__pause();
        }
        uint64_t now = dl__microseconds();
        if (!p->since) p->since = now;
        else if (now - p->since > p->most) break;
    }
    return false;
}

/* What was waited for in vain came while the thread slept. */
static void dl__slept(dl__patience *p)
{
    if (!p->since) return;
    p->most = DL__MAX(p->most / 2, (uint64_t)DL__SPIN_MIN);
    if (dl__microseconds() - p->since < DL__SPIN_MAX) p->most = DL__SPIN_MAX;
    p->since = 0;
}

static void *dl__pool_main(void *argument)
{
    dl__pool *p = (dl__pool *)argument;
    int index = __atomic_add_fetch(&p->started, 1, __ATOMIC_RELAXED);
    dl__patience spin = { DL__SPIN_MAX, 0 };
    dl__fp_enter();
    while (!__atomic_load_n(&p->quit, __ATOMIC_ACQUIRE)) {
        uint64_t seen = __atomic_load_n(&p->word, __ATOMIC_ACQUIRE) >> 32;
        dl__pool_work(p, index);
        if (dl__spin(dl__pool_called, p, seen, &spin)) continue;
        pthread_mutex_lock(&p->mutex);
        __atomic_add_fetch(&p->sleeping, 1, __ATOMIC_SEQ_CST);
        while (!dl__pool_called(p, seen)) pthread_cond_wait(&p->wake, &p->mutex);
        __atomic_sub_fetch(&p->sleeping, 1, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&p->mutex);
        dl__slept(&spin);
    }
    return NULL;
}

/* Wakes `most` sleepers, as far as there are any. */
static void dl__pool_wake(dl__pool *p, size_t most)
{
    if (!__atomic_load_n(&p->sleeping, __ATOMIC_SEQ_CST)) return;
    pthread_mutex_lock(&p->mutex);
    size_t asleep = (size_t)p->sleeping;
    pthread_mutex_unlock(&p->mutex);
    for (size_t i = 0; i < DL__MIN(asleep, most); i++) pthread_cond_signal(&p->wake);
}

static void dl__pool_stop(dl__pool *p)
{
    __atomic_store_n(&p->quit, true, __ATOMIC_SEQ_CST);
    dl__pool_wake(p, DL__MAX_THREADS);
    for (int i = 0; i < p->workers; i++) pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->mutex);
}

/* Starts threads - 1 workers; fewer when there are fewer CPUs or the system gives no more. Bits and memory do
   not depend on it. */
static void dl__pool_start(dl__pool *p, int threads)
{
    memset(p, 0, sizeof *p);
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->finished, NULL);
    p->threads = DL__MIN(threads, (int)DL__MAX_THREADS);
    p->spin.most = DL__SPIN_MAX;
    int cpus = p->threads > 1 ? dl__cpu_count() : 1;
    while (p->workers < DL__MIN(p->threads, cpus) - 1 &&
           !pthread_create(&p->thread[p->workers], NULL, dl__pool_main, p))
        p->workers++;
}

/* `grain`: so many parts are worth handing over, which takes a microsecond; a job of fewer is the caller's alone. */
static void dl__pool_run(dl__pool *p, size_t parts, size_t grain, dl__job job, void *user)
{
    grain = DL__MAX(DL__MAX(grain, (size_t)1), (parts + DL__MAX_UNITS - 1) / DL__MAX_UNITS);
    size_t units = (parts + grain - 1) / grain;
    if (!p->workers || units < 2) {
        for (size_t i = 0; i < parts; i++) job(user, i, 0);
        return;
    }
    p->job = job;
    p->user = user;
    p->parts = parts;
    p->grain = grain;
    __atomic_store_n(&p->left, (uint32_t)units, __ATOMIC_RELAXED);
    __atomic_store_n(&p->word, ((__atomic_load_n(&p->word, __ATOMIC_RELAXED) >> 32) + 1) << 32 | (uint64_t)units << 16,
        __ATOMIC_SEQ_CST);
    dl__pool_wake(p, units - 1);
    dl__pool_work(p, 0);
    if (dl__spin(dl__pool_done, p, 0, &p->spin)) return;
    pthread_mutex_lock(&p->mutex);
    __atomic_store_n(&p->waiting, true, __ATOMIC_SEQ_CST);
    while (!dl__pool_done(p, 0)) pthread_cond_wait(&p->finished, &p->mutex);
    __atomic_store_n(&p->waiting, false, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&p->mutex);
    dl__slept(&p->spin);
}
#else
typedef struct dl__pool { int threads; } dl__pool;
static void dl__pool_stop(dl__pool *p) { (void)p; }
static void dl__pool_start(dl__pool *p, int threads) { p->threads = threads > 0 ? 1 : 1; }
static void dl__pool_run(dl__pool *p, size_t parts, size_t grain, dl__job job, void *user)
{
    (void)p;
    (void)grain;
    for (size_t i = 0; i < parts; i++) job(user, i, 0);
}
#endif

/* ==== >>arena ====
   The context: memory, sticky errors and random numbers.
   may use: platform */

/* What is not a kernel asks, checks, plans and calls kernels; its loops over data are marked DL__HOT. -Og compiles it
   in half the time of -O2. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__)
#define DL__QUICK
#pragma GCC push_options
#pragma GCC optimize("Og")
#endif

/* A block in the chain of a growable context; its memory follows. */
typedef struct dl__block { struct dl__block *prev, *next; size_t size, used; } dl__block;
enum { DL__HEADER = (sizeof(dl__block) + DLTRAIN_ALIGN - 1) / DLTRAIN_ALIGN * DLTRAIN_ALIGN };
/* Tape and work are stacks that are emptied at once. `used` counts rounded blocks of memory handed out. */
typedef struct dl__arena { dl__block *first, *at; size_t used, peak; } dl__arena;
typedef struct dl__mark { dl__block *at; size_t at_used, used; char *top; } dl__mark;
typedef struct dl__hook { struct dl__hook *next; void (*run)(void *user); void *user; } dl__hook;

typedef struct dl__param {
    const char *name;
    uint64_t hash;
    dl_shape shape;
    size_t numel, offset;    /* elements of the flat buffer; SIZE_MAX: not laid out yet */
    dl_init init;
    float value;
    bool buffer, frozen;
    bool fresh;              /* the next gradient overwrites */
    uint32_t leaf_step, leaf, opening;
    dl_real *pending;        /* a loaded value that waits for the layout */
} dl__param;
typedef struct dl__pending { struct dl__pending *next; const char *name; dl_shape shape; dl_real *value; } dl__pending;

/* A launch runs nodes order[first .. first + count) of the segment: an operation, and elementwise ones on what it has
   made, tile by tile. `slots` tiles are scratch, `tiles` bytes into it. */
typedef struct dl__launch { uint32_t first, count, slots; size_t tiles; } dl__launch;
typedef struct dl__plan {
    uint64_t key, used_at;
    uint32_t nodes, launches;
    size_t work, scratch, capacity; /* bytes: of values, of scratch for each thread; of `memory` */
    char *memory;
    size_t *offset;                 /* of each node */
    dl__launch *launch;
    uint32_t *order;                /* the nodes that run */
    uint8_t *space, *does;          /* of each node; `does` is made of DL__ADDS, ... */
} dl__plan;

enum { DL__DEVICE_MAX = 32 }; /* characters of a device's name */
/* Host memory with a twin on the device: flat buffers and optimizers' state. Who writes one makes the other stale. */
typedef struct dl__twin {
    struct dl__twin *next;
    void *host, *there;
    size_t bytes;
    bool host_stale, there_stale;
} dl__twin;

/* What a replica does beside a context alone, see >>parallel: through the context, so that who launches none
   does not link it. */
typedef struct dl__replica {
    void (*failed)(dl_context *ctx);     /* its first error: all ranks hear of it */
    bool (*before_run)(dl_context *ctx); /* are the parameters those of rank 0? */
    /* counts a launch that comes: does it complete something, of which a replica must hear before the next one? It has
       begun, on the CPU ended, and all before it */
    bool (*completes)(dl_context *ctx, uint32_t start, const dl__launch *launch, const dl__plan *plan);
    void (*launched)(dl_context *ctx, uint32_t start, const dl__launch *launch, const dl__plan *plan);
    /* gradients are recorded from node `from` on, and will run; they have run; reduces without any: false
       when nobody has one */
    bool (*before_backward)(dl_context *ctx, uint32_t from, const char *pattern, size_t count);
    bool (*after_backward)(dl_context *ctx, const char *pattern);
    bool (*nothing)(dl_context *ctx, const char *pattern, bool leaving);
    bool (*before_step)(dl_context *ctx, const char *pattern);
    bool (*sum)(dl_context *ctx, dl_real *x, size_t n); /* over the ranks, in place */
    uint64_t (*random_step)(const dl_context *ctx);
} dl__replica;

struct dl_context {
    dl_config config;
    bool failed, training, recording, ended, sealed, dry, running;
    int level;                      /* DL__PORTABLE to DL__NEON */
    char error[DLTRAIN_ERROR_MAX];
    /* memory */
    char *bottom, *top, *end;       /* of a fixed block: free between bottom and top */
    dl__block *blocks;              /* of a growable context */
    void *last;                     /* the latest persistent block: the one that can be given back to a fixed block */
    size_t last_size, persistent, persistent_peak, word;
    dl__arena tape, work;
    dl__hook *hooks;
    /* the tape */
    dl_node **node;
    uint32_t nodes, node_capacity, done, step;
    uint64_t hash, random_step, ordinal;
    /* parameters */
    dl__param *param;
    int params, param_capacity, param_hint;
    size_t n_values, n_buffers, cap_values, cap_buffers;
    dl_real *values, *grads, *buffers;
    uint32_t layout, opening, openings;
    char path[DLTRAIN_NAME_MAX];
    int depth;
    struct { uint32_t opening; int length; } scope[32];
    dl__pending *pending;
    /* plans and threads */
    dl__plan plan[DLTRAIN_PLANS];
    uint64_t clock;
    dl__pool pool;
    size_t scratch_stride;
    const struct dl__follower *follower; /* set by operations that follow strides: who calls none does not link it */
    dl_real (*normal)(const uint32_t u[4], int i); /* set where a parameter asks for it, likewise */
    void (*remake)(dl_context *ctx, dl_node *n); /* set by batch_norm, see dl__norm_again */
    /* set by gelu's gradient: runs a gelu with its slope `next`, if they are that; false: they are not,
       and nothing was done */
    bool (*twice)(const dl_run_args *a, const dl_node *next, void *next_out);
    void (*rest)(dl_context *ctx);       /* set by dl_data_parallel_create: waits until no replica reads
                                            batch or parameters */
    bool ending;                         /* gradients are recorded whose run ends the step */
#if DL__DEVICES
    const dl_backend *backend;           /* NULL: the CPU */
    void *device;                        /* the backend's */
    char device_name[DL__DEVICE_MAX];    /* "cuda:0" */
    dl__twin *twins;
#endif
    /* a replica's; NULL: a context alone */
    struct dl_comm *comm;
    const dl__replica *replica;          /* NULL also in a world of one that is asked for nothing special */
    bool no_sync;
    int parts;                           /* micro-batches of a step with invariant shards; 0: none */
    double weight, reduced;              /* of what is to be reduced, here; of the last reduction, on all ranks */
    double grad_norm;                    /* that the last dl_clip_grad_norm found */
};

static bool dl__vfail(dl_context *ctx, const char *format, va_list args);

DL_API bool dl_fail(dl_context *ctx, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    dl__vfail(ctx, format, args);
    va_end(args);
    return false;
}

/* Replicas of dl_data_parallel read the batch and the parameters of the context: not from here on. */
static void dl__rest(dl_context *ctx)
{
#ifdef DLTRAIN_NO_THREADS
    (void)ctx;
#else
    if (ctx->rest) ctx->rest(ctx);
#endif
}

static size_t dl__round(size_t bytes) { return (bytes + DLTRAIN_ALIGN - 1) / DLTRAIN_ALIGN * DLTRAIN_ALIGN; }

/* What a block of `bytes`, `words` pointers or sizes among them, takes on the machine that is measured for. */
static size_t dl__counted(const dl_context *ctx, size_t bytes, size_t words)
{
    return dl__round(bytes - words * sizeof(void *) + words * ctx->word);
}

#if defined(__linux__) && !defined(DLTRAIN_NO_MALLOC)
/* madvise under a name of our own, as dl__affinity is */
#ifdef __cplusplus
extern "C"
#else
extern
#endif
int dl__advise(void *start, size_t bytes, int advice) __asm__("madvise");
enum { DL__PAGE = 4096, DL__LARGE = 8 << 20, DL__HUGE_PAGES = 14 /* MADV_HUGEPAGE */ };
#endif
static void *dl__system_alloc(const dl_config *config, size_t bytes)
{
    if (config->alloc) return config->alloc(bytes, config->alloc_user);
#ifdef DLTRAIN_NO_MALLOC
    return NULL;
#else
    char *p = (char *)malloc(bytes);
#ifdef __linux__
    /* pages of 2 MB, where the system has them: a step goes through memory too fast for tables of small ones */
    if (p && bytes >= DL__LARGE)
        dl__advise(p + DL__PAGE - (uintptr_t)p % DL__PAGE, (bytes / DL__PAGE - 1) * DL__PAGE, DL__HUGE_PAGES);
#endif
    return p;
#endif
}

static void dl__system_free(const dl_config *config, void *block)
{
    if (config->alloc) {
        if (config->release) config->release(block, config->alloc_user);
        return;
    }
#ifndef DLTRAIN_NO_MALLOC
    free(block);
#endif
}

/* A block from the system, with `before` bytes of header in front of an aligned address, to which the result points. */
static char *dl__aligned(const dl_config *config, size_t before, size_t bytes, void **raw)
{
    size_t extra = before + DLTRAIN_ALIGN;
    char *p = bytes > SIZE_MAX - extra ? NULL : (char *)dl__system_alloc(config, bytes + extra);
    *raw = p;
    return p ? p + before + (DLTRAIN_ALIGN - ((uintptr_t)p + before) % DLTRAIN_ALIGN) % DLTRAIN_ALIGN : NULL;
}

/* Header and block: the raw pointer of the system stands just below the aligned header. */
static dl__block *dl__new_block(dl_context *ctx, size_t bytes)
{
    void *raw;
    char *p =
        bytes > SIZE_MAX - DL__HEADER ? NULL : dl__aligned(&ctx->config, sizeof(void *), DL__HEADER + bytes, &raw);
    if (!p) {
        dl_fail(ctx, "out of memory: asked for %zu bytes", bytes);
        return NULL;
    }
    memcpy(p - sizeof raw, &raw, sizeof raw);
    dl__block *b = (dl__block *)p;
    b->prev = b->next = NULL;
    b->size = bytes;
    b->used = 0;
    return b;
}

static void dl__free_block(dl_context *ctx, dl__block *b)
{
    void *raw;
    memcpy(&raw, (char *)b - sizeof raw, sizeof raw);
    dl__system_free(&ctx->config, raw);
}

/* Is so much left of the context's fixed block? */
static bool dl__is_left(dl_context *ctx, size_t size)
{
    size_t left = (size_t)(ctx->top - ctx->bottom);
    return size <= left || dl_fail(ctx,
        "the context's block of %zu bytes is too small: %zu more are needed, %zu are left; dl_measure tells the size",
        ctx->config.memory_size, size, left);
}

/* Persistent memory, zeroed, until dl__release or dl_destroy. `words` of it are pointers or sizes. NULL: an error. */
static void *dl__alloc(dl_context *ctx, size_t bytes, size_t words)
{
    size_t size = dl__round(bytes), counted = dl__counted(ctx, bytes, words);
    char *p;
    if (size < bytes) return dl_fail(ctx, "out of memory: asked for %zu bytes", bytes), (void *)NULL;
    if (ctx->bottom) {
        if (!dl__is_left(ctx, size)) return NULL;
        p = ctx->bottom;
        ctx->bottom += size;
    } else {
        dl__block *b = dl__new_block(ctx, size);
        if (!b) return NULL;
        b->next = ctx->blocks;
        if (b->next) b->next->prev = b;
        ctx->blocks = b;
        p = (char *)b + DL__HEADER;
    }
    ctx->persistent += counted;
    ctx->persistent_peak = DL__MAX(ctx->persistent_peak, ctx->persistent);
    ctx->last = p;
    ctx->last_size = counted;
    memset(p, 0, bytes);
    return p;
}

/* Of a fixed block only the latest piece comes back. */
static void dl__release(dl_context *ctx, void *memory)
{
    if (!memory) return;
    if (memory == ctx->last) {
        ctx->persistent -= ctx->last_size;
        if (ctx->bottom) ctx->bottom = (char *)memory;
        ctx->last = NULL;
    }
    if (ctx->bottom) return;
    dl__block *b = (dl__block *)((char *)memory - DL__HEADER);
    if (b->prev) b->prev->next = b->next;
    else ctx->blocks = b->next;
    if (b->next) b->next->prev = b->prev;
    dl__free_block(ctx, b);
}

/* The first `used` bytes of old memory in new of `bytes`; the old is released. NULL: an error, the old is untouched. */
static void *dl__grow(dl_context *ctx, void *old, size_t used, size_t bytes, size_t words)
{
    void *p = dl__alloc(ctx, bytes, words);
    if (!p) return NULL;
    if (used) memcpy(p, old, used);
    dl__release(ctx, old);
    return p;
}

static void dl__arena_reset(dl_context *ctx, dl__arena *a)
{
    a->used = 0;
    a->at = a->first;
    if (a->first) a->first->used = 0;
    if (ctx->bottom) ctx->top = ctx->end;
}

static void dl__arena_free(dl_context *ctx, dl__arena *a)
{
    for (dl__block *b = a->first, *next; b; b = next) {
        next = b->next;
        dl__free_block(ctx, b);
    }
    a->first = a->at = NULL;
}

/* Memory of the step, not zeroed; `least` is the size of a new block. NULL after an error. */
static void *dl__bump(dl_context *ctx, dl__arena *a, size_t bytes, size_t words, size_t least)
{
    size_t size = dl__round(bytes);
    char *p;
    if (size < bytes) return dl_fail(ctx, "out of memory: asked for %zu bytes", bytes), (void *)NULL;
    if (ctx->dry && a == &ctx->work) p = (char *)ctx; /* measured, never touched */
    else if (ctx->bottom) {
        if (!dl__is_left(ctx, size)) return NULL;
        p = ctx->top -= size;
    } else {
        while (a->at && size > a->at->size - a->at->used && a->at->next) {
            a->at = a->at->next;
            a->at->used = 0;
        }
        if (!a->at || size > a->at->size - a->at->used) {
            if (a->first && !a->used) dl__arena_free(ctx, a); /* empty but too small: one larger block instead of two */
            dl__block *b = dl__new_block(ctx, DL__MAX(size, least));
            if (!b) return NULL;
            if (a->at) a->at->next = b;
            else a->first = b;
            a->at = b;
        }
        p = (char *)a->at + DL__HEADER + a->at->used;
        a->at->used += size;
    }
    a->used += dl__counted(ctx, bytes, words);
    if (a->used > a->peak) a->peak = a->used;
    return p;
}

static void *dl__tape_alloc(dl_context *ctx, size_t bytes, size_t words)
{
    return dl__bump(ctx, &ctx->tape, bytes, words, 16384);
}

static dl__mark dl__tape_mark(dl_context *ctx)
{
    dl__mark m;
    m.at = ctx->tape.at;
    m.at_used = m.at ? m.at->used : 0;
    m.used = ctx->tape.used;
    m.top = ctx->top;
    return m;
}

static void dl__tape_release(dl_context *ctx, dl__mark m)
{
    ctx->tape.at = m.at ? m.at : ctx->tape.first;
    if (ctx->tape.at) ctx->tape.at->used = m.at_used;
    ctx->tape.used = m.used;
    ctx->top = m.top;
}

static bool dl__on_destroy(dl_context *ctx, void (*run)(void *user), void *user)
{
    dl__hook *h = (dl__hook *)dl__alloc(ctx, sizeof *h, 3);
    if (!h) return false;
    h->run = run;
    h->user = user;
    h->next = ctx->hooks;
    ctx->hooks = h;
    return true;
}

static char *dl__copy_text(dl_context *ctx, const char *text)
{
    char *p = (char *)dl__alloc(ctx, strlen(text) + 1, 0);
    if (p) memcpy(p, text, strlen(text) + 1);
    return p;
}

DL_API dl_memory dl_memory_used(const dl_context *ctx)
{
    dl_memory m;
    m.persistent = ctx ? DL__MAX(ctx->persistent, ctx->persistent_peak) : 0;
    m.tape = ctx ? ctx->tape.peak : 0;
    m.work = ctx ? ctx->work.peak : 0;
    return m;
}

/* ---- errors ---- */
typedef struct dl__text { char *at, *end; } dl__text;

static void dl__put(dl__text *t, char c)
{
    if (t->at < t->end)
        *t->at++ = (unsigned char)c < 32 ? '?' : c; /* names may come from files: nothing that moves a terminal */
}

static void dl__puts(dl__text *t, const char *s)
{
    for (s = s ? s : "NULL"; *s; s++) dl__put(t, *s);
}

static void dl__put_unsigned(dl__text *t, size_t v)
{
    char digits[20];
    int n = 0;
    do digits[n++] = (char)('0' + v % 10);
    while (v /= 10);
    while (n) dl__put(t, digits[--n]);
}

static void dl__put_signed(dl__text *t, ptrdiff_t v)
{
    if (v < 0) dl__put(t, '-');
    dl__put_unsigned(t, v < 0 ? 0 - (size_t)v : (size_t)v);
}

/* Six digits, as %g has them. */
static void dl__put_double(dl__text *t, double x)
{
    int e = 0, digits = 6;
    char text[8];
    if (x != x) {
        dl__puts(t, "nan");
        return;
    }
    if (x < 0) {
        dl__put(t, '-');
        x = -x;
    }
    if (x > DBL_MAX) {
        dl__puts(t, "inf");
        return;
    }
    if (x > 0) {
        for (; x >= 10; e++) x /= 10;
        for (; x < 1; e--) x *= 10;
    }
    uint32_t v = (uint32_t)(x * 100000 + 0.5);
    if (v >= 1000000) {
        v /= 10;
        e++;
    }
    for (int i = 5; i >= 0; i--, v /= 10) text[i] = (char)('0' + v % 10);
    while (digits > 1 && text[digits - 1] == '0') digits--;
    bool power = e < -5 || e > 5;
    int point = power ? 0 : e; /* index of the digit before the point */
    if (point < 0) dl__puts(t, "0.");
    for (int i = -1; i > point; i--) dl__put(t, '0');
    for (int i = 0; i < digits || i <= point; i++) {
        dl__put(t, i < digits ? text[i] : '0');
        if (i == point && i + 1 < digits) dl__put(t, '.');
    }
    if (power) {
        dl__put(t, 'e');
        dl__put(t, e < 0 ? '-' : '+');
        if (e < 10 && e > -10) dl__put(t, '0');
        dl__put_signed(t, e < 0 ? -e : e);
    }
}

static void dl__put_dims(dl__text *t, int n, const dl_index *dim)
{
    dl__put(t, '[');
    for (int i = 0; i < n && i < DLTRAIN_MAX_DIMS; i++) {
        if (i) dl__put(t, ',');
        dl__put_signed(t, dim[i]);
    }
    dl__put(t, ']');
}

static void dl__format(dl__text *t, const char *f, va_list args)
{
    for (; *f; f++) {
        if (*f != '%') {
            dl__put(t, *f);
            continue;
        }
        bool z = *++f == 'z', d = *f == 't';
        if (z || d) f++;
        if (*f == 's') dl__puts(t, va_arg(args, const char *));
        else if (*f == 'c') dl__put(t, (char)va_arg(args, int));
        else if (*f == 'g') dl__put_double(t, va_arg(args, double));
        else if (*f == 'u') dl__put_unsigned(t, z ? va_arg(args, size_t) : va_arg(args, unsigned));
        else if (*f == 'd') dl__put_signed(t, d ? va_arg(args, ptrdiff_t) : va_arg(args, int));
        else if (*f == 'S') {
            const dl_node *n = va_arg(args, const dl_node *);
            dl__put_dims(t, n->ndim, n->dim);
        } else if (*f == 'H') {
            const dl_shape *s = va_arg(args, const dl_shape *);
            dl__put_dims(t, s->ndim, s->dim);
        } else dl__put(t, *f);
    }
    *t->at = 0;
}

static void dl__say(dl_context *ctx, const char *format, ...)
{
    char line[DLTRAIN_ERROR_MAX];
    dl__text t;
    va_list args;
    if (!ctx->config.log) return;
    t.at = line;
    t.end = line + sizeof line - 1;
    va_start(args, format);
    dl__format(&t, format, args);
    va_end(args);
    (ctx->config.log)(line, ctx->config.log_user);
}

static bool dl__vfail(dl_context *ctx, const char *format, va_list args)
{
    dl__text t;
    if (!ctx || ctx->failed) return false;
    ctx->failed = true;
    t.at = ctx->error;
    t.end = ctx->error + sizeof ctx->error - 1;
    if (format) dl__format(&t, format, args);
    if (ctx->replica) ctx->replica->failed(ctx);
    dl__rest(ctx);
    dl__say(ctx, "%s", ctx->error);
    return false;
}

DL_API bool dl_failed(const dl_context *ctx) { return !ctx || ctx->failed; }
DL_API const char *dl_error(const dl_context *ctx)
{
    return !ctx ? "there is no context: dl_create returned NULL, for want of memory" : ctx->failed ? ctx->error : "";
}

/* ---- memory on a device. On the CPU all of this is nothing ---- */
#if DL__DEVICES
DL_API void *dl_device_of(const dl_context *ctx, const dl_backend *backend)
{
    return ctx && ctx->backend == backend ? ctx->device : NULL;
}

static dl__twin *dl__twin_of(const dl_context *ctx, const void *host)
{
    dl__twin *t = ctx->twins;
    while (t && (!host || t->host != host)) t = t->next;
    return t;
}

/* Makes this host memory what it would be without a device. */
static bool dl__to_host(dl_context *ctx, const void *host)
{
    dl__twin *t = dl__twin_of(ctx, host);
    if (!t || !t->host_stale) return true;
    if (!ctx->backend->download(ctx->device, t->host, t->there, t->bytes)) return false;
    t->host_stale = false;
    return true;
}

/* The same for all of it. `writes`: the host is going to change it. */
static bool dl__all_to_host(dl_context *ctx, bool writes)
{
    for (dl__twin *t = ctx->twins; t; t = t->next) {
        if (t->host && !dl__to_host(ctx, t->host)) return false;
        if (writes) t->there_stale = true;
    }
    return true;
}

static void dl__host_wrote(dl_context *ctx, const void *host)
{
    dl__twin *t = dl__twin_of(ctx, host);
    if (t) t->there_stale = true;
}

/* The twin of host memory, made if there is none, up to date. `writes`: the device will change it. NULL: an error. */
static void *dl__there(dl_context *ctx, void *host, size_t bytes, bool writes)
{
    dl__twin *t = dl__twin_of(ctx, host);
    if (!t) {
        for (t = ctx->twins; t && t->host;) t = t->next; /* one that was forgotten */
        if (!t) {
            if (!(t = (dl__twin *)dl__alloc(ctx, sizeof *t, 4))) return NULL;
            t->next = ctx->twins;
            ctx->twins = t;
        }
        if (!(t->there = ctx->backend->alloc(ctx->device, bytes))) return NULL;
        t->host = host;
        t->bytes = bytes;
        t->host_stale = false;
        t->there_stale = true;
    }
    if (t->there_stale && !ctx->backend->upload(ctx->device, t->there, host, bytes)) return NULL;
    t->there_stale = false;
    if (writes) t->host_stale = true;
    return t->there;
}

/* Host memory that is given back has no twin any more. */
static void dl__forget_twin(dl_context *ctx, const void *host)
{
    dl__twin *t = dl__twin_of(ctx, host);
    if (!t) return;
    ctx->backend->release(ctx->device, t->there);
    t->host = t->there = NULL;
}
#else
static bool dl__to_host(dl_context *ctx, const void *host) { return (void)ctx, (void)host, true; }
static bool dl__all_to_host(dl_context *ctx, bool writes) { return (void)ctx, (void)writes, true; }
static void dl__host_wrote(dl_context *ctx, const void *host) { (void)ctx, (void)host; }
#endif

/* Of the device code that follows, what fills tensors. */
DL__HOT static void dl__philox(uint64_t key, uint64_t low, uint64_t high, uint32_t out[4]);
DL__HOT static dl_real dl__uniform(uint32_t u);

/* ---- device code, too: tools/embed_kernels.py puts it into dltrain_cuda.h, as far as the next such line ---- */
/* Random numbers: Philox 4x32-10 (Salmon et al. 2011), a function of key and counter */
static void dl__philox(uint64_t key, uint64_t low, uint64_t high, uint32_t out[4])
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32), x[4];
    x[0] = (uint32_t)low, x[1] = (uint32_t)(low >> 32), x[2] = (uint32_t)high, x[3] = (uint32_t)(high >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t a = (uint64_t)0xD2511F53u * x[0], b = (uint64_t)0xCD9E8D57u * x[2];
        x[0] = (uint32_t)(b >> 32) ^ x[1] ^ k0;
        x[1] = (uint32_t)b;
        x[2] = (uint32_t)(a >> 32) ^ x[3] ^ k1;
        x[3] = (uint32_t)a;
    }
    memcpy(out, x, sizeof x);
}

static dl_real dl__uniform(uint32_t u) { return (dl_real)(u >> 8) * (dl_real)5.9604644775390625e-8; } /* [0, 1) */

/* Number i of a stream: a standard normal, by Box and Muller. */
static dl_real dl__normal(const uint32_t u[4], int i)
{
    double radius = sqrt(-2 * dl__log_d(((double)u[i & 2] + 1) * 2.3283064365386963e-10));
    return (dl_real)(radius * dl__sin_d((double)u[(i & 2) + 1] * 1.4629180792671596e-9, i & 1));
}

/* ---- no device code ---- */
static uint64_t dl__hash_text(const char *s)
{
    uint64_t h = 14695981039346656037u;
    while (*s) h = (h ^ (uint8_t)*s++) * 1099511628211u;
    return h;
}

static uint64_t dl__mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

/* Splits seed and a salt into a key of its own. */
/* Of a name as part of a key: eight characters at a time. */
static uint64_t dl__mix_text(uint64_t h, const char *s)
{
    uint64_t v = 0;
    for (int i = 1; *s; i++) {
        v = v << 8 | (uint8_t)*s++;
        if (i % 8 == 0) h = dl__mix(h, v), v = 0;
    }
    return dl__mix(h, v);
}
static uint64_t dl__key(uint64_t seed, uint64_t salt) { return dl__mix(dl__mix(0, seed), salt); }

/* ==== >>tape ====
   Shapes, recording, lifetimes of steps, names and parameters.
   may use: arena */
enum { /* flags of a node */
    DL__REQUIRES = 1,   /* differentiable with respect to something */
    DL__KEPT = 2,       /* readable after the run */
    DL__LEAF = 4,       /* has its value already */
    DL__VIEW = 8,       /* lies in its first input's memory, i[0] elements on */
    DL__WANTED = 16,    /* a leaf whose gradient can be asked for */
    DL__EFFECT = 32,    /* a view that is run: it changes its first input */
    DL__FOLLOWED = 64, DL__SOLID = 128 /* dl__skip_copies' own */
};
enum { /* flags of operations beside the public ones */
    DL__OP_PERMUTES = 32, DL__OP_CROPS = 64, /* copies, perhaps views with strides if their readers follow these */
    DL__OP_COPIES = DL__OP_PERMUTES | DL__OP_CROPS,
    DL__OP_STRIDED = 128,                    /* looks for its inputs by dl__layout_of */
    DL__OP_ON_HOST = 256,                    /* on a device, too, it runs on the host; its inputs by dl__host_in */
    DL__OP_LATER = 512                       /* see dl__written_later */
};
/* Where the value of a node is. MEMORY: at the address `offset`. Flat buffers: `offset` elements in.
   TILE: in a tile of its group. */
enum { DL__UNPLACED, DL__MEMORY, DL__VALUES, DL__GRADS, DL__BUFFERS, DL__TILE, DL__GONE };

static const char *const dl__dtype_names[3] = { "DL_F32", "DL_I32", "DL_U8" };
static size_t dl__dtype_size(unsigned dtype)
{
    return dtype == DL_F32 ? sizeof(dl_real) : dtype == DL_I32 ? sizeof(int32_t) : 1;
}
static size_t dl__bytes(const dl_node *n) { return n->numel * dl__dtype_size(n->dtype); }

static dl_tensor dl__none(void)
{
    dl_tensor t;
    t.ctx = NULL;
    t.node = t.step = 0;
    return t;
}

static dl_shape dl__shape(const dl_node *n)
{
    dl_shape s;
    s.ndim = n->ndim;
    memcpy(s.dim, n->dim, sizeof s.dim);
    return s;
}

static bool dl__same_shape(const dl_node *a, const dl_node *b)
{
    return a->ndim == b->ndim && !memcmp(a->dim, b->dim, sizeof *a->dim * a->ndim);
}

/* The product of the sizes; false after an error of operation `who`. The one place where products are checked. */
static bool dl__count(dl_context *ctx, const char *who, const dl_shape *s, size_t *numel)
{
    size_t n = 1, bound = (size_t)PTRDIFF_MAX / sizeof(double);
    bool zero = false;
    if (s->ndim < 0 || s->ndim > DLTRAIN_MAX_DIMS)
        return dl_fail(
            ctx, "dl_%s: %d dimensions; there can be 0 to %d (DLTRAIN_MAX_DIMS)", who, s->ndim, DLTRAIN_MAX_DIMS);
    for (int i = 0; i < s->ndim; i++) {
        if (s->dim[i] < 0) return dl_fail(ctx, "dl_%s: a negative size in %H", who, s);
        if (s->dim[i] == 0) zero = true;
        else if (n > bound / (size_t)s->dim[i])
            return dl_fail(ctx, "dl_%s: %H has more elements than memory can hold", who, s);
        else n *= (size_t)s->dim[i];
    }
    *numel = zero ? 0 : n;
    return true;
}

/* A dimension given from either end; -1 after an error. */
static int dl__axis(dl_context *ctx, const char *who, int dim, int ndim)
{
    if (dim >= -ndim && dim < ndim) return dim < 0 ? dim + ndim : dim;
    dl_fail(ctx, "dl_%s: there is no dimension %d in a tensor of %d dimensions", who, dim, ndim);
    return -1;
}

static dl_tensor dl__handle(dl_context *ctx, const dl_node *n)
{
    dl_tensor t;
    t.ctx = ctx;
    t.node = n->id;
    t.step = ctx->step;
    return t;
}

/* The nodes of n tensors, checked; the context, or NULL quietly for a failed tensor, and after an error. */
static dl_context *dl__operands(const char *who, int n, const dl_tensor *in, dl_node **node)
{
    dl_context *ctx = in[0].ctx;
    for (int i = 0; i < n; i++)
        if (!in[i].ctx || in[i].ctx->failed) return NULL;
    for (int i = 0; i < n; i++) {
        if (in[i].ctx != ctx)
            return dl_fail(ctx, "dl_%s: operand %d is a tensor of another context", who, i + 1), (dl_context *)NULL;
        if (in[i].step != ctx->step || ctx->ended || in[i].node >= ctx->nodes) {
            dl_fail(ctx,
                "dl_%s: a stale tensor: node %u of step %u, which has ended; a tensor lives until the end of its step",
                who, in[i].node, in[i].step);
            return NULL;
        }
        node[i] = ctx->node[in[i].node];
    }
    return ctx;
}

static bool dl__is_float(dl_context *ctx, const char *who, const dl_node *n)
{
    return n->dtype == DL_F32 ||
        dl_fail(ctx, "dl_%s: takes DL_F32, not %s; dl_to_float converts", who, dl__dtype_names[n->dtype]);
}

/* A new step: the nodes and values of the last one are gone. */
static void dl__begin_step(dl_context *ctx)
{
    if (!ctx->ended) return;
    ctx->ended = false;
    dl__arena_reset(ctx, &ctx->tape);
    dl__arena_reset(ctx, &ctx->work);
#if DL__DEVICES
    if (DL__ON(ctx)) ctx->backend->step_reset(ctx->device);
#endif
    ctx->nodes = ctx->done = 0;
    ctx->step++;
    ctx->random_step++;
    ctx->ordinal = 0;
    ctx->hash = 0;
    ctx->depth = 0;
    ctx->path[0] = 0;
    ctx->opening = ++ctx->openings;
}

static bool dl__run(dl_context *ctx, bool final);

/* Before parameters change: what was recorded has their old values. */
static bool dl__run_recorded(dl_context *ctx)
{
    for (uint32_t i = ctx->done; i < ctx->nodes; i++)
        if (!(ctx->node[i]->flags & DL__LEAF)) return dl__run(ctx, false);
    return !ctx->failed;
}

/* What a node is made of, beyond operation, inputs and shape. */
typedef struct dl__extra {
    unsigned flags;
    int n;
    const dl_index *i;
    dl_real f[4];
    uint64_t counter;
    int space;
    size_t offset;
} dl__extra;

static dl__extra dl__with(int n, const dl_index *i)
{
    dl__extra e;
    memset(&e, 0, sizeof e);
    e.n = n;
    e.i = i;
    return e;
}

/* Appends a node. The caller has checked everything. */
static dl_tensor dl__record(dl_context *ctx, const dl_op *op, int n, dl_node *const *in, unsigned dtype,
    const dl_shape *shape, const dl__extra *extra)
{
    dl__extra none = dl__with(0, NULL);
    size_t numel;
    if (ctx->failed || ctx->running) return dl__none();
    if (!extra) extra = &none;
    dl__begin_step(ctx);
    if (!dl__count(ctx, op->name, shape, &numel)) return dl__none();
    if (ctx->nodes >= 0xfffff)
        return dl_fail(
                   ctx, "dl_%s: a step of more than a million operations: is dl_backward or dl_end missing?", op->name),
               dl__none();
    if (ctx->nodes == ctx->node_capacity) {
        uint32_t capacity = ctx->node_capacity ? 2 * ctx->node_capacity : 64;
        dl_node **table = (dl_node **)dl__grow(
            ctx, ctx->node, ctx->nodes * sizeof *table, capacity * sizeof *table, capacity);
        if (!table) return dl__none();
        ctx->node = table;
        ctx->node_capacity = capacity;
    }
    dl_node *y = (dl_node *)dl__tape_alloc(ctx,
        sizeof *y + (size_t)n * sizeof *in + (size_t)extra->n * sizeof *extra->i,
        5 + DLTRAIN_MAX_DIMS + (size_t)n + (size_t)extra->n);
    if (!y) return dl__none();
    dl_node **inputs = (dl_node **)(y + 1);
    dl_index *integers = (dl_index *)(inputs + n);
    for (int k = 0; k < n; k++) inputs[k] = in[k]->again ? ctx->node[in[k]->again] : in[k];
    for (int k = 0; k < extra->n; k++) integers[k] = extra->i[k];
    y->op = op;
    y->in = inputs;
    y->i = integers;
    y->numel = numel;
    memcpy(y->dim, shape->dim, sizeof y->dim);
    memcpy(y->f, extra->f, sizeof y->f);
    y->counter = extra->counter;
    y->id = ctx->nodes;
    y->ndim = (uint8_t)shape->ndim;
    y->dtype = (uint8_t)dtype;
    y->n_in = (uint8_t)n;
    y->n_i = (uint8_t)extra->n;
    y->space = (uint8_t)extra->space;
    y->flags = (uint8_t)extra->flags;
    y->again = 0;
    y->offset = extra->offset;
    uint64_t h = dl__mix_text(ctx->hash, op->name);
    for (int k = 0; k < n; k++) {
        if (y->in[k]->space == DL__GONE)
            return dl_fail(ctx, "dl_%s: %s (node %u) was planned away: call dl_keep before reading in mid-step",
                       op->name, y->in[k]->op->name, y->in[k]->id),
                   dl__none();
        if (ctx->recording && op->grad && y->in[k]->flags & DL__REQUIRES && dtype == DL_F32) y->flags |= DL__REQUIRES;
        h = dl__mix(h, y->in[k]->id + 1);
    }
    h = dl__mix(h, y->flags | (uint64_t)dtype << 8 | (uint64_t)shape->ndim << 16);
    for (int k = 0; k < shape->ndim; k++) h = dl__mix(h, (uint64_t)shape->dim[k]);
    for (int k = 0; k < extra->n; k++) h = dl__mix(h, (uint64_t)extra->i[k]);
    ctx->hash = h;
    ctx->node[ctx->nodes++] = y;
    if (ctx->config.eager && !dl__run(ctx, false)) return dl__none();
    return dl__handle(ctx, y);
}

/* Before a gradient reads a tensor whose value takes memory since the forward pass: it may be cheaper to make again. */
static void dl__remake(dl_tensor x)
{
    if (x.ctx->remake && x.ctx->ending) x.ctx->remake(x.ctx, x.ctx->node[x.node]);
}

static const dl_op dl__leaf_op = { "leaf", 0, NULL, NULL, NULL, NULL, NULL };

/* Memory that is there already. */
static dl_tensor dl__leaf(dl_context *ctx, unsigned dtype, const dl_shape *shape, const void *data, unsigned flags)
{
    dl__extra e = dl__with(0, NULL);
    e.flags = DL__LEAF | flags;
    e.space = DL__MEMORY;
    e.offset = (size_t)(uintptr_t)data;
    return dl__record(ctx, &dl__leaf_op, 0, NULL, dtype, shape, &e);
}

static dl_tensor dl__input(
    dl_context *ctx, const char *who, dl_dtype dtype, dl_shape shape, const void *data, bool copy, unsigned flags)
{
    size_t numel;
    if (!ctx || ctx->failed) return dl__none();
    if ((unsigned)dtype > DL_U8)
        return dl_fail(ctx, "dl_%s: there is no dtype %d", who, (int)(unsigned)dtype), dl__none();
    if (!dl__count(ctx, who, &shape, &numel)) return dl__none();
    if (!data && numel) return dl_fail(ctx, "dl_%s: data is NULL for a tensor %H", who, &shape), dl__none();
    dl__begin_step(ctx);
    if (copy && numel) {
        void *own = dl__tape_alloc(ctx, numel * dl__dtype_size(dtype), 0);
        if (!own) return dl__none();
        memcpy(own, data, numel * dl__dtype_size(dtype));
        data = own;
    }
    return dl__leaf(ctx, dtype, &shape, data, flags);
}

DL_API dl_tensor dl_input(dl_context *ctx, dl_dtype dtype, dl_shape shape, const void *data)
{
    return dl__input(ctx, "input", dtype, shape, data, true, 0);
}
DL_API dl_tensor dl_borrow(dl_context *ctx, dl_dtype dtype, dl_shape shape, const void *data)
{
    return dl__input(ctx, "borrow", dtype, shape, data, false, 0);
}
DL_API dl_tensor dl_variable(dl_context *ctx, dl_shape shape, const dl_real *data)
{
    return dl__input(ctx, "variable", DL_F32, shape, data, true, DL__WANTED | DL__REQUIRES);
}

/* A number as a tensor, of shape []: it lies in the node's f[0]. */
static dl_tensor dl__scalar(dl_context *ctx, double value)
{
    dl_shape s = DL_SCALAR;
    if (!ctx || ctx->failed) return dl__none();
    dl__begin_step(ctx);
    dl_real *own = (dl_real *)dl__tape_alloc(ctx, sizeof *own, 0);
    if (!own) return dl__none();
    *own = (dl_real)value;
    return dl__leaf(ctx, DL_F32, &s, own, 0);
}

/* ---- reading ---- */
static dl_node *dl__peek(dl_tensor t, const char *who)
{
    if (!t.ctx || t.ctx->failed) return NULL;
    if (t.step == t.ctx->step && t.node < t.ctx->nodes) return t.ctx->node[t.node];
    dl_fail(
        t.ctx, "dl_%s: a stale tensor: node %u of step %u; the current step is %u", who, t.node, t.step, t.ctx->step);
    return NULL;
}

DL_API bool dl_ok(dl_tensor t) { return t.ctx && !t.ctx->failed; }

DL_API dl_shape dl_shape_of(dl_tensor t)
{
    const dl_node *n = dl__peek(t, "shape_of");
    return n ? dl__shape(n) : DL_SCALAR;
}

DL_API int dl_ndim(dl_tensor t)
{
    const dl_node *n = dl__peek(t, "ndim");
    return n ? n->ndim : 0;
}

DL_API dl_index dl_dim(dl_tensor t, int dim)
{
    const dl_node *n = dl__peek(t, "dim");
    int d = n ? dl__axis(t.ctx, "dim", dim, n->ndim) : -1;
    return d < 0 ? 0 : n->dim[d];
}

DL_API size_t dl_numel(dl_tensor t)
{
    const dl_node *n = dl__peek(t, "numel");
    return n ? n->numel : 0;
}

DL_API dl_dtype dl_dtype_of(dl_tensor t)
{
    const dl_node *n = dl__peek(t, "dtype_of");
    return n ? (dl_dtype)n->dtype : DL_F32;
}

DL_API dl_tensor dl_keep(dl_tensor t)
{
    dl_node *n = dl__peek(t, "keep");
    if (!n) return dl__none();
    if (t.ctx->ended)
        return dl_fail(t.ctx, "dl_keep: the step has ended; call it before dl_backward or dl_end"), dl__none();
    if (n->id >= t.ctx->done && !(n->flags & DL__KEPT)) {
        n->flags |= DL__KEPT;
        t.ctx->hash = dl__mix(t.ctx->hash, ((uint64_t)n->id << 1) + 0x5ca1ab1e);
    }
    return t;
}

/* The flat buffer that is a space, or NULL. */
static dl_real *dl__flat(const dl_context *ctx, unsigned space)
{
    return space == DL__VALUES ? ctx->values
        : space == DL__GRADS   ? ctx->grads
        : space == DL__BUFFERS ? ctx->buffers
                               : NULL;
}

/* Where the value of a placed node is. */
static void *dl__address(const dl_context *ctx, const dl_node *n)
{
    if (n->space == DL__MEMORY) return (void *)(uintptr_t)n->offset;
    dl_real *base = dl__flat(ctx, n->space);
    return base ? base + n->offset : NULL;
}

#if DL__DEVICES
DL_API void *dl_device_address(const dl_context *ctx, const dl_node *n)
{
    if (n->space == DL__MEMORY) return (void *)(uintptr_t)n->offset;
    dl__twin *t = dl__twin_of(ctx, dl__flat(ctx, n->space));
    return t ? (dl_real *)t->there + n->offset : NULL;
}
#endif

/* The value of a node that has run, for the host: on a device a copy of it, on the tape. NULL after an error. */
static const void *dl__host_value(dl_context *ctx, const dl_node *n)
{
#if DL__DEVICES
    if (DL__ON(ctx) && n->space == DL__MEMORY) {
        void *copy = dl__tape_alloc(ctx, dl__bytes(n), 0);
        return copy && ctx->backend->download(ctx->device, copy, (void *)(uintptr_t)n->offset, dl__bytes(n))
            ? copy
            : NULL;
    }
#endif
    return dl__to_host(ctx, dl__flat(ctx, n->space)) ? dl__address(ctx, n) : NULL;
}

/* Input k of an operation that runs on the host wherever its context is. NULL after an error. */
static const void *dl__host_in(const dl_run_args *r, int k)
{
    return DL__ON(r->ctx) ? dl__host_value(r->ctx, r->node->in[k]) : r->in[k];
}

static const void *dl__value(dl_tensor t, const char *who)
{
    static const dl_real nothing[1] = { 0 };
    dl_node *n = dl__peek(t, who);
    bool waits = n && (n->id >= t.ctx->done || n->space == DL__BUFFERS); /* batch_norm changes buffers */
    if (!n || (waits && !dl__run(t.ctx, false))) return NULL;
    if (n->space == DL__GONE || n->space == DL__TILE || n->space == DL__UNPLACED) {
        dl_fail(
            t.ctx, "dl_%s: %s (node %u) was planned away: call dl_keep before dl_backward", who, n->op->name, n->id);
        return NULL;
    }
    return n->numel && !t.ctx->dry ? dl__host_value(t.ctx, n) : nothing;
}

DL_API const void *dl_data(dl_tensor t) { return dl__value(t, "data"); }

DL_API double dl_item(dl_tensor t)
{
    dl_node *n = dl__peek(t, "item");
    if (n && n->numel != 1) dl_fail(t.ctx, "dl_item: takes a tensor of one element, not %S", n);
    const void *p = dl__value(t, "item");
    if (!p || !n) return dl__nan();
    return n->dtype == DL_F32 ? (double)*(const dl_real *)p
        : n->dtype == DL_I32  ? (double)*(const int32_t *)p
                              : (double)*(const uint8_t *)p;
}

DL_API bool dl_read(dl_tensor t, void *out, size_t count)
{
    dl_node *n = dl__peek(t, "read");
    if (!n) return false;
    if (count != n->numel) return dl_fail(t.ctx, "dl_read: %S has %zu elements, not %zu", n, n->numel, count);
    if (!out && count) return dl_fail(t.ctx, "dl_read: out is NULL");
    const void *p = dl__value(t, "read");
    if (!p) return false;
    if (t.ctx->dry) memset(out, 0, dl__bytes(n));
    else if (count) memcpy(out, p, dl__bytes(n));
    return true;
}

DL_API void dl_end(dl_context *ctx)
{
    if (!ctx || ctx->failed || ctx->ended) return;
    dl__run(ctx, true);
    ctx->ended = true;
}

DL_API void dl_clear_error(dl_context *ctx)
{
    if (!ctx) return;
    dl__rest(ctx);
    ctx->failed = false;
    ctx->error[0] = 0;
    ctx->done = ctx->nodes; /* what was recorded is not run */
    ctx->ended = true;
    ctx->running = false;
    dl__begin_step(ctx);
}

DL_API bool dl_train(dl_context *ctx, bool training)
{
    bool was = ctx && ctx->training;
    if (ctx) ctx->training = training;
    return was;
}

DL_API bool dl_set_grad(dl_context *ctx, bool recording)
{
    bool was = ctx && ctx->recording;
    if (ctx) ctx->recording = recording;
    return was;
}

/* ---- names ---- */
static bool dl__glob1(const char *p, size_t n, const char *s) /* one alternative of n characters */
{
    const char *star = NULL, *mark = NULL, *end = p + n;
    while (*s) {
        if (p < end && (*p == '?' || (*p == *s && *p != '*'))) p++, s++;
        else if (p < end && *p == '*') star = p++, mark = s;
        else if (star) p = star + 1, s = ++mark;
        else return false;
    }
    while (p < end && *p == '*') p++;
    return p == end;
}

DL_API bool dl_glob(const char *pattern, const char *name)
{
    if (!pattern || !name) return false;
    for (const char *p = pattern;; p++) {
        size_t n = strcspn(p, "|");
        if (dl__glob1(p, n, name)) return true;
        p += n;
        if (!*p) return false;
    }
}

/* Does anything match? An error of `who` when not. NULL means all and always matches. */
static bool dl__matches(dl_context *ctx, const char *who, const char *pattern)
{
    if (!pattern) return true;
    for (int i = 0; i < ctx->params; i++)
        if (dl_glob(pattern, ctx->param[i].name)) return true;
    return dl_fail(ctx, "dl_%s: no parameter matches '%s'", who, pattern);
}

static int dl__distance(const char *a, const char *b) /* Levenshtein's, of names */
{
    int row[DLTRAIN_NAME_MAX + 1], n = (int)strlen(b);
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 0; a[i]; i++) {
        int corner = row[0];
        row[0] = i + 1;
        for (int j = 0; j < n; j++) {
            int next = corner + (a[i] != b[j]);
            corner = row[j + 1];
            row[j + 1] = DL__MIN(next, DL__MIN(corner, row[j]) + 1);
        }
    }
    return row[n];
}

static const char *dl__nearest(const dl_context *ctx, const char *name)
{
    int best = 1 << 30;
    const char *found = NULL;
    for (int i = 0; i < ctx->params; i++) {
        int d = dl__distance(name, ctx->param[i].name);
        if (d < best) best = d, found = ctx->param[i].name;
    }
    return found;
}

DL_API bool dl_scope_end(dl_context *ctx)
{
    if (!ctx || ctx->failed) return false;
    if (!ctx->depth) return dl_fail(ctx, "dl_scope_end: no scope is open");
    ctx->depth--;
    ctx->opening = ctx->scope[ctx->depth].opening;
    ctx->path[ctx->scope[ctx->depth].length] = 0;
    return true;
}

static bool dl__check_name(dl_context *ctx, const char *who, const char *name)
{
    if (!name) return dl_fail(ctx, "dl_%s: the name is NULL", who);
    if (!*name) return dl_fail(ctx, "dl_%s: the name is empty", who);
    if (strpbrk(name, "*?|\"\\\n"))
        return dl_fail(ctx, "dl_%s: '%s' is not a name: * ? | \" and \\ are kept for patterns and files", who, name);
    if (strlen(ctx->path) + strlen(name) + 20 > DLTRAIN_NAME_MAX)
        return dl_fail(ctx, "dl_%s: the name '%s' in '%s' is too long; DLTRAIN_NAME_MAX is %d", who, name, ctx->path,
            DLTRAIN_NAME_MAX);
    return true;
}

DL_API bool dl_scope_begin(dl_context *ctx, const char *name)
{
    if (!ctx || ctx->failed) return false;
    dl__begin_step(ctx);
    if (!dl__check_name(ctx, "scope_begin", name)) return false;
    if (ctx->depth == (int)DL__COUNT_OF(ctx->scope))
        return dl_fail(ctx, "dl_scope_begin: %d scopes are open: is dl_scope_end missing?", ctx->depth);
    size_t length = strlen(ctx->path);
    ctx->scope[ctx->depth].opening = ctx->opening;
    ctx->scope[ctx->depth].length = (int)length;
    ctx->depth++;
    ctx->opening = ++ctx->openings;
    if (length) ctx->path[length++] = '.';
    memcpy(ctx->path + length, name, strlen(name) + 1);
    return true;
}

/* ---- parameters ---- */
static dl__param *dl__find(dl_context *ctx, const char *name)
{
    uint64_t hash = dl__hash_text(name);
    for (int i = 0; i < ctx->params; i++) { /* a step asks in the order of the last one */
        dl__param *p = &ctx->param[ctx->param_hint];
        if (++ctx->param_hint >= ctx->params) ctx->param_hint = 0;
        if (p->hash == hash && !strcmp(p->name, name)) return p;
    }
    return NULL;
}

static dl__param *dl__new_param(dl_context *ctx, const char *name, const dl_param_desc *desc, size_t numel)
{
    dl__rest(ctx); /* it may move the others */
    if (ctx->params == ctx->param_capacity) {
        int capacity = ctx->param_capacity ? 2 * ctx->param_capacity : 8;
        dl__param *table = (dl__param *)dl__grow(ctx, ctx->param, (size_t)ctx->params * sizeof *table,
            (size_t)capacity * sizeof *table, (size_t)capacity * (4 + DLTRAIN_MAX_DIMS));
        if (!table) return NULL;
        ctx->param = table;
        ctx->param_capacity = capacity;
    }
    dl__param *p = &ctx->param[ctx->params];
    memset(p, 0, sizeof *p);
    p->name = dl__copy_text(ctx, name);
    if (!p->name) return NULL;
    p->hash = dl__hash_text(name);
    p->shape = desc->shape;
    p->numel = numel;
    p->offset = SIZE_MAX;
    p->init = desc->init;
    p->value = desc->value;
    p->buffer = desc->buffer;
    p->fresh = true;
    p->leaf_step = ctx->step - 1;
    for (dl__pending *q = ctx->pending; q; q = q->next)
        if (q->value && !strcmp(q->name, name)) {
            if (q->shape.ndim != p->shape.ndim ||
                memcmp(q->shape.dim, p->shape.dim, sizeof *p->shape.dim * (size_t)p->shape.ndim)) {
                dl_fail(ctx, "dl_load: '%s' is %H in the file and %H in the program", name, &q->shape, &p->shape);
                return NULL;
            }
            p->pending = q->value;
            q->value = NULL;
        }
    ctx->params++;
    return p;
}
/* One that another context or a file describes: its initialiser may be any. */
static dl__param *dl__new_param_like(dl_context *ctx, const char *name, const dl_param_desc *desc, size_t numel)
{
    ctx->normal = dl__normal;
    return dl__new_param(ctx, name, desc, numel);
}

/* The node of a parameter in this step. */
static dl_tensor dl__param_leaf(dl_context *ctx, dl__param *p)
{
    if (p->leaf_step == ctx->step) return dl__handle(ctx, ctx->node[p->leaf]);
    dl_index index = (dl_index)(p - ctx->param);
    dl__extra e = dl__with(1, &index);
    e.flags = DL__LEAF;
    if (!p->buffer && !p->frozen) e.flags |= DL__REQUIRES | DL__WANTED;
    e.space = p->buffer ? DL__BUFFERS : DL__VALUES;
    e.offset = p->offset;
    p->leaf_step = ctx->step;
    p->leaf = ctx->nodes;
    return dl__record(ctx, &dl__leaf_op, 0, NULL, DL_F32, &p->shape, &e);
}

/* The leaf of a parameter, created when it is unknown. `who` is the layer's or "parameter"; `layer`: a name used
   once in an opening. */
static dl_tensor dl__parameter(
    dl_context *ctx, const char *who, const char *layer, const char *role, const dl_param_desc *desc)
{
    char name[DLTRAIN_NAME_MAX];
    dl__text t;
    size_t numel;
    if (!ctx || ctx->failed) return dl__none();
    if (!desc) return dl_fail(ctx, "dl_%s: desc is NULL", who), dl__none();
    if (!dl__check_name(ctx, who, layer) || !dl__count(ctx, who, &desc->shape, &numel)) return dl__none();
    if ((unsigned)desc->init > DL_INIT_CONSTANT)
        return dl_fail(ctx, "dl_%s: there is no initialiser %d", who, (int)desc->init), dl__none();
    dl__begin_step(ctx);
    t.at = name;
    t.end = name + sizeof name - 1;
    if (*ctx->path) dl__puts(&t, ctx->path), dl__put(&t, '.');
    dl__puts(&t, layer);
    if (role) dl__put(&t, '.'), dl__puts(&t, role);
    *t.at = 0;
    if (!strcmp(name, "__metadata__"))
        return dl_fail(ctx, "dl_%s: the name '%s' is taken: checkpoints use it", who, name), dl__none();
    dl__param *p = dl__find(ctx, name);
    if (!p) {
        if (ctx->sealed) {
            const char *near_name = dl__nearest(ctx, name);
            dl_fail(ctx,
                "dl_%s: there is no parameter '%s', and after the first dl_step none can be added; the nearest is '%s'",
                who, name, near_name ? near_name : "none");
            return dl__none();
        }
        p = dl__new_param(ctx, name, desc, numel);
        if (!p) return dl__none();
    } else if (p->shape.ndim != desc->shape.ndim ||
        memcmp(p->shape.dim, desc->shape.dim, sizeof *p->shape.dim * (size_t)p->shape.ndim)) {
        return dl_fail(ctx, "dl_%s: '%s' is %H, asked for as %H", who, name, &p->shape, &desc->shape), dl__none();
    } else if (p->init != desc->init || p->value != desc->value || p->buffer != desc->buffer)
        return dl_fail(ctx, "dl_%s: '%s' exists with another initialiser", who, name), dl__none();
    if (role) {
        if (p->opening == ctx->opening) {
            if (ctx->depth)
                dl_fail(ctx, "dl_%s: '%s' is already used in '%s'; open a scope per call to share it", who, layer,
                    ctx->path);
            else
                dl_fail(ctx, "dl_%s: '%s' is already used in this step; open a scope per call to share it", who, layer);
            return dl__none();
        }
        p->opening = ctx->opening;
    }
    return dl__param_leaf(ctx, p);
}

DL_API dl_tensor dl_parameter(dl_context *ctx, const char *name, const dl_param_desc *desc)
{
    if (ctx && desc && desc->init == DL_INIT_NORMAL) ctx->normal = dl__normal;
    return dl__parameter(ctx, "parameter", name, NULL, desc);
}

static bool dl__is_param(const dl_node *n) { return n->op == &dl__leaf_op && n->n_i == 1; }

/* The flat buffers grown to hold `need` elements. */
static bool dl__reserve(dl_context *ctx, dl_real **buffer, size_t used, size_t need)
{
    if (!dl__to_host(ctx, *buffer)) return false;
    dl_real *old = *buffer, *p = (dl_real *)dl__grow(ctx, old, used * sizeof *p, need * sizeof *p, 0);
    if (!p) return false;
#if DL__DEVICES
    if (DL__ON(ctx)) dl__forget_twin(ctx, old);
#endif
    *buffer = p;
    return true;
}

static void dl__initialise(dl_context *ctx, const dl__param *p)
{
    dl_real *v = (p->buffer ? ctx->buffers : ctx->values) + p->offset;
    uint32_t u[4];
    if (ctx->dry) return;
    dl__host_wrote(ctx, p->buffer ? ctx->buffers : ctx->values);
    if (p->pending) {
        memcpy(v, p->pending, p->numel * sizeof *v);
        return;
    }
    for (size_t i = 0; i < p->numel; i++) {
        if (p->init != DL_INIT_CONSTANT && i % 4 == 0) dl__philox(ctx->config.seed, i / 4, p->hash, u);
        v[i] = p->init == DL_INIT_CONSTANT ? (dl_real)p->value
            : p->init == DL_INIT_UNIFORM   ? (dl_real)p->value * (2 * dl__uniform(u[i % 4]) - 1)
                                           : (dl_real)p->value * ctx->normal(u, (int)(i % 4));
    }
}

static size_t dl__padded(size_t numel) /* in the flat buffers */
{
    size_t pad = DLTRAIN_ALIGN / sizeof(dl_real) ? DLTRAIN_ALIGN / sizeof(dl_real) : 1;
    return (numel + pad - 1) / pad * pad;
}

/* Places the parameters that have no place yet behind the others. Growth copies. */
static bool dl__lay_out(dl_context *ctx)
{
    size_t n[2];
    bool any = false;
    n[0] = ctx->n_values;
    n[1] = ctx->n_buffers;
    for (int i = 0; i < ctx->params; i++)
        if (ctx->param[i].offset == SIZE_MAX) {
            any = true;
            n[ctx->param[i].buffer] += dl__padded(ctx->param[i].numel);
        }
    if (!any) return true;
    if (!dl__to_host(ctx, ctx->values) || !dl__to_host(ctx, ctx->buffers)) return false;
    if (n[0] > ctx->cap_values) {
        if (!dl__reserve(ctx, &ctx->values, ctx->n_values, n[0])) return false;
        if (ctx->grads && !dl__reserve(ctx, &ctx->grads, ctx->n_values, n[0])) return false;
        ctx->cap_values = n[0];
    }
    if (n[1] > ctx->cap_buffers) {
        if (!dl__reserve(ctx, &ctx->buffers, ctx->n_buffers, n[1])) return false;
        ctx->cap_buffers = n[1];
    }
    for (int i = 0; i < ctx->params; i++) {
        dl__param *p = &ctx->param[i];
        if (p->offset != SIZE_MAX) continue;
        size_t *at = p->buffer ? &ctx->n_buffers : &ctx->n_values;
        p->offset = *at;
        *at += dl__padded(p->numel);
        dl__initialise(ctx, p);
        dl__release(ctx, p->pending);
        p->pending = NULL;
    }
    ctx->layout++;
    return true;
}

static bool dl__lay_out_grads(dl_context *ctx)
{
    return dl__lay_out(ctx) && (ctx->grads || !ctx->cap_values || dl__reserve(ctx, &ctx->grads, 0, ctx->cap_values));
}

DL_API int dl_param_count(const dl_context *ctx) { return ctx ? ctx->params : 0; }

DL_API bool dl_param_get(dl_context *ctx, int index, dl_param_info *out)
{
    if (!ctx || ctx->failed) return false;
    if (!out) return dl_fail(ctx, "dl_param_get: out is NULL");
    if (index < 0 || index >= ctx->params)
        return dl_fail(ctx, "dl_param_get: there is no parameter %d; there are %d", index, ctx->params);
    const dl__param *p = &ctx->param[index];
    dl_real *base = p->buffer ? ctx->buffers : ctx->values;
    bool placed = p->offset != SIZE_MAX;
    if (!dl__to_host(ctx, base) || (!p->buffer && !dl__to_host(ctx, ctx->grads))) return false;
    dl__host_wrote(ctx, base); /* the caller may */
    if (!p->buffer) dl__host_wrote(ctx, ctx->grads);
    out->name = p->name;
    out->shape = p->shape;
    out->numel = p->numel;
    out->value = placed && base ? base + p->offset : NULL;
    out->grad = placed && !p->buffer && ctx->grads ? ctx->grads + p->offset : NULL;
    out->buffer = p->buffer;
    out->frozen = p->frozen;
    out->has_grad = !p->buffer && !p->fresh;
    return true;
}

DL_API bool dl_param_find(dl_context *ctx, const char *name, dl_param_info *out)
{
    if (!ctx || ctx->failed) return false;
    dl__param *p = name ? dl__find(ctx, name) : NULL;
    if (p) return dl_param_get(ctx, (int)(p - ctx->param), out);
    const char *near_name = name ? dl__nearest(ctx, name) : NULL;
    return dl_fail(
        ctx, "dl_param_find: there is no parameter '%s'; the nearest is '%s'", name, near_name ? near_name : "none");
}

DL_API bool dl_param_set(dl_context *ctx, const char *name, const dl_real *values, size_t count)
{
    dl_param_info p;
    if (!ctx || ctx->failed) return false;
    if (!values) return dl_fail(ctx, "dl_param_set: values is NULL");
    if (!dl_param_find(ctx, name, &p) || !dl__run_recorded(ctx) || !dl__lay_out(ctx) || !dl_param_find(ctx, name, &p))
        return false;
    if (count != p.numel) return dl_fail(ctx, "dl_param_set: '%s' has %zu elements, not %zu", name, p.numel, count);
    if (count && !ctx->dry) memcpy(p.value, values, count * sizeof *values);
    return true;
}

DL_API bool dl_freeze(dl_context *ctx, const char *pattern, bool frozen)
{
    if (!ctx || ctx->failed) return false;
    if (!pattern) return dl_fail(ctx, "dl_freeze: the pattern is NULL");
    if (!dl__matches(ctx, "freeze", pattern)) return false;
    for (int i = 0; i < ctx->params; i++)
        if (dl_glob(pattern, ctx->param[i].name)) ctx->param[i].frozen = frozen;
    return true;
}

DL_API bool dl_seal(dl_context *ctx)
{
    if (!ctx || ctx->failed || !dl__lay_out(ctx)) return false;
    if (ctx->sealed) return true;
    ctx->sealed = true;
    for (int i = 0; i < ctx->params; i++)
        dl__say(
            ctx, "%s %s %H", ctx->param[i].buffer ? "buffer" : "parameter", ctx->param[i].name, &ctx->param[i].shape);
    for (dl__pending *q = ctx->pending; q; q = q->next)
        if (q->value) dl__say(ctx, "dl_load: '%s' of the file belongs to no parameter", q->name);
    return true;
}

/* For an operation of DL_OP_FINISHES: elements first .. first + n of its output are complete. */
static void dl__finished(const dl_run_args *r, size_t first, size_t n)
{
    if (r->finished) r->finished(r, first, n);
}
/* Rows of n elements, `stride` apart. */
static void dl__finished_rows(const dl_run_args *r, size_t first, size_t rows, size_t n, size_t stride)
{
    if (n == stride) n *= rows, rows = 1;
    for (size_t i = 0; r->finished && i < rows; i++) r->finished(r, first + i * stride, n);
}

#ifdef DL__QUICK
#pragma GCC pop_options
#endif

/* ==== >>cpu kernels ====
   Plain pointers and sizes; read once for each SIMD level: the file includes itself.
   may use: platform

   THE CANONICAL ARITHMETIC, from which every kernel gets the same bits at any vector width and any number of threads:
     1. float, round to nearest even, subnormals kept; divisions and square roots are IEEE's, rsqrt is 1 / sqrt.
     2. A product over k is cut into blocks of 256: each is a chain of fused multiply-adds in order of k from +0; the
        totals of the blocks are added in order. It depends on nothing but K: a sample alone gives its row of a batch.
     3. The order of k in a convolution is (ky, kx, channel); of its weight gradient (image, y, x). Padding multiplies
        +0.
     4. Accumulating is dst + total: one addition, at the end. A bias is added to the total, then rounded.
     5. A sum of contiguous numbers is cut into chunks of 4096; number i of a chunk goes to lane i mod 64; the lanes are
        added pairwise, 32 apart, 16, ... 1; the sums of the chunks are summed by the same rule.
     6. A sum down columns is rule 2 with factors 1; the numbers of a channel, in order (image, y, x), are summed by
        rule 5. Normalising, each step rounded: v = sum((x - mean)^2) (1 / n), r = 1 / sqrt(v + eps), h = (x - mean) r,
        y = h w + b; dx = k ((dy - mean of dy) - h (mean of dy h)), where k = w r by channels; by rows k = r, and dy w
        stands for dy.
     7. In max and argmax the first winner wins, and NaN wins over all. softmax is max, then exp, then sum.
     8. exp, log, tanh, erf and the normal distribution are the polynomials below. No compiler may contract a
        multiplication and an addition. */
/* ---- device code, too: tools/embed_kernels.py puts it into dltrain_cuda.h, as far as the next such line ---- */
enum { DL__THIN = 3, DL__KB = 256, DL__MC = 192, DL__CHUNK = 4096, DL__LANES = 64, DL__PACK = 16 };

/* One text an operation: its forward form, then its derivative dy -> dx, in prefix macros that are read twice:
   here as SIMD code, at >>operations as calls that record, which is why second derivatives exist. X is the input,
   Y the output; E_A and E_B the operation's scalars; E_MULS, E_ADDS and E_LEAST (a maximum) take a number. */
#define DL__UNARY_ROWS(ROW) \
    ROW(neg, E_NEG(X), E_NEG(DY)) \
    ROW(sign, E_SEL(E_GT(X, E_K(0)), E_K(1), E_SEL(E_LT(X, E_K(0)), E_K(-1), E_K(0))), E_NONE) \
    ROW(abs, E_ABS(X), E_MUL(DY, E_SIGN(X))) \
    ROW(exp, E_EXP(X), E_MUL(DY, Y)) \
    ROW(log, E_LOG(X), E_DIV(DY, X)) \
    ROW(log1p, E_LOG1P(X), E_DIV(DY, E_ADDS(X, 1))) \
    ROW(expm1, E_EXPM1(X), E_MUL(DY, E_ADDS(Y, 1))) \
    ROW(sqrt, E_SQRT(X), E_DIV(E_MULS(DY, 0.5), Y)) \
    ROW(rsqrt, E_DIV(E_K(1), E_SQRT(X)), E_MUL(E_MULS(DY, -0.5), E_DIV(Y, X))) \
    ROW(square, E_MUL(X, X), E_MUL(DY, E_MULS(X, 2))) \
    ROW(reciprocal, E_DIV(E_K(1), X), E_NEG(E_MUL(DY, E_MUL(Y, Y)))) \
    ROW(sigmoid, E_SIGMOID(X), E_MUL(DY, E_MUL(Y, E_SUB(E_K(1), Y)))) \
    ROW(tanh, E_TANH(X), E_MUL(DY, E_SUB(E_K(1), E_MUL(Y, Y)))) \
    ROW(sin, E_SIN(X), E_MUL(DY, E_COS(X))) \
    ROW(cos, E_COS(X), E_NEG(E_MUL(DY, E_SIN(X)))) \
    ROW(erf, E_ERF(X), E_MUL(E_MULS(DY, 1.1283791670955126), E_EXP(E_NEG(E_MUL(X, X))))) \
    ROW(relu, E_SEL(E_LT(X, E_K(0)), E_K(0), X), E_RELU_BACK(DY, Y)) \
    ROW(gelu, E_MUL(X, E_CDF(X)), E_MUL(DY, E_GELU_SLOPE(X))) \
    ROW(gelu_slope, E_ADD(E_CDF(X), E_MUL(E_MULS(X, 0.39894228040143268), E_EXP(E_MULS(E_MUL(X, X), -0.5)))), \
        E_MUL(DY, \
            E_MUL(E_MULS(E_EXP(E_MULS(E_MUL(X, X), -0.5)), 0.39894228040143268), E_ADDS(E_NEG(E_MUL(X, X)), 2)))) \
    ROW(gelu_u, E_MULS(E_MUL(X, E_ADDS(E_MULS(E_MUL(X, X), 0.044715), 1)), 0.79788456080286536), \
        E_MUL(DY, E_MULS(E_ADDS(E_MULS(E_MUL(X, X), 0.134145), 1), 0.79788456080286536))) \
    ROW(gelu_tanh, E_MUL(E_MULS(X, 0.5), E_ADDS(E_TANH(E_GELU_U(X)), 1)), \
        E_MUL(DY, E_GELU_BACK(X, E_TANH(E_GELU_U(X))))) \
    ROW(silu, E_DIV(X, E_ADD(E_K(1), E_EXP(E_NEG(X)))), \
        E_MUL(DY, E_SILU_SLOPE(X))) \
    ROW(silu_slope, E_MUL(E_SIGMOID(X), E_ADDS(E_MUL(X, E_SUB(E_K(1), E_SIGMOID(X))), 1)), \
        E_MUL(DY, E_MUL(E_MUL(E_SIGMOID(X), E_SUB(E_K(1), E_SIGMOID(X))), \
            E_ADDS(E_MUL(X, E_ADDS(E_MULS(E_SIGMOID(X), -2), 1)), 2)))) \
    ROW(softplus, E_ADD(E_SEL(E_LT(X, E_K(0)), E_K(0), X), E_LOG1P(E_EXP(E_NEG(E_ABS(X))))), E_MUL(DY, E_SIGMOID(X)))
#define DL__SCALED_ROWS(ROW) \
    ROW(add_scalar, E_ADD(X, E_A), DY) \
    ROW(mul_scalar, E_MUL(X, E_A), E_MULS(DY, A)) \
    ROW(pow_scalar, E_POW(X, E_A), E_MUL(E_MULS(DY, A), E_POWS(X, A != 0 ? A - 1 : 0))) \
    ROW(leaky_relu, E_SEL(E_GT(X, E_K(0)), X, E_MUL(X, E_A)), E_SEL(E_GT(X, E_K(0)), DY, E_MULS(DY, A))) \
    ROW(elu, E_SEL(E_GT(X, E_K(0)), X, E_MUL(E_EXPM1(X), E_A)), E_SEL(E_GT(X, E_K(0)), DY, E_MUL(DY, E_ADDS(Y, A)))) \
    ROW(clamp, E_SEL(E_LT(X, E_A), E_A, E_SEL(E_GT(X, E_B), E_B, X)), \
        E_MUL(DY, E_MUL(E_GE(X, E_KA), E_LE(X, E_KB))))
/* Binary rows: both derivatives. Z is the second input. */
#define DL__BINARY_ROWS(ROW) \
    ROW(add, E_ADD(X, Z), DY, DY) \
    ROW(sub, E_SUB(X, Z), DY, E_NEG(DY)) \
    ROW(mul, E_MUL(X, Z), E_MUL(DY, Z), E_MUL(DY, X)) \
    ROW(div, E_DIV(X, Z), E_DIV(DY, Z), E_NEG(E_MUL(DY, E_DIV(Y, Z)))) \
    ROW(pow, E_POW(X, Z), E_SEL(E_EQ(Z, E_K(0)), E_K(0), E_MUL(DY, E_MUL(Z, E_POW(X, E_ADDS(Z, -1))))), \
        E_SEL(E_MUL(E_EQ(X, E_K(0)), E_GE(Z, E_K(0))), E_K(0), E_MUL(DY, E_MUL(Y, E_LOG(X))))) \
    ROW(maximum, E_SEL(E_LT(X, Z), Z, E_SEL(E_EQ(Z, Z), X, Z)), E_MUL(DY, E_ADD(E_GT(X, Z), E_MULS(E_EQ(X, Z), 0.5))), \
        E_MUL(DY, E_ADD(E_GT(Z, X), E_MULS(E_EQ(X, Z), 0.5)))) \
    ROW(minimum, E_SEL(E_GT(X, Z), Z, E_SEL(E_EQ(Z, Z), X, Z)), E_MUL(DY, E_ADD(E_LT(X, Z), E_MULS(E_EQ(X, Z), 0.5))), \
        E_MUL(DY, E_ADD(E_LT(Z, X), E_MULS(E_EQ(X, Z), 0.5)))) \
    ROW(bce, \
        E_NEG(E_ADD(E_MUL(Z, E_LEAST(E_LOG(X), -100)), E_MUL(E_SUB(E_K(1), Z), E_LEAST(E_LOG1P(E_NEG(X)), -100)))), \
        E_MUL(DY, E_DIV(E_SUB(X, Z), E_LEAST(E_MUL(E_SUB(E_K(1), X), X), 1e-12f))), \
        E_MUL(DY, E_SUB(E_LEAST(E_LOG1P(E_NEG(X)), -100), E_LEAST(E_LOG(X), -100)))) \
    ROW(relu_back, E_SEL(E_LE(Z, E_K(0)), E_K(0), X), E_RELU_BACK(DY, Z), E_NONE) \
    ROW(gelu_back, \
        E_ADD(E_MULS(E_ADDS(Z, 1), 0.5), \
            E_MUL(E_MUL(E_MULS(X, 0.5), E_SUB(E_K(1), E_MUL(Z, Z))), \
                E_MULS(E_ADDS(E_MULS(E_MUL(X, X), 0.134145), 1), 0.79788456080286536))), \
        E_MUL(DY, \
            E_MUL(E_SUB(E_K(1), E_MUL(Z, Z)), E_MULS(E_ADDS(E_MULS(E_MUL(X, X), 0.402435), 1), 0.39894228040143268))), \
        E_MUL(DY, \
            E_ADDS(E_NEG(E_MUL(E_MUL(X, Z), \
                E_MULS(E_ADDS(E_MULS(E_MUL(X, X), 0.134145), 1), 0.79788456080286536))), 0.5)))
#define DL__COMPARE_ROWS(ROW) \
    ROW(eq, E_EQ(X, Z)) ROW(ne, E_NE(X, Z)) ROW(lt, E_LT(X, Z)) \
    ROW(le, E_LE(X, Z)) ROW(gt, E_GT(X, Z)) ROW(ge, E_GE(X, Z))

/* ---- no device code ---- */
/* ---- products: the rows of A are read a number at a time and broadcast, B's lie in vectors, C[m][n] = sum
   over k of A[m][k] B[n][k]. One kernel serves matmul and convolution, since where A's elements are is told
   by two tables. ---- */
typedef struct dl__panel { /* `rows` rows of A times up to nr columns of B, over one block of k */
    dl_index rows, cols, kc;
    const dl_real *a;               /* element k of row i is a[row[i] + at[k]] */
    const dl_index *row, *at;
    const dl_real *b;               /* the vectors of step k are at b + k * b_step: nr numbers, perhaps fewer count */
    dl_index b_step;
    dl_real *out;                   /* rows out_row apart */
    dl_index out_row;
    bool chained;                   /* goes on with the chains that are in out, which has whole vectors */
    bool more;                      /* adds to the blocks before, which are in out */
    bool add;                       /* adds to what is in out */
    const dl_real *bias;            /* added to the total, of the columns or of the rows; NULL: none */
    bool bias_by_row;
} dl__panel;
/* Convolution where the pixels of a row lie in vectors: y[c][i] (+)= sum over k of w[k][c] x[at[k] + i] (+ bias[c]) for
   rows of pixels i. As many more numbers as fill a vector are read behind each row. */
typedef struct dl__strip {
    dl_index rows, width, channels, blocks;
    const dl_real *x, *w, *bias;
    const dl_index *at, *begin;     /* block b of k: begin[b] .. begin[b + 1] */
    dl_real *y;
    dl_index x_row, w_step, y_row, y_plane;
    bool add;
} dl__strip;
static dl_index dl__vectors(dl_index n, dl_index width) { return (n + width - 1) / width; }
typedef struct dl__products {
    dl_index mr, nr;                /* rows and columns computed at a time */
    dl_index width;                 /* numbers of a vector */
    dl_index mc, nc;                /* how much of C one unit of work computes at most */
    void (*panel)(const dl__panel *p);
    /* the same for few rows and any multiple of nr columns, if they lie side by side; NULL: none */
    void (*thin)(const dl__panel *p);
    /* the same for a row and any number of columns that lie along k, b_step apart; NULL: none */
    void (*dots)(const dl__panel *p);
    /* dst[j * dst_row + i] (+)= src[i * src_row + j] */
    void (*turn)(
        const dl_real *src, dl_index src_row, dl_index rows, dl_index cols, dl_real *dst, dl_index dst_row, bool add);
    /* columns of B into panels of nr, kc * nr apart: column j at step k is src[j * row + k * step]; 0 from `cols` on */
    void (*pack)(const dl_real *src, dl_index row, dl_index step, dl_index cols, dl_index kc, dl_real *dst);
} dl__products;

/* ---- what is summed, and how far: level 0 holds lanes of numbers, level 1 sums of chunks, and so on: rule 5 ---- */
enum { DL__SUM, DL__SUM_SQUARES, DL__SUM_PRODUCTS, DL__DEPTH = 4 };
typedef struct dl__total { dl_real lane[DL__DEPTH][DL__LANES]; size_t n[DL__DEPTH]; } dl__total;

/* ---- asking for memory ahead of the loop that comes to it: what the processor foresees ends at each page ---- */
enum { DL__AHEAD = 512, DL__LINE = 64 / sizeof(dl_real) }; /* numbers: far enough; of a cache line */
/* Of runs of n numbers, `stride` apart: how far from a number the one is that comes so much later. */
static size_t dl__lead(size_t n, size_t stride) { return n && DL__VECTORS ? (DL__AHEAD + n - 1) / n * stride : 0; }
/* The n numbers `lead` behind x. */
DL__INLINE void dl__ahead(const dl_real *x, size_t lead, size_t n)
{
    for (size_t i = 0; i < n && DL__VECTORS; i += DL__LINE)
        DL__PREFETCH((const void *)((uintptr_t)x + (i + lead) * sizeof *x));
}

/* of_a, or of_b where b wins: it is above a, which came before, or the first NaN. In a form that gcc vectorises. */
DL__INLINE dl_real dl__winner(dl_real a, dl_real b, dl_real of_a, dl_real of_b)
{
    dl_real number = b <= a ? of_a : of_b;
    return a != a ? of_a : number;
}

/* ---- attention, described: y [L,F] = softmax(scale q k' + mask) v for each batch; q [L,E], k [S,E], v [S,F] ---- */
typedef struct dl__matrix { /* a number lies at base + batch + i * row + j * column */
    dl_real *base;
    dl_index row, column, batch[DLTRAIN_MAX_DIMS];
} dl__matrix;
typedef struct dl__attention {
    dl_index l, s, e, f, batch[DLTRAIN_MAX_DIMS];
    int batch_dims;
    bool causal;
    dl_real scale;
    dl__matrix q, k, v, mask, y; /* a mask without base is none; in the gradient y is dy */
    dl__matrix dq, dk, dv;       /* those that are wanted have a base */
} dl__attention;

enum { DL__SPARE = 64 }; /* what a tile of any level may hang over, and a block of lanes */
enum { DL__ATT_ROWS = 64 }; /* of queries that are worked on at a time, at most; a divisor of DL__KB */

static const dl_real dl__lane[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 }; /* of a vector */

/* How many keys query l sees. */
static dl_index dl__seen(const dl__attention *t, dl_index l) { return t->causal ? DL__MIN(t->s, l + 1) : t->s; }

/* ---- the levels ----
   DL__CALL runs a kernel at the level of a context. What it never names for a level are unused static functions,
   which cost neither code nor compile time: so the AVX-512 level consists of the kernels listed here, those that
   arithmetic bounds. Where memory does, the ones for AVX2 are as fast. The text is the same, hence the bits are. */
/* Beside vector kernels the portable ones are for old CPUs, where fma is a function anyway, and for tests:
   they compile at -Og. */
#if DL__VECTORS && defined(DL__QUICK)
#define DL__PLAIN
#undef DL__HOT
#define DL__HOT
#pragma GCC push_options
#pragma GCC optimize("Og")
#endif
#define DL__LEVEL DL__PORTABLE
#include "dltrain.h"
#undef DL__LEVEL
#ifdef DL__PLAIN
#undef DL__HOT
#define DL__HOT DL__FAST
#pragma GCC pop_options
#endif
#if DL__X86
#define DL__LEVEL DL__AVX2
#include "dltrain.h"
#undef DL__LEVEL
#define DL__LEVEL DL__AVX512
#include "dltrain.h"
#undef DL__LEVEL
#define DL__AVX512_products_of ~, avx512
#define DL__AVX512_probabilities ~, avx512
#define DL__AVX512_strip ~, avx512
#define DL__AVX512_softmax_row ~, avx512
#define DL__AVX512_log_softmax_row ~, avx512
#define DL__AVX512_ew_exp ~, avx512
#define DL__AVX512_ew_erf ~, avx512
#define DL__AVX512_ew_gelu ~, avx512
#define DL__AVX512_ew_gelu_slope ~, avx512
#define DL__AVX512_gelu_pair ~, avx512
#define DL__AVX512_ew_sigmoid ~, avx512
#define DL__AVX512_ew_tanh ~, avx512
/* A listed name brings a comma, which makes avx512 the second argument; otherwise avx2 is. */
#define DL__SECOND_(first, second, ...) second
#define DL__SECOND(...) DL__SECOND_(__VA_ARGS__, ~)
#define DL__CALL(level, name, args) \
    ((level) == DL__AVX512 ? DL__PASTE(dl__##name##_, DL__SECOND(DL__AVX512_##name, avx2)) args \
                           : (level) == DL__AVX2 ? dl__##name##_avx2 args : dl__##name##_portable args)
#elif DL__ARM64
#define DL__LEVEL DL__NEON
#include "dltrain.h"
#undef DL__LEVEL
#define DL__CALL(level, name, args) ((level) == DL__NEON ? dl__##name##_neon args : dl__##name##_portable args)
#else
#define DL__CALL(level, name, args) ((void)(level), dl__##name##_portable args)
#endif
#endif

#ifdef DL__LEVEL
#if DL__LEVEL == DL__PORTABLE
#define DL__K(name) dl__##name##_portable
#define E_V dl_real
#define E_I uint32_t
#define E_W 1
#define E_MR 4
#define E_NV 4
#define E_MC 8
#define E_NC 8
#define E_LOAD(p) (*(p))
#define E_STORE(p, v) ((void)(*(p) = (v)))
#define E_LOADN(p, n) ((void)(n), *(p))
#define E_STOREN(p, v, n) ((void)(n), (void)(*(p) = (v)))
#define E_K(c) ((dl_real)(c))
#define E_ADD(a, b) ((a) + (b))
#define E_SUB(a, b) ((a) - (b))
#define E_MUL(a, b) ((a) * (b))
#define E_DIV(a, b) ((a) / (b))
#define E_NEG(a) (-(a))
#define E_ABS(a) ((a) < 0 ? -(a) : (a) + 0)
#define E_FMA(a, b, c) dl__fma(a, b, c)
#define E_SQRT(a) dl__sqrt(a)
#define E_LT(a, b) ((a) < (b))
#define E_LE(a, b) ((a) <= (b))
#define E_GT(a, b) ((a) > (b))
#define E_GE(a, b) ((a) >= (b))
#define E_EQ(a, b) ((a) == (b))
#define E_NE(a, b) ((a) != (b))
#define E_SEL(m, a, b) ((m) ? (a) : (b))
#define E_ONE(m) ((dl_real)((m) ? 1 : 0))
#define E_BITS(a) dl__bits((float)(a))
#define E_FROM(i) ((dl_real)dl__from_bits(i))
#define E_IK(c) ((uint32_t)(c))
#define E_IADD(a, b) ((uint32_t)((a) + (b)))
#define E_ISUB(a, b) ((uint32_t)((a) - (b)))
#define E_SHL(a, n) ((uint32_t)((a) << (n)))
#define E_SAR(a, n) ((uint32_t)((int32_t)(a) >> (n)))
#define E_TOF(i) ((dl_real)(int32_t)(i))
#define E_EITHER(m, n) ((m) || (n))
#define E_WHERE(m, v) ((m) ? (v) : 0)
#define E_UNLESS(m, v) ((m) ? 0 : (v))
#define E_EVENS(a, b) ((void)(b), (a))
#define E_ODDS(a, b) ((void)(a), (b))
#define E_UNMIX(a) (a)
#define E_MIX(a) (a)
#define E_ZIP_LOW(a, b) ((void)(b), (a))
#define E_ZIP_HIGH(a, b) ((void)(a), (b))
#define E_FIRST(a) (a)
#define E_TARGET
#elif DL__LEVEL == DL__AVX2
#define DL__K(name) dl__##name##_avx2
#define E_V __m256
#define E_I __m256i
#define E_W 8
#define E_MR 6
#define E_NV 2
#define E_MC DL__MC
#define E_NC 1024
#define E_LOAD(p) _mm256_loadu_ps(p)
#define E_STORE(p, v) _mm256_storeu_ps(p, v)
#define E_MASK(n) _mm256_loadu_si256((const __m256i *)(dl__tail_mask + 8 - (n)))
#define E_LOADN(p, n) _mm256_maskload_ps(p, E_MASK(n))
#define E_STOREN(p, v, n) _mm256_maskstore_ps(p, E_MASK(n), v)
#define E_K(c) _mm256_set1_ps((float)(c))
#define E_ADD(a, b) _mm256_add_ps(a, b)
#define E_SUB(a, b) _mm256_sub_ps(a, b)
#define E_MUL(a, b) _mm256_mul_ps(a, b)
#define E_DIV(a, b) _mm256_div_ps(a, b)
#define E_NEG(a) _mm256_xor_ps(a, _mm256_set1_ps(-0.0f))
#define E_ABS(a) _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define E_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define E_SQRT(a) _mm256_sqrt_ps(a)
#define E_MAX(a, b) _mm256_max_ps(a, b)
#define E_MIN(a, b) _mm256_min_ps(a, b)
#define E_LT(a, b) _mm256_cmp_ps(a, b, _CMP_LT_OQ)
#define E_LE(a, b) _mm256_cmp_ps(a, b, _CMP_LE_OQ)
#define E_GT(a, b) _mm256_cmp_ps(a, b, _CMP_GT_OQ)
#define E_GE(a, b) _mm256_cmp_ps(a, b, _CMP_GE_OQ)
#define E_EQ(a, b) _mm256_cmp_ps(a, b, _CMP_EQ_OQ)
#define E_NE(a, b) _mm256_cmp_ps(a, b, _CMP_NEQ_UQ)
#define E_SEL(m, a, b) _mm256_blendv_ps(b, a, m)
#define E_ONE(m) _mm256_and_ps(m, _mm256_set1_ps(1.0f))
#define E_BITS(a) _mm256_castps_si256(a)
#define E_FROM(i) _mm256_castsi256_ps(i)
#define E_IK(c) _mm256_set1_epi32((int)(c))
#define E_IADD(a, b) _mm256_add_epi32(a, b)
#define E_ISUB(a, b) _mm256_sub_epi32(a, b)
#define E_SHL(a, n) _mm256_slli_epi32(a, n)
#define E_SAR(a, n) _mm256_srai_epi32(a, n)
#define E_TOF(i) _mm256_cvtepi32_ps(i)
#define E_EITHER(m, n) _mm256_or_ps(m, n)
#define E_WHERE(m, v) _mm256_and_ps(m, v)
#define E_UNLESS(m, v) _mm256_andnot_ps(m, v)
/* Every other number of two vectors, in an order of their own: E_UNMIX makes it the common one, E_MIX comes from there,
   E_ZIP_LOW and E_ZIP_HIGH of evens and odds are the vectors again. */
#define E_EVENS(a, b) _mm256_shuffle_ps(a, b, 0x88)
#define E_ODDS(a, b) _mm256_shuffle_ps(a, b, 0xdd)
#define E_UNMIX(a) _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(a), 0xd8))
#define E_MIX(a) E_UNMIX(a)
#define E_ZIP_LOW(a, b) _mm256_unpacklo_ps(a, b)
#define E_ZIP_HIGH(a, b) _mm256_unpackhi_ps(a, b)
#define E_SWAP4(a) _mm256_permute2f128_ps(a, a, 1)
#define E_SWAP2(a) _mm256_permute_ps(a, 0x4e)
#define E_SWAP1(a) _mm256_permute_ps(a, 0xb1)
#define E_FIRST(a) _mm256_cvtss_f32(a)
#define E_TARGET DL__TARGET("avx2,fma")
static const int32_t dl__tail_mask[16] = { -1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0 };
#elif DL__LEVEL == DL__AVX512
#define DL__K(name) dl__##name##_avx512
#define E_V __m512
#define E_I __m512i
#define E_W 16
#define E_MR 8
#define E_NV 2
#define E_MC DL__MC
#define E_NC 1024
#define E_LOAD(p) _mm512_loadu_ps(p)
#define E_STORE(p, v) _mm512_storeu_ps(p, v)
#define E_MASK(n) ((__mmask16)((1u << (n)) - 1))
#define E_LOADN(p, n) _mm512_maskz_loadu_ps(E_MASK(n), p)
#define E_STOREN(p, v, n) _mm512_mask_storeu_ps(p, E_MASK(n), v)
#define E_K(c) _mm512_set1_ps((float)(c))
#define E_ADD(a, b) _mm512_add_ps(a, b)
#define E_SUB(a, b) _mm512_sub_ps(a, b)
#define E_MUL(a, b) _mm512_mul_ps(a, b)
#define E_DIV(a, b) _mm512_div_ps(a, b)
#define E_NEG(a) _mm512_xor_ps(a, _mm512_set1_ps(-0.0f))
#define E_ABS(a) _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a)
#define E_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
/* gcc 12 warns of its own header without the mask, which goes away */
#define E_SQRT(a) _mm512_maskz_sqrt_ps(E_MASK(16), a)
#define E_MAX(a, b) _mm512_maskz_max_ps(E_MASK(16), a, b)
#define E_MIN(a, b) _mm512_maskz_min_ps(E_MASK(16), a, b)
#define E_LT(a, b) _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)
#define E_LE(a, b) _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ)
#define E_GT(a, b) _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)
#define E_GE(a, b) _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ)
#define E_EQ(a, b) _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ)
#define E_NE(a, b) _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ)
#define E_SEL(m, a, b) _mm512_mask_blend_ps(m, b, a)
#define E_ONE(m) _mm512_maskz_mov_ps(m, _mm512_set1_ps(1.0f))
#define E_BITS(a) _mm512_castps_si512(a)
#define E_FROM(i) _mm512_castsi512_ps(i)
#define E_IK(c) _mm512_set1_epi32((int)(c))
#define E_IADD(a, b) _mm512_add_epi32(a, b)
#define E_ISUB(a, b) _mm512_sub_epi32(a, b)
#define E_SHL(a, n) _mm512_maskz_slli_epi32(E_MASK(16), a, n)
#define E_SAR(a, n) _mm512_maskz_srai_epi32(E_MASK(16), a, n)
#define E_TOF(i) _mm512_maskz_cvtepi32_ps(E_MASK(16), i)
#define E_SWAP8(a) _mm512_maskz_shuffle_f32x4(E_MASK(16), a, a, 0x4e)
#define E_SWAP4(a) _mm512_maskz_shuffle_f32x4(E_MASK(16), a, a, 0xb1)
#define E_SWAP2(a) _mm512_maskz_permute_ps(E_MASK(16), a, 0x4e)
#define E_SWAP1(a) _mm512_maskz_permute_ps(E_MASK(16), a, 0xb1)
#define E_FIRST(a) _mm512_cvtss_f32(a)
#define E_TARGET DL__TARGET("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#else
#define DL__K(name) dl__##name##_neon
#define E_V float32x4_t
#define E_I int32x4_t
#define E_W 4
#define E_MR 8
#define E_NV 2
#define E_MC DL__MC
#define E_NC 1024
#define E_LOAD(p) vld1q_f32(p)
#define E_STORE(p, v) vst1q_f32(p, v)
#define E_LOADN(p, n) dl__load_part(p, n)
#define E_STOREN(p, v, n) dl__store_part(p, v, n)
#define E_K(c) vdupq_n_f32((float)(c))
#define E_ADD(a, b) vaddq_f32(a, b)
#define E_SUB(a, b) vsubq_f32(a, b)
#define E_MUL(a, b) vmulq_f32(a, b)
#define E_DIV(a, b) vdivq_f32(a, b)
#define E_NEG(a) vnegq_f32(a)
#define E_ABS(a) vabsq_f32(a)
#define E_FMA(a, b, c) vfmaq_f32(c, a, b)
#define E_SQRT(a) vsqrtq_f32(a)
#define E_LT(a, b) vcltq_f32(a, b)
#define E_LE(a, b) vcleq_f32(a, b)
#define E_GT(a, b) vcgtq_f32(a, b)
#define E_GE(a, b) vcgeq_f32(a, b)
#define E_EQ(a, b) vceqq_f32(a, b)
#define E_NE(a, b) vmvnq_u32(vceqq_f32(a, b))
#define E_SEL(m, a, b) vbslq_f32(m, a, b)
#define E_ONE(m) vreinterpretq_f32_u32(vandq_u32(m, vreinterpretq_u32_f32(vdupq_n_f32(1.0f))))
#define E_BITS(a) vreinterpretq_s32_f32(a)
#define E_FROM(i) vreinterpretq_f32_s32(i)
#define E_IK(c) vdupq_n_s32((int32_t)(c))
#define E_IADD(a, b) vaddq_s32(a, b)
#define E_ISUB(a, b) vsubq_s32(a, b)
#define E_SHL(a, n) vshlq_n_s32(a, n)
#define E_SAR(a, n) vshrq_n_s32(a, n)
#define E_TOF(i) vcvtq_f32_s32(i)
#define E_EITHER(m, n) vorrq_u32(m, n)
#define E_WHERE(m, v) vreinterpretq_f32_u32(vandq_u32(m, vreinterpretq_u32_f32(v)))
#define E_UNLESS(m, v) vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), m))
#define E_EVENS(a, b) vuzp1q_f32(a, b)
#define E_ODDS(a, b) vuzp2q_f32(a, b)
#define E_UNMIX(a) (a)
#define E_MIX(a) (a)
#define E_ZIP_LOW(a, b) vzip1q_f32(a, b)
#define E_ZIP_HIGH(a, b) vzip2q_f32(a, b)
#define E_SWAP2(a) vextq_f32(a, a, 2)
#define E_SWAP1(a) vrev64q_f32(a)
#define E_FIRST(a) vgetq_lane_f32(a, 0)
#define E_TARGET
DL__INLINE float32x4_t dl__load_part(const float *p, int n)
{
    float v[4] = { 0, 0, 0, 0 };
    memcpy(v, p, sizeof *v * (size_t)n);
    return vld1q_f32(v);
}
DL__INLINE void dl__store_part(float *p, float32x4_t x, int n)
{
    float v[4];
    vst1q_f32(v, x);
    memcpy(p, v, sizeof *v * (size_t)n);
}
#endif

#define E_FN E_TARGET static
#if DL__LEVEL == DL__PORTABLE
#define E_IN static /* calls: the portable kernels are for size */
#define E_OUT static
#define E_UNROLL
#else
#define E_IN E_TARGET DL__INLINE
/* long functions: two dozen copies are a second of compile time and a few per cent of speed */
#define E_OUT E_TARGET DL__NOINLINE static
#define E_UNROLL DL__UNROLL /* where a portable kernel has a lane a number */
#endif
/* ---- device code, too: tools/embed_kernels.py puts it into dltrain_cuda.h, as far as the next such line ---- */
#define E_MULS(a, c) E_MUL(a, E_K(c))
#define E_ADDS(a, c) E_ADD(a, E_K(c))
#ifndef E_MAX /* b where a or b is NaN */
#define E_MAX(a, b) E_SEL(E_GT(a, b), a, b)
#define E_MIN(a, b) E_SEL(E_LT(a, b), a, b)
#endif
#define E_LEAST(a, c) E_MAX(E_K(c), a)

/* ---- elementary functions ---- */
#if DL__REAL_IS_FLOAT
/* 1/2 + r/6 + ...: (e^r - 1 - r) / r^2 on |r| <= log(2)/2, relative error of e^r 6e-11 */
E_IN E_V DL__K(exp_tail)(E_V r)
{
    E_V p = E_FMA(E_K(1.97903559e-4f), r, E_K(1.3944651e-3f));
    p = E_FMA(p, r, E_K(8.33349675e-3f));
    p = E_FMA(p, r, E_K(4.16662954e-2f));
    p = E_FMA(p, r, E_K(1.66666657e-1f));
    return E_FMA(p, r, E_K(0.5f));
}

E_IN E_V DL__K(exp)(E_V x)
{
    x = E_MIN(E_K(89), E_MAX(E_K(-104), x)); /* NaN stays */
    E_V t = E_FMA(x, E_K(1.44269504f), E_K(12582912.0f)),
        n = E_SUB(t, E_K(12582912.0f)); /* nearest whole number, in t's low bits too */
    E_V r = E_FMA(n, E_K(-0.693359375f), x);
    r = E_FMA(n, E_K(2.12194440e-4f), r);
    E_V y = E_FMA(DL__K(exp_tail)(r), E_MUL(r, r), E_ADD(r, E_K(1)));
    E_I i = E_ISUB(E_BITS(t), E_IK(0x4b400000)), half = E_SAR(i, 1); /* times 2^n in two steps, for subnormal results */
    y = E_MUL(y, E_FROM(E_SHL(E_IADD(half, E_IK(127)), 23)));
    return E_MUL(y, E_FROM(E_SHL(E_IADD(E_ISUB(i, half), E_IK(127)), 23)));
}

E_OUT E_V DL__K(expm1)(E_V x)
{
    E_V small = E_FMA(DL__K(exp_tail)(x), E_MUL(x, x), x), large = E_SUB(DL__K(exp)(x), E_K(1));
    return E_SEL(E_LT(E_ABS(x), E_K(0.3465f)), small, large);
}

E_OUT E_V DL__K(log)(E_V x)
{
    E_V tiny = E_ONE(E_LT(x, E_K(FLT_MIN))), y = E_SEL(E_LT(x, E_K(FLT_MIN)), E_MUL(x, E_K(8388608.0f)), x);
    E_I i = E_ISUB(E_BITS(y), E_IK(0x3f3504f3)),
        e = E_SAR(i, 23); /* the exponent, that the mantissa lies in [sqrt 1/2, sqrt 2) */
    E_V f = E_SUB(E_FROM(E_ISUB(E_BITS(y), E_SHL(e, 23))), E_K(1)), n = E_SUB(E_TOF(e), E_MUL(tiny, E_K(23))),
        z = E_MUL(f, f);
    E_V p = E_FMA(E_K(0.0674660131f), f, E_K(-0.116756409f)); /* log(1+f) = f - f^2/2 + f^3 p */
    p = E_FMA(p, f, E_K(0.118881747f));
    p = E_FMA(p, f, E_K(-0.124055915f));
    p = E_FMA(p, f, E_K(0.142195508f));
    p = E_FMA(p, f, E_K(-0.166679963f));
    p = E_FMA(p, f, E_K(0.200021192f));
    p = E_FMA(p, f, E_K(-0.250000089f));
    p = E_FMA(p, f, E_K(0.333333135f));
    p = E_MUL(E_MUL(p, f), z);
    p = E_FMA(n, E_K(-2.12194440e-4f), p);
    p = E_FMA(z, E_K(-0.5f), p);
    p = E_FMA(n, E_K(0.693359375f), E_ADD(f, p));
    E_V special = E_SEL(E_EQ(x, E_K(0)), E_K(-HUGE_VALF), E_SEL(E_GT(x, E_K(0)), x, E_K(dl__nan())));
    return E_SEL(E_GT(x, E_K(0)), E_SEL(E_LE(x, E_K(FLT_MAX)), p, special), special);
}

E_OUT E_V DL__K(log1p)(E_V x) /* log(1 + x), with what 1 + x lost made good to first order */
{
    E_V u = E_ADD(x, E_K(1)), y = DL__K(log)(u), fixed = E_ADD(y, E_DIV(E_SUB(x, E_SUB(u, E_K(1))), u));
    return E_SEL(E_GT(u, E_K(0)), E_SEL(E_LE(u, E_K(FLT_MAX)), fixed, y), y);
}

E_OUT E_V DL__K(tanh)(E_V x)
{
    E_V a = E_ABS(x), z = E_MUL(x, x);
    E_V p = E_FMA(E_K(-5.70497848e-3f), z, E_K(2.06390787e-2f));
    p = E_FMA(p, z, E_K(-5.37397116e-2f));
    p = E_FMA(p, z, E_K(1.33314416e-1f));
    p = E_FMA(p, z, E_K(-3.33332807e-1f));
    p = E_FMA(E_MUL(p, z), x, x);
    E_V big = E_SUB(E_K(1), E_DIV(E_K(2), E_ADD(DL__K(exp)(E_ADD(a, a)), E_K(1))));
    big = E_SEL(E_LT(x, E_K(0)), E_NEG(big), big);
    return E_SEL(E_LT(a, E_K(0.625f)), p, big);
}

E_OUT E_V DL__K(erf)(E_V x) /* x p(x^2) below 1; above 1 - exp(-q(|x|)) */
{
    E_V a = E_ABS(x), z = E_MUL(x, x);
    E_V p = E_FMA(E_K(7.85385782e-5f), z, E_K(-8.01019254e-4f));
    p = E_FMA(p, z, E_K(5.18832775e-3f));
    p = E_FMA(p, z, E_K(-2.6853811e-2f));
    p = E_FMA(p, z, E_K(1.12835854e-1f));
    p = E_FMA(p, z, E_K(-3.7612626e-1f));
    p = E_FMA(p, z, E_K(1.12837911f));
    E_V c = E_SEL(E_GT(a, E_K(4)), E_K(4), a);
    E_V q = E_FMA(E_K(-2.51326469e-7f), c, E_K(2.53148064e-5f));
    q = E_FMA(q, c, E_K(-4.63788019e-4f));
    q = E_FMA(q, c, E_K(4.28238278e-3f));
    q = E_FMA(q, c, E_K(-2.53735557e-2f));
    q = E_FMA(q, c, E_K(1.08638994e-1f));
    q = E_FMA(q, c, E_K(6.33039594e-1f));
    q = E_FMA(q, c, E_K(1.1296612f));
    q = E_FMA(q, c, E_K(-2.04359865e-4f));
    q = E_SUB(E_K(1), DL__K(exp)(E_NEG(q)));
    q = E_SEL(E_LT(x, E_K(0)), E_NEG(q), q);
    return E_SEL(E_LT(a, E_K(1)), E_MUL(p, x), E_SEL(E_EQ(x, x), q, x));
}

/* The normal distribution: on the left e t p(t), e = exp(-x^2/2), t = 1 / (1 + 0.305 |x|), good to 1e-7 of the value;
   on the right 1 - that */
E_IN E_V DL__K(cdf)(E_V x, E_V e)
{
    E_V t = E_DIV(E_K(1), E_FMA(E_ABS(x), E_K(0.305f), E_K(1)));
    E_V p = E_FMA(E_K(3.66991982e-2f), t, E_K(-1.52988344e-1f));
    p = E_FMA(p, t, E_K(1.85716972e-1f));
    p = E_FMA(p, t, E_K(-3.79768834e-2f));
    p = E_FMA(p, t, E_K(1.21021703e-1f));
    p = E_FMA(p, t, E_K(1.03420861e-1f));
    p = E_FMA(p, t, E_K(1.22466817e-1f));
    p = E_FMA(p, t, E_K(1.21639736e-1f));
    p = E_MUL(E_MUL(p, t), e);
    return E_SEL(E_LT(x, E_K(0)), p, E_SUB(E_K(1), p));
}
#else
static dl_real DL__K(exp)(dl_real x) { return exp(x); }
static dl_real DL__K(expm1)(dl_real x) { return expm1(x); }
static dl_real DL__K(log)(dl_real x) { return log(x); }
static dl_real DL__K(log1p)(dl_real x) { return log1p(x); }
static dl_real DL__K(tanh)(dl_real x) { return tanh(x); }
static dl_real DL__K(erf)(dl_real x) { return erf(x); }
static dl_real DL__K(cdf)(dl_real x, dl_real e) { return (void)e, 0.5 * erfc(-0.70710678118654752 * x); }
#endif
#if E_W == 1
#define E_EACH1(f, x) f(x)
#define E_EACH2(f, x, y) f(x, y)
#else
E_IN E_V DL__K(each1)(float (*f)(float), E_V x)
{
    float v[E_W];
    E_STORE(v, x);
    for (int i = 0; i < E_W; i++) v[i] = f(v[i]);
    return E_LOAD(v);
}
E_IN E_V DL__K(each2)(float (*f)(float, float), E_V x, E_V y)
{
    float v[E_W], w[E_W];
    E_STORE(v, x);
    E_STORE(w, y);
    for (int i = 0; i < E_W; i++) v[i] = f(v[i], w[i]);
    return E_LOAD(v);
}
#define E_EACH1(f, x) DL__K(each1)(f, x)
#define E_EACH2(f, x, y) DL__K(each2)(f, x, y)
#endif
#define E_EXP(x) DL__K(exp)(x)
#define E_EXPM1(x) DL__K(expm1)(x)
#define E_LOG(x) DL__K(log)(x)
#define E_LOG1P(x) DL__K(log1p)(x)
#define E_TANH(x) DL__K(tanh)(x)
#define E_ERF(x) DL__K(erf)(x)
#define E_BELL(x) E_EXP(E_MULS(E_MUL(x, x), -0.5))
#define E_CDF(x) DL__K(cdf)(x, E_BELL(x))
#define E_SIGMOID(x) E_DIV(E_K(1), E_ADD(E_K(1), E_EXP(E_NEG(x))))
#define E_SIN(x) E_EACH1(dl__sin, x)
#define E_COS(x) E_EACH1(dl__cos, x)
#define E_POW(x, y) E_EACH2(dl__pow, x, y)
#define E_GELU_U(x) E_MULS(E_MUL(x, E_ADDS(E_MULS(E_MUL(x, x), 0.044715), 1)), 0.79788456080286536)
#define E_A a
#define E_B b

/* ---- no device code ---- */
/* ---- elementwise: y = f(x), y = f(x; a, b), y = f(x, z) over n elements ---- */
/* Whole vectors; what is left over runs once more as a whole vector, in copies with zeros behind. */
#if E_W > 1
E_FN DL__NOINLINE void DL__K(ew_rest)(const dl_run_args *r, size_t done, void (*row)(const dl_run_args *r))
{
    dl_real copy[4][E_W];
    const void *in[3];
    size_t bytes = (r->n - done) * sizeof(dl_real);
    dl_run_args a = *r;
    memset(copy, 0, sizeof copy);
    for (int k = 0; k < r->node->n_in; k++) {
        memcpy(copy[k], (const dl_real *)r->in[k] + done, bytes);
        in[k] = copy[k];
    }
    a.in = in;
    a.out = copy[3];
    a.n = E_W;
    row(&a);
    memcpy((dl_real *)r->out + done, copy[3], bytes);
}
#define E_REST(name) \
    if (i < n) DL__K(ew_rest)(r, i, DL__K(ew_##name));
#else
#define E_REST(name)
#endif
#define E_ROW_OF(name, prepare, load, value) \
    E_FN void DL__K(ew_##name)(const dl_run_args *r) \
    { \
        size_t i = 0, n = r->n; \
        dl_real *out = (dl_real *)r->out; \
        prepare \
        for (; i + E_W <= n; i += E_W) { \
            load \
            E_STORE(out + i, value); \
        } \
        E_REST(name) \
    }
#define E_FROM1 const dl_real *in0 = (const dl_real *)r->in[0];
#define E_FROM2 const dl_real *in1 = (const dl_real *)r->in[1]; E_FROM1
#define E_FROM3 const dl_real *in2 = (const dl_real *)r->in[2]; E_FROM2
#define E_LOAD1 E_V X = E_LOAD(in0 + i);
#define E_LOAD2 E_V X = E_LOAD(in0 + i), Z = E_LOAD(in1 + i);
#define E_LOAD3 E_V C = E_LOAD(in0 + i), X = E_LOAD(in1 + i), Z = E_LOAD(in2 + i);
#define E_SCALARS E_V a = E_K(r->node->f[0]), b = E_K(r->node->f[1]); (void)a; (void)b;
#define E_ROW(name, forward, derivative) E_ROW_OF(name, E_FROM1, E_LOAD1, forward)
DL__UNARY_ROWS(E_ROW)
#undef E_ROW
#define E_ROW(name, forward, derivative) E_ROW_OF(name, E_FROM1 E_SCALARS, E_LOAD1, forward)
DL__SCALED_ROWS(E_ROW)
#undef E_ROW
#define E_ROW(name, forward, dx, dz) E_ROW_OF(name, E_FROM2, E_LOAD2, forward)
DL__BINARY_ROWS(E_ROW)
#undef E_ROW
#define E_ROW(name, forward) E_ROW_OF(name, E_FROM2, E_LOAD2, E_ONE(forward))
DL__COMPARE_ROWS(E_ROW)
#undef E_ROW
E_ROW_OF(where, E_FROM3, E_LOAD3, E_SEL(E_NE(C, E_K(0)), X, Z))

/* gelu and its slope for n whole vectors: a text of their own, since most of both is the same exponential */
E_FN void DL__K(gelu_pair)(dl_real *y, dl_real *slope, const dl_real *x, size_t n)
{
    for (size_t i = 0; i < n; i += E_W) {
        E_V X = E_LOAD(x + i), e = E_BELL(X), cdf = DL__K(cdf)(X, e);
        E_STORE(y + i, E_MUL(X, cdf));
        E_STORE(slope + i, E_ADD(cdf, E_MUL(E_MULS(X, 0.39894228040143268), e)));
    }
}

/* dst += x */
E_FN void DL__K(add_to)(dl_real *dst, const dl_real *x, size_t n)
{
    size_t i = 0;
    for (; i + E_W <= n; i += E_W) E_STORE(dst + i, E_ADD(E_LOAD(dst + i), E_LOAD(x + i)));
    for (; i < n; i++) dst[i] += x[i];
}

/* dst = (dst + x) times factor */
E_FN void DL__K(add_to_scaled)(dl_real *dst, const dl_real *x, size_t n, dl_real factor)
{
    size_t i = 0;
    for (; i + E_W <= n; i += E_W) E_STORE(dst + i, E_MULS(E_ADD(E_LOAD(dst + i), E_LOAD(x + i)), factor));
    for (; i < n; i++) dst[i] = (dst[i] + x[i]) * factor;
}

/* ---- reductions ---- */
/* What is summed: x itself, (x - m)^2, or z (x - m) r. */
E_IN E_V DL__K(term)(int what, E_V x, E_V z, E_V m, E_V r)
{
    if (what == DL__SUM) return x;
    x = E_SUB(x, m);
    return what == DL__SUM_SQUARES ? E_MUL(x, x) : E_MUL(z, E_MUL(x, r));
}

/* All numbers of a vector by one operation: pairwise, half a vector apart, a quarter, ... 1. E_SWAP4(x) exchanges
   those 4 apart. */
#if E_W > 8
#define E_FOLD8(op, x) x = op(x, E_SWAP8(x));
#else
#define E_FOLD8(op, x)
#endif
#if E_W > 4
#define E_FOLD4(op, x) E_FOLD8(op, x) x = op(x, E_SWAP4(x));
#else
#define E_FOLD4(op, x)
#endif
#if E_W > 1
#define E_FOLD(op, x) E_FOLD4(op, x) x = op(x, E_SWAP2(x)); x = op(x, E_SWAP1(x));
#else
#define E_FOLD(op, x)
#endif

enum { DL__K(accs) = DL__LANES / E_W }; /* registers that hold the lanes */

/* acc += the terms of n / 64 blocks */
E_IN void DL__K(add_blocks)(int what, E_V *acc, const dl_real *x, const dl_real *z, size_t n, E_V m, E_V r, size_t lead)
{
    for (size_t i = 0; i + DL__LANES <= n; i += DL__LANES) {
        dl__ahead(x + i, lead, DL__LANES);
        E_UNROLL for (int l = 0; l < DL__K(accs); l++)
            acc[l] = E_ADD(acc[l], DL__K(term)(what, E_LOAD(x + i + l * E_W), E_LOAD(z + i + l * E_W), m, r));
    }
}

/* lane[i] += term i of n < 64 */
E_IN void DL__K(add_rest)(int what, dl_real *lane, const dl_real *x, const dl_real *z, size_t n, E_V m, E_V r)
{
    size_t i = 0;
    dl_real last[E_W];
    for (; i + E_W <= n; i += E_W)
        E_STORE(lane + i, E_ADD(E_LOAD(lane + i), DL__K(term)(what, E_LOAD(x + i), E_LOAD(z + i), m, r)));
    if (i == n) return;
    E_STORE(last, DL__K(term)(what, E_LOADN(x + i, (int)(n - i)), E_LOADN(z + i, (int)(n - i)), m, r));
    for (int l = 0; i < n; i++, l++) lane[i] += last[l];
}

/* The lanes added pairwise. */
E_IN dl_real DL__K(add_lanes)(E_V *acc)
{
    E_UNROLL for (int h = DL__K(accs) / 2; h; h /= 2)
        E_UNROLL for (int l = 0; l < h; l++) acc[l] = E_ADD(acc[l], acc[l + h]);
    E_FOLD(E_ADD, acc[0])
    return E_FIRST(acc[0]);
}
E_IN void DL__K(load_lanes)(E_V *acc, const dl_real *lane)
{
    E_UNROLL for (int l = 0; l < DL__K(accs); l++) acc[l] = E_LOAD(lane + l * E_W);
}
E_IN void DL__K(store_lanes)(dl_real *lane, const E_V *acc)
{
    E_UNROLL for (int l = 0; l < DL__K(accs); l++) E_STORE(lane + l * E_W, acc[l]);
}

/* The sum of the terms of n <= 4096 numbers */
E_IN dl_real DL__K(chunk)(int what, const dl_real *x, const dl_real *z, size_t n, E_V m, E_V r)
{
    E_V acc[DL__K(accs)];
    size_t whole = n / DL__LANES * DL__LANES;
    E_UNROLL for (int l = 0; l < DL__K(accs); l++) acc[l] = E_K(0);
    DL__K(add_blocks)(what, acc, x, z, n, m, r, DL__AHEAD);
    if (whole < n) {
        dl_real lane[DL__LANES];
        DL__K(store_lanes)(lane, acc);
        DL__K(add_rest)(what, lane, x + whole, z + whole, n - whole, m, r);
        DL__K(load_lanes)(acc, lane);
    }
    return DL__K(add_lanes)(acc);
}

/* The lanes of a level of a total, added; the level is empty then. */
E_FN dl_real DL__K(take)(dl__total *t, int level)
{
    E_V acc[DL__K(accs)];
    t->n[level] = 0;
    DL__K(load_lanes)(acc, t->lane[level]);
    return DL__K(add_lanes)(acc);
}

/* One more number of a level. */
E_FN void DL__K(carry)(dl__total *t, int level, dl_real v)
{
    for (;; level++) {
        if (!t->n[level]) memset(t->lane[level], 0, sizeof t->lane[level]);
        t->lane[level][t->n[level]++ % DL__LANES] += v;
        if (t->n[level] < DL__CHUNK) return;
        v = DL__K(take)(t, level);
    }
}

/* Terms of n more numbers. */
E_IN void DL__K(add_run)(
    int what, dl__total *t, const dl_real *x, const dl_real *z, size_t n, E_V m, E_V r, size_t lead)
{
    while (n) {
        size_t at = t->n[0] % DL__LANES, k = DL__MIN(n, at ? DL__LANES - at : DL__CHUNK - t->n[0]);
        if (!t->n[0]) memset(t->lane[0], 0, sizeof t->lane[0]);
        if (k >= DL__LANES) { /* then at is 0 */
            E_V acc[DL__K(accs)];
            k -= k % DL__LANES;
            DL__K(load_lanes)(acc, t->lane[0]);
            DL__K(add_blocks)(what, acc, x, z, k, m, r, lead);
            DL__K(store_lanes)(t->lane[0], acc);
        } else DL__K(add_rest)(what, t->lane[0] + at, x, z, k, m, r);
        t->n[0] += k, n -= k, x += k, z += k;
        if (t->n[0] == DL__CHUNK) DL__K(carry)(t, 1, DL__K(take)(t, 0));
    }
}

E_FN dl_real DL__K(total)(dl__total *t)
{
    for (int level = 0;; level++) {
        size_t above = 0;
        for (int k = level + 1; k < DL__DEPTH; k++) above += t->n[k];
        if (!above) return t->n[level] ? DL__K(take)(t, level) : 0;
        if (t->n[level]) DL__K(carry)(t, level + 1, DL__K(take)(t, level));
    }
}

/* For each kind of terms: the sum of one chunk; `runs` runs of n more numbers of a total, `stride` apart; the sum of
   such runs, taken for one sequence: rule 5 */
#define E_SUMS(name, what) \
    DL__HOT E_FN DL__NOINLINE dl_real DL__K(chunk_##name)( \
        const dl_real *x, const dl_real *z, size_t n, dl_real m, dl_real r) \
    { \
        return DL__K(chunk)(what, x, z, n, E_K(m), E_K(r)); \
    } \
    DL__HOT E_FN DL__NOINLINE void DL__K(more_##name)( \
        dl__total *t, const dl_real *x, const dl_real *z, size_t runs, size_t n, size_t stride, dl_real m, dl_real r) \
    { \
        size_t lead = dl__lead(n, stride); \
        for (; runs--; x += stride, z += stride) DL__K(add_run)(what, t, x, z, n, E_K(m), E_K(r), lead); \
    } \
    E_IN dl_real DL__K(runs_##name)( \
        const dl_real *x, const dl_real *z, size_t runs, size_t n, size_t stride, dl_real m, dl_real r) \
    { \
        dl__total t; \
        if (runs == 1 && n <= DL__CHUNK) return DL__K(chunk_##name)(x, z, n, m, r); \
        memset(t.n, 0, sizeof t.n); \
        DL__K(more_##name)(&t, x, z, runs, n, stride, m, r); \
        return DL__K(total)(&t); \
    }
E_SUMS(numbers, DL__SUM)
E_SUMS(squares, DL__SUM_SQUARES)
E_SUMS(products, DL__SUM_PRODUCTS)
/* n <= DL__CHUNK */
E_FN dl_real DL__K(sum_chunk)(const dl_real *x, size_t n) { return DL__K(chunk_numbers)(x, x, n, 0, 0); }
E_FN dl_real DL__K(sum_runs)(const dl_real *x, size_t runs, size_t n, size_t stride)
{
    return DL__K(runs_numbers)(x, x, runs, n, stride, 0, 0);
}
E_FN dl_real DL__K(sum)(const dl_real *x, size_t n) { return DL__K(sum_runs)(x, 1, n, n); }

/* out[j] (+)= sum over r of x[r * stride + j]: rule 6; `side` vectors side by side, all whole or of n < E_W numbers */
E_IN void DL__K(sum_side)(
    dl_real *out, const dl_real *x, size_t rows, size_t stride, bool accumulate, const int side, int n)
{
    E_V total[8] = { E_K(0) }; /* the others are 0, too */
    for (size_t r0 = 0; r0 < rows; r0 += DL__KB) {
        E_V p[8] = { E_K(0) };
        for (size_t r = r0; r < DL__MIN(rows, r0 + DL__KB); r++)
            DL__UNROLL for (int v = 0; v < side; v++)
                p[v] = E_ADD(p[v], n == E_W ? E_LOAD(x + r * stride + v * E_W) : E_LOADN(x + r * stride, n));
        DL__UNROLL for (int v = 0; v < side; v++) total[v] = r0 ? E_ADD(total[v], p[v]) : p[v];
    }
    DL__UNROLL for (int v = 0; v < side; v++) {
        dl_real *to = out + v * E_W;
        if (n == E_W) E_STORE(to, accumulate ? E_ADD(E_LOAD(to), total[v]) : total[v]);
        else E_STOREN(to, accumulate ? E_ADD(E_LOADN(to, n), total[v]) : total[v], n);
    }
}
E_FN void DL__K(sum_columns)(dl_real *out, const dl_real *x, size_t rows, size_t stride, size_t n, bool accumulate)
{
    enum { SIDE = 8 }; /* rows are read by whole cache lines */
    size_t j = 0;
    for (; j + SIDE * E_W <= n; j += SIDE * E_W) DL__K(sum_side)(out + j, x + j, rows, stride, accumulate, SIDE, E_W);
    for (; j + E_W <= n; j += E_W) DL__K(sum_side)(out + j, x + j, rows, stride, accumulate, 1, E_W);
    if (E_W > 1 && j < n) DL__K(sum_side)(out + j, x + j, rows, stride, accumulate, 1, (int)(n - j));
}

E_FN dl_real DL__K(max)(const dl_real *x, size_t n)
{
    size_t i = 0;
    dl_real best = x[0];
#if E_W > 1
    if (n >= E_W) {
        E_V m = E_LOAD(x);
        dl_real lane[E_W];
        for (i = E_W; i + E_W <= n; i += E_W) {
            E_V v = E_LOAD(x + i);
            m = E_SEL(E_LT(m, v), v,
                E_SEL(E_EQ(v, v), m, v)); /* a NaN in m never compares less, but a number must not replace it */
        }
        E_STORE(lane, m);
        for (int l = 0; l < E_W; l++)
            if (lane[l] > best || lane[l] != lane[l]) best = lane[l];
    }
#endif
    for (; i < n; i++)
        if (x[i] > best || x[i] != x[i]) best = x[i];
    return best;
}

/* y = softmax(x) of a row of n; or log_softmax. Needs no memory: y holds the exponentials, or x is gone over twice. */
E_FN void DL__K(softmax_row)(dl_real *y, const dl_real *x, size_t n)
{
    dl_real m = DL__K(max)(x, n);
    size_t i = 0;
    E_V top = E_K(m);
    for (; i + E_W <= n; i += E_W) E_STORE(y + i, E_EXP(E_SUB(E_LOAD(x + i), top)));
    if (E_W > 1 && i < n) E_STOREN(y + i, E_EXP(E_SUB(E_LOADN(x + i, (int)(n - i)), top)), (int)(n - i));
    E_V s = E_K(DL__K(sum)(y, n));
    for (i = 0; i + E_W <= n; i += E_W) E_STORE(y + i, E_DIV(E_LOAD(y + i), s));
    if (E_W > 1 && i < n) E_STOREN(y + i, E_DIV(E_LOADN(y + i, (int)(n - i)), s), (int)(n - i));
}

E_FN void DL__K(log_softmax_row)(dl_real *y, const dl_real *x, size_t n)
{
    dl_real m = DL__K(max)(x, n), log_sum[E_W];
    size_t i = 0;
    E_V top = E_K(m);
    for (; i + E_W <= n; i += E_W) E_STORE(y + i, E_EXP(E_SUB(E_LOAD(x + i), top)));
    if (E_W > 1 && i < n) E_STOREN(y + i, E_EXP(E_SUB(E_LOADN(x + i, (int)(n - i)), top)), (int)(n - i));
    E_STORE(log_sum, E_LOG(E_K(DL__K(sum)(y, n))));
    E_V l = E_K(log_sum[0]);
    for (i = 0; i + E_W <= n; i += E_W) E_STORE(y + i, E_SUB(E_SUB(E_LOAD(x + i), top), l));
    if (E_W > 1 && i < n) E_STOREN(y + i, E_SUB(E_SUB(E_LOADN(x + i, (int)(n - i)), top), l), (int)(n - i));
}

/* ---- normalisation of a group of numbers: `runs` runs of n, `stride` apart ---- */
/* out = mean, 1 / sqrt(var + eps), var; the variance takes a second pass */
E_FN void DL__K(moments)(
    dl_real *out, const dl_real *x, size_t runs, size_t n, size_t stride, dl_real share, dl_real eps)
{
    out[0] = DL__K(sum_runs)(x, runs, n, stride) * share;
    out[2] = DL__K(runs_squares)(x, x, runs, n, stride, out[0], 0) * share;
    out[1] = 1 / dl__sqrt(out[2] + eps);
}

/* y = (x - m) r w + b; w and b hold a number for all (or are NULL), or, `each`, one for each x */
E_IN void DL__K(normalise)(dl_real *y, const dl_real *x, size_t n, dl_real m, dl_real r, const dl_real *w,
    const dl_real *b, bool each, size_t lead)
{
    E_V vm = E_K(m), vr = E_K(r), vw = E_K(w && !each ? *w : 1), vb = E_K(b && !each ? *b : 0);
    size_t i = 0;
    for (; i + E_W <= n; i += E_W) {
        if (each && w) vw = E_LOAD(w + i);
        if (each && b) vb = E_LOAD(b + i);
        if (!each && i % DL__LINE == 0) dl__ahead(x + i, lead, DL__LINE), dl__ahead(y + i, lead, DL__LINE);
        E_STORE(y + i, E_ADD(E_MUL(E_MUL(E_SUB(E_LOAD(x + i), vm), vr), vw), vb));
    }
    for (; i < n; i++) y[i] = (x[i] - m) * r * (w ? w[each ? i : 0] : 1) + (b ? b[each ? i : 0] : 0);
}
E_FN void DL__K(normalise_run)(
    dl_real *y, const dl_real *x, size_t n, dl_real m, dl_real r, const dl_real *w, const dl_real *b, size_t lead)
{
    DL__K(normalise)(y, x, n, m, r, w, b, false, lead);
}
E_FN void DL__K(normalise_row)(
    dl_real *y, const dl_real *x, size_t n, dl_real m, dl_real r, const dl_real *w, const dl_real *b)
{
    DL__K(normalise)(y, x, n, m, r, w, b, true, 0);
}

/* out = sum of dy, sum of dy (x - m) r */
E_FN void DL__K(normalise_sums)(dl_real *out, const dl_real *dy, const dl_real *x, size_t runs, size_t n,
    size_t stride, dl_real m, dl_real r)
{
    dl__total t, th;
    if (runs == 1 && n <= DL__CHUNK) {
        out[0] = DL__K(chunk_numbers)(dy, dy, n, m, r);
        out[1] = DL__K(chunk_products)(x, dy, n, m, r);
        return;
    }
    memset(t.n, 0, sizeof t.n);
    memset(th.n, 0, sizeof th.n);
    size_t few = DL__MAX(DL__CHUNK / DL__MAX(n, (size_t)1), (size_t)1);
    for (size_t i = 0; i < runs; i += few)
        for (size_t j = 0; j < n; j += DL__CHUNK) { /* what the first sum read is in the cache for the second */
            size_t at = i * stride + j, some = DL__MIN(n - j, (size_t)DL__CHUNK), side = DL__MIN(runs - i, few);
            DL__K(more_numbers)(&t, dy + at, dy + at, side, some, stride, m, r);
            DL__K(more_products)(&th, x + at, dy + at, side, some, stride, m, r);
        }
    out[0] = DL__K(total)(&t);
    out[1] = DL__K(total)(&th);
}

/* dx = k ((dy - a) - (x - m) r b) */
E_FN void DL__K(normalise_back)(dl_real *dx, const dl_real *dy, const dl_real *x, size_t n, dl_real m, dl_real r,
    dl_real k, dl_real a, dl_real b, size_t lead)
{
    E_V vm = E_K(m), vr = E_K(r), vk = E_K(k), va = E_K(a), vb = E_K(b);
    size_t i = 0;
    for (; i + E_W <= n; i += E_W) {
        if (i % DL__LINE == 0)
            dl__ahead(x + i, lead, DL__LINE), dl__ahead(dy + i, lead, DL__LINE), dl__ahead(dx + i, lead, DL__LINE);
        E_V h = E_MUL(E_SUB(E_LOAD(x + i), vm), vr);
        E_STORE(dx + i, E_MUL(vk, E_SUB(E_SUB(E_LOAD(dy + i), va), E_MUL(h, vb))));
    }
    for (; i < n; i++) dx[i] = k * (dy[i] - a - (x[i] - m) * r * b);
}

/* db += dy, dw += dy (x - m) r */
E_FN void DL__K(normalise_weights)(
    dl_real *db, dl_real *dw, const dl_real *dy, const dl_real *x, size_t n, dl_real m, dl_real r)
{
    E_V vm = E_K(m), vr = E_K(r);
    size_t i = 0;
    for (; i + E_W <= n; i += E_W) {
        E_V v = E_LOAD(dy + i);
        E_STORE(db + i, E_ADD(E_LOAD(db + i), v));
        E_STORE(dw + i, E_ADD(E_LOAD(dw + i), E_MUL(v, E_MUL(E_SUB(E_LOAD(x + i), vm), vr))));
    }
    for (; i < n; i++) {
        db[i] += dy[i];
        dw[i] += dy[i] * ((x[i] - m) * r);
    }
}

E_FN void DL__K(multiply)(dl_real *y, const dl_real *x, const dl_real *z, size_t n)
{
    size_t i = 0;
    for (; i + E_W <= n; i += E_W) E_STORE(y + i, E_MUL(E_LOAD(x + i), E_LOAD(z + i)));
    for (; i < n; i++) y[i] = x[i] * z[i];
}

/* ---- pooling ---- */
/* Windows of 2 x 2 side by side, a and b above c and d, in rows w wide. */
#ifdef E_EVENS
#define E_WINS(a, b) E_EITHER(E_LE(b, a), E_NE(a, a)) /* a wins over b, as in dl__winner */
#define E_BEST(a, b) E_SEL(E_WINS(a, b), a, b)
#define E_WINDOWS \
    E_V p = E_LOAD(x), q = E_LOAD(x + E_W), r = E_LOAD(x + w), s = E_LOAD(x + w + E_W); \
    E_V a = E_EVENS(p, q), b = E_ODDS(p, q), c = E_EVENS(r, s), d = E_ODDS(r, s), \
        above = E_BEST(a, b), below = E_BEST(c, d);
E_IN void DL__K(max_vector)(dl_real *y, const dl_real *x, dl_index w)
{
    E_WINDOWS
    E_STORE(y, E_UNMIX(E_BEST(above, below)));
}
/* rows d0 and d1 = dy where x is greatest, else 0 */
E_IN void DL__K(spread_vector)(dl_real *d0, dl_real *d1, const dl_real *x, const dl_real *dy, dl_index w)
{
    E_WINDOWS
    E_V g = E_MIX(E_LOAD(dy)), g0 = E_WHERE(E_WINS(above, below), g), g1 = E_UNLESS(E_WINS(above, below), g);
    p = E_WHERE(E_WINS(a, b), g0), q = E_UNLESS(E_WINS(a, b), g0);
    r = E_WHERE(E_WINS(c, d), g1), s = E_UNLESS(E_WINS(c, d), g1);
    E_STORE(d0, E_ZIP_LOW(p, q));
    E_STORE(d0 + E_W, E_ZIP_HIGH(p, q));
    E_STORE(d1, E_ZIP_LOW(r, s));
    E_STORE(d1 + E_W, E_ZIP_HIGH(r, s));
}

/* `rows` of n windows, all of a plane. A vector at a time: the last of a row overlaps those before. In shorter rows,
   of four or more, it reaches into the next, which is written later; that of the last row begins in the row before and
   goes through a copy. */
DL__HOT E_FN void DL__K(max_2x2)(dl_real *y, const dl_real *x, dl_index w, dl_index rows, dl_index n)
{
    dl_real copy[E_W];
    for (; rows--; x += 2 * w, y += n) {
        dl__ahead(x, DL__AHEAD, (size_t)(2 * w));
        for (dl_index i = 0; i < n; i += E_W) {
            dl_index at = n < E_W && rows ? 0 : DL__MIN(i, n - E_W);
            DL__K(max_vector)(n < E_W && !rows ? copy : y + at, x + 2 * at, w);
        }
    }
    if (n < E_W) memcpy(y - n, copy + E_W - n, (size_t)n * sizeof *y);
}
DL__HOT E_FN void DL__K(spread_2x2)(
    dl_real *dx, const dl_real *x, const dl_real *dy, dl_index w, dl_index rows, dl_index n)
{
    dl_real copy[4 * E_W];
    size_t some = (size_t)(2 * n) * sizeof *dx;
    for (; rows--; x += 2 * w, dx += 2 * w, dy += n) {
        bool last = n < E_W && !rows;
        dl__ahead(x, DL__AHEAD, (size_t)(2 * w));
        dl__ahead(dx, DL__AHEAD, (size_t)(2 * w));
        for (dl_index i = 0; i < n; i += E_W) {
            dl_index at = n < E_W && rows ? 0 : DL__MIN(i, n - E_W);
            DL__K(spread_vector)(
                last ? copy : dx + 2 * at, last ? copy + 2 * E_W : dx + w + 2 * at, x + 2 * at, dy + at, w);
        }
        if (w & 1) dx[w - 1] = dx[2 * w - 1] = 0;
    }
    if (n >= E_W) return;
    memcpy(dx - 2 * w, copy + 2 * (E_W - n), some);
    memcpy(dx - w, copy + 2 * (2 * E_W - n), some);
}
#endif

/* y[i] = the winner of y[i] and x[i * step], i < n */
DL__HOT E_FN void DL__K(max_to)(dl_real *y, const dl_real *x, dl_index step, dl_index n)
{
    if (step == 1)
        for (dl_index i = 0; i < n; i++) y[i] = dl__winner(y[i], x[i], y[i], x[i]);
    else if (step == 2)
        for (dl_index i = 0; i < n; i++) y[i] = dl__winner(y[i], x[2 * i], y[i], x[2 * i]);
    else
        for (dl_index i = 0; i < n; i++) y[i] = dl__winner(y[i], x[i * step], y[i], x[i * step]);
}

/* y[i] += x[i * step], i < n; and back: dx[i * step] += y[i] */
DL__HOT E_FN void DL__K(add_from)(dl_real *y, const dl_real *x, dl_index step, dl_index n)
{
    if (step == 1)
        for (dl_index i = 0; i < n; i++) y[i] += x[i];
    else if (step == 2)
        for (dl_index i = 0; i < n; i++) y[i] += x[2 * i];
    else
        for (dl_index i = 0; i < n; i++) y[i] += x[i * step];
}
DL__HOT E_FN void DL__K(add_onto)(dl_real *dx, const dl_real *y, dl_index step, dl_index n)
{
    if (step == 1)
        for (dl_index i = 0; i < n; i++) dx[i] += y[i];
    else
        for (dl_index i = 0; i < n; i++) dx[i * step] += y[i];
}

/* ---- products ---- */
/* What was computed of a tile that hangs over the edge of C: t holds `rows` rows of whole vectors. */
E_FN DL__NOINLINE void DL__K(tile_edge)(const dl__panel *p, dl_index first, int rows, const dl_real *t)
{
    for (int v = 0; v < E_NV && v * E_W < p->cols; v++) {
        int n = (int)DL__MIN(p->cols - v * E_W, (dl_index)E_W);
        dl_real *out = p->out + first * p->out_row + v * E_W;
        for (int i = 0; i < rows; i++, out += p->out_row) {
            E_V y = E_LOAD(t + (i * E_NV + v) * E_W);
            if (p->more) y = E_ADD(E_LOADN(out, n), y);
            if (p->bias) y = E_ADD(y, p->bias_by_row ? E_K(p->bias[first + i]) : E_LOADN(p->bias + v * E_W, n));
            if (p->add) y = E_ADD(E_LOADN(out, n), y);
            E_STOREN(out, y, n);
        }
    }
}

/* Rule 2 for rows first .. first + rows of a panel and so many vectors of columns. Both are constants where it
   is called, and every loop but that over k is unrolled, so that the tile stays in registers from its zeros to
   its place in C: a tile of a short k is half as fast otherwise. The portable tile is always whole: rows that
   lack repeat the last. */
E_IN void DL__K(tile)(const dl__panel *p, dl_index first, const int rows, const int vectors)
{
    E_V acc[E_MR][4 * E_NV];
    const dl_real *a[E_MR], *b = p->b;
    const dl_index *at = p->at, *end = at + p->kc, out_row = p->out_row, step = p->b_step;
    dl_real *out = p->out + first * out_row;
    int some = E_W > 1 ? rows : (int)DL__MIN(p->rows - first, (dl_index)rows);
    DL__UNROLL for (int i = 0; i < rows; i++) {
        dl_index r = E_W > 1 ? i : DL__MIN(i, some - 1);
        a[i] = p->a + p->row[first + r];
        DL__PREFETCH(out + r * out_row);
        DL__UNROLL for (int v = 0; v < vectors; v++) acc[i][v] = E_K(0);
    }
    if (p->chained)
        DL__UNROLL for (int i = 0; i < rows; i++)
            DL__UNROLL for (int v = 0; v < DL__MIN(vectors, E_NV); v++)
                acc[i][v] = E_LOAD(out + DL__MIN(i, some - 1) * out_row + v * E_W);
#define E_STEP(k, from) \
    { \
        E_V bv[4 * E_NV]; \
        DL__UNROLL for (int v = 0; v < vectors; v++) bv[v] = E_LOAD((from) + v * E_W); \
        DL__UNROLL for (int i = 0; i < rows; i++) { \
            E_V x = E_K(a[i][k]); \
            DL__UNROLL for (int v = 0; v < vectors; v++) acc[i][v] = E_FMA(x, bv[v], acc[i][v]); \
        } \
    }
#if E_W > 1 /* the fewer instructions beside the multiply-adds, the less a neighbour on the same core disturbs */
    DL__UNROLL for (int i = 0; i < rows; i++) DL__OPAQUE(a[i]);
    for (; rows > DL__THIN && at + 2 <= end; at += 2, b += 2 * step) {
        E_STEP(at[0], b)
        E_STEP(at[1], b + step)
    }
#endif
    for (; at < end; at++, b += step) E_STEP(*at, b)
#undef E_STEP
    if (E_W == 1 || p->cols < vectors * E_W) {
        dl_real t[E_MR * E_NV * E_W];
        DL__UNROLL for (int i = 0; i < rows; i++)
            DL__UNROLL for (int v = 0; v < DL__MIN(vectors, E_NV); v++) E_STORE(t + (i * E_NV + v) * E_W, acc[i][v]);
        DL__K(tile_edge)(p, first, some, t);
        return;
    }
#define E_EACH(value) \
    DL__UNROLL for (int i = 0; i < rows; i++) \
        DL__UNROLL for (int v = 0; v < vectors; v++) acc[i][v] = value;
    for (int term = 0; term < 3; term++) { /* the blocks before, the bias, what C holds */
        const dl_real *from = term == 1 ? p->bias : out;
        dl_index apart = term == 1 ? 0 : out_row;
        if (!(term == 0 ? p->more : term == 1 ? p->bias != NULL : p->add)) continue;
        if (term == 1 && p->bias_by_row) { E_EACH(E_ADD(acc[i][v], E_K(p->bias[first + i]))) }
        else { E_EACH(E_ADD(E_LOAD(from + i * apart + v * E_W), acc[i][v])) }
    }
#undef E_EACH
    DL__UNROLL for (int i = 0; i < rows; i++)
        DL__UNROLL for (int v = 0; v < vectors; v++) E_STORE(out + i * out_row + v * E_W, acc[i][v]);
}

/* Tiles of nearly the same height: one of a row or two would wait for its own additions. */
E_IN void DL__K(tiles)(const dl__panel *p, const int vectors)
{
    dl_index tiles = (p->rows + E_MR - 1) / E_MR;
    for (dl_index first = 0, rows; tiles; tiles--, first += rows) {
        rows = E_W > 1 ? (p->rows - first + tiles - 1) / tiles : E_MR;
#if E_W > 1
        switch (rows) {
#if E_MR == 8
        case 8: DL__K(tile)(p, first, 8, vectors); continue;
        case 7: DL__K(tile)(p, first, 7, vectors); continue;
#endif
        case 5: DL__K(tile)(p, first, 5, vectors); continue;
        case 4: DL__K(tile)(p, first, 4, vectors); continue;
        case 3: DL__K(tile)(p, first, 3, vectors); continue;
        case 2: DL__K(tile)(p, first, 2, vectors); continue;
        case 1: DL__K(tile)(p, first, 1, vectors); continue;
        }
        DL__K(tile)(p, first, 6, vectors);
#else
        DL__K(tile)(p, first, E_MR, vectors);
#endif
    }
}
#if E_W > 1
DL__HOT E_FN DL__NOINLINE void DL__K(narrow)(const dl__panel *p) { DL__K(tiles)(p, E_NV - 1); }
#endif
DL__HOT E_FN void DL__K(panel)(const dl__panel *p)
{
#if E_W > 1
    if (p->cols <= (E_NV - 1) * E_W) {
        DL__K(narrow)(p);
        return;
    }
#endif
    DL__K(tiles)(p, E_NV);
}

#if E_W > 1
/* A row or two or three keep the multipliers busy by their width. */
DL__HOT E_FN DL__NOINLINE void DL__K(thin)(const dl__panel *p)
{
    dl__panel q = *p;
    int wide = p->rows == 1 ? 4 * E_NV : 2 * E_NV;
    for (dl_index j = 0, n; j < p->cols; j += n * E_W) {
        n = p->cols - j < wide * E_W ? E_NV : wide;
        q.b = p->b + j;
        q.out = p->out + j;
        q.cols = n * E_W;
        if (p->bias && !p->bias_by_row) q.bias = p->bias + j;
        if (n == E_NV) DL__K(panel)(&q);
        else if (p->rows == 1) DL__K(tile)(&q, 0, 1, 4 * E_NV);
        else if (p->rows == 2) DL__K(tile)(&q, 0, 2, 2 * E_NV);
        else DL__K(tile)(&q, 0, 3, 2 * E_NV);
    }
}
#endif

#if DL__LEVEL == DL__AVX2
#define E_TURN 8
#define E_TURN_BLOCK dl__turn_block_avx2
E_TARGET DL__INLINE void dl__turn_block_avx2(
    const dl_real *src, dl_index src_row, dl_real *dst, dl_index dst_row, bool add)
{
    __m256 a[8], b[8];
    DL__UNROLL for (int i = 0; i < 4; i++) { /* rows i and i + 4 side by side, by halves */
        __m128 low = _mm_loadu_ps(src + i * src_row), high = _mm_loadu_ps(src + i * src_row + 4);
        a[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(low), _mm_loadu_ps(src + (i + 4) * src_row), 1);
        a[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(high), _mm_loadu_ps(src + (i + 4) * src_row + 4), 1);
    }
    DL__UNROLL for (int h = 0; h < 8; h += 4) {
        __m256 p = _mm256_unpacklo_ps(a[h], a[h + 1]), q = _mm256_unpackhi_ps(a[h], a[h + 1]);
        __m256 r = _mm256_unpacklo_ps(a[h + 2], a[h + 3]), s = _mm256_unpackhi_ps(a[h + 2], a[h + 3]);
        b[h] = _mm256_shuffle_ps(p, r, 0x44);
        b[h + 1] = _mm256_shuffle_ps(p, r, 0xee);
        b[h + 2] = _mm256_shuffle_ps(q, s, 0x44);
        b[h + 3] = _mm256_shuffle_ps(q, s, 0xee);
    }
    DL__UNROLL for (int j = 0; j < 8; j++) {
        if (add) b[j] = _mm256_add_ps(_mm256_loadu_ps(dst + j * dst_row), b[j]);
        _mm256_storeu_ps(dst + j * dst_row, b[j]);
    }
}
#elif DL__LEVEL == DL__NEON
#define E_TURN 4
#define E_TURN_BLOCK dl__turn_block_neon
DL__INLINE void dl__turn_block_neon(const dl_real *src, dl_index src_row, dl_real *dst, dl_index dst_row, bool add)
{
    float32x4x2_t p =
        vzipq_f32(vld1q_f32(src), vld1q_f32(src + 2 * src_row)); /* rows 0 and 2, 1 and 3 in turns; then again */
    float32x4x2_t q = vzipq_f32(vld1q_f32(src + src_row), vld1q_f32(src + 3 * src_row));
    float32x4x2_t half[2];
    half[0] = vzipq_f32(p.val[0], q.val[0]);
    half[1] = vzipq_f32(p.val[1], q.val[1]);
    DL__UNROLL for (int j = 0; j < 4; j++) {
        float32x4_t x = half[j / 2].val[j % 2];
        vst1q_f32(dst + j * dst_row, add ? vaddq_f32(vld1q_f32(dst + j * dst_row), x) : x);
    }
}
#endif
#if DL__LEVEL == DL__AVX512 /* moving numbers around bounds these: AVX2's are as fast */
#define dl__turn_avx512 dl__turn_avx2
#define dl__dots_avx512 dl__dots_avx2
#else
E_TARGET DL__INLINE void DL__K(turn_into)(
    const dl_real *src, dl_index src_row, dl_index rows, dl_index cols, dl_real *dst, dl_index dst_row, const bool add)
{
    dl_index i = 0;
#ifdef E_TURN
    /* whole lines of dst: those a power of two apart soon fall out of L1 */
    for (dl_index some; i + E_TURN <= rows; i += some) {
        dl_index j = 0;
        some = DL__MIN((rows - i) / E_TURN * E_TURN, (dl_index)16);
        for (; j + E_TURN <= cols; j += E_TURN) {
            for (dl_index h = j; dst_row > DL__AHEAD / 4 && h < j + E_TURN; h++)
                dl__ahead(dst + h * dst_row + i, 2 * DL__LINE, 1);
            for (dl_index k = i; k < i + some; k += E_TURN)
                E_TURN_BLOCK(src + k * src_row + j, src_row, dst + j * dst_row + k, dst_row, add);
        }
        for (; j < cols; j++)
            for (dl_index k = i; k < i + some; k++)
                dst[j * dst_row + k] = add ? dst[j * dst_row + k] + src[k * src_row + j] : src[k * src_row + j];
    }
#endif
    for (; i < rows; i++)
        for (dl_index j = 0; j < cols; j++)
            dst[j * dst_row + i] = add ? dst[j * dst_row + i] + src[i * src_row + j] : src[i * src_row + j];
}
DL__HOT E_FN void DL__K(turn)(
    const dl_real *src, dl_index src_row, dl_index rows, dl_index cols, dl_real *dst, dl_index dst_row, bool add)
{
    if (E_W == 1) DL__K(turn_into)(src, src_row, rows, cols, dst, dst_row, add);
    else if (add) DL__K(turn_into)(src, src_row, rows, cols, dst, dst_row, true);
    else DL__K(turn_into)(src, src_row, rows, cols, dst, dst_row, false);
}
#ifdef E_TURN
/* One step of E_W columns that lie along k. */
E_FN DL__NOINLINE void DL__K(gather)(const dl_real *b, dl_index step, dl_real *t)
{
    for (int l = 0; l < E_W; l++) t[l] = b[l * step];
}
/* Columns first .. first + side * E_W; where there are fewer, the last E_W of all stand in. */
E_IN void DL__K(dots_of)(const dl__panel *p, const dl_real *a, dl_index first, const int side)
{
    enum { MOST = 4 };
    E_V acc[MOST];
    dl__panel q = *p;
    dl_real t[E_TURN * E_W], y[(1 + MOST + E_NV) * E_W];
    const dl_real *b[MOST];
    dl_index k = 0, step = p->b_step, from[MOST];
    DL__UNROLL for (int v = 0; v < side; v++) {
        from[v] = DL__MIN(first + v * E_W, p->cols - E_W);
        b[v] = p->b + from[v] * step;
        acc[v] = E_K(0);
    }
    for (; k + E_TURN <= p->kc; k += E_TURN)
        DL__UNROLL for (int v = 0; v < side; v++) {
            DL__UNROLL for (int h = 0; h < E_W; h += E_TURN) E_TURN_BLOCK(b[v] + h * step, step, t + h, E_W, false);
            DL__UNROLL for (int i = 0; i < E_TURN; i++) acc[v] = E_FMA(E_K(a[k + i]), E_LOAD(t + i * E_W), acc[v]);
            b[v] += E_TURN;
            DL__OPAQUE(b[v]); /* a pointer each, and not one for each of its E_TURN columns */
        }
    for (; k < p->kc; k++)
        DL__UNROLL for (int v = 0; v < side; v++) {
            DL__K(gather)(b[v]++, step, t);
            acc[v] = E_FMA(E_K(a[k]), E_LOAD(t), acc[v]);
        }
    DL__UNROLL for (int v = 0; v < side; v++) E_STORE(y + E_W + from[v] - first, acc[v]);
    for (int v = 0; v < side && first < p->cols; v += E_NV, first += E_NV * E_W) {
        q.cols = p->cols - first;
        q.out = p->out + first;
        if (p->bias && !p->bias_by_row) q.bias = p->bias + first;
        DL__K(tile_edge)(&q, 0, 1, y + (1 + v) * E_W);
    }
}
DL__HOT E_FN DL__NOINLINE void DL__K(dots)(const dl__panel *p)
{
    dl_real a[DL__KB];
    dl_index j = 0;
    for (dl_index k = 0; k < p->kc; k++) a[k] = p->a[*p->row + p->at[k]];
    for (; j + 2 * E_W < p->cols; j += 4 * E_W) DL__K(dots_of)(p, a, j, 4);
    for (; j < p->cols; j += E_W) DL__K(dots_of)(p, a, j, 1);
}
#endif
#endif
DL__HOT E_FN void DL__K(pack)(const dl_real *src, dl_index row, dl_index step, dl_index cols, dl_index kc, dl_real *dst)
{
    enum { NR = E_NV * E_W, SOME = 4 * NR }; /* panels lie a power of two apart: of more at once L1 loses the lines */
    if (row == 1) {
        for (dl_index j = 0; j < cols; j += SOME, src += SOME, dst += SOME * kc)
            for (dl_index k = 0, n = DL__MIN(cols - j, (dl_index)SOME); k < kc; k++) {
                const dl_real *from = src + k * step;
                dl_real *to = dst + k * NR;
                dl_index i = 0;
                for (; i + NR <= n; i += NR, to += kc * NR)
                    DL__UNROLL for (int v = 0; v < E_NV; v++) E_STORE(to + v * E_W, E_LOAD(from + i + v * E_W));
                for (int v = 0; v < E_NV && i < n; v++) {
                    int some = (int)DL__MIN(n - i - v * E_W, (dl_index)E_W);
                    const dl_real *at = from + i + v * E_W;
                    E_STORE(to + v * E_W, some == E_W ? E_LOAD(at) : some > 0 ? E_LOADN(at, some) : E_K(0));
                }
            }
        return;
    }
    for (dl_index j = 0; j < cols; j += NR, src += NR * row, dst += kc * NR) {
        dl_index some = DL__MIN(cols - j, (dl_index)NR);
        if (some < NR) memset(dst, 0, sizeof *dst * (size_t)(kc * NR));
        if (step == 1) DL__K(turn)(src, row, some, kc, dst, NR, false);
        else
            for (dl_index k = 0; k < kc; k++)
                for (dl_index l = 0; l < some; l++) dst[k * NR + l] = src[l * row + k * step];
    }
}
/* Planes of h x w, as seen through a frame of fh x fw at (y, x), with zeros outside; frames `plane` apart. Zeros are
   written in whole vectors, before what comes to lie there: behind the last frame E_W numbers more. */
DL__HOT E_FN void DL__K(frame)(const dl_real *src, dl_index planes, dl_index h, dl_index w, dl_index y, dl_index x,
    dl_index fh, dl_index fw, dl_real *dst, dl_index plane)
{
    dl_index left = DL__MIN(DL__MAX(-x, (dl_index)0), fw), from = DL__MAX(x, (dl_index)0);
    dl_index run = DL__MAX(DL__MIN(fw - left, w - from), (dl_index)0), right = fw - left - run;
    dl_index top = DL__MIN(DL__MAX(-y, (dl_index)0), fh), rows = DL__MAX(DL__MIN(fh - top, h - y - top), (dl_index)0);
    for (dl_index c = 0; c < planes; c++, src += h * w, dst += plane) {
        const dl_real *row = src + (y + top) * w + from;
        dl_real *to = dst + top * fw;
        memset(dst, 0, sizeof *dst * (size_t)(top * fw));
        for (dl_index r = 0; r < rows; r++, row += w, to += fw) {
            dl_real *in = to + left, *end = in + run;
            dl__ahead(row, (size_t)(h * w), (size_t)run); /* of the next plane */
            if (run < E_W) {
                for (dl_index i = 0; i < fw; i++) to[i] = i >= left && i < left + run ? row[i - left] : 0;
                continue;
            }
            for (dl_index i = 0; i < left; i += E_W) E_STORE(to + i, E_K(0));
            for (dl_index i = 0; i < right; i += E_W) E_STORE(end + i, E_K(0));
            for (dl_index i = 0; i + E_W < run; i += E_W) E_STORE(in + i, E_LOAD(row + i));
            E_STORE(end - E_W, E_LOAD(row + run - E_W));
        }
        memset(to, 0, sizeof *to * (size_t)((fh - top - rows) * fw));
    }
}
/* Some channels of `side` vectors of pixels, the first at row y, column x: what is in y there comes last. */
E_IN void DL__K(strip_tile)(const dl__strip *s, dl_index c0, const int channels, const int side, dl_index y, dl_index x)
{
    E_V acc[E_MR][4], sum[E_MR][4];
    const dl_real *from[4];
    dl_real *to[4];
    int some[4];
    E_UNROLL for (int v = 0; v < side; v++) {
        some[v] = y < s->rows ? (int)DL__MIN(s->width - x, (dl_index)E_W) : 0;
        from[v] = !v || some[v] ? s->x + y * s->x_row + x : from[v - 1];
        to[v] = s->y + c0 * s->y_plane + y * s->y_row + x;
        if ((x += E_W) >= s->width) x = 0, y++;
    }
    dl_index b = 0;
    do {
        const dl_index *at = s->at + s->begin[b], *end = s->at + s->begin[b + 1];
        const dl_real *w = s->w + s->begin[b] * s->w_step + c0;
        E_UNROLL for (int i = 0; i < channels; i++)
            E_UNROLL for (int v = 0; v < side; v++) acc[i][v] = E_K(0);
        for (; at < end; at++, w += s->w_step) {
            E_V part[4];
            E_UNROLL for (int v = 0; v < side; v++) part[v] = E_LOAD(from[v] + *at);
            E_UNROLL for (int i = 0; i < channels; i++) {
                E_V f = E_K(w[i]);
                E_UNROLL for (int v = 0; v < side; v++) acc[i][v] = E_FMA(f, part[v], acc[i][v]);
            }
        }
        if (s->blocks > 1)
            E_UNROLL for (int i = 0; i < channels; i++)
                E_UNROLL for (int v = 0; v < side; v++) {
                    if (b) acc[i][v] = E_ADD(sum[i][v], acc[i][v]);
                    sum[i][v] = acc[i][v];
                }
    } while (++b < s->blocks);
    E_UNROLL for (int i = 0; i < channels; i++)
        E_UNROLL for (int v = 0; v < side; v++) {
            dl_real *at = to[v] + i * s->y_plane;
            if (s->bias) acc[i][v] = E_ADD(acc[i][v], E_K(s->bias[c0 + i]));
            if (some[v] == E_W) {
                if (s->add) acc[i][v] = E_ADD(E_LOAD(at), acc[i][v]);
                E_STORE(at, acc[i][v]);
            } else if (some[v]) {
                if (s->add) acc[i][v] = E_ADD(E_LOADN(at, some[v]), acc[i][v]);
                E_STOREN(at, acc[i][v], some[v]);
            }
        }
}
#define E_STRIP(channels, side) \
    for (dl_index v = 0, y = 0, x = 0; v < vectors; v += side) { \
        DL__K(strip_tile)(s, c, channels, side, y, x); \
        for (x += side * E_W; x >= across; x -= across) y++; \
    } \
    c += channels;
DL__HOT E_FN void DL__K(strip)(const dl__strip *s)
{
    dl_index across = dl__vectors(s->width, E_W) * E_W, vectors = s->rows * across / E_W;
    for (dl_index c = 0; c < s->channels;) {
#if E_W > 1
#if E_MR == 8
        if (s->channels - c >= 8) { E_STRIP(8, 2) continue; }
#endif
        if (s->channels - c >= 4) { E_STRIP(4, 3) continue; }
        if (s->channels - c >= 2) { E_STRIP(2, 4) continue; }
#endif
        E_STRIP(1, 4)
    }
}
#undef E_STRIP
#if E_W == 1
#define E_THIN NULL, NULL
#else
#define E_THIN DL__K(thin), DL__K(dots)
#endif
static const dl__products DL__K(products) = { E_MR, E_NV * E_W, E_W, E_MC, E_NC, DL__K(panel), E_THIN, DL__K(turn),
    DL__K(pack) };
static const dl__products *DL__K(products_of)(void) { return &DL__K(products); }

/* ---- attention ---- */
/* x where lanes are below n, else y: stores of parts of vectors, or from the middle of one on, would delay the
   loads that follow. */
E_IN E_V DL__K(first)(E_V x, dl_index n, E_V y) { return E_SEL(E_LT(E_LOAD(dl__lane), E_K((dl_real)n)), x, y); }

/* Zeros behind the n numbers of a row, to the end of the block of lanes. */
E_IN size_t DL__K(whole)(dl_index n) { return ((size_t)n + DL__LANES - 1) / DL__LANES * DL__LANES; }
E_IN void DL__K(clear_row)(dl_real *x, dl_index n)
{
    dl_index j = n / E_W * E_W, end = (dl_index)DL__K(whole)(n);
    if (j < n) E_STORE(x + j, DL__K(first)(E_LOAD(x + j), n - j, E_K(0)));
    for (j += j < n ? E_W : 0; j < end; j += E_W) E_STORE(x + j, E_K(0));
}

/* Rows of products become probabilities, zeros behind them: of queries from l0 on. Each step goes over all rows before
   the next begins, so that the chains within rows overlap. */
E_FN void DL__K(probabilities)(
    const dl__attention *t, const dl_real *mask, dl_index l0, dl_index rows, dl_real *p, dl_index stride)
{
    dl_real top[DL__ATT_ROWS], sum[DL__ATT_ROWS];
    for (dl_index i = 0; i < rows; i++) {
        dl_real *x = p + i * stride;
        dl_index n = dl__seen(t, l0 + i), j = 0;
        E_V least = E_K(-HUGE_VALF), most = least;
        for (; j < n; j += E_W) E_STORE(x + j, E_MULS(E_LOAD(x + j), t->scale));
        for (j = 0; mask && j < n; j++) x[j] += mask[(l0 + i) * t->mask.row + j * t->mask.column];
        /* may miss a NaN, which the sum does not */
        for (j = 0; j + E_W <= n; j += E_W) most = E_MAX(E_LOAD(x + j), most);
        if (j < n) most = E_MAX(DL__K(first)(E_LOAD(x + j), n - j, least), most);
        E_FOLD(E_MAX, most)
        top[i] = E_FIRST(most);
    }
    for (dl_index i = 0; i < rows; i++) {
        dl_real *x = p + i * stride;
        dl_index n = dl__seen(t, l0 + i);
        for (dl_index j = 0; j < n; j += E_W) E_STORE(x + j, E_EXP(E_SUB(E_LOAD(x + j), E_K(top[i]))));
        DL__K(clear_row)(x, n);
    }
    for (dl_index i = 0; i < rows; i++) sum[i] = DL__K(sum)(p + i * stride, DL__K(whole)(dl__seen(t, l0 + i)));
    for (dl_index i = 0; i < rows; i++) {
        dl_real *x = p + i * stride;
        dl_index n = dl__seen(t, l0 + i), j = 0;
        for (; j + E_W <= n; j += E_W) E_STORE(x + j, E_DIV(E_LOAD(x + j), E_K(sum[i])));
        if (j < n) E_STORE(x + j, DL__K(first)(E_DIV(E_LOAD(x + j), E_K(sum[i])), n - j, E_K(0)));
    }
}

/* dp becomes the gradient of the scores: p (dp - sum(dp p)), times the scale; +0 behind a row. */
E_FN void DL__K(scores_back)(
    const dl__attention *t, dl_index l0, dl_index rows, const dl_real *p, dl_real *dp, dl_index stride)
{
    dl_real sum[DL__ATT_ROWS];
    for (dl_index i = 0; i < rows; i++) {
        dl_index at = i * stride, n = dl__seen(t, l0 + i);
        DL__K(clear_row)(dp + at, n);
        sum[i] = DL__K(runs_products)(dp + at, p + at, 1, DL__K(whole)(n), 0, 0, 1);
    }
    for (dl_index i = 0; i < rows; i++, p += stride, dp += stride)
        for (dl_index j = 0, n = dl__seen(t, l0 + i); j < n; j += E_W) {
            E_V d = E_MULS(E_MUL(E_LOAD(p + j), E_SUB(E_LOAD(dp + j), E_K(sum[i]))), t->scale);
            E_STORE(dp + j, j + E_W <= n ? d : DL__K(first)(d, n - j, E_K(0)));
        }
}

/* ---- optimizers over n parameters p with gradients g; h holds their numbers, see >>optimizers ---- */
E_FN void DL__K(sgd)(dl_real *p, const dl_real *g, dl_real *m, size_t n, const dl_real *h)
{
    const dl_real lr = h[0], momentum = h[1], keep = h[2], decay = h[3], nesterov = h[4];
    size_t i = 0;
    for (; i + E_W <= n; i += E_W) {
        E_V x = E_LOAD(p + i), d = E_LOAD(g + i);
        if (decay != 0) d = E_ADD(d, E_MUL(E_K(decay), x));
        if (m) {
            E_V buffer = E_ADD(E_MUL(E_K(momentum), E_LOAD(m + i)), E_MUL(E_K(keep), d));
            E_STORE(m + i, buffer);
            d = nesterov != 0 ? E_ADD(d, E_MUL(E_K(momentum), buffer)) : buffer;
        }
        E_STORE(p + i, E_SUB(x, E_MUL(E_K(lr), d)));
    }
    for (; i < n; i++) {
        dl_real d = decay != 0 ? g[i] + decay * p[i] : g[i];
        if (m) {
            m[i] = momentum * m[i] + keep * d;
            d = nesterov != 0 ? d + momentum * m[i] : m[i];
        }
        p[i] -= lr * d;
    }
}

E_FN void DL__K(adam)(dl_real *p, const dl_real *g, dl_real *m, dl_real *v, size_t n, const dl_real *h)
{
    const dl_real rate = h[0], b1 = h[1], c1 = h[2], b2 = h[3], c2 = h[4], root = h[5], eps = h[6], decay = h[7],
                  shrink = h[8];
    size_t i = 0;
    for (; i + E_W <= n; i += E_W) {
        E_V x = E_LOAD(p + i), d = E_LOAD(g + i);
        if (shrink != 1) x = E_MUL(x, E_K(shrink));
        if (decay != 0) d = E_ADD(d, E_MUL(E_K(decay), x));
        E_V mi = E_ADD(E_MUL(E_K(b1), E_LOAD(m + i)), E_MUL(E_K(c1), d));
        E_V vi = E_ADD(E_MUL(E_K(b2), E_LOAD(v + i)), E_MUL(E_MUL(E_K(c2), d), d));
        E_STORE(m + i, mi);
        E_STORE(v + i, vi);
        E_STORE(p + i, E_SUB(x, E_DIV(E_MUL(E_K(rate), mi), E_ADD(E_DIV(E_SQRT(vi), E_K(root)), E_K(eps)))));
    }
    for (; i < n; i++) {
        dl_real x = shrink != 1 ? p[i] * shrink : p[i], d = decay != 0 ? g[i] + decay * x : g[i];
        m[i] = b1 * m[i] + c1 * d;
        v[i] = b2 * v[i] + c2 * d * d;
        p[i] = x - rate * m[i] / (dl__sqrt(v[i]) / root + eps);
    }
}

#undef E_A
#undef E_ABS
#undef E_ADD
#undef E_ADDS
#undef E_B
#undef E_BEST
#undef E_BELL
#undef E_BITS
#undef E_CDF
#undef E_COS
#undef E_DIV
#undef E_EACH1
#undef E_EACH2
#undef E_EITHER
#undef E_EQ
#undef E_ERF
#undef E_EVENS
#undef E_EXP
#undef E_EXPM1
#undef E_FIRST
#undef E_FMA
#undef E_FN
#undef E_FOLD
#undef E_FOLD4
#undef E_FOLD8
#undef E_FROM
#undef E_FROM1
#undef E_FROM2
#undef E_FROM3
#undef E_GE
#undef E_GELU_U
#undef E_GT
#undef E_I
#undef E_IADD
#undef E_IK
#undef E_IN
#undef E_ISUB
#undef E_K
#undef E_LE
#undef E_LEAST
#undef E_LOAD
#undef E_LOAD1
#undef E_LOAD2
#undef E_LOAD3
#undef E_LOADN
#undef E_LOG
#undef E_LOG1P
#undef E_LT
#undef E_MASK
#undef E_MAX
#undef E_MC
#undef E_MIN
#undef E_MIX
#undef E_MR
#undef E_MUL
#undef E_MULS
#undef E_NC
#undef E_NE
#undef E_NEG
#undef E_NV
#undef E_ODDS
#undef E_ONE
#undef E_OUT
#undef E_POW
#undef E_REST
#undef E_ROW_OF
#undef E_SAR
#undef E_SCALARS
#undef E_SEL
#undef E_SHL
#undef E_SIGMOID
#undef E_SIN
#undef E_SQRT
#undef E_STORE
#undef E_STOREN
#undef E_SUB
#undef E_SUMS
#undef E_SWAP1
#undef E_SWAP2
#undef E_SWAP4
#undef E_SWAP8
#undef E_TANH
#undef E_TARGET
#undef E_THIN
#undef E_TOF
#undef E_TURN
#undef E_TURN_BLOCK
#undef E_UNLESS
#undef E_UNMIX
#undef E_UNROLL
#undef E_V
#undef E_W
#undef E_WHERE
#undef E_WINDOWS
#undef E_WINS
#undef E_ZIP_HIGH
#undef E_ZIP_LOW
#undef DL__K
#endif /* DL__LEVEL */

#if defined(DLTRAIN_IMPLEMENTATION) && !defined(DL__LEVEL) && !defined(DL__REST)
#define DL__REST
#ifdef DL__QUICK
#pragma GCC optimize("Og")
#endif

/* ==== >>elementwise operations ====
   The rows of the kernels read as recording code: derivatives are programs of the same operations.
   may use: tape, cpu kernels */

/* The common shape of n operands after broadcasting; false after an error. */
static bool dl__broadcast(dl_context *ctx, const char *who, int n, dl_node *const *in, dl_shape *out)
{
    *out = n ? dl__shape(in[0]) : DL_SCALAR;
    for (int k = 1; k < n; k++) {
        dl_shape s = dl__shape(in[k]), wide = s.ndim > out->ndim ? s : *out;
        for (int i = 1; i <= s.ndim && i <= out->ndim; i++) {
            dl_index a = out->dim[out->ndim - i], b = s.dim[s.ndim - i];
            if (a != b && a != 1 && b != 1)
                return dl_fail(
                    ctx, "dl_%s: shapes %H and %S do not broadcast: %td and %td differ", who, out, in[k], a, b);
            wide.dim[wide.ndim - i] = a == 1 ? b : a;
        }
        *out = wide;
    }
    return true;
}

static dl_tensor dl__unary(const dl_op *op, dl_tensor x, dl_real a, dl_real b)
{
    dl_node *n;
    dl_context *ctx = dl__operands(op->name, 1, &x, &n);
    if (!ctx || !dl__is_float(ctx, op->name, n)) return dl__none();
    dl__extra e = dl__with(0, NULL);
    dl_shape s = dl__shape(n);
    e.f[0] = a;
    e.f[1] = b;
    return dl__record(ctx, op, 1, &n, DL_F32, &s, &e);
}

static dl_tensor dl__binary(const dl_op *op, dl_tensor x, dl_tensor z)
{
    dl_node *n[2];
    dl_tensor in[2];
    dl_shape s;
    in[0] = x;
    in[1] = z;
    dl_context *ctx = dl__operands(op->name, 2, in, n);
    if (!ctx || !dl__is_float(ctx, op->name, n[0]) || !dl__is_float(ctx, op->name, n[1]) ||
        !dl__broadcast(ctx, op->name, 2, n, &s))
        return dl__none();
    return dl__record(ctx, op, 2, n, DL_F32, &s, NULL);
}

#define DL__OP1(name, forward, derivative) \
    static void dl__run_##name(const dl_run_args *r) { DL__CALL(r->level, ew_##name, (r)); } \
    static void dl__grad_##name(const dl_grad_args *g); \
    static const dl_op dl__##name##_op = { #name, DL_OP_ELEMENTWISE, NULL, dl__run_##name, dl__grad_##name, NULL, \
        NULL };
#define DL__OP2(name, forward, dx, dz) DL__OP1(name, forward, dx)
#define DL__OP0(name, forward) \
    static void dl__run_##name(const dl_run_args *r) { DL__CALL(r->level, ew_##name, (r)); } \
    static const dl_op dl__##name##_op = { #name, DL_OP_ELEMENTWISE, NULL, dl__run_##name, NULL, NULL, NULL }; \
    DL_API dl_tensor dl_##name(dl_tensor a, dl_tensor b) { return dl__binary(&dl__##name##_op, a, b); }
DL__UNARY_ROWS(DL__OP1)
DL__SCALED_ROWS(DL__OP1)
DL__BINARY_ROWS(DL__OP2)
DL__COMPARE_ROWS(DL__OP0)
#undef DL__OP0
#undef DL__OP1
#undef DL__OP2

#define DL__UNARY(name) DL_API dl_tensor dl_##name(dl_tensor x) { return dl__unary(&dl__##name##_op, x, 0, 0); }
DL__UNARY(neg) DL__UNARY(abs) DL__UNARY(exp) DL__UNARY(log) DL__UNARY(log1p) DL__UNARY(expm1) DL__UNARY(sqrt)
DL__UNARY(rsqrt) DL__UNARY(square) DL__UNARY(reciprocal) DL__UNARY(sigmoid) DL__UNARY(tanh) DL__UNARY(sin)
DL__UNARY(cos) DL__UNARY(erf) DL__UNARY(relu) DL__UNARY(gelu) DL__UNARY(gelu_tanh) DL__UNARY(silu) DL__UNARY(softplus)
#undef DL__UNARY
#define DL__BINARY(name) \
    DL_API dl_tensor dl_##name(dl_tensor a, dl_tensor b) { return dl__binary(&dl__##name##_op, a, b); }
DL__BINARY(add) DL__BINARY(sub) DL__BINARY(mul) DL__BINARY(div) DL__BINARY(pow) DL__BINARY(maximum) DL__BINARY(minimum)
#undef DL__BINARY
#define DL__SCALED(name) \
    DL_API dl_tensor dl_##name(dl_tensor x, float a) { return dl__unary(&dl__##name##_op, x, a, 0); }
DL__SCALED(add_scalar) DL__SCALED(mul_scalar) DL__SCALED(pow_scalar) DL__SCALED(leaky_relu) DL__SCALED(elu)
#undef DL__SCALED

                            DL_API dl_tensor dl_clamp(dl_tensor x, float low, float high)
{
    if (x.ctx && !(low <= high))
        return dl_fail(x.ctx, "dl_clamp: low %g is above high %g", (double)low, (double)high), dl__none();
    return dl__unary(&dl__clamp_op, x, low, high);
}

static void dl__where_run(const dl_run_args *r) { DL__CALL(r->level, ew_where, (r)); }
static void dl__where_grad(const dl_grad_args *g)
{
    dl_tensor zero = dl__scalar(g->dy.ctx, 0);
    if (g->want[1]) g->dx[1] = dl_where(g->x[0], g->dy, zero);
    if (g->want[2]) g->dx[2] = dl_where(g->x[0], zero, g->dy);
}
static const dl_op dl__where_op = { "where", DL_OP_ELEMENTWISE, NULL, dl__where_run, dl__where_grad, NULL, NULL };

DL_API dl_tensor dl_where(dl_tensor condition, dl_tensor a, dl_tensor b)
{
    dl_node *n[3];
    dl_tensor in[3];
    dl_shape s;
    in[0] = condition, in[1] = a, in[2] = b;
    dl_context *ctx = dl__operands("where", 3, in, n);
    for (int i = 0; ctx && i < 3; i++)
        if (!dl__is_float(ctx, "where", n[i])) return dl__none();
    if (!ctx || !dl__broadcast(ctx, "where", 3, n, &s)) return dl__none();
    return dl__record(ctx, &dl__where_op, 3, n, DL_F32, &s, NULL);
}

/* The derivatives: the rows read as calls that record. A and B are the operation's scalars. Operands go over a small
   stack, since compilers differ in the order in which they evaluate arguments, and with the order of the nodes the
   bits could differ. */
typedef struct dl__stack { dl_tensor at[8]; int n; } dl__stack;
static void dl__push(dl__stack *s, dl_tensor x)
{
    DL_ASSERT(s->n < 8);
    s->at[s->n++] = x;
}
static dl_tensor dl__apply2(dl__stack *s, const dl_op *op)
{
    s->n -= 2;
    return dl__binary(op, s->at[s->n], s->at[s->n + 1]);
}
static bool dl__gelu_twice(const dl_run_args *a, const dl_node *next, void *slope)
{
    if (a->node->op != &dl__gelu_op || next->op != &dl__gelu_slope_op || next->in[0] != a->node->in[0] ||
        a->n % DL__PACK)
        return false;
    DL__CALL(a->level, gelu_pair, ((dl_real *)a->out, (dl_real *)slope, (const dl_real *)a->in[0], a->n));
    return true;
}
static dl_tensor dl__apply_where(dl__stack *s)
{
    s->n -= 3;
    return dl_where(s->at[s->n], s->at[s->n + 1], s->at[s->n + 2]);
}
#define E_1(name, a) dl__unary(&dl__##name##_op, a, 0, 0)
#define E_1S(name, a, c) dl__unary(&dl__##name##_op, a, (dl_real)(c), 0)
#define E_2(name, a, b) (dl__push(&stack, a), dl__push(&stack, b), dl__apply2(&stack, &dl__##name##_op))
#define E_K(c) dl__scalar(DY.ctx, c)
#define E_KA dl__scalar(DY.ctx, A)
#define E_KB dl__scalar(DY.ctx, B)
#define E_NONE dl__none()
#define E_ADD(a, b) E_2(add, a, b)
#define E_SUB(a, b) E_2(sub, a, b)
#define E_MUL(a, b) E_2(mul, a, b)
#define E_DIV(a, b) E_2(div, a, b)
#define E_POW(a, b) E_2(pow, a, b)
#define E_GT(a, b) E_2(gt, a, b)
#define E_GE(a, b) E_2(ge, a, b)
#define E_LT(a, b) E_2(lt, a, b)
#define E_LE(a, b) E_2(le, a, b)
#define E_EQ(a, b) E_2(eq, a, b)
#define E_LEAST(a, c) E_2(maximum, a, E_K(c))
#define E_RELU_BACK(a, b) E_2(relu_back, a, b)
#define E_GELU_BACK(a, b) E_2(gelu_back, a, b)
#define E_MULS(a, c) E_1S(mul_scalar, a, c)
#define E_ADDS(a, c) E_1S(add_scalar, a, c)
#define E_POWS(a, c) E_1S(pow_scalar, a, c)
#define E_SEL(m, a, b) (dl__push(&stack, m), dl__push(&stack, a), dl__push(&stack, b), dl__apply_where(&stack))
#define E_NEG(a) E_1(neg, a)
#define E_EXP(a) E_1(exp, a)
#define E_LOG(a) E_1(log, a)
#define E_LOG1P(a) E_1(log1p, a)
#define E_SIN(a) E_1(sin, a)
#define E_COS(a) E_1(cos, a)
#define E_ERF(a) E_1(erf, a)
#define E_TANH(a) E_1(tanh, a)
#define E_SIGN(a) E_1(sign, a)
#define E_SIGMOID(a) E_1(sigmoid, a)
#define E_GELU_SLOPE(a) (DY.ctx->twice = dl__gelu_twice, E_1(gelu_slope, a))
#define E_GELU_U(a) E_1(gelu_u, a)
#define E_SILU_SLOPE(a) E_1(silu_slope, a)
#define DL__GRAD1(name, forward, derivative) \
    static void dl__grad_##name(const dl_grad_args *g) \
    { \
        dl_tensor X = g->x[0], Y = g->y, DY = g->dy; \
        dl__stack stack; \
        stack.n = 0; \
        dl_real A = g->node->f[0], B = g->node->f[1]; \
        (void)X, (void)Y, (void)DY, (void)A, (void)B, (void)stack; \
        g->dx[0] = derivative; \
    }
#define DL__GRAD2(name, forward, derivative_x, derivative_z) \
    static void dl__grad_##name(const dl_grad_args *g) \
    { \
        dl_tensor X = g->x[0], Z = g->x[1], Y = g->y, DY = g->dy; \
        dl__stack stack; \
        stack.n = 0; \
        (void)X, (void)Z, (void)Y, (void)stack; \
        if (g->want[0]) g->dx[0] = derivative_x; \
        if (g->want[1]) g->dx[1] = derivative_z; \
    }
DL__UNARY_ROWS(DL__GRAD1)
DL__SCALED_ROWS(DL__GRAD1)
DL__BINARY_ROWS(DL__GRAD2)
#undef DL__GRAD1
#undef DL__GRAD2
#undef E_1
#undef E_1S
#undef E_2
#undef E_ADD
#undef E_ADDS
#undef E_COS
#undef E_DIV
#undef E_EQ
#undef E_ERF
#undef E_EXP
#undef E_GE
#undef E_GELU_BACK
#undef E_GELU_SLOPE
#undef E_GELU_U
#undef E_GT
#undef E_K
#undef E_KA
#undef E_KB
#undef E_LE
#undef E_LEAST
#undef E_LOG
#undef E_LOG1P
#undef E_LT
#undef E_MUL
#undef E_MULS
#undef E_NEG
#undef E_NONE
#undef E_POW
#undef E_POWS
#undef E_RELU_BACK
#undef E_SEL
#undef E_SIGMOID
#undef E_SIGN
#undef E_SILU_SLOPE
#undef E_SIN
#undef E_SUB
#undef E_TANH

/* ---- broadcasting, conversion, random numbers ---- */
static void dl__copy_run(const dl_run_args *r) { memcpy(r->out, r->in[0], r->n * dl__dtype_size(r->node->dtype)); }
static void dl__copy_grad(const dl_grad_args *g) { g->dx[0] = g->dy; }
static const dl_op dl__expand_op = { "expand", DL_OP_ELEMENTWISE, NULL, dl__copy_run, dl__copy_grad, NULL, NULL };

DL_API dl_tensor dl_expand(dl_tensor x, dl_shape shape)
{
    dl_node *n;
    dl_context *ctx = dl__operands("expand", 1, &x, &n);
    if (!ctx) return dl__none();
    int extra = shape.ndim - n->ndim;
    bool fits = extra >= 0 && shape.ndim <= DLTRAIN_MAX_DIMS;
    dl_shape wanted = shape;
    for (int i = 0; fits && i < shape.ndim; i++) {
        if (shape.dim[i] == -1 && i >= extra) shape.dim[i] = n->dim[i - extra];
        fits = shape.dim[i] >= 0 && (i < extra || n->dim[i - extra] == shape.dim[i] || n->dim[i - extra] == 1);
    }
    if (!fits) return dl_fail(ctx, "dl_expand: %S does not broadcast to %H", n, &wanted), dl__none();
    dl_shape own = dl__shape(n);
    if (own.ndim == shape.ndim && !memcmp(own.dim, shape.dim, sizeof *own.dim * (size_t)own.ndim)) return x;
    return dl__record(ctx, &dl__expand_op, 1, &n, n->dtype, &shape, NULL);
}

static void dl__to_float_run(const dl_run_args *r)
{
    dl_real *y = (dl_real *)r->out;
    if (r->node->in[0]->dtype == DL_I32)
        for (size_t i = 0; i < r->n; i++) y[i] = (dl_real)((const int32_t *)r->in[0])[i];
    else
        for (size_t i = 0; i < r->n; i++) y[i] = (dl_real)((const uint8_t *)r->in[0])[i];
}
static const dl_op dl__to_float_op = { "to_float", DL_OP_ELEMENTWISE, NULL, dl__to_float_run, NULL, NULL, NULL };

DL_API dl_tensor dl_to_float(dl_tensor x)
{
    dl_node *n;
    dl_context *ctx = dl__operands("to_float", 1, &x, &n);
    if (!ctx || n->dtype == DL_F32) return ctx ? x : dl__none();
    dl_shape s = dl__shape(n);
    return dl__record(ctx, &dl__to_float_op, 1, &n, DL_F32, &s, NULL);
}

static uint64_t dl__random_key(const dl_context *ctx) { return dl__key(ctx->config.seed, 0x7a6e646f6dull); }
#if DL__DEVICES
DL_API uint64_t dl_device_random_key(const dl_context *ctx) { return dl__random_key(ctx); }
DL_API const char *dl_device_matmul_precision(const dl_context *ctx) { return ctx->config.matmul_precision; }
DL_API const char *dl_device_blas(const dl_context *ctx) { return ctx->config.blas; }
#endif

/* Numbers first .. first + n of the random stream of this node: four to a Philox block. */
static void dl__random_block(const dl_run_args *r, size_t i, uint32_t u[4])
{
    dl__philox(dl__random_key(r->ctx), (r->first + i) / 4, r->node->counter, u);
}

DL__HOT static void dl__dropout_run(const dl_run_args *r)
{
    const dl_real *x = (const dl_real *)r->in[0], p = r->node->f[0], scale = r->node->f[1];
    dl_real *y = (dl_real *)r->out;
    uint32_t u[4];
    for (size_t i = 0; i < r->n; i++) {
        if (i == 0 || (r->first + i) % 4 == 0) dl__random_block(r, i, u);
        y[i] = dl__uniform(u[(r->first + i) % 4]) < p ? 0 : x[i] * scale;
    }
}

static void dl__dropout_grad(const dl_grad_args *g);
static const dl_op dl__dropout_op = { "dropout", DL_OP_ELEMENTWISE, NULL, dl__dropout_run, dl__dropout_grad, NULL,
    NULL };

static dl_tensor dl__dropout(dl_tensor x, dl_real p, dl_real scale, uint64_t counter)
{
    dl_node *n;
    dl_context *ctx = dl__operands("dropout", 1, &x, &n);
    if (!ctx || !dl__is_float(ctx, "dropout", n)) return dl__none();
    dl_shape s = dl__shape(n);
    dl__extra e = dl__with(0, NULL);
    e.f[0] = p;
    e.f[1] = scale;
    e.counter = counter;
    return dl__record(ctx, &dl__dropout_op, 1, &n, DL_F32, &s, &e);
}
static void dl__dropout_grad(const dl_grad_args *g)
{
    g->dx[0] = dl__dropout(g->dy, g->node->f[0], g->node->f[1], g->node->counter);
}

/* The counter of the next random operation: step and ordinal, whatever was planned. */
static uint64_t dl__next_counter(dl_context *ctx)
{
    dl__begin_step(ctx);
    return (ctx->replica ? ctx->replica->random_step(ctx) : ctx->random_step) << 20 | ctx->ordinal++;
}

DL_API dl_tensor dl_dropout(dl_tensor x, float p)
{
    dl_node *n;
    dl_context *ctx = dl__operands("dropout", 1, &x, &n);
    if (!ctx) return dl__none();
    if (!(p >= 0 && p <= 1))
        return dl_fail(ctx, "dl_dropout: p is a probability, 0 to 1, not %g", (double)p), dl__none();
    if (!ctx->training || p == 0) return x;
    return dl__dropout(x, p, p < 1 ? (dl_real)1 / ((dl_real)1 - p) : 0, dl__next_counter(ctx));
}

DL__HOT static void dl__rand_run(const dl_run_args *r)
{
    uint32_t u[4];
    for (size_t i = 0; i < r->n; i++) {
        if (i == 0 || (r->first + i) % 4 == 0) dl__random_block(r, i, u);
        ((dl_real *)r->out)[i] = dl__uniform(u[(r->first + i) % 4]);
    }
}

static void dl__randn_run(const dl_run_args *r)
{
    uint32_t u[4];
    for (size_t i = 0; i < r->n; i++) {
        if (i == 0 || (r->first + i) % 4 == 0) dl__random_block(r, i, u);
        ((dl_real *)r->out)[i] = dl__normal(u, (int)((r->first + i) % 4));
    }
}

static void dl__full_run(const dl_run_args *r)
{
    for (size_t i = 0; i < r->n; i++) ((dl_real *)r->out)[i] = r->node->f[0];
}
static const dl_op dl__rand_op = { "rand", DL_OP_ELEMENTWISE, NULL, dl__rand_run, NULL, NULL, NULL };
static const dl_op dl__randn_op = { "randn", DL_OP_ELEMENTWISE, NULL, dl__randn_run, NULL, NULL, NULL };
static const dl_op dl__full_op = { "full", DL_OP_ELEMENTWISE, NULL, dl__full_run, NULL, NULL, NULL };

static dl_tensor dl__generate(dl_context *ctx, const dl_op *op, dl_shape shape, float value, bool random)
{
    if (!ctx || ctx->failed) return dl__none();
    dl__extra e = dl__with(0, NULL);
    e.f[0] = value;
    if (random) e.counter = dl__next_counter(ctx);
    return dl__record(ctx, op, 0, NULL, DL_F32, &shape, &e);
}
DL_API dl_tensor dl_rand(dl_context *ctx, dl_shape shape) { return dl__generate(ctx, &dl__rand_op, shape, 0, true); }
DL_API dl_tensor dl_randn(dl_context *ctx, dl_shape shape) { return dl__generate(ctx, &dl__randn_op, shape, 0, true); }
DL_API dl_tensor dl_full(dl_context *ctx, dl_shape shape, float value)
{
    return dl__generate(ctx, &dl__full_op, shape, value, false);
}

/* ==== >>moving operations ====
   Views, strided copies, indices.
   may use: elementwise operations */

/* Copies a block of sizes dim from src to dst with strides in elements; elements are 1, 4 or 8 bytes. */
typedef struct dl__strided {
    int ndim;
    dl_index dim[DLTRAIN_MAX_DIMS], from[DLTRAIN_MAX_DIMS], to[DLTRAIN_MAX_DIMS];
    size_t rows, per, size;
    const char *src;
    char *dst;
} dl__strided;

DL__HOT static void dl__strided_rows(const dl_run_args *r, size_t part)
{
    const dl__strided *s = (const dl__strided *)r->user;
    int last = s->ndim - 1;
    dl_index n = s->dim[last], a = s->from[last], b = s->to[last];
    for (size_t row = part * s->per, end = DL__MIN(s->rows, row + s->per); row < end; row++) {
        const char *src = s->src;
        char *dst = s->dst;
        size_t rest = row;
        for (int d = last - 1; d >= 0; d--) {
            src += (dl_index)(rest % (size_t)s->dim[d]) * s->from[d] * (dl_index)s->size;
            dst += (dl_index)(rest % (size_t)s->dim[d]) * s->to[d] * (dl_index)s->size;
            rest /= (size_t)s->dim[d];
        }
        if (a == 1 && b == 1) memcpy(dst, src, (size_t)n * s->size);
        else if (s->size == 4)
            for (dl_index i = 0; i < n; i++) memcpy(dst + i * b * 4, src + i * a * 4, 4);
        else
            for (dl_index i = 0; i < n; i++)
                memcpy(dst + i * b * (dl_index)s->size, src + i * a * (dl_index)s->size, s->size);
    }
}

static void dl__strided_copy(const dl_run_args *r, dl__strided *s)
{
    dl_run_args a = *r;
    int n = 0;
    for (int i = 0; i < s->ndim; i++) { /* join dimensions that lie together on both sides */
        if (s->dim[i] == 1) continue;
        if (n && s->from[n - 1] == s->from[i] * s->dim[i] && s->to[n - 1] == s->to[i] * s->dim[i])
            s->dim[n - 1] *= s->dim[i], s->from[n - 1] = s->from[i], s->to[n - 1] = s->to[i];
        else s->dim[n] = s->dim[i], s->from[n] = s->from[i], s->to[n] = s->to[i], n++;
    }
    if (!n) s->dim[0] = 1, s->from[0] = s->to[0] = 1, n = 1;
    s->ndim = n;
    s->rows = 1;
    for (int i = 0; i < n - 1; i++) s->rows *= (size_t)s->dim[i];
    for (int i = 0; i < n; i++)
        if (!s->dim[i]) return;
    s->per = DL__MAX((size_t)1, (size_t)16384 / (size_t)s->dim[n - 1]);
    s->per = DL__MAX(s->per, s->rows / 4096);
    a.user = s;
    dl_parallel(&a, (s->rows + s->per - 1) / s->per, dl__strided_rows);
}

static void dl__row_strides(const dl_index *dim, int n, dl_index *stride)
{
    dl_index s = 1;
    for (int i = n - 1; i >= 0; s *= dim[i--]) stride[i] = s;
}

/* ---- where a view lies ---- */
/* The elements of x in the memory of `base`. */
typedef struct dl__layout { const dl_node *base; dl_index offset, stride[DLTRAIN_MAX_DIMS]; } dl__layout;
typedef struct dl__follower {
    uint32_t (*skip)(dl_context *ctx, uint32_t start);
    void (*bind)(dl_node *view);
    bool (*layout)(const dl_node *x, dl__layout *l);
} dl__follower;

/* From where the input of x lies to where x does, which copies or shows parts of it. */
static void dl__layout_moved(const dl_node *x, dl__layout *l)
{
    dl_index old[DLTRAIN_MAX_DIMS];
    memcpy(old, l->stride, sizeof old);
    for (int i = 0; i < x->ndim; i++)
        if (x->op->flags & DL__OP_PERMUTES) l->stride[i] = old[x->i[i]];
        else l->offset += x->i[1 + i] * old[i], l->stride[i] *= x->i[1 + x->ndim + i];
}

/* Strides of `to`, which has the elements of `from` in other dimensions; false where none tell it. */
static bool dl__regroup(const dl_node *from, const dl_node *to, dl_index *stride)
{
    dl_index old[DLTRAIN_MAX_DIMS], n = 1, m = 1, inner = from->ndim ? stride[from->ndim - 1] : 1;
    int d = to->ndim - 1;
    memcpy(old, stride, sizeof old);
    for (int i = from->ndim - 1; i >= 0; i--) {
        n *= from->dim[i];
        if (i && (from->dim[i - 1] == 1 || old[i - 1] == n * inner)) continue; /* lies in a row with the next one */
        for (; d >= 0 && (m < n || to->dim[d] == 1); d--) stride[d] = m * inner, m *= to->dim[d];
        if (m != n) return false;
        if (i) inner = old[i - 1], n = m = 1;
    }
    for (; d >= 0; d--) stride[d] = 1; /* of a scalar */
    return true;
}

static bool dl__layout_of(const dl_node *x, dl__layout *l);

/* Where x lies when it is taken for a view of its input. */
static bool dl__layout_through(const dl_node *x, dl__layout *l)
{
    if (!x->numel || !dl__layout_of(x->in[0], l)) return false;
    if (!(x->op->flags & DL__OP_COPIES)) return dl__regroup(x->in[0], x, l->stride);
    dl__layout_moved(x, l);
    return true;
}

static bool dl__layout_of(const dl_node *x, dl__layout *l)
{
    if (x->flags & DL__VIEW) return dl__layout_through(x, l);
    l->base = x;
    l->offset = 0;
    dl__row_strides(x->dim, x->ndim, l->stride);
    return true;
}

static bool dl__is_contiguous(const dl_node *x, const dl__layout *l)
{
    dl_index n = 1;
    for (int i = x->ndim - 1; i >= 0; n *= x->dim[i--])
        if (x->dim[i] != 1 && l->stride[i] != n) return false;
    return true;
}

/* The address of what dl__layout_of found. */
static void *dl__layout_address(const dl_context *ctx, const dl__layout *l)
{
    return (char *)dl__address(ctx, l->base) + l->offset * (dl_index)dl__dtype_size(l->base->dtype);
}

/* The node whose memory n lies in. */
static const dl_node *dl__root(const dl_node *n)
{
    while (n->flags & DL__VIEW) n = n->in[0];
    return n;
}

/* Before the last run of a step: copies that need not be made become views. Their readers can follow strides,
   or they are in place as they are. Reading a value afterwards stays as it was: what nobody took is copied,
   unless it is in place. */
static uint32_t dl__skip_copies(dl_context *ctx, uint32_t start)
{
    uint32_t first = start, skipped = 0;
    while (first < ctx->nodes && (!(ctx->node[first]->op->flags & DL__OP_COPIES) || ctx->node[first]->flags & DL__VIEW))
        first++;
    for (uint32_t i = first; i < ctx->nodes; i++) {
        dl_node *n = ctx->node[i];
        if (n->flags & DL__VIEW && !(n->flags & DL__EFFECT)) continue;
        for (int k = 0; k < n->n_in; k++) {
            dl_node *x = n->in[k];
            for (; x->flags & DL__VIEW; x = x->in[0]) x->flags |= DL__FOLLOWED;
            x->flags |= n->op->flags & DL__OP_STRIDED ? DL__FOLLOWED : DL__SOLID;
        }
    }
    for (uint32_t i = first; i < ctx->nodes; i++) {
        const dl_node *n = ctx->node[i];
        if (n->flags & DL__VIEW && (!(n->flags & DL__FOLLOWED) || n->flags & DL__KEPT || dl__bytes(n) <= 64))
            ctx->node[dl__root(n)->id]->flags |= DL__SOLID;
    }
    for (uint32_t i = first; i < ctx->nodes; i++) {
        dl_node *n = ctx->node[i];
        dl__layout l;
        if (!(n->op->flags & DL__OP_COPIES) || n->flags & DL__VIEW || !dl__layout_through(n, &l)) continue;
        if (l.base->space == DL__BUFFERS) continue; /* may change before it is read */
        bool followed = n->flags & DL__FOLLOWED && !(n->flags & (DL__SOLID | DL__KEPT)) && dl__bytes(n) > 64;
        if (!followed && (l.base->flags & DL__LEAF || !dl__is_contiguous(n, &l))) continue;
        n->flags |= DL__VIEW;
        skipped++;
    }
    for (uint32_t i = 0; first < ctx->nodes && i < ctx->nodes; i++)
        ctx->node[i]->flags &= (uint8_t)~(DL__FOLLOWED | DL__SOLID);
    return skipped;
}

/* Where a copy that became a view is. One with strides has no address: those who read it know. */
static void dl__bind_view(dl_node *n)
{
    dl__layout l;
    if (!dl__layout_of(n, &l)) return; /* it is empty */
    n->space = l.base->space == DL__TILE || !dl__is_contiguous(n, &l) ? (uint8_t)DL__GONE : l.base->space;
    n->offset = l.base->offset + (size_t)l.offset * (n->space == DL__MEMORY ? dl__dtype_size(n->dtype) : 1);
}

static const dl__follower dl__follow = { dl__skip_copies, dl__bind_view, dl__layout_of };
#if DL__DEVICES
DL_API void *dl_device_strided(const dl_context *ctx, const dl_node *n, dl_index *stride)
{
    dl__layout l;
    bool contiguous = !dl__layout_of(n, &l); /* or empty */
    char *p = (char *)dl_device_address(ctx, contiguous ? n : l.base);
    if (contiguous) dl__row_strides(n->dim, n->ndim, stride);
    else memcpy(stride, l.stride, sizeof l.stride);
    return p && !contiguous ? p + l.offset * (dl_index)dl__dtype_size(n->dtype) : p;
}
#endif

/* Copies the input, which may have strides, as the node sees it. */
static void dl__copy_through(const dl_run_args *r)
{
    const dl_node *y = r->node, *x = y->in[0];
    dl__layout l;
    dl__strided s;
    const char *src = (const char *)r->in[0];
    if (!y->numel) return;
    l.offset = 0;
    dl__row_strides(x->dim, x->ndim, l.stride);
    if (r->ctx->follower && r->ctx->follower->layout(x, &l)) src = (const char *)dl__address(r->ctx, l.base);
    dl__layout_moved(y, &l);
    s.ndim = y->ndim;
    s.size = dl__dtype_size(y->dtype);
    dl__row_strides(y->dim, y->ndim, s.to);
    memcpy(s.dim, y->dim, sizeof s.dim);
    memcpy(s.from, l.stride, sizeof s.from);
    s.src = src + l.offset * (dl_index)s.size;
    s.dst = (char *)r->out;
    dl__strided_copy(r, &s);
}

/* ---- views ---- */
static void dl__reshape_grad(const dl_grad_args *g);
static const dl_op dl__reshape_op = { "reshape", 0, NULL, NULL, dl__reshape_grad, NULL, NULL };
static const dl_op dl__detach_op = { "detach", 0, NULL, NULL, NULL, NULL, NULL };

static dl_tensor dl__view(const dl_op *op, dl_context *ctx, dl_node *n, const dl_shape *shape)
{
    dl_index offset = 0;
    dl__extra e = dl__with(1, &offset);
    e.flags = DL__VIEW;
    return dl__record(ctx, op, 1, &n, n->dtype, shape, &e);
}

DL_API dl_tensor dl_reshape(dl_tensor x, dl_shape shape)
{
    dl_node *n;
    dl_context *ctx = dl__operands("reshape", 1, &x, &n);
    if (!ctx) return dl__none();
    dl_shape wanted = shape;
    size_t known = 1, numel;
    int open = -1;
    if (shape.ndim < 0 || shape.ndim > DLTRAIN_MAX_DIMS) return dl__count(ctx, "reshape", &shape, &numel), dl__none();
    for (int i = 0; i < shape.ndim; i++) {
        if (shape.dim[i] == -1 && open < 0) open = i, shape.dim[i] = 1;
        if (shape.dim[i] < 0)
            return dl_fail(ctx, "dl_reshape: %S cannot become %H: a size is negative; one may be -1", n, &wanted),
                   dl__none();
    }
    if (!dl__count(ctx, "reshape", &shape, &known)) return dl__none();
    if (open >= 0) {
        if (!known || n->numel % known)
            return dl_fail(ctx, "dl_reshape: %S cannot become %H: %zu elements do not divide", n, &wanted, n->numel),
                   dl__none();
        shape.dim[open] = (dl_index)(n->numel / known);
        known = n->numel;
    }
    if (known != n->numel)
        return dl_fail(ctx, "dl_reshape: %S has %zu elements, %H has %zu", n, n->numel, &wanted, known), dl__none();
    if (shape.ndim == n->ndim && !memcmp(shape.dim, n->dim, sizeof *n->dim * n->ndim)) return x;
    return dl__view(&dl__reshape_op, ctx, n, &shape);
}
static void dl__reshape_grad(const dl_grad_args *g) { g->dx[0] = dl_reshape(g->dy, dl__shape(g->node->in[0])); }

DL_API dl_tensor dl_detach(dl_tensor x)
{
    dl_node *n;
    dl_context *ctx = dl__operands("detach", 1, &x, &n);
    if (!ctx) return dl__none();
    dl_shape s = dl__shape(n);
    return dl__view(&dl__detach_op, ctx, n, &s);
}

DL_API dl_tensor dl_flatten(dl_tensor x, int start)
{
    dl_node *n;
    dl_context *ctx = dl__operands("flatten", 1, &x, &n);
    int d = !ctx ? -1 : n->ndim ? dl__axis(ctx, "flatten", start, n->ndim) : 0;
    if (d < 0) return dl__none();
    dl_shape s = DL_SCALAR;
    s.ndim = d + 1;
    for (int i = 0; i < d; i++) s.dim[i] = n->dim[i];
    s.dim[d] = 1;
    for (int i = d; i < n->ndim; i++) s.dim[d] *= n->dim[i];
    return dl_reshape(x, s);
}

/* ---- permute ---- */
static void dl__permute_grad(const dl_grad_args *g)
{
    int back[DLTRAIN_MAX_DIMS];
    for (int i = 0; i < g->node->ndim; i++) back[g->node->i[i]] = i;
    g->dx[0] = dl_permute(g->dy, back);
}
static const dl_op dl__permute_op = { "permute", DL__OP_PERMUTES | DL__OP_STRIDED, NULL, dl__copy_through,
    dl__permute_grad, NULL, NULL };
DL_API dl_tensor dl_permute(dl_tensor x, const int *dims)
{
    dl_node *n;
    dl_context *ctx = dl__operands("permute", 1, &x, &n);
    if (!ctx) return dl__none();
    if (!dims && n->ndim) return dl_fail(ctx, "dl_permute: dims is NULL for a tensor %S", n), dl__none();
    dl_index order[DLTRAIN_MAX_DIMS + 1];
    dl_shape s = dl__shape(n);
    unsigned seen = 0;
    bool same = true;
    for (int i = 0; i < n->ndim; i++) {
        int d = dl__axis(ctx, "permute", dims[i], n->ndim);
        if (d < 0) return dl__none();
        if (seen >> d & 1) return dl_fail(ctx, "dl_permute: dimension %d of %S is named twice", d, n), dl__none();
        seen |= 1u << d;
        order[i] = d;
        s.dim[i] = n->dim[d];
        same = same && d == i;
    }
    dl__extra e = dl__with(n->ndim, order);
    return same ? x : dl__record(ctx, &dl__permute_op, 1, &n, n->dtype, &s, &e);
}

DL_API dl_tensor dl_transpose(dl_tensor x, int a, int b)
{
    dl_node *n;
    int order[DLTRAIN_MAX_DIMS + 1];
    dl_context *ctx = dl__operands("transpose", 1, &x, &n);
    if (!ctx || (a = dl__axis(ctx, "transpose", a, n->ndim)) < 0 || (b = dl__axis(ctx, "transpose", b, n->ndim)) < 0)
        return dl__none();
    for (int i = 0; i < n->ndim; i++) order[i] = i == a ? b : i == b ? a : i;
    return dl_permute(x, order);
}

/* ---- crop and place: out of a larger block, and into one. i = offset of a view, starts, steps ---- */
static void dl__place_block(const dl_run_args *r)
{
    const dl_node *small = r->node->in[0], *large = r->node;
    dl__strided s;
    dl_index wide[DLTRAIN_MAX_DIMS], offset = 0;
    s.ndim = small->ndim;
    s.size = dl__dtype_size(small->dtype);
    dl__row_strides(small->dim, small->ndim, s.from);
    dl__row_strides(large->dim, large->ndim, wide);
    for (int i = 0; i < small->ndim; i++) {
        offset += large->i[1 + i] * wide[i];
        s.dim[i] = small->dim[i];
        s.to[i] = large->i[1 + small->ndim + i] * wide[i];
    }
    s.src = (const char *)r->in[0];
    s.dst = (char *)r->out + offset * (dl_index)s.size;
    dl__strided_copy(r, &s);
}

static void dl__place_run(const dl_run_args *r)
{
    dl_real value = r->node->f[0];
    if (r->node->dtype == DL_F32 && (value != 0 || 1 / value < 0))
        for (size_t i = 0; i < r->node->numel; i++) ((dl_real *)r->out)[i] = value;
    else if (r->node->dtype == DL_I32)
        for (size_t i = 0; i < r->node->numel; i++) ((int32_t *)r->out)[i] = (int32_t)value;
    else memset(r->out, r->node->dtype == DL_U8 ? (uint8_t)value : 0, dl__bytes(r->node));
    dl__place_block(r);
}
enum { DL__SLICES = DLTRAIN_MAX_INPUTS < 16 ? DLTRAIN_MAX_INPUTS : 16 }; /* whose gradients are taken together */
static void dl__crop_grad(const dl_grad_args *g);
static void dl__place_grad(const dl_grad_args *g);
static const dl_op dl__crop_op = { "slice", DL__OP_CROPS | DL__OP_STRIDED, NULL, dl__copy_through, dl__crop_grad, NULL,
    NULL };
static const dl_op dl__place_op = { "pad", 0, NULL, dl__place_run, dl__place_grad, NULL, NULL };
static dl_tensor dl__crop(
    dl_context *ctx, dl_node *x, const dl_shape *shape, const dl_index *start, const dl_index *step)
{
    dl_index i[1 + 2 * DLTRAIN_MAX_DIMS] = { 0 }, stride[DLTRAIN_MAX_DIMS];
    dl__extra e = dl__with(1 + 2 * x->ndim, i);
    bool view = true, full = true; /* full: everything outside of this dimension has size 1 so far */
    i[0] = 0;
    dl__row_strides(x->dim, x->ndim, stride);
    for (int d = 0; d < x->ndim; d++) {
        i[1 + d] = start[d];
        i[1 + x->ndim + d] = step[d];
        i[0] += start[d] * stride[d];
        if (shape->dim[d] != x->dim[d] && (!full || (step[d] != 1 && shape->dim[d] > 1))) view = false;
        full = full && shape->dim[d] == 1;
    }
    if (view) e.flags = DL__VIEW;
    return dl__record(ctx, &dl__crop_op, 1, &x, x->dtype, shape, &e);
}

static dl_tensor dl__place(
    dl_context *ctx, dl_node *x, const dl_shape *shape, const dl_index *start, const dl_index *step, dl_real value)
{
    dl_index i[1 + 2 * DLTRAIN_MAX_DIMS] = { 0 };
    dl__extra e = dl__with(1 + 2 * x->ndim, i);
    i[0] = 0;
    for (int d = 0; d < x->ndim; d++) i[1 + d] = start[d], i[1 + x->ndim + d] = step[d];
    e.f[0] = value;
    return dl__record(ctx, &dl__place_op, 1, &x, x->dtype, shape, &e);
}

static void dl__place_grad(const dl_grad_args *g)
{
    dl_shape s = dl__shape(g->node->in[0]);
    dl_node *dy;
    dl_context *ctx = dl__operands("pad", 1, &g->dy, &dy);
    if (ctx) g->dx[0] = dl__crop(ctx, dy, &s, g->node->i + 1, g->node->i + 1 + g->node->ndim);
}

DL_API dl_tensor dl_slice(dl_tensor x, int dim, dl_index start, dl_index stop, dl_index step)
{
    dl_node *n;
    dl_index from[DLTRAIN_MAX_DIMS], by[DLTRAIN_MAX_DIMS];
    dl_context *ctx = dl__operands("slice", 1, &x, &n);
    int d = ctx ? dl__axis(ctx, "slice", dim, n->ndim) : -1;
    if (d < 0) return dl__none();
    if (step < 1) return dl_fail(ctx, "dl_slice: step %td must be positive", step), dl__none();
    dl_index size = n->dim[d];
    start = start < 0 ? DL__MAX(start + size, (dl_index)0) : DL__MIN(start, size);
    stop = stop < 0 ? DL__MAX(stop + size, (dl_index)0) : DL__MIN(stop, size);
    dl_shape s = dl__shape(n);
    s.dim[d] = stop > start ? (stop - start - 1) / step + 1 : 0;
    if (s.dim[d] == size) return x;
    for (int i = 0; i < n->ndim; i++) from[i] = 0, by[i] = 1;
    from[d] = s.dim[d] ? start : 0;
    by[d] = step;
    return dl__crop(ctx, n, &s, from, by);
}

DL_API dl_tensor dl_pad(dl_tensor x, const dl_index *pads, int n_pads, float value)
{
    dl_node *n;
    dl_index from[DLTRAIN_MAX_DIMS], by[DLTRAIN_MAX_DIMS];
    dl_context *ctx = dl__operands("pad", 1, &x, &n);
    if (!ctx) return dl__none();
    if (n_pads < 0 || n_pads % 2 || n_pads / 2 > n->ndim)
        return dl_fail(ctx, "dl_pad: %d pads; %S takes two a dimension, at most %d", n_pads, n, 2 * n->ndim),
               dl__none();
    if (!pads && n_pads) return dl_fail(ctx, "dl_pad: pads is NULL"), dl__none();
    if (n->dtype != DL_F32 && (!(value >= 0 && value <= 255) || value != (float)(int)value) &&
        !(n->dtype == DL_I32 && value >= -2147483648.0f && value < 2147483648.0f && value == (float)(int32_t)value))
        return dl_fail(ctx, "dl_pad: %g is no value of %s", (double)value, dl__dtype_names[n->dtype]), dl__none();
    dl_shape s = dl__shape(n);
    for (int i = 0; i < n->ndim; i++) {
        int k = n->ndim - 1 - i;
        dl_index before = 2 * k < n_pads ? pads[2 * k] : 0, after = 2 * k < n_pads ? pads[2 * k + 1] : 0;
        if (before < 0 || after < 0 || before > PTRDIFF_MAX / 4 || after > PTRDIFF_MAX / 4)
            return dl_fail(ctx, "dl_pad: cannot pad %S by %td and %td; dl_slice takes away", n, before, after),
                   dl__none();
        from[i] = before;
        by[i] = 1;
        s.dim[i] += before + after;
    }
    if (!memcmp(s.dim, n->dim, sizeof *s.dim * n->ndim)) return x;
    return dl__place(ctx, n, &s, from, by, value);
}

/* ---- concat ---- */
static void dl__concat_run(const dl_run_args *r)
{
    const dl_node *y = r->node;
    dl__strided s;
    int d = (int)y->i[0];
    s.size = dl__dtype_size(y->dtype);
    s.dst = (char *)r->out;
    for (int k = 0; k < y->n_in; k++) {
        const dl_node *x = y->in[k];
        s.ndim = y->ndim; /* the copy joins dimensions */
        memcpy(s.dim, x->dim, sizeof s.dim);
        dl__row_strides(x->dim, x->ndim, s.from);
        dl__row_strides(y->dim, y->ndim, s.to);
        dl_index width = s.to[d] * x->dim[d];
        s.src = (const char *)r->in[k];
        dl__strided_copy(r, &s);
        s.dst += width * (dl_index)s.size;
    }
}

static void dl__concat_grad(const dl_grad_args *g)
{
    int d = (int)g->node->i[0];
    dl_index at = 0;
    for (int k = 0; k < g->node->n_in; k++) {
        dl_index size = g->node->in[k]->dim[d];
        if (g->want[k]) g->dx[k] = dl_slice(g->dy, d, at, at + size, 1);
        at += size;
    }
}
static const dl_op dl__concat_op = { "concat", 0, NULL, dl__concat_run, dl__concat_grad, NULL, NULL };

/* Are the slices in g all of x in a row? Their gradients side by side, in x's order, and the dimension they lie
   along; 0 when not. */
static int dl__slices_in_a_row(const dl_grad_args *g, dl_tensor *in, int *dim)
{
    const dl_node *x = g->node->in[0];
    dl_index end = 0;
    int n = 0, d = 0;
    while (d < x->ndim - 1 && g->node->dim[d] == x->dim[d]) d++;
    for (const dl_grad_args *m = g; m; m = m->more)
        for (int i = 0; i < x->ndim; i++)
            if (m->node->i[1 + x->ndim + i] != 1 || (i != d && m->node->dim[i] != x->dim[i])) return 0;
    while (end < x->dim[d] && n < DL__SLICES) {
        const dl_grad_args *m = g;
        while (m && (m->node->i[1 + d] != end || !m->node->dim[d])) m = m->more;
        if (!m) return 0;
        in[n++] = m->dy;
        end += m->node->dim[d];
    }
    int all = 0;
    for (const dl_grad_args *m = g; m; m = m->more) all++;
    *dim = d;
    return end == x->dim[d] && n == all ? n : 0; /* each one, and none twice */
}

static void dl__crop_grad(const dl_grad_args *g)
{
    dl_shape s = dl__shape(g->node->in[0]);
    dl_tensor in[DL__SLICES];
    int dim, n = g->more ? dl__slices_in_a_row(g, in, &dim) : 0;
    if (n) {
        g->dx[0] = dl_concat(in, n, dim);
        return;
    }
    g->dx[0] = dl__none();
    for (const dl_grad_args *m = g; m; m = m->more) {
        dl_node *dy;
        dl_context *ctx = dl__operands("slice", 1, &m->dy, &dy);
        dl_tensor d = ctx ? dl__place(ctx, dy, &s, m->node->i + 1, m->node->i + 1 + s.ndim, 0) : dl__none();
        g->dx[0] = g->dx[0].ctx ? dl_add(g->dx[0], d) : d;
    }
}

/* Checks of concat and stack: dtypes equal, shapes equal but for dimension `free` (-1: none). */
static dl_context *dl__list(const char *who, const dl_tensor *x, int n, dl_node **node, int max)
{
    if (!x || n < 1) return x && x->ctx ? dl_fail(x->ctx, "dl_%s: %d tensors", who, n), (dl_context *)NULL : NULL;
    if (n > max) return dl_fail(x->ctx, "dl_%s: %d tensors; at most %d at a time", who, n, max), (dl_context *)NULL;
    dl_context *ctx = dl__operands(who, n, x, node);
    for (int k = 1; ctx && k < n; k++)
        if (node[k]->dtype != node[0]->dtype)
            return dl_fail(ctx, "dl_%s: dtypes differ: %s and %s", who, dl__dtype_names[node[0]->dtype],
                       dl__dtype_names[node[k]->dtype]),
                   (dl_context *)NULL;
    return ctx;
}

DL_API dl_tensor dl_concat(const dl_tensor *x, int n, int dim)
{
    dl_node *node[DLTRAIN_MAX_INPUTS];
    dl_context *ctx = dl__list("concat", x, n, node, DLTRAIN_MAX_INPUTS);
    int d = ctx ? dl__axis(ctx, "concat", dim, node[0]->ndim) : -1;
    if (d < 0) return dl__none();
    dl_shape s = dl__shape(node[0]);
    for (int k = 1; k < n; k++) {
        bool fits = node[k]->ndim == s.ndim;
        for (int i = 0; fits && i < s.ndim; i++) fits = i == d || node[k]->dim[i] == s.dim[i];
        if (!fits)
            return dl_fail(ctx, "dl_concat: %S and %S differ outside of dimension %d", node[0], node[k], d), dl__none();
        s.dim[d] += node[k]->dim[d];
    }
    dl_index at = d;
    dl__extra e = dl__with(1, &at);
    return n == 1 ? x[0] : dl__record(ctx, &dl__concat_op, n, node, node[0]->dtype, &s, &e);
}

DL_API dl_tensor dl_stack(const dl_tensor *x, int n, int dim)
{
    dl_node *node[DLTRAIN_MAX_INPUTS];
    dl_tensor y[DLTRAIN_MAX_INPUTS];
    dl_context *ctx = dl__list("stack", x, n, node, DLTRAIN_MAX_INPUTS);
    if (!ctx) return dl__none();
    if (node[0]->ndim == DLTRAIN_MAX_DIMS)
        return dl_fail(ctx, "dl_stack: %S has DLTRAIN_MAX_DIMS dimensions already", node[0]), dl__none();
    int d = dl__axis(ctx, "stack", dim, node[0]->ndim + 1);
    if (d < 0) return dl__none();
    dl_shape s = dl__shape(node[0]);
    s.ndim++;
    for (int i = s.ndim - 1; i > d; i--) s.dim[i] = s.dim[i - 1];
    s.dim[d] = 1;
    for (int k = 0; k < n; k++) {
        if (!dl__same_shape(node[k], node[0]))
            return dl_fail(ctx, "dl_stack: shapes differ: %S and %S", node[0], node[k]), dl__none();
        y[k] = dl_reshape(x[k], s);
    }
    return dl_concat(y, n, d);
}

/* ---- indices: x seen as [outer, rows, inner]; i = outer, rows, inner, picks, who, allow -1 ---- */
static void dl__three(const dl_node *n, int d, dl_index *o) /* outer, rows, inner */
{
    o[0] = o[2] = 1;
    for (int i = 0; i < d; i++) o[0] *= n->dim[i];
    o[1] = n->ndim ? n->dim[d] : 1;
    for (int i = d + 1; i < n->ndim; i++) o[2] *= n->dim[i];
}

static const char *const dl__index_who[] = { "index_select", "gather", "embedding", "embedding_op", "nll",
    "cross_entropy", "max_dims" };
enum {
    DL__WHO_INDEX_SELECT,
    DL__WHO_GATHER,
    DL__WHO_EMBEDDING,
    DL__WHO_EMBEDDING_OP,
    DL__WHO_NLL,
    DL__WHO_CROSS_ENTROPY,
    DL__WHO_MAX
};

static bool dl__bad_index(dl_context *ctx, const dl_index *i, size_t place, int value)
{
    return dl_fail(
        ctx, "dl_%s: index %d at position %zu is out of range for %td rows", dl__index_who[i[4]], value, place, i[1]);
}

/* Are all n indices in 0 .. rows - 1 (or -1 where allowed)? An error otherwise. */
static bool dl__check_indices(const dl_run_args *r, const int32_t *index, size_t n)
{
    dl_index rows = r->node->i[1], least = r->node->i[5] ? -1 : 0;
    for (size_t k = 0; k < n; k++)
        if (index[k] < least || index[k] >= rows) return dl__bad_index(r->ctx, r->node->i, k, (int)index[k]);
    return true;
}

static void dl__index_select_run(const dl_run_args *r)
{
    const dl_index *i = r->node->i;
    const int32_t *index = (const int32_t *)r->in[1];
    size_t bytes = (size_t)i[2] * dl__dtype_size(r->node->dtype);
    char *y = (char *)r->out;
    if (!dl__check_indices(r, index, (size_t)i[3])) return;
    for (dl_index o = 0; o < i[0]; o++)
        for (dl_index k = 0; k < i[3]; k++, y += bytes)
            memcpy(y, (const char *)r->in[0] + (size_t)(o * i[1] + index[k]) * bytes, bytes);
}

/* y[o][index[k]] += x[o][k], in the order of k. A part is a block of columns. */
enum { DL__COLUMNS = 64 };
static void dl__index_add_part(const dl_run_args *r, size_t part)
{
    const dl_index *i = r->node->i, blocks = (i[2] + DL__COLUMNS - 1) / DL__COLUMNS, o = (dl_index)part / blocks,
                   c = (dl_index)part % blocks * DL__COLUMNS;
    const int32_t *index = (const int32_t *)r->in[1];
    size_t n = (size_t)DL__MIN(i[2] - c, (dl_index)DL__COLUMNS);
    dl_real *y = (dl_real *)r->out + o * i[1] * i[2] + c;
    const dl_real *x = (const dl_real *)r->in[0] + o * i[3] * i[2] + c;
    for (dl_index k = 0; k < i[1]; k++) memset(y + k * i[2], 0, n * sizeof *y);
    for (dl_index k = 0; k < i[3]; k++) DL__CALL(r->level, add_to, (y + index[k] * i[2], x + k * i[2], n));
}

static void dl__index_add_run(const dl_run_args *r)
{
    const dl_index *i = r->node->i;
    if (dl__check_indices(r, (const int32_t *)r->in[1], (size_t)i[3]))
        dl_parallel(r, (size_t)(i[0] * ((i[2] + DL__COLUMNS - 1) / DL__COLUMNS)), dl__index_add_part);
}
static void dl__index_select_grad(const dl_grad_args *g);
static void dl__index_add_grad(const dl_grad_args *g);
static const dl_op dl__index_select_op = { "index_select", 0, NULL, dl__index_select_run, dl__index_select_grad, NULL,
    NULL };
static const dl_op dl__index_add_op = { "index_add", 0, NULL, dl__index_add_run, dl__index_add_grad, NULL, NULL };

/* The same attributes serve an operation and its adjoint. */
static dl_tensor dl__indexed(const dl_op *op, const dl_grad_args *g)
{
    dl_node *n[2];
    dl_tensor in[2];
    in[0] = g->dy;
    in[1] = g->x[1];
    dl_context *ctx = dl__operands(op->name, 2, in, n);
    dl_shape s = dl__shape(g->node->in[0]);
    dl__extra e = dl__with(g->node->n_i, g->node->i);
    return ctx ? dl__record(ctx, op, 2, n, DL_F32, &s, &e) : dl__none();
}
static void dl__index_select_grad(const dl_grad_args *g) { g->dx[0] = dl__indexed(&dl__index_add_op, g); }
static void dl__index_add_grad(const dl_grad_args *g) { g->dx[0] = dl__indexed(&dl__index_select_op, g); }

static dl_tensor dl__index_select(const char *who, int who_index, dl_tensor x, int dim, dl_tensor index)
{
    dl_node *n[2];
    dl_tensor in[2];
    dl_index i[6];
    in[0] = x;
    in[1] = index;
    dl_context *ctx = dl__operands(who, 2, in, n);
    int d = ctx ? dl__axis(ctx, who, dim, n[0]->ndim) : -1;
    if (d < 0) return dl__none();
    if (n[1]->dtype != DL_I32)
        return dl_fail(ctx, "dl_%s: index must be DL_I32, not %s", who, dl__dtype_names[n[1]->dtype]), dl__none();
    if (n[1]->ndim != 1) return dl_fail(ctx, "dl_%s: index must have one dimension, not %S", who, n[1]), dl__none();
    dl__three(n[0], d, i);
    i[3] = n[1]->dim[0];
    i[4] = who_index;
    i[5] = 0;
    dl_shape s = dl__shape(n[0]);
    s.dim[d] = i[3];
    dl__extra e = dl__with(6, i);
    return dl__record(ctx, &dl__index_select_op, 2, n, n[0]->dtype, &s, &e);
}
DL_API dl_tensor dl_index_select(dl_tensor x, int dim, dl_tensor index)
{
    return dl__index_select("index_select", DL__WHO_INDEX_SELECT, x, dim, index);
}

static dl_tensor dl__embed(const char *who, int who_index, dl_tensor weight, dl_tensor index)
{
    dl_node *n[2];
    dl_tensor in[2];
    in[0] = weight;
    in[1] = index;
    dl_context *ctx = dl__operands(who, 2, in, n);
    if (!ctx) return dl__none();
    if (n[0]->ndim != 2) return dl_fail(ctx, "dl_%s: the weight must be [rows,width], not %S", who, n[0]), dl__none();
    if (n[1]->dtype != DL_I32)
        return dl_fail(ctx, "dl_%s: index must be DL_I32, not %s", who, dl__dtype_names[n[1]->dtype]), dl__none();
    if (n[1]->ndim == DLTRAIN_MAX_DIMS)
        return dl_fail(ctx, "dl_%s: index %S has DLTRAIN_MAX_DIMS dimensions already", who, n[1]), dl__none();
    dl_shape s = dl__shape(n[1]);
    s.dim[s.ndim++] = n[0]->dim[1];
    return dl_reshape(
        dl__index_select(who, who_index, weight, 0, dl_reshape(index, DL_SHAPE((dl_index)n[1]->numel))), s);
}
DL_API dl_tensor dl_embedding_op(dl_tensor weight, dl_tensor index)
{
    return dl__embed("embedding_op", DL__WHO_EMBEDDING_OP, weight, index);
}

/* y[o][k][i] = x[o][index[o][k][i]][i]; an index of -1, where allowed, gives 0. */
static void dl__gather_run(const dl_run_args *r)
{
    const dl_index *i = r->node->i, outer = i[0], rows = i[1], inner = i[2], picks = i[3];
    const int32_t *index = (const int32_t *)r->in[1];
    size_t at = 0, size = dl__dtype_size(r->node->dtype);
    if (!dl__check_indices(r, index, (size_t)(outer * picks * inner))) return;
    for (dl_index o = 0; o < outer; o++)
        for (dl_index k = 0; k < picks; k++)
            for (dl_index c = 0; c < inner; c++, at++) {
                char *y = (char *)r->out + at * size;
                if (index[at] < 0) memset(y, 0, size);
                else memcpy(y, (const char *)r->in[0] + (size_t)((o * rows + index[at]) * inner + c) * size, size);
            }
}

static void dl__scatter_part(const dl_run_args *r, size_t part)
{
    const dl_index *i = r->node->i, rows = i[1], inner = i[2], picks = i[3];
    const int32_t *index = (const int32_t *)r->in[1] + (dl_index)part * picks * inner;
    const dl_real *x = (const dl_real *)r->in[0] + (dl_index)part * picks * inner;
    dl_real *y = (dl_real *)r->out + (dl_index)part * rows * inner;
    memset(y, 0, (size_t)(rows * inner) * sizeof *y);
    for (dl_index k = 0; k < picks; k++)
        for (dl_index c = 0; c < inner; c++)
            if (index[k * inner + c] >= 0) y[index[k * inner + c] * inner + c] += x[k * inner + c];
}

static void dl__scatter_run(const dl_run_args *r)
{
    const dl_index *i = r->node->i;
    size_t outer = (size_t)i[0];
    if (!dl__check_indices(r, (const int32_t *)r->in[1], outer * (size_t)(i[3] * i[2]))) return;
    if (r->n > DL__CHUNK || !DL__VECTORS) dl_parallel(r, outer, dl__scatter_part);
    else
        while (outer--) dl__scatter_part(r, outer);
}
static void dl__gather_grad(const dl_grad_args *g);
static void dl__scatter_grad(const dl_grad_args *g);
static const dl_op dl__gather_op = { "gather", 0, NULL, dl__gather_run, dl__gather_grad, NULL, NULL };
static const dl_op dl__scatter_op = { "scatter_add", 0, NULL, dl__scatter_run, dl__scatter_grad, NULL, NULL };
static void dl__gather_grad(const dl_grad_args *g) { g->dx[0] = dl__indexed(&dl__scatter_op, g); }
static void dl__scatter_grad(const dl_grad_args *g) { g->dx[0] = dl__indexed(&dl__gather_op, g); }

/* index has as many elements as [outer, picks, inner] of x around dimension d; `shape` is y's. */
static dl_tensor dl__gather(
    int who, dl_tensor x, int d, dl_tensor index, dl_index picks, const dl_shape *shape, bool allow)
{
    dl_node *n[2];
    dl_tensor in[2];
    dl_index i[6];
    in[0] = x;
    in[1] = index;
    dl_context *ctx = dl__operands(dl__index_who[who], 2, in, n);
    if (!ctx) return dl__none();
    dl__three(n[0], d, i);
    i[3] = picks;
    i[4] = who;
    i[5] = allow;
    dl__extra e = dl__with(6, i);
    return dl__record(ctx, &dl__gather_op, 2, n, n[0]->dtype, shape, &e);
}

DL_API dl_tensor dl_gather(dl_tensor x, int dim, dl_tensor index)
{
    dl_node *n[2];
    dl_tensor in[2];
    in[0] = x;
    in[1] = index;
    dl_context *ctx = dl__operands("gather", 2, in, n);
    int d = ctx ? dl__axis(ctx, "gather", dim, n[0]->ndim) : -1;
    if (d < 0) return dl__none();
    if (n[1]->dtype != DL_I32)
        return dl_fail(ctx, "dl_gather: index must be DL_I32, not %s", dl__dtype_names[n[1]->dtype]), dl__none();
    bool fits = n[0]->ndim == n[1]->ndim;
    for (int i = 0; fits && i < n[0]->ndim; i++) fits = i == d || n[1]->dim[i] <= n[0]->dim[i];
    if (!fits)
        return dl_fail(ctx, "dl_gather: index %S must have x's dimensions, no larger than x %S but in dimension %d",
                   n[1], n[0], d),
               dl__none();
    dl_shape s = dl__shape(n[1]);
    for (int i = 0; i < s.ndim; i++)
        if (i != d) x = dl_slice(x, i, 0, s.dim[i], 1);
    return dl__gather(DL__WHO_GATHER, x, d, index, s.dim[d], &s, false);
}

static bool dl__bad_class(dl_context *ctx, const dl_index *i, size_t place, int value)
{
    return dl_fail(ctx, "dl_one_hot: class %d at position %zu is out of range for %td classes", value, place, i[0]);
}

static void dl__one_hot_run(const dl_run_args *r)
{
    dl_index classes = r->node->i[0];
    const int32_t *x = (const int32_t *)r->in[0];
    memset(r->out, 0, dl__bytes(r->node));
    for (size_t k = 0; k < r->node->in[0]->numel; k++) {
        if (x[k] < 0 || x[k] >= classes) {
            dl__bad_class(r->ctx, r->node->i, k, (int)x[k]);
            return;
        }
        ((dl_real *)r->out)[(dl_index)k * classes + x[k]] = 1;
    }
}
static const dl_op dl__one_hot_op = { "one_hot", 0, NULL, dl__one_hot_run, NULL, NULL, NULL };

DL_API dl_tensor dl_one_hot(dl_tensor x, dl_index classes)
{
    dl_node *n;
    dl_context *ctx = dl__operands("one_hot", 1, &x, &n);
    if (!ctx) return dl__none();
    if (n->dtype != DL_I32)
        return dl_fail(ctx, "dl_one_hot: takes DL_I32, not %s", dl__dtype_names[n->dtype]), dl__none();
    if (classes < 1) return dl_fail(ctx, "dl_one_hot: %td classes", classes), dl__none();
    if (n->ndim == DLTRAIN_MAX_DIMS)
        return dl_fail(ctx, "dl_one_hot: %S has DLTRAIN_MAX_DIMS dimensions already", n), dl__none();
    dl_shape s = dl__shape(n);
    s.dim[s.ndim++] = classes;
    dl__extra e = dl__with(1, &classes);
    return dl__record(ctx, &dl__one_hot_op, 1, &n, DL_F32, &s, &e);
}

/* ==== >>reductions ====
   Sums by the canonical rules, winners by index, and what is made of them.
   may use: moving operations */
typedef struct dl__reduced {
    dl_tensor x;
    dl_index o[3];
    dl_shape keep, out;
    size_t count;
    int kept;
    bool by_channel;
} dl__reduced; /* x as [outer, reduced, inner]; by channel: [reduced, channels, reduced] */

/* Which dimensions are reduced, and x brought into a form where they lie together, unless the caller takes them by
   channel. NULL after an error. */
static dl_context *dl__reduce(
    const char *who, dl_tensor x, const int *dims, int n_dims, bool keepdim, bool by_channel, dl__reduced *r)
{
    dl_node *n;
    dl_context *ctx = dl__operands(who, 1, &x, &n);
    unsigned mask = 0;
    int order[DLTRAIN_MAX_DIMS + 1], at = 0, first = -1, last = -1;
    if (!ctx || !dl__is_float(ctx, who, n)) return NULL;
    if (n_dims < 0) return dl_fail(ctx, "dl_%s: %d dimensions", who, n_dims), (dl_context *)NULL;
    if (!dims && n_dims) return dl_fail(ctx, "dl_%s: dims is NULL", who), (dl_context *)NULL;
    if (!n_dims) mask = (1u << n->ndim) - 1;
    for (int i = 0; i < n_dims; i++) {
        int d = dl__axis(ctx, who, dims[i], n->ndim);
        if (d < 0) return NULL;
        if (mask >> d & 1) return dl_fail(ctx, "dl_%s: dimension %d is named twice", who, d), (dl_context *)NULL;
        mask |= 1u << d;
    }
    r->keep = dl__shape(n);
    r->out = DL_SCALAR;
    r->count = 1;
    int gaps = 0; /* kept dimensions, that lie together, between reduced ones; those of size 1 lie anywhere */
    dl_index before = 1, between = 1;
    for (int i = 0; i < n->ndim; i++) {
        if (!(mask >> i & 1)) {
            r->out.dim[r->out.ndim++] = n->dim[i];
            continue;
        }
        r->keep.dim[i] = 1;
        r->count *= (size_t)n->dim[i];
        if (n->dim[i] == 1) continue;
        dl_index gap = 1;
        for (int k = last + 1; last >= 0 && k < i; k++) gap *= n->dim[k];
        if (gap != 1) gaps++, between = gap;
        if (!gaps) before *= n->dim[i];
        if (first < 0) first = i;
        last = i;
    }
    dl_index outside = 1; /* kept ones before and after them */
    for (int i = 0; i < n->ndim; i++)
        if (i < first || i > last) outside *= n->dim[i];
    r->kept = r->out.ndim;
    r->o[0] = r->o[2] = 1;
    r->o[1] = (dl_index)r->count;
    r->by_channel = by_channel && gaps == 1 && outside == 1 && before && between;
    if (r->by_channel) {
        r->o[0] = before, r->o[1] = between, r->o[2] = (dl_index)r->count / before;
        r->x = x;
    } else if (!gaps) {
        for (int i = 0; i < first; i++) r->o[0] *= n->dim[i];
        for (int i = last + 1; last >= 0 && i < n->ndim; i++) r->o[2] *= n->dim[i];
        if (last < 0) r->o[0] = (dl_index)n->numel;
        r->x = x;
    } else {
        for (int i = 0; i < n->ndim; i++)
            if (!(mask >> i & 1)) order[at++] = i, r->o[0] *= n->dim[i];
        for (int i = 0; i < n->ndim; i++)
            if (mask >> i & 1) order[at++] = i;
        r->x = dl_permute(x, order);
    }
    if (keepdim) r->out = r->keep;
    return r->x.ctx;
}

/* ---- sum; i = outer, count, inner, by channel, then x's shape (permuted) with 1 for each reduced dimension ---- */
/* How many runs of n numbers are work enough for a part. */
static size_t dl__runs_of_part(dl_index n) { return (size_t)DL__MAX((dl_index)1, DL__CHUNK / DL__MAX(n, (dl_index)1)); }

static void dl__sum_rows(const dl_run_args *r, size_t part)
{
    const dl_index *i = r->node->i;
    size_t n = (size_t)i[1], per = dl__runs_of_part(i[1]), end = DL__MIN((part + 1) * per, (size_t)i[0]);
    const dl_real *x = (const dl_real *)r->in[0];
    dl_real *y = (dl_real *)r->out;
    for (size_t k = part * per; k < end; k++) {
        dl_real s = DL__CALL(r->level, sum_chunk, (x + k * n, n));
        y[k] = r->accumulate ? y[k] + s : s;
    }
}

/* Part of a long row: chunk sums into scratch. */
typedef struct dl__chunks { const dl_real *x; dl_real *sum; size_t n, chunks; } dl__chunks;
static void dl__sum_chunks(const dl_run_args *r, size_t part)
{
    const dl__chunks *c = (const dl__chunks *)r->user;
    for (size_t k = part * 16; k < DL__MIN(c->chunks, part * 16 + 16); k++) {
        size_t at = k * DL__CHUNK, n = DL__MIN(c->n - at, (size_t)DL__CHUNK);
        c->sum[k] = DL__CALL(r->level, sum_chunk, (c->x + at, n));
    }
}

/* The canonical sum of n contiguous numbers; sums of chunks go to `scratch`, n / DL__CHUNK + 1 numbers and as
   many again by levels. */
static dl_real dl__sum_long(const dl_run_args *r, const dl_real *x, size_t n, dl_real *scratch)
{
    dl_run_args a = *r;
    dl__chunks c;
    a.user = &c;
    for (;;) {
        c.x = x;
        c.n = n;
        c.chunks = n / DL__CHUNK + (n % DL__CHUNK != 0);
        if (!n) return 0;
        c.sum = scratch;
        dl_parallel(&a, (c.chunks + 15) / 16, dl__sum_chunks);
        if (c.chunks == 1) return scratch[0];
        x = scratch;
        n = c.chunks;
        scratch += n;
    }
}

static void dl__sum_columns_part(const dl_run_args *r, size_t part)
{
    const dl_index *i = r->node->i, blocks = (i[2] + DL__COLUMNS - 1) / DL__COLUMNS, o = (dl_index)part / blocks,
                   c = (dl_index)part % blocks * DL__COLUMNS;
    DL__CALL(r->level, sum_columns,
        ((dl_real *)r->out + o * i[2] + c, (const dl_real *)r->in[0] + o * i[1] * i[2] + c, (size_t)i[1], (size_t)i[2],
            (size_t)DL__MIN(i[2] - c, (dl_index)DL__COLUMNS), r->accumulate));
}

/* Some channels of [images, channels, size]. */
static size_t dl__channels_of_part(const dl_index *i) { return dl__runs_of_part(i[0] * i[2]); }

static void dl__sum_channels(const dl_run_args *r, size_t part)
{
    const dl_index *i = r->node->i;
    size_t n = (size_t)i[2], per = dl__channels_of_part(i);
    for (size_t k = part * per; k < DL__MIN((part + 1) * per, (size_t)i[1]); k++) {
        dl_real s = DL__CALL(r->level, sum_runs,
                    ((const dl_real *)r->in[0] + k * n, (size_t)i[0], n, (size_t)i[1] * n)),
                *y = (dl_real *)r->out + k;
        *y = r->accumulate ? *y + s : s;
    }
}

static void dl__sum_run(const dl_run_args *r)
{
    const dl_index *i = r->node->i;
    size_t channels = dl__channels_of_part(i);
    if (i[3]) dl_parallel(r, ((size_t)i[1] + channels - 1) / channels, dl__sum_channels);
    else if (i[2] != 1) dl_parallel(r, (size_t)(i[0] * ((i[2] + DL__COLUMNS - 1) / DL__COLUMNS)), dl__sum_columns_part);
    else if (i[1] <= DL__CHUNK) {
        size_t per = dl__runs_of_part(i[1]);
        dl_parallel(r, ((size_t)i[0] + per - 1) / per, dl__sum_rows);
    } else
        for (dl_index k = 0; k < i[0]; k++) {
            dl_real s = dl__sum_long(r, (const dl_real *)r->in[0] + k * i[1], (size_t)i[1], (dl_real *)r->scratch),
                    *y = (dl_real *)r->out + k;
            *y = r->accumulate ? *y + s : s;
        }
}
static size_t dl__sum_scratch(const dl_node *n)
{
    return !n->i[3] && n->i[2] == 1 && n->i[1] > DL__CHUNK
        ? ((size_t)n->i[1] / DL__CHUNK + 64) * 2 * sizeof(dl_real)
        : 0;
}

static void dl__sum_grad(const dl_grad_args *g)
{
    dl_shape keep = dl__shape(g->node->in[0]);
    for (int i = 0; i < keep.ndim; i++) keep.dim[i] = g->node->i[4 + i];
    g->dx[0] = dl_expand(dl_reshape(g->dy, keep), dl__shape(g->node->in[0]));
}
static const dl_op dl__sum_op = { "sum_dims", DL_OP_ACCUMULATES, NULL, dl__sum_run, dl__sum_grad, dl__sum_scratch,
    NULL };

static dl_tensor dl__sum(const char *who, dl_tensor x, const int *dims, int n, bool keepdim, size_t *count)
{
    dl__reduced r;
    dl_index i[4 + DLTRAIN_MAX_DIMS];
    dl_node *node;
    dl_context *ctx = dl__reduce(who, x, dims, n, keepdim, true, &r);
    if (!ctx || !dl__operands(who, 1, &r.x, &node)) return dl__none();
    if (count) *count = r.count;
    memcpy(i, r.o, sizeof r.o);
    i[3] = r.by_channel;
    if (r.x.node == x.node) memcpy(i + 4, r.keep.dim, sizeof r.keep.dim);
    else
        for (int d = 0; d < node->ndim; d++)
            i[4 + d] = d < r.kept ? node->dim[d] : 1; /* permuted: the kept ones come first */
    dl__extra e = dl__with(4 + node->ndim, i);
    return dl__record(ctx, &dl__sum_op, 1, &node, DL_F32, &r.out, &e);
}

DL_API dl_tensor dl_sum(dl_tensor x) { return dl__sum("sum", x, NULL, 0, false, NULL); }
DL_API dl_tensor dl_sum_dims(dl_tensor x, const int *dims, int n, bool keepdim)
{
    return dl__sum("sum_dims", x, dims, n, keepdim, NULL);
}

/* x summed to a shape that broadcasts to x's. */
static dl_tensor dl__sum_to(dl_tensor x, const dl_node *like)
{
    dl_node *n;
    int dims[DLTRAIN_MAX_DIMS + 1], count = 0;
    if (!dl__operands("sum", 1, &x, &n) || dl__same_shape(n, like)) return x;
    for (int i = 0; i < n->ndim; i++) {
        int k = i - (n->ndim - like->ndim);
        if (k < 0 || like->dim[k] != n->dim[i]) dims[count++] = i;
    }
    return dl_reshape(count ? dl_sum_dims(x, dims, count, false) : x, dl__shape(like));
}

static dl_tensor dl__mean(const char *who, dl_tensor x, const int *dims, int n, bool keepdim)
{
    size_t count = 0;
    dl_tensor s = dl__sum(who, x, dims, n, keepdim, &count);
    return dl__unary(&dl__mul_scalar_op, s, (dl_real)(1.0 / (double)count), 0);
}
DL_API dl_tensor dl_mean(dl_tensor x) { return dl__mean("mean", x, NULL, 0, false); }
DL_API dl_tensor dl_mean_dims(dl_tensor x, const int *dims, int n, bool keepdim)
{
    return dl__mean("mean_dims", x, dims, n, keepdim);
}

/* ---- winners; i = outer, count, inner, least wanted ---- */
static void dl__arg_part(const dl_run_args *r, size_t o)
{
    const dl_index *i = r->node->i;
    const dl_real *x = (const dl_real *)r->in[0] + (dl_index)o * i[1] * i[2];
    int32_t *y = (int32_t *)r->out + (dl_index)o * i[2];
    for (dl_index c = 0; c < i[2]; c++) {
        dl_index best = 0;
        for (dl_index k = 1; k < i[1]; k++) {
            dl_real a = x[best * i[2] + c], b = x[k * i[2] + c];
            if (a == a && (b != b || (i[3] ? b < a : b > a))) best = k;
        }
        y[c] = (int32_t)best;
    }
}
static void dl__arg_run(const dl_run_args *r) { dl_parallel(r, (size_t)r->node->i[0], dl__arg_part); }
static const dl_op dl__arg_op = { "argmax", 0, NULL, dl__arg_run, NULL, NULL, NULL };

static dl_tensor dl__arg(const char *who, dl_tensor x, const dl_index *three, bool least, const dl_shape *out)
{
    dl_node *n;
    dl_index i[4];
    dl_context *ctx = dl__operands(who, 1, &x, &n);
    if (!ctx) return dl__none();
    if (!three[1]) return dl_fail(ctx, "dl_%s: no elements to choose from in %S", who, n), dl__none();
    if (three[1] > INT32_MAX)
        return dl_fail(ctx, "dl_%s: %td elements are more than a DL_I32 index can tell", who, three[1]), dl__none();
    memcpy(i, three, 3 * sizeof *i);
    i[3] = least;
    dl__extra e = dl__with(4, i);
    return dl__record(ctx, &dl__arg_op, 1, &n, DL_I32, out, &e);
}

static dl_tensor dl__arg_dim(const char *who, dl_tensor x, int dim, bool keepdim, bool least)
{
    dl__reduced r;
    if (!dl__reduce(who, x, &dim, 1, keepdim, false, &r)) return dl__none();
    return dl__arg(who, r.x, r.o, least, &r.out);
}
DL_API dl_tensor dl_argmax(dl_tensor x, int dim, bool keepdim) { return dl__arg_dim("argmax", x, dim, keepdim, false); }
DL_API dl_tensor dl_argmin(dl_tensor x, int dim, bool keepdim) { return dl__arg_dim("argmin", x, dim, keepdim, true); }

static dl_tensor dl__extreme(const char *who, dl_tensor x, const int *dims, int n, bool keepdim, bool least)
{
    dl__reduced r;
    if (!dl__reduce(who, x, dims, n, keepdim, false, &r)) return dl__none();
    dl_shape one = DL_SHAPE(r.o[0], 1, r.o[2]);
    dl_tensor index = dl__arg(who, r.x, r.o, least, &one);
    return dl_reshape(
        dl__gather(DL__WHO_MAX, dl_reshape(r.x, DL_SHAPE(r.o[0], r.o[1], r.o[2])), 1, index, 1, &one, false), r.out);
}
DL_API dl_tensor dl_max_dims(dl_tensor x, const int *dims, int n, bool keepdim)
{
    return dl__extreme("max_dims", x, dims, n, keepdim, false);
}
DL_API dl_tensor dl_min_dims(dl_tensor x, const int *dims, int n, bool keepdim)
{
    return dl__extreme("min_dims", x, dims, n, keepdim, true);
}

/* ---- made of the above ---- */
static dl_tensor dl__var(
    const char *who, dl_tensor x, const int *dims, int n, bool keepdim, float correction, dl_tensor *centred)
{
    dl__reduced r;
    if (!dl__reduce(who, x, dims, n, keepdim, false, &r)) return dl__none();
    dl_tensor d = dl_sub(x, dl_mean_dims(x, dims, n, true));
    if (centred) *centred = d;
    double count = (double)r.count - (double)correction;
    return dl__unary(
        &dl__mul_scalar_op, dl_sum_dims(dl_square(d), dims, n, keepdim), (dl_real)(1.0 / (count > 0 ? count : 0)), 0);
}
DL_API dl_tensor dl_var_dims(dl_tensor x, const int *dims, int n, bool keepdim, float correction)
{
    return dl__var("var_dims", x, dims, n, keepdim, correction, NULL);
}

DL_API dl_tensor dl_logsumexp_dims(dl_tensor x, const int *dims, int n, bool keepdim)
{
    dl__reduced r;
    dl_context *ctx = dl__reduce("logsumexp_dims", x, dims, n, keepdim, false, &r);
    if (!ctx) return dl__none();
    dl_tensor top = dl_detach(dl__extreme("logsumexp_dims", x, dims, n, true, false));
    top = dl_where(
        dl_eq(dl_abs(top), dl__scalar(ctx, HUGE_VAL)), dl__scalar(ctx, 0), top); /* infinite: exp alone is right */
    dl_tensor y = dl_add(dl_log(dl_sum_dims(dl_exp(dl_sub(x, top)), dims, n, true)), top);
    return dl_reshape(y, r.out);
}

DL_API dl_tensor dl_norm_dims(dl_tensor x, const int *dims, int n, bool keepdim)
{
    dl_tensor s = dl__sum("norm_dims", dl_square(x), dims, n, keepdim, NULL), zero = dl__scalar(s.ctx, 0),
              none = dl_eq(s, zero);
    return dl_where(none, zero, dl_sqrt(dl_where(none, dl__scalar(s.ctx, 1), s)));
}

/* ==== >>products ====
   matmul, convolution, pooling.
   may use: reductions */
static const dl__products *dl__products_of(int level) { return DL__CALL(level, products_of, ()); }

/* ---- one product, and a batch of them; k = 1 step or k apart, rows likewise ---- */
typedef struct dl__gemm {
    const dl__products *e;
    dl_index m, n, kk, mc, nc;      /* mc x nc of C are one unit of work */
    const dl_real *a, *b, *bias;
    dl_real *c;
    dl_index a_row, a_k, b_row, b_k, c_row;
    bool turned;                    /* element (m, n) lies at n * c_row + m, not at m * c_row + n */
    bool bias_by_row, accumulate;
    /* what needs scratch: copies of A and B (of its last columns at least); the totals of a unit */
    bool pack_a, pack_b, total;
    int batch_dims;
    struct { dl_index count, a, b, c; } batch[DLTRAIN_MAX_DIMS]; /* outermost first */
} dl__gemm;

/* Planning a product is DL__HOT, too: it takes longer than a small one itself. */
DL__HOT static dl_index dl__round_up(dl_index n, dl_index to) { return (n + to - 1) / to * to; }

/* n cut into pieces of nearly the same length, a multiple of `to` and at most `most`, which is one. */
static dl_index dl__evenly(dl_index n, dl_index most, dl_index to)
{
    dl_index pieces = DL__MAX((n + most - 1) / most, (dl_index)1);
    return DL__MAX(dl__round_up((n + pieces - 1) / pieces, to), to);
}

/* Copies pay when what they cost an element is little beside the tiles that read it. A is read a number at a time:
   it is copied for many panels of B, and soon where its rows are neighbours, so that each number of a row is on
   a page of its own. */
DL__HOT static bool dl__gemm_packs_a(const dl__gemm *g, dl_index nc)
{
    return g->kk && nc >= (g->a_k == 1 ? 32 : 3) * g->e->nr;
}
DL__HOT static bool dl__gemm_dots(const dl__gemm *g)
{
    return g->m == 1 && g->n >= g->e->nr && g->b_k == 1 && g->b_row != 1 && g->e->dots;
}
DL__HOT static bool dl__gemm_packs_b(const dl__gemm *g, dl_index mc)
{
    return g->kk && !dl__gemm_dots(g) && (g->b_row != 1 || mc > 8 * g->e->mr);
}

/* Copying a number costs so many rows of a tile: in vectors, 8 x 8 at a time, or one by one. */
DL__HOT static float dl__copy_cost(dl_index row, dl_index k) { return row == 1 ? 0.25f : k == 1 ? 0.6f : 1.5f; }

/* The cost of mc x nc of C, in rows of tiles times k; a tile of less than four rows waits for its own additions. */
DL__HOT static float dl__gemm_cost(const dl__gemm *g, dl_index mc, dl_index nc)
{
    float m = (float)(g->b_row == 1 ? mc : DL__MAX(mc, (dl_index)4)), n = (float)dl__round_up(nc, g->e->nr),
          k = (float)g->kk;
    float cost = (dl__gemm_dots(g) ? 3 : m) * n / (float)g->e->nr * (k + 3);
    if (dl__gemm_packs_b(g, mc)) cost += n * k * dl__copy_cost(g->b_row, g->b_k);
    if (dl__gemm_packs_a(g, nc)) cost += m * k * dl__copy_cost(g->a_row, g->a_k);
    return g->turned ? cost + 0.75f * m * n : cost;
}

/* C' = B' A' */
DL__HOT static void dl__gemm_exchange(dl__gemm *g)
{
    dl_index m = g->m, row = g->a_row, k = g->a_k;
    const dl_real *a = g->a;
    g->m = g->n, g->a = g->b, g->a_row = g->b_row, g->a_k = g->b_k;
    g->n = m, g->b = a, g->b_row = row, g->b_k = k;
    g->turned = !g->turned, g->bias_by_row = !g->bias_by_row;
    for (int d = 0; d < g->batch_dims; d++) {
        dl_index step = g->batch[d].a;
        g->batch[d].a = g->batch[d].b, g->batch[d].b = step;
    }
}

/* Cuts C into units of work, so that the thread with most to do has least: each unit makes copies of its own. */
DL__HOT static void dl__gemm_cut(dl__gemm *g, int threads)
{
    enum { WORTH = 20000 }; /* less is done before another thread is awake */
    static const uint8_t parts[] = { 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64 };
    const dl__products *e = g->e;
    dl_index most_m = g->total ? e->mc : 32 * e->mc, most_n = g->total ? e->mc : e->nc;
    if (g->m <= 4 * e->mr && dl__gemm_packs_b(g, g->m)) /* copies that are read so seldom should stay near */
        most_n = dl__round_up(e->mc / 3, e->nr);
    float batch = 1, best = -1;
    for (int d = 0; d < g->batch_dims; d++) batch *= (float)g->batch[d].count;
    bool cut = threads > 1 && batch * dl__gemm_cost(g, g->m, g->n) > (float)WORTH;
    for (size_t i = 0; i < DL__COUNT_OF(parts) && parts[i] <= (cut ? 2 * threads : 1); i++)
        for (size_t j = 0; j < DL__COUNT_OF(parts) && parts[j] <= (cut ? 2 * threads : 1); j++) {
            dl_index mc = DL__MIN(dl__round_up(DL__MAX((g->m + parts[i] - 1) / parts[i], (dl_index)1), e->mr), most_m);
            dl_index nc = DL__MIN(dl__round_up(DL__MAX((g->n + parts[j] - 1) / parts[j], (dl_index)1), e->nr), most_n);
            float units = batch * (float)((g->m + mc - 1) / mc) * (float)((g->n + nc - 1) / nc);
            float turns = (float)(size_t)((units + (float)threads - 1) / (float)threads);
            float cost = cut ? turns * (dl__gemm_cost(g, DL__MIN(mc, g->m), DL__MIN(nc, g->n)) + 300) : 0;
            if (best < 0 || cost < best) best = cost, g->mc = mc, g->nc = nc;
        }
}

/* Which operand is broadcast, how large units are and what is copied. The result depends on shapes and on the number of
   threads, the bits do not. */
DL__HOT static void dl__gemm_plan(dl__gemm *g, int threads)
{
    float cost = dl__gemm_cost(g, g->m, g->n);
    dl__gemm_exchange(g);
    if (dl__gemm_cost(g, g->m, g->n) >= cost) dl__gemm_exchange(g);
    g->total = g->turned || (g->accumulate && g->kk > DL__KB);
    dl__gemm_cut(g, threads);
    g->pack_a = dl__gemm_packs_a(g, g->nc);
    g->pack_b = dl__gemm_packs_b(g, g->mc);
}

DL__HOT static size_t dl__gemm_units(const dl__gemm *g)
{
    size_t units = (size_t)((g->m + g->mc - 1) / g->mc) * (size_t)((g->n + g->nc - 1) / g->nc);
    for (int d = 0; d < g->batch_dims; d++) units *= (size_t)g->batch[d].count;
    return units;
}

DL__HOT static dl_index dl__packed_row(const dl__products *e) { return dl__round_up(e->mr, 4); }

/* Rows of a unit that go through all panels of B before the next do: few where they are long, since lines of C in many
   pages at a time come slowly. */
DL__HOT static dl_index dl__gemm_block(const dl__gemm *g)
{
    enum { NEAR = 12 << 10 }; /* numbers of C */
    dl_index most = DL__MIN(g->mc, g->e->mc), mr = g->e->mr;
    return DL__VECTORS ? DL__MAX(DL__MIN(most, NEAR / DL__MAX(g->nc, (dl_index)1)) / mr, (dl_index)1) * mr : most;
}

static size_t dl__gemm_scratch(const dl__gemm *g) /* numbers, for one thread */
{
    dl_index kc = DL__MIN(g->kk, (dl_index)DL__KB);
    return (size_t)((g->pack_b ? g->nc : g->e->nr) * kc +
                    (g->pack_a ? dl__gemm_block(g) / g->e->mr * dl__packed_row(g->e) * kc : 0) +
                    (g->total ? g->mc * g->nc : 0));
}

/* Rows of A that are neighbours, as tiles that have whole vectors: several at a time, and several steps of k,
   so that cache lines are read and written as a whole. */
DL__HOT static void dl__pack_tiles(
    const dl_real *a, dl_index a_k, dl_index tiles, dl_index mr, dl_index kc, dl_real *dst)
{
    enum { SIDE = 8, STEPS = 4, WIDE = 8 };
    for (dl_index i0 = 0; i0 < tiles; i0 += SIDE)
        for (dl_index k = 0; k < kc; k += STEPS)
            for (dl_index i = i0; i < DL__MIN(tiles, i0 + SIDE); i++) {
                const dl_real *from = a + k * a_k + i * mr;
                dl_real *to = dst + (i * kc + k) * WIDE;
                if (k + STEPS <= kc)
                    DL__UNROLL for (int h = 0; h < STEPS; h++) memcpy(to + h * WIDE, from + h * a_k, WIDE * sizeof *to);
                else
                    for (dl_index h = 0; h < kc - k; h++) memcpy(to + h * WIDE, from + h * a_k, WIDE * sizeof *to);
            }
}

/* Rows of A as the kernel goes through them: mr rows at a time, their numbers of one k together, `wide` apart
   for whole vectors. */
DL__HOT static void dl__pack_rows(
    const dl__products *e, const dl_real *a, dl_index a_row, dl_index a_k, dl_index rows, dl_index kc, dl_real *dst)
{
    dl_index wide = dl__packed_row(e), i = 0;
    if (DL__VECTORS && a_row == 1 && wide == 8 && rows >= wide) {
        dl_index tiles = (rows - wide) / e->mr + 1;
        dl__pack_tiles(a, a_k, tiles, e->mr, kc, dst);
        i = tiles * e->mr, dst += tiles * kc * wide;
    }
    for (; i < rows; i += e->mr, dst += kc * wide) {
        dl_index some = DL__MIN(wide, rows - i);
        const dl_real *from = a + i * a_row;
        if (a_k == 1) e->turn(from, a_row, some, kc, dst, wide, false);
        else
            for (dl_index k = 0; k < kc; k++)
                for (dl_index l = 0; l < some; l++) dst[k * wide + l] = from[k * a_k + l * a_row];
    }
}

DL__HOT static void dl__gemm_part(const dl_run_args *r, size_t unit)
{
    const dl__gemm *g = (const dl__gemm *)r->user;
    const dl__products *e = g->e;
    dl_index across = (g->n + g->nc - 1) / g->nc, down = (g->m + g->mc - 1) / g->mc, u = (dl_index)unit;
    dl_index n0 = u % across * g->nc, m0 = u / across % down * g->mc, at_batch = u / across / down;
    dl_index nc = DL__MIN(g->n - n0, g->nc), mc = DL__MIN(g->m - m0, g->mc), at[DL__KB], row[DL__MC];
    dl_index most = DL__MIN(g->kk, (dl_index)DL__KB), block = dl__gemm_block(g);
    const dl_real *a0 = g->a + m0 * g->a_row, *b0 = g->b + n0 * g->b_row;
    dl_real *c = g->c + (g->turned ? n0 * g->c_row + m0 : m0 * g->c_row + n0);
    dl_real *packed_b = (dl_real *)r->scratch, *packed_a = packed_b + (g->pack_b ? g->nc : e->nr) * most;
    dl_real *total = packed_a + (g->pack_a ? block / e->mr * dl__packed_row(e) * most : 0);
    dl__panel p;
    bool dots = dl__gemm_dots(g) && g->kk;
    for (int d = g->batch_dims - 1; d >= 0; d--) {
        dl_index i = at_batch % g->batch[d].count;
        at_batch /= g->batch[d].count;
        a0 += i * g->batch[d].a;
        b0 += i * g->batch[d].b;
        c += i * g->batch[d].c;
    }
    p.row = row;
    p.at = at;
    p.bias_by_row = g->bias_by_row;
    p.chained = false;
    p.add = g->accumulate && !g->total;
    p.out_row = g->total ? g->nc : g->c_row;
    for (dl_index k0 = 0; k0 == 0 || k0 < g->kk; k0 += DL__KB) {
        const dl_real *b = b0 + k0 * g->b_k;
        bool bias = g->bias && k0 + DL__KB >= g->kk;
        p.kc = DL__MIN(g->kk - k0, (dl_index)DL__KB);
        p.more = k0 > 0;
        if (g->pack_b && p.kc) e->pack(b, g->b_row, g->b_k, nc, p.kc, packed_b);
        if (g->pack_b) b = packed_b;
        for (dl_index i = 0; i < mc; i += block) {
            dl_index a_row = g->a_row, a_k = g->a_k;
            p.rows = DL__MIN(mc - i, block);
            p.a = a0 + i * a_row + k0 * a_k;
            if (g->pack_a) {
                dl_index wide = dl__packed_row(e);
                dl__pack_rows(e, p.a, a_row, a_k, p.rows, p.kc, packed_a);
                p.a = packed_a;
                for (dl_index k = 0; k < p.rows; k++) row[k] = k / e->mr * wide * p.kc + k % e->mr;
                a_k = wide;
            } else
                for (dl_index k = 0; k < p.rows; k++) row[k] = k * a_row;
            for (dl_index k = 0; k < p.kc; k++) at[k] = k * a_k;
            for (dl_index j = 0; j < nc; j += p.cols) {
                bool thin = e->thin && !g->pack_b && p.rows <= DL__THIN && nc - j >= e->nr;
                bool tail = !g->pack_b && !dots && nc - j < e->nr;
                p.cols = dots ? nc : thin ? (nc - j) / e->nr * e->nr : DL__MIN(nc - j, e->nr);
                if (tail && p.kc) e->pack(b + j, 1, g->b_k, p.cols, p.kc, packed_b);
                p.b = g->pack_b ? b + j * p.kc : tail ? packed_b : b + j;
                p.b_step = dots ? g->b_row : g->pack_b || tail ? e->nr : g->b_k;
                p.out = (g->total ? total : c) + i * p.out_row + j;
                p.bias = !bias ? NULL : g->bias + (g->bias_by_row ? m0 + i : n0 + j);
                if (dots) e->dots(&p);
                else if (thin) e->thin(&p);
                else e->panel(&p);
            }
            if (!g->total && k0 + DL__KB >= g->kk)
                dl__finished_rows(r, (size_t)(c + i * g->c_row - g->c), (size_t)p.rows, (size_t)nc, (size_t)g->c_row);
        }
    }
    if (!g->total) return;
    if (g->turned) e->turn(total, g->nc, mc, nc, c, g->c_row, g->accumulate);
    else
        for (dl_index i = 0; i < mc; i++)
            for (dl_index j = 0; j < nc; j++) c[i * g->c_row + j] += total[i * g->nc + j];
    dl__finished_rows(r, (size_t)(c - g->c), (size_t)(g->turned ? nc : mc), (size_t)(g->turned ? mc : nc),
        (size_t)g->c_row);
}

/* ---- matmul: in a [..., M, K], b [..., K, N], bias [N] or none; i = transposed a, b ---- */
DL__HOT static dl__gemm dl__matmul_gemm(const dl_node *y, int level, bool accumulate)
{
    const dl_node *a = y->in[0], *b = y->in[1];
    int nd = y->ndim, ta = (int)y->i[0], tb = (int)y->i[1];
    dl__gemm g;
    memset(&g, 0, sizeof g);
    g.e = dl__products_of(level);
    g.m = y->dim[nd - 2];
    g.n = y->dim[nd - 1];
    g.kk = a->dim[a->ndim - (ta ? 2 : 1)];
    dl_index lda = a->dim[a->ndim - 1], ldb = b->dim[b->ndim - 1], sa = g.m * g.kk, sb = g.kk * g.n, sc = g.m * g.n;
    g.a_row = ta ? 1 : lda, g.a_k = ta ? lda : 1;
    g.b_row = tb ? ldb : 1, g.b_k = tb ? 1 : ldb;
    g.c_row = g.n;
    g.accumulate = accumulate;
    g.batch_dims = nd - 2;
    for (int d = nd - 3; d >= 0; d--) { /* broadcasting: stride 0 */
        int da = d - (nd - a->ndim), db = d - (nd - b->ndim);
        dl_index na = da < 0 ? 1 : a->dim[da], nb = db < 0 ? 1 : b->dim[db];
        g.batch[d].count = y->dim[d];
        g.batch[d].a = na == 1 ? 0 : sa;
        g.batch[d].b = nb == 1 ? 0 : sb;
        g.batch[d].c = sc;
        sa *= na, sb *= nb, sc *= y->dim[d];
    }
    return g;
}

DL__HOT static void dl__matmul_run(const dl_run_args *r)
{
    if (!r->node->numel) return;
    dl__gemm g = dl__matmul_gemm(r->node, r->level, r->accumulate);
    dl_run_args a = *r;
    g.a = (const dl_real *)r->in[0];
    g.b = (const dl_real *)r->in[1];
    g.c = (dl_real *)r->out;
    if (r->node->n_in > 2) g.bias = (const dl_real *)r->in[2];
    dl__gemm_plan(&g, r->ctx->pool.threads);
    a.user = &g;
    dl_parallel(&a, dl__gemm_units(&g), dl__gemm_part);
}
/* the most that any level needs, with one thread: more split the work */
static size_t dl__matmul_scratch(const dl_node *y)
{
    size_t most = 0;
    for (int level = 0; level <= DL__TOP_LEVEL; level++)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            dl__gemm g = dl__matmul_gemm(y, level, accumulate != 0);
            dl__gemm_plan(&g, 1);
            most = DL__MAX(most, sizeof(dl_real) * dl__gemm_scratch(&g));
        }
    return most;
}
static void dl__matmul_grad(const dl_grad_args *g);
static const dl_op dl__matmul_op = { "matmul", DL_OP_ACCUMULATES | DL_OP_FINISHES, NULL, dl__matmul_run,
    dl__matmul_grad, dl__matmul_scratch, NULL };

/* Both have two dimensions or more; bias zero or [N]. */
static dl_tensor dl__matmul(const char *who, dl_tensor a, dl_tensor b, dl_tensor bias, bool ta, bool tb)
{
    dl_node *n[3];
    dl_tensor in[3];
    in[0] = a, in[1] = b, in[2] = bias;
    int inputs = bias.ctx ? 3 : 2;
    dl_context *ctx = dl__operands(who, inputs, in, n);
    if (!ctx) return dl__none();
    for (int k = 0; k < inputs; k++)
        if (!dl__is_float(ctx, who, n[k])) return dl__none();
    if (n[0]->ndim < 2 || n[1]->ndim < 2)
        return dl_fail(ctx, "dl_%s: transposing takes two dimensions or more: %S x %S", who, n[0], n[1]), dl__none();
    dl_index ka = n[0]->dim[n[0]->ndim - (ta ? 2 : 1)], kb = n[1]->dim[n[1]->ndim - (tb ? 1 : 2)];
    if (ka != kb)
        return dl_fail(
                   ctx, "dl_%s: inner dimensions differ: %S%s x %S%s", who, n[0], ta ? "'" : "", n[1], tb ? "'" : ""),
               dl__none();
    dl_shape s = n[0]->ndim > n[1]->ndim ? dl__shape(n[0]) : dl__shape(n[1]);
    for (int d = 0; d < s.ndim - 2; d++) {
        int da = d - (s.ndim - n[0]->ndim), db = d - (s.ndim - n[1]->ndim);
        dl_index na = da < 0 ? 1 : n[0]->dim[da], nb = db < 0 ? 1 : n[1]->dim[db];
        if (na != nb && na != 1 && nb != 1)
            return dl_fail(ctx, "dl_%s: batch dimensions do not broadcast: %S x %S", who, n[0], n[1]), dl__none();
        s.dim[d] = na == 1 ? nb : na;
    }
    s.dim[s.ndim - 2] = n[0]->dim[n[0]->ndim - (ta ? 1 : 2)];
    s.dim[s.ndim - 1] = n[1]->dim[n[1]->ndim - (tb ? 2 : 1)];
    if (inputs == 3 && (n[2]->ndim != 1 || n[2]->dim[0] != s.dim[s.ndim - 1]))
        return dl_fail(ctx, "dl_%s: the bias must be [%td], not %S", who, s.dim[s.ndim - 1], n[2]), dl__none();
    if (n[0]->ndim > 2 && n[1]->ndim == 2 && !ta) { /* one product, and one sum over the batch in b's gradient */
        dl_index rows = 1;
        for (int d = 0; d < s.ndim - 1; d++) rows *= s.dim[d];
        return dl_reshape(dl__matmul(who, dl_reshape(a, DL_SHAPE(rows, ka)), b, bias, false, tb), s);
    }
    dl_index i[2];
    i[0] = ta, i[1] = tb;
    dl__extra e = dl__with(2, i);
    return dl__record(ctx, &dl__matmul_op, inputs, n, DL_F32, &s, &e);
}

/* With A and B what the flags make of a and b: dA = dY B', dB = A' dY; transposed when a or b is. */
static void dl__matmul_grad(const dl_grad_args *g)
{
    bool ta = g->node->i[0] != 0, tb = g->node->i[1] != 0;
    dl_tensor a = g->x[0], b = g->x[1], dy = g->dy, no = dl__none();
    int rows = 0;
    if (g->want[0])
        g->dx[0] = ta ? dl__matmul("matmul", b, dy, no, tb, true) : dl__matmul("matmul", dy, b, no, false, !tb);
    if (g->want[1])
        g->dx[1] = tb ? dl__matmul("matmul", dy, a, no, true, ta) : dl__matmul("matmul", a, dy, no, !ta, false);
    if (g->node->n_in > 2 && g->want[2]) {
        dl_index n = g->node->dim[g->node->ndim - 1];
        g->dx[2] = dl_sum_dims(dl_reshape(dy, DL_SHAPE(n ? (dl_index)g->node->numel / n : 0, n)), &rows, 1, false);
    }
}

DL_API dl_tensor dl_matmul_ex(dl_tensor a, dl_tensor b, const dl_matmul_desc *desc)
{
    return dl__matmul("matmul", a, b, dl__none(), desc && desc->transpose_a, desc && desc->transpose_b);
}

DL_API dl_tensor dl_matmul(dl_tensor a, dl_tensor b)
{
    dl_node *n[2];
    dl_tensor in[2];
    in[0] = a, in[1] = b;
    dl_context *ctx = dl__operands("matmul", 2, in, n);
    if (!ctx) return dl__none();
    if (!n[0]->ndim || !n[1]->ndim)
        return dl_fail(ctx, "dl_matmul: takes one dimension or more: %S x %S", n[0], n[1]), dl__none();
    bool row = n[0]->ndim == 1, column = n[1]->ndim == 1;
    if (!row && !column) return dl__matmul("matmul", a, b, dl__none(), false, false);
    dl_index ka = n[0]->dim[n[0]->ndim - 1], kb = n[1]->dim[column ? 0 : n[1]->ndim - 2];
    if (ka != kb) return dl_fail(ctx, "dl_matmul: inner dimensions differ: %S x %S", n[0], n[1]), dl__none();
    if (row) a = dl_reshape(a, DL_SHAPE(1, ka));
    if (column) b = dl_reshape(b, DL_SHAPE(kb, 1));
    dl_tensor y = dl__matmul("matmul", a, b, dl__none(), false, false);
    dl_shape s = dl_shape_of(y);
    if (column) s.ndim--;
    else if (row) s.dim[s.ndim - 2] = s.dim[s.ndim - 1];
    if (row) s.ndim--;
    return dl_reshape(y, s);
}

DL_API dl_tensor dl_affine(dl_tensor x, dl_tensor w, dl_tensor b)
{
    dl_node *n[3];
    dl_tensor in[3];
    in[0] = x, in[1] = w, in[2] = b;
    dl_context *ctx = dl__operands("affine", b.ctx ? 3 : 2, in, n);
    if (!ctx) return dl__none();
    if (n[1]->ndim != 2) return dl_fail(ctx, "dl_affine: the weight must be [out,in], not %S", n[1]), dl__none();
    if (!n[0]->ndim || n[0]->dim[n[0]->ndim - 1] != n[1]->dim[1])
        return dl_fail(ctx, "dl_affine: x %S does not end in the width of the weight %S", n[0], n[1]), dl__none();
    dl_shape s = dl__shape(n[0]);
    dl_index k = n[1]->dim[1], rows = 1;
    for (int i = 0; i < s.ndim - 1; i++) rows *= s.dim[i];
    s.dim[s.ndim - 1] = n[1]->dim[0];
    return dl_reshape(dl__matmul("affine", dl_reshape(x, DL_SHAPE(rows, k)), w, b, false, true), s);
}

/* ---- convolution: y = conv(x, w), dx = back(dy, w), dw = weight(x, dy): three operations, each the gradient of the
   others. i = the geometry ---- */
typedef struct dl__geometry { /* of a convolution; x [n,c,h,w] -> y [n,o,oh,ow] */
    dl_index n, c, h, w, o, kh, kw, oh, ow, sh, sw, ph, pw, dh, dw, groups;
} dl__geometry;
enum { DL__GEOMETRY = sizeof(dl__geometry) / sizeof(dl_index), DL__STRIP = 512 };

static dl__geometry dl__geometry_of(const dl_node *n)
{
    dl__geometry q;
    memcpy(&q, n->i, sizeof q);
    return q;
}

static dl_index dl__floor_div(dl_index a, dl_index b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

/* The part of the source planes that is looked at, with the zeros around them: rows y .. y + h, columns x .. x + w. */
typedef struct dl__frame {
    dl_index y, x, h, w;
    bool inside;
} dl__frame; /* inside: it lies in the plane; no zeros, no copy */

/* What rows y0 .. y1 of the result are made of: conv reads x at y * sh - ph + ky * dh, back reads dy at
   (y + ph - ky * dh) / sh where this is whole. */
static dl__frame dl__frame_of(const dl__geometry *q, bool back, dl_index y0, dl_index y1)
{
    dl__frame f;
    if (back) {
        f.y = dl__floor_div(y0 + q->ph - (q->kh - 1) * q->dh, q->sh);
        f.x = dl__floor_div(q->pw - (q->kw - 1) * q->dw, q->sw);
        f.h = dl__floor_div(y1 - 1 + q->ph, q->sh) + 1 - f.y;
        f.w = dl__floor_div(q->w - 1 + q->pw, q->sw) + 1 - f.x;
    } else {
        f.y = y0 * q->sh - q->ph;
        f.x = -q->pw;
        f.h = (y1 - 1 - y0) * q->sh + (q->kh - 1) * q->dh + 1;
        f.w = (q->ow - 1) * q->sw + (q->kw - 1) * q->dw + 1;
    }
    f.inside = f.y >= 0 && f.x >= 0 && f.y + f.h <= (back ? q->oh : q->h) && f.x + f.w <= (back ? q->ow : q->w);
    return f;
}

/* conv and back slide a window over images. Pixels of the result are the rows of A, its channels lie in vectors;
   k = (ky, kx, channel of the source). With strides, pixels of back fall into sh * sw classes by the taps that reach
   them: each is a product of its own. */
typedef struct dl__slide {
    const dl__products *e;
    dl__geometry q;
    bool back, accumulate, inside;
    bool along;                     /* pixels lie in vectors instead: see dl__strip */
    dl_index in, out, groups;       /* channels of a group */
    dl_index h, w, out_h, out_w;    /* planes of the source and of the result */
    dl_index kk, blocks, classes, mc;
    dl_index width, plane, frame;   /* of the planes a window is read from: x's, or a frame's, of so many numbers */
    dl_index rows, strips;          /* `rows` rows of a result are one unit of work */
    const dl_real *x, *weight, *bias;
    dl_real *packed, *y;            /* the weight: by group, class, panel */
    dl_index *at, *begin;           /* of dl__slide_order */
} dl__slide;

static dl__slide dl__slide_plan(const dl_node *n, int level, bool back, int threads)
{
    dl__slide s;
    memset(&s, 0, sizeof s);
    dl__geometry q = s.q = dl__geometry_of(n);
    s.e = dl__products_of(level);
    s.back = back;
    s.groups = q.groups;
    s.in = (back ? q.o : q.c) / q.groups, s.out = (back ? q.c : q.o) / q.groups;
    s.h = back ? q.oh : q.h, s.w = back ? q.ow : q.w, s.out_h = back ? q.h : q.oh, s.out_w = back ? q.w : q.ow;
    s.kk = q.kh * q.kw * s.in;
    s.blocks = DL__MAX((s.kk + DL__KB - 1) / DL__KB, (dl_index)1);
    s.classes = back ? q.sh * q.sw : 1;
    /* in steps of k; channels in vectors must then be turned into their planes, but have better tiles */
    if (q.sh == 1 && q.sw == 1) {
        dl_index wide = s.e->width, steps = s.kk + 3, across = dl__vectors(s.out_w, wide) * wide;
        s.along = s.out * across * steps * 33 / 32 <=
            s.out_w * (dl__vectors(s.out, wide) * wide * steps + s.e->nr * 5 / 8 * s.out);
    }
    s.rows = DL__MAX(
        DL__MIN((s.e->mc < DL__STRIP / 4 ? s.e->mc : (dl_index)DL__STRIP) / DL__MAX(s.out_w, (dl_index)1), s.out_h),
        (dl_index)1);
    while (s.rows > 1 && q.n * q.groups * ((s.out_h + s.rows - 1) / s.rows) < threads) s.rows = (s.rows + 1) / 2;
    s.strips = (s.out_h + s.rows - 1) / s.rows;
    /* runs of nearly the same length */
    s.mc = dl__evenly(s.rows * s.out_w, s.e->mc, s.e->mr);
    s.inside = dl__frame_of(&q, back, 0, DL__MAX(s.out_h, (dl_index)1)).inside && !(s.along && s.out_w % s.e->width);
    s.width = s.w, s.plane = s.inside ? s.h * s.w : 0;
    for (dl_index y0 = 0; !s.inside && y0 < s.out_h; y0 += s.rows) {
        dl__frame f = dl__frame_of(&q, back, y0, DL__MIN(y0 + s.rows, s.out_h));
        s.width = f.w, s.plane = DL__MAX(s.plane, f.h * f.w), s.frame = s.plane * s.in + DL__SPARE;
    }
    return s;
}

static size_t dl__slide_packed(const dl__slide *s) /* numbers, even */
{
    return (size_t)dl__round_up(s->groups * dl__round_up(s->out, s->e->nr) * s->kk, 2);
}
static dl_index dl__slide_tables(const dl__slide *s) { return s->kk + s->classes * (s->blocks + 1); }
static size_t dl__slide_scratch(const dl__slide *s) /* bytes */
{
    return sizeof(dl_real) * (dl__slide_packed(s) + (size_t)(s->frame + s->mc * dl__round_up(s->out, s->e->nr))) +
        sizeof(dl_index) * (size_t)(dl__slide_tables(s) + 2 * s->mc);
}

/* Does tap k of the dimension reach class r of the result's pixels? */
static bool dl__reaches(const dl__slide *s, dl_index r, dl_index pad, dl_index tap, dl_index stride)
{
    return !s->back || (r + pad - tap) % stride == 0;
}

/* The canonical order of k, class by class: where a class's elements lie from the pixel, and where its blocks begin;
   or a panel of the weight in that order. Either may be NULL. */
DL__HOT static void dl__slide_order(
    const dl__slide *s, dl_index *at, dl_index *start, const dl_real *w, dl_index cols, dl_real *packed)
{
    const dl__geometry *q = &s->q;
    dl_index nr = s->e->nr, taps = q->kh * q->kw, row = s->back ? taps : s->in * taps,
             channel = s->back ? s->out * taps : taps, n = 0;
    for (dl_index c = 0; c < s->classes; c++) {
        dl_index ry = c / q->sw, rx = c % q->sw, k = 0;
        for (dl_index tap = 0; tap < taps; tap++) {
            dl_index ky = tap / q->kw * q->dh, kx = tap % q->kw * q->dw;
            bool reached = dl__reaches(s, ry, q->ph, ky, q->sh) && dl__reaches(s, rx, q->pw, kx, q->sw);
            dl_index first = s->back
                ? (ry + q->ph - ky) / q->sh * s->width + (rx + q->pw - kx) / q->sw
                : ky * s->width + kx;
            for (dl_index i = 0; i < s->in; i++, k++) {
                if (start && k % DL__KB == 0) start[c * (s->blocks + 1) + k / DL__KB] = n;
                if (!reached) continue;
                if (at) at[n] = first + i * s->plane;
                if (packed) {
                    dl_index j = 0;
                    for (; j < cols; j++) packed[n * nr + j] = w[j * row + i * channel + tap];
                    for (; j < nr; j++) packed[n * nr + j] = 0;
                }
                n++;
            }
        }
        for (dl_index b = (k + DL__KB - 1) / DL__KB; start && b <= s->blocks; b++) start[c * (s->blocks + 1) + b] = n;
        if (start && !k) start[c * (s->blocks + 1)] = n;
    }
}

static void dl__slide_pack(const dl_run_args *r, size_t part)
{
    const dl__slide *s = (const dl__slide *)r->user;
    dl_index nr = s->e->nr, panels = (s->out + nr - 1) / nr, group = (dl_index)part / panels,
             j = (dl_index)part % panels * nr;
    dl_index taps = s->q.kh * s->q.kw, per_group = s->in * s->out * taps;
    dl__slide_order(s, NULL, NULL, s->weight + group * per_group + j * (s->back ? taps : s->in * taps),
        DL__MIN(nr, s->out - j), s->packed + (dl_index)part * nr * s->kk);
}

DL__HOT static void dl__slide_part(const dl_run_args *r, size_t part)
{
    const dl__slide *s = (const dl__slide *)r->user;
    const dl__geometry *q = &s->q;
    const dl__products *e = s->e;
    dl_index unit = (dl_index)part, y0 = unit % s->strips * s->rows, group = unit / s->strips % s->groups,
             image = unit / s->strips / s->groups;
    dl_index y1 = DL__MIN(y0 + s->rows, s->out_h), nt = dl__round_up(s->out, e->nr), plane_y = s->out_h * s->out_w;
    dl_index *pixel = (dl_index *)(void *)((dl_real *)r->scratch + dl__slide_packed(s)) + dl__slide_tables(s);
    dl_index *place = pixel + s->mc;
    dl_real *total = (dl_real *)(void *)(place + s->mc), *y = s->y + (image * s->groups + group) * s->out * plane_y;
    const dl_real *x = s->x + (image * s->groups + group) * s->in * s->h * s->w,
                  *packed = s->packed + group * nt * s->kk;
    dl__frame f = dl__frame_of(q, s->back, y0, y1);
    dl_index width = s->width;
    dl__panel p;
    if (s->inside) f.y = f.x = 0;
    else {
        DL__CALL(r->level, frame, (x, s->in, s->h, s->w, f.y, f.x, f.h, f.w, total + s->mc * nt, s->plane));
        x = total + s->mc * nt;
    }
    if (s->along) {
        dl__strip t;
        dl_index first = s->inside ? y0 : s->back ? y0 - f.y : y0 - q->ph - f.y;
        memset(&t, 0, sizeof t);
        t.rows = y1 - y0, t.width = s->out_w, t.blocks = s->blocks;
        t.x = x + first * width - (s->back ? f.x : 0), t.x_row = width;
        t.at = s->at, t.begin = s->begin;
        t.y_row = s->out_w, t.y_plane = plane_y;
        t.w_step = e->nr, t.add = s->accumulate;
        for (dl_index j = 0; j < s->out; j += e->nr) {
            t.channels = DL__MIN(s->out - j, e->nr);
            t.w = packed + j * s->kk;
            t.bias = s->bias ? s->bias + group * s->out + j : NULL;
            t.y = y + j * plane_y + y0 * s->out_w;
            DL__CALL(r->level, strip, (&t));
        }
    }
    p.a = x;
    p.row = pixel;
    p.b_step = e->nr;
    p.out_row = nt;
    p.bias_by_row = p.add = p.chained = false;
    for (dl_index c = 0; c < s->classes && !s->along; c++) {
        dl_index step_y = s->back ? q->sh : 1, step_x = s->back ? q->sw : 1, rx = c % step_x;
        dl_index py = dl__round_up(y0 - c / step_x, step_y) + c / step_x, px = rx; /* the class's pixels in the rows */
        const dl_index *begin = s->begin + c * (s->blocks + 1);
        while (py < y1 && rx < s->out_w) {
            dl_index mc = 0, move = s->back ? 1 : q->sw;
            while (mc < s->mc && py < y1) { /* a run within a row */
                dl_index run = DL__MIN(s->mc - mc, (s->out_w - px + step_x - 1) / step_x),
                         at_place = py * s->out_w + px;
                dl_index at_pixel = s->back ? (py / step_y - f.y) * width + px / step_x - f.x
                                            : (py * q->sh - (s->inside ? 0 : q->ph) - f.y) * width + px * q->sw -
                                                  (s->inside ? 0 : q->pw) - f.x;
                for (dl_index i = 0; i < run; i++) {
                    pixel[mc + i] = at_pixel + i * move;
                    place[mc + i] = at_place + i * step_x;
                }
                mc += run;
                if ((px += run * step_x) >= s->out_w) px = rx, py += step_y;
            }
            p.rows = mc;
            for (dl_index b = 0; b < s->blocks; b++) {
                p.kc = begin[b + 1] - begin[b];
                p.at = s->at + begin[b];
                p.more = b > 0;
                for (dl_index j = 0; j < s->out; j += e->nr) {
                    p.cols = DL__MIN(s->out - j, e->nr);
                    p.b = packed + j * s->kk + begin[b] * e->nr;
                    p.out = total + j;
                    p.bias = s->bias && b == s->blocks - 1 ? s->bias + group * s->out + j : NULL;
                    e->panel(&p);
                }
            }
            if (s->classes == 1) e->turn(total, nt, mc, s->out, y + place[0], plane_y, s->accumulate);
            else
                for (dl_index j = 0; j < s->out; j++)
                    for (dl_index i = 0; i < mc; i++) {
                        dl_real *to = y + j * plane_y + place[i];
                        *to = s->accumulate ? *to + total[i * nt + j] : total[i * nt + j];
                    }
        }
    }
    dl__finished_rows(
        r, (size_t)(y - s->y + y0 * s->out_w), (size_t)s->out, (size_t)((y1 - y0) * s->out_w), (size_t)plane_y);
}

static void dl__slide_run(const dl_run_args *r, bool back)
{
    if (!r->node->numel) return;
    dl__slide s = dl__slide_plan(r->node, r->level, back, r->ctx->pool.threads);
    dl_run_args a = *r;
    s.x = (const dl_real *)r->in[0];
    s.weight = (const dl_real *)r->in[1];
    s.bias = r->node->n_in > 2 ? (const dl_real *)r->in[2] : NULL;
    s.y = (dl_real *)r->out;
    s.packed = (dl_real *)r->scratch;
    s.at = (dl_index *)(void *)(s.packed + dl__slide_packed(&s)), s.begin = s.at + s.kk;
    dl__slide_order(&s, s.at, s.begin, NULL, 0, NULL);
    s.accumulate = r->accumulate;
    a.user = &s;
    a.lead = (size_t)(s.out_h * s.out_w);
    dl_parallel(&a, (size_t)(s.groups * ((s.out + s.e->nr - 1) / s.e->nr)), dl__slide_pack);
    dl_parallel(&a, (size_t)(s.q.n * s.groups * s.strips), dl__slide_part);
}

/* The weight gradient: taps of x (channel, ky, kx) are the rows of A, output channels lie in vectors,
   k = (image, y, x) of dy. */
typedef struct dl__taps {
    const dl__products *e;
    dl__geometry q;
    const dl_real *x, *dy;
    dl_real *dw;
    dl_index channels, m, n, kk, mc, nc, slots, frame_h, frame_w; /* a block of k touches at most `slots` images */
    bool inside, accumulate;
} dl__taps;

static dl__taps dl__taps_plan(const dl_node *n, int level, int threads)
{
    /* numbers of a unit's total: each unit turns its dy anew, so units are large, and cut by dy's channels */
    enum { NEAR = 48 << 10 };
    dl__taps s;
    memset(&s, 0, sizeof s);
    dl__geometry q = s.q = dl__geometry_of(n);
    s.e = dl__products_of(level);
    dl_index plane = q.oh * q.ow, rows = q.ow ? DL__MIN(q.oh, (DL__KB + q.ow - 2) / q.ow + 1) : 0;
    dl__frame f = dl__frame_of(&q, false, 0, DL__MAX(rows, (dl_index)1));
    s.inside = dl__frame_of(&q, false, 0, DL__MAX(q.oh, (dl_index)1)).inside;
    s.frame_h = f.h, s.frame_w = f.w;
    s.slots = plane ? DL__MIN(q.n, (DL__KB + plane - 2) / plane + 1) : 1;
    s.channels = q.c / q.groups;
    s.m = s.channels * q.kh * q.kw;
    s.n = q.o / q.groups;
    s.kk = q.n * plane;
    s.nc = dl__evenly(s.n, s.e->mc, s.e->nr);
    s.mc = dl__evenly(s.m, DL__VECTORS ? NEAR / s.nc / s.e->mr * s.e->mr : s.e->mc, s.e->mr);
    for (;;) { /* every thread has a unit; where units are few, all threads have as many */
        dl_index units = q.groups * ((s.m + s.mc - 1) / s.mc) * ((s.n + s.nc - 1) / s.nc);
        bool few = units < threads, uneven = units % threads && units < 4 * threads;
        if (DL__VECTORS && (few || uneven) && s.nc > s.e->nr) s.nc = dl__round_up(s.nc / 2, s.e->nr);
        else if (few && s.mc > s.e->mr) s.mc = dl__round_up(s.mc / 2, s.e->mr);
        else if (few && s.nc > s.e->nr) s.nc = dl__round_up(s.nc / 2, s.e->nr);
        else break;
    }
    return s;
}

static size_t dl__taps_scratch(const dl__taps *s) /* bytes */
{
    dl_index channels =
        DL__MIN(s->channels, (s->mc - 2) / (s->q.kh * s->q.kw) + 2); /* that a unit of work looks at, at most */
    dl_index frames = s->inside ? 0 : s->slots * channels * s->frame_h * s->frame_w + DL__SPARE;
    return sizeof(dl_real) * (size_t)(s->mc * s->nc + DL__KB * s->e->nr + frames) + sizeof(dl_index) * (size_t)s->mc;
}

/* Of the pixels k0 .. k0 + kc of dy: at[], and a frame of x for each of their images. Returns what at[] counts from. */
DL__HOT static const dl_real *dl__taps_frame(const dl__taps *s, int level, const dl_real *x, dl_index channels,
    dl_index k0, dl_index kc, dl_real *frames, dl_index *at)
{
    const dl__geometry *q = &s->q;
    dl_index plane = q->oh * q->ow, plane_f = s->frame_h * s->frame_w;
    for (dl_index k = 0, slot = 0; k < kc; slot++) {
        dl_index image = (k0 + k) / plane, pixel = (k0 + k) % plane, run = DL__MIN(plane - pixel, kc - k);
        dl_index y = pixel / q->ow, ox = pixel % q->ow, base = slot * channels * plane_f, width = s->frame_w, top = y;
        if (s->inside) base = image * q->c * q->h * q->w, width = q->w, top = 0;
        else {
            dl__frame f = dl__frame_of(q, false, y, (pixel + run - 1) / q->ow + 1);
            DL__CALL(level, frame,
                (x + image * q->c * q->h * q->w, channels, q->h, q->w, f.y, f.x, f.h, f.w, frames + base, plane_f));
        }
        for (dl_index i = 0; i < run; i++, k++) {
            at[k] = base + (y - top) * q->sh * width + ox * q->sw;
            if (++ox == q->ow) ox = 0, y++;
        }
    }
    return s->inside ? x : frames;
}

static void dl__taps_part(const dl_run_args *r, size_t part)
{
    const dl__taps *s = (const dl__taps *)r->user;
    const dl__products *e = s->e;
    const dl__geometry *q = &s->q;
    dl_index down = (s->m + s->mc - 1) / s->mc, across = (s->n + s->nc - 1) / s->nc, unit = (dl_index)part;
    dl_index m0 = unit % down * s->mc, n0 = unit / down % across * s->nc, group = unit / down / across;
    dl_index mc = DL__MIN(s->mc, s->m - m0), nc = DL__MIN(s->nc, s->n - n0), taps = q->kh * q->kw,
             plane = q->oh * q->ow;
    dl_index c0 = m0 / taps, channels = (m0 + mc - 1) / taps - c0 + 1, at[DL__KB];
    dl_index width = s->inside ? q->w : s->frame_w, plane_x = s->inside ? q->h * q->w : s->frame_h * width;
    dl_index *tap = (dl_index *)r->scratch;
    dl_real *total = (dl_real *)(void *)(tap + s->mc), *packed = total + s->mc * s->nc,
            *frames = packed + DL__KB * e->nr;
    const dl_real *x = s->x + (group * s->channels + c0) * q->h * q->w;
    dl__panel p;
    for (dl_index i = 0; i < mc; i++) {
        dl_index row = m0 + i, kx = row % q->kw, ky = row / q->kw % q->kh, c = row / taps - c0;
        tap[i] = c * plane_x + ky * q->dh * width + kx * q->dw;
    }
    p.rows = mc;
    p.row = tap;
    p.at = at;
    p.b = packed;
    p.b_step = e->nr;
    p.out_row = s->nc;
    p.bias = NULL;
    p.bias_by_row = p.add = p.chained = false;
    for (dl_index k0 = 0; k0 == 0 || k0 < s->kk; k0 += DL__KB) {
        p.kc = DL__MIN(s->kk - k0, (dl_index)DL__KB);
        p.a = dl__taps_frame(s, r->level, x, channels, k0, p.kc, frames, at);
        p.more = k0 > 0;
        for (dl_index j = 0; j < nc; j += e->nr) {
            p.cols = DL__MIN(nc - j, e->nr);
            for (dl_index k = 0, run; k < p.kc; k += run) { /* dy, pixel by pixel */
                dl_index image = (k0 + k) / plane, pixel = (k0 + k) % plane;
                run = DL__MIN(plane - pixel, p.kc - k);
                e->pack(s->dy + (image * q->o + group * s->n + n0 + j) * plane + pixel, plane, 1, p.cols, run,
                    packed + k * e->nr);
            }
            p.out = total + j;
            e->panel(&p);
        }
    }
    dl_real *dw = s->dw + (group * s->n + n0) * s->m + m0;
    e->turn(total, s->nc, mc, nc, dw, s->m, s->accumulate);
    dl__finished_rows(r, (size_t)(dw - s->dw), (size_t)nc, (size_t)mc, (size_t)s->m);
}

static void dl__conv_run(const dl_run_args *r) { dl__slide_run(r, false); }
static void dl__conv_back_run(const dl_run_args *r) { dl__slide_run(r, true); }
static void dl__conv_weight_run(const dl_run_args *r)
{
    dl__taps s = dl__taps_plan(r->node, r->level, r->ctx->pool.threads);
    dl_run_args a = *r;
    s.x = (const dl_real *)r->in[0];
    s.dy = (const dl_real *)r->in[1];
    s.dw = (dl_real *)r->out;
    s.accumulate = r->accumulate;
    a.user = &s;
    if (r->node->numel)
        dl_parallel(&a, (size_t)(s.q.groups * ((s.m + s.mc - 1) / s.mc) * ((s.n + s.nc - 1) / s.nc)), dl__taps_part);
}

/* The most that any level needs. */
static size_t dl__slide_most(const dl_node *n, bool back)
{
    size_t most = 0;
    for (int level = 0; level <= DL__TOP_LEVEL; level++) {
        dl__slide s = dl__slide_plan(n, level, back, 1);
        most = DL__MAX(most, dl__slide_scratch(&s));
    }
    return most;
}
static size_t dl__conv_scratch(const dl_node *n) { return dl__slide_most(n, false); }
static size_t dl__conv_back_scratch(const dl_node *n) { return dl__slide_most(n, true); }
static size_t dl__conv_weight_scratch(const dl_node *n)
{
    size_t most = 0;
    for (int level = 0; level <= DL__TOP_LEVEL; level++) {
        dl__taps s = dl__taps_plan(n, level, 1);
        most = DL__MAX(most, dl__taps_scratch(&s));
    }
    return most;
}
static void dl__conv_grad(const dl_grad_args *g);
static void dl__conv_back_grad(const dl_grad_args *g);
static void dl__conv_weight_grad(const dl_grad_args *g);
static const dl_op dl__conv_op = { "conv2d", DL_OP_ACCUMULATES | DL_OP_FINISHES, NULL, dl__conv_run, dl__conv_grad,
    dl__conv_scratch, NULL };
static const dl_op dl__conv_back_op = { "conv_transpose2d", DL_OP_ACCUMULATES | DL_OP_FINISHES, NULL, dl__conv_back_run,
    dl__conv_back_grad, dl__conv_back_scratch, NULL };
static const dl_op dl__conv_weight_op = { "conv2d_weight", DL_OP_ACCUMULATES | DL_OP_FINISHES, NULL,
    dl__conv_weight_run, dl__conv_weight_grad, dl__conv_weight_scratch, NULL };

/* One of the three, of a known geometry. */
static dl_tensor dl__conv(const dl_op *op, dl_tensor a, dl_tensor b, dl_tensor bias, const dl_index *geometry)
{
    dl_node *n[3];
    dl_tensor in[3];
    dl__geometry q;
    in[0] = a, in[1] = b, in[2] = bias;
    int inputs = bias.ctx ? 3 : 2;
    dl_context *ctx = dl__operands(op->name, inputs, in, n);
    if (!ctx) return dl__none();
    memcpy(&q, geometry, sizeof q);
    dl_shape s = op == &dl__conv_op ? DL_SHAPE(q.n, q.o, q.oh, q.ow)
        : op == &dl__conv_back_op   ? DL_SHAPE(q.n, q.c, q.h, q.w)
                                    : DL_SHAPE(q.o, q.c / q.groups, q.kh, q.kw);
    dl__extra e = dl__with(DL__GEOMETRY, geometry);
    return dl__record(ctx, op, inputs, n, DL_F32, &s, &e);
}

static void dl__conv_bias_grad(const dl_grad_args *g)
{
    static const int dims[3] = { 0, 2, 3 };
    if (g->node->n_in > 2 && g->want[2]) g->dx[2] = dl_sum_dims(g->dy, dims, 3, false);
}

static void dl__conv_grad(const dl_grad_args *g)
{
    if (g->want[1]) dl__remake(g->x[0]);
    if (g->want[0]) g->dx[0] = dl__conv(&dl__conv_back_op, g->dy, g->x[1], dl__none(), g->node->i);
    if (g->want[1]) g->dx[1] = dl__conv(&dl__conv_weight_op, g->x[0], g->dy, dl__none(), g->node->i);
    dl__conv_bias_grad(g);
}

static void dl__conv_back_grad(const dl_grad_args *g)
{
    if (g->want[0]) g->dx[0] = dl__conv(&dl__conv_op, g->dy, g->x[1], dl__none(), g->node->i);
    if (g->want[1]) g->dx[1] = dl__conv(&dl__conv_weight_op, g->dy, g->x[0], dl__none(), g->node->i);
    dl__conv_bias_grad(g);
}

static void dl__conv_weight_grad(const dl_grad_args *g)
{
    if (g->want[0]) g->dx[0] = dl__conv(&dl__conv_back_op, g->x[1], g->dy, dl__none(), g->node->i);
    if (g->want[1]) g->dx[1] = dl__conv(&dl__conv_op, g->x[0], g->dy, dl__none(), g->node->i);
}

/* Strides, padding and so on of a desc, defaults filled in; false after an error. */
static bool dl__conv_sizes(dl_context *ctx, const char *who, const dl_conv2d_desc *d, dl__geometry *q)
{
    q->sh = d->stride ? d->stride : 1, q->sw = d->stride_w ? d->stride_w : q->sh;
    q->ph = d->padding, q->pw = d->padding_w ? d->padding_w : q->ph;
    q->dh = d->dilation ? d->dilation : 1, q->dw = d->dilation_w ? d->dilation_w : q->dh;
    q->groups = d->groups ? d->groups : 1;
    if (q->sh < 1 || q->sw < 1 || q->dh < 1 || q->dw < 1 || q->groups < 1)
        return dl_fail(ctx, "dl_%s: stride %td, %td, dilation %td, %td and groups %td must be positive", who, q->sh,
            q->sw, q->dh, q->dw, q->groups);
    if (q->ph < 0 || q->pw < 0) return dl_fail(ctx, "dl_%s: padding %td, %td must not be negative", who, q->ph, q->pw);
    return q->sh < 1 << 20 && q->sw < 1 << 20 && q->ph < 1 << 20 && q->pw < 1 << 20 && q->dh < 1 << 20 &&
            q->dw < 1 << 20
        ? true
        : dl_fail(ctx, "dl_%s: stride, padding and dilation must be below a million", who);
}

static bool dl__conv_operands(dl_context *ctx, const char *who, dl_node *const *n, int count)
{
    for (int k = 0; k < count; k++)
        if (!dl__is_float(ctx, who, n[k])) return false;
    if (n[0]->ndim != 4 || n[1]->ndim != 4)
        return dl_fail(ctx, "dl_%s: x and weight have four dimensions, not %S and %S", who, n[0], n[1]);
    return true;
}

static bool dl__conv_bias_fits(dl_context *ctx, const char *who, const dl_node *bias, dl_index channels)
{
    return (bias->ndim == 1 && bias->dim[0] == channels) ||
        dl_fail(ctx, "dl_%s: the bias must be [%td], not %S", who, channels, bias);
}

static dl_tensor dl__conv2d(const char *who, dl_tensor x, dl_tensor w, dl_tensor bias, const dl_conv2d_desc *desc)
{
    dl_node *n[3];
    dl_tensor in[3];
    dl__geometry q;
    dl_conv2d_desc zero;
    in[0] = x, in[1] = w, in[2] = bias;
    memset(&zero, 0, sizeof zero);
    memset(&q, 0, sizeof q);
    dl_context *ctx = dl__operands(who, bias.ctx ? 3 : 2, in, n);
    if (!ctx || !dl__conv_operands(ctx, who, n, bias.ctx ? 3 : 2) || !dl__conv_sizes(ctx, who, desc ? desc : &zero, &q))
        return dl__none();
    q.n = n[0]->dim[0], q.c = n[0]->dim[1], q.h = n[0]->dim[2], q.w = n[0]->dim[3];
    q.o = n[1]->dim[0], q.kh = n[1]->dim[2], q.kw = n[1]->dim[3];
    if (q.c % q.groups || q.o % q.groups || n[1]->dim[1] * q.groups != q.c)
        return dl_fail(ctx,
                   "dl_%s: x %S and weight %S do not fit with groups %td: the weight is [out,in/groups,height,width]",
                   who, n[0], n[1], q.groups),
               dl__none();
    dl_index over_h = q.h + 2 * q.ph - q.dh * (q.kh - 1) - 1, over_w = q.w + 2 * q.pw - q.dw * (q.kw - 1) - 1;
    if (over_h < 0 || over_w < 0 || !q.kh || !q.kw)
        return dl_fail(ctx, "dl_%s: the kernel of %S is larger than the padded image of %S", who, n[1], n[0]),
               dl__none();
    q.oh = over_h / q.sh + 1, q.ow = over_w / q.sw + 1;
    if (bias.ctx && !dl__conv_bias_fits(ctx, who, n[2], q.o)) return dl__none();
    return dl__conv(&dl__conv_op, x, w, bias, (const dl_index *)&q);
}
DL_API dl_tensor dl_conv2d_op(dl_tensor x, dl_tensor w, const dl_conv2d_desc *desc)
{
    return dl__conv2d("conv2d_op", x, w, dl__none(), desc);
}

static dl_tensor dl__conv_transpose2d(
    const char *who, dl_tensor x, dl_tensor w, dl_tensor bias, const dl_conv2d_desc *desc)
{
    dl_node *n[3];
    dl_tensor in[3];
    dl__geometry q;
    dl_conv2d_desc zero;
    in[0] = x, in[1] = w, in[2] = bias;
    memset(&zero, 0, sizeof zero);
    memset(&q, 0, sizeof q);
    if (!desc) desc = &zero;
    dl_context *ctx = dl__operands(who, bias.ctx ? 3 : 2, in, n);
    if (!ctx || !dl__conv_operands(ctx, who, n, bias.ctx ? 3 : 2) || !dl__conv_sizes(ctx, who, desc, &q))
        return dl__none();
    q.n = n[0]->dim[0], q.o = n[0]->dim[1], q.oh = n[0]->dim[2], q.ow = n[0]->dim[3];
    q.c = n[1]->dim[1] * q.groups, q.kh = n[1]->dim[2], q.kw = n[1]->dim[3];
    if (n[1]->dim[0] != q.o || q.o % q.groups)
        return dl_fail(ctx,
                   "dl_%s: x %S and weight %S do not fit with groups %td: the weight is [in,out/groups,height,width]",
                   who, n[0], n[1], q.groups),
               dl__none();
    dl_index oph = desc->output_padding, opw = desc->output_padding_w ? desc->output_padding_w : oph;
    if (oph < 0 || opw < 0 || (oph >= q.sh && oph >= q.dh) || (opw >= q.sw && opw >= q.dw))
        return dl_fail(ctx, "dl_%s: output_padding %td, %td must be smaller than the stride or the dilation", who, oph,
                   opw),
               dl__none();
    q.h = (q.oh - 1) * q.sh - 2 * q.ph + q.dh * (q.kh - 1) + oph + 1;
    q.w = (q.ow - 1) * q.sw - 2 * q.pw + q.dw * (q.kw - 1) + opw + 1;
    if (q.h < 1 || q.w < 1 || !q.kh || !q.kw)
        return dl_fail(ctx, "dl_%s: nothing is left of %S with weight %S and padding %td, %td", who, n[0], n[1], q.ph,
                   q.pw),
               dl__none();
    if (bias.ctx && !dl__conv_bias_fits(ctx, who, n[2], q.c)) return dl__none();
    return dl__conv(&dl__conv_back_op, x, w, bias, (const dl_index *)&q);
}
DL_API dl_tensor dl_conv_transpose2d_op(dl_tensor x, dl_tensor w, const dl_conv2d_desc *desc)
{
    return dl__conv_transpose2d("conv_transpose2d_op", x, w, dl__none(), desc);
}

/* ---- pooling; i = the geometry, then: adaptive ---- */
static void dl__window(
    const dl__geometry *q, bool adaptive, dl_index oy, dl_index ox, dl_index w[4]) /* y0, y1, x0, x1 within the image */
{
    if (adaptive) {
        w[0] = oy * q->h / q->oh, w[1] = ((oy + 1) * q->h + q->oh - 1) / q->oh;
        w[2] = ox * q->w / q->ow, w[3] = ((ox + 1) * q->w + q->ow - 1) / q->ow;
        return;
    }
    w[0] = oy * q->sh - q->ph, w[1] = DL__MIN(w[0] + q->kh, q->h), w[0] = DL__MAX(w[0], (dl_index)0);
    w[2] = ox * q->sw - q->pw, w[3] = DL__MIN(w[2] + q->kw, q->w), w[2] = DL__MAX(w[2], (dl_index)0);
}

/* The outputs first .. end of a row whose tap kx lies in the image. */
static dl_index dl__inside(const dl__geometry *q, dl_index kx, dl_index *end)
{
    dl_index first = kx < q->pw ? (q->pw - kx + q->sw - 1) / q->sw : 0, room = q->w - 1 + q->pw - kx;
    *end = room < 0 ? 0 : DL__MIN(q->ow, room / q->sw + 1);
    return DL__MIN(first, *end);
}

/* Planes are small: a part is some of them. */
enum { DL__POOLED = 4096 };
static size_t dl__planes(const dl__geometry *q)
{
    return (size_t)DL__MAX((dl_index)1, DL__POOLED / DL__MAX(q->h * q->w, (dl_index)1));
}

static void dl__each_plane(
    const dl_run_args *r, size_t part, void (*plane)(const dl_run_args *, const dl__geometry *, dl_index))
{
    dl__geometry q = dl__geometry_of(r->node);
    size_t per = dl__planes(&q), size = r->node->numel / (size_t)(q.n * q.c);
    size_t first = part * per, end = DL__MIN(first + per, (size_t)(q.n * q.c));
    for (size_t k = first; k < end; k++) plane(r, &q, (dl_index)k);
    dl__finished(r, first * size, (end - first) * size);
}

static void dl__run_planes(const dl_run_args *r, void (*part)(const dl_run_args *, size_t))
{
    dl__geometry q = dl__geometry_of(r->node);
    size_t per = dl__planes(&q);
    dl_parallel(r, ((size_t)(q.n * q.c) + per - 1) / per, part);
}

/* Where in its plane the greatest of a window is: the first, and a NaN before all. */
static dl_index dl__greatest(const dl__geometry *q, const dl_real *x, dl_index oy, dl_index ox)
{
    dl_index w[4];
    dl__window(q, false, oy, ox, w);
    dl_index best = w[0] * q->w + w[2];
    for (dl_index iy = w[0]; iy < w[1]; iy++)
        for (dl_index ix = w[2]; ix < w[3]; ix++) {
            dl_real a = x[best], b = x[iy * q->w + ix];
            if (a == a && !(b <= a)) best = iy * q->w + ix;
        }
    return best;
}

/* Windows for the kernels of 2 x 2: rows of a vector, or some that reach into each other. */
static bool dl__is_2x2(const dl__geometry *q)
{
    return q->kh == 2 && q->kw == 2 && q->sh == 2 && q->sw == 2 && !q->ph && !q->pw &&
        (q->ow >= 8 || (q->ow >= 4 && q->oh > 1));
}

/* ---- max: pick(x, v) is v where x is greatest in a window, spread(x, dy) adds dy there. Each is the other's gradient,
   and no index is stored; a greatest place does not change with x, so x itself has no gradient. in: x, v or dy ---- */
static void dl__pick_plane(const dl_run_args *r, const dl__geometry *q, dl_index k)
{
    const dl_real *x = (const dl_real *)r->in[0] + k * q->h * q->w, *v = (const dl_real *)r->in[1] + k * q->h * q->w;
    dl_real *y = (dl_real *)r->out + k * q->oh * q->ow;
    if (x == v && dl__is_2x2(q)) {
        DL__CALL(r->level, max_2x2, (y, x, q->w, q->oh, q->ow));
        return;
    }
    for (dl_index oy = 0; oy < q->oh; oy++, y += q->ow)
        if (x == v) {
            dl_index first, end;
            for (dl_index ox = 0; ox < q->ow; ox++) y[ox] = -HUGE_VALF;
            for (dl_index ky = 0, iy = oy * q->sh - q->ph; ky < q->kh; ky++, iy++)
                for (dl_index kx = 0; iy >= 0 && iy < q->h && kx < q->kw; kx++) {
                    first = dl__inside(q, kx, &end);
                    DL__CALL(r->level, max_to,
                        (y + first, x + iy * q->w + first * q->sw + kx - q->pw, q->sw, end - first));
                }
        } else
            for (dl_index ox = 0; ox < q->ow; ox++) y[ox] = v[dl__greatest(q, x, oy, ox)];
}

static void dl__spread_plane(const dl_run_args *r, const dl__geometry *q, dl_index k)
{
    const dl_real *x = (const dl_real *)r->in[0] + k * q->h * q->w, *dy = (const dl_real *)r->in[1] + k * q->oh * q->ow;
    dl_real *dx = (dl_real *)r->out + k * q->h * q->w;
    if (dl__is_2x2(q)) {
        DL__CALL(r->level, spread_2x2, (dx, x, dy, q->w, q->oh, q->ow));
        if (q->h & 1) memset(dx + (q->h - 1) * q->w, 0, (size_t)q->w * sizeof *dx);
        return;
    }
    memset(dx, 0, (size_t)(q->h * q->w) * sizeof *dx);
    for (dl_index oy = 0; oy < q->oh; oy++, dy += q->ow)
        for (dl_index ox = 0; ox < q->ow; ox++) dx[dl__greatest(q, x, oy, ox)] += dy[ox];
}
static void dl__pick_part(const dl_run_args *r, size_t part) { dl__each_plane(r, part, dl__pick_plane); }
static void dl__spread_part(const dl_run_args *r, size_t part) { dl__each_plane(r, part, dl__spread_plane); }
static void dl__pick_run(const dl_run_args *r) { dl__run_planes(r, dl__pick_part); }
static void dl__spread_run(const dl_run_args *r) { dl__run_planes(r, dl__spread_part); }
static void dl__pick_grad(const dl_grad_args *g);
static void dl__spread_grad(const dl_grad_args *g);
static const dl_op dl__pick_op = { "max_pool2d", DL_OP_FINISHES, NULL, dl__pick_run, dl__pick_grad, NULL, NULL };
static const dl_op dl__spread_op = { "max_pool2d_back", DL_OP_FINISHES, NULL, dl__spread_run, dl__spread_grad, NULL,
    NULL };

/* ---- mean: the numbers of a window are added in order (y, x); of a window that is the whole plane by rule 5 ---- */
static bool dl__is_global(const dl__geometry *q, bool adaptive)
{
    return q->oh == 1 && q->ow == 1 && (adaptive || (q->kh == q->h && q->kw == q->w && !q->ph && !q->pw));
}

static void dl__avg_plane(const dl_run_args *r, const dl__geometry *q, dl_index k)
{
    bool adaptive = r->node->i[DL__GEOMETRY] != 0;
    const dl_real *x = (const dl_real *)r->in[0] + k * q->h * q->w;
    dl_real *y = (dl_real *)r->out + k * q->oh * q->ow, whole = (dl_real)(q->kh * q->kw);
    dl_index w[4], first, end;
    if (dl__is_global(q, adaptive)) {
        *y = DL__CALL(r->level, sum, (x, (size_t)(q->h * q->w))) / (dl_real)(q->h * q->w);
        return;
    }
    memset(y, 0, (size_t)(q->oh * q->ow) * sizeof *y);
    for (dl_index oy = 0; oy < q->oh; oy++, y += q->ow) {
        for (dl_index ox = 0; adaptive && ox < q->ow; ox++) {
            dl__window(q, adaptive, oy, ox, w);
            for (dl_index iy = w[0]; iy < w[1]; iy++)
                for (dl_index ix = w[2]; ix < w[3]; ix++) y[ox] += x[iy * q->w + ix];
            y[ox] /= (dl_real)((w[1] - w[0]) * (w[3] - w[2]));
        }
        if (adaptive) continue;
        for (dl_index ky = 0, iy = oy * q->sh - q->ph; ky < q->kh; ky++, iy++)
            for (dl_index kx = 0; iy >= 0 && iy < q->h && kx < q->kw; kx++) {
                first = dl__inside(q, kx, &end);
                DL__CALL(r->level, add_from,
                    (y + first, x + iy * q->w + first * q->sw + kx - q->pw, q->sw, end - first));
            }
        for (dl_index ox = 0; ox < q->ow; ox++) y[ox] /= whole;
    }
}

static void dl__avg_back_plane(const dl_run_args *r, const dl__geometry *q, dl_index k)
{
    bool adaptive = r->node->i[DL__GEOMETRY] != 0;
    const dl_real *dy = (const dl_real *)r->in[0] + k * q->oh * q->ow;
    dl_real *dx = (dl_real *)r->out + k * q->h * q->w;
    dl_index w[4];
    memset(dx, 0, (size_t)(q->h * q->w) * sizeof *dx);
    for (dl_index oy = 0; oy < q->oh; oy++)
        for (dl_index ox = 0; ox < q->ow; ox++) {
            dl__window(q, adaptive, oy, ox, w);
            dl_real share = *dy++ / (dl_real)(adaptive ? (w[1] - w[0]) * (w[3] - w[2]) : q->kh * q->kw);
            for (dl_index iy = w[0]; iy < w[1]; iy++)
                for (dl_index ix = w[2]; ix < w[3]; ix++) dx[iy * q->w + ix] += share;
        }
}
static void dl__avg_part(const dl_run_args *r, size_t part) { dl__each_plane(r, part, dl__avg_plane); }
static void dl__avg_back_part(const dl_run_args *r, size_t part) { dl__each_plane(r, part, dl__avg_back_plane); }
static void dl__avg_run(const dl_run_args *r) { dl__run_planes(r, dl__avg_part); }
static void dl__avg_back_run(const dl_run_args *r) { dl__run_planes(r, dl__avg_back_part); }
static void dl__avg_grad(const dl_grad_args *g);
static void dl__avg_back_grad(const dl_grad_args *g);
static const dl_op dl__avg_op = { "avg_pool2d", DL_OP_FINISHES, NULL, dl__avg_run, dl__avg_grad, NULL, NULL };
static const dl_op dl__avg_back_op = { "avg_pool2d_back", DL_OP_FINISHES, NULL, dl__avg_back_run, dl__avg_back_grad,
    NULL, NULL };

/* Of max both x and v; v zero for the mean. */
static dl_tensor dl__pooled(const dl_op *op, dl_tensor x, dl_tensor v, const dl_index *i, bool back)
{
    dl_node *n[2];
    dl_tensor in[2];
    dl__geometry q;
    in[0] = x, in[1] = v;
    int count = v.ctx ? 2 : 1;
    dl_context *ctx = dl__operands(op->name, count, in, n);
    if (!ctx) return dl__none();
    memcpy(&q, i, sizeof q);
    dl_shape s = back ? DL_SHAPE(q.n, q.c, q.h, q.w) : DL_SHAPE(q.n, q.c, q.oh, q.ow);
    dl__extra e = dl__with(DL__GEOMETRY + 1, i);
    return dl__record(ctx, op, count, n, DL_F32, &s, &e);
}
static void dl__pick_grad(const dl_grad_args *g)
{
    if (g->want[1]) g->dx[1] = dl__pooled(&dl__spread_op, g->x[0], g->dy, g->node->i, true);
}
static void dl__spread_grad(const dl_grad_args *g)
{
    if (g->want[1]) g->dx[1] = dl__pooled(&dl__pick_op, g->x[0], g->dy, g->node->i, false);
}
static void dl__avg_grad(const dl_grad_args *g)
{
    g->dx[0] = dl__pooled(&dl__avg_back_op, g->dy, dl__none(), g->node->i, true);
}
static void dl__avg_back_grad(const dl_grad_args *g)
{
    g->dx[0] = dl__pooled(&dl__avg_op, g->dy, dl__none(), g->node->i, false);
}

/* The geometry of a pooling; false quietly or after an error. */
static bool dl__pool_geometry(const char *who, dl_tensor x, const dl_pool2d_desc *d, dl_index *i)
{
    dl_node *n;
    dl__geometry q;
    dl_context *ctx = dl__operands(who, 1, &x, &n);
    if (!ctx || !dl__is_float(ctx, who, n)) return false;
    memset(&q, 0, sizeof q);
    if (n->ndim != 4) return dl_fail(ctx, "dl_%s: takes [N,C,H,W], not %S", who, n);
    if (!d || !d->kernel) return dl_fail(ctx, "dl_%s: the desc needs a kernel", who);
    q.n = n->dim[0], q.c = q.o = n->dim[1], q.h = n->dim[2], q.w = n->dim[3], q.groups = q.dh = q.dw = 1;
    q.kh = d->kernel, q.kw = d->kernel_w ? d->kernel_w : q.kh;
    q.sh = d->stride ? d->stride : q.kh, q.sw = d->stride_w ? d->stride_w : d->stride ? q.sh : q.kw;
    q.ph = d->padding, q.pw = d->padding_w ? d->padding_w : q.ph;
    if (q.kh < 1 || q.kw < 1 || q.sh < 1 || q.sw < 1)
        return dl_fail(ctx, "dl_%s: kernel %td, %td and stride %td, %td must be positive", who, q.kh, q.kw, q.sh, q.sw);
    if (q.ph < 0 || q.pw < 0 || q.ph > q.kh / 2 || q.pw > q.kw / 2)
        return dl_fail(
            ctx, "dl_%s: padding %td, %td must be at most half the kernel %td, %td", who, q.ph, q.pw, q.kh, q.kw);
    if (q.h + 2 * q.ph < q.kh || q.w + 2 * q.pw < q.kw)
        return dl_fail(ctx, "dl_%s: the kernel %td, %td is larger than the padded image of %S", who, q.kh, q.kw, n);
    q.oh = (q.h + 2 * q.ph - q.kh) / q.sh + 1, q.ow = (q.w + 2 * q.pw - q.kw) / q.sw + 1;
    memcpy(i, &q, sizeof q);
    i[DL__GEOMETRY] = 0;
    return true;
}

DL_API dl_tensor dl_max_pool2d(dl_tensor x, const dl_pool2d_desc *desc)
{
    dl_index i[DL__GEOMETRY + 1];
    return dl__pool_geometry("max_pool2d", x, desc, i) ? dl__pooled(&dl__pick_op, x, x, i, false) : dl__none();
}

DL_API dl_tensor dl_avg_pool2d(dl_tensor x, const dl_pool2d_desc *desc)
{
    dl_index i[DL__GEOMETRY + 1];
    return dl__pool_geometry("avg_pool2d", x, desc, i) ? dl__pooled(&dl__avg_op, x, dl__none(), i, false) : dl__none();
}

DL_API dl_tensor dl_adaptive_avg_pool2d(dl_tensor x, dl_index height, dl_index width)
{
    dl_node *n;
    dl__geometry q;
    dl_index i[DL__GEOMETRY + 1];
    dl_context *ctx = dl__operands("adaptive_avg_pool2d", 1, &x, &n);
    if (!ctx || !dl__is_float(ctx, "adaptive_avg_pool2d", n)) return dl__none();
    if (n->ndim != 4) return dl_fail(ctx, "dl_adaptive_avg_pool2d: takes [N,C,H,W], not %S", n), dl__none();
    if (height < 1 || width < 1)
        return dl_fail(ctx, "dl_adaptive_avg_pool2d: the sizes %td, %td must be positive", height, width), dl__none();
    memset(&q, 0, sizeof q);
    q.n = n->dim[0], q.c = q.o = n->dim[1], q.h = n->dim[2], q.w = n->dim[3], q.oh = height, q.ow = width,
    q.kh = q.kw = q.groups = 1;
    if ((!q.h || !q.w) && q.n && q.c) return dl_fail(ctx, "dl_adaptive_avg_pool2d: an empty image %S", n), dl__none();
    memcpy(i, &q, sizeof q);
    i[DL__GEOMETRY] = 1;
    return dl__pooled(&dl__avg_op, x, dl__none(), i, false);
}

/* ==== >>normalisation ====
   softmax, normalisation, attention, segments.
   may use: products */

/* ---- softmax and log_softmax over the last dimension ---- */
enum { DL__SOFTMAX_ROWS = 16 };
static void dl__softmax_part(const dl_run_args *r, size_t part)
{
    const dl_node *y = r->node;
    size_t n = (size_t)y->dim[y->ndim - 1], rows = y->numel / n;
    for (size_t k = part * DL__SOFTMAX_ROWS; k < DL__MIN(rows, (part + 1) * DL__SOFTMAX_ROWS); k++)
        DL__CALL(r->level, softmax_row, ((dl_real *)r->out + k * n, (const dl_real *)r->in[0] + k * n, n));
}

static void dl__log_softmax_part(const dl_run_args *r, size_t part)
{
    const dl_node *y = r->node;
    size_t n = (size_t)y->dim[y->ndim - 1], rows = y->numel / n;
    for (size_t k = part * DL__SOFTMAX_ROWS; k < DL__MIN(rows, (part + 1) * DL__SOFTMAX_ROWS); k++)
        DL__CALL(r->level, log_softmax_row, ((dl_real *)r->out + k * n, (const dl_real *)r->in[0] + k * n, n));
}

static void dl__softmax_run(const dl_run_args *r)
{
    const dl_node *y = r->node;
    if (y->numel)
        dl_parallel(r, (y->numel / (size_t)y->dim[y->ndim - 1] + DL__SOFTMAX_ROWS - 1) / DL__SOFTMAX_ROWS,
            y->i[0] ? dl__log_softmax_part : dl__softmax_part);
}

static void dl__softmax_grad(const dl_grad_args *g)
{
    static const int last = -1;
    if (g->node->i[0]) g->dx[0] = dl_sub(g->dy, dl_mul(dl_exp(g->y), dl_sum_dims(g->dy, &last, 1, true)));
    else g->dx[0] = dl_mul(g->y, dl_sub(g->dy, dl_sum_dims(dl_mul(g->dy, g->y), &last, 1, true)));
}
static const dl_op dl__softmax_op = { "softmax", 0, NULL, dl__softmax_run, dl__softmax_grad, NULL, NULL };

static dl_tensor dl__softmax(const char *who, dl_tensor x, int dim, bool log)
{
    dl_node *n;
    dl_index is_log = log;
    dl_context *ctx = dl__operands(who, 1, &x, &n);
    if (!ctx || !dl__is_float(ctx, who, n)) return dl__none();
    if (!n->ndim) return dl_reshape(dl__softmax(who, dl_reshape(x, DL_SHAPE(1)), 0, log), DL_SCALAR);
    int d = dl__axis(ctx, who, dim, n->ndim);
    if (d < 0) return dl__none();
    if (d != n->ndim - 1) return dl_transpose(dl__softmax(who, dl_transpose(x, d, -1), -1, log), d, -1);
    dl_shape s = dl__shape(n);
    dl__extra e = dl__with(1, &is_log);
    return dl__record(ctx, &dl__softmax_op, 1, &n, DL_F32, &s, &e);
}
DL_API dl_tensor dl_softmax(dl_tensor x, int dim) { return dl__softmax("softmax", x, dim, false); }
DL_API dl_tensor dl_log_softmax(dl_tensor x, int dim) { return dl__softmax("log_softmax", x, dim, true); }

/* ---- normalisation: (x - mean) / sqrt(var + eps) over dims; moments: mean, 1 / sqrt(var + eps), var.
   As a formula: ---- */
static dl_tensor dl__normalise(dl_tensor x, const int *dims, int n, float eps, dl_tensor *moments)
{
    moments[0] = dl_mean_dims(x, dims, n, true);
    dl_tensor d = dl_sub(x, moments[0]);
    moments[2] = dl_mean_dims(dl_square(d), dims, n, true);
    moments[1] = dl_rsqrt(dl_add_scalar(moments[2], eps));
    return dl_mul(d, moments[1]);
}

/* ---- and as operations: x [outer, channels, inner] is normalised by channels, or by rows of inner; i: sizes, flags.
       y: of x, saved, w or none, b or none
       dx: of dy, x, saved, w or none, sums or none
       sums [2, weights], the gradients of b and w: of dy, x, saved
   An operation that visits a group anyway fills in what is saved of it, too, while it is in the cache: the nodes
   `moments` and, with a dx, `sums` are its further outputs and compute nothing themselves. Given as inputs they live
   just as long as they are read, and y no longer than it is. ---- */
enum { DL__BY_ROW = 1, DL__SCALED = 2, DL__SHIFTED = 4, DL__MAKES_SUMS = 8, DL__HAS_MOMENTS = 16 };
typedef struct dl__groups {
    size_t groups, runs, n, stride; /* group k: `runs` runs of n, `stride` apart, from k * n on */
    size_t per, parts;              /* groups of a part */
    dl_real share, eps;             /* share: 1 / numbers of a group */
    bool by_row, has_moments;
    const dl_real *dy, *x, *w, *b;
    dl_real *y, *saved, *sums, *partial; /* saved: mean, 1 / sqrt(var + eps), by channels also var: a row each */
} dl__groups;

static dl__groups dl__groups_of(const dl_node *n)
{
    dl__groups q;
    memset(&q, 0, sizeof q);
    q.by_row = (n->i[3] & DL__BY_ROW) != 0;
    q.has_moments = (n->i[3] & DL__HAS_MOMENTS) != 0;
    q.groups = (size_t)(q.by_row ? n->i[0] : n->i[1]);
    q.runs = q.by_row ? 1 : (size_t)n->i[0];
    q.n = (size_t)n->i[2];
    q.stride = (size_t)(n->i[1] * n->i[2]);
    q.per = !q.by_row                ? 1
        : n->i[3] & DL__MAKES_SUMS ? (size_t)DL__KB /* the blocks of rule 6 */
                                     : DL__MAX((size_t)1, (size_t)DL__CHUNK / DL__MAX(q.n, (size_t)1));
    q.parts = (q.groups + q.per - 1) / q.per;
    q.share = (dl_real)(1.0 / ((double)q.runs * (double)q.n));
    q.eps = n->f[0];
    return q;
}

static void dl__norm_part(const dl_run_args *r, size_t part)
{
    const dl__groups *q = (const dl__groups *)r->user;
    size_t first = part * q->per, end = DL__MIN(q->groups, first + q->per);
    for (size_t k = first; k < end; k++) {
        dl_real m[3], *saved = q->saved + k;
        if (!q->has_moments) {
            DL__CALL(r->level, moments, (m, q->x + k * q->n, q->runs, q->n, q->stride, q->share, q->eps));
            for (size_t i = 0; i < (q->by_row ? 2 : 3); i++) saved[i * q->groups] = m[i];
        }
        if (!q->by_row) continue;
        DL__CALL(
            r->level, normalise_row, (q->y + k * q->n, q->x + k * q->n, q->n, *saved, saved[q->groups], q->w, q->b));
        dl__finished(r, k * q->n, q->n);
    }
    for (size_t i = 0; !q->by_row && i < q->runs; i++) {
        for (size_t k = first; k < end; k++) {
            size_t at = k * q->n + i * q->stride;
            DL__CALL(r->level, normalise_run,
                (q->y + at, q->x + at, q->n, q->saved[k], q->saved[q->groups + k], q->w ? q->w + k : NULL,
                    q->b ? q->b + k : NULL, r->lead));
        }
        dl__finished(r, first * q->n + i * q->stride, (end - first) * q->n);
    }
}

static void dl__norm_run(const dl_run_args *r)
{
    dl_run_args a = *r;
    dl__groups q = dl__groups_of(r->node);
    int k = 2;
    q.x = (const dl_real *)r->in[0];
    q.saved = (dl_real *)(uintptr_t)r->in[1];
    if (r->node->i[3] & DL__SCALED) q.w = (const dl_real *)r->in[k++];
    if (r->node->i[3] & DL__SHIFTED) q.b = (const dl_real *)r->in[k];
    q.y = (dl_real *)r->out;
    a.user = &q;
    if (!q.by_row) { /* channels side by side, enough for a tile of what follows and few enough for all threads */
        q.per = DL__MIN((size_t)DLTRAIN_TILE / DL__MAX(q.n, (size_t)1), q.groups / (2 * (size_t)r->ctx->pool.threads));
        q.per = DL__MAX(q.per, (size_t)1);
        q.parts = (q.groups + q.per - 1) / q.per;
        a.lead = dl__lead(q.per * q.n, q.stride);
    }
    dl_parallel(&a, q.parts, dl__norm_part);
}

static void dl__norm_back_channel(const dl_run_args *r, size_t k)
{
    const dl__groups *q = (const dl__groups *)r->user;
    dl_real m = q->saved[k], scale = q->saved[q->groups + k], slope = q->w ? q->w[k] * scale : scale, s[2];
    size_t at = k * q->n;
    DL__CALL(r->level, normalise_sums, (s, q->dy + at, q->x + at, q->runs, q->n, q->stride, m, scale));
    if (q->sums) q->sums[k] = s[0], q->sums[q->groups + k] = s[1];
    for (size_t i = 0; q->y && i < q->runs; i++, at += q->stride) {
        DL__CALL(r->level, normalise_back,
            (q->y + at, q->dy + at, q->x + at, q->n, m, scale, slope, s[0] * q->share, s[1] * q->share,
                dl__lead(q->n, q->stride)));
        dl__finished(r, at, q->n);
    }
}

static void dl__norm_back_rows(const dl_run_args *r, size_t part)
{
    const dl__groups *q = (const dl__groups *)r->user;
    dl_real *sums = q->parts > 1 && q->sums ? q->partial + part * 2 * q->n : q->sums;
    if (sums) memset(sums, 0, 2 * q->n * sizeof *sums);
    for (size_t k = part * q->per; k < DL__MIN(q->groups, (part + 1) * q->per); k++) {
        const dl_real *dy = q->dy + k * q->n, *x = q->x + k * q->n, *g = dy;
        dl_real m = q->saved[k], scale = q->saved[q->groups + k], s[2], *dx = q->y + k * q->n;
        if (sums) DL__CALL(r->level, normalise_weights, (sums, sums + q->n, dy, x, q->n, m, scale));
        if (!q->y) continue;
        if (q->w) {
            DL__CALL(r->level, multiply, (dx, dy, q->w, q->n));
            g = dx;
        }
        DL__CALL(r->level, normalise_sums, (s, g, x, 1, q->n, q->n, m, scale));
        DL__CALL(
            r->level, normalise_back, (dx, g, x, q->n, m, scale, scale, s[0] * q->share, s[1] * q->share, DL__AHEAD));
        dl__finished(r, k * q->n, q->n);
    }
}

/* dx, sums or both. */
static void dl__norm_backward(const dl_run_args *r, dl_real *dx, dl_real *sums, const dl_real *w)
{
    dl_run_args a = *r;
    dl__groups q = dl__groups_of(r->node);
    q.dy = (const dl_real *)r->in[0];
    q.x = (const dl_real *)r->in[1];
    q.saved = (dl_real *)(uintptr_t)r->in[2];
    q.w = w;
    q.y = dx;
    q.sums = sums;
    q.partial = (dl_real *)r->scratch;
    a.user = &q;
    if (q.by_row && sums) memset(sums, 0, 2 * q.n * sizeof *sums);
    dl_parallel(&a, q.parts, q.by_row ? dl__norm_back_rows : dl__norm_back_channel);
    for (size_t k = 0; q.by_row && sums && q.parts > 1 && k < q.parts; k++)
        if (k) DL__CALL(r->level, add_to, (sums, q.partial + k * 2 * q.n, 2 * q.n));
        else memcpy(sums, q.partial, 2 * q.n * sizeof *sums);
}
static size_t dl__norm_back_scratch(const dl_node *n) /* sums of blocks */
{
    dl__groups q = dl__groups_of(n);
    return q.by_row && n->i[3] & DL__MAKES_SUMS && q.parts > 1 ? q.parts * 2 * q.n * sizeof(dl_real) : 0;
}

static void dl__norm_back_run(const dl_run_args *r)
{
    int k = 3;
    const dl_real *w = r->node->i[3] & DL__SCALED ? (const dl_real *)r->in[k++] : NULL;
    dl__norm_backward(r, (dl_real *)r->out, r->node->i[3] & DL__MAKES_SUMS ? (dl_real *)(uintptr_t)r->in[k] : NULL, w);
}
static void dl__norm_sums_run(const dl_run_args *r)
{
    if (r->node->i[3] & DL__MAKES_SUMS) dl__norm_backward(r, NULL, (dl_real *)r->out, NULL);
    else memset(r->out, 0, dl__bytes(r->node));
}
static void dl__moments_run(const dl_run_args *r) { memset(r->out, 0, dl__bytes(r->node)); }
static void dl__norm_grad(const dl_grad_args *g);
static void dl__norm_back_grad(const dl_grad_args *g);
static void dl__norm_sums_grad(const dl_grad_args *g);
static const dl_op dl__moments_op = { "moments", DL__OP_LATER, NULL, dl__moments_run, NULL, NULL, NULL };
static const dl_op dl__batch_norm_op = { "batch_norm", DL_OP_FINISHES, NULL, dl__norm_run, dl__norm_grad, NULL, NULL };
static const dl_op dl__layer_norm_op = { "layer_norm", 0, NULL, dl__norm_run, dl__norm_grad, NULL, NULL };
static const dl_op dl__norm_back_op = { "norm_back", DL_OP_FINISHES, NULL, dl__norm_back_run, dl__norm_back_grad,
    dl__norm_back_scratch, NULL };
static const dl_op dl__norm_sums_op = { "norm_sums", DL__OP_LATER, NULL, dl__norm_sums_run, dl__norm_sums_grad,
    dl__norm_back_scratch, NULL };

/* All of it, by an operation that follows; until then a device may leave there what was there. */
static bool dl__written_later(const dl_node *n)
{
    return n->op->flags & DL__OP_LATER && !(n->i[3] & DL__MAKES_SUMS);
}

/* The value of batch_norm, or of one elementwise operation on it, made again for the backward pass. What it is made of,
   x and the moments, is there for the gradient of x; so the value need not lie in memory from the forward pass on.
   A pass over x is little beside the convolution that reads the value. ResNets get by with three quarters
   of the memory. */
static void dl__norm_again(dl_context *ctx, dl_node *n)
{
    bool norm = n->op == &dl__batch_norm_op, behind = n->op->flags & DL_OP_ELEMENTWISE && n->n_in == 1;
    dl_index i[4];
    if (!norm && !(behind && n->in[0]->op == &dl__batch_norm_op)) return;
    if (n->again || n->id < ctx->done || !(n->flags & DL__REQUIRES) || n->flags & DL__KEPT || ctx->config.eager ||
        n->numel < DLTRAIN_TILE)
        return;
    if (behind) dl__norm_again(ctx, n->in[0]);
    dl__extra e = dl__with(n->n_i, n->i);
    dl_shape s = dl__shape(n);
    if (norm) {
        memcpy(i, n->i, sizeof i);
        i[3] |= DL__HAS_MOMENTS;
        e.i = i;
    }
    memcpy(e.f, n->f, sizeof e.f);
    e.counter = n->counter;
    n->again = dl__record(ctx, n->op, n->n_in, n->in, n->dtype, &s, &e).node;
}

/* i: sizes and by row or not; `saved` takes the node of the moments. */
static dl_tensor dl__norm(
    const dl_op *op, dl_tensor x, dl_tensor w, dl_tensor b, dl_index *i, float eps, dl_tensor *saved)
{
    dl_node *n[4];
    dl_tensor in[4];
    int count = 2;
    dl_context *ctx = dl__operands(op->name, 1, &x, n);
    if (!ctx) return dl__none();
    dl_shape s = dl__shape(n[0]), moments = i[3] & DL__BY_ROW ? DL_SHAPE(2, i[0]) : DL_SHAPE(3, i[1]);
    in[0] = x;
    in[1] = *saved = dl__record(ctx, &dl__moments_op, 1, n, DL_F32, &moments, NULL);
    if (w.ctx) in[count++] = w, i[3] |= DL__SCALED;
    if (b.ctx) in[count++] = b, i[3] |= DL__SHIFTED;
    if (!dl__operands(op->name, count, in, n)) return dl__none();
    dl__extra e = dl__with(4, i);
    e.f[0] = eps;
    return dl__record(ctx, op, count, n, DL_F32, &s, &e);
}

static void dl__norm_grad(const dl_grad_args *g)
{
    dl_node *n[5];
    dl_tensor in[5];
    dl_index i[4];
    memcpy(i, g->node->i, sizeof i);
    int w = i[3] & DL__SCALED ? 2 : 0, b = i[3] & DL__SHIFTED ? g->node->n_in - 1 : 0, count = 3;
    bool sums = (w && g->want[w]) || (b && g->want[b]);
    in[0] = g->dy, in[1] = g->x[0], in[2] = g->x[1];
    dl_context *ctx = dl__operands(g->node->op->name, 3, in, n);
    if (!ctx) return;
    dl__extra e = dl__with(4, i);
    e.f[0] = g->node->f[0];
    dl_shape s = dl__shape(g->node), two = DL_SHAPE(2, i[3] & DL__BY_ROW ? i[2] : i[1]);
    dl_tensor total = dl__none();
    i[3] &= DL__BY_ROW;
    if (sums) {
        if (!g->want[0]) i[3] |= DL__MAKES_SUMS;
        total = dl__record(ctx, &dl__norm_sums_op, 3, n, DL_F32, &two, &e);
    }
    if (g->want[0]) {
        if (w) in[count++] = g->x[w], i[3] |= DL__SCALED;
        if (sums) in[count++] = total, i[3] |= DL__MAKES_SUMS;
        if (!dl__operands(g->node->op->name, count, in, n)) return;
        g->dx[0] = dl__record(ctx, &dl__norm_back_op, count, n, DL_F32, &s, &e);
    }
    if (w && g->want[w]) g->dx[w] = dl_reshape(dl_slice(total, 0, 1, 2, 1), dl__shape(g->node->in[w]));
    if (b && g->want[b]) g->dx[b] = dl_reshape(dl_slice(total, 0, 0, 1, 1), dl__shape(g->node->in[b]));
}

/* Second derivatives, of dx or of the sums: the same as a formula of dy, x and w, differentiated. Its inputs are views
   made for it, so that the derivative ends at them; what is saved is a function of x in it. */
static void dl__norm_second(const dl_grad_args *g, bool of_sums)
{
    static const int both[2] = { 0, 2 }, at[3] = { 0, 1, 3 };
    const dl_index *i = g->node->i;
    bool by_row = (i[3] & DL__BY_ROW) != 0, was = dl_set_grad(g->dy.ctx, true);
    const int *dims = both + by_row;
    int nd = by_row ? 1 : 2, n = 0;
    dl_shape s = DL_SHAPE(i[0], i[1], i[2]), per = by_row ? DL_SHAPE(1, 1, i[2]) : DL_SHAPE(1, i[1], 1);
    dl_tensor in[3], wanted[3], dx[3], m[3];
    for (int k = 0; k < (i[3] & DL__SCALED ? 3 : 2); k++) {
        in[k] = dl__view(&dl__reshape_op, g->dy.ctx, g->node->in[at[k]], k < 2 ? &s : &per);
        if (g->want[at[k]]) wanted[n++] = in[k];
    }
    dl_tensor y = dl__normalise(in[1], dims, nd, (float)g->node->f[0], m);
    if (of_sums) {
        dl_tensor db = dl_reshape(dl_slice(g->dy, 0, 0, 1, 1), per), dw = dl_reshape(dl_slice(g->dy, 0, 1, 2, 1), per);
        dl_tensor sum = dl_add(dl_mul(y, dw), db);
        y = dl_mul(in[0], sum);
    } else {
        dl_tensor dy = i[3] & DL__SCALED ? dl_mul(in[0], in[2]) : in[0];
        dl_tensor slope = dl_mul(y, dl_mean_dims(dl_mul(dy, y), dims, nd, true));
        y = dl_mul(dl_sub(dl_sub(dy, dl_mean_dims(dy, dims, nd, true)), slope), dl_mul(m[1], dl_reshape(g->dy, s)));
    }
    if (dl_grad(dl_sum(y), wanted, n, dx))
        for (int k = n = 0; k < (i[3] & DL__SCALED ? 3 : 2); k++)
            if (g->want[at[k]]) g->dx[at[k]] = dl_reshape(dx[n++], dl__shape(g->node->in[at[k]]));
    dl_set_grad(g->dy.ctx, was);
}
static void dl__norm_back_grad(const dl_grad_args *g) { dl__norm_second(g, false); }
static void dl__norm_sums_grad(const dl_grad_args *g) { dl__norm_second(g, true); }

/* y w + b, either absent; both reshaped to `s`. */
static dl_tensor dl__scale_shift(dl_tensor y, dl_tensor w, dl_tensor b, dl_shape s)
{
    if (w.ctx) y = dl_mul(y, dl_reshape(w, s));
    if (b.ctx) y = dl_add(y, dl_reshape(b, s));
    return y;
}

/* The operand, when it is given, must be [size]. */
static bool dl__is_vector(dl_context *ctx, const char *who, const char *what, dl_tensor t, dl_index size)
{
    dl_node *n;
    dl_tensor in[1];
    in[0] = t;
    if (!t.ctx) return true;
    if (t.ctx != ctx) return dl_fail(ctx, "dl_%s: %s is a tensor of another context", who, what);
    if (!dl__operands(who, 1, in, &n) || !dl__is_float(ctx, who, n)) return false;
    return (n->ndim == 1 && n->dim[0] == size) || dl_fail(ctx, "dl_%s: %s must be [%td], not %S", who, what, size, n);
}

/* buffer = (1 - momentum) buffer + momentum scale batch, in place */
static void dl__running_run(const dl_run_args *r)
{
    dl_real *y = (dl_real *)r->out, momentum = r->node->f[0], scale = r->node->f[1];
    const dl_real *x = (const dl_real *)r->in[1];
    for (size_t i = 0; i < r->node->numel; i++) y[i] = (1 - momentum) * y[i] + momentum * (x[i] * scale);
}
static const dl_op dl__running_op = { "running", 0, NULL, dl__running_run, NULL, NULL, NULL };

static void dl__track(dl_tensor buffer, dl_tensor batch, float momentum, double scale)
{
    dl_node *n[2];
    dl_tensor in[2];
    dl_index offset = 0;
    in[0] = buffer;
    in[1] = dl_detach(batch);
    dl_context *ctx = dl__operands("batch_norm", 2, in, n);
    if (!ctx) return;
    dl_shape s = dl__shape(n[0]);
    dl__extra e = dl__with(1, &offset);
    e.flags = DL__VIEW | DL__EFFECT;
    e.f[0] = momentum;
    e.f[1] = (dl_real)scale;
    dl__record(ctx, &dl__running_op, 2, n, DL_F32, &s, &e);
}

static dl_tensor dl__batch_norm(
    const char *who, dl_tensor x, dl_tensor w, dl_tensor b, dl_tensor mean, dl_tensor var, float momentum, float eps)
{
    static const int dims = 0;
    dl_node *n;
    dl_context *ctx = dl__operands(who, 1, &x, &n);
    if (!ctx || !dl__is_float(ctx, who, n)) return dl__none();
    if (n->ndim < 2) return dl_fail(ctx, "dl_%s: takes [N,C,...], not %S", who, n), dl__none();
    dl_index c = n->dim[1];
    if (!dl__is_vector(ctx, who, "weight", w, c) || !dl__is_vector(ctx, who, "bias", b, c) ||
        !dl__is_vector(ctx, who, "running_mean", mean, c) || !dl__is_vector(ctx, who, "running_var", var, c))
        return dl__none();
    dl_tensor track[2];
    track[0] = mean, track[1] = var;
    for (int k = 0; k < 2 && ctx->training; k++)
        if (track[k].ctx && ctx->node[track[k].node]->space != DL__BUFFERS)
            return dl_fail(ctx,
                       "dl_%s: training changes running statistics: they must be buffers, dl_parameter with .buffer",
                       who),
                   dl__none();
    dl_shape s = DL_SCALAR, whole = dl__shape(n);
    s.ndim = n->ndim;
    dl_index size[4] = { n->dim[0], c, 1, 0 };
    for (int i = 0; i < n->ndim; i++) s.dim[i] = i == 1 ? c : 1;
    for (int i = 2; i < n->ndim; i++) size[2] *= n->dim[i];
    if (!ctx->training && mean.ctx && var.ctx) {
        dl_tensor scale = dl_rsqrt(dl_add_scalar(var, eps));
        if (w.ctx) scale = dl_mul(scale, w);
        return dl__scale_shift(dl_sub(x, dl_reshape(mean, s)), scale, b, s);
    }
    double per = (double)size[0] * (double)size[2];
    if (ctx->training && per == 1)
        return dl_fail(ctx,
                   "dl_%s: one value a channel in %S has no variance; train with more, or call dl_train(ctx, false)",
                   who, n),
               dl__none();
    dl_tensor saved, y, m[3];
    if (size[2] == 1) { /* the vectors lie across the channels */
        y = dl__normalise(dl_reshape(x, DL_SHAPE(size[0], c)), &dims, 1, eps, m);
        y = dl_reshape(dl__scale_shift(y, w, b, DL_SHAPE(c)), whole);
    } else {
        y = dl__norm(&dl__batch_norm_op, x, w, b, size, eps, &saved);
        ctx->remake = dl__norm_again;
    }
    for (int k = 0; k < 2 && ctx->training && per > 1; k++) { /* an empty batch leaves the statistics */
        int row = 2 * k; /* of the moments */
        if (!track[k].ctx) continue;
        dl_tensor of = size[2] == 1 ? m[row] : dl_slice(saved, 0, row, row + 1, 1);
        dl__track(track[k], dl_reshape(of, DL_SHAPE(c)), momentum, k ? per / (per - 1) : 1);
    }
    return y;
}
DL_API dl_tensor dl_batch_norm_op(
    dl_tensor x, dl_tensor w, dl_tensor b, dl_tensor mean, dl_tensor var, float momentum, float eps)
{
    return dl__batch_norm("batch_norm_op", x, w, b, mean, var, momentum, eps);
}

/* ---- over the ranks of a world ---- */
/* y = the sum of the ranks' x. The loss of every rank depends on it, so its gradient is the sum of theirs. */
static void dl__world_sum_run(const dl_run_args *r)
{
    const void *x = dl__host_in(r, 0);
    if (!x) return;
    memcpy(r->out, x, dl__bytes(r->node));
    r->ctx->replica->sum(r->ctx, (dl_real *)r->out, r->node->numel);
}
static void dl__world_sum_grad(const dl_grad_args *g);
static const dl_op dl__world_sum_op = { "world_sum", DL__OP_ON_HOST, NULL, dl__world_sum_run, dl__world_sum_grad, NULL,
    NULL };

static dl_tensor dl__world_sum(dl_tensor x)
{
    dl_node *n;
    dl_context *ctx = dl__operands("batch_norm", 1, &x, &n);
    if (!ctx) return dl__none();
    dl_shape s = dl__shape(n);
    return dl__record(ctx, &dl__world_sum_op, 1, &n, DL_F32, &s, NULL);
}
static void dl__world_sum_grad(const dl_grad_args *g) { g->dx[0] = dl__world_sum(g->dy); }

/* batch_norm over the samples of all ranks, however many each has: sums and count, then the sum of squares about
   the mean. Two collectives forward and two back, which every rank runs in the order of its tape. x [N,C,...] of
   a context of a world. */
static dl_tensor dl__sync_batch_norm(
    dl_tensor x, dl_tensor w, dl_tensor b, dl_tensor mean, dl_tensor var, float momentum, float eps)
{
    static const int dims[2] = { 0, 2 };
    dl_shape whole = dl_shape_of(x);
    dl_index c = whole.dim[1], inner = 1;
    for (int i = 2; i < whole.ndim; i++) inner *= whole.dim[i];
    dl_shape by_channel = DL_SHAPE(1, c, 1);
    dl_tensor x3 = dl_reshape(x, DL_SHAPE(whole.dim[0], c, inner)), part[2];
    part[0] = dl_sum_dims(x3, dims, 2, false);
    part[1] = dl_full(x.ctx, DL_SHAPE(1), (float)(whole.dim[0] * inner));
    dl_tensor sums = dl__world_sum(dl_concat(part, 2, 0)), count = dl_detach(dl_slice(sums, 0, c, c + 1, 1));
    dl_tensor m = dl_div(dl_slice(sums, 0, 0, c, 1), count), d = dl_sub(x3, dl_reshape(m, by_channel));
    dl_tensor squares = dl__world_sum(dl_sum_dims(dl_square(d), dims, 2, false)), v = dl_div(squares, count);
    dl_tensor y = dl_mul(d, dl_reshape(dl_rsqrt(dl_add_scalar(v, eps)), by_channel));
    dl__track(mean, m, momentum, 1);
    dl__track(var, dl_div(squares, dl_clamp(dl_add_scalar(count, -1), 1, FLT_MAX)), momentum, 1);
    return dl_reshape(dl__scale_shift(y, w, b, by_channel), whole);
}

DL_API dl_tensor dl_layer_norm_op(dl_tensor x, dl_tensor w, dl_tensor b, float eps)
{
    dl_node *n[3];
    dl_tensor in[3];
    dl_index size[4] = { 1, 1, 1, DL__BY_ROW };
    int count = 0, last = 1;
    in[count++] = x;
    if (w.ctx) in[count++] = w;
    if (b.ctx) in[count++] = b;
    dl_context *ctx = dl__operands("layer_norm_op", count, in, n);
    for (int k = 0; ctx && k < count; k++)
        if (!dl__is_float(ctx, "layer_norm_op", n[k])) return dl__none();
    if (!ctx) return dl__none();
    if (count > 1) last = n[1]->ndim;
    if (!n[0]->ndim || last > n[0]->ndim || !last)
        return dl_fail(
                   ctx, "dl_layer_norm_op: takes one dimension or more, and no more in the weight than in x %S", n[0]),
               dl__none();
    for (int k = 1; k < count; k++) {
        bool fits = n[k]->ndim == last;
        for (int i = 0; fits && i < last; i++) fits = n[k]->dim[i] == n[0]->dim[n[0]->ndim - last + i];
        if (!fits && k == 1)
            return dl_fail(ctx, "dl_layer_norm_op: %s %S does not fit the last dimensions of x %S",
                       w.ctx ? "weight" : "bias", n[1], n[0]),
                   dl__none();
        if (!fits) return dl_fail(ctx, "dl_layer_norm_op: bias %S differs from weight %S", n[2], n[1]), dl__none();
    }
    for (int i = 0; i < n[0]->ndim; i++) size[i < n[0]->ndim - last ? 0 : 2] *= n[0]->dim[i];
    dl_tensor saved;
    return dl__norm(&dl__layer_norm_op, x, w, b, size, eps, &saved);
}

static dl_tensor dl__group_norm(const char *who, dl_tensor x, dl_index groups, dl_tensor w, dl_tensor b, float eps)
{
    dl_node *n;
    dl_context *ctx = dl__operands(who, 1, &x, &n);
    if (!ctx || !dl__is_float(ctx, who, n)) return dl__none();
    if (n->ndim < 2) return dl_fail(ctx, "dl_%s: takes [N,C,...], not %S", who, n), dl__none();
    dl_index c = n->dim[1];
    if (groups < 1 || c % groups)
        return dl_fail(ctx, "dl_%s: groups %td do not divide the channels %td", who, groups, c), dl__none();
    if (!dl__is_vector(ctx, who, "weight", w, c) || !dl__is_vector(ctx, who, "bias", b, c)) return dl__none();
    dl_shape whole = dl__shape(n), s = whole;
    for (int i = 0; i < s.ndim; i++) s.dim[i] = i == 1 ? c : 1;
    dl_index size[4] = { n->dim[0] * groups, 1, c / groups, DL__BY_ROW };
    for (int i = 2; i < n->ndim; i++) size[2] *= n->dim[i];
    dl_tensor saved;
    return dl__scale_shift(dl__norm(&dl__layer_norm_op, x, dl__none(), dl__none(), size, eps, &saved), w, b, s);
}
DL_API dl_tensor dl_group_norm_op(dl_tensor x, dl_index groups, dl_tensor w, dl_tensor b, float eps)
{
    return dl__group_norm("group_norm_op", x, groups, w, b, eps);
}

/* ---- attention ---- */
/* y[..., l, s] = s > l ? fill : x */
static void dl__causal_run(const dl_run_args *r)
{
    const dl_node *y = r->node;
    size_t width = (size_t)y->dim[y->ndim - 1], height = (size_t)y->dim[y->ndim - 2];
    for (size_t i = 0; i < r->n; i++) {
        size_t at = r->first + i;
        ((dl_real *)r->out)[i] = at % width > at / width % height ? y->f[0] : ((const dl_real *)r->in[0])[i];
    }
}
static void dl__causal_grad(const dl_grad_args *g);
static const dl_op dl__causal_op = { "causal", DL_OP_ELEMENTWISE, NULL, dl__causal_run, dl__causal_grad, NULL, NULL };
static void dl__causal_grad(const dl_grad_args *g) { g->dx[0] = dl__unary(&dl__causal_op, g->dy, 0, 0); }

/* Made of other operations: for what broadcasts, for masks that take a gradient, and for second derivatives. */
static dl_tensor dl__attention_parts(dl_tensor q, dl_tensor k, dl_tensor v, dl_tensor mask, dl_real scale, bool causal)
{
    static const char *const who = "scaled_dot_product_attention";
    dl_tensor both[2];
    dl_node *n[2];
    dl_shape s;
    both[0] = dl__unary(&dl__mul_scalar_op, dl__matmul(who, q, k, dl__none(), false, true), scale, 0);
    both[1] = mask;
    if (mask.ctx) {
        dl_context *ctx = dl__operands(who, 2, both, n);
        if (!ctx) return dl__none();
        bool fits = n[1]->ndim <= n[0]->ndim && dl__broadcast(ctx, who, 2, n, &s) && s.ndim == n[0]->ndim &&
            !memcmp(s.dim, n[0]->dim, sizeof *s.dim * n[0]->ndim);
        if (!fits)
            return dl_fail(ctx, "dl_%s: the mask %S does not broadcast to the scores %S", who, n[1], n[0]), dl__none();
        both[0] = dl_add(both[0], mask);
    }
    if (causal) both[0] = dl__unary(&dl__causal_op, both[0], -HUGE_VALF, 0);
    return dl__matmul(who, dl_softmax(both[0], -1), v, dl__none(), false, false);
}

/* One operation, in q, k, v and perhaps a mask; i = causal, order of y's memory. Its gradient gives dq, dk and dv
   in one block, in q, k, v, dy and the mask; i = causal, which are wanted, orders of the memory of dy, dq, dk, dv.
   An order is that of dl_permute: where heads were moved in front of q's positions, y's memory is laid out as q's was,
   so that moving them back costs nothing. */
enum { DL__ATT_WANT = 1, DL__ATT_ORDERS = 4 };

/* The matrices of x, whose dimension d is dimension order[d] of the memory; NULL: as they come. */
static dl__matrix dl__ordered(void *base, const dl_index *stride, const dl_index *order, int ndim)
{
    dl__matrix m;
    memset(&m, 0, sizeof m);
    m.base = (dl_real *)base;
    m.row = stride[order ? order[ndim - 2] : ndim - 2];
    m.column = stride[order ? order[ndim - 1] : ndim - 1];
    for (int d = 0; d < ndim - 2; d++) m.batch[d] = stride[order ? order[d] : d];
    return m;
}

static dl__matrix dl__matrix_of(const dl_run_args *r, const dl_node *x, const dl_index *order)
{
    dl__layout l;
    dl__layout_of(x, &l);
    return dl__ordered(dl__layout_address(r->ctx, &l), l.stride, order, x->ndim);
}

/* A new part of memory for a tensor of the size of x, in that order. */
static dl__matrix dl__matrix_in(dl_real *base, const dl_node *x, const dl_index *order)
{
    dl_index dim[DLTRAIN_MAX_DIMS], stride[DLTRAIN_MAX_DIMS];
    for (int d = 0; d < x->ndim; d++) dim[order[d]] = x->dim[d];
    dl__row_strides(dim, x->ndim, stride);
    return dl__ordered(base, stride, order, x->ndim);
}

static dl__attention dl__attention_sizes(const dl_node *y)
{
    const dl_node *q = y->in[0], *k = y->in[1], *v = y->in[2];
    dl__attention t;
    int nd = q->ndim;
    memset(&t, 0, sizeof t);
    t.l = q->dim[nd - 2], t.e = q->dim[nd - 1];
    t.s = k->dim[nd - 2], t.f = v->dim[nd - 1];
    t.batch_dims = nd - 2;
    for (int d = 0; d < nd - 2; d++) t.batch[d] = q->dim[d];
    t.causal = y->i[0] != 0;
    t.scale = y->f[0];
    return t;
}

static dl__attention dl__attention_inputs(const dl_run_args *r, int mask)
{
    dl__attention t = dl__attention_sizes(r->node);
    dl_node *const *in = r->node->in;
    t.q = dl__matrix_of(r, in[0], NULL);
    t.k = dl__matrix_of(r, in[1], NULL);
    t.v = dl__matrix_of(r, in[2], NULL);
    if (mask < r->node->n_in) { /* broadcasts: strides of 0 */
        dl__layout l;
        dl_index wide[DLTRAIN_MAX_DIMS] = { 0 };
        int extra = t.batch_dims + 2 - in[mask]->ndim;
        dl__layout_of(in[mask], &l);
        for (int d = 0; d < in[mask]->ndim; d++) wide[extra + d] = in[mask]->dim[d] == 1 ? 0 : l.stride[d];
        t.mask = dl__ordered(dl__layout_address(r->ctx, &l), wide, NULL, t.batch_dims + 2);
    }
    return t;
}

static size_t dl__attention_batches(const dl__attention *t)
{
    size_t n = 1;
    for (int d = 0; d < t->batch_dims; d++) n *= (size_t)t->batch[d];
    return n;
}

static dl_real *dl__matrix_at(const dl__attention *t, const dl__matrix *m, dl_index batch)
{
    dl_real *p = m->base;
    for (int d = t->batch_dims - 1; d >= 0; d--) {
        p += batch % t->batch[d] * m->batch[d];
        batch /= t->batch[d];
    }
    return p;
}

/* Rows of queries that are worked on at a time: their scores stay in the cache. A causal block leaves out the
   keys behind its last row, so that a row counts products with a probability of 0 up to the end of its block:
   the bits depend on the shape. */
static dl_index dl__attention_rows(const dl__attention *t)
{
    dl_index rows = t->causal ? DL__ATT_ROWS / 2 : DL__ATT_ROWS;
    while (rows > 8 && rows * t->s > 65536) rows /= 2;
    return rows;
}

/* What a thread's scratch holds. Packed: panels of columns, as wide as the kernel's tile, each row by row. */
enum {
    DL__ATT_K,       /* k', packed */
    DL__ATT_V,       /* v, packed; in the gradient v' */
    DL__ATT_P,       /* scores of a block of queries, then probabilities */
    DL__ATT_Y,       /* results of the block that are not written in place; in the gradient dq */
    DL__ATT_TABLES,  /* dl__attention_tables */
    DL__ATT_FORWARD, /* the rest is the gradient's */
    DL__ATT_KEYS = DL__ATT_FORWARD, /* k, packed */
    DL__ATT_DP,      /* gradients of probabilities, then of scores */
    DL__ATT_PACKED,  /* dy of the block packed, then q */
    DL__ATT_DK,      /* the chains of dk and dv over a block of DL__KB rows, and where there are several their totals */
    DL__ATT_DV,
    DL__ATT_DK_TOTAL,
    DL__ATT_DV_TOTAL,
    DL__ATT_PARTS
};

/* Numbers of a row of scores: whole blocks of lanes, and a vector more. */
static dl_index dl__attention_stride(dl_index keys)
{
    return (keys + DL__LANES - 1) / DL__LANES * DL__LANES + DL__PACK;
}

/* Multiples of the distances between rows and columns of what the panels read a number at a time. */
typedef struct dl__att_tables { const dl_index *one, *scores, *q_row, *q_column, *dy_row, *dy_column; } dl__att_tables;

/* Offsets of the parts, and behind them the size of all. */
static void dl__attention_layout(const dl__attention *t, bool back, size_t at[DL__ATT_PARTS + 1])
{
    size_t s = (size_t)t->s + DL__SPARE, e = (size_t)t->e + DL__SPARE, f = (size_t)t->f + DL__SPARE,
           size[DL__ATT_PARTS], rows = (size_t)dl__attention_rows(t) + DL__SPARE, wide = DL__MAX(e, f),
           totals = t->l > DL__KB;
    size[DL__ATT_K] = size[DL__ATT_KEYS] = size[DL__ATT_DK] = s * e;
    size[DL__ATT_V] = size[DL__ATT_DV] = s * f;
    size[DL__ATT_P] = size[DL__ATT_DP] = rows * (size_t)dl__attention_stride(t->s);
    size[DL__ATT_Y] = size[DL__ATT_PACKED] = rows * wide;
    size[DL__ATT_TABLES] = (DL__MAX(s, rows) + 3 * rows + e + f) * (sizeof(dl_index) / sizeof(dl_real) + 1);
    size[DL__ATT_DK_TOTAL] = totals * s * e;
    size[DL__ATT_DV_TOTAL] = totals * s * f;
    at[0] = 0;
    for (int i = 0; i < DL__ATT_PARTS; i++)
        at[i + 1] = at[i] + (back || i < DL__ATT_FORWARD ? (size[i] + 15) / 16 * 16 : 0);
}

static dl_index *dl__multiples(dl_index *to, dl_index step, dl_index n)
{
    for (dl_index i = 0; i < n; i++) to[i] = i * step;
    return to + n;
}

static dl__att_tables dl__attention_tables(const dl__attention *t, dl_index stride, dl_real *scratch)
{
    dl__att_tables a;
    dl_index rows = dl__attention_rows(t), *at = (dl_index *)(void *)scratch;
    a.one = at, at = dl__multiples(at, 1, DL__MAX(t->s, rows));
    a.scores = at, at = dl__multiples(at, stride, rows);
    a.q_row = at, at = dl__multiples(at, t->q.row, rows);
    a.q_column = at, at = dl__multiples(at, t->q.column, t->e);
    a.dy_row = at, at = dl__multiples(at, t->y.row, rows);
    a.dy_column = at, dl__multiples(at, t->y.column, t->f);
    return a;
}

static void dl__copy_rows(dl_real *dst, dl_index dst_row, dl_index dst_column, const dl_real *x, dl_index row,
    dl_index rows, dl_index columns)
{
    for (dl_index i = 0; i < rows; i++, dst += dst_row, x += row)
        if (dst_column == 1) memcpy(dst, x, sizeof *dst * (size_t)columns);
        else
            for (dl_index j = 0; j < columns; j++) dst[j * dst_column] = x[j];
}

/* c [m,n] = a [m,k] b [k,n], b packed; or, chained, one more part of k. What lies behind the diagonal, which starts at
   column `diagonal`, is left out. */
static void dl__multiply_packed(const dl__products *e, dl_index m, dl_index n, dl_index kk, const dl_real *a,
    const dl_index *row, const dl_index *at, const dl_real *b, dl_index height, dl_real *c, dl_index stride,
    bool chained, dl_index diagonal)
{
    dl__panel p;
    memset(&p, 0, sizeof p);
    p.a = a;
    p.b_step = e->nr;
    p.out_row = stride;
    p.chained = chained;
    for (dl_index j = 0; j < n; j += e->nr) {
        dl_index first = DL__MAX(j - diagonal, (dl_index)0);
        p.rows = m - first;
        p.cols = DL__MIN(n - j, e->nr);
        p.row = row + first;
        p.out = c + first * stride + j;
        for (dl_index k = 0; k < kk; k += DL__KB) {
            p.kc = DL__MIN(kk - k, (dl_index)DL__KB);
            p.at = at + k;
            p.b = b + j * height + k * e->nr;
            p.more = k > 0;
            e->panel(&p);
        }
    }
}

/* dst [m,n] = a [m,k] b [k,n] of scores and b packed, by way of `own` where columns lie apart. */
static void dl__multiply_scores(const dl__products *e, const dl__matrix *to, dl_real *dst, dl_index m, dl_index n,
    dl_index kk, const dl_real *a, const dl__att_tables *i, const dl_real *b, dl_index height, dl_real *own)
{
    bool in_place = to->column == 1;
    dl__multiply_packed(
        e, m, n, kk, a, i->scores, i->one, b, height, in_place ? dst : own, in_place ? to->row : n, false, n);
    if (!in_place) dl__copy_rows(dst, to->row, to->column, own, n, m, n);
}

/* Asks for rows of a matrix all at once: they lie apart, and would be waited for one by one. */
static void dl__fetch_rows(const dl__matrix *m, const dl_real *x, dl_index rows, dl_index n)
{
    for (dl_index i = 0; m->column == 1 && i < rows; i++)
        for (dl_index j = 0; j < n; j += 64 / (dl_index)sizeof *x) DL__PREFETCH(x + i * m->row + j);
}

/* The probabilities of queries l0 .. l0 + rows over their block's n keys. */
static void dl__probabilities(int level, const dl__attention *t, const dl__att_tables *tables, const dl_real *q,
    const dl_real *k, const dl_real *mask, dl_index l0, dl_index rows, dl_index n, dl_real *p, dl_index stride)
{
    const dl__products *e = dl__products_of(level);
    dl__multiply_packed(e, rows, dl__round_up(n, e->nr), t->e, q + l0 * t->q.row, tables->q_row, tables->q_column, k,
        t->e, p, stride, false, t->causal ? l0 : n);
    DL__CALL(level, probabilities, (t, mask, l0, rows, p, stride));
}

/* Part of a batch: DL__KB rows of queries. */
static void dl__attention_part(const dl_run_args *r, size_t part)
{
    const dl__attention *t = (const dl__attention *)r->user;
    const dl__products *e = dl__products_of(r->level);
    dl_real *scratch = (dl_real *)r->scratch;
    dl_index parts = (t->l + DL__KB - 1) / DL__KB, batch = (dl_index)part / parts, l0 = (dl_index)part % parts * DL__KB,
             end = DL__MIN(t->l, l0 + DL__KB), keys = dl__seen(t, end - 1), block = dl__attention_rows(t),
             stride = dl__attention_stride(keys);
    const dl_real *q = dl__matrix_at(t, &t->q, batch), *k = dl__matrix_at(t, &t->k, batch),
                  *v = dl__matrix_at(t, &t->v, batch), *mask = t->mask.base ? dl__matrix_at(t, &t->mask, batch) : NULL;
    dl_real *y = dl__matrix_at(t, &t->y, batch);
    size_t at[DL__ATT_PARTS + 1];
    dl__attention_layout(t, false, at);
    dl_real *p = scratch + at[DL__ATT_P];
    dl__att_tables tables = dl__attention_tables(t, stride, scratch + at[DL__ATT_TABLES]);
    dl__fetch_rows(&t->k, k, keys, t->e);
    dl__fetch_rows(&t->v, v, keys, t->f);
    dl__fetch_rows(&t->q, q + l0 * t->q.row, end - l0, t->e);
    e->pack(k, t->k.row, t->k.column, keys, t->e, scratch + at[DL__ATT_K]);
    e->pack(v, t->v.column, t->v.row, t->f, keys, scratch + at[DL__ATT_V]);
    for (; l0 < end; l0 += block) {
        dl_index rows = DL__MIN(block, end - l0), n = dl__seen(t, l0 + rows - 1);
        dl__probabilities(r->level, t, &tables, q, scratch + at[DL__ATT_K], mask, l0, rows, n, p, stride);
        dl__multiply_scores(e, &t->y, y + l0 * t->y.row, rows, t->f, n, p, &tables, scratch + at[DL__ATT_V], keys,
            scratch + at[DL__ATT_Y]);
    }
}

/* A chain over DL__KB rows has ended: it becomes the total, or is added to it, and the next starts. */
static void dl__end_chain(int level, dl_real *chain, dl_real *total, size_t n, bool first)
{
    if (first) memcpy(total, chain, n * sizeof *chain);
    else DL__CALL(level, add_to, (total, chain, n));
    memset(chain, 0, n * sizeof *chain);
}

/* dq, dk and dv of a batch, those that are wanted. The probabilities are computed anew. */
static void dl__attention_back_part(const dl_run_args *r, size_t batch)
{
    const dl__attention *t = (const dl__attention *)r->user;
    const dl__products *w = dl__products_of(r->level);
    dl_real *scratch = (dl_real *)r->scratch;
    dl_index b = (dl_index)batch, keys = dl__seen(t, t->l - 1), block = dl__attention_rows(t);
    dl_index e = dl__round_up(t->e, w->nr), f = dl__round_up(t->f, w->nr), stride = dl__attention_stride(keys);
    const dl_real *q = dl__matrix_at(t, &t->q, b), *k = dl__matrix_at(t, &t->k, b), *v = dl__matrix_at(t, &t->v, b),
                  *dy = dl__matrix_at(t, &t->y, b), *mask = t->mask.base ? dl__matrix_at(t, &t->mask, b) : NULL;
    size_t at[DL__ATT_PARTS + 1], all_k = (size_t)(t->s * e), all_v = (size_t)(t->s * f);
    dl__attention_layout(t, true, at);
    dl_real *p = scratch + at[DL__ATT_P], *dp = scratch + at[DL__ATT_DP], *packed = scratch + at[DL__ATT_PACKED],
            *dk = scratch + at[DL__ATT_DK], *dv = scratch + at[DL__ATT_DV], *dk_total = scratch + at[DL__ATT_DK_TOTAL],
            *dv_total = scratch + at[DL__ATT_DV_TOTAL];
    dl__att_tables tables = dl__attention_tables(t, stride, scratch + at[DL__ATT_TABLES]);
    dl__fetch_rows(&t->k, k, keys, t->e);
    dl__fetch_rows(&t->v, v, keys, t->f);
    dl__fetch_rows(&t->q, q, t->l, t->e);
    dl__fetch_rows(&t->y, dy, t->l, t->f);
    w->pack(k, t->k.row, t->k.column, keys, t->e, scratch + at[DL__ATT_K]);
    w->pack(v, t->v.row, t->v.column, keys, t->f, scratch + at[DL__ATT_V]);
    if (t->dq.base) w->pack(k, t->k.column, t->k.row, t->e, keys, scratch + at[DL__ATT_KEYS]);
    memset(dk, 0, all_k * sizeof *dk);
    memset(dv, 0, all_v * sizeof *dv);
    for (dl_index l0 = 0; l0 < t->l; l0 += block) {
        dl_index rows = DL__MIN(block, t->l - l0), n = dl__seen(t, l0 + rows - 1);
        dl__probabilities(r->level, t, &tables, q, scratch + at[DL__ATT_K], mask, l0, rows, n, p, stride);
        if (t->dv.base) {
            w->pack(dy + l0 * t->y.row, t->y.column, t->y.row, t->f, rows, packed);
            dl__multiply_packed(w, n, f, rows, p, tables.one, tables.scores, packed, rows, dv, f, true, f);
        }
        if (t->dq.base || t->dk.base) {
            dl__multiply_packed(w, rows, dl__round_up(n, w->nr), t->f, dy + l0 * t->y.row, tables.dy_row,
                tables.dy_column, scratch + at[DL__ATT_V], t->f, dp, stride, false, t->causal ? l0 : n);
            DL__CALL(r->level, scores_back, (t, l0, rows, p, dp, stride));
        }
        if (t->dq.base)
            dl__multiply_scores(w, &t->dq, dl__matrix_at(t, &t->dq, b) + l0 * t->dq.row, rows, t->e, n, dp, &tables,
                scratch + at[DL__ATT_KEYS], keys, scratch + at[DL__ATT_Y]);
        if (t->dk.base) {
            w->pack(q + l0 * t->q.row, t->q.column, t->q.row, t->e, rows, packed);
            dl__multiply_packed(w, n, e, rows, dp, tables.one, tables.scores, packed, rows, dk, e, true, e);
        }
        if (t->l > DL__KB && ((l0 + rows) % DL__KB == 0 || l0 + rows == t->l)) {
            dl__end_chain(r->level, dk, dk_total, all_k, l0 < DL__KB);
            dl__end_chain(r->level, dv, dv_total, all_v, l0 < DL__KB);
        }
    }
    if (t->l > DL__KB) dk = dk_total, dv = dv_total;
    if (t->dk.base) dl__copy_rows(dl__matrix_at(t, &t->dk, b), t->dk.row, t->dk.column, dk, e, t->s, t->e);
    if (t->dv.base) dl__copy_rows(dl__matrix_at(t, &t->dv, b), t->dv.row, t->dv.column, dv, f, t->s, t->f);
}

static void dl__attention_run(const dl_run_args *r)
{
    dl__attention t = dl__attention_inputs(r, 3);
    dl_run_args a = *r;
    dl_index stride[DLTRAIN_MAX_DIMS];
    dl__row_strides(r->node->dim, r->node->ndim, stride);
    t.y = dl__ordered(r->out, stride, r->node->i + 1, r->node->ndim);
    a.user = &t;
    dl_parallel(&a, dl__attention_batches(&t) * (size_t)((t.l + DL__KB - 1) / DL__KB), dl__attention_part);
}

static void dl__attention_back_run(const dl_run_args *r)
{
    dl__attention t = dl__attention_inputs(r, 4);
    dl_run_args a = *r;
    dl_real *at = (dl_real *)r->out;
    dl__matrix *to[3];
    to[0] = &t.dq, to[1] = &t.dk, to[2] = &t.dv;
    int nd = t.batch_dims + 2;
    const dl_index *order = r->node->i + 2;
    t.y = dl__matrix_of(r, r->node->in[3], order);
    for (int k = 0; k < 3; k++)
        if (r->node->i[DL__ATT_WANT] >> k & 1) {
            *to[k] = dl__matrix_in(at, r->node->in[k], order + (k + 1) * nd);
            at += r->node->in[k]->numel;
        }
    a.user = &t;
    dl_parallel(&a, dl__attention_batches(&t), dl__attention_back_part);
}

static size_t dl__attention_bytes(const dl_node *y, bool back)
{
    dl__attention t = dl__attention_sizes(y);
    size_t at[DL__ATT_PARTS + 1];
    dl__attention_layout(&t, back, at);
    return at[DL__ATT_PARTS] * sizeof(dl_real);
}
static size_t dl__attention_scratch(const dl_node *y) { return dl__attention_bytes(y, false); }
static size_t dl__attention_back_scratch(const dl_node *y) { return dl__attention_bytes(y, true); }

static void dl__attention_grad(const dl_grad_args *g);
static void dl__attention_back_grad(const dl_grad_args *g);
static const dl_op dl__attention_op = { "scaled_dot_product_attention", DL__OP_STRIDED, NULL, dl__attention_run,
    dl__attention_grad, dl__attention_scratch, NULL };
static const dl_op dl__attention_back_op = { "attention_back", DL__OP_STRIDED, NULL, dl__attention_back_run,
    dl__attention_back_grad, dl__attention_back_scratch, NULL };

/* How the memory behind x is ordered: x may be a permuted copy that need not be made. */
static void dl__memory_order(const dl_node *x, dl_index *order)
{
    for (int d = 0; d < x->ndim; d++) order[d] = x->op->flags & DL__OP_PERMUTES ? x->i[d] : d;
}

/* x, whose dimensions lie in memory in that order, with its dimensions in theirs. */
static dl_tensor dl__from_memory(dl_tensor x, const dl_index *order, int ndim)
{
    int dims[DLTRAIN_MAX_DIMS];
    for (int d = 0; d < ndim; d++) dims[d] = (int)order[d];
    return dl_permute(x, dims);
}

static void dl__attention_grad(const dl_grad_args *g)
{
    dl_node *n[5];
    dl_tensor in[5];
    int nd = g->node->ndim, inputs = g->node->n_in + 1;
    dl_index i[2 + DL__ATT_ORDERS * DLTRAIN_MAX_DIMS], want = 0, total = 0, at = 0;
    for (int k = 0; k < 3; k++) in[k] = g->x[k];
    in[3] = g->dy;
    if (inputs > 4) in[4] = g->x[3];
    dl_context *ctx = dl__operands(g->node->op->name, inputs, in, n);
    if (!ctx) return;
    for (int k = 0; k < 3; k++)
        if (g->want[k]) want |= 1 << k, total += (dl_index)n[k]->numel;
    i[0] = g->node->i[0];
    i[DL__ATT_WANT] = want;
    memcpy(i + 2, g->node->i + 1, sizeof *i * (size_t)nd);
    for (int k = 0; k < 3; k++) dl__memory_order(n[k], i + 2 + (k + 1) * nd);
    dl__extra e = dl__with(2 + DL__ATT_ORDERS * nd, i);
    dl_shape s = DL_SHAPE(total);
    e.f[0] = g->node->f[0];
    dl_tensor block = dl__record(ctx, &dl__attention_back_op, inputs, n, DL_F32, &s, &e);
    for (int k = 0; k < 3; k++) {
        const dl_index *order = i + 2 + (k + 1) * nd;
        dl_shape memory = dl__shape(n[k]);
        if (!g->want[k]) continue;
        for (int d = 0; d < nd; d++) memory.dim[order[d]] = n[k]->dim[d];
        dl_index end = at + (dl_index)n[k]->numel;
        g->dx[k] = dl__from_memory(dl_reshape(dl_slice(block, 0, at, end, 1), memory), order, nd);
        at = end;
    }
}

/* Second derivatives: the gradient is made of other operations, and differentiated as dl_grad does. Each input stands
   for itself there. */
static void dl__attention_back_grad(const dl_grad_args *g)
{
    dl_tensor x[4], dx[4], sum = dl__none(), no = dl__none();
    dl_context *ctx = g->dy.ctx;
    const dl_index *order = g->node->i + 2;
    int nd = g->node->in[0]->ndim;
    dl_index at = 0;
    bool recording = dl_set_grad(ctx, true);
    for (int k = 0; k < 4; k++) {
        dl_index offset = 0;
        dl__extra e = dl__with(1, &offset);
        dl_node *n;
        if (!dl__operands(g->node->op->name, 1, &g->x[k], &n)) break;
        dl_shape s = dl__shape(n);
        e.flags = DL__VIEW | DL__REQUIRES;
        x[k] = dl__record(ctx, &dl__reshape_op, 1, &n, DL_F32, &s, &e);
    }
    if (!ctx->failed) {
        dl_tensor mask = g->node->n_in > 4 ? g->x[4] : no;
        dl_tensor y = dl__attention_parts(x[0], x[1], x[2], mask, g->node->f[0], g->node->i[0] != 0);
        dl_grad(dl_sum(dl_mul(y, dl__from_memory(x[3], order, nd))), x, 3, dx);
    }
    for (int k = 0; k < 3 && !ctx->failed; k++)
        if (g->node->i[DL__ATT_WANT] >> k & 1) {
            dl_index end = at + (dl_index)g->node->in[k]->numel;
            const dl_index *own = order + (k + 1) * nd;
            dl_shape memory = dl__shape(g->node->in[k]);
            for (int d = 0; d < nd; d++) memory.dim[own[d]] = g->node->in[k]->dim[d];
            dl_tensor part = dl__from_memory(dl_reshape(dl_slice(g->dy, 0, at, end, 1), memory), own, nd);
            part = dl_sum(dl_mul(dx[k], part));
            sum = sum.ctx ? dl_add(sum, part) : part;
            at = end;
        }
    if (!ctx->failed && dl_grad(sum, x, 4, dx))
        for (int k = 0; k < 4; k++)
            if (g->want[k]) g->dx[k] = dx[k];
    dl_set_grad(ctx, recording);
}

/* Does the operation itself serve these? What broadcasts, or is empty or wrong, is left to its parts. */
static bool dl__attention_fits(dl_node *const *n, int inputs)
{
    for (int k = 0; k < inputs; k++)
        if (n[k]->dtype != DL_F32 || (k < 3 && (n[k]->ndim != n[0]->ndim || !n[k]->numel))) return false;
    for (int d = 0; d < n[0]->ndim - 2; d++)
        if (n[0]->dim[d] != n[1]->dim[d] || n[0]->dim[d] != n[2]->dim[d]) return false;
    if (inputs < 4) return true;
    if (n[3]->flags & DL__REQUIRES || n[3]->ndim > n[0]->ndim) return false;
    for (int d = 1; d <= n[3]->ndim; d++) {
        dl_index have = n[3]->dim[n[3]->ndim - d],
                 size = d == 1 ? n[1]->dim[n[1]->ndim - 2] : n[0]->dim[n[0]->ndim - d];
        if (have != 1 && have != size) return false;
    }
    return true;
}

DL_API dl_tensor dl_scaled_dot_product_attention(dl_tensor q, dl_tensor k, dl_tensor v, const dl_attention_desc *desc)
{
    static const char *const who = "scaled_dot_product_attention";
    dl_node *n[4];
    dl_tensor in[4];
    int inputs = desc && desc->mask.ctx ? 4 : 3;
    in[0] = q, in[1] = k, in[2] = v, in[3] = inputs > 3 ? desc->mask : dl__none();
    dl_context *ctx = dl__operands(who, inputs, in, n);
    if (!ctx) return dl__none();
    int nd = n[0]->ndim;
    for (int i = 0; i < 3; i++)
        if (n[i]->ndim < 2) return dl_fail(ctx, "dl_%s: takes [...,length,width], not %S", who, n[i]), dl__none();
    if (n[0]->dim[nd - 1] != n[1]->dim[n[1]->ndim - 1])
        return dl_fail(ctx, "dl_%s: the widths of q %S and k %S differ", who, n[0], n[1]), dl__none();
    if (n[1]->dim[n[1]->ndim - 2] != n[2]->dim[n[2]->ndim - 2])
        return dl_fail(ctx, "dl_%s: the lengths of k %S and v %S differ", who, n[1], n[2]), dl__none();
    dl_real scale = desc && desc->scale != 0 ? (dl_real)desc->scale : (dl_real)(1 / sqrt((double)n[0]->dim[nd - 1]));
    bool causal = desc && desc->causal;
    if (!dl__attention_fits(n, inputs)) return dl__attention_parts(q, k, v, in[3], scale, causal);
    dl_index i[1 + DLTRAIN_MAX_DIMS];
    dl_shape memory = dl__shape(n[0]);
    ctx->follower = &dl__follow;
    i[0] = causal;
    dl__memory_order(n[0], i + 1);
    for (int d = 0; d < nd; d++) memory.dim[i[1 + d]] = d == nd - 1 ? n[2]->dim[nd - 1] : n[0]->dim[d];
    dl__extra e = dl__with(1 + nd, i);
    e.f[0] = scale;
    return dl__from_memory(dl__record(ctx, &dl__attention_op, inputs, n, DL_F32, &memory, &e), i + 1, nd);
}

/* ---- segments; x seen as [rows, inner], i = segments, rows, inner, who ---- */
static const char *const dl__segment_who[] = { "segment_sum", "segment_mean", "segment_max", "segment_softmax",
    "segment_logsumexp", "mil_pool", "mil_attention" };
/* from DL__WHO_MIL on an empty segment is an error */
enum { DL__WHO_LOGSUMEXP = 4, DL__WHO_MIL, DL__WHO_MIL_ATTENTION };

static bool dl__bad_bag(dl_context *ctx, const char *who, dl_index bag, int offset)
{
    return dl_fail(ctx, "dl_%s: bag %td has no instances: offsets[%td] and the next are %d", who, bag, bag, offset);
}

static bool dl__check_offsets(const dl_run_args *r, const int32_t *offset)
{
    dl_index segments = r->node->i[0], rows = r->node->i[1];
    const char *who = dl__segment_who[r->node->i[3]];
    if (offset[0] != 0) return dl_fail(r->ctx, "dl_%s: offsets[0] must be 0, not %d", who, (int)offset[0]);
    for (dl_index s = 0; s < segments; s++)
        if (offset[s + 1] < offset[s])
            return dl_fail(r->ctx, "dl_%s: offsets must not fall: offsets[%td] = %d, offsets[%td] = %d", who, s,
                (int)offset[s], s + 1, (int)offset[s + 1]);
        else if (offset[s + 1] == offset[s] && r->node->i[3] >= DL__WHO_MIL)
            return dl__bad_bag(r->ctx, who, s, (int)offset[s]);
    return offset[segments] == rows ||
        dl_fail(r->ctx, "dl_%s: offsets[%td] is %d, but x has %td rows", who, segments, (int)offset[segments], rows);
}

static void dl__segment_sum_part(const dl_run_args *r, size_t s)
{
    const int32_t *offset = (const int32_t *)r->in[1];
    dl_index inner = r->node->i[2];
    DL__CALL(r->level, sum_columns,
        ((dl_real *)r->out + (dl_index)s * inner, (const dl_real *)r->in[0] + offset[s] * inner,
            (size_t)(offset[s + 1] - offset[s]), (size_t)inner, (size_t)inner, false));
}

static void dl__segment_sum_run(const dl_run_args *r)
{
    if (dl__check_offsets(r, (const int32_t *)r->in[1])) dl_parallel(r, (size_t)r->node->i[0], dl__segment_sum_part);
}

static void dl__segment_spread_run(const dl_run_args *r)
{
    const int32_t *offset = (const int32_t *)r->in[1];
    size_t inner = (size_t)r->node->i[2];
    if (!dl__check_offsets(r, offset)) return;
    for (dl_index s = 0; s < r->node->i[0]; s++)
        for (int32_t k = offset[s]; inner && k < offset[s + 1]; k++)
            memcpy((dl_real *)r->out + (size_t)k * inner, (const dl_real *)r->in[0] + (size_t)s * inner,
                inner * sizeof(dl_real));
}

static void dl__segment_inverse_run(const dl_run_args *r) /* 1 / length, 0 of an empty one */
{
    const int32_t *offset = (const int32_t *)r->in[0];
    for (dl_index s = 0; s < r->node->i[0]; s++)
        ((dl_real *)r->out)[s] = offset[s + 1] > offset[s] ? (dl_real)1 / (dl_real)(offset[s + 1] - offset[s]) : 0;
}

static void dl__segment_argmax_run(const dl_run_args *r) /* the row of x, -1 for an empty segment */
{
    const int32_t *offset = (const int32_t *)r->in[1];
    const dl_real *x = (const dl_real *)r->in[0];
    dl_index inner = r->node->i[2];
    if (!dl__check_offsets(r, offset)) return;
    for (dl_index s = 0; s < r->node->i[0]; s++)
        for (dl_index c = 0; c < inner; c++) {
            int32_t best = offset[s] < offset[s + 1] ? offset[s] : -1;
            for (int32_t k = offset[s] + 1; k < offset[s + 1]; k++) {
                dl_real a = x[best * inner + c], b = x[k * inner + c];
                if (a == a && !(b <= a)) best = k;
            }
            ((int32_t *)r->out)[s * inner + c] = best;
        }
}
static void dl__segment_sum_grad(const dl_grad_args *g);
static void dl__segment_spread_grad(const dl_grad_args *g);
static const dl_op dl__segment_sum_op = { "segment_sum", 0, NULL, dl__segment_sum_run, dl__segment_sum_grad, NULL,
    NULL };
static const dl_op dl__segment_spread_op = { "segment_spread", 0, NULL, dl__segment_spread_run, dl__segment_spread_grad,
    NULL, NULL };
static const dl_op dl__segment_inverse_op = { "segment_inverse", 0, NULL, dl__segment_inverse_run, NULL, NULL, NULL };
static const dl_op dl__segment_argmax_op = { "segment_argmax", 0, NULL, dl__segment_argmax_run, NULL, NULL, NULL };
static void dl__segment_sum_grad(const dl_grad_args *g) { g->dx[0] = dl__indexed(&dl__segment_spread_op, g); }
static void dl__segment_spread_grad(const dl_grad_args *g) { g->dx[0] = dl__indexed(&dl__segment_sum_op, g); }

/* Checks, and the attributes and shape [S,...]; false quietly or after an error. */
static bool dl__segments(int who_index, dl_tensor x, dl_tensor offsets, dl_node **n, dl_index *i, dl_shape *s)
{
    const char *who = dl__segment_who[who_index];
    dl_tensor in[2];
    in[0] = x, in[1] = offsets;
    dl_context *ctx = dl__operands(who, 2, in, n);
    if (!ctx || !dl__is_float(ctx, who, n[0])) return false;
    if (n[1]->dtype != DL_I32)
        return dl_fail(ctx, "dl_%s: offsets must be DL_I32, not %s", who, dl__dtype_names[n[1]->dtype]);
    if (n[1]->ndim != 1 || n[1]->dim[0] < 1)
        return dl_fail(ctx, "dl_%s: offsets must be [segments+1], not %S", who, n[1]);
    if (!n[0]->ndim) return dl_fail(ctx, "dl_%s: x needs rows; it is %S", who, n[0]);
    i[0] = n[1]->dim[0] - 1;
    i[1] = n[0]->dim[0];
    i[2] = 1;
    i[3] = who_index;
    for (int d = 1; d < n[0]->ndim; d++) i[2] *= n[0]->dim[d];
    *s = dl__shape(n[0]);
    s->dim[0] = i[0];
    return true;
}

static dl_tensor dl__segment(const dl_op *op, int who, dl_tensor x, dl_tensor offsets, unsigned dtype)
{
    dl_node *n[2];
    dl_index i[4];
    dl_shape s;
    if (!dl__segments(who, x, offsets, n, i, &s)) return dl__none();
    dl__extra e = dl__with(4, i);
    return dl__record(x.ctx, op, 2, n, dtype, &s, &e);
}
DL_API dl_tensor dl_segment_sum(dl_tensor x, dl_tensor offsets)
{
    return dl__segment(&dl__segment_sum_op, 0, x, offsets, DL_F32);
}

DL_API dl_tensor dl_segment_mean(dl_tensor x, dl_tensor offsets)
{
    dl_node *n[2];
    dl_index i[4];
    dl_shape s, lengths;
    if (!dl__segments(1, x, offsets, n, i, &s)) return dl__none();
    dl_tensor sum = dl__segment(&dl__segment_sum_op, 1, x, offsets, DL_F32);
    dl__extra e = dl__with(4, i);
    lengths = s;
    for (int d = 1; d < s.ndim; d++) lengths.dim[d] = 1;
    return dl_mul(sum, dl__record(x.ctx, &dl__segment_inverse_op, 1, n + 1, DL_F32, &lengths, &e));
}

static dl_tensor dl__segment_max(int who, dl_tensor x, dl_tensor offsets)
{
    dl_node *n[2];
    dl_index i[4];
    dl_shape s;
    if (!dl__segments(who, x, offsets, n, i, &s)) return dl__none();
    dl_tensor index = dl__segment(&dl__segment_argmax_op, who, x, offsets, DL_I32);
    return dl__gather(DL__WHO_MAX, x, 0, index, i[0], &s, true);
}
DL_API dl_tensor dl_segment_max(dl_tensor x, dl_tensor offsets) { return dl__segment_max(2, x, offsets); }

/* Row s of x [S,...] for each of segment s's rows. */
static dl_tensor dl__segment_spread(dl_tensor x, dl_tensor offsets, dl_index rows)
{
    dl_node *n[2];
    dl_tensor in[2];
    dl_index i[4];
    in[0] = x, in[1] = offsets;
    dl_context *ctx = dl__operands("segment_softmax", 2, in, n);
    if (!ctx) return dl__none();
    dl_shape s = dl__shape(n[0]);
    i[0] = s.dim[0], i[1] = rows, i[2] = 1, i[3] = 3;
    for (int d = 1; d < s.ndim; d++) i[2] *= s.dim[d];
    s.dim[0] = rows;
    dl__extra e = dl__with(4, i);
    return dl__record(ctx, &dl__segment_spread_op, 2, n, DL_F32, &s, &e);
}

static dl_tensor dl__segment_softmax(int who, dl_tensor x, dl_tensor offsets)
{
    dl_tensor top = dl_detach(dl__segment_max(who, x, offsets));
    if (!top.ctx) return dl__none();
    dl_index rows = dl_dim(x, 0);
    dl_tensor e = dl_exp(dl_sub(x, dl__segment_spread(top, offsets, rows)));
    return dl_div(e, dl__segment_spread(dl__segment(&dl__segment_sum_op, who, e, offsets, DL_F32), offsets, rows));
}
DL_API dl_tensor dl_segment_softmax(dl_tensor x, dl_tensor offsets) { return dl__segment_softmax(3, x, offsets); }

static dl_tensor dl__segment_logsumexp(int who, dl_tensor x, dl_tensor offsets)
{
    dl_tensor top = dl_detach(dl__segment_max(who, x, offsets));
    if (!top.ctx) return dl__none();
    dl_tensor e = dl_exp(dl_sub(x, dl__segment_spread(top, offsets, dl_dim(x, 0))));
    return dl_add(dl_log(dl__segment(&dl__segment_sum_op, who, e, offsets, DL_F32)), top);
}
DL_API dl_tensor dl_segment_logsumexp(dl_tensor x, dl_tensor offsets)
{
    return dl__segment_logsumexp(DL__WHO_LOGSUMEXP, x, offsets);
}

/* ==== >>losses ====
   Made of operations, but for the look at class indices.
   may use: normalisation */
static dl_tensor dl__reduction(const char *who, dl_tensor loss, dl_reduction reduction)
{
    dl_node *n;
    dl_context *ctx = dl__operands(who, 1, &loss, &n);
    if (!ctx || reduction == DL_NONE) return ctx ? loss : dl__none();
    if (reduction == DL_SUM) return dl_sum(loss);
    if (reduction == DL_MEAN) return dl_mean(loss);
    return dl__unary(&dl__mul_scalar_op, dl_sum(loss), (dl_real)(1.0 / (double)(n->ndim ? n->dim[0] : 1)), 0);
}

/* The checks of losses over pairs: same shape, DL_F32, a reduction that exists. */
static bool dl__pair(const char *who, dl_tensor y, dl_tensor target, dl_reduction reduction)
{
    dl_node *n[2];
    dl_tensor in[2];
    in[0] = y, in[1] = target;
    dl_context *ctx = dl__operands(who, 2, in, n);
    if (!ctx || !dl__is_float(ctx, who, n[0]) || !dl__is_float(ctx, who, n[1])) return false;
    if ((unsigned)reduction > DL_BATCHMEAN) return dl_fail(ctx, "dl_%s: there is no reduction %d", who, (int)reduction);
    return dl__same_shape(n[0], n[1]) || dl_fail(ctx, "dl_%s: shapes differ: %S and target %S", who, n[0], n[1]);
}

DL_API dl_tensor dl_mse(dl_tensor y, dl_tensor target, dl_reduction reduction)
{
    return dl__pair("mse", y, target, reduction) ? dl__reduction("mse", dl_square(dl_sub(y, target)), reduction)
                                                 : dl__none();
}

DL_API dl_tensor dl_l1(dl_tensor y, dl_tensor target, dl_reduction reduction)
{
    return dl__pair("l1", y, target, reduction) ? dl__reduction("l1", dl_abs(dl_sub(y, target)), reduction)
                                                : dl__none();
}

/* d^2/2 up to delta, then delta (|d| - delta/2) */
DL_API dl_tensor dl_huber(dl_tensor y, dl_tensor target, float delta, dl_reduction reduction)
{
    if (!dl__pair("huber", y, target, reduction)) return dl__none();
    if (!(delta > 0)) return dl_fail(y.ctx, "dl_huber: delta must be positive, not %g", (double)delta), dl__none();
    dl_tensor d = dl_sub(y, target), a = dl_abs(d);
    dl_tensor far_off = dl_mul_scalar(dl_add_scalar(a, -0.5f * delta), delta);
    return dl__reduction(
        "huber", dl_where(dl_gt(a, dl__scalar(y.ctx, delta)), far_off, dl_mul_scalar(dl_square(d), 0.5f)), reduction);
}

DL_API dl_tensor dl_bce(dl_tensor p, dl_tensor target, dl_reduction reduction)
{
    return dl__pair("bce", p, target, reduction) ? dl__reduction("bce", dl__binary(&dl__bce_op, p, target), reduction)
                                                 : dl__none();
}

/* softplus(z) - z t = max(z,0) - z t + log1p(exp(-|z|)) */
DL_API dl_tensor dl_bce_with_logits(dl_tensor z, dl_tensor target, dl_reduction reduction)
{
    return dl__pair("bce_with_logits", z, target, reduction)
        ? dl__reduction("bce_with_logits", dl_sub(dl_softplus(z), dl_mul(z, target)), reduction)
        : dl__none();
}

DL_API dl_tensor dl_gaussian_nll(dl_tensor mean, dl_tensor target, dl_tensor var, float eps, dl_reduction reduction)
{
    dl_node *n[2];
    dl_tensor in[2];
    if (!dl__pair("gaussian_nll", mean, target, reduction)) return dl__none();
    in[0] = mean, in[1] = var;
    dl_context *ctx = dl__operands("gaussian_nll", 2, in, n);
    if (!ctx || !dl__is_float(ctx, "gaussian_nll", n[1])) return dl__none();
    bool fits = n[1]->ndim == n[0]->ndim;
    for (int i = 0; fits && i < n[0]->ndim; i++) fits = n[1]->dim[i] == n[0]->dim[i] || n[1]->dim[i] == 1;
    if (!fits)
        return dl_fail(ctx, "dl_gaussian_nll: the variance %S must have the shape %S, or sizes of 1", n[1], n[0]),
               dl__none();
    if (!(eps >= 0)) return dl_fail(ctx, "dl_gaussian_nll: eps must be positive, not %g", (double)eps), dl__none();
    dl_tensor least = dl__scalar(ctx, eps != 0 ? eps : 1e-6f); /* the gradient passes below it, as PyTorch's does */
    dl_tensor v = dl_where(dl_lt(var, least), dl_add(dl_sub(var, dl_detach(var)), least), var);
    return dl__reduction(
        "gaussian_nll", dl_mul_scalar(dl_add(dl_log(v), dl_div(dl_square(dl_sub(mean, target)), v)), 0.5f), reduction);
}

DL_API dl_tensor dl_kl_div(dl_tensor log_p, dl_tensor target, dl_reduction reduction) /* 0 log 0 is 0 */
{
    if (!dl__pair("kl_div", log_p, target, reduction)) return dl__none();
    dl_tensor zero = dl__scalar(target.ctx, 0), safe = dl_where(dl_gt(target, zero), target, dl__scalar(target.ctx, 1));
    return dl__reduction("kl_div", dl_mul(target, dl_sub(dl_log(safe), log_p)), reduction);
}

/* ---- classes ---- */
static bool dl__bad_target(dl_context *ctx, const dl_index *i, size_t place, int value)
{
    return dl_fail(ctx, "dl_%s: target %d at position %zu is out of range for %td classes", dl__index_who[i[2]], value,
        place, i[0]);
}

/* Class indices made safe: ignored ones become 0; i = classes, ignored index, who. Also their weights: 0 if ignored. */
static bool dl__targets_fit(const dl_run_args *r, const int32_t *y, size_t n)
{
    const dl_index *i = r->node->i;
    for (size_t k = 0; k < n; k++)
        if (y[k] != i[1] && (y[k] < 0 || y[k] >= i[0])) return dl__bad_target(r->ctx, i, k, (int)y[k]);
    return true;
}

static void dl__targets_run(const dl_run_args *r)
{
    const int32_t *y = (const int32_t *)r->in[0];
    if (!dl__targets_fit(r, y, r->node->numel)) return;
    for (size_t k = 0; k < r->node->numel; k++) ((int32_t *)r->out)[k] = y[k] == r->node->i[1] ? 0 : y[k];
}

static void dl__target_weights_run(const dl_run_args *r)
{
    const int32_t *y = (const int32_t *)r->in[0];
    const dl_real *weight = r->node->n_in > 1 ? (const dl_real *)r->in[1] : NULL;
    if (!dl__targets_fit(r, y, r->node->numel)) return;
    for (size_t k = 0; k < r->node->numel; k++)
        ((dl_real *)r->out)[k] = y[k] == r->node->i[1] ? 0 : weight ? weight[y[k]] : 1;
}
static const dl_op dl__targets_op = { "targets", 0, NULL, dl__targets_run, NULL, NULL, NULL };
static const dl_op dl__target_weights_op = { "target_weights", 0, NULL, dl__target_weights_run, NULL, NULL, NULL };

#if DL__DEVICES
typedef char dl__bags_agree[(int)DL_DEVICE_BAGS == (int)DL__WHO_MIL ? 1 : -1];
DL_API bool dl_device_out_of_range(dl_context *ctx, const dl_op *op, const dl_index *i, size_t place, int value)
{
    if (op == &dl__one_hot_op) return dl__bad_class(ctx, i, place, value);
    if (op == &dl__targets_op || op == &dl__target_weights_op) return dl__bad_target(ctx, i, place, value);
    if (strncmp(op->name, "segment", 7)) return dl__bad_index(ctx, i, place, value);
    if (place >> 31) return dl__bad_bag(ctx, dl__segment_who[i[3]], (dl_index)(place & 0x7fffffff), value);
    return dl_fail(ctx, "dl_%s: offsets must rise from 0 to the %td rows of x; offsets[%zu] is %d",
        dl__segment_who[i[3]], i[1], place, value);
}
#endif

/* Shape [1,C,1,...] of class weights against x [N,C,...]. */
static dl_tensor dl__class_weight(dl_tensor weight, const dl_node *x)
{
    dl_shape s = dl__shape(x);
    for (int d = 0; d < s.ndim; d++) s.dim[d] = d == 1 ? x->dim[1] : 1;
    return dl_reshape(weight, s);
}

/* loss / total where total is not 0, else 0 */
static dl_tensor dl__safe_div(dl_tensor loss, dl_tensor total)
{
    dl_tensor zero = dl__scalar(loss.ctx, 0), none = dl_eq(total, zero);
    return dl_where(none, zero, dl_div(loss, dl_where(none, dl__scalar(loss.ctx, 1), total)));
}

/* log_p [N,C,...], target [N,...] of classes. */
static dl_tensor dl__class_loss(
    const char *who, int who_index, dl_tensor log_p, dl_tensor target, const dl_cross_entropy_desc *d)
{
    dl_node *n[3];
    dl_tensor in[3];
    dl_index i[3];
    in[0] = log_p, in[1] = target, in[2] = d->weight;
    dl_context *ctx = dl__operands(who, d->weight.ctx ? 3 : 2, in, n);
    if (!ctx) return dl__none();
    dl_shape rest = dl__shape(n[0]), pick = rest;
    for (int k = 1; k < rest.ndim - 1; k++) rest.dim[k] = rest.dim[k + 1];
    rest.ndim--;
    pick.dim[1] = 1;
    if (rest.ndim != n[1]->ndim || memcmp(rest.dim, n[1]->dim, sizeof *rest.dim * n[1]->ndim))
        return dl_fail(ctx, "dl_%s: logits %S need targets %H, not %S", who, n[0], &rest, n[1]), dl__none();
    i[0] = n[0]->dim[1], i[1] = d->set_ignore_index ? d->ignore_index : -100, i[2] = who_index;
    dl__extra e = dl__with(3, i);
    dl_tensor safe = dl__record(ctx, &dl__targets_op, 1, n + 1, DL_I32, &rest, &e);
    dl_tensor weight = dl__record(ctx, &dl__target_weights_op, d->weight.ctx ? 2 : 1, n + 1, DL_F32, &rest, &e);
    dl_tensor loss = dl_reshape(dl__gather(who_index, log_p, 1, dl_reshape(safe, pick), 1, &pick, false), rest);
    loss = dl_neg(dl_mul(loss, weight));
    if (d->label_smoothing > 0) {
        static const int one = 1;
        dl_tensor even = d->weight.ctx ? dl_mul(log_p, dl__class_weight(dl_detach(d->weight), n[0])) : log_p;
        dl_tensor counted =
            d->weight.ctx ? dl__record(ctx, &dl__target_weights_op, 1, n + 1, DL_F32, &rest, &e) : weight;
        even = dl_mul(dl_neg(dl_sum_dims(even, &one, 1, false)), counted);
        dl_real smooth = (dl_real)d->label_smoothing;
        loss = dl__unary(&dl__mul_scalar_op, loss, 1 - smooth, 0);
        loss = dl_add(loss, dl__unary(&dl__mul_scalar_op, even, smooth / (dl_real)i[0], 0));
    }
    if (d->reduction == DL_MEAN) return dl__safe_div(dl_sum(loss), dl_sum(weight));
    return dl__reduction(who, loss, d->reduction);
}

/* What cross_entropy and nll check alike; [C] becomes [1,C]. */
static dl_context *dl__class_checks(
    const char *who, dl_tensor *x, dl_tensor *target, const dl_cross_entropy_desc *d, dl_node **n)
{
    dl_tensor in[3];
    in[0] = *x, in[1] = *target, in[2] = d->weight;
    dl_context *ctx = dl__operands(who, d->weight.ctx ? 3 : 2, in, n);
    if (!ctx || !dl__is_float(ctx, who, n[0])) return NULL;
    if (!n[0]->ndim) return dl_fail(ctx, "dl_%s: takes [N,C,...] or [C], not %S", who, n[0]), (dl_context *)NULL;
    if (n[0]->ndim == 1) {
        bool soft = n[1]->dtype == DL_F32;
        if (n[1]->ndim != (soft ? 1 : 0))
            return dl_fail(ctx, "dl_%s: logits %S need a target %s, not %S", who, n[0],
                       soft ? "of the same shape" : "[]", n[1]),
                   (dl_context *)NULL;
        *x = in[0] = dl_reshape(*x, DL_SHAPE(1, n[0]->dim[0]));
        *target = in[1] = soft ? dl_reshape(*target, DL_SHAPE(1, n[1]->dim[0])) : dl_reshape(*target, DL_SHAPE(1));
        if (!dl__operands(who, 2, in, n)) return NULL;
    }
    if ((unsigned)d->reduction > DL_BATCHMEAN)
        return dl_fail(ctx, "dl_%s: there is no reduction %d", who, (int)d->reduction), (dl_context *)NULL;
    if (!(d->label_smoothing >= 0 && d->label_smoothing <= 1))
        return dl_fail(ctx, "dl_%s: label_smoothing %g is not between 0 and 1", who, (double)d->label_smoothing),
               (dl_context *)NULL;
    if (!dl__is_vector(ctx, who, "weight", d->weight, n[0]->dim[1])) return NULL;
    return ctx;
}

static dl_cross_entropy_desc dl__class_desc(const dl_cross_entropy_desc *desc)
{
    dl_cross_entropy_desc d;
    memset(&d, 0, sizeof d);
    return desc ? *desc : d;
}

/* With reduction none a sample without batch has a loss of shape []. */
static dl_tensor dl__unbatch(dl_tensor loss, bool single, dl_reduction reduction)
{
    return single && reduction == DL_NONE ? dl_reshape(loss, DL_SCALAR) : loss;
}

DL_API dl_tensor dl_nll(dl_tensor log_p, dl_tensor target, const dl_cross_entropy_desc *desc)
{
    dl_node *n[3];
    dl_cross_entropy_desc d = dl__class_desc(desc);
    dl_tensor x = log_p;
    dl_context *ctx = dl__class_checks("nll", &x, &target, &d, n);
    if (!ctx) return dl__none();
    if (n[1]->dtype != DL_I32)
        return dl_fail(ctx, "dl_nll: targets must be DL_I32, not %s", dl__dtype_names[n[1]->dtype]), dl__none();
    if (d.label_smoothing > 0)
        return dl_fail(ctx, "dl_nll: label_smoothing belongs to dl_cross_entropy_ex"), dl__none();
    return dl__unbatch(dl__class_loss("nll", DL__WHO_NLL, x, target, &d), x.node != log_p.node, d.reduction);
}

DL_API dl_tensor dl_cross_entropy_ex(dl_tensor logits, dl_tensor target, const dl_cross_entropy_desc *desc)
{
    static const char *const who = "cross_entropy";
    dl_node *n[3];
    dl_cross_entropy_desc d = dl__class_desc(desc);
    dl_tensor x = logits;
    dl_context *ctx = dl__class_checks(who, &x, &target, &d, n);
    if (!ctx) return dl__none();
    bool single = x.node != logits.node;
    if (n[1]->dtype == DL_U8)
        return dl_fail(ctx, "dl_cross_entropy: targets must be DL_I32 classes or DL_F32 probabilities, not DL_U8"),
               dl__none();
    if (n[1]->dtype == DL_I32) {
        if (n[1]->ndim != n[0]->ndim - 1)
            return dl_fail(ctx, "dl_cross_entropy: logits %S need targets [%td%s], not %S", n[0], n[0]->dim[0],
                       n[0]->ndim > 2 ? ",..." : "", n[1]),
                   dl__none();
        return dl__unbatch(
            dl__class_loss(who, DL__WHO_CROSS_ENTROPY, dl__softmax(who, x, 1, true), target, &d), single, d.reduction);
    }
    if (!dl__same_shape(n[0], n[1]))
        return dl_fail(ctx, "dl_cross_entropy: probabilities must have the shape of the logits: %S and %S", n[0], n[1]),
               dl__none();
    static const int one = 1;
    size_t classes = (size_t)n[0]->dim[1], samples = classes ? n[0]->numel / classes : 0;
    dl_tensor log_p = dl__softmax(who, x, 1, true);
    if (d.label_smoothing > 0) {
        target = dl__unary(&dl__mul_scalar_op, target, 1 - (dl_real)d.label_smoothing, 0);
        target = dl__unary(&dl__add_scalar_op, target, (dl_real)d.label_smoothing / (dl_real)classes, 0);
    }
    dl_tensor loss = dl_mul(target, log_p);
    if (d.weight.ctx) loss = dl_mul(loss, dl__class_weight(d.weight, n[0]));
    loss = dl_neg(dl_sum_dims(loss, &one, 1, false));
    if (d.reduction == DL_MEAN) return dl__unary(&dl__mul_scalar_op, dl_sum(loss), 1 / (dl_real)samples, 0);
    return dl__unbatch(dl__reduction(who, loss, d.reduction), single, d.reduction);
}
DL_API dl_tensor dl_cross_entropy(dl_tensor logits, dl_tensor target)
{
    return dl_cross_entropy_ex(logits, target, NULL);
}

/* ==== >>distillation ====
   Losses by which a network learns from another one, or from itself.
   may use: losses, normalisation */
/* Two tensors of one shape, ndim at least `least`, and a temperature, whose default is filled in. */
static dl_context *dl__distill_pair(const char *who, dl_tensor a, dl_tensor b, int least, float *temperature)
{
    dl_node *n[2];
    dl_tensor in[2];
    in[0] = a, in[1] = b;
    dl_context *ctx = dl__operands(who, 2, in, n);
    if (!ctx || !dl__is_float(ctx, who, n[0]) || !dl__is_float(ctx, who, n[1])) return NULL;
    if (n[0]->ndim < least || !dl__same_shape(n[0], n[1]))
        return dl_fail(ctx, "dl_%s: takes two tensors of one shape with %d dimensions or more, not %S and %S", who,
                   least, n[0], n[1]),
               (dl_context *)NULL;
    if (*temperature == 0) *temperature = 1;
    if (!(*temperature > 0 && *temperature < 1e6f))
        return dl_fail(ctx, "dl_%s: the temperature must be positive, not %g", who, (double)*temperature),
               (dl_context *)NULL;
    return ctx;
}

/* sum(x) factor / N */
static dl_tensor dl__per_sample(dl_tensor x, double factor)
{
    return dl__unary(&dl__mul_scalar_op, dl_sum(x), (dl_real)(factor / (double)DL__MAX(dl_dim(x, 0), 1)), 0);
}

/* log softmax(z / T) */
static dl_tensor dl__log_p(dl_tensor z, float temperature)
{
    return dl_log_softmax(
        temperature == 1 ? z : dl__unary(&dl__mul_scalar_op, z, (dl_real)(1 / (double)temperature), 0), 1);
}

/* T^2 KL(p_a || p_b); the gradient goes to b alone. */
static dl_tensor dl__soft_loss(const char *who, dl_tensor za, dl_tensor zb, float temperature)
{
    if (!dl__distill_pair(who, za, zb, 2, &temperature)) return dl__none();
    dl_tensor a = dl_detach(dl__log_p(za, temperature)), b = dl__log_p(zb, temperature);
    return dl__per_sample(dl_mul(dl_exp(a), dl_sub(a, b)), (double)temperature * (double)temperature);
}

DL_API dl_tensor dl_symmetric_kl(dl_tensor za, dl_tensor zb, float temperature) /* sum (pa - pb) (log pa - log pb) */
{
    if (!dl__distill_pair("symmetric_kl", za, zb, 2, &temperature)) return dl__none();
    dl_tensor a = dl__log_p(za, temperature), b = dl__log_p(zb, temperature);
    return dl__per_sample(
        dl_mul(dl_sub(dl_exp(a), dl_exp(b)), dl_sub(a, b)), (double)temperature * (double)temperature);
}

DL_API dl_tensor dl_linear_mmd(dl_tensor a, dl_tensor b)
{
    static const int zero = 0;
    dl_node *n[2];
    dl_tensor in[2];
    in[0] = a, in[1] = b;
    dl_context *ctx = dl__operands("linear_mmd", 2, in, n);
    if (!ctx || !dl__is_float(ctx, "linear_mmd", n[0]) || !dl__is_float(ctx, "linear_mmd", n[1])) return dl__none();
    bool fits = n[0]->ndim >= 2 && n[0]->ndim == n[1]->ndim && n[0]->dim[0] > 0 && n[1]->dim[0] > 0;
    for (int i = 1; fits && i < n[0]->ndim; i++) fits = n[0]->dim[i] == n[1]->dim[i];
    if (!fits)
        return dl_fail(ctx, "dl_linear_mmd: takes rows of one shape, [N,...] and [M,...], not %S and %S", n[0], n[1]),
               dl__none();
    return dl_sum(dl_square(dl_sub(dl_mean_dims(a, &zero, 1, false), dl_mean_dims(b, &zero, 1, false))));
}

DL_API dl_tensor dl_self_distillation(
    dl_tensor za, dl_tensor zb, dl_tensor fa, dl_tensor fb, dl_tensor y, const dl_self_distillation_desc *desc)
{
    dl_self_distillation_desc d;
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    if (za.ctx && !(d.kl >= 0 && d.mmd >= 0))
        return dl_fail(za.ctx, "dl_self_distillation: weights kl %g and mmd %g must not be negative", (double)d.kl,
                   (double)d.mmd),
               dl__none();
    dl_tensor loss = dl_add(dl_cross_entropy(za, y), dl_cross_entropy(zb, y));
    if (d.kl > 0) loss = dl_add(loss, dl_mul_scalar(dl_symmetric_kl(za, zb, d.temperature), d.kl));
    if (d.mmd > 0) loss = dl_add(loss, dl_mul_scalar(dl_linear_mmd(fa, fb), d.mmd));
    return loss;
}

DL_API dl_tensor dl_distill_logits(dl_tensor z, dl_tensor teacher, dl_tensor y, const dl_distillation_desc *desc)
{
    float hard = desc ? desc->hard : 0, temperature = desc ? desc->temperature : 0;
    if (z.ctx && !(hard >= 0 && hard <= 1))
        return dl_fail(z.ctx, "dl_distill_logits: hard %g is not between 0 and 1", (double)hard), dl__none();
    dl_tensor soft = dl__soft_loss("distill_logits", teacher, z, temperature);
    if (!(hard > 0)) return soft;
    return dl_add(dl_mul_scalar(soft, 1 - hard), dl_mul_scalar(dl_cross_entropy(z, y), hard));
}

DL_API dl_tensor dl_distill_features(dl_tensor x, dl_tensor teacher)
{
    float unused = 0;
    if (!dl__distill_pair("distill_features", x, teacher, 1, &unused)) return dl__none();
    return dl_mse(x, dl_detach(teacher), DL_MEAN);
}

/* [N,C,H,W] -> [N,HW], rows of norm 1, or 0 where x is */
static dl_tensor dl__attention_map(dl_tensor x)
{
    static const int one = 1;
    dl_tensor q = dl_flatten(dl_mean_dims(dl_square(x), &one, 1, false), 1);
    return dl_div(q, dl_maximum(dl_norm_dims(q, &one, 1, true), dl__scalar(x.ctx, 1e-12)));
}

DL_API dl_tensor dl_distill_attention(dl_tensor x, dl_tensor teacher)
{
    dl_node *n[2];
    dl_tensor in[2];
    in[0] = x, in[1] = teacher;
    dl_context *ctx = dl__operands("distill_attention", 2, in, n);
    if (!ctx || !dl__is_float(ctx, "distill_attention", n[0]) || !dl__is_float(ctx, "distill_attention", n[1]))
        return dl__none();
    const dl_index *a = n[0]->dim, *b = n[1]->dim;
    if (n[0]->ndim != 4 || n[1]->ndim != 4 || a[0] != b[0] || a[2] != b[2] || a[3] != b[3])
        return dl_fail(ctx, "dl_distill_attention: takes [N,C,H,W] whose N, H and W agree, not %S and %S", n[0], n[1]),
               dl__none();
    return dl_mse(dl__attention_map(x), dl_detach(dl__attention_map(teacher)), DL_MEAN);
}

DL_API dl_tensor dl_mutual_learning(dl_tensor z, dl_tensor other, dl_tensor y, float temperature)
{
    return dl_add(dl_cross_entropy(z, y), dl__soft_loss("mutual_learning", other, z, temperature));
}

/* ==== >>autodiff ====
   Gradients are nodes like others: a walk over the tape, back from the result, by each operation's rule.
   may use: elementwise operations (to add) and reductions (to undo broadcasting) */

/* Marks in reach[] the nodes up to `end` that depend on a marked leaf. */
static void dl__reach(const dl_context *ctx, uint32_t end, bool *reach)
{
    for (uint32_t i = 0; i <= end; i++) {
        const dl_node *n = ctx->node[i];
        for (int k = 0; k < n->n_in && !reach[i]; k++) reach[i] = n->flags & DL__REQUIRES && reach[n->in[k]->id];
    }
}

/* Adds its input to a parameter's place in the flat gradients, or overwrites it; i = parameter, add. The planner lets
   the producer write there itself where it can. */
static void dl__accumulate_run(const dl_run_args *r)
{
    if (r->node->i[1]) DL__CALL(r->level, add_to, ((dl_real *)r->out, (const dl_real *)r->in[0], r->n));
    else memcpy(r->out, r->in[0], r->n * sizeof(dl_real));
}
static const dl_op dl__accumulate_op = { "accumulate", DL_OP_ELEMENTWISE, NULL, dl__accumulate_run, NULL, NULL, NULL };

static void dl__accumulate(dl_context *ctx, const dl_node *leaf, dl_tensor grad)
{
    dl_node *g;
    dl_index i[2];
    dl__param *p = &ctx->param[leaf->i[0]];
    if (!dl__operands("backward", 1, &grad, &g)) return;
    i[0] = leaf->i[0];
    i[1] = !p->fresh;
    dl__extra e = dl__with(2, i);
    dl_shape s = dl__shape(leaf);
    e.space = DL__GRADS;
    e.offset = p->offset;
    if (dl__record(ctx, &dl__accumulate_op, 1, &g, DL_F32, &s, &e).ctx) p->fresh = false;
}

/* After an error: what was to be overwritten was perhaps not written, so it is no gradient. */
static bool dl__no_gradients(dl_context *ctx, uint32_t from)
{
    for (uint32_t i = from; i < ctx->nodes; i++) {
        const dl_node *n = ctx->node[i];
        if (n->op == &dl__accumulate_op && !n->i[1]) ctx->param[n->i[0]].fresh = true;
    }
    return false;
}

/* Adds to grad what the rule of the node makes of it; `g` has node, dy and more. */
static bool dl__node_back(dl_context *ctx, dl_grad_args *g, const bool *reach, dl_tensor *grad)
{
    dl_tensor x[DLTRAIN_MAX_INPUTS], dx[DLTRAIN_MAX_INPUTS];
    bool want[DLTRAIN_MAX_INPUTS];
    const dl_node *n = g->node;
    for (int k = 0; k < n->n_in; k++) {
        x[k] = dl__handle(ctx, n->in[k]);
        want[k] = reach[n->in[k]->id];
        dx[k] = dl__none();
    }
    g->y = dl__handle(ctx, n);
    g->x = x;
    g->want = want;
    g->dx = dx;
    n->op->grad(g);
    if (ctx->failed) return false;
    for (int k = 0; k < n->n_in; k++) {
        if (!want[k] || !dx[k].ctx) continue;
        dl_tensor *to = &grad[n->in[k]->id], d = dl__sum_to(dx[k], n->in[k]);
        *to = to->ctx ? dl_add(*to, d) : d;
    }
    return !ctx->failed;
}

/* The gradients of slices i, next[i], next[next[i]], ... of one tensor, a few at a time: together they may need
   no zeros and no sums. */
static bool dl__slices_back(dl_context *ctx, uint32_t i, const uint32_t *next, const bool *reach, dl_tensor *grad)
{
    dl_grad_args part[DL__SLICES];
    while (i) {
        int n = 0;
        for (; i && n < DL__SLICES; i = next[i]) {
            if (!grad[i].ctx) continue;
            part[n].node = ctx->node[i];
            part[n].dy = grad[i];
            part[n].more = n ? &part[n - 1] : NULL;
            n++;
        }
        if (n && !dl__node_back(ctx, &part[n - 1], reach, grad)) return false;
    }
    return true;
}

/* grad[i] of every node i up to y's that is on a path from a marked leaf; grad[y] is `dy`. `collect`: those of
   parameters go to the flat gradients as soon as they are complete. Slices of one tensor are served when the first of
   them is reached: all are complete then. */
static bool dl__differentiate(dl_context *ctx, uint32_t y, dl_tensor dy, bool *reach, dl_tensor *grad, bool collect)
{
    uint32_t *last = NULL, *next = NULL; /* slice of a node, and the one before it */
    dl__reach(ctx, y, reach);
    for (uint32_t i = 0; i <= y; i++) {
        const dl_node *n = ctx->node[i];
        if (!(n->op->flags & DL__OP_CROPS) || !reach[i] || !reach[n->in[0]->id]) continue;
        if (!last) {
            last = (uint32_t *)dl__tape_alloc(ctx, 2 * ((size_t)y + 1) * sizeof *last, 0);
            if (!last) return false;
            memset(last, 0, 2 * ((size_t)y + 1) * sizeof *last);
            next = last + y + 1;
        }
        next[i] = last[n->in[0]->id];
        last[n->in[0]->id] = i;
    }
    grad[y] = dy;
    for (uint32_t i = y + 1; i-- > 0;) {
        dl_grad_args g;
        g.node = ctx->node[i];
        g.dy = grad[i];
        g.more = NULL;
        if (!reach[i]) continue;
        if (g.node->op->flags & DL__OP_CROPS && reach[g.node->in[0]->id]) {
            if (!next[i] && !dl__slices_back(ctx, last[g.node->in[0]->id], next, reach, grad)) return false;
        } else if (!grad[i].ctx) continue;
        else if (g.node->op != &dl__leaf_op) {
            if (!dl__node_back(ctx, &g, reach, grad)) return false;
        } else if (collect && dl__is_param(g.node)) dl__accumulate(ctx, g.node, grad[i]);
    }
    return true;
}

/* Scratch on the tape for both arrays. Stays until the step ends: nodes are recorded above it. */
static bool dl__grad_arrays(dl_context *ctx, uint32_t n, bool **reach, dl_tensor **grad)
{
    *reach = (bool *)dl__tape_alloc(ctx, n, 0);
    *grad = *reach ? (dl_tensor *)dl__tape_alloc(ctx, n * sizeof **grad, n) : NULL;
    if (!*grad) return false;
    memset(*reach, 0, n);
    memset(*grad, 0, n * sizeof **grad);
    return true;
}

static dl_node *dl__loss_node(dl_tensor y, const char *who)
{
    dl_node *n;
    if (y.ctx && !y.ctx->failed && y.step == y.ctx->step && y.ctx->ended)
        return dl_fail(y.ctx, "dl_%s: the step has ended already; dl_backward_ex with .retain keeps it open", who),
               (dl_node *)NULL;
    dl_context *ctx = dl__operands(who, 1, &y, &n);
    if (!ctx || !dl__is_float(ctx, who, n)) return NULL;
    return n->numel == 1
        ? n
        : (dl_fail(ctx, "dl_%s: takes a tensor of one element, not %S; dl_mean or dl_sum makes one", who, n),
              (dl_node *)NULL);
}

DL_API bool dl_grad(dl_tensor y, const dl_tensor *x, int n, dl_tensor *dx)
{
    dl_node *node = dl__loss_node(y, "grad"), *leaf;
    dl_context *ctx = y.ctx;
    dl_tensor *grad;
    bool *reach;
    if (!node) return false;
    if (!x || !dx || n < 1) return dl_fail(ctx, "dl_grad: x or dx is NULL, or there are %d of them", n);
    if (!dl__grad_arrays(ctx, node->id + 1, &reach, &grad)) return false;
    for (int k = 0; k < n; k++) {
        if (!dl__operands("grad", 1, &x[k], &leaf)) return false;
        if (!(leaf->flags & DL__REQUIRES)) return dl_fail(ctx,
            "dl_grad: x[%d] (%s, node %u) takes no gradient; dl_variable and parameters do, and what is made of them",
            k, leaf->op->name, leaf->id);
        if (leaf->id <= node->id) reach[leaf->id] = true;
    }
    if (!dl__differentiate(ctx, node->id, dl_full(ctx, dl__shape(node), 1), reach, grad, false)) return false;
    for (int k = 0; k < n; k++) {
        if (!dl__operands("grad", 1, &x[k], &leaf)) return false;
        dx[k] = leaf->id <= node->id && grad[leaf->id].ctx ? grad[leaf->id] : dl_full(ctx, dl__shape(leaf), 0);
    }
    return !ctx->failed;
}

DL_API bool dl_backward_ex(dl_tensor loss, const dl_backward_desc *desc)
{
    dl_node *node = dl__loss_node(loss, "backward");
    dl_context *ctx = loss.ctx;
    dl_tensor *grad;
    bool *reach, any = false;
    const char *pattern = desc ? desc->pattern : NULL;
    if (!node || !dl__matches(ctx, "backward", pattern) || !dl__lay_out_grads(ctx) ||
        !dl__grad_arrays(ctx, node->id + 1, &reach, &grad))
        return false;
    for (uint32_t i = 0; i <= node->id; i++) {
        const dl_node *n = ctx->node[i];
        if (!dl__is_param(n) || !(n->flags & DL__WANTED) || (pattern && !dl_glob(pattern, ctx->param[n->i[0]].name)))
            continue;
        any = reach[i] = true;
    }
    if (!any) return dl_fail(ctx, "dl_backward: no parameter that can be trained is used in this step");
    uint32_t from = ctx->nodes;
    size_t count = desc && ctx->replica ? desc->count : 0;
    float scale = (desc && desc->scale != 0 ? desc->scale : 1) * (count ? (float)count : 1);
    bool recording = dl_set_grad(ctx, false);
    ctx->ending = !(desc && desc->retain);
    bool ok = dl__differentiate(ctx, node->id, dl_full(ctx, dl__shape(node), scale), reach, grad, true);
    ctx->ending = false;
    dl_set_grad(ctx, recording);
    if (!ok || ctx->failed) return dl__no_gradients(ctx, from);
    any = false;
    for (uint32_t i = 0; i <= node->id && !any; i++) any = grad[i].ctx && dl__is_param(ctx->node[i]);
    if (!any) return dl_fail(ctx, "dl_backward: the loss depends on no parameter that can be trained");
    if (ctx->replica && !ctx->replica->before_backward(ctx, from, pattern, count)) return dl__no_gradients(ctx, from);
    if (!dl__run(ctx, !(desc && desc->retain))) return dl__no_gradients(ctx, from);
    if (!(desc && desc->retain)) ctx->ended = true;
    return !ctx->replica || ctx->replica->after_backward(ctx, pattern);
}
DL_API bool dl_backward(dl_tensor loss) { return dl_backward_ex(loss, NULL); }

/* ==== >>planner ====
   From a segment of the tape to memory offsets and a list of launches.
   may use: moving operations */

/* Does the view show all of its root, element by element? */
static bool dl__whole(const dl_node *n) { return n->numel == dl__root(n)->numel; }

enum {
    DL__ADDS = 1,
    DL__GONE_AFTER = 2,
    DL__FOLDED = 4
}; /* adds to its output; is gone after the run; its input's node does its work */

/* What the planner knows of each node of the tape while it works. */
typedef struct dl__life {
    /* the last node that reads it, its own when nobody does: numbers, then places in the order of execution */
    uint32_t last;
    uint32_t launch;     /* where it is computed */
    uint32_t read;       /* the latest launch that reads it, so far */
    unsigned readers : 31;
    unsigned freed : 1;  /* its memory was given back, or passed on */
} dl__life;
typedef struct dl__gap { size_t at, size; } dl__gap;
typedef struct dl__planning {
    dl_context *ctx;
    dl__plan *plan;
    uint32_t start, end;
    bool recycle;        /* values may share memory */
    dl__life *life;
    dl__gap *gap;        /* free memory below `top`, by offset */
    size_t gaps, top;
} dl__planning;

static size_t dl__take(dl__planning *p, size_t size) /* best fit */
{
    size_t best = SIZE_MAX, at;
    for (size_t i = 0; i < p->gaps; i++)
        if (p->gap[i].size >= size && (best == SIZE_MAX || p->gap[i].size < p->gap[best].size)) best = i;
    if (best == SIZE_MAX) {
        if (p->gaps && p->gap[p->gaps - 1].at + p->gap[p->gaps - 1].size == p->top) { /* grow the last gap */
            at = p->gap[--p->gaps].at;
            p->top = at + size;
            return at;
        }
        at = p->top;
        p->top += size;
        return at;
    }
    at = p->gap[best].at;
    p->gap[best].at += size;
    p->gap[best].size -= size;
    if (!p->gap[best].size) memmove(p->gap + best, p->gap + best + 1, (--p->gaps - best) * sizeof *p->gap);
    return at;
}

static void dl__give(dl__planning *p, size_t at, size_t size)
{
    size_t i = 0;
    while (i < p->gaps && p->gap[i].at < at) i++;
    if (i && p->gap[i - 1].at + p->gap[i - 1].size == at) {
        p->gap[i - 1].size += size;
        if (i < p->gaps && at + size == p->gap[i].at) {
            p->gap[i - 1].size += p->gap[i].size;
            memmove(p->gap + i, p->gap + i + 1, (--p->gaps - i) * sizeof *p->gap);
        }
        return;
    }
    if (i < p->gaps && at + size == p->gap[i].at) {
        p->gap[i].at = at;
        p->gap[i].size += size;
        return;
    }
    memmove(p->gap + i + 1, p->gap + i, (p->gaps++ - i) * sizeof *p->gap);
    p->gap[i].at = at;
    p->gap[i].size = size;
}

/* Must the value be readable afterwards? */
static bool dl__stays(const dl__planning *p, const dl_node *n)
{
    const dl__life *l = &p->life[n->id];
    return !p->recycle || n->flags & DL__KEPT || dl__bytes(n) <= 64 || !l->readers;
}

static bool dl__runs(const dl_node *n)
{
    return !(n->flags & DL__LEAF) && (!(n->flags & DL__VIEW) || n->flags & DL__EFFECT);
}

/* Node `place` in the order of execution. */
static const dl_node *dl__in_order(const dl__planning *p, uint32_t place)
{
    return p->ctx->node[p->start + p->plan->order[place]];
}

static void dl__find_lives(dl__planning *p)
{
    for (uint32_t i = 0; i < p->end; i++) {
        dl__life *l = &p->life[i];
        memset(l, 0, sizeof *l);
        l->last = i;
    }
    for (uint32_t i = p->start; i < p->end; i++) {
        const dl_node *n = p->ctx->node[i];
        if (n->flags & DL__KEPT && n->flags & DL__VIEW) p->ctx->node[dl__root(n)->id]->flags |= DL__KEPT;
        if (n->flags & DL__VIEW && !(n->flags & DL__EFFECT)) continue;
        for (int k = 0; k < n->n_in; k++) {
            p->life[dl__root(n->in[k])->id].last = i;
            for (const dl_node *v = n->in[k];; v = v->in[0]) { /* a view that is read is a reading of what it shows */
                p->life[v->id].readers++;
                if (!(v->flags & DL__VIEW)) break;
            }
        }
    }
    for (uint32_t i = p->end; i-- > p->start;) { /* a view nobody reads keeps what it shows, and so does a small one */
        const dl_node *n = p->ctx->node[i], *root = dl__root(n);
        if (root != n && (!p->life[i].readers || dl__bytes(n) <= 64) && !(n->flags & DL__EFFECT))
            p->ctx->node[root->id]->flags |= DL__KEPT;
    }
}

/* Lets the producers of gradients write into the flat gradients themselves where they can. */
static void dl__fold(dl__planning *p)
{
    dl_context *ctx = p->ctx;
    for (uint32_t i = p->start; i < p->end; i++) {
        const dl_node *n = ctx->node[i];
        if (n->op != &dl__accumulate_op) continue;
        const dl_node *from = n->in[0], *root = dl__root(from);
        uint32_t x = root->id - p->start;
        bool add = n->i[1] != 0, can = root->id >= p->start && dl__runs(root) && dl__whole(from) &&
            !(root->flags & (DL__KEPT | DL__EFFECT)) && root->op != &dl__accumulate_op &&
            p->life[root->id].readers == 1 && /* tiles overwrite: */
            (!add || (root->op->flags & (DL_OP_ACCUMULATES | DL_OP_ELEMENTWISE)) == DL_OP_ACCUMULATES);
        if (!can) continue;
        p->plan->space[x] = DL__GRADS;
        p->plan->offset[x] = n->offset;
        p->plan->does[x] = add ? DL__ADDS : 0;
        p->plan->does[i - p->start] = DL__FOLDED;
    }
}

enum { DL__GROUP = 48 }; /* nodes of a launch, at most */
/* Can node n be run with this launch: behind all it reads, and tile by tile with what it reads of the launch? */
static bool dl__joins(const dl__planning *p, const dl_node *n, const dl__launch *l)
{
    const dl_node *head = p->ctx->node[p->start + l->first];
    uint32_t launch = (uint32_t)(l - p->plan->launch);
    bool joins = l->count < DL__GROUP && head->numel == n->numel &&
        head->op->flags & (DL_OP_ELEMENTWISE | DL_OP_FINISHES);
    for (int k = 0; joins && k < n->n_in; k++) {
        const dl_node *x = dl__root(n->in[k]);
        if (x->id >= p->start && dl__runs(x))
            joins = p->life[x->id].launch < launch || (p->life[x->id].launch == launch && dl__whole(n->in[k]));
    }
    return joins;
}

/* The launch that elementwise node n goes to: one of whose values nothing is left then, so that no more is kept than as
   it was recorded; or the latest; or one of its own. What reads buffers stays behind what changes them. */
static dl__launch *dl__launch_for(const dl__planning *p, const dl_node *n)
{
    dl__launch *latest = p->plan->launch + p->plan->launches;
    if (!(n->op->flags & DL_OP_ELEMENTWISE) || p->ctx->config.no_fusion) return latest;
    bool moves = true;
    for (int k = 0; k < n->n_in; k++) moves = moves && dl__root(n->in[k])->space != DL__BUFFERS;
    for (int k = 0; moves && k < n->n_in; k++) {
        const dl_node *x = dl__root(n->in[k]);
        const dl__life *life = &p->life[x->id];
        if (x->id < p->start || !dl__runs(x) || life->last != n->id || life->read > life->launch) continue;
        dl__launch *l = p->plan->launch + life->launch;
        if (dl__joins(p, n, l)) return l;
    }
    return latest > p->plan->launch && dl__joins(p, n, latest - 1) ? latest - 1 : latest;
}

/* Nodes become launches, and these the order of execution. */
static void dl__find_launches(dl__planning *p)
{
    dl__plan *plan = p->plan;
    uint32_t place = 0;
    plan->launches = 0;
    for (uint32_t i = p->start; i < p->end; i++) {
        const dl_node *n = p->ctx->node[i];
        if (!dl__runs(n) || plan->does[i - p->start] & DL__FOLDED) continue;
        dl__launch *l = dl__launch_for(p, n);
        p->life[i].launch = (uint32_t)(l - plan->launch);
        if (p->life[i].launch == plan->launches) {
            memset(l, 0, sizeof *l);
            l->first = i - p->start;
            plan->launches++;
        }
        l->count++;
        for (int k = 0; k < n->n_in; k++) {
            dl__life *x = &p->life[dl__root(n->in[k])->id];
            x->read = DL__MAX(x->read, p->life[i].launch);
        }
    }
    for (uint32_t i = 0; i < plan->launches; i++) {
        plan->launch[i].first = place;
        place += plan->launch[i].count;
        plan->launch[i].count = 0;
    }
    for (uint32_t i = p->start; i < p->end; i++) {
        dl__launch *l = &plan->launch[p->life[i].launch];
        if (dl__runs(p->ctx->node[i]) && !(plan->does[i - p->start] & DL__FOLDED))
            plan->order[l->first + l->count++] = i - p->start;
    }
    for (uint32_t at = 0; at < place; at++) {
        const dl_node *n = dl__in_order(p, at);
        p->life[n->id].last = at;
        for (int k = 0; k < n->n_in; k++) p->life[dl__root(n->in[k])->id].last = at;
    }
}

/* May the node at `place` of this launch write over x? Its last reader has been, and the launch reads it
   element by element. */
static bool dl__in_place(const dl__planning *p, const dl__launch *l, uint32_t place, const dl_node *x)
{
    const dl_node *n = dl__in_order(p, place);
    if (!p->recycle || p->ctx->config.no_reuse || x->id < p->start || !dl__runs(x) || p->life[x->id].last > place ||
        p->life[x->id].freed || p->plan->space[x->id - p->start] != DL__MEMORY || dl__stays(p, x))
        return false;
    if (x->numel != n->numel || x->dtype != n->dtype) return false;
    for (uint32_t i = l->first; i <= place; i++) {
        const dl_node *m = dl__in_order(p, i);
        for (int k = 0; k < m->n_in; k++)
            if (dl__root(m->in[k]) == x && !(m->op->flags & DL_OP_ELEMENTWISE && dl__whole(m->in[k]))) return false;
    }
    return true;
}

/* Where the node at `place` of a launch writes: over something that is of no more use, or to new memory. */
static size_t dl__place_value(dl__planning *p, const dl__launch *l, uint32_t place)
{
    const dl_node *n = dl__in_order(p, place);
    for (uint32_t i = place + 1; n->op->flags & DL_OP_ELEMENTWISE && i-- > l->first;)
        for (int k = 0; k < dl__in_order(p, i)->n_in; k++) {
            const dl_node *x = dl__root(dl__in_order(p, i)->in[k]);
            if (!dl__in_place(p, l, place, x)) continue;
            p->life[x->id].freed = 1;
            return p->plan->offset[x->id - p->start];
        }
    return dl__take(p, dl__round(dl__bytes(n)));
}

static void dl__free_dead(dl__planning *p, uint32_t place)
{
    const dl_node *n = dl__in_order(p, place);
    for (int k = 0; k < n->n_in; k++) {
        const dl_node *x = dl__root(n->in[k]);
        if (x->id < p->start || p->life[x->id].last != place || !dl__runs(x) ||
            p->plan->space[x->id - p->start] != DL__MEMORY || dl__stays(p, x) || p->ctx->config.no_reuse ||
            p->life[x->id].freed)
            continue;
        p->life[x->id].freed = 1;
        dl__give(p, p->plan->offset[x->id - p->start], dl__round(dl__bytes(x)));
    }
}

/* Places every value of a launch; one that lives and dies in it takes a tile, but for that of a head that
   is not elementwise. */
static void dl__place_launch(dl__planning *p, dl__launch *l)
{
    uint8_t taken[DL__GROUP + 1];
    uint32_t end = l->first + l->count;
    memset(taken, 0, sizeof taken);
    for (uint32_t i = l->first; i < end; i++) {
        const dl_node *n = dl__in_order(p, i);
        uint8_t *space = &p->plan->space[n->id - p->start];
        size_t *offset = &p->plan->offset[n->id - p->start];
        if (!(n->flags & DL__EFFECT) && *space != DL__GRADS) {
            bool local = n->op->flags & DL_OP_ELEMENTWISE && !dl__stays(p, n) && p->life[n->id].last < end;
            if (local)
                for (*offset = 0; taken[*offset];) ++*offset;
            else *offset = dl__place_value(p, l, i);
            *space = local ? DL__TILE : DL__MEMORY;
            if (local) taken[*offset] = 1, l->slots = DL__MAX(l->slots, (uint32_t)*offset + 1);
        }
        for (int k = 0; k < n->n_in; k++) { /* tiles that are read for the last time */
            const dl_node *x = dl__root(n->in[k]);
            if (x->id >= p->start && p->plan->space[x->id - p->start] == DL__TILE && p->life[x->id].last == i)
                taken[p->plan->offset[x->id - p->start]] = 0;
        }
    }
    for (uint32_t i = l->first; i < end; i++) dl__free_dead(p, i);
}

/* Scratch of a launch: that of its head, then the tiles. */
static size_t dl__launch_scratch(const dl__planning *p, dl__launch *l)
{
    const dl_node *head = dl__in_order(p, l->first);
    size_t tile = DL__MIN((size_t)DLTRAIN_TILE, head->numel), stretched = 0;
    for (uint32_t i = l->first; i < l->first + l->count; i++) { /* inputs that have to be stretched take a tile each */
        const dl_node *n = dl__in_order(p, i);
        size_t now = 0;
        for (int k = 0; n->op->flags & DL_OP_ELEMENTWISE && k < n->n_in; k++) now += n->in[k]->numel != n->numel;
        stretched = DL__MAX(stretched, now);
    }
    l->tiles = head->op->scratch ? dl__round(head->op->scratch(head)) : 0;
    return l->tiles + dl__round((l->slots + stretched) * tile * sizeof(dl_real));
}

/* Fills a plan whose arrays are there. */
static void dl__make_plan(dl__planning *p)
{
    dl_context *ctx = p->ctx;
    p->gaps = p->top = 0;
    dl__find_lives(p);
    for (uint32_t i = p->start; i < p->end; i++) {
        p->plan->space[i - p->start] = ctx->node[i]->op == &dl__accumulate_op ? DL__GRADS : DL__GONE;
        p->plan->offset[i - p->start] = ctx->node[i]->op == &dl__accumulate_op ? ctx->node[i]->offset : 0;
        p->plan->does[i - p->start] = 0;
    }
    dl__fold(p);
    dl__find_launches(p);
    p->plan->scratch = 0;
    for (uint32_t i = 0; i < p->plan->launches; i++) {
        dl__place_launch(p, &p->plan->launch[i]);
        p->plan->scratch = DL__MAX(p->plan->scratch, dl__launch_scratch(p, &p->plan->launch[i]));
    }
    for (uint32_t i = p->start; i < p->end; i++)
        if (p->life[i].freed || p->plan->space[i - p->start] == DL__TILE) p->plan->does[i - p->start] |= DL__GONE_AFTER;
    p->plan->work = p->top;
}

/* The plan of the segment: from the cache, or made. In eager mode it lives on the tape. */
static dl__plan *dl__plan_for(dl_context *ctx, bool recycle, dl__plan *eager)
{
    uint32_t start = ctx->done, end = ctx->nodes, n = end - start;
    uint64_t key = dl__mix(dl__mix(dl__mix(ctx->hash, (uint64_t)start << 32 | end), ctx->layout), (uint64_t)recycle);
    dl__plan *p = eager;
    dl__planning planning;
    size_t need = n * (sizeof *p->offset + sizeof *p->launch + sizeof *p->order + 2);
    if (!eager) {
        p = &ctx->plan[0];
        for (int i = 0; i < DLTRAIN_PLANS; i++) {
            dl__plan *q = &ctx->plan[i];
            if (q->memory && q->key == key && q->nodes == n) return q->used_at = ++ctx->clock, q;
            if (q->used_at < p->used_at) p = q;
        }
        if (need > p->capacity) {
            dl__release(ctx, p->memory);
            p->capacity = 0;
            p->memory = (char *)dl__alloc(ctx, need, 2 * (size_t)n);
            if (!p->memory) return NULL;
            p->capacity = need;
        }
    } else if (!(p->memory = (char *)dl__tape_alloc(ctx, need, 2 * (size_t)n))) return NULL;
    p->offset = (size_t *)(void *)p->memory;
    p->launch = (dl__launch *)(p->offset + n);
    p->order = (uint32_t *)(p->launch + n);
    p->space = (uint8_t *)(p->order + n);
    p->does = p->space + n;
    p->nodes = n;
    p->key = key;
    p->used_at = ++ctx->clock;
    memset(&planning, 0, sizeof planning);
    planning.ctx = ctx;
    planning.plan = p;
    planning.start = start;
    planning.end = end;
    planning.recycle = recycle;
    dl__mark mark = dl__tape_mark(ctx);
    planning.life = (dl__life *)dl__tape_alloc(ctx, end * sizeof *planning.life, 0);
    planning.gap = planning.life ? (dl__gap *)dl__tape_alloc(ctx, (n + 1) * sizeof *planning.gap, 2 * (size_t)(n + 1))
                                 : NULL;
    if (planning.gap) dl__make_plan(&planning);
    if (!eager) dl__tape_release(ctx, mark);
    if (planning.gap) return p;
    p->key = 0;
    p->nodes = UINT32_MAX;
    return NULL;
}

/* ==== >>executor ====
   Runs a plan on the threads; contexts, measuring and your own operations.
   may use: planner, platform */
typedef struct dl__task {
    dl_context *ctx;
    const dl__plan *plan;
    const dl__launch *launch;
    uint32_t start;
    size_t per;          /* elements of a part of a group */
    const dl_run_args *args;
    void (*fn)(const dl_run_args *args, size_t part);
} dl__task;

static void dl__parallel_part(void *user, size_t part, int thread)
{
    const dl__task *t = (const dl__task *)user;
    dl_run_args a = *t->args;
    if (a.scratch) a.scratch = (char *)a.scratch + (size_t)thread * t->ctx->scratch_stride;
    t->fn(&a, part);
}

DL_API void dl_parallel(const dl_run_args *args, size_t parts, void (*fn)(const dl_run_args *args, size_t part))
{
    dl__task t;
    memset(&t, 0, sizeof t);
    t.ctx = args->ctx;
    t.args = args;
    t.fn = fn;
    bool tile = args->node->op->flags & DL_OP_ELEMENTWISE; /* the threads are at work on the others */
    if (!tile && parts > 1) dl__pool_run(&args->ctx->pool, parts, 1, dl__parallel_part, &t);
    else
        for (size_t i = 0; i < parts; i++) fn(args, i);
}

/* n times the element of `size` bytes. */
DL__HOT static void dl__repeat(char *to, const char *element, size_t size, size_t n)
{
    uint32_t v;
    if (size != sizeof v) {
        for (size_t i = 0; i < n; i++) memcpy(to + i * size, element, size);
        return;
    }
    memcpy(&v, element, size);
    for (size_t i = 0; i < n; i++) memcpy(to + i * sizeof v, &v, sizeof v);
}

/* The dimensions of y, innermost first, by what a step in each means for x, of fewer elements: neighbours
   of one kind joined. */
static int dl__levels(const dl_node *y, const dl_node *x, size_t *dim, size_t *stride)
{
    int n = 0, extra = y->ndim - x->ndim;
    size_t inner = 1;
    for (int d = y->ndim - 1; d >= 0; d--) {
        size_t wide = d >= extra ? (size_t)x->dim[d - extra] : 1, step = wide == 1 ? 0 : inner;
        inner *= wide;
        if (y->dim[d] == 1) continue;
        if (n && !stride[n - 1] == !step) dim[n - 1] *= (size_t)y->dim[d];
        else dim[n] = (size_t)y->dim[d], stride[n++] = step;
    }
    return n;
}

/* out[0..n) = elements first .. first + n of x as broadcast to the shape of y. After how many they repeat;
   0: they do not. */
DL__HOT static size_t dl__stretch(
    const dl_node *y, const dl_node *x, const void *from, void *out, size_t first, size_t n)
{
    size_t size = dl__dtype_size(x->dtype), dim[DLTRAIN_MAX_DIMS], stride[DLTRAIN_MAX_DIMS], at[DLTRAIN_MAX_DIMS],
           period = 1;
    int levels = dl__levels(y, x, dim, stride);
    const char *p = (const char *)from;
    char *to = (char *)out;
    for (int d = 0; d < levels; d++) {
        at[d] = first % dim[d];
        first /= dim[d];
        p += at[d] * stride[d] * size;
        if (d < levels - 1) period *= dim[d];
    }
    if (stride[levels - 1]) period = 0;
    size_t once = levels > 1 && period ? DL__MIN(n, period) : n; /* the rest repeats it */
    for (size_t left = once; left;) {
        size_t run = DL__MIN(left, dim[0] - at[0]);
        if (stride[0]) memcpy(to, p, run * size), p += run * size;
        else dl__repeat(to, p, size, run);
        to += run * size;
        left -= run;
        at[0] += run;
        for (int d = 0; d < levels - 1 && at[d] == dim[d]; d++) {
            at[d] = 0;
            at[d + 1]++;
            p += (stride[d + 1] - stride[d] * dim[d]) * size; /* modulo 2^n: may step back */
        }
    }
    for (size_t done = once, more; done < n; done += more) {
        more = DL__MIN(done, n - done);
        memcpy((char *)out + done * size, out, more * size);
    }
    return period;
}

/* Where a group's node y puts its elements from `first` on: a tile, or its place in memory. */
static void *dl__group_out(const dl__task *t, const dl_node *y, size_t first, char *slots, size_t bytes)
{
    if (y->space == DL__TILE) return slots + y->offset * bytes;
    return (char *)dl__address(t->ctx, y) + first * dl__dtype_size(y->dtype);
}

/* Runs the elementwise nodes of a launch on elements first .. first + n, tile by tile. `slots`: this thread's tiles. */
static void dl__run_group(const dl__task *t, size_t first, size_t n, size_t lead, char *slots)
{
    const dl__launch *l = t->launch;
    const uint32_t *order = t->plan->order + l->first;
    size_t bytes = DL__MIN((size_t)DLTRAIN_TILE, t->args->node->numel) * sizeof(dl_real);
    uint32_t skip = !(t->args->node->op->flags & DL_OP_ELEMENTWISE);
    const void *in[8];
    struct { const dl_node *y; size_t first, period; } held[8]; /* what the tiles of stretched inputs hold */
    size_t holding = 0;
    dl_run_args a = *t->args;
    a.in = in;
    for (size_t end = first + n; first < end; first += a.n) {
        a.first = first;
        a.n = DL__MIN((size_t)DLTRAIN_TILE, end - first);
        for (uint32_t i = skip; i < l->count; i++) {
            const dl_node *y = t->ctx->node[t->start + order[i]];
            size_t stretched = 0;
            for (int k = 0; k < y->n_in; k++) {
                const dl_node *x = y->in[k];
                if (x->space == DL__TILE) in[k] = slots + x->offset * bytes;
                else if (x->numel == y->numel) {
                    in[k] = (const char *)dl__address(t->ctx, x) + first * dl__dtype_size(x->dtype);
                    if (DL__VECTORS && lead && dl__root(x) != t->args->node)
                        dl__ahead((const dl_real *)in[k], lead, a.n);
                } else {
                    char *own = slots + (l->slots + stretched) * bytes;
                    bool holds = stretched < holding && held[stretched].y == y && held[stretched].period &&
                        (first - held[stretched].first) % held[stretched].period == 0;
                    if (!holds) {
                        holding = DL__MAX(holding, stretched + 1);
                        held[stretched].y = y;
                        held[stretched].first = first;
                        held[stretched].period = dl__stretch(y, x, dl__address(t->ctx, x), own, first, a.n);
                    }
                    in[k] = own;
                    stretched++;
                }
            }
            const dl_node *next = i + 1 < l->count ? t->ctx->node[t->start + order[i + 1]] : y;
            a.node = y;
            a.out = dl__group_out(t, y, first, slots, bytes);
            if (DL__VECTORS && t->ctx->twice && t->ctx->twice(&a, next, dl__group_out(t, next, first, slots, bytes)))
                i++;
            else y->op->run(&a);
        }
    }
}

static void dl__group_part(void *user, size_t part, int thread)
{
    const dl__task *t = (const dl__task *)user;
    size_t first = part * t->per;
    dl__run_group(t, first, DL__MIN(t->per, t->args->node->numel - first), 0,
        (char *)t->args->scratch + (size_t)thread * t->ctx->scratch_stride);
}

/* A group of elementwise nodes alone. A part is worth the waking of a thread, and there are some for each. */
static void dl__run_parts(dl__task *t)
{
    enum { WORTH = 16, MOST = 16 }; /* tiles: of nodes, of a part */
    size_t tiles = (t->args->node->numel + DLTRAIN_TILE - 1) / DLTRAIN_TILE,
           per = DL__MIN(tiles / (4 * (size_t)t->ctx->pool.threads), (size_t)MOST);
    per = DL__MAX(DL__MAX(per, (size_t)(WORTH / t->launch->count)), (size_t)1);
    t->per = per * DLTRAIN_TILE;
    dl__pool_run(&t->ctx->pool, (tiles + per - 1) / per, 1, dl__group_part, t);
}

/* The head of a launch has finished a part of its output. */
static void dl__run_tail(const dl_run_args *r, size_t first, size_t n)
{
    const dl__task *t = (const dl__task *)r->group;
    dl__run_group(t, first, n, r->lead, (char *)r->scratch + t->launch->tiles);
}

static void dl__run_launch(dl_context *ctx, uint32_t start, const dl__launch *l, const dl__plan *plan, char *scratch)
{
    const dl_node *y = ctx->node[start + plan->order[l->first]];
    const void *in[DLTRAIN_MAX_INPUTS];
    dl_run_args a;
    dl__task t;
    memset(&a, 0, sizeof a);
    memset(&t, 0, sizeof t);
    a.ctx = ctx;
    a.node = y;
    a.level = ctx->level;
    a.scratch = scratch;
    t.ctx = ctx;
    t.plan = plan;
    t.launch = l;
    t.start = start;
    t.args = &a;
    if (y->op->flags & DL_OP_ELEMENTWISE) {
        dl__run_parts(&t);
        return;
    }
    for (int k = 0; k < y->n_in; k++) in[k] = dl__address(ctx, y->in[k]);
    a.in = in;
    a.out = dl__address(ctx, y);
    a.n = y->numel;
    a.accumulate = plan->does[plan->order[l->first]] & DL__ADDS;
    a.group = &t;
    if (l->count > 1) a.finished = dl__run_tail;
    y->op->run(&a);
}

#if DL__DEVICES
/* The segment's inputs, in one piece, to the device: from here on they are there. */
static bool dl__upload_inputs(dl_context *ctx, const dl__plan *plan, uint32_t start)
{
    size_t bytes = 0, at = 0;
    for (int pass = 0; pass < 2; pass++) {
        char *from = NULL, *to = NULL;
        dl__mark mark = dl__tape_mark(ctx);
        if (pass && !bytes) return true;
        if (pass &&
            (!(from = (char *)dl__tape_alloc(ctx, bytes, 0)) ||
                !(to = (char *)ctx->backend->step_alloc(ctx->device, bytes))))
            return false;
        for (uint32_t i = start; i < start + plan->nodes; i++) {
            dl_node *n = ctx->node[i];
            if (!(n->flags & DL__LEAF) || n->space != DL__MEMORY || !n->numel) continue;
            if (!pass) {
                bytes += dl__round(dl__bytes(n));
                continue;
            }
            memcpy(from + at, (const void *)(uintptr_t)n->offset, dl__bytes(n));
            n->offset = (size_t)(uintptr_t)(to + at);
            at += dl__round(dl__bytes(n));
        }
        if (pass && !ctx->backend->input(ctx->device, to, from, bytes)) return false;
        dl__tape_release(ctx, mark);
    }
    return true;
}

/* An operation whose work is the host's: what it reads it fetches, what it makes is sent. */
static bool dl__run_here(dl_context *ctx, const dl_node *y)
{
    dl_run_args a;
    dl__mark mark = dl__tape_mark(ctx);
    memset(&a, 0, sizeof a);
    a.ctx = ctx;
    a.node = y;
    a.level = ctx->level;
    a.n = y->numel;
    a.out = dl__tape_alloc(ctx, dl__bytes(y), 0);
    if (!a.out) return false;
    y->op->run(&a);
    bool ok = !ctx->failed && ctx->backend->upload(ctx->device, dl_device_address(ctx, y), a.out, dl__bytes(y));
    dl__tape_release(ctx, mark);
    return ok;
}

static const dl_node *dl__head_of(const dl_context *ctx, uint32_t start, const dl__plan *plan, uint32_t launch)
{
    return ctx->node[start + plan->order[plan->launch[launch].first]];
}

/* Launches go to the device in runs, which end where the host or a replica has something to do. */
static bool dl__run_there(dl_context *ctx, uint32_t start, const dl__plan *plan)
{
    if (ctx->values && !dl__there(ctx, ctx->values, ctx->cap_values * sizeof(dl_real), false)) return false;
    if (ctx->grads && !dl__there(ctx, ctx->grads, ctx->cap_values * sizeof(dl_real), true)) return false;
    if (ctx->buffers && !dl__there(ctx, ctx->buffers, ctx->cap_buffers * sizeof(dl_real), true)) return false;
    dl__mark mark = dl__tape_mark(ctx);
    dl_device_launch *l = (dl_device_launch *)dl__tape_alloc(ctx, plan->launches * sizeof *l, 0);
    const dl_node **node = l ? (const dl_node **)dl__tape_alloc(ctx, plan->nodes * sizeof *node, 0) : NULL;
    bool ok = node != NULL;
    for (uint32_t i = 0, first = 0; ok && i < plan->launches; i++) {
        const dl__launch *p = &plan->launch[i];
        l[i].key = dl__mix(plan->key, i);
        l[i].node = node;
        l[i].count = (int)p->count;
        l[i].accumulate = plan->does[plan->order[p->first]] & DL__ADDS;
        for (uint32_t k = 0; k < p->count; k++) *node++ = ctx->node[start + plan->order[p->first + k]];
        bool here = l[i].node[0]->op->flags & DL__OP_ON_HOST, last = i + 1 == plan->launches;
        bool ends = ctx->replica && ctx->replica->completes(ctx, start, p, plan);
        if (!here && !last && !ends && !(dl__head_of(ctx, start, plan, i + 1)->op->flags & DL__OP_ON_HOST)) continue;
        ok = (here ? dl__run_here(ctx, l[i].node[0])
                   : ctx->backend->run(ctx->device, l + first, i + 1 - first)) &&
            !ctx->failed;
        if (ok && ctx->replica) ctx->replica->launched(ctx, start, p, plan);
        first = i + 1;
    }
    dl__tape_release(ctx, mark);
    return ok;
}
#endif

/* Where the values of the segment are, now that its memory is known. */
static void dl__bind(dl_context *ctx, const dl__plan *plan, uint32_t start, char *work)
{
    for (uint32_t i = 0; i < plan->nodes; i++) {
        dl_node *n = ctx->node[start + i];
        if (dl__is_param(n)) n->offset = ctx->param[n->i[0]].offset;
        if (n->flags & DL__LEAF) continue;
        if (n->flags & DL__VIEW) {
            const dl_node *x = n->in[0];
            n->space = x->space;
            n->offset = x->offset + (size_t)n->i[0] * (x->space == DL__MEMORY ? dl__dtype_size(n->dtype) : 1);
            if (ctx->follower && n->op->flags & DL__OP_COPIES) ctx->follower->bind(n);
            continue;
        }
        n->space = plan->space[i];
        n->offset = plan->offset[i] + (n->space == DL__MEMORY ? (size_t)(uintptr_t)work : 0);
    }
}

/* After the run: values that gave up their memory cannot be read any more. */
static void dl__bury(dl_context *ctx, const dl__plan *plan, uint32_t start)
{
    for (uint32_t i = 0; i < plan->nodes; i++) {
        dl_node *n = ctx->node[start + i];
        if (plan->does[i] & DL__GONE_AFTER) n->space = DL__GONE;
        if (n->flags & DL__VIEW && dl__root(n)->space == DL__GONE) n->space = DL__GONE;
    }
}

/* In eager mode: the first NaN ends the step, with the operation that made it. */
static bool dl__check_nan(dl_context *ctx, const dl_node *n)
{
    if (n->dtype != DL_F32 || !dl__runs(n) || ctx->dry || dl__written_later(n)) return true;
    const dl_real *p = (const dl_real *)dl__host_value(ctx, n);
    if (!p) return false;
    for (size_t i = 0; i < n->numel; i++)
        if (p[i] != p[i])
            return dl_fail(ctx, "dl_%s (node %u): the first NaN, at element %zu of %S", n->op->name, n->id, i, n);
    return true;
}

/* Runs what is recorded and not yet run. `final`: nothing will be recorded on top, so that memory can be shared. */
static bool dl__run(dl_context *ctx, bool final)
{
    dl__plan eager, *plan;
    uint32_t start = ctx->done;
    if (ctx->failed) return false;
    if (start == ctx->nodes) return true;
    bool recycle = final || !ctx->recording;
    for (uint32_t i = start; !final && recycle && i < ctx->nodes; i++)
        recycle = ctx->node[i]->flags & DL__LEAF || !(ctx->node[i]->flags & DL__REQUIRES);
    recycle = recycle && !ctx->config.eager;
    if (!dl__lay_out(ctx) || (ctx->replica && !ctx->replica->before_run(ctx))) return false;
    if (final && ctx->follower && !ctx->config.eager) ctx->hash = dl__mix(ctx->hash, ctx->follower->skip(ctx, start));
    memset(&eager, 0, sizeof eager);
    plan = dl__plan_for(ctx, recycle, ctx->config.eager ? &eager : NULL);
    if (!plan) return false;
    char *work = (char *)ctx;
    size_t parts = DL__ON(ctx) ? 0 : (size_t)ctx->pool.threads * plan->scratch;
#if DL__DEVICES
    if (DL__ON(ctx) && plan->work) {
        work = (char *)ctx->backend->step_alloc(ctx->device, plan->work);
        ctx->work.used += dl__round(plan->work);
        ctx->work.peak = DL__MAX(ctx->work.peak, ctx->work.used);
    } else
#endif
    if (plan->work) work = (char *)dl__bump(ctx, &ctx->work, plan->work, 0, 0);
    char *scratch = parts && work ? (char *)dl__bump(ctx, &ctx->work, parts, 0, 0) : NULL;
    if (!work || (parts && !scratch)) return false;
    ctx->scratch_stride = plan->scratch;
#if DL__DEVICES
    if (DL__ON(ctx) && !dl__upload_inputs(ctx, plan, start)) return false;
#endif
    dl__bind(ctx, plan, start, work);
    unsigned fp = dl__fp_enter();
    ctx->running = true;
#if DL__DEVICES
    if (DL__ON(ctx)) dl__run_there(ctx, start, plan);
    else
#endif
    for (uint32_t i = 0; i < plan->launches && !ctx->failed && !ctx->dry; i++) {
        dl__run_launch(ctx, start, &plan->launch[i], plan, scratch);
        if (!ctx->replica) continue;
        ctx->replica->completes(ctx, start, &plan->launch[i], plan);
        ctx->replica->launched(ctx, start, &plan->launch[i], plan);
    }
    ctx->running = false;
    dl__fp_leave(fp);
    ctx->done = ctx->nodes;
    if (ctx->config.eager && !ctx->failed) dl__check_nan(ctx, ctx->node[start]);
    dl__bury(ctx, plan, start);
    return !ctx->failed;
}

/* ---- contexts ---- */
/* The number of what is asked for, 0 for NULL, in a list that ends with NULL; `names`: how the error says the list. */
static int dl__choose(dl_context *ctx, const char *what, const char *asked, const char *const *name, const char *names)
{
    int i = 0;
    while (asked && name[i] && strcmp(asked, name[i])) i++;
    if (name[i]) return i;
    dl_fail(ctx, "dl_create: there is no %s '%s'; it can be %s", what, asked, names);
    return 0;
}

/* The level that is asked for, or the fastest; an error when this CPU or build lacks it. */
static int dl__choose_level(dl_context *ctx, const char *asked)
{
    const char *who = "simd";
    int best = DL__PORTABLE;
    for (int i = 0; i < DL__LEVELS; i++)
        if (dl__have_level(i)) best = i;
#ifndef DLTRAIN_NO_STDIO
    if (!asked) asked = getenv(who = "DLTRAIN_SIMD");
#endif
    if (!asked || !*asked) return best;
    int level = dl__choose(ctx, who, asked, dl__level_name, "portable, avx2, avx512 or neon");
    if (dl__have_level(level)) return level;
    dl_fail(ctx, "dl_create: %s '%s': this CPU or build lacks it; the fastest here is '%s'", who, asked,
        dl__level_name[best]);
    return best;
}

/* The backend of dltrain_cuda.h, where the program has it. */
#if DL__DEVICES && (defined(DLTRAIN_CUDA) || (defined(__ELF__) && defined(__GNUC__) && !defined(DLTRAIN_STATIC)))
#ifdef __cplusplus
extern "C" {
#endif
#ifdef DLTRAIN_CUDA
DL_API const dl_backend *dl_cuda_backend(void);
#else
DL_API const dl_backend *dl_cuda_backend(void) __attribute__((weak)); /* 0 without it */
#endif
#ifdef __cplusplus
}
#endif
#endif

/* Puts the context on the device that its config names. */
static void dl__open_device(dl_context *ctx, const char *device)
{
    static const char *const names[] = { "cpu", NULL };
#if DL__DEVICES
    if (device && !strncmp(device, "cuda", 4)) {
#if defined(DLTRAIN_CUDA) || (defined(__ELF__) && defined(__GNUC__) && !defined(DLTRAIN_STATIC))
        const dl_backend *(*found)(void) = dl_cuda_backend;
        if (found && !DL__REAL_IS_FLOAT) {
            dl_fail(ctx, "dl_create: the device '%s' computes in float; DLTRAIN_REAL is another type here", device);
            return;
        }
        if (found) {
            const dl_backend *backend = found();
            if (!(ctx->device = backend->open(ctx, device))) return;
            ctx->backend = backend;
            memcpy(ctx->device_name, device, DL__MIN(strlen(device), sizeof ctx->device_name - 1));
            return;
        }
#endif
        dl_fail(ctx, "dl_create: the device '%s' needs dltrain_cuda.h; this program has 'cpu'", device);
        return;
    }
#endif
    dl__choose(ctx, "device", device, names, "'cpu'");
}

/* What GPUs look at; a wrong name is wrong everywhere. */
static void dl__choose_products(dl_context *ctx)
{
    static const char *const precisions[] = { "highest", "tf32", "bf16", NULL },
                      *const blas[] = { "own", "cublas", NULL };
    dl_config *c = &ctx->config;
    c->matmul_precision = precisions[dl__choose(ctx, "matmul_precision", c->matmul_precision, precisions,
        "'highest' (fp32), 'tf32' (PyTorch's high) or 'bf16' (its medium)")];
    c->blas = blas[dl__choose(ctx, "blas", c->blas, blas, "'own' or 'cublas'")];
}

DL_API dl_context *dl_create(const dl_config *config)
{
    dl_config c;
    dl_context *ctx;
    void *raw = NULL;
    memset(&c, 0, sizeof c);
    if (config) c = *config;
    if (c.memory) {
        char *p = (char *)c.memory + (DLTRAIN_ALIGN - (uintptr_t)c.memory % DLTRAIN_ALIGN) % DLTRAIN_ALIGN;
        if (c.memory_size < dl__round(sizeof *ctx) + 2 * DLTRAIN_ALIGN) return NULL;
        ctx = (dl_context *)(void *)p;
        memset(ctx, 0, sizeof *ctx);
        ctx->end = (char *)c.memory + c.memory_size;
        ctx->end -= (uintptr_t)ctx->end % DLTRAIN_ALIGN;
        ctx->bottom = p + dl__round(sizeof *ctx);
        ctx->top = ctx->end;
    } else {
        char *p = dl__aligned(&c, sizeof raw, sizeof *ctx, &raw);
        if (!p) return NULL;
        memcpy(p - sizeof raw, &raw, sizeof raw);
        ctx = (dl_context *)(void *)p;
        memset(ctx, 0, sizeof *ctx);
    }
    ctx->config = c;
    ctx->word = sizeof(void *);
    ctx->persistent = dl__round(sizeof *ctx) + 2 * DLTRAIN_ALIGN; /* and what alignment may take of a block */
    ctx->grad_norm = dl__nan();
    ctx->training = ctx->recording = true;
    ctx->ended = true;
    ctx->level = dl__choose_level(ctx, c.simd);
    dl__choose_products(ctx);
    int threads = c.threads ? c.threads : dl__cpu_count();
    if (c.threads < 0) dl_fail(ctx, "dl_create: %d threads; 0 takes one a CPU", c.threads);
    dl__pool_start(&ctx->pool, threads < 1 ? 1 : threads);
    dl__open_device(ctx, c.device);
    dl__begin_step(ctx);
    return ctx;
}

DL_API void dl_destroy(dl_context *ctx)
{
    if (!ctx) return;
    for (dl__hook *h = ctx->hooks; h; h = h->next) h->run(h->user);
    ctx->rest = NULL; /* the replicas are gone */
#if DL__DEVICES
    for (dl__twin *t = ctx->twins; t; t = t->next)
        if (t->there) ctx->backend->release(ctx->device, t->there);
    if (DL__ON(ctx)) ctx->backend->close(ctx->device);
#endif
    dl__pool_stop(&ctx->pool);
    dl_config c = ctx->config;
    dl__arena_free(ctx, &ctx->tape);
    dl__arena_free(ctx, &ctx->work);
    for (dl__block *b = ctx->blocks, *next; b; b = next) {
        next = b->next;
        dl__free_block(ctx, b);
    }
    if (c.memory) return;
    void *raw;
    memcpy(&raw, (char *)ctx - sizeof raw, sizeof raw);
    dl__system_free(&c, raw);
}

DL_API bool dl_measure(
    const dl_config *config, int pointer_size, void (*step)(dl_context *ctx, void *user), void *user, dl_memory *out)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    if (config) c = *config;
    c.memory = NULL;
    c.memory_size = 0;
    c.device = NULL; /* nothing runs */
    int threads = c.threads ? c.threads : dl__cpu_count();
    if (!step || !out || (pointer_size != 0 && pointer_size != 4 && pointer_size != 8)) return false;
    c.threads = 1;
    dl_context *ctx = dl_create(&c);
    if (!ctx) return false;
    ctx->dry = true;
    ctx->pool.threads = threads; /* counted, never started: nothing runs */
    if (pointer_size) {
        ctx->persistent = dl__counted(ctx, sizeof *ctx, 0) + 2 * DLTRAIN_ALIGN;
        ctx->word = (size_t)pointer_size;
    }
    for (int i = 0; i < 2; i++) {
        step(ctx, user);
        dl_end(ctx);
    }
    *out = dl_memory_used(ctx);
    bool ok = !dl_failed(ctx);
    ctx->pool.threads = 1;
    dl_destroy(ctx);
    return ok;
}

/* ---- your own operations ---- */
DL_API dl_tensor dl_apply(const dl_op *op, int n, const dl_tensor *in, const dl_attrs *attrs)
{
    dl_node *node[8];
    dl_dtype dtype = DL_F32;
    dl_shape s;
    if (!in || n < 1 || !in[0].ctx) return dl__none();
    dl_context *ctx = in[0].ctx;
    if (!op || !op->name || !*op->name || !op->run)
        return dl_fail(ctx, "dl_apply: the operation needs a name and a run function"), dl__none();
    if (op->flags & DL_OP_ELEMENTWISE && op->scratch)
        return dl_fail(ctx, "dl_%s: an elementwise operation gets no scratch", op->name), dl__none();
    if (n > (int)DL__COUNT_OF(node))
        return dl_fail(ctx, "dl_%s: %d inputs; at most %d", op->name, n, (int)DL__COUNT_OF(node)), dl__none();
    if (!dl__operands(op->name, n, in, node)) return dl__none();
    if (attrs && (attrs->n < 0 || attrs->n > 255 || (attrs->n && !attrs->i)))
        return dl_fail(ctx, "dl_%s: %d integer attributes; 0 to 255, and not NULL", op->name, attrs->n), dl__none();
    dtype = (dl_dtype)node[0]->dtype;
    s = dl__shape(node[0]);
    if (op->shape) {
        if (!op->shape(ctx, node, n, attrs, &dtype, &s))
            return dl_fail(ctx, "dl_%s: the shape rule refused its inputs", op->name), dl__none();
    } else if (op->flags & DL_OP_ELEMENTWISE && !dl__broadcast(ctx, op->name, n, node, &s)) return dl__none();
    dl__extra e = dl__with(attrs ? attrs->n : 0, attrs ? attrs->i : NULL);
    if (attrs) memcpy(e.f, attrs->f, sizeof e.f);
    return dl__record(ctx, op, n, node, dtype, &s, &e);
}

/* ==== >>layers ====
   Parameters by name with PyTorch's initialisation, handed to operations.
   may use: losses and all operations */
static dl_param_desc dl__uniform_param(dl_shape shape, double bound)
{
    dl_param_desc d;
    d.shape = shape;
    d.init = DL_INIT_UNIFORM;
    d.value = (float)bound;
    d.buffer = false;
    return d;
}

static dl_param_desc dl__constant_param(dl_shape shape, float value, bool buffer)
{
    dl_param_desc d = dl__uniform_param(shape, value);
    d.init = DL_INIT_CONSTANT;
    d.buffer = buffer;
    return d;
}

static double dl__fan_bound(double fan_in) { return fan_in > 0 ? 1 / sqrt(fan_in) : 0; }

DL_API dl_tensor dl_linear_ex(dl_tensor x, const char *name, const dl_linear_desc *desc)
{
    dl_node *n;
    dl_context *ctx = dl__operands("linear", 1, &x, &n);
    if (!ctx || !dl__is_float(ctx, "linear", n)) return dl__none();
    if (!n->ndim) return dl_fail(ctx, "dl_linear: takes [...,in], not %S", n), dl__none();
    if (!desc || desc->out_features < 1)
        return dl_fail(
                   ctx, "dl_linear: out_features must be positive, not %td", desc ? desc->out_features : (dl_index)0),
               dl__none();
    dl_index in = n->dim[n->ndim - 1], out = desc->out_features;
    double bound = dl__fan_bound((double)in);
    dl_param_desc w = dl__uniform_param(DL_SHAPE(out, in), bound), b = dl__uniform_param(DL_SHAPE(out), bound);
    dl_tensor weight = dl__parameter(ctx, "linear", name, "weight", &w);
    dl_tensor bias = desc->no_bias || !weight.ctx ? dl__none() : dl__parameter(ctx, "linear", name, "bias", &b);
    return dl_affine(x, weight, bias);
}

DL_API dl_tensor dl_linear(dl_tensor x, const char *name, dl_index out_features)
{
    dl_linear_desc d;
    d.out_features = out_features;
    d.no_bias = false;
    return dl_linear_ex(x, name, &d);
}

static dl_tensor dl__conv_layer(
    const char *who, bool transposed, dl_tensor x, const char *name, const dl_conv2d_desc *d)
{
    dl_node *n;
    dl_context *ctx = dl__operands(who, 1, &x, &n);
    if (!ctx || !dl__is_float(ctx, who, n)) return dl__none();
    if (n->ndim != 4) return dl_fail(ctx, "dl_%s: takes [N,C,H,W], not %S", who, n), dl__none();
    if (!d || d->out_channels < 1 || d->kernel < 1 || d->kernel_w < 0)
        return dl_fail(ctx, "dl_%s: the desc needs out_channels and kernel; they are %td and %td", who,
                   d ? d->out_channels : (dl_index)0, d ? d->kernel : (dl_index)0),
               dl__none();
    dl_index groups = d->groups ? d->groups : 1, c = n->dim[1], kw = d->kernel_w ? d->kernel_w : d->kernel;
    if (groups < 1 || c % groups || d->out_channels % groups)
        return dl_fail(ctx, "dl_%s: groups %td must divide the channels, %td in and %td out", who, groups, c,
                   d->out_channels),
               dl__none();
    dl_index fan_channels = transposed ? d->out_channels : c;
    double bound = dl__fan_bound((double)(fan_channels / groups) * (double)d->kernel * (double)kw);
    dl_param_desc w = dl__uniform_param(transposed ? DL_SHAPE(c, d->out_channels / groups, d->kernel, kw)
                                                   : DL_SHAPE(d->out_channels, c / groups, d->kernel, kw),
        bound);
    dl_param_desc b = dl__uniform_param(DL_SHAPE(d->out_channels), bound);
    dl_tensor weight = dl__parameter(ctx, who, name, "weight", &w);
    dl_tensor bias = d->no_bias || !weight.ctx ? dl__none() : dl__parameter(ctx, who, name, "bias", &b);
    return transposed ? dl__conv_transpose2d(who, x, weight, bias, d) : dl__conv2d(who, x, weight, bias, d);
}
DL_API dl_tensor dl_conv2d(dl_tensor x, const char *name, const dl_conv2d_desc *desc)
{
    return dl__conv_layer("conv2d", false, x, name, desc);
}
DL_API dl_tensor dl_conv_transpose2d(dl_tensor x, const char *name, const dl_conv2d_desc *desc)
{
    return dl__conv_layer("conv_transpose2d", true, x, name, desc);
}

static dl_norm_desc dl__norm_defaults(const dl_norm_desc *desc)
{
    dl_norm_desc d;
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    if (d.eps == 0) d.eps = 1e-5f;
    if (d.momentum == 0) d.momentum = 0.1f;
    return d;
}

/* weight of ones and bias of zeros, unless the desc wants none */
static bool dl__affine_params(dl_context *ctx, const char *who, const char *name, const dl_norm_desc *d, dl_shape shape,
    dl_tensor *w, dl_tensor *b)
{
    dl_param_desc ones = dl__constant_param(shape, 1, false), zeros = dl__constant_param(shape, 0, false);
    *w = *b = dl__none();
    if (d->no_affine) return true;
    *w = dl__parameter(ctx, who, name, "weight", &ones);
    if (w->ctx) *b = dl__parameter(ctx, who, name, "bias", &zeros);
    return b->ctx != NULL;
}

DL_API dl_tensor dl_batch_norm(dl_tensor x, const char *name, const dl_norm_desc *desc)
{
    dl_node *n;
    dl_tensor w, b;
    dl_norm_desc d = dl__norm_defaults(desc);
    dl_context *ctx = dl__operands("batch_norm", 1, &x, &n);
    if (!ctx) return dl__none();
    if (n->ndim < 2) return dl_fail(ctx, "dl_batch_norm: takes [N,C,...], not %S", n), dl__none();
    dl_shape s = DL_SHAPE(n->dim[1]);
    dl_param_desc zeros = dl__constant_param(s, 0, true), ones = dl__constant_param(s, 1, true);
    if (!dl__affine_params(ctx, "batch_norm", name, &d, s, &w, &b)) return dl__none();
    dl_tensor mean = dl__parameter(ctx, "batch_norm", name, "running_mean", &zeros);
    dl_tensor var = mean.ctx ? dl__parameter(ctx, "batch_norm", name, "running_var", &ones) : mean;
    if (!var.ctx) return dl__none();
    if (d.sync && ctx->replica && ctx->training) {
        if (ctx->parts)
            return dl_fail(ctx,
                       "dl_batch_norm: sync needs the whole batch at once, and with invariant_shards it comes shard "
                       "by shard; dl_group_norm needs one sample"),
                   dl__none();
        return dl__is_float(ctx, "batch_norm", n)
            ? dl__sync_batch_norm(x, w, b, mean, var, d.momentum, d.eps)
            : dl__none();
    }
    return dl__batch_norm("batch_norm", x, w, b, mean, var, d.momentum, d.eps);
}

DL_API dl_tensor dl_layer_norm(dl_tensor x, const char *name, const dl_norm_desc *desc)
{
    dl_node *n;
    dl_tensor w, b;
    dl_norm_desc d = dl__norm_defaults(desc);
    dl_context *ctx = dl__operands("layer_norm", 1, &x, &n);
    if (!ctx) return dl__none();
    if (!n->ndim) return dl_fail(ctx, "dl_layer_norm: takes [...,width], not %S", n), dl__none();
    if (!dl__affine_params(ctx, "layer_norm", name, &d, DL_SHAPE(n->dim[n->ndim - 1]), &w, &b)) return dl__none();
    return dl_layer_norm_op(x, w, b, d.eps);
}

DL_API dl_tensor dl_group_norm(dl_tensor x, const char *name, dl_index groups, const dl_norm_desc *desc)
{
    dl_node *n;
    dl_tensor w, b;
    dl_norm_desc d = dl__norm_defaults(desc);
    dl_context *ctx = dl__operands("group_norm", 1, &x, &n);
    if (!ctx) return dl__none();
    if (n->ndim < 2) return dl_fail(ctx, "dl_group_norm: takes [N,C,...], not %S", n), dl__none();
    if (groups < 1 || n->dim[1] % groups)
        return dl_fail(ctx, "dl_group_norm: groups %td do not divide the channels %td", groups, n->dim[1]), dl__none();
    if (!dl__affine_params(ctx, "group_norm", name, &d, DL_SHAPE(n->dim[1]), &w, &b)) return dl__none();
    return dl__group_norm("group_norm", x, groups, w, b, d.eps);
}

DL_API dl_tensor dl_embedding(dl_tensor index, const char *name, dl_index rows, dl_index width)
{
    dl_node *n;
    dl_context *ctx = dl__operands("embedding", 1, &index, &n);
    if (!ctx) return dl__none();
    if (n->dtype != DL_I32)
        return dl_fail(ctx, "dl_embedding: index must be DL_I32, not %s", dl__dtype_names[n->dtype]), dl__none();
    if (rows < 1 || width < 1)
        return dl_fail(ctx, "dl_embedding: %td rows of width %td; both must be positive", rows, width), dl__none();
    dl_param_desc d = dl__uniform_param(DL_SHAPE(rows, width), 1);
    d.init = DL_INIT_NORMAL;
    ctx->normal = dl__normal;
    dl_tensor w = dl__parameter(ctx, "embedding", name, "weight", &d);
    return w.ctx ? dl__embed("embedding", DL__WHO_EMBEDDING, w, index) : dl__none();
}

/* [N,L,E] -> [N,heads,L,E/heads] and back */
static dl_tensor dl__split_heads(dl_tensor x, dl_index heads)
{
    dl_shape s = dl_shape_of(x);
    return dl_transpose(dl_reshape(x, DL_SHAPE(s.dim[0], s.dim[1], heads, s.dim[2] / heads)), 1, 2);
}

DL_API dl_tensor dl_multi_head_attention(
    dl_tensor q, dl_tensor k, dl_tensor v, const char *name, const dl_mha_desc *desc)
{
    static const char *const who = "multi_head_attention";
    dl_node *n[3];
    dl_tensor in[3], bias = dl__none(), out_bias = dl__none(), part[3];
    in[0] = q, in[1] = k, in[2] = v;
    dl_context *ctx = dl__operands(who, 3, in, n);
    if (!ctx) return dl__none();
    for (int i = 0; i < 3; i++)
        if (n[i]->ndim != 3) return dl_fail(ctx, "dl_%s: takes [N,length,width], not %S", who, n[i]), dl__none();
    dl_index e = n[0]->dim[2], heads = desc ? desc->heads : 0;
    if (heads < 1 || e % heads)
        return dl_fail(ctx, "dl_%s: heads %td do not divide the width %td", who, heads, e), dl__none();
    if (n[1]->dim[2] != e || n[2]->dim[2] != e || n[1]->dim[0] != n[0]->dim[0] || !dl__same_shape(n[1], n[2]))
        return dl_fail(ctx, "dl_%s: q %S, k %S and v %S do not fit together", who, n[0], n[1], n[2]), dl__none();
    dl_param_desc w = dl__uniform_param(DL_SHAPE(3 * e, e), sqrt(6.0 / (4.0 * (double)e))),
                  b = dl__constant_param(DL_SHAPE(3 * e), 0, false); /* Xavier */
    dl_param_desc ow = dl__uniform_param(DL_SHAPE(e, e), dl__fan_bound((double)e)),
                  ob = dl__constant_param(DL_SHAPE(e), 0, false);
    dl_tensor weight = dl__parameter(ctx, who, name, "in_proj_weight", &w);
    if (weight.ctx && !desc->no_bias) bias = dl__parameter(ctx, who, name, "in_proj_bias", &b);
    dl_tensor out = ctx->failed ? dl__none() : dl__parameter(ctx, who, name, "out_proj.weight", &ow);
    if (out.ctx && !desc->no_bias) out_bias = dl__parameter(ctx, who, name, "out_proj.bias", &ob);
    if (ctx->failed) return dl__none();
    if (q.node == k.node && k.node == v.node) { /* self-attention: one product */
        dl_tensor all = dl_affine(q, weight, bias);
        for (int i = 0; i < 3; i++) part[i] = dl_slice(all, 2, i * e, (i + 1) * e, 1);
    } else
        for (int i = 0; i < 3; i++)
            part[i] = dl_affine(in[i], dl_slice(weight, 0, i * e, (i + 1) * e, 1),
                bias.ctx ? dl_slice(bias, 0, i * e, (i + 1) * e, 1) : bias);
    dl_attention_desc a;
    memset(&a, 0, sizeof a);
    a.mask = desc->mask;
    a.causal = desc->causal;
    for (int i = 0; i < 3; i++) part[i] = dl__split_heads(part[i], heads);
    dl_tensor y = dl_scaled_dot_product_attention(part[0], part[1], part[2], &a);
    if (!y.ctx || ctx->failed) return dl__none();
    return dl_affine(dl_reshape(dl_transpose(y, 1, 2), dl__shape(n[0])), out, out_bias);
}

/* ==== >>optimizers ====
   Updates, clipping, schedules and the accumulator, each a pass over the flat buffers.
   may use: tape, executor */
typedef enum dl__rule { DL__SGD, DL__ADAM, DL__ADAMW, DL__RMSPROP } dl__rule;
enum { DL__GROUPS = 8 };
struct dl__update;
struct dl_optimizer {
    dl_context *ctx;
    dl__rule rule;
    bool nesterov, centered;
    dl_real momentum, dampening, weight_decay, beta1, beta2, eps, alpha;
    double lr;                       /* without a schedule */
    double (*scheduled)(const dl_schedule *s, int64_t step); /* dl_schedule_lr, or NULL */
    dl_schedule schedule;
    /* the rule: fills u->h for a parameter; n elements of it from `at` on. Pointers, so that the linker drops
       the other rules */
    void (*numbers)(struct dl__update *u, int index, double lr, dl_real decay);
    void (*update)(const struct dl__update *u, size_t at, size_t n);
    int64_t steps, schedule_start;   /* steps taken; when the schedule was set */
    char select[DLTRAIN_NAME_MAX];   /* "": all */
    struct { char pattern[DLTRAIN_NAME_MAX]; dl_group_desc desc; } group[DL__GROUPS];
    int groups;
    dl_real *state[3];               /* flat, as the parameters are */
    int32_t *age;                    /* steps each parameter has taken */
    double *power1, *power2;         /* beta1^age, beta2^age */
};

/* ---- rules: one pass over a parameter, in parts of this many elements ---- */
enum { DL__UPDATE = 8192 };
typedef struct dl__update { dl_optimizer *o; dl_real *p, *g, *s[3]; size_t n; dl_real h[9]; bool first; } dl__update;

static void dl__sgd_numbers(dl__update *u, int index, double lr, dl_real decay)
{
    (void)index;
    u->h[0] = (dl_real)lr;
    u->h[1] = u->o->momentum;
    u->h[2] = (dl_real)1 - u->o->dampening;
    u->h[3] = decay;
    u->h[4] = u->o->nesterov;
}
static void dl__sgd_update(const dl__update *u, size_t at, size_t n)
{
    dl_real h[5];
    memcpy(h, u->h, sizeof h);
    if (u->first) h[1] = 0, h[2] = 1; /* the first buffer is the gradient itself */
    if (u->first && u->s[0] && u->h[4] != 0) { /* nesterov: d + momentum buf */
        for (size_t i = at; i < at + n; i++) {
            dl_real d = h[3] != 0 ? u->g[i] + h[3] * u->p[i] : u->g[i];
            u->s[0][i] = d;
            u->p[i] -= h[0] * (d + u->h[1] * d);
        }
    } else DL__CALL(u->o->ctx->level, sgd, (u->p + at, u->g + at, u->s[0] ? u->s[0] + at : NULL, n, h));
}

static void dl__adam_numbers(dl__update *u, int index, double lr, dl_real decay)
{
    dl_optimizer *o = u->o;
    double b1 = (double)o->beta1, b2 = (double)o->beta2;
    o->power1[index] = u->first ? b1 : o->power1[index] * b1;
    o->power2[index] = u->first ? b2 : o->power2[index] * b2;
    u->h[0] = (dl_real)(lr / (1 - o->power1[index]));
    u->h[1] = o->beta1;
    u->h[2] = (dl_real)(1 - b1);
    u->h[3] = o->beta2;
    u->h[4] = (dl_real)(1 - b2);
    u->h[5] = (dl_real)sqrt(1 - o->power2[index]);
    u->h[6] = o->eps;
    u->h[7] = o->rule == DL__ADAM ? decay : 0;
    u->h[8] = o->rule == DL__ADAMW ? (dl_real)(1 - lr * (double)decay) : 1;
}
static void dl__adam_update(const dl__update *u, size_t at, size_t n)
{
    DL__CALL(u->o->ctx->level, adam, (u->p + at, u->g + at, u->s[0] + at, u->s[1] + at, n, u->h));
}

static void dl__rmsprop_numbers(dl__update *u, int index, double lr, dl_real decay)
{
    (void)index;
    u->h[0] = (dl_real)lr;
    u->h[1] = u->o->alpha;
    u->h[2] = u->o->eps;
    u->h[3] = decay;
    u->h[4] = u->o->momentum;
}
static void dl__rmsprop_update(const dl__update *u, size_t at, size_t n)
{
    const dl_real lr = u->h[0], alpha = u->h[1], eps = u->h[2], decay = u->h[3], momentum = u->h[4];
    dl_real *p = u->p + at, *v = u->s[0] + at, *buffer = momentum != 0 ? u->s[1] + at : NULL,
            *mean = u->o->centered ? u->s[momentum != 0 ? 2 : 1] + at : NULL;
    for (size_t i = 0; i < n; i++) {
        dl_real g = u->g[at + i] + decay * p[i], d;
        v[i] = alpha * v[i] + (1 - alpha) * g * g;
        d = v[i];
        if (mean) {
            mean[i] = alpha * mean[i] + (1 - alpha) * g;
            d = v[i] - mean[i] * mean[i];
        }
        d = g / (dl__sqrt(d) + eps);
        if (buffer) d = buffer[i] = momentum * buffer[i] + d;
        p[i] -= lr * d;
    }
}

static dl_optimizer *dl__optimizer(dl_context *ctx, dl__rule rule, double lr, dl_real weight_decay)
{
    if (!ctx || ctx->failed) return NULL;
    dl_optimizer *o = (dl_optimizer *)dl__alloc(ctx, sizeof *o, 8);
    if (!o) return NULL;
    o->ctx = ctx;
    o->rule = rule;
    o->lr = lr;
    o->weight_decay = weight_decay;
    return o;
}

static bool dl__in_range(dl_context *ctx, const char *who, const char *what, dl_real value, dl_real end)
{
    return (value >= 0 && value < end) ||
        dl_fail(ctx, "dl_%s: %s %g must be at least 0 and below %g", who, what, (double)value, (double)end);
}

DL_API dl_optimizer *dl_sgd(dl_context *ctx, const dl_sgd_desc *desc)
{
    if (!ctx || ctx->failed) return NULL;
    if (!desc || desc->lr == 0) return dl_fail(ctx, "dl_sgd: lr is required"), (dl_optimizer *)NULL;
    if (!dl__in_range(ctx, "sgd", "lr", desc->lr, HUGE_VAL) ||
        !dl__in_range(ctx, "sgd", "momentum", desc->momentum, HUGE_VAL) ||
        !dl__in_range(ctx, "sgd", "weight_decay", desc->weight_decay, HUGE_VAL))
        return NULL;
    if (desc->nesterov && (desc->momentum == 0 || desc->dampening != 0))
        return dl_fail(ctx, "dl_sgd: nesterov needs momentum and no dampening"), (dl_optimizer *)NULL;
    dl_optimizer *o = dl__optimizer(ctx, DL__SGD, (double)desc->lr, desc->weight_decay);
    if (!o) return NULL;
    o->numbers = dl__sgd_numbers;
    o->update = dl__sgd_update;
    o->momentum = desc->momentum;
    o->dampening = desc->dampening;
    o->nesterov = desc->nesterov;
    return o;
}

static dl_optimizer *dl__adam(
    dl_context *ctx, const char *who, dl__rule rule, const dl_adam_desc *desc, dl_real default_decay)
{
    dl_adam_desc d;
    if (!ctx || ctx->failed) return NULL;
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    if (d.lr == 0) d.lr = (dl_real)1e-3;
    if (d.beta1 == 0) d.beta1 = (dl_real)0.9;
    if (d.beta2 == 0) d.beta2 = (dl_real)0.999;
    if (d.eps == 0) d.eps = (dl_real)1e-8;
    if (d.weight_decay == 0) d.weight_decay = default_decay;
    else if (d.weight_decay < 0 && rule == DL__ADAMW) d.weight_decay = 0;
    if (!dl__in_range(ctx, who, "lr", d.lr, HUGE_VAL) ||
        !dl__in_range(ctx, who, "beta1", d.beta1, 1) || !dl__in_range(ctx, who, "beta2", d.beta2, 1) ||
        !dl__in_range(ctx, who, "eps", d.eps, HUGE_VAL) ||
        !dl__in_range(ctx, who, "weight_decay", d.weight_decay, HUGE_VAL))
        return NULL;
    dl_optimizer *o = dl__optimizer(ctx, rule, (double)d.lr, d.weight_decay);
    if (!o) return NULL;
    o->numbers = dl__adam_numbers;
    o->update = dl__adam_update;
    o->beta1 = d.beta1;
    o->beta2 = d.beta2;
    o->eps = d.eps;
    return o;
}
DL_API dl_optimizer *dl_adam(dl_context *ctx, const dl_adam_desc *desc)
{
    return dl__adam(ctx, "adam", DL__ADAM, desc, 0);
}
DL_API dl_optimizer *dl_adamw(dl_context *ctx, const dl_adam_desc *desc)
{
    return dl__adam(ctx, "adamw", DL__ADAMW, desc, (dl_real)1e-2);
}

DL_API dl_optimizer *dl_rmsprop(dl_context *ctx, const dl_rmsprop_desc *desc)
{
    dl_rmsprop_desc d;
    if (!ctx || ctx->failed) return NULL;
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    if (d.lr == 0) d.lr = (dl_real)1e-2;
    if (d.alpha == 0) d.alpha = (dl_real)0.99;
    if (d.eps == 0) d.eps = (dl_real)1e-8;
    if (!dl__in_range(ctx, "rmsprop", "lr", d.lr, HUGE_VAL) ||
        !dl__in_range(ctx, "rmsprop", "alpha", d.alpha, 1) ||
        !dl__in_range(ctx, "rmsprop", "eps", d.eps, HUGE_VAL) ||
        !dl__in_range(ctx, "rmsprop", "momentum", d.momentum, HUGE_VAL) ||
        !dl__in_range(ctx, "rmsprop", "weight_decay", d.weight_decay, HUGE_VAL))
        return NULL;
    dl_optimizer *o = dl__optimizer(ctx, DL__RMSPROP, (double)d.lr, d.weight_decay);
    if (!o) return NULL;
    o->numbers = dl__rmsprop_numbers;
    o->update = dl__rmsprop_update;
    o->alpha = d.alpha;
    o->eps = d.eps;
    o->momentum = d.momentum;
    o->centered = d.centered;
    return o;
}

/* Keeps a pattern; an error when it is too long or, where the names are known, matches nothing. */
static bool dl__keep_pattern(dl_optimizer *o, const char *who, const char *pattern, char *to)
{
    if (!pattern) return dl_fail(o->ctx, "dl_%s: the pattern is NULL", who);
    if (strlen(pattern) >= DLTRAIN_NAME_MAX)
        return dl_fail(
            o->ctx, "dl_%s: the pattern '%s' is too long; DLTRAIN_NAME_MAX is %d", who, pattern, DLTRAIN_NAME_MAX);
    if (o->ctx->sealed && !dl__matches(o->ctx, who, pattern)) return false;
    memcpy(to, pattern, strlen(pattern) + 1);
    return true;
}

DL_API bool dl_optimizer_group(dl_optimizer *o, const char *pattern, const dl_group_desc *desc)
{
    if (!o || o->ctx->failed) return false;
    if (!desc) return dl_fail(o->ctx, "dl_optimizer_group: desc is NULL");
    if (!dl__in_range(o->ctx, "optimizer_group", "lr_scale", desc->lr_scale, HUGE_VAL) ||
        !dl__in_range(o->ctx, "optimizer_group", "weight_decay", desc->weight_decay, HUGE_VAL))
        return false;
    if (o->groups == DL__GROUPS)
        return dl_fail(o->ctx, "dl_optimizer_group: at most %d groups; '|' joins patterns", (int)DL__GROUPS);
    if (!dl__keep_pattern(o, "optimizer_group", pattern, o->group[o->groups].pattern)) return false;
    o->group[o->groups++].desc = *desc;
    return true;
}

DL_API bool dl_optimizer_select(dl_optimizer *o, const char *pattern)
{
    return o && !o->ctx->failed && dl__keep_pattern(o, "optimizer_select", pattern, o->select);
}

/* ---- gradients as a whole ---- */
static dl_real *dl__grad_of(const dl_context *ctx, const dl__param *p)
{
    return p->buffer || p->fresh || !ctx->grads ? NULL : ctx->grads + p->offset;
}

DL_API bool dl_zero_grad(dl_context *ctx)
{
    if (!ctx || ctx->failed) return false;
    for (int i = 0; i < ctx->params; i++) ctx->param[i].fresh = true;
    return true;
}

DL__HOT static void dl__scale(dl_real *x, size_t n, dl_real factor)
{
    for (size_t i = 0; i < n; i++) x[i] *= factor;
}

#if DL__DEVICES
/* A pass over the gradients that match, on the device. rule "clip": max_norm is h. */
static bool dl__grads_there(dl_context *ctx, const char *rule, const char *pattern, double h)
{
    size_t n = 0;
    dl__mark mark = dl__tape_mark(ctx);
    dl_device_update *list = (dl_device_update *)dl__tape_alloc(ctx, (size_t)(ctx->params + 1) * sizeof *list, 0);
    dl_real *grads = ctx->grads ? (dl_real *)dl__there(ctx, ctx->grads, ctx->cap_values * sizeof(dl_real), true) : NULL;
    bool clip = !strcmp(rule, "clip");
    double *norm = clip ? (double *)dl__there(ctx, &ctx->grad_norm, sizeof ctx->grad_norm, true) : NULL;
    for (int i = 0; list && grads && i < ctx->params; i++) {
        const dl__param *p = &ctx->param[i];
        if (!dl__grad_of(ctx, p) || (pattern && !dl_glob(pattern, p->name))) continue;
        memset(&list[n], 0, sizeof *list);
        list[n].g = grads + p->offset;
        list[n].n = p->numel;
        list[n++].h[0] = (dl_real)h;
    }
    if (norm) ctx->backend->clip(ctx->device, h, norm, list, n);
    if (n && !clip) ctx->backend->update(ctx->device, rule, list, n);
    dl__tape_release(ctx, mark);
    return !ctx->failed;
}
#endif

static bool dl__scale_grads(dl_context *ctx, const char *pattern, dl_real factor)
{
#if DL__DEVICES
    if (DL__ON(ctx)) return dl__grads_there(ctx, "scale", pattern, factor);
#endif
    for (int i = 0; i < ctx->params && !ctx->dry; i++) {
        dl_real *g = dl__grad_of(ctx, &ctx->param[i]);
        if (g && (!pattern || dl_glob(pattern, ctx->param[i].name)))
            dl__scale(g, ctx->param[i].numel, factor);
    }
    return true;
}

DL_API bool dl_scale_grad(dl_context *ctx, double factor)
{
    return ctx && !ctx->failed && dl__scale_grads(ctx, NULL, (dl_real)factor);
}

/* The sum of the squares of x in double, by rule 5; span: what a lane takes at once, 1 or a chunk of chunks
   of `span` numbers. */
DL__HOT static double dl__squares(const dl_real *x, size_t n, size_t span)
{
    double lane[DL__LANES];
    size_t i = 0, k = 0;
    for (int l = 0; l < DL__LANES; l++) lane[l] = 0;
    for (; span == 1 && i + DL__LANES <= n; i += DL__LANES)
        for (int l = 0; l < DL__LANES; l++) lane[l] += (double)x[i + (size_t)l] * (double)x[i + (size_t)l];
    for (; i < n; i += span, k++)
        lane[k % DL__LANES] +=
            span == 1 ? (double)x[i] * (double)x[i] : dl__squares(x + i, DL__MIN(span, n - i), span / DL__CHUNK);
    for (int h = DL__LANES / 2; h; h /= 2)
        for (int l = 0; l < h; l++) lane[l] += lane[l + h];
    return lane[0];
}

/* Parameter by parameter, and these sums in order */
DL_API bool dl_clip_grad_norm(dl_context *ctx, double max_norm, const char *pattern)
{
    double sum = 0;
    if (!ctx || ctx->failed) return false;
    if (!(max_norm >= 0)) return dl_fail(ctx, "dl_clip_grad_norm: max_norm %g must not be negative", max_norm);
    if (!dl__matches(ctx, "clip_grad_norm", pattern)) return false;
#if DL__DEVICES
    if (DL__ON(ctx)) return dl__grads_there(ctx, "clip", pattern, max_norm);
#endif
    for (int i = 0; i < ctx->params && !ctx->dry; i++) {
        const dl_real *g = dl__grad_of(ctx, &ctx->param[i]);
        size_t n = ctx->param[i].numel, span = 1;
        if (!g || (pattern && !dl_glob(pattern, ctx->param[i].name))) continue;
        while (span < n / DL__CHUNK + (n % DL__CHUNK != 0)) span *= DL__CHUNK;
        sum += dl__squares(g, n, span);
    }
    ctx->grad_norm = sqrt(sum);
    double factor = max_norm / (ctx->grad_norm + 1e-6);
    return factor < 1 ? dl__scale_grads(ctx, pattern, (dl_real)factor) : true;
}

DL_API double dl_grad_norm(dl_context *ctx)
{
    return ctx && !ctx->failed && dl__to_host(ctx, &ctx->grad_norm) ? ctx->grad_norm : dl__nan();
}

DL_API bool dl_clip_grad_value(dl_context *ctx, double max_value, const char *pattern)
{
    if (!ctx || ctx->failed) return false;
    if (!(max_value >= 0)) return dl_fail(ctx, "dl_clip_grad_value: max_value %g must not be negative", max_value);
    if (!dl__matches(ctx, "clip_grad_value", pattern)) return false;
    dl_real high = (dl_real)max_value;
#if DL__DEVICES
    if (DL__ON(ctx)) return dl__grads_there(ctx, "clamp", pattern, high);
#endif
    for (int i = 0; i < ctx->params && !ctx->dry; i++) {
        dl_real *g = dl__grad_of(ctx, &ctx->param[i]);
        if (g && (!pattern || dl_glob(pattern, ctx->param[i].name)))
            for (size_t k = 0; k < ctx->param[i].numel; k++) g[k] = g[k] > high ? high : g[k] < -high ? -high : g[k];
    }
    return true;
}

/* ---- schedules ---- */
static double dl__cosine(double from, double to, double t)
{
    return to + (from - to) * (1 + dl__sin_d(3.14159265358979323846 * t, 1)) / 2;
} /* t from 0 to 1 */

DL_API double dl_schedule_lr(const dl_schedule *s, int64_t step)
{
    if (!s) return 0;
    double lr = (double)s->lr, gamma = s->gamma != 0 ? (double)s->gamma : 0.1, up, div, final_div, rise;
    int64_t t = step - s->warmup;
    if (t < 0) return lr * (double)(step + 1) / (double)s->warmup;
    switch (s->kind) {
    case DL_SCHEDULE_STEP:
        return lr * dl__pow_d(gamma, s->period > 0 ? (double)(t / s->period) : 0);
    case DL_SCHEDULE_MULTI_STEP:
        for (int i = 0; i < s->n_milestones; i++) lr *= t >= s->milestones[i] ? gamma : 1;
        return lr;
    case DL_SCHEDULE_COSINE:
        return t >= s->total ? (double)s->min_lr : dl__cosine(lr, (double)s->min_lr, (double)t / (double)s->total);
    case DL_SCHEDULE_ONE_CYCLE:
        up = s->up != 0 ? (double)s->up : 0.3;
        div = s->div != 0 ? (double)s->div : 25;
        final_div = s->final_div != 0 ? (double)s->final_div : 1e4;
        rise = up * (double)s->total - 1;
        if ((double)t <= rise) return rise > 0 ? dl__cosine(lr / div, lr, (double)t / rise) : lr;
        if (t >= s->total - 1) return lr / div / final_div;
        return dl__cosine(lr, lr / div / final_div, ((double)t - rise) / ((double)s->total - 1 - rise));
    case DL_SCHEDULE_CONSTANT:
        break;
    }
    return lr;
}

DL_API bool dl_set_schedule(dl_optimizer *o, const dl_schedule *s)
{
    if (!o || o->ctx->failed) return false;
    dl_context *ctx = o->ctx;
    if (!s) return dl_fail(ctx, "dl_set_schedule: the schedule is NULL");
    if ((unsigned)s->kind > DL_SCHEDULE_ONE_CYCLE)
        return dl_fail(ctx, "dl_set_schedule: there is no schedule %d", (int)s->kind);
    if (!dl__in_range(ctx, "set_schedule", "lr", s->lr, HUGE_VAL) ||
        !dl__in_range(ctx, "set_schedule", "min_lr", s->min_lr, HUGE_VAL) ||
        !dl__in_range(ctx, "set_schedule", "gamma", s->gamma, HUGE_VAL) ||
        !dl__in_range(ctx, "set_schedule", "up", s->up, 1))
        return false;
    if (s->warmup < 0) return dl_fail(ctx, "dl_set_schedule: warmup must not be negative");
    if ((s->kind == DL_SCHEDULE_COSINE || s->kind == DL_SCHEDULE_ONE_CYCLE) && s->total < 1)
        return dl_fail(ctx, "dl_set_schedule: this kind needs its total of steps");
    if (s->kind == DL_SCHEDULE_STEP && s->period < 1)
        return dl_fail(ctx, "dl_set_schedule: this kind needs its period");
    for (int i = 1; s->kind == DL_SCHEDULE_MULTI_STEP && s->milestones && i < s->n_milestones; i++)
        if (s->milestones[i] < s->milestones[i - 1]) return dl_fail(ctx, "dl_set_schedule: the milestones must rise");
    if (s->kind == DL_SCHEDULE_MULTI_STEP && (s->n_milestones < 1 || !s->milestones))
        return dl_fail(ctx, "dl_set_schedule: this kind needs its milestones");
    o->schedule = *s;
    o->scheduled = dl_schedule_lr;
    o->schedule_start = o->steps;
    return true;
}

DL_API void dl_set_lr(dl_optimizer *o, double lr)
{
    if (!o) return;
    if (!dl__in_range(o->ctx, "set_lr", "lr", (dl_real)lr, HUGE_VAL)) return;
    o->lr = lr;
    o->scheduled = NULL;
}

DL_API double dl_get_lr(const dl_optimizer *o)
{
    return !o ? 0 : o->scheduled ? o->scheduled(&o->schedule, o->steps - o->schedule_start) : o->lr;
}

/* ---- the step ---- */
/* How many flat arrays of state the rule needs. */
static int dl__states(const dl_optimizer *o)
{
    if (o->rule == DL__SGD) return o->momentum != 0;
    return o->rule == DL__RMSPROP ? 1 + (o->momentum != 0) + o->centered : 2;
}

static bool dl__make_state(dl_optimizer *o)
{
    dl_context *ctx = o->ctx;
    if (o->age || !ctx->params) return true;
    for (int i = 0; i < dl__states(o) && ctx->cap_values; i++)
        if (!o->state[i] && !(o->state[i] = (dl_real *)dl__alloc(ctx, ctx->cap_values * sizeof(dl_real), 0)))
            return false;
    size_t n = (size_t)ctx->params;
    if (o->rule == DL__ADAM || o->rule == DL__ADAMW) {
        if (!o->power1 && !(o->power1 = (double *)dl__alloc(ctx, 2 * n * sizeof(double), 0))) return false;
        o->power2 = o->power1 + n;
    }
    o->age = (int32_t *)dl__alloc(ctx, n * sizeof *o->age, 0);
    return o->age != NULL;
}

static void dl__update_part(void *user, size_t part, int thread)
{
    const dl__update *u = (const dl__update *)user;
    size_t at = part * DL__UPDATE;
    (void)thread;
    (u->o->update)(u, at, DL__MIN(u->n - at, (size_t)DL__UPDATE));
}

#if DL__DEVICES
/* The update of a parameter, for the device. sgd: h[5] is set where the buffer is new; rmsprop: s[1] the momentum's,
   s[2] the mean's. */
static bool dl__device_update(dl_optimizer *o, const dl__update *u, size_t offset, dl_device_update *to)
{
    dl_context *ctx = o->ctx;
    size_t bytes = ctx->cap_values * sizeof(dl_real);
    dl_real *p = (dl_real *)dl__there(ctx, ctx->values, bytes, true),
            *g = (dl_real *)dl__there(ctx, ctx->grads, bytes, false);
    if (!p || !g) return false;
    memset(to, 0, sizeof *to);
    for (int i = 0; i < 3; i++) {
        int at = o->rule == DL__RMSPROP && i == 1 && u->h[4] == 0 ? 2 : i;
        dl_real *s = o->state[i] ? (dl_real *)dl__there(ctx, o->state[i], bytes, true) : NULL;
        if (o->state[i] && !s) return false;
        if (s) to->s[at] = s + offset;
    }
    to->p = p + offset;
    to->g = g + offset;
    to->n = u->n;
    memcpy(to->h, u->h, sizeof u->h);
    if (o->rule == DL__SGD) to->h[5] = u->first;
    return true;
}
#endif

/* `there`: on a device, where it is to be written down. */
static void dl__update_param(dl_optimizer *o, int index, double lr, dl_device_update *there)
{
    dl_context *ctx = o->ctx;
    dl__param *p = &ctx->param[index];
    dl__update u;
    dl_real decay = o->weight_decay;
    for (int i = 0; i < o->groups; i++)
        if (dl_glob(o->group[i].pattern, p->name)) {
            const dl_group_desc *d = &o->group[i].desc;
            if (d->lr_scale != 0) lr *= (double)d->lr_scale;
            decay = d->no_weight_decay ? 0 : d->set_weight_decay ? d->weight_decay : decay;
            break;
        }
    memset(&u, 0, sizeof u);
    u.o = o;
    u.p = ctx->values + p->offset;
    u.g = ctx->grads + p->offset;
    for (int i = 0; i < 3; i++) u.s[i] = o->state[i] ? o->state[i] + p->offset : NULL;
    u.n = p->numel;
    u.first = o->age[index]++ == 0;
    u.h[0] = (dl_real)lr;
    (o->numbers)(&u, index, lr, decay);
#if DL__DEVICES
    if (there) {
        dl__device_update(o, &u, p->offset, there);
        return;
    }
#endif
    (void)there;
    if (!ctx->dry && u.n) dl__pool_run(&ctx->pool, (u.n + DL__UPDATE - 1) / DL__UPDATE, 1, dl__update_part, &u);
}

DL_API bool dl_step(dl_optimizer *o)
{
    if (!o || o->ctx->failed) return false;
    dl_context *ctx = o->ctx;
    if (!ctx->sealed)
        for (int i = 0; i < o->groups; i++)
            if (!dl__matches(ctx, "optimizer_group", o->group[i].pattern)) return false;
    if (*o->select && !dl__matches(ctx, "optimizer_select", o->select)) return false;
    if (!dl__run_recorded(ctx) || !dl_seal(ctx) || !dl__make_state(o)) return false;
    if (ctx->replica && !ctx->replica->before_step(ctx, *o->select ? o->select : NULL)) return false;
    double lr = dl_get_lr(o);
    dl_device_update *list = NULL;
    size_t updates = 0;
#if DL__DEVICES
    dl__mark mark = dl__tape_mark(ctx);
    if (DL__ON(ctx) &&
        !(list = (dl_device_update *)dl__tape_alloc(ctx, (size_t)(ctx->params + 1) * sizeof *list, 0)))
        return false;
#endif
    unsigned fp = dl__fp_enter();
    for (int i = 0; i < ctx->params; i++) {
        dl__param *p = &ctx->param[i];
        if (p->buffer || p->fresh || (*o->select && !dl_glob(o->select, p->name))) continue;
        if (!p->frozen) dl__update_param(o, i, lr, list ? list + updates++ : NULL);
        p->fresh = true;
    }
    dl__fp_leave(fp);
#if DL__DEVICES
    static const char *const rule[] = { "sgd", "adam", "adam", "rmsprop" };
    if (updates && !ctx->failed) ctx->backend->update(ctx->device, rule[o->rule], list, updates);
    dl__tape_release(ctx, mark);
    if (ctx->failed) return false;
#endif
    o->steps++;
    return true;
}

/* ---- accumulation ---- */
struct dl_accumulator {
    dl_optimizer *o;
    int steps, done;
    dl_accumulation mode;
    float clip_norm;
    double count; /* samples of the window so far; with DL_DIVIDE micro-batches that had a loss */
    bool stepped;
};

DL_API dl_accumulator *dl_accumulator_create(dl_optimizer *o, const dl_accumulator_desc *desc)
{
    if (!o || o->ctx->failed) return NULL;
    if (!desc) return dl_fail(o->ctx, "dl_accumulator_create: desc is NULL"), (dl_accumulator *)NULL;
    if (desc->steps < 0)
        return dl_fail(o->ctx, "dl_accumulator_create: a window of %d micro-batches", desc->steps),
               (dl_accumulator *)NULL;
    dl_accumulator *a = (dl_accumulator *)dl__alloc(o->ctx, sizeof *a, 1);
    if (!a) return NULL;
    a->o = o;
    a->steps = (desc->steps ? desc->steps : 1) * DL__MAX(o->ctx->parts, 1); /* a batch is so many shards */
    a->mode = desc->mode;
    a->clip_norm = desc->clip_norm;
    return a;
}

DL_API bool dl_accumulator_stepped(const dl_accumulator *a) { return a && a->stepped; }

/* The window is full, and the gradients are those of all ranks. */
static bool dl__accumulator_step(dl_accumulator *a, const char *mine)
{
    a->done = 0;
    a->count = 0;
    if (a->clip_norm > 0) dl_clip_grad_norm(a->o->ctx, (double)a->clip_norm, mine);
    return a->stepped = dl_step(a->o);
}

/* What this rank's part of the window counts among the ranks; with DL_DIVIDE they, or their shards, count alike. */
static double dl__window_weight(const dl_accumulator *a)
{
    return a->mode == DL_EXACT || a->o->ctx->parts ? a->count : a->count > 0;
}

/* In a world a rank that flushes has no more data, and takes part in the windows of those that have. */
static bool dl__flush_replica(dl_accumulator *a, const char *mine)
{
    dl_context *ctx = a->o->ctx;
    bool stepped = false;
    for (;;) {
        ctx->weight = dl__window_weight(a);
        if (!ctx->replica->nothing(ctx, mine, true)) break;
        if (ctx->reduced > 0) stepped = dl__accumulator_step(a, mine);
    }
    a->done = 0;
    a->count = 0;
    a->stepped = stepped;
    return !ctx->failed;
}

/* Only the last micro-batch of a window reduces; then the window is divided by the count of all ranks. */
static bool dl__accumulate_replica(dl_accumulator *a, dl_tensor loss, size_t count, const dl_backward_desc *d)
{
    dl_context *ctx = a->o->ctx;
    bool was = ctx->no_sync, last = a->done + 1 >= a->steps, ok;
    ctx->no_sync = !last;
    ctx->weight = dl__window_weight(a);
    if (d->count || (a->mode != DL_EXACT && loss.ctx)) ok = dl_backward_ex(loss, d);
    else {
        dl_end(ctx);
        if (!ctx->failed) ctx->replica->nothing(ctx, d->pattern, false);
        ok = !ctx->failed;
    }
    ctx->no_sync = was;
    a->count += a->mode == DL_EXACT ? (double)count : loss.ctx != NULL;
    a->done++;
    if (!ok || !last) return ok;
    if (ctx->reduced > 0) return dl__accumulator_step(a, d->pattern);
    a->done = 0;
    return true;
}

DL_API bool dl_accumulator_flush(dl_accumulator *a)
{
    if (!a || a->o->ctx->failed) return false;
    a->stepped = false;
    dl_context *ctx = a->o->ctx;
    /* other gradients may be of the window of another accumulator */
    const char *mine = *a->o->select ? a->o->select : NULL;
    if (ctx->replica) return dl__flush_replica(a, mine);
    if (!a->done) return true;
    if (a->mode == DL_EXACT && a->count == 0) { /* no sample in the whole window: no gradient and no step */
        a->done = 0;
        return true;
    }
    if (a->mode == DL_EXACT && a->steps > 1) dl__scale_grads(ctx, mine, (dl_real)(1 / a->count));
    return dl__accumulator_step(a, mine);
}

DL_API bool dl_accumulate(dl_accumulator *a, dl_tensor loss, size_t count)
{
    if (!a || a->o->ctx->failed || (!loss.ctx && count)) return false;
    dl_backward_desc d;
    memset(&d, 0, sizeof d);
    if (loss.ctx && loss.ctx != a->o->ctx)
        return dl_fail(a->o->ctx, "dl_accumulate: the loss is a tensor of another context");
    a->stepped = false;
    if (*a->o->select) d.pattern = a->o->select;
    if (a->o->ctx->replica) {
        d.count = a->mode == DL_EXACT ? count : 0;
        /* shards: divided by their number */
        d.scale = a->mode == DL_EXACT || a->o->ctx->parts ? 1 : 1.0f / (float)a->steps;
        return dl__accumulate_replica(a, loss, count, &d);
    }
    if (a->steps > 1)
        d.scale = a->mode == DL_EXACT ? (float)count
                                      : 1.0f / (float)a->steps; /* the mean's gradient times its count: the sum's */
    if (a->mode == DL_EXACT && !count) dl_end(a->o->ctx); /* no sample: no gradient */
    else if (!dl_backward_ex(loss, &d)) return false;
    a->count += (double)count;
    return ++a->done < a->steps || dl_accumulator_flush(a);
}

/* ==== >>parallel ====
   Replicas as one world: collectives over threads and processes, reduction during backward, invariant bits.
   may use: optimizers, layers, executor

   Replicas here meet at a channel: each leaves a record of its call and a pointer, the last to come compares the
   records. Then each works on its own slice of everybody's memory, and they meet again; so nothing is copied but
   what has to be. Between processes the replica of index 0, the leader, calls the transport. There are two channels:
   what a replica's own thread calls goes over DL__CALLS, the gradients of its communication thread over DL__GRADIENTS.
   A replica waits for gradients only after a call (dl__close) that all must come to, so that a rank that is elsewhere
   is found out on DL__CALLS. */
enum { DL__CALLS, DL__GRADIENTS, DL__CHANNELS };
enum { DL__MAX_REPLICAS = 256 };
typedef enum dl__what {
    DL__REDUCES, DL__BROADCASTS, DL__GATHERS, DL__MEETS, DL__COMPARES, DL__SUMS, DL__CLOSES, DL__BUCKET,
    DL__SHARES_BUFFERS, DL__LEAVES
} dl__what;
static const char *const dl__what_text[] = {
    "dl_all_reduce of %zu numbers", "dl_broadcast of %zu bytes", "dl_all_gather of %zu bytes", "dl_barrier",
    "the comparison of parameters before the first run", "sums of batch_norm over the ranks, %zu numbers",
    "the reduction of gradients", "the reduction of a bucket of %zu gradients", "the broadcast of buffers, %zu bytes",
    "the end, as its function has returned"
};

/* What a rank calls; `weight`: of its gradients among those of all ranks. */
typedef struct dl__call { uint32_t what, detail; uint64_t amount, number, step; double weight; } dl__call;
typedef struct dl__slot { dl__call call; void *data; uint64_t round; } dl__slot;
typedef struct dl__channel {
    int arrived;
    uint64_t round;
    dl__slot *slot;          /* of each replica here */
    dl__call *remote;        /* of each process */
    bool *missing;
    char *room;              /* of the leader, for the transport */
    size_t room_size;
#ifndef DLTRAIN_NO_THREADS
    pthread_cond_t changed;
#endif
} dl__channel;

typedef struct dl__world {
    dl_launch_desc desc;
    dl_config config;        /* of the replicas, and of memory here */
    void (*fn)(dl_context *ctx, dl_comm *comm, void *user);
    void *user;
    int replicas, first, size; /* here; the rank of the first; of all processes */
    int *counts;             /* replicas of each process */
    double seconds;          /* 0: for ever */
    bool failed;
    bool there;              /* all replicas are in this process, each on a device: see dl__reduce_there */
    char error[DLTRAIN_ERROR_MAX];
    dl__channel channel[DL__CHANNELS];
    dl_comm *comm;           /* of each replica here */
#ifndef DLTRAIN_NO_THREADS
    pthread_mutex_t mutex;
#endif
} dl__world;

/* Gradients first .. first + n, reduced as one; `waits` for so many parameters of them. */
typedef struct dl__bucket { size_t first, n; uint32_t waits; } dl__bucket;
/* What a rank says at the end of a backward pass. */
typedef struct dl__closing { double weight, batch; uint64_t has, leaving, open; } dl__closing;
enum { DL__MAX_LEVELS = 16 };

struct dl_comm {
    dl__world *world;
    dl_context *ctx;
    int rank, local;
    uint64_t step;           /* reductions so far */
    uint64_t calls[DL__CHANNELS];
    int doing;               /* the call it is in, or -1 */
    size_t doing_amount;
    char device[DL__DEVICE_MAX];
    int threads;
    /* the reduction */
    uint32_t layout;         /* of the parameters that are rank 0's */
    size_t n_values, n_buffers; /* of them */
    int params, buckets;
    dl__bucket *bucket;      /* in the order in which they are reduced: backward passes end with the first parameters */
    uint8_t *has, *own, *kept; /* of each parameter: some gradient here; one that was not reduced; one in `window` */
    dl_real *mask;           /* of each parameter, on all ranks */
    dl__closing *closing;    /* of each rank */
    bool overlaps;           /* buckets are handed over as launches complete them */
    int complete;            /* buckets handed over */
    double weight;           /* of the buckets: ctx->weight when the backward pass began; HUGE_VAL in a window */
    /* invariant shards: this is number `part` of the step; sums of 2^level shards wait in stack[level] for another */
    int part, levels;
    uint64_t pattern;
    double shard_weight;
    size_t cap_values, cap_buffers;
    dl_real *stack[DL__MAX_LEVELS], *buffer_stack[DL__MAX_LEVELS];
    dl_real *before, *change; /* buffers before the batch; what this shard changed, times its weight */
    double batch_weight, batch; /* of the batch's shards so far; of all of them on all ranks */
    /* a window of several batches: each is reduced by itself, and added to those before it */
    bool open;               /* there are such */
    dl_real *window;         /* their sum */
    size_t cap_window;
    dl_parallel_stats stats;
    uint64_t at;             /* since when the phase at hand runs, see dl__lap */
    uint32_t backward;       /* the first node of the backward pass that runs */
    /* the communication thread: reduces buckets done .. posted; from the end of the backward pass on the
       replica's own does */
    bool threaded, quit;
    bool reducing, finishing; /* it is in a bucket; the own thread has taken over */
    int posted, done;
    dl__patience spin[DL__CHANNELS];
    dl_real *there;          /* the gradients on a device, how many buckets are complete there, how many sums begun */
    int ready, begun;
#ifndef DLTRAIN_NO_THREADS
    pthread_t thread, reducer;
    pthread_cond_t turn;
#endif
};

#ifndef DLTRAIN_NO_THREADS
static void dl__lock(dl__world *w) { pthread_mutex_lock(&w->mutex); }
static void dl__unlock(dl__world *w) { pthread_mutex_unlock(&w->mutex); }
static void dl__wake(pthread_cond_t *changed) { pthread_cond_broadcast(changed); }
/* In slices, so that neither a clock that is set nor a process that was stopped looks like a deadline. */
static void dl__wait(dl__world *w, pthread_cond_t *changed, double *waited)
{
    enum { SLICE = 50000 }; /* microseconds */
    struct timespec until;
    uint64_t at = dl__microseconds() + SLICE;
    until.tv_sec = (time_t)(at / 1000000);
    until.tv_nsec = (long)(at % 1000000 * 1000);
    if (pthread_cond_timedwait(changed, &w->mutex, &until)) *waited += SLICE * 1e-6;
}
#else
static void dl__lock(dl__world *w) { (void)w; }
static void dl__unlock(dl__world *w) { (void)w; }
#endif

static bool dl__world_failed(const dl__world *w) { return __atomic_load_n(&w->failed, __ATOMIC_ACQUIRE); }

/* The first failure ends every call of every rank. The mutex is held. */
static bool dl__fail_locked(dl__world *w, const char *format, ...)
{
    dl__text t;
    va_list args;
    if (w->failed) return false;
    t.at = w->error;
    t.end = w->error + sizeof w->error - 1;
    va_start(args, format);
    dl__format(&t, format, args);
    va_end(args);
    __atomic_store_n(&w->failed, true, __ATOMIC_RELEASE);
#ifndef DLTRAIN_NO_THREADS
    for (int i = 0; i < DL__CHANNELS; i++) dl__wake(&w->channel[i].changed);
#endif
    return false;
}

/* After dl__fail_locked, without the mutex: the other processes. */
static bool dl__spread(dl__world *w)
{
    const dl_transport *t = w->desc.transport;
    if (t && t->abort) t->abort(t->user, w->error);
    return false;
}

/* A sentence about a call: "all-reduce of 5 numbers". */
static void dl__put_call(char *out, size_t size, const dl__call *call)
{
    dl__text t;
    t.at = out;
    t.end = out + size - 1;
    const char *f = dl__what_text[call->what];
    for (; *f; f++)
        if (f[0] == '%' && f[1] == 'z') dl__put_unsigned(&t, (size_t)call->amount), f += 2;
        else dl__put(&t, *f);
    if (call->what == DL__BROADCASTS) dl__puts(&t, " from rank "), dl__put_unsigned(&t, call->detail);
    if (call->what == DL__REDUCES) dl__puts(&t, call->detail == DL_COMM_MAX ? " (max)" : " (sum)");
    *t.at = 0;
}

static bool dl__same_call(const dl__call *a, const dl__call *b)
{
    return a->what == b->what && a->detail == b->detail && a->amount == b->amount && a->number == b->number;
}

static void dl__tell_mismatch(dl__world *w, int rank, const dl__call *a, int other, const dl__call *b)
{
    char mine[128], theirs[128];
    if (a->what == DL__LEAVES) { /* the one that waits comes first */
        dl__tell_mismatch(w, other, b, rank, a);
        return;
    }
    dl__put_call(mine, sizeof mine, a);
    dl__put_call(theirs, sizeof theirs, b);
    if (b->what == DL__LEAVES)
        dl__fail_locked(
            w, "rank %d, step %zu, in %s: rank %d has returned from its function", rank, (size_t)a->step, mine, other);
    else if (!strcmp(mine, theirs))
        dl__fail_locked(w,
            "rank %d, step %zu: %s is collective %zu, for rank %d it is %zu: the ranks do not call the same ones", rank,
            (size_t)a->step, mine, (size_t)a->number, other, (size_t)b->number);
    else
        dl__fail_locked(w, "rank %d, step %zu, in %s: rank %d, step %zu, calls %s instead", rank, (size_t)a->step, mine,
            other, (size_t)b->step, theirs);
}

/* The mutex is held, and time is up. */
static void dl__tell_missing(const dl_comm *c, const dl__channel *ch, const dl__call *call)
{
    char mine[128], list[128];
    dl__text t;
    int n = 0;
    t.at = list;
    t.end = list + sizeof list - 1;
    for (int i = 0; i < c->world->replicas; i++)
        if (ch->slot[i].round != ch->round + 1) {
            if (n++) dl__puts(&t, ", ");
            dl__put_signed(&t, c->world->first + i);
        }
    *t.at = 0;
    dl__put_call(mine, sizeof mine, call);
    dl__fail_locked(c->world, "rank %d, step %zu, in %s: rank%s %s has not come in %g seconds", c->rank,
        (size_t)c->step, mine, n > 1 ? "s" : "", list, c->world->seconds);
}

#ifndef DLTRAIN_NO_THREADS
static bool dl__met(void *channel, uint64_t round)
{
    return __atomic_load_n(&((dl__channel *)channel)->round, __ATOMIC_ACQUIRE) != round;
}
#endif

/* All replicas here meet. With a call: to begin one; false when the world has failed. NULL: within one, which all have
   begun and so will come, failed or not: they touch each other's memory. */
static bool dl__meet(dl_comm *c, int channel, const dl__call *call, void *data)
{
    dl__world *w = c->world;
    dl__channel *ch = &w->channel[channel];
    if (call && dl__world_failed(w)) return false;
    if (call) ch->slot[c->local].call = *call, ch->slot[c->local].data = data;
    if (w->replicas == 1) return true;
#ifndef DLTRAIN_NO_THREADS
    bool spread = false;
    double waited = 0;
    dl__lock(w);
    uint64_t round = ch->round;
    ch->slot[c->local].round = round + 1;
    if (++ch->arrived == w->replicas) {
        for (int i = 1; call && i < w->replicas && !w->failed; i++)
            if (!dl__same_call(&ch->slot[0].call, &ch->slot[i].call)) {
                dl__tell_mismatch(w, w->first, &ch->slot[0].call, w->first + i, &ch->slot[i].call);
                spread = true;
            }
        if (!call || !w->failed) {
            ch->arrived = 0;
            __atomic_store_n(&ch->round, round + 1, __ATOMIC_RELEASE);
        }
        dl__wake(&ch->changed);
    } else {
        if (channel == DL__CALLS || c->finishing) { /* nothing else is to be done here */
            dl__unlock(w);
            dl__spin(dl__met, ch, round, &c->spin[channel]);
            dl__lock(w);
        }
        while (ch->round == round && !(call && w->failed)) {
            dl__wait(w, &ch->changed, &waited);
            bool late = call && call->what != DL__LEAVES && w->seconds > 0 && waited >= w->seconds;
            if (late && ch->round == round && !w->failed) {
                dl__tell_missing(c, ch, call);
                spread = true;
            }
        }
        dl__slept(&c->spin[channel]);
    }
    bool met = ch->round != round;
    dl__unlock(w);
    return spread ? dl__spread(w) : met;
#else
    return true;
#endif
}

/* A sentence of the transport. */
static bool dl__transport_failed(dl_comm *c, const dl__call *call, const char *sentence)
{
    char mine[128];
    dl__world *w = c->world;
    dl__put_call(mine, sizeof mine, call);
    dl__lock(w);
    dl__fail_locked(w, "rank %d, step %zu, in %s: %s", c->rank, (size_t)c->step, mine, sentence);
    dl__unlock(w);
    return dl__spread(w);
}

/* The leader: do all processes call the same? */
static bool dl__agree(dl_comm *c, int channel, const dl__call *call)
{
    dl__world *w = c->world;
    const dl_transport *t = w->desc.transport;
    dl__channel *ch = &w->channel[channel];
    char list[128];
    dl__text text;
    int rank = 0, n = 0;
    memset(ch->missing, 0, (size_t)t->size * sizeof *ch->missing);
    const char *sentence = t->all_gather(
        t->user, channel, call, ch->remote, sizeof *call, call->what == DL__LEAVES ? 0 : w->seconds, ch->missing);
    text.at = list;
    text.end = list + sizeof list - 1;
    for (int p = 0; p < t->size; rank += w->counts[p++])
        for (int i = 0; sentence && ch->missing[p] && i < w->counts[p]; i++) {
            dl__puts(&text, n++ ? ", " : "nothing has come from rank ");
            dl__put_signed(&text, rank + i);
        }
    *text.at = 0;
    if (sentence) return dl__transport_failed(c, call, n ? list : sentence);
    rank = w->counts[0];
    for (int p = 1; p < t->size; rank += w->counts[p++])
        if (!dl__same_call(&ch->remote[0], &ch->remote[p])) {
            dl__lock(w);
            dl__tell_mismatch(w, 0, &ch->remote[0], rank, &ch->remote[p]);
            dl__unlock(w);
            return dl__spread(w);
        }
    return true;
}

static dl__call dl__make_call(dl_comm *c, int channel, dl__what what, uint32_t detail, size_t amount)
{
    dl__call call;
    call.what = (uint32_t)what;
    call.detail = detail;
    call.amount = amount;
    call.number = ++c->calls[channel];
    call.step = c->step;
    call.weight = what == DL__BUCKET ? c->weight : 0;
    if (channel == DL__CALLS) c->doing = (int)what, c->doing_amount = amount;
    return call;
}

/* After a collective: the error of the world is the context's. */
static bool dl__called(dl_comm *c, bool ok)
{
    c->doing = -1;
    return ok || dl_fail(c->ctx, "%s", c->world->error);
}

/* ---- sums: x_0 + x_1 + ... over the ranks, in a binary tree over their numbers ---- */
enum { DL__SUM_TILE = 2048 };
static void dl__combine(int level, dl_comm_op op, dl_real *dst, const dl_real *x, size_t n, dl_real factor)
{
    if (op == DL_COMM_SUM) DL__CALL(level, add_to_scaled, (dst, x, n, factor));
    else
        for (size_t i = 0; i < n; i++) dst[i] = x[i] > dst[i] || x[i] != x[i] ? x[i] : dst[i];
}

/* Numbers at .. at + n of ranks first .. first + count here: their sum, times `factor`, replaces those of the first,
   partial sums some others. */
static void dl__tree(
    const dl__channel *ch, int level, dl_comm_op op, int first, int count, size_t at, size_t n, dl_real factor)
{
    int half = 1;
    dl_real *sum = (dl_real *)ch->slot[first].data + at;
    if (count == 1) {
        if (factor != 1) dl__scale(sum, n, factor);
        return;
    }
    while (2 * half < count) half *= 2;
    dl__tree(ch, level, op, first, half, at, n, 1);
    dl__tree(ch, level, op, first + half, count - half, at, n, 1);
    dl__combine(level, op, sum, (const dl_real *)ch->slot[first + half].data + at, n, factor);
}

/* Between processes, a power of two of them: recursive halving and doubling (Thakur, Rabenseifner and Gropp 2005),
   which for each number is the binary tree over the processes, since a + b = b + a. Then times `factor`. `other`:
   room for n + 1 numbers. */
static const char *dl__halve_and_double(
    const dl_comm *c, int channel, dl_real *data, size_t n, dl_real factor, dl_real *other)
{
    const dl__world *w = c->world;
    const dl_transport *t = w->desc.transport;
    size_t first[32], count[32], at = 0;
    int depth = 0;
    for (int bit = 1; bit < t->size; bit *= 2, depth++) {
        size_t low = (n + 1) / 2, keep = t->rank & bit ? n - low : low, give = n - keep;
        dl_real *mine = data + at + (t->rank & bit ? low : 0), *theirs = data + at + (t->rank & bit ? 0 : low);
        first[depth] = at, count[depth] = n;
        memcpy(other + low, theirs, give * sizeof *data);
        if (give < low) other[low + give] = 0; /* both send as much */
        const char *sentence =
            t->exchange(t->user, channel, t->rank ^ bit, other + low, other, low * sizeof *data, w->seconds);
        if (sentence) return sentence;
        DL__CALL(c->ctx->level, add_to, (mine, other, keep));
        at = (size_t)(mine - data);
        n = keep;
    }
    if (factor != 1) dl__scale(data + at, n, factor);
    for (int bit = t->size / 2; bit; bit /= 2) {
        depth--;
        size_t low = (count[depth] + 1) / 2, give = count[depth] - n;
        dl_real *theirs = data + first[depth] + (t->rank & bit ? 0 : low);
        memcpy(other + low, data + at, n * sizeof *data);
        if (n < low) other[low + n] = 0;
        const char *sentence =
            t->exchange(t->user, channel, t->rank ^ bit, other + low, other, low * sizeof *data, w->seconds);
        if (sentence) return sentence;
        memcpy(theirs, other, give * sizeof *data);
        at = first[depth];
        n = count[depth];
    }
    return NULL;
}

/* The leader's room for the transport; NULL after an error. */
static char *dl__room(dl_comm *c, int channel, size_t bytes)
{
    dl__world *w = c->world;
    dl__channel *ch = &w->channel[channel];
    if (bytes <= ch->room_size) return ch->room;
    if (ch->room) dl__system_free(&w->config, ch->room);
    ch->room = (char *)dl__system_alloc(&w->config, bytes);
    ch->room_size = ch->room ? bytes : 0;
    if (ch->room) return ch->room;
    dl__lock(w);
    dl__fail_locked(w, "rank %d: out of memory: a collective asked for %zu bytes", c->rank, bytes);
    dl__unlock(w);
    dl__spread(w);
    return NULL;
}

/* The part of n numbers that this replica works on: whole cache lines. */
static size_t dl__slice_of(const dl_comm *c, size_t n, size_t *first)
{
    size_t per = (n + (size_t)c->world->replicas - 1) / (size_t)c->world->replicas;
    per = (per + 15) / 16 * 16;
    *first = DL__MIN(n, per * (size_t)c->local);
    return DL__MIN(n - *first, per);
}

/* Of all ranks here. */
static double dl__weight_here(const dl__world *w, const dl__channel *ch)
{
    double weight = 0;
    for (int r = 0; r < w->replicas; r++) weight += ch->slot[r].call.weight;
    return weight;
}

/* What sums of this weight are multiplied by; 1 if they are no gradients, or those of an open window. */
static dl_real dl__factor(double weight) { return weight > 0 && weight < HUGE_VAL ? (dl_real)(1 / weight) : 1; }

/* The leader: what all ranks here have summed, with the other processes. */
static bool dl__reduce_processes(dl_comm *c, int channel, dl__call call, dl_real *data, size_t n, dl_comm_op op)
{
    const dl__world *w = c->world;
    const dl_transport *t = w->desc.transport;
    const bool shards = w->desc.invariant_shards != 0;
    const dl__channel *ch = &w->channel[channel];
    double weight = 0;
    char *room = shards ? dl__room(c, channel, (n + 2) * sizeof *data) : NULL;
    call.weight = dl__weight_here(w, ch);
    if (!dl__agree(c, channel, &call) || (shards && !room)) return false;
    for (int p = 0; p < t->size; p++) weight += ch->remote[p].weight;
    const dl_real factor = dl__factor(weight);
    const char *sentence = room && op == DL_COMM_SUM
        ? dl__halve_and_double(c, channel, data, n, factor, (dl_real *)(void *)room)
        : t->all_reduce(t->user, channel, data, n, op, factor, w->seconds);
    return !sentence || dl__transport_failed(c, &call, sentence);
}

static bool dl__reduce_ranks(dl_comm *c, int channel, const dl__call *call, dl_real *data, size_t n, dl_comm_op op)
{
    dl__world *w = c->world;
    const dl_transport *t = w->desc.transport;
    const dl__channel *ch = &w->channel[channel];
    size_t first, mine = dl__slice_of(c, n, &first);
    if (!dl__meet(c, channel, call, data)) return false;
    const dl_real factor = t ? 1 : dl__factor(dl__weight_here(w, ch)); /* between processes it comes later */
    for (size_t i = first, m; i < first + mine; i += m) {
        m = DL__MIN((size_t)DL__SUM_TILE, first + mine - i);
        dl__tree(ch, c->ctx->level, op, 0, w->replicas, i, m, factor);
        const dl_real *sum = (const dl_real *)ch->slot[0].data + i;
        for (int r = 1; r < (t ? 1 : w->replicas); r++) memcpy((dl_real *)ch->slot[r].data + i, sum, m * sizeof *sum);
    }
    dl__meet(c, channel, NULL, NULL);
    if (!t) return true;
    bool ok = c->local || dl__reduce_processes(c, channel, *call, data, n, op);
    dl__meet(c, channel, NULL, NULL);
    if (c->local && n) memcpy(data, ch->slot[0].data, n * sizeof *data);
    dl__meet(c, channel, NULL, NULL);
    return ok && !dl__world_failed(w);
}

/* The process of a rank, and its index there. */
static int dl__process_of(const dl__world *w, int rank, int *local)
{
    int p = 0;
    if (w->desc.transport)
        for (; rank >= w->counts[p]; p++) rank -= w->counts[p];
    *local = rank;
    return p;
}

static bool dl__spread_bytes(dl_comm *c, const dl__call *call, void *data, size_t bytes, int root)
{
    dl__world *w = c->world;
    const dl_transport *t = w->desc.transport;
    const dl__slot *slot = w->channel[DL__CALLS].slot;
    int local, process = dl__process_of(w, root, &local), from = t && process != t->rank ? 0 : local;
    bool ok = true;
    if (!dl__meet(c, DL__CALLS, call, data)) return false;
    if (t && !c->local) {
        ok = dl__agree(c, DL__CALLS, call);
        const char *sentence =
            ok ? t->broadcast(t->user, DL__CALLS, slot[from].data, bytes, process, w->seconds) : NULL;
        if (sentence) ok = dl__transport_failed(c, call, sentence);
    }
    if (t) dl__meet(c, DL__CALLS, NULL, NULL);
    if (c->local != from && bytes) memcpy(data, slot[from].data, bytes);
    dl__meet(c, DL__CALLS, NULL, NULL);
    return ok && !(t && dl__world_failed(w));
}

static bool dl__gather_bytes(dl_comm *c, const dl__call *call, const void *mine, void *all, size_t bytes)
{
    dl__world *w = c->world;
    const dl_transport *t = w->desc.transport;
    const dl__slot *slot = w->channel[DL__CALLS].slot;
    char *to = (char *)all;
    bool ok = true;
    if (!dl__meet(c, DL__CALLS, call, (void *)(uintptr_t)mine)) return false;
    if (!t) {
        for (int i = 0; i < w->replicas; i++) memcpy(to + (size_t)i * bytes, slot[i].data, bytes);
        dl__meet(c, DL__CALLS, NULL, NULL);
        return true;
    }
    size_t most = 0; /* of a process: all send as much */
    for (int p = 0; p < t->size; p++) most = DL__MAX(most, (size_t)w->counts[p] * bytes);
    if (!c->local) {
        char *room = dl__room(c, DL__CALLS, ((size_t)t->size + 1) * most + 1); /* NULL is for an error alone */
        ok = room && dl__agree(c, DL__CALLS, call);
        char *ours = ok ? room + (size_t)t->size * most : NULL;
        for (int i = 0; ok && i < w->replicas; i++) memcpy(ours + (size_t)i * bytes, slot[i].data, bytes);
        const char *sentence =
            ok ? t->all_gather(t->user, DL__CALLS, ours, room, most, w->seconds, w->channel[DL__CALLS].missing) : NULL;
        if (sentence) ok = dl__transport_failed(c, call, sentence);
    }
    dl__meet(c, DL__CALLS, NULL, NULL);
    for (int p = 0; p < t->size && !dl__world_failed(w); p++) {
        memcpy(to, w->channel[DL__CALLS].room + (size_t)p * most, (size_t)w->counts[p] * bytes);
        to += (size_t)w->counts[p] * bytes;
    }
    dl__meet(c, DL__CALLS, NULL, NULL);
    return ok && !dl__world_failed(w);
}

static bool dl__barrier(dl_comm *c, dl__what what)
{
    dl__call call = dl__make_call(c, DL__CALLS, what, 0, 0);
    if (!dl__meet(c, DL__CALLS, &call, NULL)) return false;
    bool ok = c->local || !c->world->desc.transport || dl__agree(c, DL__CALLS, &call);
    dl__meet(c, DL__CALLS, NULL, NULL);
    return ok && !(c->world->desc.transport && dl__world_failed(c->world));
}

DL_API dl_comm *dl_comm_of(const dl_context *ctx) { return ctx ? ctx->comm : NULL; }
DL_API int dl_comm_rank(const dl_comm *c) { return c ? c->rank : 0; }
DL_API int dl_comm_size(const dl_comm *c) { return c ? c->world->size : 1; }

DL_API bool dl_all_reduce(dl_comm *c, dl_real *data, size_t n, dl_comm_op op)
{
    if (!c) return true;
    if (c->ctx->failed) return false;
    if (!data && n) return dl_fail(c->ctx, "dl_all_reduce: data is NULL");
    dl__call call = dl__make_call(c, DL__CALLS, DL__REDUCES, (uint32_t)op, n);
    return dl__called(c, dl__reduce_ranks(c, DL__CALLS, &call, data, n, op));
}

DL_API bool dl_broadcast(dl_comm *c, void *data, size_t bytes, int root)
{
    if (!c) return true;
    if (c->ctx->failed) return false;
    if (!data && bytes) return dl_fail(c->ctx, "dl_broadcast: data is NULL");
    if (root < 0 || root >= c->world->size)
        return dl_fail(c->ctx, "dl_broadcast: there is no rank %d; there are %d ranks", root, c->world->size);
    dl__call call = dl__make_call(c, DL__CALLS, DL__BROADCASTS, (uint32_t)root, bytes);
    return dl__called(c, dl__spread_bytes(c, &call, data, bytes, root));
}

DL_API bool dl_all_gather(dl_comm *c, const void *mine, void *all, size_t bytes)
{
    if (c && c->ctx->failed) return false;
    if (bytes && (!mine || !all)) return c && dl_fail(c->ctx, "dl_all_gather: mine or all is NULL");
    if (!c) return bytes && mine != all ? (memcpy(all, mine, bytes), true) : true;
    dl__call call = dl__make_call(c, DL__CALLS, DL__GATHERS, 0, bytes);
    return dl__called(c, dl__gather_bytes(c, &call, mine, all, bytes));
}

DL_API bool dl_barrier(dl_comm *c) { return !c || (!c->ctx->failed && dl__called(c, dl__barrier(c, DL__MEETS))); }

static double dl__seconds(uint64_t from, uint64_t to) { return (double)(int64_t)(to - from) * 1e-6; }

/* The time since *at is that of a phase. */
static void dl__lap(uint64_t *at, dl_phase *phase)
{
    uint64_t now = dl__microseconds();
    phase->seconds += dl__seconds(*at, now);
    *at = now;
}

DL_API void dl_comm_stats(const dl_comm *c, dl_parallel_stats *out)
{
    memset(out, 0, sizeof *out);
    if (c) *out = c->stats;
}

DL_API void dl_comm_abort(dl_comm *c, const char *sentence)
{
    if (c) dl_fail(c->ctx, "%s", sentence ? sentence : "dl_comm_abort");
}

DL_API void dl_shard(size_t n, int shard, int shards, size_t *first, size_t *count)
{
    /* the first `more` ranks have one more */
    size_t s = (size_t)shard, of = (size_t)(shards > 0 ? shards : 1), each = n / of, more = n % of;
    *first = s * each + DL__MIN(s, more);
    *count = each + (s < more);
}

/* ---- the error of a replica is that of the world ---- */
static void dl__replica_failed(dl_context *ctx)
{
    dl_comm *c = ctx->comm;
    dl__world *w = c->world;
    char doing[128] = "";
    dl__lock(w);
    bool first = !w->failed;
    if (first && c->doing >= 0) {
        dl__call call;
        memset(&call, 0, sizeof call);
        call.what = (uint32_t)c->doing;
        call.amount = c->doing_amount;
        memcpy(doing, ", in ", 5);
        dl__put_call(doing + 5, sizeof doing - 5, &call);
    }
    if (first)
        dl__fail_locked(w, "rank %d (%s), step %zu%s: %s", c->rank, c->device, (size_t)c->step, doing, ctx->error);
    memcpy(ctx->error, w->error, sizeof ctx->error);
    dl__unlock(w);
    if (first) dl__spread(w);
}

/* ---- parameters: compared, then those of rank 0 for all ---- */
typedef struct dl__card { /* of a parameter */
    char name[DLTRAIN_NAME_MAX];
    dl_shape shape;
    size_t numel, offset;
    dl_init init;
    float value;
    int buffer, there;
} dl__card;
typedef struct dl__summary { uint64_t hash, params; } dl__summary; /* of a rank: no larger than dl__closing */

static void dl__make_card(const dl_context *ctx, int index, dl__card *card)
{
    memset(card, 0, sizeof *card);
    if (index >= ctx->params) return;
    const dl__param *p = &ctx->param[index];
    memcpy(card->name, p->name, strlen(p->name));
    card->shape.ndim = p->shape.ndim;
    for (int i = 0; i < p->shape.ndim; i++) card->shape.dim[i] = p->shape.dim[i];
    card->numel = p->numel;
    card->offset = p->offset;
    card->init = p->init;
    card->value = p->value;
    card->buffer = p->buffer;
    card->there = 1;
}

static bool dl__spread_what(dl_comm *c, dl__what what, void *data, size_t bytes, int root)
{
    dl__call call = dl__make_call(c, DL__CALLS, what, (uint32_t)root, bytes);
    return dl__called(c, dl__spread_bytes(c, &call, data, bytes, root));
}

static bool dl__gather_what(dl_comm *c, dl__what what, const void *mine, void *all, size_t bytes, size_t amount)
{
    dl__call call = dl__make_call(c, DL__CALLS, what, 0, amount);
    return dl__called(c, dl__gather_bytes(c, &call, mine, all, bytes));
}

/* The parameters differ from those of rank `root`: which is first, and whose? Every rank finds the same sentence. */
static bool dl__tell_difference(dl_comm *c, int root)
{
    uint64_t *all = (uint64_t *)(void *)c->closing;
    for (int i = 0; !c->ctx->failed; i++) {
        dl__card first, mine;
        dl__make_card(c->ctx, i, &first);
        dl__make_card(c->ctx, i, &mine);
        if (!dl__spread_what(c, DL__COMPARES, &first, sizeof first, root)) return false;
        uint64_t same = !memcmp(&first, &mine, sizeof first);
        if (!dl__gather_what(c, DL__COMPARES, &same, all, sizeof same, (size_t)i)) return false;
        for (int r = 0; r < c->world->size; r++) {
            if (all[r]) continue;
            if (!dl__spread_what(c, DL__COMPARES, &mine, sizeof mine, r)) return false;
            if (!mine.there || !first.there)
                return dl_fail(c->ctx, "rank %d has %s parameters than rank %d: '%s' %H is the first that only one has",
                    r, mine.there ? "more" : "fewer", root, mine.there ? mine.name : first.name,
                    mine.there ? &mine.shape : &first.shape);
            return dl_fail(c->ctx,
                "parameter %d of rank %d is '%s' %H, that of rank %d '%s' %H: all ranks must run the same model", i, r,
                mine.name, &mine.shape, root, first.name, &first.shape);
        }
    }
    return false;
}

/* Ranks that had no data yet take the parameters of rank `root`, without having run the model. */
static bool dl__adopt(dl_comm *c, int root, int params)
{
    bool none = !c->ctx->params;
    for (int i = 0; i < params; i++) {
        dl__card card;
        dl__make_card(c->ctx, i, &card);
        if (!dl__spread_what(c, DL__COMPARES, &card, sizeof card, root)) return false;
        if (!none) continue;
        dl_param_desc d;
        d.shape = card.shape;
        d.init = card.init;
        d.value = card.value;
        d.buffer = card.buffer != 0;
        if (!dl__new_param_like(c->ctx, card.name, &d, card.numel)) return false;
    }
    return dl__lay_out_grads(c->ctx);
}

/* Are those of all ranks the same? *root: the first rank that has any. */
static bool dl__compare_parameters(dl_comm *c, int *root)
{
    const dl_context *ctx = c->ctx;
    dl__summary mine, *all = (dl__summary *)(void *)c->closing;
    bool adopts = false;
    mine.hash = mine.params = (uint64_t)ctx->params;
    for (int i = 0; i < ctx->params; i++) {
        const dl__param *p = &ctx->param[i];
        mine.hash = dl__mix(dl__mix(mine.hash, p->hash), p->offset);
        mine.hash = dl__mix(mine.hash, (uint64_t)p->buffer << 8 | (uint64_t)p->shape.ndim);
        for (int k = 0; k < p->shape.ndim; k++) mine.hash = dl__mix(mine.hash, (uint64_t)p->shape.dim[k]);
    }
    if (!dl__gather_what(c, DL__COMPARES, &mine, all, sizeof mine, 0)) return false;
    for (*root = 0; *root < c->world->size - 1 && !all[*root].params;) ++*root;
    for (int r = 0; r < c->world->size; r++) {
        adopts = adopts || !all[r].params;
        if (all[r].params && all[r].hash != all[*root].hash) return dl__tell_difference(c, *root);
    }
    return !adopts || dl__adopt(c, *root, (int)all[*root].params);
}

/* A flat buffer that grows with those of the context. */
static bool dl__grow_along(dl_context *ctx, dl_real **buffer, size_t old, size_t now)
{
    return !now || (*buffer && old == now) || dl__reserve(ctx, buffer, *buffer ? old : 0, now);
}

static bool dl__room_for_parameters(dl_comm *c)
{
    dl_context *ctx = c->ctx;
    if (ctx->params > c->params) {
        size_t n = (size_t)ctx->param_capacity;
        dl__bucket *bucket = (dl__bucket *)dl__alloc(ctx, n * sizeof *bucket, 2 * n);
        dl_real *mask = bucket ? (dl_real *)dl__alloc(ctx, n * sizeof *mask, 0) : NULL;
        uint8_t *has = mask ? (uint8_t *)dl__grow(ctx, c->has, (size_t)c->params, n, 0) : NULL;
        uint8_t *own = has ? (uint8_t *)dl__grow(ctx, c->own, (size_t)c->params, n, 0) : NULL;
        uint8_t *kept = own ? (uint8_t *)dl__grow(ctx, c->kept, (size_t)c->params, n, 0) : NULL;
        if (has) c->has = has;
        if (own) c->own = own;
        if (!kept) return false;
        dl__release(ctx, c->bucket);
        dl__release(ctx, c->mask);
        c->kept = kept;
        c->bucket = bucket;
        c->mask = mask;
        c->params = (int)n;
    }
    size_t old = c->cap_buffers, now = ctx->cap_buffers;
    for (int i = 0; i < c->levels; i++)
        if (!dl__grow_along(ctx, &c->stack[i], c->cap_values, ctx->cap_values) ||
            !dl__grow_along(ctx, &c->buffer_stack[i], old, now))
            return false;
    if (ctx->parts && (!dl__grow_along(ctx, &c->before, old, now) || !dl__grow_along(ctx, &c->change, old, now)))
        return false;
    c->cap_values = ctx->cap_values;
    c->cap_buffers = now;
    return true;
}

/* What the buffers are before the shards change them, from number `from` on. */
static bool dl__note_buffers(dl_comm *c, size_t from)
{
    dl_context *ctx = c->ctx;
    if (!ctx->parts || ctx->n_buffers <= from) return true;
    if (!dl__to_host(ctx, ctx->buffers)) return false;
    memcpy(c->before + from, ctx->buffers + from, (ctx->n_buffers - from) * sizeof *c->before);
    return true;
}

/* Those behind the first n_values and n_buffers; in eager mode there are more with each layer. */
static bool dl__spread_parameters(dl_comm *c)
{
    dl_context *ctx = c->ctx;
    int root;
    uint64_t at = dl__microseconds();
    if (!dl__compare_parameters(c, &root) || !dl__room_for_parameters(c)) return false;
    if (!dl__to_host(ctx, ctx->values) || !dl__to_host(ctx, ctx->buffers)) return false;
    size_t values = c->n_values, buffers = c->n_buffers;
    c->layout = ctx->layout;
    c->n_values = ctx->n_values;
    c->n_buffers = ctx->n_buffers;
    dl_real *from = ctx->values ? ctx->values + values : NULL, *buffer = ctx->buffers ? ctx->buffers + buffers : NULL;
    if (!dl__spread_what(c, DL__COMPARES, from, (ctx->n_values - values) * sizeof *from, root) ||
        !dl__spread_what(c, DL__COMPARES, buffer, (ctx->n_buffers - buffers) * sizeof *from, root))
        return false;
    dl__host_wrote(ctx, ctx->values);
    dl__host_wrote(ctx, ctx->buffers);
    c->stats.replicate.bytes += (ctx->n_values - values + ctx->n_buffers - buffers) * sizeof *from;
    dl__lap(&at, &c->stats.replicate);
    return dl__note_buffers(c, buffers);
}

static bool dl__before_run(dl_context *ctx)
{
    dl_comm *c = ctx->comm;
    if (dl__world_failed(c->world)) return dl_fail(ctx, "%s", c->world->error);
    if (ctx->layout != c->layout && !dl__spread_parameters(c)) return false;
    if (!c->part && !ctx->done && !dl__note_buffers(c, 0)) return false;
    c->at = dl__microseconds();
    return true;
}

/* ---- gradients, in buckets ---- */
static bool dl__is_reduced(const dl__param *p, const char *pattern)
{
    return !p->buffer && !p->frozen && p->offset != SIZE_MAX && (!pattern || dl_glob(pattern, p->name));
}

/* Runs of neighbours in the flat buffer, from its end; as in PyTorch a bucket is closed when it has its size. */
static void dl__make_buckets(dl_comm *c, const char *pattern)
{
    const dl_context *ctx = c->ctx;
    const dl_launch_desc *d = &c->world->desc;
    dl__bucket *b = NULL;
    bool full = true;
    c->buckets = 0;
    for (int i = ctx->params; i-- > 0;) {
        const dl__param *p = &ctx->param[i];
        size_t n = dl__padded(p->numel);
        if (!n || !dl__is_reduced(p, pattern)) continue;
        if (full || p->offset + n != b->first) {
            b = &c->bucket[c->buckets++];
            memset(b, 0, sizeof *b);
        }
        b->first = p->offset;
        b->n += n;
        full = b->n * sizeof(dl_real) >= (c->buckets == 1 ? d->first_bucket : d->bucket);
    }
}

static dl__bucket *dl__bucket_at(dl_comm *c, size_t offset)
{
    int low = 0, high = c->buckets - 1;
    while (low < high) { /* they fall */
        int middle = (low + high) / 2;
        if (c->bucket[middle].first <= offset) high = middle;
        else low = middle + 1;
    }
    return c->bucket + low;
}

/* What has no gradient here counts as zeros. */
static bool dl__fill_absent(dl_comm *c, const char *pattern, bool all)
{
    dl_context *ctx = c->ctx;
    for (int i = 0; i < ctx->params; i++) {
        const dl__param *p = &ctx->param[i];
        if (!dl__is_reduced(p, pattern)) continue;
        if (!p->fresh && !all) {
            c->has[i] = 1;
            continue;
        }
        if (!dl__to_host(ctx, ctx->grads)) return false;
        memset(ctx->grads + p->offset, 0, p->numel * sizeof *ctx->grads);
        dl__host_wrote(ctx, ctx->grads);
    }
    return true;
}

static bool dl__reduce_bucket(dl_comm *c, const dl__bucket *b)
{
    dl_real *g = c->ctx->grads + b->first;
    uint64_t at = dl__microseconds();
    dl__call call = dl__make_call(c, DL__GRADIENTS, DL__BUCKET, (uint32_t)b->first, b->n);
    for (int i = 0; i < c->levels; i++) /* the last part */
        DL__CALL(c->ctx->level, add_to, (g, c->stack[i] + b->first, b->n));
    bool ok = dl__reduce_ranks(c, DL__GRADIENTS, &call, g, b->n, DL_COMM_SUM);
    c->stats.reduce.bytes += b->n * sizeof *g;
    dl__lap(&at, &c->stats.reduce);
    return ok;
}

#ifndef DLTRAIN_NO_THREADS
static void *dl__reducer_main(void *argument)
{
    dl_comm *c = (dl_comm *)argument;
    dl__world *w = c->world;
    dl__fp_enter();
    dl__lock(w);
    while (!c->quit) {
        if (c->finishing || c->done >= c->posted) {
            pthread_cond_wait(&c->turn, &w->mutex);
            continue;
        }
        dl__bucket b = c->bucket[c->done];
        __atomic_store_n(&c->reducing, true, __ATOMIC_RELAXED);
        dl__unlock(w);
        bool ok = dl__reduce_bucket(c, &b);
        dl__lock(w);
        c->done = ok ? c->done + 1 : c->posted;
        __atomic_store_n(&c->reducing, false, __ATOMIC_RELEASE);
        dl__wake(&c->turn);
    }
    dl__unlock(w);
    return NULL;
}
#endif

/* Buckets up to number n are complete. */
static void dl__post(dl_comm *c, int n)
{
    if (n <= c->complete) return;
    c->complete = n;
#ifndef DLTRAIN_NO_THREADS
    if (c->threaded) {
        dl__lock(c->world);
        c->posted = n;
        dl__wake(&c->turn);
        dl__unlock(c->world);
        return;
    }
#endif
    for (; c->done < n && dl__reduce_bucket(c, &c->bucket[c->done]); c->done++) c->posted = n;
}

#ifndef DLTRAIN_NO_THREADS
static bool dl__is_idle(void *comm, uint64_t seen)
{
    (void)seen;
    return !__atomic_load_n(&((dl_comm *)comm)->reducing, __ATOMIC_ACQUIRE);
}
#endif

/* The communication thread ends the bucket it is in; what is left is quicker done than handed over. */
static bool dl__finish_buckets(dl_comm *c)
{
#ifndef DLTRAIN_NO_THREADS
    if (c->threaded) {
        dl__lock(c->world);
        c->finishing = true;
        if (c->reducing) {
            dl__unlock(c->world);
            dl__spin(dl__is_idle, c, 0, &c->spin[DL__CALLS]);
            dl__lock(c->world);
        }
        while (c->reducing) pthread_cond_wait(&c->turn, &c->world->mutex);
        dl__slept(&c->spin[DL__CALLS]);
        dl__unlock(c->world);
    }
#endif
    for (; c->done < c->buckets && dl__reduce_bucket(c, &c->bucket[c->done]); c->done++)
        c->stats.wait.bytes += c->bucket[c->done].n * sizeof(dl_real);
    return !dl__world_failed(c->world) || dl_fail(c->ctx, "%s", c->world->error);
}

/* Do gradients stay on the devices? Not sums of several shards, whose stack is on the host. */
static bool dl__stays_there(const dl_comm *c) { return c->world->there && !c->levels; }

#if DL__DEVICES
DL_API bool dl_device_may_wait(dl_context *ctx)
{
    return !ctx->failed &&
        (!ctx->comm || !dl__world_failed(ctx->comm->world) || dl_fail(ctx, "%s", ctx->comm->world->error));
}

/* The replicas' devices, and their gradients from number `first` on; on the tape. */
static dl_device_part *dl__parts_there(dl_comm *c, size_t first)
{
    const dl__world *w = c->world;
    dl_device_part *part = (dl_device_part *)dl__tape_alloc(c->ctx, (size_t)w->replicas * sizeof *part, 0);
    for (int r = 0; part && r < w->replicas; r++) {
        part[r].device = w->comm[r].ctx->device;
        part[r].x = w->comm[r].there ? w->comm[r].there + first : NULL;
    }
    return part;
}

/* All have opened their devices: the first connects them. */
static bool dl__connect_there(dl_comm *c)
{
    dl_context *ctx = c->ctx;
    if (!c->world->desc.nccl || c->world->size == 1) return true;
    if (!dl__called(c, dl__barrier(c, DL__MEETS))) return false;
    if (!c->local) {
        dl__mark mark = dl__tape_mark(ctx);
        dl_device_part *part = dl__parts_there(c, 0);
        if (part) ctx->backend->connect(ctx->device, part, c->world->replicas, c->world->seconds);
        dl__tape_release(ctx, mark);
    }
    return !ctx->failed && dl__called(c, dl__barrier(c, DL__MEETS));
}

/* Buckets up to number n are complete here. */
static bool dl__ready_there(dl_comm *c, int n)
{
    dl_context *ctx = c->ctx;
    if (n > c->ready) c->there = (dl_real *)dl__there(ctx, ctx->grads, ctx->cap_values * sizeof(dl_real), true);
    for (int b = c->ready; b < n; b++)
        if (!c->there || !ctx->backend->ready(ctx->device, b)) return false;
    __atomic_store_n(&c->ready, n, __ATOMIC_RELEASE);
    return true;
}

/* Begins the sums of buckets up to number n, which are complete on all replicas. */
static bool dl__begin_there(dl_comm *c, int n)
{
    const dl__world *w = c->world;
    dl_context *ctx = c->ctx;
    bool ok = true;
    for (; ok && c->begun < n; c->begun++) {
        const dl__bucket *b = &c->bucket[c->begun];
        dl__mark mark = dl__tape_mark(ctx);
        dl_device_part *part = dl__parts_there(c, b->first);
        ok = part && ctx->backend->reduce(ctx->device, part, w->replicas, c->local, c->begun, b->n);
        dl__tape_release(ctx, mark);
        c->stats.reduce.bytes += b->n * sizeof(dl_real);
    }
    return ok;
}

/* Nobody waits for the others here: the next launch asks again. */
static bool dl__advance_there(dl_comm *c, int complete)
{
    const dl__world *w = c->world;
    bool ok = dl__ready_there(c, complete);
    int n = c->ready;
    for (int r = 0; r < w->replicas; r++) n = DL__MIN(n, __atomic_load_n(&w->comm[r].ready, __ATOMIC_ACQUIRE));
    return ok && dl__begin_there(c, n);
}

/* What is left of the sums, without the host; what comes next here waits until all replicas have summed their share. */
static bool dl__reduce_there(dl_comm *c)
{
    dl_context *ctx = c->ctx;
    const dl__world *w = c->world;
    size_t n = 0;
    uint64_t at = dl__microseconds();
    for (const dl__bucket *b = c->bucket; b < c->bucket + c->buckets; b++) n += b->n;
    for (int b = c->begun; b < c->buckets; b++) c->stats.wait.bytes += c->bucket[b].n * sizeof(dl_real);
    bool ok = dl__ready_there(c, c->buckets);
    dl__call call = dl__make_call(c, DL__GRADIENTS, DL__BUCKET, (uint32_t)c->buckets, n);
    if (!dl__meet(c, DL__GRADIENTS, &call, NULL)) return false;
    __atomic_store_n(&c->ready, 0, __ATOMIC_RELAXED); /* nobody asks any more before the next step */
    ok = ok && dl__begin_there(c, c->buckets) && ctx->backend->summed(ctx->device);
    dl__meet(c, DL__GRADIENTS, NULL, NULL);
    for (int r = 0; r < w->replicas && !dl__world_failed(w); r++)
        ok = ok && ctx->backend->join(ctx->device, w->comm[r].ctx->device);
    dl__lap(&at, &c->stats.reduce);
    return ok;
}

/* All buckets, summed and multiplied: `factor` is known when all have closed. */
static bool dl__finish_there(dl_comm *c, dl_real factor)
{
    dl_context *ctx = c->ctx;
    dl__mark mark = dl__tape_mark(ctx);
    dl_device_update *list = (dl_device_update *)dl__tape_alloc(ctx, (size_t)(c->buckets + 1) * sizeof *list, 0);
    bool ok = list && dl__reduce_there(c);
    if (ok && factor != 1 && c->buckets) {
        memset(list, 0, (size_t)c->buckets * sizeof *list);
        for (int i = 0; i < c->buckets; i++) {
            list[i].g = c->there + c->bucket[i].first;
            list[i].n = c->bucket[i].n;
            list[i].h[0] = factor;
        }
        ok = ctx->backend->update(ctx->device, "scale", list, (size_t)c->buckets);
    }
    dl__tape_release(ctx, mark);
    if (dl__world_failed(c->world)) dl_fail(ctx, "%s", c->world->error);
    return ok && !ctx->failed;
}
#endif

/* The gradients of all ranks, divided by their weight unless they go to a window. */
static bool dl__finish(dl_comm *c, bool window)
{
#if DL__DEVICES
    if (dl__stays_there(c)) return dl__finish_there(c, window ? 1 : dl__factor(c->ctx->reduced));
#endif
    (void)window; /* dl__begin_buckets knew */
    return dl__finish_buckets(c);
}

/* Shards of a window that goes on behind this batch. */
static bool dl__opens(const dl_context *ctx) { return ctx->parts && ctx->no_sync; }

static void dl__begin_buckets(dl_comm *c, const char *pattern)
{
    dl__make_buckets(c, pattern);
    c->complete = 0;
    c->weight = c->open || dl__opens(c->ctx) ? HUGE_VAL : c->ctx->weight;
    dl__lock(c->world);
    c->posted = c->done = c->begun = 0;
    c->finishing = false;
    dl__unlock(c->world);
}

static void dl__post_complete(dl_comm *c)
{
    int n = c->complete;
    while (n < c->buckets && !c->bucket[n].waits) n++;
#if DL__DEVICES
    if (dl__stays_there(c)) dl__advance_there(c, c->complete = n);
    else
#endif
    dl__post(c, n);
}

static bool dl__is_back(const dl_comm *c, uint32_t start, const dl__launch *l, const dl__plan *plan)
{
    return start + plan->order[l->first + l->count - 1] >= c->backward;
}

/* Gradients of a bucket, or the forward pass */
static bool dl__completes(dl_context *ctx, uint32_t start, const dl__launch *l, const dl__plan *plan)
{
    dl_comm *c = ctx->comm;
    bool last = l == plan->launch + plan->launches - 1,
         all = !last && dl__is_back(c, start, l, plan) != dl__is_back(c, start, l + 1, plan);
    for (uint32_t i = l->first; c->overlaps && i < l->first + l->count; i++) {
        uint32_t at = plan->order[i];
        if (plan->space[at] == DL__GRADS && ctx->node[start + at]->numel)
            all = !--dl__bucket_at(c, plan->offset[at])->waits || all;
    }
    return all;
}

static void dl__launched(dl_context *ctx, uint32_t start, const dl__launch *l, const dl__plan *plan)
{
    dl_comm *c = ctx->comm;
    dl__lap(&c->at, dl__is_back(c, start, l, plan) ? &c->stats.backward : &c->stats.forward);
    /* the last ones are not worth it */
    if (c->overlaps && l != plan->launch + plan->launches - 1) dl__post_complete(c);
}

/* Does the backward pass that comes end with a reduction? */
static bool dl__reduces(const dl_context *ctx)
{
    return ctx->parts ? ctx->comm->part == ctx->parts - 1 : !ctx->no_sync;
}

static bool dl__begin_part(dl_context *ctx, const char *pattern)
{
    dl_comm *c = ctx->comm;
    uint64_t hash = pattern ? dl__hash_text(pattern) : 0;
    if (ctx->parts && c->part && hash != c->pattern)
        return dl_fail(
            ctx, "dl_backward: with invariant_shards all %d shards of a step need the same pattern", ctx->parts);
    c->pattern = hash;
    if (!c->part) c->batch_weight = 0;
    if (!c->part && ctx->params) memset(c->has, 0, (size_t)ctx->params);
    return true;
}

static bool dl__before_backward(dl_context *ctx, uint32_t from, const char *pattern, size_t count)
{
    dl_comm *c = ctx->comm;
    bool counted = count || ctx->parts, reduces = dl__reduces(ctx);
    if (!dl__before_run(ctx) || !dl__begin_part(ctx, pattern)) return false;
    c->backward = from;
    for (uint32_t i = from; i < ctx->nodes; i++) {
        const dl_node *n = ctx->node[i];
        if (n->op != &dl__accumulate_op) continue;
        if (counted && n->i[1] && !c->own[n->i[0]])
            return dl_fail(ctx,
                "dl_backward: '%s' has a gradient of all ranks, to which one with a count cannot be added: dl_step or "
                "dl_zero_grad comes first",
                ctx->param[n->i[0]].name);
        c->own[n->i[0]] = !reduces && !ctx->parts;
    }
    c->shard_weight = count ? (double)count : 1;
    ctx->weight = counted ? ctx->weight + c->shard_weight : 1;
    c->batch_weight += c->shard_weight;
    if ((reduces || ctx->parts) && !dl__fill_absent(c, pattern, false)) return false;
    if (!reduces) return true;
    dl__begin_buckets(c, pattern);
    c->overlaps = !ctx->config.eager && (!DL__ON(ctx) || dl__stays_there(c));
    for (uint32_t i = from; i < ctx->nodes; i++)
        if (ctx->node[i]->op == &dl__accumulate_op && ctx->node[i]->numel)
            dl__bucket_at(c, ctx->node[i]->offset)->waits++;
    /* on a device the gradients may still have to be sent there */
    if (c->overlaps && !DL__ON(ctx)) dl__post_complete(c);
    return true;
}

/* ---- what closes a reduction ---- */
static bool dl__share_masks(dl_comm *c, const char *pattern)
{
    dl_context *ctx = c->ctx;
    bool same = true;
    for (int r = 1; r < c->world->size; r++) same = same && c->closing[r].has == c->closing[0].has;
    for (int i = 0; i < ctx->params; i++) c->mask[i] = c->has[i];
    if (!same) {
        dl__call call = dl__make_call(c, DL__CALLS, DL__CLOSES, 1, (size_t)ctx->params);
        if (!dl__called(c, dl__reduce_ranks(c, DL__CALLS, &call, c->mask, (size_t)ctx->params, DL_COMM_MAX)))
            return false;
    }
    for (int i = 0; i < ctx->params; i++)
        if (dl__is_reduced(&ctx->param[i], pattern)) {
            ctx->param[i].fresh = c->mask[i] == 0;
            c->own[i] = 0;
        }
    return true;
}

/* Buffers: the mean of what the shards made of them, or those of the first rank that had data. */
static bool dl__share_buffers(dl_comm *c)
{
    dl_context *ctx = c->ctx;
    int root = 0;
    if (!ctx->n_buffers) return true;
    if (!ctx->parts && c->world->desc.own_buffers) return true;
    if (!dl__to_host(ctx, ctx->buffers)) return false;
    dl__host_wrote(ctx, ctx->buffers);
    if (ctx->parts) {
        dl__call call = dl__make_call(c, DL__CALLS, DL__SHARES_BUFFERS, 0, ctx->n_buffers);
        if (!dl__called(c, dl__reduce_ranks(c, DL__CALLS, &call, c->change, ctx->n_buffers, DL_COMM_SUM))) return false;
        for (size_t i = 0; i < ctx->n_buffers; i++)
            ctx->buffers[i] = c->batch > 0 ? c->before[i] + c->change[i] / (dl_real)c->batch : c->before[i];
        return true;
    }
    while (root < c->world->size - 1 && c->closing[root].weight == 0) root++;
    c->stats.replicate.bytes += ctx->n_buffers * sizeof(dl_real);
    return dl__spread_what(c, DL__SHARES_BUFFERS, ctx->buffers, ctx->n_buffers * sizeof(dl_real), root);
}

/* The sums of a batch, in a window of several. They go to those before them, or, at its end, these are added,
   and all divided. */
static bool dl__add_batch(dl_comm *c, const char *pattern, bool stays_open)
{
    dl_context *ctx = c->ctx;
    if (!dl__to_host(ctx, ctx->grads) || !dl__grow_along(ctx, &c->window, c->cap_window, ctx->cap_values)) return false;
    dl__host_wrote(ctx, ctx->grads);
    c->cap_window = ctx->cap_values;
    for (const dl__bucket *b = c->bucket; b < c->bucket + c->buckets; b++) {
        dl_real *g = ctx->grads + b->first, *sum = c->window + b->first;
        if (!c->open) memcpy(sum, g, b->n * sizeof *g);
        else DL__CALL(ctx->level, add_to, (sum, g, b->n));
        if (stays_open) continue;
        memcpy(g, sum, b->n * sizeof *g);
        dl__scale(g, b->n, dl__factor(ctx->reduced));
    }
    for (int i = 0; i < ctx->params; i++) {
        if (!dl__is_reduced(&ctx->param[i], pattern)) continue;
        c->kept[i] = (uint8_t)((c->open && c->kept[i]) || !ctx->param[i].fresh);
        ctx->param[i].fresh = stays_open || !c->kept[i];
    }
    c->open = stays_open;
    if (stays_open) ctx->reduced = 0; /* there is nothing to step with yet */
    return true;
}

/* False: nobody has a gradient, or an error. */
static bool dl__close(dl_comm *c, const char *pattern, bool leaving)
{
    dl_context *ctx = c->ctx;
    dl__closing mine;
    uint64_t left = 0, open = 0, at = dl__microseconds();
    memset(&mine, 0, sizeof mine);
    mine.weight = ctx->weight;
    mine.batch = c->batch_weight;
    mine.leaving = leaving;
    mine.open = !leaving && dl__opens(ctx);
    for (int i = 0; i < ctx->params; i++) mine.has = dl__mix(mine.has, c->has[i]);
    c->overlaps = false;
    if (!dl__stays_there(c)) {
        if (!dl__to_host(ctx, ctx->grads)) return false;
        dl__host_wrote(ctx, ctx->grads);
    }
    if (!dl__gather_what(c, DL__CLOSES, &mine, c->closing, sizeof mine, 0)) return false;
    ctx->reduced = c->batch = 0;
    c->part = 0;
    for (int r = 0; r < c->world->size; r++) {
        left += c->closing[r].leaving, open += c->closing[r].open;
        ctx->reduced += c->closing[r].weight, c->batch += c->closing[r].batch;
    }
    if (!open) ctx->weight = 0;
    if (left == (uint64_t)c->world->size && ctx->reduced == 0) return c->open = false;
    if (!dl__finish(c, open || c->open) || !dl__share_masks(c, pattern) || !dl__share_buffers(c)) return false;
    if ((open || c->open) && !dl__add_batch(c, pattern, open != 0)) return false;
    dl__lap(&at, &c->stats.wait);
    c->stats.steps++;
    c->step++;
    return true;
}

/* What this shard made of the buffers, added to what the shards before it did, as far as they are its like. */
static bool dl__add_buffers(dl_comm *c, double weight)
{
    dl_context *ctx = c->ctx;
    if (!dl__to_host(ctx, ctx->buffers)) return false;
    dl__host_wrote(ctx, ctx->buffers);
    for (size_t i = 0; i < ctx->n_buffers; i++) {
        c->change[i] = (ctx->buffers[i] - c->before[i]) * (dl_real)weight;
        ctx->buffers[i] = c->before[i];
    }
    for (int level = 0; c->part >> level & 1; level++)
        DL__CALL(ctx->level, add_to, (c->change, c->buffer_stack[level], ctx->n_buffers));
    return true;
}

/* Gradients and buffers of a shard that is not the step's last go to the stack. */
static bool dl__push_part(dl_comm *c, const char *pattern, double weight)
{
    dl_context *ctx = c->ctx;
    int level = 0;
    if (!dl__add_buffers(c, weight) || !dl__to_host(ctx, ctx->grads)) return false;
    dl__make_buckets(c, pattern);
    while (c->part >> level & 1) level++;
    for (const dl__bucket *b = c->bucket; b < c->bucket + c->buckets; b++) {
        dl_real *sum = c->stack[level] + b->first;
        memcpy(sum, ctx->grads + b->first, b->n * sizeof *sum);
        for (int i = 0; i < level; i++) DL__CALL(ctx->level, add_to, (sum, c->stack[i] + b->first, b->n));
    }
    if (ctx->n_buffers) memcpy(c->buffer_stack[level], c->change, ctx->n_buffers * sizeof(dl_real));
    for (int i = 0; i < ctx->params; i++)
        if (dl__is_reduced(&ctx->param[i], pattern)) ctx->param[i].fresh = true;
    c->part++;
    return true;
}

static bool dl__after_backward(dl_context *ctx, const char *pattern)
{
    dl_comm *c = ctx->comm;
    c->backward = UINT32_MAX;
    if (ctx->parts && !dl__reduces(ctx)) return dl__push_part(c, pattern, c->shard_weight);
    if (!dl__reduces(ctx)) return true;
    if (!dl__stays_there(c) && !dl__to_host(ctx, ctx->grads)) return false; /* which waits for a device */
    dl__lap(&c->at, &c->stats.backward);
    if (ctx->parts && !dl__add_buffers(c, c->shard_weight)) return false;
    return dl__close(c, pattern, false) || !ctx->failed;
}

static bool dl__nothing_of_batch(dl_context *ctx, const char *pattern, bool leaving)
{
    dl_comm *c = ctx->comm;
    if (ctx->failed) return false;
    ctx->reduced = 0;
    if (!leaving && !ctx->parts && ctx->no_sync) return true;
    if (ctx->params ? !dl__lay_out_grads(ctx) || !dl__before_run(ctx) : !dl__spread_parameters(c)) return false;
    if (!dl__begin_part(ctx, pattern)) return false;
    if (!c->part && !dl__note_buffers(c, 0)) return false;
    for (;;) {
        if (!dl__fill_absent(c, pattern, ctx->parts != 0)) return false;
        if (!ctx->parts || dl__reduces(ctx)) break;
        if (!dl__push_part(c, pattern, 0)) return false;
        if (!leaving) return true;
    }
    if (ctx->parts && !dl__add_buffers(c, 0)) return false;
    dl__begin_buckets(c, pattern);
    return dl__close(c, pattern, leaving);
}

/* A micro-batch without samples; leaving: all that are left of the step. */
static bool dl__nothing(dl_context *ctx, const char *pattern, bool leaving)
{
    bool ok;
    do ok = dl__nothing_of_batch(ctx, pattern, leaving);
    while (ok && leaving && ctx->comm->open);
    return ok;
}

static bool dl__before_step(dl_context *ctx, const char *pattern)
{
    const dl_comm *c = ctx->comm;
    if (c->part)
        return dl_fail(
            ctx, "dl_step: shard %d of %d on this rank: call dl_backward for all shards first", c->part, ctx->parts);
    if (c->open)
        return dl_fail(
            ctx, "dl_step: the window is open: dl_no_sync(ctx, false) must come before the shards of its last batch");
    for (int i = 0; i < ctx->params; i++)
        if (c->own[i] && !ctx->param[i].fresh && dl__is_reduced(&ctx->param[i], pattern))
            return dl_fail(ctx,
                "dl_step: the gradient of '%s' is this rank's alone: dl_no_sync(ctx, false) must come before the last "
                "dl_backward",
                ctx->param[i].name);
    return true;
}

static bool dl__sum_ranks(dl_context *ctx, dl_real *x, size_t n)
{
    dl__call call = dl__make_call(ctx->comm, DL__CALLS, DL__SUMS, 0, n);
    return dl__called(ctx->comm, dl__reduce_ranks(ctx->comm, DL__CALLS, &call, x, n, DL_COMM_SUM));
}

/* Every rank, or every shard, has numbers of its own. */
static uint64_t dl__random_step(const dl_context *ctx)
{
    const dl_comm *c = ctx->comm;
    return ctx->parts ? (uint64_t)(c->rank * ctx->parts + c->part) << 28 | c->step
                      : (uint64_t)c->rank << 28 | ctx->random_step;
}

DL_API bool dl_no_sync(dl_context *ctx, bool off)
{
    bool was = ctx && ctx->no_sync;
    if (ctx) ctx->no_sync = off;
    return was;
}

DL_API bool dl_join(dl_context *ctx) { return ctx && ctx->replica && ctx->replica->nothing(ctx, NULL, true); }

DL_API bool dl_sync(dl_context *ctx)
{
    if (!ctx || !dl__run_recorded(ctx) || !dl__lay_out(ctx)) return false;
    if (!ctx->replica) return true;
    ctx->comm->n_values = ctx->comm->n_buffers = 0;
    return dl__spread_parameters(ctx->comm);
}

static const dl__replica dl__replica_calls = { dl__replica_failed, dl__before_run, dl__completes, dl__launched,
    dl__before_backward, dl__after_backward, dl__nothing, dl__before_step, dl__sum_ranks, dl__random_step };

/* A context alone needs none of it: a world of one runs the plain program. */
static void dl__join_world(dl_comm *c)
{
    dl_context *ctx = c->ctx;
    dl__world *w = c->world;
    ctx->comm = c;
    if (w->size == 1 && !w->desc.invariant_shards) return;
    ctx->replica = &dl__replica_calls;
    c->backward = UINT32_MAX;
    if (ctx->failed) {
        dl__replica_failed(ctx);
        return;
    }
    ctx->parts = w->desc.invariant_shards / w->size;
    for (int n = ctx->parts; n > 1; n /= 2) c->levels++;
    c->closing = (dl__closing *)dl__alloc(ctx, (size_t)w->size * sizeof *c->closing, 0);
#ifndef DLTRAIN_NO_THREADS
    if (w->size == 1) return;
    for (int i = 0; i < DL__CHANNELS; i++) c->spin[i].most = DL__SPIN_MAX;
    pthread_cond_init(&c->turn, NULL);
    /* without, gradients are reduced in between */
    c->threaded = !pthread_create(&c->reducer, NULL, dl__reducer_main, c);
    if (!c->threaded) pthread_cond_destroy(&c->turn);
#endif
}

static void dl__leave_world(dl_comm *c)
{
    if (c->ctx->failed) dl__replica_failed(c->ctx);
#if DL__DEVICES
    /* after an error it gives up sums: others are not to wait */
    if (DL__ON(c->ctx)) c->ctx->backend->release(c->ctx->device, NULL);
#endif
#ifndef DLTRAIN_NO_THREADS
    if (!c->threaded) return;
    dl__lock(c->world);
    c->quit = true;
    dl__wake(&c->turn);
    dl__unlock(c->world);
    pthread_join(c->reducer, NULL);
    pthread_cond_destroy(&c->turn);
#endif
}

/* ---- launching ---- */
/* Number `index` of a list "cpu,cpu:2". */
static bool dl__read_device(const char *list, int index, char *device, int *threads)
{
    size_t n = 0;
    for (int i = 0; i <= index; i++) {
        if (i) list += n + 1;
        n = strcspn(list, ",");
    }
    if (!n || n >= DL__DEVICE_MAX) return false;
    memcpy(device, list, n);
    device[n] = 0;
    if (strncmp(device, "cpu:", 4)) return true;
    device[3] = 0;
    for (const char *p = device + 4; *p; p++) {
        if (*p < '0' || *p > '9' || *threads > DL__MAX_THREADS) return false;
        *threads = 10 * *threads + (*p - '0');
    }
    return *threads > 0;
}

static int dl__count_devices(const char *devices)
{
    int n = 1;
    for (; *devices; devices++) n += *devices == ',';
    return n;
}

static void dl__replica_main(dl_comm *c)
{
    dl__world *w = c->world;
    dl_config config = w->config;
    config.device = c->device;
    config.threads = c->threads ? c->threads
        : config.threads        ? config.threads
                                : DL__MAX(1, dl__cpu_count() / w->replicas);
    if (config.memory) {
        config.memory_size /= (size_t)w->replicas;
        config.memory = (char *)config.memory + (size_t)c->local * config.memory_size;
    }
    if (c->rank) config.log = NULL; /* all would say the same */
    c->ctx = dl_create(&config);
    if (!c->ctx) {
        dl__lock(w);
        dl__fail_locked(w, "rank %d: out of memory: there is none for a context", c->rank);
        dl__unlock(w);
        dl__spread(w);
        return;
    }
    dl__join_world(c);
#if DL__DEVICES
    if (!c->ctx->failed) dl__connect_there(c);
#endif
    if (!c->ctx->failed) w->fn(c->ctx, c, w->user);
    if (!c->ctx->failed) dl_end(c->ctx);
    if (!c->ctx->failed) dl__called(c, dl__barrier(c, DL__LEAVES));
    dl__leave_world(c);
}

#ifndef DLTRAIN_NO_THREADS
static void *dl__replica_thread(void *argument)
{
    dl__replica_main((dl_comm *)argument);
    return NULL;
}
#endif

/* Ranks and sizes, agreed on with the other processes. */
static bool dl__find_ranks(dl__world *w)
{
    const dl_transport *t = w->desc.transport;
    const int shards = w->desc.invariant_shards;
    w->size = w->replicas;
    if (t) {
        struct { int replicas, shards; size_t first, bucket; } mine, *all = NULL;
        memset(&mine, 0, sizeof mine);
        mine.replicas = w->replicas, mine.shards = shards, mine.first = w->desc.first_bucket,
            mine.bucket = w->desc.bucket;
        void *room = dl__system_alloc(&w->config, (size_t)t->size * sizeof mine);
        memcpy(&all, &room, sizeof all);
        if (!all) return dl__fail_locked(w, "dl_launch: out of memory");
        const char *sentence =
            t->all_gather(t->user, DL__CALLS, &mine, all, sizeof mine, w->seconds, w->channel[0].missing);
        w->size = w->first = 0;
        for (int p = 0; !sentence && p < t->size; p++) {
            if (p == t->rank) w->first = w->size;
            w->size += w->counts[p] = all[p].replicas;
            if (all[p].shards != shards || all[p].first != mine.first || all[p].bucket != mine.bucket)
                dl__fail_locked(w, "dl_launch: process %d and process %d ask for other shards or buckets", t->rank, p);
            if (shards && all[p].replicas != mine.replicas)
                dl__fail_locked(w,
                    "dl_launch: with invariant_shards every process needs as many replicas: %d here, %d in process %d",
                    mine.replicas, all[p].replicas, p);
        }
        dl__system_free(&w->config, room);
        if (sentence) return dl__fail_locked(w, "dl_launch: %s", sentence);
        if (shards && t->size > 1 && !t->exchange)
            return dl__fail_locked(w, "dl_launch: invariant_shards needs a transport with exchange");
    }
    if (shards && (shards < 0 || shards & (shards - 1)))
        return dl__fail_locked(w, "dl_launch: invariant_shards must be a power of two, not %d", shards);
    if (shards && shards % w->size)
        return dl__fail_locked(w, "dl_launch: %d replicas do not divide %d invariant_shards", w->size, shards);
    return !w->failed;
}

/* One block for all that the world needs; the caller frees it. */
static char *dl__world_memory(dl__world *w)
{
    size_t processes = w->desc.transport ? (size_t)w->desc.transport->size : 1, here = (size_t)w->replicas;
    size_t comms = dl__round(here * sizeof(dl_comm)), slots = dl__round(here * sizeof(dl__slot)),
           calls = dl__round(processes * sizeof(dl__call)), flags = dl__round(processes * sizeof(bool)),
           counts = dl__round(processes * sizeof(int));
    size_t bytes = comms + DL__CHANNELS * (slots + calls + flags) + counts;
    char *p = (char *)dl__system_alloc(&w->config, bytes), *memory = p;
    if (!p) return NULL;
    memset(p, 0, bytes);
    w->comm = (dl_comm *)(void *)p;
    p += comms;
    for (int i = 0; i < DL__CHANNELS; i++) {
        w->channel[i].slot = (dl__slot *)(void *)p;
        w->channel[i].remote = (dl__call *)(void *)(p += slots);
        w->channel[i].missing = (bool *)(void *)(p += calls);
        p += flags;
    }
    w->counts = (int *)(void *)p;
    return memory;
}

/* Every replica's thread, the first one's being the caller's; the contexts outlive all of them, for they look into each
   other. */
static void dl__run_replicas(dl__world *w)
{
    int started = 1;
#ifndef DLTRAIN_NO_THREADS
    while (started < w->replicas &&
        !pthread_create(&w->comm[started].thread, NULL, dl__replica_thread, &w->comm[started]))
        started++;
#endif
    if (started < w->replicas) {
        dl__lock(w);
        dl__fail_locked(w, "dl_launch: the system gives no thread for replica %d of %d", started, w->replicas);
        dl__unlock(w);
    }
    dl__replica_main(&w->comm[0]);
#ifndef DLTRAIN_NO_THREADS
    for (int i = 1; i < started; i++) pthread_join(w->comm[i].thread, NULL);
#endif
    for (int i = 0; i < started; i++) dl_destroy(w->comm[i].ctx);
}

static void dl__launch_world(dl__world *w, int named)
{
    char *memory = dl__world_memory(w);
    if (!memory) {
        dl__fail_locked(w, "dl_launch: out of memory");
        return;
    }
#ifndef DLTRAIN_NO_THREADS
    pthread_mutex_init(&w->mutex, NULL);
    for (int i = 0; i < DL__CHANNELS; i++) pthread_cond_init(&w->channel[i].changed, NULL);
#endif
    bool ok = dl__find_ranks(w);
    w->there = !w->desc.transport && w->replicas > 1;
    for (int i = 0; ok && i < w->replicas; i++) {
        dl_comm *c = &w->comm[i];
        c->world = w;
        c->local = i;
        c->rank = w->first + i;
        c->doing = -1;
        if (!dl__read_device(w->desc.devices, named == 1 ? 0 : i, c->device, &c->threads))
            ok = dl__fail_locked(w,
                "dl_launch: '%s' is no list of devices; 'cpu,cpu:2' is one, the second with two threads",
                w->desc.devices);
        w->there = w->there && strcmp(c->device, "cpu") != 0;
    }
    if (ok && w->desc.nccl && w->size > 1 && (!w->there || w->desc.invariant_shards))
        ok = dl__fail_locked(
            w, "dl_launch: nccl is for replicas that are all on GPUs of one process, without invariant_shards");
    if (ok) dl__run_replicas(w);
    else dl__spread(w);
    for (int i = 0; i < DL__CHANNELS; i++) {
        if (w->channel[i].room) dl__system_free(&w->config, w->channel[i].room);
#ifndef DLTRAIN_NO_THREADS
        pthread_cond_destroy(&w->channel[i].changed);
#endif
    }
#ifndef DLTRAIN_NO_THREADS
    pthread_mutex_destroy(&w->mutex);
#endif
    dl__system_free(&w->config, memory);
}

DL_API bool dl_launch(const dl_launch_desc *desc, void (*fn)(dl_context *ctx, dl_comm *comm, void *user), void *user)
{
    dl__world w;
    memset(&w, 0, sizeof w);
    if (desc) w.desc = *desc;
    if (w.desc.config) w.config = *w.desc.config;
    if (!w.desc.devices) w.desc.devices = w.config.device ? w.config.device : "cpu";
    if (!w.desc.first_bucket) w.desc.first_bucket = (size_t)1 << 20;
    if (!w.desc.bucket) w.desc.bucket = (size_t)25 << 20;
    w.seconds = w.desc.deadline_seconds == 0 ? 600 : w.desc.deadline_seconds < 0 ? 0 : w.desc.deadline_seconds;
    w.fn = fn;
    w.user = user;
    int named = dl__count_devices(w.desc.devices);
    w.replicas = w.desc.replicas ? w.desc.replicas : named;
    if (!fn) dl__fail_locked(&w, "dl_launch: there is no function to run");
    else if (w.replicas < 1 || w.replicas > DL__MAX_REPLICAS)
        dl__fail_locked(&w, "dl_launch: %d replicas; 1 to %d", w.replicas, (int)DL__MAX_REPLICAS);
    else if (named > 1 && named != w.replicas)
        dl__fail_locked(&w, "dl_launch: %d replicas on %d devices: name one device, or as many", w.replicas, named);
#ifdef DLTRAIN_NO_THREADS
    else if (w.replicas > 1)
        dl__fail_locked(&w, "dl_launch: built with DLTRAIN_NO_THREADS, which leaves one replica, not %d", w.replicas);
#endif
    else dl__launch_world(&w, named);
    if (w.desc.error && w.desc.error_size) {
        size_t n = DL__MIN(strlen(w.error), w.desc.error_size - 1);
        memcpy(w.desc.error, w.error, n);
        w.desc.error[n] = 0;
    }
    return !w.failed;
}

/* ---- DataParallel: a context cuts its batch in chunks; its own tape runs one, replicas the others ---- Forward:
   `assemble` joins the outputs; it reads the chunk of the context's own tape, and `portals`, views that stand for
   the parameters. Its gradient (`send_back`) sends dy to the replicas, which run back while the own chunk does;
   the portals, recorded before that chunk and so reached after it, take the sums of the replicas' gradients (`collect`)
   and hand them to the parameters as slices. */
typedef enum dl__duty { DL__RECORD, DL__FORWARD, DL__BACKWARD, DL__BOTH, DL__QUIT } dl__duty;
typedef struct dl__helper {
    dl_data_parallel *parent;
    dl_context *ctx;
    int index;               /* of the device in the list */
    char device[DL__DEVICE_MAX];
    const char *x, *target;  /* the chunk: rows first .. first + n of the batch */
    size_t first, n;
    float share;             /* of the batch */
    dl_tensor y;             /* the output, or the loss */
    const void *out;         /* the output's values */
    dl_real *dy;             /* its gradient, copied */
    size_t dy_size;
    double loss;
    dl__duty duty;
    bool busy;
    dl_phase copied;         /* parameters, in the duty at hand */
#ifndef DLTRAIN_NO_THREADS
    pthread_t thread;
    bool threaded;
#endif
} dl__helper;

struct dl_data_parallel {
    dl_context *ctx;
    dl_data_parallel_desc desc;
    int helpers, used;       /* replicas besides the context; of the batch at hand */
    dl__helper *helper;
    size_t first, own;       /* the context's chunk; own 0: the batch has too few */
    int *map, mapped;        /* of each parameter of a replica: its number here */
    dl_shape x_shape, target_shape;
    dl_dtype x_dtype, target_dtype;
    bool with_loss;
    dl_tensor sums;          /* of the replicas' gradients, laid out as theirs */
    dl_tensor all;           /* the outputs of the last forward call; with desc.outputs there, */
    dl_real *gathered;       /* as they were copied, */
    size_t gathered_size;
    dl_tensor mine;          /* and those of the own chunk, which are here */
    dl_parallel_stats stats;
    uint64_t at;             /* since when the phase at hand runs, see dl__lap */
#ifndef DLTRAIN_NO_THREADS
    pthread_mutex_t mutex;
    pthread_cond_t changed;
#endif
};

static dl_tensor dl__chunk(const dl__helper *h, dl_dtype dtype, const dl_shape *whole, const char *data)
{
    dl_shape s = *whole;
    s.dim[0] = (dl_index)h->n;
    return dl_borrow(h->ctx, dtype, s, data);
}

static dl_tensor dl__run_model(const dl_data_parallel *dp, dl_tensor x)
{
    return dp->desc.model_with ? dp->desc.model_with(x, dp->desc.user) : dp->desc.model(x);
}

static dl_tensor dl__run_loss(const dl_data_parallel *dp, dl_tensor x, dl_tensor target)
{
    dl_tensor y = dl__run_model(dp, x);
    return dp->desc.loss ? dp->desc.loss(y, target) : dl_cross_entropy(y, target);
}

static bool dl__check_rows(dl_context *ctx, const dl_node *y, size_t n)
{
    return (y->ndim && y->dtype == DL_F32 && y->dim[0] == (dl_index)n) ||
        dl_fail(ctx, "dl_data_parallel: the model must give DL_F32 [N,...] for N samples, not %S for %zu", y, n);
}

/* The replica's tape of this step, with the scope, the modes and random numbers of its own. */
static void dl__helper_record(dl__helper *h)
{
    dl_data_parallel *dp = h->parent;
    dl_context *ctx = h->ctx, *from = dp->ctx;
    dl_clear_error(ctx); /* and what was recorded for a step that was given up */
    ctx->random_step = (uint64_t)(h - dp->helper + 1) << 28 | from->random_step;
    ctx->training = from->training;
    ctx->recording = from->recording;
    for (int i = 0; i < ctx->params && i < dp->mapped; i++) ctx->param[i].frozen = from->param[dp->map[i]].frozen;
    if (*from->path) dl_scope_begin(ctx, from->path);
    dl_tensor x = dl__chunk(h, dp->x_dtype, &dp->x_shape, h->x);
    h->y = dp->with_loss ? dl__run_loss(dp, x, dl__chunk(h, dp->target_dtype, &dp->target_shape, h->target))
                         : dl__run_model(dp, x);
    if (*from->path) dl_scope_end(ctx);
    if (!h->y.ctx) dl_fail(ctx, "the model returned no tensor");
    else if (!dp->with_loss) dl__check_rows(ctx, ctx->node[h->y.node], h->n);
    dl__lay_out_grads(ctx);
}

/* The values of parameters, or those of buffers: these before the work, as the context's own chunk will change them. */
static dl_phase dl__helper_copy(dl__helper *h, bool buffers)
{
    const dl_data_parallel *dp = h->parent;
    dl_context *ctx = h->ctx;
    dl_phase copied = { 0, 0 };
    uint64_t at = dl__microseconds();
    const dl_real *values = buffers ? dp->ctx->buffers : dp->ctx->values; /* on the host: see dl__helpers_start */
    dl_real *to = buffers ? ctx->buffers : ctx->values;
    if (!dl__to_host(ctx, to)) return copied;
    dl__host_wrote(ctx, to);
    for (int i = 0; i < ctx->params; i++) {
        const dl__param *p = &ctx->param[i], *from = &dp->ctx->param[dp->map[i]];
        if (!p->numel || p->buffer != buffers) continue;
        memcpy(to + p->offset, values + from->offset, p->numel * sizeof *to);
        copied.bytes += p->numel * sizeof *to;
    }
    dl__lap(&at, &copied);
    return copied;
}

static void dl__helper_work(dl__helper *h, dl__duty duty)
{
    dl_context *ctx = h->ctx;
    dl_backward_desc d;
    memset(&d, 0, sizeof d);
    d.scale = h->share;
    if (duty == DL__RECORD) dl__helper_record(h);
    if (ctx->failed || duty == DL__RECORD) return;
    if (duty != DL__BACKWARD) h->copied = dl__helper_copy(h, false);
    if (duty == DL__FORWARD) h->out = dl_data(dl_keep(h->y));
    else dl_zero_grad(ctx);
    if (duty == DL__BACKWARD) {
        dl_tensor dy = dl_borrow(ctx, DL_F32, dl_shape_of(h->y), h->dy);
        dl_backward(dl_sum(dl_mul(h->y, dy)));
    }
    if (duty == DL__BOTH && dl_backward_ex(h->y, &d)) h->loss = dl_item(h->y);
    if (duty == DL__FORWARD || ctx->failed || !dl__to_host(ctx, ctx->grads)) return;
    for (int i = 0; i < ctx->params; i++) {
        if (ctx->param[i].buffer || !ctx->param[i].fresh) continue;
        memset(ctx->grads + ctx->param[i].offset, 0, ctx->param[i].numel * sizeof *ctx->grads);
        dl__host_wrote(ctx, ctx->grads);
    }
}

#ifndef DLTRAIN_NO_THREADS
static void *dl__helper_main(void *argument)
{
    dl__helper *h = (dl__helper *)argument;
    dl_data_parallel *dp = h->parent;
    pthread_mutex_lock(&dp->mutex);
    for (;;) {
        while (!h->busy) pthread_cond_wait(&dp->changed, &dp->mutex);
        dl__duty duty = h->duty;
        pthread_mutex_unlock(&dp->mutex);
        if (duty != DL__QUIT) dl__helper_work(h, duty);
        pthread_mutex_lock(&dp->mutex);
        h->busy = false;
        pthread_cond_broadcast(&dp->changed);
        if (duty == DL__QUIT) break;
    }
    pthread_mutex_unlock(&dp->mutex);
    return NULL;
}
#endif

/* Sets the replicas to work; dl__helpers_wait waits for them, and has their errors. */
static void dl__helpers_start(dl_data_parallel *dp, dl__duty duty)
{
    bool forward = duty == DL__FORWARD || duty == DL__BOTH;
    if (forward && dl__to_host(dp->ctx, dp->ctx->values)) dl__to_host(dp->ctx, dp->ctx->buffers);
    for (int i = 0; i < dp->used && forward; i++) {
        dl_phase copied = dl__helper_copy(&dp->helper[i], true);
        dp->stats.replicate.seconds += copied.seconds;
        dp->stats.replicate.bytes += copied.bytes;
    }
#ifndef DLTRAIN_NO_THREADS
    pthread_mutex_lock(&dp->mutex);
    for (int i = 0; i < dp->used; i++)
        if (dp->helper[i].threaded) dp->helper[i].duty = duty, dp->helper[i].busy = true;
    pthread_cond_broadcast(&dp->changed);
    pthread_mutex_unlock(&dp->mutex);
    for (int i = 0; i < dp->used; i++)
        if (!dp->helper[i].threaded) dl__helper_work(&dp->helper[i], duty);
#else
    for (int i = 0; i < dp->used; i++) dl__helper_work(&dp->helper[i], duty);
#endif
}

static void dl__helpers_rest(dl_data_parallel *dp)
{
#ifndef DLTRAIN_NO_THREADS
    pthread_mutex_lock(&dp->mutex);
    for (int i = 0; i < dp->used; i++)
        while (dp->helper[i].busy) pthread_cond_wait(&dp->changed, &dp->mutex);
    pthread_mutex_unlock(&dp->mutex);
#else
    (void)dp;
#endif
}

static bool dl__helpers_wait(dl_data_parallel *dp)
{
    double slowest = 0;
    dl__helpers_rest(dp);
    for (int i = 0; i < dp->used; i++) {
        dl_phase *copied = &dp->helper[i].copied;
        slowest = DL__MAX(slowest, copied->seconds);
        dp->stats.replicate.bytes += copied->bytes;
        memset(copied, 0, sizeof *copied);
    }
    dp->stats.replicate.seconds += slowest;
    for (int i = 0; i < dp->used; i++)
        if (dp->helper[i].ctx->failed)
            return dl_fail(dp->ctx, "dl_data_parallel: replica %d (%s): %s", dp->helper[i].index, dp->helper[i].device,
                dp->helper[i].ctx->error);
    return !dp->ctx->failed;
}

/* The parameters of the replicas, which all have the same, here; new ones are made. */
static bool dl__map_parameters(dl_data_parallel *dp)
{
    dl_context *ctx = dp->ctx, *from = dp->helper[0].ctx;
    if (from->params > dp->mapped) {
        int *map = (int *)dl__alloc(ctx, (size_t)from->params * sizeof *map, 0);
        if (!map) return false;
        dl__release(ctx, dp->map);
        dp->map = map;
        for (int i = 0; i < from->params; i++) {
            const dl__param *p = &from->param[i];
            dl__param *mine = dl__find(ctx, p->name);
            dl_param_desc d = dl__uniform_param(p->shape, (double)p->value);
            d.init = p->init;
            d.buffer = p->buffer;
            if (!mine && ctx->sealed)
                return dl_fail(ctx, "dl_data_parallel: there is no parameter '%s', and none can be added", p->name);
            if (!mine) mine = dl__new_param_like(ctx, p->name, &d, p->numel);
            if (!mine) return false;
            if (mine->numel != p->numel || mine->buffer != p->buffer)
                return dl_fail(
                    ctx, "dl_data_parallel: '%s' is %H here and %H on a replica", p->name, &mine->shape, &p->shape);
            map[i] = (int)(mine - ctx->param);
        }
        dp->mapped = from->params;
    }
    for (int k = 1; k < dp->used; k++)
        if (dp->helper[k].ctx->params != from->params)
            return dl_fail(ctx, "dl_data_parallel: the model has %d parameters on replica %d and %d on replica %d",
                from->params, dp->helper[0].index, dp->helper[k].ctx->params, dp->helper[k].index);
    return dl__lay_out_grads(ctx);
}

/* Before a replica gets another batch: outputs of an earlier call of this step are put together now. */
static bool dl__begin_batch(dl_data_parallel *dp)
{
    dl_context *ctx = dp->ctx;
    if (dp->all.ctx == ctx && dp->all.step == ctx->step && dp->all.node >= ctx->done) dl__run(ctx, false);
    dl__helpers_rest(dp);
    dp->all = dl__none();
    dp->at = dl__microseconds();
    return !ctx->failed;
}

/* Cuts n samples in chunks of ceil(n / devices), as PyTorch's scatter does; the devices at the end may get none. */
static void dl__scatter(
    dl_data_parallel *dp, size_t n, const char *x, size_t x_bytes, const char *target, size_t target_bytes)
{
    size_t per = (n + (size_t)dp->helpers) / ((size_t)dp->helpers + 1);
    dp->used = 0;
    dp->first = dp->own = 0;
    for (size_t at = 0, k = 0; at < n; at += per, k++) {
        if (k == (size_t)dp->desc.output) {
            dp->first = at;
            dp->own = DL__MIN(per, n - at);
            continue;
        }
        dl__helper *h = &dp->helper[dp->used++];
        h->first = at;
        h->n = DL__MIN(per, n - at);
        h->x = x + at * x_bytes;
        h->target = target ? target + at * target_bytes : NULL;
        h->share = (float)((double)h->n / (double)n);
        dp->stats.scatter.bytes += h->n * (x_bytes + target_bytes);
    }
}

/* The context's chunk. */
static dl_tensor dl__own_rows(const dl_data_parallel *dp, dl_tensor t)
{
    return dp->used ? dl_slice(t, 0, (dl_index)dp->first, (dl_index)(dp->first + dp->own), 1) : t;
}

/* The samples of a tensor, which is run; NULL after an error. */
static const void *dl__rows(
    dl_data_parallel *dp, const char *what, dl_tensor t, dl_shape *shape, dl_dtype *dtype, size_t *row)
{
    const dl_node *n = dl__peek(t, "data_parallel");
    const char *wrong = NULL;
    if (!n || dp->ctx->failed) return NULL;
    if (t.ctx != dp->ctx) wrong = "is a tensor of another context";
    else if (!n->ndim) wrong = "must be [N,...]";
    else if (n->flags & DL__REQUIRES)
        wrong = "takes a gradient, and none flows back through the scatter; dl_detach helps";
    if (wrong) return dl_fail(dp->ctx, "dl_data_parallel: %s %s", what, wrong), (void *)NULL;
    *shape = dl__shape(n);
    *dtype = (dl_dtype)n->dtype;
    *row = n->dim[0] ? n->numel / (size_t)n->dim[0] * dl__dtype_size(n->dtype) : 0;
    return dl_data(t);
}

static dl_data_parallel *dl__parent_of(const dl_node *n)
{
    uintptr_t p = (uintptr_t)n->counter;
    return (dl_data_parallel *)p;
}

/* All outputs, of so many numbers a sample, side by side. */
static bool dl__gather_outputs(dl_data_parallel *dp, dl_real *y, size_t row, const void *own)
{
    bool ok = dl__helpers_wait(dp);
    dl__lap(&dp->at, &dp->stats.forward);
    if (own) memcpy(y + dp->first * row, own, dp->own * row * sizeof *y);
    for (int i = 0; ok && i < dp->used; i++) {
        const dl__helper *h = &dp->helper[i];
        memcpy(y + h->first * row, h->out, h->n * row * sizeof *y);
        dp->stats.gather.bytes += h->n * row * sizeof *y;
    }
    dl__lap(&dp->at, &dp->stats.gather);
    return ok;
}

static void dl__assemble_run(const dl_run_args *r)
{
    dl_data_parallel *dp = dl__parent_of(r->node);
    size_t row = r->node->dim[0] ? r->node->numel / (size_t)r->node->dim[0] : 0;
    dl__gather_outputs(dp, (dl_real *)r->out, row, dp->own ? dl__host_in(r, 0) : NULL);
}

/* The gradient of all outputs to the replicas, which run back. */
static void dl__send_back(dl_data_parallel *dp, const dl_real *from, size_t row)
{
    dl__lap(&dp->at, &dp->stats.forward); /* the loss */
    for (int i = 0; i < dp->used; i++) {
        const dl__helper *h = &dp->helper[i];
        memcpy(h->dy, from + h->first * row, h->n * row * sizeof *h->dy);
        dp->stats.gather.bytes += h->n * row * sizeof *h->dy;
    }
    dl__lap(&dp->at, &dp->stats.gather);
    dl__helpers_start(dp, DL__BACKWARD);
}

static void dl__send_back_run(const dl_run_args *r)
{
    const dl_node *dy = r->node->in[0];
    const dl_real *from = (const dl_real *)dl__host_in(r, 0);
    if (!from) return;
    *(dl_real *)r->out = 0;
    dl__send_back(dl__parent_of(r->node), from, dy->numel / (size_t)dy->dim[0]);
}

static void dl__collect_run(const dl_run_args *r)
{
    dl_data_parallel *dp = dl__parent_of(r->node);
    bool ok = dl__helpers_wait(dp);
    dl__lap(&dp->at, &dp->stats.backward);
    if (!ok) return;
    memcpy(r->out, dp->helper[0].ctx->grads, r->node->numel * sizeof(dl_real));
    for (int i = 1; i < dp->used; i++)
        DL__CALL(r->level, add_to, ((dl_real *)r->out, dp->helper[i].ctx->grads, r->node->numel));
    dp->stats.reduce.bytes += (size_t)dp->used * r->node->numel * sizeof(dl_real);
    dl__lap(&dp->at, &dp->stats.reduce);
}

/* Takes the time where the tape has got to: at the begin of the own chunk, or, i[0], at the end of its forward pass. */
static void dl__stamp_run(const dl_run_args *r)
{
    dl_data_parallel *dp = dl__parent_of(r->node);
    *(dl_real *)r->out = 0;
    if (r->node->i[0]) dl__lap(&dp->at, &dp->stats.forward);
    else dp->at = dl__microseconds();
}

static void dl__assemble_grad(const dl_grad_args *g);
static void dl__portal_grad(const dl_grad_args *g);
static const dl_op dl__assemble_op = { "data_parallel", DL__OP_ON_HOST, NULL, dl__assemble_run, dl__assemble_grad, NULL,
    NULL };
static const dl_op dl__send_back_op = { "data_parallel_send_back", DL__OP_ON_HOST, NULL, dl__send_back_run, NULL, NULL,
    NULL };
static const dl_op dl__collect_op = { "data_parallel_collect", DL__OP_ON_HOST, NULL, dl__collect_run, NULL, NULL,
    NULL };
static const dl_op dl__stamp_op = { "data_parallel_stamp", DL__OP_ON_HOST, NULL, dl__stamp_run, NULL, NULL, NULL };
static const dl_op dl__portal_op = { "data_parallel_portal", 0, NULL, NULL, dl__portal_grad, NULL, NULL };

static dl_tensor dl__parallel_node(
    dl_data_parallel *dp, const dl_op *op, int n, dl_node *const *in, dl_shape s, dl_index i, unsigned flags)
{
    dl__extra e = dl__with(1, &i);
    e.counter = (uint64_t)(uintptr_t)dp; /* data, not part of a plan's key */
    e.flags = flags;
    return dl__record(dp->ctx, op, n, in, DL_F32, &s, &e);
}

static void dl__assemble_grad(const dl_grad_args *g)
{
    dl_node *dy;
    int k = 0;
    dl_data_parallel *dp = dl__parent_of(g->node);
    if (!dl__operands("data_parallel", 1, &g->dy, &dy)) return;
    if (g->y.node != dp->all.node) {
        dl_fail(g->y.ctx,
            "dl_data_parallel_forward: gradients flow to the last call of a step; this output is of an earlier call");
        return;
    }
    if (dp->own && g->want[k++]) g->dx[0] = dl__own_rows(dp, g->dy);
    dl_tensor sent = dl__parallel_node(dp, &dl__send_back_op, 1, &dy, DL_SHAPE(1), 0, 0);
    dp->sums = dl__none();
    for (; k < g->node->n_in; k++)
        if (g->want[k]) g->dx[k] = sent;
}

static void dl__stamp(dl_data_parallel *dp, dl_tensor x, bool end)
{
    dl_node *n;
    bool recording = dl_set_grad(dp->ctx, false);
    if (dl__operands("data_parallel", 1, &x, &n)) dl__parallel_node(dp, &dl__stamp_op, 1, &n, DL_SHAPE(1), end, 0);
    dl_set_grad(dp->ctx, recording);
}

/* i[0] of a portal is 0, as of a view of its first parameter; which the others are, the replica's parameters say. */
static void dl__portal_grad(const dl_grad_args *g)
{
    dl_data_parallel *dp = dl__parent_of(g->node);
    const dl_context *from = dp->helper[0].ctx;
    dl_node *sent;
    if (!dl__operands("data_parallel", 1, &g->dy, &sent)) return;
    if (!dp->sums.ctx)
        dp->sums = dl__parallel_node(dp, &dl__collect_op, 1, &sent, DL_SHAPE((dl_index)from->n_values), 0, 0);
    for (int k = 0; k < g->node->n_in; k++) {
        if (!g->want[k]) continue;
        int i = 0;
        while (dp->map[i] != (int)g->node->in[k]->i[0]) i++;
        dl_index at = (dl_index)from->param[i].offset;
        g->dx[k] = dl_reshape(
            dl_slice(dp->sums, 0, at, at + (dl_index)from->param[i].numel, 1), dl__shape(g->node->in[k]));
    }
}

/* Portals for the parameters that the replicas use in this step, as inputs of dl__assemble_op. */
static int dl__make_portals(dl_data_parallel *dp, dl_node **portal, int most)
{
    dl_context *ctx = dp->ctx, *from = dp->helper[0].ctx;
    dl_node *in[DLTRAIN_MAX_INPUTS];
    int portals = 0, n = 0;
    for (int i = 0; i <= from->params; i++) {
        bool used = i < from->params && from->param[i].leaf_step == from->step && !from->param[i].buffer &&
            !ctx->param[dp->map[i]].frozen;
        if (used) {
            dl_tensor leaf = dl__param_leaf(ctx, &ctx->param[dp->map[i]]);
            if (!leaf.ctx) return 0;
            in[n++] = ctx->node[leaf.node];
        }
        if (n && (n == (int)DL__COUNT_OF(in) || i == from->params)) {
            if (portals == most) return dl_fail(ctx, "dl_data_parallel: more than %d parameters", most * n), 0;
            dl_tensor t = dl__parallel_node(dp, &dl__portal_op, n, in, DL_SHAPE(1), 0, DL__VIEW);
            if (!t.ctx) return 0;
            portal[portals++] = ctx->node[t.node];
            n = 0;
        }
    }
    return portals;
}

static bool dl__room_for(dl_context *ctx, dl_real **buffer, size_t *size, size_t numel)
{
    if (*size >= numel) return true;
    dl_real *room = (dl_real *)dl__alloc(ctx, numel * sizeof *room, 0);
    if (!room) return false;
    dl__release(ctx, *buffer);
    *buffer = room;
    *size = numel;
    return true;
}

/* The own chunk's output, or none; *s: the shape of the whole one. */
static bool dl__own_forward(dl_data_parallel *dp, dl_tensor x, dl_node **y, dl_shape *s)
{
    dl_context *ctx = dp->ctx;
    const dl__helper *first = &dp->helper[0];
    const dl_node *n = first->ctx->node[first->y.node];
    size_t row = n->numel / first->n;
    bool ok = true;
    *s = dl__shape(n);
    s->dim[0] = dp->x_shape.dim[0];
    if (dp->own) {
        dl__stamp(dp, x, false);
        dl_tensor mine = dl__run_model(dp, dl__own_rows(dp, x));
        if (!mine.ctx) dl_fail(ctx, "dl_data_parallel: the model returned no tensor");
        ok = dl__operands("data_parallel", 1, &mine, y) && dl__check_rows(ctx, *y, dp->own);
        if (ok && (*y)->numel != dp->own * row)
            ok = dl_fail(
                ctx, "dl_data_parallel: the model gives %S here and %S on replica %d", *y, n, first->index);
    }
    for (int i = 0; ok && i < dp->used; i++) {
        dl__helper *h = &dp->helper[i];
        const dl_node *theirs = h->ctx->node[h->y.node];
        ok = theirs->numel == h->n * row
            ? dl__room_for(ctx, &h->dy, &h->dy_size, theirs->numel)
            : dl_fail(ctx, "dl_data_parallel: the model gives %S on replica %d and %S on replica %d", n, first->index,
                  theirs, h->index);
    }
    return ok && !ctx->failed;
}

/* With desc.outputs: all outputs, of shape *s, as a tensor of that context. `mine` is the own chunk's; s NULL:
   there is no other. */
static dl_tensor dl__show_outputs(dl_data_parallel *dp, dl_tensor mine, const dl_shape *s)
{
    dl_context *ctx = dp->ctx, *to = dp->desc.outputs;
    const dl_shape shape = s ? *s : dl_shape_of(mine);
    size_t n = 1;
    for (int i = 0; i < shape.ndim; i++) n *= (size_t)shape.dim[i];
    const void *own = dp->own ? dl_data(dl_keep(mine)) : NULL;
    bool ok = !ctx->failed && (s || dl__check_rows(ctx, ctx->node[mine.node], dp->own)) &&
        dl__room_for(ctx, &dp->gathered, &dp->gathered_size, DL__MAX(n, (size_t)1));
    if (!ok || !dl__gather_outputs(dp, dp->gathered, n / (size_t)shape.dim[0], own)) return dl__none();
    dp->mine = mine;
    dp->all = dl_variable(to, shape, dp->gathered);
    if (!dp->all.ctx) dl_fail(ctx, "dl_data_parallel_forward: .outputs: %s", dl_error(to));
    return dp->all;
}

DL_API dl_tensor dl_data_parallel_forward(dl_data_parallel *dp, dl_tensor x)
{
    dl_node *in[DLTRAIN_MAX_INPUTS];
    dl_shape s;
    size_t row;
    if (!dp || dp->ctx->failed) return dl__none();
    dl_context *ctx = dp->ctx;
    if (!dl__begin_batch(dp)) return dl__none();
    const char *data = (const char *)dl__rows(dp, "x", x, &dp->x_shape, &dp->x_dtype, &row);
    if (!data) return dl__none();
    dl__scatter(dp, (size_t)dp->x_shape.dim[0], data, row, NULL, 0);
    dl__lap(&dp->at, &dp->stats.scatter);
    dp->stats.steps++;
    if (!dp->used) return dp->desc.outputs ? dl__show_outputs(dp, dl__run_model(dp, x), NULL) : dl__run_model(dp, x);
    dp->with_loss = false;
    dl__helpers_start(dp, DL__RECORD);
    if (!dl__helpers_wait(dp) || !dl__map_parameters(dp)) return dl__none();
    if (dp->desc.outputs) {
        dl__helpers_start(dp, DL__FORWARD);
        if (!dl__own_forward(dp, x, in, &s)) return dl__none();
        return dl__show_outputs(dp, dp->own ? dl__handle(ctx, in[0]) : dl__none(), &s);
    }
    int own = dp->own != 0, portals = dl__make_portals(dp, in + own, (int)DL__COUNT_OF(in) - own);
    if (ctx->failed) return dl__none();
    dl__helpers_start(dp, DL__FORWARD);
    if (!dl__own_forward(dp, x, in, &s)) return dl__none();
    dl__lap(&dp->at, &dp->stats.forward);
    return dp->all = dl__parallel_node(dp, &dl__assemble_op, portals + own, in, s, (dl_index)dp->own, 0);
}

/* Adds a replica's gradients to those here. */
static void dl__add_gradients(dl_data_parallel *dp, const dl__helper *h)
{
    dl_context *ctx = dp->ctx;
    if (!dl__to_host(ctx, ctx->grads)) return;
    dl__host_wrote(ctx, ctx->grads);
    for (int i = 0; i < h->ctx->params; i++) {
        const dl__param *p = &h->ctx->param[i];
        dl__param *to = &ctx->param[dp->map[i]];
        if (p->buffer || p->fresh || to->frozen) continue;
        if (to->fresh) memset(ctx->grads + to->offset, 0, to->numel * sizeof *ctx->grads);
        to->fresh = false;
        DL__CALL(ctx->level, add_to, (ctx->grads + to->offset, h->ctx->grads + p->offset, p->numel));
        dp->stats.reduce.bytes += p->numel * sizeof *ctx->grads;
    }
}

/* Loss and gradients of the own chunk, which is the step's end; *loss: its share of the batch's. */
static bool dl__own_backward(dl_data_parallel *dp, dl_tensor x, dl_tensor target, double *loss)
{
    dl_backward_desc d;
    double share = (double)dp->own / (double)dp->x_shape.dim[0];
    memset(&d, 0, sizeof d);
    d.scale = (float)share;
    if (!dp->own) return dl_end(dp->ctx), !dp->ctx->failed;
    dl__stamp(dp, x, false);
    dl_tensor mine = dl__run_loss(dp, dl__own_rows(dp, x), dl__own_rows(dp, target));
    dl__stamp(dp, mine, true);
    dl__lap(&dp->at, &dp->stats.forward);
    bool ok = dl_backward_ex(mine, &d);
    if (ok) *loss = dl_item(mine) * share;
    return ok;
}

DL_API bool dl_data_parallel_backward(dl_data_parallel *dp, dl_tensor x, dl_tensor target, double *loss)
{
    size_t x_row, target_row;
    double total = 0;
    if (!dp || dp->ctx->failed) return false;
    dl_context *ctx = dp->ctx;
    if (!dl__begin_batch(dp)) return false;
    const char *data = (const char *)dl__rows(dp, "x", x, &dp->x_shape, &dp->x_dtype, &x_row);
    if (!data) return false;
    const char *targets =
        (const char *)dl__rows(dp, "target", target, &dp->target_shape, &dp->target_dtype, &target_row);
    if (!targets) return false;
    size_t n = (size_t)dp->x_shape.dim[0];
    if ((size_t)dp->target_shape.dim[0] != n)
        return dl_fail(ctx, "dl_data_parallel_backward: %zu samples and %td targets", n, dp->target_shape.dim[0]);
    dl__scatter(dp, n, data, x_row, targets, target_row);
    dl__lap(&dp->at, &dp->stats.scatter);
    dp->stats.steps++;
    dp->with_loss = true;
    dl__helpers_start(dp, DL__RECORD);
    if (!dl__helpers_wait(dp) || (dp->used && !dl__map_parameters(dp))) return false;
    dl__helpers_start(dp, DL__BOTH);
    bool ok = dl__own_backward(dp, x, target, &total);
    ok = dl__helpers_wait(dp) && ok;
    dl__lap(&dp->at, &dp->stats.backward);
    if (!ok) return false;
    for (int i = 0; i < dp->used; i++) {
        dl__add_gradients(dp, &dp->helper[i]);
        total += dp->helper[i].loss * (double)dp->helper[i].n / (double)n;
    }
    dl__lap(&dp->at, &dp->stats.reduce);
    if (loss) *loss = total;
    return !ctx->failed;
}

DL_API bool dl_data_parallel_backward_from(dl_data_parallel *dp, dl_tensor loss)
{
    dl_tensor dy;
    if (!dp || dp->ctx->failed) return false;
    dl_context *ctx = dp->ctx, *from = dp->desc.outputs;
    const char *wrong = !from ? "there is no .outputs: the outputs are ctx's, where dl_backward does it"
        : loss.ctx && loss.ctx != from ? "the loss is a tensor of another context than .outputs"
        : !dp->all.ctx ? "dl_data_parallel_forward comes first" : NULL;
    const dl_real *d = !wrong && dl_grad(loss, &dp->all, 1, &dy) ? (const dl_real *)dl_data(dy) : NULL;
    if (!wrong && !d) wrong = from->failed ? dl_error(from) : "the loss is no tensor";
    if (wrong) return dl_fail(ctx, "dl_data_parallel_backward_from: %s", wrong);
    dl_shape s = dl_shape_of(dp->all);
    size_t row = dl_numel(dp->all) / (size_t)s.dim[0];
    dl__send_back(dp, d, row);
    s.dim[0] = (dl_index)dp->own;
    if (dp->own) dl_backward(dl_sum(dl_mul(dp->mine, dl_borrow(ctx, DL_F32, s, d + dp->first * row))));
    else dl_end(ctx);
    bool ok = dl__helpers_wait(dp);
    dl__lap(&dp->at, &dp->stats.backward);
    for (int i = 0; i < dp->used && ok; i++) dl__add_gradients(dp, &dp->helper[i]);
    dl__lap(&dp->at, &dp->stats.reduce);
    dl_end(from);
    dp->all = dl__none();
    return ok && !ctx->failed;
}

DL_API void dl_data_parallel_stats(const dl_data_parallel *dp, dl_parallel_stats *out)
{
    memset(out, 0, sizeof *out);
    if (dp) *out = dp->stats;
}

DL_API dl_memory dl_data_parallel_memory(const dl_data_parallel *dp, int device)
{
    for (int i = 0; dp && i < dp->helpers; i++)
        if (dp->helper[i].index == device) return dl_memory_used(dp->helper[i].ctx);
    return dl_memory_used(dp && device == dp->desc.output ? dp->ctx : NULL);
}

static void dl__data_parallel_stop(void *user)
{
    dl_data_parallel *dp = (dl_data_parallel *)user;
    dp->used = dp->helpers;
    dl__helpers_rest(dp);
#ifndef DLTRAIN_NO_THREADS
    dl__helpers_start(dp, DL__QUIT);
    for (int i = 0; i < dp->helpers; i++)
        if (dp->helper[i].threaded) pthread_join(dp->helper[i].thread, NULL);
    pthread_cond_destroy(&dp->changed);
    pthread_mutex_destroy(&dp->mutex);
#endif
    for (int i = 0; i < dp->helpers; i++) dl_destroy(dp->helper[i].ctx);
}

/* Of all dl_data_parallel of the context. */
static void dl__all_rest(dl_context *ctx)
{
    for (const dl__hook *h = ctx->hooks; h; h = h->next)
        if (h->run == dl__data_parallel_stop) dl__helpers_rest((dl_data_parallel *)h->user);
}

/* Number `index` of the list, which on the output device is the context's own. */
static bool dl__named_device(dl_context *ctx, const char *devices, int index, bool own, char *device, int *threads)
{
    const char *mine = "cpu";
#if DL__DEVICES
    if (DL__ON(ctx)) mine = ctx->device_name;
#endif
    if (!dl__read_device(devices, index, device, threads))
        return dl_fail(ctx, "dl_data_parallel_create: '%s' is no list of devices; 'cpu,cpu:2' is one", devices);
    return !own || !strcmp(device, mine) ||
        dl_fail(ctx, "dl_data_parallel_create: output device %d of '%s' is '%s', but this context is on '%s'", index,
            devices, device, mine);
}

static bool dl__make_helper(dl_data_parallel *dp, int number, const char *devices)
{
    dl__helper *h = &dp->helper[number];
    int index = number + (number >= dp->desc.output);
    dl_context *ctx = dp->ctx;
    dl_config config = ctx->config;
    int threads = 0;
    if (!dl__named_device(ctx, devices, index, false, h->device, &threads)) return false;
    config.memory = NULL;
    config.memory_size = 0;
    config.log = NULL;
    config.device = h->device;
    config.threads = threads ? threads
        : config.threads     ? config.threads
                             : DL__MAX(1, dl__cpu_count() / (dp->helpers + 1));
    h->parent = dp;
    h->index = index;
    h->ctx = dl_create(&config);
    if (dl_failed(h->ctx)) {
        dl_fail(ctx, "dl_data_parallel_create: replica %d (%s): %s", index, h->device, dl_error(h->ctx));
        dl_destroy(h->ctx);
        h->ctx = NULL;
        return false;
    }
    h->ctx->config.device = NULL; /* the text is this context's */
#ifndef DLTRAIN_NO_THREADS
    h->threaded = !pthread_create(&h->thread, NULL, dl__helper_main, h); /* without, its work is done in between */
#endif
    return true;
}

DL_API dl_data_parallel *dl_data_parallel_create(dl_context *ctx, const dl_data_parallel_desc *desc)
{
    if (!ctx || ctx->failed) return NULL;
    if (!desc || (!desc->model && !desc->model_with))
        return dl_fail(ctx, "dl_data_parallel_create: there is no model"), (dl_data_parallel *)NULL;
    const char *devices = desc->devices ? desc->devices : "cpu";
    char own[DL__DEVICE_MAX];
    int n = dl__count_devices(devices) - 1, threads = 0;
    if (ctx->replica)
        return dl_fail(ctx, "dl_data_parallel_create: this is a replica of dl_launch: give that one the devices"),
               (dl_data_parallel *)NULL;
    if (desc->outputs == ctx)
        return dl_fail(ctx, "dl_data_parallel_create: .outputs must be another context than ctx; NULL is ctx"),
               (dl_data_parallel *)NULL;
    if (desc->output < 0 || desc->output > n)
        return dl_fail(ctx, "dl_data_parallel_create: output is device %d of '%s', where 0 to %d are", desc->output,
                   devices, n),
               (dl_data_parallel *)NULL;
    if (desc->devices && !dl__named_device(ctx, devices, desc->output, true, own, &threads)) return NULL;
    dl_data_parallel *dp = (dl_data_parallel *)dl__alloc(ctx, sizeof *dp, 8);
    if (!dp) return NULL;
    dp->ctx = ctx;
    dp->desc = *desc;
    dp->helper = (dl__helper *)dl__alloc(ctx, (size_t)(n ? n : 1) * sizeof *dp->helper, 0);
    if (!dp->helper) return NULL;
#ifndef DLTRAIN_NO_THREADS
    pthread_mutex_init(&dp->mutex, NULL);
    pthread_cond_init(&dp->changed, NULL);
#endif
    bool ok = true;
    for (int i = 0; ok && i < n; i++) {
        ok = dl__make_helper(dp, i, devices);
        dp->helpers += ok;
    }
    if (!ok || !dl__on_destroy(ctx, dl__data_parallel_stop, dp))
        return dl__data_parallel_stop(dp), (dl_data_parallel *)NULL;
    ctx->rest = dl__all_rest;
    return dp;
}

/* ==== >>data ====
   Datasets and the loader.
   may use: parallel, tape, platform */
struct dl_dataset {
    dl_context *ctx;
    dl_dataset_desc desc;
    size_t x_numel, y_numel; /* of a sample */
};

DL_API dl_dataset *dl_dataset_create(dl_context *ctx, const dl_dataset_desc *desc)
{
    dl_dataset d;
    if (!ctx || ctx->failed) return NULL;
    if (!desc) return dl_fail(ctx, "dl_dataset_create: desc is NULL"), (dl_dataset *)NULL;
    memset(&d, 0, sizeof d);
    d.ctx = ctx;
    d.desc = *desc;
    if ((unsigned)desc->x_dtype > DL_U8 || (unsigned)desc->y_dtype > DL_U8)
        return dl_fail(ctx, "dl_dataset_create: there is no dtype %d",
                   (int)((unsigned)desc->x_dtype > DL_U8 ? desc->x_dtype : desc->y_dtype)),
               (dl_dataset *)NULL;
    if (!dl__count(ctx, "dataset_create", &desc->x_shape, &d.x_numel) ||
        (!desc->no_y && !dl__count(ctx, "dataset_create", &desc->y_shape, &d.y_numel)))
        return NULL;
    if (desc->x_shape.ndim == DLTRAIN_MAX_DIMS || desc->y_shape.ndim == DLTRAIN_MAX_DIMS)
        return dl_fail(ctx, "dl_dataset_create: a batch of samples needs one dimension more; DLTRAIN_MAX_DIMS is %d",
                   DLTRAIN_MAX_DIMS),
               (dl_dataset *)NULL;
    if (!desc->get && !desc->x)
        return dl_fail(ctx, "dl_dataset_create: neither x nor get is given"), (dl_dataset *)NULL;
    if (!desc->get && !desc->y && !desc->no_y)
        return dl_fail(ctx, "dl_dataset_create: y is NULL; set no_y for data without targets"), (dl_dataset *)NULL;
    dl_dataset *p = (dl_dataset *)dl__alloc(ctx, sizeof *p, 13 + 2 * DLTRAIN_MAX_DIMS);
    if (p) *p = d;
    return p;
}

typedef struct dl__subset { const dl_dataset *of; size_t *index; } dl__subset;

static bool dl__subset_get(void *user, size_t index, void *x, void *y)
{
    const dl__subset *s = (const dl__subset *)user;
    const dl_dataset *of = s->of;
    const dl_dataset_desc *d = &of->desc;
    size_t from = s->index[index], xb = of->x_numel * dl__dtype_size(d->x_dtype),
           yb = of->y_numel * dl__dtype_size(d->y_dtype);
    if (d->get) return d->get(d->user, from, x, y);
    memcpy(x, (const char *)d->x + from * xb, xb);
    if (y) memcpy(y, (const char *)d->y + from * yb, yb);
    return true;
}

static const char *dl__subset_why(void *user, size_t index)
{
    const dl__subset *s = (const dl__subset *)user;
    return s->of->desc.why ? s->of->desc.why(s->of->desc.user, s->index[index]) : NULL;
}

DL_API dl_dataset *dl_subset(dl_dataset *data, const size_t *index, size_t n)
{
    if (!data || data->ctx->failed) return NULL;
    dl_context *ctx = data->ctx;
    dl_dataset_desc d = data->desc;
    if (n && !index) return dl_fail(ctx, "dl_subset: index is NULL"), (dl_dataset *)NULL;
    for (size_t i = 0; i < n; i++)
        if (index[i] >= d.count)
            return dl_fail(ctx, "dl_subset: index %zu is sample %zu of a dataset of %zu", i, index[i], d.count),
                   (dl_dataset *)NULL;
    dl__subset *s = (dl__subset *)dl__alloc(ctx, sizeof *s, 2);
    if (s) s->index = (size_t *)dl__alloc(ctx, n * sizeof *index, n);
    if (ctx->failed) return NULL;
    if (n) memcpy(s->index, index, n * sizeof *index);
    s->of = data;
    d.count = n;
    d.get = dl__subset_get;
    d.why = dl__subset_why;
    d.user = s;
    return dl_dataset_create(ctx, &d);
}

DL_API size_t dl_dataset_count(const dl_dataset *d) { return d ? d->desc.count : 0; }
DL_API dl_shape dl_dataset_x_shape(const dl_dataset *d) { return d ? d->desc.x_shape : DL_SCALAR; }

/* PyTorch's randperm: Fisher and Yates with the numbers of mt19937 (Matsumoto and Nishimura 1998). */
DL_API void dl_randperm(uint32_t seed, size_t *out, size_t n)
{
    uint32_t mt[624];
    int at = 624;
    if (!out) return;
    mt[0] = seed;
    for (uint32_t i = 1; i < 624; i++) mt[i] = 1812433253u * (mt[i - 1] ^ mt[i - 1] >> 30) + i;
    for (size_t i = 0; i < n; i++) out[i] = i;
    for (size_t i = 0; i + 1 < n; i++) {
        if (at == 624) {
            for (int k = 0; k < 624; k++) {
                uint32_t y = (mt[k] & 0x80000000u) | (mt[(k + 1) % 624] & 0x7fffffffu);
                mt[k] = mt[(k + 397) % 624] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
            }
            at = 0;
        }
        uint32_t y = mt[at++];
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c5680u;
        y ^= y << 15 & 0xefc60000u;
        y ^= y >> 18;
        size_t other = i + y % (n - i), t = out[i];
        out[i] = out[other];
        out[other] = t;
    }
}

/* ---- distortions ---- */
/* Through `apply` alone, so that a program without does not link them. Random numbers: key of seed and epoch;
   counter (sample, view, draw). */
struct dl_augment {
    dl_augment_desc desc;
    void (*apply)(const dl_augment *a, const dl_shape *shape, const uint8_t *in, dl_real *out, uint64_t key,
        uint64_t sample, int view);
};
/* DL__DRAW_NOISE: one for each four values */
enum { DL__DRAW_PLACE, DL__DRAW_SHAPE, DL__DRAW_COLOUR, DL__DRAW_CUTOUT, DL__DRAW_NOISE = 16 };
/* The pixel of x, y in the source: m (x, y, 1). Of moves by whole pixels alone m is exact. */
typedef struct dl__affine { double m[2][3]; bool whole; } dl__affine;

static double dl__within(uint32_t u, double low, double high)
{
    return low + (high - low) * ((double)u * 2.3283064365386963e-10);
}
static dl_index dl__pick(uint32_t u, dl_index n) { return (dl_index)((uint64_t)u * (uint64_t)n >> 32); } /* of 0..n-1 */
static double dl__radians(double degrees) { return degrees * 0.017453292519943295; }

/* Back from the place in the distorted image: undoes the shift, then scale, shear and rotation about the centre,
   then the mirror. */
static dl__affine dl__distort_map(
    const dl_augment_desc *d, dl_index height, dl_index width, const uint32_t place[4], const uint32_t form[4])
{
    dl__affine t;
    double cx = (double)(width - 1) / 2, cy = (double)(height - 1) / 2, scale = (double)d->scale;
    double angle = dl__radians(dl__within(form[0], -(double)d->rotation, (double)d->rotation)),
           slant = dl__radians(dl__within(form[1], -(double)d->shear, (double)d->shear)),
           size = 1 / dl__within(form[2], 1 - scale, 1 + scale),
           dx = (double)(dl__pick(place[0], 2 * d->crop + 1) - d->crop),
           dy = (double)(dl__pick(place[1], 2 * d->crop + 1) - d->crop);
    t.whole = d->rotation == 0 && d->shear == 0 && d->scale == 0;
    double c = dl__sin_d(angle, 1), s = dl__sin_d(angle, 0), k = dl__sin_d(slant, 0) / dl__sin_d(slant, 1);
    double m[2][2] = { { 1, 0 }, { 0, 1 } }; /* rotation^-1 shear^-1 / scale */
    if (!t.whole) m[0][0] = c * size, m[0][1] = (s - c * k) * size, m[1][0] = -s * size, m[1][1] = (c + s * k) * size;
    for (int i = 0; i < 2; i++) {
        t.m[i][0] = m[i][0], t.m[i][1] = m[i][1];
        t.m[i][2] = t.whole ? (i ? dy : dx) : m[i][0] * (dx - cx) + m[i][1] * (dy - cy) + (i ? cy : cx);
    }
    if (dl__within(place[2], 0, 1) < (double)d->flip)
        for (int j = 0; j < 3; j++) t.m[0][j] = (j == 2 ? (double)(width - 1) : 0) - t.m[0][j];
    return t;
}

/* The bytes of one channel at (x, y), bilinear, 0 outside. */
static dl_real dl__bilinear(const uint8_t *in, dl_index height, dl_index width, double x, double y)
{
    if (!(x > -1 && y > -1 && x < (double)width && y < (double)height)) return 0;
    dl_index x0 = (dl_index)(x + 1) - 1, y0 = (dl_index)(y + 1) - 1;
    dl_real fx = (dl_real)(x - (double)x0), fy = (dl_real)(y - (double)y0), row[2] = { 0, 0 };
    for (int i = 0; i < 2; i++) {
        if (y0 + i < 0 || y0 + i >= height) continue;
        const uint8_t *p = in + (y0 + i) * width;
        dl_real a = x0 >= 0 ? (dl_real)p[x0] : 0, b = x0 + 1 < width ? (dl_real)p[x0 + 1] : 0;
        row[i] = a * (1 - fx) + b * fx;
    }
    return row[0] * (1 - fy) + row[1] * fy;
}

static void dl__distort_move(const dl__affine *t, const dl_shape *s, const uint8_t *in, dl_real *out)
{
    dl_index height = s->dim[1], width = s->dim[2];
    for (dl_index c = 0; c < s->dim[0]; c++, in += height * width)
        for (dl_index y = 0; y < height; y++)
            for (dl_index x = 0; x < width; x++, out++) {
                double sx = t->m[0][0] * (double)x + t->m[0][1] * (double)y + t->m[0][2],
                       sy = t->m[1][0] * (double)x + t->m[1][1] * (double)y + t->m[1][2];
                if (!t->whole) *out = dl__bilinear(in, height, width, sx, sy);
                else if (!(sx >= 0 && sy >= 0 && sx < (double)width && sy < (double)height)) *out = 0;
                else *out = (dl_real)in[(dl_index)sy * width + (dl_index)sx];
            }
}

static dl_real dl__grey(const dl_real *x, dl_index channels, size_t plane)
{
    if (channels == 3) return (dl_real)0.299 * x[0] + (dl_real)0.587 * x[plane] + (dl_real)0.114 * x[2 * plane];
    dl_real sum = 0;
    for (dl_index c = 0; c < channels; c++) sum += x[(size_t)c * plane];
    return sum / (dl_real)channels;
}

static dl_real dl__clamped(dl_real v, dl_real high) { return v < 0 ? 0 : v > high ? high : v; }

/* x: planes of R, G and B; turn: of the circle, in [-1/2, 1/2]. With hue h in sixths of the circle, M the largest of
   the three and c its distance from the smallest, a channel is M - c min(1, max(0, min(k, 4 - k))), k = (n + h) mod 6,
   and n = 5 for R, 3 for G, 1 for B. */
static void dl__distort_hue(dl_real turn, size_t plane, dl_real *x)
{
    for (size_t i = 0; i < plane; i++) {
        dl_real r = x[i], g = x[i + plane], b = x[i + 2 * plane], most = DL__MAX(DL__MAX(r, g), b);
        dl_real chroma = most - DL__MIN(DL__MIN(r, g), b);
        if (!(chroma > 0)) continue;
        dl_real h = most == r ? (g - b) / chroma : most == g ? 2 + (b - r) / chroma : 4 + (r - g) / chroma;
        for (int c = 0; c < 3; c++) {
            dl_real k = (dl_real)(5 - 2 * c) + h + 6 * turn; /* from -3 to 13 */
            k -= k < 0 ? -6 : k >= 12 ? 12 : k >= 6 ? 6 : 0;
            x[i + (size_t)c * plane] = most - chroma * dl__clamped(DL__MIN(k, 4 - k), 1);
        }
    }
}

static void dl__distort_colour(const dl_augment_desc *d, const dl_shape *s, dl_real *x, const uint32_t u[4])
{
    size_t plane = (size_t)(s->dim[1] * s->dim[2]), n = plane * (size_t)s->dim[0];
    const float width[3] = { d->brightness, d->contrast, d->saturation };
    for (int kind = 0; kind < 3; kind++) {
        if (width[kind] == 0 || (kind == 2 && s->dim[0] != 3)) continue;
        dl_real f = (dl_real)dl__within(u[kind], DL__MAX(0, 1 - (double)width[kind]), 1 + (double)width[kind]);
        double sum = 0;
        for (size_t i = 0; kind == 1 && i < plane; i++) sum += (double)dl__grey(x + i, s->dim[0], plane);
        dl_real mean = kind == 1 ? (dl_real)(sum / (double)plane) : 0;
        if (kind == 2)
            for (size_t i = 0; i < plane; i++) {
                dl_real grey = dl__grey(x + i, 3, plane);
                for (int c = 0; c < 3; c++) {
                    dl_real *v = x + i + (size_t)c * plane;
                    *v = dl__clamped(*v * f + grey * (1 - f), 255);
                }
            }
        else
            for (size_t i = 0; i < n; i++) x[i] = dl__clamped(x[i] * f + mean * (1 - f), 255);
    }
    if (d->hue > 0 && s->dim[0] == 3)
        dl__distort_hue((dl_real)dl__within(u[3], -(double)d->hue, (double)d->hue), plane, x);
}

static void dl__distort_cutout(dl_index side, const dl_shape *s, dl_real *x, const uint32_t u[4])
{
    dl_index height = s->dim[1], width = s->dim[2];
    dl_index top = dl__pick(u[0], height) - side / 2, left = dl__pick(u[1], width) - side / 2;
    for (dl_index c = 0; c < s->dim[0]; c++)
        for (dl_index i = DL__MAX(top, 0); i < DL__MIN(top + side, height); i++)
            for (dl_index j = DL__MAX(left, 0); j < DL__MIN(left + side, width); j++)
                x[(c * height + i) * width + j] = 0;
}

/* in: bytes; out: numbers in [0,1] */
static void dl__distort(
    const dl_augment *a, const dl_shape *s, const uint8_t *in, dl_real *out, uint64_t key, uint64_t sample, int view)
{
    const dl_augment_desc *d = &a->desc;
    uint64_t high = (uint64_t)view << 40;
    size_t n = (size_t)(s->dim[0] * s->dim[1] * s->dim[2]);
    uint32_t u[4], form[4];
    dl__philox(key, sample, high | DL__DRAW_PLACE, u);
    dl__philox(key, sample, high | DL__DRAW_SHAPE, form);
    dl__affine t = dl__distort_map(d, s->dim[1], s->dim[2], u, form);
    dl__distort_move(&t, s, in, out);
    dl__philox(key, sample, high | DL__DRAW_COLOUR, u);
    dl__distort_colour(d, s, out, u);
    for (size_t i = 0; i < n; i++) out[i] /= 255;
    for (size_t i = 0; d->noise > 0 && i < n; i++) {
        if (i % 4 == 0) dl__philox(key, sample, high | (DL__DRAW_NOISE + i / 4), u);
        out[i] = dl__clamped(out[i] + (dl_real)d->noise * dl__normal(u, (int)(i % 4)), 1);
    }
    dl__philox(key, sample, high | DL__DRAW_CUTOUT, u);
    if (d->cutout) dl__distort_cutout(d->cutout, s, out, u);
}

DL_API const dl_augment *dl_augment_create(dl_context *ctx, const dl_augment_desc *desc)
{
    dl_augment_desc none;
    if (!ctx || ctx->failed) return NULL;
    memset(&none, 0, sizeof none);
    if (!desc) desc = &none;
    const struct { const char *name; double value, most; } range[] = {
        { "flip", (double)desc->flip, 1 }, { "rotation", (double)desc->rotation, 180 },
        { "shear", (double)desc->shear, 80 }, { "scale", (double)desc->scale, 0.99 },
        { "brightness", (double)desc->brightness, 100 },
        { "contrast", (double)desc->contrast, 100 }, { "saturation", (double)desc->saturation, 100 },
        { "hue", (double)desc->hue, 0.5 }, { "noise", (double)desc->noise, 100 },
        { "crop", (double)desc->crop, 1 << 20 }, { "cutout", (double)desc->cutout, 1 << 20 },
    };
    for (size_t i = 0; i < DL__COUNT_OF(range); i++)
        if (!(range[i].value >= 0 && range[i].value <= range[i].most))
            return dl_fail(ctx, "dl_augment_create: %s %g is not between 0 and %g", range[i].name, range[i].value,
                       range[i].most),
                   (const dl_augment *)NULL;
    dl_augment *a = (dl_augment *)dl__alloc(ctx, sizeof *a, 3);
    if (!a) return NULL;
    a->desc = *desc;
    a->apply = dl__distort;
    return a;
}

/* ---- the loader ---- */
/* One buffer of a batch; `wanted` samples from `first` of the order. */
typedef struct dl__fill { char *x, *y, *x2; size_t first, wanted; bool ok; size_t failed; } dl__fill;

struct dl_loader {
    dl_context *ctx;
    dl_dataset *data;
    dl_loader_desc desc;
    uint64_t epoch;
    size_t count;            /* samples of an epoch: of this rank */
    size_t at, *order, done; /* samples and batches so far in this epoch */
    size_t per;              /* DL_SPLIT_BATCH: this rank's parts of a batch */
    bool begun, served;
    dl__fill buffer[2];
    int current;
    size_t x_size, y_size;   /* bytes of an element of a batch */
    int threads;
    dl__pool *pool;          /* NULL: one thread */
    uint8_t *bytes;          /* of an image before it is distorted, for each thread; NULL: the dataset
                                has them in memory */
    size_t *bad;             /* of each thread: the first place it could not fill, or SIZE_MAX */
#ifndef DLTRAIN_NO_THREADS
    bool threaded, quit, asked, ready;
    bool coming;             /* the batch at `at` is asked for and not taken */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
#endif
};

/* Bytes of in become numbers of out; they may be the last of out: forward, each is read before it is written over. */
static void dl__widen_x(const uint8_t *in, char *out, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        dl_real v = (dl_real)in[k] / 255;
        memcpy(out + k * sizeof v, &v, sizeof v);
    }
}

static void dl__widen_y(const uint8_t *in, char *out, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        int32_t v = in[k];
        memcpy(out + k * sizeof v, &v, sizeof v);
    }
}

typedef struct dl__filling { dl_loader *l; dl__fill *f; } dl__filling;

/* Place i of the batch. */
static void dl__fill_sample(void *user, size_t i, int thread)
{
    dl_loader *l = ((dl__filling *)user)->l;
    dl__fill *f = ((dl__filling *)user)->f;
    const dl_dataset_desc *d = &l->data->desc;
    size_t from = l->order[f->first + i], xn = l->data->x_numel, yn = d->no_y ? 0 : l->data->y_numel,
           xb = xn * dl__dtype_size(d->x_dtype), yb = yn * dl__dtype_size(d->y_dtype);
    if (l->bad[thread] != SIZE_MAX) return;
    char *x = f->x + i * xn * l->x_size, *y = d->no_y ? NULL : f->y + i * yn * l->y_size;
    const char *x_in, *y_in;
    if (!d->get) x_in = (const char *)d->x + from * xb, y_in = y ? (const char *)d->y + from * yb : NULL;
    else { /* bytes come to the end of their place */
        char *to = l->bytes ? (char *)l->bytes + (size_t)thread * xb : x + (xn * l->x_size - xb);
        char *y_to = y ? y + (yn * l->y_size - yb) : NULL;
        if (!d->get(d->user, from, to, y_to)) {
            l->bad[thread] = i;
            return;
        }
        x_in = to, y_in = y_to;
    }
    if (l->desc.augment) {
        uint64_t key = dl__mix(dl__key(l->ctx->config.seed, 0x61756772), l->epoch);
        for (int view = 0; view < l->desc.views; view++)
            l->desc.augment->apply(l->desc.augment, &d->x_shape, (const uint8_t *)x_in,
                (dl_real *)(void *)(view ? f->x2 + i * xn * l->x_size : x), key, from, view);
    } else if (d->x_dtype == DL_U8) dl__widen_x((const uint8_t *)x_in, x, xn);
    else if (x_in != x) memcpy(x, x_in, xb);
    if (y && d->y_dtype == DL_U8) dl__widen_y((const uint8_t *)y_in, y, yn);
    else if (y && y_in != y) memcpy(y, y_in, yb);
}

static void dl__fill_batch(dl_loader *l, dl__fill *f)
{
    dl__filling filling = { l, f };
    size_t first = SIZE_MAX;
    unsigned fp = dl__fp_enter();
    for (int t = 0; t < l->threads; t++) l->bad[t] = SIZE_MAX;
    if (l->pool) dl__pool_run(l->pool, f->wanted, 1, dl__fill_sample, &filling);
    else
        for (size_t i = 0; i < f->wanted; i++) dl__fill_sample(&filling, i, 0);
    dl__fp_leave(fp);
    for (int t = 0; t < l->threads; t++) first = DL__MIN(first, l->bad[t]);
    f->ok = first == SIZE_MAX;
    if (!f->ok) f->failed = l->order[f->first + first];
}

#ifndef DLTRAIN_NO_THREADS
static void *dl__prefetch(void *argument)
{
    dl_loader *l = (dl_loader *)argument;
    pthread_mutex_lock(&l->mutex);
    while (!l->quit) {
        if (!l->asked) {
            pthread_cond_wait(&l->changed, &l->mutex);
            continue;
        }
        dl__fill *f = &l->buffer[!l->current];
        l->asked = false;
        pthread_mutex_unlock(&l->mutex);
        dl__fill_batch(l, f);
        pthread_mutex_lock(&l->mutex);
        l->ready = true;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

static void dl__prefetch_stop(void *user)
{
    dl_loader *l = (dl_loader *)user;
    pthread_mutex_lock(&l->mutex);
    l->quit = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->mutex);
}

static void dl__prefetch_ask(dl_loader *l, size_t first, size_t wanted)
{
    pthread_mutex_lock(&l->mutex);
    l->buffer[!l->current].first = first;
    l->buffer[!l->current].wanted = wanted;
    l->asked = true;
    l->ready = false;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
}

/* The batch asked for becomes the current one. */
static void dl__prefetch_take(dl_loader *l)
{
    pthread_mutex_lock(&l->mutex);
    while (!l->ready) pthread_cond_wait(&l->changed, &l->mutex);
    l->current = !l->current;
    pthread_mutex_unlock(&l->mutex);
}
#endif

/* Of a batch of n samples: this rank's, and where they begin. */
static size_t dl__own_part(const dl_loader *l, size_t n, size_t *first)
{
    size_t from, count;
    int shard = l->desc.rank * (int)l->per;
    dl_shard(n, shard, l->desc.shards, first, &count);
    dl_shard(n, shard + (int)l->per - 1, l->desc.shards, &from, &count);
    return from + count - *first;
}

/* Of batch number `done`, which begins at `at`; 0: there is none. */
static size_t dl__batch_size(const dl_loader *l, size_t at, size_t done)
{
    size_t left = l->count - at, first, n;
    if (l->desc.split == DL_SPLIT_BATCH) {
        size_t begin = done / l->per * l->desc.batch, all = l->data->desc.count;
        if (begin >= all || (l->desc.drop_last && all - begin < l->desc.batch)) return 0;
        int shard = l->desc.rank * (int)l->per + (int)(done % l->per);
        dl_shard(DL__MIN(all - begin, l->desc.batch), shard, l->desc.shards, &first, &n);
        return n;
    }
    return left >= l->desc.batch ? l->desc.batch : l->desc.drop_last ? 0 : left;
}

/* How many samples of an epoch are this rank's. */
static size_t dl__part_count(const dl_loader *l)
{
    size_t n = l->data->desc.count, world = (size_t)l->desc.world, rank = (size_t)l->desc.rank, left = n % world, first;
    if (l->desc.split == DL_SPLIT_ONCE) return n / world + (rank < left);
    if (l->desc.split == DL_SPLIT_PAD) return n / world + (left && !l->desc.drop_last);
    left = n % l->desc.batch;
    return n / l->desc.batch * dl__own_part(l, l->desc.batch, &first) +
        (l->desc.drop_last ? 0 : dl__own_part(l, left, &first));
}

static bool dl__check_split(dl_loader *l)
{
    dl_loader_desc *d = &l->desc;
    const dl_comm *comm = dl_comm_of(l->ctx);
    if (d->world < 0 || (d->world ? d->rank < 0 || d->rank >= d->world : d->rank != 0))
        return dl_fail(l->ctx, "dl_loader_create: rank %d of a world of %d", d->rank, d->world);
    if ((unsigned)d->split > DL_SPLIT_BATCH)
        return dl_fail(l->ctx, "dl_loader_create: there is no way %d to split", (int)d->split);
    if (!d->world) d->rank = dl_comm_rank(comm), d->world = dl_comm_size(comm);
    if (!d->shards && comm) d->shards = comm->world->desc.invariant_shards;
    if (!d->shards || d->split != DL_SPLIT_BATCH) d->shards = d->world;
    size_t all = l->data->desc.count, asked = d->batch ? d->batch : 1;
    if (d->shards < 0 || d->shards % d->world || (d->split == DL_SPLIT_BATCH && asked < (size_t)d->shards))
        return dl_fail(l->ctx,
            "dl_loader_create: batches of %zu samples in %d shards for %d ranks: each needs as many, and one sample",
            asked, d->shards, d->world);
    l->per = (size_t)(d->shards / d->world);
    d->batch = DL__MIN(asked, DL__MAX(all, (size_t)1));
    l->count = dl__part_count(l);
    if (d->drop_last && asked > (d->split == DL_SPLIT_BATCH ? all : l->count))
        return dl_fail(l->ctx, "dl_loader_create: a batch of %zu of %zu samples, with drop_last: there would be none",
            asked, d->split == DL_SPLIT_BATCH ? all : l->count);
    return true;
}

static bool dl__check_augment(dl_loader *l)
{
    const dl_dataset_desc *d = &l->data->desc;
    if (!l->desc.views) l->desc.views = 1;
    if (l->desc.views < 1 || l->desc.views > 2)
        return dl_fail(l->ctx, "dl_loader_create: views %d: there are 1 or 2", l->desc.views);
    if (l->desc.views == 2 && !l->desc.augment)
        return dl_fail(l->ctx, "dl_loader_create: two views are the same without augment");
    if (l->desc.augment && (d->x_dtype != DL_U8 || d->x_shape.ndim != 3))
        return dl_fail(l->ctx, "dl_loader_create: augment takes images of DL_U8 [C,H,W], not %s %H",
            dl__dtype_names[d->x_dtype], &d->x_shape);
    if (l->desc.threads < 0) return dl_fail(l->ctx, "dl_loader_create: %d threads", l->desc.threads);
    return true;
}

static void dl__loader_pool_stop(void *user) { dl__pool_stop((dl__pool *)user); }

/* Buffers of `room` samples, and the threads that fill them. */
static bool dl__loader_room(dl_loader *l, size_t room)
{
    dl_context *ctx = l->ctx;
    const dl_dataset *data = l->data;
    int buffers = 1;
    l->threads = 1;
#ifndef DLTRAIN_NO_THREADS
    if (l->desc.prefetch) buffers = 2;
    if (l->desc.threads > 1) {
        l->pool = (dl__pool *)dl__alloc(ctx, sizeof *l->pool, 0);
        if (!l->pool) return false;
        dl__pool_start(l->pool, l->desc.threads);
        l->threads = l->pool->threads;
        if (!dl__on_destroy(ctx, dl__loader_pool_stop, l->pool)) return dl__pool_stop(l->pool), false;
    }
#endif
    l->bad = (size_t *)dl__alloc(ctx, (size_t)l->threads * sizeof *l->bad, (size_t)l->threads);
    if (l->desc.augment && data->desc.get) l->bytes = (uint8_t *)dl__alloc(ctx, (size_t)l->threads * data->x_numel, 0);
    for (int i = 0; i < buffers && !ctx->failed; i++) {
        dl__fill *f = &l->buffer[i];
        f->x = (char *)dl__alloc(ctx, room * data->x_numel * l->x_size, 0);
        if (!ctx->failed && l->desc.views > 1) f->x2 = (char *)dl__alloc(ctx, room * data->x_numel * l->x_size, 0);
        if (!ctx->failed && !data->desc.no_y) f->y = (char *)dl__alloc(ctx, room * data->y_numel * l->y_size, 0);
    }
    return !ctx->failed;
}

DL_API dl_loader *dl_loader_create(dl_dataset *data, const dl_loader_desc *desc)
{
    if (!data || data->ctx->failed) return NULL;
    dl_context *ctx = data->ctx;
    dl_loader *l = (dl_loader *)dl__alloc(ctx, sizeof *l, 26);
    if (!l) return NULL;
    l->ctx = ctx;
    l->data = data;
    if (desc) l->desc = *desc;
    if (!dl__check_split(l) || !dl__check_augment(l)) return NULL;
    l->x_size = data->desc.x_dtype == DL_U8 ? sizeof(dl_real) : dl__dtype_size(data->desc.x_dtype);
    l->y_size = data->desc.y_dtype == DL_U8 ? sizeof(int32_t) : dl__dtype_size(data->desc.y_dtype);
    size_t room = DL__MIN(l->desc.batch, DL__MAX(l->count, (size_t)1)), most = (size_t)PTRDIFF_MAX / 16 / room;
    if (data->x_numel > most || data->y_numel > most)
        return dl_fail(ctx, "dl_loader_create: batches of %zu samples are larger than memory", room),
               (dl_loader *)NULL;
    l->order = (size_t *)dl__alloc(ctx, data->desc.count * sizeof *l->order, data->desc.count);
    if (!l->order || !dl__loader_room(l, room)) return NULL;
#ifndef DLTRAIN_NO_THREADS
    if (l->desc.prefetch) {
        pthread_mutex_init(&l->mutex, NULL);
        pthread_cond_init(&l->changed, NULL);
        l->threaded = !pthread_create(
            &l->thread, NULL, dl__prefetch, l); /* without a thread the loader works, one batch at a time */
        if (l->threaded && !dl__on_destroy(ctx, dl__prefetch_stop, l)) return dl__prefetch_stop(l), (dl_loader *)NULL;
    }
#endif
    return l;
}

/* Keeps of the order what is this rank's, at its beginning. */
static void dl__take_part(dl_loader *l)
{
    size_t n = l->data->desc.count, world = (size_t)l->desc.world, rank = (size_t)l->desc.rank, to = 0;
    if (l->desc.split == DL_SPLIT_BATCH) {
        for (size_t at = 0, own, first; to < l->count; at += l->desc.batch, to += own) {
            own = dl__own_part(l, DL__MIN(n - at, l->desc.batch), &first);
            memmove(l->order + to, l->order + at + first, own * sizeof *l->order);
        }
        return;
    }
    /* it may wrap: read before it is written over */
    size_t last = l->count ? l->order[((l->count - 1) * world + rank) % n] : 0;
    for (; to + 1 < l->count; to++) l->order[to] = l->order[to * world + rank];
    if (l->count) l->order[to] = last;
}

static void dl__begin_epoch(dl_loader *l)
{
    size_t n = l->data->desc.count;
    l->begun = true;
    l->at = l->done = 0;
    for (size_t i = 0; i < n; i++) l->order[i] = i;
    if (l->desc.torch_order) dl_randperm((uint32_t)(l->ctx->config.seed + l->epoch), l->order, n);
    else if (l->desc.shuffle)
        for (size_t i = n; i-- > 1;) {
            uint32_t u[4];
            dl__philox(dl__key(l->ctx->config.seed, 0x73687566), i, l->epoch, u);
            size_t other = (size_t)(((uint64_t)u[0] << 32 | u[1]) % (i + 1)), t = l->order[i];
            l->order[i] = l->order[other];
            l->order[other] = t;
        }
    if (l->desc.world > 1) dl__take_part(l);
}

static dl_tensor dl__batch_tensor(
    dl_context *ctx, size_t count, const dl_shape *sample, dl_dtype dtype, const void *data)
{
    dl_shape s = *sample;
    for (int i = s.ndim++; i > 0; i--) s.dim[i] = s.dim[i - 1];
    s.dim[0] = (dl_index)count;
    return dl_borrow(ctx, dtype, s, data);
}

DL_API bool dl_next(dl_loader *l, dl_batch *b)
{
    if (!l || l->ctx->failed) return false;
    dl_context *ctx = l->ctx;
    const dl_dataset *d = l->data;
    if (!b) return dl_fail(ctx, "dl_next: batch is NULL");
    if (l->served) dl_end(ctx);
    l->served = false;
    if (ctx->failed) return false;
    if (!l->begun) dl__begin_epoch(l);
    size_t n = dl__batch_size(l, l->at, l->done);
    if (!n) {
        l->begun = false;
        l->epoch++;
        return false;
    }
#ifndef DLTRAIN_NO_THREADS
    if (l->threaded) {
        if (!l->coming) dl__prefetch_ask(l, l->at, n);
        dl__prefetch_take(l);
        size_t next = dl__batch_size(l, l->at + n, l->done + 1);
        l->coming = next &&
            l->buffer[l->current].ok; /* after a failure the thread rests, and the same batch is asked for again */
        if (l->coming) dl__prefetch_ask(l, l->at + n, next);
    } else
#endif
    {
        l->buffer[0].first = l->at;
        l->buffer[0].wanted = n;
        dl__fill_batch(l, &l->buffer[0]);
    }
    const dl__fill *f = &l->buffer[l->current];
    if (!f->ok) {
        const char *why = d->desc.why ? d->desc.why(d->desc.user, f->failed) : NULL;
        return dl_fail(
            ctx, "dl_next: the dataset could not give sample %zu%s%s", f->failed, why ? ": " : "", why ? why : "");
    }
    b->x = dl__batch_tensor(ctx, n, &d->desc.x_shape, d->desc.x_dtype == DL_U8 ? DL_F32 : d->desc.x_dtype, f->x);
    b->x2 = f->x2 ? dl__batch_tensor(ctx, n, &d->desc.x_shape, DL_F32, f->x2) : dl__none();
    b->y = d->desc.no_y
        ? dl__none()
        : dl__batch_tensor(ctx, n, &d->desc.y_shape, d->desc.y_dtype == DL_U8 ? DL_I32 : d->desc.y_dtype, f->y);
    b->count = n;
    b->index = l->order + l->at;
    l->at += n;
    l->done++;
    l->served = true;
    return !ctx->failed;
}

DL_API size_t dl_loader_batches(const dl_loader *l)
{
    if (!l) return 0;
    if (l->desc.split != DL_SPLIT_BATCH)
        return l->desc.drop_last ? l->count / l->desc.batch : (l->count + l->desc.batch - 1) / l->desc.batch;
    size_t n = l->data->desc.count / l->desc.batch * l->per; /* and of the last batch the parts that are not empty */
    if (l->desc.batch < (size_t)l->desc.shards) n = 0;       /* as the only one is the last */
    while (dl__batch_size(l, 0, n)) n++;
    return n;
}

DL_API size_t dl_loader_samples(const dl_loader *l) { return l ? l->count : 0; }

DL_API bool dl_loader_rewind(dl_loader *l, uint64_t epoch)
{
    if (!l || l->ctx->failed) return false;
#ifndef DLTRAIN_NO_THREADS
    if (l->threaded && l->coming) dl__prefetch_take(l); /* what was asked for is not wanted */
    l->coming = false;
#endif
    l->begun = false;
    l->epoch = epoch;
    return true;
}

/* ==== >>learning methods ====
   Tasks weighted by their uncertainty, bags of instances.
   may use: layers, data */
DL_API dl_tensor dl_uncertainty_loss(const dl_task *tasks, int n)
{
    static const double a[] = { 0.5, 1, 1 }, b[] = { 0.5, 0.5, 1 };
    dl_tensor total = dl__none();
    for (int i = 0; i < n && tasks; i++) {
        const dl_task *task = &tasks[i];
        dl_node *loss;
        dl_context *ctx = dl__operands("uncertainty_loss", 1, &task->loss, &loss);
        if (!ctx || !dl__is_float(ctx, "uncertainty_loss", loss)) return dl__none();
        if (loss->numel != 1)
            return dl_fail(ctx, "dl_uncertainty_loss: the loss of task %d must be one number, not %S", i, loss),
                   dl__none();
        if ((unsigned)task->kind > DL_TASK_ABSOLUTE)
            return dl_fail(ctx, "dl_uncertainty_loss: task %d: there is no kind %d", i, (int)task->kind), dl__none();
        if (!(task->start >= 0 && task->start <= FLT_MAX))
            return dl_fail(ctx, "dl_uncertainty_loss: the start of task %d must be positive, or 0 for none, not %g", i,
                       (double)task->start),
                   dl__none();
        double ka = a[task->kind], kb = b[task->kind], start = ka * (double)task->start / kb;
        dl_param_desc d = dl__constant_param(DL_SCALAR, start > 0 ? (float)dl__log_d(start) : 0, false);
        dl_tensor t = dl__parameter(ctx, "uncertainty_loss", task->name, "log_variance", &d);
        dl_tensor weight = dl_mul_scalar(dl_exp(dl_neg(t)), (float)ka), one = dl_reshape(task->loss, DL_SCALAR);
        dl_tensor weighted = dl_mul(weight, one), term = dl_add(weighted, dl_mul_scalar(t, (float)kb));
        total = i ? dl_add(total, term) : term;
    }
    return total;
}

/* ---- pooling by logits. Probabilities near 0 and 1 are carried as logarithms, so that nothing is lost.
   Operands are recorded in statements of their own: compilers differ in the order in which they evaluate arguments,
   and the bits could follow ---- */
static dl_tensor dl__times(dl_tensor x, double a) { return dl__unary(&dl__mul_scalar_op, x, (dl_real)a, 0); }
static dl_tensor dl__plus(dl_tensor x, double a) { return dl__unary(&dl__add_scalar_op, x, (dl_real)a, 0); }
static dl_tensor dl__log_sigmoid(dl_tensor z) { return dl_neg(dl_softplus(dl_neg(z))); }

/* log softplus(z): z - e^z/2 where softplus would vanish. What is not chosen is kept finite, for 0 times inf is NaN. */
static dl_tensor dl__log_softplus(dl_tensor z)
{
    const float edge = -15;
    dl_tensor low = dl_clamp(z, -FLT_MAX, edge), high = dl_clamp(z, edge, FLT_MAX),
              is_low = dl_lt(z, dl__scalar(z.ctx, edge));
    dl_tensor far_down = dl_sub(low, dl__times(dl_exp(low), 0.5)), log = dl_log(dl_softplus(high));
    return dl_where(is_low, far_down, log);
}

/* log(e^s - 1) for s > 0, from s and log s: log s + s/2 + s^2/24 - ... where s is small, else s + log(1 - e^-s).
   It is the logit of 1 - e^-s. */
static dl_tensor dl__log_expm1(dl_tensor s, dl_tensor log_s)
{
    const float edge = 1e-3f;
    dl_tensor low = dl_clamp(s, 0, edge), high = dl_clamp(s, edge, FLT_MAX), is_low = dl_lt(s, dl__scalar(s.ctx, edge));
    dl_tensor half = dl__times(low, 0.5), square = dl__times(dl_square(low), 1.0 / 24);
    dl_tensor series = dl_add(log_s, dl_add(half, square)), rest = dl_log(dl_neg(dl_expm1(dl_neg(high))));
    return dl_where(is_low, series, dl_add(high, rest));
}

/* log(e^s - 1) for s = a sigmoid(z) */
static dl_tensor dl__log_expm1_of_share(dl_tensor z, double a)
{
    dl_tensor s = dl__times(dl_sigmoid(z), a), log_s = dl__plus(dl__log_sigmoid(z), dl__log_d(a));
    return dl__log_expm1(s, log_s);
}

/* The logit of p^r, p = sigmoid(z): p^r = e^-s with s = r softplus(-z). */
static dl_tensor dl__logit_of_power(dl_tensor z, double r)
{
    dl_tensor down = dl_neg(z), s = dl__times(dl_softplus(down), r),
              log_s = dl__plus(dl__log_softplus(down), dl__log_d(r));
    return dl_neg(dl__log_expm1(s, log_s));
}

static dl_tensor dl__bag_sum(dl_tensor logs, dl_tensor offsets)
{
    return dl__segment_logsumexp(DL__WHO_MIL, logs, offsets);
}

static dl_tensor dl__bag_mean(dl_tensor z, dl_tensor offsets) /* the logit of sum p / n: the counts cancel */
{
    dl_tensor p = dl__bag_sum(dl__log_sigmoid(z), offsets), q = dl__bag_sum(dl__log_sigmoid(dl_neg(z)), offsets);
    return dl_sub(p, q);
}

static dl_tensor dl__bag_noisy_or(dl_tensor z, dl_tensor offsets) /* 1 - P = e^-s, s = sum softplus(z) */
{
    dl_tensor s = dl__segment(&dl__segment_sum_op, DL__WHO_MIL, dl_softplus(z), offsets, DL_F32);
    dl_tensor log_s = dl__bag_sum(dl__log_softplus(z), offsets);
    return dl__log_expm1(s, log_s);
}

/* r P = log(1 + A), A = sum(e^rp - 1) / n; r (1 - P) = log(1 + B), B = sum(1 - e^-rq) / sum e^-rq, q = 1 - p:
   softplus of log A and of log B, and the terms of all sums are positive. */
static dl_tensor dl__bag_lse(dl_tensor z, dl_tensor offsets, double r)
{
    dl_tensor down = dl_neg(z), rq = dl__times(dl_sigmoid(down), r), minus = dl_neg(rq);
    dl_tensor log_n = dl__bag_sum(dl__times(z, 0), offsets);
    dl_tensor a = dl_sub(dl__bag_sum(dl__log_expm1_of_share(z, r), offsets), log_n);
    dl_tensor above = dl__bag_sum(dl_add(dl__log_expm1_of_share(down, r), minus), offsets),
              below = dl__bag_sum(minus, offsets);
    dl_tensor b = dl__log_softplus(dl_sub(above, below)), log_rp = dl__log_softplus(a);
    return dl_sub(log_rp, b);
}

/* With s(x) - s(y) = s(x) s(-y) (1 - e^(y-x)), and L(u) = log(e^u - 1): the logit is
   L(a m) - L(a (1-m)) + a (1-m) - a b + log s(a b) - log s(a (1-b)). */
static dl_tensor dl__bag_noisy_and(dl_tensor z, dl_tensor offsets, double a, dl_tensor b)
{
    dl_tensor mean = dl__bag_mean(z, offsets), down = dl_neg(mean), ab = dl__times(b, a),
              rest = dl__plus(dl_neg(ab), a);
    dl_tensor low = dl__log_expm1_of_share(mean, a), high = dl__log_expm1_of_share(down, a);
    dl_tensor at_mean = dl_add(dl_sub(low, high), dl__times(dl_sigmoid(down), a));
    dl_tensor log_low = dl__log_sigmoid(ab), log_high = dl__log_sigmoid(rest);
    dl_tensor at_threshold = dl_sub(dl_sub(log_low, log_high), ab);
    return dl_add(at_mean, at_threshold);
}

DL_API dl_tensor dl_mil_pool(dl_tensor z, dl_tensor offsets, const dl_mil_desc *desc)
{
    dl_node *n[3];
    dl_tensor in[3];
    dl_index i[4];
    dl_shape s;
    if (!dl__segments(DL__WHO_MIL, z, offsets, n, i, &s)) return dl__none();
    dl_context *ctx = z.ctx;
    if (!desc) return dl_fail(ctx, "dl_mil_pool: desc is NULL"), dl__none();
    float r = desc->r != 0 ? desc->r : 5, a = desc->a != 0 ? desc->a : 10;
    if (!(r > 0 && r <= FLT_MAX) || !(a > 0 && a <= FLT_MAX))
        return dl_fail(ctx, "dl_mil_pool: r and a must be positive, not %g and %g", (double)r, (double)a), dl__none();
    switch (desc->pooling) {
    case DL_MIL_MAX: return dl__segment_max(DL__WHO_MIL, z, offsets);
    case DL_MIL_MEAN: return dl__bag_mean(z, offsets);
    case DL_MIL_NOISY_OR: return dl__bag_noisy_or(z, offsets);
    case DL_MIL_ISR: return dl__bag_sum(z, offsets);
    case DL_MIL_GENERALISED_MEAN:
        return dl__logit_of_power(dl__bag_mean(dl__logit_of_power(z, (double)r), offsets), 1 / (double)r);
    case DL_MIL_LSE: return dl__bag_lse(z, offsets, (double)r);
    case DL_MIL_NOISY_AND: break;
    default: return dl_fail(ctx, "dl_mil_pool: there is no pooling %d", (int)desc->pooling), dl__none();
    }
    if (!desc->threshold.ctx)
        return dl_fail(ctx, "dl_mil_pool: noisy-AND needs a threshold: dl_mil_threshold makes one"), dl__none();
    in[0] = z, in[1] = offsets, in[2] = desc->threshold;
    if (!dl__operands("mil_pool", 3, in, n)) return dl__none();
    if (n[2]->ndim && !dl__is_vector(ctx, "mil_pool", "threshold", in[2], n[0]->dim[n[0]->ndim - 1])) return dl__none();
    return dl__bag_noisy_and(z, offsets, (double)a, desc->threshold);
}

DL_API dl_tensor dl_mil_threshold(dl_context *ctx, const char *name, dl_index classes)
{
    if (!ctx || ctx->failed) return dl__none();
    if (classes < 1)
        return dl_fail(ctx, "dl_mil_threshold: %td classes; there must be one at least", classes), dl__none();
    dl_param_desc d = dl__constant_param(DL_SHAPE(classes), 0, false);
    return dl_sigmoid(dl__parameter(ctx, "mil_threshold", name, "threshold", &d));
}

DL_API dl_tensor dl_mil_attention(
    dl_tensor h, dl_tensor offsets, const char *name, const dl_mil_attention_desc *desc, dl_tensor *weights)
{
    dl_node *n[2];
    dl_index i[4];
    dl_shape s;
    dl_linear_desc w;
    if (weights) *weights = dl__none();
    if (!dl__segments(DL__WHO_MIL_ATTENTION, h, offsets, n, i, &s)) return dl__none();
    dl_context *ctx = h.ctx;
    if (n[0]->ndim != 2) return dl_fail(ctx, "dl_mil_attention: takes [R,D], not %S", n[0]), dl__none();
    if (!desc || desc->hidden < 1)
        return dl_fail(ctx, "dl_mil_attention: hidden must be positive, not %td", desc ? desc->hidden : (dl_index)0),
               dl__none();
    w.out_features = 1;
    w.no_bias = true; /* the softmax would not see it */
    if (!dl_scope_begin(ctx, name)) return dl__none();
    dl_tensor u = dl_tanh(dl_linear(h, "V", desc->hidden));
    if (desc->gated) u = dl_mul(u, dl_sigmoid(dl_linear(h, "U", desc->hidden)));
    dl_tensor a = dl__segment_softmax(DL__WHO_MIL_ATTENTION, dl_linear_ex(u, "w", &w), offsets);
    dl_scope_end(ctx);
    if (weights) *weights = a;
    return dl_segment_sum(dl_mul(a, h), offsets);
}

/* ---- bags ---- */
/* Adds the instances of the bags to *rows. */
static bool dl__check_bags(dl_context *ctx, const dl_bags *bags, const size_t *index, size_t n, size_t *rows)
{
    if (!bags || !bags->offset || (!index && n))
        return dl_fail(ctx, "dl_bags_input: bags, their offsets or the index are NULL");
    if ((unsigned)bags->dtype > DL_U8) return dl_fail(ctx, "dl_bags_input: there is no dtype %d", (int)bags->dtype);
    for (size_t k = 0; k < n; k++) {
        if (index[k] >= bags->count)
            return dl_fail(ctx, "dl_bags_input: there is no bag %zu of %zu", index[k], bags->count);
        size_t from = bags->offset[index[k]], to = bags->offset[index[k] + 1];
        if (to <= from) return dl_fail(ctx, "dl_bags_input: bag %zu has no instances", index[k]);
        for (size_t r = from; r < to; r++)
            if ((bags->row ? bags->row[r] : r) >= bags->instances)
                return dl_fail(ctx, "dl_bags_input: bag %zu wants instance %zu of %zu", index[k],
                    bags->row ? bags->row[r] : r, bags->instances);
        if (to - from > (size_t)INT32_MAX - *rows)
            return dl_fail(ctx, "dl_bags_input: more than %d instances", (int)INT32_MAX);
        *rows += to - from;
    }
    return true;
}

DL_API bool dl_bags_input(
    dl_context *ctx, const dl_bags *bags, const size_t *index, size_t n, dl_tensor *x, dl_tensor *offsets)
{
    size_t rows = 0, numel, all, done = 0;
    if (x) *x = dl__none();
    if (offsets) *offsets = dl__none();
    if (!ctx || ctx->failed) return false;
    if (!x || !offsets) return dl_fail(ctx, "dl_bags_input: no place for x or the offsets");
    if (!dl__check_bags(ctx, bags, index, n, &rows) || !dl__count(ctx, "bags_input", &bags->shape, &numel))
        return false;
    if (bags->shape.ndim == DLTRAIN_MAX_DIMS)
        return dl_fail(
            ctx, "dl_bags_input: instances need one dimension more; DLTRAIN_MAX_DIMS is %d", DLTRAIN_MAX_DIMS);
    if (!bags->x && rows && numel) return dl_fail(ctx, "dl_bags_input: the instances are NULL");
    dl_shape s = bags->shape;
    for (int i = s.ndim++; i > 0; i--) s.dim[i] = s.dim[i - 1];
    s.dim[0] = (dl_index)rows;
    if (!dl__count(ctx, "bags_input", &s, &all)) return false;
    bool bytes = bags->dtype == DL_U8;
    size_t from_size = numel * dl__dtype_size(bags->dtype), to_size = bytes ? numel * sizeof(dl_real) : from_size;
    dl__begin_step(ctx);
    char *to = (char *)dl__tape_alloc(ctx, rows * to_size, 0);
    int32_t *offset = (int32_t *)dl__tape_alloc(ctx, (n + 1) * sizeof *offset, 0);
    if (!to || !offset) return false;
    offset[0] = 0;
    for (size_t k = 0; k < n; k++) {
        for (size_t r = bags->offset[index[k]]; r < bags->offset[index[k] + 1]; r++, done++) {
            const uint8_t *from = (const uint8_t *)bags->x + (bags->row ? bags->row[r] : r) * from_size;
            if (!bytes && from_size) memcpy(to + done * to_size, from, from_size);
            for (size_t i = 0; bytes && i < numel; i++)
                ((dl_real *)(void *)to)[done * numel + i] = (dl_real)from[i] / 255;
        }
        offset[k + 1] = (int32_t)done;
    }
    *x = dl_borrow(ctx, bytes ? DL_F32 : bags->dtype, s, to);
    *offsets = dl_borrow(ctx, DL_I32, DL_SHAPE((dl_index)n + 1), offset);
    return !ctx->failed;
}

/* Patches along an image's side; 0 when it is too short. */
static dl_index dl__tiles_along(dl_index length, const dl_tiling *t)
{
    return t->size < 1 || t->stride < 1 || length < t->size ? 0 : (length - t->size + t->stride - 1) / t->stride + 1;
}

DL_API size_t dl_tile_count(const dl_tiling *t)
{
    if (!t || t->image.ndim != 3 || t->image.dim[0] < 1) return 0;
    return (size_t)dl__tiles_along(t->image.dim[1], t) * (size_t)dl__tiles_along(t->image.dim[2], t);
}

DL_API bool dl_tile_at(const dl_tiling *t, size_t k, dl_index *top, dl_index *left)
{
    if (k >= dl_tile_count(t) || !top || !left) return false;
    dl_index across = dl__tiles_along(t->image.dim[2], t);
    *top = DL__MIN((dl_index)k / across * t->stride, t->image.dim[1] - t->size);
    *left = DL__MIN((dl_index)k % across * t->stride, t->image.dim[2] - t->size);
    return true;
}

DL_API bool dl_tile_copy(const dl_tiling *t, size_t k, const uint8_t *image, uint8_t *patch)
{
    dl_index top, left;
    if (!image || !patch || !dl_tile_at(t, k, &top, &left)) return false;
    for (dl_index c = 0; c < t->image.dim[0]; c++)
        for (dl_index y = 0; y < t->size; y++, patch += t->size)
            memcpy(patch, image + ((c * t->image.dim[1] + top + y) * t->image.dim[2] + left), (size_t)t->size);
    return true;
}

#ifndef DLTRAIN_NO_FILES
/* ==== >>files ====
   IDX, safetensors, curves. Every reader takes its file for hostile.
   may use: data */
static FILE *dl__open(dl_context *ctx, const char *who, const char *path, const char *mode)
{
    if (!path) return dl_fail(ctx, "dl_%s: the path is NULL", who), (FILE *)NULL;
    FILE *f = fopen(path, mode);
    if (f) return f;
    char packed[512];
    snprintf(packed, sizeof packed, "%.500s.gz", path);
    FILE *g = *mode == 'r' ? fopen(packed, "rb") : NULL;
    if (g) {
        fclose(g);
        dl_fail(ctx, "dl_%s: '%s' is not there, but '%s' is: unpack it with gunzip", who, path, packed);
    } else dl_fail(ctx, "dl_%s: cannot open '%s' for %s", who, path, *mode == 'r' ? "reading" : "writing");
    return NULL;
}

static uint64_t dl__file_size(FILE *f) /* and back to the start; UINT64_MAX when it has none */
{
    if (fseek(f, 0, SEEK_END)) return UINT64_MAX;
    long n = ftell(f);
    rewind(f);
    return n < 0 ? UINT64_MAX : (uint64_t)n;
}

static uint32_t dl__big_word(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* ---- IDX: 0 0 type dimensions, sizes in big-endian words, bytes ---- */
typedef struct dl__idx { const uint8_t *bytes; size_t count; dl_shape sample; } dl__idx;

static bool dl__read_idx(dl_context *ctx, const char *path, bool labels, dl__idx *out)
{
    uint8_t head[4], word[4];
    FILE *f = dl__open(ctx, "open_idx", path, "rb");
    if (!f) return false;
    uint64_t size = dl__file_size(f), numel = 1, per = 1;
    const char *wrong = NULL;
    memset(out, 0, sizeof *out);
    out->sample = DL_SCALAR;
    if (fread(head, 1, 4, f) != 4) wrong = "it is too short for an IDX header";
    else if (head[0] == 0x1f && head[1] == 0x8b) wrong = "it is packed: unpack it with gunzip";
    else if (head[0] || head[1] || head[3] < 1 || head[3] > 4) wrong = "it does not begin like an IDX file";
    else if (head[2] != 8) wrong = "its elements are not bytes (type 8)";
    else if (labels && head[3] != 1) wrong = "labels have one dimension";
    for (int i = 0; !wrong && i < head[3]; i++) {
        if (fread(word, 1, 4, f) != 4) wrong = "it is too short for an IDX header";
        uint64_t n = dl__big_word(word);
        if (!wrong && n && numel > size / n) wrong = "its header claims more bytes than it has";
        if (!wrong && i && n && per > (uint64_t)PTRDIFF_MAX / 8 / n) wrong = "its samples are larger than memory";
        numel *= n;
        if (i) per *= n;
        if (i == 0) out->count = (size_t)n;
        else out->sample.dim[out->sample.ndim++] = (dl_index)n;
    }
    if (!wrong && !numel && out->count) wrong = "its samples are empty";
    if (!wrong && numel + 4 + 4 * (uint64_t)head[3] != size) wrong = "its size differs from what its header says";
    if (wrong) {
        fclose(f);
        return dl_fail(ctx, "dl_open_idx: '%s': %s", path, wrong);
    }
    if (!labels && out->sample.ndim == 2) out->sample = DL_SHAPE(1, out->sample.dim[0], out->sample.dim[1]);
    uint8_t *bytes = (uint8_t *)dl__alloc(ctx, (size_t)numel, 0);
    bool ok = bytes && fread(bytes, 1, (size_t)numel, f) == numel;
    fclose(f);
    if (!ok) return dl_fail(ctx, "dl_open_idx: '%s' could not be read", path);
    out->bytes = bytes;
    return true;
}

DL_API dl_dataset *dl_open_idx(dl_context *ctx, const char *images, const char *labels)
{
    dl__idx x, y;
    dl_dataset_desc d;
    if (!ctx || ctx->failed || !dl__read_idx(ctx, images, false, &x)) return NULL;
    memset(&d, 0, sizeof d);
    d.count = x.count;
    d.x_dtype = d.y_dtype = DL_U8;
    d.x_shape = x.sample;
    d.x = x.bytes;
    d.no_y = !labels;
    if (labels) {
        if (!dl__read_idx(ctx, labels, true, &y)) return NULL;
        if (y.count != x.count)
            return dl_fail(ctx, "dl_open_idx: '%s' has %zu images, '%s' %zu labels", images, x.count, labels, y.count),
                   (dl_dataset *)NULL;
        d.y = y.bytes;
    }
    return dl_dataset_create(ctx, &d);
}

/* ---- CIFAR: records of one or two labels and an image, nothing else ---- */
enum { DL__CIFAR_IMAGE = 3 * 32 * 32 };
typedef struct dl__cifar { uint8_t *records; size_t record, label; } dl__cifar;

static bool dl__cifar_get(void *user, size_t index, void *x, void *y)
{
    const dl__cifar *c = (const dl__cifar *)user;
    const uint8_t *p = c->records + index * c->record;
    memcpy(x, p + c->record - DL__CIFAR_IMAGE, DL__CIFAR_IMAGE);
    *(uint8_t *)y = p[c->label];
    return true;
}

/* Records of one file, at `to`, or with `to` NULL only how many. */
static bool dl__read_cifar(
    dl_context *ctx, const char *path, int classes, const dl__cifar *c, uint8_t *to, size_t *count)
{
    FILE *f = dl__open(ctx, "open_cifar", path, "rb");
    if (!f) return false;
    uint64_t size = dl__file_size(f);
    bool packed = size != UINT64_MAX && fgetc(f) == 0x1f && fgetc(f) == 0x8b;
    bool whole = size && size != UINT64_MAX && size % c->record == 0;
    rewind(f);
    if (!whole)
        dl_fail(ctx, "dl_open_cifar: '%s': %s records of %zu bytes, as CIFAR-%d has them", path,
            packed ? "it is packed, unpack it: then it has" : "its size is not that of", c->record,
            c->record % 2 ? 10 : 100);
    else if (to && (size / c->record != *count || fread(to, 1, (size_t)size, f) != size))
        dl_fail(ctx, "dl_open_cifar: '%s' could not be read", path);
    fclose(f);
    if (ctx->failed) return false;
    *count = (size_t)(size / c->record);
    for (size_t i = 0; to && i < *count; i++)
        if (to[i * c->record + c->label] >= classes)
            return dl_fail(ctx, "dl_open_cifar: '%s': record %zu has class %d, there are %d", path, i,
                (int)to[i * c->record + c->label], classes);
    return true;
}

DL_API dl_dataset *dl_open_cifar(dl_context *ctx, const char *const *paths, int n, int classes)
{
    dl_dataset_desc d;
    size_t total = 0, count = 0;
    if (!ctx || ctx->failed) return NULL;
    if (!paths || n < 1) return dl_fail(ctx, "dl_open_cifar: no files are given"), (dl_dataset *)NULL;
    if (classes != 10 && classes != 20 && classes != 100)
        return dl_fail(ctx, "dl_open_cifar: %d classes: CIFAR-10 has 10, CIFAR-100 100, or 20 coarse ones", classes),
               (dl_dataset *)NULL;
    dl__cifar *c = (dl__cifar *)dl__alloc(ctx, sizeof *c, 3);
    if (!c) return NULL;
    c->record = DL__CIFAR_IMAGE + (classes == 10 ? 1 : 2);
    c->label = classes == 100;
    for (int i = 0; i < n; i++, total += count) {
        if (!dl__read_cifar(ctx, paths[i], classes, c, NULL, &count)) return NULL;
        if (count > (size_t)PTRDIFF_MAX / 2 / c->record - total)
            return dl_fail(ctx, "dl_open_cifar: '%s': the files are larger than memory", paths[i]), (dl_dataset *)NULL;
    }
    c->records = (uint8_t *)dl__alloc(ctx, total * c->record, 0);
    for (size_t i = 0, at = 0; c->records && i < (size_t)n; i++, at += count) {
        if (!dl__read_cifar(ctx, paths[i], classes, c, NULL, &count)) return NULL;
        if (count > total - at) return dl_fail(ctx, "dl_open_cifar: '%s' has changed", paths[i]), (dl_dataset *)NULL;
        if (!dl__read_cifar(ctx, paths[i], classes, c, c->records + at * c->record, &count)) return NULL;
    }
    memset(&d, 0, sizeof d);
    d.count = total;
    d.x_dtype = d.y_dtype = DL_U8;
    d.x_shape = DL_SHAPE(3, 32, 32);
    d.get = dl__cifar_get;
    d.user = c;
    return c->records ? dl_dataset_create(ctx, &d) : NULL;
}

/* ---- safetensors: u64 header length, JSON, data; all little-endian ---- */
static void dl__put_little(uint8_t *to, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) to[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t dl__get_little(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

/* Numbers of any dtype a checkpoint may hold, from and to little-endian bytes. */
static dl_real dl__decode_real(const uint8_t *p, char kind)
{
    if (kind == 'd') {
        uint64_t u = dl__get_little(p, 8);
        double d;
        memcpy(&d, &u, 8);
        return (dl_real)d;
    }
    if (kind == 'f') return (dl_real)dl__from_bits((uint32_t)dl__get_little(p, 4));
    uint32_t h = (uint32_t)dl__get_little(p, 2);
    if (kind == 'b') return (dl_real)dl__from_bits(h << 16); /* bfloat16 */
    uint32_t e = h >> 10 & 31, m = h & 1023, sign = (h & 0x8000) << 16; /* half */
    if (e == 31) return (dl_real)dl__from_bits(sign | 0x7f800000u | m << 13);
    if (e) return (dl_real)dl__from_bits(sign | (e + 112) << 23 | m << 13);
    return (dl_real)((sign ? -1.0f : 1.0f) * (float)m * 5.9604644775390625e-8f);
}

/* The dtypes of safetensors; kind 0: none that is read here. */
static const struct { const char *name; char kind; int size; } dl__kinds[] = {
    { "F64", 'd', 8 },
    { "F32", 'f', 4 },
    { "F16", 'h', 2 },
    { "BF16", 'b', 2 },
    { "I64", 'l', 8 },
    { "U64", 0, 8 },
    { "I32", 'i', 4 },
    { "U32", 0, 4 },
    { "I16", 0, 2 },
    { "U16", 0, 2 },
    { "I8", 0, 1 },
    { "U8", 'c', 1 },
    { "BOOL", 0, 1 },
    { "F8_E5M2", 0, 1 },
    { "F8_E4M3", 0, 1 },
};
enum { DL__REAL_KIND = sizeof(dl_real) == 4 ? 'f' : 'd' };
static bool dl__kind_is_real(char kind) { return kind == 'd' || kind == 'f' || kind == 'h' || kind == 'b'; }

typedef struct dl__entry {
    const char *name;
    dl_shape shape;
    uint64_t begin, end;
    size_t numel;
    char kind;
    int size;
} dl__entry;

/* A file of tensors on its way, piece by piece. Who has pieces hands each to dl__piece, in the same order in every
   phase: to measure the header, to write it and to write the data; or to check that a file has just these pieces,
   and to read them. */
typedef enum dl__phase { DL__MEASURE, DL__HEAD, DL__WRITE, DL__CHECK, DL__READ } dl__phase;
typedef struct dl__io {
    dl_context *ctx;
    const char *who, *path;
    FILE *file;
    dl_comm *comm;           /* rank 0 reads for all */
    dl__phase phase;
    bool ok;
    uint64_t at, length;     /* bytes of data so far, and of the header */
    uint64_t hash;           /* of what was written so far */
    dl__entry *entry;        /* what a file that is read has, in the order of its data, and where that begins */
    size_t entries, next;
    uint64_t data;
} dl__io;

static uint64_t dl__hash_bytes(uint64_t h, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
    return h;
}

static void dl__io_write(dl__io *io, const void *bytes, size_t n)
{
    io->ok = io->ok && fwrite(bytes, 1, n, io->file) == n;
    io->hash = dl__hash_bytes(io->hash, bytes, n);
}

static void dl__io_head(dl__io *io, const char *text, int n)
{
    io->length += (uint64_t)n;
    if (io->phase == DL__HEAD) dl__io_write(io, text, (size_t)n);
}

static void dl__write_piece(
    dl__io *io, const char *name, size_t kind, const dl_shape *shape, const void *data, size_t numel)
{
    char entry[DLTRAIN_NAME_MAX + 400];
    uint8_t buffer[4096];
    size_t size = (size_t)dl__kinds[kind].size;
    if (io->phase != DL__WRITE) {
        int n = snprintf(entry, sizeof entry, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", name, dl__kinds[kind].name);
        for (int d = 0; d < shape->ndim; d++)
            n += snprintf(entry + n, sizeof entry - (size_t)n, d ? ",%lld" : "%lld", (long long)shape->dim[d]);
        n += snprintf(entry + n, sizeof entry - (size_t)n, "],\"data_offsets\":[%llu,%llu]}",
            (unsigned long long)io->at, (unsigned long long)(io->at + numel * size));
        io->at += numel * size;
        dl__io_head(io, entry, n);
        return;
    }
    for (size_t k = 0, n; k < numel; k += n) {
        n = DL__MIN(numel - k, sizeof buffer / size);
        for (size_t j = 0; j < n; j++) {
            const char *from = (const char *)data + (k + j) * size;
            uint64_t u;
            uint32_t w;
            if (size == 8) memcpy(&u, from, 8);
            else if (size == 4) memcpy(&w, from, 4), u = w;
            else u = *(const uint8_t *)from;
            dl__put_little(buffer + j * size, u, (int)size);
        }
        dl__io_write(io, buffer, n * size);
    }
}

/* Bytes `from` on of the file that is read. */
static bool dl__fetch(dl__io *io, uint64_t from, void *to, size_t n)
{
    if (!n) return true;
    if (!dl_comm_rank(io->comm) && (fseek(io->file, (long)from, SEEK_SET) || fread(to, 1, n, io->file) != n))
        return dl_fail(io->ctx, "dl_%s: '%s' could not be read to its end", io->who, io->path);
    return dl_broadcast(io->comm, to, n, 0);
}

static bool dl__read_piece(dl__io *io, const char *name, size_t kind, const dl_shape *shape, void *data, size_t numel)
{
    size_t size = (size_t)dl__kinds[kind].size;
    const dl__entry *e = io->next < io->entries ? &io->entry[io->next++] : NULL;
    if (!e || strcmp(e->name, name))
        return dl_fail(io->ctx, "dl_%s: '%s' has %s%s%s where the program has '%s'", io->who, io->path,
            e ? "'" : "its end", e ? e->name : "", e ? "'" : "", name);
    if (e->shape.ndim != shape->ndim || memcmp(e->shape.dim, shape->dim, sizeof *shape->dim * (size_t)shape->ndim))
        return dl_fail(io->ctx, "dl_%s: '%s': '%s' is %H in the file and %H in the program", io->who, io->path, name,
            &e->shape, shape);
    if (e->kind != dl__kinds[kind].kind)
        return dl_fail(io->ctx, "dl_%s: '%s': '%s' is not %s, which the program has", io->who, io->path, name,
            dl__kinds[kind].name);
    if (io->phase == DL__CHECK) return true;
    if (!dl__fetch(io, io->data + e->begin, data, numel * size)) return false;
    for (size_t k = 0; size > 1 && k < numel; k++) { /* from little-endian, in place */
        char *at = (char *)data + k * size;
        uint64_t u = dl__get_little((const uint8_t *)at, (int)size);
        uint32_t w = (uint32_t)u;
        if (size == 8) memcpy(at, &u, 8);
        else memcpy(at, &w, 4);
    }
    return true;
}

/* `group` and `name` with a '|' between them, or `name` alone: no parameter's name has a '|'. */
static bool dl__piece(dl__io *io, const char *group, const char *name, char kind, const dl_shape *shape, void *data)
{
    char full[DLTRAIN_NAME_MAX + 64];
    size_t k = 0, numel = 1;
    while (dl__kinds[k].kind != kind) k++;
    for (int d = 0; d < shape->ndim; d++) numel *= (size_t)shape->dim[d];
    snprintf(full, sizeof full, "%s%s%s", group ? group : "", group ? "|" : "", name);
    if (io->phase <= DL__WRITE) dl__write_piece(io, full, k, shape, data, numel);
    else io->ok = io->ok && dl__read_piece(io, full, k, shape, data, numel);
    return io->ok;
}

/* The whole file: what `visit` hands over. The metadata are members of a JSON object. */
static bool dl__write_pieces(
    dl__io *io, const char *metadata, void (*visit)(dl__io *io, const void *user), const void *user)
{
    uint8_t word[8];
    char head[512];
    int n = snprintf(head, sizeof head, "{\"__metadata__\":{%s}", metadata);
    uint64_t whole = 0;
    io->ok = true;
    for (int phase = DL__MEASURE; phase <= DL__WRITE; phase++) {
        io->phase = (dl__phase)phase;
        if (phase == DL__HEAD) {
            whole = (io->length + 7) / 8 * 8;
            dl__put_little(word, whole, 8);
            io->ok = fwrite(word, 1, 8, io->file) == 8;
            io->hash = dl__hash_text("");
        }
        if (phase != DL__WRITE) {
            io->at = io->length = 0;
            dl__io_head(io, head, n);
        }
        visit(io, user);
        if (phase != DL__WRITE) dl__io_head(io, "}", 1);
        while (phase == DL__HEAD && io->length < whole) dl__io_head(io, " ", 1);
    }
    return io->ok;
}

static void dl__visit_matching(dl__io *io, const void *pattern)
{
    dl_context *ctx = io->ctx;
    for (int i = 0; i < ctx->params; i++) {
        const dl__param *p = &ctx->param[i];
        if (!dl_glob((const char *)pattern, p->name)) continue;
        dl__piece(io, NULL, p->name, DL__REAL_KIND, &p->shape, (p->buffer ? ctx->buffers : ctx->values) + p->offset);
    }
}

/* So that a name given survives a loss of power. Some file systems refuse it for folders: they are as they are. */
static void dl__sync_folder(const char *path)
{
#if defined(_POSIX_VERSION)
    char folder[1024];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= sizeof folder) return;
    memcpy(folder, path, n);
    folder[n] = 0;
    int file = open(n ? folder : slash ? "/" : ".", O_RDONLY);
    if (file < 0) return;
    (void)fsync(file);
    close(file);
#else
    (void)path;
#endif
}

/* The name of a file and, for back 1, 2, ..., of those that it replaced. */
static const char *dl__version(char *out, size_t size, const char *path, int back)
{
    int n = back ? snprintf(out, size, "%s.%d", path, back) : snprintf(out, size, "%s", path);
    return n > 0 && (size_t)n < size ? out : path;
}

/* Closes the temporary file, flushed to the disk, and gives it its name; or removes it. Of those before,
   keep - 1 stay: path.1, ... */
static bool dl__commit(
    dl_context *ctx, const char *who, FILE *f, bool ok, const char *temporary, const char *path, int keep)
{
    char from[1040], to[1040];
    ok = !fclose(f) && ok;
#if defined(_POSIX_VERSION)
    int file = ok ? open(temporary, O_RDONLY) : -1; /* fileno hides from a strict -std=c99 */
    ok = file >= 0 && !fsync(file);
    if (file >= 0) close(file);
#endif
    for (int i = keep - 1; ok && i > 0; i--) {
        dl__version(from, sizeof from, path, i - 1);
        dl__version(to, sizeof to, path, i);
#if defined(_WIN32)
        remove(to);
#endif
        (void)rename(from, to); /* there may be none */
    }
#if defined(_WIN32)
    if (ok) remove(path);
#endif
    if (ok && !rename(temporary, path)) return dl__sync_folder(path), true;
    remove(temporary);
    return dl_fail(ctx, "dl_%s: '%s' could not be written; is the disk full?", who, path);
}

static FILE *dl__open_temporary(dl_context *ctx, const char *who, const char *path, char *temporary, size_t size)
{
    if (path && (size_t)snprintf(temporary, size, "%s.tmp", path) >= size)
        return dl_fail(ctx, "dl_%s: the path '%s' is too long", who, path), (FILE *)NULL;
    FILE *f = path ? fopen(temporary, "wb") : NULL;
    if (!path) dl_fail(ctx, "dl_%s: the path is NULL", who);
    else if (!f) dl_fail(ctx, "dl_%s: cannot write '%s': is its folder there?", who, path);
    return f;
}

static bool dl__save(dl_context *ctx, const char *who, const char *path, const char *pattern)
{
    char temporary[1024];
    if (!ctx || ctx->failed) return false;
    if (!pattern) return dl_fail(ctx, "dl_%s: the pattern is NULL", who);
    if (strcmp(pattern, "*") && !dl__matches(ctx, who, pattern)) return false;
    if (!dl__lay_out(ctx) || !dl__all_to_host(ctx, false)) return false;
    FILE *f = dl__open_temporary(ctx, who, path, temporary, sizeof temporary);
    dl__io io;
    memset(&io, 0, sizeof io);
    io.ctx = ctx;
    io.file = f;
    return f &&
        dl__commit(ctx, who, f, dl__write_pieces(&io, "\"format\":\"pt\"", dl__visit_matching, pattern), temporary,
            path, 1);
}
DL_API bool dl_save(dl_context *ctx, const char *path) { return dl__save(ctx, "save", path, "*"); }
DL_API bool dl_save_matching(dl_context *ctx, const char *path, const char *pattern)
{
    return dl__save(ctx, "save_matching", path, pattern);
}

typedef struct dl__json { char *at; const char *wrong; } dl__json;

static bool dl__json_wrong(dl__json *j, const char *why)
{
    if (!j->wrong) j->wrong = why;
    return false;
}

static char dl__json_peek(dl__json *j)
{
    while (*j->at == ' ' || *j->at == '\n' || *j->at == '\r' || *j->at == '\t') j->at++;
    return *j->at;
}

static bool dl__json_is(dl__json *j, char c)
{
    if (dl__json_peek(j) != c) return false;
    j->at++;
    return true;
}

static bool dl__json_need(dl__json *j, char c)
{
    return dl__json_is(j, c) || dl__json_wrong(j, "its header is not the JSON of safetensors");
}

/* Four hexadecimal digits after \u; 0 when there are none. */
static uint32_t dl__json_hex(dl__json *j)
{
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char c = *++j->at;
        int digit = c >= '0' && c <= '9' ? c - '0'
            : c >= 'a' && c <= 'f'       ? c - 'a' + 10
            : c >= 'A' && c <= 'F'       ? c - 'A' + 10
                                         : -1;
        if (digit < 0) return j->at--, 0;
        v = v << 4 | (uint32_t)digit;
    }
    return v;
}

/* \uXXXX, or two of them for what lies beyond 16 bits, as UTF-8: never longer than its text. */
static char *dl__json_unicode(dl__json *j, char *to)
{
    uint32_t v = dl__json_hex(j);
    if (v >= 0xd800 && v < 0xdc00 && j->at[1] == '\\' && j->at[2] == 'u') {
        j->at += 2;
        uint32_t low = dl__json_hex(j);
        v = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00) : 0;
    }
    if (!v || (v >= 0xd800 && v < 0xe000))
        return dl__json_wrong(j, "a string of its header has an escape that is no character"), (char *)NULL;
    if (v < 0x80) *to++ = (char)v;
    else if (v < 0x800) *to++ = (char)(0xc0 | v >> 6);
    else if (v < 0x10000) *to++ = (char)(0xe0 | v >> 12);
    else *to++ = (char)(0xf0 | v >> 18);
    for (int shift = v < 0x80 ? -6 : v < 0x800 ? 0 : v < 0x10000 ? 6 : 12; shift >= 0; shift -= 6)
        *to++ = (char)(0x80 | (v >> shift & 63));
    return to;
}

/* A string, decoded where it lies and ended with 0. NULL when there is none. */
static char *dl__json_string(dl__json *j)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    if (!dl__json_need(j, '"')) return NULL;
    char *start = j->at, *to = start;
    for (; *j->at && *j->at != '"'; j->at++) {
        char c = *j->at;
        if ((unsigned char)c < 32)
            return dl__json_wrong(j, "a string of its header has a control character"), (char *)NULL;
        if (c == '\\' && *++j->at == 'u') {
            to = dl__json_unicode(j, to);
            if (!to) return NULL;
            continue;
        }
        if (c == '\\') {
            const char *known = *j->at ? strchr(from, *j->at) : NULL;
            if (!known)
                return dl__json_wrong(j, "a string of its header has an escape that JSON does not know"), (char *)NULL;
            c = into[known - from];
        }
        *to++ = c;
    }
    if (!*j->at) return dl__json_wrong(j, "a string of its header does not end"), (char *)NULL;
    j->at++;
    *to = 0;
    return start;
}

static bool dl__json_number(dl__json *j, uint64_t *out)
{
    char c = dl__json_peek(j);
    *out = 0;
    if (c < '0' || c > '9') return dl__json_wrong(j, "its header needs a whole number where there is none");
    for (; *j->at >= '0' && *j->at <= '9'; j->at++) {
        if (*out > (UINT64_MAX - 9) / 10) return dl__json_wrong(j, "a number of its header is too large");
        *out = *out * 10 + (uint64_t)(*j->at - '0');
    }
    return true;
}

static bool dl__json_kind(dl__json *j, const char *name, dl__entry *e)
{
    for (size_t i = 0; name && i < DL__COUNT_OF(dl__kinds); i++)
        if (!strcmp(name, dl__kinds[i].name)) {
            e->kind = dl__kinds[i].kind;
            e->size = dl__kinds[i].size;
            return true;
        }
    return dl__json_wrong(j, "it has a dtype that is not known here");
}

static bool dl__json_tensor(dl__json *j, dl__entry *e)
{
    unsigned seen = 0;
    uint64_t n, numel = 1;
    if (!dl__json_need(j, '{')) return false;
    do {
        const char *key = dl__json_string(j);
        if (!key || !dl__json_need(j, ':')) return false;
        unsigned bit = !strcmp(key, "dtype") ? 1u : !strcmp(key, "shape") ? 2u : !strcmp(key, "data_offsets") ? 4u : 0u;
        if (!bit || seen & bit)
            return dl__json_wrong(j, "a tensor of its header has a field twice or one that is not known");
        seen |= bit;
        if (bit == 1 && !dl__json_kind(j, dl__json_string(j), e)) return false;
        if (bit == 2) {
            if (!dl__json_need(j, '[')) return false;
            while (!dl__json_is(j, ']')) {
                if (e->shape.ndim && !dl__json_need(j, ',')) return false;
                if (e->shape.ndim == DLTRAIN_MAX_DIMS)
                    return dl__json_wrong(j, "a tensor has more dimensions than DLTRAIN_MAX_DIMS");
                if (!dl__json_number(j, &n)) return false;
                if (n > (uint64_t)PTRDIFF_MAX || (n && numel > (uint64_t)PTRDIFF_MAX / 8 / n))
                    return dl__json_wrong(j, "a tensor is larger than memory");
                e->shape.dim[e->shape.ndim++] = (dl_index)n;
                numel *= n;
            }
        }
        if (bit == 4 &&
            !(dl__json_need(j, '[') && dl__json_number(j, &e->begin) && dl__json_need(j, ',') &&
                dl__json_number(j, &e->end) && dl__json_need(j, ']')))
            return false;
    } while (dl__json_is(j, ','));
    e->numel = (size_t)numel;
    if (!dl__json_need(j, '}')) return false;
    if (seen != 7) return dl__json_wrong(j, "a tensor of its header lacks dtype, shape or data_offsets");
    return e->end >= e->begin && e->end - e->begin == numel * (uint64_t)e->size
        ? true
        : dl__json_wrong(j, "the offsets of a tensor do not fit its shape and dtype");
}

/* Reads the header into entries (at most `most`) and counts them. */
static bool dl__json_header(dl__json *j, dl__entry *entry, size_t most, size_t *count)
{
    bool metadata = false;
    *count = 0;
    if (!dl__json_need(j, '{')) return false;
    if (!dl__json_is(j, '}')) {
        do {
            const char *name = dl__json_string(j);
            if (!name || !dl__json_need(j, ':')) return false;
            if (!strcmp(name, "__metadata__")) {
                if (metadata) return dl__json_wrong(j, "it has __metadata__ twice");
                metadata = true;
                if (!dl__json_need(j, '{')) return false;
                if (dl__json_is(j, '}')) continue;
                do
                    if (!dl__json_string(j) || !dl__json_need(j, ':') || !dl__json_string(j)) return false;
                while (dl__json_is(j, ','));
                if (!dl__json_need(j, '}')) return false;
                continue;
            }
            if (*count == most) return dl__json_wrong(j, "its header is not the JSON of safetensors");
            dl__entry *e = &entry[*count];
            memset(e, 0, sizeof *e);
            e->shape = DL_SCALAR;
            e->name = name;
            ++*count;
            if (!dl__json_tensor(j, e)) return false;
        } while (dl__json_is(j, ','));
        if (!dl__json_need(j, '}')) return false;
    }
    return !dl__json_peek(j) || dl__json_wrong(j, "its header goes on after its end");
}

static int dl__by_name(const void *a, const void *b)
{
    return strcmp(((const dl__entry *)a)->name, ((const dl__entry *)b)->name);
}
static int dl__by_offset(const void *a, const void *b)
{
    const dl__entry *x = (const dl__entry *)a, *y = (const dl__entry *)b;
    return x->begin != y->begin ? (x->begin < y->begin ? -1 : 1) : x->end < y->end ? -1 : x->end > y->end;
}

/* What is wrong with the entries together, or NULL. Leaves them in the order of their data. */
static const char *dl__entries_wrong(dl__entry *e, size_t n, uint64_t data)
{
    uint64_t at = 0;
    if (n) qsort(e, n, sizeof *e, dl__by_name);
    for (size_t i = 1; i < n; i++)
        if (!strcmp(e[i].name, e[i - 1].name)) return "it names a tensor twice";
    if (n) qsort(e, n, sizeof *e, dl__by_offset);
    for (size_t i = 0; i < n; at = e[i++].end)
        if (e[i].begin != at) return "its tensors overlap or leave a gap";
    return at == data ? NULL : "its size differs from what its header says";
}

/* Of a parameter? A snapshot also holds numbers of other kinds, and what has a '|' in its name. */
static bool dl__is_value(const dl__entry *e) { return dl__kind_is_real(e->kind) && !strchr(e->name, '|'); }

/* The entries that fit the program, or an error; then the values. */
static bool dl__load_values(dl_context *ctx, const char *path, FILE *f, const dl__entry *e, size_t n)
{
    uint8_t buffer[4096];
    for (size_t i = 0; i < n; i++) {
        const dl__param *p = dl__is_value(&e[i]) ? dl__find(ctx, e[i].name) : NULL;
        if (p &&
            (p->shape.ndim != e[i].shape.ndim ||
                memcmp(p->shape.dim, e[i].shape.dim, sizeof *p->shape.dim * (size_t)p->shape.ndim)))
            return dl_fail(ctx, "dl_load: '%s': '%s' is %H in the file and %H in the program", path, e[i].name,
                &e[i].shape, &p->shape);
        if (dl__is_value(&e[i]) && strlen(e[i].name) >= DLTRAIN_NAME_MAX)
            return dl_fail(ctx, "dl_load: '%s': the name '%s' is longer than DLTRAIN_NAME_MAX allows", path, e[i].name);
    }
    for (size_t i = 0; i < n; i++) {
        bool value = dl__is_value(&e[i]);
        const dl__param *p = value ? dl__find(ctx, e[i].name) : NULL;
        dl_real *to = p ? (p->buffer ? ctx->buffers : ctx->values) + p->offset : NULL;
        if (!p && value) { /* waits for its first use */
            dl__pending *q = (dl__pending *)dl__alloc(ctx, sizeof *q, 4 + DLTRAIN_MAX_DIMS);
            if (!q || !(q->name = dl__copy_text(ctx, e[i].name)) ||
                !(to = (dl_real *)dl__alloc(ctx, e[i].numel * sizeof *to, 0)))
                return false;
            q->shape = e[i].shape;
            q->value = to;
            /* what an earlier file has for it is forgotten */
            for (dl__pending *old = ctx->pending; old; old = old->next)
                if (old->value && !strcmp(old->name, q->name)) {
                    dl__release(ctx, old->value);
                    old->value = NULL;
                }
            q->next = ctx->pending;
            ctx->pending = q;
        }
        for (size_t k = 0, chunk; k < e[i].numel; k += chunk) {
            chunk = DL__MIN(e[i].numel - k, sizeof buffer / (size_t)e[i].size);
            if (fread(buffer, (size_t)e[i].size, chunk, f) != chunk)
                return dl_fail(ctx, "dl_load: '%s' could not be read to its end", path);
            for (size_t c = 0; to && c < chunk; c++)
                to[k + c] = dl__decode_real(buffer + c * (size_t)e[i].size, e[i].kind);
        }
    }
    return true;
}

/* What is wrong with the open file, or NULL: then `io` has its entries, which are the caller's to release. */
static const char *dl__read_entries(dl__io *io)
{
    uint8_t word[8];
    dl__json j;
    memset(&j, 0, sizeof j);
    io->entry = NULL;
    io->entries = io->next = 0;
    uint64_t size = dl__file_size(io->file),
             length = fread(word, 1, 8, io->file) == 8 ? dl__get_little(word, 8) : UINT64_MAX;
    if (size == UINT64_MAX || size < 8 || length > 100000000 || length > size - 8)
        return "it is too short for a safetensors file, or not one";
    size_t most = (size_t)length / 48 + 1; /* the shortest tensor has 49 characters */
    io->entry = (dl__entry *)dl__alloc(
        io->ctx, most * sizeof *io->entry + (size_t)length + 1, 0); /* one piece: a fixed block takes it back */
    if (!io->entry) return "there is no memory for its header";
    char *text = (char *)(io->entry + most);
    if (fread(text, 1, (size_t)length, io->file) != length) return "it could not be read";
    if (strlen(text) != length) return "its header contains a zero byte";
    j.at = text;
    io->data = 8 + length;
    if (!dl__json_header(&j, io->entry, most, &io->entries)) return j.wrong;
    return dl__entries_wrong(io->entry, io->entries, size - io->data);
}

DL_API bool dl_load(dl_context *ctx, const char *path)
{
    dl__io io;
    if (!ctx || ctx->failed) return false;
    memset(&io, 0, sizeof io);
    io.ctx = ctx;
    io.file = dl__open(ctx, "load", path, "rb");
    if (!io.file) return false;
    const char *wrong = dl__read_entries(&io);
    bool ok = wrong ? dl_fail(ctx, "dl_load: '%s': %s", path, wrong)
                    : dl__run_recorded(ctx) && dl__lay_out(ctx) && dl__all_to_host(ctx, true) &&
                          dl__load_values(ctx, path, io.file, io.entry, io.entries);
    fclose(io.file);
    dl__release(ctx, io.entry);
    return ok;
}

DL_API int dl_load_pending(const dl_context *ctx)
{
    int n = 0;
    for (const dl__pending *q = ctx ? ctx->pending : NULL; q; q = q->next) n += q->value != NULL;
    return n;
}

/* ---- curves ---- */
typedef struct dl__series { char name[64]; double *xy; size_t n, capacity; } dl__series;
struct dl_history { dl_context *ctx; dl__series *series; int n, capacity; };

DL_API dl_history *dl_history_create(dl_context *ctx)
{
    dl_history *h = ctx && !ctx->failed ? (dl_history *)dl__alloc(ctx, sizeof *h, 2) : NULL;
    if (h) h->ctx = ctx;
    return h;
}

/* Series i, at most one more than there are, with room for n points. NULL after an error. */
static dl__series *dl__history_room(dl_history *h, int i, size_t n)
{
    if (i == h->capacity) {
        int capacity = i ? 2 * i : 4;
        dl__series *p = (dl__series *)dl__grow(
            h->ctx, h->series, (size_t)i * sizeof *p, (size_t)capacity * sizeof *p, (size_t)capacity * 3);
        if (!p) return NULL;
        h->series = p;
        h->capacity = capacity;
    }
    dl__series *s = &h->series[i];
    if (n > s->capacity) {
        size_t capacity = DL__MAX(n, 2 * s->capacity);
        double *p = (double *)dl__grow(h->ctx, s->xy, 2 * s->n * sizeof *p, 2 * capacity * sizeof *p, 0);
        if (!p) return NULL;
        s->xy = p;
        s->capacity = capacity;
    }
    return s;
}

DL_API bool dl_history_add(dl_history *h, const char *name, double x, double y)
{
    int i = 0;
    if (!h || h->ctx->failed) return false;
    if (!name) return dl_fail(h->ctx, "dl_history_add: the series is NULL");
    if (strlen(name) >= sizeof h->series->name)
        return dl_fail(
            h->ctx, "dl_history_add: the name '%s' has more than %zu characters", name, sizeof h->series->name - 1);
    while (i < h->n && strcmp(h->series[i].name, name)) i++;
    dl__series *s = dl__history_room(h, i, i < h->n ? h->series[i].n + 1 : 32);
    if (!s) return false;
    if (i == h->n) memcpy(s->name, name, strlen(name) + 1), h->n++;
    s->xy[2 * s->n] = x;
    s->xy[2 * s->n++ + 1] = y;
    return true;
}

DL_API bool dl_history_csv(const dl_history *h, const char *path)
{
    char temporary[1024];
    if (!h || h->ctx->failed) return false;
    FILE *f = dl__open_temporary(h->ctx, "history_csv", path, temporary, sizeof temporary);
    if (!f) return false;
    fprintf(f, "series,x,y\n");
    for (int i = 0; i < h->n; i++)
        for (size_t k = 0; k < h->series[i].n; k++) {
            fputc('"', f);
            for (const char *p = h->series[i].name; *p; p++) {
                if (*p == '"') fputc('"', f); /* a quote is doubled */
                fputc(*p, f);
            }
            fprintf(f, "\",%.9g,%.9g\n", h->series[i].xy[2 * k], h->series[i].xy[2 * k + 1]);
        }
    return dl__commit(h->ctx, "history_csv", f, !ferror(f), temporary, path, 1);
}

static void dl__xml(FILE *f, const char *s, size_t n)
{
    for (; s && *s && n--; s++) {
        if (*s == '<') fputs("&lt;", f);
        else if (*s == '>') fputs("&gt;", f);
        else if (*s == '&') fputs("&amp;", f);
        else fputc(*s, f);
    }
}

static double dl__tick(double span) /* 1, 2 or 5 times a power of ten, that at most six fit */
{
    double step = 1;
    while (step * 6 < span) step *= 10;
    while (step * 0.6 >= span) step /= 10;
    return step / 5 * 6 >= span ? step / 5 : step / 2 * 6 >= span ? step / 2 : step;
}

static bool dl__drawable(double v) { return fabs(v) <= 1e300; } /* neither NaN nor so large that differences overflow */

/* Moves b away from a until a scale of doubles fits between them. */
static void dl__widen(double a, double *b)
{
    double least = DL__MAX(fabs(a), fabs(*b)) * 1e-12;
    if (!(*b - a > DL__MAX(least, 1e-300))) *b = a + DL__MAX(least, 1);
}

enum { DL__SVG_WIDTH = 640, DL__SVG_LEFT = 64, DL__SVG_TOP = 40, DL__SVG_PLOT_WIDTH = 560, DL__SVG_PLOT = 150,
    DL__SVG_CHART = 200, DL__SVG_ROW = 16, DL__SVG_LETTER = 7 };
/* What is on the axes, the y of the lower one, and in how many rows the names of the lines stand. */
typedef struct dl__chart { double x0, x1, y0, y1, y_step, base; int rows; } dl__chart;

static bool dl__same_chart(const dl_history *h, int i, int k)
{
    const char *a = h->series[i].name, *b = h->series[k].name;
    size_t n = strcspn(a, "/");
    return n == strcspn(b, "/") && !strncmp(a, b, n);
}

/* Of the series `first` and those after it that share its chart; without the base. False: it is in an earlier one's. */
static bool dl__chart_of(const dl_history *h, int first, dl__chart *c)
{
    double x0 = 0, x1 = 0, y0 = 0, y1 = 0;
    size_t head = strcspn(h->series[first].name, "/"), seen = 0, letters = head;
    int lines = 0;
    for (int i = 0; i < first; i++)
        if (dl__same_chart(h, i, first)) return false;
    for (int i = first; i < h->n; i++) {
        const dl__series *s = &h->series[i];
        if (!dl__same_chart(h, i, first)) continue;
        letters += strlen(s->name) - (s->name[head] ? head : 0) + 2, lines++;
        for (size_t k = 0; k < s->n; k++) {
            double x = s->xy[2 * k], y = s->xy[2 * k + 1];
            if (!dl__drawable(x) || !dl__drawable(y)) continue;
            x0 = seen ? DL__MIN(x0, x) : x, x1 = seen++ ? DL__MAX(x1, x) : x;
            y0 = DL__MIN(y0, y), y1 = DL__MAX(y1, y);
        }
    }
    dl__widen(x0, &x1);
    dl__widen(y0, &y1);
    double step = dl__tick(y1 - y0);
    c->x0 = x0, c->x1 = x1, c->y0 = step * floor(y0 / step + 1e-3), c->y1 = step * ceil(y1 / step - 1e-3);
    c->y_step = step, c->base = 0;
    c->rows = letters * DL__SVG_LETTER <= DL__SVG_PLOT_WIDTH ? 1 : lines + 1;
    return true;
}

/* The names of the lines in their colours, behind what they share, side by side or below each other. */
static void dl__chart_names(FILE *f, const dl_history *h, int first, const dl__chart *c, const char *const *colour)
{
    const char *name = h->series[first].name;
    size_t head = strcspn(name, "/");
    fprintf(f, "<text x=\"%d\" y=\"%.1f\">", DL__SVG_LEFT, c->base - DL__SVG_PLOT - 6 - DL__SVG_ROW * (c->rows - 1));
    if (name[head]) dl__xml(f, name, head);
    for (int i = first, line = 0; i < h->n; i++) {
        if (!dl__same_chart(h, i, first)) continue;
        const char *own = strchr(h->series[i].name, '/');
        if (c->rows > 1) fprintf(f, "<tspan x=\"%d\" dy=\"%d\"", DL__SVG_LEFT, DL__SVG_ROW);
        else fprintf(f, "<tspan dx=\"%d\"", line || name[head] ? 12 : 0);
        fprintf(f, " fill=\"%s\">", colour[line++ % 5]);
        dl__xml(f, own ? own + 1 : h->series[i].name, SIZE_MAX);
        fprintf(f, "</tspan>");
    }
    fprintf(f, "</text>\n");
}

static void dl__chart_axes(FILE *f, const dl__chart *c)
{
    double xt = dl__tick(c->x1 - c->x0), yt = c->y_step, plot = DL__SVG_PLOT_WIDTH;
    for (int k = 0; k < 10; k++) {
        double t = yt * (ceil(c->y0 / yt - 1e-3) + k);
        if (t > c->y1 + yt * 1e-3) break;
        double y = c->base - DL__SVG_PLOT * (t - c->y0) / (c->y1 - c->y0);
        fprintf(f,
            "<path d=\"M%d %.1fh%.0f\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
            DL__SVG_LEFT, y, plot, DL__SVG_LEFT - 6, y + 4, t);
    }
    for (int k = 0; k < 8; k++) {
        double t = xt * (ceil(c->x0 / xt - 1e-3) + k);
        if (t > c->x1 + xt * 1e-3) break;
        fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>\n",
            DL__SVG_LEFT + plot * (t - c->x0) / (c->x1 - c->x0), c->base + 16, t);
    }
}

static void dl__chart_line(FILE *f, const dl__chart *c, const dl__series *s, const char *colour)
{
    fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", colour);
    for (size_t k = 0; k < s->n; k++)
        if (dl__drawable(s->xy[2 * k]) && dl__drawable(s->xy[2 * k + 1]))
            fprintf(f, "%.1f,%.1f ", DL__SVG_LEFT + DL__SVG_PLOT_WIDTH * (s->xy[2 * k] - c->x0) / (c->x1 - c->x0),
                c->base - DL__SVG_PLOT * (s->xy[2 * k + 1] - c->y0) / (c->y1 - c->y0));
    fprintf(f, "\"/>\n");
}

DL_API bool dl_history_svg(const dl_history *h, const char *path, const char *title)
{
    static const char *const colour[] = { "#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df" };
    char temporary[1024];
    int top = DL__SVG_TOP;
    dl__chart c;
    if (!h || h->ctx->failed) return false;
    FILE *f = dl__open_temporary(h->ctx, "history_svg", path, temporary, sizeof temporary);
    if (!f) return false;
    for (int i = 0; i < h->n; i++) top += dl__chart_of(h, i, &c) ? DL__SVG_CHART + DL__SVG_ROW * (c.rows - 1) : 0;
    fprintf(f,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
        "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"%d\" y=\"24\" "
        "font-size=\"16\">",
        DL__SVG_WIDTH, top + 8, DL__SVG_LEFT);
    dl__xml(f, title, SIZE_MAX);
    fprintf(f, "</text>\n");
    top = DL__SVG_TOP;
    for (int i = 0; i < h->n; i++) {
        if (!dl__chart_of(h, i, &c)) continue;
        top += DL__SVG_CHART + DL__SVG_ROW * (c.rows - 1);
        c.base = top - (DL__SVG_CHART - DL__SVG_PLOT - 20);
        dl__chart_names(f, h, i, &c, colour);
        dl__chart_axes(f, &c);
        for (int k = i, line = 0; k < h->n; k++)
            if (dl__same_chart(h, k, i)) dl__chart_line(f, &c, &h->series[k], colour[line++ % 5]);
    }
    fprintf(f, "</svg>\n");
    return dl__commit(h->ctx, "history_svg", f, !ferror(f), temporary, path, 1);
}

/* ==== >>images ====
   Image files through stb_image, where the program has included it. Optional.
   may use: files, data */
#ifdef DL__IMAGES
#include <dirent.h>
#include <sys/stat.h>

typedef struct dl__image { char *path; int32_t label; } dl__image;
typedef struct dl__images {
    dl_context *ctx;
    dl_images_desc desc;
    dl__image *image;
    size_t n, room;
    char **class_name;       /* NULL: a list */
    int classes;
    char why[DLTRAIN_ERROR_MAX];
    bool resize;
    bool *bad;               /* skip_bad: while opening */
} dl__images;

/* Appends to array p, which has n elements of `size` bytes and room for *room. */
static void *dl__append(dl_context *ctx, void *p, size_t n, size_t *room, size_t size)
{
    if (n < *room) return p;
    void *q = dl__grow(ctx, p, n * size, 2 * (n + 8) * size, 0);
    if (q) *room = 2 * (n + 8);
    return q;
}

static char *dl__join(dl_context *ctx, const char *folder, size_t n, const char *name)
{
    char *p = (char *)dl__alloc(ctx, n + strlen(name) + 2, 0);
    if (!p) return NULL;
    memcpy(p, folder, n);
    if (n) p[n++] = '/';
    memcpy(p + n, name, strlen(name) + 1);
    return p;
}

static int dl__by_path(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Sorted paths in a folder of what is a folder, or is not; NULL: an error. Names that begin with '.' do not count. */
static char **dl__list_folder(dl_context *ctx, const char *folder, bool folders, size_t *count)
{
    char **name = NULL;
    size_t n = 0, room = 0;
    struct stat info;
    DIR *d = opendir(folder);
    if (!d) return dl_fail(ctx, "dl_open_images: cannot open the folder '%s'", folder), (char **)NULL;
    for (struct dirent *e; !ctx->failed && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.') continue;
        char *path = dl__join(ctx, folder, strlen(folder), e->d_name);
        if (!path || stat(path, &info) || (S_ISDIR(info.st_mode) != 0) != folders) {
            dl__release(ctx, path);
            continue;
        }
        char **more = (char **)dl__append(ctx, name, n, &room, sizeof *name);
        if (!more) break;
        name = more;
        name[n++] = path;
    }
    closedir(d);
    if (n) qsort(name, n, sizeof *name, dl__by_path);
    *count = n;
    return ctx->failed ? NULL : name ? name : (char **)dl__alloc(ctx, sizeof *name, 1);
}

static bool dl__add_image(dl__images *m, char *path, int32_t label)
{
    dl__image *more = path ? (dl__image *)dl__append(m->ctx, m->image, m->n, &m->room, sizeof *more) : NULL;
    if (!more) return false;
    m->image = more;
    m->image[m->n].path = path;
    m->image[m->n++].label = label;
    return true;
}

static bool dl__images_from_folder(dl__images *m)
{
    size_t classes, files;
    char **name = dl__list_folder(m->ctx, m->desc.path, true, &classes);
    if (!name) return false;
    if (!classes || classes > 1000000)
        return dl_fail(m->ctx, "dl_open_images: '%s' has %zu folders: each is a class", m->desc.path, classes);
    m->class_name = name;
    m->classes = (int)classes;
    for (int k = 0; k < m->classes; k++) {
        char **file = dl__list_folder(m->ctx, name[k], false, &files);
        if (!file) return false;
        for (size_t i = 0; i < files; i++)
            if (!dl__add_image(m, file[i], k)) return false;
        dl__release(m->ctx, file);
        name[k] += strlen(m->desc.path) + 1;
    }
    return true;
}

static bool dl__images_from_list(dl__images *m)
{
    char line[4096];
    size_t number = 0;
    const char *list = m->desc.path, *slash = strrchr(list, '/'), *wrong = NULL;
    FILE *f = dl__open(m->ctx, "open_images", list, "rb");
    while (f && !wrong && !m->ctx->failed && fgets(line, sizeof line, f)) {
        size_t n = strlen(line), end;
        long label = 0;
        number++;
        if (n && line[n - 1] != '\n' && !feof(f)) wrong = "it is too long, or has a zero byte";
        while (n && strchr(" \t\r\n", line[n - 1])) n--;
        if (!n || wrong) continue;
        for (end = n; end && line[end - 1] >= '0' && line[end - 1] <= '9'; end--) {}
        for (size_t i = end; i < n && label <= 1000000; i++) label = 10 * label + (line[i] - '0');
        if (end == n || !end || !strchr(" \t,", line[end - 1])) wrong = "it does not end in the number of a class";
        else if (label >= 1000000) wrong = "its class is not below 1000000";
        while (end && strchr(" \t,", line[end - 1])) end--;
        if (!wrong && !end) wrong = "it has no path";
        if (wrong) continue;
        line[end] = 0;
        dl__add_image(
            m, dl__join(m->ctx, list, slash && *line != '/' ? (size_t)(slash - list) : 0, line), (int32_t)label);
        m->classes = DL__MAX(m->classes, (int)label + 1);
    }
    if (f) fclose(f);
    return wrong ? dl_fail(m->ctx, "dl_open_images: '%s', line %zu: %s", list, number, wrong) : !m->ctx->failed;
}

static bool dl__is_jpeg(const uint8_t head[3]) { return head[0] == 0xff && head[1] == 0xd8 && head[2] == 0xff; }

/* Is the end of a JPEG there, the marker ff d9 behind the start of its first scan? stb_image makes a picture of much
   that is cut off. From the start of the file and back to it; true for another kind. */
static bool dl__jpeg_ends(FILE *f)
{
    uint8_t head[3] = { 0 }, size[2];
    bool jpeg = fread(head, 1, 3, f) == 3 && dl__is_jpeg(head), ends = false;
    int c = jpeg ? head[2] : EOF, before = 0, marker = 0;
    while (c != EOF && marker != 0xda) { /* segments: ff, a marker, two bytes of length that count themselves */
        while (c != EOF && c != 0xff) c = fgetc(f);
        while (c == 0xff) c = fgetc(f);
        marker = c;
        long n = c != EOF && fread(size, 1, 2, f) == 2 ? size[0] << 8 | size[1] : 0;
        c = n >= 2 && !fseek(f, n - 2, SEEK_CUR) ? fgetc(f) : EOF;
    }
    for (; !ends && c != EOF; before = c, c = fgetc(f)) ends = before == 0xff && c == 0xd9;
    rewind(f);
    return ends || !jpeg;
}

/* Opens a file that may be decoded; NULL, and why not. */
static FILE *dl__image_open(
    const dl__images *m, const char *path, dl_index *height, dl_index *width, char *why, size_t size)
{
    static const uint8_t png[8] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n' };
    uint8_t head[24] = { 0 };
    int w = 0, h = 0, n;
    struct stat info;
    FILE *f = !stat(path, &info) && !S_ISDIR(info.st_mode) ? fopen(path, "rb") : NULL;
    if (!f) return snprintf(why, size, "it cannot be opened"), (FILE *)NULL;
    uint64_t bytes = dl__file_size(f), most = m->desc.max_bytes;
    uint32_t side = (uint32_t)m->desc.max_side;
    bool whole = fread(head, 1, 24, f) == 24, jpeg = dl__is_jpeg(head), readable = !memcmp(head, png, 8);
    const char *kinds = "a PNG";
    uint32_t png_w = whole && readable ? dl__big_word(head + 16) : 0, png_h = png_w ? dl__big_word(head + 20) : 0;
#ifdef DLTRAIN_JPEG
    readable = readable || jpeg;
    kinds = "a PNG or JPEG";
#endif
    rewind(f);
    *why = 0;
    if (!readable && jpeg)
        snprintf(why, size, "it is a JPEG, which a stb_image.h before 2.30 does not read safely: see DLTRAIN_JPEG");
    else if (!readable) snprintf(why, size, "it is not %s file", kinds);
    else if (bytes > most)
        snprintf(why, size, "its %.0f bytes are more than max_bytes, %.0f", (double)bytes, (double)most);
    else if (png_w > side || png_h > side) /* stb_image might call it damaged */
        snprintf(why, size, "it is %u x %u, a side of more than max_side, %u", png_w, png_h, side);
    else if (!stbi_info_from_file(f, &w, &h, &n) || w < 1 || h < 1)
        snprintf(why, size, "its header is damaged or cut off");
    else if ((uint32_t)w > side || (uint32_t)h > side)
        snprintf(why, size, "it is %d x %d, a side of more than max_side, %u", w, h, side);
    else if ((uint64_t)w * (uint64_t)h > most / 4)
        snprintf(why, size, "its %d x %d pixels take more than max_bytes, %.0f", w, h, (double)most);
    else if (bytes > 65536 + (uint64_t)w * (uint64_t)h * 16)
        snprintf(why, size, "its %.0f bytes are more than %d x %d pixels need", (double)bytes, w, h);
    if (*why) {
        fclose(f);
        return NULL;
    }
    rewind(f);
    *height = h;
    *width = w;
    return f;
}

/* Pixels [h,w,C] to x [C,height,width]; another size is sampled where the centres of its pixels fall. */
static void dl__image_place(
    const uint8_t *pixels, dl_index h, dl_index w, uint8_t *x, dl_index channels, dl_index height, dl_index width)
{
    for (dl_index i = 0; i < height; i++)
        for (dl_index j = 0; j < width; j++) {
            double v = ((double)i + 0.5) * (double)h / (double)height - 0.5;
            double u = ((double)j + 0.5) * (double)w / (double)width - 0.5;
            v = v < 0 ? 0 : DL__MIN(v, (double)(h - 1)), u = u < 0 ? 0 : DL__MIN(u, (double)(w - 1));
            dl_index y0 = (dl_index)v, x0 = (dl_index)u, y1 = DL__MIN(y0 + 1, h - 1), x1 = DL__MIN(x0 + 1, w - 1);
            double fy = v - (double)y0, fx = u - (double)x0;
            for (dl_index c = 0; c < channels; c++) {
                const uint8_t *p = pixels + c;
                double top = p[(y0 * w + x0) * channels] * (1 - fx) + p[(y0 * w + x1) * channels] * fx,
                       bottom = p[(y1 * w + x0) * channels] * (1 - fx) + p[(y1 * w + x1) * channels] * fx;
                x[(c * height + i) * width + j] = (uint8_t)(top * (1 - fy) + bottom * fy + 0.5);
            }
        }
}

/* Decoded into x [C,H,W], which may be NULL; false: and why not. On any thread. */
static bool dl__image_decode(const dl__images *m, size_t index, uint8_t *x, char *why, size_t size)
{
    dl_index h, w, channels = m->desc.channels, height = m->desc.height, width = m->desc.width;
    int got_w = 0, got_h = 0, n;
    FILE *f = dl__image_open(m, m->image[index].path, &h, &w, why, size);
    if (!f) return false;
    if (!m->resize && (h != height || w != width)) {
        snprintf(why, size, "it is %d x %d, the first image %d x %d: give height and width to resize all", (int)w,
            (int)h, (int)width, (int)height);
        fclose(f);
        return false;
    }
    uint8_t *pixels = dl__jpeg_ends(f) ? stbi_load_from_file(f, &got_w, &got_h, &n, (int)channels) : NULL;
    fclose(f);
    bool whole = pixels && got_w == w && got_h == h;
    if (!whole) snprintf(why, size, "it is damaged or cut off, or there is no memory for it");
    else if (x) dl__image_place(pixels, h, w, x, channels, height, width);
    stbi_image_free(pixels);
    return whole;
}

static bool dl__images_get(void *user, size_t index, void *x, void *y)
{
    const dl__images *m = (const dl__images *)user;
    char why[DLTRAIN_ERROR_MAX];
    *(int32_t *)y = m->image[index].label;
    return dl__image_decode(m, index, (uint8_t *)x, why, sizeof why);
}

static const char *dl__images_why(void *user, size_t index)
{
    dl__images *m = (dl__images *)user;
    char why[DLTRAIN_ERROR_MAX];
    if (dl__image_decode(m, index, NULL, why, sizeof why))
        snprintf(why, sizeof why, "it could not be decoded a moment ago");
    int half = (int)sizeof m->why / 2;
    snprintf(m->why, sizeof m->why, "'%.*s': %.*s", half - 8, m->image[index].path, half, why);
    return m->why;
}

static void dl__image_try(void *user, size_t index, int thread)
{
    dl__images *m = (dl__images *)user;
    char why[DLTRAIN_ERROR_MAX];
    (void)thread;
    m->bad[index] = !dl__image_decode(m, index, NULL, why, sizeof why);
}

/* The size of all images, unless given: that of the first one that can be opened; with skip_bad no other is asked. */
static bool dl__images_size(dl__images *m)
{
    char why[DLTRAIN_ERROR_MAX];
    m->resize = m->desc.height > 0;
    for (size_t i = 0; !m->resize && i < m->n; i++) {
        FILE *f = dl__image_open(m, m->image[i].path, &m->desc.height, &m->desc.width, why, sizeof why);
        if (f) return fclose(f), true;
        if (!m->desc.skip_bad) return dl_fail(m->ctx, "dl_open_images: '%s': %s", m->image[i].path, why);
    }
    return m->resize || dl_fail(m->ctx, "dl_open_images: '%s': none of its %zu files can be read", m->desc.path, m->n);
}

/* Looks at all files, or, to leave out the bad ones, decodes them all. */
static bool dl__images_check(dl__images *m)
{
    size_t kept = 0, all = m->n;
    char why[DLTRAIN_ERROR_MAX];
    if (!m->desc.skip_bad) {
        for (size_t i = 0; i < all; i++) {
            dl_index h, w;
            FILE *f = dl__image_open(m, m->image[i].path, &h, &w, why, sizeof why);
            if (!f) return dl_fail(m->ctx, "dl_open_images: '%s': %s", m->image[i].path, why);
            fclose(f);
        }
        return true;
    }
    m->bad = (bool *)dl__alloc(m->ctx, all * sizeof *m->bad, 0);
    if (!m->bad) return false;
    dl__pool_run(&m->ctx->pool, all, 1, dl__image_try, m);
    for (size_t i = 0; i < all; i++)
        if (m->bad[i]) dl__say(m->ctx, "dl_open_images: left out: %s", dl__images_why(m, i));
    for (size_t i = 0; i < all; i++)
        if (!m->bad[i]) m->image[kept++] = m->image[i];
    m->n = kept;
    dl__release(m->ctx, m->bad);
    if (m->desc.skipped) *m->desc.skipped = all - kept;
    return kept || dl_fail(m->ctx, "dl_open_images: '%s': none of its %zu files can be read", m->desc.path, all);
}

DL_API dl_dataset *dl_open_images(dl_context *ctx, const dl_images_desc *desc)
{
    struct stat info;
    dl_dataset_desc d;
    if (!ctx || ctx->failed) return NULL;
    if (!desc || !desc->path) return dl_fail(ctx, "dl_open_images: the path is NULL"), (dl_dataset *)NULL;
    dl__images *m = (dl__images *)dl__alloc(ctx, sizeof *m, 10);
    if (!m) return NULL;
    m->ctx = ctx;
    m->desc = *desc;
    if (!m->desc.channels) m->desc.channels = 3;
    if (!m->desc.max_side) m->desc.max_side = 8192;
    if (!m->desc.max_bytes) m->desc.max_bytes = (size_t)64 << 20;
    if (m->desc.channels != 1 && m->desc.channels != 3)
        return dl_fail(ctx, "dl_open_images: channels %td: 1 or 3", m->desc.channels), (dl_dataset *)NULL;
    if ((desc->height > 0) != (desc->width > 0) || desc->height < 0 || desc->width < 0 || desc->height > 1 << 20 ||
        desc->width > 1 << 20)
        return dl_fail(ctx, "dl_open_images: height %td and width %td: both positive, or none given", desc->height,
                   desc->width),
               (dl_dataset *)NULL;
    if (desc->max_side < 0 || desc->max_side > 1 << 24)
        return dl_fail(ctx, "dl_open_images: max_side %td", desc->max_side), (dl_dataset *)NULL;
    m->desc.path = dl__copy_text(ctx, desc->path);
    if (desc->skipped) *desc->skipped = 0;
    if (ctx->failed ||
        !(!stat(desc->path, &info) && S_ISDIR(info.st_mode) ? dl__images_from_folder(m) : dl__images_from_list(m)))
        return NULL;
    if (!m->n) return dl_fail(ctx, "dl_open_images: '%s' names no files", desc->path), (dl_dataset *)NULL;
    if (!dl__images_size(m) || !dl__images_check(m)) return NULL;
    memset(&d, 0, sizeof d);
    d.count = m->n;
    d.x_dtype = DL_U8;
    d.y_dtype = DL_I32;
    d.x_shape = DL_SHAPE(m->desc.channels, m->desc.height, m->desc.width);
    d.y_shape = DL_SCALAR;
    d.get = dl__images_get;
    d.why = dl__images_why;
    d.user = m;
    return dl_dataset_create(ctx, &d);
}

static const dl__images *dl__images_of(const dl_dataset *d)
{
    return d && d->desc.get == dl__images_get ? (const dl__images *)d->desc.user : NULL;
}

DL_API int dl_images_classes(const dl_dataset *images)
{
    return dl__images_of(images) ? dl__images_of(images)->classes : 0;
}
DL_API const char *dl_images_class(const dl_dataset *images, int index)
{
    const dl__images *m = dl__images_of(images);
    return m && m->class_name && index >= 0 && index < m->classes ? m->class_name[index] : NULL;
}
#endif /* DL__IMAGES */

/* ==== >>snapshots ====
   All that a run needs to go on as if it had never stopped.
   may use: optimizers, parallel, data, files */

/* The file's tables of whole numbers, bit patterns of doubles among them. */
enum {
    DL__RUN_VERSION, DL__RUN_SEED, DL__RUN_WORLD, DL__RUN_SHARDS, DL__RUN_SEALED, DL__RUN_PARAMS, DL__RUN_OPTIMIZERS,
    DL__RUN_ACCUMULATORS, DL__RUN_LOADERS, DL__RUN_NUMBERS, DL__RUN_HISTORY, DL__RUN_SERIES, DL__RUN_REDUCTIONS,
    DL__RUN_FIELDS
};
enum { DL__OPT_SETTINGS, DL__OPT_STEPS, DL__OPT_START, DL__OPT_SCHEDULED, DL__OPT_LR, DL__OPT_STATE, DL__OPT_FIELDS };
enum { DL__ACC_DONE, DL__ACC_COUNT, DL__ACC_FIELDS };
enum { DL__LOAD_EPOCH, DL__LOAD_BEGUN, DL__LOAD_DONE, DL__LOAD_PER, DL__LOAD_BATCH, DL__LOAD_SAMPLES, DL__LOAD_FIELDS };
enum { DL__ROW_INIT, DL__ROW_VALUE, DL__ROW_FLAGS, DL__ROW_FIELDS };
enum { DL__ROW_BUFFER = 1, DL__ROW_FROZEN = 2, DL__ROW_GRAD = 4 };
enum { DL__SNAPSHOT_VERSION = 1, DL__SNAPSHOT_EACH = 4 };
/* What differs from rank to rank: one may have run out of data where others have not */
enum { DL__RANK_STEP, DL__RANK_LOADERS, DL__RANK_FIELDS = DL__RANK_LOADERS + DL__SNAPSHOT_EACH * DL__LOAD_FIELDS };

typedef struct dl__snapshot {
    const dl_snapshot_desc *d;
    int64_t run[DL__RUN_FIELDS], optimizer[DL__SNAPSHOT_EACH][DL__OPT_FIELDS],
        accumulator[DL__SNAPSHOT_EACH][DL__ACC_FIELDS], mine[DL__RANK_FIELDS];
    int64_t *rank; /* DL__RANK_FIELDS of each; in one piece with: */
    int32_t *row;  /* DL__ROW_FIELDS of each parameter */
} dl__snapshot;

static bool dl__snapshot_room(dl_context *ctx, dl__snapshot *s, size_t world, size_t params)
{
    s->rank = (int64_t *)dl__alloc(
        ctx, world * DL__RANK_FIELDS * sizeof *s->rank + params * DL__ROW_FIELDS * sizeof *s->row, 0);
    void *rows = s->rank ? s->rank + world * DL__RANK_FIELDS : NULL;
    s->row = (int32_t *)rows;
    return s->rank != NULL;
}

/* How the program made its optimizer, but for the learning rate. */
static uint64_t dl__settings(const dl_optimizer *o)
{
    const dl_real number[7] = { o->momentum, o->dampening, o->weight_decay, o->beta1, o->beta2, o->eps, o->alpha };
    uint64_t h = dl__mix_text(dl__mix(0, (uint64_t)o->rule << 2 | (uint64_t)o->nesterov << 1 | o->centered), o->select);
    for (int i = 0; i < 7; i++) h = dl__mix(h, (uint64_t)dl__double_bits((double)number[i]));
    for (int i = 0; i < o->groups; i++) {
        const dl_group_desc *d = &o->group[i].desc;
        h = dl__mix(dl__mix_text(h, o->group[i].pattern), (uint64_t)dl__double_bits((double)d->lr_scale));
        h = dl__mix(h, (uint64_t)dl__double_bits((double)d->weight_decay));
        h = dl__mix(h, (uint64_t)d->no_weight_decay << 1 | d->set_weight_decay);
    }
    return h;
}

/* The samples of a batch of all ranks together. */
static int64_t dl__batch_of_all(const dl_loader *l)
{
    return (int64_t)(l->desc.split == DL_SPLIT_BATCH ? l->desc.batch : l->desc.batch * (size_t)l->desc.world);
}

/* ---- from the program to the tables ---- */
static void dl__pack(dl_context *ctx, dl__snapshot *s)
{
    const dl_snapshot_desc *d = s->d;
    s->run[DL__RUN_VERSION] = DL__SNAPSHOT_VERSION;
    s->run[DL__RUN_SEED] = (int64_t)ctx->config.seed;
    s->run[DL__RUN_WORLD] = dl_comm_size(ctx->comm);
    s->run[DL__RUN_SHARDS] = ctx->comm ? ctx->comm->world->desc.invariant_shards : 0;
    s->run[DL__RUN_REDUCTIONS] = ctx->comm ? (int64_t)ctx->comm->step : 0;
    s->run[DL__RUN_SEALED] = ctx->sealed;
    s->run[DL__RUN_PARAMS] = ctx->params;
    s->run[DL__RUN_NUMBERS] = (int64_t)d->numbers;
    s->run[DL__RUN_HISTORY] = d->history != NULL;
    s->run[DL__RUN_SERIES] = d->history ? d->history->n : 0;
    for (int i = 0; i < ctx->params; i++) {
        const dl__param *p = &ctx->param[i];
        int32_t *row = s->row + i * DL__ROW_FIELDS;
        uint32_t u = dl__bits(p->value);
        row[DL__ROW_INIT] = (int32_t)p->init;
        memcpy(&row[DL__ROW_VALUE], &u, 4);
        row[DL__ROW_FLAGS] = (p->buffer ? DL__ROW_BUFFER : 0) | (p->frozen ? DL__ROW_FROZEN : 0) |
            (dl__grad_of(ctx, p) ? DL__ROW_GRAD : 0);
    }
    for (int i = 0; i < DL__SNAPSHOT_EACH && d->optimizer[i]; i++) {
        const dl_optimizer *o = d->optimizer[i];
        int64_t *t = s->optimizer[s->run[DL__RUN_OPTIMIZERS]++];
        t[DL__OPT_SETTINGS] = (int64_t)dl__settings(o);
        t[DL__OPT_STEPS] = o->steps;
        t[DL__OPT_START] = o->schedule_start;
        t[DL__OPT_SCHEDULED] = o->scheduled != NULL;
        t[DL__OPT_LR] = dl__double_bits(o->lr);
        t[DL__OPT_STATE] = o->age != NULL;
    }
    for (int i = 0; i < DL__SNAPSHOT_EACH && d->accumulator[i]; i++) {
        int64_t *t = s->accumulator[s->run[DL__RUN_ACCUMULATORS]++];
        t[DL__ACC_DONE] = d->accumulator[i]->done;
        t[DL__ACC_COUNT] = dl__double_bits(d->accumulator[i]->count);
    }
    s->mine[DL__RANK_STEP] = (int64_t)(ctx->random_step + ctx->ended); /* of the step to come */
    for (int i = 0; i < DL__SNAPSHOT_EACH && d->loader[i]; i++) {
        const dl_loader *l = d->loader[i];
        int64_t *t = s->mine + DL__RANK_LOADERS + DL__LOAD_FIELDS * s->run[DL__RUN_LOADERS]++;
        t[DL__LOAD_EPOCH] = (int64_t)l->epoch;
        t[DL__LOAD_BEGUN] = l->begun;
        t[DL__LOAD_DONE] = (int64_t)l->done;
        t[DL__LOAD_PER] = (int64_t)l->per;
        t[DL__LOAD_BATCH] = dl__batch_of_all(l);
        t[DL__LOAD_SAMPLES] = (int64_t)l->data->desc.count;
    }
}

/* ---- the pieces of the file, in order ---- */
static bool dl__table(dl__io *io, const char *what, int i, int64_t *t, int n)
{
    char group[32];
    dl_shape shape = DL_SHAPE(n);
    snprintf(group, sizeof group, i < 0 ? "%s" : "%s.%d", what, i);
    return dl__piece(io, group, "run", 'l', &shape, t);
}

/* After the first table, which says how many there are. */
static void dl__visit_tables(dl__io *io, dl__snapshot *s)
{
    dl_shape ranks = DL_SHAPE((dl_index)s->run[DL__RUN_WORLD], DL__RANK_FIELDS);
    dl_shape rows = DL_SHAPE((dl_index)s->run[DL__RUN_PARAMS], DL__ROW_FIELDS);
    dl__piece(io, "dltrain", "ranks", 'l', &ranks, s->rank);
    dl__piece(io, "dltrain", "parameters", 'i', &rows, s->row);
    for (int i = 0; i < s->run[DL__RUN_OPTIMIZERS]; i++) dl__table(io, "optimizer", i, s->optimizer[i], DL__OPT_FIELDS);
    for (int i = 0; i < s->run[DL__RUN_ACCUMULATORS]; i++)
        dl__table(io, "accumulator", i, s->accumulator[i], DL__ACC_FIELDS);
}

static void dl__visit_optimizer(dl__io *io, dl_optimizer *o, int index)
{
    static const char *const adam[2] = { "exp_avg", "exp_avg_sq" };
    dl_context *ctx = io->ctx;
    dl_shape each = DL_SHAPE(ctx->params);
    char group[64];
    snprintf(group, sizeof group, "optimizer.%d", index);
    dl__piece(io, group, "age", 'i', &each, o->age);
    if (o->power1) {
        dl__piece(io, group, "beta1_power", 'd', &each, o->power1);
        dl__piece(io, group, "beta2_power", 'd', &each, o->power2);
    }
    for (int k = 0; k < dl__states(o); k++) {
        const char *name = o->power1           ? adam[k]
            : o->rule == DL__RMSPROP && k == 0 ? "square_avg"
            : k == 2 || o->momentum == 0       ? "grad_avg"
                                               : "momentum_buffer";
        snprintf(group, sizeof group, "optimizer.%d|%s", index, name);
        for (int i = 0; i < ctx->params; i++) {
            const dl__param *p = &ctx->param[i];
            if (!p->buffer) dl__piece(io, group, p->name, DL__REAL_KIND, &p->shape, o->state[k] + p->offset);
        }
    }
}

static void dl__visit_history(dl__io *io, dl_history *h, int series)
{
    bool reading = io->phase >= DL__CHECK;
    for (int i = 0; i < series; i++) {
        char group[32];
        size_t n = reading ? 0 : h->series[i].n;
        if (reading && io->next + 1 < io->entries && io->entry[io->next + 1].shape.ndim == 2)
            n = (size_t)io->entry[io->next + 1].shape.dim[0];
        dl__series *s = reading ? dl__history_room(h, i, n) : &h->series[i];
        io->ok = io->ok && s;
        if (!io->ok) return;
        if (io->phase == DL__READ) h->n = i + 1, s->n = n;
        dl_shape name = DL_SHAPE((dl_index)sizeof s->name), points = DL_SHAPE((dl_index)n, 2);
        snprintf(group, sizeof group, "history.%d", i);
        dl__piece(io, group, "name", 'c', &name, s->name);
        dl__piece(io, group, "points", 'd', &points, s->xy);
        s->name[sizeof s->name - 1] = 0;
    }
}

static void dl__visit_values(dl__io *io, const dl__snapshot *s)
{
    dl_context *ctx = io->ctx;
    dl__visit_matching(io, "*");
    for (int i = 0; i < ctx->params; i++) {
        const dl__param *p = &ctx->param[i];
        if (s->row[i * DL__ROW_FIELDS + DL__ROW_FLAGS] & DL__ROW_GRAD)
            dl__piece(io, "gradient", p->name, DL__REAL_KIND, &p->shape, ctx->grads + p->offset);
    }
    for (int i = 0; i < s->run[DL__RUN_OPTIMIZERS]; i++)
        if (s->optimizer[i][DL__OPT_STATE]) dl__visit_optimizer(io, s->d->optimizer[i], i);
    if (s->d->history) dl__visit_history(io, s->d->history, (int)s->run[DL__RUN_SERIES]);
    dl_shape numbers = DL_SHAPE((dl_index)s->d->numbers);
    if (s->d->numbers) dl__piece(io, "dltrain", "numbers", 'd', &numbers, s->d->number);
}

/* All of it, and last the hash of all before: a damaged file is known by it. */
static void dl__visit_snapshot(dl__io *io, const void *user)
{
    dl__snapshot *s = (dl__snapshot *)(uintptr_t)user; /* not written to, as nothing is read */
    dl__table(io, "dltrain", -1, s->run, DL__RUN_FIELDS);
    dl__visit_tables(io, s);
    dl__visit_values(io, s);
    int64_t hash = (int64_t)io->hash;
    dl_shape one = DL_SHAPE(1);
    dl__piece(io, "dltrain", "check", 'l', &one, &hash);
}

/* ---- saving ---- */
static bool dl__snapshot_desc_ok(dl_context *ctx, const char *who, const dl_snapshot_desc *d)
{
    bool stranger = false;
    if (!d) return dl_fail(ctx, "dl_%s: the description of the run is NULL", who);
    if (d->keep < 0 || d->keep > 1000) return dl_fail(ctx, "dl_%s: keep %d; 1 to 1000, 0: 1", who, d->keep);
    if (d->numbers && !d->number) return dl_fail(ctx, "dl_%s: number is NULL", who);
    for (int i = 0; i < DL__SNAPSHOT_EACH; i++)
        stranger = stranger || (d->optimizer[i] && d->optimizer[i]->ctx != ctx) ||
            (d->accumulator[i] && d->accumulator[i]->o->ctx != ctx) || (d->loader[i] && d->loader[i]->ctx != ctx);
    return (!stranger && (!d->history || d->history->ctx == ctx)) ||
        dl_fail(ctx, "dl_%s: something is of another context", who);
}

DL_API bool dl_snapshot_save(dl_context *ctx, const char *path, const dl_snapshot_desc *run)
{
    char temporary[1024];
    dl__snapshot s;
    dl__io io;
    if (!ctx || ctx->failed || !dl__snapshot_desc_ok(ctx, "snapshot_save", run)) return false;
    if (ctx->nodes && !ctx->ended)
        return dl_fail(ctx, "dl_snapshot_save: a step is open; call it after dl_step, dl_accumulate or dl_end");
    for (int i = 0; i < ctx->params && ctx->replica; i++)
        if (dl__grad_of(ctx, &ctx->param[i]))
            return dl_fail(ctx,
                "dl_snapshot_save: '%s' has a gradient, of which each rank may have a part; save after dl_step",
                ctx->param[i].name);
    if (ctx->replica && (ctx->comm->part || ctx->comm->open))
        return dl_fail(ctx,
            "dl_snapshot_save: there are shards that wait for others of their batch or window; save after dl_step");
    memset(&s, 0, sizeof s);
    s.d = run;
    if (!dl__lay_out(ctx) || !dl__all_to_host(ctx, false) ||
        !dl__snapshot_room(ctx, &s, (size_t)dl_comm_size(ctx->comm), (size_t)ctx->params))
        return false;
    dl__pack(ctx, &s);
    bool ok = dl_all_gather(ctx->comm, s.mine, s.rank, sizeof s.mine);
    if (ok && !dl_comm_rank(ctx->comm)) {
        memset(&io, 0, sizeof io);
        io.ctx = ctx;
        io.file = dl__open_temporary(ctx, "snapshot_save", path, temporary, sizeof temporary);
        ok = io.file && dl__write_pieces(&io, "\"format\":\"pt\",\"dltrain\":\"snapshot\"", dl__visit_snapshot, &s);
        ok = io.file && dl__commit(ctx, "snapshot_save", io.file, ok, temporary, path, run->keep);
    }
    dl__release(ctx, s.rank);
    return ok;
}

/* ---- loading ---- */
/* What is wrong with the open file, or NULL. */
static const char *dl__snapshot_wrong(dl__io *io)
{
    uint8_t buffer[4096];
    uint64_t hash = dl__hash_text("");
    const char *wrong = dl__read_entries(io);
    if (wrong) return wrong;
    const dl__entry *last = io->entries ? &io->entry[io->entries - 1] : NULL;
    if (!last || strcmp(io->entry[0].name, "dltrain|run") || strcmp(last->name, "dltrain|check") ||
        last->end - last->begin != 8)
        return "it is no snapshot";
    if (fseek(io->file, 8, SEEK_SET)) return "it could not be read";
    for (uint64_t left = io->data - 8 + last->begin, n; left; left -= n) {
        n = DL__MIN(left, (uint64_t)sizeof buffer);
        if (fread(buffer, 1, (size_t)n, io->file) != n) return "it could not be read";
        hash = dl__hash_bytes(hash, buffer, (size_t)n);
    }
    if (fread(buffer, 1, 8, io->file) != 8 || dl__get_little(buffer, 8) != hash)
        return "it is damaged: its check sum differs";
    return NULL;
}

/* Opens the newest that is whole; the reasons against newer ones go to the log. */
static bool dl__snapshot_open(dl__io *io, const char *path, char *name, size_t size, int keep)
{
    const char *wrong = NULL;
    char first[DLTRAIN_ERROR_MAX];
    if (!path) return dl_fail(io->ctx, "dl_snapshot_load: the path is NULL");
    for (int i = 0; i < DL__MAX(keep, 1) && !io->ctx->failed; i++) {
        io->path = dl__version(name, size, path, i);
        io->file = fopen(io->path, "rb");
        if (!io->file) continue;
        const char *why = dl__snapshot_wrong(io);
        if (!why) return true;
        fclose(io->file);
        io->file = NULL;
        dl__release(io->ctx, io->entry);
        io->entry = NULL;
        dl__say(io->ctx, "dl_snapshot_load: '%s': %s", io->path, why);
        if (!wrong) wrong = why, snprintf(first, sizeof first, "%s", io->path);
    }
    return wrong ? dl_fail(io->ctx, "dl_snapshot_load: '%s': %s", first, wrong)
                 : dl_fail(io->ctx, "dl_snapshot_load: cannot open '%s' for reading", path);
}

/* What rank 0 has opened, for the others: the header. */
static bool dl__snapshot_share(dl__io *io)
{
    uint64_t length = io->file ? io->data - 8 : 0, at[2];
    at[0] = length;
    at[1] = io->entries ? io->entry[io->entries - 1].end : 0;
    if (!dl_broadcast(io->comm, at, sizeof at, 0)) return false;
    size_t most = (size_t)at[0] / 48 + 1;
    void *block = dl__alloc(io->ctx, most * sizeof *io->entry + (size_t)at[0] + 1, 0);
    if (!block) return false;
    char *text = (char *)block + most * sizeof *io->entry;
    bool ok = dl__fetch(io, 8, text, (size_t)at[0]);
    if (io->file) return dl__release(io->ctx, block), ok;
    dl__json j;
    memset(&j, 0, sizeof j);
    j.at = text;
    io->entry = (dl__entry *)block;
    io->data = 8 + at[0];
    return ok &&
        ((dl__json_header(&j, io->entry, most, &io->entries) && !dl__entries_wrong(io->entry, io->entries, at[1])) ||
            dl_fail(io->ctx, "dl_snapshot_load: '%s' arrived damaged from rank 0", io->path));
}

static bool dl__same_count(dl__io *io, const char *what, int64_t theirs, int64_t ours)
{
    return theirs == ours ||
        dl_fail(io->ctx, "dl_snapshot_load: '%s' has %td %s, the program %td", io->path, (ptrdiff_t)theirs, what,
            (ptrdiff_t)ours);
}

static bool dl__tables_wrong(dl__io *io)
{
    return dl_fail(io->ctx, "dl_snapshot_load: '%s': its tables do not fit its tensors", io->path);
}

static bool dl__is_count(int64_t v) { return v >= 0 && v <= (int64_t)1 << 53; }

static bool dl__same_shards(const dl__io *io, const dl__snapshot *s)
{
    int64_t shards = io->comm ? io->comm->world->desc.invariant_shards : 0;
    return shards && shards == s->run[DL__RUN_SHARDS];
}

/* This rank's part of the file; of that of another world what rank 0 has, which comes to the end of its data last. */
static const int64_t *dl__rank_row(const dl__io *io, const dl__snapshot *s)
{
    int rank = s->run[DL__RUN_WORLD] == dl_comm_size(io->comm) ? dl_comm_rank(io->comm) : 0;
    return s->rank + rank * DL__RANK_FIELDS;
}

/* The batches of the epoch that a loader has had; in another world they may be cut in more parts or in fewer.
   -1: inside of one. */
static int64_t dl__batches_done(const int64_t *t, const dl_loader *l)
{
    int64_t per = (int64_t)l->per;
    if (t[DL__LOAD_PER] == per) return t[DL__LOAD_DONE];
    return t[DL__LOAD_DONE] % t[DL__LOAD_PER] ? -1 : t[DL__LOAD_DONE] / t[DL__LOAD_PER] * per;
}

/* Does the first table suit the program? */
static bool dl__check_run(dl__io *io, const dl__snapshot *s)
{
    const int64_t *t = s->run;
    const dl_snapshot_desc *d = s->d;
    int64_t optimizers = 0, accumulators = 0, loaders = 0;
    for (int i = 0; i < DL__SNAPSHOT_EACH && d->optimizer[i]; i++) optimizers++;
    for (int i = 0; i < DL__SNAPSHOT_EACH && d->accumulator[i]; i++) accumulators++;
    for (int i = 0; i < DL__SNAPSHOT_EACH && d->loader[i]; i++) loaders++;
    if (t[DL__RUN_VERSION] != DL__SNAPSHOT_VERSION)
        return dl_fail(io->ctx, "dl_snapshot_load: '%s' is of version %td; this dltrain reads %d", io->path,
            (ptrdiff_t)t[DL__RUN_VERSION], (int)DL__SNAPSHOT_VERSION);
    if (t[DL__RUN_SEED] != (int64_t)io->ctx->config.seed)
        return dl_fail(io->ctx, "dl_snapshot_load: '%s' is a run of seed %zu, this context has seed %zu", io->path,
            (size_t)t[DL__RUN_SEED], (size_t)io->ctx->config.seed);
    if (t[DL__RUN_WORLD] < 1 || t[DL__RUN_WORLD] > INT32_MAX || t[DL__RUN_PARAMS] < 0 || t[DL__RUN_SERIES] < 0 ||
        (uint64_t)t[DL__RUN_PARAMS] > io->entries || (uint64_t)t[DL__RUN_SERIES] > io->entries)
        return dl__tables_wrong(io);
    if (t[DL__RUN_WORLD] != dl_comm_size(io->comm) && !d->any_world && !dl__same_shards(io, s))
        return dl_fail(io->ctx,
            "dl_snapshot_load: '%s' is of a world of %td ranks, this one has %d: with any_world the run goes on all "
            "the same, in other batches; in one of the same invariant_shards it would be exact",
            io->path, (ptrdiff_t)t[DL__RUN_WORLD], dl_comm_size(io->comm));
    return dl__same_count(io, "optimizers", t[DL__RUN_OPTIMIZERS], optimizers) &&
        dl__same_count(io, "accumulators", t[DL__RUN_ACCUMULATORS], accumulators) &&
        dl__same_count(io, "loaders", t[DL__RUN_LOADERS], loaders) &&
        dl__same_count(io, "numbers of the program", t[DL__RUN_NUMBERS], (int64_t)d->numbers) &&
        dl__same_count(io, "histories", t[DL__RUN_HISTORY], d->history != NULL);
}

/* Do the other tables? */
static bool dl__check_tables(dl__io *io, const dl__snapshot *s)
{
    for (int i = 0; i < s->run[DL__RUN_OPTIMIZERS]; i++) {
        const int64_t *t = s->optimizer[i];
        const dl_optimizer *o = s->d->optimizer[i];
        if (t[DL__OPT_SETTINGS] != (int64_t)dl__settings(o))
            return dl_fail(io->ctx,
                "dl_snapshot_load: '%s': optimizer %d is of another kind, or has other settings, groups or "
                "parameters than in the file; dl_load takes the parameters alone",
                io->path, i);
        double lr = dl__double_from(t[DL__OPT_LR]);
        if (!dl__is_count(t[DL__OPT_STEPS]) || !dl__is_count(t[DL__OPT_START]) || !(lr >= 0 && lr < HUGE_VAL))
            return dl__tables_wrong(io);
        if (t[DL__OPT_SCHEDULED] && !o->scheduled)
            return dl_fail(io->ctx,
                "dl_snapshot_load: '%s': optimizer %d follows a schedule: call dl_set_schedule before dl_snapshot_load",
                io->path, i);
    }
    for (int i = 0; i < s->run[DL__RUN_ACCUMULATORS]; i++) {
        const int64_t *t = s->accumulator[i];
        double count = dl__double_from(t[DL__ACC_COUNT]);
        if (t[DL__ACC_DONE] < 0 || !(count >= 0 && count < HUGE_VAL)) return dl__tables_wrong(io);
        if (t[DL__ACC_DONE] >= s->d->accumulator[i]->steps)
            return dl_fail(io->ctx,
                "dl_snapshot_load: '%s': %td micro-batches of a window are done; accumulator %d makes windows of %d",
                io->path, (ptrdiff_t)t[DL__ACC_DONE], i, s->d->accumulator[i]->steps);
    }
    for (int i = 0; i < s->run[DL__RUN_LOADERS]; i++) {
        const int64_t *t = dl__rank_row(io, s) + DL__RANK_LOADERS + i * DL__LOAD_FIELDS;
        const dl_loader *l = s->d->loader[i];
        if (!dl__same_count(io, "samples", t[DL__LOAD_SAMPLES], (int64_t)l->data->desc.count)) return false;
        if (t[DL__LOAD_DONE] < 0 || t[DL__LOAD_PER] < 1 || t[DL__LOAD_PER] > INT32_MAX || t[DL__LOAD_BATCH] < 1 ||
            t[DL__LOAD_DONE] > (int64_t)1 << 31 || t[DL__LOAD_BATCH] > INT64_MAX >> 32)
            return dl__tables_wrong(io);
        if (t[DL__LOAD_BEGUN] && !s->d->any_world &&
            (t[DL__LOAD_BATCH] != dl__batch_of_all(l) || dl__batches_done(t, l) < 0))
            return dl_fail(io->ctx,
                "dl_snapshot_load: '%s' is in the middle of an epoch in batches of %td, loader %d makes batches of %td",
                io->path, (ptrdiff_t)t[DL__LOAD_BATCH], i, (ptrdiff_t)dl__batch_of_all(l));
    }
    return true;
}

/* The file's parameters: those that the program has are the same; the others are created. */
static bool dl__create_params(dl__io *io, const dl__snapshot *s)
{
    dl_context *ctx = io->ctx;
    int n = (int)s->run[DL__RUN_PARAMS];
    if (ctx->params > n)
        return dl_fail(ctx, "dl_snapshot_load: '%s' has no '%s', which the program has", io->path, ctx->param[n].name);
    for (int i = 0; i < n; i++) {
        const int32_t *row = s->row + i * DL__ROW_FIELDS;
        const dl__entry *e = &io->entry[io->next + (size_t)i];
        dl_param_desc d;
        uint32_t u;
        if (io->next + (size_t)i >= io->entries || !dl__is_value(e) || strlen(e->name) >= DLTRAIN_NAME_MAX ||
            row[DL__ROW_INIT] < 0 || row[DL__ROW_INIT] > DL_INIT_CONSTANT)
            return dl__tables_wrong(io);
        memset(&d, 0, sizeof d);
        memcpy(&u, &row[DL__ROW_VALUE], 4);
        d.shape = e->shape;
        d.init = (dl_init)row[DL__ROW_INIT];
        d.value = dl__from_bits(u);
        d.buffer = row[DL__ROW_FLAGS] & DL__ROW_BUFFER;
        if (i >= ctx->params && ctx->sealed)
            return dl_fail(ctx, "dl_snapshot_load: '%s' has '%s', which the program has not", io->path, e->name);
        if (i >= ctx->params && !dl__new_param_like(ctx, e->name, &d, e->numel)) return false;
        if (ctx->param[i].buffer != d.buffer)
            return dl_fail(
                ctx, "dl_snapshot_load: '%s': '%s' is a buffer in one and a parameter in the other", io->path, e->name);
    }
    return true;
}

/* Memory for what the file has. */
static bool dl__make_room(dl__io *io, const dl__snapshot *s)
{
    dl_context *ctx = io->ctx;
    bool any = false;
    for (int i = 0; i < ctx->params; i++) {
        int32_t flags = s->row[i * DL__ROW_FIELDS + DL__ROW_FLAGS];
        any = any || flags & DL__ROW_GRAD;
        if (flags & DL__ROW_GRAD && flags & DL__ROW_BUFFER)
            return dl__tables_wrong(io);
    }
    if (!dl__lay_out(ctx) || (any && !dl__lay_out_grads(ctx)) || !dl__all_to_host(ctx, true) ||
        (s->run[DL__RUN_SEALED] && !dl_seal(ctx)))
        return false;
    for (int i = 0; i < s->run[DL__RUN_OPTIMIZERS]; i++) {
        dl_optimizer *o = s->d->optimizer[i];
        bool state = s->optimizer[i][DL__OPT_STATE];
        if (state && !dl__make_state(o)) return false;
        if (state && !o->age) return dl__tables_wrong(io);
        if (!state && o->age) memset(o->age, 0, (size_t)ctx->params * sizeof *o->age);
    }
    return true;
}

/* From the tables to the program. */
static void dl__unpack(dl__io *io, const dl__snapshot *s)
{
    dl_context *ctx = io->ctx;
    const int64_t *mine = dl__rank_row(io, s);
    dl_end(ctx);
    ctx->random_step = (uint64_t)mine[DL__RANK_STEP] - 1;
    if (ctx->comm) ctx->comm->step = (uint64_t)s->run[DL__RUN_REDUCTIONS];
    for (int i = 0; i < ctx->params; i++) {
        int32_t flags = s->row[i * DL__ROW_FIELDS + DL__ROW_FLAGS];
        ctx->param[i].frozen = flags & DL__ROW_FROZEN;
        ctx->param[i].fresh = !(flags & DL__ROW_GRAD);
    }
    for (int i = 0; i < s->run[DL__RUN_OPTIMIZERS]; i++) {
        const int64_t *t = s->optimizer[i];
        dl_optimizer *o = s->d->optimizer[i];
        o->steps = t[DL__OPT_STEPS];
        o->schedule_start = t[DL__OPT_START];
        if (!t[DL__OPT_SCHEDULED]) o->scheduled = NULL;
        o->lr = dl__double_from(t[DL__OPT_LR]);
    }
    for (int i = 0; i < s->run[DL__RUN_ACCUMULATORS]; i++) {
        s->d->accumulator[i]->done = (int)s->accumulator[i][DL__ACC_DONE];
        s->d->accumulator[i]->count = dl__double_from(s->accumulator[i][DL__ACC_COUNT]);
    }
    for (int i = 0; i < s->run[DL__RUN_LOADERS]; i++) {
        const int64_t *t = mine + DL__RANK_LOADERS + i * DL__LOAD_FIELDS;
        dl_loader *l = s->d->loader[i];
        int64_t done = dl__batches_done(t, l);
        if (t[DL__LOAD_BATCH] != dl__batch_of_all(l) || done < 0) /* any_world: as near as can be */
            done = t[DL__LOAD_DONE] / t[DL__LOAD_PER] * t[DL__LOAD_BATCH] / dl__batch_of_all(l) * (int64_t)l->per;
        dl_loader_rewind(l, (uint64_t)t[DL__LOAD_EPOCH]);
        if (!t[DL__LOAD_BEGUN]) continue;
        dl__begin_epoch(l);
        for (size_t n; (int64_t)l->done < done && (n = dl__batch_size(l, l->at, l->done)) != 0; l->done++) l->at += n;
    }
}

static bool dl__snapshot_read(dl__io *io, dl__snapshot *s)
{
    io->ok = true;
    io->phase = DL__READ;
    if (!dl__table(io, "dltrain", -1, s->run, DL__RUN_FIELDS) || !dl__check_run(io, s)) return false;
    /* no larger than the file: can be trusted */
    const dl__entry *ranks = io->next < io->entries ? &io->entry[io->next] : NULL;
    if (!ranks || ranks->numel != (size_t)s->run[DL__RUN_WORLD] * DL__RANK_FIELDS) return dl__tables_wrong(io);
    if (!dl__snapshot_room(io->ctx, s, (size_t)s->run[DL__RUN_WORLD], (size_t)s->run[DL__RUN_PARAMS])) return false;
    dl__visit_tables(io, s);
    if (!io->ok || !dl__check_tables(io, s) || !dl__create_params(io, s) || !dl__make_room(io, s)) return false;
    size_t values = io->next;
    for (int phase = DL__CHECK; phase <= DL__READ; phase++) {
        io->phase = (dl__phase)phase;
        io->next = values;
        dl__visit_values(io, s);
        if (io->ok && io->next + 1 != io->entries)
            io->ok = dl_fail(io->ctx, "dl_snapshot_load: '%s' has '%s', which the program has not", io->path,
                io->entry[io->next].name);
        if (!io->ok) return false;
    }
    for (int i = 0; i < s->run[DL__RUN_OPTIMIZERS]; i++)
        for (int k = 0; s->optimizer[i][DL__OPT_STATE] && k < io->ctx->params; k++)
            if (s->d->optimizer[i]->age[k] < 0 || s->d->optimizer[i]->age[k] == INT32_MAX) return dl__tables_wrong(io);
    dl__unpack(io, s);
    return true;
}

DL_API bool dl_snapshot_load(dl_context *ctx, const char *path, const dl_snapshot_desc *run)
{
    char name[1040];
    dl__snapshot s;
    dl__io io;
    if (!ctx || ctx->failed || !dl__snapshot_desc_ok(ctx, "snapshot_load", run)) return false;
    dl_end(ctx);
    memset(&s, 0, sizeof s);
    memset(&io, 0, sizeof io);
    s.d = run;
    io.ctx = ctx;
    io.comm = ctx->comm;
    io.who = "snapshot_load";
    io.path = path;
    bool ok = dl_comm_rank(io.comm) || dl__snapshot_open(&io, path, name, sizeof name, run->keep);
    ok = ok && (dl_comm_size(io.comm) == 1 || dl__snapshot_share(&io)) && dl__snapshot_read(&io, &s);
    if (io.file) fclose(io.file);
    dl__release(ctx, s.rank);
    dl__release(ctx, io.entry);
    return ok;
}

DL_API bool dl_snapshot_exists(dl_context *ctx, const char *path, const dl_snapshot_desc *run)
{
    char name[1040];
    int32_t found = 0;
    if (!ctx || ctx->failed) return false;
    for (int i = 0; path && !dl_comm_rank(ctx->comm) && !found && i < DL__MAX(run ? run->keep : 1, 1); i++) {
        FILE *f = fopen(dl__version(name, sizeof name, path, i), "rb");
        if (!f) continue;
        fclose(f);
        found = 1;
    }
    return dl_broadcast(ctx->comm, &found, sizeof found, 0) && found;
}
#endif /* DLTRAIN_NO_FILES */

#ifndef DLTRAIN_NO_STDIO
/* ==== >>progress ====
   A line on a terminal.
   may use: platform */
static bool dl__is_terminal(dl_progress *p)
{
#if defined(_POSIX_VERSION)
    if (!p->terminal) p->terminal = isatty(1) ? 1 : -1;
#else
    p->terminal = -1;
#endif
    return p->terminal > 0;
}

DL_API void dl_progress_show(dl_progress *p, const char *format, ...)
{
    va_list args;
    double now;
    if (!p || !format || !dl__is_terminal(p) || (now = 1e-6 * (double)dl__microseconds()) < p->next) return;
    p->next = now + 0.05;
    va_start(args, format);
    fputc('\r', stdout);
    int n = vprintf(format, args);
    va_end(args);
    for (int i = n; i < p->width; i++) fputc(' ', stdout);
    p->width = n;
    fflush(stdout);
}

DL_API void dl_progress_done(dl_progress *p, const char *format, ...)
{
    va_list args;
    if (!p || !format) return;
    if (dl__is_terminal(p)) fputc('\r', stdout);
    va_start(args, format);
    int n = vprintf(format, args);
    va_end(args);
    for (int i = n; p->terminal > 0 && i < p->width; i++) fputc(' ', stdout);
    fputc('\n', stdout);
    p->width = 0;
    p->next = 0;
    fflush(stdout);
}
#endif

/* ==== >>trainer ====
   Epochs, evaluation and snapshots in one call.
   may use: optimizers, parallel, data, snapshots, progress */

/* Sums over the ranks, in their order: doubles, which the reductions are not. */
static bool dl__sum_of_ranks(dl_context *ctx, double *v, int n)
{
    int world = dl_comm_size(ctx->comm);
    double *all = world > 1 ? (double *)dl__alloc(ctx, (size_t)(world * n) * sizeof *all, 0) : NULL;
    if (world == 1) return !ctx->failed;
    bool ok = all && dl_all_gather(ctx->comm, v, all, (size_t)n * sizeof *v);
    for (int i = 0; ok && i < n; i++) {
        v[i] = 0;
        for (int r = 0; r < world; r++) v[i] += all[r * n + i];
    }
    dl__release(ctx, all);
    return ok;
}

DL_API double dl_evaluate(dl_loader *loader, dl_tensor (*metric)(const dl_batch *batch, void *user), void *user)
{
    double sums[2] = { 0, 0 };
    dl_batch b;
    if (!loader || loader->ctx->failed) return dl__nan();
    dl_context *ctx = loader->ctx;
    if (!metric) return dl_fail(ctx, "dl_evaluate: metric is NULL"), dl__nan();
    bool training = dl_train(ctx, false), recording = dl_set_grad(ctx, false);
    while (dl_next(loader, &b)) {
        sums[0] += dl_item(metric(&b, user)) * (double)b.count;
        sums[1] += (double)b.count;
    }
    dl_end(ctx);
    dl_train(ctx, training);
    dl_set_grad(ctx, recording);
    return dl__sum_of_ranks(ctx, sums, 2) && sums[1] > 0 ? sums[0] / sums[1] : dl__nan();
}

#ifndef DLTRAIN_NO_FILES
/* The numbers of a snapshot: epochs done; of this one windows done, loss times samples, samples; the last metric. */
enum { DL__T_EPOCH, DL__T_WINDOW, DL__T_LOSS, DL__T_COUNT, DL__T_METRIC, DL__T_FIELDS };
typedef struct dl__trainer {
    dl_context *ctx;
    const dl_trainer_desc *d;
    dl_accumulator *acc;
    dl_snapshot_desc run;
    double number[DL__T_FIELDS];
    int64_t saved;           /* steps of the optimizer at the last snapshot */
    size_t common;           /* windows of an epoch in which every rank has data: there all can meet for a snapshot */
    dl_progress line;
} dl__trainer;

static bool dl__trainer_save(dl__trainer *t)
{
    double *sums = t->number + DL__T_LOSS;
    if (!dl__sum_of_ranks(t->ctx, sums, 2)) return false;
    if (dl_comm_rank(t->ctx->comm)) sums[0] = sums[1] = 0; /* rank 0 has it all: as it is after resuming */
    t->saved = t->d->optimizer->steps;
    return dl_snapshot_save(t->ctx, t->d->snapshot, &t->run);
}

static bool dl__trainer_resume(dl__trainer *t, dl_trainer_state *state)
{
    const dl_trainer_desc *d = t->d;
    if (!dl_snapshot_exists(t->ctx, d->snapshot, &t->run)) return !t->ctx->failed;
    if (!dl_snapshot_load(t->ctx, d->snapshot, &t->run)) return false;
    if (dl_comm_rank(t->ctx->comm)) t->number[DL__T_LOSS] = t->number[DL__T_COUNT] = 0;
    state->epoch = (int)t->number[DL__T_EPOCH];
    state->steps = t->saved = d->optimizer->steps;
    if (d->resumed) d->resumed(state, d->user);
    return true;
}

/* Of one rank; the least of all is wanted. */
static bool dl__trainer_meet(dl__trainer *t)
{
    dl_real windows = (dl_real)-1 * (dl_real)(dl_loader_batches(t->d->train) / (size_t)t->acc->steps);
    bool ok = dl_all_reduce(t->ctx->comm, &windows, 1, DL_COMM_MAX);
    t->common = (size_t)-windows;
    return ok;
}

static bool dl__trainer_due(const dl__trainer *t)
{
    return t->d->snapshot && t->d->save_steps > 0 && t->d->optimizer->steps - t->saved >= t->d->save_steps;
}

static bool dl__trainer_epoch(dl__trainer *t)
{
    const dl_trainer_desc *d = t->d;
    dl_context *ctx = t->ctx;
    double *n = t->number;
    dl_batch b;
    while (dl_next(d->train, &b)) {
        dl_tensor loss = d->loss(&b, d->user);
        if (!dl_accumulate(t->acc, loss, b.count)) return false;
        n[DL__T_LOSS] += dl_item(loss) * (double)b.count;
        n[DL__T_COUNT] += (double)b.count;
        if (!d->quiet && !dl_comm_rank(ctx->comm))
            dl_progress_show(&t->line, "epoch %d/%d  %3.0f%%  loss %.4f", (int)n[DL__T_EPOCH] + 1, d->epochs,
                100 * (double)d->train->at / (double)d->train->count, n[DL__T_LOSS] / n[DL__T_COUNT]);
        if (t->acc->done) continue;
        n[DL__T_WINDOW]++;
        if (dl__trainer_due(t) && n[DL__T_WINDOW] < (double)t->common && !dl__trainer_save(t)) return false;
    }
    return dl_accumulator_flush(t->acc) && dl__sum_of_ranks(ctx, n + DL__T_LOSS, 2);
}

static bool dl__trainer_end_epoch(dl__trainer *t, dl_trainer_state *state)
{
    const dl_trainer_desc *d = t->d;
    double *n = t->number;
    state->epoch = (int)++n[DL__T_EPOCH];
    state->steps = d->optimizer->steps;
    state->loss = n[DL__T_LOSS] / n[DL__T_COUNT];
    if (d->test) state->metric = n[DL__T_METRIC] = dl_evaluate(d->test, d->metric, d->user);
    n[DL__T_WINDOW] = n[DL__T_LOSS] = n[DL__T_COUNT] = 0;
    if (t->ctx->failed) return false;
    if (d->history && !dl_history_add(d->history, "loss", state->epoch, state->loss)) return false;
    if (d->history && d->test && !dl_history_add(d->history, "metric", state->epoch, state->metric)) return false;
    if (d->epoch_done) d->epoch_done(state, d->user);
    else if (!d->quiet && !dl_comm_rank(t->ctx->comm) && d->test)
        dl_progress_done(
            &t->line, "epoch %d/%d  loss %.4f  metric %.4f", state->epoch, d->epochs, state->loss, state->metric);
    else if (!d->quiet && !dl_comm_rank(t->ctx->comm))
        dl_progress_done(&t->line, "epoch %d/%d  loss %.4f", state->epoch, d->epochs, state->loss);
    bool due = d->save_epochs > 0 ? state->epoch % d->save_epochs == 0 : d->save_steps <= 0;
    return !d->snapshot || !(due || dl__trainer_due(t) || state->epoch == d->epochs) || dl__trainer_save(t);
}

DL_API bool dl_trainer_run(dl_context *ctx, const dl_trainer_desc *desc)
{
    dl__trainer t;
    dl_trainer_state state;
    if (!ctx || ctx->failed) return false;
    if (!desc || !desc->train || !desc->optimizer || !desc->loss || desc->epochs < 1)
        return dl_fail(ctx, "dl_trainer_run: train, optimizer, loss and at least one epoch are required");
    if (desc->test && !desc->metric) return dl_fail(ctx, "dl_trainer_run: test without metric");
    if (ctx->parts && desc->train->per != (size_t)ctx->parts)
        return dl_fail(
            ctx, "dl_trainer_run: with invariant_shards train needs DL_SPLIT_BATCH: its batches come in shards then");
    memset(&t, 0, sizeof t);
    memset(&state, 0, sizeof state);
    t.ctx = ctx;
    t.d = desc;
    t.acc = dl_accumulator_create(desc->optimizer, &desc->accumulate);
    if (!t.acc) return false;
    t.number[DL__T_METRIC] = state.metric = dl__nan();
    state.epochs = desc->epochs;
    t.run.optimizer[0] = desc->optimizer;
    t.run.accumulator[0] = t.acc;
    t.run.loader[0] = desc->train;
    t.run.loader[1] = desc->test;
    t.run.history = desc->history;
    t.run.number = t.number;
    t.run.numbers = DL__T_FIELDS;
    t.run.keep = desc->keep;
    t.run.any_world = desc->any_world;
    if (!dl__trainer_meet(&t) || (desc->snapshot && !dl__trainer_resume(&t, &state))) return false;
    while (t.number[DL__T_EPOCH] < desc->epochs)
        if (!dl__trainer_epoch(&t) || !dl__trainer_end_epoch(&t, &state)) return false;
    return true;
}
#endif /* DLTRAIN_NO_FILES */

#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#pragma clang diagnostic pop
#elif defined(__GNUC__)
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
#endif /* DLTRAIN_IMPLEMENTATION */

#ifndef DL__LICENCE
#define DL__LICENCE
/* MIT License

   Copyright (c) 2026 the dltrain authors

   Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
   documentation files (the "Software"), to deal in the Software without restriction, including without limitation
   the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software,
   and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

   The above copyright notice and this permission notice shall be included in all copies or substantial
   portions of the Software.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
   WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS
   OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
   OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
#endif
