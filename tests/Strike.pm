# SPDX-License-Identifier: MIT
#
# Something happens to a command at one of its system calls: what tests/strike.c does, for tests that let it happen at
# each of them.
#
# FAULTS says at how many calls: some, drawn at random (SEED), as each test says; all: at each of them.
package Strike;
use strict;
use warnings;
use Cli;
use Exporter 'import';
use List::Util qw(shuffle);
use Time::HiRes qw(time);

our @EXPORT = qw($FAULTS $SEED calls_of calls_that_matter draw log_of strike);

our $FAULTS = $ENV{FAULTS};
our $SEED = $ENV{SEED} // time ^ $$;
srand $SEED;

# How many it makes.
sub calls_of
{
    my @command = @_;
    my $result = run_command("$BUILD/tests/strike", @command);
    return $result->{err} =~ /^(\d+) calls$/m ? $1 : die "strike: $result->{status} $result->{err}";
}

# A line for each of them, as strike has them; options of strike's come first.
sub log_of
{
    my @command = @_;
    my $log = fresh('.calls');
    run_command("$BUILD/tests/strike", '--log', $log, @command);
    return split /\n/, slurp($log);
}

# The numbers of those behind one that may change something outside of it.
sub calls_that_matter { return map { /^(\d+) .*!$/ ? $1 + 1 : () } log_of(@_) }

# So many of them, in order, or as many as FAULTS says.
sub draw
{
    my ($most, @calls) = @_;
    my $faults = $FAULTS // $most;
    @calls = (shuffle @calls)[0 .. $faults - 1] if $faults ne 'all' && $faults < @calls;
    return sort { $a <=> $b } @calls;
}

# Runs a command so; {call} is the one at which it happened, or the last; {before}, the one before that.
sub strike
{
    my %options = ref $_[0] ? %{ shift @_ } : ();
    my @command = @_;
    my $log = fresh('.calls');
    # What is traced cannot be looked through for leaks.
    local $ENV{ASAN_OPTIONS} = join ':', grep { defined } $ENV{ASAN_OPTIONS}, 'detect_leaks=0';
    my $result = run_command(\%options, "$BUILD/tests/strike", '--log', $log, @command);
    @$result{qw(before call)} = slurp($log) =~ /(.*)\n(.*)\n\z/;
    $result->{$_} //= 'none' for qw(before call);
    unlink $log;
    return $result;
}

1;
