#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# The examples, built as a newcomer builds them: with nothing but what `make install` has installed.
use strict;
use warnings;
use File::Temp qw(tempdir);
use Test::More;
use lib 'tests';
use Build;

my $dir = tempdir('aior-examples-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $make = $ENV{MAKE} // 'make';
delete @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL)};

plan skip_all => "$BUILD/aio-restorer is not built" unless -x "$BUILD/aio-restorer";
plan skip_all => 'a program with a sanitizer does not link what was built for a newcomer' if $BUILD =~ /san/;
plan skip_all => 'there is no pkg-config' if run('command -v pkg-config') =~ /^exit/;

is(run("$make -s BUILD=$BUILD PREFIX=$dir/usr install"), '', 'installed');
$ENV{PATH} = "$dir/usr/bin:$ENV{PATH}";
$ENV{PKG_CONFIG_PATH} = "$dir/usr/lib/pkgconfig";
$ENV{LD_LIBRARY_PATH} = "$dir/usr/lib";

# A copy, so that nothing of the source is beside it.
run("cp -r examples $dir/examples");
my $rust = run('command -v rustc') !~ /^exit/ && glob('/usr/include/libaio.h');
my $built = run("cd $dir/examples && $make OUT=out CFLAGS='-O2 -Wall -Wextra -Werror' RUSTFLAGS='-O -D warnings' " . ($rust ? '' : 'RUSTC=none'));
unlike($built, qr/^exit/, 'built') or diag($built);

my @events = map { "data $_ res 1\n" } 102 .. 104;
my %says = (
    'embed-c' => join('', @events),
    'embed-rust' => join('', @events),
    inject => "staged: 1 ring, 1 pending, 1 poll; 0 live\nrestored: 1 ring; 1 live\nprocess: data 1\nprocess: data 2\n",
    self => "staged: 1 ring, 1 pending, 1 poll\n" . join('', map { my $who = $_; map { "$who: data $_\n" } 1, 2 } qw(child parent)),
);
for my $example (sort keys %says) {
    SKIP: {
        skip("$example: there is no rustc, or no libaio", 1) if $example =~ /rust/ && !$rust;
        is(run("timeout 60 $dir/examples/out/$example"), $says{$example}, "$example: it says what it should");
    }
}

# The same tool, but nobody is parked: threads that have taken some of their events wait for the others all the same.
(my $unparked = slurp('examples/inject.c')) =~ s/ \.parks = 1,// or die 'nothing is parked';
spew("$dir/examples/unparked.c", $unparked);
is(run("cd $dir/examples && gcc -o out/unparked unparked.c \$(pkg-config --cflags --libs aio-restorer)"), '', 'inject, without parking: built');
is(run("timeout 60 $dir/examples/out/unparked"), $says{inject}, "inject, without parking: $_") for 1 .. 5;

# One that is none of its own.
SKIP: {
    skip('there is no worker', 1) unless -x "$BUILD/tests/leaver";
    my $pid = open my $leaver, '-|', "exec $BUILD/tests/leaver --ring n=1,head=3,tail=9 --ring n=1 <$dir/fifo" if !system "mkfifo $dir/fifo";
    open my $hold, '>', "$dir/fifo";
    readline $leaver;
    is(run("timeout 60 $dir/examples/out/inject $pid"), "staged: 2 ring, 6 pending, 0 poll; 0 live\nrestored: 2 ring; 2 live\n", 'inject: any process');
    kill 'KILL', $pid;
}

is(run("cd $dir/examples && rm out/unparked && $make -s OUT=out clean && ls out"), '', 'clean leaves nothing');

done_testing();
