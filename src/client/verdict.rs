//! What was wrong with a connection that is over, if anything was.
//!
//! Owns the choice of the fault's kind from what the exchange saw and how the connection ended.

use std::io::{self, ErrorKind};

use crate::client::cause::Cause;
use crate::client::exchange::Exchange;
use crate::client::fault::{Fault, FaultKind};
use crate::engine::connection::{End, Timeout};
use crate::engine::sockets;

/// Judges a connection that handed `sent` bytes to the system. What the exchange saw first counts, whatever reset may have
/// followed. `others_stand`: there are connections that stand now.
pub(super) fn fault(exchange: &Exchange, end: &End, sent: u64, others_stand: bool) -> Option<Fault> {
    let fault = match exchange.fault() {
        Some(fault) => fault.clone(),
        None => fault_of_end(end, exchange, others_stand)?,
    };
    let stood = !is_failed_connect(end);
    Some(Fault { sent: stood.then_some(sent), returned: stood.then_some(exchange.bytes_echoed()), ..fault })
}

/// Whether the connection never came about.
pub(super) fn is_failed_connect(end: &End) -> bool {
    matches!(end, End::ConnectFailed(_) | End::TimedOut(Timeout::Connect))
}

/// Whether nothing came back to the connect.
pub(crate) fn is_unanswered(end: &End) -> bool {
    match end {
        End::ConnectFailed(error) => error.kind() == ErrorKind::TimedOut,
        end => matches!(end, End::TimedOut(Timeout::Connect)),
    }
}

/// Whether the peer reset the connection.
pub(crate) fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}

