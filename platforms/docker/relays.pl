#!/usr/bin/perl
# Leads many connections to unix sockets over one standard input and output. Told, and telling, in lines and bytes:
# "open NUMBER SOCKET"; "data NUMBER LENGTH" and so many bytes; "shut NUMBER", once nothing more comes from there; "drop
# NUMBER", where nobody wants more of it either. It tells "data" and "shut" alone. A socket that can't be reached is shut
# at once, and so is one whose queue is full: whoever hangs must not keep the others waiting.
use strict;
use warnings;
use Errno;
use IO::Select;
use IO::Socket::UNIX;

$SIG{PIPE} = "IGNORE";
binmode STDIN;
binmode STDOUT;
my (%sockets, %numbers, %waiting, %ends);
my ($sources, $targets) = (IO::Select->new(\*STDIN), IO::Select->new);
my $told = "";

# What follows each word.
my $one = qr/\A([0-9]+)\z/;
my %forms = (open => qr/\A([0-9]+) (.+)\z/, data => qr/\A([0-9]+) ([0-9]+)\z/, shut => $one, drop => $one);

sub tell_here {
    my ($bytes) = @_;
    my $at = 0;
    while ($at < length $bytes) {
        $at += syswrite(STDOUT, $bytes, length($bytes) - $at, $at) // exit 0;
    }
}

sub shut {
    my ($number) = @_;
    my $socket = delete $sockets{$number};
    if ($socket) {
        $_->remove($socket) for $sources, $targets;
        delete $numbers{fileno $socket};
        delete $_->{$number} for \%waiting, \%ends;
        close $socket;
    }
    tell_here("shut $number\n");
}

sub opened {
    my ($number, $path) = @_;
    my $socket = IO::Socket::UNIX->new(Peer => $path, Timeout => 2) or return shut($number);
    $socket->blocking(0);
    $sockets{$number} = $socket;
    $numbers{fileno $socket} = $number;
    $waiting{$number} = "";
    $sources->add($socket);
}

# Passes on what waits, as much as is taken now; whoever takes nothing any more is shut.
sub pass_on {
    my ($number) = @_;
    my $socket = $sockets{$number};
    if ($waiting{$number} ne "") {
        my $count = syswrite $socket, $waiting{$number};
        return shut($number) unless defined $count || $!{EAGAIN};
        substr($waiting{$number}, 0, $count // 0) = "";
    }
    return $targets->add($socket) if $waiting{$number} ne "";
    $targets->remove($socket);
    shutdown $socket, 1 if delete $ends{$number};
}

# Does what is told in whole, and leaves the rest for when there is more of it. Who is shut already has said so.
sub follow {
    while ($told =~ /\A([^\n]*)\n/) {
        my ($line, $begins) = ($1, $+[0]);
        my ($what, $rest) = split / /, $line, 2;
        my ($number, $more) = ($rest // "") =~ ($forms{$what // ""} // die "relays: $line\n") or die "relays: $line\n";
        my $length = $what eq "data" ? $more : 0;
        return if length($told) < $begins + $length;
        my $bytes = substr $told, $begins, $length;
        substr($told, 0, $begins + $length) = "";
        if ($what eq "open") {
            opened($number, $more);
        } elsif ($sockets{$number}) {
            $waiting{$number} .= $bytes;
            $ends{$number} = 1 if $what eq "shut";
            $what eq "drop" ? shut($number) : pass_on($number);
        }
    }
}

while (my ($ready, $free) = IO::Select->select($sources, $targets)) {
    for my $target (@$free) {
        my $number = $numbers{fileno($target) // -1} // next;
        pass_on($number);
    }
    for my $source (@$ready) {
        if ($source == \*STDIN) {
            sysread(STDIN, $told, 65536, length $told) or exit 0;
            follow();
            next;
        }
        my $number = $numbers{fileno($source) // -1} // next;
        my $count = sysread $source, my $bytes, 65536;
        next if !defined $count && $!{EAGAIN};
        $count ? tell_here("data $number $count\n$bytes") : shut($number);
    }
}
