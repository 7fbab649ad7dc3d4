#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# The tool is killed at one of its system calls, which is not made: so right behind all that it has done before.
# The process, which has requests in flight, then goes on as it was, or is parked and the next call finishes.
#
# FAULTS, SEED: see tests/Strike.pm; at 40 calls of each command as a rule.
use strict;
use warnings;
use lib 'tests';
use Cli;
use JSON::PP ();
use Strike;
use Test::More;

sub kill_at_calls
{
    my ($name, $worker, $call, @finish) = @_;
    my ($command, @options) = split / /, $call;
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my $first = calls_of($TOOL, '--version');
    run_tool('stage', $pid) if $command eq 'restore';
    my $last = calls_of($TOOL, $command, @options, $pid);
    run_tool('restore', $pid);
    my @calls = draw(40, $first .. $last + 10);    # not each run makes as many
    my ($killed, @wrong) = 0;
    for my $n (@calls) {
        if ($command eq 'restore') {
            my $staged = run_tool('stage', $pid);
            push @wrong, "before call $n: stage: $staged->{err}" if $staged->{status};
        }
        my $log = fresh('.calls');
        my $result = run_command("$BUILD/tests/strike", '--log', $log, '--kill', $n, $TOOL, $command, @options, $pid);
        $killed += $result->{status} == 137;
        my ($call) = slurp($log) =~ /(.*)\n\z/;
        unlink $log;
        push @wrong, "call $n ($call): exit status $result->{status}: $result->{err}"
            if $result->{status} != 137 && $result->{status} != 0;
        for my $finish (@finish) {
            my $finished = run_tool($finish, $pid);
            push @wrong, "after call $n ($call): $finish: $finished->{err}" if $finished->{status};
        }
        my $why = why_not_well($worker, $before);
        push @wrong, "after call $n ($call): $why" if $why;
        last if @wrong > 2;
    }
    is_deeply(\@wrong, [], "$name at each of " . @calls . ' calls: it goes on') or diag("SEED=$SEED");
    ok($killed, "... killed $killed times");
    return;
}

for my $arch (undef, 'i386') {
SKIP: {
        my $program = "$BUILD/tests/worker-i386";
        skip 'no worker for i386 could be built, or it does not run here', 1
            if $arch && (!-x $program || run_command($program, '--make', fresh())->{status});
        my $prefix = $arch ? "$arch: " : '';
        my $worker = worker({ arch => $arch }, '--rings', 3, '--threads', 3);
        kill_at_calls("${prefix}stage killed", $worker, 'stage', 'restore');
        kill_at_calls("${prefix}stage killed, then staged again", $worker, 'stage', 'stage', 'restore') if !$arch;
        kill_at_calls("${prefix}stage killed that keeps room", $worker, 'stage --room 256', 'restore') if !$arch;
        kill_at_calls("${prefix}restore killed", $worker, 'restore', 'restore');
        kill_at_calls("${prefix}restore killed, then staged again", $worker, 'restore', 'stage', 'restore') if !$arch;
        ends_well($worker, '... each of its requests has had one event');
        $worker = worker({ arch => $arch }, '--rings', 3, '--threads', 3, '--by-call');
        kill_at_calls("${prefix}restore --compact killed", $worker, 'restore --compact', 'restore');
        ends_well($worker, '... each of its requests has had one event');
    }
}

# ---- a compact ring ----

# Where head and tail are, and all its events.
sub ring_of
{
    my ($pid) = @_;
    my ($ring) = @{ (json(run_tool('list', $pid, '--json')->{out}) // {})->{rings} // [] };
    return $ring ? ("$ring->{head} $ring->{tail}", JSON::PP->new->canonical->encode($ring->{events})) : ('none', '');
}

# Over themselves: the ring is as it was, or live, whenever the tool dies.
for my $shape ('n=300,head=500,tail=200', 'n=300,head=100,tail=400', 'n=1,head=120,tail=7') {
    my ($killed, %seen, @wrong) = 0;
    my $leaver = leaver('--ring', $shape);
    run_tool('stage', $leaver->{pid});
    my $last = calls_of($TOOL, 'restore', '--compact', $leaver->{pid});
    end($leaver);
    # What comes before is the same without it.
    my @calls = draw(40, $last - 200 .. $last + 5);
    for my $n (@calls) {
        my $leaver = leaver('--ring', $shape);
        run_tool('stage', $leaver->{pid});
        my ($was, $events) = ring_of($leaver->{pid});
        $killed += run_command("$BUILD/tests/strike", '--kill', $n, $TOOL, 'restore', '--compact', $leaver->{pid})->{status} == 137;
        # (What is restored, and has its capsule still, is not listed.)
        my ($is, $left) = ring_of($leaver->{pid});
        $seen{$is}++ if $is ne 'none';
        push @wrong, "call $n: it is $is" if $is ne 'none' && $is ne $was && $is !~ /^0 /;
        push @wrong, "call $n: its events are others" if $is ne 'none' && $left ne $events;
        my $finished = run_tool('restore', $leaver->{pid});
        push @wrong, "after call $n: $finished->{err}" if $finished->{status};
        push @wrong, "after call $n: its events are others, restored" if (ring_of($leaver->{pid}))[1] ne $events;
        end($leaver);
        last if @wrong > 2;
    }
    is_deeply(\@wrong, [], "restore --compact of $shape killed at each of " . @calls . ' calls: it is as it was, or compact') or diag("SEED=$SEED");
    ok($killed && $seen{ (grep { /^0 / } keys %seen)[0] // '' } && keys %seen == 2, "... killed $killed times: " . join ', ', map { "$_: $seen{$_}" } sort keys %seen);
}

done_testing;
