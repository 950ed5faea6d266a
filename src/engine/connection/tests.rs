//! What a connection does, step by step, on a socket that follows a script.
//!
//! Owns the scripted socket and the bench that plays the loop. Touches no network and no clock.

use super::*;
use crate::engine::progress::LOOKS;
use crate::engine::protocol::{Expects, Outbox, Produced, Protocol};
use crate::server::echo::Echo;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::mem;

/// What the socket does at the next read.
enum Input {
    Bytes(&'static [u8]),
    Flood(usize),
    End,
    Fails(ErrorKind),
}

/// What the socket does at the next write; without an entry, it takes everything.
enum Output {
    Takes(usize),
    Fails(ErrorKind),
}

/// A socket that follows a script. Reads without an entry, and at the end of one, say `WouldBlock`.
#[derive(Default)]
struct Script {
    input: VecDeque<Input>,
    output: VecDeque<Output>,
    sent: Vec<u8>,
    reads: usize,
    writes: usize,
    fin_sent: bool,
    connects: VecDeque<io::Result<bool>>,
    /// What `SO_ERROR` says next.
    error: Option<io::Error>,
    /// Whether closing sends a reset.
    reset: bool,
    /// What the kernel still holds; `None` on a system that cannot tell.
    unacknowledged: Option<Unacknowledged>,
}

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        assert!(!buf.is_empty(), "a read of no bytes would look like the end of input");
        self.reads += 1;
        match self.input.pop_front() {
            Some(Input::Bytes(bytes)) => {
                let count = bytes.len().min(buf.len());
                buf[..count].copy_from_slice(&bytes[..count]);
                if count < bytes.len() {
                    self.input.push_front(Input::Bytes(&bytes[count..]));
                }
                Ok(count)
            }
            Some(Input::Flood(left)) => {
                let count = left.min(buf.len());
                buf[..count].fill(b'.');
                if count < left {
                    self.input.push_front(Input::Flood(left - count));
                }
                Ok(count)
            }
            Some(Input::End) => {
                self.input.push_front(Input::End);
                Ok(0)
            }
            Some(Input::Fails(kind)) => Err(kind.into()),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        assert!(!self.fin_sent, "a write behind our own FIN");
        self.writes += 1;
        let count = match self.output.pop_front() {
            Some(Output::Takes(count)) => count.min(buf.len()),
            Some(Output::Fails(kind)) => return Err(kind.into()),
            None => buf.len(),
        };
        self.sent.extend(&buf[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Script {
    fn reset_on_close(&mut self) {
        self.reset = true;
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.fin_sent = true;
        Ok(())
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        self.connects.pop_front().unwrap_or(Ok(true))
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        Ok(self.error.take())
    }

    fn unacknowledged(&self) -> Option<Unacknowledged> {
        self.unacknowledged
    }
}

/// A connection and what the loop lends to it.
struct Bench<P> {
    connection: Connection<Script, P>,
    log: LogBudget,
    scratch: Vec<u8>,
    now: Moment,
    room_now: usize,
    short_read_is_last: bool,
    /// Whether the protocol called `notify` in the last service.
    notified: bool,
    /// Whether the last service found room for what the role could not send.
    has_room: bool,
}

const LIMIT: usize = 4096;

impl<P: Protocol> Bench<P> {
    fn new(protocol: P, input: impl IntoIterator<Item = Input>) -> Bench<P> {
        let script = Script { input: input.into_iter().collect(), ..Script::default() };
        let addr = "127.0.0.1:1".parse().unwrap();
        let mut connection = Connection::open(script, addr, protocol, Moment::START);
        connection.note(Readiness { readable: true, writable: true, ..Readiness::default() });
        Bench {
            connection,
            log: LogBudget::new(),
            scratch: vec![0; SERVICE_BUDGET],
            now: Moment::START,
            room_now: LIMIT,
            short_read_is_last: true,
            notified: false,
            has_room: false,
        }
    }

    fn output(mut self, output: impl IntoIterator<Item = Output>) -> Bench<P> {
        self.connection.wire.transport.output = output.into_iter().collect();
        self
    }

    fn service(&mut self) -> Outcome {
        self.service_with(None).0
    }

    /// A service with a partner to which what the protocol answers goes. Returns the partner's end as well.
    fn service_with(&mut self, partner: Option<&mut Connection<Script, P>>) -> (Outcome, Option<End>) {
        self.service_with_room(partner, self.room_now)
    }

    /// The same, with a partner that has more room than this one, or less.
    fn service_with_room(
        &mut self,
        partner: Option<&mut Connection<Script, P>>,
        room_now: usize,
    ) -> (Outcome, Option<End>) {
        let mut partner_end = None;
        let mut context = Context {
            partner: partner.map(|connection| Partner { connection, room_now, end: &mut partner_end }),
            has_room: false,
            now: self.now,
            clock: &self.now,
            scratch: &mut self.scratch,
            room_now: self.room_now,
            room_most: LIMIT,
            short_read_is_last: self.short_read_is_last,
            log: &mut self.log,
            notified: false,
        };
        let outcome = self.connection.service(&mut context);
        self.notified = context.notified;
        self.has_room = context.has_room;
        (outcome, partner_end)
    }

    /// When the connection ends, and for which timeout, if nothing moves until then: at the last look.
    fn ends_unless_moved(&mut self, timeouts: Timeouts) -> Option<(Moment, Timeout)> {
        self.connection.progress.looks = LOOKS - 1;
        self.connection.deadline(&timeouts)
    }

    #[track_caller]
    fn waits(&mut self) -> &mut Script {
        let outcome = self.service();
        assert!(matches!(outcome, Outcome::Waiting), "{outcome:?}");
        &mut self.connection.wire.transport
    }

    #[track_caller]
    fn ends(&mut self) -> End {
        match self.service() {
            Outcome::Ended(end) => end,
            outcome => panic!("{outcome:?}"),
        }
    }

    #[track_caller]
    fn finishes(&mut self) {
        let end = self.ends();
        assert!(matches!(end, End::Finished), "{end:?}");
    }

    fn readable(&mut self, input: impl IntoIterator<Item = Input>) {
        self.connection.wire.transport.input.extend(input);
        self.connection.note(Readiness { readable: true, ..Readiness::default() });
    }

    fn writable(&mut self) {
        self.connection.note(Readiness { writable: true, ..Readiness::default() });
    }
}

use Input::{Bytes, End as Fin, Flood};
use Output::Takes;

const BLOCKED: Output = Output::Fails(ErrorKind::WouldBlock);

#[test]
fn an_echo_is_one_read_and_one_write_and_no_memory() {
    let mut bench = Bench::new(Echo, [Bytes(b"ping")]);
    let script = bench.waits();
    assert_eq!((script.reads, script.writes), (1, 1));
    assert_eq!(script.sent, b"ping");
    assert_eq!(bench.connection.memory(), 0);
}

#[test]
fn without_epoll_reading_goes_on_to_would_block() {
    let mut bench = Bench::new(Echo, [Bytes(b"ping")]);
    bench.short_read_is_last = false;
    assert_eq!(bench.waits().reads, 2);
}

#[test]
fn data_and_fin_in_one_event_end_the_connection() {
    let mut bench = Bench::new(Echo, [Bytes(b"last words"), Fin]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.finishes();
    assert_eq!(bench.connection.wire.transport.sent, b"last words");
}

/// Produces a byte whenever it is asked.
struct Talker;

impl Protocol for Talker {
    fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
        input.len()
    }
    fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
        space[0] = b'!';
        Produced::Bytes(1)
    }
}

#[test]
fn an_end_of_input_that_has_arrived_is_read_before_more_is_written() {
    let mut bench = Bench::new(Talker, [Bytes(b"last "), Bytes(b"words"), Fin]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.finishes();
    assert_eq!((bench.connection.received(), bench.connection.sent()), (10, 0));
}

#[test]
fn an_event_that_reports_an_end_falsely_does_not_stop_the_writing() {
    let mut bench = Bench::new(Talker, []).output([Takes(1), BLOCKED]);
    bench.connection.note(Readiness::ALL);
    assert_eq!(bench.waits().sent, b"!");
}

#[test]
fn bytes_behind_an_urgent_mark_are_read_at_once() {
    let mut bench = Bench::new(Echo, [Bytes(b"abc"), Bytes(b"X"), Bytes(b"def")]);
    bench.connection.note(Readiness { urgent: true, ..Readiness::default() });
    assert_eq!(bench.waits().sent, b"abcXdef");
}

#[test]
fn spurious_readiness_is_harmless() {
    let mut bench = Bench::new(Echo, []);
    bench.connection.note(Readiness::ALL);
    let script = bench.waits();
    assert_eq!((script.reads, script.writes), (1, 0));
    assert_eq!(bench.waits().reads, 1, "only an event makes it readable again");
}

#[test]
fn interruptions_are_tried_again() {
    let interrupted = ErrorKind::Interrupted;
    let mut bench = Bench::new(Echo, [Input::Fails(interrupted), Bytes(b"ping")]).output([
        Output::Fails(interrupted),
        Takes(1),
        Output::Fails(interrupted),
    ]);
    assert_eq!(bench.waits().sent, b"ping");
}

#[test]
fn a_short_write_keeps_the_rest_in_order() {
    let mut bench = Bench::new(Echo, [Bytes(b"abcdef")]).output([Takes(1), Takes(2), BLOCKED]);
    assert_eq!(bench.waits().sent, b"abc");
    assert_eq!(bench.connection.outbound_len(), 3);
    assert_eq!(bench.connection.state(), State::Stalled);
    bench.readable([Bytes(b"gh")]);
    assert_eq!(bench.waits().sent, b"abc", "not writable: what comes is queued behind");
    bench.writable();
    assert_eq!(bench.waits().sent, b"abcdefgh");
    assert_eq!(bench.connection.memory(), 0);
}

#[test]
fn a_short_write_alone_is_no_reason_to_wait() {
    // Something other than a full socket may have cut it, and then no edge follows.
    let mut bench = Bench::new(Echo, [Bytes(b"abcdef")]).output([Takes(1), Takes(1), Takes(1)]);
    assert_eq!(bench.waits().sent, b"abcdef");
}

#[test]
fn a_write_of_nothing_ends_the_connection() {
    let mut bench = Bench::new(Echo, [Bytes(b"ping")]).output([Takes(0)]);
    assert!(matches!(bench.ends(), End::Failed(error) if error.kind() == ErrorKind::WriteZero));
}

#[test]
fn a_reset_ends_the_connection_and_says_so() {
    let mut bench = Bench::new(Echo, [Input::Fails(ErrorKind::ConnectionReset)]);
    assert!(matches!(bench.ends(), End::Failed(error) if error.kind() == ErrorKind::ConnectionReset));
    let mut bench = Bench::new(Echo, [Bytes(b"ping")]).output([Output::Fails(ErrorKind::BrokenPipe)]);
    assert!(matches!(bench.ends(), End::Failed(error) if error.kind() == ErrorKind::BrokenPipe));
}

#[test]
fn half_close_echoes_everything_first() {
    let mut bench = Bench::new(Echo, [Bytes(b"abcdef"), Fin]).output([Takes(2), BLOCKED]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    assert!(!bench.waits().fin_sent);
    assert_eq!(bench.connection.outbound_len(), 4);
    bench.writable();
    bench.finishes();
    let script = &bench.connection.wire.transport;
    assert_eq!(script.sent, b"abcdef");
    assert!(!script.fin_sent, "closing sends the FIN, shutdown(2) would be one call too many");
}

#[test]
fn a_protocol_that_does_not_answer_reads_although_its_own_queue_is_full() {
    /// Sends what it can and answers nothing.
    struct Flooder;
    impl Protocol for Flooder {
        fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
            input.len()
        }
        fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
            Produced::Bytes(space.len())
        }
        fn answers(&self) -> bool {
            false
        }
    }
    let mut bench = Bench::new(Flooder, []).output([Takes(1), BLOCKED]);
    bench.waits();
    assert_eq!(bench.connection.outbound_len(), LIMIT - 1);
    bench.readable([Bytes(b"the peer has the same trouble")]);
    bench.waits();
    assert_eq!(bench.connection.received(), 29);
}

#[test]
fn nothing_more_is_read_from_a_peer_that_never_reads() {
    let mut bench = Bench::new(Echo, [Flood(1 << 20)]).output([BLOCKED]);
    bench.waits();
    let reads = bench.connection.wire.transport.reads;
    assert!(bench.connection.outbound_len() <= LIMIT);
    assert!(bench.connection.memory() <= LIMIT);
    bench.connection.note(Readiness { readable: true, ..Readiness::default() });
    assert_eq!(bench.waits().reads, reads, "backpressure is not reading");

    // When the peer reads again, everything follows, without another edge of readability.
    bench.writable();
    while !matches!(bench.service(), Outcome::Waiting) {}
    assert_eq!(bench.connection.wire.transport.sent.len(), 1 << 20);
}

#[test]
fn reading_resumes_below_the_high_water_mark_only() {
    let mut bench =
        Bench::new(Echo, [Flood(1 << 20)]).output([BLOCKED, Takes(100), BLOCKED, Takes(LIMIT / 2), BLOCKED]);
    bench.waits();
    assert_eq!(bench.connection.received(), LIMIT as u64);
    bench.writable();
    bench.waits();
    assert_eq!(bench.connection.received(), LIMIT as u64, "100 bytes of room are not worth a read");
    bench.writable();
    bench.connection.wire.transport.output.extend((0..9).map(|_| BLOCKED));
    bench.waits();
    assert_eq!(bench.connection.outbound_len(), LIMIT, "filled up in one read");
}

#[test]
fn scarce_memory_makes_reads_smaller() {
    let mut bench = Bench::new(Echo, [Flood(1 << 20)]).output([BLOCKED]);
    bench.room_now = 100;
    bench.waits();
    assert_eq!(bench.connection.memory(), 100);
}

#[test]
fn a_message_that_only_scarce_memory_cuts_short_ends_as_out_of_memory() {
    let mut bench = Bench::new(Lengths, [Flood(200)]);
    bench.room_now = 100;
    assert!(matches!(bench.ends(), End::OutOfMemory));
}

#[test]
fn stop_answering_shuts_down_even_if_the_peer_never_pauses() {
    let mut bench = Bench::new(Echo, [Flood(9 * SERVICE_BUDGET)]);
    bench.connection.drain();
    assert!(matches!(bench.service(), Outcome::Runnable));
    let answered = bench.connection.wire.transport.sent.len();
    bench.connection.stop_answering(bench.now);
    while matches!(bench.service(), Outcome::Runnable) {}
    assert_eq!(bench.connection.wire.transport.sent.len(), answered);
    assert!(bench.connection.wire.transport.fin_sent);
}

#[test]
fn stop_answering_during_a_connect_shuts_down_once_the_connect_succeeds() {
    let connects = [Ok(false), Ok(true)].into_iter().collect();
    let mut bench = Bench::new(Talker, []);
    let addr = "127.0.0.1:1".parse().unwrap();
    bench.connection = Connection::connecting(Script { connects, ..Script::default() }, addr, Talker, Moment::START);
    bench.writable();
    bench.waits();
    bench.connection.stop_answering(bench.now);
    bench.writable();
    let script = bench.waits();
    assert!(script.fin_sent);
    assert_eq!(script.sent, b"", "it produces nothing any more");
    bench.readable([Fin]);
    bench.finishes();
}

#[test]
fn a_peer_that_never_pauses_is_served_one_budget_at_a_time() {
    let mut bench = Bench::new(Echo, [Flood(2 * SERVICE_BUDGET)]);
    assert!(matches!(bench.service(), Outcome::Runnable));
    let received = bench.connection.received();
    assert!((SERVICE_BUDGET as u64..=(SERVICE_BUDGET + LIMIT) as u64).contains(&received), "{received}");
}

#[test]
fn a_connect_waits_until_it_succeeds_or_fails() {
    let script = Script {
        connects: [Ok(false), Ok(true)].into_iter().collect(),
        input: [Bytes(b"ping")].into_iter().collect(),
        ..Script::default()
    };
    let mut bench = Bench::new(Echo, []);
    bench.connection = Connection::connecting(script, "127.0.0.1:1".parse().unwrap(), Echo, Moment::START);
    bench.waits();
    assert_eq!(bench.connection.wire.transport.connects.len(), 2, "not writable: SO_ERROR is not looked at yet");
    bench.writable();
    bench.waits();
    assert_eq!(bench.connection.state(), State::Connecting);
    bench.connection.note(Readiness::ALL);
    bench.waits();
    assert_eq!(bench.connection.wire.transport.sent, b"ping");

    bench.connection.writing = Writing::Connecting;
    bench.connection.wire.transport.connects.push_back(Err(ErrorKind::ConnectionRefused.into()));
    assert!(matches!(bench.ends(), End::ConnectFailed(error) if error.kind() == ErrorKind::ConnectionRefused));
}

#[test]
fn draining_answers_what_has_arrived_then_shuts_down_and_reads_to_the_end() {
    let mut bench = Bench::new(Echo, [Bytes(b"in time")]);
    bench.connection.wire.ready = Readiness { writable: true, ..Readiness::default() };
    bench.connection.drain();
    let script = bench.waits();
    assert_eq!(script.sent, b"in time");
    assert!(script.fin_sent);
    assert_eq!(bench.connection.state(), State::Finishing);
    bench.readable([Bytes(b"too late"), Fin]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.finishes();
    assert_eq!(bench.connection.wire.transport.sent, b"in time");
}

#[test]
fn draining_shuts_down_behind_what_is_queued() {
    let mut bench = Bench::new(Echo, [Bytes(b"in time")]).output([Takes(2), BLOCKED]);
    bench.connection.drain();
    assert!(!bench.waits().fin_sent);
    bench.writable();
    assert!(bench.waits().fin_sent);
    assert_eq!(bench.connection.wire.transport.sent, b"in time");
}

fn at(seconds: u64) -> Moment {
    Moment::after_start(Duration::from_secs(seconds))
}

const TIMEOUTS: Timeouts = Timeouts {
    connect: Some(Duration::from_secs(1)),
    idle: Some(Duration::from_secs(100)),
    stall: Some(Duration::from_secs(10)),
    linger: Some(Duration::from_secs(5)),
};

#[test]
fn an_idle_connection_is_shut_down_and_kept_for_the_linger_timeout() {
    let mut bench = Bench::new(Echo, []);
    bench.waits();
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(100), Timeout::Idle)));
    bench.now = at(100);
    bench.connection.expire(Timeout::Idle, &TIMEOUTS, bench.now);
    assert!(bench.waits().fin_sent);
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(105), Timeout::Linger)));
    bench.now = at(103);
    bench.readable([Bytes(b"too late")]);
    bench.waits();
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(105), Timeout::Linger)), "for a bounded time");
    bench.connection.expire(Timeout::Linger, &TIMEOUTS, at(105));
    assert!(matches!(bench.ends(), End::TimedOut(Timeout::Idle)), "the reason is that it was idle");
}

