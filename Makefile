# SPDX-License-Identifier: MIT
#
#   make            blobs, library, command-line tool, into build/
#   make plugin     the CRIU plugin, or what it takes (a part of `make`, where CRIU's header is)
#   make blobs      the blobs of every architecture whose cross compiler is there
#   make check      installs what the tests need, builds, runs them all (SAN=1: host side under ASan and UBSan)
#   make check-qemu a part of it: Debian's kernels under QEMU (KERNELS='6.1 6.12' ARCHES=aarch64: some of them)
#   make check-criu a part of it: checkpoints made by CRIU, with the plugin and without
#   make faults     a part of it, whole: at each of its system calls the tool is killed, or the call fails in each way that
#                   it can (make check: at some of them)
#   make analyse    a part of it, and more: what gcc, cppcheck and clang-tidy find in the sources is an error
#   make proofs     a part of it, whole: what CBMC proves of the arithmetic on rings and on what others have written
#   make coverage   which lines of the library, the tool and the plugin its own tests run (docs/coverage.md)
#   make fuzz       whatever is read that an enemy may have written, fuzzed (FUZZ_SECONDS=600 for each target)
#   make demo       the whole thing, shown
#   make soak       real programs, staged and restored while they work (ROUNDS=300 PROGRAMS='fio qemu': so many, these)
#   make soak-qemu  fio in the same way, in an emulated aarch64 machine
#   make bench      what stage and restore cost, beside the least that any way could cost; into build/bench.json and build/bench.svg too
#   make install    all that is there, under PREFIX (/usr/local), inside DESTDIR; make uninstall
#   make dist       the source as a release, build/aio-restorer-VERSION.tar.gz
#   make format     lays the sources out
#   make clean
#
# V=1 shows each command. CC chooses the host compiler (gcc or clang); blobs are compiled by gcc,
# whose call graphs give their stack bounds.

CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif

VERSION := 0.1.0
SONAME := libaio-restorer.so.0

BUILD := $(if $(SAN),build/san,$(if $(COVERAGE),build/coverage,build))
Q := $(if $(V),,@)

# Where criu/criu-plugin.h may be, besides where the compiler looks: `make check` fetches one.
CRIU_INCLUDE ?= $(BUILD)/criu/include

WARN := -Wall -Wextra -Werror
CFLAGS ?= -O2 -g
SANITIZERS := -fsanitize=address -fsanitize=undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# What is linked with the library, too; a coverage build counts which lines run, and says so at _exit().
SANFLAGS := $(if $(SAN),$(SANITIZERS))$(if $(COVERAGE),--coverage -fprofile-update=atomic -include tests/coverage.h)
CPPFLAGS_COMMON := -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DAIOR_VERSION='"$(VERSION)"' -Ipie -Iarch -Iloader -I$(BUILD) $(addprefix -idirafter ,$(CRIU_INCLUDE))
CFLAGS_COMMON := -std=gnu11 $(CFLAGS) $(WARN)

BLOB_CFLAGS := -std=gnu11 -Oz $(WARN) -ffreestanding -fno-builtin -fpie -fvisibility=hidden \
	-fno-stack-protector -fno-asynchronous-unwind-tables -fno-unwind-tables -fno-jump-tables \
	-fno-tree-loop-distribute-patterns -falign-functions=1 -fcallgraph-info=su
BLOB_LDFLAGS := -pie --no-dynamic-linker -z text --fatal-warnings --build-id=none -T pie/blob.lds

# ---- architectures ----

