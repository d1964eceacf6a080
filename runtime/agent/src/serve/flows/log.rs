//! The log of flows: the lines that readers get, or events of OCSF, in a file or on standard
//! output.
//!
//! A thread of its own writes it, so that no disk holds up the agent. What cannot be written is
//! counted, and the log says so once it can be written again. Not here: the agent's own log, which
//! is on standard error.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use netpolc_export::ocsf;
use netpolc_flow::{
    Flow,
    line::{Line, Owed},
};
use tokio::sync::mpsc;

use super::{
    super::state_dir::FILE_MODE,
    hub::{BATCHES, Batch},
};

/// How large a file may become before another one is begun.
const MOST: u64 = 100 << 20;
/// How many files are kept besides the one that is written.
const KEPT: u32 = 3;

/// Where flows are logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowLog {
    /// Where.
    pub place: Place,
    /// What a line is.
    pub form: Form,
}

/// The forms of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The lines that readers get.
    Json,
    /// Events of OCSF.
    Ocsf,
}

impl Form {
    fn text(self, line: &Line) -> String {
        match self {
            Form::Json => line.text(),
            Form::Ocsf => ocsf::text(line, Flow::nanos(SystemTime::now())).unwrap_or_default(),
        }
    }
}

/// Where flows are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Standard output.
    StandardOutput,
    /// A file, which is rotated.
    File(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::StandardOutput => f.write_str("-"),
            Place::File(path) => path.display().fmt(f),
        }
    }
}

/// Starts the thread, which writes what is sent to it until the sender is dropped.
///
/// # Errors
/// The file cannot be opened, or the thread cannot be started.
pub fn start(to: &FlowLog) -> io::Result<mpsc::Sender<Batch>> {
    let log = match &to.place {
        Place::StandardOutput => Log::StandardOutput,
        Place::File(path) => Log::File(Rotated::open(path, MOST)?),
    };
    let (sender, batches) = mpsc::channel(BATCHES);
    let form = to.form;
    std::thread::Builder::new().name("flow-log".into()).spawn(move || write(log, form, batches))?;
    Ok(sender)
}

fn write(mut log: Log, form: Form, mut batches: mpsc::Receiver<Batch>) {
    let (mut owed, mut failed) = (Owed::default(), false);
    while let Some(batch) = batches.blocking_recv() {
        let before = owed.settle();
        let lines = || before.iter().chain(batch.iter().map(|line| &**line));
        let text: String = lines().map(|line| form.text(line)).collect();
        match log.write(text.as_bytes()) {
            Ok(()) => failed = false,
            Err(error) => {
                lines().for_each(|line| owed.line(line));
                if !std::mem::replace(&mut failed, true) {
                    tracing::warn!(%error, "the log of flows cannot be written; what is missing \
                        in it is counted");
                }
            }
        }
    }
}

enum Log {
    StandardOutput,
    File(Rotated),
}

impl Log {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Log::StandardOutput => {
                let mut out = io::stdout().lock();
                out.write_all(text)?;
                out.flush()
            }
            Log::File(file) => file.write(text),
        }
    }
}

/// A file that is put aside when it has become large, with those before it.
struct Rotated {
    path: PathBuf,
    file: File,
    length: u64,
    most: u64,
    /// Whether the last line was not written as a whole.
    torn: bool,
}

impl Rotated {
    fn open(path: &Path, most: u64) -> io::Result<Self> {
        let (file, length) = open(path)?;
        // An agent that was killed may have left a part of a line, which has no line break.
        let torn = length > 0 && !ends_with_line_break(path)?;
        Ok(Self { path: path.to_owned(), file, length, most, torn })
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.is_elsewhere() {
            *self = Self::open(&self.path, self.most)?;
        }
        if self.length > 0 && self.length + text.len() as u64 > self.most {
            self.rotate()?;
        }
        if self.torn {
            self.file.write_all(b"\n")?;
        }
        self.torn = true;
        self.file.write_all(text)?;
        self.torn = false;
        self.length += text.len() as u64;
        Ok(())
    }

    /// Has somebody moved or removed the file?
    fn is_elsewhere(&self) -> bool {
        let place = |facts: fs::Metadata| (facts.dev(), facts.ino());
        let here = fs::symlink_metadata(&self.path).map(place).ok();
        here != self.file.metadata().map(place).ok()
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..KEPT).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(1))?;
        *self = Self::open(&self.path, self.most)?;
        Ok(())
    }
}

/// Opens a file that only its owner may read, and no other user owns.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut options = File::options();
    options.create(true).append(true).mode(FILE_MODE);
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let facts = file.metadata()?;
    // SAFETY: geteuid(2) takes no memory and cannot fail.
    let me = unsafe { libc::geteuid() };
    let refused = |what: String| io::Error::new(io::ErrorKind::PermissionDenied, what);
    if !facts.is_file() {
        return Err(refused("it is no regular file; give another path".into()));
    }
    if facts.uid() != me {
        return Err(refused(format!("it belongs to user {}; remove it", facts.uid())));
    }
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
    Ok((file, facts.len()))
}

fn ends_with_line_break(path: &Path) -> io::Result<bool> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let (mut file, mut last) = (File::open(path)?, [0]);
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("netpolc-flow-log-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        /// What each file has, by its name.
        fn files(&self) -> Vec<(String, String)> {
            let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap());
            let mut files: Vec<(String, String)> = entries
                .map(|entry| {
                    assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600);
                    let name = entry.file_name().into_string().unwrap();
                    (name, fs::read_to_string(entry.path()).unwrap())
                })
                .collect();
            files.sort();
            files
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn named(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn large_files_are_put_aside_and_the_oldest_goes() {
        let scratch = Scratch::new("rotate");
        let mut log = Rotated::open(&scratch.0.join("f"), 8).unwrap();
        for line in ["a234567\n", "b\n", "c\n", "d234567\n", "e234567\n", "f234567\n"] {
            log.write(line.as_bytes()).unwrap();
        }
        let kept =
            [("f", "f234567\n"), ("f.1", "e234567\n"), ("f.2", "d234567\n"), ("f.3", "b\nc\n")];
        assert_eq!(scratch.files(), named(&kept));
        // A line that is longer than a file may be is written all the same.
        log.write(b"0123456789\n").unwrap();
        assert_eq!(scratch.files()[0].1, "0123456789\n");
    }

    #[test]
    fn a_file_goes_on_where_it_was_and_anew_where_it_was_taken_away() {
        let scratch = Scratch::new("go-on");
        let path = scratch.0.join("f");
        fs::write(&path, "{\"flow\":").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut log = Rotated::open(&path, MOST).unwrap();
        log.write(b"a\n").unwrap();
        assert_eq!(scratch.files(), named(&[("f", "{\"flow\":\na\n")]));
        fs::rename(&path, scratch.0.join("old")).unwrap();
        log.write(b"b\n").unwrap();
        assert_eq!(scratch.files(), named(&[("f", "b\n"), ("old", "{\"flow\":\na\n")]));
    }

    /// Needs root.
    #[test]
    fn what_is_no_file_of_ours_is_refused() {
        let scratch = Scratch::new("refuse");
        let (link, theirs) = (scratch.0.join("link"), scratch.0.join("theirs"));
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(Rotated::open(&link, MOST).is_err());
        fs::write(&theirs, "").unwrap();
        std::os::unix::fs::chown(&theirs, Some(65534), None).unwrap();
        let error = Rotated::open(&theirs, MOST).err().unwrap().to_string();
        assert!(error.contains("belongs to user 65534"), "{error}");
        assert!(Rotated::open(&scratch.0, MOST).is_err());
    }
}
