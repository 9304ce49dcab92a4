#!/usr/bin/env python3
"""Writes tests/gold_layers.h: what PyTorch's modules give for the layers of tests/test_layers.c.

    python3 tools/gold_layers.py > tests/gold_layers.h

Everything is computed in float64. The entries of the state_dict, the inputs and the weights of the loss come from a generator that
the test repeats in C; each is a float32 number. The loss is the sum of the output times these weights."""
import math
import textwrap

import torch
from torch import nn

from gold_numbers import classes, numbers

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
INPUT, LOSS, MASK = 100, 200, 300  # salts; those of the state_dict count from 0


def start(key, shape):
    if key == "running_var":
        return 1 + 0.5 * numbers(shape, start.row)
    return 0.5 * numbers(shape, start.row)


def attend(m, q, k, v, mask=None):
    return m(q, k, v, attn_mask=mask, need_weights=False)[0]


def causal(n):
    return torch.full((n, n), -math.inf).triu(1)


def hiding(shape):
    """A mask that adds numbers and hides a few places, never a whole row."""
    m = numbers(shape, MASK)
    m.flatten()[::7] = -math.inf
    return m


def mha(e, heads, **args):
    return nn.MultiheadAttention(e, heads, batch_first=True, **args)


X = lambda *shape: numbers(shape, INPUT)
Y = lambda *shape: numbers(shape, INPUT + 1)
Z = lambda *shape: numbers(shape, INPUT + 2)
CASES = [
    ("linear", nn.Linear(5, 4), lambda m: m(X(3, 5))),
    ("linear_no_bias", nn.Linear(5, 4, bias=False), lambda m: m(X(3, 5))),
    ("linear_1d", nn.Linear(5, 4), lambda m: m(X(5))),
    ("linear_3d", nn.Linear(5, 4), lambda m: m(X(2, 3, 5))),
    ("linear_3d_no_bias", nn.Linear(5, 4, bias=False), lambda m: m(X(2, 3, 5))),
    ("conv2d", nn.Conv2d(2, 3, 3), lambda m: m(X(2, 2, 5, 4))),
    ("conv2d_padding", nn.Conv2d(2, 3, 3, padding=1, bias=False), lambda m: m(X(1, 2, 5, 4))),
    ("conv2d_options", nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 3), dilation=(1, 2), groups=2), lambda m: m(X(1, 4, 6, 7))),
    ("conv2d_depthwise", nn.Conv2d(4, 4, 2, stride=2, groups=4), lambda m: m(X(2, 4, 5, 4))),
    ("conv_transpose2d", nn.ConvTranspose2d(3, 2, 3), lambda m: m(X(2, 3, 3, 2))),
    ("conv_transpose2d_no_bias", nn.ConvTranspose2d(3, 2, 2, stride=2, bias=False), lambda m: m(X(1, 3, 3, 2))),
    ("conv_transpose2d_options", nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 2), output_padding=(1, 2), dilation=(1, 2),
                                                    groups=2), lambda m: m(X(1, 4, 3, 3))),
    ("batch_norm", nn.BatchNorm1d(3), lambda m: m(X(6, 3))),
    ("batch_norm_3d", nn.BatchNorm1d(3, eps=1e-3, momentum=0.3), lambda m: m(X(4, 3, 5))),
    ("batch_norm_4d", nn.BatchNorm2d(2), lambda m: m(X(3, 2, 3, 2))),
    ("batch_norm_no_affine", nn.BatchNorm2d(2, affine=False), lambda m: m(X(3, 2, 3, 2))),
    ("batch_norm_eval", nn.BatchNorm1d(3).eval(), lambda m: m(X(6, 3))),
    ("batch_norm_eval_3d", nn.BatchNorm1d(3, eps=1e-3, momentum=0.3).eval(), lambda m: m(X(4, 3, 5))),
    ("batch_norm_eval_4d", nn.BatchNorm2d(2).eval(), lambda m: m(X(3, 2, 3, 2))),
    ("batch_norm_eval_no_affine", nn.BatchNorm2d(2, affine=False).eval(), lambda m: m(X(3, 2, 3, 2))),
    ("layer_norm", nn.LayerNorm(7), lambda m: m(X(3, 7))),
    ("layer_norm_3d", nn.LayerNorm(4, eps=0.125), lambda m: m(X(2, 3, 4))),
    ("layer_norm_no_affine", nn.LayerNorm(7, elementwise_affine=False), lambda m: m(X(3, 7))),
    ("group_norm", nn.GroupNorm(3, 6), lambda m: m(X(4, 6))),
    ("group_norm_3d", nn.GroupNorm(2, 4, eps=0.125), lambda m: m(X(3, 4, 5))),
    ("group_norm_4d", nn.GroupNorm(3, 6), lambda m: m(X(2, 6, 2, 2))),
    ("group_norm_no_affine", nn.GroupNorm(1, 4, affine=False), lambda m: m(X(2, 4, 3))),
    ("embedding", nn.Embedding(6, 3), lambda m: m(classes(5, 6, 1))),
    ("embedding_2d", nn.Embedding(6, 3), lambda m: m(classes(8, 6, 2).reshape(2, 4))),
    ("mha_self", mha(6, 2), lambda m: attend(m, X(2, 4, 6), X(2, 4, 6), X(2, 4, 6))),
    ("mha_self_causal", mha(6, 3), lambda m: attend(m, X(2, 4, 6), X(2, 4, 6), X(2, 4, 6), causal(4))),
    ("mha_self_mask", mha(4, 2), lambda m: attend(m, X(2, 4, 4), X(2, 4, 4), X(2, 4, 4), hiding((4, 4)))),
    ("mha_self_no_bias", mha(6, 1, bias=False), lambda m: attend(m, X(2, 3, 6), X(2, 3, 6), X(2, 3, 6))),
    ("mha_cross", mha(4, 2), lambda m: attend(m, X(2, 3, 4), Y(2, 5, 4), Z(2, 5, 4))),
    ("mha_cross_memory", mha(4, 2), lambda m: attend(m, X(2, 3, 4), Y(2, 5, 4), Y(2, 5, 4))),
    ("mha_cross_mask", mha(4, 2), lambda m: attend(m, X(2, 3, 4), Y(2, 5, 4), Z(2, 5, 4), hiding((4, 3, 5)))),
    ("mha_cross_no_bias", mha(4, 2, bias=False), lambda m: attend(m, X(2, 3, 4), Y(2, 5, 4), Z(2, 5, 4))),
]


