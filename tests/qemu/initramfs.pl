#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Packs what a guest needs into the archive that its kernel unpacks into memory ("newc" of cpio; the
# kernel's Documentation/driver-api/early-userspace/buffer-format.rst). Written here, because cpio
# wants a folder laid out first, and root to make /dev/console in it.
#
# usage: initramfs.pl OUT BUILD ARCH [ARCH...]
#        initramfs.pl OUT BUILD soak ROOT ARCH SECONDS ROUNDS FORMS PROGRAM...
#
# The first architecture is the guest's: its programs lie in /bin and /tests, its blobs in /blobs. The
# others are those whose programs its kernel runs too: they lie in /ARCH, and run after.
#
# The second form is a folder that is a whole system (fetch.sh root), in which real programs are staged and
# restored (tests/soak.t).
use strict;
use warnings;
use FindBin;

die "usage: initramfs.pl OUT BUILD ARCH [ARCH...] | OUT BUILD soak ROOT ARCH SECONDS ROUNDS FORMS PROGRAM...\n" unless @ARGV >= 3;
my ($out, $build, @arches) = @ARGV;
my ($FOLDER, $PROGRAM, $FILE, $LINK, $DEVICE) = (040755, 0100755, 0100644, 0120777, 020600);

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

# A program that takes longer hangs: how slow an emulated machine may be, beside others on a busy host, nobody knows.
my $PATIENCE = 900;

# What runs, from the table beside this script.
sub programs
{
    return map { /^([\w-]+)\s*(.*)$/ ? { name => $1, arguments => $2 } : () }
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
        push @list, "run $prefix$program->{name} $PATIENCE $root/tests/$program->{name}.t $program->{arguments}";
    }
}

sub add_tests
{
    add($_ =~ s{^tests/}{}r, $FILE, slurp($_)) for grep { -f } glob 'tests/corpus/* tests/corpus/*/*';
    # Emulation is slow: a twentieth of what is done again and again, and fewer mappings for the test that uses them all up.
    # (riscv64 is the slowest: see boot.pl.)
    push @list, 'set PATH /bin', 'set CORPUS /corpus', 'set TEST_EFFORT ' . ($arches[0] eq 'riscv64' ? 3 : 5), 'write /proc/sys/vm/max_map_count 8000';
    for my $file ('fresh.core', 'fresh.json') {
        add("foreign/$file", $FILE, slurp("$build/qemu/foreign/$file")) if -s "$build/qemu/foreign/$file";
    }
    push @list, 'set FOREIGN /foreign' if $have{foreign};
    push @list, 'set OUT /tmp/out';
    add_arch($arches[0], '', '');
    for my $arch (@arches[1 .. $#arches]) {
        # Their processes, seen by the guest's own tool; and then all by theirs.
        push @list, 'set OUT /tmp', "run $arch-by-$arches[0] $PATIENCE /tests/process.t LEAVER=/$arch/bin/leaver";
        add_arch($arch, "/$arch", "$arch/");
    }
    # The last of Yama's scopes stays until the machine ends.
    add('tests/yama.t', $PROGRAM, slurp("$build/guest/$arches[0]/yama.t"));
    push @list, 'set TOOL /bin/aio-restorer', "run yama $PATIENCE /tests/yama.t MAY_SET_SCOPE=1";
}

# All that a folder holds; what leads to somewhere else leads there still.
sub add_folder
{
    my ($from, $to) = @_;
    my @folders = ('');
    while (defined(my $folder = shift @folders)) {
        opendir my $list, "$from/$folder" or die "initramfs.pl: $from/$folder: $!\n";
        for my $path (map { $folder eq '' ? $_ : "$folder/$_" } grep { !/^\.\.?$/ } readdir $list) {
            my $is_link = -l "$from/$path";
            add("$to$path", $LINK, readlink "$from/$path") if $is_link;
            push @folders, $path if !$is_link && -d _;
            add("$to$path", -x _ ? $PROGRAM : $FILE, slurp("$from/$path")) if !$is_link && -f _;
        }
    }
}

# CRIU, the plugin, and what is checkpointed.
sub add_criu
{
    my ($arch) = @_;
    chomp(my $criu = `tests/fetch.sh criu $arch`);
    die "initramfs.pl: there is no CRIU for $arch\n" if $?;
    add_folder($criu, 'build/criu/');
    add('build/aio_restorer.so', $PROGRAM, slurp("$build/guest/$arch/aio_restorer.so"));
    add("build/tests/$_", $PROGRAM, slurp("$build/guest/$arch/$_")) for qw(worker leaver);
    add('tests/criu.t', $FILE, slurp('tests/criu.t'));
    push @list, 'set DEATHS 4';
}

sub add_soak
{
    my (undef, $root, $arch, $seconds, $rounds, $forms, @programs) = @_;
    add_folder($root, '');
    add("build/aio-restorer", $PROGRAM, slurp("$build/guest/$arch/aio-restorer"));
    add_criu($arch) if grep { $_ eq 'criu' } @programs;
    add($_, $FILE, slurp($_)) for 'tests/soak.t', 'tests/qemu/soak.sh', glob 'tests/*.pm tests/soak/*.pm';
    # (The list is of words, so a pattern of forms is to have no spaces.)
    $forms =~ s/\s/./g;
    push @list, 'set PATH /usr/sbin:/usr/bin:/sbin:/bin', 'set HOME /tmp', "set ROUNDS $rounds", 'set PACE 8', "set FORMS $forms";
    # A round of three processes takes seven seconds.
    push @list, 'set RUN_SECONDS ' . ($rounds > 8 ? 60 : 20);
    push @list, 'run disk 60 /bin/sh tests/qemu/soak.sh', map {
        "run $_ $seconds /usr/bin/perl tests/" . ($_ eq 'criu' ? 'criu.t' : "soak.t $_")
    } @programs;
}

add($_, $FOLDER, '') for qw(proc sys dev tmp run);
add('dev/console', $DEVICE, '', 5, 1);
add('init', $PROGRAM, slurp("$build/guest/" . ($arches[0] eq 'soak' ? $arches[2] : $arches[0]) . '/init'));
$arches[0] eq 'soak' ? add_soak(@arches) : add_tests();
add('list', $FILE, join("\n", @list) . "\n");
add('TRAILER!!!', 0, '');

open my $to, '>:raw', "$out.new" or die "initramfs.pl: $out.new: $!\n";
print $to $archive;
close $to or die "initramfs.pl: $out.new: $!\n";
rename "$out.new", $out or die "initramfs.pl: $out: $!\n";
