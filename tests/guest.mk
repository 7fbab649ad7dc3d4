# SPDX-License-Identifier: MIT
# Library, command line and tests for other machines and kernels: static programs in
# $(BUILD)/guest/ARCH/, which need nothing of the system that they run on.

GUEST_TESTS := $(BLOB_TESTS) $(SELF_TESTS) $(LIVE_TESTS) process yama

# $(BUILD)/guest/ARCH/sysroot leads to the static libraries that Debian has for it; they are fetched
# into a cache. Where they cannot be had, $(BUILD)/guest/ARCH/missing says why.
guest-libs: $(BLOB_ARCHES:%=guest-libs-%)
guest-libs-%:
	$(Q)mkdir -p $(BUILD)/guest/$*
	$(Q)if root=$$(tests/fetch.sh libs $* 2>$(BUILD)/guest/$*/missing); then \
		ln -sfn "$$root" $(BUILD)/guest/$*/sysroot; rm -f $(BUILD)/guest/$*/missing; fi

GUEST_ARCHES := $(foreach a,$(BLOB_ARCHES),$(if $(wildcard $(BUILD)/guest/$(a)/sysroot/LIBS),$(a)))

# $(1) the architecture, $(2) its folder
define guest_rules
$(call host_rules,$(1),$(2),$($(1).prefix)gcc,-static -isystem $(2)/sysroot/include,-L$(2)/sysroot/lib $$$$(cat $(2)/sysroot/LIBS))
$(call test_rules,$(1),$(2),$($(1).prefix)gcc,-static -isystem $(2)/sysroot/include,-L$(2)/sysroot/lib $$$$(cat $(2)/sysroot/LIBS),$(2))
endef
$(foreach a,$(BLOB_ARCHES),$(eval $(call guest_rules,$(a),$(BUILD)/guest/$(a))))

.PHONY: guests guest-libs
guests:
	@:

include tests/qemu/qemu.mk

# Programs of another architecture that this host's kernel runs too; the last by this host's own tool. The kernel has been
# seen by its own architecture's programs: so what is done again and again is done less often by these.
local_tests = $(foreach t,$(BLOB_TESTS) $(SELF_TESTS) $(LIVE_TESTS),'env TEST_EFFORT=30 $(BUILD)/guest/$(1)/$(t).t') \
	'$(BUILD)/guest/$(1)/process.t TOOL=$(BUILD)/guest/$(1)/aio-restorer LEAVER=$(BUILD)/guest/$(1)/leaver' \
	'$(BUILD)/tests/process.t LEAVER=$(BUILD)/guest/$(1)/leaver'
LOCAL_TESTS := $(foreach a,$($(HOST_ARCH).also),$(if $(filter $(GUEST_ARCHES),$(a)),$(call local_tests,$(a)),'skip:no programs for $(a) could be built'))
