#!/usr/bin/env python3
"""Writes tests/gold_ops.h: values and gradients of the cases of tests/test_ops.c as PyTorch computes them in double.

Usage, from the repository root: tools/gold_ops.py. It reads the table CASES: its C expressions are, but for spelling, Python, and the
dl_ functions below are PyTorch's. The inputs come from the generator of tests/gradcheck.h.
"""
import math
import os
import re

import numpy as np
import torch
import torch.nn.functional as F

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
WEIGHTS = 99
MASK = (1 << 64) - 1
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)


# ---- inputs: gc_fill of tests/gradcheck.h ----
def fill(n, name, which, domain):
    s = 14695981039346656037
    for b in name.encode():
        s = ((s ^ b) * 1099511628211) & MASK
    s ^= ((which + 1) * 0x9E3779B97F4A7C15) & MASK
    out = [0.0] * n
    for i in range(n):
        s = (s * 6364136223846793005 + 1442695040888963407) & MASK
        k, j = s >> 52, (s >> 33) % (i + 1)
        if domain == "d":
            out[i] = out[j]
            out[j] = (2 * i + 1 - n) / 32
        else:
            out[i] = {"p": lambda: 0.25 + k / 2048, "u": lambda: 0.0625 + k * 7 / 32768, "l": lambda: (2 * k - 4095) / 64,
                      "k": lambda: ((k >> 6) % 32 - 16) / 8 + 0.0625 + ((k & 63) - 32) / 1024, "g": lambda: ((k >> 6) % 32 - 16) / 8,
                      "t": lambda: (k % 5 - 2) / 2, "z": lambda: k % 5 / 4, "o": lambda: 0.0,
                      "a": lambda: (2 * k - 4095) / 2048}[domain]()
    return out


def tensor(shape, name, which, domain):
    return torch.tensor(fill(math.prod(shape), name, which, domain), dtype=torch.float64).reshape(shape)


# ---- the vocabulary of the table ----
c = NULL = none = None
true, false = True, False
DL_SCALAR = []
DL_MEAN, DL_SUM, DL_NONE, DL_BATCHMEAN = "mean", "sum", "none", "batchmean"


def LIST(*x): return list(x)


DL_SHAPE = DIMS = SIZES = LIST
MATMUL = CONV = POOL = ATTEND = CE = dict


def INTS(n, *x): return torch.tensor(x)
def GRID(shape, *x): return torch.tensor(x).reshape(shape)
def REALS(n, *x): return torch.tensor(x, dtype=torch.float64)
def f32(x): return float(np.float32(x))


# ---- elementwise ----
for _name in "neg abs exp log log1p expm1 sqrt rsqrt square reciprocal sigmoid tanh sin cos erf relu".split():
    globals()["dl_" + _name] = getattr(torch, _name)
for _name in "add sub mul div pow maximum minimum matmul".split():
    globals()["dl_" + _name] = getattr(torch, _name)
for _name in "eq ne lt le gt ge".split():
    globals()["dl_" + _name] = lambda a, b, op=getattr(torch, _name): op(a, b).to(torch.float64)
dl_gelu, dl_silu = F.gelu, F.silu


def dl_gelu_tanh(x): return F.gelu(x, approximate="tanh")
def dl_softplus(x): return torch.logaddexp(x, torch.zeros_like(x))  # F.softplus is the identity above 20
def dl_leaky_relu(x, slope): return F.leaky_relu(x, slope)
def dl_elu(x, alpha): return F.elu(x, alpha)
def dl_clamp(x, low, high): return torch.clamp(x, low, high)
def dl_add_scalar(x, a): return x + a
def dl_mul_scalar(x, a): return x * a
def dl_pow_scalar(x, a): return torch.pow(x, a)
def dl_to_float(x): return x.to(torch.float64)
def dl_where(condition, a, b): return torch.where(condition != 0, a, b)
def dl_full(_, shape, value): return torch.full(shape, float(value))


# ---- reductions ----
def axes(x, dims): return list(range(x.ndim)) if dims is None else [d % x.ndim for d in dims]
def dl_sum(x): return x.sum()
def dl_mean(x): return x.mean()
def dl_sum_dims(x, dims, n, keep): return torch.sum(x, axes(x, dims), keepdim=keep)
def dl_mean_dims(x, dims, n, keep): return torch.mean(x, axes(x, dims), keepdim=keep)
def dl_var_dims(x, dims, n, keep, correction): return torch.var(x, axes(x, dims), correction=correction, keepdim=keep)
def dl_logsumexp_dims(x, dims, n, keep): return torch.logsumexp(x, axes(x, dims), keepdim=keep)
def dl_norm_dims(x, dims, n, keep): return torch.linalg.vector_norm(x, dim=axes(x, dims), keepdim=keep)


