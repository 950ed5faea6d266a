//! A library to preload that makes the kernel's rare, honest faults frequent.
//!
//! Owns the wrappers around `send`, `recv`, `accept4` and `epoll_wait` (all that std and mio call on a non-blocking
//! connection), the dice that they throw and the counts of what they did. Never changes a byte, and never does what no
//! kernel does: a program that loses a byte under it, stalls or ends has a fault of its own.
//!
//! ```sh
//! cargo build --release -p faults
//! LD_PRELOAD=target/release/libfaults.so FAULTS_SEED=7 FAULTS_COUNTS=/tmp/counts multiconn-server 127.0.0.1 65432
//! ```
//!
//! `FAULTS_SEED` (a number, 0 if it is missing) chooses the world: the same seed throws the same dice in the same order.
//! When the program exits, it appends one line `fault count` for each fault to the file `FAULTS_COUNTS`. Nothing is
//! printed.
//!
//! # Why each of them is honest
//! - **A send that takes 1 to 7 bytes** of more (half of all sends): send(2) may take as little as it likes, and does
//!   when the socket is almost full. The peer's reads then come short by themselves.
//! - **`EINTR`** from `send`, `recv`, `accept4` and `epoll_wait`, the call not done: signal(7) allows it for each of them,
//!   and it promises nothing about readiness. Not for calls with `MSG_DONTWAIT`, which is how a signal handler wakes its
//!   loop: no signal interrupts them, and their caller has nobody to report to.
//! - **Errors of `accept4`**, the connection left in the queue: accept(2) lists them. Some say that a connection or its
//!   network is gone, and the next in the queue is as good as the one that was taken off; the others that descriptors or
//!   memory are out, and with those the kernel takes nothing off. No edge follows in either case.
//! - **An event reported twice** in a batch: an edge that comes while the batch is filled may be a second event.
//! - **An event of a token seen before** to which nothing happened, as readable and writable: epoll(7) calls readiness a
//!   hint; the loop's connection may be gone by then, or its token another's.
//! - **An event with a token that was never registered**: a descriptor that was inherited, or registered by other code.
//!
//! Events are only added to real ones and where there is room, so that an idle program stays idle.
//!
//! # Two that mislead, and are left out
//! - **Cutting `recv`**, or injecting `EAGAIN`: while bytes are left, no kernel reads short of what is asked for, urgent
//!   mark aside, or says that it would block. On an edge-triggered poller no edge follows, so that the program stalls by
//!   the library's fault.
//! - **A return value without the call** (as strace's `retval=` has it): the bytes said to be sent are lost.
//!
//! `connect` is left alone, too: on a non-blocking socket it is never interrupted, and what it can fail with otherwise
//! needs no luck to be provoked.

use std::io::Write;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use libc::{c_char, c_int, c_void, epoll_event, sockaddr, socklen_t, ssize_t};

/// What can be injected; indexes [`COUNTS`].
#[derive(Clone, Copy)]
enum Fault {
    SendCut,
    SendInterrupted,
    RecvInterrupted,
    AcceptInterrupted,
    AcceptGone,
    AcceptExhausted,
    WaitInterrupted,
    EventTwice,
    EventSpurious,
    EventUnknown,
}

/// As the file of counts has them.
const NAMES: [&[u8]; 10] = [
    b"send-cut",
    b"send-interrupted",
    b"recv-interrupted",
    b"accept-interrupted",
    b"accept-gone",
    b"accept-exhausted",
    b"wait-interrupted",
    b"event-twice",
    b"event-spurious",
    b"event-unknown",
];

static COUNTS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];

/// accept(2): the connection is gone, or its network is.
const GONE: [c_int; 9] = [
    libc::ECONNABORTED,
    libc::EPROTO,
    libc::EPERM,
    libc::ENETDOWN,
    libc::ENOPROTOOPT,
    libc::EHOSTDOWN,
    libc::ENONET,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
];

/// accept(2): the process or the system is out of something.
const EXHAUSTED: [c_int; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];

