//! What the host keeps for a plugin's messages, counted where memory is allocated, is never much more
//! than what it has reserved for them, whatever the messages look like.
//!
//!     cargo test --release -p alphorn --test accounting
//!
//! `ALPHORN_ROUNDS` says how many rounds, `ALPHORN_SEED` repeats one.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use alphorn::{
    config::{Config, Overrides},
    host::Host,
    link::{Client, ClientOptions, Item, Mailbox, NotTaken, Outcome, WhenFull},
    message::{Message, Properties, Qos, UserProperties},
    plugin::compile::Compiler,
    topic::{TopicFilter, TopicName},
};
use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;

/// The system's allocator, and what is out at the moment.
struct Counting;

static OUT: AtomicUsize = AtomicUsize::new(0);

/// The most that was out.
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the system's allocator adds to a piece, and to what it rounds it.
fn rounded(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

#[allow(unsafe_code, reason = "an allocator can't be written without; each call is passed on as it came")]
// SAFETY: all of it is the system's allocator; counting allocates nothing and does not unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = rounded(layout.size());
        PEAK.fetch_max(OUT.fetch_add(size, SeqCst) + size, SeqCst);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        OUT.fetch_sub(rounded(layout.size()), SeqCst);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What may be out for a byte that is reserved.
const MOST: f64 = 1.5;

/// What does not come from messages: buffers of the connection.
const BESIDE: usize = 512 * 1024;

/// What the store has once for all plugins: its cache of 2 MiB, and buffers of the log.
const STORE: usize = 5 * 512 * 1024;

/// What the journal has once for all plugins: up to 20,000 changes the database does not have yet, such as
/// that a message was handled, and the link's tables of arrivals, which stay as large as they ever were.
const JOURNAL: usize = 8 * 1024 * 1024;

/// What a plugin may be ahead of the disk by, beside the call it is in.
const AHEAD: usize = 256 * 1024;

/// What the link has read and not put anywhere yet: it reads no more then.
const INTAKE: usize = 4 * 1024 * 1024 + 256 * 1024;

/// What is out for a byte that is being written: the byte itself, its record, and the page of the database
/// it goes to.
const WRITING: usize = 3;

/// Reserved at most.
const LIMIT: usize = 4 * 1024 * 1024;

const PATIENCE: Duration = Duration::from_secs(60);

fn rounds() -> Result<Vec<u64>> {
    if let Ok(seed) = std::env::var("ALPHORN_SEED") {
        return Ok(vec![seed.parse()?]);
    }
    let rounds = std::env::var("ALPHORN_ROUNDS").map_or(Ok(12), |text| text.parse())?;
    Ok(std::iter::repeat_with(|| fastrand::u64(..)).take(rounds).collect())
}

/// All in one, so that nothing else allocates meanwhile.
#[test]
fn what_is_kept_is_what_was_reserved() -> Result<()> {
    for seed in rounds()? {
        let rng = &mut Rng::with_seed(seed);
        let round = match rng.u8(..5) {
            0 => outbox(rng, "memory"),
            1 => outbox(rng, "disk"),
            2 => mailbox(rng),
            3 => inbox(rng),
            _ => dead_letters(rng),
        };
        round.with_context(|| format!("ALPHORN_SEED={seed}"))?;
    }
    Ok(())
}

/// How the messages of a round look.
#[derive(Debug, Clone)]
struct Shape {
    qos: Qos,
    topics: usize,
    topic: usize,
    payload: usize,
    pairs: usize,
    text: usize,
    has_more: bool,
}

impl Shape {
    fn new(rng: &mut Rng) -> Self {
        let some = |rng: &mut Rng, of: &[usize]| rng.choice(of).copied().unwrap_or_default();
        let has_properties = rng.bool();
        Self {
            qos: if rng.bool() { Qos::AtLeastOnce } else { Qos::AtMostOnce },
            topics: some(rng, &[1, 8, 1_000_000]),
            topic: some(rng, &[1, 20, 200, 2000]),
            payload: some(rng, &[0, 1, 10, 100, 1000, 1025, 20_000, 100_000]),
            pairs: if has_properties { some(rng, &[0, 1, 3, 100, 1024]) } else { 0 },
            text: some(rng, &[0, 0, 1, 8, 40]),
            has_more: has_properties && rng.bool(),
        }
    }

    fn topic(&self, rng: &mut Rng, within: &str) -> String {
        let mut topic = format!("{within}/{}", rng.usize(..self.topics));
        topic.extend(std::iter::repeat_n('t', self.topic));
        topic
    }

    fn user_properties(&self) -> UserProperties {
        let text = "x".repeat(self.text);
        let mut pairs = UserProperties::default();
        for _ in 0..self.pairs {
            // As many as a message may have.
            if pairs.push(&text, &text).is_err() {
                break;
            }
        }
        pairs
    }

    /// As a plugin would make it.
    fn message(&self, rng: &mut Rng) -> Result<Message> {
        let text = "x".repeat(self.text);
        let user_properties = self.user_properties();
        let properties = (self.has_more || self.pairs > 0).then(|| Properties {
            content_type: self.has_more.then(|| text.clone().into()),
            correlation_data: self.has_more.then(|| text.clone().into_bytes().into()),
            utf8: true,
            user_properties,
            ..Properties::default()
        });
        Ok(Message {
            topic: TopicName::parse(self.topic(rng, "out"))?,
            payload: vec![b'x'; self.payload].into(),
            qos: self.qos,
            retain: false,
            properties: properties.map(Properties::share),
        })
    }

    /// The packet in which a broker would send it; one of QoS 1 has a packet id.
    fn packet(&self, rng: &mut Rng, within: &str, payload: usize, packet_id: Option<u16>) -> Result<Vec<u8>> {
        let mut properties = Vec::new();
        for (name, value) in &self.user_properties() {
            properties.push(0x26);
            for text in [name, value] {
                properties.extend(u16::try_from(text.len())?.to_be_bytes());
                properties.extend(text.as_bytes());
            }
        }
        let topic = self.topic(rng, within);
        let mut body = u16::try_from(topic.len())?.to_be_bytes().to_vec();
        body.extend(topic.as_bytes());
        body.extend(packet_id.into_iter().flat_map(u16::to_be_bytes));
        body.extend(variable(properties.len()));
        body.extend(properties);
        body.extend(std::iter::repeat_n(b'x', payload));
        let first = if packet_id.is_some() { 0x32 } else { 0x30 };
        Ok([&[first][..], &variable(body.len()), &body].concat())
    }
}

fn variable(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A plugin publishes until nothing more is taken, and there is no connection.
fn outbox(rng: &mut Rng, storage: &str) -> Result<()> {
    let shape = Shape::new(rng);
    let folder = tempfile::tempdir()?;
    let nobody = TcpListener::bind("127.0.0.1:0")?;
    let port = nobody.local_addr()?.port();
    drop(nobody);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let host = runtime.block_on(start(port, folder.path(), storage))?;
    let (client, mailbox) = host.link().client(&options("plugin"));
    let before = settled()?;
    let mut taken = 0;
    loop {
        match client.publish_at_once(shape.message(rng)?, Instant::now()) {
            Ok(_) => taken += 1,
            Err(NotTaken::Full) => break,
            Err(error) => return Err(error.into()),
        }
        // QoS 0 is dropped where there is no connection.
        if shape.qos == Qos::AtMostOnce && taken > 1000 {
            break;
        }
    }
    let (_, reserved) = client.queued();
    let beside = if storage == "disk" { BESIDE + STORE } else { BESIDE };
    looks_right(&format!("{taken} messages in the outbox ({storage}) of {shape:?}"), before + beside, || reserved)?;
    drop((client, mailbox));
    runtime.block_on(host.shutdown());
    Ok(())
}

/// A broker sends until the mailbox is full, and more that nobody has asked for between.
fn mailbox(rng: &mut Rng) -> Result<()> {
    let shape = Shape { qos: Qos::AtMostOnce, ..Shape::new(rng) };
    let folder = tempfile::tempdir()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let host = runtime.block_on(start(listener.local_addr()?.port(), folder.path(), "memory"))?;
    let (client, mailbox) = host.link().client(&options("plugin"));
    client.subscribe(TopicFilter::parse("in/#")?, Qos::AtMostOnce);
    let mut broker = accept(&listener)?;
    let beside = *rng.choice(&[0, 10_000, 60_000]).context("none")?;
    let mut burst = Vec::new();
    let mut sent = 0;
    while sent < LIMIT * 2 && burst.len() < 2 * LIMIT {
        let packet = shape.packet(rng, "in", shape.payload, None)?;
        sent += packet.len() + 100;
        burst.extend(packet);
        if beside > 0 && rng.u8(..4) == 0 {
            let nobodys = Shape { pairs: 0, ..shape.clone() }.packet(rng, "nobody", beside, None)?;
            burst.extend(nobodys);
        }
    }
    let before = settled()?;
    broker.write_all(&burst)?;
    let gauge = mailbox.gauge(&client);
    let begin = Instant::now();
    while gauge.mailbox().0 == 0 {
        ensure!(begin.elapsed() < PATIENCE, "nothing arrives");
        thread::sleep(Duration::from_millis(1));
    }
    let what = format!("messages in the mailbox, {beside} bytes beside some, of {shape:?}");
    looks_right(&what, before + BESIDE, || gauge.mailbox().1)?;
    drop((client, mailbox));
    drop(broker);
    runtime.block_on(host.shutdown());
    Ok(())
}

/// A broker sends what a plugin does not read: it goes to the inbox, and what is there costs no memory.
fn inbox(rng: &mut Rng) -> Result<()> {
    let shape = Shape { qos: Qos::AtLeastOnce, ..Shape::new(rng) };
    let reader = &mut Reader::start(*rng.choice(&[64 * 1024, 512 * 1024]).context("none")?)?;
    let mut burst = Vec::new();
    let mut count = 0;
    while count < 50_000 && burst.len() < LIMIT {
        count += 1;
        burst.extend(shape.packet(rng, "in", shape.payload, Some(count))?);
    }
    let before = reader.begin()?;
    let mut answers = reader.broker.try_clone()?;
    let sender = reader.send(burst)?;
    for _ in 0..count {
        // A PUBACK for each: what is in the mailbox is put into the inbox, too, when it was not
        // handled for a second.
        packet(&mut answers)?;
    }
    let burst = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    let what = format!("{count} messages in the inbox and a mailbox of {} bytes, of {shape:?}", reader.most);
    let gauge = reader.mailbox.gauge(&reader.client);
    looks_right(&what, before + BESIDE + STORE + JOURNAL, || gauge.mailbox().1)?;
    reader.was_at_most(before + WRITING * INTAKE, &what)?;

    // Reading it takes a mailbox at a time, whatever becomes of it.
    let before = reader.begin()?;
    let fates = [rng.u8(..4), rng.u8(..4)];
    let mut read = 0;
    while reader.next(rng, fates, || read == usize::from(count) - gauge.dropped() as usize)? {
        read += 1;
    }
    let what = format!("{read} messages read, to {fates:?}, of {what}");
    looks_right(&what, before + BESIDE + STORE + JOURNAL, || gauge.mailbox().1)?;
    reader.was_at_most(before, &what)?;
    drop(burst);
    reader.stop();
    Ok(())
}

/// A plugin gives up all messages as fast as they come. Those that are not on disk yet are in memory, and
/// there are only so many of them, however long the disk takes.
fn dead_letters(rng: &mut Rng) -> Result<()> {
    let payload = *rng.choice(&[1000, 20_000, 100_000]).context("none")?;
    let shape = Shape { qos: Qos::AtMostOnce, pairs: 0, payload, ..Shape::new(rng) };
    let reader = &mut Reader::start(512 * 1024)?;
    let before = reader.begin()?;
    let (mut sent, mut count) = (0, 0);
    while sent < 4 * LIMIT {
        let packet = shape.packet(rng, "in", shape.payload, None)?;
        reader.broker.write_all(&packet)?;
        sent += packet.len();
        count += 1;
        ensure!(reader.next(rng, [0, 0], || false)?, "a message is lost");
    }
    let gauge = reader.mailbox.gauge(&reader.client);
    let what = format!("{count} dead letters, with a mailbox of {} bytes, {shape:?}", reader.most);
    looks_right(&what, before + BESIDE + STORE + JOURNAL, || gauge.mailbox().1)?;
    reader.was_at_most(before, &what)?;
    reader.stop();
    Ok(())
}

/// A plugin with an inbox on disk, and its broker.
struct Reader {
    runtime: tokio::runtime::Runtime,
    host: Option<Host>,
    client: Client,
    mailbox: Mailbox,
    broker: TcpStream,
    /// How many bytes the mailbox may hold.
    most: usize,
    _folder: tempfile::TempDir,
}

impl Reader {
    /// Its mailbox holds so many bytes.
    fn start(most: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let host = runtime.block_on(start(listener.local_addr()?.port(), folder.path(), "disk"))?;
        let (client, mailbox) = host.link().client(&ClientOptions { mailbox_bytes: most, ..options("plugin") });
        client.subscribe(TopicFilter::parse("in/#")?, Qos::AtLeastOnce);
        let broker = accept(&listener)?;
        Ok(Self { runtime, host: Some(host), client, mailbox, broker, most, _folder: folder })
    }

    /// Begins to note the most memory that is out, and returns how much is out already.
    fn begin(&self) -> Result<usize> {
        let before = settled()?;
        PEAK.store(before, SeqCst);
        Ok(before)
    }

    /// The broker sends these bytes. The thread returns them when they are sent, so that they count as out
    /// from before until after.
    fn send(&self, burst: Vec<u8>) -> Result<thread::JoinHandle<Result<Vec<u8>>>> {
        let mut broker = self.broker.try_clone()?;
        Ok(thread::spawn(move || {
            broker.write_all(&burst)?;
            Ok(burst)
        }))
    }

    /// Reads one message and settles it in one of two ways, by chance. False: `is_all` says that there
    /// are no more.
    fn next(&mut self, rng: &mut Rng, fates: [u8; 2], mut is_all: impl FnMut() -> bool) -> Result<bool> {
        let (client, mailbox) = (&self.client, &mut self.mailbox);
        self.runtime.block_on(async {
            let begin = Instant::now();
            while !is_all() {
                ensure!(begin.elapsed() < PATIENCE, "nothing more arrives");
                let next = tokio::time::timeout(Duration::from_millis(20), mailbox.recv()).await;
                let Ok(next) = next else { continue };
                let Item::Message(delivery) = next.context("the link has ended")? else { continue };
                let handled = |delivery, is_kept| {
                    client.end_call(Outcome { handled: Some(delivery), is_kept, ..Outcome::default() })
                };
                let [one, other] = fates;
                let durable = match if rng.bool() { one } else { other } {
                    0 => client.bury(delivery, 1, "a reason", false),
                    1 => client.bury(delivery, 1, "a reason", true),
                    2 => handled(delivery, true),
                    _ => handled(delivery, false),
                };
                if let Some(durable) = durable {
                    durable.wait().await;
                }
                return Ok(true);
            }
            Ok(false)
        })
    }

    /// Fails where more was out since [`Reader::begin`] than `beside`, what the host has once for all
    /// plugins, and what this plugin may take, together.
    fn was_at_most(&self, beside: usize, what: &str) -> Result<()> {
        let most = beside + BESIDE + STORE + JOURNAL + 2 * self.most + WRITING * AHEAD;
        let peak = PEAK.load(SeqCst);
        ensure!(peak <= most, "{peak} bytes were out, and at most {most} may be: {what}");
        say(&format!("{peak} bytes were out, {most} may be: {what}"));
        Ok(())
    }

    fn stop(&mut self) {
        if let Some(host) = self.host.take() {
            self.runtime.block_on(host.shutdown());
        }
    }
}

/// What is out beyond that is no more than what is reserved allows for. While the store writes, it has
/// memory of its own for that, once for all plugins.
fn looks_right(what: &str, before: usize, reserved: impl Fn() -> usize) -> Result<()> {
    let begin = Instant::now();
    loop {
        let (out, reserved) = (settled()?.saturating_sub(before), reserved());
        let share = out as f64 / reserved.max(1) as f64;
        ensure!(reserved <= LIMIT + 256 * 1024, "{reserved} bytes reserved: {what}");
        if share <= MOST {
            say(&format!("{out} bytes for {reserved} reserved, {share:.2}: {what}"));
            return Ok(());
        }
        let is_late = begin.elapsed() > Duration::from_secs(20);
        ensure!(!is_late, "{out} bytes are out for {reserved} reserved, {share:.2} times as many: {what}");
    }
}

#[expect(clippy::print_stdout, reason = "for who looks, with --nocapture")]
fn say(words: &str) {
    println!("{words}");
}

/// What is out when nothing changes any more.
fn settled() -> Result<usize> {
    let begin = Instant::now();
    let (mut last, mut same) = (OUT.load(SeqCst), 0);
    while same < 20 {
        ensure!(begin.elapsed() < PATIENCE, "it does not come to rest");
        thread::sleep(Duration::from_millis(5));
        let now = OUT.load(SeqCst);
        same = if now.abs_diff(last) < 4096 { same + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

async fn start(port: u16, folder: &Path, storage: &str) -> Result<Host> {
    let text = format!(
        "[host]\ndata_dir = {folder:?}\n[outbox]\nstorage = \"{storage}\"\nqos0_offline = \"store\"\nmin_free = \"0\"\ncommit = \"1s\"\n\
         [link]\nurl = \"mqtt://127.0.0.1:{port}\"\nclient_id = \"accounting\"\nmax_packet = \"256KiB\"\n"
    );
    let environment = BTreeMap::<String, String>::new().into_iter();
    let config =
        Config::parse(&text, Path::new("/"), environment, &Overrides::default()).map_err(anyhow::Error::msg)?;
    let host = Host::start(config, Compiler::InProcess)?;
    host.open().await;
    Ok(host)
}

fn options(name: &str) -> ClientOptions {
    ClientOptions {
        name: Some(name.into()),
        when_full: WhenFull::DropNewest,
        inbox_bytes: LIMIT,
        outbox_bytes: LIMIT,
        mailbox_messages: usize::MAX,
        mailbox_bytes: LIMIT,
        tracked: false,
        words: alphorn::allowance::Allowance::unlimited(),
    }
}

/// CONNACK to the CONNECT, SUBACK to the SUBSCRIBE.
fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    packet(&mut stream)?;
    stream.write_all(&[0x20, 3, 0, 0, 0])?;
    let subscribe = packet(&mut stream)?;
    let id = subscribe.get(..2).context("a SUBSCRIBE")?;
    stream.write_all(&[&[0x90, 4], id, &[0, 0]].concat())?;
    Ok(stream)
}

/// The next packet without its fixed header.
fn packet(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}