#[test]
fn without_a_linger_timeout_an_idle_connection_ends_at_once() {
    let timeouts = Timeouts { linger: None, ..TIMEOUTS };
    let mut bench = Bench::new(Echo, []);
    bench.connection.expire(Timeout::Idle, &timeouts, at(100));
    assert!(matches!(bench.ends(), End::TimedOut(Timeout::Idle)));
}

#[test]
fn a_byte_that_moved_in_a_long_turn_moved_as_late_as_its_end() {
    let mut bench = Bench::new(Echo, []);
    bench.now = at(3);
    bench.readable([Bytes(b"ping")]);
    bench.waits();
    bench.connection.redate(at(2), at(9));
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(103), Timeout::Idle)), "it did not move in that turn");
    bench.connection.redate(at(3), at(9));
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(109), Timeout::Idle)));
}

#[test]
fn the_stall_timeout_begins_with_the_wait_and_again_with_each_byte_taken() {
    let mut bench = Bench::new(Echo, []).output([BLOCKED, Takes(1), BLOCKED]);
    bench.waits();
    bench.now = at(50);
    bench.readable([Bytes(b"ping")]);
    bench.waits();
    assert_eq!(bench.ends_unless_moved(TIMEOUTS), Some((at(60), Timeout::Stall)));
    bench.now = at(55);
    bench.writable();
    bench.waits();
    assert_eq!(bench.ends_unless_moved(TIMEOUTS), Some((at(65), Timeout::Stall)));
    bench.now = at(60);
    bench.readable([Bytes(b"more")]);
    bench.waits();
    assert_eq!(bench.ends_unless_moved(TIMEOUTS), Some((at(65), Timeout::Stall)), "it still takes nothing");
    assert!(bench.connection.expire(Timeout::Stall, &TIMEOUTS, at(65)));
    assert!(matches!(bench.ends(), End::TimedOut(Timeout::Stall)));
}

