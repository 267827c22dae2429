//! Lines that fit into the columns of a screen.

use ratatui::text::{Line, Span};

/// Wraps a line of one style at `columns`. The wrapping of ratatui's `Paragraph` panics if a wide character does not fit into
/// the rest of a line.
pub(super) fn wrapped(line: &Line<'_>, columns: u16) -> Vec<Line<'static>> {
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

/// Cuts a text at `columns`, with an ellipsis if anything is cut off.
pub(super) fn fit(text: &str, columns: usize) -> String {
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

/// Removes the escape sequences that colour a line.
pub(super) fn without_escapes(line: &str) -> String {
    let mut text = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // The sequence ends with its first letter.
            chars.by_ref().skip(1).find(char::is_ascii_alphabetic);
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_text_that_does_not_fit_is_cut_by_columns() {
        assert_eq!(fit("short", 5), "short");
        assert_eq!(fit("longer", 5), "long…");
        assert_eq!(fit("日本語", 5), "日本…");
    }
}
