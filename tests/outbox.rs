//! The outbox: what was taken reaches the broker, through cut links, lost sessions, the end of
//! the process, full and damaged disks.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use alphorn_dev_broker::Direction;

use crate::harness::{
    Bed, Broker, Context as _, Host, Message, Program, Result, Watcher, ensure, in_both_versions, seed,
};

in_both_versions! {
    ten_thousand_messages_survive_fifty_cuts
    what_waits_survives_the_end_of_the_process
}

/// Publishes numbers to `seq`, up to `count`: all of them in `start`, or one each `interval` ms.
fn sequence(count: u32, interval: u32, limits: &str) -> String {
    format!(
        r#"
        [plugins.sequence]
        component = "sequence.wasm"
        publish = ["seq"]
        limits = {{ publish_rate = "unlimited", {limits} }}
        [plugins.sequence.config]
        topic = "seq"
        count = "{count}"
        interval = "{interval}"
        "#
    )
}

/// Passes on what arrives on `in/+` to `out`, and `more`.
fn recorder(name: &str, subscribe: &str, more: &str) -> String {
    format!(
        r#"
        [plugins.{name}]
        component = "recorder.wasm"
        publish = ["out/#"]
        subscribe = [{subscribe:?}]
        limits = {{ publish_rate = "unlimited" }}
        config = {{ to = "out/{name}", filters = {subscribe:?}, {more} }}
        "#
    )
}

