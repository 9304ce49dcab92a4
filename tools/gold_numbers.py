"""The inputs of gold_layers.py and gold_training.py; tests/numbers.h makes the same in C."""
import math

import torch


def numbers(shape, salt):
    """In [-1, 1), 16 bits each: sums and products with a few more bits are exact in float32."""
    state = (12345 + salt * 7919) & 0xFFFFFFFF
    out = []
    for _ in range(math.prod(shape)):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        out.append((state >> 16) / 32768 - 1)
    return torch.tensor(out).reshape(shape)


def classes(n, count, salt):
    return torch.tensor([(i * 31 + salt * 17 + i * i) % count for i in range(n)])
