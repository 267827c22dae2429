//! The lines about completions, from the log events of the fan-out.

use std::fmt;

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, filter::LevelFilter, layer::Context, prelude::*};

/// Prints a line for each item whose end the fan-out has learnt of.
pub fn show_completions() {
    tracing_subscriber::registry()
        .with(Completions.with_filter(LevelFilter::INFO))
        .init();
}

struct Completions;

impl<S: Subscriber> Layer<S> for Completions {
    fn on_event(&self, event: &Event<'_>, _ctx: Context<'_, S>) {
        if !event
            .metadata()
            .target()
            .starts_with("temporal_batch_fanout")
        {
            return;
        }
        let mut seen = Seen::default();
        event.record(&mut seen);
        match seen.message.as_str() {
            "completion signal received" | "item completed" => {
                println!("Received completion for item {}", seen.item);
            }
            "item failed" => println!(
                "Received failure of item {}: {}",
                seen.item, seen.error_type
            ),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Seen {
    message: String,
    item: String,
    error_type: String,
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "item" => self.item = value.to_owned(),
            "error_type" => self.error_type = value.to_owned(),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            _ => self.record_str(field, text.trim_matches('"')),
        }
    }
}
