#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# stage where it cannot be done, or where it looks as if it could not: whatever is refused has changed
# nothing, and what can be done is done.
use strict;
use warnings;
no warnings 'portable';    # addresses have 64 bits
use lib 'tests';
use Cli;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $is_root = $> == 0;
my $nobody = (getpwnam 'nobody')[2] // 65534;
my $have_setpriv = $is_root && have('setpriv');

# A worker of another user, who has no more than his own rights.
sub as_user { my ($uid) = @_; return ('setpriv', "--reuid=$uid", "--regid=$uid", '--clear-groups', '--inh-caps=-all') }

# What others have made is theirs alone, so the program and its folder must be open to all.
sub is_open_to_all
{
    my $status = system(as_user($nobody), "$BUILD/tests/worker", '--make', '/dev/null');
    return !$status;
}

# stage is refused: exit status 1 or 4 and a reason that matches; the worker goes on as it was.
sub is_refused
{
    my ($name, $worker, $pattern, @command) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok(0, "$name: there is a worker") if !$worker;
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my $result = @command ? run_command(@command) : run_tool('stage', $pid);
    ok(($result->{status} == 1 || $result->{status} == 4) && $result->{err} =~ $pattern && $result->{err} =~ /\Aaio-restorer: .*\n\z/
        && $result->{out} eq '', "$name: refused, with the reason") or diag explain $result;
    is_as_before($pid, $before, '... it is as it was');
    is_deeply([ journal($pid) ], [], '... nothing is left behind outside of it');
    goes_on($worker, '... and goes on');
    return $result;
}

sub is_done
{
    my ($name, $worker) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok(0, "$name: there is a worker") if !$worker;
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my $result = run_tool('stage', $pid);
    ok($result->{status} == 0, "$name: it can be staged") or diag explain $result;
    is_parked($pid, '... it is parked') if $result->{status} == 0;
    $result = run_tool('restore', $pid);
    ok($result->{status} == 0, '... and restored') or diag explain $result;
    goes_on($worker, '... it goes on');
    is_as_before($pid, $before, '... as it was');
    is_deeply([ journal($pid) ], [], '... nothing is left behind outside of it');
    return;
}

# Where it depends on the host whether it can be done: it is one of both.
sub is_done_or_refused
{
    my ($name, $worker, $pattern) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok(0, "$name: there is a worker") if !$worker;
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my $result = run_tool('stage', $pid);
    my $is_done = $result->{status} == 0;
    ok($is_done || ($result->{status} =~ /^[14]$/ && $result->{err} =~ $pattern), "$name: staged, or refused with the reason")
        or diag explain $result;
    if ($is_done) {
        $result = run_tool('restore', $pid);
        ok($result->{status} == 0, '... and restored') or diag explain $result;
    } else {
        pass("... refused: $result->{err}");
    }
    goes_on($worker, '... it goes on');
    is_as_before($pid, $before, '... as it was');
    is_deeply([ journal($pid) ], [], '... nothing is left behind outside of it');
    return;
}

sub is_ended { my ($worker) = @_; return $worker && ends_well($worker, '... and ends well') }

# ---- damaged rings ----

for my $case (
    [ 'magic=0',            qr/damaged/ ],
    [ 'nr=5',               qr/damaged/ ],
    [ 'nr=0',               qr/damaged/ ],
    [ 'nr=0xffffffff',      qr/damaged/ ],
    [ 'head=100000',        qr/damaged/ ],
    [ 'head=0xffffffff',    qr/damaged/ ],
    [ 'tail=100000',        qr/damaged/ ],
    [ 'header_length=64',   qr/damaged/ ],
    [ 'id=77',              qr/\bid\b|context/ ],
    [ 'id=0xffffffff',      qr/\bid\b|context/ ],
) {
    my ($state, $pattern) = @$case;
    my $worker = worker('--state', "scribble:$state");
    my $result = is_refused("$state in a header", $worker, $pattern);
    like($result->{err}, qr/\b$worker->{spare}\b/, '... which names the ring') if $worker;
    is_ended($worker);
}
for my $case ([ 'cut:last', 'its last page' ], [ 'cut:middle', 'a page in the middle' ], [ 'split', 'a page of another protection' ]) {
    my ($state, $what) = @$case;
    my $worker = worker('--state', $state);
    my $result = is_refused("a ring, $what" . ($state =~ /cut/ ? ' unmapped' : ''), $worker, qr/damaged|mapping|mapped|parts/);
    like($result->{err}, qr/\b$worker->{spare}\b/, '... which names the ring') if $worker;
    is_ended($worker);
}

