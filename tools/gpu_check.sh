#!/usr/bin/env bash
# `make gpu-check`, on a machine with a GPU, within 10 minutes: are the results those of the CPU, bit for bit, and how fast is it beside
# PyTorch? The report goes to build/gpu-report.txt. Status 0: everything is right; 1: something is not, or there is no GPU.
#     tools/gpu_check.sh [--simulated]      on cuda:0; CUDA_VISIBLE_DEVICES chooses another
# --simulated runs it on the simulated driver of tests/cudasim, with small sizes: that checks this script. Its report says nothing of speed.
cd "$(dirname "$0")/.." || exit 1
device=cuda:0 simulated='' report=build/gpu-report.txt dir=$PWD/build/gpu_check
case $* in
    '') ;;
    --simulated) simulated=1 ;;
    *) echo "gpu_check: there is no option '$*'; usage: tools/gpu_check.sh [--simulated]" >&2; exit 2 ;;
esac
flags="-std=gnu11 -O0 -DDLTRAIN_NO_SIMD"
mkdir -p "$dir" "$dir-simulated"
if [ $simulated ]; then
    report=build/gpu-report-simulated.txt
    export LD_LIBRARY_PATH=$PWD/build/cudasim
fi
deadline=$((SECONDS + 570)) failures=0

say() { printf '%s\n' "$*" | tee -a "$report"; }
fail() { say "FAILED: $*"; failures=$((failures + 1)); }
build() { # NAME FILE: unless it is built from these sources
    local sources
    sources="${CC:-cc} $flags $(cat "$2" ./*.h tools/*.h tests/*.[hc] | cksum)"
    [ "$(cat "$dir/$1.sources" 2> /dev/null)" = "$sources" ] && [ -x "$dir/$1" ] && return
    ${CC:-cc} $flags -DDLTRAIN_IMPLEMENTATION= "$2" -o "$dir/$1" -lm -pthread -ldl > "$dir/$1.build" 2>&1 || { fail "$2 does not build: $(head -1 "$dir/$1.build")"; return 1; }
    echo "$sources" > "$dir/$1.sources"
}
within() { # SECONDS COMMAND...: as long at most, and never past the deadline
    local left=$((deadline - SECONDS)) status
    [ $left -lt "$1" ] || left=$1
    [ $left -gt 0 ] || { echo "no time is left"; return 124; }
    timeout "$left" "${@:2}"
    status=$?
    [ $status != 124 ] || echo "not finished after $left s"
    return $status
}

rm -f "$report"
build gpu_name tools/gpu_name.c || exit 1
if ! what=$("$dir/gpu_name" "$device" 2> "$dir/gpu_name.log"); then
    echo "gpu_check: there is no GPU to check: $(head -1 "$dir/gpu_name.log")" >&2
    exit 1
fi
[ $simulated ] && dir=$dir-simulated || flags="-std=gnu11 -O2"
name=$(sed -n 's/^GPU: \(.*\), compute capability.*/\1/p' <<< "$what")
if [[ $name == cudasim* ]] && [ ! $simulated ]; then
    echo "gpu_check: '$name' is the simulated GPU of tests/cudasim, no real one; --simulated runs on it" >&2
    exit 1
elif [[ $name != cudasim* ]] && [ $simulated ]; then
    echo "gpu_check: --simulated, but the driver shows '$name': tests/cudasim/build.sh builds the simulated one" >&2
    exit 1
fi

say "dltrain on a GPU, by tools/gpu_check.sh"
[ ! $simulated ] || say "simulated: no speed. The figures below are those of an interpreter on a CPU."
say "$what"
[ $simulated ] || say "nvidia-smi: $(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader 2> /dev/null | tr '\n' ';')"
say "host: $(uname -srm), $(nproc) CPUs, $(${CC:-cc} --version | head -1)"
say "sources: $(git rev-parse --short HEAD 2> /dev/null || echo 'no git here')"
python=${PYTHON:-python3}
torch=$($python -c 'import torch; print(torch.__version__, torch.version.cuda, torch.backends.cudnn.version()) if torch.cuda.is_available() else exit(1)' 2> /dev/null)
[ ! $simulated ] || torch=
say "PyTorch: ${torch:-none with CUDA; dltrain alone}${torch:+ (version, CUDA, cuDNN); fp32 without tf32}"

say "" && say "Results, against the CPU's bits"
if build check tests/cuda_check.c; then
    within 240 "$dir/check" "$name" ${simulated:+reading} > "$dir/check.log" 2>&1
    status=$?
    right=$(grep -c '^ok ' "$dir/check.log") wrong=$(grep -c '^not ok ' "$dir/check.log")
    say "tests/cuda_check.c: $right right, $wrong wrong"
    [ "$wrong" = 0 ] || fail "$(grep '^not ok ' "$dir/check.log" | head -20)"
    [ $status = 0 ] && [ "$right" != 0 ] || [ "$wrong" != 0 ] || fail "tests/cuda_check.c: status $status: $(tail -1 "$dir/check.log")"
