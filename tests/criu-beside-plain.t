#!/usr/bin/perl
# SPDX-License-Identifier: MIT
#
# What a checkpoint by CRIU keeps, with the plugin and without: the same programs in the same run. Ours is asserted,
# the other is told as it is found. FIO_ROUNDS says how often fio is checkpointed: 20 times as a rule.
use strict;
use warnings;
use lib 'tests';
use Cli;
use Criu;
use SlowDisk;
use Test::More;
use Time::HiRes qw(sleep time);

my $why = why_no_criu();
plan skip_all => $why if $why;

my $fio_rounds = $ENV{FIO_ROUNDS} // 20;
my @table;

sub last_line { my ($text) = @_; my @lines = grep { !/^ready/ } split /\n/, $text; return $lines[-1] }

# The first that CRIU calls an error, without where it says so.
sub reason { my ($log) = @_; return $log =~ /Error \([^)]*\): (.*)/ ? $1 : $log }

# A command whose requests to the disk have to wait, where that can be had.
my ($group, $slower) = why_no_slow_disk($DIR) ? () : map { slow_disk($DIR, $_) } 200, 8;
sub slowly { return ('sh', '-c', 'echo $$ >"$0/cgroup.procs" && exec "$@"', @_) }

sub is_over { my ($program) = @_; return !kill(0, $program->{pid}) || state_of($program->{pid}) =~ /[ZX]/ || !state_of($program->{pid}) }

# A program that has said "ready" is checkpointed once: what it says then.
sub once
{
    my ($is_plain, @command) = @_;
    my $program = program(@command);
    wait_until(sub { slurp($program->{log}) =~ /^ready/m || is_over($program) }, 30);
    my $dump = criu_dump($program, plain => $is_plain);
    if ($dump->{status}) {
        end($program);
        return 'dump fails: ' . reason($dump->{log} || $dump->{err});
    }
    my $why = criu_restore($program, $dump->{folder}, plain => $is_plain);
    return 'restore fails: ' . reason($why) if $why;
    kill 'USR1', $program->{pid};
    wait_until(sub { last_line(slurp($program->{log})) || is_over($program) }, 60);
    my $said = last_line(slurp($program->{log})) // 'nothing';
    end($_) for $program, $program->{criu};
    return $said;
}

# fio, which checks all that it reads, is checkpointed again and again.
sub fio
{
    my ($is_plain) = @_;
    my $file = fresh('.fio');
    my @command = ('unshare', '--ipc', 'fio', '--name=v', "--filename=$file", '--size=64m', '--rw=randrw', '--bsrange=4k-64k',
        '--ioengine=libaio', '--iodepth=32', '--direct=1', '--verify=crc32c', '--verify_fatal=1', '--serialize_overlap=1',
        '--time_based', '--runtime=600', '--thread', '--eta=never', "--aux-path=$DIR");
    my $program = program($group ? slowly($group, @command) : @command);
    wait_until(sub { -s $file && slurp("/proc/$program->{pid}/maps") =~ /\[aio\]/ || is_over($program) }, 60);
    sleep 0.5;
    my $done = 0;
    for my $round (1 .. $fio_rounds) {
        my $dump = criu_dump($program, plain => $is_plain);
        if ($dump->{status}) {
            $why = 'dump fails: ' . reason($dump->{log} || $dump->{err});
            last;
        }
        $why = criu_restore($program, $dump->{folder}, plain => $is_plain, wrap => $group ? [slowly($group)] : []);
        File::Path::remove_tree($dump->{folder});
        if ($why) {
            $why = 'restore fails: ' . reason($why);
            last;
        }
        sleep 0.2 + rand 0.2;
        if (is_over($program) || slurp($program->{log}) =~ /verify:|error/i) {
            $why = 'fio: ' . (last_line(slurp($program->{log})) // 'it has ended');
            last;
        }
        $done = $round;
    }
    # It ends its requests in flight, and says what it has done.
    kill 'INT', $program->{pid};
    wait_until(sub { is_over($program) }, 20);
    my $log = slurp($program->{log});
    $why ||= 'its requests do not come to an end' if !is_over($program);
    my $is_well = $done == $fio_rounds && $log =~ /err= 0/ && $log !~ /verify:|failed/;
    end($_) for $program, grep { $_ } $program->{criu};
    unlink $file;
    return $is_well ? "$done of $fio_rounds rounds" : "$done of $fio_rounds rounds, then: " . ($why || substr $log, 0, 300);
}

sub row
{
    my ($name, $wanted, $run) = @_;
    my ($ours, $plain) = map { $run->($_) } 0, 1;
    is($ours, $wanted, "$name: with the plugin");
    push @table, [$name, $ours, $plain];
}

my $program = "$BUILD/tests/checkpointed";
row('four polls in flight', '4 of 4 events', sub { once($_[0], $program, 'polls') });
row('blocked in io_getevents', '1 of 1 events', sub { once($_[0], $program, 'wait') });
row('waiting for four events, two there', '4 of 4 events', sub { once($_[0], $program, 'four') });
row('1,100 contexts of one request', '1100 of 1100 contexts', sub { once($_[0], $program, 'contexts') });
SKIP: {
    skip 'O_DIRECT reads in flight: ' . why_no_slow_disk($DIR), 1 if !$group;
    my $file = spit(fresh('.blocks'), join '', map { chr($_) x 262144 } 0 .. 15);
    row('16 O_DIRECT reads in flight', '16 of 16 reads, 16 events', sub { once($_[0], slowly($slower, $program, 'reads', $file)) });
}
SKIP: {
    skip 'fio: it is not there', 1 if !have('fio');
    row("fio with verify, $fio_rounds checkpoints", "$fio_rounds of $fio_rounds rounds", \&fio);
}

diag(sprintf "%-38s %-28s %s", 'CRIU ' . criu_version(), 'with the plugin', 'plain');
diag(sprintf "%-38s %-28s %s", @$_) for @table;
done_testing();
