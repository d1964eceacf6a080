//! A connection that stays open, to be poked before and after a policy changes (S40-S42).

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use socket2::Socket;

use super::{Answer, Ask, socket};
use crate::netns::{Error, Site};

/// How many bytes a message has: its number, repeated.
const MESSAGE: usize = 16;

/// An open TCP connection, or a UDP socket that keeps its ports, to an echo server.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    ask: Ask,
    /// How many messages were sent.
    sent: u64,
    /// Messages echoed, in order (TCP) or the highest number seen (UDP).
    echoed: u64,
    /// TCP: the start of a message whose rest is to come.
    partial: Vec<u8>,
}

impl Connection {
    /// Opens it from inside `from` and pokes it once. `Err` holds what came instead of the echo.
    ///
    /// # Errors
    /// The namespace cannot be entered. The inner result is what the connection met.
    pub fn open(
        from: &Site,
        to: IpAddr,
        ask: Ask,
        patience: Duration,
    ) -> Result<Result<Self, Answer>, Error> {
        let socket = match from.run(|| {
            socket::open(to, None, ask).and_then(|s| socket::connect(&s, to, ask).map(|()| s))
        })? {
            Err(e) => return Ok(Err(socket::answer_of(&e))),
            Ok(socket) => socket,
        };
        let mut connection = Connection { socket, ask, sent: 0, echoed: 0, partial: Vec::new() };
        Ok(match connection.poke(patience) {
            Answer::Echo => Ok(connection),
            other => Err(other),
        })
    }

    /// The connection's own address and port.
    pub fn local(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// Sends a new message and waits for its echo. Over TCP earlier messages come first: after a
    /// time of drops the kernel's next repetition decides when.
    pub fn poke(&mut self, patience: Duration) -> Answer {
        self.try_poke(Instant::now() + patience).unwrap_or_else(|e| socket::answer_of(&e))
    }

    fn try_poke(&mut self, deadline: Instant) -> io::Result<Answer> {
        if matches!(self.ask, Ask::Tcp(_)) && !self.wait(libc::POLLOUT, deadline)? {
            return Ok(Answer::Silent);
        }
        self.sent += 1;
        self.socket.write_all(&[self.sent.to_be_bytes(), self.sent.to_be_bytes()].concat())?;
        while self.echoed < self.sent {
            if !self.wait(libc::POLLIN, deadline)? {
                return Ok(Answer::Silent);
            }
            self.receive()?;
        }
        Ok(Answer::Echo)
    }

    /// Waits for an event on the socket. False where the deadline passed first.
    fn wait(&self, events: i16, deadline: Instant) -> io::Result<bool> {
        let mut interests = [socket::interest(&self.socket, events)];
        while interests[0].revents == 0 {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            socket::wait(&mut interests, Some(deadline))?;
        }
        match self.socket.take_error()? {
            Some(error) => Err(error),
            None => Ok(true),
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let length = match self.socket.read(&mut buffer) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
            Err(e) if socket::would_block(&e) => return Ok(()),
            other => other?,
        };
        self.partial.extend_from_slice(&buffer[..length]);
        let whole = self.partial.len() / MESSAGE * MESSAGE;
        for message in self.partial.drain(..whole).as_slice().chunks_exact(MESSAGE) {
            let number = u64::from_be_bytes(message[..8].try_into().expect("8 of 16 bytes"));
            self.echoed = self.echoed.max(number);
        }
        Ok(())
    }
}
