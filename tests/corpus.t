#!/usr/bin/perl
# SPDX-License-Identifier: MIT
#
# Images that older releases wrote are read as they were: tests/corpus/NAME.core, one for each
# version of the records and each architecture, and what `list --json` says of it; and NAME.images, of
# which CRIU has written those files and pages that are read. Nothing in there is ever changed; a new
# version adds to it.
use strict;
use warnings;
use lib 'tests';
use Cli;
use JSON::PP;
use Test::More;

my @images = glob 'tests/corpus/*.{core,images}';
for my $kind (qw(core images)) {
    ok((grep { /\.$kind$/ } @images) > 0, "there is a .$kind");
}
for my $image (@images) {
    my $expected = decode_json(slurp($image =~ s/\w+$/json/r));
    my $listed = run_tool('list', $image, '--json');
    is_deeply(eval { decode_json($listed->{out}) }, $expected, "$image is listed") or diag $listed->{err};
    my $run = run_tool('run', $image, '--json');
    if ($run->{status} == 4) {
        like($run->{err}, qr/$expected->{machine}|pages on this host|admits/, "$image is refused here, with a reason");
        next;
    }
    my $restored = eval { decode_json($run->{out}) } // {};
    is_deeply([map { $_->{events} } @{ $restored->{rings} }], [map { $_->{events} } @{ $expected->{rings} }],
        "$image is run, and its events come")
        or diag $run->{err};
}
done_testing();
