//! The header `Link` of a page. Pure.

/// Returns the target of the link to the next page.
pub(super) fn next(header: &str) -> Option<String> {
    let mut rest = header;
    while let Some(start) = rest.find('<') {
        let (target, after) = rest[start + 1..].split_once('>')?;
        let (parameters, others) = parameters(after);
        let is_next = parameters.iter().any(|(name, value)| {
            let mut kinds = value.split_ascii_whitespace();
            name.eq_ignore_ascii_case("rel") && kinds.any(|kind| kind.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target.trim().to_owned());
        }
        rest = others;
    }
    None
}

/// Reads the parameters of a link, and returns the rest after the comma that ends it.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let (mut all, mut name, mut value) = (Vec::new(), String::new(), String::new());
    let (mut quoted, mut escaped, mut in_value) = (false, false, false);
    let mut end = text.len();
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => {
                escaped = false;
                value.push(c);
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                end = at + 1;
                break;
            }
            ';' if !quoted => {
                all.push((std::mem::take(&mut name), std::mem::take(&mut value)));
                in_value = false;
            }
            '=' if !quoted && !in_value => in_value = true,
            _ if in_value => value.push(c),
            _ => name.push(c),
        }
    }
    all.push((name, value));
    let all = all
        .into_iter()
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    (all.collect(), &text[end..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_link_is_found_among_others() {
        let next = |header| next(header);
        let found = Some("/items?page=2,3".to_owned());
        for header in [
            r#"</items?page=2,3>; rel="next""#,
            r#"</items?page=9>; rel="last", </items?page=2,3>; rel="next""#,
            r#"</a>; title="x, rel=next; <b>"; rel=prev, </items?page=2,3>;rel=NEXT"#,
            r#"</items?page=2,3>; title="a\"b"; rel="start next""#,
        ] {
            assert_eq!(next(header), found, "{header}");
        }
        for header in [
            "",
            "</a>",
            r#"</a>; rel="nextpage""#,
            "</a; rel=next",
            "rel=next",
        ] {
            assert_eq!(next(header), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_fail(header in r#"[<>;,="\\a-z ]{0,40}"#) {
            next(&header);
        }
    }
}
