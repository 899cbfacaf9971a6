# Development tasks. `make help` lists them.

GO      ?= go
# Packages are tested one after another beside the control plane: two cores.
TESTENV  = $(GO) run ./hack/testenv
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -s -w \
  -X github.com/prometheus/common/version.Version=$(VERSION) \
  -X github.com/prometheus/common/version.Revision=$(shell git rev-parse HEAD 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help build demo test test-short race lint fmt generate bench bench-packages fuzz soak cluster-up cluster-down

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

build: ## build bin/alertmedic, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/alertmedic ./cmd/alertmedic

demo: ## break a real control plane and watch it being healed (ONCE=1 exits, OBSERVE=1 changes nothing)
	$(GO) run ./hack/demo $(if $(ONCE),-once) $(if $(OBSERVE),-observe)

test: ## all tests, on one real control plane and a PostgreSQL (first run: about 15 minutes of building)
	$(TESTENV) -postgres -- $(GO) test -p 2 -timeout 30m ./...

test-short: ## the tests that need no control plane
	$(GO) test -short ./internal/alert/... ./internal/action/... ./internal/journal/... ./internal/guard/... ./internal/config/... ./playbooks/... ./receiver/...

race: ## all tests under the race detector
	$(TESTENV) -postgres -- $(GO) test -race -count 1 -p 2 -timeout 60m ./...

lint: ## go vet, gofmt and golangci-lint with the import rules
	$(GO) vet ./...
	cd hack/tools && $(GO) build -o ../../bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	bin/golangci-lint run ./...

fmt: ## format the code
	gofmt -w $$(git ls-files '*.go')

generate: ## rewrite the generated references: JSON Schema, OpenAPI, CLI
	UPDATE=1 $(GO) test -count=1 -run TestGenerated ./deploy ./playbooks/schema ./internal/config
	$(GO) test -count=1 ./internal/api -run TestOpenAPI -update
	$(GO) test -count=1 ./cmd/alertmedic -run 'TestDocs|TestGolden' -update

bench: ## measure what docs/benchmarks.md promises and write it there, 10 minutes or more (RUN=regex selects and only prints, WRITE=1 writes that too)
	$(GO) run ./hack/bench $(if $(RUN),-run '$(RUN)') $(if $(RUN),$(if $(WRITE),-write docs/benchmarks.md),-write docs/benchmarks.md)

bench-packages: ## benchmarks of the packages
	$(GO) test -run '^$$' -bench . -benchmem ./playbooks ./internal/alert ./internal/store ./receiver

# Counted, not timed: where its time is over, `go test -fuzz` may take the end of its
# own deadline for a failure ("context deadline exceeded", no failing input written).
fuzz: ## fuzz the decoder, the loader and the matcher index, about a minute each
	$(GO) test -run '^$$' -fuzz FuzzDecode -fuzztime 200000x -fuzzminimizetime 10x ./internal/alert
	$(GO) test -run '^$$' -fuzz FuzzLoad -fuzztime 50000x -fuzzminimizetime 10x ./playbooks
	$(GO) test -run '^$$' -fuzz FuzzMatchIndex -fuzztime 75000x -fuzzminimizetime 10x ./playbooks

# The tests that have a long form; internal/soak_test.go compares the list with them.
LONG = TestBackupAndRestoreHoldAFewRows|TestBackupsUnderLoadAreConsistent|TestCrashAtEveryPoint|TestHoldsNoMoreAfterManyAlertsThanAfterTheFirst|TestNoCapIsExceededInAnyStorm|TestSchedulerAgrees|TestStormsOnARealControlPlane|TestTheEngineExceedsNoCap|TestTheModelMissesEachGuard

# The kills run under the race detector in their long form; what else is long runs
# without it, and with it in `make race`: a storm of 10,000 alerts ten times slower
# is another storm, and the deaths at every point are one after another. The storms
# run alone: beside the deaths Alertmanager does not get to answer them.
LONGTEST = ALERTMEDIC_SOAK=1 $(TESTENV) -postgres -- $(GO) test -count 1 -timeout 90m -run '^($(LONG))$$'

soak: ## the long forms, an hour and more: fuzzing, 200 kills on each database with their accounting, storms, leaks, a death at every point
	$(MAKE) fuzz
	ALERTMEDIC_SOAK=1 ALERTMEDIC_SOAK_REPORT=$(CURDIR)/soak-report.txt $(TESTENV) -postgres -- \
	  $(GO) test -race -v -count 1 -timeout 90m -parallel 1 -run TestKill ./internal/durability
	$(LONGTEST) ./internal/app
	$(LONGTEST) -p 2 $$($(GO) list ./internal/... | grep -v /internal/app$$)

cluster-up: ## leave a control plane running and print its kubeconfig and addresses
	$(GO) run ./hack/clusterctl up -monitoring -rules '$(CURDIR)/rules/*.yaml' -webhook http://127.0.0.1:9095/api/v1/webhook

cluster-down: ## stop that control plane
	$(GO) run ./hack/clusterctl down
