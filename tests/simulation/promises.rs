//! What the loop promises its role, each promise on a network in which nothing goes wrong.
//!
//! Owns one small role for each promise. The worlds check what must be true of every byte.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use multiconn::internals::connection::{End, Timeout, Timeouts};
use multiconn::internals::event_loop::{Event, EventLoop, Limits, ListenerConfig, ListenerId, Role, Token};
use multiconn::internals::protocol::{Outbox, Produced, Protocol};
use multiconn::internals::time::{Clock, Moment};
use multiconn::server::echo::Echo;

use crate::dice::Dice;
use crate::network::{Id, Network, Simulated, Weather};
use crate::world::SERVER;

/// A loop that listens, with room for `connections`.
fn loop_for<P: Protocol + 'static>(
    connections: usize,
    timeouts: Timeouts,
    protocol: fn() -> P,
) -> (Rc<RefCell<Network>>, EventLoop<P, Simulated>) {
    let weather = Weather {
        interrupted: 0,
        short_write: 0,
        spurious: 0,
        accept_fails: 0,
        register_fails: 0,
        refused: 0,
        syn_lost: 0,
        delay: 2_000,
        room: 64 * 1024,
        events: 1024,
    };
    let network = Rc::new(RefCell::new(Network::new(Dice::new(0), weather, false)));
    let system = Simulated::new(&network);
    let listener = system.listener(SERVER.into());
    let mut event_loop = EventLoop::on(system, Limits { connections, ..Limits::default() }, timeouts);
    event_loop.listen(listener, move |_| protocol()).unwrap();
    (network, event_loop)
}

/// A second address of the loop's.
const OTHER: ([u8; 4], u16) = ([192, 0, 2, 4], 7);

/// Produces bytes whenever it is asked.
struct Talker;

impl Protocol for Talker {
    fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
        input.len()
    }

    fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
        space.fill(b'!');
        Produced::Bytes(space.len())
    }
}

#[test]
fn a_connection_that_the_role_opens_while_the_loop_drains_is_drained_as_well() {
    const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

    /// Begins to drain, and then opens one connection and, when that has ended, another.
    #[derive(Default)]
    struct Opener {
        begun: bool,
        ended: Vec<(End, u64)>,
    }

    impl Role<Talker, Simulated> for Opener {
        fn advance(&mut self, event_loop: &mut EventLoop<Talker, Simulated>) -> bool {
            if !std::mem::replace(&mut self.begun, true) {
                event_loop.drain(DRAIN_TIMEOUT);
                event_loop.connect(SERVER.into(), Talker);
            }
            false
        }

        fn handle(&mut self, event: Event<Talker>, event_loop: &mut EventLoop<Talker, Simulated>) {
            if let Event::Closed { end, sent, .. } = event {
                self.ended.push((end, sent));
                if self.ended.len() == 1 {
                    event_loop.connect(SERVER.into(), Talker);
                }
            }
        }
    }

    // Without room for any connection, the peer waits in the backlog, and its FIN never comes.
    let (_network, mut event_loop) = loop_for(0, Timeouts::default(), || Talker);
    let mut opener = Opener::default();
    event_loop.run(&mut opener).unwrap();
    let cut_off = |(end, sent): &(End, u64)| matches!(end, End::TimedOut(Timeout::Drain)) && *sent == 0;
    assert!(opener.ended.len() == 2 && opener.ended.iter().all(cut_off), "{:?}", opener.ended);
}

#[test]
fn a_connect_that_was_answered_in_time_may_wait_for_its_service() {
    /// How many peers send without end: serving them takes three turns.
    const FIREHOSES: usize = 40;

    /// Lets all peers send, and connects when all of their connections are in the run queue.
    struct Connector {
        network: Rc<RefCell<Network>>,
        firehoses: Vec<Id>,
        accepted: usize,
        turns: usize,
        outcome: Option<Result<(), End>>,
    }

    impl Role<Echo, Simulated> for Connector {
        fn advance(&mut self, event_loop: &mut EventLoop<Echo, Simulated>) -> bool {
            if self.accepted == FIREHOSES {
                match self.turns {
                    0 => self.firehoses.iter().for_each(|&id| self.network.borrow_mut().gush(id)),
                    1 => {
                        event_loop.connect(SERVER.into(), Echo);
                    }
                    _ => {}
                }
                self.turns += 1;
            }
            true
        }

        fn handle(&mut self, event: Event<Echo>, event_loop: &mut EventLoop<Echo, Simulated>) {
            self.outcome = match event {
                Event::Connected { .. } => Some(Ok(())),
                Event::Closed { end, .. } => Some(Err(end)),
                Event::Accepted { .. } => return self.accepted += 1,
                _ => return,
            };
            event_loop.stop();
        }
    }

    // The answer takes 2 µs, and a turn with the firehoses some 100.
    let timeouts = Timeouts { connect: Some(Duration::from_micros(20)), ..Timeouts::default() };
    let (network, mut event_loop) = loop_for(FIREHOSES, timeouts, || Echo);
    let firehoses = (0..FIREHOSES).map(|_| network.borrow_mut().connect(SERVER.into())).collect();
    let mut connector = Connector { network, firehoses, accepted: 0, turns: 0, outcome: None };
    event_loop.run(&mut connector).unwrap();
    assert!(matches!(connector.outcome, Some(Ok(()))), "{:?}", connector.outcome);
    assert!(connector.turns > 3, "the connection was served at once, so the test proves nothing");
}

