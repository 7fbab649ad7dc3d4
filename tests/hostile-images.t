#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Broken and hostile folders of CRIU's images: one clear line, never a crash, never memory for what a
# message claims, and nothing opened that the folder does not hold.
use strict;
use warnings;
no warnings 'portable';    # addresses have 64 bits
use lib 'tests';
use Cli;
use Hostile;
use Images;
use POSIX ();
use Test::More;

my ($HOST) = (POSIX::uname())[4];
plan skip_all => "the images are those of x86_64, and this is $HOST" if $HOST ne 'x86_64';

my $ring = ring_page();

# A folder with one process, changed.
sub process_is
{
    my ($name, $status, $pattern, %process) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return image_is($name, $status, $pattern, write_folder(fresh('.images'), processes => [ \%process ]));
}

# A sound one, that is changed by `change` afterwards.
sub folder_is
{
    my ($name, $status, $pattern, $change, %all) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $folder = write_folder(fresh('.images'), %all);
    $change->($folder);
    return image_is($name, $status, $pattern, $folder);
}

process_is('a folder of our own', 0, undef);
process_is('as older releases wrote it', 0, undef, is_old => 1);
folder_is('version 1, without the common magic number', 0, undef, sub {
    my ($folder) = @_;
    for my $file (map { "$folder/$_-100.img" } qw(core mm pagemap)) {
        spit($file, substr slurp($file), 4);
    }
}, version => 1);
process_is('a process without rings', 0, undef, aios => [], vmas => [], entries => [], pages => '');
image_is('several processes', 0, undef, write_folder(fresh('.images'), processes => [ {}, { aios => [] }, {} ]));
process_is('a ring in two entries', 0, undef, aios => [ [ 0x10000000, 8192 ] ], vmas => [ [ 0x10000000, 0x10002000, 3, $AIORING ] ],
    entries => [ map { [ $_, 1, $PRESENT ] } 0x10000000, 0x10001000 ], pages => ring_page(len => 8192, nr => 255));
symlink write_folder(fresh('.images')), "$DIR/link";
image_is('a link to a folder', 0, undef, "$DIR/link");

# ---- no images, or not those ----

