#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# The target misbehaves: it dies, changes, is traced by others, runs out of something, or writes over what the tool
# has in its memory, at any moment. The tool never crashes and never hangs; it does what it was asked to or says
# why not; and whoever was asked for beside such a process is none the worse for it.
#
# FAULTS says at how many of the tool's system calls, drawn at random (SEED), something befalls the target: 12 as a
# rule, and at half of them where there are many kinds; all: at each of them. ROUNDS: how often each storm is staged and restored: 10 as a rule. PARTS names parts,
# as they are listed at the end of this file, if not all are to be run.
use strict;
use warnings;
use lib 'tests';
use Cli;
use List::Util qw(min shuffle);
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $faults = $ENV{FAULTS} // 12;
my $rounds = $ENV{ROUNDS} // 10;
my $seed = $ENV{SEED} // time ^ $$;
srand $seed;

my $is_root = $> == 0;
my ($STRIKE, $MISBEHAVE) = map { "$BUILD/tests/$_" } qw(strike misbehave);
my $nobody = (getpwnam 'nobody')[2] // 65534;

# What a run of the tool may end as, whatever has befallen its target: with one line that says it.
sub why_wrong
{
    my ($result) = @_;
    return "killed by signal $result->{signal}" if $result->{status} < 0;
    return "exit status $result->{status}: $result->{err}" if $result->{status} !~ /^[0134]$/;
    my ($error) = $result->{err} =~ /^(aio-restorer: (?!warning).+)$/m;
    return "exit status $result->{status}, and no reason: $result->{err}" if $result->{status} && !$error;
    return $result->{err} =~ /Sanitizer|runtime error/ ? "sanitizer: $result->{err}" : undef;
}

# A command that cannot be looked through for leaks: it is traced, or cannot start the thread which does that.
sub run_leaking
{
    local $ENV{ASAN_OPTIONS} = join ':', grep { defined } $ENV{ASAN_OPTIONS}, 'detect_leaks=0';
    return run_command(@_);
}

sub run_struck { return run_leaking($STRIKE, @_) }

# How many calls, of that name if one is given, a command makes.
sub calls_of
{
    my ($only, @command) = @_;
    my $result = run_struck($only ? ('--only', $only) : (), @command);
    return $result->{err} =~ /^(\d+) calls$/m ? $1 : die "strike: $result->{status} $result->{err}";
}

