#!/bin/sh
# SPDX-License-Identifier: MIT
#
# What container.sh does, with podman on top of the runtime: the container is exported to an archive, removed with all that
# podman knows of it, and imported again.
#
# usage: podman.sh RUNTIME     runc, or another command of its kind
#
# podman's state, images and configuration are in a temporary folder; its /etc, /run and /var/lib are the script's own,
# so that nothing of the machine's is touched.

is_sourced=1
# shellcheck source=tests/container.sh
. "$(dirname "$0")/container.sh"
tools='podman conmon'

pod()
{
	CONTAINERS_CONF=/etc/containers/containers.conf PODMAN_IGNORE_CGROUPSV1_WARNING=1 \
		podman --root "$top/storage" --runroot "$top/run" --storage-driver vfs "$@" </dev/null
}

# Where it is now.
find_it()
{
	pid=$(pod inspect --format '{{.State.Pid}}' "$id") && [ "$pid" -gt 0 ] || return 1
	out=$(pod mount "$id")/out
	folder=$(dirname "$(pod inspect --format '{{.OCIConfigPath}}' "$id")")
}

start()
{
	pod run -d --name "$id" --network none --cgroups no-conmon --cgroup-parent "/$id" --pids-limit 0 \
		--annotation "org.criu.config=$top/criu.conf" localhost/program /program /out >"$top/said" 2>&1 && find_it
}

why_not() { tail -n 1 "$top/said"; }

# save [--leave-running]
save()
{
	archive=$top/archive$#.tar
	pod container checkpoint --keep --export "$archive" "$@" "$id"
	result=$?
	cp "$folder/dump.log" "$top/work/"
	[ $result = 0 ] || return 1
	[ $# -gt 0 ] || remove
}

restore()
{
	pod container restore --keep --import "$archive"
	result=$?
	find_it && cp "$folder/restore.log" "$top/work/"
	return $result
}

is_known() { pod container exists "$id"; }
remove()   { pod rm -f -t 0 "$id"; }

more_checks() { :; }

prepare()
{
	out=$top/nothing
	cp -a /etc "$top/etc" && mkdir -p "$top/etc/containers" "$top/lib" "$top/image" || exit 1
	cat >"$top/etc/containers/containers.conf" <<-TOML
		[containers]
		cgroupns = "host"
		log_driver = "k8s-file"
		[engine]
		cgroup_manager = "cgroupfs"
		events_logger = "file"
		runtime = "chosen"
		[engine.runtimes]
		chosen = [ "$runtime" ]
	TOML
	echo '{ "default": [ { "type": "insecureAcceptAnything" } ] }' >"$top/etc/containers/policy.json"
	mount --bind "$top/etc" /etc && mount --bind "$top/lib" /var/lib && mount -t tmpfs none /run || exit 1
	cp "$program" "$top/image/program"
	tar -C "$top/image" -cf "$top/image.tar" program
	pod import -q "$top/image.tar" localhost/program >"$top/said" 2>&1 || skip "podman cannot import an image here: $(why_not)"
}

main "$@"
