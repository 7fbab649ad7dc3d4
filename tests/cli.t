#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# The command line: usage, help, what goes where, pictures, JSON, and who is refused.
use strict;
use warnings;
use lib 'tests';
use Cli;
use Test::More;

# ---- usage ----

for my $case (
    [ 'no command',        qr/what is to be done/ ],
    [ 'unknown command',   qr/frobnicate is not a command/, 'frobnicate' ],
    [ 'list of nothing',   qr/list: which TARGET\?/,         'list' ],
    [ 'neither pid nor path', qr{core is neither a pid nor a path \(a file in this folder: \./core\)}, 'list', 'core' ],
    [ 'pid 0',             qr/0 is neither/,                'list', '0' ],
    [ 'two targets',       qr/what is 2\?/,                 'list', '1', '2' ],
    [ 'unknown option',    qr/does not take --frob/,        'list', '--frob', '1' ],
    [ 'unknown letter',    qr/does not take -x/,            'list', '-x', '1' ],
    [ 'letters',           qr/does not take -x/,            'list', '-xj', '1' ],
    [ "another command's option", qr/run does not take --events/, 'run', './x', '--events' ],
    [ 'option with value', qr/does not take --json=1/,      'list', '--json=1', '1' ],
    [ 'dump of nothing',   qr/dump: which PID\?/,            'dump' ],
    [ 'dump of a path',    qr{\./x is not a pid},           'dump', './x', '-o', 'y' ],
    [ 'dump into nothing', qr/-o FILE/,                     'dump', '1' ],
    [ '-o without value',  qr/-o needs a value/,            'dump', '1', '-o' ],
    [ '-o with an empty value', qr/-o FILE/,                'dump', '1', '-o', '' ],
    [ 'run of nothing',    qr/run: which IMAGE\?/, 'run' ],
    [ 'emit of nothing',   qr/--blob restore/,              'emit' ],
    [ 'emit of an unknown blob', qr/--blob restore/,        'emit', '--blob', 'run' ],
    [ 'emit for an unknown machine', qr/vax is not an architecture/, 'emit', '--blob', 'restore', '--arch', 'vax' ],
    [ 'emit in an unknown format', qr/xml is not a format/, 'emit', '--blob', 'restore', '--format', 'xml' ],
) {
    my ($name, $pattern, @arguments) = @$case;
    my $result = refuses("usage: $name", 2, $pattern, @arguments);
    is($result->{out}, '', "usage: $name: nothing on standard output");
}

my @commands = run_tool('--help')->{out} =~ /^  ([a-z]+) /mg;
ok(@commands >= 7, "the commands: @commands");
for my $help ([], map { [$_] } @commands) {
    my $result = run_tool(@$help, '--help');
    my @lines = split /\n/, $result->{out};
    my $widest = (sort { $b <=> $a } map { length } @lines)[0] // 0;
    ok($result->{status} == 0 && $result->{err} eq '' && @lines > 4 && @lines <= 24 && $widest <= 80,
        "help of @{[ @$help ? @$help : 'the tool' ]}: ${\ scalar @lines} lines, $widest columns");
    like($result->{out}, qr/^usage: aio-restorer.*Example: aio-restorer/s, '... usage and an example');
}
my @archs = run_tool('check')->{out} =~ /^blobs.*/m ? $& =~ /restore (\w+)/g : ();
is(run_tool('--version')->{out} =~ s/\d+\.\d+\.\d+/N/r, 'aio-restorer N, ABI 1; blobs for ' . join(', ', @archs) . "\n", '--version: ABI and architectures');

for my $command ([ 'list', $$ ], ['--help'], ['--version'], ['check'], [ 'emit', '--blob', 'restore' ]) {
    my $result = run_tool({ stdout => '/dev/full' }, @$command);
    ok($result->{status} == 1 && $result->{err} =~ /\Aaio-restorer: .*cannot be written: No space left.*\n\z/,
        "$command->[0] into a full standard output") or diag explain $result;
}

# ---- list ----

my $leaver = leaver('--ring', 'n=1,head=3,tail=9', '--ring', 'n=1,head=120,tail=4',
    '--ring', 'n=1,head=120,tail=0', '--ring', 'n=1,head=5,tail=5', '--ring', 'n=1',
    '--ring', 'n=1,head=7,tail=full', '--ring', 'n=500,head=800,tail=20');
my $pid = $leaver->{pid};
my $result = run_tool('list', $pid, '--json');
is_rings($leaver, $result, 'list --json: every ring, every event');
is($result->{err}, '', '... nothing on standard error');
my $image = json($result->{out});
my $rings = $image->{rings};
is_deeply([ sort keys %$image ], [qw(format machine page_size pid rings)], 'JSON: the keys');
my ($machine) = POSIX::uname() ? (POSIX::uname())[4] : '';
is_deeply([ @$image{qw(format pid machine page_size)} ], [ 1, $pid, $machine, POSIX::sysconf(POSIX::_SC_PAGESIZE()) ],
    '... and their values');
