# SPDX-License-Identifier: Apache-2.0
#
# `make help` lists the targets. V=1 shows the commands, NO_DEPS=1 installs nothing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

Q := $(if $(V),,@)
say = @printf '  %-8s %s\n' $(1) "$(2)"

PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
SWIFT ?= swift
# What to run: a regular expression for `make test`, names for `make test-apps` and `make test-suites`. Empty runs everything.
FILTER ?=
SWIFT_BUILD := $(SWIFT) build $(if $(V),,--quiet)
# $(call quietly,COMMAND) shows the command's output only with V=1 or if the command fails.
quietly = $(if $(V),$(1),output=$$($(1) 2>&1) || { printf '%s\n' "$$output" >&2; exit 1; })
# For this project's modules; SwiftPM compiles those of dependencies without warnings.
STRICT := -Xswiftc -warnings-as-errors

# The Swift runtime is inside, no library is looked for in the program's directory, and all symbols are bound at the start.
RELEASE := -c release --static-swift-stdlib --disable-local-rpath -Xlinker -s -Xlinker -z -Xlinker now

# Under sudo, root builds as the user who called sudo, so that .build stays theirs. The tests still run as root.
ROOT := $(filter 0,$(shell id -u))
INVOKER := $(if $(ROOT),$(filter-out root,$(SUDO_USER)))
BUILDER := $(if $(INVOKER),runuser -u $(INVOKER) -- env HOME=$(shell getent passwd $(INVOKER) | cut -d: -f6))
PRIVILEGED := $(if $(ROOT),,sudo env PATH="$$PATH" $(if $(CI),CI=$(CI)))

