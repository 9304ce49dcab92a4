#!/usr/bin/env bash
# Checkpoints both ways against the Python package, and PyTorch opens the demo's.
cd "$(dirname "$0")/.." || exit 1
dir=build/safetensors
mkdir -p $dir
if ! python3 -c 'import safetensors, torch, numpy' 2> /dev/null; then
    echo "skip safetensors: Python has no safetensors, torch and numpy"
    exit
fi
if ! "${CC:-cc}" -std=gnu11 -O1 tests/test_files.c "$(tests/run --library plain)" -o $dir/test_files -lm -pthread 2> $dir/log; then
    echo "not ok safetensors: tests/test_files.c does not build: $(head -1 $dir/log)"
    exit
fi
$dir/test_files write $dir/ours.safetensors > $dir/log 2>&1 && python3 tests/safetensors_check.py check $dir/ours.safetensors >> $dir/log 2>&1 && echo "ok safetensors: Python reads what dltrain wrote" ||
    echo "not ok safetensors: Python reads what dltrain wrote: $(tail -2 $dir/log | tr '\n' ' ')"
python3 tests/safetensors_check.py save $dir/theirs.safetensors > $dir/log 2>&1 && $dir/test_files read $dir/theirs.safetensors >> $dir/log 2>&1 && echo "ok safetensors: dltrain reads what Python wrote" ||
    echo "not ok safetensors: dltrain reads what Python wrote: $(tail -2 $dir/log | tr '\n' ' ')"
"${CC:-cc}" -std=gnu11 -O1 tests/test_snapshot.c "$(tests/run --library plain)" -o $dir/test_snapshot -lm -pthread 2> $dir/log && $dir/test_snapshot write $dir/snapshot.safetensors >> $dir/log 2>&1 &&
    python3 tests/safetensors_check.py snapshot $dir/snapshot.safetensors >> $dir/log 2>&1 && echo "ok safetensors: Python reads a snapshot" ||
    echo "not ok safetensors: Python reads a snapshot: $(tail -2 $dir/log | tr '\n' ' ')"
