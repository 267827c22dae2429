//! The records that are there while others are missing, as one file.

use std::{fs, io::ErrorKind};

use crate::{
    base::text::{count, number},
    files::{
        manifest::Manifest,
        sink::{
            concatenate::{copy_part, write_concatenation},
            directory::Found,
            error::SinkError,
            finish::{Finishing, part_extension},
            part_chain::{Link, chain},
        },
    },
};

impl Finishing {
    fn so_far_name(&self) -> String {
        let extension = part_extension(&self.format, self.gzip);
        format!("so-far.{extension}")
    }

    /// Writes all records that are there into one file, in their order, if only ranges that are known to be missing
    /// prevent the result from being finished. Returns a sentence about the file.
    pub fn write_so_far(&self, found: &[Found]) -> Result<Option<String>, SinkError> {
        let here = found.iter().map(|found| found.link.clone());
        let links: Vec<Link> = here.chain(self.missing.iter().cloned()).collect();
        let Ok(chosen) = chain(&links, self.start.as_ref()) else {
            return Ok(None);
        };
        let missing = chosen.links.iter().filter(|i| **i >= found.len()).count();
        let chosen = chosen.links.iter().filter_map(|i| found.get(*i));
        let mut parts = Vec::new();
        for file in chosen.filter_map(|found| found.file.as_deref()) {
            let path = self.directory.part(file);
            let copied = copy_part(&path, &self.format, self.gzip, None)?;
            parts.push((path, copied.sha256));
        }
        let manifest = Manifest {
            version: 1,
            batch_id: self.owner.batch_id.clone(),
            batch_run: self.owner.batch_run.clone(),
            format: self.format.clone(),
            gzip: self.gzip,
            records: 0,
            bytes: 0,
            orphans: 0,
            concatenated: None,
            encodings: Vec::new(),
            parts: Vec::new(),
        };
        let parts = parts.iter().map(|(path, sha256)| (path, sha256.as_str()));
        let file = self.directory.path(&self.so_far_name());
        let written = write_concatenation(parts, &manifest, &file)?;
        Ok(Some(format!(
            "{} so far in {}; {} that were given up are missing",
            count(written.records, "record"),
            file.display(),
            number(missing as u64),
        )))
    }

    /// Removes the file of an unfinished result.
    pub fn clear_so_far(&self) -> Result<(), SinkError> {
        let file = self.directory.path(&self.so_far_name());
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(SinkError::io("remove", &file)(error))
            }
            _ => Ok(()),
        }
    }
}
