//! Spike for decision 0001: what MQTT client libraries do against a scripted broker.

mod broker;
mod candidates;
mod codecs;
mod probes;

use candidates::{ALL, Candidate};

/// One criterion for one candidate.
pub struct Cell {
    verdict: &'static str,
    note: String,
}

impl Cell {
    pub fn new(verdict: &'static str, note: &str) -> Self {
        // One line, and not endless.
        let note: String = note.replace('\n', " ").chars().take(420).collect();
        Self { verdict, note }
    }

    pub fn of(pass: bool, note: impl AsRef<str>) -> Self {
        Self::new(if pass { "pass" } else { "FAIL" }, note.as_ref())
    }
}

const CRITERIA: [&str; 7] = [
    "1 outcome of each publish visible",
    "2 deferred acks in order, none on a newer connection",
    "3 repeat with DUP=1 on the same connection (at 5: no repeat)",
    "4 CONNACK 7 told apart from a malformed packet",
    "5 64 publishes in few writes",
    "6 oversize refused on the fixed header",
    "7 nothing lost over a reconnect, DUP=1",
];

async fn suite(c: &Candidate) -> Vec<Cell> {
    let cells = tokio::join!(
        probes::outcomes(c),
        probes::ack_order(c),
        probes::repeat(c),
        probes::code_seven(c),
        probes::oversize(c),
    );
    // On their own, so that load does not blur the count of reads or the timing.
    let batch = probes::batch(c).await;
    let reconnect = probes::reconnect(c).await;
    [cells.0, cells.1, cells.2, cells.3, batch, cells.4, reconnect]
        .into_iter()
        .map(|cell| cell.unwrap_or_else(|e| Cell::new("-", &format!("probe failed: {e}"))))
        .collect()
}

#[tokio::main]
async fn main() {
    let mut columns = Vec::new();
    for candidate in &ALL {
        let limit = std::time::Duration::from_secs(90);
        let cells = tokio::time::timeout(limit, suite(candidate)).await;
        let stuck = |_| CRITERIA.map(|_| Cell::new("-", "deadline of 90 s")).into();
        columns.push((candidate.name, cells.unwrap_or_else(stuck)));
    }
    columns.push(("codec v4-next", codecs::cells(false)));
    columns.push(("codec v5-next", codecs::cells(true)));

    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    println!("| criterion | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    for (row, criterion) in CRITERIA.iter().enumerate() {
        let verdicts: Vec<&str> = columns.iter().map(|(_, c)| c[row].verdict).collect();
        println!("| {criterion} | {} |", verdicts.join(" | "));
    }
    println!("\nObserved:");
    for (row, criterion) in CRITERIA.iter().enumerate() {
        println!("\n{criterion}");
        for (name, cells) in &columns {
            println!("- {name}: {} - {}", cells[row].verdict, cells[row].note);
        }
    }
    println!("\nOddities of the codecs:\n");
    for line in codecs::oddities() {
        println!("- {line}");
    }
}
