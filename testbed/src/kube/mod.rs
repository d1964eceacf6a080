//! A real Kubernetes API server on loopback: etcd and kube-apiserver as
//! `testbed/kube/kubernetes.sh` builds them, with certificates, users and RBAC of their own; gone,
//! with its folder, when dropped.
//!
//! Here: processes. [`objects`] makes and deletes things through the server, [`storage`] behind its
//! back. [`fake`] is a server within the process, for what a real one does not do on command:
//! stall, forget, stay silent. Not here: nodes, which run containers (`testbed/kube/node.sh`).

pub mod fake;
pub mod objects;
pub mod storage;

use std::{
    fs, io,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
pub use kube::Client;
use kube::Config;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// How long a server may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Users that the server knows, by token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// A user that may do everything.
    Admin,
    /// May do nothing but what RBAC rules made for `viewer` allow.
    Viewer,
    /// The admin under a second token.
    Deputy,
}

impl User {
    const ALL: [User; 3] = [User::Admin, User::Viewer, User::Deputy];

    /// The name that RBAC knows the user by.
    pub fn name(self) -> &'static str {
        match self {
            User::Admin => "admin",
            User::Viewer => "viewer",
            User::Deputy => "deputy",
        }
    }

    /// The bearer token of the user.
    pub fn token(self) -> String {
        format!("{}-token", self.name())
    }

    fn group(self) -> &'static str {
        match self {
            User::Admin | User::Deputy => "system:masters",
            User::Viewer => "viewers",
        }
    }
}

/// A running etcd and kube-apiserver. Dropping it ends both.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    programs: PathBuf,
    port: u16,
    etcd_port: u16,
    ca: String,
    etcd: Option<Running>,
    api: Option<Running>,
    extra: Vec<String>,
}

