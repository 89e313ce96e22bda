//! The running host, asked by its socket as the commands ask it.

use alphorn::control::{
    Connection,
    protocol::{Answer, Letter, PluginRow, Request, Status},
};
use anyhow::bail;

use super::{Config, Context as _, Result, soon};

/// A connection to the socket of a host.
pub(crate) struct Host(Connection);

impl Host {
    pub(crate) async fn of(config: &Config) -> Result<Self> {
        Ok(Self(Connection::open(&config.socket()).await?))
    }

    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Answer> {
        Ok(soon("an answer of the host", self.0.ask(request)).await??)
    }

    pub(crate) async fn status(&mut self) -> Result<Status> {
        match self.ask(&Request::Ps).await? {
            Answer::Status(status) => Ok(*status),
            other => bail!("{other:?}"),
        }
    }

    pub(crate) async fn plugin(&mut self, name: &str) -> Result<PluginRow> {
        let status = self.status().await?;
        status.plugins.into_iter().find(|row| row.name == name).with_context(|| format!("no {name}"))
    }

    /// Waits until the plugin is as wanted.
    pub(crate) async fn until(&mut self, name: &str, is: impl Fn(&PluginRow) -> bool) -> Result<PluginRow> {
        let mut last = None;
        let wait = async {
            loop {
                let row = self.plugin(name).await?;
                if is(&row) {
                    return anyhow::Ok(row);
                }
                last = Some(row);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let waited = soon("a plugin's state", wait).await;
        waited.with_context(|| format!("{name}: {last:?}"))?
    }

    /// Ok, or the words of the failure.
    pub(crate) async fn does(&mut self, request: Request) -> Result<Result<usize, String>> {
        match self.ask(&request).await? {
            Answer::Done { count } => Ok(Ok(count)),
            Answer::Stood { .. } | Answer::RolledBack { .. } => Ok(Ok(1)),
            Answer::Failed { text, .. } => Ok(Err(text)),
            other => bail!("{other:?}"),
        }
    }

    pub(crate) async fn swap(&mut self, name: &str, file: &std::path::Path) -> Result<Result<usize, String>> {
        let file = file.to_string_lossy().into_owned();
        self.does(Request::Swap { name: name.to_owned(), file, wait: false }).await
    }

    /// To this version, or to the one before.
    pub(crate) async fn roll_back(&mut self, name: &str, to: Option<&str>) -> Result<Result<usize, String>> {
        let to = to.map(str::to_owned);
        self.does(Request::Rollback { name: name.to_owned(), to, dry_run: false }).await
    }

    pub(crate) async fn dead_letters(&mut self) -> Result<Vec<Letter>> {
        match self.ask(&Request::DeadLetters { name: None }).await? {
            Answer::Letters { letters } => Ok(letters),
            other => bail!("{other:?}"),
        }
    }
}
