# SPDX-License-Identifier: MIT
#
# A disk that is slow for some processes: a control group whose requests to it wait until their time comes
# (blkio, Documentation/admin-guide/cgroup-v1/blkio-controller.rst; or io.max of cgroup-v2.rst). So there are
# requests in flight at any moment, however fast the disk is.
package SlowDisk;
use strict;
use warnings;
use Exporter 'import';
use Time::HiRes qw(sleep);

our @EXPORT = qw(why_no_slow_disk slow_disk join_slow_disk end_slow_disks);

my $owner = $$;
my %groups;    # requests a second => folder

sub read_line { my ($path) = @_; open my $file, '<', $path or return ''; return (readline $file // '') =~ s/\n//r }

sub write_line
{
    my ($path, $text) = @_;
    open my $file, '>', $path or die "$path: $!\n";
    print {$file} "$text\n";
    close $file or die "$path: $!\n";
}

# MAJOR:MINOR of the disk that a path lies on; not of its partition, which has no limit of its own.
sub disk_of
{
    my ($path) = @_;
    my $device = (stat $path)[0] // return;
    my $name = join ':', $device >> 8 & 0xfff, ($device & 0xff) | ($device >> 12 & 0xfff00);
    return read_line("/sys/dev/block/$name/../dev") if -e "/sys/dev/block/$name/partition";
    return -e "/sys/dev/block/$name" ? $name : undef;
}

# Where groups can be made, and the kind: 1 or 2.
sub hierarchy
{
    open my $mounts, '<', '/proc/self/mounts' or return;
    for (readline $mounts) {
        my (undef, $at, $type, $options) = split ' ';
        return ($at, 1) if $type eq 'cgroup' && $options =~ /\bblkio\b/ && -w $at && -e "$at/blkio.throttle.write_iops_device";
        return ($at, 2) if $type eq 'cgroup2' && -w $at && read_line("$at/cgroup.subtree_control") =~ /\bio\b/;
    }
    return;
}

sub why_no_slow_disk
{
    my ($path) = @_;
    return 'no control group of block devices can be made here' if !hierarchy();
    return defined disk_of($path) ? undef : "$path lies on no disk that has a limit";
}

# The folder of a group that gets so many requests a second, each way; it goes with this process.
sub slow_disk
{
    my ($path, $iops) = @_;
    return $groups{$iops} if $groups{$iops};
    my ($at, $kind) = hierarchy();
    my $disk = disk_of($path);
    my $group = "$at/aior-soak-$$-$iops";
    mkdir $group or die "$group: $!\n";
    $groups{$iops} = $group;
    if ($kind == 1) {
        write_line("$group/blkio.throttle.${_}_iops_device", "$disk $iops") for qw(read write);
    } else {
        write_line("$group/io.max", "$disk riops=$iops wiops=$iops");
    }
    return $group;
}

# The calling process, and what it starts, belong to it from now on.
sub join_slow_disk { my ($group) = @_; write_line("$group/cgroup.procs", $$) }

# Those of a process that is no more, or about to be. What was killed is in its group until its last request is done.
sub end_slow_disks
{
    my ($pid) = @_;
    my ($at) = hierarchy();
    for my $group (defined $at ? glob "$at/aior-soak-$pid-*" : ()) {
        for (1 .. 200) {
            last if rmdir $group;
            sleep 0.05;
        }
    }
}

END { local $?; end_slow_disks($$) if %groups && $$ == $owner }

1;
