//! The echo on an `io_uring` runtime: a task for each connection, whose buffer the kernel fills and takes.
//!
//! `peer-monoio PORT`. It never falls back to epoll: where the kernel refuses `io_uring`, it says so and ends.

use std::env;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer: Vec<u8> = Vec::with_capacity(64 * 1024);
    loop {
        let (read, filled) = stream.read(buffer).await;
        if read? == 0 {
            return Ok(());
        }
        let (written, taken) = stream.write_all(filled).await;
        written?;
        buffer = taken;
        buffer.clear();
    }
}

async fn serve(port: u16) -> io::Result<()> {
    let options = ListenerOpts::new().reuse_port(false).reuse_addr(true).backlog(sys::BACKLOG);
    let listener = TcpListener::bind_with_config(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &options)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        monoio::spawn(echo(stream));
    }
}

fn main() -> io::Result<()> {
    let port = env::args().nth(1).and_then(|port| port.parse().ok()).ok_or(ErrorKind::InvalidInput)?;
    monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(4096).build()?.block_on(serve(port))
}
