//! Things that come one by one, and waiting for the one that matters.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Context as _, Result, soon};

/// All that came so far. Clones see the same.
#[derive(Clone)]
pub(crate) struct Seen<T>(Arc<watch::Sender<State<T>>>);

struct State<T> {
    items: Vec<T>,
    /// Nothing more comes, for this reason.
    ended: Option<String>,
}

impl<T> Seen<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State { items: Vec::new(), ended: None })))
    }

    pub(crate) fn push(&self, item: T) {
        self.0.send_modify(|state| state.items.push(item));
    }

    pub(crate) fn end(&self, reason: String) {
        self.0.send_modify(|state| state.ended = Some(reason));
    }

    /// Looks at all that came so far.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&[T]) -> R) -> R {
        look(&self.0.borrow().items)
    }

    /// Looks after each one that came, until there is what was looked for.
    pub(crate) async fn wait_for<R>(&self, what: &str, mut look: impl FnMut(&[T]) -> Option<R>) -> Result<R> {
        let mut changes = self.0.subscribe();
        let search = async {
            loop {
                {
                    let state = changes.borrow_and_update();
                    if let Some(found) = look(&state.items) {
                        return Ok(found);
                    }
                    if let Some(reason) = &state.ended {
                        anyhow::bail!("{what}: {reason}");
                    }
                }
                changes.changed().await?;
            }
        };
        soon(what, search).await?
    }

    /// Waits until nothing more comes.
    pub(crate) async fn wait_for_end(&self) -> Result<()> {
        let mut changes = self.0.subscribe();
        soon("the end", changes.wait_for(|state| state.ended.is_some())).await?.context("gone")?;
        Ok(())
    }
}
