//! What comes from somebody else controls nothing that it is shown on: no line of the output is
//! forged, no terminal is controlled, and no cell of a spreadsheet is a formula.

use std::{fs, path::PathBuf, process::Command};

/// A folder with a file whose name, and whose objects' names and labels, are hostile.
struct Folder(PathBuf);

const HOSTILE: &str = "x\\n::error file=z::PWN\\e[2J\\u202e";

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("netpolc-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let text = format!(
            r#"
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels: {{app: web, bad: "{HOSTILE}"}}
  ownerReferences: [{{apiVersion: x/v1, kind: Thing, name: "{HOSTILE}<img src=x>", controller: true}}]
spec: {{nodeName: "{HOSTILE}", containers: [{{name: c, ports: [{{name: "{HOSTILE}", containerPort: 80}}]}}]}}
status: {{podIPs: [{{ip: 10.0.0.1}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: db, namespace: shop}}
spec: {{template: {{metadata: {{labels: {{app: db, bad: "{HOSTILE}"}}}}, spec: {{containers: [{{name: c}}]}}}}}}
---
apiVersion: v1
kind: "{HOSTILE}"
metadata: {{name: y}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: db, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: db}}}}
  =1+1: true
  ingress: [{{from: [{{podSelector: {{matchLabels: {{bad: "none"}}}}}}]}}]
"#
        );
        fs::write(folder.join("=1+1\n::error::x\u{1b}[2J.yaml"), text).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn s61_names_of_others_forge_no_line_and_control_no_terminal() {
    let folder = Folder::new("hostile");
    let commands: [&[&str]; 14] = [
        &["list"],
        &["list", "-o", "markdown"],
        &["list", "-o", "csv"],
        &["list", "-o", "dot"],
        &["list", "--by", "pod"],
        &["explain", "shop/web", "shop/db:80"],
        &["explain", "shop/web", "shop/db:80", "-o", "markdown"],
        &["lint"],
        &["lint", "-o", "csv"],
        &["lint", "-o", "github"],
        &["lint", "-o", "markdown"],
        &["compile"],
        &["compile", "--node", "n"],
        &["verify"],
    ];
    for arguments in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_netpolc"))
            .args(arguments)
            .arg("-f")
            .arg(&folder.0)
            .output()
            .unwrap();
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).unwrap();
            let controls = |c: char| c != '\n' && c != '\r' && (c.is_control() || c == '\u{202e}');
            let found = text.lines().find(|line| line.contains(controls));
            assert_eq!(found, None, "{arguments:?}");
            let forged =
                |line: &&str| line.trim_start().starts_with("::error") && !line.contains("title=");
            assert_eq!(text.lines().find(forged), None, "{arguments:?}");
            if arguments.contains(&"markdown") {
                assert!(!text.contains("<img"), "{arguments:?}: {text}");
            }
            if arguments.contains(&"csv") {
                let cells = text.lines().flat_map(|line| line.split(','));
                let formula = |cell: &&str| cell.trim_start_matches('"').starts_with('=');
                assert_eq!(cells.into_iter().find(formula), None, "{arguments:?}");
            }
        }
    }
}
