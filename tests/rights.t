#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Who may do what: for each kind of process, and each kind of caller, either all works, or all is refused with a
# sentence that says why, and the process goes on as it was. And what others have planted, where files are written and
# where journals lie, leads nowhere.
#
# usage: rights.t [PART...]
use strict;
use warnings;
use lib 'tests';
use Cli;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'no setpriv' if $> == 0 && !have('setpriv');

my $nobody = (getpwnam 'nobody')[2] // 65534;
my $user = 53000 + $$ % 1000;
# Of ptrace(2): with Yama, a plain user's own processes are not all his to trace.
my $scope = 0 + (slurp('/proc/sys/kernel/yama/ptrace_scope') || 0);

# A command of a user who has no more than his own rights, or these capabilities.
sub as_user
{
    my ($uid, @capabilities) = @_;
    my $sets = join ',', '-all', map { "+$_" } @capabilities;
    return ('setpriv', "--reuid=$uid", "--regid=$uid", '--clear-groups', "--inh-caps=$sets", @capabilities ? "--ambient-caps=$sets" : ());
}

# What others have made is theirs alone, so the program and its folder must be open to all.
plan skip_all => 'others may not read the programs that are tested'
    if $> == 0 && run_command(as_user($user), $TOOL, '--version')->{status} + run_command(as_user($user), "$BUILD/tests/worker", '--make', '/dev/null')->{status};

# A folder that is theirs.
sub folder_of
{
    my ($uid, $mode) = @_;
    my $folder = fresh();
    mkdir $folder or die "$folder: $!";
    die "$folder: $!" if $> == 0 && !chown $uid, $uid, $folder;
    chmod $mode // 0700, $folder;
    return $folder;
}

