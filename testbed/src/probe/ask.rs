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

/// How far one question is.
enum Step {
    /// TCP: the handshake is under way.
    Connecting(Socket),
    /// Asked; the echo is to come.
    Waiting(Socket),
    Done(Answer),
}

/// Asks all questions at the same time; the answers come in the order of the questions, after
/// `patience` at the latest and as soon as all are answered.
pub fn ask(questions: &[Question<'_>], patience: Duration) -> Result<Vec<Answer>, Error> {
    let mut steps = begin(questions)?;
    let deadline = Instant::now() + patience;
    loop {
        let mut interests: Vec<libc::pollfd> = Vec::new();
        let mut which = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let interest = match step {
                Step::Connecting(socket) => socket::interest(socket, libc::POLLOUT),
                Step::Waiting(socket) => socket::interest(socket, libc::POLLIN),
                Step::Done(_) => continue,
            };
            interests.push(interest);
            which.push(at);
        }
        if interests.is_empty() || Instant::now() >= deadline {
            break;
        }
        socket::wait(&mut interests, Some(deadline)).map_err(|e| Error::system("poll".into(), e))?;
        for (interest, at) in interests.iter().zip(which) {
            if interest.revents != 0 {
                let step = std::mem::replace(&mut steps[at], Step::Done(Answer::Silent));
                steps[at] = advance(step, questions[at].ask);
            }
        }
    }
    Ok(steps.into_iter().map(|s| if let Step::Done(answer) = s { answer } else { Answer::Silent }).collect())
}

/// Asks until each question passes exactly where `expected` says so, or `patience` is over; gives
/// the last answers. For changes that take effect at some moment soon.
pub fn ask_until(questions: &[Question<'_>], expected: &[bool], patience: Duration) -> Result<Vec<Answer>, Error> {
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
fn begin(questions: &[Question<'_>]) -> Result<Vec<Step>, Error> {
    let mut by_site: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, question) in questions.iter().enumerate() {
        by_site.entry(question.from.namespace.name()).or_default().push(at);
    }
    let mut steps: Vec<Step> = questions.iter().map(|_| Step::Done(Answer::Silent)).collect();
    for asked in by_site.into_values() {
        let opened =
            questions[asked[0]].from.run(|| asked.iter().map(|at| start(&questions[*at])).collect::<Vec<Step>>())?;
        for (at, step) in asked.into_iter().zip(opened) {
            steps[at] = step;
        }
    }
    Ok(steps)
}

fn start(question: &Question<'_>) -> Step {
    let opened = socket::open(question.to, question.source, question.ask);
    let sent = opened.and_then(|mut socket| match question.ask {
        Ask::Tcp(_) => Ok(Step::Connecting(socket)),
        Ask::Udp(_) => socket.write_all(MESSAGE).map(|()| Step::Waiting(socket)),
        Ask::Ping => socket.write_all(&echo_request(question.to.is_ipv4())).map(|()| Step::Waiting(socket)),
    });
    sent.unwrap_or_else(|e| Step::Done(socket::answer_of(&e)))
}

fn advance(step: Step, ask: Ask) -> Step {
    match step {
        Step::Connecting(socket) => connected(socket).unwrap_or_else(|e| Step::Done(socket::answer_of(&e))),
        Step::Waiting(mut socket) => match answered(&mut socket, ask) {
            Ok(()) => Step::Done(Answer::Echo),
            Err(e) if socket::would_block(&e) => Step::Waiting(socket),
            Err(e) => Step::Done(socket::answer_of(&e)),
        },
        done => done,
    }
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
        // Echo reply, and echo reply of ICMPv6 (RFC 792, RFC 4443). The kernel compares the identifier.
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
