//! The proxy example, as a whole program between plain blocking sockets: what one end does, the other sees.
//!
//! Linux alone: descriptors, memory and pending connects are read from /proc.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::pairs::{
    Answer, ENDS, End, Ending, Proxy, answer, fill, fill_between, finish_first, half_closes,
    half_closes_before_a_server, plenty, read_to_end, start_proxy, two_hundred_are_intact, until_closed,
    until_connecting, until_reset, wait_for,
};
use common::proc::{cost_of_rest, private_memory, settle};
use common::{Server, client, example, expect, expect_end, figure, pattern, ping, reset};
use rustix::event::PollFlags;
use rustix::process::Signal;
use socket2::{Domain, SockRef, Socket, Type};

const KIB: u64 = 1024;

/// What the proxy keeps for one peer that does not read, as a server's limits have it.
const CONNECTION_BUFFER: u64 = 256 * KIB;

fn proxy() -> Proxy {
    Proxy::start(example("proxy"))
}

/// Sends a message at one end and expects it at the other.
#[track_caller]
fn carry(from: &mut TcpStream, to: &mut TcpStream, message: &[u8]) {
    from.write_all(message).unwrap();
    expect(to, message);
}

/// A message each way.
#[track_caller]
fn exchange(client: &mut TcpStream, backend: &mut TcpStream) {
    carry(client, backend, b"there");
    carry(backend, client, b"and back");
}

// Each direction ends by itself.

#[test]
fn a_client_that_finishes_first_gets_an_echo_whole() {
    half_closes(&proxy(), End::Client, Answer::AsItComes);
}

#[test]
fn a_client_that_finishes_first_gets_an_answer_to_the_end_of_its_input() {
    half_closes(&proxy(), End::Client, Answer::AfterTheEnd);
}

#[test]
fn a_backend_that_finishes_first_gets_an_echo_whole() {
    half_closes(&proxy(), End::Backend, Answer::AsItComes);
}

#[test]
fn a_backend_that_finishes_first_gets_an_answer_to_the_end_of_its_input() {
    half_closes(&proxy(), End::Backend, Answer::AfterTheEnd);
}

#[test]
fn a_client_that_finishes_first_gets_the_echo_of_our_server_whole() {
    let server = Server::start(&[]);
    half_closes_before_a_server(&start_proxy(example("proxy"), server.addr));
}

#[test]
fn what_is_sent_after_the_other_ends_fin_still_arrives() {
    let proxy = proxy();
    for end in ENDS {
        let (mut first, mut second) = proxy.pair_from(end);
        first.shutdown(Shutdown::Write).unwrap();
        expect_end(&mut second);
        carry(&mut second, &mut first, &pattern(100_000));
        // The second half of its life is as long as it likes.
        carry(&mut second, &mut first, b"one more");
        second.shutdown(Shutdown::Write).unwrap();
        expect_end(&mut first);
    }
}

#[test]
fn a_fin_follows_at_once_and_only_in_its_own_direction() {
    let proxy = proxy();
    for end in ENDS {
        let (mut first, mut second) = proxy.pair_from(end);
        carry(&mut first, &mut second, b"last");
        first.shutdown(Shutdown::Write).unwrap();
        expect_end(&mut second);
        carry(&mut second, &mut first, b"still here");
        let events = wait_for(&first, PollFlags::IN | PollFlags::RDHUP, Duration::ZERO);
        assert!(events.is_empty(), "the FIN came back: {events:?}");
    }
}

#[test]
fn nothing_is_left_of_connections_that_ended() {
    let proxy = proxy();
    let (mut client, mut backend) = proxy.pair();
    exchange(&mut client, &mut backend);
    drop((client, backend));
    // What it opens once, at its first connection, is part of its beginning.
    let (mut client, mut backend) = proxy.pair();
    exchange(&mut client, &mut backend);
    let with_one = proxy.descriptors();
    for ending in 0..60 {
        let (mut first, mut second) = proxy.pair_from(ENDS[ending % 2]);
        match ending % 3 {
            0 => reset(first),
            1 => {
                drop(first);
                expect_end(&mut second);
            }
            _ => {
                first.shutdown(Shutdown::Write).unwrap();
                expect_end(&mut second);
                second.shutdown(Shutdown::Write).unwrap();
                expect_end(&mut first);
            }
        }
    }
    proxy.until_descriptors(with_one);
    exchange(&mut client, &mut backend);
}

// A reset is a reset.