# ---- relatives, and other tools ----

my $sharing = worker('--state', 'clone-vm');
is_refused('memory that is shared with another process', $sharing, qr/shares its memory with process \d+/);
is_ended($sharing);
my $vfork = worker('--state', 'vfork', '--threads', 2);
wait_until(sub { grep { slurp($_) =~ /\d/ } glob "/proc/$vfork->{pid}/task/*/children" });
is_refused('a thread in vfork', $vfork, qr/vfork|shares its memory/);
is_ended($vfork);

SKIP: {
    skip 'traced by another tool: no gdb', 5 unless have('gdb');
    my $traced = worker('--threads', 2);
    my $gdb = start({ quiet => 1 }, 'gdb', '-q', '-nx', '-p', $traced->{pid});
    skip 'traced by another tool: gdb cannot trace here', 5
        unless wait_until(sub { slurp("/proc/$traced->{pid}/status") =~ /^TracerPid:\s+$gdb->{pid}$/m
            || state_of($gdb->{pid}) eq 'Z' }) && state_of($gdb->{pid}) ne 'Z';
    wait_until(sub { !grep { state_of("$traced->{pid}/task/$_") ne 't' } threads_of($traced->{pid}) });
    my $before = look_of($traced->{pid});
    for my $command (qw(stage restore)) {
        my $result = run_tool($command, $traced->{pid});
        ok($command eq 'restore' && !$result->{status} || $result->{status} == 1 && $result->{err} =~ /\btraced\b.*\b$gdb->{pid}\b|\b$gdb->{pid}\b.*\btrac/,
            "$command of a process that another traces: names the other") or diag explain $result;
    }
    is_as_before($traced->{pid}, $before, '... it is as it was');
    tell($gdb, $_) for 'detach', 'quit';
    wait_until(sub { state_of($gdb->{pid}) eq 'Z' });
    end($gdb);
    is_done('... and when it is traced no more', $traced);
    is_ended($traced);
}

# ---- limits ----

SKIP: {
    skip 'limits: no prlimit', 1 unless have('prlimit');
    my $worker = worker('--rings', 3, '--threads', 2);
    my $most = (sort { $b <=> $a } map { m{(\d+)$} } glob "/proc/$worker->{pid}/fd/*")[0] + 1;
    system 'prlimit', "--pid=$worker->{pid}", "--nofile=$most:";
    # The lowest descriptors may be free, and the tool needs them only for a moment.
    is_done_or_refused('no descriptor left', $worker, qr/descriptor|open files|RLIMIT_NOFILE/i);
    system 'prlimit', "--pid=$worker->{pid}", '--nofile=0:';
    is_refused('no descriptor allowed', $worker, qr/descriptor|open files|RLIMIT_NOFILE/i);
    system 'prlimit', "--pid=$worker->{pid}", '--nofile=1000:';
    is_done('... and when they are allowed again', $worker);
    is_ended($worker);
}
my $full = worker('--rings', 3, '--state', 'limit-as');
is_refused('no memory left (RLIMIT_AS)', $full, qr/memory|ENOMEM|RLIMIT_AS/i);
is_ended($full);

SKIP: {
    skip 'few processes: not root, or no setpriv, or no prlimit', 1 unless $have_setpriv && have('prlimit') && is_open_to_all();
    my $worker = worker({ wrap => [ as_user(53000 + $$ % 1000), 'prlimit', '--nproc=4:4' ] }, '--rings', 12, '--threads', 3);
    is_done('no process more allowed (RLIMIT_NPROC)', $worker);
    is_ended($worker);
    # Locked memory is limited for those without CAP_IPC_LOCK.
    for my $limit (65536, 1 << 20) {
        my $locked = worker({ wrap => [ as_user($nobody) ] }, '--rings', 3, '--state', "mlockall:$limit");
        is_done_or_refused("all memory is locked, and no more than $limit bytes may be", $locked, qr/memory|RLIMIT_MEMLOCK|locked/i);
        is_ended($locked);
    }
}
my $locked = worker('--rings', 3, '--state', 'mlockall:65536');
is_done('all memory is locked, and all may be', $locked);
is_ended($locked);

