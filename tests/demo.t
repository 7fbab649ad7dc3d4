#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The demo shows what it says, and leaves nothing behind.

set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

LC_ALL=C TMPDIR=$work tests/demo.sh >"$work/out" 2>"$work/err"
status=$?
[ "$status" = 0 ] && echo 'ok 1 - the demo ends well' || echo 'not ok 1 - the demo ends well'
if grep -q 'the same ring, and the same 24 events in the same order' "$work/out"; then
	echo 'ok 2 - its events are the same before and after'
else
	sed 's/^/# /' "$work/out" "$work/err"
	echo 'not ok 2 - its events are the same before and after'
fi
if [ "$(ls "$work" | grep -cv -e '^out$' -e '^err$')" = 0 ]; then
	echo 'ok 3 - no file is left behind'
else
	ls "$work" | sed 's/^/# /'
	echo 'not ok 3 - no file is left behind'
fi
left=
pids=$(sed -n 's/^process \([0-9]*\)[,:].*/\1/p' "$work/out" | sort -u)
for pid in $pids; do
	if kill -0 "$pid" 2>/dev/null; then
		left="$left $pid"
	fi
done
if [ -z "$pids" ] || [ -n "$left" ]; then
	echo "# left:$left"
	echo 'not ok 4 - no process is left behind'
else
	echo 'ok 4 - no process is left behind'
fi
name='fio is staged, shown as plain memory, and verifies everything'
if grep -q '^== fio, which the second half' "$work/out"; then
	echo "ok 5 - $name # SKIP $(sed -n 's/^== \(fio, which.*\)/\1/p' "$work/out")"
elif grep -q '1 ring staged' "$work/out" && grep -q ', staged: ' "$work/out" &&
	grep -q '1 ring restored' "$work/out" && grep -q '^fio has verified all' "$work/out" &&
	[ "$(grep -c '/\[aio\]' "$work/out")" = 2 ]; then
	echo "ok 5 - $name"
else
	sed 's/^/# /' "$work/out" "$work/err"
	echo "not ok 5 - $name"
fi
echo 1..5
