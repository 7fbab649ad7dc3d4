# SPDX-License-Identifier: MIT
# What guests boot with: a kernel's first file system, for each architecture.

$(BUILD)/guest/%/init: tests/qemu/init.c Makefile
	$(Q)mkdir -p $(@D)
	$(Q)$($*.prefix)gcc $(CFLAGS_COMMON) -D_GNU_SOURCE -static -o $@ $<

# A core that this host has dumped, for the others to read; without AIO here, there is none.
$(BUILD)/qemu/foreign/fresh.core: $(BUILD)/tests/process.t $(BUILD)/aio-restorer $(BUILD)/tests/leaver
	$(Q)mkdir -p $(@D)
	$(Q)$(BUILD)/tests/process.t OUT=$(@D) >$(@D)/log || :
	$(Q)touch $@

# A kernel also runs the programs of the architectures beside its own.
define cpio_rules
$(BUILD)/qemu/$(1).cpio: $(foreach a,$(1) $(filter $(GUEST_ARCHES),$($(1).also)),$(addprefix $(BUILD)/guest/$(a)/,init aio-restorer leaver $(GUEST_TESTS:%=%.t)) \
	$(BUILD)/tests/restore-abi2-$(a).bin $(OPS:%=$(BUILD)/blob-%-$(a).bin)) \
	$(wildcard tests/corpus/* tests/corpus/*/* tests/qemu/*) $(BUILD)/qemu/foreign/fresh.core
	$$(Q)mkdir -p $$(@D)
	$$(Q)tests/qemu/initramfs.pl $$@ $(BUILD) $(1) $(filter $(GUEST_ARCHES),$($(1).also))
endef
$(foreach a,$(GUEST_ARCHES),$(eval $(call cpio_rules,$(a))))

# What is checkpointed by CRIU there comes with a whole system: see boot.pl.
guests: $(GUEST_ARCHES:%=$(BUILD)/qemu/%.cpio) $(addprefix $(BUILD)/guest/,$(foreach a,$(filter aarch64 x86_64,$(GUEST_ARCHES)),$(a)/worker $(if $(PLUGIN),$(a)/aio_restorer.so)))
