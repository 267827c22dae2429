//! The steps from parts to a finished result.
//!
//! ```text
//!   parts of all attempts ---> plan ---> published parts ---> one file ---> manifest ---> the rest is removed
//! ```
//!
//! Every step can be repeated after a crash, and run twice at the same time. The plan fixes once which parts count. A
//! published part is never written to, so a late attempt changes nothing.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    cell::EncodedColumn,
    files::{
        manifest::{Manifest, ManifestFile, ManifestPart},
        sink::{
            concatenate::{Copied, copy_part, write_concatenation},
            directory::{Found, Owner, Plan, PlannedPart, SinkDirectory},
            error::SinkError,
            part_chain::{Hole, Link, chain},
            part_format::PartFormat,
        },
    },
    page::token::PageToken,
    progress::check::{Check, FailedRange},
};

/// A result to finish.
#[derive(Clone, Debug)]
pub(crate) struct Finishing {
    pub directory: SinkDirectory,
    pub format: PartFormat,
    pub gzip: bool,
    pub concatenate: Option<PathBuf>,
    /// The beginning of the data.
    pub start: Option<PageToken>,
    /// The encodings of the columns, if they are those of a table.
    pub encodings: Vec<EncodedColumn>,
    pub owner: Owner,
    /// Ranges whose records were given up. With them the other records are put into one file before the result can be
    /// finished.
    pub missing: Vec<Link>,
}

/// The reason why a result is not finished.
pub(crate) enum NotFinished {
    Error(SinkError),
    /// The check was cancelled.
    Stopped,
    #[cfg(test)]
    Crashed,
}

impl From<SinkError> for NotFinished {
    fn from(error: SinkError) -> Self {
        Self::Error(error)
    }
}

/// The steps before which a test loses the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Step {
    Plan,
    Publish,
    Sum,
    Concatenate,
    Manifest,
    Clear,
}

impl Finishing {
    /// Finishes the result, or verifies it if it is finished.
    pub fn run(&self, stop: &AtomicBool) -> Result<Check, NotFinished> {
        self.run_observed(stop, &mut |_| Ok(()))
    }

