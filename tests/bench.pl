#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# All that `make bench` measures: what tests/bench.c and tests/bench-live.c do, real programs, CRIU, sizes. Prints
# tables; everything is also in one file of JSON, and how it grows in a picture.
#
# usage: bench.pl RESULTS.json PICTURE.svg
use strict;
use warnings;
use lib 'tests';
use Cli;
use Criu;
use JSON::PP ();
use Time::HiRes qw(sleep time);

my ($json_path, $picture) = @ARGV;
die "usage: bench.pl RESULTS.json PICTURE.svg\n" if !$picture;
my $effort = ($ENV{TEST_EFFORT} // 100) / 100;
$| = 1;

sub median { my @sorted = sort { $a <=> $b } @_; return @sorted ? ($sorted[ $#sorted / 2 ] + $sorted[ @sorted / 2 ]) / 2 : 0 }
sub rounds { my ($most) = @_; my $n = int $most * $effort; return $n > 0 ? $n : 1 }

# One of the programs, and what it has written.
sub measured_by
{
    my ($program) = @_;
    my $path = fresh('.json');
    system("$BUILD/tests/$program", $path) and die "bench: $program has failed\n";
    return json(slurp($path));
}

# How long it stood still in all, and what the drain of a process with one idle ring took in the same moment.
sub time_stage
{
    my ($pid, $idle) = @_;
    my @took;
    for my $one ($idle, $pid) {
        my $staged = json(run_tool('stage', $one, '--json')->{out});
        my $restored = json(run_tool('restore', $one, '--json')->{out});
        return if !$staged->{staged} || !$restored->{restored};
        push @took, $staged->{blob_ms}, $staged->{stood_ms} + $restored->{stop_ms} + $restored->{prepare_ms} + $restored->{blob_ms} + $restored->{finish_ms};
    }
    return @took[ 3, 0 ];
}

sub measure_fio
{
    return { not_measured => 'there is no fio' } if !have('fio');
    my $file = fresh('.fio');
    my $fio = program('fio', '--name=bench', "--filename=$file", '--size=16m', '--ioengine=libaio', '--direct=1', '--rw=randrw', '--iodepth=32', '--numjobs=4',
        '--thread', '--time_based', '--runtime=120', '--output=/dev/null');
    my $idle = leaver('--ring', 'n=1');
    wait_until(sub { (() = slurp("/proc/$fio->{pid}/maps") =~ /\[aio\]/g) >= 4 || has_ended($fio->{pid}) }, 15);
    my @times = map { [ time_stage($fio->{pid}, $idle->{pid}) ] } 1 .. rounds(15);
    end($_) for $fio, $idle;
    @times = grep { @$_ == 2 } @times;
    return { not_measured => 'fio does not run here with libaio and O_DIRECT: ' . slurp($fio->{log}) =~ s/\n.*//sr } if !@times;
    my ($down, $grace) = (median(map { $_->[0] } @times), median(map { $_->[1] } @times));
    return { down_ms => $down, grace_ms => $grace, ratio => $grace / $down, rounds => scalar @times };
}

# A dump and a restore of the same program, with the plugin and without, in turns.
sub measure_criu
{
    my $why = why_no_criu();
    return { not_measured => $why =~ s/\s+\z//r } if $why;
    my %took;
    for my $round (1 .. rounds(5)) {
        for my $plain ($round % 2 ? (0, 1) : (1, 0)) {
            my $program = worker_alone('--rings', 2, '--quiet', '--inflight', 'zeros=9');
            my $start = time;
            my $dump = criu_dump($program, plain => $plain);
            my $why = $dump->{status} ? $dump->{log} : criu_restore($program, $dump->{folder}, plain => $plain);
            push @{ $took{$plain} }, 1000 * (time - $start);
            end($program->{criu}) if $program->{criu};
            end($program);
            return { not_measured => "CRIU fails here: $why" =~ s/\n.*//sr } if $why;
        }
    }
    my ($with, $without) = map { median(@{ $took{$_} }) } 0, 1;
    return { with_ms => $with, without_ms => $without, ratio => $with / $without, rounds => scalar @{ $took{0} } };
}

sub row
{
    my ($name, $row, $format, @fields) = @_;
    printf "  %-46s%s\n", $name, $row->{not_measured} ? "not measured: $row->{not_measured}" : sprintf $format, map { $row->{$_} } @fields;
    return;
}

# ---- the picture ----

my %plots = (
    'growth, rings' => [ 'restore of rings of 127 slots', 'rings', 'ms' ],
    'growth, stage' => [ 'stage of idle rings', 'rings', 'ms' ],
    'growth, slots' => [ 'restore of one ring', 'slots', 'ms' ],
);

sub draw
{
    my ($tables) = @_;
    return 'there is no gnuplot' if !have('gnuplot');
    my $script = "set terminal svg size 1000,340 background 'white'\nset output '$picture'\nset multiplot layout 1,3\n"
        . "set logscale xy\nset key left top\nset grid\n";
    for my $table (grep { $plots{ $_->{name} } } @$tables) {
        my ($title, $x, $y) = @{ $plots{ $table->{name} } };
        my %points;
        for my $row (@{ $table->{rows} }) {
            $points{$_} .= sprintf "%s %.6f\n", $row->{name}, $row->{$_}{us} / 1000 for grep { $row->{$_} } qw(ours floor);
        }
        next if !%points;
        $script .= "\$$_ << EOD\n$points{$_}EOD\n" for sort keys %points;
        $script .= "set title '$title'\nset xlabel '$x'\nset ylabel '$y'\nplot "
            . join(', ', map { "\$$_ with linespoints title '$_'" } sort { $b cmp $a } keys %points) . "\n";
    }
    my $path = fresh('.gnuplot');
    spit($path, $script);
    my $result = run_command('gnuplot', $path);
    return $result->{status} ? "gnuplot: $result->{err}" : undef;
}

# ---- all of it ----

my $results = measured_by('bench');
$results->{live} = measured_by('bench-live');
print "\nreal programs: rounds in which all that is compared takes turns\n";
$results->{fio} = measure_fio();
row('fio, four jobs: stage and restore', $results->{fio}, '%.1f ms, of which grace periods %.1f ms (%.2f)', qw(down_ms grace_ms ratio));
$results->{criu} = measure_criu();
row('CRIU, dump and restore: with the plugin', $results->{criu}, '%.0f ms, without %.0f ms (%.2f)', qw(with_ms without_ms ratio));
my $why = draw($results->{tables});
print "\nThe picture is not drawn: $why\n" if $why;
$results->{picture} = $why ? { not_drawn => $why } : $picture;
spit($json_path, JSON::PP->new->canonical->pretty->encode($results));
print "\nAll of this: $json_path", $why ? '' : "; how it grows: $picture", "\n";
