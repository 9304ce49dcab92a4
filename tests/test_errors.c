/* Error sentences: every public function given what it cannot take. Never a crash; always a sentence that names the operation and what was
   given or would be right; and after dl_clear_error the context works on. */
#include "../dltrain.h"
#include "test.h"

/* One line of the report; reason NULL: passed. */
static void verdict(const char *table, const char *name, const char *reason)
{
    char line[512];
    snprintf(line, sizeof line, "%s: %s", table, name);
    test__begin(line);
    CHECK(!reason, "%s", reason ? reason : "");
    test__end();
}

/* ---- small tensors ---- */
static const dl_real zeros[65536];
static dl_tensor f_(dl_context *c, dl_shape s) { return dl_input(c, DL_F32, s, zeros); }
static dl_tensor i_(dl_context *c, dl_shape s) { return dl_input(c, DL_I32, s, zeros); }
static dl_tensor v_(dl_context *c, dl_shape s) { return dl_variable(c, s, zeros); }
#define F(...) f_(c, DL_SHAPE(__VA_ARGS__))
#define I(...) i_(c, DL_SHAPE(__VA_ARGS__))
#define V(...) v_(c, DL_SHAPE(__VA_ARGS__))
#define INTS(n, ...) dl_input(c, DL_I32, DL_SHAPE(n), (int32_t[]){ __VA_ARGS__ })
#define LIST(...) (dl_tensor[]){ __VA_ARGS__ }
#define DIMS(...) (int[]){ __VA_ARGS__ }
static const dl_tensor none; /* a failed tensor */

/* Does the context still compute 1 + 2? */
static bool works(dl_context *c)
{
    dl_real one[1] = { 1 }, two[1] = { 2 };
    dl_tensor y = dl_add(dl_input(c, DL_F32, DL_SHAPE(1), one), dl_input(c, DL_F32, DL_SHAPE(1), two));
    bool ok = dl_item(y) == 3;
    dl_end(c);
    return ok && !dl_failed(c);
}

/* Says the sentence all that `parts` asks for, separated by '|'? The first part is how it starts. NULL, or what is wrong with it. */
static const char *judge(dl_context *c, const char *parts)
{
    static char text[2048];
    const char *error = dl_error(c);
    if (!dl_failed(c)) return "no error";
    if (!*error) return "an error without a sentence";
    for (const char *p = parts; *p;) {
        size_t n = strcspn(p, "|");
        char part[128];
        snprintf(part, sizeof part, "%.*s", (int)n, p);
        const char *found = strstr(error, part);
        if (!found || (p == parts && found != error)) {
            snprintf(text, sizeof text, "'%s' is not %s '%s'", part, p == parts ? "the start of" : "in", error);
            return text;
        }
        p += n + (p[n] == '|');
    }
    dl_clear_error(c);
    if (dl_failed(c) || *dl_error(c)) return "dl_clear_error left the error";
    return works(c) ? NULL : "the context does not work after dl_clear_error";
}

