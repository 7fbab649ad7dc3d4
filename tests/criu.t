#!/usr/bin/perl
# SPDX-License-Identifier: MIT
#
# Checkpoints made by CRIU with the plugin. Workers, which check all that they get, go on in them and behind them,
# whatever fails; what cannot be finished at once is finished by the tool.
use strict;
use warnings;
use lib 'tests';
use Cli;
use Criu;
use Cwd ();
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep);

my $why = why_no_criu();
plan skip_all => $why if $why;

sub dumps
{
    my ($worker, $name, %options) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $dump = criu_dump($worker, %options);
    ok(!$dump->{status}, $name) or diag($dump->{log} || $dump->{err});
    return $dump->{status} ? undef : $dump;
}

sub restores
{
    my ($worker, $name, $folder, %options) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $why = criu_restore($worker, $folder, %options);
    return ok(!$why, $name) || diag($why);
}

# Dumped and restored so often, and done with.
sub through
{
    my ($worker, $name, $rounds, %options) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    for my $round (1 .. $rounds) {
        my $dump = dumps($worker, "$name: dumped, $round", %options) or return;
        restores($worker, '... restored', $dump->{folder}) or return;
        goes_on($worker, '... it goes on');
    }
    ends_well($worker, '... and each request has had its event');
}

# A dump that leaves it running, or has failed: what others see of it is as before.
sub lives_on
{
    my ($worker, $name, $status, $log, %options) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $before = look_of($worker->{pid});
    my $dump = criu_dump($worker, %options);
    ok(($dump->{status} ? 1 : 0) == $status && $dump->{log} =~ $log, $name) or diag($dump->{log} || $dump->{err});
    goes_on($worker, '... it goes on');
    is_as_before($worker->{pid}, $before, '... as it was');
    return $dump;
}

# ---- what goes well ----

through(worker_alone('--rings', 3, '--threads', 2), 'requests of all kinds', 3);
through(worker_alone('--rings', 8, '--threads', 8), 'eight threads', 2);
through(worker_alone('--rings', 20, '--quiet', '--inflight', 'polls=40'), 'polls that last', 2);
through(worker_alone('--state', 'leader-exits'), 'a first thread that has exited', 0);
through(worker_alone('--threads', 3, '--state', 'filter'), 'a filter that forbids what a blob does', 2);
through(worker_alone({ wrap => ['sh', '-c', 'exec "$@" 2>/dev/null', 'sh', 'unshare', '--pid', '--fork', '--kill-child', 'setsid'], is_child => 1 }),
    'the first process of a pid namespace', 2);

SKIP: {
    skip 'no 32-bit worker could be built', 5 if !-x "$BUILD/tests/worker-i386";
    through(worker_alone({ arch => 'i386' }, '--rings', 2), 'a 32-bit program', 1);
}

# ---- in several steps ----

SKIP: {
    my $track = run_command(criu_command('check', images(), 0, '--feature', 'mem_dirty_track'));
    skip 'dumps in several steps: this kernel does not track which memory is written to', 8 if $track->{status};
    my $worker = worker_alone('--rings', 3, '--threads', 2);
    my $top = images();
    mkdir "$top/$_" for 1 .. 3;
    for my $step (1, 2) {
        my @before = $step > 1 ? ('--prev-images-dir', '../' . ($step - 1)) : ();
        my $result = run_command(criu_command('pre-dump', "$top/$step", 0, '-t', $worker->{pid}, '--track-mem', @before));
        is($result->{status}, 0, "a dump in steps: step $step") or diag(said("$top/$step", 'pre-dump'));
        goes_on($worker, '... it goes on');
    }
    dumps($worker, '... the last step', folder => "$top/3", args => ['--track-mem', '--prev-images-dir', '../2']) or last;
    restores($worker, '... restored', "$top/3") or last;
    goes_on($worker, '... it goes on');
    ends_well($worker, '... and each request has had its event');
}

# ---- it stays where it is ----

my $worker = worker_alone('--rings', 3, '--threads', 2);
lives_on($worker, "dumped and left running, $_", 0, qr/3 rings are plain memory/, args => ['-R']) for 1 .. 3;
lives_on($worker, 'dumped, and a script refuses', 1, qr/3 rings are plain memory/,
    args => ['--action-script', spit(fresh('.sh'), "#!/bin/sh\n[ \$CRTOOLS_SCRIPT_ACTION != post-dump ]\n") =~ s/(.*)/chmod(0755, $1) && $1/er]);
{
    my $folder = images();
    mkdir "$folder/aio-restorer-$worker->{pid}.img";
    lives_on($worker, 'the image of its rings cannot be written', 1, qr/cannot be written into the image folder/, folder => $folder);
}
my $dump = lives_on($worker, 'dumped and left running, again', 0, qr/plain memory/, args => ['-R']);
my $stopped = criu_dump($worker, args => ['-s']);
ok(!$stopped->{status} && state_of($worker->{pid}) eq 'T', 'dumped and left stopped') or diag($stopped->{log});
kill 'CONT', $worker->{pid};
goes_on($worker, '... it goes on when it is continued');

