#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# fio writes, reads back and verifies, while it is staged and restored again and again, at any moment: it must
# find every byte where it has put it, and not notice anything else.
#
# usage: fio.t [FORM]      a part of a form's name: that one only
#
# ROUNDS: of each form; as many as make a short test, if it is not set.
use strict;
use warnings;
use lib 'tests';
use Cli;
use Fcntl qw(O_RDWR O_CREAT O_DIRECT);
use List::Util qw(max sum0);
use POSIX ':sys_wait_h';
use Test::More;
use Time::HiRes qw(sleep time);

my $rounds = $ENV{ROUNDS} // 8;
my $seconds = max(3, min_of(30, $rounds / 4));    # of one run of fio; as many as it takes
my $patience = 120;                               # seconds: only there to end what hangs

sub min_of { my ($a, $b) = @_; return $a < $b ? $a : $b }

# Requests must be asynchronous, or none is ever in flight: tmpfs takes O_DIRECT, too, but is not.
sub is_direct
{
    my ($folder) = @_;
    my $file = "$folder/aior-fio-$$";
    return if run_command('stat', '-f', '-c', '%T', $folder)->{out} =~ /^(tmpfs|ramfs|overlayfs)$/;
    my $is_open = sysopen my $handle, $file, O_RDWR | O_CREAT | O_DIRECT, 0600;
    unlink $file;
    return $is_open;
}

plan skip_all => 'fio is not there' if !have('fio');
my ($parent) = grep { is_direct($_) } $DIR =~ s{/[^/]+$}{}r, $BUILD, '/var/tmp';
plan skip_all => 'no file system here takes O_DIRECT' if !defined $parent;
my $folder = File::Temp::tempdir('aior-fio-XXXXXX', DIR => $parent, CLEANUP => 1);

# ---- fio, and its end whatever happens ----

my @left;    # processes of it: jobs are in sessions of their own, and a parked one ends by nobody's hand
END { local $?; kill 'KILL', @left if @left }

# Ends the processes that it has been told of when this test is no more.
sub watchdog
{
    pipe my $from, my $to or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        close $to;
        $SIG{$_} = 'IGNORE' for qw(INT TERM HUP);
        my @pids = map { 0 + $_ } <$from>;
        kill 'KILL', @pids if @pids;
        POSIX::_exit(0);
    }
    close $from;
    $to->autoflush;
    return { pid => $pid, to => $to };
}

sub children_of { my ($pid) = @_; return map { split ' ', slurp($_) } glob "/proc/$pid/task/*/children" }

sub has_rings { my ($pid) = @_; return slurp("/proc/$pid/maps") =~ m{/\[aio\]} }

# The processes that have rings, when each job has; empty if they do not come.
sub wait_for_jobs
{
    my ($fio, $form) = @_;
    my $end = time + $patience;
    while (time < $end && waitpid($fio->{pid}, WNOHANG) == 0) {
        my @pids = grep { has_rings($_) } $fio->{pid}, children_of($fio->{pid});
        my $rings = sum0(map { scalar(() = slurp("/proc/$_/maps") =~ m{/\[aio\]}g) } @pids);
        return @pids if $rings >= $form->{jobs};
        sleep 0.01;
    }
    return;
}

# (Without serialize_overlap it writes blocks that it is just reading back, and finds errors of its own making.)
sub start_fio
{
    my ($form) = @_;
    my $log = fresh('.log');
    local $ENV{GLIBC_TUNABLES} = 'glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0';
    my $fio = start('sh', '-c', 'log=$1; shift; exec "$@" >"$log" 2>&1', 'sh', $log, 'fio', '--name=job', "--directory=$folder",
        '--ioengine=libaio', '--direct=1', '--rw=randwrite', '--verify=crc32c', '--verify_fatal=1', '--do_verify=1',
        '--verify_backlog=64', '--serialize_overlap=1', '--verify_state_save=0', '--time_based', "--runtime=$seconds",
        '--eta=never', '--randrepeat=0', @{ $form->{options} });
    $fio->{log} = $log;
    $fio->{watchdog} = watchdog();
    $fio->{jobs} = [ wait_for_jobs($fio, $form) ];
    @left = (@{ $fio->{jobs} }, children_of($fio->{pid}));
    print { $fio->{watchdog}{to} } map { "$_\n" } $fio->{pid}, @left;
    return $fio;
}

# Waits for it to end by itself. Returns what is wrong, or nothing.
sub end_fio
{
    my ($fio) = @_;
    my $end = time + $patience + $seconds;
    my $status;
    while (time < $end && !defined $status) {
        $status = $? if waitpid($fio->{pid}, WNOHANG) == $fio->{pid};
        sleep 0.01;
    }
    kill 'KILL', @left if !defined $status;
    @left = ();
    kill 'KILL', $fio->{watchdog}{pid};
    waitpid $fio->{watchdog}{pid}, 0;
    end($fio);
    my $text = slurp($fio->{log});
    my @wrong = $text =~ /^((?:fio|verify):.*|.*err= *[1-9].*)$/mg;
    return 'it does not end' if !defined $status;
    return "it ends with status $status: " . substr($text, 0, 2000) if $status;
    return "it says: @wrong[0 .. min_of($#wrong, 5)]" if @wrong;
    return $text =~ /err= *0/ && $text =~ /^ +read *:.*^ +write *:/ms ? undef : 'it has not both written and read';
}

sub is_gone { my ($pid) = @_; return state_of($pid) =~ /^[ZX]?$/ }

# Whether one of these has ended, or is about to: it unmaps its rings first.
sub is_over { return grep { is_gone($_) || !has_rings($_) } @_ }

# ---- rounds ----

