# Targets of Ksplice. On a fresh Debian 12 machine `make test` and `make demo` install what they need by themselves.

VERSION := $(shell sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' kmod/dkms.conf)
PREFIX  ?= /usr/local
DESTDIR ?=
KERNEL  ?= $(shell uname -r)

# Commands run with the Go that go.mod wants.
GO := .ci/env go

# The plugins' packages: every program below plugins/.
PLUGINS = $(shell $(GO) list -f '{{if eq .Name "main"}}{{.ImportPath}}{{end}}' ./plugins/... | grep -v /internal/)
BUILD   = CGO_ENABLED=0 $(GO) build -trimpath -ldflags="-s -w"

.PHONY: build test demo bench eval road soak ubuntu image-test lint kmod generate install packages clean setup help
.DEFAULT_GOAL := build

build: ## the ksplice command and the stock plugins, in bin/ (the default)
	@mkdir -p bin/plugins
	$(BUILD) -o bin/ksplice ./cmd/ksplice
	$(BUILD) -o bin/plugins/ $(PLUGINS)

test: setup lint ## everything: lint, unit, object and kernel tests; installs what is missing
	@mkdir -p out
	@for s in 6.1 6.12; do $(GO) run ./core/vmtest/vm vmlinux $$s out/vmlinux-$$s || exit; done
	@objects=$$($(GO) run ./core/vmtest/vm modules 6.12)/kernel/net && \
	KSPLICE_TEST_KERNEL=1 KSPLICE_TEST_REQUIRE=1 KSPLICE_TEST_OBJECTS=$$objects KSPLICE_TEST_VMLINUX=$(CURDIR)/out/vmlinux-6.1:$(CURDIR)/out/vmlinux-6.12 \
		.ci/env go tool gotestsum --format pkgname --post-run-command .ci/count -- -timeout 80m ./...

demo: setup build ## a hot update of Debian's newest 6.1 kernel in a virtual machine: old behaviour, new, old again
	@$(GO) run ./examples/demo

bench: setup build ## the benchmarks, those that boot a kernel included
	KSPLICE_TEST_KERNEL=1 $(GO) test -run '^$$' -bench . -p 1 -timeout 60m ./core/... ./plugins/...
	KSPLICE_TEST_KERNEL=1 $(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m ./cmd/ksplice/kerneltest

# CORPUS=DIR, and where wanted KERNEL=RELEASE or a series, REVERSE=1 and LIST="NAME NAME". What has a result already is not done again.
eval: setup build ## every patch of CORPUS=DIR down the whole road: a verdict for each, figures, a page of HTML below out/
	@test -n "$(CORPUS)" || { echo "eval: say where the patches are: make eval CORPUS=DIR" >&2; exit 2; }
	$(GO) run ./cmd/eval -corpus $(abspath $(CORPUS)) $(if $(filter command line,$(origin KERNEL)),-kernel $(KERNEL)) $(if $(REVERSE),-reverse) -list "$(LIST)"

road: setup build ## every example on every kernel (make test takes five), every form of the kernel, 400 units matched, all mutations, real semantic fixes on older kernels
	KSPLICE_TEST_KERNEL=1 KSPLICE_TEST_ALL=1 KSPLICE_TEST_SERIES="$(SERIES)" \
		$(GO) test -count=1 -run "TestRoad|TestForms|TestCreate|TestFreeze|TestScale|TestMutate|TestConstructs|TestFixes|TestCorpus|TestSecureBoot" -v -timeout 180m ./cmd/ksplice/kerneltest
	KSPLICE_TEST_KERNEL=1 KSPLICE_TEST_ALL=1 $(GO) test -count=1 -run TestProjects -v -timeout 60m ./examples

ROUNDS ?= 200
soak: setup build ## ROUNDS (200) rounds of apply and undo under load, on every kernel
	KSPLICE_TEST_KERNEL=1 KSPLICE_TEST_ROUNDS=$(ROUNDS) KSPLICE_TEST_SERIES="$(SERIES)" \
		$(GO) test -count=1 -run TestSoak -v -timeout 180m ./cmd/ksplice/kerneltest

ubuntu: setup build ## backend-ubuntu: builds and packs a small kernel as Ubuntu does, and takes an update from its archive to the booted kernel and back
	KSPLICE_TEST_KERNEL=1 KSPLICE_TEST_UBUNTU=1 $(GO) test -count=1 -run TestUbuntu -v -timeout 90m ./cmd/ksplice/kerneltest

lint: ## gofmt, vet, staticcheck, the logs' arguments, shellcheck, sparse, checkpatch: any finding fails
	@.ci/env .ci/lint

kmod: ## the kernel module for the running kernel, or for KERNEL=RELEASE; needs its linux-headers
	$(MAKE) -C kmod KDIR=/lib/modules/$(KERNEL)/build

generate: ## the generated Go code again (needs protobuf-compiler)
	$(GO) generate ./...

# Where zsh looks for functions: those of packages, and of what is installed by hand.
ZSH = $(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)

install: build ## to PREFIX (/usr/local), plugins below libexec, manual, completions, the kernel module's source for dkms, a systemd unit; honours DESTDIR
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/ksplice/plugins $(DESTDIR)/usr/src/ksplice-$(VERSION)
	install -m 755 bin/ksplice $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(addprefix bin/plugins/,$(notdir $(PLUGINS))) $(DESTDIR)$(PREFIX)/libexec/ksplice/plugins/
	install -m 644 $(filter-out %.mod.c,$(wildcard kmod/*.c)) $(wildcard kmod/*.h kmod/Kbuild kmod/Makefile kmod/dkms.conf) \
		$(DESTDIR)/usr/src/ksplice-$(VERSION)/
	install -d $(DESTDIR)/usr/src/ksplice-$(VERSION)/include $(DESTDIR)$(PREFIX)/lib/systemd/system
	cd $(DESTDIR)/usr/src/ksplice-$(VERSION) && sed -i 's/^\(PACKAGE_VERSION=\|MODULE_VERSION(\)"[^"]*"/\1"$(VERSION)"/' dkms.conf main.c
	install -m 644 kmod/include/*.h $(DESTDIR)/usr/src/ksplice-$(VERSION)/include/
	sed 's|@bindir@|$(PREFIX)/bin|' cmd/ksplice/package/ksplice.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/ksplice.service
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,man/man1 man/man5 bash-completion/completions zsh/$(ZSH) fish/vendor_completions.d)
	rm -rf bin/man && mkdir bin/man && bin/ksplice man --of $(VERSION) bin/man && gzip -9n bin/man/*
	install -m 644 bin/man/*.1.gz $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 644 bin/man/*.5.gz $(DESTDIR)$(PREFIX)/share/man/man5/
	bin/ksplice completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/ksplice
	bin/ksplice completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/$(ZSH)/_ksplice
	bin/ksplice completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/ksplice.fish

image-test: setup ## systems that boot from a disk, with the packages installed, upgraded and purged in one
	KSPLICE_TEST_KERNEL=1 KSPLICE_TEST_ALL=1 $(GO) test -count=1 -run 'TestImage|TestPackages|TestPersist|TestManualInstalled|TestManualFresh' -v -timeout 180m ./core/vmtest ./cmd/ksplice/kerneltest

packages: ## ksplice, ksplice-plugins and ksplice-dkms as .deb and .rpm, in out/packages
	@.ci/env cmd/ksplice/package/build "$(VERSION)" out

clean: ## what the targets above made in this directory; caches stay in ~/.cache/ksplice
	rm -rf bin out
	$(MAKE) -C kmod clean

setup: ## what test and demo need: Debian packages, Go
	@.ci/setup

help: ## this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12
