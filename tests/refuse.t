#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# What a blob must not have: each is refused by the linker script, and by mkblob on its own, when
# somebody has linked the blob with a script that lets everything pass.
use strict;
use warnings;
use Cwd qw(getcwd);
use File::Temp qw(tempdir);
use Test::More;
use lib 'tests';
use Build;

my $host = make_var('HOST_ARCH');
my @others = grep { $_ ne $host } split ' ', make_var('BLOB_ARCHES');
my $strict = make_var('BLOB_LDFLAGS');
my ($gcc, $ld, $entry);    # of the architecture that is being looked at
my $dir = tempdir('aior-refuse-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $lax = "-pie --no-dynamic-linker -z notext --unresolved-symbols=ignore-all --build-id=none -T $dir/lax.lds";

sub choose {
    my ($arch) = @_;
    my $prefix = make_var("$arch.prefix");
    $gcc = "${prefix}gcc " . make_var('BLOB_CFLAGS') . ' ' . make_var("$arch.cflags") . ' -Ipie -I' . make_var("$arch.dir");
    $ld = "${prefix}ld " . make_var("$arch.ldflags");
    $entry = "$BUILD/$arch/entry.o";
}

# Runs a shell command; its exit status and all it said.
sub run_shell {
    my ($command) = @_;
    my $said = `( $command ) 2>&1`;
    return ($?, $said);
}

spew("$dir/lax.lds", <<'LDS');
ENTRY(enter_call)
SECTIONS
{
	. = 0;
	.blob : { KEEP(*(.header)) *(.entry) *(.text .text.*) *(.rodata .rodata.*) . = ALIGN(16); }
	/DISCARD/ : { *(.dynamic) *(.dynsym) *(.dynstr) *(.hash) *(.gnu.hash) *(.interp) *(.eh_frame) *(.comment) *(.note.gnu.*) }
}
LDS

my $header = <<'C';
const struct aior_blob header __attribute__((section(".header"), used)) = {
	.magic = AIOR_BLOB_MAGIC, .abi = AIOR_ABI, .op = AIOR_OP_RESTORE, .scratch = 16};
C

sub source {
    my ($declare, $body, $head) = @_;
    return qq(#include "restorer.h"\n) . ($head // $header) . "$declare\n"
        . "int aior_main(struct aior_args *args, int jumped);\n"
        . "int aior_main(struct aior_args *args, int jumped)\n{\n\t(void)args, (void)jumped;\n\t$body\n}\n";
}

sub compile {
    my ($name, $text) = @_;
    spew("$dir/$name.c", $text);
    my ($status, $said) = run_shell("$gcc -c -o $dir/$name.o $dir/$name.c");
    BAIL_OUT("$name does not compile: $said") if $status;
}

# What the linker script says, and what mkblob does when the script was lax: undef is success.
sub linked {
    my ($name, $how, $more) = @_;
    my ($status, $said) = run_shell("$ld $how " . ($more // '') . " -o $dir/$name.elf $dir/$name.o $entry");
    return $status ? $said : undef;
}

sub blob_made {
    my ($name, $graph) = @_;
    $graph //= "-g $dir/$name.ci";
    unlink "$dir/$name.bin";
    my ($status, $said) = run_shell("$BUILD/mkblob $graph -o $dir/$name.bin $dir/$name.elf");
    return undef if !$status && -s "$dir/$name.bin";
    return "a blob was left behind" if -e "$dir/$name.bin";
    return "not its usual way to fail: $status, $said" if $status != 256;
    return $said;
}

# name, declarations, body, what the script says, what mkblob says, more for the linker
my @bad = (
    ['an absolute address', '__asm__(".section .rodata\n.dc.a aior_main\n.text");', 'return 0;',
        qr/relocat|absolute address/, qr/relocations/],
    ['a table of addresses', 'int a; int b; int *const table[] __attribute__((used)) = {&a, &b};', 'return 0;',
        qr/blob: /, qr/relocations|writable data|zeroed data/],
    ['a global offset table', 'extern __attribute__((visibility("default"), weak)) int nowhere;',
        'return &nowhere != 0;', qr/global offset table/, qr/global offset table|relocations/, '--no-relax'],
    ['writable data', 'static volatile int counter = 1;', 'return counter++;', qr/writable data/, qr/writable data/],
    ['zeroed data', 'static volatile int counter;', 'return counter++;', qr/zeroed data/, qr/zeroed data/],
    ['thread-local data', 'static __thread volatile int counter = 1;', 'return counter++;',
        qr/./, qr/writable data|global offset table|relocations/],
    ['an undefined symbol', 'int nowhere(void);', 'return nowhere();', qr/undefined/, qr/nowhere is undefined|(?:global offset|procedure linkage) table/],
    ['an executable stack', '__asm__(".section .note.GNU-stack,\"x\",%progbits\n.text");', 'return 0;',
        qr/executable stack/, qr/executable stack/],
    ['more than 4096 bytes', 'static const char much[4096] __attribute__((used)) = {1};', 'return 0;',
        qr/larger than 4096/, qr/a blob has at most 4096/],
);

# What only mkblob can see.
my @unbounded = (
    ['recursion', "int deep(int n);\n__attribute__((noinline)) int deep(int n)\n"
            . "{\n\tvolatile int x = n;\n\treturn n ? deep(n - 1) + x : 0;\n}", 'return deep(jumped);', qr/deep calls itself/],
    ['recursion of two', "int ping(int), pong(int);\n__attribute__((noinline)) int ping(int n)\n"
            . "{\n\tvolatile int x = n;\n\treturn n ? pong(n - 1) + x : 0;\n}\n__attribute__((noinline)) int pong(int n)\n"
            . "{\n\tvolatile int x = n;\n\treturn n ? ping(n - 1) + x : 0;\n}", 'return ping(jumped);', qr/p[io]ng calls itself/],
    ['an array of variable length', '', "volatile char room[jumped + 1];\n\troom[jumped] = 1;\n\treturn room[0];",
        qr/aior_main has no fixed size/],
    ['alloca', '', "volatile char *room = __builtin_alloca(args->ring_count);\n\troom[0] = 1;\n\treturn room[0];",
        qr/aior_main has no fixed size/],
    ['a call through a pointer', '', 'return ((int (*)(void))(unsigned long)args->scratch)();', qr/through a pointer/],
    ['a frame that is too large', '', "volatile char room[1024];\n\troom[jumped] = 1;\n\treturn room[0];", qr/needs 1\d\d\d bytes of stack: a blob may need 1024/],
    ['calls that are too deep', join('', "int deep0(int n);\n__attribute__((noinline)) int deep0(int n)\n{\n\tvolatile char room[240];\n\troom[n] = 1;\n\treturn room[n];\n}\n",
            map { my $down = $_ - 1; "int deep$_(int n);\n__attribute__((noinline)) int deep$_(int n)\n{\n\tvolatile char room[240];\n\troom[n] = 1;\n\treturn deep$down(n) + room[n];\n}\n" } 1 .. 3),
        'return deep3(jumped);', qr/needs 1\d\d\d bytes of stack: a blob may need 1024/],
    ['assembly that does not say what it needs', '__attribute__((visibility("hidden"))) int dark(void);' . "\n" . '__asm__(".text\n.globl dark\n.hidden dark\ndark:\n");',
        'return dark();', qr/nothing says what dark needs/],
);
for my $arch ($host, @others) {
    my $number = 0;
    choose($arch);
    compile('good', source('', 'return 0;'));
    is(linked('good', $strict), undef, "$arch: a good blob: linked");
    is(blob_made('good'), undef, "$arch: a good blob: made");
    is(linked('good', $lax), undef, "$arch: a good blob, lax script: linked");
    is(blob_made('good'), undef, "$arch: a good blob, lax script: made");
    for (@bad) {
        my ($what, $declare, $body, $by_script, $by_mkblob, $more) = @$_;
        my $name = 'bad' . $number++;
        compile($name, source($declare, $body));
        like(linked($name, $strict, $more) // 'linked', $by_script, "$arch: $what: refused by the linker script");
        my $said = linked($name, $lax, $more);
        if (defined $said) {
            fail("$arch: $what: the lax link: $said");
            next;
        }
        like(blob_made($name) // 'made', $by_mkblob, "$arch: $what: refused by mkblob");
    }
    for (@unbounded) {
        my ($what, $declare, $body, $by_mkblob) = @$_;
        my $name = 'bad' . $number++;
        compile($name, source($declare, $body));
        is(linked($name, $strict), undef, "$arch: $what: linked");
        like(blob_made($name) // 'made', $by_mkblob, "$arch: $what: no stack bound that will do");
    }
}

# The rest is the same for all.
choose($host);
compile('good', source('', 'return 0;'));
linked('good', $strict);
like(blob_made('good', '') // 'made', qr/nothing says what aior_main needs/, 'no call graph: refused');
like(blob_made('good', "-g $dir/good.c") // 'made', qr/not a call graph/, 'a call graph that is none: refused');
like(blob_made('good', "-g $dir/missing.ci") // 'made', qr/No such file/, 'a call graph that is missing: refused');

compile('headless', source('', 'return 0;', ''));
linked('headless', $strict);
like(blob_made('headless') // 'made', qr/does not start with a blob header/, 'no header: refused');
run_shell("$ld $strict -e 0 -o $dir/good.elf $dir/good.o");
like(blob_made('good') // 'made', qr/lacks one of the symbols/, 'no entries: refused');
run_shell("cp $dir/good.o $dir/good.elf");
like(blob_made('good') // 'made', qr/not linked yet|relocations/, 'an object file: refused');

# Broken files. An ASan build of mkblob sees what is read beyond them.
linked('good', $strict);
my $elf = slurp("$dir/good.elf");
{
    my $wrong = $elf;
    substr($wrong, 18, 2) = pack('v', 8);
    spew("$dir/good.elf", $wrong);
    like(blob_made('good') // 'made', qr/machine that no blob is made for/, 'another machine: refused');
    substr($wrong = $elf, 5, 1) = "\2";
    spew("$dir/good.elf", $wrong);
    like(blob_made('good') // 'made', qr/not a little-endian ELF/, 'big-endian: refused');
}
my $asan = make_var('CC') . ' -fsanitize=address,undefined -fno-sanitize-recover=all';
spew("$dir/empty.c", "int main(void)\n{\n\treturn 0;\n}\n");
my ($status) = run_shell("$asan -o $dir/empty $dir/empty.c");
SKIP: {
    skip('no compiler with AddressSanitizer here', 3) if $status;
    my ($failed, $said) = run_shell("$asan -std=gnu11 -g -O1 -D_GNU_SOURCE -Ipie -Iarch -o $dir/mkblob-asan "
            . make_var('MKBLOB_SRCS'));
    ok(!$failed, 'mkblob is built with AddressSanitizer') or diag $said;
    local $ENV{ASAN_OPTIONS} = 'exitcode=99:detect_leaks=0';
    local $ENV{UBSAN_OPTIONS} = 'exitcode=99';
    my @crashed;
    my $try = sub {
        my ($what, $bytes) = @_;
        spew("$dir/broken.elf", $bytes);
        my $pid = fork // die;
        if (!$pid) {
            open STDERR, '>', '/dev/null';
            exec "$dir/mkblob-asan", '-g', "$dir/good.ci", '-o', "$dir/broken.bin", "$dir/broken.elf" or exit 98;
        }
        waitpid $pid, 0;
        push @crashed, "$what ($?)" if $? != 0 && $? != 256;
        return $? == 0;
    };
    my ($lengths, $taken) = (0, 0);
    for (my $len = 0; $len < length $elf; $len += $len < 200 || $len > length($elf) - 100 ? 1 : 97) {
        $taken += $try->("cut to $len", substr($elf, 0, $len));
        $lengths++;
    }
    is("@crashed; $taken taken", '; 0 taken', "a truncated ELF file, $lengths lengths: refused, and no crash");
    @crashed = ();
    # The headers: each byte of the ELF header, and all of the sections'.
    my $shoff = unpack 'Q<', substr($elf, 40, 8);
    for my $at (16 .. 63, map { $shoff + 2 * $_ } 0 .. (length($elf) - $shoff) / 2 - 1) {
        for my $byte ("\xff", "\x7f") {
            my $bytes = $elf;
            substr($bytes, $at, 1) = $byte;
            $try->("byte $at", $bytes);
        }
    }
    is("@crashed", '', 'an ELF file with absurd headers: no crash');
}

# Two builds, in two places: the same bytes.
my $here = getcwd();
my @made;
for my $place ("$dir/a", "$dir/a/longer/name") {
    mkdir $dir . '/a/longer' if $place =~ /longer/;
    mkdir $place;
    run_shell("cp -r Makefile pie arch loader dist tests $place/ 2>/dev/null");
    my ($failed, $why) = run_shell("cd $place && MAKEFLAGS= SAN= make -s -j2 blobs");
    push @made, { map { $_ => $failed ? "failed: $why" : slurp("$place/build/blob-restore-$_.bin") } $host, @others };
}
for my $arch ($host, @others) {
    ok($made[0]{$arch} =~ /^AIORBLOB/ && $made[0]{$arch} eq $made[1]{$arch}, "$arch: two builds in two folders: the same bytes") or diag $made[0]{$arch};
    ok($made[0]{$arch} eq slurp("$BUILD/blob-restore-$arch.bin"), '... and those of this build');
}

done_testing();
