//! A proxy on tokio's single-threaded runtime: a task for each connection, `copy_bidirectional`.
//!
//! `peer-proxy-tokio PORT BACKEND`. The buffers are tokio's own, 8 KiB for each direction.

use std::env;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream};

async fn relay(mut client: TcpStream, backend: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(backend).await?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn serve(port: u16, backend: u16) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_nodelay(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let listener = socket.listen(sys::BACKLOG.cast_unsigned())?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(relay(client, SocketAddr::from((Ipv4Addr::LOCALHOST, backend))));
    }
}

fn main() -> io::Result<()> {
    let mut ports = env::args().skip(1).map_while(|port| port.parse().ok());
    let (Some(port), Some(backend)) = (ports.next(), ports.next()) else { return Err(ErrorKind::InvalidInput.into()) };
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(serve(port, backend))
}
