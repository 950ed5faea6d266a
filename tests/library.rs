//! The library, used as another project's program uses it.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use multiconn::sockets::{self, ListenOptions};
use multiconn::{End, Event, EventLoop, Limits, Moment, Outbox, Protocol, Role, SendError, Timeouts, Token};

/// Notifies of each byte and answers nothing by itself.
#[derive(Debug)]
struct Bell;

impl Protocol for Bell {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        out.notify();
        input.len()
    }
}

/// Answers each notification, and closes each connection that it could not answer.
struct Porter {
    answered: u32,
    closed: u32,
    /// How many connections there will be.
    expected: u32,
}

impl Role<Bell> for Porter {
    fn advance(&mut self, event_loop: &mut EventLoop<Bell>) -> bool {
        if self.closed == self.expected {
            event_loop.stop_listening();
        }
        false
    }

    fn handle(&mut self, event: Event<Bell>, event_loop: &mut EventLoop<Bell>) {
        match event {
            Event::Notified { token } => {
                self.answered += 1;
                if event_loop.send(token, b"coming\n") != Ok(7) {
                    event_loop.close(token);
                }
            }
            Event::Closed { token, .. } => {
                self.closed += 1;
                // The token is free, and no other connection has it: none was accepted since.
                assert!(event_loop.connection(token).is_none());
                assert_eq!(event_loop.send(token, b"gone"), Err(SendError::Finishing));
                event_loop.close(token);
            }
            _ => {}
        }
    }
}

fn event_loop<P: Protocol>() -> EventLoop<P> {
    EventLoop::new(Limits::default(), Timeouts::default()).unwrap()
}

#[test]
fn a_peer_that_notifies_and_leaves_harms_no_other() {
    const PEERS: u32 = 500;
    let listener = sockets::listen("127.0.0.1", 0, ListenOptions::default()).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut event_loop = event_loop();
    event_loop.listen(listener, |_| Bell).unwrap();
    let peers = std::thread::spawn(move || {
        for number in 0..PEERS {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.write_all(b"!").unwrap();
            if number % 2 == 0 {
                stream.read_exact(&mut [0; 7]).unwrap();
            }
        }
    });
    let mut porter = Porter { answered: 0, closed: 0, expected: PEERS };
    event_loop.run(&mut porter).unwrap();
    peers.join().unwrap();
    assert!(porter.answered >= PEERS / 2);
}

#[test]
fn a_loop_with_nothing_to_do_ends_at_once() {
    struct Nothing;
    impl Role<Bell> for Nothing {
        fn handle(&mut self, event: Event<Bell>, _: &mut EventLoop<Bell>) {
            panic!("{event:?}");
        }
    }
    let mut event_loop = event_loop();
    event_loop.run(&mut Nothing).unwrap();
    assert!(event_loop.is_idle());
    assert_eq!(event_loop.turns(), 0);
}

#[test]
fn a_role_may_connect_and_close_and_hears_how_each_ended() {
    struct Caller {
        ends: Vec<End>,
        closed_by_us: bool,
    }
    impl Role<Bell> for Caller {
        fn handle(&mut self, event: Event<Bell>, event_loop: &mut EventLoop<Bell>) {
            match event {
                Event::Connected { token, .. } => {
                    assert!(event_loop.connection(token).is_some());
                    event_loop.close(token);
                    self.closed_by_us = true;
                }
                Event::Closed { end, .. } => self.ends.push(end),
                event => panic!("{event:?}"),
            }
        }
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut event_loop = event_loop();
    event_loop.connect(listener.local_addr().unwrap(), Bell);
    event_loop.connect(refused, Bell);
    let mut caller = Caller { ends: Vec::new(), closed_by_us: false };
    event_loop.run(&mut caller).unwrap();
    assert!(caller.closed_by_us);
    let mut ends: Vec<String> = caller.ends.iter().map(ToString::to_string).collect();
    ends.sort();
    assert_eq!(ends, ["closed", "connect failed: Connection refused (os error 111)"]);
}

#[test]
fn draining_with_no_time_ends_at_once() {
    struct Stopper;
    impl Role<Bell> for Stopper {
        fn handle(&mut self, event: Event<Bell>, event_loop: &mut EventLoop<Bell>) {
            if let Event::Accepted { .. } = event {
                event_loop.drain(Duration::ZERO);
            }
        }
    }
    let listener = sockets::listen("127.0.0.1", 0, ListenOptions::default()).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut event_loop = event_loop();
    event_loop.listen(listener, |_| Bell).unwrap();
    let _stream = TcpStream::connect(addr).unwrap();
    event_loop.run(&mut Stopper).unwrap();
    assert!(event_loop.is_idle());
}

/// Hears a question to its end, and leaves the answer to the role.
#[derive(Default)]
struct Clerk {
    question: Vec<u8>,
}

impl Protocol for Clerk {
    fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
        self.question.extend(input);
        input.len()
    }

    fn end_of_input<'a>(&mut self, _rest: &'a [u8], out: &mut Outbox<'a>) {
        out.notify(); // And no FIN of ours: the connection stays half-open.
    }
}

