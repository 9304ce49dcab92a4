# make demo                learn handwritten digits: a minute, nothing needed but cc and make
# make test                every test; REQUIRE_ALL=1 turns a skip into a failure
# make test T=test_errors  one of them
# make test-mpi            those over MPI: 2 and 4 processes, and two hosts with a link between them
# make bench               speed of four workloads, beside PyTorch if it is there: docs/speed.md. W=W2 T=1 ROUNDS=9: these alone
# make bench-gemm          matrix products, beside OpenBLAS and oneDNN if they are there. T=1 ROUNDS=5
# make bench-parallel      one replica and two, over threads and MPI, and where the time goes. ROUNDS=5
# make cost-model          of parallel training on 8, 64 and 512 devices: docs/cost.md. build/cost_model --help
# make clean
CC ?= cc
CFLAGS ?= -O2 -Wall -Wextra
LDLIBS = -lm -pthread

demo: build/digits
	build/digits --save build/digits.safetensors

build/digits: examples/digits.c dltrain.h
	@mkdir -p build
	$(CC) $(CFLAGS) examples/digits.c -o $@ $(LDLIBS)

test:
	@CC="$(CC)" REQUIRE_ALL="$(REQUIRE_ALL)" tests/run $(T)

test-mpi:
	@CC="$(CC)" REQUIRE_ALL="$(REQUIRE_ALL)" tests/run check_mpi check_hosts

build/bench: tools/bench.c tools/workloads.h tools/measure.h dltrain.h
build/bench_gemm: tools/bench_gemm.c tools/measure.h dltrain.h
build/bench build/bench_gemm:
	@mkdir -p build
	$(CC) $(CFLAGS) $< -o $@ $(LDLIBS) -ldl

bench_options = $(if $(T),--threads $(T)) $(if $(ROUNDS),--rounds $(ROUNDS))
bench: build/bench
	@build/bench $(bench_options) $(if $(W),--only $(W))

bench-gemm: build/bench_gemm
	@build/bench_gemm $(bench_options)

build/bench_parallel: tools/bench_parallel.c tools/cost.h tools/workloads.h tools/measure.h dltrain.h dltrain_mpi.h
	@mkdir -p build
	$(CC) $(CFLAGS) $< -o $@ $(LDLIBS)
	$(if $(shell command -v mpicc),mpicc -DDLTRAIN_MPI $(CFLAGS) $< -o $@_mpi $(LDLIBS))

bench-parallel: build/bench_parallel
	@build/bench_parallel $(if $(ROUNDS),--rounds $(ROUNDS))

build/cost_model: tools/cost_model.c tools/cost.h
	@mkdir -p build
	$(CC) $(CFLAGS) $< -o $@

cost-model: build/cost_model
	@build/cost_model

clean:
	rm -rf build

.PHONY: demo test test-mpi bench bench-gemm bench-parallel cost-model clean