/// Programs count their tokens up from 0 or down from the highest one; nobody has those in the middle.
const UNKNOWN: u64 = 1 << 62;

static DICE: Dice = Dice(AtomicU64::new(0));
static SEEN: Seen = Seen { tokens: [const { AtomicU64::new(0) }; 64], noted: AtomicUsize::new(0) };

/// `SplitMix64` over a counter: no lock, and safe in a signal handler. The tests have another; this library is loaded into
/// other programs and shares no code with them.
struct Dice(AtomicU64);

impl Dice {
    fn throw(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut bits = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn below(&self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        usize::try_from(self.throw() % limit).unwrap_or(0)
    }

    /// Yes, once in so many times.
    fn one_in(&self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// The tokens of the last events.
struct Seen {
    tokens: [AtomicU64; 64],
    noted: AtomicUsize,
}

impl Seen {
    fn note(&self, token: u64) {
        let index = self.noted.fetch_add(1, Ordering::Relaxed) % self.tokens.len();
        self.tokens[index].store(token, Ordering::Relaxed);
    }

    fn any(&self, dice: &Dice) -> Option<u64> {
        let noted = self.noted.load(Ordering::Relaxed).min(self.tokens.len());
        (noted > 0).then(|| self.tokens[dice.below(noted)].load(Ordering::Relaxed))
    }
}

/// How much of a send is passed on: half of those that can be cut are, to 1 to 7 bytes.
fn cut(length: usize, dice: &Dice) -> usize {
    if length > 1 && dice.one_in(2) { (1 + dice.below(7)).min(length - 1) } else { length }
}

/// The error that an accept is to fail with, if any: one in eight is interrupted, one in eight meets a connection that
/// is gone, one in 32 finds descriptors or memory out (fewer, as the program then has to wait).
fn accept_error(dice: &Dice) -> Option<(Fault, c_int)> {
    match dice.below(32) {
        0..4 => Some((Fault::AcceptInterrupted, libc::EINTR)),
        4..8 => Some((Fault::AcceptGone, GONE[dice.below(GONE.len())])),
        8 => Some((Fault::AcceptExhausted, EXHAUSTED[dice.below(EXHAUSTED.len())])),
        _ => None,
    }
}

fn count(fault: Fault) {
    COUNTS[fault as usize].fetch_add(1, Ordering::Relaxed);
}

/// Fails a call with `errno` and counts why.
fn fail(fault: Fault, errno: c_int) {
    count(fault);
    // SAFETY: the address is that of this thread's errno, which nothing else refers to now.
    unsafe { *libc::__errno_location() = errno };
}

/// The function that a wrapper stands before.
struct Real(AtomicPtr<c_void>);

impl Real {
    const fn unknown() -> Real {
        Real(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// Its address. `name` ends with a NUL. The library looks all of them up when it is loaded, so that no signal
    /// handler has to: only other libraries' constructors may come earlier.
    fn get(&self, name: &'static [u8]) -> *mut c_void {
        let known = self.0.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: every caller's name is a NUL-terminated literal; dlsym(3) only reads it.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast::<c_char>()) };
        if found.is_null() {
            // SAFETY: abort(3) may be called at any time. There is no such function to stand before.
            unsafe { libc::abort() };
        }
        self.0.store(found, Ordering::Relaxed);
        found
    }
}

type Send = unsafe extern "C" fn(c_int, *const c_void, usize, c_int) -> ssize_t;
type Recv = unsafe extern "C" fn(c_int, *mut c_void, usize, c_int) -> ssize_t;
type Accept4 = unsafe extern "C" fn(c_int, *mut sockaddr, *mut socklen_t, c_int) -> c_int;
type EpollWait = unsafe extern "C" fn(c_int, *mut epoll_event, c_int, c_int) -> c_int;

static SEND: Real = Real::unknown();
static RECV: Real = Real::unknown();
static ACCEPT4: Real = Real::unknown();
static EPOLL_WAIT: Real = Real::unknown();

fn real_send() -> Send {
    // SAFETY: the C library's function of this name has this type.
    unsafe { std::mem::transmute::<*mut c_void, Send>(SEND.get(b"send\0")) }
}

fn real_recv() -> Recv {
    // SAFETY: the C library's function of this name has this type.
    unsafe { std::mem::transmute::<*mut c_void, Recv>(RECV.get(b"recv\0")) }
}

fn real_accept4() -> Accept4 {
    // SAFETY: the C library's function of this name has this type.
    unsafe { std::mem::transmute::<*mut c_void, Accept4>(ACCEPT4.get(b"accept4\0")) }
}

fn real_epoll_wait() -> EpollWait {
    // SAFETY: the C library's function of this name has this type.
    unsafe { std::mem::transmute::<*mut c_void, EpollWait>(EPOLL_WAIT.get(b"epoll_wait\0")) }
}

/// Stands before send(2).
///
/// # Safety
/// As send(2): `bytes` points to `length` bytes that may be read.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn send(socket: c_int, bytes: *const c_void, length: usize, flags: c_int) -> ssize_t {
    let mut taken = length;
    if flags & libc::MSG_DONTWAIT == 0 {
        if DICE.one_in(8) {
            fail(Fault::SendInterrupted, libc::EINTR);
            return -1;
        }
        taken = cut(length, &DICE);
        if taken < length {
            count(Fault::SendCut);
        }
    }
    // SAFETY: the caller's promise holds for a part of the bytes as for all of them.
    unsafe { real_send()(socket, bytes, taken, flags) }
}

/// Stands before recv(2).
///
/// # Safety
/// As recv(2): `space` points to `length` bytes that may be written.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn recv(socket: c_int, space: *mut c_void, length: usize, flags: c_int) -> ssize_t {
    if flags & libc::MSG_DONTWAIT == 0 && DICE.one_in(8) {
        fail(Fault::RecvInterrupted, libc::EINTR);
        return -1;
    }
    // SAFETY: the arguments are the caller's, and so is the promise.
    unsafe { real_recv()(socket, space, length, flags) }
}

/// Stands before accept4(2).
///
/// # Safety
/// As accept4(2): `addr` and `length` are null or may be written as it says.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn accept4(socket: c_int, addr: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int {
    if let Some((fault, errno)) = accept_error(&DICE) {
        fail(fault, errno);
        return -1;
    }
    // SAFETY: the arguments are the caller's, and so is the promise.
    unsafe { real_accept4()(socket, addr, length, flags) }
}

/// Stands before `epoll_wait(2)`.
///
/// # Safety
/// As `epoll_wait(2)`: `events` points to room for `room` events.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn epoll_wait(poller: c_int, events: *mut epoll_event, room: c_int, timeout: c_int) -> c_int {
    if DICE.one_in(16) {
        fail(Fault::WaitInterrupted, libc::EINTR);
        return -1;
    }
    // SAFETY: the arguments are the caller's, and so is the promise.
    let happened = unsafe { real_epoll_wait()(poller, events, room, timeout) };
    let (Ok(happened_len), Ok(room)) = (usize::try_from(happened), usize::try_from(room)) else { return happened };
    if happened_len == 0 {
        return happened;
    }
    // SAFETY: the caller gave room for `room` events, of which the kernel filled the first ones, no more than those.
    let filled = unsafe { std::slice::from_raw_parts(events, happened_len) };
    for event in filled {
        SEEN.note(event.u64);
    }
    let mut len = happened_len;
    for (fault, event) in more_events(filled, &DICE).into_iter().flatten() {
        if len < room {
            // SAFETY: `len` is less than `room`, so that is within the caller's array; `filled` ends before it.
            unsafe { events.add(len).write(event) };
            len += 1;
            count(fault);
        }
    }
    c_int::try_from(len).unwrap_or(happened)
}

/// What to add to a batch of events: each kind once in four batches.
fn more_events(happened: &[epoll_event], dice: &Dice) -> [Option<(Fault, epoll_event)>; 3] {
    let anything = u32::from_ne_bytes((libc::EPOLLIN | libc::EPOLLOUT).to_ne_bytes());
    let with = |token| epoll_event { events: anything, u64: token };
    [
        dice.one_in(4).then(|| (Fault::EventTwice, happened[dice.below(happened.len())])),
        dice.one_in(4).then(|| SEEN.any(dice).map(|token| (Fault::EventSpurious, with(token)))).flatten(),
        dice.one_in(4).then(|| (Fault::EventUnknown, with(UNKNOWN + dice.throw() % UNKNOWN))),
    ]
}

extern "C" fn load() {
    if let Some(seed) = std::env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok()) {
        DICE.0.store(seed, Ordering::Relaxed);
        DICE.0.store(DICE.throw(), Ordering::Relaxed); // Neighbouring seeds would otherwise throw much the same.
    }
    let _ = (real_send(), real_recv(), real_accept4(), real_epoll_wait());
}