/// The numbers in the order in which each came for the first time.
fn first_arrivals(payloads: &[String]) -> Result<Vec<u32>> {
    let (mut numbers, mut seen) = (Vec::new(), BTreeSet::new());
    for payload in payloads {
        let number = payload.trim_end().parse()?;
        if seen.insert(number) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

fn has(messages: &[Message], number: u32) -> Option<()> {
    let number = number.to_string();
    messages.iter().rev().any(|message| message.payload == number.as_bytes()).then_some(())
}

async fn ten_thousand_messages_survive_fifty_cuts(protocol: &str) -> Result<()> {
    const COUNT: u32 = 10_000;
    const CUTS: usize = 50;
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bed = Bed::start().await?;
    let (mut watchers, mut brokers) = (vec![bed.watch("seq").await?], Vec::new());
    let config =
        format!("{}\n[link.backoff]\nmin = \"10ms\"\nmax = \"40ms\"", sequence(COUNT, 1, "outbox_bytes = \"64MiB\""));
    let config = bed.config(&config).without(&["backoff"]).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    for cut in 1..=CUTS {
        host.log_times(cut, &["connect success"]).await?;
        // Acknowledgements come late, or not at all before the cut.
        bed.faults().delay(Direction::ToClient, Duration::from_millis(random.u64(0..60)));
        tokio::time::sleep(Duration::from_millis(random.u64(20..160))).await;
        if cut % 10 == 0 {
            brokers.push(bed.redirect(Broker::start().await?));
            watchers.push(bed.watch("seq").await?);
        }
        bed.cut().await?;
    }
    bed.faults().delay(Direction::ToClient, Duration::ZERO);
    let last = watchers.last().context("no watcher")?;
    last.wait_for("the last number", |messages| has(messages, COUNT - 1)).await?;
    host.stop().await?;
    let mut all = Vec::new();
    for watcher in &watchers {
        let numbers = first_arrivals(&watcher.payloads())?;
        ensure!(numbers.is_sorted(), "seed {seed}: out of order");
        all.extend(numbers);
    }
    all.sort_unstable();
    all.dedup();
    ensure!(all == (0..COUNT).collect::<Vec<_>>(), "seed {seed}: {} of {COUNT} arrived", all.len());
    assert_eq!(host.logged(&["quarantine"]), 0);
    Ok(())
}

async fn what_waits_survives_the_end_of_the_process(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("seq").await?;
    bed.faults().refuse(true).await?;
    let config = bed.config(&sequence(300, 0, "")).link(&format!("protocol = {protocol:?}"));
    for run in 1..=2 {
        let mut host = Program::run(&config)?;
        // The next call begins only when the first is durable; it is the one for the link's state.
        host.log(&["connect failed (attempt 1)"]).await?;
        host.log_times(1, &["all 300 numbers are taken"]).await?;
        host.log(&["connect failed (attempt 3)"]).await?;
        host.kill().await?;
        let mode = std::fs::metadata(config.data_dir().join("alphorn.redb"))?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "run {run}: {mode:o}");
    }
    bed.faults().refuse(false).await?;
    let mut host = Program::run(&config)?;
    host.log(&["messages of an earlier run wait for the broker", "sequence", "messages=600"]).await?;
    watcher.count(900).await?;
    let numbers: Vec<u32> = watcher.payloads().iter().map(|payload| payload.parse()).collect::<Result<_, _>>()?;
    assert_eq!(numbers, (0..3).flat_map(|_| 0..300).collect::<Vec<_>>());
    host.stop().await?;

    // All is acknowledged, nothing comes again.
    let mut host = Program::run(&bed.config("").link(&format!("protocol = {protocol:?}")))?;
    host.log(&["connect success"]).await?;
    host.stop().await?;
    assert_eq!(watcher.payloads().len(), 900);
    Ok(())
}

/// What a message leads to is durable before it is acknowledged: every number that was sent in
/// comes out, whenever the host is killed.
#[tokio::test]
async fn every_number_sent_in_comes_out_whenever_the_host_is_killed() -> Result<()> {
    const KILLS: u32 = 20;
    const EACH: u32 = 40;
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let bed = Bed::start().await?;
    let watcher = bed.watch("out/#").await?;
    let config = bed.config(&recorder("pass", "in/+", "")).link("session_expiry = \"10m\"");
    let mut sender = bed.client().await?;
    let mut host = Program::run(&config)?;
    watcher.ready("out/pass").await?;
    let mut sent = 0;
    for _ in 0..KILLS {
        for _ in 0..EACH {
            sender.publish("in/a", sent.to_string().as_bytes()).await?;
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..60))).await;
        host.kill().await?;
        host = Program::run(&config)?;
        tokio::time::sleep(Duration::from_millis(random.u64(0..150))).await;
    }
    let all_out = |messages: &[Message]| {
        let numbers: BTreeSet<u32> = messages.iter().filter_map(number).collect();
        (numbers.len() == sent as usize).then_some(())
    };
    watcher.wait_for(&format!("all numbers up to {sent}, seed {seed}"), all_out).await?;
    host.stop().await
}

/// Of a line of the recorder: `in/a NUMBER`, and maybe `redelivered`.
fn number(message: &Message) -> Option<u32> {
    let text = String::from_utf8_lossy(&message.payload);
    text.strip_prefix("in/a ")?.split(' ').next()?.parse().ok()
}

/// What is taken while the broker is away, with a small share and a policy.
async fn overfull(policy: &str, more: &str) -> Result<(Bed, Watcher, Program)> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    bed.faults().refuse(true).await?;
    let config = format!(
        "{}\n{more}\n[plugins.other]\ncomponent = \"sequence.wasm\"\npublish = [\"other\"]\nconfig = {{ topic = \"other\", \
         count = \"3\" }}\n[outbox]\nwhen_full = {policy:?}",
        sequence(100, 2, "outbox_bytes = \"2KiB\", deadline = \"300ms\"")
    );
    let host = Program::run(&bed.config(&config))?;
    host.log(&["plugin{name=other}", "all 3 numbers are taken"]).await?;
    Ok((bed, watcher, host))
}