#[test]
fn a_reset_while_nothing_moves_is_a_reset_at_the_other_end() {
    let proxy = proxy();
    let descriptors = proxy.descriptors();
    for end in ENDS {
        for used in [false, true] {
            let (mut first, mut second) = proxy.pair_from(end);
            if used {
                exchange(&mut first, &mut second);
            }
            reset(first);
            assert_eq!(read_to_end(&second), (vec![], Ending::Reset), "{end:?}");
            drop(second);
            proxy.until_descriptors(descriptors);
        }
    }
}

#[test]
fn a_reset_by_the_receiver_of_a_transfer_stops_its_sender() {
    let proxy = proxy();
    for end in ENDS {
        let (mut first, mut second) = proxy.pair_from(end);
        let sending = thread::spawn(move || second.write_all(plenty()).unwrap_err());
        first.read_exact(&mut vec![0; 1_000_000]).unwrap();
        reset(first);
        assert_eq!(sending.join().unwrap().kind(), ErrorKind::ConnectionReset, "{end:?}");
    }
}

#[test]
fn a_reset_by_the_sender_of_a_transfer_is_no_end_of_it() {
    let proxy = proxy();
    for end in ENDS {
        let (mut first, second) = proxy.pair_from(end);
        let reading = thread::spawn(move || read_to_end(&second));
        first.write_all(&plenty()[..1_000_000]).unwrap();
        reset(first);
        let (received, ending) = reading.join().unwrap();
        assert_eq!(ending, Ending::Reset, "{end:?}, after {} bytes", received.len());
        assert!(plenty().starts_with(&received), "{end:?}: what came is not what was sent");
    }
}

#[test]
fn a_reset_is_seen_past_a_direction_that_is_full() {
    let proxy = proxy();
    let descriptors = proxy.descriptors();
    for end in ENDS {
        for (there, back) in [(true, false), (false, true), (true, true)] {
            println!("{end:?} resets; full from it: {there}, full to it: {back}");
            let (first, second) = proxy.pair_from(end);
            if there {
                fill_between(&first, &second);
            }
            if back {
                fill_between(&second, &first);
            }
            reset(first);
            until_reset(&second);
            drop(second);
            proxy.until_descriptors(descriptors);
        }
    }
}

#[test]
fn a_reset_is_seen_after_a_fin_in_either_direction() {
    let proxy = proxy();
    let descriptors = proxy.descriptors();
    for end in ENDS {
        for (there, back) in [(true, false), (false, true)] {
            println!("{end:?} resets; its FIN before: {there}, the other's: {back}");
            let (mut first, mut second) = proxy.pair_from(end);
            if there {
                first.shutdown(Shutdown::Write).unwrap();
                expect_end(&mut second);
            }
            if back {
                second.shutdown(Shutdown::Write).unwrap();
                expect_end(&mut first);
            }
            reset(first);
            until_reset(&second);
            drop(second);
            proxy.until_descriptors(descriptors);
        }
    }
}

/// The kernel sends a reset for a socket that is closed before all is read.
#[test]
fn an_end_that_closes_with_bytes_unread_is_seen_as_the_reset_that_it_sends() {
    let proxy = proxy();
    for end in ENDS {
        let (first, mut second) = proxy.pair_from(end);
        second.write_all(b"unread").unwrap();
        first.peek(&mut [0; 1]).unwrap();
        drop(first);
        assert_eq!(read_to_end(&second).1, Ending::Reset, "{end:?}");
    }
}

/// The kernel sends a FIN for a socket that is closed, and a reset for what comes afterwards.
#[test]
fn an_end_that_closes_while_the_other_sends_on_is_seen_as_a_fin_and_then_as_a_reset() {
    let proxy = proxy();
    let descriptors = proxy.descriptors();
    for end in ENDS {
        let (first, mut second) = proxy.pair_from(end);
        drop(first);
        expect_end(&mut second);
        second.write_all(b"too late").unwrap();
        until_reset(&second);
        drop(second);
        proxy.until_descriptors(descriptors);
    }
}

#[test]
fn an_orderly_end_is_never_seen_as_a_reset() {
    let proxy = proxy();
    for end in ENDS {
        for _ in 0..50 {
            let (first, mut second) = proxy.pair_from(end);
            // Both in one segment or in two, and the socket gone before they are carried.
            (&first).write_all(b"last words").unwrap();
            drop(first);
            expect(&mut second, b"last words");
            expect_end(&mut second);
            let events = wait_for(&second, PollFlags::empty(), Duration::ZERO);
            assert!(events.is_empty(), "{end:?}: {events:?}");
        }
    }
}

