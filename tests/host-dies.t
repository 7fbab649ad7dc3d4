#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# The tool is killed, or asked to end, at any moment of a stage or restore. The process then goes on as it
# was, or is parked and the next call finishes.
#
# DEATHS says how many times for each way of dying: 30 as a rule.
use strict;
use warnings;
use lib 'tests';
use Cli;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $rounds = $ENV{DEATHS} // 30;
my %most = $SAN ? (stage => 0.3, restore => 0.1) : (stage => 0.06, restore => 0.01);    # seconds, about as long as it takes
my $seed = $ENV{SEED} // time ^ $$;
srand $seed;
diag("SEED=$seed") if $ENV{SEED};

sub is_staged { my ($pid) = @_; return slurp("/proc/$pid/maps") !~ /\[aio\]/ }

# Starts the tool, and sends it a signal after a moment. Returns its exit status, or 'killed'.
sub interrupt
{
    my ($signal, @command) = @_;
    my $moment = rand $most{ $command[0] };
    my $tool = start({ quiet => 1 }, $TOOL, @command);
    sleep $moment;
    kill $signal, $tool->{pid};
    my $status;
    wait_until(sub { waitpid($tool->{pid}, POSIX::WNOHANG()) == $tool->{pid} && defined($status = $?) });
    my $is_ended = defined $status;
    end($tool);
    return 'does not end' if !$is_ended;
    return $status & 127 ? 'killed' : $status >> 8;
}

# One kind of death, again and again. After each, `finish` must succeed and the worker go on.
sub die_often
{
    my ($name, $worker, $signal, $command, @finish) = @_;
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my (@wrong, %ends);
    for my $round (1 .. $rounds) {
        if ($command eq 'restore') {
            my $staged = run_tool('stage', $pid);
            push @wrong, "round $round: stage: $staged->{err}" if $staged->{status};
        }
        my $status = interrupt($signal, $command, $pid);
        $ends{$status}++;
        # A signal may come before the tool is ready for it, and has done nothing.
        my $is_allowed = $signal eq 'KILL' ? qr/^(?:killed|0)$/ : qr/^(?:killed|[013])$/;
        push @wrong, "round $round: $status" if $status !~ $is_allowed;
        # (The blob goes on, and may have come no farther than its first steps.)
        push @wrong, "round $round: exit status 3, and it is not staged" if $status eq '3' && !wait_until(sub { is_staged($pid) });
        push @wrong, "round $round: exit status 1, and it is staged" if $status eq '1' && $command eq 'stage' && is_staged($pid);
        for my $finish (@finish) {
            my $result = run_tool($finish, $pid);
            push @wrong, "round $round, after $status: $finish: $result->{status} $result->{err}" if $result->{status};
        }
        my $why = why_not_well($worker, $before);
        push @wrong, "round $round, after $status: $why" if $why;
        last if @wrong > 2;
    }
    is_deeply(\@wrong, [], "$name, $rounds times: it goes on") or diag("SEED=$seed");
    diag("$name: ", join ', ', map { "$_: $ends{$_}" } sort keys %ends) if $ENV{TEST_VERBOSE};
    goes_on($worker, '... its requests have their events');
    is_as_before($pid, $before, '... it looks as before');
    return;
}

my $busy = worker('--rings', 4, '--threads', 3);
die_often('stage killed, then restore', $busy, 'KILL', 'stage', 'restore');
die_often('stage killed, then stage and restore', $busy, 'KILL', 'stage', 'stage', 'restore');
die_often('restore killed, then restore', $busy, 'KILL', 'restore', 'restore');
die_often('restore killed, then stage and restore', $busy, 'KILL', 'restore', 'stage', 'restore');
for my $signal (qw(INT TERM)) {
    die_often("stage gets SIG$signal", $busy, $signal, 'stage', 'restore');
    die_often("restore gets SIG$signal", $busy, $signal, 'restore', 'restore');
}
ends_well($busy, 'each of its requests has had one event');

# The kernel resumes what was interrupted; the tool must not have had its hands in it.
my $single = worker('--rings', 1, '--threads', 1);
die_often('stage of a single thread killed', $single, 'KILL', 'stage', 'restore');
ends_well($single, 'each of its requests has had one event');

my $exited = worker('--rings', 2, '--threads', 2, '--state', 'leader-exits');
die_often('stage of a process whose first thread has exited killed', $exited, 'KILL', 'stage', 'restore');
ends_well($exited, 'each of its requests has had one event');

SKIP: {
    skip 'no worker for i386 could be built, or it does not run here', 1
        if !-x "$BUILD/tests/worker-i386" || run_command("$BUILD/tests/worker-i386", '--make', fresh())->{status};
    my $worker = worker({ arch => 'i386' }, '--rings', 4, '--threads', 3);
    die_often('i386: stage killed', $worker, 'KILL', 'stage', 'restore');
    die_often('i386: restore killed', $worker, 'KILL', 'restore', 'restore');
    ends_well($worker, 'each of its requests has had one event');
}

# Two at once.
my @two = map { worker('--rings', 2, '--threads', 2) } 1, 2;
my @pids = map { $_->{pid} } @two;
my @before = map { look_of($_) } @pids;
my @wrong;
for my $round (1 .. $rounds) {
    interrupt('KILL', 'stage', @pids);
    my $result = run_tool('restore', @pids);
    push @wrong, "round $round: restore: $result->{err}" if $result->{status};
    for (0, 1) {
        my $why = why_not_well($two[$_], $before[$_]);
        push @wrong, "round $round: $why" if $why;
    }
    last if @wrong > 2;
}
is_deeply(\@wrong, [], "stage of two killed, $rounds times: both go on") or diag("SEED=$seed");
ends_well($_, '... each of its requests has had one event') for @two;

done_testing;
