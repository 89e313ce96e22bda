//! Exit codes, after sysexits.h, and errors that carry one.

use std::{io::ErrorKind, process::ExitCode};

use alphorn::{host::StartError, store::StoreError};

/// Wrong usage.
pub(crate) const USAGE: u8 = 64;
/// A bad input file: a component.
pub(crate) const DATA: u8 = 65;
/// The broker can't be reached, refuses, or does not answer.
pub(crate) const UNAVAILABLE: u8 = 69;
/// A fault of the program itself.
pub(crate) const SOFTWARE: u8 = 70;
/// The system refuses something.
pub(crate) const OS: u8 = 71;
/// Not permitted.
pub(crate) const NO_PERMISSION: u8 = 77;
/// Bad configuration.
pub(crate) const CONFIG: u8 = 78;

/// An error that ends the program.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// `None`: it has been said.
    error: Option<anyhow::Error>,
}

impl Failure {
    pub(crate) fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: Some(error.into()) }
    }

    /// One whose reasons are on stdout already.
    pub(crate) fn said(code: u8) -> Self {
        Self { code, error: None }
    }

    /// The exit code it comes to.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Says what happened and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(error) = self.error {
            tracing::error!("{error:#}");
        }
        self.code.into()
    }
}

/// A host that does not start: mostly a folder that can't be used.
impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::Store(StoreError::Place { cause, .. }) if cause.kind() == ErrorKind::PermissionDenied => {
                NO_PERMISSION
            }
            StartError::Store(_) => CONFIG,
            StartError::Other(_) => SOFTWARE,
        };
        Self::new(code, error)
    }
}

/// Anything unforeseen is a fault of the program.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(SOFTWARE, error)
    }
}