/* ---- 1. wrong arguments: an expression that gives a failed tensor, or one whose values cannot be had ---- */
#define TENSORS(X) \
    /* tensors */ \
    X(input_null, dl_input(c, DL_F32, DL_SHAPE(2, 3), NULL), "dl_input: |NULL|[2,3]") \
    X(input_dtype, dl_input(c, (dl_dtype)9, DL_SHAPE(2), zeros), "dl_input: |9") \
    X(input_negative, dl_input(c, DL_F32, DL_SHAPE(2, -3), zeros), "dl_input: |[2,-3]") \
    X(input_huge, dl_input(c, DL_F32, DL_SHAPE(PTRDIFF_MAX, 8), zeros), "dl_input: |8]") \
    X(input_dims, dl_input(c, DL_F32, (dl_shape){ .ndim = 99 }, zeros), "dl_input: |99") \
    X(borrow_null, dl_borrow(c, DL_F32, DL_SHAPE(2, 3), NULL), "dl_borrow: |NULL|[2,3]") \
    X(variable_null, dl_variable(c, DL_SHAPE(2, 3), NULL), "dl_variable: |NULL|[2,3]") \
    X(full_negative, dl_full(c, DL_SHAPE(-1), 0), "dl_full: |[-1]") \
    X(rand_negative, dl_rand(c, DL_SHAPE(-1)), "dl_rand: |[-1]") \
    X(randn_negative, dl_randn(c, DL_SHAPE(-1)), "dl_randn: |[-1]") \
    /* elementwise */ \
    X(neg_dtype, dl_neg(I(3)), "dl_neg: |DL_F32|DL_I32") \
    X(add_shapes, dl_add(F(2, 3), F(2, 4)), "dl_add: |[2,3]|[2,4]") \
    X(sub_dtype, dl_sub(F(3), I(3)), "dl_sub: |DL_F32|DL_I32") \
    X(mul_shapes, dl_mul(F(5, 3), F(5)), "dl_mul: |[5,3]|[5]") \
    X(div_shapes, dl_div(F(5, 3), F(5)), "dl_div: |[5,3]|[5]") \
    X(pow_shapes, dl_pow(F(5, 3), F(5)), "dl_pow: |[5,3]|[5]") \
    X(maximum_shapes, dl_maximum(F(5, 3), F(5)), "dl_maximum: |[5,3]|[5]") \
    X(minimum_shapes, dl_minimum(F(5, 3), F(5)), "dl_minimum: |[5,3]|[5]") \
    X(eq_shapes, dl_eq(F(5, 3), F(5)), "dl_eq: |[5,3]|[5]") \
    X(where_shapes, dl_where(F(2), F(3), F(3)), "dl_where: |[2]|[3]") \
    X(clamp_order, dl_clamp(F(2), 3, 1), "dl_clamp: |3|1") \
    X(dropout_p, dl_dropout(F(2), 1.5f), "dl_dropout: |1.5") \
    X(dropout_nan, dl_dropout(F(2), (float)NAN), "dl_dropout: ") \
    X(to_float_float, dl_to_float(none), NULL) \
    /* reductions */ \
    X(sum_dtype, dl_sum(I(3)), "dl_sum|DL_F32|DL_I32") \
    X(mean_dtype, dl_mean(I(3)), "dl_mean|DL_F32|DL_I32") \
    X(sum_dim, dl_sum_dims(F(2, 3), DIMS(2), 1, false), "dl_sum_dims: |2") \
    X(sum_twice, dl_sum_dims(F(2, 3), DIMS(1, -1), 2, false), "dl_sum_dims: |1") \
    X(sum_null, dl_sum_dims(F(2, 3), NULL, 2, false), "dl_sum_dims: |NULL") \
    X(sum_count, dl_sum_dims(F(2, 3), DIMS(0), -1, false), "dl_sum_dims: |-1") \
    X(mean_dim, dl_mean_dims(F(2, 3), DIMS(-3), 1, false), "dl_mean_dims: |-3") \
    X(max_dim, dl_max_dims(F(2, 3), DIMS(5), 1, false), "dl_max_dims: |5") \
    X(max_empty, dl_max_dims(F(0, 3), DIMS(0), 1, false), "dl_max_dims: |[0,3]") \
    X(min_empty, dl_min_dims(F(0, 3), DIMS(0), 1, false), "dl_min_dims: |[0,3]") \
    X(var_dim, dl_var_dims(F(2, 3), DIMS(5), 1, false, 0), "dl_var_dims: |5") \
    X(logsumexp_dim, dl_logsumexp_dims(F(2, 3), DIMS(5), 1, false), "dl_logsumexp_dims: |5") \
    X(norm_dim, dl_norm_dims(F(2, 3), DIMS(5), 1, false), "dl_norm_dims: |5") \
    X(argmax_dim, dl_argmax(F(2, 3), 2, false), "dl_argmax: |2") \
    X(argmax_empty, dl_argmax(F(2, 0), 1, false), "dl_argmax: |[2,0]") \
    X(argmin_dim, dl_argmin(F(2, 3), -3, false), "dl_argmin: |-3") \
    /* moving */ \
    X(reshape_count, dl_reshape(F(2, 3), DL_SHAPE(7)), "dl_reshape: |6|[2,3]|[7]") \
    X(reshape_open, dl_reshape(F(2, 3), DL_SHAPE(4, -1)), "dl_reshape: |[2,3]|[4,-1]") \
    X(reshape_two_open, dl_reshape(F(2, 3), DL_SHAPE(-1, -1)), "dl_reshape: |[2,3]|[-1,-1]") \
    X(reshape_empty_open, dl_reshape(F(0, 3), DL_SHAPE(0, -1)), "dl_reshape: |[0,3]|[0,-1]") \
    X(reshape_negative, dl_reshape(F(2, 3), DL_SHAPE(-2, -3)), "dl_reshape: |[2,3]|[-2,-3]") \
    X(reshape_dims, dl_reshape(F(2), (dl_shape){ .ndim = 99 }), "dl_reshape: |99|DLTRAIN_MAX_DIMS") \
    X(flatten_dim, dl_flatten(F(2, 3), 2), "dl_flatten: |2") \
    X(permute_twice, dl_permute(F(2, 3), DIMS(1, 1)), "dl_permute: |[2,3]|1") \
    X(permute_dim, dl_permute(F(2, 3), DIMS(0, 2)), "dl_permute: |2") \
    X(permute_null, dl_permute(F(2, 3), NULL), "dl_permute: |NULL|[2,3]") \
    X(transpose_dim, dl_transpose(F(2, 3), 0, 2), "dl_transpose: |2") \
    X(slice_dim, dl_slice(F(2, 3), 2, 0, 1, 1), "dl_slice: |2") \
    X(slice_step, dl_slice(F(2, 3), 0, 0, 1, 0), "dl_slice: step 0|positive") \
    X(concat_shapes, dl_concat(LIST(F(2, 3), F(3, 3)), 2, 1), "dl_concat: |[2,3]|[3,3]|1") \
    X(concat_ndim, dl_concat(LIST(F(2, 3), F(3)), 2, 0), "dl_concat: |[2,3]|[3]") \
    X(concat_dtype, dl_concat(LIST(F(3), I(3)), 2, 0), "dl_concat: |DL_F32|DL_I32") \
    X(concat_dim, dl_concat(LIST(F(3), F(3)), 2, 1), "dl_concat: |1") \
    X(stack_shapes, dl_stack(LIST(F(3), F(4)), 2, 0), "dl_stack: |[3]|[4]") \
    X(stack_dim, dl_stack(LIST(F(3), F(3)), 2, 2), "dl_stack: |2") \
    X(expand_shape, dl_expand(F(2, 3), DL_SHAPE(4, 3)), "dl_expand: |[2,3]|[4,3]") \
    X(expand_fewer, dl_expand(F(2, 3), DL_SHAPE(3)), "dl_expand: |[2,3]|[3]") \
    X(expand_new_open, dl_expand(F(3), DL_SHAPE(-1, 3)), "dl_expand: |[3]|[-1,3]") \
    X(pad_negative, dl_pad(F(2, 3), (dl_index[]){ -1, 0 }, 2, 0), "dl_pad: |-1|[2,3]") \
    X(pad_odd, dl_pad(F(2, 3), (dl_index[]){ 1, 0, 1 }, 3, 0), "dl_pad: |3|[2,3]") \
    X(pad_many, dl_pad(F(2), (dl_index[]){ 1, 0, 1, 0 }, 4, 0), "dl_pad: |4|[2]") \
    X(pad_null, dl_pad(F(2), NULL, 2, 0), "dl_pad: ") \
    X(pad_value, dl_pad(I(2), (dl_index[]){ 1, 0 }, 2, 1e10f), "dl_pad: |1e+10|DL_I32") \
    X(index_select_dtype, dl_index_select(F(2, 3), 0, F(2)), "dl_index_select: index must be DL_I32, not DL_F32") \
    X(index_select_ndim, dl_index_select(F(2, 3), 0, I(2, 2)), "dl_index_select: |[2,2]") \
    X(index_select_dim, dl_index_select(F(2, 3), 2, I(2)), "dl_index_select: |2") \
    X(index_select_range, dl_index_select(F(10, 3), 0, INTS(4, 0, 9, 1, 17)), "dl_index_select: index 17 at position 3 is out of range for 10 rows") \
    X(index_select_negative, dl_index_select(F(10, 3), 0, INTS(2, 0, -1)), "dl_index_select: index -1 at position 1") \
    X(gather_dtype, dl_gather(F(2, 3), 0, F(2, 3)), "dl_gather: index must be DL_I32, not DL_F32") \
    X(gather_ndim, dl_gather(F(2, 3), 0, I(2)), "dl_gather: |[2]|[2,3]") \
    X(gather_larger, dl_gather(F(2, 3), 0, I(2, 4)), "dl_gather: |[2,4]|[2,3]") \
    X(gather_dim, dl_gather(F(2, 3), -3, I(2, 3)), "dl_gather: |-3") \
    X(gather_range, dl_gather(F(3), 0, INTS(2, 2, 3)), "dl_gather: index 3 at position 1 is out of range for 3") \
    X(one_hot_dtype, dl_one_hot(F(2), 3), "dl_one_hot: |DL_I32|DL_F32") \
    X(one_hot_range, dl_one_hot(INTS(2, 2, 3), 3), "dl_one_hot: class 3 at position 1 is out of range for 3 classes") \
    X(one_hot_count, dl_one_hot(I(2), -3), "dl_one_hot: |-3") \
    /* products, convolution, pooling */ \
    X(matmul_inner, dl_matmul(F(64, 784), F(128, 10)), "dl_matmul: inner dimensions differ: [64,784] x [128,10]") \
    X(matmul_batch, dl_matmul(F(2, 4, 5), F(3, 5, 6)), "dl_matmul: |[2,4,5]|[3,5,6]") \
    X(matmul_scalar, dl_matmul(f_(c, DL_SCALAR), F(3, 5)), "dl_matmul: |[]|[3,5]") \
    X(matmul_dtype, dl_matmul(I(2, 3), F(3, 2)), "dl_matmul: |DL_F32|DL_I32") \
    X(matmul_ex_inner, dl_matmul_ex(F(4, 5), F(5, 6), &(dl_matmul_desc){ .transpose_b = true }), "dl_matmul|[4,5]|[5,6]") \
    X(matmul_ex_ndim, dl_matmul_ex(F(5), F(5, 6), &(dl_matmul_desc){ .transpose_a = true }), "dl_matmul|[5]") \
    X(affine_inner, dl_affine(F(4, 5), F(3, 6), F(3)), "dl_affine: |[4,5]|[3,6]") \
    X(affine_bias, dl_affine(F(4, 5), F(3, 5), F(5)), "dl_affine: |[5]|3") \
    X(conv2d_ndim, dl_conv2d_op(F(3, 8, 8), F(4, 3, 3, 3), NULL), "dl_conv2d|[3,8,8]") \
    X(conv2d_channels, dl_conv2d_op(F(1, 2, 8, 8), F(4, 3, 3, 3), NULL), "dl_conv2d|[1,2,8,8]|[4,3,3,3]") \
    X(conv2d_small, dl_conv2d_op(F(1, 3, 2, 2), F(4, 3, 3, 3), NULL), "dl_conv2d|[1,3,2,2]|[4,3,3,3]") \
    X(conv2d_stride, dl_conv2d_op(F(1, 3, 8, 8), F(4, 3, 3, 3), &(dl_conv2d_desc){ .stride = -1 }), "dl_conv2d|-1") \
    X(conv2d_groups, dl_conv2d_op(F(1, 3, 8, 8), F(4, 3, 3, 3), &(dl_conv2d_desc){ .groups = 2 }), "dl_conv2d|2") \
    X(conv_transpose2d_channels, dl_conv_transpose2d_op(F(1, 2, 8, 8), F(4, 3, 3, 3), NULL), "dl_conv_transpose2d|[1,2,8,8]|[4,3,3,3]") \
    X(conv_transpose2d_output_padding, dl_conv_transpose2d_op(F(1, 4, 8, 8), F(4, 3, 3, 3), &(dl_conv2d_desc){ .output_padding = 3 }), "dl_conv_transpose2d|3") \
    X(max_pool2d_ndim, dl_max_pool2d(F(8, 8), &(dl_pool2d_desc){ .kernel = 2 }), "dl_max_pool2d: |[8,8]") \
    X(max_pool2d_kernel, dl_max_pool2d(F(1, 1, 8, 8), &(dl_pool2d_desc){ .stride = 2 }), "dl_max_pool2d: |kernel") \
    X(max_pool2d_padding, dl_max_pool2d(F(1, 1, 8, 8), &(dl_pool2d_desc){ .kernel = 2, .padding = 2 }), "dl_max_pool2d: |padding|2") \
    X(max_pool2d_small, dl_max_pool2d(F(1, 1, 2, 8), &(dl_pool2d_desc){ .kernel = 3 }), "dl_max_pool2d: |[1,1,2,8]|3") \
    X(max_pool2d_null, dl_max_pool2d(F(1, 1, 8, 8), NULL), "dl_max_pool2d: ") \
    X(avg_pool2d_kernel, dl_avg_pool2d(F(1, 1, 8, 8), &(dl_pool2d_desc){ .kernel = -2 }), "dl_avg_pool2d: |-2") \
    X(adaptive_zero, dl_adaptive_avg_pool2d(F(1, 1, 8, 8), 0, 1), "dl_adaptive_avg_pool2d: |0") \
    X(adaptive_ndim, dl_adaptive_avg_pool2d(F(8, 8), 1, 1), "dl_adaptive_avg_pool2d: |[8,8]") \
    /* normalisation, softmax, attention */ \
    X(batch_norm_ndim, dl_batch_norm_op(F(3), F(3), F(3), F(3), F(3), 0.1f, 1e-5f), "dl_batch_norm|[3]") \
    X(batch_norm_channels, dl_batch_norm_op(F(2, 4, 3), F(3), F(3), F(3), F(3), 0.1f, 1e-5f), "dl_batch_norm|[3]|4") \
    X(layer_norm_weight, dl_layer_norm_op(F(2, 4), F(3), F(3), 1e-5f), "dl_layer_norm|[3]|[2,4]") \
    X(layer_norm_bias, dl_layer_norm_op(F(2, 4), F(4), F(3), 1e-5f), "dl_layer_norm|[3]|[4]") \
    X(group_norm_groups, dl_group_norm_op(F(2, 4, 3), 3, F(4), F(4), 1e-5f), "dl_group_norm|3|4") \
    X(group_norm_weight, dl_group_norm_op(F(2, 4, 3), 2, F(3), F(3), 1e-5f), "dl_group_norm|[3]|4") \
    X(group_norm_zero, dl_group_norm_op(F(2, 4, 3), 0, F(4), F(4), 1e-5f), "dl_group_norm|0") \
    X(softmax_dim, dl_softmax(F(2, 3), 2), "dl_softmax: |2") \
    X(softmax_dtype, dl_softmax(I(2, 3), 1), "dl_softmax: |DL_F32|DL_I32") \
    X(log_softmax_dim, dl_log_softmax(F(2, 3), -3), "dl_log_softmax: |-3") \
    X(embedding_op_weight, dl_embedding_op(F(2, 3, 4), I(2)), "dl_embedding_op: |[2,3,4]") \
    X(embedding_op_dtype, dl_embedding_op(F(2, 3), F(2)), "dl_embedding|DL_I32|DL_F32") \
    X(embedding_op_range, dl_embedding_op(F(2, 3), INTS(1, 2)), "dl_embedding|index 2 at position 0 is out of range for 2 rows") \
    X(attention_width, dl_scaled_dot_product_attention(F(2, 4, 8), F(2, 4, 6), F(2, 4, 8), NULL), "dl_scaled_dot_product_attention: |[2,4,8]|[2,4,6]") \
    X(attention_length, dl_scaled_dot_product_attention(F(2, 4, 8), F(2, 5, 8), F(2, 4, 8), NULL), "dl_scaled_dot_product_attention: |[2,5,8]|[2,4,8]") \
    X(attention_mask, dl_scaled_dot_product_attention(F(4, 8), F(5, 8), F(5, 8), &(dl_attention_desc){ .mask = F(4, 4) }), "dl_scaled_dot_product_attention: |[4,4]") \
    /* segments */ \
    X(segment_sum_dtype, dl_segment_sum(F(4, 2), F(3)), "dl_segment_sum: |DL_I32|DL_F32") \
    X(segment_sum_ndim, dl_segment_sum(F(4, 2), I(3, 1)), "dl_segment_sum: |[3,1]") \
    X(segment_sum_none, dl_segment_sum(F(4, 2), I(0)), "dl_segment_sum: |[0]") \
    X(segment_sum_scalar, dl_segment_sum(f_(c, DL_SCALAR), I(2)), "dl_segment_sum: |[]") \
    X(segment_sum_first, dl_segment_sum(F(4, 2), INTS(3, 1, 2, 4)), "dl_segment_sum: |offsets[0]|1") \
    X(segment_mean_fall, dl_segment_mean(F(4, 2), INTS(4, 0, 3, 2, 4)), "dl_segment_mean: |offsets[1] = 3|offsets[2] = 2") \
    X(segment_max_last, dl_segment_max(F(4, 2), INTS(3, 0, 2, 3)), "dl_segment_max: |offsets[2]|3|4 rows") \
    X(segment_softmax_over, dl_segment_softmax(F(4, 2), INTS(3, 0, 2, 5)), "dl_segment_softmax: |offsets[2]|5|4 rows") \
    /* losses */ \
    X(mse_shapes, dl_mse(F(4, 2), F(4), DL_MEAN), "dl_mse: |[4,2]|[4]") \
    X(mse_dtype, dl_mse(F(4), I(4), DL_MEAN), "dl_mse: |DL_F32|DL_I32") \
    X(mse_reduction, dl_mse(F(4), F(4), (dl_reduction)7), "dl_mse: |7") \
    X(l1_shapes, dl_l1(F(4, 2), F(4, 1), DL_SUM), "dl_l1: |[4,2]|[4,1]") \
    X(huber_delta, dl_huber(F(4), F(4), 0, DL_SUM), "dl_huber: |0") \
    X(huber_shapes, dl_huber(F(4), F(5), 1, DL_SUM), "dl_huber: |[4]|[5]") \
    X(bce_shapes, dl_bce(F(4), F(5), DL_SUM), "dl_bce: |[4]|[5]") \
    X(bce_with_logits_shapes, dl_bce_with_logits(F(4), F(5), DL_SUM), "dl_bce_with_logits: |[4]|[5]") \
    X(gaussian_nll_shapes, dl_gaussian_nll(F(4), F(5), F(4), 0, DL_SUM), "dl_gaussian_nll: |[4]|[5]") \
    X(gaussian_nll_var, dl_gaussian_nll(F(4, 2), F(4, 2), F(2), 0, DL_SUM), "dl_gaussian_nll: |[2]|[4,2]") \
    X(gaussian_nll_eps, dl_gaussian_nll(F(4), F(4), F(4), -1, DL_SUM), "dl_gaussian_nll: |-1") \
    X(kl_div_shapes, dl_kl_div(F(4, 2), F(4), DL_SUM), "dl_kl_div: |[4,2]|[4]") \
    X(nll_shapes, dl_nll(F(4, 10), I(5), NULL), "dl_nll: |[4,10]|[4]|[5]") \
    X(nll_dtype, dl_nll(F(4, 10), F(4), NULL), "dl_nll: |DL_I32") \
    X(nll_range, dl_nll(F(1, 10), INTS(1, 10), NULL), "dl_nll: target 10 at position 0 is out of range for 10 classes") \
    X(nll_smoothing, dl_nll(F(4, 10), I(4), &(dl_cross_entropy_desc){ .label_smoothing = 0.1f }), "dl_nll: |label_smoothing") \
    X(cross_entropy_shapes, dl_cross_entropy(F(4, 10), I(4, 1)), "dl_cross_entropy: |[4,10]|[4]|[4,1]") \
    X(cross_entropy_dtype, dl_cross_entropy(F(4, 10), dl_input(c, DL_U8, DL_SHAPE(4), zeros)), "dl_cross_entropy: |DL_I32|DL_U8") \
    X(cross_entropy_soft, dl_cross_entropy(F(4, 10), F(4)), "dl_cross_entropy: |[4,10]|[4]") \
    X(cross_entropy_logits, dl_cross_entropy(I(4, 10), I(4)), "dl_cross_entropy: |DL_F32|DL_I32") \
    X(cross_entropy_scalar, dl_cross_entropy(f_(c, DL_SCALAR), I(4)), "dl_cross_entropy: |[]") \
    X(cross_entropy_range, dl_cross_entropy(F(4, 10), INTS(4, 0, 1, 2, 10)), "dl_cross_entropy: target 10 at position 3 is out of range for 10 classes") \
    X(cross_entropy_negative, dl_cross_entropy(F(2, 10), INTS(2, 0, -1)), "dl_cross_entropy: target -1 at position 1") \
    X(cross_entropy_weight, dl_cross_entropy_ex(F(4, 10), I(4), &(dl_cross_entropy_desc){ .weight = F(9) }), "dl_cross_entropy: |weight|[10]|[9]") \
    X(cross_entropy_smoothing, dl_cross_entropy_ex(F(4, 10), I(4), &(dl_cross_entropy_desc){ .label_smoothing = 2 }), "dl_cross_entropy: |label_smoothing 2|0 and 1") \
    X(cross_entropy_reduction, dl_cross_entropy_ex(F(4, 10), I(4), &(dl_cross_entropy_desc){ .reduction = (dl_reduction)5 }), "dl_cross_entropy: |5") \
    /* user operations */ \
    X(apply_nameless, dl_apply(&(dl_op){ 0 }, 1, LIST(F(2)), NULL), "dl_apply: |name") \
    X(apply_attrs, dl_apply(&(dl_op){ .name = "mine", .run = nothing }, 1, LIST(F(2)), &(dl_attrs){ .n = -1 }), "dl_") \
    /* layers */ \
    X(linear_scalar, dl_linear(f_(c, DL_SCALAR), "e1", 3), "dl_linear: |[]") \
    X(linear_out, dl_linear(F(2, 3), "e2", 0), "dl_linear: |0") \
    X(linear_dtype, dl_linear(I(2, 3), "e2", 4), "dl_|DL_F32|DL_I32") \
    X(linear_name_null, dl_linear(F(2, 3), NULL, 4), "dl_linear: |NULL") \
    X(linear_name_empty, dl_linear(F(2, 3), "", 4), "dl_linear: |empty") \
    X(linear_name_glob, dl_linear(F(2, 3), "a*", 4), "dl_linear: |a*") \
    X(linear_name_long, dl_linear(F(2, 3), long_name, 4), "dl_linear: |DLTRAIN_NAME_MAX") \
    X(linear_twice, dl_linear(dl_linear(F(2, 3), "twice", 3), "twice", 3), "dl_linear: 'twice' is already used") \
    X(linear_other_shape, other_shape(c), "dl_linear: |other.weight|[4,3]|[4,5]") \
    X(linear_ex_null, dl_linear_ex(F(2, 3), "e3", NULL), "dl_linear: ") \
    X(conv2d_layer_channels, dl_conv2d(F(1, 3, 8, 8), "e4", &(dl_conv2d_desc){ .kernel = 3 }), "dl_conv2d: |out_channels") \
    X(conv2d_layer_kernel, dl_conv2d(F(1, 3, 8, 8), "e5", &(dl_conv2d_desc){ .out_channels = 4 }), "dl_conv2d: |kernel") \
    X(conv2d_layer_groups, dl_conv2d(F(1, 3, 8, 8), "e6", &(dl_conv2d_desc){ .out_channels = 4, .kernel = 3, .groups = 2 }), "dl_conv2d: |groups|2|3") \
    X(conv2d_layer_ndim, dl_conv2d(F(8, 8), "e7", &(dl_conv2d_desc){ .out_channels = 4, .kernel = 3 }), "dl_conv2d: |[8,8]") \
    X(conv2d_layer_null, dl_conv2d(F(1, 3, 8, 8), "e8", NULL), "dl_conv2d: ") \
    X(conv_transpose2d_layer_null, dl_conv_transpose2d(F(1, 3, 8, 8), "e9", NULL), "dl_conv_transpose2d: ") \
    X(batch_norm_layer_ndim, dl_batch_norm(F(8), "e10", NULL), "dl_batch_norm: |[8]") \
    X(layer_norm_scalar, dl_layer_norm(f_(c, DL_SCALAR), "e11", NULL), "dl_layer_norm: |[]") \
    X(group_norm_layer, dl_group_norm(F(2, 4, 3), "e12", 3, NULL), "dl_group_norm: |3|4") \
    X(embedding_dtype, dl_embedding(F(2), "e13", 5, 3), "dl_embedding: |DL_I32|DL_F32") \
    X(embedding_count, dl_embedding(I(2), "e14", 0, 3), "dl_embedding: |0") \
    X(embedding_range, dl_embedding(INTS(2, 0, 5), "e15", 5, 3), "dl_embedding: index 5 at position 1 is out of range for 5 rows") \
    X(mha_heads, dl_multi_head_attention(F(2, 4, 6), F(2, 4, 6), F(2, 4, 6), "e16", &(dl_mha_desc){ .heads = 4 }), "dl_multi_head_attention: |4|6") \
    X(mha_no_heads, dl_multi_head_attention(F(2, 4, 6), F(2, 4, 6), F(2, 4, 6), "e17", NULL), "dl_multi_head_attention: |heads") \
    X(mha_ndim, dl_multi_head_attention(F(4, 6), F(4, 6), F(4, 6), "e18", &(dl_mha_desc){ .heads = 2 }), "dl_multi_head_attention: |[4,6]") \
    X(mha_shapes, dl_multi_head_attention(F(2, 4, 6), F(2, 4, 6), F(2, 5, 6), "e19", &(dl_mha_desc){ .heads = 2 }), "dl_multi_head_attention: |[2,4,6]|[2,5,6]") \
    X(parameter_null, dl_parameter(c, "p1", NULL), "dl_parameter: |NULL") \
    X(parameter_init, dl_parameter(c, "p2", &(dl_param_desc){ .shape = DL_SHAPE(2), .init = (dl_init)9 }), "dl_parameter: |9") \
    X(parameter_negative, dl_parameter(c, "p3", &(dl_param_desc){ .shape = DL_SHAPE(-2) }), "dl_parameter: |[-2]")