def put(tensor):
    values = tensor.detach().flatten().tolist()
    put.count += len(values)
    print(textwrap.fill(", ".join("%.8g" % v for v in values) + ",", 140, initial_indent="    ", subsequent_indent="    "))


put.count = 0
version = torch.__version__.split("+")[0]
print(f"""/* Made by tools/gold_layers.py with PyTorch {version}, float64: do not edit. */
#ifndef GOLD_LAYERS_H
#define GOLD_LAYERS_H
enum {{ GOLD_INPUT = {INPUT}, GOLD_LOSS = {LOSS}, GOLD_MASK = {MASK}, GOLD_STATES = 6 }}; /* salts */

/* Of each layer: the output, then of each entry of the state_dict the gradient, or of a buffer what it is afterwards. */
static const double gold_values[] = {{""")
rows = []
for name, m, forward in CASES:
    state = {k: v for k, v in m.state_dict().items() if not k.endswith("num_batches_tracked")}
    learned = dict(m.named_parameters())
    at = put.count
    with torch.no_grad():
        for i, (key, v) in enumerate(state.items()):
            start.row = i
            v.copy_(start(key, v.shape))
    y = forward(m)
    put(y)
    if learned:
        (y * numbers(y.shape, LOSS)).sum().backward()
    entries = []
    for key, v in state.items():
        put(learned[key].grad if key in learned else v)
        dims = ", ".join(map(str, v.shape))
        entries.append(f'{{ "{key}", {int(key not in learned)}, {v.ndim}, {{ {dims} }} }}')
    dims = ", ".join(map(str, y.shape))
    body = ",\n        ".join(entries) if entries else "{ 0, 0, 0, { 0 } }"
    rows.append(f'    {{ "{name}", {at}, {len(entries)}, {y.ndim}, {{ {dims} }}, {{\n        {body} }} }},')
print("};\n")
print("""typedef struct gold_entry { const char *name; int buffer, ndim, dim[4]; } gold_entry;
typedef struct gold_layer { const char *name; int at, entries, ndim, dim[4]; gold_entry entry[GOLD_STATES]; } gold_layer;
static const gold_layer gold_layers[] = {""")
print("\n".join(rows))
print("};\n")

# ---- how large the first values can be: PyTorch's fans ----
torch.manual_seed(0)
INIT = [
    ("linear", nn.Linear(37, 200)),
    ("conv2d", nn.Conv2d(6, 64, (3, 5), groups=2)),
    ("conv_transpose2d", nn.ConvTranspose2d(32, 12, (3, 2), groups=2)),
    ("mha", mha(48, 4)),
]
print("/* U(-bound, bound) of the first values; 0: they are 0. */")
print("typedef struct gold_bound { const char *name; double bound; } gold_bound;")
print("static const gold_bound gold_bounds[] = {")
for name, m in INIT:
    for key, v in m.named_parameters():
        if name == "mha" and key.endswith("bias"):
            bound = 0
        elif key == "in_proj_weight":  # Xavier
            bound = math.sqrt(6 / sum(nn.init._calculate_fan_in_and_fan_out(v)))
        else:
            weight = m.out_proj.weight if name == "mha" else m.weight
            bound = 1 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(weight)[0])
        largest = v.abs().max().item()
        assert largest <= bound * (1 + 1e-9) and largest >= bound * (1 - 20 / v.numel()), (name, key, largest, bound)
        print(f'    {{ "{name}.{key}", {bound:.17g} }},')
print("};\n#endif")
