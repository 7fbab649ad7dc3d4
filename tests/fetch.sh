#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Kernels, libraries and programs of other architectures and releases, from the Debian mirror that this
# machine uses itself. Kept outside of the clone: a kernel's package is 100 MB, and only its image is kept.
#
#	fetch.sh list [KERNELS [ARCHES]]   kernels that can be had: NAME ARCH; all, or those that are asked for
#	fetch.sh kernel NAME ARCH          prints the path of a kernel image that QEMU takes
#	fetch.sh root NAME ARCH            prints the path of a folder that is a whole system, small, with fio, perl,
#	                                   and those of the kernel's modules that it takes to have a disk, and CRIU
#	fetch.sh libs ARCH                 prints the path of a folder: include/, lib/ with static libelf, libaio
#	                                   and libprotobuf-c, and LIBS, the linker's arguments for them
#	fetch.sh criu ARCH                 prints the path of a folder: criu, a program that runs whatever the
#	                                   machine's own libraries are, and include/, for its plugins
#	fetch.sh cbmc ARCH                 prints the path of a folder with the same: cbmc, a program
#	fetch.sh system SUITE              prints the path of a folder that is a whole Debian, bookworm or sid, of this
#	                                   machine's architecture, with what it takes to build and try the packages
#
# Exit: 1 failed, 2 wrong usage, 3 this machine cannot have it.

set -u

cache=${AIOR_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/aio-restorer}

# name|architecture|suite|Debian's architecture|package, where * is the version. What takes longest is
# the first, so that nothing is left to wait for when the others have run beside it.
kernels='
7.2|riscv64|sid|riscv64|linux-binary-*-riscv64
5.10|x86_64|bullseye|amd64|linux-image-*-amd64-unsigned
6.1|x86_64|bookworm|amd64|linux-image-*-amd64-unsigned
6.12|x86_64|bookworm-backports|amd64|linux-image-*-amd64-unsigned
7.2|x86_64|sid|amd64|linux-binary-unsigned-*-amd64
5.10|aarch64|bullseye|arm64|linux-image-*-arm64-unsigned
6.1|aarch64|bookworm|arm64|linux-image-*-arm64-unsigned
6.12|aarch64|bookworm-backports|arm64|linux-image-*-arm64-unsigned
7.2|aarch64|sid|arm64|linux-binary-unsigned-*-arm64
7.2-16k|aarch64|sid|arm64|linux-binary-unsigned-*-arm64-16k
6.1|i386|bookworm|i386|linux-image-*-686-pae-unsigned
'

# architecture|suite|Debian's architecture
libraries='
x86_64|bookworm|amd64
i386|bookworm|i386
aarch64|bookworm|arm64
riscv64|sid|riscv64
'
library_packages='libelf-dev zlib1g-dev libzstd-dev libaio-dev libprotobuf-c-dev'

# What a root has; all that these depend on is taken, too.
root_packages='fio perl dash coreutils util-linux mount kmod e2fsprogs'
root_modules='virtio|/ext4|/jbd2|/mbcache|/crc|_diag|/nfnetlink|/nf_tables|/libcrc32c|/tun|/veth'

# suite|packages: of debian/control (but for the cross compilers) and of debian/tests/control.
system_packages='build-essential debhelper libaio-dev libelf-dev libprotobuf-c-dev nasm pkgconf protobuf-c-compiler rustc'
systems='
bookworm|
sid|criu libcriu-dev
'

# fail STATUS SENTENCE
fail()
{
	echo "fetch.sh: $2" >&2
	exit "$1"
}

usage()
{
	fail 2 'usage: fetch.sh list [KERNELS [ARCHES]] | kernel NAME ARCH | root NAME ARCH | libs ARCH | criu ARCH | cbmc ARCH | system SUITE'
}

# row TABLE KEY: the rest of the row that starts with KEY.
row()
{
	printf '%s' "$1" | sed -n "s/^$(printf '%s' "$2" | sed 's/[.|]/[&]/g')|//p"
}

# ---- what there is ----

