//! What the loop promises its role, each promise on a network in which nothing goes wrong.
//!
//! Owns one small role for each promise. The worlds check what must be true of every byte.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use multiconn::internals::connection::{End, Timeout, Timeouts};
use multiconn::internals::event_loop::{Event, EventLoop, Limits, Role};
use multiconn::internals::protocol::{Outbox, Produced, Protocol};
use multiconn::internals::time::Clock;
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
