//! Where the instructions of a message go: by thread and by what they are for.
//!
//! callgrind counts the instructions of each function in each thread; names of functions say what
//! they are for. What is in libraries of the system goes by their names, too, and code that was
//! compiled from a component has no name.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use anyhow::{Context, Result};

/// Whose work it is. A thread is known by what it does and those behind it do not.
const THREADS: [(&str, &str); 5] = [
    ("front", "alphorn_dev_broker::front::relay"),
    ("peer", "rig::peer::serve"),
    ("plugin", "alphorn::plugin::task"),
    ("journal", "alphorn::journal::Writer"),
    ("link", "alphorn::link"),
];

/// What functions are for: the first of these whose words are in the name. The order matters, as
/// names of generic functions name what they are generic over.
const PURPOSES: [(&str, &[&str]); 14] = [
    ("clock", &["clock_gettime", "Timespec", "Instant"]),
    ("allocation", &["malloc", "free", "realloc", "calloc", "__rust_alloc", "__rust_dealloc", "allocations::"]),
    ("copying", &["memmove", "memcpy", "memset", "memcmp"]),
    // The last two are within what ring has in assembler.
    ("TLS", &["rustls", "ring::aead", "ring_core", "aesni", "ghash"]),
    ("codec", &["rumqttc", "mqttbytes", "link::codec", "bytes::", "bytestring", "from_utf8"]),
    ("grants and rate", &["plugin::lent", "grants::", "rate::"]),
    ("routing", &["router", "topic::"]),
    ("guest", &["???", "0x"]),
    (
        "sandbox",
        &["wasmtime", "plugin::bindings", "plugin::imports", "plugin::instance", "plugin::payload", "plugin::memory"],
    ),
    ("outbox and session", &["outbox", "link::session", "link::task::send", "link::suspects", "link::pace"]),
    ("link's loop", &["link::", "message::"]),
    ("plugin's task", &["alphorn::plugin"]),
    ("queues and scheduling", &["tokio", "pthread", "futex", "parking", "std::sys", "core::task"]),
    ("tables", &["hashbrown", "HashMap", "VecDeque", "btree", "smallvec"]),
];
const OTHER: &str = "other";

/// Instructions by thread and purpose.
pub(crate) type Profile = BTreeMap<(&'static str, &'static str), f64>;

/// Adds up what callgrind wrote into the folder, a file for each thread.
pub(crate) fn read(folder: &Path) -> Result<Profile> {
    let mut profile = Profile::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("callgrind.out")) {
            let functions = functions(&fs::read_to_string(path)?)?;
            let is_of = |what: &str| functions.keys().any(|name| name.contains(what));
            let thread = THREADS.iter().find(|(_, what)| is_of(what)).map_or(OTHER, |(thread, _)| thread);
            for (name, count) in functions {
                *profile.entry((thread, purpose(&name))).or_default() += count;
            }
        }
    }
    Ok(profile)
}

fn purpose(function: &str) -> &'static str {
    let is_for = |words: &&[&str]| words.iter().any(|word| function.contains(word));
    PURPOSES.iter().find(|(_, words)| is_for(words)).map_or(OTHER, |(purpose, _)| purpose)
}

/// The instructions within each function itself. The format is in valgrind's manual: names are
/// given a number when they come first, and a line behind `calls=` counts the function called.
fn functions(text: &str) -> Result<HashMap<String, f64>> {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut counts: HashMap<String, f64> = HashMap::new();
    let mut current = "";
    let mut is_callee = false;
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (number, name) = function.split_once(')').context("a function without a number")?;
            if !name.trim().is_empty() {
                names.insert(number, name.trim());
            }
            if line.starts_with("fn=") {
                current = names.get(number).copied().unwrap_or_default();
            }
        } else if line.starts_with("calls=") {
            is_callee = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '*')) {
            let count = line.split_whitespace().nth(1).and_then(|count| count.parse::<f64>().ok());
            if let (false, Some(count)) = (is_callee, count) {
                *counts.entry(current.to_owned()).or_default() += count;
            }
            is_callee = false;
        }
    }
    Ok(counts)
}