#[test]
fn what_the_socket_takes_at_once_is_no_sign_of_life_of_a_peer_that_owes_an_answer() {
    struct Impatient;
    impl Protocol for Impatient {
        fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
            input.len()
        }
        fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
            space[0] = b'?';
            Produced::Bytes(1)
        }
        fn expects(&self) -> Expects {
            Expects::AnswerSince(at(7))
        }
    }
    let mut bench = Bench::new(Impatient, []).output([Takes(1), BLOCKED, Takes(1), BLOCKED, Takes(1), BLOCKED]);
    let idle = |bench: &mut Bench<Impatient>| bench.ends_unless_moved(Timeouts { stall: None, ..TIMEOUTS });
    bench.now = at(5);
    bench.waits();
    assert_eq!(idle(&mut bench), Some((at(107), Timeout::Idle)), "since the answer is owed");
    bench.now = at(50);
    bench.writable();
    bench.waits();
    assert_eq!(idle(&mut bench), Some((at(150), Timeout::Idle)), "the socket was full, and the peer made room");
    bench.connection.outbound = SendBuffer::new();
    bench.now = at(60);
    bench.connection.wire.transport.output = [Takes(1)].into_iter().collect();
    bench.writable();
    let taken = bench.connection.sent();
    bench.service();
    assert!(bench.connection.sent() > taken);
    assert_eq!(idle(&mut bench), Some((at(150), Timeout::Idle)), "the peer may not have got this byte");
    bench.now = at(70);
    bench.readable([Bytes(b"!")]);
    bench.service();
    assert_eq!(idle(&mut bench), Some((at(170), Timeout::Idle)));
}

#[test]
fn a_connect_has_its_own_time() {
    let connection = Connection::connecting(Script::default(), "127.0.0.1:1".parse().unwrap(), Echo, at(3));
    assert_eq!(connection.deadline(&TIMEOUTS), Some((at(4), Timeout::Connect)));
    assert_eq!(connection.deadline(&Timeouts::default()), None);
}

#[test]
fn bytes_from_outside_are_queued_in_order_as_far_as_they_fit() {
    let mut bench = Bench::new(Echo, []).output([BLOCKED]);
    assert_eq!(bench.connection.send(b"news", LIMIT, at(0)), Ok(4));
    bench.waits();
    assert_eq!(bench.connection.send(b"!", LIMIT, at(0)), Ok(1));
    bench.writable();
    assert_eq!(bench.waits().sent, b"news!");
    assert!(!bench.has_room, "nobody waited for room");
    bench.connection.close();
    assert_eq!(bench.connection.send(b"late", LIMIT, at(0)), Err(SendError::Finishing));
    assert!(matches!(bench.ends(), End::Closed));
}

/// Answers each line with its length; shuts down on an empty line.
struct Lengths;

impl Protocol for Lengths {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let mut consumed = 0;
        for line in input.split_inclusive(|&byte| byte == b'\n') {
            if !line.ends_with(b"\n") || out.room() < 8 {
                break;
            }
            if line == b"\n" {
                out.shut_down();
            }
            out.copy(format!("{}\n", line.len() - 1).as_bytes());
            consumed += line.len();
        }
        consumed
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        if !rest.is_empty() {
            out.copy(b"unfinished: ");
            out.send(rest);
        }
        out.shut_down();
    }
}

#[test]
fn an_unfinished_line_waits_inbound_and_is_shown_again() {
    let mut bench = Bench::new(Lengths, [Bytes(b"on")]);
    assert_eq!(bench.waits().sent, b"");
    assert_eq!(bench.connection.inbound_len(), 2);
    bench.readable([Bytes(b"e\ntwo"), Fin]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.finishes();
    assert_eq!(bench.connection.wire.transport.sent, b"3\nunfinished: two");
}

#[test]
fn a_long_line_that_was_consumed_gives_its_memory_back() {
    let mut bench = Bench::new(Lengths, [Flood(LIMIT / 2)]);
    bench.waits();
    assert_eq!(bench.connection.memory(), LIMIT / 2);
    bench.readable([Bytes(b"\nz")]);
    bench.waits();
    assert_eq!((bench.connection.inbound_len(), bench.connection.memory()), (1, 1));
}

#[test]
fn a_woken_protocol_is_shown_again_what_it_left() {
    struct Shy(bool);
    impl Protocol for Shy {
        fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
            if self.0 {
                out.send(input);
            }
            if self.0 { input.len() } else { 0 }
        }
    }
    let mut bench = Bench::new(Shy(false), [Bytes(b"hello")]);
    assert_eq!(bench.waits().sent, b"");
    bench.connection.protocol_mut().0 = true;
    assert_eq!(bench.waits().sent, b"", "nothing has happened");
    bench.connection.wake();
    assert_eq!(bench.waits().sent, b"hello");
}

#[test]
fn a_line_longer_than_the_buffer_ends_the_connection() {
    let mut bench = Bench::new(Lengths, [Flood(LIMIT + 1)]);
    assert!(matches!(bench.ends(), End::MessageTooLong));
    assert!(bench.connection.memory() <= LIMIT);
}

#[test]
fn answers_longer_than_their_input_wait_for_room() {
    const LINES: &[u8] = &[b'\n'; LIMIT];
    struct Long;
    impl Protocol for Long {
        fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
            let fit = input.len().min(out.room() / 10);
            out.copy(&b"0123456789".repeat(fit));
            fit
        }
    }
    let mut bench = Bench::new(Long, [Bytes(LINES)]);
    assert_eq!(bench.waits().sent.len(), 10 * LIMIT, "a peer that reads gets it all at once");

    let mut bench = Bench::new(Long, [Bytes(LINES), Fin]).output([BLOCKED]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.waits();
    assert!(bench.connection.outbound_len() <= LIMIT);
    bench.writable();
    bench.finishes();
    assert_eq!(bench.connection.wire.transport.sent.len(), 10 * LIMIT);
}

#[test]
fn a_protocol_that_ignores_the_room_ends_its_connection() {
    struct Loud;
    impl Protocol for Loud {
        fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
            out.copy(&[b'!'; LIMIT + 1]);
            input.len()
        }
    }
    let mut bench = Bench::new(Loud, [Bytes(b"?")]);
    assert_eq!(bench.waits().sent.len(), LIMIT + 1, "a peer that reads gets it all");
    let mut bench = Bench::new(Loud, [Bytes(b"?")]).output([BLOCKED]);
    assert!(matches!(bench.ends(), End::Overflow));
}

#[test]
fn a_protocol_that_shuts_down_first_still_receives() {
    let mut bench = Bench::new(Lengths, [Bytes(b"one\n\n")]);
    let script = bench.waits();
    assert_eq!(script.sent, b"3\n0\n");
    assert!(script.fin_sent);
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(5), Timeout::Linger)));
    bench.now = at(4);
    bench.readable([Bytes(b"still talking\n")]);
    bench.waits();
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(9), Timeout::Linger)), "a peer that sends is there");
    bench.readable([Fin]);
    bench.finishes();
}

#[test]
fn produce_is_called_whenever_the_queue_is_empty() {
    struct Countdown(u8);
    impl Protocol for Countdown {
        fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
            input.len()
        }
        fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
            if self.0 == 0 {
                return Produced::Finished;
            }
            self.0 -= 1;
            space[..2].copy_from_slice(&[b'0' + self.0, b' ']);
            Produced::Bytes(2)
        }
    }
    let mut bench = Bench::new(Countdown(4), []).output([Takes(2), Takes(1), BLOCKED]);
    assert_eq!(bench.waits().sent, b"3 2");
    bench.writable();
    let script = bench.waits();
    assert_eq!(script.sent, b"3 2 1 0 ");
    assert!(script.fin_sent, "`Produced::Finished` shuts down");
}

/// Consumes `takes` bytes of what it is shown next, shuts down or notifies if its flags say so, and counts the calls.
#[derive(Default)]
struct Keeper {
    shown: usize,
    takes: usize,
    shuts_down: bool,
    notifies: bool,
    rest: Option<Vec<u8>>,
}

impl Protocol for Keeper {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        self.shown += 1;
        if mem::take(&mut self.notifies) {
            out.notify();
        }
        if self.shuts_down {
            out.shut_down();
        }
        mem::take(&mut self.takes).min(input.len())
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        self.rest = Some(rest.to_vec());
        out.shut_down();
    }
}

#[test]
fn unconsumed_input_is_shown_again_only_after_a_flush_or_a_wake() {
    let mut bench = Bench::new(Keeper::default(), [Bytes(b"abcd")]);
    bench.waits();
    assert_eq!(bench.connection.protocol().shown, 1);
    bench.writable();
    bench.waits();
    assert_eq!(bench.connection.protocol().shown, 1, "nothing was waiting to be sent");
    bench.connection.protocol_mut().takes = 4;
    bench.connection.wake();
    bench.waits();
    assert_eq!((bench.connection.protocol().shown, bench.connection.memory()), (2, 0));
    bench.connection.wake();
    bench.waits();
    assert_eq!(bench.connection.protocol().shown, 2, "there is nothing to show");
}

