#!/usr/bin/env python3
"""Writes tests/gold_methods.h: the poolings of multiple-instance learning and their derivatives.

    python3 tools/gold_methods.py > tests/gold_methods.h

Logits of moderate size: PyTorch's float64 and its autograd. Logits up to 1000, where 1 - p and p underflow: the same textbook formulas
with 1500 digits (mpmath, which comes with PyTorch), and differences over 1e-400 as derivatives. Attention: PyTorch's modules."""
import textwrap

import mpmath
import torch
from torch import nn

from gold_numbers import numbers

torch.set_default_dtype(torch.float64)
mpmath.mp.dps = 1500
R, A = 5, 10
OFFSETS = [0, 1, 4, 9, 12]
THRESHOLD = [0.25, 0.625]
SLOPE = [[1, -0.5], [0.75, 1.25], [-1.5, 0.5], [1, 2]]
PLAIN = [[0.5, -1.25], [2.0, -0.75], [-3.0, 0.125], [1.5, -2.5], [0.0, 3.0], [-0.5, 1.0], [4.0, -4.0], [-1.0, 0.375], [2.25, -0.125],
         [-6.0, 7.0], [-5.5, 6.5], [-8.0, 6.25]]
FAR = [[1000.0, -1000.0], [-80.0, 80.0], [-100.0, 100.0], [-60.0, 60.0], [-200.0, -30.0], [50.0, -20.0], [0.5, -17.0], [-1.0, -25.0],
       [30.0, -40.0], [-1000.0, 1000.0], [-1000.0, 30.0], [-999.0, 20.0]]


class Torch:
    exp, log = staticmethod(torch.exp), staticmethod(torch.log)

    @staticmethod
    def largest(p):
        return torch.stack(p).max()


class Digits:
    exp, log, largest = mpmath.exp, mpmath.log, max


def product(p):
    y = 1
    for f in p:
        y = y * f
    return y


def pool(m, name, p, b):
    """P of a bag: the formulas as they stand in the papers."""
    s = lambda x: 1 / (1 + m.exp(-x))
    n = len(p)
    if name == "max":
        return m.largest(p)
    if name == "mean":
        return sum(p) / n
    if name == "noisy_or":
        return 1 - product([1 - f for f in p])
    if name == "isr":
        v = sum(f / (1 - f) for f in p)
        return v / (1 + v)
    if name == "generalised_mean":
        return m.exp(m.log(sum(m.exp(R * m.log(f)) for f in p) / n) / R)
    if name == "lse":
        return m.log(sum(m.exp(R * f) for f in p) / n) / R
    low = s(-A * b)
    return (s(A * (sum(p) / n - b)) - low) / (s(A * (1 - b)) - low)


def logit(m, name, z, b):
    P = pool(m, name, [1 / (1 + m.exp(-f)) for f in z], b)
    return m.log(P / (1 - P))


POOLINGS = ["max", "mean", "noisy_or", "isr", "generalised_mean", "lse", "noisy_and"]  # in the order of dl_mil_pooling


def by_torch(name, z):
    z, b, slope = torch.tensor(z, requires_grad=True), torch.tensor(THRESHOLD, requires_grad=True), torch.tensor(SLOPE)
    y = torch.stack([torch.stack([logit(Torch, name, list(z[i:j, c]), b[c]) for c in range(2)])
                     for i, j in zip(OFFSETS, OFFSETS[1:])])
    (y * slope).sum().backward()
    db = b.grad if b.grad is not None else torch.zeros(2)
    return y.flatten().tolist(), z.grad.flatten().tolist(), db.tolist()


def by_digits(name, z):
    step = mpmath.mpf(10) ** -400
    y, dz, db = [], [[0, 0] for _ in z], [0, 0]
    for s, (i, j) in enumerate(zip(OFFSETS, OFFSETS[1:])):
        for c in range(2):
            at = [mpmath.mpf(f[c]) for f in z[i:j]]
            b = mpmath.mpf(THRESHOLD[c])
            value = logit(Digits, name, at, b)
            y.append(value)
            for k in range(j - i):
                moved = at[:k] + [at[k] + step] + at[k + 1:]
                dz[i + k][c] = SLOPE[s][c] * (logit(Digits, name, moved, b) - value) / step
            db[c] += SLOPE[s][c] * (logit(Digits, name, at, b + step) - value) / step
    return y, [g for row in dz for g in row], db


def attention(gated):
    h = numbers((OFFSETS[-1], 3), 1).requires_grad_()
    v, u, w = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 1, bias=False)
    parameters = [w.weight, v.weight, v.bias] + ([u.weight, u.bias] if gated else [])
    for i, p in enumerate(parameters):
        p.data = numbers(tuple(p.shape), 2 + i)
    score = w(torch.tanh(v(h)) * (torch.sigmoid(u(h)) if gated else 1))
    a = [torch.softmax(score[i:j], 0) for i, j in zip(OFFSETS, OFFSETS[1:])]
    y = torch.stack([(f * h[i:j]).sum(0) for f, i, j in zip(a, OFFSETS, OFFSETS[1:])])
    (y * numbers((4, 3), 9)).sum().backward()
    return y.flatten().tolist(), torch.cat(a).flatten().tolist(), h.grad.flatten().tolist(), v.weight.grad.flatten().tolist()


def array(name, values, kind="double"):
    text = ", ".join(str(v) if kind != "double" else "%.15g" % float(v) for v in values)
    print(f"static const {kind} {name}[] = {{")
    print(textwrap.fill(text, 130, initial_indent="    ", subsequent_indent="    "))
    print("};")


def main():
    print("/* Made by tools/gold_methods.py: do not edit. */")
    array("gold_offsets", OFFSETS, "int32_t")
    array("gold_threshold", THRESHOLD, "float")
    array("gold_slope", [v for row in SLOPE for v in row], "float")
    print("typedef struct gold_pooling { double y[8], dz[24], db[2]; } gold_pooling;")
    for set_name, z, method in (("plain", PLAIN, by_torch), ("far", FAR, by_digits)):
        array(f"gold_{set_name}_z", [v for row in z for v in row], "float")
        print(f"static const gold_pooling gold_{set_name}[] = {{")
        for name in POOLINGS:
            parts = [", ".join("%.15g" % float(v) for v in part) for part in method(name, z)]
            text = "{ " + ", ".join("{ " + part + " }" for part in parts) + " }, "
            print(textwrap.fill(text + f"/* {name} */", 130, initial_indent="    ", subsequent_indent="        "))
        print("};")
    for name, gated in (("attention", False), ("gated", True)):
        for part, values in zip(("y", "a", "dh", "dv"), attention(gated)):
            array(f"gold_{name}_{part}", values)


main()
