#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Checkpoints of containers: an OCI runtime runs one, CRIU with the plugin saves it while it goes on, and once more, ending it; it
# is restored, and goes on where it was. In it is container-program, which checks all of its events.
#
# usage: container.sh RUNTIME     runc, or another command of its kind
#
# Whatever happens, nothing is left: all processes and mounts are in namespaces that end with this script.

set -u
export LC_ALL=C
BUILD=${BUILD:-build}
program=$BUILD/tests/container-program
plugin=$BUILD/aio_restorer.so
tools= # other commands that it takes

# The machine cannot do it: that is no failure.
skip()
{
	echo "1..0 # SKIP $1"
	exit 0
}

# ---- outside: what starts, ends and cleans up ----

outside()
{
	[ $# = 1 ] || { echo "usage: ${0##*/} RUNTIME" >&2; exit 2; }
	[ "$(id -u)" = 0 ] || skip 'containers take root'
	criu=${CRIU:-$BUILD/criu/criu}
	[ -x "$criu" ] || skip "$(cat "$BUILD/criu.missing" 2>/dev/null || echo 'there is no CRIU here (make check fetches it)')"
	[ -e "$plugin" ] || skip 'the plugin was not built: there is no criu/criu-plugin.h, or it is a build with sanitizers'
	[ -x "$program" ] || skip "there is no $program (make tests)"
	for tool in "$1" $tools unshare setpriv; do
		command -v "$tool" >/dev/null || skip "there is no $tool here"
	done
	said=$("$criu" check -v4 2>&1) || skip "criu check: $(echo "$said" | grep -m 1 Error)"
	child=
	top=$(mktemp -d "${TMPDIR:-/tmp}/aior-container.XXXXXX") && mkfifo "$top/alive" || exit 1
	runtime=$(realpath "$(command -v "$1")") criu=$(realpath "$criu")
	export top runtime criu
	# What cleans up waits for the end of this shell, even of one that is killed.
	(trap '' HUP INT TERM && exec <"$top/alive" >/dev/null 2>&1 && cat && clean) &
	cleaner=$!
	exec 9>"$top/alive"
	trap 'end' EXIT
	trap 'exit 1' HUP INT TERM
	# When this shell is killed, unshare is; with it its first process; and with that one all others.
	setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc sh "$0" --inside 9>&- &
	child=$!
	wait "$child"
	status=$? child=
	exit "$status"
}

end()
{
	[ -z "$child" ] || kill -KILL "$child"
	exec 9>&-
	wait "$cleaner"
}

cgroups() { find /sys/fs/cgroup -depth -type d -path "*/${top##*/}*" 2>/dev/null; }

clean()
{
	# Cgroups outlive their processes, which take a moment to go, and do not while they are frozen.
	for _ in $(seq 50); do
		cgroups | while read -r group; do
			[ ! -e "$group/freezer.state" ] || echo THAWED >"$group/freezer.state"
			[ ! -e "$group/cgroup.freeze" ] || echo 0 >"$group/cgroup.freeze"
			rmdir "$group"
		done 2>/dev/null
		[ -n "$(cgroups)" ] || break
		sleep 0.1
	done
	rm -rf "$top"
}

# ---- inside: what is true of the container ----

count=0 failed=0

# ok NAME COMMAND...: what the command prints is shown when it fails, with what the program and CRIU say.
ok()
{
	name=$1 count=$((count + 1))
	shift
	if "$@" >"$top/said" 2>&1; then
		echo "ok $count - $name"
	else
		failed=1
		echo "not ok $count - $name"
		sed 's/^/# /' "$top/said"
		[ ! -e "$out.failed" ] || sed 's/^/# program: /' "$out.failed"
		grep -h -e Error "$top"/work/*.log 2>/dev/null | grep -v RLIMIT_NOFILE | tail -n 8 | sed 's/^/# /'
	fi
}

# The last number that it has written.
reached() { tail -n 1 "$out" 2>/dev/null | grep . || echo 0; }

# In so many numbers the event of each poll must have come twice, or been missed.
goes_on()
{
	goal=$(($(reached) + 40))
	for _ in $(seq 100); do
		[ "$(reached)" -lt "$goal" ] || return 0
		sleep 0.2
	done
	echo "it has reached $(reached), and not $goal"
	return 1
}

is_still()
{
	before=$(reached)
	sleep 1
	[ "$(reached)" = "$before" ]
}

is_whole()
{
	cp "$out" "$top/copy"
	seq 1 "$(tail -n 1 "$top/copy")" | cmp - "$top/copy" && [ ! -e "$out.failed" ]
}

is_apart()
{
	for ns in pid mnt ipc uts net; do
		[ "$(readlink "/proc/$pid/ns/$ns")" != "$(readlink "/proc/self/ns/$ns")" ] || return 1
	done
}

is_gone() { ! is_known && ! kill -0 "$pid" 2>/dev/null; }

# logs LOG PATTERN
logs() { grep -q "$2" "$top/work/$1" || { grep aio_restorer "$top/work/$1"; return 1; }; }

# ---- inside: the runtime ----

# What the container inherits must not be a file from outside of it: CRIU could not save it.
oci() { "$runtime" --root "$top/state" "$@" </dev/null; }

start()
{
	oci run -d --bundle "$top/bundle" --pid-file "$top/pid" "$id" >/dev/null 2>&1 && pid=$(cat "$top/pid")
}

why_not() { oci run --bundle "$top/bundle" "$id" 2>&1 | tail -n 1; }

# save [--leave-running]
save()
{
	images=$top/images$#
	oci checkpoint --image-path "$images" --work-path "$top/work" "$@" "$id"
}

restore()
{
	oci restore -d --bundle "$top/bundle" --pid-file "$top/pid" --image-path "$images" --work-path "$top/work" \
		"$id" >/dev/null 2>&1 && pid=$(cat "$top/pid")
}

is_known() { oci state "$id"; }
remove()   { oci delete -f "$id"; }

# As engines under Kubernetes do it.
save_frozen()
{
	oci pause "$id" && save --leave-running
	result=$?
	oci resume "$id" && return $result
}

more_checks()
{
	ok 'it is checkpointed while it is frozen, and left running' save_frozen
	ok 'its ring was plain memory again' "$@"
	ok 'it goes on' goes_on
}

prepare()
{
	mkdir -p "$top/state" "$top/bundle/rootfs/proc" "$top/bundle/rootfs/dev"
	out=$top/bundle/rootfs/out
	cp "$program" "$top/bundle/rootfs/program"
	cat >"$top/bundle/config.json" <<-JSON
		{ "ociVersion": "1.0.2", "hostname": "container", "annotations": { "org.criu.config": "$top/criu.conf" },
		  "root": { "path": "rootfs" }, "mounts": [ { "destination": "/proc", "type": "proc", "source": "proc" } ],
		  "process": { "user": { "uid": 0, "gid": 0 }, "args": [ "/program", "/out" ], "env": [ "PATH=/" ], "cwd": "/" },
		  "linux": { "cgroupsPath": "/$id", "namespaces": [ { "type": "pid" }, { "type": "mount" }, { "type": "ipc" },
		    { "type": "uts" }, { "type": "network" } ] } }
	JSON
}

inside()
{
	mount --make-rprivate / && mkdir "$top/bin" "$top/work" "$top/plugins" && ln -s "$criu" "$top/bin/criu" &&
		cp "$plugin" "$top/plugins/" || exit 1
	PATH=$top/bin:$PATH id=${top##*/}
	# Read by CRIU behind its own configuration. It has no connections to keep, and the host needs no firewall's tools.
	printf 'libdir %s\nnetwork-lock skip\n' "$top/plugins" >"$top/criu.conf"
	prepare
	start || skip "${runtime##*/} cannot run a container here: $(why_not)"
	ok 'the container runs' goes_on
	ok 'in namespaces of its own' is_apart
	ok 'it is checkpointed, and left running' save --leave-running
	set -- logs dump.log ' aio_restorer: .* 1 rings .* with [7-9] events pending, .* and [12] polls'
	ok 'its ring was plain memory then' "$@"
	ok 'it goes on' goes_on
	rm "$top/work/dump.log"
	more_checks "$@"
	ok 'it is checkpointed, and ended' save
	ok 'it is gone' is_gone
	ok 'nothing counts any more' is_still
	ok 'it is restored' restore
	ok 'it goes on where it was' goes_on
	ok 'and CRIU had the plugin' logs restore.log 'Plugin "aio_restorer"'
	ok 'in namespaces of its own again' is_apart
	ok 'no number is missing, none is there twice' is_whole
	ok 'it is deleted' remove
	echo "1..$count"
	return "$failed"
}

main() { if [ "${1-}" = --inside ]; then inside; else outside "$@"; fi; }

[ -n "${is_sourced-}" ] || main "$@"