// A full way.

#[test]
fn a_reader_that_stops_stops_its_sender_and_gets_everything_once_it_goes_on() {
    let proxy = proxy();
    for end in ENDS {
        let (first, second) = proxy.pair_from(end);
        let taken = fill_between(&first, &second);
        figure(&format!("bytes that a {end:?} sends before it is stopped"), taken);
        let sent = &plenty()[..taken + 1_000_000];
        let received = thread::scope(|scope| {
            scope.spawn(|| {
                (&first).write_all(&sent[taken..]).unwrap();
                first.shutdown(Shutdown::Write).unwrap();
            });
            read_to_end(&second)
        });
        assert_eq!((received.0.len(), received.1), (sent.len(), Ending::Fin), "{end:?}");
        assert!(received.0 == sent, "{end:?}: what came is not what was sent");
    }
}

#[test]
fn one_direction_moves_while_the_other_is_full() {
    let proxy = proxy();
    for end in ENDS {
        let (first, mut second) = proxy.pair_from(end);
        let taken = fill_between(&first, &second);
        let back = &plenty()[..4_000_000];
        thread::scope(|scope| {
            scope.spawn(|| {
                (&second).write_all(back).unwrap();
                second.shutdown(Shutdown::Write).unwrap();
            });
            let (received, ending) = read_to_end(&first);
            assert_eq!((received.len(), ending), (back.len(), Ending::Fin), "{end:?}");
            assert!(received == back, "{end:?}: what came is not what was sent");
        });
        first.shutdown(Shutdown::Write).unwrap();
        expect(&mut second, &plenty()[..taken]);
        expect_end(&mut second);
    }
}

#[test]
fn pairs_full_in_both_directions_cost_bounded_memory_and_hardly_any_time_and_go_on() {
    const PAIRS: u64 = 4;
    let proxy = proxy();
    let (mut client, mut backend) = proxy.pair();
    exchange(&mut client, &mut backend);
    let before = private_memory(&proxy.server.program);
    let full: Vec<_> = (0..PAIRS)
        .map(|_| {
            let (client, backend) = proxy.pair();
            let there = fill_between(&client, &backend);
            let back = fill_between(&backend, &client);
            (client, backend, there, back)
        })
        .collect();
    let grown = private_memory(&proxy.server.program).saturating_sub(before);
    figure("bytes kept for each pair that is full in both directions", grown / PAIRS);
    assert!(grown <= PAIRS * 2 * (CONNECTION_BUFFER + 4 * KIB) + CONNECTION_BUFFER, "{grown} bytes are kept");

    exchange(&mut client, &mut backend);
    // The kernel's window probes may carry some bytes, and the loop looks now and then whether a reader has moved.
    let (woken, used) = cost_of_rest(&proxy.server.program, Duration::from_secs(1));
    assert!(used < Duration::from_millis(10), "{woken} wake-ups, {used:?}");

    for (client, backend, there, back) in full {
        client.shutdown(Shutdown::Write).unwrap();
        backend.shutdown(Shutdown::Write).unwrap();
        for (mut stream, sent) in [(client, back), (backend, there)] {
            expect(&mut stream, &plenty()[..sent]);
            expect_end(&mut stream);
        }
    }
}

#[test]
#[ignore = "takes the minute after which a reader counts as stalled"]
fn a_reader_that_takes_nothing_for_a_minute_is_reset_and_so_is_its_sender() {
    let proxy = proxy();
    let descriptors = proxy.descriptors();
    let stalled = ENDS.map(|end| {
        let (first, second) = proxy.pair_from(end);
        fill_between(&first, &second);
        (first, second)
    });
    let (mut client, mut backend) = proxy.pair();
    for (first, second) in stalled {
        // The time begins with the last byte that the reader's kernel took.
        assert!(!wait_for(&first, PollFlags::empty(), Duration::from_secs(90)).is_empty(), "it is not ended");
        until_reset(&first);
        let (received, ending) = read_to_end(&second);
        assert_eq!(ending, Ending::Reset, "after {} bytes, to which more belonged", received.len());
    }
    exchange(&mut client, &mut backend);
    proxy.until_descriptors(descriptors + 2);
}

// A backend that is not there.

