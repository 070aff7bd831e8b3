# Hinterland's two commands are `make demo` and `make test`. Everything else serves them.

CARGO ?= cargo
SEEDS ?= 2000
SECONDS ?= 60
export CARGO_TERM_COLOR ?= auto
# Always the same packages, so that all targets share what was built.
RELEASE = $(CARGO) build --release -p hub -p edge-agent -p file-classifier -p tests
TARGET = $${CARGO_TARGET_DIR:-target}
BUILT = $(TARGET)/release

.PHONY: help agent demo test check bench sim fuzz mutants install-test-needs format

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

agent: ## Build the agent as it is installed: for size, in target/node
	deploy/build-agent.sh

demo: ## Run the main job on this machine; KEEP=1 leaves it running, RUNTIME=cri has pods as containers
	$(if $(filter cri,$(RUNTIME)),tests/install.sh containers)
	$(RELEASE) --bin hub --bin edge-agent --bin file-classifier --bin demo
	KEEP=$(KEEP) RUNTIME=$(RUNTIME) $(BUILT)/demo

test: install-test-needs ## Install what the tests need and run them all
	tests/run.sh

check: ## Format, lints, the pure core without tokio, advisories, documents
	tests/check.sh

bench: agent ## Print every figure as `figure: NAME VALUE UNIT`
	$(RELEASE) --bins
	install $(TARGET)/node/edge-agent $(BUILT)/edge-agent
	$(BUILT)/bench

sim: ## Run the simulated world: SEEDS=n many seeds, or SEED=x one with its event log
	$(RELEASE) --bin sim
	$(BUILT)/sim $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

fuzz: install-test-needs ## Fuzz each decoder for SECONDS=60, or one: TARGET=name
	tests/fuzz/fuzz.sh run $(SECONDS) $(TARGET)

# Status 3: some mutants were noticed only because a test never ended.
mutants: ## Mutate the pure cores and see that the tests notice
	command -v cargo-mutants >/dev/null || $(CARGO) install cargo-mutants --version 27.1.0 --locked
	PROPTEST_MAX_SHRINK_ITERS=0 $(CARGO) mutants --output target || [ $$? -eq 3 ]

install-test-needs:
	tests/install.sh

format: ## Format everything
	$(CARGO) fmt --all
