# make demo                learn handwritten digits: a minute, nothing needed but cc and make
# make test                every test; REQUIRE_ALL=1 turns a skip into a failure
# make test T=test_errors  one of them
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

clean:
	rm -rf build

.PHONY: demo test clean