for my $left (0, 1, 2, 4, 8, 16, 64) {
    my $worker = worker('--rings', 2, '--state', "mappings:$left");
  SKIP: {
        skip "mappings: $worker->{cannot}", 1 if $worker && $worker->{cannot};
        $left < 64 ? is_done_or_refused("room for $left mappings", $worker, qr/mapping|memory|max_map_count/i)
            : is_done("room for $left mappings", $worker);
    }
    is_ended($worker);
}

# ---- what looks odd, and is in order ----

for my $case (
    [ 'memory cannot become executable (PR_SET_MDWE)', 'mdwe' ],
    [ 'its first thread has exited',                   'leader-exits' ],
    [ 'another root',                                  'chroot:/proc' ],
) {
    my ($name, $state) = @$case;
    my $worker = worker('--threads', 3, '--state', $state);
  SKIP: {
        skip "$name: not root", 1 if $state =~ /chroot/ && !$is_root;
        skip "$name: this kernel cannot $worker->{cannot}", 1 if $worker && $worker->{cannot};
        is_done($name, $worker);
    }
    is_ended($worker);
}
SKIP: {
    skip 'a stopped process: none', 1 unless my $stopped = worker('--threads', 2);
    my $pid = $stopped->{pid};
    kill 'STOP', $pid;
    wait_until(sub { state_of($pid) eq 'T' });
    my $result = run_tool('stage', $pid);
    is($result->{status}, 0, 'a stopped process is staged') or diag explain $result;
    is(run_tool('restore', $pid)->{status}, 0, '... and restored');
    is(state_of($pid), 'T', '... and is stopped still');
    kill 'CONT', $pid;
    goes_on($stopped, '... until it is continued');
    is_ended($stopped);
}

# ---- what begins as a capsule does, and is none ----

my $fake = worker('--state', 'fake-capsule');
is_done_or_refused('memory that begins as a capsule does', $fake, qr/capsule/);
my $result = run_tool('restore', $fake->{pid});
ok($result->{status} =~ /^[0134]$/ && "$result->{out}$result->{err}" =~ /capsule|not staged|nothing/, '... restore of it')
    or diag explain $result;
goes_on($fake, '... it goes on');
is_ended($fake);

# ---- name spaces ----

SKIP: {
    skip 'name spaces: no unshare', 1 unless have('unshare');
    for my $case ([ 'another pid name space', '--pid', '--fork', '--kill-child' ], [ 'a user and pid name space', '--user', '--map-root-user', '--pid', '--fork', '--kill-child' ], [ 'another mount name space', '--mount' ]) {
        my ($name, @options) = @$case;
      SKIP: {
            my $is_child = grep { $_ eq '--fork' } @options;
            skip "$name: it cannot be made here", 1 if run_command('unshare', @options, 'true')->{status};
            my $worker = worker({ wrap => [ 'unshare', @options ], is_child => $is_child }, '--threads', 2);
            is_done($name, $worker);
            is_ended($worker);
        }
    }

    # The tool inside, and the process too.
    skip 'the tool in a pid name space: it cannot be made here', 1
        if !$is_root || run_command('unshare', '--pid', '--fork', '--mount-proc', 'true')->{status};
    my $script = "$BUILD/tests/worker --threads 2 > \$1 & pid=\$!
        while ! grep -q ^ok \$1; do sleep 0.05; done
        $TOOL stage \$pid && $TOOL restore \$pid || exit 9
        old=\$(grep -c ^ok \$1)
        while [ \$(grep -c ^ok \$1) = \$old ]; do sleep 0.05; done
        kill -TERM \$pid
        wait \$pid";
    my $inside = run_command('unshare', '--pid', '--fork', '--kill-child', '--mount-proc', 'sh', '-c', $script, 'sh', fresh('.log'));
    is($inside->{status}, 0, 'the tool and the process in a pid name space') or diag explain $inside;
}

# ---- its own, and its own kind ----

$result = run_command('sh', '-c', 'exec "$0" stage $$', $TOOL);
ok($result->{status} =~ /^[014]$/ && "$result->{out}$result->{err}" =~ /process/, 'stage of itself ends, and says so') or diag explain $result;

done_testing;