impl Server {
    /// Starts both and waits until the server is ready: some seconds, where the programs are built
    /// already.
    ///
    /// # Errors
    /// The programs are missing, or do not start; the ends of their logs are in the message.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Server::start`], with further arguments for kube-apiserver.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_with(extra: &[&str]) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let programs = programs()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("netpolc-kube-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let [port, etcd_port, peer_port] = free_ports()?;
        let extra = extra.iter().map(ToString::to_string).collect();
        let mut server = Self {
            folder,
            programs,
            port,
            etcd_port,
            ca: String::new(),
            etcd: None,
            api: None,
            extra,
        };
        server.ca = certificates(&server.folder)?;
        server.write_tokens(&User::ALL)?;
        server.etcd = Some(server.run_etcd(peer_port)?);
        server.run_api(User::Admin).await?;
        Ok(server)
    }

    /// The address of the API server: `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Its folder: logs, certificates, kubeconfigs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The programs' folder, which has kubectl and kubelet too.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// A kubeconfig for a user.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn kubeconfig(&self, user: User) -> io::Result<PathBuf> {
        self.write_kubeconfig(user.name(), &format!("token: {}", user.token()))
    }

    /// A kubeconfig that takes its token from a file.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn kubeconfig_with_token_file(&self, token_file: &Path) -> io::Result<PathBuf> {
        self.write_kubeconfig("token-file", &format!("tokenFile: {}", token_file.display()))
    }

    /// A client on the current runtime.
    ///
    /// # Errors
    /// The certificates are refused.
    pub async fn client(&self, user: User) -> Result<Client> {
        let path = self.kubeconfig(user)?;
        let kubeconfig = kube::config::Kubeconfig::read_from(path)?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
                .await?;
        Ok(Client::try_from(config)?)
    }

    /// Kills kube-apiserver as a crash would; etcd runs on.
    pub fn kill_api(&mut self) {
        self.api = None;
    }

    /// Starts kube-apiserver again, on the same port, knowing these users.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn restart_api(&mut self, users: &[User]) -> Result<()> {
        self.kill_api();
        self.write_tokens(users)?;
        self.run_api(users.first().copied().context("a server that knows nobody")?).await
    }

    fn run_etcd(&self, peer_port: u16) -> Result<Running> {
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut command = Command::new(self.programs.join("etcd"));
        command.args([
            "--name",
            "t",
            "--unsafe-no-fsync",
            "--max-txn-ops",
            "1024",
            "--log-level",
            "error",
        ]);
        command.arg("--data-dir").arg(self.folder.join("etcd"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("t={peer}")]);
        Running::spawn(command, &self.folder.join("etcd.log"))
    }

    async fn run_api(&mut self, asks: User) -> Result<()> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let log = self.folder.join("apiserver.log");
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        command.args([
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.port),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            format!("--cert-dir={}", self.folder.display()),
        ]);
        command.args([
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true",
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            "--max-requests-inflight=0",
            "--max-mutating-requests-inflight=0",
            "--enable-priority-and-fairness=false",
        ]);
        command.args(&self.extra);
        let mut running = Running::spawn(command, &log)?;
        let client = self.client(asks).await?;
        let began = Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(vec![])?;
            if client.request_text(request).await.is_ok_and(|answer| answer == "ok") {
                break;
            }
            if let Some(status) = running.child.try_wait()? {
                bail!("kube-apiserver ended ({status}): {}", tail(&log));
            }
            if began.elapsed() > START_TIMEOUT {
                bail!("kube-apiserver is not ready after {START_TIMEOUT:?}: {}", tail(&log));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.api = Some(running);
        Ok(())
    }

    fn write_tokens(&self, users: &[User]) -> io::Result<()> {
        let line = |u: &User| {
            format!("{},{name},{name}-uid,\"{}\"\n", u.token(), u.group(), name = u.name())
        };
        fs::write(self.folder.join("tokens.csv"), users.iter().map(line).collect::<String>())
    }

    fn write_kubeconfig(&self, name: &str, credential: &str) -> io::Result<PathBuf> {
        let path = self.folder.join(format!("{name}.kubeconfig"));
        let ca = BASE64_STANDARD.encode(&self.ca);
        let url = self.url();
        let text = format!(
            "apiVersion: v1\nkind: Config\n\
             clusters: [{{name: t, cluster: {{server: \"{url}\", certificate-authority-data: \
             {ca}}}}}]\n\
             users: [{{name: u, user: {{{credential}}}}}]\n\
             contexts: [{{name: t, context: {{cluster: t, user: u}}}}]\ncurrent-context: t\n"
        );
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.api = None;
        self.etcd = None;
        // What cannot be removed is in the system's folder for such things.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The folder with the programs: NETPOLC_KUBERNETES, to run tests against another version of
/// Kubernetes than the one that is built where the cache lacks it.
fn programs() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("NETPOLC_KUBERNETES") {
        return Ok(folder.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube/kubernetes.sh");
    let out = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| script.display().to_string())?;
    anyhow::ensure!(
        out.status.success(),
        "{} failed: a real API server cannot be built here",
        script.display()
    );
    Ok(PathBuf::from(String::from_utf8(out.stdout)?.trim()))
}

/// A process that is killed when this is dropped, or when the thread ends that started it.
#[derive(Debug)]
struct Running {
    child: Child,
}

impl Running {
    fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: between fork and exec only prctl(2) runs, which is a bare system call: it takes
        // integers, allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that nothing listens on at the moment.
fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut held = Vec::new();
    for _ in 0..N {
        held.push(TcpListener::bind(("127.0.0.1", 0))?);
    }
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Writes a CA, the server's certificate and the service accounts' keys; gives the CA's
/// certificate.
fn certificates(folder: &Path) -> Result<String> {
    let named = |name: &str, names: Vec<String>| -> Result<CertificateParams> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(params)
    };
    let ca_key = KeyPair::generate()?;
    let mut ca = named("test-ca", vec![])?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_text = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut server = named(
        "kube-apiserver",
        ["127.0.0.1", "10.96.0.1", "localhost", "kubernetes"].map(String::from).into(),
    )?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = server.signed_by(&key, &issuer)?;
    let accounts = KeyPair::generate()?;
    for (name, text) in [
        ("ca.crt", ca_text.clone()),
        ("server.crt", certificate.pem()),
        ("server.key", key.serialize_pem()),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
    ] {
        fs::write(folder.join(name), text)?;
    }
    Ok(ca_text)
}
