//! The audit of a batch, for `status --audit`.

use serde::Serialize;

use crate::{
    cli::{
        output::{self, note, number, one_line, time},
        render::batch_view::{BatchView, SCHEMA},
    },
    progress::audit::AuditEntry,
};

#[derive(Serialize)]
struct Audit<'a> {
    schema: u32,
    batch_id: &'a str,
    /// The entries; `None` if the progress is unknown.
    audit: Option<&'a [AuditEntry]>,
    audit_older: Option<u64>,
}

/// Prints who did what, when and why, with the latest entry last.
pub(crate) fn show(look: &BatchView, json: bool) {
    let progress = look.progress();
    if json {
        output::json(&Audit {
            schema: SCHEMA,
            batch_id: look.batch_id(),
            audit: progress.map(|p| p.audit.as_slice()),
            audit_older: progress.map(|p| p.audit_older),
        });
        return;
    }
    let Some(progress) = progress else {
        return;
    };
    if progress.audit_older > 0 {
        let older = number(progress.audit_older);
        note(format_args!("{older} older ones are not kept"));
    }
    output::result(table(&progress.audit));
}

fn table(entries: &[AuditEntry]) -> String {
    let mut rows = vec![["AT", "WHO", "ACTION", "WHY"].map(str::to_owned)];
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| "?".to_owned(), one_line);
    rows.extend(entries.iter().map(|entry| {
        [
            time(entry.at),
            text(&entry.who),
            one_line(&entry.action),
            entry.why.as_deref().map_or_else(String::new, one_line),
        ]
    }));
    output::columns(&rows)
}
