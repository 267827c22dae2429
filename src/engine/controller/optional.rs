//! An argument that may be left out.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use temporalio_common::{
    data_converters::{
        GenericPayloadConverter as _, PayloadConversionError, SerializationContext,
        TemporalDeserializable, TemporalSerializable,
    },
    protos::temporal::api::common::v1::Payload,
};

/// An argument that may be left out, as it was before it existed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Optional<T>(pub T);

impl<T: serde::Serialize + 'static> TemporalSerializable for Optional<T> {
    fn to_payload(
        &self,
        ctx: &SerializationContext<'_>,
    ) -> Result<Payload, PayloadConversionError> {
        ctx.converter.to_payload(ctx, &self.0)
    }
}

impl<T: serde::de::DeserializeOwned + Default + 'static> TemporalDeserializable for Optional<T> {
    fn from_payloads(
        ctx: &SerializationContext<'_>,
        payloads: Vec<Payload>,
    ) -> Result<Self, PayloadConversionError> {
        match payloads.into_iter().next() {
            Some(payload) => Ok(Self(ctx.converter.from_payload(ctx, payload)?)),
            None => Ok(Self::default()),
        }
    }
}