#[test]
fn a_backend_that_refuses_costs_that_client_alone() {
    let proxy = proxy();
    let (mut client, mut backend) = proxy.pair();
    exchange(&mut client, &mut backend);
    let descriptors = proxy.descriptors();
    let Proxy { server, backend: listener } = proxy;
    let addr = listener.local_addr().unwrap();
    drop(listener);
    for _ in 0..20 {
        let begun = Instant::now();
        let refused = server.connect();
        assert_eq!(read_to_end(&refused), (vec![], Ending::Reset));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        exchange(&mut client, &mut backend);
    }
    // A backend that comes back is found by the next client.
    let proxy = Proxy { server, backend: listen(addr, 128).into() };
    proxy.until_descriptors(descriptors);
    let (mut client, mut backend) = proxy.pair();
    exchange(&mut client, &mut backend);
}

fn listen(addr: SocketAddr, backlog: i32) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    socket.listen(backlog).unwrap();
    socket
}

/// A proxy whose backend answers no connect until the test makes room in its backlog.
struct Silent {
    proxy: Proxy,
    addr: SocketAddr,
    /// Takes the only place in the backlog.
    filler: TcpStream,
}

impl Silent {
    /// With one forwarded connection, made before the backend fell silent.
    fn start() -> (Silent, TcpStream, TcpStream) {
        let proxy = proxy();
        let (client, backend) = proxy.pair();
        let addr = proxy.backend.local_addr().unwrap();
        SockRef::from(&proxy.backend).listen(0).unwrap();
        let filler = TcpStream::connect(addr).unwrap();
        (Silent { proxy, addr, filler }, client, backend)
    }

    #[track_caller]
    fn until_connecting(&self, count: usize) {
        until_connecting(self.addr, count);
    }

    /// Answers from now on. A connect is repeated one second after the first try, and two seconds after the second.
    fn wake(self) -> Proxy {
        SockRef::from(&self.proxy.backend).listen(128).unwrap();
        let filled = self.proxy.accept();
        assert_eq!(filled.peer_addr().unwrap(), self.filler.local_addr().unwrap());
        self.proxy
    }
}

#[test]
fn a_backend_that_does_not_answer_costs_those_clients_alone() {
    let (silent, mut client, mut backend) = Silent::start();
    let mut waiting: Vec<_> = (0..10).map(|_| silent.proxy.server.connect()).collect();
    silent.until_connecting(10);
    let begun = Instant::now();
    for _ in 0..100 {
        exchange(&mut client, &mut backend);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());

    let proxy = silent.wake();
    let served: Vec<_> = (0..10).map(|_| proxy.accept()).collect();
    for client in &mut waiting {
        client.write_all(b"at last").unwrap();
    }
    for mut backend in served {
        ping(&mut backend, b"at last");
    }
    for client in &mut waiting {
        expect(client, b"at last");
    }
}

#[test]
fn what_a_client_sends_before_the_backend_answers_arrives() {
    for length in [22, 100_000, 4_000_000] {
        let (silent, ..) = Silent::start();
        let client = silent.proxy.server.connect();
        let talking = thread::spawn(move || finish_first(&client, length, Duration::ZERO));
        silent.until_connecting(1);
        let proxy = silent.wake();
        answer(proxy.accept(), Answer::AfterTheEnd);
        talking.join().unwrap();
    }
}

#[test]
fn a_client_that_goes_away_before_the_backend_answers_leaves_nothing_behind() {
    let (silent, mut client, mut backend) = Silent::start();
    let descriptors = silent.proxy.descriptors();
    for sent in [0, 22, 4_000_000] {
        let gone = silent.proxy.server.connect();
        if sent > 0 {
            gone.set_nonblocking(true).unwrap();
            let _ = (&gone).write(&plenty()[..sent]).unwrap();
        }
        silent.until_connecting(1);
        assert_eq!(silent.proxy.descriptors(), descriptors + 2);
        reset(gone);
        silent.proxy.until_descriptors(descriptors);
        silent.until_connecting(0);
    }
    // One that only finishes may still want its answer.
    let finished = silent.proxy.server.connect();
    finished.shutdown(Shutdown::Write).unwrap();
    silent.until_connecting(1);
    drop(finished);
    let proxy = silent.wake();
    expect_end(&mut proxy.accept());
    proxy.until_descriptors(descriptors);
    exchange(&mut client, &mut backend);
}

// Our own programs at both ends.

#[test]
fn two_hundred_connections_between_our_programs_are_intact() {
    let server = Server::start(&[]);
    let proxy = start_proxy(example("proxy"), server.addr);
    two_hundred_are_intact(&proxy);
    let run = client(proxy.addr, 200, &["-q"]);
    assert_eq!(run.code, Some(0), "the tutorial's messages: {run:?}");
    server.until_connections(0);
}

