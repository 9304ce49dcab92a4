#!/usr/bin/env bash
# The benchmarks run and print lines of the promised form; what they measure is not looked at.
cd "$(dirname "$0")/.." || exit 1
dir=build/check_bench
rm -rf $dir
mkdir -p $dir
build() { # NAME LEVEL
    if ! "${CC:-cc}" -Wall -Wextra "$2" "tools/$1.c" -o "$dir/$1" -lm -pthread -ldl > "$dir/$1.log" 2>&1 || [ -s "$dir/$1.log" ]; then
        echo "not ok bench: $1 does not build without warnings: $(head -3 "$dir/$1.log" | tr '\n' ' ')"
        exit 1
    fi
}
expect() { # NAME LINES PATTERN COMMAND...: so many lines match, and it succeeds
    local name=$1 lines=$2 pattern=$3 status
    shift 3
    "$@" > "$dir/out.txt" 2>&1
    status=$?
    if [ $status = 0 ] && [ "$(grep -cE -- "$pattern" "$dir/out.txt")" = "$lines" ]; then echo "ok bench: $name"; else echo "not ok bench: $name: status $status: $(tr '\n' ' ' < "$dir/out.txt" | cut -c1-400)"; fi
}
refuse() { # NAME WORDS COMMAND...: status 2, a sentence with these words and the usage
    local name=$1 words=$2 status
    shift 2
    "$@" > "$dir/out.txt" 2>&1
    status=$?
    if [ $status = 2 ] && grep -q -- "$words" "$dir/out.txt" && grep -q '^usage: ' "$dir/out.txt"; then echo "ok bench: refuses $name"; else echo "not ok bench: $name: status $status: $(head -1 "$dir/out.txt")"; fi
}
short="--rounds 2 --seconds 0.002"
build bench -O0
expect "one line a workload and number of threads" 4 '^W1c? [12]T dltrain [0-9]+ samples/s  of-peak [0-9]+%  rss [0-9]+ MB$' $dir/bench --no-torch --only W1,W1c $short
expect "one number of threads" 1 '^W[0-9] ' $dir/bench --no-torch --only W1 --threads 2 $short
expect "the peak" 2 '^peak [12]T [0-9]+\.[0-9] GFLOP/s$' $dir/bench --no-torch --only W1 $short
expect "goes on without PyTorch" 1 'cannot import torch: dltrain alone$' env PYTHON=false $dir/bench --only W1 --threads 1 $short
# A stand-in for PyTorch that answers as bench_torch.py does.
cat > $dir/python << 'END'
#!/bin/sh
for last; do :; done
echo "torch 0"
if [ "$last" = try ]; then printf 'eager 10.0\nfused 30.0\ntrace 20.0\n'; exit; fi
echo ready
while read -r line; do echo "1000.0 123.0"; done
END
chmod +x $dir/python
expect "a line beside PyTorch" 1 '^W1 1T dltrain [0-9]+ samples/s  torch 1000 samples/s \(fused\)  ratio [0-9]+\.[0-9]{2}  of-peak [0-9]+%  rss [0-9]+ MB torch-rss 123 MB$' env PYTHON=$dir/python $dir/bench --only W1 --threads 1 $short
refuse "an unknown option" "no option '--fast'" $dir/bench --fast
refuse "an unknown workload" "no workload 'W9'" $dir/bench --only W1,W9
refuse "no rounds" "1 to 99, not '0'" $dir/bench --rounds 0
build bench_gemm -O0
expect "products, checked against double" 4 '^[12]T +[0-9]+ +[0-9]+ +[0-9]+ (NT|TT) +[0-9]+ +[0-9]+\.[0-9]{2}' bash -c "$dir/bench_gemm --no-libs $short --shape 7,5,3,NT && $dir/bench_gemm --no-libs $short --shape 33,17,65,TT,3"
refuse "a shape that is none" "M,N,K,NT" $dir/bench_gemm --shape 7,5,NN
build bench_parallel -O1
replicas='^W[23] threads 1 replica [0-9]+ samples/s  2 replicas [0-9]+ samples/s  ratio [0-9]+\.[0-9]{2}  unconnected [0-9]+\.[0-9]{2}  predicted [0-9]+\.[0-9]{2} \(measured [+-][0-9.]+%\)$'
expect "one replica and two" 2 "$replicas" $dir/bench_parallel --rounds 1 --seconds 0.002
lines() { # PATTERN LINES: of the last output
    [ "$(grep -cE -- "$1" $dir/out.txt)" = "$2" ]
}
if lines '^W[23] threads all-reduce of [0-9.]+ MB [0-9.]+ ms, of a number [0-9.]+ us$' 2 && lines '^W[23] threads CPU time of a step [0-9.]+ ms alone, [0-9.]+ ms of two, [0-9.]+ ms of two unconnected$' 2 && lines '^(loss on output|loss on each  |dl_launch     )( +[0-9.]+){14}   [0-9.]+, [0-9.]+$' 6; then
    echo "ok bench: where the time goes"; else echo "not ok bench: where the time goes: $(tr '\n' ' ' < $dir/out.txt | cut -c1-400)"; fi