static void nothing(const dl_run_args *r) { (void)r; }
static char long_name[200];

static dl_tensor other_shape(dl_context *c)
{
    dl_linear(F(2, 3), "other", 4);
    dl_end(c);
    return dl_linear(F(2, 5), "other", 4);
}

#define X(name, expression, says) static dl_tensor case_##name(dl_context *c) { (void)c; return expression; }
TENSORS(X)
#undef X
static const struct { const char *name; dl_tensor (*make)(dl_context *c); const char *says; } tensors[] = {
#define X(name, expression, says) { #name, case_##name, says },
    TENSORS(X)
#undef X
};

static void test_tensors(const dl_config *config, const char *mode)
{
    dl_context *c = dl_create(config);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        dl_tensor y = tensors[i].make(c);
        const char *reason = NULL;
        if (!tensors[i].says) { /* fails quietly */
            if (dl_ok(y) || dl_failed(c)) reason = "did not fail quietly";
        } else {
            if (dl_ok(y) && dl_data(y)) reason = "gave values";
            if (!reason) reason = judge(c, tensors[i].says);
        }
        dl_clear_error(c);
        verdict(mode, tensors[i].name, reason);
    }
    dl_destroy(c);
}

/* ---- 2. a failed tensor passes quietly, a stale one and one of another context are told; x is the bad one, in every place ---- */
#define ONE(X) \
    X(dl_neg(x)) X(dl_abs(x)) X(dl_exp(x)) X(dl_log(x)) X(dl_log1p(x)) X(dl_expm1(x)) X(dl_sqrt(x)) X(dl_rsqrt(x)) X(dl_square(x)) X(dl_reciprocal(x)) \
    X(dl_sigmoid(x)) X(dl_tanh(x)) X(dl_sin(x)) X(dl_cos(x)) X(dl_erf(x)) X(dl_relu(x)) X(dl_leaky_relu(x, 0.1f)) X(dl_elu(x, 1)) X(dl_gelu(x)) \
    X(dl_gelu_tanh(x)) X(dl_silu(x)) X(dl_softplus(x)) X(dl_clamp(x, 0, 1)) X(dl_add_scalar(x, 1)) X(dl_mul_scalar(x, 2)) X(dl_pow_scalar(x, 2)) \
    X(dl_dropout(x, 0.5f)) X(dl_to_float(x)) X(dl_sum(x)) X(dl_mean(x)) X(dl_sum_dims(x, NULL, 0, false)) X(dl_mean_dims(x, NULL, 0, false)) \
    X(dl_max_dims(x, NULL, 0, false)) X(dl_min_dims(x, NULL, 0, false)) X(dl_var_dims(x, NULL, 0, false, 1)) X(dl_logsumexp_dims(x, NULL, 0, false)) \
    X(dl_norm_dims(x, NULL, 0, false)) X(dl_argmax(x, 0, false)) X(dl_argmin(x, 0, false)) X(dl_reshape(x, DL_SHAPE(-1))) X(dl_flatten(x, 0)) \
    X(dl_permute(x, DIMS(0, 1, 2, 3))) X(dl_transpose(x, 0, 1)) X(dl_slice(x, 0, 0, 1, 1)) X(dl_concat(&x, 1, 0)) X(dl_stack(&x, 1, 0)) \
    X(dl_expand(x, DL_SHAPE(2, 2, 2, 2))) X(dl_pad(x, NULL, 0, 0)) X(dl_one_hot(x, 3)) X(dl_detach(x)) X(dl_max_pool2d(x, &pool)) X(dl_avg_pool2d(x, &pool)) \
    X(dl_adaptive_avg_pool2d(x, 1, 1)) X(dl_softmax(x, 0)) X(dl_log_softmax(x, 0)) X(dl_layer_norm_op(x, none, none, 0)) X(dl_group_norm_op(x, 1, none, none, 0)) \
    X(dl_linear(x, "q1", 2)) X(dl_conv2d(x, "q2", &conv)) X(dl_conv_transpose2d(x, "q3", &conv)) X(dl_batch_norm(x, "q4", NULL)) X(dl_layer_norm(x, "q5", NULL)) \
    X(dl_group_norm(x, "q6", 1, NULL)) X(dl_embedding(x, "q7", 2, 2)) X(dl_keep(x)) X(dl_apply(&user_op, 1, &x, NULL))
