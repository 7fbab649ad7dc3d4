#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Programs that nobody here wrote, staged and restored again and again at random moments: they must find
# all their work as they have done it, and nothing of a round may stay behind. See tests/Soak.pm.
#
# usage: soak.t [PROGRAM [FORM]]     one program; a part of a form's name: that one only
#
# ROUNDS: of each form; as many as make a short test, if it is not set.
# RUN_SECONDS, PACE: on a machine that is slow, how long each run of one that ends by itself takes, and how many times
# as long programs work between two rounds; so many times slower are slow disks.
# FORMS: a part of a form's name, or a pattern of several, if none is named.
# PROGRAMS: which, if none is named; all, if it is not set.
# STRUCK: in so many of a hundred rounds, as a rule in none, another tool is killed first at any of its system calls.
# SEED: for the same choices again. BUSY: if it is set, others use AIO here, and fs.aio-nr is theirs, too.
use strict;
use warnings;
use lib 'tests';
use Cli;
use Soak;
use Test::More;

my ($only, $form) = @ARGV;
$form //= $ENV{FORMS};
my @known = sort map { m{([^/]+)\.pm$} } glob 'tests/soak/*.pm';
my @names = defined $only ? $only : split ' ', $ENV{PROGRAMS} // '';
@names = @known if !@names;
for my $name (@names) {
    BAIL_OUT("there is no program $name; there are: @known") if !grep { $_ eq $name } @known;
}
my $seed = $ENV{SEED} // int rand 1 << 30;
srand $seed;

my @rows;
for my $name (@names) {
    require "./tests/soak/$name.pm";
    my $program = do { no strict 'refs'; &{"Soak::${name}::program"}() };
    push @rows, soak($program, $ENV{ROUNDS} // 5, $form);
}
note("seed $seed");
note($_) for Soak::table(), Soak::table(@rows);
done_testing;
