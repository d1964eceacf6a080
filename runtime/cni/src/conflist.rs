//! Adds the chained plugin to a node's CNI configuration, and removes it again.
//!
//! The plugin is appended to the list that the container runtime uses, which is the folder's first
//! file by name. Every file is replaced by a single rename, and installing twice changes nothing.
//! The original file stays beside the new one, under a name that runtimes do not read.
//!
//! Not here: what the plugin does ([`crate::run`]), and watching the folder (`netpolc cni`).

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use netpolc_host::files::{self, Lasting};
use serde_json::{Map, Value, json};

use crate::run::VERSIONS;

/// The name of the plugin's program, which is also its type in a list.
pub const PLUGIN: &str = "netpolc-cni";
/// The ending of the copy of the original file.
const ORIGINAL: &str = "netpolc-original";
/// The endings of the files that runtimes read (libcni, ConfFiles).
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// The reason why the configuration could not be changed; it stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{} could not be {what}: {source}", path.display())]
    File {
        /// What could not be done with the file, as a participle.
        what: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file is not a network configuration to which the plugin can be added.
    #[error("{}: {why}", path.display())]
    Config {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with the file, and what to do about it.
        why: String,
    },
}

/// The folders in which a node keeps plugins and their configuration.
#[derive(Clone, Debug)]
pub struct Node {
    /// The folder of plugins, `/opt/cni/bin` on most nodes; None where the plugin's program is
    /// installed and removed by other means.
    pub bin_dir: Option<PathBuf>,
    /// The folder of configurations, `/etc/cni/net.d` on most nodes.
    pub conf_dir: PathBuf,
    /// The name of the file in `conf_dir` to change; None for the first by name, which runtimes
    /// choose.
    pub file: Option<String>,
}

/// The outcome of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// Everything was in place already.
    Already,
    /// The plugin was added to this file.
    Chained(PathBuf),
    /// The node has no CNI configuration yet.
    NoNetwork,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

impl Node {
    /// Copies `program` to the folder of plugins, and adds it to the configuration with `options`.
    ///
    /// # Errors
    /// A file cannot be read or written, or the configuration cannot take a chained plugin.
    pub fn install(
        &self,
        program: &Path,
        options: &Map<String, Value>,
    ) -> Result<Installed, Error> {
        // The program must be there before a configuration names it.
        if let Some(bin_dir) = &self.bin_dir {
            let bytes = fs::read(program).map_err(failed("read", program))?;
            let target = bin_dir.join(PLUGIN);
            if fs::read(&target).ok().as_ref() != Some(&bytes) {
                fs::create_dir_all(bin_dir).map_err(failed("created", bin_dir))?;
                replace(&target, &bytes, 0o755)?;
            }
        }
        let Some(path) = self.chosen()? else { return Ok(Installed::NoNetwork) };
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let now = parse(&path, &bytes)?;
        let mut plugin = options.clone();
        plugin.insert("type".into(), PLUGIN.into());
        let wanted = chained(&path, now.clone(), plugin.into())?;
        if wanted == now {
            return Ok(Installed::Already);
        }
        let mode =
            fs::metadata(&path).map_err(failed("examined", &path))?.permissions().mode() & 0o777;
        if !has_plugin(&now) {
            replace(&original(&path), &bytes, mode)?;
        }
        let list = path.with_extension("conflist");
        replace(&list, &pretty(&wanted), mode)?;
        if list != path && ends(&path, &["conf"]) {
            // A single plugin has become a list in a new file, but the old file would still come
            // first by name.
            fs::remove_file(&path).map_err(failed("removed", &path))?;
        }
        Ok(Installed::Chained(list))
    }

