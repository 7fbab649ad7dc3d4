# SPDX-License-Identifier: MIT
#
# What the tests of the command line share: running it, and the programs that it is run on.
# Every process that a test starts is ended with the test, whichever way it goes.
package Cli;
use strict;
use warnings;
no warnings 'portable';    # addresses have 64 bits
use Exporter 'import';
use File::Temp ();
use JSON::PP ();
use POSIX ':sys_wait_h';
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw($BUILD $TOOL $SAN $DIR start leaver hold_all_but tell answer end end_later run_tool run_command pretending refuses
    is_rings json slurp spit fresh own_processes have state_of threads_of max_nr aio_nr
    worker lines_of goes_on ends_well look_of is_parked is_as_before has_ended
    wait_until journal why_not_well);

our $BUILD = $ENV{BUILD} // 'build';
our $TOOL = "$BUILD/aio-restorer";
our $SAN = $BUILD =~ /san/;
our $DIR = File::Temp::tempdir('aior-cli-XXXXXX', TMPDIR => 1, CLEANUP => 1);

my $owner = $$;
my %started;    # pid => 1
my $files = 0;

chmod 0755, $DIR;    # some of it is read by somebody else
$SIG{INT} = $SIG{TERM} = $SIG{HUP} = sub { exit 1 };
$SIG{PIPE} = 'IGNORE';
END { local $?; end_all() if $$ == $owner }

sub end_all
{
    kill 'KILL', $_ for keys %started;
    waitpid $_, 0 for keys %started;
    %started = ();
}

