#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# The pages: their links lead somewhere, their pictures show what is so, and what docs/embedding.md says works
# when it is followed to the letter.
use strict;
use warnings;
use File::Basename qw(dirname);
use lib 'tests', 'docs/pictures';
use Build qw(make_var);
use Cli;
use JSON::PP;
use Recorded;
use Test::More;

plan skip_all => "$BUILD/tests/leaver is not built" unless -x "$BUILD/tests/leaver";

# ---- links ----

# As they are made of headings.
sub anchors_of
{
    my ($page) = @_;
    my %anchors;
    for my $heading (slurp($page) =~ /^#+ +(.*)$/mg) {
        (my $anchor = lc $heading) =~ s/[^a-z0-9 _-]//g;
        $anchor =~ tr/ /-/;
        $anchors{$anchor} = 1;
    }
    return \%anchors;
}

my $links = 0;
for my $page ('README.md', 'SECURITY.md', glob 'docs/*.md') {
    my @lost;
    for my $link (slurp($page) =~ /\]\(([^)\s]+)\)/g) {
        next if $link =~ /^\w+:/;
        $links++;
        my ($path, $anchor) = split /#/, $link, 2;
        my $target = $path eq '' ? $page : $path eq '.' ? '.' : dirname($page) . "/$path";
        push @lost, $link if !-e $target || (defined $anchor && !anchors_of($target)->{$anchor});
    }
    is("@lost", '', "$page: every link leads somewhere");
}
ok($links > 20, "$links links");

# ---- pictures ----

my $recorded = decode_json(slurp('docs/pictures/recorded.json'));
my @pictures = map { s{.*/}{}r } glob 'docs/pictures/*.svg';
my $said = run_command('docs/pictures/draw.pl', $DIR);
is("$said->{status} $said->{out}$said->{err}", '0 ', 'drawn');
for my $picture (@pictures) {
    ok(slurp("$DIR/$picture") eq slurp("docs/pictures/$picture"), "$picture: as it is drawn from what was recorded");
    my $text = slurp("docs/pictures/$picture");
    my @open;
    my $is_sound = 1;
    while ($text =~ m{<(/?)([a-z]\w*)[^>]*?(/?)>}g) {
        push @open, $2 if !$1 && !$3;
        $is_sound = 0 if $1 && (pop @open // '') ne $2;
    }
    ok($is_sound && !@open, "$picture: each element ends");
}
is(join(' ', sort map { s{.*/}{}r } glob "$DIR/*.svg"), join(' ', sort @pictures), 'no picture is missing, and none left over');
is_deeply($recorded->{sizes}, Recorded::sizes(), 'the sizes are those of pie/ring.h');
SKIP: {
    skip('here more CPUs are possible, and rings are larger', 2) if $recorded->{wrapped}{nr} != Recorded::wrapped()->{nr};
    is_deeply($recorded->{wrapped}, Recorded::wrapped(), 'the ring is as it is here');
    is_deeply($recorded->{steps}, Recorded::steps(), 'and so is one that is staged and restored');
}

# ---- Embedding ----

SKIP: {
    skip('there is no pkg-config', 4) unless have('pkg-config');
    skip('a program with a sanitizer is nothing to follow', 4) if $SAN;
    my $page = slurp('docs/embedding.md');
    my @blocks = map { [ /^(\w*)\n(.*)\z/s ] } $page =~ /^```(.*?)^```$/msg;
    is(join(' ', map { $_->[0] || 'output' } @blocks), 'sh c sh output', 'what the page has: commands, a program, commands, what it says');
    my ($emit, $program, $build, $output) = map { $_->[1] } @blocks;
    my ($host, $make) = (make_var('HOST_ARCH'), $ENV{MAKE} // 'make');
    s/x86_64/$host/g, s/X86_64/\U$host/g for $emit, $program;
    delete local @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL)};
    my $installed = run_command($make, '-s', "BUILD=$BUILD", "PREFIX=$DIR/usr", 'install');
    is($installed->{status}, 0, 'installed') or diag($installed->{err});
    local $ENV{PATH} = "$DIR/usr/bin:$ENV{PATH}";
    local $ENV{PKG_CONFIG_PATH} = "$DIR/usr/lib/pkgconfig";
    mkdir "$DIR/first";
    spit("$DIR/first/first.c", $program);
    my $followed = run_command('sh', '-ec', "cd $DIR/first\n$emit\n$build");
    is("$followed->{out}$followed->{err}", $output, 'followed to the letter, it says what it should');
    my @first = $program =~ /\n/g;
    ok(@first < 90, scalar(@first) . ' lines make the first one');
    my $strict = run_command('sh', '-ec', "cd $DIR/first && gcc -Wall -Wextra -Werror -o first first.c \$(pkg-config --cflags aio-restorer)");
    is($strict->{err}, '', '... without a warning');
}

done_testing();