/// There is nobody to tell that the counts cannot be written; whoever wants them misses them.
extern "C" fn unload() {
    if let Some(path) = std::env::var_os("FAULTS_COUNTS") {
        let mut text = Vec::new();
        for (name, count) in NAMES.iter().zip(&COUNTS) {
            text.extend_from_slice(name);
            text.extend_from_slice(format!(" {}\n", count.load(Ordering::Relaxed)).as_bytes());
        }
        // Appended at once: the processes of one test share the file.
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(&text));
    }
}

/// Called by the dynamic linker before the program begins.
#[used]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static LOAD: extern "C" fn() = load;

/// Called when the program exits.
#[used]
#[cfg_attr(not(test), unsafe(link_section = ".fini_array"))]
static UNLOAD: extern "C" fn() = unload;

#[cfg(test)]
mod tests {
    use super::*;

    fn dice(seed: u64) -> Dice {
        Dice(AtomicU64::new(seed))
    }

    #[test]
    fn the_same_seed_throws_the_same_dice() {
        let throws = |seed| -> Vec<u64> {
            let dice = dice(seed);
            (0..9).map(|_| dice.throw()).collect()
        };
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
        // The published first output of SplitMix64 for the seed 0.
        assert_eq!(throws(0)[0], 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn half_of_the_sends_are_cut_to_one_to_seven_bytes() {
        let dice = dice(1);
        let taken: Vec<usize> = (0..10_000).map(|_| cut(1000, &dice)).collect();
        let cuts: Vec<usize> = taken.into_iter().filter(|&taken| taken < 1000).collect();
        assert!((4800..5200).contains(&cuts.len()), "{}", cuts.len());
        assert_eq!((cuts.iter().min(), cuts.iter().max()), (Some(&1), Some(&7)));
        assert!((0..100).all(|_| cut(1, &dice) == 1 && cut(0, &dice) == 0), "a send of nothing means something else");
        assert!((0..100).all(|_| (1..=2).contains(&cut(2, &dice))));
    }

    #[test]
    fn accepts_fail_now_and_then_and_never_as_if_nobody_waited() {
        let dice = dice(1);
        let errors: Vec<c_int> = (0..10_000).filter_map(|_| accept_error(&dice)).map(|(_, errno)| errno).collect();
        assert!((2500..3200).contains(&errors.len()), "{}", errors.len());
        assert!(GONE.iter().chain(&EXHAUSTED).all(|errno| errors.contains(errno)));
        assert!(!errors.contains(&libc::EAGAIN));
    }

    #[test]
    fn added_events_repeat_one_or_have_a_token_that_was_seen_or_that_nobody_has() {
        let dice = dice(1);
        SEEN.note(5);
        let happened = [epoll_event { events: 1, u64: 3 }];
        for _ in 0..1000 {
            for (fault, event) in more_events(&happened, &dice).into_iter().flatten() {
                let token = event.u64;
                match fault {
                    Fault::EventTwice => assert_eq!(token, 3),
                    Fault::EventSpurious => assert_eq!(token, 5),
                    _ => assert!((UNKNOWN..2 * UNKNOWN).contains(&token)),
                }
            }
        }
    }
}
