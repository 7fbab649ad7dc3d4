# SPDX-License-Identifier: MIT
# fio: it writes, reads back and verifies.
package Soak::fio;
use strict;
use warnings;
use Cli;
use Soak;

# (Without serialize_overlap it writes blocks that it is just reading back, and finds errors of its own making. With
# disk_util it opens files of /sys now and then.)
my @options = (
    '--name=job', '--ioengine=libaio', '--direct=1', '--rw=randwrite', '--verify=crc32c', '--verify_fatal=1', '--do_verify=1',
    '--verify_backlog=16', '--serialize_overlap=1', '--verify_state_save=0', '--time_based', "--runtime=$RUN_SECONDS", '--eta=never',
    '--randrepeat=0', '--disk_util=0'
);

sub has_files { my ($pid) = @_; my $folder = direct_folder(); return scalar grep { (readlink // '') =~ /^\Q$folder\E/ } glob "/proc/$pid/fd/*" }

# (One arena, so that its heap is one mapping, however it grows.)
sub begin
{
    my ($form) = @_;
    my $run = launch({ env => { GLIBC_TUNABLES => 'glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0' }, slow => $form->{slow} },
        'fio', @options, '--directory=' . direct_folder(), @{ $form->{options} });
    $run->{jobs} = $form->{jobs} // 1;
    wait_for_rings($run, $run->{jobs});
    # Each job opens its file after that, and then is as it stays.
    wait_until(sub { defined wait_for_end($run, 0) || !grep { has_rings($_) > has_files($_) } @{ $run->{pids} } }, 10);
    return $run;
}

sub finish
{
    my ($run) = @_;
    my ($text, $wrong) = come_to_end($run, qr/^(?:fio|verify):|err= *[1-9]/m);
    return $wrong if defined $wrong;
    # (It has a line "read:" only of a job whose last reads have taken a millisecond.)
    my @issued = $text =~ /^ +issued rwts: total=(\d+),(\d+),/mg;
    return @issued == 2 * $run->{jobs} && !grep({ $_ == 0 } @issued) ? undef : "not every job has both written and read: " . substr($text, 0, 2000);
}

sub form { my ($name, $options, %more) = @_; return { name => $name, options => [ split ' ', $options ], start => \&begin, finish => \&finish, ends => 1, steady => 1, %more } }

sub program
{
    return {
        name    => 'fio',
        missing => sub { return 'fio is not there' if !have('fio'); return direct_folder() ? undef : 'no file system here takes O_DIRECT' },
        forms   => [
            form('4 KiB at iodepth 32', '--bs=4k --iodepth=32 --size=32m'),
            form('1 MiB at iodepth 64', '--bs=1m --iodepth=64 --size=256m'),
            form('jobs as processes', '--bs=64k --iodepth=16 --size=32m --numjobs=3', jobs => 3),
            form('jobs as threads', '--bs=64k --iodepth=16 --size=32m --numjobs=3 --thread', jobs => 3),
            form('userspace_reap', '--bs=4k --iodepth=32 --size=32m --userspace_reap'),
            form('fsync', '--bs=16k --iodepth=16 --size=32m --fsync=16'),
            form('a slow disk', '--bs=4k --iodepth=32 --size=1m', slow => 400),
            form('threads, a slow disk', '--bs=16k --iodepth=16 --size=1m --numjobs=3 --thread', jobs => 3, slow => 400),
            form('reaped, a slow disk', '--bs=4k --iodepth=32 --size=1m --userspace_reap', slow => 400),
            form('limited rate', '--bs=4k --iodepth=8 --size=16m --rate_iops=2000'),
        ],
    };
}

1;
