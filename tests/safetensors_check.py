"""Checkpoints against the Python package safetensors, both ways:

    python3 tests/safetensors_check.py save FILE     then  test_files read FILE
    test_files write FILE                            then  python3 tests/safetensors_check.py check FILE
    test_snapshot write FILE                         then  python3 tests/safetensors_check.py snapshot FILE
"""
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file

WRITTEN = {  # what test_files writes
    "layer.weight": (3, 4), "layer.bias": (4,), "layer.running_mean": (4,), "scalar": (), "deep": (2, 1, 3, 2), "large": (61, 37),
        "count": (), "empty": (0, 3),
}
READ = {  # what test_files reads
    "f32": ((2, 3), torch.float32), "half": ((5,), torch.float16), "brain16": ((4,), torch.bfloat16), "double.wide": ((3, 1, 2),
        torch.float64),
    "scalar": ((), torch.float32), "empty": ((0, 3), torch.float32), "large": ((61, 37), torch.float32),
}


def formula(name, shape):
    """Exact in every dtype; value_at of test_files.c."""
    n = 1
    for size in shape:
        n *= size
    return torch.tensor([((7 * i + 3 * len(name)) % 31 - 15) / 8 for i in range(n)], dtype=torch.float64).reshape(shape)


def save(path):
    tensors = {name: formula(name, shape).to(dtype) for name, (shape, dtype) in READ.items()}
    tensors["steps"] = torch.tensor([1, 2, 3], dtype=torch.int64)  # integers: skipped by dl_load
    tensors["mask"] = torch.tensor([True, False, True])
    tensors["bytes"] = torch.tensor([7, 8, 9], dtype=torch.uint8)
    save_file(tensors, path, metadata={"format": "pt", "note": 'a "quote", a \\ and a line\nbreak'})
    print("ok saved", path)


def check(path):
    with safe_open(path, framework="pt") as f:
        names = set(f.keys())
        assert names == set(WRITTEN), f"names: {sorted(names ^ set(WRITTEN))}"
        assert f.metadata() == {"format": "pt"}, f"metadata: {f.metadata()}"
        for name, shape in WRITTEN.items():
            t = f.get_tensor(name)
            assert tuple(t.shape) == shape, f"{name}: {tuple(t.shape)}, not {shape}"
            assert t.dtype in (torch.float32, torch.float64), f"{name}: {t.dtype}"
            assert torch.equal(t.double(), formula(name, shape)), f"{name}: other values"
    print("ok", path)


def snapshot(path):
    with safe_open(path, framework="pt") as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}
        assert f.metadata() == {"format": "pt", "dltrain": "snapshot"}, f"metadata: {f.metadata()}"
    parameters = {name: t for name, t in tensors.items() if "|" not in name}
    assert set(parameters) >= {"fc1.weight", "fc1.bias", "bn.running_mean", "fc2.weight"}, sorted(parameters)
    for name in ("fc1.weight", "fc2.bias"):
        assert tensors["optimizer.0|exp_avg|" + name].shape == parameters[name].shape, name
    assert set(tensors["optimizer.0|age"].tolist()) == {0, 7}, tensors["optimizer.0|age"]  # buffers have none
    print("ok", path)


if __name__ == "__main__":
    modes = {"save": save, "check": check, "snapshot": snapshot}
    if len(sys.argv) != 3 or sys.argv[1] not in modes:
        sys.exit(__doc__)
    modes[sys.argv[1]](sys.argv[2])
