#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# What embedders take: every format that `aio-restorer emit` writes, and a program that embeds one.
use strict;
use warnings;
use File::Temp qw(tempdir);
use JSON::PP;
use Test::More;
use lib 'tests';
use Build;

my $tool = "$BUILD/aio-restorer";
my $host = make_var('HOST_ARCH');
my @others = grep { $_ ne $host } split ' ', make_var('BLOB_ARCHES');
my %numbers = (restore => 1, stage => 2);
my @fields = qw(abi arch op size call jump park park_end stack scratch flags crc32);
my $dir = tempdir('aior-emit-XXXXXX', TMPDIR => 1, CLEANUP => 1);

# Runs a shell command; what it wrote, or how it failed.
sub run {
    my ($command) = @_;
    my $said = `( $command ) 2>&1`;
    return $? ? "exit $?: $said" : $said;
}

plan skip_all => "$tool is not built" unless -x $tool;

# Of the architecture and the blob that are being looked at: the compiler's prefix, how programs are made that run
# here (undef: they do not), the blob as each format has it, its bytes, and what its header says.
my ($arch, $op, $what, $prefix, $static, %file, $bin, %fact, $facts);

sub choose {
    ($arch, $op) = @_;
    $what = "$arch, $op";
    $prefix = make_var("$arch.prefix");
    $static = '';
    spew("$dir/true.c", "int main(void)\n{\n\treturn 0;\n}\n");
    if ($arch ne $host) {
        $static = run("${prefix}gcc -static -o $dir/true $dir/true.c && $dir/true") eq '' ? '-static' : undef;
    }
    for my $format (qw(bin c obj json)) {
        $file{$format} = "$dir/blob.$format";
        is(run("$tool emit --arch $arch --blob $op --format $format -o $file{$format}"), '', "$what: $format: written, and nothing said");
        is(run("$tool emit --arch $arch --blob $op --format $format > $dir/again"), '', "$what: $format: to standard output");
        ok(slurp($file{$format}) eq slurp("$dir/again"), "$what: $format: twice the same bytes");
    }
    $bin = slurp("$BUILD/blob-$op-$arch.bin");
    ok(slurp($file{bin}) eq $bin, "$what: bin: the blob that was built");
    @fact{@fields} = unpack 'x8 V12', $bin;
    is($fact{size}, length $bin, "$what: the header says its size");
    is($fact{op}, $numbers{$op}, "$what: and its operation");
    is($fact{arch}, { x86_64 => 1, i386 => 2, aarch64 => 3, riscv64 => 4 }->{$arch}, "$what: and its architecture");
    $facts = join ' ', map { $fact{$_} } grep { !/^(arch|op)$/ } @fields;
}

# What a program that was made says; where it does not run, that it was made is all there is to see.
sub program_says {
    my ($command, $expected, $name) = @_;
    is(run($command), $expected, $name) if defined $static;
}

sub test_c {
    my $name = "aior_${op}_$arch";
    my @macros = map { "AIOR_\U${op}_$arch\E_" . uc } grep { !/^(arch|op)$/ } @fields;
    my $format = join ' ', ('%u') x @macros;
    my $flags = $static // '-static';
    spew("$dir/use.c", <<C);
#include <stdio.h>
#include "blob.c.h"
#include "blob.c.h"
int main(void)
{
	printf("$format\\n", ${\join(', ', @macros)});
	return fwrite($name, 1, sizeof($name), stderr) != $fact{size};
}
C
    spew("$dir/blob.c.h", slurp($file{c}));
    for my $compiler ("${prefix}gcc -std=c99", "${prefix}gcc -std=gnu11",
        $arch eq $host ? ("${prefix}g++ -x c++", 'clang', 'clang++ -x c++') : ()) {
        my ($program) = split ' ', $compiler;
        SKIP: {
            skip("no $program here", 2) if run("command -v $program") =~ /^exit/;
            is(run("$compiler -Wall -Wextra -Werror $flags -o $dir/use $dir/use.c"), '', "$what: c: taken by $compiler");
            program_says("$dir/use 2>$dir/bytes", "$facts\n", "$what: c: the facts, by $compiler");
        }
    }
    ok(slurp("$dir/bytes") eq $bin, "$what: c: the bytes") if defined $static;
}

