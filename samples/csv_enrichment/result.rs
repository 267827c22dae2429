//! The result of a batch, read back from its files.

use std::{collections::HashSet, path::Path};

use temporal_batch::files::Manifest;

use super::enrich::Enriched;

/// The counts of a result.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub enriched: usize,
    pub unenriched: usize,
    /// The enriched and the unenriched users of each page, in the order of the data. Each page has a file.
    pub pages: Vec<(usize, usize)>,
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
        let (mut enriched, mut unenriched) = (0, 0);
        for line in std::fs::read_to_string(out.join(&part.file.file))?.lines() {
            let row: Enriched = serde_json::from_str(line)?;
            if !seen.insert(row.id) {
                return Err(format!("user {} is there twice", row.id).into());
            }
            if row.enriched == (row.region == "UNKNOWN") {
                return Err(format!("user {} has region {}", row.id, row.region).into());
            }
            match row.enriched {
                true => enriched += 1,
                false => unenriched += 1,
            }
        }
        counts.enriched += enriched;
        counts.unenriched += unenriched;
        counts.pages.push((enriched, unenriched));
    }
    Ok(counts)
}
