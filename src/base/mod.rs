//! Parts that know nothing about batches: errors, text, small files, stored fields.

pub(crate) mod disk;
pub(crate) mod error;
pub(crate) mod known_fields;
pub(crate) mod private_files;
#[allow(
    dead_code,
    reason = "which of its functions are used depends on the features"
)]
pub(crate) mod small_file;
pub(crate) mod stored;
pub(crate) mod text;
pub(crate) mod time;
