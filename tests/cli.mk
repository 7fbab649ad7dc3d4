# SPDX-License-Identifier: MIT
# The tests of the command line, and the programs that they are run on.

# A worker for each architecture whose programs may run here, and a server where there is its library.
WORKERS := worker $(patsubst %,worker-%,$(filter $(BLOB_ARCHES),$($(HOST_ARCH).also)))
FUSE_SERVER := $(if $(wildcard /usr/include/fuse3/fuse.h),fuse-server)
CLI_FIXTURES := $(addprefix $(BUILD)/tests/,leaver hostile api.t $(WORKERS) $(FUSE_SERVER))
CLI_TESTS := $(BUILD)/tests/api.t tests/cli.t tests/dump.t tests/run.t tests/corpus.t tests/hostile.t \
	tests/stage.t tests/stage-refused.t tests/host-dies.t tests/fuse.t tests/fio.t

# The image reader, in a program that gives it thousands of broken images.
$(BUILD)/tests/hostile: tests/hostile.c $(BUILD)/loader/core.o $(BUILD)/libaio-restorer.a tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.o %.a,$^) -lelf

$(BUILD)/tests/api.t: tests/api.c tests/tap.h $(BUILD)/libaio-restorer.a tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) -Itests $(CPPFLAGS) $(CFLAGS_COMMON) $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.a,$^)

# Without a library of its own, so that no more than a compiler is needed for it.
# $(1) the suffix of its name, $(2) the compiler, $(3) flags
define worker_rule
$(BUILD)/tests/worker$(1): tests/worker.c tests/states.h pie/restorer.h pie/ring.h tests/cli.mk
	$$(Q)mkdir -p $$(@D)
	$$(Q)$(2) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) $(3) -pthread $(LDFLAGS) -o $$@ $$<
endef
$(eval $(call worker_rule,,$(CC)))
$(foreach a,$($(HOST_ARCH).also),$(eval $(call worker_rule,-$(a),$($(a).prefix)gcc,-static)))

$(BUILD)/tests/fuse-server: tests/fuse-server.c tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) -I/usr/include/fuse3 $(CPPFLAGS) $(CFLAGS_COMMON) $(LDFLAGS) -o $@ $< -lfuse3
