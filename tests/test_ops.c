/* Every differentiable operation and loss: derivatives against central differences (gradcheck.h), values and gradients against PyTorch in
   double (gold_ops.h, which tools/gold_ops.py makes from the table below), in every way a context can run. With OPS_FLOAT (see
   test_ops_float.c) only the latter, in float: SIMD and portable kernels. tests: with -DDLTRAIN_REAL=double */
#include "../dltrain.h"
#include "gradcheck.h"
#include "test.h"
#include "gold_ops.h"

/* ---- what the table writes; tools/gold_ops.py reads the same expressions as Python ---- */
static const dl_tensor none;
#define A x[0]
#define B x[1]
#define C x[2]
#define D x[3]
#define INTS(n, ...) dl_input(c, DL_I32, DL_SHAPE(n), (int32_t[]){ __VA_ARGS__ })
#define GRID(shape, ...) dl_input(c, DL_I32, shape, (int32_t[]){ __VA_ARGS__ })
#define REALS(n, ...) dl_input(c, DL_F32, DL_SHAPE(n), (dl_real[]){ __VA_ARGS__ })
#define LIST(...) (dl_tensor[]){ __VA_ARGS__ }
#define DIMS(...) (int[]){ __VA_ARGS__ }
#define SIZES(...) (dl_index[]){ __VA_ARGS__ }
#define MATMUL(...) &(dl_matmul_desc){ __VA_ARGS__ }
#define CONV(...) &(dl_conv2d_desc){ __VA_ARGS__ }
#define POOL(...) &(dl_pool2d_desc){ __VA_ARGS__ }
#define ATTEND(...) &(dl_attention_desc){ __VA_ARGS__ }
#define CE(...) &(dl_cross_entropy_desc){ __VA_ARGS__ }

static dl_tensor buffer(dl_context *c, const char *name, dl_index size, float value)
{
    return dl_parameter(c, name, &(dl_param_desc){ .shape = DL_SHAPE(size), .init = DL_INIT_CONSTANT, .value = value, .buffer = true });
}

static dl_tensor batch_norm_eval(dl_context *c, dl_tensor x, dl_tensor w, dl_tensor b)
{
    bool was = dl_train(c, false);
    dl_index n = dl_dim(x, 1);
    dl_tensor y = dl_batch_norm_op(x, w, b, buffer(c, "mean", n, 0.25f), buffer(c, "var", n, 1.5f), 0.5f, 0.25f);
    dl_train(c, was);
    return y;
}