# A name for a new file.
sub fresh { return "$DIR/" . ++$files . ($_[0] // '') }

sub slurp
{
    my ($path) = @_;
    open my $file, '<:raw', $path or return '';
    local $/;
    return scalar(readline $file) // '';
}

sub spit
{
    my ($path, $data) = @_;
    open my $file, '>:raw', $path or die "$path: $!";
    print $file $data;
    close $file or die "$path: $!";
    return $path;
}

sub have { my ($name) = @_; return grep { -x "$_/$name" } split /:/, $ENV{PATH} }

sub max_nr { return 0 + slurp('/proc/sys/fs/aio-max-nr') }
sub aio_nr { return 0 + slurp('/proc/sys/fs/aio-nr') }

# Starts a program that talks through pipes; returns what `tell`, `answer` and `end` take.
sub start
{
    my %options = ref $_[0] ? %{ shift @_ } : ();
    my @command = @_;
    pipe my $stdin, my $to or die "pipe: $!";
    pipe my $from, my $stdout or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        open STDIN, '<&', $stdin;
        open STDOUT, '>&', $stdout;
        open STDERR, '>', '/dev/null' if $options{quiet};
        close $_ for $to, $from;
        exec @command or POSIX::_exit(127);
    }
    $started{$pid} = 1;
    close $_ for $stdin, $stdout;
    $to->autoflush;
    return { pid => $pid, to => $to, from => $from };
}

# A leaver that has said what it holds: {text}, and decoded {rings}, unless that would take long.
sub leaver
{
    my %options = ref $_[0] ? %{ shift @_ } : ();
    my $leaver = start(\%options, "$BUILD/tests/leaver", @_);
    my $text = answer($leaver);
    return if !defined $text;
    $leaver->{text} = $text;
    ($leaver->{pid_inside}) = $text =~ /"pid":(\d+)/;
    ($leaver->{child}) = $text =~ /"child":(\d+)/;
    $leaver->{rings} = length $text < 100_000 ? json($text)->{rings} : [];
    return $leaver;
}

# Takes all but that many of fs.aio-max-nr. What has just ended still counts for a moment.
sub hold_all_but
{
    my ($rest) = @_;
    for (1 .. 100) {
        my $left = max_nr() - aio_nr();
        my $holder = $left > $rest + 4000 ? leaver({ quiet => 1 }, '--ring', 'n=' . ($left - $rest)) : undef;
        return $holder if $holder;
        sleep 0.05;
    }
    return;
}

# A process that is not this one's child: it ends with the test, too.
sub end_later { $started{$_} = 1 for @_ }

sub tell { my ($program, $line) = @_; print { $program->{to} } "$line\n" }

sub answer { my ($program) = @_; my $line = readline $program->{from}; return $line }

sub end
{
    my ($program) = @_;
    kill 'KILL', $program->{pid};
    waitpid $program->{pid}, 0;
    delete $started{ $program->{pid} };
}

sub json { my ($text) = @_; return eval { JSON::PP->new->decode($text) } }

# Runs a command to its end, and returns {status} (-1: killed by {signal}), {out}, {err}.
sub run_command
{
    my @command = @_;
    my %options = ref $command[0] ? %{ shift @command } : ();
    my ($out, $err) = (fresh('.out'), fresh('.err'));
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', $options{stdout} // $out;
        open STDERR, '>', $err;
        $options{before}->() if $options{before};
        exec @command or POSIX::_exit(126);
    }
    $started{$pid} = 1;
    my $end = time + ($options{seconds} // 60);
    my $nap = 0.0005;
    while (!waitpid $pid, WNOHANG) {
        if (time > $end) {
            kill 'KILL', $pid;
            waitpid $pid, 0;
            last;
        }
        sleep $nap;
        $nap *= 1.5 if $nap < 0.02;
    }
    my $status = $?;
    delete $started{$pid};
    my %result = (
        status => $status & 127 ? -1 : $status >> 8,
        signal => $status & 127,
        out    => slurp($out),
        err    => slurp($err),
    );
    unlink $out, $err;
    return \%result;
}

sub run_tool
{
    my %options = ref $_[0] ? %{ shift @_ } : ();
    return run_command(\%options, $TOOL, @_);
}

# What to put in front of a command that is to see a host where so many CPUs are possible, as far as a file says; none: that cannot be done.
sub pretending
{
    my ($cpus) = @_;
    my $possible = '/sys/devices/system/cpu/possible';
    my $file = fresh();
    spit($file, '0-' . ($cpus - 1) . "\n");
    my @command = ('unshare', '-m', 'sh', '-c', "mount --bind '$file' $possible && exec \"\$@\"", 'sh');
    return run_command(@command, 'cat', $possible)->{out} eq slurp($file) ? @command : ();
}

# The tool must fail with that status, and one line that matches.
sub refuses
{
    my ($name, $status, $pattern, @command) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $result = run_tool(@command);
    my $is_right = $result->{status} == $status && $result->{err} =~ $pattern
        && $result->{err} =~ ($status == 2 ? qr/\A.*\n.*\n\z/ : qr/\A.*\n\z/);
    ok($is_right, $name) or diag explain $result;
    return $result;
}

# The JSON of a tool about the rings of a leaver: all of them, event by event, in order of address.
# (The rings that its waiting threads have are not in its description; nothing is pending in them.)
sub is_rings
{
    my ($leaver, $result, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my (%wanted, @got, @wrong);
    while ($leaver->{text} =~ /"addr":"(0x[0-9a-f]+)","id":\d+,"nr":(\d+),"head":(\d+),"tail":(\d+),"events":\[(.*?)\]/g) {
        $wanted{$1} = "nr $2 head $3 tail $4 [$5]";
    }
    my $rings = keys %wanted;
    while ($result->{out} =~ /"addr":"(0x[0-9a-f]+)",[^\[]*?"nr":(\d+),"head":(\d+),"tail":(\d+),[^\[]*"events":\[(.*?)\]/g) {
        my $wanted = delete $wanted{$1} // "nr $2 head $3 tail $3 []";
        push @got, $1;
        push @wrong, $1 if $wanted ne "nr $2 head $3 tail $4 [$5]";
    }
    my @sorted = sort { hex $a <=> hex $b } @got;
    my $is_right = $result->{status} == 0 && $rings && !@wrong && !%wanted && "@got" eq "@sorted";
    ok($is_right, $name)
        or diag("status $result->{status}; wrong: @wrong[0 .. (@wrong > 5 ? 4 : $#wrong)]; ",
        scalar(keys %wanted), " of $rings missing\n", substr($result->{err}, 0, 1000), substr($result->{out}, 0, 1000));
    return $is_right;
}

# ---- workers ----

# Only there to end what hangs.
my $patience = 120;

sub wait_until
{
    my ($condition, $seconds) = @_;
    my $end = time + ($seconds // $patience);
    my $nap = 0.001;
    while (time < $end) {
        my $value = $condition->();
        return $value if $value;
        sleep $nap;
        $nap *= 1.5 if $nap < 0.05;
    }
    return;
}

# What a worker has printed, or (with a pid) what its child with that pid has.
sub lines_of
{
    my ($worker, $heir) = @_;
    my $log = slurp($worker->{log});
    return $heir ? grep { s/^$heir: // } split /\n/, $log : grep { !/^\d+: / } split /\n/, $log;
}

# How far it is: events, or lines of a quiet one.
sub count_of
{
    my ($worker, $heir) = @_;
    my @counts = map { /^ok (\d+)/ ? $1 : () } lines_of(@_);
    return $worker->{is_quiet} ? scalar @counts : $counts[-1] // 0;
}

# A worker that is under way: {pid}, {rings} (their addresses), {heir} (its child's pid). Options: arch (i386:
# it is of that architecture), wrap (a command that runs it, itself or as its child).
sub worker
{
    my %options = ref $_[0] ? %{ shift @_ } : ();
    my $program = $BUILD . '/tests/worker' . ($options{arch} ? "-$options{arch}" : '');
    my @command = (@{ $options{wrap} // [] }, $program, @_);
    my $worker = { log => fresh('.log'), errors => fresh('.errors'), is_quiet => scalar grep { $_ eq '--quiet' } @_ };
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', $worker->{log};
        open STDERR, '>', $worker->{errors};
        exec @command or POSIX::_exit(127);
    }
    $started{$pid} = 1;
    $worker->{parent} = $worker->{pid} = $pid;
    my $is_ready = wait_until(sub {
        my @lines = lines_of($worker);
        return (grep { /^ready/ } @lines) && (grep { /^ok/ } @lines) || waitpid($pid, WNOHANG) == $pid;
    });
    my @lines = lines_of($worker);
    my ($ready) = grep { s/^ready// } @lines;
    if (!defined $ready) {
        diag("no worker (@command): ", slurp($worker->{log}), slurp($worker->{errors}));
        end($worker);
        return;
    }
    $worker->{rings} = [ split ' ', $ready ];
    ($worker->{heir}) = map { /^heir (\d+)/ ? $1 : () } @lines;
    ($worker->{spare}) = map { /^spare (0x\S+)/ ? $1 : () } @lines;
    ($worker->{cannot}) = map { /^cannot (.*)/ ? $1 : () } @lines;
    my ($inside) = slurp("/proc/$pid/task/$pid/children") =~ /^(\d+)/;
    $worker->{pid} = $inside if $options{is_child};
    # A thread that has just been made blocks all signals, for a moment.
    wait_until(sub { !grep { slurp($_) =~ /^SigBlk:\s+fffffffffffbfeff$/m } glob "/proc/$worker->{pid}/task/*/status" });
    wait_until(sub { count_of($worker, $worker->{heir}) }) if $worker->{heir} && "@_" =~ /heir ring/;
    return $worker;
}

# (A first thread that has exited is a zombie until the others have, too.)
sub has_ended
{
    my ($pid) = @_;
    return !grep { state_of("$pid/task/$_") =~ /[^ZX]/ } threads_of($pid);
}

# Whether requests have their events, and all of them the right ones.
sub goes_on
{
    my ($worker, $name, $heir) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $count = count_of($worker, $heir);
    my $pid = $heir // $worker->{pid};
    wait_until(sub { count_of($worker, $heir) > $count || has_ended($pid) });
    my @wrong = grep { /VIOLATION/ } lines_of($worker, $heir);
    return ok(!@wrong && count_of($worker, $heir) > $count, $name)
        || diag("worker $pid (state ", state_of($pid), "): @wrong", slurp($worker->{errors}));
}

# Ends it: each of its requests must have had its event.
sub ends_well
{
    my ($worker, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    kill 'TERM', $worker->{pid};
    my $status;
    wait_until(sub { waitpid($worker->{parent}, WNOHANG) == $worker->{parent} && defined($status = $?) });
    my $is_right = defined $status && $status == 0 && grep { /^done/ } lines_of($worker);
    ok($is_right, $name)
        or diag('status ', $status // 'none', ', state ', state_of($worker->{pid}), ': ',
        join("\n", grep { !/^ok/ } lines_of($worker)), slurp($worker->{errors}));
    end($worker);
    return $is_right;
}

# What others can see of a process, and what must be the same when it goes on; a ring's inode is another.
sub look_of
{
    my ($pid) = @_;
    my $look = slurp("/proc/$pid/maps") =~ s{ \d+ +(/\[aio\] \(deleted\))}{ $1}gr;
    $look .= join ' ', 'descriptors', sort map { m{(\d+)$} } glob "/proc/$pid/fd/*";
    for my $tid (sort(threads_of($pid))) {
        my $status = slurp("/proc/$pid/task/$tid/status");
        $look .= join "\n", "\nthread $tid", $status =~ /^((?:TracerPid|Sig(?:Blk|Ign|Cgt)|Cpus_allowed|VmLck|Seccomp):.*)$/mg;
    }
    return "$look\n";
}

sub is_as_before
{
    my ($pid, $before, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $after = look_of($pid);
    return 1 if ok($after eq $before, $name);
    my %before = map { $_ => 1 } split /\n/, $before;
    my %after = map { $_ => 1 } split /\n/, $after;
    diag(join "\n", (map { "was $_" } grep { !$after{$_} } split /\n/, $before), map { "is $_" } grep { !$before{$_} } split /\n/, $after);
    return 0;
}

# Why a worker does not go on as it looked before, a moment later at most: no thread may be left parked, and nothing
# mapped, nor a journal outside of it.
sub why_not_well
{
    my ($worker, $before) = @_;
    my $pid = $worker->{pid};
    wait_until(sub { look_of($pid) eq $before || has_ended($pid) }, 30);
    return 'it has ended' if has_ended($pid);
    my @wrong = grep { /VIOLATION/ } lines_of($worker);
    return "@wrong" if @wrong;
    my @left = journal($pid);
    return "the tool has left @left" if @left;
    my %before = map { $_ => 1 } split /\n/, $before;
    @left = grep { !$before{$_} } split /\n/, look_of($pid);
    return @left ? "there is now: @left" : look_of($pid) eq $before ? undef : 'something is missing';
}

# Whether all threads sleep with all signals blocked, and nobody traces them; says what is wrong.
sub why_not_parked
{
    my ($pid) = @_;
    for my $tid (threads_of($pid)) {
        my $status = slurp("/proc/$pid/task/$tid/status");
        my ($state) = $status =~ /^State:\s+(\S)/m;
        next if !defined $state || $state =~ /[ZX]/;
        return "thread $tid is in state $state" if $state !~ /[SD]/;
        return "thread $tid does not block all signals" if $status !~ /^SigBlk:\s+fffffffffffbfeff$/m;
        return "thread $tid is traced" if $status !~ /^TracerPid:\s+0$/m;
    }
    return (threads_of($pid)) ? undef : 'it is gone';
}

# A thread that a signal has woken in vain sleeps again at once.
sub is_parked
{
    my ($pid, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    wait_until(sub { !why_not_parked($pid) || !threads_of($pid) }, 30);
    my $why = why_not_parked($pid);
    return ok(!$why, $name) || diag($why);
}

# What the tool has left behind of that process, outside of it.
sub journal { my ($pid) = @_; return glob "/run/aio-restorer/$pid-*" }

sub state_of
{
    my ($pid) = @_;
    my ($state) = slurp("/proc/$pid/stat") =~ /\) (\S)/;
    return $state // '';
}

sub threads_of { my ($pid) = @_; opendir my $dir, "/proc/$pid/task" or return; return grep { /^\d/ } readdir $dir }

# The processes that `run` made and that are still there.
sub own_processes
{
    my $end = time + 10;
    my @left;
    do {
        @left = grep { slurp("/proc/$_/cmdline") =~ /^aio-restorer-run/ }
            map { m{/proc/(\d+)$} } glob '/proc/[0-9]*';
        sleep 0.02 if @left;
    } while (@left && time < $end);
    return @left;
}

1;