#[tokio::test]
async fn a_full_outbox_drops_the_same_plugins_oldest_on_request() -> Result<()> {
    let (bed, watcher, mut host) = overfull("drop-oldest", "").await?;
    host.log(&["plugin{name=sequence}", "all 100 numbers are taken"]).await?;
    host.log(&["WARN", "a message was dropped", "drop-oldest", "sequence"]).await?;
    bed.faults().refuse(false).await?;
    watcher.payload("99").await?;
    host.stop().await?;
    let numbers: Vec<u32> = watcher.lines().iter().filter_map(|line| line.strip_prefix("seq ")?.parse().ok()).collect();
    assert!(numbers.len() > 3 && numbers.len() < 30, "{numbers:?}");
    assert_eq!(numbers, (100 - numbers.len() as u32..100).collect::<Vec<_>>());
    let others = watcher.lines().iter().filter(|line| line.starts_with("other ")).count();
    assert_eq!(others, 3, "the other plugin's are not touched");
    assert_eq!(host.logged(&["a message was dropped"]), 100 - numbers.len());
    Ok(())
}

#[tokio::test]
async fn a_full_outbox_lets_the_plugin_wait_on_request_and_not_beyond_its_deadline() -> Result<()> {
    let (bed, watcher, mut host) = overfull("block", "").await?;
    // Long enough for some calls to wait in vain; none overran its deadline.
    host.log(&["connect failed (attempt 6)"]).await?;
    bed.faults().refuse(false).await?;
    host.log(&["plugin{name=sequence}", "all 100 numbers are taken"]).await?;
    watcher.payload("99").await?;
    host.stop().await?;
    let numbers: Vec<u32> = watcher.lines().iter().filter_map(|line| line.strip_prefix("seq ")?.parse().ok()).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    assert_eq!((host.logged(&["took longer"]), host.logged(&["was dropped"])), (0, 0));
    Ok(())
}

#[tokio::test]
async fn messages_that_waited_too_long_are_dropped_with_an_event() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    bed.faults().refuse(true).await?;
    let config = format!("{}\n[outbox]\nmax_age = \"500ms\"", recorder("old", "in/+", ""));
    let config = format!("{config}\n{}", sequence(5, 0, ""));
    let mut host = Program::run(&bed.config(&config))?;
    for _ in 0..5 {
        host.log(&["WARN", "a message was dropped", "seq", "max_age"]).await?;
    }
    bed.faults().refuse(false).await?;
    host.log(&["connect success"]).await?;
    host.stop().await?;
    assert!(watcher.lines().iter().all(|line| !line.starts_with("seq")), "{:?}", watcher.lines());
    Ok(())
}

#[tokio::test]
async fn what_is_new_overtakes_a_paced_backlog_unless_its_topic_is_in_it() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("#").await?;
    bed.faults().refuse(true).await?;
    let config = format!("{}\n{}\n[outbox]\ndrain_rate = \"4/s\"", sequence(8, 0, ""), recorder("live", "in/+", ""));
    let mut host = Program::run(&bed.config(&config))?;
    host.log(&["all 8 numbers are taken"]).await?;
    host.log(&["connect failed"]).await?;
    bed.faults().refuse(false).await?;
    host.log(&["connect success"]).await?;
    let begin = Instant::now();
    let mut client = bed.client().await?;
    watcher.payload("0").await?;
    client.publish("in/x", b"hello").await?;
    watcher.payload("7").await?;
    assert!(begin.elapsed() >= Duration::from_millis(1400), "{:?}", begin.elapsed());
    host.stop().await?;
    let lines = watcher.lines();
    let numbers: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("seq ")).collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    Ok(())
}

#[tokio::test]
async fn a_second_host_in_the_same_folder_is_refused() -> Result<()> {
    let bed = Bed::start().await?;
    let config = bed.config("");
    let mut first = Program::run(&config)?;
    first.log(&["connect success"]).await?;
    let (file, socket) = (config.write()?, bed.folder().join("another.sock"));
    let environment = [("ALPHORN_HOST__SOCKET", socket.to_str().unwrap_or_default())];
    let mut second = Program::start_with(&["run".as_ref(), "--config".as_ref(), file.as_os_str()], &environment)?;
    second.fails(78, &["another host", "data_dir"]).await?;
    first.stop().await
}

