#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# dump: the file that it writes, and the process that must not notice.
use strict;
use warnings;
no warnings 'portable';    # addresses have 64 bits
use lib 'tests';
use Cli;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

sub files_in { my ($folder) = @_; opendir my $dir, $folder or die "$folder: $!"; return sort grep { !/^\.\.?$/ } readdir $dir }

sub mode_of { return sprintf '%o', (stat $_[0])[2] & 07777 }

# A thread that waits inside io_submit is not interrupted: that would be its event. This takes the
# dump ten seconds, in which the other tests go on.
my $stuck = leaver('--ring', 'n=1,head=3,tail=9', '--wait', 'io_submit');
my $patient = start('sh', '-c', '"$@" 2>&1; echo "status $?"', 'sh', $TOOL, 'dump', $stuck->{pid}, '-o', fresh('.core'));

# ---- the file ----

my $leaver = leaver('--ring', 'n=1,head=3,tail=9', '--ring', 'n=1,head=120,tail=4', '--ring', 'n=500,head=800,tail=20',
    '--ring', 'n=1', '--threads', 7, '--flight');
my $pid = $leaver->{pid};
my $folder = "$DIR/folder";
mkdir $folder or die;
my $core = "$folder/rings.core";

for my $umask (0022, 0, 0777) {
    unlink $core;
    my $result = run_tool({ before => sub { umask $umask } }, 'dump', $pid, '-o', $core);
    is($result->{status}, 0, sprintf 'dump with umask %04o', $umask) or diag explain $result;
    is(mode_of($core), '600', '... mode 0600');
    is_deeply([ files_in($folder) ], ['rings.core'], '... nothing beside it');
    is($result->{out}, "$core: 4 rings of process $pid, 260 pending events\n", '... what it says');
    is($result->{err}, "aio-restorer: requests in flight are not in $core: only the kernel knows them\n",
        '... and what it does not have');
}
my $listed = run_tool('list', $core, '--json');
is_rings($leaver, $listed, 'list of the core: every ring, every event');
is($listed->{out}, run_tool('list', $pid, '--json')->{out}, '... the same JSON as of the process');
{
    my $here = POSIX::getcwd();
    my $tool = $TOOL =~ m{^/} ? $TOOL : "$here/$TOOL";
    chdir $folder or die;
    my $result = run_command($tool, 'dump', $pid, '-o', 'here.core');
    is($result->{status}, 0, 'a file name without a folder') or diag explain $result;
    is_deeply([ files_in('.') ], [ 'here.core', 'rings.core' ], '... in this folder');
    chdir $here or die;
    unlink "$folder/here.core";
}
spit($core, 'x' x 100);
chmod 0644, $core;
is(run_tool('dump', $pid, '-o', $core)->{status}, 0, 'an existing file');
is(mode_of($core), '600', '... is replaced');
is_rings($leaver, run_tool('list', $core, '--json'), '... whole');

mkdir "$DIR/a folder";
POSIX::mkfifo("$DIR/fifo", 0600) or die "mkfifo: $!";
for my $case ([ '/dev/null', 'c' ], [ "$DIR/fifo", 'p' ], [ "$DIR/a folder", 'd' ]) {
    my ($path, $kind) = @$case;
    my @before = stat $path;
    refuses("-o $path", 1, qr/\Q$path\E is there, and not a regular file: it is left alone/, 'dump', $pid, '-o', $path);
    my @after = stat $path;
    is_deeply([ @after[ 0 .. 7 ] ], [ @before[ 0 .. 7 ] ], '... which is left alone');
}
refuses('-o in a folder that there is not', 1, qr{$DIR/none/x cannot be written: No such file}, 'dump', $pid, '-o', "$DIR/none/x");
SKIP: {
    skip 'not root, or no tmpfs', 4 unless $> == 0;
    mkdir "$DIR/small";
    skip 'no tmpfs', 4 if system 'mount', '-t', 'tmpfs', '-o', 'size=16k', 'none', "$DIR/small";
    my $large = leaver('--ring', 'n=2000,head=5,tail=1000');
    spit("$DIR/small/x", 'old');
    my $result = refuses('a full disk', 1, qr{/small/x cannot be written: No space left}, 'dump', $large->{pid}, '-o', "$DIR/small/x");
    is_deeply([ files_in("$DIR/small") ], ['x'], '... leaves no temporary file');
    is(slurp("$DIR/small/x"), 'old', '... and the old file');
    end($large);
    system 'mount', '-o', 'remount,ro', "$DIR/small";
    refuses('a folder that cannot be written to', 1, qr{/small/x cannot be written: Read-only}, 'dump', $pid, '-o', "$DIR/small/x");
    END { local $?; system 'umount', "$DIR/small" if defined $DIR && -d "$DIR/small" }
}
SKIP: {
    skip 'no prlimit', 3 unless have('prlimit');
    my $result = run_command('prlimit', '--fsize=4096', $TOOL, 'dump', $pid, '-o', $core);
    ok($result->{status} == 1 && $result->{err} =~ /\Aaio-restorer: .* cannot be written: File too large\n\z/, 'a limit for files')
        or diag explain $result;
    is_deeply([ files_in($folder) ], ['rings.core'], '... leaves no temporary file');
    is_rings($leaver, run_tool('list', $core, '--json'), '... and the old file');
}

