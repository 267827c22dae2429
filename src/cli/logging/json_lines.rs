//! Log lines as flat JSON: one object for each event, with the fields of its spans beside its own.
//!
//! A log indexer finds `batch` and `stride` whatever the nesting of the spans was.

use std::fmt;

use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{JsonFields, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// Writes `timestamp`, `level`, `target`, `message`, `span` (the names, outermost first) and then all fields. An
/// event's own field overrides the field of a span, and an inner span overrides an outer one. A field with the name of
/// one of the first five gets a trailing underscore.
pub(super) struct JsonLines;

const FIRST: [&str; 5] = ["timestamp", "level", "target", "message", "span"];

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;

        let mut names = Vec::new();
        let mut fields = Map::new();
        for span in ctx.event_scope().into_iter().flat_map(|s| s.from_root()) {
            names.push(span.name());
            if let Some(text) = span.extensions().get::<FormattedFields<JsonFields>>() {
                add(&mut fields, &text.fields);
            }
        }
        let mut own = String::new();
        ctx.format_fields(Writer::new(&mut own), event)?;
        // A span may have a field `message` of its own, which is not the message of the event.
        let message = fields.remove("message");
        add(&mut fields, &own);
        let own_message = fields
            .remove("message")
            .unwrap_or(Value::String(String::new()));
        if let Some(of_span) = message {
            fields.insert("message".to_owned(), of_span);
        }

        let metadata = event.metadata();
        let mut target = Value::from(metadata.target());
        // The crate `log` passes its origin as fields.
        if metadata.target() == "log" {
            target = fields.remove("log.target").unwrap_or(target);
            fields.retain(|name, _| !name.starts_with("log."));
        }
        let first = [
            Value::from(timestamp),
            Value::from(metadata.level().as_str()),
            target,
            own_message,
            Value::from(names.join(":")),
        ];
        let mut line = String::from("{");
        for (name, value) in FIRST.into_iter().zip(first) {
            push(&mut line, name, &value);
        }
        for (name, value) in &fields {
            if FIRST.contains(&name.as_str()) {
                push(&mut line, &format!("{name}_"), value);
            } else {
                push(&mut line, name, value);
            }
        }
        line.push('}');
        writeln!(writer, "{line}")
    }
}

/// Adds the fields of a JSON object, which is how `JsonFields` writes them.
fn add(fields: &mut Map<String, Value>, text: &str) {
    if let Ok(Value::Object(more)) = serde_json::from_str(text) {
        fields.extend(more);
    }
}

fn push(line: &mut String, name: &str, value: &Value) {
    if line.len() > 1 {
        line.push(',');
    }
    line.push_str(&Value::from(name).to_string());
    line.push(':');
    line.push_str(&value.to_string());
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// Returns the lines of what was logged, as text and parsed.
    fn logged(work: impl FnOnce()) -> Vec<(String, Value)> {
        let lines = Lines::default();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(lines.clone())
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let bytes = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        let parsed = |line: &str| (line.to_owned(), serde_json::from_str(line).unwrap());
        text.lines().map(parsed).collect()
    }

    #[test]
    fn fields_of_spans_stand_beside_those_of_the_event_and_inner_ones_win() {
        let lines = logged(|| {
            let stride = tracing::info_span!("stride", batch = "b", stride = 7, attempt = 1);
            let _stride = stride.entered();
            let page =
                tracing::info_span!("page", page = 3, attempt = 2, later = tracing::field::Empty);
            page.record("later", true);
            let _page = page.entered();
            tracing::warn!(error = "no \"luck\"\nat all", took_ms = 1.5, "page failed");
        });
        let (text, line) = &lines[0];
        assert_eq!(lines.len(), 1);
        assert!(text.starts_with("{\"timestamp\":\""), "{text}");
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["target"], module_path!());
        assert_eq!(line["message"], "page failed");
        assert_eq!(line["span"], "stride:page");
        assert_eq!((&line["batch"], &line["stride"]), (&"b".into(), &7.into()));
        assert_eq!((&line["page"], &line["attempt"]), (&3.into(), &2.into()));
        assert_eq!(line["later"], true);
        assert_eq!(line["error"], "no \"luck\"\nat all");
        assert_eq!(line["took_ms"], 1.5);
        let nested = line
            .as_object()
            .unwrap()
            .values()
            .find(|v| v.is_object() || v.is_array());
        assert_eq!(nested, None, "{text}");
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let lines = logged(|| tracing::info!("now"));
        let time = lines[0].1["timestamp"].as_str().unwrap();
        assert!(time.ends_with('Z'), "{time}");
        let parsed: jiff::Timestamp = time.parse().unwrap();
        let age = jiff::Timestamp::now().duration_since(parsed);
        assert!(age.as_secs().abs() < 600, "{time}");
    }

    #[test]
    fn no_field_hides_what_every_line_has() {
        let lines = logged(|| {
            let span = tracing::info_span!("outer", message = "of the span", level = 3);
            let _span = span.entered();
            tracing::info!(target = "mine", span = 1, "of the event");
        });
        let (text, line) = &lines[0];
        assert_eq!(line["message"], "of the event");
        assert_eq!(line["message_"], "of the span");
        assert_eq!(
            (&line["level"], &line["level_"]),
            (&"INFO".into(), &3.into())
        );
        assert_eq!(line["target_"], "mine");
        assert_eq!(
            (&line["span"], &line["span_"]),
            (&"outer".into(), &1.into())
        );
        for name in FIRST {
            assert_eq!(text.matches(&format!("\"{name}\":")).count(), 1, "{text}");
        }
    }

    #[test]
    fn a_line_without_message_and_spans_is_a_line_too() {
        let lines = logged(|| tracing::info!(pages = 2));
        assert_eq!(lines[0].1["message"], "");
        assert_eq!(lines[0].1["span"], "");
        assert_eq!(lines[0].1["pages"], 2);
    }
}
