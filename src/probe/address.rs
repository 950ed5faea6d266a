//! The address under which the server sees us.
//!
//! Owns the conversation and its row.

use std::net::SocketAddr;

use crate::partner::question::Question;
use crate::probe::behaviour::{Behaviour, Row, Verdict, ending};
use crate::probe::conversation::{Plan, Seen};

/// Whether the server sees our address and port, and whether a proxy says them in a PROXY header.
#[derive(Debug, Default)]
pub struct Address {
    seen: Option<Seen>,
}

impl Behaviour for Address {
    fn next_round(&mut self) -> Vec<Plan> {
        if self.seen.is_some() {
            return Vec::new();
        }
        vec![Plan { ask: Some(Question::Who), ..Plan::default() }]
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.seen = Some(seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let (verdict, seen) = match &self.seen {
            None => (Verdict::Carried, String::new()),
            Some(seen) => judge(seen),
        };
        Row {
            name,
            verdict,
            seen,
            advice: "The server's log, its limits and its access lists see the box and not the client. A proxy can say who \
                     the client is, if the server understands it: a PROXY header (haproxy send-proxy, nginx \
                     proxy_protocol on), or a transparent proxy.",
        }
    }
}

fn judge(seen: &Seen) -> (Verdict, String) {
    let answer = |name| seen.answer.as_ref().and_then(|answer| answer.text(name));
    let peer = answer("peer").and_then(|peer| peer.parse::<SocketAddr>().ok());
    let (Some(peer), Some(local)) = (peer, seen.local) else {
        return match seen.answer {
            Some(_) => (Verdict::NotKnown, "the server's answer has no address".to_owned()),
            None => (Verdict::of(seen), ending(seen)),
        };
    };
    let header = match answer("proxy").and_then(|proxy| proxy.split_once(',')) {
        Some((version, named)) if named == local.to_string() => format!("; a PROXY header ({version}) names us"),
        Some((version, named)) => format!("; a PROXY header ({version}) names {named}"),
        None => String::new(),
    };
    let (verdict, what) = match (peer.ip() == local.ip(), peer.port() == local.port()) {
        (true, true) => (Verdict::Carried, "our address and port".to_owned()),
        (true, false) => (Verdict::Changed, format!("our address, and port {} for our {}", peer.port(), local.port())),
        (false, true) => (Verdict::Changed, format!("{} for our {}, and our port", peer.ip(), local.ip())),
        (false, false) => (Verdict::Changed, format!("{peer} for our {local}")),
    };
    (verdict, format!("the server sees {what}{header}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partner::question::answer;
    use crate::probe::conversation::Ending;

    #[test]
    fn the_row_says_what_of_the_address_was_kept() {
        let row = |peer: &str, proxy: &str| {
            let answer = Some(answer(&format!("peer={peer} proxy={proxy}")));
            let mut address = Address::default();
            let local = Some("192.0.2.1:5000".parse().unwrap());
            address.hear(0, Seen { answer, local, ..Seen::example(Ending::Done) });
            let row = address.row("it");
            (row.verdict, row.seen)
        };
        let cases = [
            ("x", "none", Verdict::NotKnown, "the server's answer has no address"),
            ("192.0.2.1:5000", "none", Verdict::Carried, "the server sees our address and port"),
            ("192.0.2.1:7", "none", Verdict::Changed, "the server sees our address, and port 7 for our 5000"),
            ("192.0.2.9:5000", "none", Verdict::Changed, "the server sees 192.0.2.9 for our 192.0.2.1, and our port"),
            (
                "192.0.2.9:7",
                "v1,192.0.2.1:5000",
                Verdict::Changed,
                "the server sees 192.0.2.9:7 for our 192.0.2.1:5000; a PROXY header (v1) names us",
            ),
            (
                "192.0.2.9:7",
                "v2,unknown",
                Verdict::Changed,
                "the server sees 192.0.2.9:7 for our 192.0.2.1:5000; a PROXY header (v2) names unknown",
            ),
        ];
        for (peer, proxy, verdict, seen) in cases {
            assert_eq!(row(peer, proxy), (verdict, seen.to_owned()));
        }
    }
}