# A part of the calls from `first` to `last`.
sub some_of
{
    my ($first, $last, $part) = @_;
    my @calls = $first .. $last;
    my $most = $faults eq 'all' ? @calls : min(scalar @calls, POSIX::ceil($faults / ($part // 1)));
    @calls = (shuffle @calls)[ 0 .. $most - 1 ];
    return sort { $a <=> $b } @calls;
}

# What befalls at a call: an action of a shell. The log's last line is that call.
sub at_call
{
    my ($n, $only, $action, @command) = @_;
    my $log = fresh('.calls');
    my $result = run_struck($only ? ('--only', $only) : (), '--log', $log, '--run', $n, $action, @command);
    my @calls = split /\n/, slurp($log);
    $result->{call} = $calls[ $n - 1 ] // 'none';
    $result->{is_struck} = @calls >= $n;
    unlink $log;
    return $result;
}

# The worker goes on, is not parked, and nothing is left of the tool's.
sub why_not_free
{
    my ($worker) = @_;
    my $pid = $worker->{pid};
    return 'it has ended' if has_ended($pid);
    my @wrong = grep { /VIOLATION/ } lines_of($worker);
    return "@wrong" if @wrong;
    return 'it is traced' if slurp("/proc/$pid/status") !~ /^TracerPid:\s+0$/m;
    my @left = journal($pid);
    return "the tool has left @left" if @left;
    my $before = (grep { /^ok/ } lines_of($worker))[-1];
    wait_until(sub { (grep { /^ok|VIOLATION/ } lines_of($worker))[-1] ne $before || has_ended($pid) }, 20) or return 'it stands still';
    @wrong = grep { /VIOLATION/ } lines_of($worker);
    return @wrong ? "@wrong" : undef;
}

# A libaio program with two rings, events and a poll in them; some of its own threads.
sub victim { return leaver('--ring', 'n=10,head=3,tail=9', '--ring', 'n=300,head=500,tail=200', '--flight', '--threads', 2) }

# ---- it is killed ----

# Right before each call of the tool; another process is asked for beside it.
sub test_killed
{
    my $other = worker('--rings', 2, '--threads', 2);
    my $before = look_of($other->{pid});
    my $first = calls_of(undef, $TOOL, '--version');
    for my $command ('stage', 'restore', 'restore --compact', 'dump') {
        my ($verb, @options) = split / /, $command;
        my @arguments = $verb eq 'dump' ? ('-o', "$DIR/killed.core") : $other->{pid};
        my $victim = victim();
        run_tool('stage', $victim->{pid}, $other->{pid}) if $verb eq 'restore';
        my $last = calls_of(undef, $TOOL, $verb, @options, $victim->{pid}, @arguments);
        run_tool('restore', $other->{pid});
        end($victim);
        my (@wrong, %ends);
        my @calls = some_of($first, $last);
        for my $n (@calls) {
            my $victim = victim();
            my $pid = $victim->{pid};
            run_tool('stage', $pid, $other->{pid}) if $verb eq 'restore';
            my $result = at_call($n, undef, "$MISBEHAVE kill $pid", $TOOL, $verb, @options, $pid, @arguments);
            $ends{ $result->{status} }++;
            my $why = why_wrong($result);
            push @wrong, "call $n ($result->{call}): $why" if $why;
            # (Killed right before the tool's last calls it may take longer to end than the tool.)
            push @wrong, "call $n ($result->{call}): it is alive" if $result->{is_struck} && !wait_until(sub { has_ended($pid) }, 20);
            # All or nothing: the other one was not staged. But for the last calls, when both were.
            run_tool('restore', $other->{pid}) if $verb eq 'stage' && $result->{status} == 0;
            $why = why_not_well($other, $before);
            push @wrong, "call $n ($result->{call}), exit status $result->{status}: the other: $why" if $why;
            push @wrong, "call $n ($result->{call}): left behind: @{[ journal($pid) ]}" if journal($pid);
            end($victim);
            push @wrong, "call $n ($result->{call}): a file is left: $_" for glob "$DIR/killed.core?*";
            last if @wrong > 2;
        }
        is_deeply(\@wrong, [], "$command, and its process is killed at each of " . @calls . ' calls') or diag("SEED=$seed");
        diag("$command: ", join ', ', map { "exit status $_: $ends{$_}" } sort keys %ends) if $ENV{TEST_VERBOSE};
    }
    ends_well($other, '... the other goes on, each of its requests has had one event');
    return;
}

# ---- it is written to ----

# Whatever it makes of its target: the tool ends, and says how.
sub scribble_at_calls
{
    my ($command, $what) = @_;
    my ($verb, @options) = split / /, $command;
    my $first = calls_of(undef, $TOOL, '--version');
    my $last;
    my (@wrong, %ends);
    my $victim = victim();
    run_tool('stage', $victim->{pid}) if $verb ne 'stage';
    $last = calls_of(undef, $TOOL, $verb, @options, $victim->{pid});
    end($victim);
    my @calls = some_of($first, $last, 2);
    for my $n (@calls) {
        $victim = victim();
        my $pid = $victim->{pid};
        run_tool('stage', $pid) if $verb ne 'stage';
        my $number = int rand 1 << 30;
        my $result = at_call($n, undef, "$MISBEHAVE scribble $pid $what $number >&2", $TOOL, $verb, @options, '--timeout', 3, $pid);
        $ends{ $result->{status} }++;
        my $why = why_wrong($result);
        push @wrong, "call $n ($result->{call}), $what of $pid, $number: $why $result->{err}" if $why;
        # What is left of it can be looked at, and restored or not. (Of one that says for good that it is being staged, not.)
        for ([ 'list' ], [ 'restore', '--timeout', 3 ]) {
            $result = run_tool({ seconds => 40 }, @$_, $pid);
            $why = $_->[0] eq 'list' && $result->{status} < 2 && $result->{status} >= 0 ? undef : why_wrong($result);
            push @wrong, "after call $n, $what, $number: $_->[0]: $why" if $why;
        }
        end($victim);
        push @wrong, "call $n ($result->{call}): left behind: @{[ journal($pid) ]}" if journal($pid);
        unlink journal($pid);
        last if @wrong > 2;
    }
    is_deeply(\@wrong, [], "$command, and the $what is written over at each of " . @calls . ' calls') or diag("SEED=$seed");
    diag("$command, $what: ", join ', ', map { "exit status $_: $ends{$_}" } sort keys %ends) if $ENV{TEST_VERBOSE};
    return;
}

sub test_scribbles
{
    for my $what (qw(capsule records args rings code any)) {
        scribble_at_calls($_, $what) for 'stage', 'restore', 'restore --compact';
    }
    return;
}

# ---- what has been looked at is another when it is looked at again ----

# Fields of the capsule's table (pie/restorer.h), and what leads a reader astray who believes them.
my %LURES = (
    total => [ 16, 0x7ffffff8 ], rings => [ 40, 0x7ffffff8 ], ring_count => [ 44, 0x1000000 ], ring_stride => [ 48, 0x7ffffff8 ],
    poll_count => [ 56, 0x1000000 ], threads => [ 64, 0x7ffffff8 ], thread_count => [ 68, 0x1000000 ], thread_stride => [ 72, 0 ],
);

sub test_looks
{
    for my $command ('stage', 'restore', 'restore --compact', 'list') {
        my ($verb, @options) = split / /, $command;
        my $victim = victim();
        run_tool('stage', $victim->{pid}) if $verb ne 'stage';
        my $last = calls_of('process_vm_readv', $TOOL, $verb, @options, $victim->{pid});
        end($victim);
        my (@wrong, %seen);
        # The last ones come behind the blob.
        my @calls = grep { $_ > 0 && !$seen{$_}++ } some_of(1, $last), $last - 7 .. $last + 1;
        for my $n (@calls) {
            my $victim = victim();
            my $pid = $victim->{pid};
            run_tool('stage', $pid) if $verb ne 'stage';
            my ($field) = $n > $last - 8 && rand 2 < 1 ? 'ring_count' : shuffle keys %LURES;
            my $result = at_call($n, 'process_vm_readv', "$MISBEHAVE set $pid @{ $LURES{$field} }", $TOOL, $verb, @options, $pid);
            my $why = why_wrong($result);
            push @wrong, "call $n of $last, $field: $why" if $why;
            end($victim);
            unlink journal($pid);
            last if @wrong > 2;
        }
        is_deeply(\@wrong, [], "$command, and the capsule's table changes in front of each of " . @calls . ' looks at memory') or diag("SEED=$seed");
    }

    # It says that it is being drained, and of more rings than there can be.
    my $victim = victim();
    my $pid = $victim->{pid};
    run_tool('stage', $pid);
    for my $set ([ 24, 2 ], [ 44, 0xffffffff ], [ 48, 0 ]) {
        run_command($MISBEHAVE, 'set', $pid, @$set);
    }
    my @limits = $SAN || !have('prlimit') ? () : ('prlimit', '--as=' . (1 << 30));
    my $result = run_command({ seconds => 30 }, @limits, $TOOL, 'list', $pid);
    is($result->{status}, 0, 'list of a capsule that names 4,294,967,295 rings in the same place') or diag explain $result;
    $result = run_command({ seconds => 30 }, @limits, $TOOL, 'restore', '--timeout', 0.5, $pid);
    ok($result->{status} == 3 && $result->{err} =~ /still being staged/, '... restore') or diag explain $result;
    end($victim);
    return;
}

# The same without pause, and at no particular moment.
sub test_rain
{
    my (@wrong, %ends, $drops);
    for my $round (1 .. 4 * $rounds) {
        my $victim = victim();
        my $pid = $victim->{pid};
        my $what = (qw(any any capsule rings args))[ rand 5 ];
        run_tool('stage', $pid) if $round % 2;
        my $log = fresh('.rain');
        my $number = int rand 1 << 30;
        my $rain = fork // die "fork: $!";
        if (!$rain) {
            open STDERR, '>', $log;
            exec $MISBEHAVE, 'rain', $pid, $what, $number or POSIX::_exit(127);
        }
        end_later($rain);
        for my $verb ($round % 2 ? 'restore' : 'stage', 'list', 'restore', 'stage') {
            my $result = run_tool({ seconds => 100 }, $verb, $verb eq 'list' ? () : ('--timeout', 2), $pid);
            $ends{ $result->{status} }++;
            my $why = $verb eq 'list' && $result->{status} =~ /^[01]$/ ? undef : why_wrong($result);
            push @wrong, "round $round, $what, $number: $verb: $why" if $why;
        }
        kill 'TERM', $rain;
        waitpid $rain, 0;
        $drops += $1 if slurp($log) =~ /^(\d+) drops/m;
        end($victim);
        unlink journal($pid);
        last if @wrong > 2;
    }
    is_deeply(\@wrong, [], 'stage, list and restore while all of it is written over') or diag("SEED=$seed");
    ok($drops, "... $drops times");
    diag('rain: ', join ', ', map { "exit status $_: $ends{$_}" } sort keys %ends) if $ENV{TEST_VERBOSE};
    return;
}

# ---- it changes ----

# Stage and restore, which count in %$ends how they end. Returns what is wrong about that: a stage may be refused so.
sub there_and_back
{
    my ($pid, $ends, $refused, $where) = @_;
    my @wrong;
    for my $verb (qw(stage restore)) {
        my $result = run_tool($verb, $pid);
        $ends->{"$verb $result->{status}"}++;
        my $why = why_wrong($result);
        push @wrong, "$where: $verb: $why" if $why;
        push @wrong, "$where: $verb: $result->{err}" if $result->{status} && ($verb eq 'restore' || $result->{err} !~ $refused);
    }
    return @wrong;
}


sub test_storms
{
    for my $storm (qw(forks execs threads rings mappings signals sharers traps), 'all of them') {
        my @storms = $storm eq 'all of them' ? qw(forks execs threads rings mappings signals) : $storm;
        my $worker = worker('--rings', 3, '--threads', 2, map { ('--state', "storm:$_") } @storms);
        my $pid = $worker->{pid};
        my (@wrong, %ends);
        for my $round (1 .. $rounds) {
            push @wrong, there_and_back($pid, \%ends, qr/shares its memory|vfork/, "round $round");
            my $why = why_not_free($worker);
            push @wrong, "round $round: $why" if $why;
            last if @wrong > 2;
        }
        is_deeply(\@wrong, [], "a storm of $storm: staged and restored, or refused, $rounds times");
        ok($ends{'stage 0'}, '... it could be done ' . ($ends{'stage 0'} // 0) . ' times') if $storm ne 'sharers';
        ends_well($worker, '... it goes on, each of its requests has had one event');
    }
    return;
}

# It executes itself anew, from one thread or another.
sub test_execs
{
    my $log = fresh('.log');
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        open STDOUT, '>', $log;
        exec $MISBEHAVE, 'execs' or POSIX::_exit(127);
    }
    end_later($pid);
    wait_until(sub { slurp($log) =~ /^ok/m });
    my (@wrong, %ends);
    my $count = sub { (slurp($log) =~ /.*^ok (\d+)/ms)[0] };
    for my $round (1 .. 4 * $rounds) {
        my $before = $count->();
        push @wrong, there_and_back($pid, \%ends, qr/another program/, "round $round");
        push @wrong, "round $round: left behind: @{[ journal($pid) ]}" if journal($pid);
        push @wrong, "round $round: it is traced" if slurp("/proc/$pid/status") !~ /^TracerPid:\s+0$/m;
        wait_until(sub { $count->() > $before || slurp($log) =~ /VIOLATION/ }, 20) or push @wrong, "round $round: it stands still: " . slurp($log);
        last if @wrong > 2 || slurp($log) =~ /VIOLATION/;
    }
    is_deeply(\@wrong, [], 'a program that executes itself: staged and restored, or refused, ' . 4 * $rounds . ' times');
    ok($ends{'stage 0'} && slurp($log) !~ /VIOLATION/, '... and it is well') or diag(slurp($log), explain \%ends);
    diag(join ', ', map { "$_: $ends{$_}" } sort keys %ends) if $ENV{TEST_VERBOSE};
    kill 'KILL', $pid;
    waitpid $pid, 0;
    return;
}

# ---- others trace it ----

sub test_tracers
{
    # One thread is another's when its turn comes, and the others are the tool's by then.
    my $worker = worker('--rings', 2, '--threads', 3, '--quiet');
    my $pid = $worker->{pid};
    my @tids = sort { $a <=> $b } threads_of($pid);
    my $before = look_of($pid);
    for my $which (1 .. @tids) {
        my $file = fresh('.trace');
        my $result = at_call($which, 'seize', "$MISBEHAVE trace $tids[$which - 1] 600 >$file 2>&1 & echo \$! >$file.pid; while ! grep -q . $file; do sleep 0.01; done",
            $TOOL, 'stage', $pid);
        my $tracer = 0 + slurp("$file.pid");
        ok($result->{status} == 1 && $result->{err} =~ /traced by process $tracer\b/, "thread $which is another tracer's in the middle of a stage: names it")
            or diag explain $result, slurp($file);
        wait_until(sub { look_of($pid) eq $before });
        is_as_before($pid, $before, '... it is as it was');
    }
    is(run_tool('stage', $pid)->{status}, 0, '... and is staged when they have ended');
    is(run_tool('restore', $pid)->{status}, 0, '... and restored');

    # Again and again, of any of its threads.
    my $tracer = start($MISBEHAVE, 'traces', $pid, int rand 1 << 30);
    my (@wrong, %ends);
    my $is_staged = 0;
    for my $round (1 .. 5 * $rounds) {
        my $verb = $is_staged ? 'restore' : 'stage';
        my $result = run_tool($verb, $pid);
        $ends{"$verb $result->{status}"}++;
        my $why = why_wrong($result);
        push @wrong, "round $round: $verb: $why" if $why;
        push @wrong, "round $round: $verb: $result->{err}" if $result->{status} && $result->{err} !~ /traced by process|may not be traced/;
        $is_staged = !$is_staged if !$result->{status};
        last if @wrong > 2;
    }
    kill 'TERM', $tracer->{pid};
    wait_until(sub { state_of($tracer->{pid}) eq 'Z' });
    end($tracer);
    is(run_tool('restore', $pid)->{status}, 0, 'other tracers come and go: it is restored in the end') if $is_staged;
    is_deeply(\@wrong, [], 'other tracers come and go: staged, restored, or refused with the tracer');
    ok($ends{'stage 0'} && ($ends{'stage 1'} || $ends{'restore 1'}), '... each of it happened') or diag explain \%ends;
    diag(join ', ', map { "$_: $ends{$_}" } sort keys %ends) if $ENV{TEST_VERBOSE};
    is_as_before($pid, $before, '... it is as it was');
    ends_well($worker, '... each of its requests has had one event');

    # A child that has asked to be traced.
    $worker = worker('--state', 'storm:traps');
    wait_until(sub { grep { /^traced/ } lines_of($worker) });
    my ($child) = map { /^traced (\d+)/ ? $1 : () } lines_of($worker);
    my $result = run_tool('stage', $child);
    ok($result->{status} == 1 && $result->{err} =~ /traced by process \d+/ || $result->{status} == 0, 'a child that is traced by its parent: refused') or diag explain $result;
    ends_well($worker, '... and both go on');
    return;
}

# ---- something else runs out ----

# Whatever comes of it: the worker is as it was, and when there is enough again, it is done.
sub done_or_refused
{
    my ($name, $worker, $before, @command) = @_;
    my ($result, @wrong);
    for my $verb (qw(stage restore)) {
        $result = run_leaking(@command, $TOOL, $verb, $worker->{pid});
        my $why = why_wrong($result);
        $why = undef if $why && $result->{status} == 127 || ($result->{err} =~ /error while loading shared libraries|std::bad_alloc/);
        push @wrong, "$name: $verb: $why" if $why;
        my ($is_parked) = slurp("/proc/$worker->{pid}/maps") =~ /\[aio\]/ ? 0 : 1;
        push @wrong, "$name: $verb: exit status $result->{status}, and it is " . ($is_parked ? 'parked' : 'not parked')
            if $verb eq 'stage' && ($result->{status} == 0) != $is_parked && $result->{status} != 3;
    }
    $result = run_tool('restore', $worker->{pid});
    push @wrong, "$name: restore, when there is enough: $result->{err}" if $result->{status};
    my $why = why_not_well($worker, $before);
    push @wrong, "$name: $why" if $why;
    return @wrong;
}

# The tool's own limits.
sub test_limits
{
  SKIP: {
        skip 'limits: no prlimit', 1 unless have('prlimit');
        my $worker = worker('--rings', 3, '--threads', 2);
        my $before = look_of($worker->{pid});
        my @wrong = map { done_or_refused("$_ descriptors", $worker, $before, 'prlimit', "--nofile=$_:$_") } 4 .. 12;
        is_deeply(\@wrong, [], 'the tool may have few descriptors');
        if (!$SAN) {
            @wrong = map { done_or_refused("$_ KiB", $worker, $before, 'prlimit', '--as=' . $_ * 1024) } map { 3000 + 1500 * $_ } 0 .. 20;
            is_deeply(\@wrong, [], '... or little memory');
        }
        skip 'no more threads: not root, or no setpriv', 1 unless $is_root && have('setpriv');
        my $uid = 54000 + $$ % 1000;
        my $own = worker({ wrap => [ 'setpriv', "--reuid=$uid", "--regid=$uid", '--clear-groups', '--inh-caps=-all' ] });
        skip 'no more threads: others may not read the programs that are tested', 1 unless $own;
        my $look = look_of($own->{pid});
        # (With RLIMIT_NPROC at what there is, it cannot start the thread that traces.)
        my $threads = threads_of($own->{pid});
        @wrong = done_or_refused('no more threads', $own, $look, 'setpriv', "--reuid=$uid", "--regid=$uid", '--clear-groups',
            '--inh-caps=-all', 'prlimit', '--nproc=' . (scalar(my @all = threads_of($own->{pid})) + 1) . ':');
        is_deeply(\@wrong, [], '... or no further thread');
        ends_well($own, '... it goes on');
        ends_well($worker, '... each of its requests has had one event');
    }
    return;
}

# At each file that the tool opens, there is no descriptor, or no memory.
sub test_no_descriptor
{
    my $worker = worker('--rings', 2, '--threads', 2);
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my $first = calls_of('openat', $TOOL, '--version') + 1;
    for my $verb (qw(stage restore)) {
        run_tool('stage', $pid) if $verb eq 'restore';
        my $last = calls_of('openat', $TOOL, $verb, $pid);
        run_tool('restore', $pid);
        my (@wrong, %ends);
        my @calls = some_of($first, $last);
        for my $n (@calls) {
            run_tool('stage', $pid) if $verb eq 'restore';
            my $err = (POSIX::EMFILE(), POSIX::ENFILE(), POSIX::ENOMEM())[ rand 3 ];
            my $result = run_struck('--only', 'openat', '--log', '/dev/null', '--fail', $n, $err, $TOOL, $verb, $pid);
            if ($result->{status} == 125) {
                diag($result->{err});
                last;
            }
            $ends{ $result->{status} }++;
            my $why = why_wrong($result);
            push @wrong, "$verb: open $n of $last, error $err: $why" if $why;
            push @wrong, "$verb: open $n of $last, error $err: says that it is gone: $result->{err}" if $result->{err} =~ /has exited|no process/;
            $result = run_tool('restore', $pid);
            push @wrong, "$verb: open $n of $last, error $err: restore: $result->{err}" if $result->{status};
            $why = why_not_well($worker, $before);
            push @wrong, "$verb: open $n of $last, error $err: $why" if $why;
            last if @wrong > 2;
        }
      SKIP: {
            skip "$verb: system calls cannot be made to fail here", 1 if !%ends;
            is_deeply(\@wrong, [], "$verb, and each of " . @calls . ' files cannot be opened') or diag("SEED=$seed");
        }
    }
    ends_well($worker, '... each of its requests has had one event');
    return;
}

# A cgroup of version 1 or 2, with a limit; it goes with the test.
my @groups;
END { rmdir $_ for @groups }

sub group
{
    my ($controller, %limits) = @_;
    my $folder = (grep { -d $_ } "/sys/fs/cgroup/$controller")[0] or return;
    my $group = "$folder/aior-misbehaving-$$-" . @groups;
    mkdir $group or return;
    push @groups, $group;
    for my $file (keys %limits) {
        return if !eval { spit("$group/$file", $limits{$file}) };
    }
    return $group;
}

sub join_group
{
    my ($group, $pid) = @_;
    spit("$group/cgroup.procs", $pid);
}

sub test_groups
{
  SKIP: {
        skip 'control groups: there are none of version 1 that could be made here', 1 unless my $pids = group('pids', 'pids.max' => 6);
        my $worker = worker('--rings', 12, '--threads', 3);
        my $before = look_of($worker->{pid});
        my $count = () = threads_of($worker->{pid});
        join_group($pids, $worker->{pid});
        my @wrong;
        for my $most ($count .. $count + 2) {
            spit("$pids/pids.max", $most);
            push @wrong, done_or_refused("$most tasks", $worker, $before);
        }
        is_deeply(\@wrong, [], 'its control group lets it have no further task');
        ends_well($worker, '... it goes on');

        skip 'control groups: no memory limit', 1 unless my $memory = group('memory');
        # Little by little more. Where it is too little, the kernel ends whoever is in the group.
        my %ends;
        for my $more (0, 64, 128, 256, 512, 1024, 2048) {
            my $leaver = leaver('--ring', 'n=5000,head=3,tail=900,count=4');
            my $pid = $leaver->{pid};
            join_group($memory, $pid);
            spit("$memory/memory.limit_in_bytes", -1);
            # What it has is charged elsewhere; what it gets is charged here.
            my $usage = 0 + slurp("$memory/memory.usage_in_bytes");
            eval { spit("$memory/memory.limit_in_bytes", $usage + $more * 1024) };
            my $result = run_tool('stage', '--timeout', 5, $pid);
            my $why = why_wrong($result);
            push @wrong, "stage with $more KiB: $why" if $why;
            my $is_dead = state_of($pid) =~ /^Z?$/;
            $ends{ $is_dead ? 'killed' : $result->{status} }++;
            spit("$memory/memory.limit_in_bytes", -1);
            if (!$is_dead) {
                $result = run_tool('restore', $pid);
                push @wrong, "restore after $more KiB: $result->{err}" if $result->{status};
                is_rings($leaver, run_tool('list', $pid, '--json'), "memory for $more KiB more: its events are there");
            }
            push @wrong, "left behind: @{[ journal($pid) ]}" if journal($pid);
            end($leaver);
        }
        is_deeply(\@wrong, [], 'its control group has little memory: ' . join ', ', map { "$_: $ends{$_}" } sort keys %ends);
    }
    return;
}

# ---- where the journal and dumps go ----

sub test_folders
{
  SKIP: {
        skip 'folders: no name space of mounts', 1 if !$is_root || !have('unshare') || run_command('unshare', '-m', 'true')->{status};
        my $worker = worker('--rings', 2, '--threads', 2);
        my $before = look_of($worker->{pid});
        my @wrong;
        for my $case (
            [ 'read-only',            'mount -t tmpfs -o ro none /run' ],
            [ 'full',                 'mount -t tmpfs -o size=4k none /run; mkdir -m 700 /run/aio-restorer; head -c 4096 /dev/zero >/run/full' ],
            [ 'without inodes',       'mount -t tmpfs -o nr_inodes=1 none /run' ],
            [ 'without the folder',   'mount -t tmpfs none /run; touch /run/aio-restorer' ],
            [ 'a link',               'mount -t tmpfs none /run; ln -s /tmp /run/aio-restorer' ],
            [ 'open to all',          'mount -t tmpfs none /run; mkdir -m 777 /run/aio-restorer' ],
            [ "somebody else's",      "mount -t tmpfs none /run; mkdir -m 700 /run/aio-restorer; chown $nobody /run/aio-restorer" ],
            [ 'missing',              'mount -t tmpfs none /run; mkdir /run/aio-restorer; mount -t tmpfs -o size=0 none /run/aio-restorer; umount -l /run' ],
        ) {
            my ($name, $mount) = @$case;
            my $result = run_command('unshare', '-m', 'sh', '-c', "$mount; for verb in stage restore; do $TOOL \$verb $worker->{pid} || exit; done");
            push @wrong, "/run is $name: $result->{status} $result->{err}" if $result->{status};
            my $why = why_not_well($worker, $before);
            push @wrong, "/run is $name: $why" if $why;
        }
        is_deeply(\@wrong, [], 'staged and restored, whatever /run is');

        my $leaver = leaver('--ring', 'n=300,head=5,tail=200,count=20');
        my $file = fresh('.core');
        my $script = "mount -t tmpfs -o size=\$1 none /mnt && $TOOL dump $leaver->{pid} -o /mnt/x.core; status=\$?; ls -A /mnt >&2; [ \$status != 0 ] || cp /mnt/x.core $file; exit \$status";
        my $result = run_command('unshare', '-m', 'sh', '-c', $script, 'sh', '64k');
        ok($result->{status} == 1 && $result->{err} =~ /No space left/ && $result->{err} !~ /core$/m, 'dump to a full disk: says so, and leaves no file') or diag explain $result;
        $result = run_command('unshare', '-m', 'sh', '-c', $script, 'sh', '64m');
        is($result->{status}, 0, '... and where there is room') or diag explain $result;
        is_rings($leaver, run_tool('list', $file, '--json'), '... all is in it');
        end($leaver);
        ends_well($worker, '... it goes on');
    }
    return;
}

# ---- its pid is another's ----

# Inside a pid name space, where the next pid can be chosen. Prints what went wrong.
my $REUSE = <<'PERL';
use strict; use warnings; use POSIX (); use Time::HiRes qw(sleep);
my ($strike, $tool, $misbehave, $leaver, $rounds, $folder) = @ARGV;
# The first process is there to take the ends of those whose parents have gone.
my $main = fork;
if ($main) { 1 while wait != $main; exit($? ? 1 : 0) }
sub slurp { open my $file, '<', $_[0] or return ''; local $/; return readline($file) // '' }
sub next_pid { my ($pid) = @_; open my $file, '>', '/proc/sys/kernel/ns_last_pid' or die; print {$file} $pid - 1; close $file }
# A process of nobody's: its pid, and what keeps it there.
sub leaver
{
    my ($pid) = @_;
    pipe my $in, my $keep;
    pipe my $from, my $out;
    my $between = fork;
    if (!$between) {
        next_pid($pid) if $pid;
        my $new = fork;
        if (!$new) {
            open STDIN, '<&', $in;
            open STDOUT, '>&', $out;
            close $_ for $keep, $from;
            exec $leaver, '--ring', 'n=10,head=3,tail=9', '--threads', 2;
        }
        syswrite $out, "$new\n";
        POSIX::_exit(0);
    }
    close $_ for $in, $out;
    waitpid $between, 0;
    my @lines = (scalar(readline $from), scalar(readline $from));
    my ($new) = map { /^(\d+)$/ ? $1 : () } @lines;
    return ($new, $keep, $from);
}
sub state_of { return slurp("/proc/$_[0]/status") =~ /^TracerPid:\s+0$/m && slurp("/proc/$_[0]/maps") =~ /\[aio\]/ ? 'free' : 'not as it was' }
sub kill_it { my ($pid) = @_; kill 'KILL', $pid; for (1 .. 2000) { last if !-e "/proc/$pid"; sleep 0.001 } }

# A journal is left by a tool that was killed; its process is gone, and another one has its pid.
# It is killed at one of the first calls that give a thread other registers: the journal is there before them, and how many there are does not hang on how often the tool looks.
my $met = 0;
for my $round (1 .. $rounds) {
    my ($pid, $keep) = leaver();
    my $n = 1 + int rand 5;
    system "$strike --only setregset --log /dev/null --kill $n $tool stage $pid >/dev/null 2>&1";
    my @journal = glob "/run/aio-restorer/$pid-*";
    $met += @journal;
    kill_it($pid);
    my ($new, $keep2) = leaver($pid);
    if ($new != $pid) { print "no pid $pid again, but $new\n"; kill_it($new); next }
    for my $verb (qw(restore stage restore)) {
        my $said = `$tool $verb $pid 2>&1`;
        print "a journal of another (@journal): $verb: $? $said" if $?;
    }
    print "a journal of another (@journal): it is ", state_of($pid), "\n" if state_of($pid) ne 'free';
    kill_it($pid);
    unlink glob "/run/aio-restorer/$pid-*";
}
print "no journal was left\n" if !$met;

# It is gone when the tool comes to trace it, and another has its pid.
my $refused = 0;
POSIX::mkfifo("$folder/fifo", 0600);
for my $only ('openat', 'seize') {
    my @calls = $only eq 'seize' ? (1) : 1 .. 3 + $rounds;
    for my $n (@calls) {
        my ($pid, $keep) = leaver();
        my $action = "$misbehave kill $pid; for i in 1 2 3 4 5 6 7 8 9; do [ ! -e /proc/$pid ] || sleep 0.01; done; [ ! -e /proc/$pid ] || exit 0; echo " . ($pid - 1)
            . " >/proc/sys/kernel/ns_last_pid; $leaver --ring n=10,head=3,tail=9 >$folder/text <>$folder/fifo 2>/dev/null & echo \$! >$folder/pid; while ! grep -q . $folder/text; do sleep 0.01; done";
        unlink "$folder/text", "$folder/pid";
        my $said = `$strike --only $only --log /dev/null --run $n '$action' $tool stage $pid 2>&1`;
        my $status = $? >> 8;
        my $new = slurp("$folder/pid");
        if ($new eq '') { kill_it($pid); next }
        chomp $new;
        print "no pid $pid again, but $new\n" if $new != $pid;
        $refused++ if $said =~ /another process's now/;
        print "$only $n: exit status $status: $said" if $status != 0 && $status != 1;
        print "$only $n: exit status $status: $said; it is ", state_of($new), "\n" if $status && state_of($new) ne 'free';
        system "$tool restore $new >/dev/null" if !$status;
        print "$only $n: restored: it is ", state_of($new), "\n" if state_of($new) ne 'free';
        print "seize: it was taken for the one that was named: $said\n" if $only eq 'seize' && $said !~ /another process's now/;
        kill_it($new);
    }
}
print "nothing was refused\n" if !$refused;
PERL

sub test_pids
{
  SKIP: {
        my @inside = qw(unshare --pid --fork --kill-child --mount-proc --mount);
        skip 'pids: no pid name space, or the next pid cannot be chosen', 1
            if !$is_root || !have('unshare') || run_command(@inside, 'sh', '-c', 'echo 500 >/proc/sys/kernel/ns_last_pid')->{status};
        my $script = spit(fresh('.pl'), $REUSE);
        my $result = run_leaking({ seconds => 300 }, @inside, 'perl', $script, $STRIKE, $TOOL, $MISBEHAVE, "$BUILD/tests/leaver", min($rounds, 30), $DIR);
        is("$result->{status} $result->{out}", '0 ', 'its pid is that of another process, at any moment') or diag explain $result;
    }
    return;
}

my @parts = (
    [ killed    => \&test_killed ],
    [ scribbles => \&test_scribbles ],
    [ looks     => \&test_looks ],
    [ rain      => \&test_rain ],
    [ storms    => \&test_storms ],
    [ execs     => \&test_execs ],
    [ tracers   => \&test_tracers ],
    [ limits    => \&test_limits ],
    [ openat    => \&test_no_descriptor ],
    [ groups    => \&test_groups ],
    [ folders   => \&test_folders ],
    [ pids      => \&test_pids ],
);
my %wanted = map { $_ => 1 } split ' ', $ENV{PARTS} // join ' ', map { $_->[0] } @parts;
for my $part (@parts) {
    next if !$wanted{ $part->[0] };
    my $begin = time;
    $part->[1]->();
    diag(sprintf '%s: %.1f s', $part->[0], time - $begin) if $ENV{TEST_VERBOSE};
}

done_testing;