#define TWO(X) \
    X(dl_add(x, a)) X(dl_add(a, x)) X(dl_sub(x, a)) X(dl_sub(a, x)) X(dl_mul(x, a)) X(dl_mul(a, x)) X(dl_div(x, a)) X(dl_div(a, x)) X(dl_pow(x, a)) X(dl_pow(a, x)) \
    X(dl_maximum(x, a)) X(dl_maximum(a, x)) X(dl_minimum(x, a)) X(dl_minimum(a, x)) X(dl_eq(x, a)) X(dl_eq(a, x)) X(dl_ne(x, a)) X(dl_lt(a, x)) X(dl_le(x, a)) \
    X(dl_gt(a, x)) X(dl_ge(x, a)) X(dl_where(x, a, a)) X(dl_where(a, x, a)) X(dl_where(a, a, x)) X(dl_concat(LIST(a, x), 2, 0)) X(dl_concat(LIST(x, a), 2, 0)) \
    X(dl_stack(LIST(a, x), 2, 0)) X(dl_stack(LIST(x, a), 2, 0)) X(dl_index_select(x, 0, n)) X(dl_index_select(a, 0, x)) X(dl_gather(x, 0, n)) X(dl_gather(a, 0, x)) \
    X(dl_embedding_op(x, n)) X(dl_embedding_op(a, x)) X(dl_matmul(x, a)) X(dl_matmul(a, x)) X(dl_matmul_ex(x, a, NULL)) X(dl_matmul_ex(a, x, NULL)) \
    X(dl_affine(x, a, a)) X(dl_affine(a, x, a)) X(dl_conv2d_op(x, a, NULL)) X(dl_conv2d_op(a, x, NULL)) X(dl_conv_transpose2d_op(x, a, NULL)) \
    X(dl_conv_transpose2d_op(a, x, NULL)) X(dl_batch_norm_op(x, v, v, v, v, 0.1f, 1e-5f)) X(dl_layer_norm_op(x, v, v, 0)) X(dl_group_norm_op(x, 1, v, v, 0)) \
    X(dl_scaled_dot_product_attention(x, a, a, NULL)) X(dl_scaled_dot_product_attention(a, x, a, NULL)) X(dl_scaled_dot_product_attention(a, a, x, NULL)) \
    X(dl_segment_sum(x, o)) X(dl_segment_sum(a, x)) X(dl_segment_mean(x, o)) X(dl_segment_mean(a, x)) X(dl_segment_max(x, o)) X(dl_segment_max(a, x)) \
    X(dl_segment_softmax(x, o)) X(dl_segment_softmax(a, x)) X(dl_mse(x, a, DL_MEAN)) X(dl_mse(a, x, DL_MEAN)) X(dl_l1(x, a, DL_MEAN)) X(dl_l1(a, x, DL_MEAN)) \
    X(dl_huber(x, a, 1, DL_MEAN)) X(dl_huber(a, x, 1, DL_MEAN)) X(dl_bce(x, a, DL_MEAN)) X(dl_bce(a, x, DL_MEAN)) X(dl_bce_with_logits(x, a, DL_MEAN)) \
    X(dl_bce_with_logits(a, x, DL_MEAN)) X(dl_gaussian_nll(x, a, a, 0, DL_MEAN)) X(dl_gaussian_nll(a, x, a, 0, DL_MEAN)) X(dl_gaussian_nll(a, a, x, 0, DL_MEAN)) \
    X(dl_kl_div(x, a, DL_MEAN)) X(dl_kl_div(a, x, DL_MEAN)) X(dl_cross_entropy(x, n)) X(dl_cross_entropy(a, x)) X(dl_nll(x, n, NULL)) X(dl_nll(a, x, NULL)) \
    X(dl_multi_head_attention(x, a, a, "q8", &mha)) X(dl_multi_head_attention(a, x, a, "q9", &mha)) X(dl_multi_head_attention(a, a, x, "q10", &mha)) \
    X(dl_apply(&user_op, 2, LIST(a, x), NULL))
