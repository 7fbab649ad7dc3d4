# SPDX-License-Identifier: MIT
#
#   make            blobs, library, command-line tool, into build/
#   make check      installs what the tests need, builds, runs them all (SAN=1: host side under ASan and UBSan)
#   make demo       the whole thing, shown
#   make format     lays the sources out
#   make clean
#
# V=1 shows each command. CC chooses the host compiler (gcc or clang); blobs are compiled by gcc,
# whose call graphs give their stack bounds.

CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif

BUILD := $(if $(SAN),build/san,build)
Q := $(if $(V),,@)

WARN := -Wall -Wextra -Werror
CFLAGS ?= -O2 -g
SANITIZERS := -fsanitize=address -fsanitize=undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SANFLAGS := $(if $(SAN),$(SANITIZERS))
HOST_CPPFLAGS := -D_GNU_SOURCE -Ipie -Iarch -Iloader -I$(BUILD)
HOST_CFLAGS := -std=gnu11 $(CFLAGS) $(WARN) $(SANFLAGS)

BLOB_CFLAGS := -std=gnu11 -Oz $(WARN) -ffreestanding -fno-builtin -fpie -fvisibility=hidden \
	-fno-stack-protector -fno-asynchronous-unwind-tables -fno-unwind-tables -fno-jump-tables \
	-fno-tree-loop-distribute-patterns -falign-functions=1 -fcallgraph-info=su
BLOB_LDFLAGS := -pie --no-dynamic-linker -z text --fatal-warnings --build-id=none -T pie/blob.lds

BLOB_ARCHES :=
include $(wildcard arch/*/arch.mk)

# The folder of the machine that all this is built on, for what the host side must know of it.
MACHINE := $(shell uname -m)
HOST_ARCH := $(firstword $(foreach a,$(BLOB_ARCHES),$(if $(filter $(MACHINE),$($(a).machines)),$(a))))
ifeq ($(HOST_ARCH),)
$(error aio-restorer does not know the machine $(MACHINE); it knows: $(BLOB_ARCHES))
endif
HOST_CPPFLAGS += -I$($(HOST_ARCH).dir)
$(HOST_ARCH).prefix :=

OPS := restore run
BLOBS := $(foreach a,$(BLOB_ARCHES),$(foreach o,$(OPS),$(BUILD)/blob-$(o)-$(a).bin))

LIB_SRCS := pie/emit.c pie/object.c $(addprefix loader/,error.c proc.c stop.c image.c live.c dump.c host.c run.c blobs.c)
CLI_SRCS := $(addprefix loader/,main.c core.c show.c)
LIB_OBJS := $(LIB_SRCS:%.c=$(BUILD)/%.o)
CLI_OBJS := $(CLI_SRCS:%.c=$(BUILD)/%.o)

.PHONY: all blobs tests check demo format clean
.SECONDARY:
.DELETE_ON_ERROR:

all: $(BUILD)/aio-restorer $(BUILD)/libaio-restorer.a $(BUILD)/libaio-restorer.so $(BLOBS)
	@:

blobs: $(BLOBS)

# ---- blobs, by architecture ----

define blob_rules
$(BUILD)/$(1)/%.o: pie/%.c $(wildcard pie/*.h) $(wildcard $($(1).dir)/*.h) Makefile $($(1).dir)/arch.mk
	$$(Q)mkdir -p $$(@D)
	$$(Q)$($(1).prefix)gcc $(BLOB_CFLAGS) $($(1).cflags) -Ipie -I$($(1).dir) -c -o $$@ $$<

$(BUILD)/$(1)/%.o: $($(1).dir)/%-$(1).$($(1).asm) Makefile
	$$(Q)mkdir -p $$(@D)
	$$(Q)$$($(1).as)

$(BUILD)/$(1)/restore.elf: $(BUILD)/$(1)/restore.o $(BUILD)/$(1)/entry.o
$(BUILD)/$(1)/run.elf: $(BUILD)/$(1)/run.o $(BUILD)/$(1)/entry.o $(BUILD)/$(1)/start.o
$(BUILD)/$(1)/%.elf: pie/blob.lds
	$$(Q)$($(1).prefix)ld $($(1).ldflags) $(BLOB_LDFLAGS) -o $$@ $$(filter %.o,$$^)

$(BUILD)/blob-run-$(1).bin: $(BUILD)/$(1)/run.elf $(BUILD)/blob-restore-$(1).bin $(BUILD)/mkblob
	$$(Q)$(BUILD)/mkblob -g $$(<:.elf=.ci) -c $(BUILD)/blob-restore-$(1).bin -o $$@ $$<
$(BUILD)/blob-%-$(1).bin: $(BUILD)/$(1)/%.elf $(BUILD)/mkblob
	$$(Q)$(BUILD)/mkblob -g $$(<:.elf=.ci) -o $$@ $$<
endef
$(foreach a,$(BLOB_ARCHES),$(eval $(call blob_rules,$(a))))

MKBLOB_SRCS := $(addprefix pie/,mkblob.c callgraph.c emit.c object.c)
$(BUILD)/mkblob: $(MKBLOB_SRCS:%.c=$(BUILD)/%.o)
	$(Q)$(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^

# ---- the host side ----

$(BUILD)/%.o: %.c Makefile
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(HOST_CPPFLAGS) $(CPPFLAGS) $(HOST_CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c -o $@ $<

# The blobs, as data of the library.
$(BUILD)/blobs.inc: $(BLOBS) Makefile
	$(Q){ for blob in $(BLOBS); do echo '{{'; od -An -v -tu1 $$blob | sed 's/ *\([0-9]\+\)/\1,/g'; echo '}},'; done; } > $@
$(BUILD)/loader/blobs.o: $(BUILD)/blobs.inc

$(BUILD)/libaio-restorer.a: $(LIB_OBJS)
	$(Q)rm -f $@ && ar rcD $@ $^

$(BUILD)/libaio-restorer.so: $(LIB_OBJS)
	$(Q)$(CC) $(SANFLAGS) $(LDFLAGS) -shared -Wl,-soname,libaio-restorer.so.0 -o $@ $^

$(BUILD)/aio-restorer: $(CLI_OBJS) $(BUILD)/libaio-restorer.a
	$(Q)$(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^ -lelf

# ---- tests ----

include tests/tests.mk
include tests/cli.mk
SCRIPT_TESTS += tests/style.t tests/demo.t

export BUILD CC

tests: all $(C_TESTS) $(CLI_FIXTURES) $(BUILD)/tests/demo
	@:

# One after the other: they watch fs.aio-nr, which is the whole system's.
check: setup-check
	$(Q)$(MAKE) --no-print-directory tests
	$(Q)tests/harness.pl $(C_TESTS) $(SCRIPT_TESTS) $(CLI_TESTS)

$(BUILD)/tests/demo: tests/demo.c Makefile
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(HOST_CFLAGS) $(LDFLAGS) -o $@ $< -laio

demo: setup-demo
	$(Q)$(MAKE) --no-print-directory all $(BUILD)/tests/demo
	$(Q)tests/demo.sh

setup-%:
	$(Q)tests/setup.sh $*

format:
	$(Q)clang-format -i $(shell git ls-files '*.c' '*.h')

clean:
	$(Q)rm -rf build

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