/// Listens, and serves one peer that `talk` plays.
fn serve_one<P: Protocol>(
    role: &mut impl Role<P>,
    mut protocol: impl FnMut() -> P + 'static,
    talk: impl FnOnce(TcpStream) + Send + 'static,
) {
    let listener = sockets::listen("127.0.0.1", 0, ListenOptions::default()).unwrap();
    let addr = listener.local_addr().unwrap();
    // Far longer than anything here takes: only a failing test waits until it is over.
    let timeouts = Timeouts { idle: Some(Duration::from_secs(20)), ..Timeouts::default() };
    let mut event_loop = EventLoop::new(Limits::default(), timeouts).unwrap();
    event_loop.listen(listener, move |_| protocol()).unwrap();
    let peer = std::thread::spawn(move || talk(TcpStream::connect(addr).unwrap()));
    event_loop.run(role).unwrap();
    peer.join().unwrap();
}

/// An echo that looks at the kernel's state whenever it may.
#[cfg(target_os = "linux")]
#[derive(Default)]
struct Watchful {
    looks: Vec<multiconn::TcpState>,
}

#[cfg(target_os = "linux")]
impl Protocol for Watchful {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        out.send(input);
        out.notify();
        input.len()
    }

    fn ending(&mut self, look: &dyn Fn() -> Option<multiconn::TcpState>) {
        self.looks.extend(look());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_protocol_may_look_at_the_kernels_state_before_our_fin_and_when_all_is_over() {
    #[derive(Default)]
    struct Shutter {
        looks: Vec<multiconn::TcpState>,
    }
    impl Role<Watchful> for Shutter {
        fn handle(&mut self, event: Event<Watchful>, event_loop: &mut EventLoop<Watchful>) {
            match event {
                Event::Notified { token } => {
                    event_loop.shut_down(token);
                    event_loop.stop_listening();
                }
                Event::Closed { protocol, .. } => self.looks = protocol.looks,
                _ => {}
            }
        }
    }
    let mut shutter = Shutter::default();
    serve_one(&mut shutter, Watchful::default, |mut stream| {
        stream.write_all(b"hello").unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"hello");
    });
    let [before, after] = shutter.looks[..] else { panic!("two looks: {:?}", shutter.looks) };
    // Five bytes and our FIN; the peer's FIN acknowledged them at the latest.
    assert!(after.bytes_acknowledged.unwrap() > before.bytes_acknowledged.unwrap(), "{before:?} {after:?}");
    assert!(after.segments_sent.unwrap() > before.segments_sent.unwrap(), "{before:?} {after:?}");
    assert_eq!(after.segments_unacknowledged, 0, "{after:?}");
}

#[test]
fn an_answer_may_come_after_the_end_of_input() {
    struct Office;
    impl Role<Clerk> for Office {
        fn handle(&mut self, event: Event<Clerk>, event_loop: &mut EventLoop<Clerk>) {
            match event {
                Event::Notified { token } => {
                    let question = event_loop.protocol_mut(token).unwrap().question.clone();
                    assert_eq!(event_loop.send(token, &question), Ok(question.len()));
                    event_loop.shut_down(token);
                    event_loop.stop_listening();
                }
                Event::Closed { end, .. } => assert!(matches!(end, End::Finished), "{end:?}"),
                _ => {}
            }
        }
    }
    serve_one(&mut Office, Clerk::default, |mut stream| {
        stream.write_all(b"what is half of open?").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"what is half of open?");
    });
}

