//! Places where nobody can connect: a listener that takes no more connections, and a port without one.
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// A bound socket. The port stays this test's, whatever others bind meanwhile.
fn bound(addr: SocketAddr) -> std::io::Result<socket2::Socket> {
    let socket = tcp(addr);
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn tcp(addr: SocketAddr) -> socket2::Socket {
    socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None).unwrap()
}

fn addr_of(socket: &socket2::Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}

/// A listener that takes no more connections: attempts hang.
pub struct Full {
    pub addr: SocketAddr,
    held: Vec<socket2::Socket>,
}

impl Full {
    pub fn at(addr: &str) -> Full {
        Full::of(bound(addr.parse().unwrap()).unwrap())
    }

    /// A listener at one address, and full ones at others, at one port.
    pub fn beside(good: IpAddr, dead: &[IpAddr]) -> (TcpListener, Vec<Full>) {
        loop {
            let listener = TcpListener::bind((good, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let all: Result<Vec<_>, _> = dead.iter().map(|ip| bound(SocketAddr::new(*ip, port))).collect();
            if let Ok(all) = all {
                return (listener, all.into_iter().map(Full::of).collect());
            }
        }
    }

    fn of(listener: socket2::Socket) -> Full {
        listener.listen(0).unwrap();
        let addr = addr_of(&listener);
        let mut held = vec![listener];
        // How many there is room for depends on the system. What connects is in the queue a moment later.
        while !is_full(&held[0], held.len() - 1) {
            let socket = tcp(addr);
            socket.connect_timeout(&addr.into(), Duration::from_secs(60)).unwrap();
            held.push(socket);
            assert!(held.len() < 50, "the backlog does not fill");
        }
        Full { addr, held }
    }

    /// From now on it takes them.
    pub fn wake(mut self) -> TcpListener {
        let listener = self.held.remove(0);
        listener.listen(128).unwrap();
        listener.into()
    }
}

/// Whether a listener's queue is, once so many are in it.
fn is_full(listener: &socket2::Socket, connected: usize) -> bool {
    let start = Instant::now();
    loop {
        // SAFETY: all-zero bytes are a value of `tcp_info`, and the kernel writes no more than it is told there is.
        let info = unsafe {
            let mut info: libc::tcp_info = std::mem::zeroed();
            let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
            let (fd, to) = (listener.as_raw_fd(), (&raw mut info).cast());
            assert_eq!(libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, to, &mut len), 0);
            info
        };
        // Of a listener these are its queue and the bound of that.
        if info.tcpi_unacked as usize >= connected {
            return info.tcpi_unacked > info.tcpi_sacked;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{connected} connections are never in the queue");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A port where nobody listens: attempts are refused.
pub struct Refusing {
    pub addr: SocketAddr,
    socket: socket2::Socket,
}

impl Refusing {
    pub fn at(addr: &str) -> Refusing {
        Refusing::try_at(addr.parse().unwrap()).unwrap()
    }

    /// `None`: the port is somebody else's.
    pub fn try_at(addr: SocketAddr) -> Option<Refusing> {
        let socket = bound(addr).ok()?;
        Some(Refusing { addr: addr_of(&socket), socket })
    }

    /// From now on attempts hang.
    pub fn fill(self) -> Full {
        Full::of(self.socket)
    }

    /// From now on somebody listens.
    pub fn wake(self) -> TcpListener {
        self.socket.listen(128).unwrap();
        self.socket.into()
    }
}
