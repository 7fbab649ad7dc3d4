#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Whatever the project reads that an enemy may have written: each target of the fuzzers (tests/fuzz/) takes all that is
# in its corpus, where what a fuzzer has found stays. The programs are built with sanitizers, if the compiler has them.
use strict;
use warnings;
use lib 'tests';
use Cli;
use Test::More;

my $FOLDER = 'tests/fuzz/corpus';

my @targets = map { s{.*/}{}r } glob "$FOLDER/*";
ok(@targets >= 7, "targets: @targets");
for my $target (@targets) {
    my $program = "$BUILD/fuzz/plain/$target";
    my $inputs = grep { -f } glob "$FOLDER/$target/*";
  SKIP: {
        # (What images are read with may not be there.)
        skip "$target is not built", 2 if !-x $program;
        my $result = run_command($program, "$FOLDER/$target");
        my ($ran) = $result->{out} =~ /^(\d+) inputs$/m;
        ok($result->{status} == 0, "$target: nothing is found") or diag last_lines($result->{err});
        is($ran // 'none', $inputs, "$target: $inputs inputs");
    }
}

# An input that is a finding is found: else all that is above would say nothing.
my $broken = run_command("$BUILD/fuzz/plain/maps", '--break');
isnt($broken->{status}, 0, 'a broken promise ends the program');
like($broken->{err}, qr/broken promise: /, '... and says so');
done_testing();

# The file that was read last, and what was said of it.
sub last_lines
{
    my @lines = split /\n/, $_[0];
    return join "\n", @lines > 40 ? @lines[-40 .. -1] : @lines;
}
