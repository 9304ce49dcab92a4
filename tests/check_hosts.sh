#!/usr/bin/env bash
# Two hosts, each a network namespace with an address and a host name of its own, and between them one link: ddp.c trains across it by the
# real mpirun over TCP, and the link's counter says that the gradients went over it.
cd "$(dirname "$0")/.." || exit 1
dir=$PWD/build/hosts
mkdir -p "$dir"
for tool in mpirun mpicc ip unshare; do
    command -v $tool > /dev/null || { echo "skip hosts: $tool is not installed"; exit; }
done
a=dlA$$ b=dlB$$
clean() {
    ip netns del $a 2> /dev/null
    ip netns del $b 2> /dev/null
    rm -f "$dir"/s.safetensors*
}
trap clean EXIT
if ! { ip netns add $a && ip netns add $b && ip netns exec $a unshare --uts true; } 2> "$dir/out.txt"; then
    echo "skip hosts: network namespaces are not permitted here: $(head -1 "$dir/out.txt")"
    exit
fi
ip link add veth0 netns $a type veth peer name veth0 netns $b
for n in $a $b; do
    ip -n $n addr add 10.77.0.$([ $n = $a ] && echo 1 || echo 2)/24 dev veth0
    ip -n $n link set lo up
    ip -n $n link set veth0 up
done

# What mpirun calls instead of ssh: AGENT HOST COMMAND...
cat > "$dir/agent" << END
#!/usr/bin/env bash
shift
exec ip netns exec $b unshare --uts sh -c 'hostname host-b; exec sh -c "\$0"' "\$*"
END
chmod +x "$dir/agent"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_CC=${CC:-cc}
core=$(tests/run --library plain)
tests/run --example ddp > "$dir/ddp.c"
mpicc -O1 -DDLTRAIN_MPI examples/ddp.c -o "$dir/ddp" -lm -pthread > "$dir/out.txt" 2>&1 || { echo "not ok hosts: ddp.c does not build"; exit; }
across() { # COMMAND...: a process on each host
    timeout 120 ip netns exec $a unshare --uts sh -c 'hostname host-a; exec "$@"' - mpirun --host 10.77.0.1:1,10.77.0.2:1 --mca plm_rsh_agent "$dir/agent" \
        --mca btl self,tcp --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 "$@" > "$dir/out.txt" 2>&1
}
sent() { ip netns exec $a cat /sys/class/net/veth0/statistics/tx_bytes; }
check() { if [ "$1" = 0 ]; then echo "ok hosts: $2"; else echo "not ok hosts: $2: $(tr '\n' ' ' < "$dir/out.txt" | cut -c1-600)"; fi; }

across hostname
[ "$(sort "$dir/out.txt" | tr '\n' ' ')" = "host-a host-b " ]
check $? "mpirun starts a process on each"
s=$dir/s.safetensors
train() { # EPOCHS: trains the digits anew, and says how many bytes host a sent
    rm -f "$s"*
    local before
    before=$(sent)
    across "$dir/ddp" "$1" 100 --digits examples/data --snapshot "$s" || return 1
    bytes=$(($(sent) - before))
}
train 1 && short=$bytes && train 4
check $? "ddp trains on both"
# 17,258 parameters in float; every step sends the half that the other host sums, and the sum of the own half: 23 steps an epoch.
gradients=$((3 * 23 * 17258 * 4))
echo "$bytes bytes in 4 epochs, $short in one, $gradients are the gradients of three" > "$dir/out.txt"
[ $((bytes - short)) -ge $gradients ] && [ $((bytes - short)) -le $((gradients * 13 / 10)) ]
check $? "the gradients crossed the link ($((bytes - short)) bytes for $gradients of gradients)"
across "$dir/ddp" 4 100 --digits examples/data --snapshot "$s"
cp "$dir/out.txt" "$dir/across.txt"
cc_sum() { sed -n 's/^checksum of the parameters: //p' "$1"; }
rm -f "$s"*
"${CC:-cc}" -O1 -iquote examples "$dir/ddp.c" "$core" -o "$dir/ddp_threads" -lm -pthread && "$dir/ddp_threads" 4 100 --world 2 --digits examples/data --snapshot "$s" > "$dir/out.txt" 2>&1
[ -n "$(cc_sum "$dir/out.txt")" ] && [ "$(cc_sum "$dir/out.txt")" = "$(cc_sum "$dir/across.txt")" ]
check $? "two hosts end with the bits of two threads"
