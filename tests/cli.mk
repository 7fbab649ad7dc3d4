# SPDX-License-Identifier: MIT
# The tests of the command line, and the programs that they are run on.

CLI_FIXTURES := $(addprefix $(BUILD)/tests/,leaver hostile api.t)
CLI_TESTS := $(BUILD)/tests/api.t tests/cli.t tests/dump.t tests/run.t tests/corpus.t tests/hostile.t tests/fio.t

# The image reader, in a program that gives it thousands of broken images.
$(BUILD)/tests/hostile: tests/hostile.c $(BUILD)/loader/core.o $(BUILD)/libaio-restorer.a tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) $(CPPFLAGS) $(CFLAGS_COMMON) $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.o %.a,$^) -lelf

$(BUILD)/tests/api.t: tests/api.c tests/tap.h $(BUILD)/libaio-restorer.a tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_COMMON) -Itests $(CPPFLAGS) $(CFLAGS_COMMON) $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.a,$^)