def winner(x, dims, keep, arg):
    """The first winner: NumPy promises it, PyTorch does not."""
    dims = sorted(axes(x, dims))
    rest = [d for d in range(x.ndim) if d not in dims]
    flat = x.permute(rest + dims).reshape([x.shape[d] for d in rest] + [math.prod(x.shape[d] for d in dims)])
    index = torch.from_numpy(np.asarray(arg(flat.detach().numpy(), axis=-1)))
    y = flat.gather(-1, index.unsqueeze(-1)).squeeze(-1) if flat.numel() else flat.sum(-1)
    shape = [1 if d in dims else x.shape[d] for d in range(x.ndim)] if keep else list(y.shape)
    return y.reshape(shape), index.reshape(shape)


def dl_max_dims(x, dims, n, keep): return winner(x, dims, keep, np.argmax)[0]
def dl_min_dims(x, dims, n, keep): return winner(x, dims, keep, np.argmin)[0]
def dl_argmax(x, dim, keep): return winner(x, [dim], keep, np.argmax)[1]
def dl_argmin(x, dim, keep): return winner(x, [dim], keep, np.argmin)[1]


# ---- moving ----
def dl_reshape(x, shape): return x.reshape(shape)
def dl_flatten(x, start): return torch.flatten(x, start)
def dl_permute(x, dims): return x.permute(dims)
def dl_transpose(x, a, b): return x.transpose(a, b)
def dl_concat(x, n, dim): return torch.cat(x, dim)
def dl_stack(x, n, dim): return torch.stack(x, dim)
def dl_expand(x, shape): return x.expand(shape)
def dl_pad(x, pads, n, value): return F.pad(x, pads, value=value)
def dl_index_select(x, dim, index): return torch.index_select(x, dim, index)
def dl_gather(x, dim, index): return torch.gather(x, dim, index)
def dl_one_hot(x, classes): return F.one_hot(x, classes).to(torch.float64)
def dl_detach(x): return x.detach()


def dl_slice(x, dim, start, stop, step):
    at = [slice(None)] * x.ndim
    at[dim] = slice(start, stop, step)
    return x[tuple(at)]


# ---- products, convolution, pooling ----
def dl_affine(x, w, b): return F.linear(x, w, b)


def dl_matmul_ex(a, b, d):
    return torch.matmul(a.transpose(-1, -2) if d.get("transpose_a") else a, b.transpose(-1, -2) if d.get("transpose_b") else b)


def both(d, key, default):
    height = d.get(key, 0) or default
    return height, d.get(key + "_w", 0) or height


def dl_conv2d_op(x, w, d):
    return F.conv2d(x, w, None, both(d, "stride", 1), both(d, "padding", 0), both(d, "dilation", 1), d.get("groups", 1))


def dl_conv_transpose2d_op(x, w, d):
    return F.conv_transpose2d(x, w, None, both(d, "stride", 1), both(d, "padding", 0), both(d, "output_padding", 0), d.get("groups", 1),
                              both(d, "dilation", 1))


def pool(d):
    kernel = both(d, "kernel", 1)
    return kernel, tuple(d.get(k, 0) or v for k, v in zip(("stride", "stride_w"), both(d, "stride", 0) if d.get("stride") else kernel))


def dl_max_pool2d(x, d): return F.max_pool2d(x, *pool(d), both(d, "padding", 0))
def dl_avg_pool2d(x, d): return F.avg_pool2d(x, *pool(d), both(d, "padding", 0))
def dl_adaptive_avg_pool2d(x, height, width): return F.adaptive_avg_pool2d(x, (height, width))


def dl_scaled_dot_product_attention(q, k, v, d):
    """By its formula: PyTorch's function refuses a mask together with is_causal."""
    d = d or {}
    s = q @ k.transpose(-1, -2) * (d.get("scale") or 1 / math.sqrt(q.shape[-1]))
    if d.get("mask") is not None:
        s = s + d["mask"]
    if d.get("causal"):
        s = s.masked_fill(torch.ones(s.shape[-2:]).triu(1) != 0, -math.inf)
    return torch.softmax(s, -1) @ v


# ---- normalisation ----
def dl_softmax(x, dim): return torch.softmax(x, dim)
def dl_log_softmax(x, dim): return torch.log_softmax(x, dim)
def dl_embedding_op(weight, index): return F.embedding(index, weight)
def buffer(_, name, n, value): return torch.full((n,), value)


def dl_batch_norm_op(x, w, b, mean, var, momentum, eps, training=True):
    return F.batch_norm(x, mean, var, w, b, training, momentum, f32(eps))


def batch_norm_eval(_, x, w, b):
    n = x.shape[1]
    return dl_batch_norm_op(x, w, b, torch.full((n,), 0.25), torch.full((n,), 1.5), 0.5, 0.25, training=False)


def dl_layer_norm_op(x, w, b, eps):
    shape = w.shape if w is not None else b.shape if b is not None else x.shape[-1:]
    return F.layer_norm(x, shape, w, b, f32(eps))


def dl_group_norm_op(x, groups, w, b, eps): return F.group_norm(x, groups, w, b, f32(eps))


def segments(x, offsets, f, per_row=False):
    offsets, parts = offsets.tolist(), []
    for a, b in zip(offsets, offsets[1:]):
        if b > a:
            parts.append(f(x[a:b]))
        elif not per_row:
            parts.append(torch.zeros(x.shape[1:]))
    return torch.cat(parts) if per_row and parts else x.clone() if per_row else torch.stack(parts)


