#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# stage and restore: what they say, several processes at once, and children that have inherited rings.
use strict;
use warnings;
no warnings 'portable';    # addresses have 64 bits
use lib 'tests';
use Cli;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

# All must succeed, with a line on standard output for each process.
sub does
{
    my ($name, $command, @arguments) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $result = run_tool($command, @arguments);
    my $pids = grep { /^\d+$/ } @arguments;
    my $lines = () = $result->{out} =~ /^process \d+: .*\n/mg;
    my $is_right = $result->{status} == 0 && $lines == $pids && $result->{out} =~ /\A(?:process \d+: .*\n)*\z/;
    ok($is_right, $name) or diag explain $result;
    return $result;
}

sub states_of
{
    my ($pid) = @_;
    my $image = json(run_tool('list', $pid, '--json')->{out}) // {};
    return join ' ', map { $_->{state} } @{ $image->{rings} // [] };
}

# ---- usage ----

my $bystander = worker('--rings', 1);
for my $command (qw(stage restore)) {
    for my $case (
        [ 'no pid',               qr/\Q$command\E: which PID/ ],
        [ 'a path',               qr{\./x}, './x' ],
        [ 'a word',               qr/word/, 'word' ],
        [ 'pid 0',                qr/\b0\b/, 0 ],
        [ 'a negative pid',       qr/-1/, '--', '-1' ],
        [ 'a pid and a word',     qr/word/, $bystander->{pid}, 'word' ],
        [ 'a pid that is none',   qr/99999999999/, '99999999999' ],
        [ 'unknown option',       qr/--frob/, '--frob', $bystander->{pid} ],
        [ 'unknown letter',       qr/-x/, '-x', $bystander->{pid} ],
        [ "another's option",     qr/--events/, '--events', $bystander->{pid} ],
        [ "another's option with value", qr/--arch|i386/, '--arch', 'i386', $bystander->{pid} ],
        [ 'no time',              qr/--timeout/, $bystander->{pid}, '--timeout' ],
        [ 'an empty time',        qr/timeout/, $bystander->{pid}, '--timeout', '' ],
        [ 'a time that is none',  qr/timeout|soon/, $bystander->{pid}, '--timeout', 'soon' ],
        [ 'a time with a tail',   qr/timeout|3x/, $bystander->{pid}, '--timeout', '3x' ],
        [ 'a negative time',      qr/timeout|-1/, $bystander->{pid}, '--timeout', '-1' ],
        [ 'no number as time',    qr/timeout|nan/, $bystander->{pid}, '--timeout', 'nan' ],
    ) {
        my ($name, $pattern, @arguments) = @$case;
        my $result = refuses("$command: $name", 2, $pattern, $command, @arguments);
        is($result->{out}, '', '... nothing on standard output');
    }
    my $help = run_tool($command, '--help');
    my ($widest) = sort { $b <=> $a } map { length } split /\n/, $help->{out};
    ok($help->{status} == 0 && $help->{out} =~ /--timeout/ && $help->{out} =~ /Example: aio-restorer.* $command /
        && $help->{out} =~ /\b$command PID/ && $widest <= 80, "help of $command") or diag explain $help;
}
like(run_tool('--help')->{out}, qr/^  stage PID.*^  restore PID/ms, 'help of the tool names both');
is(states_of($bystander->{pid}), 'live', 'usage errors do nothing');
goes_on($bystander, '... and the process goes on');

# ---- who is not there, and what is not to be done ----

my $gone = fork // die "fork: $!";
POSIX::_exit(0) if !$gone;
my $name = 'a process that has ended and is not yet waited for';
wait_until(sub { state_of($gone) eq 'Z' });
refuses("$_: $name", 1, qr/\b$gone\b/, $_, $gone) for qw(stage restore);
waitpid $gone, 0;
refuses("$_: no such process", 1, qr/no process $gone|$gone.*(?:no such|not there|has exited)/i, $_, $gone) for qw(stage restore);

my $threads = worker('--rings', 2, '--threads', 4);
my $before = look_of($threads->{pid});
my ($thread) = grep { $_ != $threads->{pid} } threads_of($threads->{pid});
refuses("$_: a thread that is not the first", 1, qr/\b$thread\b.*\b$threads->{pid}\b/, $_, $thread) for qw(stage restore);
is_as_before($threads->{pid}, $before, '... its process is as it was');
my $kernel_thread = 2;
SKIP: {
    skip 'there is no kernel thread with pid 2', 2 if slurp("/proc/$kernel_thread/comm") ne "kthreadd\n";
    refuses("$_: a kernel thread", 1, qr/kernel thread/, $_, $kernel_thread) for qw(stage restore);
}
for my $command (qw(stage restore)) {
    my $result = run_tool($command, $threads->{pid}, $gone);
    ok($result->{status} == 1 && $result->{err} =~ /\Aaio-restorer: .*\b$gone\b/ && $result->{out} eq '', "$command: one that is not there beside a good one")
        or diag explain $result;
}
is_as_before($threads->{pid}, $before, '... the good one is as it was');
goes_on($threads, '... and goes on');

my $none = worker('--rings', 0);
$before = look_of($none->{pid});
for my $command (qw(stage restore)) {
    my $result = does("$command: a process without rings", $command, $none->{pid});
    like($result->{out}, qr/\bno\b|\bnothing\b|\bnot\b/, '... says that there was nothing to do');
    is_as_before($none->{pid}, $before, '... and does nothing');
}
like(does('restore: a process that is not staged', 'restore', $threads->{pid})->{out}, qr/not staged|nothing|no capsule/,
    '... says so');
goes_on($threads, '... and it goes on');
ends_well($_, 'a process to which nothing was done ends well') for $none, $threads, $bystander;

# ---- there and back ----

# A quiet worker has only polls in flight, and whatever else it has submitted is pending.
my %quiet = (polls => 9, pending => 18);
my @quiet = ('--rings', 3, '--quiet', '--inflight', 'reads=4,polls=3,zeros=2');

sub quiet_worker
{
    my $worker = worker(ref $_[0] ? shift @_ : {}, @quiet, @_);
    wait_until(sub {
        my $pending = 0;
        $pending += $_->{pending} for @{ json(run_tool('list', $worker->{pid}, '--json')->{out})->{rings} };
        return $pending == $quiet{pending};
    });
    return $worker;
}

# What a worker must not notice, and what the tool says of it. A busy one has how many polls and events it has.
sub there_and_back
{
    my ($what, $worker) = @_;
    my $pid = $worker->{pid};
    my $rings = @{ $worker->{rings} };
    my $before = look_of($pid);

    my $staged = does("$what: stage", 'stage', $pid);
    my ($said_rings, $pending) = $staged->{out} =~ /^process $pid: (\d+) rings? staged, (\d+) events? pending/;
    my ($polls) = $staged->{out} =~ / (\d+) polls? remembered/;
    $polls //= 0;
    is($said_rings, $rings, '... the rings');
    is("$pending, $polls", "$quiet{pending}, $quiet{polls}", '... events and polls') if $worker->{is_quiet};
    like($staged->{out}, qr/ \d+(?:\.\d+)? m?s.*\bparked\b/, '... how long it stood still, and that it is parked');
    is($staged->{err}, '', '... nothing on standard error');
    is_parked($pid, '... it is');
    my $maps = slurp("/proc/$pid/maps");
    unlike($maps, qr/\[aio\]/, '... it has no ring any more');
    is_deeply([ journal($pid) ], [], '... the tool has left nothing behind outside of it');
    my $last = (lines_of($worker))[-1];

    my $image = json(run_tool('list', $pid, '--json')->{out}) // {};
    my @list = @{ $image->{rings} // [] };
    is_deeply([ map { $_->{addr} } @list ], [ sort { hex $a <=> hex $b } @{ $worker->{rings} } ], '... list --json: its rings');
    is(join(' ', map { $_->{state} } @list), join(' ', ('staged') x $rings), '... staged');
    my ($sum_polls, $sum_pending, $sum_events) = (0, 0, 0);
    $sum_polls += $_->{polls}, $sum_pending += $_->{pending}, $sum_events += @{ $_->{events} } for @list;
    is("$sum_polls polls, $sum_pending pending, $sum_events events", "$polls polls, $pending pending, $pending events",
        '... with polls and events as stage has counted them');
    my $text = run_tool('list', $pid);
    my $lines = () = $text->{out} =~ /^ring 0x[0-9a-f]+, staged: \d+ slots, \d+ pending/mg;
    is($lines, $rings, '... list: the rings, staged');
    like($text->{out}, qr/\bpolls?\b/, '... and their polls') if $polls;
    my $core = fresh('.core');
    my $dumped = run_tool('dump', $pid, '-o', $core);
    ok($dumped->{status} == 0 ? (json(run_tool('list', $core, '--json')->{out}) // {})->{rings}[ $rings - 1 ]
        : $dumped->{status} =~ /^[14]$/ && $dumped->{err} =~ /\A.*\bstaged\b.*\n\z/, '... dump has its rings, or says what it is')
        or diag explain $dumped;

    like(does('... stage again', 'stage', $pid)->{out}, qr/already|staged/, '... says that it is staged');
    is(slurp("/proc/$pid/maps"), $maps, '... and does nothing');
    kill $_, $pid for qw(USR1 CONT);
    is_parked($pid, '... signals do not wake it');
    is((lines_of($worker))[-1], $last, '... it has done nothing all the time');

    my $restored = does("$what: restore", 'restore', $pid);
    like($restored->{out}, qr/^process $pid: $rings rings? restored/, '... the rings');
    like($restored->{out}, qr/ $polls polls? submitted again/, '... and polls') if $polls;
    like($restored->{out}, qr/ \d+(?:\.\d+)? m?s\b/, '... how long it took');
    is($restored->{err}, '', '... nothing on standard error');
    goes_on($worker, '... it goes on');
    is_as_before($pid, $before, '... and looks as before');
    is(states_of($pid), join(' ', ('live') x $rings), '... its rings are live');
    like(does('... restore again', 'restore', $pid)->{out}, qr/not staged|nothing|no capsule/, '... says that it is not staged');
    goes_on($worker, '... and does nothing');
}

for my $arch ('', 'i386') {
    my $what = $arch || 'this machine';
  SKIP: {
        my $program = "$BUILD/tests/worker-$arch";
        skip "$what: no worker for it could be built, or it does not run here", 1
            if $arch && (!-x $program || run_command($program, '--make', fresh())->{status});
        for my $worker (quiet_worker({ arch => $arch }, '--threads', 2), worker({ arch => $arch }, '--rings', 3, '--threads', 5)) {
            my $kind = $worker->{is_quiet} ? 'idle' : 'busy';
            there_and_back("$what, $kind", $worker);
            there_and_back("$what, $kind, once more", $worker);
            ends_well($worker, "... each of its requests has had one event");
        }
    }
}

# ---- --compact ----

for my $arch ('', 'i386') {
    my $what = ($arch || 'this machine') . ', compact';
  SKIP: {
        my $program = "$BUILD/tests/worker-$arch";
        skip "$what: no worker for it could be built, or it does not run here", 1
            if $arch && (!-x $program || run_command($program, '--make', fresh())->{status});
        my $worker = worker({ arch => $arch }, '--rings', 3, '--threads', 2, '--by-call');
        my $before = look_of($worker->{pid});
        for my $round (1 .. 3) {
            does("$what: stage", 'stage', $worker->{pid});
            does('... restore --compact', 'restore', '--compact', $worker->{pid});
            goes_on($worker, '... it goes on');
            is_as_before($worker->{pid}, $before, '... and looks as before');
        }
        ends_well($worker, '... each of its requests has had one event');
    }
}
refuses('stage: --compact', 2, qr/stage does not take --compact/, 'stage', '--compact', $$);
like(run_tool('restore', '--help')->{out}, qr/--compact/, 'help of restore: --compact');

my $leaver = leaver(map { ('--ring', $_) } 'n=1', 'n=1,head=3,tail=9', 'n=1,head=120,tail=4', 'n=500,head=800,tail=20', 'n=3000,head=17,tail=full');
my $was = json(run_tool('list', $leaver->{pid}, '--json')->{out});
does('compact: stage', 'stage', $leaver->{pid});
does('... restore --compact', 'restore', '--compact', $leaver->{pid});
my $is = json(run_tool('list', $leaver->{pid}, '--json')->{out});
is_deeply([ map { "$_->{head} $_->{tail}" } @{ $is->{rings} } ], [ map { "0 $_->{pending}" } @{ $was->{rings} } ], '... its rings begin at slot 0');
is_deeply([ map { $_->{events} } @{ $is->{rings} } ], [ map { $_->{events} } @{ $was->{rings} } ], '... with the same events');
end($leaver);

# ---- -v, --json, standard output ----

my $worker = quiet_worker();
my $pid = $worker->{pid};
for my $command (qw(stage restore)) {
    my $result = run_tool($command, '-v', $pid);
    my @times = $result->{out} =~ /^ +\d+\.\d+ ms  \S/mg;
    ok($result->{status} == 0 && $result->{out} =~ /\Aprocess $pid: .*\n/ && @times >= 3, "$command -v shows where the time went")
        or diag explain $result;
}
for my $command (qw(stage restore)) {
    my $result = run_tool($command, '--json', $pid);
    my $object = json($result->{out});
    ok($result->{status} == 0 && $object && $result->{out} =~ /\A[^\n]+\n\z/, "$command --json: one object, one line") or diag explain $result;
    my $verb = "${command}d";
    is_deeply([ @$object{qw(format pid rings pending polls)} ], [ 1, $pid, 3, 18, 9 ], '... of that process, and what it holds');
    ok($object->{$verb}, '... and it has been done') or diag explain $object;
    $object = json(run_tool($command, '--json', $pid)->{out});
    ok($object && $object->{pid} == $pid && defined $object->{$verb} && !$object->{$verb}, '... once more: there was nothing to do')
        or diag explain $object;
}
for my $command (qw(stage restore)) {
    my $result = run_tool($command, '--json', $gone);
    my $object = json($result->{out});
    ok($result->{status} == 1 && $object && $object->{error} && $object->{error}{errno} eq 'ESRCH'
        && $result->{err} eq "aio-restorer: $object->{error}{message}\n", "$command --json: a failure") or diag explain $result;
}
for my $command (qw(stage restore)) {
    my $result = run_tool({ stdout => '/dev/full' }, $command, $pid);
    ok($result->{status} == ($command eq 'stage' ? 3 : 1) && $result->{err} =~ /standard output/,
        "$command into a full standard output says so, and what is parked then") or diag explain $result;
    is(states_of($pid), join(' ', ($command eq 'stage' ? 'staged' : 'live') x 3), '... when it has been done');
}
for my $time ('100', '0.5', '30.25', '1e1') {
    my $result = run_tool('stage', $pid, '--timeout', $time);
    ok($result->{status} == 0 || ($time eq '1e1' && $result->{status} == 2), "stage --timeout $time") or diag explain $result;
    does('... and back', 'restore', "--timeout=100", $pid);
}
goes_on($worker, '... it goes on');
ends_well($worker, '... and ends well');

# ---- several ----

my @both = (worker('--rings', 2), worker('--rings', 3, '--threads', 2));
my @pids = map { $_->{pid} } @both;
my @before = map { look_of($_) } @pids;
does('stage: two processes', 'stage', @pids);
is_parked($pids[$_], "... number $_") for 0, 1;
my $listed = json(run_tool('restore', '--json', @pids)->{out}) // {};
is_deeply([ map { $_->{pid} } @{ $listed->{processes} // [] } ], \@pids, 'restore --json: a list of both') or diag explain $listed;
for (0, 1) {
    goes_on($both[$_], "... number $_ goes on");
    is_as_before($pids[$_], $before[$_], '... and looks as before');
}
my $twice = run_tool('stage', $pids[0], $pids[0]);
ok($twice->{status} == 0 || $twice->{status} == 2, 'stage: the same process twice') or diag explain $twice;
is(states_of($pids[0]), $twice->{status} ? 'live live' : 'staged staged', '... is it staged, if that is no wrong usage');
does('stage: one that is staged, and one that is not', 'stage', @pids);
is_parked($pids[$_], "... number $_") for 0, 1;
my $damaged = worker('--state', 'scribble:magic=0');
$before = look_of($damaged->{pid});
does('restore: one of two', 'restore', $pids[1]);
goes_on($both[1], '... which goes on');
is_parked($pids[0], '... the other is parked');
for my $order ([ $pids[1], $damaged->{pid} ], [ $damaged->{pid}, $pids[1] ], [ @pids, $damaged->{pid} ]) {
    my $result = run_tool('stage', @$order);
    ok($result->{status} == 1 && $result->{err} =~ /\Aaio-restorer: .*$damaged->{spare}.*damaged/ && $result->{out} eq '',
        "stage: @{[ scalar @$order ]}, of which one has a damaged ring") or diag explain $result;
    is_as_before($damaged->{pid}, $before, '... which is as it was');
    is_as_before($pids[1], $before[1], '... the good one too');
    goes_on($both[1], '... and goes on');
    is_parked($pids[0], '... the one that was staged before is staged');
}
does('restore: both, one of which is not staged', 'restore', @pids);
my @many = map { worker('--rings', 1 + $_ % 3, '--threads', 1 + $_ % 2) } 1 .. 6;
does('stage: six', 'stage', map { $_->{pid} } @many);
does('... and back', 'restore', map { $_->{pid} } reverse @many);
for (@both, $damaged, @many) {
    goes_on($_, 'it goes on');
    ends_well($_, '... and ends well');
}

# ---- children ----

# What it maps of its parent's rings, as the memory of a process says.
sub bytes_of
{
    my ($pid, @addresses) = @_;
    my $all = '';
    open my $memory, '<:raw', "/proc/$pid/mem" or return "no memory of $pid: $!";
    for my $address (@addresses) {
        sysseek $memory, hex $address, 0;
        sysread $memory, $all, 4096, length $all or $all .= "cannot be read: $!";
    }
    return $all;
}

sub aio_mappings { my $count = () = slurp("/proc/$_[0]/maps") =~ /\[aio\]/g; return $count }

sub looks_at_inherited
{
    my ($worker, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $heir = $worker->{heir};
    my $seen = grep { /^inherited/ } lines_of($worker, $heir);
    kill 'USR1', $heir;
    wait_until(sub { $seen < grep { /^inherited/ } lines_of($worker, $heir) or has_ended($heir) });
    ok($seen < (grep { /^inherited/ } lines_of($worker, $heir)), $name) or diag('state ', state_of($heir));
}

for my $kind (qw(idle ring)) {
    my $own = $kind eq 'ring' ? 1 : 0;
    my $family = quiet_worker('--heir', $kind);
    my ($parent, $heir) = @$family{qw(pid heir)};
    is(aio_mappings($heir), 3 + $own, "a child of kind $kind: it has inherited three rings");

    my $bytes = bytes_of($heir, @{ $family->{rings} });
    my $before = look_of($parent);
    my $result = does('stage: the child', 'stage', $heir);
    is(aio_mappings($heir), 0, '... has no mapping of a ring any more');
    ok(bytes_of($heir, @{ $family->{rings} }) eq $bytes, '... but the same memory');
    is_as_before($parent, $before, '... its parent is as it was');
    goes_on($family, '... and goes on');
    does('restore: the child', 'restore', $heir);
    is(aio_mappings($heir), $own, '... has its own rings again');
    $own ? goes_on($family, '... it goes on', $heir) : looks_at_inherited($family, '... it goes on');
    ok(bytes_of($heir, @{ $family->{rings} }) eq $bytes, '... with the same memory');
    does('stage: its parent', 'stage', $parent);
    looks_at_inherited($family, '... does not take it from the child');
    does('restore: the parent', 'restore', $parent);
    goes_on($family, '... it goes on');
    ends_well($family, '... and ends well');
}

my $family = quiet_worker('--heir', 'ring');
my ($parent, $heir) = @$family{qw(pid heir)};
my $staged = does('stage: the parent alone', 'stage', $parent);
like($staged->{err}, qr/\A.*\b$heir\b.*\n\z/, '... warns, and names the child');
# The kernel takes the pages away a moment after the context.
ok(wait_until(sub { join(' ', sort split / /, states_of($heir)) eq 'inherited? inherited? inherited? live' }),
    '... list shows what the child has now') or diag(states_of($heir));
goes_on($family, '... and goes on', $heir);
does('restore: the parent', 'restore', $parent);
goes_on($family, '... it goes on');
ends_well($family, '... and ends well');

for my $order ('parent', 'child') {
    my $family = quiet_worker('--heir', 'ring');
    my @pids = @$family{ $order eq 'parent' ? qw(pid heir) : qw(heir pid) };
    my $bytes = bytes_of($family->{heir}, @{ $family->{rings} });
    my $staged = does("stage: both, the $order first", 'stage', @pids);
    is(aio_mappings($_), 0, '... no ring is left') for @pids;
    ok(bytes_of($family->{heir}, @{ $family->{rings} }) eq $bytes, '... the child has the same memory');
    does('restore: both', 'restore', @pids);
    goes_on($family, '... the parent goes on');
    goes_on($family, '... the child goes on', $family->{heir});
    looks_at_inherited($family, '... and may read what it has inherited');
    ends_well($family, '... and the parent ends well');
}

# ---- a host that cannot ----

SKIP: {
    my $family = quiet_worker();
    my $pid = $family->{pid};
    does('stage: to be refused', 'stage', $pid);
    my $holder = hold_all_but(1);
    if (!$holder) {
        does('restore: after all', 'restore', $pid);
        ends_well($family, '... and ends well');
        skip 'fs.aio-max-nr leaves too few, or others use it, too', 4;
    }
    my $result = run_tool('restore', $pid);
    is($result->{status}, 4, 'restore: fs.aio-max-nr is reached: refused');
    like($result->{err}, qr/fs\.aio-max-nr.*stays parked.*aio-restorer restore $pid/s, '... and what to do');
    is_parked($pid, '... it is parked still');
    end($holder);
    sleep 0.1;
    does('restore: once more', 'restore', $pid);
    goes_on($family, '... it goes on');
    ends_well($family, '... and ends well');
}

SKIP: {
    my @there = pretending(64);
    skip 'what this host says of its CPUs cannot be hidden', 1 if !@there;
    skip 'a page is enough for any host', 1 if POSIX::sysconf(POSIX::_SC_PAGESIZE()) > 4096;
    my $family = quiet_worker();
    my $pid = $family->{pid};
    my $core = fresh('.core');
    is(run_tool('dump', $pid, '-o', $core)->{status}, 0, 'dump: for a host where more CPUs are possible');
    # Its rings lie side by side: only the last one has room behind it.
    my $line = qr/ring 0x[0-9a-f]+: needs 5 pages on this host \(64 possible CPUs\), has 1, and of the 4 behind it [0-3] are free; it fits where at most 15 CPUs are possible \(.*possible_cpus=15\)/;
    for my $command ('check', 'run') {
        my $result = run_command(@there, $TOOL, $command, $core);
        ok($result->{status} == 4 && $result->{err} =~ /\A(?:aio-restorer: $line\n)(?:$line\n)*\z/,
            "... $command: each ring that has no room, and where it would fit") or diag explain $result;
    }
    does('... stage', 'stage', $pid);
    my $result = run_command(@there, $TOOL, 'restore', $pid);
    ok($result->{status} == 4 && $result->{err} =~ /\Aaio-restorer: $line(?:\n$line)*; .*stays parked.*aio-restorer restore $pid/,
        '... restore: refused before anything is touched') or diag explain $result;
    is_parked($pid, '... it is parked still');
    does('... restore on this one', 'restore', $pid);
    $result = run_tool('stage', $pid, '--room', 64, '--json');
    my @none = @{ json($result->{out})->{no_room} // [] };
    my %handles = map { $_ => 1 } @{ $family->{rings} };
    ok($result->{status} == 0 && @none && !(grep { !$handles{$_} } @none), '... stage --room: says which rings have none') or diag explain $result;
    like($result->{err}, qr/\Aaio-restorer: process $pid: \d rings? would not fit there, since something lies behind: @none\n\z/, '... in words, too');
    does('... and it is restored like any other', 'restore', $pid);
    refuses("... --room $_ is nothing", 2, qr/--room .* is not a number of CPUs/, 'stage', $pid, '--room', $_) for 0, -1, '4x', 100_000;
    goes_on($family, '... it goes on');
    ends_well($family, '... and ends well');
}

# ---- one fails when the other is staged already ----

{
    my @families = map { quiet_worker() } 1 .. 2;
    my @pids = map { $_->{pid} } @families;
    my $fds = () = glob "/proc/$pids[1]/fd/*";
    is(run_command('prlimit', '--pid', $pids[1], "--nofile=$fds:")->{status}, 0, 'a process that gets no pipe');
    my $result = run_tool('stage', @pids);
    is($result->{status}, 1, 'stage: it, and another one: fails');
    like($result->{err}, qr/pipe/, '... says why');
    unlike("$result->{out}$result->{err}", qr/parked/, '... and nothing is parked');
    goes_on($_, '... goes on') for @families;
    ends_well($_, '... and ends well') for @families;
}

# ---- a capsule that somebody has written over ----

# A mapping that begins with the magic number.
sub capsule_of
{
    my ($pid) = @_;
    open my $mem, '+<', "/proc/$pid/mem" or return;
    for (split /\n/, slurp("/proc/$pid/maps")) {
        my ($start) = /^([0-9a-f]+)-[0-9a-f]+ rw-p 00000000 00:00 0/ or next;
        sysseek $mem, hex $start, 0;
        my $magic;
        return ($mem, hex $start) if sysread($mem, $magic, 8) && $magic eq "AIOR\r\n\x1a\n";
    }
    return;
}

sub peek { my ($mem, $at, $bytes) = @_; my $was; sysseek $mem, $at, 0; sysread $mem, $was, $bytes; return $was }
sub poke { my ($mem, $at, $bytes) = @_; sysseek $mem, $at, 0; return syswrite $mem, $bytes }

{
    my $family = quiet_worker();
    my $pid = $family->{pid};
    does('stage: to be written over', 'stage', $pid);
    my ($mem, $capsule) = capsule_of($pid);
    my ($threads, $count, $stride) = unpack 'V3', peek($mem, $capsule + 64, 12);
    my $last = $capsule + $threads + ($count - 1) * $stride;
    my @damages = (
        [ 'a thread with too many registers', $last + 72, pack('V', 3), $last + 88, pack('V', 0xffffffff) ],
        [ 'a thread with none', $last + 88, pack('V', 0) ],
        [ 'threads outside of it', $capsule + 64, pack('V', 0x7ffffff8) ],
        [ 'too many threads', $capsule + 68, pack('V', 0x1000000) ],
        [ 'threads outside of it, prepared', $capsule + 24, pack('V', 1), $capsule + 64, pack('V', 0x7ffffff8) ],
    );
    for my $damage (@damages) {
        my ($name, %bytes) = @$damage;
        my %right = map { $_ => peek($mem, $_, length $bytes{$_}) } keys %bytes;
        poke($mem, $_, $bytes{$_}) for keys %bytes;
        my $result = run_tool('restore', $pid);
        ok($result->{status} =~ /^[13]$/ && $result->{err} =~ /capsule .* is damaged/, "$name: refused") or diag explain $result;
        is_parked($pid, '... it is parked still');
        poke($mem, $_, $right{$_}) for keys %right;
    }
    does('restore: once it is right again', 'restore', $pid);
    goes_on($family, '... it goes on');
    ends_well($family, '... and ends well');
}

done_testing;
