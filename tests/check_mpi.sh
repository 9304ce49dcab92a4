#!/usr/bin/env bash
# Replicas in several processes: collectives, training against one rank, invariant bits, faults, ddp.c, the SLURM script. 2 and 4 processes on
# however few CPUs there are.
cd "$(dirname "$0")/.." || exit 1
dir=build/mpi
mkdir -p $dir
rm -f $dir/*.safetensors* $dir/*.txt
if ! command -v mpirun > /dev/null || ! command -v mpicc > /dev/null; then
    echo "skip mpi: mpirun or mpicc is not installed"
    exit
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
export OMPI_CC=${CC:-cc}
ok() { echo "ok mpi: $1"; }
not_ok() { echo "not ok mpi: $1: $(tr '\n' ' ' < "$dir/out.txt" | cut -c1-500)"; }
check() { if [ "$1" = 0 ]; then ok "$2"; else not_ok "$2"; fi; }

core=$(tests/run --library plain)
tests/run --example ddp > $dir/ddp.c
if ! mpicc -std=gnu11 -O1 -Wall -Wextra -DDLTRAIN_NO_SIMD tests/mpi_check.c -o $dir/mpi_check -lm -pthread > $dir/out.txt 2>&1 || [ -s $dir/out.txt ]; then
    not_ok "mpi_check.c builds without warnings"
    exit
fi
if ! mpicc -O1 -Wall -Wextra -DDLTRAIN_NO_SIMD -DDLTRAIN_MPI examples/ddp.c -o $dir/ddp -lm -pthread > $dir/out.txt 2>&1 || [ -s $dir/out.txt ]; then
    not_ok "ddp.c builds without warnings"
    exit
fi
"${CC:-cc}" -O1 -Wall -Wextra -iquote examples $dir/ddp.c "$core" -o $dir/ddp_threads -lm -pthread > $dir/out.txt 2>&1
[ ! -s $dir/out.txt ]
check $? "ddp.c builds without MPI"

# ---- results: processes, replicas in each; by messages where Open MPI is told to give no shared memory ----
for form in "2 1" "3 1" "4 1" "2 2" "3 1 -x MESSAGES=1 --mca osc ^sm"; do
    read -r np replicas options <<< "$form"
    for mode in collectives training accumulating; do
        # shellcheck disable=SC2086
        timeout 120 mpirun $options -np "$np" $dir/mpi_check $mode "$replicas" > $dir/out.txt 2>&1
        status=$?
        grep -E '^(not )?ok ' $dir/out.txt
        grep '^hash ' $dir/out.txt >> "$dir/bits.$np.$replicas${options:+.messages}.txt"
        [ $status = 0 ] || not_ok "$mode with $np processes of $replicas $options: exit status $status"
    done
done
cat $dir/bits.3.1*.txt > $dir/out.txt
[ "$(wc -l < $dir/bits.3.1.txt)" = 3 ] && cmp -s $dir/bits.3.1.txt $dir/bits.3.1.messages.txt
check $? "messages give the bits of shared memory: sums, training, accumulation"
hashes=
for form in "1 1" "1 4" "2 1" "4 1" "2 2" "1 2"; do
    read -r np replicas <<< "$form"
    timeout 120 mpirun -np "$np" $dir/mpi_check invariant "$replicas" > $dir/out.txt 2>&1
    hashes="$hashes$(grep -E '^hash invariant [0-9a-f]{16}$' $dir/out.txt)
"
done
printf '%s' "$hashes" > $dir/out.txt
[ "$(printf '%s' "$hashes" | sort -u | wc -l)" = 1 ] && [ "$(grep -c '^hash' $dir/out.txt)" = 6 ]
check $? "invariant shards give the same bits to 1, 2 and 4 ranks, over threads, MPI and both"

# ---- a GPU for each process, on the simulated driver ----
sim=$(tests/cudasim/build.sh 2>&1)
if [[ $sim == *"no NVRTC"* ]] || [ ! -f build/cudasim/libcuda.so.1 ]; then echo "skip mpi: a GPU for each process: there is no NVRTC: tools/setup.sh installs it"
else
    on_gpus() { # GPUS VARIABLE=VALUE...: two processes; trace.0 and trace.1 tell what ran where
        rm -f $dir/g.* $dir/trace.*
        env LD_LIBRARY_PATH=$PWD/build/cudasim DLTRAIN_CUDA_CACHE=$PWD/build/cuda/cache CUDASIM_DEVICES="$1" "${@:2}" timeout 100 mpirun -np 2 sh -c \
            "CUDASIM_TRACE=$dir/trace.\$OMPI_COMM_WORLD_RANK exec $dir/ddp 1 1 --devices cuda --snapshot $dir/g.safetensors" > $dir/out.txt 2>&1
    }
    devices() { cut -d' ' -f1 "$dir/trace.$1" 2> /dev/null | sort -u | tr -d '\n'; }
    timeout 100 mpirun -np 2 $dir/ddp 1 1 --snapshot $dir/c.safetensors > $dir/threads.txt 2>&1
    on_gpus 2
    [ "$(devices 0)$(devices 1)" = 01 ] && [ -n "$(sed -n 's/^checksum//p' $dir/out.txt)" ] && [ "$(grep ^checksum $dir/out.txt)" = "$(grep ^checksum $dir/threads.txt)" ]
    check $? "cuda: each process has a GPU of its own, with the bits of CPUs"
    on_gpus 1
    [ $? != 0 ] && grep -q "there is no device 'cuda:1': .*'cuda' is a GPU of its own for each process of a node: to share one, name it" $dir/out.txt
    check $? "cuda: fewer GPUs than processes"
fi

# kill -9 of either rank at random moments: the job ends within 5 s and says where it was; resumed again and again it ends with the bits of the
# run that was left alone. Most of it is the launcher's waiting: it runs beside the rest.
sum() { sed -n 's/^checksum of the parameters: //p' "$1"; }
kills() {
    local program=$dir/ddp dir=$dir/kills s=$dir/kills/s.safetensors epochs=80 want last try job ranks tenths
    local kills=0 named=0 silent=0 slow=0 resumed=0 ended=0 elsewhere=0
    mkdir -p $dir
    rm -f $dir/*
    timeout 100 mpirun -np 2 $program "$epochs" 1 --snapshot $s > $dir/out.txt 2>&1
    want=$(sum $dir/out.txt)
    rm -f $s*
    RANDOM=7
    for ((try = 0; try < 60 && kills < 12; try++)); do
        mpirun -np 2 $program "$epochs" 1 --snapshot $s > $dir/out.txt 2>&1 &
        job=$!
        for ((tenths = 0; tenths < 300; tenths++)); do # a busy machine starts slowly
            ranks=($(pgrep -P $job -x ddp))
            [ ${#ranks[@]} = 2 ] && break
            sleep 0.1
        done
        sleep "$(printf '0.%03d' $((RANDOM % 1000)))"
        kill -9 "${ranks[RANDOM % 2]}" 2> /dev/null
        for ((tenths = 0; tenths < 150; tenths++)); do
            kill -0 $job 2> /dev/null || break
            [ $tenths = 50 ] && slow=$((slow + 1))
            sleep 0.1
        done
        kill -9 $job 2> /dev/null
        wait $job
        grep -q '^Resuming ' $dir/out.txt && resumed=$((resumed + 1))
        if grep -q '^checksum' $dir/out.txt; then # it was too late
            [ "$(sum $dir/out.txt)" = "$want" ] || elsewhere=$((elsewhere + 1))
            ended=$((ended + 1))
            rm -f $s*
            continue
        fi
        kills=$((kills + 1))
        grep -q "Epoch $((epochs - 1)) " $dir/out.txt && continue
        grep -q 'Epoch ' $dir/out.txt || continue # MPI was still starting
        if grep -qE 'rank [01], step [0-9]+, in .*(the job is being ended by signal|nothing has come from rank [01])' $dir/out.txt && grep -q 'rank [01] .*signal 9' $dir/out.txt; then
            named=$((named + 1)); else silent=$((silent + 1)) && cp $dir/out.txt $dir/silent.txt; fi
    done
    timeout 100 mpirun -np 2 $program "$epochs" 1 --snapshot $s > $dir/out.txt 2>&1
    last=$(sum $dir/out.txt)
    echo "$kills kills, $named named, $silent silent, $slow slow, $resumed resumed, $ended ended, $elsewhere elsewhere, '$last' for '$want'; $(tail -3 $dir/silent.txt 2> /dev/null)" > $dir/out.txt
    [ $kills -ge 12 ] && [ $named -gt 0 ] && [ $silent = 0 ] && [ $slow = 0 ]
    check $? "ddp: $kills kills of a rank end the job within 5 s; it names rank, step and call"
    [ -n "$want" ] && [ "$last" = "$want" ] && [ $elsewhere = 0 ] && [ $resumed -gt 0 ]
    check $? "ddp: resumed $resumed times, it ends with the bits of the undisturbed run"
    rm -f $s*
}
kills > $dir/kills.txt 2> /dev/null &
killing=$!

# ---- faults: seconds that are allowed, what must be said. What a busy machine adds, or the launcher cuts off, does not come each time ----
fault() { # MODE PROCESSES SECONDS PATTERN
    local try start status took bad
    for try in 1 2 3; do
        start=$(date +%s%N)
        timeout 60 mpirun -np "$2" $dir/mpi_check "$1" > $dir/out.txt 2>&1
        status=$? took=$((($(date +%s%N) - start) / 1000000))
        [ $status != 0 ] && [ $status != 124 ] && grep -qE "$4" $dir/out.txt && [ $took -lt $(($3 * 1000)) ]
        bad=$?
        [ $bad = 0 ] && break
    done
    check $bad "$1, $2 processes: in time and by name ($took ms)"
}
# A rank that fails: from there to the end of all others, by the clock of the processes.
fails() { # MODE PROCESSES PATTERN
    local try late
    for try in 1 2 3; do
        timeout 60 mpirun -np "$2" $dir/mpi_check "$1" > $dir/out.txt 2>&1
        late=$(awk -v all="$2" '/^time failed/ { from = $3 } /^time ended/ { n++; if ($3 + 0 > to) to = $3 + 0 } END { print n == all ? int((to - from) * 1000) : 99999 }' $dir/out.txt)
        [ "$late" -lt 1000 ] && break
    done
    grep -qE "$3" $dir/out.txt && [ "$late" -lt 1000 ]
    check $? "$1, $2 processes: by name, all end within a second ($late ms)"
}
for np in 2 4; do
    last=$((np - 1))
    fault dies $np 5 "rank [0-9]+, step 5, in the reduction of .*gradients: the job is being ended"
    grep -q "rank $last .*signal 9" $dir/out.txt
    check $? "dies, $np processes: the launcher names rank $last"
    fails fails $np "rank $last \(cpu\), step 5: the model's own error"
    fails size $np "in dl_all_reduce of 4 numbers \(sum\): rank $last, step 5, calls dl_all_reduce of 3 numbers \(sum\) instead"
    fails other $np "in dl_all_reduce of 4 numbers \(sum\): rank $last, step 5, calls dl_broadcast of 16 bytes"
    fails leaves $np "in the reduction of gradients: rank $last has returned from its function"
    fault stops $np 15 "in the reduction of .*gradients: nothing has come from rank $last"
done

# ---- ddp.c ----
s=$dir/s.safetensors
$dir/ddp_threads 6 2 --world 2 --snapshot $s > $dir/threads.txt 2>&1
rm -f $s*
timeout 100 mpirun -np 2 $dir/ddp 6 2 --snapshot $s > $dir/out.txt 2>&1
[ -n "$(sum $dir/out.txt)" ] && [ "$(sum $dir/out.txt)" = "$(sum $dir/threads.txt)" ] && grep -qxF '[rank 1] Epoch 5 | Batchsize: 32 | Steps: 32' $dir/out.txt
check $? "ddp: two processes end with the bits of two threads"
rm -f $s*
timeout 100 mpirun -np 2 $dir/ddp 4 3 --snapshot $s > $dir/out.txt 2>&1
timeout 100 mpirun -np 2 $dir/ddp 6 3 --snapshot $s > $dir/out.txt 2>&1
grep -qx 'Resuming training from snapshot at epoch 4' $dir/out.txt && [ "$(sum $dir/out.txt)" = "$(sum $dir/threads.txt)" ]
check $? "ddp: a run that resumes ends with the same bits"
timeout 100 mpirun -np 3 $dir/ddp 7 3 --snapshot $s > $dir/out.txt 2>&1
[ $? != 0 ] && grep -q 'is of a world of 2 ranks, this one has 3' $dir/out.txt
check $? "ddp: a snapshot of another world is refused"
rm -f $s*
for np in 4 1 2; do timeout 100 mpirun -np $np $dir/ddp $((7 - np)) 1 --invariant 4 --snapshot $s > $dir/out.txt 2>&1; done # 3, 6, 5: and
timeout 100 mpirun -np 2 $dir/ddp 7 1 --invariant 4 --snapshot $s > $dir/out.txt 2>&1
rm -f $s*
$dir/ddp_threads 7 7 --invariant 4 --snapshot $s > $dir/threads.txt 2>&1
[ -n "$(sum $dir/out.txt)" ] && [ "$(sum $dir/out.txt)" = "$(sum $dir/threads.txt)" ]
check $? "ddp: with --invariant a run goes through worlds of 4, 1 and 2 to the same bits"
RANK=0 WORLD_SIZE=2 $dir/ddp 1 1 > $dir/out.txt 2>&1
[ $? = 2 ] && grep -q 'mpirun -np 2' $dir/out.txt
check $? "ddp: RANK and WORLD_SIZE without MPI: the sentence names mpirun"
SLURM_STEP_ID=0 SLURM_NTASKS=2 $dir/ddp 1 1 --snapshot $s > $dir/out.txt 2>&1
[ $? = 1 ] && grep -q 'SLURM started several processes, but MPI sees this one alone' $dir/out.txt
check $? "ddp: srun without MPI: the sentence says how to start it"

# ---- the SLURM script, by a stand-in for sbatch that does what its #SBATCH lines say ----
nodes=$(sed -n 's/^#SBATCH --nodes=//p' examples/ddp.slurm) per=$(sed -n 's/^#SBATCH --ntasks-per-node=//p' examples/ddp.slurm)
rm -f $s*
SLURM_SUBMIT_DIR=$PWD SLURM_NTASKS=$((nodes * per)) DDP=$dir/ddp timeout 100 bash examples/ddp.slurm 2 1 --snapshot $s > $dir/out.txt 2>&1
[ $? = 0 ] && [ "$(grep -c '^\[rank .\] Epoch 1 ' $dir/out.txt)" = $((nodes * per)) ]
check $? "ddp.slurm trains on $((nodes * per)) ranks"
rm -f $s*
wait $killing
cat $dir/kills.txt
