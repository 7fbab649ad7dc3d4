# SPDX-License-Identifier: MIT
#
# What the tests of broken images share: one clear line, never a crash, never memory for what a header claims.
package Hostile;
use strict;
use warnings;
use Cli;
use Exporter 'import';
use Test::More;

our @EXPORT = qw($SEED image_is mutants_are);

our $SEED = $ENV{SEED} // 20261123;
diag("SEED=$SEED");

# How many mutants are used, where each is a program that is run, and how many there are.
our ($FEW, $MANY) = $SAN ? (400, 6000) : (40, 12000);

# Nothing that a small file says may take more than this, where sanitizers do not need more.
our @limited = $SAN || !have('prlimit') ? () : ('prlimit', '--as=268435456', '--cpu=20');

# list, run and check of it fail with that status and one line; or all succeed (0).
sub image_is
{
    my ($name, $status, $pattern, $path, %statuses) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    for my $command (qw(list run check)) {
        my $result = run_command({ seconds => 20 }, @limited, $TOOL, $command, $path);
        my $right = $statuses{$command} // $status;
        my $is_right = $result->{status} == $right
            && ($right ? $result->{err} =~ /\Aaio-restorer: .{10,}\n\z/ && $result->{err} =~ $pattern : $result->{err} eq '');
        ok($is_right, "$name: $command") or diag explain { %$result, out => substr $result->{out}, 0, 500 };
    }
}

sub are_read
{
    my ($path, $name, $seed, $step, @command) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $result = run_command({ seconds => 100 }, @limited, "$BUILD/tests/hostile", $path, $seed, $MANY, $step, @command);
    my ($counts) = $result->{out} =~ /^(\d+ accepted.*)$/m;
    ok($result->{status} == 0 && $counts, "$name: " . ($counts // '')) or keep($path, $result);
}

# A failure can be looked at again.
sub keep
{
    my ($path, $result) = @_;
    diag explain $result;
    return if !-e "$path.bad";
    system 'cp', '-a', "$path.bad", "$BUILD/tests/";
    diag("the first of them is kept in $BUILD/tests/");
}

# Thousands of mutants of an image, for the reader and for each command.
sub mutants_are
{
    my ($path, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    are_read($path, "$name, broken in many ways, read", $SEED, 1);
    are_read($path, '... list', $SEED + 1, $FEW, $TOOL, 'list');
    are_read($path, '... check', $SEED + 2, $FEW, $TOOL, 'check');
    # The end of a process that has contexts takes the kernel some 30 ms.
    are_read($path, '... run', $SEED + 3, 4 * $FEW, $TOOL, 'run');
}

1;
