//! The keys: the line at the bottom, and the help.

use ratatui::{
    Frame,
    layout::{Constraint, Flex, Layout, Rect},
    style::Color,
    text::Line,
    widgets::{Block, Clear, Paragraph},
};

use super::{draw::Painter, line_fitting::fit};

const KEYS: [(&str, &str); 7] = [
    ("p", "pause, or resume"),
    ("+ -", "one page in flight more, or fewer"),
    ("> <", "twice as many, or half"),
    ("?", "this help"),
    ("q", "leave; the batch continues"),
    ("Esc", "the same"),
    ("Ctrl-C", "the same"),
];

impl Painter<'_> {
    pub(super) fn footer(&self, width: u16) -> Line<'static> {
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
                "p {pause}   + - parallelism   > < twice, half   ? help   q leave, the batch continues"
            ),
            format!("p {pause}   + - > < parallelism   ? help   q leave"),
            format!("p {pause}  ? help  q leave"),
            "p ? q".to_owned(),
        ];
        let fits = texts.iter().find(|text| text.len() <= width);
        Line::styled(fits.unwrap_or(&texts[3]).clone(), self.quiet())
    }

    pub(super) fn help(&self, frame: &mut Frame<'_>, area: Rect) {
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
