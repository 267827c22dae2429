//! Texts and screens that show a batch to an operator.

pub(crate) mod audit;
pub(crate) mod batch_view;
pub(crate) mod follow;
pub(crate) mod follow_to_end;
pub(crate) mod monotonic;
pub(crate) mod next_command;
pub(crate) mod result_rows;
pub(crate) mod screen;
pub(crate) mod sentences;
pub(crate) mod speed;
pub(crate) mod steered;
pub(crate) mod web_ui;