#[test]
fn a_reset_of_a_half_open_connection_is_noticed_though_nothing_is_read() {
    /// Sends a word when the end of input was heard, which tells the peer to reset, and keeps the connection.
    struct Keeper {
        end: Option<End>,
    }
    impl Role<Clerk> for Keeper {
        fn handle(&mut self, event: Event<Clerk>, event_loop: &mut EventLoop<Clerk>) {
            match event {
                Event::Notified { token } => {
                    assert_eq!(event_loop.send(token, b"!"), Ok(1));
                    event_loop.stop_listening();
                }
                Event::Closed { end, .. } => self.end = Some(end),
                _ => {}
            }
        }
    }
    let mut keeper = Keeper { end: None };
    serve_one(&mut keeper, Clerk::default, |mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let end = keeper.end.expect("the connection ended");
    // Linux calls a reset EPIPE where the peer's FIN had come before it.
    let is_reset = |error: &Error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    assert!(matches!(&end, End::Failed(error) if is_reset(error)), "{end:?}");
}

#[test]
fn a_worker_thread_answers_through_the_handle() {
    /// Leaves each question to a thread of its own, which sends back whose answer is there.
    struct Office {
        done: mpsc::Sender<Token>,
        answers: mpsc::Receiver<Token>,
    }
    impl Role<Clerk> for Office {
        fn handle(&mut self, event: Event<Clerk>, event_loop: &mut EventLoop<Clerk>) {
            match event {
                Event::Notified { token } => {
                    let (handle, done) = (event_loop.handle().unwrap(), self.done.clone());
                    std::thread::spawn(move || {
                        done.send(token).unwrap();
                        handle.wake().unwrap();
                    });
                }
                Event::Woken => {
                    for token in self.answers.try_iter() {
                        assert_eq!(event_loop.send(token, b"42"), Ok(2));
                        event_loop.shut_down(token);
                        // Somebody else ends the loop, the listener included.
                        let handle = event_loop.handle().unwrap();
                        std::thread::spawn(move || handle.drain(Duration::from_secs(20)).unwrap());
                    }
                }
                _ => {}
            }
        }
    }
    let (done, answers) = mpsc::channel();
    serve_one(&mut Office { done, answers }, Clerk::default, |mut stream| {
        stream.write_all(b"6 x 7").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"42");
    });
}

#[test]
fn however_often_a_handle_is_called_the_loop_finds_one_request_and_stops_at_once() {
    struct Counter(u32);
    impl Role<Bell> for Counter {
        fn handle(&mut self, event: Event<Bell>, event_loop: &mut EventLoop<Bell>) {
            assert!(matches!(event, Event::Woken), "{event:?}");
            self.0 += 1;
            event_loop.handle().unwrap().stop().unwrap();
        }
    }
    let mut event_loop = event_loop();
    event_loop.listen(sockets::listen("127.0.0.1", 0, ListenOptions::default()).unwrap(), |_| Bell).unwrap();
    let handle = event_loop.handle().unwrap();
    std::thread::spawn(move || (0..1000).for_each(|_| handle.wake().unwrap())).join().unwrap();
    let mut counter = Counter(0);
    event_loop.run(&mut counter).unwrap();
    assert_eq!(counter.0, 1);
}

#[test]
fn a_paused_connection_is_not_read_until_the_role_resumes_it() {
    struct Pauser {
        paused: Option<Token>,
        heard: Vec<&'static str>,
    }
    impl Role<Bell> for Pauser {
        fn handle(&mut self, event: Event<Bell>, event_loop: &mut EventLoop<Bell>) {
            match event {
                Event::Accepted { token, .. } => {
                    event_loop.pause(token);
                    self.paused = Some(token);
                    event_loop.stop_listening();
                    event_loop.set_timer(Some(event_loop.clock_now().plus(Duration::from_millis(100)))).unwrap();
                }
                Event::Timer => {
                    let token = self.paused.unwrap();
                    assert_eq!(event_loop.connection(token).unwrap().received(), 0);
                    event_loop.wake(token); // Waking takes no pause back.
                    event_loop.resume(token);
                    self.heard.push("timer");
                }
                Event::Notified { token } => {
                    self.heard.push("bell");
                    event_loop.close(token);
                }
                _ => {}
            }
        }
    }
    let mut pauser = Pauser { paused: None, heard: Vec::new() };
    serve_one(
        &mut pauser,
        || Bell,
        |mut stream| {
            stream.write_all(b"!").unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        },
    );
    assert_eq!(pauser.heard, ["timer", "bell"]);
}

