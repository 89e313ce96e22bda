//! From the exports of the world to the methods of a [`Plugin`].

use std::io::{self, Write as _};

use crate::bindings::exports::alphorn::plugin::guest::Guest;
use crate::{Delivery, Event, Failure, Plugin, Start, StopReason, Timer};

/// A plugin type with a place for its one instance, which `#[plugin]` declares:
/// a static can't be generic, so it can't live here.
pub trait Instance: Plugin {
    /// Runs `f` on the place, which is empty until `start` has succeeded.
    fn with_slot<R>(f: impl FnOnce(&mut Option<Self>) -> R) -> R;
}

/// Shows the compiler a use of the plugin where nothing is exported.
pub const fn used<P: Instance>() {}

impl<P: Instance> Guest for P {
    fn start(start: Start) -> Result<(), String> {
        let plugin = <P as Plugin>::start(start)?;
        P::with_slot(|slot| *slot = Some(plugin));
        Ok(())
    }

    fn on_message(delivery: Delivery) -> Result<(), Failure> {
        with_started(|plugin: &mut P| plugin.on_message(delivery))
    }

    fn on_timer(timer: u32, missed: u32) -> Result<(), String> {
        Ok(with_started(|plugin: &mut P| plugin.on_timer(Timer::from_id(timer), missed))?)
    }

    fn on_event(event: Event) {
        with_started(|plugin: &mut P| plugin.on_event(event));
    }

    fn stop(reason: StopReason) -> Result<Option<Vec<u8>>, String> {
        let handed_over = with_started(|plugin: &mut P| plugin.stop(reason))?;
        // What was printed without an end of line is still in here, and would be lost. A
        // host that takes no output is no reason to refuse a stop.
        let _ = io::stdout().flush();
        Ok(handed_over)
    }
}

fn with_started<P: Instance, R>(f: impl FnOnce(&mut P) -> R) -> R {
    P::with_slot(|slot| match slot {
        Some(plugin) => f(plugin),
        // The host promises otherwise; a trap is its to handle.
        None => panic!("called before `start` succeeded"),
    })
}
