# SPDX-License-Identifier: MIT
# The tests: C programs become $(BUILD)/tests/NAME.t, scripts are tests/NAME.t.

# The host's tests of a blob run it, and compare the process's mappings: no sanitizer may map memory
# of its own between.
TEST_CFLAGS = $(filter-out $(SANFLAGS),$(HOST_CFLAGS)) -pthread
TEST_CPPFLAGS = $(HOST_CPPFLAGS) -Itests -DBLOB_DIR='"$(BUILD)"' -DHOST_ARCH_NAME='"$(HOST_ARCH)"'

BLOB_TESTS := ring restore failures faults ends abi twins
C_TESTS := $(BLOB_TESTS:%=$(BUILD)/tests/%.t)
SCRIPT_TESTS := tests/refuse.t tests/emit.t

$(BLOB_TESTS:%=$(BUILD)/tests/%.t): $(BUILD)/tests/%.t: tests/%.c $(wildcard tests/*.h pie/*.h) Makefile tests/tests.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(TEST_CPPFLAGS) $(CPPFLAGS) $(TEST_CFLAGS) $(LDFLAGS) -o $@ $<

$(BLOB_TESTS:%=$(BUILD)/tests/%.t): | $(BUILD)/blob-restore-$(HOST_ARCH).bin

# A blob of a later contract: version 2, whose argument block has one field more.
ABI2 := $(BUILD)/tests/abi2
$(ABI2)/restorer.h: pie/restorer.h tests/tests.mk
	$(Q)mkdir -p $(@D)
	$(Q)cp pie/*.h pie/restore.c $(@D)
	$(Q)sed -e 's/^#define AIOR_ABI 1u/#define AIOR_ABI 2u/' \
		-e 's/^#define AIOR_ARGS_SIZE_1 .*/&\n#define AIOR_ARGS_SIZE_2 (AIOR_ARGS_SIZE_1 + 8)/' \
		-e 's/uint64_t reserved_out.*/&\n\tuint64_t newest;/' \
		-e 's/sizeof(struct aior_args) == AIOR_ARGS_SIZE_1/sizeof(struct aior_args) == AIOR_ARGS_SIZE_2/' \
		-e 's/abi == 1 ? AIOR_ARGS_SIZE_1 : 0/abi == 1 ? AIOR_ARGS_SIZE_1 : abi == 2 ? AIOR_ARGS_SIZE_2 : 0/' \
		pie/restorer.h > $@
$(ABI2)/restore.o: $(ABI2)/restorer.h $(wildcard pie/*)
	$(Q)cp $(filter-out pie/restorer.h,$(wildcard pie/*.h)) pie/restore.c $(@D)
	$(Q)$($(HOST_ARCH).prefix)gcc $(BLOB_CFLAGS) $($(HOST_ARCH).cflags) -I$(ABI2) -I$($(HOST_ARCH).dir) \
		-c -o $@ $(ABI2)/restore.c
$(ABI2)/restore.elf: $(ABI2)/restore.o $(BUILD)/$(HOST_ARCH)/entry.o pie/blob.lds
	$(Q)$($(HOST_ARCH).prefix)ld $($(HOST_ARCH).ldflags) $(BLOB_LDFLAGS) -o $@ $(filter %.o,$^)
$(BUILD)/tests/restore-abi2.bin: $(ABI2)/restore.elf $(BUILD)/mkblob
	$(Q)$(BUILD)/mkblob -g $(ABI2)/restore.ci -o $@ $<
$(BUILD)/tests/abi.t: | $(BUILD)/tests/restore-abi2.bin

# A program that embeds the blob. It includes what the tool emits, and the contract.
EMBED_C := $(BUILD)/tests/embed-c
$(EMBED_C)/blob.h: $(BUILD)/aio-restorer
	$(Q)mkdir -p $(@D)
	$(Q)$(BUILD)/aio-restorer emit --arch $(HOST_ARCH) --blob restore --format c -o $@
$(EMBED_C)/embed-c: tests/embed-c/embed-c.c $(EMBED_C)/blob.h pie/restorer.h
	$(Q)$(CC) -I$(EMBED_C) -Ipie -DBLOB=aior_restore_$(HOST_ARCH) $(filter-out $(SANFLAGS),$(HOST_CFLAGS)) -o $@ $<
tests: $(EMBED_C)/embed-c