CONTROLLER := out/vip-bpfctl
MODULE := out/libnss_vip.so.2
OBJECTS := bpf/vip.bpf.o bpf/discover.bpf.o
OBJECT_SOURCES := scripts/object $(wildcard bpf/*.c bpf/*.h)

# The toolchain's clang, unless CC is set.
ifeq ($(origin CC),default)
CC := $(or $(shell scripts/object --compiler),cc)
endif
CFLAGS ?= -O2
# The module is loaded into every process of the host, so it gets a distribution's hardening flags.
MODULE_FLAGS := -std=gnu11 -Wall -Wextra -Werror -fPIC -fvisibility=hidden -fstack-protector-strong \
	-fstack-clash-protection -D_FORTIFY_SOURCE=2 $(if $(filter x86_64,$(shell uname -m)),-fcf-protection) \
	$(if $(filter aarch64,$(shell uname -m)),-mbranch-protection=standard) \
	-shared -Wl,-soname,libnss_vip.so.2 -Wl,--version-script=nss/module.map -Wl,-z,defs -Wl,-z,relro -Wl,-z,now \
	-Wl,-z,noexecstack
# libc looks for its name services in its own directory: lib/x86_64-linux-gnu on Debian, lib64 elsewhere.
LIBDIR ?= $(PREFIX)$(patsubst /usr/%,/%,$(shell dirname "$$(realpath "$$($(CC) -print-file-name=libc.so.6)")"))

# The files that git tracks, and those not added yet, so that a file is checked before its first commit.
sources = $(shell git ls-files --cached --others --exclude-standard --deduplicate -- $(1) | while read -r f; do [ ! -f "$$f" ] || echo "$$f"; done)

.PHONY: all
all: $(CONTROLLER) $(MODULE) ## build the controller and the name service module: out/

.PHONY: $(CONTROLLER)
$(CONTROLLER): deps-build object
	$(call say,SWIFT,$@)
	$(Q)$(call quietly,$(BUILDER) $(SWIFT_BUILD) $(RELEASE) --product vip-bpfctl)
	$(Q)$(BUILDER) install -D "$$($(BUILDER) $(SWIFT) build -c release --show-bin-path)/vip-bpfctl" $@

$(MODULE): $(wildcard nss/*.c nss/*.h) nss/module.map Makefile | deps-build
	$(call say,CC,$@)
	$(Q)$(BUILDER) mkdir -p $(@D)
	$(Q)$(BUILDER) $(CC) $(CFLAGS) $(MODULE_FLAGS) $(LDFLAGS) $(filter %.c,$^) -o $@

.PHONY: deps-%
deps-%:
	$(Q)$(if $(NO_DEPS),:,scripts/dependencies $*)

# The objects are committed, so a toolchain without clang can build the controller.
.PHONY: object
object: $(if $(shell scripts/object --compiler),$(OBJECTS)) ## compile the in-kernel programs where their sources are newer

$(OBJECTS): $(OBJECT_SOURCES) | deps-build
	$(call say,BPF,$@)
	$(Q)$(BUILDER) scripts/object $@

# ---- checks ----

CHECKS := tree layers format shell object warnings
.PHONY: check $(CHECKS:%=check-%)
check: $(CHECKS:%=check-%) ## formatting, lint, object drift, warnings as errors

check-tree:
	$(call say,CHECK,tracked files and licence headers)
	$(Q)scripts/check-tree

check-layers: deps-check
	$(call say,CHECK,imports between modules)
	$(Q)scripts/check-layers

check-format: deps-check
	$(call say,CHECK,formatting)
	$(Q)$(SWIFT) format lint --strict --parallel $(call sources,'*.swift')
	$(Q)clang-format --dry-run -Werror $(call sources,'*.c' '*.h')

check-shell: deps-check
	$(call say,CHECK,shell scripts)
	$(Q)shellcheck $(shell grep -lE '^#!.*[/ ](ba)?sh$$' $(call sources,scripts .ci Tests Benchmarks packaging debian '*.sh'))

check-object: deps-build
	$(call say,CHECK,$(OBJECTS) against their sources)
	$(Q)for object in $(OBJECTS); do scripts/object --check $$object; done

# Compiles each C file by itself with the host's clang, because SwiftPM has no flag for warnings in C.
check-warnings: deps-check
	$(call say,CHECK,warnings)
	$(Q)for file in $(call sources,'Sources/*.c' 'Tests/*.c' 'Benchmarks/*.c' 'nss/*.c'); do \
		"$$(scripts/object --compiler)" -fsyntax-only -Wall -Wextra -Werror \
			-Ibpf $(patsubst %,-I%,$(wildcard Sources/*/include)) "$$file"; \
	done
	$(Q)$(BUILDER) $(SWIFT_BUILD) --build-tests $(STRICT)

.PHONY: format
format: ## put Swift and C into the form that `check` wants
	$(Q)$(SWIFT) format --in-place --parallel $(call sources,'*.swift')
	$(Q)clang-format -i $(call sources,'*.c' '*.h')

# ---- running ----

.PHONY: test
test: deps-test object $(MODULE) ## every test; those on the kernel as root (FILTER=Contract for some)
	$(call say,SWIFT,tests)
	$(Q)$(BUILDER) $(SWIFT_BUILD) --build-tests $(STRICT)
	$(call say,PYTHON,the schema of the policy against its reader)
	$(Q)scripts/test-schema "$$($(BUILDER) $(SWIFT) build --show-bin-path)/vip-bpfctl"
	$(Q)scripts/fuzz 10
	$(call say,C,tests of the name service module)
	$(Q)scripts/test-nss $(MODULE)
	$(Q)$(PRIVILEGED) $(SWIFT) test --skip-build $(STRICT) $(if $(FILTER),--filter '$(FILTER)')

