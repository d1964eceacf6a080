//! Targets around targets: [`Traced`] logs, [`Counted`] counts, [`Faulty`] fails on purpose. Each
//! is a [`Target`](crate::Target), and a [`Datapath`](crate::Datapath) where the inner one is.
//!
//! Not here: any target that enforces something by itself.

mod counted;
mod faulty;
mod traced;

pub use counted::{Counted, Counts, TableCounts};
pub use faulty::{Faults, Faulty};
pub use traced::Traced;

/// The [`Datapath`](crate::Datapath) of a decorator that has nothing to add to packets.
macro_rules! packets_of_inner {
    ($decorator:ident) => {
        impl<T: crate::Datapath> crate::Datapath for $decorator<T> {
            fn packet(
                &mut self,
                hook: crate::Hook,
                frame: &crate::Frame,
            ) -> Result<crate::Verdict, crate::Error> {
                self.inner.packet(hook, frame)
            }

            fn advance(&mut self, by: std::time::Duration) -> Result<(), crate::Error> {
                self.inner.advance(by)
            }

            fn explain_last(&self) -> Option<crate::DropReason> {
                self.inner.explain_last()
            }
        }

        impl<T> $decorator<T> {
            /// The target inside.
            pub fn inner(&self) -> &T {
                &self.inner
            }

            /// The target inside, mutably. Calls on it pass the decorator by.
            pub fn inner_mut(&mut self) -> &mut T {
                &mut self.inner
            }

            /// Gives up the decorator and returns the target.
            pub fn into_inner(self) -> T {
                self.inner
            }
        }
    };
}
use packets_of_inner;
