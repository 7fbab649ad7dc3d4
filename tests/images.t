#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# list, run and check of folders that CRIU has made: of live rings, of staged ones, of several processes, and
# of dumps on top of others.
use strict;
use warnings;
no warnings 'portable';    # addresses have 64 bits
use lib 'tests';
use Cli;
use Images;
use JSON::PP ();
use POSIX ();
use Test::More;

my ($HOST) = (POSIX::uname())[4];
my ($criu, $why) = find_criu();
plan skip_all => $why if !$criu;

# A folder of a process, or of several; whatever keeps CRIU from it is no fault of ours.
sub dumped
{
    my ($name, @options) = @_;
    my ($folder, $why) = criu_dump($criu, 'dump', @options);
    diag("CRIU cannot dump $name: $why") if !$folder;
    return $folder;
}

# The rings of each process, by pid.
sub rings_of
{
    my ($result) = @_;
    my $json = json($result->{out}) // {};
    return { map { $_->{pid} => $_->{rings} } $json->{processes} ? @{ $json->{processes} } : $json };
}

# ---- live rings ----

my $leaver = leaver('--ring', 'n=1,head=3,tail=9', '--ring', 'n=1,head=120,tail=4', '--ring', 'n=500,head=800,tail=20', '--ring', 'n=1,head=5,tail=5');
my $folder = dumped('live rings', $leaver->{pid}, '-R');
SKIP: {
    skip 'CRIU cannot dump them', 8 if !$folder;
    my $listed = run_tool('list', $folder, '--json');
    is_rings($leaver, $listed, 'live rings: list');
    my $image = json($listed->{out});
    is("$image->{pid} $image->{machine} $image->{page_size}", "$leaver->{pid_inside} $HOST " . POSIX::sysconf(POSIX::_SC_PAGESIZE()), '... pid, machine and page size');
    is_deeply([ map { $_->{state} } @{ $image->{rings} } ], [ ('live') x 4 ], '... live');
    is($listed->{out}, run_tool('list', $leaver->{pid}, '--json')->{out}, '... as the process itself has them');
    my $result = run_tool('run', $folder, '--json');
    is_rings($leaver, $result, '... run');
    is((() = $result->{out} =~ /"restored":true/g), 4, '... restored');
    like(run_tool('check', $folder)->{out}, qr/^\Q$folder\E +4 rings, all can be restored here$/m, '... check');
    like(run_tool('list', "$folder/", '--events')->{out}, qr/\Aprocess \d+, $HOST: 4 rings\n\nring .*\n    slot 3: data 0x/s, '... as text');
}
end($leaver);

# ---- staged ones ----

# Stages it, dumps it, and compares what the folder says with what the process said.
sub staged_is
{
    my ($name, $pid, @options) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $stage = run_tool('stage', $pid);
    is($stage->{status}, 0, "$name: stage") or diag $stage->{err};
    my $live = run_tool('list', $pid, '--json');
    my $folder = dumped($name, $pid, '-R', @options);
  SKIP: {
        skip 'CRIU cannot dump it', 3 if !$folder;
        my $listed = run_tool('list', $folder, '--json');
        is($listed->{out}, $live->{out}, '... listed as the parked process is') or diag $listed->{err};
        like($listed->{out}, qr/"state":"staged"/, '... staged');
        my $run = run_tool('run', $folder, '--json');
        is_deeply(events_of($run), events_of($live), '... run: its events come') or diag $run->{err};
    }
    return $folder;
}