# Threads, descriptors and mappings, all counted. (fio's heap is one mapping, however it grows: see start_fio().)
sub counts_of
{
    my (@pids) = @_;
    return join ', ', map {
        my $pid = $_;
        my @fds = glob "/proc/$pid/fd/*";
        my @maps = split /\n/, slurp("/proc/$pid/maps");
        my @threads = threads_of($pid);
        scalar(@threads) . ' threads, ' . scalar(@fds) . ' descriptors, ' . scalar(@maps) . ' mappings';
    } @pids;
}

sub maps_of { return map { split /\n/, slurp("/proc/$_/maps") } @_ }

# Mappings that were not there before.
sub added { my ($before, @pids) = @_; my %was = map { $_ => 1 } @$before; return grep { !$was{$_} } maps_of(@pids) }

sub processes_in
{
    my ($result) = @_;
    my $said = json($result->{out}) // {};
    return $said->{processes} ? @{ $said->{processes} } : $said;
}

# One round. Returns what is wrong; '' for a round; nothing when fio has come to its end.
sub do_round
{
    my ($jobs, $tally) = @_;
    sleep rand(0.15);
    my @maps = maps_of(@$jobs);
    my $before = counts_of(@$jobs);
    my $staged = run_tool({ seconds => $patience }, 'stage', '--json', @$jobs);
    if ($staged->{status}) {
        sleep 0.2;
        return if is_over(@$jobs);
        return "stage: status $staged->{status}: $staged->{err}";
    }
    # In its last moments a process has no rings: then it is not parked, and ends.
    my @staged = grep { $_->{rings} } processes_in($staged);
    return if !@staged;
    my @parked = map { $_->{pid} } @staged;
    my @live = grep { has_rings($_) } @parked;
    sleep rand(0.1) if rand() < 0.5;
    my $restored = run_tool({ seconds => $patience }, 'restore', '--json', @parked);
    return "restore: status $restored->{status}: $restored->{err}" if $restored->{status};
    return "a ring of @live is left" if @live;
    return if @parked < @$jobs;
    push @{ $tally->{drained} }, sum0(map { $_->{drained} } @staged);
    push @{ $tally->{down} }, max(map { $_->{stood_ms} } @staged)
        + max(map { $_->{stop_ms} + $_->{prepare_ms} + $_->{blob_ms} + $_->{finish_ms} } processes_in($restored));
    my $end = time + 5;
    my $after;
    do {
        $after = counts_of(@$jobs);
        return '' if $after eq $before;
        sleep 0.01;
    } while (time < $end && !is_over(@$jobs));
    return if is_over(@$jobs);
    $tally->{changed} //= join "\n", "$before; then $after", added(\@maps, @$jobs);
    return '';
}

my $met = 0;    # requests in flight, of all forms

sub median { my @sorted = sort { $a <=> $b } @_; return $sorted[ @sorted / 2 ] // 0 }

sub test_form
{
    my ($form) = @_;
    my %tally = (drained => [], down => []);
    my ($wrong, $runs) = (undef, 0);
    my $name = $form->{name};
    while (!defined $wrong && @{ $tally{drained} } < $rounds) {
        my $done = @{ $tally{drained} };
        my $fio = start_fio($form);
        while (@{ $fio->{jobs} } && @{ $tally{drained} } < $rounds) {
            my $said = do_round($fio->{jobs}, \%tally);
            last if !defined $said;
            next if $said eq '';
            $wrong = $said;
            last;
        }
        kill 'KILL', @left if defined $wrong;
        my $end = end_fio($fio);
        $wrong = defined $wrong ? "$wrong; $end" : $end if defined $end;
        $wrong //= 'no round in it' if @{ $tally{drained} } == $done;
        $runs++;
    }
    my @drained = @{ $tally{drained} };
    ok(!defined $wrong, "$name: fio ends well, and has verified everything") or diag($wrong);
    ok(!$tally{changed}, "$name: threads, descriptors and mappings are as many as before") or diag($tally{changed});
    $met += sum0(@drained);
    note(sprintf '%s: %d rounds in %d runs, %d of them with requests in flight, %d in all (at most %d); it stood still for '
            . '%.1f ms (median), %.1f ms (worst), the time that it was parked apart', $name, scalar @drained, $runs,
        scalar(grep { $_ } @drained), sum0(@drained), max(0, @drained), median(@{ $tally{down} }), max(0, @{ $tally{down} }));
}

my @forms = (
    { name => '4 KiB at iodepth 32', jobs => 1, options => [qw(--bs=4k --iodepth=32 --size=32m)] },
    { name => '1 MiB at iodepth 64', jobs => 1, options => [qw(--bs=1m --iodepth=64 --size=256m)] },
    { name => 'jobs as processes', jobs => 3, options => [qw(--bs=64k --iodepth=16 --size=32m --numjobs=3)] },
    { name => 'jobs as threads', jobs => 3, options => [qw(--bs=64k --iodepth=16 --size=32m --numjobs=3 --thread)] },
    { name => 'userspace_reap', jobs => 1, options => [qw(--bs=4k --iodepth=32 --size=32m --userspace_reap)] },
    { name => 'fsync', jobs => 1, options => [qw(--bs=16k --iodepth=16 --size=32m --fsync=16)] },
    { name => 'limited rate', jobs => 1, options => [qw(--bs=4k --iodepth=8 --size=16m --rate_iops=2000)] },
);

my $only = shift;
test_form($_) for grep { !defined $only || $_->{name} =~ /$only/ } @forms;
# How many depends on the speed of what fio writes to: the large ones cannot all be done in time.
ok($met, 'requests were in flight') if !defined $only;
done_testing;