# An object, linked into a program.
sub test_obj {
    my $source = <<'C';
#include <stdio.h>
#include <string.h>
#include "restorer.h"
int aior_restore_call(struct aior_args *);
extern const unsigned char aior_restore_blob[];
extern const char aior_restore_size[], aior_restore_stack[], aior_restore_scratch[];
int main(void)
{
	static _Alignas(16) char scratch[4096];
	struct aior_args args = {.abi = AIOR_ABI, .size = sizeof(args), .page_size = 4096, .fd = -1,
		.scratch = (uint64_t)(uintptr_t)scratch, .scratch_len = sizeof(scratch)};
	int newer, ret = aior_restore_call(&args);
	args.abi++;
	newer = aior_restore_call(&args);
	fwrite(aior_restore_blob, 1, (size_t)aior_restore_size, stderr);
	printf("%d %u %d %zu %zu\n", ret, args.step, newer, (size_t)aior_restore_stack, (size_t)aior_restore_scratch);
	return 0;
}
C
    $source =~ s/aior_restore_/aior_${op}_/g;
    spew("$dir/call.c", $source);
    spew("$dir/blob.o", slurp($file{obj}));
    for my $how ($arch eq $host ? ('-no-pie', '-fPIE -pie') : '-no-pie -static') {
        # The sizes are absolute symbols: a program that may lie anywhere cannot take their addresses, nor
        # can one whose code model reaches its own data only.
        my $how_source = $source;
        $how_source =~ s/\(size_t\)aior_${op}_(size|stack|scratch)/(size_t)$fact{$1}/g if $how =~ /-fPIE/;
        spew("$dir/call-how.c", $how_source);
        is(run("${prefix}gcc -Wall -Werror -Ipie $how -Wl,--fatal-warnings -o $dir/call $dir/call-how.c $dir/blob.o"), '', "$what: obj: linked, $how");
        program_says("$dir/call 2>$dir/bytes", "0 16 -38 $fact{stack} $fact{scratch}\n", "$what: obj: called, $how");
        ok(slurp("$dir/bytes") eq $bin, "$what: obj: the bytes, $how") if defined $static;
    }
    is(run("readelf -rW $dir/blob.o") =~ /no relocations/ ? 1 : 0, 1, "$what: obj: no relocation");
    like(run("readelf -SW $dir/blob.o"), qr/\.note\.GNU-stack/, "$what: obj: asks for no executable stack");
}

# An object, linked into another blob. The two together are larger than one may be, which is not the
# question here.
sub test_obj_in_blob {
    my $script = slurp('pie/blob.lds');
    $script =~ s/<= 4096/<= 8192/;
    spew("$dir/both.lds", $script);
    my $both = <<'C';
#include "blob.h"
__attribute__((visibility("hidden"))) blob_entry aior_restore_call;
const struct aior_blob header __attribute__((section(".header"), used)) = {.magic = AIOR_BLOB_MAGIC};
int aior_main(struct aior_args *args, int jumped)
{
	return jumped ? 1 : aior_restore_call(args);
}
C
    $both =~ s/aior_restore_/aior_${op}_/g;
    spew("$dir/both.c", $both);
    my $ldflags = make_var('BLOB_LDFLAGS');
    $ldflags =~ s{pie/blob\.lds}{$dir/both.lds};
    my ($cflags, $folder, $entry) = (make_var("$arch.cflags"), make_var("$arch.dir"), "$BUILD/$arch/entry.o");
    if ($arch eq 'riscv64') {
        # The linker wants all to pass floating-point numbers alike, though nobody passes any.
        $cflags = '-march=rv64gc -mabi=lp64d';
        $entry = "$dir/entry.o";
        run("${prefix}gcc $cflags -c -o $entry $folder/entry-riscv64.s");
    }
    is(run("${prefix}gcc " . make_var('BLOB_CFLAGS') . " $cflags -Ipie -I$folder -c -o $dir/both.o $dir/both.c"), '',
        "$what: obj: another blob, compiled");
    is(run("${prefix}ld " . make_var("$arch.ldflags") . " $ldflags -o $dir/both.elf $dir/both.o $entry $dir/blob.o"), '',
        "$what: obj: another blob, linked with pie/blob.lds");
    like(run("readelf -rW $dir/both.elf"), qr/no relocations/, "$what: obj: another blob, no relocation");
    unlike(run("readelf -SW $dir/both.elf"), qr/\.plt|\.data|\.bss/, "$what: obj: another blob, no table");
    spew("$dir/place.c", <<'C');
#include <stdio.h>
#include <sys/mman.h>
#include "restorer.h"
int main(int argc, char **argv)
{
	static _Alignas(16) char scratch[4096];
	struct aior_args args = {.abi = AIOR_ABI, .size = sizeof(args), .page_size = 4096, .fd = -1,
		.scratch = (uint64_t)(uintptr_t)scratch, .scratch_len = sizeof(scratch)};
	unsigned offset = 0;
	FILE *file = fopen(argv[argc - 1], "rb");
	char *at = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!file || !fread(at, 1, 65536, file) || sscanf(argv[1], "%x", &offset) != 1 ||
		mprotect(at, 65536, PROT_READ | PROT_EXEC))
		return 1;
	printf("%d ", ((int (*)(struct aior_args *))(at + offset))(&args));
	printf("%u\n", args.step);
	return 0;
}
C
    my ($at) = run("nm $dir/both.elf") =~ /^([0-9a-f]+) \w enter_call$/m;
    is(run("${prefix}objcopy -O binary -j .blob $dir/both.elf $dir/both.bin && ${prefix}gcc ${\($static // '-static')} -Ipie -o $dir/place $dir/place.c"),
        '', "$what: obj: another blob, placed");
    program_says("$dir/place $at $dir/both.bin", "0 16\n", "$what: obj: another blob, called");
}