# column TABLE NUMBER: its values, each once.
column()
{
	printf '%s' "$1" | cut -d '|' -f "$2" | awk 'NF && !seen[$0]++'
}

# known WHAT COLUMN WORDS
known()
{
	for word in $3; do
		column "$kernels" "$2" | grep -qxF -e "$word" ||
			fail 2 "there is no $1 $word; there are: $(column "$kernels" "$2" | tr '\n' ' ')"
	done
}

# choose NAME ARCH: sets `name`, and `what` to the kernel's row.
choose()
{
	name=$1
	known kernel 1 "$1"
	known architecture 2 "$2"
	what=$(row "$kernels" "$1|$2")
	[ -n "$what" ] || fail 2 "there is no kernel $1 for $2"
}

list()
{
	known kernel 1 "$1"
	known architecture 2 "$2"
	chosen=$(printf '%s' "$kernels" | awk -F '|' -v names=" $1 " -v arches=" $2 " '
		NF && (names ~ /^ +$/ || index(names, " " $1 " ")) &&
			(arches ~ /^ +$/ || index(arches, " " $2 " ")) { print $1, $2 }')
	[ -n "$chosen" ] || fail 2 "there is no kernel $1 for $2; there are: $(
		printf '%s' "$kernels" | awk -F '|' 'NF { printf "%s %s, ", $1, $2 }' | sed 's/, $//')"
	echo "$chosen"
}

# ---- apt, with a state of its own ----

# source_of SUITE OWN: the machine's own source of Debian packages, known by a suite that OWN matches,
# with that suite in its place: the same host, the same keys. Prints the path of what it wrote.
# Both of apt's formats are read; other suites of the source, such as its updates, are left out.
source_of()
{
	find /etc/apt/sources.list /etc/apt/sources.list.d -name '*.sources' 2>/dev/null | sort |
		xargs -r cat -s | awk -v suite="$1" -v own="$2" '
		BEGIN { RS = "" }
		{
			split("", field); rest = ""; name = ""
			for (i = 1; i <= split($0, line, "\n"); i++) {
				if (line[i] ~ /^#/)
					continue
				if (match(line[i], /^[A-Za-z-]+:/))
					name = tolower(substr(line[i], 1, RLENGTH - 1))
				field[name] = field[name] " " line[i]
				if (name !~ /^(types|suites|components|architectures|enabled)$/)
					rest = rest line[i] "\n"
			}
			if (field["types"] ~ / deb( |$)/ && field["enabled"] !~ /no/ &&
			    (field["suites"] " ") ~ (" (" own ") ") && (field["components"] " ") ~ / main / &&
			    field["uris"] ~ /debian\/?( |$)|mirror\+/) {
				printf "Types: deb\nSuites: %s\nComponents: main\n%s", suite, rest
				exit
			}
		}' >"$state/x.sources"
	[ ! -s "$state/x.sources" ] || { echo "$state/x.sources"; return; }
	find /etc/apt/sources.list /etc/apt/sources.list.d -name '*.list' 2>/dev/null | sort |
		xargs -r cat | awk -v suite="$1" -v own="$2" '
		/^[ \t]*deb[ \t]/ {
			options = match($0, /\[[^]]*\]/) ? substr($0, RSTART, RLENGTH) : ""
			sub(/\[[^]]*\]/, "")
			sub(/arch=[^] ]*/, "", options)
			if ($3 ~ ("^(" own ")$") && ($0 " ") ~ /[ \t]main[ \t]/ &&
			    $2 ~ /debian\/?$|^mirror\+/) {
				print "deb", options, $2, suite, "main"
				exit
			}
		}' >"$state/x.list"
	[ ! -s "$state/x.list" ] || echo "$state/x.list"
}