/// Answers what it heard only when it is given the word, long after the end of input if need be; holds what it cannot take.
#[derive(Default)]
struct Later {
    heard: Vec<u8>,
    takes_input: bool,
    answers: bool,
    ends: usize,
}

impl Protocol for Later {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        if !self.takes_input {
            out.hold();
            return 0;
        }
        self.heard.extend(input);
        input.len()
    }

    fn end_of_input<'a>(&mut self, _rest: &'a [u8], _out: &mut Outbox<'a>) {
        self.ends += 1;
    }

    fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
        if !self.answers {
            return Produced::Nothing;
        }
        if self.heard.is_empty() {
            return if self.ends > 0 { Produced::Finished } else { Produced::Nothing };
        }
        let count = self.heard.len();
        space[..count].copy_from_slice(&self.heard);
        self.heard.clear();
        Produced::Bytes(count)
    }
}

#[test]
fn an_answer_may_come_long_after_the_end_of_input() {
    let mut bench = Bench::new(Later { takes_input: true, ..Later::default() }, [Bytes(b"question"), Fin]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    let script = bench.waits();
    assert_eq!((script.sent.len(), script.fin_sent), (0, false), "our direction is open still");
    assert_eq!(bench.connection.protocol().ends, 1);
    assert_eq!(bench.connection.state(), State::PeerFinished);
    bench.now = at(50);
    bench.connection.protocol_mut().answers = true;
    bench.connection.wake();
    bench.finishes();
    assert_eq!(bench.connection.transport().sent, b"question");
}

#[test]
fn a_half_open_connection_goes_on_sending_when_the_socket_has_room_again() {
    let mut bench = Bench::new(Later { takes_input: true, ..Later::default() }, [Bytes(b"question"), Fin])
        .output([Takes(3), BLOCKED]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.connection.protocol_mut().answers = true;
    bench.waits();
    // The poller reports the end of input with everything that it reports from now on.
    bench.connection.note(Readiness { urgent: false, ..Readiness::ALL });
    bench.finishes();
    assert_eq!(bench.connection.transport().sent, b"question");
}

#[test]
fn a_half_open_connection_ends_when_the_role_shuts_it_down_and_when_the_loop_drains() {
    let ends: [fn(&mut Connection<Script, Later>); 3] =
        [Connection::shut_down, Connection::drain, |connection| connection.stop_answering(Moment::START)];
    for end in ends {
        let mut bench = Bench::new(Later { takes_input: true, ..Later::default() }, [Fin]);
        bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
        bench.waits();
        end(&mut bench.connection);
        bench.finishes();
    }
    // Draining had begun before the end of input came.
    let mut bench = Bench::new(Later { takes_input: true, ..Later::default() }, [Fin]);
    bench.connection.drain();
    bench.finishes();
}

#[test]
fn a_half_open_connection_is_ended_when_it_is_idle() {
    let mut bench = Bench::new(Later { takes_input: true, ..Later::default() }, [Fin]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.waits();
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(100), Timeout::Idle)));
    assert!(bench.connection.expire(Timeout::Idle, &TIMEOUTS, at(100)));
    assert!(matches!(bench.ends(), End::TimedOut(Timeout::Idle)));
}

#[test]
fn a_reset_is_noticed_though_nothing_is_read_any_more() {
    let mut bench = Bench::new(Later { takes_input: true, ..Later::default() }, [Fin]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.waits();
    bench.connection.note(Readiness::ALL);
    bench.waits();
    bench.connection.wire.transport.error = Some(ErrorKind::ConnectionReset.into());
    bench.connection.note(Readiness::ALL);
    assert!(matches!(bench.ends(), End::Failed(error) if error.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn not_now_is_not_too_long() {
    let mut bench = Bench::new(Later::default(), [Flood(3 * LIMIT)]);
    let reads = bench.waits().reads;
    assert_eq!(bench.connection.inbound_len(), LIMIT, "what was read is kept");
    assert_eq!(bench.connection.state(), State::Held);
    bench.readable([]);
    bench.writable();
    assert_eq!(bench.waits().reads, reads, "and nothing more is read");
    assert_eq!(bench.connection.deadline(&TIMEOUTS), None, "the silence is ours");
    bench.connection.protocol_mut().takes_input = true;
    bench.connection.wake();
    bench.waits();
    assert_eq!(bench.connection.protocol().heard.len(), 3 * LIMIT, "woken, it reads on without another edge");
}

#[test]
fn held_input_leaves_room_to_send() {
    let mut bench = Bench::new(Later::default(), [Flood(3 * LIMIT)]).output([BLOCKED]);
    bench.waits();
    assert_eq!(bench.connection.inbound_len(), LIMIT);
    assert_eq!(bench.connection.send(&[b'!'; LIMIT + 1], LIMIT, at(0)), Ok(LIMIT), "as much as the other direction");
}

#[test]
fn a_reset_is_noticed_while_input_is_held() {
    let mut bench = Bench::new(Later::default(), [Bytes(b"held")]);
    bench.waits();
    bench.connection.wire.transport.error = Some(ErrorKind::ConnectionReset.into());
    bench.connection.note(Readiness::ALL);
    assert!(matches!(bench.ends(), End::Failed(error) if error.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn a_held_connection_can_be_drained() {
    let mut bench = Bench::new(Later::default(), [Bytes(b"held"), Fin]);
    bench.waits();
    bench.connection.drain();
    bench.waits();
    bench.connection.stop_answering(bench.now);
    bench.finishes();
}

#[test]
fn unconsumed_input_gives_memory_back_when_less_than_half_is_needed() {
    let take = |count: usize| {
        let mut bench = Bench::new(Keeper::default(), [Flood(100)]);
        bench.waits();
        assert_eq!(bench.connection.memory(), 100);
        bench.connection.protocol_mut().takes = count;
        bench.connection.wake();
        bench.waits();
        (bench.connection.inbound_len(), bench.connection.memory())
    };
    assert_eq!(take(30), (70, 100));
    assert_eq!(take(50), (50, 100));
    assert_eq!(take(51), (49, 49));
}

#[test]
fn unconsumed_input_takes_no_more_memory_than_the_limit() {
    let mut bench = Bench::new(Keeper::default(), [Flood(3000)]);
    bench.waits();
    assert_eq!(bench.connection.memory(), 3000, "as much as there is");
    bench.readable([Bytes(b"and ten more")]);
    bench.waits();
    assert_eq!(bench.connection.memory(), LIMIT, "twice that would be more than it may");
    bench.readable([Flood(LIMIT - 3013)]);
    bench.waits();
    assert_eq!((bench.connection.inbound_len(), bench.connection.memory()), (LIMIT - 1, LIMIT));
}

#[test]
fn unconsumed_input_takes_no_room_from_send() {
    let mut bench = Bench::new(Keeper::default(), [Bytes(b"abcd")]).output([BLOCKED]);
    bench.waits();
    assert_eq!(bench.connection.send(&[0; LIMIT + 1], LIMIT, at(0)), Ok(LIMIT), "each direction has its own");
}

#[test]
fn a_notification_is_reported_once_by_the_service_in_which_it_came() {
    // The protocol is called twice in one service and notifies only the first time.
    let mut bench = Bench::new(Keeper { notifies: true, takes: 1, ..Keeper::default() }, [Bytes(b"ab")]);
    bench.waits();
    assert_eq!(bench.connection.protocol().shown, 2);
    assert!(bench.notified, "the second call did not clear it");
    bench.readable([Bytes(b"b")]);
    bench.waits();
    assert!(!bench.notified);
}

#[test]
fn the_state_names_what_the_connection_is_doing() {
    let mut bench = Bench::new(Echo, [Bytes(b"abc"), Fin]).output([BLOCKED]);
    bench.connection.wire.ready.writable = false;
    assert_eq!(bench.connection.state(), State::Established, "a full socket alone stalls nothing");
    bench.writable();
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.waits();
    assert_eq!(bench.connection.state(), State::Stalled);
    bench.writable();
    assert_eq!(bench.connection.state(), State::PeerFinished);
    bench.finishes();
    let mut bench = Bench::new(Keeper { shuts_down: true, ..Keeper::default() }, [Bytes(b"a")]);
    bench.waits();
    assert_eq!(bench.connection.state(), State::Finishing);
}

#[test]
fn a_protocol_whose_input_is_thrown_away_is_not_called_at_the_end_of_input() {
    let mut bench = Bench::new(Keeper::default(), [Bytes(b"a"), Fin]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.connection.stop_answering(bench.now);
    bench.finishes();
    assert_eq!((bench.connection.protocol().shown, &bench.connection.protocol().rest), (0, &None));
}

#[test]
fn one_service_moves_one_budget_and_no_more() {
    let mut bench = Bench::new(Echo, [Flood(2 * SERVICE_BUDGET)]);
    assert!(matches!(bench.service(), Outcome::Runnable));
    assert_eq!(bench.connection.received(), SERVICE_BUDGET as u64);
}

#[test]
fn reading_goes_on_up_to_the_high_water_mark() {
    let mut bench = Bench::new(Echo, [Flood(LIMIT / 2)]).output([BLOCKED]);
    bench.waits();
    bench.readable([Bytes(b"!")]);
    bench.waits();
    assert_eq!(bench.connection.outbound_len(), LIMIT / 2 + 1);
    bench.readable([Bytes(b"!")]);
    bench.waits();
    assert_eq!(bench.connection.outbound_len(), LIMIT / 2 + 1);
}

#[test]
fn nothing_is_produced_while_the_socket_is_full() {
    let mut bench = Bench::new(Talker, []);
    bench.connection.wire.ready.writable = false;
    bench.waits();
    assert_eq!(bench.connection.outbound_len(), 0);
}

#[test]
fn a_socket_that_takes_nothing_is_no_sign_of_life() {
    let mut bench = Bench::new(Echo, [Bytes(b"abc")]).output([BLOCKED, BLOCKED, Takes(1), BLOCKED]);
    let stall = |bench: &Bench<Echo>| bench.connection.deadline(&Timeouts { idle: None, ..TIMEOUTS });
    bench.now = at(5);
    bench.waits();
    let deadline = stall(&bench);
    bench.now = at(6);
    bench.writable();
    bench.waits();
    assert_eq!(stall(&bench), deadline);
    bench.now = at(7);
    bench.writable();
    bench.waits();
    assert_ne!(stall(&bench), deadline);
}

#[test]
fn what_a_full_socket_takes_is_a_sign_of_life_of_a_peer_that_owes_an_answer() {
    struct Owed;
    impl Protocol for Owed {
        fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
            input.len()
        }
        fn expects(&self) -> Expects {
            Expects::AnswerSince(at(1))
        }
    }
    let mut bench = Bench::new(Owed, []).output([BLOCKED, Takes(1), BLOCKED, BLOCKED]);
    let idle = |bench: &mut Bench<Owed>| bench.ends_unless_moved(Timeouts { stall: None, ..TIMEOUTS });
    assert_eq!(bench.connection.send(b"abc", LIMIT, at(2)), Ok(3));
    for (now, deadline) in [(3, 102), (50, 150), (60, 150)] {
        bench.now = at(now);
        bench.writable();
        bench.waits();
        assert_eq!(idle(&mut bench), Some((at(deadline), Timeout::Idle)), "at {now}");
    }
}

#[test]
fn the_linger_timeout_counts_from_its_beginning_whatever_is_sent() {
    let mut bench = Bench::new(Echo, [Bytes(b"abc")]).output([BLOCKED, Takes(1), BLOCKED]);
    bench.waits();
    bench.connection.expire(Timeout::Idle, &TIMEOUTS, at(3));
    let deadline = bench.connection.deadline(&TIMEOUTS);
    bench.now = at(4);
    bench.writable();
    bench.waits();
    assert_eq!(bench.connection.sent(), 1);
    assert_eq!(bench.connection.deadline(&TIMEOUTS), deadline);
}

/// What the kernel holds, and how many seconds ago the last acknowledgement came.
fn held(bytes: u32, ago: u64) -> Unacknowledged {
    Unacknowledged { bytes, last_acknowledgement: Duration::from_secs(ago) }
}

/// An echo of which the socket took `taken` bytes at 0 s, and more waits.
fn blocked(taken: usize) -> Bench<Echo> {
    let mut bench = Bench::new(Echo, [Flood(LIMIT)]).output([Takes(taken), BLOCKED]);
    bench.waits();
    bench
}

#[test]
fn a_slow_but_steady_reader_is_not_called_stalled() {
    let mut bench = blocked(1000);
    // The socket never reports room, but the kernel's queue shrinks, now and then.
    for (now, bytes, ago) in [(3, 900, 1), (6, 900, 4), (9, 800, 2), (12, 800, 1), (15, 700, 0)] {
        bench.connection.wire.transport.unacknowledged = Some(held(bytes, ago));
        assert!(!bench.connection.expire(Timeout::Stall, &TIMEOUTS, at(now)), "at {now} s");
    }
    assert_eq!(bench.connection.deadline(&TIMEOUTS).unwrap().1, Timeout::Stall);
    assert!(bench.connection.deadline(&TIMEOUTS).unwrap().0 > at(15));
}

#[test]
fn an_answer_to_a_window_probe_is_no_progress() {
    let mut bench = blocked(1000);
    let mut looks = Vec::new();
    let ended = loop {
        let (when, timeout) = bench.connection.deadline(&TIMEOUTS).unwrap();
        looks.push(when.since(Moment::START).as_secs_f64());
        // Acknowledgements come all the time, and acknowledge nothing.
        bench.connection.wire.transport.unacknowledged = Some(held(900, 0));
        if bench.connection.expire(timeout, &TIMEOUTS, when) {
            break when;
        }
    };
    assert!(matches!(bench.ends(), End::TimedOut(Timeout::Stall)));
    // The first look, after a quarter of the 10 s, finds the 100 bytes that were acknowledged some time before it.
    assert_eq!(looks, [2.5, 5.0, 7.5, 10.0, 12.5]);
    assert_eq!(ended, Moment::after_start(Duration::from_millis(12_500)));
}

#[test]
fn a_peer_that_acknowledges_nothing_ends_when_the_stall_timeout_is_over() {
    let mut bench = blocked(1000);
    for now in [3, 5, 8] {
        bench.connection.wire.transport.unacknowledged = Some(held(1000, now));
        assert!(!bench.connection.expire(Timeout::Stall, &TIMEOUTS, at(now)));
    }
    bench.connection.wire.transport.unacknowledged = Some(held(1000, 10));
    assert!(bench.connection.expire(Timeout::Stall, &TIMEOUTS, at(10)));
}

#[test]
fn on_a_system_that_cannot_tell_only_what_the_socket_takes_is_progress() {
    let mut bench = blocked(1000);
    for now in [3, 5, 8] {
        assert!(!bench.connection.expire(Timeout::Stall, &TIMEOUTS, at(now)));
    }
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(10), Timeout::Stall)));
    assert!(bench.connection.expire(Timeout::Stall, &TIMEOUTS, at(10)));
}

#[test]
fn a_peer_that_takes_what_the_kernel_holds_is_not_called_idle() {
    let mut bench = Bench::new(Echo, [Flood(LIMIT)]);
    bench.waits();
    assert_eq!(bench.connection.outbound_len(), 0, "the kernel took everything");
    bench.connection.wire.transport.unacknowledged = Some(held(1000, 1));
    assert!(!bench.connection.expire(Timeout::Idle, &TIMEOUTS, at(100)));
    // From now on the stall timeout judges.
    let look = Moment::after_start(Duration::from_millis(99_000 + 2_500));
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((look, Timeout::Stall)));
    bench.connection.wire.transport.unacknowledged = Some(held(0, 1));
    assert!(!bench.connection.expire(Timeout::Stall, &TIMEOUTS, at(102)));
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(101 + 100), Timeout::Idle)), "it took the last bytes");
    assert!(bench.connection.expire(Timeout::Idle, &TIMEOUTS, at(201)));
}

