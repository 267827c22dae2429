//! A value in an answer, as it is written.

use serde_json::value::RawValue;

use crate::cell::json_object;

/// Returns the JSON at a path such as `user.tags.0`. `None` if there is no such value. An empty path is the whole.
pub(crate) fn at_path<'j>(json: &'j str, path: &str) -> Option<&'j str> {
    let steps = path.split('.').filter(|step| !step.is_empty());
    steps.map(str::to_owned).try_fold(json.trim_ascii(), step)
}

/// Returns the JSON at a JSON Pointer.
pub(crate) fn at_pointer<'j>(json: &'j str, pointer: &str) -> Option<&'j str> {
    let steps = pointer.split('/').skip(1);
    steps
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
        .try_fold(json.trim_ascii(), step)
}

fn step(json: &str, step: String) -> Option<&str> {
    if json.starts_with('[') {
        let at: usize = step.parse().ok()?;
        let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
        return items.get(at).map(|item| item.get());
    }
    let fields = json_object::fields(json).ok()?;
    let found = fields.into_iter().find(|(name, _)| *name == step);
    found.map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_as_it_is_written() {
        let json = r#" {"a": {"b": [1, {"c": 1.50}]}, "x/y": null} "#;
        assert_eq!(at_path(json, "a.b.1.c"), Some("1.50"));
        assert_eq!(at_path(json, ""), Some(json.trim()));
        assert_eq!(at_path(json, "a.b.2"), None);
        assert_eq!(at_path(json, "a.b.c"), None);
        assert_eq!(at_path("5", "a"), None);
        assert_eq!(at_pointer(json, "/a/b/0"), Some("1"));
        assert_eq!(at_pointer(json, "/x~1y"), Some("null"));
        assert_eq!(at_pointer(json, ""), Some(json.trim()));
    }
}
