# SPDX-License-Identifier: MIT
# stress-ng's aiol: batches of writes, reads and their vectored kinds, read back and compared; waits that would take
# decades to end by themselves; and each call that there is with arguments that must fail.
package Soak::stress_ng;
use strict;
use warnings;
use Cli;
use Soak;

sub begin
{
    my ($form) = @_;
    my $run = launch({ slow => $form->{slow} },
        qw(stress-ng --verify --metrics --timestamp --timeout), $RUN_SECONDS, '--temp-path', direct_folder(), split ' ', $form->{options});
    wait_for_rings($run, $form->{jobs} // 1);
    return $run;
}

sub seconds { my ($hours, $minutes, $seconds) = @_; return $hours * 3600 + $minutes * 60 + $seconds }

# When its time is over, a worker ends its wait before all of its reads are done, and compares all the same: once in
# some hundred runs that nobody stages, it finds a mismatch then (stress_aiol_wait() of its stress-aiol.c). One before is none of that.
sub early_mismatches
{
    my ($text) = @_;
    my $time = qr/(\d+):(\d+):([\d.]+)/;
    my ($begun) = map { seconds(@$_) } [ $text =~ /$time info: .* dispatching hogs/ ];
    my @early;
    while ($text =~ /^(.*?$time info: .*mismatch.*)$/mg) {
        my $after = seconds($2, $3, $4) - $begun;
        $after += 86400 if $after < 0;
        push @early, $1 if $after < $RUN_SECONDS - 0.1;
    }
    return @early;
}

# Of what it says, all but its own news is an error, a mismatch or the end of a worker.
sub finish
{
    my ($run) = @_;
    my ($text, $wrong) = come_to_end($run, qr/failed,|\bfail:|\berror:|terminated on signal|not OK/);
    return $wrong if defined $wrong;
    my @early = early_mismatches($text);
    return "it says: @early" if @early;
    return $text =~ /aiol +[1-9]\d* +\d/ && $text =~ /successful run completed/ ? undef : "it has done nothing: $text";
}

sub form { my ($name, $options, %more) = @_; return { name => $name, options => $options, start => \&begin, finish => \&finish, ends => 1, steady => 1, stops => 1, %more } }

sub program
{
    return {
        name    => 'stress-ng',
        missing => sub { return 'stress-ng is not there' if !have('stress-ng'); return direct_folder() ? undef : 'no file system here takes O_DIRECT' },
        forms   => [
            form('one worker', '--aiol 1'),
            form('three workers', '--aiol 3 --aiol-requests 16', jobs => 3),
            form('1,000 requests', '--aiol 1 --aiol-requests 1000'),
            form('a slow disk', '--aiol 2 --aiol-requests 32', jobs => 2, slow => 400),
        ],
    };
}

1;
