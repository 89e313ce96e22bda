//! What kinds of components run here: how to tell them apart, and what each may import.

use std::fmt;

use crate::config::PluginConfig;

/// How a component is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of the world `alphorn:plugin/plugin`: called for each message, timer and event.
    Plugin,
    /// A plain WASI program, `wasi:cli/command`: runs by itself, messages are lines of its input.
    Command,
    /// Of `wasi:messaging`: called for each message, by way of an adapter.
    Messaging,
}

/// The interface a plugin exports.
pub(super) const GUEST: &str = "alphorn:plugin/guest@0.1.0";

/// The interface a component of wasi:messaging exports. Versions of drafts match exactly or not at all.
const HANDLER: &str = "wasi:messaging/incoming-handler@0.2.0-draft";

/// What a plain program exports, in any version of WASI 0.2.
const RUN: &str = "wasi:cli/run@0.2.";

impl Kind {
    /// By what it exports. Who exports a plugin's interface is a plugin, whatever else it is.
    pub(super) fn of(exports: &[String]) -> Option<Self> {
        let exports_one = |is_it: &dyn Fn(&str) -> bool| exports.iter().any(|name| is_it(name));
        if exports_one(&|name| name == GUEST) {
            return Some(Self::Plugin);
        }
        if exports_one(&|name| name == HANDLER) {
            return Some(Self::Messaging);
        }
        exports_one(&|name| name.starts_with(RUN)).then_some(Self::Command)
    }

    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plugin => "plugin",
            Self::Command => "command",
            Self::Messaging => "messaging",
        }
    }

    /// What is not as its author may expect.
    pub fn remark(self) -> Option<&'static str> {
        match self {
            Self::Plugin => None,
            Self::Command => Some(
                "lines it prints are published, messages are lines of its input; it has no state, no timers and hears \
                 of no events (docs/wasi-programs.md)",
            ),
            Self::Messaging => Some(
                "by an adapter: QoS and subscriptions come from the configuration, nothing is retained, of MQTT 5 \
                 content type and user properties pass; refused: wasi:messaging/request-reply (docs/wasi-messaging.md)",
            ),
        }
    }

    /// What it may import, for people.
    pub(super) fn lent(self) -> &'static str {
        match self {
            Self::Plugin => {
                "a plugin may import alphorn:plugin@0.1.0 and WASI 0.2 (cli, clocks, filesystem, io, random, sockets)"
            }
            Self::Command => {
                "a plain WASI program may import WASI 0.2 (cli, clocks, filesystem, io, random, sockets); what calls \
                 the host is a plugin and exports alphorn:plugin/guest@0.1.0"
            }
            Self::Messaging => {
                "a component of wasi:messaging may import its types and producer, version 0.2.0-draft, and WASI 0.2 \
                 (cli, clocks, filesystem, io, random, sockets). Not request-reply: an answer is a message, and a \
                 component gets no message while a call of it runs; subscribe to the topic of the answers instead"
            }
        }
    }

    /// Whether it may import that.
    pub(super) fn lends(self, import: &str) -> bool {
        const WASI: [&str; 6] =
            ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];
        let is_own = match self {
            Self::Plugin => import.starts_with("alphorn:plugin/"),
            Self::Command => false,
            Self::Messaging => {
                ["wasi:messaging/types@0.2.0-draft", "wasi:messaging/producer@0.2.0-draft"].contains(&import)
            }
        };
        is_own || WASI.iter().any(|prefix| import.starts_with(prefix))
    }

    /// Whether the settings of a plugin are for such a component, or why not.
    pub(super) fn fits(self, config: &PluginConfig) -> Result<(), String> {
        let is_program = self == Self::Command;
        if is_program && config.command.is_none() {
            return Err("it is a plain WASI program (wasi:cli/command), and its configuration does not say where its \
                        lines go: add [plugins.NAME.command], with `topic = \"…\"` for what it prints"
                .to_owned());
        }
        if !is_program && config.command.is_some() {
            return Err(format!(
                "it is {self}, and [plugins.NAME.command] is for plain WASI programs only: take that table out, or \
                 name another component"
            ));
        }
        if self != Self::Messaging && config.messaging.is_some() {
            return Err(format!(
                "it is {self}, and [plugins.NAME.messaging] is for components of wasi:messaging only: take that table \
                 out, or name another component"
            ));
        }
        if self != Self::Plugin && !config.config.is_empty() {
            return Err(format!(
                "it is {self}, which can't read [plugins.NAME.config]: use `wasi.env`, or for a program `command.args`"
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plugin => "a plugin (alphorn:plugin 0.1.0)",
            Self::Command => "a plain WASI program (wasi:cli/command)",
            Self::Messaging => "a component of wasi:messaging (0.2.0-draft)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(exports: &[&str]) -> Option<Kind> {
        Kind::of(&exports.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_component_is_what_it_exports() {
        assert_eq!(of(&["wasi:cli/run@0.2.6"]), Some(Kind::Command));
        assert_eq!(of(&["wasi:cli/run@0.2.6", GUEST]), Some(Kind::Plugin));
        assert_eq!(of(&["wasi:cli/run@0.2.6", HANDLER]), Some(Kind::Messaging));
        for none in
            ["wasi:messaging/incoming-handler@0.2.0", "wasi:cli/run@0.3.0", "alphorn:plugin/guest@0.2.0", "init"]
        {
            assert_eq!(of(&[none]), None, "{none}");
        }
    }

    #[test]
    fn each_kind_is_lent_its_own() {
        assert!(Kind::Plugin.lends("alphorn:plugin/mqtt@0.1.0") && Kind::Plugin.lends("wasi:io/streams@0.2.6"));
        assert!(!Kind::Command.lends("alphorn:plugin/mqtt@0.1.0") && Kind::Command.lends("wasi:io/streams@0.2.6"));
        assert!(!Kind::Plugin.lends("wasi:http/types@0.2.6"));
        assert!(Kind::Messaging.lends("wasi:messaging/producer@0.2.0-draft"));
        assert!(!Kind::Messaging.lends("wasi:messaging/request-reply@0.2.0-draft"));
        assert!(!Kind::Messaging.lends("alphorn:plugin/mqtt@0.1.0"));
        assert!(!Kind::Command.lends("wasi:messaging/producer@0.2.0-draft"));
    }
}
