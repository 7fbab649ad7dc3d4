#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The bench runs, and measures every row that this host can: with a hundredth of its rounds, so its
# numbers mean nothing here.

set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ "$(cat /proc/sys/fs/aio-max-nr 2>/dev/null || echo 0)" -lt 65536 ]; then
	echo '1..0 # SKIP fs.aio-max-nr is too small for a bench, or there is no AIO'
	exit 0
fi
if TEST_EFFORT=1 tests/bench.pl "$work/bench.json" "$work/bench.svg" >"$work/out" 2>&1; then
	echo 'ok 1 - the bench ends well'
else
	sed 's/^/# /' "$work/out"
	echo 'not ok 1 - the bench ends well'
fi
if perl -MJSON::PP -0777 -e 'my $b = decode_json(<STDIN>); my %t = map { $_->{name} => $_->{rows} } @{ $b->{tables} };
	print "# $_: ", scalar @{ $t{$_} }, " rows\n" for sort keys %t;
	print "# $_: not measured: $b->{$_}{not_measured}\n" for grep { $b->{$_}{not_measured} } qw(fio criu);
	exit !(@{ $t{restore} } == 5 && $t{restore}[0]{ratio} > 0 && $t{restore}[0]{"plain way"} && $t{stage}[0]{ours}{us} > 0
		&& $t{compact}[0]{exact} && $t{run}[1]{floor} && @{ $b->{live}{rows} } == 3
		&& !grep { !$b->{$_}{ratio} && !$b->{$_}{not_measured} } qw(fio criu))' <"$work/bench.json"; then
	echo 'ok 2 - its results are JSON, with times'
else
	sed 's/^/# /' "$work/bench.json" "$work/out"
	echo 'not ok 2 - its results are JSON, with times'
fi
if ! command -v gnuplot >/dev/null; then
	echo 'ok 3 - a picture # SKIP there is no gnuplot'
elif grep -q '</svg>' "$work/bench.svg"; then
	echo 'ok 3 - a picture'
else
	echo 'not ok 3 - a picture'
fi
echo 1..3
