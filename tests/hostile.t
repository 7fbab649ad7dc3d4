#!/usr/bin/env perl
# SPDX-License-Identifier: MIT
#
# Broken and hostile images: one clear line, never a crash, never memory for what a header claims.
use strict;
use warnings;
no warnings 'portable';    # addresses have 64 bits
use lib 'tests';
use Cli;
use Hostile;
use Fcntl ();
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

# ---- an image, made by hand: what is hostile about one is a changed field ----

my %MACHINE = (x86_64 => [ 62, 2, 1 ], i386 => [ 3, 1, 2 ], aarch64 => [ 183, 2, 3 ], riscv64 => [ 243, 2, 4 ], sparc => [ 2, 1, 0 ]);
my ($HOST) = (POSIX::uname())[4];
my $PAGE = 4096;

sub ring_bytes
{
    my %ring = (id => 0, nr => 127, head => 3, tail => 9, magic => 0xa10a10a1, header_length => 32, len => $PAGE, @_);
    my $bytes = pack 'V8', @ring{qw(id nr head tail magic)}, 1, 0, $ring{header_length};
    $bytes .= pack 'Q<Q<q<q<', 0xda7a000000000000 + $_, 0x1000 * $_, $_, 0 for 0 .. ($ring{len} - 32) / 32 - 1;
    return $bytes . "\0" x ($ring{len} - length $bytes);
}

