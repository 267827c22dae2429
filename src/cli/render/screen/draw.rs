//! Draws one frame. Parts that do not fit are left out, the least important first.

use std::iter;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{LineGauge, Paragraph, RenderDirection, Sparkline},
};

use super::{
    layout::{Lines, Wanted},
    line_fitting::{fit, without_escapes, wrapped},
    model::{Model, Moment},
};
use crate::{
    cli::{
        output::{about, count, duration, number, one_line, per_second, time},
        render::sentences,
    },
    page::size::percent_text,
    progress::{
        Progress,
        audit::AuditEntry,
        phase::{HeldBy, Phase},
    },
};

/// The most lines of the audit, with its title.
const MAX_AUDIT: u16 = 6;
/// Draws the model, and the help if it is open.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Moment) {
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    let painter = Painter { model, now };
    painter.frame(frame, area);
    if model.help {
        painter.help(frame, area);
    }
}

pub(super) struct Painter<'a> {
    pub(super) model: &'a Model,
    pub(super) now: Moment,
}

impl Painter<'_> {
    fn frame(&self, frame: &mut Frame<'_>, area: Rect) {
        let p = self.model.progress.as_ref();
        let facts = p.map_or_else(Vec::new, |p| self.facts(p));
        let failing = p.map_or(0, |p| p.failing.len());
        let audit = p.map_or(0, |p| p.audit.len());
        let because = wrapped(&self.because(), area.width);
        let rows = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        let lines = Lines::of(
            area.height,
            Wanted {
                because: rows(because.len()),
                facts: rows(facts.len()),
                failing: if failing > 0 { rows(failing + 1) } else { 0 },
                audit: if audit > 0 {
                    rows(audit + 1).min(MAX_AUDIT)
                } else {
                    0
                },
                warning: self.model.warning(self.now).is_some(),
            },
        );
        let heights = [
            lines.header,
            lines.because,
            lines.gauge,
            lines.pace,
            lines.gap,
            lines.sparkline,
            lines.gap,
            lines.facts,
            if lines.failing > 0 { lines.gap } else { 0 },
            lines.failing,
            lines.gap,
            lines.audit,
        ];
        let top: [Rect; 12] = Layout::vertical(heights.map(Constraint::Length)).areas(area);
        let [
            header,
            reason,
            gauge,
            pace,
            _,
            sparkline,
            _,
            panel,
            _,
            table,
            _,
            history,
        ] = top;
        let bottom = [
            Constraint::Fill(1),
            Constraint::Length(lines.warning),
            Constraint::Length(lines.footer),
        ];
        let [_, warning, footer] = Layout::vertical(bottom).areas(area);

        frame.render_widget(self.header(header.width), header);
        frame.render_widget(Paragraph::new(because), reason);
        frame.render_widget(self.warning(), warning);
        frame.render_widget(self.footer(footer.width), footer);
        let Some(p) = p else {
            return;
        };
        self.gauge(frame, gauge, p);
        frame.render_widget(self.pace(p), pace);
        self.sparkline(frame, sparkline);
        frame.render_widget(Paragraph::new(facts), panel);
        self.failing(frame, table, p);
        frame.render_widget(self.audit(&p.audit, history.height), history);
    }

    pub(super) fn color(&self, color: Color) -> Style {
        match self.model.colors {
            true => Style::new().fg(color),
            false => Style::new(),
        }
    }

    pub(super) fn quiet(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn header(&self, width: u16) -> Line<'static> {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let reversed = bold.add_modifier(Modifier::REVERSED);
        let (state, color, rest) = match &self.model.progress {
            None => ("waiting".to_owned(), Color::Yellow, String::new()),
            Some(p) => {
                let color = match p.phase {
                    Phase::Running | Phase::Finishing | Phase::Ended => Color::Green,
                    Phase::Blocked | Phase::Stopping | Phase::Cancelling => Color::Red,
                    _ => Color::Yellow,
                };
                let age = duration(self.now.wall.since(p.started_at));
                let processor = one_line(&p.processor);
                let rest = format!("{processor}  {age}  run {}", p.runs);
                (p.phase.to_string(), color, rest)
            }
        };
        // A long id is cut so that the rest of the line stays visible.
        let others = state.len() + rest.len() + 6;
        let room = usize::from(width).saturating_sub(others).max(12);
        Line::from(vec![
            Span::styled(format!(" {state} "), reversed.patch(self.color(color))),
            Span::raw(" "),
            Span::styled(fit(&one_line(&self.model.batch_id), room), bold),
            Span::raw("  "),
            Span::raw(rest),
        ])
    }

    /// Returns the reason why the batch is not faster: the sentence that people look for.
    fn because(&self) -> Line<'static> {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        if let Some(trouble) = &self.model.trouble {
            return Line::styled(one_line(trouble), bold.patch(self.color(Color::Red)));
        }
        let Some(p) = &self.model.progress else {
            return Line::styled("waiting for a worker", self.color(Color::Yellow));
        };
        let paused = || {
            let reason = p.pause_reason.as_ref();
            reason.map(|reason| format!("paused: {reason}"))
        };
        let Some(because) = sentences::because(p).or_else(paused) else {
            return Line::default();
        };
        // A limit that an operator chose is no trouble.
        let color = match p.held_by {
            Some(HeldBy::Rate | HeldBy::Ramp | HeldBy::Tuning | HeldBy::Parallelism) => Color::Cyan,
            _ => Color::Yellow,
        };
        Line::styled(one_line(&because), bold.patch(self.color(color)))
    }

    fn gauge(&self, frame: &mut Frame<'_>, area: Rect, p: &Progress) {
        let (Some(percent), Some(total)) = (p.percent(), sentences::total_items(p)) else {
            let pages = count(p.pages_completed, "page");
            let text = format!("{} in {pages}", count(p.items.total(), "item"));
            frame.render_widget(Line::from(text), area);
            return;
        };
        let done = number(p.items.total());
        let label = format!("{}  {done} of {total}", percent_text(percent));
        if area.is_empty() || usize::from(area.width) < label.len() + 4 {
            frame.render_widget(Line::from(label), area);
            return;
        }
        let gauge = LineGauge::default()
            .ratio((percent / 100.0).clamp(0.0, 1.0))
            .label(label)
            .filled_symbol("━")
            .unfilled_symbol("─")
            .filled_style(self.color(Color::Cyan))
            .unfilled_style(self.quiet());
        frame.render_widget(gauge, area);
    }

    fn pace(&self, p: &Progress) -> Line<'static> {
        let told = |rate: f64| format!("{}/s", per_second(rate.max(0.0)));
        let mut parts = Vec::new();
        if let Some(now) = self.model.pace.items_per_second() {
            parts.push(format!("now {}", told(now)));
        }
        if let Some(minute) = p.items_per_second.or_else(|| self.model.samples.mean(60)) {
            parts.push(format!("last minute {}", told(minute)));
        }
        let own = || {
            let left = self
                .model
                .pace
                .time_left(p)
                .filter(|_| p.phase == Phase::Running);
            left.map(|left| format!("{} left at this pace", about(left)))
        };
        let told = p.time_left.and_then(sentences::time_left);
        parts.extend(told.map(|left| format!("{left} left")).or_else(own));
        if self.model.again > 0 {
            parts.push(sentences::again(self.model.again));
        }
        Line::from(parts.join("   "))
    }

    fn sparkline(&self, frame: &mut Frame<'_>, area: Rect) {
        let [title, below] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        if below.is_empty() {
            return;
        }
        let samples = self.model.samples.latest(usize::from(area.width));
        let data: Vec<u64> = samples.map(|rate| rate.round() as u64).collect();
        let most = data.iter().max().copied().unwrap_or_default();
        let text = format!("items/s, last {}s, at most {}", data.len(), number(most));
        frame.render_widget(Line::styled(text, self.quiet()), title);
        let sparkline = Sparkline::default()
            .data(data)
            .max(most.max(1))
            // The newest sample is on the right, where the next one enters.
            .direction(RenderDirection::RightToLeft)
            .style(self.color(Color::Cyan));
        frame.render_widget(sparkline, below);
    }

    fn facts(&self, p: &Progress) -> Vec<Line<'static>> {
        let mut troubles = sentences::troubles(p);
        if p.dead_letters > 0 {
            troubles.push(count(p.dead_letters, "dead letter"));
        }
        let troubles = (!troubles.is_empty()).then(|| ("failures", troubles.join(", ")));
        let pause = p.pause.as_ref();
        let pause = pause.map(|note| ("pause", sentences::pause(note, self.now.wall)));
        let facts = iter::empty()
            .chain(pause)
            .chain(sentences::steering(p, self.now.wall))
            .chain(sentences::in_flight(p, self.now.wall))
            .chain(troubles);
        let line = |(name, value): sentences::Fact| {
            Line::from(vec![
                Span::styled(format!("{name:<12}"), self.quiet()),
                Span::raw(one_line(&value)),
            ])
        };
        facts.map(line).collect()
    }

    /// Returns the latest entries that fit under the title, the latest at the bottom.
    fn audit(&self, audit: &[AuditEntry], height: u16) -> Paragraph<'static> {
        let shown = usize::from(height).saturating_sub(1).min(audit.len());
        let title = Line::styled("AUDIT", self.quiet());
        let line = |entry: &AuditEntry| {
            let at = time(entry.at);
            // The time of day of the timestamp.
            let at = at.get(11..19).unwrap_or(&at).to_owned();
            let who = entry.who.as_deref().unwrap_or("?");
            let why = entry.why.as_ref();
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            Line::from(one_line(&format!("{at}  {}  {who}{why}", entry.action)))
        };
        let latest = audit[audit.len() - shown..].iter().map(line);
        Paragraph::new(iter::once(title).chain(latest).collect::<Vec<_>>())
    }

    fn warning(&self) -> Line<'static> {
        let line = self.model.warning(self.now).unwrap_or_default();
        Line::styled(one_line(&without_escapes(line)), self.color(Color::Yellow))
    }
}
