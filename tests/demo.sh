#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The whole path, shown: a real libaio program is dumped and killed, and its ring comes back to life
# in another process. Then fio, under load, is nothing but plain memory for a moment, and does not notice.

set -eu

build=${BUILD:-build}
tool=$build/aio-restorer
work=$(mktemp -d)
disk=
program=
# A parked program ends by SIGKILL only.
trap 'if [ -n "$program" ]; then kill -KILL "$program" 2>/dev/null || :; fi; rm -rf "$work" $disk' EXIT
trap 'exit 1' INT TERM

say()
{
	printf '\n%s\n' "== $*"
}

run()
{
	printf '\n$ %s\n' "$*"
	"$@"
}

say "A program that uses libaio runs. Its ring has wrapped, and 24 events wait in it."
"$build/tests/demo" >"$work/out" &
program=$!
while ! grep -q ready "$work/out"; do
	kill -0 "$program"
	sleep 0.05
done
run "$tool" list "$program"
"$tool" list "$program" --events >"$work/before"

say "Its rings are saved, and it is killed."
run "$tool" dump "$program" -o "$work/rings.core"
kill "$program"
{ wait "$program" || :; } 2>/dev/null
program=

say "They come back in a fresh process, and what is pending is reaped through io_getevents."
run "$tool" run "$work/rings.core" | tee "$work/after"

say "Before and after, event by event:"
grep '^ring' "$work/before" | sed 's/live/.../' >"$work/rings.before"
grep '^ring' "$work/after" | sed 's/restored/.../' >"$work/rings.after"
grep 'slot ' "$work/before" >"$work/events.before"
grep 'slot ' "$work/after" >"$work/events.after"
if cmp -s "$work/rings.before" "$work/rings.after" &&
	cmp -s "$work/events.before" "$work/events.after"; then
	printf 'the same ring, and the same %d events in the same order\n' \
		"$(wc -l <"$work/events.after")"
else
	diff "$work/before" "$work/after" || :
	echo "they differ"
	exit 1
fi

# ---- live ----

if ! command -v fio >/dev/null 2>&1; then
	say "fio, which the second half is shown with, is not there, and could not be installed. That is all, then."
	exit 0
fi

# A folder whose files take O_DIRECT: else there is nothing in flight.
for folder in "$build" /var/tmp "$work"; do
	if dd if=/dev/zero of="$folder/direct.$$" bs=4096 count=1 oflag=direct 2>/dev/null; then
		rm -f "$folder/direct.$$"
		disk=$(mktemp -d "$folder/demo-XXXXXX")
		break
	fi
	rm -f "$folder/direct.$$"
done
if [ -z "$disk" ]; then
	say "fio, which the second half is shown with, finds no file system here that takes O_DIRECT. That is all, then."
	exit 0
fi

# The mapping that the address is in.
mapping()
{
	awk -F '[- ]' -v at="$2" 'length($1) == length(at) && $1 "" <= at "" && at "" < $2 "" { print "  " $0 }' \
		"/proc/$1/maps"
}

say "fio writes, reads back and verifies, with 32 requests in flight at any time."
fio --name=demo --thread --directory="$disk" --ioengine=libaio --direct=1 --rw=randwrite --bs=256k --iodepth=32 \
	--size=64m --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_backlog=64 --serialize_overlap=1 --verify_state_save=0 \
	--time_based --runtime=3 --eta=never --output="$work/fio" 2>"$work/fio.errors" &
program=$!
while ! grep -q '/\[aio\]' "/proc/$program/maps"; do
	kill -0 "$program"
	sleep 0.05
done
sleep 0.5
run "$tool" list "$program"
ring=$(sed -n 's/^\([0-9a-f]*\)-.*\/\[aio\].*/\1/p' "/proc/$program/maps" | head -n 1)
printf '\nIn /proc/%s/maps its ring is one, which no checkpoint tool can save whole:\n' "$program"
mapping "$program" "$ring"

say "It is staged: what was in flight has been done, and it sleeps."
run "$tool" stage "$program"
run "$tool" list "$program"
printf '\nIn /proc/%s/maps the same place is plain memory now, which any tool can carry:\n' "$program"
mapping "$program" "$ring"
sleep 0.5

say "It is restored, and goes on."
run "$tool" restore "$program"
printf '\n'
mapping "$program" "$ring"
status=0
wait "$program" || status=$?
program=

say "What fio says of it, in the end:"
grep -E '^demo: \(groupid|issued rwts' "$work/fio" || :
cat "$work/fio.errors"
if [ "$status" != 0 ]; then
	echo "fio has failed: exit status $status"
	exit 1
fi
echo "fio has verified all that it wrote, and has found no error"
