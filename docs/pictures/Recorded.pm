# SPDX-License-Identifier: MIT
#
# What the pictures are drawn from, taken from programs that run: rings as `aio-restorer list --json` shows
# them, sizes as pie/ring.h has them, and times.
package Recorded;
use strict;
use warnings;
use lib 'tests';
use Cli;

# The fields that are the same in every run.
sub ring_of
{
    my ($pid) = @_;
    my $ring = json(run_tool('list', $pid, '--json')->{out})->{rings}[0];
    return { map { $_ => $ring->{$_} } qw(state nr head tail pending polls) };
}

# One that has wrapped.
sub wrapped
{
    my $leaver = leaver('--ring', 'n=1,head=115,tail=9');
    return ring_of($leaver->{pid});
}

# One with a poll in flight, step by step.
sub steps
{
    my $leaver = leaver('--ring', 'n=1,head=40,tail=64', '--flight');
    my @steps = ring_of($leaver->{pid});
    run_tool('stage', $leaver->{pid});
    push @steps, ring_of($leaver->{pid});
    run_tool('restore', $leaver->{pid});
    push @steps, ring_of($leaver->{pid});
    return \@steps;
}

sub program
{
    my ($source, @arguments) = @_;
    my $file = spit(fresh('.c'), $source);
    my $made = run_command('gcc', '-O1', '-Ipie', '-o', "$file.bin", $file, @arguments);
    die $made->{err} if $made->{status};
    return run_command("$file.bin")->{out};
}

# For pages of 4 KiB: up to how many possible CPUs the smallest ring has how many slots.
sub sizes
{
    my $said = program(<<'C');
#include <stdint.h>
#include <stdio.h>
#include "ring.h"
int main(void)
{
	for (uint32_t cpus = 1; cpus <= 255; cpus++)
		printf("%u %u\n", cpus, aio_ring_nr((uint32_t)aio_ring_len(1, cpus, 4096)));
	return 0;
}
C
    my %last;
    $last{$2} = $1 while $said =~ /^(\d+) (\d+)$/mg;
    return [ map { { cpus => 0 + $last{$_}, nr => 0 + $_ } } sort { $a <=> $b } keys %last ];
}

# How long contexts take to be destroyed, in ms: one after the other, and as `stage` does it.
sub times
{
    my %times = (row => [], stage => []);
    my $said = program(<<'C', '-laio');
#include <libaio.h>
#include <stdio.h>
#include <time.h>
int main(void)
{
	static const int counts[] = {1, 2, 4, 8, 16, 32, 64};
	for (int c = 0; c < 7; c++) {
		io_context_t ctx[64] = {0};
		struct timespec from, to;
		for (int i = 0; i < counts[c]; i++)
			if (io_setup(1, &ctx[i]))
				return 1;
		clock_gettime(CLOCK_MONOTONIC, &from);
		for (int i = 0; i < counts[c]; i++)
			io_destroy(ctx[i]);
		clock_gettime(CLOCK_MONOTONIC, &to);
		printf("%d %.1f\n", counts[c], (to.tv_sec - from.tv_sec) * 1e3 + (to.tv_nsec - from.tv_nsec) / 1e6);
	}
	return 0;
}
C
    push @{ $times{row} }, { rings => 0 + $1, ms => 0 + $2 } while $said =~ /^(\d+) ([\d.]+)$/mg;
    for my $count (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000) {
        my $leaver = leaver('--ring', "n=1,count=$count");
        my $staged = json(run_tool('stage', $leaver->{pid}, '--json')->{out});
        push @{ $times{stage} }, { rings => $count, ms => 0 + $staged->{stood_ms} };
        run_tool('restore', $leaver->{pid});
    }
    return \%times;
}

1;