# Each folder in arch/ adds its own to KNOWN_ARCHES, and says what it takes to build for them.
KNOWN_ARCHES :=
include $(sort $(wildcard arch/*/arch.mk))

# The machine that all this is built on, for which the host side is built.
MACHINE := $(shell uname -m)
HOST_ARCH := $(firstword $(foreach a,$(KNOWN_ARCHES),$(if $(filter $(MACHINE),$($(a).machines)),$(a))))
ifeq ($(HOST_ARCH),)
$(error aio-restorer does not know the machine $(MACHINE); it knows: $(KNOWN_ARCHES))
endif
$(HOST_ARCH).prefix :=

# Its own blobs are always built. The others are if their compiler is there.
missing = $(strip $(foreach p,$($(1).prefix)gcc $($(1).needs),$(if $(shell command -v $(p)),,$(p))))
BLOB_ARCHES := $(foreach a,$(KNOWN_ARCHES),$(if $(filter $(HOST_ARCH),$(a)),$(a),$(if $(call missing,$(a)),,$(a))))
NO_BLOBS := $(filter-out $(BLOB_ARCHES),$(KNOWN_ARCHES))

OPS := restore stage run
BLOBS := $(foreach a,$(BLOB_ARCHES),$(foreach o,$(OPS),$(BUILD)/blob-$(o)-$(a).bin))

LIB_SRCS := pie/emit.c pie/contract.c pie/languages.c pie/object.c pie/headers.c pie/names.c \
	$(addprefix loader/,error.c proc.c rights.c capsule.c self.c stop.c tracee.c capture.c image.c live.c dump.c memory.c host.c run.c blobs.c calls.c fence.c inject.c parked.c journal.c report.c others.c candidates.c staging.c stage.c restore.c samples.c grow.c compact.c)

# The readers of images, where what they take is there; the command line does without. READERS= leaves all out.
compiles = $(shell $(CC) $(CPPFLAGS) -include $(1) -fsyntax-only -x c /dev/null 2>/dev/null && echo yes)
READERS ?= $(if $(call compiles,gelf.h),core) $(and $(call compiles,protobuf-c/protobuf-c.h),$(shell command -v protoc-c),criu)
READERS := $(strip $(READERS))
core.what := ELF cores as input
core.needs := libelf (gelf.h)
core.libs := -lelf
criu.what := CRIU images as input
criu.needs := libprotobuf-c (protobuf-c.h) and protoc-c
criu.libs := -lprotobuf-c
criu.objs := criu.pb-c.o
NO_READERS := $(filter-out $(READERS),core criu)
CPPFLAGS_COMMON += -DAIOR_READS_CORE=$(if $(filter core,$(READERS)),1,0) -DAIOR_READS_CRIU=$(if $(filter criu,$(READERS)),1,0)

IMAGE_SRCS := $(addprefix loader/,images.c file.c $(READERS:%=%.c))
IMAGE_OBJS := $(IMAGE_SRCS:%.c=%.o) $(foreach r,$(READERS),$($(r).objs))
IMAGE_LIBS := $(foreach r,$(READERS),$($(r).libs))
CLI_OBJS := loader/main.o loader/show.o $(IMAGE_OBJS)

# The CRIU plugin, where CRIU's header is.
CRIU_HEADER := $(firstword $(wildcard $(addsuffix /criu/criu-plugin.h,/usr/include /usr/local/include $(CRIU_INCLUDE))))
PLUGIN := $(if $(SAN),,$(if $(CRIU_HEADER),$(BUILD)/aio_restorer.so))

.PHONY: all blobs blobs-said readers-said plugin tests check check-qemu check-criu faults fuzz analyse proofs coverage count-coverage cbmc criu run-tests soak soak-qemu demo bench format clean
.PRECIOUS: %.o %.elf
.DELETE_ON_ERROR:

all: $(BUILD)/aio-restorer $(BUILD)/libaio-restorer.a $(BUILD)/libaio-restorer.so $(PLUGIN) blobs readers-said
	@:

blobs: $(BLOBS) blobs-said
	@:

blobs-said:
	@$(if $(NO_BLOBS),echo 'no blobs for $(NO_BLOBS): missing $(sort $(foreach a,$(NO_BLOBS),$(call missing,$(a)))) (make check installs what it can)' >&2,:)

readers-said:
	@:$(foreach r,$(NO_READERS),; echo 'no $($(r).what): missing $($(r).needs)' >&2)

# ---- blobs ----

define blob_rules
$(BUILD)/$(1)/%.o: pie/%.c $(wildcard pie/*.h) $(wildcard $($(1).dir)/*.h) Makefile $($(1).dir)/arch.mk
	$$(Q)mkdir -p $$(@D)
	$$(Q)$($(1).prefix)gcc $(BLOB_CFLAGS) $($(1).cflags) -Ipie -I$($(1).dir) -c -o $$@ $$<

$(BUILD)/$(1)/%.o: $($(1).dir)/%-$(1).$($(1).asm) Makefile $($(1).dir)/arch.mk
	$$(Q)mkdir -p $$(@D)
	$$(Q)$$($(1).as)

$(BUILD)/$(1)/restore.elf: $(BUILD)/$(1)/restore.o $(BUILD)/$(1)/entry.o
$(BUILD)/$(1)/stage.elf: $(BUILD)/$(1)/stage.o $(BUILD)/$(1)/drain.o $(BUILD)/$(1)/entry.o
$(BUILD)/$(1)/run.elf: $(BUILD)/$(1)/run.o $(BUILD)/$(1)/entry.o $(BUILD)/$(1)/start.o
$(BUILD)/$(1)/%.elf: pie/blob.lds
	$$(Q)$($(1).prefix)ld $($(1).ldflags) $(BLOB_LDFLAGS) -o $$@ $$(filter %.o,$$^)

$(BUILD)/blob-run-$(1).bin: $(BUILD)/$(1)/run.elf $(BUILD)/blob-restore-$(1).bin $(BUILD)/mkblob
	$$(Q)$(BUILD)/mkblob -g $$(<:.elf=.ci) -c $(BUILD)/blob-restore-$(1).bin -o $$@ $$<
$(BUILD)/blob-%-$(1).bin: $(BUILD)/$(1)/%.elf $(BUILD)/mkblob
	$$(Q)$(BUILD)/mkblob -g $$(<:.elf=.ci) -o $$@ $$<
endef
$(foreach a,$(BLOB_ARCHES),$(eval $(call blob_rules,$(a))))

MKBLOB_SRCS := $(addprefix pie/,mkblob.c callgraph.c emit.c contract.c languages.c object.c headers.c names.c)
$(BUILD)/mkblob: $(MKBLOB_SRCS:%.c=$(BUILD)/%.o)
	$(Q)$(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^

# The blobs, as data of the library. Made again when others can be built than before.
$(BUILD)/blobs.inc: $(BLOBS) Makefile $(if $(filter-out $(shell cat $(BUILD)/blobs.list 2>/dev/null),$(BLOBS)),FORCE)
	$(Q){ for blob in $(BLOBS); do echo '{{'; od -An -v -tu1 $$blob | sed 's/ *\([0-9]\+\)/\1,/g'; echo '}},'; done; } > $@
	$(Q)echo '$(BLOBS)' > $(BUILD)/blobs.list
FORCE:

# ---- the host side ----

# Written when other images can be read than before.
$(BUILD)/readers.list: $(if $(filter-out x$(shell cat $(BUILD)/readers.list 2>/dev/null)x,x$(READERS)x),FORCE)
	$(Q)mkdir -p $(@D) && echo '$(READERS)' > $@

# What criu.proto says, as C.
$(BUILD)/criu.pb-c.c $(BUILD)/criu.pb-c.h &: loader/criu.proto
	$(Q)mkdir -p $(@D)
	$(Q)protoc-c --proto_path=loader --c_out=$(BUILD) $<

# $(1) its architecture, $(2) the folder, $(3) the compiler, $(4) flags, $(5) what is linked with it
define host_rules
$(2)_objs := $(LIB_SRCS:%.c=$(2)/%.o) $(patsubst %.c,$(2)/%.o,$($(1).srcs))
$(2)/%.o: %.c Makefile
	$$(Q)mkdir -p $$(@D)
	$$(Q)$(3) $(CPPFLAGS_COMMON) -I$($(1).dir) -DBLOB_DIR='"$(BUILD)"' -DBLOB_ARCH='"$(1)"' \
		$(CPPFLAGS) $(CFLAGS_COMMON) $(4) -fPIC -fvisibility=hidden -MMD -MP -c -o $$@ $$<

$(2)/loader/blobs.o: $(BUILD)/blobs.inc
$(2)/loader/self.o: $(BUILD)/blob-stage-$(1).bin $(BUILD)/blob-restore-$(1).bin

$(2)/libaio-restorer.a: $$($(2)_objs)
	$$(Q)rm -f $$@ && ar rcD $$@ $$^

$(2)/loader/images.o $(2)/aio-restorer: $(BUILD)/readers.list
$(2)/loader/criu.o: $(BUILD)/criu.pb-c.h
$(2)/criu.pb-c.o: $(BUILD)/criu.pb-c.c
	$$(Q)mkdir -p $$(@D)
	$$(Q)$(3) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) $(4) -fPIC -c -o $$@ $$<

$(2)/aio-restorer: $(CLI_OBJS:%=$(2)/%) $(2)/libaio-restorer.a
	$$(Q)$(3) $(4) $(LDFLAGS) -o $$@ $$(filter %.o %.a,$$^) $(5)

$(2)/aio_restorer.so: $(2)/loader/criu-plugin.o $(2)/libaio-restorer.a
	$$(Q)$(3) $(if $(COVERAGE),--coverage) $(LDFLAGS) -shared -Wl,-Bsymbolic,--exclude-libs,ALL -o $$@ $$^
endef
$(eval $(call host_rules,$(HOST_ARCH),$(BUILD),$(CC),$(SANFLAGS),$(IMAGE_LIBS)))

$(BUILD)/libaio-restorer.so: $($(BUILD)_objs) dist/libaio-restorer.map
	$(Q)$(CC) $(SANFLAGS) $(LDFLAGS) -shared -Wl,-soname,$(SONAME),--version-script=dist/libaio-restorer.map -o $@ $(filter %.o,$^)

# (Nobody who has no CRIU is bothered with it.)
plugin: $(PLUGIN)
	@$(if $(PLUGIN),:,echo 'no CRIU plugin: missing criu/criu-plugin.h (libcriu-dev of Debian sid; make check fetches it)' >&2)

include dist/install.mk

# ---- tests ----

include tests/tests.mk
include tests/cli.mk
include tests/guest.mk
include tests/fuzz.mk
SCRIPT_TESTS += tests/style.t tests/install.t tests/library-abi.t tests/examples.t tests/dist.t tests/docs.t tests/manual.t tests/debian.t tests/demo.t tests/bench.t

export BUILD CC

tests: all $(C_TESTS) $(CLI_FIXTURES) $(addprefix $(BUILD)/tests/,demo bench bench-live)
	@:

# The kernels that `make check-qemu` boots: all that tests/fetch.sh knows, or a part of them.
KERNELS :=
ARCHES :=

# As many compilers as CPUs, unless the caller has said how many.
JOBS = $(if $(findstring j,$(firstword -$(MAKEFLAGS))),,-j$(shell nproc))

# What is installed, or fetched, decides what can be built: so each step is a make of its own. Boots run
# beside each other; all else watches fs.aio-nr, which is the whole system's.
check: setup-check
	$(Q)$(MAKE) --no-print-directory $(JOBS) guest-libs criu cbmc
	$(Q)$(MAKE) --no-print-directory $(JOBS) tests
	$(Q)$(MAKE) --no-print-directory $(JOBS) guests
	$(Q)$(MAKE) --no-print-directory run-tests

check-qemu: setup-check
	$(Q)$(MAKE) --no-print-directory $(JOBS) guest-libs all
	$(Q)$(MAKE) --no-print-directory $(JOBS) guests
	$(Q)boots=$$(tests/fetch.sh list "$(KERNELS)" "$(ARCHES)") && \
		tests/harness.pl -j 2 $$(echo "$$boots" | sed 's/\(.*\) \(.*\)/qemu:\1:\2/')

check-criu: setup-check
	$(Q)$(MAKE) --no-print-directory criu
	$(Q)$(MAKE) --no-print-directory $(JOBS) tests
	$(Q)tests/harness.pl $(CRIU_TESTS)

faults: setup-check
	$(Q)$(MAKE) --no-print-directory $(JOBS) tests
	$(Q)FAULTS=all tests/harness.pl $(FAULT_TESTS)

analyse: setup-analyse
	$(Q)$(MAKE) --no-print-directory criu
	$(Q)$(MAKE) --no-print-directory $(JOBS) all
	$(Q)ANALYSE=all tests/harness.pl tests/analyse.t

proofs: setup-check
	$(Q)$(MAKE) --no-print-directory cbmc
	$(Q)PROOFS=all tests/harness.pl tests/proofs.t

# Without those that are about how the sources are built, or boot kernels, and without the one that kills the tool at any
# moment, as what counts the lines is killed then, too.
COVERAGE_TESTS := $(SELF_TESTS:%=$(BUILD)/tests/%.t) $(LIVE_TESTS:%=$(BUILD)/tests/%.t) $(BUILD)/tests/process.t $(BUILD)/tests/threads.t \
	$(filter-out tests/host-dies.t tests/criu-beside-plain.t 'tests/soak.t,$(filter %.t,$(CLI_TESTS)))

coverage: setup-check
	$(Q)$(MAKE) --no-print-directory COVERAGE=1 criu
	$(Q)$(MAKE) --no-print-directory $(JOBS) COVERAGE=1 CFLAGS='-O0 -g' tests
	$(Q)$(MAKE) --no-print-directory COVERAGE=1 CFLAGS='-O0 -g' count-coverage
count-coverage:
	$(Q)tests/coverage.sh $(COVERAGE_TESTS)

# CBMC in the same way as CRIU, which follows.
cbmc:
	$(Q)mkdir -p $(BUILD)
	$(Q)if root=$$(tests/fetch.sh cbmc $(HOST_ARCH) 2>$(BUILD)/cbmc.missing); then \
		ln -sfn "$$root" $(BUILD)/cbmc; rm -f $(BUILD)/cbmc.missing; fi

fuzz: setup-fuzz
	$(Q)$(MAKE) --no-print-directory $(JOBS) fuzzers
	$(Q)tests/fuzz.sh $(FUZZ_SECONDS) $(if $(HAS_FUZZER),$(FUZZ_TARGETS)) blob

# CRIU as Debian's newest release has it, with the header for plugins, leads to a cache like the guests' libraries.
criu:
	$(Q)mkdir -p $(BUILD)
	$(Q)if root=$$(tests/fetch.sh criu $(HOST_ARCH) 2>$(BUILD)/criu.missing); then \
		ln -sfn "$$root" $(BUILD)/criu; rm -f $(BUILD)/criu.missing; fi

# Between others of the same architecture, so what differs is tested by those: not all programs are run on them, but in
# `make check-qemu`.
BRIEFLY := 6.1:x86_64 6.12:x86_64 6.1:aarch64 6.12:aarch64 7.2:aarch64

run-tests:
	$(Q)FIO_ROUNDS=8 tests/harness.pl $(C_TESTS) $(LOCAL_TESTS) $(SCRIPT_TESTS) $(CLI_TESTS) \
		-j 2 $$(tests/fetch.sh list | sed -e 's/\(.*\) \(.*\)/qemu:\1:\2/' $(BRIEFLY:%=-e 's/^qemu:%$$/&:brief/')) 'tests/qemu/boot.pl 6.1 aarch64 soak fio' 'tests/qemu/boot.pl 6.1 aarch64 soak criu' 'tests/qemu/boot.pl 6.1 x86_64 soak criu' \
		$(foreach k,5.10 6.1 6.12 7.2,'tests/qemu/boot.pl $(k) x86_64 cpus 64 carried ring self') \
		'tests/packages.sh bookworm' 'tests/packages.sh sid'

# Of each form of each program; of those that tests/soak/ knows.
ROUNDS := 100
PROGRAMS :=

soak: setup-check
	$(Q)$(MAKE) --no-print-directory $(JOBS) tests
	$(Q)ROUNDS='$(ROUNDS)' PROGRAMS='$(PROGRAMS)' tests/soak.t

# The same in a guest, for those programs that its system has.
soak-qemu: setup-check
	$(Q)$(MAKE) --no-print-directory $(JOBS) guest-libs all
	$(Q)$(MAKE) --no-print-directory $(JOBS) $(addprefix $(BUILD)/guest/aarch64/,init aio-restorer worker leaver)
	$(Q)ROUNDS='$(ROUNDS)' tests/qemu/boot.pl 6.1 aarch64 soak $(or $(PROGRAMS),fio)

$(BUILD)/tests/demo: tests/demo.c Makefile
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS_COMMON) $(LDFLAGS) -o $@ $< -laio

demo: setup-demo
	$(Q)$(MAKE) --no-print-directory all $(BUILD)/tests/demo
	$(Q)tests/demo.sh

$(BUILD)/tests/bench: tests/bench.c $(wildcard tests/*.h pie/*.h) Makefile
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) -I$($(HOST_ARCH).dir) -Itests -DBLOB_DIR='"$(BUILD)"' -DHOST_ARCH_NAME='"$(HOST_ARCH)"' \
		$(CPPFLAGS) $(CFLAGS_COMMON) $(LDFLAGS) -o $@ $<

$(BUILD)/tests/bench-live: tests/bench-live.c $(BUILD)/libaio-restorer.a Makefile
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) $(SANFLAGS) -pthread $(LDFLAGS) -o $@ $< $(BUILD)/libaio-restorer.a

bench: setup-bench
	$(Q)$(MAKE) --no-print-directory criu
	$(Q)$(MAKE) --no-print-directory $(JOBS) all $(addprefix $(BUILD)/tests/,bench bench-live leaver worker)
	$(Q)tests/bench.pl $(BUILD)/bench.json $(BUILD)/bench.svg

setup-%:
	$(Q)tests/setup.sh $*

format:
	$(Q)clang-format -i $(shell git ls-files '*.c' '*.h')

clean:
	$(Q)rm -rf build

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
