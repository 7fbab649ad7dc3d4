# SPDX-License-Identifier: MIT
# tgt, a server of disks over iSCSI, whose requests go to native AIO and whose events come through an eventfd. What it
# serves is written, read back and compared by qemu-io, many requests at a time.
package Soak::tgt;
use strict;
use warnings;
use Cli;
use IO::Socket::INET;
use POSIX qw(mkfifo);
use Soak;
use Test::More;

my $block = 16384;
my $blocks = 1024;    # of each disk
my $F_SETPIPE_SZ = 1031;

# Its heap takes at once what it will ever need, and gives nothing back.
my %heap = (GLIBC_TUNABLES => join ':', map { "glibc.malloc.$_" } qw(top_pad=67108864 trim_threshold=1073741824 mmap_max=0));

# ---- the server ----

sub free_port { return IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1)->sockport }

sub admin
{
    my ($run, @arguments) = @_;
    local $ENV{TGT_IPC_SOCKET} = $run->{socket};
    my $said = run_command('tgtadm', '--lld', 'iscsi', @arguments);
    die "tgtadm @arguments: $said->{out}$said->{err}" if $said->{status};
    return $said->{out};
}

sub add_disk
{
    my ($run, $number) = @_;
    my $path = direct_folder() . "/disk-$$-$number";
    open my $file, '>', $path or die "$path: $!\n";
    truncate $file, $block * $blocks or die "$path: $!\n";
    push @{ $run->{disks} }, $path;
    admin($run, qw(--mode logicalunit --op new --tid 1 --lun), $number, '-b', $path, qw(--bstype aio));
}

# It has a socket of its own for tgtadm, since it would leave it in /run for good.
sub start_server
{
    my ($form) = @_;
    my ($port, $socket) = (free_port(), fresh('.socket'));
    my $run = launch({ slow => $form->{slow}, env => { %heap, TGT_IPC_SOCKET => $socket } }, 'tgtd', '-f', '--iscsi', "portal=127.0.0.1:$port");
    my $name = "iqn.2024-01.test:soak-$port";
    @$run{qw(socket url drivers disks)} = ($socket, "iscsi://127.0.0.1:$port/$name", [], []);
    wait_until(sub { eval { admin($run, qw(--mode target --op new --tid 1 -T), $name); 1 } || defined wait_for_end($run, 0) }, 20);
    add_disk($run, $_) for 1 .. $form->{disks};
    admin($run, qw(--mode target --op bind --tid 1 -I ALL));
    wait_for_rings($run, $form->{disks});
    return $run;
}

# ---- what works on it ----

# Has a qemu-io write and read without end, or until it gets a TERM; what it is told is also what its answers
# are held against. One batch at a time, no block twice in it: the order of requests in flight is nobody's promise.
sub drive
{
    my ($commands, $told, $batch) = @_;
    my ($is_over, @written) = (0);
    local $SIG{TERM} = sub { $is_over = 1 };
    open my $to, '>', $commands or die "$commands: $!\n";
    fcntl $to, $F_SETPIPE_SZ, 4096 or die "$commands: $!\n";    # or there would be much to be done before the end
    $to->autoflush;
    my ($writes, $reads) = (0, 0);
    while (!$is_over) {
        my %of;
        $of{ int rand $blocks } = 1 + int rand 255 for 1 .. $batch;
        print {$to} join '', map { $written[$_] = $of{$_}; $writes++; "aio_write -P $of{$_} " . $_ * $block . " $block\n" } keys %of;
        print {$to} "aio_flush\n";
        my %again = map { $_ => 1 } keys %of, grep { defined $written[$_] } map { int rand $blocks } 1 .. $batch;
        print {$to} join '', map { $reads++; "aio_read -P $written[$_] " . $_ * $block . " $block\n" } keys %again;
        print {$to} "aio_flush\n";
    }
    print {$to} "quit\n";
    close $to or die "$commands: $!\n";
    spit($told, "$writes $reads\n");
}

# (Each of the two waits for the other to open the FIFO.)
sub start_driver
{
    my ($run, $number, $batch) = @_;
    my ($commands, $told) = (fresh('.commands'), fresh('.told'));
    mkfifo($commands, 0600) or die "$commands: $!\n";
    my $io = launch({ stdin => $commands }, 'qemu-io', '-f', 'raw', "$run->{url}/$number");
    my $seed = int rand 1 << 30;
    my $driver = launch(sub { srand $seed; drive($commands, $told, $batch) });
    push @{ $run->{drivers} }, { io => $io, driver => $driver, told => $told };
}

