#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# run: rings come back in a fresh process, event by event, wherever and whatever they were.
use strict;
use warnings;
no warnings 'portable';    # addresses have 64 bits
use lib 'tests';
use Cli;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $core = fresh('.core');

# Dumps a leaver, ends it, and runs the core: all of it must come back.
sub comes_back
{
    my ($name, $leaver, @before) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $dump = run_tool('dump', $leaver->{pid}, '-o', $core);
    end($leaver);
    is($dump->{status}, 0, "$name: dump") or diag explain $dump;
    my $result = run_command(@before, $TOOL, 'run', $core, '--json');
    is_rings($leaver, $result, "$name: run");
    return $result;
}

# A leaver with these rings; none if an address is taken or the host admits no such ring.
sub rings { return leaver(map { ('--ring', $_) } @_) }

# ---- head and tail ----

my $result;
for my $reap (qw(user kernel both)) {
    my $leaver = leaver('--reap', $reap, map { ('--ring', $_) } 'n=1', 'n=1,head=5,tail=5', 'n=1,head=0,tail=9', 'n=1,head=3,tail=9',
        'n=1,head=120,tail=4', 'n=1,head=120,tail=0', 'n=1,head=126,tail=0', 'n=1,tail=full', 'n=1,head=7,tail=full',
        'n=1,head=126,tail=full', 'n=500,head=800,tail=20', 'n=3000,head=17,tail=full');
    $result = comes_back("reaped by $reap", $leaver);
    is($result->{err}, '', '... nothing on standard error');
}
my $image = json($result->{out});
ok(!(grep { !$_->{restored} || $_->{state} ne 'live' } @{ $image->{rings} }), '"restored":true');
is(ref \$image->{rings}[0]{restored}, 'REF', '... a true, not a number');
$result = run_tool('run', $core);
like($result->{out}, qr/^ring 0x[0-9a-f]+, restored: \d+ slots, \d+ pending/m, 'run without --json: a picture');
like($result->{out}, qr/^    slot \d+: data 0xda7a/m, '... and the events');
is_deeply([ own_processes() ], [], '... and no process left');

# ---- compact ----

my $leaver = leaver(map { ('--ring', $_) } 'n=1', 'n=1,head=3,tail=9', 'n=1,head=120,tail=4', 'n=500,head=800,tail=20', 'n=3000,head=17,tail=full');
my $was = json(run_tool('list', $leaver->{pid}, '--json')->{out});
run_tool('dump', $leaver->{pid}, '-o', $core);
end($leaver);
my $is = json(run_tool('run', '--compact', $core, '--json')->{out}) // {};
is_deeply([ map { "$_->{head} $_->{tail}" } @{ $is->{rings} } ], [ map { "0 $_->{pending}" } @{ $was->{rings} } ], 'run --compact: rings begin at slot 0');
is_deeply([ map { $_->{events} } @{ $is->{rings} } ], [ map { $_->{events} } @{ $was->{rings} } ], '... with the same events');
refuses('list: --compact', 2, qr/list does not take --compact/, 'list', '--compact', $core);

# ---- where ----

