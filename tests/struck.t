#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# What tests/killed.t does not kill, or ends in another way: dump, list and run; by signals that ask it to end; a terminal
# and a pipe that go away; CRIU with the plugin; a tool that holds the threads itself; and what then lies about.
#
#   tests/struck.t [PART]...    only these: see the end
#
# FAULTS, SEED: see tests/Strike.pm.
use strict;
use warnings;
use lib 'tests';
use Cli;
use Criu;
use Cwd ();
use JSON::PP ();
use POSIX ();
use Strike;
use Test::More;
use Time::HiRes qw(sleep time);

my %signals = (TERM => POSIX::SIGTERM(), INT => POSIX::SIGINT(), HUP => POSIX::SIGHUP());
# What comes before the tool has looked at anything is the dynamic linker's.
my $first = calls_of($TOOL, '--version');

# All cases of a kind must have come out right, and it must have happened at all.
sub verdict
{
    my ($name, $wrong, $ends) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $cases = 0;
    $cases += $_ for values %$ends;
    is_deeply($wrong, [], "$name, $cases times: " . join ', ', map { "$_: $ends->{$_}" } sort keys %$ends) or diag("SEED=$SEED");
    return;
}

# What `list` says: how many rings are in which state, or what was wrong.
sub listed
{
    my ($pid) = @_;
    my $result = run_tool('list', '--json', $pid);
    return "list: $result->{err}" if $result->{status};
    my %states;
    $states{ $_->{state} }++ for @{ json($result->{out})->{rings} };
    return join ', ', map { "$states{$_} $_" } sort keys %states;
}

sub is_staged { my ($pid) = @_; return slurp("/proc/$pid/maps") !~ /\[aio\]/ }

