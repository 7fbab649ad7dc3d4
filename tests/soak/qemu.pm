# SPDX-License-Identifier: MIT
# QEMU with aio=native: a virtual machine whose guest (tests/soak/qemu-guest.c) writes its disks and checks
# each block that it reads, and each completion; and QEMU's own tools, which need no guest.
# QEMU reaps in user space, and is told by an eventfd.
package Soak::qemu;
use strict;
use warnings;
use Cli;
use Fcntl qw(O_RDWR);
use POSIX qw(mkfifo);
use Soak;
use Test::More;

my $guest = "$BUILD/tests/qemu-guest";
my $megabytes = 8;
my @machine = split ' ', '-nodefaults -no-user-config -display none -machine pc -accel tcg -m 32 '
    . '-chardev stdio,id=serial,signal=off -serial chardev:serial -device isa-debug-exit,iobase=0xf4';
my ($all_right, $wrong) = (33, 35);                        # how the guest ends QEMU
my $images = 0;

# A new disk.
sub image
{
    my ($format) = @_;
    my $path = direct_folder() . '/disk' . ++$images;
    my $made = Cli::run_command('qemu-img', 'create', '-q', '-f', $format, $path, "${megabytes}M");
    die "qemu-img: $made->{err}" if $made->{status};
    return $path;
}

# ---- a machine ----

sub disk_options
{
    my ($form, $number, $path) = @_;
    my $thread = $form->{threads} ? ",iothread=io$number" : '';
    return (
        '-drive', "if=none,id=disk$number,file=$path,format=$form->{format},cache=none,aio=native",
        '-device', "virtio-blk-pci,drive=disk$number$thread", $form->{threads} ? ('-object', "iothread,id=io$number") : ()
    );
}

