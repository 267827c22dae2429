//! Fields of stored values that are left out where they say nothing.

/// For `skip_serializing_if`, beside `#[serde(default)]`.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