#define CASES(X) \
    /* elementwise, one operand */ \
    X(neg, FULL, "a37", dl_neg(A)) \
    X(abs, FULL, "k37", dl_abs(A)) \
    X(exp, FULL, "a37", dl_exp(A)) \
    X(log, FULL, "p37", dl_log(A)) \
    X(log1p, FULL, "p37", dl_log1p(A)) \
    X(expm1, FULL, "a37", dl_expm1(A)) \
    X(sqrt, FULL, "p37", dl_sqrt(A)) \
    X(rsqrt, FULL, "p37", dl_rsqrt(A)) \
    X(square, FULL, "a37", dl_square(A)) \
    X(reciprocal, FULL, "p37", dl_reciprocal(A)) \
    X(sigmoid, FULL, "a37", dl_sigmoid(A)) \
    X(tanh, FULL, "a37", dl_tanh(A)) \
    X(sin, FULL, "a37", dl_sin(A)) \
    X(cos, FULL, "a37", dl_cos(A)) \
    X(erf, FULL, "a37", dl_erf(A)) \
    X(relu, FULL, "k37", dl_relu(A)) \
    X(gelu, FULL, "a37", dl_gelu(A)) \
    X(gelu_tanh, FULL, "a37", dl_gelu_tanh(A)) \
    X(silu, FULL, "a37", dl_silu(A)) \
    X(softplus, FULL, "a37", dl_softplus(A)) \
    X(to_float, FULL, "a37", dl_to_float(A)) \
    X(log1p_negative, FULL, "u3,7", dl_log1p(dl_neg(A))) \
    X(reciprocal_negative, FULL, "p3,7", dl_reciprocal(dl_neg(A))) \
    X(leaky_relu, FULL, "k37", dl_leaky_relu(A, 0.25f)) \
    X(elu, FULL, "k37", dl_elu(A, 1)) \
    X(elu_half, FULL, "k37", dl_elu(A, 0.5f)) \
    X(clamp, FULL, "k37", dl_clamp(A, -0.5f, 0.75f)) \
    X(add_scalar, FULL, "a17", dl_add_scalar(A, 0.25f)) \
    X(mul_scalar, FULL, "a17", dl_mul_scalar(A, -1.5f)) \
    X(pow_0, FULL, "a17", dl_pow_scalar(A, 0)) \
    X(pow_1, FULL, "a17", dl_pow_scalar(A, 1)) \
    X(pow_2, FULL, "a17", dl_pow_scalar(A, 2)) \
    X(pow_3, FULL, "a17", dl_pow_scalar(A, 3)) \
    X(pow_half, FULL, "p17", dl_pow_scalar(A, 0.5f)) \
    X(pow_negative, FULL, "p17", dl_pow_scalar(A, -1.5f)) \
    X(pow_minus_2, FULL, "p17", dl_pow_scalar(dl_neg(A), -2)) \
    X(pow_0_zero, FULL, "o3", dl_pow_scalar(A, 0)) \
    X(pow_1_zero, FULL, "o3", dl_pow_scalar(A, 1)) \
    X(pow_2_zero, FULL, "o3", dl_pow_scalar(A, 2)) \
    X(pow_3_zero, FULL, "o3", dl_pow_scalar(A, 3)) \
    X(pow_0_ties, GOLD, "t17", dl_pow_scalar(A, 0)) \
    X(pow_pair_zero, FULL, "o3", dl_pow(A, dl_full(c, DL_SCALAR, 2))) \
    X(unary_scalar, FULL, "a", dl_sigmoid(A)) \
    X(unary_1, FULL, "a1,1", dl_tanh(dl_exp(A))) \
    X(chain, FULL, "a3,7", dl_sin(dl_mul(dl_tanh(A), dl_sigmoid(A)))) \
    X(add_chain, FULL, "a7 a7", dl_mul(dl_add(A, dl_add(B, A)), dl_add(A, B))) \
    /* at kinks and far out: values and gradients as PyTorch has them */ \
    X(sigmoid_far, GOLD, "l37", dl_sigmoid(A)) \
    X(tanh_far, GOLD, "l37", dl_tanh(A)) \
    X(softplus_far, GOLD, "l37", dl_softplus(A)) \
    X(silu_far, GOLD, "l37", dl_silu(A)) \
    X(gelu_far, GOLD, "l37", dl_gelu(A)) \
    X(gelu_tanh_far, GOLD, "l37", dl_gelu_tanh(A)) \
    X(erf_far, GOLD, "l37", dl_erf(A)) \
    X(square_far, GOLD, "l37", dl_square(A)) \
    X(abs_far, GOLD, "l37", dl_abs(A)) \
    X(relu_far, GOLD, "l37", dl_relu(A)) \
    X(elu_far, GOLD, "l37", dl_elu(A, 1)) \
    X(relu_ties, GOLD, "t17", dl_relu(A)) \
    X(abs_ties, GOLD, "t17", dl_abs(A)) \
    X(leaky_relu_ties, GOLD, "t17", dl_leaky_relu(A, 0.25f)) \
    X(elu_ties, GOLD, "t17", dl_elu(A, 0.5f)) \
    X(clamp_ties, GOLD, "t17", dl_clamp(A, -0.5f, 0.5f)) \
    X(pow_2_ties, GOLD, "t17", dl_pow_scalar(A, 2)) \
    X(gelu_ties, GOLD, "t17", dl_gelu(A)) \
    X(sqrt_zero, GOLD, "z17", dl_sqrt(A)) \
    X(maximum_ties, GOLD, "t37 t37", dl_maximum(A, B)) \
    X(minimum_ties, GOLD, "t37 t37", dl_minimum(A, B)) \
    X(pow_zero, GOLD, "z37 z37", dl_pow(A, B)) \
    X(pow_signed, GOLD, "k17", dl_pow(A, dl_full(c, DL_SCALAR, 3))) \
    X(where_nan, GOLD, "t17", dl_where(dl_gt(A, dl_full(c, DL_SCALAR, 0)), dl_sqrt(dl_abs(A)), A)) \
    /* elementwise, two operands */ \
    X(add, FULL, "a3,7 a3,7", dl_add(A, B)) \
    X(add_row, FULL, "a3,5 a5", dl_add(A, B)) \
    X(add_column, FULL, "a3,1 a2,3,5", dl_add(A, B)) \
    X(add_outer, FULL, "a3,1 a1,5", dl_add(A, B)) \
    X(add_from_scalar, FULL, "a a3", dl_add(A, B)) \
    X(sub, FULL, "a3,7 a3,7", dl_sub(A, B)) \
    X(sub_row, FULL, "a3,5 a5", dl_sub(A, B)) \
    X(sub_column, FULL, "a3,1 a2,3,5", dl_sub(A, B)) \
    X(sub_outer, FULL, "a3,1 a1,5", dl_sub(A, B)) \
    X(sub_from_scalar, FULL, "a a3", dl_sub(A, B)) \
    X(mul, FULL, "a3,7 a3,7", dl_mul(A, B)) \
    X(mul_row, FULL, "a3,5 a5", dl_mul(A, B)) \
    X(mul_column, FULL, "a3,1 a2,3,5", dl_mul(A, B)) \
    X(mul_outer, FULL, "a3,1 a1,5", dl_mul(A, B)) \
    X(mul_from_scalar, FULL, "a a3", dl_mul(A, B)) \
    X(div, FULL, "a3,7 p3,7", dl_div(A, B)) \
    X(div_row, FULL, "a3,5 p5", dl_div(A, B)) \
    X(div_column, FULL, "a3,1 p2,3,5", dl_div(A, B)) \
    X(div_outer, FULL, "a3,1 p1,5", dl_div(A, B)) \
    X(div_from_scalar, FULL, "a p3", dl_div(A, B)) \
    X(pow, FULL, "p3,7 a3,7", dl_pow(A, B)) \
    X(pow_row, FULL, "p3,5 a5", dl_pow(A, B)) \
    X(pow_column, FULL, "p3,1 a2,3,5", dl_pow(A, B)) \
    X(pow_outer, FULL, "p3,1 a1,5", dl_pow(A, B)) \
    X(pow_from_scalar, FULL, "p a3", dl_pow(A, B)) \
    X(maximum, FULL, "k3,7 g3,7", dl_maximum(A, B)) \
    X(maximum_row, FULL, "k3,5 g5", dl_maximum(A, B)) \
    X(maximum_column, FULL, "k3,1 g2,3,5", dl_maximum(A, B)) \
    X(maximum_outer, FULL, "k3,1 g1,5", dl_maximum(A, B)) \
    X(maximum_from_scalar, FULL, "k g3", dl_maximum(A, B)) \
    X(minimum, FULL, "k3,7 g3,7", dl_minimum(A, B)) \
    X(minimum_row, FULL, "k3,5 g5", dl_minimum(A, B)) \
    X(minimum_column, FULL, "k3,1 g2,3,5", dl_minimum(A, B)) \
    X(minimum_outer, FULL, "k3,1 g1,5", dl_minimum(A, B)) \
    X(minimum_from_scalar, FULL, "k g3", dl_minimum(A, B)) \
    X(div_signed, FULL, "a17 k17", dl_div(A, dl_mul_scalar(B, 4))) \
    X(mul_wide, FULL, "a4,1,3 a2,3", dl_mul(A, B)) \
    X(where, FULL, "k3,5 a3,5 a3,5", dl_where(dl_gt(A, dl_full(c, DL_SCALAR, 0)), B, C)) \
    X(where_broadcast, FULL, "k3,1 a5 a", dl_where(dl_lt(A, dl_full(c, DL_SCALAR, 0)), B, C)) \
    X(eq, VALUE, "t17 t17", dl_eq(A, B)) \
    X(eq_outer, VALUE, "t3,1 t5", dl_eq(A, B)) \
    X(ne, VALUE, "t17 t17", dl_ne(A, B)) \
    X(ne_outer, VALUE, "t3,1 t5", dl_ne(A, B)) \
    X(lt, VALUE, "t17 t17", dl_lt(A, B)) \
    X(lt_outer, VALUE, "t3,1 t5", dl_lt(A, B)) \
    X(le, VALUE, "t17 t17", dl_le(A, B)) \
    X(le_outer, VALUE, "t3,1 t5", dl_le(A, B)) \
    X(gt, VALUE, "t17 t17", dl_gt(A, B)) \
    X(gt_outer, VALUE, "t3,1 t5", dl_gt(A, B)) \
    X(ge, VALUE, "t17 t17", dl_ge(A, B)) \
    X(ge_outer, VALUE, "t3,1 t5", dl_ge(A, B)) \
    /* reductions */ \
    X(sum, FULL, "a3,17", dl_sum(A)) \
    X(mean, FULL, "a3,17", dl_mean(A)) \
    X(sum_scalar, FULL, "a", dl_sum(A)) \
    X(mean_scalar, FULL, "a", dl_mean(A)) \
    X(sum_0, FULL, "a3,7", dl_sum_dims(A, DIMS(0), 1, false)) \
    X(sum_1, FULL, "a3,7", dl_sum_dims(A, DIMS(1), 1, false)) \
    X(sum_keep, FULL, "a3,7", dl_sum_dims(A, DIMS(-1), 1, true)) \
    X(sum_middle, FULL, "a2,5,3", dl_sum_dims(A, DIMS(1), 1, false)) \
    X(sum_outer, FULL, "a2,3,5", dl_sum_dims(A, DIMS(0, 2), 2, false)) \
    X(sum_outer_keep, FULL, "a2,3,4", dl_sum_dims(A, DIMS(0, -1), 2, true)) \
    X(sum_inner, FULL, "a2,3,5", dl_sum_dims(A, DIMS(1, 2), 2, false)) \
    X(sum_1_3, FULL, "a2,3,2,5", dl_sum_dims(A, DIMS(1, 3), 2, true)) \
    X(sum_0_2, FULL, "a3,2,4,2", dl_sum_dims(A, DIMS(2, 0), 2, false)) \
    X(sum_long, FULL, "a3,37", dl_sum_dims(A, DIMS(1), 1, false)) \
    X(sum_tall, FULL, "a37,2", dl_sum_dims(A, DIMS(0), 1, false)) \
    X(sum_one, FULL, "a1,4", dl_sum_dims(A, DIMS(0), 1, false)) \
    X(sum_all, FULL, "a3,7", dl_sum_dims(A, NULL, 0, false)) \
    X(sum_all_keep, FULL, "a2,3", dl_sum_dims(A, NULL, 0, true)) \
    X(mean_0, FULL, "a3,7", dl_mean_dims(A, DIMS(0), 1, false)) \
    X(mean_1, FULL, "a3,7", dl_mean_dims(A, DIMS(1), 1, false)) \
    X(mean_keep, FULL, "a3,7", dl_mean_dims(A, DIMS(-1), 1, true)) \
    X(mean_middle, FULL, "a2,5,3", dl_mean_dims(A, DIMS(1), 1, false)) \
    X(mean_outer, FULL, "a2,3,5", dl_mean_dims(A, DIMS(0, 2), 2, false)) \
    X(mean_outer_keep, FULL, "a2,3,4", dl_mean_dims(A, DIMS(0, -1), 2, true)) \
    X(mean_inner, FULL, "a2,3,5", dl_mean_dims(A, DIMS(1, 2), 2, false)) \
    X(mean_1_3, FULL, "a2,3,2,5", dl_mean_dims(A, DIMS(1, 3), 2, true)) \
    X(mean_0_2, FULL, "a3,2,4,2", dl_mean_dims(A, DIMS(2, 0), 2, false)) \
    X(mean_long, FULL, "a3,37", dl_mean_dims(A, DIMS(1), 1, false)) \
    X(mean_tall, FULL, "a37,2", dl_mean_dims(A, DIMS(0), 1, false)) \
    X(mean_one, FULL, "a1,4", dl_mean_dims(A, DIMS(0), 1, false)) \
    X(mean_all, FULL, "a3,7", dl_mean_dims(A, NULL, 0, false)) \
    X(mean_all_keep, FULL, "a2,3", dl_mean_dims(A, NULL, 0, true)) \
    X(max_0, FULL, "d3,7", dl_max_dims(A, DIMS(0), 1, false)) \
    X(max_1, FULL, "d3,7", dl_max_dims(A, DIMS(1), 1, false)) \
    X(max_keep, FULL, "d3,7", dl_max_dims(A, DIMS(-1), 1, true)) \
    X(max_middle, FULL, "d2,5,3", dl_max_dims(A, DIMS(1), 1, false)) \
    X(max_outer, FULL, "d2,3,5", dl_max_dims(A, DIMS(0, 2), 2, false)) \
    X(max_outer_keep, FULL, "d2,3,4", dl_max_dims(A, DIMS(0, -1), 2, true)) \
    X(max_inner, FULL, "d2,3,5", dl_max_dims(A, DIMS(1, 2), 2, false)) \
    X(max_1_3, FULL, "d2,3,2,5", dl_max_dims(A, DIMS(1, 3), 2, true)) \
    X(max_0_2, FULL, "d3,2,4,2", dl_max_dims(A, DIMS(2, 0), 2, false)) \
    X(max_long, FULL, "d3,37", dl_max_dims(A, DIMS(1), 1, false)) \
    X(max_tall, FULL, "d37,2", dl_max_dims(A, DIMS(0), 1, false)) \
    X(max_one, FULL, "d1,4", dl_max_dims(A, DIMS(0), 1, false)) \
    X(max_all, FULL, "d3,7", dl_max_dims(A, NULL, 0, false)) \
    X(max_all_keep, FULL, "d2,3", dl_max_dims(A, NULL, 0, true)) \
    X(min_0, FULL, "d3,7", dl_min_dims(A, DIMS(0), 1, false)) \
    X(min_1, FULL, "d3,7", dl_min_dims(A, DIMS(1), 1, false)) \
    X(min_keep, FULL, "d3,7", dl_min_dims(A, DIMS(-1), 1, true)) \
    X(min_middle, FULL, "d2,5,3", dl_min_dims(A, DIMS(1), 1, false)) \
    X(min_outer, FULL, "d2,3,5", dl_min_dims(A, DIMS(0, 2), 2, false)) \
    X(min_outer_keep, FULL, "d2,3,4", dl_min_dims(A, DIMS(0, -1), 2, true)) \
    X(min_inner, FULL, "d2,3,5", dl_min_dims(A, DIMS(1, 2), 2, false)) \
    X(min_1_3, FULL, "d2,3,2,5", dl_min_dims(A, DIMS(1, 3), 2, true)) \
    X(min_0_2, FULL, "d3,2,4,2", dl_min_dims(A, DIMS(2, 0), 2, false)) \
    X(min_long, FULL, "d3,37", dl_min_dims(A, DIMS(1), 1, false)) \
    X(min_tall, FULL, "d37,2", dl_min_dims(A, DIMS(0), 1, false)) \
    X(min_one, FULL, "d1,4", dl_min_dims(A, DIMS(0), 1, false)) \
    X(min_all, FULL, "d3,7", dl_min_dims(A, NULL, 0, false)) \
    X(min_all_keep, FULL, "d2,3", dl_min_dims(A, NULL, 0, true)) \
    X(var_0, FULL, "a3,7", dl_var_dims(A, DIMS(0), 1, false, 0)) \
    X(var_1, FULL, "a3,7", dl_var_dims(A, DIMS(1), 1, false, 0)) \
    X(var_keep, FULL, "a3,7", dl_var_dims(A, DIMS(-1), 1, true, 0)) \
    X(var_middle, FULL, "a2,5,3", dl_var_dims(A, DIMS(1), 1, false, 0)) \
    X(var_outer, FULL, "a2,3,5", dl_var_dims(A, DIMS(0, 2), 2, false, 0)) \
    X(var_outer_keep, FULL, "a2,3,4", dl_var_dims(A, DIMS(0, -1), 2, true, 0)) \
    X(var_inner, FULL, "a2,3,5", dl_var_dims(A, DIMS(1, 2), 2, false, 0)) \
    X(var_1_3, FULL, "a2,3,2,5", dl_var_dims(A, DIMS(1, 3), 2, true, 0)) \
    X(var_0_2, FULL, "a3,2,4,2", dl_var_dims(A, DIMS(2, 0), 2, false, 0)) \
    X(var_long, FULL, "a3,37", dl_var_dims(A, DIMS(1), 1, false, 0)) \
    X(var_tall, FULL, "a37,2", dl_var_dims(A, DIMS(0), 1, false, 0)) \
    X(var_one, FULL, "a1,4", dl_var_dims(A, DIMS(0), 1, false, 0)) \
    X(var_all, FULL, "a3,7", dl_var_dims(A, NULL, 0, false, 0)) \
    X(var_all_keep, FULL, "a2,3", dl_var_dims(A, NULL, 0, true, 0)) \
    X(logsumexp_0, FULL, "a3,7", dl_logsumexp_dims(A, DIMS(0), 1, false)) \
    X(logsumexp_1, FULL, "a3,7", dl_logsumexp_dims(A, DIMS(1), 1, false)) \
    X(logsumexp_keep, FULL, "a3,7", dl_logsumexp_dims(A, DIMS(-1), 1, true)) \
    X(logsumexp_middle, FULL, "a2,5,3", dl_logsumexp_dims(A, DIMS(1), 1, false)) \
    X(logsumexp_outer, FULL, "a2,3,5", dl_logsumexp_dims(A, DIMS(0, 2), 2, false)) \
    X(logsumexp_outer_keep, FULL, "a2,3,4", dl_logsumexp_dims(A, DIMS(0, -1), 2, true)) \
    X(logsumexp_inner, FULL, "a2,3,5", dl_logsumexp_dims(A, DIMS(1, 2), 2, false)) \
    X(logsumexp_1_3, FULL, "a2,3,2,5", dl_logsumexp_dims(A, DIMS(1, 3), 2, true)) \
    X(logsumexp_0_2, FULL, "a3,2,4,2", dl_logsumexp_dims(A, DIMS(2, 0), 2, false)) \
    X(logsumexp_long, FULL, "a3,37", dl_logsumexp_dims(A, DIMS(1), 1, false)) \
    X(logsumexp_tall, FULL, "a37,2", dl_logsumexp_dims(A, DIMS(0), 1, false)) \
    X(logsumexp_one, FULL, "a1,4", dl_logsumexp_dims(A, DIMS(0), 1, false)) \
    X(logsumexp_all, FULL, "a3,7", dl_logsumexp_dims(A, NULL, 0, false)) \
    X(logsumexp_all_keep, FULL, "a2,3", dl_logsumexp_dims(A, NULL, 0, true)) \
    X(sum_channels, FULL, "a3,2,5,3", dl_sum_dims(A, DIMS(0, 2, 3), 3, false)) \
    X(sum_channels_keep, FULL, "a5,3,70", dl_sum_dims(A, DIMS(0, 2), 2, true)) \
    X(sum_channels_pixel, FULL, "a5,3,1,1", dl_sum_dims(A, DIMS(0, 2, 3), 3, false)) \
    X(sum_channels_two, FULL, "a2,3,2,3", dl_sum_dims(A, DIMS(0, 3), 2, false)) \
    X(norm_0, FULL, "k3,7", dl_norm_dims(A, DIMS(0), 1, false)) \
    X(norm_1, FULL, "k3,7", dl_norm_dims(A, DIMS(1), 1, false)) \
    X(norm_keep, FULL, "k3,7", dl_norm_dims(A, DIMS(-1), 1, true)) \
    X(norm_middle, FULL, "k2,5,3", dl_norm_dims(A, DIMS(1), 1, false)) \
    X(norm_outer, FULL, "k2,3,5", dl_norm_dims(A, DIMS(0, 2), 2, false)) \
    X(norm_outer_keep, FULL, "k2,3,4", dl_norm_dims(A, DIMS(0, -1), 2, true)) \
    X(norm_inner, FULL, "k2,3,5", dl_norm_dims(A, DIMS(1, 2), 2, false)) \
    X(norm_1_3, FULL, "k2,3,2,5", dl_norm_dims(A, DIMS(1, 3), 2, true)) \
    X(norm_0_2, FULL, "k3,2,4,2", dl_norm_dims(A, DIMS(2, 0), 2, false)) \
    X(norm_long, FULL, "k3,37", dl_norm_dims(A, DIMS(1), 1, false)) \
    X(norm_tall, FULL, "k37,2", dl_norm_dims(A, DIMS(0), 1, false)) \
    X(norm_one, FULL, "k1,4", dl_norm_dims(A, DIMS(0), 1, false)) \
    X(norm_all, FULL, "k3,7", dl_norm_dims(A, NULL, 0, false)) \
    X(norm_all_keep, FULL, "k2,3", dl_norm_dims(A, NULL, 0, true)) \
    X(var_unbiased, FULL, "a2,3,5", dl_var_dims(A, DIMS(0, 2), 2, false, 1)) \
    X(var_half, FULL, "a3,7", dl_var_dims(A, DIMS(1), 1, true, 0.5f)) \
    X(max_ties, GOLD, "t3,7", dl_max_dims(A, DIMS(1), 1, false)) \
    X(max_ties_outer, GOLD, "t3,2,5", dl_max_dims(A, DIMS(0, 2), 2, false)) \
    X(max_ties_tall, GOLD, "t17,2", dl_max_dims(A, DIMS(0), 1, false)) \
    X(min_ties, GOLD, "t3,7", dl_min_dims(A, DIMS(1), 1, false)) \
    X(min_ties_outer, GOLD, "t3,2,5", dl_min_dims(A, DIMS(0, 2), 2, false)) \
    X(min_ties_tall, GOLD, "t17,2", dl_min_dims(A, DIMS(0), 1, false)) \
    X(norm_zero, GOLD, "o3,4", dl_norm_dims(A, DIMS(1), 1, false)) \
    X(logsumexp_far, GOLD, "l3,17", dl_logsumexp_dims(A, DIMS(1), 1, false)) \
    X(argmax, VALUE, "t3,7", dl_argmax(A, 1, false)) \
    X(argmax_0, VALUE, "t17,3", dl_argmax(A, 0, true)) \
    X(argmin, VALUE, "t3,7", dl_argmin(A, -1, true)) \
    X(argmin_middle, VALUE, "t2,5,3", dl_argmin(A, 1, false)) \
    /* moving */ \
    X(reshape, FULL, "a2,6", dl_reshape(A, DL_SHAPE(3, 4))) \
    X(reshape_open, FULL, "a2,6", dl_square(dl_reshape(A, DL_SHAPE(3, -1, 2)))) \
    X(reshape_scalar, FULL, "a1,1", dl_reshape(A, DL_SCALAR)) \
    X(flatten, FULL, "a2,3,4", dl_exp(dl_flatten(A, 1))) \
    X(flatten_0, FULL, "a2,3,2", dl_flatten(A, 0)) \
    X(permute, FULL, "a2,3,5", dl_permute(A, DIMS(2, 0, 1))) \
    X(permute_4, FULL, "a2,3,2,5", dl_square(dl_permute(A, DIMS(0, 3, 1, 2)))) \
    X(permute_negative, FULL, "a3,5", dl_permute(A, DIMS(-1, 0))) \
    X(transpose, FULL, "a3,7", dl_square(dl_transpose(A, 0, 1))) \
    X(transpose_outer, FULL, "a2,3,5", dl_transpose(A, -1, 0)) \
    X(transpose_same, FULL, "a3,2", dl_transpose(A, 1, 1)) \
    X(transpose_add, FULL, "a3,3 a3,3", dl_mul(dl_transpose(A, 0, 1), B)) \
    X(slice, FULL, "a3,7", dl_slice(A, 1, 1, 6, 2)) \
    X(slice_negative, FULL, "a7,3", dl_square(dl_slice(A, 0, -3, 7, 1))) \
    X(slice_to, FULL, "a7", dl_slice(A, 0, 0, -2, 3)) \
    X(slice_middle, FULL, "a2,7,3", dl_slice(A, 1, 2, 100, 3)) \
    X(slice_empty, FULL, "a3,2", dl_slice(A, 0, 2, 1, 1)) \
    X(slice_overlap, FULL, "a7", dl_mul(dl_slice(A, 0, 0, 5, 1), dl_slice(A, 0, 2, 7, 1))) \
    X(concat_0, FULL, "a2,3 a1,3", dl_concat(LIST(A, B), 2, 0)) \
    X(concat_1, FULL, "a2,3 a2,1 a2,4", dl_square(dl_concat(LIST(A, B, C), 3, -1))) \
    X(concat_middle, FULL, "a2,1,3 a2,2,3", dl_concat(LIST(A, B), 2, 1)) \
    X(concat_same, FULL, "a3 a3", dl_square(dl_concat(LIST(A, B, A), 3, 0))) \
    X(concat_empty, FULL, "a0,3 a2,3", dl_concat(LIST(A, B), 2, 0)) \
    X(stack_0, FULL, "a2,3 a2,3", dl_stack(LIST(A, B), 2, 0)) \
    X(stack_1, FULL, "a2,3 a2,3", dl_stack(LIST(A, B), 2, 1)) \
    X(stack_last, FULL, "a2,3 a2,3 a2,3", dl_exp(dl_stack(LIST(A, B, C), 3, -1))) \
    X(stack_scalars, FULL, "a a", dl_stack(LIST(A, B), 2, 0)) \
    X(expand, FULL, "a3,1", dl_expand(A, DL_SHAPE(2, 3, 4))) \
    X(expand_keep, FULL, "a1,3", dl_square(dl_expand(A, DL_SHAPE(5, -1)))) \
    X(expand_scalar, FULL, "a", dl_expand(A, DL_SHAPE(7))) \
    X(pad, FULL, "a3,4", dl_pad(A, SIZES(1, 2), 2, 0.5f)) \
    X(pad_2, FULL, "a2,3,2", dl_square(dl_pad(A, SIZES(0, 1, 2, 0), 4, 0))) \
    X(pad_3, FULL, "a2,1,3", dl_pad(A, SIZES(1, 0, 0, 1, 1, 1), 6, -1)) \
    X(pad_0, FULL, "a3", dl_pad(A, SIZES(0, 0), 2, 1)) \
    X(index_select, FULL, "a5,3", dl_index_select(A, 0, INTS(4, 4, 0, 4, 1))) \
    X(index_select_1, FULL, "a2,5,3", dl_square(dl_index_select(A, 1, INTS(3, 2, 2, 0)))) \
    X(index_select_last, FULL, "a3,4", dl_index_select(A, -1, INTS(6, 0, 3, 3, 1, 3, 0))) \
    X(gather_0, FULL, "a3,4", dl_gather(A, 0, GRID(DL_SHAPE(2, 4), 2, 0, 2, 1, 2, 1, 0, 1))) \
    X(gather_1, FULL, "a3,4", dl_square(dl_gather(A, 1, GRID(DL_SHAPE(3, 5), 0, 0, 3, 0, 1, 2, 2, 2, 2, 2, 3, 1, 0, 0, 1)))) \
    X(gather_small, FULL, "a3,4", dl_gather(A, -1, GRID(DL_SHAPE(2, 1), 3, 0))) \
    X(gather_middle, FULL, "a2,3,2", dl_gather(A, 1, GRID(DL_SHAPE(2, 2, 1), 0, 0, 2, 1))) \
    X(one_hot, VALUE, "a", dl_one_hot(GRID(DL_SHAPE(2, 2), 0, 3, 1, 1), 4)) \
    X(detach_mul, GOLD, "a7", dl_mul(dl_detach(A), A)) \
    X(detach_part, GOLD, "a7 a7", dl_mul(dl_add(dl_detach(dl_square(A)), B), A)) \
    X(detach_all, GOLD, "a7", dl_detach(dl_exp(A))) \
    /* products */ \
    X(matmul_dot, FULL, "a7 a7", dl_matmul(A, B)) \
    X(matmul_vector_matrix, FULL, "a3 a3,5", dl_matmul(A, B)) \
    X(matmul_matrix_vector, FULL, "a3,5 a5", dl_matmul(A, B)) \
    X(matmul_matrix, FULL, "a3,7 a7,5", dl_matmul(A, B)) \
    X(matmul_square, FULL, "a3,3 a3,3", dl_matmul(A, B)) \
    X(matmul_batch, FULL, "a2,3,4 a2,4,2", dl_matmul(A, B)) \
    X(matmul_batch_outer, FULL, "a2,1,2,3 a3,3,2", dl_matmul(A, B)) \
    X(matmul_batch_left, FULL, "a2,3,4 a4,3", dl_matmul(A, B)) \
    X(matmul_batch_right, FULL, "a3,4 a2,4,3", dl_matmul(A, B)) \
    X(matmul_vector_batch, FULL, "a4 a2,4,3", dl_matmul(A, B)) \
    X(matmul_batch_vector, FULL, "a2,3,4 a4", dl_matmul(A, B)) \
    X(matmul_batch_one, FULL, "a1,3,2 a3,2,3", dl_matmul(A, B)) \
    X(matmul_ones, FULL, "a1,1 a1,1", dl_matmul(A, B)) \
    X(matmul_column_row, FULL, "a5,1 a1,3", dl_matmul(A, B)) \
    X(matmul_large, FULL, "a17,5 a5,17", dl_matmul(A, B)) \
    X(matmul_tall, FULL, "a33,2 a2,3", dl_matmul(A, B)) \
    X(matmul_wide, FULL, "a2,3 a3,33", dl_matmul(A, B)) \
    X(matmul_deep, FULL, "a2,65 a65,2", dl_matmul(A, B)) \
    X(matmul_at, FULL, "a7,3 a7,5", dl_matmul(dl_transpose(A, -1, -2), B)) \
    X(matmul_bt, FULL, "a3,7 a5,7", dl_matmul(A, dl_transpose(B, -1, -2))) \
    X(matmul_at_bt, FULL, "a7,3 a5,7", dl_matmul(dl_transpose(A, -1, -2), dl_transpose(B, -1, -2))) \
    X(matmul_batch_at_bt, FULL, "a2,4,3 a2,5,4", dl_matmul(dl_transpose(A, -1, -2), dl_transpose(B, -1, -2))) \
    X(matmul_batch_bt, FULL, "a2,3,4 a5,4", dl_matmul(A, dl_transpose(B, -1, -2))) \
    X(gram, FULL, "a3,5", dl_matmul(A, dl_transpose(A, 0, 1))) \
    X(matmul_transposed, FULL, "a3,4 a4,5", dl_transpose(dl_matmul(A, B), 0, 1)) \
    X(matmul_permuted, FULL, "a3,2,4 a2,4,3", dl_matmul(dl_permute(A, DIMS(1, 0, 2)), B)) \
    X(matmul_ex_00, FULL, "a3,4 a4,5", dl_matmul_ex(A, B, MATMUL(.transpose_a = false, .transpose_b = false))) \
    X(matmul_ex_batch_00, FULL, "a2,3,4 a4,2", dl_matmul_ex(A, B, MATMUL(.transpose_a = false, .transpose_b = false))) \
    X(matmul_ex_01, FULL, "a3,4 a5,4", dl_matmul_ex(A, B, MATMUL(.transpose_a = false, .transpose_b = true))) \
    X(matmul_ex_batch_01, FULL, "a2,3,4 a2,4", dl_matmul_ex(A, B, MATMUL(.transpose_a = false, .transpose_b = true))) \
    X(matmul_ex_10, FULL, "a4,3 a4,5", dl_matmul_ex(A, B, MATMUL(.transpose_a = true, .transpose_b = false))) \
    X(matmul_ex_batch_10, FULL, "a2,4,3 a4,2", dl_matmul_ex(A, B, MATMUL(.transpose_a = true, .transpose_b = false))) \
    X(matmul_ex_11, FULL, "a4,3 a5,4", dl_matmul_ex(A, B, MATMUL(.transpose_a = true, .transpose_b = true))) \
    X(matmul_ex_batch_11, FULL, "a2,4,3 a2,4", dl_matmul_ex(A, B, MATMUL(.transpose_a = true, .transpose_b = true))) \
    X(matmul_ex_turned, FULL, "a3,4 a5,4", dl_matmul_ex(dl_transpose(A, 0, 1), dl_transpose(B, 0, 1), MATMUL(.transpose_a = true))) \
    X(affine, FULL, "a3,5 a4,5 a4", dl_affine(A, B, C)) \
    X(affine_bare, FULL, "a3,5 a4,5", dl_affine(A, B, none)) \
    X(affine_batch, FULL, "a2,3,5 a4,5 a4", dl_affine(A, B, C)) \
    X(affine_vector, FULL, "a5 a4,5 a4", dl_affine(A, B, C)) \
    X(affine_one, FULL, "a1,17 a1,17 a1", dl_affine(A, B, C)) \
    /* convolution and pooling */ \
    X(conv2d_plain, FULL, "a2,2,4,5 a3,2,3,2", dl_conv2d_op(A, B, CONV(.stride = 1))) \
    X(conv2d_same, FULL, "a1,2,5,5 a2,2,3,3", dl_conv2d_op(A, B, CONV(.padding = 1))) \
    X(conv2d_stride, FULL, "a1,2,7,6 a2,2,3,3", dl_conv2d_op(A, B, CONV(.stride = 2, .padding = 1))) \
    X(conv2d_dilation, FULL, "a1,1,7,7 a2,1,3,3", dl_conv2d_op(A, B, CONV(.dilation = 2, .padding = 2))) \
    X(conv2d_groups, FULL, "a2,4,3,4 a6,2,2,2", dl_conv2d_op(A, B, CONV(.groups = 2))) \
    X(conv2d_depthwise, FULL, "a1,3,4,5 a3,1,3,3", dl_conv2d_op(A, B, CONV(.groups = 3, .padding = 1))) \
    X(conv2d_rect, FULL, "a1,2,5,7 a2,2,2,3", \
        dl_conv2d_op(A, B, CONV(.stride = 2, .stride_w = 1, .padding = 1, .padding_w = 2, .dilation = 1, .dilation_w = 2))) \
    X(conv2d_pointwise, FULL, "a2,3,2,3 a4,3,1,1", dl_conv2d_op(A, B, CONV(.stride = 1))) \
    X(conv2d_pointwise_stride, FULL, "a1,2,4,5 a2,2,1,1", dl_conv2d_op(A, B, CONV(.stride = 2))) \
    X(conv2d_sparse, FULL, "a1,1,7,7 a1,1,2,2", dl_conv2d_op(A, B, CONV(.stride = 3))) \
    X(conv2d_far_pad, FULL, "a1,1,2,2 a1,1,2,2", dl_conv2d_op(A, B, CONV(.padding = 3))) \
    X(conv2d_all, FULL, "a2,4,5,5 a4,2,2,3", dl_conv2d_op(A, B, CONV(.stride = 2, .padding = 1, .dilation = 2, .groups = 2))) \
    X(conv2d_one, FULL, "a1,1,1,1 a1,1,1,1", dl_conv2d_op(A, B, CONV(.stride = 1))) \
    X(conv2d_8x8, FULL, "a1,2,8,8 a4,2,3,3", dl_conv2d_op(A, B, CONV(.padding = 1))) \
    X(conv2d_wide, FULL, "a1,1,1,33 a2,1,1,5", dl_conv2d_op(A, B, CONV(.padding_w = 2))) \
    X(conv_transpose2d_plain, FULL, "a2,2,3,4 a2,3,2,3", dl_conv_transpose2d_op(A, B, CONV(.stride = 1))) \
    X(conv_transpose2d_stride, FULL, "a1,2,3,3 a2,2,3,3", dl_conv_transpose2d_op(A, B, CONV(.stride = 2, .padding = 1))) \
    X(conv_transpose2d_output_padding, FULL, "a1,2,3,4 a2,2,3,3", \
        dl_conv_transpose2d_op(A, B, CONV(.stride = 2, .padding = 1, .output_padding = 1))) \
    X(conv_transpose2d_groups, FULL, "a2,4,2,3 a4,2,2,2", dl_conv_transpose2d_op(A, B, CONV(.groups = 2))) \
    X(conv_transpose2d_dilation, FULL, "a1,1,3,3 a1,2,2,3", dl_conv_transpose2d_op(A, B, CONV(.dilation = 2))) \
    X(conv_transpose2d_rect, FULL, "a1,2,3,4 a2,1,3,2", \
        dl_conv_transpose2d_op(A, B, CONV(.stride = 2, .stride_w = 3, .padding = 1, .output_padding = 1, .output_padding_w = 2))) \
    X(conv_transpose2d_all, FULL, "a2,4,3,3 a4,1,3,2", \
        dl_conv_transpose2d_op(A, B, CONV(.stride = 2, .padding = 1, .dilation = 2, .groups = 2, .output_padding = 1))) \
    X(max_pool2d_plain, FULL, "d2,2,4,6", dl_max_pool2d(A, POOL(.kernel = 2))) \
    X(avg_pool2d_plain, FULL, "a2,2,4,6", dl_avg_pool2d(A, POOL(.kernel = 2))) \
    X(max_pool2d_overlap, FULL, "d1,2,5,5", dl_max_pool2d(A, POOL(.kernel = 3, .stride = 1))) \
    X(avg_pool2d_overlap, FULL, "a1,2,5,5", dl_avg_pool2d(A, POOL(.kernel = 3, .stride = 1))) \
    X(max_pool2d_pad, FULL, "d1,2,6,5", dl_max_pool2d(A, POOL(.kernel = 3, .stride = 2, .padding = 1))) \
    X(avg_pool2d_pad, FULL, "a1,2,6,5", dl_avg_pool2d(A, POOL(.kernel = 3, .stride = 2, .padding = 1))) \
    X(max_pool2d_rect, FULL, "d2,1,5,7", dl_max_pool2d(A, POOL(.kernel = 2, .kernel_w = 3, .stride = 1, .stride_w = 2, .padding_w = 1))) \
    X(avg_pool2d_rect, FULL, "a2,1,5,7", dl_avg_pool2d(A, POOL(.kernel = 2, .kernel_w = 3, .stride = 1, .stride_w = 2, .padding_w = 1))) \
    X(max_pool2d_ragged, FULL, "d1,1,7,5", dl_max_pool2d(A, POOL(.kernel = 2))) \
    X(avg_pool2d_ragged, FULL, "a1,1,7,5", dl_avg_pool2d(A, POOL(.kernel = 2))) \
    X(max_pool2d_one, FULL, "d1,1,1,1", dl_max_pool2d(A, POOL(.kernel = 1))) \
    X(avg_pool2d_one, FULL, "a1,1,1,1", dl_avg_pool2d(A, POOL(.kernel = 1))) \
    X(max_pool2d_sparse, FULL, "d1,1,7,7", dl_max_pool2d(A, POOL(.kernel = 2, .stride = 3))) \
    X(avg_pool2d_sparse, FULL, "a1,1,7,7", dl_avg_pool2d(A, POOL(.kernel = 2, .stride = 3))) \
    X(max_pool2d_ties, GOLD, "t1,2,5,5", dl_max_pool2d(A, POOL(.kernel = 3, .stride = 2, .padding = 1))) \
    X(max_pool2d_wide, FULL, "d1,2,4,38", dl_max_pool2d(A, POOL(.kernel = 2))) \
    X(max_pool2d_wide_overlap, FULL, "d1,1,5,39", dl_max_pool2d(A, POOL(.kernel = 3, .stride = 2, .padding = 1))) \
    X(avg_pool2d_wide, FULL, "a1,1,5,39", dl_avg_pool2d(A, POOL(.kernel = 3, .stride = 2, .padding = 1))) \
    X(avg_pool2d_whole, FULL, "a2,2,5,3", dl_avg_pool2d(A, POOL(.kernel = 5, .kernel_w = 3))) \
    X(max_pool2d_2_ties, GOLD, "t2,2,6,10", dl_max_pool2d(A, POOL(.kernel = 2))) \
    X(adaptive_avg_pool2d_plain, FULL, "a1,2,5,7", dl_adaptive_avg_pool2d(A, 3, 2)) \
    X(adaptive_avg_pool2d_even, FULL, "a2,1,4,6", dl_adaptive_avg_pool2d(A, 2, 3)) \
    X(adaptive_avg_pool2d_global, FULL, "a2,3,3,4", dl_adaptive_avg_pool2d(A, 1, 1)) \
    X(adaptive_avg_pool2d_grow, FULL, "a1,1,3,3", dl_adaptive_avg_pool2d(A, 4, 5)) \
    X(adaptive_avg_pool2d_same, FULL, "a1,2,3,2", dl_adaptive_avg_pool2d(A, 3, 2)) \
    /* normalisation, softmax, embedding, attention */ \
    X(batch_norm, FULL, "a5,3 a3 a3", dl_batch_norm_op(A, B, C, none, none, 0.5f, 0.25f)) \
    X(batch_norm_4, FULL, "a2,3,2,3 p3 a3", dl_batch_norm_op(A, B, C, none, none, 0.5f, 1e-5f)) \
    X(batch_norm_3_bare, FULL, "a3,2,4", dl_batch_norm_op(A, none, none, none, none, 0.5f, 1e-5f)) \
    X(batch_norm_w, FULL, "a7,2 a2", dl_batch_norm_op(A, B, none, none, none, 0.5f, 0.25f)) \
    X(batch_norm_b, FULL, "a7,2 a2", dl_batch_norm_op(A, none, B, none, none, 0.5f, 0.25f)) \
    X(batch_norm_running, FULL, "a5,3 a3 a3", \
        dl_batch_norm_op(A, B, C, buffer(c, "mean", 3, 0.25f), buffer(c, "var", 3, 1.5f), 0.25f, 0.25f)) \
    X(batch_norm_eval, FULL, "a2,3,2,2 a3 a3", batch_norm_eval(c, A, B, C)) \
    X(batch_norm_eval_bare, FULL, "a5,3", batch_norm_eval(c, A, none, none)) \
    X(batch_norm_odd, FULL, "a3,2,7,3 p2 a2", dl_batch_norm_op(A, B, C, none, none, 0.5f, 1e-5f)) \
    X(batch_norm_wide, FULL, "a5,2,70 a2 a2", dl_batch_norm_op(A, B, C, none, none, 0.5f, 1e-5f)) \
    X(batch_norm_pixel, FULL, "a6,2,1,1 a2 a2", dl_batch_norm_op(A, B, C, none, none, 0.5f, 1e-5f)) \
    X(batch_norm_image, FULL, "a1,2,3,3 a2 a2", dl_batch_norm_op(A, B, C, none, none, 0.5f, 1e-5f)) \
    X(batch_norm_4_w, FULL, "a2,3,2,3 p3", dl_batch_norm_op(A, B, none, none, none, 0.5f, 1e-5f)) \
    X(batch_norm_4_b, FULL, "a2,3,2,3 p3", dl_batch_norm_op(A, none, B, none, none, 0.5f, 1e-5f)) \
    X(layer_norm_blocks, FULL, "a300,3 a3 a3", dl_layer_norm_op(A, B, C, 0.25f)) \
    X(layer_norm_wide, FULL, "a2,70 a70 a70", dl_layer_norm_op(A, B, C, 1e-5f)) \
    X(layer_norm, FULL, "a3,7 a7 a7", dl_layer_norm_op(A, B, C, 1e-5f)) \
    X(layer_norm_2, FULL, "a2,3,4 a3,4 a3,4", dl_layer_norm_op(A, B, C, 0.25f)) \
    X(layer_norm_bare, FULL, "a3,5", dl_layer_norm_op(A, none, none, 1e-5f)) \
    X(layer_norm_w, FULL, "a2,2,5 a5", dl_layer_norm_op(A, B, none, 1e-5f)) \
    X(layer_norm_b, FULL, "a2,5 a5", dl_layer_norm_op(A, none, B, 1e-5f)) \
    X(layer_norm_1, FULL, "a7 a7 a7", dl_layer_norm_op(A, B, C, 1e-5f)) \
    X(layer_norm_one, FULL, "a3,1 a1 a1", dl_layer_norm_op(A, B, C, 0.25f)) \
    X(group_norm, FULL, "a2,4,3 a4 a4", dl_group_norm_op(A, 2, B, C, 1e-5f)) \
    X(group_norm_4, FULL, "a2,6,2,2 a6 a6", dl_group_norm_op(A, 3, B, C, 0.25f)) \
    X(group_norm_1, FULL, "a2,3,3", dl_group_norm_op(A, 1, none, none, 1e-5f)) \
    X(group_norm_each, FULL, "a2,3,4 a3", dl_group_norm_op(A, 3, B, none, 1e-5f)) \
    X(softmax_last, FULL, "a3,7", dl_softmax(A, -1)) \
    X(softmax_0, FULL, "a5,3", dl_softmax(A, 0)) \
    X(softmax_middle, FULL, "a2,5,3", dl_softmax(A, 1)) \
    X(softmax_one, FULL, "a3,1", dl_softmax(A, 1)) \
    X(softmax_17, FULL, "a2,17", dl_softmax(A, 1)) \
    X(softmax_scalar, FULL, "a", dl_softmax(A, 0)) \
    X(softmax_first, FULL, "a4,2,3", dl_softmax(A, 0)) \
    X(softmax_far, GOLD, "l3,17", dl_softmax(A, 1)) \
    X(log_softmax_last, FULL, "a3,7", dl_log_softmax(A, -1)) \
    X(log_softmax_0, FULL, "a5,3", dl_log_softmax(A, 0)) \
    X(log_softmax_middle, FULL, "a2,5,3", dl_log_softmax(A, 1)) \
    X(log_softmax_one, FULL, "a3,1", dl_log_softmax(A, 1)) \
    X(log_softmax_17, FULL, "a2,17", dl_log_softmax(A, 1)) \
    X(log_softmax_scalar, FULL, "a", dl_log_softmax(A, 0)) \
    X(log_softmax_first, FULL, "a4,2,3", dl_log_softmax(A, 0)) \
    X(log_softmax_far, GOLD, "l3,17", dl_log_softmax(A, 1)) \
    X(embedding, FULL, "a5,3", dl_embedding_op(A, GRID(DL_SHAPE(2, 3), 4, 0, 4, 4, 1, 0))) \
    X(embedding_one, FULL, "a3,7", dl_embedding_op(A, INTS(1, 2))) \
    X(attention, FULL, "a3,4 a5,4 a5,2", dl_scaled_dot_product_attention(A, B, C, NULL)) \
    X(attention_same, FULL, "a3,2 a3,2 a3,2", dl_scaled_dot_product_attention(A, B, C, NULL)) \
    X(attention_batch, FULL, "a2,2,3,2 a2,2,4,2 a2,2,4,3", dl_scaled_dot_product_attention(A, B, C, NULL)) \
    X(attention_broadcast, FULL, "a2,3,2 a4,2 a4,3", dl_scaled_dot_product_attention(A, B, C, NULL)) \
    X(attention_mask, FULL, "a3,4 a5,4 a5,2 a3,5", dl_scaled_dot_product_attention(A, B, C, ATTEND(.mask = D))) \
    X(attention_mask_row, FULL, "a2,3,4 a2,5,4 a2,5,2 a5", dl_scaled_dot_product_attention(A, B, C, ATTEND(.mask = D))) \
    X(attention_causal, FULL, "a5,2 a5,2 a5,2", dl_scaled_dot_product_attention(A, B, C, ATTEND(.causal = true))) \
    X(attention_causal_wide, FULL, "a3,2 a5,2 a5,2", dl_scaled_dot_product_attention(A, B, C, ATTEND(.causal = true))) \
    X(attention_causal_tall, FULL, "a5,2 a3,2 a3,2", dl_scaled_dot_product_attention(A, B, C, ATTEND(.causal = true))) \
    X(attention_scale, FULL, "a3,4 a5,4 a5,2", dl_scaled_dot_product_attention(A, B, C, ATTEND(.scale = 0.25f))) \
    X(attention_both, FULL, "a3,2 a3,2 a3,3 a3,3", \
        dl_scaled_dot_product_attention(A, B, C, ATTEND(.mask = D, .causal = true, .scale = 0.5f))) \
    /* segments; some are empty */ \
    X(segment_sum, FULL, "a7,2", dl_segment_sum(A, INTS(6, 0, 3, 3, 4, 7, 7))) \
    X(segment_sum_1, FULL, "a7", dl_segment_sum(A, INTS(4, 0, 0, 5, 7))) \
    X(segment_sum_3, FULL, "a4,2,3", dl_segment_sum(A, INTS(3, 0, 1, 4))) \
    X(segment_sum_none, FULL, "a0,2", dl_segment_sum(A, INTS(3, 0, 0, 0))) \
    X(segment_mean, FULL, "a7,2", dl_segment_mean(A, INTS(6, 0, 3, 3, 4, 7, 7))) \
    X(segment_mean_1, FULL, "a7", dl_segment_mean(A, INTS(4, 0, 0, 5, 7))) \
    X(segment_mean_3, FULL, "a4,2,3", dl_segment_mean(A, INTS(3, 0, 1, 4))) \
    X(segment_mean_none, FULL, "a0,2", dl_segment_mean(A, INTS(3, 0, 0, 0))) \
    X(segment_max, FULL, "d7,2", dl_segment_max(A, INTS(6, 0, 3, 3, 4, 7, 7))) \
    X(segment_max_1, FULL, "d7", dl_segment_max(A, INTS(4, 0, 0, 5, 7))) \
    X(segment_max_3, FULL, "d4,2,3", dl_segment_max(A, INTS(3, 0, 1, 4))) \
    X(segment_max_none, FULL, "d0,2", dl_segment_max(A, INTS(3, 0, 0, 0))) \
    X(segment_softmax, FULL, "a7,2", dl_segment_softmax(A, INTS(6, 0, 3, 3, 4, 7, 7))) \
    X(segment_softmax_1, FULL, "a7", dl_segment_softmax(A, INTS(4, 0, 0, 5, 7))) \
    X(segment_softmax_3, FULL, "a4,2,3", dl_segment_softmax(A, INTS(3, 0, 1, 4))) \
    X(segment_softmax_none, FULL, "a0,2", dl_segment_softmax(A, INTS(3, 0, 0, 0))) \
    X(segment_max_ties, GOLD, "t17,2", dl_segment_max(A, INTS(4, 0, 7, 7, 17))) \
    X(segment_softmax_far, GOLD, "l17", dl_segment_softmax(A, INTS(3, 0, 7, 17))) \
    /* losses */ \
    X(mse_mean, FULL, "a3,5 a3,5", dl_mse(A, B, DL_MEAN)) \
    X(l1_mean, FULL, "k3,5 g3,5", dl_l1(A, B, DL_MEAN)) \
    X(huber_mean, FULL, "k3,5 g3,5", dl_huber(A, B, 0.5f, DL_MEAN)) \
    X(bce_mean, FULL, "u3,5 u3,5", dl_bce(A, B, DL_MEAN)) \
    X(bce_with_logits_mean, FULL, "a3,5 u3,5", dl_bce_with_logits(A, B, DL_MEAN)) \
    X(gaussian_nll_mean, FULL, "a3,5 a3,5 p3,5", dl_gaussian_nll(A, B, C, 0, DL_MEAN)) \
    X(kl_div_mean, FULL, "a3,5 u3,5", dl_kl_div(A, B, DL_MEAN)) \
    X(nll_mean, FULL, "a4,3", dl_nll(A, INTS(4, 2, 0, 0, 1), CE(.reduction = DL_MEAN))) \
    X(nll_weight_mean, FULL, "a4,3", dl_nll(A, INTS(4, 2, 0, -100, 1), CE(.reduction = DL_MEAN, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_mean, FULL, "a4,5", dl_cross_entropy_ex(A, INTS(4, 2, 0, 4, 2), CE(.reduction = DL_MEAN))) \
    X(cross_entropy_weight_mean, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 2, 0, 1, 2), CE(.reduction = DL_MEAN, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_ignore_mean, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 1, 0, 1, 2), CE(.reduction = DL_MEAN, .set_ignore_index = true, .ignore_index = 1))) \
    X(cross_entropy_smooth_mean, FULL, "a4,5", \
        dl_cross_entropy_ex(A, INTS(4, 2, -100, 4, 2), CE(.reduction = DL_MEAN, .label_smoothing = 0.25f))) \
    X(cross_entropy_both_mean, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 2, -100, 1, 2), CE(.reduction = DL_MEAN, .label_smoothing = 0.25f, .weight = REALS(3, \
        0.5f, 2, 0.75f)))) \
    X(cross_entropy_space_mean, FULL, "a2,3,2,2", \
        dl_cross_entropy_ex(A, GRID(DL_SHAPE(2, 2, 2), 0, 1, 2, 2, -100, 0, 1, 1), CE(.reduction = DL_MEAN, \
        .label_smoothing = 0.5f, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_soft_mean, FULL, "a4,3 u4,3", dl_cross_entropy_ex(A, B, CE(.reduction = DL_MEAN))) \
    X(cross_entropy_soft_all_mean, FULL, "a2,3,2 u2,3,2 p3", \
        dl_cross_entropy_ex(A, B, CE(.reduction = DL_MEAN, .label_smoothing = 0.25f, .weight = C))) \
    X(mse_sum, FULL, "a3,5 a3,5", dl_mse(A, B, DL_SUM)) \
    X(l1_sum, FULL, "k3,5 g3,5", dl_l1(A, B, DL_SUM)) \
    X(huber_sum, FULL, "k3,5 g3,5", dl_huber(A, B, 0.5f, DL_SUM)) \
    X(bce_sum, FULL, "u3,5 u3,5", dl_bce(A, B, DL_SUM)) \
    X(bce_with_logits_sum, FULL, "a3,5 u3,5", dl_bce_with_logits(A, B, DL_SUM)) \
    X(gaussian_nll_sum, FULL, "a3,5 a3,5 p3,5", dl_gaussian_nll(A, B, C, 0, DL_SUM)) \
    X(kl_div_sum, FULL, "a3,5 u3,5", dl_kl_div(A, B, DL_SUM)) \
    X(nll_sum, FULL, "a4,3", dl_nll(A, INTS(4, 2, 0, 0, 1), CE(.reduction = DL_SUM))) \
    X(nll_weight_sum, FULL, "a4,3", dl_nll(A, INTS(4, 2, 0, -100, 1), CE(.reduction = DL_SUM, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_sum, FULL, "a4,5", dl_cross_entropy_ex(A, INTS(4, 2, 0, 4, 2), CE(.reduction = DL_SUM))) \
    X(cross_entropy_weight_sum, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 2, 0, 1, 2), CE(.reduction = DL_SUM, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_ignore_sum, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 1, 0, 1, 2), CE(.reduction = DL_SUM, .set_ignore_index = true, .ignore_index = 1))) \
    X(cross_entropy_smooth_sum, FULL, "a4,5", \
        dl_cross_entropy_ex(A, INTS(4, 2, -100, 4, 2), CE(.reduction = DL_SUM, .label_smoothing = 0.25f))) \
    X(cross_entropy_both_sum, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 2, -100, 1, 2), CE(.reduction = DL_SUM, .label_smoothing = 0.25f, .weight = REALS(3, 0.5f, \
        2, 0.75f)))) \
    X(cross_entropy_space_sum, FULL, "a2,3,2,2", \
        dl_cross_entropy_ex(A, GRID(DL_SHAPE(2, 2, 2), 0, 1, 2, 2, -100, 0, 1, 1), CE(.reduction = DL_SUM, \
        .label_smoothing = 0.5f, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_soft_sum, FULL, "a4,3 u4,3", dl_cross_entropy_ex(A, B, CE(.reduction = DL_SUM))) \
    X(cross_entropy_soft_all_sum, FULL, "a2,3,2 u2,3,2 p3", \
        dl_cross_entropy_ex(A, B, CE(.reduction = DL_SUM, .label_smoothing = 0.25f, .weight = C))) \
    X(mse_none, FULL, "a3,5 a3,5", dl_mse(A, B, DL_NONE)) \
    X(l1_none, FULL, "k3,5 g3,5", dl_l1(A, B, DL_NONE)) \
    X(huber_none, FULL, "k3,5 g3,5", dl_huber(A, B, 0.5f, DL_NONE)) \
    X(bce_none, FULL, "u3,5 u3,5", dl_bce(A, B, DL_NONE)) \
    X(bce_with_logits_none, FULL, "a3,5 u3,5", dl_bce_with_logits(A, B, DL_NONE)) \
    X(gaussian_nll_none, FULL, "a3,5 a3,5 p3,5", dl_gaussian_nll(A, B, C, 0, DL_NONE)) \
    X(kl_div_none, FULL, "a3,5 u3,5", dl_kl_div(A, B, DL_NONE)) \
    X(nll_none, FULL, "a4,3", dl_nll(A, INTS(4, 2, 0, 0, 1), CE(.reduction = DL_NONE))) \
    X(nll_weight_none, FULL, "a4,3", dl_nll(A, INTS(4, 2, 0, -100, 1), CE(.reduction = DL_NONE, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_none, FULL, "a4,5", dl_cross_entropy_ex(A, INTS(4, 2, 0, 4, 2), CE(.reduction = DL_NONE))) \
    X(cross_entropy_weight_none, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 2, 0, 1, 2), CE(.reduction = DL_NONE, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_ignore_none, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 1, 0, 1, 2), CE(.reduction = DL_NONE, .set_ignore_index = true, .ignore_index = 1))) \
    X(cross_entropy_smooth_none, FULL, "a4,5", \
        dl_cross_entropy_ex(A, INTS(4, 2, -100, 4, 2), CE(.reduction = DL_NONE, .label_smoothing = 0.25f))) \
    X(cross_entropy_both_none, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 2, -100, 1, 2), CE(.reduction = DL_NONE, .label_smoothing = 0.25f, .weight = REALS(3, \
        0.5f, 2, 0.75f)))) \
    X(cross_entropy_space_none, FULL, "a2,3,2,2", \
        dl_cross_entropy_ex(A, GRID(DL_SHAPE(2, 2, 2), 0, 1, 2, 2, -100, 0, 1, 1), CE(.reduction = DL_NONE, \
        .label_smoothing = 0.5f, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_soft_none, FULL, "a4,3 u4,3", dl_cross_entropy_ex(A, B, CE(.reduction = DL_NONE))) \
    X(cross_entropy_soft_all_none, FULL, "a2,3,2 u2,3,2 p3", \
        dl_cross_entropy_ex(A, B, CE(.reduction = DL_NONE, .label_smoothing = 0.25f, .weight = C))) \
    X(mse_batchmean, FULL, "a3,5 a3,5", dl_mse(A, B, DL_BATCHMEAN)) \
    X(l1_batchmean, FULL, "k3,5 g3,5", dl_l1(A, B, DL_BATCHMEAN)) \
    X(huber_batchmean, FULL, "k3,5 g3,5", dl_huber(A, B, 0.5f, DL_BATCHMEAN)) \
    X(bce_batchmean, FULL, "u3,5 u3,5", dl_bce(A, B, DL_BATCHMEAN)) \
    X(bce_with_logits_batchmean, FULL, "a3,5 u3,5", dl_bce_with_logits(A, B, DL_BATCHMEAN)) \
    X(gaussian_nll_batchmean, FULL, "a3,5 a3,5 p3,5", dl_gaussian_nll(A, B, C, 0, DL_BATCHMEAN)) \
    X(kl_div_batchmean, FULL, "a3,5 u3,5", dl_kl_div(A, B, DL_BATCHMEAN)) \
    X(nll_batchmean, FULL, "a4,3", dl_nll(A, INTS(4, 2, 0, 0, 1), CE(.reduction = DL_BATCHMEAN))) \
    X(nll_weight_batchmean, FULL, "a4,3", \
        dl_nll(A, INTS(4, 2, 0, -100, 1), CE(.reduction = DL_BATCHMEAN, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_batchmean, FULL, "a4,5", dl_cross_entropy_ex(A, INTS(4, 2, 0, 4, 2), CE(.reduction = DL_BATCHMEAN))) \
    X(cross_entropy_weight_batchmean, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 2, 0, 1, 2), CE(.reduction = DL_BATCHMEAN, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_ignore_batchmean, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 1, 0, 1, 2), CE(.reduction = DL_BATCHMEAN, .set_ignore_index = true, .ignore_index = 1))) \
    X(cross_entropy_smooth_batchmean, FULL, "a4,5", \
        dl_cross_entropy_ex(A, INTS(4, 2, -100, 4, 2), CE(.reduction = DL_BATCHMEAN, .label_smoothing = 0.25f))) \
    X(cross_entropy_both_batchmean, FULL, "a4,3", \
        dl_cross_entropy_ex(A, INTS(4, 2, -100, 1, 2), CE(.reduction = DL_BATCHMEAN, .label_smoothing = 0.25f, .weight = REALS(3, \
        0.5f, 2, 0.75f)))) \
    X(cross_entropy_space_batchmean, FULL, "a2,3,2,2", \
        dl_cross_entropy_ex(A, GRID(DL_SHAPE(2, 2, 2), 0, 1, 2, 2, -100, 0, 1, 1), CE(.reduction = DL_BATCHMEAN, \
        .label_smoothing = 0.5f, .weight = REALS(3, 0.5f, 2, 0.75f)))) \
    X(cross_entropy_soft_batchmean, FULL, "a4,3 u4,3", dl_cross_entropy_ex(A, B, CE(.reduction = DL_BATCHMEAN))) \
    X(cross_entropy_soft_all_batchmean, FULL, "a2,3,2 u2,3,2 p3", \
        dl_cross_entropy_ex(A, B, CE(.reduction = DL_BATCHMEAN, .label_smoothing = 0.25f, .weight = C))) \
    X(huber_wide, FULL, "k17 g17", dl_huber(A, B, 1, DL_SUM)) \
    X(huber_ties, GOLD, "t17 t17", dl_huber(A, B, 0.5f, DL_NONE)) \
    X(l1_ties, GOLD, "t17 t17", dl_l1(A, B, DL_SUM)) \
    X(bce_edge, GOLD, "z37 z37", dl_bce(A, dl_detach(B), DL_NONE)) \
    X(bce_with_logits_far, GOLD, "l37 z37", dl_bce_with_logits(A, B, DL_NONE)) \
    X(gaussian_nll_column, FULL, "a3,5 a3,5 p3,1", dl_gaussian_nll(A, B, C, 0, DL_MEAN)) \
    X(gaussian_nll_eps, GOLD, "a17 a17 u17", dl_gaussian_nll(A, B, C, 0.5f, DL_SUM)) \
    X(kl_div_zero, GOLD, "a17 z17", dl_kl_div(A, dl_detach(B), DL_SUM)) \
    X(cross_entropy, FULL, "a3,7", dl_cross_entropy(A, INTS(3, 6, 0, 3))) \
    X(cross_entropy_single, FULL, "a5", dl_cross_entropy(A, dl_reshape(INTS(1, 3), DL_SCALAR))) \
    X(cross_entropy_single_none, FULL, "a5", dl_cross_entropy_ex(A, dl_reshape(INTS(1, 3), DL_SCALAR), CE(.reduction = DL_NONE))) \
    X(cross_entropy_single_soft, FULL, "a5 u5", dl_cross_entropy(A, B)) \
    X(cross_entropy_far, GOLD, "l3,7", dl_cross_entropy(A, INTS(3, 6, 0, 3))) \
    X(nll_space, FULL, "a2,3,4", dl_nll(A, GRID(DL_SHAPE(2, 4), 0, 1, 2, 0, 1, 1, -100, 2), NULL)) \
    X(cross_entropy_smooth_1, FULL, "a3,5", dl_cross_entropy_ex(A, INTS(3, 0, 3, 4), CE(.label_smoothing = 1))) \
    /* nothing at all: a size of 0 */ \
    X(empty_exp, FULL, "a0,3", dl_exp(A)) \
    X(empty_add, FULL, "a0,3 a3", dl_add(A, B)) \
    X(empty_mul_scalar, FULL, "a0 a", dl_mul(A, B)) \
    X(empty_sum, FULL, "a0,3", dl_sum(A)) \
    X(empty_sum_0, FULL, "a0,3", dl_sum_dims(A, DIMS(0), 1, false)) \
    X(empty_sum_1, FULL, "a0,3", dl_sum_dims(A, DIMS(1), 1, true)) \
    X(empty_mean, FULL, "a0,3", dl_mean(A)) \
    X(empty_max, FULL, "a0,3", dl_max_dims(A, DIMS(1), 1, false)) \
    X(empty_norm, FULL, "a3,0", dl_norm_dims(A, DIMS(1), 1, false)) \
    X(empty_var, FULL, "a0,3", dl_var_dims(A, DIMS(1), 1, false, 1)) \
    X(empty_logsumexp, FULL, "a0,3", dl_logsumexp_dims(A, DIMS(1), 1, false)) \
    X(empty_permute, FULL, "a2,0,3", dl_permute(A, DIMS(2, 0, 1))) \
    X(empty_reshape, FULL, "a2,0", dl_reshape(A, DL_SHAPE(0, 7))) \
    X(empty_slice, FULL, "a0,3", dl_slice(A, 1, 0, 2, 1)) \
    X(empty_concat, FULL, "a0,3 a0,2", dl_concat(LIST(A, B), 2, 1)) \
    X(empty_stack, FULL, "a0 a0", dl_stack(LIST(A, B), 2, 0)) \
    X(empty_expand, FULL, "a1,3", dl_expand(A, DL_SHAPE(0, 3))) \
    X(empty_pad, FULL, "a0,2", dl_pad(A, SIZES(0, 0, 1, 1), 4, 0.5f)) \
    X(empty_index_select, FULL, "a3,2", dl_index_select(A, 0, dl_reshape(dl_slice(INTS(1, 0), 0, 0, 0, 1), DL_SHAPE(0)))) \
    X(empty_matmul_inner, FULL, "a3,0 a0,4", dl_matmul(A, B)) \
    X(empty_matmul_outer, FULL, "a0,3 a3,4", dl_matmul(A, B)) \
    X(empty_matmul_batch, FULL, "a0,2,3 a3,4", dl_matmul(A, B)) \
    X(empty_dot, FULL, "a0 a0", dl_matmul(A, B)) \
    X(empty_affine, FULL, "a0,3 a2,3 a2", dl_affine(A, B, C)) \
    X(empty_affine_inner, FULL, "a2,0 a3,0 a3", dl_affine(A, B, C)) \
    X(empty_conv2d, FULL, "a0,2,3,3 a3,2,2,2", dl_conv2d_op(A, B, CONV(.stride = 1))) \
    X(empty_max_pool2d, FULL, "a0,2,4,4", dl_max_pool2d(A, POOL(.kernel = 2))) \
    X(empty_avg_pool2d, FULL, "a0,2,4,4", dl_avg_pool2d(A, POOL(.kernel = 2))) \
    X(empty_softmax, FULL, "a0,3", dl_softmax(A, 1)) \
    X(empty_log_softmax, FULL, "a3,0", dl_log_softmax(A, 1)) \
    X(empty_layer_norm, FULL, "a0,3 a3 a3", dl_layer_norm_op(A, B, C, 1e-5f)) \
    X(empty_embedding, FULL, "a3,2", dl_embedding_op(A, dl_slice(INTS(1, 0), 0, 0, 0, 1))) \
    X(empty_attention, FULL, "a0,3,2 a0,4,2 a0,4,3", dl_scaled_dot_product_attention(A, B, C, NULL)) \
    X(empty_mse, FULL, "a0,3 a0,3", dl_mse(A, B, DL_SUM)) \
    X(empty_cross_entropy, FULL, "a0,3", dl_cross_entropy_ex(A, dl_slice(INTS(1, 0), 0, 0, 0, 1), CE(.reduction = DL_SUM)))

#define FUNCTION(name, kind, spec, ...) \
    static dl_tensor case_##name(dl_context *c, const dl_tensor *x) { return (void)c, (void)x, __VA_ARGS__; }
CASES(FUNCTION)
#define ROW(name, kind, spec, ...) { #name, kind, spec, case_##name },
static const test_case cases[] = { CASES(ROW) };
enum { N_CASES = sizeof cases / sizeof *cases };

static void verdict(const char *name, const char *reason)
{
    test__begin(name);
    CHECK(!reason, "%s", reason ? reason : "");
    test__end();
}

static const dl_config ways[] = {
    { .seed = 1, .threads = 1 }, { .seed = 1, .threads = 1, .simd = "portable" }, { .seed = 1, .threads = 3 },
    { .seed = 1, .threads = 1, .no_fusion = true }, { .seed = 1, .threads = 1, .no_reuse = true },
};
#ifdef ONE_WAY /* on a GPU */
enum { N_WAYS = 1 };
#else
enum { N_WAYS = sizeof ways / sizeof *ways };
#endif

/* ---- gold ---- */
#ifdef OPS_FLOAT
static const double value_tolerance = 2e-5, grad_tolerance = 1e-4, gold_floor = 1; /* relative to the largest number of the array */
#else
static const double value_tolerance = 1e-9, grad_tolerance = 1e-9, gold_floor = 1e-3;
#endif

static const char *against_gold(const char *what, int which, const double *got, int n, const double *gold, double tolerance)
{
    double largest = 0;
    for (int i = 0; i < n; i++)
        if (isfinite(gold[i])) largest = fmax(largest, fabs(gold[i]));
    for (int i = 0; i < n; i++) {
        double error = fabs(got[i] - gold[i]), scale = fmax(fabs(gold[i]), gold_floor * largest);
        bool same = got[i] == gold[i] || (isnan(got[i]) && isnan(gold[i]));
        if (!same && !(isfinite(gold[i]) && error <= tolerance * scale))
            return gc_fail("%s %d at %d: %.12g, not %.12g", what, which, i, got[i], gold[i]);
    }
    return NULL;
}

static const struct gold_case *gold_of(const char *name)
{
    for (size_t i = 0; i < sizeof gold_cases / sizeof *gold_cases; i++)
        if (!strcmp(gold_cases[i].name, name)) return &gold_cases[i];
    return NULL;
}

static const char *goldcheck(dl_context *c, const test_case *t)
{
    static case_data d;
    static double y[MAX_NUMEL], grad[MAX_IN][MAX_NUMEL];
    const struct gold_case *gold = gold_of(t->name);
    if (!gold) return gc_fail("not in gold_ops.h: run tools/gold_ops.py");
    const double *p = gold_data + gold->at;
    char shape[128] = "";
    dl_tensor x[MAX_IN];
    gc_data(t, &d);
    gc_tensors(c, &d, 0, 0, x);
    dl_tensor out = t->build(c, x);
    for (int i = 0; i < dl_ndim(out); i++) sprintf(shape + strlen(shape), i ? ",%td" : "%td", dl_dim(out, i));
    int n = gc_read(out, y);
    dl_end(c);
    if (n < 0) return gc_fail("%s", dl_error(c));
    if (strcmp(shape, gold->shape)) return gc_fail("shape [%s], PyTorch says [%s]", shape, gold->shape);
    const char *bad = against_gold("value of output", 0, y, n, p, value_tolerance);
    if (bad || t->kind == VALUE) return bad;
    unsigned all = (1u << d.n) - 1;
    if (!gc_gradient(c, t, &d, all, all, 0, grad)) return gc_fail("gradient: %s", dl_error(c));
    for (int i = 0; i < d.n && !bad; p += d.in[i++].numel)
        bad = against_gold("gradient of input", i, grad[i], d.in[i].numel, p + n, grad_tolerance);
    return bad;
}

static void check_case(const test_case *t)
{
    const char *bad = NULL;
    for (int way = 0; way < N_WAYS && !bad; way++) {
        dl_context *c = dl_create(&ways[way]);
        if (!way && sizeof(dl_real) == sizeof(double)) bad = gradcheck(c, t);
        dl_clear_error(c);
        const char *other = bad ? NULL : goldcheck(c, t);
        if (other) {
            static char line[600];
            snprintf(line, sizeof line, "way %d: %s", way, other);
            bad = line;
        }
        dl_destroy(c);
    }
    verdict(t->name, bad);
}

/* ---- what the table cannot say ---- */
/* What a gradient of dropout is follows from its values: y / x is 0 or 1 / (1 - p), and dx = w y / x. */
static void dropout(void)
{
    enum { N = 1000 };
    static double data[N], w[N];
    static dl_real x_[N], w_[N];
    static double y[N], dx[N], first[N];
    gc_fill(data, N, "dropout", 0, 'p');
    gc_fill(w, N, "dropout", 1, 'a');
    for (int i = 0; i < N; i++) x_[i] = (dl_real)data[i], w_[i] = (dl_real)w[i];
    for (int way = 0; way < N_WAYS; way++)
        for (int kind = 0; kind < 4; kind++) { /* p of 1/2, 0, 1; evaluation */
            double p = kind == 1 ? 0 : kind == 2 ? 1 : 0.5;
            int zeros = 0;
            dl_context *c = dl_create(&ways[way]);
            dl_train(c, kind != 3);
            dl_tensor x = dl_variable(c, DL_SHAPE(N), x_), out = dl_dropout(x, (float)p), g;
            dl_tensor s = dl_sum(dl_mul(out, dl_input(c, DL_F32, DL_SHAPE(N), w_)));
            bool ok = dl_grad(s, &x, 1, &g) && gc_read(out, y) == N && gc_read(g, dx) == N;
            CHECK(ok, "%s", dl_error(c));
            for (int i = 0; ok && i < N; i++) {
                double scale = kind == 0 ? 2 : 1;
                zeros += y[i] == 0;
                CHECK(y[i] == 0 || y[i] == scale * data[i], "y[%d] %g of %g, p %g", i, y[i], data[i], p);
                double right = w[i] * y[i] / data[i];
                CHECK(fabs(dx[i] - right) <= 1e-6 * fabs(w[i]), "dx[%d] %g of w %g, y %g, x %g", i, dx[i], w[i], y[i], data[i]);
                if (kind == 0 && way == 0) first[i] = y[i];
                CHECK(kind != 0 || first[i] == y[i], "way %d drops others at %d", way, i);
            }
            ok = kind == 0 ? zeros > 400 && zeros < 600 : kind == 2 ? zeros == N : zeros == 0;
            CHECK(ok, "%d zeros of %d at kind %d", zeros, N, kind);
            dl_destroy(c);
        }
}

/* What takes no gradient gives none, and a variable that does not matter has a gradient of zeros. */
static void no_gradient(void)
{
    dl_context *c = dl_create(&ways[0]);
    dl_real v[3] = { 1, -2, 3 };
    double g[2][3];
    dl_tensor x[2] = { dl_variable(c, DL_SHAPE(3), v), dl_variable(c, DL_SHAPE(3), v) }, dx[2];
    dl_tensor y = dl_add(dl_mul(dl_gt(x[0], x[1]), x[0]), dl_mul(dl_detach(dl_exp(x[1])), dl_eq(x[1], x[1])));
    CHECK(dl_grad(dl_sum(y), x, 2, dx) && gc_read(dx[0], g[0]) == 3 && gc_read(dx[1], g[1]) == 3, "%s", dl_error(c));
    for (int i = 0; i < 3; i++) CHECK(g[0][i] == 0 && g[1][i] == 0, "at %d: %g, %g", i, g[0][i], g[1][i]);
    dl_end(c);
    bool was = dl_set_grad(c, false);
    x[0] = dl_variable(c, DL_SHAPE(3), v);
    y = dl_sum(dl_exp(x[0]));
    dl_set_grad(c, was);
    CHECK(!dl_failed(c) && fabs(dl_item(y) - (exp(1) + exp(-2) + exp(3))) < 1e-4, "%s", dl_error(c));
    dl_destroy(c);
}

/* running = (1 - momentum) running + momentum batch, the variance unbiased; two steps; evaluation leaves them. */
static void running_statistics(void)
{
    enum { N = 2, CH = 3, HW = 4 };
    for (int way = 0; way < N_WAYS; way++) {
        dl_context *c = dl_create(&ways[way]);
        double mean[CH] = { 0.25, 0.25, 0.25 }, var[CH] = { 1.5, 1.5, 1.5 }, x[N * CH * HW];
        dl_real in[N * CH * HW];
        for (int step = 0; step < 3; step++) {
            gc_fill(x, N * CH * HW, "running", step, 'a');
            for (int i = 0; i < N * CH * HW; i++) in[i] = (dl_real)x[i];
            dl_train(c, step < 2);
            dl_tensor to[2] = { buffer(c, "mean", CH, 0.25f), buffer(c, "var", CH, 1.5f) };
            dl_batch_norm_op(dl_input(c, DL_F32, DL_SHAPE(N, CH, 2, 2), in), none, none, to[0], to[1], 0.25f, 1e-5f);
            dl_end(c);
            for (int k = 0; k < CH && step < 2; k++) {
                double m = 0, v = 0;
                for (int i = 0; i < N * HW; i++) m += x[i / HW * CH * HW + k * HW + i % HW] / (N * HW);
                for (int i = 0; i < N * HW; i++) v += pow(x[i / HW * CH * HW + k * HW + i % HW] - m, 2) / (N * HW - 1);
                mean[k] = 0.75 * mean[k] + 0.25 * m;
                var[k] = 0.75 * var[k] + 0.25 * v;
            }
            dl_param_info p, q;
            CHECK(dl_param_find(c, "mean", &p) && dl_param_find(c, "var", &q) && p.value && q.value, "%s", dl_error(c));
            if (dl_failed(c)) break;
            for (int k = 0; k < CH; k++) {
                CHECK(fabs(p.value[k] - mean[k]) < 1e-6, "way %d, step %d: mean %g, not %g", way, step, (double)p.value[k], mean[k]);
                CHECK(fabs(q.value[k] - var[k]) < 1e-6, "way %d, step %d: var %g, not %g", way, step, (double)q.value[k], var[k]);
            }
        }
        dl_destroy(c);
    }
}

/* PyTorch says NaN; the manual says 0 when every target is ignored, and its gradient must not be NaN. */
static void all_ignored(void)
{
    for (int kind = 0; kind < 3; kind++) {
        dl_context *c = dl_create(&ways[0]);
        dl_real v[6] = { 1, 2, 3, -1, 0, 4 };
        double g[6];
        dl_tensor x = dl_variable(c, DL_SHAPE(2, 3), v), dx;
        dl_tensor w = kind > 1 ? REALS(3, 1, 2, 3) : none;
        dl_tensor y = dl_cross_entropy_ex(x, INTS(2, -100, -100), CE(.label_smoothing = kind ? 0.5f : 0, .weight = w));
        bool ok = dl_grad(y, &x, 1, &dx);
        CHECK(ok && dl_item(y) == 0 && gc_read(dx, g) == 6, "%s", dl_error(c));
        for (int i = 0; i < 6; i++) CHECK(g[i] == 0, "gradient %g at %d", g[i], i);
        dl_destroy(c);
    }
}

/* Probabilities of exactly 0 and 1, where sigmoid saturates, give gradients that are numbers; through the sigmoid PyTorch's are 0 there. */
static void bce_saturated(void)
{
    dl_context *c = dl_create(&ways[0]);
    dl_real z[6] = { -1000, -1000, -1000, 1000, 1000, 1000 }, t[6] = { 0, 0.5, 1, 0, 0.5, 1 };
    double g[6], h[6], y[6], expected[6] = { 0, 50, 100, 100, 50, 0 };
    dl_tensor x = dl_variable(c, DL_SHAPE(6), z), p = dl_sigmoid(x), dx[2];
    dl_tensor loss = dl_bce(p, dl_input(c, DL_F32, DL_SHAPE(6), t), DL_NONE), from[2] = { x, p };
    bool ok = dl_grad(dl_sum(loss), from, 2, dx) && gc_read(dx[0], g) == 6 && gc_read(dx[1], h) == 6 && gc_read(loss, y) == 6;
    CHECK(ok, "%s", dl_error(c));
    for (int i = 0; ok && i < 6; i++) {
        CHECK(y[i] == expected[i], "loss %g at %d, not %g", y[i], i, expected[i]);
        CHECK(g[i] == 0, "gradient %g of logit %g, target %g", g[i], (double)z[i], (double)t[i]);
        CHECK(isfinite(h[i]), "gradient %g of probability %d, target %g", h[i], z[i] > 0, (double)t[i]);
    }
    dl_destroy(c);
}

/* Sizes that fill the blocks of the kernels, too large for gold: each product against one loop that adds a b to y, g b to da, g a to db. */
enum { BIG = 40000 };
static struct { double a[BIG], b[BIG], g[BIG], y[BIG], da[BIG], db[BIG], got[3][BIG]; } big;

static void term(dl_index y, dl_index a, dl_index b)
{
    big.y[y] += big.a[a] * big.b[b];
    big.da[a] += big.g[y] * big.b[b];
    big.db[b] += big.g[y] * big.a[a];
}

static dl_tensor big_input(dl_context *c, double *from, dl_shape s, bool variable)
{
    static dl_real buffer[BIG];
    dl_index n = 1;
    for (int i = 0; i < s.ndim; i++) n *= s.dim[i];
    for (dl_index i = 0; i < n && i < BIG; i++) buffer[i] = (dl_real)from[i];
    return variable ? dl_variable(c, s, buffer) : dl_input(c, DL_F32, s, buffer);
}

static void big_read(dl_tensor t, double *out)
{
    const dl_real *p = (const dl_real *)dl_data(t);
    for (size_t i = 0; p && i < dl_numel(t) && i < BIG; i++) out[i] = p[i];
}

static void big_begin(void)
{
    gc_fill(big.a, BIG, "big", 0, 'a');
    gc_fill(big.b, BIG, "big", 1, 'a');
    gc_fill(big.g, BIG, "big", 2, 'a');
    for (int i = 0; i < BIG; i++) big.y[i] = big.da[i] = big.db[i] = 0;
}

static void big_check(dl_context *c, const char *what, int which, dl_tensor y, const dl_tensor *x)
{
    dl_tensor dx[2];
    const double *right[3] = { big.y, big.da, big.db };
    if (!dl_ok(y) || !dl_grad(dl_sum(dl_mul(y, big_input(c, big.g, dl_shape_of(y), false))), x, 2, dx)) {
        CHECK(false, "%s %d: %s", what, which, dl_error(c));
        return;
    }
    dl_tensor all[3] = { y, dx[0], dx[1] };
    for (int i = 0; i < 3; i++) dl_keep(all[i]);
    for (int i = 0; i < 3; i++) {
        big_read(all[i], big.got[i]);
        const char *bad = dl_error(c);
        if (!dl_failed(c)) bad = against_gold("array", i, big.got[i], (int)dl_numel(all[i]), right[i], value_tolerance);
        CHECK(!bad, "%s %d: %s", what, which, bad);
    }
}

static void big_matmul(void)
{
    static const int sizes[][3] = { { 64, 64, 64 }, { 67, 129, 65 }, { 1, 300, 17 }, { 130, 257, 33 }, { 33, 513, 9 }, { 5, 1030, 6 },
                                    { 100, 3, 100 } };
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int turned = 0; turned < 4; turned++) {
            int M = sizes[k][0], K = sizes[k][1], N = sizes[k][2];
            bool ta = turned & 1, tb = turned & 2;
            big_begin();
            for (int i = 0; i < M; i++)
                for (int j = 0; j < N; j++)
                    for (int l = 0; l < K; l++) term(i * N + j, ta ? l * M + i : i * K + l, tb ? j * K + l : l * N + j);
            for (int way = 0; way < 3; way++) {
                dl_context *c = dl_create(&ways[way]);
                dl_shape a = ta ? DL_SHAPE(K, M) : DL_SHAPE(M, K), b = tb ? DL_SHAPE(N, K) : DL_SHAPE(K, N);
                dl_tensor x[2] = { big_input(c, big.a, a, true), big_input(c, big.b, b, true) };
                big_check(c, "matmul", (int)k * 10 + turned, dl_matmul_ex(x[0], x[1], MATMUL(.transpose_a = ta, .transpose_b = tb)), x);
                dl_destroy(c);
            }
        }
}

/* Images, channels, height, width, out channels, kernel, stride, padding, dilation, groups. The transposed convolution is the same loop
   with the roles of input and output exchanged; what the stride does not reach is its output_padding. */
static void big_conv(void)
{
    static const dl_index sizes[][11] = {
        { 2, 5, 13, 17, 7, 3, 3, 1, 1, 1, 1 }, { 1, 16, 19, 19, 24, 3, 3, 1, 1, 1, 1 }, { 3, 8, 16, 12, 16, 5, 3, 2, 2, 1, 2 },
        { 2, 33, 9, 9, 33, 3, 3, 1, 1, 2, 33 }, { 1, 3, 32, 30, 8, 7, 7, 2, 3, 1, 1 }, { 2, 17, 12, 12, 19, 1, 1, 1, 0, 1, 1 },
        { 1, 40, 7, 7, 36, 3, 3, 1, 0, 1, 4 }, { 1, 2, 40, 40, 3, 2, 3, 3, 0, 3, 1 },
        { 1, 6, 9, 45, 6, 3, 3, 1, 1, 1, 6 }, { 2, 16, 5, 37, 3, 3, 3, 1, 1, 1, 1 },
        { 2, 30, 7, 31, 15, 3, 3, 1, 1, 1, 1 }, { 1, 3, 6, 34, 13, 3, 3, 1, 0, 1, 1 }, { 1, 8, 5, 16, 4, 1, 1, 1, 0, 1, 1 },
        { 1, 32, 6, 33, 22, 3, 3, 1, 1, 1, 2 } };
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int transposed = 0; transposed < 2; transposed++) {
            const dl_index *z = sizes[k];
            dl_index n = z[0], ch = z[1], h = z[2], w = z[3], o = z[4], kh = z[5], kw = z[6];
            dl_index stride = z[7], pad = z[8], dil = z[9], groups = z[10];
            dl_index reach_h = h + 2 * pad - dil * (kh - 1) - 1, reach_w = w + 2 * pad - dil * (kw - 1) - 1;
            dl_index oh = reach_h / stride + 1, ow = reach_w / stride + 1, per = o / groups, few = ch / groups;
            big_begin();
            for (dl_index i = 0; i < n; i++)
                for (dl_index q = 0; q < o; q++)
                    for (dl_index f = 0; f < few; f++)
                        for (dl_index y = 0; y < oh * ow; y++)
                            for (dl_index e = 0; e < kh * kw; e++) {
                                dl_index p = q / per * few + f;
                                dl_index r = y / ow * stride - pad + e / kw * dil, s = y % ow * stride - pad + e % kw * dil;
                                if (r < 0 || s < 0 || r >= h || s >= w) continue;
                                dl_index small = (i * o + q) * oh * ow + y, large = ((i * ch + p) * h + r) * w + s;
                                term(transposed ? large : small, transposed ? small : large, (q * few + f) * kh * kw + e);
                            }
            for (int way = 0; way < 3; way++) {
                dl_context *c = dl_create(&ways[way]);
                dl_conv2d_desc d = { .stride = stride, .padding = pad, .dilation = dil, .groups = groups };
                dl_tensor x[2] = { big_input(c, big.a, transposed ? DL_SHAPE(n, o, oh, ow) : DL_SHAPE(n, ch, h, w), true),
                                   big_input(c, big.b, DL_SHAPE(o, few, kh, kw), true) };
                if (transposed) d.output_padding = reach_h % stride, d.output_padding_w = reach_w % stride;
                dl_tensor y = transposed ? dl_conv_transpose2d_op(x[0], x[1], &d) : dl_conv2d_op(x[0], x[1], &d);
                big_check(c, transposed ? "conv_transpose2d" : "conv2d", (int)k, y, x);
                dl_destroy(c);
            }
        }
}

