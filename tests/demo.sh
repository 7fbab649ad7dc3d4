#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The whole path, shown: a real libaio program is dumped and killed, and its ring comes back to life
# in another process.

set -eu

build=${BUILD:-build}
tool=$build/aio-restorer
work=$(mktemp -d)
program=
trap 'if [ -n "$program" ]; then kill "$program" 2>/dev/null || :; fi; rm -rf "$work"' EXIT
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
