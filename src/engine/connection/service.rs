//! The way of a byte: what a connection does when its turn has come.
//!
//! Owns no state. Carries bytes from the wire to the protocol, and the protocol's answers to the wire, ours or a
//! partner's; delivers the end of input, and sends our FIN.

use std::mem;

use crate::engine::buffer::{self, SendBuffer};
use crate::engine::connection::{
    Connection, Context, End, Ending, Marks, Outcome, Reading, SERVICE_BUDGET, Timeout, Transport, Writing,
};
use crate::engine::protocol::{Expects, Outbox, Produced, Protocol, Wishes};
use crate::engine::time::Moment;
use crate::engine::wire::Input;

/// What a protocol answered, for the connection that sends it.
struct Answer<'a> {
    /// That connection's own queue, with what was copied behind it.
    queue: SendBuffer,
    /// What goes out behind the queue, from where it was read.
    tail: &'a [u8],
    wishes: Wishes,
    nothing_waited: bool,
    room_now: usize,
}

impl<T: Transport, P: Protocol> Connection<T, P> {
    /// Lets the protocol take a last look, and closes the socket.
    pub(crate) fn take_leave(mut self) -> P {
        self.let_look();
        self.protocol
    }

    fn let_look(&mut self) {
        let transport = &self.wire.transport;
        self.protocol.ending(&|| transport.tcp_state());
    }

    /// Does what can be done now, within [`SERVICE_BUDGET`]. Returns an outcome and not a `Result`, so that one
    /// connection's error cannot end the loop.
    pub fn service(&mut self, context: &mut Context<'_, T, P>) -> Outcome {
        match self.advance(context) {
            Ok(true) => Outcome::Runnable,
            Ok(false) => Outcome::Waiting,
            Err(end) => {
                self.reset_if_cut_short(&end);
                Outcome::Ended(end)
            }
        }
    }

    /// A FIN says that everything was sent. Where that is not so, closing sends a reset: no peer must take for whole what
    /// was cut short. What comes from a partner may be cut short although nothing waits here.
    #[cold]
    fn reset_if_cut_short(&mut self, end: &End) {
        let is_cut_short = self.marks.has(Marks::JOINED) || !self.outbound.is_empty();
        if matches!(end, End::Reset) || is_cut_short && !matches!(end, End::Finished) {
            self.wire.transport.reset_on_close();
        }
    }

    /// The loop stops: the connection will be closed as it stands.
    pub(crate) fn abandon(&mut self) {
        self.reset_if_cut_short(&End::Closed);
    }

    /// The way of every byte: sends what waits; reads, shows the bytes to the protocol and writes its answer; delivers
    /// the end of input; writes what the protocol produces; sends our FIN if all is done. Returns whether there may be
    /// more to do at once.
    fn advance(&mut self, context: &mut Context<'_, T, P>) -> Result<bool, End> {
        // If no end was decided, this costs one comparison.
        if self.ending != Ending::ByItself
            && let Some(end) = self.ending.due()
        {
            return Err(end);
        }
        if self.is_connecting() && !self.connected(context.now)? {
            return Ok(false);
        }
        let marked = self.marks.has_work();
        if marked {
            self.begin_marked(context)?;
        }
        let mut moved = 0;
        let mut runnable = loop {
            self.flush(context)?;
            let read = self.read(context)?;
            self.deliver_end_of_input(context)?;
            // Behind the read, which may have found that nothing more will come back.
            let produced = self.produce(context)?;
            moved += read + produced;
            // Nothing to read and nothing produced: another round would find nothing to do.
            if produced == 0 && (read == 0 || !self.wire.ready.readable) {
                break false;
            }
            if moved >= SERVICE_BUDGET {
                break true;
            }
        };
        if marked {
            runnable |= self.end_marked(context)?;
        }
        self.shut_down_if_done(context)?;
        if !runnable {
            self.notice_an_error(context)?;
        }
        Ok(runnable)
    }

    /// Shows the protocol again what it left, if that was asked for.
    #[cold]
    fn begin_marked(&mut self, context: &mut Context<'_, T, P>) -> Result<(), End> {
        if self.marks.take(Marks::WOKEN) && !self.takes_nothing() {
            self.show(&[], context)?;
        }
        Ok(())
    }

