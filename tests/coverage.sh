#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs the tests that take no long time in a build that counts lines (make coverage), and says how many of each file of
# the library, the tool and the plugin have run; into build/coverage/uncovered, which have not.
#
# usage: coverage.sh TEST...

set -u
: "${BUILD:?}"

find "$BUILD" -name '*.gcda' -delete
# So that those of other users write, too.
for object in "$BUILD"/loader/*.gcno; do
	: >"${object%.gcno}.gcda"
	chmod 666 "${object%.gcno}.gcda"
done
tests/harness.pl "$@"
status=$?

: >"$BUILD/uncovered"
all=0
run=0
for source in loader/*.c; do
	object=$BUILD/${source%.c}
	[ -s "$object.gcda" ] || continue
	gcov -t -o "$BUILD/loader" "$object.gcda" 2>/dev/null |
		awk -F: -v file="$source" '
			$2 + 0 == 0 && /Source:/ { ours = $NF == file; next }
			ours && $1 ~ /#####/ && !seen[$2]++ { print file ":" $0 | "sed s/#####:// >&2" }
			ours && $1 ~ /#####|[0-9]/ { if ($1 ~ /#####/) missed[$2]; else hit[$2] }
			END {
				for (line in hit) n++
				for (line in missed) if (!(line in hit)) m++
				print n + 0, n + m
			}' >"$BUILD/counted" 2>>"$BUILD/uncovered"
	read -r n of <"$BUILD/counted"
	all=$((all + of))
	run=$((run + n))
	printf '%-24s %5d of %5d lines  %5.1f %%\n' "$source" "$n" "$of" "$(echo "$n $of" | awk '{ print $2 ? 100 * $1 / $2 : 100 }')"
done
printf '%-24s %5d of %5d lines  %5.1f %%\n' 'all' "$run" "$all" "$(echo "$run $all" | awk '{ print $2 ? 100 * $1 / $2 : 100 }')"
echo "what has not run: $BUILD/uncovered"
exit $status
