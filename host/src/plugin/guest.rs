//! What runs in a plugin's place, of whichever kind it is. The one seam between them: beyond it
//! restarts, retries, swaps and grants are the same for all.

use std::time::Instant;

use wasmtime::component::{Component, InstancePre};
use wasmtime_wasi::p2::bindings::CommandPre;

use super::{
    bindings::{
        Plugin, PluginPre,
        exports::alphorn::plugin::guest::{StartInfo, StopReason},
    },
    component::Loaded,
    engine::Engine,
    imports::GuestState,
    instance::{Fault, Instance},
    kind::Kind,
    lent::Lent,
    messaging::{Handler, MessagingCorePre},
    output::Output,
    program::Program,
    timers::Timers,
};
use crate::config::PluginConfig;

/// A component that is compiled and linked: what guests are made of.
pub(super) enum Pre {
    Plugin(PluginPre<GuestState>),
    Command(CommandPre<GuestState>),
    Messaging(MessagingCorePre<GuestState>),
}

/// A guest that is ready, or runs.
pub(super) enum Guest {
    /// It is called.
    Plugin(Instance<Plugin>),
    /// It is called for messages.
    Handler(Handler),
    /// It runs by itself.
    Program(Box<Program>),
}

impl Pre {
    pub(super) fn new(kind: Kind, pre: InstancePre<GuestState>) -> wasmtime::Result<Self> {
        Ok(match kind {
            Kind::Plugin => Self::Plugin(PluginPre::new(pre)?),
            Kind::Command => Self::Command(CommandPre::new(pre)?),
            Kind::Messaging => Self::Messaging(MessagingCorePre::new(pre)?),
        })
    }

    pub(super) fn component(&self) -> &Component {
        match self {
            Self::Plugin(pre) => pre.instance_pre().component(),
            Self::Command(pre) => pre.instance_pre().component(),
            Self::Messaging(pre) => pre.instance_pre().component(),
        }
    }
}

impl Guest {
    /// Makes a guest ready; none of its exports has run.
    pub(super) async fn new(
        engine: &Engine,
        loaded: &Loaded,
        config: &PluginConfig,
        max_payload: u32,
    ) -> Result<Self, Fault> {
        match &*loaded.pre {
            Pre::Plugin(pre) => {
                let printed = |wasi: &mut wasmtime_wasi::WasiCtxBuilder, allowance: &_| {
                    wasi.stdout(Output::out(Clone::clone(allowance)));
                };
                Instance::new(engine, loaded, pre, config, max_payload, printed).await.map(Self::Plugin)
            }
            Pre::Command(pre) => Program::new(engine, loaded, pre, config, max_payload)
                .await
                .map(|program| Self::Program(Box::new(program))),
            Pre::Messaging(pre) => Handler::new(engine, loaded, pre, config, max_payload).await.map(Self::Handler),
        }
    }

    /// Gives it what belongs to the plugin.
    pub(super) fn lend(&mut self, lent: Lent) {
        match self {
            Self::Plugin(instance) => instance.lend(lent),
            Self::Handler(handler) => handler.instance.lend(lent),
            Self::Program(program) => program.lend(lent),
        }
    }

    /// What belongs to the plugin.
    pub(super) fn lent(&mut self) -> Option<&mut Lent> {
        match self {
            Self::Plugin(instance) => instance.lent(),
            Self::Handler(handler) => handler.instance.lent(),
            Self::Program(program) => program.lent(),
        }
    }

    /// Takes that back. What a call that did not end well wrote to the state is undone.
    pub(super) fn take_back(&mut self) -> Option<Lent> {
        match self {
            Self::Plugin(instance) => instance.take_back(),
            Self::Handler(handler) => handler.instance.take_back(),
            Self::Program(program) => program.take_back(),
        }
    }

    /// What the version before has handed over is kept no longer. Only plugins are handed anything.
    pub(super) fn forget_handed_over(&mut self) {
        match self {
            Self::Plugin(instance) => instance.forget_handed_over(),
            Self::Handler(_) | Self::Program(_) => {}
        }
    }

    /// Bytes of its memories and tables.
    pub(super) fn memory(&mut self) -> usize {
        match self {
            Self::Plugin(instance) => instance.memory(),
            Self::Handler(handler) => handler.instance.memory(),
            Self::Program(program) => program.memory(),
        }
    }

    /// The task has waited since the last call into it.
    pub(super) fn rested(&mut self) {
        match self {
            Self::Plugin(instance) => instance.rested(),
            Self::Handler(handler) => handler.instance.rested(),
            // It goes on by itself, and knows.
            Self::Program(_) => {}
        }
    }

    /// It takes a message now.
    pub(super) fn takes_messages(&self) -> bool {
        match self {
            Self::Plugin(_) | Self::Handler(_) => true,
            Self::Program(program) => program.takes_messages(),
        }
    }

    /// Only plugins have timers.
    pub(super) fn timers(&mut self) -> Option<&mut Timers> {
        match self {
            Self::Plugin(instance) => Some(instance.timers()),
            Self::Handler(_) | Self::Program(_) => None,
        }
    }

    /// When the last call into it began, if it is called.
    pub(super) fn began(&self) -> Option<Instant> {
        match self {
            Self::Plugin(instance) => Some(instance.began()),
            Self::Handler(handler) => Some(handler.instance.began()),
            Self::Program(_) => None,
        }
    }

    pub(super) async fn start(&mut self, start: StartInfo<'_>) -> Result<(), Fault> {
        match self {
            Self::Plugin(instance) => instance.start(start).await,
            Self::Handler(handler) => {
                handler.start(start.reason);
                Ok(())
            }
            Self::Program(program) => {
                program.start(start.reason);
                Ok(())
            }
        }
    }

    pub(super) async fn stop(&mut self, reason: StopReason) -> Result<Result<Option<Vec<u8>>, String>, Fault> {
        match self {
            Self::Plugin(instance) => instance.stop(reason).await,
            // It has no say in it, and nothing to hand over.
            Self::Handler(_) => Ok(Ok(None)),
            Self::Program(program) => {
                program.stop().await;
                Ok(Ok(None))
            }
        }
    }
}
