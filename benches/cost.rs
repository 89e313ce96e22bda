//! What the sandbox costs for each message: processor time and allocations of the way through a
//! plugin, less those of the way through the same link without one.
//!
//!     cargo bench -p alphorn-benches --bench cost
//!
//! Publish: one call of a guest publishes 1,000 messages. Beside it, a task of this program hands
//! the link 1,000 clones of a message, which share topic and payload: the least a program without
//! a sandbox can do. Delivery: 2,000 messages wait in a mailbox, and the plugin, or a task of this
//! program, takes them out and is done with each. Both ways take turns; what is shown is the time
//! of their thread, on which nothing else runs (see `rig.rs`); the link and the broker have
//! threads of their own. All checks are on: grants, topics, rates, limits, deadlines.
//!
//! The aims are 400 ns for a publish and 900 ns for a delivery.

mod rig;
mod support;

use std::sync::Arc;

use alphorn::{
    message::{Message, Qos},
    plugin::PluginHandle,
};
use anyhow::Result;
use rig::{
    MeterPlugin, Native, Rig,
    allocations::{self, Allocated, Counting},
    processor,
};
use support::report::Report;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZES: [usize; 3] = [16, 256, 4096];
const PUBLISHED: usize = 1_000;
const ROUNDS: usize = 41;

fn main() -> Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let component = rig::meter()?;
    let mut report = Report::new("cost");
    report.setting("rounds", ROUNDS);
    report.setting("messages a publishing call", PUBLISHED);
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        for bytes in SIZES {
            let plugin = MeterPlugin::new("meter", bytes, qos, PUBLISHED);
            let rig = Rig::start(&component, std::slice::from_ref(&plugin))?;
            let message = rig::message("out/native", bytes, qos)?;
            let mut sides =
                Sides { handle: rig.plugin("meter")?, native: rig.native()?, rig: &rig, bytes, qos, message };
            for way in [Way::Publish, Way::Deliver] {
                sides.compare(way, &mut report)?;
            }
            drop(sides);
            rig.stop();
        }
    }
    report.write()
}

/// With a sandbox and without, on one link.
struct Sides<'a> {
    rig: &'a Rig,
    handle: Arc<PluginHandle>,
    native: Native,
    message: Message,
    bytes: usize,
    qos: Qos,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Publish,
    Deliver,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Who {
    Plugin,
    Native,
}

impl Sides<'_> {
    fn compare(&mut self, way: Way, report: &mut Report) -> Result<()> {
        let (bytes, qos) = (self.bytes, self.qos as u8);
        let way_name = if way == Way::Publish { "publish" } else { "deliver" };
        let (mut plugin, mut native) = (Taken::default(), Taken::default());
        for _ in 0..ROUNDS {
            self.round(way, Who::Plugin, &mut plugin)?;
            self.round(way, Who::Native, &mut native)?;
        }
        for (who, name, taken) in [(Who::Plugin, "plugin", plugin.clone()), (Who::Native, "native", native.clone())] {
            let (done, all) = allocations::of_process(|| self.round(way, who, &mut Taken::default()));
            done?;
            let of: [(&'static str, &dyn ToString); 4] =
                [("kind", &way_name), ("bytes", &bytes), ("qos", &qos), ("who", &name)];
            report.figure("processor time", "ns/message", &of, taken.nanoseconds);
            report.figure("allocations", "/message", &of, taken.times);
            report.figure("allocated", "B/message", &of, taken.bytes);
            let each = all.times as f64 / self.count(way) as f64;
            report.figure("allocations, all threads", "/message", &of, vec![each]);
        }
        let beyond = plugin.nanoseconds.iter().zip(&native.nanoseconds).map(|(plugin, native)| plugin - native);
        let of: [(&'static str, &dyn ToString); 3] = [("kind", &way_name), ("bytes", &bytes), ("qos", &qos)];
        report.figure("plugin beyond native", "ns/message", &of, beyond.collect());
        Ok(())
    }

    /// Messages of a round. Of QoS 1 the link takes no more than 1,000 that nobody has acknowledged.
    fn count(&self, way: Way) -> usize {
        match (way, self.qos) {
            (Way::Publish, _) => PUBLISHED,
            (Way::Deliver, Qos::AtLeastOnce) => 500,
            (Way::Deliver, Qos::AtMostOnce) => 2_000,
        }
    }

    fn round(&mut self, way: Way, who: Who, taken: &mut Taken) -> Result<()> {
        let count = self.count(way);
        let Self { rig, handle, native, message, bytes, qos } = self;
        let (bytes, qos) = (*bytes, *qos);
        let received = rig.peer.received();
        match (way, who) {
            (Way::Publish, Who::Plugin) => {
                rig.gather(handle, "meter", "go", 0, Qos::AtMostOnce, 1)?;
                taken.measure(count, || rig.handle(handle, 1))?;
            }
            (Way::Publish, Who::Native) => taken.measure(count, || native.publish(message, count))?,
            (Way::Deliver, Who::Plugin) => {
                rig.gather(handle, "meter", "in", bytes, qos, count)?;
                taken.measure(count, || rig.handle(handle, count as u64))?;
            }
            (Way::Deliver, Who::Native) => {
                rig.peer.publish("in/native/in", bytes, qos, count)?;
                rig.wait_until("messages in a mailbox", |_| native.waiting() == count)?;
                taken.measure(count, || rig.run(native.handle(count)))?;
            }
        }
        if way == Way::Publish {
            rig.drained(received + count as u64)?;
        }
        Ok(())
    }
}

/// What each message took, round by round, on this thread.
#[derive(Debug, Clone, Default)]
struct Taken {
    nanoseconds: Vec<f64>,
    times: Vec<f64>,
    bytes: Vec<f64>,
}

impl Taken {
    fn measure(&mut self, count: usize, what: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = allocations::of_thread();
        let begin = processor::of_this_thread();
        what()?;
        let time = processor::of_this_thread() - begin;
        let Allocated { times, bytes } = allocations::of_thread() - before;
        let each = |sum: f64| sum / count as f64;
        self.nanoseconds.push(each(time.as_nanos() as f64));
        self.times.push(each(times as f64));
        self.bytes.push(each(bytes as f64));
        Ok(())
    }
}
