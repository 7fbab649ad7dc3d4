#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# What embedders take: every format that `aio-restorer emit` writes, read, compiled or assembled.
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
    for my $format (qw(bin c obj json rust go asm nasm)) {
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

# The other languages: what a program or a file in one of them makes of each number, a line each, and of the bytes.
# The numbers are the contract's: those of json, which are the header's as seen above.
my ($contract, @emitted);

sub numbers {
    my @numbers;
    for my $type (sort keys %{$contract->{structures}}) {
        my $structure = $contract->{structures}{$type};
        push @numbers, [ $type, undef, $structure->{size} ];
        push @numbers, map { [ $type, $_, $structure->{fields}{$_}{offset}, $structure->{fields}{$_}{size} ] }
            sort keys %{$structure->{fields}};
    }
    return @numbers;
}

sub camel {
    my ($name) = @_;
    return join '', map { ucfirst } split /_/, $name;
}

sub fact_names {
    my ($emitted) = @_;
    return map { [ "AIOR_\U$emitted->{op}_$emitted->{arch}_$_\E", $emitted->{fact}{$_} ] } grep { !/^(arch|op)$/ } @fields;
}

# A copy of a file with something in it that the file itself must notice.
sub spoil {
    my ($text, $from, $to) = @_;
    $text =~ s/$from/$to/ or die "nothing to spoil: $from";
    return $text;
}

sub test_rust {
    my ($rustc) = grep { run("command -v $_") !~ /^exit/ } 'rustc';
    SKIP: {
        skip('rust: there is no rustc', 5) unless $rustc;
        my ($main, $expected, $bytes) = ('', '', '');
        for my $emitted (@emitted) {
            my $name = "$emitted->{op}_$emitted->{arch}";
            spew("$dir/$name.rs", $emitted->{text}{rust});
            $main .= "mod $name;\n";
        }
        $main .= "use std::io::Write;\nuse std::mem::{size_of, size_of_val};\nfn main() {\n";
        my $first = "$emitted[0]{op}_$emitted[0]{arch}";
        for my $number (numbers()) {
            my ($type, $field, @values) = @$number;
            my $rust = "$first\::" . camel($type);
            if (!defined $field) {
                $main .= qq(    let zero = $rust\::ZERO;\n    println!("$type {}", size_of::<$rust>());\n    let _ = zero;\n);
                $expected .= "$type @values\n";
                next;
            }
            $main .= qq(    println!("$type.$field {} {}", &zero.$field as *const _ as usize - &zero as *const _ as usize, size_of_val(&zero.$field));\n);
            $expected .= "$type.$field @values\n";
        }
        for my $constant (sort keys %{$contract->{constants}}) {
            $main .= qq(    println!("$constant {}", $first\::$constant);\n);
            $expected .= "$constant $contract->{constants}{$constant}\n";
        }
        for my $emitted (@emitted) {
            my $name = "$emitted->{op}_$emitted->{arch}";
            for my $fact (fact_names($emitted)) {
                $main .= qq(    println!("$fact->[0] {}", $name\::$fact->[0]);\n);
                $expected .= "@$fact\n";
            }
            $main .= "    std::io::stderr().write_all(&$name\::BLOB).unwrap();\n";
            $bytes .= $emitted->{bin};
        }
        spew("$dir/main.rs", "$main}\n");
        is(run("$rustc --edition 2021 -D warnings -o $dir/main-rust $dir/main.rs"), '', 'rust: taken, without a warning');
        is(run("$dir/main-rust 2>$dir/bytes"), $expected, 'rust: every size, offset, constant and fact');
        ok(slurp("$dir/bytes") eq $bytes, 'rust: the bytes of all blobs');
        spew("$dir/lib.rs", "#![no_std]\npub mod blob {\n    include!(\"$first.rs\");\n}\n");
        is(run("$rustc --edition 2021 -D warnings --crate-type rlib -o $dir/main-rust.rlib $dir/lib.rs"), '', 'rust: included, without std');
        spew("$dir/spoilt.rs", spoil($emitted[0]{text}{rust}, 'pub reserved_out: \[u64; 3\]', 'pub reserved_out: [u64; 2]'));
        like(run("$rustc --edition 2021 --crate-type rlib -o $dir/main-rust.rlib $dir/spoilt.rs"), qr/^exit .*assert/s, 'rust: a structure of another size is refused');
    }
}

sub test_go {
    SKIP: {
        skip('go: there is no go', 4 + @emitted) if run('command -v go') =~ /^exit/;
        my $go = "cd $dir/go && GO111MODULE=on GOFLAGS= GOTOOLCHAIN=local GOPROXY=off GOCACHE=$dir/go-cache CGO_ENABLED=0";
        my ($imports, $main, $expected, $bytes) = ('', '', '', '');
        mkdir "$dir/go";
        spew("$dir/go/go.mod", "module probe\n\ngo 1.18\n");
        for my $emitted (@emitted) {
            my $name = "$emitted->{op}_$emitted->{arch}";
            mkdir "$dir/go/$name";
            spew("$dir/go/$name/blob.go", $emitted->{text}{go});
            $imports .= qq(import $name "probe/$name"\n);
            # On the architecture that the blob is for: what lies elsewhere there does not compile.
            my %goarch = (x86_64 => 'amd64', i386 => '386', aarch64 => 'arm64');
            my $goarch = $goarch{$emitted->{arch}} // $emitted->{arch};
            is(run("$go GOARCH=$goarch go tool compile -o $dir/go.o $name/blob.go"), '', "go: $name: compiled on $goarch");
        }
        my $first = "$emitted[0]{op}_$emitted[0]{arch}";
        for my $number (numbers()) {
            my ($type, $field, @values) = @$number;
            my $value = "$first." . camel($type) . '{}';
            $expected .= defined $field ? "$type.$field @values\n" : "$type @values\n";
            $main .= defined $field
                ? sprintf qq(\tprintln("$type.$field", unsafe.Offsetof(%s.%s), unsafe.Sizeof(%s.%s))\n), ($value, camel($field)) x 2
                : qq(\tprintln("$type", unsafe.Sizeof($value))\n);
        }
        for my $constant (sort keys %{$contract->{constants}}) {
            $main .= qq(\tprintln("$constant", uint32($first.$constant))\n);
            $expected .= "$constant $contract->{constants}{$constant}\n";
        }
        for my $emitted (@emitted) {
            my $name = "$emitted->{op}_$emitted->{arch}";
            for my $fact (fact_names($emitted)) {
                $main .= qq(\tprintln("$fact->[0]", uint32($name.$fact->[0]))\n);
                $expected .= "@$fact\n";
            }
            $main .= "\tsyscall.Write(1, $name.Blob)\n";
            $bytes .= $emitted->{bin};
        }
        spew("$dir/go/main.go", qq(package main\n\nimport "syscall"\nimport "unsafe"\n${imports}\nfunc main() {\n$main}\n));
        is(run("$go go build -o $dir/main-go ."), '', 'go: taken');
        is(run("$dir/main-go 2>&1 >$dir/bytes"), $expected, 'go: every size, offset, constant and fact');
        ok(slurp("$dir/bytes") eq $bytes, 'go: the bytes of all blobs');
        is(run("$go gofmt -l ."), '', 'go: laid out as gofmt has it') unless run('command -v gofmt') =~ /^exit/;
        spew("$dir/go/spoilt.go", spoil($emitted[0]{text}{go}, 'Fd +int32', 'Fd int64'));
        like(run("$go go tool compile -o $dir/go.o spoilt.go"), qr/^exit .*AiorArgs\{\}\.Helpers/s, 'go: a structure with other offsets is refused');
    }
}

# A file for an assembler becomes 32-bit words, one for each number, and the bytes.
sub test_assembler {
    my ($emitted, $format, $include, $word, $assemble) = @_;
    my $name = "aior_$emitted->{op}_$emitted->{arch}";
    # (In code riscv's aligning is the linker's work.)
    my ($text, @expected) = ("section .data\n");
    $text = ".$text" if $format eq 'asm';
    spew("$dir/blob.inc", $emitted->{text}{$format});
    for my $number (numbers()) {
        my ($type, $field, $value) = @$number;
        $text .= "$word " . (defined $field ? "$type.$field" : "${type}_size") . "\n";
        push @expected, $value;
    }
    for my $pair ((map { [ $_, $contract->{constants}{$_} ] } sort keys %{$contract->{constants}}), fact_names($emitted)) {
        $text .= "$word $pair->[0]\n";
        push @expected, $pair->[1];
    }
    # Aligned, so that nothing comes between.
    my $padding = -@expected % 4;
    $text .= "$word 0\n" x $padding . "$include \"$dir/blob.inc\"\n$word ${name}_end - $name\n";
    # Included once more, it says nothing new, and has the bytes once more: under other names.
    (my $again = $emitted->{text}{$format}) =~ s/\b(?:aior|AIOR)_(?=$emitted->{op}_$emitted->{arch}(?:_|\b))/again_/gi;
    spew("$dir/again.inc", $again);
    $text .= "$include \"$dir/again.inc\"\n";
    spew("$dir/use.s", $text);
    unlink "$dir/use.bin";
    my $name_of_it = "$emitted->{arch}, $emitted->{op}: $format";
    is(run($assemble), '', "$name_of_it: taken");
    my $got = slurp("$dir/use.bin");
    my @numbers = unpack 'V' . @expected, $got;
    is("@numbers", "@expected", "$name_of_it: every size, offset, constant and fact");
    my $at = 4 * (@expected + $padding);
    ok(substr($got, $at, $emitted->{fact}{size}) eq $emitted->{bin}, "$name_of_it: the bytes");
    is(unpack('V', substr($got, $at + $emitted->{fact}{size}, 4)), $emitted->{fact}{size}, "$name_of_it: and where they end");
}

sub test_assemblers {
    for my $emitted (@emitted) {
        test_assembler($emitted, 'asm', '.include', '.long', "cd $dir && $emitted->{prefix}as -o use.o use.s && $emitted->{prefix}objcopy -O binary -j .data use.o use.bin");
        SKIP: {
            skip("nasm: there is no nasm", 4) if run('command -v nasm') =~ /^exit/;
            test_assembler($emitted, 'nasm', '%include', 'dd', "cd $dir && nasm -w+error -f bin -o use.bin use.s");
        }
    }
    SKIP: {
        skip("nasm: there is no nasm", 1) if run('command -v nasm') =~ /^exit/;
        spew("$dir/spoilt.s", spoil($emitted[0]{text}{nasm}, '\.fd: resd', '.fd: resq'));
        like(run("nasm -f bin -o $dir/use.bin $dir/spoilt.s"), qr/^exit /, 'nasm: a structure with other offsets is refused');
    }
}

for my $each (@others, $host) {
    for my $blob (sort keys %numbers) {
        choose($each, $blob);
        test_c();
        test_obj();
        test_obj_in_blob();
        my $json = test_json();
        test_json_contract($json) if $blob eq 'restore';
        $contract = $json;
        push @emitted, { arch => $arch, op => $op, prefix => $prefix, bin => $bin, fact => {%fact},
            text => { map { ($_ => slurp($file{$_})) } qw(rust go asm nasm) } };
    }
}

test_rust();
test_go();
test_assemblers();

# The contract in other dialects.
spew("$dir/contract.c", qq(#include "restorer.h"\nint main(void) { return aior_args_size(1) == sizeof(struct aior_args) ? 0 : 1; }\n));
for my $compiler ("${prefix}gcc -std=c11 -pedantic", "${prefix}g++ -std=c++11 -pedantic -x c++", 'clang -std=c11', 'clang++ -std=c++11 -x c++') {
    my ($program) = split ' ', $compiler;
    SKIP: {
        skip("no $program here", 1) if run("command -v $program") =~ /^exit/;
        is(run("$compiler -Wall -Wextra -Werror -Ipie -o $dir/contract $dir/contract.c && $dir/contract"), '', "restorer.h: taken by $compiler");
    }
}

# Wrong usage.
like(run("$tool emit --arch $arch --blob restore --format none"), qr/^exit 512: /, 'an unknown format: exit 2');
like(run("$tool emit --arch vax --blob restore --format bin"), qr/^exit 512: /, 'an unknown architecture: exit 2');
like(run("$tool emit --arch $arch --blob none --format bin"), qr/^exit 512: /, 'an unknown blob: exit 2');
like(run("$tool emit --arch $arch --blob restore --format bin -o $dir/none/none"), qr/^exit 256: .*none\/none/, 'a folder that is not there: exit 1');

done_testing();
