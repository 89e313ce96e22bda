//! `alphorn keygen`: a pair of minisign keys, and how the secret one is read again.

use std::{
    fs::{self, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use alphorn::{
    regular_file::{self, SECRET},
    signature::{KeyPair, Signer},
};
use anyhow::{Context, anyhow};
use tracing::warn;

use super::print;
use crate::{
    cli::KeygenArgs,
    exit::{self, Failure},
};

pub(crate) fn keygen(args: &KeygenArgs) -> Result<(), Failure> {
    let (secret, public) = (with_end(&args.name, "key"), with_end(&args.name, "pub"));
    // Before anybody is asked for a password; `create_new` is what holds.
    for path in [&secret, &public] {
        if path.exists() {
            return Err(taken(path));
        }
    }
    let password = match &args.password_file {
        Some(file) => Some(password_in(file)?),
        None if args.no_password => None,
        None => Some(new_password()?),
    };
    let pair = KeyPair::make(password).map_err(anyhow::Error::new)?;
    create(&secret, 0o600, &pair.secret)?;
    create(&public, 0o644, &pair.public)?;
    let line = pair.public.lines().last().unwrap_or_default();
    let text = format!(
        "{}\n  to sign with: keep it secret\n{}\n  for devices that are to trust it:\n  [host]\n  trusted_keys = [{line:?}]",
        secret.display(),
        public.display(),
    );
    print::line(&text).context("stdout is closed")?;
    Ok(())
}

/// Who signs with the key in a file.
pub(super) fn signer(path: &Path, password_file: Option<&Path>) -> Result<Signer, Failure> {
    let bad = |error: anyhow::Error| Failure::new(exit::DATA, error.context(path.display().to_string()));
    let text =
        regular_file::read_to_string(path, SECRET).with_context(|| format!("can't read the key {}", path.display()));
    let text = text.map_err(|error| Failure::new(exit::DATA, error))?;
    if fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0) {
        warn!("{} can be read by other users: make its mode 0600", path.display());
    }
    let password = match password_file {
        _ if !Signer::needs_password(&text).map_err(|error| bad(error.into()))? => None,
        Some(file) => Some(password_in(file)?),
        None => Some(ask(&format!("password of {}: ", path.display()))?),
    };
    Signer::read(&text, password).map_err(|error| bad(error.into()))
}

fn with_end(name: &Path, end: &str) -> PathBuf {
    let mut path = name.as_os_str().to_owned();
    path.push(".");
    path.push(end);
    path.into()
}

fn create(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    match file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())) {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Err(taken(path)),
        Err(cause) => {
            let error = anyhow::Error::new(cause).context(format!("can't write {}", path.display()));
            Err(Failure::new(exit::NO_PERMISSION, error))
        }
    }
}

fn taken(path: &Path) -> Failure {
    Failure::new(
        exit::USAGE,
        anyhow!("{} is there already, and a key that is gone can't be made again: choose another name", path.display()),
    )
}

fn password_in(file: &Path) -> Result<String, Failure> {
    let text = regular_file::read_to_string(file, SECRET)
        .with_context(|| format!("can't read the password's file {}", file.display()));
    let text = text.map_err(|error| Failure::new(exit::USAGE, error))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn new_password() -> Result<String, Failure> {
    let password = ask("password for the new key: ")?;
    if password.is_empty() {
        return Err(Failure::new(exit::USAGE, anyhow!("an empty password protects nothing: --no-password")));
    }
    if ask("the same again: ")? != password {
        return Err(Failure::new(exit::USAGE, anyhow!("the two passwords differ")));
    }
    Ok(password)
}

fn ask(what: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        let remedy = "there is no terminal to ask for the key's password: --password-file FILE, \
                      or a key made with `alphorn keygen --no-password`";
        return Err(Failure::new(exit::USAGE, anyhow!(remedy)));
    }
    Ok(rpassword::prompt_password(what).context("no password was read")?)
}