# (One arena, so that its heap is one mapping, however it grows.)
sub begin
{
    my ($form) = @_;
    my @disks = map { image($form->{format}) } 1 .. $form->{disks};
    my $stdin = fresh('.stdin');
    mkfifo($stdin, 0600) or die "$stdin: $!";
    sysopen my $to, $stdin, O_RDWR or die "$stdin: $!";
    my $run = launch({
            env   => { GLIBC_TUNABLES => 'glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0' },
            stdin => $stdin, slow => $form->{slow}
        },
        'qemu-system-x86_64', @machine, '-kernel', $guest, '-append', $form->{words} // 'none', map { disk_options($form, $_, $disks[$_]) } 0 .. $#disks);
    @$run{qw(to disks form)} = ($to, \@disks, $form);
    wait_for_rings($run, $form->{rings});
    wait_until(sub { slurp($run->{log}) =~ /running/ || defined wait_for_end($run, 0) });
    return $run;
}

sub check_image
{
    my ($run, $path) = @_;
    return if $run->{form}{format} ne 'qcow2';
    my $checked = Cli::run_command('qemu-img', 'check', '-f', 'qcow2', $path);
    # (The guest ends QEMU at once, which does not close its disks then: what it had allocated may not be in use yet, 3.)
    return $checked->{status} && $checked->{status} != 3 ? "qemu-img check: $checked->{out}$checked->{err}" : undef;
}

sub finish
{
    my ($run) = @_;
    end_now($run) if defined $run->{wrong};
    syswrite $run->{to}, "\n";
    my $status = wait_for_end($run, 2 * $PATIENCE);
    my $text = slurp($run->{log});
    end_now($run);
    my @said = defined $status && $status == $all_right << 8 ? grep { defined } map { check_image($run, $_) } @{ $run->{disks} } : ();
    unlink @{ $run->{disks} };
    return "it does not end: $text" if !defined $status;
    return "it ends with status $status: $text" if $status != $all_right << 8;
    return "@said" if @said;
    my ($written, $read, $flushes) = $text =~ /^all right: (\d+) blocks written, (\d+) read, (\d+) flushes/m;
    return "it has not both written and read: $text" if !$written || !$read;
    return "it has not flushed: $text" if !$flushes && ($run->{form}{words} // '') eq 'flush';
    return $text =~ /^qemu/m ? "it says: $text" : undef;
}

# What checks must fail when there is something to find: here, that a block is another.
sub finds_a_wrong_block
{
    my $run = begin({ format => 'raw', disks => 1, rings => 1 });
    wait_until(sub { -s $run->{disks}[0] && (stat _)[12] > 1024 }, 30);
    open my $disk, '+<', $run->{disks}[0] or die "$run->{disks}[0]: $!";
    print {$disk} "\0" x 4096 for 1 .. $megabytes * 256;
    close $disk;
    my $status = wait_for_end($run, 30);
    my $text = slurp($run->{log});
    end_now($run);
    unlink @{ $run->{disks} };
    return defined $status && $status == $wrong << 8 && $text =~ /^wrong: disk 0, block \d+, write \d+: /m ? undef : $text;
}

# ---- QEMU's tools ----

sub bench
{
    my ($form) = @_;
    my $path = image('raw');
    my $run = launch({ slow => $form->{slow} }, qw(qemu-img bench -f raw -n -i native -t none -s 4096),
        '-c', $form->{slow} * $RUN_SECONDS, split(' ', $form->{options}), $path);
    @$run{qw(disks form)} = ([$path], $form);
    wait_for_rings($run, 1);
    return $run;
}

# Many at a time, each with a pattern of its own, are written and then read back.
sub script
{
    my ($requests, $rounds) = @_;
    my @lines;
    for my $round (1 .. $rounds) {
        for my $command ('aio_write', 'aio_read') {
            push @lines, (map { sprintf '%s -P 0x%x %d 4096', $command, 1 + ($_ + $round) % 255, $_ * 8192 } 1 .. $requests), 'aio_flush';
        }
    }
    return spit(fresh('.commands'), join "\n", @lines, 'quit', '');
}

sub io
{
    my ($form) = @_;
    my $path = image('raw');
    my $rounds = int($form->{slow} * $RUN_SECONDS / 64) || 1;
    my $run = launch({ slow => $form->{slow}, stdin => script(32, $rounds) }, qw(qemu-io -f raw -n -i native -t none), $path);
    @$run{qw(disks form requests)} = ([$path], $form, 32 * $rounds);
    wait_for_rings($run, 1);
    return $run;
}

sub finish_tool
{
    my ($run) = @_;
    my ($text, $wrong_with_it) = come_to_end($run, qr/fail|error|assert/i);
    unlink @{ $run->{disks} };
    return $wrong_with_it if defined $wrong_with_it;
    my ($written, $read) = map { scalar(() = $text =~ /\b$_ 4096\/4096 bytes/g) } 'wrote', 'read';
    return $text =~ /^Run completed in/m ? undef : "it says: $text" if !$run->{requests};
    return $written == $run->{requests} && $read == $run->{requests} ? undef : "of $run->{requests} requests, $written have written and $read read";
}

sub machine { my ($name, %more) = @_; return { name => $name, start => \&begin, finish => \&finish, format => 'raw', disks => 1, rings => 1, stops => 1, pace => 0.08, linger => 0.5, %more } }

sub tool { my ($name, $start, %more) = @_; return { name => $name, start => $start, finish => \&finish_tool, ends => 1, pace => 0.08, linger => 0.5, %more } }

sub why_missing
{
    my ($missing) = grep { !have($_) } qw(qemu-system-x86_64 qemu-img qemu-io);
    return "$missing is not there" if defined $missing;
    return 'its guest is not built: that takes i686-linux-gnu-gcc' if !-e $guest;
    return direct_folder() ? undef : 'no file system here takes O_DIRECT';
}

sub program
{
    return {
        name    => 'qemu',
        missing => \&why_missing,
        setup   => sub { my $said = finds_a_wrong_block(); die "its guest does not find a wrong block: $said\n" if defined $said },
        forms   => [
            machine('raw'),
            machine('a slow disk', slow => 1000),
            machine('slow qcow2, flush', slow => 1000, format => 'qcow2', words => 'flush'),
            # Stacks of coroutines go from thread to thread, and each thread keeps hundreds.
            machine('iothreads, slow, flush', slow => 1000, disks => 2, threads => 1, words => 'flush', grows => ['mappings']),
            tool('qemu-img bench, slow', \&bench, slow => 1000, options => '-d 32 -w'),
            tool('qemu-io, slow', \&io, slow => 1000),
        ],
    };
}

1;
