//! What is measured: how many connections do what.
//!
//! Owns the table of scenarios. Knows nothing about servers or about how load is made.

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    pub name: &'static str,
    /// For people: connections x size x in flight, or what else is done.
    pub what: &'static str,
    pub load: Load,
    /// Only for the few peers that are nearest to the floor: the others would take most of the time.
    pub few_peers: bool,
}

/// What the generator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Messages there and back, so many in flight on each connection.
    Messages(Messages),
    /// The same twice, the second time beside so many connections that do nothing.
    Crowd { at_work: Messages, idle: usize },
    /// Connect, one message there and back, close; so many at a time.
    Churn { at_a_time: usize, size: usize },
    /// So many connections that did one message once and do nothing any more.
    Idle { connections: usize },
}

/// A closed loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Messages {
    pub connections: usize,
    pub size: usize,
    pub in_flight: usize,
    /// The generator polls without sleeping.
    pub spin: bool,
}

const fn messages(connections: usize, size: usize, in_flight: usize) -> Load {
    Load::Messages(Messages { connections, size, in_flight, spin: false })
}

const fn scenario(name: &'static str, what: &'static str, load: Load) -> Scenario {
    Scenario { name, what, load, few_peers: false }
}

const fn scale(name: &'static str, what: &'static str, connections: usize) -> Scenario {
    Scenario { name, what, load: messages(connections, 64, 1), few_peers: true }
}

const SPINNING: Load = Load::Messages(Messages { connections: 1, size: 64, in_flight: 1, spin: true });
const AT_WORK: Messages = Messages { connections: 50, size: 64, in_flight: 1, spin: false };

/// Those of the echo servers, in the order of the report.
pub const ALL: [Scenario; 14] = [
    scenario("ping", "1 x 64 B x 1", messages(1, 64, 1)),
    Scenario { few_peers: true, ..scenario("ping-spin", "1 x 64 B x 1, the generator spinning", SPINNING) },
    scenario("echo", "50 x 512 B x 1", messages(50, 512, 1)),
    scenario("many", "1,000 x 64 B x 1", messages(1000, 64, 1)),
    scenario("pipeline", "10 x 1 KiB x 16", messages(10, 1024, 16)),
    scenario("bulk", "4 x 64 KiB x 4", messages(4, 64 * 1024, 4)),
    scenario("crowd", "50 x 64 B x 1 beside 15,000 idle", Load::Crowd { at_work: AT_WORK, idle: 15_000 }),
    scale("scale-10", "10 x 64 B x 1", 10),
    scale("scale-100", "100 x 64 B x 1", 100),
    scale("scale-1000", "1,000 x 64 B x 1", 1000),
    scale("scale-10000", "10,000 x 64 B x 1", 10_000),
    scale("scale-18000", "18,000 x 64 B x 1", 18_000),
    scenario("churn", "50 at a time: connect, 64 B there and back, close", Load::Churn { at_a_time: 50, size: 64 }),
    scenario("idle", "15,000 that do nothing", Load::Idle { connections: 15_000 }),
];

/// Those of the proxies. Each connection is two there, and the echo server behind shares the load's core.
pub const PROXIES: [Scenario; 5] = [
    scenario("ping", "1 x 64 B x 1", messages(1, 64, 1)),
    scenario("echo", "50 x 512 B x 1", messages(50, 512, 1)),
    scenario("many", "200 x 64 B x 1", messages(200, 64, 1)),
    scenario("bulk", "4 x 64 KiB x 4", messages(4, 64 * 1024, 4)),
    scenario("churn", "50 at a time: connect, 64 B there and back, close", Load::Churn { at_a_time: 50, size: 64 }),
];

impl Scenario {
    /// Whether `name` asks for it: its own name, or the part before a hyphen for all of a family.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    }

    /// The bytes of a message.
    pub fn size(&self) -> Option<usize> {
        match self.load {
            Load::Messages(load) => Some(load.size),
            _ => None,
        }
    }

    /// The sizes of the curve.
    pub fn scale(&self) -> Option<usize> {
        match self.load {
            Load::Messages(load) if self.name.starts_with("scale-") => Some(load.connections),
            _ => None,
        }
    }

    /// How long it should be measured, as a multiple of what was asked for: with thousands of connections, a round of
    /// all of them takes a while.
    pub fn patience(&self) -> u32 {
        match self.load {
            Load::Messages(load) if load.connections >= 10_000 => 2,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_called_by_its_first_name() {
        let called = |name: &str| ALL.iter().filter(|scenario| scenario.is_called(name)).count();
        assert_eq!(called("scale"), 5);
        assert_eq!(called("scale-10"), 1);
        assert_eq!(called("ping"), 2);
        assert_eq!(called("echo"), 1);
        assert_eq!(called("ech"), 0);
    }
}