is_deeply([ sort keys %{ $rings->[0] } ],
    [qw(addr events head id len max_possible_cpus nr pending polls state tail)], '... the keys of a ring');
is_deeply([ sort keys %{ (grep { @{ $_->{events} } } @$rings)[0]{events}[0] } ], [qw(data obj res res2)], '... of an event');
ok(!(grep { $_->{state} ne 'live' || $_->{polls} || $_->{pending} != @{ $_->{events} } } @$rings),
    '... state, polls, pending');
like($result->{out}, qr/\A\{"format":1,"pid":$pid,"machine":"$machine","page_size":\d+,"rings":\[\{"addr":"0x[0-9a-f]+","len":\d+,"state":"live","id":\d+,"nr":\d+,"head":\d+,"tail":\d+,"pending":\d+,"polls":0,"max_possible_cpus":\d+,"events":\[[^\n]*\]\}\n\z/,
    '... numbers are numbers, addresses hexadecimal strings, one line');
my %id = map { $_->{addr} => $_->{id} } @{ $leaver->{rings} };
ok(!(grep { $_->{id} != $id{ $_->{addr} } } @$rings), '... the id');

# io_setup(1) on a host of that many possible CPUs must give that length, and on one more another.
sub ring_len
{
    my ($n, $cpus) = @_;
    my $bytes = 32 + 32 * (2 * ($n > 4 * $cpus ? $n : 4 * $cpus) + 2);
    return int(($bytes + $image->{page_size} - 1) / $image->{page_size}) * $image->{page_size};
}
ok(!(grep { ring_len(1, $_->{max_possible_cpus}) > $_->{len} || ring_len(1, $_->{max_possible_cpus} + 1) <= $_->{len} } @$rings),
    'max_possible_cpus is the most that the ring fits');

my $text = run_tool('list', $pid)->{out};
like($text, qr/^process $pid, $machine: 7 rings$/m, 'list: a heading');
for my $ring (@$rings) {
    like($text, qr/^ring $ring->{addr}, live: $ring->{nr} slots, $ring->{pending} pending\b/m,
        "list: ring with head $ring->{head} and tail $ring->{tail}");
}
unlike($text, qr/data 0x/, 'list: no events');
$text = run_tool('list', $pid, '--events')->{out};
my $events = () = $text =~ /^    slot \d+: data 0x[0-9a-f]+, obj 0x[0-9a-f]+, res -?\d+, res2 0$/mg;
my $pending = 0;
$pending += $_->{pending} for @$rings;
is($events, $pending, 'list --events: each of them');
my ($wrapped) = grep { $_->{head} == 120 && $_->{tail} == 4 } @$rings;
like($text, qr/slot 126: data $wrapped->{events}[6]{data}, .*\n    slot 0: data $wrapped->{events}[7]{data},/,
    '... oldest first, around the end');

# ---- pictures ----

sub width_of { my ($line) = @_; utf8::decode($line); return length $line }

# The picture's lines of each ring, and whether its marks stand under the right cell.
sub picture_faults
{
    my ($text, $columns) = @_;
    my @faults;
    my ($head, $tail, $nr, $width);
    for my $line (split /\n/, $text) {
        $line =~ s/\r//;
        push @faults, "wide: $line" if width_of($line) > $columns && $line !~ /^    slot |^ring |^process |^  fits/;
        utf8::decode($line);
        if ($line =~ /^  0 (\S+) (\d+)$/) {
            ($width, $nr) = (length $1, $2 + 1);
            push @faults, "narrow: $line" if $width < $nr && length $line < $columns;
        }
        if ($line =~ /\^/ && $line =~ /(?:head|tail) (\d+)/) {
            my $right = int($1 * $width / $nr);
            push @faults, "mark: $line (should be at $right)" if index($line, '^') - 4 != $right;
        }
    }
    return @faults;
}

my $large = leaver('--ring', 'n=6000,head=5000,tail=5000', '--ring', 'n=6000,head=11000,tail=11000',
    '--ring', 'n=5100,head=10150,tail=10200', '--ring', 'n=5100,head=10150,tail=3');
for my $columns (40, 41, 53, 80, 200) {
    for my $locale ('C', 'C.UTF-8') {
        local @ENV{qw(COLUMNS LC_ALL)} = ($columns, $locale);
        for my $process ($leaver, $large) {
            my $text = run_tool('list', $process->{pid})->{out};
            is_deeply([ picture_faults($text, $columns) ], [], "picture: $columns columns, $locale");
            $text =~ s/^process.*//;
            ok($locale eq 'C' ? $text !~ /[^\n -~]/ : $text =~ /[^\n -~]/, '... its alphabet');
        }
    }
}
{
    local $ENV{COLUMNS} = 100;
    my ($widest) = sort { $b <=> $a } map { width_of($_) } split /\n/, run_tool('list', $pid)->{out};
    cmp_ok($widest, '<=', 100, 'no line of list is wider than 100 columns');
    $ENV{COLUMNS} = 80;
    ($widest) = sort { $b <=> $a } map { width_of($_) } split /\n/, run_tool('list', $pid)->{out};
    cmp_ok($widest, '<=', 80, 'nor than 80');
}
SKIP: {
    skip 'no script(1), or no terminal to be had', 3 unless have('script') && !run_command('script', '-qec', 'true', '/dev/null')->{status};
    delete local $ENV{COLUMNS};
    for my $columns (40, 80, 200) {
        my $pty = run_command('script', '-qec', "stty cols $columns; $TOOL list $pid", '/dev/null');
        my $faults = join "\n", picture_faults($pty->{out}, $columns);
        ok($pty->{out} =~ /^  0 \S+ 126\r?$/m && !$faults, "picture on a terminal of $columns columns") or diag $faults, $pty->{out};
    }
}

# ---- relatives and damage ----

my $family = leaver('--ring', 'n=1,head=3,tail=9', '--fork');
is(json(run_tool('list', $family->{pid}, '--json')->{out})->{rings}[0]{state}, 'live', 'fork: live in the parent');
is(json(run_tool('list', $family->{child}, '--json')->{out})->{rings}[0]{state}, 'inherited?', '... inherited? in the child');
like(run_tool('list', $family->{child})->{out}, qr/^ring 0x[0-9a-f]+, inherited\?: 127 slots/m, '... in words');
refuses('... and dump says that the child has none of its own', 1, qr/has no AIO rings of its own: it has inherited 1 by fork/,
    'dump', $family->{child}, '-o', fresh());
end($family);

my @damages = (
    [ 'magic=0',         qr/lost its magic number/ ],
    [ 'header_length=1', qr/another header length/ ],
    [ 'nr=126',          qr/another number of slots/ ],
    [ 'nr=0',            qr/another number of slots/ ],
    [ 'head=127',        qr/head lies outside/ ],
    [ 'head=0xffffffff', qr/head lies outside/ ],
    [ 'tail=127',        qr/tail lies outside/ ],
);
for my $damage (@damages) {
    my ($what, $pattern) = @$damage;
    my $process = leaver('--ring', 'n=1,head=3,tail=9', '--ring', 'n=1', '--scribble', $what);
    my $result = run_tool('list', $process->{pid});
    ok($result->{status} == 0 && $result->{out} =~ /damaged: .*$pattern/, "scribbled $what: list says so") or diag explain $result;
    my ($ring) = grep { $_->{state} eq 'damaged' } @{ json(run_tool('list', $process->{pid}, '--json')->{out})->{rings} };
    ok($ring && $ring->{damage} =~ $pattern && !@{ $ring->{events} }, '... in JSON');
    my $file = fresh();
    refuses('... dump fails', 1, qr/ring $ring->{addr}: is damaged: .*$pattern/, 'dump', $process->{pid}, '-o', $file);
    ok(!-e $file, '... and leaves no file');
    end($process);
}

# ---- who cannot be looked at ----

my ($kthread) = grep { -d "/proc/$_" && slurp("/proc/$_/status") =~ /^Kthread:\s*1/m } 2 .. 50;
$kthread //= 2 if slurp('/proc/2/stat') =~ /\(kthreadd\)/;
my $empty = start('sleep', '1000');
my $zombie = fork // die;
POSIX::_exit(0) if !$zombie;
sleep 1 while state_of($zombie) ne 'Z';
my $gone = fork // die;
POSIX::_exit(0) if !$gone;
waitpid $gone, 0;
my $file = fresh();

ok(run_tool('list', $empty->{pid})->{out} =~ /: no AIO rings$/m, 'list of a process without rings: no failure');
refuses('dump of it', 1, qr/process $empty->{pid} has no AIO rings/, 'dump', $empty->{pid}, '-o', $file);
for my $command ([ 'list' ], [ 'dump', '-o', $file ]) {
    my $name = $command->[0];
    refuses("$name: no such process", 1, qr/there is no process $gone/, @$command, $gone);
    refuses("$name: a zombie", 1, qr/process $zombie has exited/, @$command, $zombie);
    refuses("$name: a kernel thread", 1, qr/process $kthread is a kernel thread/, @$command, $kthread) if $kthread;
    my $threads = leaver('--ring', 'n=1', '--threads', 1);
    my ($thread) = grep { $_ != $threads->{pid} } threads_of($threads->{pid});
    refuses("$name: a thread", 1, qr/$thread is a thread of process $threads->{pid}: name that/, @$command, $thread);
    end($threads);
}
my $error = json(run_tool('list', $gone, '--json')->{out});
is_deeply($error, { format => 1, error => { ring => undef, step => 'open', errno => 'ESRCH', message => "there is no process $gone" } },
    'failure as JSON');
waitpid $zombie, 0;

SKIP: {
    skip 'not root, or no setpriv', 4 unless $> == 0 && have('setpriv');
    # The sanitizer build lies where nobody may not look: a copy does not.
    my $copy = fresh();
    spit($copy, slurp($TOOL));
    chmod 0755, $copy;
    my @nobody = (qw(setpriv --reuid 65534 --regid 65534 --clear-groups), $copy);
    for my $command ([ 'list', $pid ], [ 'dump', $pid, '-o', "$DIR/none" ]) {
        my $result = run_command(@nobody, @$command);
        ok($result->{status} == 1 && $result->{err} =~ /\Aaio-restorer: process $pid may not be traced by you: it is user 0's .* be its owner or root\n\z/,
            "$command->[0] of root's process by nobody") or diag explain $result;
    }
    my $image = fresh('.core');
    run_tool('dump', $pid, '-o', $image);
    my $result = run_command(@nobody, 'run', $image);
    ok($result->{status} == 1 && $result->{err} =~ /\Aaio-restorer: .*Permission denied\n\z/, 'run of an unreadable image') or diag explain $result;
    chmod 0644, $image;
    $result = run_command(@nobody, 'run', $image, '--json');
    is_rings($leaver, $result, 'run by nobody');
}

my $tracer = leaver('--ring', 'n=1,head=1,tail=2');
SKIP: {
    skip 'no gdb', 1 unless have('gdb');
    my $gdb = start('sh', '-c', 'exec "$@" 2>/dev/null', 'sh', 'gdb', '-q', '-batch', '-p', $tracer->{pid}, '-ex', 'shell echo ready; read line');
    my $line = '';
    $line = answer($gdb) // 'end' until $line =~ /^ready|^end/;
    refuses('dump of a process under a debugger', 1, qr/process $tracer->{pid} is traced by process $gdb->{pid} \(a debugger, or another call like this one\): wait for its end, or end it/,
        'dump', $tracer->{pid}, '-o', $file);
    is(run_tool('list', $tracer->{pid})->{status}, 0, '... list works');
    end($gdb);
}
my $sharer = leaver('--ring', 'n=1,head=1,tail=2', '--clone-vm');
refuses('dump of a process that shares its memory', 1,
    qr/process $sharer->{pid} shares its memory with process $sharer->{child}: its rings are not its alone/,
    'dump', $sharer->{pid}, '-o', $file);
refuses('... from the other side', 1, qr/process $sharer->{child} shares its memory with process $sharer->{pid}/,
    'dump', $sharer->{child}, '-o', $file);
ok(!-e $file, 'none of these left a file');

# ---- check, emit ----

my $check = run_tool('check');
ok($check->{status} == 0 && $check->{err} eq '', 'check') or diag explain $check;
like($check->{out}, qr/^$_ /m, "check: $_")
    for 'architecture', 'page size', 'possible CPUs', 'requests in use', 'AIO works', 'tracing works', 'kcmp works', 'blobs';
my $core = fresh('.core');
run_tool('dump', $pid, '-o', $core);
like(run_tool('check', $core)->{out}, qr/^\Q$core\E +7 rings, all can be restored here$/m, 'check of an image');
refuses('check of no image', 1, qr/No such file/, 'check', "$DIR/none");

for my $format (qw(bin c obj json)) {
    my $file = fresh();
    my $out = run_tool('emit', '--blob', 'restore', '--format', $format);
    my $written = run_tool('emit', '--blob', 'restore', '--format', $format, '-o', $file);
    ok($out->{status} == 0 && length $out->{out} && $out->{out} eq slurp($file) && $written->{out} . $written->{err} eq '',
        "emit --format $format: the same bytes to standard output and into a file");
}
is(run_tool('emit', '--blob', 'restore')->{out}, slurp("$BUILD/blob-restore-$machine.bin"), 'emit: the blob that was built');
refuses('emit into a folder', 1, qr/\Q$DIR\E cannot be written: Is a directory/, 'emit', '--blob', 'restore', '-o', $DIR);

done_testing;
