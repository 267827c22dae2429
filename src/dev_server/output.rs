//! The output of the server, of which a bounded part is kept.

use std::collections::VecDeque;

/// The number of lines that are kept for error messages.
const RECENT_LINES: usize = 12;
/// The number of lines with errors that are kept. They are kept separately, because the stack trace of a panic would
/// push them out.
const ERROR_LINES: usize = 4;
/// The number of characters after which a line is cut.
const LINE_LENGTH: usize = 400;

/// The part of the server's output that is kept.
#[derive(Debug)]
pub(super) struct Output {
    /// The end of the line with which the server announces itself.
    announcement: String,
    announced: bool,
    address_in_use: bool,
    errors: Vec<String>,
    recent: VecDeque<String>,
}

impl Output {
    pub(super) fn of_server_on(port: u16) -> Self {
        Self {
            announcement: format!(":{port}"),
            announced: false,
            address_in_use: false,
            errors: Vec::new(),
            recent: VecDeque::new(),
        }
    }

    pub(super) fn record(&mut self, line: &str) {
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        self.announced |= line.contains("Server:") && line.ends_with(&self.announcement);
        self.address_in_use |= line.contains("address already in use");
        let kept: String = line.chars().take(LINE_LENGTH).collect();
        if names_an_error(line) {
            if self.errors.len() < ERROR_LINES {
                self.errors.push(kept);
            }
            return;
        }
        if self.recent.len() == RECENT_LINES {
            self.recent.pop_front();
        }
        self.recent.push_back(kept);
    }

    /// Returns whether the server has announced itself. Before that, an answer on its port may come from another
    /// server.
    pub(super) fn announced(&self) -> bool {
        self.announced
    }

    /// Returns whether another process has taken one of the server's ports.
    pub(super) fn address_in_use(&self) -> bool {
        self.address_in_use
    }

    /// Returns the lines that name an error, or else the last lines.
    pub(super) fn excerpt(&self) -> String {
        if self.errors.is_empty() {
            Vec::from(self.recent.clone()).join("\n")
        } else {
            self.errors.join("\n")
        }
    }
}

fn names_an_error(line: &str) -> bool {
    line.starts_with("Error:") || line.starts_with("panic:") || line.contains("level=ERROR")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_only_the_last_lines() {
        let mut output = Output::of_server_on(7233);
        for number in 0..1000 {
            output.record(&format!("line {number}\n"));
        }
        let excerpt = output.excerpt();
        assert_eq!(excerpt.lines().count(), RECENT_LINES);
        assert!(excerpt.ends_with("line 999"));
    }

    #[test]
    fn an_error_is_not_pushed_out_by_a_stack_trace() {
        let mut output = Output::of_server_on(7233);
        output.record(
            "time=x level=ERROR msg=\"Failed to start\" error=\"bind: address already in use\"",
        );
        output.record("panic: nil pointer");
        for number in 0..1000 {
            output.record(&format!("\t/some/file.go:{number}"));
        }
        assert!(output.address_in_use());
        let excerpt = output.excerpt();
        assert_eq!(excerpt.lines().count(), 2);
        assert!(excerpt.starts_with("time=x level=ERROR"));
    }

    #[test]
    fn only_its_own_port_announces_the_server() {
        let mut output = Output::of_server_on(7233);
        output.record("Temporal Metrics:     http://localhost:7233/metrics");
        output.record("Temporal Server:      localhost:17233");
        assert!(!output.announced());
        output.record("Temporal Server:      localhost:7233\n");
        assert!(output.announced());
    }

    #[test]
    fn long_lines_are_cut() {
        let mut output = Output::of_server_on(7233);
        output.record(&"ä".repeat(10_000));
        assert_eq!(output.excerpt().chars().count(), LINE_LENGTH);
    }
}
