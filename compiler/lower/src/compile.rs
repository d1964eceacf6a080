//! Compiling a whole cluster, with and without shares.

use netpolc_policy::{Cluster, audit};

use crate::{compiler::Compiler, event::Scope, overflow::Overflow, shares::Shares};

/// Compiles a cluster from scratch; where ids run out, without what is only tried.
///
/// # Errors
/// Where a node needs more ids than there are.
pub fn compile(cluster: &Cluster, scope: Scope) -> Result<Compiler, Overflow> {
    let mut compiler = Compiler::new(scope.clone());
    match compiler.load(cluster) {
        Ok(()) => Ok(compiler),
        // What is only tried gives way (S85).
        Err(_) if !audit::tried(cluster).is_empty() => compile(&audit::enforced(cluster), scope),
        Err(overflow) => Err(overflow),
    }
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
            if let Err(overflow) = compiler.load_admitted(cluster, self) {
                if self.give_way(cluster) {
                    continue;
                }
                return Err(overflow);
            }
            if !self.blame_excess(cluster, compiler.take_excess()) {
                return Ok(compiler);
            }
        }
    }
}
