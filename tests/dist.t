#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# `make dist`: twice the same bytes; and what it takes to build them: gcc, make, nasm and binutils, no more.
use strict;
use warnings;
use Cwd qw(getcwd);
use File::Basename qw(basename);
use File::Temp qw(tempdir);
use Test::More;
use lib 'tests';
use Build;

my $dir = tempdir('aior-dist-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $make = $ENV{MAKE} // 'make';
my ($release, $host) = (make_var('RELEASE'), make_var('HOST_ARCH'));
my @known = split ' ', make_var('KNOWN_ARCHES');
delete @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL SAN CC CFLAGS BUILD)};

plan skip_all => 'there is no git' if -e '.git' && run('command -v git') =~ /^exit/;

# ---- the same bytes ----

is(run("$make -s dist BUILD=$dir/one DIST=$dir/one.tar.gz"), '', 'a release');
is(run("umask 077; TZ=Asia/Tokyo LC_ALL=C.UTF-8 $make -s dist BUILD=$dir/two DIST=$dir/two.tar.gz"), '', 'another one');
ok(-s "$dir/one.tar.gz" && slurp("$dir/one.tar.gz") eq slurp("$dir/two.tar.gz"), 'the same bytes');
is(run("tar -xzf $dir/one.tar.gz -C $dir && ls $dir/$release/Makefile"), "$dir/$release/Makefile\n", 'unpacked');
my $tree = "$dir/$release";
ok(!-e "$tree/.git" && !-e "$tree/build", 'without git, and without what was built');
is(run("cd $tree && $make -s dist DIST=$dir/three.tar.gz"), '', 'a release of the release');
ok(slurp("$dir/one.tar.gz") eq slurp("$dir/three.tar.gz"), 'the same bytes again');

# ---- a machine with little on it ----

# Programs: those of gcc, make, nasm and binutils, and what every Debian has.
my @essential = qw(sh bash env cat chmod cp cmp cut dirname echo expr false find grep gzip head id install ln ls mkdir mktemp mv nproc od printf pwd
    rm rmdir sed sort tail tar touch tr true uname uniq wc);
my @needed = (qw(gcc make nasm), map { basename($_) } grep { -x } qw(/usr/bin/as /usr/bin/ld /usr/bin/ar /usr/bin/nm /usr/bin/objcopy /usr/bin/readelf));
mkdir "$dir/bin";
for my $program (@essential, @needed) {
    my ($path) = grep { -x } map { "$_/$program" } split /:/, $ENV{PATH};
    symlink $path, "$dir/bin/$program" if $path;
}

# Headers: all but those of the libraries that are not there.
my ($multiarch) = run('gcc -print-multiarch') =~ /(\S+)/;
my ($own) = run('gcc -print-file-name=include') =~ /(\S+)/;
run("cp -rs /usr/include $dir/include && cd $dir/include && rm -rf gelf.h libelf.h nlist.h elfutils libaio.h google protobuf-c criu fuse3 '$multiarch/gelf.h'");
unlink "$dir/bin/gcc";
my ($gcc) = run('command -v gcc') =~ /(\S+)/;
spew("$dir/bin/gcc", "#!/bin/sh\nexec $gcc -nostdinc -isystem $own -isystem $dir/include/$multiarch -isystem $dir/include \"\$@\"\n");
chmod 0755, "$dir/bin/gcc";

my $on_it = "cd $tree && export PATH=$dir/bin &&";
like(run("$on_it gcc -include gelf.h -fsyntax-only -x c /dev/null"), qr/^exit .*gelf\.h: No such file/s, 'a machine without libelf');
like(run("$on_it git; protoc-c; pkg-config; perl"), qr/git: .*protoc-c: .*pkg-config: .*perl: .*not found/s, '... and without much else');
my $built = run("$on_it make -j2");
my $others = join ' ', grep { $_ ne $host } @known;
like($built, qr/\A(?:no [^\n]+\n){3}\z/, 'built, and three lines said') or diag($built);
like($built, qr/^no ELF cores as input: missing libelf \(gelf\.h\)$/m, '... that cores are not read');
like($built, qr/^no CRIU images as input: missing libprotobuf-c \(protobuf-c\.h\) and protoc-c$/m, '... that images are not');
like($built, qr/^no blobs for \Q$others\E: missing .*-gcc/m, '... and which blobs are not there');
ok(-s "$tree/build/$_", "built: $_") for "blob-restore-$host.bin", "blob-stage-$host.bin", qw(mkblob libaio-restorer.a libaio-restorer.so aio-restorer);
is(run("$on_it make"), $built, 'a second make says it again, and makes nothing');
unlike(run("readelf -dW $tree/build/aio-restorer"), qr/NEEDED.*(?:elf|protobuf)/, 'the tool asks for no such library');

# ---- what it can do ----

my $tool = "$tree/build/aio-restorer";
like(run("$tool check"), qr/^images that are read +none$/m, 'check says that it reads no images');
for my $case ([ "./Makefile", 'ELF cores', 'libelf' ], [ './tests', "folders of CRIU's images", 'libprotobuf-c' ]) {
    my ($image, $what, $library) = @$case;
    for my $command (qw(list run check)) {
        like(run("cd $tree && $tool $command $image 2>&1 >/dev/null"), qr/^exit 1024: aio-restorer: \Q$image: this build reads no $what: there was no $library\E/,
            "$command $image: refused");
    }
}
like(run("cd $tree && $tool run --json ./tests 2>/dev/null"), qr/"error":.*"message":"[^"]*this build reads no/, '... in JSON, too');
ok(run("$tool emit --blob stage") eq slurp("$tree/build/blob-stage-$host.bin"), 'emit works');
like(run("$tool list $$"), qr/^process $$, $host: no AIO rings/, 'list works of a process');
SKIP: {
    skip('there is no leaver', 2) unless -x "$BUILD/tests/leaver";
    run("mkfifo $dir/fifo");
    my $pid = open my $leaver, '-|', "exec $BUILD/tests/leaver --ring n=1,head=3,tail=9 <$dir/fifo";
    open my $hold, '>', "$dir/fifo";
    readline $leaver;
    is(run("$tool stage $pid >/dev/null && $tool list $pid | grep -c ' staged: .* 6 pending' && $tool restore $pid >/dev/null && $tool list $pid | grep -c ' live: .* 6 pending'"),
        "1\n1\n", 'stage and restore work');
    like(run("$tool dump $pid -o $dir/core >/dev/null && readelf -nW $dir/core"), qr/AIOR/, 'dump works');
    kill 'KILL', $pid;
}
is(run("$on_it make install PREFIX=$dir/usr >/dev/null 2>&1; make uninstall PREFIX=$dir/usr && find $dir/usr ! -type d"), '', 'it can be installed, and uninstalled');

done_testing();