/// What an end means if the bytes were right.
fn fault_of_end(end: &End, exchange: &Exchange, others_stand: bool) -> Option<Fault> {
    let with_reason = |kind, reason| Fault { reason, ..Fault::new(kind) };
    let (is_finished, given_up, kernel) = (exchange.is_finished(), exchange.given_up(), exchange.kernel());
    Some(match end {
        // Everything that was sent is back, but not everything was sent.
        End::Finished | End::TimedOut(_) if is_finished && given_up > 0 => {
            with_reason(FaultKind::NoProgress, format!("{given_up} messages could not be begun in time"))
        }
        End::Finished => return None,
        End::ConnectFailed(error) => {
            let kind = match error.kind() {
                ErrorKind::ConnectionRefused => FaultKind::Refused,
                ErrorKind::TimedOut => FaultKind::ConnectTimeout,
                _ if is_reset(error) => FaultKind::Reset,
                _ => FaultKind::ConnectFailed,
            };
            let cause = kernel.filter(|_| kind == FaultKind::ConnectTimeout).map(Cause::of_connect);
            let reason = format!("{error}; {}", sockets::connect_advice(error, others_stand));
            Fault { cause, ..with_reason(kind, reason) }
        }
        End::TimedOut(Timeout::Connect) => {
            let advice = sockets::connect_advice(&ErrorKind::TimedOut.into(), others_stand);
            let cause = kernel.map(Cause::of_connect);
            Fault { cause, ..with_reason(FaultKind::ConnectTimeout, format!("no answer; {advice}")) }
        }
        End::TimedOut(_) => {
            let cause = kernel.map(|state| Cause::of_silence(state, exchange.bytes_echoed()));
            let kind = if is_finished { FaultKind::Unclosed } else { FaultKind::NoProgress };
            Fault { cause, ..Fault::new(kind) }
        }
        End::Failed(error) if is_reset(error) => with_reason(FaultKind::Reset, error.to_string()),
        end => with_reason(FaultKind::Failed, end.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use tcp_state::TcpState;

    use super::*;
    use crate::client::load::{Content, Load, Pacing};
    use crate::client::measure::NoMeter;
    use crate::client::rate::Rate;
    use crate::client::schedule::Run;
    use crate::engine::buffer::SendBuffer;
    use crate::engine::protocol::{Outbox, Produced, Protocol};
    use crate::engine::time::Moment;

    /// An exchange that has sent the first of these texts.
    fn exchange_of(texts: &[&[u8]]) -> Exchange {
        let run = Run::new(Load::texts(texts.iter().map(|text| text.to_vec())), 3, Box::new(NoMeter));
        run.begin(Moment::START, 3);
        let mut exchange = Exchange::new(3, Rc::new(run));
        exchange.produce(&mut [0; 16], &Moment::START);
        exchange
    }

    fn exchange() -> Exchange {
        exchange_of(&[b"hello"])
    }

    fn kind(exchange: &Exchange, end: &End) -> Option<FaultKind> {
        fault(exchange, end, 5, false).map(|fault| fault.kind)
    }

    #[test]
    fn every_end_has_its_kind() {
        let exchange = exchange();
        let error = |kind: ErrorKind| io::Error::from(kind);
        let refused = End::ConnectFailed(error(ErrorKind::ConnectionRefused));
        assert_eq!(kind(&exchange, &refused), Some(FaultKind::Refused));
        assert_eq!(kind(&exchange, &End::TimedOut(Timeout::Connect)), Some(FaultKind::ConnectTimeout));
        let unreachable = End::ConnectFailed(error(ErrorKind::NetworkUnreachable));
        assert_eq!(kind(&exchange, &unreachable), Some(FaultKind::ConnectFailed));
        assert_eq!(kind(&exchange, &End::TimedOut(Timeout::Idle)), Some(FaultKind::NoProgress));
        assert_eq!(kind(&exchange, &End::Failed(error(ErrorKind::BrokenPipe))), Some(FaultKind::Reset));
        assert_eq!(kind(&exchange, &End::Failed(error(ErrorKind::WriteZero))), Some(FaultKind::Failed));
    }

    #[test]
    fn a_whole_echo_that_is_not_closed_is_no_success() {
        let mut exchange = exchange();
        exchange.receive(b"hello", &mut Outbox::new(SendBuffer::new(), 100, &Moment::START));
        exchange.produce(&mut [0; 16], &Moment::START);
        assert_eq!(kind(&exchange, &End::Finished), None);
        assert_eq!(kind(&exchange, &End::TimedOut(Timeout::Idle)), Some(FaultKind::Unclosed));
    }

    #[test]
    fn a_truncation_stays_one_whatever_reset_follows() {
        let mut exchange = exchange();
        exchange.end_of_input(&[], &mut Outbox::new(SendBuffer::new(), 100, &Moment::START));
        let reset = End::Failed(ErrorKind::ConnectionReset.into());
        assert_eq!(kind(&exchange, &reset), Some(FaultKind::Truncated));
    }

    #[test]
    fn faults_say_how_many_bytes_were_sent_and_how_many_of_them_are_back() {
        let mut exchange = exchange();
        exchange.receive(b"hel", &mut Outbox::new(SendBuffer::new(), 100, &Moment::START));
        for (end, detail) in [
            (End::Failed(ErrorKind::ConnectionReset.into()), "connection reset; 3 of 4 bytes sent are back"),
            (End::TimedOut(Timeout::Idle), "nothing moves; 3 of 4 bytes sent are back"),
        ] {
            // A byte of the five still waits in our own queue.
            let fault = fault(&exchange, &end, 4, false).unwrap();
            assert_eq!((fault.sent, fault.returned, &*fault.to_string()), (Some(4), Some(3), detail));
        }
        let refused = End::ConnectFailed(ErrorKind::ConnectionRefused.into());
        let found = fault(&exchange, &refused, 0, false).unwrap();
        assert_eq!((found.sent, found.returned), (None, None), "it never stood");

        exchange.receive(b"lo", &mut Outbox::new(SendBuffer::new(), 100, &Moment::START));
        exchange.produce(&mut [0; 16], &Moment::START);
        let found = fault(&exchange, &End::TimedOut(Timeout::Idle), 5, false).unwrap();
        assert_eq!(found.to_string(), "the peer does not finish; 5 of 5 bytes sent are back");
    }

    #[test]
    fn where_nothing_moves_the_kernels_view_is_part_of_the_fault() {
        let mut exchange = exchange();
        let unacknowledged = TcpState { segments_unacknowledged: 1, timeouts: 3, ..TcpState::default() };
        exchange.ending(&|| Some(unacknowledged));
        let fault_at = |end: &End| fault(&exchange, end, 5, false).unwrap();
        let idle = fault_at(&End::TimedOut(Timeout::Idle));
        assert_eq!(idle.cause, Some(Cause::Unacknowledged { heard: Duration::ZERO, again: 3 }));
        let words =
            "nothing moves; 0 of 5 bytes sent are back; what was sent is not acknowledged, though sent again 3 times ";
        assert!(idle.to_string().starts_with(words), "{idle}");
        for end in [End::TimedOut(Timeout::Connect), End::ConnectFailed(ErrorKind::TimedOut.into())] {
            let unanswered = fault_at(&end);
            assert_eq!(unanswered.cause, Some(Cause::UnansweredSyn { again: 0 }));
            assert!(unanswered.to_string().ends_with("?; the SYN was sent once"), "{unanswered}");
        }
        // What the peer said is cause enough.
        for end in [End::ConnectFailed(ErrorKind::ConnectionRefused.into()), End::Failed(ErrorKind::BrokenPipe.into())]
        {
            assert_eq!(fault_at(&end).cause, None);
        }
    }

    #[test]
    fn a_connection_whose_messages_could_not_be_begun_in_time_is_not_intact() {
        let load = Load::new(Content::Generated { run: 7, size: 5 }, Pacing::Rate(Rate::per_second(10).unwrap()));
        let mut run = Run::new(Load { messages: Some(3), ..load }, 1, Box::new(NoMeter));
        run.patience = Duration::from_millis(100);
        run.begin(Moment::START, 1);
        let mut exchange = Exchange::new(1, Rc::new(run));
        let mut space = [0; 5];
        exchange.produce(&mut space, &Moment::START);
        exchange.receive(&space, &mut Outbox::new(SendBuffer::new(), 100, &Moment::START));
        let late = Moment::after_start(Duration::from_millis(300));
        assert_eq!(exchange.produce(&mut space, &late), Produced::Finished);
        exchange.end_of_input(&[], &mut Outbox::new(SendBuffer::new(), 100, &late));
        for end in [End::Finished, End::TimedOut(Timeout::Idle)] {
            let fault = fault(&exchange, &end, 5, false).unwrap();
            assert_eq!((fault.kind, fault.sent, fault.returned), (FaultKind::NoProgress, Some(5), Some(5)));
            assert_eq!(fault.to_string(), "2 messages could not be begun in time; 5 of 5 bytes sent are back");
        }
    }

    #[test]
    fn a_reset_with_nothing_missing_says_so() {
        let mut exchange = exchange_of(&[b"hello", b"again"]);
        exchange.receive(b"hello", &mut Outbox::new(SendBuffer::new(), 100, &Moment::START));
        let fault = fault(&exchange, &End::Failed(ErrorKind::ConnectionReset.into()), 5, false).unwrap();
        assert_eq!((fault.kind, fault.sent, fault.returned), (FaultKind::Reset, Some(5), Some(5)));
        assert_eq!(fault.to_string(), "connection reset; 5 of 5 bytes sent are back");
    }

    #[test]
    fn a_connect_timeout_while_others_stand_is_a_full_queue_and_no_firewall() {
        for end in [End::TimedOut(Timeout::Connect), End::ConnectFailed(ErrorKind::TimedOut.into())] {
            let detail = |others_stand| fault(&exchange(), &end, 0, others_stand).unwrap().to_string();
            assert!(detail(true).contains("accept queue") && !detail(true).contains("firewall"), "{}", detail(true));
            assert!(detail(false).contains("firewall") && !detail(false).contains("queue"), "{}", detail(false));
        }
    }
}
