//! Step 7: the same server on this library, which does what step 6 could not.
//!
//!     cargo run --example step-7-library [ADDR]
//!
//! It accepts as many connections as it has descriptors for. The others wait in the kernel for their turn:
//!
//! ```console
//! $ bash -c 'ulimit -n 40; exec target/debug/examples/step-7-library 127.0.0.1:65432'
//! Listening on 127.0.0.1:65432
//! $ multiconn-client -q 127.0.0.1 65432 40 --hold 1s
//! …
//! verdict      intact: every byte of every connection came back
//! ```
//!
//! Ctrl-C ends it when every connection is finished. Where the parts of step 6 went:
//!
//! | step 6 | here |
//! | --- | --- |
//! | `Server::bind` | `src/engine/sockets.rs`: `listen` |
//! | `Server::turn`, `poll` | `src/engine/event_loop/turn.rs`: `turn`, `wait`, `note` |
//! | `Server::accept` | `src/engine/event_loop/turn.rs`: `accept`, `admit` |
//! | `Server::serve` | `src/engine/event_loop/turn.rs`: `service_connection`, `remove` |
//! | `Connection::serve` | `src/engine/connection/service.rs`: `service`, `advance` |
//! | its read | `src/engine/connection/service.rs`: `read`, `show` |
//! | what is sent back | `src/server/echo.rs`: `receive` |
//! | its end of input | `src/engine/connection/service.rs`: `deliver_end_of_input`, `shut_down_if_done` |
//! | `Connection::flush` | `src/engine/connection/service.rs`: `flush`, `send_queue` |
//! | `outbound`, `sent` | `src/engine/buffer.rs`: `push`, `front`, `consume` |
//! | `attempt` | `src/engine/wire.rs`: `read`, `write` |
//!
//! And what was missing there:
//!
//! | missing | here |
//! | --- | --- |
//! | fairness | `src/engine/event_loop/turn.rs`: `act`; `src/engine/run_queue.rs`: `pop` |
//! | limits | `src/engine/memory.rs`: `room_now`; `src/engine/accepting.rs`: `may_accept` |
//! | descriptors | `src/engine/sockets.rs`: `of`; `src/engine/event_loop/turn.rs`: `rest_from_accepting` |
//! | time | `src/engine/deadlines.rs`: `pop`; `src/engine/event_loop/turn.rs`: `expire` |
//! | draining | `src/engine/event_loop.rs`: `drain` |

use std::io;
use std::net::SocketAddr;

use multiconn::server::echo::Echo;
use multiconn::server::{Config, Server};

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:65432".into());
    let addr: SocketAddr = addr.parse().map_err(io::Error::other)?;
    let mut server = Server::bind(&addr.ip().to_string(), addr.port(), &Config::default(), |_peer| Echo)?;
    server.catch_signals()?;
    eprintln!("Listening on {}", server.local_addr());
    server.run()?;
    Ok(())
}
