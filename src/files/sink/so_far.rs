//! The records that are there while others are missing, as one file.

use std::{fs, io::ErrorKind};

use crate::{
    base::text::{count, number},
    files::sink::{
        concatenate::write_parts,
        directory::Found,
        error::SinkError,
        finish::{Finishing, part_extension},
        part_chain::{Link, chain},
        whole_file::sync_directory,
    },
};

impl Finishing {
    fn so_far_name(&self) -> String {
        let extension = part_extension(&self.format, self.gzip);
        format!("so-far.{extension}")
    }

    /// Writes all records that are there into one file, in their order, if only ranges that are known to be missing
    /// prevent the result from being finished. Returns a sentence about the file. Otherwise an earlier file is removed, since
    /// it no longer says what is there.
    pub fn write_so_far(&self, found: &[Found]) -> Result<Option<String>, SinkError> {
        let here = found.iter().map(|found| found.link.clone());
        let links: Vec<Link> = here.chain(self.missing.iter().cloned()).collect();
        let Ok(chosen) = chain(&links, self.start.as_ref()) else {
            self.clear_so_far()?;
            return Ok(None);
        };
        let missing = chosen.links.iter().filter(|i| **i >= found.len()).count();
        let chosen = chosen.links.iter().filter_map(|i| found.get(*i));
        let parts = chosen.filter_map(|found| found.file.as_deref());
        let parts = parts.map(|file| (self.directory.part(file), None));
        let file = self.directory.path(&self.so_far_name());
        let written = write_parts(parts, (&self.format, self.gzip), &file)?;
        sync_directory(self.directory.root())?;
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
