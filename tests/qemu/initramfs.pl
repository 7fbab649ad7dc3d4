#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Packs what a guest needs into the archive that its kernel unpacks into memory ("newc" of cpio; the
# kernel's Documentation/driver-api/early-userspace/buffer-format.rst). Written here, because cpio
# wants a folder laid out first, and root to make /dev/console in it.
#
# usage: initramfs.pl OUT BUILD ARCH [ARCH...]
#
# The first architecture is the guest's: its programs lie in /bin and /tests, its blobs in /blobs. The
# others are those whose programs its kernel runs too: they lie in /ARCH, and run after.
use strict;
use warnings;
use FindBin;

die "usage: initramfs.pl OUT BUILD ARCH [ARCH...]\n" unless @ARGV >= 3;
my ($out, $build, @arches) = @ARGV;
my ($FOLDER, $PROGRAM, $FILE, $DEVICE) = (040755, 0100755, 0100644, 020600);

my ($archive, $inode, %have, @list) = ('', 0);

sub add
{
    my ($path, $mode, $content, @device) = @_;
    $path =~ s{^/}{};
    my ($folder) = $path =~ m{^(.*)/};
    add($folder, $FOLDER, '') if defined $folder && !$have{$folder};
    $have{$path} = 1;
    # The magic number; inode, mode, uid, gid, links, time, size; device, the device it is; name, check.
    $archive .= sprintf('070701' . '%08X' x 13, ++$inode, $mode, 0, 0, 1, 0, length $content, 0, 0,
        @device ? @device : (0, 0), length($path) + 1, 0) . "$path\0";
    $archive .= "\0" x (-length($archive) % 4) . $content;
    $archive .= "\0" x (-length($archive) % 4);
}

sub slurp
{
    my ($path) = @_;
    open my $in, '<:raw', $path or die "initramfs.pl: $path: $!\n";
    local $/;
    return scalar(<$in>) // '';
}

# What runs, from the table beside this script.
sub programs
{
    return map { /^([\w-]+)\s+(\d+)\s*(.*)$/ ? { name => $1, seconds => $2, arguments => $3 } : () }
        split /\n/, slurp("$FindBin::Bin/programs");
}

sub add_arch
{
    my ($arch, $root, $prefix) = @_;
    my $from = "$build/guest/$arch";
    add("$root/bin/$_", $PROGRAM, slurp("$from/$_")) for qw(aio-restorer leaver);
    for my $blob (glob "$build/blob-*-$arch.bin") {
        add("$root/blobs/" . ($blob =~ s{.*/}{}r), $FILE, slurp($blob));
    }
    add("$root/blobs/tests/restore-abi2-$arch.bin", $FILE, slurp("$build/tests/restore-abi2-$arch.bin"));
    push @list, "set BLOB_DIR $root/blobs", "set TOOL $root/bin/aio-restorer", "set LEAVER $root/bin/leaver";
    for my $program (programs()) {
        add("$root/tests/$program->{name}.t", $PROGRAM, slurp("$from/$program->{name}.t"));
        push @list, "run $prefix$program->{name} $program->{seconds} $root/tests/$program->{name}.t $program->{arguments}";
    }
}

add($_, $FOLDER, '') for qw(proc sys dev tmp run);
add('dev/console', $DEVICE, '', 5, 1);
add('init', $PROGRAM, slurp("$build/guest/$arches[0]/init"));
add("corpus/$_", $FILE, slurp("tests/corpus/$_")) for map { s{.*/}{}r } glob 'tests/corpus/*';
# Emulation is slow: a twentieth of what is done again and again, and fewer mappings for the test that uses them all up.
push @list, 'set PATH /bin', 'set CORPUS /corpus', 'set TEST_EFFORT 5', 'write /proc/sys/vm/max_map_count 8000';
for my $file ('fresh.core', 'fresh.json') {
    add("foreign/$file", $FILE, slurp("$build/qemu/foreign/$file")) if -s "$build/qemu/foreign/$file";
}
push @list, 'set FOREIGN /foreign' if $have{foreign};
push @list, 'set OUT /tmp/out';
add_arch($arches[0], '', '');
for my $arch (@arches[1 .. $#arches]) {
    # Their processes, seen by the guest's own tool; and then all by theirs.
    push @list, 'set OUT /tmp', "run $arch-by-$arches[0] 60 /tests/process.t LEAVER=/$arch/bin/leaver";
    add_arch($arch, "/$arch", "$arch/");
}
add('list', $FILE, join("\n", @list) . "\n");
add('TRAILER!!!', 0, '');

open my $to, '>:raw', "$out.new" or die "initramfs.pl: $out.new: $!\n";
print $to $archive;
close $to or die "initramfs.pl: $out.new: $!\n";
rename "$out.new", $out or die "initramfs.pl: $out: $!\n";