static void nan_wins(void)
{
    enum { N = 37 };
    for (int way = 0; way < N_WAYS; way++)
        for (int at = 0; at < N; at += 4) {
            dl_context *c = dl_create(&ways[way]);
            dl_real v[N], w[N];
            for (int i = 0; i < N; i++) v[i] = i == at ? (dl_real)NAN : (dl_real)(i % 7), w[i] = 3;
            dl_tensor x = dl_input(c, DL_F32, DL_SHAPE(N), v), z = dl_input(c, DL_F32, DL_SHAPE(N), w);
            dl_tensor square = dl_reshape(x, DL_SHAPE(1, 1, 1, N));
            dl_tensor y[] = { dl_maximum(x, z), dl_maximum(z, x), dl_minimum(x, z), dl_minimum(z, x), dl_relu(x), dl_clamp(x, 1, 2),
                              dl_max_pool2d(square, POOL(.kernel = 1)) };
            dl_tensor one[] = { dl_max_dims(x, NULL, 0, false), dl_min_dims(x, NULL, 0, false), dl_sum(x), dl_segment_max(x, INTS(2, 0, N)),
                                dl_max_pool2d(square, POOL(.kernel = 1, .kernel_w = N)) };
            double out[N];
            for (size_t k = 0; k < sizeof y / sizeof *y; k++) {
                CHECK(gc_read(y[k], out) == N, "%s", dl_error(c));
                for (int i = 0; i < N; i++)
                    CHECK(isnan(out[i]) == (i == at), "way %d, operation %d: %g at %d, NaN was at %d", way, (int)k, out[i], i, at);
            }
            for (size_t k = 0; k < sizeof one / sizeof *one; k++)
                CHECK(gc_read(one[k], out) == 1 && isnan(out[0]), "way %d, reduction %d: %g: %s", way, (int)k, out[0], dl_error(c));
            bool found = dl_item(dl_argmax(x, 0, false)) == at && dl_item(dl_argmin(x, 0, false)) == at;
            CHECK(found, "way %d: argmax misses NaN at %d", way, at);
            dl_destroy(c);
        }
}

