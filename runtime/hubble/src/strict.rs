//! Reads requests, and refuses those that say more than this version understands.
//!
//! A reader of Protocol Buffers skips fields that it does not know. For a filter that would mean to
//! find what the client has left out, so requests for flows are looked through before. Not here:
//! filters that are known and not supported ([`crate::filter`]).

use std::marker::PhantomData;

use prost::{
    DecodeError, Message,
    bytes::Buf as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::api::{health, observer, peer};

/// A message that clients send.
pub trait Request: Message + Default {
    /// Looks through the message as it was sent, where leaving a part of it out would matter.
    ///
    /// # Errors
    /// It cannot be read, or has a field that this version does not know.
    fn inspect(_bytes: &[u8]) -> Result<(), Status> {
        Ok(())
    }
}

impl Request for observer::GetFlowsRequest {
    fn inspect(bytes: &[u8]) -> Result<(), Status> {
        inspect(bytes, &REQUEST)
    }
}
impl Request for observer::GetAgentEventsRequest {}
impl Request for observer::GetDebugEventsRequest {}
impl Request for observer::GetNodesRequest {}
impl Request for observer::GetNamespacesRequest {}
impl Request for observer::ServerStatusRequest {}
impl Request for peer::NotifyRequest {}
impl Request for health::HealthCheckRequest {}

/// The fields of a message, by their numbers.
struct Known {
    message: &'static str,
    fields: fn(u32) -> bool,
    /// Those that are messages with fields of their own.
    within: &'static [(u32, &'static Known)],
}

/// The filters of a request for flows are 5 and 6.
static REQUEST: Known = Known {
    message: "request",
    fields: |number| matches!(number, 1 | 3 | 5..=10 | 999),
    within: &[(5, &FILTER), (6, &FILTER), (999, &EXPERIMENTAL)],
};
static FILTER: Known = Known {
    message: "filter",
    fields: |number| matches!(number, 1..=40 | 999),
    within: &[(999, &EXPERIMENTAL)],
};
static EXPERIMENTAL: Known =
    Known { message: "experimental part", fields: |number| number == 1, within: &[] };

fn inspect(mut bytes: &[u8], known: &Known) -> Result<(), Status> {
    let unreadable =
        |error: DecodeError| Status::internal(format!("the request cannot be read: {error}"));
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes).map_err(unreadable)?;
        if !(known.fields)(number) {
            return Err(Status::invalid_argument(format!(
                "the {} has field {number}, which this version of netpolc does not know; omit it, \
                or use a client as old as Cilium 1.19",
                known.message
            )));
        }
        let inner = known.within.iter().find(|(field, _)| *field == number);
        if let (Some((_, inner)), WireType::LengthDelimited) = (inner, wire) {
            let length = decode_varint(&mut bytes).map_err(unreadable)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len());
            let length = length.ok_or_else(|| Status::internal("the request is cut off"))?;
            let (message, rest) = bytes.split_at(length);
            inspect(message, inner)?;
            bytes = rest;
        } else {
            skip_field(wire, number, &mut bytes, DecodeContext::default()).map_err(unreadable)?;
        }
    }
    Ok(())
}

/// The codec of all services: answers are written as usual, and requests read with
/// [`Request::inspect`].
#[derive(Clone, Debug)]
pub struct Strict<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Strict<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Strict<T, U>
where
    T: Message + Send + 'static,
    U: Request + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = StrictDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        StrictDecoder(PhantomData)
    }
}

/// The reading side of [`Strict`].
#[derive(Clone, Debug)]
pub struct StrictDecoder<U>(PhantomData<U>);

impl<U: Request> Decoder for StrictDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = source.copy_to_bytes(source.remaining());
        U::inspect(&bytes)?;
        let read = U::decode(bytes);
        read.map(Some)
            .map_err(|error| Status::internal(format!("the request cannot be read: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use prost::encoding::{encode_key, encode_varint};

    use super::*;
    use crate::api::flow::FlowFilter;

    fn field(number: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_key(number, WireType::LengthDelimited, &mut bytes);
        encode_varint(content.len() as u64, &mut bytes);
        bytes.extend_from_slice(content);
        bytes
    }

    #[test]
    fn what_is_not_known_is_refused_wherever_it_stands() {
        let filter = FlowFilter { source_pod: vec!["shop/".into()], ..FlowFilter::default() };
        let request = observer::GetFlowsRequest {
            number: 20,
            follow: true,
            whitelist: vec![filter.clone()],
            since: Some(prost_types::Timestamp { seconds: 1, nanos: 2 }),
            experimental: Some(observer::get_flows_request::Experimental::default()),
            ..observer::GetFlowsRequest::default()
        };
        let known = request.encode_to_vec();
        observer::GetFlowsRequest::inspect(&known).unwrap();
        let unknown_filter = [filter.encode_to_vec(), field(41, b"x")].concat();
        for (more, why) in [
            (field(11, b"x"), "the request has field 11"),
            (field(150_000, b"x"), "the request has field 150000"),
            (field(6, &unknown_filter), "the filter has field 41"),
            (field(5, &unknown_filter), "the filter has field 41"),
            (field(6, &field(999, &field(2, b"x"))), "the experimental part has field 2"),
        ] {
            let refused = observer::GetFlowsRequest::inspect(&[&known[..], &more].concat());
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(why), "{refused}");
        }
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = field(6, &field(2, b"shop/web"));
        for length in 1..whole.len() {
            assert!(observer::GetFlowsRequest::inspect(&whole[..length]).is_err(), "{length}");
        }
        let mut far = Vec::new();
        encode_key(6, WireType::LengthDelimited, &mut far);
        encode_varint(u64::MAX, &mut far);
        assert!(observer::GetFlowsRequest::inspect(&far).is_err());
    }
}
