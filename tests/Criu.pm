# SPDX-License-Identifier: MIT
#
# Checkpoints with CRIU, with the plugin or without: of Debian sid, which tests/fetch.sh fetches, or the one that
# CRIU names.
package Criu;
use strict;
use warnings;
use Cli;
use Exporter 'import';
use File::Path qw(remove_tree);
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw($PLUGIN why_no_criu criu_version criu_dump criu_restore criu_command images said program worker_alone);

our $PLUGIN = "$BUILD/aio_restorer.so";

my $criu;
my %folders;    # with a plugin or without
my $images = 0;

sub why_no_criu
{
    return 'the plugin is not built with sanitizers' if $SAN;
    return 'checkpoints take root' if $>;
    my $folder = "$BUILD/criu";
    $criu = $ENV{CRIU} // (-x "$folder/criu" ? "$folder/criu" : undef);
    return slurp("$folder.missing") || 'there is no CRIU here (make check fetches it)' if !$criu;
    return 'the plugin was not built: there is no criu/criu-plugin.h' if !-e $PLUGIN;
    my $result = run_command($criu, 'check', '-v4');
    return $result->{status} == 0 ? undef : 'criu check: ' . join '; ', "$result->{out}$result->{err}" =~ /((?:Error|Warn).*)/g;
}

sub criu_version { return (run_command($criu, '--version')->{out} =~ /Version: (\S+)/)[0] // 'unknown' }

# A new folder for images, or a named one.
sub images
{
    my $folder = "$DIR/images" . ++$images;
    mkdir $folder or die "$folder: $!";
    return $folder;
}

# Where CRIU looks for plugins: ours is there, or none.
sub plugins
{
    my ($is_plain) = @_;
    my $name = $is_plain ? 'plain' : 'plugins';
    return $folders{$name} if $folders{$name};
    my $folder = $folders{$name} = "$DIR/$name";
    mkdir $folder or die "$folder: $!";
    spit("$folder/aio_restorer.so", slurp($PLUGIN)) if !$is_plain;
    return $folder;
}

# (A worker's file of one MiB has no name any more; on the disk it may take a little more than that, CRIU's limit.)
sub criu_command
{
    my ($verb, $folder, $is_plain, @arguments) = @_;
    return ($criu, $verb, '-D', $folder, '-v4', '-o', "$verb.log", '--libdir', plugins($is_plain), '--manage-cgroups=ignore', '--ghost-limit=4M', @arguments);
}

# What CRIU has logged: of the plugin, and what it calls an error.
sub said
{
    my ($folder, $verb) = @_;
    return join "\n", grep { /aio_restorer\)?: |Error/ && !/RLIMIT_NOFILE/ } split /\n/, slurp("$folder/$verb.log");
}

# Dumps a program of Cli. It is gone then, unless CRIU was told otherwise or has failed.
# Options: args, plain (without the plugin), folder (of the images), env.
sub criu_dump
{
    my ($program, %options) = @_;
    my @arguments = @{ $options{args} // [] };
    my $folder = $options{folder} // images();
    my $result = run_command({ before => sub { %ENV = (%ENV, %{ $options{env} // {} }) } },
        criu_command('dump', $folder, $options{plain}, '-t', $program->{pid}, @arguments));
    $result->{folder} = $folder;
    $result->{log} = said($folder, 'dump');
    $result->{is_gone} = $result->{status} == 0 && !grep { /^(-R|-s|--leave-\w+)$/ } @arguments;
    end($program) if $result->{is_gone};
    return $result;
}

# Restores it; CRIU is its parent then, and ends with it. Options: args, plain, wrap (a command that runs CRIU). Returns what CRIU has said if it has failed, or undef.
sub criu_restore
{
    my ($program, $folder, %options) = @_;
    unlink "$folder/restore.log", "$folder/pid";
    my $parent = start({ quiet => 1 }, @{ $options{wrap} // [] },
        criu_command('restore', $folder, $options{plain}, '--pidfile', 'pid', @{ $options{args} // [] }));
    my $is_over;
    wait_until(sub {
        $is_over = waitpid($parent->{pid}, POSIX::WNOHANG()) == $parent->{pid};
        return $is_over || slurp("$folder/restore.log") =~ /Restore finished successfully/;
    }, 60);
    my $log = slurp("$folder/restore.log");
    if ($log !~ /Restore finished successfully/) {
        end($parent);
        return said($folder, 'restore') || 'nothing';
    }
    end_later($program->{pid} = 0 + slurp("$folder/pid"));
    $program->{parent} = $parent->{pid};
    $program->{criu} = $parent;
    return;
}

# Starts a program in a session of its own: {pid}, and the {log} of all that it prints.
sub program
{
    my @command = @_;
    my $program = { log => fresh('.log') };
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        POSIX::setsid();
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', $program->{log};
        open STDERR, '>>', $program->{log};
        exec @command or POSIX::_exit(127);
    }
    end_later($program->{pid} = $pid);
    return $program;
}

# A worker in a session of its own, as CRIU wants it.
sub worker_alone
{
    my %options = ref $_[0] ? %{ shift @_ } : ();
    return worker({ %options, wrap => ['setsid', @{ $options{wrap} // [] }] }, '--alone', @_);
}

1;
