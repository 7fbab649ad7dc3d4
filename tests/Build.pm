# SPDX-License-Identifier: MIT
#
# What the tests of the generator share: what the Makefile builds with, and files.
package Build;
use strict;
use warnings;
use Exporter 'import';

our @EXPORT = qw($BUILD make_var run spew slurp);

our $BUILD = $ENV{BUILD} // 'build';

# A variable of the Makefile's.
sub make_var
{
    my ($name) = @_;
    my $make = $ENV{MAKE} // 'make';
    my $value = `MAKEFLAGS= $make -s --no-print-directory --eval='print-var: ; \@echo \$($name)' print-var`;
    chomp $value;
    return $value;
}

# What a shell's command says, on both outputs; "exit STATUS: " in front of it if it fails.
sub run
{
    my ($command) = @_;
    my $said = `( $command ) 2>&1`;
    return $? ? "exit $?: $said" : $said;
}

sub spew
{
    my ($path, $text) = @_;
    open my $out, '>:raw', $path or die "$path: $!";
    print $out $text;
    close $out or die "$path: $!";
}

sub slurp
{
    my ($path) = @_;
    open my $in, '<:raw', $path or return "cannot be read: $!";
    local $/;
    return scalar(<$in>) // '';
}

1;
