//! Fields that are omitted from stored values while they have their default.

/// Returns whether a field has its default value. Fields with `#[serde(default)]` name this function in
/// `skip_serializing_if`.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