my ($lowest) = slurp('/proc/sys/vm/mmap_min_addr') =~ /(\d+)/;
$lowest = 65536 if ($lowest // 0) < 65536;
my @maps = run_command('setarch', '-R', 'cat', '/proc/self/maps')->{out} =~ /^[0-9a-f]+-[0-9a-f]+ .*$/mg;
my %places = (
    'low'                 => [ sprintf '0x%x', $lowest ],
    "the loader's own place" => ['0x400000'],
    'around it'           => [ '0x3ff000', '0x410000', '0x500000' ],
    'the last page'       => ['0x7fffffffe000'],
);
for my $map (@maps) {
    my ($start, $end, $name) = $map =~ /^([0-9a-f]+)-([0-9a-f]+) .*\[(stack|vdso|vvar)\]/ or next;
    $places{"the fresh process's $name"} = [ "0x$start", sprintf '0x%x', hex($end) - 4096 ];
}
for my $place (sort keys %places) {
    my $leaver;
    # Something else may be there, in the leaver: the next one has it elsewhere.
    for (1 .. 8) {
        last if $leaver = rings(map { "n=1,head=120,tail=4,addr=$_" } @{ $places{$place} });
    }
  SKIP: {
        skip "$place: taken", 3 unless $leaver;
        comes_back("$place, at @{ $places{$place} }", $leaver);
        is_rings($leaver, run_command('setarch', '-R', $TOOL, 'run', $core, '--json'), '... and where addresses are not random');
    }
}

# ---- how many, how large ----

comes_back('1,000 rings', rings('n=1,head=3,tail=5,count=998', 'n=1,head=126,tail=1', 'n=1,tail=3'));
SKIP: {
    # What has just ended still counts for a moment; others may need a little.
    my ($n, $leaver) = (max_nr() - 500);
    for (1 .. 100) {
        sleep 0.02;
        next if $n < 30000 || max_nr() - aio_nr() < $n;
        last if $leaver = leaver({ quiet => 1 }, '--ring', "n=$n,head=" . (2 * $n - 10) . ',tail=full');
    }
    skip 'fs.aio-max-nr leaves too few, or others use it, too', 2 unless $leaver;
    my $dump = run_tool('dump', $leaver->{pid}, '-o', $core);
    is($dump->{status}, 0, "a ring of io_setup($n), wrapped and full: dump");
    end($leaver);
    my $result;
    for (1 .. 20) {
        $result = run_tool('run', $core, '--json');
        last if $result->{err} !~ /fs\.aio-max-nr/;
        sleep 0.1;
    }
    is_rings($leaver, $result, '... run');
}

# ---- while others want the CPUs ----

my @busy = map { start('sh', '-c', 'while :; do :; done') } 1 .. 3;
$leaver = rings('n=1,head=120,tail=4,count=20', 'n=1,tail=full', 'n=2000,head=4000,tail=full');
comes_back('while all CPUs are busy', $leaver);
my $wrong = 0;
for (1 .. 10) {
    my $again = run_tool('run', $core, '--json');
    $wrong++ if $again->{status} || (() = $again->{out} =~ /"restored":true/g) != 22;
}
is($wrong, 0, '... ten times more');
end($_) for @busy;

# ---- cores of gdb and of the kernel ----

$leaver = leaver('--ring', 'n=1,head=3,tail=9', '--ring', 'n=500,head=800,tail=20', '--threads', 2);
SKIP: {
    skip 'no gdb', 10 unless have('gcore');
    my $filter = "/proc/$leaver->{pid}/coredump_filter";
    my $gcore = sub {
        my ($value) = @_;
        spit($filter, $value);
        my $prefix = fresh('.gcore');
        run_command('gcore', '-o', $prefix, $leaver->{pid});
        return "$prefix.$leaver->{pid}";
    };
    my $file = $gcore->('0x7f');
    my $listed = run_tool('list', $file, '--json');
    is_rings($leaver, $listed, "list of a core of gdb's gcore, coredump_filter 0x7f");
    is(json($listed->{out})->{pid}, $leaver->{pid}, '... its pid');
    is_rings($leaver, run_tool('run', $file, '--json'), '... run');
    $file = $gcore->('0x33');
    my $result = run_tool('list', $file);
    ok(($result->{status} == 0 && $result->{out} =~ /2 rings/)
            || ($result->{status} == 1 && $result->{err} =~ m{ring 0x[0-9a-f]+: .* does not hold its memory: before the core is made, write 0x7f to /proc/PID/coredump_filter\n\z}),
        '... with the default filter: the rings, or what to do') or diag explain $result;
    note("gcore with the default coredump_filter: ", $result->{status} ? 'without the rings' : 'with the rings');
    # Staged rings are memory like any other, which is in every core.
    is(run_tool('stage', $leaver->{pid})->{status}, 0, 'a staged process: stage');
    $file = $gcore->('0x33');
    $listed = run_tool('list', $file, '--json');
    is_rings($leaver, $listed, "... list of a core of gdb's gcore, with the default filter");
    like($listed->{out}, qr/"state":"staged"/, '... staged');
    is_rings($leaver, run_tool('run', $file, '--json'), '... run');
    run_tool('restore', $leaver->{pid});
}
end($leaver);
SKIP: {
    my $pattern = slurp('/proc/sys/kernel/core_pattern');
    chomp $pattern;
    skip "core_pattern is $pattern", 3 if $pattern =~ m{^[|@]|/|%[^pP%]};
    for my $value ('0x7f', '0x33') {
        my $folder = fresh('.d');
        mkdir $folder;
        my $tests = POSIX::getcwd();
        $tests = '' if $BUILD =~ m{^/};
        local $ENV{BUILD} = $BUILD;
        my $program = start('sh', '-c', 'cd "$1" && ulimit -c unlimited && echo "$3" >/proc/self/coredump_filter && exec "$2" --ring n=1,head=3,tail=9 --ring n=500,head=800,tail=20',
            'sh', $folder, "$tests/$BUILD/tests/leaver" =~ s{^//}{/}r, $value);
        $program->{text} = answer($program);
        skip 'no leaver', 3 unless $program->{text};
        kill 'ABRT', $program->{pid};
        waitpid $program->{pid}, 0;
        end($program);
        my ($file) = glob "$folder/*";
        skip 'the kernel made no core (ulimit -c, or none configured)', 3 unless $file;
        my $listed = run_tool('list', $file, '--json');
        if ($value eq '0x7f') {
            is_rings($program, $listed, "list of the kernel's core, coredump_filter $value");
            is_rings($program, run_tool('run', $file, '--json'), '... run');
        } else {
            ok($listed->{status} == 0 || $listed->{err} =~ /does not hold its memory/, "the kernel's core with the default filter: the rings, or what to do");
            note("the kernel with the default coredump_filter: ", $listed->{status} ? 'without the rings' : 'with the rings');
        }
    }
}

# ---- with nothing to spare ----

$leaver = rings('n=1,head=3,tail=9', 'n=1,head=120,tail=4');
run_tool('dump', $leaver->{pid}, '-o', $core);
my @results;
SKIP: {
    skip 'no prlimit', 8 unless have('prlimit');
    my @limits = qw(nofile=3 nofile=4 nofile=5 nofile=6 nofile=7 fsize=1000 fsize=70000 core=0);
    push @limits, map { "stack=$_" } 65536, 262144;
    push @limits, map { "data=$_" } 4096, 100_000, 200_000, 300_000, 400_000, 600_000, 800_000, 1_200_000;
    push @limits, map { "as=${_}000" } 2000, 3000, 3500, 4000, 4500, 5000, 6000, 8000;
    for my $limit (@limits) {
        # Some are too small for any program, and more of them for one with sanitizers.
        next if run_command('prlimit', "--$limit", $TOOL, '--version')->{status};
        my $result = run_command('prlimit', "--$limit", $TOOL, 'run', $core, '--json');
        next if $SAN && $result->{err} =~ /Sanitizer|==\d+==/;
        is_fair($result, "run with $limit");
    }
    SKIP: {
        skip 'not root, or no setpriv, or a sanitizer that needs a thread', 1 unless $> == 0 && have('setpriv') && !$SAN;
        my $copy = fresh();
        spit($copy, slurp($TOOL));
        chmod 0755, $copy;
        chmod 0644, $core;
        my $result = run_command('prlimit', '--nproc=0', 'setpriv', '--reuid', 65533, '--regid', 65533, '--clear-groups', $copy, 'run', $core, '--json');
        ok($result->{status} == 1 && $result->{err} =~ /\Aaio-restorer: a fresh process cannot be made: Resource temporarily unavailable .*ulimit.*\n\z/,
            'run with nproc=0') or diag explain $result;
    }
}

# It comes back, or there is a line that says why.
sub is_fair
{
    my ($result, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is_rings($leaver, $result, "$name: comes back") if $result->{status} == 0;
    my $is_fair = $result->{status} =~ /^[14]$/ && $result->{err} =~ /\Aaio-restorer: .{20,}\n\z/;
    chomp(my $why = $result->{err});
    ok($is_fair, "$name: $why") or diag explain $result;
}

SKIP: {
    my $holder = hold_all_but(1);
    skip 'fs.aio-max-nr leaves too few, or others use it, too', 3 unless $holder;
    my $result = run_tool('run', $core, '--json');
    ok($result->{status} == 4 && $result->{err} =~ /\Aaio-restorer: the rings need 2 of fs\.aio-max-nr, and \d+ of its \d+ are in use: raise it \(sysctl fs\.aio-max-nr=\d+\)\n\z/,
        'fs.aio-max-nr is reached: exit 4, and what to do') or diag explain $result;
    my $error = json($result->{out});
    ok($error && !defined $error->{error}{ring} && $error->{error}{message} =~ /fs\.aio-max-nr/, '... in JSON');
    is(run_tool('check', $core)->{status}, 4, '... check says so, too');
    end($holder);
}
end($leaver);
SKIP: {
    my $leaver = rings('n=1,head=126,tail=1,count=1100');
    skip 'fs.aio-max-nr leaves too few', 2 unless $leaver;
    my $dump = run_tool('dump', $leaver->{pid}, '-o', $core);
    end($leaver);
    is($dump->{status}, 0, '1,100 contexts of io_setup(1): dump');
    my $result;
    # Whoever else makes contexts meanwhile takes from what is left.
    for (1 .. 5) {
        my $holder = hold_all_but(1110) or next;
        $result = run_tool('run', $core, '--json');
        end($holder);
        last if $result->{err} !~ /fs\.aio-max-nr/;
    }
    skip 'fs.aio-max-nr leaves too few, or others use it, too', 1 unless $result;
    is_rings($leaver, $result, '... come back where 1,110 requests are left');
}

# ---- the loader killed ----

my $end = time + ($SAN ? 3 : 1.5);
my $kills = 0;
while (time < $end) {
    my $loader = start({ quiet => 1 }, $TOOL, 'run', $core);
    sleep rand($SAN ? 0.3 : 0.15);
    end($loader);
    $kills++;
}
is_deeply([ own_processes() ], [], "$kills loaders killed on the way leave no process");

done_testing;
