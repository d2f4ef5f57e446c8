# Trainyard. `make help` lists what a person would type.
SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# where Go's own archive goes
export PATH := $(PATH):/usr/local/go/bin
READY := $(VENV)/.ready
# named by what they are built from: another branch, or a fresh checkout, builds nothing anew
TOOLS := .tools/ready-$(shell cat tools/lint/go.mod tools/lint/go.sum tools/lint/*/main.go | sha256sum | head -c 16)
SECRET_TOOLS := $(foreach name,sops gitleaks,.tools/$(name)-$(shell cat tools/$(name)/go.mod tools/$(name)/go.sum | sha256sum | head -c 16))

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## a git push becomes a deployed model that answers, on this machine
	@$(BIN)/yard demo

test: $(READY) $(TOOLS) $(SECRET_TOOLS) ## every test; needs nothing but package installs, and Go
	@$(BIN)/pytest -n auto --ignore=tests/e2e tests

lint: $(READY) $(TOOLS) $(SECRET_TOOLS) ## format, lint, types, generated files, manifests
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@found=$$(gofmt -l tools) && test -z "$$found" || { echo "gofmt -w $$found"; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/shellcheck .ci/run .ci/follow
	@$(BIN)/python -m pipelines.templates.render --check
	@$(BIN)/python -m pipelines.templates.lint
	@$(BIN)/python -m pipelines.templates.validate
	@$(BIN)/python -m pipelines.templates.history
	@$(BIN)/yard secrets check
	@$(BIN)/yard solo support --markdown | diff -u docs/support.md - || { echo "docs/support.md differs: make render"; exit 1; }

render: $(READY) ## write mlops/ and what else is generated
	@$(BIN)/python -m pipelines.templates.render
	@$(BIN)/yard solo support --markdown > docs/support.md

e2e: $(READY) $(SECRET_TOOLS) ## from nothing to a push, on the real Argo; deletes all that Argo has in the cluster that KUBECONFIG names
	@$(BIN)/pytest -p no:cacheprovider -s -v $(E2E) tests/e2e

e2e-report: $(READY) ## docs/e2e.md from the last two runs of `make e2e`
	@$(BIN)/python tests/e2e/e2e_report.py $$(ls .e2e/*.json | tail -2) > docs/e2e.md

up: $(READY) ## on the box, as root: install the platform (docs/install-openeuler.md)
	@$(BIN)/yard up

verify: $(READY) ## is each part of the platform healthy? runs `hello`
	@$(BIN)/yard verify

down: $(READY) ## on the box, as root: remove the platform; asks first
	@$(BIN)/yard down

bench: $(READY) ## speed: the push, a step, serving; each beside its floor
	@$(BIN)/python -m bench

LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-emit-index-url --no-header
LOCK_IMAGE := $(LOCK) --constraints requirements/dev.txt # an image has the versions that were tested
lock: ## resolve the requirements anew, with hashes
	@$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv
	@$(LOCK) --upgrade --all-extras --group dev pyproject.toml -o requirements/dev.txt
	@$(LOCK_IMAGE) pyproject.toml -o requirements/pipelines.txt
	@$(LOCK_IMAGE) --group serving -o requirements/serving.txt
	@$(LOCK_IMAGE) --group storage -o requirements/storage.txt

DOCKER ?= docker
images: ## build the platform's own images; BUILD_ARGS="--build-arg PIP_INDEX_URL" for an index of your own
	@set -e; for folder in pipelines pipelines/serving solo/storage; do \
		name=$$(awk -v key=$${folder##*/}: '$$1 == key {print $$2}' versions.yaml); \
		$(DOCKER) build --quiet $(BUILD_ARGS) --file $$folder/Dockerfile --tag $$name .; \
		$(DOCKER) images $$name; \
	done

# Each has a lock of its own, for their libraries do not go together. The first time takes minutes: sops links every
# cloud's client, the validators link Argo.
tools: $(TOOLS) $(SECRET_TOOLS) ## build what the checks need (Argo's validators, kubeconform, sops, gitleaks); needs Go
GO := command -v go > /dev/null || { echo "Go is missing, which builds the tools: install Go 1.21 or newer (go.dev/dl, or your" \
	"system's package golang); it fetches the version that tools/*/go.mod ask for"; exit 2; }
GO_INSTALL := GOFLAGS="$$GOFLAGS -mod=readonly" CGO_ENABLED=0 GOBIN=$(CURDIR)/.tools/bin \
	go install -buildvcs=false -trimpath -ldflags="-s -w"
$(TOOLS):
	@$(GO)
	@cd tools/lint && $(GO_INSTALL) ./... tool
	@rm -f .tools/ready-* && touch $@
$(SECRET_TOOLS): name = $(firstword $(subst -, ,$(notdir $@)))
$(SECRET_TOOLS):
	@$(GO)
	@cd tools/$(name) && $(GO_INSTALL) tool
	@rm -f .tools/$(name)-* && touch $@

charts: $(READY) $(TOOLS) ## fetch the charts that Applications name; record their digests, and those of upstream's modules
	@$(BIN)/python -m pipelines.templates.upstream

clean: ## forget the environment and solo's state (stop solo first)
	@test ! -x $(BIN)/yard || $(BIN)/yard solo down
	@rm -rf $(VENV) .tools .solo .pytest_cache .mypy_cache .ruff_cache .hypothesis

# uv installs in seconds what pip installs in a minute; both check the hashes
$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV)
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements/dev.txt > $(VENV)/uv.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: help demo test e2e e2e-report lint render up verify down bench lock tools charts images clean
