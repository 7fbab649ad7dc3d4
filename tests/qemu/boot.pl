#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Boots one of Debian's kernels under QEMU, with the programs of $BUILD/qemu/ARCH.cpio, and makes one
# TAP stream of what they say on the serial console: see init.c for the marks between them.
#
# usage: boot.pl NAME ARCH (`fetch.sh list` names them)
#        boot.pl NAME ARCH soak PROGRAM...     (criu: tests/criu.t)
#        boot.pl NAME ARCH cpus COUNT PROGRAM...
#        boot.pl NAME ARCH brief
#
# The second form boots it with a small system and a disk, and makes rounds over real programs there, as tests/soak.t
# does here, with the same ROUNDS and FORMS. The third is a machine where so many CPUs are possible, and runs some of the
# programs only. The last runs those to which the kernel matters most.
#
# A kernel that panics, hangs or says nothing is a failure, with the end of its console shown. The
# time limit is $AIOR_BOOT_SECONDS, or else the machine's own. Everything is emulated, which works on every
# host alike; AIOR_KVM=1 asks for the host's own processor.
use strict;
use warnings;
use FindBin;
use IO::Select;
use POSIX ':sys_wait_h';
use Time::HiRes qw(sleep time);

die "usage: boot.pl NAME ARCH [brief | soak PROGRAM... | cpus COUNT PROGRAM...]\n"
    unless @ARGV == 2 || @ARGV == 3 && $ARGV[2] eq 'brief' || @ARGV > 3 && $ARGV[2] eq 'soak' || @ARGV > 4 && $ARGV[2] eq 'cpus';