/* Here a tensor of all zeros means: absent. */
#define OPTIONAL(X) \
    X(dl_affine(a, a, x)) X(dl_batch_norm_op(a, x, v, v, v, 0.1f, 1e-5f)) X(dl_batch_norm_op(a, v, v, x, v, 0.1f, 1e-5f)) X(dl_layer_norm_op(a, x, v, 0)) \
    X(dl_layer_norm_op(a, v, x, 0)) X(dl_group_norm_op(a, 1, v, x, 0)) X(dl_scaled_dot_product_attention(a, a, a, &(dl_attention_desc){ .mask = x })) \
    X(dl_cross_entropy_ex(a, n, &(dl_cross_entropy_desc){ .weight = x })) X(dl_nll(a, n, &(dl_cross_entropy_desc){ .weight = x }))

static const dl_op user_op = { "mine", 0, NULL, nothing, NULL, NULL, NULL };
static const dl_pool2d_desc pool = { .kernel = 1 };
static const dl_conv2d_desc conv = { .out_channels = 2, .kernel = 1 };
static const dl_mha_desc mha = { .heads = 1 };

/* Call number `which` of all that are listed; false when there are no more. */
static bool call(int which, bool zero, dl_context *c, dl_tensor x, dl_tensor *y, const char **text, bool *two)
{
    int at = 0;
    dl_tensor a = F(2, 2, 2, 2), n = I(2, 2, 2), v = F(2), o = INTS(2, 0, 2);
    (void)v;
    *two = false;
#define X(expression) if (at++ == which) { *text = #expression; *y = expression; return true; }
    ONE(X)
    *two = true;
    TWO(X)
    if (!zero) { OPTIONAL(X) }
#undef X
    (void)a; (void)n; (void)o;
    return false;
}

