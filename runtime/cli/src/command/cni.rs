//! `netpolc cni`: adds the chained plugin to a node's CNI configuration, or removes it, and with
//! `--watch` keeps it that way.
//!
//! Not here: changing the files (`netpolc_cni::conflist`), and the plugin itself (`netpolc-cni`).

use anyhow::Context;
use netpolc_agent::serve::{Passes, file_watch::Watch};
use netpolc_cni::conflist::{Installed, PLUGIN};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::request::{Cni, Desired, Strictness},
    output::{self, Outcome},
};

/// Runs `netpolc cni`.
///
/// # Errors
/// The configuration cannot be changed. With `--watch` that is logged, and retried at the next
/// change.
pub fn run(cni: &Cni) -> anyhow::Result<Outcome> {
    match cni.passes {
        Passes::Once => pass(cni).map(|()| Outcome::Fine),
        Passes::UntilStopped => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("the async runtime could not be started")?;
            runtime.block_on(watch_folder(cni))
        }
    }
}

async fn watch_folder(cni: &Cni) -> anyhow::Result<Outcome> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // The watch begins before the first pass, so that no change is missed. A pass that writes files
    // causes one more, which finds nothing to do.
    let mut watch = Watch::new(std::slice::from_ref(&cni.node.conf_dir));
    loop {
        if let Err(error) = pass(cni) {
            tracing::error!("{error:#}");
        }
        tokio::select! {
            _ = interrupt.recv() => return Ok(Outcome::Fine),
            _ = terminate.recv() => return Ok(Outcome::Fine),
            () = watch.changed() => watch.debounce().await,
        }
    }
}

fn pass(cni: &Cni) -> anyhow::Result<()> {
    match &cni.desired {
        Desired::Installed { program, options, strictness } => {
            let program = match program {
                Some(program) => program.clone(),
                None => std::env::current_exe()
                    .context("the path of this program could not be found")?
                    .with_file_name(PLUGIN),
            };
            match cni.node.install(&program, &options.json()) {
                Ok(Installed::Already) => {}
                Ok(Installed::Chained(path)) => {
                    output::complain(format_args!("the plugin was added to {}", path.display()))
                }
                Ok(Installed::NoNetwork) => output::complain(format_args!(
                    "there is no CNI configuration in {} yet; the plugin is added when one appears \
                    and this command runs again",
                    cni.node.conf_dir.display()
                )),
                Err(error) if *strictness == Strictness::Optional => output::complain(error),
                Err(error) => return Err(error.into()),
            }
        }
        Desired::Removed => {
            for path in cni.node.remove()? {
                output::complain(format_args!("the plugin was removed from {}", path.display()));
            }
        }
    }
    Ok(())
}