def dl_segment_sum(x, offsets): return segments(x, offsets, lambda s: s.sum(0))
def dl_segment_mean(x, offsets): return segments(x, offsets, lambda s: s.mean(0))
def dl_segment_max(x, offsets): return segments(x, offsets, lambda s: dl_max_dims(s, [0], 1, False))
def dl_segment_softmax(x, offsets): return segments(x, offsets, lambda s: torch.softmax(s, 0), True)


# ---- losses ----
def reduce(loss, reduction, first):
    """DL_BATCHMEAN divides the sum by the first dimension; PyTorch has it for kl_div only."""
    return loss.sum() / first if reduction == DL_BATCHMEAN else getattr(loss, reduction)() if reduction != DL_NONE else loss


def each(f, y, t, reduction, **more):
    if reduction == DL_BATCHMEAN:
        return f(y, t, reduction="sum", **more) / y.shape[0]
    return f(y, t, reduction=reduction, **more)


def dl_mse(y, t, r): return each(F.mse_loss, y, t, r)
def dl_l1(y, t, r): return each(F.l1_loss, y, t, r)
def dl_huber(y, t, delta, r): return each(F.huber_loss, y, t, r, delta=delta)
def dl_bce(y, t, r): return each(F.binary_cross_entropy, y, t, r)
def dl_bce_with_logits(y, t, r): return each(F.binary_cross_entropy_with_logits, y, t, r)
def dl_kl_div(y, t, r): return F.kl_div(y, t, reduction=r)


def dl_gaussian_nll(y, t, v, eps, r):
    return reduce(F.gaussian_nll_loss(y, t, v, eps=f32(eps) or 1e-6, reduction="none"), r, y.shape[0])


def class_options(d):
    return {"weight": d.get("weight"), "ignore_index": d.get("ignore_index", -100) if d.get("set_ignore_index") else -100}


def dl_nll(y, t, d):
    d = d or {}
    return each(F.nll_loss, y, t, d.get("reduction", DL_MEAN), **class_options(d))


def dl_cross_entropy(y, t): return F.cross_entropy(y, t)


def dl_cross_entropy_ex(y, t, d):
    return each(F.cross_entropy, y, t, d.get("reduction", DL_MEAN), label_smoothing=d.get("label_smoothing", 0.0), **class_options(d))


# ---- the table ----
def cases():
    text = open(os.path.join(ROOT, "tests", "test_ops.c")).read()
    table = text[text.index("#define CASES(X)"):]
    table = table[:re.search(r"[^\\]\n", table).start() + 1]
    for row in re.split(r"\n    (?=X\()", re.sub(r"\s*\\\n\s{8,}", " ", table).replace(" \\\n", "\n"))[1:]:
        row = re.sub(r"\n    /\*.*", "", row).strip()
        name, kind, spec, expression = re.fullmatch(r'X\((\w+), (\w+), "([^"]*)",\s*(.*)\)', row, re.S).groups()
        expression = re.sub(r"([( ])\.(\w+) = ", r"\1\2=", expression)
        expression = re.sub(r"(\d)f\b", r"\1", expression)
        yield name, kind, spec, expression


def run(name, kind, spec, expression):
    x = []
    for i, part in enumerate(spec.split()):
        shape = [int(size) for size in part[1:].split(",") if size]
        x.append(tensor(shape, name, i, part[0]).requires_grad_(kind != "VALUE"))
    y = eval(expression, globals(), dict(zip("ABCD", x)))
    numbers = y.detach().to(torch.float64).flatten().tolist()
    if kind != "VALUE":
        s = (y * tensor(list(y.shape), name, WEIGHTS, "a")).sum()
        if s.requires_grad:
            s.backward()
        for t in x:
            numbers += (torch.zeros_like(t) if t.grad is None else t.grad).flatten().tolist()
    return list(y.shape), numbers


def literal(v):
    if math.isnan(v):
        return "NAN"
    if math.isinf(v):
        return "INFINITY" if v > 0 else "-INFINITY"
    word = repr(v)  # as many digits as it takes to read the same number back
    return word[:-2] if word.endswith(".0") else word


def main():
    rows, data, line = [], [], ""
    at = 0
    for case in cases():
        shape, numbers = run(*case)
        rows.append('    { "%s", "%s", %d },' % (case[0], ",".join(map(str, shape)), at))
        at += len(numbers)
        for v in numbers:
            word = literal(v) + ","
            if len(line) + len(word) > 135:
                data.append(line)
                line = ""
            line += word
    data.append(line)
    out = ["/* Made by tools/gold_ops.py with PyTorch %s; do not edit. Of each case the values, then the gradients of its inputs. */"
           % torch.__version__.split("+")[0], "#include <math.h>",
           "static const double gold_data[] = {", *data, "};",
           "static const struct gold_case { const char *name, *shape; int at; } gold_cases[] = {",
           *rows, "};", ""]
    with open(os.path.join(ROOT, "tests", "gold_ops.h"), "w") as f:
        f.write("\n".join(out))
    print("%d cases, %d numbers" % (len(rows), at))


if __name__ == "__main__":
    main()
