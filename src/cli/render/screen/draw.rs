//! One frame. What does not fit is left out, the least important first.

use std::iter;

use ratatui::{
    Frame,
    layout::{Constraint, Flex, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, LineGauge, Paragraph, RenderDirection, Row, Sparkline, Table, Widget},
};

use super::model::{Model, Moment};
use crate::{
    cli::render::{
        output::{about, count, duration, number, one_line, per_second, time},
        sentences,
    },
    page::size::percent_text,
    progress::{
        Progress,
        audit::AuditEntry,
        failures::{FailureState, PageFailure},
        phase::{HeldBy, Phase},
    },
};

/// Below this a frame is only its five most important lines.
const ROOMY: u16 = 10;
/// Audit lines at most, with their title.
const MAX_AUDIT: u16 = 6;
/// Columns of a page's start at most.
const MAX_START: usize = 24;
/// Columns of an error that are worth more than the columns before it.
const ENOUGH_OF_AN_ERROR: usize = 40;
/// Gaps between parts, where there is room for all of them.
const GAPS: u16 = 4;
/// Lines by which the sparkline grows where there is room.
const MORE_SPARKLINE: u16 = 4;

const KEYS: [(&str, &str); 7] = [
    ("p", "pause, or resume"),
    ("+ -", "one page in flight more, or fewer"),
    ("> <", "twice as many, or half"),
    ("?", "this help"),
    ("q", "leave; the batch goes on"),
    ("Esc", "the same"),
    ("Ctrl-C", "the same"),
];

/// Draws what the model knows.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Moment) {
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    let look = Look { model, now };
    look.frame(frame, area);
    if model.help {
        look.help(frame, area);
    }
}

/// How many lines each part gets, from top to bottom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    header: u16,
    because: u16,
    gauge: u16,
    pace: u16,
    sparkline: u16,
    facts: u16,
    failing: u16,
    audit: u16,
    warning: u16,
    footer: u16,
    /// Between the parts from `pace` on.
    gap: u16,
}

/// What each part could use.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    because: u16,
    facts: u16,
    failing: u16,
    audit: u16,
    warning: bool,
}

impl Lines {
    fn of(height: u16, wanted: Wanted) -> Self {
        let mut left = height;
        let mut take = |lines: u16| {
            let taken = lines.min(left);
            left -= taken;
            taken
        };
        let mut lines = Self {
            header: take(1),
            gauge: take(1),
            because: take(1),
            footer: take(1),
            pace: take(1),
            ..Self::default()
        };
        if height < ROOMY {
            lines.facts = take(wanted.facts);
            return lines;
        }
        lines.because += take(wanted.because.saturating_sub(1).min(2));
        lines.warning = take(u16::from(wanted.warning));
        // A title and two lines below it say something.
        let low = take(if height < 20 { 3 } else { 4 });
        lines.sparkline = low;
        // A title and two rows, before all facts are told.
        lines.failing = take(wanted.failing.min(3));
        lines.facts = take(wanted.facts);
        lines.failing += take(wanted.failing - lines.failing);
        lines.audit = take(wanted.audit);
        // The title alone says nothing.
        if lines.audit == 1 {
            lines.audit = 0;
            lines.sparkline += 1;
        }
        if left >= GAPS {
            lines.gap = 1;
            lines.sparkline += (left - GAPS).min(MORE_SPARKLINE);
        }
        lines
    }
}

/// A line of one style in lines of at most so many columns. The wrapping of [`Paragraph`] panics where a wide character
/// does not fit into the rest of a line.
fn wrapped(line: &Line<'_>, columns: u16) -> Vec<Line<'static>> {
    let columns = usize::from(columns);
    let text: String = line.spans.iter().map(|span| &*span.content).collect();
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        if used > 0 {
            let fits = used + 1 + Span::raw(word).width() <= columns;
            match (fits, lines.last_mut()) {
                (true, Some(line)) => {
                    line.push(' ');
                    used += 1;
                }
                _ => {
                    lines.push(String::new());
                    used = 0;
                }
            }
        }
        for c in word.chars() {
            let wide = Span::raw(c.to_string()).width();
            if used > 0 && used + wide > columns {
                lines.push(String::new());
                used = 0;
            }
            if let Some(line) = lines.last_mut().filter(|_| used + wide <= columns) {
                line.push(c);
                used += wide;
            }
        }
    }
    let style = line.style;
    let lines = lines.into_iter();
    lines.map(|text| Line::styled(text, style)).collect()
}

struct Look<'a> {
    model: &'a Model,
    now: Moment,
}