static void test_bad_tensors(void)
{
    dl_context *c = dl_create(NULL), *other = dl_create(NULL);
    dl_tensor y = none;
    const char *text = NULL, *reason;
    bool two;
    for (int i = 0; call(i, true, c, none, &y, &text, &two); i++) {
        reason = dl_ok(y) ? "gave a tensor" : dl_failed(c) ? dl_error(c) : NULL;
        verdict("failed input", text, reason);
        dl_clear_error(c);
    }
    for (int i = 0;; i++) {
        dl_tensor old = F(2, 2, 2, 2);
        dl_end(c);
        F(1);
        if (!call(i, false, c, old, &y, &text, &two)) break;
        reason = dl_ok(y) ? "gave a tensor" : judge(c, "dl_|stale");
        verdict("stale input", text, reason);
        dl_clear_error(c);
    }
    for (int i = 0;; i++) {
        dl_tensor foreign = f_(other, DL_SHAPE(2, 2, 2, 2));
        if (!call(i, false, c, foreign, &y, &text, &two)) break;
        if (two) {
            reason = dl_ok(y) ? "gave a tensor" : judge(dl_failed(c) ? c : other, "dl_|another context");
            verdict("foreign input", text, reason);
        }
        dl_clear_error(c);
        dl_clear_error(other);
    }
    dl_destroy(other);
    dl_destroy(c);
}

/* ---- 3. statements: reading, parameters, training, data, files ---- */
static void step_nothing(dl_context *c, void *user) { (void)c; (void)user; }
static bool refuse(void *user, size_t index, void *x, void *y) { (void)user; (void)index; (void)x; (void)y; return false; }

static dl_tensor loss_of(dl_context *c, const char *name)
{
    return dl_mean(dl_square(dl_linear(F(2, 3), name, 2)));
}

static dl_optimizer *sgd(dl_context *c) { return dl_sgd(c, &(dl_sgd_desc){ .lr = 0.1f }); }

static dl_dataset *data(dl_context *c)
{
    return dl_dataset_create(c, &(dl_dataset_desc){ .count = 4, .x_shape = DL_SHAPE(2), .no_y = true, .x = zeros });
}

static void file(const char *path, const void *bytes, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f) return;
    fwrite(bytes, 1, size, f);
    fclose(f);
}
#define FILE_OF(path, text) file(path, text, sizeof text - 1)
static const char *const scratch = "test_errors.tmp", *const scratch2 = "test_errors2.tmp";

#define STATEMENTS(X) \
    X(item_many, dl_item(F(2, 3)), "dl_item: |[2,3]") \
    X(read_count, { dl_real out[4]; dl_read(F(3), out, 4); }, "dl_read: |[3]|3|4") \
    X(read_null, dl_read(F(3), NULL, 3), "dl_read: |NULL") \
    X(dim_range, dl_dim(F(2, 3), 2), "dl_dim: |2") \
    X(shape_of_stale, { dl_tensor x = F(2); dl_end(c); F(1); dl_shape_of(x); }, "dl_shape_of: |stale") \
    X(read_stale, { dl_tensor x = F(2); dl_end(c); F(1); dl_data(x); }, "dl_data: |stale") \
    X(planned_away, { dl_tensor h = dl_relu(dl_linear(F(20, 30), "pa", 20)); dl_backward(dl_mean(dl_square(h))); dl_data(h); }, "dl_data: |planned away|dl_keep") \
    X(backward_vector, dl_backward(F(2)), "dl_backward: |[2]") \
    X(backward_none, dl_backward(dl_sum(F(2))), "dl_backward: |no parameter") \
    X(backward_twice, { dl_tensor l = loss_of(c, "tw"); dl_backward(l); dl_backward(l); }, "dl_backward: |ended") \
    X(backward_int, dl_backward(dl_argmax(F(3), 0, false)), "dl_backward: |DL_F32|DL_I32") \
    X(backward_pattern, dl_backward_ex(loss_of(c, "bp"), &(dl_backward_desc){ .pattern = "nobody*" }), "dl_backward: |nobody*") \
    X(grad_vector, { dl_tensor x = V(2); dl_tensor g; dl_grad(x, &x, 1, &g); }, "dl_grad: |[2]") \
    X(grad_input, { dl_tensor x = F(1); dl_tensor g; dl_grad(dl_sum(dl_mul(V(1), x)), &x, 1, &g); }, "dl_grad: |dl_variable") \
    X(grad_null, { dl_tensor x = V(1); dl_grad(dl_sum(x), &x, 1, NULL); }, "dl_grad: |NULL") \
    X(freeze_pattern, dl_freeze(c, "nobody*", true), "dl_freeze: |nobody*") \
    X(freeze_null, dl_freeze(c, NULL, true), "dl_freeze: |NULL") \
    X(scope_end, dl_scope_end(c), "dl_scope_end: ") \
    X(scope_null, dl_scope_begin(c, NULL), "dl_scope_begin: |NULL") \
    X(scope_deep, for (int i = 0; i < 40; i++) dl_scope_begin(c, "s"), "dl_scope_begin: |dl_scope_end") \
    X(param_get, dl_param_get(c, 99999, &(dl_param_info){ 0 }), "dl_param_get: |99999") \
    X(param_get_null, dl_param_get(c, 0, NULL), "dl_param_get: |NULL") \
    X(param_find, dl_param_find(c, "nobody", &(dl_param_info){ 0 }), "dl_param_find: |nobody") \
    X(param_set, { loss_of(c, "ps"); dl_param_set(c, "ps.bias", zeros, 5); }, "dl_param_set: |ps.bias|2|5") \
    X(param_set_null, { loss_of(c, "ps"); dl_param_set(c, "ps.bias", NULL, 2); }, "dl_param_set: ") \
    X(clip_pattern, { dl_backward(loss_of(c, "cp")); dl_clip_grad_norm(c, 1, "nobody*"); }, "dl_clip_grad_norm: |nobody*") \
    X(clip_negative, dl_clip_grad_norm(c, -1, NULL), "dl_clip_grad_norm: |-1") \
    X(clip_value, dl_clip_grad_value(c, -1, NULL), "dl_clip_grad_value: |-1") \
    X(sgd_lr, dl_sgd(c, &(dl_sgd_desc){ .momentum = 0.9f }), "dl_sgd: |lr") \
    X(sgd_null, dl_sgd(c, NULL), "dl_sgd: |lr") \
    X(sgd_momentum, dl_sgd(c, &(dl_sgd_desc){ .lr = 0.1f, .momentum = -1 }), "dl_sgd: |momentum|-1") \
    X(sgd_nesterov, dl_sgd(c, &(dl_sgd_desc){ .lr = 0.1f, .nesterov = true }), "dl_sgd: |momentum") \
    X(adam_beta, dl_adam(c, &(dl_adam_desc){ .beta1 = 1.5f }), "dl_adam: |beta1|1.5") \
    X(adamw_lr, dl_adamw(c, &(dl_adam_desc){ .lr = -1 }), "dl_adamw: |-1") \
    X(rmsprop_alpha, dl_rmsprop(c, &(dl_rmsprop_desc){ .alpha = 2 }), "dl_rmsprop: |alpha|2") \
    X(group_pattern, { loss_of(c, "gp"); dl_optimizer_group(sgd(c), NULL, NULL); }, "dl_optimizer_group: ") \
    X(select_pattern, { loss_of(c, "sp"); dl_optimizer_select(sgd(c), NULL); }, "dl_optimizer_select: |NULL") \
    X(schedule_null, dl_set_schedule(sgd(c), NULL), "dl_set_schedule: ") \
    X(schedule_kind, dl_set_schedule(sgd(c), &(dl_schedule){ .kind = (dl_schedule_kind)9, .lr = 1 }), "dl_set_schedule: |9") \
    X(schedule_total, dl_set_schedule(sgd(c), &(dl_schedule){ .kind = DL_SCHEDULE_COSINE, .lr = 1 }), "dl_set_schedule: |total") \
    X(schedule_period, dl_set_schedule(sgd(c), &(dl_schedule){ .kind = DL_SCHEDULE_STEP, .lr = 1 }), "dl_set_schedule: |period") \
    X(schedule_milestones, dl_set_schedule(sgd(c), &(dl_schedule){ .kind = DL_SCHEDULE_MULTI_STEP, .lr = 1, .n_milestones = 2 }), "dl_set_schedule: |milestones") \
    X(accumulator_null, dl_accumulator_create(sgd(c), NULL), "dl_accumulator_create: ") \
    X(accumulator_steps, dl_accumulator_create(sgd(c), &(dl_accumulator_desc){ .steps = -2 }), "dl_accumulator_create: |-2") \
    X(accumulate_vector, dl_accumulate(dl_accumulator_create(sgd(c), &(dl_accumulator_desc){ .steps = 2 }), F(2), 2), "dl_|[2]") \
    X(dataset_null, dl_dataset_create(c, NULL), "dl_dataset_create: |NULL") \
    X(dataset_x, dl_dataset_create(c, &(dl_dataset_desc){ .count = 4, .x_shape = DL_SHAPE(2), .no_y = true }), "dl_dataset_create: |x") \
    X(dataset_y, dl_dataset_create(c, &(dl_dataset_desc){ .count = 4, .x_shape = DL_SHAPE(2), .x = zeros }), "dl_dataset_create: |y") \
    X(dataset_shape, dl_dataset_create(c, &(dl_dataset_desc){ .count = 4, .x_shape = DL_SHAPE(-2), .no_y = true, .x = zeros }), "dl_dataset_create: |[-2]") \
    X(dataset_dtype, dl_dataset_create(c, &(dl_dataset_desc){ .count = 4, .x_dtype = (dl_dtype)7, .x_shape = DL_SHAPE(2), .no_y = true, .x = zeros }), "dl_dataset_create: |7") \
    X(dataset_get, { dl_batch b; dl_next(dl_loader_create(dl_dataset_create(c, &(dl_dataset_desc){ .count = 4, .x_shape = DL_SHAPE(2), .no_y = true, .get = refuse }), &(dl_loader_desc){ .batch = 2 }), &b); }, "dl_next: ") \
    X(loader_large, dl_loader_create(data(c), &(dl_loader_desc){ .batch = 5, .drop_last = true }), "dl_loader_create: |5|4") \
    X(next_null, dl_next(dl_loader_create(data(c), NULL), NULL), "dl_next: |NULL")