sub events_of { my ($result) = @_; return [ map { [ $_->{addr}, $_->{events} ] } @{ (json($result->{out}) // {})->{rings} // [] } ] }

$leaver = leaver('--ring', 'n=1,head=3,tail=9', '--ring', 'n=500,head=800,tail=20', '--flight');
my $staged = staged_is('a staged process', $leaver->{pid});
like(run_tool('list', $staged)->{out}, qr/^ring 0x[0-9a-f]+, staged: \d+ slots, \d+ pending, 1 poll remembered/m, '... with its poll') if $staged;
run_tool('restore', $leaver->{pid});
end($leaver);

# The plugin stages what CRIU dumps.
SKIP: {
    my $plugins = fresh('.plugins');
    skip 'the plugin is not built', 3 if !-e "$BUILD/aio_restorer.so" || $SAN;
    mkdir $plugins;
    spit("$plugins/aio_restorer.so", slurp("$BUILD/aio_restorer.so"));
    my $leaver = leaver('--ring', 'n=1,head=3,tail=9', '--ring', 'n=500,head=800,tail=20', '--flight', '--threads', 2);
    my $folder = dumped('with the plugin', $leaver->{pid}, '-R', '--libdir', $plugins);
    skip 'CRIU cannot dump it', 3 if !$folder;
    my $listed = run_tool('list', $folder, '--json');
    is_rings($leaver, $listed, 'a dump that the plugin has staged: list');
    is_deeply([ sort map { "$_->{state} $_->{polls}" } @{ (json($listed->{out}) // {})->{rings} } ], [ 'staged 0', 'staged 1' ], '... staged, with a poll');
    is_rings($leaver, run_tool('run', $folder, '--json'), '... run');
    end($leaver);
}

# A process of 32 bits is one of its own architecture.
SKIP: {
    skip 'no 32-bit programs can be built here', 4 if !-x "$BUILD/tests/worker-i386";
    my $worker = worker({ arch => 'i386' }, '--quiet', '--rings', 2, '--inflight', 'zeros=5,polls=1');
    skip 'no 32-bit programs run here', 4 if !$worker;
    staged_is('a 32-bit process', $worker->{pid});
    end($worker);
}

# ---- on top of another dump ----

# By hand: each other page is moved into a parent, and that one's into another.
SKIP: {
    skip 'CRIU cannot dump it', 5 if !$staged;
    my ($pid) = map { m{/mm-(\d+)\.img$} } glob "$staged/mm-*.img";
    my $expected = run_tool('list', $staged, '--json')->{out};
    my @folders = map { fresh('.images') } 1 .. 3;
    mkdir $_ for @folders;
    system 'cp', "$staged/inventory.img", $_ for @folders;
    system 'cp', "$staged/mm-$pid.img", "$staged/core-$pid.img", $folders[0];
    my (undef, @entries) = read_messages("$staged/pagemap-$pid.img");
    my ($pages) = map { slurp($_) } glob "$staged/pages-*.img";
    my @written = map { [ pack_fields([ 1, 7 ]) ] } @folders;
    my @moved = ('') x 3;
    my ($at, $n) = (0, 0);
    for my $entry (@entries) {
        my %field = map { $_->[0] => $_->[1] } fields($entry);
        for my $page (0 .. ($field{5} // $field{2}) - 1) {
            my $where = $n++ % 3;
            for my $i (0 .. $where) {
                push @{ $written[$i] }, pack_fields([ 1, $field{1} + 4096 * $page ], [ 2, 0 ], [ 4, $i == $where ? $PRESENT : $PARENT ], [ 5, 1 ]);
            }
            $moved[$where] .= substr $pages, $at, 4096;
            $at += 4096;
        }
    }
    for my $i (0 .. 2) {
        write_messages("$folders[$i]/pagemap-$pid.img", 'pagemap', @{ $written[$i] });
        spit("$folders[$i]/pages-7.img", $moved[$i]);
        symlink $folders[ $i + 1 ] =~ s{.*/}{../}r, "$folders[$i]/parent" if $i < 2;
    }
    is(run_tool('list', $folders[0], '--json')->{out}, $expected, 'pages in a parent, and in its parent: list');
    is(run_tool('run', $folders[0])->{status}, 0, '... run');
    refuses('... of the parent alone', 1, qr/\Q$folders[1]\E: has no mm-PID\.img: a pre-dump's folder/, 'list', $folders[1]);
    unlink "$folders[1]/parent";
    refuses('... without the last', 1, qr{\Q$folders[0]\E/parent/parent: No such file}, 'list', $folders[0]);
    rename "$folders[0]/parent", "$folders[0]/x";
    refuses('... without any', 1, qr{\Q$folders[0]\E/parent: No such file}, 'list', $folders[0]);
}
# By CRIU.
SKIP: {
    skip 'this kernel tells nobody which pages were written to (CONFIG_MEM_SOFT_DIRTY)', 5
        if run_command($criu, 'check', '--feature', 'mem_dirty_track')->{status};
    my $leaver = leaver('--ring', 'n=1,head=3,tail=9', '--ring', 'n=500,head=800,tail=20');
    run_tool('stage', $leaver->{pid});
    my ($before, $why) = criu_dump($criu, 'pre-dump', $leaver->{pid}, '--track-mem');
    diag("CRIU cannot pre-dump it: $why") if !$before;
    skip 'CRIU cannot pre-dump it', 5 if !$before;
    my $folder = staged_is('a dump on top of a pre-dump', $leaver->{pid}, '--track-mem', '--prev-images-dir', $before =~ s{.*/}{../}r);
    ok(!$folder || -l "$folder/parent", '... it has a parent');
    end($leaver);
}

# ---- several processes ----

# A shell, which has no rings, and two children: one that is live, and one that is staged.
SKIP: {
    my @logs = map { fresh('.log') } 1, 2;
    my $shell = start('sh', '-c', '"$1" --quiet --rings 2 --inflight zeros=5 >"$2" 2>&1 & "$1" --quiet --rings 1 --inflight zeros=9,polls=1 >"$3" & wait',
        'sh', "$BUILD/tests/worker", @logs);
    my @pids;
    wait_until(sub {
        @pids = sort { $a <=> $b } split ' ', slurp("/proc/$shell->{pid}/task/$shell->{pid}/children");
        return @pids == 2 && !grep { slurp($_) !~ /^ok/m } @logs;
    });
    my ($staged) = grep { slurp("/proc/$_/cmdline") =~ /polls/ } @pids;
    is(run_tool('stage', $staged)->{status}, 0, 'one of several processes: stage');
    my %live = map { $_ => rings_of(run_tool('list', $_, '--json'))->{$_} } $shell->{pid}, @pids;
    # CRIU ends nanosleep with EINTR, which a worker does not put up with.
    my $folder = dumped('several processes', $shell->{pid}, '-R');
    kill 'KILL', @pids;
    end($shell);
    skip 'CRIU cannot dump them', 6 if !$folder;
    my $listed = run_tool('list', $folder, '--json');
    is_deeply(rings_of($listed), \%live, '... the folder: list, each with its rings') or diag $listed->{err};
    is(join(' ', map { $_->{pid} } @{ json($listed->{out})->{processes} }), join(' ', sort { $a <=> $b } keys %live), '... in order of their pids');
    my $run = json(run_tool('run', $folder, '--json')->{out}) // {};
    is_deeply([ map { [ map { $_->{events} } @{ $_->{rings} } ] } @{ $run->{processes} } ],
        [ map { [ map { $_->{events} } @{ $live{$_} } ] } sort { $a <=> $b } keys %live ], '... run: the events of each');
    like(run_tool('check', $folder)->{out}, qr/^\Q$folder\E +3 rings, all can be restored here$/m, '... check: all of them');
    my $text = run_tool('list', $folder)->{out};
    is(join(' ', $text =~ /^process (\d+), $HOST: (?:\d rings?|no AIO rings)$/mg), join(' ', sort { $a <=> $b } keys %live), '... as text, one after the other') or diag $text;
    my $holder = hold_all_but(2);
    skip 'fs.aio-max-nr leaves too few, or others use it, too', 1 unless $holder;
    refuses('... check where there is no room for all of them', 4, qr/the rings need 3 of fs\.aio-max-nr/, 'check', $folder);
    end($holder);
}
is_deeply([ own_processes() ], [], 'no process is left');

done_testing;