#[test]
fn a_peer_has_the_whole_stall_timeout_for_bytes_that_an_idle_timeout_found_in_the_kernel() {
    let timeouts = Timeouts { idle: Some(Duration::from_secs(5)), stall: Some(Duration::from_secs(60)), ..TIMEOUTS };
    // Acknowledged before: nothing, or an answer of long ago.
    for (earlier, ago) in [(None, 200), (Some(Bytes(b"long ago")), 50)] {
        let mut bench = Bench::new(Echo, earlier);
        bench.waits();
        bench.now = at(199);
        bench.readable([Bytes(b"ping")]);
        bench.waits();
        assert_eq!(bench.connection.deadline(&timeouts), Some((at(204), Timeout::Idle)));
        bench.connection.wire.transport.unacknowledged = Some(held(4, ago));
        assert!(!bench.connection.expire(Timeout::Idle, &timeouts, at(204)));
        let ended = loop {
            let (when, timeout) = bench.connection.deadline(&timeouts).unwrap();
            if bench.connection.expire(timeout, &timeouts, when) {
                break when;
            }
        };
        assert_eq!(ended, at(199 + 60), "the last acknowledgement is {ago} s old");
    }
}

#[test]
fn without_a_stall_timeout_a_peer_is_kept_while_bytes_wait_for_it() {
    let timeouts = Timeouts { stall: None, ..TIMEOUTS };
    let mut bench = Bench::new(Echo, [Flood(LIMIT)]);
    bench.waits();
    bench.connection.wire.transport.unacknowledged = Some(held(4096, 100)); // All of it.
    assert!(!bench.connection.expire(Timeout::Idle, &timeouts, at(100)));
    assert_eq!(bench.connection.deadline(&timeouts), Some((at(200), Timeout::Idle)));
}

#[test]
fn a_peer_that_only_sends_is_not_kept_by_old_acknowledgements() {
    let mut bench = Bench::new(Keeper { takes: 1, ..Keeper::default() }, [Bytes(b"a")]);
    bench.waits();
    bench.connection.wire.transport.unacknowledged = Some(held(0, 0));
    assert!(bench.connection.expire(Timeout::Idle, &TIMEOUTS, at(100)), "nothing was ever sent to it");
}

#[test]
fn an_idle_connection_that_has_shut_down_already_is_closed() {
    let mut bench = Bench::new(Keeper { shuts_down: true, ..Keeper::default() }, [Bytes(b"a")]);
    bench.waits();
    bench.connection.expire(Timeout::Idle, &TIMEOUTS, at(3));
    assert!(matches!(bench.ends(), End::TimedOut(Timeout::Idle)));
}

#[test]
fn each_end_has_its_words() {
    let reset = || io::Error::from(ErrorKind::ConnectionReset);
    let timed_out = |timeout| End::TimedOut(timeout).to_string();
    assert_eq!(End::Finished.to_string(), "finished");
    assert_eq!(End::ConnectFailed(reset()).to_string(), "connect failed: connection reset");
    assert_eq!(End::Failed(reset()).to_string(), "connection reset");
    assert_eq!(timed_out(Timeout::Idle), "idle for too long");
    assert_eq!(timed_out(Timeout::Stall), "the peer reads nothing");
    assert_eq!(SendError::Finishing.to_string(), "the connection is finishing");
    assert_eq!(format!("{:>12}", State::Stalled), "     stalled");
}

/// Sends part of its input, twice, and aborts.
struct Quitter;

impl Protocol for Quitter {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        out.copy(input);
        out.send(input);
        out.abort();
        input.len()
    }
}

