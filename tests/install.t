#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# What `make install` installs can be used from where it is, and `make uninstall` leaves nothing of it.
use strict;
use warnings;
use File::Temp qw(tempdir);
use Test::More;
use lib 'tests';
use Build;

my $dir = tempdir('aior-install-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $make = $ENV{MAKE} // 'make';
my ($version, $soname, $plugin) = map { make_var($_) } qw(VERSION SONAME PLUGIN);
delete @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL)};

plan skip_all => "$BUILD/aio-restorer is not built" unless -x "$BUILD/aio-restorer";

# ---- what is there ----

my $root = "$dir/root";
my $at = "$root/opt/aior";
my $install = "$make -s BUILD=$BUILD DESTDIR=$root PREFIX=/opt/aior";
is(run("$install install"), '', 'installed');
my @blobs = map { my $arch = $_; map { "share/aio-restorer/blob-$_-$arch.bin" } qw(restore stage) } split ' ', make_var('BLOB_ARCHES');
my @expected = sort qw(
    bin/aio-restorer include/aio-restorer.h include/aio-restorer/restorer.h lib/libaio-restorer.a lib/libaio-restorer.so
    lib/pkgconfig/aio-restorer.pc share/bash-completion/completions/aio-restorer
    share/man/man1/aio-restorer.1 share/man/man3/aio-restorer.3 share/man/man7/aio-restorer-blob.7
), "lib/$soname", "lib/libaio-restorer.so.$version", @blobs, $plugin ? 'lib/criu/aio_restorer.so' : ();
is(run("cd $at && find . ! -type d | sed 's|^./||' | LC_ALL=C sort"), join('', map { "$_\n" } sort @expected), 'no more and no less than that');
is(run("cd $root && find . ! -type d ! -path './opt/aior/*'"), '', 'nothing elsewhere');
is(run("find $root -perm /022 ! -type l"), '', 'nobody else may write to it');
is(run("find $root -perm /7000 ! -type d"), '', 'nothing of it changes who somebody is');
ok(slurp("$at/$_") eq slurp($_ =~ s{.*/}{$BUILD/}r), "$_: the blob that was built") for @blobs;
like(run("$at/bin/aio-restorer --version"), qr/^aio-restorer \Q$version\E, ABI 1; /, 'the tool says the version that the library has');

# ---- the libraries ----

my ($header) = slurp('loader/aio-restorer.h');
my @functions = sort $header =~ /^AIOR_PUBLIC [^;]*?\b(aior_\w+)\(/mg;
my @exported = sort map { /^\S+ T (\S+)$/ ? $1 : () } split /\n/, run("nm -D --defined-only --with-symbol-versions $at/lib/libaio-restorer.so");
is(join("\n", @exported), join("\n", map { "$_\@\@AIO_RESTORER_0.1" } @functions), 'the shared library exports the functions of the header, with a version, and nothing else');
ok(scalar @functions > 15, scalar(@functions) . ' of them');
like(run("readelf -dW $at/lib/libaio-restorer.so"), qr/SONAME.*\[\Q$soname\E\]/, 'its soname');
my $manual = slurp('loader/aio-restorer.3');
is(join(' ', grep { $manual !~ /^\.Nm \Q$_\E\b/m || $manual !~ /^\.F[no] "?\Q$_\E\b/m } @functions), '', 'the manual has every function');

my $program = <<'C';
#include <aio-restorer.h>
#include <aio-restorer/restorer.h>
#include <stdio.h>
int main(void)
{
	const struct aior_blob *blob = aior_blob(aior_host_arch(), AIOR_OP_RESTORE);
	struct aior_error error;
	if (aior_stage_self(NULL, &error) || aior_restore_self(NULL, &error))
		return fprintf(stderr, "%s\n", error.message), 1;
	printf("%u %u\n", blob->abi, (unsigned)(blob->size > sizeof(*blob)));
	return 0;
}
C
SKIP: {
    skip('there is no pkg-config', 5) if run('command -v pkg-config') =~ /^exit/;
    skip('what is built with a sanitizer is for nobody else', 5) if $BUILD =~ /san/;
    spew("$dir/use.c", $program);
    my $config = "PKG_CONFIG_LIBDIR=$at/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root pkg-config";
    is(run("$config --modversion aio-restorer"), "$version\n", 'pkg-config: the version');
    is(run("$config --variable=blobdir aio-restorer") =~ s/^\Q$root\E//r, "/opt/aior/share/aio-restorer\n", 'pkg-config: where the blobs are');
    is(run("gcc -Wall -Wextra -Werror -o $dir/use $dir/use.c \$($config --cflags --libs aio-restorer) && LD_LIBRARY_PATH=$at/lib $dir/use"), "1 1\n",
        'a program, linked with the shared library');
    like(run("readelf -dW $dir/use"), qr/NEEDED.*\[\Q$soname\E\]/, '... which it asks for by its soname');
    is(run("gcc -static -Wall -Wextra -Werror -o $dir/use $dir/use.c \$($config --static --cflags --libs aio-restorer) && $dir/use"), "1 1\n",
        'a program, linked with the static library');
}

# ---- completion ----

sub completes {
    my ($line) = @_;
    my @words = split / /, $line, -1;
    my $words = join ' ', map { "'$_'" } @words;
    return run(qq(bash -c 'compopt() { echo -n "[compopt \$*]"; }; . $at/share/bash-completion/completions/aio-restorer; cd $dir
        COMP_WORDS=($words); COMP_CWORD=$#words; _aio_restorer $at/bin/aio-restorer; echo "\${COMPREPLY[*]}"'));
}

SKIP: {
    skip('there is no bash', 9) if run('command -v bash') =~ /^exit/;
    my @commands = run("$at/bin/aio-restorer --help") =~ /^  ([a-z]+) /mg;
    is(completes('aio-restorer '), "@commands --help --version\n", 'completion: the commands');
    is(completes('aio-restorer st'), "stage\n", 'completion: one of them');
    for my $command (@commands) {
        my %options = map { $_ => 1 } run("$at/bin/aio-restorer $command --help") =~ /(--[a-z]+)/g;
        is(join(' ', sort split / /, completes("aio-restorer $command --") =~ s/\n//r), join(' ', sort keys %options, '--help'), "completion: the options of $command");
    }
    like(completes('aio-restorer dump '), qr/(^| )$$( |$)/, 'completion: a pid');
    like(completes('aio-restorer list '), qr/^\[compopt -o default\].* $$( |$)/, 'completion: a pid or a file');
    is(completes('aio-restorer run '), "[compopt -o default]\n", 'completion: a file');
    my ($formats) = run("$at/bin/aio-restorer emit --blob stage --format none") =~ /they are (.*)/;
    is(completes('aio-restorer emit --format '), $formats =~ s/,//gr . "\n", 'completion: the formats');
    is(join(' ', sort split / /, completes('aio-restorer emit --arch ') =~ s/\n//r), join(' ', sort split ' ', make_var('KNOWN_ARCHES')), 'completion: the architectures');
}

# ---- and away ----

spew("$at/lib/other", 'somebody else\'s');
is(run("$install uninstall"), '', 'uninstalled');
is(run("cd $root && find . ! -type d -o -name '*aio-restorer*'"), "./opt/aior/lib/other\n", 'nothing of it is left, and nothing else is gone');
is(run("$install uninstall"), '', 'uninstalled where nothing is');

done_testing();
