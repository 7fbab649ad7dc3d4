#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# What the soname stands for: dist/libaio-restorer.abi says how large each structure of aio-restorer.h is and where
# its fields lie, the value of each constant, and each function with its types and its version. What is built must
# be that; any of it changes with the soname only, but for functions that are added in a later version.
use strict;
use warnings;
use File::Temp qw(tempdir);
use Test::More;
use lib 'tests';
use Build;

my $dir = tempdir('aior-abi-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $header = slurp('loader/aio-restorer.h') =~ s{/\*.*?\*/}{ }gsr;
my $record = slurp('dist/libaio-restorer.abi');
my $soname = make_var('SONAME');

# ---- what the header has ----

sub flat { my ($text) = @_; return $text =~ s/\s+/ /gr =~ s/^ | $//gr }

# Structures with their fields, constants.
sub parts_of
{
    my $header = $_[0] =~ s{/\*.*?\*/}{ }gsr;
    my (@structures, %fields);
    while ($header =~ /^struct (aior_\w+) \{\n(.*?)^\};/gms) {
        my ($name, $body) = ($1, $2);
        push @structures, $name;
        for my $field (split /;/, flat($body)) {
            push @{ $fields{$name} }, /(\w+)(?:\[\d+\])?\s*\z/ ? $1 : die "$name: $_" for split /,/, $field;
        }
    }
    my @constants;
    push @constants, grep { length } map { flat($_) =~ s/ .*//r } split /,/, $1 while $header =~ /^enum \w+ \{\n(.*?)^\};/gms;
    return (\@structures, \%fields, \@constants);
}

my %functions;
my ($structures, undef, $constants) = parts_of($header);
$functions{$2} = flat($1) while $header =~ /^AIOR_PUBLIC ([^;]*?\b(aior_\w+)\([^;]*);/gms;

my ($version, %version_of);
for (split /\n/, slurp('dist/libaio-restorer.map')) {
    $version = $1 if /^(\w\S*) \{/;
    $version_of{$1} = $version if /^\t(aior_\w+);/;
}

# Both sizes of pointers, as far as there is a compiler for them; a layout is taken from what it compiles to.
my %compilers = (64 => [ grep { !/i686/ } compilers() ], 32 => [ grep { /i686/ } compilers() ]);
sub compilers { return ($ENV{CC} // 'gcc', grep { run("command -v $_") !~ /^exit/ } map { "$_-linux-gnu-gcc" } qw(i686 aarch64 riscv64)) }

sub layout
{
    my ($compiler, $folder) = (@_, 'loader');
    my @names;
    my ($structures, $fields, $constants) = parts_of(slurp("$folder/aio-restorer.h"));
    my $code = "#include <stddef.h>\n#include \"aio-restorer.h\"\n";
    for my $structure (@$structures) {
        push @names, [ "struct $structure", "sizeof(struct $structure)" ];
        push @names, [ "struct $structure.$_", "offsetof(struct $structure, $_)" ], [ "struct $structure.$_ bytes", "sizeof(((struct $structure *)0)->$_)" ]
            for @{ $fields->{$structure} };
    }
    push @names, [ "constant $_", $_ ] for @$constants;
    $code .= 'void f(void) {' . join('', map { "__asm__ volatile(\"#\@\@ $_->[0] = %c0\" :: \"i\"((long)($_->[1])));\n" } @names) . "}\n";
    spew("$dir/layout.c", $code);
    return run("$compiler -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64 -S -o $dir/layout.s -I$folder $dir/layout.c && sed -n 's/.*#\@\@ //p' $dir/layout.s");
}

sub current
{
    my $text = "# SPDX-License-Identifier: MIT\n# What the soname stands for: `tests/library-abi.t --record`, once for each soname.\nsoname $soname\n";
    for my $bits (64, 32) {
        my ($compiler) = @{ $compilers{$bits} } or next;
        $text .= "$bits $_\n" for split /\n/, layout($compiler);
    }
    return $text . join '', map { ($version_of{$_} // 'no version') . " $functions{$_}\n" } sort keys %functions;
}

if (@ARGV && $ARGV[0] eq '--record') {
    print current();
    exit;
}

# ---- and what is recorded ----

ok(@$structures > 8 && keys %functions > 20 && @$constants == 4, @$structures . ' structures, ' . keys(%functions) . ' functions, ' . @$constants . ' constants');
my ($recorded) = $record =~ /^soname (\S+)$/m;
is($soname, $recorded, 'the soname is the one that was recorded');
like(slurp('debian/libaio-restorer0.symbols'), qr/^\Q$soname\E libaio-restorer0 /m, 'and the one of the Debian package');
for my $bits (64, 32) {
    my $expected = join '', map { /^$bits (.*\n)/ ? $1 : () } split /^/, $record;
    ok($expected, "$bits bits: recorded");
SKIP: {
        skip("$bits bits: there is no compiler", 1) unless @{ $compilers{$bits} };
        is(layout($_), $expected, "$_: each structure, field and constant is as it was: otherwise the soname must be another") for @{ $compilers{$bits} };
    }
}
my @recorded = $record =~ /^(AIO_RESTORER_.*)$/mg;
is(join("\n", sort map { ($version_of{$_} // 'no version') . " $functions{$_}" } keys %functions), join("\n", sort @recorded), 'each function is as it was, and each is recorded with its version');
is(join(' ', grep { !$functions{$_} } sort keys %version_of), '', 'what is exported is declared');

# It must notice: a field more, fields in another order, another type.
my $original = slurp('loader/aio-restorer.h');
my %changes = (
    'a field more' => sub { s/(\tint compacts;\n)/$1\tint further;\n/ },
    'other order' => sub { s/(\tint parks;\n)(.*?)(\tint compacts;\n)/$3$2$1/s },
    'another type' => sub { s/uint32_t room_cpus;/uint64_t room_cpus;/ },
);
my ($expected) = join '', map { /^64 (.*\n)/ ? $1 : () } split /^/, $record;
for my $change (sort keys %changes) {
    local $_ = $original;
    $changes{$change}->() or die $change;
    mkdir "$dir/changed";
    spew("$dir/changed/aio-restorer.h", $_);
    my $compiler = $compilers{64}[0];
    isnt(layout($compiler, "$dir/changed"), $expected, "it notices: $change");
}

# No function keeps anything between calls.
my @writable = map { /^(\.(?:data|bss|tdata|tbss)\S*)\s+([1-9]\d*)/ && $1 !~ /rel\.ro/ ? "$1 $2" : () } split /\n/, run("size -A $BUILD/libaio-restorer.a");
SKIP: {
    skip('what is built with a sanitizer has its own data', 1) if $BUILD =~ /san/;
    is("@writable", '', 'the library has no writable data');
}

done_testing();
