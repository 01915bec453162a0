//! A listener that takes no more connections.
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// A listener that takes no more connections: attempts hang.
pub struct Full {
    pub addr: SocketAddr,
    held: Vec<socket2::Socket>,
}

impl Full {
    pub fn at(addr: &str) -> Full {
        let addr: SocketAddr = addr.parse().unwrap();
        let tcp = || socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None);
        let listener = tcp().unwrap();
        listener.bind(&addr.into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut held = vec![listener];
        loop {
            let s = tcp().unwrap();
            let full = s.connect_timeout(&addr, Duration::from_millis(100)).is_err();
            held.push(s);
            if full {
                return Full { addr: addr.as_socket().unwrap(), held };
            }
            assert!(held.len() < 50, "the backlog does not fill");
        }
    }

    /// From now on it takes them.
    pub fn wake(mut self) -> TcpListener {
        let listener = self.held.remove(0);
        listener.listen(128).unwrap();
        listener.into()
    }
}
