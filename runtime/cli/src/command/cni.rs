//! `netpolc cni`: keeps the chained plugin in a node's CNI configuration, or out of it.
//!
//! Not here: the files (`netpolc_cni::conflist`), the plugin itself (`netpolc-cni`).

use anyhow::Context;
use netpolc_agent::{Passes, file_watch::Watch};
use netpolc_cni::conflist::{Installed, PLUGIN};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::request::{Cni, Strictness, Wanted},
    output::{self, Outcome},
};

/// Runs the command.
///
/// # Errors
/// One pass: what failed. With `--watch` it is reported, and tried again at the next change.
pub fn run(cni: &Cni) -> anyhow::Result<Outcome> {
    match cni.passes {
        Passes::Once => pass(cni).map(|()| Outcome::Fine),
        Passes::UntilStopped => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
            runtime.block_on(keep(cni))
        }
    }
}

async fn keep(cni: &Cni) -> anyhow::Result<Outcome> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Before the first look, so that no change is missed. What a pass writes itself leads to one more, which finds nothing to do.
    let mut watch = Watch::new(std::slice::from_ref(&cni.node.conf_dir));
    loop {
        if let Err(error) = pass(cni) {
            tracing::error!("{error:#}");
        }
        tokio::select! {
            _ = interrupt.recv() => return Ok(Outcome::Fine),
            _ = terminate.recv() => return Ok(Outcome::Fine),
            () = watch.changed() => watch.settle().await,
        }
    }
}

fn pass(cni: &Cni) -> anyhow::Result<()> {
    match &cni.wanted {
        Wanted::In { program, options, strictness } => {
            let program = match program {
                Some(program) => program.clone(),
                None => std::env::current_exe().context("the path of this program")?.with_file_name(PLUGIN),
            };
            match cni.node.install(&program, &options.json()) {
                Ok(Installed::Already) => {}
                Ok(Installed::Chained(path)) => output::complain(format_args!("chained into {}", path.display())),
                Ok(Installed::NoNetwork) => output::complain(format_args!(
                    "no CNI configuration in {} yet; the plugin is chained when one appears and this command runs again",
                    cni.node.conf_dir.display()
                )),
                Err(error) if *strictness == Strictness::Optional => output::complain(error),
                Err(error) => return Err(error.into()),
            }
        }
        Wanted::Out => {
            for path in cni.node.remove()? {
                output::complain(format_args!("removed from {}", path.display()));
            }
        }
    }
    Ok(())
}