UNIT := $(subst $() ,|,$(notdir $(wildcard Tests/Unit/*)))
.PHONY: test-unit
test-unit: object ## the tests that need no root, in Tests/Unit
	$(call say,SWIFT,tests of Tests/Unit)
	$(Q)$(BUILDER) $(SWIFT_BUILD) --build-tests $(STRICT)
	$(Q)$(BUILDER) $(SWIFT) test --skip-build $(STRICT) --filter '^($(UNIT))\.'

.PHONY: fuzz
fuzz: deps-test ## the decisions and the hooks, for a bounded time
	$(Q)scripts/fuzz

.PHONY: differential
differential: deps-test $(CONTROLLER) ## random calls in a session and outside of one, compared, for minutes (SEED=N)
	$(Q)VIP_BPFCTL=$(CURDIR)/$(CONTROLLER) $(PRIVILEGED) scripts/differential --seconds 120 --most 20 $(if $(SEED),--seed $(SEED))

.PHONY: bench
bench: deps-test $(CONTROLLER) ## what the hooks cost
	$(Q)scripts/bench

.PHONY: demo
demo: deps-demo $(CONTROLLER) ## two redis servers, one port, one host
	$(Q)VIP_BPFCTL=$(CURDIR)/$(CONTROLLER) scripts/demo

.PHONY: test-apps
test-apps: deps-apps $(CONTROLLER) ## real programs in two sessions, against the same outside (FILTER="redis nginx" for some)
	$(Q)VIP_BPFCTL=$(CURDIR)/$(CONTROLLER) scripts/test-apps $(FILTER)

.PHONY: test-suites
test-suites: deps-suites $(CONTROLLER) ## CPython's and Go's own tests in a session, against the same outside: minutes (FILTER=go)
	$(Q)VIP_BPFCTL=$(CURDIR)/$(CONTROLLER) scripts/test-suites $(FILTER)

.PHONY: test-dhcp
test-dhcp: deps-test ## 64 sessions with leases, through five lease times at Kea and dnsmasq: twelve minutes (LEASES=256)
	$(call say,SWIFT,tests)
	$(Q)$(BUILDER) $(SWIFT_BUILD) --build-tests $(STRICT)
	$(Q)$(PRIVILEGED) env VIP_TEST_DHCP=$(or $(LEASES),64) $(SWIFT) test --skip-build $(STRICT) \
		--filter 'DHCPTests.LongTests|KernelTests.LeaseLongTests'

.PHONY: test-61
test-61: deps-vm $(CONTROLLER) ## two sessions on Debian's stock 6.1 kernel, in QEMU
	$(Q)VIP_BPFCTL=$(CURDIR)/$(CONTROLLER) scripts/test-61

.PHONY: test-vm
test-vm: deps-login deb ## two users log in on Debian 12 with its kernel and systemd, in QEMU; as root, minutes
	$(Q)$(PRIVILEGED) scripts/test-vm

# What scripts/install-files needs to know.
FILES = $(foreach name,CONTROLLER MODULE DESTDIR PREFIX SYSCONFDIR LIBDIR MANDIR UNITDIR PAM_DEFAULT RECORD,$(name)='$($(name))') \
	scripts/install-files
MANDIR ?= $(PREFIX)/share/man

.PHONY: install uninstall
install: ## put the files of packaging/files below DESTDIR: into PREFIX, and the policy into SYSCONFDIR
	$(call say,INSTALL,$(DESTDIR)$(PREFIX))
	$(Q)$(FILES) install

uninstall: ## remove what `make install` put there, with the same PREFIX and DESTDIR; docs/operations.md has what comes first
	$(call say,REMOVE,$(DESTDIR)$(PREFIX))
	$(Q)$(FILES) uninstall

# ---- packages ----

.PHONY: deb rpm
deb: deps-deb $(CONTROLLER) $(MODULE) ## Debian packages: out/deb
	$(call say,DEB,out/deb)
	$(Q)$(BUILDER) scripts/deb

rpm: deps-rpm $(CONTROLLER) $(MODULE) ## RPM packages: out/rpm
	$(call say,RPM,out/rpm)
	$(Q)$(BUILDER) scripts/rpm

.PHONY: test-deb
test-deb: deps-debroot deb ## install, upgrade, remove and purge the Debian packages in a root of their own; as root
	$(Q)$(PRIVILEGED) scripts/test-deb out/deb

.PHONY: clean
clean: ## remove what was built, but for the committed object
	$(Q)rm -rf .build out

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile
