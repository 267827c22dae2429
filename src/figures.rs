//! Figures as people write them.

/// `1234567` as `1,234,567`.
pub(crate) fn number(n: u64) -> String {
    grouped(&n.to_string())
}

/// `1 page`, `2 pages`.
pub(crate) fn count(n: u64, one: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {one}{s}", number(n))
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
