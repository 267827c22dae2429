//! The fields of a JSON object as they are written, so that numbers keep every digit.

use serde::de::{DeserializeOwned, IgnoredAny};

/// A field: its name, and the text of its value.
pub(crate) type Field<'a> = (String, &'a str);

/// The reason why a line is not an object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoObject {
    /// Text that is not JSON.
    Invalid,
    /// JSON of another type.
    Other,
    /// A field occurs twice.
    Twice(String),
}

/// Splits an object into its fields.
pub(crate) fn fields(line: &str) -> Result<Vec<Field<'_>>, NoObject> {
    let mut rest = Rest(line.trim_ascii());
    if !rest.takes('{') {
        let (_, end) = rest.value::<IgnoredAny>()?;
        return Err(match rest.0[end..].trim_ascii().is_empty() {
            true => NoObject::Other,
            false => NoObject::Invalid,
        });
    }
    let mut fields: Vec<Field<'_>> = Vec::new();
    if !rest.takes('}') {
        loop {
            let (name, end) = rest.value::<String>()?;
            rest.advance(end);
            rest.needs(':')?;
            let (IgnoredAny, end) = rest.value()?;
            let text = &rest.0[..end];
            rest.advance(end);
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(NoObject::Twice(name));
            }
            fields.push((name, text));
            if rest.takes('}') {
                break;
            }
            rest.needs(',')?;
        }
    }
    match rest.0.is_empty() {
        true => Ok(fields),
        false => Err(NoObject::Invalid),
    }
}

/// The rest of a line; never begins with white space.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Returns the next value, and its end.
    fn value<T: DeserializeOwned>(&self) -> Result<(T, usize), NoObject> {
        let mut values = serde_json::Deserializer::from_str(self.0).into_iter();
        match values.next() {
            Some(Ok(value)) => Ok((value, values.byte_offset())),
            _ => Err(NoObject::Invalid),
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.0 = self.0[bytes..].trim_ascii_start();
    }

    fn takes(&mut self, mark: char) -> bool {
        let found = self.0.starts_with(mark);
        if found {
            self.advance(mark.len_utf8());
        }
        found
    }

    fn needs(&mut self, mark: char) -> Result<(), NoObject> {
        match self.takes(mark) {
            true => Ok(()),
            false => Err(NoObject::Invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    #[test]
    fn values_are_left_as_they_are_written() {
        let line = r#" { "a" : 1.10, "b":12345678901234567890123456789 ,"c": {"x": [1, "}"]}, "\u0064": "\"," } "#;
        let found = fields(line).unwrap();
        let expected = [
            ("a", "1.10"),
            ("b", "12345678901234567890123456789"),
            ("c", r#"{"x": [1, "}"]}"#),
            ("d", r#""\",""#),
        ];
        let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        assert_eq!(found, expected);
        assert_eq!(fields("{}").unwrap(), []);
    }

    #[test]
    fn other_lines_are_told_apart() {
        for other in ["1", "[]", "null", "\"{}\""] {
            assert_eq!(fields(other), Err(NoObject::Other), "{other}");
        }
        for invalid in [
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1} x",
            "{a:1}",
            "1 2",
            "",
            "{\"a\":1 \"b\":2}",
            "{\"a\":tru}",
        ] {
            assert_eq!(fields(invalid), Err(NoObject::Invalid), "{invalid}");
        }
        let twice = NoObject::Twice("a".to_owned());
        assert_eq!(fields("{\"a\":1,\"a\":2}"), Err(twice));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "\\PC{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                btree_map("\\PC{0,3}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_parts_of_an_object_are_its_fields(object in btree_map("\\PC{0,4}", json(), 0..6)) {
            let object: serde_json::Map<_, _> = object.into_iter().collect();
            for line in [
                serde_json::to_string(&object).unwrap(),
                serde_json::to_string_pretty(&object).unwrap(),
            ] {
                let found = fields(&line).unwrap();
                let found: serde_json::Map<_, _> = found
                    .into_iter()
                    .map(|(name, text)| (name, serde_json::from_str(text).unwrap()))
                    .collect();
                prop_assert_eq!(&found, &object);
            }
        }
    }
}
