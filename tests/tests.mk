# SPDX-License-Identifier: MIT
# The tests: C programs become $(BUILD)/tests/NAME.t, scripts are tests/NAME.t.

# The host's tests of a blob run it, and compare the process's mappings: no sanitizer may map memory
# of its own between. So none of them has one.
BLOB_TESTS := facts waits ring restore failures faults stage stage-failures stage-faults ends abi twins
# These are linked with the library, and with a sanitizer if that is.
SELF_TESTS := self self-failures capsule grow carried compact
# The same, of other processes. (threads has the worker for them, so it is for this host alone.)
LIVE_TESTS := live-waits live-breaks live live-signals live-states live-twins
C_TESTS := $(BLOB_TESTS:%=$(BUILD)/tests/%.t) $(SELF_TESTS:%=$(BUILD)/tests/%.t) $(LIVE_TESTS:%=$(BUILD)/tests/%.t) $(BUILD)/tests/process.t $(BUILD)/tests/threads.t
# Those that let something fail, or end, at each system call: all of it, with FAULTS=all (`make faults`).
FAULT_TESTS := $(BUILD)/tests/faults.t $(BUILD)/tests/stage-faults.t tests/killed.t tests/failing.t tests/struck.t tests/misbehaving.t
SCRIPT_TESTS := tests/refuse.t tests/emit.t tests/analyse.t tests/proofs.t

# $(1) their architecture, $(2) the folder, $(3) the compiler, $(4) flags, $(5) what is linked with them,
# $(6) the folder of the library
define test_rules
$(2)/%.t: tests/%.c $(wildcard tests/*.h pie/*.h) Makefile tests/tests.mk
	$$(Q)mkdir -p $$(@D)
	$$(Q)$(3) $(CPPFLAGS_COMMON) -I$($(1).dir) -Itests -DBLOB_DIR='"$(BUILD)"' -DHOST_ARCH_NAME='"$(1)"' \
		$(CPPFLAGS) $(CFLAGS_COMMON) $(4) -pthread $(LDFLAGS) -o $$@ $$<

$(SELF_TESTS:%=$(2)/%.t) $(LIVE_TESTS:%=$(2)/%.t): $(2)/%.t: tests/%.c $(wildcard tests/*.h pie/*.h loader/*.h) $(6)/libaio-restorer.a Makefile tests/tests.mk
	$$(Q)mkdir -p $$(@D)
	$$(Q)$(3) $(CPPFLAGS_COMMON) -I$($(1).dir) -Itests -DBLOB_DIR='"$(BUILD)"' -DHOST_ARCH_NAME='"$(1)"' \
		$(CPPFLAGS) $(CFLAGS_COMMON) $(4) $(SANFLAGS) -pthread $(LDFLAGS) -o $$@ $$< $(6)/libaio-restorer.a

# A program like any other that uses libaio.
$(2)/leaver: tests/leaver.c Makefile tests/tests.mk
	$$(Q)mkdir -p $$(@D)
	$$(Q)$(3) -D_GNU_SOURCE $(CPPFLAGS) $(CFLAGS_COMMON) $(4) -pthread $(LDFLAGS) -o $$@ $$< $(5)
endef
$(eval $(call test_rules,$(HOST_ARCH),$(BUILD)/tests,$(CC),,-laio,$(BUILD)))

$(BUILD)/tests/threads.t: tests/threads.c tests/tap.h $(BUILD)/libaio-restorer.a Makefile tests/tests.mk | $(BUILD)/tests/worker
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) -Itests -DBLOB_DIR='"$(BUILD)"' $(CPPFLAGS) $(CFLAGS_COMMON) $(SANFLAGS) -pthread $(LDFLAGS) -o $@ $(filter %.c %.a,$^)

$(C_TESTS): | $(BUILD)/blob-restore-$(HOST_ARCH).bin $(BUILD)/blob-stage-$(HOST_ARCH).bin
$(BUILD)/tests/process.t: | $(BUILD)/aio-restorer $(BUILD)/tests/leaver

# A blob of a later contract: version 2, whose argument block has one field more.
ABI2 := $(BUILD)/tests/abi2
$(ABI2)/restorer.h: pie/restorer.h tests/tests.mk
	$(Q)mkdir -p $(@D)
	$(Q)sed -e 's/^#define AIOR_ABI 1u/#define AIOR_ABI 2u/' \
		-e 's/^#define AIOR_ARGS_SIZE_1 .*/&\n#define AIOR_ARGS_SIZE_2 (AIOR_ARGS_SIZE_1 + 8)/' \
		-e 's/uint64_t reserved_out.*/&\n\tuint64_t newest;/' \
		-e 's/sizeof(struct aior_args) == AIOR_ARGS_SIZE_1/sizeof(struct aior_args) == AIOR_ARGS_SIZE_2/' \
		-e 's/abi == 1 ? AIOR_ARGS_SIZE_1 : 0/abi == 1 ? AIOR_ARGS_SIZE_1 : abi == 2 ? AIOR_ARGS_SIZE_2 : 0/' \
		pie/restorer.h > $@

define abi2_rules
$(ABI2)/$(1)/restore.o: $(ABI2)/restorer.h $(wildcard pie/*)
	$$(Q)mkdir -p $$(@D)
	$$(Q)cp $(ABI2)/restorer.h $$(filter-out pie/restorer.h,$$(wildcard pie/*.h)) pie/restore.c $$(@D)
	$$(Q)$($(1).prefix)gcc $(BLOB_CFLAGS) $($(1).cflags) -I$$(@D) -I$($(1).dir) -c -o $$@ $$(@D)/restore.c
$(ABI2)/$(1)/restore.elf: $(ABI2)/$(1)/restore.o $(BUILD)/$(1)/entry.o pie/blob.lds
	$$(Q)$($(1).prefix)ld $($(1).ldflags) $(BLOB_LDFLAGS) -o $$@ $$(filter %.o,$$^)
$(BUILD)/tests/restore-abi2-$(1).bin: $(ABI2)/$(1)/restore.elf $(BUILD)/mkblob
	$$(Q)$(BUILD)/mkblob -g $$(<:.elf=.ci) -o $$@ $$<
endef
$(foreach a,$(BLOB_ARCHES),$(eval $(call abi2_rules,$(a))))
$(BUILD)/tests/abi.t: | $(BUILD)/tests/restore-abi2-$(HOST_ARCH).bin
