# SPDX-License-Identifier: MIT
# The tests of the command line, and the programs that they are run on.

CLI_FIXTURES := $(addprefix $(BUILD)/tests/,leaver hostile api.t)
CLI_TESTS := $(BUILD)/tests/api.t tests/cli.t tests/dump.t tests/run.t tests/corpus.t tests/hostile.t

# A program like any other: no sanitizer maps memory where its rings are to go.
$(BUILD)/tests/leaver: tests/leaver.c tests/cli.mk Makefile
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -D_GNU_SOURCE $(CPPFLAGS) $(filter-out $(SANFLAGS),$(HOST_CFLAGS)) -pthread $(LDFLAGS) -o $@ $< -laio

# The image reader, in a program that gives it thousands of broken images.
$(BUILD)/tests/hostile: tests/hostile.c $(BUILD)/loader/core.o $(BUILD)/libaio-restorer.a tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(HOST_CPPFLAGS) $(CPPFLAGS) $(HOST_CFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.o %.a,$^) -lelf

$(BUILD)/tests/api.t: tests/api.c tests/tap.h $(BUILD)/libaio-restorer.a tests/cli.mk
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(HOST_CPPFLAGS) -Itests $(CPPFLAGS) $(HOST_CFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.a,$^)
