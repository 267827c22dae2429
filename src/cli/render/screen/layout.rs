//! The height of each part of the screen.

/// The height below which a frame has only its five most important lines.
const ROOMY: u16 = 10;
/// The number of gaps between parts, if there is room for all of them.
const GAPS: u16 = 4;
/// The number of lines by which the sparkline grows if there is room.
const MORE_SPARKLINE: u16 = 4;

/// The lines that each part gets, from top to bottom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) header: u16,
    pub(super) because: u16,
    pub(super) gauge: u16,
    pub(super) pace: u16,
    pub(super) sparkline: u16,
    pub(super) facts: u16,
    pub(super) failing: u16,
    pub(super) audit: u16,
    pub(super) warning: u16,
    pub(super) footer: u16,
    /// The gap between the parts from `pace` on.
    pub(super) gap: u16,
}

/// The lines that each part could fill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) because: u16,
    pub(super) facts: u16,
    pub(super) failing: u16,
    pub(super) audit: u16,
    pub(super) warning: bool,
}

impl Lines {
    pub(super) fn of(height: u16, wanted: Wanted) -> Self {
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
        // A title with two lines below it is the least that is useful.
        let low = take(if height < 20 { 3 } else { 4 });
        lines.sparkline = low;
        // A title and two rows come before the facts.
        lines.failing = take(wanted.failing.min(3));
        lines.facts = take(wanted.facts);
        lines.failing += take(wanted.failing - lines.failing);
        lines.audit = take(wanted.audit);
        // A title alone is useless.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    }
}
