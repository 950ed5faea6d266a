//! `multiconn-server --probes`, spoken to by hand as docs/probe-protocol.md has it.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use common::relay::Relay;
use common::schema::check_against;
use common::{PATIENCE, Server, client, expect, expect_end, ping};
use multiconn::client::pattern::Pattern;
use multiconn::partner::REMEMBERED;
use rustix::process::Signal;
use serde_json::Value;

const LANGUAGE: &str = "multiconn-probe/1 ";

fn server() -> Server {
    Server::start(&["--probes"])
}

/// A connection that asked a question, and what a partner said.
struct Asked {
    reader: BufReader<TcpStream>,
    answer: BTreeMap<String, String>,
}

impl Asked {
    fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    #[track_caller]
    fn number(&self, name: &str) -> u64 {
        self.answer[name].parse().unwrap()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line
    }

    /// The bytes up to the end, and how it ended.
    fn rest(&mut self) -> (Vec<u8>, Option<ErrorKind>) {
        let mut rest = Vec::new();
        let end = self.reader.read_to_end(&mut rest).err().map(|error| error.kind());
        (rest, end)
    }
}

/// Asks on a new connection, expects the echo of the question around the answer, and reads the answer.
#[track_caller]
fn ask(server: &Server, question: &str) -> Asked {
    ask_on(server.connect(), question)
}

#[track_caller]
fn ask_on(mut stream: TcpStream, question: &str) -> Asked {
    // Its beginning comes back before there is a question.
    ping(&mut stream, LANGUAGE.as_bytes());
    let question = format!("{question}\n");
    stream.write_all(question.as_bytes()).unwrap();
    stream.write_all(b"\n").unwrap();
    let mut asked = Asked { reader: BufReader::new(stream), answer: BTreeMap::new() };
    assert_eq!(asked.line(), question);
    let answer = asked.line();
    let pairs = answer
        .strip_prefix(LANGUAGE)
        .and_then(|answer| answer.trim_end().strip_prefix("ok "))
        .unwrap_or_else(|| panic!("{answer}"));
    let pairs = pairs.split(' ').map(|pair| pair.split_once('=').unwrap());
    asked.answer = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(asked.line(), "\n");
    asked
}

/// What the server says of a connection.
fn end_of(server: &Server, asked: &Asked) -> Asked {
    ask(server, &format!("end {} {}", asked.answer["server"], asked.answer["connection"]))
}