    /// Undoes [`Node::install`]: restores the original file, or, where it has been changed since,
    /// removes the plugin from it. Returns the files that have changed.
    ///
    /// # Errors
    /// A file cannot be read, written or removed.
    pub fn remove(&self) -> Result<Vec<PathBuf>, Error> {
        let mut changed = Vec::new();
        for path in self.configurations()? {
            let Ok(bytes) = fs::read(&path) else { continue };
            // The folder may hold files of others, with any contents.
            let Ok(now) = parse(&path, &bytes) else { continue };
            if !has_plugin(&now) {
                continue;
            }
            let without = without(now);
            let original_of =
                ENDINGS.map(|ending| path.with_extension(ending)).into_iter().find(|was| {
                    let was =
                        fs::read(original(was)).ok().and_then(|bytes| parse(was, &bytes).ok());
                    was.is_some_and(|was| listed(was) == without)
                });
            match original_of {
                Some(was) => {
                    fs::rename(original(&was), &was).map_err(failed("restored", &was))?;
                    if was != path {
                        fs::remove_file(&path).map_err(failed("removed", &path))?;
                    }
                    changed.push(was);
                }
                None => {
                    replace(&path, &pretty(&without), 0o644)?;
                    changed.push(path);
                }
            }
        }
        for path in entries(&self.conf_dir)?.into_iter().filter(|p| ends(p, &[ORIGINAL])) {
            remove_file(&path)?;
        }
        if let Some(bin_dir) = &self.bin_dir {
            remove_file(&bin_dir.join(PLUGIN))?;
        }
        Ok(changed)
    }

    /// The file to change; None where there is no configuration yet.
    fn chosen(&self) -> Result<Option<PathBuf>, Error> {
        Ok(match &self.file {
            Some(name) => Some(self.conf_dir.join(name)).filter(|path| path.exists()),
            None => self.configurations()?.into_iter().next(),
        })
    }

    /// The files that a runtime reads, in its order.
    fn configurations(&self) -> Result<Vec<PathBuf>, Error> {
        Ok(entries(&self.conf_dir)?.into_iter().filter(|p| ends(p, &ENDINGS)).collect())
    }
}

/// The files of a folder in order of their names; empty where there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        list => list.map_err(failed("listed", folder))?,
    };
    let mut paths: Vec<PathBuf> =
        list.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| p.is_file()).collect();
    paths.sort();
    Ok(paths)
}

fn ends(path: &Path, endings: &[&str]) -> bool {
    path.extension().and_then(OsStr::to_str).is_some_and(|ending| endings.contains(&ending))
}

fn original(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ORIGINAL);
    name.into()
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Value, Error> {
    let config = |why| Error::Config { path: path.to_owned(), why };
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| config(format!("the file is not valid JSON: {error}")))?;
    if value["type"].is_string() || value["plugins"].is_array() {
        return Ok(value);
    }
    Err(config(
        "the file is neither a CNI plugin nor a list of plugins: it has no \"type\" and no \
        \"plugins\""
            .into(),
    ))
}

