//! Text and screens that show a batch to an operator.

pub(crate) mod audit;
pub(crate) mod batch_view;
pub(crate) mod follow;
pub(crate) mod letters;
pub(crate) mod next;
pub(crate) mod output;
pub(crate) mod repair;
pub(crate) mod result_rows;
pub(crate) mod screen;
pub(crate) mod sentences;
pub(crate) mod speed;
pub(crate) mod steady;
pub(crate) mod web_ui;