if "${CC:-cc}" -std=c99 -pedantic -Wall -Wextra tools/cost_model.c -o $dir/cost_model > $dir/out.txt 2>&1 && [ ! -s $dir/out.txt ]; then echo "ok bench: cost_model builds"; else echo "not ok bench: cost_model: $(head -2 $dir/out.txt)"; fi
expect "four networks, three sizes" 12 '^(NVLink 4|PCIe 4 x16|100? Gb Ethernet) +(8|64|512)( +[0-9.e+]+){3}% +[0-9.e+]+ +[0-9.]+%$' $dir/cost_model
# By hand: a bucket of 1 MB over a ring of 8 at 25 GB/s and 5.7 us: 2 x 7 x (5.7 us + 5 us) = 0.1498 ms, all of it exposed.
expect "a bucket by hand" 1 '^PCIe 4 x16 +8 +3\.15 +0\.1498 ' $dir/cost_model --forward 1 --backward 1 --update 1 --bytes 1 --first 1
expect "two buckets by hand, one of them hidden" 1 '^PCIe 4 x16 +8 +3\.15 +0\.1498 ' $dir/cost_model --forward 1 --backward 1 --update 1 --bytes 2 --first 1
expect "no overlap" 1 '^PCIe 4 x16 +8 +3\.3 +0\.2996 ' $dir/cost_model --forward 1 --backward 1 --update 1 --bytes 2 --first 1 --overlap 0
# 3 x (5.7 us + 7 x 2 us) + 2 x 7/8 x 1 MB / 25 GB/s = 0.1291 ms
expect "over MPI by hand" 1 '^PCIe 4 x16 +8 .* 3\.129 ' $dir/cost_model --forward 1 --backward 1 --update 1 --bytes 1 --first 1
refuse "bytes that are none" "'--bytes' is no option, or its value" $dir/cost_model --bytes x
refuse "no rounds of replicas" "'--rounds' is no option, or its value" $dir/bench_parallel --rounds 0
cat > $dir/kinds.py << 'END'
import sys
sys.path.insert(0, 'tools')
import bench_torch as b
for spec in 'mlp:4:20:8,3', 'cnn:4:2,12,10:3,4,8,5', 'resnet:4:2,12,10:4,2,2,5', 'gpt:2:12:11,16,2,2':
    print('rate', b.measure(*b.make_step(spec, ()), 0.01) > 0)
END
if ! command -v python3 > /dev/null; then echo "skip bench: python3 is not installed"
elif python3 -B $dir/kinds.py > "$dir/out.txt" 2>&1 || ! grep -q 'cannot be imported' "$dir/out.txt"; then
    if [ "$(grep -c '^rate True' "$dir/out.txt")" = 4 ]; then echo "ok bench: PyTorch takes steps of each kind"; else echo "not ok bench: PyTorch: $(tail -1 "$dir/out.txt")"; fi
else echo "skip bench: PyTorch is not installed"; fi
exit 0
