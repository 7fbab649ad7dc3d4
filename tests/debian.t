#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# Debian packages: built of a release, sound for lintian, and what is in them.
use strict;
use warnings;
use Cwd qw(abs_path);
use File::Temp qw(tempdir);
use Test::More;
use lib 'tests';
use Build;

my $dir = tempdir('aior-debian-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $make = $ENV{MAKE} // 'make';
my ($release, $version, $soname, $header) = map { make_var($_) } qw(RELEASE VERSION SONAME CRIU_HEADER);
delete @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL SAN CC CFLAGS BUILD)};

for my $program (qw(dpkg-buildpackage dh)) {
    plan skip_all => "there is no $program" if run("command -v $program") =~ /^exit/;
}
my $machine = run('dpkg --print-architecture') =~ s/\n//r;
plan skip_all => "no package is made for $machine" unless slurp('debian/control') =~ /^Architecture: .*\b\Q$machine\E\b/m;
# As root it is refused, unless that is all the same.
my $lintian = run('command -v lintian') =~ /^exit/ ? undef : 'lintian --allow-root --fail-on error,warning';

like(slurp('debian/changelog'), qr/\Aaio-restorer \(\Q$version\E\) /, 'the version is the same');
is(run("$make -s dist BUILD=$dir/build DIST=$dir/$release.tar.gz && tar -xzf $dir/$release.tar.gz -C $dir"), '', 'a release');

# With the plugin where CRIU's header is; on a Debian that has none the package is left out.
my $with_plugin = $header =~ m{(.*)/criu/criu-plugin\.h$};
local $ENV{CRIU_INCLUDE} = abs_path($1) if $with_plugin;
local $ENV{DEB_BUILD_PROFILES} = $with_plugin ? '' : 'pkg.aio-restorer.nocriu';
local $ENV{DEB_BUILD_OPTIONS} = 'parallel=2';
my $built = run("cd $dir/$release && dpkg-buildpackage -us -uc -d");
unlike($built, qr/^exit/, 'built') or diag($built =~ s/\A.*(?=(?:.*\n){30})//sr);
my @packages = ('aio-restorer', 'libaio-restorer0', 'libaio-restorer-dev', $with_plugin ? 'criu-aio-restorer' : ());
is(join(' ', sort map { m{([^/_]+)_[^/]*\.deb$} && $1 !~ /-dbgsym$/ ? $1 : () } glob "$dir/*.deb"), join(' ', sort @packages), 'the packages');

SKIP: {
    skip('there is no lintian', 1) unless $lintian;
    is(run("$lintian $dir/*.changes"), '', 'lintian finds nothing');
}

my %has;
for my $package (@packages) {
    run("dpkg-deb -x $dir/${package}_${version}_$machine.deb $dir/root");
    $has{$package} = run("dpkg-deb -c $dir/${package}_${version}_$machine.deb");
}
my ($triplet) = run('dpkg-architecture -qDEB_HOST_MULTIARCH') =~ /(\S+)/;
like($has{'aio-restorer'}, qr{ \./usr/bin/aio-restorer$}m, 'aio-restorer: the command line');
like($has{'aio-restorer'}, qr{ \./usr/share/doc/aio-restorer/SECURITY\.md$}m, 'aio-restorer: who may do what');
like($has{'libaio-restorer0'}, qr{ \./usr/lib/\Q$triplet/$soname\E -> }, 'libaio-restorer0: the library');
like($has{'libaio-restorer-dev'}, qr{ \./\Q$_\E$}m, "libaio-restorer-dev: $_") for "usr/lib/$triplet/libaio-restorer.a", 'usr/include/aio-restorer/restorer.h',
    'usr/share/doc/libaio-restorer-dev/examples/embed-c.c', 'usr/share/doc/libaio-restorer-dev/embedding.md';
like($has{'criu-aio-restorer'}, qr{ \./usr/lib/criu/aio_restorer\.so$}m, 'criu-aio-restorer: the plugin') if $with_plugin;
# What they hold together is what `make install` installs.
is(run("cd $dir/$release && find debian/tmp ! -type d | sed 's|^debian/tmp||; s|\\(/man/.*\\)|\\1.gz|' | while read -r file; do [ -e $dir/root\$file ] || [ -L $dir/root\$file ] || echo \$file; done"),
    '', 'nothing that is installed is left out');
like(run("LD_LIBRARY_PATH=$dir/root/usr/lib/$triplet $dir/root/usr/bin/aio-restorer --version"), qr/^aio-restorer \Q$version\E, /, 'the tool runs');

done_testing();