#[test]
fn an_end_that_loses_bytes_is_a_reset() {
    let mut bench = Bench::new(Echo, [Bytes(b"abc")]).output([BLOCKED]);
    bench.waits();
    bench.connection.close();
    bench.ends();
    assert!(bench.connection.wire.transport.reset, "three bytes were waiting");

    let mut bench = Bench::new(Quitter, [Bytes(b"abc")]);
    assert!(matches!(bench.ends(), End::Aborted));
    assert!(bench.connection.wire.transport.reset, "what was sent in the call is lost");

    let mut bench = Bench::new(Echo, [Bytes(b"abc")]);
    bench.waits();
    bench.connection.close();
    bench.ends();
    assert!(!bench.connection.wire.transport.reset, "everything was sent");
}

#[test]
fn a_connection_that_the_loop_leaves_behind_is_reset_if_bytes_wait() {
    let mut bench = Bench::new(Echo, [Bytes(b"abc")]);
    bench.waits();
    bench.connection.abandon();
    assert!(!bench.connection.wire.transport.reset);
    let mut bench = Bench::new(Echo, [Bytes(b"abc")]).output([BLOCKED]);
    bench.waits();
    bench.connection.abandon();
    assert!(bench.connection.wire.transport.reset);
}

/// Answers with what it hears, and finishes.
struct Finisher;

impl Protocol for Finisher {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        out.send(input);
        out.finish();
        input.len()
    }
}

#[test]
fn the_linger_timeout_of_a_connection_that_finishes_counts_from_then() {
    let mut bench = Bench::new(Finisher, []);
    bench.now = at(50);
    bench.readable([Bytes(b"bye")]);
    assert!(bench.waits().fin_sent);
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(55), Timeout::Linger)));
}

/// Answers a `b` with more than the buffer holds, and leaves what has a `k` in it.
struct Moody;

impl Protocol for Moody {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        if input.contains(&b'b') {
            out.copy(&[0; 2 * LIMIT]);
        }
        if input.contains(&b'k') { 0 } else { input.len() }
    }
}

#[test]
fn a_connection_whose_partner_ended_in_order_waits_the_whole_linger_timeout() {
    let mut bench = Bench::new(Moody, []);
    bench.connection.join();
    bench.waits();
    bench.now = at(100);
    bench.connection.lose_partner(true, bench.now);
    bench.waits();
    assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(105), Timeout::Linger)));
}

#[test]
fn a_partner_that_overflows_is_reset() {
    let mut bench = Bench::new(Moody, [Bytes(b"b")]);
    let mut partner = Bench::new(Moody, []).output([Takes(5), BLOCKED]);
    bench.connection.join();
    partner.connection.join();
    let (outcome, end) = bench.service_with(Some(&mut partner.connection));
    assert!(matches!(end, Some(End::Overflow)), "{end:?}");
    assert!(matches!(outcome, Outcome::Ended(End::PartnerFailed)));
    assert!(partner.connection.wire.transport.reset && bench.connection.wire.transport.reset);
}

#[test]
fn a_pair_is_not_idle_while_one_of_the_two_waits_for_us_or_its_kernel_still_delivers() {
    let mut bench = Bench::new(Moody, []);
    let mut partner = Bench::new(Moody, []);
    bench.connection.shares_activity(&mut partner.connection, &TIMEOUTS, at(100));
    assert_eq!(bench.connection.last_active(), at(0));
    partner.connection.pause();
    bench.connection.shares_activity(&mut partner.connection, &TIMEOUTS, at(100));
    assert_eq!(bench.connection.last_active(), at(100), "the silence is ours");
    partner.connection.resume();
    let found = Unacknowledged { bytes: 1, last_acknowledgement: Duration::ZERO };
    partner.connection.wire.transport.unacknowledged = Some(found);
    bench.connection.shares_activity(&mut partner.connection, &TIMEOUTS, at(200));
    assert_eq!(bench.connection.last_active(), at(200), "the peer may be slow");
}

#[test]
fn an_idle_pair_is_reset_and_not_shut_down() {
    let mut bench = Bench::new(Moody, []);
    bench.connection.join();
    bench.waits();
    assert!(bench.connection.expire(Timeout::Idle, &TIMEOUTS, at(100)));
    assert!(matches!(bench.ends(), End::TimedOut(Timeout::Idle)));
    let script = &bench.connection.wire.transport;
    assert!(script.reset && !script.fin_sent, "nobody knows whether the partner's bytes were complete");
}

#[test]
fn there_is_room_again_only_where_send_takes_bytes() {
    static KEPT: [u8; 4000] = [b'k'; 4000];
    let mut bench = Bench::new(Moody, [Bytes(&KEPT)]);
    bench.waits();
    bench.room_now = 4000; // Memory is scarce: no more than what is held already.
    for _ in 0..5 {
        let sent = bench.connection.send(b"hello", bench.room_now, bench.now).unwrap();
        bench.waits();
        assert!(sent > 0 || !bench.has_room, "the role would be called in every turn, and send nothing");
    }
}

/// Holds its input while `takes` is false. Remembers the rest that comes with the end of input.
#[derive(Default)]
struct Miser {
    takes: bool,
    heard: Vec<u8>,
    rest: Option<Vec<u8>>,
}

impl Protocol for Miser {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        if !self.takes {
            out.hold();
            return 0;
        }
        self.heard.extend(input);
        input.len()
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        self.rest = Some(rest.to_vec());
        out.shut_down();
    }
}

#[test]
fn input_that_is_held_when_the_end_has_come_already_is_shown_again_before_the_end() {
    let mut bench = Bench::new(Miser::default(), [Bytes(b"question"), Fin]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.waits();
    bench.connection.wake();
    bench.waits();
    assert_eq!(bench.connection.protocol().rest, None, "it still holds");
    bench.connection.protocol_mut().takes = true;
    bench.connection.wake();
    bench.finishes();
    let Miser { heard, rest, .. } = bench.connection.protocol();
    assert_eq!((&heard[..], rest.as_deref()), (&b"question"[..], Some(&b""[..])));
}

/// Answers the first byte, and holds the rest while the miser in it takes nothing.
#[derive(Default)]
struct Answerer {
    answered: bool,
    miser: Miser,
}

impl Protocol for Answerer {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        if self.answered {
            return self.miser.receive(input, out);
        }
        self.answered = true;
        out.copy(b"answer");
        1
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        self.miser.end_of_input(rest, out);
    }
}

#[test]
fn a_protocol_may_hold_what_came_before_an_end_that_was_read_already() {
    let mut bench = Bench::new(Answerer::default(), [Bytes(b"1more"), Fin]).output([BLOCKED]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.waits(); // The answer waits, and so does what came behind its question. The end is read.
    bench.writable();
    bench.waits();
    assert_eq!(bench.connection.state(), State::Held);
    assert_eq!(bench.connection.protocol().miser.rest, None, "it holds four bytes that came before the end");
    bench.connection.protocol_mut().miser.takes = true;
    bench.connection.wake();
    bench.finishes();
    assert_eq!(bench.connection.protocol().miser.heard, b"more");
}

/// Echoes, and says good-bye when somebody else decides that it is over.
struct Polite;

impl Protocol for Polite {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        out.send(input);
        input.len()
    }

    fn last_words(&mut self, out: &mut Outbox<'_>) {
        out.copy(b"bye");
    }
}

#[test]
fn the_last_words_of_a_protocol_come_before_a_fin_that_it_did_not_ask_for() {
    type End = fn(&mut Bench<Polite>);
    let ends: [End; 4] = [
        |bench| bench.connection.shut_down(),
        |bench| bench.connection.drain(),
        |bench| bench.connection.stop_answering(bench.now),
        |bench| assert!(bench.connection.expire(Timeout::Idle, &TIMEOUTS, bench.now)),
    ];
    for end in ends {
        let mut bench = Bench::new(Polite, [Bytes(b"abc")]).output([BLOCKED]);
        bench.waits();
        end(&mut bench);
        assert!(!bench.waits().fin_sent, "three bytes wait");
        bench.connection.wire.transport.output = [Takes(3), Takes(1), BLOCKED].into();
        bench.writable();
        assert!(!bench.waits().fin_sent, "two bytes wait");
        bench.writable();
        let script = bench.waits();
        assert_eq!((&script.sent[..], script.fin_sent), (&b"abcbye"[..], true));
    }
    let mut bench = Bench::new(Polite, [Bytes(b"abc"), Fin]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    bench.finishes();
    assert_eq!(bench.connection.wire.transport.sent, b"abc", "the protocol itself shut down");
}

/// Forwards what it hears, and has a deadline if it is given one.
#[derive(Default)]
struct Forward {
    deadline: Option<Moment>,
    /// Bytes that it takes at a time; all of them, if 0.
    piece: usize,
}

impl Protocol for Forward {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let taken = if self.piece == 0 { input.len() } else { input.len().min(self.piece) };
        out.send(&input[..taken]);
        taken
    }

    fn deadline(&self) -> Option<Moment> {
        self.deadline
    }
}

/// Two joined connections. What the first hears goes out on the second.
fn pair(input: impl IntoIterator<Item = Input>, output: impl IntoIterator<Item = Output>) -> [Bench<Forward>; 2] {
    let mut pair = [Bench::new(Forward::default(), input), Bench::new(Forward::default(), []).output(output)];
    for bench in &mut pair {
        bench.connection.join();
    }
    pair
}

/// A connection to be joined to another one whose connect is under way.
fn connecting() -> Bench<Forward> {
    let mut bench = Bench::new(Forward::default(), []);
    let addr = "127.0.0.1:1".parse().unwrap();
    bench.connection = Connection::connecting(Script::default(), addr, Forward::default(), Moment::START);
    bench.connection.join();
    bench
}

/// Serves `one`, joined to `other`.
#[track_caller]
fn pair_waits(one: &mut Bench<Forward>, other: &mut Bench<Forward>) {
    let (outcome, end) = one.service_with(Some(&mut other.connection));
    assert!(matches!(outcome, Outcome::Waiting) && end.is_none(), "{outcome:?}, partner: {end:?}");
}

fn script(bench: &Bench<Forward>) -> &Script {
    &bench.connection.wire.transport
}

