# SPDX-License-Identifier: MIT
# sysbench fileio, asynchronous. It frees a request when its event comes: one that comes twice ends it, and
# one that does not come is waited for at its end. All requests of a thread have one buffer, so that it can
# check what it reads only where there is one at a time.
package Soak::sysbench;
use strict;
use warnings;
use Cli;
use Soak;

my @options = qw(--file-num=4 --file-total-size=16M --file-io-mode=async --file-extra-flags=direct);

# What is written unchecked has no checksums: it lies elsewhere.
sub folder { my ($is_checked) = @_; return direct_folder() . ($is_checked ? '/checked' : '/unchecked') }

sub started_in
{
    my ($slow, $is_checked, @more) = @_;
    return launch({ slow => $slow, before => sub { chdir folder($is_checked) or die "chdir: $!\n" } },
        'sysbench', @options, $is_checked ? '--validate=on' : (), @more);
}

sub setup
{
    for my $is_checked (0, 1) {
        mkdir folder($is_checked);
        my $run = started_in(undef, $is_checked, 'fileio', 'prepare');
        my $status = wait_for_end($run);
        die 'it cannot prepare its files: ' . slurp($run->{log}) if !defined $status || $status;
    }
}

sub begin
{
    my ($form) = @_;
    my $run = started_in($form->{slow}, $form->{checked}, "--time=$RUN_SECONDS", '--events=0', split(' ', $form->{options}), 'fileio', 'run');
    wait_for_rings($run, $form->{rings});
    # Its threads come after its rings, and then are as many as they stay.
    wait_until(sub { defined wait_for_end($run, 0) || slurp($run->{log}) =~ /Threads started/ }, 10);
    return $run;
}

sub finish
{
    my ($run) = @_;
    my ($text, $wrong) = come_to_end($run, qr/FATAL|ALERT|WARNING|fail|mismatch|invalid|double free|corrupt/i);
    return $wrong if defined $wrong;
    my ($events) = $text =~ /total number of events: +(\d+)/;
    return $events ? undef : "it has done nothing: $text";
}

sub form { my ($name, $options, %more) = @_; return { name => $name, options => $options, rings => 1, start => \&begin, finish => \&finish, ends => 1, steady => 1, %more } }

sub program
{
    return {
        name    => 'sysbench',
        missing => sub { return 'sysbench is not there' if !have('sysbench'); return direct_folder() ? undef : 'no file system here takes O_DIRECT' },
        setup   => \&setup,
        forms   => [
            form('one at a time, checked', '--file-test-mode=rndrw --file-async-backlog=1 --threads=4', rings => 4, checked => 1),
            form('random, 128 at a time', '--file-test-mode=rndrw --threads=2', rings => 2),
            form('in order, with fsync', '--file-test-mode=seqrewr --file-fsync-freq=50 --file-async-backlog=32'),
            form('a slow disk', '--file-test-mode=rndrw --file-async-backlog=32 --threads=2', rings => 2, slow => 400),
            form('checked, a slow disk', '--file-test-mode=rndrw --file-async-backlog=1 --threads=8 --file-fsync-freq=0', rings => 8, checked => 1, slow => 400),
        ],
    };
}

1;