#[test]
fn what_does_not_fit_is_sent_when_there_is_room_again() {
    const ALL: usize = 20_000_000;

    fn byte_at(place: usize) -> u8 {
        u8::try_from(place % 251).unwrap()
    }

    /// Sends `ALL` bytes, as fast as the peer takes them.
    struct Sender {
        sent: usize,
        refused: u32,
    }
    impl Sender {
        fn send(&mut self, token: Token, event_loop: &mut EventLoop<Clerk>) {
            while self.sent < ALL {
                let piece: Vec<u8> = (self.sent..ALL).take(100_000).map(byte_at).collect();
                let sent = event_loop.send(token, &piece).unwrap();
                self.sent += sent;
                if sent < piece.len() {
                    self.refused += 1;
                    return;
                }
            }
            event_loop.shut_down(token);
        }
    }
    impl Role<Clerk> for Sender {
        fn handle(&mut self, event: Event<Clerk>, event_loop: &mut EventLoop<Clerk>) {
            match event {
                Event::Accepted { token, .. } => {
                    event_loop.stop_listening();
                    self.send(token, event_loop);
                }
                Event::Room { token } => self.send(token, event_loop),
                Event::Closed { end, .. } => assert!(matches!(end, End::Finished), "{end:?}"),
                _ => {}
            }
        }
    }
    let mut sender = Sender { sent: 0, refused: 0 };
    serve_one(&mut sender, Clerk::default, |mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), ALL);
        assert!(got.iter().enumerate().all(|(place, &byte)| byte == byte_at(place)));
    });
    assert!(sender.refused > 10, "{} times: the buffer holds a hundredth of it", sender.refused);
}

#[test]
fn a_peer_sees_the_reset_that_the_role_sends() {
    struct Resetter;
    impl Role<Bell> for Resetter {
        fn handle(&mut self, event: Event<Bell>, event_loop: &mut EventLoop<Bell>) {
            match event {
                Event::Notified { token } => {
                    event_loop.stop_listening();
                    event_loop.reset(token);
                }
                Event::Closed { end, .. } => assert!(matches!(end, End::Reset), "{end:?}"),
                _ => {}
            }
        }
    }
    serve_one(
        &mut Resetter,
        || Bell,
        |mut stream| {
            stream.write_all(b"!").unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        },
    );
}

#[test]
fn a_connect_that_fails_at_once_is_reported_under_its_token() {
    struct Caller {
        expected: Token,
        failed: bool,
    }
    impl Role<Bell> for Caller {
        fn handle(&mut self, event: Event<Bell>, event_loop: &mut EventLoop<Bell>) {
            let Event::Closed { token, end, .. } = event else { panic!("{event:?}") };
            assert_eq!(token, self.expected);
            assert!(matches!(end, End::ConnectFailed(_)), "{end:?}");
            assert!(event_loop.connection(token).is_none());
            self.failed = true;
        }
    }
    let mut event_loop = event_loop();
    // TCP has no broadcast: the kernel refuses before anything is sent.
    let expected = event_loop.connect(([255, 255, 255, 255], 7).into(), Bell);
    assert!(event_loop.connection(expected).is_none(), "the connect did not fail at once, so the test proves nothing");
    let mut caller = Caller { expected, failed: false };
    event_loop.run(&mut caller).unwrap();
    assert!(caller.failed);
}

/// Gives each line half a second to be whole, from its first byte on.
#[derive(Default)]
struct Impatient {
    began: Option<Moment>,
    lines: u32,
}

impl Protocol for Impatient {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let whole = input.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        self.lines += u32::try_from(input[..whole].split_inclusive(|&byte| byte == b'\n').count()).unwrap();
        self.began = (whole < input.len()).then(|| self.began.filter(|_| whole == 0).unwrap_or(out.now()));
        out.send(&input[..whole]);
        whole
    }

    fn deadline(&self) -> Option<Moment> {
        self.began.map(|began| began.plus(Duration::from_millis(500)))
    }
}

#[test]
fn a_protocol_ends_a_connection_whose_peer_drips() {
    struct Host {
        end: Option<End>,
        lines: u32,
    }
    impl Role<Impatient> for Host {
        fn handle(&mut self, event: Event<Impatient>, event_loop: &mut EventLoop<Impatient>) {
            match event {
                Event::Accepted { .. } => event_loop.stop_listening(),
                Event::Closed { end, protocol, .. } => {
                    self.end = Some(end);
                    self.lines = protocol.lines;
                }
                _ => {}
            }
        }
    }
    let mut host = Host { end: None, lines: 0 };
    serve_one(&mut host, Impatient::default, |mut stream| {
        stream.write_all(b"one\ntwo\n").unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
        stream.write_all(b"thr").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the third line was never whole");
    });
    assert!(matches!(host.end, Some(End::Aborted)), "{:?}", host.end);
    assert_eq!(host.lines, 2);
}