// The process.

#[test]
fn idle_pairs_cost_no_time() {
    let proxy = proxy();
    let mut pairs: Vec<_> = (0..50).map(|_| proxy.pair()).collect();
    for (client, backend) in &mut pairs {
        exchange(client, backend);
    }
    // Half of them with one direction at its end, which an edge or a level might report for ever.
    for (number, (client, backend)) in pairs.iter_mut().enumerate() {
        match number % 4 {
            0 => {
                client.shutdown(Shutdown::Write).unwrap();
                expect_end(backend);
            }
            1 => {
                backend.shutdown(Shutdown::Write).unwrap();
                expect_end(client);
            }
            _ => {}
        }
    }
    settle(&proxy.server.program);
    let (woken, used) = cost_of_rest(&proxy.server.program, Duration::from_secs(1));
    assert!(woken == 0 && used < Duration::from_millis(1), "{woken} wake-ups, {used:?}");
}

#[test]
fn a_drain_lets_what_is_under_way_go_through_to_its_end() {
    for end in ENDS {
        let mut proxy = proxy();
        let (first, mut second) = proxy.pair_from(end);
        // Full, with more to come: in the sockets, in the proxy, and not yet written.
        let taken = fill_between(&first, &second);
        proxy.server.program.signal(Signal::TERM);
        until_closed(proxy.server.addr);
        let sent = &plenty()[..taken + 1_000_000];
        thread::scope(|scope| {
            scope.spawn(|| {
                (&first).write_all(&sent[taken..]).unwrap();
                first.shutdown(Shutdown::Write).unwrap();
            });
            let (received, ending) = read_to_end(&second);
            assert_eq!((received.len(), ending), (sent.len(), Ending::Fin), "{end:?}");
            assert!(received == sent, "{end:?}: what came is not what was sent");
        });
        // The answer, too.
        second.write_all(b"received").unwrap();
        second.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&first), (b"received".to_vec(), Ending::Fin), "{end:?}");
        proxy.server.program.ends_with(0);
    }
}

#[test]
fn a_drain_lets_an_answer_through_whose_question_had_ended() {
    let mut proxy = proxy();
    let (mut client, mut backend) = proxy.pair();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    expect(&mut backend, b"question");
    expect_end(&mut backend);
    proxy.server.program.signal(Signal::TERM);
    until_closed(proxy.server.addr);
    backend.write_all(&pattern(100_000)).unwrap();
    drop(backend);
    let (received, ending) = read_to_end(&client);
    assert_eq!((received.len(), ending), (100_000, Ending::Fin));
    drop(client);
    proxy.server.program.ends_with(0);
}

#[test]
fn a_proxy_without_connections_ends_at_the_first_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut proxy = proxy();
        drop(proxy.pair());
        proxy.server.program.signal(signal);
        proxy.server.program.ends_with(0);
    }
}

#[test]
fn a_pair_that_stays_open_does_not_keep_a_draining_proxy_alive() {
    let mut proxy = proxy();
    let (mut client, mut backend) = proxy.pair();
    exchange(&mut client, &mut backend);
    proxy.server.program.signal(Signal::TERM);
    proxy.server.program.ends_with(0);
    for stream in [client, backend] {
        assert_eq!(read_to_end(&stream).0, b"");
    }
}

#[test]
fn a_transfer_that_the_drain_cuts_short_does_not_look_complete() {
    let mut proxy = proxy();
    let cut = ENDS.map(|end| {
        let (first, second) = proxy.pair_from(end);
        let taken = fill_between(&first, &second);
        (first, second, taken)
    });
    proxy.server.program.signal(Signal::TERM);
    proxy.server.program.ends_with(0);
    for (first, second, taken) in cut {
        let (received, ending) = read_to_end(&second);
        assert!(received.len() == taken || ending == Ending::Reset, "a FIN after {} of {taken} bytes", received.len());
        drop(first);
    }
}

#[test]
fn a_second_signal_ends_the_proxy_at_once() {
    let mut proxy = proxy();
    let (client, backend) = proxy.pair();
    fill(&client);
    proxy.server.program.signal(Signal::TERM);
    until_closed(proxy.server.addr);
    assert!(proxy.server.program.child.try_wait().unwrap().is_none(), "it did not wait for the transfer");
    let begun = Instant::now();
    proxy.server.program.signal(Signal::TERM);
    proxy.server.program.wait();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    drop(backend);
}
