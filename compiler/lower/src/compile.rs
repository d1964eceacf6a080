//! Compiling a whole cluster, with and without shares.

use netpolc_policy::Cluster;

use crate::{compiler::Compiler, event::Scope, overflow::Overflow, shares::Shares};

/// Compiles a cluster from scratch.
///
/// # Errors
/// Where a node needs more ids than there are.
pub fn compile(cluster: &Cluster, scope: Scope) -> Result<Compiler, Overflow> {
    let mut compiler = Compiler::new(scope);
    compiler.load(cluster)?;
    Ok(compiler)
}

// Here and not with shares, which know nothing of the compiler.
impl Shares {
    /// A compiler, at first as `new` makes it, that has taken in what is admitted of the cluster
    /// that was decided about. Sets aside what turns out to take too much.
    ///
    /// # Errors
    /// Where ids run out.
    pub fn compile(
        &mut self,
        cluster: &Cluster,
        new: impl Fn() -> Compiler,
    ) -> Result<Compiler, Overflow> {
        loop {
            let mut compiler = new().bounded(self.limits().cells);
            compiler.load_admitted(cluster, self)?;
            if !self.blame_excess(cluster, compiler.take_excess()) {
                return Ok(compiler);
            }
        }
    }
}
