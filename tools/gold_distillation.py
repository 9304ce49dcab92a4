#!/usr/bin/env python3
"""Writes tests/gold_distillation.h: the losses of distillation as their papers' reference code writes them, in PyTorch's float64.

    python3 tools/gold_distillation.py > tests/gold_distillation.h

The inputs are numbers() of tools/gold_numbers.py, three times as large for logits; each loss comes with its gradient for every input
(zeros for a teacher)."""
import textwrap

import torch
import torch.nn.functional as F

from gold_numbers import classes, numbers

torch.set_default_dtype(torch.float64)
N, C, D = 5, 7, 6


def kl(za, zb, t):
    """KL(p_a || p_b), a mean over the samples."""
    return F.kl_div(F.log_softmax(zb / t, 1), F.softmax(za / t, 1), reduction="batchmean")


def two_way(za, zb, t):
    return t * t * (kl(za, zb, t) + kl(zb, za, t))


def mmd(a, b):
    return ((a.mean(0) - b.mean(0)) ** 2).sum()


def attention(x):  # szagoruyko/attention-transfer
    return F.normalize(x.pow(2).mean(1).flatten(1))


def five(za, zb, fa, fb, y, lam, mu, t):
    return F.cross_entropy(za, y) + F.cross_entropy(zb, y) + lam * two_way(za, zb, t) + mu * mmd(fa, fb)


Y = classes(N, C, 3)
Z = [(N, C), (N, C)]
ZF = Z + [(N, D), (N, D)]
MAPS = [(2, 3, 4, 5), (2, 4, 4, 5)]
CASES = [  # name, shapes, how many are logits, loss
    ("kl_t1", Z, 2, lambda a, b: two_way(a, b, 1)),
    ("kl_t4", Z, 2, lambda a, b: two_way(a, b, 4)),
    ("mmd", [(5, 6), (4, 6)], 0, mmd),
    ("mmd_maps", [(2, 3, 2), (3, 3, 2)], 0, mmd),
    ("two_views", ZF, 2, lambda a, b, f, g: five(a, b, f, g, Y, 0, 0, 1)),
    ("five_terms", ZF, 2, lambda a, b, f, g: five(a, b, f, g, Y, 1, 0.5, 1)),
    ("five_terms_t2", ZF, 2, lambda a, b, f, g: five(a, b, f, g, Y, 0.25, 2, 2)),
    ("logits_soft", Z, 2, lambda z, t: 16 * kl(t.detach(), z, 4)),
    ("logits_hard", Z, 2, lambda z, t: 0.75 * 4 * kl(t.detach(), z, 2) + 0.25 * F.cross_entropy(z, Y)),
    ("features", [(3, 4, 2), (3, 4, 2)], 0, lambda x, t: F.mse_loss(x, t.detach())),
    ("attention", MAPS, 0, lambda x, t: (attention(x) - attention(t.detach())).pow(2).mean()),
    ("mutual", Z, 2, lambda z, o: F.cross_entropy(z, Y) + kl(o.detach(), z, 1)),
    ("mutual_t2", Z, 2, lambda z, o: F.cross_entropy(z, Y) + 4 * kl(o.detach(), z, 2)),
]

values, rows = [], []
for name, shapes, logits, loss in CASES:
    x = [(numbers(s, 10 + i) * (3 if i < logits else 1)).requires_grad_() for i, s in enumerate(shapes)]
    out = loss(*x)
    out.backward()
    rows.append(f'    {{ "{name}", {len(values)} }},')
    values.append(out.item())
    for t in x:
        values += (t.grad if t.grad is not None else torch.zeros_like(t)).flatten().tolist()
print(f"/* Made by tools/gold_distillation.py with PyTorch {torch.__version__.split('+')[0]}, float64: do not edit. */")
print("#ifndef GOLD_DISTILLATION_H\n#define GOLD_DISTILLATION_H")
print("/* Of each loss: its value, then its gradient for each input. */\nstatic const double gold_values[] = {")
text = ", ".join(f"{v:.9g}" for v in values)
print(textwrap.fill(text, 130, initial_indent="    ", subsequent_indent="    ") + ",\n};")
print("static const struct { const char *name; size_t first; } gold_cases[] = {")
print("\n".join(rows) + "\n};\n#endif")
