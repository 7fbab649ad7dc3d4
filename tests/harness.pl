#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Runs TAP programs as prove does, and ends with the one line that says it all.
# usage: harness.pl TEST...
use strict;
use warnings;
use TAP::Harness;

die "usage: harness.pl TEST...\n" unless @ARGV;

# What is skipped is shown, with its reason.
my @skipped;
my $harness = TAP::Harness->new({
    timer    => 1,
    failures => 1,
    color    => 0,
    # A test is run as it says itself.
    exec => sub { my (undef, $file) = @_; [ $file =~ m{/} ? $file : "./$file" ] },
});
$harness->callback(made_parser => sub {
    my ($parser, $test) = @_;
    $parser->callback(test => sub {
        my ($result) = @_;
        push @skipped, "$test->[1]: " . $result->as_string if $result->has_skip;
    });
    $parser->callback(plan => sub {
        my ($plan) = @_;
        push @skipped, "$test->[1]: " . $plan->as_string if $plan->has_skip;
    });
});
my $all = $harness->runtests(@ARGV);
# A program that crashes, or runs another number of tests than it planned, is a failure too.
my $failed = $all->all_passed ? 0 : scalar($all->failed) || 1;
print "\nskipped:\n", map { "  $_\n" } @skipped if @skipped;
printf "\n%d passed, %d failed, %d skipped\n", $all->passed - scalar($all->skipped), $failed,
    scalar($all->skipped);
exit($failed ? 1 : 0);
