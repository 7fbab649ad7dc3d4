# SPDX-License-Identifier: MIT
# MariaDB's server, which reads and writes the pages of its tables with AIO, under sysbench's load of
# transactions. Beside it each of sysbench's threads moves money between accounts, and writes each move into a
# journal, and into a file when the server has said that it is committed. So what is in the tables at the end
# has to fit: all tables whole (CHECK TABLE), as many rows as ever, no money made or lost, each account what
# the journal says, and the journal without a hole and with all that was committed.
package Soak::mariadb;
use strict;
use warnings;
use Cli;
use List::Util qw(max min);
use Soak;
use Time::HiRes qw(sleep);

my ($tables, $rows, $accounts) = (4, 15000, 1000);
my $seconds = max(2, min(10, ($ENV{ROUNDS} // 8) / 4));    # until a run of the form that ends is ended
my $folder;    # of it all
my $runs = 0;

# It prefers io_uring, unless it is told not to: then it needs neither that there is none, nor a setting of the system's.
my @options = (
    qw(--innodb-use-native-aio=1 --innodb-linux-aio=aio --innodb-flush-method=O_DIRECT --innodb-log-file-size=16M),
    qw(--innodb-max-dirty-pages-pct=5 --innodb-max-dirty-pages-pct-lwm=1 --innodb-io-capacity=4000 --innodb-random-read-ahead=1 --innodb-read-ahead-threshold=8),
    qw(--innodb-buffer-pool-dump-at-shutdown=0 --innodb-buffer-pool-load-at-startup=0 --skip-networking --skip-name-resolve)
);

sub missing
{
    for my $name (qw(mariadbd mariadb mariadb-install-db sysbench)) {
        return "$name is not there" if !have($name);
    }
    return 'no file system here takes O_DIRECT' if !direct_folder();
    my $help = run_command(qw(mariadbd --no-defaults --help --verbose))->{out};
    return 'this mariadbd cannot be told to use AIO: it has no innodb_linux_aio' if $help !~ /^ +--innodb-linux-aio/m;
    return;
}

sub as_root { return $> == 0 ? '--user=root' : () }

# ---- the server ----

# (One arena: otherwise they are as many as threads happen to meet.)
sub start_server
{
    my ($slow, @more) = @_;
    unlink "$folder/socket";
    my $server = launch({ slow => $slow, env => { GLIBC_TUNABLES => 'glibc.malloc.arena_max=1' } }, qw(mariadbd --no-defaults), as_root(), "--datadir=$folder/data", "--tmpdir=$folder/tmp",
        "--socket=$folder/socket", "--pid-file=$folder/pid", @options, @more);
    $server->{patience} = $slow ? 3 * $PATIENCE : $PATIENCE;
    return $server;
}

sub wait_for_server
{
    my ($server) = @_;
    my $is_ready = sub { return slurp($server->{log}) =~ /ready for connections/ };
    wait_until(sub { $is_ready->() || defined wait_for_end($server, 0) }, $server->{patience});
    die 'the server does not start: ' . slurp($server->{log}) if !$is_ready->();
}

# What is wrong with its end; a killed one has none.
sub end_of_server
{
    my ($server, $signal) = @_;
    kill $signal, $server->{pid} if !defined $server->{status};
    my $status = wait_for_end($server, $server->{patience});
    end_now($server);
    my $log = slurp($server->{log});
    my ($crash) = $log =~ /^(.*got signal.*)/ms;
    return 'the server says: ' . substr($crash, 0, 4000) if defined $crash;
    my @wrong = $log =~ /^(.*(?:\[ERROR\]|long wait|long semaphore|Assertion|corrupt|aborting).*)$/img;
    return "the server says: @wrong[0 .. min($#wrong, 5)]" if @wrong;
    return 'the server does not end' if !defined $status;
    return $status && $signal ne 'KILL' ? "the server ends with status $status: " . substr($log, -2000) : undef;
}

# Dies if it goes wrong.
sub query
{
    my ($sql) = @_;
    my $result = run_command({ seconds => $PATIENCE }, qw(mariadb --no-defaults --user=root --batch --skip-column-names),
        "--socket=$folder/socket", "--execute=$sql", 'soak');
    die "$sql: status $result->{status}: $result->{err}\n" if $result->{status};
    return $result->{out};
}

sub all_tables { return join ', ', 'account', 'journal', map { "sbtest$_" } 1 .. $tables }

# ---- the load ----

# As sysbench's own script does, and then the move of money. It ends when there is the file `stop`: sysbench's own
# limits of time are none for a server that stands still now and then.
sub script
{
    my ($run, $form) = @_;
    return spit("$folder/load-$run.lua", <<"END");
require("$form->{load}")
local work, moves, said = event, 0, nil
function event()
   local stop = io.open("$folder/stop")
   if stop then
      stop:close()
      return true
   end
   if $form->{scans} and sysbench.tid == 0 then
      -- Read ahead, so with AIO. It sees other transactions whole or not at all.
      local sql = string.format("SELECT COUNT(*) FROM sbtest%d FORCE INDEX (PRIMARY) WHERE LENGTH(c) > 0", math.random($tables))
      local count = tonumber(con:query_row(sql))
      assert(count == $rows, string.format("%s: there are %d", sql, count))
   else
      work()
   end
   local client = $run * 1000 + sysbench.tid
   local amount, from, to = math.random(1000), math.random($accounts), math.random($accounts)
   said = said or io.open(string.format("$folder/committed.%d", client), "w")
   con:query("BEGIN")
   con:query(string.format("INSERT INTO journal VALUES (%d, %d, %d, %d, %d)", client, moves + 1, from, to, amount))
   -- In order, so that no two wait for each other.
   con:query(string.format("SELECT id FROM account WHERE id IN (%d, %d) ORDER BY id FOR UPDATE", from, to))
   con:query(string.format("UPDATE account SET balance = balance - %d WHERE id = %d", amount, from))
   con:query(string.format("UPDATE account SET balance = balance + %d WHERE id = %d", amount, to))
   con:query("COMMIT")
   moves = moves + 1
   said:write(moves, "\\n")
   said:flush()
end
END
}

sub sysbench
{
    my ($script, $threads, $command) = @_;
    return (qw(sysbench --db-driver=mysql --mysql-user=root --mysql-db=soak --events=0 --time=100000 --report-interval=0),
        "--mysql-socket=$folder/socket", "--tables=$tables", "--table-size=$rows", "--threads=$threads", $script, $command);
}

# (A server that recovers has no socket yet: the load waits for it.)
sub start_load
{
    my ($form) = @_;
    unlink "$folder/stop", glob "$folder/committed.*";
    return launch('sh', '-c', 'until [ -S "$0" ]; do sleep 0.05; done; exec "$@"', "$folder/socket",
        sysbench(script(++$runs, $form), $form->{threads} // 4, 'run'));
}

# How many moves of each client were committed for sure.
sub committed { return map { /\.(\d+)$/ => (slurp($_) =~ /.*^(\d+)\n/ms)[0] // 0 } glob "$folder/committed.*" }

# Lets it come to its end. A server that ends may take its connections away.
sub end_of_load
{
    my ($load, $is_server_gone) = @_;
    spit("$folder/stop", '');
    my $status = wait_for_end($load, 3 * $PATIENCE);
    my $text = slurp($load->{log});
    end_now($load);
    return 'sysbench does not end' if !defined $status;
    return if $is_server_gone;
    return "sysbench ends with status $status: " . substr($text, 0, 2000) if $status;
    my @wrong = $text =~ /^(.*(?:FATAL|ALERT|WARNING|\berror:).*)$/mg;
    return "sysbench says: @wrong[0 .. min($#wrong, 5)]" if @wrong;
    return $text =~ /transactions: +[1-9]/ ? undef : "sysbench has done nothing: $text";
}

# ---- the check ----

# What is wrong with the tables.
sub wrong_with_tables
{
    my (%committed) = @_;
    my @wrong = grep { !/\tcheck\tstatus\tOK$/ } split /\n/, query('CHECK TABLE ' . all_tables() . ' EXTENDED');
    for (1 .. $tables) {
        my $count = 0 + query("SELECT COUNT(*) FROM sbtest$_");
        push @wrong, "sbtest$_ has $count rows" if $count != $rows;
    }
    my $sum = 0 + query('SELECT SUM(balance) FROM account');
    push @wrong, "there is money: $sum" if $sum;
    my $others = query('SELECT id, balance, IFNULL(moved, 0) FROM account LEFT JOIN
        (SELECT party, SUM(amount) AS moved FROM (SELECT source AS party, -amount AS amount FROM journal
            UNION ALL SELECT target, amount FROM journal) AS move GROUP BY party) AS total ON id = party WHERE balance <> IFNULL(moved, 0)');
    push @wrong, "accounts that the journal has otherwise: $others" if $others ne '';
    my %has;
    for (split /\n/, query('SELECT client, COUNT(*), MAX(number) FROM journal GROUP BY client')) {
        my ($client, $count, $last) = split /\t/;
        push @wrong, "client $client has $count moves in the journal, the last is number $last" if $count != $last;
        $has{$client} = $count;
    }
    for my $client (sort keys %committed) {
        my $has = $has{$client} // 0;
        push @wrong, "client $client has made $committed{$client} moves, the journal has $has" if $has < $committed{$client} || $has > $committed{$client} + 1;
    }
    return @wrong;
}

# Starts the server again, on a disk that is as fast as it is, and with nothing in its memory.
sub check_again
{
    my ($checksums, %committed) = @_;
    my $server = start_server(undef, '--innodb-buffer-pool-size=64M');
    my @wrong;
    my $is_done = eval {
        wait_for_server($server);
        @wrong = wrong_with_tables(%committed);
        my $now = query('CHECKSUM TABLE ' . all_tables() . ' EXTENDED');
        push @wrong, "the checksums were\n${checksums}and are\n$now" if defined $checksums && $now ne $checksums;
        1;
    };
    push @wrong, $@ if !$is_done;
    push @wrong, end_of_server($server, $is_done ? 'TERM' : 'KILL') // ();
    return @wrong;
}

# ---- runs ----

sub setup
{
    $folder = direct_folder() . '/mariadb';
    mkdir $_ for $folder, "$folder/tmp";
    my $made = run_command({ seconds => $PATIENCE }, qw(mariadb-install-db --no-defaults --auth-root-authentication-method=normal --skip-test-db),
        as_root(), "--datadir=$folder/data", '--innodb-log-file-size=16M');
    die "mariadb-install-db: $made->{out}$made->{err}" if $made->{status};
    my $server = start_server();
    wait_for_server($server);
    die 'it does not use AIO: ' . slurp($server->{log}) if !has_rings($server->{pid});
    run_command(qw(mariadb --no-defaults --user=root), "--socket=$folder/socket", '--execute=CREATE DATABASE soak');
    query('CREATE TABLE account (id INT PRIMARY KEY, balance BIGINT NOT NULL, filler CHAR(200) NOT NULL)');
    query("INSERT INTO account SELECT seq, 0, REPEAT('x', 200) FROM seq_1_to_$accounts");
    query('CREATE TABLE journal (client INT, number INT, source INT NOT NULL, target INT NOT NULL, amount INT NOT NULL, PRIMARY KEY (client, number))');
    my $made_tables = run_command({ seconds => $PATIENCE }, sysbench('oltp_write_only', $tables, 'prepare'));
    die "sysbench: $made_tables->{out}$made_tables->{err}" if $made_tables->{status};
    my $wrong = end_of_server($server, 'TERM');
    die $wrong if defined $wrong;
}

# A server under load.
sub begin
{
    my ($form) = @_;
    my $run = start_server($form->{slow}, "--innodb-buffer-pool-size=$form->{pool}", @{ $form->{options} });
    wait_for_rings($run, $form->{rings} // 1);
    wait_for_server($run) if !$form->{kill};
    $run->{load} = start_load($form);
    $run->{kill} = $form->{kill};
    return $run;
}

# It is killed under its load, and what is staged is one that recovers, and then goes on.
sub begin_after_kill
{
    my ($form) = @_;
    my $killed = begin($form);
    sleep 1 + rand;
    my $wrong = end_of_server($killed, 'KILL') // end_of_load($killed->{load}, 1);
    die $wrong if defined $wrong;
    my %before = committed();
    my $run = begin($form);
    $run->{before} = \%before;
    return $run;
}

# It is told to end while rounds are made.
sub begin_to_end
{
    my ($form) = @_;
    my $run = begin($form);
    $run->{ender} = launch('sh', '-c', 'sleep "$0"; kill -TERM "$1"', $seconds, $run->{pid});
    return $run;
}

sub finish
{
    my ($run) = @_;
    my $server_ends = $run->{kill} || $run->{ender};
    if (defined $run->{wrong}) {
        end_now($_) for grep { $_ } @$run{qw(ender load)}, $run;
        return;
    }
    my (@wrong, $checksums);
    push @wrong, end_of_load($run->{load}) // () if !$server_ends;
    if (!$server_ends && !@wrong) {
        $checksums = eval { query('CHECKSUM TABLE ' . all_tables() . ' EXTENDED') };
        push @wrong, $@ if !defined $checksums;
    }
    push @wrong, end_of_server($run, @wrong || $run->{kill} ? 'KILL' : 'TERM') // ();
    push @wrong, end_of_load($run->{load}, 1) // () if $server_ends;
    end_now($run->{ender}) if $run->{ender};
    push @wrong, check_again($checksums, %{ $run->{before} // {} }, committed()) if !@wrong;
    return @wrong ? join("\n", @wrong) : undef;
}

# HUP has it write its tables and begin its logs anew; one that has not quite started, it can crash (10.11.19: of 30,
# which nobody staged, 6).
sub form
{
    my ($name, $load, $pool, $options, %more) = @_;
    return { name => $name, load => "oltp_$load", pool => $pool, options => [ split ' ', $options ], start => \&begin, finish => \&finish, signals => ['HUP'], scans => 'false', %more };
}

sub program
{
    return {
        name    => 'mariadb',
        missing => \&missing,
        setup   => \&setup,
        forms   => [
            form('reading and writing', 'read_write', '8M', '--innodb-flush-log-at-trx-commit=2 --thread-handling=pool-of-threads', threads => 4, scans => 'true', pace => 0.05),
            form('writing, a slow disk', 'write_only', '20M', '--innodb-flush-log-at-trx-commit=2 --innodb-max-dirty-pages-pct=0', slow => 400, pace => 0.05),
            form('both, a slow disk', 'read_write', '20M', '--innodb-flush-log-at-trx-commit=2 --innodb-max-dirty-pages-pct=0', threads => 8, scans => 'true', slow => 400, pace => 0.05),
            form('killed, recovers', 'write_only', '8M', '--innodb-flush-log-at-trx-commit=1', signals => [], start => \&begin_after_kill, kill => 1, rounds => 40, slow => 1000, pace => 0.05),
            form('told to end', 'write_only', '16M', '--innodb-flush-log-at-trx-commit=2', signals => [], start => \&begin_to_end, ends => 1, slow => 400, pace => 0.05),
        ],
    };
}

1;
