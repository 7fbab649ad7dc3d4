#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The Debian packages, built, installed and used in a clean system: what debian/tests does, and docs/embedding.md
# followed to the letter.
#
# usage: packages.sh bookworm|sid

set -u
unset MAKEFLAGS MFLAGS MAKELEVEL SAN CC CFLAGS
suite=$1
count=0

skip_all()
{
	echo "1..0 # SKIP $1"
	exit 0
}

[ "$(id -u)" = 0 ] || skip_all 'mounts take root'
unshare --mount true 2>/dev/null || skip_all 'no mount namespaces here'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
system=$(tests/fetch.sh system "$suite" 2>"$work/said") || skip_all "$(sed 's/^fetch.sh: //' "$work/said" | head -n 1)"

# inside COMMAND: in the system, all of whose changes are gone with the test.
inside()
{
	unshare --mount sh -c '
		mount --make-rprivate / && mkdir -p "$1/keep/upper" "$1/keep/work" &&
		mount -t overlay -o "lowerdir=$2,upperdir=$1/keep/upper,workdir=$1/keep/work" none "$1/root" &&
		for folder in proc dev sys; do mount --rbind "/$folder" "$1/root/$folder" || exit 1; done &&
		exec env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
			PROFILES="$4" chroot "$1/root" sh -ec "$3"' sh "$work" "$system" "$1" "$profiles"
}

ok()
{
	name="$suite: $1"
	shift
	count=$((count + 1))
	if "$@" >"$work/out" 2>&1; then
		echo "ok $count - $name"
	else
		tail -n 30 "$work/out" | sed 's/^/# /'
		echo "not ok $count - $name"
	fi
}

# The cross compilers are large: each architecture's own blobs are enough here.
profiles=pkg.aio-restorer.native
[ -e "$system/usr/include/criu/criu-plugin.h" ] || profiles="$profiles pkg.aio-restorer.nocriu"
mkdir -p "$work/root" "$work/keep/upper/src"
inside true 2>"$work/said" || skip_all "no overlay can be mounted here: $(head -n 1 "$work/said")"

ok 'a release' make -s dist BUILD="$work/build" DIST="$work/release.tar.gz"
tar -xzf "$work/release.tar.gz" -C "$work/keep/upper/src" --strip-components=1
ok 'built, with what debian/control names' inside 'cd /src && dpkg-buildpackage -b -us -uc -P"$(echo $PROFILES | tr " " ,)"'
cp "$work/out" "$work/built"
ok 'no warning of its compiler' sh -c '! grep -B 3 -A 5 "warning: .*\[-W" "$1"' sh "$work/built"
ok 'installed' inside 'rm -f /*-dbgsym_*.deb; dpkg -i /*.deb'
ok 'the tool' inside 'aio-restorer --version && aio-restorer check >/dev/null'
# From here on there is no source any more.
rm -rf "$work/keep/upper/src"
ok 'the examples, as debian/tests has them' inside '
	mkdir /try && cp -r /usr/share/doc/libaio-restorer-dev/examples /try/ && cd /try && make -C examples OUT=/try/out &&
	for example in embed-c embed-rust inject self; do timeout 60 out/$example; done >said'
for example in 'data 104 res 1' 'restored: 1 ring; 1 live' 'child: data 2' 'parent: data 2'; do
	ok "... say: $example" grep -qx "$example" "$work/keep/upper/try/said"
done
ok 'Embedding, followed to the letter' inside '
	page=/usr/share/doc/libaio-restorer-dev/embedding.md
	arch=$(aio-restorer check | sed -n "s/^architecture *//p")
	block() { awk -v want="$1" "/^\`\`\`/ { open = !open; if (open) n++; next } open && n == want" $page |
		sed "s/x86_64/$arch/g; s/X86_64/$(echo $arch | tr a-z A-Z)/g"; }
	mkdir /first && cd /first && block 2 >first.c && { block 1; block 3; } >commands && block 4 >expected && [ -s first.c ] && [ -s expected ] &&
	sh -e commands >said && diff expected said'
if [ -e "$system/usr/sbin/criu" ]; then
	program=${BUILD:-build}/tests/checkpointed
	mkdir -p "$work/keep/upper/carried/images"
	cp "$program" "$work/keep/upper/carried/"
	# Four polls are in flight: without the plugin none of them would come.
	ok 'CRIU, with the plugin that is installed' inside '
		cd /carried
		setsid ./checkpointed polls </dev/null >said 2>&1 &
		pid=$!
		for i in $(seq 100); do grep -q ready said && break; sleep 0.1; done
		criu dump -t $pid -D images -v4 -o dump.log --manage-cgroups=ignore || { grep -i "error\|aio_restorer" images/dump.log; exit 1; }
		wait $pid || :
		criu restore -d -D images -v4 -o restore.log --manage-cgroups=ignore || { grep -i "error\|aio_restorer" images/restore.log; exit 1; }
		kill -USR1 $pid
		for i in $(seq 100); do [ $(wc -l <said) -lt 2 ] || break; sleep 0.1; done
		cat said'
	ok '... nothing is lost' grep -qx '4 of 4.*' "$work/keep/upper/carried/said"
fi
ok 'removed' inside 'dpkg -r $(dpkg-query -W -f "\${Package} " "*aio-restorer*") && ! ls /usr/bin/aio-restorer /usr/lib/criu /usr/include/aio-restorer 2>/dev/null'

# The same without packages, as README.md says.
mkdir "$work/keep/upper/src"
tar -xzf "$work/release.tar.gz" -C "$work/keep/upper/src" --strip-components=1
ok 'make, and make install' inside 'cd /src && make 2>&1 && make install'
ok 'the examples' inside 'cd /src && aio-restorer --version && make -C examples OUT=/out && for example in embed-c embed-rust inject self; do timeout 60 /out/$example; done'
ok 'make uninstall leaves nothing' inside 'cd /src && make uninstall && ! find /usr/local -name "*aio*" | grep .'
echo "1..$count"