fi
if build digits examples/digits.c; then
    epochs=${simulated:+1}
    "$dir/digits" --epochs ${epochs:-10} --save "$dir/cpu.safetensors" > "$dir/digits-cpu.log" 2>&1
    rm -f "$dir/gpu.safetensors"
    start=$SECONDS
    within 120 "$dir/digits" --epochs ${epochs:-10} --device "$device" --save "$dir/gpu.safetensors" > "$dir/digits-gpu.log" 2>&1
    if cmp -s "$dir/cpu.safetensors" "$dir/gpu.safetensors"; then say "examples/digits.c, ${epochs:-10} epochs: the same checkpoint as on the CPU, byte for byte ($((SECONDS - start)) s)"
    else fail "examples/digits.c: another checkpoint than on the CPU: $(tail -1 "$dir/digits-gpu.log")"; fi
fi

# All of dltrain's figures before PyTorch's, whose settings take long to try.
say "" && say "W1 to W4 of tools/workloads.h: samples a second, batches copied from the host"
if build bench tools/bench.c; then
    small="--only W1c --rounds 1 --seconds 0.01"
    within 120 "$dir/bench" --device "$device" --no-torch ${simulated:+$small} > "$dir/bench.log" 2>&1 || fail "tools/bench.c: $(tail -1 "$dir/bench.log")"
    grep -E '^W[0-9]' "$dir/bench.log" | grep dltrain | grep -v failed > "$dir/bench.lines" || fail "tools/bench.c gives no figures"
    say "$(cat "$dir/bench.lines")"
fi
if [ -x "$dir/bench" ]; then
    say "" && say "The same, each kernel launched by itself (DLTRAIN_CUDA_GRAPHS=0)"
    DLTRAIN_CUDA_GRAPHS=0 within 40 "$dir/bench" --device "$device" --no-torch --rounds 3 --seconds 0.3 ${simulated:+$small} > "$dir/bench.log" 2>&1 ||
        fail "tools/bench.c without graphs: $(tail -1 "$dir/bench.log")"
    say "$(grep -E '^W[0-9].*dltrain' "$dir/bench.log" | grep -v failed)"
fi
say "" && say "Matrix products: GFLOP/s, operands on the GPU"
if build bench_gemm tools/bench_gemm.c; then
    small="--shape 200,130,70,NN --rounds 1 --seconds 0.001"
    within 90 "$dir/bench_gemm" --device "$device" ${simulated:+$small} > "$dir/gemm.log" 2>&1 || fail "tools/bench_gemm.c: $(tail -1 "$dir/gemm.log")"
    if [ "$torch" ]; then within 60 $python tools/bench_torch.py gemm "$device" 0.01 5 < "$dir/gemm.log" > "$dir/gemm.lines" 2>&1 || fail "PyTorch's products: $(tail -1 "$dir/gemm.lines")"
    else cp "$dir/gemm.log" "$dir/gemm.lines"; fi
    grep -qE '^1T +[0-9]' "$dir/gemm.lines" || fail "tools/bench_gemm.c gives no figures"
    say "$(grep '^1T' "$dir/gemm.lines")"
fi
for precision in tf32 bf16; do # dltrain alone, on tensor cores
    [[ $what =~ "compute capability "([0-9]+)\. ]] && [ "${BASH_REMATCH[1]}" -ge 8 ] && [ -x "$dir/bench" ] && [ -x "$dir/bench_gemm" ] || continue
    say "" && say "W1 to W4 and matrix products with matmul_precision $precision"
    within 40 "$dir/bench" --device "$device" --no-torch --precision $precision --rounds 3 --seconds 0.3 ${simulated:+--only W1c --rounds 1 --seconds 0.01} > "$dir/bench.log" 2>&1 ||
        fail "tools/bench.c, $precision: $(tail -1 "$dir/bench.log")"
    within 40 "$dir/bench_gemm" --device "$device" --precision $precision --rounds 3 ${simulated:+--shape 200,130,70,NN --rounds 1 --seconds 0.001} > "$dir/gemm.log" 2>&1 ||
        fail "tools/bench_gemm.c, $precision: $(tail -1 "$dir/gemm.log")"
    say "$(grep -hE '^W[0-9].*dltrain|^1T +[0-9]' "$dir/bench.log" "$dir/gemm.log")"
done
if [ "$torch" ] && [ -x "$dir/bench" ]; then
    say "" && say "W1 to W4 beside PyTorch at the best settings that were found"
    for w in W1 W2 W3 W4; do
        within 150 "$dir/bench" --device "$device" --only $w --rounds 3 --seconds 0.3 > "$dir/beside.log" 2>&1
        say "$(grep -E "^$w .*torch [0-9]" "$dir/beside.log" || echo "$w: no comparison: $(tail -1 "$dir/beside.log")")"
    done
fi

say ""
if [ $failures = 0 ]; then say "everything is right"; else say "$failures failures"; fi
echo "the report: $report"
[ $failures = 0 ]
