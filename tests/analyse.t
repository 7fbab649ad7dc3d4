#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# What analysers find in the sources: nothing. `make check` has those that are quick; with ANALYSE=all (`make analyse`)
# also clang-tidy. Each of them is given something to find, too, or its silence would say nothing.
use strict;
use warnings;
use File::Temp qw(tempdir);
use Test::More;
use lib 'tests';
use Build;

# Of other versions, each finds something else.
my %version = (gcc => 12, cppcheck => '2.10', 'clang-tidy' => 14);

my $host = make_var('HOST_ARCH');
my @arches = split ' ', make_var('BLOB_ARCHES');
my @blobs = qw(pie/restore.c pie/stage.c pie/run.c);
my @sources = grep { my $file = $_; !grep { $_ eq $file } @blobs } glob('pie/*.c loader/*.c');
my $common = make_var('CPPFLAGS_COMMON') =~ s/(-DAIOR_VERSION=)\S+/$1'"0"'/r;
my $flags = "-std=gnu11 $common" . ' -I' . make_var("$host.dir") . qq( -DBLOB_DIR='"$BUILD"' -DBLOB_ARCH='"$host"');
my $dir = tempdir('aior-analyse-XXXXXX', TMPDIR => 1, CLEANUP => 1);
chomp(my $cpus = `nproc`);

# Where there is no header for it, there is nothing to look at.
@sources = grep { $_ ne 'loader/criu-plugin.c' } @sources if !make_var('CRIU_HEADER');
for my $reader (qw(core criu)) {
    @sources = grep { $_ ne "loader/$reader.c" } @sources if make_var('READERS') !~ /\b$reader\b/;
}

spew("$dir/bad.c", <<'C');
#include <stdlib.h>
int f(int n);
int f(int n)
{
	int *p = malloc(sizeof(*p)), value;

	if (!p)
		return 0;
	free(p);
	if (n == 7)
		free(p);
	return n > 3 ? value : 0;
}
C

# Why an analyser is not asked; undef: it is.
sub why_not {
    my ($tool, $program) = @_;
    my $said = run("$program --version");
    return "there is no $program" if $said =~ /^exit/;
    my ($found) = $said =~ /\b(\d+(?:\.\d+)*)\b/;
    return $found =~ /^\Q$version{$tool}\E\b/ ? undef : "$program is of version $found, not $version{$tool}";
}

# Runs commands beside each other; what they all said.
sub run_all {
    my @commands = @_;
    my $n = 0;
    spew("$dir/commands", join '', map { $n++; "$_ >$dir/said$n 2>&1 || echo \"exit \$?\" >>$dir/said$n\n" } @commands);
    run("xargs -P $cpus -d '\\n' -n 1 sh -c <$dir/commands");
    my @said = map { slurp("$dir/said$_") } 1 .. $n;
    unlink map { "$dir/said$_" } 1 .. $n;
    return join '', @said;
}

# A finding that is none says so in its line, with the reason: "-Wanalyzer-…: REASON". One that is gone says it in vain.
sub judge_gcc {
    my ($said, $name, @files) = @_;
    my (%excused, @left);
    for my $file (@files) {
        my @lines = split /\n/, slurp($file);
        $lines[ $_ - 1 ] =~ m{/\* (-Wanalyzer-[\w-]+): \w} and $excused{"$file:$_:$1"} = 0 for 1 .. @lines;
    }
    for ($said =~ /^(\S+:\d+:\d+: (?:warning|error): .*|.*\berror: .*|exit \d+)$/mg) {
        my ($place, $kind) = /^(\S+:\d+):\d+: .*\[(?:-Werror=|-W)(analyzer-[\w-]+)/;
        if ($place && exists $excused{"$place:-W$kind"}) {
            $excused{"$place:-W$kind"}++;
        } else {
            push @left, $_;
        }
    }
    push @left, map { "$_: excused, and not found" } grep { !$excused{$_} } sort keys %excused;
    is(join("\n", @left), '', $name);
}

sub analyse_with_gcc {
    for my $arch (@arches) {
        my $gcc = make_var("$arch.prefix") . 'gcc';
        my $why = why_not('gcc', $gcc);
        skip($why, 1) if $why;
        my $as_built = make_var('BLOB_CFLAGS') . ' ' . make_var("$arch.cflags") . ' -Wno-error -Ipie -I' . make_var("$arch.dir");
        my $n = 0;
        judge_gcc(run_all(map { $n++; "$gcc $as_built -fanalyzer -c -o $dir/$n.o $_" } @blobs), "gcc -fanalyzer: the blobs of $arch", @blobs);
    }
    my $why = why_not('gcc', 'gcc');
    skip($why, 2) if $why;
    my $gcc = "gcc $flags -O2 -Wall -Wextra -fanalyzer -c -o /dev/null";
    my $found = run("$gcc $dir/bad.c");
    ok($found =~ /-Wanalyzer-double-free/, 'gcc -fanalyzer finds what is there') or diag $found;
    judge_gcc(run_all(map { "$gcc $_" } @sources), 'gcc -fanalyzer: the host side', @sources);
}

sub analyse_with_cppcheck {
    my $why = why_not('cppcheck', 'cppcheck');
    skip($why, 2) if $why;
    my $check = "cppcheck -q -j $cpus --enable=warning,portability,performance --inline-suppr --error-exitcode=1 --std=c11 "
        . '-D_GNU_SOURCE -DAIOR_READS_CORE=1 -DAIOR_READS_CRIU=1 -Ipie -Iarch -I' . make_var("$host.dir") . ' -Iloader -Itests';
    my $found = run("$check $dir/bad.c");
    ok($found =~ /doubleFree/ && $found =~ /uninitvar/, 'cppcheck finds what is there') or diag $found;
    is(run("$check pie loader arch tests/*.c"), '', 'cppcheck: all, tests too');
}

# The blobs with calls that an analyser can follow.
sub analyse_with_clang_tidy {
    my $why = why_not('clang-tidy', 'clang-tidy');
    skip($why, 2) if $why;
    my $tidy = 'clang-tidy --quiet';
    my $found = run("$tidy --config-file=.clang-tidy $dir/bad.c -- -std=gnu11 2>/dev/null");
    ok($found =~ /clang-analyzer-unix.Malloc/ && $found =~ /uninitialized/, 'clang-tidy finds what is there') or diag $found;
    my @commands = map { "$tidy $_ -- -Itests/analyse $flags 2>/dev/null" } @blobs, @sources;
    is(run_all(@commands), '', 'clang-tidy: blobs and the host side');
}

SKIP: { analyse_with_gcc() }
SKIP: { analyse_with_cppcheck() }
SKIP: {
    skip('clang-tidy takes minutes: make analyse', 2) if ($ENV{ANALYSE} // '') ne 'all';
    analyse_with_clang_tidy();
}
done_testing();