# ---- a stopped one ----

kill 'STOP', $worker->{pid};
wait_until(sub { state_of($worker->{pid}) eq 'T' });
$dump = dumps($worker, 'a stopped process is dumped');
restores($worker, '... restored', $dump->{folder});
ok(wait_until(sub { state_of($worker->{pid}) eq 'T' }, 20), '... it is stopped');
kill 'CONT', $worker->{pid};
goes_on($worker, '... it goes on when it is continued');

# ---- hosts without the plugin ----

$dump = dumps($worker, 'dumped');
my $failed = criu_restore($worker, $dump->{folder}, plain => 1);
like($failed, qr/Missing required plugin: aio_restorer/, '... a host without the plugin does not restore it');
ok(!kill(0, $worker->{pid}), '... and makes no process');
restores($worker, '... one with it does', $dump->{folder});
goes_on($worker, '... it goes on');

# ---- hosts that have not got the room ----

$dump = dumps($worker, 'dumped');
my $holder = hold_all_but(1);
$failed = criu_restore($worker, $dump->{folder});
end($holder) if $holder;
like($failed, qr/aio_restorer\): the rings need \d+ of fs\.aio-max-nr/, '... a host with too little fs.aio-max-nr says so');
ok(!kill(0, $worker->{pid}), '... before it makes a process');
SKIP: {
    my @there = pretending(64);
    skip 'what this host says of its CPUs cannot be hidden', 2 if !@there;
    skip 'a page is enough for any host', 2 if POSIX::sysconf(POSIX::_SC_PAGESIZE()) > 4096;
    $failed = criu_restore($worker, $dump->{folder}, wrap => \@there);
    like($failed, qr/aio_restorer\): ring 0x[0-9a-f]+: needs 5 pages on this host \(64 possible CPUs\), has 1, and of the 4 behind it \d are free/,
        '... one where more CPUs are possible says which rings have no room');
    ok(!kill(0, $worker->{pid}), '... before it makes a process');
}
my $image = (glob "$dump->{folder}/aio-restorer-*.img")[0];
# A word of its table, struct aior_table in pie/restorer.h.
sub with_word { my ($bytes, $at, $word) = @_; substr $bytes, $at, 4, pack 'L<', $word; return $bytes }
for my $broken (
    ['cut off', sub { substr $_[0], 0, 100 }, qr/cannot be read|damaged/],
    ['of another version', sub { with_word($_[0], 8, 127) }, qr/is of version 127/],
    ['of a host with other pages', sub { with_word($_[0], 32, 65536) }, qr/comes from a host with pages of 65536 bytes/],
    ['of another architecture', sub { with_word($_[0], 28, 4) }, qr/the rings are those of a process on riscv64/],
    ['of rings that lie on each other', sub { with_word($_[0], 44, 2) }, qr/damaged/],
    ['empty', sub { '' }, qr/cannot be read/],
  )
{
    my ($how, $break, $what) = @$broken;
    my $was = slurp($image);
    spit($image, $break->($was));
    like(criu_restore($worker, $dump->{folder}) // 'nothing', qr/Error \(aio_restorer\): aio-restorer-\d+\.img(: (the capsule at 0x0 )?| )(is )?$what/, "... an image $how is refused");
    spit($image, $was);
}
# It is taken by somebody who ends with the other end of a pipe.
my ($pipe, $script) = (fresh('.pipe'), fresh('.sh'));
POSIX::mkfifo($pipe, 0600);
open my $keep, '+<', $pipe or die "$pipe: $!";
spit($script, <<"END");
#!/bin/sh
[ \$CRTOOLS_SCRIPT_ACTION = post-restore ] || exit 0
cd /proc/sys/fs
n=\$((\$(cat aio-max-nr) - \$(cat aio-nr) - 1))
@{[Cwd::getcwd()]}/$BUILD/tests/leaver --ring n=\$n <$pipe >$pipe.said 2>&1 &
while kill -0 \$! && [ ! -s $pipe.said ]; do sleep 0.01; done
END
chmod 0755, $script;
restores($worker, '... the room goes away meanwhile', $dump->{folder}, args => ['--action-script', $script]);
my $log = said($dump->{folder}, 'restore');
close $keep;
wait_until(sub { max_nr() - aio_nr() > 1000 }, 20);
like($log, qr/Error \(aio_restorer\): .*finish with: aio-restorer restore $worker->{pid}$/m, '... the log says how to finish');
is_parked($worker->{pid}, '... it sleeps until then');
is(run_tool('restore', $worker->{pid})->{status}, 0, '... which does it');
goes_on($worker, '... it goes on');
ends_well($worker, '... and each request has had its event');

# ---- trees ----

for my $kind ('idle', 'ring') {
    my $family = worker_alone('--heir', $kind, '--rings', 2);
    my ($heir, $own) = ($family->{heir}, $kind eq 'ring' ? 1 : 0);
    my $dump = dumps($family, "a parent and its child ($kind), which has inherited its rings") or next;
    like($dump->{log}, qr/process $heir: 2 rings that it has inherited by fork are plain copies now/, '... the log says of the copies');
    end_later($heir);
    wait_until(sub { !kill 0, $heir }, 20);
    restores($family, '... restored', $dump->{folder}) or next;
    goes_on($family, '... the parent goes on');
    goes_on($family, '... the child goes on', $heir) if $own;
    my $seen = grep { /^inherited/ } lines_of($family, $heir);
    kill 'USR1', $heir;
    ok(wait_until(sub { $seen < grep { /^inherited/ } lines_of($family, $heir) }, 20), '... and reads the inherited rings');
    ends_well($family, '... each request has had its event');
}
{
    my $family = worker_alone('--heir', 'ring', '--rings', 2, '--state', 'scribble:magic=0');
    my $before = look_of($family->{heir});
    my $dump = criu_dump($family);
    ok($dump->{status} && $dump->{log} =~ /Error \(aio_restorer\): process \d+: ring 0x[0-9a-f]+: .*damaged/,
        'a tree one of whose rings is damaged is not dumped') or diag($dump->{log});
    goes_on($family, '... it goes on');
    goes_on($family, '... its child too', $family->{heir});
    end($family);
}

# ---- by hand, with any CRIU ----

for my $plain (1, 0) {
    my $name = 'staged by hand, CRIU ' . ($plain ? 'without' : 'with') . ' the plugin';
    my $worker = worker_alone('--rings', 3, '--threads', 2);
    is(run_tool('stage', $worker->{pid})->{status}, 0, "$name: staged");
    my $dump = dumps($worker, '... dumped', plain => $plain) or next;
    restores($worker, '... restored', $dump->{folder}, plain => $plain) or next;
    is_parked($worker->{pid}, '... it is parked still');
    is(run_tool('restore', $worker->{pid})->{status}, 0, '... its rings are restored');
    goes_on($worker, '... it goes on');
    ends_well($worker, '... and each request has had its event');
}

# ---- CRIU dies ----

$worker = worker_alone('--rings', 3, '--threads', 2);
my %ends;
my $deaths = $ENV{DEATHS} // 20;

# Killed while a thread runs its code in there, which ends in an int3, CRIU ends a process by SIGTRAP: with the plugin
# or without, and nobody can help it. Then there is another worker.
sub is_trapped
{
    my ($worker) = @_;
    wait_until(sub { has_ended($worker->{pid}) }, 1) or return;
    return waitpid($worker->{parent}, 0) == $worker->{parent} && ($? & 127) == POSIX::SIGTRAP();
}

for my $round (1 .. $deaths) {
    my $criu = start({ quiet => 1 }, criu_command('dump', images(), 0, '-t', $worker->{pid}, '-R'));
    sleep rand 0.12;
    end($criu);
    wait_until(sub { slurp("/proc/$worker->{pid}/status") =~ /^TracerPid:\s+0$/m }, 20);
    my $is_staged = slurp("/proc/$worker->{pid}/maps") !~ /\[aio\]/;
    $ends{$is_staged ? 'parked' : 'live'}++;
    my $result = run_tool('restore', $worker->{pid});
    next if !$result->{status};
    if (($ends{trapped} // 0) < 2 && is_trapped($worker)) {
        $ends{trapped}++;
        $worker = worker_alone('--rings', 3, '--threads', 2);
        next;
    }
    diag($result->{err});
    last;
}
goes_on($worker, "CRIU is killed while it dumps, $deaths times: the tool finishes, and it goes on");
diag("CRIU was killed: $_ $ends{$_} times") for sort keys %ends;
ends_well($worker, '... and each request has had its event');

done_testing();
