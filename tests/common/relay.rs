//! A relay made of blocking sockets and threads, as a box on the way: what it reads from one side it writes to the other,
//! and an end of input it passes on as a FIN. A reset ends both sides in order, and an urgent byte is lost.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

/// What a relay does beside forwarding.
#[derive(Clone, Copy, Default)]
pub struct Relay {
    /// It connects to the server when the client's first byte has come.
    pub waits: bool,
    /// It flips a bit of the byte with this offset on the way there.
    pub flips_there: Option<usize>,
    /// The same on the way back.
    pub flips_back: Option<usize>,
}

impl Relay {
    /// Starts it in front of these servers, which take turns. Returns its address.
    pub fn start(self, servers: &[SocketAddr]) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let servers = servers.to_vec();
        std::thread::spawn(move || {
            for (near, server) in listener.incoming().map_while(Result::ok).zip(servers.into_iter().cycle()) {
                std::thread::spawn(move || self.serve(near, server));
            }
        });
        addr
    }

    fn serve(self, near: TcpStream, server: SocketAddr) {
        if self.waits && near.peek(&mut [0]).is_err() {
            return;
        }
        let far = TcpStream::connect(server).unwrap();
        let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || forward(near_too, far_too, self.flips_there));
        forward(far, near, self.flips_back);
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, flipped: Option<usize>) {
    let (mut buffer, mut passed) = (vec![0; 16 * 1024], 0);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if let Some(place) = flipped.and_then(|at| at.checked_sub(passed)).filter(|&place| place < count) {
            buffer[place] ^= 1;
        }
        passed += count;
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