impl Look<'_> {
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

    fn color(&self, color: Color) -> Style {
        match self.model.colors {
            true => Style::new().fg(color),
            false => Style::new(),
        }
    }

    fn quiet(&self) -> Style {
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
        // The end of a long id gives way to what comes after it.
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

    /// Why the batch is not faster: the sentence that people look for.
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
        // A limit that somebody chose is no trouble.
        let color = match p.held_by {
            Some(HeldBy::Rate | HeldBy::Ramp | HeldBy::Tuning | HeldBy::Parallelism) => Color::Cyan,
            _ => Color::Yellow,
        };
        Line::styled(one_line(&because), bold.patch(self.color(color)))
    }

    fn gauge(&self, frame: &mut Frame<'_>, area: Rect, p: &Progress) {
        let done = number(p.items.total());
        let (Some(percent), Some(total)) = (p.percent(), sentences::total(p)) else {
            let pages = count(p.pages_completed, "page");
            let text = format!("{done} items in {pages}");
            frame.render_widget(Line::from(text), area);
            return;
        };
        let label = format!("{}  {done} of {total} items", percent_text(percent));
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
        parts.extend(p.time_left.and_then(sentences::time_left).or_else(own));
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
        let text = format!("items/s, last {} s, at most {}", data.len(), number(most));
        frame.render_widget(Line::styled(text, self.quiet()), title);
        let sparkline = Sparkline::default()
            .data(data)
            .max(most.max(1))
            // The newest is on the right, where the next one comes in.
            .direction(RenderDirection::RightToLeft)
            .style(self.color(Color::Cyan));
        frame.render_widget(sparkline, below);
    }

    fn facts(&self, p: &Progress) -> Vec<Line<'static>> {
        let troubles: Vec<_> = [
            (p.retries, if p.retries == 1 { "retry" } else { "retries" }),
            (u64::from(p.pages_stuck), "stuck"),
            (p.pages_failed, "pages given up"),
            (p.items.failed, "items failed"),
            (p.dead_letters, "dead letters"),
        ]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{} {what}", number(n)))
        .collect();
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

    fn failing(&self, frame: &mut Frame<'_>, area: Rect, p: &Progress) {
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
            // The error says more than they do.
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
        // The trait of the same name for tables with a selection is not meant.
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

    /// The latest last, as far as they fit under their title.
    fn audit(&self, audit: &[AuditEntry], height: u16) -> Paragraph<'static> {
        let shown = usize::from(height).saturating_sub(1).min(audit.len());
        let title = Line::styled("AUDIT", self.quiet());
        let line = |entry: &AuditEntry| {
            let at = time(entry.at);
            // Of a whole timestamp, the time of day.
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

    fn footer(&self, width: u16) -> Line<'static> {
        let width = usize::from(width);
        if let Some(request) = self.model.under_way() {
            return Line::styled(request.asking(), self.color(Color::Yellow));
        }
        if let Some(notice) = self.model.notice(self.now) {
            let color = if notice.is_error {
                Color::Red
            } else {
                Color::Green
            };
            return Line::styled(fit(&notice.text, width), self.color(color));
        }
        let pause = if self.model.is_paused() {
            "resume"
        } else {
            "pause"
        };
        let texts = [
            format!(
                "p {pause}   + - parallelism   > < twice, half   ? help   q leave, the batch goes on"
            ),
            format!("p {pause}   + - > < parallelism   ? help   q leave"),
            format!("p {pause}  ? help  q leave"),
            "p ? q".to_owned(),
        ];
        let fits = texts.iter().find(|text| text.len() <= width);
        Line::styled(fits.unwrap_or(&texts[3]).clone(), self.quiet())
    }

    fn help(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines: Vec<_> = KEYS
            .iter()
            .map(|(key, what)| Line::from(format!(" {key:<8}{what} ")))
            .collect();
        let width = lines.iter().map(Line::width).max().unwrap_or_default() as u16 + 2;
        let [area] = Layout::horizontal([Constraint::Max(width)])
            .flex(Flex::Center)
            .areas(area);
        let [area] = Layout::vertical([Constraint::Max(KEYS.len() as u16 + 2)])
            .flex(Flex::Center)
            .areas(area);
        frame.render_widget(Clear, area);
        let block = match area.height > 4 {
            true => Block::bordered().title(" keys "),
            false => Block::new(),
        };
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }
}

/// At most so many columns of a text; an ellipsis says that there was more.
fn fit(text: &str, columns: usize) -> String {
    if Span::raw(text).width() <= columns {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += Span::raw(c.to_string()).width();
        if used > columns {
            break;
        }
        short.push(c);
    }
    short.push('…');
    short
}