# Every command, from every caller that may not: the same answer.
sub is_refused
{
    my ($name, $worker, $pattern, $caller, @verbs) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok(0, "$name: there is a worker") if !$worker;
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my $folder = folder_of(0, 0777);
    my %rest = (dump => [ '-o', "$folder/core" ]);
    for my $verb (@verbs ? @verbs : qw(list dump stage restore)) {
        my $result = run_command(@$caller, $TOOL, $verb, $pid, @{ $rest{$verb} // [] });
        ok($result->{status} == 1 && $result->{err} =~ /\Aaio-restorer: process $pid .*\n\z/ && $result->{err} =~ $pattern && $result->{out} eq '',
            "$name: $verb is refused, with the reason") or diag explain $result;
    }
    ok(!-e "$folder/core", '... no core is written');
    is_as_before($pid, $before, '... it is as it was');
    is_deeply([ journal($pid) ], [], '... nothing is left behind outside of it');
    goes_on($worker, '... and goes on');
    return;
}

sub is_done
{
    my ($name, $worker, $caller, @verbs) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok(0, "$name: there is a worker") if !$worker;
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my $folder = folder_of(0, 0777);
    my %rest = (dump => [ '-o', "$folder/core" ]);
    for my $verb (@verbs ? @verbs : qw(list dump stage restore)) {
        my $result = run_command(@$caller, $TOOL, $verb, $pid, @{ $rest{$verb} // [] });
        is($result->{status}, 0, "$name: $verb works") or diag explain $result;
        is_parked($pid, '... it is parked') if $verb eq 'stage' && !$result->{status};
    }
    goes_on($worker, '... it goes on');
    is_as_before($pid, $before, '... as it was');
    is_deeply([ journal($pid) ], [], '... nothing is left behind outside of it');
    return;
}

# Done where it is a matter of the kernel's rules alone; refused where Yama stands between.
sub is_owners
{
    my ($name, $worker, @rest) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is_done($name, $worker, @rest) if !$scope;
    return is_refused($name, $worker, qr/kernel\.yama\.ptrace_scope is $scope/, @rest);
}

sub is_ended { my ($worker) = @_; return $worker && ends_well($worker, '... and ends well') }

my @root = ();
my @user = as_user($user);
my @tracer = as_user($nobody, 'sys_ptrace', 'dac_read_search');
my $is_able = !run_command(@tracer, 'true')->{status} && $scope < 3;

# ---- another user's ----

sub users
{
    my $roots = worker('--threads', 2);
    is_refused("root's process, by a user", $roots, qr/it is user 0's \(group 0\), and you are user $user \(group $user\): be its owner or root/, \@user);
    my $staged = run_tool('stage', $roots->{pid});
    is($staged->{status}, 0, '... root stages it') or diag explain $staged;
    for my $verb (qw(stage restore dump list)) {
        my $result = run_command(@user, $TOOL, $verb, $roots->{pid}, $verb eq 'dump' ? ('-o', '/dev/null/x') : ());
        ok($result->{status} == 1 && $result->{err} =~ /it is user 0's/, "... and a user may not $verb it then") or diag explain $result;
    }
    is_parked($roots->{pid}, '... it stays parked');
    is(run_tool('restore', $roots->{pid})->{status}, 0, '... root restores it');
    goes_on($roots, '... it goes on');
    is_ended($roots);

    my $theirs = worker({ wrap => [ as_user($nobody) ] }, '--threads', 2);
    is_refused("a user's process, by another", $theirs, qr/it is user ${nobody}'s/, \@user);
    is_done("a user's process, by root", $theirs, \@root);
    is_owners('... by himself', $theirs, [ as_user($nobody) ]);
    is_refused('... by himself in another group', $theirs, qr/it is user ${nobody}'s \(group $nobody\), and you are user $nobody \(group $user\)/,
        [ 'setpriv', "--reuid=$nobody", "--regid=$user", '--clear-groups', '--inh-caps=-all' ]);
  SKIP: {
        skip 'CAP_SYS_PTRACE cannot be given to a user', 1 if !$is_able;
        my $third = worker({ wrap => [ @user ] });
        is_refused("a user's process, by another who has CAP_SYS_PTRACE alone", $third,
            qr/its files in \/proc are user ${user}'s: it takes CAP_DAC_READ_SEARCH beside CAP_SYS_PTRACE/, [ as_user($nobody, 'sys_ptrace') ], qw(list dump stage));
        is_done('... who has both', $third, \@tracer);
        is_ended($third);
    }
    is_ended($theirs);
    return;
}

# ---- in another user namespace ----

sub namespaces
{
  SKIP: {
        skip 'user namespaces: no unshare', 1 if !have('unshare');
        my @inside = ('unshare', '--user', '--map-root-user');
        skip 'user namespaces: a user can make none here', 1 if run_command(@user, @inside, 'true')->{status};
        my $worker = worker({ wrap => [ @user, @inside ] }, '--threads', 2);
        is_done('in a user namespace, by root outside', $worker, \@root);
        is_owners('... by the user who made it, outside', $worker, \@user);
        is_refused('... by another user', $worker, qr/it is user ${user}'s/, [ as_user($nobody) ]);
        # Root in a namespace of his own is nobody in this one.
        is_refused('... by that user in another namespace', $worker, qr/it is in another user namespace: call from in there \(nsenter --user --target $worker->{pid}\)/,
            [ @user, @inside ]);
        SKIP: {
            skip 'no nsenter', 1 if !have('nsenter');
            is_done('... inside, by root of that namespace', $worker, [ @user, 'nsenter', '--user', '--target', $worker->{pid}, '--preserve-credentials' ]);
        }
        is_ended($worker);
        my $outside = worker({ wrap => [ @user ] }, '--threads', 2);
        is_refused('outside, by root of a namespace that its user has made', $outside, qr/it is in another user namespace/, [ @user, @inside ]);
        is_ended($outside);
        my $roots = worker('--threads', 2);
        is_refused("root's, by root of a user's namespace", $roots, qr/it is in another user namespace/, [ @user, @inside ]);
        is_ended($roots);
        # What is a filter there needs the first namespace's root.
        my $filtered = worker({ wrap => [ @user, @inside ] }, '--state', 'filter');
        SKIP: {
            skip 'a filter in a user namespace: no nsenter', 1 if !have('nsenter');
            is_refused('with a filter of system calls, by root of its namespace', $filtered, qr/filter of system calls \(seccomp\).* CAP_SYS_ADMIN in the first user namespace/,
                [ @user, 'nsenter', '--user', '--target', $filtered->{pid}, '--preserve-credentials' ], 'stage');
        }
        is_done('... by root', $filtered, \@root);
        is_ended($filtered);
    }
    return;
}

# ---- with more rights than the caller ----

sub capabilities
{
    my @capable = as_user($user, 'net_raw');
  SKIP: {
        skip 'capabilities cannot be given to a user', 1 if run_command(@capable, 'true')->{status};
        my $worker = worker({ wrap => [ @capable ] }, '--threads', 2);
        is_refused('with a capability', $worker, qr/it has capabilities that you have not \(0x2000\): be root \(CAP_SYS_PTRACE\)/, \@user);
        is_owners('... by one who has it, too', $worker, \@capable);
        is_done('... by root', $worker, \@root);
        is_ended($worker);
    }
  SKIP: {
        skip 'file capabilities: no setcap', 1 if !have('setcap');
        # (The program itself need not be where that is possible.)
        my $program = fresh();
        spit($program, slurp("$BUILD/tests/worker"));
        chmod 0755, $program;
        skip 'file capabilities: not on this file system', 1 if run_command('setcap', 'cap_net_raw+ep', $program)->{status};
        my $worker = worker({ wrap => [ @user, 'sh', '-c', 'shift; exec "$0" "$@"', $program ] }, '--threads', 2);
        skip 'file capabilities: they are not given here', 1 if $worker && slurp("/proc/$worker->{pid}/status") !~ /^CapPrm:\s+0+2000$/m;
        is_refused('with a capability of its file', $worker, qr/it is not dumpable \(PR_SET_DUMPABLE, .*\): be root \(CAP_SYS_PTRACE\)/, \@user);
        is_done('... by root', $worker, \@root);
        is_ended($worker);
    }
    return;
}

sub undumpable
{
    my $worker = worker({ wrap => [ @user ] }, '--threads', 2, '--state', 'undumpable');
    is_refused('not dumpable', $worker, qr/it is not dumpable \(PR_SET_DUMPABLE, or a program that you may not read, or that has changed its user\): be root/, \@user);
    is_done('... by root', $worker, \@root);
  SKIP: {
        skip 'CAP_SYS_PTRACE cannot be given to a user', 1 if !$is_able;
        is_done('... by one who has CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH', $worker, \@tracer);
    }
    is_ended($worker);
    # A program that its user may execute, and not read.
    my $program = fresh();
    spit($program, slurp("$BUILD/tests/worker"));
    chmod 0711, $program;
    my $unreadable = worker({ wrap => [ @user, 'sh', '-c', 'shift; exec "$0" "$@"', $program ] }, '--threads', 2);
    is_refused('a program that its user may not read', $unreadable, qr/it is not dumpable/, \@user);
    is_done('... by root', $unreadable, \@root);
    is_ended($unreadable);
    return;
}

# ---- with fewer ----

sub filters
{
    my $pattern = qr/has a filter of system calls \(seccomp\): suspending it takes CAP_SYS_ADMIN in the first user namespace, and a caller without a filter/;
    for my $case ([ 'under a filter that forbids what a blob does', 'filter' ], [ 'with a thread under strict seccomp', 'strict' ]) {
        my ($name, $state) = @$case;
        my $worker = worker({ wrap => [ @user ] }, '--threads', 2, '--state', $state);
        is_owners($name, $worker, \@user, qw(list dump));
        is_refused($name, $worker, $pattern, \@user, 'stage');
        is_done('... by root', $worker, \@root);
        is_ended($worker);
    }
  SKIP: {
        skip 'CAP_SYS_PTRACE cannot be given to a user', 1 if !$is_able;
        my $worker = worker({ wrap => [ @user ] }, '--state', 'filter');
        is_refused('under a filter, by one who may trace alone', $worker, $pattern, \@tracer, 'stage');
        is_done('... and by one who has CAP_SYS_ADMIN, too', $worker, [ as_user($nobody, 'sys_ptrace', 'dac_read_search', 'sys_admin') ]);
        is_ended($worker);
    }
    # It is suspended where the thread stands still alone: what its filter forbids it cannot do, not for a moment.
    for my $case ([ 'a call that a filter refuses', 'knock' ], [ 'the same, and it says that it is parked', 'knock', 'pretend:' . number_of_arch() ]) {
        my ($name, @states) = @$case;
        my $worker = worker('--threads', 2, map { ('--state', $_) } @states);
        my (%ends, $result);
        for (1 .. (@states > 1 ? 4 : 15)) {
            for my $verb (qw(stage restore)) {
                $result = run_tool($verb, $worker->{pid});
                $ends{ $result->{status} }++;
            }
            last if has_ended($worker->{pid});
        }
        goes_on($worker, "$name: it is not let through") or diag explain $result;
        is_deeply([ sort keys %ends ], [ @states > 1 ? 1 : 0 ], '... and all else is as ever') or diag explain $result;
        is_ended($worker);
    }
    my $plain = worker({ wrap => [ @user ] }, '--threads', 2, '--state', 'no-new-privs');
    is_done('under no_new_privs, by root', $plain, \@root);
    is_owners('... by its user', $plain, \@user);
    is_owners('... by its user, who is under it, too', $plain, [ @user, 'setpriv', '--no-new-privs' ]);
    is_ended($plain);
    return;
}

# Of the host's own, as restorer.h has it.
sub number_of_arch
{
    my ($name) = run_tool('check')->{out} =~ /^architecture +(\w+)/m;
    my ($number) = slurp('pie/restorer.h') =~ /^#define AIOR_ARCH_\U$name\E (\d+)u/m;
    return $number;
}

# ---- Yama ----

# (What each of its scopes comes to is tested where they can be set: tests/yama.c.)
sub yama
{
  SKIP: {
        skip 'Yama: this kernel has none', 1 if !-e '/proc/sys/kernel/yama/ptrace_scope';
        skip 'Yama: kernel.yama.ptrace_scope is 0 here', 1 if !$scope;
        my $worker = worker({ wrap => [ @user ] }, '--threads', 2);
        is_refused("kernel.yama.ptrace_scope is $scope", $worker, qr/kernel\.yama\.ptrace_scope is $scope/, \@user);
        is_done('... by root', $worker, \@root) if $scope < 3;
        is_ended($worker);
    }
    return;
}

# ---- without root ----

# Threads that block all signals, as none of a worker's own do.
sub held_threads { my ($pid) = @_; return grep { slurp($_) =~ /^SigBlk:\s+fffffffffffbfeff$/m } glob "/proc/$pid/task/*/status" }

# Stage is killed where a thread is not itself: what it leaves in that folder of journals.
sub leave_journal
{
    my ($pid, $folder, @caller) = @_;
    for my $n (map { 3 * $_ } 3 .. 40) {
        my $result = run_command(@caller, "$BUILD/tests/strike", '--only', 'ptrace', '--log', '/dev/null', '--kill', $n, $TOOL, 'stage', $pid);
        my ($journal) = glob "$folder/$pid-*";
        return $journal if defined $journal && held_threads($pid);
        $result = run_command(@caller, $TOOL, 'restore', $pid);
        diag("restore: $result->{err}") if $result->{status};
    }
    return;
}

sub without_root
{
  SKIP: {
        skip "without root: kernel.yama.ptrace_scope is $scope", 1 if $scope;
        my $run = folder_of($user);
        my @caller = (@user, 'env', "XDG_RUNTIME_DIR=$run");
        my $worker = worker({ wrap => [ @user ] }, '--rings', 3, '--threads', 3);
        my $pid = $worker->{pid};
        my $before = look_of($pid);
        my $core = folder_of($user) . '/core';
        my $dumped = run_command(@caller, $TOOL, 'dump', $pid, '-o', $core);
        is($dumped->{status}, 0, 'a user dumps his own process') or diag explain $dumped;
        my @stat = stat $core;
        is(sprintf('%o %d', $stat[2] & 07777, $stat[4]), "600 $user", '... into a file of his alone');
        my $ran = run_command(@caller, $TOOL, 'run', $core);
        is($ran->{status}, 0, '... runs it') or diag explain $ran;
        is_done('... and all else', $worker, \@caller);
        for my $i (1 .. 5) {
            my $result = run_command(@caller, $TOOL, $_, $pid) for qw(stage restore);
        }
        is(sprintf('%o', (stat "$run/aio-restorer")[2] & 07777), '700', '... with a folder of journals that is his alone');
        is_deeply([ glob "$run/aio-restorer/*" ], [], '... in which none is left');
        goes_on($worker, '... it goes on');

        my $journal = leave_journal($pid, "$run/aio-restorer", @caller);
        ok($journal, 'killed in the middle, stage leaves a journal there') or skip('no journal was left', 1);
        is(sprintf('%o %d', (stat $journal)[2] & 07777, (stat _)[4]), "600 $user", '... which is his alone');
        # Another's journals are none of anybody's business, root's neither.
        run_tool('list', $pid);
        ok(-e $journal, '... root does not touch it');
        my $result = run_command(@caller, $TOOL, 'restore', $pid);
        is($result->{status}, 0, '... the next call finishes') or diag explain $result;
        ok(!-e $journal, '... and removes it');
        is_as_before($pid, $before, '... it is as it was');
        goes_on($worker, '... and goes on');
        is_ended($worker);

        # Without a place for journals all is the same, as long as nothing is killed.
        my $other = worker({ wrap => [ @user ] }, '--threads', 2);
        is_done('without XDG_RUNTIME_DIR', $other, [ @user, 'env', '-u', 'XDG_RUNTIME_DIR' ]);
        is_done('with XDG_RUNTIME_DIR that is no folder', $other, [ @user, 'env', 'XDG_RUNTIME_DIR=/dev/null' ]);
        is_done('with XDG_RUNTIME_DIR that does not begin at the root', $other, [ @user, 'env', 'XDG_RUNTIME_DIR=tmp' ]);
        is_ended($other);
    }
    return;
}

# What check says of it.
sub check
{
    my $run = folder_of($user);
    my $said = run_tool('check')->{out};
    like($said, qr{^may be traced +all of your user namespace$}m, 'check says that root may trace all') if $scope < 3;
    like($said, qr{^filters are suspended +yes$}m, '... that filters are suspended');
    like($said, qr{^journals are in +/run/aio-restorer$}m, '... where journals are');
    $said = run_command(@user, 'env', "XDG_RUNTIME_DIR=$run", $TOOL, 'check')->{out};
    my @scopes = (qr/your own, if they are dumpable and have no more capabilities than you; root: all/, qr/ptrace_scope is 1\); root: all/,
        qr/ptrace_scope is 2\); root: all/, qr/none, until the next boot/);
    like($said, qr{^may be traced +.*$scopes[$scope]}m, '... that a user may trace his own');
    like($said, qr{^filters are suspended +no: Operation not permitted; without it: .*seccomp}m, '... and suspends no filters');
    like($said, qr{^journals are in +\Q$run\E/aio-restorer$}m, '... where his journals are');
    ok(!-e "$run/aio-restorer", '... and makes no folder for that');
    for my $case ([ 'no such folder', 'XDG_RUNTIME_DIR=/none' ], [ "somebody else's", 'XDG_RUNTIME_DIR=/root' ], [ 'no path', 'XDG_RUNTIME_DIR=' ]) {
        my ($name, $variable) = @$case;
        $said = run_command(@user, 'env', $variable, $TOOL, 'check')->{out};
        like($said, qr{^journals are in +no folder \(it takes XDG_RUNTIME_DIR, .*\); without it: }m, "... that there are none: $name");
    }
    return;
}

# What none of it ever does: no network, nobody else's identity, nothing of the host's own that is changed.
sub never
{
  SKIP: {
        skip 'system calls cannot be told by name: no syscall.ph', 1 unless eval { require 'syscall.ph' };
        my %never;
        for my $call (qw(socket socketpair connect bind listen accept accept4 sendto sendmsg recvfrom recvmsg setuid setgid setreuid setregid setresuid setresgid
            setfsuid setfsgid setgroups capset chown lchown fchown fchownat chmod fchmodat mount umount2 pivot_root chroot setns unshare init_module
            finit_module delete_module kexec_load bpf perf_event_open keyctl add_key request_key sethostname settimeofday clock_settime
            reboot swapon quotactl mknod mknodat symlink symlinkat link))
        {
            my $nr = eval "&SYS_$call";    # (not every architecture has them all)
            $never{$nr} = $call if defined $nr;
        }
        ok(keys %never > 30, scalar(keys %never) . ' calls that the tool never makes');
        my $worker = worker('--threads', 2);
        my ($core, $log) = (fresh('.core'), fresh());
        for my $command ([ 'check' ], [ 'list', $worker->{pid} ], [ 'dump', $worker->{pid}, '-o', $core ], [ 'list', $core ], [ 'run', $core ],
            [ 'stage', $worker->{pid} ], [ 'restore', $worker->{pid} ], [ 'emit', '--blob', 'stage', '-o', fresh() ])
        {
            # (The children of check are to be traced by itself.)
            my $result = run_command("$BUILD/tests/strike", $command->[0] eq 'check' ? '--alone' : (), '--log', $log, $TOOL, @$command);
            my @calls = map { /^\d+ \d+ \d+ (\d+)\(/ ? $1 : () } split /\n/, slurp($log);
            my %made = map { $never{$_} => 1 } grep { $never{$_} } @calls;
            ok($result->{status} == 0 && @calls > 10 && !%made, "$command->[0] makes none of them") or diag explain [ $result, \%made ];
        }
        is_ended($worker);
    }
    return;
}

# ---- where dumps are written ----

# A file, and what it is: so that one can see whether it is as it was.
sub facts_of
{
    my ($path) = @_;
    my @stat = lstat $path or return 'none';
    return join ' ', @stat[ 0 .. 5, 7 ], -l _ ? readlink $path : -f _ ? slurp($path) : '';
}

sub dumps
{
    my $worker = worker({ wrap => [ @user ] }, '--threads', 2);
    my $pid = $worker->{pid};
    my $secret = spit(fresh(), 'a file of somebody else');
    chown $nobody, $nobody, $secret;
    for my $case ([ 'root', 0, \@root ], [ 'a user', $user, \@user ]) {
        my ($who, $uid, $caller) = @$case;
        next if $uid && $scope;
        my $folder = folder_of($uid);
        my $own = spit("$folder/own", 'a file of his own');
        chown $uid, $uid, $own;
        for my $target ([ "a link to somebody else's file", $secret ], [ 'a link to a file of his own', $own ], [ 'a link to nothing', "$folder/none" ],
            [ 'a link to a device', '/dev/null' ], [ 'a link to a folder', $folder ], [ 'a link to itself', "$folder/link" ]) {
            my ($name, $to) = @$target;
            symlink $to, "$folder/link" or die $!;
            my @before = map { facts_of($_) } "$folder/link", $to;
            my $result = run_command(@$caller, $TOOL, 'dump', $pid, '-o', "$folder/link");
            ok($result->{status} == 1 && $result->{err} eq "aio-restorer: $folder/link is a link, which is not followed: name the file that it leads to, or remove it\n",
                "$who dumps to $name: refused") or diag explain $result;
            is_deeply([ map { facts_of($_) } "$folder/link", $to ], \@before, '... link and file are as they were');
            unlink "$folder/link";
        }
        # To a file that has another name, too.
        link $own, "$folder/twin" or die $!;
        my $result = run_command(@$caller, $TOOL, 'dump', $pid, '-o', "$folder/twin");
        is($result->{status}, 0, "$who dumps to a hard link") or diag explain $result;
        is(slurp($own), 'a file of his own', '... which is replaced: the other name is as it was');
        is((lstat "$folder/twin")[3], 1, '... and the core has one name');
        opendir my $dir, $folder or die $!;
        is_deeply([ sort grep { !/^\.\.?$/ } readdir $dir ], [ 'own', 'twin' ], '... nothing else is left there');
        # In a folder of everybody's.
        my $sticky = folder_of(0, 01777);
        my $theirs = spit("$sticky/core", 'a file of somebody else');
        chown $nobody, $nobody, $theirs;
        chmod 0666, $theirs;
        open my $kept, '<', $theirs or die $!;
        $result = run_command(@$caller, $TOOL, 'dump', $pid, '-o', $theirs);
        if ($uid) {
            ok($result->{status} == 1 && $result->{err} =~ /cannot be written: Operation not permitted/, "$who dumps to another's file in a sticky folder: refused")
                or diag explain $result;
            is(slurp($theirs), 'a file of somebody else', '... it is as it was');
        } else {
            is($result->{status}, 0, "$who dumps to another's file in a sticky folder: replaced") or diag explain $result;
            is(sprintf('%o %d', (lstat $theirs)[2] & 07777, (lstat _)[4]), '600 0', "... by a file of root's alone");
        }
        is(readline($kept), 'a file of somebody else', '... who has it open sees none of it');
        opendir $dir, $sticky or die $!;
        is_deeply([ grep { !/^\.\.?$/ } readdir $dir ], ['core'], '... nothing else is left there');
    }
    raced($pid);
    goes_on($worker, 'it goes on');
    is_ended($worker);
    return;
}

# Somebody puts a link there, or leads the folder elsewhere, right before the file is given its name.
sub raced
{
    my ($pid) = @_;
    my @strike = ("$BUILD/tests/strike", '--log', '/dev/null');
    my $secret = spit(fresh(), 'a file of somebody else');
    my %actions = (
        'a link comes'            => sub { my ($folder) = @_; return "ln -sf $secret $folder/a/core" },
        'a link to nothing comes' => sub { my ($folder) = @_; return "ln -sf $folder/none $folder/a/core" },
        'a FIFO comes'            => sub { my ($folder) = @_; return "rm -f $folder/a/core; mkfifo $folder/a/core" },
        'the folder is another'   => sub { my ($folder) = @_; return "mv $folder/a $folder/b; ln -s elsewhere $folder/a" },
    );
    for my $call ('linkat 1', 'linkat 2', 'renameat 1') {
        my ($name, $n) = split ' ', $call;
        my $is_there = $call ne 'linkat 1';
        for my $action (sort keys %actions) {
            my $folder = fresh();
            mkdir $_ for $folder, "$folder/a", "$folder/elsewhere";
            spit("$folder/a/core", 'old') if $is_there;
            my $result = run_command(@strike, '--only', $name, '--run', $n, "touch $folder/struck; " . $actions{$action}->($folder), $TOOL, 'dump', $pid, '-o', "$folder/a/core");
            my $core = $action =~ /folder/ ? "$folder/b/core" : "$folder/a/core";
            ok($result->{status} == 0 && -e "$folder/struck" && -f $core && !-l $core && !run_tool('list', $core)->{status},
                "$action in front of $call: the core is in its place") or diag explain $result;
            is(join(' ', slurp($secret), -e "$folder/none" ? 'none' : (), map { s{.*/}{}r } glob "$folder/elsewhere/*"), 'a file of somebody else',
                '... and nothing is written elsewhere');
            my @left = grep { !m{/core$} } glob "$folder/[ab]/*";
            is("@left", '', '... nor left');
        }
    }
    # Where it replaces a file it has a name of its own for a moment, which is another each time.
    my %names;
    for (1 .. 3) {
        my $folder = fresh();
        mkdir $folder;
        spit("$folder/core", 'old');
        run_command(@strike, '--only', 'renameat', '--run', 1, "ls $folder >$folder.names", $TOOL, 'dump', $pid, '-o', "$folder/core");
        $names{$1} = 1 if slurp("$folder.names") =~ /^core\.([0-9a-f]{16})$/m;
    }
    is(scalar(keys %names), 3, 'the name beside the one that is to be replaced cannot be guessed') or diag explain \%names;
  SKIP: {
        # Where there are no nameless files. The last file that is opened is the one that is written.
        my ($opens) = run_command("$BUILD/tests/strike", '--only', 'openat', $TOOL, 'dump', $pid, '-o', fresh())->{err} =~ /^(\d+) calls$/m;
        my $folder = fresh();
        mkdir $folder;
        my $result = run_command(@strike, '--only', 'openat', '--fail', $opens, POSIX::EOPNOTSUPP(), $TOOL, 'dump', $pid, '-o', "$folder/core");
        skip 'no nameless files: system calls cannot be made to fail here', 1 if $result->{status} == 125;
        ok($result->{status} == 0 && -f "$folder/core", 'a dump where there are no nameless files') or diag explain $result;
        is(sprintf('%o', (lstat "$folder/core")[2] & 07777), '600', '... is its owner\'s alone');
        is_deeply([ glob "$folder/*" ], ["$folder/core"], '... and nothing else is left');
    }
    return;
}

# ---- journals that others have planted ----

sub journals
{
  SKIP: {
        skip "journals: kernel.yama.ptrace_scope is $scope", 1 if $scope;
        my $run = folder_of($user);
        my $folder = "$run/aio-restorer";
        my @caller = (@user, 'env', "XDG_RUNTIME_DIR=$run");
        my $worker = worker({ wrap => [ @user ] }, '--rings', 2, '--threads', 2);
        my $pid = $worker->{pid};
        my $before = look_of($pid);
        my $journal = leave_journal($pid, $folder, @caller);
        ok($journal, 'a journal is left') or skip('no journal was left', 1);
        my $true = slurp($journal);
        my ($name) = $journal =~ m{([^/]+)$};
        # The thread that is not itself blocks all signals, and will until the true one is obeyed.
        my $is_held = sub { return scalar(my @held = held_threads($pid)) };
        ok($is_held->(), '... and a thread is not itself');
        my $copy = sub { my ($path, $uid, $mode) = @_; spit($path, $true); chown $uid, $uid, $path; chmod $mode, $path; return $path };
        my %planted = (
            "somebody else's"                 => sub { $copy->($journal, $nobody, 0644) },
            'one that everybody may write to' => sub { $copy->($journal, $user, 0666) },
            'one that its group may write to' => sub { $copy->($journal, $user, 0620) },
            'one that has another name, too'  => sub { link $copy->(fresh(), $user, 0600), $journal or die $! },
            'a link to one'                   => sub { symlink $copy->(fresh(), $user, 0600), $journal or die $! },
            'a link to nothing'               => sub { symlink '/none', $journal or die $! },
            'a FIFO'                          => sub { POSIX::mkfifo($journal, 0600) or die $!; chown $user, $user, $journal },
            'one that is cut off'             => sub { $copy->($journal, $user, 0600); truncate $journal, 40 },
            'one of another format'           => sub { $copy->($journal, $user, 0600); spit($journal, 'AIORJRN2' . substr $true, 8) },
            "in a folder of somebody else's"  => sub { $copy->($journal, $user, 0600); chown $nobody, $nobody, $folder; chmod 0755, $folder },
            'in a folder of everybody\'s'     => sub { $copy->($journal, $user, 0600); chmod 0777, $folder },
            'in a folder that is a link'      => sub {
                my $real = folder_of($user);
                rename $folder, "$run/away" or die $!;
                symlink $real, $folder or die $!;
                $copy->("$real/$name", $user, 0600);
            },
        );
        for my $what (sort keys %planted) {
            unlink $journal;
            $planted{$what}->();
            # (It says nothing of the process; so there is nothing to do, or what a thread does is not to be told.)
            my $result = run_command({ seconds => 30 }, @caller, $TOOL, 'restore', $pid);
            ok($result->{status} =~ /^[01]$/, "$what: restore ends") or diag explain $result;
            ok($is_held->(), '... and does not obey it');
            if (-l $folder) { unlink $folder; rename "$run/away", $folder }
            chown $user, $user, $folder;
            chmod 0700, $folder;
            unlink $journal;
        }
        $copy->($journal, $user, 0600);
        my $result = run_command(@caller, $TOOL, 'restore', $pid);
        is($result->{status}, 0, 'the true one is obeyed') or diag explain $result;
        ok(!$is_held->(), '... all threads are themselves');
        is_as_before($pid, $before, '... it is as it was');
        goes_on($worker, '... and goes on');
        # What lies there when one is to be written is replaced, and nothing is waited for.
        for my $kind (qw(FIFO link other)) {
            my ($start_time) = (split ' ', slurp("/proc/$pid/stat") =~ s/.*\) //sr)[19];
            my $target = spit(fresh(), 'a file of somebody else');
            my $path = "$folder/$pid-$start_time";
            is($path, $journal, '... (by the name that it has)');
            $kind eq 'FIFO' ? POSIX::mkfifo($path, 0600) : $kind eq 'link' ? symlink($target, $path) : $copy->($path, $nobody, 0666);
            chown $user, $user, $path if $kind eq 'FIFO';
            my $is_there = -e $path || -l $path;
            ok($is_there, "a $kind in the journal's place");
            for my $verb (qw(stage restore)) {
                $result = run_command({ seconds => 30 }, @caller, $TOOL, $verb, $pid);
                is($result->{status}, 0, "... $verb works") or diag explain $result;
            }
            is(slurp($target), 'a file of somebody else', '... what it leads to is as it was');
            ok(!-e $path && !-l $path, '... and it is gone');
        }
        is_as_before($pid, $before, '... it is as it was');
        is_ended($worker);
    }
    return;
}

# There are no other users to be.
if ($> != 0) {
    my $worker = worker('--state', 'undumpable');
    is_refused('not dumpable', $worker, qr/it is not dumpable/, []);
    is_ended($worker);
    done_testing;
    exit;
}

my %parts = (
    users        => \&users,
    namespaces   => \&namespaces,
    capabilities => \&capabilities,
    undumpable   => \&undumpable,
    filters      => \&filters,
    yama         => \&yama,
    withoutroot  => \&without_root,
    check        => \&check,
    never        => \&never,
    dumps        => \&dumps,
    journals     => \&journals,
);
for my $part (@ARGV ? @ARGV : sort keys %parts) {
    my $begin = time;
    ($parts{$part} // die "$part: the parts are @{[ sort keys %parts ]}\n")->();
    diag(sprintf '%s: %.1f s', $part, time - $begin) if $ENV{TEST_VERBOSE} || @ARGV;
}
done_testing;