push @ARGV, 2, map({ ($_, "i386/$_") } qw(facts waits twins live-twins process)), qw(ring restore stage self capsule carried live live-waits yama) if ($ARGV[2] // '') eq 'brief';
my ($name, $arch, $form, @real) = @ARGV;
my ($cpus, @only) = ($form // '') =~ /^(?:cpus|brief)$/ ? splice @real : 2;
my $build = $ENV{BUILD} // 'build';
my $out = "$build/qemu/$name-$arch" . ($form && $form ne 'soak' ? "-$cpus" : '');
my $kind = join "-", $out, "soak", @real;
my $first_files = @real ? "$kind.cpio" : "$build/qemu/$arch.cpio";
my $disk = "$kind.disk";
my $tool = "$build/aio-restorer";

# How each machine is emulated, where its console is, and how long a boot may take. An emulated riscv64
# is three times as slow as others: its kernel sets a bit (SUM) around each access to user memory, and
# QEMU forgets all translations of addresses then.
my %machines = (
    x86_64  => { qemu => 'qemu-system-x86_64',  options => '-machine pc -cpu max,arch-capabilities=off', console => 'ttyS0',   seconds => 1800 },
    i386    => { qemu => 'qemu-system-i386',    options => '-machine pc -cpu max,arch-capabilities=off', console => 'ttyS0',   seconds => 1800 },
    aarch64 => { qemu => 'qemu-system-aarch64', options => '-machine virt -cpu cortex-a76',              console => 'ttyAMA0', seconds => 1800 },
    riscv64 => { qemu => 'qemu-system-riscv64', options => '-machine virt -cpu rv64',                    console => 'ttyS0',   seconds => 2700 },
);
my $machine = $machines{$arch} // die "boot.pl: no machine $arch\n";
# Emulation is slow: a short test is one of some forms.
my $rounds = $ENV{ROUNDS} // 4;
my $forms = $ENV{FORMS} // ($ENV{ROUNDS} ? '.' : 'processes|threads|reap');
my $limit = $ENV{AIOR_BOOT_SECONDS} // $machine->{seconds} + 60 * $rounds * @real;

sub skip_all { my ($why) = @_; chomp $why; print "1..0 # SKIP $why\n"; exit 0 }

sub slurp
{
    my ($path) = @_;
    open my $in, '<:raw', $path or return '';
    local $/;
    return scalar(<$in>) // '';
}

# ---- TAP ----

my ($count, $failed) = (0, 0);

sub ok
{
    my ($passed, $what) = @_;
    $count++;
    $failed++ if !$passed;
    print $passed ? '' : 'not ', "ok $count - $what\n";
    return $passed;
}

sub diag { print map { "# $_\n" } map { split /\n/ } @_ }

# ---- the machine ----

my $pid;

END {
    local $?;
    if ($pid) { kill 'KILL', $pid; waitpid $pid, 0 }
    unlink $disk, $first_files if @real;
}
$SIG{$_} = sub { exit 1 } for qw(INT TERM HUP PIPE);
$| = 1;

sub have { my ($program) = @_; return grep { -x "$_/$program" } split /:/, $ENV{PATH} }

# CPUs that are only possible cost nothing; but newer kernels have as many as the firmware tells of.
my $are_possible = $arch eq 'x86_64' && $name =~ /^(?:5\.|6\.1$)/;
my @smp = ('-smp', $cpus == 2 ? 2 : $are_possible ? "2,maxcpus=$cpus" : $cpus);
my $words = !@only ? '' : ($are_possible && $cpus != 2 ? " possible_cpus=$cpus" : '') . " -- @only";

# (One thread for all CPUs: that is faster where there are many, and where each has one, kernels of x86 have died while
# they changed their own code on one CPU and another ran it: see has_patched_itself_to_death().)
#
# Where nobody ends it for us, it must end with us, however we end.
sub start
{
    my ($kernel) = @_;
    my $accel = $ENV{AIOR_KVM} ? '-accel kvm -accel tcg' : $cpus > 2 ? '-accel tcg,thread=single' : '-accel tcg';
    my @command = (
        have('setpriv') ? qw(setpriv --pdeathsig KILL) : (),
        $machine->{qemu}, split(' ', "$machine->{options} $accel"),
        qw(-nodefaults -no-user-config -display none -monitor none -no-reboot -serial stdio -m), @real ? 2048 : 1024, @smp,
        @real ? ('-drive', "file=$disk,format=raw,if=virtio,cache=none,aio=threads") : (),
        '-kernel', $kernel, '-initrd', $first_files,
        '-append', "console=$machine->{console} rdinit=/init quiet loglevel=1 panic=-1 oops=panic$words",
    );
    pipe my $from, my $to or die "pipe: $!";
    $pid = fork // die "fork: $!";
    if (!$pid) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>&', $to;
        open STDERR, '>&', $to;
        exec @command or POSIX::_exit(127);
    }
    return $from;
}

# The next line of the console; undef at its end, or when the time is over.
my ($buffer, $console) = ('', '');

sub line
{
    my ($from, $end) = @_;
    my $select = IO::Select->new($from);
    return if time >= $end;    # whatever it still has to say
    while ($buffer !~ /\n/) {
        my $left = $end - time;
        return if $left <= 0 || !$select->can_read($left);
        return if !sysread $from, $buffer, 65536, length $buffer;
    }
    $buffer =~ s/\A(.*?)\r*\n//;
    my $line = $1;
    $line =~ s/[\r\0]//g;
    $console .= "$line\n";
    return $line;
}

# With a thread for each CPU, QEMU now and then lets one run into the int3 that another has just laid over an instruction,
# and so late that the kernel no longer knows it for its own (arch/x86/kernel/alternative.c, smp_text_poke_int3_handler).
# No processor does that, and while a kernel boots no program of ours has run: such a machine is started anew.
sub has_patched_itself_to_death { return $console =~ /\bint3: 0000 \[#/ }

sub show_console
{
    my @lines = grep { !/^(?:not )?ok |^\s*$/ } split /\n/, $console . $buffer;
    diag('the end of the console:', @lines > 60 ? @lines[-60 .. -1] : @lines);
}

# ---- what comes from it ----

# One program: its tests become ours, under its name.
sub read_program
{
    my ($from, $end, $program) = @_;
    my ($ran, $plan, $bad, $failed_before) = (0, undef, '', $failed);
    while (defined(my $line = line($from, $end))) {
        if ($line =~ /^(not )?ok (\d+)(?: - )?(.*)/) {
            $ran++;
            $bad = "test $2 came as number $ran" if $2 != $ran && !$bad;
            ok(!$1, "$program: $3");
        } elsif ($line =~ /^1\.\.(\d+)(?:\s*#\s*SKIP\s*(.*))?/i) {
            $plan = $1;
            ok(1, "$program # SKIP $2") if defined $2;
        } elsif ($line =~ /^@@ end \Q$program\E (\w+) (\d+) (\d+)/) {
            my ($how, $number, $ms) = ($1, $2, $3);
            # Status 1 says that a test failed, which has been seen.
            $bad = "$how $number" if "$how $number" ne 'exit 0' && !("$how $number" eq 'exit 1' && $failed > $failed_before);
            $bad = 'no plan' if !$bad && !defined $plan;
            $bad = "$ran of $plan tests" if !$bad && $ran != $plan;
            diag(sprintf '%s: %d tests, %.1f s', $program, $ran, $ms / 1000);
            ok(!$bad, $bad ? "$program ends well: $bad" : "$program ends well");
            return 1;
        } elsif ($line =~ /^# /) {
            print "$line\n";
        } elsif ($line =~ /^Bail out!/ || $line =~ /\S/) {
            diag("$program: $line");
        }
    }
    return 0;
}

# A file: lines of offset and hexadecimal bytes, then its length and an FNV-1a sum of it.
sub read_file
{
    my ($from, $end, $file) = @_;
    my $content = '';
    while (defined(my $line = line($from, $end))) {
        if ($line =~ /^([0-9a-f]+) ((?:[0-9a-f]{2})+)$/) {
            my ($offset, $bytes) = (hex $1, pack 'H*', $2);
            $content .= "\0" x ($offset - length $content) if $offset > length $content;
            substr($content, $offset, length $bytes) = $bytes;
        } elsif ($line =~ /^@@ end file (\d+) ([0-9a-f]+)/) {
            my ($length, $sum) = ($1, 0x811c9dc5);
            $content .= "\0" x ($length - length $content) if $length > length $content;
            $sum = (($sum ^ $_) * 0x01000193) & 0xffffffff for unpack 'C*', $content;
            ok($length == length $content && $sum == hex $2, "$file comes out of the guest whole");
            mkdir "$build/qemu";
            mkdir $out;
            open my $to, '>:raw', "$out/$file" or die "$out/$file: $!";
            print $to $content;
            close $to or die "$out/$file: $!";
            return 1;
        }
    }
    return 0;
}

sub run_tool { my $said = `$tool @_ 2>&1`; return ($? >> 8, $said) }

# What was dumped in the guest, read on this host.
sub test_cross_reading
{
    my ($host) = `$tool check` =~ /^architecture +(\w+)/m;
    my @cores = glob "$out/*.core";
    ok(@cores > 0, 'a core comes out of the guest');
    for my $core (@cores) {
        my ($file) = $core =~ m{([^/]+)$};
        my ($machine) = (my $json = slurp($core =~ s/core$/json/r)) =~ /"machine":"(\w+)"/;
        my ($status, $said) = run_tool('list', $core, '--json');
        ok($status == 0 && $json ne '' && $said eq $json, "$file, dumped there, is listed here as it was there") or diag($said);
        ($status, $said) = run_tool('run', $core, '--json');
        my ($wanted, $got) = map { join ' ', /"events":\[(.*?)\]/g } $json, $said;
        ok($status == 0 ? $wanted eq $got : $status == 4 && $said =~ /\b\Q$machine\E\b.*\b\Q$host\E\b|pages on this host|admits/,
            $status == 0 ? "$file is run here, and its events come" : "$file is not run here, and the reason names both machines") or diag($said);
    }
}

# ---- all of it ----

skip_all("there is no $machine->{qemu} here") if !have($machine->{qemu});
if (!-e ($real[0] ? "$build/guest/$arch/aio-restorer" : $first_files)) {
    my $why = slurp("$build/guest/$arch/missing");
    skip_all($why ne '' ? $why : "no programs for $arch were built (make blobs says what is missing)");
}
my $kernel = `$FindBin::Bin/../fetch.sh kernel '$name' '$arch' 2>&1`;
skip_all($kernel) if $? >> 8 == 3;
die $kernel if $?;
$kernel =~ s/\A((?:fetch\.sh: .*\n)*)//;
diag($1) if $1;
chomp $kernel;

# A whole system, and a disk of holes.
sub prepare_soak
{
    mkdir "$build/qemu";
    chomp(my $root = `$FindBin::Bin/../fetch.sh root '$name' '$arch'`);
    skip_all("the system of $name $arch cannot be fetched") if $? >> 8 == 3;
    die "fetch.sh root $name $arch: status $?\n" if $?;
    if (grep { $_ eq 'criu' } @real) {
        skip_all("there is no CRIU plugin for $arch: make criu says why") if !-e "$build/guest/$arch/aio_restorer.so";
        `$FindBin::Bin/../fetch.sh criu '$arch'`;
        skip_all("CRIU for $arch cannot be fetched") if $? >> 8 == 3;
    }
    system("$FindBin::Bin/initramfs.pl", $first_files, $build, 'soak', $root, $arch, $limit, $rounds, $forms, @real) == 0 or die "initramfs.pl: status $?\n";
    open my $file, '>', $disk or die "$disk: $!\n";
    truncate $file, 1 << 30 or die "$disk: $!\n";
}

prepare_soak() if @real;
unlink glob "$out/*" if !@real;
my $begun = time;
my $end = $begun + $limit;
my $from = start($kernel);
my ($is_booted, $is_done, $programs, $starts) = (0, 0, 0, 1);
while (1) {
    my $line = line($from, $end);
    if (!defined $line) {
        last if $is_booted || !has_patched_itself_to_death() || $starts == 3;
        diag('the emulated machine died of its own int3 before any program ran; it is started again');
        show_console();
        kill 'KILL', $pid;
        waitpid $pid, 0;
        ($buffer, $console) = ('', '');
        $from = start($kernel);
        $starts++;
        next;
    }
    if ($line =~ /^@@ boot (\S+) (\S+) (\d+) (\S*)/) {
        $is_booted = ok($4 eq '0-' . ($cpus - 1), sprintf 'Linux %s, %s, pages of %d bytes, possible CPUs %s, boots', $1, $2, $3, $4);
        diag(sprintf 'booted in %.1f s', time - $begun);
    } elsif ($line =~ /^@@ begin (\S+)/) {
        $programs++;
        read_program($from, $end, $1) or last;
    } elsif ($line =~ /^@@ file (\S+)$/) {
        read_file($from, $end, $1) or last;
    } elsif ($line =~ /^@@ done/) {
        $is_done = 1;
        last;
    }
}
my $seconds = time - $begun;
ok(0, "$name $arch: boots") if !$is_booted;
if (!ok($is_done && $programs, sprintf '%s %s: all programs ran', $name, $arch)) {
    diag(sprintf 'stopped after %.0f s of %d', $seconds, $limit);
    show_console();
}
if ($is_done) {
    my $patience = time + 10;
    sleep 0.05 while !waitpid($pid, WNOHANG) && time < $patience;
    ok(!kill(0, $pid), "$name $arch: powers off");
    undef $pid if !kill 0, $pid;
}
test_cross_reading() if $is_done && !@real && (!@only || grep { $_ eq 'process' } @only);
diag(sprintf '%s %s: %d tests in %.1f s', $name, $arch, $count, $seconds);
print "1..$count\n";
exit($failed ? 1 : 0);