# ---- other people's tools ----

SKIP: {
    skip 'no readelf', 4 unless have('readelf');
    my $headers = run_command('readelf', '-hlW', $core);
    ok($headers->{status} == 0 && $headers->{err} eq '', 'readelf reads it') or diag explain $headers;
    my @loads = $headers->{out} =~ /^\s+LOAD\s+(0x\S+) (0x\S+) 0x\S+ (0x\S+) (0x\S+) +RW +(0x\S+)$/mg;
    my ($loads, $bad) = (0, 0);
    while (my ($offset, $addr, $in_file, $in_memory, $align) = map { hex } splice @loads, 0, 5) {
        $loads++;
        $bad++ if $offset % 4096 || $addr % 4096 || $in_file != $in_memory || $align != 4096;
    }
    is("$loads loads, $bad bad", '4 loads, 0 bad', '... a LOAD for each ring, page aligned');
    my $notes = run_command('readelf', '-nW', $core);
    my $threads = () = $notes->{out} =~ /NT_PRSTATUS/g;
    is($threads, scalar threads_of($pid), '... NT_PRSTATUS for each thread');
    like($notes->{out}, qr/^\s+AIOR\s/m, '... the AIOR note');
}
SKIP: {
    skip 'no eu-readelf', 3 unless have('eu-readelf');
    my $notes = run_command('eu-readelf', '-hln', $core);
    ok($notes->{status} == 0 && $notes->{err} eq '', 'eu-readelf reads it') or diag explain $notes;
    my @threads = sort $notes->{out} =~ /^\s+info.si_signo: 0.*\n(?:.*\n)*?.*\bpid: (\d+)/mg;
    is_deeply(\@threads, [ sort(threads_of($pid)) ], '... and names the threads') or diag $notes->{out};
    my $lint = run_command('eu-elflint', '--gnu-ld', $core);
    (my $complaints = $lint->{out}) =~ s/^phdr\[0\]: unknown core file note type .*\n//;
    is($complaints =~ s/^No errors\n//r, '', 'eu-elflint finds a note that it does not know, and nothing else');
}
SKIP: {
    skip 'no gdb', 3 unless have('gdb');
    my ($ring) = grep { $_->{head} == 120 } @{ $leaver->{rings} };
    my $gdb = run_command('gdb', '-q', '-batch', '-nx', '-ex', 'info threads', '-ex', "x/8wx $ring->{addr}", '-core', $core);
    like($gdb->{out}, qr/^$ring->{addr}:\s+0x0*@{[ sprintf '%x', $ring->{id} ]}\s+0x0000007f\s+0x00000078\s+0x00000004\n.*0xa10a10a1/m,
        'gdb reads a ring') or diag explain $gdb;
    my $threads = () = $gdb->{out} =~ /^[ *]+\d+\s+LWP \d+/mg;
    is($threads, scalar threads_of($pid), '... and shows every thread');
    unlike($gdb->{out} . $gdb->{err}, qr/warning: (?!core file may not match|Can't open file|.*(?:exec|symbol|auxv))/i, '... without a complaint') or diag explain $gdb;
}
end($leaver);

# ---- the process goes on ----

my @waits = qw(io_getevents io_pgetevents epoll_wait epoll_pwait poll eventfd semtimedop sigtimedwait recv socket-read send accept
    nanosleep futex pipe-read work);
my %right = map { $_ => 1 } @waits;
$right{$_} = 0 for qw(eventfd semtimedop);

my $waiting = leaver('--ring', 'n=1,head=3,tail=9', map { ('--wait', $_) } @waits);
my $file = fresh('.core');
my $failed = 0;
$failed += run_tool('dump', $waiting->{pid}, '-o', $file)->{status} != 0 for 1 .. 20;
is($failed, 0, 'twenty dumps of a process with a thread in each kind of wait');
tell($waiting, 'go');
my $back = json(answer($waiting) // '{}');
is($back->{$_}, $right{$_}, "... $_ comes back with what it waited for") for @waits;
end($waiting);

for my $threads (0, 7, 63) {
    my $process = leaver('--ring', 'n=1,head=3,tail=9', '--threads', $threads, '--leader-exits');
    my ($live) = grep { $_ != $process->{pid} && state_of("$process->{pid}/task/$_") ne 'Z' } threads_of($process->{pid});
    my $result = run_tool('dump', $process->{pid}, '-o', $file);
    is($result->{status}, 0, "a process whose leader has exited, $threads idle threads") or diag explain $result;
    is_rings($process, run_tool('list', $file, '--json'), '... its rings');
    my $count = () = slurp($file) =~ /CORE\0\0\0\0/g;
    is($count, $threads + 1, '... its threads');
    is_rings($process, run_tool('list', $process->{pid}, '--json'), '... list works, too');
    end($process);
}

# A signal with a handler that is about to run ends a wait, as it would have without us.
SKIP: {
    skip 'no syscall.ph for tgkill', 5 unless eval { require 'syscall.ph' };
    my $handler = leaver('--ring', 'n=1,head=3,tail=9', '--wait', 'epoll_wait', '--wait', 'io_getevents');
    my $pid = $handler->{pid};
    kill 'STOP', $pid;
    wait_until(sub { state_of($pid) eq 'T' });
    syscall(&SYS_tgkill, $pid, 0 + $_, POSIX::SIGUSR1()) for grep { $_ != $pid } threads_of($pid);
    is(run_tool('dump', $pid, '-o', $file)->{status}, 0, 'dump of a stopped process with signals pending');
    is(state_of($pid), 'T', '... it stays stopped');
    kill 'CONT', $pid;
    tell($handler, 'go');
    my $back = json(answer($handler) // '{}');
    is($back->{signals}, 2, '... then the handlers run');
    is($back->{$_}, -POSIX::EINTR(), "... and end $_") for qw(epoll_wait io_getevents);
    end($handler);
}

# Dumped by its own parent, which has asked to be told of stops.
my $child = leaver('--ring', 'n=1,head=3,tail=9');
my $reports = 0;
for (1 .. 20) {
    run_tool('dump', $child->{pid}, '-o', $file);
    $reports++ if waitpid $child->{pid}, POSIX::WNOHANG() | POSIX::WUNTRACED();
}
is($reports, 0, 'its parent sees no stop');
kill 'STOP', $child->{pid};
waitpid $child->{pid}, POSIX::WUNTRACED();
for (1 .. 20) {
    run_tool('dump', $child->{pid}, '-o', $file);
    $reports++ if waitpid $child->{pid}, POSIX::WNOHANG() | POSIX::WUNTRACED();
}
is($reports, 0, '... nor a second one when it was stopped already');
is(state_of($child->{pid}), 'T', '... which it stays');
kill 'CONT', $child->{pid};
tell($child, 'go');
ok(answer($child), '... until it is continued');
end($child);

# ---- in a loop, under load ----

my $storm = leaver('--ring', 'n=1,head=3,tail=9', '--ring', 'n=1,head=120,tail=4', '--storm', '--wait', 'work', '--wait', 'work',
    '--wait', 'io_getevents', '--wait', 'epoll_wait', '--wait', 'futex', '--wait', 'nanosleep');
my ($dumps, $end) = (0, time + ($SAN ? 4 : 3));
my @wrong;
while (time < $end) {
    my $result = run_tool('dump', $storm->{pid}, '-o', $file);
    push @wrong, $result->{err} if $result->{status};
    $dumps++;
}
is_deeply(\@wrong, [], "$dumps dumps while threads come and go and signals arrive");
is_rings($storm, run_tool('list', $file, '--json'), '... its rings');

# The loader killed, at any moment.
my $kills = 0;
$end = time + ($SAN ? 4 : 3);
while (time < $end) {
    my $loader = start({ quiet => 1 }, $TOOL, 'dump', $storm->{pid}, '-o', $file);
    sleep rand($SAN ? 0.06 : 0.008);
    end($loader);
    $kills++;
}
is_rings($storm, run_tool('list', $storm->{pid}, '--json'), "$kills dumps killed on the way: its rings");
wait_until(sub { !grep { state_of("$storm->{pid}/task/$_") =~ /[tT]/ } threads_of($storm->{pid}) });
ok(!(grep { state_of("$storm->{pid}/task/$_") =~ /[tT]/ } threads_of($storm->{pid})), '... no thread is left stopped');
tell($storm, 'go');
$back = json(answer($storm) // '{}');
is($back->{$_}, 1, "... $_ goes on") for qw(work futex nanosleep);
cmp_ok($back->{storms}, '>', 100, '... threads came and went');
is(run_tool('dump', $storm->{pid}, '-o', $file)->{status}, 0, '... and it can be dumped');

# ---- inside io_submit ----

my $said = answer($patient) . answer($patient);
like($said, qr/\Aaio-restorer: thread \d+ does not come out of io_submit: try again when its storage answers\nstatus 1\n\z/,
    'a thread that stays in io_submit: dump gives up');
end($patient);
$patient = start('sh', '-c', '"$@" 2>/dev/null; echo "status $?"', 'sh', $TOOL, 'dump', $stuck->{pid}, '-o', $file);
sleep 0.2;
tell($stuck, 'go');
is(json(answer($stuck) // '{}')->{io_submit}, 1, '... its request is not interrupted');
like(answer($patient), qr/1 ring|2 rings/, '... and a dump that waits for it succeeds');
is(answer($patient), "status 0\n", '... with exit status 0');
my $list = run_tool('list', $file, '--json');
# The ring of the thread that was in there may have its event already.
$list->{out} =~ s/"head":0,"tail":1,"pending":1,([^\[]*)"events":\[\{"data":"0x0",[^\]]*\]/"head":0,"tail":0,"pending":0,$1"events":[]/;
is_rings($stuck, $list, '... the rings');
end($_) for $patient, $stuck;

done_testing;
