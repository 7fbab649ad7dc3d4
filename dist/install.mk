# SPDX-License-Identifier: MIT
# What is installed, and where; and releases of the source.

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
BLOBDIR ?= $(DATADIR)/aio-restorer
# Where CRIU looks for plugins.
PLUGINDIR ?= $(PREFIX)/lib/criu

# MODE:FILE:PLACE
INSTALLED := \
	755:$(BUILD)/aio-restorer:$(BINDIR)/aio-restorer \
	644:$(BUILD)/libaio-restorer.a:$(LIBDIR)/libaio-restorer.a \
	644:$(BUILD)/libaio-restorer.so:$(LIBDIR)/libaio-restorer.so.$(VERSION) \
	644:$(BUILD)/aio-restorer.pc:$(LIBDIR)/pkgconfig/aio-restorer.pc \
	644:loader/aio-restorer.h:$(INCLUDEDIR)/aio-restorer.h \
	644:pie/restorer.h:$(INCLUDEDIR)/aio-restorer/restorer.h \
	644:loader/aio-restorer.1:$(MANDIR)/man1/aio-restorer.1 \
	644:loader/aio-restorer.3:$(MANDIR)/man3/aio-restorer.3 \
	644:pie/aio-restorer-blob.7:$(MANDIR)/man7/aio-restorer-blob.7 \
	644:dist/bash-completion:$(DATADIR)/bash-completion/completions/aio-restorer \
	$(foreach b,$(filter-out $(BUILD)/blob-run-%,$(BLOBS)),644:$(b):$(BLOBDIR)/$(notdir $(b))) \
	$(foreach p,$(PLUGIN),644:$(p):$(PLUGINDIR)/$(notdir $(p)))

# TARGET:PLACE
LINKED := \
	libaio-restorer.so.$(VERSION):$(LIBDIR)/$(SONAME) \
	$(SONAME):$(LIBDIR)/libaio-restorer.so

# Folders that are ours alone.
OWN_FOLDERS := $(INCLUDEDIR)/aio-restorer $(BLOBDIR)

.PHONY: install uninstall $(BUILD)/aio-restorer.pc

# Made anew each time: it says where this installation goes.
$(BUILD)/aio-restorer.pc: dist/aio-restorer.pc.in
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@INCLUDEDIR@|$(INCLUDEDIR)|' \
		-e 's|@BLOBDIR@|$(BLOBDIR)|; s|@VERSION@|$(VERSION)|' $< > $@

install: all $(BUILD)/aio-restorer.pc
	$(Q)for entry in $(INSTALLED); do \
		mode=$${entry%%:*} place=$${entry##*:} file=$${entry#*:}; \
		install -D -m "$$mode" "$${file%%:*}" "$(DESTDIR)$$place" || exit 1; \
	done
	$(Q)for entry in $(LINKED); do ln -sf "$${entry%%:*}" "$(DESTDIR)$${entry#*:}" || exit 1; done
	$(Q)$(if $(DESTDIR),:,$(if $(filter /usr/lib /usr/local/lib,$(LIBDIR)),ldconfig 2>/dev/null || :,:))

uninstall:
	$(Q)for entry in $(INSTALLED) $(LINKED); do rm -f "$(DESTDIR)$${entry##*:}" || exit 1; done
	$(Q)for folder in $(OWN_FOLDERS); do [ ! -d "$(DESTDIR)$$folder" ] || rmdir "$(DESTDIR)$$folder" || exit 1; done

# ---- a source release ----

# Twice the same bytes, wherever and by whomever: of what git knows or, in an unpacked release, of all that is there.
RELEASE := aio-restorer-$(VERSION)
DIST ?= $(BUILD)/$(RELEASE).tar.gz

.PHONY: dist
dist:
	$(Q)mkdir -p $(BUILD) $(dir $(DIST))
	$(Q)if [ -e .git ]; then git ls-files; else find . \( -path ./build -o -path ./examples/out \) -prune -o ! -type d -print | sed 's|^\./||'; fi | LC_ALL=C sort > $(BUILD)/dist.list
	$(Q)epoch=$${SOURCE_DATE_EPOCH:-$$(if [ -e .git ]; then git log -1 --format=%ct; else stat -c %Y Makefile; fi)} && \
		tar --create --format=ustar --no-recursion --files-from=$(BUILD)/dist.list --transform='flags=rSH;s|^|$(RELEASE)/|' \
			--owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime=@$$epoch \
			--file=$(BUILD)/dist.tar && gzip -9n < $(BUILD)/dist.tar > $(DIST)