sub test_json {
    my $json = eval { decode_json(slurp($file{json})) };
    ok($json, "$what: json: parsed") or diag($@);
    is_deeply([@$json{qw(format arch blob)}], [1, $arch, $op], "$what: json: what it is");
    is(join(' ', map { $json->{$_} // '?' } grep { !/^(arch|op)$/ } @fields), $facts, "$what: json: the facts");
    ok(pack('H*', $json->{bytes}) eq $bin, "$what: json: the bytes");
    return $json;
}

# What it says of the contract is the same for all blobs of an architecture: pie/restorer.h sees to it at build.
sub test_json_contract {
    my ($json) = @_;
    my $c = qq(#include <stdio.h>\n#include "restorer.h"\nint main(void)\n{\n);
    my $expected = '';
    for my $type (sort keys %{$json->{structures}}) {
        $c .= qq(\tprintf("$type %zu\\n", sizeof(struct $type));\n);
        $expected .= "$type $json->{structures}{$type}{size}\n";
        for my $field (sort keys %{$json->{structures}{$type}{fields}}) {
            $c .= qq(\tprintf("$type.$field %zu %zu\\n", offsetof(struct $type, $field), sizeof(((struct $type *)0)->$field));\n);
            $expected .= sprintf "%s.%s %u %u\n", $type, $field, @{$json->{structures}{$type}{fields}{$field}}{qw(offset size)};
        }
    }
    for my $constant (sort keys %{$json->{constants}}) {
        $c .= qq(\tprintf("$constant %u\\n", (unsigned)$constant);\n);
        $expected .= "$constant $json->{constants}{$constant}\n";
    }
    spew("$dir/offsets.c", "$c\treturn 0;\n}\n");
    is(run("${prefix}gcc ${\($static // '-static')} -Ipie -o $dir/offsets $dir/offsets.c"), '', "$what: json: every field and constant is there");
    program_says("$dir/offsets", $expected, "$what: json: every size, offset and constant is the contract's");
    my @wanted = slurp('pie/restorer.h') =~ /^#define (AIOR_(?:F|END|STEP|RING|POLL|TABLE|ARCH)_\w+|AIOR_NO_RING|AIOR_ABI) /mg;
    is(join(' ', grep { !exists $json->{constants}{$_} && !/_MAGIC$/ } @wanted), '', "$what: json: no constant is missing");
    is(join(' ', sort keys %{$json->{structures}}), 'aior_args aior_blob aior_poll_record aior_ring_record aior_table aior_thread_record', "$what: json: every structure");
}

for my $each (@others, $host) {
    for my $blob (sort keys %numbers) {
        choose($each, $blob);
        test_c();
        test_obj();
        test_obj_in_blob();
        my $json = test_json();
        test_json_contract($json) if $blob eq 'restore';
    }
}

# The contract in other dialects.
spew("$dir/contract.c", qq(#include "restorer.h"\nint main(void) { return aior_args_size(1) == sizeof(struct aior_args) ? 0 : 1; }\n));
for my $compiler ("${prefix}gcc -std=c11 -pedantic", "${prefix}g++ -std=c++11 -pedantic -x c++", 'clang -std=c11', 'clang++ -std=c++11 -x c++') {
    my ($program) = split ' ', $compiler;
    SKIP: {
        skip("no $program here", 1) if run("command -v $program") =~ /^exit/;
        is(run("$compiler -Wall -Wextra -Werror -Ipie -o $dir/contract $dir/contract.c && $dir/contract"), '', "restorer.h: taken by $compiler");
    }
}

# An embedder.
SKIP: {
    my $program = "$BUILD/tests/embed-c/embed-c";
    skip("$program is not built", 1) unless -x $program;
    is(run($program), "data 102 res 1\ndata 103 res 1\ndata 104 res 1\n", 'embed-c: the events that were pending');
}

# Wrong usage.
like(run("$tool emit --arch $arch --blob restore --format none"), qr/^exit 512: /, 'an unknown format: exit 2');
like(run("$tool emit --arch vax --blob restore --format bin"), qr/^exit 512: /, 'an unknown architecture: exit 2');
like(run("$tool emit --arch $arch --blob none --format bin"), qr/^exit 512: /, 'an unknown blob: exit 2');
like(run("$tool emit --arch $arch --blob restore --format bin -o $dir/none/none"), qr/^exit 256: .*none\/none/, 'a folder that is not there: exit 1');

done_testing();