/* ---- mutants: the checker must tell a right derivative from a wrong one ---- */
#ifndef OPS_FLOAT
/* y = a b + a a */
static void mutant_run(const dl_run_args *r)
{
    const dl_real *a = (const dl_real *)r->in[0], *b = (const dl_real *)r->in[1];
    for (size_t i = 0; i < r->n; i++) ((dl_real *)r->out)[i] = a[i] * b[i] + a[i] * a[i];
}
static dl_tensor to_a(const dl_grad_args *g) { return dl_mul(g->dy, dl_add(g->x[1], dl_mul_scalar(g->x[0], 2))); }
static dl_tensor to_b(const dl_grad_args *g) { return dl_mul(g->dy, g->x[0]); }
static void right_grad(const dl_grad_args *g)
{
    if (g->want[0]) g->dx[0] = to_a(g);
    if (g->want[1]) g->dx[1] = to_b(g);
}
static void sign_grad(const dl_grad_args *g)
{
    right_grad(g);
    if (g->want[1]) g->dx[1] = dl_neg(to_b(g));
}
static void term_grad(const dl_grad_args *g)
{
    right_grad(g);
    if (g->want[0]) g->dx[0] = dl_mul(g->dy, g->x[1]);
}
static void first_only_grad(const dl_grad_args *g) /* when both are wanted the second is forgotten */
{
    if (g->want[0]) g->dx[0] = to_a(g);
    else g->dx[1] = to_b(g);
}
static void not_times_dy_grad(const dl_grad_args *g)
{
    right_grad(g);
    if (g->want[1]) g->dx[1] = g->x[0];
}
static void slightly_grad(const dl_grad_args *g)
{
    right_grad(g);
    if (g->want[1]) g->dx[1] = dl_mul_scalar(to_b(g), 1.00001f);
}
static void same_grad(const dl_grad_args *g) /* wrong only when both inputs are one tensor */
{
    right_grad(g);
    if (g->want[1] && g->x[0].node == g->x[1].node) g->dx[1] = dl_mul_scalar(g->dx[1], 0);
}
static void second_grad(const dl_grad_args *g) /* right, but its own derivative lacks a term */
{
    if (g->want[0]) g->dx[0] = dl_mul(g->dy, dl_add(g->x[1], dl_mul_scalar(dl_detach(g->x[0]), 2)));
    if (g->want[1]) g->dx[1] = to_b(g);
}
#define MUTANTS(X) X(right) X(sign) X(term) X(first_only) X(not_times_dy) X(slightly) X(same) X(second)
#define MUTANT(name) \
    static const dl_op name##_op = { "mutant_" #name, DL_OP_ELEMENTWISE, NULL, mutant_run, name##_grad, NULL, NULL }; \
    static dl_tensor name##_build(dl_context *c, const dl_tensor *x) { return (void)c, dl_apply(&name##_op, 2, x, NULL); }