sub elf_note
{
    my ($name, $type, $desc, %lengths) = @_;
    my $padded = sub { $_[0] . "\0" x (-length($_[0]) % 4) };
    return pack('VVV', $lengths{namesz} // length $name, $lengths{descsz} // length $desc, $type) . $padded->($name) . $padded->($desc);
}

# The AIOR note; %table changes its fields, {records} its records.
sub aior_note
{
    my (%table) = @_;
    my @records = map {
        my %record = (addr => 0x10000000, len => $PAGE, staged => 0x10000000, flags => 0, prot => 3, %$_);
        pack 'Q<6V6Q<', @record{qw(addr len staged)}, 0, 0, 0, @record{qw(flags prot)}, 0, 0, 0, 0, 0
    } @{ $table{records} // [ {} ] };
    my $records = join '', @records;
    %table = (abi => 1, size => 104, total => 104 + length $records, state => 0, arch => $MACHINE{$HOST}[2], page_size => $PAGE,
        pid => 4711, rings => 104, ring_count => scalar @records, ring_stride => 80, polls => 104 + length $records, %table);
    my $desc = pack 'a8VVQ<V13V', "AIOR\r\n\x1a\n", @table{qw(abi size total state arch page_size pid rings ring_count ring_stride polls)},
        0, 32, 0, 0, 0, 2;
    return elf_note("AIOR\0", 0x41494f52, $desc . "\0" x (104 - length $desc) . $records, map { $_ => $table{$_} } grep { exists $table{$_} } qw(namesz descsz));
}

sub file_note
{
    my (%file) = @_;
    my @files = @{ $file{files} // [ [ 0x10000000, 0x10000000 + $PAGE, 0, '/[aio] (deleted)' ] ] };
    my $word = $file{class} && $file{class} == 1 ? 'V' : 'Q<';
    my $desc = pack "$word$word", $file{count} // scalar @files, $file{page} // $PAGE;
    $desc .= pack "$word$word$word", @$_[ 0 .. 2 ] for @files;
    $desc .= "$_->[3]\0" for @files;
    $desc = substr $desc, 0, $file{cut} if $file{cut};
    return elf_note("CORE\0", 0x46494c45, $desc);
}

# {notes}: a string; {loads}: [{addr, bytes, memsz, filesz, offset, flags}]; {ehdr}, {note}: changes.
sub core
{
    my (%core) = @_;
    my ($machine, $class) = @{ $MACHINE{ $core{machine} // $HOST } };
    my $is64 = $class == 2;
    my @loads = @{ $core{loads} // [ { addr => 0x10000000, bytes => ring_bytes() } ] };
    my $notes = $core{notes} // aior_note();
    my ($ehsize, $phsize) = $is64 ? (64, 56) : (52, 32);
    my $at = $ehsize + $phsize * (1 + @loads);
    my $phdr = sub {
        my ($type, $flags, $offset, $addr, $filesz, $memsz, $align) = @_;
        return $is64 ? pack 'VVQ<6', $type, $flags, $offset, $addr, 0, $filesz, $memsz, $align
            : pack 'V8', $type, $offset, $addr, 0, $filesz, $memsz, $flags, $align;
    };
    my %note = (type => 4, offset => $at, filesz => length $notes, align => 4, %{ $core{note} // {} });
    my $headers = $phdr->($note{type}, 0, $note{offset}, 0, $note{filesz}, 0, $note{align});
    my $data = $notes;
    for my $load (@loads) {
        my $position = $at + length $data;
        my $pad = -$position % $PAGE;
        my %l = (offset => $position + $pad, flags => 6, filesz => length $load->{bytes}, memsz => length $load->{bytes}, align => $PAGE, %$load);
        $headers .= $phdr->(1, @l{qw(flags offset addr filesz memsz align)});
        $data .= "\0" x $pad . $load->{bytes};
    }
    my %ehdr = (type => 4, machine => $machine, class => $class, data => 1, phoff => $ehsize, shoff => 0, phentsize => $phsize,
        phnum => 1 + @loads, shentsize => 0, shnum => 0, ehsize => $ehsize, %{ $core{ehdr} // {} });
    my $ehdr = pack('a4C3x9', "\x7fELF", @ehdr{qw(class data)}, 1)
        . pack $is64 ? 'vvVQ<3Vv6' : 'vvVV3Vv6', @ehdr{qw(type machine)}, 1, 0, @ehdr{qw(phoff shoff)}, 0, @ehdr{qw(ehsize phentsize phnum shentsize shnum)}, 0;
    my $bytes = $ehdr . $headers . $data;
    return defined $core{append} ? $bytes . $core{append} : $bytes;
}

sub bytes_are { my ($name, $status, $pattern, $bytes, @more) = @_; image_is($name, $status, $pattern, spit("$DIR/image.core", $bytes), @more) }

bytes_are('an image of our own', 0, undef, core());
bytes_are('one without an AIOR note, but NT_FILE', 0, undef, core(notes => file_note()));
bytes_are('... with offsets in bytes, as gdb has them', 0, undef, core(notes => file_note(page => 1)));
bytes_are('... of a ring in two pieces', 0, undef, core(
    notes => file_note(files => [ [ 0x10000000, 0x10001000, 0, '/[aio] (deleted)' ], [ 0x10001000, 0x10002000, 1, '/[aio] (deleted)' ] ]),
    loads => [ { addr => 0x10000000, bytes => ring_bytes(nr => 255, len => 2 * $PAGE) } ]));
bytes_are('... and in two segments', 0, undef, core(
    notes => file_note(files => [ [ 0x10000000, 0x10001000, 0, '/[aio] (deleted)' ], [ 0x10001000, 0x10002000, 1, '/[aio] (deleted)' ] ]),
    loads => [ { addr => 0x10000000, bytes => substr ring_bytes(nr => 255, len => 2 * $PAGE), 0, $PAGE },
        { addr => 0x10001000, bytes => substr ring_bytes(nr => 255, len => 2 * $PAGE), $PAGE } ]));
bytes_are('one without any note', 0, undef, core(notes => '', note => { type => 0 }));
bytes_are('no rings', 0, undef, core(notes => aior_note(records => []), loads => []));
bytes_are('notes aligned to 8', 0, undef, core(note => { align => 8 }, notes => aior_note() =~ s/\A(.{12}AIOR\0)\0*/$1\0\0\0\0\0\0\0/sr));
bytes_are('a table with larger records', 0, undef, core(notes => aior_note()));

# ---- files that are no images ----

bytes_are('an empty file', 1, qr/an empty file/, '');
bytes_are('one byte', 1, qr/not an ELF file/, 'x');
bytes_are('random bytes', 1, qr/not an ELF file/, join '', map { chr int rand 256 } 1 .. 5000);
bytes_are('the ELF magic alone', 1, qr/ELF file/, "\x7fELF");
image_is('a program', 1, qr/an ELF file, but not a core/, '/bin/true');
bytes_are('an ET_EXEC file', 1, qr/an ELF file, but not a core/, core(ehdr => { type => 2 }));
image_is('a folder', 1, qr/a folder/, $DIR);
image_is('nothing', 1, qr/No such file/, "$DIR/none");
image_is('a device', 1, qr/not a regular file/, '/dev/zero');
POSIX::mkfifo("$DIR/fifo", 0600);
image_is('a FIFO', 1, qr/not a regular file/, "$DIR/fifo");
symlink "$DIR/loop", "$DIR/loop";
image_is('a symlink loop', 1, qr/Too many levels/, "$DIR/loop");
image_is('a path too long', 1, qr/\A[^:]*: \.\.\.x+: File name too long/, "$DIR/" . 'x' x 3000);
image_is('a name with a line end', 1, qr/no\?ne: No such file/, "$DIR/no\nne");
{
    my $path = "$DIR/" . 'y' x 240;
    image_is('a long name', 1, qr/empty file/, spit($path, ''));
}

# ---- ELF ----

bytes_are('a big-endian image', 1, qr/big-endian|ELF file|machine/, core(ehdr => { data => 2 }));
bytes_are('an unknown machine', 1, qr/machine that is not known/, core(machine => 'sparc'));
bytes_are('the wrong class', 1, qr/not known|ELF file|truncated|makes no sense|behind its end/, core(ehdr => { class => 1 }));
bytes_are('class 3', 1, qr/ELF file/, core(ehdr => { class => 3 }));
bytes_are('program headers behind the end', 1, qr/./, core(ehdr => { phoff => 1 << 40 }));
bytes_are('program headers at -1', 1, qr/./, core(ehdr => { phoff => 0xffffffffffffffff }));
bytes_are('too many program headers', 1, qr/./, core(ehdr => { phnum => 0xfffe }));
bytes_are('program headers of size 0', 1, qr/./, core(ehdr => { phentsize => 0 }));
for my $count (0xffffffff, 0x7fffffff, 1_000_000, 0xffff) {
    my $plain = core();
    my $shdr = pack 'V2Q<4V2Q<2', 0, 0, 0, 0, 0, 1, 0, $count, 0, 0;
    bytes_are("PN_XNUM with $count program headers", 1, qr/./,
        core(ehdr => { phnum => 0xffff, shoff => length $plain, shentsize => 64, shnum => 1 }, append => $shdr));
}
{
    my $plain = core();
    my $shdr = pack 'V2Q<4V2Q<2', 0, 0, 0, 0, 0, 1, 0, 2, 0, 0;
    bytes_are('PN_XNUM with the right count', 0, undef,
        core(ehdr => { phnum => 0xffff, shoff => length $plain, shentsize => 64, shnum => 1 }, append => $shdr));
    bytes_are('PN_XNUM without a section header', 1, qr/./, core(ehdr => { phnum => 0xffff }));
}
my $ring = ring_bytes();
bytes_are('a segment behind the end', 1, qr/behind its end/, core(loads => [ { addr => 0x10000000, bytes => $ring, offset => 1 << 40 } ]));
bytes_are('a segment larger than the file', 1, qr/behind its end/, core(loads => [ { addr => 0x10000000, bytes => $ring, filesz => 1 << 40, memsz => 1 << 40 } ]));
bytes_are('a segment with more in the file than in memory', 1, qr/makes no sense/, core(loads => [ { addr => 0x10000000, bytes => $ring, memsz => 10 } ]));
bytes_are('a segment around the end of memory', 1, qr/makes no sense/, core(loads => [ { addr => 0xfffffffffffff000, bytes => $ring, memsz => 0x2000 } ]));
bytes_are('segments that overlap', 1, qr/overlap at 0x10000000/, core(loads => [ map { { addr => $_, bytes => $ring } } 0x10000000, 0x10000000 ]));
bytes_are('segments that overlap a little', 1, qr/overlap at 0x10000ff0/, core(loads => [ map { { addr => $_, bytes => $ring } } 0x10000000, 0x10000ff0 ]));
bytes_are('notes behind the end', 1, qr/behind its end/, core(note => { offset => 1 << 50 }));
bytes_are('notes larger than the file', 1, qr/behind its end/, core(note => { filesz => 1 << 50 }));

# ---- notes ----

my @tables = (
    [ 'abi 0',                  { abi => 0 },                  qr/makes no sense|newer|damaged/ ],
    [ 'a newer abi',            { abi => 2 },                  qr/made by a newer release \(version 2, this one knows 1\)/ ],
    [ 'size 0',                 { size => 0 },                 qr/damaged/ ],
    [ 'total 0',                { total => 0 },                qr/makes no sense|damaged/ ],
    [ 'total larger than the note', { total => 1 << 40 },      qr/makes no sense|damaged/ ],
    [ 'total -1',               { total => 0xffffffffffffffff }, qr/makes no sense|damaged/ ],
    [ 'another state',          { state => 3 },                qr/makes no sense/ ],
    [ 'another arch',           { arch => 99 },                qr/makes no sense/ ],
    [ 'page size 0',            { page_size => 0 },            qr/makes no sense/ ],
    [ 'page size 4097',         { page_size => 4097 },         qr/makes no sense/ ],
    [ 'a page size of 2 GiB',   { page_size => 1 << 31 },      qr/whole pages|makes no sense/ ],
    [ 'rings behind the end',   { rings => 0xffffffff },       qr/makes no sense/ ],
    [ 'rings in the table',     { rings => 0 },                qr/makes no sense|ring/ ],
    [ 'ring_count 4294967295',  { ring_count => 0xffffffff },  qr/makes no sense/ ],
    [ 'ring_count 2',           { ring_count => 2 },           qr/makes no sense/ ],
    [ 'stride 0',               { ring_stride => 0 },          qr/makes no sense/ ],
    [ 'stride 0, count -1',     { ring_stride => 0, ring_count => 0xffffffff }, qr/makes no sense/ ],
    [ 'stride 4294967295',      { ring_stride => 0xffffffff }, qr/makes no sense/ ],
    [ 'a record of nowhere',    { records => [ { addr => 0x20000000 } ] }, qr/ring 0x20000000: .*does not hold its memory/ ],
    [ 'a record that sticks out', { records => [ { len => 0x2000 } ] },    qr/ring 0x10000000: .*(?:does not hold its memory|says another number of slots)/ ],
    [ 'an unaligned record',    { records => [ { addr => 0x10000010, len => 0xff0 } ] }, qr/ring 0x10000010: .*whole pages/ ],
    [ 'a record of length 0',   { records => [ { len => 0 } ] },           qr/ring 0x10000000/ ],
    [ 'a record of length -1',  { records => [ { len => 0xffffffffffffffff } ] }, qr/ring 0x10000000/ ],
    [ 'a record at -1',         { records => [ { addr => 0xfffffffffffff000 } ] }, qr/ring 0xfffffffffffff000/ ],
    [ 'an absurd protection',   { records => [ { prot => 0xff } ] },       qr/record that makes no sense/ ],
    [ 'absurd flags',           { records => [ { flags => 1 } ] },         qr/record that makes no sense/ ],
    [ 'a ring twice',           { records => [ {}, {} ] },                 qr/overlaps the ring at 0x10000000|larger than the file/ ],
);
bytes_are("AIOR note: $_->[0]", 1, $_->[2], core(notes => aior_note(%{ $_->[1] }))) for @tables;
bytes_are('AIOR note: a thousand times the same ring', 1, qr/larger than the file|overlaps/, core(notes => aior_note(records => [ ({}) x 1000 ])));
bytes_are('AIOR note: cut', 1, qr/AIOR note|notes/, core(notes => elf_note("AIOR\0", 0x41494f52, "AIOR\r\n\x1a\n" . "\1\0\0\0")));
bytes_are('AIOR note: empty', 1, qr/AIOR note/, core(notes => elf_note("AIOR\0", 0x41494f52, '')));
bytes_are("a note with $_->[0]", 0, undef, core(notes => elf_note("AIOR\0", 0x41494f52, 'x' x 200, %{ $_->[1] })))
    for [ 'an absurd name', { namesz => 0xffffffff } ], [ 'an absurd content', { descsz => 0xffffffff } ],
    [ 'both', { namesz => 0xfffffffc, descsz => 0xfffffffc } ];

my @files = (
    [ 'count -1',             { count => 0xffffffffffffffff }, qr/NT_FILE note is truncated/ ],
    [ 'count too large',      { count => 2 },                  qr/NT_FILE note is truncated/ ],
    [ 'a count that overflows', { count => 0x0aaaaaaaaaaaaaab }, qr/NT_FILE note is truncated/ ],
    [ 'no room for words',    { cut => 7 },                    qr/NT_FILE note is truncated/ ],
    [ 'page size 0',          { page => 0 },                   qr/pages have 0 bytes/ ],
    [ 'page size 4095',       { page => 4095 },                qr/pages have 4095 bytes/ ],
    [ 'end before start',     { files => [ [ 0x10001000, 0x10000000, 0, '/[aio]' ] ] }, qr/NT_FILE note makes no sense/ ],
    [ 'end at start',         { files => [ [ 0, 0, 0, '/[aio]' ] ] },                   qr/NT_FILE note makes no sense/ ],
    [ 'all of memory',        { files => [ [ 0, 0xffffffffffffffff, 0, '/[aio]' ] ] },  qr/ring 0x0: / ],
    [ 'a ring that is not there', { files => [ [ 0x5000, 0x6000, 0, '/[aio]' ] ] },     qr/ring 0x5000: .*write 0x7f to/ ],
);
bytes_are("NT_FILE: $_->[0]", 1, $_->[2], core(notes => file_note(%{ $_->[1] }))) for @files;
bytes_are('NT_FILE: no end of a name', 1, qr/NT_FILE note is truncated/, core(notes => file_note() =~ s/\(deleted\)\0\0*\z/(deleted)xxxx/r));

# ---- rings ----

my @headers = (
    [ 'nr',            { nr => 126 },               qr/another number of slots/ ],
    [ 'nr',            { nr => 0 },                 qr/another number of slots/ ],
    [ 'nr',            { nr => 0xffffffff },        qr/another number of slots/ ],
    [ 'head',          { head => 127 },             qr/head lies outside/ ],
    [ 'head',          { head => 0xffffffff },      qr/head lies outside/ ],
    [ 'tail',          { tail => 127 },             qr/tail lies outside/ ],
    [ 'tail',          { tail => 0x80000000 },      qr/tail lies outside/ ],
    [ 'magic',         { magic => 0 },              qr/magic number/ ],
    [ 'header_length', { header_length => 0xffff }, qr/header length/ ],
);
for my $header (@headers) {
    my ($field, $change, $pattern) = @$header;
    my @loads = (loads => [ { addr => 0x10000000, bytes => ring_bytes(%$change) } ]);
    bytes_are("ring header: $field $change->{$field}", 1, qr/ring 0x10000000: .*$pattern/, core(@loads));
    bytes_are("... found by NT_FILE", 1, qr/ring 0x10000000: .*$pattern/, core(@loads, notes => file_note()));
}
bytes_are('a ring without its content', 1, qr/does not hold its memory/,
    core(loads => [ { addr => 0x10000000, bytes => '', memsz => $PAGE } ]));

# What the kernel admits at most is pending; one more is refused by the host.
bytes_are('more pending than any host admits', 4, qr/126 events are pending|possible CPUs/,
    core(loads => [ { addr => 0x10000000, bytes => ring_bytes(head => 1, tail => 0) } ]), list => 0)
    if slurp('/sys/devices/system/cpu/possible') =~ /^0-1$/;

# Sound images of rings where no process can have them: list knows, run cannot.
for my $addr (0, 0x800000000000, 0xffff800000000000, 0x7ffffffff000, 0xffffffffff600000) {
    my $path = spit("$DIR/image.core", core(
        notes => aior_note(records => [ { addr => $addr } ]), loads => [ { addr => $addr, bytes => $ring } ]));
    is(run_tool('list', $path)->{status}, 0, sprintf 'a ring at 0x%x: list', $addr);
    my $result = run_tool('run', $path);
    ok($result->{status} == 0 || ($result->{status} =~ /^[14]$/ && $result->{err} =~ /\Aaio-restorer: (?:ring 0x|the fresh).{20,}\n\z/), '... run') or diag explain $result;
}

# ---- other machines ----

for my $machine (qw(x86_64 i386 aarch64 riscv64)) {
    next if $machine eq $HOST;
    my ($number, $class, $arch) = @{ $MACHINE{$machine} };
    for my $notes (aior_note(arch => $arch), file_note(class => $class)) {
        my $path = spit("$DIR/other.core", core(machine => $machine, notes => $notes));
        my $listed = json(run_tool('list', $path, '--json')->{out});
        is("$listed->{machine} " . scalar @{ $listed->{rings}[0]{events} // [] }, "$machine 6", "an image of $machine: list");
        # An x86_64 kernel runs 32-bit programs, unless it was built without.
        my $beside = $HOST eq 'x86_64' && $machine eq 'i386';
        for my $command (qw(run check)) {
            my $result = $beside ? run_tool($command, $path) : undef;
            if ($result && $result->{status} == 0) {
                like($result->{out}, $command eq 'run' ? qr/slot 8: data 0xda7a/ : qr/all can be restored here/, "... $command");
                next;
            }
            refuses("... $command", 4, qr/the rings are those of a process on $machine(?:: this host is $HOST|, and the kernel of this host \($HOST\) runs no such programs)/,
                $command, $path);
        }
    }
}

# An address of a larger address space than this host's.
{
    my $far = 0x7ff0000000000000;
    my $path = spit("$DIR/far.core", core(loads => [ { addr => $far, bytes => ring_bytes() } ],
        notes => aior_note(records => [ { addr => $far, staged => $far } ])));
    ok(run_tool('list', $path)->{status} == 0, 'a ring at an address that no process here can have: list');
    refuses("... $_", 4, qr/ring 0x7ff0000000000000: no process of this host can have that address/, $_, $path) for qw(run check);
}

# Rings wherever the kernel puts what it maps into a 32-bit process itself, some of which cannot be
# unmapped in part: the process that they come back in must have it elsewhere.
SKIP: {
    my ($local) = run_tool('check')->{out} =~ /^images that run here +(.*)/m;
    skip 'no 32-bit programs run here', 2 if $HOST ne 'x86_64' || $local !~ /i386/;
    my @addresses = map { 0xf7d00000 + $_ * $PAGE } 0 .. 766;
    my $path = spit("$DIR/crowded.core", core(machine => 'i386', loads => [ map { { addr => $_, bytes => ring_bytes() } } @addresses ],
        notes => aior_note(arch => 2, records => [ map { { addr => $_, staged => $_ } } @addresses ])));
    my $result = run_tool('run', $path);
    ok($result->{status} == 0 && $result->{out} =~ /^process \d+, i386: 767 rings$/m, 'rings where a 32-bit process has its vDSO')
        or diag explain $result->{err};

    # One each 4 MiB, and what is to restore them is larger than that.
    @addresses = map { 0x400000 * $_ + 0x10000 } 0 .. 1023;
    $path = spit("$DIR/full.core", core(machine => 'i386', loads => [ map { { addr => $_, bytes => ring_bytes() } } @addresses ],
        notes => aior_note(arch => 2, records => [ map { { addr => $_, staged => $_ } } @addresses ])));
    refuses('rings all over a 32-bit address space', 1, qr/the rings leave no room for a program beside them/, 'run', $path);
}

# ---- files that change, and large ones ----

SKIP: {
    my $path = "$DIR/sparse.core";
    local @Hostile::limited = ();    # which would keep a file of that size from being mapped
    spit($path, core());
    skip 'no sparse files', 9 unless truncate $path, 1 << 40;
    image_is('a file of a terabyte, mostly holes', 0, undef, $path);
    my $plain = core();
    my $shdr = pack 'V2Q<4V2Q<2', 0, 0, 0, 0, 0, 1, 0, 0x7fffffff, 0, 0;
    spit($path, core(ehdr => { phnum => 0xffff, shoff => length $plain, shentsize => 64, shnum => 1 }, append => $shdr));
    truncate $path, 1 << 40;
    image_is('... that says all of it is program headers', 1, qr/program headers/, $path);
    spit($path, core(note => { filesz => (1 << 40) - 4096 }));
    truncate $path, 1 << 40;
    image_is('... or notes', 1, qr/notes/, $path);
    spit($path, core(notes => '', note => { filesz => 1 << 30 }));
    truncate $path, 1 << 40;
    image_is('... or a gigabyte of empty notes', 0, undef, $path) if !$SAN;
    unlink $path;
}
{
    my $leaver = leaver('--ring', 'n=2000,head=3,tail=2000', '--ring', 'n=1,head=3,tail=9');
    my $path = "$DIR/cut.core";
    run_tool('dump', $leaver->{pid}, '-o', $path);
    my $whole = slurp($path);
    my @wrong;
    my $cutter = fork // die;
    if (!$cutter) {
        $SIG{$_} = 'DEFAULT' for qw(TERM INT HUP);
        for (1 .. 20000) {
            open my $file, '+<', $path or POSIX::_exit(0);
            truncate $file, int rand length $whole;
            sleep 0.0003;
            syswrite $file, $whole;
            close $file;
            sleep 0.003;
        }
        POSIX::_exit(0);
    }
    my %seen;
    my $end = time + 3;
    while (time < $end) {
        my $result = run_tool({ seconds => 20 }, 'list', $path, '--json');
        $seen{ $result->{status} }++;
        push @wrong, $result if $result->{status} !~ /^[01]$/ || ($result->{status} && $result->{err} !~ /\Aaio-restorer: .*\n\z/);
    }
    kill 'KILL', $cutter;
    waitpid $cutter, 0;
    is_deeply(\@wrong, [], 'a file that is cut off and written while it is read');
    cmp_ok($seen{0}, '>', 0, '... which is whole at times');
    end($leaver);
}

# ---- thousands of mutants ----

my $leaver = leaver('--ring', 'n=1,head=3,tail=9', '--ring', 'n=1,head=120,tail=4');
run_tool('dump', $leaver->{pid}, '-o', "$DIR/dump.core");
end($leaver);
spit("$DIR/file.core", core(notes => elf_note("CORE\0", 3, "\0" x 136) . file_note()));
spit("$DIR/plain.core", core(notes => '', note => { type => 0 }));
spit("$DIR/small.core", core(machine => 'i386', notes => file_note(class => 1)));
mutants_are("$DIR/$_.core", "$_.core") for qw(dump file plain small);
is_deeply([ own_processes() ], [], 'no process is left');

done_testing;
