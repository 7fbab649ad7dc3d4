#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Records anew what the pictures show, into docs/pictures/recorded.json; then draw.pl draws them.
# From the top of the source, where `make tests` has built the tool: docs/pictures/record.pl
use strict;
use warnings;
use lib 'docs/pictures';
use JSON::PP;
use Recorded;

my %recorded = (
    licence => 'SPDX-License-Identifier: MIT',
    wrapped => Recorded::wrapped(),
    steps => Recorded::steps(),
    sizes => Recorded::sizes(),
    times => Recorded::times(),
);
open my $out, '>', 'docs/pictures/recorded.json' or die "recorded.json: $!";
print $out JSON::PP->new->canonical->indent->indent_length(1)->space_after->encode(\%recorded);
close $out or die "recorded.json: $!";
