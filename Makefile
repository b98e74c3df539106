# MailCluster: everything a person types. `make` alone prints this list. Nothing here needs root except what says so.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# npm itself runs with the PATH the user came with: it deletes and rewrites node_modules, where our own node lives.
USER_PATH := $(PATH)
# Node 24 is a pinned development dependency (package "node"): whatever Node the machine has, everything below runs on that one.
export PATH := $(CURDIR)/node_modules/.bin:$(PATH)

SETUP_STAMP := node_modules/.mailcluster-setup
# A list with commas: as an argument of $(or) it would be three.
ZONES ?= west-1,west-2,central-1

.PHONY: help setup demo test e2e image cluster-build cluster-up cluster-install cluster-down cluster-prove model bench bench-large soak lint types fmt docs clean

help: ## Print this list
	@printf 'MailCluster: mail transport with two durable copies before the 250.\n\n'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nOne stage of the tests: node test/run.ts unit   (stages: node test/run.ts --list)\n'

setup: $(SETUP_STAMP) ## Install the pinned npm packages (Node 24 among them) into node_modules, nothing elsewhere

# The stamp is older than the lockfile after a pull that changed it; `npm ci` then starts from an empty node_modules.
$(SETUP_STAMP): package-lock.json .npmrc
	@PATH='$(USER_PATH)'; \
	command -v npm >/dev/null || { echo 'setup: npm is missing. On Debian or Ubuntu: apt-get install nodejs npm' >&2; exit 2; }; \
	echo "setup: npm ci ($$(grep -c '^    "node_modules/' package-lock.json) packages of package-lock.json, into ./node_modules only; npm $$(npm --version), node $$(node --version))"; \
	npm ci --no-audit --no-fund --loglevel=error
	@want="v$$(sed -n 's/^    "node": "\(.*\)",$$/\1/p' package.json)"; got="$$(node --version)"; \
	test "$$got" = "$$want" || { echo "setup: node_modules/.bin/node is $$got, wanted $$want: did npm run install scripts (npm config get ignore-scripts)?" >&2; exit 2; }; \
	echo "setup: ready, node $$got"
	@touch $@

demo: setup ## Two sites, four transports, two front ends on this machine: send, kill, count (about a minute)
	@node examples/demo.ts

test: setup ## Everything: tidy, types, lint, unit, contract, dialog, scenario, model, simulator, process, api, cluster
	@node test/run.ts

e2e: setup ## As root: the whole cluster suite on three real kubelets (half an hour), and cert-manager; its short list is stage cluster of make test
	@test/cluster/build.sh --stage all
	@test/cluster/build.sh --stage cert-manager
	@node node_modules/vitest/vitest.mjs run --project api test/e2e/api/
	@node node_modules/vitest/vitest.mjs run --project cluster test/e2e/ --no-file-parallelism

image: setup ## The container image as an OCI archive in .state/image, without daemon, registry or network; prints size and digest
	@node --disable-warning=ExperimentalWarning charts/image/main.ts $(if $(OUT),--out $(OUT)) $(if $(REFERENCE),--reference $(REFERENCE))

cluster-build: ## Build the programs of the test cluster from Go modules into ~/.cache/mailcluster (minutes, once)
	@test/cluster/build.sh

cluster-up: setup ## As root: a real Kubernetes of three nodes on this machine; prints KUBECONFIG: make cluster-up NODES=2
	@test/cluster/up.sh --zones $(ZONES) $(if $(NODES),--nodes $(NODES))

cluster-install: setup ## As root: MailCluster on that cluster: image, operator, examples/two-site-dag.yaml, first mail
	@test/cluster/install.sh

cluster-down: ## As root: end that cluster and remove everything it made
	@test/cluster/down.sh

cluster-prove: setup ## As root: such a cluster up, 24 proofs by use, down, nothing left behind (minutes)
	@test/cluster/prove.sh

model: setup ## The protocol in Promela and its known-wrong variants, checked by spin: make model MODEL=intake
	@node test/model/run.ts $(MODEL)

bench: setup ## Accept rates side by side with Postfix, as root on a quiet machine: make bench ROUNDS=5 SCALE=0.1
	@node test/bench/accept.ts --rounds $(or $(ROUNDS),3) --scale $(or $(SCALE),1) $(BENCH)

bench-large: setup ## One of queued, takeover, resubmit, idle, operator (docs/performance.md): make bench-large BENCH=takeover ARGS='--scale 0.1'
	@node test/bench/$(or $(BENCH),queued).ts $(ARGS)

soak: setup ## The simulator for hours: make soak SEEDS=1000000
	@node test/run.ts --soak $(or $(SEEDS),1000000)

soak-process: setup ## Real processes: disks destroyed, networks cut, as often as said: make soak-process ROUNDS=100 SEED=1
	@MAILCLUSTER_ROUNDS=$(or $(ROUNDS),100) $(if $(SEED),MAILCLUSTER_SEED=$(SEED)) node node_modules/vitest/vitest.mjs run --no-file-parallelism \
		test/process/takeover.test.ts test/process/partition.test.ts

lint: setup ## Biome: lint and formatting
	@biome check --error-on-warnings .

types: setup ## TypeScript: check types
	@tsc -p . --noEmit

fmt: setup ## Biome: format and apply safe fixes
	@biome check --write .

docs: setup ## Write the generated documents and sections again
	@node test/house/generate.ts --write

clean: ## Remove node_modules and what runs left in .state
	rm -rf node_modules .state coverage