#define FILES(X) \
    X(idx_missing, dl_open_idx(c, "no/such/file", NULL), "dl_open_idx: |no/such/file") \
    X(idx_null, dl_open_idx(c, NULL, NULL), "dl_open_idx: |NULL") \
    X(idx_magic, { FILE_OF(scratch, "\1\2\3\4\0\0\0\1"); dl_open_idx(c, scratch, NULL); }, "dl_open_idx: |test_errors.tmp") \
    X(idx_short, { FILE_OF(scratch, "\0\0\10\3\0\0\0\2\0\0\0\2\0\0\0\2\1\2\3"); dl_open_idx(c, scratch, NULL); }, "dl_open_idx: |test_errors.tmp") \
    X(idx_header, { FILE_OF(scratch, "\0\0\10\3\0\0"); dl_open_idx(c, scratch, NULL); }, "dl_open_idx: |test_errors.tmp") \
    X(idx_huge, { FILE_OF(scratch, "\0\0\10\3\377\377\377\377\377\377\377\377\377\377\377\377"); dl_open_idx(c, scratch, NULL); }, "dl_open_idx: |test_errors.tmp") \
    X(idx_counts, { FILE_OF(scratch, "\0\0\10\3\0\0\0\1\0\0\0\1\0\0\0\1\7"); FILE_OF(scratch2, "\0\0\10\1\0\0\0\2\1\2"); dl_open_idx(c, scratch, scratch2); }, "dl_open_idx: |1|2") \
    X(idx_labels, { FILE_OF(scratch, "\0\0\10\3\0\0\0\1\0\0\0\1\0\0\0\1\7"); dl_open_idx(c, scratch, "no/such/labels"); }, "dl_open_idx: |no/such/labels") \
    X(save_path, { loss_of(c, "sv"); dl_save(c, "no/such/dir/file"); }, "dl_save: |no/such/dir/file") \
    X(save_null, { loss_of(c, "sv"); dl_save(c, NULL); }, "dl_save: |NULL") \
    X(save_pattern, { loss_of(c, "sv"); dl_save_matching(c, scratch, "nobody*"); }, "dl_save_matching: |nobody*") \
    X(load_missing, dl_load(c, "no/such/file"), "dl_load: |no/such/file") \
    X(load_null, dl_load(c, NULL), "dl_load: |NULL") \
    X(load_empty, { FILE_OF(scratch, ""); dl_load(c, scratch); }, "dl_load: |test_errors.tmp") \
    X(load_header, { FILE_OF(scratch, "\377\377\377\377\377\377\377\177{}"); dl_load(c, scratch); }, "dl_load: |test_errors.tmp") \
    X(load_json, { FILE_OF(scratch, "\2\0\0\0\0\0\0\0[]"); dl_load(c, scratch); }, "dl_load: |test_errors.tmp") \
    X(load_offsets, { FILE_OF(scratch, "\100\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}           \0\0\0\0"); dl_load(c, scratch); }, "dl_load: |test_errors.tmp") \
    X(load_dtype, { FILE_OF(scratch, "\100\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}           \0\0\0\0"); dl_load(c, scratch); }, "dl_load: |test_errors.tmp") \
    X(load_short, { FILE_OF(scratch, "\100\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}           \0\0\0\0"); dl_load(c, scratch); }, "dl_load: |test_errors.tmp") \
    X(load_shape, { loss_of(c, "ls"); dl_save_matching(c, scratch, "ls.*"); dl_context *d = dl_create(NULL); dl_load(d, scratch); dl_linear(f_(d, DL_SHAPE(2, 5)), "ls", 2); dl_fail(c, "%s", dl_error(d)); dl_destroy(d); }, "dl_load: |ls.weight|[2,3]|[2,5]") \
    X(history_null, dl_history_add(dl_history_create(c), NULL, 0, 0), "dl_history_add: |NULL") \
    X(history_csv, { dl_history *h = dl_history_create(c); dl_history_add(h, "a", 0, 1); dl_history_csv(h, "no/such/dir/a.csv"); }, "dl_history_csv: |no/such/dir/a.csv") \
    X(history_svg, { dl_history *h = dl_history_create(c); dl_history_add(h, "a", 0, 1); dl_history_svg(h, "no/such/dir/a.svg", "t"); }, "dl_history_svg: |no/such/dir/a.svg")
/* After the seal: the last, since it stays. */
#define SEALED(X) \
    X(sealed, { loss_of(c, "fc1"); dl_seal(c); dl_end(c); loss_of(c, "fc2"); }, "dl_linear: |fc2.weight|fc1.weight")

#define X(name, statement, says) static void case_##name(dl_context *c) { (void)c; statement; }
STATEMENTS(X) FILES(X) SEALED(X)
#undef X
static const struct { const char *name; void (*run)(dl_context *c); const char *says; } statements[] = {
#define X(name, statement, says) { #name, case_##name, says },
    STATEMENTS(X) FILES(X) SEALED(X)
#undef X
};