# open_suite SUITE DEBIAN-ARCH: makes `apt` speak of that suite and architecture.
open_suite()
{
	for tool in apt-get apt-cache dpkg-deb; do
		command -v $tool >/dev/null || fail 3 "there is no $tool here: this needs a Debian machine"
	done
	codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release 2>/dev/null)
	state=$work/apt
	mkdir -p "$state/lists/partial" "$state/cache/archives/partial" || exit 1
	list=$(source_of "$1" "${codename:-sid}|stable|testing|unstable|sid")
	[ -n "$list" ] || fail 3 'no source of Debian packages is set up in /etc/apt'
	cat >"$state/apt.conf" <<-END
		Dir::Etc::sourcelist "$list";
		Dir::Etc::sourceparts "-";
		Dir::State::lists "$state/lists";
		Dir::State::status "/dev/null";
		Dir::Cache "$state/cache";
		APT::Architecture "$2";
		APT::Architectures { "$2"; };
		APT::Sandbox::User "";
		APT::Update::Post-Invoke { "true"; };
		Acquire::Languages "none";
		Acquire::Retries "2";
		Acquire::http::Timeout "15";
	END
	apt get update --error-on=any >/dev/null || fail 3 "the packages of Debian's $1 for $2 cannot be listed: $(said)"
}

# apt get|cache ARGUMENTS...
apt()
{
	tool=apt-$1
	shift
	"$tool" -c "$state/apt.conf" -q "$@" 2>"$state/log"
}

# What apt complained of, in a line.
said()
{
	sed -n 's/^E: //p' "$state/log" | head -n 1
}

# ---- what is fetched, is put into place whole and once ----

# locked COMMAND...: one fetch at a time; what an interrupted one left behind is its own folder's.
locked()
{
	command -v flock >/dev/null || fail 3 'there is no flock here: this needs a Debian machine'
	mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ] || fail 3 "$cache cannot be written to: AIOR_CACHE names another folder"
	exec 9>"$cache/lock" || exit 1
	flock 9
	work=$cache/work
	rm -rf "$work"
	mkdir "$work" || exit 1
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	"$@"
}

# download PACKAGE...: into the work folder.
download()
{
	(cd "$work" && apt get download "$@" >/dev/null) || fail 3 "$* cannot be fetched: $(said)"
}

# newest_package PATTERN VERSION: the newest one of that version, or the newest that there is.
newest_package()
{
	names=$(apt cache pkgnames linux- |
		grep -xE -e "$(echo "$1" | sed 's/[*]/[0-9][^-]*(-[0-9]+)?/')" | sort -V)
	[ -n "$names" ] || return 1
	echo "$names" | grep -F -e "-$2." | tail -n 1 | grep . || echo "$names" | tail -n 1
}

# get_kernel ROW: into the work folder, in place of its kind from another time.
get_kernel()
{
	IFS='|' read -r suite debian_arch pattern <<-END
		$1
	END
	open_suite "$suite" "$debian_arch"
	package=$(newest_package "$pattern" "${name%%-*}") || fail 3 "Debian's $suite has no $pattern"
	case $package in
	*-"${name%%-*}".*) ;;
	*) echo "fetch.sh: Debian's $suite has no kernel ${name%%-*} any more: $package is taken" >&2 ;;
	esac
	download "$package"
}

# keep_image PATH
keep_image()
{
	dpkg-deb --fsys-tarfile "$work"/*.deb | tar -xO --wildcards '*/vmlinu[xz]*' >"$work/image"
	[ -s "$work/image" ] || fail 1 "there is no kernel image in $package"
	mv "$work/image" "$1"
}

fetch_kernel()
{
	[ ! -s "$2" ] || return 0
	get_kernel "$1"
	keep_image "$2"
}

