# Penstock. `make demo` and `make test` do the set-up that they need; everything else expects `make setup` once.
SHELL := /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
PENSTOCK := target/release/penstock

.PHONY: help setup build cni image manifests demo test test-cluster test-cluster-all check bench micro-bench fuzz planted-bugs install clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: ## install what is missing (apt); says nothing when nothing is
	@scripts/setup.sh

build: setup ## build the penstock command
	$(CARGO) build --release --locked -p penstock

cni: setup ## build the CNI plugin, linked statically, as target/cni/penstock-cni
	scripts/cni.sh

image: setup ## build the container image as target/penstock-image.tar (needs buildah)
	scripts/image.sh

manifests: ## render deploy/manifests from the Helm chart (needs helm)
	scripts/manifests.sh

demo: build ## ten policies over real connections between pods on this machine (root)
	$(PENSTOCK) demo

test: setup ## all tests, those with namespaces and real traffic included (root)
	scripts/test.sh

test-cluster: ## tests over real pods on a real Kubernetes, built once and started here (root; tests/cluster/README.md)
	scripts/test-cluster.sh

test-cluster-all: ## the same over ptp, bridge and a plugin in the manner of the AWS VPC CNI
	PRIMARIES="ptp bridge vpc" scripts/test-cluster.sh

check: setup ## formatting, lints, documentation, dependencies
	scripts/check.sh

BENCH_FLAGS ?=
bench: setup ## Penstock and its peers side by side, with a report in target/bench/report (root; BENCH_FLAGS=--quick: five minutes)
	$(CARGO) build --release --locked -p penstock -p penstock-bench --bin penstock --bin penstock-bench
	$(CARGO) bench --locked -p penstock-bench --bench journey --bench sync --no-run
	target/release/penstock-bench compare $(BENCH_FLAGS)

micro-bench: setup ## micro-benchmarks
	$(CARGO) bench --locked -p penstock-bench

FUZZ_SECONDS ?= 300
fuzz: setup ## fuzz each target for FUZZ_SECONDS (300)
	scripts/fuzz.sh $(FUZZ_SECONDS)

planted-bugs: setup ## plant classic bugs one by one and show that a test fails for each (about ten minutes)
	scripts/planted-bugs.sh

install: build ## install the penstock command below $(PREFIX)
	install -D -m 0755 $(PENSTOCK) $(DESTDIR)$(PREFIX)/bin/penstock

clean: ## remove what was built
	$(CARGO) clean