MUTANTS(MUTANT)
#define MUTANT_ROW(name) { "mutant_" #name, FULL, "a3,7 a3,7", name##_build },
static const test_case mutants[] = { MUTANTS(MUTANT_ROW) };

static void mutants_are_caught(void)
{
    for (size_t i = 0; i < sizeof mutants / sizeof *mutants; i++) {
        dl_context *c = dl_create(&ways[0]);
        const char *bad = gradcheck(c, &mutants[i]), *expected = i == 0 ? NULL : i == 6 ? "one tensor" : i == 7 ? "second" : "differences";
        if (i == 0) CHECK(!bad, "the right gradient is refused: %s", bad);
        else CHECK(bad && strstr(bad, expected), "%s: %s", mutants[i].name, bad ? bad : "not caught");
        CHECK(!dl_failed(c), "%s", dl_error(c));
        dl_destroy(c);
    }
}
#endif

static void gold_is_strict(void)
{
    double gold[3] = { 1, -2, 0.5 }, got[3] = { 1, -2, 0.5 };
    CHECK(!against_gold("", 0, got, 3, gold, value_tolerance), "%s", gc_reason);
    got[1] *= 1 + 4 * value_tolerance;
    CHECK(against_gold("", 0, got, 3, gold, value_tolerance), "a value off by %g passes", 8 * value_tolerance);
    got[1] = NAN;
    CHECK(against_gold("", 0, got, 3, gold, value_tolerance), "NaN passes");
}

int main(void)
{
#ifndef OPS_FLOAT
    RUN(mutants_are_caught);
#endif
    RUN(gold_is_strict);
    RUN(dropout);
    RUN(no_gradient);
    RUN(running_statistics);
    RUN(all_ignored);
    RUN(bce_saturated);
    RUN(nan_wins);
    RUN(big_matmul);
    RUN(big_conv);
    for (int i = 0; i < N_CASES; i++) check_case(&cases[i]);
    return REPORT();
}
