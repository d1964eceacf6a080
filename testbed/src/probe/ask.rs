//! Many questions at once. Not here: the sockets' options (`super::socket`).

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    time::{Duration, Instant},
};

use socket2::Socket;

use super::{Answer, Ask, Question, socket};
use crate::netns::Error;

const MESSAGE: &[u8] = b"netpolc probe";

/// Questions that start at once. Many more would overrun the queue of packets that the kernel keeps
/// for each processor (net.core.netdev_max_backlog, 1,000 by default), and a lost SYN looks like a
/// drop.
const BURST: usize = 64;

/// How long to wait between bursts.
const PAUSE: Duration = Duration::from_millis(2);

/// How far one question is.
enum Step {
    /// Nothing was sent yet.
    Ready(Socket),
    /// TCP: the handshake is under way.
    Connecting(Socket),
    /// The question was sent, and its echo is to come.
    Waiting(Socket),
    Done(Answer),
}

/// Asks all questions at the same time (in bursts a few milliseconds apart); the answers come in
/// the order of the questions, `patience` after the last burst at the latest and as soon as all are
/// answered.
///
/// # Errors
/// A namespace cannot be entered, or poll(2) fails. What one question meets is its answer and no
/// error.
pub fn ask(questions: &[Question<'_>], patience: Duration) -> Result<Vec<Answer>, Error> {
    let mut steps = sockets(questions)?;
    let mut started = 0;
    let mut deadline = Instant::now() + patience;
    loop {
        let burst = (started + BURST).min(steps.len());
        for at in started..burst {
            advance(&mut steps[at], &questions[at]);
            deadline = Instant::now() + patience;
        }
        started = burst;
        let (which, mut interests) = interests(&steps);
        let all = started == steps.len();
        if all && (interests.is_empty() || Instant::now() >= deadline) {
            break;
        }
        let until = if all { deadline } else { Instant::now() + PAUSE };
        socket::wait(&mut interests, Some(until)).map_err(|e| Error::system("poll".into(), e))?;
        for (interest, at) in interests.iter().zip(which) {
            if interest.revents != 0 {
                advance(&mut steps[at], &questions[at]);
            }
        }
    }
    Ok(steps
        .into_iter()
        .map(|s| if let Step::Done(answer) = s { answer } else { Answer::Silent })
        .collect())
}

/// What the questions under way wait for, and which they are.
fn interests(steps: &[Step]) -> (Vec<usize>, Vec<libc::pollfd>) {
    let waiting = steps.iter().enumerate().filter_map(|(at, step)| match step {
        Step::Connecting(socket) => Some((at, socket::interest(socket, libc::POLLOUT))),
        Step::Waiting(socket) => Some((at, socket::interest(socket, libc::POLLIN))),
        Step::Ready(_) | Step::Done(_) => None,
    });
    waiting.unzip()
}

/// Asks until each question passes exactly where `expected` says so, or `patience` is over; gives
/// the last answers. For changes that take effect at some moment soon.
///
/// # Errors
/// Fails where [`ask`] does.
pub fn ask_until(
    questions: &[Question<'_>],
    expected: &[bool],
    patience: Duration,
) -> Result<Vec<Answer>, Error> {
    let deadline = Instant::now() + patience;
    loop {
        let answers = ask(questions, super::PATIENCE)?;
        let right = answers.iter().zip(expected).all(|(a, e)| a.passed() == *e);
        if right || Instant::now() >= deadline {
            return Ok(answers);
        }
    }
}

/// Makes the sockets, one visit for each namespace.
fn sockets(questions: &[Question<'_>]) -> Result<Vec<Step>, Error> {
    let mut by_site: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, question) in questions.iter().enumerate() {
        by_site.entry(question.from.namespace.name()).or_default().push(at);
    }
    let mut steps: Vec<Step> = questions.iter().map(|_| Step::Done(Answer::Silent)).collect();
    for asked in by_site.into_values() {
        let open = |at: &usize| {
            let Question { to, source, ask, .. } = questions[*at];
            socket::open(to, source, ask)
                .map_or_else(|e| Step::Done(socket::answer_of(&e)), Step::Ready)
        };
        let opened: Vec<Step> =
            questions[asked[0]].from.run(|| asked.iter().map(open).collect())?;
        for (at, step) in asked.into_iter().zip(opened) {
            steps[at] = step;
        }
    }
    Ok(steps)
}

/// Does what is to be done next.
fn advance(step: &mut Step, question: &Question<'_>) {
    let next = match std::mem::replace(step, Step::Done(Answer::Silent)) {
        Step::Ready(socket) => start(socket, question),
        Step::Connecting(socket) => connected(socket),
        Step::Waiting(mut socket) => match answered(&mut socket, question.ask) {
            Ok(()) => Ok(Step::Done(Answer::Echo)),
            Err(e) if socket::would_block(&e) => Ok(Step::Waiting(socket)),
            Err(e) => Err(e),
        },
        done @ Step::Done(_) => Ok(done),
    };
    *step = next.unwrap_or_else(|e| Step::Done(socket::answer_of(&e)));
}

fn start(mut socket: Socket, question: &Question<'_>) -> io::Result<Step> {
    socket::connect(&socket, question.to, question.ask)?;
    let message = match question.ask {
        Ask::Tcp(_) => return Ok(Step::Connecting(socket)),
        Ask::Udp(_) => MESSAGE.to_vec(),
        Ask::Ping => echo_request(question.to.is_ipv4()),
    };
    socket.write_all(&message)?;
    Ok(Step::Waiting(socket))
}

fn connected(mut socket: Socket) -> io::Result<Step> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    socket.write_all(MESSAGE)?;
    Ok(Step::Waiting(socket))
}

fn answered(socket: &mut Socket, ask: Ask) -> io::Result<()> {
    let mut buffer = [0; 64];
    let length = socket.read(&mut buffer)?;
    let right = match ask {
        Ask::Tcp(_) | Ask::Udp(_) => buffer[..length] == *MESSAGE,
        // Echo reply, and echo reply of ICMPv6 (RFC 792, RFC 4443). The kernel compares the
        // identifier.
        Ask::Ping => length > 0 && matches!(buffer[0], 0 | 129),
    };
    if right { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Type, code, checksum, identifier, sequence: the kernel fills in checksum and identifier.
fn echo_request(v4: bool) -> Vec<u8> {
    let mut message = vec![if v4 { 8 } else { 128 }, 0, 0, 0, 0, 0, 0, 1];
    message.extend_from_slice(MESSAGE);
    message
}