/// The same once the connection is over.
fn until_over(server: &Server, asked: &Asked) -> Asked {
    let begun = Instant::now();
    loop {
        let end = end_of(server, asked);
        if end.answer["state"] != "open" {
            return end;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not end: {:?}", end.answer);
    }
}

/// The bytes that the server sends to a connection.
fn from_server(asked: &Asked, length: usize) -> Vec<u8> {
    let word = u64::from_str_radix(&asked.answer["stream"], 16).unwrap();
    let mut bytes = vec![0; length];
    Pattern::with_word(word.to_be_bytes(), 0).fill(0, &mut bytes);
    bytes
}

#[test]
fn every_other_connection_is_echoed_as_ever() {
    let server = server();
    let mut stream = server.connect();
    // Each piece comes back before the next one is sent, although all together could become a question.
    for piece in ["m", "ulticonn", "-probe/1 ", "wh", "y? ", "anything"] {
        ping(&mut stream, piece.as_bytes());
    }
    for text in ["P", "PROXY", "\r\n", "\r\n\r\n\0\r\nQUI", "multiconn-probe/2 who\n\n", "PROXY of nobody\r\n"] {
        let mut stream = server.connect();
        ping(&mut stream, text.as_bytes());
        ping(&mut stream, text.as_bytes());
    }
    let mut stream = server.connect();
    ping(&mut stream, b"multiconn-probe/1 wh");
    stream.shutdown(Shutdown::Write).unwrap();
    expect_end(&mut stream);
    // The beginning of a PROXY header is kept for its end. If that does not come, it is echoed.
    let mut stream = server.connect();
    stream.write_all(b"PROXY TCP4 192.0.2.1").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    expect(&mut stream, b"PROXY TCP4 192.0.2.1");
    expect_end(&mut stream);
}

#[test]
fn without_the_option_a_question_is_an_echo() {
    let server = Server::start(&[]);
    ping(&mut server.connect(), b"multiconn-probe/1 who\n\nmore");
    ping(&mut server.connect(), b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 7\r\nmore");
}

#[test]
fn a_question_is_echoed_answered_and_followed_by_the_echo() {
    let server = server();
    let stream = server.connect();
    let local = stream.local_addr().unwrap().to_string();
    let mut asked = ask_on(stream, "who");
    assert_eq!((&asked.answer["peer"], &asked.answer["local"]), (&local, &server.addr.to_string()));
    assert_eq!((asked.answer["server"].len(), asked.answer["proxy"].as_str()), (16, "none"));
    ping(asked.stream(), b"multiconn-probe/1 who\n\n");
    // Connections are counted, and all have the same server.
    let next = ask(&server, "who");
    assert_eq!(
        (next.number("connection"), &next.answer["server"]),
        (asked.number("connection") + 1, &asked.answer["server"])
    );
}

#[test]
fn a_question_may_come_byte_by_byte_and_with_everything_behind_it() {
    let server = server();
    let mut stream = server.connect();
    for byte in b"multiconn-probe/1 who" {
        ping(&mut stream, &[*byte]);
    }
    stream.write_all(b"\n\nbehind").unwrap();
    let mut reader = BufReader::new(stream);
    let mut lines = String::new();
    for _ in 0..3 {
        reader.read_line(&mut lines).unwrap();
    }
    assert!(lines.starts_with("\nmulticonn-probe/1 ok server=") && lines.ends_with("\n\n"), "{lines:?}");
    let mut behind = [0; 6];
    reader.read_exact(&mut behind).unwrap();
    assert_eq!(&behind, b"behind");
}

#[test]
fn a_wrong_question_is_answered_with_what_is_wrong() {
    let server = server();
    for (question, why) in [("hello", "unknown question"), ("finish 99999999999", "a number is too large")] {
        let mut stream = server.connect();
        stream.write_all(format!("{LANGUAGE}{question}\n\nmore").as_bytes()).unwrap();
        expect(&mut stream, format!("{LANGUAGE}{question}\n{LANGUAGE}error {why}\n\nmore").as_bytes());
    }
}

#[test]
fn a_proxy_header_in_front_is_taken_off_and_told() {
    let server = server();
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x13\x88\0\x07";
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 7\r\n";
    for (header, told) in [(&line[..], "v1,192.0.2.1:5000"), (&binary[..], "v2,192.0.2.1:5000")] {
        let mut stream = server.connect();
        stream.write_all(header).unwrap();
        assert_eq!(ask_on(stream, "who").answer["proxy"], told);
        let mut stream = server.connect();
        stream.write_all(header).unwrap();
        ping(&mut stream, b"an echo"); // Of what is not the proxy's.
        let mut stream = server.connect();
        stream.write_all(&header[..20]).unwrap();
        std::thread::sleep(Duration::from_millis(50)); // Nothing tells that it was read, alone.
        stream.write_all(&header[20..]).unwrap();
        ping(&mut stream, b"a header in two pieces");
    }
}

#[test]
fn finish_sends_its_bytes_and_a_fin_and_counts_what_comes_behind_it() {
    let server = server();
    for length in [0, 1, 5_000_000] {
        let mut asked = ask(&server, &format!("finish {length}"));
        let (rest, end) = asked.rest();
        assert_eq!((rest.len(), end), (length, None));
        assert!(rest == from_server(&asked, length));
        asked.stream().write_all(&[7; 1234]).unwrap();
        assert_eq!(end_of(&server, &asked).answer["state"], "open");
        asked.stream().shutdown(Shutdown::Write).unwrap();
        let end = until_over(&server, &asked);
        assert_eq!((end.answer["state"].as_str(), end.number("received")), ("fin", 1234));
    }
}

#[test]
fn reset_and_close_end_with_a_reset_behind_their_bytes() {
    let server = server();
    let mut asked = ask(&server, "reset 16384");
    assert_eq!(asked.rest(), (from_server(&asked, 16384), Some(ErrorKind::ConnectionReset)));

    let begun = Instant::now();
    let mut asked = ask(&server, "close 1000 300");
    asked.stream().write_all(&vec![7; 100_000]).unwrap();
    assert_eq!(asked.rest(), (from_server(&asked, 1000), Some(ErrorKind::ConnectionReset)));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    // Also if what is unread came with the question.
    let mut stream = server.connect();
    stream.write_all(b"multiconn-probe/1 close 0 300\n\nunread").unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // Without unread bytes, a close is an end in order.
    let mut asked = ask(&server, "close 1000 0");
    assert_eq!(asked.rest(), (from_server(&asked, 1000), None));
}

#[test]
fn hold_reads_nothing_and_everything_afterwards() {
    let server = server();
    let mut asked = ask(&server, "hold 700");
    let begun = Instant::now();
    let length = 30_000_000; // More than the kernels' buffers.
    asked.stream().write_all(&vec![7; length]).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    asked.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(asked.rest(), (Vec::new(), None));
    let end = until_over(&server, &asked);
    assert_eq!((end.answer["state"].as_str(), end.number("received")), ("fin", length as u64));
    assert!(end.number("unread") > 0, "{:?}", end.answer);
}

#[test]
fn the_end_of_a_connection_is_told_as_the_server_saw_it() {
    let server = server();
    let asked = ask(&server, "who");
    assert_eq!(end_of(&server, &asked).answer["state"], "open");
    let about = Asked { reader: BufReader::new(server.connect()), answer: asked.answer };
    common::reset(asked.reader.into_inner());
    assert_eq!(until_over(&server, &about).answer["state"], "reset");

    let number = about.number("connection");
    let elsewhere = ask(&server, &format!("end 0123456789abcdef {number}"));
    assert_eq!(elsewhere.answer["state"], "unknown", "another server is asked for");
    let never = ask(&server, &format!("end {} 999999", about.answer["server"]));
    assert_eq!(never.answer["state"], "unknown");
}

#[test]
fn an_account_says_what_came_of_a_generated_stream() {
    let server = server();
    let stream = Pattern::new(99, 1);
    let mut bytes = vec![0; 100_000];
    stream.fill(0, &mut bytes);
    let account = |open: bool, right: u64| {
        let name = format!("account {:016x}", stream.first_word());
        let begun = Instant::now();
        loop {
            let asked = ask(&server, &name);
            if asked.answer["state"] == if open { "open" } else { "fin" } && asked.number("received") == 100_000 {
                return assert_eq!(asked.number("right"), right, "{:?}", asked.answer);
            }
            assert!(begun.elapsed() < PATIENCE, "{:?}", asked.answer);
        }
    };
    assert_eq!(ask(&server, &format!("account {:016x}", stream.first_word())).answer["state"], "unknown");
    let mut connection = server.connect();
    ping(&mut connection, &bytes);
    account(true, 100_000);
    drop(connection);
    account(false, 100_000);
    // The newest with that name is told, and the question in front of a stream is no part of it.
    bytes[77_777] ^= 1;
    let mut asked = ask(&server, "who");
    ping(asked.stream(), &bytes);
    account(true, 77_777);
}

#[test]
fn the_client_says_on_which_way_a_byte_was_changed() {
    let partner = server();
    let plain = Server::start(&[]);
    // A question and its answer are shorter, and pass.
    for at in [700, 999] {
        for (there, to, way, words) in [
            (true, partner.addr, "there", format!("; on the way there: at byte {at} it was wrong at the server")),
            (false, partner.addr, "back", "; on the way back: 1000 bytes reached the server right".to_owned()),
            (true, plain.addr, "unknown", String::new()),
        ] {
            let relay = if there {
                Relay { flips_there: Some(at), ..Relay::default() }
            } else {
                Relay { flips_back: Some(at), ..Relay::default() }
            };
            let relay = relay.start(&[to]);
            let run = client(relay, 2, &["--size", "1000", "--json", "-q"]);
            let report: Value = serde_json::from_str(&run.stdout).unwrap();
            check_against("report.schema.json", &report);
            for fault in report["faults"].as_array().unwrap() {
                assert_eq!(
                    (&fault["kind"], &fault["offset"], &fault["way"]),
                    (&"corrupted".into(), &at.into(), &way.into()),
                    "{fault}"
                );
                let detail = fault["detail"].as_str().unwrap();
                assert!(detail.ends_with(&words) && detail.contains("on the way") != words.is_empty(), "{detail}");
            }
            let text = client(relay, 1, &["--size", "1000", "-q"]).stdout;
            assert_eq!(
                text.contains("\nway          unknown: the server keeps no account (multiconn-server --probes"),
                way == "unknown",
                "{text}"
            );
        }
    }
    // Nobody is asked about messages that show no place, and nobody has to be there.
    let relay = Relay { flips_there: Some(5), ..Relay::default() }.start(&[partner.addr]);
    let report: Value = serde_json::from_str(&client(relay, 1, &["--json", "-q"]).stdout).unwrap();
    assert_eq!((&report["faults"][0]["kind"], &report["faults"][0]["way"]), (&"corrupted".into(), &Value::Null));
}

#[test]
fn a_connection_that_says_nothing_is_greeted_if_that_was_asked_for() {
    let server = server();
    let mut before = server.connect();
    ask(&server, "greet 1");
    let mut talks = server.connect();
    ping(&mut talks, b"first");
    let mut says_nothing = server.connect();
    expect(&mut says_nothing, b"multiconn-probe/1 greeting\n");
    ping(&mut says_nothing, b"an echo");
    // A PROXY header is nothing that the client says.
    ask(&server, "greet 1");
    let mut proxied = server.connect();
    proxied.write_all(b"PROXY UNKNOWN\r\n").unwrap();
    expect(&mut proxied, b"multiconn-probe/1 greeting\n");
    // One was asked for, and none of the others gets it.
    let mut next = server.connect();
    for stream in [&mut before, &mut talks, &mut next] {
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        ping(stream, b"still an echo");
    }
}

#[test]
fn no_more_connections_are_greeted_than_was_asked_for_and_those_of_two_questions_add_up() {
    let server = server();
    for counts in [&[1][..], &[1, 2], &[16, 16]] {
        let expected: u64 = counts.iter().sum::<u64>().min(16);
        for count in counts {
            ask(&server, &format!("greet {count}"));
        }
        // All of them are silent for as long when the first is greeted.
        let mut silent: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
        let begun = Instant::now();
        let has_bytes = |stream: &&TcpStream| rustix::io::ioctl_fionread(stream).is_ok_and(|count| count > 0);
        while silent.iter().filter(has_bytes).count() < usize::try_from(expected).unwrap() {
            assert!(begun.elapsed() < PATIENCE, "{counts:?}");
        }
        std::thread::sleep(Duration::from_millis(100)); // Nothing tells that no more of them are greeted.
        let mut greeted = 0;
        for stream in &mut silent {
            stream.write_all(b"an echo").unwrap();
            let mut first = [0; 7];
            stream.read_exact(&mut first).unwrap();
            greeted += u64::from(&first == b"multico");
        }
        assert_eq!(greeted, expected, "{counts:?}");
    }
}

#[test]
fn a_connection_that_says_nothing_behind_a_proxy_header_is_greeted() {
    let server = server();
    ask(&server, "greet 1");
    let mut stream = server.connect();
    stream.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 7\r\n").unwrap();
    expect(&mut stream, b"multiconn-probe/1 greeting\n");
    // Only one header is a proxy's.
    ping(&mut stream, b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 7\r\n");
}

#[test]
fn only_the_last_connections_are_remembered() {
    let server = server();
    let first = ask(&server, "who");
    let number = first.number("connection");
    let name = first.answer["server"].clone();
    let state = |number: u64| ask(&server, &format!("end {name} {number}")).answer["state"].clone();
    drop(first);
    let begun = Instant::now();
    while state(number) != "fin" {
        assert!(begun.elapsed() < PATIENCE);
    }
    for _ in 0..REMEMBERED {
        let mut stream = server.connect();
        stream.shutdown(Shutdown::Write).unwrap();
        expect_end(&mut stream);
    }
    assert_eq!(state(number), "unknown");
    assert_eq!(state(number + 100 + u64::try_from(REMEMBERED / 2).unwrap()), "fin");
}

#[test]
fn a_stream_that_a_drain_cuts_short_ends_with_a_reset() {
    let mut server = server();
    let mut asked = ask(&server, "finish 60000000");
    let mut some = vec![0; 100_000];
    asked.reader.read_exact(&mut some).unwrap();
    server.program.signal(Signal::TERM);
    server.program.line("Caught SIGTERM");
    let (rest, end) = asked.rest();
    assert_eq!((rest.len() < 50_000_000, end), (true, Some(ErrorKind::ConnectionReset)), "{}", rest.len());
    server.program.ends_with(0);
}

#[test]
fn a_partner_that_reads_nothing_ends_with_its_server() {
    let mut server = Server::start(&["--probes", "--drain-timeout", "300ms"]);
    let mut held = ask(&server, "hold 60000");
    let mut other = ask(&server, "finish 100");
    assert_eq!(other.rest().0.len(), 100);
    server.program.signal(Signal::TERM);
    let begun = Instant::now();
    server.program.ends_with(0);
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(held.rest().0, b"");
    // A connection that asked has no line for its bytes, as they are nothing to read; only for those before it asked.
    let lines = server.program.lines();
    let echoes: Vec<_> = lines.iter().filter(|line| line.starts_with("Echoing")).collect();
    assert!(
        echoes.len() == 2 && echoes.iter().all(|line| line.contains(r#" b"multiconn-probe/1 " to "#)),
        "{lines:#?}"
    );
}
