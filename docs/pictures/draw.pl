#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Draws docs/pictures/*.svg from docs/pictures/recorded.json. usage: docs/pictures/draw.pl [FOLDER]
use strict;
use warnings;
use JSON::PP;

my $folder = $ARGV[0] // 'docs/pictures';
my ($ink, $grey, $pale, $strong, $other) = ('#1f2933', '#7b8794', '#e4e7eb', '#2f6f9f', '#c05621');
my @svg;

sub escaped { my ($text) = @_; $text =~ s/&/&amp;/g; $text =~ s/</&lt;/g; return $text }
sub rect { my ($x, $y, $w, $h, $fill) = @_; push @svg, sprintf '<rect x="%g" y="%g" width="%g" height="%g" fill="%s"/>', $x, $y, $w, $h, $fill }
sub frame { my ($x, $y, $w, $h) = @_; push @svg, sprintf '<rect x="%g" y="%g" width="%g" height="%g" fill="none" stroke="%s"/>', $x, $y, $w, $h, $grey }
sub line { my ($x1, $y1, $x2, $y2, $colour) = @_; push @svg, sprintf '<line x1="%g" y1="%g" x2="%g" y2="%g" stroke="%s"/>', $x1, $y1, $x2, $y2, $colour // $grey }

sub text
{
    my ($x, $y, $text, %style) = @_;
    push @svg, sprintf '<text x="%g" y="%g" font-size="%g" text-anchor="%s" fill="%s">%s</text>', $x, $y, $style{size} // 13, $style{anchor} // 'start',
        $style{fill} // $ink, escaped($text);
}

sub picture
{
    my ($name, $title, $width, $height, $draw) = @_;
    @svg = ();
    rect(0, 0, $width, $height, '#ffffff');
    $draw->();
    open my $out, '>', "$folder/$name.svg" or die "$folder/$name.svg: $!";
    print $out qq(<!-- SPDX-License-Identifier: MIT; drawn by docs/pictures/draw.pl -->\n),
        qq(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 $width $height" font-family="sans-serif" role="img">\n),
        '<title>', escaped($title), "</title>\n", map({ "$_\n" } @svg), "</svg>\n";
    close $out or die "$folder/$name.svg: $!";
}

# ---- rings ----

my $slot = 6;

# Its slots, those that are pending filled, with head and tail below.
sub ring
{
    my ($x, $y, $ring, $colour) = @_;
    my ($nr, $head, $tail) = @$ring{qw(nr head tail)};
    for my $i (0 .. $nr - 1) {
        my $pending = $head <= $tail ? $i >= $head && $i < $tail : $i >= $head || $i < $tail;
        rect($x + $i * $slot, $y, $slot - 1, 22, $pending ? $colour : $pale);
    }
    text($x, $y - 5, 'slot 0', size => 11, fill => $grey);
    text($x + $nr * $slot, $y - 5, 'slot ' . ($nr - 1), size => 11, fill => $grey, anchor => 'end');
    for my $mark ([ $head, "head $head" ], [ $tail, "tail $tail" ]) {
        my $at = $x + ($mark->[0] + 0.5) * $slot;
        line($at, $y + 23, $at, $y + 32, $ink);
        text($at, $y + 45, $mark->[1], size => 12, anchor => $at > 700 ? 'end' : 'middle');
    }
}

sub box
{
    my ($x, $y, $w, $title, @lines) = @_;
    frame($x, $y, $w, 26 + 18 * @lines);
    text($x + 10, $y + 18, $title, size => 13, fill => $strong);
    text($x + 10, $y + 19 + 18 * $_, $lines[$_ - 1], size => 12) for 1 .. @lines;
}

open my $in, '<', 'docs/pictures/recorded.json' or die "recorded.json: $!";
my $recorded = decode_json(do { local $/; <$in> });

picture('ring', 'A ring in memory, and the context behind it', 820, 250, sub {
    my $ring = $recorded->{wrapped};
    text(20, 24, "In the process: one mapping, /[aio]. $ring->{pending} of $ring->{nr} slots are pending, and the ring has wrapped.");
    ring(30, 58, $ring, $strong);
    box(20, 140, 380, 'In the same mapping, in front of the slots', 'a header of 32 bytes: id, nr, head, tail, magic', 'the program may write to it, and does: to head', 'its address is the handle, aio_context_t');
    box(420, 140, 380, 'In the kernel: the context', 'requests in flight, and who waits', 'its own tail: where the next event will be written', 'no system call reads or sets any of it');
});

picture('stage', 'A ring with a poll in flight: live, staged, restored', 820, 340, sub {
    my $polls = $recorded->{steps}[1]{polls};
    my @says = (
        "live: the context is in the kernel, with $polls poll in flight",
        "staged: plain memory at the same address; the capsule remembers $polls poll; the kernel has nothing",
        "restored: a new context at the same address, its tail in step; $polls poll in flight again",
    );
    for my $i (0 .. 2) {
        my ($ring, $y) = ($recorded->{steps}[$i], 110 * $i);
        text(20, $y + 24, $says[$i]);
        ring(30, $y + 52, $ring, $ring->{state} eq 'staged' ? $other : $strong);
    }
});

# ---- charts ----

sub logarithm { return log($_[0]) / log(2) }

# $axes: for x and y the range, the marks, what is there, and a function that says how far along something is.
sub axes
{
    my ($x, $y, $w, $h, $axes) = @_;
    my %to;
    for my $axis (qw(x y)) {
        my ($low, $high, $scale) = (@{ $axes->{$axis} }{qw(low high)}, $axes->{$axis}{scale} // sub { $_[0] });
        my ($from, $length) = $axis eq 'x' ? ($x, $w) : ($y + $h, -$h);
        $to{$axis} = sub { $from + $length * ($scale->($_[0]) - $scale->($low)) / ($scale->($high) - $scale->($low)) };
    }
    for my $mark (@{ $axes->{y}{marks} }) {
        my $at = $to{y}->($mark);
        line($x, $at, $x + $w, $at, $pale);
        text($x - 8, $at + 4, $mark, size => 11, anchor => 'end', fill => $grey);
    }
    for my $mark (@{ $axes->{x}{marks} }) {
        text($to{x}->($mark), $y + $h + 18, $mark, size => 11, anchor => 'middle', fill => $grey);
    }
    line($x, $y + $h, $x + $w, $y + $h);
    text($x + $w, $y + $h + 38, $axes->{x}{what}, size => 12, anchor => 'end');
    text($x - 45, $y - 12, $axes->{y}{what}, size => 12);
    return @to{qw(x y)};
}

sub curve
{
    my ($colour, @points) = @_;
    push @svg, sprintf '<polyline fill="none" stroke="%s" stroke-width="2" points="%s"/>', $colour, join ' ', map { sprintf '%.1f,%.1f', @$_ } @points;
}

picture('sizes', 'The smallest ring that a host makes', 820, 330, sub {
    my ($x, $y) = axes(70, 40, 720, 230, {
        x => { low => 0, high => 256, marks => [ 1, 15, 31, 63, 127, 191, 255 ], what => 'possible CPUs of the host' },
        y => { low => 0, high => 2200, marks => [ 127, 511, 1023, 1535, 2047 ], what => 'slots of the smallest ring' },
    });
    my ($from, @points) = (1);
    for my $size (@{ $recorded->{sizes} }) {
        push @points, [ $x->($from), $y->($size->{nr}) ], [ $x->($size->{cpus} + 1), $y->($size->{nr}) ];
        $from = $size->{cpus} + 1;
    }
    curve($strong, @points);
    text($x->(100), $y->(300), 'A host makes no ring below its line: one that was saved there', size => 12);
    text($x->(100), $y->(120), 'must come back larger, or not at all.', size => 12);
});

picture('times', 'How long contexts take to go', 820, 330, sub {
    my ($x, $y) = axes(70, 40, 640, 230, {
        x => { low => 1, high => 1024, scale => \&logarithm, marks => [ 1, 4, 16, 64, 256, 1000 ], what => 'rings of a process' },
        y => { low => 10, high => 4096, scale => \&logarithm, marks => [ 10, 40, 100, 400, 1000, 4000 ], what => 'ms' },
    });
    for my $line ([ 'row', $other, 'io_destroy, one after the other' ], [ 'stage', $strong, 'aio-restorer stage, all of it' ]) {
        my ($which, $colour, $what) = @$line;
        my @points = map { [ $x->($_->{rings}), $y->($_->{ms}) ] } @{ $recorded->{times}{$which} };
        curve($colour, @points);
        text($points[-1][0] + ($which eq 'row' ? 10 : -10), $points[-1][1] + ($which eq 'row' ? 4 : -14), $what, size => 12, fill => $colour, anchor => $which eq 'row' ? 'start' : 'end');
    }
});