#[test]
fn a_full_listener_keeps_no_other_from_accepting() {
    /// Counts what each listener accepted, and ends when all were in.
    struct Counter {
        other: ListenerId,
        accepted: BTreeMap<ListenerId, Vec<Token>>,
        closed: usize,
        most_behind: usize,
    }

    impl Role<Echo, Simulated> for Counter {
        fn handle(&mut self, event: Event<Echo>, event_loop: &mut EventLoop<Echo, Simulated>) {
            match event {
                Event::Accepted { token, listener, .. } => {
                    assert_eq!(event_loop.listener_of(token), Some(listener));
                    self.accepted.entry(listener).or_default().push(token);
                    let open = event_loop.connections();
                    let behind = open.filter(|&(token, _)| event_loop.listener_of(token) == Some(self.other)).count();
                    self.most_behind = self.most_behind.max(behind);
                    // When all are in for which there is room, each of the other listener's gives way to the next.
                    if self.accepted.values().map(Vec::len).sum::<usize>() >= 5 {
                        event_loop.close(*self.accepted[&self.other].last().unwrap());
                    }
                }
                Event::Closed { token, .. } => {
                    assert_eq!(event_loop.listener_of(token), None);
                    self.closed += 1;
                    if self.closed == 3 {
                        event_loop.stop();
                    }
                }
                _ => {}
            }
        }
    }

    let (network, mut event_loop) = loop_for(100, Timeouts::default(), || Echo);
    let socket = event_loop.system().listener(OTHER.into());
    let config = ListenerConfig { name: "other", connections: 1 };
    let other = event_loop.listen_with(config, socket, |_| Echo).unwrap();
    assert_eq!(event_loop.listener_name(other), "other");
    for _ in 0..3 {
        network.borrow_mut().connect(OTHER.into());
    }
    for _ in 0..4 {
        network.borrow_mut().connect(SERVER.into());
    }
    let mut counter = Counter { other, accepted: BTreeMap::new(), closed: 0, most_behind: 0 };
    event_loop.run(&mut counter).unwrap();
    let counts: Vec<usize> = counter.accepted.values().map(Vec::len).collect();
    assert_eq!((counts, counter.closed, counter.most_behind), (vec![4, 3], 3, 1));
}

#[test]
fn a_full_listener_that_comes_first_keeps_no_other_from_accepting() {
    const FIRST: ([u8; 4], u16) = ([192, 0, 2, 5], 7);

    /// Lets a peer come to the other listener when the first is full, and ends when it is in.
    #[derive(Default)]
    struct Waiter(Vec<ListenerId>);

    impl Role<Echo, Simulated> for Waiter {
        fn handle(&mut self, event: Event<Echo>, event_loop: &mut EventLoop<Echo, Simulated>) {
            if let Event::Accepted { listener, .. } = event {
                self.0.push(listener);
                match self.0.len() {
                    1 => _ = event_loop.system().network.borrow_mut().connect(OTHER.into()),
                    _ => event_loop.stop(),
                }
            }
        }
    }

    let (network, mut event_loop) = loop_for(100, Timeouts::default(), || Echo);
    event_loop.stop_listening();
    let listeners = [FIRST, OTHER].map(|addr| {
        let socket = event_loop.system().listener(addr.into());
        let config = ListenerConfig { connections: 1, ..ListenerConfig::default() };
        event_loop.listen_with(config, socket, |_| Echo).unwrap()
    });
    for _ in 0..2 {
        network.borrow_mut().connect(FIRST.into());
    }
    let mut waiter = Waiter::default();
    event_loop.run(&mut waiter).unwrap();
    assert_eq!(waiter.0, listeners);
}

