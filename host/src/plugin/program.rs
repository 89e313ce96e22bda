//! A plain WASI program (`wasi:cli/command`) in a plugin's place: messages are lines of its input,
//! lines of its output are published.
//!
//! Nobody calls it: its one `run` has no deadline, owns the Store, and goes on whenever the
//! plugin's task lets it ([`Program::next`]). In turn with it, never at the same time, the lines
//! it has printed are published. That may take as long as its rate or a full outbox says, and
//! meanwhile the task does whatever else it is asked to.

mod lines;
mod pipes;

use std::{
    future::{pending, poll_fn},
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{task::yield_now, time::timeout};
use tracing::{error, warn};
use wasmtime_wasi::{
    WasiCtxBuilder,
    p2::bindings::{Command, CommandPre},
};

use self::pipes::{Pipes, Printed};
use super::{
    bindings::exports::alphorn::plugin::guest::StartReason,
    component::Loaded,
    engine::Engine,
    imports::{GuestState, in_words},
    instance::{Fault, Instance},
    lent::{Lent, Waiting},
    output::{Output, said},
};
use crate::{
    allowance::Allowance,
    config::{CommandConfig, Lines, PluginConfig},
    message::Message,
};

/// A program, and what it is connected to.
pub(super) struct Program {
    run: Run,
    pipes: Pipes,
    settings: CommandConfig,
    /// How long it may take to end when it is asked to.
    deadline: Duration,
    lent: Option<Lent>,
    allowance: Allowance,
    memory: Arc<AtomicUsize>,
    /// Time it has computed since that was asked for last.
    busy: Duration,
    /// The line whose turn it is to be published.
    waiting: Option<Waiting>,
    /// Lines were published, and nobody has been told.
    has_published: bool,
    /// It asks for a line, and that was told.
    is_idle: bool,
    /// It was given a line and has not asked for the next.
    has_line: bool,
}

enum Run {
    Ready(Box<Instance<Command>>),
    Runs(Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>),
    /// How it has ended, until that is told.
    Over(Option<Result<(), Fault>>),
}

/// What there is to tell of a program.
pub(super) enum Happening {
    /// It has published something on its own account, beside no message.
    Published,
    /// It asks for a line: what it has been given is handled.
    Asks,
    /// It has ended; Ok: it has finished. All it has printed is published.
    Ended(Result<(), Fault>),
}

impl Program {
    /// Makes a program ready; it does not run yet.
    pub(super) async fn new(
        engine: &Engine,
        loaded: &Loaded,
        pre: &CommandPre<GuestState>,
        config: &PluginConfig,
        max_payload: u32,
    ) -> Result<Self, Fault> {
        let missing = || Fault::Start("[plugins.NAME.command] is missing".to_owned());
        let settings = config.command.clone().ok_or_else(missing)?;
        let pipes = Pipes::new(lines::longest(settings.output, max_payload));
        let is_published = settings.topic.is_some() || settings.output == Lines::Json;
        let name = config.component.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let connect = |wasi: &mut WasiCtxBuilder, allowance: &Allowance| {
            wasi.arg(name).args(&settings.args).stdin(pipes.stdin());
            if is_published {
                wasi.stdout(pipes.stdout());
            } else {
                wasi.stdout(Output::out(allowance.clone()));
            }
        };
        let mut instance = Instance::new(engine, loaded, pre, config, max_payload, connect).await?;
        Ok(Self {
            memory: instance.gauge(),
            allowance: instance.allowance(),
            run: Run::Ready(Box::new(instance)),
            pipes,
            settings,
            deadline: config.limits.deadline,
            lent: None,
            busy: Duration::ZERO,
            waiting: None,
            has_published: false,
            is_idle: false,
            has_line: false,
        })
    }

    pub(super) fn lend(&mut self, lent: Lent) {
        self.lent = Some(lent);
    }

    pub(super) fn lent(&mut self) -> Option<&mut Lent> {
        self.lent.as_mut()
    }

    pub(super) fn take_back(&mut self) -> Option<Lent> {
        self.lent.take()
    }

    pub(super) fn memory(&self) -> usize {
        self.memory.load(Relaxed)
    }

    /// It has asked for a line.
    pub(super) fn takes_messages(&self) -> bool {
        self.is_idle
    }

    /// It was given a line and is not done with it.
    pub(super) fn has_line(&self) -> bool {
        self.has_line
    }

    /// Time it has computed since this was asked for last.
    pub(super) fn take_busy(&mut self) -> Duration {
        mem::take(&mut self.busy)
    }

    /// It begins, and goes on with [`Self::next`].
    pub(super) fn start(&mut self, reason: StartReason) {
        if let Some(lent) = &mut self.lent {
            let is_successor = reason == StartReason::Swap;
            lent.subscribe_as_configured(&self.settings.subscribe, self.settings.qos, is_successor);
        }
        if let Run::Ready(instance) = mem::replace(&mut self.run, Run::Over(None)) {
            self.run = Run::Runs(Box::pin(instance.run()));
        }
    }

    /// Gives it a message as a line; or says why it can't be one.
    pub(super) fn give(&mut self, message: &Message, attempt: u32, redelivered: bool) -> Result<(), &'static str> {
        let line = lines::incoming(message, attempt, redelivered, self.settings.input)?;
        self.pipes.feed(line);
        (self.is_idle, self.has_line) = (false, true);
        Ok(())
    }

    /// Lets it go on until there is something to tell. Safe to drop: it goes on where it was.
    pub(super) async fn next(&mut self) -> Happening {
        loop {
            self.publish_lines().await;
            if self.has_published && !self.has_line {
                self.has_published = false;
                return Happening::Published;
            }
            if let Run::Over(end) = &mut self.run
                && let Some(end) = end.take()
            {
                // Whoever ends well has done what it wanted with what it has read.
                self.has_line &= end.is_err() || !self.pipes.has_read();
                return Happening::Ended(end);
            }
            if !self.is_idle && self.pipes.asks() {
                (self.is_idle, self.has_line, self.has_published) = (true, false, false);
                return Happening::Asks;
            }
            self.go_on().await;
        }
    }

    /// Its input ends, and it has its deadline to end by itself.
    pub(super) async fn stop(&mut self) {
        self.pipes.close();
        let deadline = self.deadline;
        let end = async {
            loop {
                if let Happening::Ended(end) = self.next().await {
                    return end;
                }
            }
        };
        match timeout(deadline, end).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => error!("the program failed at its end, {fault}"),
            Err(_) => {
                let deadline = humantime::format_duration(deadline);
                warn!("the program did not end within {deadline} after its input (`limits.deadline`), so it was ended");
            }
        }
        let left = self.pipes.left() + usize::from(self.waiting.is_some());
        if left > 0 {
            warn!("{left} lines it had printed were not published before its end");
        }
    }

    /// Runs it until it waits, has printed lines, asks, or ends.
    async fn go_on(&mut self) {
        let Self { run, pipes, busy, is_idle, .. } = self;
        let Run::Runs(future) = run else { return pending().await };
        let end = poll_fn(|context| {
            let began = Instant::now();
            let polled = future.as_mut().poll(context);
            *busy += began.elapsed();
            match polled {
                Poll::Ready(end) => Poll::Ready(Some(end)),
                Poll::Pending if pipes.has_printed() || (!*is_idle && pipes.asks()) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if let Some(end) = end {
            if end.is_ok() {
                self.pipes.end_line();
            }
            self.run = Run::Over(Some(end));
        }
    }

    /// Publishes the whole lines it has printed, each when it may be.
    async fn publish_lines(&mut self) {
        let mut count = 0;
        loop {
            if self.waiting.is_none() {
                let Some(printed) = self.pipes.next_line() else { break };
                match self.prepare(printed) {
                    Ok(waiting) => self.waiting = waiting,
                    Err(why) => self.leave_out(&why),
                }
            }
            if let (Some(waiting), Some(lent)) = (&mut self.waiting, &mut self.lent) {
                let published = lent.publish_in_time(waiting).await;
                self.waiting = None;
                self.has_published = true;
                count += 1;
                if let Err(error) = published {
                    self.leave_out(&in_words(error));
                }
            }
        }
        if count > 0 {
            // Who prints without end must not keep its own task from others.
            yield_now().await;
        }
    }

    fn prepare(&mut self, printed: Printed) -> Result<Option<Waiting>, String> {
        let Printed::Line(line) = printed else {
            return Err("it is longer than a payload may be (`link.max_packet`)".to_owned());
        };
        let Some(line) = lines::outgoing(line, &self.settings)? else { return Ok(None) };
        let Some(lent) = &mut self.lent else { return Ok(None) };
        lent.waiting(line.topic, line.payload, line.qos, line.retain).map(Some).map_err(in_words)
    }

    /// There is nobody to give an error to but who reads the log.
    fn leave_out(&self, why: &str) {
        if self.allowance.take() {
            warn!("a line it printed was not published: {}", said(why));
        }
    }
}
