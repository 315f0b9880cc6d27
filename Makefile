# make run | build | install | deb | test | test-cluster | test-guest | sim | asan | tsan | fuzz | coverage | soak | bench | bench-flat | clean   (README.md says more)
BUILD ?= build
DATA ?= agro-data
SECONDS ?= 60
MINUTES ?= 60
JOBS ?= $(shell nproc)
SEEDS ?= 300
# The sanitizers of clang 14 can hang or die where the kernel randomizes addresses by more than 28 bits.
FIXED_ADDRESSES := $(shell setarch -R true 2>/dev/null && echo setarch -R)

.PHONY: run build install deb test-packages test test-build test-cluster test-guest sim check asan asan-build tsan tsan-build fuzz mutants coverage soak bench bench-flat clean
.DEFAULT_GOAL := build

# A release of the four programs in build/bin/.
build:
	@tools/setup build
	@cmake -G Ninja -S . -B $(BUILD) -DAGRO_TESTS=OFF >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

# Programs, systemd units, completions, manual pages under PREFIX; DESTDIR is put before all paths.
PREFIX ?= /usr/local
install: build
	@DESTDIR=$(DESTDIR) cmake --install $(BUILD) --prefix $(PREFIX)

# build/packages/agro_*.deb and agro-client_*.deb.
deb:
	@tools/setup packages
	@cmake -G Ninja -S . -B $(BUILD)/deb -DAGRO_TESTS=OFF >/dev/null
	@cmake --build $(BUILD)/deb -j $(JOBS)
	@cd $(BUILD)/deb && cpack >/dev/null
	@mkdir -p $(BUILD)/packages && cp $(BUILD)/deb/packages/*.deb $(BUILD)/packages/ && ls $(BUILD)/packages/*.deb

# Lintian, and the packages in a fresh Debian of their own; as root. 77: this machine does not let us.
test-packages: deb
	@tools/test_packages $(BUILD)/packages || [ $$? -eq 77 ]

# Starts a one-machine cluster in ./agro-data with a 10 GiB volume `demo`; Ctrl-C stops it.
run: build
	@exec $(BUILD)/bin/agro standalone --data-dir $(DATA) --create-volume demo=10GiB

# Everything that can fail: unit tests, simulated crashes, fuzz corpora, real clients.
test: test-build
	@ctest --test-dir $(BUILD)/test --output-on-failure -j $(JOBS) -LE 'cluster|guest'

test-build:
	@tools/setup test
	@tools/tidy
	@cmake -G Ninja -S . -B $(BUILD)/test -DAGRO_TESTS=ON >/dev/null
	@cmake --build $(BUILD)/test -j $(JOBS)

# The scenarios with many processes, a real etcd, and networks that break; about 20 minutes, as root. One that fails is run a second
# time: they have bounds on time, and machines are noisy. The first failure is printed all the same.
test-cluster:
	@tools/setup test
	@cmake -G Ninja -S . -B $(BUILD)/test -DAGRO_TESTS=ON >/dev/null
	@cmake --build $(BUILD)/test -j $(JOBS) --target agro agroctl agroblock
	@ctest --test-dir $(BUILD)/test --output-on-failure -L cluster --repeat until-pass:2

# The clients of a real kernel, in a virtual machine; about four minutes, as root. Fetches Debian's kernel, without installing it.
test-guest:
	@tools/setup guest
	@cmake -G Ninja -S . -B $(BUILD)/test -DAGRO_TESTS=ON >/dev/null
	@cmake --build $(BUILD)/test -j $(JOBS) --target agro agroctl agroblock agrocsi
	@ctest --test-dir $(BUILD)/test --output-on-failure -L guest --repeat until-pass:2

# Random seeds of the simulator (docs/internals/simulation.md) on all cores for MINUTES; failing ones and their traces stay in
# build/sim-failures.
sim:
	@tools/setup test
	@cmake -G Ninja -S . -B $(BUILD)/test -DAGRO_TESTS=ON >/dev/null
	@cmake --build $(BUILD)/test -j $(JOBS) --target agro-sim
	@$(BUILD)/test/bin/agro-sim --minutes $(MINUTES) --jobs $(JOBS) --out $(BUILD)/sim-failures

# Unit tests and SEEDS seeds of the simulator under AddressSanitizer and UBSan, built by clang, which also flags dropped co_await
# results.
asan: asan-build
	@$(FIXED_ADDRESSES) ctest --test-dir $(BUILD)/asan --output-on-failure -j $(JOBS) -E '^(integration|cluster|guest|sim|kubernetes)\.|^docs\.commands'
	@$(FIXED_ADDRESSES) $(BUILD)/asan/bin/agro-sim --seeds $(SEEDS) --ticks 100 --jobs $(JOBS) --out $(BUILD)/sim-failures

# The libFuzzer programs are part of this build.
asan-build:
	@tools/setup test
	@cmake --preset asan -B $(BUILD)/asan >/dev/null
	@cmake --build $(BUILD)/asan -j $(JOBS) --target unit_tests fuzzers agro-sim

# The tests of what has more threads than its loop, under ThreadSanitizer. Those over real connections one at a time: a peer that is
# silent for three seconds is given up.
TSAN_CTEST = TSAN_OPTIONS="suppressions=$(CURDIR)/tools/tsan.supp" $(FIXED_ADDRESSES) ctest --test-dir $(BUILD)/tsan --output-on-failure
tsan: tsan-build
	@$(TSAN_CTEST) -j $(JOBS) -R "^(base|storage|metadata|internal_http)\\.|^internal_nbd\\.Spread"
	@$(TSAN_CTEST) -R "^distributor_grpc\\."

tsan-build:
	@tools/setup test
	@cmake --preset tsan -B $(BUILD)/tsan >/dev/null
	@cmake --build $(BUILD)/tsan -j $(JOBS) --target threaded_tests

# Known failings, one at a time: the simulator must notice each within 500 seeds (docs/internals/mutants.md).
mutants:
	@tools/setup test
	@cmake -G Ninja -S . -B $(BUILD)/mutants -DAGRO_MUTANTS=ON -DAGRO_TESTS=OFF >/dev/null
	@cmake --build $(BUILD)/mutants -j $(JOBS) --target agro-sim
	@tools/mutants $(BUILD)/mutants/bin/agro-sim --jobs $(JOBS)

# Every fuzzer for SECONDS with libFuzzer, from the corpora in fuzz/corpus.
fuzz:
	@tools/setup test
	@cmake --preset fuzz -B $(BUILD)/asan >/dev/null
	@cmake --build $(BUILD)/asan -j $(JOBS) --target fuzzers
	@$(FIXED_ADDRESSES) tools/fuzz $(BUILD)/asan/fuzz $(SECONDS) $(JOBS)

# Which lines the unit tests and the simulator run, by package; fails when one is below 90 %.
coverage:
	@tools/setup test
	@cmake --preset coverage -B $(BUILD)/coverage >/dev/null
	@cmake --build $(BUILD)/coverage -j $(JOBS) --target unit_tests agro-sim
	@tools/coverage $(BUILD)/coverage --jobs $(JOBS)

# The kill, stop and partition scenarios in a loop with new seeds for MINUTES, as root; logs of failures stay in build/soak.
soak:
	@tools/setup test
	@cmake -G Ninja -S . -B $(BUILD)/test -DAGRO_TESTS=ON >/dev/null
	@cmake --build $(BUILD)/test -j $(JOBS) --target agro agroctl agroblock
	@tools/soak $(BUILD)/test/bin $(MINUTES) $(BUILD)/soak

# Microbenchmarks and the seven NBD workloads.
bench:
	@tools/setup bench
	@cmake -G Ninja -S . -B $(BUILD)/bench -DAGRO_TESTS=OFF -DAGRO_BENCH=ON >/dev/null
	@cmake --build $(BUILD)/bench -j $(JOBS)
	@tools/bench $(BUILD)/bench

# Cost that stays flat, and what one operation costs (docs/performance.md): some 15 minutes; needs root for perf.
bench-flat:
	@tools/setup bench
	@cmake -G Ninja -S . -B $(BUILD)/bench -DAGRO_TESTS=OFF -DAGRO_BENCH=ON >/dev/null
	@cmake --build $(BUILD)/bench -j $(JOBS)
	@bench/op_counts.py $(BUILD)/bench/bin
	@bench/flat_cost.py $(BUILD)/bench/bin
	@$(BUILD)/bench/bench/block_bench --benchmark_filter='bm_extent_map|bm_open|bm_flush'

clean:
	rm -rf $(BUILD)
