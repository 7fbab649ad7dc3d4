#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# What CBMC proves (tests/proofs), and that it would find what is wrong: `make check` has the proofs that take seconds,
# with PROOFS=all (`make proofs`) there are all.
use strict;
use warnings;
use File::Temp qw(tempdir);
use Test::More;
use Time::HiRes qw(time);
use lib 'tests';
use Build;

my $cbmc = $ENV{CBMC} // "$BUILD/cbmc/cbmc";
my $all = ($ENV{PROOFS} // '') eq 'all';
my $host = make_var('HOST_ARCH');
my $dir = tempdir('aior-proofs-XXXXXX', TMPDIR => 1, CLEANUP => 1);

# name of the file => flags, proofs that take longer than a few seconds, those that Z3 makes
my $host_side = '-D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -Iarch -Iloader -I' . make_var("$host.dir");
my %files = (
    ring => ['--unsigned-overflow-check', '', ''],
    capsule => [$host_side, '', 'prove_records_are_inside_and_apart'],
    core => [$host_side, 'prove_a_note_is_taken_up_to_its_end prove_content_is_inside', 'prove_a_note_is_taken_up_to_its_end'],
);

# What is broken in ring.h for a moment, and the proof that it breaks.
my @mutations = (
    ['ring->tail >= nr', 'ring->tail > nr', 'prove_check_takes_what_is_sound_and_nothing_else'],
    ['tail < head ? nr + tail : tail', 'tail < head ? nr + tail - 1 : tail', 'prove_pending_and_completions'],
    ['pending < nr - head ? pending : nr - head', 'pending < nr - head ? pending : nr - head + 1', 'prove_pieces_are_disjoint_and_inside'],
    ['less < 3 ? 1 : (less - 3) / 2 + 1', 'less < 3 ? 1 : (less - 2) / 2 + 1', 'prove_smallest_n'],
);

sub prove {
    my ($file, $proof, $more) = @_;
    my $said = run("timeout 1800 $cbmc --unwind 9 --function $proof $more -Ipie -Itests/proofs $files{$file}[0] tests/proofs/$file.c");
    return 'proven' if $said =~ /^VERIFICATION SUCCESSFUL$/m;
    return join '; ', $said =~ /^(.*: FAILURE)$/mg if $said =~ /^VERIFICATION FAILED$/m;
    return "no answer: $said";
}

# What can be tried one by one needs no proof; and no CBMC.
is(run("gcc -O2 -Wall -Wextra -Ipie -o $dir/usable tests/proofs/usable.c"), '', 'usable.c is compiled');
like(run("$dir/usable"), qr/^0 of \d+ wrong$/, 'usable slots, of every ring with every number of CPUs');

SKIP: {
    my $missing = slurp("$BUILD/cbmc.missing");
    chomp $missing;
    skip($missing =~ /^cannot be read/ ? 'there is no CBMC here (make check fetches it)' : $missing, 1) if run("$cbmc --version") =~ /^exit/;
    my $no_z3 = run('z3 --version') !~ /^Z3/;
    my (%slow, %z3);
    for my $file (sort keys %files) {
        $slow{$_} = 1 for split ' ', $files{$file}[1];
        $z3{$_} = 1 for split ' ', $files{$file}[2];
        for my $proof (slurp("tests/proofs/$file.c") =~ /^void (prove_\w+)/mg) {
            next if $slow{$proof} && !$all;
          SKIP: {
                skip("$file: $proof: there is no Z3 here (the package z3)", 1) if $z3{$proof} && $no_z3;
                my $start = time;
                is(prove($file, $proof, $z3{$proof} ? '--z3' : ''), 'proven', "$file: $proof");
                note(sprintf '%.1f s', time - $start);
            }
        }
        like(prove($file, $_, ''), qr/\.assertion.*FAILURE/, "$file: $_") for slurp("tests/proofs/$file.c") =~ /^void (refute_\w+)/mg;
    }
    my $header = slurp('pie/ring.h');
    for (@mutations) {
        my ($right, $wrong, $proof) = @$_;
        my $broken = $header =~ s/\Q$right\E/$wrong/r;
        isnt($broken, $header, "'$right' is in ring.h");
        spew("$dir/ring.h", $broken);
        like(prove('ring', $proof, "-I$dir"), qr/FAILURE/, "'$wrong' is found out");
    }
}
done_testing();