    /// Tells the protocol that its deadline passed: behind the read, as what it was missing may have come by then. And
    /// finds out whether there is room again for what the role wants to send. Returns whether there is more to do at
    /// once: the protocol may have something to produce now.
    #[cold]
    fn end_marked(&mut self, context: &mut Context<'_, T, P>) -> Result<bool, End> {
        let mut called = false;
        if self.marks.take(Marks::DUE) && self.protocol_deadline().is_some_and(|when| when <= context.now) {
            self.call_protocol(context, |protocol, out| protocol.deadline_passed(out))?;
            called = true;
        }
        if self.outbound.len() <= context.room_now / 2 && self.marks.take(Marks::WANTS_ROOM) {
            context.has_room = true;
        }
        Ok(called)
    }

    /// Finds out whether the connect succeeded.
    fn connected(&mut self, now: Moment) -> Result<bool, End> {
        let through = self.wire.finish_connect().map_err(End::ConnectFailed)?;
        if through {
            // `stop_answering` may have come while the connect was under way.
            let stopped = self.reading == Reading::Discarding || self.writing == Writing::ConnectingToShutDown;
            self.writing = if stopped { Writing::ShuttingDown } else { Writing::Open };
            self.last_active = now; // The time to connect was not idleness.
            self.progress.waiting_since = now;
        }
        Ok(through)
    }

    /// Sends what waits. If all is sent, shows the protocol its unconsumed input again: now its answers have room.
    fn flush(&mut self, context: &mut Context<'_, T, P>) -> Result<(), End> {
        if !self.outbound.is_empty() && self.wire.ready.writable {
            self.send_queue(context)?;
            if self.outbound.is_empty() && !self.takes_nothing() {
                self.show(&[], context)?;
            }
        }
        Ok(())
    }

    /// Writes the queue, as far as the socket takes it.
    fn send_queue(&mut self, context: &mut Context<'_, T, P>) -> Result<(), End> {
        let mut queue = mem::take(&mut self.outbound);
        while self.wire.ready.writable && !queue.is_empty() {
            let taken = self.write(queue.front(), context)?;
            queue.consume(taken);
            if taken > 0 {
                self.peer_took_bytes(context.now); // The socket was full, so the peer has made the room.
            }
        }
        self.outbound = queue;
        Ok(())
    }

    /// Writes `bytes` until the socket takes no more. Returns how many it took.
    #[expect(clippy::inline_always, reason = "on the way of every byte: counted, 25 instructions")]
    #[inline(always)]
    fn write(&mut self, bytes: &[u8], context: &mut Context<'_, T, P>) -> Result<usize, End> {
        let taken = self.wire.write(bytes).map_err(End::Failed)?;
        if taken > 0 {
            self.protocol.log_sent(&bytes[..taken], &self.addr, context.log);
            if !matches!(self.protocol.expects(), Expects::AnswerSince(_)) {
                self.last_active = context.now;
            }
        }
        Ok(taken)
    }

    /// Writes what the protocol produces without input. Returns how many bytes that was.
    fn produce(&mut self, context: &mut Context<'_, T, P>) -> Result<usize, End> {
        if self.writing != Writing::Open || !self.wire.ready.writable || !self.outbound.is_empty() {
            return Ok(0);
        }
        // The peer sent its FIN and may have closed its socket. A write could bring a reset before its last bytes are
        // read. Once that end was read, or while nothing is read, there is nothing to wait for.
        if self.reading == Reading::Open && self.wire.end_is_near() {
            return Ok(0);
        }
        let space = context.scratch.len().min(context.room_now.saturating_sub(self.room_taken()));
        match self.protocol.produce(&mut context.scratch[..space], context.clock) {
            Produced::Bytes(produced) => {
                let scratch = mem::take(&mut context.scratch);
                let taken = self.write(&scratch[..produced], context)?;
                if taken < produced {
                    self.protocol.blocked();
                }
                self.outbound.push(&scratch[taken..produced], context.room_now);
                context.scratch = scratch;
                self.time_the_wait(true, context.now);
                Ok(produced)
            }
            Produced::Nothing => Ok(0),
            Produced::Finished => {
                self.shut_down_as_asked();
                Ok(0)
            }
        }
    }

