//! The result of a batch, read back from its files.

use std::{collections::HashSet, path::Path};

use temporal_batch::files::Manifest;

use super::enrich::Enriched;

/// The counts of a result.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub enriched: usize,
    pub unenriched: usize,
    pub files: usize,
}

/// Reads all files that the manifest of a result names.
///
/// # Errors
/// A file is missing or unreadable, a user occurs twice, or a row does not say what its flag says.
pub fn read(out: &Path) -> Result<Counts, Box<dyn std::error::Error + Send + Sync>> {
    let manifest = Manifest::read(out)?.ok_or("the result is not complete: it has no manifest")?;
    let mut counts = Counts::default();
    let mut seen = HashSet::new();
    for part in &manifest.parts {
        counts.files += 1;
        for line in std::fs::read_to_string(out.join(&part.file.file))?.lines() {
            let row: Enriched = serde_json::from_str(line)?;
            if !seen.insert(row.id) {
                return Err(format!("user {} is there twice", row.id).into());
            }
            if row.enriched == (row.region == "UNKNOWN") {
                return Err(format!("user {} has region {}", row.id, row.region).into());
            }
            match row.enriched {
                true => counts.enriched += 1,
                false => counts.unenriched += 1,
            }
        }
    }
    Ok(counts)
}