# keep_modules FOLDER: those of the kernel's package, or of the one that newer kernels have beside it.
keep_modules()
{
	for beside in '' "linux-modules-${package#linux-binary-}"; do
		if [ -n "$beside" ]; then
			rm -f "$work"/*.deb
			download "$(echo "$beside" | sed 's/-unsigned//')"
		fi
		dpkg-deb --fsys-tarfile "$work"/*.deb | tar -t | grep -E "modules\\.(builtin|order)|($root_modules)[^ ]*\\.ko" >"$work/modules" || continue
		mkdir "$1"
		dpkg-deb --fsys-tarfile "$work"/*.deb | tar -x -C "$1" -T "$work/modules" || fail 1 "$package cannot be unpacked"
		return 0
	done
	fail 1 "there are no modules of $package"
}

# get_all PACKAGE...: these, and all that they depend on, unpacked into the work folder.
get_all()
{
	apt get install -y --download-only --no-install-recommends "$@" >/dev/null ||
		fail 3 "$* cannot be fetched: $(said)"
	mkdir "$work/root"
	for package in "$state"/cache/archives/*.deb; do
		dpkg-deb -x "$package" "$work/root" || fail 1 "$package cannot be unpacked"
	done
}

# fetch_root ROW FOLDER IMAGE ARCH
fetch_root()
{
	[ ! -e "$2" ] || return 0
	get_kernel "$1"
	[ -s "$3" ] || keep_image "$3"
	keep_modules "$work/of-kernel"
	# One system for all of its architecture: a suite that has a kernel need not have the rest.
	IFS='|' read -r suite debian_arch <<-END
		$(row "$libraries" "$4")
	END
	open_suite "$suite" "$debian_arch"
	# shellcheck disable=SC2086
	get_all $root_packages
	# Where all lies in /usr, these lead there.
	for folder in bin sbin lib; do
		[ -e "$work/root/$folder" ] || ln -s "usr/$folder" "$work/root/$folder"
	done
	mv "$(find "$work/of-kernel" -type d -name modules)" "$work/root/lib/" || exit 1
	# What is large, and not used.
	for large in share/doc share/man share/locale share/zoneinfo bin/python* lib/python* lib/*/gconv lib/*/perl/*/CORE; do
		rm -rf "$work"/root/usr/$large
	done
	mv "$work/root" "$2"
}

