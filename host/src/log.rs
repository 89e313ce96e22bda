//! The log: one record a line, on stderr and in what is kept for `alphorn logs`.
//!
//! Every record goes through here, and here everything in it that came from outside is made
//! visible, wherever it came from: no topic, no guest and no broker can write a line of its own.

mod stderr;

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    fmt::{
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::Context,
    registry::{LookupSpan, Scope},
};

pub use self::stderr::Stderr;
use crate::{escape::Escaping, recent::Recent};

/// The target of spans: which levels are shown does not decide whether a line says whose it is.
pub const SPANS: &str = "alphorn::span";

/// The span of a plugin, whose `name` it has.
const PLUGIN: &str = "plugin";

/// The longest record, in bytes without its time and its spans.
const LONGEST: usize = 8 * 1024;

/// Takes records, for stderr and for `alphorn logs`.
#[derive(Debug)]
pub struct Log {
    recent: Recent,
    stderr: Stderr,
    colour: bool,
}

/// What of a span is shown, and whose it is.
#[derive(Debug, Default)]
struct Shown {
    /// ` a=1 b=2`
    fields: String,
    plugin: Option<Arc<str>>,
}

impl Log {
    /// Records go to both; `colour`: those on stderr are coloured.
    pub fn new(recent: Recent, stderr: Stderr, colour: bool) -> Self {
        Self { recent, stderr, colour }
    }

    fn take<'a, S: LookupSpan<'a>>(&self, event: &Event<'_>, scope: Option<Scope<'a, S>>) {
        let mut time = String::new();
        // It fails only where nothing more can be said.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let mut plugin = None;
        let mut spans: Vec<(&str, String)> = Vec::new();
        for span in scope.into_iter().flat_map(Scope::from_root) {
            let extensions = span.extensions();
            let Some(shown) = extensions.get::<Shown>() else { continue };
            plugin = shown.plugin.clone().or(plugin);
            spans.push((span.name(), shown.fields.trim_start().to_owned()));
        }
        let mut body = String::new();
        let mut fields = Fields { out: Escaping::new(&mut body, LONGEST), plugin: None };
        event.record(&mut fields);
        let Fields { out, plugin: named } = fields;
        out.end();
        // The link speaks of plugins by a field; nobody else is believed.
        plugin = plugin.or(named.filter(|_| is_ours(event.metadata())));
        let level = *event.metadata().level();
        let line = |colour| line(&time, level, &spans, &body, colour);
        let plain = line(false);
        match self.colour {
            true => self.stderr.write(&line(true), plugin.is_some()),
            false => self.stderr.write(&plain, plugin.is_some()),
        }
        self.recent.take(plugin, &plain);
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target() == "alphorn" || metadata.target().starts_with("alphorn::")
}

fn line(time: &str, level: Level, spans: &[(&str, String)], body: &str, colour: bool) -> String {
    let paint = |code: &'static str| if colour { code } else { "" };
    let (dim, bold, end) = (paint("\u{1b}[2m"), paint("\u{1b}[1m"), paint("\u{1b}[0m"));
    let level_colour = paint(match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG => "\u{1b}[34m",
        Level::TRACE => "\u{1b}[35m",
    });
    let mut line = format!("{dim}{time}{end} {level_colour}{level:>5}{end}");
    for (at, (name, fields)) in spans.iter().enumerate() {
        let space = if at == 0 { " " } else { "" };
        // Writing to a string does not fail.
        let _ = match fields.is_empty() {
            true => write!(line, "{space}{bold}{name}{end}:"),
            false => write!(line, "{space}{bold}{name}{{{end}{fields}{bold}}}{end}:"),
        };
    }
    line.push_str(body);
    line
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut shown = Shown::default();
        let mut fields = Fields { out: Escaping::new(&mut shown.fields, LONGEST), plugin: None };
        attributes.record(&mut fields);
        if span.name() == PLUGIN && is_ours(span.metadata()) {
            let mut name = Name(None);
            attributes.record(&mut name);
            shown.plugin = name.0.map(Into::into);
        }
        span.extensions_mut().insert(shown);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(shown) = span.extensions_mut().get_mut::<Shown>() {
            values.record(&mut Fields { out: Escaping::new(&mut shown.fields, LONGEST), plugin: None });
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        self.take(event, context.event_scope(event));
    }
}

/// Fields, one behind the other, escaped.
struct Fields<'a> {
    out: Escaping<'a>,
    /// What a field of this name says.
    plugin: Option<Arc<str>>,
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == PLUGIN {
            self.plugin = Some(value.into());
        }
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.out, " {value:?}"),
            // What the `log` crate adds.
            name if name.starts_with("log.") => Ok(()),
            name => {
                if name == PLUGIN && self.plugin.is_none() {
                    self.plugin = Some(format!("{value:?}").into());
                }
                write!(self.out, " {}={value:?}", name.trim_start_matches("r#"))
            }
        };
    }
}