#[test]
fn the_timer_comes_once_and_at_its_time() {
    const AFTER: Duration = Duration::from_millis(20);

    /// Sets the timer, moves it away, sets it again, and notes when it comes. The network nudges the loop in between.
    #[derive(Default)]
    struct Clockwork {
        began: Option<Moment>,
        turns: usize,
        came: Vec<Duration>,
    }

    impl Role<Echo, Simulated> for Clockwork {
        fn advance(&mut self, event_loop: &mut EventLoop<Echo, Simulated>) -> bool {
            let began = *self.began.get_or_insert(event_loop.now());
            self.turns += 1;
            match self.turns {
                1 => event_loop.set_timer(Some(began.plus(AFTER * 9))).unwrap(),
                2 => event_loop.set_timer(Some(began.plus(AFTER))).unwrap(),
                _ => {}
            }
            if self.turns < 5 {
                event_loop.system().network.borrow_mut().nudge(); // The poller reports more than there was.
            }
            if event_loop.now() > began.plus(AFTER * 20) {
                event_loop.stop();
            } else if !self.came.is_empty() {
                event_loop.system().network.borrow_mut().nudge();
            }
            true
        }

        fn handle(&mut self, event: Event<Echo>, event_loop: &mut EventLoop<Echo, Simulated>) {
            if matches!(event, Event::Timer) {
                self.came.push(event_loop.clock_now().since(self.began.unwrap()));
            }
        }
    }

    let (_network, mut event_loop) = loop_for(0, Timeouts::default(), || Echo);
    let mut clockwork = Clockwork::default();
    event_loop.run(&mut clockwork).unwrap();
    let [came] = clockwork.came[..] else { panic!("{:?}", clockwork.came) };
    assert!((AFTER..AFTER + Duration::from_millis(1)).contains(&came), "{came:?}");
    assert!(clockwork.turns > 10, "the poller had nothing to say, so the test proves nothing");
}

#[test]
fn a_connect_that_fails_at_once_is_reported_under_its_token() {
    /// Opens connections to addresses that nobody can connect to, and sends to their tokens.
    #[derive(Default)]
    struct Opener {
        opened: Vec<Token>,
        closed: Vec<Token>,
    }

    impl Role<Echo, Simulated> for Opener {
        fn advance(&mut self, event_loop: &mut EventLoop<Echo, Simulated>) -> bool {
            while self.opened.len() < 4 {
                let token = event_loop.connect(SERVER.into(), Echo);
                assert_eq!(event_loop.open_connections(), 0, "it was not registered");
                assert!(event_loop.send(token, b"to nobody").is_err());
                assert!(
                    !self.opened.contains(&token) || self.closed.contains(&token),
                    "the role has not heard of it yet"
                );
                if let Some(&before) = self.opened.last() {
                    assert!(!event_loop.join(before, token), "neither is there");
                }
                self.opened.push(token);
            }
            false
        }

        fn handle(&mut self, event: Event<Echo>, event_loop: &mut EventLoop<Echo, Simulated>) {
            let Event::Closed { token, end, .. } = event else { panic!("{event:?}") };
            assert!(matches!(end, End::ConnectFailed(_)), "{end:?}");
            self.closed.push(token);
            event_loop.stop_listening();
        }
    }

    let (network, mut event_loop) = loop_for(100, Timeouts::default(), || Echo);
    network.borrow_mut().weather.register_fails = 1000;
    let mut opener = Opener::default();
    event_loop.run(&mut opener).unwrap();
    assert_eq!(opener.closed, opener.opened, "each once, in their order");
}

#[test]
fn the_token_of_a_connection_that_ended_goes_to_no_connect_before_the_role_heard_of_the_end() {
    /// When one of two connections ends, opens a third before it handles the end of the second, and closes the second.
    #[derive(Default)]
    struct Opener {
        opened: Vec<Token>,
        connected: usize,
        closed: Vec<(Token, End)>,
    }

    impl Role<Echo, Simulated> for Opener {
        fn advance(&mut self, event_loop: &mut EventLoop<Echo, Simulated>) -> bool {
            while self.opened.len() < 2 {
                self.opened.push(event_loop.connect(SERVER.into(), Echo));
            }
            false
        }

        fn handle(&mut self, event: Event<Echo>, event_loop: &mut EventLoop<Echo, Simulated>) {
            match event {
                Event::Connected { .. } => {
                    self.connected += 1;
                    if self.connected == 2 {
                        for &token in &self.opened {
                            event_loop.close(token);
                        }
                    } else if self.connected == 3 {
                        event_loop.stop();
                    }
                }
                Event::Closed { token, end, .. } => {
                    self.closed.push((token, end));
                    if self.closed.len() == 1 {
                        let second = if token == self.opened[0] { self.opened[1] } else { self.opened[0] };
                        assert!(event_loop.connection(second).is_none(), "both are over");
                        let third = event_loop.connect(SERVER.into(), Echo);
                        assert_ne!(third, second);
                        self.opened.push(third);
                        event_loop.close(second); // Reaches nobody.
                    }
                }
                _ => {}
            }
        }
    }

    // Nobody accepts: only the connections that the role opens are there.
    let (_network, mut event_loop) = loop_for(0, Timeouts::default(), || Echo);
    let mut opener = Opener::default();
    event_loop.run(&mut opener).unwrap();
    assert_eq!((opener.connected, opener.closed.len()), (3, 2), "{:?}", opener.closed);
}