/// A line without the sequences that colour it.
fn without_escapes(line: &str) -> String {
    let mut text = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // Up to and including the letter that ends the sequence.
            chars.by_ref().skip(1).find(char::is_ascii_alphabetic);
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use ratatui::{Terminal, backend::TestBackend, crossterm::event};

    use super::*;
    use crate::{
        cli::render::sentences::tests::{at, progress},
        page::token::PageToken,
        progress::{PauseNote, TimeLeft},
    };

    fn moment(seconds: u64) -> Moment {
        Moment {
            elapsed: Duration::from_secs(seconds),
            wall: at(60 + seconds),
        }
    }

    fn failure(n: u64) -> PageFailure {
        PageFailure {
            stride: n,
            start: Some(PageToken::encode(&n).unwrap()),
            end: None,
            error_type: "DatabaseBusy".to_owned(),
            message: "database is\nlocked".to_owned(),
            attempts: 3,
            first_at: at(30),
            last_at: at(59),
            gives_up_at: None,
            state: FailureState::Stuck,
        }
    }

    fn full() -> Progress {
        Progress {
            explanation: "rate limit 5,000 items/s".to_owned(),
            held_by: Some(HeldBy::Rate),
            rate: Some(5_000.0),
            page_size: 1_000,
            items_per_second: Some(4_980.0),
            time_left: Some(TimeLeft {
                at_least: 731.0,
                at_most: 1_075.0,
            }),
            in_flight_by_age: [3, 1, 0, 0],
            oldest_in_flight: Some(at(20)),
            retries: 4,
            failing: (1..=5).map(failure).collect(),
            audit: (0..20)
                .map(|n| AuditEntry {
                    at: at(n),
                    action: format!("act {n}"),
                    who: Some("ann@db1".to_owned()),
                    why: None,
                })
                .collect(),
            ..progress()
        }
    }

    /// A batch that has been watched for some seconds.
    fn watching(progress: &Progress) -> Model {
        let mut model = Model::new("prices-2026", true);
        for second in 0..=9 {
            let mut look = progress.clone();
            look.items.processed += second * 100;
            model.look(look, Duration::ZERO, moment(second));
        }
        model
    }

    fn screen(model: &Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal
            .draw(|frame| draw(frame, model, moment(10)))
            .unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| {
            (0..width)
                .map(|x| buffer[(x, y)].symbol())
                .collect::<String>()
        };
        (0..height).map(line).collect()
    }

    fn assert_shows(screen: &[String], parts: &[&str]) {
        let text = screen.join("\n");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_large_screen_shows_everything() {
        let lines = screen(&watching(&full()), 100, 30);
        assert!(lines[0].starts_with(" running  prices-2026  inflate-prices  1m 10s  run 1"));
        assert!(lines[1].starts_with("rate limit 5,000 items/s"));
        assert!(lines[2].starts_with("25.4 %  50,900 of about 200,000 items ━"));
        assert!(lines[3].starts_with("now 100/s   last minute 4,980/s   between 12m and 18m left"));
        assert_shows(
            &lines,
            &[
                "items/s, last 9 s, at most 100",
                "parallelism 12 of 32 in flight",
                "page size   1,000 items",
                "rate        5,000 items/s at most",
                "in flight   3 under 10 s, 1 under 1 min",
                "longest     50s",
                "failures    4 retries",
                "stuck   after 5 3     40s   DatabaseBusy",
                "DatabaseBusy: database is\\nlocked",
                "22:13:39  act 19  ann@db1",
            ],
        );
        assert!(lines[29].starts_with("p pause   + - parallelism"));
    }

    #[test]
    fn a_middling_screen_shows_what_matters_most() {
        let lines = screen(&watching(&full()), 60, 15);
        assert!(lines[1].starts_with("rate limit 5,000 items/s"));
        assert_shows(
            &lines,
            &[
                "50,900 of about 200,000",
                "at most 100",
                "12 of 32 in flight",
                "after 1",
                "q leave",
            ],
        );
    }

    #[test]
    fn a_tiny_screen_shows_state_reason_and_share() {
        let lines = screen(&watching(&full()), 20, 5);
        assert!(lines[0].starts_with(" running  prices"), "{lines:?}");
        assert!(lines[1].starts_with("rate limit 5,000"), "{lines:?}");
        assert!(lines[2].starts_with("25.4 %  50,900"), "{lines:?}");
        assert!(lines[3].starts_with("now 100/s"), "{lines:?}");
        assert!(lines[4].starts_with("p ? q"), "{lines:?}");
    }

    #[test]
    fn words_are_wrapped_and_wide_characters_stay_whole() {
        let lines = |text: &'static str, columns| {
            let lines = wrapped(&Line::raw(text), columns);
            lines.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            lines("rate limit 5 items/s", 10),
            ["rate limit", "5 items/s"]
        );
        assert_eq!(lines("abcdefg h", 3), ["abc", "def", "g h"]);
        assert_eq!(lines("A\u{2e80}0", 2), ["A", "\u{2e80}", "0"]);
        assert_eq!(lines("\u{2e80}", 1), [""]);
        assert_eq!(lines("", 5), [""]);
    }

    #[test]
    fn a_long_reason_goes_on_in_the_next_line() {
        let mut p = full();
        p.explanation =
            "held: replica lag 3.2 s is more than 2 s, since 12 minutes, as shop-throttle says"
                .to_owned();
        assert_shows(&screen(&watching(&p), 60, 20), &["shop-throttle says"]);
    }

    #[test]
    fn before_the_first_look_it_says_what_it_waits_for() {
        let lines = screen(&Model::new("b", false), 60, 15);
        assert_shows(&lines, &["waiting for a worker", "q leave"]);
    }

    #[test]
    fn old_knowledge_is_shown_with_why_there_is_no_newer() {
        let mut model = watching(&full());
        model.trouble("no worker answers");
        let lines = screen(&model, 80, 24);
        assert!(lines[1].starts_with("no worker answers"), "{lines:?}");
        assert_shows(&lines, &["50,900 of about 200,000"]);
    }

    #[test]
    fn a_pause_is_explained_and_its_key_resumes() {
        let p = Progress {
            phase: Phase::Paused,
            explanation: String::new(),
            pause_reason: Some("lunch".to_owned()),
            pause: Some(PauseNote {
                who: Some("ann@db1".to_owned()),
                why: Some("lunch".to_owned()),
                at: at(0),
                until: None,
            }),
            ..full()
        };
        let lines = screen(&watching(&p), 100, 30);
        assert_shows(&lines, &["paused: lunch", "by ann@db1", "p resume"]);
    }

    #[test]
    fn what_is_asked_for_and_what_came_of_it_are_in_the_footer() {
        let mut model = watching(&full());
        let key = event::KeyEvent::from(event::KeyCode::Char('+'));
        model.press(key, moment(9));
        let request = model.next_request().unwrap();
        assert_shows(
            &screen(&model, 60, 15)[14..],
            &["setting max parallelism to 33 ..."],
        );
        model.answered(request, Err("no worker answered".to_owned()), moment(9));
        let told = ["max parallelism 33: no worker answered"];
        assert_shows(&screen(&model, 60, 15)[14..], &told);
    }

    #[test]
    fn a_log_line_is_shown_without_its_colours() {
        let mut model = watching(&full());
        let line = "\u{1b}[33m WARN\u{1b}[0m \u{1b}[2mpool\u{1b}[0m: slow".to_owned();
        model.warn(Some(line), moment(9));
        assert!(screen(&model, 80, 24)[22].starts_with(" WARN pool: slow"));
    }

    #[test]
    fn the_help_names_every_key() {
        let mut model = watching(&full());
        model.help = true;
        let lines = screen(&model, 80, 24);
        assert_shows(
            &lines,
            &["keys", "pause, or resume", "twice as many", "Ctrl-C"],
        );
    }

    #[test]
    fn a_text_that_does_not_fit_is_cut_by_columns() {
        assert_eq!(fit("short", 5), "short");
        assert_eq!(fit("longer", 5), "long…");
        assert_eq!(fit("日本語", 5), "日本…");
    }

    proptest! {
        #[test]
        fn lines_never_exceed_the_screen(
            height in 0_u16..100, because in 0_u16..9, facts in 0_u16..20, failing in 0_u16..30,
            audit in 0_u16..7, warning: bool
        ) {
            let wanted = Wanted { because, facts, failing, audit, warning };
            let l = Lines::of(height, wanted);
            let used = l.header + l.because + l.gauge + l.pace + l.sparkline + l.facts + l.failing
                + l.audit + l.warning + l.footer + GAPS * l.gap;
            prop_assert!(used <= height, "{l:?}");
            prop_assert!(height < 4 || (l.header, l.gauge, l.footer) == (1, 1, 1));
        }

        #[test]
        fn no_size_and_no_text_panics(
            width in 0_u16..130, height in 0_u16..50, help: bool, known: bool, text in ".{0,300}"
        ) {
            let mut p = full();
            p.explanation.clone_from(&text);
            p.processor.clone_from(&text);
            p.failing[0].message = text.clone();
            p.audit[19].action = text.clone();
            p.ramp = Some(text.clone());
            let mut model = if known { watching(&p) } else { Model::new(&text, false) };
            model.help = help;
            model.warn(Some(text), moment(9));
            screen(&model, width, height);
        }
    }
}