/// The span's `name`.
struct Name(Option<String>);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "name" {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::{error, error_span, info, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::escape::is_hidden;

    /// What is kept of what is logged meanwhile.
    fn logged(log: impl FnOnce()) -> Vec<crate::recent::Line> {
        let recent = Recent::new();
        let layer = Log::new(recent.clone(), Stderr::to_nobody(), false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        recent.look().0
    }

    /// All but the time.
    fn said(line: &crate::recent::Line) -> &str {
        line.text().split_once("Z ").unwrap().1
    }

    #[test]
    fn a_record_is_one_line_that_says_whose_it_is() {
        let lines = logged(|| {
            let span = error_span!(target: SPANS, "plugin", name = %"a");
            span.in_scope(|| warn!(topic = %"t/1", attempt = 2, "tried: {}", "why"));
            error_span!(target: SPANS, "link", name = "device").in_scope(|| {
                error!(plugin = Some("b"), topic = %"x", "held back");
                info!(client = 3, "up");
            });
            info!(target: "elsewhere", plugin = "b", "not ours");
        });
        let text: Vec<_> = lines.iter().map(said).collect();
        assert_eq!(
            text,
            [
                " WARN plugin{name=a}: tried: why topic=t/1 attempt=2",
                "ERROR link{name=\"device\"}: held back plugin=\"b\" topic=x",
                " INFO link{name=\"device\"}: up client=3",
                " INFO not ours plugin=\"b\"",
            ]
        );
        let of = |name| lines.iter().filter(|line| line.is_of(Some(name))).count();
        assert_eq!((of("a"), of("b")), (1, 1));
    }

    #[test]
    fn colours_are_ours_alone() {
        let spans = [("plugin", "name=a".to_owned())];
        let line = line("now", Level::ERROR, &spans, " words", true);
        assert_eq!(
            line,
            "\u{1b}[2mnow\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m \u{1b}[1mplugin{\u{1b}[0mname=a\u{1b}[1m}\u{1b}[0m: words"
        );
    }

    #[test]
    fn a_record_is_bounded() {
        let lines = logged(|| warn!(topic = %"x".repeat(70_000), "dropped"));
        let text = lines[0].text();
        assert!(text.len() < LONGEST + 200 && text.contains("dropped topic=xxx"), "{}", text.len());
    }

    /// Rounds of [`nothing_from_outside_forges_a_line_or_steers_a_terminal`], and its first seed.
    fn rounds() -> (u64, u64) {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        match number("ALPHORN_SEED") {
            Some(seed) => (seed, seed + 1),
            None => (0, number("ALPHORN_ROUNDS").unwrap_or(3000)),
        }
    }

    #[test]
    fn nothing_from_outside_forges_a_line_or_steers_a_terminal() {
        let (first, end) = rounds();
        for seed in first..end {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u32| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random >> 33) as u32 % below
            };
            let foreign: String = (0..next(40))
                .map(|_| match next(6) {
                    0 => char::from_u32(next(0xa0)).unwrap_or('x'),
                    1 => char::from_u32(0x2000 + next(0x100)).unwrap_or('x'),
                    2 => char::from_u32(next(0x11_0000)).unwrap_or('x'),
                    3 => '\n',
                    4 => '\u{1b}',
                    _ => 'a',
                })
                .collect();
            let lines = logged(|| {
                let cause = anyhow::anyhow!("{foreign}").context("why");
                info!("{foreign}");
                info!(topic = %foreign, "display");
                info!(topic = ?foreign, "debug");
                info!(foreign, "as a text");
                info!(plugin = foreign, "as a name");
                warn!("{cause:#}");
                warn!("{cause:?}");
                info!(error = &*Box::<dyn std::error::Error>::from(foreign.clone()), "as an error");
                error_span!(target: SPANS, "plugin", name = %foreign).in_scope(|| error!("in a span"));
                let span = error_span!(target: SPANS, "late", field = tracing::field::Empty);
                span.record("field", &*foreign);
                span.in_scope(|| error!(bytes = foreign.as_bytes(), "recorded later"));
            });
            assert_eq!(lines.len(), 10, "seed {seed}: one record is one line");
            for line in &lines {
                assert!(!line.text().contains(is_hidden), "seed {seed}: {:?}", line.text());
            }
            // What follows is what commands print.
            let table = crate::escape::shown(&foreign);
            assert!(!table.contains(is_hidden), "seed {seed}: {table:?}");
            let json = serde_json::to_string(&foreign).unwrap();
            let json = crate::escape::shown_json(&json);
            assert!(!json.contains(is_hidden), "seed {seed}: {json:?}");
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), foreign, "seed {seed}");
        }
    }
}
