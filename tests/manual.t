#!/usr/bin/perl
# SPDX-License-Identifier: MIT
# aio-restorer(3): each function of the header is in it, with its errors and in an example; and the examples, taken
# from the page, are compiled as it says, linked with either library, and do what it says to processes that work.
use strict;
use warnings;
use lib 'tests';
use Build qw(make_var);
use Cli;
use Cwd ();
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep);

my $page = slurp('loader/aio-restorer.3');
my $header = slurp('loader/aio-restorer.h');

# ---- what the page has ----

sub section { my ($page, $name) = @_; return $page =~ /^\.Sh \Q$name\E\n(.*?)(?=^\.Sh |\z)/ms ? $1 : '' }

# The programs, without roff's escapes.
sub examples_of
{
    my @examples = section($_[0], 'EXAMPLES') =~ /^\.Bd -literal\n(.*?)^\.Ed$/msg;
    return map { s/^\\&//mgr =~ s/\\(.)/$1 eq 'e' ? '\\' : die "\\$1 in an example"/ger } @examples;
}

# What is under an item of ERRORS that names the function, up to the next item that names any.
sub errors_of
{
    my ($page, $function) = @_;
    my ($text, $is_in) = ('', 0);
    my $was_item = 0;
    for my $line (split /^/, section($page, 'ERRORS')) {
        my $is_item = $line =~ /^\.It Fn /;
        $is_in = 0 if $is_item && !$was_item;
        $is_in ||= $is_item && $line =~ /\bFn \Q$function\E\b/;
        $text .= $line if $is_in && !$is_item;
        $was_item = $is_item;
    }
    return $text;
}

# The same with those of the functions that it refers to.
sub all_errors_of
{
    my ($page, $function, $seen) = (@_, {});
    return '' if $seen->{$function}++;
    my $text = errors_of($page, $function);
    return join '', $text, map { all_errors_of($page, $_, $seen) } $text =~ /^\.Fn (\w+)/mg;
}

# Each function with the errors that its comment names; those that return something else than int have none.
sub functions_of
{
    my ($header) = @_;
    my (%errors, $comment);
    while ($header =~ m{(/\*(?:[^*]|\*(?!/))*\*/)\n(?=AIOR_PUBLIC)|^AIOR_PUBLIC ([^;]*?)\b(aior_\w+)\([^;]*;\n(\n?)}gm) {
        $comment = $1, next if defined $1;
        my ($type, $function, $ends) = ($2, $3, $4);
        my ($fails) = ($comment // '') =~ /\bFails?\b(.*)/s;
        $errors{$function} = [ $type eq 'int ' ? keys %{ { map { $_ => 1 } ($fails // '') =~ /\b(E[A-Z]{3,})\b/g } } : () ];
        $comment = undef if $ends;
    }
    return \%errors;
}

# All that is missing, in words.
sub faults_of
{
    my ($page, $header) = @_;
    my $functions = functions_of($header);
    my $programs = join "\n", examples_of($page);
    my @faults;
    for my $function (sort keys %$functions) {
        my $is_named = sub { my ($where, $macro) = @_; section($page, $where) =~ /^\.(?:It )?(?:$macro) (?:.* Fn )?\Q$function\E\b/m };
        push @faults, "$function is not in NAME" if !$is_named->('NAME', 'Nm');
        push @faults, "$function is not in SYNOPSIS" if !$is_named->('SYNOPSIS', 'F[no]');
        push @faults, "$function is not in DESCRIPTION" if !$is_named->('DESCRIPTION', 'Fn');
        push @faults, "$function is in no example" if $programs !~ /(?<![\w"])\Q$function\E\(/;
        push @faults, "$function has no errors" if errors_of($page, $function) !~ /\w+ \w+/;
        my $errors = all_errors_of($page, $function);
        push @faults, map { "$function: $_ is not in ERRORS" } grep { $errors !~ /\bEr \Q$_\E\b/ } @{ $functions->{$function} };
    }
    my %unknown = map { $_ => 1 } grep { !$functions->{$_} } $page =~ /^\.(?:It )?(?:Nm|Fn|Fo) (aior_\w+)/mg;
    push @faults, map { "$_ is not in the header" } sort keys %unknown;
    return @faults;
}

my @names = sort keys %{ functions_of($header) };
my $declared = () = $header =~ /^AIOR_PUBLIC /mg;
is(scalar @names, $declared, "$declared functions");
my @named = map { @{ functions_of($header)->{$_} } } @names;
ok(@named > 20, @named . ' errors in the comments of the header');
is(join("\n", faults_of($page, $header)), '', 'each is in the page, with its errors, and in an example');

# It must notice whatever is missing of one.
for my $function (@names) {
    my $programs = section($page, 'EXAMPLES');
    (my $changed = $page) =~ s/\Q$programs\E/$programs =~ s{\b$function\(}{another(}gr/e;
    is(join("\n", faults_of($changed, $header)), "$function is in no example", "it notices: $function in no example");
}
my %changes = (
    'aior_list has no errors' => sub { s/(^\.Sh ERRORS\n.*?^\.It Fn aior_list\n).*?(?=^\.It Fn )/$1None.\n/ms },
    'aior_sample: ETIMEDOUT is not in ERRORS' => sub { s/(^\.Sh ERRORS\n.*?^\.It Fn aior_sample\n.*?^\.It Bq Er )ETIMEDOUT$/$1ETIME/ms },
    'aior_event is not in DESCRIPTION' => sub { s/^\.It Fn aior_event\n//m },
    'aior_blob is not in NAME' => sub { s/^\.Nm aior_blob ,\n//m },
    'aior_get_host is not in SYNOPSIS' => sub { s/^\.Fn aior_get_host .*\n//m },
    'aior_more is not in the header' => sub { s/^(\.Nm aior_blob ,\n)/$1.Nm aior_more ,\n/m },
);
for my $fault (sort keys %changes) {
    local $_ = $page;
    $changes{$fault}->() or die $fault;
    ok(scalar(grep { $_ eq $fault } faults_of($_, $header)), "it notices: $fault") or diag(faults_of($_, $header));
}

# ---- the examples ----

# In the page's order.
my @programs = qw(threads room hold trace list save try blob);
my %code;
@code{@programs} = examples_of($page);
is(scalar(my @all = examples_of($page)), scalar(@programs), scalar(@programs) . ' examples');

SKIP: {
    skip('there is no mandoc', 1) if !have('mandoc');
    (my $shown = run_command('mandoc', '-T', 'utf8', 'loader/aio-restorer.3')->{out}) =~ s/.\x08//g;
    $shown =~ s/\s+//g;
    is(join(' ', grep { index($shown, $code{$_} =~ s/\s+//gr) < 0 } @programs), '', 'a reader sees them as they are compiled here');
}

SKIP: {
    skip('a program with a sanitizer does not link what was built for a newcomer', 1) if $SAN;
    skip("$BUILD/tests/leaver or worker is not built", 1) if grep { !-x "$BUILD/tests/$_" } qw(leaver worker);
    skip('there is no pkg-config', 1) if !have('pkg-config');
    try_all();
}
done_testing();

# What makes programs of the two that are functions. Of the three events of its ring one has been taken, and polls are
# in flight.
sub driver
{
    return <<'END';
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static aio_context_t ctx;
static struct iocb iocbs[5];
static int fds[2];

static void check(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(9);
	}
}

static unsigned long inode; /* of the last live ring */
static unsigned long end;

static int count_live(void)
{
	char line[512];
	int count = 0;
	FILE *maps = fopen("/proc/self/maps", "r");

	check(maps != NULL, "maps");
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "/[aio]")) {
			check(sscanf(line, "%*x-%lx %*s %*s %*s %lu", &end, &inode) == 2, "a line of maps");
			count++;
		}
	fclose(maps);
	return count;
}

static struct io_event reap(void)
{
	struct io_event event;

	check(syscall(SYS_io_getevents, ctx, 1, 1, &event, NULL) == 1, "io_getevents");
	return event;
}

static void set_up(int polls)
{
	static char byte;
	int zero = open("/dev/zero", O_RDONLY);

	check(zero >= 0 && !syscall(SYS_io_setup, 8, &ctx), "io_setup");
	for (int i = 0; i < 3 + polls; i++) {
		struct iocb *iocb = &iocbs[i];

		iocb->aio_data = (uint64_t)i + 1;
		iocb->aio_lio_opcode = i < 3 ? IOCB_CMD_PREAD : IOCB_CMD_POLL;
		iocb->aio_fildes = (unsigned)(i < 3 ? zero : (fds[i - 3] = fcntl(eventfd(0, 0), F_DUPFD, 100)));
		iocb->aio_buf = i < 3 ? (uintptr_t)&byte : POLLIN;
		iocb->aio_nbytes = i < 3;
		check(syscall(SYS_io_submit, ctx, 1, &iocb) == 1, "io_submit");
	}
	check(reap().data == 1, "the first event");
}

#ifdef THREADS
void prepare(void);
int checkpoint(const pthread_t *threads, int count);

static volatile int must_end;
static unsigned long rounds[2];

/* One in the heap most of the time, the other one in a stream. */
static void *run(void *which)
{
	unsigned long *round = which;
	FILE *null = fopen("/dev/null", "w");

	while (!must_end) {
		if (round == rounds)
			free(malloc(100000));
		else
			fprintf(null, "%lu\n", *round);
		__atomic_add_fetch(round, 1, __ATOMIC_RELAXED);
	}
	fclose(null);
	return NULL;
}

static void run_on(void)
{
	unsigned long before[2] = {rounds[0], rounds[1]};

	while (__atomic_load_n(&rounds[0], __ATOMIC_RELAXED) == before[0] ||
	    __atomic_load_n(&rounds[1], __ATOMIC_RELAXED) == before[1])
		usleep(1000);
}

int main(void)
{
	pthread_t threads[2];
	unsigned long before;

	prepare();
	set_up(2);
	close(fds[1]); /* so that this poll is lost */
	for (int i = 0; i < 2; i++)
		check(!pthread_create(&threads[i], NULL, run, &rounds[i]), "pthread_create");
	run_on();
	for (int i = 0; i < 20; i++) {
		check(count_live() == 1, "a live ring");
		before = inode;
		check(!checkpoint(threads, 2), "checkpoint");
		check(count_live() == 1 && inode != before, "another ring");
		run_on();
	}
	must_end = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	check(eventfd_write(fds[0], 1) == 0, "eventfd");
	for (int i = 0; i < 4; i++) {
		struct io_event event = reap();

		printf("data %d res %d\n", (int)event.data, (int)event.res);
	}
	return 0;
}
#else
int checkpoint_with_room(uint32_t cpus, int (*save)(void));

/* To where 64 MiB behind it are free. */
static void move(void)
{
	const size_t room = 64u << 20;
	char *to = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	check(to != MAP_FAILED && count_live() == 1 && !munmap(to, room), "mmap");
	check(mremap((void *)ctx, end - ctx, end - ctx, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to, "mremap");
	ctx = (aio_context_t)to;
}

static int save(void)
{
	printf("%d live\n", count_live());
	return 7;
}

int main(int argc, char **argv)
{
	const uint32_t *header;
	unsigned long page = (unsigned long)sysconf(_SC_PAGESIZE);
	int ret;

	/* (Without an argument it has no ring.) */
	if (argc > 1)
		set_up(1);
	if (argc > 1)
		move();
	if (count_live() && !strcmp(argv[1], "taken"))
		check(mmap((void *)end, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == (void *)end, "mmap");
	if (argc > 1 && !strcmp(argv[1], "damaged"))
		((uint32_t *)ctx)[4] ^= 1;
	ret = checkpoint_with_room(4096, save);
	printf("%d, then %d live\n", ret, count_live());
	if (argc < 2 || ret < 0)
		return 0;
	header = (const uint32_t *)ctx;
	printf("head %u tail %u\n", header[2], header[3]);
	for (int i = 0; i < 2; i++)
		printf("data %d\n", (int)reap().data);
	check(eventfd_write(fds[0], 1) == 0 && reap().data == 4, "the poll");
	return 0;
}
#endif
END
}

sub try_all
{
    my $make = $ENV{MAKE} // 'make';
    my $cc = $ENV{CC} // 'gcc';
    my $usr = "$DIR/usr";
    delete local @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL)};
    my $installed = run_command($make, '-s', "BUILD=$BUILD", "PREFIX=$usr", 'install');
    is("$installed->{status} $installed->{err}", '0 ', 'installed');
    local $ENV{PKG_CONFIG_PATH} = "$usr/lib/pkgconfig";
    chomp(my $cflags = run_command('pkg-config', '--cflags', 'aio-restorer')->{out});
    chomp(my $libs = run_command('pkg-config', '--libs', 'aio-restorer')->{out});
    spit("$DIR/driver.c", driver());
    my %linked = (static => "$usr/lib/libaio-restorer.a -pthread", shared => "$libs -Wl,-rpath,$usr/lib");
    for my $kind (sort keys %linked) {
        mkdir "$DIR/$kind";
        my $failed = 0;
        for my $name (@programs) {
            my $to = "$DIR/$kind/$name";
            my $is_function = $name =~ /^(?:threads|room)$/;
            spit("$to.c", $code{$name});
            my $flags = "-std=gnu11 -O1 -Wall -Wextra -Werror $cflags";
            my $command = "$cc $flags -c -o $to.o $to.c && ";
            $command .= "$cc $flags " . ($name eq 'threads' ? '-DTHREADS ' : '') . "-c -o $to-driver.o $DIR/driver.c && " if $is_function;
            $command .= "$cc -o $to $to.o " . ($is_function ? "$to-driver.o " : '') . $linked{$kind};
            my $built = run_command('sh', '-ec', $command);
            ok(!$built->{status} && $built->{err} eq '', "$kind $name: compiled without a warning") or diag($built->{err});
            $failed ||= $built->{status};
        }
        my $needs = run_command('sh', '-c', "readelf -d $DIR/$kind/list | grep -c 'NEEDED.*libaio-restorer'");
        is($needs->{out} + 0, $kind eq 'shared' ? 1 : 0, "$kind: linked with that library");
        try_programs($kind) if !$failed;
    }
}

# What it says on both outputs, and its status.
sub says
{
    my ($wanted, $name, @command) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $said = run_command(@command);
    my $text = "$said->{status}: $said->{out}$said->{err}";
    return ref $wanted ? like($text, $wanted, $name) : is($text, $wanted, $name);
}

# The rings of a leaver (all addresses are of one length).
sub in_order { my ($leaver) = @_; return sort { $a->{addr} cmp $b->{addr} } @{ $leaver->{rings} } }

# What `list` must say of them.
sub list_of
{
    my ($leaver) = @_;
    my $text = '';
    for my $ring (in_order($leaver)) {
        $text .= "ring $ring->{addr}: " . @{ $ring->{events} } . " pending\n";
        $text .= "  data $_->{data}, res $_->{res}\n" for @{ $ring->{events} };
    }
    return $text;
}

# Storage that hangs while its process, which this returns, is stopped: mounted where only what is run {inside} sees
# it, so that it goes with that process. Or undef, and why there is none.
sub hanging_storage
{
    my $program = "$BUILD/tests/fuse-server";
    return (undef, 'fuse-server could not be built: no libfuse3') if !-x $program;
    return (undef, 'there is no /dev/fuse that can be opened') if !sysopen my $device, '/dev/fuse', POSIX::O_RDWR();
    my ($content, $folder) = (fresh('.content'), fresh('.mounted'));
    mkdir $folder or die "$folder: $!";
    run_command("$BUILD/tests/worker", '--make', $content);
    my $server = start({ quiet => 1 }, 'unshare', '--mount', $program, $content, $folder);
    return (undef, 'nothing can be mounted by FUSE here') if (answer($server) // '') ne "mounted\n";
    my $here = Cwd::getcwd();
    return { %$server, file => "$folder/file", inside => [ 'nsenter', '-t', $server->{pid}, '-m', 'sh', '-c', "cd '$here' && exec \"\$@\"", 'sh' ] };
}

# Whether a thread of it runs the blob, and for longer than a call takes that is made on the way there.
sub is_draining
{
    my ($pid) = @_;
    for (1 .. 20) {
        return 0 if !grep { my $status = slurp($_); $status =~ /^SigBlk:\s+fffffffffffbfeff$/m && $status =~ /^State:\s+[RSD]/m } glob "/proc/$pid/task/*/status";
        sleep 0.05;
    }
    return 1;
}

sub try_programs
{
    my ($kind) = @_;
    my %program = map { $_ => "$DIR/$kind/$_" } @programs;
    my $none = 0x7ffffff0;    # no process has it
    my @rings = ('--ring', 'n=1,head=3,tail=9', '--ring', 'n=1');

    # Its own rings.
    says("0: " . join('', "data 2 res 1\n", "data 3 res 1\n", "data 5 res 32\n", "data 4 res 1\n", "the poll 0x5 is lost\n"),
        "$kind threads: twenty times, and threads, events and polls are what they were", $program{threads});
    says("0: 0 live\n7, then 1 live\nhead 0 tail 2\ndata 2\ndata 3\n", "$kind room: the ring is memory meanwhile, and begins at slot 0 then", $program{room}, 'there');
    says(qr/\A0: 0 live\n7, then 1 live\nhead 0 tail 2\ndata 2\ndata 3\nring 0x[0-9a-f]+: no room for 4096 CPUs\n\z/, "$kind room: a ring with something behind it has none", $program{room}, 'taken');
    says("0: 0 live\n7, then 0 live\n", "$kind room: no ring is no error", $program{room});
    says(qr/\A0: -1, then 1 live\n.*ring 0x[0-9a-f]+.*damaged.*\n\z/, "$kind room: a damaged ring is named, and nothing is saved", $program{room}, 'damaged');

    # Listed, saved and tried.
    my $leaver = leaver(@rings);
    says('0: ' . list_of($leaver), "$kind list: its rings and events", $program{list}, $leaver->{pid});
    my $tried = join '', map { "ring $_->{addr}: " . @{ $_->{events} } . " events, from slot 0 on\n" } in_order($leaver);
    my $core = fresh('.core');
    says("0: 2 rings, 1 threads\n", "$kind save: saved", $program{save}, $leaver->{pid}, $core);
    is((stat $core)[2] & 0777, 0600, '... with mode 0600');
    is_rings($leaver, run_tool('run', '--json', $core), '... and brought back elsewhere');
    says(qr/\A1: .*not a regular file.*\n\z/, '... not over a folder', $program{save}, $leaver->{pid}, $DIR);
    says(qr/\A1: .*No such file or directory.*\n\z/, '... nor into one that is not there', $program{save}, $leaver->{pid}, "$DIR/no/file");
    says(qr/\A1: .*has no AIO rings\n\z/, '... and not of a process without rings', $program{save}, $$, $core);
    says(qr/\A0: (\d+) possible CPUs\n$tried\z/, "$kind try: they could be restored here", $program{try}, $leaver->{pid});
    says('0: ' . list_of($leaver), '... and are where they were', $program{list}, $leaver->{pid});
    my @elsewhere = pretending(4096);
SKIP: {
        skip('another host cannot be pretended', 1) if !@elsewhere;
        says(qr/\A3: 4096 possible CPUs\n.*needs \d+ pages on this host.*\n/, '... where more CPUs are possible they could not', @elsewhere, $program{try}, $leaver->{pid});
    }
    says(qr/\A1: .*there is no process $none\n\z/, "$kind list: a process that is not there", $program{list}, $none);
    says("0: ", '... one without rings', $program{list}, $$);
    my $damaged = leaver(@rings, '--scribble', 'magic=0');
    says(qr/\A0: ring 0x\w+ is damaged: .+\nring 0x\w+: 0 pending\n\z|\A0: ring 0x\w+: \d+ pending\n.*is damaged: .+\n\z/s, '... a damaged ring is named', $program{list}, $damaged->{pid});
    says(qr/\A1: .*is damaged: .*\n\z/, '... and not saved', $program{save}, $damaged->{pid}, $core);

    # Others.
    my $worker = worker('--rings', 2);
    my $hold = start($program{hold}, $leaver->{pid}, $worker->{pid});
    is(answer($hold), "$leaver->{pid}: parked, 2 rings, 6 events\n", "$kind hold: one is parked");
    like(answer($hold), qr/\A$worker->{pid}: parked, 2 rings, \d+ events\n\z/, '... and the other one');
    is_parked($_, "... process $_ stands still") for $leaver->{pid}, $worker->{pid};
    says("0: $leaver->{pid}: parked as before, 0 rings, 0 events\n$leaver->{pid}: goes on, 2 rings, 6 events\n", '... a second one finds it parked, and lets it go on', $program{hold}, $leaver->{pid});
    main::tell($hold, '');
    like(answer($hold), qr/\A$leaver->{pid}: goes on as before, 0 rings, 0 events\n\z/, '... so that the first one has nothing to do there');
    like(answer($hold), qr/\A$worker->{pid}: goes on, 2 rings, \d+ events\n\z/, '... and restores the other one');
    waitpid $hold->{pid}, 0;
    is($?, 0, '... which is success');
    end($hold);
    goes_on($worker, '... the worker has its events');
    says('0: ' . list_of($leaver), '... the leaver has them, too', $program{list}, $leaver->{pid});
    says(qr/\A1: .*goes on, 0 rings.*there is no process $none\n\z/s, "$kind hold: a process that is not there", $program{hold}, $leaver->{pid}, $none);
    says('0: ' . list_of($leaver), '... and the other one goes on', $program{list}, $leaver->{pid});

SKIP: {
        skip('another host cannot be pretended', 1) if !@elsewhere;
        $hold = start({ quiet => 1 }, @elsewhere, $program{hold}, $leaver->{pid});
        is(answer($hold), "$leaver->{pid}: parked, 2 rings, 6 events\n", "$kind hold: where there are more CPUs");
        main::tell($hold, '');
        is(answer($hold), "$leaver->{pid}: parked, 0 rings, 0 events\n", '... a process that cannot be restored stays parked');
        waitpid $hold->{pid}, 0;
        is($? >> 8, 2, '... which it says');
        end($hold);
        says("0: $leaver->{pid}: parked as before, 0 rings, 0 events\n$leaver->{pid}: goes on, 2 rings, 6 events\n", '... and goes on where it can', $program{hold}, $leaver->{pid});
    }

    # As a tracer.
    my $before = look_of($leaver->{pid});
    says("0: 2 rings are memory\n2 rings are live\n", "$kind trace: a process of one thread", $program{trace}, $leaver->{pid});
    is_as_before($leaver->{pid}, $before, '... is as it was');
    says('0: ' . list_of($leaver), '... with its events', $program{list}, $leaver->{pid});
    says("0: 2 rings are memory\n2 rings are live\n", "$kind trace: a process at work, $_", $program{trace}, $worker->{pid}) for 1 .. 5;
    goes_on($worker, '... goes on');
    says(qr/\A1: .*there is no process $none\n\z/, "$kind trace: a process that is not there", $program{trace}, $none);
    ends_well($worker, '... and each request has had its event');

    # Requests in flight that do not end.
SKIP: {
        my ($server, $why) = hanging_storage();
        skip($why, 1) if !$server;
        my $stuck = worker({ wrap => $server->{inside} }, '--rings', 2, '--file', $server->{file});
        kill 'STOP', $server->{pid};
        sleep 0.5;    # a round is far shorter, and afterwards all reads are those that hang
        my $hold = start({ quiet => 1 }, $program{hold}, $stuck->{pid});
        ok(wait_until(sub { is_draining($stuck->{pid}) }), "$kind hold: while storage hangs");
        kill 'INT', $hold->{pid};
        like(answer($hold), qr/\A$stuck->{pid}: parked, 0 rings, /, '... interrupted, it leaves the process parked');
        waitpid $hold->{pid}, 0;
        is($? >> 8, 2, '... which it says');
        end($hold);
        kill 'CONT', $server->{pid};
        $hold = start({ quiet => 1 }, $program{hold}, $stuck->{pid});
        like(answer($hold), qr/\A$stuck->{pid}: parked/, '... a second one takes it up');
        main::tell($hold, '');
        like(answer($hold), qr/\A$stuck->{pid}: goes on, 2 rings, /, '... and restores it');
        waitpid $hold->{pid}, 0;
        end($hold);
        goes_on($stuck, '... so that it goes on');
        ends_well($stuck, '... and each request has had its event');
        end($server);
    }

    # For embedders.
    my $blob = run_command($program{blob});
    ok($blob->{out} eq slurp("$BUILD/blob-stage-" . make_var('HOST_ARCH') . '.bin') && length $blob->{out} > 1000, "$kind blob: the one that was built");
    says(qr/\A1: .*No space left on device\n\z/, '... and what cannot be written is an error', { stdout => '/dev/full' }, $program{blob});
    end($_) for $leaver, $damaged;
}