    /// Reads once and shows the protocol what came. Returns how many bytes that was.
    fn read(&mut self, context: &mut Context<'_, T, P>) -> Result<usize, End> {
        if !self.wire.ready.readable {
            return Ok(0);
        }
        let wanted = self.read_size(context);
        if wanted == 0 {
            return self.no_room_to_read(context);
        }
        // A draining connection reads on to the `WouldBlock` that it waits for.
        let short_read_is_last = context.short_read_is_last && self.ending != Ending::Draining;
        match self.wire.read(&mut context.scratch[..wanted], short_read_is_last).map_err(End::Failed)? {
            Input::Bytes(count) => {
                self.last_active = context.now;
                if self.reading == Reading::Open {
                    let scratch = mem::take(&mut context.scratch);
                    let shown = self.log_and_show(&scratch[..count], context);
                    context.scratch = scratch;
                    shown?;
                }
                Ok(count)
            }
            Input::End => {
                self.reading = match self.reading {
                    Reading::Discarding => Reading::Ended,
                    _ => Reading::EndUnheard,
                };
                Ok(0)
            }
            Input::Nothing => {
                if self.ending == Ending::Draining {
                    self.stop_answering(context.now);
                }
                Ok(0)
            }
        }
    }

    /// How many bytes to read: never more than there is room to queue, because the socket may take none of the answer.
    /// Above the high-water mark, half of the room, nothing is read. Otherwise a stalled transfer would crawl on in
    /// reads of a few bytes each, one whenever a few bytes have left the queue.
    ///
    /// Input that is not answered needs no room in the queue and does not wait for any: the peer may read no more
    /// before we have read what it sent.
    fn read_size(&self, context: &Context<'_, T, P>) -> usize {
        let room = match self.reading {
            Reading::Open if !self.protocol.answers() => context.room_now.saturating_sub(self.inbound.len()),
            Reading::Open => {
                let (queued, room_now) = self.queued_answers(context);
                if queued > room_now / 2 { 0 } else { room_now.saturating_sub(queued + self.inbound.len()) }
            }
            Reading::Discarding => usize::MAX,
            Reading::Held | Reading::Paused | Reading::EndUnheard | Reading::EndHeld | Reading::Ended => 0,
        };
        room.min(context.scratch.len())
    }

    /// How many bytes wait where the protocol's answers go, and how many may. A partner's room is not ours to fill with
    /// input that the protocol leaves.
    #[inline]
    fn queued_answers(&self, context: &Context<'_, T, P>) -> (usize, usize) {
        match &context.partner {
            None => (self.outbound.len(), context.room_now),
            Some(partner) => (partner.connection.outbound.len(), partner.room_now.min(context.room_now)),
        }
    }

    /// Backpressure: does not read. The flag stays, so that reading goes on without another edge. Room comes only from
    /// bytes that are sent: with nothing to send there will never be room, and the connection ends.
    fn no_room_to_read(&self, context: &Context<'_, T, P>) -> Result<usize, End> {
        match self.reading {
            Reading::Open if self.queued_answers(context).0 > 0 => Ok(0),
            Reading::Open if self.inbound.len() >= context.room_most => Err(End::MessageTooLong),
            Reading::Open => Err(End::OutOfMemory),
            _ => Ok(0),
        }
    }

    /// Bytes arrived: logs them, and shows them to the protocol.
    fn log_and_show(&mut self, input: &[u8], context: &mut Context<'_, T, P>) -> Result<(), End> {
        self.protocol.log_received(input, &self.addr, context.log);
        self.show(input, context)
    }

    /// Shows the protocol `input` behind what it left of earlier input, and keeps what it leaves now.
    ///
    /// The input is shown again while the protocol consumes some of it and its answers go out at once. A protocol may
    /// have stopped only because its answers had no more room; nothing else would make it go on.
    fn show(&mut self, input: &[u8], context: &mut Context<'_, T, P>) -> Result<(), End> {
        if self.inbound.is_empty() {
            let left = self.show_while_consumed(input, context)?;
            if !left.is_empty() {
                self.keep(left, context.room_now);
            }
            return Ok(());
        }
        self.keep(input, context.room_now);
        let mut inbound = mem::take(&mut self.inbound);
        let mut consumed = 0;
        loop {
            let shown = self.fitting(&inbound[consumed..], context);
            let left = self.show_while_consumed(shown, context)?.len();
            consumed += shown.len() - left;
            // What was left may want what lies behind it, and there is room for more of that now.
            let refused = left > 0 && (left == shown.len() || consumed + left == inbound.len());
            if refused || shown.is_empty() || self.takes_nothing() || self.queued_answers(context).0 > 0 {
                break;
            }
        }
        let left = inbound.len() - consumed;
        if left > 0 {
            inbound.drain(..inbound.len() - left);
            if left < inbound.capacity() / 2 {
                inbound.shrink_to_fit(); // A long line that was consumed gives its memory back.
            }
            self.inbound = inbound;
        }
        Ok(())
    }

