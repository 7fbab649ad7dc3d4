# SPDX-License-Identifier: MIT
# The fuzzers: a target each in tests/fuzz/, and what they have found, or reach, in tests/fuzz/corpus/. Built twice:
# with libFuzzer, where clang has it, for `make fuzz`; and as plain programs that run the files of the corpus, for
# tests/fuzz.t.

FUZZ_CC ?= clang
FUZZ_SECONDS ?= 600
FUZZ_TARGETS := $(if $(filter core,$(READERS)),core note $(if $(filter criu,$(READERS)),criu) capsule) maps mkblob
PLAIN := $(BUILD)/fuzz/plain
FUZZERS := $(BUILD)/fuzz/clang

FUZZ_FLAGS := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# Asked when something is compiled, not by each make.
PLAIN_FLAGS = -O1 $(shell echo 'int main(void) { return 0; }' | $(CC) $(SANITIZERS) -x c -o /dev/null - 2>/dev/null && echo '$(SANITIZERS)')

$(eval $(call host_rules,$(HOST_ARCH),$(PLAIN),$(CC),$$(PLAIN_FLAGS),$(IMAGE_LIBS)))
$(eval $(call host_rules,$(HOST_ARCH),$(FUZZERS),$(FUZZ_CC),$(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,$(IMAGE_LIBS)))

# $(1) the folder, $(2) the compiler, $(3) flags, $(4) what else is compiled with a target
define fuzz_rules
$(FUZZ_TARGETS:%=$(1)/%): $(1)/%: tests/fuzz/%.c $(4) $(wildcard tests/fuzz/*.h loader/*.h pie/*.[ch]) $(1)/loader/show.o $(patsubst %,$(1)/%,$(IMAGE_OBJS:loader/file.o=tests/fuzz/file.o)) $(1)/libaio-restorer.a tests/fuzz.mk
	$$(Q)mkdir -p $$(@D)
	$$(Q)$(2) $(CPPFLAGS_COMMON) -I$($(HOST_ARCH).dir) -Itests/fuzz $(CPPFLAGS) $(CFLAGS_COMMON) $(3) $(LDFLAGS) -o $$@ $$< $(4) $$(filter %.o %.a,$$^) $(IMAGE_LIBS)

$(1)/mkblob: $(1)/pie/callgraph.o
endef
$(eval $(call fuzz_rules,$(PLAIN),$(CC),$$(PLAIN_FLAGS),tests/fuzz/plain.c))
$(eval $(call fuzz_rules,$(FUZZERS),$(FUZZ_CC),$(FUZZ_FLAGS) -fsanitize=fuzzer,))

# (No compiler looks into a blob, and no sanitizer may map memory of its own between: as tests/tests.mk has it.)
$(PLAIN)/blob: tests/fuzz/blob.c $(wildcard tests/*.h pie/*.h) tests/fuzz.mk | $(BUILD)/blob-restore-$(HOST_ARCH).bin $(BUILD)/blob-stage-$(HOST_ARCH).bin
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) -I$($(HOST_ARCH).dir) -Itests -DBLOB_DIR='"$(BUILD)"' -DHOST_ARCH_NAME='"$(HOST_ARCH)"' \
		$(CPPFLAGS) $(CFLAGS_COMMON) -pthread $(LDFLAGS) -o $@ $<

# What libFuzzer needs may not be there: then it is said, and the blobs alone are fuzzed.
HAS_FUZZER = $(shell echo 'int LLVMFuzzerTestOneInput(const unsigned char *data, unsigned long size) { return data && size ? 0 : 0; }' | \
	$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer -x c -o /dev/null - 2>/dev/null && echo yes)
.PHONY: fuzzers
fuzzers: $(PLAIN)/blob
	$(Q)$(if $(HAS_FUZZER),$(MAKE) -s --no-print-directory $(FUZZ_TARGETS:%=$(FUZZERS)/%),echo 'no fuzzers but that of the blobs: missing clang with libFuzzer (libclang-rt-dev)' >&2)

CLI_FIXTURES += $(PLAIN)/blob $(FUZZ_TARGETS:%=$(PLAIN)/%)
CLI_TESTS += tests/fuzz.t