#[test]
fn what_a_pair_forwards_is_one_read_and_one_write_and_no_memory() {
    let [mut one, mut other] = pair([Bytes(b"ping")], []);
    pair_waits(&mut one, &mut other);
    assert_eq!((script(&one).reads, script(&one).writes), (1, 0));
    assert_eq!((script(&other).reads, script(&other).writes), (0, 1));
    assert_eq!(script(&other).sent, b"ping");
    assert_eq!((one.connection.received(), one.connection.sent()), (4, 0));
    assert_eq!((other.connection.received(), other.connection.sent()), (0, 4));
    assert_eq!((one.connection.memory(), other.connection.memory()), (0, 0), "nothing was queued anywhere");
}

#[test]
fn what_the_partner_does_not_take_waits_there_once_and_in_order() {
    let [mut one, mut other] = pair([Bytes(b"abcdef")], [Takes(2), BLOCKED]);
    pair_waits(&mut one, &mut other);
    assert_eq!((one.connection.memory(), other.connection.outbound_len()), (0, 4));
    one.readable([Bytes(b"gh")]);
    pair_waits(&mut one, &mut other);
    assert_eq!(script(&other).sent, b"ab", "not writable: what comes is queued behind");
    other.writable();
    pair_waits(&mut other, &mut one);
    assert_eq!(script(&other).sent, b"abcdefgh");
    assert_eq!((one.connection.memory(), other.connection.memory()), (0, 0));
}

#[test]
fn a_partner_that_takes_nothing_stops_the_reading_and_its_room_goes_on_with_it() {
    let [mut one, mut other] = pair([Flood(1 << 20)], [BLOCKED]);
    pair_waits(&mut one, &mut other);
    let reads = script(&one).reads;
    assert_eq!((other.connection.outbound_len(), one.connection.memory()), (LIMIT, 0));
    pair_waits(&mut one, &mut other);
    assert_eq!(script(&one).reads, reads, "backpressure is not reading");
    assert!(one.connection.has_more_to_read(), "the loop knows that room would help");
    other.writable();
    pair_waits(&mut other, &mut one);
    one.connection.partner_has_room();
    // Nothing of it was an edge at the reader.
    while !matches!(one.service_with(Some(&mut other.connection)).0, Outcome::Waiting) {}
    assert_eq!(script(&other).sent.len(), 1 << 20);
}

#[test]
fn what_a_forwarder_left_for_want_of_room_is_shown_again_when_the_partner_has_room() {
    let [mut one, mut other] = pair([Bytes(b"abcdef"), Fin], [BLOCKED]);
    one.connection.protocol_mut().piece = 4;
    one.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    pair_waits(&mut one, &mut other);
    assert_eq!((one.connection.inbound_len(), other.connection.outbound_len()), (2, 4));
    assert!(one.connection.has_more_to_read());
    other.writable();
    pair_waits(&mut other, &mut one);
    one.connection.partner_has_room();
    pair_waits(&mut one, &mut other);
    assert_eq!(script(&other).sent, b"abcdef");
    pair_waits(&mut other, &mut one);
    assert!(script(&other).fin_sent);
}

#[test]
fn a_forwarder_that_leaves_input_holds_no_more_than_its_own_room() {
    let [mut one, mut other] = pair([Flood(1 << 20)], [BLOCKED]);
    one.connection.protocol_mut().piece = 1;
    one.room_now = 100;
    other.connection.outbound.push(b"something that waits", LIMIT);
    let (outcome, _) = one.service_with_room(Some(&mut other.connection), LIMIT);
    assert!(matches!(outcome, Outcome::Waiting));
    assert!(one.connection.memory() <= 100, "{} bytes", one.connection.memory());
}

#[test]
fn the_end_of_input_follows_what_waits_at_the_partner_and_the_opposite_direction_lives_on() {
    let [mut one, mut other] = pair([Bytes(b"abcdef"), Fin], [Takes(2), BLOCKED]);
    one.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    pair_waits(&mut one, &mut other);
    assert!(!other.connection.has_to_act(), "the poller will say when there is room");
    pair_waits(&mut other, &mut one);
    assert!(!script(&other).fin_sent);
    other.writable();
    pair_waits(&mut other, &mut one);
    assert_eq!((script(&other).sent.as_slice(), script(&other).fin_sent), (&b"abcdef"[..], true));
    assert_eq!(other.connection.deadline(&TIMEOUTS).unwrap().1, Timeout::Idle, "no linger timeout runs");
    other.readable([Bytes(b"late "), Bytes(b"answer"), Fin]);
    other.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    let (outcome, _) = other.service_with(Some(&mut one.connection));
    assert!(matches!(outcome, Outcome::Ended(End::Finished)), "{outcome:?}");
    assert_eq!(script(&one).sent, b"late answer");
    one.connection.lose_partner(true, at(0));
    one.finishes();
    assert!(!script(&one).reset && !script(&other).reset);
}

#[test]
fn a_fin_that_nothing_waits_before_is_work_that_the_poller_does_not_announce() {
    let [mut one, mut other] = pair([Fin], []);
    pair_waits(&mut one, &mut other);
    assert!(other.connection.has_to_act());
    pair_waits(&mut other, &mut one);
    assert!(script(&other).fin_sent && !other.connection.has_to_act());
}

#[test]
fn what_is_sent_to_a_partner_that_is_connecting_waits_and_so_does_the_fin() {
    let [mut one, _] = pair([Bytes(b"early "), Bytes(b"words"), Fin], []);
    one.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    let mut other = connecting();
    other.writable(); // What is said of its socket means the connect.
    pair_waits(&mut one, &mut other);
    assert_eq!((script(&other).writes, other.connection.outbound_len()), (0, 11));
    assert!(other.connection.is_connecting());
    pair_waits(&mut other, &mut one);
    assert_eq!((script(&other).sent.as_slice(), script(&other).fin_sent), (&b"early words"[..], true));
}

#[test]
fn what_the_partner_cannot_write_ends_both() {
    let [mut one, mut other] = pair([Bytes(b"ping")], [Output::Fails(ErrorKind::BrokenPipe)]);
    let (outcome, end) = one.service_with(Some(&mut other.connection));
    assert!(matches!(outcome, Outcome::Ended(End::PartnerFailed)), "{outcome:?}");
    assert!(matches!(end, Some(End::Failed(error)) if error.kind() == ErrorKind::BrokenPipe));
    assert!(script(&one).reset);
}

#[test]
fn a_joined_connection_that_does_not_end_in_order_is_reset_at_its_own_end_too() {
    // Its peer got a part of what the far end sent, and must not take it for all of it.
    type Fate = fn(&mut Connection<Script, Forward>);
    let fates: [(Fate, bool); 8] = [
        (|_| {}, false),
        (|connection| connection.ending = Ending::TimedOut(Timeout::Idle), true),
        (|connection| connection.ending = Ending::TimedOut(Timeout::Stall), true),
        (|connection| connection.ending = Ending::TimedOut(Timeout::Drain), true),
        (Connection::close, true),
        (Connection::reset, true),
        (|connection| connection.lose_partner(false, at(0)), true),
        (|connection| connection.lose_partner(true, at(0)), false),
    ];
    for (number, (fate, resets)) in fates.into_iter().enumerate() {
        let [mut one, mut other] = pair([], []);
        fate(&mut one.connection);
        one.service_with(Some(&mut other.connection));
        assert_eq!(script(&one).reset, resets, "fate {number}");
    }
    // What the protocol decides is no end in order either.
    let [mut one, mut other] = pair([], []);
    one.connection.protocol_mut().deadline = Some(at(1));
    one.connection.protocol_is_due();
    one.now = at(1);
    let (outcome, _) = one.service_with(Some(&mut other.connection));
    assert!(matches!(outcome, Outcome::Ended(End::Aborted)) && script(&one).reset);
}

#[test]
fn a_reset_by_the_role_is_one_on_the_wire_and_a_close_is_none() {
    for (change, resets) in
        [(Connection::<Script, Echo>::reset as fn(&mut Connection<Script, Echo>), true), (Connection::close, false)]
    {
        let mut bench = Bench::new(Echo, []);
        change(&mut bench.connection);
        bench.ends();
        assert_eq!(bench.connection.wire.transport.reset, resets);
    }
}

#[test]
fn a_connection_whose_partner_ended_in_order_sends_what_waits_and_does_not_echo_to_itself() {
    let [mut one, mut other] = pair([Bytes(b"abcdef")], [Takes(2), BLOCKED]);
    pair_waits(&mut one, &mut other);
    other.connection.lose_partner(true, at(50));
    assert_eq!(other.connection.deadline(&TIMEOUTS), Some((at(55), Timeout::Linger)), "from then on");
    other.readable([Bytes(b"for nobody")]);
    other.writable();
    let script = other.waits();
    assert_eq!((script.sent.as_slice(), script.fin_sent), (&b"abcdef"[..], true));
    assert_eq!(other.connection.received(), 10, "it is read, so that closing sends no reset");
    other.readable([Fin]);
    other.finishes();
}

#[test]
fn an_orphan_keeps_no_input_that_has_nowhere_to_go() {
    let [mut one, mut other] = pair([Bytes(b"abcdef"), Fin], [BLOCKED]);
    one.connection.protocol_mut().piece = 4;
    one.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    pair_waits(&mut one, &mut other);
    assert_eq!(one.connection.inbound_len(), 2);
    one.connection.lose_partner(true, at(0));
    assert_eq!(one.connection.memory(), 0);
    one.finishes();
    assert_eq!(script(&one).sent, b"");
}

#[test]
fn a_pair_is_idle_only_as_a_whole() {
    let [mut one, mut other] = pair([], [Takes(1), BLOCKED]);
    other.now = at(40);
    other.readable([Bytes(b"!")]);
    pair_waits(&mut other, &mut one);
    one.connection.shares_activity(&mut other.connection, &TIMEOUTS, at(60));
    assert_eq!(one.connection.deadline(&TIMEOUTS), Some((at(140), Timeout::Idle)));
    one.now = at(70);
    one.readable([Bytes(b"ab")]);
    pair_waits(&mut one, &mut other);
    one.connection.shares_activity(&mut other.connection, &TIMEOUTS, at(160));
    assert_eq!(one.connection.deadline(&TIMEOUTS), Some((at(260), Timeout::Idle)), "what waits there is judged there");
}