# Head and tail of the first ring, and all its events.
sub ring_of
{
    my ($pid) = @_;
    my ($ring) = @{ (json(run_tool('list', $pid, '--json')->{out}) // {})->{rings} // [] };
    return $ring ? ("$ring->{nr} $ring->{head} $ring->{tail}", JSON::PP->new->canonical->encode($ring->{events})) : ('none', '');
}

# ---- dump, list, run ----

sub files_in { my ($folder) = @_; opendir my $dir, $folder or return; return sort grep { !/^\.\.?$/ } readdir $dir }

sub dump_killed
{
    my $worker = worker('--rings', 3, '--threads', 3);
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my $folder = fresh();
    mkdir $folder or die "$folder: $!";
    my $core = "$folder/core";
    for my $is_there (0, 1) {
        my (%ends, @wrong);
        run_tool('dump', $pid, '-o', $core);
        my $old = slurp($core);
        my $last = calls_of($TOOL, 'dump', $pid, '-o', $core);
        for my $n (draw(15, $first .. $last + 5)) {
            $is_there ? spit($core, $old) : unlink $core;
            my $result = strike('--kill', $n, $TOOL, 'dump', $pid, '-o', $core);
            my $case = "call $n ($result->{call})";
            $ends{ $result->{status} == 137 ? 'killed' : $result->{status} }++;
            push @wrong, "$case: $result->{status} $result->{err}" if $result->{status} !~ /^(?:0|137)$/;
            # A file cannot be given the name of another one: for a moment it has one of its own.
            my @files = grep { $_ ne 'core' } files_in($folder);
            push @wrong, "$case: it has left @files" if @files > $is_there;
            push @wrong, "$case: it has left a part of a file"
                if grep { run_tool('list', "$folder/$_")->{status} } files_in($folder);
            push @wrong, "$case: the old file is gone" if $is_there && !-e $core;
            unlink map { "$folder/$_" } @files;
            my $again = run_tool('dump', $pid, '-o', $core);
            push @wrong, "$case: dump: $again->{err}" if $again->{status} || run_tool('list', $core)->{status};
            my $why = why_not_well($worker, $before);
            push @wrong, "$case: $why" if $why;
            last if @wrong > 2;
        }
        verdict('dump killed' . ($is_there ? ' that replaces a file' : ''), \@wrong, \%ends);
        ok($ends{killed}, '... killed');
    }
    goes_on($worker, '... it goes on');
    my (%ends, @wrong);
    my @commands = (['list', $pid], ['list', $core], ['run', $core]);
    for my $command (@commands) {
        my $last = calls_of($TOOL, @$command);
        for my $n (draw(5, $first .. $last)) {
            # (strike ends when all that it follows have ended: so nobody is left.)
            my $result = strike({ seconds => 20 }, '--kill', $n, $TOOL, @$command);
            $ends{ $result->{status} == 137 ? 'killed' : $result->{status} }++;
            push @wrong, "$command->[0], call $n ($result->{call}): $result->{status} $result->{err}" if $result->{status} !~ /^(?:0|137)$/;
            my $why = why_not_well($worker, $before);
            push @wrong, "$command->[0], call $n ($result->{call}): $why" if $why;
            last if @wrong > 2;
        }
    }
    verdict('list and run killed', \@wrong, \%ends);
    ok($ends{killed}, '... killed');
    ends_well($worker, '... each request has had its event');
    return;
}

# ---- asked to end ----

# Ended so, it says what has become of the process; and that is so.
sub why_not_as_said
{
    my ($status, $command, $pid) = @_;
    my $signaled = $status > 128;
    return if $signaled;
    return "exit status $status" if $status !~ /^[013]$/;
    # (The drain goes on, and may have come no farther than its first steps.)
    return 'exit status 3, and it is not parked' if $status == 3 && !wait_until(sub { is_staged($pid) }, 20);
    return 'exit status 1, and it is staged' if $status == 1 && $command eq 'stage' && is_staged($pid);
    return 'exit status 1, and it is not staged' if $status == 1 && $command eq 'restore' && !is_staged($pid);
    return 'exit status 0, and it is not staged' if $status == 0 && $command eq 'stage' && !is_staged($pid);
    return 'exit status 0, and it is staged' if $status == 0 && $command eq 'restore' && is_staged($pid);
    return;
}

sub signaled
{
    my $worker = worker('--rings', 3, '--threads', 3);
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my $core = fresh('.core');
    for my $signal (sort keys %signals) {
        for my $command ('stage', 'restore', 'dump') {
            my @command = ($command, $pid, $command eq 'dump' ? ('-o', $core) : ());
            my (%ends, @wrong);
            run_tool('stage', $pid) if $command eq 'restore';
            my $last = calls_of($TOOL, @command);
            run_tool('restore', $pid);
            my @cases = map { [ '--signal', $_ ] } draw(8, $first .. $last + 5);
            # The file that takes the place of another one has a name of its own for a moment.
            if ($command eq 'dump') {
                run_tool(@command);
                push @cases, map { [ '--only', 'linkat', '--signal', $_ ] } 1, 2;
            }
            for my $when (@cases) {
                run_tool('stage', $pid) if $command eq 'restore';
                my $result = strike(@$when, $signals{$signal}, $TOOL, @command);
                my $case = "@$when ($result->{call})";
                $ends{ $result->{status} }++;
                my $why = why_not_as_said($result->{status}, $command, $pid);
                push @wrong, "$case: $why: $result->{err}" if $why;
                push @wrong, "$case: it says nothing" if $result->{status} =~ /^[13]$/ && $result->{err} !~ /\Aaio-restorer: .*\n\z/;
                push @wrong, "$case: ended by another signal: $result->{status}" if $result->{status} > 128 && $result->{status} != 128 + $signals{$signal};
                my @left = glob "$core.*";
                push @wrong, "$case: it has left @left" if @left;
                unlink @left;
                my $finished = run_tool('restore', $pid);
                push @wrong, "$case: restore: $finished->{err}" if $finished->{status};
                $why = why_not_well($worker, $before);
                push @wrong, "$case: $why" if $why;
                last if @wrong > 2;
            }
            verdict("$command gets SIG$signal", \@wrong, \%ends);
        }
    }
    ends_well($worker, '... each request has had its event');
    return;
}

# ---- what it writes to goes away ----

# A new terminal: its master, and the name of the other end. asm-generic/ioctls.h.
sub terminal
{
    my ($number, $unlock) = (pack('I', 0), pack('I', 0));
    open my $master, '+<', '/dev/ptmx' or return;
    ioctl($master, 0x40045431, $unlock) && ioctl($master, 0x80045430, $number) or return;
    return ($master, '/dev/pts/' . unpack 'I', $number);
}

# The tool on a terminal of its own, which goes away after a while.
sub run_on_terminal
{
    my ($moment, @command) = @_;
    my ($master, $name) = terminal() or return;
    # The other end of a pipe is closed when the tool is executed: then it has its terminal.
    pipe my $ready, my $until or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        POSIX::setsid();
        close $master;
        open STDIN, '+<', $name or POSIX::_exit(126);
        open STDOUT, '>&', \*STDIN;
        open STDERR, '>&', \*STDIN;
        exec @command or POSIX::_exit(127);
    }
    end_later($pid);
    close $until;
    readline $ready;
    sleep $moment;
    close $master;
    my $status;
    wait_until(sub { waitpid($pid, POSIX::WNOHANG()) == $pid && defined($status = $?) }, 30);
    return !defined $status ? 'hangs' : $status & 127 ? 128 + ($status & 127) : $status >> 8;
}

sub gone_away
{
    my $worker = worker('--rings', 3, '--threads', 3);
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my %most = (stage => 0.08, restore => 0.03, dump => 0.03);
    my $core = fresh('.core');
    my $times = $FAULTS // 12;
    $times = 100 if $times eq 'all';
    for my $command ('stage', 'restore', 'dump') {
        my @command = ($TOOL, $command, $pid, $command eq 'dump' ? ('-o', $core) : '--verbose');
        my (%ends, @wrong);
        for my $round (1 .. $times) {
            run_tool('stage', $pid) if $command eq 'restore';
            # Sometimes it has gone before anything is written: then writing fails.
            my $status = run_on_terminal($round % 3 ? rand $most{$command} : 0, @command) // 'none';
            $ends{$status}++;
            push @wrong, "round $round: $status" if $status !~ /^(?:[0134]|129)$/;
            my $finished = run_tool('restore', $pid);
            push @wrong, "round $round: $status: restore: $finished->{err}" if $finished->{status};
            my $why = why_not_well($worker, $before);
            push @wrong, "round $round: $status: $why" if $why;
            last if @wrong > 2;
        }
        verdict("$command, whose terminal is closed", \@wrong, \%ends);
    }
    my (%ends, @wrong);
    for my $command (['stage', $pid], ['list', $pid], ['restore', $pid], ['dump', $pid, '-o', $core], ['stage', $pid, '--json'], ['restore', $pid, '--verbose']) {
        my $result = run_command({ before => sub {
            pipe my $from, my $to or POSIX::_exit(125);
            open STDOUT, '>&', $to;
            close $_ for $from, $to;
            $SIG{PIPE} = 'DEFAULT';
        } }, $TOOL, @$command);
        $ends{"@$command[0] " . ($result->{signal} ? "signal $result->{signal}" : $result->{status})}++;
        push @wrong, "@$command: $result->{status} $result->{signal} $result->{err}" if $result->{signal} != POSIX::SIGPIPE();
        push @wrong, "@$command: it has not been done" if $command->[0] =~ /stage|restore/ && is_staged($pid) != ($command->[0] eq 'stage');
    }
    verdict('into a pipe that nobody reads', \@wrong, \%ends);
    my $why = why_not_well($worker, $before);
    is($why, undef, '... it goes on as it was');
    ends_well($worker, '... each request has had its event');
    return;
}

# ---- CRIU ----

# CRIU runs an int3 at the end of its own code in there: killed meanwhile it ends a process by SIGTRAP, with the plugin or
# without. Returns the signal that has ended a worker, or nothing.
sub ended_by
{
    my ($worker, $seconds) = @_;
    wait_until(sub { has_ended($worker->{pid}) }, $seconds) or return;
    return waitpid($worker->{parent}, 0) == $worker->{parent} ? $? & 127 : 0;
}

# What can be seen of a process, but for what is CRIU's own: killed, it leaves its code mapped in there, and a socket.
sub look_without_criu { my ($pid) = @_; return join "\n", grep { !m{/memfd:CRIUMFD} } split /\n/, look_of($pid) =~ s/^descriptors.*//mgr }

sub why_not_on
{
    my ($worker, $before) = @_;
    my $pid = $worker->{pid};
    return if wait_until(sub { look_without_criu($pid) eq $before }, 10) && goes_on_quietly($worker) && !has_journal($pid);
    return 'it has ended' if has_ended($pid);
    my %before = map { $_ => 1 } split /\n/, $before;
    return join ' | ', 'it does not go on', (grep { /VIOLATION/ } lines_of($worker)), grep { !$before{$_} } split /\n/, look_without_criu($pid);
}

sub criu_dump_killed
{
    my ($name, @options) = @_;
    my $made = 0;
    my $new = sub { $made++; return worker_alone('--rings', 3, '--threads', 2) };
    my $worker = $new->();
    my $before = look_without_criu($worker->{pid});
    my (%ends, @wrong);
    my @calls = calls_that_matter('--alone', criu_command('dump', images(), 0, '-t', $worker->{pid}, '-R'));
    for my $n (draw(8, @calls)) {
        my $folder = images();
        my $pid = $worker->{pid};
        my $result = strike('--alone', '--kill', $n, criu_command('dump', $folder, 0, '-t', $pid, @options));
        my $case = "call $n ($result->{call})";
        my $is_killed = $result->{status} == 137;
        push @wrong, "$case: $result->{status} " . said($folder, 'dump') if !$is_killed && $result->{status};
        # CRIU had begun to end it, or has: then all is in the images.
        my $signal = ended_by($worker, @options ? 0.05 : 1);
        if (defined $signal && $signal == POSIX::SIGKILL() && !@options) {
            $ends{'ended by CRIU'}++;
            my $why = criu_restore($worker, $folder);
            push @wrong, "$case: ended, and the images are not whole: $why" if $why;
            my $well = $why || ($worker->{criu} && goes_on_quietly($worker));
            push @wrong, "$case: restored, it does not go on" if !$well;
            end($worker);
            end($worker->{criu}) if $worker->{criu};
            $worker = $new->();
            $before = look_without_criu($worker->{pid});
        } else {
            wait_until(sub { slurp("/proc/$pid/status") =~ /^TracerPid:\s+0$/m }, 20);
            my $is = is_staged($pid) ? 'parked' : 'live';
            my $finished = run_tool('restore', $pid);
            my $why = $finished->{status} ? "restore: $finished->{err}" : why_not_on($worker, $before);
            if ($why && ($signal // ended_by($worker, 1) // 0) == POSIX::SIGTRAP()) {
                $is = 'ended by CRIU\'s SIGTRAP';
                $why = undef;
            }
            $ends{$is}++;
            push @wrong, "$case, $is: $why" if $why;
            if ($why || $is =~ /SIGTRAP/) {
                end($worker);
                $worker = $new->();
                $before = look_without_criu($worker->{pid});
            }
        }
        last if @wrong > 2;
    }
    verdict("CRIU killed, $name", \@wrong, \%ends);
    ends_well($worker, '... each request has had its event');
    return %ends;
}

sub goes_on_quietly
{
    my ($worker) = @_;
    my $count = () = slurp($worker->{log}) =~ /^ok/mg;
    return wait_until(sub { (() = slurp($worker->{log}) =~ /^ok/mg) > $count }, 20) && slurp($worker->{log}) !~ /VIOLATION/;
}

# Killed while it restores, CRIU leaves nobody, or one that it had not finished; the images can be used again. As soon as it
# had, what the plugin had begun is finished by the tool.
sub criu_restore_killed
{
    my $worker = worker_alone('--rings', 3, '--threads', 2);
    my (%ends, @wrong);
    my $dump = criu_dump($worker);
    is($dump->{status}, 0, 'dumped, for CRIU to be killed while it restores') or return;
    my @command = criu_command('restore', $dump->{folder}, 0, '--pidfile', 'pid', '-d');
    my $pid = $worker->{pid};
    my @calls = calls_that_matter('--alone', @command);
    # (The run without a death has restored it.)
    kill 'KILL', $pid;
    wait_until(sub { !-e "/proc/$pid" }, 20);
    for my $n (draw(8, @calls)) {
        unlink "$dump->{folder}/pid";
        my $result = strike({ seconds => 30 }, '--alone', '--kill', $n, @command);
        my $case = "call $n ($result->{call})";
        push @wrong, "$case: $result->{status} " . said($dump->{folder}, 'restore') if $result->{status} != 137 && $result->{status};
        wait_until(sub { slurp("/proc/$pid/status") !~ /^TracerPid:\s+[1-9]/m }, 20);
        # It is itself again when its memory is: before that CRIU's own code waits in there for CRIU.
        my $is_itself = !has_ended($pid) && slurp("/proc/$pid/maps") =~ m{/worker$}m
            && slurp("$dump->{folder}/restore.log") =~ /Run late stage hook|aio_restorer: |Restore finished/;
        if (!$is_itself) {
            $ends{'not made'}++;
        } else {
            my $is = is_staged($pid) ? 'parked' : 'live';
            my $finished = run_tool('restore', $pid);
            my $is_well = !$finished->{status} && goes_on_quietly($worker);
            # (The same int3, at the end of its code that unmaps the rest of CRIU's.)
            $is = 'ended by itself' if !$is_well && has_ended($pid);
            $ends{$is}++;
            push @wrong, "$case, $is: $finished->{err}" . lines_last($worker) if !$is_well && $is ne 'ended by itself';
        }
        kill 'KILL', $pid;
        wait_until(sub { !-e "/proc/$pid" }, 20);
        last if @wrong > 2;
    }
    verdict('CRIU killed while it restores', \@wrong, \%ends);
    my $why = criu_restore($worker, $dump->{folder});
    is($why, undef, '... the images can be restored after that');
    goes_on($worker, '... it goes on') if !$why;
    return;
}

sub lines_last { my ($worker) = @_; return join ' | ', (grep { !/^ok/ } lines_of($worker))[-2 .. -1] }

sub criu
{
  SKIP: {
        my $why = why_no_criu();
        skip "CRIU: $why", 1 if $why;
        my %ends = (criu_dump_killed('while it dumps what is to run on', '-R'), criu_dump_killed('while it dumps'));
        ok($ends{parked} && $ends{live}, '... at which some were parked, and some live');
        criu_restore_killed();
    }
    return;
}

# ---- a tool that holds the threads itself ----

# It is quiet: let go by the death of who holds its threads, it finds no ring until they are restored.
sub tracer_killed
{
    my $tracer = "$BUILD/tests/tracer";
    my $worker = worker('--quiet', '--rings', 3, '--threads', 2, '--inflight', 'polls=3,reads=4,zeros=2');
    my $pid = $worker->{pid};
    # All that is not a poll is pending by then.
    wait_until(sub { run_tool('list', $pid)->{out} =~ /(?:6 pending.*){3}/s }, 20);
    my $before = look_of($pid);
    my %seen;
    for my $options ('', '--restores', '--parks', '--parks --restores') {
        my @command = ($tracer, $pid, split / /, $options);
        my (%ends, @wrong);
        my $last = calls_of(@command);
        run_tool('restore', $pid);
        for my $n (draw(14, $first .. $last + 5)) {
            my $again = int rand 2;
            my $result = strike('--kill', $n, @command);
            my $case = "call $n ($result->{call})";
            push @wrong, "$case: $result->{status} $result->{err}" if $result->{status} !~ /^(?:0|137)$/;
            wait_until(sub { slurp("/proc/$pid/status") =~ /^TracerPid:\s+0$/m }, 20);
            my $is = is_staged($pid) ? 'staged' : 'live';
            $ends{ ($result->{status} == 137 ? 'killed' : 'done') . ", $is" }++;
            my $listed = listed($pid);
            push @wrong, "$case: $listed" if $listed =~ /list:/;
            my $staged = $again ? run_tool('stage', $pid) : { status => 0 };
            push @wrong, "$case, $is: stage: $staged->{err}" if $staged->{status};
            my $finished = run_tool('restore', $pid);
            push @wrong, "$case, $is: restore: $finished->{err}" if $finished->{status};
            my $why = why_not_well($worker, $before);
            push @wrong, "$case, $is: $why" if $why;
            last if @wrong > 2;
        }
        verdict("a tool that holds the threads killed ($options)", \@wrong, \%ends);
        $seen{ /staged/ ? 'staged' : 'live' } += $ends{$_} for keys %ends;
    }
    ok($seen{live} && $seen{staged}, '... before and behind the drain');
    ends_well($worker, '... each request has had its event');
    return;
}

# ---- looked at twice ----

# The first one dies when a thread is where the program never was, which its journal says; the second one while it puts that
# thread back.
sub put_back_twice
{
    my $worker = worker('--rings', 2, '--threads', 12);
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my @numbers;
    for my $call ('linkat', 'unlinkat') {
        push @numbers, map { / (\d+)\(/ } (log_of('--only', $call, $TOOL, 'stage', $pid))[0];
        run_tool('restore', $pid);
    }
    # The shortest of some: how often a tool looks whether all threads stand is not the same each time.
    my @logs;
    for (1 .. 3) {
        push @logs, [ log_of($TOOL, 'stage', $pid) ];
        run_tool('restore', $pid);
    }
    my @calls = @{ (sort { @$a <=> @$b } @logs)[0] };
    my ($named, $removed) = map { my $nr = $_; (grep { $calls[$_] =~ / $nr\(/ } 0 .. $#calls)[0] } @numbers;
    my (%ends, @wrong);
    for my $only ('setsigmask', 'setregset') {
        for my $n (draw(15, $named + 2 .. $removed + 5)) {
            my $result = strike('--kill', $n, $TOOL, 'stage', $pid);
            # It may have come to its end before that, and have none any more.
            my $has_journal = journal($pid);
            my $case = "call $n ($result->{call})";
            $result = strike('--only', $only, '--kill', 1 + int rand 4, $TOOL, (qw(stage restore))[ rand 2 ], $pid);
            $ends{ ($has_journal ? '' : 'no journal, ') . ($result->{status} == 137 ? 'killed twice' : 'killed') }++;
            for my $finish ('stage', 'restore') {
                my $finished = run_tool($finish, $pid);
                push @wrong, "$case, $only: $finish: $finished->{err}" if $finished->{status};
            }
            my $why = why_not_well($worker, $before);
            push @wrong, "$case, $only: $why" if $why;
            last if @wrong;
        }
    }
    verdict('two tools killed, the second one while it puts a thread back', \@wrong, \%ends);
    ok($ends{'killed twice'}, '... that is where it was killed');
    ends_well($worker, '... each request has had its event');
    return;
}

# Any thread may be the one that works, and be it again when somebody else looks. {heir}: it is a child, which has a pid of its own.
sub looked_at_twice
{
    my %kinds = (
        'whose first thread has exited' => ['--rings', 2, '--threads', 3, '--state', 'leader-exits'],
        'of one thread'                 => ['--rings', 1, '--threads', 1],
        'of many threads'               => ['--rings', 2, '--threads', 12],
        'that is stopped'               => ['--rings', 2, '--threads', 3],
    );
    for my $kind (sort keys %kinds) {
        my $worker = worker(@{ $kinds{$kind} });
        my $pid = $worker->{pid};
        if ($kind =~ /stopped/) {
            kill 'STOP', $pid;
            wait_until(sub { state_of($pid) eq 'T' });
        }
        my $before = look_of($pid);
        my (%ends, @wrong);
        for my $command ('stage', 'restore') {
            run_tool('stage', $pid) if $command eq 'restore';
            my $last = calls_of($TOOL, $command, $pid);
            run_tool('restore', $pid);
            for my $n (draw(5, $first .. $last + 5)) {
                run_tool('stage', $pid) if $command eq 'restore';
                my $result = strike('--kill', $n, $TOOL, $command, $pid);
                my $case = "$command, call $n ($result->{call})";
                # Whoever comes next dies, too.
                my $second = strike('--kill', $first + int rand($last - $first), $TOOL, (qw(stage restore))[ rand 2 ], $pid);
                $case .= ", then ($second->{call})";
                my $listed = listed($pid);
                $ends{ ($result->{status} == 137 ? 'killed' : $result->{status}) . ($second->{status} == 137 ? ' twice' : '') }++;
                push @wrong, "$case: $listed" if $listed =~ /list:/;
                for my $finish ('stage', 'stage', 'restore') {
                    my $finished = run_tool($finish, $pid);
                    push @wrong, "$case: $finish: $finished->{err}" if $finished->{status};
                }
                my $why = why_not_well($worker, $before);
                push @wrong, "$case: $why" if $why;
                last if @wrong > 2;
            }
        }
        verdict("two tools killed, one behind the other, at a process $kind", \@wrong, \%ends);
        if ($kind =~ /stopped/) {
            is(state_of($pid), 'T', '... it is stopped still');
            kill 'CONT', $pid;
            goes_on($worker, '... and goes on when it is continued');
        }
        ends_well($worker, '... each request has had its event');
    }
    return;
}

# A blob of a process that is stopped stands still when its tool dies, and begins when somebody looks.
sub stopped
{
    my $worker = worker('--rings', 2, '--threads', 3);
    my $pid = $worker->{pid};
    kill 'STOP', $pid;
    wait_until(sub { state_of($pid) eq 'T' });
    my $before = look_of($pid);
    for my $command ('stage', 'restore') {
        my (%ends, @wrong);
        for my $only ('cont', 'setsigmask', 'setregset') {
            run_tool('stage', $pid) if $command eq 'restore';
            my $calls = log_of('--only', $only, $TOOL, $command, $pid);
            run_tool('restore', $pid);
            for my $case (map { ([ $_, 'stage' ], [ $_, 'restore' ]) } draw(8, 1 .. $calls)) {
                my ($n, $finish) = @$case;
                my $name = "$only $n of $calls, $finish";
                run_tool('stage', $pid) if $command eq 'restore';
                my $result = strike('--only', $only, '--kill', $n, $TOOL, $command, $pid);
                my $finished = run_tool($finish, $pid);
                push @wrong, "$name: $finished->{err}" if $finished->{status};
                $ends{ ($result->{status} == 137 ? 'killed' : $result->{status}) . ", then $finish" }++;
                if ($finish eq 'stage') {
                    my $listed = listed($pid);
                    push @wrong, "$name: $listed" if $listed ne '2 staged';
                    $finished = run_tool('restore', $pid);
                    push @wrong, "$name, restore: $finished->{err}" if $finished->{status};
                }
                my $why = why_not_well($worker, $before);
                push @wrong, "$name: $why" if $why;
                last if @wrong;
            }
        }
        verdict("$command killed, of a process that is stopped", \@wrong, \%ends);
    }
    is(state_of($pid), 'T', '... it is stopped still');
    kill 'CONT', $pid;
    goes_on($worker, '... and goes on when it is continued');
    ends_well($worker, '... each request has had its event');
    return;
}

# Threads have other numbers for who looks from elsewhere, so those in the capsule say nothing: a restore that fails must leave
# each where its own record is.
sub seen_from_elsewhere
{
    my $nr = aio_nr();
    my $worker = worker({ is_child => 1, wrap => ['sh', '-c', 'exec "$@" 2>/dev/null', 'sh', 'unshare', '--pid', '--fork', '--mount-proc', '--kill-child'] },
        '--rings', 2, '--threads', 6);
  SKIP: {
        skip 'no pid namespaces here', 1 if !$worker || !$worker->{pid};
        my $pid = $worker->{pid};
        my $before = look_of($pid);
        my @wrong;
        for my $round (1 .. 5) {
            my $staged = run_command('nsenter', '-t', $pid, '-p', '-m', Cwd::abs_path($TOOL), 'stage', 1);
            push @wrong, "stage: $staged->{err}" if $staged->{status};
            # (What has just been staged counts for a moment: there would be room again.)
            wait_until(sub { aio_nr() <= $nr }, 20);
            my $holder = hold_all_but(1);
            my $failed = run_tool('restore', $pid);
            end($holder) if $holder;
            push @wrong, "restore without room: $failed->{status} $failed->{err}" if $holder && $failed->{status} !~ /^[34]$/;
            wait_until(sub { max_nr() - aio_nr() > 4000 }, 20);
            my $restored = run_tool('restore', $pid);
            push @wrong, "restore: $restored->{err}" if $restored->{status};
            my $why = why_not_well($worker, $before);
            push @wrong, $why if $why;
            last if @wrong;
        }
        is_deeply(\@wrong, [], 'staged inside of a pid namespace, restored from outside, which fails once');
        goes_on($worker, '... it goes on') if !@wrong;
    }
    return;
}

# ---- list ----

# Whoever dies behind the blob leaves rings that are live, and a capsule.
sub list_says
{
    my $worker = worker('--rings', 3, '--threads', 3);
    my $pid = $worker->{pid};
    my $before = look_of($pid);
    my (%ends, @wrong);
    # The least of some: how often a tool looks whether all threads stand is not the same each time.
    my ($last) = sort { $a <=> $b } map { run_tool('stage', $pid); calls_of($TOOL, 'restore', $pid) } 1 .. 3;
    my $all = $FAULTS // '';
    # Those behind the blob come last.
    for my $n (sort { $a <=> $b } draw(12, $last - 60 .. $last), $all eq 'all' ? $first .. $last - 61 : draw(6, $first .. $last - 61)) {
        run_tool('stage', $pid);
        my $result = strike('--kill', $n, $TOOL, 'restore', $pid);
        my $listed;
        # (A blob that nobody traces any more may be at work.)
        wait_until(sub { ($listed = listed($pid)) =~ /^3 \w+$/ }, 5);
        $ends{$listed}++;
        push @wrong, "call $n ($result->{call}): $listed" if $listed !~ /^3 (?:live|staged)$/;
        my $finished = run_tool('restore', $pid);
        push @wrong, "call $n ($result->{call}): restore: $finished->{err}" if $finished->{status};
        my $why = why_not_well($worker, $before);
        push @wrong, "call $n ($result->{call}): $why" if $why;
        last if @wrong > 2;
    }
    verdict('list of what a killed restore has left', \@wrong, \%ends);
    ok($ends{'3 live'} && $ends{'3 staged'}, '... live, and staged');
    ends_well($worker, '... each request has had its event');
    return;
}

# ---- threads that wait ----

# At ptrace(2) of threads that are seized, wait4(2) with __WALL, or right behind a look at one that does not stand yet
# (PTRACE_GETSIGINFO).
sub stops { my ($result) = @_; return $result->{call} =~ /\(42\d\d, |, 4000000[01], / || $result->{before} =~ /\(4202, / }
sub other_thread { my ($result) = @_; return ($result->{before} =~ /^\d+ (\d+)/)[0] != ($result->{call} =~ /^\d+ (\d+)/)[0] }

# A wait goes on, and what it had taken already comes once, whenever who stages it dies: also in the middle of giving back
# what it had taken.
sub waiting
{
    for my $kind ('wait', 'four') {
        my $wanted = $kind eq 'wait' ? '1 of 1 events' : '4 of 4 events';
        my $start = sub {
            my $run = start({ quiet => 1 }, "$BUILD/tests/checkpointed", $kind);
            return (answer($run) // '') eq "ready\n" ? $run : die "$kind: it does not come to its wait\n";
        };
        my $run = $start->();
        my $last = calls_of($TOOL, 'stage', $run->{pid});
        end($run);
        # Which call writes several pieces of memory, and how many.
        my @only = ('--only', 'process_vm_writev');
        $run = $start->();
        my @log = log_of(@only, $TOOL, 'stage', $run->{pid});
        end($run);
        my ($given_back) = grep { $_->[1] > 1 } map { /^(\d+) .*\(\w+, \w+, (\w+)/ ? [ $1, hex $2 ] : () } @log;
        is($given_back ? 1 : 0, $kind eq 'four' ? 1 : 0, "$kind: what the wait has taken is given back, if it has taken something");
        my @cases = map { [ '--kill', $_ ] } draw(25, $first .. $last + 2);
        push @cases, map { [ @only, '--tear', $given_back->[0], $_ ] } 1 .. $given_back->[1] if $given_back;
        my (%ends, @wrong);
        for my $case (@cases) {
            $run = $start->();
            my $pid = $run->{pid};
            my $result = strike(@$case, $TOOL, 'stage', $pid);
            my $name = "@$case ($result->{call})";
            my $way = (grep { /--(?:kill|tear)/ } @$case)[0];
            $ends{ $result->{status} == 137 ? "$way, " . (is_staged($pid) ? 'staged' : 'live') : $result->{status} == 125 ? 'not possible here' : $result->{status} }++;
            my $is_staged = slurp("/proc/$pid/maps") ne '' && is_staged($pid);
            my $finished = run_tool('restore', $pid);
            kill 'USR1', $pid;
            chomp(my $said = answer($run) // 'nothing');
            end($run);
            # (What it has taken from a ring that is live it returns with. And nobody mends a wait between the stop that
            # breaks it and PTRACE_SETREGSET: of several threads all are told to stop first. Another thread of the tool may
            # make that call.)
            next if !$is_staged && $said eq '2 of 4 events' && $kind eq 'four';
            $ends{"killed before a wait could be mended"}++, next if !$is_staged && $said eq 'EINTR' && (stops($result) || other_thread($result));
            push @wrong, "$name: restore: $finished->{err}" if $finished->{status};
            push @wrong, "$name: $said" if $said ne $wanted;
            last if @wrong > 2;
        }
        verdict("stage killed, of a process with a thread that waits ($kind)", \@wrong, \%ends);
    }
    return;
}

# ---- a ring that is made larger ----

sub growing
{
  SKIP: {
        my @there = pretending(256);
        skip 'what this host says of its CPUs cannot be hidden', 1 if !@there;
        skip 'a page is enough for any host', 1 if POSIX::sysconf(POSIX::_SC_PAGESIZE()) > 4096;
        my (%ends, %seen, @wrong);
        # (Of 256 CPUs the smallest ring has 17 pages; this one has 10, and its events change places.)
        my $shape = 'n=600,head=1200,tail=1000,addr=0x200000000000';
        my $leaver = leaver('--ring', $shape);
        my ($usual, $events) = ring_of($leaver->{pid});
        run_tool('stage', $leaver->{pid});
        my $log = fresh('.calls');
        run_command(@there, "$BUILD/tests/strike", '--log', $log, $TOOL, 'restore', $leaver->{pid});
        my @log = split /\n/, slurp($log);
        is((ring_of($leaver->{pid}))[1], $events, 'a ring whose events change places is made larger') or return end($leaver);
        end($leaver);
        my ($last) = $log[-1] =~ /^(\d+)/;
        # The largest pieces of memory that are written: in their middle, too.
        my @writes = map { /^(\d+) .*!$/ ? $1 : () } @log;
        my @cases = map { [ '--kill', $_ ] } draw(14, $first .. $last + 5);
        push @cases, [ '--late', $writes[ rand @writes ], int rand 60 ] for 1 .. (($FAULTS // 20) eq 'all' ? 400 : ($FAULTS // 20));
        for my $case (@cases) {
            my $leaver = leaver('--ring', $shape);
            my $pid = $leaver->{pid};
            my ($was, $events) = ring_of($pid);
            run_tool('stage', $pid);
            my $result = run_command(@there, "$BUILD/tests/strike", @$case, $TOOL, 'restore', $pid);
            $ends{ $result->{status} == 137 ? "killed $case->[0]" : $result->{status} }++;
            my $finished;
            # (A blob that nobody traces any more may be at work.)
            wait_until(sub { (ring_of($pid))[1] eq $events }, 5);
            my ($is, $left) = ring_of($pid);
            my ($nr, $head, $tail) = split / /, $is;
            $seen{ $is eq $was ? 'as it was' : 'larger' }++;
            push @wrong, "@$case: it is $is, and was $was" if $is ne $was && ($nr <= (split / /, $was)[0] || $head);
            push @wrong, "@$case: its events are others" if $left ne $events;
            $finished = run_command(@there, $TOOL, 'restore', $pid);
            push @wrong, "@$case: restore: $finished->{err}" if $finished->{status};
            push @wrong, "@$case: its events are others, restored" if (ring_of($pid))[1] ne $events;
            end($leaver);
            last if @wrong > 2;
        }
        verdict('restore killed that makes a ring larger', \@wrong, \%ends);
        ok(keys %seen == 2, '... it was ' . join ', ', map { "$_ $seen{$_} times" } sort keys %seen);
    }
    return;
}

# ---- what lies in /run ----

sub has_journal { my ($pid) = @_; return scalar(my @there = journal($pid)) }

# Killed where a thread is not itself. Returns whether there is a journal.
sub leave_journal
{
    my ($pid) = @_;
    my @calls = calls_that_matter($TOOL, 'stage', $pid);
    run_tool('restore', $pid);
    for my $n (@calls) {
        strike('--kill', $n, $TOOL, 'stage', $pid);
        return 1 if has_journal($pid);
        run_tool('restore', $pid);
    }
    return 0;
}

sub stale
{
    my @workers = map { worker('--rings', 1) } 1 .. 3;
    my ($dead, $alive, $other) = map { $_->{pid} } @workers;
  SKIP: {
        skip 'it takes root to look into /run', 1 if $>;
        ok(leave_journal($_), 'a killed stage has left a file in /run') for $dead, $alive;
        end($workers[0]);
        ok(has_journal($dead), '... its process ends');
        is(run_tool('stage', $other)->{status}, 0, '... and another one is staged');
        ok(!has_journal($dead), '... which removes the file');
        ok(has_journal($alive), '... and no file of a process that is there');
        # Who has other pids cannot tell.
        end($workers[1]);
        my $elsewhere = run_command('unshare', '--pid', '--fork', '--mount-proc', 'sh', '-c',
            "sleep 100 & $TOOL restore \$!; kill \$!");
        ok(has_journal($alive), '... nor does one in another pid namespace') or diag($elsewhere->{err});
        is(run_tool('restore', $other)->{status}, 0, '... here it goes');
        ok(!has_journal($alive), '... with the next call');
        goes_on($workers[2], '... and the other process goes on');
    }
    end($_) for @workers;
    return;
}

my %parts = (
    dump     => \&dump_killed,
    signals  => \&signaled,
    terminal => \&gone_away,
    criu     => \&criu,
    tracer   => \&tracer_killed,
    twice    => \&looked_at_twice,
    back     => \&put_back_twice,
    stopped  => \&stopped,
    elsewhere => \&seen_from_elsewhere,
    list     => \&list_says,
    growing  => \&growing,
    stale    => \&stale,
    waiting  => \&waiting,
);
for my $part (@ARGV ? @ARGV : sort keys %parts) {
    my $begin = time;
    ($parts{$part} // die "$part: the parts are @{[ sort keys %parts ]}\n")->();
    diag(sprintf '%s: %.1f s', $part, time - $begin) if $ENV{TEST_VERBOSE} || @ARGV;
}
done_testing;
