//! Files that are written whole or not at all: made beside the old one and renamed over it.
//!
//! Whoever reads such a file sees the old content or the new one and never a part, also where the
//! writer is killed half-way, and somebody who has the old file open keeps it as it was. Not here:
//! folders that are nobody else's ([`super::private`]); pins, whose file system knows no such names
//! (targets/ebpf).

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// How long the content of a file must last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// A reboot may take it away, as it does with all of /run.
    UntilReboot,
    /// It is on the disk before it takes the old one's place.
    OnDisk,
}

/// Writes a file with these permissions, whatever the process' umask, in place of what is there.
///
/// # Errors
/// As [`replace`].
pub fn write(path: &Path, bytes: &[u8], mode: u32, lasting: Lasting) -> io::Result<()> {
    replace(path, |new| {
        let mut file = File::options().create_new(true).write(true).mode(mode).open(new)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        if lasting == Lasting::OnDisk { file.sync_all() } else { Ok(()) }
    })
}

/// Lets `make` make something at a path beside `path`, be it a file or a socket, and renames it to
/// `path`. Its name until then is hidden and ends so that container runtimes take it for no
/// configuration; one that a killed process left is removed before. There is one writer at a time.
///
/// # Errors
/// The error of `make`, or of the file system; what was there is there still, and nothing is left
/// beside it.
pub fn replace<T>(path: &Path, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} names no file", path.display()),
        ));
    };
    let new = path.with_file_name(format!(".{}.netpolc-new", name.to_string_lossy()));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make(&new)
        .and_then(|made| fs::rename(&new, path).map(|()| made))
        .inspect_err(|_| drop(fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::unix::{fs::MetadataExt as _, net::UnixListener},
        path::PathBuf,
    };

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("netpolc-files-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        fn names(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0)
                .unwrap()
                .map(|f| f.unwrap().file_name().into_string().unwrap());
            names.collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_its_readers_keep_the_old_one() {
        let folder = Scratch::new("whole");
        let path = folder.0.join("record.json");
        write(&path, b"old", 0o600, Lasting::UntilReboot).unwrap();
        let mut reader = File::open(&path).unwrap();
        // As a killed process leaves it.
        fs::write(folder.0.join(".record.json.netpolc-new"), "ha").unwrap();
        write(&path, b"new", 0o644, Lasting::OnDisk).unwrap();
        let mut old = String::new();
        reader.read_to_string(&mut old).unwrap();
        assert_eq!((old.as_str(), fs::read_to_string(&path).unwrap().as_str()), ("old", "new"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        assert_eq!(folder.names(), ["record.json"]);
    }

    #[test]
    fn what_fails_leaves_the_old_one_and_nothing_else() {
        let folder = Scratch::new("fails");
        let path = folder.0.join("file");
        fs::write(&path, "old").unwrap();
        let failing = |new: &Path| {
            fs::write(new, "half")?;
            Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull))
        };
        assert_eq!(replace(&path, failing).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(folder.names(), ["file"]);
        assert_eq!(
            write(Path::new("/"), b"", 0o600, Lasting::OnDisk).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn a_socket_is_replaced_like_a_file() {
        let folder = Scratch::new("socket");
        let path = folder.0.join("cni.sock");
        let first = replace(&path, |new| UnixListener::bind(new)).unwrap();
        let second = replace(&path, |new| UnixListener::bind(new)).unwrap();
        drop(first);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        second.accept().unwrap();
        assert_eq!(folder.names(), ["cni.sock"]);
    }
}
