# SPDX-License-Identifier: MIT
# The tests of the command line, and the programs that they are run on.

# A worker for each architecture whose programs may run here, and a server where there is its library.
WORKERS := worker $(patsubst %,worker-%,$(filter $(BLOB_ARCHES),$($(HOST_ARCH).also)))
FUSE_SERVER := $(if $(wildcard /usr/include/fuse3/fuse.h),fuse-server)
# What tests/soak/qemu.pm runs in QEMU, where there is a compiler for it.
QEMU_GUEST := $(if $(filter i386,$(BLOB_ARCHES)),qemu-guest)
CLI_FIXTURES := $(addprefix $(BUILD)/tests/,leaver strike tracer itself refuse-inside.so misbehave hostile api.t checkpointed container-program $(WORKERS) $(FUSE_SERVER) $(QEMU_GUEST))
CRIU_TESTS := tests/images.t tests/criu.t tests/criu-beside-plain.t 'tests/container.sh runc' 'tests/podman.sh runc'
CLI_TESTS := $(BUILD)/tests/api.t tests/cli.t tests/dump.t tests/run.t tests/corpus.t tests/hostile.t tests/hostile-images.t \
	tests/stage.t tests/stage-refused.t tests/rights.t tests/host-dies.t tests/killed.t tests/failing.t tests/struck.t tests/misbehaving.t tests/fuse.t $(CRIU_TESTS) \
	$(patsubst tests/soak/%.pm,'tests/soak.t %',$(wildcard tests/soak/*.pm))

# The image reader, in a program that gives it thousands of broken images.
$(BUILD)/tests/hostile: tests/hostile.c $(IMAGE_OBJS:%=$(BUILD)/%) $(BUILD)/libaio-restorer.a tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.o %.a,$^) $(IMAGE_LIBS)

$(BUILD)/tests/api.t: tests/api.c tests/tap.h $(BUILD)/libaio-restorer.a tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) -Itests $(CPPFLAGS) $(CFLAGS_COMMON) $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.a,$^)

# What lets the tool be killed at any of its system calls.
$(BUILD)/tests/strike: tests/strike.c tests/errnos.h tests/strike.h tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) $(LDFLAGS) -o $@ $<

# What does harm to a process from outside.
$(BUILD)/tests/misbehave: tests/misbehave.c pie/restorer.h pie/ring.h tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) -pthread $(LDFLAGS) -o $@ $<

# The same of those that a process makes for the tool.
$(BUILD)/tests/refuse-inside.so: tests/refuse-inside.c tests/errnos.h tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) $(LDFLAGS) -fPIC -shared -o $@ $< -ldl

# A tool that holds the threads itself.
$(BUILD)/tests/tracer: tests/tracer.c $(BUILD)/libaio-restorer.a tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) $(SANFLAGS) -pthread $(LDFLAGS) -o $@ $(filter %.c %.a,$^)

# A program that stages and restores itself, while its calls fail.
$(BUILD)/tests/itself: tests/itself.c tests/strike.h $(BUILD)/libaio-restorer.a tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.a,$^)

# Without a library of its own, so that no more than a compiler is needed for it.
# $(1) the program, $(2) the compiler, $(3) flags
define worker_rule
$(1): tests/worker.c tests/states.h pie/restorer.h pie/ring.h tests/cli.mk
	$$(Q)mkdir -p $$(@D)
	$$(Q)$(2) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) $(3) -pthread $(LDFLAGS) -o $$@ $$<
endef
$(eval $(call worker_rule,$(BUILD)/tests/worker,$(CC)))
$(foreach a,$($(HOST_ARCH).also),$(eval $(call worker_rule,$(BUILD)/tests/worker-$(a),$($(a).prefix)gcc,-static)))
$(foreach a,$(BLOB_ARCHES),$(eval $(call worker_rule,$(BUILD)/guest/$(a)/worker,$($(a).prefix)gcc,-static)))

# One that CRIU's own tests could have: it needs no library either.
$(BUILD)/tests/checkpointed: tests/checkpointed.c tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) -pthread $(LDFLAGS) -o $@ $<

# The only file of a container.
$(BUILD)/tests/container-program: tests/container-program.c tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) -static $(LDFLAGS) -o $@ $<

$(BUILD)/tests/fuse-server: tests/fuse-server.c tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) -I/usr/include/fuse3 $(CPPFLAGS) $(CFLAGS_COMMON) $(LDFLAGS) -o $@ $< -lfuse3

# A program for a bare machine: its multiboot header among the first bytes, general registers only.
$(BUILD)/tests/qemu-guest: tests/soak/qemu-guest.c tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(i386.prefix)gcc -std=gnu11 -O2 $(WARN) -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables \
		-mgeneral-regs-only -nostdlib -static -no-pie -Wl,--build-id=none,-z,noseparate-code,-Ttext-segment=0x100000 -o $@ $<