static void test_statements(void)
{
    dl_context *c = dl_create(NULL);
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        statements[i].run(c);
        verdict("statement", statements[i].name, judge(c, statements[i].says));
        dl_clear_error(c);
    }
    dl_destroy(c);
    remove(scratch);
    remove(scratch2);
}

/* ---- 4. NULL and failed contexts everywhere: nothing happens, nothing crashes ---- */
#define NULLS(X) \
    X(dl_failed(c)) X(*dl_error(c) != 0 || !c) X((dl_clear_error(c), true)) X(!dl_fail(c, "again")) X(!dl_train(c, false) || c) X(!dl_set_grad(c, false) || c) \
    X((dl_end(c), true)) X((dl_memory_used(c), true)) X(!dl_ok(F(2))) X(!dl_ok(dl_borrow(c, DL_F32, DL_SHAPE(2), zeros))) X(!dl_ok(V(2))) \
    X(!dl_ok(dl_full(c, DL_SHAPE(2), 1))) X(!dl_ok(dl_rand(c, DL_SHAPE(2)))) X(!dl_ok(dl_randn(c, DL_SHAPE(2)))) X(!dl_ok(dl_parameter(c, "p", NULL))) \
    X(!dl_scope_begin(c, "s")) X((dl_scope_end(c), true)) X(dl_param_count(c) >= 0) X(!dl_param_get(c, 0, NULL)) X(!dl_param_find(c, "p", NULL)) \
    X(!dl_param_set(c, "p", zeros, 1)) X(!dl_freeze(c, "*", true)) X(!dl_seal(c)) X(!dl_zero_grad(c)) X(!dl_clip_grad_norm(c, 1, NULL)) X(dl_grad_norm(c) != dl_grad_norm(c)) \
    X(!dl_clip_grad_value(c, 1, NULL)) X(!dl_scale_grad(c, 1)) X(!sgd(c)) X(!dl_adam(c, NULL)) X(!dl_adamw(c, NULL)) X(!dl_rmsprop(c, NULL)) X(!data(c)) \
    X(!dl_open_idx(c, "a", "b")) X(!dl_save(c, scratch)) X(!dl_save_matching(c, scratch, "*")) X(!dl_load(c, scratch)) X(dl_load_pending(c) <= 0) X(!dl_history_create(c))
#define NULL_HANDLES(X) \
    X((dl_destroy(NULL), true)) X(dl_shape_of(none).ndim == 0) X(dl_ndim(none) == 0) X(dl_dim(none, 0) == 0) X(dl_numel(none) == 0) X((dl_dtype_of(none), true)) \
    X(!dl_ok(dl_keep(none))) X(dl_item(none) != dl_item(none)) X(!dl_data(none)) X(!dl_read(none, NULL, 0)) X(!dl_backward(none)) X(!dl_backward_ex(none, NULL)) \
    X(!dl_grad(none, NULL, 0, NULL)) X(!dl_ok(dl_concat(NULL, 2, 0))) X(!dl_ok(dl_concat(&none, 0, 0))) X(!dl_ok(dl_stack(NULL, 2, 0))) X(!dl_ok(dl_apply(NULL, 1, &none, NULL))) \
    X(!dl_ok(dl_apply(&user_op, 1, NULL, NULL))) X(!dl_ok(dl_apply(&user_op, 0, &none, NULL))) X(!dl_optimizer_group(NULL, "*", NULL)) X(!dl_optimizer_select(NULL, "*")) \
    X(!dl_step(NULL)) X((dl_set_lr(NULL, 1), true)) X(dl_get_lr(NULL) == 0) X((dl_schedule_lr(NULL, 0), true)) X(!dl_set_schedule(NULL, NULL)) X(!dl_accumulator_create(NULL, NULL)) \
    X(!dl_accumulate(NULL, none, 1)) X(!dl_accumulator_stepped(NULL)) X(!dl_accumulator_flush(NULL)) X(dl_dataset_count(NULL) == 0) X(!dl_loader_create(NULL, NULL)) \
    X(!dl_next(NULL, NULL)) X(dl_loader_batches(NULL) == 0) X(!dl_loader_rewind(NULL, 0)) X((dl_randperm(1, NULL, 0), true)) X(!dl_glob(NULL, "a")) X(!dl_glob("a", NULL)) \
    X(!dl_history_add(NULL, "a", 0, 0)) X(!dl_history_csv(NULL, "a")) X(!dl_history_svg(NULL, "a", "b")) X((dl_progress_show(NULL, "a"), true)) X((dl_progress_done(NULL, "a"), true)) \
    X(!dl_measure(NULL, 0, NULL, NULL, NULL)) X(!dl_measure(NULL, 3, step_nothing, NULL, NULL))

static void test_nulls(void)
{
    dl_context *c = NULL;
#define X(expression) verdict("NULL", #expression, (expression) ? NULL : "is false");
    NULLS(X) NULL_HANDLES(X)
#undef X
    c = dl_create(NULL); /* now a context that has failed: only the first error counts */
#define X(expression) dl_fail(c, "first"); verdict("after an error", #expression, (expression) ? NULL : "is false"); \
    if (strcmp(dl_error(c), "first") && *dl_error(c)) verdict("after an error", #expression, "replaced the first error");
    NULLS(X)
#undef X
    dl_clear_error(c);
    verdict("after an error", "works again", works(c) ? NULL : "does not work");
    dl_destroy(c);
}

/* ---- 5. configurations ---- */
static void test_configs(void)
{
    static char block[64];
    static const struct { const char *name; dl_config config; const char *says; } rows[] = {
        { "device", { .device = "tpu" }, "dl_create: there is no device 'tpu'; it can be 'cpu'" },
        { "cuda", { .device = "cuda:0" }, "dl_create: |dltrain_cuda.h" },
        { "threads", { .threads = -1 }, "dl_create: |-1" },
        { "unknown kernels", { .simd = "mmx" }, "dl_create: there is no simd 'mmx'|portable, avx2, avx512 or neon" },
        { "unknown precision", { .matmul_precision = "fp16" }, "dl_create: there is no matmul_precision 'fp16'|'tf32'|'bf16'" },
        { "unknown blas", { .blas = "mkl" }, "dl_create: there is no blas 'mkl'|'own' or 'cublas'" },
#ifdef __aarch64__
        { "other kernels", { .simd = "avx2" }, "dl_create: simd 'avx2'|lacks it|the fastest here is 'neon'" },
#else
        { "other kernels", { .simd = "neon" }, "dl_create: simd 'neon'|lacks it|the fastest here is '" },
#endif
        { "unknown kernels from the environment", { 0 }, "dl_create: there is no DLTRAIN_SIMD 'sse9'|portable, avx2, avx512 or neon" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strstr(rows[i].name, "environment")) setenv("DLTRAIN_SIMD", "sse9", 1);
        dl_context *c = dl_create(&rows[i].config);
        const char *error = dl_error(c), *p = rows[i].says;
        const char *reason = dl_failed(c) ? NULL : "no error";
        for (; !reason && *p; p += strcspn(p, "|") + (p[strcspn(p, "|")] == '|')) {
            char part[64];
            snprintf(part, sizeof part, "%.*s", (int)strcspn(p, "|"), p);
            if (!strstr(error, part)) reason = error;
        }
        verdict("config", rows[i].name, reason);
        dl_destroy(c);
    }
    unsetenv("DLTRAIN_SIMD");
    dl_context *c = dl_create(&(dl_config){ .memory = block, .memory_size = sizeof block });
    verdict("config", "block too small for a context", c ? "gave a context" : NULL);
    dl_destroy(c);
}

int main(void)
{
    memset(long_name, 'n', sizeof long_name - 1);
    test_tensors(NULL, "planned");
    test_tensors(&(dl_config){ .eager = true }, "eager");
    test_bad_tensors();
    test_statements();
    test_nulls();
    test_configs();
    return REPORT();
}
