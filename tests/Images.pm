# SPDX-License-Identifier: MIT
#
# Folders of CRIU's images: how to have them made by CRIU, and how to make and change them by hand.
package Images;
use strict;
use warnings;
no warnings 'portable';    # addresses have 64 bits
use Cli;
use Exporter 'import';

our @EXPORT = qw(find_criu criu_dump write_folder read_messages write_messages fields pack_fields ring_page
    $ANON $AIORING $PARENT $LAZY $PRESENT);

our ($ANON, $AIORING) = (1 | 1 << 9, 1 | 1 << 13);    # status of a vma
our ($PARENT, $LAZY, $PRESENT) = (1, 2, 4);           # of an entry of the pagemap

my $COMMON = 0x54564319;
my %MAGIC = (inventory => 0x58313116, core => 0x55053847, mm => 0x57492820, pagemap => 0x56084025);

# ---- CRIU ----

# A command, or undef and why there is none.
sub find_criu
{
    return (undef, 'CRIU takes root') if $> != 0;
    return $ENV{CRIU} if $ENV{CRIU};
    return "$BUILD/criu/criu" if -x "$BUILD/criu/criu";
    return (undef, slurp("$BUILD/criu.missing") =~ s/\s+\z//r || 'there is no CRIU here (make check fetches it)');
}

# Dumps a process and its children into a new folder, which it returns, or undef and what CRIU said.
sub criu_dump
{
    my ($criu, $action, $pid, @options) = @_;
    my ($folder, $plugins) = (fresh('.images'), "$DIR/no-plugins");
    mkdir $_ for $folder, $plugins;
    my $result = run_command($criu, $action, '-t', $pid, '-D', $folder, '--shell-job', '--manage-cgroups=ignore', '--libdir', $plugins,
        '-v4', '-o', 'dump.log', @options);
    return $folder if $result->{status} == 0;
    my @wrong = grep { /Error/ } split /\n/, slurp("$folder/dump.log");
    return (undef, "@wrong[0 .. ($#wrong > 3 ? 3 : $#wrong)] $result->{err}");
}

# ---- by hand ----

sub varint
{
    my ($n) = @_;
    my $bytes = '';
    while ($n > 127) {
        $bytes .= chr($n & 127 | 128);
        $n >>= 7;
    }
    return $bytes . chr $n;
}

# A message: [number, value], where a value is a number, or a reference to the bytes of a message.
sub pack_fields
{
    return join '', map { ref $_->[1] ? varint($_->[0] << 3 | 2) . varint(length ${ $_->[1] }) . ${ $_->[1] } : varint($_->[0] << 3) . varint($_->[1]) } @_;
}

sub take_varint
{
    my ($bytes, $at) = @_;
    my ($n, $shift) = (0, 0);
    while (1) {
        my $byte = ord substr $$bytes, $$at++, 1;
        $n |= ($byte & 127) << $shift;
        $shift += 7;
        return $n if $byte < 128;
    }
}

# And back.
sub fields
{
    my ($bytes) = @_;
    my $at = 0;
    my @fields;
    while ($at < length $bytes) {
        my $key = take_varint(\$bytes, \$at);
        my ($number, $type) = ($key >> 3, $key & 7);
        if ($type == 0) {
            push @fields, [ $number, take_varint(\$bytes, \$at) ];
        } elsif ($type == 2) {
            my $len = take_varint(\$bytes, \$at);
            my $value = substr $bytes, $at, $len;
            push @fields, [ $number, \$value ];
            $at += $len;
        } else {
            die "a field of type $type";
        }
    }
    return @fields;
}

sub write_messages
{
    my ($path, $kind, @messages) = @_;
    my $common = $kind eq 'inventory' ? '' : pack 'V', $COMMON;
    return spit($path, $common . pack('V', $MAGIC{$kind}) . join '', map { pack('V', length $_) . $_ } @messages);
}

sub read_messages
{
    my ($path) = @_;
    my $bytes = slurp($path);
    my $at = 4;
    $at += 4 if unpack('V', $bytes) == $COMMON;
    my @messages;
    while ($at < length $bytes) {
        my $len = unpack 'V', substr $bytes, $at, 4;
        push @messages, substr $bytes, $at + 4, $len;
        $at += 4 + $len;
    }
    return @messages;
}

# A ring of a page, or of more.
sub ring_page
{
    my (%ring) = (id => 0, nr => 127, head => 3, tail => 9, len => 4096, magic => 0xa10a10a1, @_);
    my $bytes = pack 'V8', @ring{qw(id nr head tail magic)}, 1, 0, 32;
    $bytes .= pack 'Q<Q<q<q<', 0xda7a000000000000 + $_, 0x1000 * $_, $_, 0 for 0 .. ($ring{len} - 32) / 32 - 1;
    return $bytes . "\0" x ($ring{len} - length $bytes);
}

# A folder with these processes, whose fields are changed from those of a sound one with one ring.
sub write_folder
{
    my ($folder, %all) = @_;
    mkdir $folder;
    write_messages("$folder/inventory.img", 'inventory', pack_fields([ 1, $all{version} // 2 ])) unless $all{no_inventory};
    my $id = 0;
    for my $change (@{ $all{processes} // [ {} ] }) {
        my %process = (pid => 100 + $id, machine => 1, pages_id => ++$id, page => 4096,
            vmas => [ [ 0x10000000, 0x10001000, 3, $AIORING ] ], aios => [ [ 0x10000000, 4096 ] ],
            entries => [ [ 0x10000000, 1, $PRESENT ] ], pages => ring_page(), %$change);
        write_messages("$folder/core-$process{pid}.img", 'core', pack_fields([ 1, $process{machine} ],
            defined $process{mode} ? [ 2, \pack_fields([ 2, \pack_fields([ 28, $process{mode} ]) ]) ] : ()));
        write_messages("$folder/mm-$process{pid}.img", 'mm', pack_fields(
            (map { [ 13, $_ ] } 33, 0x7fff0000, 6, $process{page}, 0, 0),
            (map { my @vma = @$_; [ 14, \pack_fields([ 1, $vma[0] ], [ 2, $vma[1] ], [ 3, 0 ], [ 4, 0 ], [ 5, $vma[2] ], [ 6, 2 ], [ 7, $vma[3] ], [ 8, 1 ]) ] } @{ $process{vmas} }),
            (map { [ 16, \pack_fields([ 1, $_->[0] ], [ 2, 62 ], [ 3, $_->[1] ]) ] } @{ $process{aios} })));
        # Older releases have another field for the count, and one for "in the parent".
        write_messages("$folder/pagemap-$process{pid}.img", 'pagemap', pack_fields([ 1, $process{pages_id} ]),
            map { my @entry = @$_; pack_fields([ 1, $entry[0] ],
                $process{is_old} ? ([ 2, $entry[1] ], $entry[2] & $PARENT ? [ 3, 1 ] : ()) : ([ 2, 0 ], [ 4, $entry[2] ], [ 5, $entry[1] ]), @entry[ 3 .. $#entry ]) } @{ $process{entries} });
        spit("$folder/pages-$process{pages_id}.img", $process{pages}) if defined $process{pages};
    }
    return $folder;
}

1;