/// Turns the configuration of a single plugin into an equivalent list.
fn listed(config: Value) -> Value {
    if config["plugins"].is_array() {
        return config;
    }
    let (mut plugin, mut list) = (config, json!({}));
    // In a list these keys stand once for all plugins.
    for key in ["cniVersion", "name"] {
        if let Some(value) = plugin.as_object_mut().and_then(|p| p.remove(key)) {
            list[key] = value;
        }
    }
    list["plugins"] = json!([plugin]);
    list
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

fn has_plugin(config: &Value) -> bool {
    config["plugins"].as_array().is_some_and(|plugins| plugins.iter().any(is_ours))
}

fn without(config: Value) -> Value {
    let mut list = listed(config);
    if let Some(plugins) = list["plugins"].as_array_mut() {
        plugins.retain(|plugin| !is_ours(plugin));
    }
    list
}

/// Adds `plugin` to a configuration: in its current position where it is there already, and else at
/// the end.
fn chained(path: &Path, config: Value, plugin: Value) -> Result<Value, Error> {
    let mut list = listed(config);
    let version = list["cniVersion"].as_str().unwrap_or("0.1.0").to_owned();
    if !VERSIONS.contains(&version.as_str()) {
        let why = format!(
            "cniVersion {version} has no chained plugins that netpolc supports; use one of \
             {VERSIONS:?}"
        );
        return Err(Error::Config { path: path.to_owned(), why });
    }
    if let Some(plugins) = list["plugins"].as_array_mut() {
        if plugins.iter().all(is_ours) {
            let why = "the list has no plugin that creates a pod's interface, and netpolc must \
                follow one; write the network's own plugin into \"plugins\" first";
            return Err(Error::Config { path: path.to_owned(), why: why.into() });
        }
        let place = plugins.iter().position(is_ours).unwrap_or(plugins.len());
        plugins.retain(|plugin| !is_ours(plugin));
        plugins.insert(place, plugin);
    }
    Ok(list)
}

fn pretty(config: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(config).unwrap_or_default();
    text.push(b'\n');
    text
}

/// Writes a file atomically.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    files::write(path, bytes, mode, Lasting::OnDisk).map_err(failed("written", path))
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("removed", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"0.4.0","name":"pods","plugins":[{"type":"ptp","mtu":1400},{"type":"portmap"}]}"#;
    const LONE: &str =
        r#"{"cniVersion":"0.4.0","name":"pods","type":"bridge","ipam":{"type":"host-local"}}"#;

    struct Machine {
        folder: PathBuf,
        node: Node,
    }

    impl Machine {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let folder =
                std::env::temp_dir().join(format!("netpolc-chain-{name}-{}", std::process::id()));
            let node = Node {
                bin_dir: Some(folder.join("bin")),
                conf_dir: folder.join("conf"),
                file: None,
            };
            fs::create_dir_all(&node.conf_dir).unwrap();
            fs::write(folder.join("program"), "1").unwrap();
            for (name, text) in files {
                fs::write(node.conf_dir.join(name), text).unwrap();
            }
            Self { folder, node }
        }

        fn install(&self, options: Value) -> Result<Installed, Error> {
            self.node.install(&self.folder.join("program"), options.as_object().unwrap())
        }

        /// Names of all files of the configuration.
        fn names(&self) -> Vec<String> {
            let paths = entries(&self.node.conf_dir).unwrap();
            paths.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.node.conf_dir.join(name)).unwrap()
        }

        fn types(&self, name: &str) -> Vec<String> {
            let list: Value = serde_json::from_str(&self.text(name)).unwrap();
            list["plugins"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| p["type"].as_str().unwrap().to_owned())
                .collect()
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn the_first_list_gets_the_plugin_and_gives_it_back() {
        let machine = Machine::new(
            "list",
            &[("20-other.conflist", LIST), ("10-ptp.conflist", LIST), ("README", "x")],
        );
        let chained = Installed::Chained(machine.node.conf_dir.join("10-ptp.conflist"));
        assert_eq!(machine.install(json!({"fail": "open"})).unwrap(), chained);
        assert_eq!(machine.types("10-ptp.conflist"), ["ptp", "portmap", PLUGIN]);
        assert_eq!(machine.text("20-other.conflist"), LIST);
        assert_eq!(machine.text("10-ptp.conflist.netpolc-original"), LIST);
        let program = machine.folder.join("bin").join(PLUGIN);
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);

        assert_eq!(machine.install(json!({"fail": "open"})).unwrap(), Installed::Already);
        assert_eq!(machine.install(json!({})).unwrap(), chained, "other options");
        assert!(!machine.text("10-ptp.conflist").contains("open"));
        assert_eq!(
            machine.text("10-ptp.conflist.netpolc-original"),
            LIST,
            "of before the first time"
        );

        machine.node.remove().unwrap();
        assert_eq!(machine.names(), ["10-ptp.conflist", "20-other.conflist", "README"]);
        assert_eq!(machine.text("10-ptp.conflist"), LIST, "byte for byte");
        assert!(!program.exists());
        assert_eq!(machine.node.remove().unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_lone_plugin_becomes_a_list_and_a_lone_plugin_again() {
        let machine = Machine::new("lone", &[("10-bridge.conf", LONE)]);
        let chained = Installed::Chained(machine.node.conf_dir.join("10-bridge.conflist"));
        assert_eq!(machine.install(json!({})).unwrap(), chained);
        assert_eq!(machine.names(), ["10-bridge.conf.netpolc-original", "10-bridge.conflist"]);
        assert_eq!(machine.types("10-bridge.conflist"), ["bridge", PLUGIN]);
        let list: Value = serde_json::from_str(&machine.text("10-bridge.conflist")).unwrap();
        assert_eq!((&list["name"], &list["cniVersion"]), (&json!("pods"), &json!("0.4.0")));
        assert_eq!(list["plugins"][0], json!({"type": "bridge", "ipam": {"type": "host-local"}}));
        machine.node.remove().unwrap();
        assert_eq!(
            (machine.names(), machine.text("10-bridge.conf")),
            (vec!["10-bridge.conf".into()], LONE.into())
        );
    }

    #[test]
    fn what_others_wrote_since_stays() {
        let machine = Machine::new("since", &[("10-ptp.conflist", LIST)]);
        machine.install(json!({})).unwrap();
        let more = machine.text("10-ptp.conflist").replace("1400", "1300").replace(
            "\"type\": \"netpolc-cni\"\n    }",
            "\"type\": \"netpolc-cni\"\n    }, {\"type\": \"mesh\"}",
        );
        fs::write(machine.node.conf_dir.join("10-ptp.conflist"), more).unwrap();
        assert_eq!(machine.install(json!({})).unwrap(), Installed::Already);
        assert_eq!(machine.types("10-ptp.conflist"), ["ptp", "portmap", PLUGIN, "mesh"]);
        machine.node.remove().unwrap();
        assert_eq!(machine.types("10-ptp.conflist"), ["ptp", "portmap", "mesh"]);
        assert!(machine.text("10-ptp.conflist").contains("1300"));
        assert_eq!(machine.names(), ["10-ptp.conflist"]);
    }

    #[test]
    fn a_rewritten_list_is_chained_again_and_kept_anew() {
        let machine = Machine::new("again", &[("10-ptp.conflist", LIST)]);
        machine.install(json!({})).unwrap();
        let newer = LIST.replace("1400", "1200");
        fs::write(machine.node.conf_dir.join("10-ptp.conflist"), &newer).unwrap();
        machine.install(json!({})).unwrap();
        assert_eq!(machine.types("10-ptp.conflist"), ["ptp", "portmap", PLUGIN]);
        machine.node.remove().unwrap();
        assert_eq!(machine.text("10-ptp.conflist"), newer);
    }

    #[test]
    fn a_new_program_replaces_the_old_one() {
        let machine = Machine::new("program", &[("10-ptp.conflist", LIST)]);
        machine.install(json!({})).unwrap();
        fs::write(machine.folder.join("program"), "2").unwrap();
        assert_eq!(machine.install(json!({})).unwrap(), Installed::Already);
        assert_eq!(fs::read_to_string(machine.folder.join("bin").join(PLUGIN)).unwrap(), "2");
    }

    #[test]
    fn what_cannot_be_chained_stays_as_it_is_and_is_named() {
        for (text, part) in [
            ("{", "is not valid JSON"),
            ("{}", "\"plugins\""),
            (r#"{"name":"x","plugins":[{"type":"ptp"}]}"#, "cniVersion 0.1.0"),
            (r#"{"cniVersion":"0.2.0","name":"x","plugins":[{"type":"ptp"}]}"#, "cniVersion 0.2.0"),
            (
                r#"{"cniVersion":"1.0.0","name":"x","plugins":[]}"#,
                "no plugin that creates a pod's interface",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"netpolc-cni"}]}"#,
                "no plugin that creates",
            ),
        ] {
            let machine = Machine::new("bad", &[("10-ptp.conflist", text)]);
            let error = machine.install(json!({})).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("10-ptp.conflist"), "{text}: {error}");
            assert_eq!(
                (machine.names(), machine.text("10-ptp.conflist")),
                (vec!["10-ptp.conflist".into()], text.into())
            );
        }
        let machine = Machine::new("none", &[]);
        assert_eq!(machine.install(json!({})).unwrap(), Installed::NoNetwork);
    }

    #[test]
    fn the_program_stays_out_of_hand_where_it_is_not_ours_to_install() {
        let mut machine = Machine::new("chain-only", &[("10-ptp.conflist", LIST)]);
        machine.node.bin_dir = None;
        machine.install(json!({})).unwrap();
        assert_eq!(machine.types("10-ptp.conflist"), ["ptp", "portmap", PLUGIN]);
        assert!(!machine.folder.join("bin").exists());
        machine.node.remove().unwrap();
        assert_eq!(machine.text("10-ptp.conflist"), LIST);
    }

    #[test]
    fn a_named_file_is_chained_instead_of_the_first() {
        let mut machine =
            Machine::new("named", &[("00-multus.conf", LONE), ("10-ptp.conflist", LIST)]);
        machine.node.file = Some("10-ptp.conflist".into());
        machine.install(json!({})).unwrap();
        assert_eq!(machine.types("10-ptp.conflist"), ["ptp", "portmap", PLUGIN]);
        assert_eq!(machine.text("00-multus.conf"), LONE);
    }
}
