#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Runs TAP programs as prove does, and ends with the one line that says it all: first those that watch
# what is the whole system's (fs.aio-nr), one after the other, then those that run beside each other.
#
# usage: harness.pl [TEST...] [-j JOBS TEST...]
#
# A test is a program, with arguments if need be, or a kernel to boot: `qemu:NAME:ARCH`, or `qemu:NAME:ARCH:brief`.
use strict;
use warnings;
use TAP::Harness;

$ENV{BUILD} //= 'build';

my (@alone, @together);
my $jobs = 1;
while (@ARGV) {
    my $test = shift;
    if ($test eq '-j') {
        $jobs = shift;
        @together = splice @ARGV;
    } else {
        push @alone, $test;
    }
}
die "usage: harness.pl [TEST...] [-j JOBS TEST...]\n" unless (@alone || @together) && $jobs =~ /^[1-9]\d*$/;

# What is skipped is shown, with its reason; of guests, also what they say of themselves. What fails is shown again at
# the end, with what its program says of it.
my @skipped;
my @failures;
my ($MOST_FAILURES, $MOST_SAID) = (12, 24);    # tests, and lines of each
my %kernels;
my ($passed, $failed, $skipped) = (0, 0, 0);

# The architectures whose programs run here.
my %local;
@local{ split /, /, $1 } = () if `$ENV{BUILD}/aio-restorer check` =~ /^images that run here +(.*)/m;

# A test is run as it says itself.
sub command
{
    my ($test) = @_;
    return [ 'tests/qemu/boot.pl', split /:/, $1 ] if $test =~ /^qemu:(.+)$/;
    return [ 'echo', "1..0 # SKIP $1" ] if $test =~ /^skip:(.*)/;
    return [ 'echo', "1..0 # SKIP this kernel runs no programs for $1" ] if $test =~ m{/guest/(\w+)/} && !exists $local{$1};
    return [ split / /, $test =~ m{/} ? $test : "./$test" ];
}

sub run_tests
{
    my ($jobs, @tests) = @_;
    my $harness = TAP::Harness->new({
        timer    => 1,
        failures => 1,
        color    => 0,
        jobs     => $jobs,
        exec     => sub { my (undef, $test) = @_; return command($test) },
    });
    $harness->callback(made_parser => sub {
        my ($parser, $test) = @_;
        my @said;       # what a program says right before a test fails tells why
        my $failure;    # the test before has failed: what it says behind it does, too
        $parser->callback(test => sub {
            my ($result) = @_;
            print "\n", map { "$_\n" } @said if !$result->is_ok;
            push @failures, $failure = [ "$test->[1]: " . $result->as_string, @said ] if !$result->is_ok;
            undef $failure if $result->is_ok;
            @said = ();
            push @skipped, "$test->[1]: " . $result->as_string if $result->has_skip;
            $kernels{ $test->[1] } = $1 if $test->[1] =~ /^qemu:/ && $result->description =~ /^- (Linux .*), boots$/;
        });
        $parser->callback(comment => sub {
            my ($comment) = @_;
            push @said, $comment->as_string;
            shift @said if @said > 8;
            push @$failure, $comment->as_string if $failure && @$failure < $MOST_SAID;
            $kernels{ $test->[1] } .= ": $1" if $test->[1] =~ /^qemu:/ && $comment->as_string =~ /: (\d+ tests in [\d.]+ s)$/;
        });
        $parser->callback(plan => sub {
            my ($plan) = @_;
            push @skipped, "$test->[1]: " . $plan->as_string if $plan->has_skip;
        });
    });
    my $all = $harness->runtests(@tests);
    # A program that crashes, or runs another number of tests than it planned, is a failure too.
    $failed += scalar($all->failed) || 1 if $all->has_errors;
    $passed += $all->passed - scalar($all->skipped);
    $skipped += $all->skipped;
}

run_tests(1, @alone) if @alone;
run_tests($jobs, @together) if @together;
print "\nkernels:\n", map { "  $kernels{$_}\n" } sort keys %kernels if %kernels;
print "\nskipped:\n", map { "  $_\n" } @skipped if @skipped;
print "\nfailed:\n", map { my ($test, @said) = @$_; ("  $test\n", map { "    $_\n" } @said) } splice @failures, 0, $MOST_FAILURES if @failures;
print '  and ', scalar @failures, " more\n" if @failures;
printf "\n%d passed, %d failed, %d skipped\n", $passed, $failed, $skipped;
exit($failed ? 1 : 0);
