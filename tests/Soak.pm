# SPDX-License-Identifier: MIT
#
# Rounds over programs that nobody here wrote: each is staged and restored at random moments while it
# works and checks its own work. tests/soak/NAME.pm says how a program is run; its function `program` returns
#
#	name       its name
#	missing    sub: why it cannot run here; nothing if it can
#	setup      sub: before its first form                          } if it needs them; the second one is
#	teardown   sub: after its last one, whichever way that goes    } also called when the script is ended
#	forms      the ways that it is run in, each with
#	  name
#	  start    sub (form): starts it, and returns the run: {pids} of those of its processes that have rings,
#	           when they have them; whatever else `finish` needs. Dies if it cannot.
#	  finish   sub (run): lets it come to its end, and returns what is wrong with it, or nothing. Called for each
#	           run; with {wrong} set in it, when a round has failed, to end it whatever it takes.
#	  ends     true if it ends by itself: then it is started again until there are enough rounds
#	  rounds   so many are made in a run, and then it is finished and started again; all of them if it does not say
#	  stops    true if it stands plain SIGSTOP and SIGCONT, which break waits of AIO: then some rounds are made
#	           while it is stopped, after which every mapping must be as it was
#	  steady   true if its threads, descriptors and mappings are as many at any time
#	  grows    those of "threads", "descriptors" and "mappings" that become more by themselves, for minutes; what a
#	           round leaves behind is seen in the rounds that are made while it is stopped
#	  signals  names of signals that it has handlers for, and takes at any time
#	  linger   how long it may be left staged, in seconds; 1 if it does not say
#	  slow     so many requests a second are done for it, so that there are always some in flight: for `launch`
#	  pace     how long it works at most between two rounds, in seconds; 0.15 if it does not say
#
# The processes that it starts are started with `launch`, or told to `guard`: they end with the test,
# whichever way that ends, since a parked process ends by nobody's hand.
package Soak;
use strict;
use warnings;
use Cli;
use Exporter 'import';
use Fcntl qw(O_RDWR O_CREAT O_DIRECT);
use List::Util qw(first max min sum0);
use POSIX ':sys_wait_h';
use SlowDisk;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(soak launch guard wait_for_end wait_for_rings come_to_end end_now has_rings children_of direct_folder $PATIENCE $RUN_SECONDS);

our $PATIENCE = $ENV{PATIENCE} // 120;    # seconds: only there to end what hangs
# How long one that ends by itself runs: as many rounds are made as it takes.
our $RUN_SECONDS = $ENV{RUN_SECONDS} // max(3, min(30, ($ENV{ROUNDS} // 8) / 4));

# ---- processes, and their end whatever happens ----

my $owner = $$;
my $watchdog;
my %guarded;    # pid => start time

