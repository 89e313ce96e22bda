//! Advances the engine's epoch while a guest runs, and sleeps otherwise.
//!
//! A call that is over within a tick, as most are, never waits for this thread to wake: a timer
//! wakes it, a tick after the call that found it asleep.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use wasmtime::EngineWeak;

use self::alarm::Alarm;

/// How often a running guest lets others run, and so how exactly deadlines are kept. Measured
/// with `benches/neighbours.rs`: ten times that is ten times the p99 of a neighbour.
const TICK: Duration = Duration::from_millis(1);

pub(super) struct Ticker {
    running: AtomicUsize,
    /// The thread ticks, or the alarm will wake it.
    is_awake: AtomicBool,
    alarm: Arc<Alarm>,
}

/// A guest runs as long as this lives.
pub(super) struct Running(Arc<Ticker>);

impl Ticker {
    pub(super) fn start(engine: EngineWeak) -> io::Result<Arc<Self>> {
        let alarm = Arc::new(Alarm::new()?);
        let ticker =
            Arc::new(Self { running: AtomicUsize::new(0), is_awake: AtomicBool::new(false), alarm: alarm.clone() });
        let weak = Arc::downgrade(&ticker);
        thread::Builder::new().name("alphorn-epochs".into()).spawn(move || {
            loop {
                match (weak.upgrade(), engine.upgrade()) {
                    (Some(ticker), Some(engine)) if ticker.is_wanted() => {
                        engine.increment_epoch();
                        drop((ticker, engine));
                        thread::sleep(TICK);
                    }
                    (Some(ticker), Some(engine)) => {
                        drop((ticker, engine));
                        alarm.wait();
                    }
                    _ => return,
                }
            }
        })?;
        Ok(ticker)
    }

    /// Keeps the epoch advancing until dropped.
    pub(super) fn run(self: &Arc<Self>) -> Running {
        if self.running.fetch_add(1, SeqCst) == 0 && !self.is_awake.swap(true, SeqCst) {
            self.alarm.set(TICK);
        }
        Running(self.clone())
    }

    /// The thread's question: whoever begins after a no sets the alarm.
    fn is_wanted(&self) -> bool {
        if self.running.load(SeqCst) > 0 {
            return true;
        }
        self.is_awake.store(false, SeqCst);
        // One that began in between has seen it awake.
        self.running.load(SeqCst) > 0 && !self.is_awake.swap(true, SeqCst)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.alarm.set(Duration::from_nanos(1));
    }
}

#[cfg(target_os = "linux")]
mod alarm {
    use std::{io, time::Duration};

    use rustix::{
        fd::OwnedFd,
        io::{Errno, read},
        time::{
            Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
        },
    };

    /// A timer of the kernel: setting it wakes nobody yet.
    pub(super) struct Alarm(OwnedFd);

    impl Alarm {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?))
        }

        pub(super) fn set(&self, after: Duration) {
            let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
            let it_value = Timespec { tv_sec: 0, tv_nsec: after.subsec_nanos().into() };
            // It fails for times out of range only.
            let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value });
        }

        pub(super) fn wait(&self) {
            while read(&self.0, &mut [0; 8]) == Err(Errno::INTR) {}
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod alarm {
    use std::{
        io,
        sync::{Condvar, Mutex, PoisonError},
        time::Duration,
    };

    /// Without such a timer: wakes at once.
    pub(super) struct Alarm(Mutex<bool>, Condvar);

    impl Alarm {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(Mutex::new(false), Condvar::new()))
        }

        pub(super) fn set(&self, _: Duration) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.1.notify_one();
        }

        pub(super) fn wait(&self) {
            let rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *self.1.wait_while(rings, |rings| !*rings).unwrap_or_else(PoisonError::into_inner) = false;
        }
    }
}
