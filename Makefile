export PATH := $(PATH):/usr/sbin:/sbin

# Two commands do everything on a fresh Debian or Ubuntu: `make demo` and `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test host-tools toolchain build fmt clippy unit doc recipes package bench bench-small torture fuzz picture \
	clean install uninstall deb

# The compiler of rust-toolchain.toml may be here under another name, such as stable: then that is it, and rustup does not
# fetch it once more.
PINNED := $(shell sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
ifeq ($(origin RUSTUP_TOOLCHAIN) $(shell cd / && rustc --version 2>/dev/null | cut -d' ' -f2),undefined $(PINNED))
export RUSTUP_TOOLCHAIN := $(shell cd / && rustup show active-toolchain 2>/dev/null | cut -d' ' -f1)
endif

NEXTEST_VERSION := 0.9.143
# Package, and a file that tells whether it is there: what impasto itself needs, and a linker.
HOST_PACKAGES := \
	qemu-utils:/usr/bin/qemu-img \
	qemu-system-common:/usr/bin/qemu-storage-daemon \
	qemu-system-x86:/usr/bin/qemu-system-x86_64 \
	ovmf:/usr/share/OVMF/OVMF_CODE_4M.fd \
	gcc:/usr/bin/gcc \
	libc6-dev:/usr/include/stdlib.h
# What only the tests need: to make small disks and repositories, and to compare.
TEST_PACKAGES := \
	mmdebstrap:/usr/bin/mmdebstrap \
	debian-archive-keyring:/usr/share/keyrings/debian-archive-keyring.gpg \
	mtools:/usr/bin/mcopy \
	openssh-client:/usr/bin/ssh-keygen \
	e2fsprogs:/usr/sbin/mke2fs \
	xfsprogs:/usr/sbin/mkfs.xfs \
	btrfs-progs:/usr/sbin/mkfs.btrfs \
	acl:/usr/bin/setfacl \
	libcap2-bin:/usr/sbin/setcap \
	fdisk:/usr/sbin/sfdisk \
	busybox-static:/bin/busybox \
	dosfstools:/usr/sbin/mkfs.vfat \
	strace:/usr/bin/strace \
	cpio:/usr/bin/cpio \
	git:/usr/bin/git
# Made from one source; across versions they break each other, and apt would rather remove one than change its version.
QEMU_PACKAGES := qemu-utils qemu-system-common qemu-system-x86
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

demo: host-tools build
	$(SUDO) target/release/impasto build recipes/debian-12 --only variant=minimal
	@echo
	@echo 'It boots: target/release/impasto boot out/debian-12-minimal.qcow2 --ssh-key ~/.ssh/id_ed25519.pub'

recipes/tiny/base.qcow2: | host-tools
	recipes/tiny/make-base.sh recipes/tiny

test: ALSO = $(TEST_PACKAGES)
test: host-tools nextest build fmt clippy unit doc recipes package bench-small
	@echo 'make test: everything passed; `make torture` boots Debian under three firmwares, and repeats much more'

toolchain:
	@command -v cargo >/dev/null || { \
		echo 'The Rust toolchain is missing. Install it with'; \
		echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"; exit 1; }

host-tools: toolchain
	@missing=(); \
	for pair in $(HOST_PACKAGES) $(ALSO); do [ -e "$${pair#*:}" ] || missing+=("$${pair%%:*}"); done; \
	if [ $${#missing[@]} -gt 0 ]; then \
		echo "installing $${missing[*]}"; \
		$(SUDO) apt-get update -qq; \
		if [[ " $${missing[*]}" == *" qemu-"* ]]; then \
			version=$$(dpkg-query --show --showformat='$${Version}' qemu-utils 2>/dev/null || true); \
			apt-cache madison qemu-system-x86 | grep -F " $${version:-none} " >/dev/null || \
				version=$$(apt-cache show --no-all-versions qemu-system-x86 | sed -n 's/^Version: //p'); \
			for package in $(QEMU_PACKAGES); do missing+=("$$package=$$version"); done; \
		fi; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends --allow-downgrades "$${missing[@]}"; \
	fi

nextest: toolchain
	@cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest --version $(NEXTEST_VERSION)

build: toolchain
	cargo build --release --locked

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --workspace --all-targets --locked -- -D warnings

unit:
	tests/run.sh 'all()'
	cargo test --workspace --doc --locked --quiet

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --document-private-items

# Every recipe of the repository is valid and formatted.
recipes: build recipes/tiny/base.qcow2
	for recipe in recipes/*/; do target/release/impasto validate "$$recipe"; done
	target/release/impasto fmt --check recipes/*/

# What `make install` and `make deb` do, in a directory that is thrown away.
package: build
	src/package/package.sh check

# As the caller: sudo finds no cargo, and what it builds would be root's.
PREFIX := /usr/local
install:
	@if [ -z "$${SUDO_UID:-}" ]; then $(MAKE) --no-print-directory build; fi
	@src/package/package.sh install '$(DESTDIR)' '$(PREFIX)'

uninstall:
	@src/package/package.sh uninstall '$(DESTDIR)' '$(PREFIX)'

deb: build
	@src/package/package.sh deb target/deb

# Every row, and then the table of them in benches/README.md: all of one commit.
bench: host-tools build
	benches/run.sh || missed=$$?; benches/run.sh --readme; exit $${missed:-0}

# Every row still runs: once, on tiny data.
bench-small: host-tools
	benches/run.sh --small

# Rounds of the tests that are called torture…; those that are not named here do $(TORTURE) times what `make test` does.
TORTURE := 20
TORTURE_COUNTS := KILLS=300 FAULTS=300 SANDBOX_FAULTS=40
torture: ALSO = $(TEST_PACKAGES)
torture: host-tools nextest
	env IMPASTO_TORTURE=$(TORTURE) $(TORTURE_COUNTS:%=IMPASTO_TORTURE_%) \
		tests/run.sh 'test(torture)' --profile torture --test-threads 1

fuzz: ALSO = $(TEST_PACKAGES)
fuzz: host-tools nextest
	tests/fuzz/run.sh

# The README's picture of the live view, out of a run of the demo.
picture: ALSO = $(TEST_PACKAGES)
picture: host-tools
	mkdir -p target/picture
	env IMPASTO_PICTURE=$(CURDIR)/target/picture cargo test --test it -- the_live_view_as_a_picture

clean:
	cargo clean
	rm -rf out
