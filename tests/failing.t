#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# A system call of the tool fails, once, with an error that its manual page allows (tests/errnos.h): any of them,
# in each command. The command then does its work all the same, or says what has failed, and nothing is lost by it.
#
# FAULTS says in how many ways for each command: 10 as a rule, drawn at random (SEED); all: in each.
# ONLY, a pattern, names the commands; FAULTS_LOG a file that each case is written to.
use strict;
use warnings;
use lib 'tests';
use Cli;
use File::Spec::Functions qw(rel2abs);
use List::Util qw(shuffle);
use Test::More;
use Time::HiRes qw(time);

my $faults = $ENV{FAULTS} // 10;
my $only = $ENV{ONLY} // '';
my $seed = $ENV{SEED} // time ^ $$;
srand $seed;

my $strike = "$BUILD/tests/strike";

# What comes before the tool has looked at anything is the dynamic linker's.
my $first = () = calls_of({}, '--version');

# The command, with the call that is to fail: one of the tool's (or of the `program`), or (is_inside) one that its process
# makes for it.
sub failing
{
    my ($options, $log, $case, @command) = @_;
    return ('env', "REFUSE_INSIDE=@{ $case // [ 0, 0 ] } $log", 'LD_PRELOAD=' . rel2abs("$BUILD/tests/refuse-inside.so"), $TOOL, @command) if $options->{is_inside};
    return ($strike, $options->{program} ? '--marked' : (), '--log', $log, $case ? ('--refuse', @$case) : (), $options->{program} // $TOOL, @command);
}

# How many errors each call can have.
sub calls_of
{
    my ($options, @command) = @_;
    my $log = fresh('.calls');
    run_command(failing($options, $log, undef, @command));
    my @errnos = slurp($log) =~ /^\d+ \d+ (\d+) /mg;
    unlink $log;
    return @errnos;
}

# ---- what it says ----

my %said;    # each sentence, without what is of this run alone: how often

# A command that fails says what has failed, in whole lines; what it says besides is of no concern here.
sub why_bad_message
{
    my ($result, $call) = @_;
    my $text = $result->{err};
    $said{ $text =~ s/0x[0-9a-f]+/ADDRESS/gr =~ s/\b\d{3,}\b/N/gr =~ s/\d+\.\d+ ms/T/gr =~ s{/\S+\.core\S*}{FILE}gr }++ if $result->{status};
    return "it is killed by signal $result->{signal}" if $result->{status} < 0;
    return "exit status $result->{status}: $text" if $result->{status} !~ /^[0134]$/;
    # (What it says may be what could not be written.)
    return if $call->{nr} =~ /^(?:1|64)\(2,/;
    return "exit status $result->{status}, and it says nothing" if $result->{status} && $text eq '' && $result->{out} !~ /^AIO works +no: [A-Z]/m;    # (check says it in its table)
    return "it says '$text'" if $text !~ /\A(?:aio-restorer: \S[^\n]*[^\s:]\n(?:\S[^\n]*\n)*)*\z/ || $text =~ /Success|\(null\)|unknown error|[^\x20-\x7e\n]/i;
    return "it says that a process has gone: '$text'" if !$call->{is_gone} && $text =~ /has exited|there is no process/;
    return;
}

# ---- each case ----

# The tool with one call that fails; what it ends with, and which call that was.
sub run_failing
{
    my ($options, $case, @command) = @_;
    my $log = fresh('.calls');
    my $result = run_command(failing($options, $log, $case, @command));
    my %call = (text => "call $case->[0] is not made", nr => '', is_gone => 0);
    if (slurp($log) =~ /^\d+ \d+ \d+ ((\d+)\(.*)\nfails with (\d+)$/m) {
        local $! = $3;
        %call = (text => "call $case->[0], $1, fails: $!", nr => $1, is_gone => $!{ESRCH} || $!{ENOENT} || $!{ECHILD});
    }
    unlink $log;
    return ($result, \%call);
}

# Runs a command in each way. `options`: before, which makes all ready for it; judge, which says what is wrong
# afterwards. Both may have more than one thing to say.
sub refuse_each
{
    my ($name, $options, @words) = @_;
    return if $name !~ /$only/;
    # (One that has been lost is another process afterwards.)
    my $command = sub { return map { $_ eq 'PIDS' ? pids() : $_ } @words };
    my @wrong = $options->{before} ? $options->{before}->() : ();
    my @errnos = calls_of($options, $command->());
    push @wrong, map { $_ // () } $options->{judge}->({ status => 0, err => '', out => '' }, 1);
    my @cases;
    # (Not each run makes as many.)
    for my $n (($options->{is_inside} || $options->{program} ? 1 : $first) .. @errnos) {
        push @cases, map { [ $n, $_ ] } 0 .. $errnos[ $n - 1 ] - 1;
    }
    my $most = $options->{most} // $faults;
    @cases = (shuffle @cases)[0 .. $most - 1] if $faults ne 'all' && $most < @cases;
    my ($failed, $succeeded, $broke) = (0, 0, 0);
    for my $case (sort { $a->[0] <=> $b->[0] || $a->[1] <=> $b->[1] } @cases) {
        my @why = $options->{before} ? $options->{before}->() : ();
        my ($result, $call) = run_failing($options, $case, $command->());
        push @why, map { $_ // () } why_bad_message($result, $call), $options->{judge}->($result, 0);
        $result->{status} ? $failed++ : $succeeded++;
        $broke++ if @why;
        my $said = $result->{err} =~ s/\n/\\n/gr;
        push @wrong, map { "$call->{text} (status $result->{status}, '$said'): $_" } @why;
        if ($ENV{FAULTS_LOG}) {
            open my $log, '>>', $ENV{FAULTS_LOG} or die "$ENV{FAULTS_LOG}: $!";
            print $log "$name: @$case: $call->{text}: status $result->{status}: $said", (map { ": WRONG: $_" } @why), "\n";
        }
        last if @wrong > ($faults eq 'all' ? 400 : 2);
    }
    is_deeply(\@wrong, [], "$name, in which a call fails: " . @cases . " cases, $succeeded succeed all the same, $failed fail, $broke wrong") or diag("SEED=$seed");
    return;
}

# ---- the process ----

# Workers; those that are no more, or not as they were, make place for others.
my @options;
my @workers;

sub have_workers
{
    my ($count, @those) = @_;
    done_with_workers();
    @options = @those;
    push @workers, new_worker() for 1 .. $count;
    return @workers;
}

sub new_worker
{
    my $worker = worker(@options) or die 'no worker';
    $worker->{before} = look_of($worker->{pid});
    return $worker;
}

sub done_with_workers
{
    ends_well($_, 'each request of the process has had one event') for @workers;
    @workers = ();
    return;
}

sub pids { return map { $_->{pid} } @workers }

sub is_staged { my ($pid) = @_; return slurp("/proc/$pid/maps") !~ /\[aio\]/ }

sub why_any_not_well
{
    my @wrong;
    for my $worker (@workers) {
        my $why = why_not_well($worker, $worker->{before}) // next;
        end($worker);
        push @wrong, "process $worker->{pid}: $why, status $?: " . slurp($worker->{errors});
        $worker = undef;
    }
    @workers = map { $_ // new_worker() } @workers;
    return @wrong;
}

sub restore_all
{
    my $result = run_tool('restore', pids());
    return $result->{status} ? "restore: exit status $result->{status}: $result->{err}" : ();
}

sub stage_all
{
    my $result = run_tool('stage', pids());
    return $result->{status} ? "stage: exit status $result->{status}: $result->{err}" : ();
}

# What is staged is parked, and can be restored; what could not be staged goes on at once.
sub judge_stage
{
    my ($result, $is_trial) = @_;
    my @wrong;
    my $staged = grep { is_staged($_) } pids();
    if ($is_trial || $result->{status} == 0) {
        push @wrong, 'it is not staged' if $staged < @workers;
    } elsif ($result->{status} == 3) {
        push @wrong, 'it is unfinished, and live' if !$staged;
        push @wrong, 'it does not say how to go on' if $result->{err} !~ /`aio-restorer restore \d+/;
    } elsif ($result->{status} > 0) {
        push @wrong, why_any_not_well();
    }
    return (@wrong, restore_all(), why_any_not_well());
}

# A poll that is said to be lost ends so, which a worker does not put up with.
sub judge_loss
{
    my @wrong;
    for my $worker (@workers) {
        wait_until(sub { has_ended($worker->{pid}) }, 30);
        my $said = slurp($worker->{errors});
        push @wrong, "process $worker->{pid}, which has lost a poll: $said" if $said !~ /a poll (?:that ends before|with another result).* res 32\)/;
        end($worker);
        $worker = new_worker();
    }
    return @wrong;
}

# It is restored, or stays parked and can be.
sub judge_restore
{
    my ($result, $is_trial) = @_;
    my @wrong;
    return judge_loss() if $result->{err} =~ /the poll of iocb \S+ is lost/;
    push @wrong, 'it is not restored' if !$result->{status} && grep { is_staged($_) } pids();
    push @wrong, 'it does not say how to go on' if $result->{status} == 3 && $result->{err} !~ /`aio-restorer restore \d+/;
    return (@wrong, restore_all(), why_any_not_well());
}

sub test_stage_and_restore
{
    my ($prefix) = @_;
    my %stage = (judge => \&judge_stage);
    my %restore = (before => \&stage_all, judge => \&judge_restore);

    refuse_each("${prefix}stage", \%stage, 'stage', 'PIDS');
    refuse_each("${prefix}restore", \%restore, 'restore', 'PIDS');
    return;
}

have_workers(1, '--rings', 3, '--threads', 3);
test_stage_and_restore('');
refuse_each('stage --room', { judge => \&judge_stage }, 'stage', '--room', 256, 'PIDS');

SKIP: {
    skip 'a sanitizer must be loaded first', 3 if $SAN;
    my %inside = (is_inside => 1);
    refuse_each('inside: stage', { %inside, judge => \&judge_stage }, 'stage', 'PIDS');
    refuse_each('inside: stage --room', { %inside, judge => \&judge_stage }, 'stage', '--room', 256, 'PIDS');
    refuse_each('inside: restore', { %inside, before => \&stage_all, judge => \&judge_restore }, 'restore', 'PIDS');
}

# ---- what does not touch it ----

sub addresses { return sort @{ $workers[0]->{rings} } }

# All its rings, or an error.
sub judge_list
{
    my ($result, $is_trial) = @_;
    my @addresses = addresses();
    my @listed = sort map { /^ring (0x\S+), live/mg, /"addr":"(0x[0-9a-f]+)","len":\d+,"state":"live"/g } $result->{out};
    my @wrong = why_any_not_well();
    push @wrong, "it lists @listed, not @addresses" if !$is_trial && !$result->{status} && "@listed" ne "@addresses";
    push @wrong, 'its JSON cannot be read' if !$is_trial && $result->{out} =~ /^\{/ && !json($result->{out});
    return @wrong;
}

my $core = fresh('.core');

# Either the whole file, or none and nothing beside it.
sub judge_dump
{
    my ($result, $is_trial) = @_;
    my @wrong = why_any_not_well();
    my @there = glob "$core*";
    my $listed = () = run_tool('list', $core)->{out} =~ /^ring /mg;

    # (It is there when its name cannot be told.)
    my $is_done = !$result->{status} || $result->{err} =~ /standard output cannot be written/;
    push @wrong, "there is @there" if "@there" ne ($is_done ? $core : '');
    push @wrong, "it has $listed rings" if !$result->{status} && $listed != @{ $workers[0]->{rings} };
    unlink @there;
    return @wrong;
}

refuse_each('list', { judge => \&judge_list }, 'list', 'PIDS');
refuse_each('list --json', { judge => \&judge_list }, 'list', 'PIDS', '--json');
refuse_each('dump', { judge => \&judge_dump }, 'dump', 'PIDS', '-o', $core);

run_tool('dump', pids(), '-o', $core);

# What it shows, but for pids.
sub shown { my ($text) = @_; return $text =~ s/^process \d+//mgr =~ s/"pid":\d+//gr =~ s/"id":\d+//gr }

my %expected = map { $_ => shown(run_tool('run', $core, $_ ? '--compact' : ())->{out}) } 0, 1;
my $listed = run_tool('list', $core)->{out};

sub nothing_is_left { return map { "process $_ is left" } own_processes() }

for my $compact (0, 1) {
    my @option = $compact ? '--compact' : ();
    refuse_each("run @option", {
        judge => sub {
            my ($result, $is_trial) = @_;
            my @wrong = nothing_is_left();
            push @wrong, "it shows $result->{out}, not $expected{$compact}" if !$is_trial && !$result->{status} && shown($result->{out}) ne $expected{$compact};
            return @wrong;
        }
    }, 'run', $core, @option);
}
refuse_each('list of a core', {
    judge => sub {
        my ($result, $is_trial) = @_;
        return !$is_trial && !$result->{status} && $result->{out} ne $listed ? "it shows $result->{out}" : ();
    }
}, 'list', $core);
refuse_each('check', { judge => \&nothing_is_left }, 'check');
refuse_each('check of a core', { judge => \&nothing_is_left }, 'check', $core);

# ---- other processes ----

have_workers(1, '--rings', 3, '--threads', 3, '--by-call');
refuse_each('inside: restore --compact', { is_inside => 1, before => \&stage_all, judge => \&judge_restore }, 'restore', '--compact', 'PIDS') if !$SAN;
refuse_each('restore --compact', { before => \&stage_all, judge => \&judge_restore }, 'restore', '--compact', 'PIDS');
have_workers(1, '--rings', 2, '--threads', 2, '--state', 'filter');
test_stage_and_restore('under a filter: ');
have_workers(2, '--rings', 2, '--threads', 2);
test_stage_and_restore('two processes: ');
SKIP: {
    skip 'no 32-bit worker could be built', 3 if !-x "$BUILD/tests/worker-i386";
    have_workers(1, { arch => 'i386' }, '--rings', 2, '--threads', 2);
    test_stage_and_restore('a 32-bit program: ');
}
have_workers(1, '--rings', 2, '--heir', 'idle');
refuse_each('with an heir: stage', { judge => \&judge_stage }, 'stage', 'PIDS');
done_with_workers();

# ---- a process that does it to itself ----

my $itself = { most => 3 * ($faults eq 'all' ? 0 : $faults), program => "$BUILD/tests/itself", judge => sub { my ($result) = @_; return $result->{status} ? "status $result->{status}: $result->{out}" : () } };
for my $words ([], ['compact'], ['room']) {
    refuse_each(join(' ', 'itself:', @$words), $itself, @$words);
}

note("said $said{$_} times: $_") for sort keys %said;
done_testing;
