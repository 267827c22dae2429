//! The table of the pages that fail.

use std::iter;

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::{Color, Style},
    text::{Line, Span},
    widgets::{Row, Table, Widget},
};

use super::{draw::Painter, line_fitting::fit};
use crate::{
    cli::output::{duration, one_line},
    progress::{
        Progress,
        failures::{FailureState, PageFailure},
    },
};

/// The most columns of the start of a page.
const MAX_START: usize = 24;
/// The columns of an error that are worth more than the columns before it.
const ENOUGH_OF_AN_ERROR: usize = 40;
impl Painter<'_> {
    pub(super) fn failing(&self, frame: &mut Frame<'_>, area: Rect, p: &Progress) {
        if p.failing.is_empty() {
            return;
        }
        let rows: Vec<_> = p
            .failing
            .iter()
            .map(|page| self.failing_row(page))
            .collect();
        let header = ["FAILING", "PAGE", "TRIES", "SINCE", "ERROR"];
        let widest = |column: usize| {
            let cells = rows
                .iter()
                .map(|(cells, _)| Span::raw(&cells[column]).width());
            cells
                .chain([header[column].len()])
                .max()
                .unwrap_or_default()
        };
        let mut widths: [usize; 5] = std::array::from_fn(widest);
        let others = |widths: &[usize; 5]| widths[..4].iter().map(|width| width + 1).sum::<usize>();
        let width = usize::from(area.width);
        if width < others(&widths) + ENOUGH_OF_AN_ERROR {
            // The error is more useful than these columns.
            (widths[2], widths[3]) = (0, 0);
        }
        widths[4] = width.saturating_sub(others(&widths));
        let constraints = widths.map(|width| Constraint::Length(width as u16));
        let rows = rows.into_iter().map(|(mut cells, style)| {
            cells[4] = fit(&cells[4], widths[4]);
            let [state, others @ ..] = cells;
            let state = iter::once(Line::styled(state, style));
            Row::new(state.chain(others.map(Line::from)))
        });
        let table = Table::new(rows, constraints)
            .header(Row::new(header).style(self.quiet()))
            .column_spacing(1);
        // Tables with a selection have a method of the same name.
        Widget::render(table, area, frame.buffer_mut());
    }

    fn failing_row(&self, failure: &PageFailure) -> ([String; 5], Style) {
        let color = match failure.state {
            FailureState::Retrying => Color::Yellow,
            _ => Color::Red,
        };
        let start = match &failure.start {
            Some(token) => format!("after {}", one_line(token.as_str())),
            None => "first page".to_owned(),
        };
        let error = format!("{}: {}", failure.error_type, failure.message);
        let cells = [
            failure.state.to_string(),
            fit(&start, MAX_START),
            failure.attempts.to_string(),
            duration(self.now.wall.since(failure.first_at)),
            one_line(&error),
        ];
        (cells, self.color(color))
    }
}
