//! Fields of stored values that are left out where they say nothing.

/// Whether a field says nothing. Fields that have `#[serde(default)]` name it in `skip_serializing_if`.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
