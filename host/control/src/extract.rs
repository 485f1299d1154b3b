//! Bodies and queries, parsed at the edge with errors that name the place.
//!
//! Must never buffer more than `CONTROL_BODY_BYTES_MAX`, or wait longer than `BODY_IDLE_MS_MAX` for the next byte.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::{Bytes, BytesMut};
use http::header;
use http::request::Parts;
use http_body_util::BodyExt;
use ringfence_core::limits;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Control;
use crate::plain::json_words;
use crate::problem::ApiError;

/// A JSON body. An empty one reads as `{}`, so that `POST` without a body works where nothing is needed.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Control> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _control: &Control) -> Result<Self, ApiError> {
        json_body(request, limits::CONTROL_BODY_BYTES_MAX).await.map(Self)
    }
}

async fn json_body<T: DeserializeOwned>(request: Request, bytes_max: usize) -> Result<T, ApiError> {
    let kind =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence != "application/json" {
        return Err(ApiError::new("unsupported-media-type", format!("send `application/json`, not `{essence}`")));
    }
    let bytes = read_body(request, bytes_max).await?;
    parsed(&bytes)
}

/// A JSON body that was read whole.
pub(crate) fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(text).map_err(|error| {
        ApiError::new("bad-json", format!("the body is not what this endpoint takes: {}", json_words(&error)))
    })
}

/// A JSON body with a policy text in it, which may be longer than others.
pub struct PolicyBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Control> for PolicyBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _control: &Control) -> Result<Self, ApiError> {
        json_body(request, limits::POLICY_BODY_BYTES_MAX).await.map(Self)
    }
}

/// A raw body, at most `CONTROL_BODY_BYTES_MAX`.
pub struct RawBody(pub Bytes);

impl FromRequest<Control> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _control: &Control) -> Result<Self, ApiError> {
        read_body(request, limits::CONTROL_BODY_BYTES_MAX).await.map(Self)
    }
}

/// The whole of a body.
pub(crate) async fn read_body(request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut body = request.into_body();
    let mut bytes = BytesMut::new();
    loop {
        let next = tokio::time::timeout(Duration::from_millis(limits::BODY_IDLE_MS_MAX), body.frame()).await;
        match next {
            Err(_) => return Err(ApiError::new("body-timeout", "the body stopped arriving")),
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(Err(error))) => return Err(ApiError::new("bad-request", format!("the body broke off: {error}"))),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    if bytes.len() + data.len() > bytes_max {
                        return Err(ApiError::new("body-too-large", format!("the body is over {bytes_max} bytes")));
                    }
                    bytes.extend_from_slice(&data);
                }
            }
        }
    }
}

/// A query string.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Control> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _control: &Control) -> Result<Self, ApiError> {
        Query::<T>::try_from_uri(&parts.uri).map(|Query(asked)| Self(asked)).map_err(|error| {
            ApiError::new("bad-request", format!("the query is not what this endpoint takes: {}", error.body_text()))
        })
    }
}

/// `cursor` and `limit` of every list.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// Where the last page ended.
    pub cursor: Option<String>,
    /// Most items to answer; 100 when absent, 1000 at most.
    pub limit: Option<usize>,
}

impl Paging {
    /// The limit, within bounds.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(100).clamp(1, limits::PAGE_COUNT_MAX)
    }

    /// The cursor as a position.
    pub fn position(&self) -> Result<Option<u64>, ApiError> {
        self.cursor
            .as_deref()
            .map(|cursor| cursor.parse().map_err(|_| ApiError::new("bad-cursor", "the cursor is not one of ours")))
            .transpose()
    }
}