#[tokio::test]
async fn a_damaged_file_costs_what_is_damaged_and_says_so() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("seq").await?;
    bed.faults().refuse(true).await?;
    let config = bed.config(&sequence(200, 0, ""));
    let mut host = Program::run(&config)?;
    host.log(&["all 200 numbers are taken"]).await?;
    host.log(&["connect failed (attempt 2)"]).await?;
    host.kill().await?;
    // Within one of the messages: its topic, and its payload. It is in the database or in the log,
    // and there may be old copies of it.
    let needle = b"\x03seq\x03150";
    let mut copies = 0;
    for file in ["alphorn.redb", "alphorn.log"].map(|name| config.data_dir().join(name)) {
        let mut bytes = std::fs::read(&file)?;
        let places: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
        copies += places.len();
        places.into_iter().for_each(|at| bytes[at] ^= 0x40);
        std::fs::write(&file, &bytes)?;
    }
    ensure!(copies > 0, "the message is not there");
    bed.faults().refuse(false).await?;

    let mut host = Program::run(&bed.config(&sequence(0, 0, "")).in_place_of(&config))?;
    let line = host.log(&["ERROR", "data"]).await?;
    watcher.payload("199").await?;
    host.stop().await?;
    let numbers = first_arrivals(&watcher.payloads())?;
    // A bit that has turned in the database is turned back; in the log it costs the message.
    assert!(
        numbers.is_sorted() && (0..200).filter(|number| *number != 150).all(|number| numbers.contains(&number)),
        "{line}"
    );
    Ok(())
}

