//! Echo servers for a whole cluster in one thread. Not here: clients.

use std::{
    io::{self, PipeReader, PipeWriter, Read, Write},
    mem::MaybeUninit,
    thread::JoinHandle,
};

use socket2::{Socket, Type};

use super::socket;
use crate::netns::{Error, Site};

/// TCP and UDP echo servers. Dropping it closes them and all their connections.
#[derive(Debug)]
pub struct Servers {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

enum Endpoint {
    Listener(Socket),
    Datagrams(Socket),
    Connection(Socket),
}

impl Servers {
    /// Listens at each site on its TCP and UDP ports, all addresses of both families, and echoes.
    /// When it returns, all ports are open.
    ///
    /// # Errors
    /// A namespace cannot be entered, a port is taken, or no thread can be started.
    pub fn start<'a, P>(sites: impl IntoIterator<Item = (&'a Site, P)>) -> Result<Self, Error>
    where
        P: IntoIterator<Item = super::Ask>,
    {
        let mut endpoints = Vec::new();
        for (site, ports) in sites {
            let ports: Vec<super::Ask> = ports.into_iter().collect();
            let opened: io::Result<Vec<Endpoint>> =
                site.run(|| ports.iter().filter_map(|p| open(*p).transpose()).collect())?;
            let opened = opened
                .map_err(|e| Error::system(format!("listen on {ports:?} in {}", site.name), e))?;
            endpoints.extend(opened);
        }
        let pipe = || -> io::Result<_> {
            let (stopped, stop) = io::pipe()?;
            let thread = std::thread::Builder::new()
                .name("echo".into())
                .spawn(move || serve(endpoints, stopped))?;
            Ok(Servers { stop: Some(stop), thread: Some(thread) })
        };
        pipe().map_err(|e| Error::system("start the echo thread".into(), e))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Pings need no server: the kernel answers them.
fn open(port: super::Ask) -> io::Result<Option<Endpoint>> {
    match port {
        super::Ask::Tcp(port) => {
            socket::listen(Type::STREAM, port).map(Endpoint::Listener).map(Some)
        }
        super::Ask::Udp(port) => {
            socket::listen(Type::DGRAM, port).map(Endpoint::Datagrams).map(Some)
        }
        super::Ask::Ping => Ok(None),
    }
}

/// Echoes until the other end of `stopped` is closed.
fn serve(mut endpoints: Vec<Endpoint>, stopped: PipeReader) {
    loop {
        let mut interests = vec![socket::interest(&stopped, libc::POLLIN)];
        interests.extend(endpoints.iter().map(|e| match e {
            Endpoint::Listener(s) | Endpoint::Datagrams(s) | Endpoint::Connection(s) => {
                socket::interest(s, libc::POLLIN)
            }
        }));
        if socket::wait(&mut interests, None).is_err() || interests[0].revents != 0 {
            return;
        }
        let mut kept = Vec::with_capacity(endpoints.len());
        for (endpoint, interest) in endpoints.into_iter().zip(&interests[1..]) {
            if interest.revents == 0 {
                kept.push(endpoint);
            } else {
                turn(endpoint, &mut kept);
            }
        }
        endpoints = kept;
    }
}

/// Serves what is there and keeps what lives on.
fn turn(endpoint: Endpoint, kept: &mut Vec<Endpoint>) {
    match endpoint {
        Endpoint::Listener(listener) => {
            while let Ok((connection, _)) = listener.accept() {
                if connection.set_nonblocking(true).is_ok() {
                    kept.push(Endpoint::Connection(connection));
                }
            }
            kept.push(Endpoint::Listener(listener));
        }
        Endpoint::Datagrams(socket) => {
            let mut buffer = [MaybeUninit::<u8>::uninit(); 65_536];
            // An error is an ICMP one about an earlier echo, or "nothing more".
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                // SAFETY: the kernel has written, and so initialised, the first `length` bytes; a
                // `MaybeUninit<u8>` has the layout of a `u8`.
                let message = unsafe { &*(&raw const buffer[..length] as *const [u8]) };
                let _ = socket.send_to(message, &from);
            }
            kept.push(Endpoint::Datagrams(socket));
        }
        Endpoint::Connection(mut socket) => {
            let mut buffer = [0; 65_536];
            let alive = loop {
                match socket.read(&mut buffer) {
                    Ok(0) => break false,
                    Ok(length) if socket.write_all(&buffer[..length]).is_ok() => {}
                    Ok(_) => break false,
                    Err(e) => break socket::would_block(&e),
                }
            };
            if alive {
                kept.push(Endpoint::Connection(socket));
            }
        }
    }
}