sub start_time { my ($pid) = @_; return (split ' ', slurp("/proc/$pid/stat") =~ s/^.*\) //r)[19] // '' }

# Kills those that are still the processes that they were.
sub kill_guarded
{
    my ($guarded) = @_;
    for my $pid (keys %$guarded) {
        kill 'KILL', $pid if $guarded->{$pid} ne '' && start_time($pid) eq $guarded->{$pid};
    }
}

# One that is told of each, and kills them when this test is no more; their slow disks go, too.
sub start_watchdog
{
    pipe my $from, my $to or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        close $to;
        setpgrp;
        $SIG{$_} = 'IGNORE' for qw(INT TERM HUP);
        my %told = map { split ' ', $_, 2 } map { s/\n//r } <$from>;
        kill_guarded(\%told);
        end_slow_disks($owner);
        POSIX::_exit(0);
    }
    close $from;
    $to->autoflush;
    return { pid => $pid, to => $to };
}

END {
    local $?;
    if ($$ == $owner) {
        kill_guarded(\%guarded);
        if ($watchdog) {
            kill 'KILL', $watchdog->{pid};
            waitpid $watchdog->{pid}, 0;
        }
    }
}

# Processes, and their children, that must not outlive this test.
sub guard
{
    my (@pids) = @_;
    $watchdog //= start_watchdog();
    for my $pid (@pids, map { children_of($_) } @pids) {
        $guarded{$pid} = start_time($pid);
        print { $watchdog->{to} } "$pid $guarded{$pid}\n";
    }
}

# (The watchdog waits for the end of a pipe: nobody else may hold it open.)
sub run_sub
{
    my ($sub) = @_;
    close $watchdog->{to} if $watchdog;
    my $is_done = eval { $sub->(); 1 };
    print STDERR $@ if !$is_done;
    POSIX::_exit($is_done ? 0 : 1);
}

# Starts a program, or a sub in a process of its own: {pid}, {log} (of what it says). Options: env, a hash of
# variables; stdin, a path; slow, how many requests a second its disk does, if that is not left to the disk; before,
# a sub that is called in it first.
sub launch
{
    my %options = ref $_[0] eq 'HASH' ? %{ shift @_ } : ();
    my @command = @_;
    my $log = fresh('.log');
    my $group = $options{slow} ? slow_disk(direct_folder(), int($options{slow} / ($ENV{PACE} // 1))) : undef;
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
        POSIX::setsid();
        open STDIN, '<', $options{stdin} // '/dev/null';
        open STDOUT, '>', $log;
        open STDERR, '>&', \*STDOUT;
        $ENV{$_} = $options{env}{$_} for keys %{ $options{env} // {} };
        join_slow_disk($group) if $group;
        $options{before}->() if $options{before};
        run_sub($command[0]) if ref $command[0];
        exec @command or POSIX::_exit(127);
    }
    guard($pid);
    return { pid => $pid, log => $log };
}

# The wait status of one that was launched; nothing if it does not end in so many seconds.
sub wait_for_end
{
    my ($program, $seconds) = @_;
    my $end = time + ($seconds // $PATIENCE);
    while (!defined $program->{status}) {
        $program->{status} = $? if waitpid($program->{pid}, WNOHANG) == $program->{pid};
        return if !defined $program->{status} && time > $end;
        sleep 0.01;
    }
    delete $guarded{ $program->{pid} };
    return $program->{status};
}

# What it hangs in: of each thread of a program and of what it has started, its state and its system call; and its rings.
sub what_hangs
{
    my ($program) = @_;
    my @text = 'it does not end:';
    for my $pid ($program->{pid}, children_of($program->{pid})) {
        push @text, "$pid/$_ " . state_of("$pid/task/$_") . ' ' . slurp("/proc/$pid/task/$_/syscall") =~ s/\n//r for threads_of($pid);
        push @text, run_tool('list', $pid)->{out} if has_rings($pid);
    }
    return join "\n", @text;
}

# Lets one that ends by itself come to its end, or, when a round has failed, ends it: what it has said, and what is
# wrong with how it ends: also the lines of what it has said that the pattern matches.
sub come_to_end
{
    my ($run, $complaint) = @_;
    end_now($run) if defined $run->{wrong};
    my $status = wait_for_end($run, $PATIENCE + $RUN_SECONDS);
    my $text = slurp($run->{log});
    my $wrong = !defined $status ? what_hangs($run) : $status ? "it ends with status $status: " . substr($text, 0, 2000) : undef;
    end_now($run);
    my @complaints = $text =~ /^(.*$complaint.*)$/mg;
    $wrong //= "it says: @complaints[0 .. min($#complaints, 5)]" if @complaints;
    return ($text, $wrong);
}

# Kills it and all that it has started.
sub end_now
{
    my ($program) = @_;
    return if defined $program->{status};
    kill 'KILL', $program->{pid}, children_of($program->{pid});
    wait_for_end($program, 30);
}

sub children_of
{
    my ($pid) = @_;
    return map { ($_, children_of($_)) } map { split ' ', slurp($_) } glob "/proc/$pid/task/*/children";
}

sub has_rings { my ($pid) = @_; return scalar(() = slurp("/proc/$pid/maps") =~ m{/\[aio\]}g) }

sub ring_owners { my ($run) = @_; return grep { has_rings($_) } $run->{pid}, children_of($run->{pid}) }

# Waits until a program, and what it has started, have so many rings, and sets {pids}. Dies with what it has
# said, if it ends without.
sub wait_for_rings
{
    my ($run, $rings) = @_;
    wait_until(sub { sum0(map { has_rings($_) } ring_owners($run)) >= $rings || defined wait_for_end($run, 0) });
    $run->{pids} = [ ring_owners($run) ];
    return if @{ $run->{pids} };
    end_now($run);
    die slurp($run->{log}) . "no rings\n";
}

# ---- where files lie ----

# Requests must be asynchronous, or none is ever in flight: tmpfs takes O_DIRECT, too, but is not.
sub is_direct
{
    my ($folder) = @_;
    my $file = "$folder/aior-soak-$$";
    return if run_command('stat', '-f', '-c', '%T', $folder)->{out} =~ /^(tmpfs|ramfs|overlayfs)$/;
    my $is_open = sysopen my $handle, $file, O_RDWR | O_CREAT | O_DIRECT, 0600;
    unlink $file;
    return $is_open;
}

my $direct;

# A folder on a file system that takes O_DIRECT; nothing if there is none.
sub direct_folder
{
    return $direct if defined $direct;
    my $parent = first { is_direct($_) } $DIR =~ s{/[^/]+$}{}r, $BUILD, '/var/tmp';
    return if !defined $parent;
    $direct = File::Temp::tempdir('aior-soak-XXXXXX', DIR => $parent, CLEANUP => 1);
    chmod 0755, $direct;
    return $direct;
}

# ---- what must be as it was ----

my @kinds = qw(threads descriptors mappings KiB);

# Threads, descriptors, mappings and KiB of address space, of all these together.
sub counts_of
{
    my (@pids) = @_;
    my @sum = (0) x @kinds;
    for my $pid (@pids) {
        my @fds = glob "/proc/$pid/fd/*";
        my ($size) = slurp("/proc/$pid/status") =~ /^VmSize:\s+(\d+)/m;
        $sum[0] += () = threads_of($pid);
        $sum[1] += @fds;
        $sum[2] += () = slurp("/proc/$pid/maps") =~ /\n/g;
        $sum[3] += $size // 0;
    }
    return \@sum;
}

# What they are now and then before the first round: a file may be closed and opened again, and a count be two.
sub watch_counts
{
    my ($run) = @_;
    for (1 .. 20) {
        $run->{usual}{ counts_text(counts_of(@{ $run->{pids} })) } = 1;
        sleep 0.01;
    }
}

sub counts_text { my ($counts) = @_; return join ', ', map { "$counts->[$_] $kinds[$_]" } 0 .. $#kinds }

# All that others can see of processes that stand still.
sub exact_look
{
    my (@pids) = @_;
    return join "\n", map {
        my $pid = $_;
        look_of($pid), (map { "$_ -> " . (readlink($_) // '') } glob "/proc/$pid/fd/*"), slurp("/proc/$pid/status") =~ /^(Vm(?:Size|Data|Stk|Lck):.*)$/mg;
    } @pids;
}

sub is_gone { my ($pid) = @_; return state_of($pid) =~ /^[ZX]?$/ }

# Whether one of these has ended, or is about to: it unmaps its rings first.
sub is_over { return scalar grep { is_gone($_) || !has_rings($_) } @_ }

sub all_stand { my (@pids) = @_; return !grep { state_of("$_->[0]/task/$_->[1]") =~ /[^tTZX]/ } map { my $p = $_; map { [ $p, $_ ] } threads_of($p) } @pids }

# ---- rounds ----

sub processes_in
{
    my ($result) = @_;
    my $said = json($result->{out}) // {};
    return $said->{processes} ? @{ $said->{processes} } : $said;
}

sub pick { return $_[ rand @_ ] }

# Signals that do nothing to a program, or that it says it takes.
sub send_signal
{
    my ($form, $tally, @pids) = @_;
    my $name = pick(qw(WINCH URG CONT), @{ $form->{signals} // [] });
    kill $name, pick(@pids);
    $tally->{signals}++;
}

# While it is parked, a stop and what ends it break no wait.
sub stop_and_go
{
    my ($tally, @pids) = @_;
    my $pid = pick(@pids);
    kill 'STOP', $pid;
    sleep rand 0.02;
    kill 'CONT', $pid;
    $tally->{signals}++;
}

# A tool that is killed at one of its system calls, and another one that finishes what it has begun.
sub tool_dies
{
    my ($tally, @pids) = @_;
    my $struck = run_command({ seconds => $PATIENCE }, "$BUILD/tests/strike", '--log', '/dev/null', '--kill', 100 + int rand 1500, $TOOL, pick('stage', 'restore', 'stage'), @pids);
    $tally->{deaths}++ if $struck->{status} == 137;
    my $finished = run_tool({ seconds => $PATIENCE }, 'restore', @pids);
    return if !$finished->{status} || is_over(@pids);
    return "restore, when a tool has died: status $finished->{status}: $finished->{err}";
}

# One round. Returns what is wrong; nothing if nothing is, or if the program has come to its end.
sub do_round
{
    my ($form, $run, $tally) = @_;
    sleep rand(($form->{pace} // 0.15) * ($ENV{PACE} // 1));
    return round_of($form, $run, $tally, 0) if !$form->{stops} || rand() >= 0.25;
    kill 'STOP', @{ $run->{pids} };
    my $wrong = round_of($form, $run, $tally, 1);
    kill 'CONT', @{ $run->{pids} };
    return $wrong;
}

sub round_of
{
    my ($form, $run, $tally, $is_exact) = @_;
    my @pids = @{ $run->{pids} };
    return "it does not stop: @pids" if $is_exact && !wait_until(sub { all_stand(@pids) }, 30);
    return if is_over(@pids);
    if (100 * rand() < ($ENV{STRUCK} // 0)) {
        my $wrong = tool_dies($tally, @pids);
        return $wrong if defined $wrong || is_over(@pids);
    }
    my ($before, $nr, $look) = (counts_of(@pids), aio_nr(), $is_exact ? exact_look(@pids) : '');
    push @{ $tally->{counts} }, $before;
    send_signal($form, $tally, @pids) if !$is_exact && rand() < 0.15;
    my $staged = run_tool({ seconds => $PATIENCE }, 'stage', '--json', @pids);
    if ($staged->{status}) {
        sleep 0.2;
        return if is_over(@pids);
        return "stage: status $staged->{status}: $staged->{err}";
    }
    # In its last moments a process has no rings: then it is not parked, and ends.
    my @staged = grep { $_->{rings} } processes_in($staged);
    return if !@staged;
    my @parked = map { $_->{pid} } @staged;
    my @live = grep { has_rings($_) } @parked;
    send_signal($form, $tally, @parked) if !$is_exact && rand() < 0.15;
    stop_and_go($tally, @parked) if !$is_exact && rand() < 0.1;
    sleep rand(0.1) if rand() < 0.5;
    sleep rand($form->{linger} // 1) if rand() < 0.1;
    my $restored = run_tool({ seconds => $PATIENCE }, 'restore', '--json', @parked);
    return "restore: status $restored->{status}: $restored->{err}" if $restored->{status};
    return "a ring of @live is left" if @live;
    return if @parked < @pids;
    push @{ $tally->{drained} }, sum0(map { $_->{drained} } @staged);
    push @{ $tally->{down} }, max(map { $_->{stood_ms} } @staged)
        + max(map { $_->{stop_ms} + $_->{prepare_ms} + $_->{blob_ms} + $_->{finish_ms} } processes_in($restored));
    if ($is_exact) {
        my $after = exact_look(@pids);
        $tally->{exact}++;
        return "it stood still, and is another:\n" . difference($look, $after) if $after ne $look;
    }
    # A restored ring counts as few requests as its size takes: fewer, it may be, than its program had asked for,
    # but the same from then on. (What has ended still counts for a moment.)
    my $is_first = !$run->{restored}++;
    my $is_counted = wait_until(sub { aio_nr() == $nr || $is_first && aio_nr() < $nr || is_over(@pids) }, $ENV{BUSY} ? 0 : 5);
    $tally->{nr} //= 'fs.aio-nr was ' . $nr . ', is ' . aio_nr() if !$is_counted && !$ENV{BUSY};
    if ($form->{steady}) {
        $run->{usual}{ counts_text($before) } = 1;
        wait_until(sub { $run->{usual}{ counts_text(counts_of(@pids)) } || is_over(@pids) }, 5)
            or $tally->{changed} //= counts_text($before) . '; then ' . counts_text(counts_of(@pids));
    }
    return;
}

sub difference
{
    my ($before, $after) = @_;
    my %before = map { $_ => 1 } split /\n/, $before;
    my %after = map { $_ => 1 } split /\n/, $after;
    return join "\n", (map { "was $_" } grep { !$after{$_} } split /\n/, $before), map { "is $_" } grep { !$before{$_} } split /\n/, $after;
}

sub median { my @sorted = sort { $a <=> $b } @_; return $sorted[ @sorted / 2 ] // 0 }

# Of a program whose counts come and go by themselves, what a round leaves behind shows in many: nothing, or what
# has grown by at least one a round.
sub growth
{
    my ($form, $tally) = @_;
    my @counts = @{ $tally->{counts} };
    my $quarter = int(@counts / 4);
    return if $quarter < 10;
    for my $kind (0 .. 2) {
        next if grep { $_ eq $kinds[$kind] } @{ $form->{grows} // [] };
        my ($first, $last) = map { median(map { $_->[$kind] } @$_) } [ @counts[ 0 .. $quarter - 1 ] ], [ @counts[ -$quarter .. -1 ] ];
        return "$first $kinds[$kind] at first, $last at last" if $last - $first > @counts / 2;
    }
    return;
}

sub soak_form
{
    my ($program, $form, $rounds) = @_;
    my %tally = (drained => [], down => [], counts => [], signals => 0, exact => 0, deaths => 0);
    my ($wrong, $runs, $barren, $begun) = (undef, 0, 0, time);
    my $name = "$program->{name}, $form->{name}";
    my $nr = aio_nr();
    while (!defined $wrong && @{ $tally{drained} } < $rounds) {
        my $done = @{ $tally{drained} };
        my $run = eval { $form->{start}->($form) };
        if (!$run) {
            $wrong = "it does not start: $@";
            last;
        }
        guard(@{ $run->{pids} });
        $tally{rings} = sum0(map { has_rings($_) } @{ $run->{pids} });
        watch_counts($run) if $form->{steady};
        my $enough = min($rounds, $done + ($form->{rounds} // $rounds));
        while (@{ $tally{drained} } < $enough) {
            my $before = @{ $tally{drained} };
            my $said = do_round($form, $run, \%tally);
            $wrong = $said if defined $said;
            last if defined $said || @{ $tally{drained} } == $before;
        }
        $run->{wrong} = $wrong;
        my $end = $form->{finish}->($run);
        delete @guarded{ @{ $run->{pids} } };
        $wrong = defined $wrong ? "$wrong; $end" : $end if defined $end;
        $wrong //= 'it has ended' if !$form->{ends} && @{ $tally{drained} } < $enough;
        # On a slow machine a run may be over before a round is.
        $barren = @{ $tally{drained} } == $done ? $barren + 1 : 0;
        $wrong //= 'no round in five runs' if $barren == 5;
        $runs++;
    }
    my @drained = @{ $tally{drained} };
    my $growth = growth($form, \%tally);
    wait_until(sub { aio_nr() <= $nr }, 10) if !$ENV{BUSY};
    ok(!defined $wrong, "$name: it ends well, and has checked all its work") or diag($wrong);
    ok(!$tally{changed} && !$growth, "$name: threads, descriptors and mappings are as many as before") or diag($tally{changed} // $growth);
    ok(!$tally{nr} && ($ENV{BUSY} || aio_nr() <= $nr), "$name: fs.aio-nr is as before") or diag($tally{nr} // aio_nr());
    my %row = (
        program  => $program->{name},
        form     => $form->{name},
        rings    => $tally{rings},
        rounds   => scalar @drained,
        runs     => $runs,
        stopped  => $tally{exact},
        signals  => $tally{signals},
        deaths   => $tally{deaths},
        met      => scalar(grep { $_ } @drained),
        requests => sum0(@drained),
        most     => max(0, @drained),
        median   => median(@{ $tally{down} }),
        worst    => max(0, @{ $tally{down} }),
        seconds  => time - $begun,
    );
    return \%row;
}

my @columns = (
    [ program  => 'program',   '%-10s' ], [ form    => 'form',              '%-22s' ], [ rounds => 'rounds', '%6d' ], [ runs => 'runs', '%4d' ],
    [ signals  => 'signals',   '%7d' ],   [ deaths  => 'deaths',            '%6d' ],   [ stopped => 'stopped',           '%7d' ],   [ met => 'with I/O', '%8d' ],
    [ requests => 'in flight', '%9d' ],   [ most    => 'most',              '%4d' ],   [ median => 'median ms', '%9.1f' ],
    [ worst    => 'worst ms',  '%8.1f' ], [ seconds => 'seconds',           '%7.0f' ],
);

sub table
{
    my (@rows) = @_;
    return join ' | ', map { sprintf $_->[2] =~ s/\.?\d*[df]$/s/r =~ s/%(-?)(\d*)(?:\.\d+)?s?$/%$1$2s/r, $_->[1] } @columns if !@rows;
    return map { my $row = $_; join ' | ', map { sprintf $_->[2], $row->{ $_->[0] } } @columns } @rows;
}

# Makes so many rounds over a program's forms (those whose name matches `only`).
sub soak
{
    my ($program, $rounds, $only) = @_;
    my $why = $program->{missing} ? $program->{missing}->() : undef;
    if (defined $why) {
        SKIP: { skip "$program->{name}: $why", 1 }
        return;
    }
    my @forms = grep { !defined $only || $_->{name} =~ /$only/ } @{ $program->{forms} };
    my $why_not_slow = (grep { $_->{slow} } @forms) ? why_no_slow_disk(direct_folder() // '.') : undef;
    if (defined $why_not_slow) {
        for my $form (grep { $_->{slow} } @forms) {
            SKIP: { skip "$program->{name}, $form->{name}: $why_not_slow", 1 }
        }
        @forms = grep { !$_->{slow} } @forms;
    }
    my @rows;
    my $is_set_up = eval { $program->{setup}->() if $program->{setup}; 1 };
    ok($is_set_up, "$program->{name} can be set up") or diag($@);
    @rows = map { soak_form($program, $_, $rounds) } @forms if $is_set_up;
    # How many depends on the speed of what it writes to: not each form meets one in a few rounds.
    for my $form (@rows ? (grep { $_->{slow} } @forms) x 3 : ()) {
        last if defined $only || defined $why_not_slow || sum0(map { $_->{requests} } @rows);
        push @rows, soak_form($program, $form, $rounds);
    }
    $program->{teardown}->() if $program->{teardown};
    return @rows if defined $only;
    SKIP: {
        skip "$program->{name}: whether requests were in flight is luck without a slow disk", 1 if defined $why_not_slow;
        ok(sum0(map { $_->{requests} } @rows), "$program->{name}: requests were in flight");
    }
    return @rows;
}

1;
