#!/usr/bin/env bash
# 20,000 mutations of good files, under the sanitizers where there are any. For longer: clang -fsanitize=fuzzer,address,undefined tests/fuzz_files.c
cd "$(dirname "$0")/.." || exit 1
mkdir -p build/fuzz
"${CC:-cc}" -std=gnu11 -O1 -g -fsanitize=address,undefined -DFUZZ_MAIN tests/fuzz_files.c -o build/fuzz/fuzz -lm -pthread 2> build/fuzz/log || "${CC:-cc}" -std=gnu11 -O1 -DFUZZ_MAIN tests/fuzz_files.c -o build/fuzz/fuzz -lm -pthread
timeout 300 build/fuzz/fuzz