    /// Shows `input` while the protocol consumes some of it and its answers go out at once. Returns what is left.
    fn show_while_consumed<'a>(
        &mut self,
        mut input: &'a [u8],
        context: &mut Context<'_, T, P>,
    ) -> Result<&'a [u8], End> {
        while !input.is_empty() {
            let consumed = self.call_protocol(context, |protocol, out| protocol.receive(input, out))?;
            input = &input[consumed..];
            if consumed == 0 || self.takes_nothing() || self.queued_answers(context).0 > 0 {
                break;
            }
        }
        Ok(input)
    }

    /// The part of kept `input` that is shown now: no more than there is room for in the queue, as a protocol may send all
    /// that it sees. What was just read fits. But memory may be scarcer now than when the rest came.
    fn fitting<'a>(&self, input: &'a [u8], context: &Context<'_, T, P>) -> &'a [u8] {
        if !self.protocol.answers() {
            return input;
        }
        let (queued, room_now) = self.queued_answers(context);
        &input[..input.len().min(room_now.saturating_sub(queued))]
    }

    /// Keeps input that was not consumed. The buffer grows by the rule of the outbound queue.
    fn keep(&mut self, input: &[u8], limit: usize) {
        let (len, capacity) = (self.inbound.len(), self.inbound.capacity());
        self.inbound.reserve_exact(buffer::grown(len + input.len(), capacity, limit) - len);
        self.inbound.extend_from_slice(input);
    }

    /// Tells the protocol of the end of input: at once, unless unconsumed input waits for room for its answers.
    fn deliver_end_of_input(&mut self, context: &mut Context<'_, T, P>) -> Result<(), End> {
        while self.reading == Reading::EndUnheard && (self.inbound.is_empty() || self.queued_answers(context).0 == 0) {
            let before = self.inbound.len();
            self.show(&[], context)?;
            if self.inbound.len() == before && self.reading == Reading::EndUnheard {
                self.reading = Reading::Ended;
                let rest = mem::take(&mut self.inbound);
                self.call_protocol(context, |protocol, out| protocol.end_of_input(&rest, out))?;
                if self.ending == Ending::Draining {
                    self.shut_down(); // The loop ends: nothing more is waited for.
                }
            }
        }
        Ok(())
    }

    /// Calls the protocol and does what it asks for. Its answer goes out here or, if this connection is joined to
    /// another one, there.
    fn call_protocol<'a, 'context: 'a, R>(
        &mut self,
        context: &mut Context<'context, T, P>,
        call: impl FnOnce(&mut P, &mut Outbox<'a>) -> R,
    ) -> Result<R, End> {
        let (queue, room_now) = match &mut context.partner {
            None => (mem::take(&mut self.outbound), context.room_now),
            Some(partner) => (mem::take(&mut partner.connection.outbound), partner.room_now),
        };
        let nothing_waited = queue.is_empty();
        let mut out = Outbox::new(queue, room_now, context.clock);
        let result = call(&mut self.protocol, &mut out);
        let Outbox { mut queue, tail, wishes, .. } = out;
        if !wishes.is_empty() {
            context.notified |= wishes.has(Wishes::NOTIFY);
            if wishes.has(Wishes::HOLD) {
                self.reading = match self.reading {
                    Reading::Open => Reading::Held,
                    Reading::EndUnheard => Reading::EndHeld,
                    other => other,
                };
            }
            if wishes.has(Wishes::ABORT) {
                queue.push(tail, room_now);
                match &mut context.partner {
                    None => self.outbound = queue,
                    Some(partner) => partner.connection.outbound = queue,
                }
                return Err(End::Aborted);
            }
        }
        let answer = Answer { queue, tail, wishes, nothing_waited, room_now };
        if context.partner.is_some() {
            Self::let_partner_send(answer, context)?;
        } else {
            self.send_answer(answer, context)?;
        }
        if wishes.has(Wishes::FINISH) {
            self.stop_answering(context.now);
        }
        Ok(result)
    }

    /// Has the partner send a protocol's answer. Where that fails, it is the partner's end, and with it ours.
    #[inline(never)] // The way of a connection that has no partner stays short.
    fn let_partner_send(answer: Answer<'_>, context: &mut Context<'_, T, P>) -> Result<(), End> {
        let Some(partner) = context.partner.take() else { return Ok(()) };
        *partner.end = partner.connection.send_answer(answer, context).err();
        if let Some(end) = &*partner.end {
            partner.connection.reset_if_cut_short(end);
        }
        let sent = partner.end.is_none();
        context.partner = Some(partner);
        if sent { Ok(()) } else { Err(End::PartnerFailed) }
    }

    /// Sends a protocol's answer. What it borrows from the input is written at once, from where it was read. Only what
    /// the socket does not take is copied.
    #[expect(clippy::inline_always, reason = "on the way of every byte, and called for ourselves or for a partner")]
    #[inline(always)]
    fn send_answer(&mut self, answer: Answer<'_>, context: &mut Context<'_, T, P>) -> Result<(), End> {
        let Answer { queue, tail, wishes, nothing_waited, room_now } = answer;
        if self.writing == Writing::ShutDown {
            return Ok(()); // Nothing can be sent behind our FIN.
        }
        self.outbound = queue;
        let mut taken = 0;
        // A partner may not be connected yet. What is said of its socket then means the connect.
        if !self.is_connecting() {
            if !self.outbound.is_empty() {
                self.send_queue(context)?;
            }
            if self.outbound.is_empty() {
                taken = self.write(tail, context)?;
            }
        }
        self.outbound.push(&tail[taken..], room_now);
        self.time_the_wait(nothing_waited, context.now);
        if self.outbound.len() > room_now {
            return Err(End::Overflow);
        }
        if !wishes.is_empty() && (wishes.has(Wishes::SHUT_DOWN) || wishes.has(Wishes::FINISH)) {
            self.shut_down_as_asked();
        }
        Ok(())
    }

    /// Where nothing is read, no read finds a reset. A write would, but there may be nothing to write for a long time.
    fn notice_an_error(&mut self, context: &Context<'_, T, P>) -> Result<(), End> {
        // An error is reported as the end of what can be read, whatever else it is. So is the peer's FIN, which a held
        // connection leaves be.
        if !self.wire.end_is_near() {
            return Ok(());
        }
        match self.reading {
            Reading::Ended => self.wire.ready.readable = false,
            // The end of input may wait for the partner's room.
            Reading::Held | Reading::Paused | Reading::EndUnheard | Reading::EndHeld => {}
            // The partner may have no room for long, while nothing waits here that a write would try to send.
            Reading::Open if context.partner.is_some() => {}
            Reading::Open | Reading::Discarding => return Ok(()),
        }
        self.wire.look_for_error().map_err(End::Failed)
    }

    /// Sends our FIN once everything is sent. Ends the connection once the peer's FIN was read as well.
    fn shut_down_if_done(&mut self, context: &mut Context<'_, T, P>) -> Result<(), End> {
        if self.writing == Writing::ShuttingDown && self.outbound.is_empty() {
            if self.marks.take(Marks::LAST_WORDS) {
                self.call_protocol(context, |protocol, out| protocol.last_words(out))?;
                if !self.outbound.is_empty() {
                    return Ok(());
                }
            }
            self.writing = Writing::ShutDown;
            self.let_look();
            // With the peer's FIN read, close(2) sends ours: a system call saved on every connection.
            if self.reading != Reading::Ended {
                self.wire.transport.shutdown_write().map_err(End::Failed)?;
                self.last_active = context.now;
            }
        }
        if self.writing == Writing::ShutDown && self.reading == Reading::Ended {
            let idle = self.ending == Ending::Idle;
            return Err(if idle { End::TimedOut(Timeout::Idle) } else { End::Finished });
        }
        Ok(())
    }
}
