#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs each fuzzer for a time, from its corpus on: `make fuzz`. What it finds is left in BUILD/fuzz/findings, and what
# reaches new code in BUILD/fuzz/new/TARGET.
#
# usage: fuzz.sh SECONDS TARGET...

set -u
seconds=$1
shift
build=${BUILD:-build}
findings=$build/fuzz/findings
mkdir -p "$findings"
failed=0

for target; do
	corpus=tests/fuzz/corpus/$target new=$build/fuzz/new/$target log=$build/fuzz/$target.log
	mkdir -p "$new"
	if [ "$target" = blob ]; then
		"$build/fuzz/plain/blob" -t "$seconds" -s "$(date +%s)" -o "$findings" "$new" "$corpus" >"$log" 2>&1
		status=$?
		ran=$(sed -n 's/^\([0-9]*\) inputs$/\1/p' "$log")
	else
		"$build/fuzz/clang/$target" -max_total_time="$seconds" -max_len=8192 -timeout=20 -malloc_limit_mb=128 \
			-rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$findings/$target-" "$new" "$corpus" >"$log" 2>&1
		status=$?
		ran=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
	fi
	if [ $status = 0 ]; then
		echo "$target: ${ran:-no} inputs, nothing found"
	else
		failed=1
		echo "$target: ${ran:-no} inputs, and a finding: see $log and $findings"
	fi
done
exit $failed
