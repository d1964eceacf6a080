//! One named network namespace: create, find, work inside, remove.
//!
//! Not here: entering it ([`netpolc_host::netns`]), what is in it (`super::cluster`), and who
//! cleans up after a killed run (`super::guard`).

use std::{
    ffi::{CString, OsStr},
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use netpolc_host::netns::{self, on_own_thread};

use super::Error;

/// Where iproute2 keeps named network namespaces, and the agent looks for them.
pub const RUN_DIR: &str = "/run/netns";

/// A named network namespace. Clones share one descriptor. Dropping it removes nothing: see
/// [`Namespace::remove`].
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    inner: Arc<netns::Namespace>,
}

impl Namespace {
    /// Makes a namespace and names it under [`RUN_DIR`], as `ip netns add` does, with sysctls that
    /// suit tests: IPv6 addresses are usable at once, unprivileged echo requests are allowed.
    ///
    /// # Errors
    /// The caller is not root, or there is a namespace of that name.
    pub fn create(name: &str) -> Result<Self, Error> {
        let path = path_of(name);
        let make = || -> io::Result<netns::Namespace> {
            fs::create_dir_all(RUN_DIR)?;
            File::options().write(true).create_new(true).open(&path)?;
            let made = on_own_thread(|| {
                // SAFETY: unshare(2) takes an integer only. It changes the namespace of the calling
                // thread, which `on_own_thread` made for this closure and ends after it.
                check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
                mount_over("/proc/thread-self/ns/net", &path)?;
                prepare();
                Ok(())
            });
            made.and_then(|()| netns::Namespace::open(&path))
                .inspect_err(|_| drop(fs::remove_file(&path)))
        };
        let inner =
            make().map_err(|e| Error::system(format!("create network namespace {name}"), e))?;
        Ok(Self { name: name.into(), inner: Arc::new(inner) })
    }

    /// Opens a namespace that exists under [`RUN_DIR`].
    ///
    /// # Errors
    /// There is no namespace of that name.
    pub fn open(name: &str) -> Result<Self, Error> {
        let inner = netns::Namespace::open(&path_of(name));
        let inner =
            inner.map_err(|e| Error::system(format!("open network namespace {name}"), e))?;
        Ok(Self { name: name.into(), inner: Arc::new(inner) })
    }

    /// Its file name under [`RUN_DIR`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path under [`RUN_DIR`], which the kernel binds to the namespace.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Does `work` on a new thread inside the namespace and waits for it. The calling thread stays
    /// where it is; sockets that `work` makes stay in the namespace wherever they are used later.
    /// A panic inside goes on in the caller.
    ///
    /// # Errors
    /// The namespace cannot be entered, or no thread can be started.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        self.inner
            .run(work)
            .map_err(|e| Error::system(format!("enter network namespace {}", self.name), e))
    }

    /// A command that will run inside the namespace; everything else about it is the caller's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let inner = Arc::clone(&self.inner);
        // SAFETY: between fork and exec only `enter` runs, which makes a system call and nothing
        // else: it neither allocates nor takes a lock.
        unsafe { command.pre_exec(move || inner.enter()) };
        command
    }

    /// Removes the name. The kernel frees the namespace and its interfaces once no process, thread
    /// or socket is left in it.
    ///
    /// # Errors
    /// The file under [`RUN_DIR`] cannot be removed. That there is none is fine.
    pub fn remove(name: &str) -> Result<(), Error> {
        let path = path_of(name);
        let bytes =
            CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL in namespace names");
        // SAFETY: `bytes` is NUL-terminated and lives across the call, which only reads it. A name
        // that is not a mount (left by a run killed between the two steps of `create`) only needs
        // the unlink.
        unsafe { libc::umount2(bytes.as_ptr(), libc::MNT_DETACH) };
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::system(format!("remove network namespace {name}"), e))
            }
            _ => Ok(()),
        }
    }

    /// The names of all that exist and start with `prefix`, sorted.
    pub fn list(prefix: &str) -> Vec<String> {
        let names = fs::read_dir(RUN_DIR)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|n| n.starts_with(prefix)).collect();
        names.sort();
        names
    }
}

/// The index of the interface `name` in the namespace of the calling thread.
///
/// # Errors
/// There is no such interface.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: `name` is NUL-terminated and lives across the call, which only reads it.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new(RUN_DIR).join(name)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn mount_over(source: &str, target: &Path) -> io::Result<()> {
    let source = CString::new(source)?;
    let target = CString::new(target.as_os_str().as_encoded_bytes())?;
    let kind = c"none".as_ptr();
    // SAFETY: `source`, `target` and `kind` are NUL-terminated and live across the call, which only
    // reads them; a bind mount takes no data, so that pointer may be null.
    check(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind, libc::MS_BIND, std::ptr::null())
    })
}

/// The sysctls of the calling thread's namespace. Those that a kernel lacks are left alone: IPv6
/// may be compiled out, and what then fails says so itself.
fn prepare() {
    for (sysctl, value) in [
        ("ipv4/ping_group_range", "0 2147483647"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/dad_transmits", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
        ("ipv6/conf/default/addr_gen_mode", "0"),
    ] {
        let _ = fs::write(Path::new("/proc/sys/net").join(sysctl), value);
    }
}
