#!/bin/sh
# SPDX-License-Identifier: MIT
#
# What holds for the sources as such: licence, layout, the wall around architectures, the manual,
# both compilers.

set -u
unset MAKEFLAGS MFLAGS MAKELEVEL SAN
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
count=0

# ok NAME COMMAND...: what the command prints is shown when it fails.
ok()
{
	name=$1
	shift
	count=$((count + 1))
	if "$@" >"$work/out" 2>&1; then
		echo "ok $count - $name"
	else
		sed 's/^/# /' "$work/out"
		echo "not ok $count - $name"
	fi
}

skip()
{
	count=$((count + 1))
	echo "ok $count - $1 # SKIP $2"
}

files()
{
	find . \( -path ./build -o -path ./examples/out -o -path ./.git -o -path ./tests/corpus -o -path ./tests/fuzz/corpus \) -prune -o -type f -print | sed 's|^\./||' | sort
}

sources()
{
	files | grep '\.[ch]$'
}

every_file_has_its_licence()
{
	files | grep -v -e '^LICENSE$' -e '^\.gitignore$' -e '^debian/changelog$' -e '^debian/source/format$' | while read -r file; do
		head -n 3 "$file" | grep -q 'SPDX-License-Identifier: MIT' || echo "$file"
	done >"$work/without"
	cat "$work/without"
	[ ! -s "$work/without" ]
}

# The host's own words for architectures stay in arch/.
no_architecture_outside_arch()
{
	! sources | grep -v '^arch/' | xargs grep -nE '__(x86_64|i386|aarch64|riscv|arm)[_a-z0-9]*'
}

# No file computes with slots on its own: the layout's numbers stand in ring.h alone.
no_magic_outside_ring_h()
{
	! sources | grep -v -e '^pie/ring.h$' -e '^tests/' | xargs grep -niE '0xa10a10a1'
}

no_white_space_at_ends()
{
	! files | xargs grep -nE '[[:space:]]+$'
}

# Which pages are installed beside them is another matter.
man_pages_are_sound()
{
	! mandoc -T lint loader/aio-restorer.1 loader/aio-restorer.3 pie/aio-restorer-blob.7 2>/dev/null |
		grep -v 'referenced manual not found'
}

# With the CRIU plugin, if its header could be had.
compiles_with()
{
	mkdir -p "$work/$1"
	[ ! -e build/criu ] || ln -sfn "$PWD/build/criu" "$work/$1/criu"
	make -s BUILD="$work/$1" CC="$1" CFLAGS='-O1' all
}

# Whoever links the static library keeps all other names for himself.
every_symbol_starts_with_aior()
{
	! nm -g --defined-only "$work/gcc/libaio-restorer.a" | awk 'NF == 3 && $3 !~ /^aior_/' | grep .
}

make_var()
{
	make -s --no-print-directory --eval="print-var: ; @echo \$($1)" print-var
}

# Without cross compilers there are fewer blobs, which is said in a line; with them all are made.
blobs_come_with_their_compilers()
{
	mkdir "$work/bin"
	for program in $(echo "$PATH" | tr ':' ' ' | sed 's|$| |; s|  *|/* |g'); do
		case $program in
		*/aarch64-linux-gnu-* | */i686-linux-gnu-* | */riscv64-linux-gnu-* | */x86_64-linux-gnu-*) ;;
		*) [ -e "$work/bin/${program##*/}" ] || ln -s "$program" "$work/bin/" ;;
		esac
	done
	PATH=$work/bin make -s BUILD="$work/few" all 2>"$work/said" || return 1
	cat "$work/said"
	[ "$(wc -l <"$work/said")" = 1 ] && grep -q '^no blobs for .*: missing .*-linux-gnu-gcc' "$work/said" || return 1
	[ "$("$work/few/aio-restorer" check | grep '^blobs' | wc -w)" = 5 ] || return 1
	for arch in $(make_var BLOB_ARCHES); do
		[ "$arch" != "$(make_var HOST_ARCH)" ] || continue
		"$work/few/aio-restorer" emit --arch "$arch" --blob stage >"$work/emitted" 2>"$work/said"
		[ $? = 4 ] && [ ! -s "$work/emitted" ] || return 1
		grep -q "this build has no stage blob for $arch; it has: restore $(make_var HOST_ARCH), stage" "$work/said" || return 1
	done
	make -s BUILD="$work/few" all || return 1
	for arch in $(make_var BLOB_ARCHES); do
		for op in restore stage; do
			"$work/few/aio-restorer" emit --arch "$arch" --blob $op | cmp - "$work/few/blob-$op-$arch.bin" || return 1
		done
	done
}

blob_sources_compile_with_clang()
{
	for arch in $(make_var BLOB_ARCHES); do
		machine=$(make_var "$arch.prefix")
		machine=${machine%-}
		[ -n "$machine" ] || machine=$(gcc -dumpmachine)
		for source in pie/restore.c pie/stage.c pie/run.c; do
			clang --target="$machine" -std=gnu11 -fsyntax-only -Wall -Wextra -Werror -ffreestanding \
				-isystem "/usr/$machine/include" -Ipie -I"$(make_var "$arch.dir")" "$source" || return 1
		done
	done
}

ok 'every file has its SPDX line' every_file_has_its_licence
ok 'no architecture is named outside of arch/' no_architecture_outside_arch
ok "the ring's magic number stands in ring.h alone" no_magic_outside_ring_h
ok 'no line ends in white space' no_white_space_at_ends
if command -v clang-format >/dev/null; then
	ok 'the layout is clang-format'"'"'s' \
		sh -c 'find arch examples loader pie tests -name "*.[ch]" | xargs clang-format --dry-run -Werror'
else
	skip 'the layout is clang-format'"'"'s' 'there is no clang-format'
fi
if command -v mandoc >/dev/null; then
	ok 'the man pages are sound' man_pages_are_sound
else
	skip 'the man pages are sound' 'there is no mandoc'
fi
ok 'gcc builds all, without a warning' compiles_with gcc
if [ "$(make_var BLOB_ARCHES | wc -w)" -gt 1 ]; then
	ok 'blobs are built for those whose compiler is there' blobs_come_with_their_compilers
else
	skip 'blobs are built for those whose compiler is there' 'there is no cross compiler'
fi
ok 'every symbol of the library starts with aior_' every_symbol_starts_with_aior
if command -v clang >/dev/null; then
	ok 'clang builds all, without a warning' compiles_with clang
	ok 'clang finds nothing in the blobs' blob_sources_compile_with_clang
else
	skip 'clang builds all, without a warning' 'there is no clang'
	skip 'clang finds nothing in the blobs' 'there is no clang'
fi
echo "1..$count"
