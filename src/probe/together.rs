//! Many connections at once, and some that come and go beside them.
//!
//! Owns the conversations and their row.

use std::time::Duration;

use crate::probe::behaviour::{Behaviour, Row, Verdict, ending};
use crate::probe::conversation::{Ending, Plan, Seen, Step};

const AT_ONCE: usize = 200;
const PASSING: u32 = 50;
/// How long those that are held at once stand, and over what time the others come and go.
const STANDING: Duration = Duration::from_secs(1);

/// Whether two hundred connections stand at once, and fifty come and go beside them.
#[derive(Debug, Default)]
pub struct Together {
    begun: bool,
    whole: usize,
    refused: usize,
    reset: usize,
    worst: Option<Seen>,
}

impl Behaviour for Together {
    fn name(&self) -> &'static str {
        "together"
    }

    fn next_round(&mut self) -> Vec<Plan> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        let say = [Step::Send(64), Step::AwaitEcho];
        let standing = [&say[..], &[Step::Quiet(STANDING)], &say, &[Step::ShutDown, Step::AwaitEnd]].concat();
        let passing = [&say[..], &[Step::ShutDown, Step::AwaitEnd]].concat();
        let stand = std::iter::repeat_n(Plan { steps: standing, ..Plan::default() }, AT_ONCE);
        let pass = (0..PASSING).map(|number| Plan {
            delay: STANDING * number / PASSING,
            steps: passing.clone(),
            ..Plan::default()
        });
        stand.chain(pass).collect()
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.whole += usize::from(seen.is_whole());
        self.refused += usize::from(matches!(seen.ending, Ending::NotConnected(_)));
        self.reset += usize::from(matches!(seen.ending, Ending::Reset(_)));
        if !seen.is_whole() {
            self.worst.get_or_insert(seen);
        }
    }

    fn row(&self) -> Row {
        let all = AT_ONCE + PASSING as usize;
        let mut seen = format!("{} of {all} whole ({AT_ONCE} at once, {PASSING} that came and went)", self.whole);
        if let Some(worst) = &self.worst {
            seen += &format!("; {} not connected, {} reset; the first: {}", self.refused, self.reset, ending(worst));
        }
        Row {
            name: self.name(),
            verdict: self.worst.as_ref().map_or(Verdict::Carried, Verdict::of),
            seen,
            advice: "Above some number connections wait or fail: a limit on connections (haproxy maxconn, nginx \
                     worker_connections, a firewall's connlimit) or on descriptors (ulimit -n)",
        }
    }
}