#[test]
fn a_pair_is_not_idle_while_the_kernel_holds_bytes_that_the_far_end_takes() {
    let [mut one, mut other] = pair([Bytes(b"a long upload")], []);
    pair_waits(&mut one, &mut other);
    other.connection.wire.transport.unacknowledged = Some(held(9, 1));
    one.connection.shares_activity(&mut other.connection, &TIMEOUTS, at(100));
    assert_eq!(one.connection.deadline(&TIMEOUTS), Some((at(200), Timeout::Idle)), "the sender waits for its answer");
    assert_eq!(other.connection.deadline(&TIMEOUTS).unwrap().1, Timeout::Stall, "the reader is judged");
    other.connection.wire.transport.unacknowledged = Some(held(0, 1));
    assert!(!other.connection.expire(Timeout::Stall, &TIMEOUTS, at(150)));
    one.connection.last_active = at(0);
    one.connection.shares_activity(&mut other.connection, &TIMEOUTS, at(160));
    assert_eq!(one.connection.deadline(&TIMEOUTS), Some((at(249), Timeout::Idle)), "it has taken the last of them");
}

#[test]
fn two_joined_connections_that_take_nothing_do_not_keep_each_other() {
    let [mut one, mut other] = pair([Bytes(b"to the other")], [BLOCKED]);
    pair_waits(&mut one, &mut other);
    one.connection.wire.transport.output.push_back(BLOCKED);
    other.readable([Bytes(b"to the one")]);
    pair_waits(&mut other, &mut one);
    for bench in [&mut one, &mut other] {
        bench.connection.wire.transport.unacknowledged = Some(held(9, 1));
    }
    // Each look finds the same bytes in the kernel, and the deadline of neither moves away.
    for now in 1..=9 {
        one.connection.shares_activity(&mut other.connection, &TIMEOUTS, at(now));
        other.connection.shares_activity(&mut one.connection, &TIMEOUTS, at(now));
        for bench in [&mut one, &mut other] {
            bench.connection.expire(Timeout::Stall, &TIMEOUTS, at(now));
        }
    }
    assert!(matches!(one.ends(), End::TimedOut(Timeout::Stall)));
}

#[test]
fn a_drain_lets_a_pair_go_on() {
    let [mut one, mut other] = pair([], []);
    one.connection.drain();
    pair_waits(&mut one, &mut other);
    assert!(!script(&one).fin_sent);
    one.readable([Bytes(b"still")]);
    pair_waits(&mut one, &mut other);
    assert_eq!(script(&other).sent, b"still");
    // Those that are joined in a drain are no different.
    let mut late = Bench::new(Forward::default(), []);
    late.connection.drain();
    late.connection.join();
    pair_waits(&mut late, &mut other);
    assert!(!script(&late).fin_sent);
}

#[test]
fn a_reset_is_noticed_while_the_partner_has_no_room() {
    let [mut one, mut other] = pair([Flood(1 << 20)], [BLOCKED]);
    pair_waits(&mut one, &mut other);
    one.connection.wire.transport.error = Some(ErrorKind::ConnectionReset.into());
    one.connection.note(Readiness::ALL);
    let (outcome, _) = one.service_with(Some(&mut other.connection));
    assert!(matches!(outcome, Outcome::Ended(End::Failed(error)) if error.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn the_role_hears_of_room_once_half_of_it_is_free() {
    let mut bench = Bench::new(Echo, []).output([Takes(LIMIT / 2 - 1), BLOCKED, Takes(1), BLOCKED]);
    assert_eq!(bench.connection.send(&[b'!'; LIMIT + 1], LIMIT, at(0)), Ok(LIMIT));
    bench.waits();
    assert!(!bench.has_room);
    bench.writable();
    bench.waits();
    assert!(bench.has_room);
    bench.writable();
    bench.waits();
    assert!(!bench.has_room, "the role hears of the room once");
}

#[test]
fn a_joined_connection_that_the_partner_emptied_has_to_tell_the_role_of_its_room() {
    let [mut one, mut other] = pair([Bytes(b"ping")], []);
    assert_eq!(other.connection.send(&[b'!'; LIMIT + 1], LIMIT, at(0)), Ok(LIMIT));
    assert!(!other.connection.has_to_act());
    one.room_now = 2 * LIMIT;
    pair_waits(&mut one, &mut other);
    assert_eq!(script(&other).sent.len(), LIMIT + 4);
    assert!(other.connection.has_to_act());
}

#[test]
fn a_paused_connection_reads_nothing_until_it_is_resumed() {
    let mut bench = Bench::new(Echo, [Bytes(b"ping")]);
    bench.connection.pause();
    let script = bench.waits();
    assert_eq!((script.reads, script.sent.len()), (0, 0));
    assert_eq!(bench.connection.state(), State::Held);
    assert_eq!(bench.connection.deadline(&TIMEOUTS), None, "the silence is ours");
    bench.connection.wake();
    assert_eq!(bench.waits().reads, 0, "waking is not resuming");
    bench.connection.resume();
    assert_eq!(bench.waits().sent, b"ping", "no edge was needed");
    bench.connection.resume();
    assert_eq!(bench.waits().reads, 1, "it was not paused");
}

#[test]
fn a_connection_that_finishes_throws_away_what_still_arrives() {
    let mut bench = Bench::new(Finisher, [Bytes(b"bye"), Bytes(b"more")]);
    bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
    let script = bench.waits();
    assert_eq!((script.sent.as_slice(), script.fin_sent), (&b"bye"[..], true));
    bench.readable([Fin]);
    bench.finishes();
    assert_eq!(bench.connection.received(), 7);
}

/// Has a deadline until it hears something, and says when the deadline passed.
struct Patient {
    until: Option<Moment>,
    passed: usize,
}

impl Protocol for Patient {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        self.until = None;
        out.send(input);
        input.len()
    }

    fn deadline(&self) -> Option<Moment> {
        self.until
    }

    fn deadline_passed(&mut self, out: &mut Outbox<'_>) {
        self.passed += 1;
        self.until = None;
        out.copy(b"too late");
    }
}

#[test]
fn input_that_came_before_its_deadline_was_noticed_is_shown_first() {
    let mut bench = Bench::new(Patient { until: Some(at(5)), passed: 0 }, []);
    assert_eq!(bench.connection.protocol_deadline(), Some(at(5)));
    bench.readable([Bytes(b"in time")]);
    bench.connection.protocol_is_due();
    bench.now = at(9);
    assert_eq!(bench.waits().sent, b"in time");
    assert_eq!(bench.connection.protocol().passed, 0);
}

#[test]
fn a_deadline_that_passed_is_told_once_and_its_answer_goes_out() {
    let mut bench = Bench::new(Patient { until: Some(at(5)), passed: 0 }, []);
    bench.now = at(4);
    bench.connection.protocol_is_due();
    assert_eq!(bench.waits().sent, b"", "the time has not come");
    bench.now = at(5);
    bench.connection.protocol_is_due();
    let outcome = bench.service();
    assert!(matches!(outcome, Outcome::Runnable), "it may have something to produce now: {outcome:?}");
    for _ in 0..2 {
        assert_eq!(bench.waits().sent, b"too late");
        bench.connection.protocol_is_due();
    }
    assert_eq!(bench.connection.protocol().passed, 1);
}

#[test]
fn a_protocol_that_does_nothing_at_its_deadline_is_ended() {
    let mut bench = Bench::new(Forward { deadline: Some(at(5)), ..Forward::default() }, []);
    bench.now = at(5);
    bench.connection.protocol_is_due();
    assert!(matches!(bench.ends(), End::Aborted));
    // None that is ending, or not yet there, has a deadline.
    assert_eq!(bench.connection.protocol_deadline(), Some(at(5)));
    bench.connection.stop_answering(at(5));
    assert_eq!(bench.connection.protocol_deadline(), None);
    let mut early = connecting();
    early.connection.protocol_mut().deadline = Some(at(5));
    assert_eq!(early.connection.protocol_deadline(), None);
}

/// Leaves its input while it is not ready, and then sends all that it is shown, or all whole `messages`.
#[derive(Default)]
struct LateEcho {
    ready: bool,
    messages: Option<usize>,
}

impl Protocol for LateEcho {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        if !self.ready {
            return 0;
        }
        let whole = input.len() - self.messages.map_or(0, |length| input.len() % length);
        out.send(&input[..whole]);
        whole
    }
}

#[test]
fn a_message_whose_end_had_no_room_to_be_shown_is_shown_whole_when_there_is() {
    let protocol = LateEcho { messages: Some(600), ..LateEcho::default() };
    let mut bench = Bench::new(protocol, [Flood(3000)]);
    bench.waits();
    bench.connection.protocol_mut().ready = true;
    bench.room_now = 1000;
    bench.connection.wake();
    assert_eq!(bench.waits().sent.len(), 3000, "each answer goes out at once, and makes room for the next message");
    assert_eq!(bench.connection.inbound_len(), 0);
}

#[test]
fn input_that_was_kept_is_shown_no_faster_than_there_is_room_although_memory_became_scarce() {
    let mut bench = Bench::new(LateEcho::default(), [Flood(3000)]).output([BLOCKED]);
    bench.waits();
    bench.connection.protocol_mut().ready = true;
    bench.room_now = 1000;
    bench.connection.wake();
    bench.waits();
    assert_eq!((bench.connection.outbound_len(), bench.connection.inbound_len()), (1000, 2000));
    bench.writable();
    assert_eq!(bench.waits().sent.len(), 3000, "where the socket takes it, nothing waits");
    assert_eq!((bench.connection.outbound_len(), bench.connection.inbound_len()), (0, 0));
}