/// Killed at any moment while it writes what it could read of a damaged file, the host reads all of that
/// again at the next start. (Issue 12, B2.)
#[tokio::test]
async fn a_kill_in_the_middle_of_a_salvage_loses_nothing() -> Result<()> {
    const COUNT: usize = 3000;
    let bed = Bed::start().await?;
    bed.faults().refuse(true).await?;
    let many = sequence(COUNT as u32, 0, "outbox_bytes = \"64MiB\", deadline = \"10s\"")
        .replace("topic = \"seq\"", "topic = \"seq\"\nbytes = \"300\"");
    let config = bed.config(&many);
    let mut host = Program::run(&config)?;
    host.log(&[&format!("all {COUNT} numbers are taken")]).await?;
    host.stop().await?;
    let file = config.data_dir().join("alphorn.redb");
    let mut damaged = std::fs::read(&file)?;
    let needle = b"1500    ";
    let place = damaged.windows(needle.len()).position(|window| window == needle).context("no such message")?;
    damaged.iter_mut().skip(place).take(100).for_each(|byte| *byte = !*byte);

    let config = bed.config(&sequence(0, 0, "")).in_place_of(&config);
    let waiting = async || -> Result<usize> {
        let mut host = Program::run(&config)?;
        let line = host.log(&["messages of an earlier run wait for the broker"]).await?;
        host.kill().await?;
        Ok(line.rsplit("messages=").next().unwrap_or_default().trim().parse()?)
    };
    let with_damage = || -> Result<()> {
        std::fs::remove_dir_all(config.data_dir())?;
        std::fs::create_dir(config.data_dir())?;
        Ok(std::fs::write(&file, &damaged)?)
    };
    with_damage()?;
    let begin = Instant::now();
    let expected = waiting().await?;
    let takes = begin.elapsed();
    ensure!((COUNT - 100..COUNT).contains(&expected), "{expected} of {COUNT}");
    let (mut random, mut in_the_middle) = (fastrand::Rng::with_seed(seed()), 0);
    for round in 0..crate::harness::rounds(20) {
        with_damage()?;
        for _ in 0..random.u8(1..4) {
            let mut host = Program::run(&config)?;
            // Anywhere in what a start takes; the moment is the test's own.
            tokio::time::sleep(takes.mul_f64(random.f64())).await;
            host.kill().await?;
            in_the_middle += usize::from(host.logged(&["wait for the broker"]) == 0);
        }
        let found = waiting().await?;
        ensure!(found == expected, "round {round}: {found} of {expected} wait");
    }
    println!("{in_the_middle} kills before it was done");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_new_and_takes_again_when_there_is_room() -> Result<()> {
    let bed = Bed::start().await?;
    let watcher = bed.watch("seq").await?;
    let disk = match SmallDisk::mount()? {
        Some(disk) => disk,
        None => return Ok(()),
    };
    bed.faults().refuse(true).await?;
    let sequence = sequence(4000, 1, "outbox_bytes = \"64MiB\", deadline = \"10s\"")
        .replace("topic = \"seq\"", "topic = \"seq\"\nbytes = \"4000\"");
    let config = bed.config(&format!("{sequence}\n[outbox]\nmin_free = \"0B\"")).keeping(&disk.folder());
    let mut host = Program::run(&config)?;
    let line = host.log(&["ERROR", "can't be stored", "publish is refused"]).await?;
    assert!(line.contains("link"), "{line}");
    bed.faults().refuse(false).await?;
    host.log(&["connect success"]).await?;
    host.log(&["the disk takes messages again"]).await?;
    host.log(&["all 4000 numbers are taken"]).await?;
    let last =
        |messages: &[Message]| messages.iter().rev().any(|message| message.payload.starts_with(b"3999 ")).then_some(());
    watcher.wait_for("the last number", last).await?;
    host.stop().await?;
    assert_eq!(first_arrivals(&watcher.payloads())?, (0..4000).collect::<Vec<_>>());
    Ok(())
}

/// Somebody else has filled the disk while the host was away: it starts all the same, sends what
/// waits, and takes messages again when there is room. (Issue 12, B1.)
#[tokio::test]
async fn a_start_on_a_full_disk_sends_what_waits_and_sets_nothing_aside() -> Result<()> {
    const COUNT: u32 = 200;
    let disk = match SmallDisk::mount()? {
        Some(disk) => disk,
        None => return Ok(()),
    };
    for round in 0..crate::harness::rounds(4) as u32 {
        let bed = Bed::start().await?;
        let watcher = bed.watch("seq").await?;
        bed.faults().refuse(true).await?;
        // One after the other, so that they are in the log and have to go into the database.
        let many = sequence(COUNT, 1, "outbox_bytes = \"64MiB\", deadline = \"10s\"")
            .replace("topic = \"seq\"", "topic = \"seq\"\nbytes = \"3000\"");
        let with = |text: &str| format!("{text}\n[outbox]\nmin_free = \"0B\"");
        let config = bed.config(&with(&many)).keeping(&disk.folder());
        let mut host = Program::run(&config)?;
        host.log(&[&format!("all {COUNT} numbers are taken")]).await?;
        is_in_log(&disk.folder(), COUNT - 1).await?;
        host.kill().await?;
        disk.fill()?;
        if round % 2 == 0 {
            let _ = std::fs::remove_file(disk.folder().join("alphorn.reserve"));
            disk.fill()?;
        }
        bed.faults().refuse(false).await?;
        let mut host =
            Program::run(&bed.config(&with(&sequence(0, 0, ""))).in_place_of(&config).keeping(&disk.folder()))?;
        host.log(&["connect success"]).await?;
        let last = format!("{} ", COUNT - 1);
        let is_last = |message: &Message| message.payload.starts_with(last.as_bytes());
        watcher.wait_for("the last number", |messages: &[Message]| messages.iter().any(is_last).then_some(())).await?;
        disk.empty()?;
        host.stop().await?;
        assert_eq!(first_arrivals(&watcher.payloads())?, (0..COUNT).collect::<Vec<_>>(), "round {round}");
        for entry in std::fs::read_dir(disk.folder())? {
            let name = entry?.file_name();
            ensure!(!name.to_string_lossy().contains("damaged"), "round {round}: {name:?}");
        }
        std::fs::remove_dir_all(disk.folder())?;
    }
    Ok(())
}

/// On a disk that takes nothing the link does not wait for a note of its first session.
#[tokio::test]
async fn a_first_connection_does_not_wait_for_a_full_disk() -> Result<()> {
    let bed = Bed::start().await?;
    let disk = match SmallDisk::mount()? {
        Some(disk) => disk,
        None => return Ok(()),
    };
    disk.fill()?;
    let config = bed.config(&recorder("pass", "in/+", "")).keeping(&disk.folder());
    let mut host = Program::run(&config)?;
    host.log(&["ERROR", "can't be stored", "publish is refused"]).await?;
    host.log(&["connect success"]).await?;
    disk.empty()?;
    host.log(&["the disk takes messages again"]).await?;
    host.stop().await
}

/// While the disk takes nothing, only so many dead letters wait for it in memory. Other messages that can't
/// be handled are tried again, and become dead letters when there is room.
#[tokio::test]
async fn dead_letters_wait_for_a_full_disk_and_do_not_fill_the_memory() -> Result<()> {
    const COUNT: usize = 60;
    let bed = Bed::start().await?;
    let disk = match SmallDisk::mount()? {
        Some(disk) => disk,
        None => return Ok(()),
    };
    // It may not publish what it is to, so each message fails.
    let config = recorder("fails", "in/+", "")
        .replace("publish = [\"out/#\"]", "publish = []")
        .replace("publish_rate", "retry = { max = 1, min = \"200ms\" }, mailbox = { bytes = \"8MiB\" }, publish_rate");
    let config = bed.config(&format!("{config}\n[outbox]\nmin_free = \"0B\"")).keeping(&disk.folder());
    let mut host = Program::run(&config)?;
    host.log(&["connect success"]).await?;
    let mut socket = Host::of(&config).await?;
    socket.until("fails", |row| row.state == "running").await?;
    disk.fill()?;
    let mut client = bed.client().await?;
    for number in 0..COUNT {
        client.send(&format!("in/{number}"), &[b'x'; 20_000], None, false).await?;
    }
    // Each was tried, and some of them twice.
    let row = socket.until("fails", |row| row.calls >= COUNT as u64 + 20).await?;
    // As many as 256 KiB hold before the disk is known to be full, and as many after.
    ensure!((1..30).contains(&row.dead), "{row:?}");
    disk.empty()?;
    socket.until("fails", |row| row.dead == COUNT as u64).await?;
    assert_eq!(socket.dead_letters().await?.len(), COUNT);
    host.stop().await
}

/// Waits until a number is in the log: whoever says that it is taken has not heard yet that it is safe.
async fn is_in_log(folder: &std::path::Path, number: u32) -> Result<()> {
    let number = format!("{number}  ");
    let has = |log: &[u8]| log.windows(number.len()).any(|window| window == number.as_bytes());
    let looks = async {
        while !std::fs::read(folder.join("alphorn.log")).is_ok_and(|log| has(&log)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looks).await.context("the last number is not in the log")
}

/// A file system of a few MiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None: only root may make one.
    fn mount() -> Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
            .arg(folder.path())
            .stderr(std::process::Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Ok(Some(Self(folder)));
        }
        Ok(None)
    }

    fn folder(&self) -> std::path::PathBuf {
        self.0.path().join("data")
    }

    /// Takes up all that is left.
    fn fill(&self) -> Result<()> {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(self.0.path().join("ballast"))?;
        while file.write_all(&[1; 4096]).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.path().join("ballast"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