folder_is('an empty folder', 1, qr/a folder, and none of CRIU's images: it has no inventory\.img/, sub { unlink glob "$_[0]/*" });
image_is('a folder of something else', 1, qr/no inventory\.img/, './tests');
folder_is('nothing but an inventory', 1, qr/has no mm-PID\.img: a pre-dump's folder/, sub { unlink "$_[0]/mm-100.img" });
image_is("version $_", 1, qr/version $_, and this release knows versions up to 2 .*crit decompress/, write_folder(fresh('.images'), version => $_)) for 0, 3, 99;
process_is('an unknown machine', 1, qr/process 100 is of a machine that is not known \(core_entry\.march 5, mode 1\)/, machine => 5);
process_is('an unknown mode', 1, qr/not known .*march 1, mode 7/, mode => 7);
process_is("pages of $_ bytes", 1, qr/mm-100\.img says that pages have $_ bytes/, page => $_) for 0, 1, 4097, 8192, 1 << 40;
folder_is("without $_-100.img", 1, qr{/$_-100\.img: No such file}, sub { unlink "$_[0]/$_-100.img" }) for qw(core pagemap);
folder_is('without pages', 1, qr{/pages-1\.img: No such file}, sub { unlink "$_[0]/pages-1.img" });
folder_is('truncated pages', 1, qr{/pages-1\.img: truncated: it has 4095 bytes}, sub { truncate "$_[0]/pages-1.img", 4095 });
for my $kind (qw(inventory core mm pagemap)) {
    my $file = $kind eq 'inventory' ? 'inventory.img' : "$kind-100.img";
    folder_is("$file: empty", 1, qr{/$file: not an image of CRIU's}, sub { spit("$_[0]/$file", '') });
    folder_is("$file: of another kind", 1, qr{/$file: not an image of CRIU's}, sub { write_messages("$_[0]/$file", $kind eq 'mm' ? 'core' : 'mm', 'x') });
    folder_is("$file: no message", 1, qr{/$file: truncated}, sub { write_messages("$_[0]/$file", $kind) });
    folder_is("$file: an empty message", 1, qr{/$file: damaged}, sub { write_messages("$_[0]/$file", $kind, '') }) if $kind ne 'mm';
    folder_is("$file: no message at all", 1, qr{/$file: damaged}, sub { write_messages("$_[0]/$file", $kind, "\xff" x 100) });
    folder_is("$file: a message of 4 GiB", 1, qr{/$file: truncated: it says that 4294967295 bytes follow}, sub { spit("$_[0]/$file", substr(slurp("$_[0]/$file"), 0, $kind eq 'inventory' ? 4 : 8) . "\xff" x 4) });
    folder_is("$file: cut in a length", 1, qr{/$file: truncated}, sub { spit("$_[0]/$file", substr(slurp("$_[0]/$file"), 0, $kind eq 'inventory' ? 4 : 8) . "\1") });
}

# ---- what is no file of the folder's ----

my $secret = spit(fresh(), slurp('/etc/passwd'));
for my $file (qw(inventory.img core-100.img mm-100.img pagemap-100.img pages-1.img)) {
    folder_is("$file is a link", 1, qr{/$file: Too many levels of symbolic links}, sub { rename "$_[0]/$file", "$_[0]/x"; symlink 'x', "$_[0]/$file" });
    folder_is("$file is a FIFO", 1, qr{/$file: not a regular file}, sub { unlink "$_[0]/$file"; POSIX::mkfifo("$_[0]/$file", 0600) });
    folder_is("$file is a folder", 1, qr{/$file: not a regular file}, sub { unlink "$_[0]/$file"; mkdir "$_[0]/$file" });
  SKIP: {
        skip "$file is a device: none can be made", 3 if $> || system 'mknod', "$DIR/$file.device", 'c', 1, 5;
        folder_is("$file is a device", 1, qr{/$file: not a regular file}, sub { unlink "$_[0]/$file"; rename "$DIR/$file.device", "$_[0]/$file" or die $! });
    }
    folder_is("$file is a link to a device", 1, qr{/$file: Too many levels}, sub { unlink "$_[0]/$file"; symlink '/dev/zero', "$_[0]/$file" });
}
folder_is('other names', 0, undef, sub { spit("$_[0]/$_", 'x') for qw(mm-x.img mm-01.img mm-1.imgx mm-.img mm--1.img mm-99999999999999.img xmm-1.img) });

# ---- rings and pages ----

process_is('a ring where no mapping is', 1, qr/ring 0x20000000: .*mm-100\.img names it, and no mapping that could be it/, aios => [ [ 0x20000000, 4096 ] ]);
process_is('a ring that is longer than its mapping', 1, qr/ring 0x10000000: .*no mapping that could be it/, aios => [ [ 0x10000000, 8192 ] ]);
process_is('a ring in other memory', 1, qr/ring 0x10000000: .*no mapping that could be it/, vmas => [ [ 0x10000000, 0x10001000, 3, $ANON ] ]);
process_is('a ring of no length', 1, qr/ring 0x10000000/, aios => [ [ 0x10000000, 0 ] ], vmas => [ [ 0x10000000, 0x10000000, 3, $AIORING ] ]);
process_is('a ring of half a page', 1, qr/ring 0x10000000: .*whole pages of 4096/, aios => [ [ 0x10000000, 2048 ] ], vmas => [ [ 0x10000000, 0x10000800, 3, $AIORING ] ]);
process_is('a ring twice', 1, qr/overlaps the ring|larger than the file/, aios => [ ([ 0x10000000, 4096 ]) x 2 ]);
process_is('a ring a thousand times', 1, qr/overlaps the ring|larger than the file/, aios => [ ([ 0x10000000, 4096 ]) x 1000 ]);
process_is('a ring of 4 GiB', 1, qr/ring 0x10000000: .*length/, aios => [ [ 0x10000000, 0xfffff000 ] ], vmas => [ [ 0x10000000, 0x10000000 + 0xfffff000, 3, $AIORING ] ]);
process_is('a ring of 256 MiB', 1, qr/larger than the file/, aios => [ [ 0x10000000, 1 << 28 ] ], vmas => [ [ 0x10000000, 0x20000000, 3, $AIORING ] ],
    pages => ring_page(nr => (1 << 23) - 1));
process_is('a ring that no entry names', 1, qr/magic/, entries => []);
process_is('a damaged ring', 1, qr/ring 0x10000000: .*its head lies outside/, pages => ring_page(head => 127));
process_is('another magic number', 1, qr/ring 0x10000000: .*magic/, pages => ring_page(magic => 1));
process_is('a lazy dump', 1, qr/ring 0x10000000: .*the page at 0x10000000 was left with the process: dump it without --lazy-pages/, entries => [ [ 0x10000000, 1, $LAZY ] ]);
process_is('a lazy dump of what may be staged', 1, qr/images: the page at 0x10000000 was left with the process: dump it without --lazy-pages/,
    aios => [], vmas => [ [ 0x10000000, 0x10001000, 3, $ANON ] ], entries => [ [ 0x10000000, 1, $LAZY ] ]);
process_is('lazy, and present', 0, undef, entries => [ [ 0x10000000, 1, $LAZY | $PRESENT ] ]);
my @entries = (
    [ 'present, and in the parent', [ 0x10000000, 1, $PARENT | $PRESENT ], qr/its entry for 0x10000000 makes no sense/ ],
    [ 'an unknown flag',         [ 0x10000000, 1, $PRESENT | 8 ],         qr/newer CRIU.*compressed.*crit decompress/ ],
    [ 'an unknown field',        [ 0x10000000, 1, $PRESENT, [ 6, 77 ] ],  qr/newer CRIU.*compressed/ ],
    [ 'an unaligned address',    [ 0x10000001, 1, $PRESENT ],             qr/its entry for 0x10000001 makes no sense/ ],
    [ 'too many pages',          [ 0x10000000, 2, $PRESENT ],             qr/pages-1\.img: truncated/ ],
    [ '-1 pages',                [ 0x10000000, ~0, $PRESENT ],            qr/its entry for 0x10000000 makes no sense/ ],
    [ 'pages that overflow',     [ 0xfffffffffffff000, 2, $PRESENT ],     qr/makes no sense/ ],
    [ '2^52 pages',              [ 0, (1 << 52) - 1, $PRESENT ],          qr/truncated/ ],
    [ '2^52 pages of the parent\'s', [ 0, (1 << 52) - 1, $PARENT ],       qr{/parent: No such file.*in the folder of the dump before} ],
);
process_is("an entry with $_->[0]", 1, $_->[2], entries => [ $_->[1] ]) for @entries;
process_is('entries out of order', 1, qr/its entry for 0x0 makes no sense/, entries => [ [ 0x10000000, 1, $PRESENT ], [ 0, 1, $LAZY ] ]);
process_is('entries that overlap', 1, qr/its entry for 0x10000000 makes no sense/, entries => [ ([ 0x10000000, 1, $PRESENT ]) x 2 ], pages => $ring x 2);

# Where no process can have them: list knows, run cannot.
for my $addr (0x800000000000, 0xffffffffffffe000) {
    my $folder = write_folder(fresh('.images'), processes => [ { aios => [ [ $addr, 4096 ] ], vmas => [ [ $addr, $addr + 4096, 3, $AIORING ] ], entries => [ [ $addr, 1, $PRESENT ] ] } ]);
    is(run_tool('list', $folder)->{status}, 0, sprintf 'a ring at 0x%x: list', $addr);
    refuses('... run', 4, qr/ring 0x[0-9a-f]+: no process of this host can have that address/, 'run', $folder);
}

# ---- parents ----

my %in_parent = (processes => [ { entries => [ [ 0x10000000, 1, $PARENT ] ], pages => '' } ]);
my $parent = write_folder(fresh('.images'));
my %leads = (
    'a parent'                 => [ $parent, 0 ],
    'a parent, by a relative link' => [ $parent =~ s{.*/}{../}r, 0 ],
    'a circle of one'          => [ '.', 1, qr/its `parent` links lead in a circle/ ],
    'no parent'                => [ '/nonexistent', 1, qr{/parent: No such file} ],
    'a file for a parent'      => [ "$parent/mm-100.img", 1, qr{/parent: Not a directory} ],
    'a parent without pagemap' => [ '/tmp', 1, qr{/parent/pagemap-100\.img: No such file} ],
    'a parent without that page' => [ write_folder(fresh('.images'), processes => [ { entries => [] } ]), 1, qr{ring 0x10000000: .*/parent: the page at 0x10000000 is said to be there, and its pagemap does not name it} ],
    'a parent with truncated pages' => [ write_folder(fresh('.images'), processes => [ { pages => 'x' x 100 } ]), 1, qr{/parent/pages-1\.img: truncated} ],
    'a link to itself'         => [ 'parent', 1, qr{/parent: Too many levels} ],
);
folder_is($_, $leads{$_}[1], $leads{$_}[2], sub { symlink $leads{$_}[0], "$_[0]/parent" }, %in_parent) for sort keys %leads;
{
    my @ring = map { write_folder(fresh('.images'), %in_parent) } 1 .. 3;
    symlink $ring[ ($_ + 1) % 3 ], "$ring[$_]/parent" for 0 .. 2;
    image_is('a circle of three', 1, qr/its `parent` links lead in a circle/, $ring[0]);
    my $last = $parent;
    my @chain;
    for (1 .. 1100) {
        my $folder = write_folder(fresh('.images'), %in_parent);
        symlink $last, "$folder/parent";
        $last = $folder;
        push @chain, $folder;
    }
    image_is('1,000 parents', 0, undef, $chain[999]);
    image_is('1,100 parents', 1, qr/more than 1024 folders/, $chain[1099]);
    # A folder that nobody needs is not looked at.
    folder_is('a parent that no entry needs', 0, undef, sub { symlink '.', "$_[0]/parent" });
}

# ---- capsules ----

sub capsule
{
    my (%table) = @_;
    my @records = map {
        my %record = (addr => 0x10000000, len => 4096, flags => 2, prot => 3, %$_);
        $record{staged} //= $record{addr};
        pack 'Q<6V6Q<', @record{qw(addr len staged)}, 0, 0, 0, @record{qw(flags prot)}, 0, 0, 0, 0, 0
    } @{ $table{records} // [ {} ] };
    my @polls = map { pack 'Q<3V2', 0x10000000, 0x7000, 0x5eed, 0, 0 } 1 .. $table{polls_here} // 1;
    my $rings = 104 + 80 * @records;
    %table = (abi => 1, size => 104, total => $rings + 32 * @polls, state => 3, arch => 1, page_size => 4096, pid => 100, rings => 104,
        ring_count => scalar @records, ring_stride => 80, polls => $rings, poll_count => scalar @polls, poll_stride => 32, %table);
    my $bytes = pack 'a8VVQ<V14Q<3', "AIOR\r\n\x1a\n", @table{qw(abi size total state arch page_size pid rings ring_count ring_stride polls poll_count poll_stride)},
        0, 0, 0, 2, 0, 0, 0;
    $bytes .= join '', @records, @polls;
    return $bytes . "\0" x (-length($bytes) % 4096);
}

sub staged
{
    my (%table) = @_;
    my $capsule = capsule(%table);
    my $pages = length($capsule) / 4096;
    return (aios => [], vmas => [ [ 0x10000000, 0x10001000, 3, $ANON ], [ 0x20000000, 0x20000000 + 4096 * $pages, 3, $ANON ] ],
        entries => [ [ 0x10000000, 1, $PRESENT ], [ 0x20000000, $pages, $PRESENT ] ], pages => $ring . $capsule);
}

process_is('a staged process', 0, undef, staged());
like(run_tool('list', write_folder(fresh('.images'), processes => [ { staged() } ]))->{out}, qr/^ring 0x10000000, staged: 127 slots, 6 pending, 1 poll remembered/m, '... is shown as one');
my @tables = (
    [ 'a newer abi',     { abi => 2 },        qr/the capsule at 0x20000000 is of version 2/ ],
    [ 'no abi',          { abi => 0 },        qr/damaged/ ],
    [ 'another size',    { size => 103 },     qr/damaged/ ],
    [ 'a large total',   { total => 1 << 40 }, qr/damaged/ ],
    [ 'a total of -1',   { total => ~0 },     qr/damaged/ ],
    [ 'another state',   { state => 9 },      qr/damaged/ ],
    [ 'a table of an image', { state => 0 },  qr/the table of an image/ ],
    [ 'no rings',        { ring_count => 0 }, qr/damaged/ ],
    [ 'many rings',      { ring_count => 0xffffffff }, qr/damaged/ ],
    [ 'many polls',      { poll_count => 0xffffffff }, qr/damaged/ ],
    [ 'no stride',       { ring_stride => 0 }, qr/damaged/ ],
    [ 'a ring that is not there', { records => [ { addr => 0x30000000 } ], polls_here => 0 }, qr/ring 0x30000000: .*magic/ ],
    [ 'a ring that lies elsewhere', { records => [ { staged => 0x30000000 } ] },              qr/damaged record/ ],
    [ 'a large ring',    { records => [ { len => 1 << 28 } ] }, qr/number of slots|lies on the capsule/ ],
    [ 'the same ring again', { records => [ {}, {} ] },         qr/damaged record/ ],
);
process_is("a capsule with $_->[0]", 1, $_->[2], staged(%{ $_->[1] })) for @tables;
{
    my @rings = map { { addr => 0x100000000 + 0x1000 * $_ } } 0 .. 999;
    my %process = staged(records => \@rings, polls_here => 0);
    process_is('a capsule with a thousand rings that are not there', 1, qr/magic|larger than the file/, %process);
    my ($one, %two) = (capsule(), staged());
    push @{ $two{vmas} }, [ 0x30000000, 0x30001000, 3, $ANON ];
    push @{ $two{entries} }, [ 0x30000000, 1, $PRESENT ];
    $two{pages} .= $one;
    process_is('two capsules', 1, qr/there are two capsules, at 0x20000000 and 0x30000000/, %two);
    my %prepared = staged(state => 1);
    process_is('a capsule that is prepared only', 0, undef, %prepared);
    my $draining = write_folder(fresh('.images'), processes => [ { staged(state => 2) } ]);
    like(run_tool('list', $draining)->{out}, qr/^ring 0x10000000, staged: its requests in flight are still waited for/m, 'a capsule that is not filled yet: list');
    refuses('... run', 1, qr/ring 0x10000000/, 'run', $draining);
}
for my $other ([ page_size => 65536 ], [ arch => 2 ]) {
    my $folder = write_folder(fresh('.images'), processes => [ { staged(@$other) } ]);
    refuses("a capsule with $other->[0] $other->[1]", 4, qr/the capsule at 0x20000000/, 'list', $folder);
}

# ---- large files ----

SKIP: {
    local @Hostile::limited = ();    # which would keep files of that size from being mapped
    my $folder = write_folder(fresh('.images'));
    skip 'no sparse files', 1 unless truncate "$folder/pages-1.img", 1 << 40;
    image_is('pages of a terabyte, mostly holes', 0, undef, $folder);
    for my $kind (qw(inventory core mm pagemap)) {
        my $file = $kind eq 'inventory' ? 'inventory.img' : "$kind-100.img";
        folder_is("$file of a terabyte", $kind eq 'pagemap' ? 1 : 0, qr/damaged/, sub { truncate "$_[0]/$file", 1 << 40 });
    }
    my @rings = map { $_ << 28 } 1 .. 1000;
    folder_is('rings of 256 GB, all holes', 1, qr/number of slots/, sub { truncate "$_[0]/pages-1.img", 1 << 40 }, processes => [ {
        aios => [ map { [ $_, 1 << 28 ] } @rings ], vmas => [ map { [ $_, $_ + (1 << 28), 3, $AIORING ] } @rings ],
        entries => [ map { [ $_, 1 << 16, $PRESENT ] } @rings ] } ]);
}

# ---- thousands of mutants ----

mutants_are(write_folder("$DIR/live.images"), 'images of a live ring');
mutants_are(write_folder("$DIR/staged.images", processes => [ { staged() } ]), '... of a staged one');
{
    my $folder = write_folder("$DIR/child.images", processes => [ { staged(), entries => [ [ 0x10000000, 1, $PARENT ], [ 0x20000000, 1, $PRESENT ] ], pages => capsule() } ]);
    symlink $parent, "$folder/parent";
    mutants_are($folder, '... of one with a parent');
}
is_deeply([ own_processes() ], [], 'no process is left');

done_testing;
