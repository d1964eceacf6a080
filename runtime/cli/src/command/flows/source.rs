//! Where flows come from: an agent's socket, a file, or standard input.
//!
//! Not here: what becomes of them ([`super`]).

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use netpolc_agent::serve::{record::Alive, state_dir};
use netpolc_flow::line::{Line, Request};
use netpolc_kube_sync::plain;

/// The longest line in bytes that is read.
const MAX_LINE_LEN: u64 = 1 << 24;

/// Lines with flows, from wherever.
pub struct Lines {
    from: Box<dyn BufRead>,
    name: String,
    number: usize,
    /// What was read of the next line.
    begun: Vec<u8>,
}

/// What comes next.
pub enum Next {
    /// A line.
    Line(Line),
    /// Nothing has come for as long as the source waits.
    Nothing,
    /// Nothing more will come.
    End,
}

impl Lines {
    /// Of a file; `-` is standard input.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let from: Box<dyn BufRead> = match path.as_os_str() == "-" {
            true => Box::new(BufReader::new(io::stdin())),
            false => Box::new(BufReader::new(
                File::open(path).with_context(|| format!("{} cannot be read", path.display()))?,
            )),
        };
        let name = if path.as_os_str() == "-" {
            "standard input".into()
        } else {
            path.display().to_string()
        };
        Ok(Self::new(from, name))
    }

    /// Of the agent whose tables are pinned in `pin_dir`. Waiting for a line ends after `patience`,
    /// where there is one.
    ///
    /// # Errors
    /// No agent serves flows there; the message says what to do.
    pub fn of_agent(
        pin_dir: &Path,
        request: &Request,
        patience: Option<Duration>,
    ) -> anyhow::Result<Self> {
        let path = state_dir::flows(pin_dir);
        let mut stream = UnixStream::connect(&path).map_err(|error| absent(pin_dir, &error))?;
        stream.set_read_timeout(patience)?;
        let text = serde_json::to_string(request)? + "\n";
        // An agent that refuses has perhaps hung up by now, and its answer says why.
        let _ = stream.write_all(text.as_bytes());
        Ok(Self::new(Box::new(BufReader::new(stream)), format!("the agent at {}", path.display())))
    }

    fn new(from: Box<dyn BufRead>, name: String) -> Self {
        Self { from, name, number: 0, begun: Vec::new() }
    }

    /// The next line. Empty ones are skipped.
    ///
    /// # Errors
    /// The source cannot be read, a line is no flow, or the agent has refused.
    pub fn read(&mut self) -> anyhow::Result<Next> {
        loop {
            let room = MAX_LINE_LEN.saturating_sub(self.begun.len() as u64);
            let mut some = io::Read::take(&mut self.from, room);
            match some.read_until(b'\n', &mut self.begun) {
                Ok(_) => {}
                Err(error) => match error.kind() {
                    // What was read stays for the next call.
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        return Ok(Next::Nothing);
                    }
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::ConnectionReset => return Ok(Next::End),
                    _ => {
                        let name = &self.name;
                        return Err(error).with_context(|| format!("{name} cannot be read"));
                    }
                },
            }
            let line = std::mem::take(&mut self.begun);
            self.number += 1;
            if line.is_empty() {
                return Ok(Next::End);
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            return match serde_json::from_slice(&line) {
                Ok(Line::Error(why)) => {
                    bail!("{} has refused: {}", self.name, plain(&why))
                }
                Ok(line) => Ok(Next::Line(line)),
                Err(error) => {
                    let error = plain(&error.to_string()).into_owned();
                    bail!(
                        "{}, line {}, is no flow ({error}); give lines as `netpolc flows -o json` \
                        prints them",
                        self.name,
                        self.number
                    )
                }
            };
        }
    }
}

/// Why there is nobody to ask.
fn absent(pin_dir: &Path, error: &io::Error) -> anyhow::Error {
    let dir = pin_dir.display();
    if Alive::is_shown(pin_dir) {
        return anyhow::anyhow!(
            "the agent of {dir} serves no flows ({error}): it has not made its first update yet, \
            or enforces by --target flower, which records nothing; its log says which"
        );
    }
    anyhow::anyhow!(
        "no agent runs for {dir}: start `netpolc agent` on this node, or give the agent's folder \
        as --pin-dir; in a cluster, run `netpolc flows` in the agent's pod of that node"
    )
}
