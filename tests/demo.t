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
pid=$(sed -n 's/^process \([0-9]*\),.*/\1/p' "$work/out" | head -n 1)
if [ -z "$pid" ] || kill -0 "$pid" 2>/dev/null; then
	echo 'not ok 4 - no process is left behind'
else
	echo 'ok 4 - no process is left behind'
fi
echo 1..4