    pub fn run_observed(
        &self,
        stop: &AtomicBool,
        before: &mut dyn FnMut(Step) -> Result<(), NotFinished>,
    ) -> Result<Check, NotFinished> {
        let directory = &self.directory;
        if let Some(manifest) = directory.manifest()? {
            if manifest.batch_run == self.owner.batch_run {
                before(Step::Clear)?;
                self.clear_so_far()?;
                directory.clear()?;
            }
            return self.verify(&manifest, stop);
        }
        match directory.is_claimed(&self.owner) {
            Ok(true) => {}
            Ok(false) => {
                return Ok(fails(
                    None,
                    None,
                    &format!("there are no parts in {}", self.shown()),
                ));
            }
            Err(error @ SinkError::Taken { .. }) => {
                return Ok(fails(None, None, &error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
        let plan = match directory.plan()? {
            Some(plan) => plan,
            None => match self.decide()? {
                Ok(plan) => {
                    before(Step::Plan)?;
                    directory.put_plan(&plan)?
                }
                Err(check) => return Ok(check),
            },
        };
        let names: Vec<String> = (1..=plan.parts.len()).map(|n| self.name(n)).collect();
        for (part, name) in plan.parts.iter().zip(&names) {
            before(Step::Publish)?;
            going_on(stop)?;
            directory.publish(&part.from, name)?;
        }
        directory.sync()?;
        before(Step::Sum)?;
        let mut parts = Vec::new();
        for (part, name) in plan.parts.iter().zip(names) {
            going_on(stop)?;
            parts.push(self.look_at(part, name)?);
        }
        before(Step::Concatenate)?;
        going_on(stop)?;
        let mut manifest = Manifest {
            version: 1,
            batch_id: self.owner.batch_id.clone(),
            batch_run: self.owner.batch_run.clone(),
            format: self.format.clone(),
            gzip: self.gzip,
            records: parts.iter().map(|part| part.file.records).sum(),
            bytes: parts.iter().map(|part| part.file.bytes).sum(),
            orphans: plan.orphans,
            concatenated: None,
            encodings: self.encodings.clone(),
            parts,
        };
        if let Some(file) = &self.concatenate {
            let parts = manifest.parts.iter();
            let parts = parts.map(|part| (directory.path(&part.file.file), &*part.file.sha256));
            manifest.concatenated = Some(write_concatenation(parts, &manifest, file)?);
        }
        before(Step::Manifest)?;
        going_on(stop)?;
        directory.put_manifest(&manifest)?;
        before(Step::Clear)?;
        self.clear_so_far()?;
        directory.clear()?;
        let mut check = Check::default();
        for part in &manifest.parts {
            check.passes(part.file.records);
        }
        Ok(check)
    }

    fn shown(&self) -> String {
        self.directory.root().display().to_string()
    }

    fn extension(&self) -> String {
        part_extension(&self.format, self.gzip)
    }

    fn name(&self, number: usize) -> String {
        format!("part-{number:08}.{}", self.extension())
    }

    /// Returns the plan, or a check that names the missing parts.
    fn decide(&self) -> Result<Result<Plan, Check>, SinkError> {
        let found = self.directory.parts(&self.extension())?;
        let links: Vec<_> = found.iter().map(|found| found.link.clone()).collect();
        let chain = match chain(&links, self.start.as_ref()) {
            Ok(chain) => chain,
            Err(holes) => {
                let mut check = self.holes(&holes, &found);
                check.notes.extend(self.write_so_far(&found)?);
                return Ok(Err(check));
            }
        };
        let late = chain.orphans.iter().map(|i| &found[*i]);
        let late: Vec<_> = late.filter(|f| f.link.alone && f.file.is_some()).collect();
        if !late.is_empty() {
            let mut check = Check::default();
            for found in late {
                check.fails(FailedRange {
                    start: found.link.start.clone(),
                    end: found.link.end.clone(),
                    items: 1,
                    message: "a record was redriven after the part of its page had been written without it: a \
                              processor that writes parts must not report a record as failed, but return an error \
                              for the page, which is then split"
                        .to_owned(),
                });
            }
            return Ok(Err(check));
        }
        let orphans = chain.orphans.iter().filter(|i| found[**i].file.is_some());
        Ok(Ok(Plan {
            orphans: orphans.count() as u64,
            parts: self.in_order(&chain.links, &found),
        }))
    }

    /// Returns the parts in order. Ranges without records become part of the previous range.
    fn in_order(&self, chain: &[usize], found: &[Found]) -> Vec<PlannedPart> {
        let mut parts: Vec<PlannedPart> = Vec::new();
        for found in chain.iter().map(|i| &found[*i]) {
            match (&found.file, parts.last_mut()) {
                (Some(file), before) => {
                    let start = match before {
                        Some(_) => found.link.start.clone(),
                        None => self.start.clone(),
                    };
                    parts.push(PlannedPart {
                        from: file.clone(),
                        start,
                        end: found.link.end.clone(),
                    });
                }
                (None, Some(before)) => before.end.clone_from(&found.link.end),
                (None, None) => {}
            }
        }
        parts
    }

    fn holes(&self, holes: &[Hole], found: &[Found]) -> Check {
        let place = |token: &Option<PageToken>, none: &str| {
            token
                .as_ref()
                .map_or_else(|| none.to_owned(), |t| format!("cursor {t}"))
        };
        let ends = found.iter().any(|found| found.link.end.is_none());
        let mut check = Check::default();
        for hole in holes {
            let after = place(&hole.after, "the beginning of the data");
            let message = match &hole.before {
                Some(_) => format!(
                    "the part from {after} to {} is missing in {}",
                    place(&hole.before, ""),
                    self.shown()
                ),
                None if ends => format!("the parts after {after} are missing in {}", self.shown()),
                None => format!(
                    "nothing in {} says that the data ends after {after}: fetch must hand every page to \
                     PartSink::fetched, and all workers must write into the same directory",
                    self.shown()
                ),
            };
            check.fails(FailedRange {
                start: hole.after.clone(),
                end: hole.before.clone(),
                items: 0,
                message,
            });
        }
        check
    }

    fn look_at(&self, part: &PlannedPart, name: String) -> Result<ManifestPart, SinkError> {
        let path = self.directory.path(&name);
        let Copied {
            records,
            bytes,
            sha256,
        } = copy_part(&path, &self.format, self.gzip, None)?;
        Ok(ManifestPart {
            start: part.start.clone(),
            end: part.end.clone(),
            file: ManifestFile {
                file: name,
                records,
                bytes,
                sha256,
            },
        })
    }

    fn verify(&self, manifest: &Manifest, stop: &AtomicBool) -> Result<Check, NotFinished> {
        if manifest.batch_run != self.owner.batch_run {
            let message = format!(
                "{} holds the result of batch \"{}\" (batch run {})",
                self.shown(),
                manifest.batch_id,
                manifest.batch_run
            );
            return Ok(fails(None, None, &message));
        }
        let mut check = Check::default();
        for part in &manifest.parts {
            going_on(stop)?;
            match manifest.verify_part(self.directory.root(), part)? {
                None => check.passes(part.file.records),
                Some(message) => check.fails(FailedRange {
                    start: part.start.clone(),
                    end: part.end.clone(),
                    items: part.file.records,
                    message,
                }),
            }
        }
        Ok(check)
    }
}

/// Returns the file extension of a part.
pub(crate) fn part_extension(format: &PartFormat, gzip: bool) -> String {
    let extension = format.extension();
    if gzip {
        format!("{extension}.gz")
    } else {
        extension.to_owned()
    }
}

fn going_on(stop: &AtomicBool) -> Result<(), NotFinished> {
    if stop.load(Ordering::Relaxed) {
        return Err(NotFinished::Stopped);
    }
    Ok(())
}

fn fails(start: Option<PageToken>, end: Option<PageToken>, message: &str) -> Check {
    let mut check = Check::default();
    check.fails(FailedRange {
        start,
        end,
        items: 0,
        message: message.to_owned(),
    });
    check
}