fetch_libs()
{
	[ ! -e "$2" ] || return 0
	IFS='|' read -r suite debian_arch <<-END
		$1
	END
	open_suite "$suite" "$debian_arch"
	# shellcheck disable=SC2086
	download $library_packages
	for package in "$work"/*.deb; do
		dpkg-deb -x "$package" "$work/root" || fail 1 "$package cannot be unpacked"
	done
	mkdir -p "$work/new/lib"
	mv "$work/root/usr/include" "$work/new/"
	mv "$work"/root/usr/lib/*/*.a "$work/new/lib/" || exit 1
	# What a newer glibc's headers made of a few names; a linker script that an older one can use.
	for function in strtol strtoul strtoll strtoull sscanf; do
		echo "PROVIDE(__isoc23_$function = $function);"
	done >"$work/new/lib/libisoc23.a"
	needs=$(sed -n 's/^Requires.private: *//p' "$work"/root/usr/lib/*/pkgconfig/libelf.pc |
		tr -s ', ' '[\n*]' | sed -n 's/^zlib$/z/; s/^lib//; s/^[a-z].*/-l&/p' | tr '\n' ' ')
	echo "-lelf ${needs}-laio -lprotobuf-c -lisoc23" >"$work/new/LIBS"
	mv "$work/new" "$2"
}

# run_by_own_loader NAME PROGRAM: its libraries are newer than this machine's, so it is run by its own loader, wherever
# the folder is.
run_by_own_loader()
{
	libraries=$(cd "$work/root" && ls -d usr/lib/*-linux-gnu)
	loader=$(cd "$work/root" && ls "$libraries"/ld-linux*.so.* "usr/lib"*/ld-linux*.so.* 2>/dev/null | head -n 1)
	[ -n "$loader" ] || fail 1 'there is no loader in libc6'
	cat >"$work/root/$1" <<-END
		#!/bin/sh
		here=\$(dirname "\$(readlink -f "\$0")")
		exec "\$here/$loader" --library-path "\$here/$libraries:\$here/usr/lib" "\$here/$2" "\$@"
	END
	chmod +x "$work/root/$1"
}

fetch_criu()
{
	[ ! -e "$1" ] || return 0
	IFS='|' read -r suite debian_arch <<-END
		$2
	END
	open_suite sid "$debian_arch"
	get_all criu libcriu-dev
	mkdir "$work/root/include"
	ln -s ../usr/include/criu "$work/root/include/criu"
	run_by_own_loader criu usr/sbin/criu
	mv "$work/root" "$1"
}

# Of what it depends on only the libraries: the machine has a gcc.
fetch_cbmc()
{
	[ ! -e "$1" ] || return 0
	IFS='|' read -r suite debian_arch <<-END
		$2
	END
	open_suite sid "$debian_arch"
	download cbmc minisat libc6 libgcc-s1 libstdc++6
	for package in "$work"/*.deb; do
		dpkg-deb -x "$package" "$work/root" || fail 1 "$package cannot be unpacked"
	done
	run_by_own_loader cbmc usr/bin/cbmc
	mv "$work/root" "$1"
}

# fetch_system SUITE PACKAGES PATH
fetch_system()
{
	[ ! -e "$3" ] || return 0
	command -v mmdebstrap >/dev/null || fail 3 'there is no mmdebstrap here'
	[ "$(id -u)" = 0 ] || fail 3 'a system can be made by root only'
	open_suite "$1" "$(dpkg --print-architecture)"
	# Whether an old list will do is the machine's own choice: it may have a mirror that stands still.
	eval "$(apt-config shell valid Acquire::Check-Valid-Until)"
	mmdebstrap --aptopt="Acquire::Check-Valid-Until \"${valid:-true}\"" --quiet --mode=root --variant=minbase --include="$(echo "$2" | tr -s ' ' ',')" "$1" "$work/root" "$list" >"$work/log" 2>&1 ||
		fail 3 "Debian $1 cannot be made: $(grep '^E:' "$work/log" | head -n 1)"
	rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/* "$work"/root/usr/share/locale
	mv "$work/root" "$3"
}

command=${1:-}
case $command-$# in
list-[123])
	list "${2:-}" "${3:-}"
	;;
kernel-3)
	choose "$2" "$3"
	path=$cache/vmlinuz-$2-$3
	[ -s "$path" ] || (locked fetch_kernel "$what" "$path") || exit
	echo "$path"
	;;
root-3)
	choose "$2" "$3"
	path=$cache/root-$2-$3-$(echo "$root_packages $root_modules" | cksum | cut -d ' ' -f 1)
	[ -e "$path" ] || (locked fetch_root "$what" "$path" "$cache/vmlinuz-$2-$3" "$3") || exit
	echo "$path"
	;;
libs-2)
	what=$(row "$libraries" "$2")
	[ -n "$what" ] || fail 2 "there are no libraries for $2; there are: $(column "$libraries" 1 | tr '\n' ' ')"
	# Another list of packages is another folder.
	path=$cache/libs-$2-$(echo "$library_packages" | cksum | cut -d ' ' -f 1)
	[ -e "$path" ] || (locked fetch_libs "$what" "$path") || exit
	echo "$path"
	;;
criu-2)
	what=$(row "$libraries" "$2")
	[ -n "$what" ] || fail 2 "there is no CRIU for $2; there are: $(column "$libraries" 1 | tr '\n' ' ')"
	path=$cache/criu-$2
	[ -e "$path" ] || (locked fetch_criu "$path" "$what") || exit
	echo "$path"
	;;
cbmc-2)
	what=$(row "$libraries" "$2")
	[ -n "$what" ] || fail 2 "there is no CBMC for $2; there are: $(column "$libraries" 1 | tr '\n' ' ')"
	path=$cache/cbmc-$2
	[ -e "$path" ] || (locked fetch_cbmc "$path" "$what") || exit
	echo "$path"
	;;
system-2)
	printf '%s' "$systems" | grep -q "^$2|" || fail 2 "there is no system $2; there are: $(column "$systems" 1 | tr '\n' ' ')"
	what="$system_packages $(row "$systems" "$2")"
	what=${what% }
	path=$cache/system-$2-$(echo "$what" | cksum | cut -d ' ' -f 1)
	[ -e "$path" ] || (locked fetch_system "$2" "$what" "$path") || exit
	echo "$path"
	;;
*)
	usage
	;;
esac
