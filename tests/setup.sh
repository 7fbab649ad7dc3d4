#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Installs what a build, the demo or the tests need and this machine lacks. Where that cannot be
# done (not Debian, not root) it says what is missing; whoever needs it then fails or skips.
#
# usage: setup.sh build|demo|bench|check|analyse|fuzz

set -u

# what shows that it is there | Debian package | needed from
needs='
gcc|gcc|build
nasm|nasm|build
ld|binutils|build
/usr/include/stdio.h|libc6-dev|build
/usr/include/gelf.h|libelf-dev|build
protoc-c|protobuf-c-compiler|build
/usr/include/protobuf-c/protobuf-c.h|libprotobuf-c-dev|build
/usr/include/libaio.h|libaio-dev|demo
fio|fio|demo
prove|perl|bench
gnuplot|gnuplot-nox|bench
pkg-config|pkg-config|check
gdb|gdb|check
eu-readelf|elfutils|check
stress-ng|stress-ng|check
sysbench|sysbench|check
tgtd|tgt|check
qemu-io|qemu-utils|check
/usr/lib/*/qemu/block-iscsi.so|qemu-block-extra|check
mariadbd|mariadb-server-core|check
mariadb|mariadb-client-core|check
setpriv|util-linux|check
/usr/include/fuse3/fuse.h|libfuse3-dev|check
runc|runc|check
podman|podman|check
script|bsdutils|check
mandoc|mandoc|check
clang|clang|check
g++|g++|check
rustc|rustc|check
go|golang-go|check
clang-format|clang-format|check
dh|debhelper|check
dpkg-buildpackage|dpkg-dev|check
lintian|lintian|check
mmdebstrap|mmdebstrap|check
git|git|check
flock|util-linux|check
x86_64-linux-gnu-gcc|gcc-x86-64-linux-gnu|check
aarch64-linux-gnu-gcc|gcc-aarch64-linux-gnu|check
i686-linux-gnu-gcc|gcc-i686-linux-gnu|check
riscv64-linux-gnu-gcc|gcc-riscv64-linux-gnu|check
/usr/aarch64-linux-gnu/lib/libc.a|libc6-dev-arm64-cross|check
/usr/i686-linux-gnu/lib/libc.a|libc6-dev-i386-cross|check
/usr/riscv64-linux-gnu/lib/libc.a|libc6-dev-riscv64-cross|check
cppcheck|cppcheck|check
z3|z3|check
clang-tidy|clang-tidy|analyse
qemu-system-x86_64|qemu-system-x86|check
qemu-system-aarch64|qemu-system-arm|check
qemu-system-riscv64|qemu-system-misc|check
/usr/lib/llvm-*/lib/clang/*/lib/*/libclang_rt.fuzzer*.a|libclang-rt-dev|fuzz
'

case "${1:-}" in
build) levels='build' ;;
demo) levels='build demo' ;;
bench) levels='build demo bench' ;;
check) levels='build demo bench check' ;;
analyse) levels='build demo bench check analyse' ;;
fuzz) levels='build demo bench check fuzz' ;;
*) echo "usage: setup.sh build|demo|bench|check|analyse|fuzz" >&2; exit 2 ;;
esac

is_there()
{
	case "$1" in
	# (A pattern is one of what it matches.)
	/*) for path in $1; do [ -e "$path" ]; return; done ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

# The names of the packages that are missing.
missing()
{
	echo "$needs" | while IFS='|' read -r sign package level; do
		case " $levels " in
		*" $level "*) [ -z "$sign" ] || is_there "$sign" || echo "$package" ;;
		esac
	done | tr '\n' ' '
}

packages=$(missing)
[ -n "$packages" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
	echo "setup: missing: $packages(Debian's names; as root on Debian they would be installed now)" >&2
	exit 0
fi
echo "setup: installing $packages" >&2
log=$(mktemp)
# No server is started because it is installed: the tests start their own.
policy=/usr/sbin/policy-rc.d
[ -e $policy ] && policy=
trap '[ -z "$policy" ] || rm -f "$policy"' EXIT
trap 'exit 1' HUP INT TERM
[ -z "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"; }
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
{ apt-get update && apt-get install -y --no-install-recommends $packages; } >"$log" 2>&1
packages=$(missing)
# One that this Debian has not must not keep the others away.
for package in $packages; do
	apt-get install -y --no-install-recommends "$package" >>"$log" 2>&1
done
packages=$(missing)
if [ -n "$packages" ]; then
	tail -n 5 "$log" >&2
	echo "setup: still missing: $packages" >&2
fi
rm -f "$log"
exit 0