sub complaint
{
    my ($driver) = @_;
    return slurp($driver->{io}{log}) =~ /^(.*(?:fail|error|time-?out|timed out).*)$/im ? "qemu-io says: $1" : undef;
}

# What is wrong with its answers; nothing if each request was answered, and rightly.
sub end_driver
{
    my ($driver, $seconds) = @_;
    my $io = $driver->{io};
    kill 'TERM', $driver->{driver}{pid};
    my @status = map { wait_for_end($_, $seconds) } $driver->{driver}, $io;
    kill_driver($driver);
    my $wrong = complaint($driver);
    return $wrong if defined $wrong;
    my $text = slurp($io->{log});
    return 'qemu-io does not end: ' . substr $text, -500 if @status < 2;
    return "qemu-io has ended with status $status[1], and what drives it with $status[0]: " . substr $text, -500 if $status[0] || $status[1];
    my ($writes, $reads) = split ' ', slurp($driver->{told});
    my $wrote = () = $text =~ m{^(?:qemu-io> )*wrote $block/$block bytes}mg;
    my $read = () = $text =~ m{^(?:qemu-io> )*read $block/$block bytes}mg;
    return "$wrote of $writes writes and $read of $reads reads came to their end" if $wrote != $writes || $read != $reads;
    return $writes ? undef : 'nothing was written';
}

# Without its server qemu-io would go on connecting.
sub kill_driver { my ($driver) = @_; end_now($_) for @$driver{qw(driver io)} }

# ---- both ----

sub begin
{
    my ($form) = @_;
    my $run = start_server($form);
    start_driver($run, $_, $form->{batch} // 48) for 1 .. $form->{disks};
    wait_until(sub { !grep { slurp($_->{io}{log}) !~ /^(?:qemu-io> )*read /m } @{ $run->{drivers} } }, 30);
    return $run;
}

sub finish
{
    my ($run) = @_;
    my @drivers = @{ $run->{drivers} };
    my $has_ended = defined wait_for_end($run, 0);
    my @wrong = $has_ended ? 'it has ended: ' . slurp($run->{log}) : ();
    if ($has_ended || defined $run->{wrong}) {
        kill_driver($_) for @drivers;
        push @wrong, grep { defined } map { complaint($_) } @drivers;
    } else {
        push @wrong, grep { defined } map { end_driver($_, $PATIENCE) } @drivers;
        push @wrong, "it says: $1" if slurp($run->{log}) =~ /^(.*bs_aio_(?!open).*)$/m;
    }
    end_now($run);
    unlink @{ $run->{disks} }, $run->{socket} . '.0', $run->{socket} . '.0.lock';
    return @wrong ? join '; ', @wrong : undef;
}

# What checks must fail when there is something to find: here, that blocks are others, and that an answer does not come.
sub finds_what_is_wrong
{
    my $run = begin({ disks => 2 });
    my ($with_other_blocks, $without_answer) = @{ $run->{drivers} };
    wait_until(sub {
        open my $disk, '+<', $run->{disks}[0] or die "$run->{disks}[0]: $!\n";
        print {$disk} "\0" x ($block * $blocks);
        close $disk;
        return defined complaint($with_other_blocks);
    }, 20);
    kill 'STOP', $run->{pid};
    my @said = (complaint($with_other_blocks) // '', end_driver($without_answer, 1) // '');
    $run->{wrong} = 'as it should be';
    finish($run);
    return "other blocks are not found: $said[0]" if $said[0] !~ /Pattern verification failed/;
    return "a lost answer is not found: $said[1]" if $said[1] !~ /does not end/;
    return;
}

sub form { my ($name, %more) = @_; return { name => $name, disks => 1, start => \&begin, finish => \&finish, steady => 1, stops => 1, %more } }

sub missing
{
    for my $program (qw(tgtd tgtadm qemu-io)) {
        return "$program is not there" if !have($program);
    }
    return 'qemu-io does not speak iSCSI' if !grep { -e } glob '/usr/lib/*/qemu/block-iscsi.so /usr/lib64/qemu*/block-iscsi.so';
    return direct_folder() ? undef : 'no file system here takes O_DIRECT';
}

sub program
{
    return {
        name    => 'tgt',
        missing => \&missing,
        setup   => sub { my $said = finds_what_is_wrong(); die "$said\n" if defined $said },
        forms   => [
            form('one disk'),
            form('three disks', disks => 3),
            form('a slow disk', slow => 400),
            form('two slow disks', disks => 2, slow => 400),
            # (It takes 128 at a time.)
            form('a full queue, slow', batch => 200, slow => 1000),
        ],
    };
}

1;
