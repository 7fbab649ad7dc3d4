#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Storage that hangs: reads of a FUSE file whose server is stopped. A drain that does not end is given up
# in time, the process stays parked, and goes on when the storage does.
use strict;
use warnings;
use lib 'tests';
use Cli;
use Criu;
use File::Path ();
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $server_program = "$BUILD/tests/fuse-server";
plan skip_all => 'fuse-server could not be built: no libfuse3' if !-x $server_program;
plan skip_all => 'there is no /dev/fuse that can be opened' if !sysopen my $device, '/dev/fuse', POSIX::O_RDWR();
plan skip_all => 'not root: nothing can be mounted' if $> != 0;

# In a mount name space of its own, what is mounted ends with the test, whichever way that goes.
if (!$ENV{AIOR_FUSE_INSIDE}) {
    plan skip_all => 'no mount name space can be made' if run_command('unshare', '--mount', 'true')->{status};
    $ENV{AIOR_FUSE_INSIDE} = 1;
    File::Path::remove_tree($DIR);    # the one inside has its own
    exec 'unshare', '--mount', $^X, $0, @ARGV or die "unshare: $!";
}

my $folder = "$DIR/mounted";
my $content = fresh('.content');
mkdir $folder or die "$folder: $!";
run_command("$BUILD/tests/worker", '--make', $content);
my $server = start($server_program, $content, $folder);
plan skip_all => 'nothing can be mounted by FUSE here' if (answer($server) // '') ne "mounted\n";
my @reads = ('--file', "$folder/file");
END {
    local $?;
    kill 'KILL', $server->{pid} if $server;
    system 'umount', '-l', $folder if defined $folder && slurp('/proc/self/mounts') =~ / \Q$folder\E /;
}

sub storage_hangs
{
    kill 'STOP', $server->{pid};
    wait_until(sub { state_of($server->{pid}) eq 'T' });
}

sub storage_answers
{
    kill 'CONT', $server->{pid};
    wait_until(sub { state_of($server->{pid}) ne 'T' });
}

# A worker all of whose reads hang: it has submitted as many as it may, and none comes back.
sub hanging_worker
{
    my $worker = worker(@reads, @_);
    storage_hangs();
    # Its other requests go on; a round or two later all reads are those that hang.
    my $lines = lines_of($worker);
    wait_until(sub { lines_of($worker) > $lines + 4 });
    return $worker;
}

sub sleeps_for_good
{
    my ($pid, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @awake = wait_until(sub { !grep { state_of("$pid/task/$_") !~ /[SDZ]/ } threads_of($pid) }) ? ()
        : grep { state_of("$pid/task/$_") !~ /[SDZ]/ } threads_of($pid);
    return is("@awake", '', $name);
}

# Given up: exit status 3, the ring named, and how to go on.
sub is_given_up
{
    my ($name, $worker, $command) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $begun = time;
    my $result = run_tool({ seconds => 100 }, $command, '--timeout', 1, $worker->{pid});
    my $took = time - $begun;
    ok($result->{status} == 3 && $result->{out} eq '' && $result->{err} =~ /\Aaio-restorer: .*\n\z/, "$name: exit status 3") or diag explain $result;
    like($result->{err}, qr/\bprocess $worker->{pid}\b/, '... names the process');
    ok((grep { $result->{err} =~ /\b$_\b/ } @{ $worker->{rings} }), '... and a ring') or diag $result->{err};
    like($result->{err}, qr/\bparked\b/, '... says that it is parked');
    like($result->{err}, qr/\brestore\b|\bstage\b/, '... and how to go on');
    cmp_ok($took, '>=', 0.9, '... not before its time');
    cmp_ok($took, '<', 60, '... nor long after it');
    sleeps_for_good($worker->{pid}, '... all threads sleep');
    my $count = (lines_of($worker))[-1];
    kill $_, $worker->{pid} for qw(USR1 CONT);
    sleep 0.2;
    is((lines_of($worker))[-1], $count, '... and do nothing');
    return $result;
}

sub succeeds
{
    my ($name, @command) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $result = run_tool(@command);
    ok($result->{status} == 0, $name) or diag explain $result;
    return $result;
}

# ---- the file system does what it is here for ----

my $worker = worker(@reads);
my $before = look_of($worker->{pid});
my $result = succeeds('stage: reads of a file system that answers', 'stage', $worker->{pid});
succeeds('... restore', 'restore', $worker->{pid});
goes_on($worker, '... it goes on');
is_as_before($worker->{pid}, $before, '... and looks as before');
ends_well($worker, '... each of its requests has had one event');

# ---- given up, and taken up ----

for my $threads (1, 3) {
    my $worker = hanging_worker('--rings', 3, '--threads', $threads);
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    is_given_up("stage while storage hangs, $threads threads", $worker, 'stage');
    my $listed = run_tool('list', $pid);
    ok($listed->{status} == 0 && $listed->{out} =~ /^process $pid, /, '... list works') or diag explain $listed;
    $listed = run_tool('list', $pid, '--json');
    my $image = json($listed->{out});
    ok($listed->{status} == 0 && $image && $image->{pid} == $pid, '... list --json, too') or diag explain $listed;
    is_given_up('... restore gives up, too', $worker, 'restore');
    is_given_up('... and stage again', $worker, 'stage');
    storage_answers();
    $result = succeeds('... restore when storage answers', 'restore', $pid);
    like($result->{out}, qr/^process $pid: 3 rings restored/, '... all rings');
    goes_on($worker, '... it goes on');
    is_as_before($pid, $before, '... and looks as before');
    is_deeply([ journal($pid) ], [], '... nothing is left behind outside of it');
    ends_well($worker, '... each of its requests has had one event');
}

$worker = hanging_worker('--rings', 2, '--threads', 2);
$before = look_of($worker->{pid});
is_given_up('stage while storage hangs', $worker, 'stage');
storage_answers();
succeeds('... stage when it answers', 'stage', $worker->{pid});
is_parked($worker->{pid}, '... it is parked');
unlike(slurp("/proc/$worker->{pid}/maps"), qr/\[aio\]/, '... it has no ring any more');
my $image = json(run_tool('list', $worker->{pid}, '--json')->{out});
is(join(' ', map { $_->{state} } @{ $image->{rings} }), 'staged staged', '... they are staged');
succeeds('... restore', 'restore', $worker->{pid});
goes_on($worker, '... it goes on');
is_as_before($worker->{pid}, $before, '... and looks as before');
ends_well($worker, '... each of its requests has had one event');

# A tool that waits without a limit ends when storage answers; so does one that takes it up.
for my $command ('stage', 'restore') {
    my $worker = hanging_worker('--rings', 2);
    is_given_up('stage while storage hangs', $worker, 'stage') if $command eq 'restore';
    my $tool = start({ quiet => 1 }, $TOOL, $command, $worker->{pid});
    sleep 0.5;
    is(waitpid($tool->{pid}, POSIX::WNOHANG()), 0, "$command without a time limit waits");
    storage_answers();
    like(answer($tool) // '', qr/^process $worker->{pid}: 2 rings (?:staged|restored)/, '... until storage answers');
    end($tool);
    succeeds('... restore', 'restore', $worker->{pid});
    goes_on($worker, '... it goes on');
    ends_well($worker, '... each of its requests has had one event');
}

# ---- interrupted while it waits ----

for my $signal (qw(INT TERM HUP)) {
    my $worker = hanging_worker('--rings', 2, '--threads', 2);
    my $pid = $worker->{pid};
    my $tool = start("sh", "-c", q{exec 2>&1; "$@" & echo $!; wait $!; echo "status $?"}, "sh", "env", "--default-signal=INT", $TOOL, "stage", $pid);
    chomp(my $tool_pid = answer($tool));
    is_waiting($pid);
    kill $signal, $tool_pid;
    my $said = answer($tool) // '';
    my $status = answer($tool) // '';
    ok($said =~ /parked/ && $status eq "status 3\n", "SIG$signal while it waits: it gives up, with exit status 3") or diag "$said$status";
    end($tool);
    sleeps_for_good($pid, '... the process is parked');
    storage_answers();
    succeeds('... restore', 'restore', $pid);
    goes_on($worker, '... it goes on');
    ends_well($worker, '... each of its requests has had one event');
}

# ---- killed while it waits ----

# The point of no return is passed: no thread of it runs, and requests are waited for.
sub is_waiting
{
    my ($pid) = @_;
    wait_until(sub { my $look = run_tool('list', $pid, '--json')->{out}; $look !~ /"live"/ || slurp("/proc/$pid/maps") !~ /\[aio\]/ }, 20);
    return;
}

for my $next ('restore', 'stage') {
    my $worker = hanging_worker('--rings', 3, '--threads', 3);
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my $tool = start({ quiet => 1 }, $TOOL, 'stage', $pid);
    is_waiting($pid);
    sleep 0.2;
    end($tool);
    sleeps_for_good($pid, "the tool is killed while storage hangs: all threads sleep");
    is_given_up("... $next gives up", $worker, $next);
    storage_answers();
    succeeds("... $next when storage answers", $next, $pid);
    succeeds('... restore', 'restore', $pid);
    goes_on($worker, '... it goes on');
    is_as_before($pid, $before, '... and looks as before');
    is_deeply([ journal($pid) ], [], '... nothing is left behind outside of it');
    ends_well($worker, '... each of its requests has had one event');
}

# ---- the process is killed ----

{
    my $worker = hanging_worker('--rings', 2, '--threads', 2);
    my $pid = $worker->{pid};
    my $tool = start('sh', '-c', 'exec 2>&1; "$@"; echo "status $?"', 'sh', $TOOL, 'stage', $pid);
    is_waiting($pid);
    sleep 0.2;
    kill 'KILL', $pid;
    sleep 0.2;
    storage_answers();
    my $said = answer($tool) // '';
    my $status = answer($tool) // '';
    ok($said =~ /\b$pid\b.*(?:exited|ended|died|gone|no process)/ && $status eq "status 1\n", 'the process is killed while the tool waits: it says so')
        or diag "$said$status";
    end($tool);
    ok(wait_until(sub { has_ended($pid) }), '... it ends when storage answers');
    end($worker);

    $worker = hanging_worker('--rings', 2, '--threads', 2);
    is_given_up('stage while storage hangs', $worker, 'stage');
    kill 'KILL', $worker->{pid};
    storage_answers();
    ok(wait_until(sub { has_ended($worker->{pid}) }), '... a process given up and killed ends');
    end($worker);
    my $result = run_tool('restore', $worker->{pid});
    ok($result->{status} == 1 && $result->{err} =~ /\b$worker->{pid}\b/, '... and is gone') or diag explain $result;
}

# ---- several, and those that have nothing to do with it ----

my $good = worker('--rings', 2);
my $bad = hanging_worker('--rings', 1);
$before = look_of($good->{pid});
my $none = worker('--rings', 0);
$result = run_tool('stage', '--timeout', 1, $good->{pid}, $bad->{pid});
ok($result->{status} == 3 && $result->{err} =~ /\b$bad->{pid}\b/, 'stage of two, of which one hangs: exit status 3') or diag explain $result;
$result = run_tool('restore', '--timeout', 1, $good->{pid});
ok($result->{status} == 0, '... the other can be restored') or diag explain $result;
goes_on($good, '... and goes on');
is_as_before($good->{pid}, $before, '... as it was');
$result = run_tool('stage', '--timeout', 1, $none->{pid});
is($result->{status}, 0, '... a process without rings does not hang') or diag explain $result;
storage_answers();
succeeds('... the one that hung', 'restore', $bad->{pid});
goes_on($bad, '... goes on');
ends_well($_, '... and ends well') for $good, $bad, $none;

# In CRIU's hands.
SKIP: {
    my $why = why_no_criu();
    skip "CRIU: $why", 13 if $why;
    my $worker = hanging_worker();
    my $begun = time;
    my $dump = criu_dump($worker, env => { AIO_RESTORER_TIMEOUT => 1 });
    ok($dump->{status} && time - $begun < 60, 'CRIU: the dump is given up');
    like($dump->{log}, qr/Error \(aio_restorer\): process $worker->{pid}: .*in flight.*go on with `aio-restorer restore $worker->{pid}`/, '... the log says why, and how to go on');
    sleeps_for_good($worker->{pid}, '... all threads sleep');
    storage_answers();
    succeeds('... the storage answers: restore', 'restore', $worker->{pid});
    goes_on($worker, '... it goes on');
    ends_well($worker, '... and each request has had its event');

    # What is no number of seconds is no limit.
    $worker = hanging_worker();
    my $images = images();
    my $criu = start({ quiet => 1 }, 'env', 'AIO_RESTORER_TIMEOUT=soon', criu_command('dump', $images, 0, '-t', $worker->{pid}, '-R'));
    sleep 2;
    is(waitpid($criu->{pid}, POSIX::WNOHANG()), 0, 'CRIU: a limit that is no number: the dump waits');
    storage_answers();
    ok(wait_until(sub { waitpid($criu->{pid}, POSIX::WNOHANG()) == $criu->{pid} }), '... and ends when the storage answers');
    end($criu);
    # (Such a file system is nothing that CRIU dumps.)
    like(said($images, 'dump'), qr/rings? are plain memory/, '... with the rings staged');
    goes_on($worker, '... it goes on');
    ends_well($worker, '... and each request has had its event');
}

# A process without rings that waits in a read of such a file.
storage_hangs();
my $hung = start({ quiet => 1 }, 'dd', "if=$folder/file", 'of=/dev/null', 'bs=4096', 'iflag=direct', 'status=none');
wait_until(sub { state_of($hung->{pid}) eq 'D' || state_of($hung->{pid}) eq 'S' });
$result = run_tool('stage', '--timeout', 1, $hung->{pid});
ok($result->{status} == 0 || ($result->{status} == 1 && $result->{err} =~ /\b$hung->{pid}\b/), 'a process without rings that hangs in a read: the tool ends')
    or diag explain $result;
storage_answers();
ok(wait_until(sub { state_of($hung->{pid}) eq 'Z' }), '... and it goes on');
waitpid $hung->{pid}, 0;
is($?, 0, '... and its read succeeds');
end($hung);

# A thread that hangs in a read is waited for, until the tool is killed: the wait that its stop has broken goes on.
{
    my $run = start({ quiet => 1 }, "$BUILD/tests/checkpointed", 'beside', "$folder/file");
    is(answer($run), "ready\n", 'a thread reads, and another one waits for an event');
    storage_hangs();
    my $tool = start({ quiet => 1 }, $TOOL, 'stage', $run->{pid});
    sleep 0.5;
    is(waitpid($tool->{pid}, POSIX::WNOHANG()), 0, "... its storage hangs: stage waits for it");
    end($tool);
    kill 'USR1', $run->{pid};
    is(answer($run), "1 of 1 events\n", '... it is killed, and the other one gets its event');
    storage_answers();
    end($run);
}

# A blob that comes to no end, as the poll that it makes again is one of such a file: it is left at it, and ends when it can.
{
    my $run = start("$BUILD/tests/checkpointed", 'file', "$folder/file");
    is(answer($run), "ready\n", 'a poll of a file is in flight');
    succeeds('... stage', 'stage', $run->{pid});
    storage_hangs();
    my $begun = time;
    my $result = run_tool({ seconds => 100 }, 'restore', '--timeout', 1, $run->{pid});
    my $took = time - $begun;
    is($result->{status}, 3, '... its storage hangs: restore gives up, with exit status 3');
    like($result->{err}, qr/\Aaio-restorer: .*\bprocess $run->{pid} is still being restored.*stays parked.*\n\z/, '... and says why, and how to go on');
    ok($took >= 1 && $took < 60, '... in time') or diag("$took s");
    sleeps_for_good($run->{pid}, '... it sleeps');
    is(slurp("/proc/$run->{pid}/status") =~ /^TracerPid:\s*(\d+)/m && $1, 0, '... and nobody traces it');
    $result = run_tool({ seconds => 100 }, 'restore', '--timeout', 1, $run->{pid});
    is($result->{status}, 3, '... restore again: exit status 3');
    like($result->{err}, qr/\Aaio-restorer: .*\bthread $run->{pid} cannot be stopped.*stays parked.*\n\z/, '... and says why');
    storage_answers();
    succeeds('... it answers: restore', 'restore', $run->{pid});
    is_deeply([ journal($run->{pid}) ], [], '... nothing is left behind outside of it');
    kill 'USR1', $run->{pid};
    is(answer($run), "1 of 1 events\n", '... and the poll has one event');
    end($run);
}
end($server);

done_testing;
